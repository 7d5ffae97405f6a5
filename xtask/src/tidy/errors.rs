//! What a function's `# Errors` leaves out; a public function that can fail has that section.
//!
//! Which variants of a crate's `Error` a function can return is read from its body: those that it makes, and
//! those of the functions that it calls and whose result it does not look at. Functions are told apart by
//! name alone, so two of one name count as one; `# Errors` may then say more than is true, never less.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use quote::ToTokens;
use syn::visit::{self, Visit};

use super::finding::Finding;
use super::place::Place;

/// The crates whose errors are read.
const CRATES: [&str; 1] = ["crates/anonmem/src"];
/// What becomes an `Error` by `?`, and which variant it becomes.
const CONVERTED: (&str, &str) = ("OutOfMemory", "OutOfMemory");

type Variants = BTreeSet<String>;

/// One function that can fail.
#[derive(Debug)]
struct Function {
    path: PathBuf,
    line: usize,
    name: String,
    /// With the type that it belongs to: `Type::name`.
    qualified: Option<String>,
    is_public: bool,
    /// The text below `# Errors`.
    documented: Option<String>,
    /// What it makes itself.
    makes: Variants,
    /// The functions whose errors it hands on, each with the variants that it replaces.
    calls: Vec<(String, Replaced)>,
}

/// The variants that `map_err` takes away.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Replaced {
    All,
    These(Variants),
}

/// Checks the crates in `files`.
pub(crate) fn check<'a>(files: impl Iterator<Item = (&'a Path, &'a str)>) -> Vec<Finding> {
    let mut read = Reader::default();
    for (path, text) in files {
        if CRATES.iter().any(|folder| path.starts_with(folder))
            && !Place::of(path).is_test
            && let Ok(file) = syn::parse_file(text)
        {
            read.path = path.to_path_buf();
            read.visit_file(&file);
        }
    }
    let errors = read.errors();
    let told = read.functions.iter().filter(|function| function.is_public || function.documented.is_some());
    told.filter_map(|function| read.report(function, &errors[&function.name])).collect()
}

#[derive(Default)]
struct Reader {
    path: PathBuf,
    /// The type whose `impl` is being read.
    of: Option<String>,
    functions: Vec<Function>,
    /// Functions that cannot fail, by file: a call there means these.
    harmless: BTreeSet<(PathBuf, String)>,
    /// Names of `Error`'s constants, and their variants.
    constants: BTreeMap<String, String>,
}

impl Reader {
    /// What each function can return, by name: grown until nothing is new.
    fn errors(&self) -> BTreeMap<String, Variants> {
        let mut errors: BTreeMap<String, Variants> = BTreeMap::new();
        loop {
            let mut grew = false;
            for function in &self.functions {
                let mut all: Variants = function.makes.iter().map(|name| self.variant(name)).collect();
                for (called, replaced) in &function.calls {
                    // A method of `self` is that of its own type, if there is one.
                    let (own, name) = called.split_once('|').unwrap_or((called, called));
                    if self.harmless.contains(&(function.path.clone(), name.to_string())) {
                        continue;
                    }
                    let theirs = errors.get(own).or_else(|| errors.get(name)).into_iter().flatten();
                    all.extend(theirs.filter(|variant| !replaced.has(variant)).cloned());
                }
                for name in [Some(&function.name), function.qualified.as_ref()].into_iter().flatten() {
                    let known = errors.entry(name.clone()).or_default();
                    let before = known.len();
                    known.extend(all.iter().cloned());
                    grew |= known.len() > before;
                }
            }
            if !grew {
                return errors;
            }
        }
    }

    /// The variant that a constant of `Error` is one of.
    fn variant(&self, name: &str) -> String {
        self.constants.get(name).map_or(name, String::as_str).to_string()
    }

    fn report(&self, function: &Function, errors: &Variants) -> Option<Finding> {
        let text = function.documented.as_deref().unwrap_or_default();
        let missing: Vec<_> = errors.iter().filter(|variant| !self.says(text, variant, 0)).cloned().collect();
        if missing.is_empty() {
            return None;
        }
        let message = format!("{} can return {}: name it below # Errors", function.name, missing.join(", "));
        Some(Finding { path: function.path.clone(), line: function.line, rule: "errors", message })
    }

    /// Whether a text names a variant, or a function whose `# Errors` does.
    fn says(&self, text: &str, variant: &str, depth: u32) -> bool {
        let names: Vec<&str> = text.split('`').skip(1).step_by(2).collect();
        if names.iter().any(|name| name.rsplit("::").next() == Some(variant)) {
            return true;
        }
        let functions = names.iter().filter_map(|name| name.rsplit("::").next());
        depth < 4
            && functions.flat_map(|name| self.functions.iter().filter(move |f| f.name == name)).any(
                |function| {
                    function.documented.as_deref().is_some_and(|text| self.says(text, variant, depth + 1))
                },
            )
    }

    fn function(
        &mut self,
        attrs: &[syn::Attribute],
        is_public: bool,
        sig: &syn::Signature,
        body: &syn::Block,
    ) {
        let kind = match &sig.output {
            syn::ReturnType::Type(_, kind) => kind.to_token_stream().to_string().replace(' ', ""),
            syn::ReturnType::Default => return,
        };
        let name = sig.ident.to_string();
        let mut function = Function {
            path: self.path.clone(),
            line: sig.ident.span().start().line,
            qualified: self.of.as_ref().map(|of| format!("{of}::{name}")),
            name,
            is_public,
            documented: errors_section(attrs),
            makes: Variants::new(),
            calls: Vec::new(),
        };
        if kind.ends_with(&format!(",{}>", CONVERTED.0)) {
            // `?` makes an `Error` of it.
            function.makes.insert(CONVERTED.1.to_string());
            (function.is_public, function.documented) = (false, None);
        } else if kind.ends_with(",Error>") || kind == "Error" || kind == "Option<Error>" {
            let mut found = Body { of: self.of.clone(), ..Body::default() };
            found.visit_block(body);
            function.makes = found.makes;
            function.calls = found.calls;
        } else {
            self.harmless.insert((function.path, function.name));
            return;
        }
        self.functions.push(function);
    }
}

impl Replaced {
    fn has(&self, variant: &str) -> bool {
        match self {
            Self::All => true,
            Self::These(these) => these.contains(variant),
        }
    }
}

impl<'ast> Visit<'ast> for Reader {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if !is_for_tests(&item.attrs) {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        self.of = match &*item.self_ty {
            syn::Type::Path(path) => path.path.segments.last().map(|last| last.ident.to_string()),
            _ => None,
        };
        visit::visit_item_impl(self, item);
        self.of = None;
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        let is_public = matches!(item.vis, syn::Visibility::Public(_));
        self.function(&item.attrs, is_public, &item.sig, &item.block);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        if !is_for_tests(&item.attrs) {
            let is_public = matches!(item.vis, syn::Visibility::Public(_));
            self.function(&item.attrs, is_public, &item.sig, &item.block);
        }
    }

    fn visit_impl_item_const(&mut self, item: &'ast syn::ImplItemConst) {
        let value = item.expr.to_token_stream().to_string().replace(' ', "");
        let variant = value.strip_prefix("Self::").and_then(|rest| rest.split('(').next());
        if let Some(variant) = variant {
            self.constants.insert(item.ident.to_string(), variant.to_string());
        }
    }
}

/// What a body makes and calls.
#[derive(Default)]
struct Body {
    /// What `Self` is.
    of: Option<String>,
    makes: Variants,
    calls: Vec<(String, Replaced)>,
}

impl Body {
    /// The function that a path names: `Type::name` of a type, else its name.
    fn called(&self, path: &syn::Path) -> String {
        let segments: Vec<_> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        let name = segments.last().cloned().unwrap_or_default();
        match segments.iter().nth_back(1) {
            Some(of) if of == "Self" => self.of.as_ref().map_or(name.clone(), |of| format!("{of}::{name}")),
            Some(of) if of.starts_with(char::is_uppercase) => format!("{of}::{name}"),
            Some(_) | None => name,
        }
    }

    /// Reads a closure of `map_err`: what it takes away; what it makes is read as well.
    fn replaced(&mut self, closure: &syn::Expr) -> Replaced {
        let syn::Expr::Closure(closure) = closure else { return Replaced::These(Variants::new()) };
        self.visit_expr(&closure.body);
        match &*closure.body {
            syn::Expr::Match(body) => {
                let arms = body.arms.iter().map(|arm| arm.pat.to_token_stream().to_string().replace(' ', ""));
                let named: Variants = arms
                    .flat_map(|pattern| {
                        let paths: Vec<String> = pattern
                            .split('|')
                            .filter_map(|path| path.strip_prefix("Error::"))
                            .map(|path| path.split('(').next().unwrap_or(path).to_string())
                            .collect();
                        paths
                    })
                    .collect();
                Replaced::These(named)
            }
            _ => Replaced::All,
        }
    }

    /// Reads an expression whose own error goes no further; its parts' errors may.
    fn swallow(&mut self, expr: &syn::Expr) {
        match expr {
            syn::Expr::MethodCall(call) => {
                self.visit_expr(&call.receiver);
                call.args.iter().for_each(|arg| self.visit_expr(arg));
            }
            syn::Expr::Call(call) => call.args.iter().for_each(|arg| self.visit_expr(arg)),
            other => self.visit_expr(other),
        }
    }
}

/// Methods of a result that end its error.
const ENDS: [&str; 9] = [
    "is_ok",
    "is_err",
    "ok",
    "unwrap_or",
    "unwrap_or_else",
    "unwrap_or_default",
    "expect",
    "unwrap",
    "is_ok_and",
];

impl<'ast> Visit<'ast> for Body {
    fn visit_pat(&mut self, _: &'ast syn::Pat) {}

    fn visit_item(&mut self, _: &'ast syn::Item) {}

    /// A call that is a statement hands nothing on: it has no error, or the compiler warns that one is
    /// dropped.
    fn visit_stmt(&mut self, stmt: &'ast syn::Stmt) {
        match stmt {
            // This ends the error of what it is called on.
            syn::Stmt::Expr(syn::Expr::MethodCall(call), Some(_))
                if ENDS.contains(&&*call.method.to_string()) =>
            {
                self.visit_expr_method_call(call);
            }
            syn::Stmt::Expr(call @ (syn::Expr::Call(_) | syn::Expr::MethodCall(_)), Some(_)) => {
                self.swallow(call);
            }
            _ => visit::visit_stmt(self, stmt),
        }
    }

    fn visit_expr_path(&mut self, path: &'ast syn::ExprPath) {
        let segments: Vec<_> = path.path.segments.iter().map(|s| s.ident.to_string()).collect();
        if let [.., kind, variant] = &segments[..]
            && kind == "Error"
        {
            self.makes.insert(variant.clone());
        } else if segments.last().is_some_and(|last| last == CONVERTED.0) {
            self.makes.insert(CONVERTED.1.to_string());
        }
    }

    fn visit_expr_binary(&mut self, binary: &'ast syn::ExprBinary) {
        if !matches!(binary.op, syn::BinOp::Eq(_) | syn::BinOp::Ne(_)) {
            visit::visit_expr_binary(self, binary);
        }
    }

    fn visit_expr_let(&mut self, condition: &'ast syn::ExprLet) {
        self.swallow(&condition.expr);
    }

    fn visit_local(&mut self, local: &'ast syn::Local) {
        let is_dropped = matches!(local.pat, syn::Pat::Wild(_));
        match &local.init {
            Some(init) if is_dropped || init.diverge.is_some() => self.swallow(&init.expr),
            Some(init) => self.visit_expr(&init.expr),
            None => {}
        }
        if let Some((_, diverge)) = local.init.as_ref().and_then(|init| init.diverge.as_ref()) {
            self.visit_expr(diverge);
        }
    }

    fn visit_expr_call(&mut self, call: &'ast syn::ExprCall) {
        if let syn::Expr::Path(path) = &*call.func {
            self.calls.push((self.called(&path.path), Replaced::These(Variants::new())));
        }
        visit::visit_expr_call(self, call);
    }

    fn visit_expr_method_call(&mut self, call: &'ast syn::ExprMethodCall) {
        let name = call.method.to_string();
        if ENDS.contains(&name.as_str()) {
            self.swallow(&call.receiver);
            call.args.iter().for_each(|arg| self.visit_expr(arg));
            return;
        }
        if name == "map_err"
            && let Some(closure) = call.args.first()
        {
            let replaced = self.replaced(closure);
            let mut inside = Self { of: self.of.clone(), ..Self::default() };
            inside.visit_expr(&call.receiver);
            self.makes.extend(inside.makes.into_iter().filter(|variant| !replaced.has(variant)));
            self.calls
                .extend(inside.calls.into_iter().map(|(called, before)| (called, before.and(&replaced))));
            return;
        }
        let is_own = matches!(&*call.receiver, syn::Expr::Path(path) if path.path.is_ident("self"));
        let called = match &self.of {
            Some(of) if is_own => format!("{of}::{name}|{name}"),
            Some(_) | None => name,
        };
        self.calls.push((called, Replaced::These(Variants::new())));
        visit::visit_expr_method_call(self, call);
    }
}

impl Replaced {
    /// What is taken away by one of two.
    fn and(self, other: &Self) -> Self {
        match (self, other) {
            (Self::These(mut these), Self::These(more)) => {
                these.extend(more.iter().cloned());
                Self::These(these)
            }
            (Self::All, _) | (_, Self::All) => Self::All,
        }
    }
}

fn errors_section(attrs: &[syn::Attribute]) -> Option<String> {
    let lines: Vec<String> = attrs
        .iter()
        .filter_map(|attribute| match &attribute.meta {
            syn::Meta::NameValue(pair) if pair.path.is_ident("doc") => match &pair.value {
                syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(text), .. }) => Some(text.value()),
                _ => None,
            },
            _ => None,
        })
        .collect();
    let from = lines.iter().position(|line| line.trim() == "# Errors")?;
    let section = lines[from + 1..].iter().take_while(|line| !line.trim_start().starts_with("# "));
    Some(section.map(|line| line.as_str()).collect::<Vec<_>>().join(" "))
}

fn is_for_tests(attrs: &[syn::Attribute]) -> bool {
    attrs.iter().any(|attribute| attribute.meta.to_token_stream().to_string().replace(' ', "") == "cfg(test)")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said of a file of the memory manager.
    fn messages(text: &str) -> Vec<String> {
        let path = Path::new("crates/anonmem/src/x.rs");
        check([(path, text)].into_iter()).into_iter().map(|finding| finding.message).collect()
    }

    const CALLED: &str = "
        impl Error { const FULL: Self = Self::Limit(1); }
        fn below(n: u32) -> Result<(), Error> { if n > 1 { return Err(Error::FULL); } alloc()?; Ok(()) }
        fn alloc() -> Result<(), OutOfMemory> { Err(OutOfMemory) }
    ";

    fn of(docs: &str, body: &str) -> Vec<String> {
        let docs: String = docs.lines().map(|line| format!("/// {line}\n")).collect();
        messages(&format!("{CALLED}\n{docs}pub fn f() -> Result<(), Error> {{ {body} }}"))
    }

    #[test]
    fn what_is_called_counts_and_is_to_be_named() {
        let all = ["f can return Limit, OutOfMemory: name it below # Errors"];
        assert_eq!(of("Does it.", "below(2)"), all, "no section");
        assert_eq!(of("# Errors\n[`Error::OutOfMemory`].", "below(2)?; Ok(())").len(), 1);
        assert!(of("# Errors\n[`Error::OutOfMemory`] or [`Error::Limit`].", "below(2)").is_empty());
        assert_eq!(of("# Errors\n[`Error::Limit`].\n# Panics\n`OutOfMemory`", "self.below(2)").len(), 1);
    }

    #[test]
    fn what_goes_no_further_does_not_count() {
        for body in [
            "let _ = below(2); Ok(())",
            "if below(2).is_ok() { g() } Ok(())",
            "below(2); below(2).ok(); Ok(())",
        ] {
            assert!(of("Does it.", body).is_empty(), "{body}");
        }
        assert!(of("Does it.", "if e == Error::Again { g() } Ok(())").is_empty());
        let replaced = "below(2).map_err(|e| match e { Error::Limit(_) => Error::Again, e => e })";
        assert!(of("# Errors\n`Again`, `OutOfMemory`.", replaced).is_empty());
        assert_eq!(of("# Errors\n`OutOfMemory`.", replaced), ["f can return Again: name it below # Errors"]);
    }

    #[test]
    fn a_section_may_send_to_another() {
        let text = |other: &str| {
            format!(
                "{CALLED}\n/// # Errors\n/// {other}\npub fn other() -> Result<(), Error> {{ below(2) }}\n\
                 /// # Errors\n/// As [`other`](Self::other).\npub fn f() -> Result<(), Error> {{ below(1) }}"
            )
        };
        assert!(messages(&text("`OutOfMemory`, `Limit`.")).is_empty());
        assert_eq!(messages(&text("`OutOfMemory`.")).len(), 2);
    }
}

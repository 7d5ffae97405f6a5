//! Where a file can be broken, and how: the mutants of one source file.
//!
//! [`find`] parses a file and lists its mutants, each with the bytes that it replaces. What cannot be wrong
//! in a way that matters is left alone: tests, constants, patterns, types, assertions, `Debug` and `Display`,
//! events that are only counted, and functions that only check (`validate*`).

use std::ops::Range;

use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{BinOp, Expr, Lit, Stmt, UnOp};

use crate::mutant::{Form, Kind, Mutant};

/// Lists the mutants of `text`, numbered from `first_id`.
///
/// # Errors
/// The file is no Rust.
pub(crate) fn find(file: &str, text: &str, first_id: u32) -> Result<Vec<Mutant>, String> {
    let tree = syn::parse_file(text).map_err(|e| format!("{file}: {e}"))?;
    let mut finder = Finder {
        file,
        text,
        path: Vec::new(),
        found: Vec::new(),
        asked: Vec::new(),
        last: Vec::new(),
        next_id: first_id,
        in_body: false,
    };
    finder.visit_file(&tree);
    Ok(finder.found)
}

/// Methods whose closure argument says yes or no.
const PREDICATES: [&str; 12] = [
    "is_some_and",
    "is_none_or",
    "is_ok_and",
    "is_err_and",
    "filter",
    "any",
    "all",
    "find",
    "position",
    "skip_while",
    "take_while",
    "retain",
];

struct Finder<'a> {
    file: &'a str,
    text: &'a str,
    path: Vec<String>,
    found: Vec<Mutant>,
    /// Comparisons whose answers are forced already, as parts of a condition.
    asked: Vec<Range<usize>>,
    next_id: u32,
    /// Drops that are the last that a block does, but for counting: its end comes to the same.
    last: Vec<Range<usize>>,
    /// Inside a function that is executed: not `const`, not a test.
    in_body: bool,
}

impl Finder<'_> {
    fn source(&self, span: &Range<usize>) -> &str {
        &self.text[span.clone()]
    }

    fn add(&mut self, kind: Kind, span: Range<usize>, form: Form, mutated: &str) {
        if !self.in_body {
            return;
        }
        let original = shorten(self.source(&span));
        let function = self.path.join("::");
        let same = |m: &&Mutant| {
            (m.function.as_str(), m.original.as_str(), m.mutated.as_str())
                == (function.as_str(), original.as_str(), mutated)
        };
        let nth = self.found.iter().filter(same).count() + 1;
        if self.found.iter().any(|m| m.span == span && m.form == form) {
            return;
        }
        self.found.push(Mutant {
            id: self.next_id,
            file: self.file.into(),
            line: self.text[..span.start].matches('\n').count() + 1,
            kind,
            original,
            mutated: mutated.into(),
            nth,
            span,
            form,
            function,
        });
        self.next_id += 1;
    }

    fn replace(&mut self, kind: Kind, expr: &impl Spanned, with: &str) {
        // A constant is what it is always.
        if self.source(&bytes(expr)) == with {
            return;
        }
        self.add(kind, bytes(expr), Form::Expr(with.into()), with);
    }

    /// The ways to get a condition wrong. `&&` and `||` are taken apart.
    fn condition(&mut self, expr: &Expr, loops: bool) {
        match expr {
            Expr::Let(_) => {}
            Expr::Paren(inner) => self.condition(&inner.expr, loops),
            Expr::Binary(b) if matches!(b.op, BinOp::And(_)) => {
                self.operand(&b.left, "true");
                self.operand(&b.right, "true");
                if has_let(expr) {
                    self.operand(&b.left, "false");
                    self.operand(&b.right, "false");
                } else {
                    self.replace(Kind::Check, expr, "false");
                }
            }
            Expr::Binary(b) if matches!(b.op, BinOp::Or(_)) => {
                self.operand(&b.left, "false");
                self.operand(&b.right, "false");
                if !loops {
                    self.replace(Kind::Check, expr, "true");
                }
            }
            _ => {
                self.asked.push(bytes(expr));
                if !loops {
                    self.replace(Kind::Check, expr, "true");
                }
                self.replace(Kind::Check, expr, "false");
            }
        }
    }

    /// One side of `&&` (which `neutral` = true takes away) or of `||`.
    fn operand(&mut self, expr: &Expr, neutral: &str) {
        self.asked.push(bytes(expr));
        match expr {
            Expr::Let(_) => {}
            Expr::Paren(inner) => self.operand(&inner.expr, neutral),
            Expr::Binary(b) if matches!(b.op, BinOp::And(_) | BinOp::Or(_)) => {
                let neutral = if matches!(b.op, BinOp::And(_)) { "true" } else { "false" };
                self.operand(&b.left, neutral);
                self.operand(&b.right, neutral);
            }
            _ => self.replace(Kind::Check, expr, neutral),
        }
    }

    /// A statement, or an expression of type `()`.
    fn statement(&mut self, expr: &Expr, span: Range<usize>) {
        if let Some(argument) = dropped_variable(expr) {
            let forget = format!("core::mem::forget({argument});");
            self.add(Kind::Put, span.clone(), Form::Stmt(forget), "(forgotten)");
            if !self.last.contains(&span) {
                self.add(Kind::Lock, span, Form::Stmt(String::new()), "(at the end of the scope)");
            }
            return;
        }
        let kind = match expr {
            // What is only counted, for displays.
            Expr::MethodCall(call) if call.method == "count" => return,
            Expr::Call(_) | Expr::MethodCall(_) | Expr::Try(_) => Kind::of_call(&callee(expr)),
            Expr::Assign(_) | Expr::ForLoop(_) => Kind::Statement,
            Expr::Binary(b) if is_compound(&b.op) => Kind::Statement,
            _ => return,
        };
        self.add(kind, span, Form::Stmt(String::new()), "(dropped)");
    }

    fn body(&mut self, name: &str, attrs: &[syn::Attribute], sig: &syn::Signature, block: &syn::Block) {
        if sig.constness.is_some() || name.starts_with("validate") || has_test_attr(attrs) {
            return;
        }
        self.path.push(name.into());
        let before = std::mem::replace(&mut self.in_body, true);
        if let Some(Stmt::Expr(tail, None)) = block.stmts.last() {
            match &sig.output {
                syn::ReturnType::Default => self.statement(tail, bytes(tail)),
                syn::ReturnType::Type(_, ty) if is_bool(ty) => {
                    let nested = matches!(tail, Expr::If(_) | Expr::Match(_) | Expr::Block(_));
                    if !nested {
                        self.condition(tail, false);
                    }
                }
                syn::ReturnType::Type(..) => {}
            }
        }
        self.visit_block(block);
        self.in_body = before;
        self.path.pop();
    }

    /// Whether the last expression of `block`, which must be of type `()`, can be left away.
    fn unit_block(&mut self, block: &syn::Block) {
        if let Some(Stmt::Expr(tail, None)) = block.stmts.last() {
            self.statement(tail, bytes(tail));
        }
    }
}

impl<'ast> Visit<'ast> for Finder<'_> {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if !has_test_attr(&item.attrs) {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        let display =
            |p: &syn::Path| p.segments.last().is_some_and(|s| s.ident == "Debug" || s.ident == "Display");
        if has_test_attr(&item.attrs) || item.trait_.as_ref().is_some_and(|t| display(&t.0)) {
            return;
        }
        let name = match &*item.self_ty {
            syn::Type::Path(path) => path.path.segments.last().map(|s| s.ident.to_string()),
            _ => None,
        };
        self.path.push(name.unwrap_or_else(|| "impl".into()));
        visit::visit_item_impl(self, item);
        self.path.pop();
    }

    fn visit_item_trait(&mut self, item: &'ast syn::ItemTrait) {
        self.path.push(item.ident.to_string());
        visit::visit_item_trait(self, item);
        self.path.pop();
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.body(&item.sig.ident.to_string(), &item.attrs, &item.sig, &item.block);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.body(&item.sig.ident.to_string(), &item.attrs, &item.sig, &item.block);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        if let Some(block) = &item.default {
            self.body(&item.sig.ident.to_string(), &item.attrs, &item.sig, block);
        }
    }

    // What is no code that runs.
    fn visit_attribute(&mut self, _: &'ast syn::Attribute) {}
    fn visit_type(&mut self, _: &'ast syn::Type) {}
    fn visit_generics(&mut self, _: &'ast syn::Generics) {}
    fn visit_generic_argument(&mut self, _: &'ast syn::GenericArgument) {}
    fn visit_item_const(&mut self, _: &'ast syn::ItemConst) {}
    fn visit_item_static(&mut self, _: &'ast syn::ItemStatic) {}
    fn visit_impl_item_const(&mut self, _: &'ast syn::ImplItemConst) {}
    fn visit_item_enum(&mut self, _: &'ast syn::ItemEnum) {}
    fn visit_macro(&mut self, _: &'ast syn::Macro) {}

    fn visit_pat(&mut self, pat: &'ast syn::Pat) {
        if let syn::Pat::Guard(guard) = pat {
            self.condition(&guard.guard, false);
            self.visit_expr(&guard.guard);
        }
    }

    fn visit_local(&mut self, local: &'ast syn::Local) {
        // A lock that is held for holding it.
        if let syn::Pat::Ident(name) = &local.pat
            && name.ident.to_string().starts_with('_')
        {
            let name = &name.ident;
            let span = bytes(local);
            self.add(Kind::Lock, span.clone(), Form::Behind(format!("drop({name});")), "(let go at once)");
            let forget = format!("core::mem::forget({name});");
            self.add(Kind::Put, span, Form::Behind(forget), "(forgotten)");
        }
        if let Some(init) = &local.init
            && let Expr::Unary(not) = &*init.expr
            && matches!(not.op, UnOp::Not(_))
            && is_condition(&not.expr)
        {
            self.condition(&init.expr, false);
        }
        if let (syn::Pat::Wild(_), Some(init)) = (&local.pat, &local.init) {
            self.statement(&init.expr, bytes(local));
        }
        visit::visit_local(self, local);
    }

    fn visit_block(&mut self, block: &'ast syn::Block) {
        for (i, stmt) in block.stmts.iter().enumerate() {
            if matches!(stmt, Stmt::Expr(expr, _) if dropped_variable(expr).is_some())
                && block.stmts[i + 1..].iter().all(is_only_counted)
            {
                self.last.push(bytes(stmt));
            }
        }
        visit::visit_block(self, block);
    }

    fn visit_stmt(&mut self, stmt: &'ast Stmt) {
        if let Stmt::Expr(expr, semi) = stmt
            && (semi.is_some() || matches!(expr, Expr::ForLoop(_)))
        {
            self.statement(expr, bytes(stmt));
        }
        visit::visit_stmt(self, stmt);
    }

    fn visit_arm(&mut self, arm: &'ast syn::Arm) {
        // Whether it is of type `()` the compiler says.
        if let Expr::Call(_) | Expr::MethodCall(_) = &*arm.body
            && !callee(&arm.body).starts_with(char::is_uppercase)
        {
            self.statement(&arm.body, bytes(&arm.body));
        }
        visit::visit_arm(self, arm);
    }

    fn visit_expr_closure(&mut self, closure: &'ast syn::ExprClosure) {
        if let Expr::MethodCall(_) = &*closure.body {
            let callee = callee(&closure.body);
            // Whether it is of type `()` the compiler says.
            if Kind::of_call(&callee) != Kind::Statement
                || matches!(callee.as_str(), "set" | "insert" | "remove")
            {
                self.statement(&closure.body, bytes(&closure.body));
            }
        }
        visit::visit_expr_closure(self, closure);
    }

    fn visit_expr(&mut self, expr: &'ast Expr) {
        match expr {
            Expr::If(e) => {
                self.condition(&e.cond, false);
                if e.else_branch.is_none() {
                    self.unit_block(&e.then_branch);
                }
            }
            Expr::While(e) => {
                self.condition(&e.cond, true);
                self.unit_block(&e.body);
            }
            Expr::Loop(e) => self.unit_block(&e.body),
            Expr::ForLoop(e) => self.unit_block(&e.body),
            Expr::Binary(b) => self.binary(b),
            Expr::MethodCall(call) => self.method(call),
            Expr::Macro(m) if m.mac.path.is_ident("matches") => self.condition(expr, false),
            Expr::Lit(lit) => self.literal(lit),
            Expr::Path(path) => self.ordering(path),
            _ => {}
        }
        visit::visit_expr(self, expr);
    }

    fn visit_expr_repeat(&mut self, repeat: &'ast syn::ExprRepeat) {
        self.visit_expr(&repeat.expr);
    }
}

impl Finder<'_> {
    fn binary(&mut self, b: &syn::ExprBinary) {
        let (left, right) = (bytes(&b.left), bytes(&b.right));
        let other = match b.op {
            BinOp::Lt(_) => "<=",
            BinOp::Le(_) => "<",
            BinOp::Gt(_) => ">=",
            BinOp::Ge(_) => ">",
            BinOp::Add(_) => "-",
            BinOp::Sub(_) => "+",
            BinOp::Eq(_) | BinOp::Ne(_) => "",
            _ => return,
        };
        let is_sum = matches!(b.op, BinOp::Add(_) | BinOp::Sub(_));
        if !is_sum && !self.asked.contains(&bytes(b)) {
            self.condition(&Expr::Binary(b.clone()), false);
        }
        if other.is_empty() {
            return;
        }
        let with = format!("{} {other} {}", self.source(&left), self.source(&right));
        self.add(Kind::OffByOne, left.start..right.end, Form::Expr(with.clone()), &shorten(&with));
    }

    fn method(&mut self, call: &syn::ExprMethodCall) {
        let name = call.method.to_string();
        if name == "then_some" || name == "then" {
            self.condition(&call.receiver, false);
        }
        if PREDICATES.contains(&name.as_str())
            && let Some(Expr::Closure(closure)) = call.args.first()
            && !matches!(&*closure.body, Expr::Block(_))
        {
            self.condition(&closure.body, false);
        }
    }

    fn literal(&mut self, lit: &syn::ExprLit) {
        match &lit.lit {
            Lit::Bool(b) => self.replace(Kind::Constant, lit, if b.value { "false" } else { "true" }),
            Lit::Int(i) => {
                let Ok(value) = i.base10_parse::<u128>() else { return };
                let other = if value == 0 { 1 } else { value - 1 };
                self.replace(Kind::OffByOne, lit, &format!("{other}{}", i.suffix()));
            }
            _ => {}
        }
    }

    fn ordering(&mut self, path: &syn::ExprPath) {
        let segments: Vec<String> = path.path.segments.iter().map(|s| s.ident.to_string()).collect();
        let [.., parent, name] = segments.as_slice() else { return };
        if parent != "Ordering" {
            return;
        }
        let weaker: &[&str] = match name.as_str() {
            "Acquire" | "Release" => &["Relaxed"],
            "AcqRel" => &["Relaxed", "Acquire", "Release"],
            "SeqCst" => &["Relaxed"],
            _ => return,
        };
        for weak in weaker {
            self.replace(Kind::Ordering, path, &format!("{parent}::{weak}"));
        }
    }
}

fn bytes(node: &impl Spanned) -> Range<usize> {
    node.span().byte_range()
}

/// On one line, and not longer than one.
fn shorten(text: &str) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match text.char_indices().nth(100) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

fn has_test_attr(attrs: &[syn::Attribute]) -> bool {
    attrs.iter().any(|a| {
        a.path().is_ident("test")
            || a.path().is_ident("cfg")
                && matches!(&a.meta, syn::Meta::List(list) if list.tokens.to_string() == "test")
    })
}

fn is_bool(ty: &syn::Type) -> bool {
    matches!(ty, syn::Type::Path(path) if path.path.is_ident("bool"))
}

fn has_let(expr: &Expr) -> bool {
    match expr {
        Expr::Let(_) => true,
        Expr::Binary(b) => has_let(&b.left) || has_let(&b.right),
        Expr::Paren(p) => has_let(&p.expr),
        _ => false,
    }
}

/// Whether `!` of it is a question, and not arithmetic.
fn is_condition(expr: &Expr) -> bool {
    matches!(expr, Expr::Call(_) | Expr::MethodCall(_) | Expr::Macro(_))
}

const fn is_compound(op: &BinOp) -> bool {
    matches!(op, BinOp::AddAssign(_) | BinOp::SubAssign(_) | BinOp::BitOrAssign(_) | BinOp::BitAndAssign(_))
}

/// The last name of what is called.
fn callee(expr: &Expr) -> String {
    match expr {
        Expr::MethodCall(call) => call.method.to_string(),
        Expr::Call(call) => match &*call.func {
            Expr::Path(path) => path.path.segments.last().map(|s| s.ident.to_string()).unwrap_or_default(),
            _ => String::new(),
        },
        Expr::Try(inner) => callee(&inner.expr),
        _ => String::new(),
    }
}

/// Whether a statement only counts pages or events, or is a result that is known by then.
fn is_only_counted(stmt: &Stmt) -> bool {
    match stmt {
        Stmt::Expr(Expr::MethodCall(call), Some(_)) => match call.method.to_string().as_str() {
            "count" | "count_folio" | "add_anon" => true,
            "add" => matches!(&*call.receiver, Expr::Field(field)
                if matches!(&field.member, syn::Member::Named(name) if name == "events")),
            _ => false,
        },
        Stmt::Expr(Expr::Return(result), _) => result.expr.as_deref().is_none_or(is_known),
        Stmt::Expr(expr, None) => is_known(expr),
        _ => false,
    }
}

/// Whether an expression calls nothing: `Ok(FaultResult::Done)`.
fn is_known(expr: &Expr) -> bool {
    match expr {
        Expr::Path(_) | Expr::Lit(_) => true,
        Expr::Tuple(tuple) => tuple.elems.iter().all(is_known),
        Expr::Call(call) => callee(expr).starts_with(char::is_uppercase) && call.args.iter().all(is_known),
        _ => false,
    }
}

/// The variable in `drop(variable)`.
fn dropped_variable(expr: &Expr) -> Option<String> {
    let Expr::Call(call) = expr else { return None };
    match (callee(expr).as_str(), call.args.first()) {
        ("drop", Some(Expr::Path(path))) => path.path.get_ident().map(ToString::to_string),
        _ => None,
    }
}

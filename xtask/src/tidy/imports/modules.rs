//! A crate as a tree of modules: what each one defines, imports and names.
//!
//! The tree is read as the compiler reads it, from the root file along `mod`. What only tests see is left
//! out. Code inside macro calls is read too: a path is a path, whoever expands it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use quote::ToTokens;
use syn::spanned::Spanned;

/// The segments of a path.
pub(super) type Segments = Vec<String>;

/// Something that a file names, and the line.
#[derive(Clone, Debug)]
pub(super) struct Named {
    pub(super) segments: Segments,
    pub(super) line: usize,
}

/// One `use`.
#[derive(Clone, Debug)]
pub(super) struct Import {
    pub(super) path: Named,
    /// Whether it only gives a name another address, unless the file uses the name as well.
    pub(super) is_reexport: bool,
}

/// One module, inline or a file.
#[derive(Debug, Default)]
pub(super) struct Module {
    /// Where it is, as an index of [`Crate::files`].
    pub(super) file: usize,
    /// Its items, and the file that has them.
    pub(super) defined: BTreeMap<String, usize>,
    pub(super) children: BTreeSet<String>,
    /// What it imports, by the name that it gets here.
    pub(super) imports: BTreeMap<String, Import>,
    /// What it imports with `*`.
    pub(super) globs: Vec<Named>,
    /// Paths of two segments and more.
    pub(super) paths: Vec<Named>,
    /// Single names, each with the first line that has it.
    pub(super) words: BTreeMap<String, usize>,
}

/// A crate.
#[derive(Debug, Default)]
pub(super) struct Crate {
    pub(super) files: Vec<PathBuf>,
    pub(super) modules: BTreeMap<Segments, Module>,
}

impl Crate {
    /// Reads the crate whose root file is `root`; `read` gives a file's text, if there is one.
    ///
    /// # Errors
    /// The file that does not parse, and why.
    pub(super) fn read(
        root: &Path,
        read: &dyn Fn(&Path) -> Option<String>,
    ) -> Result<Self, (PathBuf, String)> {
        let mut found = Self::default();
        let folder = root.parent().unwrap_or(Path::new("")).to_path_buf();
        found.file(root, Vec::new(), &folder, read)?;
        Ok(found)
    }

    /// Reads one file, which is the module at `at`; the modules that it declares are below `folder`.
    fn file(
        &mut self,
        path: &Path,
        at: Segments,
        folder: &Path,
        read: &dyn Fn(&Path) -> Option<String>,
    ) -> Result<(), (PathBuf, String)> {
        let text = read(path).ok_or_else(|| (path.to_path_buf(), "is declared and missing".to_string()))?;
        let parsed = syn::parse_file(&text).map_err(|e| (path.to_path_buf(), e.to_string()))?;
        self.files.push(path.to_path_buf());
        let file = self.files.len() - 1;
        self.module(file, at, folder, &parsed.items, read)
    }

    fn module(
        &mut self,
        file: usize,
        at: Segments,
        folder: &Path,
        items: &[syn::Item],
        read: &dyn Fn(&Path) -> Option<String>,
    ) -> Result<(), (PathBuf, String)> {
        let mut module = Module { file, ..Module::default() };
        for item in items {
            if attributes(item).iter().any(is_for_tests) {
                continue;
            }
            match item {
                syn::Item::Use(item) => module.import(item),
                syn::Item::Mod(item) => {
                    let name = item.ident.to_string();
                    let inside: Segments = at.iter().cloned().chain([name.clone()]).collect();
                    let below = folder.join(&name);
                    match &item.content {
                        Some((_, items)) => self.module(file, inside, &below, items, read)?,
                        None => {
                            let Some(path) = file_of(item, folder, read) else { continue };
                            if is_tests_file(&path) {
                                continue;
                            }
                            self.file(&path, inside, &below, read)?;
                        }
                    }
                    module.children.insert(name);
                }
                _ => module.item(item),
            }
        }
        let exported: Vec<_> = items.iter().filter_map(exported_macro).collect();
        self.modules.insert(at, module);
        // The root comes last, after everything that it declares.
        let root = self.modules.entry(Vec::new()).or_default();
        root.defined.extend(exported.into_iter().map(|name| (name, file)));
        Ok(())
    }
}

impl Module {
    fn import(&mut self, item: &syn::ItemUse) {
        if item.leading_colon.is_some() {
            return;
        }
        let is_reexport = !matches!(item.vis, syn::Visibility::Inherited);
        self.tree(&mut Vec::new(), &item.tree, is_reexport);
    }

    fn tree(&mut self, prefix: &mut Segments, tree: &syn::UseTree, is_reexport: bool) {
        let line = tree.span().start().line;
        match tree {
            syn::UseTree::Path(path) => {
                prefix.push(path.ident.to_string());
                self.tree(prefix, &path.tree, is_reexport);
                prefix.pop();
            }
            syn::UseTree::Group(group) => {
                for tree in &group.items {
                    self.tree(prefix, tree, is_reexport);
                }
            }
            syn::UseTree::Name(name) => self.leaf(prefix, &name.ident.to_string(), None, line, is_reexport),
            syn::UseTree::Rename(name) => {
                let new = name.rename.to_string();
                self.leaf(prefix, &name.ident.to_string(), Some(new), line, is_reexport);
            }
            syn::UseTree::Glob(_) => self.globs.push(Named { segments: prefix.clone(), line }),
        }
    }

    fn leaf(&mut self, prefix: &[String], name: &str, new: Option<String>, line: usize, is_reexport: bool) {
        let mut segments = prefix.to_vec();
        if name != "self" {
            segments.push(name.to_string());
        }
        let here = new.or_else(|| segments.last().cloned()).unwrap_or_default();
        // `as _` imports a trait that nobody names: each one stays.
        let here = if here == "_" { format!("_ {}", self.imports.len()) } else { here };
        self.imports.insert(here, Import { path: Named { segments, line }, is_reexport });
    }

    /// Notes what an item defines and what it names.
    fn item(&mut self, item: &syn::Item) {
        if let Some(name) = defined_name(item) {
            self.defined.insert(name, self.file);
        }
        if let syn::Item::Macro(call) = item
            && call.ident.is_none()
        {
            self.defined_in(&call.mac.tokens);
        }
        match item {
            syn::Item::Impl(item) => {
                self.tokens(item.generics.to_token_stream());
                self.tokens(item.generics.where_clause.to_token_stream());
                self.tokens(item.self_ty.to_token_stream());
                if let Some((of, _)) = &item.trait_ {
                    self.tokens(of.to_token_stream());
                }
                let ours = item.items.iter().filter(|item| !impl_attributes(item).iter().any(is_for_tests));
                ours.for_each(|item| self.tokens(item.to_token_stream()));
            }
            _ => self.tokens(item.to_token_stream()),
        }
    }

    /// The items that a macro is given to define: `struct X` and the like, at any depth.
    fn defined_in(&mut self, tokens: &TokenStream) {
        let mut defines = false;
        for token in tokens.clone() {
            match token {
                TokenTree::Group(group) => self.defined_in(&group.stream()),
                TokenTree::Ident(word) => {
                    let word = word.to_string();
                    if defines {
                        self.defined.insert(word.clone(), self.file);
                    }
                    defines = ["struct", "enum", "union", "trait", "type", "const", "static", "fn"]
                        .contains(&word.as_str());
                }
                TokenTree::Punct(_) | TokenTree::Literal(_) => defines = false,
            }
        }
    }

    /// Notes the paths and the words in code.
    fn tokens(&mut self, tokens: TokenStream) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut at = 0;
        while at < tokens.len() {
            match &tokens[at] {
                TokenTree::Ident(word) if *word == "use" => at = self.inner_use(&tokens, at),
                TokenTree::Ident(_) => at = self.path(&tokens, at),
                TokenTree::Group(group) => {
                    self.tokens(group.stream());
                    at += 1;
                }
                TokenTree::Punct(_) | TokenTree::Literal(_) => at += 1,
            }
        }
    }

    /// A `use` inside a body counts as one of the module; returns where it ends.
    fn inner_use(&mut self, tokens: &[TokenTree], from: usize) -> usize {
        let is_end = |token: &TokenTree| matches!(token, TokenTree::Punct(p) if p.as_char() == ';');
        let Some(end) = tokens[from..].iter().position(is_end).map(|n| from + n + 1) else { return from + 1 };
        let text: TokenStream = tokens[from..end].iter().cloned().collect();
        match syn::parse2::<syn::ItemUse>(text) {
            Ok(item) => {
                self.import(&item);
                end
            }
            // `impl<T> use<T>` and the like.
            Err(_) => from + 1,
        }
    }

    /// Reads `a::b::c` from `from` on; returns where it ends.
    fn path(&mut self, tokens: &[TokenTree], from: usize) -> usize {
        let is_punct =
            |at: usize, c: char| matches!(tokens.get(at), Some(TokenTree::Punct(p)) if p.as_char() == c);
        let line = tokens[from].span().start().line;
        let mut segments = vec![tokens[from].to_string()];
        let mut at = from + 1;
        while is_punct(at, ':') && is_punct(at + 1, ':') {
            match tokens.get(at + 2) {
                Some(TokenTree::Ident(word)) => segments.push(word.to_string()),
                Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::None => break,
                _ => break,
            }
            at += 3;
        }
        let is_member = from > 0 && is_punct(from - 1, '.') && !(from > 1 && is_punct(from - 2, '.'));
        let is_extern = from > 1 && is_punct(from - 1, ':') && is_punct(from - 2, ':');
        if is_member || is_extern {
            return at;
        }
        if segments.len() == 1 {
            self.words.entry(segments.remove(0)).or_insert(line);
        } else {
            self.words.entry(segments[0].clone()).or_insert(line);
            self.paths.push(Named { segments, line });
        }
        at
    }
}

/// Finds the file that `mod x;` in `folder` declares.
fn file_of(item: &syn::ItemMod, folder: &Path, read: &dyn Fn(&Path) -> Option<String>) -> Option<PathBuf> {
    let named = item.attrs.iter().find_map(|attribute| match &attribute.meta {
        syn::Meta::NameValue(pair) if pair.path.is_ident("path") => {
            Some(pair.value.to_token_stream().to_string())
        }
        _ => None,
    });
    if let Some(path) = named {
        return Some(folder.join(path.trim_matches('"')));
    }
    let name = item.ident.to_string();
    let candidates = [folder.join(format!("{name}.rs")), folder.join(&name).join("mod.rs")];
    candidates.into_iter().find(|path| read(path).is_some())
}

fn is_tests_file(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name == "tests.rs" || name == "testing.rs" || name.ends_with("_tests.rs")
}

/// Whether an attribute leaves its item to tests.
fn is_for_tests(attribute: &syn::Attribute) -> bool {
    let path = attribute.path();
    if path.is_ident("test") {
        return true;
    }
    let text = attribute.meta.to_token_stream().to_string();
    let condition = text.replace(' ', "");
    condition == "cfg(test)"
        || condition.starts_with("cfg(all(test,")
        || condition.starts_with("cfg(any(test,")
}

fn attributes(item: &syn::Item) -> &[syn::Attribute] {
    match item {
        syn::Item::Const(i) => &i.attrs,
        syn::Item::Enum(i) => &i.attrs,
        syn::Item::Fn(i) => &i.attrs,
        syn::Item::Impl(i) => &i.attrs,
        syn::Item::Macro(i) => &i.attrs,
        syn::Item::Mod(i) => &i.attrs,
        syn::Item::Static(i) => &i.attrs,
        syn::Item::Struct(i) => &i.attrs,
        syn::Item::Trait(i) => &i.attrs,
        syn::Item::Type(i) => &i.attrs,
        syn::Item::Union(i) => &i.attrs,
        syn::Item::Use(i) => &i.attrs,
        _ => &[],
    }
}

fn impl_attributes(item: &syn::ImplItem) -> &[syn::Attribute] {
    match item {
        syn::ImplItem::Const(i) => &i.attrs,
        syn::ImplItem::Fn(i) => &i.attrs,
        syn::ImplItem::Type(i) => &i.attrs,
        syn::ImplItem::Macro(i) => &i.attrs,
        _ => &[],
    }
}

fn defined_name(item: &syn::Item) -> Option<String> {
    let name = match item {
        syn::Item::Const(i) => &i.ident,
        syn::Item::Enum(i) => &i.ident,
        syn::Item::Fn(i) => &i.sig.ident,
        syn::Item::Macro(i) => i.ident.as_ref()?,
        syn::Item::Static(i) => &i.ident,
        syn::Item::Struct(i) => &i.ident,
        syn::Item::Trait(i) => &i.ident,
        syn::Item::Type(i) => &i.ident,
        syn::Item::Union(i) => &i.ident,
        _ => return None,
    };
    Some(name.to_string())
}

/// The name of a macro that the whole crate sees at its root.
fn exported_macro(item: &syn::Item) -> Option<String> {
    match item {
        syn::Item::Macro(item) if item.attrs.iter().any(|a| a.path().is_ident("macro_export")) => {
            item.ident.as_ref().map(ToString::to_string)
        }
        _ => None,
    }
}

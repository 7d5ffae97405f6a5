//! From a name to the file that defines it, through re-exports.

use super::modules::{Crate, Module, Named, Segments};

/// One file needs another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Import {
    /// Indices of the crate's files.
    pub(crate) from: usize,
    pub(crate) to: usize,
    /// The first line that says so.
    pub(crate) line: usize,
    /// What is named there.
    pub(crate) name: String,
}

/// What a path leads to.
enum Place {
    Module(Segments),
    /// An item of that file.
    Item(usize),
}

/// A chain of re-exports longer than this leads in a circle.
const LONGEST_CHAIN: usize = 32;

impl Crate {
    /// Every file that a file names something of, once.
    pub(super) fn imports(&self) -> Vec<Import> {
        let mut found: Vec<Import> = Vec::new();
        for (at, module) in &self.modules {
            for (named, to) in self.needs(at, module) {
                if to != module.file {
                    let name = named.segments.join("::");
                    found.push(Import { from: module.file, to, line: named.line, name });
                }
            }
        }
        found.sort();
        found.dedup_by_key(|import| (import.from, import.to));
        found
    }

    /// What one module names, and the file that has it.
    fn needs<'a>(&'a self, at: &Segments, module: &'a Module) -> Vec<(Named, usize)> {
        let mut needs = Vec::new();
        let mut note = |named: &Named| {
            if let Some(Place::Item(file)) = self.resolve(at, &named.segments, 0) {
                needs.push((named.clone(), file));
            }
        };
        for (name, import) in &module.imports {
            if !import.is_reexport || module.words.contains_key(name) {
                note(&import.path);
            }
        }
        module.paths.iter().for_each(&mut note);
        for glob in &module.globs {
            match self.resolve(at, &glob.segments, 0) {
                // The variants of an enum.
                Some(Place::Item(file)) => needs.push((glob.clone(), file)),
                Some(Place::Module(of)) => {
                    for (word, &line) in &module.words {
                        let known = module.defined.contains_key(word) || module.imports.contains_key(word);
                        if known {
                            continue;
                        }
                        if let Some(Place::Item(file)) = self.member(&of, word, 0) {
                            needs.push((Named { segments: vec![word.clone()], line }, file));
                        }
                    }
                }
                None => {}
            }
        }
        needs
    }

    /// Follows a path from inside the module at `at`; `None` if it leaves the crate.
    fn resolve(&self, at: &Segments, path: &[String], depth: usize) -> Option<Place> {
        let (first, mut rest) = path.split_first()?;
        if depth > LONGEST_CHAIN {
            return None;
        }
        let mut place = match first.as_str() {
            "crate" => Place::Module(Vec::new()),
            "self" => Place::Module(at.clone()),
            "super" => Place::Module(parent(at)?),
            _ => self.member(at, first, depth + 1)?,
        };
        while let Some((name, more)) = rest.split_first() {
            let Place::Module(inside) = &place else { return Some(place) };
            place = match name.as_str() {
                "super" => Place::Module(parent(inside)?),
                "self" => Place::Module(inside.clone()),
                _ => match self.member(inside, name, depth + 1) {
                    Some(place) => place,
                    // A macro made it, most likely: the module's file has it.
                    None => Place::Item(self.modules.get(inside)?.file),
                },
            };
            rest = more;
        }
        Some(place)
    }

    /// What a name means inside the module at `at`.
    fn member(&self, at: &Segments, name: &str, depth: usize) -> Option<Place> {
        let module = self.modules.get(at)?;
        if module.children.contains(name) {
            return Some(Place::Module(at.iter().cloned().chain([name.to_string()]).collect()));
        }
        if let Some(&file) = module.defined.get(name) {
            return Some(Place::Item(file));
        }
        if depth > LONGEST_CHAIN {
            return None;
        }
        if let Some(import) = module.imports.get(name) {
            let path = &import.path.segments;
            // `use name;` of another crate means that crate, not itself.
            return if path.first().is_some_and(|first| first == name) {
                None
            } else {
                self.resolve(at, path, depth + 1)
            };
        }
        module.globs.iter().find_map(|glob| match self.resolve(at, &glob.segments, depth + 1)? {
            Place::Module(of) if of != *at => self.member(&of, name, depth + 1),
            Place::Module(_) | Place::Item(_) => None,
        })
    }
}

fn parent(at: &Segments) -> Option<Segments> {
    at.split_last().map(|(_, above)| above.to_vec())
}

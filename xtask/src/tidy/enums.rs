//! The enums that a `match` must name in full: those that the library crates define.
//!
//! An entry of a page table, a fault's result, what a page is a mapping of: a variant that somebody adds
//! tomorrow must be thought of wherever one is matched. The list is what the code declares, so it cannot go
//! stale. Errors are left out: most of their matches hand on what they do not handle.

use std::collections::BTreeSet;
use std::path::Path;

use super::place::{Place, is_below_the_heap};
use super::source::Source;

/// Names of enums.
#[derive(Clone, Debug, Default)]
pub(crate) struct Enums {
    library: BTreeSet<String>,
    /// Those of the crates above; such a name there means their own.
    others: BTreeSet<String>,
}

impl Enums {
    /// The library's enum whose variant a pattern in a file at `place` names, if it names one.
    pub(super) fn named_in<'p>(&self, pattern: &'p str, place: &Place) -> Option<&'p str> {
        let is_ours = |name: &&str| {
            self.library.contains(*name) && (place.is_below_heap || !self.others.contains(*name))
        };
        pattern.match_indices("::").map(|(at, _)| last_word(&pattern[..at])).find(is_ours)
    }
}

/// The enums that `files` define outside tests.
pub(crate) fn of<'a>(files: impl Iterator<Item = (&'a Path, &'a str)>) -> Enums {
    let mut found = Enums::default();
    for (path, text) in files {
        if !path.starts_with("crates") || !text.contains("enum ") {
            continue;
        }
        let names = if is_below_the_heap(path) { &mut found.library } else { &mut found.others };
        for line in Source::parse(text).lines.iter().filter(|line| !line.in_test) {
            let mut words = line.code.split(|c: char| !(c.is_alphanumeric() || c == '_'));
            if words.any(|word| word == "enum")
                && let Some(name) = words.next().filter(|name| name.starts_with(char::is_uppercase))
                && !name.ends_with("Error")
            {
                names.insert(name.to_string());
            }
        }
    }
    found
}

fn last_word(text: &str) -> &str {
    let start = text.rfind(|c: char| !(c.is_alphanumeric() || c == '_')).map_or(0, |at| at + 1);
    &text[start..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn enums_come_from_the_code() {
        let core = Path::new("crates/anonmem-pgtable/src/owned.rs");
        let text = "//! enum No\npub enum Cleared<'f, M: Machine> {\n}\nenum Owned { A }\npub enum LostError { B }\n#[cfg(test)]\nenum T { B }\n";
        let lab = Path::new("crates/anonmem-lab/src/explorer/op.rs");
        let enums = of([(core, text), (lab, "pub enum Owned { A }\n")].into_iter());
        assert_eq!(enums.library.iter().collect::<Vec<_>>(), ["Cleared", "Owned"]);
        let named = |pattern, path| enums.named_in(pattern, &Place::of(path));
        assert_eq!(named("(Cleared::Shared(map, _), Some(old))", core), Some("Cleared"));
        assert_eq!(named("crate::x::Owned::A { b, .. } if c", core), Some("Owned"));
        assert_eq!(named("NotCleared::A | Accel::A", core), None);
        assert_eq!(named("Owned::A", lab), None, "the lab has one of its own");
        assert_eq!(named("Cleared::None", lab), Some("Cleared"));
    }
}

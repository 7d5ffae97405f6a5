//! What the program can measure, and its command line.

use std::ffi::OsString;
use std::fmt::Write;

use crate::error::{Error, Result};
use crate::values::Folios;

/// One kind of work.
#[derive(Debug, PartialEq, Eq)]
pub struct Kind {
    /// Its name, as the program knows it (will-it-scale's, where that has it).
    pub name: &'static str,
    /// What is done, for people.
    pub title: &'static str,
    /// What one operation is.
    pub operation: &'static str,
}

/// All of them, in the table's order.
pub const KINDS: &[Kind] = &[
    Kind {
        name: "page_fault1",
        title: "first writes to fresh pages",
        operation: "a page: its first write, and its share of the region's mmap and munmap",
    },
    Kind {
        name: "mmap1",
        title: "mmap + munmap, untouched",
        operation: "mmap and munmap of the region, never touched",
    },
    Kind {
        name: "brk1",
        title: "brk up + down, untouched",
        operation: "brk one page up and down again, never touched; threads move the same break",
    },
    Kind {
        name: "fork",
        title: "fork, exit, wait",
        operation: "a child of the small static process that exits at once, and waiting for it",
    },
    Kind {
        name: "munmap",
        title: "munmap of populated memory",
        operation: "a page of a populated region; only munmap is counted",
    },
];

/// What the tasks are.
pub const MODES: [&str; 2] = ["processes", "threads"];

/// What the program is to do in one boot.
#[derive(Clone, Debug)]
pub struct Work {
    /// Milliseconds that each row is measured.
    pub window_ms: u64,
    /// Milliseconds before, that do not count.
    pub warm_ms: u64,
    /// Each kind is measured with 1 to so many tasks.
    pub tasks: u32,
    /// Pages of a task's region.
    pub region_pages: u64,
    /// What to measure.
    pub kinds: Vec<&'static Kind>,
    /// The folios that the kernel takes; with single pages the program asks for no others.
    pub folios: Folios,
}

impl Work {
    /// The program's arguments.
    pub fn arguments(&self) -> Vec<OsString> {
        let kinds: Vec<_> = self.kinds.iter().map(|kind| kind.name).collect();
        let numbers = [self.window_ms, self.warm_ms, self.tasks.into(), self.region_pages];
        let mut arguments: Vec<OsString> = numbers.iter().map(|n| n.to_string().into()).collect();
        arguments.extend([kinds.join(",").into(), MODES.join(",").into(), self.folios.as_str().into()]);
        arguments
    }

    /// How many rows that makes.
    pub fn rows(&self) -> u64 {
        (self.kinds.len() * MODES.len()) as u64 * u64::from(self.tasks)
    }
}

/// The kinds that have one of these words in their name; all if there is no word.
///
/// # Errors
///
/// A word is in no name.
pub fn select(words: &[String]) -> Result<Vec<&'static Kind>> {
    for word in words {
        if !KINDS.iter().any(|kind| kind.name.contains(word.as_str())) {
            return Err(Error::usage(format_args!(
                "no row of --guest is called \"{word}\"; anonmem bench --guest --list names them"
            )));
        }
    }
    // A whole name is that row alone.
    let is_wanted = |name: &str| {
        let exact = |word: &str| KINDS.iter().any(|kind| kind.name == word);
        words.is_empty() || words.iter().any(|w| w == name || (!exact(w) && name.contains(w.as_str())))
    };
    Ok(KINDS.iter().filter(|kind| is_wanted(kind.name)).collect())
}

/// What each kind is, without measuring.
pub fn list() -> String {
    let mut text = String::new();
    for kind in KINDS {
        let _ = writeln!(text, "{:12} {}; an operation is {}", kind.name, kind.title, kind.operation);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_selects_all_kinds_that_have_it_and_a_name_only_itself() {
        let names = |words: &[&str]| -> Vec<_> {
            let words: Vec<_> = words.iter().map(ToString::to_string).collect();
            select(&words).unwrap().iter().map(|kind| kind.name).collect()
        };
        assert_eq!(names(&["munmap"]), ["munmap"]);
        assert_eq!(names(&["map"]), ["mmap1", "munmap"]);
        assert_eq!(names(&[]).len(), KINDS.len());
        assert!(select(&["nonsense".into()]).unwrap_err().to_string().contains("--list"));
    }

    #[test]
    fn the_program_gets_numbers_then_names() {
        let kinds = select(&["fork".into(), "brk".into()]).unwrap();
        let work =
            Work { window_ms: 250, warm_ms: 50, tasks: 2, region_pages: 4096, kinds, folios: Folios::none() };
        assert_eq!(work.arguments(), ["250", "50", "2", "4096", "brk1,fork", "processes,threads", "4K"]);
        assert_eq!(work.rows(), 8);
    }
}

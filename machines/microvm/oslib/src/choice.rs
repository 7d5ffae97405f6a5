//! Files of `/sys` that say one word of several, and what is written to `split_huge_pages`.

use alloc::string::String;

/// Gives all words, the chosen one in brackets; of no words, the chosen one alone.
pub fn text(words: &[&str], chosen: &str) -> String {
    let mut out = String::new();
    for word in words {
        let (before, after) = if *word == chosen { ("[", "]") } else { ("", "") };
        let space = if out.is_empty() { "" } else { " " };
        out.extend([space, before, word, after]);
    }
    if words.is_empty() {
        out.push_str(chosen);
    }
    out.push('\n');
    out
}

/// When folios of those sizes are taken that inherit it, as Linux has it.
pub const FOR_ALL: &[&str] = &["always", "madvise", "never"];
/// When folios of one size are taken, as Linux has it.
pub const FOR_ONE: &[&str] = &["always", "inherit", "madvise", "never"];

/// As [`text`]; a word that Linux does not have comes last, and only if it is the chosen one. Programs
/// compare the whole line with what Linux says.
pub fn modes(words: &[&str], chosen: &str) -> String {
    let linux = text(words, chosen);
    if words.contains(&chosen) {
        return linux;
    }
    alloc::format!("{} [{chosen}]\n", linux.trim_end())
}

/// What is to be split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SplitRequest {
    /// All large folios, into single pages.
    All,
    /// Those that a process has mapped in a range.
    Range {
        /// The process.
        pid: u32,
        /// The first address.
        start: u64,
        /// The address after the last.
        end: u64,
        /// The order of the pieces.
        order: u8,
    },
}

impl SplitRequest {
    /// Reads `1`, or `PID,0xSTART,0xEND[,ORDER[,PAGE]]`. Which page of a folio goes first does not matter.
    pub fn parse(text: &str) -> Option<Self> {
        let mut words = text.trim().split(',');
        let pid: u32 = words.next()?.parse().ok()?;
        let hex = |word: &str| u64::from_str_radix(word.strip_prefix("0x")?, 16).ok();
        let Some(start) = words.next() else { return (pid == 1).then_some(Self::All) };
        let (start, end) = (hex(start)?, hex(words.next()?)?);
        let order = words.next().map_or(Some(0), |word| word.parse().ok())?;
        words.next().map_or(Some(0), |page| page.parse::<u64>().ok())?;
        words.next().is_none().then_some(Self::Range { pid, start, end, order })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chosen_word_is_in_brackets() {
        assert_eq!(modes(FOR_ALL, "madvise"), "always [madvise] never\n");
        assert_eq!(modes(FOR_ONE, "inherit"), "always [inherit] madvise never\n");
        assert_eq!(modes(FOR_ALL, "auto"), "always madvise never [auto]\n");
        assert_eq!(text(&[], "0"), "0\n");
    }

    #[test]
    fn what_is_to_be_split_is_read() {
        let range = |order| SplitRequest::Range { pid: 7, start: 0x1000, end: 0x20_0000, order };
        for (text, request) in [
            ("1", Some(SplitRequest::All)),
            ("7,0x1000,0x200000", Some(range(0))),
            ("7,0x1000,0x200000,2", Some(range(2))),
            ("7,0x1000,0x200000,2,3\n", Some(range(2))),
            ("", None),
            ("2", None),
            ("7,0x1000", None),
            ("7,1000,2000", None),
            ("7,0x1000,0x2000,x", None),
            ("7,0x1000,0x2000,1,2,3", None),
        ] {
            assert_eq!(SplitRequest::parse(text), request, "{text:?}");
        }
    }
}

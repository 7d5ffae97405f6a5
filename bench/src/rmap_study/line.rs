//! A line of the study, and how much is done for all of them.

/// One line of the study.
#[derive(Clone, Debug)]
pub struct Line {
    /// What was done.
    pub what: String,
    /// What the number is of.
    pub unit: &'static str,
    /// The number.
    pub found: u64,
}

/// How much is done.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// The most relatives, VMAs and moves.
    pub most: u64,
    /// The most pages of a program that forks.
    pub pages: u64,
    /// Generations of the endless chain.
    pub generations: u64,
    /// Milliseconds that threads get in each other's way.
    pub waiting_ms: u64,
}

impl Size {
    /// That of the document. It takes half a minute and 600 MiB.
    pub const FULL: Self = Self { most: 1000, pages: 100_000, generations: 100_000, waiting_ms: 2000 };

    /// Those of `numbers` that are not too large.
    pub(super) fn up_to<const N: usize>(self, numbers: [u64; N]) -> impl Iterator<Item = u64> {
        numbers.into_iter().filter(move |&n| n <= self.most)
    }
}

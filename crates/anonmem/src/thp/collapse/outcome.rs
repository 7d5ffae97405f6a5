//! What may be in a window, and what became of it.

use crate::{error::Error, migrate::Effort};
use core::fmt;

/// How many pages of a window may be what.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CollapseLimits {
    /// Not there, or there and never touched: each costs a page of zeroes (Linux: `max_ptes_none`).
    pub none: u64,
    /// In swap: each is read first (Linux: `max_ptes_swap`).
    pub swapped: u64,
    /// Others' as well: each is copied, and the others keep theirs (Linux: `max_ptes_shared`).
    pub shared: u64,
}

impl CollapseLimits {
    /// Whatever there is.
    pub const ANY: Self = Self { none: u64::MAX, swapped: u64::MAX, shared: u64::MAX };
    /// Nothing but pages that are there, touched, and the program's own.
    pub const OWN: Self = Self { none: 0, swapped: 0, shared: 0 };
}

/// What is done for a block of frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BlockEffort {
    /// Nothing: it is there or not.
    Free,
    /// Pages move to make room.
    Compact(Effort),
}

/// What a window is now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Collapsed {
    /// It was one folio already.
    Already,
    /// A folio behind entries, which was made of copies.
    Copied,
    /// A leaf, which was made of a table.
    Leaf,
}

impl Collapsed {
    /// Whether it was not so before.
    pub const fn is_new(self) -> bool {
        match self {
            Self::Copied | Self::Leaf => true,
            Self::Already => false,
        }
    }
}

/// Why a window is not one folio.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotCollapsed {
    /// No single mapping of private anonymous memory has all of it, or its program wants no large folios.
    Mapping,
    /// Nothing is there.
    Empty,
    /// Too much of it is not there, or was never touched.
    Holes,
    /// Too much of it is in swap.
    Swapped,
    /// Others have too much of it, too.
    Shared,
    /// There is something that is no page: a guard, a poisoned page, a protection by a userfaultfd.
    Marked,
    /// A device may be using a page.
    Pinned,
    /// Somebody was using a page, or moving it.
    Busy,
    /// Something changed while it was copied: the window was given up.
    Changed,
    /// There is no block of its size.
    NoMemory,
}

impl From<NotCollapsed> for Error {
    /// Linux: mm/khugepaged.c `madvise_collapse_errno`.
    fn from(why: NotCollapsed) -> Self {
        match why {
            NotCollapsed::Mapping => {
                Self::Invalid("a window that no mapping has all of, or that may not collapse")
            }
            NotCollapsed::Empty => Self::Invalid("a window in which nothing is"),
            NotCollapsed::Marked => Self::Invalid("a window with what is no page"),
            NotCollapsed::Holes | NotCollapsed::Swapped | NotCollapsed::Shared => Self::Busy,
            NotCollapsed::Pinned | NotCollapsed::Busy | NotCollapsed::Changed => Self::Again,
            NotCollapsed::NoMemory => Self::OutOfMemory,
        }
    }
}

impl fmt::Display for NotCollapsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mapping => "no mapping that may collapse has all of it",
            Self::Empty => "nothing is there",
            Self::Holes => "too much of it is not there",
            Self::Swapped => "too much of it is in swap",
            Self::Shared => "others have too much of it, too",
            Self::Marked => "there is a guard, a poisoned page, or a protection",
            Self::Pinned => "a page is pinned",
            Self::Busy => "a page is in use",
            Self::Changed => "something changed meanwhile",
            Self::NoMemory => "there is no block of its size",
        })
    }
}

impl core::error::Error for NotCollapsed {}

//! What became of a page that was to move.

use anonmem_frame::SplitRefused;
use anonmem_hal::Pfn;
use core::fmt;

/// Why a page stays in its frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stays {
    /// It is no program's.
    NotAnonymous,
    /// It belongs to a shared object, and a userfaultfd watches one of its mappings.
    Watched,
    /// A device may be using it.
    Pinned,
    /// Somebody has its folio locked: it is being read, written, or moved.
    Locked,
    /// Somebody is using it: a fault copies it, or a debugger looks at it.
    Referenced,
    /// Its swap device is being closed, which brings it to its entries.
    SwapOff,
    /// There is no frame for it to go to.
    NoMemory,
}

impl Stays {
    /// Why a large folio stays that is not split.
    pub(crate) const fn of_unsplit(why: SplitRefused) -> Self {
        match why {
            SplitRefused::Pinned => Self::Pinned,
            SplitRefused::Busy => Self::Referenced,
            SplitRefused::NotLarge => Self::NotAnonymous,
            // It goes whole, or not at all.
            SplitRefused::Merged => Self::NoMemory,
        }
    }
}

impl fmt::Display for Stays {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotAnonymous => "the page is no program's",
            Self::Watched => "a userfaultfd watches the page: close it first",
            Self::Pinned => "the page is pinned: try again when its pin is gone",
            Self::Locked => "the page is locked: try again",
            Self::Referenced => "the page is in use: try again",
            Self::SwapOff => "the page's swap device is being closed: try again",
            Self::NoMemory => "there is no frame to move the page to",
        })
    }
}

impl core::error::Error for Stays {}

/// Where a page went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Went {
    /// To this frame.
    To(Pfn),
    /// Nowhere: the last one that had it let go of it meanwhile.
    Away,
}

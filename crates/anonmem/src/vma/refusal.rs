//! Why a fault needs a stronger lock.

use crate::events::Event;

/// Why a fault could not go ahead without the mmap lock, or without the VMA's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Refusal {
    /// The tree was being changed at every try.
    TreeBusy,
    /// No VMA is there: a stack may have to grow, or it is a SIGSEGV.
    NoVma,
    /// The VMA is write-locked.
    WriteLocked,
    /// The slot left the tree, or serves another address space or address by now.
    Recycled,
    /// The VMA has no anon_vma yet; only under the mmap lock can it be given one.
    NoAnonVma,
    /// The page table is missing; a speculative fault adds none.
    NoTable,
    /// The page comes from a source or a shared object; a speculative fault does not sleep.
    Backing,
    /// The VMA was changed before a speculative fault could commit.
    Changed,
    /// A speculative fault does not wait: for memory, a device or a folio lock.
    WouldSleep,
    /// A userfaultfd is asked, which takes a while.
    Userfault,
    /// All of a leaf's window is back from swap, and may become a leaf: under the mmap lock for writing.
    LeafIsBack,
}

impl Refusal {
    /// The counter of faults refused for this reason.
    pub(crate) const fn event(self) -> Event {
        match self {
            Self::TreeBusy => Event::RefusedTreeBusy,
            Self::NoVma => Event::RefusedNoVma,
            Self::WriteLocked => Event::RefusedWriteLocked,
            Self::Recycled => Event::RefusedRecycled,
            Self::NoAnonVma => Event::RefusedNoAnonVma,
            Self::NoTable => Event::RefusedNoTable,
            Self::Backing => Event::RefusedBacking,
            Self::Changed => Event::RefusedChanged,
            Self::WouldSleep => Event::RefusedWouldSleep,
            Self::Userfault => Event::RefusedUserfault,
            Self::LeafIsBack => Event::LeafSwapIn,
        }
    }
}

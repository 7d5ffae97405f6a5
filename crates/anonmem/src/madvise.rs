//! Advice about memory: some is a hint, some changes what a program sees.
//!
//! | advice | effect |
//! |---|---|
//! | `DONTNEED`, `DONTNEED_LOCKED` | pages are dropped; the next touch starts afresh |
//! | `FREE` | pages may be dropped unless they are written again |
//! | `REMOVE` | a shared object's pages are dropped: they read as zeroes for everybody |
//! | `GUARD_INSTALL`, `GUARD_REMOVE` | every access traps, without a mapping of its own |
//! | `POPULATE_READ`, `POPULATE_WRITE` | pages are faulted in |
//! | `DONTFORK`, `DOFORK`, `WIPEONFORK`, `KEEPONFORK` | what a child gets |
//! | `HUGEPAGE`, `NOHUGEPAGE` | remembered for large folios |
//! | `COLLAPSE` | small pages become large folios now |
//! | `NORMAL`, `RANDOM`, `SEQUENTIAL`, `DONTDUMP`, `DODUMP` | remembered, and shown: nothing is read ahead or dumped |
//! | `COLD` | pages count as unused for long: reclaim takes them first |
//! | `PAGEOUT` | pages that nobody else maps go to swap |
//! | `WILLNEED` | pages come back from swap |
//! | `MERGEABLE`, `UNMERGEABLE` | equal pages may be merged; they are a program's own again ([`ksm`](crate::ksm)) |
//!
//! Locks: the mmap lock, for writing where a VMA's attributes change, else for reading; a page-table lock for
//! one table at a time.
//!
//! Linux: mm/madvise.c.

mod collapse;
mod guard;
mod pages;
#[cfg(test)]
mod tests;

use crate::{
    error::Error,
    ids::VmaId,
    ksm::unmerge::MergeAny,
    mm::{Mm, slot::MmSlot},
    populate::Populate,
    rmap::machine::Machine,
    vma::{
        flags::VmFlags,
        vma::{Backing, Vma},
    },
};
use anonmem_hal::{Va, VaRange};

/// What `madvise` is told. The numbers are Linux's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Advice {
    /// No particular use is expected.
    Normal = 0,
    /// Accesses will be in no order.
    Random = 1,
    /// Accesses will be in ascending order.
    Sequential = 2,
    /// Accesses will come soon.
    WillNeed = 3,
    /// The contents are not needed any more.
    DontNeed = 4,
    /// The contents are not needed unless they are written again.
    Free = 8,
    /// The contents of the shared object are not needed any more.
    Remove = 9,
    /// A child does not get the mapping.
    DontFork = 10,
    /// A child gets the mapping.
    DoFork = 11,
    /// Equal pages may be merged.
    Mergeable = 12,
    /// Equal pages stay apart.
    Unmergeable = 13,
    /// Large folios are welcome.
    HugePage = 14,
    /// Large folios are not welcome.
    NoHugePage = 15,
    /// A core dump leaves it out.
    DontDump = 16,
    /// A core dump has it.
    DoDump = 17,
    /// A child gets the mapping empty.
    WipeOnFork = 18,
    /// A child gets the contents.
    KeepOnFork = 19,
    /// Reclaim these pages first.
    Cold = 20,
    /// Reclaim these pages now.
    PageOut = 21,
    /// Fault pages in for reading.
    PopulateRead = 22,
    /// Fault pages in for writing.
    PopulateWrite = 23,
    /// `DontNeed`, locked mappings too.
    DontNeedLocked = 24,
    /// Make large folios of small pages now.
    Collapse = 25,
    /// Every access traps.
    GuardInstall = 102,
    /// Accesses do not trap any more.
    GuardRemove = 103,
}

impl Advice {
    /// All of them.
    pub const ALL: [Self; 25] = [
        Self::Normal,
        Self::Random,
        Self::Sequential,
        Self::WillNeed,
        Self::DontNeed,
        Self::Free,
        Self::Remove,
        Self::DontFork,
        Self::DoFork,
        Self::Mergeable,
        Self::Unmergeable,
        Self::HugePage,
        Self::NoHugePage,
        Self::DontDump,
        Self::DoDump,
        Self::WipeOnFork,
        Self::KeepOnFork,
        Self::Cold,
        Self::PageOut,
        Self::PopulateRead,
        Self::PopulateWrite,
        Self::DontNeedLocked,
        Self::Collapse,
        Self::GuardInstall,
        Self::GuardRemove,
    ];

    /// The advice with Linux's number `MADV_*`; `None` if it is unknown, which `madvise` answers with
    /// `EINVAL`.
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|&advice| advice as u32 == number)
    }
}

/// What an advice comes down to.
enum Action {
    /// The attributes of VMAs change.
    Attributes(Attribute),
    /// Pages or entries change.
    Pages(PageAdvice),
    Populate(Populate),
    /// Small pages become large folios.
    Collapse,
    /// Pages may be merged, or may not.
    Merging(MergeAny),
}

/// Advice that changes the attributes of VMAs, as [`Advice`] names it.
#[derive(Clone, Copy)]
enum Attribute {
    Normal,
    Random,
    Sequential,
    DontDump,
    DoDump,
    DontFork,
    DoFork,
    WipeOnFork,
    KeepOnFork,
    HugePage,
    NoHugePage,
}

/// Advice that changes pages or entries, as [`Advice`] names it.
#[derive(Clone, Copy)]
enum PageAdvice {
    DontNeed,
    DontNeedLocked,
    Free,
    Remove,
    WillNeed,
    Cold,
    PageOut,
    GuardInstall,
    GuardRemove,
}

impl PageAdvice {
    /// Whether the pages of a locked mapping take it.
    const fn is_for_locked(self) -> bool {
        match self {
            Self::DontNeedLocked | Self::GuardRemove | Self::WillNeed => true,
            Self::DontNeed | Self::Free | Self::Remove | Self::Cold | Self::PageOut | Self::GuardInstall => {
                false
            }
        }
    }
}

impl Advice {
    const fn action(self) -> Action {
        match self {
            Self::Normal => Action::Attributes(Attribute::Normal),
            Self::Random => Action::Attributes(Attribute::Random),
            Self::Sequential => Action::Attributes(Attribute::Sequential),
            Self::DontDump => Action::Attributes(Attribute::DontDump),
            Self::DoDump => Action::Attributes(Attribute::DoDump),
            Self::DontFork => Action::Attributes(Attribute::DontFork),
            Self::DoFork => Action::Attributes(Attribute::DoFork),
            Self::WipeOnFork => Action::Attributes(Attribute::WipeOnFork),
            Self::KeepOnFork => Action::Attributes(Attribute::KeepOnFork),
            Self::HugePage => Action::Attributes(Attribute::HugePage),
            Self::NoHugePage => Action::Attributes(Attribute::NoHugePage),
            Self::DontNeed => Action::Pages(PageAdvice::DontNeed),
            Self::DontNeedLocked => Action::Pages(PageAdvice::DontNeedLocked),
            Self::Free => Action::Pages(PageAdvice::Free),
            Self::Remove => Action::Pages(PageAdvice::Remove),
            Self::WillNeed => Action::Pages(PageAdvice::WillNeed),
            Self::Cold => Action::Pages(PageAdvice::Cold),
            Self::PageOut => Action::Pages(PageAdvice::PageOut),
            Self::GuardInstall => Action::Pages(PageAdvice::GuardInstall),
            Self::GuardRemove => Action::Pages(PageAdvice::GuardRemove),
            Self::PopulateRead => Action::Populate(Populate::Read),
            Self::PopulateWrite => Action::Populate(Populate::Write),
            Self::Collapse => Action::Collapse,
            Self::Mergeable => Action::Merging(MergeAny::Yes),
            Self::Unmergeable => Action::Merging(MergeAny::No),
        }
    }
}

impl<M: Machine> Mm<'_, M> {
    /// Takes advice about the `len` bytes from `start`, rounded up to pages.
    ///
    /// ```
    /// # use anonmem::*;
    /// # use anonmem_testkit::Program;
    /// # anonmem_testkit::example(|_, mm| {
    /// let start = mm.mmap(MmapRequest::anonymous(4 * 4096, Prot::READ | Prot::WRITE))?;
    /// mm.store(start, 7)?;
    /// mm.madvise(start, 4096, Advice::DontNeed)?;
    /// assert_eq!(mm.load(start)?, 0);
    /// # Ok(())
    /// # });
    /// ```
    ///
    /// # Locks
    /// The mmap lock, one way or the other. Sleeps.
    ///
    /// # Errors
    /// [`Error::Invalid`] if `start` is not page aligned, the range wraps around, or a mapping does not allow
    /// the advice; [`Error::NotMapped`] if there are holes: the rest has been advised; [`Error::Again`] if
    /// there was no memory to split a mapping, [`Error::Limit`] if `MERGEABLE` would make too many;
    /// [`Error::AccessDenied`] for `REMOVE` of a private mapping of a source; [`Error::NotPermitted`] for
    /// what is sealed; [`Error::BadAddress`] and [`Error::OutOfMemory`] from populating and
    /// `GUARD_INSTALL`; [`Error::NodesFull`] from populating and `UNMERGEABLE`; [`Error::Interrupted`] from
    /// `COLLAPSE`, if the caller is to end. What comes before the place of an error has been advised.
    #[doc(alias = "do_madvise")]
    pub fn madvise(&self, start: Va, len: u64, advice: Advice) -> Result<(), Error> {
        if !start.is_page_aligned() {
            return Err(Error::Invalid("advice about an address that is not page aligned"));
        }
        let action = advice.action();
        let end = Va(len).page_up().and_then(|len| start.checked_add(len.0));
        let Some(end) = end else { return Err(Error::Invalid("advice about a range that wraps around")) };
        let range = VaRange { start, end };
        match action {
            Action::Attributes(attribute) => self.madvise_attributes(range, attribute),
            Action::Pages(advice) => self.madvise_pages(range, advice),
            Action::Populate(how) => self.populate(range, how),
            Action::Collapse => self.madvise_collapse(range),
            Action::Merging(any) => self.madvise_merging(range, any),
        }
    }

    /// Calls `f` for the part of each VMA that is in `range`; `f` may change the VMA. The caller holds the
    /// mmap lock.
    ///
    /// # Errors
    /// The first error of `f` ends it. [`Error::NotMapped`] at the end if there were holes.
    #[doc(alias = "madvise_walk_vmas")]
    fn for_each_part(
        &self,
        slot: &MmSlot<M>,
        range: VaRange,
        mut f: impl FnMut(VmaId, VaRange) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let (mut rest, mut mapped) = (range, 0);
        while let Some((vma, id)) = slot.tree.find(self.vm.nodes(), rest.start) {
            // A VMA that merged with the one before starts earlier than what is left.
            let Some(part) = vma.intersect(rest) else { break };
            f(id, part)?;
            mapped += part.len();
            rest.start = part.end;
        }
        if mapped == range.len() { Ok(()) } else { Err(Error::NotMapped) }
    }

    /// A shared mapping is passed over: what is written to it is for others to see.
    fn madvise_merging(&self, range: VaRange, any: MergeAny) -> Result<(), Error> {
        self.vm.reclaiming(|| {
            let guard = self.write();
            self.for_each_part(guard.slot(), range, |id, part| self.advise_merging(&guard, id, part, any))
        })
    }

    #[doc(alias = "madvise_vma_behavior")]
    fn madvise_attributes(&self, range: VaRange, advice: Attribute) -> Result<(), Error> {
        self.vm
            .reclaiming(|| {
                let guard = self.write();
                self.for_each_part(guard.slot(), range, |id, part| {
                    let flags = attributes(self.vm.vma(id), advice)?;
                    guard.modify_vma(id, part, flags).map(drop)
                })
            })
            .map_err(|e| match e {
                Error::OutOfMemory | Error::Limit(_) => Error::Again,
                e => e,
            })
    }
}

/// The attributes of a VMA after the advice.
fn attributes<M: Machine>(vma: &Vma<M>, advice: Attribute) -> Result<VmFlags, Error> {
    let flags = vma.flags();
    if matches!(advice, Attribute::DontFork | Attribute::WipeOnFork) {
        flags.check_droppable()?;
    }
    let reading = VmFlags::SEQ_READ | VmFlags::RAND_READ;
    Ok(match advice {
        Attribute::Normal => flags - reading,
        Attribute::Random => (flags - reading) | VmFlags::RAND_READ,
        Attribute::Sequential => (flags - reading) | VmFlags::SEQ_READ,
        Attribute::DontDump => flags | VmFlags::DONTDUMP,
        Attribute::DoDump | Attribute::KeepOnFork if flags.contains(VmFlags::DROPPABLE) => {
            return Err(Error::Invalid("what may be dropped is neither for dumps nor for a child"));
        }
        Attribute::DoDump if flags.contains(VmFlags::DONTEXPAND) => {
            return Err(Error::Invalid("a mapping of a fixed size is not for dumps"));
        }
        Attribute::DoDump => flags - VmFlags::DONTDUMP,
        Attribute::DontFork => flags | VmFlags::DONTCOPY,
        Attribute::DoFork => flags - VmFlags::DONTCOPY,
        Attribute::WipeOnFork if vma.backing() != Backing::Anonymous => {
            return Err(Error::Invalid("only private anonymous memory can be wiped in a child"));
        }
        Attribute::WipeOnFork => flags | VmFlags::WIPEONFORK,
        Attribute::KeepOnFork => flags - VmFlags::WIPEONFORK,
        Attribute::HugePage => (flags | VmFlags::HUGEPAGE) - VmFlags::NOHUGEPAGE,
        Attribute::NoHugePage => (flags | VmFlags::NOHUGEPAGE) - VmFlags::HUGEPAGE,
    })
}

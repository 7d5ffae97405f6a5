//! A mapping whose pages somebody takes: found, asked and kept under the mmap lock.
//!
//! Locks: the mmap lock for reading, as long as an [`Area`] lives; page-table locks one at a time. Faults run
//! under the same mmap lock.
//!
//! Linux: mm/gup.c `check_vma_flags`, `follow_page_mask`, `faultin_page`.

use super::{
    Next, PinFlags, first_access,
    pinned::{PinnedRange, mark_written},
};
use crate::{
    error::Error,
    events::Event,
    fault::{
        handle_mm_fault,
        vm_fault::{FaultAccess, FaultOutcome, FaultResult, VmFault, Waits},
    },
    ids::{UffdMessageId, VmaId},
    mm::{Mm, mmap_lock::MmapReadGuard},
    rmap::machine::Machine,
    vm::Vm,
    vma::flags::VmFlags,
};
use anonmem_hal::{Entry, Pte, Va, VaRange};
use anonmem_pgtable::{LeafGuard, Locked, PinEntry, PteGuard, Walked};

/// A mapping that may be accessed as the flags say.
pub(super) struct Area<'v, M: Machine> {
    pub(super) vm: &'v Vm<M>,
    guard: MmapReadGuard<'v, M>,
    id: VmaId,
    vma: VmFlags,
    pub(super) flags: PinFlags,
    /// Where it ends.
    pub(super) end: Va,
}

/// Why pages cannot be had under the lock of an area.
pub(super) enum Stop {
    /// For good.
    Error(Error),
    /// A userfaultfd was sent a message: who fills the page may need the mmap lock.
    Userfault(UffdMessageId),
}

impl<E: Into<Error>> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::Error(error.into())
    }
}

impl<'v, M: Machine> Mm<'v, M> {
    /// What was done under the lock of an area, which is gone by now; `None` if it is to be done again, after
    /// a userfaultfd's page has come.
    ///
    /// # Errors
    /// What stopped it; [`Error::BadAddress`] if the page did not come.
    pub(super) fn unless_stopped<T>(&self, done: Result<T, Stop>) -> Result<Option<T>, Error> {
        match done {
            Ok(value) => Ok(Some(value)),
            Err(Stop::Error(why)) => Err(why),
            Err(Stop::Userfault(message)) => {
                let filled = self.vm.wait_for_userfault(message, Waits::Kernel) == FaultOutcome::Done;
                if filled { Ok(None) } else { Err(Error::BadAddress) }
            }
        }
    }

    /// Finds the mapping at `va`.
    ///
    /// # Locks
    /// Takes the mmap lock for reading, which the area keeps.
    ///
    /// # Errors
    /// [`Error::BadAddress`] if there is none, or it does not allow the access.
    pub(super) fn area(&self, va: Va, flags: PinFlags) -> Result<Area<'v, M>, Error> {
        let guard = self.read();
        let found = guard.slot().tree.find_containing(self.vm.nodes(), va);
        let (range, id) = found.ok_or(Error::BadAddress)?;
        let vma = self.vm.vma(id).flags();
        check_vma_flags(vma, flags)?;
        Ok(Area { vm: self.vm, guard, id, vma, flags, end: range.end })
    }
}

/// What a walk ended at, locked.
pub(super) enum Held<'a, 'v, M: Machine> {
    /// Entries of a table.
    Table(PteGuard<'a, M, MmapReadGuard<'v, M>>),
    /// A leaf, which is all entries of its addresses at once.
    Leaf(LeafGuard<'a, M, MmapReadGuard<'v, M>>),
}

impl<'a, M: Machine> Held<'a, '_, M> {
    /// The addresses.
    fn range(&self) -> VaRange {
        match self {
            Self::Table(entries) => entries.table().range(),
            Self::Leaf(leaf) => leaf.range(),
        }
    }

    fn is_writable(&self, va: Va) -> bool {
        match self {
            Self::Table(entries) => matches!(entries.get(va), Pte::Present(page) if page.prot.write),
            Self::Leaf(leaf) => matches!(leaf.get(), Entry::Leaf(leaf) if leaf.prot.write),
        }
    }

    fn is_soft_clean(&self, va: Va) -> bool {
        match self {
            Self::Table(entries) => matches!(entries.get(va), Pte::Present(page) if page.soft_clean),
            Self::Leaf(leaf) => matches!(leaf.get(), Entry::Leaf(leaf) if leaf.soft_clean),
        }
    }

    #[doc(alias("follow_page_pte", "follow_trans_huge_pmd"))]
    fn pin(&self, va: Va) -> PinEntry<'a, M> {
        match self {
            Self::Table(entries) => entries.pin(va),
            Self::Leaf(leaf) => leaf.pin(va),
        }
    }
}

impl<'v, M: Machine> Area<'v, M> {
    /// The entries of `va`, locked: those of its table, or the leaf; `None` if there is neither.
    pub(super) fn lock(&self, va: Va) -> Option<Held<'_, 'v, M>> {
        match self.guard.slot().space.walk(&self.vm.frames, &self.guard, va)? {
            Walked::Table(table) => Some(Held::Table(table.lock())),
            Walked::Leaf(place) => match place.lock() {
                Locked::Leaf(leaf) => Some(Held::Leaf(leaf)),
                Locked::Table(table) => Some(Held::Table(table.lock())),
                Locked::None => None,
            },
        }
    }

    /// Pins pages from the end of `pinned` up to `end`, or the end of the mapping.
    ///
    /// # Errors
    /// As [`Mm::pin`].
    pub(super) fn pin(&self, pinned: &mut PinnedRange<'v, M>, end: Va) -> Result<(), Stop> {
        let end = end.min(self.end);
        while pinned.range().end < end {
            let rest = VaRange { start: pinned.range().end, end };
            if let Next::Fault(access) = self.pin_present(pinned, rest)? {
                self.fault(pinned.range().end, access)?;
            }
        }
        Ok(())
    }

    /// Pins pages that are there, from the start of `rest` on, as far as its table and they go.
    fn pin_present(&self, pinned: &mut PinnedRange<'v, M>, rest: VaRange) -> Result<Next, Error> {
        let Some(entries) = self.lock(rest.start) else { return Ok(Next::Fault(first_access(self.flags))) };
        let end = rest.end.min(entries.range().end);
        let before = pinned.pages().0;
        let mut va = rest.start;
        let mut next = Ok(Next::Page);
        while va < end {
            next = self.pin_entry(&entries, va, pinned);
            if !matches!(next, Ok(Next::Page)) {
                break;
            }
            va = va.next_page();
        }
        drop(entries);
        pinned.lengthen();
        self.vm.events.add(Event::PinSlow, pinned.pages().0 - before);
        next
    }

    /// Pins the page of one entry, if it is there for what the flags say.
    #[doc(alias = "follow_page_pte")]
    fn pin_entry(
        &self,
        entries: &Held<'_, 'v, M>,
        va: Va,
        pinned: &mut PinnedRange<'v, M>,
    ) -> Result<Next, Error> {
        let flags = self.flags;
        if self.lacks_write(entries, va) {
            return Ok(Next::Fault(FaultAccess::Write));
        }
        let missing = match entries.pin(va) {
            PinEntry::Pinned(pin) => {
                if flags.contains(PinFlags::WRITE) {
                    mark_written(&pin);
                }
                pinned.list().push(pin)?;
                return Ok(Next::Page);
            }
            PinEntry::Zero if !flags.intersects(PinFlags::WRITE | PinFlags::LONGTERM) => {
                pinned.list().push_zero()?;
                return Ok(Next::Page);
            }
            PinEntry::TooManyPins => return Err(Error::PINS),
            PinEntry::NoPage => first_access(flags),
            PinEntry::Zero | PinEntry::Shared => match first_access(flags) {
                FaultAccess::Write => FaultAccess::Write,
                FaultAccess::Read | FaultAccess::Exec | FaultAccess::Unshare => FaultAccess::Unshare,
            },
        };
        Ok(Next::Fault(missing))
    }

    /// Whether a write needs an entry that allows it, and this one does not. A write that is forced leaves
    /// the entry read-only: that the page is the entry's own, and says that it is written, is all that it
    /// needs.
    #[doc(alias("can_follow_write_pte", "pte_needs_soft_dirty_wp"))]
    pub(super) fn lacks_write(&self, entries: &Held<'_, 'v, M>, va: Va) -> bool {
        let lacks = || match self.vma.contains(VmFlags::WRITE) {
            true => !entries.is_writable(va),
            false => entries.is_soft_clean(va),
        };
        self.flags.contains(PinFlags::WRITE) && lacks()
    }

    /// Faults a page in, or makes it the program's own, if the flags allow faults.
    ///
    /// # Errors
    /// [`Error::BadAddress`], [`Error::OutOfMemory`], [`Error::NodesFull`], a message that was sent.
    #[doc(alias = "faultin_page")]
    pub(super) fn fault(&self, va: Va, access: FaultAccess) -> Result<(), Stop> {
        if self.flags.contains(PinFlags::NOFAULT) {
            return Err(Error::BadAddress.into());
        }
        // What the mapping allows was asked by `check_vma_flags`, which knows of force.
        let fault = VmFault::new(self.vm, self.guard.slot(), &self.guard, self.id, va, access, Waits::Kernel);
        match handle_mm_fault(&fault) {
            FaultResult::Done => Ok(()),
            FaultResult::Userfault(message) => Err(Stop::Userfault(message)),
            FaultResult::Oom => Err(Error::OutOfMemory.into()),
            FaultResult::NodesFull(nodes) => Err(Error::NodesFull(nodes).into()),
            FaultResult::Segv | FaultResult::Bus | FaultResult::Lost => Err(Error::BadAddress.into()),
            FaultResult::Refused(why) => unreachable!("{why:?} under the mmap lock"),
            FaultResult::Reload => unreachable!("handle_mm_fault tries again by itself"),
        }
    }
}

/// Whether pages of a VMA may be taken so.
///
/// # Errors
/// [`Error::BadAddress`].
fn check_vma_flags(vma: VmFlags, flags: PinFlags) -> Result<(), Error> {
    let force = flags.contains(PinFlags::FORCE);
    let allowed = if flags.contains(PinFlags::WRITE) {
        // Force never writes to what others have, too.
        vma.contains(VmFlags::WRITE) || force && vma.is_cow()
    } else {
        vma.contains(VmFlags::READ) || force && vma.contains(VmFlags::MAYREAD)
    };
    if allowed { Ok(()) } else { Err(Error::BadAddress) }
}

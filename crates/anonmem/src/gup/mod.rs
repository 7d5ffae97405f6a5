//! Pinning pages of a program, for a device or whoever else reads and writes them behind the page tables'
//! back.
//!
//! A pin promises that the page stays the one that the program sees at its address. The promise ends when the
//! pin is dropped or the program itself unmaps the page. So only a page is pinned that nobody else has;
//! docs/pins.md says who keeps which part of the promise.
//!
//! ```text
//!   pin ──▶ for each page: may the mapping be accessed so?  no ─▶ BadAddress
//!             │
//!             ├─ an exclusive page, or a shared object's, and the entry allows it ──▶ pinned
//!             ├─ the zero page, to be read for a moment ────────────────────────────▶ a run without a pin
//!             └─ else a fault, and again:
//!                  nothing there, swapped ──▶ a read or write fault
//!                  not writable           ──▶ a write fault     (copies what is shared)
//!                  shared, to be read     ──▶ an unshare fault  (copies it; it stays read-only)
//! ```
//!
//! Linux: mm/gup.c `__get_user_pages`, `check_vma_flags`, `faultin_page`, `gup_must_unshare`. Differs: a
//! range is pinned as a whole or not at all. Pins are counted apart from references, so a page never looks
//! pinned that is not.

mod fast;
mod pinned;
#[cfg(test)]
mod tests;

pub use pinned::{PinnedRange, Unpin};

use crate::{
    error::Error,
    events::Event,
    fault::{
        handle_mm_fault,
        vm_fault::{FaultAccess, FaultOutcome, FaultResult, VmFault, Waits},
    },
    ids::{UffdMessageId, VmaId},
    mm::{Mm, mmap_lock::MmapReadGuard},
    vma::flags::VmFlags,
};
use anonmem_hal::{Arch, Machine, PAGE_SIZE, Pte, Va, VaRange};
use anonmem_pgtable::{PinEntry, PteGuard};
use pinned::{Charge, mark_written};

/// Pages that are pinned before the mmap lock is let go for a moment.
const BATCH: u64 = 256;

bitflags::bitflags! {
    /// How pages are pinned. Linux: `FOLL_*`.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct PinFlags: u32 {
        /// The pages will be written.
        const WRITE = 1 << 0;
        /// They stay pinned for as long as their user likes: not even the zero page is taken as it is, and
        /// they count as locked memory.
        const LONGTERM = 1 << 1;
        /// Only what needs no fault.
        const NOFAULT = 1 << 2;
        /// As a debugger: also what the mapping does not allow now, if it may come to allow it, and is
        /// private.
        const FORCE = 1 << 3;
    }
}

/// What a page needs before it can be pinned.
enum Next {
    /// Nothing: it is, or is the zero page.
    Page,
    /// A fault.
    Fault(FaultAccess),
}

impl<'v, M: Machine> Mm<'v, M> {
    /// Pins the pages that `range` touches, all of them or none.
    ///
    /// Anybody may ask, of any address space that he has an [`Mm`] of (Linux: `pin_user_pages`,
    /// `pin_user_pages_remote`).
    ///
    /// ```
    /// # use anonmem::*;
    /// # use anonmem_testkit::Program;
    /// # anonmem_testkit::example(|_, mm| {
    /// let start = mm.mmap(MmapRequest::anonymous(4 * 4096, Prot::READ | Prot::WRITE))?;
    /// let pinned = mm.pin(VaRange { start, end: Va(start.0 + 4096) }, PinFlags::WRITE)?;
    /// assert_eq!(pinned.pages().0, 1);
    /// mm.store(start, 7)?;
    /// # Ok(())
    /// # });
    /// ```
    ///
    /// # Locks
    /// The mmap lock for reading, again and again. Sleeps.
    ///
    /// # Errors
    /// [`Error::BadAddress`] if a page is not mapped, or its mapping does not allow the access, or it cannot
    /// be had, or it needs a fault and the flags forbid one; [`Error::Limit`] if a page is pinned 2^16 times,
    /// or more would be pinned for long than may be locked; [`Error::OutOfMemory`].
    #[doc(alias = "pin_user_pages")]
    pub fn pin(&self, range: VaRange, flags: PinFlags) -> Result<PinnedRange<'v, M>, Error> {
        let range = whole_pages::<M>(range)?;
        self.vm.reclaiming(|| {
            let mut pinned = self.begin(range, flags)?;
            self.pin_rest(&mut pinned, range, flags)?;
            Ok(pinned)
        })
    }

    /// A range that nothing is pinned of yet, charged for all of it.
    fn begin(&self, range: VaRange, flags: PinFlags) -> Result<PinnedRange<'v, M>, Error> {
        let long = flags.contains(PinFlags::LONGTERM);
        let charge = long.then(|| Charge::new(self, range.pages())).transpose()?;
        Ok(PinnedRange::new(self, range.start, charge))
    }

    /// Pins what of `range` is not pinned yet.
    fn pin_rest(
        &self,
        pinned: &mut PinnedRange<'v, M>,
        range: VaRange,
        flags: PinFlags,
    ) -> Result<(), Error> {
        while pinned.range().end < range.end {
            let start = pinned.range().end;
            let batch = Va(start.0.saturating_add(BATCH * PAGE_SIZE as u64)).min(range.end);
            let guard = self.read();
            let found = guard.slot().tree.find_containing(self.vm.nodes(), start);
            let (mapped, id) = found.ok_or(Error::BadAddress)?;
            check_vma_flags(self.vm.vma(id).flags(), flags)?;
            let part = VaRange { start, end: batch.min(mapped.end) };
            if let Some(message) = self.pin_in_vma(&guard, id, pinned, part, flags)? {
                drop(guard);
                if self.vm.wait_for_userfault(message, Waits::Kernel) != FaultOutcome::Done {
                    return Err(Error::BadAddress);
                }
            }
        }
        Ok(())
    }

    /// Pins the pages of `part`, which is in one VMA; or stops at one that a userfaultfd was sent a message
    /// about, which it returns.
    fn pin_in_vma(
        &self,
        guard: &MmapReadGuard<'_, M>,
        id: VmaId,
        pinned: &mut PinnedRange<'v, M>,
        part: VaRange,
        flags: PinFlags,
    ) -> Result<Option<UffdMessageId>, Error> {
        anonmem_hal::debug_check_eq!(M, guard.id(), self.id, "the lock of another address space");
        let vma = self.vm.vma(id).flags();
        while pinned.range().end < part.end {
            let rest = VaRange { start: pinned.range().end, end: part.end };
            let stopped = self.pin_present(guard, vma, pinned, rest, flags)?;
            let Next::Fault(access) = stopped else { continue };
            if flags.contains(PinFlags::NOFAULT) {
                return Err(Error::BadAddress);
            }
            let waits = self.fault_for_pin(guard, id, pinned.range().end, access)?;
            if waits.is_some() {
                return Ok(waits);
            }
        }
        Ok(None)
    }

    /// Pins pages that are there, from the start of `rest` on, as far as its table and they go.
    fn pin_present(
        &self,
        guard: &MmapReadGuard<'_, M>,
        vma: VmFlags,
        pinned: &mut PinnedRange<'v, M>,
        rest: VaRange,
        flags: PinFlags,
    ) -> Result<Next, Error> {
        let Some(table) = guard.slot().space.walk(&self.vm.frames, guard, rest.start) else {
            return Ok(Next::Fault(first_access(flags)));
        };
        let end = rest.end.min(table.range().end);
        let before = pinned.pages().0;
        let entries = table.lock();
        let mut va = rest.start;
        let mut next = Ok(Next::Page);
        while va < end {
            next = pin_entry(&entries, va, vma, pinned, flags);
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

    /// Faults a page in, or makes it the program's own, or returns the message that a userfaultfd was sent.
    #[doc(alias = "faultin_page")]
    fn fault_for_pin(
        &self,
        guard: &MmapReadGuard<'_, M>,
        id: VmaId,
        va: Va,
        access: FaultAccess,
    ) -> Result<Option<UffdMessageId>, Error> {
        // What the mapping allows was asked by `check_vma_flags`, which knows of force.
        let fault = VmFault::new(self.vm, guard.slot(), guard, id, va, access, Waits::Kernel);
        match handle_mm_fault(&fault) {
            FaultResult::Done => Ok(None),
            FaultResult::Userfault(message) => Ok(Some(message)),
            FaultResult::Oom => Err(Error::OutOfMemory),
            FaultResult::Segv | FaultResult::Bus => Err(Error::BadAddress),
            FaultResult::Refused(why) => unreachable!("{why:?} under the mmap lock"),
            FaultResult::Reload => unreachable!("handle_mm_fault tries again by itself"),
        }
    }
}

/// Pins the page of one entry, if it is there for what the flags say.
#[doc(alias = "follow_page_pte")]
fn pin_entry<M: Machine>(
    entries: &PteGuard<'_, M, MmapReadGuard<'_, M>>,
    va: Va,
    vma: VmFlags,
    pinned: &mut PinnedRange<'_, M>,
    flags: PinFlags,
) -> Result<Next, Error> {
    let writable = matches!(entries.get(va), Pte::Present(present) if present.prot.write);
    // A write that is forced leaves the entry read-only: that the page is the entry's own is all that it
    // needs.
    if flags.contains(PinFlags::WRITE) && !writable && vma.contains(VmFlags::WRITE) {
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

/// The fault that a page takes that is not there.
fn first_access(flags: PinFlags) -> FaultAccess {
    if flags.contains(PinFlags::WRITE) { FaultAccess::Write } else { FaultAccess::Read }
}

/// Whether pages of a VMA may be pinned so.
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

/// The pages that `range` touches.
///
/// # Errors
/// [`Error::BadAddress`] if it leaves the address space.
fn whole_pages<M: Machine>(range: VaRange) -> Result<VaRange, Error> {
    match range.end.page_up() {
        Some(end) if range.start <= range.end && end <= M::Arch::USER_END => {
            Ok(VaRange { start: range.start.page_down(), end })
        }
        Some(_) | None => Err(Error::BadAddress),
    }
}

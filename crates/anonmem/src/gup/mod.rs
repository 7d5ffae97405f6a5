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
//! | file | what |
//! |---|---|
//! | `area.rs` | a mapping that allows the access, under the mmap lock; pages of it, pinned |
//! | `fast.rs` | pins without a lock |
//! | `look.rs` | a reference for who only looks |
//! | `remote.rs` | bytes in and out of any address space |
//! | `pinned.rs` | who owns the pins |
//!
//! Linux: mm/gup.c `__get_user_pages`, `gup_must_unshare`. Differs: a range is pinned as a whole or not at
//! all, unless the caller asks for a part. Pins are counted apart from references, so a page never looks
//! pinned that is not.

mod area;
mod fast;
mod look;
mod pinned;
mod remote;
#[cfg(test)]
mod tests;

pub use look::PageLook;
pub use pinned::{PartlyPinned, PinnedRange, Unpin};
pub use remote::RemoteBytes;

use crate::{error::Error, fault::vm_fault::FaultAccess, mm::Mm, rmap::machine::Machine};
use anonmem_frame::PinAccess;
use anonmem_hal::{Arch, PAGE_SIZE, Va, VaRange};
use pinned::Charge;

/// Pages that are taken before the mmap lock is let go for a moment.
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

/// What a page needs before it can be taken.
enum Next {
    /// Nothing: it is.
    Page,
    /// A fault.
    Fault(FaultAccess),
}

impl<'v, M: Machine> Mm<'v, M> {
    /// Pins the pages that `range` touches, all of them or none.
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
    /// Anybody may ask, of any address space that he has an [`Mm`] of; long-term pins are charged to it.
    ///
    /// # Locks
    /// The mmap lock for reading, again and again. Sleeps.
    ///
    /// # Errors
    /// [`Error::BadAddress`] if a page is not mapped, or its mapping does not allow the access, or it cannot
    /// be had, or it needs a fault and the flags forbid one; [`Error::Limit`] if a page is pinned 2^16 times,
    /// or more would be pinned for long than may be locked; [`Error::OutOfMemory`]; [`Error::Interrupted`] if
    /// the program that is worked for is being killed.
    #[doc(alias = "pin_user_pages")]
    pub fn pin(&self, range: VaRange, flags: PinFlags) -> Result<PinnedRange<'v, M>, Error> {
        self.pin_remote(self, range, flags)
    }

    /// Pins pages of another address space. Long-term pins are charged to this one, whose user decides when
    /// they end.
    ///
    /// # Locks
    /// As [`pin`](Self::pin), those of `of`.
    ///
    /// # Errors
    /// As [`pin`](Self::pin).
    #[doc(alias = "pin_user_pages_remote")]
    pub fn pin_remote(
        &self,
        of: &Self,
        range: VaRange,
        flags: PinFlags,
    ) -> Result<PinnedRange<'v, M>, Error> {
        let range = whole_pages::<M>(range)?;
        let mut pinned = self.begin(range, flags)?;
        of.pin_rest(&mut pinned, range, flags)?;
        Ok(pinned)
    }

    /// Pins pages of `range` from its start on, up to the first that cannot be had, and says why not.
    ///
    /// # Locks
    /// As [`pin`](Self::pin).
    ///
    /// # Errors
    /// As [`pin`](Self::pin), if not even the first page can be had.
    pub fn pin_some(&self, range: VaRange, flags: PinFlags) -> Result<PartlyPinned<'v, M>, Error> {
        let range = whole_pages::<M>(range)?;
        let mut pinned = self.begin(range, flags)?;
        let stopped = self.pin_rest(&mut pinned, range, flags).err();
        match stopped {
            Some(why) if pinned.pages().0 == 0 => Err(why),
            stopped => {
                pinned.charge_only_what_is_there();
                Ok(PartlyPinned { pinned, stopped })
            }
        }
    }

    /// A range that nothing is pinned of yet, charged for all of it.
    fn begin(&self, range: VaRange, flags: PinFlags) -> Result<PinnedRange<'v, M>, Error> {
        let long = flags.contains(PinFlags::LONGTERM);
        let charge = long.then(|| Charge::new(self, range.pages())).transpose()?;
        Ok(PinnedRange::new(self, range.start, access_of(flags), charge))
    }

    /// Pins what of `range` is not pinned yet.
    ///
    /// What is pinned stays so while memory is reclaimed. If it were let go, and reclaimed, the next attempt
    /// would bring it back and find no more memory than this one: a range that is larger than memory would be
    /// tried for ever.
    fn pin_rest(
        &self,
        pinned: &mut PinnedRange<'v, M>,
        range: VaRange,
        flags: PinFlags,
    ) -> Result<(), Error> {
        while pinned.range().end < range.end {
            if M::is_dying() {
                return Err(Error::Interrupted);
            }
            self.vm.reclaiming(|| {
                let start = pinned.range().end;
                let batch = Va(start.0.saturating_add(BATCH * PAGE_SIZE as u64)).min(range.end);
                let pinning = self.area(start, flags)?.pin(pinned, batch);
                self.unless_stopped(pinning)
            })?;
        }
        Ok(())
    }
}

/// What pages with these flags are pinned for.
fn access_of(flags: PinFlags) -> PinAccess {
    if flags.contains(PinFlags::WRITE) { PinAccess::Write } else { PinAccess::Read }
}

/// The fault that a page takes that is not there.
fn first_access(flags: PinFlags) -> FaultAccess {
    if flags.contains(PinFlags::WRITE) { FaultAccess::Write } else { FaultAccess::Read }
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

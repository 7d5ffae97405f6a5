//! Pinning without any lock.
//!
//! The pages of a program that has touched its buffer are there, writable and its own. Nothing is to be asked
//! of a VMA then, because an entry never allows more than its VMA. So the page tables are walked in an RCU
//! section, and each page is pinned and its entry looked at again. Fork's sequence says whether a child came
//! to share the pages meanwhile. The protocol, both halves of it, is in
//! `anonmem-frame/src/folio/pin_protocol.rs`.
//!
//! Whatever this cannot do is left to the slow path, from the page on where it stopped.
//!
//! Linux: mm/gup.c `gup_fast_fallback`.

use super::{
    PinFlags, access_of,
    pinned::{PinnedRange, mark_written},
    whole_pages,
};
use crate::{error::Error, events::Event, mm::Mm, rmap::machine::Machine};
use anonmem_frame::PinAccess;
use anonmem_hal::{PAGE_SIZE, Va, VaRange};
use anonmem_pgtable::PIN_FAST_ROOM;

/// Pages that are pinned in one read section: page tables that were unlinked wait for its end.
const SECTION: u64 = 512;

impl<'v, M: Machine> Mm<'v, M> {
    /// Pins the pages that `range` touches, all of them or none: those that are there without any lock of the
    /// address space.
    ///
    /// What [`PinFlags::FORCE`] allows is asked of the mapping, so force takes the slow path at once.
    ///
    /// # Locks
    /// The mmap lock for reading where a page needs a fault, and to look the limit on long-term pins up.
    /// Sleeps.
    ///
    /// # Errors
    /// As [`pin`](Self::pin).
    #[doc(alias = "pin_user_pages_fast")]
    pub fn pin_fast(&self, range: VaRange, flags: PinFlags) -> Result<PinnedRange<'v, M>, Error> {
        let range = whole_pages::<M>(range)?;
        let mut pinned = self.begin(range, flags)?;
        if !flags.contains(PinFlags::FORCE) {
            // What is pinned stays so while memory for the list is reclaimed.
            self.vm.reclaiming(|| self.pin_unlocked(&mut pinned, range, flags))?;
        }
        if pinned.range().end < range.end {
            self.vm.count(Event::PinFastRefused);
            self.pin_rest(&mut pinned, range, flags)?;
        }
        Ok(pinned)
    }

    /// Pins what can be pinned without a lock, from the start of `range` on.
    fn pin_unlocked(
        &self,
        pinned: &mut PinnedRange<'v, M>,
        range: VaRange,
        flags: PinFlags,
    ) -> Result<(), Error> {
        let access = access_of(flags);
        // Runs may be long: much room is made only where they are not.
        let mut room = PIN_FAST_ROOM;
        while pinned.range().end < range.end {
            let start = pinned.range().end;
            let end = Va(start.0.saturating_add(SECTION * PAGE_SIZE as u64)).min(range.end);
            let part = VaRange { start, end };
            // A frame for a node may be hard to come by: not in the read section.
            pinned.list().reserve(part.pages().0.min(room))?;
            let done = self.pin_in_section(part, access, pinned.list());
            self.vm.events.add(Event::PinFast, VaRange { start, end: done.end }.pages().0);
            pinned.lengthen();
            if access == PinAccess::Write && done.any_lazyfree {
                pinned.list().for_each_folio(|folio| mark_written(folio));
            }
            // Where it stopped for want of room it goes on.
            if done.end == start {
                break;
            }
            room = if done.end < end { SECTION } else { PIN_FAST_ROOM };
        }
        Ok(())
    }
}

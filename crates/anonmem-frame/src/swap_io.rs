//! What moves pages to a swap device and back, for who owns both ends: counts of the slots, and the page.
//!
//! A device writes to the frame that it is told. So a number is not enough here: a page that is read is
//! locked, and belongs to nothing yet.
//!
//! Linux: mm/page_io.c `swap_writeout`, `swap_read_folio`.

use crate::{FolioGuard, FolioRef, Frames, Mapping, SwapCount, SwapCounts, SwapSlots, swap::FreedSlot};
use anonmem_hal::{IoError, Machine, Order, SwapEntry};

impl<M: Machine> SwapSlots<M> {
    /// Writes a single page to the slot that the caller has a count of. May sleep.
    ///
    /// # Errors
    /// [`IoError`].
    ///
    /// # Panics
    /// If the page is of other frames, or more than one.
    pub fn write(&self, count: &SwapCount<'_, M>, page: &FolioRef<'_, M>) -> Result<(), IoError> {
        assert_eq!(page.folio().owned_order(), Order::ZERO, "one slot for a large folio");
        self.write_from(count.entry(), count.frames(), page)
    }

    /// Writes all pages of a folio to as many slots, each of which the caller has a count of. May sleep.
    ///
    /// # Errors
    /// [`IoError`].
    ///
    /// # Panics
    /// If there are fewer slots than pages, or the folio is of other frames.
    pub fn write_run(&self, counts: &SwapCounts<'_, M>, folio: &FolioRef<'_, M>) -> Result<(), IoError> {
        let pages = folio.folio().owned_order().pages();
        assert_eq!(counts.in_run(0, pages), pages, "a slot for each page");
        self.write_from(counts.first(), counts.frames(), folio)
    }

    fn write_from(
        &self,
        first: SwapEntry,
        frames: &Frames<M>,
        folio: &FolioRef<'_, M>,
    ) -> Result<(), IoError> {
        let (device, order) = (self.device_of(first), folio.folio().owned_order());
        assert!(core::ptr::eq(folio.folio().frames(), frames), "a page of other frames");
        // SAFETY: the caller has counts of the slots, and a reference to the pages; `frames` are those of the
        // machine.
        unsafe { frames.machine().swap_write(device, first.offset, order, folio.pfn(), frames) }
    }

    /// Fills a locked folio, which belongs to nothing yet, with what the slots from `first` on hold: in one
    /// piece, unless some hold zeroes and others do not. May sleep.
    ///
    /// # Errors
    /// [`IoError`].
    ///
    /// # Panics
    /// If the folio belongs to something, or is mapped.
    pub fn read(&self, first: SwapEntry, lock: &FolioGuard<'_, M>) -> Result<(), IoError> {
        let (folio, device) = (lock.folio(), self.device_of(first));
        let new = folio.mapping() == Mapping::None && folio.counts().maps() == 0;
        assert!(new, "{folio:?} is read from a swap device again");
        let (frames, order) = (folio.frames(), folio.owned_order());
        let is_zero = |nth: u64| self.state(frames, first.offset + nth).zero;
        let zeroes = (0..order.pages()).filter(|&nth| is_zero(nth)).count() as u64;
        let fill = |nth: u64, order: Order, zeroes: bool| {
            let (machine, page) = (frames.machine(), folio.pfn().offset(nth));
            if zeroes {
                // SAFETY: the folio is locked, nobody maps it, and its bytes are nothing yet.
                unsafe { machine.zero(page, order) };
                return Ok(());
            }
            // SAFETY: as above.
            unsafe { machine.swap_read(device, first.offset + nth, order, page) }
        };
        if zeroes == 0 || zeroes == order.pages() {
            return fill(0, order, zeroes != 0);
        }
        (0..order.pages()).try_for_each(|nth| fill(nth, Order::ZERO, is_zero(nth)))
    }

    /// Tells the device that nobody needs what it has of a slot.
    pub fn discard(&self, frames: &Frames<M>, slot: &FreedSlot) {
        // SAFETY: the last count of the slot was dropped, and it cannot be claimed before it is finished.
        unsafe { frames.machine().swap_discard(self.device(), slot.offset(), frames) };
    }
}

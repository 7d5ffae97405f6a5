//! Blocks of frames: out of the buddy lists and back, with their marks and counters.
//!
//! Single pages come from the current CPU's magazines (`pcp.rs`), everything larger from here.
//!
//! Locks: the zone lock, in [`Frames::with_buddy`].
//!
//! Linux: mm/page_alloc.c `get_page_from_freelist`, `free_one_page`.

use crate::{
    buddy::Buddy,
    class::Class,
    frames::{Frames, OutOfMemory},
    meta::{Kind, flags},
};
use anonmem_hal::{Machine, Order, Pfn};
use anonmem_sync::Ordering::Relaxed;

/// What tells a block of one size from those of others, and from a page whose frame goes out of use.
const SIZE_OR_BAD: u32 = 15 << flags::ORDER_SHIFT | flags::BAD;

impl<M: Machine> Frames<M> {
    /// Allocates 2^order frames as `kind`, unless the machine refuses.
    ///
    /// The bytes are whatever they were. The metadata of the first frame is 0 but for kind and order; the
    /// others are [`Kind::Tail`] with the first frame's number in `mapping`.
    #[inline]
    pub(crate) fn alloc_block(&self, order: Order, kind: Kind) -> Result<Pfn, OutOfMemory> {
        if self.machine().admit() { self.alloc_admitted(order, kind) } else { Err(OutOfMemory) }
    }

    /// [`alloc_block`](Self::alloc_block) for who has asked the machine already.
    #[inline]
    pub(crate) fn alloc_admitted(&self, order: Order, kind: Kind) -> Result<Pfn, OutOfMemory> {
        let class = Class::of(kind).expect("only an allocated kind is allocated");
        let index = match self.take(order, kind, class) {
            Some(index) => index,
            None => self.take_hard(order, kind, class)?,
        };
        Ok(self.made(index, order, kind))
    }

    /// A frame for a slab, of which names can tell. The machine has admitted it.
    pub(crate) fn alloc_for_names(&self) -> Result<Pfn, OutOfMemory> {
        if self.memmap.first_free() == 0 {
            return self.alloc_admitted(Order::ZERO, Kind::Slab);
        }
        let index = self.with_buddy(|buddy| {
            let next = buddy.set_aside.next()?;
            self.used_large.add(Class::Slab, 1);
            Some(next)
        });
        Ok(self.made(index.ok_or(OutOfMemory)?, Order::ZERO, Kind::Slab))
    }

    /// Whether all frames that were set aside for slabs are theirs.
    pub fn is_out_of_names(&self) -> bool {
        self.memmap.first_free() > 0 && self.with_buddy(|buddy| buddy.set_aside.is_empty())
    }

    /// Marks a block that was taken.
    #[inline(always)]
    pub(crate) fn made(&self, index: u32, order: Order, kind: Kind) -> Pfn {
        let pfn = self.memmap.pfn(index);
        // SAFETY: the block has just left the lists.
        unsafe { self.machine().allocated(pfn, order) };
        self.memmap.at(index).reset(kind.bits(order), 0);
        if order != Order::ZERO {
            self.init_tails(index, order);
        }
        pfn
    }

    /// [`alloc_block`](Self::alloc_block), but what is not at hand is not looked for: for who will take less.
    pub(crate) fn alloc_block_gently(&self, order: Order, kind: Kind) -> Result<Pfn, OutOfMemory> {
        let class = Class::of(kind).expect("only an allocated kind is allocated");
        if !self.machine().admit() {
            return Err(OutOfMemory);
        }
        let index = self.take(order, kind, class).ok_or(OutOfMemory)?;
        Ok(self.made(index, order, kind))
    }

    #[inline(always)]
    fn take(&self, order: Order, kind: Kind, class: Class) -> Option<u32> {
        if order == Order::ZERO { self.take_page(class) } else { self.take_block(order, kind, class) }
    }

    /// Tries again with what the CPUs keep for themselves.
    #[cold]
    #[inline(never)]
    fn take_hard(&self, order: Order, kind: Kind, class: Class) -> Result<u32, OutOfMemory> {
        self.drain_pcp();
        self.take(order, kind, class).ok_or(OutOfMemory)
    }

    fn take_block(&self, order: Order, kind: Kind, class: Class) -> Option<u32> {
        let floor = if class.may_use_reserve() { 0 } else { self.watermarks.min.0 };
        self.with_buddy(|buddy| {
            if u64::from(buddy.free()) < floor + order.pages() {
                return None;
            }
            let index = buddy.take(&self.memmap, order, kind.bits(order))?;
            self.used_large.add(class, order.pages() as i64);
            self.note_peak(buddy, 0);
            Some(index)
        })
    }

    fn init_tails(&self, head: u32, order: Order) {
        let head_pfn = self.memmap.pfn(head).0;
        for meta in self.memmap.run(head + 1, order.pages() - 1) {
            meta.reset(Kind::Tail.bits(Order::ZERO), head_pfn);
        }
    }

    /// Frees the 2^order frames from `pfn` on, which the caller owns.
    ///
    /// # Panics
    /// If no block of that order is allocated there.
    #[inline]
    #[track_caller]
    pub(crate) fn free_block(&self, pfn: Pfn, order: Order) {
        let index = self.memmap.index(pfn);
        let meta = self.memmap.at(index);
        let bits = meta.flags.load(Relaxed);
        let is_that = bits & SIZE_OR_BAD == u32::from(order.get()) << flags::ORDER_SHIFT;
        let Some(class) = Class::of(Kind::of(bits)).filter(|_| is_that) else {
            return self.free_bad(pfn, order, bits);
        };
        // SAFETY: the caller owned the block, and gives it up.
        unsafe { self.machine().freed(pfn, order) };
        meta.mapping.store(0, Relaxed);
        if order == Order::ZERO {
            self.put_page(index, class);
        } else {
            self.put_block(index, order, class);
        }
    }

    fn put_block(&self, index: u32, order: Order, class: Class) {
        self.with_buddy(|buddy| {
            buddy.put(&self.memmap, index, order);
            self.used_large.add(class, -(order.pages() as i64));
        });
    }

    /// Runs `f` under the zone lock.
    pub(crate) fn with_buddy<R>(&self, f: impl FnOnce(&mut Buddy) -> R) -> R {
        let mut buddy = self.buddy.lock();
        let result = f(&mut buddy);
        self.buddy_free.set(u64::from(buddy.free()));
        result
    }
}

#[cold]
#[inline(never)]
#[track_caller]
pub(crate) fn not_allocated(pfn: Pfn, order: Order, flags: u32) -> ! {
    panic!(
        "freeing 2^{} frames at {:#x}, which is {:?} of 2^{}: freed twice, or never allocated like that",
        order.get(),
        pfn.0,
        Kind::of(flags),
        Kind::order_of(flags),
    )
}

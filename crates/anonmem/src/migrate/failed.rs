//! A frame that is failing, or has failed.
//!
//! While its bytes can be read, what is in it goes elsewhere. When they cannot, nobody reads them again. A
//! page whose bytes are in swap as well is read from there. Whoever has any other gets a marker, which traps.
//! Either way the frame is out of use for good.
//!
//! Linux: mm/memory-failure.c `memory_failure`, `soft_offline_page`. Differs: a page that a device may be
//! using stays, and is told of, so that the caller can end the program.

use super::{
    entries::{Waiting, follow, restore, try_to_migrate},
    evacuate::Effort,
    stays::Stays,
};
use crate::{events::Event, rmap::machine::Machine, vm::Vm};
use anonmem_frame::{FolioGuard, FolioOwner, FolioRef, Mapping, OutFor};
use anonmem_hal::{EntryBits, Marker, MigrationKind, Order, Pfn};
use anonmem_pgtable::TlbBatch;
use anonmem_sync::yield_now;
use core::ops::ControlFlow;

/// How often a frame is looked at that nobody has and that is not free.
const LOOKS: u32 = 8;

/// What is wrong with a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failure {
    /// It has needed correction so often that it will be lost soon (Linux: `MADV_SOFT_OFFLINE`).
    Soon,
    /// Its bytes are lost (Linux: `MADV_HWPOISON`).
    Lost,
}

/// What became of what was in it. The frame is out of use. Who had the page for a moment, by its number, may
/// have it still; then the frame goes out of use when he lets go of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FrameFate {
    /// Nothing was.
    Free,
    /// It went to another frame.
    Moved,
    /// It is read from swap when somebody wants it.
    InSwap,
    /// So many entries have a marker instead of it.
    Poisoned(u64),
}

impl<M: Machine> Vm<M> {
    /// Takes a frame out of use that is failing, for good.
    ///
    /// # Locks
    /// As [`evacuate`](Self::evacuate).
    ///
    /// # Errors
    /// Why what is in it stays, and so does the frame.
    #[doc(alias("memory_failure", "soft_offline_page"))]
    pub fn frame_failed(&self, frame: Pfn, failure: Failure) -> Result<FrameFate, Stays> {
        if self.condemn(frame) {
            return Ok(FrameFate::Free);
        }
        let fate = match failure {
            Failure::Soon => self.leave(frame),
            Failure::Lost => self.poison(frame),
        };
        match (self.condemn_freed(frame), fate) {
            // Who looks at a page by its number has it for a moment. It is marked by then.
            (true | false, Ok(fate)) => Ok(fate),
            // Those who had the page have let go of it meanwhile.
            (true, Err(_)) => Ok(FrameFate::Free),
            (false, Err(stays)) => Err(stays),
        }
    }

    /// Moves what is in the frame, until the frame is out of use or something stays.
    fn leave(&self, frame: Pfn) -> Result<FrameFate, Stays> {
        for _ in 0..LOOKS {
            let done = self.empty(frame..frame.offset(1), Effort::Full, OutFor::Good);
            if self.condemn(frame) {
                return Ok(FrameFate::Moved);
            }
            if done.kept.pinned > 0 {
                return Err(Stays::Pinned);
            }
            if done.kept.total() > 0 {
                break;
            }
            // It went, and somebody looks at the page that it was, or has the frame already.
            yield_now::<M>();
        }
        Err(Stays::Referenced)
    }

    /// The same as [`condemn`](Self::condemn), for a frame that nobody has, and that is still being freed.
    fn condemn_freed(&self, frame: Pfn) -> bool {
        for _ in 0..LOOKS {
            if self.condemn(frame) {
                return true;
            }
            if self.frames.folio(frame).is_none_or(|folio| folio.counts().total() > 0) {
                return false;
            }
            yield_now::<M>();
        }
        self.condemn(frame)
    }

    /// Takes the frame out of use for good if it is free; returns whether it is out of use.
    #[doc(alias = "SetPageHWPoison")]
    fn condemn(&self, frame: Pfn) -> bool {
        self.frames.take_offline(frame..frame.offset(1), OutFor::Good);
        self.frames.out_for(frame) == Some(OutFor::Good)
    }

    /// Takes the page in the frame from all who have it.
    fn poison(&self, frame: Pfn) -> Result<FrameFate, Stays> {
        let page = self.frames.try_get(frame).ok_or(Stays::NotAnonymous)?;
        let page = if page.folio().is_large() { self.single(page, frame)? } else { page };
        let lock = page.try_lock().ok_or(Stays::Locked)?;
        match lock.folio().mapping() {
            Mapping::Anon(_) | Mapping::Ksm(_) => {}
            Mapping::None | Mapping::Shm(_) => return Err(Stays::NotAnonymous),
        }
        let mut tlb = TlbBatch::new(&self.frames);
        let taken = try_to_migrate(self, &lock, &mut tlb, |_| ControlFlow::Continue(()));
        tlb.flush();
        let fate = match taken {
            ControlFlow::Break(()) => Err(Stays::Pinned),
            ControlFlow::Continue(()) => self.give_up(&lock),
        };
        match fate {
            Ok(_) => page.retire_when_freed(),
            Err(_) => restore(self, &lock),
        }
        fate
    }

    /// The page as a folio of its own.
    fn single<'v>(&'v self, page: FolioRef<'v, M>, frame: Pfn) -> Result<FolioRef<'v, M>, Stays> {
        {
            let lock = page.try_lock().ok_or(Stays::Locked)?;
            self.split_folio(&lock, &page, Order::ZERO).map_err(Stays::of_unsplit)?;
        }
        drop(page);
        self.frames.try_get(frame).ok_or(Stays::NotAnonymous)
    }

    /// Gives the entries that wait for the page what there is instead.
    fn give_up(&self, lock: &FolioGuard<'_, M>) -> Result<FrameFate, Stays> {
        // Without its device the page is cached nowhere.
        let device = lock.folio().swap_entry().map(|entry| self.swap_user(entry));
        if matches!(device, Some(None)) {
            return Err(Stays::SwapOff);
        }
        let slot = self.swap_dup_cached(lock);
        let cached = u64::from(slot.is_some());
        if !lock.is_referenced_only(1 + cached) {
            return Err(Stays::Referenced);
        }
        // A page that its device has not taken yet is in memory alone.
        if slot.as_ref().is_some_and(|slot| !self.swap_is_stored(slot.entry())) {
            return Err(Stays::Referenced);
        }
        let mut poisoned = 0;
        follow(self, lock, |Waiting { vacancy, hold, bits, slot: mm, .. }| {
            // The slot has the same bytes: a page that it caches, and that somebody maps, nobody writes to.
            let is_read = bits.kind == MigrationKind::Read;
            let count = slot.as_ref().filter(|_| is_read).and_then(|slot| slot.try_dup().ok());
            match count {
                Some(count) => {
                    vacancy.fill(count.into_count(), EntryBits::from(bits).to_swap());
                    self.add_swap(mm, 1);
                }
                None => {
                    vacancy.fill(Marker::Poisoned, ());
                    poisoned += 1;
                }
            }
            self.add_anon(mm, -1);
            drop(hold.unmap());
        });
        self.events.add(Event::FramePoisoned, poisoned);
        let fate = match (poisoned, &slot) {
            (0, Some(_)) => FrameFate::InSwap,
            // Those who had it let go of their entries while these waited.
            (0, None) => FrameFate::Free,
            (poisoned, _) => FrameFate::Poisoned(poisoned),
        };
        if let Some(slot) = slot {
            self.swap_uncache(slot.entry(), lock);
        }
        Ok(fate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Mm, PinFlags,
        testing::{M, P, RW, World, pages},
        vma::Backing,
    };
    use anonmem_hal::{PhysMem as _, Va};
    use anonmem_hosted::Trap;

    const AT: u64 = 16 * P;

    fn program(w: &World) -> Mm<'_, M> {
        let mm = w.vm.new_mm().unwrap();
        mm.map_raw(pages(16, 4), RW, Backing::Anonymous);
        (0..4).for_each(|nth| mm.store(AT + nth * P, 7).unwrap());
        mm
    }

    fn frame(mm: &Mm<'_, M>) -> Pfn {
        mm.pagemap(Va(AT)).pfn.unwrap()
    }

    #[test]
    fn a_frame_that_fails_soon_is_emptied_and_never_comes_back() {
        World::run(|w| {
            let mm = program(w);
            let bad = frame(&mm);
            assert_eq!(w.vm.frame_failed(bad, Failure::Soon), Ok(FrameFate::Moved));
            assert_ne!(frame(&mm), bad);
            assert_eq!((mm.load(AT), w.vm.stats().offline), (Ok(7), 1));
            assert_eq!(w.vm.frame_failed(bad, Failure::Soon), Ok(FrameFate::Free), "it is known");
            let base = w.vm.machine().base_pfn();
            assert_eq!(w.vm.give_back(base..base.offset(4096)), 0);
            w.vm.validate().unwrap();
            let pin = mm.pin(pages(16, 1), PinFlags::WRITE).unwrap();
            assert_eq!(w.vm.frame_failed(frame(&mm), Failure::Soon), Err(Stays::Pinned));
            assert_eq!(w.vm.frame_failed(frame(&mm), Failure::Lost), Err(Stays::Pinned));
            drop(pin);
            w.vm.validate().unwrap();
        });
    }

    #[test]
    fn whoever_has_a_lost_page_traps_and_nobody_else() {
        World::run(|w| {
            let mm = program(w);
            let child = mm.fork().unwrap();
            let bad = frame(&mm);
            assert_eq!(w.vm.frame_failed(bad, Failure::Lost), Ok(FrameFate::Poisoned(2)));
            assert_eq!((mm.load(AT), child.load(AT)), (Err(Trap::Bus), Err(Trap::Bus)));
            assert_eq!((mm.load(AT + P), mm.counters().rss().0), (Ok(7), 3));
            w.vm.validate().unwrap();
            mm.munmap(pages(16, 1)).unwrap();
            drop((mm, child));
            assert_eq!(w.vm.stats().offline, 1);
        });
    }

    #[test]
    fn who_has_a_lost_page_for_a_moment_is_the_last_one() {
        World::run(|w| {
            let mm = program(w);
            let page = w.vm.frames.try_get(frame(&mm)).unwrap();
            page.retire_when_freed();
            let bad = page.pfn();
            mm.munmap(pages(16, 1)).unwrap();
            w.vm.drain();
            assert_eq!((w.vm.frames.out_for(bad), w.vm.stats().offline), (None, 0));
            drop(page);
            assert_eq!((w.vm.frames.out_for(bad), w.vm.stats().offline), (Some(OutFor::Good), 1));
            w.vm.validate().unwrap();
            // A page that others free in a batch.
            let page = w.vm.frames.try_get(mm.pagemap(Va(AT + P)).pfn.unwrap()).unwrap();
            page.retire_when_freed();
            drop(page);
            drop(mm);
            w.vm.drain();
            assert_eq!(w.vm.stats().offline, 2);
            w.vm.validate().unwrap();
        });
    }

    #[test]
    fn what_its_device_has_not_taken_is_in_the_failed_frame_alone() {
        World::run(|w| {
            w.vm.swap_on(0, 64, 0).unwrap();
            let mm = program(w);
            let child = mm.fork().unwrap();
            let page = w.vm.frames.try_get(frame(&mm)).unwrap();
            w.swap.fail_every_write(1);
            assert!(!w.vm.reclaim_folio(page), "the page stays in the cache");
            w.swap.fail_every_write(0);
            assert_eq!((mm.load(AT), child.counters().swap.0), (Ok(7), 1));
            assert_eq!(w.vm.frame_failed(frame(&mm), Failure::Lost), Err(Stays::Referenced));
            w.vm.validate().unwrap();
            assert_eq!((mm.load(AT), child.load(AT)), (Ok(7), Ok(7)), "nobody reads what was never written");
            drop((mm, child));
            w.vm.swap_off(0).unwrap();
            assert_eq!(w.vm.stats().offline, 0);
        });
    }

    #[test]
    fn what_swap_has_is_read_from_there() {
        World::run(|w| {
            w.vm.swap_on(0, 64, 0).unwrap();
            let mm = program(w);
            let child = mm.fork().unwrap();
            let page = w.vm.frames.try_get(frame(&mm)).unwrap();
            assert!(w.vm.reclaim_folio(page));
            assert_eq!(mm.load(AT), Ok(7));
            let bad = frame(&mm);
            let fate = w.vm.frame_failed(bad, Failure::Lost);
            assert_eq!(fate, Ok(FrameFate::InSwap));
            assert_eq!((mm.load(AT), child.load(AT)), (Ok(7), Ok(7)));
            w.vm.validate().unwrap();
            drop((mm, child));
            w.vm.swap_off(0).unwrap();
        });
    }
}

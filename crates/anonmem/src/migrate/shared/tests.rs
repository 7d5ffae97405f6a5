//! Two programs that map the same object.

use super::*;
use crate::{
    Effort, PinFlags, UffdFaults, UffdFeatures,
    testing::{M, P, RW, World, pages},
};
use std::collections::BTreeSet;

const SHARED: VmFlags = RW.union(VmFlags::SHARED).difference(VmFlags::ACCOUNT);

fn frame(mm: &Mm<'_, M>, page: u64) -> Pfn {
    mm.load(page * P).unwrap();
    mm.pagemap(Va(page * P)).pfn.unwrap()
}

#[test]
fn pages_of_an_object_leave_a_range_and_everybody_finds_them() {
    World::run(|w| {
        let object = w.vm.shm_new(40).unwrap();
        let (one, two) = (w.vm.new_mm().unwrap(), w.vm.new_mm().unwrap());
        one.map_raw(pages(16, 40), SHARED, Backing::Shared(object.id()));
        two.map_raw(pages(80, 40), SHARED, Backing::Shared(object.id()));
        (0..40).for_each(|nth| one.store((16 + nth) * P, nth as u8 + 1).unwrap());
        (0..40).for_each(|nth| assert_eq!(two.load((80 + nth) * P), Ok(nth as u8 + 1)));
        let before: BTreeSet<_> = (0..40).map(|nth| frame(&one, 16 + nth)).collect();
        let range = *before.first().unwrap()..before.last().unwrap().offset(1);
        let done = w.vm.evacuate(range.clone(), Effort::Light);
        assert_eq!((done.kept.shared, done.kept.pinned, done.kept.busy), (0, 0, 0), "{done}");
        assert!(done.moved >= 40, "{done}");
        for nth in 0..40 {
            let at = frame(&one, 16 + nth);
            assert!(!range.contains(&at));
            assert_eq!((frame(&two, 80 + nth), two.load((80 + nth) * P)), (at, Ok(nth as u8 + 1)));
        }
        two.store(80 * P, 77).unwrap();
        assert_eq!((one.load(16 * P), one.counters().shared.0, two.counters().shared.0), (Ok(77), 40, 40));
        w.vm.validate().unwrap();
        w.vm.give_back(range);
    });
}

#[test]
fn a_page_that_moves_leaves_lost_ones_lost() {
    World::run(|w| {
        let object = w.vm.shm_new(2).unwrap();
        let mm = w.vm.new_mm().unwrap();
        mm.map_raw(pages(16, 2), SHARED, Backing::Shared(object.id()));
        let watcher = mm.userfaultfd(UffdFaults::Any).unwrap();
        watcher.agree(UffdFeatures::empty()).unwrap();
        watcher.register(Va(17 * P), P, crate::RegisterMode::MISSING).unwrap();
        assert_eq!(watcher.poison(Va(17 * P), P, crate::FillMode::empty()).bytes, P);
        drop(watcher);
        assert_eq!(mm.load(17 * P), Err(anonmem_hosted::Trap::Bus));
        let other = w.vm.new_mm().unwrap();
        other.map_raw(pages(16, 2), SHARED, Backing::Shared(object.id()));
        (16..18).for_each(|page| other.store(page * P, 7).unwrap());
        for page in [16, 17] {
            let at = frame(&other, page);
            assert!(matches!(w.vm.migrate_folio(w.vm.frames.try_get(at).unwrap()), Ok(crate::Went::To(_))));
        }
        assert_eq!((mm.load(16 * P), other.load(17 * P)), (Ok(7), Ok(7)));
        assert_eq!(mm.load(17 * P), Err(anonmem_hosted::Trap::Bus), "the marker stays");
        w.vm.validate().unwrap();
    });
}

#[test]
fn a_page_that_a_device_or_a_userfaultfd_has_stays() {
    World::run(|w| {
        let object = w.vm.shm_new(2).unwrap();
        let mm = w.vm.new_mm().unwrap();
        mm.map_raw(pages(16, 2), SHARED, Backing::Shared(object.id()));
        mm.store(16 * P, 7).unwrap();
        let page = || w.vm.frames.try_get(frame(&mm, 16)).unwrap();
        let pin = mm.pin(pages(16, 1), PinFlags::WRITE).unwrap();
        assert_eq!(w.vm.migrate_folio(page()), Err(Stays::Pinned));
        drop(pin);
        let held = page();
        assert_eq!(w.vm.migrate_folio(page()), Err(Stays::Referenced));
        drop(held);
        let watcher = mm.userfaultfd(UffdFaults::Any).unwrap();
        watcher.agree(UffdFeatures::empty()).unwrap();
        watcher.register(Va(16 * P), 2 * P, crate::RegisterMode::MISSING).unwrap();
        assert_eq!(w.vm.migrate_folio(page()), Err(Stays::Watched));
        drop(watcher);
        let old = frame(&mm, 16);
        assert!(matches!(w.vm.migrate_folio(page()), Ok(crate::Went::To(to)) if to != old));
        assert_eq!(mm.load(16 * P), Ok(7));
        assert_ne!(frame(&mm, 16), old);
        // Nobody maps it: it goes all the same.
        let at = frame(&mm, 16);
        mm.munmap(pages(16, 2)).unwrap();
        assert!(matches!(w.vm.migrate_folio(w.vm.frames.try_get(at).unwrap()), Ok(crate::Went::To(_))));
        w.vm.validate().unwrap();
    });
}

#[test]
fn blocks_are_made_where_shared_pages_lie() {
    World::run(|w| {
        let n = 3600;
        let object = w.vm.shm_new_sparse(n).unwrap();
        let mm = w.vm.new_mm().unwrap();
        mm.map_raw(pages(16, n), SHARED, Backing::Shared(object.id()));
        (0..n).for_each(|nth| mm.store((16 + nth) * P, (nth % 251) as u8).unwrap());
        // Every second page leaves the object.
        for nth in (0..n).step_by(2) {
            let part = VaRange::page(Va((16 + nth) * P));
            mm.madvise(part.start, P, crate::Advice::DontNeed).unwrap();
            mm.madvise(part.start, P, crate::Advice::Remove).unwrap();
        }
        w.vm.drain();
        let order = Order::new(6);
        let mut blocks: std::vec::Vec<_> = core::iter::from_fn(|| w.vm.frames.alloc(order).ok()).collect();
        let moved = w.vm.compact(order, Effort::Light).unwrap();
        assert!(moved <= order.pages(), "{moved}");
        blocks.push(w.vm.frames.alloc(order).unwrap());
        drop(blocks);
        (0..n).for_each(|nth| {
            let byte = if nth % 2 == 0 { 0 } else { (nth % 251) as u8 };
            assert_eq!(mm.load((16 + nth) * P), Ok(byte));
        });
        w.vm.validate().unwrap();
    });
}

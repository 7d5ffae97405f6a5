//! What a child gets, and what the parent keeps.

use crate::{
    Advice, Error, Event, MapBacking, MapFlags, Mm, MmapRequest, Overcommit, Prot,
    testing::{M, P, RW, World, first_page, pages},
    vma::{Backing, VmFlags},
};
use anonmem_hal::{Pte, Va};
use anonmem_hosted::FailurePlan;

const FIRST: u64 = 16;

fn at(page: u64) -> Va {
    Va((FIRST + page) * P)
}

/// A program with `n` pages, each with its number in it.
fn program(w: &World, n: u64, flags: VmFlags) -> Mm<'_, M> {
    let mm = w.vm.new_mm().unwrap();
    mm.map_raw(pages(FIRST, n), flags, Backing::Anonymous);
    (0..n).for_each(|i| mm.store(at(i).0, i as u8 + 1).unwrap());
    mm
}

fn page_out(w: &World, mm: &Mm<'_, M>, page: u64) {
    let folio = w.vm.frames.try_get(mm.pagemap(at(page)).pfn.unwrap()).unwrap();
    assert!(w.vm.reclaim_folio(folio));
}

#[test]
fn a_pinned_page_is_copied_and_those_around_it_are_shared() {
    World::run(|w| {
        let parent = program(w, 5, RW);
        let pins = [1, 3].map(|page| parent.pin_page(at(page)));
        let child = parent.fork().unwrap();
        for i in 0..5 {
            let (ours, theirs) = (parent.pagemap(at(i)), child.pagemap(at(i)));
            let pinned = i == 1 || i == 3;
            assert_eq!((ours.exclusive, theirs.exclusive), (pinned, pinned), "page {i}");
            assert_eq!(ours.pfn != theirs.pfn, pinned, "page {i}");
            if pinned {
                assert!(
                    theirs.dirty == ours.dirty && !theirs.young,
                    "page {i}: the child has not accessed it"
                );
            }
            assert_eq!(child.load(at(i).0), Ok(i as u8 + 1));
        }
        assert_eq!((child.counters().anon.0, w.vm.stats().event(Event::ForkCopied)), (5, 2));
        parent.store(at(1).0, 9).unwrap();
        assert_eq!((parent.pagemap(at(1)).pfn, child.load(at(1).0)), (Some(first_page(&pins[0])), Ok(2)));
        w.vm.validate().unwrap();
    });
}

#[test]
fn a_copy_of_a_pinned_page_that_cannot_be_had_fails_the_fork() {
    World::run(|w| {
        let parent = program(w, 3, RW);
        let _pin = parent.pin_page(at(1));
        let failed = w.fail_each_allocation(
            || (),
            |()| parent.fork().map(drop),
            |(), e| {
                assert_eq!(e, Error::OutOfMemory);
                assert!((0..3).all(|i| parent.pagemap(at(i)).exclusive));
                w.vm.validate().unwrap();
            },
        );
        assert!(failed > 5, "only {failed} failed");
    });
}

/// What the parent's entry of a page says: whether the page is known to be its own, and whether it may write.
fn own_and_writable(w: &World, mm: &Mm<'_, M>, page: u64) -> (bool, bool) {
    let guard = mm.read();
    match mm.slot().space.walk(&w.vm.frames, &guard, at(page)).unwrap().table().unwrap().peek(at(page)) {
        Pte::Present(p) => (!p.special && w.vm.frames.page_is_exclusive(p.pfn), p.prot.write),
        other => panic!("{other:?} at page {page}"),
    }
}

#[test]
fn after_a_fork_that_failed_the_parent_has_its_own_again_and_no_more() {
    World::run(|w| {
        let parent = program(w, 2, RW);
        // One page that another child has as well, one that is its own, and a zero page.
        let child = parent.fork().unwrap();
        child.munmap(pages(FIRST, 1)).unwrap();
        parent.store(at(0).0, 1).unwrap();
        parent.map_raw(pages(FIRST + 2, 2), RW | VmFlags::EXEC, Backing::Anonymous);
        parent.store(at(2).0, 3).unwrap();
        parent.load(at(3).0).unwrap();
        // By the time that this one is copied, the others are.
        parent.map_raw(pages(FIRST + 4, 1), RW, Backing::Anonymous);
        parent.store(at(4).0, 5).unwrap();
        let before = [0, 1, 2, 3, 4].map(|page| own_and_writable(w, &parent, page));
        assert_eq!(before, [(true, true), (false, false), (true, true), (false, false), (true, true)]);
        let failed = w.fail_each_allocation(
            || (),
            |()| parent.fork().map(drop),
            |(), e| {
                assert_eq!(e, Error::OutOfMemory);
                assert_eq!([0, 1, 2, 3, 4].map(|page| own_and_writable(w, &parent, page)), before);
                w.vm.validate().unwrap();
            },
        );
        assert!(failed > 5, "only {failed} failed");
        parent.store(at(1).0, 9).unwrap();
        assert_eq!((child.load(at(1).0), parent.load(at(1).0)), (Ok(2), Ok(9)));
    });
}

#[test]
fn after_a_fork_that_failed_the_parent_has_its_leaves_again_and_no_more() {
    World::run(|w| {
        let parent = w.vm.new_mm().unwrap();
        parent.map_raw(pages(512, 2 * 512), RW, Backing::Anonymous);
        // One leaf that another child has as well, and one that is its own.
        assert!(parent.fault_leaf(Va(512 * P)));
        parent.store(512 * P, 1).unwrap();
        let child = parent.fork().unwrap();
        assert!(parent.fault_leaf(Va(1024 * P)));
        parent.store(1024 * P, 2).unwrap();
        // By the time that this one is copied, the leaves are.
        parent.map_raw(pages(1 << 20, 1), RW, Backing::Anonymous);
        parent.store((1 << 20) * P, 5).unwrap();
        let own = |va| parent.pagemap(Va(va)).exclusive;
        let faults = || w.vm.stats().event(Event::FaultCowReuse) + w.vm.stats().event(Event::FaultCowCopy);
        let failed = w.fail_each_allocation(
            || (),
            |()| parent.fork().map(drop),
            |(), e| {
                assert_eq!(e, Error::OutOfMemory);
                assert_eq!((own(512 * P), own(1024 * P)), (false, true));
                let before = faults();
                parent.store(1024 * P, 2).unwrap();
                assert_eq!(faults(), before, "it may be written as before");
                w.vm.validate().unwrap();
            },
        );
        assert!(failed > 5, "only {failed} failed");
        parent.store(512 * P, 9).unwrap();
        assert_eq!((child.load(512 * P), parent.load(512 * P)), (Ok(1), Ok(9)));
    });
}

#[test]
fn pages_in_swap_belong_to_both() {
    World::run(|w| {
        w.vm.swap_on(0, 64, 0).unwrap();
        let parent = program(w, 2, RW);
        (0..2).for_each(|i| page_out(w, &parent, i));
        let child = parent.fork().unwrap();
        assert_eq!((child.counters().swap.0, parent.load(at(0).0)), (2, Ok(1)));
        parent.store(at(0).0, 8).unwrap();
        child.store(at(1).0, 9).unwrap();
        assert_eq!([0, 1].map(|i| child.load(at(i).0).unwrap()), [1, 9]);
        assert_eq!([0, 1].map(|i| parent.load(at(i).0).unwrap()), [8, 2]);
        w.vm.validate().unwrap();
        drop((parent, child));
        w.vm.swap_off(0).unwrap();
    });
}

#[test]
fn zero_pages_are_copied_only_beside_others() {
    World::run(|w| {
        let parent = w.vm.new_mm().unwrap();
        parent.map_raw(pages(FIRST, 2), RW, Backing::Anonymous);
        parent.load(at(0).0).unwrap();
        let child = parent.fork().unwrap();
        assert!(!child.pagemap(at(0)).present(), "a fault is cheaper than a walk");
        drop(child);
        parent.store(at(1).0, 1).unwrap();
        let child = parent.fork().unwrap();
        assert!(child.pagemap(at(0)).present() && child.pagemap(at(1)).present());
        w.vm.validate().unwrap();
    });
}

#[test]
fn tables_without_pages_are_not_copied() {
    World::run(|w| {
        let parent = program(w, 2, RW);
        // Another table, with nothing in it.
        let far = FIRST + 4096;
        parent.map_raw(pages(far, 1), RW, Backing::Anonymous);
        parent.store(far * P, 1).unwrap();
        let whole = parent.fork().unwrap().counters().tables.0;
        parent.madvise(Va(far * P), P, Advice::DontNeed).unwrap();
        assert!(parent.fork().unwrap().counters().tables.0 < whole);
    });
}

#[test]
fn what_is_wiped_belongs_to_no_family() {
    World::run(|w| {
        let parent = program(w, 1, RW | VmFlags::WIPEONFORK);
        let before = w.vm.stats().chains;
        let child = parent.fork().unwrap();
        assert_eq!((w.vm.stats().chains, child.load(at(0).0)), (before, Ok(0)));
    });
}

#[test]
fn a_child_keeps_the_same_distance_below_its_mappings() {
    World::run(|w| {
        let map = |mm: &Mm<'_, M>, addr: u64, flags: MapFlags, prot: Prot| {
            let backing = MapBacking::Anonymous;
            mm.mmap(MmapRequest { addr: Va(addr), len: P, prot, flags, backing }).unwrap()
        };
        let rw = Prot::READ | Prot::WRITE;
        let parent = w.vm.new_mm().unwrap();
        let top = map(&parent, 0, MapFlags::empty(), rw);
        for flags in [MapFlags::empty(), MapFlags::GROWSDOWN] {
            map(&parent, top.0, MapFlags::FIXED | flags, rw);
            let child = parent.fork().unwrap();
            // What differs does not merge, so it lands where the gap ends.
            let [theirs, ours] = [&child, &parent].map(|mm| map(mm, 0, MapFlags::empty(), Prot::READ));
            assert_eq!(theirs, ours, "{flags:?}");
            let distance = if flags.is_empty() { P } else { P + w.vm.config().stack_guard_gap };
            assert_eq!(top.0 - ours.0, distance, "{flags:?}");
            parent.munmap(anonmem_hal::VaRange::page(ours)).unwrap();
        }
    });
}

/// The tables that an attempt has given back are no reason to try again.
#[test]
fn a_child_that_needs_more_tables_than_there_is_memory_fails() {
    World::run(|w| {
        let parent = w.vm.new_mm().unwrap();
        w.vm.set_overcommit(Overcommit::Always);
        let tables = 512;
        parent.map_raw(pages(512, tables * 512), RW, Backing::Anonymous);
        let places = || (1..=tables).map(|table| table * 512 * P);
        places().for_each(|va| parent.store(va, 7).unwrap());
        let hog = w.fill_memory(tables);
        assert_eq!(parent.fork().err(), Some(Error::OutOfMemory));
        places().for_each(|va| assert_eq!(parent.load(va), Ok(7)));
        drop(hog);
        w.vm.validate().unwrap();
    });
}

#[test]
fn fork_gives_up_only_when_nothing_can_leave() {
    World::run(|w| {
        let parent = program(w, 8, RW);
        w.failures.set(FailurePlan::From(1));
        assert_eq!(parent.fork().err(), Some(Error::OutOfMemory));
        w.failures.set(FailurePlan::Off);
        w.vm.swap_on(0, 64, 0).unwrap();
        w.failures.set(FailurePlan::Nth(1));
        let child = parent.fork();
        let refused = w.failures.refused();
        w.failures.set(FailurePlan::Off);
        assert_eq!((child.map(|c| c.load(at(0).0)), refused), (Ok(Ok(1)), 1));
        w.vm.validate().unwrap();
        drop(parent);
        w.vm.swap_off(0).unwrap();
    });
}

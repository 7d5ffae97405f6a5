//! Programs over leaves: every call that treats a leaf whole, or in part.

use crate::{
    Advice, Event, Mm, PinFlags, Prot, RemapFlags,
    fault::vm_fault::FaultAccess,
    testing::{M, P, RW, World},
    vma::Backing,
};
use anonmem_hal::{Va, VaRange};
use core::ops::ControlFlow;
use std::vec::Vec;

/// Pages of a leaf, and the first page of the first one.
const N: u64 = 512;
const FIRST: u64 = N;

fn at(page: u64) -> Va {
    Va((FIRST + page) * P)
}

fn range(first: u64, end: u64) -> VaRange {
    VaRange::new(at(first), at(end))
}

/// A program with `leaves` leaves, which has stored its number in page 7 of each.
fn program(w: &World, leaves: u64) -> Mm<'_, M> {
    let mm = w.vm.new_mm().unwrap();
    mm.map_raw(range(0, leaves * N), RW, Backing::Anonymous);
    for leaf in 0..leaves {
        assert!(mm.fault_leaf(at(leaf * N)));
        mm.store(at(leaf * N + 7).0, leaf as u8 + 1).unwrap();
    }
    w.vm.validate().unwrap();
    mm
}

/// How many bytes leaves map.
fn huge(mm: &Mm<'_, M>) -> u64 {
    let mut bytes = 0;
    mm.for_each_vma_usage(Va(0), &mut |_, usage| {
        bytes += usage.anon_huge;
        ControlFlow::Continue(())
    });
    bytes / P / N
}

fn advise(mm: &Mm<'_, M>, range: VaRange, advice: Advice) {
    mm.madvise(range.start, range.len(), advice).unwrap();
}

fn splits(w: &World) -> u64 {
    w.vm.stats().event(Event::LeafSplit)
}

#[test]
fn a_write_fault_fills_a_window_that_is_empty_and_covered() {
    World::run(|w| {
        let mm = program(w, 1);
        assert_eq!((mm.counters().anon.0, huge(&mm)), (N, 1));
        assert_eq!((mm.load(at(7).0), mm.load(at(8).0)), (Ok(1), Ok(0)));
        assert!(!mm.fault_leaf(at(3)), "it is in use");
        mm.map_raw(range(2 * N, 3 * N - 1), RW, Backing::Anonymous);
        assert!(!mm.fault_leaf(at(2 * N)), "the VMA does not cover it");
        let page = mm.pagemap(at(7));
        assert!(page.exclusive && page.dirty);
        assert_eq!(page.pfn.map(|pfn| pfn.0 - 7), mm.pagemap(at(0)).pfn.map(|pfn| pfn.0));
    });
}

#[test]
fn fork_shares_whole_and_a_write_splits_only_the_writers() {
    World::run(|w| {
        let mm = program(w, 2);
        let child = mm.fork().unwrap();
        w.vm.validate().unwrap();
        assert_eq!((huge(&mm), huge(&child), splits(w)), (2, 2, 0));
        child.store(at(7).0, 9).unwrap();
        w.vm.validate().unwrap();
        assert_eq!((mm.load(at(7).0), child.load(at(7).0)), (Ok(1), Ok(9)));
        assert_eq!((huge(&mm), huge(&child), splits(w)), (2, 1, 1));
        drop(child);
        // The parent is alone again, and takes all of it at once.
        mm.store(at(7).0, 3).unwrap();
        assert_eq!((huge(&mm), mm.pagemap(at(500)).exclusive), (2, true));
        w.vm.validate().unwrap();
    });
}

#[test]
fn a_pinned_leaf_is_copied_for_the_child_page_by_page() {
    World::run(|w| {
        let mm = program(w, 1);
        let pin = mm.pin(range(7, 9), PinFlags::WRITE).unwrap();
        let child = mm.fork().unwrap();
        assert_eq!((child.load(at(7).0), huge(&mm), splits(w)), (Ok(1), 0, 1));
        mm.store(at(7).0, 5).unwrap();
        assert_eq!(child.load(at(7).0), Ok(1));
        drop(pin);
        w.vm.validate().unwrap();
    });
}

#[test]
fn part_of_a_leaf_is_unmapped_dropped_or_protected_and_the_rest_stays() {
    World::run(|w| {
        let mm = program(w, 4);
        mm.munmap(range(0, 3)).unwrap();
        advise(&mm, range(N, N + 8), Advice::DontNeed);
        mm.mprotect(range(2 * N + 8, 2 * N + 9), Prot::READ).unwrap();
        mm.mprotect(range(3 * N, 4 * N), Prot::READ).unwrap();
        w.vm.validate().unwrap();
        assert_eq!(huge(&mm), 1, "what is treated whole stays whole");
        let loads: Vec<_> = [7, N + 7, 2 * N + 7, 3 * N + 7].map(|page| mm.load(at(page).0)).into();
        assert_eq!(loads, [Ok(1), Ok(0), Ok(3), Ok(4)]);
        assert!(mm.store(at(2 * N + 8).0, 1).is_err() && mm.store(at(3 * N + 7).0, 1).is_err());
        mm.store(at(2 * N + 7).0, 6).unwrap();
        mm.mprotect(range(3 * N, 4 * N), Prot::READ | Prot::WRITE).unwrap();
        mm.store(at(3 * N + 7).0, 6).unwrap();
        advise(&mm, range(3 * N, 4 * N), Advice::DontNeed);
        assert_eq!((mm.load(at(3 * N + 7).0), huge(&mm)), (Ok(0), 0));
        w.vm.validate().unwrap();
    });
}

#[test]
fn a_leaf_moves_whole_if_both_ends_are_aligned() {
    World::run(|w| {
        for (to, whole) in [(16 * N, 1), (20 * N + 1, 0)] {
            let mm = program(w, 1);
            let flags = RemapFlags::MAYMOVE | RemapFlags::FIXED;
            mm.mremap(at(0), N * P, N * P, flags, at(to)).unwrap();
            assert_eq!((mm.load(at(to + 7).0), huge(&mm)), (Ok(1), whole));
            assert!(mm.load(at(7).0).is_err());
            w.vm.validate().unwrap();
        }
    });
}

#[test]
fn a_leaf_is_in_core_pinned_and_looked_at_by_page() {
    World::run(|w| {
        let mm = program(w, 1);
        let mut told = 0;
        mm.mincore(at(0), N * P, &mut |is| told += u64::from(is)).unwrap();
        assert_eq!(told, N);
        let pin = mm.pin_fast(range(5, 50), PinFlags::WRITE).unwrap();
        let first = pin.runs().next().map(|run| run.first);
        assert_eq!((first, pin.pages().0), (mm.pagemap(at(5)).pfn, 45));
        drop(pin);
        let child = mm.fork().unwrap();
        // What others have becomes its own first, by page.
        drop(mm.pin(range(5, 6), PinFlags::LONGTERM).unwrap());
        assert_eq!((huge(&mm), huge(&child)), (0, 1));
        assert_eq!(mm.handle_fault(at(7), FaultAccess::Read), crate::FaultOutcome::Done);
        w.vm.validate().unwrap();
    });
}

#[test]
fn a_leaf_is_freed_lazily_whole_and_cooled_whole() {
    World::run(|w| {
        let mm = program(w, 1);
        advise(&mm, range(0, N), Advice::Free);
        assert!(!mm.pagemap(at(7)).dirty && huge(&mm) == 1);
        mm.store(at(8).0, 2).unwrap();
        assert!(mm.pagemap(at(7)).dirty, "one bit says it of all");
        advise(&mm, range(0, N), Advice::Cold);
        assert!(!mm.pagemap(at(7)).young && huge(&mm) == 1);
        w.vm.validate().unwrap();
    });
}

//! Programs over leaves: every call that treats a leaf whole, or in part.

use crate::{
    Advice, Config, Event, FolioEvent, FolioMode, FolioPolicy, LockMode, Mm, PinFlags, Populate, Prot,
    RegisterMode, RemapFlags, UffdFaults,
    fault::vm_fault::FaultAccess,
    testing::{M, P, RW, World},
    vma::Backing,
};
use anonmem_frame::FolioOwner;
use anonmem_hal::{Order, Va, VaRange};
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

/// Runs `f` in every lock mode, with folios of a leaf's size taken as `mode` says.
fn with_leaves(mode: FolioMode, f: impl Fn(&World)) {
    for lock_mode in [LockMode::Mmap, LockMode::Vma, LockMode::Speculative] {
        let folios = FolioPolicy::default().with(Order::new(9), mode);
        World::run_with(Config { lock_mode, folios, ..Config::default() }, &f);
    }
}

/// An address space that maps the pages up to `end`.
fn mapped(w: &World, end: u64) -> Mm<'_, M> {
    let mm = w.vm.new_mm().unwrap();
    mm.map_raw(range(0, end), RW, Backing::Anonymous);
    mm
}

fn taken(w: &World) -> (u64, u64) {
    (w.vm.stats().event(Event::LeafFault), w.vm.folio_event(Order::new(9), FolioEvent::FaultAlloc))
}

#[test]
fn a_store_takes_a_leaf_where_policy_says_so() {
    with_leaves(FolioMode::Always, |w| {
        let mm = mapped(w, 3 * N - 1);
        mm.store(at(N + 9).0, 4).unwrap();
        assert_eq!((huge(&mm), taken(w), mm.counters().anon.0), (1, (1, 1), N));
        let faults = w.vm.stats().event(Event::Fault);
        range(N, 2 * N).iter_pages().for_each(|va| mm.store(va.0, 5).unwrap());
        assert_eq!(w.vm.stats().event(Event::Fault), faults, "one fault for all of it");
        // The VMA ends before the window does.
        mm.store(at(2 * N).0, 6).unwrap();
        assert_eq!((huge(&mm), mm.counters().anon.0), (1, N + 1));
        assert!(w.vm.folio_event(Order::new(9), FolioEvent::FallbackVma) > 0);
        w.vm.validate().unwrap();
    });
}

#[test]
fn where_a_table_is_a_folio_of_that_size_is_a_run_of_entries() {
    with_leaves(FolioMode::Always, |w| {
        let mm = mapped(w, 2 * N);
        assert_eq!((mm.load(at(3).0), mm.load(at(N - 1).0)), (Ok(0), Ok(0)));
        mm.store(at(4).0, 1).unwrap();
        assert_eq!((huge(&mm), taken(w), mm.counters().anon.0), (0, (0, 1), N));
        // What was dropped whole leaves no table behind.
        mm.store(at(N).0, 1).unwrap();
        advise(&mm, range(N, 2 * N), Advice::DontNeed);
        mm.store(at(N).0, 2).unwrap();
        assert_eq!((huge(&mm), taken(w)), (1, (2, 3)));
        w.vm.validate().unwrap();
    });
}

#[test]
fn populating_and_advice_take_leaves_and_auto_takes_none() {
    with_leaves(FolioMode::Madvise, |w| {
        let mm = mapped(w, 3 * N);
        mm.populate(range(0, N), Populate::Write).unwrap();
        assert_eq!(taken(w), (0, 0));
        advise(&mm, range(N, 3 * N), Advice::HugePage);
        mm.populate(range(N + 1, 3 * N), Populate::Write).unwrap();
        assert_eq!((huge(&mm), taken(w)), (1, (1, 1)), "the first window is wanted in part");
        w.vm.validate().unwrap();
    });
    with_leaves(FolioMode::Auto, |w| {
        let mm = mapped(w, 2 * N);
        mm.populate(range(0, 2 * N), Populate::Write).unwrap();
        assert_eq!((huge(&mm), taken(w).0), (0, 0));
    });
}

#[test]
fn without_a_block_or_a_table_to_spare_a_smaller_folio_will_do() {
    with_leaves(FolioMode::Always, |w| {
        let mm = mapped(w, 8 * N);
        let stored = range(0, 8 * N).iter_pages().take_while(|va| mm.store(va.0, 1).is_ok()).count() as u64;
        assert!(stored > 3500 && huge(&mm) >= 5, "{stored} pages, {} leaves", huge(&mm));
        assert!(w.vm.folio_event(Order::new(9), FolioEvent::FallbackMemory) > 0);
        w.vm.validate().unwrap();
    });
    with_leaves(FolioMode::Always, |w| {
        // Whatever allocation fails, the store finds memory at the next attempt, or less than a leaf.
        let fault = |mm: &Mm<'_, M>| match mm.handle_fault(at(7), FaultAccess::Write) {
            crate::FaultOutcome::Oom => Err(crate::Error::OutOfMemory),
            _ => Ok(()),
        };
        let failed = w.fail_each_allocation(|| mapped(w, N), fault, |_, _| w.vm.validate().unwrap());
        assert!(failed < 20, "{failed}");
    });
}

#[test]
fn leaves_are_reclaimed_and_split_like_other_folios() {
    with_leaves(FolioMode::Always, |w| {
        w.vm.swap_on(0, 4 * N, 0).unwrap();
        let mm = mapped(w, N);
        mm.store(at(7).0, 1).unwrap();
        assert_eq!(huge(&mm), 1);
        let child = mm.fork().unwrap();
        child.store(at(9).0, 2).unwrap();
        let page = w.vm.frames.try_get(mm.pagemap(at(0)).pfn.unwrap()).unwrap();
        let lock = page.lock();
        w.vm.split_folio(&lock, &page, Order::new(3)).unwrap();
        drop((lock, page));
        w.vm.validate().unwrap();
        assert_eq!((mm.load(at(7).0), child.load(at(7).0), child.load(at(9).0)), (Ok(1), Ok(1), Ok(2)));
        drop(child);
        advise(&mm, range(0, N), Advice::PageOut);
        w.vm.validate().unwrap();
        assert_eq!((mm.load(at(7).0), mm.load(at(9).0)), (Ok(1), Ok(0)));
    });
}

#[test]
fn a_userfaultfd_is_asked_of_the_pages_of_a_leaf() {
    with_leaves(FolioMode::Always, |w| {
        let mm = mapped(w, 2 * N);
        mm.store(at(7).0, 1).unwrap();
        assert_eq!(huge(&mm), 1);
        let uffd = mm.userfaultfd(UffdFaults::Any).unwrap();
        uffd.agree(crate::UffdFeatures::empty()).unwrap();
        uffd.register(at(0), 2 * N * P, RegisterMode::MISSING | RegisterMode::WP).unwrap();
        uffd.write_protect(at(3), P, crate::ProtectMode::WP).unwrap();
        w.vm.validate().unwrap();
        assert_eq!((mm.load(at(7).0), huge(&mm)), (Ok(1), 0));
        mm.store(at(8).0, 2).unwrap();
        drop(uffd);
        mm.store(at(3).0, 3).unwrap();
        w.vm.validate().unwrap();
    });
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

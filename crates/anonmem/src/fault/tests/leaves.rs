//! What a fault at a leaf asks again, what it changes, and when a table becomes a leaf.

use super::{
    rechecks::{Interrupted, beaten, entry, fault},
    swap_runs::cache_run,
};
use crate::{
    Advice, ClearRefs, Config, Event, FaultOutcome, FolioEvent, FolioMode, FolioPolicy, LockMode, Mm,
    PinFlags, Populate, Prot, RegisterMode, UffdFaults, UffdFeatures,
    fault::{
        FaultAccess::{self, Read, Unshare, Write},
        FaultResult,
    },
    ids::VmaId,
    migrate::leave_behind,
    testing::{M, P, RW, World, pages},
    vma::{Backing, Refusal},
};
use anonmem_frame::{FolioOwner, FolioRef};
use anonmem_hal::{CpuId, Order, Pte, Va};
use anonmem_hosted::FailurePlan;
use std::cell::Cell;

/// Pages of a leaf, and the first page of the first one.
const N: u64 = 512;

fn at(page: u64) -> Va {
    Va((N + page) * P)
}

/// Leaves for whoever touches an empty window; under the mmap lock each step is one fault.
fn with_leaves(lock_mode: LockMode, f: impl Fn(&World)) {
    let folios = FolioPolicy::default().with(Order::new(9), FolioMode::Always);
    World::run_with(Config { lock_mode, folios, ..Config::default() }, f);
}

fn mapped(w: &World, windows: u64) -> (Mm<'_, M>, VmaId) {
    let mm = w.vm.new_mm().unwrap();
    let id = mm.map_raw(pages(N, windows * N), RW, Backing::Anonymous);
    (mm, id)
}

/// A program with one leaf.
fn program(w: &World) -> (Mm<'_, M>, VmaId) {
    let (mm, id) = mapped(w, 1);
    mm.store(at(7).0, 1).unwrap();
    assert_eq!(leaves(w), 1);
    (mm, id)
}

/// A program with one folio of a leaf's size, mapped by a table.
fn run(w: &World) -> (Mm<'_, M>, VmaId) {
    let (mm, id) = mapped(w, 1);
    assert_eq!(mm.load(at(3).0), Ok(0));
    mm.store(at(7).0, 1).unwrap();
    assert_eq!((leaves(w), mm.counters().anon.0), (0, N));
    (mm, id)
}

/// How many leaves there are.
fn leaves(w: &World) -> u64 {
    w.vm.frames().large_usage()[9].in_leaves
}

fn event(w: &World, event: Event) -> u64 {
    w.vm.stats().event(event)
}

fn folios(w: &World, event: FolioEvent) -> u64 {
    w.vm.folio_event(Order::new(9), event)
}

fn page_at<'a>(w: &'a World, mm: &Mm<'_, M>, va: Va) -> FolioRef<'a, M> {
    w.vm.frames.try_get(mm.pagemap(va).pfn.unwrap()).unwrap()
}

#[test]
fn two_faults_of_a_window_make_one_leaf() {
    with_leaves(LockMode::Mmap, |w| {
        let (mm, id) = mapped(w, 1);
        let mmap = mm.read();
        let guard = beaten(&mmap, || assert_eq!(fault(&mm, &mmap, id, N + 2, Write), FaultResult::Done));
        assert_eq!(fault(&mm, &guard, id, N, Write), FaultResult::Done);
        drop(guard);
        drop(mmap);
        assert_eq!((leaves(w), mm.counters().anon.0), (1, N));
        assert_eq!([FolioEvent::FaultRaced, FolioEvent::FaultAlloc].map(|e| folios(w, e)), [1, 1]);
        w.vm.validate().unwrap();
    });
}

#[test]
fn a_leaf_is_neither_filled_nor_changed_in_a_vma_that_was_changed() {
    with_leaves(LockMode::Mmap, |w| {
        let (mm, id) = mapped(w, 1);
        let mmap = mm.read();
        let changed = Cell::new(false);
        let guard = Interrupted { changed: Some(&changed), ..beaten(&mmap, || changed.set(true)) };
        let refused = FaultResult::Refused(Refusal::Changed);
        assert_eq!(fault(&mm, &guard, id, N, Write), refused);
        assert_eq!((entry(&mm, &mmap, N), leaves(w)), (Pte::None, 0));
        assert_eq!(fault(&mm, &mmap, id, N, Write), FaultResult::Done);
        assert_eq!([Read, Write].map(|access| fault(&mm, &guard, id, N, access)), [refused; 2]);
        drop(guard);
        drop(mmap);
        assert_eq!((leaves(w), mm.counters().anon.0), (1, N));
        w.vm.validate().unwrap();
    });
}

#[test]
fn without_a_lock_no_leaf_is_filled() {
    with_leaves(LockMode::Speculative, |w| {
        let (mm, _) = mapped(w, 2);
        mm.store(at(0).0, 1).unwrap();
        let before = [Event::FaultSpeculative, Event::RefusedNoTable].map(|e| event(w, e));
        mm.store(at(N).0, 1).unwrap();
        let after = [Event::FaultSpeculative, Event::RefusedNoTable].map(|e| event(w, e));
        assert_eq!((after, leaves(w)), ([before[0], before[1] + 1], 2));
    });
}

#[test]
fn a_leaf_is_of_zeroes_where_others_have_written() {
    with_leaves(LockMode::Vma, |w| {
        for _ in 0..2 {
            let (mm, _) = mapped(w, 6);
            for page in (0..6 * N).step_by(73) {
                mm.store(at(page).0, 0xff).unwrap();
            }
            for window in 0..6 {
                advise(&mm, window * N, N, Advice::DontNeed);
                mm.store(at(window * N).0, 1).unwrap();
                (1..N).for_each(|page| assert_eq!(mm.load(at(window * N + page).0), Ok(0)));
            }
            assert!(leaves(w) > 0);
        }
    });
}

fn advise(mm: &Mm<'_, M>, page: u64, len: u64, advice: Advice) {
    mm.madvise(at(page), len * P, advice).unwrap();
}

/// What a fault at a leaf is counted as: spurious, taken over, split.
fn counted(w: &World, mm: &Mm<'_, M>, access: FaultAccess) -> [u64; 3] {
    let all = || [Event::FaultSpurious, Event::FaultCowReuse, Event::LeafSplit].map(|e| event(w, e));
    let before = all();
    assert_eq!(mm.handle_fault(at(9), access), FaultOutcome::Done);
    let after = all();
    [0, 1, 2].map(|i| after[i] - before[i])
}

#[test]
fn a_fault_that_a_leaf_allows_changes_no_more_than_bits() {
    const SPURIOUS: [u64; 3] = [1, 0, 0];
    with_leaves(LockMode::Mmap, |w| {
        let (mm, _) = program(w);
        advise(&mm, 0, N, Advice::Free);
        advise(&mm, 0, N, Advice::Cold);
        let bits = || (mm.pagemap(at(3)).young, mm.pagemap(at(3)).dirty);
        assert_eq!(bits(), (false, false));
        assert_eq!((counted(w, &mm, Read), bits()), (SPURIOUS, (true, false)));
        assert_eq!((counted(w, &mm, Write), bits()), (SPURIOUS, (true, true)));
        let child = mm.fork().unwrap();
        for mm in [&mm, &child] {
            assert_eq!((counted(w, mm, Read), mm.pagemap(at(3)).exclusive), (SPURIOUS, false));
        }
        assert_eq!(leaves(w), 1, "one folio, two leaves");
    });
}

#[test]
fn who_is_left_of_a_leafs_sharers_takes_it_whole() {
    for access in [Write, Unshare] {
        with_leaves(LockMode::Mmap, |w| {
            let (mm, _) = program(w);
            drop(mm.fork().unwrap());
            assert_eq!((counted(w, &mm, access), folios(w, FolioEvent::ReuseRun)), ([0, 1, 0], 1));
            assert!(mm.pagemap(at(400)).exclusive);
            // Unsharing allows no more than before; what is exclusive is not taken over once more.
            assert_eq!(counted(w, &mm, Write), if access == Write { [1, 0, 0] } else { [0, 1, 0] });
            assert_eq!((folios(w, FolioEvent::ReuseRun), leaves(w)), (1, 1));
            w.vm.validate().unwrap();
        });
    }
}

#[test]
fn a_leaf_whose_folio_is_locked_is_not_taken_over() {
    with_leaves(LockMode::Mmap, |w| {
        let (mm, id) = program(w);
        drop(mm.fork().unwrap());
        let page = page_at(w, &mm, at(0));
        let mmap = mm.read();
        let lock = page.lock();
        assert_eq!(fault(&mm, &mmap, id, N + 9, Write), FaultResult::Done);
        assert_eq!(
            (leaves(w), event(w, Event::LeafSplit)),
            (0, 1),
            "it becomes a table, and a page is copied"
        );
        drop(lock);
        drop(page);
        drop(mmap);
        assert_eq!((event(w, Event::FaultCowCopy), folios(w, FolioEvent::ReuseRun)), (1, 0));
        w.vm.validate().unwrap();
    });
}

#[test]
fn a_forced_write_to_a_leaf_is_a_write_and_unsharing_is_none() {
    for (flags, written) in [(PinFlags::WRITE | PinFlags::FORCE, 512), (PinFlags::LONGTERM, 0)] {
        with_leaves(LockMode::Mmap, |w| {
            let (mm, _) = program(w);
            drop(mm.fork().unwrap());
            mm.mprotect(pages(N, N), Prot::READ).unwrap();
            mm.clear_refs(ClearRefs::SoftDirty);
            drop(mm.pin(pages(N + 5, 1), flags).unwrap());
            let soft_dirty = (0..N).filter(|&page| mm.pagemap(at(page)).soft_dirty).count();
            assert_eq!((soft_dirty, leaves(w), folios(w, FolioEvent::ReuseRun)), (written, 1, 1));
            assert!(mm.store(at(5).0, 1).is_err());
            w.vm.validate().unwrap();
        });
    }
}

#[test]
fn reclaim_looks_for_untouched_pages_where_a_touch_took_a_leaf() {
    let may_be = |covered: u64, fill: fn(&Mm<'_, M>)| {
        let told = Cell::new(false);
        with_leaves(LockMode::Mmap, |w| {
            let mm = w.vm.new_mm().unwrap();
            mm.map_raw(pages(N, covered), RW, Backing::Anonymous);
            fill(&mm);
            told.set(w.vm.clock.may_be_untouched());
        });
        told.get()
    };
    let store: fn(&Mm<'_, M>) = |mm| mm.store(at(7).0, 1).unwrap();
    assert!(may_be(N, store));
    assert!(!may_be(N - 1, store), "the mapping does not cover the window");
    assert!(!may_be(N, |mm| mm.populate(pages(N, N), Populate::Write).unwrap()), "all of it is wanted");
}

#[test]
fn where_a_table_is_populating_takes_a_run() {
    with_leaves(LockMode::Mmap, |w| {
        let (mm, _) = mapped(w, 1);
        assert_eq!(mm.load(at(3).0), Ok(0));
        mm.populate(pages(N, N), Populate::Write).unwrap();
        assert_eq!((leaves(w), mm.counters().anon.0), (0, N));
        assert_eq!([FolioEvent::FaultAlloc, FolioEvent::FaultRaced].map(|e| folios(w, e)), [1, 0]);
        w.vm.validate().unwrap();
    });
}

#[test]
fn a_leaf_that_is_in_the_swap_cache_comes_back_whole_in_every_mode() {
    for lock_mode in [LockMode::Mmap, LockMode::Vma, LockMode::Speculative] {
        with_leaves(lock_mode, |w| {
            w.vm.swap_on(0, 4 * N, 0).unwrap();
            let (mm, _) = program(w);
            assert!(w.vm.reclaim_folio(page_at(w, &mm, at(0))));
            assert_eq!((leaves(w), mm.counters().swap.0), (0, N));
            // Another fault reads it, and does not get on.
            drop(cache_run(w, 9));
            assert_eq!((mm.load(at(7).0), leaves(w)), (Ok(1), 1));
            assert_eq!(event(w, Event::LeafSwapIn), 1);
            w.vm.validate().unwrap();
            drop(mm);
            w.vm.swap_off(0).unwrap();
        });
    }
}

#[test]
fn a_table_becomes_a_leaf_if_it_maps_one_folio_of_one_mapping_alone() {
    let collapsed = |w: &World, mm: &Mm<'_, M>| {
        let done = mm.collapse_to_leaf(pages(N, N)).is_some();
        w.vm.validate().unwrap();
        assert_eq!((leaves(w), folios(w, FolioEvent::CollapsedInPlace)), (u64::from(done), u64::from(done)));
        done
    };
    with_leaves(LockMode::Mmap, |w| {
        let (mm, id) = run(w);
        let version = w.vm.vma(id).lock.version();
        assert!(collapsed(w, &mm));
        assert_ne!(w.vm.vma(id).lock.version(), version, "a fault without a lock does not commit");
        assert_eq!((mm.load(at(7).0), mm.load(at(8).0)), (Ok(1), Ok(0)));
    });
    with_leaves(LockMode::Mmap, |w| {
        let (mm, _) = run(w);
        for part in [pages(N, 8), pages(N + 8, 8), pages(2 * N - 8, 8)] {
            mm.mprotect(part, Prot::READ).unwrap();
            assert!(!collapsed(w, &mm), "two mappings: {part:?}");
            mm.mprotect(part, Prot::READ | Prot::WRITE).unwrap();
        }
        let child = mm.fork().unwrap();
        assert!(!collapsed(w, &mm), "others have it, too");
        drop(child);
        mm.store(at(7).0, 2).unwrap();
        let uffd = mm.userfaultfd(UffdFaults::Any).unwrap();
        uffd.agree(UffdFeatures::empty()).unwrap();
        uffd.register(at(0), N * P, RegisterMode::MISSING).unwrap();
        assert!(!collapsed(w, &mm), "a userfaultfd is asked by page");
        drop(uffd);
        advise(&mm, 100, 1, Advice::DontNeed);
        assert!(!collapsed(w, &mm), "a page of it is missing");
        assert_eq!((mm.load(at(7).0), mm.load(at(100).0)), (Ok(2), Ok(0)));
    });
}

#[test]
fn a_leaf_that_was_left_behind_gets_its_folio_back() {
    for lock_mode in [LockMode::Mmap, LockMode::Vma, LockMode::Speculative] {
        with_leaves(lock_mode, |w| {
            let (mm, _) = program(w);
            let page = page_at(w, &mm, at(0));
            leave_behind(&w.vm, &page);
            drop(page);
            assert_eq!(mm.load(at(7).0), Ok(1));
            let refused = u64::from(lock_mode == LockMode::Speculative);
            let counts = [Event::MigrateLeftBehind, Event::RefusedWouldSleep].map(|e| event(w, e));
            assert_eq!((counts, leaves(w)), ([1, refused], 1));
            let faults = event(w, Event::Fault);
            mm.store(at(8).0, 2).unwrap();
            assert_eq!(event(w, Event::Fault), faults, "it is writable");
            w.vm.validate().unwrap();
        });
    }
}

#[test]
fn a_fault_waits_for_a_leaf_that_is_on_its_way() {
    with_leaves(LockMode::Vma, |w| {
        let (mm, _) = program(w);
        let page = page_at(w, &mm, at(0));
        leave_behind(&w.vm, &page);
        let lock = page.lock();
        let cpus = w.vm.machine().cpus().clone();
        let (cpus, mm) = (&cpus, &mm);
        std::thread::scope(|scope| {
            let load = scope.spawn(move || cpus.run_on(CpuId(1), || mm.load(at(7).0)));
            while event(w, Event::FaultRetry) < 2 {
                std::thread::yield_now();
            }
            assert_eq!(event(w, Event::MigrateLeftBehind), 0);
            drop(lock);
            assert_eq!(load.join().unwrap(), Ok(1));
        });
        drop(page);
        assert_eq!((event(w, Event::MigrateLeftBehind), leaves(w)), (1, 1));
        w.vm.validate().unwrap();
    });
}

#[test]
fn without_a_table_to_keep_a_leaf_comes_back_as_a_run() {
    with_leaves(LockMode::Vma, |w| {
        w.vm.swap_on(0, 4 * N, 0).unwrap();
        let (mm, _) = mapped(w, 2);
        [7, N + 7].iter().for_each(|&page| mm.store(at(page).0, 1).unwrap());
        advise(&mm, 0, 2 * N, Advice::PageOut);
        assert_eq!((leaves(w), mm.counters().anon.0), (0, 0));
        (0..N).for_each(|page| assert_eq!(mm.load(at(page).0), Ok(u8::from(page == 7))));
        // The first is the folio's block.
        w.failures.set(FailurePlan::Nth(2));
        assert_eq!(mm.load(at(N + 7).0), Ok(1));
        assert!(w.failures.refused() > 0);
        w.failures.set(FailurePlan::Off);
        assert_eq!((folios(w, FolioEvent::SwapIn), event(w, Event::LeafSwapIn), leaves(w)), (1, 0, 0));
        w.vm.validate().unwrap();
    });
}

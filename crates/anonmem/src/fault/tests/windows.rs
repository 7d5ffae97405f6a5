//! Which window a fault fills or copies at once: the order that is chosen, and what is counted of those that
//! are not.

use super::rechecks::{beaten, fault};
use crate::{
    Config, Event, FaultOutcome, FolioEvent, FolioMode, FolioPolicy, LockMode, Mm, Populate, Prot,
    fault::{
        FaultAccess::{Unshare, Write},
        FaultResult,
    },
    testing::{M, P, RW, World, pages},
    vma::Backing,
};
use anonmem_hal::{CpuId, Order, Va, VaRange};
use anonmem_hosted::FailurePlan;
use std::vec::Vec;

/// The first page of the window of most tests.
const FIRST: u64 = 1024;

fn run_in(lock_mode: LockMode, folios: FolioPolicy, f: impl Fn(&World)) {
    World::run_with(Config { lock_mode, folios, ..Config::default() }, f);
}

/// Under the mmap lock: each step is one fault.
fn run(folios: FolioPolicy, f: impl Fn(&World)) {
    run_in(LockMode::Mmap, folios, f);
}

fn only(order: u8, mode: FolioMode) -> FolioPolicy {
    FolioPolicy::default().with(Order::new(order), mode)
}

fn always(order: u8) -> FolioPolicy {
    only(order, FolioMode::Always)
}

fn mapped(w: &World, range: VaRange) -> Mm<'_, M> {
    let mm = w.vm.new_mm().unwrap();
    mm.map_raw(range, RW, Backing::Anonymous);
    mm
}

fn fill(mm: &Mm<'_, M>, range: VaRange) {
    range.iter_pages().for_each(|va| mm.store(va.0, va.page() as u8 | 1).unwrap());
}

fn event(w: &World, event: Event) -> u64 {
    w.vm.stats().event(event)
}

fn folios(w: &World, order: u8, event: FolioEvent) -> u64 {
    w.vm.folio_event(Order::new(order), event)
}

fn order_at(w: &World, mm: &Mm<'_, M>, page: u64) -> u8 {
    w.vm.frames.folio(mm.pagemap(Va(page * P)).pfn.unwrap()).unwrap().order().get()
}

#[test]
fn populating_takes_no_window_beyond_its_end() {
    run(always(4), |w| {
        let mm = mapped(w, pages(FIRST, 64));
        mm.populate(pages(FIRST, 24), Populate::Write).unwrap();
        assert_eq!((mm.counters().anon.0, folios(w, 4, FolioEvent::FaultAlloc)), (24, 1));
        mm.populate(pages(FIRST + 32, 32), Populate::Write).unwrap();
        assert_eq!((mm.counters().anon.0, folios(w, 4, FolioEvent::FaultAlloc)), (24 + 32, 3));
        w.vm.validate().unwrap();
    });
}

#[test]
fn a_fault_without_a_lock_zeroes_no_more_than_64_kib() {
    for (order, refused) in [(4, 0), (5, 1)] {
        run_in(LockMode::Speculative, always(order), |w| {
            let len = 1 << order;
            let mm = mapped(w, pages(FIRST, 4 * len));
            mm.store(FIRST * P, 1).unwrap();
            let before = event(w, Event::FaultSpeculative);
            mm.store((FIRST + 2 * len) * P, 1).unwrap();
            assert_eq!(folios(w, order, FolioEvent::RefusedSpeculative), refused, "order {order}");
            assert_eq!(event(w, Event::FaultSpeculative) - before, 1 - refused);
            assert_eq!((order_at(w, &mm, FIRST + 2 * len), mm.counters().anon.0), (order, 2 * len));
        });
    }
}

#[test]
fn a_window_that_others_filled_meanwhile_is_counted_and_looked_at_again() {
    run(always(5), |w| {
        let mm = w.vm.new_mm().unwrap();
        let id = mm.map_raw(pages(FIRST, 64), RW, Backing::Anonymous);
        mm.store((FIRST + 32) * P, 1).unwrap();
        let mmap = mm.read();
        let guard = beaten(&mmap, || assert_eq!(fault(&mm, &mmap, id, FIRST + 2, Write), FaultResult::Done));
        assert_eq!(fault(&mm, &guard, id, FIRST, Write), FaultResult::Done);
        drop(guard);
        drop(mmap);
        assert_eq!(folios(w, 5, FolioEvent::FaultRaced), 1);
        assert_eq!((mm.counters().anon.0, folios(w, 5, FolioEvent::FaultAlloc)), (64, 2));
        w.vm.validate().unwrap();
    });
}

/// What `auto` says to a first write above a window of `len` pages, of which `written` were written, if the
/// address space has `mine` pages: the order that it gets, and the reason of the largest.
fn guess(order: u8, mine: u64, written: u64) -> (u8, [u64; 2]) {
    let got = std::cell::Cell::new((0, [0; 2]));
    run(FolioPolicy::default(), |w| {
        let len = 1 << order;
        let mm = mapped(w, pages(FIRST, 2 * len));
        let rest = mine - written;
        mm.map_raw(pages(16384, rest + 1), RW, Backing::Anonymous);
        fill(&mm, pages(16384, rest));
        fill(&mm, pages(FIRST, written));
        w.vm.set_folio_policy(only(order, FolioMode::Auto));
        mm.store((FIRST + len) * P, 1).unwrap();
        let why = [FolioEvent::FallbackBound, FolioEvent::FallbackUnproven].map(|e| folios(w, order, e));
        got.set((order_at(w, &mm, FIRST + len), why));
    });
    got.get()
}

#[test]
fn auto_guesses_within_its_bound_and_beside_what_is_written() {
    const BOUND: [u64; 2] = [1, 0];
    const UNPROVEN: [u64; 2] = [0, 1];
    // One page of eleven may be untouched: order 1 leaves 1 page of 2, order 4 leaves 15 pages of 16.
    for (order, mine, written, expected) in [
        (1, 9, 2, (1, [0, 0])),
        (1, 8, 2, (0, BOUND)),
        (1, 9, 1, (0, UNPROVEN)),
        (1, 8, 1, (0, BOUND)),
        (4, 149, 16, (4, [0, 0])),
        (4, 148, 16, (0, BOUND)),
        (4, 149, 14, (4, [0, 0])),
        (4, 149, 13, (0, UNPROVEN)),
    ] {
        assert_eq!(guess(order, mine, written), expected, "order {order}: {mine} pages, {written} beside");
    }
}

#[test]
fn what_another_mapping_has_beside_proves_nothing() {
    run(FolioPolicy::default(), |w| {
        let mm = mapped(w, pages(FIRST, 2));
        mm.map_raw(pages(FIRST + 2, 2), RW, Backing::Anonymous);
        mm.map_raw(pages(16384, 32), RW, Backing::Anonymous);
        fill(&mm, pages(16384, 30));
        fill(&mm, pages(FIRST, 2));
        w.vm.set_folio_policy(only(1, FolioMode::Auto));
        mm.store((FIRST + 2) * P, 1).unwrap();
        assert_eq!((order_at(w, &mm, FIRST + 2), folios(w, 1, FolioEvent::FallbackUnproven)), (0, 1));
    });
}

#[test]
fn a_guess_in_another_mapping_and_zero_pages_are_not_outstanding() {
    run(FolioPolicy::default(), |w| {
        let mm = mapped(w, pages(FIRST, 16));
        mm.map_raw(pages(4096, 16), RW, Backing::Anonymous);
        fill(&mm, pages(FIRST, 10));
        w.vm.set_folio_policy(only(1, FolioMode::Auto));
        mm.store((FIRST + 10) * P, 1).unwrap();
        assert_eq!((order_at(w, &mm, FIRST + 10), mm.counters().anon.0), (1, 12), "one page is untouched");
        mm.store((FIRST + 12) * P, 1).unwrap();
        assert_eq!(order_at(w, &mm, FIRST + 12), 0, "another would be too much");
        // The guess goes, and the zero page comes in its place.
        mm.munmap(pages(FIRST + 12, 1)).unwrap();
        mm.madvise(Va((FIRST + 10) * P), 2 * P, crate::Advice::DontNeed).unwrap();
        assert_eq!([10, 11].map(|page| mm.load((FIRST + page) * P)), [Ok(0), Ok(0)]);
        fill(&mm, pages(4096, 2));
        w.vm.set_folio_policy(FolioPolicy::default());
        fill(&mm, pages(4098, 2));
        w.vm.set_folio_policy(only(1, FolioMode::Auto));
        mm.store(4100 * P, 1).unwrap();
        assert_eq!(order_at(w, &mm, 4100), 1);
    });
}

#[test]
fn zero_pages_in_the_place_of_a_guess_are_not_outstanding() {
    run(FolioPolicy::default(), |w| {
        let mm = mapped(w, pages(FIRST, 16));
        fill(&mm, pages(FIRST, 10));
        fill(&mm, pages(FIRST + 14, 2));
        w.vm.set_folio_policy(only(1, FolioMode::Auto));
        mm.store((FIRST + 10) * P, 1).unwrap();
        assert_eq!(order_at(w, &mm, FIRST + 10), 1);
        mm.madvise(Va((FIRST + 10) * P), 2 * P, crate::Advice::DontNeed).unwrap();
        assert_eq!([10, 11].map(|page| mm.load((FIRST + page) * P)), [Ok(0), Ok(0)]);
        mm.store((FIRST + 12) * P, 1).unwrap();
        assert_eq!(order_at(w, &mm, FIRST + 12), 1);
    });
}

#[test]
fn what_the_policy_gives_freely_is_no_guess() {
    run(FolioPolicy::default(), |w| {
        let mm = mapped(w, pages(FIRST, 16));
        fill(&mm, pages(FIRST, 8));
        w.vm.set_folio_policy(always(1));
        mm.store((FIRST + 10) * P, 1).unwrap();
        assert_eq!((order_at(w, &mm, FIRST + 10), mm.counters().anon.0), (1, 10));
        w.vm.set_folio_policy(only(1, FolioMode::Auto));
        mm.store((FIRST + 8) * P, 1).unwrap();
        assert_eq!(order_at(w, &mm, FIRST + 8), 1, "no page was a guess before");
    });
}

#[test]
fn the_zero_page_is_flushed_where_a_folio_replaces_it() {
    run(always(2), |w| {
        let mm = mapped(w, pages(FIRST, 8));
        mm.store((FIRST + 4) * P, 1).unwrap();
        assert_eq!(event(w, Event::TlbFlush), 0, "nothing was mapped");
        assert_eq!(mm.load((FIRST + 1) * P), Ok(0));
        // A thread on this CPU still knows the zero page when another CPU's stores replace it.
        let user = mm.user();
        let mut seen = [9];
        user.load(Va((FIRST + 1) * P), &mut seen).unwrap();
        let cpus = w.vm.machine().cpus().clone();
        let (cpus, mm) = (&cpus, &mm);
        std::thread::scope(|scope| {
            let store = move || {
                mm.store((FIRST + 2) * P, 5).unwrap();
                mm.store((FIRST + 1) * P, 6).unwrap();
            };
            scope.spawn(move || cpus.run_on(CpuId(1), store)).join().unwrap();
        });
        user.load(Va((FIRST + 1) * P), &mut seen).unwrap();
        assert_eq!(seen, [6]);
        drop(user);
        assert_eq!((event(w, Event::TlbFlush), event(w, Event::FaultZeroUpgrade)), (1, 0));
        assert_eq!(mm.counters().anon.0, 8);
    });
}

#[test]
fn a_write_over_the_zero_page_takes_the_window_and_unsharing_takes_the_page() {
    for (access, end, taken) in [(Write, 4, 4), (Unshare, 4, 1), (Write, 3, 1)] {
        run(always(2), |w| {
            let mm = mapped(w, pages(FIRST, end));
            assert_eq!(mm.load((FIRST + 1) * P), Ok(0));
            assert_eq!(mm.handle_fault(Va((FIRST + 1) * P), access), FaultOutcome::Done);
            assert_eq!((mm.counters().anon.0, event(w, Event::FaultZeroUpgrade)), (taken, 1), "{access:?}");
            w.vm.validate().unwrap();
        });
    }
}

/// A folio of 2^`order` pages at page [`FIRST`], shared by a parent and its child.
fn shared(w: &World, order: u8) -> [Mm<'_, M>; 2] {
    let mm = mapped(w, pages(FIRST, 1 << order));
    w.vm.set_folio_policy(always(order));
    fill(&mm, pages(FIRST, 1 << order));
    let child = mm.fork().unwrap();
    [mm, child]
}

/// Whether the pages are exclusive, and whether they were written.
fn marks(mm: &Mm<'_, M>, len: u64) -> (Vec<bool>, Vec<bool>) {
    let all: Vec<_> = (0..len).map(|page| mm.pagemap(Va((FIRST + page) * P))).collect();
    (all.iter().map(|page| page.exclusive).collect(), all.iter().map(|page| page.dirty).collect())
}

#[test]
fn the_last_sharer_takes_the_whole_folio_in_one_fault() {
    run(always(2), |w| {
        let [mm, child] = shared(w, 2);
        drop(child);
        let faults = event(w, Event::Fault);
        assert_eq!(mm.handle_fault(Va((FIRST + 1) * P), Write), FaultOutcome::Done);
        assert_eq!(
            [Event::FaultCowReuse, Event::FaultCowCopy, Event::FaultSpurious].map(|e| event(w, e)),
            [1, 0, 0]
        );
        assert_eq!(folios(w, 2, FolioEvent::ReuseRun), 1);
        assert_eq!(marks(&mm, 4).0, [true; 4]);
        fill(&mm, pages(FIRST, 4));
        assert_eq!(event(w, Event::Fault) - faults, 1, "all of it is writable");
        w.vm.validate().unwrap();
    });
}

#[test]
fn unsharing_makes_pages_exclusive_and_not_writable() {
    run(always(2), |w| {
        let [mm, child] = shared(w, 2);
        drop(child);
        assert_eq!(mm.handle_fault(Va((FIRST + 1) * P), Unshare), FaultOutcome::Done);
        assert_eq!((marks(&mm, 4).0, folios(w, 2, FolioEvent::ReuseRun)), ([true; 4].to_vec(), 1));
        let faults = event(w, Event::Fault);
        mm.store((FIRST + 2) * P, 1).unwrap();
        assert_eq!(event(w, Event::Fault) - faults, 1, "the first write says so");
    });
}

#[test]
fn the_largest_part_that_is_shared_alike_is_copied() {
    // (the orders that the policy has, what is done before, the page, the order that is copied, fallbacks)
    type Before = for<'w> fn(&Mm<'w, M>);
    let nothing: Before = |_| {};
    let dropped: Before = |mm| mm.madvise(Va(FIRST * P), P, crate::Advice::DontNeed).unwrap();
    let low_split: Before = |mm| mm.mprotect(pages(FIRST, 1), Prot::READ).unwrap();
    let high_split: Before = |mm| mm.mprotect(pages(FIRST + 7, 1), Prot::READ).unwrap();
    let all = FolioPolicy::up_to(Order::new(4), FolioMode::Always);
    let some = always(3).with(Order::new(1), FolioMode::Always);
    let cases = [
        (all, nothing, 5, 3, [0, 0, 0]),
        (some, nothing, 5, 3, [0, 0, 0]),
        (some, dropped, 5, 1, [0, 0, 1]),
        (all, dropped, 6, 2, [0, 0, 1]),
        (all, dropped, 2, 1, [0, 1, 1]),
        (all, dropped, 1, 0, [1, 1, 1]),
        (all, low_split, 1, 0, [1, 1, 1]),
        (all, low_split, 3, 1, [0, 1, 1]),
        (all, high_split, 6, 0, [1, 1, 1]),
        (all, high_split, 2, 2, [0, 0, 1]),
        (always(4), nothing, 5, 0, [0, 0, 0]),
    ];
    for (policy, before, page, order, fallbacks) in cases {
        run(all, |w| {
            let [mm, child] = shared(w, 3);
            before(&mm);
            w.vm.set_folio_policy(policy);
            assert_eq!(mm.handle_fault(Va((FIRST + page) * P), Write), FaultOutcome::Done);
            assert_eq!(order_at(w, &mm, FIRST + page), order, "page {page}");
            assert_eq!(
                [1, 2, 3].map(|order| folios(w, order, FolioEvent::CopyFallback)),
                fallbacks,
                "page {page}"
            );
            let copied = if order == 0 { 0 } else { folios(w, order, FolioEvent::CopyRun) };
            assert_eq!((copied, event(w, Event::FaultCowCopy)), (u64::from(order > 0), 1));
            assert_eq!(event(w, Event::CowKsm), 0, "nobody had merged it");
            let start = page >> order << order;
            let own: Vec<_> = (start..start + (1 << order)).collect();
            let exclusive = marks(&mm, 8).0;
            (0..8).for_each(|nth| assert_eq!(exclusive[nth as usize], own.contains(&nth), "page {nth}"));
            for nth in own {
                assert_eq!(mm.load((FIRST + nth) * P), Ok((FIRST + nth) as u8 | 1));
            }
            w.vm.validate().unwrap();
            // What was copied is found where it is mapped, and leaves.
            w.vm.swap_on(0, 64, 0).unwrap();
            let pfn = mm.pagemap(Va((FIRST + page) * P)).pfn.unwrap();
            assert!(w.vm.reclaim_folio(w.vm.frames.try_get(pfn).unwrap()));
            assert_eq!(mm.load((FIRST + page) * P), Ok((FIRST + page) as u8 | 1));
            drop((mm, child));
            w.vm.swap_off(0).unwrap();
        });
    }
}

#[test]
fn a_part_is_copied_page_by_page_without_memory_for_it() {
    run(always(2), |w| {
        let [mm, child] = shared(w, 2);
        w.failures.set(FailurePlan::Nth(1));
        assert_eq!(mm.handle_fault(Va((FIRST + 1) * P), Write), FaultOutcome::Done);
        w.failures.set(FailurePlan::Off);
        assert_eq!((order_at(w, &mm, FIRST + 1), folios(w, 2, FolioEvent::CopyFallback)), (0, 1));
        assert!(!w.vm.frames.has_partly_mapped_hint(), "the child has all of it");
        drop(child);
    });
}

#[test]
fn a_page_that_is_copied_out_of_a_folio_of_ours_is_looked_for() {
    for (asks_child, hint) in [(false, false), (true, true)] {
        run(always(2), |w| {
            let [mm, child] = shared(w, 2);
            if asks_child {
                // Not more mappings than pages, and one of them is another's.
                child.munmap(pages(FIRST + 1, 3)).unwrap();
                mm.munmap(pages(FIRST + 3, 1)).unwrap();
            }
            w.vm.frames.take_partly_mapped_hint();
            w.vm.set_folio_policy(FolioPolicy::default());
            mm.store((FIRST + 1) * P, 1).unwrap();
            assert_eq!(w.vm.frames.has_partly_mapped_hint(), hint);
            w.vm.validate().unwrap();
        });
    }
}

#[test]
fn a_copied_part_is_flushed_before_it_is_written() {
    run(always(2), |w| {
        let [mm, child] = shared(w, 2);
        let flushes = event(w, Event::TlbFlush);
        let user = mm.user();
        let mut seen = [0];
        user.load(Va((FIRST + 3) * P), &mut seen).unwrap();
        let cpus = w.vm.machine().cpus().clone();
        let (cpus, mm) = (&cpus, &mm);
        std::thread::scope(|scope| {
            let store = move || {
                mm.store((FIRST + 1) * P, 70).unwrap();
                mm.store((FIRST + 3) * P, 71).unwrap();
            };
            scope.spawn(move || cpus.run_on(CpuId(1), store)).join().unwrap();
        });
        user.load(Va((FIRST + 3) * P), &mut seen).unwrap();
        assert_eq!((seen, event(w, Event::TlbFlush) - flushes), ([71], 1));
        drop(user);
        drop(child);
    });
}

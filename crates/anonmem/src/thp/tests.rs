//! Large folios on the hosted machine, in every lock mode and of every order.

use crate::{
    Advice, Config, FolioEvent, FolioMode, FolioPolicy, LockMode, MAX_FOLIO_ORDER, Mm, Populate, ThpDisable,
    VmFlags,
    testing::{M, P, RW, World, pages},
    vma::Backing,
};
use anonmem_frame::FolioOwner;
use anonmem_hal::{Order, Va, VaRange};

mod swap;

const MODES: [LockMode; 3] = [LockMode::Mmap, LockMode::Vma, LockMode::Speculative];

fn only(order: u8, mode: FolioMode) -> FolioPolicy {
    FolioPolicy::default().with(Order::new(order), mode)
}

fn with_policy(folios: FolioPolicy, f: impl Fn(&World)) {
    for lock_mode in MODES {
        World::run_with(Config { lock_mode, folios, ..Config::default() }, &f);
    }
}

fn of_every_order(f: impl Fn(&World, u8)) {
    for order in 1..=MAX_FOLIO_ORDER {
        with_policy(only(order, FolioMode::Always), |w| f(w, order));
    }
}

fn mapped(w: &World, range: VaRange) -> Mm<'_, M> {
    let mm = w.vm.new_mm().unwrap();
    mm.map_raw(range, RW, Backing::Anonymous);
    mm
}

/// A mapping with its first folio touched: 2^`order` pages from page 1024 on.
fn one_folio(w: &World, order: u8) -> Mm<'_, M> {
    let mm = mapped(w, pages(1024, 1024));
    mm.store(1024 * P, 7).unwrap();
    // In mode `Speculative` the first fault of a VMA is done under the mmap lock.
    assert_eq!(event(w, order, FolioEvent::FaultAlloc), 1);
    mm
}

fn event(w: &World, order: u8, event: FolioEvent) -> u64 {
    w.vm.folio_event(Order::new(order), event)
}

fn order_at(w: &World, mm: &Mm<'_, M>, page: u64) -> u8 {
    let pfn = mm.pagemap(Va(page * P)).pfn.unwrap();
    w.vm.frames.folio(pfn).unwrap().order().get()
}

fn fill(mm: &Mm<'_, M>, range: VaRange, salt: u64) {
    range.iter_pages().for_each(|va| mm.store(va.0, byte(va, salt)).unwrap());
}

fn byte(va: Va, salt: u64) -> u8 {
    (va.0 / P).wrapping_mul(7).wrapping_add(salt) as u8 | 1
}

fn check(mm: &Mm<'_, M>, range: VaRange, salt: u64) {
    range.iter_pages().for_each(|va| assert_eq!(mm.load(va.0), Ok(byte(va, salt)), "{va:?}"));
}

#[test]
fn a_first_write_takes_a_folio_and_no_more_faults() {
    of_every_order(|w, order| {
        let mm = one_folio(w, order);
        let all = pages(1024, 1 << order);
        assert_eq!((mm.counters().anon.0, order_at(w, &mm, 1024)), (1 << order, order));
        w.vm.validate().unwrap();
        let faults = w.vm.stats().event(crate::Event::Fault);
        fill(&mm, all, 3);
        check(&mm, all, 3);
        assert_eq!(w.vm.stats().event(crate::Event::Fault), faults);
    });
}

#[test]
fn the_window_is_aligned_lies_in_the_vma_and_is_empty() {
    with_policy(FolioPolicy::up_to(Order::new(4), FolioMode::Always), |w| {
        let mm = mapped(w, pages(1027, 40));
        mm.store(1027 * P, 1).unwrap();
        assert_eq!(mm.counters().anon.0, 1, "no window of two pages lies in the VMA");
        mm.store(1029 * P, 1).unwrap();
        assert_eq!((mm.counters().anon.0, order_at(w, &mm, 1028)), (5, 2));
        mm.store(1045 * P, 1).unwrap();
        assert_eq!(order_at(w, &mm, 1045), 4);
        // The window of 16 pages is in use in part.
        mm.map_raw(pages(2048, 16), RW, Backing::Anonymous);
        w.vm.set_folio_policy(only(1, FolioMode::Always));
        mm.store(2048 * P, 1).unwrap();
        w.vm.set_folio_policy(FolioPolicy::up_to(Order::new(4), FolioMode::Always));
        mm.store(2051 * P, 1).unwrap();
        assert_eq!(order_at(w, &mm, 2050), 1);
        mm.store(2053 * P, 1).unwrap();
        assert_eq!(order_at(w, &mm, 2053), 2);
        assert_eq!(event(w, 4, FolioEvent::FallbackUsed), 2);
        assert!(event(w, 4, FolioEvent::FallbackVma) >= 2);
        w.vm.validate().unwrap();
    });
}

#[test]
fn what_was_read_before_becomes_part_of_the_folio() {
    of_every_order(|w, order| {
        let mm = mapped(w, pages(1024, 1024));
        let last = 1023 + (1 << order);
        assert_eq!((mm.load(1024 * P), mm.load(last * P)), (Ok(0), Ok(0)));
        mm.store(last * P, 5).unwrap();
        assert_eq!((mm.load(1024 * P), mm.load(last * P)), (Ok(0), Ok(5)));
        assert_eq!(mm.counters().anon.0, 1 << order);
        w.vm.validate().unwrap();
    });
}

#[test]
fn modes_say_where_folios_are_taken() {
    for (mode, plain, advised) in
        [(FolioMode::Never, 0, 0), (FolioMode::Madvise, 0, 3), (FolioMode::Always, 3, 3)]
    {
        with_policy(only(3, mode), |w| {
            let takes = |flags: VmFlags, disable: ThpDisable| {
                let mm = w.vm.new_mm().unwrap();
                mm.set_thp_disable(disable);
                mm.map_raw(pages(1024, 64), RW | flags, Backing::Anonymous);
                mm.store(1030 * P, 1).unwrap();
                assert_eq!(mm.fork().unwrap().thp_disable(), disable);
                order_at(w, &mm, 1030)
            };
            assert_eq!(takes(VmFlags::empty(), ThpDisable::No), plain);
            assert_eq!(takes(VmFlags::HUGEPAGE, ThpDisable::No), advised);
            assert_eq!(takes(VmFlags::NOHUGEPAGE, ThpDisable::No), 0);
            assert_eq!(takes(VmFlags::HUGEPAGE, ThpDisable::Yes), 0);
            assert_eq!(takes(VmFlags::HUGEPAGE, ThpDisable::ExceptAdvised), advised);
            assert_eq!(takes(VmFlags::empty(), ThpDisable::ExceptAdvised), 0);
        });
    }
}

#[test]
fn the_policy_changes_while_programs_run() {
    with_policy(FolioPolicy::default(), |w| {
        let mm = mapped(w, pages(1024, 64));
        mm.store(1024 * P, 1).unwrap();
        w.vm.set_folio_policy(only(2, FolioMode::Inherit).with_all(FolioMode::Always));
        mm.store(1032 * P, 1).unwrap();
        assert_eq!((order_at(w, &mm, 1024), order_at(w, &mm, 1032)), (0, 2));
        w.vm.set_folio_policy(only(2, FolioMode::Inherit).with_all(FolioMode::Never));
        mm.store(1040 * P, 1).unwrap();
        assert_eq!(order_at(w, &mm, 1040), 0);
    });
}

#[test]
fn populating_takes_folios() {
    of_every_order(|w, order| {
        let mm = mapped(w, pages(1024, 1024));
        mm.populate(pages(1024, 1024), Populate::Write).unwrap();
        assert_eq!(mm.counters().anon.0, 1024);
        assert_eq!(event(w, order, FolioEvent::FaultAlloc), 1024 >> order);
        w.vm.validate().unwrap();
    });
}

#[test]
fn partial_unmaps_at_every_boundary_keep_the_books() {
    for order in [1, 2, 4, 9] {
        with_policy(only(order, FolioMode::Always), |w| {
            let len = 1 << order;
            let step = if order == 9 { 73 } else { 1 };
            for from in (0..len).step_by(step) {
                for to in (from + 1..=len).step_by(step) {
                    let mm = mapped(w, pages(1024, 512));
                    fill(&mm, pages(1024, len), 1);
                    mm.munmap(VaRange::new(Va((1024 + from) * P), Va((1024 + to) * P))).unwrap();
                    w.vm.validate().unwrap();
                    assert_eq!(mm.counters().anon.0, len - (to - from));
                    check(&mm, pages(1024, from), 1);
                    check(&mm, VaRange::new(Va((1024 + to) * P), Va((1024 + len) * P)), 1);
                    let unmapped = w.vm.frames.large_usage()[usize::from(order)].unmapped.0;
                    assert_eq!(unmapped, if to - from == len { 0 } else { to - from }, "{from}..{to}");
                }
            }
        });
    }
}

#[test]
fn a_sole_owner_takes_the_run_and_a_sharer_copies_a_window() {
    of_every_order(|w, order| {
        let mm = one_folio(w, order);
        let all = pages(1024, 1 << order);
        fill(&mm, all, 1);
        let child = mm.fork().unwrap();
        w.vm.validate().unwrap();
        child.store(1024 * P, 9).unwrap();
        w.vm.validate().unwrap();
        assert_eq!(event(w, order, FolioEvent::ReuseRun), 0);
        let copied = event(w, order, FolioEvent::CopyRun);
        assert_eq!(
            copied,
            u64::from(order <= 4),
            "the window of the folio's order, if that is not too large"
        );
        assert_eq!((mm.load(1024 * P), child.load(1024 * P)), (Ok(byte(Va(1024 * P), 1)), Ok(9)));
        drop(child);
        // The child's mappings are gone: what the parent maps is all there is.
        let faults = w.vm.stats().event(crate::Event::Fault);
        fill(&mm, all, 2);
        assert_eq!(event(w, order, FolioEvent::ReuseRun), 1);
        assert_eq!(w.vm.stats().event(crate::Event::Fault), faults + 1, "one fault for all of the run");
        check(&mm, all, 2);
        w.vm.validate().unwrap();
    });
}

#[test]
fn an_exclusive_page_in_the_window_is_never_replaced() {
    with_policy(FolioPolicy::up_to(Order::new(3), FolioMode::Always), |w| {
        let mm = one_folio(w, 3);
        fill(&mm, pages(1024, 8), 1);
        let pin = mm.pin_page(Va(1026 * P));
        let child = mm.fork().unwrap();
        assert_eq!(child.counters().anon.0, 8, "all of a pinned folio's pages are copied for the child");
        drop(pin);
        // A write gives the child a page of its own in the window; then the parent's are shared and alone.
        let grandchild = child.fork().unwrap();
        child.store(1025 * P, 8).unwrap();
        grandchild.store(1024 * P, 9).unwrap();
        w.vm.validate().unwrap();
        assert_eq!((child.load(1025 * P), grandchild.load(1024 * P)), (Ok(8), Ok(9)));
        check(&mm, pages(1024, 8), 1);
        check(&grandchild, pages(1025, 7), 1);
    });
}

#[test]
fn the_shared_pages_of_a_pinned_folio_are_copied_alone() {
    with_policy(FolioPolicy::up_to(Order::new(3), FolioMode::Always), |w| {
        let mm = one_folio(w, 3);
        fill(&mm, pages(1024, 8), 1);
        // The first page stays the parent's alone, and can be pinned.
        mm.madvise(Va(1024 * P), P, Advice::DontFork).unwrap();
        let child = mm.fork().unwrap();
        mm.madvise(Va(1024 * P), P, Advice::DoFork).unwrap();
        let pin = mm.pin_page(Va(1024 * P));
        let runs = || (1..4).map(|order| event(w, order, FolioEvent::CopyRun)).sum::<u64>();
        child.store(1028 * P, 9).unwrap();
        assert_eq!(runs(), 0, "of a pinned folio no range is copied");
        assert!(child.pagemap(Va(1029 * P)).pfn == mm.pagemap(Va(1029 * P)).pfn);
        check(&child, pages(1025, 3), 1);
        drop(child);
        // All mappings are the parent's, but not all counts.
        mm.store(1026 * P, 8).unwrap();
        assert_eq!((event(w, 3, FolioEvent::ReuseRun), order_at(w, &mm, 1026)), (0, 0));
        drop(pin);
        mm.store(1030 * P, 8).unwrap();
        assert_eq!((event(w, 3, FolioEvent::ReuseRun), order_at(w, &mm, 1030)), (1, 3));
        w.vm.validate().unwrap();
    });
}

#[test]
fn a_folio_is_split_to_any_order_and_entries_do_not_change() {
    for order in [1, 2, 4, 9] {
        for to in 0..order {
            with_policy(only(order, FolioMode::Always), |w| {
                let mm = one_folio(w, order);
                let all = pages(1024, 1 << order);
                fill(&mm, all, 1);
                let child = mm.fork().unwrap();
                child.munmap(pages(1024 + (1 << order) / 2, 1)).unwrap();
                mm.munmap(pages(1024 + (1 << order) / 2, 1)).unwrap();
                let pfn = mm.pagemap(Va(1024 * P)).pfn.unwrap();
                let page = w.vm.frames.try_get(pfn).unwrap();
                let lock = page.lock();
                w.vm.split_folio(&lock, &page, Order::new(to)).unwrap();
                drop((lock, page));
                w.vm.validate().unwrap();
                assert_eq!(order_at(w, &mm, 1024), to);
                assert_eq!(mm.pagemap(Va(1024 * P)).pfn, Some(pfn));
                let first_half = pages(1024, (1 << order) / 2);
                check(&mm, first_half, 1);
                fill(&child, first_half, 2);
                check(&mm, first_half, 1);
            });
        }
    }
}

#[test]
fn a_split_is_refused_while_somebody_has_the_folio() {
    with_policy(only(3, FolioMode::Always), |w| {
        let mm = one_folio(w, 3);
        let page = w.vm.frames.try_get(mm.pagemap(Va(1024 * P)).pfn.unwrap()).unwrap();
        let other = page.clone();
        let lock = page.lock();
        assert_eq!(w.vm.split_folio(&lock, &page, Order::ZERO), Err(anonmem_frame::SplitRefused::Busy));
        drop((lock, other));
        let pin = mm.pin_page(Va(1029 * P));
        let lock = page.lock();
        assert_eq!(w.vm.split_folio(&lock, &page, Order::ZERO), Err(anonmem_frame::SplitRefused::Pinned));
        drop((lock, pin));
        assert_eq!((event(w, 3, FolioEvent::SplitBusy), event(w, 3, FolioEvent::SplitPinned)), (1, 1));
        let lock = page.lock();
        w.vm.split_folio(&lock, &page, Order::new(1)).unwrap();
        drop((lock, page));
        w.vm.validate().unwrap();
    });
}

#[test]
fn memory_that_nobody_maps_comes_back_first_and_without_swap() {
    for order in [1, 4, 9] {
        with_policy(only(order, FolioMode::Always), |w| {
            let mm = mapped(w, pages(1024, 2048));
            mm.populate(pages(1024, 2048), Populate::Write).unwrap();
            (0..2048).step_by(2).for_each(|i| mm.munmap(pages(1024 + i, 1)).unwrap());
            let held: u64 = w.vm.frames.large_usage().iter().map(|usage| usage.unmapped.0).sum();
            assert_eq!(held, 1024);
            let free = w.vm.stats().free;
            let more = mapped(w, pages(8192, free + 512));
            more.populate(pages(8192, free + 512), Populate::Write).unwrap();
            w.vm.validate().unwrap();
            assert!(event(w, order, FolioEvent::SplitPartly) > 0);
        });
    }
}

#[test]
fn folios_leave_and_return() {
    of_every_order(|w, order| {
        w.vm.swap_on(0, 4096, 0).unwrap();
        let mm = one_folio(w, order);
        let all = pages(1024, 1 << order);
        fill(&mm, all, 1);
        let child = mm.fork().unwrap();
        mm.madvise(all.start, all.len(), Advice::PageOut).unwrap();
        drop(child);
        mm.madvise(all.start, all.len(), Advice::PageOut).unwrap();
        assert_eq!((mm.counters().anon.0, mm.counters().swap.0), (0, 1 << order));
        w.vm.validate().unwrap();
        check(&mm, all, 1);
        w.vm.validate().unwrap();
        w.vm.swap_off(0).unwrap();
    });
}

#[test]
fn without_a_block_of_that_size_a_smaller_one_will_do() {
    with_policy(FolioPolicy::up_to(Order::new(9), FolioMode::Always), |w| {
        let mm = mapped(w, pages(1024, 4096));
        let reached = (1024..5120).take_while(|&page| mm.store(page * P, 1).is_ok()).count();
        assert!(reached > 3500, "memory was used to its end: {reached}");
        assert!(event(w, 9, FolioEvent::FallbackMemory) > 0);
        w.vm.validate().unwrap();
    });
}

#[test]
fn auto_grows_with_use_and_keeps_its_bound() {
    with_policy(FolioPolicy::up_to(Order::new(9), FolioMode::Auto), |w| {
        let mm = mapped(w, pages(1024, 2048));
        // Every 16th page: nothing beside is in use.
        (0..2048).step_by(16).for_each(|i| mm.store((1024 + i) * P, 1).unwrap());
        assert_eq!(mm.counters().anon.0, 128, "a sparse program gets what it touches");
        let dense = mapped(w, pages(1024, 2048));
        for touched in 1..=2048 {
            dense.store((1023 + touched) * P, 1).unwrap();
            let allocated = dense.counters().anon.0;
            assert!(allocated * 10 <= touched * 11 + 10, "{allocated} pages for {touched} that were touched");
        }
        assert!(event(w, 4, FolioEvent::FaultAlloc) > 0 && event(w, 6, FolioEvent::FaultAlloc) > 0);
        w.vm.validate().unwrap();
    });
}

/// Stores to `order`'s pages of a mapping, and says the most that was allocated for a hundred that were
/// touched.
fn most_allocated(w: &World, mm: &Mm<'_, M>, order: impl Iterator<Item = u64>) -> u64 {
    let mut most = 0;
    for (touched, page) in (1..).zip(order) {
        mm.store(page * P, 1).unwrap();
        // A program of few pages gets no more than a page at a time.
        most = most.max((mm.counters().anon.0 * 100).div_ceil(touched));
    }
    w.vm.validate().unwrap();
    most
}

fn auto(f: impl Fn(&World)) {
    with_policy(FolioPolicy::up_to(Order::new(9), FolioMode::Auto), f);
}

fn faults(w: &World) -> u64 {
    w.vm.stats().event(crate::Event::FaultAnon)
}

#[test]
fn auto_grows_over_holes_and_keeps_its_bound() {
    auto(|w| {
        // Upwards, and one page in 25 is left out: what is beside is never all written.
        let mm = mapped(w, pages(1024, 2048));
        let most = most_allocated(w, &mm, (1024..3072).filter(|page| page % 25 != 7));
        assert!(most <= 110, "{most} pages for 100 that were touched");
        assert!(faults(w) < 900, "{} faults", faults(w));
    });
}

#[test]
fn auto_keeps_its_bound_whatever_the_order() {
    let downwards = (1024..3072).rev().collect::<std::vec::Vec<u64>>();
    // Four streams that take turns, and pages without any order: 1021 has no divisor in common with 2048.
    let streams = (0..2048).map(|i| 1024 + i / 4 + i % 4 * 512).collect();
    let scattered = (0..2048).map(|i| 1024 + i * 1021 % 2048).collect();
    for (order, most_faults) in [(downwards, 700), (streams, 900), (scattered, 2049)] {
        auto(|w| {
            let mm = mapped(w, pages(1024, 2048));
            let most = most_allocated(w, &mm, order.iter().copied());
            assert!(most <= 110, "{most} pages for 100 that were touched");
            assert!(faults(w) < most_faults, "{} faults", faults(w));
        });
    }
}

#[test]
fn a_program_that_stops_in_every_folio_is_not_given_more() {
    auto(|w| {
        // 64 pages, then every 16th page of what follows: each is a page beside memory in use.
        let mm = mapped(w, pages(1024, 2048));
        let first = most_allocated(w, &mm, 1024..1088);
        let order = (0..120).map(|i| 1088 + 16 * i);
        let mut touched = 64;
        for page in order {
            mm.store(page * P, 1).unwrap();
            touched += 1;
            let allocated = mm.counters().anon.0;
            assert!(allocated * 10 <= touched * 11 + 10, "{allocated} for {touched}, {first}");
        }
    });
}

#[test]
fn what_nobody_touched_is_known_and_comes_back_when_memory_is_short() {
    for order in [4, 9] {
        with_policy(only(order, FolioMode::Always), |w| {
            let mm = mapped(w, pages(1024, 2048));
            (0..2048).step_by(1 << order).for_each(|i| mm.store((1024 + i) * P, 3).unwrap());
            assert_eq!(mm.counters().anon.0, 2048);
            let untouched: u64 = w.vm.untouched_pages().iter().map(|pages| pages.0).sum();
            // The CPU may look at a page that the program does not.
            let most = 2048 - (2048 >> order);
            assert!(untouched <= most && untouched * 10 > most * 9, "{untouched} of {most}");
            // Nothing can leave, and yet there is memory for more than is free.
            let free = w.vm.stats().free;
            let more = mapped(w, pages(8192, free + 1024));
            more.populate(pages(8192, free + 1024), Populate::Write).unwrap();
            w.vm.validate().unwrap();
            assert!(event(w, order, FolioEvent::SplitUntouched) > 0);
            assert!(mm.counters().anon.0 < 1100, "{}", mm.counters().anon.0);
            (0..2048).for_each(|i| {
                let expected = if i % (1 << order) == 0 { 3 } else { 0 };
                assert_eq!(mm.load((1024 + i) * P), Ok(expected));
            });
        });
    }
}

#[test]
fn a_page_that_somebody_watches_or_wrote_is_not_given_back() {
    with_policy(only(4, FolioMode::Always), |w| {
        let mm = mapped(w, pages(1024, 64));
        (0..64).step_by(16).for_each(|i| mm.store((1024 + i) * P, 3).unwrap());
        let uffd = mm.userfaultfd(crate::UffdFaults::Any).unwrap();
        uffd.agree(crate::UffdFeatures::empty()).unwrap();
        uffd.register(Va(1024 * P), 16 * P, crate::RegisterMode::MISSING).unwrap();
        mm.mlock_onfault(Va(1040 * P), 16 * P).unwrap();
        // Written and zero again: it goes, and is what it was.
        mm.store(1057 * P, 1).unwrap();
        mm.store(1057 * P, 0).unwrap();
        assert!(w.vm.give_back_untouched(4096) >= 16);
        w.vm.validate().unwrap();
        let here =
            |first: u64| pages(first, 16).iter_pages().filter(|&va| mm.pagemap(va).pfn.is_some()).count();
        assert_eq!((here(1024), here(1040)), (16, 16), "watched, and locked");
        assert!(here(1056) <= 2 && here(1072) == 1);
        assert_eq!((mm.load(1057 * P), mm.load(1056 * P)), (Ok(0), Ok(3)));
        drop(uffd);
    });
}

#[test]
fn what_is_pinned_is_not_given_back_though_nobody_touched_it() {
    with_policy(only(4, FolioMode::Always), |w| {
        let mm = one_folio(w, 4);
        let pin = mm.pin_page(Va(1024 * P));
        let pinned = || w.vm.stats().event(crate::Event::ReclaimPinned);
        let before = pinned();
        assert_eq!(w.vm.give_back_untouched(4096), 0);
        assert!(pinned() > before && event(w, 4, FolioEvent::SplitPinned) == 0);
        drop(pin);
        assert!(w.vm.give_back_untouched(4096) > 0);
        w.vm.validate().unwrap();
    });
}

#[test]
fn a_folio_of_many_programs_is_split() {
    for order in [2, 9] {
        with_policy(only(order, FolioMode::Always), |w| {
            let mm = one_folio(w, order);
            let all = pages(1024, 1 << order);
            fill(&mm, all, 1);
            let children: std::vec::Vec<_> = (0..15).map(|_| mm.fork().unwrap()).collect();
            for (child, nth) in children.iter().zip(0..) {
                child.munmap(pages(1024 + nth % 4, 1)).unwrap();
            }
            let page = w.vm.frames.try_get(mm.pagemap(all.start).pfn.unwrap()).unwrap();
            let lock = page.lock();
            w.vm.split_folio(&lock, &page, Order::new(1)).unwrap();
            drop((lock, page));
            w.vm.validate().unwrap();
            assert_eq!((order_at(w, &mm, 1024), event(w, order, FolioEvent::Split)), (1, 1));
            check(&children[3], pages(1024, 3), 1);
            drop(children);
            fill(&mm, all, 2);
            check(&mm, all, 2);
            w.vm.validate().unwrap();
        });
    }
}

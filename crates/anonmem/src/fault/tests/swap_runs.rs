//! Which entries get their pages when a folio comes back from swap, and as whose.
//!
//! Each test says exactly how many pages are mapped, how, and what was counted. One page too many may be
//! somebody else's.

use crate::{
    Advice, Config, Event, FolioEvent, FolioMode, FolioPolicy, LockMode, Mm, Prot,
    fault::{
        FaultAccess::{Read, Write},
        FaultResult, VmFault,
        swap_run::map_cached,
        vm_fault::Waits,
    },
    swap::cache::SwapIn,
    testing::{M, P, RW, World, pages},
    vma::Backing,
};
use anonmem_frame::FolioOwner;
use anonmem_hal::{Order, SwapEntry, Va, VaRange};
use anonmem_hosted::FailurePlan;
use std::vec::Vec;

/// The first page of the window of most tests.
const FIRST: u64 = 1024;

/// Folios of four pages, under the mmap lock: each step is one fault.
fn with_folios(f: impl Fn(&World)) {
    let config = Config { lock_mode: LockMode::Mmap, folios: only(2), ..Config::default() };
    World::run_with(config, |w| {
        w.vm.swap_on(0, 4096, 0).unwrap();
        f(w);
    });
}

fn only(order: u8) -> FolioPolicy {
    FolioPolicy::default().with(Order::new(order), FolioMode::Always)
}

fn mapped(w: &World, range: VaRange) -> Mm<'_, M> {
    let mm = w.vm.new_mm().unwrap();
    mm.map_raw(range, RW, Backing::Anonymous);
    mm
}

fn byte(page: u64) -> u8 {
    page as u8 | 1
}

/// An address space with one folio of 2^`order` pages, at page `first`.
fn folio_at(w: &World, first: u64, order: u8) -> Mm<'_, M> {
    let mm = mapped(w, pages(first, 1 << order));
    w.vm.set_folio_policy(only(order));
    fill(&mm, first, 1 << order);
    assert_eq!(mm.counters().anon.0, 1 << order);
    mm
}

fn fill(mm: &Mm<'_, M>, first: u64, len: u64) {
    (first..first + len).for_each(|page| mm.store(page * P, byte(page)).unwrap());
}

fn check(mm: &Mm<'_, M>, first: u64, len: u64) {
    (first..first + len).for_each(|page| assert_eq!(mm.load(page * P), Ok(byte(page)), "page {page}"));
}

fn advise(mm: &Mm<'_, M>, range: VaRange, advice: Advice) {
    mm.madvise(range.start, range.len(), advice).unwrap();
}

/// The folio at `page` leaves, whoever maps it.
fn leave(w: &World, mm: &Mm<'_, M>, page: u64) {
    let folio = w.vm.frames.try_get(mm.pagemap(Va(page * P)).pfn.unwrap()).unwrap();
    assert!(w.vm.reclaim_folio(folio));
}

fn event(w: &World, event: Event) -> u64 {
    w.vm.stats().event(event)
}

fn folios(w: &World, order: u8, event: FolioEvent) -> u64 {
    w.vm.folio_event(Order::new(order), event)
}

/// The pages of `mm` that are in memory and in swap.
fn there(mm: &Mm<'_, M>) -> (u64, u64) {
    (mm.counters().anon.0, mm.counters().swap.0)
}

/// Reads 2^`order` pages from slot 0 on into the swap cache, as another fault would that does not get on.
pub(super) fn cache_run(w: &World, order: u8) -> anonmem_frame::FolioRef<'_, M> {
    let new = w.vm.frames.alloc_gently(Order::new(order)).unwrap();
    match w.vm.swap_read_run(SwapEntry { device: 0, offset: 0 }, new) {
        Ok(SwapIn::Page(page)) => page,
        _ => panic!("the slots are in use, and nobody has read them"),
    }
}

#[test]
fn a_folio_that_comes_back_whole_is_counted_by_its_pages() {
    with_folios(|w| {
        let mm = folio_at(w, FIRST, 2);
        leave(w, &mm, FIRST);
        assert_eq!(mm.load((FIRST + 1) * P), Ok(byte(FIRST + 1)));
        assert_eq!(there(&mm), (4, 0));
        assert_eq!([Event::SwapIn, Event::FaultSwap, Event::FaultSpurious].map(|e| event(w, e)), [4, 1, 0]);
        assert_eq!(event(w, Event::WorkingsetRefault), 1, "it had just left");
        assert_eq!(folios(w, 2, FolioEvent::SwapIn), 1);
        assert_eq!(folios(w, 2, FolioEvent::SwapInFallback), 0);
        let pages: Vec<_> = (0..4).map(|page| mm.pagemap(Va((FIRST + page) * P))).collect();
        assert!(pages.iter().all(|page| page.exclusive));
        let young: Vec<_> = pages.iter().map(|page| page.young).collect();
        assert_eq!(young, [false, true, false, false], "the page that trapped is in use");
        check(&mm, FIRST, 4);
    });
}

#[test]
fn without_a_block_the_page_comes_alone_and_that_is_counted() {
    with_folios(|w| {
        let mm = folio_at(w, FIRST, 2);
        leave(w, &mm, FIRST);
        w.failures.set(FailurePlan::Nth(1));
        assert_eq!(mm.load(FIRST * P), Ok(byte(FIRST)));
        w.failures.set(FailurePlan::Off);
        assert_eq!((there(&mm), folios(w, 2, FolioEvent::SwapInFallback)), ((1, 3), 1));
        check(&mm, FIRST, 4);
    });
}

#[test]
fn a_window_that_does_not_ask_for_its_slots_is_not_read() {
    with_folios(|w| {
        for gone in 0..4 {
            let mm = folio_at(w, FIRST, 2);
            // The child keeps the slot of the page that the parent has dropped.
            let child = mm.fork().unwrap();
            leave(w, &mm, FIRST);
            let (read, failed) = (folios(w, 2, FolioEvent::SwapIn), folios(w, 2, FolioEvent::SwapInFallback));
            advise(&mm, pages(FIRST + gone, 1), Advice::DontNeed);
            let asked = FIRST + (gone + 1) % 4;
            assert_eq!(mm.load(asked * P), Ok(byte(asked)));
            assert_eq!((there(&mm), there(&child)), ((1, 2), (0, 4)), "page {gone} is gone");
            assert_eq!(folios(w, 2, FolioEvent::SwapIn), read);
            assert_eq!(folios(w, 2, FolioEvent::SwapInFallback), failed);
            check(&child, FIRST, 4);
            assert_eq!(mm.load((FIRST + gone) * P), Ok(0));
            w.vm.validate().unwrap();
        }
    });
}

#[test]
fn slots_that_are_in_a_row_and_not_aligned_are_no_folio() {
    with_folios(|w| {
        w.vm.set_folio_policy(FolioPolicy::default());
        let mm = mapped(w, pages(FIRST, 4));
        let before = mapped(w, pages(64, 1));
        before.store(64 * P, 1).unwrap();
        leave(w, &before, 64);
        fill(&mm, FIRST, 4);
        advise(&mm, pages(FIRST, 4), Advice::PageOut);
        w.vm.set_folio_policy(only(2));
        assert_eq!(mm.load(FIRST * P), Ok(byte(FIRST)));
        assert_eq!((there(&mm), folios(w, 2, FolioEvent::SwapIn)), ((1, 3), 0));
        check(&mm, FIRST, 4);
    });
}

#[test]
fn a_window_of_two_mappings_is_not_read() {
    with_folios(|w| {
        for split in [pages(FIRST, 1), pages(FIRST, 2), pages(FIRST + 3, 1)] {
            let mm = folio_at(w, FIRST, 2);
            leave(w, &mm, FIRST);
            let read = folios(w, 2, FolioEvent::SwapIn);
            mm.mprotect(split, Prot::READ).unwrap();
            for (nth, page) in (FIRST..FIRST + 4).enumerate() {
                assert_eq!(mm.load(page * P), Ok(byte(page)));
                assert_eq!(there(&mm), (nth as u64 + 1, 3 - nth as u64), "{split:?}");
            }
            assert_eq!(folios(w, 2, FolioEvent::SwapIn), read);
        }
    });
}

#[test]
fn what_is_read_needs_a_reason() {
    // (order, mode, the page of the neighbour that is back, whether that is all, what is read whole)
    let cases = [
        (2, FolioMode::Always, None, 1),
        (2, FolioMode::Auto, None, 0),
        (2, FolioMode::Auto, Some(4), 1),
        (5, FolioMode::Always, None, 0),
        (5, FolioMode::Always, Some(32), 1),
    ];
    for (order, mode, beside, whole) in cases {
        with_folios(|w| {
            let len = 1 << order;
            let mm = mapped(w, pages(FIRST, 2 * len));
            w.vm.set_folio_policy(only(order));
            fill(&mm, FIRST, 2 * len);
            advise(&mm, pages(FIRST, 2 * len), Advice::PageOut);
            w.vm.set_folio_policy(FolioPolicy::default());
            if let Some(above) = beside {
                check(&mm, FIRST + above, len);
            }
            w.vm.set_folio_policy(FolioPolicy::default().with(Order::new(order), mode));
            assert_eq!(mm.load(FIRST * P), Ok(byte(FIRST)));
            assert_eq!(folios(w, order, FolioEvent::SwapIn), whole, "order {order}, {mode:?}, {beside:?}");
            assert_eq!(event(w, Event::LeafSwapIn), 0);
        });
    }
}

#[test]
fn what_another_mapping_has_beside_is_no_reason() {
    with_folios(|w| {
        let mm = mapped(w, pages(FIRST, 32));
        mm.map_raw(pages(FIRST + 32, 32), RW, Backing::Anonymous);
        w.vm.set_folio_policy(only(5));
        fill(&mm, FIRST, 64);
        leave(w, &mm, FIRST);
        assert_eq!(mm.load(FIRST * P), Ok(byte(FIRST)));
        assert_eq!((there(&mm), folios(w, 5, FolioEvent::SwapIn)), ((33, 31), 0));
    });
}

#[test]
fn an_entry_of_another_slot_gets_no_page_of_the_folio() {
    with_folios(|w| {
        for other in 0..4 {
            let mm = folio_at(w, FIRST, 2);
            let child = mm.fork().unwrap();
            leave(w, &mm, FIRST);
            // The page of the parent is a new one, in a slot of its own.
            let va = (FIRST + other) * P;
            advise(&mm, pages(FIRST + other, 1), Advice::DontNeed);
            mm.store(va, 200).unwrap();
            leave(w, &mm, FIRST + other);
            assert_eq!((there(&mm), child.load(FIRST * P)), ((0, 4), Ok(byte(FIRST))));
            assert_eq!(there(&child), (4, 0), "the folio is back");
            let asked = FIRST + (other + 2) % 4;
            assert_eq!(mm.load(asked * P), Ok(byte(asked)));
            assert_eq!(there(&mm), (1, 3));
            assert_eq!((mm.load(va), child.load(va)), (Ok(200), Ok(byte(FIRST + other))));
            w.vm.validate().unwrap();
        }
    });
}

#[test]
fn a_page_of_a_cached_folio_comes_alone_where_others_of_it_are_gone_or_elsewhere() {
    with_folios(|w| {
        let drop_page = |mm: &Mm<'_, M>, page| advise(mm, pages(page, 1), Advice::DontNeed);
        let protect = |mm: &Mm<'_, M>, page| mm.mprotect(pages(page, 1), Prot::READ).unwrap();
        for nth in 0..4 {
            for (left, change) in [(2, &drop_page as &dyn Fn(&Mm<'_, M>, u64)), (3, &protect)] {
                let mm = folio_at(w, FIRST, 2);
                let child = mm.fork().unwrap();
                leave(w, &mm, FIRST);
                change(&mm, FIRST + nth);
                check(&child, FIRST, 4);
                let asked = FIRST + (nth + 1) % 4;
                assert_eq!(mm.load(asked * P), Ok(byte(asked)));
                assert_eq!((there(&mm), there(&child)), ((1, left), (4, 0)), "page {nth}");
                let hits = event(w, Event::SwapCacheHit);
                assert!(hits > 0 && event(w, Event::KsmSwapinCopy) == 0);
                w.vm.validate().unwrap();
            }
        }
    });
}

#[test]
fn a_folio_at_the_beginning_of_memory_comes_back_whole() {
    with_folios(|w| {
        for asked in 0..4 {
            let mm = folio_at(w, 0, 2);
            leave(w, &mm, 0);
            assert_eq!(mm.load(asked * P), Ok(byte(asked)));
            assert_eq!((there(&mm), event(w, Event::KsmSwapinCopy)), ((4, 0), 0), "page {asked}");
            w.vm.validate().unwrap();
        }
    });
}

/// A folio that only the parent's entries need any more, and that says nothing of being its own.
fn of_one_sharer(w: &World) -> Mm<'_, M> {
    let mm = folio_at(w, FIRST, 2);
    let child = mm.fork().unwrap();
    leave(w, &mm, FIRST);
    drop(child);
    mm
}

/// Which pages of the folio are marked as their entry's own.
fn exclusive(w: &World, mm: &Mm<'_, M>) -> Vec<bool> {
    let page = |nth| mm.pagemap(Va((FIRST + nth) * P)).pfn;
    (0..4).map(|nth| page(nth).is_some_and(|pfn| w.vm.frames.page_is_exclusive(pfn))).collect()
}

#[test]
fn a_folio_is_ours_if_nobody_else_needs_a_slot_or_has_it() {
    with_folios(|w| {
        let mm = of_one_sharer(w);
        assert_eq!(mm.load(FIRST * P), Ok(byte(FIRST)));
        assert_eq!((exclusive(w, &mm), there(&mm)), ([true; 4].to_vec(), (4, 0)));
        let faults = event(w, Event::Fault);
        fill(&mm, FIRST, 4);
        assert_eq!(event(w, Event::Fault), faults, "all of it is writable");
    });
    with_folios(|w| {
        let mm = of_one_sharer(w);
        let held = cache_run(w, 2);
        held.set_idle(2);
        assert_eq!(mm.load(FIRST * P), Ok(byte(FIRST)));
        assert_eq!((exclusive(w, &mm), there(&mm)), ([false; 4].to_vec(), (4, 0)), "somebody reads it");
        assert_eq!(held.folio().idle(), 0, "it is in use");
    });
    with_folios(|w| {
        let mm = of_one_sharer(w);
        drop(cache_run(w, 2));
        mm.mprotect(pages(FIRST + 3, 1), Prot::READ).unwrap();
        assert_eq!(mm.load(FIRST * P), Ok(byte(FIRST)));
        assert_eq!(
            (exclusive(w, &mm), there(&mm)),
            ([false; 4].to_vec(), (1, 3)),
            "a part of it is not asked for"
        );
        check(&mm, FIRST, 4);
    });
    for kept in 0..4 {
        with_folios(|w| {
            let mm = folio_at(w, FIRST, 2);
            let child = mm.fork().unwrap();
            leave(w, &mm, FIRST);
            (0..4).filter(|&page| page != kept).for_each(|page| {
                advise(&child, pages(FIRST + page, 1), Advice::DontNeed);
            });
            assert_eq!(mm.load(FIRST * P), Ok(byte(FIRST)));
            assert_eq!(
                (exclusive(w, &mm), there(&mm)),
                ([false; 4].to_vec(), (4, 0)),
                "the child needs {kept}"
            );
            mm.store((FIRST + kept) * P, 200).unwrap();
            assert_eq!(child.load((FIRST + kept) * P), Ok(byte(FIRST + kept)));
        });
    }
}

#[test]
fn a_page_that_fork_passed_by_stays_exclusive_among_shared_ones() {
    for (asked, fault_copies) in [(0, 1), (1, 0)] {
        with_folios(|w| {
            let mm = folio_at(w, FIRST, 2);
            advise(&mm, pages(FIRST + 1, 1), Advice::DontFork);
            let child = mm.fork().unwrap();
            advise(&mm, pages(FIRST + 1, 1), Advice::DoFork);
            assert_eq!(mm.layout().len(), 1, "one mapping again");
            leave(w, &mm, FIRST);
            let [faults, copies] = [Event::Fault, Event::FaultCowCopy].map(|e| event(w, e));
            mm.store((FIRST + asked) * P, 77).unwrap();
            assert_eq!(there(&mm), (4, 0));
            assert_eq!(event(w, Event::Fault) - faults, 1, "one fault brings it and copies it");
            assert_eq!(event(w, Event::FaultCowCopy) - copies, fault_copies);
            assert_eq!(event(w, Event::FaultSpurious), 0, "what is exclusive is not looked at again");
            let exclusive: Vec<_> = (0..4).map(|page| mm.pagemap(Va((FIRST + page) * P)).exclusive).collect();
            assert_eq!(exclusive, [asked == 0, true, false, false]);
            assert_eq!(mm.load((FIRST + asked) * P), Ok(77));
            assert_eq!(child.load(FIRST * P), Ok(byte(FIRST)));
            w.vm.validate().unwrap();
        });
    }
}

#[test]
fn a_read_of_shared_pages_is_done_at_once() {
    with_folios(|w| {
        let mm = folio_at(w, FIRST, 2);
        let child = mm.fork().unwrap();
        leave(w, &mm, FIRST);
        let faults = event(w, Event::Fault);
        assert_eq!(mm.load(FIRST * P), Ok(byte(FIRST)));
        assert_eq!((event(w, Event::Fault) - faults, event(w, Event::FaultSpurious)), (1, 0));
        drop(child);
    });
}

#[test]
fn a_folio_is_stamped_anew_with_who_has_it_alone() {
    with_folios(|w| {
        let parent = mapped(w, pages(FIRST, 4));
        parent.store(FIRST * P, 1).unwrap();
        let child = parent.fork().unwrap();
        advise(&child, pages(FIRST, 4), Advice::DontNeed);
        fill(&child, FIRST, 4);
        let stamp = || {
            let page = w.vm.frames.try_get(child.pagemap(Va(FIRST * P)).pfn.unwrap()).unwrap();
            std::format!("{:?}", page.folio().mapping())
        };
        let before = stamp();
        leave(w, &child, FIRST);
        assert_eq!((child.load(FIRST * P), there(&child)), (Ok(byte(FIRST)), (4, 0)));
        assert_eq!(stamp(), before, "the child's own");
        w.vm.validate().unwrap();
    });
}

#[test]
fn who_asks_for_what_is_not_there_any_more_looks_again() {
    with_folios(|w| {
        let mm = w.vm.new_mm().unwrap();
        let id = mm.map_raw(pages(FIRST, 8), RW, Backing::Anonymous);
        fill(&mm, FIRST, 8);
        // One brings both folios back, side by side, and drops its mappings; the other keeps the slots.
        let (child, other) = (mm.fork().unwrap(), mm.fork().unwrap());
        leave(w, &mm, FIRST);
        leave(w, &mm, FIRST + 4);
        check(&child, FIRST + 4, 4);
        check(&child, FIRST, 4);
        let frame = |at: u64| child.pagemap(Va((FIRST + at) * P)).pfn.unwrap();
        assert_eq!(frame(4), frame(0).offset(4));
        let page = w.vm.frames.try_get(frame(0)).unwrap();
        let first = page.folio().swap_entry().unwrap();
        advise(&child, pages(FIRST, 8), Advice::DontNeed);
        let mmap = mm.read();
        let map = |at: u64, entry: SwapEntry, access| {
            let va = Va((FIRST + at) * P);
            let fault = VmFault::new(mm.vm, mm.slot(), &mmap, id, va, access, Waits::Never);
            map_cached(&fault, entry, &page, &page.lock())
        };
        let slot = |offset: u64| SwapEntry { offset: first.offset + offset, ..first };
        let again = Err(FaultResult::Reload);
        assert_eq!(map(4, slot(4), Read), again, "the next folio's slot");
        assert_eq!(map(5, slot(5), Read), again);
        assert_eq!(map(0, slot(1), Read), again, "the slot of another entry");
        assert_eq!(map(0, SwapEntry { device: first.device + 1, ..first }, Read), again);
        assert_eq!(map(0, slot(0), Read), Ok(FaultResult::Done));
        assert_eq!(map(0, slot(0), Write), again, "it is back");
        drop(mmap);
        drop(page);
        assert_eq!(there(&mm), (4, 4));
        check(&mm, FIRST, 8);
        check(&other, FIRST, 8);
        w.vm.validate().unwrap();
    });
}

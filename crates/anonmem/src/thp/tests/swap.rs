//! Folios that leave as one and come back, in every lock mode and of every order.

use super::{byte, check, event, fill, mapped, of_every_order, one_folio, only, order_at, with_policy};
use crate::{
    Advice, Event, FolioEvent, FolioMode, FolioPolicy,
    testing::{M, P, pages},
};
use anonmem_frame::FolioOwner;
use anonmem_hal::{Order, SwapEntry, Va, VaRange};

/// The first page of the folio of the tests.
const FIRST: u64 = 1024;

fn page_out(mm: &crate::Mm<'_, M>, range: VaRange) {
    mm.madvise(range.start, range.len(), Advice::PageOut).unwrap();
}

#[test]
fn a_folio_leaves_as_one_request_and_comes_back_as_one() {
    of_every_order(|w, order| {
        w.vm.swap_on(0, 4096, 0).unwrap();
        let (mm, all) = (one_folio(w, order), pages(FIRST, 1 << order));
        fill(&mm, all, 1);
        page_out(&mm, all);
        w.vm.validate().unwrap();
        assert_eq!((mm.counters().anon.0, mm.counters().swap.0), (0, 1 << order));
        assert_eq!((event(w, order, FolioEvent::SwapOut), event(w, order, FolioEvent::Split)), (1, 0));
        assert_eq!(w.swap.transfers(), (0, 1), "one request");
        assert_eq!(w.vm.stats().event(Event::SwapOut), 1 << order);
        let first = mm.load(FIRST * P);
        assert_eq!(first, Ok(byte(Va(FIRST * P), 1)));
        w.vm.validate().unwrap();
        if order <= 4 {
            assert_eq!((event(w, order, FolioEvent::SwapIn), w.swap.transfers().0), (1, 1));
            assert_eq!((order_at(w, &mm, FIRST), mm.counters().swap.0), (order, 0));
            let faults = w.vm.stats().event(Event::Fault);
            fill(&mm, all, 2);
            assert_eq!(w.vm.stats().event(Event::Fault), faults, "it is writable, because it was");
            check(&mm, all, 2);
        } else {
            assert_eq!(
                (event(w, order, FolioEvent::SwapIn), mm.counters().anon.0),
                (0, 1),
                "one page was asked for"
            );
            check(&mm, all, 1);
        }
        page_out(&mm, all);
        w.vm.swap_off(0).unwrap();
        w.vm.validate().unwrap();
        assert_eq!(mm.counters().swap.0, 0);
    });
}

#[test]
fn larger_folios_come_back_whole_beside_what_is_back() {
    for mode in [FolioMode::Always, FolioMode::Auto] {
        with_policy(only(6, mode), |w| {
            w.vm.swap_on(0, 4096, 0).unwrap();
            let (mm, all) = (mapped(w, pages(FIRST, 256)), pages(FIRST, 256));
            mm.populate(all, crate::Populate::Write).unwrap();
            fill(&mm, all, 1);
            page_out(&mm, all);
            assert_eq!((event(w, 6, FolioEvent::SwapOut), w.swap.transfers().1), (4, 4));
            check(&mm, all, 1);
            assert_eq!(event(w, 6, FolioEvent::SwapIn), 3, "all but the first, which nothing was beside");
            assert_eq!(w.swap.transfers().0, 64 + 3);
            w.vm.validate().unwrap();
        });
    }
}

#[test]
fn what_was_shared_comes_back_to_each_sharer() {
    for order in [1, 4] {
        with_policy(only(order, FolioMode::Always), |w| {
            w.vm.swap_on(0, 4096, 0).unwrap();
            let (mm, all) = (one_folio(w, order), pages(FIRST, 1 << order));
            fill(&mm, all, 1);
            let child = mm.fork().unwrap();
            let page = w.vm.frames.try_get(mm.pagemap(all.start).pfn.unwrap()).unwrap();
            assert!(w.vm.reclaim_folio(page));
            w.vm.validate().unwrap();
            assert_eq!((mm.counters().swap.0, child.counters().swap.0), (1 << order, 1 << order));
            child.store(all.start.0, 9).unwrap();
            w.vm.validate().unwrap();
            check(&mm, all, 1);
            check(&child, VaRange::new(all.start.next_page(), all.end), 1);
            w.vm.validate().unwrap();
            assert_eq!(child.load(all.start.0), Ok(9));
            drop(mm);
            fill(&child, all, 3);
            check(&child, all, 3);
            w.vm.validate().unwrap();
        });
    }
}

#[test]
fn a_cached_folio_is_reclaimed_again_or_split() {
    with_policy(only(3, FolioMode::Always), |w| {
        w.vm.swap_on(0, 4096, 0).unwrap();
        let (mm, all) = (one_folio(w, 3), pages(FIRST, 8));
        fill(&mm, all, 1);
        let child = mm.fork().unwrap();
        let folio = |mm: &crate::Mm<'_, M>| w.vm.frames.try_get(mm.pagemap(all.start).pfn.unwrap()).unwrap();
        assert!(w.vm.reclaim_folio(folio(&mm)));
        // The child has it, and the slots for the parent.
        check(&child, all, 1);
        assert!(w.vm.reclaim_folio(folio(&child)), "all slots still have it");
        w.vm.validate().unwrap();
        check(&child, all, 1);
        // Every second slot lets go of it.
        (0..8).step_by(2).for_each(|nth| mm.munmap(pages(FIRST + nth, 1)).unwrap());
        w.vm.validate().unwrap();
        let page = folio(&child);
        let lock = page.lock();
        w.vm.split_folio(&lock, &page, Order::new(1)).unwrap();
        drop((lock, page));
        w.vm.validate().unwrap();
        check(&child, all, 1);
        mm.load((FIRST + 1) * P).unwrap();
        w.vm.validate().unwrap();
        page_out(&child, all);
        drop(child);
        assert_eq!(mm.load((FIRST + 3) * P), Ok(byte(Va((FIRST + 3) * P), 1)));
        w.vm.validate().unwrap();
    });
}

#[test]
fn a_cached_folio_that_nobody_maps_any_more_is_split_for_what_is_free_of_it() {
    with_policy(only(3, FolioMode::Always), |w| {
        w.vm.swap_on(0, 4096, 0).unwrap();
        let (mm, all) = (one_folio(w, 3), pages(FIRST, 8));
        fill(&mm, all, 1);
        let child = mm.fork().unwrap();
        let folio = || w.vm.frames.try_get(mm.pagemap(all.start).pfn.unwrap()).unwrap();
        assert!(w.vm.reclaim_folio(folio()));
        check(&mm, all, 1);
        let page = folio();
        mm.munmap(all).unwrap();
        child.munmap(pages(FIRST + 1, 1)).unwrap();
        assert_eq!(
            (page.folio().order().get(), page.folio().counts().maps()),
            (3, 0),
            "cached for the child"
        );
        let (user, lock) = (w.vm.stats().user, page.lock());
        w.vm.split_folio(&lock, &page, Order::ZERO).unwrap();
        drop((lock, page));
        assert_eq!(w.vm.stats().user, user - 1, "the page that no slot has");
        w.vm.validate().unwrap();
        check(&child, pages(FIRST + 2, 6), 1);
        w.vm.validate().unwrap();
    });
}

#[test]
fn a_run_with_a_page_in_memory_comes_back_page_by_page() {
    with_policy(only(2, FolioMode::Always), |w| {
        w.vm.swap_on(0, 64, 0).unwrap();
        let (mm, all) = (one_folio(w, 2), pages(FIRST, 4));
        fill(&mm, all, 1);
        page_out(&mm, all);
        let new = w.vm.try_alloc_page().unwrap();
        let second = SwapEntry { device: 0, offset: 1 };
        assert!(matches!(w.vm.swap_read(second, new), Ok(crate::swap::cache::SwapIn::Page(_))));
        assert_eq!(mm.load(FIRST * P), Ok(byte(all.start, 1)));
        assert_eq!((mm.counters().anon.0, event(w, 2, FolioEvent::SwapIn)), (1, 0));
        w.vm.validate().unwrap();
        check(&mm, all, 1);
        w.vm.validate().unwrap();
    });
}

#[test]
fn without_a_run_of_free_slots_a_folio_is_split_and_leaves() {
    with_policy(only(3, FolioMode::Always), |w| {
        w.vm.swap_on(0, 61, 0).unwrap();
        let (mm, all) = (mapped(w, pages(FIRST, 64)), pages(FIRST, 56));
        fill(&mm, all, 1);
        page_out(&mm, all);
        assert_eq!(event(w, 3, FolioEvent::SwapOut), 7);
        // Each run of slots keeps one page.
        all.iter_pages().filter(|va| va.page() % 8 != 3).for_each(|va| {
            mm.munmap(VaRange::page(va)).unwrap();
        });
        let (other, more) = (mapped(w, pages(8192, 64)), pages(8192, 32));
        fill(&other, more, 2);
        page_out(&other, more);
        w.vm.validate().unwrap();
        assert_eq!((event(w, 3, FolioEvent::SwapOutFallback), other.counters().swap.0), (4, 32));
        check(&other, more, 2);
        all.iter_pages().filter(|va| va.page() % 8 == 3).for_each(|va| {
            assert_eq!(mm.load(va.0), Ok(byte(va, 1)));
        });
        w.vm.validate().unwrap();
    });
}

#[test]
fn a_device_that_fails_loses_nothing_of_a_folio() {
    for order in [1, 4, 9] {
        with_policy(only(order, FolioMode::Always), |w| {
            w.vm.swap_on(0, 4096, 0).unwrap();
            let (mm, all) = (one_folio(w, order), pages(FIRST, 1 << order));
            fill(&mm, all, 1);
            w.swap.fail_every_write(1);
            page_out(&mm, all);
            w.vm.validate().unwrap();
            assert_eq!(mm.counters().swap.0, 1 << order, "the entries name slots, and the folio is cached");
            w.swap.fail_every_write(0);
            // A part is dropped, a part is asked for.
            mm.munmap(pages(FIRST + 1, 1)).unwrap();
            assert_eq!(mm.load(FIRST * P), Ok(byte(all.start, 1)));
            w.vm.validate().unwrap();
            w.swap.fail_every_read(2);
            check(&mm, pages(FIRST + 2, (1 << order) - 2), 1);
            w.swap.fail_every_read(0);
            assert_eq!(w.swap.transfers().0, 0, "memory has all of it");
            w.vm.validate().unwrap();
        });
    }
}

#[test]
fn a_leaf_comes_back_as_a_leaf_beside_what_is_back() {
    for (mode, leaves) in [(FolioMode::Always, 1), (FolioMode::Auto, 0)] {
        with_policy(only(9, FolioMode::Always), |w| {
            w.vm.swap_on(0, 4096, 0).unwrap();
            let (first, second) = (pages(FIRST, 512), pages(FIRST + 512, 512));
            let mm = mapped(w, VaRange { start: first.start, end: second.end });
            fill(&mm, first, 1);
            fill(&mm, second, 1);
            let in_leaves = || w.vm.frames().large_usage()[9].in_leaves;
            assert_eq!(in_leaves(), 2);
            page_out(&mm, VaRange { start: first.start, end: second.end });
            assert_eq!((in_leaves(), mm.counters().anon.0), (0, 0));
            w.vm.set_folio_policy(only(9, mode));
            // Nothing beside the first one is back: it comes page by page.
            check(&mm, first, 1);
            assert_eq!((in_leaves(), event(w, 9, FolioEvent::SwapIn)), (0, 0));
            assert_eq!(mm.load((FIRST + 700) * P), Ok(byte(Va((FIRST + 700) * P), 1)));
            assert_eq!(event(w, 9, FolioEvent::SwapIn), 1);
            assert_eq!((in_leaves(), w.vm.stats().event(Event::LeafSwapIn)), (leaves, leaves));
            check(&mm, second, 1);
            w.vm.validate().unwrap();
            fill(&mm, second, 2);
            let child = mm.fork().unwrap();
            check(&child, second, 2);
            w.vm.validate().unwrap();
        });
    }
}

#[test]
fn a_folio_that_is_too_much_for_its_device_leaves_in_pieces() {
    for order in [4, 9] {
        with_policy(only(order, FolioMode::Always), |w| {
            w.vm.swap_on(0, 4096, 0).unwrap();
            let (mm, all) = (one_folio(w, order), pages(FIRST, 1 << order));
            fill(&mm, all, 1);
            w.swap.fail_every_write(1);
            page_out(&mm, all);
            w.swap.fail_every_write(0);
            assert_eq!(event(w, order, FolioEvent::SwapOutFallback), 1);
            w.vm.validate().unwrap();
            assert_eq!(w.vm.shrink(1 << order), 1 << order, "all of it leaves");
            assert_eq!(event(w, 4, FolioEvent::SwapOut), if order == 9 { 32 } else { 0 });
            assert_eq!(w.vm.frames().usage().folios.0, 0);
            check(&mm, all, 1);
            w.vm.validate().unwrap();
        });
    }
}

#[test]
fn a_run_that_cannot_be_read_comes_back_page_by_page() {
    with_policy(only(3, FolioMode::Always), |w| {
        w.vm.swap_on(0, 4096, 0).unwrap();
        let (mm, all) = (one_folio(w, 3), pages(FIRST, 8));
        fill(&mm, all, 1);
        page_out(&mm, all);
        w.swap.fail_every_read(9);
        (0..8).for_each(|_| _ = w.vm.machine().swap().transfers());
        w.swap.fail_every_read(1);
        assert!(mm.load(FIRST * P).is_err());
        w.swap.fail_every_read(0);
        check(&mm, all, 1);
        assert_eq!(event(w, 3, FolioEvent::SwapInFallback), 1);
        w.vm.validate().unwrap();
    });
}

#[test]
fn zeroes_are_not_written_and_a_mixture_is_read_as_it_was() {
    with_policy(only(3, FolioMode::Always), |w| {
        w.vm.swap_on(0, 4096, 0).unwrap();
        let mm = mapped(w, pages(FIRST, 16));
        mm.store(FIRST * P, 0).unwrap();
        page_out(&mm, pages(FIRST, 8));
        assert_eq!((w.swap.transfers(), w.vm.stats().event(Event::SwapZero)), ((0, 0), 8));
        assert_eq!((mm.load((FIRST + 3) * P), mm.counters().anon.0), (Ok(0), 8));
        assert_eq!(w.swap.transfers(), (0, 0));
        mm.store((FIRST + 8) * P, 5).unwrap();
        page_out(&mm, pages(FIRST + 8, 8));
        assert_eq!(w.swap.transfers(), (0, 1));
        assert_eq!((mm.load((FIRST + 8) * P), mm.load((FIRST + 15) * P)), (Ok(5), Ok(0)));
        w.vm.validate().unwrap();
    });
}

#[test]
fn a_part_that_is_advised_leaves_alone() {
    with_policy(only(4, FolioMode::Always), |w| {
        w.vm.swap_on(0, 4096, 0).unwrap();
        let (mm, all) = (one_folio(w, 4), pages(FIRST, 16));
        fill(&mm, all, 1);
        page_out(&mm, pages(FIRST + 3, 2));
        assert_eq!((mm.counters().swap.0, event(w, 4, FolioEvent::Split)), (2, 1));
        assert_eq!((mm.pagemap(all.start).pfn.is_some(), mm.pagemap(Va((FIRST + 3) * P)).pfn), (true, None));
        check(&mm, all, 1);
        w.vm.validate().unwrap();
    });
}

#[test]
fn a_pinned_page_keeps_its_folio_and_the_rest_comes_back() {
    with_policy(only(3, FolioMode::Always), |w| {
        w.vm.swap_on(0, 4096, 0).unwrap();
        let (mm, all) = (one_folio(w, 3), pages(FIRST, 8));
        fill(&mm, all, 1);
        let child = mm.fork().unwrap();
        // The child's last page is locked: the walk meets it after the others have gone.
        child.mlock_onfault(Va((FIRST + 7) * P), P).unwrap();
        let page = w.vm.frames.try_get(mm.pagemap(all.start).pfn.unwrap()).unwrap();
        assert!(!w.vm.reclaim_folio(page));
        w.vm.validate().unwrap();
        check(&mm, all, 1);
        check(&child, all, 1);
        w.vm.validate().unwrap();
    });
}

#[test]
fn three_times_the_memory_of_programs_with_folios_of_every_policy() {
    let policies = [
        only(4, FolioMode::Always),
        only(9, FolioMode::Always),
        FolioPolicy::up_to(Order::new(9), FolioMode::Auto),
        FolioPolicy::up_to(Order::new(9), FolioMode::Always),
    ];
    for policy in policies {
        with_policy(policy, |w| {
            w.vm.swap_on(0, 8192, 0).unwrap();
            let frames = w.vm.stats().frames;
            let parts: [VaRange; 3] = core::array::from_fn(|i| pages(4096 * (i as u64 + 1), frames * 9 / 10));
            let mms = parts.map(|part| mapped(w, part));
            for (mm, part) in mms.iter().zip(parts) {
                fill(mm, part, 1);
            }
            w.vm.validate().unwrap();
            for (mm, part) in mms.iter().zip(parts) {
                check(mm, part, 1);
            }
            w.vm.validate().unwrap();
        });
    }
}

#[test]
fn a_first_page_that_only_a_slot_has_leaves_when_its_folio_is_split() {
    with_policy(only(3, FolioMode::Always), |w| {
        w.vm.swap_on(0, 4096, 0).unwrap();
        let (mm, all) = (one_folio(w, 3), pages(FIRST, 8));
        fill(&mm, all, 1);
        let child = mm.fork().unwrap();
        let head = mm.pagemap(all.start).pfn.unwrap();
        assert!(w.vm.reclaim_folio(w.vm.frames.try_get(head).unwrap()));
        check(&child, all, 1);
        let second = child.pagemap(Va((FIRST + 1) * P)).pfn.unwrap();
        // The parent wants the first page, and the child does not; the parent's second slot is free.
        child.munmap(pages(FIRST, 1)).unwrap();
        mm.munmap(pages(FIRST + 1, 1)).unwrap();
        let free = w.vm.stats().free;
        let gone = w.vm.reclaim_folio(w.vm.frames.try_get(second).unwrap());
        w.vm.validate().unwrap();
        assert_eq!((gone, w.vm.stats().free - free, event(w, 3, FolioEvent::Split)), (true, 1, 1));
        check(&child, pages(FIRST + 1, 7), 1);
        assert_eq!(mm.load(FIRST * P), Ok(byte(all.start, 1)));
        w.vm.validate().unwrap();
    });
}

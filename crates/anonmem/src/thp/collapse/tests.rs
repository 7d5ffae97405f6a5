//! Windows of small pages that become folios and leaves, and what stays in small pages.

use super::{BlockEffort, CollapseLimits, Collapsed, NotCollapsed};
use crate::{
    Advice, CollapseSettings, CollapseTask, Error, Event, FolioEvent, FolioMode, FolioPolicy, Mm, PinFlags,
    Prot,
    testing::{M, P, RW, World, pages},
    vma::Backing,
};
use anonmem_hal::{CpuId, Order, Pfn, Va};

const FIRST: u64 = 1024;
const AT: Va = Va(FIRST * P);
const ORDERS: [u8; 5] = [1, 2, 4, 6, 9];

/// A program with `n` small pages from [`FIRST`] on, which say what [`byte`] does.
fn program(w: &World, n: u64) -> Mm<'_, M> {
    let mm = w.vm.new_mm().unwrap();
    mm.map_raw(pages(FIRST, 1024), RW, Backing::Anonymous);
    fill(&mm, n);
    mm
}

const fn byte(nth: u64) -> u8 {
    (nth % 251) as u8 | 1
}

fn fill(mm: &Mm<'_, M>, n: u64) {
    (0..n).for_each(|nth| mm.store((FIRST + nth) * P, byte(nth)).unwrap());
}

fn all_right(mm: &Mm<'_, M>, n: u64) -> bool {
    (0..n).all(|nth| mm.load((FIRST + nth) * P) == Ok(byte(nth)))
}

fn frame(mm: &Mm<'_, M>, nth: u64) -> Option<Pfn> {
    mm.pagemap(Va((FIRST + nth) * P)).pfn
}

fn order_at(w: &World, mm: &Mm<'_, M>, nth: u64) -> u8 {
    w.vm.frames.folio(frame(mm, nth).unwrap()).unwrap().order().get()
}

fn leaves(w: &World, mm: &Mm<'_, M>) -> u64 {
    w.vm.frames.folio(frame(mm, 0).unwrap()).unwrap().whole_mappings()
}

fn collapse(mm: &Mm<'_, M>, order: u8) -> Result<Collapsed, NotCollapsed> {
    mm.collapse(AT, Order::new(order), CollapseLimits::ANY, BlockEffort::Free)
}

#[test]
fn a_window_of_any_order_becomes_one_folio_that_is_written_without_a_fault() {
    for order in ORDERS {
        World::run(|w| {
            let n = 1 << order;
            let mm = program(w, n);
            let made = if order == 9 { Collapsed::Leaf } else { Collapsed::Copied };
            assert_eq!(collapse(&mm, order), Ok(made));
            w.vm.validate().unwrap();
            assert_eq!((order_at(w, &mm, 0), leaves(w, &mm)), (order, u64::from(order == 9)));
            assert_eq!(mm.counters().rss().0, n);
            let faults = w.vm.stats().event(Event::Fault);
            assert!(all_right(&mm, n));
            fill(&mm, n);
            assert_eq!(w.vm.stats().event(Event::Fault), faults);
            assert_eq!(w.vm.folio_event(Order::new(order), FolioEvent::Collapsed), 1);
            assert_eq!(w.vm.stats().user, n, "the small pages are free");
            assert_eq!(collapse(&mm, order), Ok(Collapsed::Already));
            let child = mm.fork().unwrap();
            drop(mm);
            assert!(all_right(&child, n));
        });
    }
}

#[test]
fn holes_zero_pages_and_swapped_pages_come_as_far_as_the_limits_go() {
    for order in [2, 4, 9] {
        World::run(|w| {
            w.vm.swap_on(0, 4096, 0).unwrap();
            let n = 1u64 << order;
            let mm = program(w, n);
            mm.madvise(Va((FIRST + 1) * P), P, Advice::DontNeed).unwrap();
            let with = |none, swapped| CollapseLimits { none, swapped, ..CollapseLimits::OWN };
            let window = |limits| mm.collapse(AT, Order::new(order), limits, BlockEffort::Free);
            assert_eq!(window(with(0, 0)), Err(NotCollapsed::Holes));
            assert_eq!(mm.load((FIRST + 1) * P), Ok(0), "the page of zeroes");
            assert_eq!(window(with(0, 0)), Err(NotCollapsed::Holes));
            mm.madvise(Va((FIRST + 3) * P), P, Advice::PageOut).unwrap();
            assert_eq!(mm.counters().swap.0, 1);
            assert_eq!(window(with(1, 0)), Err(NotCollapsed::Swapped));
            w.vm.validate().unwrap();
            assert!(window(with(1, 1)).unwrap().is_new());
            assert_eq!((order_at(w, &mm, 0), mm.counters().rss().0, mm.counters().swap.0), (order, n, 0));
            let right = |nth| mm.load((FIRST + nth) * P) == Ok(if nth == 1 { 0 } else { byte(nth) });
            assert!((0..n).all(right));
            w.vm.validate().unwrap();
            drop(mm);
            w.vm.swap_off(0).unwrap();
        });
    }
}

#[test]
fn what_others_have_too_is_copied_and_they_keep_theirs() {
    for order in [2, 4, 9] {
        World::run(|w| {
            let n = 1 << order;
            let mm = program(w, n);
            let child = mm.fork().unwrap();
            let own = mm.collapse(AT, Order::new(order), CollapseLimits::OWN, BlockEffort::Free);
            assert_eq!(own, Err(NotCollapsed::Shared));
            let before = frame(&child, 1);
            assert!(collapse(&mm, order).unwrap().is_new());
            assert_eq!((order_at(w, &mm, 0), frame(&child, 1)), (order, before));
            let copies = w.vm.stats().event(Event::FaultCowCopy);
            mm.store((FIRST + 1) * P, 99).unwrap();
            assert_eq!(w.vm.stats().event(Event::FaultCowCopy), copies, "the page is the program's own");
            assert!(all_right(&child, n));
            w.vm.validate().unwrap();
        });
    }
}

#[test]
fn smaller_folios_become_a_larger_one() {
    World::run(|w| {
        let mm = program(w, 64);
        for (start, order) in [(0, 2), (4, 2), (8, 3), (16, 4)] {
            let window = Va((FIRST + start) * P);
            let done = mm.collapse(window, Order::new(order), CollapseLimits::OWN, BlockEffort::Free);
            assert_eq!(done, Ok(Collapsed::Copied));
        }
        assert_eq!(collapse(&mm, 6), Ok(Collapsed::Copied));
        assert_eq!((order_at(w, &mm, 0), order_at(w, &mm, 63)), (6, 6));
        assert!(all_right(&mm, 64));
        w.vm.validate().unwrap();
    });
}

#[test]
fn a_window_with_a_pin_a_user_or_a_guard_stays_as_it_is() {
    World::run(|w| {
        let mm = program(w, 512);
        let before = frame(&mm, 500);
        let pin = mm.pin(pages(FIRST + 500, 1), PinFlags::WRITE).unwrap();
        assert_eq!((collapse(&mm, 9), frame(&mm, 500)), (Err(NotCollapsed::Pinned), before));
        drop(pin);
        // A reference is met when the pages before it have gone: what is left of the folio is split.
        let user = w.vm.frames.try_get(before.unwrap()).unwrap();
        assert_eq!((collapse(&mm, 9), frame(&mm, 500)), (Err(NotCollapsed::Busy), before));
        assert_eq!((order_at(w, &mm, 0), order_at(w, &mm, 100)), (0, 0));
        drop(user);
        w.vm.validate().unwrap();
        assert!(all_right(&mm, 512));
        mm.madvise(Va((FIRST + 9) * P), P, Advice::GuardInstall).unwrap();
        assert_eq!(collapse(&mm, 4), Err(NotCollapsed::Marked));
        mm.madvise(Va((FIRST + 9) * P), P, Advice::GuardRemove).unwrap();
        assert!(collapse(&mm, 9).is_ok());
        w.vm.validate().unwrap();
        assert_eq!(w.vm.folio_event(Order::new(9), FolioEvent::CollapseBusy), 2);
    });
}

#[test]
fn a_leaf_is_made_in_place_of_a_run_that_is_pinned() {
    World::run(|w| {
        let mm = program(w, 512);
        assert_eq!(collapse(&mm, 9), Ok(Collapsed::Leaf));
        // One page of it changes its permissions for a moment: a table again.
        mm.mprotect(pages(FIRST + 7, 1), Prot::READ).unwrap();
        mm.mprotect(pages(FIRST + 7, 1), Prot::READ | Prot::WRITE).unwrap();
        assert_eq!(leaves(w, &mm), 0);
        let (before, pin) = (frame(&mm, 7), mm.pin(pages(FIRST + 7, 1), PinFlags::WRITE).unwrap());
        assert_eq!(collapse(&mm, 9), Ok(Collapsed::Leaf));
        assert_eq!((leaves(w, &mm), frame(&mm, 7)), (1, before));
        w.vm.validate().unwrap();
        drop(pin);
        assert_eq!(w.vm.folio_event(Order::new(9), FolioEvent::Collapsed), 1, "it was copied once");
        assert!(all_right(&mm, 512));
        fill(&mm, 512);
        w.vm.validate().unwrap();
    });
}

#[test]
fn without_a_block_nothing_happens_unless_pages_may_move() {
    World::run(|w| {
        let mm = program(w, 512);
        let mut taken = std::vec::Vec::new();
        while let Ok(page) = w.vm.frames.alloc(Order::ZERO) {
            taken.push(page);
        }
        taken.retain(|page| page.pfn().0.is_multiple_of(2));
        w.vm.drain();
        // What was kept for hard times is taken as well.
        for order in (1..=9).rev().map(Order::new) {
            while let Ok(block) = w.vm.frames.alloc(order) {
                taken.push(block);
            }
        }
        assert_eq!(collapse(&mm, 4), Err(NotCollapsed::NoMemory));
        assert_eq!(w.vm.folio_event(Order::new(4), FolioEvent::CollapseAllocFailed), 1);
        drop(taken);
        assert!(all_right(&mm, 512));
        w.vm.validate().unwrap();
    });
}

#[test]
fn a_window_that_is_dropped_or_filled_meanwhile_is_given_up() {
    World::run(|w| {
        let mm = program(w, 512);
        std::thread::scope(|s| {
            s.spawn(|| {
                w.vm.machine().cpus().run_on(CpuId(1), || {
                    for round in 0..200 {
                        let nth = round * 37 % 512;
                        mm.madvise(Va((FIRST + nth) * P), P, Advice::DontNeed).unwrap();
                        mm.store((FIRST + nth) * P, byte(nth)).unwrap();
                    }
                });
            });
            for _ in 0..40 {
                let _ = collapse(&mm, 9);
                let _ = mm.collapse(AT, Order::new(4), CollapseLimits::OWN, BlockEffort::Free);
            }
        });
        assert!(all_right(&mm, 512));
        assert_eq!(mm.counters().rss().0, 512);
        w.vm.validate().unwrap();
    });
}

#[test]
fn advice_says_what_linux_says() {
    World::run(|w| {
        let mm = program(w, 1024);
        let advise = |first, n| mm.madvise(Va(first * P), n * P, Advice::Collapse);
        assert_eq!(advise(FIRST - 8, 4), Err(Error::NotMapped));
        assert_eq!(advise(FIRST, 1), Err(NotCollapsed::Mapping.into()));
        assert_eq!(advise(FIRST, 1024), Ok(()));
        assert_eq!((leaves(w, &mm), order_at(w, &mm, 700)), (1, 9));
        assert_eq!(advise(FIRST, 1024), Ok(()), "it is so already");
        mm.madvise(AT, 1024 * P, Advice::NoHugePage).unwrap();
        mm.madvise(AT, 16 * P, Advice::DontNeed).unwrap();
        assert_eq!(advise(FIRST, 512).map_err(Error::errno), Err(22));
        mm.madvise(AT, 1024 * P, Advice::Normal).unwrap();
        mm.madvise(AT, 1024 * P, Advice::HugePage).unwrap();
        assert_eq!(advise(FIRST, 512), Ok(()));
        let pin = mm.pin(pages(FIRST + 600, 1), PinFlags::WRITE).unwrap();
        mm.madvise(Va((FIRST + 700) * P), P, Advice::DontNeed).unwrap();
        assert_eq!(advise(FIRST + 512, 512).map_err(Error::errno), Err(11));
        drop(pin);
        w.vm.validate().unwrap();
    });
}

#[test]
fn a_window_in_which_nothing_is_is_told_of_whatever_comes_before_and_behind() {
    World::run(|w| {
        let mm = w.vm.new_mm().unwrap();
        mm.map_raw(pages(FIRST - 768, 768 + 512), RW, Backing::Anonymous);
        fill(&mm, 512);
        // A piece of a window, a whole one, both untouched; and a full one.
        let done = mm.madvise(Va((FIRST - 768) * P), (768 + 512) * P, Advice::Collapse);
        assert_eq!(done.map_err(Error::errno), Err(22));
        assert_eq!(leaves(w, &mm), 1, "what comes behind it is made all the same");
        assert!(all_right(&mm, 512));
        w.vm.validate().unwrap();
    });
}

#[test]
fn who_is_being_killed_collapses_nothing_more() {
    World::run(|w| {
        let mm = program(w, 512);
        anonmem_hosted::Cpus::dying(|| {
            assert_eq!(mm.madvise(AT, 512 * P, Advice::Collapse), Err(Error::Interrupted));
        });
        assert_eq!((order_at(w, &mm, 0), mm.madvise(AT, 512 * P, Advice::Collapse)), (0, Ok(())));
        assert_eq!(leaves(w, &mm), 1);
    });
}

/// Window by window this would take minutes.
#[test]
fn seventy_terabytes_of_nothing_are_advised_at_once() {
    World::run(|w| {
        let mm = program(w, 512);
        let unpromised = RW.difference(crate::VmFlags::ACCOUNT);
        let empty = pages(1 << 20, 1 << 34);
        mm.map_raw(empty, unpromised, Backing::Anonymous);
        for advice in [Advice::Normal, Advice::HugePage, Advice::NoHugePage] {
            mm.madvise(empty.start, empty.len(), advice).unwrap();
            for _ in 0..8 {
                let done = mm.madvise(empty.start, empty.len(), Advice::Collapse);
                assert_eq!(done.map_err(Error::errno), Err(22), "after {advice:?}");
            }
        }
    });
}

#[test]
fn the_background_task_passes_windows_that_there_is_no_block_for() {
    World::run(|w| {
        let mm = program(w, 64);
        let mut taken = std::vec::Vec::new();
        while let Ok(page) = w.vm.frames.alloc(Order::ZERO) {
            taken.push(page);
        }
        let settings = CollapseSettings { everywhere: 1 << 4, ..CollapseSettings::default() };
        let mut task = CollapseTask::default();
        let steps = (0..100).map(|_| task.step(&w.vm, 64, &settings)).take_while(|step| !step.swept).count();
        assert!((4..100).contains(&steps), "{steps} steps for four windows");
        assert_eq!(task.collapsed, 0);
        drop(taken);
        w.vm.drain();
        while !task.step(&w.vm, 64, &settings).swept {}
        assert_eq!(task.collapsed, 4);
        assert!(all_right(&mm, 64));
    });
}

#[test]
fn the_background_task_counts_address_spaces_in_which_nothing_is() {
    World::run(|w| {
        let _programs: std::vec::Vec<_> = (0..20).map(|_| w.vm.new_mm().unwrap()).collect();
        let settings = CollapseSettings { everywhere: 1 << 4, ..CollapseSettings::default() };
        let mut task = CollapseTask::default();
        let step = task.step(&w.vm, 8, &settings);
        assert_eq!((step.scanned, step.swept), (8, false));
        while !task.step(&w.vm, 8, &settings).swept {}
    });
}

#[test]
fn the_background_task_makes_what_is_full_as_large_as_it_is() {
    World::run(|w| {
        let mm = program(w, 1024);
        mm.madvise(Va((FIRST + 512 + 100) * P), P, Advice::DontNeed).unwrap();
        let (mut task, settings) = (CollapseTask::default(), CollapseSettings::default());
        let step = task.step(&w.vm, 10_000, &settings);
        assert_eq!((step.collapsed, step.swept), (0, true), "no size is allowed");
        let settings = CollapseSettings { everywhere: 0x3fe, ..settings };
        while !task.step(&w.vm, 64, &settings).swept {}
        assert_eq!((order_at(w, &mm, 0), leaves(w, &mm)), (9, 1));
        assert_eq!(
            [order_at(w, &mm, 512), order_at(w, &mm, 512 + 64), order_at(w, &mm, 512 + 96)],
            [6, 5, 2]
        );
        assert_eq!(order_at(w, &mm, 512 + 101), 0);
        assert_eq!([order_at(w, &mm, 512 + 102), order_at(w, &mm, 512 + 256)], [1, 8]);
        assert_eq!(mm.load((FIRST + 512 + 100) * P), Ok(0));
        assert!(all_right(&mm, 612));
        let made = task.collapsed;
        while !task.step(&w.vm, 64, &settings).swept {}
        assert_eq!((task.collapsed, task.full_scans), (made, 3), "there is nothing left to do");
        w.vm.validate().unwrap();
    });
}

#[test]
fn pages_of_a_folio_that_were_never_touched_are_holes_for_the_background_task() {
    World::run(|w| {
        w.vm.set_folio_policy(FolioPolicy::default().with(Order::new(2), FolioMode::Always));
        let mm = w.vm.new_mm().unwrap();
        mm.map_raw(pages(FIRST, 1024), RW, Backing::Anonymous);
        (0..16).step_by(4).for_each(|nth| mm.store((FIRST + nth) * P, 1).unwrap());
        let settings = CollapseSettings { everywhere: 1 << 4, ..CollapseSettings::default() };
        let mut task = CollapseTask::default();
        while !task.step(&w.vm, 64, &settings).swept {}
        assert_eq!(order_at(w, &mm, 0), 2, "12 of the 16 pages were never touched");
        fill(&mm, 16);
        while !task.step(&w.vm, 64, &settings).swept {}
        assert_eq!(order_at(w, &mm, 0), 4);
        w.vm.validate().unwrap();
    });
}

#[test]
fn a_child_collapses_what_it_has_of_its_parents_leaf_around_its_own_copies() {
    World::run(|w| {
        let mm = program(w, 512);
        assert_eq!(collapse(&mm, 9), Ok(Collapsed::Leaf));
        let child = mm.fork().unwrap();
        for nth in [5, 9, 100] {
            child.store((FIRST + nth) * P, 99).unwrap();
        }
        assert_eq!(collapse(&child, 9), Ok(Collapsed::Leaf));
        let right = |nth| if [5, 9, 100].contains(&nth) { 99 } else { byte(nth) };
        assert!((0..512).all(|nth| child.load((FIRST + nth) * P) == Ok(right(nth))));
        assert!(all_right(&mm, 512));
        w.vm.validate().unwrap();
    });
}

//! Ranges that are emptied and given back, with what stays and why.

use super::Effort;
use crate::{
    Advice, FolioEvent, FolioMode, FolioPolicy, Mm, PinFlags,
    testing::{M, P, RW, World, pages},
    vma::Backing,
};
use anonmem_hal::{Order, Pfn, PhysMem, Va};
use core::ops::Range;
use std::vec::Vec;

/// The last quarter of a machine's 4096 frames.
fn quarter(w: &World) -> Range<Pfn> {
    let base = w.vm.machine().base_pfn();
    base.offset(3072)..base.offset(4096)
}

/// A program with `n` pages, each of which says its number, modulo 251.
fn program(w: &World, n: u64) -> Mm<'_, M> {
    let mm = w.vm.new_mm().unwrap();
    mm.map_raw(pages(16, n), RW, Backing::Anonymous);
    (0..n).for_each(|i| mm.store((16 + i) * P, (i % 251) as u8).unwrap());
    mm
}

fn all_right(mm: &Mm<'_, M>, n: u64) -> bool {
    (0..n).all(|i| mm.load((16 + i) * P) == Ok((i % 251) as u8))
}

/// Frames of `range` that a program's pages are in.
fn inside(mm: &Mm<'_, M>, n: u64, range: &Range<Pfn>) -> u64 {
    let frame = |i| mm.pagemap(Va((16 + i) * P)).pfn;
    (0..n).filter(|&i| frame(i).is_some_and(|pfn| range.contains(&pfn))).count() as u64
}

#[test]
fn a_quarter_is_emptied_and_given_back() {
    World::run(|w| {
        let (range, n) = (quarter(w), 2500);
        let mm = program(w, n);
        let child = mm.fork().unwrap();
        let before = inside(&mm, n, &range);
        let done = w.vm.evacuate(range.clone(), Effort::Light);
        // A page table may be in the way, or a slab.
        let kernel = done.kept.kernel;
        assert_eq!((done.moved, done.kept.total(), inside(&mm, n, &range)), (before, kernel, 0), "{done}");
        assert_eq!(w.vm.stats().offline, 1024 - kernel);
        assert!(all_right(&mm, n) && all_right(&child, n));
        w.vm.validate().unwrap();
        // Nothing is allocated from it, however much is needed.
        let mut taken = Vec::new();
        while let Ok(page) = w.vm.frames.alloc(Order::ZERO) {
            assert!(!range.contains(&page.pfn()));
            taken.push(page);
        }
        drop(taken);
        assert_eq!(w.vm.give_back(range.clone()), 1024 - kernel);
        assert_eq!((w.vm.stats().offline, w.vm.give_back(range)), (0, 0));
        w.vm.validate().unwrap();
    });
}

/// Pages leave in batches, and a split frees what nobody maps: both is free in the range for a moment.
#[test]
fn no_page_goes_to_a_frame_that_another_one_has_just_left() {
    World::run(|w| {
        let order = Order::new(4);
        w.vm.set_folio_policy(FolioPolicy::default().with(order, FolioMode::Always));
        let (range, n) = (quarter(w), 2496);
        let mm = program(w, n);
        w.vm.set_folio_policy(FolioPolicy::default());
        let odd = |i: u64| i % 2 == 1;
        for i in (0..n).filter(|&i| odd(i)) {
            mm.madvise(Va((16 + i) * P), P, Advice::DontNeed).unwrap();
        }
        let before = inside(&mm, n, &range);
        let done = w.vm.evacuate(range.clone(), Effort::Light);
        // Each of them has moved once.
        assert_eq!((done.moved, inside(&mm, n, &range)), (before, 0), "{done}");
        assert!((0..n).all(|i| mm.load((16 + i) * P) == Ok(if odd(i) { 0 } else { (i % 251) as u8 })));
        w.vm.validate().unwrap();
    });
}

#[test]
fn what_is_pinned_stays_until_it_is_unpinned() {
    World::run(|w| {
        let (range, n) = (quarter(w), 2500);
        let mm = program(w, n);
        let first =
            (0..n).find(|&i| mm.pagemap(Va((16 + i) * P)).pfn.is_some_and(|pfn| range.contains(&pfn)));
        let (before, first) = (inside(&mm, n, &range), first.unwrap());
        let pin = mm.pin(pages(16 + first, 1), PinFlags::WRITE).unwrap();
        let done = w.vm.evacuate(range.clone(), Effort::Light);
        assert_eq!((done.kept.pinned, done.kept.busy, done.moved), (1, 0, before - 1), "{done}");
        assert!(all_right(&mm, n));
        w.vm.validate().unwrap();
        drop(pin);
        let again = w.vm.evacuate(range.clone(), Effort::Light);
        assert_eq!((again.moved, again.kept.pinned), (1, 0), "{again}");
        w.vm.give_back(range);
        assert!(all_right(&mm, n));
        w.vm.validate().unwrap();
    });
}

#[test]
fn pages_without_a_place_stay() {
    World::run(|w| {
        let mm = program(w, 100);
        let base = w.vm.machine().base_pfn();
        let done = w.vm.evacuate(base..base.offset(4096), Effort::Light);
        assert_eq!((done.moved, done.kept.no_memory), (0, 100), "{done}");
        assert!(done.kept.kernel > 0);
        w.vm.give_back(base..base.offset(4096));
        assert!(all_right(&mm, 100));
        w.vm.validate().unwrap();
    });
}

#[test]
fn ten_thousand_times_back_and_forth() {
    World::run(|w| {
        let n = 300;
        let mm = program(w, n);
        let base = w.vm.machine().base_pfn();
        for round in 0..10_000_u64 {
            let start = base.offset(round * 37 % 61 * 64);
            let range = start..start.offset(64);
            let done = w.vm.evacuate(range.clone(), Effort::Light);
            assert_eq!((done.kept.busy, inside(&mm, 8, &range)), (0, 0), "{done}");
            w.vm.give_back(range);
            if round % 1000 == 0 {
                w.vm.validate().unwrap();
            }
        }
        assert!(all_right(&mm, n));
    });
}

#[test]
fn large_folios_go_whole_while_there_is_room_and_are_split_then() {
    World::run(|w| {
        w.vm.set_folio_policy(FolioPolicy::default().with(Order::new(4), FolioMode::Always));
        let mm = w.vm.new_mm().unwrap();
        mm.map_raw(pages(16, 2048), RW, Backing::Anonymous);
        (0..2048).for_each(|i| mm.store((16 + i) * P, (i % 251) as u8).unwrap());
        let range = quarter(w);
        let before = inside(&mm, 2048, &range);
        let done = w.vm.evacuate(range.clone(), Effort::Light);
        let kernel = done.kept.kernel;
        assert_eq!((done.moved, done.kept.total(), inside(&mm, 2048, &range)), (before, kernel, 0), "{done}");
        let event = |event| w.vm.folio_event(Order::new(4), event);
        let (whole, split) = (event(FolioEvent::Migrated), event(FolioEvent::MigrateSplit));
        assert!(whole > 0 && split == 0, "{whole} went whole, {split} were split");
        assert!(all_right(&mm, 2048));
        w.vm.validate().unwrap();
        w.vm.give_back(range.clone());
        // Of what is free, every block is broken: there is a place for pages only.
        let (mut taken, mut kept) = (Vec::new(), Vec::new());
        while let Ok(page) = w.vm.frames.alloc(Order::ZERO) {
            taken.push(page);
        }
        for page in taken {
            if page.pfn().0.is_multiple_of(2) {
                kept.push(page);
            }
        }
        w.vm.drain();
        // And what was kept for hard times.
        for order in (1..=9).rev().map(Order::new) {
            while let Ok(block) = w.vm.frames.alloc(order) {
                kept.push(block);
            }
        }
        let base = w.vm.machine().base_pfn();
        let other = base.offset(1024)..base.offset(1024 + 64);
        let before = inside(&mm, 2048, &other);
        let done = w.vm.evacuate(other.clone(), Effort::Light);
        assert_eq!((done.moved, inside(&mm, 2048, &other)), (before, 0), "{done}");
        assert!(before == 0 || event(FolioEvent::MigrateSplit) > split);
        w.vm.give_back(other);
        drop(kept);
        assert!(all_right(&mm, 2048));
        w.vm.validate().unwrap();
    });
}

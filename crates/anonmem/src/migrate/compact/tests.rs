//! Large blocks where there were only pages.

use super::super::evacuate::Effort;
use crate::{
    Advice, FolioEvent, FolioMode, FolioPolicy, PinFlags,
    testing::{P, RW, World, pages},
    vma::Backing,
};
use anonmem_frame::OutFor;
use anonmem_hal::{Order, PhysMem as _, Va};
use std::vec::Vec;

#[test]
fn every_second_page_gives_way_to_large_blocks() {
    World::run(|w| {
        let mm = w.vm.new_mm().unwrap();
        // 95 % of memory, of which every second page is freed.
        let n = 3800;
        mm.map_raw(pages(16, n), RW, Backing::Anonymous);
        (0..n).for_each(|i| mm.store((16 + i) * P, (i % 251) as u8).unwrap());
        (0..n).step_by(2).for_each(|i| mm.madvise(Va((16 + i) * P), P, Advice::DontNeed).unwrap());
        w.vm.drain();
        let (order, mut blocks, mut moved) = (Order::new(6), Vec::new(), 0);
        let could = w.vm.stats().free / order.pages();
        loop {
            match w.vm.frames.alloc(order) {
                Ok(block) => blocks.push(block),
                Err(_) => match w.vm.compact(order, Effort::Light) {
                    Ok(pages) => moved += pages,
                    Err(_) => break,
                },
            }
        }
        let made = blocks.len() as u64;
        assert!(made * 10 >= could * 8, "{made} blocks of {could} that free memory holds");
        // Half of a window's pages had to move, and the first windows cost less.
        assert!(moved * 10 <= made * order.pages() / 2 * 13, "{moved} pages moved for {made} blocks");
        drop(blocks);
        assert!((0..n).all(|i| mm.load((16 + i) * P) == Ok(if i % 2 == 0 { 0 } else { (i % 251) as u8 })));
        w.vm.validate().unwrap();
    });
}

#[test]
fn a_pinned_page_costs_its_window_and_no_other() {
    World::run(|w| {
        let mm = w.vm.new_mm().unwrap();
        mm.map_raw(pages(16, 3900), RW, Backing::Anonymous);
        // The page tables first, which do not move: they lie in one window.
        (0..3900).step_by(512).for_each(|i| mm.store((16 + i) * P, 1).unwrap());
        (0..3900).for_each(|i| mm.store((16 + i) * P, 1).unwrap());
        let is_pinned = |i: u64| i.is_multiple_of(64);
        // The first windows cost eight times as much as the others.
        let keeps = |i: u64| is_pinned(i) || i < 2000 && i.is_multiple_of(8);
        (0..3900)
            .filter(|&i| !keeps(i))
            .for_each(|i| mm.madvise(Va((16 + i) * P), P, Advice::DontNeed).unwrap());
        w.vm.drain();
        let pins: Vec<_> = (0..3900)
            .filter(|&i| is_pinned(i))
            .map(|i| mm.pin(pages(16 + i, 1), PinFlags::WRITE).unwrap())
            .collect();
        let order = Order::new(9);
        assert!(w.vm.compact(order, Effort::Light).is_err(), "each window of 512 has a pinned page");
        assert_eq!(w.vm.stats().event(crate::Event::MigratePinned), 0, "and none was tried");
        drop(pins);
        let moved = w.vm.compact(order, Effort::Light).unwrap();
        assert!(moved <= 16, "{moved} pages moved");
        assert!(w.vm.frames.alloc(order).is_ok());
        w.vm.validate().unwrap();
    });
}

#[test]
fn the_window_that_costs_the_least_is_emptied() {
    World::run(|w| {
        let mm = w.vm.new_mm().unwrap();
        let (n, order) = (3800, Order::new(6));
        mm.map_raw(pages(16, n), RW, Backing::Anonymous);
        (0..n).for_each(|i| mm.store((16 + i) * P, (i % 251) as u8).unwrap());
        // The pages of each window that is all the program's.
        let mut windows = std::collections::BTreeMap::<u64, Vec<u64>>::new();
        for i in 0..n {
            let frame = mm.pagemap(Va((16 + i) * P)).pfn.unwrap();
            windows.entry(frame.0 / order.pages()).or_default().push(i);
        }
        windows.retain(|_, pages| pages.len() as u64 == order.pages());
        // What is free now is out of use, so that no window costs nothing.
        let base = w.vm.machine().base_pfn();
        let all = base..base.offset(w.vm.machine().nr_frames());
        w.vm.drain();
        w.vm.frames.take_offline(all.clone(), OutFor::Owner);
        // The cheapest is neither the first nor the last, and all others cost as much as a window can.
        let left = [(2, 32), (20, 7), (30, 3), (40, 9)];
        let mut cheapest = None;
        for (nth, keep) in left {
            let (&window, pages) = windows.iter().nth(nth).unwrap();
            for &i in &pages[keep..] {
                mm.madvise(Va((16 + i) * P), P, Advice::DontNeed).unwrap();
            }
            cheapest = cheapest.or((keep == 3).then_some(window));
        }
        w.vm.drain();
        assert_eq!(w.vm.compact(order, Effort::Light), Ok(3));
        let block = w.vm.frames.alloc(order).unwrap();
        assert_eq!(Some(block.pfn().0 / order.pages()), cheapest);
        drop(block);
        w.vm.give_back(all);
        w.vm.validate().unwrap();
    });
}

#[test]
fn folios_of_16_pages_give_way_to_a_leaf_and_stay_whole() {
    World::run(|w| {
        w.vm.set_folio_policy(FolioPolicy::default().with(Order::new(4), FolioMode::Always));
        let mm = w.vm.new_mm().unwrap();
        let n = 3600;
        mm.map_raw(pages(16, n), RW, Backing::Anonymous);
        (0..n).for_each(|i| mm.store((16 + i) * P, (i % 251) as u8).unwrap());
        // Every second folio goes.
        (0..n).filter(|i| i / 16 % 2 == 0).for_each(|i| {
            mm.madvise(Va((16 + i) * P), P, Advice::DontNeed).unwrap();
        });
        w.vm.drain();
        let order = Order::new(9);
        assert!(w.vm.frames.alloc(order).is_err(), "there is a block before anything has moved");
        let moved = w.vm.compact(order, Effort::Light).unwrap();
        assert!(moved <= 272, "{moved} pages moved for a block of 512, of which half had to");
        assert!(w.vm.frames.alloc(order).is_ok());
        let split = w.vm.folio_event(Order::new(4), FolioEvent::MigrateSplit);
        assert_eq!(split, 0, "folios were split, and there was room for them");
        assert!(
            (0..n).all(|i| mm.load((16 + i) * P) == Ok(if i / 16 % 2 == 0 { 0 } else { (i % 251) as u8 }))
        );
        w.vm.validate().unwrap();
    });
}

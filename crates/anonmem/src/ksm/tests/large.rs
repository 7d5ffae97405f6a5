//! Large folios: which are merged whole, which are split for what can be merged then, and which stay as they
//! are.

use super::*;
use crate::Went;
use anonmem_hal::{Arch, Machine};
use std::collections::BTreeMap;

/// Runs `test` where every folio has 16 pages, with a program that has `pages` of them, which may be merged.
fn with_folios(pages: u64, test: impl Fn(&World, &Mm<'_, M>)) {
    let folios = FolioPolicy::default().with(Order::new(4), FolioMode::Always);
    World::run_with(Config { folios, ..Config::default() }, |w| {
        let mm = w.vm.new_mm().unwrap();
        map_mergeable(&mm, pages);
        test(w, &mm);
        w.vm.validate().unwrap();
    });
}

fn order(w: &World, mm: &Mm<'_, M>, n: u64) -> u8 {
    folio(w, mm, n).folio().order().get()
}

/// Sixteen pages that all differ, from those of other `first`s, too.
fn sixteen(first: u8) -> Vec<u8> {
    (first..first + 16).collect()
}

#[test]
fn folios_that_are_equal_become_one_whole_and_a_write_parts_them() {
    with_folios(64, |w, mm| {
        let all = [sixteen(1), sixteen(1), sixteen(100), sixteen(1)].concat();
        fill(mm, &all);
        assert_eq!(sweep(w, 1), 0, "nothing is known of a folio that is seen for the first time");
        assert_eq!(sweep(w, 1), 32);
        let s = stats(w);
        assert_eq!((s.pages_shared, s.pages_sharing, s.merged, w.vm.stats().user), (16, 32, 32, 32));
        assert_eq!([0, 16, 32, 48].map(|n| order(w, mm, n)), [4; 4]);
        assert_eq!((frame(mm, 3), frame(mm, 3)), (frame(mm, 19), frame(mm, 51)));
        assert_eq!((mm.ksm_usage().merging, mm.counters().anon.0), (48, 64));
        assert_eq!(w.vm.folio_event(Order::new(4), FolioEvent::Split), 0);
        assert_eq!(bytes(mm, 64), all);
        mm.store(page(3) + 9, 77).unwrap();
        assert_eq!([3, 19, 51].map(|n| mm.load(page(n) + 9).unwrap()), [77, 4, 4]);
        assert_eq!((order(w, mm, 16), w.vm.stats().event(Event::CowKsm)), (4, 16), "copied whole");
    });
}

#[test]
fn a_folio_that_is_written_between_two_sweeps_is_not_merged() {
    with_folios(32, |w, mm| {
        for round in 1..5 {
            fill(mm, &[sixteen(round), sixteen(round)].concat());
            assert_eq!(sweep(w, 1), 0);
        }
        assert_eq!((sweep(w, 1), order(w, mm, 0)), (16, 4));
    });
}

#[test]
fn folios_of_zeroes_are_split_for_the_zero_page() {
    with_folios(32, |w, mm| {
        w.vm.set_ksm(KsmSettings { use_zero_pages: true, ..KsmSettings::default() }).unwrap();
        fill(mm, &[0; 32]);
        sweep(w, 5);
        assert_eq!((stats(w).zeroed, w.vm.stats().user), (32, 0));
    });
}

/// A program of two folios that are one, and a child that has them, too.
fn with_merged(test: impl Fn(&World, &Mm<'_, M>, &Mm<'_, M>)) {
    with_folios(32, |w, mm| {
        let child = mm.fork().unwrap();
        fill(mm, &[sixteen(1), sixteen(1)].concat());
        let grandchild = mm.fork().unwrap();
        drop(child);
        assert_eq!(sweep(w, 2), 16);
        assert_eq!((frame(mm, 0), frame(mm, 0)), (frame(mm, 16), frame(&grandchild, 16)));
        test(w, mm, &grandchild);
        for program in [mm, &grandchild] {
            let said: Vec<_> = (16..32).map(|n| program.load(page(n) + 9).unwrap()).collect();
            assert_eq!(said, sixteen(1));
        }
    });
}

#[test]
fn a_merged_folio_moves_whole_with_all_of_its_entries() {
    with_merged(|w, mm, child| {
        let at = frame(mm, 0);
        let went = w.vm.migrate_folio(folio(w, mm, 0)).unwrap();
        assert_eq!(went, Went::To(frame(mm, 0)));
        assert_ne!(frame(mm, 0), at);
        assert_eq!((frame(mm, 16), frame(child, 0), order(w, mm, 0)), (frame(mm, 0), frame(mm, 0), 4));
        // The node is where it was, and is found.
        map_at(mm, page(64), 16);
        mm.madvise(Va(page(64)), 16 * P, Advice::Mergeable).unwrap();
        (0..16).for_each(|n| mm.store(page(64 + n) + 9, n as u8 + 1).unwrap());
        assert_eq!((sweep(w, 3), frame(mm, 64)), (16, frame(mm, 0)));
    });
}

#[test]
fn a_merged_folio_that_is_partly_mapped_leaves_whole_and_comes_back_as_copies() {
    with_merged(|w, mm, child| {
        w.vm.swap_on(0, 64, 0).unwrap();
        for program in [mm, child] {
            program.munmap(pages(AT / P, 16)).unwrap();
        }
        // Pages 17 and 18 are mapped nowhere any more.
        mm.munmap(pages(AT / P + 16, 3)).unwrap();
        child.munmap(pages(AT / P + 17, 15)).unwrap();
        map_at(mm, page(16), 3);
        map_at(child, page(17), 15);
        w.vm.validate().unwrap();
        assert_eq!(folio(w, mm, 20).folio().unmapped_pages(), 2);
        assert!(w.vm.reclaim_folio(folio(w, mm, 20)));
        assert_eq!(w.vm.stats().user, 0);
        w.vm.validate().unwrap();
        (3..16).for_each(|n| assert_eq!(mm.load(page(16 + n) + 9), Ok(n as u8 + 1)));
        assert_eq!(child.load(page(16) + 9), Ok(1));
        w.vm.validate().unwrap();
        (0..3).for_each(|n| mm.store(page(16 + n) + 9, n as u8 + 1).unwrap());
        (1..16).for_each(|n| child.store(page(16 + n) + 9, n as u8 + 1).unwrap());
    });
}

#[test]
fn unmerging_gives_every_page_back() {
    with_merged(|w, mm, child| {
        mm.madvise(Va(AT), 32 * P, Advice::Unmergeable).unwrap();
        assert_eq!((mm.ksm_usage().merging, child.ksm_usage().merging), (0, 32));
        w.vm.ksm_unmerge_all().unwrap();
        assert_eq!((child.ksm_usage().merging, stats(w).pages_shared), (0, 0));
        w.vm.validate().unwrap();
    });
}

#[test]
fn leaves_that_are_equal_become_one_and_stay_leaves() {
    World::run(|w| {
        let (mm, leaf) = (w.vm.new_mm().unwrap(), <M as Machine>::Arch::LEAF_ORDER.pages());
        let at = |n: u64| Va((1 << 30) + n * leaf * P);
        map_at(&mm, at(0).0, 2 * leaf);
        mm.madvise(at(0), 2 * leaf * P, Advice::Mergeable).unwrap();
        for n in [0, 1] {
            assert!(mm.fault_leaf(at(n)));
            (0..leaf).for_each(|page| mm.store(at(n).0 + page * P, page as u8 % 16).unwrap());
        }
        let child = mm.fork().unwrap();
        assert_eq!(sweep(w, 2), leaf);
        let frames = [0, 1].map(|n| mm.pagemap(at(n)).pfn.unwrap());
        assert_eq!(
            (frames[0], mm.ksm_usage().merging, child.ksm_usage().merging),
            (frames[1], 2 * leaf, 2 * leaf)
        );
        assert_eq!(w.vm.stats().user, leaf);
        let went = w.vm.migrate_folio(w.vm.frames.try_get(frames[0]).unwrap()).unwrap();
        assert_eq!(went, Went::To(child.pagemap(at(1)).pfn.unwrap()));
        w.vm.validate().unwrap();
        mm.store(at(1).0 + 5 * P, 99).unwrap();
        assert_eq!((mm.load(at(1).0 + 5 * P), mm.load(at(0).0 + 5 * P)), (Ok(99), Ok(5)));
        mm.madvise(at(0), 2 * leaf * P, Advice::Unmergeable).unwrap();
        assert_eq!(mm.ksm_usage().merging, 0);
        assert_eq!(child.load(at(1).0 + 5 * P), Ok(5));
        w.vm.validate().unwrap();
    });
}

/// Lets two programs of a family have a folio each of `len` pages, whose indices overlap: one has moved its
/// mapping to where folios begin at other indices.
fn with_indices_that_overlap(len: u64, write: impl Fn(&Mm<'_, M>, Va)) {
    let folios = FolioPolicy::default().with(Order::new(4), FolioMode::Always);
    World::run_with(Config { folios, ..Config::default() }, |w| {
        let (from, to) = (Va(1 << 30), Va((1 << 31) + 5 * P));
        let mm = w.vm.new_mm().unwrap();
        map_at(&mm, from.0, 3 * len);
        mm.madvise(from, 3 * len * P, Advice::Mergeable).unwrap();
        mm.store(from.page_after(3 * len - 1).0, 1).unwrap();
        let child = mm.fork().unwrap();
        let flags = RemapFlags::MAYMOVE | RemapFlags::FIXED;
        mm.mremap(from, 3 * len * P, 3 * len * P, flags, to).unwrap();
        let moved = Va((1 << 31) + len * P);
        write(&child, from);
        write(&mm, moved);
        assert_eq!(sweep(w, 2), len);
        let frame = |mm: &Mm<'_, M>, at: Va| mm.pagemap(at).pfn.unwrap();
        let folio = || w.vm.frames.try_get(frame(&child, from)).unwrap();
        assert_eq!((frame(&mm, moved), folio().folio().nr_pages().0), (frame(&child, from), len));
        // Each of its entries is met once, of some, too.
        mm.madvise(moved.page_after(2), 2 * P, Advice::DontNeed).unwrap();
        w.vm.validate().unwrap();
        w.vm.migrate_folio(folio()).unwrap();
        w.vm.validate().unwrap();
        assert_eq!(frame(&mm, moved), frame(&child, from));
        w.vm.swap_on(0, 2 * len, 0).unwrap();
        assert!(w.vm.reclaim_folio(folio()));
        let byte = |mm: &Mm<'_, M>, first: Va, n: u64| mm.load(first.page_after(n).0 + 9).unwrap();
        for n in 0..len {
            assert_eq!((byte(&child, from, n), n), (n as u8, n));
            assert_eq!(byte(&mm, moved, n), if (2..4).contains(&n) { 0 } else { n as u8 });
        }
        w.vm.validate().unwrap();
    });
}

#[test]
fn a_place_of_a_merged_folio_does_not_find_the_entries_of_another() {
    let fill = |mm: &Mm<'_, M>, at: Va, len: u64| {
        (0..len).for_each(|n| mm.store(at.page_after(n).0 + 9, n as u8).unwrap());
    };
    with_indices_that_overlap(16, |mm, at| fill(mm, at, 16));
    let leaf = <M as Machine>::Arch::LEAF_ORDER.pages();
    with_indices_that_overlap(leaf, |mm, at| {
        assert!(mm.fault_leaf(at));
        fill(mm, at, leaf);
    });
}

#[test]
fn a_folio_is_not_split_for_less_than_half_of_it() {
    for equal in [7, 8] {
        with_folios(32, |w, mm| {
            // The other ones of the pairs are single pages, of a mapping in which no folio has room.
            map_at(mm, page(64), equal);
            mm.madvise(Va(page(64)), equal * P, Advice::Mergeable).unwrap();
            fill(mm, &[sixteen(1), sixteen(100)].concat());
            (0..equal).for_each(|n| mm.store(page(64 + n) + 9, n as u8 + 1).unwrap());
            let freed = sweep(w, 8);
            assert_eq!((freed, order(w, mm, 0)), if equal == 8 { (8, 0) } else { (0, 4) });
            assert_eq!(order(w, mm, 16), 4);
        });
    }
}

#[test]
fn a_folio_of_which_half_is_zeroes_is_split_for_the_zero_page() {
    for use_zero_pages in [true, false] {
        with_folios(16, |w, mm| {
            w.vm.set_ksm(KsmSettings { use_zero_pages, ..KsmSettings::default() }).unwrap();
            let half: Vec<u8> = (0..16).map(|n| if n % 2 == 0 { 0 } else { n }).collect();
            fill(mm, &half);
            sweep(w, 5);
            let s = stats(w);
            // Otherwise they are equal to one another.
            assert_eq!((s.zeroed, s.pages_sharing), if use_zero_pages { (8, 0) } else { (0, 7) });
            assert_eq!(bytes(mm, 16), half);
        });
    }
}

#[test]
fn one_sweep_says_nothing() {
    with_folios(32, |w, mm| {
        for round in 0..6 {
            // Equal in every second sweep only.
            fill(mm, &[sixteen(1), sixteen(if round % 2 == 0 { 1 } else { 100 })].concat());
            assert_eq!(sweep(w, 1), 0);
        }
        assert_eq!([0, 16].map(|n| order(w, mm, n)), [4; 2]);
    });
}

#[test]
fn whoever_may_not_be_merged_is_no_reason_to_split() {
    for domains in [MergeDomains::Families, MergeDomains::One] {
        with_folios(16, |w, mm| {
            w.vm.set_ksm(KsmSettings { domains, ..KsmSettings::default() }).unwrap();
            fill(mm, &sixteen(1));
            // One that nobody offered, one that a device has, and a stranger's.
            for first in [16, 32] {
                map_at(mm, page(first), 16);
                (0..16).for_each(|n| mm.store(page(first + n) + 9, n as u8 + 1).unwrap());
            }
            mm.madvise(Va(page(32)), 16 * P, Advice::Mergeable).unwrap();
            let pin = mm.pin(pages(AT / P + 32, 1), PinFlags::WRITE).unwrap();
            let stranger = w.vm.new_mm().unwrap();
            map_mergeable(&stranger, 16);
            fill(&stranger, &sixteen(1));
            let one = domains == MergeDomains::One;
            assert_eq!(sweep(w, 6), if one { 16 } else { 0 });
            assert_eq!(frame(mm, 0) == frame(&stranger, 0), one);
            assert_eq!([0, 16, 32].map(|n| order(w, mm, n)), [4; 3]);
            drop(pin);
            assert_eq!(sweep(w, 6), 16);
            assert_eq!([0, 16, 32].map(|n| order(w, mm, n)), [4; 3]);
            assert_eq!([16, 32].map(|n| frame(mm, 0) == frame(mm, n)), [false, true]);
        });
    }
}

#[test]
fn a_folio_that_somebody_uses_stays_for_this_time() {
    with_folios(32, |w, mm| {
        fill(mm, &[sixteen(1), sixteen(1)].concat());
        let used = folio(w, mm, 0);
        assert_eq!(sweep_beside_others(w, 6), 0);
        assert_eq!([0, 16].map(|n| order(w, mm, n)), [4, 4]);
        assert!(stats(w).refused > 0);
        drop(used);
        assert_eq!(sweep(w, 4), 16);
        assert_eq!(bytes(mm, 32), [sixteen(1), sixteen(1)].concat());
    });
}

#[test]
fn what_waited_in_a_frame_says_nothing_of_whoever_has_it_now() {
    with_folios(16, |w, mm| {
        fill(mm, &sixteen(1));
        map_at(mm, page(64), 8);
        mm.madvise(Va(page(64)), 8 * P, Advice::Mergeable).unwrap();
        (0..8).for_each(|n| mm.store(page(64 + n) + 9, n as u8 + 1).unwrap());
        let said: BTreeMap<_, _> = (0..8).map(|n| (frame(mm, 64 + n), n as u8 + 1)).collect();
        sweep(w, 2);
        mm.munmap(pages(AT / P + 64, 8)).unwrap();
        w.vm.drain();
        // The same frames say the same. But whoever is merged is not to learn of it.
        let stranger = w.vm.new_mm().unwrap();
        map_at(&stranger, page(64), 8);
        for at in (0..8).map(|n| page(64 + n) + 9) {
            stranger.store(at, 99).unwrap();
            let pfn = stranger.pagemap(Va(at).page_down()).pfn.unwrap();
            stranger.store(at, said[&pfn]).unwrap();
        }
        sweep(w, 4);
        assert_eq!(order(w, mm, 0), 4);
    });
}

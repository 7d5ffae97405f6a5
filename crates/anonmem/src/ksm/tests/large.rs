//! Large folios: which are split for what can be merged then, and which stay whole.

use super::*;
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
fn folios_that_are_equal_are_split_when_they_were_so_twice_and_become_one() {
    with_folios(48, |w, mm| {
        fill(mm, &[sixteen(1), sixteen(1), sixteen(100)].concat());
        assert_eq!([0, 16, 32].map(|n| order(w, mm, n)), [4; 3]);
        // The first sweep of the two sees no equal of the first folio: nothing is known yet.
        assert_eq!(sweep(w, 2), 0);
        assert_eq!([0, 32].map(|n| order(w, mm, n)), [4; 2], "not yet, and not at all");
        assert_eq!(sweep(w, 3), 16);
        let s = stats(w);
        assert_eq!((s.pages_shared, s.pages_sharing, w.vm.stats().user), (16, 16, 32));
        assert_eq!([0, 16, 32].map(|n| order(w, mm, n)), [0, 0, 4]);
        assert_eq!(w.vm.folio_event(Order::new(4), FolioEvent::Split), 2);
        assert_eq!(bytes(mm, 48), [sixteen(1), sixteen(1), sixteen(100)].concat());
        mm.store(page(3) + 9, 77).unwrap();
        assert_eq!((mm.load(page(3) + 9), mm.load(page(19) + 9)), (Ok(77), Ok(4)));
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
            let split = if one { 0 } else { 4 };
            assert_eq!([order(w, mm, 0), order(w, &stranger, 0)], [split; 2]);
            assert_eq!([16, 32].map(|n| order(w, mm, n)), [4; 2]);
            drop(pin);
            assert_eq!(sweep(w, 6), 16);
            assert_eq!([0, 16, 32].map(|n| order(w, mm, n)), [0, 4, 0]);
        });
    }
}

#[test]
fn a_folio_that_somebody_uses_stays_for_this_time() {
    with_folios(32, |w, mm| {
        fill(mm, &[sixteen(1), sixteen(1)].concat());
        let used = folio(w, mm, 0);
        assert_eq!(sweep_beside_others(w, 6), 0);
        assert_eq!([0, 16].map(|n| order(w, mm, n)), [4, 0]);
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

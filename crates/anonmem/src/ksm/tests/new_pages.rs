//! Pages that were new in the sweep before: merged without a second look of their own, if they have not
//! changed for half a sweep.

use super::*;
use crate::ksm::candidates::Known;
use anonmem_hal::PhysMem;

/// Lets the hand go over all frames once; returns how many pages were looked at and given up.
fn looks(w: &World) -> (u64, u64) {
    let (mut scanned, mut freed) = (0, 0);
    loop {
        let done = w.vm.ksm_scan(1000).unwrap();
        scanned += done.scanned;
        freed += done.freed;
        if done.swept {
            w.vm.validate().unwrap();
            return (scanned, freed);
        }
    }
}

#[test]
fn a_page_with_the_bytes_of_one_that_was_new_a_sweep_ago_is_merged_with_it() {
    World::run(|w| {
        let mm = w.vm.new_mm().unwrap();
        map_mergeable(&mm, 3);
        fill(&mm, &[7, 7, 8]);
        assert_eq!(looks(w), (3, 0));
        let s = stats(w);
        assert_eq!((s.pages_volatile, s.pages_unshared), (3, 0));
        assert_eq!(looks(w), (2, 1), "nobody has to look at the second of the two again");
        assert_eq!((frame(&mm, 0), bytes(&mm, 3)), (frame(&mm, 1), vec![7, 7, 8]));
        let s = stats(w);
        assert_eq!((s.pages_volatile, s.pages_unshared, s.refused), (0, 1, 0));
    });
}

#[test]
fn a_page_that_was_new_less_than_half_a_sweep_ago_is_looked_at_again() {
    World::run(|w| {
        let (mm, nr) = (w.vm.new_mm().unwrap(), w.vm.machine().nr_frames());
        map_mergeable(&mm, 2);
        mm.store(page(0) + 9, 7).unwrap();
        // Pages that nobody offers lie between the two.
        let others = nr * 5 / 8;
        map_at(&mm, 2 * AT, others);
        (0..others).for_each(|n| mm.store(2 * AT + n * P, 1).unwrap());
        mm.store(page(1) + 9, 7).unwrap();
        assert!(frame(&mm, 0).0.abs_diff(frame(&mm, 1).0) > nr / 2, "they lie apart");
        assert_eq!(looks(w), (2, 0));
        assert_eq!(looks(w), (2, 1), "the later one has been new just now for the earlier one");
        assert_eq!(frame(&mm, 0), frame(&mm, 1));
    });
}

#[test]
fn a_page_that_has_changed_since_it_was_new_is_not_taken_from_its_entries() {
    World::run(|w| {
        let mm = w.vm.new_mm().unwrap();
        map_mergeable(&mm, 2);
        fill(&mm, &[7, 7]);
        assert_eq!(looks(w), (2, 0));
        let later = if frame(&mm, 0) < frame(&mm, 1) { 1 } else { 0 };
        mm.store(page(later) + 9, 8).unwrap();
        assert_eq!(looks(w), (2, 0));
        assert_eq!((stats(w).refused, stats(w).pages_volatile, stats(w).pages_unshared), (0, 1, 1));
    });
}

#[test]
fn a_look_that_somebody_asks_for_notes_no_new_page() {
    World::run(|w| {
        let mm = w.vm.new_mm().unwrap();
        map_mergeable(&mm, 2);
        fill(&mm, &[7, 7]);
        let both = [frame(&mm, 0), frame(&mm, 1)];
        let looks = [both, both].map(|frames| w.vm.ksm_scan_frames(frames).unwrap());
        assert_eq!(looks.map(|look| (look.scanned, look.freed)), [(2, 0), (2, 1)]);
    });
}

#[test]
fn a_new_page_takes_the_place_of_none_that_waits() {
    World::run(|w| {
        let (ksm, frames, hash) = (&w.vm.ksm, &w.vm.frames, 0x1234_5678_9abc_def0);
        let _scanning = ksm.lock.write();
        ksm.prepare(frames).unwrap();
        let waiting = || ksm.waiting(frames, hash).collect::<Vec<_>>();
        // What the hand finds when it is there the next time.
        let next = || {
            ksm.sweep.update(|sweep| sweep + 1);
            let known = ksm.waiting_or_new(frames, hash, ksm.hand_at(frames, ksm.at.get()));
            let new =
                known.filter(|(_, known)| *known == Known::New).map(|(frame, _)| frame).collect::<Vec<_>>();
            ksm.sweep.update(|sweep| sweep - 1);
            new
        };
        (1..=8).for_each(|frame| ksm.wait_for_equal(frames, hash, frame));
        ksm.note_new(frames, hash, 9);
        assert_eq!((waiting().len(), next()), (8, vec![]));
        ksm.forget(frames, hash, 5);
        ksm.note_new(frames, hash, 9);
        assert_eq!((waiting().len(), next()), (7, vec![9]));
        ksm.note_new(frames, hash, 10);
        assert_eq!(next(), [10], "the newer one");
        ksm.wait_for_equal(frames, hash, 11);
        assert_eq!((waiting().len(), next()), (8, vec![]), "that waits");
        assert!(waiting().contains(&11) && waiting().contains(&1));
    });
}

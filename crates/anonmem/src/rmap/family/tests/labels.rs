//! Which labels children get, and where a walk looks for the pages of a member.

use super::{label, map, mappers, records, remap, run};
use crate::{
    Advice, Mm,
    rmap::{
        family::{members::lock_read, walk::with_pages_at},
        reverse_map::ReverseMap,
    },
    testing::{M, P, RW, World, pages},
    vma::Backing,
};
use anonmem_hal::{CpuId, Va, reverse_map::Families};
use std::vec::Vec;

/// A program that has had a page, and the page's address.
fn program(w: &World) -> (Mm<'_, M>, Va) {
    let mm = w.vm.new_mm().unwrap();
    let va = map(&mm, 2);
    mm.store(va.0, 1).unwrap();
    (mm, va)
}

/// The number of a child's label.
fn number(parent: &Mm<'_, M>, child: &Mm<'_, M>) -> u32 {
    let (parent, child) = (label(parent), label(child));
    (1..4000).find(|&n| parent.child(n) == Some(child)).expect("a child's label")
}

/// The numbers of the next children, each of which ends before the next one comes.
fn next_numbers(parent: &Mm<'_, M>, count: usize) -> Vec<u32> {
    (0..count).map(|_| number(parent, &parent.fork().unwrap())).collect()
}

/// Children that stay; they get the first numbers.
fn lasting<'a>(parent: &Mm<'a, M>, count: u32) -> Vec<Mm<'a, M>> {
    let children: Vec<_> = (0..count).map(|_| parent.fork().unwrap()).collect();
    let numbers: Vec<_> = children.iter().map(|child| number(parent, child)).collect();
    assert_eq!(numbers, (1..=count).collect::<Vec<_>>());
    children
}

#[test]
fn beside_a_child_that_stays_numbers_go_around() {
    run(|w| {
        let (parent, _) = program(w);
        let child = lasting(&parent, 1);
        // Two members: up to twice as many numbers, and two more.
        assert_eq!(next_numbers(&parent, 12), [2, 3, 4, 5, 6, 2, 3, 4, 5, 6, 2, 3]);
        drop(child);
        assert_eq!(next_numbers(&parent, 3), [1, 1, 1]);
    });
}

#[test]
fn a_search_looks_at_eight_numbers() {
    for (stay, most) in [(7, 18), (8, 20)] {
        run(|w| {
            let (parent, va) = program(w);
            let children = lasting(&parent, stay);
            let mut expected: Vec<_> = (stay + 1..=most).collect();
            if stay == 8 {
                // The last one that was looked at: a label of two.
                expected.push(8);
            }
            let (len, again) = (expected.len(), expected[..3].to_vec());
            assert_eq!(next_numbers(&parent, len), expected);
            assert_eq!(next_numbers(&parent, 3), again);
            assert_eq!(mappers(&parent, va), u64::from(stay) + 1);
            drop(children);
        });
    }
}

#[test]
fn where_long_paths_do_not_fit_the_short_ones_are_looked_at_again() {
    run(|w| {
        let (mut mm, va) = program(w);
        // As deep as leaves room for paths of four turns: numbers 1 to 3.
        while label(&mm).child(4).is_some() {
            mm = mm.fork().unwrap();
        }
        assert!(label(&mm).child(3).is_some());
        let mut children = lasting(&mm, 3);
        assert!(next_numbers(&mm, 4).iter().all(|n| [2, 3].contains(n)), "all are taken");
        drop(children.remove(1));
        assert_eq!(next_numbers(&mm, 4), [2; 4]);
        assert_eq!(mappers(&mm, va), 3);
        w.vm.validate().unwrap();
    });
}

#[test]
fn a_mapping_that_moved_a_little_is_found_once() {
    run(|w| {
        let mm = w.vm.new_mm().unwrap();
        let (home, away) = (Va(0x10_0000), Va(0x80_0000));
        mm.map_raw(pages(home.page(), 4), RW, Backing::Anonymous);
        (0..4).for_each(|i| mm.store(home.0 + i * P, 7 + i as u8).unwrap());
        remap(&mm, home, 4, away);
        // Now the addresses that the indices of its last pages say are its own, too.
        remap(&mm, away, 4, Va(home.0 + 2 * P));
        assert_eq!(records(w), 1);
        (0..4).for_each(|i| assert_eq!(mappers(&mm, Va(home.0 + (2 + i) * P)), 1));
        w.vm.validate().unwrap();
    });
}

#[test]
fn the_mapping_with_a_familys_pages_is_the_one_at_the_address() {
    run(|w| {
        let (mm, va) = program(w);
        let id = mm.map_raw(pages(64, 2), RW, Backing::Anonymous);
        let empty = mm.map_raw(pages(80, 2), RW, Backing::Anonymous);
        mm.store(64 * P, 1).unwrap();
        let page = w.vm.frames.try_get(mm.pagemap(va).pfn.unwrap()).unwrap();
        let guard = lock_read(&w.vm, page.folio()).unwrap();
        let found = |page: u64| with_pages_at(&guard, mm.id, Va(page * P));
        assert_eq!([63, 64, 65, 66].map(found), [None, Some(id), Some(id), None]);
        assert_eq!(found(80), None, "{empty:?} has no pages");
        drop(guard);
    });
}

#[test]
fn a_family_is_locked_as_long_as_somebody_is_left() {
    run(|w| {
        let (mm, va) = program(w);
        let page = w.vm.frames.try_get(mm.pagemap(va).pfn.unwrap()).unwrap();
        let guard = lock_read(&w.vm, page.folio()).unwrap();
        let family = <Families as ReverseMap<M>>::family(&guard);
        assert_eq!(<Families as ReverseMap<M>>::validate_locked(&guard, page.folio()), Ok(()));
        drop(guard);
        let is_there = || <Families as ReverseMap<M>>::lock_family(&w.vm, family).is_some();
        let child = mm.fork().unwrap();
        drop(mm);
        assert!(is_there());
        drop(child);
        assert!(!is_there() && lock_read(&w.vm, page.folio()).is_none());
    });
}

#[test]
fn nobody_waits_for_a_family_to_learn_that_a_page_is_not_mapped() {
    run(|w| {
        let (mm, va) = program(w);
        let page = w.vm.frames.try_get(mm.pagemap(va).pfn.unwrap()).unwrap();
        mm.madvise(va, P, Advice::DontNeed).unwrap();
        let lock = w.vm.family_lock_write(mm.slot().member.place().unwrap().0);
        let cpus = w.vm.machine().cpus().clone();
        let unmapped = std::thread::scope(|scope| {
            let ask = || cpus.run_on(CpuId(1), || lock_read(&w.vm, page.folio()).is_none());
            scope.spawn(ask).join().unwrap()
        });
        assert!(unmapped);
        drop(lock);
    });
}

#[test]
fn a_page_that_one_program_has_alone_is_found_without_its_relatives() {
    run(|w| {
        let (parent, va) = program(w);
        let child = parent.fork().unwrap();
        parent.store(va.0, 2).unwrap();
        assert_eq!((mappers(&parent, va), mappers(&child, va)), (1, 1));
        // Whoever came to the child would wait for its tree of mappings.
        let writing = child.slot().tree.seq.begin_write();
        assert_eq!(mappers(&parent, va), 1);
        drop(writing);
    });
}

//! What a walk meets in one table or leaf, what it takes from it, and what it does not wait for.

use crate::{
    Advice, Config, FaultAccess, FolioMode, FolioPolicy, LockMode, Mm, Prot,
    migrate::{leave_behind, restore},
    rmap::{
        lab::{count_mappings, walk_mappings},
        referenced::folio_referenced,
    },
    testing::{M, P, RW, World, pages},
    vma::Backing,
};
use anonmem_frame::{FolioOwner, FolioRef};
use anonmem_hal::{CpuId, Order, Va};
use anonmem_pgtable::{Locked, Walked};
use core::ops::ControlFlow;
use std::{vec, vec::Vec};

const FIRST: u64 = 1024;
/// Pages of a leaf.
const N: u64 = 512;

fn at(page: u64) -> Va {
    Va((FIRST + page) * P)
}

/// Folios of four pages.
fn with_folios(f: impl FnOnce(&World)) {
    let folios = FolioPolicy::default().with(Order::new(2), FolioMode::Always);
    World::run_with(Config { lock_mode: LockMode::Mmap, folios, ..Config::default() }, f);
}

/// A program with `len` pages, all of them written.
fn program(w: &World, len: u64) -> Mm<'_, M> {
    let mm = w.vm.new_mm().unwrap();
    mm.map_raw(pages(FIRST, len), RW, Backing::Anonymous);
    (0..len).for_each(|page| mm.store(at(page).0, 1).unwrap());
    mm
}

/// A program with one leaf.
fn with_leaf(w: &World) -> Mm<'_, M> {
    let mm = w.vm.new_mm().unwrap();
    mm.map_raw(pages(FIRST, N), RW, Backing::Anonymous);
    assert!(mm.fault_leaf(at(0)));
    mm
}

fn page_at<'a>(w: &'a World, mm: &Mm<'_, M>, page: u64) -> FolioRef<'a, M> {
    w.vm.frames.try_get(mm.pagemap(at(page)).pfn.unwrap()).unwrap()
}

/// Which pages each hit of a walk to the folio of page 0 has: from where on, and how many.
fn hits(w: &World, mm: &Mm<'_, M>) -> Vec<(u64, u64)> {
    let (page, mut met) = (page_at(w, mm, 0), vec![]);
    let walked = walk_mappings(&w.vm, page.folio(), |hit| {
        met.push((hit.va.page() - FIRST, hit.pages));
        ControlFlow::<()>::Continue(())
    });
    assert_eq!(walked, Some(ControlFlow::Continue(())));
    assert_eq!(count_mappings(&w.vm, page.folio()), met.iter().map(|hit| hit.1).sum());
    met
}

fn advise(mm: &Mm<'_, M>, page: u64, len: u64, advice: Advice) {
    mm.madvise(at(page), len * P, advice).unwrap();
}

#[test]
fn what_lies_together_is_met_together() {
    with_folios(|w| {
        let mm = program(w, 8);
        assert_eq!(hits(w, &mm), [(0, 4)]);
        let child = mm.fork().unwrap();
        assert_eq!(hits(w, &mm), [(0, 4), (0, 4)]);
        advise(&child, 1, 1, Advice::DontNeed);
        assert_eq!(hits(w, &mm), [(0, 4), (0, 1), (2, 2)]);
        child.mprotect(pages(FIRST + 3, 1), Prot::READ).unwrap();
        assert_eq!(hits(w, &mm), [(0, 4), (0, 1), (2, 1), (3, 1)], "two mappings");
        drop(child);
        advise(&mm, 3, 1, Advice::DontNeed);
        assert_eq!(hits(w, &mm), [(0, 3)]);
    });
    World::run(|w| assert_eq!(hits(w, &with_leaf(w)), [(0, N)]));
}

#[test]
fn a_walk_ends_where_its_visitor_says() {
    with_folios(|w| {
        let mm = program(w, 4);
        let children = [mm.fork().unwrap(), mm.fork().unwrap()];
        let (page, mut met) = (page_at(w, &mm, 0), 0);
        let walked = walk_mappings(&w.vm, page.folio(), |_| {
            met += 1;
            if met == 2 { ControlFlow::Break(7) } else { ControlFlow::Continue(()) }
        });
        assert_eq!((walked, met), (Some(ControlFlow::Break(7)), 2));
        drop((mm, children));
        assert!(walk_mappings(&w.vm, page.folio(), |_| ControlFlow::Break(0)).is_none(), "nobody maps it");
        assert_eq!(count_mappings(&w.vm, page.folio()), 0);
    });
}

#[test]
fn pages_of_one_folio_come_back_and_not_those_of_its_neighbour() {
    with_folios(|w| {
        let mm = program(w, 8);
        advise(&mm, 1, 1, Advice::DontNeed);
        let folios = [0, 4].map(|page| page_at(w, &mm, page));
        assert_eq!(folios[1].pfn(), folios[0].pfn().offset(4), "one behind the other");
        folios.iter().for_each(|page| leave_behind(&w.vm, page));
        let present = || (0..8).map(|page| mm.pagemap(at(page)).present()).collect::<Vec<_>>();
        assert_eq!(present(), [false; 8]);
        let lock = folios[0].lock();
        restore(&w.vm, &lock);
        drop(lock);
        assert_eq!(present(), [true, false, true, true, false, false, false, false]);
        let lock = folios[1].lock();
        restore(&w.vm, &lock);
        drop(lock);
        assert_eq!(present(), [true, false, true, true, true, true, true, true]);
        drop(folios);
        w.vm.validate().unwrap();
    });
}

#[test]
fn each_page_of_a_batch_says_whether_it_was_accessed_and_a_leaf_says_it_of_all() {
    let referenced = |w: &World, mm: &Mm<'_, M>| {
        let found = folio_referenced(&w.vm, page_at(w, mm, 0).folio());
        (found.mappings, found.young)
    };
    with_folios(|w| {
        let mm = program(w, 4);
        assert_eq!(referenced(w, &mm), (4, 4));
        assert_eq!(referenced(w, &mm), (4, 0), "the bits were taken");
        assert_eq!([1, 3].map(|page| mm.load(at(page).0)), [Ok(1); 2]);
        assert_eq!(referenced(w, &mm), (4, 2));
    });
    World::run(|w| {
        let mm = with_leaf(w);
        assert_eq!(referenced(w, &mm), (N, N));
        assert_eq!(referenced(w, &mm), (N, 0));
    });
}

/// What the first hit says of pages that were never touched.
fn untouched(w: &World, mm: &Mm<'_, M>) -> Option<u64> {
    let (page, mut said) = (page_at(w, mm, 0), None);
    let _ = walk_mappings(&w.vm, page.folio(), |hit| {
        said = hit.untouched();
        ControlFlow::Break(())
    });
    said
}

#[test]
fn a_page_is_untouched_if_it_was_neither_read_nor_written_and_is_nobody_elses() {
    with_folios(|w| {
        let mm = w.vm.new_mm().unwrap();
        mm.map_raw(pages(FIRST, 4), RW, Backing::Anonymous);
        mm.store(at(0).0, 1).unwrap();
        assert_eq!(untouched(w, &mm), Some(3));
        assert_eq!((mm.load(at(2).0), untouched(w, &mm)), (Ok(0), Some(2)));
        advise(&mm, 0, 4, Advice::Cold);
        assert_eq!(untouched(w, &mm), Some(3), "one was written");
        let child = mm.fork().unwrap();
        assert_eq!(untouched(w, &mm), Some(0));
        drop(child);
        let mm = w.vm.new_mm().unwrap();
        mm.map_raw(pages(FIRST, 4), RW, Backing::Anonymous);
        mm.store(at(3).0, 1).unwrap();
        assert_eq!(untouched(w, &mm), Some(3), "the last one was written");
    });
    World::run(|w| {
        let mm = with_leaf(w);
        advise(&mm, 0, N, Advice::Cold);
        assert_eq!(untouched(w, &mm), None, "written");
        advise(&mm, 0, N, Advice::Free);
        mm.handle_fault(at(3), FaultAccess::Read);
        assert_eq!(untouched(w, &mm), None, "read");
        advise(&mm, 0, N, Advice::Cold);
        assert_eq!(untouched(w, &mm), Some(N));
    });
}

#[test]
fn a_walk_does_not_wait_for_a_leaf_of_another_folio() {
    World::run(|w| {
        let mm = with_leaf(w);
        let child = mm.fork().unwrap();
        advise(&child, 0, N, Advice::DontNeed);
        assert!(child.fault_leaf(at(0)));
        let page = page_at(w, &mm, 0);
        let guard = child.read();
        let Some(Walked::Leaf(place)) = child.slot().space.walk(&w.vm.frames, &guard, at(0)) else {
            panic!("a leaf")
        };
        let Locked::Leaf(leaf) = place.lock() else { panic!("a leaf") };
        let cpus = w.vm.machine().cpus().clone();
        let met = std::thread::scope(|scope| {
            let walk = || cpus.run_on(CpuId(1), || count_mappings(&w.vm, page.folio()));
            scope.spawn(walk).join().unwrap()
        });
        assert_eq!(met, N);
        drop(leaf);
        drop(guard);
    });
}

#[test]
fn a_walk_to_a_folio_does_not_wait_for_tables_that_do_not_map_it() {
    with_folios(|w| {
        let mm = program(w, 4);
        let child = mm.fork().unwrap();
        (0..4).for_each(|page| child.store(at(page).0, 2).unwrap());
        let page = page_at(w, &mm, 0);
        let guard = child.read();
        let entries = child.slot().space.walk(&w.vm.frames, &guard, at(0)).unwrap().table().unwrap().lock();
        let cpus = w.vm.machine().cpus().clone();
        let met = std::thread::scope(|scope| {
            let walk = || cpus.run_on(CpuId(1), || count_mappings(&w.vm, page.folio()));
            scope.spawn(walk).join().unwrap()
        });
        assert_eq!(met, 4);
        drop(entries);
        drop(guard);
    });
}

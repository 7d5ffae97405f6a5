//! Large folios on their way: runs, leaves, both at once, and what is in the swap cache.

use super::super::{MigrationBatch, Stays, Went};
use crate::{
    Advice, Event, FolioEvent, FolioMode, FolioPolicy, Mm, PinFlags, Prot,
    testing::{M, P, RW, World, pages},
    vma::Backing,
};
use anonmem_frame::FolioRef;
use anonmem_hal::{Order, Pfn, Va};

/// The first page of each mapping here.
const FIRST: u64 = 1024;
const RUNS: [u8; 4] = [1, 2, 4, 9];

/// A program whose first 2^`order` pages are one folio, which says what [`byte`] does: behind entries.
fn run(w: &World, order: u8) -> Mm<'_, M> {
    w.vm.set_folio_policy(FolioPolicy::default().with(Order::new(order), FolioMode::Always));
    let mm = w.vm.new_mm().unwrap();
    mm.map_raw(pages(FIRST, 1024), RW, Backing::Anonymous);
    // A table is there: no leaf.
    w.vm.set_folio_policy(FolioPolicy::default());
    mm.store((FIRST + 511) * P, 1).unwrap();
    mm.madvise(Va((FIRST + 511) * P), P, Advice::DontNeed).unwrap();
    w.vm.set_folio_policy(FolioPolicy::default().with(Order::new(order), FolioMode::Always));
    fill(&mm, 1 << order);
    assert_eq!(folio_of(w, &mm).folio().order().get(), order);
    mm
}

/// The same behind one leaf.
fn leaf(w: &World) -> Mm<'_, M> {
    let mm = w.vm.new_mm().unwrap();
    mm.map_raw(pages(FIRST, 1024), RW, Backing::Anonymous);
    assert!(mm.fault_leaf(Va(FIRST * P)));
    fill(&mm, 512);
    assert_eq!(leaves(w, &mm), 1);
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

fn frame(mm: &Mm<'_, M>, nth: u64) -> Pfn {
    mm.pagemap(Va((FIRST + nth) * P)).pfn.expect("present")
}

fn folio_of<'a>(w: &'a World, mm: &Mm<'_, M>) -> FolioRef<'a, M> {
    w.vm.frames.try_get(frame(mm, 0)).unwrap()
}

fn leaves(w: &World, mm: &Mm<'_, M>) -> u64 {
    folio_of(w, mm).folio().whole_mappings()
}

fn moves(w: &World, mm: &Mm<'_, M>) -> Result<Went, Stays> {
    w.vm.migrate_folio(folio_of(w, mm))
}

/// The folio went, and all of its first `n` pages are beside each other.
fn went(w: &World, mm: &Mm<'_, M>, n: u64) {
    let before = frame(mm, 0);
    let Ok(Went::To(to)) = moves(w, mm) else { panic!("it stays") };
    assert_ne!(before, to);
    assert!((0..n).all(|nth| frame(mm, nth) == to.offset(nth)), "not where the folio went");
    assert!(w.vm.frames.try_get(before).is_none(), "the old frames are free");
    w.vm.validate().unwrap();
}

#[test]
fn a_run_goes_whole_and_stays_writable() {
    for order in RUNS {
        World::run(|w| {
            let (mm, n) = (run(w, order), 1 << order);
            went(w, &mm, n);
            assert!((0..n).all(|nth| mm.pagemap(Va((FIRST + nth) * P)).exclusive));
            let faults = w.vm.stats().event(Event::Fault);
            assert!(all_right(&mm, n));
            fill(&mm, n);
            assert_eq!(w.vm.stats().event(Event::Fault), faults, "the entries are writable");
            assert_eq!(w.vm.stats().event(Event::MigrateSuccess), n);
            assert_eq!(w.vm.folio_event(Order::new(order), FolioEvent::Migrated), 1);
        });
    }
}

#[test]
fn a_run_that_a_child_has_and_of_which_pages_are_gone_goes_with_what_is_left() {
    for order in [2, 4, 9] {
        World::run(|w| {
            let (mm, n) = (run(w, order), 1u64 << order);
            let child = mm.fork().unwrap();
            child.munmap(pages(FIRST + 1, 2)).unwrap();
            let before = frame(&mm, 0);
            let Ok(Went::To(to)) = moves(w, &mm) else { panic!("it stays") };
            assert_ne!(before, to);
            assert_eq!((frame(&mm, 0), frame(&child, 0), frame(&child, n - 1)), (to, to, to.offset(n - 1)));
            assert!(all_right(&mm, n), "the parent's bytes");
            assert_eq!(child.load((FIRST + n - 1) * P), Ok(byte(n - 1)));
            assert!(child.load((FIRST + 1) * P).is_err());
            w.vm.validate().unwrap();
        });
    }
}

#[test]
fn a_leaf_goes_as_a_leaf_and_stays_writable() {
    World::run(|w| {
        let mm = leaf(w);
        went(w, &mm, 512);
        assert_eq!(leaves(w, &mm), 1);
        let faults = w.vm.stats().event(Event::Fault);
        assert!(all_right(&mm, 512));
        fill(&mm, 512);
        assert_eq!(w.vm.stats().event(Event::Fault), faults, "the leaf is writable");
    });
}

#[test]
fn a_leaf_of_one_is_a_table_of_another() {
    World::run(|w| {
        let mm = leaf(w);
        let (child, third) = (mm.fork().unwrap(), mm.fork().unwrap());
        child.mprotect(pages(FIRST, 8), Prot::READ).unwrap();
        third.madvise(Va((FIRST + 5) * P), P, Advice::DontNeed).unwrap();
        went(w, &mm, 512);
        assert_eq!(leaves(w, &mm), 1);
        assert_eq!((frame(&child, 0), frame(&third, 511)), (frame(&mm, 0), frame(&mm, 511)));
        assert!(all_right(&mm, 512) && all_right(&child, 512) && all_right(&third, 5));
        assert!(child.store(FIRST * P, 1).is_err());
        drop((child, third));
        fill(&mm, 512);
        assert!(all_right(&mm, 512));
        w.vm.validate().unwrap();
    });
}

#[test]
fn what_is_pinned_or_used_stays_as_it_was() {
    World::run(|w| {
        for mm in [run(w, 4), leaf(w)] {
            let before = (frame(&mm, 0), leaves(w, &mm));
            let pin = mm.pin(pages(FIRST + 3, 1), PinFlags::WRITE).unwrap();
            assert_eq!(moves(w, &mm), Err(Stays::Pinned));
            drop(pin);
            let user = folio_of(w, &mm);
            assert_eq!(moves(w, &mm), Err(Stays::Referenced));
            drop(user);
            assert_eq!((frame(&mm, 0), leaves(w, &mm)), before);
            w.vm.validate().unwrap();
            went(w, &mm, 16);
        }
    });
}

#[test]
fn what_is_used_by_the_time_of_the_flush_gets_its_entries_back() {
    World::run(|w| {
        for mm in [run(w, 4), leaf(w)] {
            let child = mm.fork().unwrap();
            let (before, order) = (frame(&mm, 0), folio_of(w, &mm).folio().order());
            let mut batch = MigrationBatch::new(&w.vm);
            assert!(batch.add(folio_of(w, &mm), w.vm.frames.alloc(order).unwrap()).is_ok());
            let user = w.vm.frames.try_get(before).unwrap();
            batch
                .finish(|landed, pages| assert_eq!((landed, pages), (Err(Stays::Referenced), order.pages())));
            drop(user);
            assert_eq!((frame(&mm, 0), frame(&child, 0)), (before, before));
            assert!(all_right(&mm, 16) && all_right(&child, 16));
            w.vm.validate().unwrap();
        }
    });
}

#[test]
fn a_leaf_that_goes_is_met_by_fork_mprotect_and_munmap() {
    World::run(|w| {
        for unmap in [false, true] {
            let mm = leaf(w);
            let mut batch = MigrationBatch::new(&w.vm);
            assert!(batch.add(folio_of(w, &mm), w.vm.frames.alloc(Order::new(9)).unwrap()).is_ok());
            let mut child = None;
            std::thread::scope(|s| {
                s.spawn(|| {
                    w.vm.machine().cpus().run_on(anonmem_hal::CpuId(1), || {
                        child = Some(mm.fork().unwrap());
                        if unmap {
                            mm.munmap(pages(FIRST + 1, 2)).unwrap();
                        }
                        mm.mprotect(pages(FIRST + 8, 8), Prot::READ).unwrap();
                    });
                });
            });
            batch.finish(|landed, _pages| assert!(matches!(landed, Ok(Went::To(_)))));
            let child = child.unwrap();
            assert_eq!((frame(&mm, 0), frame(&mm, 511)), (frame(&child, 0), frame(&child, 511)));
            assert!(all_right(&child, 512), "the child's bytes");
            assert_eq!(mm.load((FIRST + 1) * P).is_err(), unmap);
            assert!(mm.store((FIRST + 8) * P, 1).is_err() && mm.store((FIRST + 20) * P, 1).is_ok());
            w.vm.validate().unwrap();
        }
    });
}

#[test]
fn a_folio_of_slots_is_found_in_its_new_frames() {
    World::run(|w| {
        w.vm.swap_on(0, 4096, 0).unwrap();
        let mm = run(w, 4);
        let child = mm.fork().unwrap();
        assert!(w.vm.reclaim_folio(folio_of(w, &mm)));
        assert_eq!(mm.load(FIRST * P), Ok(byte(0)));
        // The child's entries need the slots: the pages are cached, and mapped by the parent.
        if folio_of(w, &mm).folio().is_large() {
            let before = frame(&mm, 0);
            let Ok(Went::To(to)) = moves(w, &mm) else { panic!("it stays") };
            assert_ne!(before, to);
            w.vm.validate().unwrap();
            let read = w.vm.stats().event(Event::SwapIn);
            assert!(all_right(&child, 16));
            assert_eq!(frame(&child, 0), to);
            assert_eq!(w.vm.stats().event(Event::SwapIn), read, "it was in the cache");
        }
        assert!(all_right(&mm, 16));
        w.vm.validate().unwrap();
        drop((mm, child));
        w.vm.swap_off(0).unwrap();
    });
}

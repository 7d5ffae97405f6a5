//! What moves, what stays and why, and what entries say afterwards.

use super::{MigrationBatch, Stays, Went};
use crate::{
    Advice, Event, Mm, PinFlags, Prot,
    testing::{M, P, RW, World, pages},
    vma::Backing,
};
use anonmem_frame::{FolioOwner, FolioRef};
use anonmem_hal::{CpuId, Order, Pfn, Va};

const AT: u64 = 16 * P;

/// A program with one page that says `byte`.
fn program(w: &World, byte: u8) -> Mm<'_, M> {
    let mm = w.vm.new_mm().unwrap();
    mm.map_raw(pages(16, 2), RW, Backing::Anonymous);
    mm.store(AT, byte).unwrap();
    mm
}

fn frame_of(mm: &Mm<'_, M>) -> Pfn {
    mm.pagemap(Va(AT)).pfn.expect("present")
}

fn page_of<'a>(w: &'a World, mm: &Mm<'_, M>) -> FolioRef<'a, M> {
    w.vm.frames.try_get(frame_of(mm)).unwrap()
}

fn moves(w: &World, mm: &Mm<'_, M>) -> Result<Went, Stays> {
    w.vm.migrate_folio(page_of(w, mm))
}

#[test]
fn a_page_goes_to_another_frame_with_all_its_entries() {
    World::run(|w| {
        let parent = program(w, 7);
        let child = parent.fork().unwrap();
        let before = frame_of(&parent);
        let Ok(Went::To(frame)) = moves(w, &parent) else { panic!("it stays") };
        assert_ne!(frame, before);
        assert_eq!((frame_of(&parent), frame_of(&child)), (frame, frame));
        assert!(w.vm.frames.try_get(before).is_none(), "the old frame is free");
        assert_eq!((parent.load(AT), child.load(AT)), (Ok(7), Ok(7)));
        assert!(!parent.pagemap(Va(AT)).exclusive);
        parent.store(AT, 8).unwrap();
        assert_eq!((parent.load(AT), child.load(AT)), (Ok(8), Ok(7)));
        assert_eq!((parent.counters().rss().0, child.counters().rss().0), (1, 1));
        w.vm.validate().unwrap();
    });
}

#[test]
fn an_exclusive_page_stays_exclusive_and_writable() {
    World::run(|w| {
        let mm = program(w, 7);
        assert!(matches!(moves(w, &mm), Ok(Went::To(_))));
        assert!(mm.pagemap(Va(AT)).exclusive);
        let faults = w.vm.stats().event(Event::Fault);
        mm.user().store(Va(AT), &[8]).unwrap();
        assert_eq!(w.vm.stats().event(Event::Fault), faults, "the entry is writable");
        assert_eq!(mm.load(AT), Ok(8));
        w.vm.validate().unwrap();
    });
}

#[test]
fn what_the_folio_says_goes_with_it() {
    World::run(|w| {
        let mm = program(w, 7);
        mm.madvise(Va(AT), P, Advice::Free).unwrap();
        page_of(w, &mm).set_idle(2);
        page_of(w, &mm).set_referenced();
        assert!(matches!(moves(w, &mm), Ok(Went::To(_))));
        let page = page_of(w, &mm);
        assert!(page.is_lazyfree() && page.folio().idle() == 2 && page.test_and_clear_referenced());
        mm.mprotect(pages(16, 2), Prot::READ).unwrap();
        drop(page);
        assert!(matches!(moves(w, &mm), Ok(Went::To(_))));
        assert!(mm.store(AT, 9).is_err(), "a VMA that may not be written gets no writable entry");
        w.vm.validate().unwrap();
    });
}

#[test]
fn a_page_stays_that_is_pinned_used_locked_or_nobodys() {
    World::run(|w| {
        let mm = program(w, 7);
        let (frame, page) = (frame_of(&mm), page_of(w, &mm));
        let again = || w.vm.frames.try_get(frame).unwrap();
        let pin = mm.pin(pages(16, 1), PinFlags::WRITE).unwrap();
        assert_eq!(w.vm.migrate_folio(again()), Err(Stays::Pinned));
        drop(pin);
        assert_eq!(w.vm.migrate_folio(again()), Err(Stays::Referenced));
        let lock = page.lock();
        assert_eq!(w.vm.migrate_folio(again()), Err(Stays::Locked));
        drop((lock, page));
        let nobodys = w.vm.frames.alloc(Order::ZERO).unwrap().into_reference();
        assert_eq!(w.vm.migrate_folio(nobodys), Err(Stays::NotAnonymous));
        let large = w.vm.frames.alloc(Order::new(1)).unwrap().into_reference();
        assert_eq!(w.vm.migrate_folio(large), Err(Stays::NotAnonymous));
        let events = |e| w.vm.stats().event(e);
        assert_eq!(
            (events(Event::MigrateFail), events(Event::MigratePinned), events(Event::MigrateBusy)),
            (6, 1, 2)
        );
        assert_eq!((frame_of(&mm), mm.load(AT)), (frame, Ok(7)));
        w.vm.validate().unwrap();
    });
}

#[test]
fn a_page_that_is_used_by_the_time_of_the_flush_gets_its_entries_back() {
    World::run(|w| {
        let (parent, own) = (program(w, 7), program(w, 8));
        let child = parent.fork().unwrap();
        let frames = [frame_of(&parent), frame_of(&own)];
        let mut batch = MigrationBatch::new(&w.vm);
        for page in [page_of(w, &parent), page_of(w, &own)] {
            assert!(batch.add(page, w.vm.try_alloc_page().unwrap()).is_ok());
        }
        let users = frames.map(|frame| w.vm.frames.try_get(frame).unwrap());
        batch.finish(|landed, _pages| assert_eq!(landed, Err(Stays::Referenced)));
        drop(users);
        assert_eq!([frame_of(&parent), frame_of(&own)], frames);
        assert_eq!((frame_of(&child), own.pagemap(Va(AT)).exclusive), (frames[0], true));
        assert_eq!((parent.load(AT), child.load(AT), own.load(AT)), (Ok(7), Ok(7), Ok(8)));
        w.vm.validate().unwrap();
    });
}

#[test]
fn a_page_that_everybody_drops_meanwhile_goes_nowhere() {
    World::run(|w| {
        let mm = program(w, 7);
        let page = page_of(w, &mm);
        let mut batch = MigrationBatch::new(&w.vm);
        assert!(batch.add(page, w.vm.try_alloc_page().unwrap()).is_ok());
        std::thread::scope(|s| {
            s.spawn(|| w.vm.machine().cpus().run_on(CpuId(1), || mm.munmap(pages(16, 2)).unwrap()));
        });
        batch.finish(|landed, _pages| assert_eq!(landed, Ok(Went::Away)));
        drop(mm);
        assert_eq!(w.vm.stats().user, 0);
        w.vm.validate().unwrap();
    });
}

#[test]
fn a_page_of_a_slot_is_found_in_its_new_frame() {
    World::run(|w| {
        w.vm.swap_on(0, 64, 0).unwrap();
        let parent = program(w, 7);
        let child = parent.fork().unwrap();
        assert!(w.vm.reclaim_folio(page_of(w, &parent)));
        assert_eq!(parent.load(AT), Ok(7));
        // The child's entry needs the slot: the page is cached, and mapped by the parent.
        let Ok(Went::To(frame)) = moves(w, &parent) else { panic!("it stays") };
        w.vm.validate().unwrap();
        let read = w.vm.stats().event(Event::SwapIn);
        assert_eq!((child.load(AT), frame_of(&child)), (Ok(7), frame));
        assert_eq!(w.vm.stats().event(Event::SwapIn), read, "it was in the cache");
        w.vm.validate().unwrap();
        drop((parent, child));
        w.vm.swap_off(0).unwrap();
    });
}

#[test]
fn without_a_frame_to_go_to_the_page_stays() {
    World::run(|w| {
        let mm = program(w, 7);
        let mut taken = std::vec::Vec::new();
        while let Ok(page) = w.vm.frames.alloc(Order::ZERO) {
            taken.push(page);
        }
        assert_eq!(moves(w, &mm), Err(Stays::NoMemory));
        drop(taken);
        assert_eq!(mm.load(AT), Ok(7));
    });
}

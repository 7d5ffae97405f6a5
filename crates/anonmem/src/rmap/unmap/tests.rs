//! What unmapping leaves behind, and when CPUs have forgotten it.

use super::{UnmapTo, Unmapped, try_to_unmap};
use crate::{
    Advice, Event, Mm, Prot, ProtectMode, RegisterMode, UffdFaults, UffdFeatures,
    reclaim::shrink::{Age, PageoutBatch, Shrunk},
    rmap::referenced::folio_referenced,
    testing::{M, P, RW, World, pages},
    vma::Backing,
};
use anonmem_frame::{FolioOwner, FolioRef};
use anonmem_hal::{Pte, Va};
use anonmem_pgtable::TlbBatch;

const AT: u64 = 16 * P;

/// A program with one page that says `byte`.
fn program(w: &World, byte: u8) -> Mm<'_, M> {
    let mm = w.vm.new_mm().unwrap();
    mm.map_raw(pages(16, 1), RW, Backing::Anonymous);
    mm.store(AT, byte).unwrap();
    mm
}

fn page_of<'a>(w: &'a World, mm: &Mm<'_, M>) -> FolioRef<'a, M> {
    w.vm.frames.try_get(mm.pagemap(Va(AT)).pfn.expect("present")).unwrap()
}

fn free_lazily(mm: &Mm<'_, M>) {
    mm.madvise(Va(AT), P, Advice::Free).unwrap();
}

fn with_swap(f: impl FnOnce(&World)) {
    World::run(|w| {
        w.vm.swap_on(0, 64, 0).unwrap();
        f(w);
        w.vm.swap_off(0).unwrap();
    });
}

#[test]
fn a_locked_page_stays_and_says_that_it_is_locked() {
    with_swap(|w| {
        let mm = program(w, 7);
        let locked = || folio_referenced(&w.vm, page_of(w, &mm).folio()).locked;
        assert!(!locked());
        mm.mlock(Va(AT), P).unwrap();
        assert!(locked());
        assert!(!w.vm.reclaim_folio(page_of(w, &mm)));
        assert!(mm.pagemap(Va(AT)).present());
        mm.munlock(Va(AT), P).unwrap();
        assert!(w.vm.reclaim_folio(page_of(w, &mm)));
    });
}

#[test]
fn a_page_that_is_dropped_is_forgotten_at_once() {
    World::run(|w| {
        let mm = program(w, 7);
        let (user, mut byte) = (mm.user(), [0]);
        free_lazily(&mm);
        user.load(Va(AT), &mut byte).unwrap();
        assert_eq!(byte, [7]);
        let mut batch = PageoutBatch::new(&w.vm);
        assert_eq!(batch.add(page_of(w, &mm), Age::Any), Shrunk::Freed);
        // Its frame is free already; the batch is not finished.
        user.load(Va(AT), &mut byte).unwrap();
        assert_eq!(byte, [0]);
        batch.finish();
    });
}

#[test]
fn a_page_that_stays_is_forgotten_where_it_was_unmapped() {
    with_swap(|w| {
        let parent = program(w, 7);
        let child = parent.fork().unwrap();
        // So that locking does not copy it.
        child.mprotect(pages(16, 1), Prot::READ).unwrap();
        child.mlock(Va(AT), P).unwrap();
        let (user, mut byte) = (parent.user(), [0]);
        user.load(Va(AT), &mut byte).unwrap();
        let mut batch = PageoutBatch::new(&w.vm);
        assert_eq!(batch.add(page_of(w, &child), Age::Any), Shrunk::Kept);
        assert!(parent.pagemap(Va(AT)).swapped, "the parent's entry came first");
        // Somebody else finishes what this batch could not; only the child's entry is left to be cleared.
        child.munlock(Va(AT), P).unwrap();
        let page = page_of(w, &child);
        let mut other = PageoutBatch::new(&w.vm);
        assert_eq!(other.add(page, Age::Any), Shrunk::Leaving);
        assert_eq!(other.finish(), 1);
        user.load(Va(AT), &mut byte).unwrap();
        assert_eq!(byte, [7]);
        batch.finish();
        assert_eq!(child.load(AT), Ok(7));
    });
}

#[test]
fn a_page_that_was_pinned_meanwhile_gets_its_entry_back() {
    with_swap(|w| {
        let mm = program(w, 7);
        let entry = |w: &World| {
            let guard = mm.read();
            let table = mm.slot().space.walk(&w.vm.frames, &guard, Va(AT)).unwrap().table().unwrap();
            table.peek(Va(AT))
        };
        let pin = mm.pin_page(Va(AT));
        let (page, before) = (page_of(w, &mm), entry(w));
        assert!(matches!(before, Pte::Present(_)));
        let lock = page.lock();
        let swap = w.vm.swap_claim(page.clone()).unwrap();
        lock.set_swap_entry(swap.entry());
        let mut tlb = TlbBatch::new(&w.vm.frames);
        assert_eq!(try_to_unmap(&w.vm, &lock, &UnmapTo::Swap(&swap), &mut tlb), Unmapped::Kept);
        assert!(tlb.is_empty(), "it is flushed");
        drop((swap, lock, page));
        assert_eq!(entry(w), before);
        drop(pin);
        assert!(mm.pagemap(Va(AT)).exclusive);
        w.vm.validate().unwrap();
    });
}

#[test]
fn zeroes_that_nobody_touched_go_only_from_the_one_who_has_them_alone() {
    World::run(|w| {
        let parent = program(w, 0);
        let child = parent.fork().unwrap();
        let unmap = || {
            let page = page_of(w, &parent);
            let (lock, mut tlb) = (page.lock(), TlbBatch::new(&w.vm.frames));
            try_to_unmap(&w.vm, &lock, &UnmapTo::Untouched, &mut tlb)
        };
        assert_eq!(unmap(), Unmapped::Kept);
        assert!(parent.pagemap(Va(AT)).present() && child.pagemap(Va(AT)).present());
        drop(child);
        parent.store(AT, 0).unwrap();
        assert_eq!(unmap(), Unmapped::All);
        assert!(!parent.pagemap(Va(AT)).present());
        assert_eq!((parent.counters().anon.0, parent.load(AT)), (0, Ok(0)));
        w.vm.validate().unwrap();
    });
}

#[test]
fn a_page_that_was_written_after_all_is_no_longer_freed_lazily() {
    World::run(|w| {
        let mm = program(w, 7);
        free_lazily(&mm);
        assert!(page_of(w, &mm).folio().is_lazyfree());
        mm.store(AT, 8).unwrap();
        assert!(!w.vm.reclaim_folio(page_of(w, &mm)), "there is no swap");
        assert!(!page_of(w, &mm).folio().is_lazyfree());
        assert_eq!(mm.load(AT), Ok(8));
    });
}

#[test]
fn what_is_dropped_stays_protected_where_it_was() {
    World::run(|w| {
        let mm = w.vm.new_mm().unwrap();
        mm.map_raw(pages(16, 2), RW, Backing::Anonymous);
        (0..2).for_each(|page| mm.store(AT + page * P, 7).unwrap());
        let uffd = mm.userfaultfd(UffdFaults::Any).unwrap();
        uffd.agree(UffdFeatures::WP_ASYNC).unwrap();
        uffd.register(Va(AT), 2 * P, RegisterMode::WP).unwrap();
        mm.madvise(Va(AT), 2 * P, Advice::Free).unwrap();
        uffd.write_protect(Va(AT), P, ProtectMode::WP).unwrap();
        for page in 0..2 {
            let frame = mm.pagemap(Va(AT + page * P)).pfn.expect("present");
            assert!(w.vm.reclaim_folio(w.vm.frames.try_get(frame).unwrap()));
            let entry = mm.pagemap(Va(AT + page * P));
            assert_eq!((entry.present(), entry.uffd_wp), (false, page == 0), "page {page}");
        }
        assert_eq!(mm.counters().anon.0, 0);
        w.vm.validate().unwrap();
        assert_eq!((mm.load(AT), mm.load(AT + P)), (Ok(0), Ok(0)));
    });
}

#[test]
fn a_page_on_its_way_to_swap_is_forgotten_with_the_others() {
    with_swap(|w| {
        let mm = program(w, 7);
        let (user, mut byte) = (mm.user(), [0]);
        user.load(Va(AT), &mut byte).unwrap();
        let faults = w.vm.stats().event(Event::Fault);
        let mut batch = PageoutBatch::new(&w.vm);
        assert_eq!(batch.add(page_of(w, &mm), Age::Any), Shrunk::Leaving);
        user.load(Va(AT), &mut byte).unwrap();
        assert_eq!(
            (byte, w.vm.stats().event(Event::Fault)),
            ([7], faults),
            "one flush for all of them, later"
        );
        assert_eq!(batch.finish(), 1);
        user.load(Va(AT), &mut byte).unwrap();
        assert_eq!((byte, w.vm.stats().event(Event::Fault)), ([7], faults + 1));
    });
}

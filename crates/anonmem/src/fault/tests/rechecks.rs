//! What a fault asks again, because others may have been faster: they are, at the moment that a test says.

use crate::ids::VmaId;
use crate::{
    Event, ProtectMode, RegisterMode, UffdFaults, UffdFeatures,
    fault::{
        FaultAccess::{self, Write},
        FaultGuard, FaultResult, VmFault,
        anon::fill_run,
        handle_mm_fault,
        vm_fault::Waits,
    },
    mm::{
        Mm,
        mmap_lock::{MmapHeld, MmapReadGuard},
    },
    testing::{M, P, RW, World, pages},
    vma::{Backing, Refusal, VmFlags},
};
use anonmem_hal::{Pfn, Pte, Va};
use anonmem_hosted::FailurePlan;
use anonmem_pgtable::{AddressSpace as PageTables, CanInstall, StableVma};
use std::{boxed::Box, cell::Cell, vec};

const FIRST: u64 = 16;

/// The mmap lock, whose holder is interrupted when it may first sleep, or is to add a table.
pub(super) struct Interrupted<'a> {
    pub(super) mmap: &'a MmapReadGuard<'a, M>,
    pub(super) others: Cell<Option<Box<dyn FnOnce() + 'a>>>,
    /// Whether something else than what was read of the VMA holds by now.
    pub(super) changed: Option<&'a Cell<bool>>,
}

// SAFETY: what it stands for is held, or nobody else is there.
#[allow(unsafe_code)]
unsafe impl StableVma<M> for Interrupted<'_> {
    fn opens(&self, _: &PageTables<M>) -> bool {
        true
    }
}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl CanInstall<M> for Interrupted<'_> {}

impl FaultGuard<M> for Interrupted<'_> {
    fn mmap(&self) -> Option<MmapHeld<'_, M>> {
        Some(MmapHeld::Read(self.mmap))
    }

    fn adds_tables(&self) -> Result<(), Refusal> {
        self.sleeps(Refusal::NoTable)
    }

    fn sleeps(&self, _: Refusal) -> Result<(), Refusal> {
        if let Some(others) = self.others.take() {
            others();
        }
        Ok(())
    }

    fn still_holds(&self) -> Result<(), Refusal> {
        if self.changed.is_some_and(Cell::get) { Err(Refusal::Changed) } else { Ok(()) }
    }
}

pub(super) fn fault<G: FaultGuard<M>>(
    mm: &Mm<'_, M>,
    guard: &G,
    id: VmaId,
    page: u64,
    access: FaultAccess,
) -> FaultResult {
    handle_mm_fault(&VmFault::new(mm.vm, mm.slot(), guard, id, Va(page * P), access, Waits::Never))
}

pub(super) fn entry(mm: &Mm<'_, M>, guard: &MmapReadGuard<'_, M>, page: u64) -> Pte {
    let table = mm.slot().space.walk(&mm.vm.frames, guard, Va(page * P));
    table.map_or(Pte::None, |table| table.peek(Va(page * P)))
}

fn frame(mm: &Mm<'_, M>, guard: &MmapReadGuard<'_, M>, page: u64) -> Pfn {
    match entry(mm, guard, page) {
        Pte::Present(present) => present.pfn,
        other => panic!("{other:?} at page {page}"),
    }
}

/// Lets `others` be faster than a fault.
pub(super) fn beaten<'a>(mmap: &'a MmapReadGuard<'a, M>, others: impl FnOnce() + 'a) -> Interrupted<'a> {
    Interrupted { mmap, others: Cell::new(Some(Box::new(others))), changed: None }
}

/// Two faults of one page of `backing`; the second one finds the page of the first.
fn one_page_for_both(w: &World, flags: VmFlags, backing: Backing) {
    let mm = w.vm.new_mm().unwrap();
    let id = mm.map_raw(pages(FIRST, 2), flags, backing);
    mm.store((FIRST + 1) * P, 1).unwrap();
    let mmap = mm.read();
    let theirs = Cell::new(None);
    let guard = beaten(&mmap, || {
        assert_eq!(fault(&mm, &mmap, id, FIRST, Write), FaultResult::Done);
        theirs.set(Some(frame(&mm, &mmap, FIRST)));
    });
    assert_eq!(fault(&mm, &guard, id, FIRST, Write), FaultResult::Done);
    assert_eq!(Some(frame(&mm, &mmap, FIRST)), theirs.get());
    drop(guard);
    drop(mmap);
    assert_eq!(mm.counters().rss().0, 2);
    w.vm.validate().unwrap();
}

#[test]
fn two_faults_of_a_page_make_one_page() {
    World::run(|w| one_page_for_both(w, RW, Backing::Anonymous));
}

#[test]
fn two_faults_of_a_page_with_a_source_make_one_page() {
    World::run(|w| {
        let source = w.sources.register(vec![5; 2 * P as usize]);
        one_page_for_both(w, RW, Backing::Source(source));
    });
}

#[test]
fn two_faults_of_a_page_of_an_object_make_one_mapping() {
    World::run(|w| {
        let object = w.vm.shm_new(2).unwrap();
        let flags = RW.union(VmFlags::SHARED).difference(VmFlags::ACCOUNT);
        one_page_for_both(w, flags, Backing::Shared(object.id()));
        drop(object);
    });
}

#[test]
fn two_faults_of_a_protected_page_of_an_object_make_one_mapping() {
    World::run(|w| {
        let object = w.vm.shm_new(1).unwrap();
        let flags = RW.union(VmFlags::SHARED).difference(VmFlags::ACCOUNT);
        let (mm, writer) = (w.vm.new_mm().unwrap(), w.vm.new_mm().unwrap());
        let id = mm.map_raw(pages(FIRST, 1), flags, Backing::Shared(object.id()));
        writer.map_raw(pages(FIRST, 1), flags, Backing::Shared(object.id()));
        writer.store(FIRST * P, 7).unwrap();
        let uffd = mm.userfaultfd(UffdFaults::Any).unwrap();
        uffd.agree(UffdFeatures::WP_UNPOPULATED).unwrap();
        uffd.register(Va(FIRST * P), P, RegisterMode::WP).unwrap();
        uffd.write_protect(Va(FIRST * P), P, ProtectMode::WP).unwrap();
        let read = FaultAccess::Read;
        let mmap = mm.read();
        let guard = beaten(&mmap, || assert_eq!(fault(&mm, &mmap, id, FIRST, read), FaultResult::Done));
        assert_eq!(fault(&mm, &guard, id, FIRST, read), FaultResult::Done);
        drop(guard);
        drop(mmap);
        assert!(mm.pagemap(Va(FIRST * P)).uffd_wp);
        assert_eq!((mm.load(FIRST * P), mm.counters().rss().0), (Ok(7), 1));
        w.vm.validate().unwrap();
        drop((uffd, object));
    });
}

#[test]
fn two_faults_of_a_page_in_swap_bring_back_one_page() {
    World::run(|w| {
        w.vm.swap_on(0, 64, 0).unwrap();
        let mm = w.vm.new_mm().unwrap();
        let id = mm.map_raw(pages(FIRST, 1), RW, Backing::Anonymous);
        mm.store(FIRST * P, 7).unwrap();
        let page = w.vm.frames.try_get(mm.pagemap(Va(FIRST * P)).pfn.unwrap()).unwrap();
        assert!(w.vm.reclaim_folio(page));
        let mmap = mm.read();
        let guard = beaten(&mmap, || assert_eq!(fault(&mm, &mmap, id, FIRST, Write), FaultResult::Done));
        assert_eq!(fault(&mm, &guard, id, FIRST, Write), FaultResult::Done);
        drop(guard);
        drop(mmap);
        assert_eq!((mm.load(FIRST * P), mm.counters().rss().0, mm.counters().swap.0), (Ok(7), 1, 0));
        w.vm.validate().unwrap();
        drop(mm);
        w.vm.swap_off(0).unwrap();
    });
}

#[test]
fn a_page_that_left_for_another_slot_meanwhile_is_not_replaced_by_the_old_one() {
    World::run(|w| {
        w.vm.swap_on(0, 64, 0).unwrap();
        let mm = w.vm.new_mm().unwrap();
        let id = mm.map_raw(pages(FIRST, 1), RW, Backing::Anonymous);
        mm.store(FIRST * P, 7).unwrap();
        // One brings the page into the swap cache, the other's entry keeps it there.
        let (child, other) = (mm.fork().unwrap(), mm.fork().unwrap());
        let leave = |pfn| assert!(w.vm.reclaim_folio(w.vm.frames.try_get(pfn).unwrap()));
        leave(mm.pagemap(Va(FIRST * P)).pfn.unwrap());
        assert_eq!(child.load(FIRST * P), Ok(7));
        let mmap = mm.read();
        let guard = beaten(&mmap, || {
            assert_eq!(fault(&mm, &mmap, id, FIRST, Write), FaultResult::Done);
            mm.store(FIRST * P, 9).unwrap();
            leave(frame(&mm, &mmap, FIRST));
        });
        assert_eq!(fault(&mm, &guard, id, FIRST, FaultAccess::Read), FaultResult::Done);
        drop(guard);
        drop(mmap);
        assert_eq!([&mm, &child, &other].map(|mm| mm.load(FIRST * P)), [Ok(9), Ok(7), Ok(7)]);
        w.vm.validate().unwrap();
        drop((mm, child, other));
        w.vm.swap_off(0).unwrap();
    });
}

#[test]
#[should_panic(expected = "an entry outside of the VMA")]
fn a_fault_at_another_mappings_address_is_noticed() {
    World::run(|w| {
        let mm = w.vm.new_mm().unwrap();
        let id = mm.map_raw(pages(FIRST, 1), RW, Backing::Anonymous);
        mm.map_raw(pages(FIRST + 1, 1), RW, Backing::Anonymous);
        mm.store((FIRST + 1) * P, 1).unwrap();
        fault(&mm, &mm.read(), id, FIRST + 1, Write);
    });
}

#[test]
fn a_copy_is_not_installed_in_a_vma_that_was_changed() {
    World::run(|w| {
        let mm = w.vm.new_mm().unwrap();
        let id = mm.map_raw(pages(FIRST, 1), RW, Backing::Anonymous);
        mm.store(FIRST * P, 7).unwrap();
        let child = mm.fork().unwrap();
        let mmap = mm.read();
        let before = entry(&mm, &mmap, FIRST);
        let changed = Cell::new(false);
        let guard = Interrupted { changed: Some(&changed), ..beaten(&mmap, || changed.set(true)) };
        assert_eq!(fault(&mm, &guard, id, FIRST, Write), FaultResult::Refused(Refusal::Changed));
        assert_eq!(entry(&mm, &mmap, FIRST), before);
        drop(guard);
        drop(mmap);
        drop(child);
    });
}

/// Fills from page `at` of a mapping of `len` pages, with this fault's guard.
fn run<G: FaultGuard<M>>(
    mm: &Mm<'_, M>,
    guard: &G,
    id: VmaId,
    at: u64,
    end: u64,
) -> Result<u64, FaultResult> {
    fill_run(
        &VmFault::new(mm.vm, mm.slot(), guard, id, Va((FIRST + at) * P), Write, Waits::Never),
        Va((FIRST + end) * P),
    )
}

#[test]
fn a_run_fills_what_is_empty_before_its_end() {
    World::run(|w| {
        let mm = w.vm.new_mm().unwrap();
        let id = mm.map_raw(pages(FIRST, 40), RW, Backing::Anonymous);
        mm.store((FIRST + 20) * P, 1).unwrap();
        let mmap = mm.read();
        let before = w.vm.stats().event(Event::FaultAnon);
        assert_eq!(run(&mm, &mmap, id, 0, 40), Ok(16), "no more at once");
        assert_eq!(run(&mm, &mmap, id, 16, 40), Ok(4), "up to a page that is there");
        assert_eq!(run(&mm, &mmap, id, 20, 40), Ok(0));
        assert_eq!(run(&mm, &mmap, id, 21, 24), Ok(3), "up to the end");
        assert_eq!(w.vm.stats().event(Event::FaultAnon) - before, 23);
        let Pte::Present(first) = entry(&mm, &mmap, FIRST) else { panic!("it was filled") };
        assert!(first.prot.write && first.young && first.dirty && !first.uffd_wp);
        assert_eq!(entry(&mm, &mmap, FIRST + 24), Pte::None);
        drop(mmap);
        assert_eq!(mm.counters().anon.0, 24);
        (0..20).for_each(|i| assert_eq!(mm.load((FIRST + i) * P), Ok(0)));
        w.vm.validate().unwrap();
    });
}

#[test]
fn a_run_stops_where_others_were_faster() {
    World::run(|w| {
        let mm = w.vm.new_mm().unwrap();
        let id = mm.map_raw(pages(FIRST, 8), RW, Backing::Anonymous);
        mm.store((FIRST + 7) * P, 1).unwrap();
        let mmap = mm.read();
        let guard = beaten(&mmap, || assert_eq!(fault(&mm, &mmap, id, FIRST + 2, Write), FaultResult::Done));
        assert_eq!(run(&mm, &guard, id, 0, 8), Ok(2));
        drop(guard);
        let guard = beaten(&mmap, || assert_eq!(fault(&mm, &mmap, id, FIRST + 3, Write), FaultResult::Done));
        assert_eq!(run(&mm, &guard, id, 3, 8), Ok(0));
        drop(guard);
        drop(mmap);
        assert_eq!(mm.counters().anon.0, 5);
        w.vm.validate().unwrap();
    });
}

#[test]
fn a_run_takes_as_many_pages_as_there_are() {
    World::run(|w| {
        let mm = w.vm.new_mm().unwrap();
        let id = mm.map_raw(pages(FIRST, 8), RW, Backing::Anonymous);
        mm.store((FIRST + 7) * P, 1).unwrap();
        let mmap = mm.read();
        let without_nth = |nth, at, end| {
            w.failures.set(FailurePlan::From(nth));
            let filled = run(&mm, &mmap, id, at, end);
            let refused = w.failures.refused() > 0;
            w.failures.set(FailurePlan::Off);
            (filled, refused)
        };
        assert_eq!(without_nth(1, 0, 7), (Err(FaultResult::Oom), true));
        assert_eq!(without_nth(2, 0, 7), (Ok(1), true), "one page is enough");
        assert_eq!(without_nth(1, 6, 7), (Err(FaultResult::Oom), true), "of one page");
        assert_eq!(without_nth(1, 7, 8), (Ok(0), false), "nothing is asked for what is there");
        assert_eq!(without_nth(3, 5, 8), (Ok(2), false));
        drop(mmap);
        w.vm.validate().unwrap();
    });
}

//! What safe code cannot break: owners and guards of one machine at another, and what a lock or a freeze
//! takes with it.

use anonmem_frame::{FolioOwner, FolioRef, Frames, RawHandle, SwapSlots};
use anonmem_hal::{CpuId, Order, Protection, Va};
use anonmem_hosted::{Checked, Hosted};
use anonmem_pgtable::{AddressSpace, Attrs, CanInstall, DeadTables, MmuGather, StableVma, Teardown};
use anonmem_sync::Rcu;

type M = Hosted<Checked>;

/// The guard of one space.
struct Only<'a>(&'a AddressSpace<M>);
// SAFETY: one thread is at work, and frees no tables.
unsafe impl StableVma<M> for Only<'_> {
    fn opens(&self, space: &AddressSpace<M>) -> bool {
        std::ptr::eq(self.0, space)
    }
}
// SAFETY: as above.
unsafe impl CanInstall<M> for Only<'_> {}

const RW: Attrs = Attrs { prot: Protection::RW, young: true, dirty: true, uffd_wp: false, soft_clean: false };

/// Runs `f` on a CPU with the frames of two machines.
fn with_two(f: impl FnOnce(&Frames<M>, &Frames<M>)) {
    let (ours, theirs) = (M::new(64), M::new(64));
    ours.cpus().clone().run_on(CpuId(0), || {
        f(&Frames::new(ours).unwrap(), &Frames::new(theirs).unwrap());
    });
}

fn reference(frames: &Frames<M>) -> FolioRef<'_, M> {
    frames.alloc(Order::ZERO).unwrap().into_reference()
}

#[test]
#[should_panic(expected = "an owner of another machine's frames")]
fn a_page_is_not_installed_in_another_machine() {
    with_two(|ours, theirs| {
        let space = AddressSpace::new();
        space.alloc_root(ours).unwrap();
        let guard = Only(&space);
        let page =
            theirs.alloc(Order::ZERO).unwrap().into_exclusive_anon(RawHandle::new(1).unwrap().into(), 0);
        space.table_alloc(ours, &guard, Va(0)).unwrap().lock().install(Va(0), page, RW);
    });
}

#[test]
#[should_panic(expected = "a page of another machine")]
fn a_page_is_not_gathered_by_another_machine() {
    with_two(|ours, theirs| {
        let (space, rcu, dead) = (AddressSpace::new(), Rcu::new(), DeadTables::new());
        let mut gather = MmuGather::new(ours, &space, &rcu, &dead, Teardown::Range);
        gather.page(Va(0), reference(theirs));
    });
}

#[test]
#[should_panic(expected = "a page of another machine")]
fn a_page_is_not_swapped_by_another_machine() {
    with_two(|ours, theirs| {
        let slots = SwapSlots::new(0);
        slots.alloc(ours, 8).unwrap();
        let _ = slots.claim(ours, 0, reference(theirs));
    });
}

#[test]
fn a_space_without_tables_is_walked_to_nothing() {
    with_two(|ours, _| {
        let space = AddressSpace::new();
        assert!(space.walk(ours, &Only(&space), Va(0)).is_none());
    });
}

#[test]
#[should_panic(expected = "a guard of another address space")]
fn a_guard_opens_its_own_space() {
    with_two(|ours, _| {
        let (space, other) = (AddressSpace::new(), AddressSpace::new());
        space.alloc_root(ours).unwrap();
        space.walk(ours, &Only(&other), Va(0));
    });
}

#[test]
#[should_panic(expected = "freeing a locked folio")]
fn a_folio_is_not_freed_under_its_lock() {
    with_two(|ours, _| {
        let page = reference(ours);
        let lock = page.lock();
        drop(page);
        drop(lock);
    });
}

#[test]
fn a_folio_is_frozen_by_its_only_owner_and_comes_back_as_it_was() {
    with_two(|ours, _| {
        let page = reference(ours);
        let (pfn, second) = (page.pfn(), page.clone());
        let lock = page.lock();
        let Err(page) = lock.freeze(page) else { panic!("somebody else has a count") };
        assert!(lock.freeze(reference(ours)).is_err(), "another folio");
        drop(second);
        let Ok(frozen) = lock.freeze(page) else { panic!("it is the only count") };
        assert!(ours.try_get(pfn).is_none(), "nobody can get it");
        let page = frozen.unfreeze();
        assert_eq!((page.folio().counts().refs(), page.folio().counts().total()), (1, 1));
        drop(lock);
        drop(page);
        assert_eq!(ours.usage().used().0, 0);
    });
}

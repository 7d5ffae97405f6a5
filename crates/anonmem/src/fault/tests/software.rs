//! Software entries under every operation: pages that are on their way to another frame, and bits of
//! userfaultfd.
//!
//! The tests put migration entries where a migration would, and take them away again.

use super::rechecks::{beaten, fault};
use crate::{
    Advice, Config, FolioMode, FolioPolicy, Mm, Prot, ProtectMode, RegisterMode, RemapFlags, UffdFaults,
    UffdFeatures,
    fault::{
        FaultAccess::{Read, Unshare, Write},
        FaultGuard, FaultResult, VmFault,
        anon::map_protected_zero_page,
        do_uffd_marker,
        vm_fault::Waits,
    },
    ids::VmaId,
    mm::mmap_lock::{MmapHeld, MmapReadGuard},
    testing::{M, P, RW, World, pages},
    vma::{Backing, Refusal},
};
use anonmem_frame::FolioOwner;
use anonmem_hal::{EntryBits, FlushRange, Marker, Order, Pte, Sharing, SoftLeaf, Va};
use anonmem_hosted::Trap;
use anonmem_pgtable::{AddressSpace as PageTables, Attrs, CanInstall, Cleared, PteGuard, StableVma};
use std::vec;

const PAGE: u64 = 16;
const AT: Va = Va(PAGE * P);

/// A program with two pages; the first says 7.
fn program(w: &World) -> (Mm<'_, M>, VmaId) {
    let mm = w.vm.new_mm().unwrap();
    let id = mm.map_raw(pages(PAGE, 2), RW, Backing::Anonymous);
    mm.store(AT.0, 7).unwrap();
    mm.store(AT.0 + P, 8).unwrap();
    (mm, id)
}

fn lock<'a>(
    mm: &'a Mm<'_, M>,
    guard: &'a MmapReadGuard<'a, M>,
    va: Va,
) -> PteGuard<'a, M, MmapReadGuard<'a, M>> {
    mm.slot().space.walk(&mm.vm.frames, guard, va).unwrap().table().unwrap().lock()
}

/// The page at `va` starts to migrate.
fn begin(mm: &Mm<'_, M>, va: Va) {
    let guard = mm.read();
    let mut entries = lock(mm, &guard, va);
    let (cleared, vacancy) = entries.take(va);
    let (page, present, sharing) = match cleared {
        Cleared::Exclusive(page, present) => (page.try_share().ok().unwrap(), present, Sharing::Exclusive),
        Cleared::Shared(page, present) => (page, present, Sharing::Shared),
        _ => panic!("no page at {va:?}"),
    };
    vacancy.fill(page.hold(), EntryBits::of_present(present, sharing).to_migration());
    mm.slot().space.flush(&mm.vm.frames, FlushRange::All);
}

/// The page at `va` arrives (where it was).
fn end(mm: &Mm<'_, M>, guard: &MmapReadGuard<'_, M>, va: Va, vma: Prot) {
    let mut entries = lock(mm, guard, va);
    let (Cleared::Migration(hold, bits), vacancy) = entries.take(va) else { panic!("nothing migrates") };
    let bits = EntryBits { sharing: Sharing::Shared, ..bits.into() };
    vacancy.fill(hold.release(), Attrs::of(bits, vma.vm_flags().protection()));
}

fn entry(mm: &Mm<'_, M>, va: Va) -> Pte {
    let guard = mm.read();
    lock(mm, &guard, va).get(va)
}

fn migrates(mm: &Mm<'_, M>, va: Va) -> bool {
    matches!(entry(mm, va), Pte::Soft(SoftLeaf::Migration { .. }))
}

#[test]
fn a_fault_waits_until_the_page_has_arrived() {
    World::run(|w| {
        for access in [Read, Write] {
            let (mm, id) = program(w);
            let page = w.vm.frames.try_get(mm.pagemap(AT).pfn.unwrap()).unwrap();
            begin(&mm, AT);
            let mmap = mm.read();
            let moving = core::cell::Cell::new(Some(page.lock()));
            let guard = beaten(&mmap, || {
                end(&mm, &mmap, AT, Prot::READ | Prot::WRITE);
                drop(moving.take());
            });
            assert_eq!(fault(&mm, &guard, id, PAGE, access), FaultResult::Done);
            drop(guard);
            drop(mmap);
            drop((moving, page));
            assert_eq!((mm.load(AT.0), mm.counters().rss().0), (Ok(7), 2));
        }
    });
}

#[test]
fn a_fault_puts_a_page_back_that_a_move_left_behind() {
    World::run(|w| {
        let (mm, _) = program(w);
        let frame = mm.pagemap(AT).pfn;
        begin(&mm, AT);
        w.vm.validate().unwrap();
        assert_eq!((mm.load(AT.0), mm.pagemap(AT).pfn, mm.pagemap(AT).exclusive), (Ok(7), frame, true));
        let child = mm.fork().unwrap();
        begin(&mm, AT);
        begin(&child, AT);
        child.store(AT.0, 9).unwrap();
        assert_eq!((mm.load(AT.0), child.load(AT.0)), (Ok(7), Ok(9)));
        assert!(!w.vm.frames.page_is_exclusive(mm.pagemap(AT).pfn.unwrap()));
        w.vm.validate().unwrap();
    });
}

/// A guard under which a fault may not sleep.
struct Hasty<'a>(&'a MmapReadGuard<'a, M>);
// SAFETY: what it stands for is held, or nobody else is there.
#[allow(unsafe_code)]
unsafe impl StableVma<M> for Hasty<'_> {
    fn opens(&self, _: &PageTables<M>) -> bool {
        true
    }
}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl CanInstall<M> for Hasty<'_> {}
impl FaultGuard<M> for Hasty<'_> {
    fn mmap(&self) -> Option<MmapHeld<'_, M>> {
        Some(MmapHeld::Read(self.0))
    }
    fn sleeps(&self, why: Refusal) -> Result<(), Refusal> {
        Err(why)
    }
}

#[test]
fn a_fault_that_may_not_sleep_does_not_wait_for_a_page_that_migrates() {
    World::run(|w| {
        let (mm, id) = program(w);
        begin(&mm, AT);
        let mmap = mm.read();
        let result = fault(&mm, &Hasty(&mmap), id, PAGE, Read);
        assert_eq!(result, FaultResult::Refused(Refusal::WouldSleep));
    });
}

#[test]
fn unmapping_drops_what_a_migration_entry_holds() {
    World::run(|w| {
        let (mm, _) = program(w);
        begin(&mm, AT);
        begin(&mm, Va(AT.0 + P));
        mm.munmap(pages(PAGE, 1)).unwrap();
        assert_eq!((mm.counters().rss().0, w.vm.stats().user), (1, 1));
        w.vm.validate().unwrap();
        mm.madvise(Va(AT.0 + P), P, Advice::DontNeed).unwrap();
        assert_eq!((mm.load(AT.0 + P), mm.counters().rss().0), (Ok(0), 0));
        // What exits while its pages migrate leaves nothing, either.
        let (other, _) = program(w);
        begin(&other, AT);
    });
}

#[test]
fn a_child_waits_for_the_same_page() {
    World::run(|w| {
        let (parent, _) = program(w);
        begin(&parent, AT);
        let child = parent.fork().unwrap();
        assert!(migrates(&parent, AT) && migrates(&child, AT));
        w.vm.validate().unwrap();
        for mm in [&parent, &child] {
            end(mm, &mm.read(), AT, Prot::READ | Prot::WRITE);
        }
        child.store(AT.0, 9).unwrap();
        assert_eq!((parent.load(AT.0), child.load(AT.0)), (Ok(7), Ok(9)), "the page had become shared");
    });
}

#[test]
fn permissions_change_while_a_page_migrates() {
    World::run(|w| {
        let (mm, _) = program(w);
        begin(&mm, AT);
        mm.mprotect(pages(PAGE, 1), Prot::READ).unwrap();
        w.vm.validate().unwrap();
        end(&mm, &mm.read(), AT, Prot::READ);
        assert_eq!((mm.load(AT.0), mm.store(AT.0, 9)), (Ok(7), Err(Trap::Denied)));
    });
}

#[test]
fn a_page_that_migrates_moves_with_its_addresses() {
    World::run(|w| {
        let (mm, _) = program(w);
        begin(&mm, AT);
        let to = mm.mremap(AT, 2 * P, 2 * P, RemapFlags::MAYMOVE | RemapFlags::DONTUNMAP, Va(0)).unwrap();
        assert!(migrates(&mm, to));
        w.vm.validate().unwrap();
        end(&mm, &mm.read(), to, Prot::READ | Prot::WRITE);
        assert_eq!(mm.load(to.0), Ok(7));
    });
}

#[test]
fn a_page_that_migrates_is_in_memory_and_no_advice_changes_it() {
    World::run(|w| {
        w.vm.swap_on(0, 64, 0).unwrap();
        let (mm, _) = program(w);
        begin(&mm, AT);
        for advice in [Advice::Free, Advice::Cold, Advice::PageOut, Advice::WillNeed] {
            mm.madvise(AT, P, advice).unwrap();
        }
        assert!(migrates(&mm, AT));
        let mut told = vec![];
        mm.mincore(AT, P, &mut |in_memory| told.push(in_memory)).unwrap();
        assert_eq!((told, mm.pagemap(AT).swapped), (vec![true], true));
        w.vm.swap_off(0).unwrap();
    });
}

#[test]
fn a_guard_takes_the_place_of_a_page_that_migrates() {
    World::run(|w| {
        let (mm, _) = program(w);
        begin(&mm, AT);
        mm.madvise(AT, P, Advice::GuardInstall).unwrap();
        assert_eq!((mm.load(AT.0), mm.counters().rss().0), (Err(Trap::Unmapped), 1));
    });
}

/// Write-protects the page at `va` as userfaultfd would.
fn uffd_protect(mm: &Mm<'_, M>, va: Va) {
    let guard = mm.read();
    let mut entries = lock(mm, &guard, va);
    let (Cleared::Exclusive(page, present), vacancy) = entries.take(va) else { panic!("no page") };
    vacancy.fill(page, Attrs { uffd_wp: true, ..present.write_protected().into() });
    mm.slot().space.flush(&mm.vm.frames, FlushRange::All);
}

/// Whether the entry for `va` says that userfaultfd write-protects it, and whether it is writable.
fn protected(mm: &Mm<'_, M>, va: Va) -> (bool, bool) {
    match entry(mm, va) {
        Pte::Present(present) => (present.uffd_wp, present.prot.write),
        Pte::Soft(SoftLeaf::Swap { bits, .. }) => (bits.uffd_wp, false),
        other => panic!("{other:?}"),
    }
}

#[test]
fn write_protection_of_userfaultfd_outlives_swap_and_stays_with_the_parent() {
    World::run(|w| {
        w.vm.swap_on(0, 64, 0).unwrap();
        let (mm, id) = program(w);
        uffd_protect(&mm, AT);
        let present = mm.fork().unwrap();
        assert_eq!((protected(&mm, AT).0, protected(&present, AT).0), (true, false));
        drop(present);
        let page = w.vm.frames.try_get(mm.pagemap(AT).pfn.unwrap()).unwrap();
        assert!(w.vm.reclaim_folio(page));
        assert_eq!(protected(&mm, AT), (true, false));
        let swapped = mm.fork().unwrap();
        assert_eq!((protected(&mm, AT).0, protected(&swapped, AT).0), (true, false));
        drop(swapped);
        let mmap = mm.read();
        assert_eq!(fault(&mm, &mmap, id, PAGE, Read), FaultResult::Done);
        drop(mmap);
        assert_eq!(protected(&mm, AT), (true, false));
        assert_eq!(mm.load(AT.0), Ok(7));
        w.vm.swap_off(0).unwrap();
    });
}

#[test]
fn a_fault_that_finds_a_page_in_the_place_of_a_marker_looks_again() {
    World::run(|w| {
        let (mm, id) = program(w);
        let mmap = mm.read();
        for access in [Read, Write] {
            let fault = VmFault::new(&w.vm, mm.slot(), &mmap, id, AT, access, Waits::Never);
            let Ok(table) = fault.table() else { panic!("the page is there") };
            assert_eq!(map_protected_zero_page(&fault, table), Err(FaultResult::Reload));
            assert_eq!(do_uffd_marker(&fault, table), Err(FaultResult::Reload));
        }
        drop(mmap);
        assert_eq!((mm.load(AT.0), mm.counters().rss().0), (Ok(7), 2));
        w.vm.validate().unwrap();
    });
}

#[test]
fn a_protected_page_is_unshared_without_asking_and_stays_protected() {
    let folios = FolioPolicy::default().with(Order::new(1), FolioMode::Always);
    for folios in [FolioPolicy::default(), folios] {
        World::run_with(Config { folios, ..Config::default() }, |w| {
            let mm = w.vm.new_mm().unwrap();
            mm.map_raw(pages(PAGE, 2), RW, Backing::Anonymous);
            mm.store(AT.0, 7).unwrap();
            mm.store(AT.0 + P, 8).unwrap();
            let uffd = mm.userfaultfd(UffdFaults::Any).unwrap();
            uffd.agree(UffdFeatures::empty()).unwrap();
            uffd.register(AT, 2 * P, RegisterMode::WP).unwrap();
            uffd.write_protect(AT, 2 * P, ProtectMode::WP).unwrap();
            let child = mm.fork().unwrap();
            let before = mm.pagemap(AT).pfn;
            let mmap = mm.read();
            let id = mmap.slot().tree.find(w.vm.nodes(), AT).unwrap().1;
            assert_eq!(fault(&mm, &mmap, id, PAGE, Unshare), FaultResult::Done);
            drop(mmap);
            assert_ne!(mm.pagemap(AT).pfn, before, "the child has the old one");
            for va in [AT, Va(AT.0 + P)] {
                assert_eq!(protected(&mm, va), (true, false));
            }
            assert_eq!((mm.load(AT.0), child.load(AT.0), mm.load(AT.0 + P)), (Ok(7), Ok(7), Ok(8)));
            w.vm.validate().unwrap();
        });
    }
}

#[test]
fn a_marker_of_a_userfaultfd_that_is_gone_goes_with_the_first_fault() {
    World::run(|w| {
        let (mm, _) = program(w);
        mm.madvise(AT, P, Advice::DontNeed).unwrap();
        lock(&mm, &mm.read(), AT).install(AT, Marker::UffdWp, ());
        assert_eq!(mm.load(AT.0), Ok(0));
        w.vm.validate().unwrap();
    });
}

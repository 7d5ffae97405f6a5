//! Faults of pages that are there, or that were swapped out; and what is tried when memory runs out.

use crate::{
    Advice, Config, Event, LockMode, Mm,
    fault::{
        FaultAccess::{self, Read, Write},
        FaultOutcome, FaultResult, VmFault, handle_mm_fault,
        vm_fault::Waits,
    },
    rmap::referenced::folio_referenced,
    testing::{M, P, RW, World, pages},
    vma::Backing,
};
use anonmem_frame::{FolioOwner, FolioRef};
use anonmem_hal::{CpuId, Pte, SoftLeaf, Va};
use anonmem_hosted::{FailurePlan, Trap};
use std::vec;

const AT: Va = Va(16 * P);

fn program(w: &World, byte: u8) -> Mm<'_, M> {
    let mm = w.vm.new_mm().unwrap();
    mm.map_raw(pages(16, 1), RW, Backing::Anonymous);
    mm.store(AT.0, byte).unwrap();
    mm
}

fn page_of<'a>(w: &'a World, mm: &Mm<'_, M>) -> FolioRef<'a, M> {
    w.vm.frames.try_get(mm.pagemap(AT).pfn.expect("present")).unwrap()
}

fn page_out(w: &World, mm: &Mm<'_, M>) {
    assert!(w.vm.reclaim_folio(page_of(w, mm)));
}

fn with_swap(f: impl FnOnce(&World)) {
    World::run(|w| {
        w.vm.swap_on(0, 64, 0).unwrap();
        f(w);
        w.vm.swap_off(0).unwrap();
    });
}

/// Whether the entry lets programs write.
fn is_writable(w: &World, mm: &Mm<'_, M>) -> bool {
    let guard = mm.read();
    let table = mm.slot().space.walk(&w.vm.frames, &guard, AT).unwrap().table().unwrap();
    matches!(table.peek(AT), Pte::Present(present) if present.prot.write)
}

fn count(w: &World, event: Event) -> u64 {
    w.vm.stats().event(event)
}

#[test]
fn a_read_of_a_shared_page_copies_nothing() {
    World::run(|w| {
        let parent = program(w, 7);
        let child = parent.fork().unwrap();
        for access in [Read, FaultAccess::Exec] {
            let before = child.pagemap(AT).pfn;
            let allowed = child.handle_fault(AT, access) == FaultOutcome::Done;
            assert_eq!((allowed, child.pagemap(AT).pfn), (access == Read, before));
        }
        assert_eq!((count(w, Event::FaultCowCopy), count(w, Event::FaultSpurious)), (0, 1));
    });
}

#[test]
fn a_fault_without_a_cause_is_spurious_and_sets_the_bits() {
    World::run(|w| {
        let mm = program(w, 7);
        let reuses = count(w, Event::FaultCowReuse);
        mm.madvise(AT, P, Advice::Free).unwrap();
        folio_referenced(&w.vm, page_of(w, &mm).folio());
        assert!(!mm.pagemap(AT).young && !mm.pagemap(AT).dirty);
        assert_eq!(mm.handle_fault(AT, Read), FaultOutcome::Done);
        assert!(mm.pagemap(AT).young && !mm.pagemap(AT).dirty);
        assert_eq!(mm.handle_fault(AT, Write), FaultOutcome::Done);
        assert!(mm.pagemap(AT).dirty);
        assert_eq!((count(w, Event::FaultSpurious), count(w, Event::FaultCowReuse)), (2, reuses));
    });
}

#[test]
fn a_zero_page_that_is_written_becomes_a_page_of_zeroes() {
    World::run(|w| {
        // Frames that were used before.
        drop(program(w, 0xff));
        let mm = w.vm.new_mm().unwrap();
        mm.map_raw(pages(16, 1), RW, Backing::Anonymous);
        mm.load(AT.0).unwrap();
        mm.store(AT.0 + 1, 1).unwrap();
        let mut bytes = vec![9; P as usize];
        mm.user().load(AT, &mut bytes).unwrap();
        assert!(bytes.iter().enumerate().all(|(i, byte)| *byte == u8::from(i == 1)));
    });
}

#[test]
fn a_page_that_was_ours_before_is_reused_at_once_even_if_it_is_locked() {
    World::run(|w| {
        let mm = program(w, 7);
        drop(mm.fork().unwrap());
        let before = mm.pagemap(AT).pfn.unwrap();
        let retries = count(w, Event::FaultRetry);
        let guard = mm.read();
        let id = guard.slot().tree.find(w.vm.nodes(), AT).unwrap().1;
        let lock = w.vm.frames.try_get(before).unwrap().lock();
        let fault = VmFault::new(&w.vm, mm.slot(), &guard, id, AT, Write, Waits::Never);
        assert_eq!(handle_mm_fault(&fault), FaultResult::Done);
        drop((lock, guard));
        assert!(is_writable(w, &mm) && mm.pagemap(AT).pfn == Some(before));
        assert_eq!((count(w, Event::FaultCowReuse), count(w, Event::FaultRetry)), (1, retries));
        w.vm.validate().unwrap();
    });
}

#[test]
fn a_fault_under_the_mmap_lock_alone_tries_nothing_else() {
    for (lock_mode, by_vma) in [(LockMode::Mmap, 0), (LockMode::Vma, 1)] {
        World::run_with(Config { lock_mode, ..Config::default() }, |w| {
            let mm = w.vm.new_mm().unwrap();
            mm.map_raw(pages(16, 2), RW, Backing::Anonymous);
            (0..2).for_each(|i| mm.store(AT.0 + i * P, 1).unwrap());
            assert_eq!((count(w, Event::FaultVmaLock), count(w, Event::FaultMmapLock)), (by_vma, 2 - by_vma));
        });
    }
}

#[test]
fn a_speculative_fault_does_not_wait_for_a_source() {
    World::run_with(Config { lock_mode: LockMode::Speculative, ..Config::default() }, |w| {
        let mm = w.vm.new_mm().unwrap();
        let source = w.sources.register(vec![5; 2 * P as usize]);
        mm.map_raw(pages(16, 2), RW, Backing::Source(source));
        (0..2).for_each(|i| assert_eq!(mm.load(AT.0 + i * P), Ok(5)));
        // The first found neither table nor anon_vma.
        assert_eq!((count(w, Event::RefusedBacking), count(w, Event::FaultSpeculative)), (2, 0));
    });
}

#[test]
fn a_fault_that_finds_no_memory_makes_pages_leave() {
    with_swap(|w| {
        let mm = w.vm.new_mm().unwrap();
        mm.map_raw(pages(16, 8), RW, Backing::Anonymous);
        // Far away: a chain, an anon_vma and tables are missing.
        let mut failed = 0;
        for nth in 1.. {
            (0..8).for_each(|i| mm.store(AT.0 + i * P, 1).unwrap());
            let other = w.vm.new_mm().unwrap();
            let far = (1 << 36) + nth * (1 << 30);
            other.map_raw(pages(far / P, 1), RW, Backing::Anonymous);
            w.failures.set(FailurePlan::Nth(nth));
            let stored = other.store(far, 1);
            let refused = w.failures.refused();
            w.failures.set(FailurePlan::Off);
            assert_eq!(stored, Ok(()), "allocation {nth} failed once");
            if refused == 0 {
                break;
            }
            failed += 1;
        }
        assert!(failed >= 4, "only {failed} failed");
        w.vm.validate().unwrap();
    });
}

#[test]
fn a_shared_page_comes_back_in_one_fault() {
    with_swap(|w| {
        let parent = program(w, 7);
        let child = parent.fork().unwrap();
        page_out(w, &parent);
        let retries = count(w, Event::FaultRetry);
        assert_eq!(parent.handle_fault(AT, Read), FaultOutcome::Done);
        let entry = parent.pagemap(AT);
        assert!(entry.young && entry.dirty && !is_writable(w, &parent), "what is only in memory is dirty");
        assert_eq!((count(w, Event::FaultRetry), count(w, Event::FaultSpurious)), (retries, 0));
        page_out(w, &parent);
        assert_eq!(parent.handle_fault(AT, Write), FaultOutcome::Done);
        assert!(is_writable(w, &parent), "brought back and copied");
        assert_eq!((parent.load(AT.0), child.load(AT.0)), (Ok(7), Ok(7)));
        w.vm.validate().unwrap();
    });
}

#[test]
fn an_exclusive_page_comes_back_writable_in_one_fault() {
    with_swap(|w| {
        let mm = program(w, 7);
        page_out(w, &mm);
        let retries = count(w, Event::FaultRetry);
        assert_eq!(mm.handle_fault(AT, Write), FaultOutcome::Done);
        assert!(is_writable(w, &mm) && mm.pagemap(AT).young && mm.pagemap(AT).dirty);
        assert_eq!((count(w, Event::FaultRetry), count(w, Event::FaultSpurious)), (retries, 0));
    });
}

#[test]
fn the_last_one_who_needs_a_page_from_swap_has_it_alone() {
    with_swap(|w| {
        let parent = program(w, 7);
        let child = parent.fork().unwrap();
        page_out(w, &parent);
        drop(child);
        assert_eq!(parent.load(AT.0), Ok(7));
        assert!(is_writable(w, &parent));
    });
}

/// A page that is in the swap cache only, for `parent` alone, marked as unused for long.
fn cached_for_one<'a>(w: &'a World, parent: &Mm<'a, M>) -> FolioRef<'a, M> {
    let child = parent.fork().unwrap();
    page_out(w, parent);
    child.load(AT.0).unwrap();
    let guard = parent.read();
    let entry = parent.slot().space.walk(&w.vm.frames, &guard, AT).unwrap().table().unwrap().peek(AT);
    let Pte::Soft(SoftLeaf::Swap { entry, .. }) = entry else { panic!("{entry:?}") };
    drop(guard);
    drop(child);
    let page = w.vm.swap_cache_get(entry).expect("cached");
    page.set_idle(1);
    page
}

#[test]
fn whoever_holds_a_page_of_the_swap_cache_keeps_it_shared() {
    with_swap(|w| {
        let mm = program(w, 7);
        let held = cached_for_one(w, &mm);
        assert_eq!(mm.load(AT.0), Ok(7));
        assert_eq!(mm.pagemap(AT).pfn, Some(held.pfn()));
        assert!(!is_writable(w, &mm), "somebody may be reading it");
        assert_eq!(held.folio().idle(), 0, "it is used again");
        drop(held);
        mm.store(AT.0, 8).unwrap();
        assert_eq!(count(w, Event::FaultCowCopy), 0);
        w.vm.validate().unwrap();
    });
}

#[test]
fn whoever_finds_a_page_in_the_swap_cache_alone_may_write_it() {
    with_swap(|w| {
        let mm = program(w, 7);
        drop(cached_for_one(w, &mm));
        assert_eq!(mm.load(AT.0), Ok(7));
        assert!(is_writable(w, &mm));
        assert_eq!(count(w, Event::SwapIn), 1, "by the child");
    });
}

#[test]
fn swapoff_poisons_what_cannot_be_read() {
    with_swap(|w| {
        w.vm.swap_on(1, 64, 5).unwrap();
        let mm = program(w, 7);
        let other = program(w, 8);
        page_out(w, &mm);
        w.swap.fail_every_read(1);
        assert_eq!(w.vm.swap_off(1), Ok(()));
        w.swap.fail_every_read(0);
        assert_eq!((mm.load(AT.0), other.load(AT.0)), (Err(Trap::Bus), Ok(8)));
        assert_eq!(mm.counters().swap.0, 0);
        w.vm.validate().unwrap();
        mm.munmap(pages(16, 1)).unwrap();
    });
}

#[test]
fn a_page_that_came_back_meanwhile_is_not_poisoned() {
    with_swap(|w| {
        let mm = program(w, 7);
        page_out(w, &mm);
        let guard = mm.read();
        let id = guard.slot().tree.find(w.vm.nodes(), AT).unwrap().1;
        let table = mm.slot().space.walk(&w.vm.frames, &guard, AT).unwrap().table().unwrap();
        let Pte::Soft(SoftLeaf::Swap { entry, .. }) = table.peek(AT) else { panic!("it is in swap") };
        let fault = VmFault::new(&w.vm, mm.slot(), &guard, id, AT, Read, Waits::Never);
        assert_eq!(handle_mm_fault(&fault), FaultResult::Done);
        fault.poison(entry);
        drop(guard);
        assert_eq!((mm.load(AT.0), mm.counters().swap.0), (Ok(7), 0));
        w.vm.validate().unwrap();
    });
}

#[test]
fn an_access_to_nothing_waits_for_no_reader() {
    World::run(|w| {
        let mm = program(w, 7);
        let reader = mm.read();
        let cpus = w.vm.machine().cpus().clone();
        std::thread::scope(|scope| {
            let faulting = scope.spawn(|| cpus.run_on(CpuId(1), || mm.handle_fault(Va(AT.0 - P), Read)));
            assert_eq!(faulting.join().unwrap(), FaultOutcome::SegvMaperr);
        });
        drop(reader);
    });
}

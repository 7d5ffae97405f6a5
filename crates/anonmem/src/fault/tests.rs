//! Faults, in each lock mode.

use crate::{
    Advice, Config, Event, FaultAccess, LockMode, MapBacking, MapFlags, Mm, MmapRequest, Prot,
    ReverseMapChoice,
    testing::{M, P, RW, World, chosen, pages},
    vma::Backing,
};
use anonmem_hal::{CpuId, Va, VaRange};
use anonmem_hosted::{FailurePlan, Trap};
use std::{vec, vec::Vec};

mod leaves;
mod present;
mod rechecks;
mod software;
mod stack;
mod swap_runs;
mod windows;

const MODES: [LockMode; 3] = [LockMode::Mmap, LockMode::Vma, LockMode::Speculative];

fn in_every_mode(f: impl Fn(&World)) {
    for lock_mode in MODES {
        World::run_with(Config { lock_mode, ..Config::default() }, &f);
    }
}

fn map<'a>(mm: &Mm<'a, M>, pages: u64) -> Va {
    map_as(mm, pages, MapFlags::empty(), MapBacking::Anonymous)
}

fn map_as<'a>(mm: &Mm<'a, M>, pages: u64, flags: MapFlags, backing: MapBacking) -> Va {
    let prot = Prot::READ | Prot::WRITE;
    mm.mmap(MmapRequest { addr: Va(0), len: pages * P, prot, flags, backing }).unwrap()
}

#[test]
fn a_first_read_maps_the_zero_page_and_a_write_replaces_it() {
    in_every_mode(|w| {
        let mm = w.vm.new_mm().unwrap();
        let va = map(&mm, 1).0;
        assert_eq!(mm.load(va), Ok(0));
        assert_eq!(mm.counters().rss().0, 0, "the zero page is nobody's");
        mm.store(va, 7).unwrap();
        assert_eq!((mm.load(va), mm.counters().anon.0), (Ok(7), 1));
        let stats = w.vm.stats();
        assert_eq!(stats.event(Event::FaultZeroPage), 1);
        assert_eq!(stats.event(Event::FaultZeroUpgrade), 1);
    });
}

#[test]
fn a_first_write_gives_an_exclusive_page_at_once() {
    in_every_mode(|w| {
        let mm = w.vm.new_mm().unwrap();
        let va = map(&mm, 2).0;
        mm.store(va + P - 1, 1).unwrap();
        assert!(mm.pagemap(Va(va)).exclusive);
        assert_eq!(w.vm.stats().event(Event::FaultAnon), 1);
    });
}

#[test]
fn accesses_that_are_not_allowed_trap() {
    in_every_mode(|w| {
        let mm = w.vm.new_mm().unwrap();
        let va = map(&mm, 1);
        assert_eq!(mm.load(va.0 + P), Err(Trap::Unmapped));
        mm.mprotect(VaRange::page(va), Prot::READ).unwrap();
        assert_eq!(mm.store(va.0, 1), Err(Trap::Denied));
        mm.mprotect(VaRange::page(va), Prot::empty()).unwrap();
        assert_eq!(mm.load(va.0), Err(Trap::Denied));
    });
}

#[test]
#[should_panic(expected = "still held")]
fn a_fault_of_a_program_holds_no_lock() {
    World::run_with(Config { lock_mode: LockMode::Speculative, ..Config::default() }, |w| {
        let mm = w.vm.new_mm().unwrap();
        let va = map(&mm, 2).0;
        mm.store(va, 1).unwrap();
        let _mmap = mm.read();
        mm.handle_fault(Va(va + P), FaultAccess::Read);
    });
}

#[test]
fn fork_shares_and_a_write_copies_once() {
    in_every_mode(|w| {
        let parent = w.vm.new_mm().unwrap();
        let va = map(&parent, 1).0;
        parent.store(va, 1).unwrap();
        let child = parent.fork().unwrap();
        assert_eq!(parent.pagemap(Va(va)).pfn, child.pagemap(Va(va)).pfn);
        child.store(va, 2).unwrap();
        assert_eq!((parent.load(va), child.load(va)), (Ok(1), Ok(2)));
        parent.store(va, 3).unwrap();
        assert_eq!((parent.load(va), child.load(va)), (Ok(3), Ok(2)));
        let stats = w.vm.stats();
        assert_eq!((stats.event(Event::FaultCowCopy), stats.event(Event::FaultCowReuse)), (1, 1));
        assert_eq!(stats.event(Event::CowKsm), 0, "nobody had merged it");
        w.vm.validate().unwrap();
    });
}

#[test]
fn the_last_sharer_reuses_the_page() {
    in_every_mode(|w| {
        let parent = w.vm.new_mm().unwrap();
        let va = map(&parent, 1).0;
        parent.store(va, 1).unwrap();
        let page = parent.pagemap(Va(va)).pfn;
        drop(parent.fork().unwrap());
        parent.store(va, 2).unwrap();
        assert_eq!(parent.pagemap(Va(va)).pfn, page);
        assert_eq!(w.vm.stats().event(Event::FaultCowCopy), 0);
    });
}

#[test]
fn a_page_that_is_shared_already_is_shared_again() {
    // Logical writability is the VMA's, not the entry's: the parent's entry is read-only when it forks again.
    in_every_mode(|w| {
        let parent = w.vm.new_mm().unwrap();
        let va = map(&parent, 1).0;
        parent.store(va, 1).unwrap();
        let children = [parent.fork().unwrap(), parent.fork().unwrap()];
        let grandchild = children[1].fork().unwrap();
        for (i, mm) in [&children[0], &children[1], &grandchild, &parent].into_iter().enumerate() {
            mm.store(va, 10 + i as u8).unwrap();
        }
        assert_eq!(children.each_ref().map(|c| c.load(va).unwrap()), [10, 11]);
        assert_eq!((grandchild.load(va), parent.load(va)), (Ok(12), Ok(13)));
        w.vm.validate().unwrap();
    });
}

#[test]
fn a_source_fills_its_pages_once() {
    in_every_mode(|w| {
        let mm = w.vm.new_mm().unwrap();
        let source = w.sources.register(vec![5; P as usize + 1]);
        let va = map_as(&mm, 2, MapFlags::empty(), MapBacking::Source { id: source, offset: 0 }).0;
        assert_eq!([va, va + P, va + P + 1].map(|va| mm.load(va).unwrap()), [5, 5, 0]);
        let faults = w.vm.stats().event(Event::Fault);
        mm.store(va, 6).unwrap();
        assert_eq!(w.vm.stats().event(Event::Fault), faults, "nobody waits for its first write");
        let child = mm.fork().unwrap();
        assert_eq!(child.load(va), Ok(6));
        assert_eq!(w.vm.stats().event(Event::FaultSource), 2);
    });
}

#[test]
fn shared_memory_is_shared_through_fork() {
    in_every_mode(|w| {
        let parent = w.vm.new_mm().unwrap();
        let va = map_as(&parent, 2, MapFlags::empty(), MapBacking::SharedNew).0;
        parent.store(va, 1).unwrap();
        let child = parent.fork().unwrap();
        child.store(va, 2).unwrap();
        child.store(va + P, 3).unwrap();
        assert_eq!((parent.load(va), parent.load(va + P)), (Ok(2), Ok(3)));
        w.vm.validate().unwrap();
    });
}

#[test]
fn a_stack_grows_down_to_its_guard_gap() {
    in_every_mode(|w| {
        let mm = w.vm.new_mm().unwrap();
        let gap = w.vm.config().stack_guard_gap;
        let at = 1 << 40;
        let fixed = |addr: u64, flags| {
            let prot = Prot::READ | Prot::WRITE;
            let flags = MapFlags::FIXED | flags;
            let request = MmapRequest { addr: Va(addr), len: P, prot, flags, backing: MapBacking::Anonymous };
            mm.mmap(request).unwrap()
        };
        fixed(at, MapFlags::GROWSDOWN);
        fixed(at - gap - 8 * P, MapFlags::empty());
        for page in 1..8 {
            mm.store(at - page * P, page as u8).unwrap();
        }
        assert_eq!(mm.store(at - 8 * P, 1), Err(Trap::Unmapped), "the gap stays");
        assert_eq!(mm.counters().stack.0, 8);
        w.vm.validate().unwrap();
    });
}

#[test]
fn without_memory_a_fault_says_so_and_leaves_nothing() {
    in_every_mode(|w| {
        let mm = w.vm.new_mm().unwrap();
        let va = map(&mm, 4).0;
        let failed = w.fail_each_allocation(
            || va,
            |&va| match mm.store(va, 1) {
                Ok(()) => Ok(()),
                Err(Trap::Oom) => Err(crate::Error::OutOfMemory),
                Err(other) => panic!("{other:?}"),
            },
            |_, _| w.vm.validate().unwrap(),
        );
        // A chain and an anon_vma, or a family; tables; a page.
        let least = if chosen() == ReverseMapChoice::AnonVmas { 4 } else { 3 };
        assert!(failed >= least, "only {failed} failed");
    });
}

#[test]
fn a_fork_that_runs_out_of_memory_leaves_everything_as_it_was() {
    in_every_mode(|w| {
        let parent = w.vm.new_mm().unwrap();
        let vas: Vec<u64> = (0..3).map(|_| map(&parent, 4).0).collect();
        parent.mprotect(VaRange::page(Va(vas[1])), Prot::READ).unwrap();
        vas.iter().for_each(|va| parent.store(va + 2 * P, 1).unwrap());
        let before: Vec<_> = vas.iter().map(|va| parent.pagemap(Va(va + 2 * P))).collect();
        let stats = w.vm.stats();
        let failed = w.fail_each_allocation(
            || (),
            |()| parent.fork().map(drop),
            |(), e| {
                assert_eq!(e, crate::Error::OutOfMemory);
                w.vm.validate().unwrap();
                let after: Vec<_> = vas.iter().map(|va| parent.pagemap(Va(va + 2 * P))).collect();
                assert_eq!(before, after, "the pages are exclusive again");
                assert_eq!(w.vm.stats().committed, stats.committed);
            },
        );
        assert!(failed > 10, "only {failed} allocations failed");
        let copies = w.vm.stats().event(Event::FaultCowCopy);
        vas.iter().for_each(|va| parent.store(va + 2 * P, 2).unwrap());
        assert_eq!(w.vm.stats().event(Event::FaultCowCopy), copies);
    });
}

#[test]
fn every_refusal_is_counted_and_the_next_stronger_way_is_taken() {
    let w = |lock_mode, f: &dyn Fn(&World)| World::run_with(Config { lock_mode, ..Config::default() }, f);
    w(LockMode::Vma, &|w| {
        let mm = w.vm.new_mm().unwrap();
        let va = map(&mm, 4).0;
        let count = |e| w.vm.stats().event(e);
        mm.store(va, 1).unwrap();
        assert_eq!((count(Event::RefusedNoAnonVma), count(Event::FaultMmapLock)), (1, 1));
        mm.store(va + P, 1).unwrap();
        assert_eq!((count(Event::FaultVmaLock), count(Event::FaultMmapLock)), (1, 1));
        assert_eq!(mm.load(0x10000), Err(Trap::Unmapped));
        assert_eq!(count(Event::RefusedNoVma), 1);
    });
    w(LockMode::Speculative, &|w| {
        let mm = w.vm.new_mm().unwrap();
        let va = map(&mm, 4).0;
        let count = |e| w.vm.stats().event(e);
        mm.load(va).unwrap();
        assert_eq!((count(Event::RefusedNoTable), count(Event::FaultVmaLock)), (1, 1));
        mm.store(va, 1).unwrap();
        assert_eq!((count(Event::RefusedNoAnonVma), count(Event::FaultMmapLock)), (2, 1), "by both");
        mm.store(va + P, 1).unwrap();
        assert_eq!(count(Event::FaultSpeculative), 1);
        let shared = map_as(&mm, 1, MapFlags::empty(), MapBacking::SharedNew).0;
        mm.store(shared, 1).unwrap();
        assert_eq!((count(Event::RefusedBacking), count(Event::FaultVmaLock)), (1, 2));
    });
}

/// Runs `fault` on another CPU, under `hold` until `has_come` says that it met that.
fn meanwhile<H>(w: &World, fault: impl FnOnce() + Send, hold: H, has_come: impl Fn() -> bool) {
    let cpus = w.vm.machine().cpus().clone();
    std::thread::scope(|scope| {
        let faulting = scope.spawn(move || cpus.run_on(CpuId(1), fault));
        while !has_come() {
            assert!(!faulting.is_finished(), "the fault did not meet what it was to meet");
            std::thread::yield_now();
        }
        drop(hold);
    });
}

#[test]
fn a_fault_meets_a_writer_of_the_vma_or_of_the_tree() {
    for lock_mode in [LockMode::Vma, LockMode::Speculative] {
        World::run_with(Config { lock_mode, ..Config::default() }, |w| {
            let mm = w.vm.new_mm().unwrap();
            let id = mm.map_raw(pages(16, 4), RW, Backing::Anonymous);
            mm.store(16 * P, 1).unwrap();
            let count = |e| w.vm.stats().event(e);

            let guard = mm.write();
            let _ = w.vm.vma(id).start_write(&guard);
            let fault = || mm.store(17 * P, 1).unwrap();
            meanwhile(w, fault, guard, || count(Event::RefusedWriteLocked) > 0);
            // By the speculative fault and by the one that would lock the VMA.
            let times = if lock_mode == LockMode::Vma { 1 } else { 2 };
            assert_eq!(count(Event::RefusedWriteLocked), times);

            // Not the VMA that this CPU found last: that one is not looked for in the tree.
            mm.map_raw(pages(40, 1), RW, Backing::Anonymous);
            let guard = mm.write();
            let mut nodes = mm.slot().tree.prealloc_none(w.vm.nodes());
            let hold = (nodes.write(), guard);
            let fault = || mm.store(40 * P, 1).unwrap();
            meanwhile(w, fault, hold, || count(Event::RefusedTreeBusy) > 0);
            assert_eq!(count(Event::RefusedTreeBusy), times);
            drop(nodes);
            assert_eq!(mm.load(40 * P), Ok(1));
        });
    }
}

#[test]
fn a_fault_finds_a_vma_that_has_left_the_tree() {
    for lock_mode in [LockMode::Vma, LockMode::Speculative] {
        World::run_with(Config { lock_mode, ..Config::default() }, |w| {
            let mm = w.vm.new_mm().unwrap();
            let id = mm.map_raw(pages(16, 4), RW, Backing::Anonymous);
            mm.store(16 * P, 1).unwrap();
            w.vm.vma(id).detach(&mm.write());
            mm.store(17 * P, 1).unwrap();
            assert!(w.vm.stats().event(Event::RefusedRecycled) > 0);
            w.vm.vma(id).attach(&mm.write());
        });
    }
}

#[test]
fn a_speculative_fault_does_not_commit_to_a_vma_that_was_changed() {
    World::run_with(Config { lock_mode: LockMode::Speculative, ..Config::default() }, |w| {
        let mm = w.vm.new_mm().unwrap();
        let id = mm.map_raw(pages(16, 4), RW, Backing::Anonymous);
        mm.store(16 * P, 1).unwrap();
        let guard = mm.read();
        let table = mm.slot().space.walk(&w.vm.frames, &guard, Va(17 * P)).unwrap().table().unwrap();
        let entries = table.lock();
        let before = w.vm.stats().user;
        // It has its page, and waits for the page-table lock.
        let has_page = || {
            w.vm.stats().user > before && {
                w.vm.vma(id).lock.next_version();
                true
            }
        };
        meanwhile(w, || mm.store(17 * P, 7).unwrap(), entries, has_page);
        drop(guard);
        assert_eq!((w.vm.stats().event(Event::RefusedChanged), mm.load(17 * P)), (1, Ok(7)));
        assert_eq!(w.vm.stats().event(Event::FaultVmaLock), 1, "the VMA's lock did");
    });
}

#[test]
fn a_speculative_fault_waits_for_nothing() {
    World::run_with(Config { lock_mode: LockMode::Speculative, ..Config::default() }, |w| {
        let mm = w.vm.new_mm().unwrap();
        let va = map(&mm, 4).0;
        mm.store(va, 1).unwrap();
        let sleeps = || w.vm.stats().event(Event::RefusedWouldSleep);

        w.failures.set(FailurePlan::Nth(1));
        mm.store(va + P, 1).unwrap();
        w.failures.set(FailurePlan::Off);
        assert_eq!(sleeps(), 1, "for memory");

        w.vm.swap_on(0, 64, 0).unwrap();
        mm.madvise(Va(va), P, Advice::PageOut).unwrap();
        assert_eq!((mm.load(va), sleeps()), (Ok(1), 2), "for the device");
        assert_eq!(w.vm.stats().event(Event::FaultSwap), 1);
        w.vm.swap_off(0).unwrap();
    });
}

#[test]
fn a_page_beyond_the_largest_offset_of_a_source_is_a_sigbus() {
    World::run(|w| {
        let mm = w.vm.new_mm().unwrap();
        let source = w.sources.register([1; 8192].as_slice());
        let last = MmapRequest {
            addr: Va(16 * P),
            len: 3 * P,
            prot: Prot::READ,
            flags: MapFlags::FIXED,
            backing: MapBacking::Source { id: source, offset: u64::MAX - P + 1 },
        };
        mm.mmap(last).unwrap();
        for page in 16..19 {
            assert_eq!(mm.load(page * P), Err(Trap::Bus), "page {page}");
        }
        // The first one whose index has no room beside what else its metadata says.
        let backing = MapBacking::Source { id: source, offset: 1 << 50 };
        mm.mmap(MmapRequest { addr: Va(32 * P), len: P, backing, ..last }).unwrap();
        assert_eq!(mm.load(32 * P), Err(Trap::Bus));
    });
}

//! Mapping: arguments, places, promises, limits, and failure at every allocation.

use crate::{
    Advice, Config, Error, Limits, MapBacking, MapFlags, Mm, MmapRequest, Overcommit, Prot, RemapFlags, Vm,
    VmFlags, WriteExec,
    testing::{M, P, World, pages},
};
use anonmem_hal::{Arch, NrPages, PAGE_SIZE, Va, VaRange, arch::X86_64};
use anonmem_hosted::Trap;
use std::vec;

const END: u64 = X86_64::USER_END.0;
const RW: Prot = Prot::READ.union(Prot::WRITE);

/// Private writable zeroes, anywhere.
fn anywhere(n: u64) -> MmapRequest {
    MmapRequest {
        addr: Va(0),
        len: n * P,
        prot: RW,
        flags: MapFlags::empty(),
        backing: MapBacking::Anonymous,
    }
}

fn at(page: u64, n: u64, flags: MapFlags) -> MmapRequest {
    MmapRequest { addr: Va(page * P), flags, ..anywhere(n) }
}

fn fixed(page: u64, n: u64) -> MmapRequest {
    at(page, n, MapFlags::FIXED)
}

fn shared(n: u64) -> MmapRequest {
    MmapRequest { backing: MapBacking::SharedNew, ..anywhere(n) }
}

fn committed(vm: &Vm<M>) -> u64 {
    vm.stats().committed
}

#[test]
fn arguments_that_make_no_sense_get_linux_error_numbers() {
    World::run(|world| {
        let mm = world.vm.new_mm().unwrap();
        let source = world.sources.register(vec![1; PAGE_SIZE]);
        let of_source = |offset| MapBacking::Source { id: source, offset };
        let sized = |len| MmapRequest { len, ..anywhere(1) };
        mm.mmap(fixed(100, 1)).unwrap();
        let cases = [
            ("no length", sized(0), 22),
            ("a length that cannot be rounded up", sized(u64::MAX), 12),
            ("more than there is", sized(END + P), 12),
            ("fixed, beyond the end", fixed(END / P - 1, 2), 12),
            ("fixed, not at a page", MmapRequest { addr: Va(P * 200 + 1), ..fixed(200, 1) }, 22),
            ("fixed, too low", fixed(1, 1), 1),
            ("fixed, taken", at(100, 1, MapFlags::FIXED_NOREPLACE), 17),
            ("fixed, taken at its end", at(99, 2, MapFlags::FIXED | MapFlags::FIXED_NOREPLACE), 17),
            ("an odd offset", MmapRequest { backing: of_source(1), ..anywhere(1) }, 22),
            (
                "a stack of a source",
                MmapRequest { backing: of_source(0), ..at(0, 1, MapFlags::GROWSDOWN) },
                22,
            ),
            ("a shared stack", MmapRequest { flags: MapFlags::GROWSDOWN, ..shared(1) }, 22),
        ];
        for (what, request, errno) in cases {
            assert_eq!(mm.mmap(request).map_err(Error::errno), Err(errno), "{what}");
            assert_eq!((mm.counters().vmas, committed(&world.vm)), (1, 1), "{what}");
        }
        let object = world.vm.shm_new(1).unwrap();
        let far = MapBacking::Shared { object: object.id(), first: u64::MAX };
        assert_eq!(mm.mmap(MmapRequest { backing: far, ..anywhere(1) }), Err(Error::Overflow));
        drop(object);
    });
}

#[test]
fn places_are_found_from_the_top_down_then_from_below() {
    World::run(|world| {
        let mm = world.vm.new_mm().unwrap();
        let base = mm.slot().mmap_base.peek();
        let a = mm.mmap(anywhere(2)).unwrap();
        assert_eq!(a.0, base - 2 * P);
        // Another kind of mapping goes right below; a hole that it fits into is used first.
        let b = mm.mmap(MmapRequest { prot: Prot::READ, ..anywhere(2) }).unwrap();
        assert_eq!(b.0, a.0 - 2 * P);
        mm.munmap(VaRange::of(a, P).unwrap()).unwrap();
        assert_eq!(mm.mmap(MmapRequest { prot: Prot::EXEC, ..anywhere(1) }), Ok(a));
        // All that is below the base is taken.
        let low = Va(65_536);
        let all = MmapRequest { prot: Prot::empty(), flags: MapFlags::FIXED, addr: low, ..anywhere(1) };
        mm.mmap(MmapRequest { len: b.0 - low.0, ..all }).unwrap();
        assert_eq!(mm.mmap(anywhere(1)), Ok(Va(base)), "above the base");
        mm.mmap(MmapRequest { addr: Va(base + P), len: END - base - P, ..all }).unwrap();
        assert_eq!(mm.mmap(anywhere(1)), Err(Error::NO_ROOM));
        let beyond = MmapRequest { addr: X86_64::USER_END, ..fixed(0, 1) };
        assert_eq!(mm.mmap(beyond), Err(Error::BEYOND), "no hole is looked for at a fixed place");
        mm.munmap(VaRange::of(low, P).unwrap()).unwrap();
        assert_eq!(mm.mmap(anywhere(1)), Ok(low), "the lowest page that may be mapped");
    });
}

#[test]
fn a_hint_is_honoured_if_it_is_free() {
    World::run(|world| {
        let mm = world.vm.new_mm().unwrap();
        let hint = |addr, n| mm.mmap(MmapRequest { addr: Va(addr), ..anywhere(n) });
        assert_eq!(hint(200 * P + 5, 2), Ok(Va(200 * P)), "rounded down to a page");
        assert_eq!(hint(P, 1), Ok(Va(65_536)), "raised to the lowest address");
        assert!(hint(199 * P, 2).unwrap().0 > 1 << 40, "taken");
        assert!(hint(END - P, 2).unwrap().0 < END - P, "beyond the end");
        assert_eq!(hint(END - P, 1), Ok(Va(END - P)));
    });
}

#[test]
fn a_stack_keeps_others_away() {
    World::run(|world| {
        let mm = world.vm.new_mm().unwrap();
        let gap = world.vm.config().stack_guard_gap / P;
        mm.mmap(at(5000, 4, MapFlags::FIXED | MapFlags::GROWSDOWN)).unwrap();
        assert_ne!(mm.mmap(at(5000 - gap, 1, MapFlags::empty())), Ok(Va((5000 - gap) * P)));
        assert_eq!(mm.mmap(at(4999 - gap, 1, MapFlags::empty())), Ok(Va((4999 - gap) * P)));
        mm.mmap(fixed(4999 - gap, 1)).unwrap();
        // Its upper part is a stack, too, once it is split.
        mm.mprotect(pages(5002, 2), Prot::READ).unwrap();
        mm.munmap(pages(5000, 2)).unwrap();
        assert_ne!(mm.mmap(at(5001, 1, MapFlags::empty())), Ok(Va(5001 * P)));
        let below = VaRange::new(Va(4000 * P), Va(5002 * P));
        let found = mm.slot().tree.gap_topdown(world.vm.nodes(), NrPages(1), below, NrPages(1));
        assert_eq!(found, Some(Va((5001 - gap) * P)));
        assert_eq!(mm.counters().stack.0, 2);
    });
}

#[test]
fn a_fixed_mapping_replaces_what_is_there() {
    World::run(|world| {
        let mm = world.vm.new_mm().unwrap();
        mm.mmap(fixed(100, 6)).unwrap();
        (100..106).for_each(|page| mm.store(page * P, 7).unwrap());
        let read_only = MmapRequest { prot: Prot::READ, ..fixed(102, 2) };
        mm.mmap(read_only).unwrap();
        assert_eq!(mm.load(102 * P), Ok(0));
        assert_eq!((mm.load(101 * P), mm.load(104 * P)), (Ok(7), Ok(7)));
        assert_eq!(mm.store(103 * P, 1), Err(Trap::Denied));
        assert_eq!((mm.counters().vmas, mm.counters().anon.0), (3, 4));
        assert_eq!(committed(&world.vm), 4, "what is read-only needs no promise");
        world.vm.validate().unwrap();
    });
}

#[test]
fn what_is_shared_for_reading_never_becomes_writable() {
    World::run(|world| {
        let mm = world.vm.new_mm().unwrap();
        let object = world.vm.shm_new(2).unwrap();
        let backing = MapBacking::Shared { object: object.id(), first: 0 };
        let request =
            MmapRequest { prot: Prot::READ, flags: MapFlags::SHARED_READ_ONLY, backing, ..anywhere(2) };
        let start = mm.mmap(request).unwrap();
        drop(object);
        let range = VaRange::of(start, P).unwrap();
        assert_eq!(mm.mprotect(range, RW), Err(Error::AccessDenied));
        assert_eq!(mm.mprotect(range, Prot::empty()), Ok(()));
        assert_eq!(mm.mprotect(range, Prot::READ | Prot::EXEC), Ok(()));
        let flags = mm.vma_at(start).unwrap().flags;
        assert!(flags.contains(VmFlags::MAYSHARE) && !flags.contains(VmFlags::MAYWRITE), "{flags:?}");
    });
}

#[test]
fn a_mapping_of_a_fixed_size_moves_and_does_nothing_else() {
    World::run(|world| {
        let mm = world.vm.new_mm().unwrap();
        let id = world.sources.register(vec![7; PAGE_SIZE]);
        let backing = MapBacking::Source { id, offset: 0 };
        let request = MmapRequest { prot: Prot::READ, flags: MapFlags::FIXED_SIZE, backing, ..anywhere(1) };
        let start = mm.mmap(request).unwrap();
        let (grow, move_to) = (RemapFlags::MAYMOVE, RemapFlags::MAYMOVE | RemapFlags::FIXED);
        assert_eq!(mm.mremap(start, P, 2 * P, grow, Va(0)), Err(Error::BadAddress));
        let twice = RemapFlags::MAYMOVE | RemapFlags::DONTUNMAP;
        assert!(matches!(mm.mremap(start, P, P, twice, Va(0)), Err(Error::Invalid(_))));
        assert_eq!(mm.mlock(start, P), Ok(()));
        assert_eq!(mm.mlockall(crate::MlockAll::CURRENT), Ok(()));
        assert!(matches!(mm.madvise(start, P, Advice::DoDump), Err(Error::Invalid(_))));
        assert_eq!(mm.madvise(start, P, Advice::Mergeable), Ok(()));
        let flags = mm.vma_at(start).unwrap().flags;
        assert!(flags.contains(VmFlags::DONTEXPAND | VmFlags::MAYWRITE | VmFlags::MAYEXEC), "{flags:?}");
        assert!(!flags.intersects(VmFlags::LOCKED | VmFlags::MERGEABLE), "{flags:?}");
        assert_eq!(mm.mremap(start, P, P, move_to, Va(500 * P)), Ok(Va(500 * P)));
        assert_eq!(mm.load(500 * P), Ok(7));
        assert_eq!(
            mm.mprotect(VaRange::of(Va(500 * P), P).unwrap(), RW),
            Ok(()),
            "a debugger's stores are private"
        );
        let only_read = MapFlags::FIXED_SIZE | MapFlags::ONLY_READ;
        let start = mm.mmap(MmapRequest { flags: only_read, ..request }).unwrap();
        assert_eq!(mm.mprotect(VaRange::of(start, P).unwrap(), RW), Err(Error::AccessDenied));
        assert_eq!(mm.load(start.0), Ok(7));
    });
}

#[test]
fn low_memory_is_found_between_one_and_two_gibibytes() {
    World::run(|world| {
        let mm = world.vm.new_mm().unwrap();
        let low = |n| MmapRequest { flags: MapFlags::LOW_32BIT, prot: Prot::READ, ..anywhere(n) };
        let start = mm.mmap(low(4)).unwrap();
        assert_eq!(start, Va(1 << 30));
        assert_eq!(mm.mmap(low(4)), Ok(Va((1 << 30) + 4 * P)));
        let hint = |va| MmapRequest { addr: Va(va), ..low(1) };
        assert_eq!(mm.mmap(hint(1 << 29)), Ok(Va(1 << 29)), "a hint may be lower");
        assert!(mm.mmap(hint(1 << 40)).unwrap().0 < 1 << 31, "but not higher");
        assert_eq!(mm.mmap(low((1 << 18) + 1)), Err(Error::NO_ROOM));
    });
}

#[test]
fn nothing_is_filled_that_is_not_to_block() {
    World::run(|world| {
        let mm = world.vm.new_mm().unwrap();
        let populate = MapFlags::POPULATE;
        mm.mmap(MmapRequest { flags: populate | MapFlags::NONBLOCK, ..anywhere(4) }).unwrap();
        assert_eq!(mm.counters().anon.0, 0);
        mm.mmap(MmapRequest { flags: populate, ..anywhere(4) }).unwrap();
        assert_eq!(mm.counters().anon.0, 4);
    });
}

#[test]
fn the_overcommit_mode_can_change() {
    World::run(|world| {
        let (mm, limit) = (world.vm.new_mm().unwrap(), world.vm.commit_limit());
        assert_eq!(limit, world.vm.stats().frames / 2);
        assert_eq!(mm.mmap(anywhere(1 << 20)), Err(Error::COMMIT_LIMIT));
        world.vm.set_overcommit(Overcommit::Always);
        let large = mm.mmap(anywhere(1 << 20)).unwrap();
        world.vm.set_overcommit(Overcommit::Never { percent: 50 });
        assert_eq!(mm.mmap(anywhere(1)), Err(Error::COMMIT_LIMIT), "what was promised stays");
        mm.munmap(VaRange::of(large, P << 20).unwrap()).unwrap();
        mm.mmap(anywhere(1)).unwrap();
        world.vm.set_overcommit_ratio(0);
        assert_eq!(mm.mmap(anywhere(1)), Err(Error::COMMIT_LIMIT));
        assert_eq!(world.vm.overcommit(), Overcommit::Never { percent: 0 });
        world.vm.set_overcommit_kbytes(8 * P / 1024);
        assert_eq!((world.vm.commit_limit(), world.vm.overcommit_ratio()), (8, 0));
        world.vm.set_overcommit(Overcommit::Always);
        world.vm.set_overcommit(Overcommit::Never { percent: 0 });
        assert_eq!(world.vm.overcommit_kbytes(), 8 * P / 1024, "the mode changes nothing but itself");
        world.vm.set_overcommit_ratio(50);
        assert_eq!((world.vm.commit_limit(), world.vm.overcommit_kbytes()), (limit, 0));
        world.vm.set_max_map_count(1);
        mm.mmap(MmapRequest { prot: Prot::READ, ..fixed(300, 1) }).unwrap();
        assert_eq!(mm.mmap(fixed(400, 1)), Err(Error::MAX_MAP_COUNT));
        world.vm.set_max_map_count(100);
        mm.mmap(fixed(400, 1)).unwrap();
    });
}

#[test]
fn droppable_memory_goes_when_memory_is_short_and_others_stay() {
    World::run(|world| {
        let mm = world.vm.new_mm().unwrap();
        let droppable = MmapRequest { flags: MapFlags::FIXED | MapFlags::DROPPABLE, ..fixed(16, 4) };
        mm.mmap(droppable).unwrap();
        mm.mmap(fixed(32, 4)).unwrap();
        (0..4).for_each(|i| {
            mm.store((16 + i) * P, 7).unwrap();
            mm.store((32 + i) * P, 8).unwrap();
        });
        assert_eq!(committed(&world.vm), 4, "what may go is not promised");
        assert!(world.vm.reclaim_some());
        assert_eq!(world.vm.stats().event(crate::Event::LazyFree), 4);
        (0..4).for_each(|i| {
            assert_eq!(mm.load((16 + i) * P), Ok(0), "gone, though it was written");
            assert_eq!(mm.load((32 + i) * P), Ok(8));
        });
        world.vm.validate().unwrap();
    });
}

#[test]
fn droppable_memory_is_neither_locked_nor_had_by_a_child_nor_merged() {
    World::run(|world| {
        let mm = world.vm.new_mm().unwrap();
        let droppable = MmapRequest { flags: MapFlags::FIXED | MapFlags::DROPPABLE, ..fixed(16, 4) };
        mm.mmap(droppable).unwrap();
        let invalid = |flags| {
            let request = MmapRequest { flags: droppable.flags | flags, ..droppable };
            assert!(matches!(mm.mmap(request), Err(Error::Invalid(_))), "{flags:?}");
        };
        invalid(MapFlags::LOCKED);
        invalid(MapFlags::GROWSDOWN);
        let shared = MmapRequest { backing: MapBacking::SharedNew, ..droppable };
        assert!(matches!(mm.mmap(shared), Err(Error::Invalid(_))));
        mm.store(16 * P, 7).unwrap();
        let child = mm.fork().unwrap();
        assert_eq!((mm.load(16 * P), child.load(16 * P)), (Ok(7), Ok(0)));
        mm.mlock(Va(16 * P), 4 * P).unwrap();
        assert_eq!(mm.counters().locked.0, 0);
        for advice in [Advice::KeepOnFork, Advice::DoDump] {
            assert!(matches!(mm.madvise(Va(16 * P), P, advice), Err(Error::Invalid(_))), "{advice:?}");
        }
        let flags = |mm: &Mm<'_, M>| {
            let mut found = VmFlags::empty();
            mm.for_each_vma(Va(16 * P), &mut |info| {
                found = info.flags;
                core::ops::ControlFlow::Break(())
            });
            found
        };
        mm.madvise(Va(16 * P), 4 * P, Advice::Mergeable).unwrap();
        assert!(!flags(&mm).contains(VmFlags::MERGEABLE) && flags(&mm).contains(VmFlags::DROPPABLE));
        let uffd = mm.userfaultfd(crate::UffdFaults::Any).unwrap();
        uffd.agree(crate::UffdFeatures::empty()).unwrap();
        assert!(uffd.register(Va(16 * P), 4 * P, crate::RegisterMode::MISSING).is_err());
    });
}

#[test]
fn promises_follow_the_overcommit_mode() {
    let config = Config { overcommit: Overcommit::Never { percent: 1 }, ..Config::default() };
    World::run_with(config, |world| {
        let (mm, limit) = (world.vm.new_mm().unwrap(), world.vm.commit_limit());
        assert_eq!(mm.mmap(anywhere(limit + 1)), Err(Error::COMMIT_LIMIT));
        let none = MmapRequest { prot: Prot::READ, ..anywhere(limit + 1) };
        let read_only = mm.mmap(none).unwrap();
        assert_eq!(committed(&world.vm), 0);
        let reserved = MmapRequest { flags: MapFlags::NORESERVE, ..anywhere(limit + 1) };
        assert_eq!(mm.mmap(reserved), Err(Error::COMMIT_LIMIT), "no such thing in this mode");
        mm.mmap(fixed(100, limit)).unwrap();
        assert_eq!(mm.mmap(shared(1)), Err(Error::COMMIT_LIMIT));
        mm.mmap(fixed(100, limit)).unwrap();
        assert_eq!(committed(&world.vm), limit, "what replaces a promise takes it over");
        let range = VaRange::of(read_only, P).unwrap();
        assert_eq!(mm.mprotect(range, RW), Err(Error::COMMIT_LIMIT));
        mm.munmap(pages(100, 1)).unwrap();
        assert_eq!(mm.mprotect(range, RW), Ok(()));
        assert_eq!(committed(&world.vm), limit);
        mm.mprotect(range, Prot::READ).unwrap();
        assert_eq!(committed(&world.vm), limit - 1, "never written: taken back");
    });
    World::run(|world| {
        let mm = world.vm.new_mm().unwrap();
        let reserved = MmapRequest { flags: MapFlags::NORESERVE, ..anywhere(1 << 20) };
        assert!(mm.mmap(reserved).is_ok());
        assert_eq!(committed(&world.vm), 0);
        assert_eq!(mm.mmap(anywhere(1 << 20)), Err(Error::COMMIT_LIMIT), "could never fit");
    });
}

#[test]
fn limits_are_those_of_setrlimit() {
    World::run(|world| {
        let mm = world.vm.new_mm().unwrap();
        let none = Limits { stack: u64::MAX, data: u64::MAX, space: u64::MAX, locked: u64::MAX };
        let locked = |n| MmapRequest { flags: MapFlags::LOCKED, ..anywhere(n) };
        mm.set_limits(Limits { space: 10 * P, data: 4 * P, locked: 2 * P, ..none });
        assert_eq!(mm.limits().locked, 2 * P);
        assert_eq!(mm.mmap(anywhere(5)), Err(Error::DATA), "data");
        assert_eq!(mm.mmap(MmapRequest { prot: Prot::READ, ..anywhere(11) }), Err(Error::SPACE));
        assert_eq!(mm.mmap(locked(3)), Err(Error::Again));
        let start = mm.mmap(locked(2)).unwrap();
        assert_eq!((mm.counters().anon.0, mm.counters().locked.0), (2, 2), "locked pages are there at once");
        assert_eq!(mm.mmap(locked(1)), Err(Error::Again));
        assert_eq!(mm.mmap(fixed(100, 2)).map(|_| ()), Ok(()));
        assert_eq!(mm.mmap(fixed(100, 2)).map(|_| ()), Ok(()), "in place of as much");
        mm.mmap(MmapRequest { prot: Prot::READ, ..fixed(200, 2) }).unwrap();
        assert_eq!(mm.mprotect(pages(200, 2), RW), Err(Error::DATA), "data");
        mm.set_limits(Limits { locked: 0, ..none });
        assert_eq!(mm.mmap(locked(1)), Err(Error::NotPermitted));
        mm.munmap(VaRange::of(start, 2 * P).unwrap()).unwrap();
        assert_eq!(mm.counters().locked.0, 0);
    });
}

#[test]
fn mappings_count_as_users_of_their_source_or_object() {
    World::run(|world| {
        let mm = world.vm.new_mm().unwrap();
        let source = world.sources.register(vec![5; 8 * PAGE_SIZE]);
        let of = |page: u64, n, first: u64| MmapRequest {
            backing: MapBacking::Source { id: source, offset: first * P },
            ..fixed(page, n)
        };
        mm.mmap(of(100, 2, 0)).unwrap();
        mm.mmap(of(102, 2, 2)).unwrap();
        assert_eq!((mm.counters().vmas, world.sources.users(source)), (1, 1), "it goes on");
        mm.mmap(of(104, 2, 6)).unwrap();
        assert_eq!((mm.counters().vmas, world.sources.users(source)), (2, 2), "it does not");
        assert_eq!((mm.load(103 * P), mm.load(105 * P)), (Ok(5), Ok(5)));
        mm.munmap(pages(101, 1)).unwrap();
        assert_eq!(world.sources.users(source), 3);
        assert_eq!(mm.load(103 * P), Ok(5));
        mm.munmap(pages(100, 10)).unwrap();
        assert_eq!(world.sources.users(source), 0);

        let start = mm.mmap(shared(3)).unwrap();
        assert_eq!(committed(&world.vm), 3);
        mm.store(start.0, 9).unwrap();
        let child = mm.fork().unwrap();
        child.store(start.0 + P, 8).unwrap();
        assert_eq!(mm.load(start.0 + P), Ok(8));
        mm.munmap(VaRange::of(start, 2 * P).unwrap()).unwrap();
        mm.munmap(VaRange::of(start, 3 * P).unwrap()).unwrap();
        assert_eq!((child.load(start.0), world.vm.stats().shared_objects), (Ok(9), 1));
        drop(child);
        assert_eq!((world.vm.stats().shared_objects, committed(&world.vm)), (0, 0));
    });
}

#[test]
fn an_object_refuses_writers_once_nobody_can_write_to_it() {
    World::run(|world| {
        let (mm, object) = (world.vm.new_mm().unwrap(), world.vm.shm_new_sparse(8).unwrap());
        let of = |page, n, prot, flags| MmapRequest {
            backing: MapBacking::Shared { object: object.id(), first: 0 },
            prot,
            flags: MapFlags::FIXED | flags,
            ..fixed(page, n)
        };
        let (plain, only_read) = (MapFlags::empty(), MapFlags::SHARED_READ_ONLY);
        mm.mmap(of(100, 8, RW, plain)).unwrap();
        mm.mprotect(pages(100, 8), Prot::READ).unwrap();
        assert!(!object.deny_writers(), "it may become writable again");
        // Split, had by a child, had twice, and all of it gone but for the child's.
        mm.munmap(pages(102, 1)).unwrap();
        let child = mm.fork().unwrap();
        child.mremap(Va(103 * P), 0, P, RemapFlags::MAYMOVE, Va(0)).unwrap();
        world.vm.validate().unwrap();
        assert_eq!(object.mappings(), 5);
        mm.munmap(pages(100, 8)).unwrap();
        assert!(!object.deny_writers());
        drop(child);
        mm.mmap(of(100, 8, Prot::READ, only_read)).unwrap();
        assert!(object.deny_writers() && object.deny_writers());
        assert_eq!(mm.mmap(of(200, 1, RW, plain)), Err(Error::NotPermitted));
        assert_eq!(mm.mmap(of(200, 1, Prot::READ, plain)), Err(Error::NotPermitted));
        assert_eq!(mm.mprotect(pages(100, 1), RW), Err(Error::AccessDenied));
        drop(mm.fork().unwrap());
        let held = object.page_at(0).unwrap();
        assert!(object.is_held());
        drop(held);
        assert!(!object.is_held());
        object.allow_writers();
        mm.mmap(of(200, 1, RW, plain)).unwrap();
        world.vm.validate().unwrap();
    });
}

#[test]
fn a_child_inherits_what_was_said_of_code_that_was_written() {
    World::run(|world| {
        let rwx = RW | Prot::EXEC;
        for (said, childs) in
            [(WriteExec::Refused, WriteExec::Refused), (WriteExec::RefusedHere, WriteExec::Allowed)]
        {
            let mm = world.vm.new_mm().unwrap();
            mm.mmap(MmapRequest { prot: rwx, ..fixed(100, 2) }).unwrap();
            mm.mmap(fixed(200, 2)).unwrap();
            mm.set_write_exec(said).unwrap();
            assert_eq!(mm.set_write_exec(WriteExec::Allowed), Err(Error::NotPermitted));
            let denied = Err(Error::AccessDenied);
            assert_eq!(mm.mmap(MmapRequest { prot: rwx, ..fixed(200, 2) }).map(drop), denied);
            assert_eq!(mm.mprotect(pages(200, 1), Prot::READ | Prot::EXEC), denied);
            assert_eq!(mm.mprotect(pages(100, 2), Prot::READ | Prot::EXEC), Ok(()));
            assert_eq!(mm.mprotect(pages(100, 2), rwx), denied);
            assert_eq!((mm.write_exec(), mm.fork().unwrap().write_exec()), (said, childs));
        }
        assert_eq!(world.vm.new_mm().unwrap().write_exec(), WriteExec::Allowed, "of a slot that was used");
    });
}

#[test]
fn what_is_mapped_to_be_filled_is_filled() {
    World::run(|world| {
        let mm = world.vm.new_mm().unwrap();
        mm.mmap(MmapRequest { flags: MapFlags::POPULATE, len: 3 * P - 1, ..anywhere(1) }).unwrap();
        assert_eq!(mm.counters().anon.0, 3);
        mm.slot().def_flags.set((VmFlags::LOCKED | VmFlags::LOCKONFAULT).bits());
        mm.mmap(anywhere(2)).unwrap();
        assert_eq!((mm.counters().anon.0, mm.counters().locked.0), (3, 2));
        mm.slot().def_flags.set(VmFlags::LOCKED.bits());
        mm.mmap(anywhere(2)).unwrap();
        assert_eq!((mm.counters().anon.0, mm.counters().locked.0), (5, 4));
    });
}

#[test]
fn mapping_fails_without_a_trace_at_every_allocation() {
    World::run(|world| {
        let source = world.sources.register(vec![5; 8 * PAGE_SIZE]);
        let backings =
            [MapBacking::Anonymous, MapBacking::SharedNew, MapBacking::Source { id: source, offset: 0 }];
        let make = || {
            let mm = world.vm.new_mm().unwrap();
            mm.mmap(fixed(100, 6)).unwrap();
            (100..106).for_each(|page| mm.store(page * P, page as u8).unwrap());
            mm
        };
        let mut failed = 0;
        for backing in backings {
            failed += world.fail_each_allocation(
                make,
                |mm: &Mm<'_, M>| mm.mmap(MmapRequest { backing, prot: Prot::READ, ..fixed(102, 2) }),
                |mm, error| {
                    assert_eq!(error, Error::OutOfMemory);
                    assert_eq!((mm.counters().vmas, committed(&world.vm)), (1, 6));
                    (100..106).for_each(|page| assert_eq!(mm.load(page * P), Ok(page as u8)));
                    assert_eq!((world.vm.stats().shared_objects, world.sources.users(source)), (0, 0));
                    world.vm.validate().unwrap();
                },
            );
        }
        assert!(failed >= 12, "only {failed} allocations failed");
    });
}

//! The heap: growing, shrinking, limits, and no memory.

use crate::{
    Limits, MapBacking, MapFlags, MmapRequest, Prot,
    testing::{P, World},
};
use anonmem_hal::Va;
use anonmem_hosted::Trap;

const START: u64 = 1000 * P + 100;

#[test]
fn the_heap_grows_as_one_mapping_and_shrinks() {
    World::run(|world| {
        let mm = world.vm.new_mm().unwrap();
        mm.set_brk_start(Va(START));
        let brk = |bytes: u64| mm.brk(Va(START + bytes)).0 - START;
        assert_eq!(brk(10), 10);
        assert_eq!(mm.counters().total.0, 0, "up to the end of the page nothing is mapped");
        assert_eq!(mm.load(START), Err(Trap::Unmapped));
        assert_eq!(brk(P), P);
        mm.store(START + P, 7).unwrap();
        assert_eq!(brk(5 * P), 5 * P);
        assert_eq!((mm.counters().vmas, mm.counters().total.0, mm.counters().data.0), (1, 5, 5));
        assert_eq!(mm.load(START + P), Ok(7));
        assert_eq!(brk(2 * P), 2 * P);
        assert_eq!(mm.counters().total.0, 2);
        assert_eq!(brk(3 * P), 3 * P);
        assert_eq!(mm.brk(Va(START - 1)).0, START + 3 * P, "not below its start");
        assert_eq!(mm.brk(Va(0)).0, START + 3 * P, "the usual question");
        assert_eq!(brk(0), 0);
        assert_eq!(mm.counters().total.0, 0);
        assert_eq!(world.vm.stats().committed, 0);
    });
}

#[test]
fn the_heap_stops_at_its_limits_and_a_page_before_its_neighbour() {
    World::run(|world| {
        let mm = world.vm.new_mm().unwrap();
        mm.set_brk_start(Va(1000 * P));
        let brk = |page: u64| mm.brk(Va(page * P)).0 / P;
        let neighbour = |page: u64, flags| MmapRequest {
            addr: Va(page * P),
            len: P,
            prot: Prot::READ,
            flags,
            backing: MapBacking::Anonymous,
        };
        mm.mmap(neighbour(1010, MapFlags::FIXED)).unwrap();
        assert_eq!(brk(1010), 1000);
        assert_eq!(brk(1009), 1009);
        assert_eq!(brk(1002), 1002);
        mm.mmap(neighbour(1300, MapFlags::FIXED | MapFlags::GROWSDOWN)).unwrap();
        mm.munmap(crate::testing::pages(1010, 1)).unwrap();
        assert_eq!(brk(1044), 1002, "a stack wants its gap");
        assert_eq!(brk(1043), 1043);
        let limits = mm.limits();
        mm.set_limits(Limits { data: 20 * P, ..limits });
        assert_eq!(brk(1044), 1043);
        assert_eq!(brk(1021), 1043, "beyond the limit, even if it shrinks");
        assert_eq!(brk(1020), 1020);
        mm.set_limits(Limits { space: 21 * P, ..limits });
        assert_eq!(brk(1021), 1020);
        mm.set_limits(limits);
        let child = mm.fork().unwrap();
        assert_eq!(child.brk(Va(0)), Va(1020 * P));
        assert_eq!(child.brk(Va(1021 * P)), Va(1021 * P));
        assert_eq!(brk(1020), 1020);
    });
}

#[test]
fn the_heap_stays_where_it_is_without_memory() {
    World::run(|world| {
        let failed = world.fail_each_allocation(
            || {
                let mm = world.vm.new_mm().unwrap();
                mm.set_brk_start(Va(1000 * P));
                mm
            },
            |mm| {
                let end = Va(1010 * P);
                if mm.brk(end) == end { Ok(()) } else { Err(crate::Error::OutOfMemory) }
            },
            |mm, _| {
                assert_eq!((mm.brk(Va(0)), world.vm.stats().committed), (Va(1000 * P), 0));
            },
        );
        assert!(failed > 0);
    });
}

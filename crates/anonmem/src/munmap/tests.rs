//! Unmapping: what is left, which tables go, and what CPUs still know.

use crate::{
    Error, Event, MapBacking, MapFlags, MmapRequest, Prot,
    testing::{P, World, pages},
};
use anonmem_hal::{Arch, Va, VaRange, arch::X86_64};
use anonmem_hosted::Trap;

/// Pages that a last-level table covers.
const TABLE: u64 = 512;

fn fixed(page: u64, n: u64) -> MmapRequest {
    MmapRequest {
        addr: Va(page * P),
        len: n * P,
        prot: Prot::READ | Prot::WRITE,
        flags: MapFlags::FIXED,
        backing: MapBacking::Anonymous,
    }
}

#[test]
fn a_hole_in_a_mapping_leaves_its_edges() {
    World::run(|world| {
        let mm = world.vm.new_mm().unwrap();
        mm.mmap(fixed(100, 10)).unwrap();
        for page in 100..110 {
            mm.store(page * P, page as u8).unwrap();
        }
        mm.munmap(pages(103, 4)).unwrap();
        world.vm.validate().unwrap();
        for page in 100..110 {
            let expected = if (103..107).contains(&page) { Err(Trap::Unmapped) } else { Ok(page as u8) };
            assert_eq!(mm.load(page * P), expected);
        }
        assert_eq!(mm.counters().vmas, 2);
        mm.mmap(fixed(103, 4)).unwrap();
        assert_eq!(mm.counters().vmas, 1, "both neighbours and the new mapping are one");
        world.vm.validate().unwrap();
        assert_eq!(mm.load(104 * P), Ok(0));
    });
}

#[test]
fn arguments_that_make_no_sense_get_linux_error_numbers() {
    World::run(|world| {
        let (mm, end) = (world.vm.new_mm().unwrap(), X86_64::USER_END.0);
        let munmap = |start, end| mm.munmap(VaRange { start: Va(start), end: Va(end) }).map_err(Error::errno);
        assert_eq!(munmap(P, P), Err(22), "empty");
        assert_eq!(munmap(P + 1, 2 * P), Err(22), "not at a page");
        assert_eq!(munmap(end - P, end + 1), Err(22), "beyond the end");
        assert_eq!(munmap(P, u64::MAX), Err(22), "cannot be rounded up");
        assert_eq!(munmap(0, end), Ok(()), "nothing there");
        mm.mmap(fixed(100, 2)).unwrap();
        assert_eq!(munmap(100 * P, 100 * P + 1), Ok(()), "rounded up");
        assert_eq!(mm.counters().total.0, 1);
    });
}

#[test]
fn tables_go_with_the_last_mapping_that_uses_them() {
    World::run(|world| {
        let mm = world.vm.new_mm().unwrap();
        let tables = || mm.counters().tables.0;
        let touch = |page: u64| {
            mm.mmap(fixed(page, 1)).unwrap();
            mm.store(page * P, 1).unwrap();
        };
        assert_eq!(tables(), 1);
        touch(TABLE);
        let one = tables();
        touch(2 * TABLE - 1);
        assert_eq!(tables(), one, "the same table");
        touch(2 * TABLE + 5);
        assert_eq!(tables(), one + 1);
        mm.munmap(pages(TABLE, 1)).unwrap();
        assert_eq!(tables(), one + 1, "a neighbour uses it");
        mm.munmap(pages(TABLE, TABLE + 2)).unwrap();
        assert_eq!(tables(), one);
        // A mapping far away needs tables of its own on every level, which go with it.
        touch(1 << 27);
        assert_eq!(tables(), one + 3);
        mm.munmap(pages(1 << 26, 1 << 27)).unwrap();
        assert_eq!(tables(), one);
        mm.munmap(VaRange { start: Va(0), end: X86_64::USER_END }).unwrap();
        assert_eq!(tables(), 1);
        world.vm.validate().unwrap();
    });
}

#[test]
fn a_cpu_forgets_what_was_unmapped() {
    World::run(|world| {
        let mm = world.vm.new_mm().unwrap();
        mm.mmap(fixed(100, 600)).unwrap();
        let user = mm.user();
        (100..700).for_each(|page| user.store(Va(page * P), &[3]).unwrap());
        let frames = world.vm.stats().user;
        mm.munmap(pages(101, 598)).unwrap();
        assert_eq!(world.vm.stats().user, frames - 598);
        for page in 100..700 {
            let mut byte = [0];
            let there = page == 100 || page == 699;
            let expected = if there { Ok(()) } else { Err(Trap::Unmapped) };
            assert_eq!(user.load(Va(page * P), &mut byte), expected);
            assert_eq!(byte[0], if there { 3 } else { 0 });
        }
    });
}

#[test]
fn many_mappings_go_at_once() {
    World::run(|world| {
        let mm = world.vm.new_mm().unwrap();
        for page in 0..300 {
            mm.mmap(fixed(1000 + 2 * page, 1)).unwrap();
            mm.store((1000 + 2 * page) * P, 1).unwrap();
        }
        assert_eq!(mm.counters().vmas, 300);
        mm.munmap(pages(1001, 597)).unwrap();
        let left = mm.counters();
        assert_eq!((left.vmas, left.anon.0, left.total.0, left.committed.0), (2, 2, 2, 2));
        world.vm.validate().unwrap();
        assert_eq!(world.vm.stats().event(Event::VmaSplit), 0);
    });
}

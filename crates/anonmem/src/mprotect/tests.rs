//! Protecting: what programs may do afterwards, through TLBs that knew otherwise.

use crate::{
    Error, Event, MapBacking, MapFlags, MmapRequest, Prot, VmFlags,
    testing::{P, World, pages},
};
use anonmem_hal::{Va, VaRange};
use anonmem_hosted::Trap;

const RW: Prot = Prot::READ.union(Prot::WRITE);

fn fixed(page: u64, n: u64) -> MmapRequest {
    MmapRequest {
        addr: Va(page * P),
        len: n * P,
        prot: RW,
        flags: MapFlags::FIXED,
        backing: MapBacking::Anonymous,
    }
}

#[test]
fn rights_that_are_taken_away_are_gone_at_once() {
    World::run(|world| {
        let mm = world.vm.new_mm().unwrap();
        mm.mmap(fixed(100, 3)).unwrap();
        let (user, va, mut byte) = (mm.user(), Va(101 * P), [0]);
        user.store(va, &[4]).unwrap();
        let flushes = || world.vm.stats().event(Event::TlbFlush);
        let before = flushes();
        mm.mprotect(pages(101, 1), Prot::READ).unwrap();
        assert_eq!(flushes(), before + 1, "one flush");
        assert_eq!(user.store(va, &[5]), Err(Trap::Denied));
        assert_eq!(user.load(va, &mut byte), Ok(()));
        mm.mprotect(pages(101, 1), Prot::empty()).unwrap();
        assert_eq!(user.load(va, &mut byte), Err(Trap::Denied));
        mm.mprotect(pages(101, 1), RW).unwrap();
        assert_eq!(flushes(), before + 2, "giving rights needs none");
        assert_eq!(user.load(va, &mut byte), Ok(()));
        assert_eq!(byte, [4]);
        assert_eq!(user.store(va, &[5]), Ok(()));
        assert_eq!(user.fetch(va), Err(Trap::Denied));
        mm.mprotect(pages(101, 1), RW | Prot::EXEC | Prot::SEM).unwrap();
        assert_eq!(user.fetch(va), Ok(5));
        mm.mprotect(pages(100, 3), RW).unwrap();
        assert_eq!(user.fetch(va), Err(Trap::Denied));
        assert_eq!(mm.counters().vmas, 1);
    });
}

#[test]
fn a_page_shared_by_fork_stays_shared_when_it_becomes_writable() {
    World::run(|world| {
        let mm = world.vm.new_mm().unwrap();
        mm.mmap(fixed(100, 2)).unwrap();
        mm.store(100 * P, 1).unwrap();
        mm.load(101 * P).unwrap();
        let child = mm.fork().unwrap();
        for prot in [Prot::empty(), RW] {
            child.mprotect(pages(100, 2), prot).unwrap();
        }
        world.vm.validate().unwrap();
        child.store(100 * P, 2).unwrap();
        child.store(101 * P, 3).unwrap();
        assert_eq!((mm.load(100 * P), mm.load(101 * P)), (Ok(1), Ok(0)));
        assert_eq!((child.load(100 * P), child.load(101 * P)), (Ok(2), Ok(3)));
    });
}

#[test]
fn arguments_that_make_no_sense_get_linux_error_numbers() {
    World::run(|world| {
        let mm = world.vm.new_mm().unwrap();
        mm.mmap(fixed(100, 2)).unwrap();
        mm.mmap(fixed(104, 2)).unwrap();
        let protect = |start, end, prot| {
            mm.mprotect(VaRange { start: Va(start), end: Va(end) }, prot).map_err(Error::errno)
        };
        let unknown = Prot::from_bits_retain(1 << 9);
        assert_eq!(protect(100 * P + 1, 101 * P, RW), Err(22), "not at a page");
        assert_eq!(protect(100 * P, 100 * P, unknown), Ok(()), "nothing to do");
        assert_eq!(protect(100 * P, 101 * P, unknown), Err(22));
        assert_eq!(protect(100 * P, 101 * P, Prot::GROWSDOWN | Prot::GROWSUP), Err(22));
        assert_eq!(protect(100 * P, 101 * P, Prot::GROWSDOWN), Err(22), "no stack");
        assert_eq!(protect(100 * P, 101 * P, Prot::GROWSUP), Err(22), "no stack grows up");
        assert_eq!(protect(100 * P, u64::MAX, RW), Err(12));
        assert_eq!(protect(90 * P, 101 * P, RW), Err(12), "starts in a hole");
        assert_eq!(protect(200 * P, 201 * P, RW), Err(12));
        assert_eq!(mm.counters().vmas, 2);
        // What comes before the hole is changed.
        assert_eq!(protect(101 * P, 106 * P, Prot::READ), Err(12));
        assert_eq!((mm.store(101 * P, 1), mm.store(104 * P, 1)), (Err(Trap::Denied), Ok(())));
        assert_eq!(protect(100 * P, 100 * P + 1, Prot::empty()), Ok(()), "rounded up");
        assert_eq!(mm.load(100 * P), Err(Trap::Denied));
    });
}

#[test]
fn a_mapping_gets_no_rights_that_it_may_not_have() {
    World::run(|world| {
        let mm = world.vm.new_mm().unwrap();
        let id = mm.map_raw(pages(100, 2), VmFlags::READ | VmFlags::MAYREAD, crate::vma::Backing::Anonymous);
        assert_eq!(mm.mprotect(pages(100, 1), RW), Err(Error::AccessDenied));
        assert_eq!(mm.mprotect(pages(100, 1), Prot::EXEC), Err(Error::AccessDenied));
        assert_eq!(mm.mprotect(pages(100, 2), Prot::empty()), Ok(()));
        assert_eq!(world.vm.vma(id).flags(), VmFlags::MAYREAD);
    });
}

#[test]
fn a_stack_is_protected_from_its_start() {
    World::run(|world| {
        let mm = world.vm.new_mm().unwrap();
        let flags = MapFlags::FIXED | MapFlags::GROWSDOWN;
        mm.mmap(MmapRequest { flags, ..fixed(5000, 8) }).unwrap();
        mm.mprotect(pages(5004, 2), Prot::READ | Prot::GROWSDOWN).unwrap();
        assert_eq!(mm.store(5000 * P, 1), Err(Trap::Denied));
        assert_eq!(mm.store(5006 * P, 1), Ok(()));
        assert_eq!(mm.counters().stack.0, 8);
    });
}

#[test]
fn locked_memory_that_becomes_writable_does_not_fault() {
    World::run(|world| {
        let mm = world.vm.new_mm().unwrap();
        let locked = MapFlags::FIXED | MapFlags::LOCKED;
        mm.mmap(MmapRequest { flags: locked, prot: Prot::READ, ..fixed(100, 3) }).unwrap();
        assert_eq!(mm.counters().anon.0, 0, "zero pages");
        mm.mprotect(pages(100, 3), RW).unwrap();
        assert_eq!(mm.counters().anon.0, 3);
        let faults = world.vm.stats().event(Event::Fault);
        let user = mm.user();
        (100..103).for_each(|page| user.store(Va(page * P), &[1]).unwrap());
        assert_eq!(world.vm.stats().event(Event::Fault), faults);
    });
}

#[test]
fn a_promise_is_charged_once_and_kept_while_there_may_be_pages() {
    World::run(|world| {
        let mm = world.vm.new_mm().unwrap();
        let committed = || world.vm.stats().committed;
        mm.mmap(MmapRequest { prot: Prot::READ, ..fixed(100, 4) }).unwrap();
        assert_eq!(committed(), 0);
        mm.mprotect(pages(100, 2), RW).unwrap();
        assert_eq!(committed(), 2);
        mm.mprotect(pages(100, 1), Prot::READ).unwrap();
        assert_eq!(committed(), 1, "no page was written");
        mm.mprotect(pages(100, 1), RW).unwrap();
        mm.store(100 * P, 1).unwrap();
        mm.mprotect(pages(100, 2), Prot::READ).unwrap();
        assert_eq!(committed(), 2, "pages were written");
        mm.mprotect(pages(100, 2), RW).unwrap();
        assert_eq!(committed(), 2);
        world.vm.validate().unwrap();
    });
}

//! Bytes of other address spaces, references without pins, and ranges that are pinned in part.

use super::{AT, READ, WRITE, dma_read, frame, program, reclaim, with_swap};
use crate::{
    Advice, Error, Event, Limits, Mm, PartlyPinned, PinFlags, Prot, RemoteBytes,
    testing::{M, P, RW, World, first_page, pages},
    vma::{Backing, VmFlags},
};
use anonmem_hal::{Pte, Va};
use anonmem_hosted::FailurePlan;
use std::{vec, vec::Vec};

const FORCE: PinFlags = PinFlags::FORCE;

fn peek(mm: &Mm<'_, M>, at: u64, len: usize, flags: PinFlags) -> Result<Vec<u8>, Error> {
    let mut bytes = vec![0xee; len];
    let n = mm.access_remote(Va(at), RemoteBytes::Read(&mut bytes), flags)?;
    bytes.truncate(n);
    Ok(bytes)
}

fn poke(mm: &Mm<'_, M>, at: u64, bytes: &[u8], flags: PinFlags) -> Result<usize, Error> {
    mm.access_remote(Va(at), RemoteBytes::Write(bytes), flags)
}

fn is_writable(w: &World, mm: &Mm<'_, M>, va: u64) -> bool {
    let guard = mm.read();
    let table = mm.slot().space.walk(&w.vm.frames, &guard, Va(va)).unwrap();
    matches!(table.peek(Va(va)), Pte::Present(present) if present.prot.write)
}

#[test]
fn bytes_are_moved_over_pages_and_mappings_up_to_the_first_that_is_not_there() {
    World::run(|w| {
        let mm = program(w, 3);
        mm.mprotect(pages(17, 1), Prot::READ | Prot::WRITE | Prot::EXEC).unwrap();
        assert_eq!(poke(&mm, AT + P - 2, &[7, 8, 9, 10], READ), Ok(4));
        assert_eq!(peek(&mm, AT + P - 3, 6, READ), Ok(vec![0, 7, 8, 9, 10, 0]));
        assert_eq!((mm.load(AT + P - 1), mm.load(AT + P)), (Ok(8), Ok(9)));
        // A hole, and what may not be written: as much as there is before it.
        assert_eq!(peek(&mm, AT + 3 * P - 2, 10, READ), Ok(vec![0, 0]));
        assert_eq!(peek(&mm, AT + 3 * P, 1, READ), Err(Error::BadAddress));
        assert_eq!(peek(&mm, u64::MAX - 1, 8, FORCE), Err(Error::BadAddress));
        assert_eq!(peek(&mm, AT, 0, READ), Ok(vec![]));
        mm.mprotect(pages(18, 1), Prot::READ).unwrap();
        assert_eq!(poke(&mm, AT + 2 * P - 1, &[5, 6], READ), Ok(1));
        assert_eq!(poke(&mm, AT + 2 * P, &[6], READ), Err(Error::BadAddress));
        assert_eq!((mm.load(AT + 2 * P - 1), mm.load(AT + 2 * P)), (Ok(5), Ok(3)));
        assert_eq!(w.vm.validate().map(|()| w.vm.pins.live()), Ok(0));
    });
}

#[test]
fn bytes_of_one_mapping_are_moved_page_by_page_up_to_a_guard() {
    World::run(|w| {
        let mm = w.vm.new_mm().unwrap();
        mm.map_raw(pages(16, 5), RW, Backing::Anonymous);
        // No page's frame follows that of the page before.
        (0..5).rev().for_each(|i| mm.store(AT + i * P, i as u8).unwrap());
        let bytes: Vec<u8> = (0..2 * P + 4).map(|i| (i % 253) as u8).collect();
        assert_eq!(poke(&mm, AT + P - 2, &bytes, READ), Ok(bytes.len()));
        assert_eq!(peek(&mm, AT + P - 2, bytes.len(), READ), Ok(bytes.clone()));
        for i in [0, 1, 2, 3, P + 1, P + 2, 2 * P + 1, 2 * P + 2, 2 * P + 3] {
            assert_eq!(mm.load(AT + P - 2 + i), Ok((i % 253) as u8), "byte {i}");
        }
        mm.madvise(Va(AT + 3 * P), P, Advice::GuardInstall).unwrap();
        assert_eq!(peek(&mm, AT + 3 * P - 2, 8, READ).map(|bytes| bytes.len()), Ok(2));
        assert_eq!(poke(&mm, AT + 3 * P - 2, &[5; 8], READ), Ok(2));
        assert_eq!(peek(&mm, AT + 3 * P, 8, READ), Err(Error::BadAddress));
        w.vm.validate().unwrap();
    });
}

#[test]
fn who_looks_takes_no_copy_and_who_writes_breaks_sharing() {
    World::run(|w| {
        let parent = program(w, 2);
        let child = parent.fork().unwrap();
        assert_eq!(peek(&child, AT, 1, READ), Ok(vec![1]));
        assert_eq!(frame(&child, AT), frame(&parent, AT), "it is as shared as before");
        assert_eq!(poke(&child, AT, &[9], READ), Ok(1));
        assert_eq!((parent.load(AT), child.load(AT)), (Ok(1), Ok(9)));
        assert!(child.pagemap(Va(AT)).exclusive);
        // Nothing there: the zero page is enough to look.
        let fresh = w.vm.new_mm().unwrap();
        fresh.map_raw(pages(16, 2), RW, Backing::Anonymous);
        assert_eq!(peek(&fresh, AT, 2, READ), Ok(vec![0, 0]));
        assert_eq!((fresh.counters().anon.0, w.vm.stats().event(Event::FaultUnshare)), (0, 0));
        assert_eq!(poke(&fresh, AT + P, &[4], READ), Ok(1));
        assert_eq!(fresh.load(AT + P), Ok(4));
        w.vm.validate().unwrap();
    });
}

#[test]
fn force_reads_what_nobody_may_and_writes_what_stays_read_only() {
    World::run(|w| {
        let parent = program(w, 2);
        let child = parent.fork().unwrap();
        child.mprotect(pages(16, 1), Prot::READ).unwrap();
        assert_eq!(poke(&child, AT, &[9], READ), Err(Error::BadAddress));
        assert_eq!(poke(&child, AT, &[9], FORCE), Ok(1));
        assert_eq!((child.load(AT), parent.load(AT)), (Ok(9), Ok(1)));
        assert!(!is_writable(w, &child, AT) && child.store(AT, 1).is_err());
        child.mprotect(pages(16, 1), Prot::empty()).unwrap();
        assert_eq!(peek(&child, AT, 1, READ), Err(Error::BadAddress));
        assert_eq!(peek(&child, AT, 1, FORCE), Ok(vec![9]));
        assert_eq!(poke(&child, AT, &[8], FORCE), Ok(1));
        assert!(child.load(AT).is_err());
        child.mprotect(pages(16, 1), Prot::READ | Prot::WRITE).unwrap();
        assert_eq!(child.load(AT), Ok(8));
        // A guard is no protection that force is above.
        child.madvise(Va(AT), P, Advice::GuardInstall).unwrap();
        assert_eq!(peek(&child, AT, 1, FORCE), Err(Error::BadAddress));
        w.vm.validate().unwrap();
    });
}

#[test]
fn force_writes_to_nothing_that_others_have_by_right() {
    World::run(|w| {
        let object = w.vm.shm_new(1).unwrap();
        let mm = w.vm.new_mm().unwrap();
        let read_only = (RW | VmFlags::SHARED) - VmFlags::WRITE - VmFlags::ACCOUNT;
        mm.map_raw(pages(16, 1), read_only, Backing::Shared(object.id()));
        drop(object);
        assert_eq!(poke(&mm, AT, &[1], FORCE), Err(Error::BadAddress));
        assert_eq!(peek(&mm, AT, 1, READ), Ok(vec![0]));
    });
}

#[test]
fn bytes_in_swap_are_brought_back_and_what_was_written_is_not_dropped() {
    with_swap(|w| {
        let mm = program(w, 2);
        assert!(reclaim(w, frame(&mm, AT)));
        assert_eq!(
            mm.access_remote(Va(AT), RemoteBytes::Read(&mut [0]), PinFlags::NOFAULT),
            Err(Error::BadAddress)
        );
        assert_eq!(peek(&mm, AT, 1, READ), Ok(vec![1]));
        assert!(reclaim(w, frame(&mm, AT)));
        mm.mprotect(pages(16, 1), Prot::READ).unwrap();
        assert_eq!(poke(&mm, AT, &[6], FORCE), Ok(1));
        assert!(reclaim(w, frame(&mm, AT)));
        assert_eq!(mm.load(AT), Ok(6), "no dirty bit says that it was written");
        mm.madvise(Va(AT + P), P, Advice::Free).unwrap();
        assert_eq!(poke(&mm, AT + P, &[7], READ), Ok(1));
        assert!(reclaim(w, frame(&mm, AT + P)));
        assert_eq!(mm.load(AT + P), Ok(7));
    });
}

#[test]
fn a_look_keeps_the_page_and_keeps_nobody_from_anything() {
    with_swap(|w| {
        let parent = program(w, 2);
        let look = parent.look(Va(AT), READ).unwrap();
        let read = |look: &crate::PageLook<'_, M>| {
            let mut byte = [0];
            look.read(0, &mut byte);
            byte[0]
        };
        parent.store(AT, 5).unwrap();
        assert_eq!((look.page(), read(&look)), (frame(&parent, AT), 5));
        // CVE-2020-29374 with a reference: the child looks, unmaps, and the parent writes.
        let child = parent.fork().unwrap();
        assert_eq!(frame(&child, AT), look.page(), "a reference keeps no page from being shared");
        let theirs = child.look(Va(AT + P), READ).unwrap();
        child.munmap(pages(16, 2)).unwrap();
        parent.store(AT + P, 99).unwrap();
        assert_eq!((read(&theirs), parent.load(AT + P)), (2, Ok(99)));
        drop((parent, child));
        assert_eq!((read(&look), read(&theirs)), (5, 2), "nobody else was given the frames");
        drop((look, theirs));
        assert_eq!(w.vm.stats().user, 0);
    });
}

#[test]
fn a_range_is_pinned_as_far_as_it_goes_and_charged_for_that() {
    World::run(|w| {
        let mm = program(w, 3);
        let long = WRITE | PinFlags::LONGTERM;
        let PartlyPinned { pinned, stopped } = mm.pin_some(pages(16, 5), long).unwrap();
        assert_eq!((pinned.range(), stopped), (pages(16, 3), Some(Error::BadAddress)));
        assert_eq!(mm.counters().pinned.0, 3);
        assert_eq!(mm.pin_some(pages(19, 1), long).err(), Some(Error::BadAddress));
        let whole = mm.pin_some(pages(16, 2), long).unwrap();
        assert_eq!((whole.pinned.pages().0, whole.stopped, mm.counters().pinned.0), (2, None, 5));
        drop((pinned, whole));
        assert_eq!(mm.counters().pinned.0, 0);
        w.vm.validate().unwrap();
    });
}

#[test]
fn pages_of_another_are_pinned_and_charged_to_who_pins() {
    World::run(|w| {
        let (driver, mm) = (w.vm.new_mm().unwrap(), program(w, 4));
        driver.set_limits(Limits { locked: 2 * P, ..driver.limits() });
        let long = WRITE | PinFlags::LONGTERM;
        assert_eq!(driver.pin_remote(&mm, pages(16, 3), long).err(), Some(Error::LOCKED));
        let pinned = driver.pin_remote(&mm, pages(17, 2), long).unwrap();
        assert_eq!((driver.counters().pinned.0, mm.counters().pinned.0), (2, 0));
        assert_eq!((first_page(&pinned), dma_read(w, first_page(&pinned))), (frame(&mm, AT + P), 2));
        drop(mm);
        w.vm.validate().unwrap();
        drop(pinned);
        assert_eq!((driver.counters().pinned.0, w.vm.stats().user), (0, 0));
    });
}

#[test]
fn who_grabs_an_address_space_finds_it_or_that_it_has_ended() {
    World::run(|w| {
        let mm = program(w, 1);
        let grab = mm.grab();
        assert!(grab.user(&w.vm).is_some_and(|user| user.is(&mm)));
        drop(mm);
        let others: Vec<_> = (0..3).map(|_| program(w, 1)).collect();
        assert!(grab.user(&w.vm).is_none(), "its slot is nobody else's");
        drop(others);
        w.vm.validate().unwrap();
        drop(grab);
        assert_eq!(w.vm.stats().mms, 0);
    });
}

#[test]
fn without_memory_bytes_are_moved_as_far_as_it_goes() {
    World::run(|w| {
        let failed = w.fail_each_allocation(
            || {
                let parent = program(w, 3);
                let child = parent.fork().unwrap();
                (parent, child)
            },
            |(_, child)| match poke(child, AT, &[9; 3 * P as usize], READ) {
                Ok(n) if n < 3 * P as usize => Err(Error::OutOfMemory),
                other => other.map(drop),
            },
            |(parent, child), e| {
                assert_eq!(e, Error::OutOfMemory);
                assert_eq!(parent.load(AT + 2 * P), Ok(3));
                assert_eq!(child.load(AT + 2 * P), Ok(3), "the last page comes last");
                assert_eq!(w.vm.validate().map(|()| w.vm.pins.live()), Ok(0));
            },
        );
        assert!(failed >= 3, "only {failed} failed");
        w.failures.set(FailurePlan::Off);
    });
}

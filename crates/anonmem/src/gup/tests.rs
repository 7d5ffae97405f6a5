//! What pins promise, and what they cost.

mod large;
mod ranges;
mod remote;
mod shared;

use super::{PinFlags, Unpin};
use crate::{
    Advice, Error, Event, Limits, Mm, Prot,
    testing::{M, P, RW, World, first_page, pages},
    vma::{Backing, VmFlags},
};
use anonmem_hal::{Pfn, Va, VaRange};
use anonmem_hosted::FailurePlan;
use std::vec::Vec;

const AT: u64 = 16 * P;
const READ: PinFlags = PinFlags::empty();
const WRITE: PinFlags = PinFlags::WRITE;

/// A program with `n` pages, each with its number in it.
fn program(w: &World, n: u64) -> Mm<'_, M> {
    let mm = w.vm.new_mm().unwrap();
    mm.map_raw(pages(16, n), RW, Backing::Anonymous);
    (0..n).for_each(|i| mm.store(AT + i * P, i as u8 + 1).unwrap());
    mm
}

fn with_swap(f: impl FnOnce(&World)) {
    World::run(|w| {
        w.vm.swap_on(0, 64, 0).unwrap();
        f(w);
        w.vm.swap_off(0).unwrap();
    });
}

#[test]
fn more_than_memory_holds_is_refused_and_not_tried_for_ever() {
    World::run(|w| {
        w.vm.swap_on(0, 8192, 0).unwrap();
        let mm = w.vm.new_mm().unwrap();
        mm.map_raw(pages(16, 6000), RW, Backing::Anonymous);
        let all = VaRange::new(Va(AT), Va(AT + 6000 * P));
        // What is pinned was let go before, and swapped out: the next attempt found as much memory as the
        // last.
        assert_eq!(mm.pin_fast(all, WRITE).err(), Some(Error::OutOfMemory));
        assert_eq!(mm.pin(all, WRITE).err(), Some(Error::OutOfMemory));
        let some = mm.pin_some(all, WRITE).unwrap();
        assert!(some.pinned.pages().0 > 1000 && some.stopped == Some(Error::OutOfMemory));
        drop(some);
        mm.store(AT, 7).unwrap();
        assert_eq!(mm.load(AT), Ok(7));
        drop(mm);
        w.vm.swap_off(0).unwrap();
    });
}

/// The first byte of a page, as a device reads it.
fn dma_read(w: &World, page: Pfn) -> u8 {
    let mut byte = [0];
    w.vm.machine().arena().read(page, 0, &mut byte);
    byte[0]
}

/// Sets it, as a device does.
fn dma_write(w: &World, page: Pfn, byte: u8) {
    w.vm.machine().arena().write(page, 0, &[byte]);
}

fn frame(mm: &Mm<'_, M>, va: u64) -> Pfn {
    mm.pagemap(Va(va)).pfn.expect("present")
}

fn reclaim(w: &World, page: Pfn) -> bool {
    w.vm.frames.try_get(page).is_some_and(|folio| w.vm.reclaim_folio(folio))
}

#[test]
fn device_and_program_see_one_another_through_a_pin() {
    World::run(|w| {
        let mm = w.vm.new_mm().unwrap();
        mm.map_raw(pages(16, 300), RW, Backing::Anonymous);
        mm.store(AT + 299 * P, 3).unwrap();
        let pinned = mm.pin(VaRange { start: Va(AT + 5), end: Va(AT + 299 * P + 1) }, WRITE).unwrap();
        assert_eq!((pinned.range(), pinned.pages().0), (pages(16, 300), 300));
        let runs: Vec<_> = pinned.runs().collect();
        assert!(runs.iter().enumerate().all(|(i, run)| run.first == frame(&mm, AT + i as u64 * P)));
        assert_eq!(dma_read(w, runs[299].first), 3);
        dma_write(w, runs[7].first, 70);
        mm.store(AT + 8 * P, 80).unwrap();
        assert_eq!((mm.load(AT + 7 * P), dma_read(w, runs[8].first)), (Ok(70), 80));
        assert_eq!(w.vm.stats().event(Event::PinSlow), 300);
        w.vm.validate().unwrap();
        drop(pinned);
        w.vm.validate().unwrap();
    });
}

#[test]
fn a_read_pin_of_a_shared_page_gets_a_page_of_its_own_that_stays_read_only() {
    World::run(|w| {
        let parent = program(w, 2);
        let child = parent.fork().unwrap();
        let shared = frame(&child, AT);
        let pinned = child.pin(pages(16, 1), READ).unwrap();
        let own = first_page(&pinned);
        assert!(own != shared && frame(&child, AT) == own && child.pagemap(Va(AT)).exclusive);
        assert_eq!((dma_read(w, own), w.vm.stats().event(Event::FaultUnshare)), (1, 1));
        let guard = child.read();
        let entry =
            child.slot().space.walk(&w.vm.frames, &guard, Va(AT)).unwrap().table().unwrap().peek(Va(AT));
        assert!(matches!(entry, anonmem_hal::Pte::Present(p) if !p.prot.write && !p.dirty), "{entry:?}");
        drop(guard);
        // The page is never replaced: what the program writes later, the device sees.
        child.store(AT, 9).unwrap();
        assert_eq!((dma_read(w, own), parent.load(AT)), (9, Ok(1)));
        // Whose page it is alone by now takes no copy.
        drop(child.pin(pages(17, 1), READ).unwrap());
        let alone = frame(&parent, AT + P);
        let pinned = parent.pin(pages(17, 1), READ).unwrap();
        assert_eq!((first_page(&pinned), w.vm.stats().event(Event::FaultUnshare)), (alone, 2));
        w.vm.validate().unwrap();
    });
}

#[test]
fn a_child_that_keeps_a_pin_reads_nothing_of_its_parents_later() {
    // CVE-2020-29374.
    World::run(|w| {
        let parent = program(w, 1);
        let child = parent.fork().unwrap();
        let pinned = child.pin(pages(16, 1), READ).unwrap();
        child.munmap(pages(16, 1)).unwrap();
        parent.store(AT, 99).unwrap();
        assert_eq!(dma_read(w, first_page(&pinned)), 1);
        w.vm.validate().unwrap();
    });
}

#[test]
fn the_zero_page_is_pinned_by_nobody() {
    World::run(|w| {
        let mm = w.vm.new_mm().unwrap();
        mm.map_raw(pages(16, 4), RW, Backing::Anonymous);
        let looked_at = mm.pin(pages(16, 2), READ).unwrap();
        let zero = w.vm.frames.zero_page();
        assert!(looked_at.runs().all(|run| run.first == zero && looked_at.folio(run).is_none()));
        assert_eq!((looked_at.pages().0, mm.counters().anon.0), (2, 0));
        let long = mm.pin(pages(16, 2), PinFlags::LONGTERM).unwrap();
        let written = mm.pin(pages(18, 2), WRITE).unwrap();
        assert!(long.runs().chain(written.runs()).all(|run| run.first != zero));
        mm.store(AT, 5).unwrap();
        assert_eq!(dma_read(w, first_page(&long)), 5, "the page was the program's own");
        w.vm.validate().unwrap();
    });
}

#[test]
fn a_pinned_page_stays_with_its_parent_through_a_thousand_forks() {
    World::run(|w| {
        let parent = program(w, 2);
        let pinned = parent.pin(pages(16, 1), WRITE).unwrap();
        for round in 0..1000_u32 {
            let child = parent.fork().unwrap();
            dma_write(w, first_page(&pinned), round as u8);
            assert_eq!(parent.load(AT), Ok(round as u8));
            assert!(
                frame(&child, AT) != frame(&parent, AT) && frame(&child, AT + P) == frame(&parent, AT + P)
            );
            parent.store(AT, 1).unwrap();
        }
        let stats = w.vm.stats();
        assert_eq!((stats.event(Event::ForkCopied), stats.event(Event::FaultCowCopy)), (1000, 0));
        assert_eq!(frame(&parent, AT), first_page(&pinned));
        // Once it is unpinned, it is shared like any other.
        drop(pinned);
        let child = parent.fork().unwrap();
        assert_eq!(frame(&child, AT), frame(&parent, AT));
    });
}

#[test]
fn reclaim_leaves_a_pinned_page_alone_and_takes_it_afterwards() {
    with_swap(|w| {
        let mm = program(w, 1);
        let pinned = mm.pin(pages(16, 1), READ).unwrap();
        mm.madvise(Va(AT), P, Advice::PageOut).unwrap();
        assert!(!reclaim(w, first_page(&pinned)));
        assert_eq!(w.vm.shrink(1), 0);
        assert!(w.vm.stats().event(Event::ReclaimPinned) >= 2);
        assert_eq!(frame(&mm, AT), first_page(&pinned));
        drop(pinned);
        assert!(reclaim(w, frame(&mm, AT)));
        // A pin brings it back.
        let pinned = mm.pin(pages(16, 1), READ).unwrap();
        assert_eq!(dma_read(w, first_page(&pinned)), 1);
    });
}

#[test]
fn what_was_written_through_a_pin_is_not_dropped_as_unwritten() {
    World::run(|w| {
        let mm = program(w, 1);
        mm.madvise(Va(AT), P, Advice::Free).unwrap();
        let mut pinned = mm.pin(pages(16, 1), READ).unwrap();
        assert!(!reclaim(w, first_page(&pinned)), "it is pinned");
        dma_write(w, first_page(&pinned), 8);
        pinned.set_unpin(Unpin::Dirty);
        drop(pinned);
        assert!(!reclaim(w, frame(&mm, AT)), "there is no swap device, and it was written");
        assert_eq!(mm.load(AT), Ok(8));
        // Pinned to be written: that alone says so.
        mm.madvise(Va(AT), P, Advice::Free).unwrap();
        drop(mm.pin(pages(16, 1), WRITE).unwrap());
        assert!(!reclaim(w, frame(&mm, AT)));
        assert_eq!(mm.load(AT), Ok(8));
        // Without a lock, too.
        mm.madvise(Va(AT), P, Advice::Free).unwrap();
        let fast = w.vm.stats().event(Event::PinFast);
        drop(mm.pin_fast(pages(16, 1), WRITE).unwrap());
        assert_eq!(w.vm.stats().event(Event::PinFast), fast + 1, "it needed none");
        assert!(!reclaim(w, frame(&mm, AT)));
        assert_eq!(mm.load(AT), Ok(8));
        // And what was only read, is not.
        mm.madvise(Va(AT), P, Advice::Free).unwrap();
        drop(mm.pin(pages(16, 1), READ).unwrap());
        assert!(reclaim(w, frame(&mm, AT)));
    });
}

#[test]
fn a_shared_page_between_own_ones_is_not_pinned_as_it_is() {
    World::run(|w| {
        let mm = program(w, 3);
        let child = mm.fork().unwrap();
        mm.store(AT, 1).unwrap();
        mm.store(AT + 2 * P, 1).unwrap();
        assert_eq!(frame(&mm, AT + P), frame(&child, AT + P), "the middle is shared");
        let pinned = mm.pin_fast(pages(16, 3), READ).unwrap();
        let frames: Vec<_> =
            pinned.runs().flat_map(|run| (0..run.pages.0).map(move |nth| run.first.offset(nth))).collect();
        let mapped: Vec<_> = (0..3).map(|nth| frame(&mm, AT + nth * P)).collect();
        assert_eq!(frames, mapped, "what is pinned is what the program has");
        assert_ne!(frames[1], frame(&child, AT + P), "and is its own");
    });
}

#[test]
fn a_mapping_that_goes_leaves_the_page_to_the_pin() {
    World::run(|w| {
        for take_away in [
            |mm: Mm<'_, M>| mm.madvise(Va(AT), P, Advice::DontNeed).unwrap(),
            |mm: Mm<'_, M>| mm.munmap(pages(16, 1)).unwrap(),
            |mm: Mm<'_, M>| {
                mm.madvise(Va(AT), P, Advice::DontNeed).unwrap();
                mm.store(AT, 4).unwrap();
            },
            |mm: Mm<'_, M>| drop(mm),
        ] {
            let mm = program(w, 1);
            let pinned = mm.pin(pages(16, 1), WRITE).unwrap();
            let page = first_page(&pinned);
            take_away(mm.clone());
            assert!(w.vm.frames.folio(page).is_some_and(|folio| folio.counts().pins() == 1));
            dma_write(w, page, 6);
            w.vm.validate().unwrap();
            drop(mm);
            assert_eq!(dma_read(w, page), 6, "nobody else was given the frame");
            w.vm.validate().unwrap();
            drop(pinned);
            assert_eq!(w.vm.stats().user, 0);
        }
    });
}

#[test]
fn long_pins_count_as_locked_memory_even_when_the_program_has_ended() {
    World::run(|w| {
        let mm = program(w, 8);
        mm.set_limits(Limits { locked: 6 * P, ..mm.limits() });
        let long = WRITE | PinFlags::LONGTERM;
        let mut first = mm.pin(pages(16, 4), long).unwrap();
        assert_eq!(mm.pin(pages(20, 3), long).err(), Some(Error::LOCKED));
        assert_eq!(mm.counters().pinned.0, 4, "nothing is left of what was refused");
        let second = mm.pin(pages(20, 2), long).unwrap();
        drop(mm.pin(pages(16, 8), WRITE).unwrap());
        let rest = first.split_off(Va(AT + P)).unwrap();
        assert_eq!(mm.counters().pinned.0, 6);
        drop(rest);
        assert_eq!(mm.counters().pinned.0, 3);
        drop(mm);
        w.vm.validate().unwrap();
        let other = program(w, 1);
        assert_eq!(other.counters().pinned.0, 0, "another program is charged for nothing of it");
        drop((first, second));
        assert_eq!((other.counters().pinned.0, w.vm.stats().mms), (0, 1));
    });
}

#[test]
fn a_pin_that_fails_half_way_leaves_nothing() {
    World::run(|w| {
        let mm = program(w, 4);
        let pins = |w: &World| w.vm.validate().map(|()| w.vm.pins.live());
        assert_eq!(mm.pin(pages(16, 5), WRITE).err(), Some(Error::BadAddress), "a hole at the end");
        assert_eq!(pins(w), Ok(0));
        mm.mprotect(pages(19, 1), Prot::READ).unwrap();
        assert_eq!(mm.pin(pages(16, 4), WRITE).err(), Some(Error::BadAddress));
        assert_eq!(mm.pin(VaRange { start: Va(AT), end: Va(u64::MAX) }, READ).err(), Some(Error::BadAddress));
        assert_eq!(pins(w), Ok(0));
        let failed = w.fail_each_allocation(
            || {
                let child = mm.fork().unwrap();
                let _ = child.madvise(Va(AT), P, Advice::DontNeed);
                child
            },
            |child| child.pin(pages(16, 3), WRITE | PinFlags::LONGTERM).map(drop),
            |child, e| {
                assert_eq!(e, Error::OutOfMemory);
                assert_eq!((pins(w), child.counters().pinned.0), (Ok(0), 0));
            },
        );
        assert!(failed >= 3, "only {failed} failed");
        w.failures.set(FailurePlan::Off);
    });
}

#[test]
fn force_writes_to_private_memory_that_is_read_only_and_leaves_it_so() {
    World::run(|w| {
        let mm = program(w, 2);
        let child = mm.fork().unwrap();
        child.mprotect(pages(16, 2), Prot::READ).unwrap();
        assert_eq!(child.pin(pages(16, 1), WRITE).err(), Some(Error::BadAddress));
        let pinned = child.pin(pages(16, 1), WRITE | PinFlags::FORCE).unwrap();
        dma_write(w, first_page(&pinned), 9);
        assert_eq!((child.load(AT), mm.load(AT)), (Ok(9), Ok(1)));
        assert!(child.store(AT, 1).is_err(), "the mapping is as read-only as before");
        // A page that is the program's own already stays where it is.
        let again = child.pin(pages(16, 1), WRITE | PinFlags::FORCE).unwrap();
        assert_eq!(first_page(&again), first_page(&pinned));
        child.mprotect(pages(16, 2), Prot::empty()).unwrap();
        assert_eq!(child.pin(pages(16, 1), READ).err(), Some(Error::BadAddress));
        let forced = child.pin(pages(16, 2), PinFlags::FORCE).unwrap();
        assert_eq!(dma_read(w, first_page(&forced)), 9);
        w.vm.validate().unwrap();
    });
}

#[test]
fn force_does_not_write_to_what_others_have() {
    World::run(|w| {
        let object = w.vm.shm_new(1).unwrap();
        let mm = w.vm.new_mm().unwrap();
        mm.map_raw(
            pages(16, 1),
            (RW | VmFlags::SHARED) - VmFlags::WRITE - VmFlags::ACCOUNT,
            Backing::Shared(object.id()),
        );
        drop(object);
        assert_eq!(mm.pin(pages(16, 1), WRITE | PinFlags::FORCE).err(), Some(Error::BadAddress));
        drop(mm.pin(pages(16, 1), READ).unwrap());
    });
}

#[test]
fn pages_of_shared_objects_are_pinned_as_they_are() {
    World::run(|w| {
        let object = w.vm.shm_new(2).unwrap();
        let mm = w.vm.new_mm().unwrap();
        let shared = (RW | VmFlags::SHARED) - VmFlags::ACCOUNT;
        mm.map_raw(pages(16, 2), shared, Backing::Shared(object.id()));
        drop(object);
        let pinned = mm.pin(pages(16, 2), WRITE).unwrap();
        let child = mm.fork().unwrap();
        dma_write(w, first_page(&pinned), 4);
        assert_eq!((mm.load(AT), child.load(AT)), (Ok(4), Ok(4)));
        w.vm.validate().unwrap();
        drop((mm, child));
        w.vm.validate().unwrap();
        assert_eq!(dma_read(w, first_page(&pinned)), 4);
    });
}

#[test]
fn without_faults_only_what_is_there_is_pinned() {
    with_swap(|w| {
        let parent = program(w, 3);
        assert!(reclaim(w, frame(&parent, AT)));
        let nofault = |mm: &Mm<'_, M>, page, flags| mm.pin(pages(page, 1), flags | PinFlags::NOFAULT).err();
        assert_eq!(nofault(&parent, 16, READ), Some(Error::BadAddress), "in swap");
        assert_eq!(nofault(&parent, 17, WRITE), None);
        let child = parent.fork().unwrap();
        assert_eq!(nofault(&child, 17, READ), Some(Error::BadAddress), "shared");
        assert_eq!(nofault(&child, 18, WRITE), Some(Error::BadAddress), "shared");
    });
}

#[test]
fn too_many_pins_of_a_page_are_an_error() {
    World::run(|w| {
        let mm = program(w, 1);
        let mut ranges = Vec::new();
        let refused = loop {
            match mm.pin(pages(16, 1), WRITE) {
                Ok(pinned) => ranges.push(pinned),
                Err(e) => break e,
            }
        };
        assert_eq!(refused, Error::PINS);
        assert!(ranges.len() > 65_000 && ranges.len() < 1 << 16, "{}", ranges.len());
        w.vm.validate().unwrap();
        assert_eq!(mm.load(AT), Ok(1));
        drop(ranges.pop());
        drop(mm.pin(pages(16, 1), WRITE).unwrap());
    });
}

#[test]
fn without_a_lock_what_is_there_is_pinned_and_the_rest_by_the_slow_path() {
    World::run(|w| {
        let mm = w.vm.new_mm().unwrap();
        mm.map_raw(pages(16, 1200), RW, Backing::Anonymous);
        (0..1200).for_each(|i| mm.store(AT + i * P, i as u8).unwrap());
        let count = |event| w.vm.stats().event(event);
        let pinned = mm.pin_fast(pages(16, 1200), WRITE).unwrap();
        assert!(pinned.runs().zip(16..).all(|(run, page)| run.first == frame(&mm, page * P)));
        assert_eq!((count(Event::PinFast), count(Event::PinSlow), pinned.pages().0), (1200, 0, 1200));
        w.vm.validate().unwrap();
        drop(pinned);
        // A page that is not there ends it.
        mm.madvise(Va(AT + 3 * P), P, Advice::DontNeed).unwrap();
        let pinned = mm.pin_fast(pages(16, 8), WRITE).unwrap();
        assert_eq!((count(Event::PinFast), count(Event::PinSlow), pinned.pages().0), (1203, 5, 8));
        drop(pinned);
        // So does one that is shared, to be read or written.
        let child = mm.fork().unwrap();
        for flags in [READ, WRITE] {
            let pinned = child.pin_fast(pages(16, 1), flags).unwrap();
            assert!(child.pagemap(Va(AT)).exclusive && first_page(&pinned) == frame(&child, AT));
        }
        assert_eq!((count(Event::PinFast), count(Event::PinFastRefused)), (1203, 3));
        // Read-only and our own: pinned without a lock, to be read.
        child.mprotect(pages(16, 1), Prot::READ).unwrap();
        drop(child.pin_fast(pages(16, 1), READ).unwrap());
        assert_eq!(count(Event::PinFast), 1204);
        assert_eq!(child.pin_fast(pages(16, 1), WRITE).err(), Some(Error::BadAddress));
        child.mprotect(pages(16, 1), Prot::empty()).unwrap();
        assert_eq!(child.pin_fast(pages(16, 1), READ).err(), Some(Error::BadAddress));
        w.vm.validate().unwrap();
    });
}

//! MOVE.

use super::{AT, BESIDE, at, in_every_mode, missing, page_out, watched};
use crate::{
    Advice, Config, Error, MoveLocks, MoveMode, PinFlags, ProtectMode, RegisterMode, UffdFeatures,
    rmap::referenced::folio_referenced,
    testing::{P, RW, World, pages},
    vma::{flags::VmFlags, vma::Backing},
};
use anonmem_hal::{Va, VaRange};

const NONE: MoveMode = MoveMode::empty();

fn in_both_designs(f: impl Fn(&World)) {
    for move_locks in [MoveLocks::AnonVma, MoveLocks::Folio] {
        World::run_with(Config { move_locks, ..Config::default() }, |w| {
            w.vm.swap_on(0, 2048, 0).unwrap();
            f(w);
            w.vm.validate().unwrap();
            w.vm.swap_off(0).unwrap();
        });
    }
    in_every_mode(f);
}

#[test]
fn pages_move_to_another_root_and_are_found_there() {
    in_both_designs(|w| {
        let (mm, uffd) = missing(w);
        (0..16).for_each(|i| mm.store((BESIDE + i) * P, i as u8 + 1).unwrap());
        let frames: std::vec::Vec<_> = (0..16).map(|i| mm.pagemap(at(BESIDE + i)).pfn).collect();
        let moved = uffd.move_pages(at(AT), at(BESIDE), 16 * P, NONE);
        assert_eq!((moved.out(), moved.result()), (16 * P as i64, Ok(())));
        w.vm.validate().unwrap();
        for i in 0..16 {
            assert_eq!(mm.pagemap(at(AT + i)).pfn, frames[i as usize], "no copy");
            assert_eq!(mm.load((AT + i) * P), Ok(i as u8 + 1));
            assert!(!mm.pagemap(at(BESIDE + i)).present());
        }
        let page = w.vm.frames.try_get(frames[3].unwrap()).unwrap();
        assert_eq!(folio_referenced(&w.vm, page.folio()).mappings, 1);
        drop(page);
        mm.store(AT * P, 77).unwrap();
        mm.munmap(pages(BESIDE, 16)).unwrap();
        assert_eq!(mm.load(AT * P), Ok(77), "the source's root is gone, and not needed");
        w.vm.validate().unwrap();
    });
}

#[test]
fn pages_that_somebody_refers_to_move_all_the_same() {
    in_both_designs(|w| {
        let (mm, uffd) = missing(w);
        (0..16).for_each(|i| mm.store((BESIDE + i) * P, i as u8 + 1).unwrap());
        let frame = |i| mm.pagemap(at(BESIDE + i)).pfn.unwrap();
        let held = [0, 1, 7, 15].map(|i| w.vm.frames.try_get(frame(i)).unwrap());
        assert_eq!(uffd.move_pages(at(AT), at(BESIDE), 16 * P, NONE).result(), Ok(()));
        (0..16).for_each(|i| assert_eq!(mm.load((AT + i) * P), Ok(i as u8 + 1)));
        assert!(held.iter().all(|page| page.folio().counts().refs() == 1));
        assert_eq!(folio_referenced(&w.vm, held[2].folio()).mappings, 1);
        drop(held);
    });
}

#[test]
fn who_is_being_killed_moves_fills_and_pins_nothing_more() {
    in_both_designs(|w| {
        let (mm, uffd) = missing(w);
        mm.store(BESIDE * P, 1).unwrap();
        anonmem_hosted::Cpus::dying(|| {
            let moved = uffd.move_pages(at(AT), at(BESIDE), P, NONE);
            assert_eq!((moved.out(), moved.result()), (-4, Err(Error::Interrupted)));
            let filled = uffd.copy(at(AT), P, Default::default(), &mut super::full_of(w, 5));
            assert_eq!((filled.out(), filled.result()), (-4, Err(Error::Interrupted)));
            let pinned = mm.pin(pages(BESIDE, 1), PinFlags::WRITE);
            assert_eq!(pinned.err(), Some(Error::Interrupted));
        });
        assert_eq!(mm.load(BESIDE * P), Ok(1));
    });
}

#[test]
fn pages_move_within_a_mapping() {
    in_both_designs(|w| {
        let (mm, uffd) = missing(w);
        assert_eq!(
            uffd.copy(at(AT + 8), 8 * P, Default::default(), &mut super::full_of(w, 5)).out(),
            8 * P as i64
        );
        assert_eq!(uffd.move_pages(at(AT), at(AT + 8), 4 * P, NONE).out(), 4 * P as i64);
        // A range that slides down over itself.
        assert_eq!(uffd.move_pages(at(AT + 11), at(AT + 12), 4 * P, NONE).out(), 4 * P as i64);
        assert_eq!(uffd.move_pages(at(AT + 12), at(AT + 11), 4 * P, NONE).result(), Err(Error::Exists));
        assert_eq!((mm.load((AT + 3) * P), mm.load((AT + 14) * P)), (Ok(5), Ok(5)));
        assert_eq!(mm.counters().anon.0, 8);
    });
}

#[test]
fn holes_move_if_that_is_allowed() {
    in_both_designs(|w| {
        let (mm, uffd) = missing(w);
        mm.store((BESIDE + 1) * P, 1).unwrap();
        mm.store((BESIDE + 4) * P, 4).unwrap();
        let first = uffd.move_pages(at(AT), at(BESIDE), 16 * P, NONE);
        assert_eq!((first.out(), first.result()), (-2, Err(Error::NotFound)));
        let second = uffd.move_pages(at(AT + 1), at(BESIDE + 1), 15 * P, NONE);
        assert_eq!((second.out(), second.result()), (P as i64, Err(Error::Again)));
        let all = uffd.move_pages(at(AT + 2), at(BESIDE + 2), 14 * P, MoveMode::ALLOW_SRC_HOLES);
        assert_eq!((all.out(), all.result()), (14 * P as i64, Ok(())));
        assert_eq!((mm.load((AT + 1) * P), mm.load((AT + 4) * P)), (Ok(1), Ok(4)));
        mm.store((BESIDE + 1) * P, 9).unwrap();
        let over = uffd.move_pages(at(AT), at(BESIDE), 16 * P, MoveMode::ALLOW_SRC_HOLES);
        assert_eq!((over.out(), over.error), (P as i64, Some(Error::Exists)));
    });
}

#[test]
fn the_zero_page_moves() {
    in_both_designs(|w| {
        let (mm, uffd) = missing(w);
        assert_eq!(mm.load(BESIDE * P), Ok(0));
        assert_eq!(uffd.move_pages(at(AT), at(BESIDE), P, NONE).out(), P as i64);
        assert_eq!((mm.load(AT * P), mm.pagemap(at(BESIDE)).present()), (Ok(0), false));
        mm.store(AT * P, 3).unwrap();
        assert_eq!(mm.load(AT * P), Ok(3));
    });
}

#[test]
fn swapped_pages_move_with_their_cached_page() {
    in_both_designs(|w| {
        let (mm, uffd) = missing(w);
        (0..2).for_each(|i| mm.store((BESIDE + i) * P, i as u8 + 1).unwrap());
        assert!(page_out(w, &mm, BESIDE) && page_out(w, &mm, BESIDE + 1));
        assert_eq!(uffd.move_pages(at(AT), at(BESIDE), 2 * P, NONE).out(), 2 * P as i64);
        assert!(mm.pagemap(at(AT)).swapped && !mm.pagemap(at(BESIDE)).swapped);
        assert_eq!((mm.load(AT * P), mm.load((AT + 1) * P)), (Ok(1), Ok(2)));
        assert!(mm.pagemap(at(AT)).exclusive);
        w.vm.validate().unwrap();
    });
}

/// A page that another has read, too, leaves memory again and is in the cache when its entry moves: a child
/// that gets it from there must find it by the new place.
#[test]
fn a_cached_page_that_moved_is_found_by_the_new_root() {
    in_both_designs(|w| {
        let (mm, uffd) = missing(w);
        mm.store(BESIDE * P, 7).unwrap();
        assert!(page_out(w, &mm, BESIDE));
        let anonmem_hal::Pte::Soft(anonmem_hal::SoftLeaf::Swap { entry, .. }) = ({
            let guard = mm.read();
            mm.slot().space.walk(&w.vm.frames, &guard, at(BESIDE)).unwrap().peek(at(BESIDE))
        }) else {
            panic!("swapped")
        };
        // As a fault that reads it and is then slower than another.
        let new = w.vm.alloc_page().unwrap();
        assert!(matches!(w.vm.swap_read(entry, new), Ok(crate::swap::cache::SwapIn::Page(_))));
        assert_eq!(uffd.move_pages(at(AT), at(BESIDE), P, NONE).out(), P as i64);
        let child = mm.fork().unwrap();
        mm.munmap(pages(BESIDE, 16)).unwrap();
        assert_eq!((child.load(AT * P), mm.load(AT * P)), (Ok(7), Ok(7)));
        w.vm.validate().unwrap();
    });
}

#[test]
fn what_others_have_is_busy() {
    in_both_designs(|w| {
        let (mm, uffd) = missing(w);
        (0..3).for_each(|i| mm.store((BESIDE + i) * P, i as u8).unwrap());
        assert!(page_out(w, &mm, BESIDE + 1));
        let child = mm.fork().unwrap();
        assert_eq!(uffd.move_pages(at(AT), at(BESIDE), P, NONE).result(), Err(Error::Busy));
        assert_eq!(uffd.move_pages(at(AT), at(BESIDE + 1), P, NONE).result(), Err(Error::Busy));
        drop(child);
        mm.store(BESIDE * P, 1).unwrap();
        assert_eq!(uffd.move_pages(at(AT), at(BESIDE), P, NONE).result(), Ok(()), "reused, so exclusive");
        mm.store((BESIDE + 2) * P, 1).unwrap();
        let pinned = mm.pin(VaRange::page(at(BESIDE + 2)), PinFlags::WRITE).unwrap();
        let busy = uffd.move_pages(at(AT + 2), at(BESIDE + 2), P, NONE);
        assert_eq!((busy.out(), busy.result()), (-16, Err(Error::Busy)));
        assert_eq!(w.vm.stats().event(crate::Event::UffdMovePinned), 1);
        assert_eq!(mm.pagemap(at(BESIDE + 2)).pfn, Some(crate::testing::first_page(&pinned)));
        drop(pinned);
        assert_eq!(uffd.move_pages(at(AT + 2), at(BESIDE + 2), P, NONE).result(), Ok(()));
    });
}

#[test]
fn a_pin_in_the_middle_of_a_run_stops_it_there() {
    in_both_designs(|w| {
        let (mm, uffd) = missing(w);
        (0..8).for_each(|i| mm.store((BESIDE + i) * P, i as u8).unwrap());
        let pinned = mm.pin(VaRange::page(at(BESIDE + 5)), PinFlags::WRITE).unwrap();
        let moved = uffd.move_pages(at(AT), at(BESIDE), 8 * P, NONE);
        assert_eq!((moved.out(), moved.error), (5 * P as i64, Some(Error::Busy)));
        assert_eq!((mm.load((AT + 4) * P), mm.load((BESIDE + 5) * P)), (Ok(4), Ok(5)));
        drop(pinned);
    });
}

#[test]
fn every_other_error_of_a_move() {
    in_both_designs(|w| {
        let (mm, uffd) = missing(w);
        (0..16).for_each(|i| mm.store((BESIDE + i) * P, 1).unwrap());
        let go = |dst, src, len, mode| uffd.move_pages(dst, src, len, mode).result();
        let invalid = |result| assert!(matches!(result, Err(Error::Invalid(_))), "{result:?}");
        invalid(go(Va(AT * P + 1), at(BESIDE), P, NONE));
        invalid(go(at(AT), Va(BESIDE * P + 1), P, NONE));
        invalid(go(at(AT), at(BESIDE), P + 1, NONE));
        invalid(go(at(AT), at(BESIDE), 0, NONE));
        invalid(go(at(AT), at(BESIDE), u64::MAX - P + 1, NONE));
        invalid(go(at(AT), at(BESIDE), P, MoveMode::from_bits_retain(4)));
        invalid(go(at(AT), at(BESIDE), 17 * P, NONE));
        invalid(go(at(BESIDE), at(AT), P, NONE));
        assert_eq!(go(at(5000), at(BESIDE), P, NONE), Err(Error::NotFound));
        assert_eq!(go(at(AT), at(5000), P, NONE), Err(Error::NotFound));
        mm.map_raw(pages(600, 2), RW - VmFlags::WRITE, Backing::Anonymous);
        invalid(go(at(AT), at(600), P, NONE));
        let object = w.vm.shm_new(2).unwrap();
        mm.map_raw(pages(610, 2), RW | VmFlags::SHARED, Backing::Shared(object.id()));
        drop(object);
        mm.store(610 * P, 1).unwrap();
        invalid(go(at(AT), at(610), P, NONE));
        let source = w.sources.register([3; 2 * P as usize].as_slice());
        mm.map_raw(pages(620, 2), RW, Backing::Source(source));
        mm.store(620 * P, 1).unwrap();
        invalid(go(at(AT), at(620), P, NONE));
        mm.mlock(at(BESIDE), P).unwrap();
        invalid(go(at(AT), at(BESIDE), P, NONE));
        mm.munlock(at(BESIDE), P).unwrap();
        mm.madvise(at(BESIDE), P, Advice::GuardInstall).unwrap();
        assert_eq!(go(at(AT), at(BESIDE), P, NONE), Err(Error::BadAddress));
        mm.munmap(pages(620, 2)).unwrap();
    });
}

#[test]
fn a_move_drops_the_protection_of_the_old_place() {
    in_both_designs(|w| {
        let (mm, uffd) = watched(w, RegisterMode::MISSING | RegisterMode::WP, UffdFeatures::empty());
        uffd.register(at(BESIDE), 16 * P, RegisterMode::WP).unwrap();
        (0..2).for_each(|i| mm.store((BESIDE + i) * P, 4).unwrap());
        uffd.write_protect(at(BESIDE), 2 * P, ProtectMode::WP).unwrap();
        assert!(page_out(w, &mm, BESIDE + 1));
        assert!(mm.pagemap(at(BESIDE + 1)).uffd_wp && mm.pagemap(at(BESIDE + 1)).swapped);
        assert_eq!(uffd.move_pages(at(AT), at(BESIDE), 2 * P, NONE).result(), Ok(()));
        assert!(!mm.pagemap(at(AT)).uffd_wp && !mm.pagemap(at(AT + 1)).uffd_wp);
        (0..2).for_each(|i| mm.store((AT + i) * P, 5).unwrap());
    });
}

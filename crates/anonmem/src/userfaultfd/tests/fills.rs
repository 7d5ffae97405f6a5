//! COPY, ZEROPAGE, CONTINUE, POISON.

use super::{AT, BESIDE, M, at, full_of, in_every_mode, missing, watched};
use crate::{
    Advice, Error, FillMode, ProtectMode, RegisterMode, UffdFaults, UffdFeatures,
    testing::{P, RW, World, pages},
    vma::{flags::VmFlags, vma::Backing},
};
use anonmem_frame::NewFolio;
use anonmem_hal::{SourceError, Va};
use anonmem_hosted::{FailurePlan, Trap};

const NONE: FillMode = FillMode::empty();

#[test]
fn a_copy_stops_at_the_first_page_that_is_there() {
    in_every_mode(|w| {
        let (mm, uffd) = missing(w);
        assert_eq!(uffd.copy(at(AT + 5), P, NONE, &mut full_of(w, 5)).out(), P as i64);
        let all = uffd.copy(at(AT), 16 * P, NONE, &mut full_of(w, 3));
        assert_eq!((all.out(), all.result()), (5 * P as i64, Err(Error::Again)));
        let again = uffd.copy(at(AT + 5), P, NONE, &mut full_of(w, 3));
        assert_eq!((again.out(), again.result()), (-17, Err(Error::Exists)));
        assert_eq!((mm.load((AT + 4) * P), mm.load((AT + 5) * P)), (Ok(3), Ok(5)));
        assert_eq!(mm.counters().anon.0, 6);
        mm.store((AT + 4) * P, 9).unwrap();
        assert_eq!(mm.load((AT + 4) * P), Ok(9));
        assert!(mm.pagemap(at(AT)).exclusive && mm.pagemap(at(AT)).dirty);
    });
}

#[test]
fn every_error_of_a_copy() {
    in_every_mode(|w| {
        let (mm, uffd) = missing(w);
        let copy = |va, len, mode| uffd.copy(va, len, mode, &mut full_of(w, 1)).result();
        let invalid = |result| assert!(matches!(result, Err(Error::Invalid(_))), "{result:?}");
        invalid(copy(Va(AT * P + 8), P, NONE));
        invalid(copy(at(AT), P + 8, NONE));
        invalid(copy(at(AT), 0, NONE));
        invalid(copy(at(AT), u64::MAX - P + 1, NONE));
        invalid(copy(at(AT), P, FillMode::from_bits_retain(4)));
        invalid(copy(at(AT), P, FillMode::WP));
        assert_eq!(copy(at(AT), 17 * P, NONE), Err(Error::NotFound), "beyond the mapping");
        assert_eq!(copy(at(BESIDE), P, NONE), Err(Error::NotFound), "not watched");
        assert_eq!(copy(at(5000), P, NONE), Err(Error::NotFound), "not mapped");
        assert_eq!(copy(at(1), P, NONE), Err(Error::NotFound), "where nothing may be mapped");
        let unreadable = &mut |_: u64, _: &NewFolio<'_, M>| Err(SourceError);
        assert_eq!(uffd.copy(at(AT), P, NONE, unreadable).result(), Err(Error::BadAddress));
        assert_eq!(uffd.copy(at(5000), P, NONE, unreadable).result(), Err(Error::NotFound), "comes first");
        let second = &mut |offset: u64, _: &NewFolio<'_, M>| match offset == P {
            true => Err(SourceError),
            false => Ok(()),
        };
        let filled = uffd.copy(at(AT), 4 * P, NONE, second);
        assert_eq!((filled.out(), filled.error), (P as i64, Some(Error::BadAddress)));
        w.failures.set(FailurePlan::From(1));
        assert_eq!(copy(at(AT + 1), P, NONE), Err(Error::OutOfMemory));
        w.failures.set(FailurePlan::Off);
        assert_eq!(mm.counters().anon.0 + mm.counters().swap.0, 1);
    });
}

#[test]
fn a_copy_that_finds_no_memory_leaves_nothing_behind() {
    World::run(|w| {
        let failures = w.fail_each_allocation(
            || missing(w),
            |(_, uffd)| uffd.copy(at(AT), 4 * P, NONE, &mut full_of(w, 1)).result(),
            |(mm, _), error| {
                assert!(matches!(error, Error::OutOfMemory | Error::Again));
                assert!(mm.counters().anon.0 < 4);
                w.vm.validate().unwrap();
            },
        );
        assert!(failures > 4, "only {failures} allocations failed");
    });
}

#[test]
fn zero_pages_cost_nothing_and_are_not_put_over_markers() {
    in_every_mode(|w| {
        let (mm, uffd) = missing(w);
        assert_eq!(uffd.zeropage(at(AT), 8 * P, NONE).out(), 8 * P as i64);
        assert_eq!((mm.load(AT * P), mm.counters().anon.0), (Ok(0), 0));
        assert_eq!(uffd.zeropage(at(AT + 7), P, NONE).result(), Err(Error::Exists));
        mm.store(AT * P, 2).unwrap();
        assert_eq!(mm.load(AT * P), Ok(2));
        assert_eq!(uffd.poison(at(AT + 8), P, NONE).out(), P as i64);
        assert_eq!(uffd.zeropage(at(AT + 8), P, NONE).result(), Err(Error::Exists));
        assert!(matches!(uffd.zeropage(at(AT), P, FillMode::WP).result(), Err(Error::Invalid(_))));
    });
}

#[test]
fn what_is_poisoned_is_lost() {
    in_every_mode(|w| {
        let (mm, uffd) = missing(w);
        assert_eq!(uffd.poison(at(AT), 2 * P, NONE).out(), 2 * P as i64);
        assert_eq!((mm.load(AT * P), mm.store((AT + 1) * P, 1)), (Err(Trap::Bus), Err(Trap::Bus)));
        assert_eq!(uffd.poison(at(AT), P, NONE).result(), Err(Error::Exists), "even over a marker");
        assert_eq!(uffd.copy(at(AT), P, NONE, &mut full_of(w, 1)).out(), P as i64, "found again");
        mm.madvise(at(AT + 1), P, Advice::DontNeed).unwrap();
        assert_eq!(uffd.copy(at(AT + 1), P, NONE, &mut full_of(w, 1)).out(), P as i64);
    });
}

#[test]
fn shared_memory_is_filled_through_its_object() {
    in_every_mode(|w| {
        let mm = w.vm.new_mm().unwrap();
        let object = w.vm.shm_new(8).unwrap();
        mm.map_raw(pages(AT, 8), RW | VmFlags::SHARED, Backing::Shared(object.id()));
        mm.map_raw(pages(BESIDE, 8), RW | VmFlags::SHARED, Backing::Shared(object.id()));
        let uffd = mm.userfaultfd(UffdFaults::Any).unwrap();
        uffd.agree(UffdFeatures::empty()).unwrap();
        uffd.register(at(AT), 8 * P, RegisterMode::MISSING | RegisterMode::MINOR).unwrap();
        assert_eq!(uffd.resume(at(AT), P, NONE).result(), Err(Error::BadAddress), "the object has no page");
        mm.store(BESIDE * P, 4).unwrap();
        assert_eq!(uffd.copy(at(AT), P, NONE, &mut full_of(w, 1)).result(), Err(Error::Exists));
        assert_eq!(uffd.resume(at(AT), P, NONE).out(), P as i64);
        assert_eq!(mm.load(AT * P), Ok(4));
        assert_eq!(uffd.resume(at(AT), P, NONE).result(), Err(Error::Exists));
        assert_eq!(uffd.copy(at(AT + 1), P, NONE, &mut full_of(w, 6)).out(), P as i64);
        assert_eq!(uffd.zeropage(at(AT + 2), P, NONE).out(), P as i64);
        assert_eq!((mm.load((BESIDE + 1) * P), mm.load((BESIDE + 2) * P)), (Ok(6), Ok(0)));
        mm.store((AT + 1) * P, 8).unwrap();
        assert_eq!(mm.load((BESIDE + 1) * P), Ok(8));
        assert!(matches!(
            uffd.copy(at(AT + 3), 6 * P, NONE, &mut full_of(w, 6)).result(),
            Err(Error::NotFound)
        ));
        w.vm.validate().unwrap();
        drop(object);
    });
}

#[test]
fn private_memory_cannot_be_gone_on_with() {
    in_every_mode(|w| {
        let (_mm, uffd) = missing(w);
        assert!(matches!(uffd.resume(at(AT), P, NONE).result(), Err(Error::Invalid(_))));
    });
}

#[test]
fn a_copy_takes_the_place_of_a_protection_and_may_be_protected() {
    in_every_mode(|w| {
        let (mm, uffd) = watched(w, RegisterMode::MISSING | RegisterMode::WP, UffdFeatures::WP_UNPOPULATED);
        uffd.write_protect(at(AT), 2 * P, ProtectMode::WP).unwrap();
        assert!(mm.pagemap(at(AT)).uffd_wp && !mm.pagemap(at(AT)).present());
        assert_eq!(uffd.zeropage(at(AT), P, NONE).result(), Err(Error::Exists));
        assert_eq!(uffd.copy(at(AT), P, FillMode::WP, &mut full_of(w, 1)).out(), P as i64);
        assert_eq!(uffd.copy(at(AT + 1), P, NONE, &mut full_of(w, 1)).out(), P as i64);
        assert!(mm.pagemap(at(AT)).uffd_wp && !mm.pagemap(at(AT + 1)).uffd_wp);
        mm.store((AT + 1) * P, 9).unwrap();
        uffd.write_protect(at(AT), P, ProtectMode::empty()).unwrap();
        mm.store(AT * P, 9).unwrap();
    });
}

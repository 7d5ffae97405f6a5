//! Write protection and where it goes.

use super::{AT, BESIDE, at, full_of, in_every_mode, page_out, watched};
use crate::{
    Advice, Error, FillMode, Prot, ProtectMode, RegisterMode, RemapFlags, UffdFaults, UffdFeatures,
    testing::{P, RW, World, pages},
    vma::{flags::VmFlags, vma::Backing},
};

const WP: ProtectMode = ProtectMode::WP;

fn protected(
    w: &World,
    features: UffdFeatures,
) -> (crate::Mm<'_, crate::testing::M>, crate::Uffd<'_, crate::testing::M>) {
    let (mm, uffd) = watched(w, RegisterMode::WP, features);
    (0..4).for_each(|i| mm.store((AT + i) * P, 1).unwrap());
    uffd.write_protect(at(AT), 4 * P, WP).unwrap();
    (mm, uffd)
}

#[test]
fn the_mark_follows_the_page_in_every_form() {
    in_every_mode(|w| {
        let (mm, uffd) = protected(w, UffdFeatures::empty());
        let marked = |page| mm.pagemap(at(page)).uffd_wp;
        assert!(page_out(w, &mm, AT) && marked(AT) && mm.pagemap(at(AT)).swapped);
        assert_eq!((mm.load(AT * P), marked(AT)), (Ok(1), true), "and back");
        mm.mprotect(pages(AT, 4), Prot::READ).unwrap();
        mm.mprotect(pages(AT, 4), Prot::READ | Prot::WRITE).unwrap();
        assert!(marked(AT + 1));
        let child = mm.fork().unwrap();
        assert!(!child.pagemap(at(AT + 1)).uffd_wp && marked(AT + 1), "not in a child");
        child.store((AT + 1) * P, 9).unwrap();
        drop(child);
        w.vm.validate().unwrap();
        uffd.write_protect(at(AT), 4 * P, ProtectMode::empty()).unwrap();
        (0..4).for_each(|i| mm.store((AT + i) * P, 2).unwrap());
    });
}

#[test]
fn what_is_not_watched_any_more_is_not_protected() {
    in_every_mode(|w| {
        for how in 0..4 {
            let (mm, uffd) = protected(w, UffdFeatures::WP_UNPOPULATED);
            assert!(page_out(w, &mm, AT + 2));
            uffd.write_protect(at(AT), 16 * P, WP).unwrap();
            let mut at_page = AT;
            match how {
                0 => uffd.unregister(at(AT), 16 * P).unwrap(),
                1 => drop(uffd),
                2 => uffd.register(at(AT), 16 * P, RegisterMode::MISSING).unwrap(),
                _ => {
                    let flags = RemapFlags::MAYMOVE | RemapFlags::FIXED;
                    mm.mremap(at(AT), 16 * P, 16 * P, flags, at(900)).unwrap();
                    at_page = 900;
                }
            }
            w.vm.validate().unwrap();
            (0..4).for_each(|i| mm.store((at_page + i) * P, 3).unwrap());
            assert!((0..16).all(|i| !mm.pagemap(at(at_page + i)).uffd_wp));
        }
    });
}

#[test]
fn writes_end_their_own_protection_where_that_was_agreed_upon() {
    in_every_mode(|w| {
        let (mm, uffd) = protected(w, UffdFeatures::WP_ASYNC);
        uffd.write_protect(at(AT), 16 * P, WP).unwrap();
        assert_eq!(mm.load((AT + 5) * P), Ok(0));
        assert!(mm.pagemap(at(AT + 5)).uffd_wp, "a read leaves it, over the zero page");
        for page in [AT, AT + 5, AT + 7] {
            mm.store(page * P, 6).unwrap();
            assert!(!mm.pagemap(at(page)).uffd_wp);
            assert_eq!(mm.load(page * P), Ok(6));
        }
        assert!(mm.pagemap(at(AT + 1)).uffd_wp && mm.pagemap(at(AT + 8)).uffd_wp);
        uffd.write_protect(at(AT), P, WP).unwrap();
        assert!(mm.pagemap(at(AT)).uffd_wp);
    });
}

#[test]
fn every_error_of_write_protection() {
    in_every_mode(|w| {
        let (mm, uffd) = protected(w, UffdFeatures::empty());
        let protect = |page: u64, n: u64, mode| uffd.write_protect(at(page), n * P, mode);
        let invalid = |result| assert!(matches!(result, Err(Error::Invalid(_))), "{result:?}");
        invalid(protect(AT, 0, WP));
        invalid(uffd.write_protect(anonmem_hal::Va(AT * P + 1), P, WP));
        invalid(protect(AT, 1, WP | ProtectMode::DONTWAKE));
        invalid(protect(AT, 1, ProtectMode::from_bits_retain(4)));
        assert_eq!(protect(BESIDE, 1, WP), Err(Error::NotFound));
        assert_eq!(protect(5000, 1, WP), Err(Error::NotFound));
        assert_eq!(protect(1, 1, WP), Err(Error::NotFound), "where nothing may be mapped");
        assert_eq!(protect(AT, 512, WP), Err(Error::NotFound), "the second mapping is not watched");
        uffd.register(at(BESIDE), 16 * P, RegisterMode::MISSING).unwrap();
        assert_eq!(protect(BESIDE, 1, WP), Err(Error::NotFound), "not for writes");
        assert!(!mm.pagemap(at(AT + 8)).uffd_wp, "what is not there is passed over");
    });
}

#[test]
fn shared_memory_stays_protected_when_its_entries_go() {
    in_every_mode(|w| {
        let mm = w.vm.new_mm().unwrap();
        let object = w.vm.shm_new(4).unwrap();
        mm.map_raw(pages(AT, 4), RW | VmFlags::SHARED, Backing::Shared(object.id()));
        drop(object);
        let uffd = mm.userfaultfd(UffdFaults::Any).unwrap();
        uffd.agree(UffdFeatures::empty()).unwrap();
        uffd.register(at(AT), 4 * P, RegisterMode::WP | RegisterMode::MISSING).unwrap();
        assert_eq!(uffd.copy(at(AT), P, FillMode::empty(), &mut full_of(w, 5)).out(), P as i64);
        uffd.register(at(AT), 4 * P, RegisterMode::WP).unwrap();
        uffd.write_protect(at(AT), 2 * P, WP).unwrap();
        mm.madvise(at(AT), 4 * P, Advice::DontNeed).unwrap();
        assert!(
            mm.pagemap(at(AT)).uffd_wp && mm.pagemap(at(AT + 1)).uffd_wp && !mm.pagemap(at(AT + 2)).uffd_wp
        );
        assert_eq!(mm.load(AT * P), Ok(5));
        assert!(mm.pagemap(at(AT)).uffd_wp && mm.pagemap(at(AT)).present());
        w.vm.validate().unwrap();
        uffd.write_protect(at(AT), 4 * P, ProtectMode::empty()).unwrap();
        mm.store(AT * P, 6).unwrap();
    });
}

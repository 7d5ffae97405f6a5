//! Changes that are told.

use super::{AT, BESIDE, at, full_of, in_every_mode, page_out, together, watched};
use crate::{
    Advice, Error, FillMode, MapBacking, MapFlags, Mm, MmapRequest, Prot, RegisterMode, RemapFlags, Uffd,
    UffdFeatures, UffdMessage,
    testing::{M, P, RW, World, pages},
    vma::{flags::VmFlags, vma::Backing},
};
use anonmem_hal::Va;
use std::vec::Vec;

/// Where tests map an object.
const SHARED: u64 = 512;

fn next<'v>(uffd: &Uffd<'v, M>) -> UffdMessage<'v, M> {
    assert!(uffd.wait_for_message());
    uffd.read().expect("a message")
}

fn fills(w: &World, uffd: &Uffd<'_, M>, page: u64) -> Result<(), Error> {
    uffd.copy(at(page), P, FillMode::empty(), &mut full_of(w, 1)).result()
}

#[test]
fn pages_that_are_dropped_are_told_before_they_go() {
    in_every_mode(|w| {
        let (mm, uffd) = watched(w, RegisterMode::MISSING, UffdFeatures::EVENT_REMOVE);
        fills(w, &uffd, AT).unwrap();
        let read = || {
            assert!(uffd.wait_for_message());
            assert_eq!(fills(w, &uffd, AT + 1), Err(Error::Again), "the range is changing");
            assert_eq!(uffd.write_protect(at(AT), P, Default::default()), Err(Error::Again));
            assert_eq!(fills(w, &uffd, AT + 8), Ok(()), "another is not");
            assert!(mm.pagemap(at(AT)).present(), "not yet");
            let UffdMessage::Remove(range) = next(&uffd) else { panic!("dropped pages") };
            assert_eq!(range, pages(AT, 4));
        };
        together(w, read, || mm.madvise(at(AT), 4 * P, Advice::DontNeed).unwrap());
        assert!(!mm.pagemap(at(AT)).present());
        fills(w, &uffd, AT).unwrap();
        mm.madvise(at(BESIDE), 4 * P, Advice::DontNeed).unwrap();
    });
}

#[test]
fn what_is_unmapped_is_told_whoever_does_it() {
    in_every_mode(|w| {
        let (mm, uffd) = watched(w, RegisterMode::MISSING, UffdFeatures::EVENT_UNMAP);
        let read = || {
            for range in [pages(AT, 2), pages(AT + 8, 2)] {
                assert!(uffd.wait_for_message());
                let UffdMessage::Unmap(found) = next(&uffd) else { panic!("unmapped") };
                assert_eq!(found, range);
            }
        };
        together(w, read, || {
            mm.munmap(pages(AT, 2)).unwrap();
            mm.munmap(pages(BESIDE, 2)).unwrap();
            let request = MmapRequest {
                addr: at(AT + 8),
                len: 2 * P,
                prot: Prot::READ | Prot::WRITE,
                flags: MapFlags::FIXED,
                backing: MapBacking::Anonymous,
            };
            mm.mmap(request).unwrap();
        });
        assert_eq!(fills(w, &uffd, AT + 8), Err(Error::NotFound), "what is new there is not watched");
    });
}

#[test]
fn a_mapping_that_moves_stays_watched_if_that_is_told() {
    in_every_mode(|w| {
        let features = UffdFeatures::EVENT_REMAP | UffdFeatures::WP_UNPOPULATED;
        let (mm, uffd) = watched(w, RegisterMode::MISSING | RegisterMode::WP, features);
        uffd.write_protect(at(AT + 4), P, crate::ProtectMode::WP).unwrap();
        let read = || {
            let UffdMessage::Remap { from, to, len } = next(&uffd) else { panic!("moved") };
            assert_eq!((from, to, len), (at(AT), at(900), 16 * P));
        };
        let flags = RemapFlags::MAYMOVE | RemapFlags::FIXED;
        together(w, read, || assert_eq!(mm.mremap(at(AT), 16 * P, 16 * P, flags, at(900)), Ok(at(900))));
        assert!(mm.pagemap(at(904)).uffd_wp);
        w.vm.validate().unwrap();
        fills(w, &uffd, 900).unwrap();
        assert_eq!(mm.load(900 * P), Ok(1));
        // In place: there is nothing to tell.
        mm.mremap(at(900), 16 * P, 8 * P, RemapFlags::empty(), Va(0)).unwrap();
        assert!(!uffd.has_message());
    });
}

#[test]
fn a_move_that_is_refused_leaves_nothing_changing() {
    in_every_mode(|w| {
        let features = UffdFeatures::EVENT_REMAP | UffdFeatures::EVENT_UNMAP;
        let (mm, uffd) = watched(w, RegisterMode::MISSING, features);
        let flags = RemapFlags::MAYMOVE | RemapFlags::FIXED;
        // Across the end of the mapping.
        mm.mremap(at(AT), 64 * P, 128 * P, flags, at(900)).unwrap_err();
        assert!(!uffd.has_message());
        fills(w, &uffd, AT).unwrap();
        w.vm.validate().unwrap();
    });
}

#[test]
fn a_child_gets_a_userfaultfd_of_its_own() {
    in_every_mode(|w| {
        let features = UffdFeatures::EVENT_FORK | UffdFeatures::WP_UNPOPULATED;
        let (mm, uffd) = watched(w, RegisterMode::MISSING | RegisterMode::WP, features);
        fills(w, &uffd, AT).unwrap();
        uffd.write_protect(at(AT), 8 * P, crate::ProtectMode::WP).unwrap();
        let read = || {
            assert!(uffd.wait_for_message());
            assert_eq!(fills(w, &uffd, AT + 9), Err(Error::Again), "the child is not known yet");
            let UffdMessage::Fork(fork) = next(&uffd) else { panic!("a child") };
            drop(fork);
            let UffdMessage::Fork(fork) = next(&uffd) else { panic!("told again") };
            fork.take()
        };
        let mut child = None;
        let own = together(w, read, || child = Some(mm.fork().unwrap()));
        let child = child.unwrap();
        w.vm.validate().unwrap();
        assert!(own.is_for(&child) && uffd.is_for(&mm));
        assert!(child.pagemap(at(AT)).uffd_wp && child.pagemap(at(AT + 7)).uffd_wp);
        assert_eq!(child.load(AT * P), Ok(1));
        fills(w, &own, AT + 9).unwrap();
        assert_eq!(child.load((AT + 9) * P), Ok(1));
        assert!(!mm.pagemap(at(AT + 9)).present());
        fills(w, &uffd, AT + 9).unwrap();
        own.write_protect(at(AT), 8 * P, crate::ProtectMode::empty()).unwrap();
        child.store(AT * P, 5).unwrap();
        assert_eq!((child.load(AT * P), mm.load(AT * P)), (Ok(5), Ok(1)));
    });
}

/// Forks a program of which every form of memory is protected; the child's userfaultfd, if it gets one, and
/// what the pages of the child say.
fn child_of_protected(w: &World, features: UffdFeatures) -> Vec<bool> {
    let (mm, uffd) = watched(w, RegisterMode::WP, features);
    let object = w.vm.shm_new(2).unwrap();
    mm.map_raw(pages(SHARED, 2), RW | VmFlags::SHARED, Backing::Shared(object.id()));
    uffd.register(at(SHARED), 2 * P, RegisterMode::WP).unwrap();
    // A page, the zero page, one in swap, one that is pinned, nothing; and the same without protection.
    for first in [AT, AT + 5] {
        [0, 2, 3].iter().for_each(|nth| mm.store((first + nth) * P, 1).unwrap());
        assert_eq!(mm.load((first + 1) * P), Ok(0));
        assert!(page_out(w, &mm, first + 2));
    }
    (0..2).for_each(|nth| mm.store((SHARED + nth) * P, 1).unwrap());
    let pins = [AT + 3, AT + 8].map(|page| mm.pin_page(at(page)));
    uffd.write_protect(at(AT), 5 * P, crate::ProtectMode::WP).unwrap();
    uffd.write_protect(at(SHARED), P, crate::ProtectMode::WP).unwrap();
    let protected = |mm: &Mm<'_, M>| {
        let of = |first: u64, nr: u64| (first..first + nr).map(|page| mm.pagemap(at(page)).uffd_wp);
        of(AT, 10).chain(of(SHARED, 2)).collect::<Vec<_>>()
    };
    let before = protected(&mm);
    let mut child = None;
    let own = if features.contains(UffdFeatures::EVENT_FORK) {
        let read = || {
            assert!(uffd.wait_for_message());
            let UffdMessage::Fork(fork) = next(&uffd) else { panic!("a child") };
            Some(fork.take())
        };
        together(w, read, || child = Some(mm.fork().unwrap()))
    } else {
        child = Some(mm.fork().unwrap());
        None
    };
    let child = child.unwrap();
    w.vm.validate().unwrap();
    assert_eq!(protected(&mm), before, "the parent's stay");
    assert_eq!(child.counters().swap.0, 2);
    let found = protected(&child);
    drop((own, uffd, pins));
    (0..10).for_each(|page| child.store((AT + page) * P, 5).unwrap());
    found
}

#[test]
fn protection_of_every_form_goes_with_the_childs_userfaultfd_and_nowhere_without() {
    in_every_mode(|w| {
        let all = [true, true, true, true, true, false, false, false, false, false, true, false];
        let found = child_of_protected(w, UffdFeatures::EVENT_FORK | UffdFeatures::WP_UNPOPULATED);
        assert_eq!(found, all, "page, zero page, swap, pinned page, nothing; and of an object");
        assert_eq!(child_of_protected(w, UffdFeatures::WP_UNPOPULATED), [false; 12]);
    });
}

#[test]
fn a_fork_goes_on_when_nobody_reads_of_it() {
    in_every_mode(|w| {
        let (mm, uffd) = watched(w, RegisterMode::MISSING, UffdFeatures::EVENT_FORK);
        let end = || {
            assert!(uffd.wait_for_message());
            drop(uffd);
        };
        let mut child = None;
        together(w, end, || child = Some(mm.fork().unwrap()));
        assert_eq!(child.unwrap().load(AT * P), Ok(0), "it is not watched");
        w.vm.validate().unwrap();
    });
}

#[test]
fn a_fork_that_fails_is_not_told() {
    World::run(|w| {
        let (mm, uffd) = watched(w, RegisterMode::MISSING, UffdFeatures::EVENT_FORK);
        for nth in 1..12 {
            w.failures.set(anonmem_hosted::FailurePlan::From(nth));
            let Err(error) = mm.fork() else { unreachable!("more than {nth} allocations") };
            w.failures.set(anonmem_hosted::FailurePlan::Off);
            assert_eq!(error, Error::OutOfMemory);
            assert!(!uffd.has_message(), "nobody is told of a child that there is not");
            w.vm.validate().unwrap();
            fills(w, &uffd, AT + nth).unwrap();
        }
    });
}

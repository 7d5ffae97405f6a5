//! Changes that are told.

use super::{AT, BESIDE, at, full_of, in_every_mode, together, watched};
use crate::{
    Advice, Error, FillMode, MapBacking, MapFlags, MmapRequest, Prot, RegisterMode, RemapFlags, Uffd,
    UffdFeatures, UffdMessage,
    testing::{M, P, World, pages},
};
use anonmem_hal::Va;

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

//! Faults that wait, and those who answer them.

use super::{AT, at, full_of, in_every_mode, missing, together, watched};
use crate::{
    FillMode, Populate, ProtectMode, RegisterMode, Uffd, UffdFault, UffdFaults, UffdFeatures, UffdMessage,
    UffdReason,
    testing::{M, P, RW, World, pages},
    vma::{flags::VmFlags, vma::Backing},
};
use anonmem_hosted::Trap;

fn next_fault(uffd: &Uffd<'_, M>) -> UffdFault {
    assert!(uffd.wait_for_message());
    match uffd.read() {
        Some(UffdMessage::Fault(fault)) => fault,
        Some(
            UffdMessage::Fork(_) | UffdMessage::Remap { .. } | UffdMessage::Remove(_) | UffdMessage::Unmap(_),
        ) => {
            panic!("an event")
        }
        None => panic!("nothing to read"),
    }
}

#[test]
fn a_fault_waits_for_its_page() {
    in_every_mode(|w| {
        let (mm, uffd) = missing(w);
        let answer = || {
            for (write, byte) in [(false, 3), (true, 4)] {
                let fault = next_fault(&uffd);
                assert_eq!((fault.write, fault.reason, fault.thread), (write, UffdReason::Missing, 0));
                assert!(uffd.copy(fault.va, P, FillMode::empty(), &mut full_of(w, byte)).result().is_ok());
            }
        };
        together(w, answer, || {
            assert_eq!(mm.load(AT * P + 100), Ok(3));
            mm.store((AT + 1) * P, 9).unwrap();
            assert_eq!(mm.load((AT + 1) * P + 1), Ok(4));
        });
        assert!(!uffd.has_message());
    });
}

#[test]
fn the_kernel_waits_too_and_so_do_those_who_pin_or_populate() {
    in_every_mode(|w| {
        let (mm, uffd) = missing(w);
        let answer = || {
            for _ in 0..6 {
                let fault = next_fault(&uffd);
                assert!(uffd.copy(fault.va, P, FillMode::empty(), &mut full_of(w, 3)).result().is_ok());
            }
        };
        together(w, answer, || {
            let pinned = mm.pin(pages(AT, 4), crate::PinFlags::WRITE).unwrap();
            drop(pinned);
            mm.populate(pages(AT + 4, 2), Populate::Write).unwrap();
            assert_eq!(mm.load((AT + 5) * P), Ok(3));
        });
    });
}

#[test]
fn a_write_waits_until_it_is_allowed() {
    in_every_mode(|w| {
        let (mm, uffd) = watched(w, RegisterMode::WP, UffdFeatures::WP_UNPOPULATED);
        mm.store(AT * P, 1).unwrap();
        uffd.write_protect(at(AT), 2 * P, ProtectMode::WP).unwrap();
        let answer = || {
            for _ in 0..2 {
                let fault = next_fault(&uffd);
                assert_eq!((fault.write, fault.reason), (true, UffdReason::WriteProtected));
                uffd.write_protect(fault.va, P, ProtectMode::empty()).unwrap();
            }
        };
        together(w, answer, || {
            mm.store(AT * P, 2).unwrap();
            mm.store((AT + 1) * P, 3).unwrap();
        });
        assert_eq!((mm.load(AT * P), mm.load((AT + 1) * P)), (Ok(2), Ok(3)));
    });
}

#[test]
fn a_page_of_an_object_that_is_not_mapped_is_asked_for() {
    in_every_mode(|w| {
        let mm = w.vm.new_mm().unwrap();
        let object = w.vm.shm_new(2).unwrap();
        mm.map_raw(pages(AT, 2), RW | VmFlags::SHARED, Backing::Shared(object.id()));
        mm.map_raw(pages(AT + 8, 2), RW | VmFlags::SHARED, Backing::Shared(object.id()));
        drop(object);
        let uffd = mm.userfaultfd(UffdFaults::Any).unwrap();
        uffd.agree(UffdFeatures::empty()).unwrap();
        uffd.register(at(AT), 2 * P, RegisterMode::MINOR).unwrap();
        mm.store((AT + 8) * P, 6).unwrap();
        let answer = || {
            let fault = next_fault(&uffd);
            assert_eq!(fault.reason, UffdReason::Minor);
            assert!(uffd.resume(fault.va, P, FillMode::empty()).result().is_ok());
        };
        together(w, answer, || assert_eq!(mm.load(AT * P), Ok(6)));
        assert_eq!(mm.load((AT + 1) * P), Ok(0), "what the object has not is not asked for");
    });
}

#[test]
fn the_end_of_the_watch_lets_everybody_go_on() {
    in_every_mode(|w| {
        for unread in [true, false] {
            let (mm, uffd) = missing(w);
            let end = move || {
                if unread {
                    assert!(uffd.wait_for_message());
                } else {
                    next_fault(&uffd);
                }
                drop(uffd);
            };
            together(w, end, || assert_eq!(mm.load(AT * P), Ok(0)));
        }
        let (mm, uffd) = missing(w);
        let end = || {
            next_fault(&uffd);
            uffd.unregister(at(AT), 16 * P).unwrap();
        };
        together(w, end, || assert_eq!(mm.load(AT * P), Ok(0)));
    });
}

#[test]
fn whoever_is_woken_without_a_page_asks_again() {
    in_every_mode(|w| {
        let (mm, uffd) = missing(w);
        let answer = || {
            let fault = next_fault(&uffd);
            uffd.wake(fault.va, P).unwrap();
            let again = next_fault(&uffd);
            assert_eq!(again, fault);
            let filled = uffd.copy(fault.va, P, FillMode::DONTWAKE, &mut full_of(w, 1));
            assert!(filled.result().is_ok());
            uffd.wake(at(AT + 1), P).unwrap();
            uffd.wake(at(AT), 16 * P).unwrap();
        };
        together(w, answer, || assert_eq!(mm.load(AT * P), Ok(1)));
    });
}

#[test]
fn a_signal_instead_of_a_message() {
    in_every_mode(|w| {
        let (mm, uffd) = watched(w, RegisterMode::MISSING, UffdFeatures::SIGBUS);
        assert_eq!((mm.load(AT * P), mm.store(AT * P, 1)), (Err(Trap::Bus), Err(Trap::Bus)));
        assert!(!uffd.has_message());
        assert!(uffd.zeropage(at(AT), P, FillMode::empty()).result().is_ok());
        assert_eq!(mm.load(AT * P), Ok(0));
    });
}

#[test]
fn the_faults_of_the_kernel_are_not_everybodys_business() {
    in_every_mode(|w| {
        let mm = w.vm.new_mm().unwrap();
        mm.map_raw(pages(AT, 2), RW, Backing::Anonymous);
        let uffd = mm.userfaultfd(UffdFaults::UserOnly).unwrap();
        uffd.agree(UffdFeatures::empty()).unwrap();
        uffd.register(at(AT), 2 * P, RegisterMode::MISSING).unwrap();
        assert_eq!(mm.handle_kernel_fault(at(AT), crate::FaultAccess::Read), crate::FaultOutcome::Bus);
    });
}

#[test]
fn an_address_is_told_to_the_byte_if_that_was_agreed_upon() {
    in_every_mode(|w: &World| {
        let (mm, uffd) = watched(w, RegisterMode::MISSING, UffdFeatures::EXACT_ADDRESS);
        let answer = || {
            let fault = next_fault(&uffd);
            assert_eq!(fault.va.0, AT * P + 77);
            assert!(uffd.zeropage(at(AT), P, FillMode::empty()).result().is_ok());
        };
        together(w, answer, || assert_eq!(mm.load(AT * P + 77), Ok(0)));
    });
}

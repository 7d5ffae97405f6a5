//! Which range is pinned, where it is split, and what is written through it.

use super::{AT, READ, WRITE, frame, program};
use crate::{
    Advice, Error, Event, PinFlags, RegisterMode, UffdFaults, UffdFeatures,
    testing::{P, RW, World, pages},
    vma::Backing,
};
use anonmem_hal::{Va, VaRange, arch::Arch as _, arch::X86_64};
use std::{vec, vec::Vec};

#[test]
fn a_range_is_split_at_its_pages_and_at_nothing_else() {
    World::run(|w| {
        let mm = program(w, 4);
        let mut pinned = mm.pin(pages(16, 4), WRITE).unwrap();
        for at in [AT + 1, AT - P, AT + 5 * P] {
            assert!(matches!(pinned.split_off(Va(at)), Err(Error::Invalid(_))), "{at:#x}");
        }
        let none = pinned.split_off(Va(AT + 4 * P)).unwrap();
        assert_eq!((none.pages().0, none.range(), pinned.range()), (0, pages(20, 0), pages(16, 4)));
        let rest = pinned.split_off(Va(AT + 3 * P)).unwrap();
        assert_eq!((pinned.range(), pinned.pages().0), (pages(16, 3), 3));
        assert_eq!((rest.range(), rest.pages().0), (pages(19, 1), 1));
        let all = pinned.split_off(Va(AT)).unwrap();
        assert_eq!((pinned.range(), pinned.pages().0), (pages(16, 0), 0));
        assert_eq!((all.range(), all.pages().0), (pages(16, 3), 3));
        w.vm.validate().unwrap();
    });
}

#[test]
fn what_is_written_over_pages_arrives_in_each() {
    World::run(|w| {
        let mm = w.vm.new_mm().unwrap();
        mm.map_raw(pages(16, 3), RW, Backing::Anonymous);
        // No page's frame follows that of the page before.
        (0..3).rev().for_each(|i| mm.store(AT + i * P, 0).unwrap());
        assert!((1..3).all(|i| frame(&mm, AT + i * P) != frame(&mm, AT + (i - 1) * P).offset(1)));
        let pinned = mm.pin(pages(16, 3), WRITE).unwrap();
        let bytes: Vec<u8> = (0..2 * P).map(|i| (i % 251) as u8).collect();
        pinned.write(Va(AT + P / 2), &bytes);
        for i in [0, 1, P / 2 - 1, P / 2, P / 2 + 1, P, P + P / 2 - 1, P + P / 2, 2 * P - 1] {
            assert_eq!(mm.load(AT + P / 2 + i), Ok((i % 251) as u8), "byte {i}");
        }
        pinned.write(Va(AT + 3 * P - 2), &[7, 8]);
        assert_eq!((mm.load(AT + 3 * P - 1), mm.load(AT + 3 * P - 3)), (Ok(8), Ok(0)));
        let outside = [(AT - 1, 1), (AT + 3 * P - 2, 3), (AT + 3 * P, 1)];
        for (at, len) in outside {
            let written = std::panic::catch_unwind(core::panic::AssertUnwindSafe(|| {
                pinned.write(Va(at), &vec![1; len]);
            }));
            let said = written.expect_err("outside of the range");
            let said = said.downcast_ref::<std::string::String>().expect("a message");
            assert!(said.contains("through a pin of"), "{said}");
        }
    });
}

#[test]
fn a_range_ends_where_programs_memory_does() {
    World::run(|w| {
        let mm = w.vm.new_mm().unwrap();
        let last = VaRange { start: Va(X86_64::USER_END.0 - P), end: X86_64::USER_END };
        mm.map_raw(last, RW, Backing::Anonymous);
        mm.store(last.start.0, 1).unwrap();
        assert_eq!(mm.pin(last, WRITE).unwrap().pages().0, 1);
        assert_eq!(mm.pin_fast(last, WRITE).unwrap().pages().0, 1);
        for wrong in [
            VaRange { start: last.end, end: last.start },
            VaRange { start: last.start, end: Va(last.end.0 + 1) },
            VaRange { start: last.start, end: Va(u64::MAX) },
        ] {
            assert_eq!(mm.pin(wrong, READ).err(), Some(Error::BadAddress), "{wrong:?}");
            assert_eq!(mm.pin_fast(wrong, READ).err(), Some(Error::BadAddress), "{wrong:?}");
        }
        let nothing = VaRange { start: last.start, end: last.start };
        assert_eq!(mm.pin(nothing, READ).unwrap().pages().0, 0);
    });
}

#[test]
fn who_pins_to_write_takes_one_fault_and_with_force_no_short_cut() {
    World::run(|w| {
        let mm = w.vm.new_mm().unwrap();
        mm.map_raw(pages(16, 2), RW, Backing::Anonymous);
        let count = |event| w.vm.stats().event(event);
        drop(mm.pin(pages(16, 1), WRITE).unwrap());
        assert_eq!((count(Event::FaultAnon), count(Event::FaultZeroPage)), (1, 0));
        drop(mm.pin_fast(pages(16, 1), WRITE | PinFlags::FORCE).unwrap());
        assert_eq!(count(Event::PinFast), 0, "what force allows is asked of the mapping");
        // What is only read stays free to be dropped.
        mm.madvise(Va(AT), P, Advice::Free).unwrap();
        drop(mm.pin_fast(pages(16, 1), READ).unwrap());
        assert_eq!(count(Event::PinFast), 1);
        let page = w.vm.frames.try_get(frame(&mm, AT)).unwrap();
        assert!(w.vm.reclaim_folio(page));
    });
}

/// A page that is the program's own, of a mapping that may be written, and an entry that may not.
#[test]
fn a_page_that_is_protected_is_pinned_for_writing_after_a_fault() {
    for leaf in [false, true] {
        World::run(|w| {
            let mm = w.vm.new_mm().unwrap();
            mm.map_raw(pages(512, 512), RW, Backing::Anonymous);
            let at = Va(512 * P);
            assert!(!leaf || mm.fault_leaf(at));
            mm.store(at.0, 1).unwrap();
            let uffd = mm.userfaultfd(UffdFaults::Any).unwrap();
            uffd.agree(UffdFeatures::WP_ASYNC).unwrap();
            uffd.register(at, 512 * P, RegisterMode::WP).unwrap();
            uffd.write_protect(at, 512 * P, crate::ProtectMode::WP).unwrap();
            drop(mm.pin(VaRange::page(at), READ).unwrap());
            assert!(mm.pagemap(at).uffd_wp);
            drop(mm.pin(VaRange::page(at), WRITE).unwrap());
            assert!(!mm.pagemap(at).uffd_wp, "the write is known");
        });
    }
}

#[test]
fn a_look_tells_the_zero_page_and_finds_its_page_in_a_leaf() {
    World::run(|w| {
        let mm = w.vm.new_mm().unwrap();
        mm.map_raw(pages(512, 513), RW, Backing::Anonymous);
        assert!(mm.fault_leaf(Va(512 * P)));
        mm.store(515 * P, 4).unwrap();
        let look = mm.look(Va(515 * P), READ).unwrap();
        assert!(!look.is_zero_page() && look.page() == frame(&mm, 515 * P));
        let mut byte = [0];
        look.read(0, &mut byte);
        assert_eq!(byte, [4]);
        mm.load(1024 * P).unwrap();
        assert!(mm.look(Va(1024 * P), READ).unwrap().is_zero_page());
    });
}

//! Whoever looks at a frame that it owns no count of is seen by the explorer: each answer is tried.

use anonmem_frame::{FolioRef, Frames, Kind};
use anonmem_hal::{Order, Pfn};
use anonmem_lab::{Exploration, Scenario, Sim, explore};
use std::{cell::Cell, rc::Rc};

struct World {
    frames: Frames<Sim>,
    /// A folio with one reference, which nobody has as a value.
    pfn: Pfn,
}

fn world() -> World {
    let frames = Frames::new(Sim::new(32)).expect("frames for a test");
    let pfn = frames.alloc(Order::ZERO).expect("a free frame").into_reference().into_raw();
    World { frames, pfn }
}

/// The answers that `look` gives while another CPU frees the folio.
fn answers(look: fn(&World) -> bool) -> (bool, bool) {
    let seen = Rc::new(Cell::new((false, false)));
    let note = Rc::clone(&seen);
    let scenario = Scenario::new("look-vs-free", 1, world)
        .cpu("looks", move |w| {
            let (yes, no) = note.get();
            let now = look(w);
            note.set((yes || now, no || !now));
        })
        .cpu("frees", |w| {
            // SAFETY: `world` took the reference apart; this CPU alone takes it back.
            drop(unsafe { FolioRef::from_raw(&w.frames, w.pfn) });
        });
    let report = explore(&scenario, &Exploration::default());
    assert!(report.exhausted && report.found.is_none(), "{report}");
    seen.get()
}

/// A look at a frame that nobody holds, with its name.
type Look = (&'static str, fn(&World) -> bool);

#[test]
fn looks_without_a_count_find_the_folio_and_find_it_gone() {
    let looks: [Look; 4] = [
        ("kind", |w| w.frames.kind(w.pfn) == Kind::Folio),
        ("folio", |w| w.frames.folio(w.pfn).is_some()),
        ("try_get", |w| w.frames.try_get(w.pfn).map(FolioRef::into_raw).is_some()),
        ("try_pin", |w| w.frames.try_pin(w.pfn).map(core::mem::forget).is_some()),
    ];
    for (name, look) in looks {
        assert_eq!(answers(look), (true, true), "{name} gives one answer only");
    }
}

#[test]
fn a_large_folio_that_becomes_small_ones_is_seen_at_each_step() {
    // The tail is looked at; meanwhile its folio is freed and the frames are used for single pages.
    let seen = Rc::new(Cell::new(0_u32));
    let note = Rc::clone(&seen);
    let large = || {
        let frames = Frames::new(Sim::new(32)).expect("frames for a test");
        let pfn = frames.alloc(Order::new(1)).expect("two free frames").into_reference().into_raw();
        World { frames, pfn }
    };
    let scenario = Scenario::new("tail-vs-reuse", 1, large)
        .cpu("looks at the tail", move |w| {
            let found = w.frames.folio(w.pfn.offset(1)).map_or(0, |folio| 1 + (folio.pfn() != w.pfn) as u32);
            note.set(note.get() | 1 << found);
        })
        .cpu("frees, and allocates single pages", |w| {
            // SAFETY: as above.
            drop(unsafe { FolioRef::from_raw(&w.frames, w.pfn) });
            for _ in 0..2 {
                let page = w.frames.alloc(Order::ZERO).expect("a free frame").into_reference();
                page.into_raw();
            }
        });
    let report = explore(&scenario, &Exploration::default());
    assert!(report.exhausted && report.found.is_none(), "{report}");
    assert_eq!(seen.get() & 3, 3, "nothing, and the large folio: {:b}", seen.get());
}

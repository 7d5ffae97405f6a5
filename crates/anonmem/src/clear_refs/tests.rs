//! Accessed bits, and the peak.

use super::*;
use crate::{
    MapBacking, MapFlags, MmapRequest, Prot,
    testing::{P, RW, World, pages},
};
use anonmem_hal::{FlushRange, SourceId, Va};
use core::{num::NonZeroU64, ops::ControlFlow};

mod soft_dirty;

/// The bytes of the mapping at `page` that count as accessed.
fn referenced(mm: &Mm<'_, crate::testing::M>, page: u64) -> u64 {
    let mut found = None;
    mm.for_each_vma_usage(Va(page * P), &mut |_, usage| {
        found = Some(usage.referenced);
        ControlFlow::Break(())
    });
    found.expect("a mapping")
}

#[test]
fn accessed_bits_go_where_they_are_asked_to() {
    World::run(|w| {
        let mm = w.vm.new_mm().unwrap();
        mm.map_raw(pages(16, 4), RW, Backing::Anonymous);
        let shared = MmapRequest {
            addr: Va(32 * P),
            len: 4 * P,
            prot: Prot::READ | Prot::WRITE,
            flags: MapFlags::FIXED,
            backing: MapBacking::SharedNew,
        };
        mm.mmap(shared).unwrap();
        let touch = || {
            for page in [16, 17, 32] {
                mm.store(page * P, 7).unwrap();
            }
        };
        let both = || (referenced(&mm, 16), referenced(&mm, 32));
        touch();
        assert_eq!(both(), (2 * P, P));
        mm.clear_refs(ClearRefs::Anonymous);
        assert_eq!(both(), (0, P));
        mm.clear_refs(ClearRefs::Mapped);
        assert_eq!(both(), (0, 0));
        assert_eq!(mm.load(16 * P), Ok(7), "contents stay");
        // A CPU sets the bit when it walks; nothing was flushed.
        mm.slot().space.flush(&w.vm.frames, FlushRange::All);
        touch();
        assert_eq!(both(), (2 * P, P));
        mm.clear_refs(ClearRefs::All);
        assert_eq!(both(), (0, 0));
        assert!(!ClearRefs::Mapped.concerns(Backing::Anonymous));
        assert!(ClearRefs::Mapped.concerns(Backing::Source(SourceId(NonZeroU64::MIN))));
    });
}

#[test]
fn the_peak_begins_anew() {
    World::run(|w| {
        let mm = w.vm.new_mm().unwrap();
        mm.map_raw(pages(16, 8), RW, Backing::Anonymous);
        (16..24).for_each(|page| mm.store(page * P, 7).unwrap());
        mm.madvise(Va(16 * P), 6 * P, crate::Advice::DontNeed).unwrap();
        let peak = || mm.counters().peak.0;
        assert_eq!(peak(), 8);
        mm.clear_refs(ClearRefs::Peak);
        assert_eq!(peak(), 2);
    });
}

#[test]
fn numbers_are_those_of_proc() {
    assert!((0..9).filter(|&n| ClearRefs::from_number(n).is_some()).eq([1, 2, 3, 4, 5]));
}

//! Folios of several pages, pinned by one count each.

use super::{AT, WRITE, frame};
use crate::{
    Advice, ClearRefs, FolioMode, FolioPolicy, Mm, PinFlags, Populate, Prot, RemoteBytes,
    gup::PinnedRange,
    testing::{M, P, RW, World, pages},
    vma::Backing,
};
use anonmem_hal::{Order, Pfn, Va};
use std::vec::Vec;

/// A program with `n` pages in folios of sixteen.
fn program(w: &World, n: u64) -> Mm<'_, M> {
    let mm = w.vm.new_mm().unwrap();
    w.vm.set_folio_policy(FolioPolicy::default().with(Order::new(4), FolioMode::Always));
    mm.map_raw(pages(16, n), RW, Backing::Anonymous);
    mm.populate(pages(16, n), Populate::Write).unwrap();
    w.vm.set_folio_policy(FolioPolicy::default());
    mm
}

fn frames(pinned: &PinnedRange<'_, M>) -> Vec<Pfn> {
    pinned.runs().flat_map(|run| (0..run.pages.0).map(move |nth| run.first.offset(nth))).collect()
}

fn mapped(mm: &Mm<'_, M>, n: u64) -> Vec<Pfn> {
    (0..n).map(|nth| frame(mm, AT + nth * P)).collect()
}

#[test]
fn a_folio_that_is_mapped_whole_has_one_pin() {
    World::run(|w| {
        let mm = program(w, 608);
        let pinned = mm.pin_fast(pages(16, 600), WRITE).unwrap();
        assert_eq!(frames(&pinned), mapped(&mm, 600));
        assert_eq!(pinned.runs().count(), 600_usize.div_ceil(16), "one run a folio, and the last is cut");
        assert!(pinned.runs().all(|run| pinned.folio(run).unwrap().counts().pins() == 1));
        w.vm.validate().unwrap();
        drop(pinned);
        // In the middle of a folio it begins, and in the middle of another it ends.
        let pinned = mm.pin_fast(pages(20, 60), WRITE).unwrap();
        assert_eq!(frames(&pinned), mapped(&mm, 64)[4..]);
        drop(pinned);
        w.vm.validate().unwrap();
    });
}

#[test]
fn a_folio_that_is_not_mapped_whole_is_pinned_as_far_as_the_program_sees_it() {
    World::run(|w| {
        let mm = program(w, 128);
        // Holes in every second folio, filled by other pages: what follows in the folio is not what is
        // mapped.
        for nth in (0..128).step_by(32) {
            for hole in [3, 9, 15] {
                mm.madvise(Va(AT + (nth + hole) * P), P, Advice::DontNeed).unwrap();
                mm.store(AT + (nth + hole) * P, 1).unwrap();
            }
        }
        let pinned = mm.pin_fast(pages(16, 128), WRITE).unwrap();
        assert_eq!(frames(&pinned), mapped(&mm, 128), "what is pinned is what the program has");
        w.vm.validate().unwrap();
        drop(pinned);
        w.vm.validate().unwrap();
        assert!(mapped(&mm, 128).iter().all(|&page| w.vm.frames.folio(page).unwrap().counts().pins() == 0));
    });
}

#[test]
fn who_writes_to_a_leaf_through_a_pin_or_by_force_makes_it_dirty_for_who_asks() {
    World::run(|w| {
        let mm = w.vm.new_mm().unwrap();
        mm.map_raw(pages(1024, 512), RW, Backing::Anonymous);
        let va = Va(1024 * P);
        assert!(mm.fault_leaf(va));
        let is_dirty = || mm.pagemap(va).soft_dirty;
        mm.clear_refs(ClearRefs::SoftDirty);
        assert!(!is_dirty());
        drop(mm.pin(pages(1024, 1), WRITE).unwrap());
        assert!(is_dirty());
        mm.mprotect(pages(1024, 512), Prot::READ).unwrap();
        mm.clear_refs(ClearRefs::SoftDirty);
        assert!(!is_dirty());
        assert_eq!(mm.access_remote(va, RemoteBytes::Write(&[7]), PinFlags::FORCE), Ok(1));
        assert!(is_dirty() && mm.load(va.0) == Ok(7) && mm.store(va.0, 1).is_err());
        w.vm.validate().unwrap();
    });
}

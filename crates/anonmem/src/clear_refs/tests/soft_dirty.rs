//! What counts as written since it was asked, in whatever form a page is.

use crate::{
    Advice, ClearRefs, Config, FolioMode, FolioPolicy, LockMode, MapBacking, MapFlags, Mm, MmapRequest,
    PageCategories, PageRegion, PageScan, PinFlags, Prot, RemapFlags,
    testing::{M, P, RW, World, pages},
    vma::vma::Backing,
};
use anonmem_hal::{Order, Va, VaRange};
use std::vec::Vec;

const AT: u64 = 16;

fn at(page: u64) -> Va {
    Va((AT + page) * P)
}

fn map(mm: &Mm<'_, M>, first: u64, pages: u64, backing: MapBacking) {
    let (prot, flags) = (Prot::READ | Prot::WRITE, MapFlags::FIXED);
    mm.mmap(MmapRequest { addr: at(first), len: pages * P, prot, flags, backing }).unwrap();
}

/// Runs `f` in each lock mode with a program of eight pages, the first four of which are written.
fn with_program(f: impl Fn(&World, &Mm<'_, M>)) {
    for lock_mode in [LockMode::Mmap, LockMode::Vma, LockMode::Speculative] {
        World::run_with(Config { lock_mode, ..Config::default() }, |w| {
            w.vm.swap_on(0, 2048, 0).unwrap();
            let mm = w.vm.new_mm().unwrap();
            map(&mm, 0, 8, MapBacking::Anonymous);
            (0..4).for_each(|page| store(&mm, page));
            f(w, &mm);
            w.vm.validate().unwrap();
            drop(mm);
            w.vm.swap_off(0).unwrap();
        });
    }
}

fn store(mm: &Mm<'_, M>, page: u64) {
    mm.store(at(page).0, page as u8 + 1).unwrap();
}

fn clear(mm: &Mm<'_, M>) {
    mm.clear_refs(ClearRefs::SoftDirty);
}

/// The first of 64 pages that are soft-dirty; every way to ask says the same.
fn dirty(mm: &Mm<'_, M>) -> Vec<u64> {
    let range = pages(AT, 64);
    let found: Vec<u64> = (0..64).filter(|&page| mm.pagemap(at(page)).soft_dirty).collect();
    let scan = PageScan { all_of: PageCategories::SOFT_DIRTY, ..PageScan::all(range) };
    let mut regions = [PageRegion::default(); 64];
    let told = mm.pagemap_scan(&scan, Some(&mut regions)).unwrap().regions;
    let scanned = regions[..told].iter().flat_map(|region| region.range.iter_pages());
    assert!(scanned.map(|va| va.0 / P - AT).eq(found.iter().copied()), "{found:?} and {regions:?}");
    found
}

fn page_out(w: &World, mm: &Mm<'_, M>, page: u64) {
    let page = w.vm.frames.try_get(mm.pagemap(at(page)).pfn.unwrap()).unwrap();
    assert!(w.vm.reclaim_folio(page));
}

#[test]
fn what_is_written_is_told_and_what_is_read_is_not() {
    with_program(|_, mm| {
        assert_eq!(dirty(mm), [0, 1, 2, 3, 4, 5, 6, 7], "a new mapping is soft-dirty as a whole");
        clear(mm);
        assert_eq!(dirty(mm), [0u64; 0]);
        for page in [0, 1, 4, 5] {
            mm.load(at(page).0).unwrap();
        }
        assert_eq!(dirty(mm), [0u64; 0], "reads, also of the zero page");
        for page in [1, 5, 6] {
            store(mm, page);
        }
        assert_eq!(dirty(mm), [1, 5, 6]);
        clear(mm);
        assert_eq!(dirty(mm), [0u64; 0]);
        store(mm, 1);
        assert_eq!(dirty(mm), [1]);
        assert_eq!((mm.load(at(1).0), mm.load(at(3).0)), (Ok(2), Ok(4)), "contents stay");
        mm.madvise(at(1), P, Advice::DontNeed).unwrap();
        assert_eq!(dirty(mm), [0u64; 0], "what was dropped is no page");
    });
}

#[test]
fn a_cpu_that_could_write_is_noticed_after_the_clear() {
    with_program(|_, mm| {
        let user = mm.user();
        user.store(at(2), &[7]).unwrap();
        clear(mm);
        assert_eq!(dirty(mm), [0u64; 0]);
        user.store(at(2), &[8]).unwrap();
        assert_eq!(dirty(mm), [2], "the translation that allowed stores is gone");
    });
}

#[test]
fn the_bit_goes_to_swap_and_comes_back() {
    with_program(|w, mm| {
        clear(mm);
        store(mm, 1);
        (0..3).for_each(|page| page_out(w, mm, page));
        assert_eq!(dirty(mm), [1]);
        for page in 0..3 {
            mm.load(at(page).0).unwrap();
        }
        assert_eq!(dirty(mm), [1], "they are back");
        (0..3).for_each(|page| page_out(w, mm, page));
        clear(mm);
        assert_eq!(dirty(mm), [0u64; 0], "cleared in swap");
        store(mm, 0);
        assert_eq!(dirty(mm), [0], "brought back by a write");
        mm.load(at(1).0).unwrap();
        store(mm, 1);
        assert_eq!(dirty(mm), [0, 1], "read, and written");
    });
}

#[test]
fn parent_and_child_have_what_it_said() {
    with_program(|w, parent| {
        clear(parent);
        store(parent, 0);
        page_out(w, parent, 3);
        let child = parent.fork().unwrap();
        assert_eq!((dirty(parent), dirty(&child)), (Vec::from([0]), Vec::from([0])));
        store(parent, 1);
        store(&child, 2);
        child.load(at(3).0).unwrap();
        assert_eq!((dirty(parent), dirty(&child)), (Vec::from([0, 1]), Vec::from([0, 2])));
        w.vm.validate().unwrap();
        clear(&child);
        assert_eq!((dirty(parent), dirty(&child)), (Vec::from([0, 1]), Vec::new()));
    });
}

#[test]
fn what_moves_or_grows_is_soft_dirty() {
    with_program(|w, mm| {
        page_out(w, mm, 3);
        mm.load(at(7).0).unwrap();
        clear(mm);
        let flags = RemapFlags::MAYMOVE | RemapFlags::FIXED;
        mm.mremap(at(0), 8 * P, 8 * P, flags, at(32)).unwrap();
        assert_eq!(dirty(mm), [32, 33, 34, 35, 39], "pages, and nothing where there is none");
        clear(mm);
        mm.mremap(at(32), 8 * P, 9 * P, RemapFlags::empty(), Va(0)).unwrap();
        assert_eq!(dirty(mm), (32..41).collect::<Vec<_>>());
        clear(mm);
        mm.mremap(at(32), 9 * P, 12 * P, flags, at(0)).unwrap();
        assert_eq!(dirty(mm), (0..12).collect::<Vec<_>>());
    });
}

#[test]
fn a_mapping_that_becomes_one_with_a_new_one_is_soft_dirty() {
    with_program(|_, mm| {
        clear(mm);
        map(mm, 8, 2, MapBacking::Anonymous);
        assert_eq!((dirty(mm), mm.layout().len()), ((0..10).collect(), 1));
        clear(mm);
        // Split, and merged again: as clean as both were.
        mm.mprotect(VaRange::page(at(4)), Prot::READ).unwrap();
        mm.mprotect(VaRange::page(at(4)), Prot::READ | Prot::WRITE).unwrap();
        assert_eq!((dirty(mm), mm.layout().len()), (Vec::new(), 1));
        // A soft-dirty neighbour makes it dirty as a whole.
        mm.munmap(VaRange::page(at(5))).unwrap();
        map(mm, 12, 1, MapBacking::Anonymous);
        mm.mprotect(VaRange::page(at(12)), Prot::READ).unwrap();
        assert_eq!(dirty(mm), [12]);
        mm.mremap(at(12), P, P, RemapFlags::MAYMOVE | RemapFlags::FIXED, at(5)).unwrap();
        mm.mprotect(VaRange::page(at(5)), Prot::READ | Prot::WRITE).unwrap();
        assert_eq!((dirty(mm), mm.layout().len()), ((0..10).collect(), 1));
    });
}

#[test]
fn permissions_that_go_and_come_do_not_let_a_write_pass() {
    with_program(|_, mm| {
        clear(mm);
        for prot in [Prot::READ, Prot::empty()] {
            mm.mprotect(pages(AT, 8), prot).unwrap();
            assert_eq!(dirty(mm), [0u64; 0]);
            mm.mprotect(pages(AT, 8), Prot::READ | Prot::WRITE).unwrap();
            assert_eq!(dirty(mm), [0u64; 0]);
        }
        store(mm, 2);
        assert_eq!(dirty(mm), [2]);
    });
}

#[test]
fn a_page_moves_to_another_frame_and_is_merged_as_it_is() {
    with_program(|w, mm| {
        clear(mm);
        store(mm, 1);
        for page in [1, 2] {
            let folio = w.vm.frames.try_get(mm.pagemap(at(page)).pfn.unwrap()).unwrap();
            w.vm.migrate_folio(folio).unwrap();
        }
        assert_eq!(dirty(mm), [1]);
        store(mm, 2);
        assert_eq!(dirty(mm), [1, 2]);
        // Equal pages, one of them clean.
        mm.store(at(0).0, 9).unwrap();
        mm.store(at(3).0, 9).unwrap();
        clear(mm);
        mm.store(at(3).0, 9).unwrap();
        mm.madvise(at(0), 8 * P, Advice::Mergeable).unwrap();
        for _ in 0..4 {
            while !w.vm.ksm_scan(1000).unwrap().swept {}
        }
        assert_eq!(mm.pagemap(at(0)).pfn, mm.pagemap(at(3)).pfn, "merged");
        assert_eq!(dirty(mm), [3]);
        mm.store(at(0).0, 10).unwrap();
        assert_eq!(dirty(mm), [0, 3]);
    });
}

#[test]
fn who_writes_past_the_entry_is_noticed() {
    with_program(|_, mm| {
        let pin = mm.pin(VaRange::page(at(0)), PinFlags::WRITE).unwrap();
        clear(mm);
        assert_eq!(dirty(mm), [0], "who has pinned it may write at any time");
        drop(pin);
        clear(mm);
        assert_eq!(dirty(mm), [0u64; 0]);
        drop(mm.pin_fast(VaRange::page(at(1)), PinFlags::WRITE).unwrap());
        assert_eq!(dirty(mm), [1]);
        drop(mm.pin(VaRange::page(at(2)), PinFlags::empty()).unwrap());
        assert_eq!(dirty(mm), [1], "who pins to read writes nothing");
        mm.mprotect(pages(AT, 8), Prot::READ).unwrap();
        drop(mm.pin(VaRange::page(at(3)), PinFlags::WRITE | PinFlags::FORCE).unwrap());
        assert_eq!(dirty(mm), [1, 3], "a debugger's write");
        let child = mm.fork().unwrap();
        clear(mm);
        drop(mm.pin(VaRange::page(at(0)), PinFlags::WRITE | PinFlags::FORCE).unwrap());
        drop(child);
        drop(mm.pin(VaRange::page(at(1)), PinFlags::WRITE | PinFlags::FORCE).unwrap());
        assert_eq!(dirty(mm), [0, 1], "a copy, and a page that is reused");
    });
}

#[test]
fn a_copy_for_who_only_reads_is_not_written() {
    with_program(|_, mm| {
        let child = mm.fork().unwrap();
        clear(mm);
        clear(&child);
        // Both read pages that they share, for long: the second has a copy made.
        for mm in [mm, &child] {
            drop(mm.pin(pages(AT, 4), PinFlags::LONGTERM).unwrap());
            assert_eq!(dirty(mm), [0u64; 0]);
        }
        assert_ne!(mm.pagemap(at(0)).pfn, child.pagemap(at(0)).pfn);
        assert_eq!(child.load(at(3).0), Ok(4));
    });
}

#[test]
fn pages_with_contents_are_dirty_when_they_are_written() {
    with_program(|_, mm| {
        map(mm, 32, 8, MapBacking::SharedNew);
        (32..34).for_each(|page| store(mm, page));
        clear(mm);
        let child = mm.fork().unwrap();
        for page in [32, 34] {
            mm.load(at(page).0).unwrap();
            child.load(at(page).0).unwrap();
        }
        assert_eq!((dirty(mm), dirty(&child)), (Vec::new(), Vec::new()));
        store(&child, 33);
        store(&child, 34);
        assert_eq!((dirty(mm), dirty(&child)), (Vec::new(), Vec::from([33, 34])), "each has its own");
        assert_eq!(mm.load(at(34).0), Ok(35));
    });
}

/// A leaf is one entry: a store to any of its pages makes all of them soft-dirty.
#[test]
fn a_leaf_is_written_as_a_whole_and_its_pages_one_by_one() {
    let folios = FolioPolicy::default().with(Order::new(9), FolioMode::Always);
    World::run_with(Config { folios, ..Config::default() }, |w| {
        let mm = w.vm.new_mm().unwrap();
        let first = 512;
        mm.map_raw(pages(first, 512), RW, Backing::Anonymous);
        let store = |page: u64| mm.store((first + page) * P, 7).unwrap();
        let all = || (0..512).filter(|&page| mm.pagemap(Va((first + page) * P)).soft_dirty).count();
        store(3);
        assert_eq!(all(), 512);
        clear(&mm);
        assert_eq!(all(), 0);
        mm.load((first + 9) * P).unwrap();
        assert_eq!(all(), 0);
        store(9);
        assert_eq!(all(), 512, "the leaf is written");
        clear(&mm);
        mm.mprotect(pages(first, 8), Prot::READ).unwrap();
        assert_eq!(all(), 0, "its pages say what it did");
        mm.mprotect(pages(first, 8), Prot::READ | Prot::WRITE).unwrap();
        store(1);
        store(100);
        assert_eq!(all(), 2);
        w.vm.validate().unwrap();
    });
}

#[test]
fn pages_that_become_one_folio_keep_what_they_say() {
    World::run(|w| {
        let mm = w.vm.new_mm().unwrap();
        let first = 512;
        mm.map_raw(pages(first, 512), RW, Backing::Anonymous);
        let at = |page: u64| Va((first + page) * P);
        let all = || (0..512).filter(|&page| mm.pagemap(at(page)).soft_dirty).count();
        (0..512).for_each(|page| mm.store(at(page).0, 7).unwrap());
        clear(&mm);
        mm.madvise(at(0), 512 * P, Advice::Collapse).unwrap();
        assert_eq!(all(), 0);
        w.vm.validate().unwrap();
        mm.store(at(9).0, 8).unwrap();
        assert_eq!(all(), 512, "a leaf is written as a whole");
        // One page of many makes the leaf dirty.
        mm.mprotect(VaRange::page(at(0)), Prot::READ).unwrap();
        clear(&mm);
        mm.mprotect(VaRange::page(at(0)), Prot::READ | Prot::WRITE).unwrap();
        mm.store(at(5).0, 8).unwrap();
        assert_eq!(all(), 1);
        mm.madvise(at(0), 512 * P, Advice::Collapse).unwrap();
        assert_eq!(all(), 512);
        w.vm.validate().unwrap();
    });
}

#[test]
fn zeroes_that_were_written_and_merged_are_written_for_a_child_and_elsewhere() {
    with_program(|w, mm| {
        let settings = crate::KsmSettings { use_zero_pages: true, ..crate::KsmSettings::default() };
        w.vm.set_ksm(settings).unwrap();
        clear(mm);
        mm.store(at(2).0, 0).unwrap();
        mm.madvise(at(0), 8 * P, Advice::Mergeable).unwrap();
        for _ in 0..4 {
            while !w.vm.ksm_scan(1000).unwrap().swept {}
        }
        assert_eq!(mm.pagemap(at(2)).pfn, Some(w.vm.frames.zero_page()), "merged into the zero page");
        assert_eq!(dirty(mm), [2]);
        assert_eq!(dirty(&mm.fork().unwrap()), [2]);
    });
}

//! Pages leave and return, in each lock mode.

use crate::{
    Advice, Config, Error, Event, LockMode, MapBacking, MapFlags, Mm, MmapRequest, Prot, RemapFlags,
    testing::{M, P, World},
};
use anonmem_hal::Va;
use anonmem_hosted::Trap;
use std::{collections::HashSet, vec::Vec};

const MODES: [LockMode; 3] = [LockMode::Mmap, LockMode::Vma, LockMode::Speculative];

fn in_every_mode(f: impl Fn(&World)) {
    for lock_mode in MODES {
        World::run_with(Config { lock_mode, ..Config::default() }, |w| {
            w.vm.swap_on(0, 2048, 0).unwrap();
            f(w);
            w.vm.swap_off(0).unwrap();
            assert_eq!(w.swap.stored(), 0, "the device still holds pages");
        });
    }
}

fn map(mm: &Mm<'_, M>, pages: u64) -> u64 {
    let prot = Prot::READ | Prot::WRITE;
    let flags = MapFlags::NORESERVE;
    let request = MmapRequest { addr: Va(0), len: pages * P, prot, flags, backing: MapBacking::Anonymous };
    mm.mmap(request).unwrap().0
}

/// Makes the page at `va` leave.
fn page_out(w: &World, mm: &Mm<'_, M>, va: u64) -> bool {
    let page = w.vm.frames.try_get(mm.pagemap(Va(va)).pfn.unwrap()).unwrap();
    w.vm.reclaim_folio(page)
}

#[test]
fn a_page_comes_back_as_it_was_and_exclusive() {
    in_every_mode(|w| {
        let mm = w.vm.new_mm().unwrap();
        let va = map(&mm, 1);
        mm.store(va, 7).unwrap();
        assert!(page_out(w, &mm, va));
        let entry = mm.pagemap(Va(va));
        assert!(entry.swapped && !entry.present());
        assert_eq!((mm.counters().anon.0, mm.counters().swap.0, w.swap.stored()), (0, 1, 1));
        w.vm.validate().unwrap();
        assert_eq!(mm.load(va), Ok(7));
        assert!(mm.pagemap(Va(va)).exclusive, "the entry remembered");
        assert_eq!((mm.counters().swap.0, w.swap.stored()), (0, 0));
        let copies = w.vm.stats().event(Event::FaultCowCopy);
        mm.store(va, 8).unwrap();
        assert_eq!(w.vm.stats().event(Event::FaultCowCopy), copies);
    });
}

#[test]
fn a_page_that_comes_back_soon_is_a_refault() {
    in_every_mode(|w| {
        let refaults = || w.vm.stats().event(Event::WorkingsetRefault);
        let mm = w.vm.new_mm().unwrap();
        let frames = w.vm.stats().frames;
        let va = map(&mm, 2);
        mm.store(va, 7).unwrap();
        assert!(page_out(w, &mm, va));
        assert_eq!(mm.load(va), Ok(7));
        assert_eq!(refaults(), 1);
        assert!(page_out(w, &mm, va));
        for _ in 0..frames * 5 / 4 {
            mm.store(va + P, 1).unwrap();
            assert!(page_out(w, &mm, va + P));
        }
        let before = refaults();
        assert_eq!(mm.load(va), Ok(7));
        assert_eq!(refaults(), before, "more pages left meanwhile than memory holds");
    });
}

#[test]
fn zeroes_are_not_written() {
    in_every_mode(|w| {
        let mm = w.vm.new_mm().unwrap();
        let va = map(&mm, 1);
        mm.store(va, 0).unwrap();
        assert!(page_out(w, &mm, va));
        assert_eq!(w.swap.transfers(), (0, 0));
        assert_eq!(mm.load(va), Ok(0));
    });
}

#[test]
fn sharers_find_the_same_page_again() {
    in_every_mode(|w| {
        let parent = w.vm.new_mm().unwrap();
        let va = map(&parent, 1);
        parent.store(va, 1).unwrap();
        let children: Vec<_> = (0..3).map(|_| parent.fork().unwrap()).collect();
        assert!(page_out(w, &parent, va));
        let late = children[0].fork().unwrap();
        w.vm.validate().unwrap();
        assert_eq!(children[0].load(va), Ok(1));
        w.vm.validate().unwrap();
        late.store(va, 5).unwrap();
        for mm in [&parent, &children[1], &children[2]] {
            assert_eq!(mm.load(va), Ok(1));
        }
        let pages: HashSet<_> = children.iter().map(|mm| mm.pagemap(Va(va)).pfn).collect();
        assert_eq!((pages.len(), late.load(va)), (1, Ok(5)));
        assert_eq!(w.vm.stats().event(Event::SwapIn), 1, "one read for all of them");
        w.vm.validate().unwrap();
    });
}

#[test]
fn a_page_that_another_has_in_swap_is_not_given_up() {
    in_every_mode(|w| {
        let parent = w.vm.new_mm().unwrap();
        let va = map(&parent, 1);
        parent.store(va, 7).unwrap();
        let child = parent.fork().unwrap();
        assert!(page_out(w, &parent, va));
        assert_eq!(parent.load(va), Ok(7));
        parent.madvise(Va(va), P, Advice::Free).unwrap();
        assert_eq!(child.load(va), Ok(7));
        page_out(w, &child, va);
        assert_eq!(child.load(va), Ok(7), "it has given nothing up");
        w.vm.validate().unwrap();
    });
}

#[test]
fn a_page_swapped_in_by_a_child_outlives_the_child() {
    // It must not belong to the child's anon_vma: the others would lose it when the child exits.
    in_every_mode(|w| {
        let parent = w.vm.new_mm().unwrap();
        let va = map(&parent, 1);
        parent.store(va, 1).unwrap();
        let (child, other) = (parent.fork().unwrap(), parent.fork().unwrap());
        page_out(w, &parent, va);
        assert_eq!((child.load(va), parent.load(va), other.load(va)), (Ok(1), Ok(1), Ok(1)));
        drop(child);
        w.vm.validate().unwrap();
        assert!(page_out(w, &parent, va));
        assert_eq!((parent.load(va), other.load(va)), (Ok(1), Ok(1)));
    });
}

#[test]
fn what_exits_or_unmaps_frees_its_slots() {
    in_every_mode(|w| {
        let parent = w.vm.new_mm().unwrap();
        let va = map(&parent, 4);
        (0..4).for_each(|i| parent.store(va + i * P, 1).unwrap());
        let child = parent.fork().unwrap();
        (0..4).for_each(|i| assert!(page_out(w, &parent, va + i * P)));
        drop(parent);
        w.vm.validate().unwrap();
        assert_eq!(w.swap.stored(), 4);
        child.munmap(anonmem_hal::VaRange::new(Va(va), Va(va + 2 * P))).unwrap();
        assert_eq!(w.swap.stored(), 2);
        assert_eq!(child.load(va + 2 * P), Ok(1));
    });
}

#[test]
fn three_times_the_memory_fits() {
    in_every_mode(|w| {
        let mm = w.vm.new_mm().unwrap();
        w.vm.swap_on(1, 16384, -1).unwrap();
        let pages = 3 * 4096;
        let va = map(&mm, pages);
        (0..pages).for_each(|i| mm.store(va + i * P + i % P, (i % 251) as u8 + 1).unwrap());
        (0..pages).for_each(|i| assert_eq!(mm.load(va + i * P + i % P), Ok((i % 251) as u8 + 1)));
        let stats = w.vm.stats();
        assert!(stats.event(Event::SwapOut) > pages / 2 && stats.event(Event::DirectReclaim) > 0);
        w.vm.validate().unwrap();
        drop(mm);
        w.vm.swap_off(1).unwrap();
    });
}

#[test]
fn who_needs_tables_makes_pages_leave_but_not_for_a_limit() {
    in_every_mode(|w| {
        let mm = w.vm.new_mm().unwrap();
        let va = map(&mm, w.vm.stats().frames);
        (0..w.vm.stats().frames).for_each(|i| mm.store(va + i * P, i as u8).unwrap());
        // A page in each of 512 tables, which go where they need 513 others.
        let (tables, span) = (512, 512 * P);
        let from = map(&mm, 512 * tables);
        (0..tables).for_each(|i| mm.store(from + i * span, i as u8).unwrap());
        let left = || w.vm.stats().event(Event::SwapOut);
        let before = left();
        let (to, flags) = (Va(span * 10_000 + P), RemapFlags::MAYMOVE | RemapFlags::FIXED);
        assert_eq!(mm.mremap(Va(from), tables * span, tables * span, flags, to), Ok(to));
        assert!(left() > before, "tables took the place of pages");
        (0..tables).for_each(|i| assert_eq!(mm.load(to.0 + i * span), Ok(i as u8)));
        let before = left();
        let beyond = mm.mremap(to, P, (1 << 47) - (1 << 30), RemapFlags::MAYMOVE, Va(0));
        assert!(matches!(beyond, Err(Error::Limit(_))), "{beyond:?}");
        assert_eq!(left(), before, "no page leaves for what cannot be");
    });
}

#[test]
fn swapoff_brings_everything_back_or_says_that_it_cannot() {
    in_every_mode(|w| {
        let mm = w.vm.new_mm().unwrap();
        w.vm.swap_on(2, 8192, 5).unwrap();
        let va = map(&mm, 7000);
        (0..7000).for_each(|i| mm.store(va + i * P, 3).unwrap());
        assert_eq!(w.vm.swap_off(2), Err(crate::Error::OutOfMemory));
        mm.munmap(anonmem_hal::VaRange::new(Va(va), Va(va + 4000 * P))).unwrap();
        w.vm.swap_off(2).unwrap();
        assert!(w.vm.swap_devices().all(|d| d.device != 2));
        (4000..7000).for_each(|i| assert_eq!(mm.load(va + i * P), Ok(3)));
        w.vm.validate().unwrap();
    });
}

#[test]
fn a_read_error_is_a_sigbus_of_the_one_who_needs_the_page() {
    in_every_mode(|w| {
        let mm = w.vm.new_mm().unwrap();
        let va = map(&mm, 2);
        mm.store(va, 1).unwrap();
        mm.store(va + P, 2).unwrap();
        page_out(w, &mm, va);
        w.swap.fail_every_read(1);
        assert_eq!(mm.load(va), Err(Trap::Bus));
        assert_eq!(mm.load(va + P), Ok(2));
        w.swap.fail_every_read(0);
        assert_eq!(mm.load(va), Ok(1), "the device has recovered");
        w.vm.validate().unwrap();
    });
}

#[test]
fn a_write_error_keeps_the_page() {
    in_every_mode(|w| {
        let mm = w.vm.new_mm().unwrap();
        let va = map(&mm, 1);
        mm.store(va, 1).unwrap();
        w.swap.fail_every_write(1);
        assert!(!page_out(w, &mm, va));
        w.vm.validate().unwrap();
        assert_eq!(mm.load(va), Ok(1));
        w.swap.fail_every_write(0);
        assert_eq!(w.vm.stats().event(Event::SwapCacheHit), 1);
        w.vm.validate().unwrap();
    });
}

#[test]
fn advice_brings_pages_back_and_mincore_knows() {
    in_every_mode(|w| {
        let mm = w.vm.new_mm().unwrap();
        let va = map(&mm, 4);
        (0..4).for_each(|i| mm.store(va + i * P, i as u8 + 1).unwrap());
        mm.madvise(Va(va), 4 * P, Advice::PageOut).unwrap();
        let in_memory = || {
            let mut told = Vec::new();
            mm.mincore(Va(va), 4 * P, &mut |is| told.push(is)).unwrap();
            told
        };
        assert_eq!((mm.counters().swap.0, in_memory()), (4, [false; 4].into()));
        mm.madvise(Va(va + P), 2 * P, Advice::WillNeed).unwrap();
        assert_eq!((mm.counters().swap.0, in_memory()), (2, [false, true, true, false].into()));
        assert!((0..4).all(|i| mm.load(va + i * P) == Ok(i as u8 + 1)));
        w.vm.validate().unwrap();
    });
}

#[test]
fn a_page_that_could_not_be_written_counts_as_in_memory() {
    in_every_mode(|w| {
        let mm = w.vm.new_mm().unwrap();
        let va = map(&mm, 1);
        mm.store(va, 1).unwrap();
        w.swap.fail_every_write(1);
        page_out(w, &mm, va);
        w.swap.fail_every_write(0);
        assert!(mm.pagemap(Va(va)).swapped);
        mm.mincore(Va(va), P, &mut |is| assert!(is)).unwrap();
        assert_eq!(mm.load(va), Ok(1));
    });
}

#[test]
fn cold_pages_leave_first() {
    in_every_mode(|w| {
        let mm = w.vm.new_mm().unwrap();
        let va = map(&mm, 64);
        (0..64).for_each(|i| mm.store(va + i * P, 1).unwrap());
        mm.madvise(Va(va + 32 * P), 32 * P, Advice::Cold).unwrap();
        assert_eq!(w.vm.shrink(32), 32);
        assert!((0..64).all(|i| mm.pagemap(Va(va + i * P)).swapped == (i >= 32)));
    });
}

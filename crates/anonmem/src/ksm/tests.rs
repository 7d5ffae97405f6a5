//! What is merged, what is not and why, and what programs see of it.

use crate::{
    Advice, Config, Error, Event, FolioEvent, FolioMode, FolioPolicy, KsmSettings, KsmStats, MapBacking,
    MapFlags, MergeAny, MergeDomains, Mm, MmapRequest, MoveLocks, PinFlags, Prot, RemapFlags,
    migrate::leave_behind,
    rmap::referenced::folio_referenced_by_reclaim,
    testing::{M, P, RW, World, pages},
    vma::Backing,
};
use anonmem_frame::FolioRef;
use anonmem_hal::{Order, Pfn, Va, VaRange};
use anonmem_hosted::FailurePlan;
use std::{vec, vec::Vec};

mod large;
mod new_pages;
mod random;

const AT: u64 = 1 << 20;

/// Maps `pages` pages at [`AT`], which may be merged.
fn map_mergeable(mm: &Mm<'_, M>, pages: u64) {
    map_at(mm, AT, pages);
    mm.madvise(Va(AT), pages * P, Advice::Mergeable).unwrap();
}

fn map_at(mm: &Mm<'_, M>, at: u64, pages: u64) {
    let prot = Prot::READ | Prot::WRITE;
    let (flags, backing) = (MapFlags::NORESERVE | MapFlags::FIXED, MapBacking::Anonymous);
    mm.mmap(MmapRequest { addr: Va(at), len: pages * P, prot, flags, backing }).unwrap();
}

/// The address of page `n`.
fn page(n: u64) -> u64 {
    AT + n * P
}

fn fill(mm: &Mm<'_, M>, bytes: &[u8]) {
    for (n, byte) in bytes.iter().enumerate() {
        mm.store(page(n as u64) + 9, *byte).unwrap();
    }
}

fn bytes(mm: &Mm<'_, M>, pages: u64) -> Vec<u8> {
    (0..pages).map(|n| mm.load(page(n) + 9).unwrap()).collect()
}

/// Lets the hand go over all frames `times` times, and checks everything.
fn sweep(w: &World, times: u64) -> u64 {
    let freed = sweep_beside_others(w, times);
    w.vm.validate().unwrap();
    freed
}

/// The same while somebody uses a page.
fn sweep_beside_others(w: &World, times: u64) -> u64 {
    let mut freed = 0;
    for _ in 0..times {
        loop {
            let done = w.vm.ksm_scan(1000).unwrap();
            freed += done.freed;
            if done.swept {
                break;
            }
        }
    }
    freed
}

fn frame(mm: &Mm<'_, M>, n: u64) -> Pfn {
    mm.pagemap(Va(page(n))).pfn.expect("present")
}

fn folio<'a>(w: &'a World, mm: &Mm<'_, M>, n: u64) -> FolioRef<'a, M> {
    w.vm.frames.try_get(frame(mm, n)).unwrap()
}

fn stats(w: &World) -> KsmStats {
    w.vm.ksm_stats()
}

#[test]
fn equal_pages_become_one_in_the_second_sweep_and_a_write_parts_them() {
    World::run(|w| {
        let mm = w.vm.new_mm().unwrap();
        map_mergeable(&mm, 4);
        fill(&mm, &[7, 7, 8, 7]);
        assert_eq!(sweep(w, 1), 0, "nothing is known of a page that is seen for the first time");
        assert_eq!(sweep(w, 1), 2);
        let s = stats(w);
        assert_eq!((s.pages_shared, s.pages_sharing, s.pages_unshared, s.merged), (1, 2, 1, 2));
        assert_eq!((w.vm.stats().user, mm.counters().anon.0, mm.ksm_usage().merging), (2, 4, 3));
        assert_eq!((frame(&mm, 0), frame(&mm, 0)), (frame(&mm, 1), frame(&mm, 3)));
        assert!(!mm.pagemap(Va(page(0))).exclusive);
        mm.store(page(1) + 9, 9).unwrap();
        assert_eq!(bytes(&mm, 4), [7, 9, 8, 7]);
        assert_eq!((w.vm.stats().event(Event::CowKsm), mm.ksm_usage().merging), (1, 2));
        w.vm.validate().unwrap();
        // The last one who has it gets a copy, too.
        mm.munmap(pages(AT / P, 1)).unwrap();
        mm.store(page(3) + 9, 1).unwrap();
        assert_eq!((w.vm.stats().event(Event::CowKsm), stats(w).pages_shared), (2, 0));
        assert_eq!((1..4).map(|n| mm.load(page(n) + 9).unwrap()).collect::<Vec<_>>(), [9, 8, 1]);
    });
}

#[test]
fn reclaim_asks_all_entries_of_a_merged_page() {
    let config = Config { move_locks: MoveLocks::AnonVma, ..Config::default() };
    World::run_with(config, |w| {
        let mm = w.vm.new_mm().unwrap();
        map_mergeable(&mm, 2);
        fill(&mm, &[7, 7]);
        assert_eq!(sweep(w, 2), 1);
        assert_eq!(bytes(&mm, 2), [7, 7]);
        let found = folio_referenced_by_reclaim(&w.vm, &folio(w, &mm, 0)).expect("nobody has locked it");
        // Whoever asks the first entry looks at those beside it, too.
        assert_eq!((found.mappings, found.young > 0), (2, true));
    });
}

#[test]
fn a_pinned_page_is_not_merged_until_its_pin_has_gone() {
    World::run(|w| {
        let mm = w.vm.new_mm().unwrap();
        map_mergeable(&mm, 3);
        fill(&mm, &[7, 7, 7]);
        let pin = mm.pin(pages(AT / P, 1), PinFlags::WRITE).unwrap();
        let pinned = frame(&mm, 0);
        assert_eq!(sweep(w, 3), 1, "the two others");
        assert!(w.vm.stats().event(Event::KsmPinned) >= 3);
        assert_eq!((frame(&mm, 0), frame(&mm, 1) == pinned, mm.ksm_usage().merging), (pinned, false, 2));
        drop(pin);
        assert_eq!(sweep(w, 2), 1);
        assert_eq!((frame(&mm, 0), bytes(&mm, 3)), (frame(&mm, 1), vec![7, 7, 7]));
    });
}

#[test]
fn a_hundred_programs_share_what_they_have_alike() {
    World::run(|w| {
        let parent = w.vm.new_mm().unwrap();
        map_mergeable(&parent, 16);
        // Its children are of its family from the first page on.
        parent.store(page(0), 1).unwrap();
        let children: Vec<_> = (0..100)
            .map(|_| {
                let child = parent.fork().unwrap();
                (0..16).for_each(|n| child.store(page(n) + 9, n as u8 + 1).unwrap());
                child
            })
            .collect();
        let before = w.vm.stats().user;
        sweep(w, 2);
        let s = stats(w);
        assert_eq!((s.pages_shared, s.pages_sharing, s.pages_unshared), (16, 99 * 16, 1));
        assert_eq!(before - w.vm.stats().user, 99 * 16);
        assert_eq!(w.vm.stable_nodes.live(), 16, "one family at one index is one place");
        assert!(s.general_profit > 0);
        for child in &children {
            assert_eq!(bytes(child, 16), (1..17).collect::<Vec<u8>>());
        }
        drop(parent);
    });
}

#[test]
fn only_so_many_share_a_page_and_then_another_begins() {
    World::run(|w| {
        w.vm.set_ksm(KsmSettings { max_page_sharing: 4, ..KsmSettings::default() }).unwrap();
        let mm = w.vm.new_mm().unwrap();
        map_mergeable(&mm, 10);
        fill(&mm, &[7; 10]);
        sweep(w, 3);
        let s = stats(w);
        assert_eq!((s.pages_shared, s.pages_sharing), (3, 7));
        assert_eq!((s.stable_node_chains, s.stable_node_dups), (1, 3));
        let again = KsmSettings { max_page_sharing: 5, ..w.vm.ksm_settings() };
        assert_eq!(w.vm.set_ksm(again), Err(Error::Busy));
        assert!(matches!(w.vm.set_ksm(KsmSettings { max_page_sharing: 1, ..again }), Err(Error::Invalid(_))));
        assert_eq!(bytes(&mm, 10), [7; 10]);
    });
}

#[test]
fn pages_of_zeroes_become_the_zero_page_if_they_may() {
    World::run(|w| {
        let mm = w.vm.new_mm().unwrap();
        map_mergeable(&mm, 4);
        fill(&mm, &[0, 0, 5, 0]);
        w.vm.set_ksm(KsmSettings { use_zero_pages: true, ..KsmSettings::default() }).unwrap();
        assert_eq!(sweep(w, 2), 3);
        let s = stats(w);
        assert_eq!((s.zero_pages, s.zeroed, s.pages_shared, mm.counters().anon.0), (3, 3, 0, 1));
        assert_eq!(bytes(&mm, 4), [0, 0, 5, 0]);
        mm.store(page(1) + 9, 3).unwrap();
        assert_eq!((bytes(&mm, 4), stats(w).zero_pages), (vec![0, 3, 5, 0], 2));
        w.vm.validate().unwrap();
        // Unmerging gives pages of their own back, these included.
        mm.madvise(Va(AT), 4 * P, Advice::Unmergeable).unwrap();
        assert_eq!((mm.counters().anon.0, stats(w).zero_pages, bytes(&mm, 4)), (4, 0, vec![0, 3, 5, 0]));
        assert!(mm.pagemap(Va(page(0))).exclusive);
    });
}

#[test]
fn two_merge_domains_never_share_a_frame() {
    for domains in [MergeDomains::Families, MergeDomains::One] {
        World::run(|w| {
            w.vm.set_ksm(KsmSettings { domains, ..KsmSettings::default() }).unwrap();
            let strangers = [(); 2].map(|()| w.vm.new_mm().unwrap());
            for mm in &strangers {
                map_mergeable(mm, 2);
                fill(mm, &[7, 7]);
            }
            sweep(w, 3);
            let same = frame(&strangers[0], 0) == frame(&strangers[1], 0);
            assert_eq!(same, domains == MergeDomains::One);
            assert_eq!(stats(w).pages_shared, if same { 1 } else { 2 });
        });
    }
}

#[test]
fn what_is_not_offered_or_changes_or_is_in_use_stays() {
    World::run(|w| {
        let mm = w.vm.new_mm().unwrap();
        map_mergeable(&mm, 8);
        fill(&mm, &[7; 8]);
        map_at(&mm, page(8), 1);
        mm.store(page(8) + 9, 7).unwrap();
        let pinned = mm.pin(pages(AT / P, 1), PinFlags::WRITE).unwrap();
        let held = folio(w, &mm, 1);
        sweep_beside_others(w, 1);
        mm.store(page(3), 1).unwrap();
        sweep_beside_others(w, 1);
        let stays = [0, 1, 3, 8].map(|n| mm.pagemap(Va(page(n))).exclusive);
        assert_eq!(stays, [true; 4]);
        assert_eq!((stats(w).pages_shared, mm.ksm_usage().merging), (1, 5));
        assert!(stats(w).refused > 0, "the one that somebody uses was tried");
        drop((held, pinned));
        mm.store(page(3), 0).unwrap();
        sweep(w, 3);
        assert_eq!((stats(w).pages_shared, mm.ksm_usage().merging), (1, 8));
        assert_eq!(bytes(&mm, 9), [7; 9]);
    });
}

#[test]
fn a_page_that_a_parent_and_its_child_have_is_merged_for_both_or_for_none() {
    World::run(|w| {
        let parent = w.vm.new_mm().unwrap();
        map_mergeable(&parent, 2);
        fill(&parent, &[7, 7]);
        let child = parent.fork().unwrap();
        child.madvise(Va(page(1)), P, Advice::Unmergeable).unwrap();
        sweep(w, 3);
        assert_eq!(stats(w).pages_shared, 0, "the child does not agree for page 1");
        child.madvise(Va(page(1)), P, Advice::Mergeable).unwrap();
        sweep(w, 3);
        assert_eq!((stats(w).pages_shared, stats(w).pages_sharing), (1, 3));
        let all = [&parent, &child].map(|mm| [frame(mm, 0), frame(mm, 1)]);
        assert!(all.iter().flatten().all(|pfn| *pfn == all[0][0]));
        // Another fork, and a move to other addresses: the page is still found in all of its entries.
        let grandchild = child.fork().unwrap();
        let flags = RemapFlags::MAYMOVE | RemapFlags::FIXED;
        grandchild.mremap(Va(AT), 2 * P, 2 * P, flags, Va(page(64))).unwrap();
        w.vm.validate().unwrap();
        assert_eq!(w.vm.ksm_stats().pages_sharing, 5);
        grandchild.store(page(64) + 9, 1).unwrap();
        drop(parent);
        assert_eq!((bytes(&child, 2), grandchild.load(page(65) + 9)), (vec![7, 7], Ok(7)));
        w.vm.validate().unwrap();
    });
}

#[test]
fn consent_is_taken_back_for_a_part_or_for_all() {
    World::run(|w| {
        let mm = w.vm.new_mm().unwrap();
        map_mergeable(&mm, 6);
        fill(&mm, &[7; 6]);
        sweep(w, 2);
        mm.madvise(Va(page(2)), 2 * P, Advice::Unmergeable).unwrap();
        assert_eq!(mm.ksm_usage().merging, 4);
        sweep(w, 3);
        assert_eq!(mm.ksm_usage().merging, 4, "it is not merged again");
        assert!(mm.pagemap(Va(page(2))).exclusive);
        w.vm.ksm_unmerge_all().unwrap();
        assert_eq!((mm.ksm_usage().merging, w.vm.stable_nodes.live()), (0, 0));
        assert_eq!((w.vm.ksm.table.len(), w.vm.stats().user), (0, 6));
        sweep(w, 3);
        assert_eq!((mm.ksm_usage().merging, bytes(&mm, 6)), (4, vec![7; 6]));
    });
}

#[test]
fn a_program_lets_all_of_its_memory_be_merged_and_its_children_inherit_that() {
    World::run(|w| {
        let mm = w.vm.new_mm().unwrap();
        map_at(&mm, AT, 2);
        assert_eq!(mm.merge_any(), MergeAny::No);
        mm.set_merge_any(MergeAny::Yes).unwrap();
        map_at(&mm, page(8), 2);
        for n in [0, 1, 8, 9] {
            mm.store(page(n) + 9, 7).unwrap();
        }
        let child = mm.fork().unwrap();
        assert_eq!((mm.merge_any(), child.merge_any()), (MergeAny::Yes, MergeAny::Yes));
        map_at(&child, page(16), 1);
        child.store(page(16) + 9, 7).unwrap();
        sweep(w, 2);
        assert_eq!((mm.ksm_usage().merging, child.ksm_usage().merging), (4, 5));
        mm.set_merge_any(MergeAny::No).unwrap();
        assert_eq!((mm.merge_any(), mm.ksm_usage().merging, child.ksm_usage().merging), (MergeAny::No, 0, 5));
        sweep(w, 3);
        assert_eq!(mm.ksm_usage().merging, 0);
        let shared = MmapRequest {
            addr: Va(0),
            len: P,
            prot: Prot::READ | Prot::WRITE,
            flags: MapFlags::empty(),
            backing: MapBacking::SharedNew,
        };
        let at = child.mmap(shared).unwrap();
        assert!(!child.vma_at(at).unwrap().flags.contains(crate::VmFlags::MERGEABLE));
        assert_eq!(child.madvise(at, P, Advice::Mergeable), Ok(()), "silently nothing, as on Linux");
        assert!(!child.vma_at(at).unwrap().flags.contains(crate::VmFlags::MERGEABLE));
    });
}

#[test]
fn without_memory_for_copies_unmerging_says_so_and_goes_on_later() {
    World::run(|w| {
        let mm = w.vm.new_mm().unwrap();
        map_mergeable(&mm, 6);
        fill(&mm, &[7; 6]);
        sweep(w, 2);
        w.failures.set(FailurePlan::From(3));
        let first = mm.madvise(Va(AT), 6 * P, Advice::Unmergeable);
        w.failures.set(FailurePlan::Off);
        assert_eq!(first, Err(Error::OutOfMemory));
        let left = mm.ksm_usage().merging;
        assert!(0 < left && left < 6, "{left} are merged still");
        w.vm.validate().unwrap();
        mm.madvise(Va(AT), 6 * P, Advice::Unmergeable).unwrap();
        assert_eq!((mm.ksm_usage().merging, bytes(&mm, 6)), (0, vec![7; 6]));
    });
}

#[test]
fn without_memory_for_copies_no_mapping_goes_on_merging() {
    World::run(|w| {
        let mm = w.vm.new_mm().unwrap();
        map_mergeable(&mm, 6);
        let other = AT + 64 * P;
        map_at(&mm, other, 1);
        mm.madvise(Va(other), P, Advice::Mergeable).unwrap();
        fill(&mm, &[7; 6]);
        sweep(w, 2);
        w.failures.set(FailurePlan::From(3));
        let first = mm.set_merge_any(MergeAny::No);
        w.failures.set(FailurePlan::Off);
        assert_eq!(first, Err(Error::OutOfMemory));
        for at in [AT, other] {
            assert!(!mm.vma_at(Va(at)).unwrap().flags.contains(crate::VmFlags::MERGEABLE), "{at:#x}");
        }
        mm.set_merge_any(MergeAny::No).unwrap();
        assert_eq!((mm.ksm_usage().merging, bytes(&mm, 6)), (0, vec![7; 6]));
        w.vm.validate().unwrap();
    });
}

#[test]
fn a_merged_page_comes_back_in_a_folio_to_one_of_its_places_and_the_other_gets_a_copy() {
    for other_first in [false, true] {
        World::run(|w| {
            w.vm.swap_on(0, 4096, 0).unwrap();
            let mm = w.vm.new_mm().unwrap();
            map_mergeable(&mm, 64);
            let mut said = [0; 64];
            (0..16).for_each(|n| said[n] = n as u8 + 1);
            // Page 40 is the same as page 5.
            said[40] = said[5];
            fill(&mm, &said[..16]);
            mm.store(page(40) + 9, said[40]).unwrap();
            sweep(w, 2);
            assert_eq!(frame(&mm, 5), frame(&mm, 40));
            (0..16).for_each(|n| assert!(w.vm.reclaim_folio(folio(w, &mm, n)), "page {n}"));
            assert_eq!(mm.counters().swap.0, 17);
            let sixteen = FolioPolicy::default().with(Order::new(4), FolioMode::Always);
            w.vm.set_folio_policy(sixteen);
            if other_first {
                assert_eq!(mm.load(page(40) + 9), Ok(6));
            }
            assert_eq!(mm.load(page(0) + 9), Ok(1));
            w.vm.validate().unwrap();
            let runs = w.vm.folio_event(Order::new(4), FolioEvent::SwapIn);
            assert_eq!(runs, u64::from(!other_first), "as a run, unless one of its pages is back");
            assert_eq!(mm.load(page(40) + 9), Ok(6));
            w.vm.validate().unwrap();
            assert_eq!(bytes(&mm, 16), said[..16]);
            mm.store(page(40) + 9, 9).unwrap();
            assert_eq!((mm.load(page(5) + 9), mm.load(page(40) + 9)), (Ok(6), Ok(9)));
            w.vm.validate().unwrap();
            // Whatever has come back can leave again: the reverse map finds it.
            mm.madvise(Va(AT), 64 * P, Advice::PageOut).unwrap();
            assert_eq!(mm.counters().anon.0, 0);
            assert_eq!((bytes(&mm, 16), mm.load(page(40) + 9)), (said[..16].to_vec(), Ok(9)));
            w.vm.validate().unwrap();
        });
    }
}

#[test]
fn a_scan_without_memory_merges_nothing_and_breaks_nothing() {
    World::run(|w| {
        let mm = w.vm.new_mm().unwrap();
        map_mergeable(&mm, 6);
        fill(&mm, &[7; 6]);
        for nth in 1..12 {
            w.failures.set(FailurePlan::Nth(nth));
            let _ = w.vm.ksm_scan(1000);
            w.failures.set(FailurePlan::Off);
            w.vm.validate().unwrap();
            assert_eq!(bytes(&mm, 6), [7; 6]);
        }
        sweep(w, 3);
        assert_eq!(mm.ksm_usage().merging, 6);
    });
}

#[test]
fn a_place_before_all_that_a_cached_folio_could_begin_at_gets_a_copy() {
    World::run(|w| {
        w.vm.swap_on(0, 4096, 0).unwrap();
        let mm = w.vm.new_mm().unwrap();
        map_mergeable(&mm, 16);
        // The first page of all, with what page 5 of the others says.
        mm.map_raw(pages(1, 1), RW, Backing::Anonymous);
        mm.madvise(Va(P), P, Advice::Mergeable).unwrap();
        let said: Vec<_> = (1..=16).collect();
        fill(&mm, &said);
        mm.store(P + 9, said[5]).unwrap();
        sweep(w, 2);
        assert_eq!(mm.pagemap(Va(P)).pfn, Some(frame(&mm, 5)));
        (0..16).for_each(|n| assert!(w.vm.reclaim_folio(folio(w, &mm, n)), "page {n}"));
        w.vm.set_folio_policy(FolioPolicy::default().with(Order::new(4), FolioMode::Always));
        assert_eq!(mm.load(page(0) + 9), Ok(1));
        assert_eq!(w.vm.folio_event(Order::new(4), FolioEvent::SwapIn), 1, "as a run");
        // What is left of the folio is the cached page of a slot that the first page needs.
        mm.madvise(Va(AT), 16 * P, Advice::DontNeed).unwrap();
        assert_eq!(mm.load(P + 9), Ok(6));
        assert_eq!(w.vm.stats().event(Event::KsmSwapinCopy), 1);
        w.vm.validate().unwrap();
        mm.store(P + 9, 9).unwrap();
        assert_eq!(mm.load(P + 9), Ok(9));
        w.vm.validate().unwrap();
    });
}

#[test]
fn a_cached_page_that_nobody_maps_any_more_comes_to_another_place_without_a_copy() {
    World::run(|w| {
        w.vm.swap_on(0, 64, 0).unwrap();
        let mm = w.vm.new_mm().unwrap();
        map_mergeable(&mm, 3);
        fill(&mm, &[7; 3]);
        sweep(w, 2);
        assert!(w.vm.reclaim_folio(folio(w, &mm, 0)));
        assert_eq!(mm.load(page(0) + 9), Ok(7));
        mm.madvise(Va(page(0)), P, Advice::DontNeed).unwrap();
        assert_eq!(mm.load(page(1) + 9), Ok(7));
        assert_eq!(w.vm.stats().event(Event::KsmSwapinCopy), 0);
        assert_eq!(mm.load(page(2) + 9), Ok(7));
        assert_eq!(w.vm.stats().event(Event::KsmSwapinCopy), 1, "the other place maps it");
        w.vm.validate().unwrap();
    });
}

#[test]
fn merged_pages_leave_and_come_back_as_pages_of_each_program() {
    for move_locks in [MoveLocks::AnonVma, MoveLocks::Folio] {
        World::run_with(Config { move_locks, ..Config::default() }, |w| {
            w.vm.swap_on(0, 64, 0).unwrap();
            let mm = w.vm.new_mm().unwrap();
            map_mergeable(&mm, 3);
            fill(&mm, &[7; 3]);
            let child = mm.fork().unwrap();
            sweep(w, 3);
            assert_eq!((stats(w).pages_shared, stats(w).pages_sharing), (1, 5));
            assert!(w.vm.reclaim_folio(folio(w, &mm, 0)));
            w.vm.validate().unwrap();
            assert_eq!((mm.counters().swap.0, child.counters().swap.0, w.swap.stored()), (3, 3, 1));
            sweep(w, 1);
            assert_eq!((bytes(&mm, 3), bytes(&child, 3)), (vec![7; 3], vec![7; 3]));
            w.vm.validate().unwrap();
            let copies = w.vm.stats().event(Event::KsmSwapinCopy);
            assert!(copies >= 2, "each index but one has a page of its own: {copies}");
            assert_eq!((w.swap.stored(), mm.counters().swap.0), (0, 0));
            child.store(page(1) + 9, 8).unwrap();
            assert_eq!((bytes(&mm, 3), bytes(&child, 3)), (vec![7; 3], vec![7, 8, 7]));
            sweep(w, 3);
            assert_eq!(mm.ksm_usage().merging, 3, "and may be merged again");
            drop((mm, child));
            w.vm.swap_off(0).unwrap();
        });
    }
}

#[test]
fn a_merged_page_that_cannot_be_written_to_swap_stays_right() {
    World::run(|w| {
        w.vm.swap_on(0, 64, 0).unwrap();
        let mm = w.vm.new_mm().unwrap();
        map_mergeable(&mm, 3);
        fill(&mm, &[7; 3]);
        sweep(w, 2);
        let page = folio(w, &mm, 0);
        w.swap.fail_every_write(1);
        assert!(!w.vm.reclaim_folio(page));
        w.swap.fail_every_write(0);
        w.vm.validate().unwrap();
        assert_eq!(bytes(&mm, 3), [7; 3]);
        w.vm.validate().unwrap();
        sweep(w, 3);
        assert_eq!((mm.ksm_usage().merging, bytes(&mm, 3)), (3, vec![7; 3]));
        drop(mm);
        w.vm.swap_off(0).unwrap();
    });
}

#[test]
fn a_merged_page_moves_to_another_frame_with_all_its_entries() {
    World::run(|w| {
        let mm = w.vm.new_mm().unwrap();
        map_mergeable(&mm, 4);
        fill(&mm, &[7; 4]);
        let child = mm.fork().unwrap();
        sweep(w, 3);
        let before = frame(&mm, 0);
        assert!(matches!(w.vm.migrate_folio(folio(w, &mm, 0)), Ok(crate::Went::To(to)) if to != before));
        w.vm.validate().unwrap();
        let after = frame(&mm, 0);
        assert!((0..4).all(|n| frame(&mm, n) == after && frame(&child, n) == after));
        // Its node went along: the next equal page is merged into it.
        map_at(&mm, page(8), 1);
        mm.madvise(Va(page(8)), P, Advice::Mergeable).unwrap();
        mm.store(page(8) + 9, 7).unwrap();
        sweep(w, 2);
        assert_eq!((frame(&mm, 8), stats(w).pages_shared, stats(w).pages_sharing), (after, 1, 8));
    });
}

#[test]
fn nodes_and_places_of_pages_that_are_gone_are_freed_by_the_sweep() {
    World::run(|w| {
        let programs: Vec<_> = (0..4).map(|_| w.vm.new_mm().unwrap()).collect();
        w.vm.set_ksm(KsmSettings { domains: MergeDomains::One, ..KsmSettings::default() }).unwrap();
        for mm in &programs {
            map_mergeable(mm, 3);
            fill(mm, &[1, 2, 1]);
        }
        sweep(w, 2);
        assert_eq!((stats(w).pages_shared, w.vm.stable_nodes.live()), (2, 12));
        for (nth, mm) in programs.into_iter().enumerate() {
            drop(mm);
            sweep(w, 1);
            let places = if nth == 3 { 0 } else { 12 - 3 * (nth as u64 + 1) };
            assert_eq!(w.vm.stable_nodes.live(), places, "after {} programs", nth + 1);
        }
        assert_eq!(stats(w).pages_shared, 0);
    });
}

#[test]
fn a_page_freed_lazily_takes_nothing_from_those_who_share_it() {
    World::run(|w| {
        w.vm.swap_on(0, 64, 0).unwrap();
        let mm = w.vm.new_mm().unwrap();
        map_mergeable(&mm, 3);
        fill(&mm, &[7; 3]);
        mm.madvise(Va(page(0)), P, Advice::Free).unwrap();
        sweep(w, 2);
        assert_eq!(mm.ksm_usage().merging, 3);
        mm.madvise(Va(page(1)), P, Advice::Free).unwrap();
        w.vm.reclaim_folio(folio(w, &mm, 0));
        assert_eq!((mm.load(page(2) + 9), w.vm.stats().event(Event::LazyFree)), (Ok(7), 0));
        w.vm.validate().unwrap();
        drop(mm);
        w.vm.swap_off(0).unwrap();
    });
}

#[test]
fn a_locked_mapping_is_merged_and_stays_in_memory() {
    World::run(|w| {
        w.vm.swap_on(0, 64, 0).unwrap();
        let mm = w.vm.new_mm().unwrap();
        map_mergeable(&mm, 3);
        fill(&mm, &[7; 3]);
        mm.mlock(Va(AT), 3 * P).unwrap();
        sweep(w, 2);
        assert_eq!(mm.ksm_usage().merging, 3);
        assert!(!w.vm.reclaim_folio(folio(w, &mm, 0)));
        assert_eq!(mm.counters().swap.0, 0);
        mm.munlock(Va(AT), 3 * P).unwrap();
        drop(mm);
        w.vm.swap_off(0).unwrap();
    });
}

#[test]
fn a_step_looks_at_no_more_pages_than_it_was_told() {
    World::run(|w| {
        let mm = w.vm.new_mm().unwrap();
        map_mergeable(&mm, 40);
        (0..40).for_each(|n| mm.store(page(n), n as u8).unwrap());
        let mut seen = 0;
        loop {
            let done = w.vm.ksm_scan(7).unwrap();
            assert!(done.scanned <= 7);
            seen += done.scanned;
            if done.swept {
                break;
            }
        }
        assert_eq!((seen, stats(w).pages_scanned, stats(w).full_scans), (40, 40, 1));
        assert_eq!((stats(w).pages_volatile, stats(w).pages_unshared), (40, 0));
        sweep(w, 1);
        assert_eq!((stats(w).pages_volatile, stats(w).pages_unshared), (0, 40));
        sweep(w, 8);
        assert!(stats(w).pages_skipped > 0, "a page of which nothing came is passed over");
        assert_eq!(stats(w).pages_unshared, 40);
    });
}

#[test]
fn a_range_that_is_no_programs_is_nobodys_to_merge() {
    World::run(|w| {
        let mm = w.vm.new_mm().unwrap();
        map_mergeable(&mm, 2);
        let hole = VaRange::of(Va(page(2)), P).unwrap();
        assert_eq!(mm.madvise(hole.start, P, Advice::Mergeable), Err(Error::NotMapped));
        assert!(matches!(mm.madvise(Va(AT + 1), P, Advice::Mergeable), Err(Error::Invalid(_))));
    });
}

/// A relative that never agreed has the page by an entry that a move has left behind.
#[test]
fn who_never_agreed_is_asked_of_an_entry_that_was_left_behind() {
    World::run(|w| {
        let mm = w.vm.new_mm().unwrap();
        map_at(&mm, AT, 2);
        fill(&mm, &[7]);
        let child = mm.fork().unwrap();
        fill(&mm, &[5, 7]);
        mm.madvise(Va(AT), 2 * P, Advice::Mergeable).unwrap();
        leave_behind(&w.vm, &folio(w, &child, 0));
        assert_eq!((sweep(w, 4), stats(w).merged), (0, 0), "the child did not agree");
        assert_eq!((bytes(&child, 1), bytes(&mm, 2)), (vec![7], vec![5, 7]));
        assert_eq!(sweep(w, 4), 0);
    });
}

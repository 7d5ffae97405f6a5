//! Growing, shrinking and moving mappings on the hosted testing machine.

use super::RemapFlags;
use crate::{
    Advice, Config, Error, Event, LockMode, MapBacking, MapFlags, Mm, MmapRequest, Overcommit, Prot,
    ReverseMapChoice, VmFlags,
    rmap::referenced::folio_referenced,
    testing::{M, P, RW, World, chosen, pages},
    vma::Backing,
};
use anonmem_hal::{CpuId, Va, VaRange};
use anonmem_hosted::Trap;
use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering},
    vec,
    vec::Vec,
};

const MOVE: RemapFlags = RemapFlags::MAYMOVE;
const FIXED: RemapFlags = RemapFlags::MAYMOVE.union(RemapFlags::FIXED);
const KEEP: RemapFlags = RemapFlags::MAYMOVE.union(RemapFlags::DONTUNMAP);
/// A page number from where on last-level tables begin at multiples of 512.
const TABLE: u64 = 512;

fn map(mm: &Mm<'_, M>, range: VaRange) {
    let (prot, flags) = (Prot::READ | Prot::WRITE, MapFlags::FIXED);
    let backing = MapBacking::Anonymous;
    mm.mmap(MmapRequest { addr: range.start, len: range.len(), prot, flags, backing }).unwrap();
}

fn fill(mm: &Mm<'_, M>, range: VaRange) {
    range.iter_pages().for_each(|va| mm.store(va.0, byte_of(va.page())).unwrap());
}

fn byte_of(page: u64) -> u8 {
    (page % 251) as u8 + 1
}

/// Moves or resizes, in pages.
fn remap(mm: &Mm<'_, M>, old: u64, len: u64, new: u64, flags: RemapFlags, to: u64) -> Result<u64, Error> {
    mm.mremap(Va(old * P), len * P, new * P, flags, Va(to * P)).map(Va::page)
}

fn ranges(mm: &Mm<'_, M>) -> Vec<(u64, u64)> {
    mm.layout().iter().map(|(range, _)| (range.start.page(), range.pages().0)).collect()
}

#[test]
fn a_mapping_grows_in_place_and_merges_with_what_follows() {
    World::run(|w| {
        let mm = w.vm.new_mm().unwrap();
        map(&mm, pages(16, 4));
        map(&mm, pages(24, 4));
        fill(&mm, pages(16, 4));
        assert_eq!(remap(&mm, 16, 4, 6, RemapFlags::empty(), 0), Ok(16));
        assert_eq!(ranges(&mm), [(16, 6), (24, 4)]);
        assert_eq!(remap(&mm, 18, 4, 6, RemapFlags::empty(), 0), Ok(18), "the end of a mapping will do");
        assert_eq!(ranges(&mm), [(16, 12)]);
        assert_eq!((mm.load(19 * P), mm.load(23 * P)), (Ok(byte_of(19)), Ok(0)));
        assert_eq!(mm.counters().total.0, 12);
        w.vm.validate().unwrap();
        assert_eq!(remap(&mm, 16, 12, 13, RemapFlags::empty(), 0), Ok(16));
        map(&mm, pages(29, 1));
        mm.mprotect(pages(29, 1), Prot::READ).unwrap();
        assert_eq!(remap(&mm, 16, 13, 14, RemapFlags::empty(), 0), Err(Error::MAY_NOT_MOVE));
    });
}

#[test]
fn shrinking_unmaps_the_tail_across_mappings_and_holes() {
    World::run(|w| {
        let mm = w.vm.new_mm().unwrap();
        map(&mm, pages(16, 4));
        map(&mm, pages(24, 4));
        fill(&mm, pages(16, 4));
        assert_eq!(remap(&mm, 16, 10, 2, RemapFlags::empty(), 0), Ok(16));
        assert_eq!(ranges(&mm), [(16, 2), (26, 2)]);
        assert_eq!(remap(&mm, 16, 2, 2, RemapFlags::empty(), 0), Ok(16));
        assert_eq!(mm.counters().anon.0, 2);
    });
}

#[test]
fn pages_keep_their_bytes_their_sharers_and_their_rmap_when_they_move() {
    World::run(|w| {
        let mm = w.vm.new_mm().unwrap();
        map(&mm, pages(16, 4));
        map(&mm, pages(20, 1));
        mm.mprotect(pages(20, 1), Prot::READ).unwrap();
        fill(&mm, pages(16, 4));
        let child = mm.fork().unwrap();
        let to = remap(&mm, 16, 4, 6, MOVE, 0).unwrap();
        assert_eq!(ranges(&mm), [(20, 1), (to, 6)]);
        w.vm.validate().unwrap();
        for i in 0..4 {
            assert_eq!(mm.load((to + i) * P), Ok(byte_of(16 + i)));
            assert_eq!(mm.load((16 + i) * P), Err(Trap::Unmapped));
            let pfn = mm.pagemap(Va((to + i) * P)).pfn.unwrap();
            let found = folio_referenced(&w.vm, w.vm.frames.folio(pfn).unwrap());
            assert_eq!(found.mappings, 2, "rmap finds parent and child");
        }
        assert_eq!(mm.load((to + 5) * P), Ok(0));
        mm.store(to * P, 99).unwrap();
        assert_eq!((child.load(16 * P), mm.load(to * P)), (Ok(byte_of(16)), Ok(99)));
        let grandchild = mm.fork().unwrap();
        assert_eq!(grandchild.load((to + 3) * P), Ok(byte_of(19)));
    });
}

#[test]
fn moving_back_merges_with_both_neighbours_again() {
    World::run(|w| {
        let mm = w.vm.new_mm().unwrap();
        map(&mm, pages(16, 6));
        fill(&mm, pages(16, 6));
        assert_eq!(remap(&mm, 18, 2, 2, FIXED, 100), Ok(100));
        assert_eq!(ranges(&mm), [(16, 2), (20, 2), (100, 2)]);
        assert_eq!(remap(&mm, 100, 2, 2, FIXED, 18), Ok(18));
        assert_eq!(ranges(&mm), [(16, 6)]);
        assert_eq!(mm.load(19 * P), Ok(byte_of(19)));
    });
}

#[test]
fn an_untouched_mapping_takes_the_number_of_its_new_address() {
    World::run(|w| {
        let mm = w.vm.new_mm().unwrap();
        map(&mm, pages(16, 2));
        map(&mm, pages(100, 2));
        assert_eq!(mm.load(16 * P), Ok(0), "the zero page moves as well");
        assert_eq!(remap(&mm, 16, 2, 2, FIXED, 102), Ok(102));
        assert_eq!(ranges(&mm), [(100, 4)]);
        assert!(mm.pagemap(Va(102 * P)).present());
    });
}

#[test]
fn whole_tables_move_in_one_piece_with_one_flush_each() {
    World::run(|w| {
        let mm = w.vm.new_mm().unwrap();
        let (from, to, len) = (4 * TABLE - 3, 600 * TABLE - 3, 2 * TABLE + 5);
        map(&mm, pages(from, len));
        fill(&mm, pages(from, len));
        let (tables, flushes) = (mm.counters().tables, w.vm.stats().event(Event::TlbFlush));
        assert_eq!(remap(&mm, from, len, len, FIXED, to), Ok(to));
        // The two in the middle as a whole, the edges by entries.
        assert_eq!(w.vm.stats().event(Event::TlbFlush) - flushes, 4);
        assert_eq!(mm.counters().tables, tables, "the upper table of the old place is gone, too");
        w.vm.validate().unwrap();
        for i in 0..len {
            assert_eq!(mm.load((to + i) * P), Ok(byte_of(from + i)));
        }
    });
}

/// The neighbours keep the old tables from being freed, which would flush, too.
#[test]
fn no_translation_of_the_old_place_outlives_the_move() {
    for (from, to) in [(20, 32), (4 * TABLE, 8 * TABLE), (4 * TABLE - 2, 8 * TABLE + 1)] {
        World::run(|w| {
            let mm = w.vm.new_mm().unwrap();
            map(&mm, pages(from - 1, TABLE + 2));
            fill(&mm, pages(from, TABLE));
            let user = mm.user();
            let mut byte = [0];
            user.load(Va(from * P), &mut byte).unwrap();
            user.store(Va((from + 5) * P), &[77]).unwrap();
            remap(&mm, from, TABLE, TABLE, FIXED, to + TABLE).unwrap();
            assert_eq!(user.load(Va(from * P), &mut byte), Err(Trap::Unmapped));
            assert_eq!(user.store(Va((from + 5) * P), &[1]), Err(Trap::Unmapped));
            user.load(Va((to + TABLE + 5) * P), &mut byte).unwrap();
            assert_eq!(byte, [77]);
        });
    }
}

#[test]
fn what_stays_behind_is_like_what_moved_but_empty_and_unlocked() {
    World::run(|w| {
        let mm = w.vm.new_mm().unwrap();
        let source = w.sources.register(vec![5; 4 * P as usize]);
        map(&mm, pages(16, 6));
        fill(&mm, pages(16, 6));
        mm.map_raw(pages(40, 4), RW, Backing::Source(source));
        mm.store(41 * P, 6).unwrap();
        mm.mlock(Va(17 * P), 2 * P).unwrap();
        let to = remap(&mm, 17, 2, 2, KEEP, 0).unwrap();
        assert_eq!(mm.vma_at(Va(to * P)).unwrap().flags & VmFlags::LOCKED, VmFlags::LOCKED);
        assert_eq!(ranges(&mm), [(16, 6), (40, 4), (to, 2)]);
        assert_eq!((mm.load(17 * P), mm.load(to * P)), (Ok(0), Ok(byte_of(17))));
        assert_eq!((mm.counters().locked.0, mm.counters().total.0), (2, 12));
        assert_eq!(remap(&mm, 40, 4, 4, KEEP | RemapFlags::FIXED, 100), Ok(100));
        assert_eq!((mm.load(41 * P), mm.load(101 * P), mm.load(102 * P)), (Ok(5), Ok(6), Ok(5)));
        assert_eq!(w.sources.users(source), 2);
        w.vm.validate().unwrap();
    });
}

#[test]
fn a_length_of_nothing_duplicates_a_shared_mapping() {
    World::run(|w| {
        let mm = w.vm.new_mm().unwrap();
        let object = w.vm.shm_new(4).unwrap();
        mm.map_raw(pages(16, 4), (RW - VmFlags::ACCOUNT) | VmFlags::SHARED, Backing::Shared(object.id()));
        drop(object);
        mm.store(18 * P, 7).unwrap();
        let to = remap(&mm, 17, 0, 2, MOVE, 0).unwrap();
        assert_eq!(mm.load((to + 1) * P), Ok(7));
        mm.store(to * P, 8).unwrap();
        assert_eq!(mm.load(17 * P), Ok(8));
        assert_eq!(remap(&mm, 17, 0, 2, RemapFlags::empty(), 0), Err(Error::MAY_NOT_MOVE));
        map(&mm, pages(100, 1));
        assert!(matches!(remap(&mm, 100, 0, 1, MOVE, 0), Err(Error::Invalid(_))));
        assert_eq!(remap(&mm, 16, 4, 6, MOVE, 0).map(|to| mm.load((to + 4) * P)), Ok(Err(Trap::Bus)));
    });
}

#[test]
fn guards_go_with_the_mapping() {
    World::run(|w| {
        let mm = w.vm.new_mm().unwrap();
        map(&mm, pages(16, 4));
        fill(&mm, pages(16, 4));
        mm.madvise(Va(17 * P), P, Advice::GuardInstall).unwrap();
        let to = remap(&mm, 16, 4, 4, KEEP, 0).unwrap();
        assert_eq!(mm.load((to + 1) * P), Err(Trap::Unmapped));
        assert_eq!((mm.load(17 * P), mm.load(to * P)), (Ok(0), Ok(byte_of(16))));
    });
}

#[test]
fn what_is_at_a_fixed_destination_goes_and_its_tables_serve_again() {
    World::run(|w| {
        let mm = w.vm.new_mm().unwrap();
        for (from, to) in [(20, 4 * TABLE + 9), (8 * TABLE, 6 * TABLE)] {
            map(&mm, pages(from, TABLE));
            fill(&mm, pages(from, TABLE));
            map(&mm, pages(to, 3));
            fill(&mm, pages(to, 3));
            assert_eq!(remap(&mm, from, TABLE, TABLE, FIXED, to), Ok(to));
            w.vm.validate().unwrap();
            assert_eq!((mm.load(to * P), mm.load((to + 2) * P)), (Ok(byte_of(from)), Ok(byte_of(from + 2))));
        }
        assert_eq!(mm.counters().anon.0, 2 * TABLE);
    });
}

#[test]
fn the_tail_that_a_move_cuts_off_may_be_anything() {
    World::run(|w| {
        let mm = w.vm.new_mm().unwrap();
        map(&mm, pages(16, 4));
        fill(&mm, pages(16, 4));
        map(&mm, pages(24, 4));
        fill(&mm, pages(24, 4));
        assert_eq!(remap(&mm, 17, 9, 2, FIXED, 40), Ok(40));
        assert_eq!(ranges(&mm), [(16, 1), (26, 2), (40, 2)]);
        assert_eq!((mm.load(41 * P), mm.load(26 * P)), (Ok(byte_of(18)), Ok(byte_of(26))));
        w.vm.validate().unwrap();
        assert!(matches!(remap(&mm, 26, 1 << 36, 1, FIXED, 18), Err(Error::Invalid(_))));
    });
}

#[test]
fn what_is_in_swap_moves_as_well() {
    World::run(|w| {
        w.vm.swap_on(0, 64, 0).unwrap();
        let mm = w.vm.new_mm().unwrap();
        map(&mm, pages(20, 8));
        fill(&mm, pages(20, 8));
        let child = mm.fork().unwrap();
        mm.store(20 * P, 99).unwrap();
        mm.madvise(Va(20 * P), 8 * P, Advice::PageOut).unwrap();
        child.madvise(Va(20 * P), P, Advice::PageOut).unwrap();
        assert_eq!((mm.counters().swap.0, child.counters().swap.0), (1, 1));
        assert_eq!(remap(&mm, 20, 8, 9, FIXED, 4 * TABLE - 3), Ok(4 * TABLE - 3));
        w.vm.validate().unwrap();
        assert_eq!((mm.load((4 * TABLE - 3) * P), child.load(20 * P)), (Ok(99), Ok(byte_of(20))));
        drop((mm, child));
        w.vm.swap_off(0).unwrap();
    });
}

#[test]
fn nonsense_is_refused() {
    World::run(|w| {
        let mm = w.vm.new_mm().unwrap();
        map(&mm, pages(16, 4));
        map(&mm, pages(20, 4));
        mm.mprotect(pages(20, 4), Prot::READ).unwrap();
        let invalid =
            |result: Result<u64, Error>| assert!(matches!(result, Err(Error::Invalid(_))), "{result:?}");
        invalid(remap(&mm, 16, 4, 0, MOVE, 0));
        invalid(remap(&mm, 16, 4, 1 << 50, MOVE, 0));
        invalid(remap(&mm, 16, 4, 4, RemapFlags::FIXED, 100));
        invalid(remap(&mm, 16, 4, 5, KEEP, 0));
        invalid(remap(&mm, 16, 4, 4, FIXED, 19));
        invalid(remap(&mm, 16, 4, 4, FIXED, (1 << 35) - 2));
        invalid(mm.mremap(Va(16 * P + 1), P, P, MOVE, Va(0)).map(Va::page));
        invalid(mm.mremap(Va(16 * P), P, P, FIXED, Va(100 * P + 1)).map(Va::page));
        assert_eq!(remap(&mm, 99, 1, 2, MOVE, 0), Err(Error::BadAddress));
        assert_eq!(remap(&mm, 16, 8, 9, MOVE, 0), Err(Error::BadAddress));
        assert_eq!(remap(&mm, 15, 8, 8, FIXED, 100), Err(Error::BadAddress), "a hole comes first");
        assert_eq!(remap(&mm, 16, 4, 4, FIXED, 3), Err(Error::NotPermitted));
        assert_eq!(ranges(&mm), [(16, 4), (20, 4)]);
    });
}

#[test]
fn limits_hold_and_a_move_needs_no_promise_twice() {
    let config = Config { overcommit: Overcommit::Never { percent: 1 }, ..Config::default() };
    World::run_with(config, |w| {
        let mm = w.vm.new_mm().unwrap();
        map(&mm, pages(16, 30));
        fill(&mm, pages(16, 30));
        map(&mm, pages(60, 8));
        assert_eq!(remap(&mm, 16, 30, 30, FIXED, 100), Ok(100));
        assert_eq!(remap(&mm, 100, 30, 33, MOVE, 0), Err(Error::COMMIT_LIMIT));
        assert_eq!(remap(&mm, 100, 30, 30, KEEP, 0), Err(Error::COMMIT_LIMIT));
        assert_eq!(ranges(&mm), [(60, 8), (100, 30)]);
        assert_eq!(remap(&mm, 100, 30, 38, FIXED, 60), Ok(60), "what is replaced has its promise already");
        assert_eq!(w.vm.stats().committed, 38);
        let limits = mm.limits();
        mm.set_limits(crate::Limits { space: 38 * P, ..limits });
        mm.munmap(pages(97, 1)).unwrap();
        assert_eq!(remap(&mm, 60, 37, 39, MOVE, 0), Err(Error::SPACE));
        mm.set_limits(crate::Limits { locked: 37 * P, ..limits });
        mm.mlock(Va(60 * P), 37 * P).unwrap();
        assert_eq!(remap(&mm, 60, 37, 38, MOVE, 0), Err(Error::Again));
        w.vm.validate().unwrap();
    });
}

#[test]
fn too_many_mappings_are_refused_before_anything_is_cut() {
    World::run_with(Config { max_map_count: 5, ..Config::default() }, |w| {
        let mm = w.vm.new_mm().unwrap();
        map(&mm, pages(16, 8));
        map(&mm, pages(40, 1));
        assert_eq!(remap(&mm, 18, 2, 2, FIXED, 100), Err(Error::MAX_MAP_COUNT));
        assert_eq!(ranges(&mm), [(16, 8), (40, 1)]);
    });
}

#[test]
fn a_locked_mapping_is_filled_when_it_grows() {
    World::run(|w| {
        let mm = w.vm.new_mm().unwrap();
        map(&mm, pages(16, 2));
        mm.mlock(Va(16 * P), 2 * P).unwrap();
        assert_eq!(remap(&mm, 16, 2, 4, RemapFlags::empty(), 0), Ok(16));
        let counters = mm.counters();
        assert_eq!((counters.anon.0, counters.locked.0), (4, 4));
    });
}

/// Every failure of an allocation leaves all as it was: the mapping that was to move, what is at the
/// destination, tables.
#[test]
fn a_move_that_runs_out_of_memory_has_not_happened() {
    for (flags, old, new) in [(FIXED, 5, 5), (FIXED, 5, 3), (FIXED, 3, 7), (KEEP | RemapFlags::FIXED, 4, 4)] {
        World::run(|w| {
            let (from, to) = (4 * TABLE - 4, 9 * TABLE - 3);
            let make = || {
                let mm = w.vm.new_mm().unwrap();
                map(&mm, pages(from, 9));
                fill(&mm, pages(from, 9));
                map(&mm, pages(to - 2, 4));
                fill(&mm, pages(to - 2, 4));
                mm
            };
            let failed = w.fail_each_allocation(
                make,
                |mm| remap(mm, from + 2, old, new, flags, to),
                |mm, error| {
                    assert_eq!(error, Error::OutOfMemory);
                    assert_eq!(ranges(mm), [(from, 9), (to - 2, 4)]);
                    w.vm.validate().unwrap();
                    for page in (from..from + 9).chain(to - 2..to + 2) {
                        assert_eq!(mm.load(page * P), Ok(byte_of(page)));
                    }
                    assert_eq!(mm.counters().tables.0, 6, "no table of the attempt is left");
                },
            );
            let least = if chosen() == ReverseMapChoice::AnonVmas { 6 } else { 3 };
            assert!(failed >= least, "only {failed} allocations failed");
        });
    }
}

/// The tables that an attempt has given back are no reason to try again.
#[test]
fn a_move_that_needs_more_tables_than_there_is_memory_fails() {
    World::run(|w| {
        w.vm.set_overcommit(Overcommit::Always);
        let mm = w.vm.new_mm().unwrap();
        let (tables, from) = (512, 16 * TABLE);
        let places = (0..tables).map(|nth| from + nth * TABLE);
        map(&mm, pages(from, tables * TABLE));
        places.clone().for_each(|page| mm.store(page * P, byte_of(page)).unwrap());
        let hog = w.fill_memory(tables);
        // No table of the old place covers what one of the new place does: none moves whole.
        let moved = remap(&mm, from, tables * TABLE, tables * TABLE, FIXED, 4096 * TABLE + 1);
        assert_eq!(moved, Err(Error::OutOfMemory));
        places.for_each(|page| assert_eq!(mm.load(page * P), Ok(byte_of(page))));
        drop(hog);
        w.vm.validate().unwrap();
    });
}

/// The bytes of a few pages around a table boundary, and what moves do to them.
#[derive(Clone)]
struct Model(BTreeMap<u64, u8>);

impl Model {
    fn remap(&mut self, old: u64, len: u64, new: u64, to: u64, keep: bool) {
        let moved: Vec<_> = (0..len.min(new)).map(|i| self.0[&(old + i)]).collect();
        self.0.retain(|page, _| !(to..to + new).contains(page) && !(old..old + len).contains(page));
        self.0.extend((to..to + new).map(|page| (page, 0)));
        self.0.extend(moved.iter().enumerate().map(|(i, &byte)| (to + i as u64, byte)));
        if keep {
            self.0.extend((old..old + len).map(|page| (page, 0)));
        }
    }

    fn check(&self, mm: &Mm<'_, M>, window: VaRange) {
        for page in window.start.page()..window.end.page() {
            let expected = self.0.get(&page).copied().ok_or(Trap::Unmapped);
            assert_eq!(mm.load(page * P), expected, "page {page}");
        }
    }
}

/// Every move within two areas that straddle a table boundary.
#[test]
fn every_small_move_does_what_a_plain_model_says() {
    let first = 4 * TABLE - 7;
    let areas = [(first, 5), (first + 6, 6)];
    let window = pages(first - 2, 18);
    for keep in [false, true] {
        World::run(|w| {
            let template = w.vm.new_mm().unwrap();
            let mut model = Model(BTreeMap::new());
            for (start, len) in areas {
                map(&template, pages(start, len));
                fill(&template, pages(start, len));
                model.0.extend((start..start + len).map(|page| (page, byte_of(page))));
            }
            for (start, area_len) in areas {
                for old in start..start + area_len {
                    for len in 1..=(start + area_len - old).min(4) {
                        for to in first - 2..first + 10 {
                            for new in if keep { len..=len } else { 1..=4 } {
                                if to < old + len && old < to + new {
                                    continue;
                                }
                                let mm = template.fork().unwrap();
                                let mut model = model.clone();
                                let flags = if keep { FIXED | RemapFlags::DONTUNMAP } else { FIXED };
                                assert_eq!(remap(&mm, old, len, new, flags, to), Ok(to));
                                model.remap(old, len, new, to, keep);
                                model.check(&mm, window);
                                w.vm.validate().unwrap();
                            }
                        }
                    }
                }
            }
        });
    }
}

/// CVE-2022-41222: a walk that runs while a page moves to and fro always finds it. Meanwhile another CPU
/// touches the mapping, wherever it is.
#[test]
fn walks_and_faults_meet_a_page_that_moves_all_the_time() {
    for lock_mode in [LockMode::Mmap, LockMode::Vma, LockMode::Speculative] {
        World::run_with(Config { lock_mode, ..Config::default() }, |w| {
            let mm = w.vm.new_mm().unwrap();
            let places = [4 * TABLE, 8 * TABLE, 12 * TABLE + 3, 20 * TABLE];
            map(&mm, pages(places[0], TABLE));
            fill(&mm, pages(places[0], 8));
            let pfn = mm.pagemap(Va(places[0] * P)).pfn.unwrap();
            let (page, stop) = (w.vm.frames.try_get(pfn).unwrap(), AtomicBool::new(false));
            let cpus = w.vm.machine().cpus();
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    let _cpu = cpus.enter(CpuId(1));
                    let _stop = StopAtEnd(&stop);
                    while !stop.load(Ordering::Relaxed) {
                        assert_eq!(folio_referenced(&w.vm, page.folio()).mappings, 1);
                    }
                });
                scope.spawn(|| {
                    let _cpu = cpus.enter(CpuId(2));
                    let _stop = StopAtEnd(&stop);
                    let (user, mut byte, mut turn) = (mm.user(), [0], 0);
                    while !stop.load(Ordering::Relaxed) {
                        turn += 1;
                        let at = (places[turn % 4] + (turn as u64 * 7) % TABLE) * P;
                        if user.load(Va(at), &mut byte).is_ok() && turn % 3 == 0 {
                            let _ = user.store(Va(at + 9), &[1]);
                        }
                    }
                });
                let _stop = StopAtEnd(&stop);
                for turn in 0..400 {
                    let (from, to) = (places[turn % 4], places[(turn + 1) % 4]);
                    remap(&mm, from, TABLE, TABLE, FIXED, to).unwrap();
                }
            });
            assert_eq!(mm.load(places[0] * P), Ok(byte_of(places[0])));
            drop(page);
            w.vm.validate().unwrap();
        });
    }
}

/// Ends the other threads, also when this one panics.
struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn mappings_move_together_with_the_holes_between_them() {
    World::run(|w| {
        let mm = w.vm.new_mm().unwrap();
        map(&mm, pages(16, 4));
        mm.mprotect(pages(18, 2), Prot::READ).unwrap();
        map(&mm, pages(22, 2));
        map(&mm, pages(104, 4));
        mm.store(17 * P, 1).unwrap();
        mm.store(23 * P, 2).unwrap();
        mm.store(105 * P, 3).unwrap();
        assert_eq!(remap(&mm, 17, 7, 7, FIXED, 101), Ok(101));
        assert_eq!(
            ranges(&mm),
            [(16, 1), (101, 1), (102, 2), (104, 2), (106, 2)],
            "the hole at the new place is none"
        );
        assert_eq!((mm.load(101 * P), mm.load(105 * P), mm.load(107 * P)), (Ok(1), Ok(3), Ok(2)));
        assert_eq!(
            remap(&mm, 101, 3, 3, FIXED, 102),
            Err(Error::Invalid("the old and the new place overlap"))
        );
        w.vm.validate().unwrap();
    });
}

#[test]
fn a_move_of_several_that_finds_no_memory_loses_none() {
    for first in 1..12 {
        World::run(|w| {
            let mm = w.vm.new_mm().unwrap();
            let places = [16, 16 + TABLE, 16 + 2 * TABLE];
            for page in places {
                map(&mm, pages(page, 1));
                mm.store(page * P, byte_of(page)).unwrap();
            }
            let (len, far) = (2 * TABLE + 1, 1 << 20);
            w.failures.set(anonmem_hosted::FailurePlan::From(first));
            let _ = remap(&mm, 16, len, len, FIXED, 16 + far);
            w.failures.set(anonmem_hosted::FailurePlan::Off);
            w.vm.validate().unwrap();
            for page in places {
                let found = [page, page + far].map(|page| mm.load(page * P));
                let byte = Ok(byte_of(page));
                assert!(found.contains(&byte) && found.iter().any(Result::is_err), "{page}: {found:?}");
            }
        });
    }
}

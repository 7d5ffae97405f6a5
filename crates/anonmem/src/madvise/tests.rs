//! Advice, one kind after another, on the hosted testing machine.

use super::Advice;
use crate::{
    Config, Error, LockMode, MapBacking, MapFlags, Mm, MmapRequest, Populate, Prot, VmFlags,
    testing::{M, P, RW, World, pages},
    vma::Backing,
};
use anonmem_hal::{Va, VaRange};
use anonmem_hosted::{FailurePlan, Trap};
use core::ops::ControlFlow;
use std::vec;

fn map(mm: &Mm<'_, M>, range: VaRange) {
    let (prot, flags) = (Prot::READ | Prot::WRITE, MapFlags::FIXED);
    let backing = MapBacking::Anonymous;
    mm.mmap(MmapRequest { addr: range.start, len: range.len(), prot, flags, backing }).unwrap();
}

fn written(mm: &Mm<'_, M>, range: VaRange) {
    map(mm, range);
    range.iter_pages().for_each(|va| mm.store(va.0, 1).unwrap());
}

fn advise(mm: &Mm<'_, M>, page: u64, n: u64, advice: Advice) -> Result<(), Error> {
    mm.madvise(Va(page * P), n * P, advice)
}

fn is_invalid(result: Result<(), Error>) -> bool {
    matches!(result, Err(Error::Invalid(_)))
}

#[test]
fn pages_are_dropped_while_somebody_changes_other_mappings() {
    for lock_mode in [LockMode::Vma, LockMode::Speculative] {
        World::run_with(Config { lock_mode, ..Config::default() }, |w| {
            let mm = w.vm.new_mm().unwrap();
            written(&mm, pages(16, 4));
            let writer = mm.write();
            advise(&mm, 17, 2, Advice::DontNeed).unwrap();
            drop(writer);
            assert_eq!([16, 17, 18, 19].map(|page| mm.load(page * P).unwrap()), [1, 0, 0, 1]);
            assert_eq!(advise(&mm, 19, 2, Advice::DontNeed), Err(Error::NotMapped), "beyond the mapping");
            assert_eq!(mm.load(19 * P), Ok(0), "what is mapped was dropped");
        });
    }
}

#[test]
fn dropped_pages_start_afresh_on_every_cpu() {
    World::run(|w| {
        let mm = w.vm.new_mm().unwrap();
        written(&mm, pages(16, 4));
        let (user, mut byte) = (mm.user(), [9]);
        user.store(Va(17 * P), &[7]).unwrap();
        advise(&mm, 17, 2, Advice::DontNeed).unwrap();
        user.load(Va(17 * P), &mut byte).unwrap();
        assert_eq!(byte, [0]);
        assert_eq!((mm.counters().anon.0, mm.load(19 * P)), (2, Ok(1)));
        let source = w.sources.register(vec![5; 2 * P as usize]);
        mm.map_raw(pages(40, 2), RW, Backing::Source(source));
        user.store(Va(40 * P), &[7]).unwrap();
        advise(&mm, 40, 1, Advice::DontNeed).unwrap();
        assert_eq!(mm.load(40 * P), Ok(5));
    });
}

#[test]
fn holes_are_told_after_the_rest_is_done() {
    World::run(|w| {
        let mm = w.vm.new_mm().unwrap();
        written(&mm, pages(16, 2));
        written(&mm, pages(20, 2));
        for advice in [Advice::DontNeed, Advice::DontFork, Advice::Normal, Advice::Cold, Advice::WillNeed] {
            assert_eq!(advise(&mm, 16, 6, advice), Err(Error::NotMapped), "{advice:?}");
            assert_eq!(advise(&mm, 15, 2, advice), Err(Error::NotMapped), "{advice:?}");
        }
        assert_eq!(mm.counters().anon.0, 0);
        assert!(mm.layout().iter().all(|(_, flags)| flags.contains(VmFlags::DONTCOPY)));
        assert_eq!(advise(&mm, 16, 0, Advice::DontNeed), Ok(()));
        assert!(is_invalid(mm.madvise(Va(16 * P + 1), P, Advice::Normal)));
        assert!(is_invalid(mm.madvise(Va(16 * P), u64::MAX, Advice::Normal)));
    });
}

#[test]
fn locked_pages_are_not_dropped() {
    World::run(|w| {
        let mm = w.vm.new_mm().unwrap();
        written(&mm, pages(16, 2));
        mm.mlock(Va(16 * P), 2 * P).unwrap();
        for advice in [Advice::DontNeed, Advice::Free, Advice::Cold, Advice::PageOut, Advice::GuardInstall] {
            assert!(is_invalid(advise(&mm, 16, 2, advice)), "{advice:?}");
        }
        advise(&mm, 16, 1, Advice::DontNeedLocked).unwrap();
        assert_eq!(mm.counters().anon.0, 1);
        advise(&mm, 16, 1, Advice::GuardRemove).unwrap();
    });
}

#[test]
fn a_page_freed_lazily_is_safe_again_once_it_is_written() {
    World::run(|w| {
        let mm = w.vm.new_mm().unwrap();
        written(&mm, pages(16, 2));
        let user = mm.user();
        // The translation that is cached here says "dirty": only a flush makes the next store set the bit
        // again.
        user.store(Va(16 * P), &[2]).unwrap();
        advise(&mm, 16, 2, Advice::Free).unwrap();
        let lazy = |page: u64| {
            let entry = mm.pagemap(Va(page * P));
            let folio = w.vm.frames.folio(entry.pfn.unwrap()).unwrap();
            folio.is_lazyfree() && !entry.dirty
        };
        assert!(lazy(16) && lazy(17));
        user.store(Va(16 * P), &[3]).unwrap();
        assert!(!lazy(16) && lazy(17));
        assert_eq!(mm.load(16 * P), Ok(3));
        let child = mm.fork().unwrap();
        advise(&mm, 16, 2, Advice::Free).unwrap();
        assert!(!lazy(16), "a child has it, too");
        assert_eq!(child.load(16 * P), Ok(3));
        let mut lazy_bytes = 0;
        mm.for_each_vma_usage(Va(0), &mut |_, usage| {
            lazy_bytes += usage.lazy_free;
            ControlFlow::Continue(())
        });
        assert_eq!(lazy_bytes, P);
        mm.map_raw(pages(40, 1), RW, Backing::Source(w.sources.register([1].as_slice())));
        assert!(is_invalid(advise(&mm, 40, 1, Advice::Free)));
    });
}

#[test]
fn a_child_gets_what_it_was_advised_to() {
    World::run(|w| {
        let mm = w.vm.new_mm().unwrap();
        written(&mm, pages(16, 6));
        advise(&mm, 16, 2, Advice::DontFork).unwrap();
        advise(&mm, 18, 2, Advice::WipeOnFork).unwrap();
        let child = mm.fork().unwrap();
        let seen = |mm: &Mm<'_, M>| [16, 18, 20].map(|page| mm.load(page * P));
        assert_eq!(seen(&child), [Err(Trap::Unmapped), Ok(0), Ok(1)]);
        assert_eq!(seen(&mm), [Ok(1); 3]);
        drop(child);
        advise(&mm, 16, 6, Advice::DoFork).unwrap();
        advise(&mm, 16, 6, Advice::KeepOnFork).unwrap();
        assert_eq!(mm.layout().len(), 1, "what is alike again is one again");
        assert_eq!(seen(&mm.fork().unwrap()), [Ok(1); 3]);
        let source = w.sources.register([1].as_slice());
        mm.map_raw(pages(40, 1), RW, Backing::Source(source));
        assert!(is_invalid(advise(&mm, 40, 1, Advice::WipeOnFork)));
    });
}

#[test]
fn huge_and_no_huge_exclude_each_other() {
    World::run(|w| {
        let mm = w.vm.new_mm().unwrap();
        map(&mm, pages(16, 6));
        let huge = VmFlags::HUGEPAGE | VmFlags::NOHUGEPAGE;
        advise(&mm, 16, 6, Advice::HugePage).unwrap();
        assert_eq!(mm.layout()[0].1 & huge, VmFlags::HUGEPAGE);
        advise(&mm, 16, 6, Advice::NoHugePage).unwrap();
        assert_eq!(mm.layout()[0].1 & huge, VmFlags::NOHUGEPAGE);
    });
}

#[test]
fn cold_pages_are_not_young() {
    World::run(|w| {
        let mm = w.vm.new_mm().unwrap();
        written(&mm, pages(16, 2));
        let user = mm.user();
        user.store(Va(16 * P), &[1]).unwrap();
        advise(&mm, 16, 2, Advice::Cold).unwrap();
        assert!(!mm.pagemap(Va(16 * P)).young);
        user.store(Va(16 * P), &[1]).unwrap();
        assert!(mm.pagemap(Va(16 * P)).young, "the translation was flushed, so the bit is set again");
        assert_eq!(advise(&mm, 16, 2, Advice::PageOut), Ok(()));
        assert_eq!(mm.counters().anon.0, 2);
    });
}

#[test]
fn pages_that_are_sent_away_come_back_and_those_in_swap_are_freed_at_once() {
    World::run(|w| {
        w.vm.swap_on(0, 64, 0).unwrap();
        let mm = w.vm.new_mm().unwrap();
        written(&mm, pages(16, 4));
        let child = mm.fork().unwrap();
        child.store(17 * P, 5).unwrap();
        advise(&child, 16, 4, Advice::PageOut).unwrap();
        assert_eq!(child.counters().swap.0, 1, "what the parent maps, too, stays");
        let mut swapped = 0;
        child.for_each_vma_usage(Va(0), &mut |_, usage| {
            swapped += usage.swap;
            ControlFlow::Continue(())
        });
        assert_eq!(swapped, P);
        assert_eq!(child.load(17 * P), Ok(5));
        advise(&child, 17, 1, Advice::PageOut).unwrap();
        advise(&child, 17, 1, Advice::Free).unwrap();
        assert_eq!((child.counters().swap.0, child.load(17 * P)), (0, Ok(0)));
        drop((mm, child));
        w.vm.swap_off(0).unwrap();
        assert_eq!(w.swap.stored(), 0);
    });
}

#[test]
fn a_freed_page_is_dropped_by_reclaim_unless_it_was_written() {
    World::run(|w| {
        let mm = w.vm.new_mm().unwrap();
        written(&mm, pages(16, 2));
        advise(&mm, 16, 2, Advice::Free).unwrap();
        mm.store(16 * P, 2).unwrap();
        advise(&mm, 16, 2, Advice::PageOut).unwrap();
        assert_eq!([16, 17].map(|page| mm.load(page * P)), [Ok(2), Ok(0)]);
    });
}

#[test]
fn populating_is_advice_with_errors_of_its_own() {
    World::run(|w| {
        let mm = w.vm.new_mm().unwrap();
        map(&mm, pages(16, 4));
        advise(&mm, 16, 2, Advice::PopulateWrite).unwrap();
        assert_eq!(mm.counters().anon.0, 2);
        assert_eq!(advise(&mm, 16, 5, Advice::PopulateRead), Err(Error::NotMapped));
        advise(&mm, 17, 1, Advice::GuardInstall).unwrap();
        assert_eq!(advise(&mm, 16, 4, Advice::PopulateRead), Err(Error::BadAddress));
        mm.mprotect(pages(16, 1), Prot::READ).unwrap();
        assert!(is_invalid(advise(&mm, 16, 1, Advice::PopulateWrite)));
    });
}

#[test]
fn a_punched_object_reads_as_zeroes_for_everybody() {
    World::run(|w| {
        let (one, two) = (w.vm.new_mm().unwrap(), w.vm.new_mm().unwrap());
        let object = w.vm.shm_new(4).unwrap();
        let flags = (RW - VmFlags::ACCOUNT) | VmFlags::SHARED;
        for mm in [&one, &two] {
            mm.map_raw(pages(16, 4), flags, Backing::Shared(object.id()));
        }
        drop(object);
        (16..20).for_each(|page| one.store(page * P, 1).unwrap());
        assert_eq!(two.load(17 * P), Ok(1));
        let pages_before = w.vm.stats().user;
        advise(&one, 17, 2, Advice::Remove).unwrap();
        assert_eq!(pages_before - w.vm.stats().user, 1, "the page that nobody else maps is free");
        assert_eq!([16, 17, 18, 19].map(|page| one.load(page * P)), [Ok(1), Ok(0), Ok(0), Ok(1)]);
        assert_eq!(two.load(17 * P), Ok(0));
        two.store(17 * P, 2).unwrap();
        assert_eq!(one.load(17 * P), Ok(2), "it is the same page for both");
        map(&one, pages(40, 1));
        assert!(is_invalid(advise(&one, 40, 1, Advice::Remove)));
        let source = w.sources.register([1].as_slice());
        one.map_raw(pages(50, 1), RW, Backing::Source(source));
        assert_eq!(advise(&one, 50, 1, Advice::Remove), Err(Error::AccessDenied));
    });
}

#[test]
fn a_guard_traps_until_it_is_removed() {
    World::run(|w| {
        let mm = w.vm.new_mm().unwrap();
        written(&mm, pages(510, 4));
        map(&mm, pages(520, 600));
        let user = mm.user();
        user.store(Va(511 * P), &[7]).unwrap();
        advise(&mm, 511, 2, Advice::GuardInstall).unwrap();
        advise(&mm, 520, 600, Advice::GuardInstall).unwrap();
        assert_eq!(user.store(Va(511 * P), &[7]), Err(Trap::Unmapped));
        assert_eq!((user.load(Va(510 * P), &mut [0]), mm.counters().anon.0), (Ok(()), 2));
        advise(&mm, 511, 2, Advice::GuardInstall).unwrap();
        advise(&mm, 510, 4, Advice::DontNeed).unwrap();
        assert_eq!(mm.load(512 * P), Err(Trap::Unmapped), "contents go, guards stay");
        assert!(mm.pagemap(Va(512 * P)).guard && !mm.pagemap(Va(513 * P)).guard);
        let child = mm.fork().unwrap();
        assert_eq!(
            [512, 600, 513].map(|page| child.load(page * P)),
            [Err(Trap::Unmapped), Err(Trap::Unmapped), Ok(0)]
        );
        advise(&mm, 510, 2, Advice::GuardRemove).unwrap();
        assert_eq!([511, 512].map(|page| mm.load(page * P)), [Ok(0), Err(Trap::Unmapped)]);
        mm.munmap(pages(512, 1)).unwrap();
        map(&mm, pages(512, 1));
        assert_eq!(mm.load(512 * P), Ok(0), "unmapping ends a guard");
    });
}

#[test]
fn guards_in_shared_memory_are_each_address_space_s_own() {
    World::run(|w| {
        let mm = w.vm.new_mm().unwrap();
        let object = w.vm.shm_new(4).unwrap();
        mm.map_raw(pages(16, 4), (RW - VmFlags::ACCOUNT) | VmFlags::SHARED, Backing::Shared(object.id()));
        drop(object);
        mm.populate(pages(16, 4), Populate::Write).unwrap();
        mm.store(18 * P, 3).unwrap();
        let before = mm.fork().unwrap();
        advise(&mm, 17, 1, Advice::GuardInstall).unwrap();
        let after = mm.fork().unwrap();
        assert_eq!((mm.load(17 * P), after.load(17 * P)), (Err(Trap::Unmapped), Err(Trap::Unmapped)));
        assert_eq!((before.load(17 * P), after.load(18 * P)), (Ok(0), Ok(3)));
        w.vm.validate().unwrap();
    });
}

#[test]
fn advice_that_runs_out_of_memory_can_be_given_again() {
    for advice in [Advice::GuardInstall, Advice::DontFork, Advice::PopulateWrite] {
        World::run(|w| {
            let failed = w.fail_each_allocation(
                || {
                    let mm = w.vm.new_mm().unwrap();
                    map(&mm, pages(510, 6));
                    mm
                },
                |mm| advise(mm, 511, 3, advice),
                |mm, error| {
                    assert!(matches!(error, Error::OutOfMemory | Error::Again));
                    w.vm.validate().unwrap();
                    advise(mm, 511, 3, advice).unwrap();
                },
            );
            assert!(failed > 1, "{advice:?}: {failed}");
            w.failures.set(FailurePlan::Off);
        });
    }
}

#[test]
fn numbers_are_those_of_linux() {
    for (number, advice) in [(0, Advice::Normal), (8, Advice::Free), (24, Advice::DontNeedLocked)] {
        assert_eq!(Advice::from_number(number), Some(advice));
    }
    assert!(Advice::ALL.into_iter().all(|advice| Advice::from_number(advice as u32) == Some(advice)));
    assert_eq!((Advice::from_number(5), Advice::from_number(102)), (None, Some(Advice::GuardInstall)));
}

//! Pages of shared objects leave and return, in each lock mode.

use crate::{
    Advice, Config, Error, Event, FillMode, LockMode, Mm, PinFlags, Populate, RegisterMode, SharedObject,
    UffdFaults, UffdFeatures, VmFlags, VmaUsage,
    reclaim::shrink::{Age, PageoutBatch, Shrunk},
    testing::{M, P, RW, World, pages},
    vma::Backing,
};
use anonmem_frame::FolioRef;
use anonmem_hal::{Va, VaRange};
use anonmem_hosted::Trap;
use core::ops::ControlFlow;
use std::vec::Vec;

const SHARED: VmFlags = RW.union(VmFlags::SHARED).difference(VmFlags::ACCOUNT);
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

/// Two programs that map the `n` pages of an object at pages 16 and 80; the first has stored `i + 1` in the
/// page with index `i`.
fn two_programs(w: &World, n: u64) -> (SharedObject<'_, M>, Mm<'_, M>, Mm<'_, M>) {
    let object = w.vm.shm_new_sparse(n).unwrap();
    let (one, two) = (w.vm.new_mm().unwrap(), w.vm.new_mm().unwrap());
    one.map_raw(pages(16, n), SHARED, Backing::Shared(object.id()));
    two.map_raw(pages(80, n), SHARED, Backing::Shared(object.id()));
    (0..n).for_each(|nth| one.store((16 + nth) * P, nth as u8 + 1).unwrap());
    (object, one, two)
}

fn page_of<'a>(w: &'a World, mm: &Mm<'_, M>, page: u64) -> FolioRef<'a, M> {
    w.vm.frames.try_get(mm.pagemap(Va(page * P)).pfn.expect("present")).expect("mapped")
}

/// Makes a page leave that a program has mapped.
fn page_out(w: &World, mm: &Mm<'_, M>, page: u64) -> bool {
    w.vm.reclaim_folio(page_of(w, mm, page))
}

#[test]
fn a_page_leaves_everybody_and_all_find_it_again() {
    in_every_mode(|w| {
        let (object, one, two) = two_programs(w, 3);
        assert_eq!(two.load(81 * P), Ok(2));
        assert!(page_out(w, &one, 17));
        assert_eq!((object.resident(), object.swapped(), object.pages()), (2, 1, 3));
        assert_eq!((one.counters().shared.0, two.counters().shared.0), (2, 0));
        assert_eq!((one.counters().swap.0, w.swap.stored(), w.vm.shared_pages()), (0, 1, 2));
        assert!(!one.pagemap(Va(17 * P)).present() && !one.pagemap(Va(17 * P)).swapped);
        w.vm.validate().unwrap();
        two.store(81 * P, 77).unwrap();
        assert_eq!((one.load(17 * P), object.swapped(), w.swap.stored()), (Ok(77), 0, 0));
        assert_eq!((w.vm.stats().event(Event::SwapIn), w.vm.stats().event(Event::SwapOut)), (1, 1));
        w.vm.validate().unwrap();
    });
}

#[test]
fn what_is_mapped_by_nobody_leaves_and_goes_with_its_object() {
    in_every_mode(|w| {
        for sparse in [true, false] {
            let object = if sparse { w.vm.shm_new_sparse(4) } else { w.vm.shm_new(4) }.unwrap();
            let mm = w.vm.new_mm().unwrap();
            mm.map_raw(pages(16, 3), SHARED, Backing::Shared(object.id()));
            (16..19).for_each(|page| mm.store(page * P, 7).unwrap());
            drop(mm);
            (0..3).for_each(|index| assert!(w.vm.reclaim_folio(object.page_at(index).unwrap())));
            assert_eq!((object.swapped(), w.swap.stored()), (3, 3));
            w.vm.validate().unwrap();
            object.page_at(1).unwrap();
            assert_eq!((object.swapped(), object.resident()), (2, 1));
            drop(object);
            assert_eq!(w.swap.stored(), 0);
            w.vm.validate().unwrap();
        }
    });
}

#[test]
fn short_memory_takes_pages_of_objects_and_every_byte_is_right() {
    in_every_mode(|w| {
        w.vm.swap_on(1, 8192, 0).unwrap();
        let n = 3 * w.vm.stats().frames / 2;
        let object = w.vm.shm_new_sparse(n).unwrap();
        let (one, two) = (w.vm.new_mm().unwrap(), w.vm.new_mm().unwrap());
        one.map_raw(pages(16, n), SHARED, Backing::Shared(object.id()));
        two.map_raw(pages(16 + n, n), SHARED, Backing::Shared(object.id()));
        let byte = |nth: u64| (nth % 251) as u8;
        (0..n).for_each(|nth| one.store((16 + nth) * P, byte(nth)).unwrap());
        (0..n).for_each(|nth| assert_eq!(two.load((16 + n + nth) * P), Ok(byte(nth)), "{nth}"));
        (0..n).rev().for_each(|nth| assert_eq!(one.load((16 + nth) * P), Ok(byte(nth)), "{nth}"));
        assert!(object.swapped() > n / 4, "{}", object.swapped());
        w.vm.validate().unwrap();
        drop((one, two, object));
        w.vm.swap_off(1).unwrap();
    });
}

#[test]
fn a_page_leaves_that_nobody_used_twice_in_a_row() {
    in_every_mode(|w| {
        let (object, one, two) = two_programs(w, 1);
        two.load(80 * P).unwrap();
        let at = one.pagemap(Va(16 * P)).pfn.unwrap();
        let pass = || {
            let mut batch = PageoutBatch::new(&w.vm);
            let said = batch.add(w.vm.frames.try_get(at).unwrap(), Age::Idle);
            batch.finish();
            said
        };
        assert_eq!([pass(), pass()], [Shrunk::Used, Shrunk::Used]);
        two.load(80 * P).unwrap();
        assert_eq!([pass(), pass()], [Shrunk::Used, Shrunk::Used], "another has used it");
        assert_eq!((one.counters().shared.0, two.counters().shared.0), (0, 1), "the other's entry stays");
        drop(object.page_at(0));
        assert_eq!([pass(), pass()], [Shrunk::Used, Shrunk::Used], "it was looked for by its index");
        assert_eq!((pass(), object.swapped()), (Shrunk::Leaving, 1));
        assert_eq!((one.load(16 * P), two.load(80 * P)), (Ok(1), Ok(1)));
    });
}

#[test]
fn pages_that_somebody_has_stay() {
    in_every_mode(|w| {
        let (object, one, two) = two_programs(w, 4);
        let pin = one.pin(pages(16, 1), PinFlags::WRITE).unwrap();
        assert!(!page_out(w, &one, 16), "pinned");
        drop(pin);
        let held = page_of(w, &one, 16);
        one.load(16 * P).unwrap();
        assert!(!page_out(w, &one, 16), "in use");
        drop(held);
        let looked = one.look(Va(16 * P), PinFlags::empty()).unwrap();
        let page = w.vm.frames.try_get(looked.page()).unwrap();
        assert!(!w.vm.reclaim_folio(page), "looked at");
        drop(looked);
        two.mlock(Va(82 * P), P).unwrap();
        assert!(!page_out(w, &one, 18), "locked by another");
        let watcher = two.userfaultfd(UffdFaults::Any).unwrap();
        watcher.agree(UffdFeatures::empty()).unwrap();
        watcher.register(Va(83 * P), P, RegisterMode::MINOR | RegisterMode::MISSING).unwrap();
        assert!(page_out(w, &one, 19), "watched, and not mapped there");
        drop(watcher);
        two.load(83 * P).unwrap();
        let watcher = two.userfaultfd(UffdFaults::Any).unwrap();
        watcher.agree(UffdFeatures::empty()).unwrap();
        watcher.register(Va(83 * P), P, RegisterMode::MINOR).unwrap();
        one.load(19 * P).unwrap();
        assert!(!page_out(w, &one, 19), "watched");
        drop(watcher);
        object.keep_pages();
        one.load(17 * P).unwrap();
        assert!(!page_out(w, &one, 17), "SHM_LOCK");
        object.release_pages();
        one.load(17 * P).unwrap();
        assert!(page_out(w, &one, 17));
        w.vm.validate().unwrap();
    });
}

#[test]
fn a_mapping_that_is_locked_keeps_a_page_whose_entry_is_gone() {
    in_every_mode(|w| {
        let (_object, one, two) = two_programs(w, 1);
        two.mlock(Va(80 * P), P).unwrap();
        // The move drops the entries of all mappings.
        assert!(w.vm.migrate_folio(page_of(w, &one, 16)).is_ok());
        one.load(16 * P).unwrap();
        assert!(!page_out(w, &one, 16));
        two.munlock(Va(80 * P), P).unwrap();
        one.load(16 * P).unwrap();
        assert!(page_out(w, &one, 16));
    });
}

#[test]
fn holes_and_ends_free_the_slots() {
    in_every_mode(|w| {
        let (object, one, two) = two_programs(w, 6);
        (16..22).for_each(|page| assert!(page_out(w, &one, page)));
        assert_eq!((w.swap.stored(), w.vm.stats().committed), (6, 6));
        one.madvise(Va(17 * P), P, Advice::Remove).unwrap();
        assert_eq!((w.swap.stored(), w.vm.stats().committed, one.load(17 * P)), (5, 5, Ok(0)));
        w.vm.validate().unwrap();
        object.resize(3).unwrap();
        assert_eq!((object.swapped(), w.swap.stored(), two.load(83 * P)), (2, 2, Err(Trap::Bus)));
        object.resize(6).unwrap();
        assert_eq!((two.load(83 * P), two.load(82 * P)), (Ok(0), Ok(3)));
        w.vm.validate().unwrap();
    });
}

#[test]
fn who_looks_finds_what_linux_shows() {
    in_every_mode(|w| {
        let (object, one, two) = two_programs(w, 4);
        (16..19).for_each(|page| assert!(page_out(w, &one, page)));
        let in_core = |mm: &Mm<'_, M>, first: u64| {
            let mut told = Vec::new();
            mm.mincore(Va(first * P), 4 * P, &mut |is| told.push(is)).unwrap();
            told
        };
        assert_eq!(in_core(&two, 80), [false, false, false, true]);
        let mut usage = VmaUsage::default();
        two.for_each_vma_usage(Va(0), &mut |_, found| {
            usage = *found;
            ControlFlow::Continue(())
        });
        assert_eq!((usage.swap, usage.swap_shared, usage.rss), (3 * P, 3 * P, 0));
        assert_eq!((two.counters().swap.0, object.has_page(0)), (0, true));
        assert_eq!(object.lookup(1).unwrap().map(|page| page.folio().index()), Some(1));
        assert!(object.lookup(4).unwrap().is_none());
        two.populate(pages(82, 1), Populate::Write).unwrap();
        assert_eq!((object.swapped(), in_core(&two, 80)), (1, [false, true, true, true].to_vec()));
        two.madvise(Va(80 * P), 4 * P, Advice::WillNeed).unwrap();
        assert_eq!((object.swapped(), two.load(80 * P)), (0, Ok(1)));
        // What two map stays; what one maps leaves, under the lock of the one who asks.
        two.load(81 * P).unwrap();
        one.load(17 * P).unwrap();
        two.madvise(Va(80 * P), 2 * P, Advice::PageOut).unwrap();
        assert_eq!(in_core(&one, 16), [false, true, true, true]);
        w.vm.validate().unwrap();
    });
}

#[test]
fn a_userfaultfd_finds_that_the_object_has_the_page() {
    in_every_mode(|w| {
        let (_object, one, two) = two_programs(w, 3);
        (16..19).for_each(|page| assert!(page_out(w, &one, page)));
        let watcher = two.userfaultfd(UffdFaults::Any).unwrap();
        watcher.agree(UffdFeatures::empty()).unwrap();
        watcher.register(Va(80 * P), 3 * P, RegisterMode::MISSING | RegisterMode::MINOR).unwrap();
        let copied = watcher.copy(Va(80 * P), P, FillMode::empty(), &mut |_, page| {
            page.write(0, &[9]);
            Ok(())
        });
        assert_eq!(copied.result(), Err(Error::Exists));
        assert_eq!(watcher.zeropage(Va(80 * P), P, FillMode::empty()).result(), Err(Error::Exists));
        assert_eq!(watcher.resume(Va(81 * P), P, FillMode::empty()).result(), Ok(()));
        assert_eq!(two.load(81 * P), Ok(2));
        watcher.unregister(Va(80 * P), 3 * P).unwrap();
        assert_eq!((two.load(80 * P), two.load(82 * P)), (Ok(1), Ok(3)));
        w.vm.validate().unwrap();
    });
}

#[test]
fn swapoff_brings_pages_of_objects_back() {
    in_every_mode(|w| {
        w.vm.swap_on(1, 64, 9).unwrap();
        let (object, one, two) = two_programs(w, 20);
        (16..36).for_each(|page| assert!(page_out(w, &one, page)));
        assert_eq!(object.swapped(), 20);
        w.vm.swap_off(1).unwrap();
        assert_eq!((object.swapped(), object.resident()), (0, 20));
        (0..20).for_each(|nth| assert_eq!(two.load((80 + nth) * P), Ok(nth as u8 + 1)));
        w.vm.validate().unwrap();
    });
}

#[test]
fn a_page_that_cannot_be_read_is_lost_and_no_other() {
    in_every_mode(|w| {
        w.vm.swap_on(1, 64, 9).unwrap();
        let (object, one, two) = two_programs(w, 2);
        (16..18).for_each(|page| assert!(page_out(w, &one, page)));
        w.swap.fail_every_read(1);
        assert_eq!((two.load(80 * P), object.swapped()), (Err(Trap::Bus), 2));
        assert!(matches!(object.lookup(0), Err(Error::Io)));
        w.swap.fail_every_read(0);
        assert_eq!((two.load(80 * P), object.swapped()), (Ok(1), 1));
        w.swap.fail_every_read(1);
        w.vm.swap_off(1).unwrap();
        w.swap.fail_every_read(0);
        w.vm.validate().unwrap();
        assert_eq!((one.load(17 * P), one.load(16 * P)), (Err(Trap::Bus), Ok(1)));
        assert!(matches!(object.page_at(1), Err(Error::Io)));
        one.madvise(Va(17 * P), P, Advice::Remove).unwrap();
        assert_eq!(one.load(17 * P), Ok(0));
    });
}

#[test]
fn a_page_that_cannot_be_written_stays_the_objects() {
    in_every_mode(|w| {
        let (object, one, two) = two_programs(w, 1);
        w.swap.fail_every_write(1);
        assert!(!page_out(w, &one, 16));
        w.swap.fail_every_write(0);
        w.vm.validate().unwrap();
        assert_eq!((object.resident(), object.swapped(), two.load(80 * P)), (1, 0, Ok(1)));
        assert!(page_out(w, &two, 80));
    });
}

#[test]
fn seals_and_pages_that_move_take_swapped_pages_for_what_they_are() {
    in_every_mode(|w| {
        let (object, one, _two) = two_programs(w, 2);
        assert!(page_out(w, &one, 16));
        assert!(!object.is_held());
        assert!(w.vm.migrate_folio(page_of(w, &one, 17)).is_ok());
        let child = one.fork().unwrap();
        child.store(16 * P, 5).unwrap();
        assert_eq!((one.load(16 * P), one.load(17 * P)), (Ok(5), Ok(2)));
        one.munmap(VaRange { start: Va(16 * P), end: Va(18 * P) }).unwrap();
        assert!(page_out(w, &child, 16));
        w.vm.validate().unwrap();
    });
}

#[test]
fn a_hole_by_index_is_as_one_by_address() {
    in_every_mode(|w| {
        let (object, one, two) = two_programs(w, 4);
        assert!(page_out(w, &one, 17));
        assert_eq!(two.load(82 * P), Ok(3));
        object.punch(1..3);
        assert_eq!(
            (object.pages(), object.swapped(), w.swap.stored()),
            (3, 0, 0),
            "one is mapped, and stays"
        );
        assert_eq!([80, 81, 82, 83].map(|page| two.load(page * P)), [Ok(1), Ok(0), Ok(0), Ok(4)]);
        object.punch(3..u64::MAX);
        object.punch(u64::MAX - 1..u64::MAX);
        assert_eq!(one.load(19 * P), Ok(0));
        w.vm.validate().unwrap();
    });
}

//! MOVE of large folios and of leaves: whole where both windows allow it, split where not.

use super::at;
use crate::{
    Advice, Config, Error, Event, FolioMode, FolioPolicy, LockMode, Mm, MoveLocks, MoveMode, PinFlags,
    RegisterMode, Uffd, UffdFaults, UffdFeatures, VmaUsage,
    rmap::referenced::folio_referenced,
    testing::{M, P, RW, World, pages},
    vma::vma::Backing,
};
use anonmem_hal::{Order, Va, VaRange};
use core::ops::ControlFlow;

const NONE: MoveMode = MoveMode::empty();
/// Pages of a leaf; the first pages of the source and of the destination.
const N: u64 = 512;
const FROM: u64 = 2 * N;
const TO: u64 = 8 * N;

fn each_way(order: u8, f: impl Fn(&World)) {
    let folios = FolioPolicy::default().with(Order::new(order), FolioMode::Always);
    for move_locks in [MoveLocks::AnonVma, MoveLocks::Folio] {
        for lock_mode in [LockMode::Mmap, LockMode::Vma, LockMode::Speculative] {
            World::run_with(Config { move_locks, lock_mode, folios, ..Config::default() }, |w| {
                f(w);
                w.vm.validate().unwrap();
            });
        }
    }
}

/// Two leaves' worth of memory in each of two mappings, of which the second is watched.
fn two(w: &World) -> (Mm<'_, M>, Uffd<'_, M>) {
    let mm = w.vm.new_mm().unwrap();
    mm.map_raw(pages(FROM, 2 * N), RW, Backing::Anonymous);
    mm.map_raw(pages(TO, 2 * N), RW, Backing::Anonymous);
    let uffd = mm.userfaultfd(UffdFaults::Any).unwrap();
    uffd.agree(UffdFeatures::empty()).unwrap();
    uffd.register(at(TO), 2 * N * P, RegisterMode::MISSING).unwrap();
    (mm, uffd)
}

fn order_at(w: &World, mm: &Mm<'_, M>, page: u64) -> u8 {
    w.vm.frames.folio(mm.pagemap(at(page)).pfn.unwrap()).unwrap().order().get()
}

fn byte(page: u64) -> u8 {
    (page * 7) as u8 | 1
}

fn fill(mm: &Mm<'_, M>, first: u64, n: u64) {
    (0..n).for_each(|i| mm.store((first + i) * P, byte(i)).unwrap());
}

/// The `n` pages from `first` on are those that were filled, from number `from` on.
fn check(mm: &Mm<'_, M>, first: u64, n: u64, from: u64) {
    (0..n).for_each(|i| assert_eq!(mm.load((first + i) * P), Ok(byte(from + i)), "page {i}"));
}

fn moved(uffd: &Uffd<'_, M>, to: u64, from: u64, n: u64) {
    let moved = uffd.move_pages(at(to), at(from), n * P, NONE);
    assert_eq!((moved.out(), moved.result()), ((n * P) as i64, Ok(())));
}

/// Bytes that leaves map.
fn huge(mm: &Mm<'_, M>) -> u64 {
    let mut sum = VmaUsage::default();
    mm.for_each_vma_usage(Va(0), &mut |_, usage| {
        sum = sum.plus(*usage);
        ControlFlow::Continue(())
    });
    sum.anon_huge
}

#[test]
fn a_folio_goes_whole_to_any_window_of_empty_entries() {
    for order in [1, 4, 9] {
        each_way(order, |w| {
            let (mm, uffd) = two(w);
            let n = 1 << order;
            fill(&mm, FROM, n);
            let first = mm.pagemap(at(FROM)).pfn;
            if order == 9 && huge(&mm) > 0 {
                return;
            }
            // Not aligned as before, where a table has room.
            let to = if order == 9 { TO } else { TO + 3 };
            moved(&uffd, to, FROM, n);
            assert_eq!((order_at(w, &mm, to), mm.pagemap(at(to)).pfn), (order, first));
            check(&mm, to, n, 0);
            assert!((0..n).all(|i| !mm.pagemap(at(FROM + i)).present()));
            w.vm.validate().unwrap();
            // A walk of the reverse map finds all of it at its new place.
            let folio = w.vm.frames.try_get(first.unwrap()).unwrap();
            assert_eq!(folio_referenced(&w.vm, folio.folio()).mappings, n);
            drop(folio);
            mm.munmap(pages(FROM, 2 * N)).unwrap();
            mm.store(to * P, 9).unwrap();
            assert_eq!(mm.load(to * P), Ok(9), "written without a copy");
            assert_eq!(mm.pagemap(at(to)).pfn, first);
        });
    }
}

#[test]
fn many_folios_go_whole_one_after_the_other() {
    each_way(4, |w| {
        let (mm, uffd) = two(w);
        fill(&mm, FROM, N);
        moved(&uffd, TO, FROM, N);
        assert!((0..N).step_by(16).all(|i| order_at(w, &mm, TO + i) == 4));
        check(&mm, TO, N, 0);
    });
}

#[test]
fn folios_and_single_pages_go_side_by_side() {
    each_way(4, |w| {
        let (mm, uffd) = two(w);
        let (large, single) = (w.vm.folio_policy(), FolioPolicy::default());
        for (part, policy) in (0..8).zip([large, single].into_iter().cycle()) {
            w.vm.set_folio_policy(policy);
            fill(&mm, FROM + 64 * part, 64);
        }
        // One of which a page was written, so that its entries differ in what the hardware has set.
        w.vm.set_folio_policy(large);
        fill(&mm, FROM + N, 1);
        let moves = || w.vm.stats().event(Event::UffdMove);
        let before = moves();
        moved(&uffd, TO, FROM, N + 16);
        assert_eq!(moves() - before, N + 16);
        for i in (0..N + 16).step_by(16) {
            assert_eq!(order_at(w, &mm, TO + i), if i / 64 % 2 == 0 { 4 } else { 0 }, "page {i}");
        }
        (0..8).for_each(|part| check(&mm, TO + 64 * part, 64, 0));
        check(&mm, TO + N, 1, 0);
        assert!((N + 1..N + 16).all(|i| mm.load((TO + i) * P) == Ok(0)));
    });
}

#[test]
fn a_folio_that_goes_in_part_is_split() {
    each_way(4, |w| {
        let (mm, uffd) = two(w);
        fill(&mm, FROM, 48);
        // From its middle to the middle of the next, by twos.
        moved(&uffd, TO, FROM + 8, 16);
        assert!((0..16).all(|i| order_at(w, &mm, TO + i) == 0));
        check(&mm, TO, 16, 8);
        check(&mm, FROM, 8, 0);
        assert_eq!((order_at(w, &mm, FROM), order_at(w, &mm, FROM + 32)), (0, 4));
        w.vm.validate().unwrap();
        // There is something in the window: as far as it goes.
        let some = uffd.move_pages(at(TO + 16 - 24), at(FROM + 32), 16 * P, NONE);
        assert_eq!(some.result(), Err(Error::NotFound), "outside of the mapping");
        mm.munmap(pages(TO, 8)).unwrap();
        let over = uffd.move_pages(at(TO + 8), at(FROM + 32), 16 * P, NONE);
        assert_eq!((over.out(), over.result()), (-17, Err(Error::Exists)));
        check(&mm, FROM + 32, 16, 32);
    });
}

#[test]
fn a_folio_over_two_tables_of_the_destination_is_split() {
    each_way(4, |w| {
        let (mm, uffd) = two(w);
        fill(&mm, FROM, 16);
        moved(&uffd, TO + N - 8, FROM, 16);
        check(&mm, TO + N - 8, 16, 0);
        assert_eq!(order_at(w, &mm, TO + N), 0);
    });
}

#[test]
fn a_page_of_a_folio_that_is_partly_back_from_swap_goes_alone() {
    each_way(5, |w| {
        w.vm.swap_on(0, 4096, 0).unwrap();
        let (mm, uffd) = two(w);
        fill(&mm, FROM, 32);
        w.swap.fail_every_write(1);
        mm.madvise(at(FROM), 32 * P, Advice::PageOut).unwrap();
        w.swap.fail_every_write(0);
        // What its device refuses is split into folios of 64 KiB, and those stay cached.
        assert_eq!(mm.counters().swap.0, 32, "the entries name slots");
        mm.madvise(at(FROM + 1), P, Advice::DontNeed).unwrap();
        assert_eq!(mm.load((FROM + 2) * P), Ok(byte(2)));
        assert_eq!((order_at(w, &mm, FROM + 2), mm.counters().swap.0 > 0), (4, true), "a part is back");
        moved(&uffd, TO, FROM + 2, 1);
        assert_eq!(order_at(w, &mm, TO), 0);
        w.vm.validate().unwrap();
        check(&mm, TO, 1, 2);
        check(&mm, FROM, 1, 0);
        check(&mm, FROM + 3, 29, 3);
    });
}

#[test]
fn a_folio_that_somebody_refers_to_goes_whole_all_the_same() {
    each_way(4, |w| {
        let (mm, uffd) = two(w);
        fill(&mm, FROM, 16);
        let held = w.vm.frames.try_get(mm.pagemap(at(FROM + 5)).pfn.unwrap()).unwrap();
        moved(&uffd, TO + 3, FROM, 16);
        assert_eq!((order_at(w, &mm, TO + 3), folio_referenced(&w.vm, held.folio()).mappings), (4, 16));
        drop(held);
        check(&mm, TO + 3, 16, 0);
    });
}

#[test]
fn a_folio_that_is_pinned_or_shared_stays() {
    each_way(4, |w| {
        let (mm, uffd) = two(w);
        fill(&mm, FROM, 32);
        let one = VaRange::new(at(FROM + 5), at(FROM + 6));
        let pin = mm.pin_fast(one, PinFlags::WRITE).unwrap();
        let busy = uffd.move_pages(at(TO), at(FROM), 16 * P, NONE);
        assert_eq!((busy.out(), busy.result()), (-16, Err(Error::Busy)));
        assert_eq!(w.vm.stats().event(crate::Event::UffdMovePinned), 1);
        assert_eq!(order_at(w, &mm, FROM), 4, "and is not split");
        drop(pin);
        let child = mm.fork().unwrap();
        assert_eq!(uffd.move_pages(at(TO), at(FROM), 16 * P, NONE).result(), Err(Error::Busy));
        check(&child, FROM, 32, 0);
        drop(child);
        fill(&mm, FROM, 32);
        moved(&uffd, TO, FROM, 32);
        check(&mm, TO, 32, 0);
    });
}

#[test]
fn a_leaf_goes_whole_to_an_aligned_place_without_a_table() {
    each_way(1, |w| {
        let (mm, uffd) = two(w);
        assert!(mm.fault_leaf(at(FROM)) && mm.fault_leaf(at(FROM + N)));
        fill(&mm, FROM, N);
        let first = mm.pagemap(at(FROM)).pfn;
        moved(&uffd, TO, FROM, N);
        assert_eq!((huge(&mm), mm.pagemap(at(TO)).pfn), (2 * N * P, first));
        check(&mm, TO, N, 0);
        w.vm.validate().unwrap();
        let folio = w.vm.frames.try_get(first.unwrap()).unwrap();
        assert_eq!(folio_referenced(&w.vm, folio.folio()).mappings, N);
        drop(folio);
        // The other one goes in part, and becomes a table and single pages.
        mm.store((FROM + N) * P, 5).unwrap();
        moved(&uffd, TO + N, FROM + N, 1);
        assert_eq!((huge(&mm), mm.load((TO + N) * P)), (N * P, Ok(5)));
        w.vm.validate().unwrap();
        // A leaf over something: as far as it goes, and not at all here.
        assert_eq!(uffd.move_pages(at(TO), at(FROM + N), N * P, NONE).result(), Err(Error::Exists));
        mm.munmap(pages(FROM, 2 * N)).unwrap();
        check(&mm, TO, N, 0);
    });
}

#[test]
fn a_leaf_that_is_pinned_or_shared_stays() {
    each_way(1, |w| {
        let (mm, uffd) = two(w);
        assert!(mm.fault_leaf(at(FROM)));
        fill(&mm, FROM, N);
        let pin = mm.pin_fast(VaRange::new(at(FROM + 5), at(FROM + 6)), PinFlags::WRITE).unwrap();
        assert_eq!(uffd.move_pages(at(TO), at(FROM), N * P, NONE).result(), Err(Error::Busy));
        assert_eq!(w.vm.stats().event(crate::Event::UffdMovePinned), 1);
        drop(pin);
        let child = mm.fork().unwrap();
        assert_eq!(uffd.move_pages(at(TO), at(FROM), N * P, NONE).result(), Err(Error::Busy));
        drop(child);
        fill(&mm, FROM, 1);
        moved(&uffd, TO, FROM, N);
        check(&mm, TO, N, 0);
    });
}

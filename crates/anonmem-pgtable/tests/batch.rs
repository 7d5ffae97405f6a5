//! Batches of entries, and runs of mappings, on folios of more than one page.

mod common;

use common::{M, Mmap, World};

use anonmem_frame::{FolioOwner, Kind, NewAnonPages, RawHandle};
use anonmem_hal::{CpuId, Order, PAGE_SIZE, Pfn, Protection, Pte, Va, VaRange};
use anonmem_pgtable::{AddressSpace, Attrs, Cleared, Mapped, MmuGather, NotShared, PteGuard, Teardown};

const P: u64 = PAGE_SIZE as u64;
/// The tables of the tests cover 2 MiB; these are the last eight pages of the first one.
const FIRST: u64 = 512 - 8;
const RW: Attrs =
    Attrs { prot: Protection::RW, young: true, dirty: false, uffd_wp: false, soft_clean: false };

fn va(page: u64) -> Va {
    Va((FIRST + page) * P)
}

fn range(first: u64, end: u64) -> VaRange {
    VaRange::new(va(first), va(end))
}

impl World {
    /// Runs `f` on a CPU; afterwards no frame is left.
    fn run(f: impl FnOnce(&Self)) {
        Self::run_with(256, va(8), f);
    }

    fn lock(&self) -> PteGuard<'_, M, Mmap> {
        self.space.table_alloc(&self.frames, &Mmap, va(0)).unwrap().lock()
    }

    /// A folio of four pages.
    fn four(&self) -> NewAnonPages<'_, M> {
        let new = self.frames.alloc(Order::new(2)).unwrap();
        new.into_exclusive_anon_pages(RawHandle::new(1).unwrap().into(), FIRST)
    }

    fn install(&self, attrs: impl Fn(u64) -> Attrs) -> Pfn {
        let mut entries = self.lock();
        let mut head = None;
        for (page, i) in self.four().zip(0..) {
            head.get_or_insert(page.pfn());
            entries.install(va(i), page, attrs(i));
        }
        head.unwrap()
    }

    fn clear(&self, range: VaRange, teardown: Teardown) -> u64 {
        let (mut entries, mut gather) = (self.lock(), self.gather_for(teardown));
        let (mut at, mut slots) = (range.start, gather.room());
        while at < range.end {
            let mut run = match entries.clear_for(at, teardown) {
                Cleared::Exclusive(map, _) => map.into(),
                Cleared::Shared(map, _) => anonmem_frame::MapRun::from(map),
                _ => panic!("no page at {at:?}"),
            };
            let end = entries.clear_on(&mut run, VaRange::new(at, range.end), teardown).end;
            assert_eq!(VaRange::new(at, end).pages().0, run.pages());
            gather.run(VaRange::new(at, end), run);
            at = end;
        }
        slots -= gather.room();
        drop(entries);
        gather.finish();
        slots as u64
    }
}

/// The lengths of the batches that `range` falls into.
fn lengths(entries: &PteGuard<'_, M, Mmap>, range: VaRange) -> Vec<u64> {
    let mut all = vec![];
    let mut rest = range;
    while !rest.is_empty() {
        let Some(batch) = entries.batch(rest) else { break };
        all.push(batch.pages());
        rest.start = batch.range().end;
    }
    all
}

#[test]
fn a_batch_ends_with_its_folio_its_range_and_its_table() {
    World::run(|w| {
        w.install(|_| RW);
        {
            let mut entries = w.lock();
            for (page, i) in w.four().zip(4..) {
                entries.install(va(i), page, RW);
            }
            assert_eq!(lengths(&entries, range(0, 8)), [4, 4], "the folio's end");
            assert_eq!(lengths(&entries, range(1, 8)), [3, 4]);
            assert_eq!(lengths(&entries, range(0, 3)), [3], "the VMA's end");
            assert_eq!(entries.batch(range(6, 16)).unwrap().pages(), 2, "the table's end");
        }
        assert_eq!(w.clear(range(0, 8), Teardown::Range), 2, "a folio takes one slot of the gather");
    });
}

#[test]
fn a_batch_says_one_thing_and_gathers_what_the_hardware_sets() {
    World::run(|w| {
        let differs: [(&str, Attrs, &[u64]); 4] = [
            ("permissions", Attrs { prot: Protection::R, ..RW }, &[2, 1, 1]),
            ("userfaultfd", Attrs { uffd_wp: true, ..RW }, &[2, 1, 1]),
            ("accessed", Attrs { young: false, ..RW }, &[4]),
            ("dirty", Attrs { dirty: true, ..RW }, &[4]),
        ];
        for (what, third, expected) in differs {
            w.install(|i| if i == 2 { third } else { RW });
            {
                let entries = w.lock();
                assert_eq!(lengths(&entries, range(0, 4)), expected, "{what}");
                let present = entries.batch(range(0, 4)).unwrap().present();
                assert_eq!((present.young, present.dirty), (true, third.dirty), "{what}");
            }
            w.clear(range(0, 4), Teardown::Range);
        }
    });
}

#[test]
fn frames_in_another_order_and_empty_entries_end_a_batch() {
    World::run(|w| {
        {
            let mut entries = w.lock();
            let pages: Vec<_> = w.four().collect();
            for (page, at) in pages.into_iter().zip([0, 2, 1, 5]) {
                entries.install(va(at), page, RW);
            }
            assert_eq!(lengths(&entries, range(0, 6)), [1, 1, 1]);
            assert_eq!(entries.batch(range(3, 6)), None, "there is no page");
        }
        assert_eq!(w.clear(range(0, 3), Teardown::Range), 3);
        w.clear(range(5, 6), Teardown::Range);
    });
}

#[test]
fn a_run_of_mappings_becomes_one_reference() {
    World::run(|w| {
        let head = w.install(|_| RW);
        let folio = w.frames.folio(head).unwrap();
        assert_eq!((folio.counts().maps(), w.lock().used()), (4, 4));
        let mut entries = w.lock();
        let Cleared::Exclusive(first, _) = entries.clear(va(0)) else { panic!("exclusive") };
        let mut run = first.into();
        assert_eq!(entries.clear_on(&mut run, range(0, 3), Teardown::Range).end, va(3));
        let reference = run.unmap();
        assert_eq!((folio.counts().maps(), folio.counts().refs()), (1, 1));
        drop(reference);
        drop(entries);
        w.clear(range(3, 4), Teardown::Range);
        assert_ne!(w.frames.kind(head), Kind::Folio);
        // Where nothing translates, no reference is needed while others have the folio.
        let head = w.install(|_| RW);
        let kept = w.frames.try_get(head).unwrap();
        assert_eq!(w.clear(range(0, 4), Teardown::WholeSpace), 0);
        assert_eq!((kept.folio().counts().maps(), kept.folio().counts().refs()), (0, 1));
    });
}

/// What the entries of the folio's four pages say of accessed, dirty and writable.
fn says(entries: &PteGuard<'_, M, Mmap>) -> Vec<(bool, bool, bool)> {
    let one = |i| match entries.get(va(i)) {
        Pte::Present(present) => (present.young, present.dirty, present.prot.write),
        other => panic!("{other:?} at {i}"),
    };
    (0..4).map(one).collect()
}

#[test]
fn a_run_is_filled_at_once_and_one_page_of_it_was_touched() {
    World::run(|w| {
        let untouched = Attrs { young: false, ..RW };
        for nth in 0..4 {
            let mut entries = w.lock();
            let touched = Attrs { dirty: true, ..RW };
            entries.install_pages(va(0), w.four(), untouched, Some((va(nth), touched)));
            let expected: Vec<_> = (0..4).map(|i| (i == nth, i == nth, true)).collect();
            assert_eq!((says(&entries), entries.used()), (expected, 4));
            assert!((0..4).all(|i| matches!(entries.mapped(va(i)), Mapped::Exclusive(..))));
            assert_eq!(lengths(&entries, range(0, 4)), [4], "the frames are in a row");
            drop(entries);
            w.clear(range(0, 4), Teardown::Range);
        }
        w.lock().install_pages(va(2), w.four(), untouched, None);
        assert_eq!(lengths(&w.lock(), range(2, 6)), [4]);
        w.clear(range(2, 6), Teardown::WholeSpace);
    });
}

#[test]
fn pages_that_a_run_gave_up_are_exclusive_no_more() {
    for teardown in [Teardown::Range, Teardown::WholeSpace] {
        World::run(|w| {
            let attrs = |i| match i {
                2 => Attrs { prot: Protection::R, ..RW },
                3 => Attrs { young: false, ..RW },
                _ => RW,
            };
            let head = w.install(attrs);
            let mut entries = w.lock();
            let Cleared::Exclusive(first, _) = entries.clear(va(0)) else { panic!("exclusive") };
            let mut run = first.into();
            let cleared = entries.clear_on(&mut run, range(0, 3), teardown);
            assert_eq!((cleared.end, cleared.untouched, entries.used()), (va(3), 0, 1));
            let exclusive = |i| w.frames.page_is_exclusive(head.offset(i));
            assert_eq!([1, 2, 3].map(exclusive), [false, false, true]);
            drop(run.unmap());
            assert!(!exclusive(0));
            let Cleared::Exclusive(last, _) = entries.clear(va(3)) else { panic!("exclusive") };
            drop(last.unmap());
        });
    }
}

#[test]
fn the_only_owner_takes_a_run_and_may_write_what_was_written() {
    World::run(|w| {
        for hole in [None, Some(2)] {
            let read_only = Attrs { prot: Protection::R, ..RW };
            w.install(|i| Attrs { dirty: i != 1, uffd_wp: i == 3, ..read_only });
            let child = AddressSpace::new();
            child.alloc_root(&w.frames).unwrap();
            let table = child.table_alloc(&w.frames, &Mmap, va(0)).unwrap();
            let stamp = RawHandle::new(1).unwrap().into();
            let reuse = |entries: &mut PteGuard<'_, M, Mmap>| {
                let Mapped::Shared(page, _) = entries.mapped(va(0)) else { panic!("it is shared") };
                let lock = page.try_lock().unwrap();
                entries.reuse_folio(va(0), range(0, 4), &lock, stamp, Some(Protection::RW))
            };
            {
                let mut from = w.lock();
                assert_eq!(table.lock_nested().share_range(&mut from, range(0, 4)), (va(4), Ok(())));
            }
            assert!(!reuse(&mut w.lock()), "the child has it, too");
            for i in 0..4 {
                drop(table.lock().clear(va(i)));
            }
            if let Some(hole) = hole {
                drop(w.lock().clear(va(hole)));
            }
            {
                let mut entries = w.lock();
                assert!(reuse(&mut entries));
                let writable = |i| {
                    let Mapped::Exclusive(_, present) = entries.mapped(va(i)) else { panic!("at {i}") };
                    present.prot.write
                };
                // Of the others, one was never written, and one is watched.
                let expected = [true, false, true, false];
                (0..4).filter(|&i| Some(i) != hole).for_each(|i| {
                    assert_eq!(writable(i), expected[i as usize], "page {i}, hole {hole:?}");
                });
                (0..4).for_each(|i| drop(entries.clear(va(i))));
            }
            let mut gather = MmuGather::new(&w.frames, &child, &w.rcu, &w.dead, Teardown::Range);
            child.free_tables(&mut gather, &w.frames, range(0, 8), VaRange::new(Va(0), Va(u64::MAX)));
            gather.finish();
            w.dead.drain(&w.frames, &w.rcu);
            child.free_root(&w.frames);
        }
    });
}

#[test]
#[should_panic(expected = "a mapping that is not the run's next")]
fn a_run_is_of_consecutive_pages() {
    World::run(|w| {
        let mut pages = w.four();
        let mut run = anonmem_frame::MapRun::from(pages.next().unwrap());
        drop(pages.next());
        run.push(pages.next().unwrap());
    });
}

#[test]
fn what_goes_together_is_flushed_together() {
    World::run(|w| {
        let stats = || w.frames.machine().tlbs().stats();
        w.space.activate(CpuId(0));
        w.install(|_| RW);
        let before = stats();
        w.clear(range(0, 4), Teardown::Range);
        let after = stats();
        assert_eq!(
            (after.flushes - before.flushes, after.pages - before.pages),
            (1, 4),
            "all pages of a run"
        );
        // The table is empty: what CPUs remember of it is about any of its addresses.
        let mut gather = w.gather_for(Teardown::Range);
        let all = VaRange::new(Va(0), Va(u64::MAX));
        w.space.free_tables(&mut gather, &w.frames, range(0, 8), all);
        gather.finish();
        let freed = stats();
        assert_eq!((freed.flushes - after.flushes, freed.pages - after.pages), (1, 0), "the whole space");
        w.space.deactivate(CpuId(0));
    });
}

#[test]
fn exclusive_pages_are_no_batch_with_shared_ones_that_say_the_same() {
    World::run(|w| {
        let read_only = Attrs { prot: Protection::R, ..RW };
        w.install(|_| read_only);
        assert_eq!(lengths(&w.lock(), range(0, 4)), [4]);
        let child = AddressSpace::new();
        child.alloc_root(&w.frames).unwrap();
        let table = child.table_alloc(&w.frames, &Mmap, va(0)).unwrap();
        {
            let mut from = w.lock();
            let shared = table.lock_nested().share_range(&mut from, range(0, 3));
            assert_eq!(shared, (va(3), Ok(())));
        }
        assert_eq!(lengths(&w.lock(), range(0, 4)), [3, 1]);
        for i in 0..3 {
            drop(table.lock().clear(va(i)));
        }
        w.clear(range(0, 4), Teardown::Range);
        let mut gather = MmuGather::new(&w.frames, &child, &w.rcu, &w.dead, Teardown::Range);
        child.free_tables(&mut gather, &w.frames, range(0, 8), VaRange::new(Va(0), Va(u64::MAX)));
        gather.finish();
        w.dead.drain(&w.frames, &w.rcu);
        child.free_root(&w.frames);
    });
}

#[test]
fn a_child_shares_a_large_folio_in_one_step_and_not_if_it_is_pinned() {
    World::run(|w| {
        let head = w.install(|_| RW);
        let folio = w.frames.folio(head).unwrap();
        let child = AddressSpace::new();
        child.alloc_root(&w.frames).unwrap();
        let table = child.table_alloc(&w.frames, &Mmap, va(0)).unwrap();
        let share = |range| {
            let mut from = w.lock();
            table.lock_nested().share_range(&mut from, range)
        };
        let pin = {
            let entries = w.lock();
            let Mapped::Exclusive(page, _) = entries.mapped(va(1)) else { panic!("exclusive") };
            page.pin().unwrap()
        };
        assert!(matches!(share(range(0, 4)), (at, Err(NotShared::Refused(_))) if at == va(0)));
        assert_eq!((folio.counts().maps(), w.frames.page_is_exclusive(head.offset(3))), (4, true));
        drop(pin);
        assert_eq!(share(range(0, 3)), (va(3), Ok(())));
        assert_eq!(folio.counts().maps(), 7);
        let exclusive = |i| w.frames.page_is_exclusive(head.offset(i));
        assert_eq!([exclusive(0), exclusive(2), exclusive(3)], [false, false, true]);
        assert_eq!(lengths(&w.lock(), range(0, 4)), [3, 1], "exclusive pages are no batch with shared ones");
        assert!(w.lock().batch(range(0, 4)).is_some_and(|batch| !batch.present().prot.write));
        for i in 0..3 {
            let Cleared::Shared(page, present) = table.lock().clear(va(i)) else { panic!("shared") };
            assert!(!present.young && !present.prot.write);
            drop(page);
        }
        w.clear(range(0, 4), Teardown::Range);
        let mut gather = MmuGather::new(&w.frames, &child, &w.rcu, &w.dead, Teardown::Range);
        child.free_tables(&mut gather, &w.frames, range(0, 8), VaRange::new(Va(0), Va(u64::MAX)));
        gather.finish();
        w.dead.drain(&w.frames, &w.rcu);
        child.free_root(&w.frames);
    });
}

//! Tables, guards and the gather on a hosted machine.

mod common;

use common::{M, Mmap, World};

use anonmem_frame::{FolioOwner, RawHandle};
use anonmem_hal::{CpuId, Order, Protection, Pte, Va, VaRange};
use anonmem_pgtable::{
    AddressSpace, Attrs, Cleared, Mapped, MmuGather, NotShared, PteGuard, Teardown, Writes,
};

const RW: Attrs = Attrs { prot: Protection::RW, young: true, dirty: true, uffd_wp: false, soft_clean: false };

impl World {
    fn new() -> Box<Self> {
        Self::on(M::new(256))
    }

    fn gather(&self) -> MmuGather<'_, M> {
        self.gather_for(Teardown::Range)
    }

    fn lock(&self, va: Va) -> PteGuard<'_, M, Mmap> {
        self.space.table_alloc(&self.frames, &Mmap, va).unwrap().lock()
    }

    fn map(&self, va: Va) {
        let page = self.frames.alloc(Order::ZERO).unwrap();
        let page = page.into_exclusive_anon(RawHandle::new(1).unwrap().into(), va.page());
        self.lock(va).install(va, page, RW);
    }

    fn end(&self, range: VaRange) {
        let mut gather = self.gather();
        for (table, part) in self.space.tables(&self.frames, &Mmap, range) {
            let mut entries = table.lock();
            for va in part.iter_pages() {
                if let Ok(page) = entries.clear(va).unmap() {
                    gather.page(va, page);
                }
            }
        }
        gather.finish();
        self.free(&self.space, range);
        self.assert_no_frame_left();
    }
}

fn on_cpu<R>(f: impl FnOnce() -> R) -> R {
    let machine = M::new(1);
    machine.cpus().run_on(CpuId(0), f)
}

#[test]
fn every_count_returns_to_where_it_was() {
    on_cpu(|| {
        let w = World::new();
        let pages = [Va(0x1000), Va(0x2000), Va(1 << 30), Va((1 << 47) - 0x2000)];
        pages.iter().for_each(|&va| w.map(va));
        assert_eq!(w.space.recount(&w.frames), Ok(w.space.nr_tables()));
        assert_eq!(
            w.space.nr_tables(),
            1 + 3 + 3 + 2,
            "root; a leaf each, and what is above it, shared where it can be"
        );
        w.end(VaRange::new(Va(0x1000), Va((1 << 47) - 0x1000)));
    });
}

#[test]
fn tables_that_a_neighbour_uses_stay() {
    on_cpu(|| {
        let w = World::new();
        let (a, b) = (VaRange::new(Va(0x1000), Va(0x3000)), VaRange::new(Va(0x3000), Va(0x5000)));
        w.map(a.start);
        w.map(b.start);
        let before = w.space.nr_tables();
        let mut gather = w.gather();
        if let Ok(page) = w.lock(a.start).clear(a.start).unmap() {
            gather.page(a.start, page);
        }
        w.space.free_tables(&mut gather, &w.frames, a, VaRange::new(Va(0), b.start));
        gather.finish();
        assert_eq!(w.space.nr_tables(), before);
        w.end(b);
    });
}

#[test]
fn the_next_entry_in_use_is_found_from_anywhere() {
    on_cpu(|| {
        let w = World::new();
        let (low, high) = (Va(0x20_3000), Va(0x3f_f000));
        w.map(low);
        w.map(high);
        let entries = w.lock(low);
        let next = |start, end| entries.next_used(VaRange::new(Va(start), Va(end)));
        assert_eq!(next(0x20_0000, 0x40_0000), low);
        assert_eq!(next(low.0, 0x40_0000), low, "an entry in use is found at once");
        assert_eq!(next(0x20_4000, 0x40_0000), high);
        assert_eq!(next(0x20_4000, high.0), high, "the end of the range, although it is in use");
        assert_eq!(next(0x20_4000, 0x20_8000), Va(0x20_8000));
        drop(entries);
        w.end(VaRange::new(Va(0x20_0000), Va(0x40_0000)));
    });
}

#[test]
fn a_run_is_shared_up_to_the_first_gap() {
    on_cpu(|| {
        let w = World::new();
        let child = AddressSpace::new();
        child.alloc_root(&w.frames).unwrap();
        let range = VaRange::new(Va(0x1000), Va(0x8000));
        [0x1000, 0x2000, 0x5000].into_iter().for_each(|va| w.map(Va(va)));
        let to = child.table_alloc(&w.frames, &Mmap, range.start).unwrap();
        let mut from = w.lock(range.start);
        let mut to = to.lock_nested();
        assert_eq!(to.share_range(&mut from, range), (Va(0x3000), Err(NotShared::NoPage)));
        assert_eq!((from.used(), to.used()), (3, 2));
        let last = VaRange::page(Va(0x5000));
        assert_eq!(to.share_range(&mut from, last), (last.end, Ok(())));
        for va in [0x1000, 0x2000, 0x5000] {
            assert!(matches!(from.mapped(Va(va)), Mapped::Shared(_, present) if !present.prot.write));
            assert!(
                matches!(to.mapped(Va(va)), Mapped::Shared(_, present) if !present.prot.write && !present.young)
            );
            drop(to.clear(Va(va)).unmap());
        }
        assert!(to.is_empty());
        drop((to, from));
        let mut gather = MmuGather::new(&w.frames, &child, &w.rcu, &w.dead, Teardown::WholeSpace);
        child.free_tables(&mut gather, &w.frames, range, VaRange::new(Va(0), Va(u64::MAX)));
        gather.finish();
        child.free_root(&w.frames);
        w.end(range);
    });
}

#[test]
fn a_snapshot_that_still_matches_leads_back() {
    on_cpu(|| {
        let w = World::new();
        let va = Va(0x5000);
        w.map(va);
        let mut entries = w.lock(va).unlock(va).lock_if_same().expect("nothing changed");
        assert!(entries.test_and_clear_young(va));
        let snapshot = entries.unlock(va);
        assert!(w.lock(va).upgrade(va, Writes::No), "the accessed bit comes back");
        let entries = snapshot.lock_if_same().expect("accessed and dirty do not count");
        let snapshot = entries.unlock(va);
        w.lock(va).change_protection_range(VaRange::page(va), Protection::R);
        assert!(matches!(snapshot.lock_if_same(), Err(Pte::Present(p)) if !p.prot.write));
        w.end(VaRange::page(va));
    });
}

#[test]
fn a_page_shared_by_fork_is_reused_when_it_is_alone_again() {
    on_cpu(|| {
        let w = World::new();
        let (parent, child) = (Va(0x1000), Va(0x40_0000));
        w.map(parent);
        let to = w.space.table_alloc(&w.frames, &Mmap, child).unwrap();
        let mut from = w.lock(parent);
        let mut to = to.lock_nested();
        from.change_protection_range(VaRange::page(parent), Protection::R);
        let Mapped::Exclusive(page, present) = from.mapped(parent) else { panic!("mapped exclusive") };
        let shared = page.try_dup().unwrap();
        to.install(child, shared, Attrs::from(present.write_protected()));
        let Mapped::Shared(page, _) = from.mapped(parent) else { panic!("shared now") };
        assert_eq!(page.folio().counts().maps(), 2);
        let lock = page.try_lock().unwrap();
        assert!(page.reuse(&lock, RawHandle::new(2).unwrap().into()).is_err(), "the child still has it");
        let reference = to.clear(child).unmap().ok().unwrap();
        assert!(page.reuse(&lock, RawHandle::new(2).unwrap().into()).is_err(), "somebody has a reference");
        drop(reference);
        page.reuse(&lock, RawHandle::new(2).unwrap().into()).unwrap();
        drop(lock);
        assert!(matches!(from.mapped(parent), Mapped::Exclusive(..)));
        drop((to, from));
        w.end(VaRange::new(Va(0x1000), Va(0x80_0000)));
    });
}

#[test]
fn a_pinned_page_cannot_be_shared() {
    on_cpu(|| {
        let w = World::new();
        let va = Va(0x1000);
        w.map(va);
        let mut entries = w.lock(va);
        let Mapped::Exclusive(page, _) = entries.mapped(va) else { panic!("mapped exclusive") };
        let pin = page.pin().unwrap();
        assert!(page.try_dup().is_err());
        let Cleared::Exclusive(page, present) = entries.clear(va) else { panic!("was exclusive") };
        let page = page.try_share().expect_err("pinned pages do not become shared");
        entries.install(va, page, present.into());
        drop(entries);
        drop(pin);
        w.end(VaRange::page(va));
    });
}

#[test]
#[should_panic(expected = "a gather was dropped with 1 pages")]
fn a_gather_that_is_dropped_full_panics() {
    on_cpu(|| {
        let w = World::new();
        w.map(Va(0x1000));
        let mut gather = w.gather();
        let page = w.lock(Va(0x1000)).clear(Va(0x1000)).unmap().ok().unwrap();
        gather.page(Va(0x1000), page);
    });
}

#[test]
#[should_panic(expected = "a shared page mapped writable")]
fn a_shared_page_is_never_mapped_writable() {
    on_cpu(|| {
        let w = World::new();
        w.map(Va(0x1000));
        let mut entries = w.lock(Va(0x1000));
        let Mapped::Exclusive(page, _) = entries.mapped(Va(0x1000)) else { panic!("mapped exclusive") };
        let shared = page.try_dup().unwrap();
        entries.install(Va(0x2000), shared, RW);
    });
}

#[test]
fn a_whole_table_moves() {
    on_cpu(|| {
        let w = World::new();
        let (from, to) = (Va(0), Va(1 << 30));
        w.map(Va(0x3000));
        assert_eq!(w.space.move_table(&w.frames, from, to), Ok(true));
        assert!(matches!(w.lock(Va(to.0 + 0x3000)).mapped(Va(to.0 + 0x3000)), Mapped::Exclusive(..)));
        assert_eq!(w.space.move_table(&w.frames, from, to), Ok(false), "there is none any more");
        assert_eq!(w.space.recount(&w.frames), Ok(w.space.nr_tables()));
        w.end(VaRange::new(Va(0), Va(2 << 30)));
    });
}

#[test]
fn a_space_without_tables_has_nothing_to_walk() {
    on_cpu(|| {
        let w = World::new();
        let empty = AddressSpace::new();
        assert!(empty.walk(&w.frames, &Mmap, Va(0x1000)).is_none(), "frame 0 is no table of it");
        assert_eq!(empty.tables(&w.frames, &Mmap, VaRange::new(Va(0), Va(1 << 30))).count(), 0);
        w.end(VaRange::new(Va(0), Va(0x1000)));
    });
}

#[test]
fn tables_are_walked_with_their_own_frames() {
    on_cpu(|| {
        let (w, other) = (World::new(), World::new());
        let panics = |f: &dyn Fn()| std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)).is_err();
        assert!(panics(&|| _ = w.space.walk(&other.frames, &Mmap, Va(0x1000))));
        assert!(panics(&|| _ = w.space.walk_alloc(&other.frames, &Mmap, Va(0x1000))));
        assert!(panics(&|| w.space.free_root(&other.frames)));
        assert!(panics(&|| _ = w.space.alloc_root(&w.frames)), "a second root");
        w.end(VaRange::new(Va(0), Va(0x1000)));
        other.end(VaRange::new(Va(0), Va(0x1000)));
    });
}

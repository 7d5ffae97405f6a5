//! Leaves above the last level: installed, shared, split, moved and taken, with every count.

mod common;

use common::{M, Mmap, World};

use anonmem_frame::{DupError, ExclusiveWhole, Kind, RawHandle};
use anonmem_hal::{
    Arch, CpuId, Entry, MigrationKind, PAGE_SIZE, Pfn, Present, Protection, Pte, SoftLeaf, Va, VaRange,
};
use anonmem_pgtable::{
    AddressSpace, Attrs, ClearedLeaf, Deposit, LeafGuard, LeafPlace, Locked, Mapped, MappedLeaf, PinAccess,
    Teardown, Walked,
};

type A = <M as anonmem_hal::Machine>::Arch;

const P: u64 = PAGE_SIZE as u64;
const PAGES: u64 = A::LEAF_ORDER.pages();
/// The first leaf's addresses, and those of another one, in another table above.
const AT: Va = Va(PAGES * P);
const FAR: Va = Va(1 << 30);
const RW: Attrs =
    Attrs { prot: Protection::RW, young: true, dirty: false, uffd_wp: false, soft_clean: false };

impl World {
    /// Runs `f` on a CPU; afterwards no frame is left.
    fn run(f: impl FnOnce(&Self)) {
        let machine = M::new(4096);
        machine.cpus().clone().run_on(CpuId(0), || {
            let world = Self::on(machine);
            f(&world);
            world.end(&world.space);
            world.assert_no_frame_left();
        });
    }

    fn new_space(&self) -> AddressSpace<M> {
        let space = AddressSpace::new();
        space.alloc_root(&self.frames).unwrap();
        space
    }

    fn end(&self, space: &AddressSpace<M>) {
        assert_eq!(space.recount(&self.frames), Ok(space.nr_tables()));
        let mut gather = self.gather_of(space, Teardown::Range);
        for (found, part) in space.parts(&self.frames, &Mmap, VaRange::new(Va(0), A::USER_END)) {
            match found.covered(part) {
                Locked::Leaf(leaf) => gather.run(leaf.range(), leaf.clear().into_run()),
                Locked::Table(table) => {
                    let mut entries = table.lock();
                    for va in part.iter_pages() {
                        drop(entries.clear(va).unmap());
                        if entries.is_empty() {
                            break;
                        }
                    }
                }
                Locked::None => {}
            }
        }
        gather.finish();
        self.free(space, VaRange::new(Va(0), A::USER_END));
    }

    fn folio(&self) -> ExclusiveWhole<'_, M> {
        let new = self.frames.alloc(A::LEAF_ORDER).unwrap();
        new.into_exclusive_anon_whole(RawHandle::new(1).unwrap().into(), AT.page())
    }

    fn install(&self, at: Va, attrs: Attrs) -> Pfn {
        let (folio, kept) = (self.folio(), Deposit::alloc(&self.frames).unwrap());
        let head = folio.pfn();
        let place = self.space.leaf_alloc(&self.frames, &Mmap, at).unwrap();
        drop(place.lock_empty().unwrap().fill(folio, attrs, kept));
        head
    }

    fn place<'a>(&'a self, space: &'a AddressSpace<M>, at: Va) -> LeafPlace<'a, M, Mmap> {
        match space.walk(&self.frames, &Mmap, at) {
            Some(Walked::Leaf(place)) => place,
            other => panic!("{other:?} at {at:?}"),
        }
    }

    fn leaf<'a>(&'a self, space: &'a AddressSpace<M>, at: Va) -> LeafGuard<'a, M, Mmap> {
        match self.place(space, at).lock() {
            Locked::Leaf(leaf) => leaf,
            other => panic!("{other:?} at {at:?}"),
        }
    }

    /// Shares the leaf at [`AT`] with a new space.
    fn share(&self) -> Result<AddressSpace<M>, DupError> {
        let child = self.new_space();
        let kept = Deposit::alloc(&self.frames).unwrap();
        let shared = {
            let place = child.leaf_alloc(&self.frames, &Mmap, AT).unwrap();
            let mut parent = self.leaf(&self.space, AT);
            parent.share_with(place.lock_empty_nested().unwrap(), kept)
        };
        match shared {
            Ok(()) => Ok(child),
            Err(why) => {
                self.end(&child);
                Err(why)
            }
        }
    }

    /// Mappings, whole mappings, and exclusive pages of the folio at `head`.
    fn counts(&self, head: Pfn) -> (u64, u64, u64) {
        let folio = self.frames.folio(head).unwrap();
        let exclusive = (0..PAGES).filter(|&nth| self.frames.page_is_exclusive(head.offset(nth))).count();
        (folio.counts().maps(), folio.whole_mappings(), exclusive as u64)
    }
}

#[test]
fn a_leaf_that_becomes_a_table_keeps_every_bit_and_every_count() {
    for (prot, dirty) in [(Protection::RW, true), (Protection::R, false), (Protection::NONE, true)] {
        World::run(|w| {
            let says = Attrs { prot, young: true, dirty, uffd_wp: !prot.write, soft_clean: !prot.write };
            let head = w.install(AT, says);
            assert_eq!(w.counts(head), (PAGES, 1, 1));
            let tables = w.space.nr_tables();
            let entries = w.leaf(&w.space, AT).split_locked();
            assert_eq!((entries.used(), w.space.nr_tables()), (PAGES, tables));
            for nth in 0..PAGES {
                let Mapped::Exclusive(page, present) = entries.mapped(AT.page_after(nth)) else {
                    panic!("page {nth} is not exclusive")
                };
                assert_eq!((page.pfn(), Attrs::from(present)), (head.offset(nth), says));
            }
            drop(entries);
            assert_eq!(w.counts(head), (PAGES, 0, PAGES));
            assert_eq!(w.space.recount(&w.frames), Ok(tables));
        });
    }
}

#[test]
fn fork_shares_a_leaf_with_one_entry_and_one_count() {
    World::run(|w| {
        let head = w.install(AT, Attrs { dirty: true, ..RW });
        let child = w.share().unwrap();
        assert_eq!(w.counts(head), (2 * PAGES, 2, 0));
        for (space, young) in [(&w.space, true), (&child, false)] {
            match w.leaf(space, AT).mapped() {
                MappedLeaf::Shared(folio, leaf) => {
                    assert_eq!((folio.pfn(), leaf.prot, leaf.young), (head, Protection::R, young));
                    assert!(leaf.dirty && !folio.looks_reusable());
                }
                other => panic!("{other:?}"),
            };
        }
        // One of them becomes a table: nobody counts that.
        let _ = w.leaf(&child, AT).split();
        assert_eq!(w.counts(head), (2 * PAGES, 1, 0));
        w.end(&child);
        assert_eq!(w.counts(head), (PAGES, 1, 0));
        match w.leaf(&w.space, AT).mapped() {
            MappedLeaf::Shared(folio, _) => assert!(folio.looks_reusable()),
            other => panic!("{other:?}"),
        };
    });
}

#[test]
fn a_leaf_that_is_pinned_is_not_shared() {
    World::run(|w| {
        let head = w.install(AT, RW);
        let pin = w.frames.try_pin(head.offset(3)).unwrap();
        assert_eq!(w.share().unwrap_err(), DupError::MaybePinned);
        assert_eq!(w.counts(head), (PAGES, 1, 1));
        assert!(matches!(w.place(&w.space, AT).peek(), Entry::Leaf(leaf) if leaf.prot.write));
        drop(pin);
    });
}

#[test]
fn a_leaf_moves_with_the_table_that_is_kept_for_it() {
    World::run(|w| {
        let head = w.install(AT, RW);
        w.space.prepare_move_table(&w.frames, &Mmap, FAR).unwrap();
        assert_eq!(w.space.move_table(&w.frames, AT, FAR), Ok(true));
        assert!(w.space.walk(&w.frames, &Mmap, AT).is_none());
        assert_eq!(w.space.move_table(&w.frames, AT, FAR), Ok(false), "there is nothing any more");
        assert!(matches!(w.place(&w.space, FAR).peek(), Entry::Leaf(leaf) if leaf.pfn == head));
        assert_eq!(w.space.recount(&w.frames), Ok(w.space.nr_tables()));
        let _ = w.leaf(&w.space, FAR).split();
        assert_eq!(w.space.recount(&w.frames), Ok(w.space.nr_tables()));
    });
}

#[test]
fn a_leaf_that_goes_takes_its_table_along() {
    World::run(|w| {
        let before = w.frames.usage().tables;
        let head = w.install(AT, RW);
        let (cleared, kept, vacancy) = w.leaf(&w.space, AT).take();
        let ClearedLeaf::Exclusive(folio, leaf) = cleared else { panic!("{cleared:?}") };
        // It may come back, under the same hold of the lock.
        drop(vacancy.fill(folio, leaf.into(), kept));
        assert_eq!(w.counts(head), (PAGES, 1, 1));
        drop(w.leaf(&w.space, AT).clear().into_run().unmap());
        assert!(w.frames.kind(head) != Kind::Folio, "the folio is free");
        assert_eq!(w.frames.usage().tables.0, before.0 + 2, "two tables above stay");
    });
}

#[test]
fn permissions_change_whole_and_only_an_owner_may_write() {
    World::run(|w| {
        w.install(AT, RW);
        let mut leaf = w.leaf(&w.space, AT);
        assert_eq!(leaf.change_protection(Protection::R), leaf.range(), "it has lost something");
        assert!(leaf.change_protection(Protection::RW).is_empty());
        let writes = |leaf: &LeafGuard<'_, M, Mmap>| matches!(leaf.get(), Entry::Leaf(l) if l.prot.write);
        assert!(!writes(&leaf), "a clean leaf waits for the next write");
        assert!(leaf.upgrade(anonmem_pgtable::Writes::Yes) && writes(&leaf));
        assert!(!leaf.upgrade(anonmem_pgtable::Writes::Yes), "that was spurious");
        assert_eq!(leaf.change_protection(Protection::NONE), leaf.range());
        assert!(leaf.change_protection(Protection::RW).is_empty() && writes(&leaf), "a dirty one does not");
        drop(leaf);
        let child = w.share().unwrap();
        let mut leaf = w.leaf(&w.space, AT);
        assert!(leaf.change_protection(Protection::RW).is_empty() && !writes(&leaf), "it is shared");
        drop(leaf);
        w.end(&child);
    });
}

#[test]
fn a_leaf_goes_to_a_migration_entry_and_back() {
    World::run(|w| {
        let head = w.install(AT, Attrs { dirty: true, ..RW });
        let (cleared, kept, vacancy) = w.leaf(&w.space, AT).take();
        let ClearedLeaf::Exclusive(folio, leaf) = cleared else { panic!("{cleared:?}") };
        let shared = folio.try_share().unwrap();
        let bits = anonmem_hal::EntryBits::of_present(leaf, anonmem_hal::Sharing::Exclusive).to_migration();
        drop(vacancy.fill(shared.hold(), bits, kept));
        assert_eq!(w.counts(head), (PAGES, 1, 0));
        assert_eq!(w.place(&w.space, AT).peek(), Entry::Migration { pfn: head, bits });
        // A part of it is treated differently: entries wait for each page.
        let entries = w.leaf(&w.space, AT).split_locked();
        let Pte::Soft(SoftLeaf::Migration { pfn, bits }) = entries.get(AT.page_after(7)) else {
            panic!("{:?}", entries.get(AT.page_after(7)))
        };
        assert_eq!((pfn, bits.kind, bits.dirty), (head.offset(7), MigrationKind::Write, true));
    });
}

#[test]
fn a_migration_that_panics_counts_once() {
    World::run(|w| {
        let head = w.install(AT, RW);
        let page = w.frames.try_get(head).unwrap();
        let panics = |f: &mut dyn FnMut()| {
            let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(f));
            assert!(caught.is_err(), "that was to panic");
        };
        let arrives_nowhere = || w.leaf(&w.space, AT).end_migration(|_, _| panic!("nothing has arrived"));
        panics(&mut || arrives_nowhere());
        assert_eq!(w.counts(head), (PAGES, 1, 1), "it was a leaf, and is one");
        w.leaf(&w.space, AT).begin_migration().unwrap();
        panics(&mut || _ = w.leaf(&w.space, AT).begin_migration());
        assert_eq!(w.counts(head), (PAGES, 1, 0), "it migrates, and does");
        panics(&mut || arrives_nowhere());
        assert_eq!(w.counts(head), (0, 0, 0), "what the entry owned has gone, once");
        assert!(w.space.walk(&w.frames, &Mmap, AT).is_none_or(|found| !matches!(found, Walked::Leaf(_))));
        drop(page);
    });
}

#[test]
fn pages_of_a_leaf_are_pinned_without_a_lock_unless_it_is_shared() {
    World::run(|w| {
        let head = w.install(AT, RW);
        let nodes = anonmem_frame::PinNodes::new(&w.frames);
        let range = VaRange::new(AT.page_after(5), AT.page_after(45));
        let pin = |access| {
            let mut pins = anonmem_frame::PinList::new(&w.frames, &nodes, access);
            pins.reserve(40).unwrap();
            // SAFETY: the tables of this world wait for this domain.
            let end =
                unsafe { w.space.pin_fast(&w.frames, &w.rcu.read_lock(), range, access, &mut pins) }.end;
            (end, pins.runs().map(|run| run.first).next())
        };
        assert_eq!(pin(PinAccess::Write), (range.end, Some(head.offset(5))));
        w.leaf(&w.space, AT).write_protect();
        assert_eq!(pin(PinAccess::Write), (range.start, None), "the leaf does not allow it");
        assert_eq!(pin(PinAccess::Read).0, range.end);
        let child = w.share().unwrap();
        assert_eq!(pin(PinAccess::Read), (range.start, None), "others have it");
        let _ = w.leaf(&w.space, AT).split();
        assert_eq!(pin(PinAccess::Read), (range.start, None), "and still have");
        w.end(&child);
    });
}

#[test]
fn what_is_treated_in_part_becomes_a_table() {
    World::run(|w| {
        let head = w.install(AT, RW);
        let part = VaRange::new(AT, AT.page_after(3));
        let found = w.space.walk(&w.frames, &Mmap, AT).unwrap();
        assert!(
            matches!(found.peek(AT.page_after(2)), Pte::Present(Present { pfn, .. }) if pfn == head.offset(2))
        );
        let Locked::Table(_) = found.covered(part) else { panic!("a leaf is covered in part") };
        assert!(matches!(w.space.walk(&w.frames, &Mmap, AT), Some(Walked::Table(_))));
        assert!(matches!(found.covered(part), Locked::Table(_)), "an old look finds the table");
        w.install(FAR, RW);
        w.space.split_leaf_at(&w.frames, &Mmap, FAR);
        assert!(
            matches!(w.space.walk(&w.frames, &Mmap, FAR), Some(Walked::Leaf(_))),
            "nothing crosses there"
        );
        w.space.split_leaf_at(&w.frames, &Mmap, FAR.next_page());
        assert!(matches!(w.space.walk(&w.frames, &Mmap, FAR), Some(Walked::Table(_))));
    });
}

//! Software entries: each owns what it says, and gives it back.

mod common;

use common::{M, Mmap};

use anonmem_frame::{Exclusive, Frames, RawHandle, SlotPut, SwapCount, SwapSlots};
use anonmem_hal::{
    CpuId, EntryBits, Marker, MigrationKind, Order, Protection, Pte, Sharing, SoftLeaf, SwapBits, Va, VaRange,
};
use anonmem_pgtable::{AddressSpace, Attrs, Cleared, DeadTables, Mapped, Teardown};
use anonmem_pgtable::{MmuGather, PteGuard};
use anonmem_sync::Rcu;

const VA: Va = Va(0x1000);
const RW: Attrs = Attrs { prot: Protection::RW, young: true, dirty: true, uffd_wp: false, soft_clean: false };

struct World {
    frames: Frames<M>,
    space: AddressSpace<M>,
    slots: SwapSlots<M>,
}

impl World {
    /// Runs `f` on a CPU; afterwards no frame is left.
    fn run(f: impl FnOnce(&Self, &mut PteGuard<'_, M, Mmap>)) {
        let machine = M::new(256);
        machine.cpus().clone().run_on(CpuId(0), || {
            let world = Self {
                frames: Frames::new(machine).unwrap(),
                space: AddressSpace::new(),
                slots: SwapSlots::new(3),
            };
            world.space.alloc_root(&world.frames).unwrap();
            world.slots.alloc(&world.frames, 8).unwrap();
            f(&world, &mut world.space.table_alloc(&world.frames, &Mmap, VA).unwrap().lock());
            world.end();
        });
    }

    fn end(&self) {
        // SAFETY: the test is over.
        unsafe { self.slots.free(&self.frames) };
        let (rcu, dead) = (Rcu::new(), DeadTables::new());
        let mut gather = MmuGather::new(&self.frames, &self.space, &rcu, &dead, Teardown::Range);
        let (page, all) = (VaRange::page(VA), VaRange::new(Va(0), Va(u64::MAX)));
        self.space.free_tables(&mut gather, &self.frames, page, all);
        gather.finish();
        dead.drain(&self.frames, &rcu);
        self.space.free_root(&self.frames);
        assert_eq!(self.frames.usage().used().0, 0, "frames leaked");
        self.frames.validate().unwrap();
    }

    fn page(&self) -> Exclusive<'_, M> {
        let new = self.frames.alloc(Order::ZERO).unwrap();
        new.into_exclusive_anon(RawHandle::new(1).unwrap().into(), 1)
    }

    /// A count of slot 5.
    fn count(&self) -> SwapCount<'_, M> {
        let page = self.frames.alloc(Order::ZERO).unwrap().into_reference();
        self.slots.claim(&self.frames, 5, page).unwrap()
    }

    fn put(&self, count: SwapCount<'_, M>) {
        if let SlotPut::Free { slot, .. } = self.slots.put(count) {
            self.slots.finish_free(&self.frames, slot);
        }
    }

    fn owners(&self) -> u64 {
        self.slots.state(&self.frames, 5).count
    }
}

const BITS: SwapBits = SwapBits { sharing: Sharing::Exclusive, uffd_wp: true, soft_clean: true };

#[test]
fn a_count_of_a_slot_goes_into_an_entry_and_comes_back() {
    World::run(|w, entries| {
        entries.install(VA, w.count(), BITS);
        let Mapped::Swap(owned, bits) = entries.mapped(VA) else { panic!("no swap entry") };
        assert_eq!((owned.entry().offset, bits, w.owners()), (5, BITS, 1));
        let second = w.slots.dup(&owned).unwrap();
        assert_eq!(w.owners(), 2);
        w.put(second);
        let Cleared::Swap(count, bits) = entries.clear(VA) else { panic!("no swap entry") };
        assert_eq!((bits, w.owners(), entries.used()), (BITS, 1, 0));
        w.put(count);
        assert!(w.slots.is_free(&w.frames, 5));
    });
}

#[test]
fn an_exchange_gives_back_what_the_entry_owned() {
    World::run(|w, entries| {
        entries.install(VA, w.count(), BITS);
        let replaced = entries.exchange(VA, w.page(), RW);
        assert_eq!(entries.used(), 1);
        let Cleared::Swap(count, _) = replaced else { panic!("no swap entry") };
        w.put(count);
        let Cleared::Exclusive(page, present) = entries.clear(VA) else { panic!("no page") };
        assert_eq!((Attrs::from(present), page.folio().counts().maps()), (RW, 1));
    });
}

#[test]
#[should_panic(expected = "an exchange of what is no software entry")]
fn a_page_is_not_exchanged_under_those_who_still_translate_to_it() {
    World::run(|w, entries| {
        entries.install(VA, w.page(), RW);
        let _ = entries.exchange(VA, Marker::Poisoned, ());
    });
}

#[test]
#[should_panic(expected = "is taken and is empty")]
fn an_empty_entry_is_not_filled_by_who_may_only_empty() {
    World::run(|_, entries| entries.take(VA).1.leave_empty());
}

#[test]
fn a_page_goes_to_swap_and_says_so_in_one_hold_of_the_lock() {
    World::run(|w, entries| {
        entries.install(VA, w.page(), Attrs { uffd_wp: true, ..RW.soft_clean() });
        let (cleared, vacancy) = entries.take(VA);
        let Cleared::Exclusive(page, present) = cleared else { panic!("no page") };
        vacancy.fill(w.count(), EntryBits::of_present(present, Sharing::Exclusive).to_swap());
        drop(page);
        let Cleared::Swap(count, bits) = entries.clear(VA) else { panic!("no swap entry") };
        assert_eq!(bits, BITS);
        w.put(count);
    });
}

#[test]
fn a_hold_counts_as_a_mapping_wherever_it_goes() {
    World::run(|w, entries| {
        entries.install(VA, w.page(), RW);
        let (cleared, vacancy) = entries.take(VA);
        let Cleared::Exclusive(page, present) = cleared else { panic!("no page") };
        let folio = page.folio();
        let hold = page.try_share().ok().unwrap().hold();
        vacancy.fill(hold, EntryBits::of_present(present, Sharing::Exclusive).to_migration());
        let Mapped::Migration(owned, bits) = entries.mapped(VA) else { panic!("no migration entry") };
        assert_eq!((bits.kind, bits.young, bits.dirty), (MigrationKind::Write, true, true));
        let second = owned.try_dup().unwrap();
        assert_eq!(folio.counts().maps(), 2);
        entries.share_soft(VA);
        let Mapped::Migration(_, bits) = entries.mapped(VA) else { panic!("no migration entry") };
        assert_eq!(bits.kind, MigrationKind::Read, "the page is no longer this entry's alone");
        drop(second.unmap());
        let Cleared::Migration(hold, _) = entries.clear(VA) else { panic!("no migration entry") };
        drop(hold.release().unmap());
    });
}

#[test]
fn protection_reaches_a_page_that_migrates() {
    World::run(|w, entries| {
        let hold = w.page().try_share().ok().unwrap().hold();
        let bits = EntryBits {
            sharing: Sharing::Exclusive,
            write: true,
            young: true,
            dirty: true,
            uffd_wp: false,
            soft_clean: false,
        };
        entries.install(VA, hold, bits.to_migration());
        let kind = |entries: &PteGuard<'_, M, Mmap>| match entries.get(VA) {
            Pte::Soft(SoftLeaf::Migration { bits, .. }) => bits.kind,
            other => panic!("{other:?}"),
        };
        assert!(!entries.change_protection(VA, Protection::RW));
        assert_eq!(kind(entries), MigrationKind::Write);
        assert!(!entries.change_protection(VA, Protection::R), "no TLB has it");
        assert_eq!(kind(entries), MigrationKind::ReadExclusive);
        drop(entries.clear(VA).unmap().ok());
    });
}

#[test]
#[should_panic(expected = "a count of another device's slot")]
fn a_count_is_put_to_its_own_device() {
    World::run(|w, _| drop(SwapSlots::new(4).put(w.count())));
}

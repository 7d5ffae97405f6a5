//! `Debug` for guards, owners and looks at entries: the name, and what it is about.

use crate::{
    AddressSpace, Cleared, ClearedLeaf, DeadTables, Deposit, LeafGuard, LeafPlace, LeafVacancy, Locked,
    Mapped, MappedLeaf, MmuGather, PinEntry, PteGuard, PteSnapshot, PteTable, TlbBatch, Vacancy, Walked,
};
use anonmem_hal::Machine;
use anonmem_sync::debug_by_name;
use core::fmt;

debug_by_name! {
    [M: Machine] AddressSpace<M>, "AddressSpace", space => space.root();
    [M: Machine] DeadTables<M>, "DeadTables";
    [M: Machine] MmuGather<'_, M>, "MmuGather";
    [M: Machine] TlbBatch<'_, M>, "TlbBatch";
    [M: Machine, G] PteTable<'_, M, G>, "PteTable";
    [M: Machine, G] PteGuard<'_, M, G>, "PteGuard";
    [M: Machine, G] PteSnapshot<'_, M, G>, "PteSnapshot";
    [M: Machine, G] Vacancy<'_, '_, M, G>, "Vacancy";
    [M: Machine] Deposit<'_, M>, "Deposit";
    [M: Machine, G] LeafPlace<'_, M, G>, "LeafPlace", place => place.range();
    [M: Machine, G] LeafGuard<'_, M, G>, "LeafGuard";
    [M: Machine, G] LeafVacancy<'_, M, G>, "LeafVacancy";
}

impl<M: Machine, G> fmt::Debug for Walked<'_, M, G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Table(table) => f.debug_tuple("Table").field(table).finish(),
            Self::Leaf(place) => f.debug_tuple("Leaf").field(place).finish(),
        }
    }
}

impl<M: Machine, G> fmt::Debug for Locked<'_, M, G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Leaf(leaf) => f.debug_tuple("Leaf").field(leaf).finish(),
            Self::Table(table) => f.debug_tuple("Table").field(table).finish(),
            Self::None => f.write_str("None"),
        }
    }
}

impl<M: Machine> fmt::Debug for ClearedLeaf<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exclusive(map, leaf) => f.debug_tuple("Exclusive").field(map).field(leaf).finish(),
            Self::Shared(map, leaf) => f.debug_tuple("Shared").field(map).field(leaf).finish(),
            Self::Migration(hold, bits) => f.debug_tuple("Migration").field(hold).field(bits).finish(),
        }
    }
}

impl<M: Machine> fmt::Debug for MappedLeaf<'_, '_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exclusive(map, leaf) => f.debug_tuple("Exclusive").field(map).field(leaf).finish(),
            Self::Shared(map, leaf) => f.debug_tuple("Shared").field(map).field(leaf).finish(),
            Self::Migration(hold, bits) => f.debug_tuple("Migration").field(hold).field(bits).finish(),
        }
    }
}

impl<M: Machine> fmt::Debug for Cleared<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("None"),
            Self::Zero(present) => f.debug_tuple("Zero").field(present).finish(),
            Self::Exclusive(map, present) => f.debug_tuple("Exclusive").field(map).field(present).finish(),
            Self::Shared(map, present) => f.debug_tuple("Shared").field(map).field(present).finish(),
            Self::Shm(map, present) => f.debug_tuple("Shm").field(map).field(present).finish(),
            Self::Swap(count, bits) => f.debug_tuple("Swap").field(count).field(bits).finish(),
            Self::Migration(hold, bits) => f.debug_tuple("Migration").field(hold).field(bits).finish(),
            Self::Marker(marker) => f.debug_tuple("Marker").field(marker).finish(),
        }
    }
}

impl<M: Machine> fmt::Debug for Mapped<'_, '_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("None"),
            Self::Zero(present) => f.debug_tuple("Zero").field(present).finish(),
            Self::Exclusive(map, present) => f.debug_tuple("Exclusive").field(map).field(present).finish(),
            Self::Shared(map, present) => f.debug_tuple("Shared").field(map).field(present).finish(),
            Self::Shm(present) => f.debug_tuple("Shm").field(present).finish(),
            Self::Swap(count, bits) => f.debug_tuple("Swap").field(count).field(bits).finish(),
            Self::Migration(hold, bits) => f.debug_tuple("Migration").field(hold).field(bits).finish(),
            Self::Marker(marker) => f.debug_tuple("Marker").field(marker).finish(),
        }
    }
}

impl<M: Machine> fmt::Debug for PinEntry<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pinned(pin) => f.debug_tuple("Pinned").field(pin).finish(),
            Self::Zero => f.write_str("Zero"),
            Self::Shared => f.write_str("Shared"),
            Self::TooManyPins => f.write_str("TooManyPins"),
            Self::NoPage => f.write_str("NoPage"),
        }
    }
}

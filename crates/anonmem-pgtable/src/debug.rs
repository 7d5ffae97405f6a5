//! `Debug` for guards, owners and looks at entries: the name, and what it is about.

use crate::{
    AddressSpace, Cleared, ClearedLeaf, DeadTables, Deposit, LeafGuard, LeafPlace, LeafVacancy, Locked,
    Mapped, MappedLeaf, MmuGather, PinEntry, PteGuard, PteSnapshot, PteTable, TlbBatch, Vacancy, Walked,
};
use anonmem_hal::Machine;
use anonmem_sync::{debug_by_name, debug_variants};

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

debug_variants! {
    [M: Machine, G] Walked<'_, M, G> { Table(table), Leaf(place) }
    [M: Machine, G] Locked<'_, M, G> { Leaf(leaf), Table(table), None }
    [M: Machine] ClearedLeaf<'_, M> { Exclusive(map, leaf), Shared(map, leaf), Migration(hold, bits) }
    [M: Machine] MappedLeaf<'_, '_, M> { Exclusive(map, leaf), Shared(map, leaf), Migration(hold, bits) }
    [M: Machine] Cleared<'_, M> {
        None, Zero(present), Exclusive(map, present),
        Shared(map, present), Shm(map, present), Swap(count, bits), Migration(hold, bits), Marker(marker),
    }
    [M: Machine] Mapped<'_, '_, M> {
        None, Zero(present), Exclusive(map, present),
        Shared(map, present), Shm(present), Swap(count, bits), Migration(hold, bits), Marker(marker),
    }
    [M: Machine] PinEntry<'_, M> { Pinned(pin), Zero, Shared, TooManyPins, NoPage }
}

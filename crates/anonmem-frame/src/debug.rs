//! `Debug` for owners and looks: the name, and the frame that it is about.

use crate::{
    FrameArray, Slab, SwapSlots,
    folio::{
        Exclusive, ExclusiveRef, FolioGuard, FolioPin, FrozenFolio, KeptFolio, MapRun, MigrationHold,
        MigrationHoldRef, NewAnonPages, NewFolio, PinList, PinNodes, Shared, SharedRef, ShmMap, TakenPin,
    },
    swap::SlotPut,
    swap_count::SwapCountRef,
};
use anonmem_hal::Machine;
use anonmem_sync::debug_by_name;
use core::fmt;

debug_by_name! {
    [M] FrameArray<M>, "FrameArray";
    [M: Machine, T] Slab<M, T>, "Slab";
    [M] SwapSlots<M>, "SwapSlots";
    [M: Machine] FolioGuard<'_, M>, "FolioGuard", guard => guard.folio();
    [M: Machine] FrozenFolio<'_, M>, "FrozenFolio", folio => folio.pfn();
    [M: Machine] NewFolio<'_, M>, "NewFolio", folio => folio.pfn();
    [M: Machine] KeptFolio<'_, '_, M>, "KeptFolio", kept => kept.folio();
    [M: Machine] FolioPin<'_, M>, "FolioPin", pin => pin.pfn();
    [M: Machine] TakenPin<'_, M>, "TakenPin", taken => taken.pfn();
    [M: Machine] PinNodes<M>, "PinNodes";
    [M: Machine] PinList<'_, M>, "PinList", list => list.pages();
    [M: Machine] Exclusive<'_, M>, "Exclusive", map => map.pfn();
    [M: Machine] Shared<'_, M>, "Shared", map => map.pfn();
    [M: Machine] ShmMap<'_, M>, "ShmMap", map => map.pfn();
    [M: Machine] MigrationHold<'_, M>, "MigrationHold", hold => hold.pfn();
    [M: Machine] MigrationHoldRef<'_, '_, M>, "MigrationHoldRef", hold => hold.pfn();
    [M: Machine] ExclusiveRef<'_, '_, M>, "ExclusiveRef", map => map.pfn();
    [M: Machine] SharedRef<'_, '_, M>, "SharedRef", map => map.pfn();
    [M: Machine] MapRun<'_, M>, "MapRun", run => run.folio();
    [M: Machine] NewAnonPages<'_, M>, "NewAnonPages";
    [M: Machine] SwapCountRef<'_, '_, M>, "SwapCountRef", count => &**count;
}

impl<M: Machine> fmt::Debug for SlotPut<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InUse => f.write_str("InUse"),
            Self::Free { slot, stored, page } => {
                let mut free = f.debug_struct("Free");
                free.field("slot", slot).field("stored", stored).field("page", page).finish()
            }
        }
    }
}

//! `Debug` for the types that belong to a machine: the name, and what it is about.

use crate::{
    gup::PinnedRange,
    mm::Mm,
    objects::Objects,
    rmap::{anon_vma::AnonVmaReadGuard, hit::RmapHit},
    userfaultfd::{Uffd, UffdFork, UffdMessage},
    vm::Vm,
};
use anonmem_hal::Machine;
use anonmem_sync::debug_by_name;
use core::fmt;

debug_by_name! {
    [M: Machine] Vm<M>, "Vm";
    [M: Machine] Objects<M>, "Objects";
    [M: Machine] Mm<'_, M>, "Mm", mm => mm.id;
    [M: Machine] PinnedRange<'_, M>, "PinnedRange", pinned => pinned.range();
    [M: Machine] AnonVmaReadGuard<'_, M>, "AnonVmaReadGuard", guard => guard.anon_vma();
    [M: Machine] Uffd<'_, M>, "Uffd";
    [M: Machine] UffdFork<'_, M>, "UffdFork";
    [M: Machine, G] RmapHit<'_, '_, M, G>, "RmapHit", hit => hit.vma;
}

impl<M: Machine> fmt::Debug for UffdMessage<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fault(fault) => f.debug_tuple("Fault").field(fault).finish(),
            Self::Fork(fork) => f.debug_tuple("Fork").field(fork).finish(),
            Self::Remap { from, to, len } => {
                let mut remap = f.debug_struct("Remap");
                remap.field("from", from).field("to", to).field("len", len).finish()
            }
            Self::Remove(range) => f.debug_tuple("Remove").field(range).finish(),
            Self::Unmap(range) => f.debug_tuple("Unmap").field(range).finish(),
        }
    }
}

//! `Debug` for the types that belong to a machine: the name, and what it is about.

use crate::{
    gup::PinnedRange,
    mm::Mm,
    objects::Objects,
    rmap::machine::Machine,
    rmap::{
        anon_vma::AnonVmaReadGuard, either::EitherReadGuard, family::members::FamilyReadGuard, hit::RmapHit,
    },
    userfaultfd::{Uffd, UffdFork, UffdMessage},
    vm::Vm,
};
use anonmem_sync::{debug_by_name, debug_variants};

debug_by_name! {
    [M: Machine] Vm<M>, "Vm";
    [M: Machine] Objects<M>, "Objects";
    [M: Machine] Mm<'_, M>, "Mm", mm => mm.id;
    [M: Machine] PinnedRange<'_, M>, "PinnedRange", pinned => pinned.range();
    [M: Machine] AnonVmaReadGuard<'_, M>, "AnonVmaReadGuard", guard => guard.anon_vma();
    [M: Machine] FamilyReadGuard<'_, M>, "FamilyReadGuard", guard => guard.name();
    [M: Machine] EitherReadGuard<'_, M>, "EitherReadGuard";
    [M: Machine] Uffd<'_, M>, "Uffd";
    [M: Machine] UffdFork<'_, M>, "UffdFork";
    [M: Machine, G] RmapHit<'_, '_, M, G>, "RmapHit", hit => hit.vma;
}

debug_variants! {
    [M: Machine] UffdMessage<'_, M> { Fault(fault), Fork(fork), Remap { from, to, len }, Remove(range), Unmap(range) }
}

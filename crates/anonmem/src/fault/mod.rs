//! Page faults: the dispatch.
//!
//! ```text
//!  an access traps
//!    │
//!    ├─ no VMA, or not allowed ──────────────────────────▶ SIGSEGV (a stack may grow)
//!    │
//!    └─ handle_mm_fault ── what is the entry?
//!         ├─ nothing ─┬─ shared object ──────────────────▶ do_shared_fault      the object's page
//!         │           ├─ source ─────────────────────────▶ do_source_fault      a page filled from it
//!         │           └─ anonymous ─┬─ read ─────────────▶ do_anonymous_page    the zero page
//!         │                         └─ write ────────────▶                      a page of zeroes, exclusive
//!         ├─ present ─┬─ a write, and it is read-only ───▶ do_wp_page           reuse or copy
//!         │           └─ else ───────────────────────────▶ accessed, dirty; spurious
//!         └─ software entry ─────────────────────────────▶ guard marker: SIGSEGV; poison: SIGBUS
//! ```
//!
//! A fault comes in with a guard that keeps its VMA, and every path is generic over which one it is
//! ([`FaultGuard`]). What a path may still assume when it is done is its result.
//!
//! Linux: mm/memory.c `handle_mm_fault`, `handle_pte_fault`; arch/x86/mm/fault.c `do_user_addr_fault`.

mod anon;
mod shared;
mod source;
mod stack;
mod wp;

use crate::{
    events::Event,
    mm::{Mm, MmSlot, MmapHeld, MmapReadGuard, MmapWriteGuard},
    rmap::anon_vma::{AnonVmaId, anon_vma_prepare},
    vm::Vm,
    vma::{Backing, VmFlags, Vma, VmaId},
};
use anonmem_frame::{NewFolio, OutOfMemory};
use anonmem_hal::{Machine, Marker, Present, Pte, SoftLeaf, Va};
use anonmem_pgtable::{Attrs, CanInstall, Dirty, Mapped, PteTable};

/// What an access does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FaultAccess {
    /// Loads.
    Read,
    /// Stores.
    Write,
    /// Fetches an instruction.
    Exec,
}

impl FaultAccess {
    /// What the VMA must allow, any of it.
    const fn needs(self) -> VmFlags {
        match self {
            // Any permission implies reading, as on x86.
            Self::Read => VmFlags::ACCESS,
            Self::Write => VmFlags::WRITE,
            Self::Exec => VmFlags::EXEC,
        }
    }
}

/// What came of an access that trapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FaultOutcome {
    /// Do the access again.
    Done,
    /// No memory: the caller decides who pays.
    Oom,
    /// No mapping there (SIGSEGV, `SEGV_MAPERR`).
    SegvMaperr,
    /// The mapping does not allow it (SIGSEGV, `SEGV_ACCERR`).
    SegvAccerr,
    /// The bytes cannot be had (SIGBUS, `BUS_ADRERR`).
    Bus,
}

/// How one attempt ended, and what its caller may still assume.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum FaultResult {
    /// The entry is good: do the access again. The guard is still held.
    Done,
    /// The entry changed meanwhile: look again. The guard is still held.
    Reload,
    /// Only the mmap lock will do. The guard is still held.
    NeedMmapLock,
    /// No memory.
    Oom,
    /// The address has a guard marker.
    Segv,
    /// The bytes cannot be had.
    Bus,
}

impl From<OutOfMemory> for FaultResult {
    fn from(OutOfMemory: OutOfMemory) -> Self {
        Self::Oom
    }
}

/// A guard that a fault may run under: it keeps the VMA as it is and lets entries be filled.
pub(crate) trait FaultGuard<M: Machine>: CanInstall {
    /// The mmap lock, if that is what is held; without it a VMA cannot be given its first anon_vma.
    fn mmap(&self) -> Option<MmapHeld<'_, M>>;
}

impl<M: Machine> FaultGuard<M> for MmapReadGuard<'_, M> {
    fn mmap(&self) -> Option<MmapHeld<'_, M>> {
        Some(MmapHeld::Read(self))
    }
}

impl<M: Machine> FaultGuard<M> for MmapWriteGuard<'_, M> {
    fn mmap(&self) -> Option<MmapHeld<'_, M>> {
        Some(MmapHeld::Write(self))
    }
}

/// One fault that is being resolved.
pub(crate) struct VmFault<'a, M: Machine, G> {
    pub(crate) vm: &'a Vm<M>,
    pub(crate) slot: &'a MmSlot<M>,
    /// What keeps the VMA.
    pub(crate) guard: &'a G,
    pub(crate) id: VmaId<M>,
    pub(crate) vma: &'a Vma<M>,
    /// The page's address.
    pub(crate) va: Va,
    pub(crate) access: FaultAccess,
}

impl<'a, M: Machine, G: FaultGuard<M>> VmFault<'a, M, G> {
    pub(crate) fn new(
        vm: &'a Vm<M>,
        slot: &'a MmSlot<M>,
        guard: &'a G,
        id: VmaId<M>,
        va: Va,
        access: FaultAccess,
    ) -> Self {
        Self { vm, slot, guard, id, vma: vm.vma(id), va: va.page_down(), access }
    }

    /// The anon_vma that a new page will belong to.
    fn anon_vma(&self) -> Result<AnonVmaId<M>, FaultResult> {
        if let Some(anon_vma) = self.vma.anon_vma() {
            return Ok(anon_vma);
        }
        let mmap = self.guard.mmap().ok_or(FaultResult::NeedMmapLock)?;
        anon_vma_prepare(self.vm, mmap, self.id).map_err(|OutOfMemory| FaultResult::Oom)
    }

    /// A page for the fault's bytes, before any spin lock is taken.
    fn alloc(&self) -> Result<NewFolio<'a, M>, FaultResult> {
        Ok(self.vm.alloc_page()?)
    }

    /// The last-level table, made if need be.
    fn table(&self) -> Result<PteTable<'a, M, G>, FaultResult> {
        Ok(self.slot.space.walk_alloc(&self.vm.frames, self.guard, self.va)?)
    }

    /// What an entry for a page of ours alone says: accessed, and for a write also dirty.
    fn attrs(&self) -> Attrs {
        let dirty = self.access == FaultAccess::Write;
        Attrs { prot: self.vma.protection(), young: true, dirty, uffd_wp: false }
    }
}

/// Resolves a fault of a VMA that allows the access.
///
/// # Locks
/// `fault.guard`, held throughout.
pub(crate) fn handle_mm_fault<M: Machine, G: FaultGuard<M>>(fault: &VmFault<'_, M, G>) -> FaultResult {
    loop {
        let result = handle_pte_fault(fault).unwrap_or_else(|stop| stop);
        match result {
            FaultResult::Reload => fault.vm.count(Event::FaultRetry),
            FaultResult::Done
            | FaultResult::NeedMmapLock
            | FaultResult::Oom
            | FaultResult::Segv
            | FaultResult::Bus => return result,
        }
    }
}

/// One attempt. An `Err` is a result like any other: it lets paths leave early.
fn handle_pte_fault<M: Machine, G: FaultGuard<M>>(
    fault: &VmFault<'_, M, G>,
) -> Result<FaultResult, FaultResult> {
    let table = fault.slot.space.walk(&fault.vm.frames, fault.guard, fault.va);
    match table.map_or(Pte::None, |table| table.peek(fault.va)) {
        Pte::None => match fault.vma.backing() {
            Backing::Anonymous => anon::do_anonymous_page(fault),
            Backing::Source(source) => source::do_source_fault(fault, source),
            Backing::Shared(object) => shared::do_shared_fault(fault, object),
        },
        Pte::Present(present) => do_present(fault, present),
        Pte::Soft(SoftLeaf::Marker(Marker::Guard)) => Err(FaultResult::Segv),
        Pte::Soft(SoftLeaf::Marker(Marker::Poisoned)) => Err(FaultResult::Bus),
        Pte::Soft(
            leaf @ (SoftLeaf::Swap { .. } | SoftLeaf::Migration { .. } | SoftLeaf::Marker(Marker::UffdWp)),
        ) => unreachable!("{leaf:?}: nothing makes such an entry"),
    }
}

/// The page is there: a write to a read-only entry, or bits to set.
fn do_present<M: Machine, G: FaultGuard<M>>(
    fault: &VmFault<'_, M, G>,
    seen: Present,
) -> Result<FaultResult, FaultResult> {
    let mut entries = fault.table()?.lock();
    let Pte::Present(present) = entries.get(fault.va) else { return Err(FaultResult::Reload) };
    if present.pfn != seen.pfn {
        return Err(FaultResult::Reload);
    }
    if fault.access == FaultAccess::Write && !present.prot.write {
        return wp::do_wp_page(fault, entries);
    }
    let dirty = match (fault.access, entries.mapped(fault.va)) {
        (FaultAccess::Write, Mapped::Exclusive(..) | Mapped::Shm(_)) => Dirty::Yes,
        _ => Dirty::No,
    };
    entries.upgrade(fault.va, dirty);
    drop(entries);
    // The entry allows the access, so it trapped because of a translation that is older than the entry.
    fault.vm.machine().flush_local(fault.slot.space.root(), fault.va);
    fault.vm.count(Event::FaultSpurious);
    Ok(FaultResult::Done)
}

impl<M: Machine> Mm<'_, M> {
    /// Resolves an access that trapped at `va`.
    ///
    /// # Locks
    /// Takes the mmap lock for reading, for writing if a stack grows. Sleeps.
    #[doc(alias = "do_user_addr_fault")]
    pub fn handle_fault(&self, va: Va, access: FaultAccess) -> FaultOutcome {
        self.vm.count(Event::Fault);
        let outcome = self.fault_under_mmap_lock(va, access);
        match outcome {
            FaultOutcome::Done => {}
            FaultOutcome::Oom => self.vm.count(Event::FaultOom),
            FaultOutcome::SegvMaperr | FaultOutcome::SegvAccerr => self.vm.count(Event::FaultSegv),
            FaultOutcome::Bus => self.vm.count(Event::FaultBus),
        }
        outcome
    }

    fn fault_under_mmap_lock(&self, va: Va, access: FaultAccess) -> FaultOutcome {
        let slot = self.slot();
        let guard = slot.read();
        match slot.tree.find(self.vm.nodes(), va) {
            Some((range, id)) if range.start <= va => self.fault_in_vma(&guard, id, va, access),
            Some((_, id)) if self.vm.vma(id).flags().contains(VmFlags::GROWSDOWN) => {
                drop(guard);
                self.fault_below_stack(va, access)
            }
            Some(_) | None => FaultOutcome::SegvMaperr,
        }
    }

    /// Checks the access against the VMA and resolves it.
    pub(crate) fn fault_in_vma<G: FaultGuard<M>>(
        &self,
        guard: &G,
        id: VmaId<M>,
        va: Va,
        access: FaultAccess,
    ) -> FaultOutcome {
        if !self.vm.vma(id).flags().intersects(access.needs()) {
            return FaultOutcome::SegvAccerr;
        }
        let fault = VmFault::new(self.vm, self.slot(), guard, id, va, access);
        match handle_mm_fault(&fault) {
            FaultResult::Done => FaultOutcome::Done,
            FaultResult::Oom => FaultOutcome::Oom,
            FaultResult::Segv => FaultOutcome::SegvMaperr,
            FaultResult::Bus => FaultOutcome::Bus,
            FaultResult::Reload | FaultResult::NeedMmapLock => unreachable!("the mmap lock is held"),
        }
    }
}

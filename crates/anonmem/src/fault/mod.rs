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
//!         ├─ swap entry ─────────────────────────────────▶ do_swap_page         found, or read
//!         ├─ migration entry ────────────────────────────▶ migration_entry_wait until the page has arrived
//!         └─ marker ─────────────────────────────────────▶ guard: SIGSEGV; poison: SIGBUS
//! ```
//!
//! A fault comes in with a guard that keeps its VMA, and every path is generic over which one it is
//! (`FaultGuard`). What a path may still assume when it is done is its result.
//!
//! Linux: mm/memory.c `handle_mm_fault`, `handle_pte_fault`; arch/x86/mm/fault.c `do_user_addr_fault`.

pub(crate) mod anon;
mod shared;
mod source;
mod speculative;
mod stack;
mod swap;
#[cfg(test)]
mod tests;
mod wp;

use crate::ids::{AnonVmaId, VmaId};
use crate::{
    events::Event,
    mm::{Mm, MmSlot, MmapHeld, MmapReadGuard, MmapWriteGuard},
    rmap::anon_vma::anon_vma_prepare,
    vm::{LockMode, Vm},
    vma::{Backing, Refusal, VmFlags, VmaReadGuard},
};
use anonmem_frame::{NewFolio, OutOfMemory};
use anonmem_hal::{Machine, Marker, Pte, SoftLeaf, Va};
use anonmem_pgtable::{Attrs, CanInstall, Cleared, Dirty, Mapped, PteGuard, PteSnapshot, PteTable};
use speculative::Speculation;

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

/// How often a fault without memory reclaims and tries again before it gives up.
const OOM_RETRIES: u32 = 16;

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
    /// Not under this guard, which is still held: try a stronger one.
    Refused(Refusal),
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

impl From<Refusal> for FaultResult {
    fn from(why: Refusal) -> Self {
        Self::Refused(why)
    }
}

/// A guard that a fault may run under: it keeps the VMA as it is and lets entries be filled, or can tell
/// under the page-table lock whether the VMA is still as it was.
pub(crate) trait FaultGuard<M: Machine>: CanInstall {
    /// The mmap lock, if that is what is held; without it a VMA cannot be given its first anon_vma.
    fn mmap(&self) -> Option<MmapHeld<'_, M>>;

    /// Whether page tables may be added.
    fn adds_tables(&self) -> Result<(), Refusal> {
        Ok(())
    }

    /// Whether the fault may sleep; if not, it is refused for `why`.
    fn sleeps(&self, _why: Refusal) -> Result<(), Refusal> {
        Ok(())
    }

    /// Whether what was read of the VMA still holds; asked under the page-table lock, before anything is changed.
    fn still_holds(&self) -> Result<(), Refusal> {
        Ok(())
    }
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

impl<M: Machine> FaultGuard<M> for VmaReadGuard<'_, M> {
    fn mmap(&self) -> Option<MmapHeld<'_, M>> {
        None
    }
}

/// One fault that is being resolved, with what it needs to know of its VMA, read once.
pub(crate) struct VmFault<'a, M: Machine, G> {
    pub(crate) vm: &'a Vm<M>,
    pub(crate) slot: &'a MmSlot<M>,
    /// What keeps the VMA, or tells whether it is still the same.
    pub(crate) guard: &'a G,
    id: VmaId,
    /// The page's address.
    pub(crate) va: Va,
    pub(crate) access: FaultAccess,
    flags: VmFlags,
    /// The page's linear index.
    index: u64,
    anon_vma: Option<AnonVmaId>,
}

impl<'a, M: Machine, G: FaultGuard<M>> VmFault<'a, M, G> {
    #[inline]
    pub(crate) fn new(
        vm: &'a Vm<M>,
        slot: &'a MmSlot<M>,
        guard: &'a G,
        id: VmaId,
        va: Va,
        access: FaultAccess,
    ) -> Self {
        let (vma, va) = (vm.vma(id), va.page_down());
        let (flags, index, anon_vma) = (vma.flags(), vma.index_of(va), vma.anon_vma());
        Self { vm, slot, guard, id, va, access, flags, index, anon_vma }
    }

    /// The anon_vma that a new page will belong to.
    fn anon_vma(&self) -> Result<AnonVmaId, FaultResult> {
        if let Some(anon_vma) = self.anon_vma {
            return Ok(anon_vma);
        }
        let mmap = self.guard.mmap().ok_or(Refusal::NoAnonVma)?;
        anon_vma_prepare(self.vm, mmap, self.id).map_err(|OutOfMemory| FaultResult::Oom)
    }

    /// A page for the fault's bytes, before any spin lock is taken.
    fn alloc(&self) -> Result<NewFolio<'a, M>, FaultResult> {
        match self.guard.sleeps(Refusal::WouldSleep) {
            Ok(()) => Ok(self.vm.alloc_page()?),
            Err(refusal) => self.vm.try_alloc_page().map_err(|OutOfMemory| refusal.into()),
        }
    }

    /// The last-level table, made if need be.
    fn table(&self) -> Result<PteTable<'a, M, G>, FaultResult> {
        if let Some(table) = self.slot.space.walk(&self.vm.frames, self.guard, self.va) {
            return Ok(table);
        }
        self.guard.adds_tables()?;
        Ok(self.slot.space.walk_alloc(&self.vm.frames, self.guard, self.va)?)
    }

    /// The table that a walk found, or else one that is made.
    #[inline(always)]
    fn found_or_made(&self, found: Option<PteTable<'a, M, G>>) -> Result<PteTable<'a, M, G>, FaultResult> {
        match found {
            Some(table) => Ok(table),
            None => self.table(),
        }
    }

    /// Locks the table, if what was read of the VMA still holds under the lock.
    #[inline]
    fn lock(&self, table: PteTable<'a, M, G>) -> Result<PteGuard<'a, M, G>, FaultResult> {
        let entries = table.lock();
        self.guard.still_holds()?;
        Ok(entries)
    }

    /// Locks the table again if the entry is the same, and what was read of the VMA still holds.
    fn relock(&self, snapshot: PteSnapshot<'a, M, G>) -> Result<PteGuard<'a, M, G>, FaultResult> {
        let entries = snapshot.lock_if_same().map_err(|_| FaultResult::Reload)?;
        self.guard.still_holds()?;
        Ok(entries)
    }

    /// The `answer` that ends a program, because of what the entry says: only if the entry says so under its lock, and what was
    /// read of the VMA still holds there. Races with mremap, which takes the table that was walked to another address (a guard
    /// that is installed there is none of ours), and with whoever brings the page in while its device fails to read it.
    #[cold]
    fn settled(&self, leaf: SoftLeaf, answer: FaultResult) -> FaultResult {
        let entries = match self.table().and_then(|table| self.lock(table)) {
            Ok(entries) => entries,
            Err(other) => return other,
        };
        if entries.get(self.va) == Pte::Soft(leaf) { answer } else { FaultResult::Reload }
    }

    /// What an entry for a page of ours alone says: accessed, and for a write also dirty.
    fn attrs(&self) -> Attrs {
        let dirty = self.access == FaultAccess::Write;
        Attrs { prot: self.flags.protection(), young: true, dirty, uffd_wp: false }
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
            | FaultResult::Refused(_)
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
        Pte::None => match fault.vm.vma(fault.id).backing() {
            Backing::Anonymous => anon::do_anonymous_page(fault, table),
            Backing::Source(source) => source::do_source_fault(fault, source),
            Backing::Shared(object) => shared::do_shared_fault(fault, object),
        },
        Pte::Present(_) => do_present(fault, fault.found_or_made(table)?),
        Pte::Soft(leaf) => do_soft(fault, table, leaf),
    }
}

/// The entry is software's. Out of line: the entries of most faults are empty.
#[inline(never)]
fn do_soft<'a, M: Machine, G: FaultGuard<M>>(
    fault: &VmFault<'a, M, G>,
    table: Option<PteTable<'a, M, G>>,
    leaf: SoftLeaf,
) -> Result<FaultResult, FaultResult> {
    match leaf {
        SoftLeaf::Marker(Marker::Guard) => Err(fault.settled(leaf, FaultResult::Segv)),
        SoftLeaf::Marker(Marker::Poisoned) => Err(fault.settled(leaf, FaultResult::Bus)),
        SoftLeaf::Marker(Marker::UffdWp) => clear_uffd_marker(fault, fault.found_or_made(table)?),
        SoftLeaf::Swap { entry, .. } => swap::do_swap_page(fault, leaf, entry),
        SoftLeaf::Migration { .. } => migration_entry_wait(fault),
    }
}

/// The page is on its way to another frame. Waits a moment and looks again; whoever moves it needs no more than the locks
/// that he has. No reference is taken to wait on the folio's lock: the folio could not be frozen then, so that those who
/// wait would keep what they wait for from happening.
fn migration_entry_wait<M: Machine, G: FaultGuard<M>>(
    fault: &VmFault<'_, M, G>,
) -> Result<FaultResult, FaultResult> {
    fault.guard.sleeps(Refusal::WouldSleep)?;
    M::yield_now();
    Err(FaultResult::Reload)
}

/// A marker of a userfaultfd that the VMA is no longer registered with says nothing: it goes, and the fault looks again.
#[doc(alias = "pte_marker_clear")]
fn clear_uffd_marker<'a, M: Machine, G: FaultGuard<M>>(
    fault: &VmFault<'a, M, G>,
    table: PteTable<'a, M, G>,
) -> Result<FaultResult, FaultResult> {
    let mut entries = fault.lock(table)?;
    if matches!(entries.mapped(fault.va), Mapped::Marker(Marker::UffdWp)) {
        let (Cleared::Marker(_), vacancy) = entries.take(fault.va) else { unreachable!("it was a marker") };
        vacancy.leave_empty();
    }
    Err(FaultResult::Reload)
}

/// The page is there: a write to a read-only entry, or bits to set.
fn do_present<'a, M: Machine, G: FaultGuard<M>>(
    fault: &VmFault<'a, M, G>,
    table: PteTable<'a, M, G>,
) -> Result<FaultResult, FaultResult> {
    let mut entries = fault.lock(table)?;
    let Pte::Present(present) = entries.get(fault.va) else { return Err(FaultResult::Reload) };
    if fault.access == FaultAccess::Write && !present.prot.write {
        return wp::do_wp_page(fault, entries);
    }
    let dirty = match (fault.access, entries.mapped(fault.va)) {
        (FaultAccess::Write, Mapped::Exclusive(..) | Mapped::Shm(_)) => Dirty::Yes,
        (FaultAccess::Read | FaultAccess::Write | FaultAccess::Exec, _) => Dirty::No,
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
        let mut outcome = self.fault_by_mode(va, access);
        // Whatever could not be had (a table, a chain) may be had when pages have left; no lock is held here.
        for _ in 0..OOM_RETRIES {
            if outcome != FaultOutcome::Oom || !self.vm.reclaim_some() {
                break;
            }
            outcome = self.fault_by_mode(va, access);
        }
        match outcome {
            FaultOutcome::Done => {}
            FaultOutcome::Oom => self.vm.count(Event::FaultOom),
            FaultOutcome::SegvMaperr | FaultOutcome::SegvAccerr => self.vm.count(Event::FaultSegv),
            FaultOutcome::Bus => self.vm.count(Event::FaultBus),
        }
        outcome
    }

    /// Tries what the lock mode says, then the next stronger ways, and counts why.
    fn fault_by_mode(&self, va: Va, access: FaultAccess) -> FaultOutcome {
        let mode = self.vm.config.lock_mode;
        if mode == LockMode::Speculative {
            match self.fault_speculatively(va, access) {
                Ok(outcome) => return outcome,
                Err(why) => self.vm.count(why.event()),
            }
        }
        if mode != LockMode::Mmap {
            match self.fault_under_vma_lock(va, access) {
                Ok(outcome) => return outcome,
                Err(why) => self.vm.count(why.event()),
            }
        }
        self.vm.count(Event::FaultMmapLock);
        self.fault_under_mmap_lock(va, access)
    }

    fn fault_speculatively(&self, va: Va, access: FaultAccess) -> Result<FaultOutcome, Refusal> {
        let (guard, id) = Speculation::begin(self.vm, self.slot(), self.id, va)?;
        let fault = VmFault::new(self.vm, self.slot(), &guard, id, va, access);
        guard.read_whole(va)?;
        let outcome = resolve(&fault)?;
        self.vm.count(Event::FaultSpeculative);
        Ok(outcome)
    }

    fn fault_under_vma_lock(&self, va: Va, access: FaultAccess) -> Result<FaultOutcome, Refusal> {
        let guard = self.vm.lock_vma(self.slot(), self.id, va)?;
        let fault = VmFault::new(self.vm, self.slot(), &guard, guard.id(), va, access);
        let outcome = resolve(&fault)?;
        self.vm.count(Event::FaultVmaLock);
        Ok(outcome)
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

    /// Checks the access against the VMA and resolves it, under the mmap lock.
    pub(crate) fn fault_in_vma<G: FaultGuard<M>>(
        &self,
        guard: &G,
        id: VmaId,
        va: Va,
        access: FaultAccess,
    ) -> FaultOutcome {
        let fault = VmFault::new(self.vm, self.slot(), guard, id, va, access);
        resolve(&fault).unwrap_or_else(|why| unreachable!("{why:?} under the mmap lock"))
    }
}

/// Checks the access against the VMA and resolves it.
fn resolve<M: Machine, G: FaultGuard<M>>(fault: &VmFault<'_, M, G>) -> Result<FaultOutcome, Refusal> {
    if !fault.flags.intersects(fault.access.needs()) {
        return Ok(FaultOutcome::SegvAccerr);
    }
    match handle_mm_fault(fault) {
        FaultResult::Done => Ok(FaultOutcome::Done),
        FaultResult::Oom => Ok(FaultOutcome::Oom),
        FaultResult::Segv => Ok(FaultOutcome::SegvMaperr),
        FaultResult::Bus => Ok(FaultOutcome::Bus),
        FaultResult::Refused(why) => Err(why),
        FaultResult::Reload => unreachable!("handle_mm_fault tries again by itself"),
    }
}

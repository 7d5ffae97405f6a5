//! Page faults: the dispatch.
//!
//! ```text
//!  an access traps
//!    │
//!    ├─ no VMA, or not allowed ──────────────────▶ SIGSEGV (a stack may grow)
//!    │
//!    └─ handle_mm_fault ── what is the entry?
//!         ├─ nothing ─┬─ a userfaultfd is asked ─▶ handle_userfault     the fault waits, and comes again
//!         │           ├─ shared object ──────────▶ do_shared_fault      the object's page
//!         │           ├─ source ─────────────────▶ do_source_fault      a page filled from it
//!         │           └─ anonymous ─┬─ read ─────▶ do_anonymous_page    the zero page
//!         │                         └─ write ────▶                      zeroes: a page, or a folio
//!         ├─ present ─┬─ a write, read-only ─────▶ do_wp_page           reuse or copy, or a userfaultfd
//!         │           ├─ a pin, may be shared ───▶                      the same, and still read-only
//!         │           └─ else ───────────────────▶ accessed, dirty; spurious
//!         ├─ leaf ─┬─ a write, read-only ────────▶ do_huge_wp_page      reuse, or split and look again
//!         │        └─ else ──────────────────────▶ as present; migrating: as a migration entry
//!         ├─ swap entry ─────────────────────────▶ do_swap_page         found, or read: a page, or a folio
//!         ├─ migration entry ────────────────────▶ migration_entry_wait until the page has arrived
//!         └─ marker ─────────────────────────────▶ guard: SIGSEGV; poison: SIGBUS; protected: as nothing
//! ```
//!
//! A fault comes in with a guard that keeps its VMA, and every path is generic over which one it is
//! (`FaultGuard`). What a path may still assume when it is done is its result.
//!
//! Linux: mm/memory.c `handle_mm_fault`, `handle_pte_fault`; arch/x86/mm/fault.c `do_user_addr_fault`.

pub(crate) mod anon;
mod huge;
mod leaf;
mod shared;
mod source;
pub(crate) mod speculative;
mod stack;
mod swap;
mod swap_copy;
mod swap_run;
#[cfg(test)]
mod tests;
pub(crate) mod vm_fault;
mod wp;

pub use vm_fault::{FaultAccess, FaultOutcome};

use crate::{
    config::LockMode,
    events::Event,
    fault::{
        speculative::Speculation,
        vm_fault::{FaultGuard, FaultResult, VmFault, Waits},
    },
    ids::{UffdMessageId, VmaId},
    migrate::put_back,
    mm::Mm,
    rmap::machine::Machine,
    userfaultfd::{
        context::UffdReason,
        fault::{asked_for, handle_userfault},
    },
    vma::{flags::VmFlags, refusal::Refusal, vma::Backing},
};
use anonmem_frame::FolioOwner;
use anonmem_hal::{Marker, Pte, SoftLeaf, Va};
use anonmem_pgtable::{Cleared, Mapped, PteTable, Walked, Writes};
use anonmem_sync::{lockdep, yield_now};

/// How often a fault without memory reclaims and tries again before it gives up.
const OOM_RETRIES: u32 = 16;

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
            | FaultResult::Userfault(_)
            | FaultResult::Oom
            | FaultResult::NodesFull(_)
            | FaultResult::Segv
            | FaultResult::Bus
            | FaultResult::Lost => return result,
        }
    }
}

/// One attempt. An `Err` is a result like any other: it lets paths leave early.
fn handle_pte_fault<M: Machine, G: FaultGuard<M>>(
    fault: &VmFault<'_, M, G>,
) -> Result<FaultResult, FaultResult> {
    let table = match fault.slot.space.walk(&fault.vm.frames, fault.guard, fault.va) {
        Some(Walked::Table(table)) => Some(table),
        Some(Walked::Leaf(place)) => return leaf::do_leaf(fault, place),
        None => None,
    };
    match table.map_or(Pte::None, |table| table.peek(fault.va)) {
        Pte::None if fault.vma.is_plain() => anon::do_anonymous_page(fault, table),
        Pte::None => do_empty(fault, table),
        Pte::Present(_) => do_present(fault, fault.found_or_made(table)?),
        Pte::Soft(leaf) => do_soft(fault, table, leaf),
    }
}

/// The entry is empty, and its page is more than one of zeroes.
#[inline(never)]
fn do_empty<'a, M: Machine, G: FaultGuard<M>>(
    fault: &VmFault<'a, M, G>,
    table: Option<PteTable<'a, M, G>>,
) -> Result<FaultResult, FaultResult> {
    let backing = fault.vma.backing();
    if let Some(reason) = asked_for(fault.flags, || fault.object_has_page(backing)) {
        return Err(handle_userfault(fault, reason));
    }
    match backing {
        Backing::Anonymous => anon::do_anonymous_page(fault, table),
        Backing::Source(source) => source::do_source_fault(fault, source),
        Backing::Shared(object) => shared::do_shared_fault(fault, object),
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
        SoftLeaf::Marker(Marker::Poisoned) => Err(fault.settled(leaf, FaultResult::Lost)),
        SoftLeaf::Marker(Marker::UffdWp) => do_uffd_marker(fault, fault.found_or_made(table)?),
        SoftLeaf::Swap { entry, .. } => swap::do_swap_page(fault, leaf, entry),
        SoftLeaf::Migration { .. } => migration_entry_wait(fault),
    }
}

/// The page is on its way to another frame. Waits a moment and looks again; whoever moves it needs no more
/// than the locks that he has. No reference is taken to wait on the folio's lock: it would keep what the
/// fault waits for from happening.
///
/// A page moves only while its folio is locked. If the fault gets the lock, the entry was left behind by a
/// move that is over (fork copied the entry to where the mover had looked already), and the page is put back.
fn migration_entry_wait<M: Machine, G: FaultGuard<M>>(
    fault: &VmFault<'_, M, G>,
) -> Result<FaultResult, FaultResult> {
    fault.guard.sleeps(Refusal::WouldSleep)?;
    let mut entries = fault.lock(fault.table()?)?;
    let Mapped::Migration(hold, _) = entries.mapped(fault.va) else { return Err(FaultResult::Reload) };
    let Some(lock) = hold.try_lock() else {
        drop(entries);
        yield_now::<M>();
        return Err(FaultResult::Reload);
    };
    let (Cleared::Migration(hold, bits), vacancy) = entries.take(fault.va) else {
        unreachable!("it was a migration entry, and is locked")
    };
    put_back(vacancy, hold, bits, fault.flags.protection());
    fault.vm.count(Event::MigrateLeftBehind);
    // The lock first: the mapping is all that keeps the folio, and may go once its table is not locked.
    drop(lock);
    drop(entries);
    Err(FaultResult::Reload)
}

/// An entry that is empty but for a userfaultfd's protection against writes. A page that is missing for the
/// userfaultfd is asked for; else a read finds what an empty entry would give it, protected, and a write is
/// asked for. Where nobody asks, because writes end their protection or the VMA is no longer registered, the
/// marker goes, and the fault looks again.
#[doc(alias("pte_marker_handle_uffd_wp", "pte_marker_clear"))]
fn do_uffd_marker<'a, M: Machine, G: FaultGuard<M>>(
    fault: &VmFault<'a, M, G>,
    table: PteTable<'a, M, G>,
) -> Result<FaultResult, FaultResult> {
    let backing = fault.vma.backing();
    if let Some(reason) = asked_for(fault.flags, || fault.object_has_page(backing)) {
        return Err(handle_userfault(fault, reason));
    }
    if fault.flags.contains(VmFlags::UFFD_WP) {
        match fault.access {
            FaultAccess::Write if !fault.uffd_is_async() => {
                return Err(handle_userfault(fault, UffdReason::WriteProtected));
            }
            FaultAccess::Read | FaultAccess::Exec | FaultAccess::Unshare if backing == Backing::Anonymous => {
                return anon::map_protected_zero_page(fault, table);
            }
            FaultAccess::Read | FaultAccess::Exec | FaultAccess::Unshare => {
                if let Backing::Shared(object) = backing {
                    return shared::map_protected_page(fault, object);
                }
            }
            FaultAccess::Write => {}
        }
    }
    let mut entries = fault.lock(table)?;
    if matches!(entries.mapped(fault.va), Mapped::Marker(Marker::UffdWp)) {
        let Cleared::Marker(_) = entries.clear(fault.va) else { unreachable!("it was a marker") };
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
    let breaks_sharing = match fault.access {
        FaultAccess::Write => !present.prot.write,
        FaultAccess::Unshare => true,
        FaultAccess::Read | FaultAccess::Exec => false,
    };
    if breaks_sharing {
        return wp::do_wp_page(fault, entries);
    }
    let writes = match (fault.access, entries.mapped(fault.va)) {
        (FaultAccess::Write, Mapped::Exclusive(..) | Mapped::Shm(_)) => Writes::Yes,
        (FaultAccess::Read | FaultAccess::Write | FaultAccess::Exec | FaultAccess::Unshare, _) => Writes::No,
    };
    entries.upgrade(fault.va, writes);
    drop(entries);
    // The entry allows the access, so it trapped because of a translation that is older than the entry.
    fault.vm.machine().flush_local(fault.slot.space.root(), fault.va);
    fault.vm.count(Event::FaultSpurious);
    Ok(FaultResult::Done)
}

impl<M: Machine> Mm<'_, M> {
    /// Resolves an access that trapped at `va`.
    ///
    /// ```
    /// # use anonmem::*;
    /// # anonmem_testkit::example(|_, mm| {
    /// let start = mm.mmap(MmapRequest::anonymous(4 * 4096, Prot::READ | Prot::WRITE))?;
    /// assert_eq!(mm.handle_fault(start, FaultAccess::Write), FaultOutcome::Done);
    /// assert_eq!(mm.handle_fault(Va(4096), FaultAccess::Read), FaultOutcome::SegvMaperr);
    /// # Ok(())
    /// # });
    /// ```
    ///
    /// # Locks
    /// Takes the mmap lock for reading, for writing if a stack grows. Sleeps.
    #[doc(alias = "do_user_addr_fault")]
    pub fn handle_fault(&self, va: Va, access: FaultAccess) -> FaultOutcome {
        self.handle_fault_of(va, access, Waits::Program)
    }

    /// The same for an access that the kernel makes for the program: a userfaultfd may not be told of it
    /// ([`UffdFaults::UserOnly`](crate::UffdFaults::UserOnly)).
    ///
    /// # Locks
    /// As [`handle_fault`](Self::handle_fault).
    pub fn handle_kernel_fault(&self, va: Va, access: FaultAccess) -> FaultOutcome {
        self.handle_fault_of(va, access, Waits::Kernel)
    }

    #[inline(always)]
    fn handle_fault_of(&self, va: Va, access: FaultAccess, waits: Waits) -> FaultOutcome {
        self.vm.count(Event::Fault);
        let mut outcome = self.fault_by_mode(va, access, waits);
        // Whatever could not be had (a table, a chain) may be had when pages have left; no lock is held here.
        // Where nodes are full their pages were asked already, and those of others would leave for nothing.
        for _ in 0..OOM_RETRIES {
            if outcome != FaultOutcome::Oom || !self.vm.reclaim_some() {
                break;
            }
            outcome = self.fault_by_mode(va, access, waits);
        }
        match outcome {
            FaultOutcome::Done => {}
            FaultOutcome::Oom | FaultOutcome::NodesFull(_) => self.vm.count(Event::FaultOom),
            FaultOutcome::SegvMaperr | FaultOutcome::SegvAccerr => self.vm.count(Event::FaultSegv),
            FaultOutcome::Bus | FaultOutcome::Lost => self.vm.count(Event::FaultBus),
        }
        lockdep::assert_none_held::<M>();
        outcome
    }

    /// Tries what the lock mode says, then the next stronger ways, and counts why.
    fn fault_by_mode(&self, va: Va, access: FaultAccess, waits: Waits) -> FaultOutcome {
        let mode = self.vm.config.lock_mode;
        if mode == LockMode::Speculative {
            match self.fault_speculatively(va, access, waits) {
                Ok(outcome) => return outcome,
                Err(Stop::Refused(Refusal::LeafIsBack)) => {
                    self.leaf_is_back(va);
                    return FaultOutcome::Done;
                }
                Err(Stop::Refused(why)) => self.vm.count(why.event()),
                Err(Stop::Userfault(message)) => return self.vm.wait_for_userfault(message, waits),
            }
        }
        if mode != LockMode::Mmap {
            match self.fault_under_vma_lock(va, access, waits) {
                Ok(outcome) => return outcome,
                Err(Stop::Refused(Refusal::LeafIsBack)) => {
                    self.leaf_is_back(va);
                    return FaultOutcome::Done;
                }
                Err(Stop::Refused(why)) => self.vm.count(why.event()),
                Err(Stop::Userfault(message)) => return self.vm.wait_for_userfault(message, waits),
            }
        }
        self.vm.count(Event::FaultMmapLock);
        match self.fault_under_mmap_lock(va, access, waits) {
            Ok(outcome) => outcome,
            Err(message) => self.vm.wait_for_userfault(message, waits),
        }
    }

    fn fault_speculatively(&self, va: Va, access: FaultAccess, waits: Waits) -> Result<FaultOutcome, Stop> {
        let slot = self.slot();
        let (guard, id) = Speculation::begin(self.vm, slot, self.id, va)?;
        let fault = VmFault::new(self.vm, slot, &guard, id, va, access, waits);
        guard.read_whole(va)?;
        let outcome = resolve(&fault)?;
        self.vm.count(Event::FaultSpeculative);
        Ok(outcome)
    }

    fn fault_under_vma_lock(&self, va: Va, access: FaultAccess, waits: Waits) -> Result<FaultOutcome, Stop> {
        let slot = self.slot();
        let guard = self.vm.lock_vma(slot, self.id, va)?;
        let fault = VmFault::of_vma(self.vm, slot, &guard, (guard.id(), guard.vma()), va, access, waits);
        let outcome = resolve(&fault)?;
        self.vm.count(Event::FaultVmaLock);
        Ok(outcome)
    }

    /// # Errors
    /// The message that a userfaultfd was sent: wait for its answer.
    fn fault_under_mmap_lock(
        &self,
        va: Va,
        access: FaultAccess,
        waits: Waits,
    ) -> Result<FaultOutcome, UffdMessageId> {
        let guard = self.read();
        if let Ok(vma) = self.vm.find_vma(&guard, va, &self.vm.cpus.this().last) {
            return match resolve(&VmFault::of_vma(self.vm, guard.slot(), &guard, vma, va, access, waits)) {
                Ok(outcome) => Ok(outcome),
                Err(Stop::Userfault(message)) => Err(message),
                Err(Stop::Refused(Refusal::LeafIsBack)) => {
                    drop(guard);
                    self.leaf_is_back(va);
                    Ok(FaultOutcome::Done)
                }
                Err(Stop::Refused(why)) => unreachable!("{why:?} under the mmap lock"),
            };
        }
        match guard.slot().tree.find(self.vm.nodes(), va) {
            Some((_, id)) if self.vm.vma(id).flags().contains(VmFlags::GROWSDOWN) => {
                drop(guard);
                self.fault_below_stack(va, access, waits)
            }
            Some(_) | None => Ok(FaultOutcome::SegvMaperr),
        }
    }

    /// Checks the access against the VMA and resolves it, under the mmap lock.
    ///
    /// # Errors
    /// The message that a userfaultfd was sent: let go of the lock, and wait for its answer.
    pub(crate) fn fault_in_vma<G: FaultGuard<M>>(
        &self,
        guard: &G,
        id: VmaId,
        va: Va,
        access: FaultAccess,
        waits: Waits,
    ) -> Result<FaultOutcome, UffdMessageId> {
        let held = guard.mmap().expect("the caller holds the mmap lock");
        let fault = VmFault::new(self.vm, held.slot(), guard, id, va, access, waits);
        match resolve(&fault) {
            Ok(outcome) => Ok(outcome),
            Err(Stop::Userfault(message)) => Err(message),
            // Whoever holds the lock for more than this fault has use for the pages.
            Err(Stop::Refused(Refusal::LeafIsBack)) => Ok(FaultOutcome::Done),
            Err(Stop::Refused(why)) => unreachable!("{why:?} under the mmap lock"),
        }
    }
}

/// Why a fault did not end under the guard that it had.
enum Stop {
    /// A stronger one is needed.
    Refused(Refusal),
    /// None may be held while a userfaultfd answers this message.
    Userfault(UffdMessageId),
}

impl From<Refusal> for Stop {
    fn from(why: Refusal) -> Self {
        Self::Refused(why)
    }
}

/// Checks the access against the VMA and resolves it.
fn resolve<M: Machine, G: FaultGuard<M>>(fault: &VmFault<'_, M, G>) -> Result<FaultOutcome, Stop> {
    if !fault.flags.intersects(fault.access.needs()) {
        return Ok(FaultOutcome::SegvAccerr);
    }
    match handle_mm_fault(fault) {
        FaultResult::Done => Ok(FaultOutcome::Done),
        FaultResult::Oom => Ok(FaultOutcome::Oom),
        FaultResult::NodesFull(nodes) => Ok(FaultOutcome::NodesFull(nodes)),
        FaultResult::Segv => Ok(FaultOutcome::SegvMaperr),
        FaultResult::Bus => Ok(FaultOutcome::Bus),
        FaultResult::Lost => Ok(FaultOutcome::Lost),
        FaultResult::Refused(why) => Err(why.into()),
        FaultResult::Userfault(message) => Err(Stop::Userfault(message)),
        FaultResult::Reload => unreachable!("handle_mm_fault tries again by itself"),
    }
}

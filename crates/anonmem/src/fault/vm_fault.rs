//! One fault: what it knows of its VMA, and what its paths may assume.

use crate::{
    events::Event,
    ids::{UffdMessageId, VmaId},
    mm::{
        mmap_lock::{MmapHeld, MmapReadGuard, MmapWriteGuard},
        slot::MmSlot,
    },
    reclaim::placed::Short,
    rmap::machine::Machine,
    rmap::{
        Rmap,
        reverse_map::{ReverseMap, Stamp},
    },
    vm::Vm,
    vma::{flags::VmFlags, lock::VmaReadGuard, refusal::Refusal, vma::Vma},
};
use anonmem_frame::{NewFolio, OutOfMemory};
use anonmem_hal::{NodeMode, NodePolicy, NodeSet, Order, Present, Pte, SoftLeaf, Va};
use anonmem_pgtable::{Attrs, CanInstall, PteGuard, PteSnapshot, PteTable, Walked, Writes};

/// What an access does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FaultAccess {
    /// Loads.
    Read,
    /// Stores.
    Write,
    /// Fetches an instruction.
    Exec,
    /// Nothing yet: somebody is about to pin the page for reading, and it must be nobody else's before. What
    /// the entry allows stays as it was. Linux: `FAULT_FLAG_UNSHARE`.
    Unshare,
}

impl FaultAccess {
    /// What the VMA must allow, any of it.
    pub(super) const fn needs(self) -> VmFlags {
        match self {
            // Any permission implies reading, as on x86.
            Self::Read | Self::Unshare => VmFlags::ACCESS,
            Self::Write => VmFlags::WRITE,
            Self::Exec => VmFlags::EXEC,
        }
    }
}

impl FaultAccess {
    /// What a copy of a shared page is counted as: for whom it was made.
    pub(super) const fn copied(self) -> Event {
        match self {
            Self::Unshare => Event::FaultUnshare,
            Self::Read | Self::Write | Self::Exec => Event::FaultCowCopy,
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
    /// No memory on these nodes, and the policy allows no others: memory of others would not help.
    #[doc(alias = "CONSTRAINT_MEMORY_POLICY")]
    NodesFull(NodeSet),
    /// No mapping there (SIGSEGV, `SEGV_MAPERR`).
    SegvMaperr,
    /// The mapping does not allow it (SIGSEGV, `SEGV_ACCERR`).
    SegvAccerr,
    /// The bytes cannot be had (SIGBUS, `BUS_ADRERR`).
    Bus,
    /// The bytes were there and are lost (SIGBUS, `BUS_MCEERR_AR`).
    Lost,
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
    /// A userfaultfd was asked: let go of all locks, wait, and fault again.
    Userfault(UffdMessageId),
    /// No memory.
    Oom,
    /// No memory on these nodes, and the page may lie on no others. Their pages were asked to leave.
    NodesFull(NodeSet),
    /// The address has a guard marker.
    Segv,
    /// The bytes cannot be had.
    Bus,
    /// The bytes were there and are lost.
    Lost,
}

impl From<OutOfMemory> for FaultResult {
    fn from(OutOfMemory: OutOfMemory) -> Self {
        Self::Oom
    }
}

impl From<Short> for FaultResult {
    fn from(short: Short) -> Self {
        match short {
            Short::Memory => Self::Oom,
            Short::Nodes(nodes) => Self::NodesFull(nodes),
        }
    }
}

impl From<Refusal> for FaultResult {
    fn from(why: Refusal) -> Self {
        Self::Refused(why)
    }
}

/// For whom a fault may wait for a userfaultfd.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Waits {
    /// For a program, whose access trapped.
    Program,
    /// For the kernel, which works for a program.
    Kernel,
    /// It may not: the caller holds locks.
    Never,
}

/// A guard that a fault may run under: it keeps the VMA as it is and lets entries be filled, or can tell
/// under the page-table lock whether the VMA is still as it was.
pub(crate) trait FaultGuard<M: Machine>: CanInstall<M> {
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

    /// Whether what was read of the VMA still holds; asked under the page-table lock, before anything is
    /// changed.
    fn still_holds(&self) -> Result<(), Refusal> {
        Ok(())
    }

    /// Checks, in tests, that the VMA still covers the address whose entry is locked. The lock that is held
    /// keeps it so; whoever holds none says so here.
    fn check_covers(&self, vma: &Vma<M>, va: Va) {
        anonmem_hal::debug_check!(M, vma.covered_at_rest().contains(va), "an entry outside of the VMA");
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
    pub(crate) id: VmaId,
    /// The VMA, found once.
    pub(crate) vma: &'a Vma<M>,
    /// The page's address.
    pub(crate) va: Va,
    /// The address that was accessed.
    pub(crate) exact: Va,
    pub(crate) waits: Waits,
    pub(crate) access: FaultAccess,
    pub(crate) flags: VmFlags,
    /// The page's linear index.
    pub(super) index: u64,
    pub(super) anon_vma: Option<Stamp>,
}

impl<'a, M: Machine, G: FaultGuard<M>> VmFault<'a, M, G> {
    #[inline]
    pub(crate) fn new(
        vm: &'a Vm<M>,
        slot: &'a MmSlot<M>,
        guard: &'a G,
        id: VmaId,
        exact: Va,
        access: FaultAccess,
        waits: Waits,
    ) -> Self {
        Self::of_vma(vm, slot, guard, (id, vm.vma(id)), exact, access, waits)
    }

    /// The same for whoever has looked the VMA up.
    #[inline]
    pub(crate) fn of_vma(
        vm: &'a Vm<M>,
        slot: &'a MmSlot<M>,
        guard: &'a G,
        (id, vma): (VmaId, &'a Vma<M>),
        exact: Va,
        access: FaultAccess,
        waits: Waits,
    ) -> Self {
        let va = exact.page_down();
        let (flags, index, anon_vma) = (vma.flags(), vma.index_of(va), Rmap::<M>::stamp(vm, slot, vma));
        Self { vm, slot, guard, id, vma, va, exact, waits, access, flags, index, anon_vma }
    }

    /// The anon_vma that a new page will belong to.
    pub(super) fn anon_vma(&self) -> Result<Stamp, FaultResult> {
        if let Some(anon_vma) = self.anon_vma {
            return Ok(anon_vma);
        }
        let mmap = self.guard.mmap().ok_or(Refusal::NoAnonVma)?;
        Rmap::<M>::prepare(self.vm, mmap, self.id).map_err(|OutOfMemory| FaultResult::Oom)
    }

    /// A page for the fault's bytes, before any spin lock is taken.
    pub(super) fn alloc(&self) -> Result<NewFolio<'a, M>, FaultResult> {
        self.alloc_nth(self.node_policy(), 0)
    }

    /// The same for the page `nth` after the fault's; [`node_policy`](Self::node_policy) was asked before.
    #[inline(always)]
    pub(super) fn alloc_nth(
        &self,
        policy: Option<NodePolicy>,
        nth: u64,
    ) -> Result<NewFolio<'a, M>, FaultResult> {
        if let Some(policy) = policy {
            return self.alloc_placed(policy, self.index + nth);
        }
        match self.guard.sleeps(Refusal::WouldSleep) {
            Ok(()) => Ok(self.vm.alloc_page()?),
            Err(refusal) => self.vm.try_alloc_page().map_err(|OutOfMemory| refusal.into()),
        }
    }

    /// Where the page is to lie, if anybody cares.
    #[inline(always)]
    pub(super) fn node_policy(&self) -> Option<NodePolicy> {
        let asks = self.flags.intersects(VmFlags::NODE_POLICY) || M::node_policy() != NodePolicy::DEFAULT;
        if asks { Some(self.policy_that_asks()) } else { None }
    }

    /// The mapping's policy comes before the task's.
    #[cold]
    fn policy_that_asks(&self) -> NodePolicy {
        let own = self.flags.node_policy();
        if own.mode == NodeMode::Default { M::node_policy() } else { own }
    }

    #[cold]
    #[inline(never)]
    fn alloc_placed(&self, policy: NodePolicy, index: u64) -> Result<NewFolio<'a, M>, FaultResult> {
        match self.guard.sleeps(Refusal::WouldSleep) {
            Ok(()) => Ok(self.vm.alloc_page_placed(policy, index)?),
            Err(refusal) => {
                let found = self.vm.alloc_placed_gently(Order::ZERO, policy, index);
                found.map_err(|OutOfMemory| refusal.into())
            }
        }
    }

    /// A block for a folio that the fault can do without: of what is at hand.
    pub(super) fn alloc_block(&self, order: Order) -> Result<NewFolio<'a, M>, OutOfMemory> {
        match self.node_policy() {
            None => self.vm.frames.alloc_gently(order),
            Some(policy) => self.vm.alloc_placed_gently(order, policy, self.index >> order.get()),
        }
    }

    /// The last-level table, made if need be. Where a leaf has come meanwhile, the fault looks again.
    pub(super) fn table(&self) -> Result<PteTable<'a, M, G>, FaultResult> {
        let found = match self.slot.space.walk(&self.vm.frames, self.guard, self.va) {
            Some(found) => found,
            None => {
                self.guard.adds_tables()?;
                self.slot.space.walk_alloc(&self.vm.frames, self.guard, self.va)?
            }
        };
        match found {
            Walked::Table(table) => Ok(table),
            Walked::Leaf(_) => Err(FaultResult::Reload),
        }
    }

    /// The table that a walk found, or else one that is made.
    #[inline(always)]
    pub(super) fn found_or_made(
        &self,
        found: Option<PteTable<'a, M, G>>,
    ) -> Result<PteTable<'a, M, G>, FaultResult> {
        match found {
            Some(table) => Ok(table),
            None => self.table(),
        }
    }

    /// Locks the table, if what was read of the VMA still holds under the lock.
    #[inline]
    pub(crate) fn lock(&self, table: PteTable<'a, M, G>) -> Result<PteGuard<'a, M, G>, FaultResult> {
        self.locked(table.lock())
    }

    /// Locks the table again if the entry is the same, and what was read of the VMA still holds.
    pub(super) fn relock(&self, snapshot: PteSnapshot<'a, M, G>) -> Result<PteGuard<'a, M, G>, FaultResult> {
        self.locked(snapshot.lock_if_same().map_err(|_| FaultResult::Reload)?)
    }

    #[inline(always)]
    fn locked(&self, entries: PteGuard<'a, M, G>) -> Result<PteGuard<'a, M, G>, FaultResult> {
        self.guard.still_holds()?;
        self.guard.check_covers(self.vma, self.va);
        Ok(entries)
    }

    /// The `answer` that ends a program, because of what the entry says: only if the entry says so under its
    /// lock, and what was read of the VMA still holds there. Races with mremap, which takes the table that
    /// was walked to another address (a guard that is installed there is none of ours), and with whoever
    /// brings the page in while its device fails to read it.
    #[cold]
    pub(super) fn settled(&self, leaf: SoftLeaf, answer: FaultResult) -> FaultResult {
        let entries = match self.table().and_then(|table| self.lock(table)) {
            Ok(entries) => entries,
            Err(other) => return other,
        };
        if entries.get(self.va) == Pte::Soft(leaf) { answer } else { FaultResult::Reload }
    }

    /// What an entry for a page of ours alone says: accessed, and for a write also dirty.
    #[inline(always)]
    pub(super) fn attrs(&self) -> Attrs {
        let dirty = self.access == FaultAccess::Write;
        Attrs { prot: self.flags.protection(), young: true, dirty, uffd_wp: false, soft_clean: false }
    }

    /// The same for a page that has contents from elsewhere: only a write makes it soft-dirty.
    pub(super) fn attrs_of_content(&self) -> Attrs {
        let attrs = self.attrs();
        let read = self.access != FaultAccess::Write;
        if read && self.flags.contains(VmFlags::SOFT_CLEAN) { attrs.soft_clean() } else { attrs }
    }

    /// What the entry for a copy says, in place of the one for the old page. A page that is only unshared is
    /// not written yet: the first write says so.
    pub(super) fn attrs_of_copy(&self, old: Present) -> Attrs {
        let attrs = self.attrs();
        match self.access {
            FaultAccess::Unshare => {
                let Present { uffd_wp, soft_clean, .. } = old;
                Attrs { prot: attrs.prot.write_protected(), uffd_wp, soft_clean, ..attrs }
            }
            FaultAccess::Read | FaultAccess::Write | FaultAccess::Exec => attrs,
        }
    }

    /// Whether the entry becomes dirty and writable. A write that is forced upon a mapping that does not
    /// allow it (a debugger's) leaves it read-only.
    pub(super) fn writes(&self) -> Writes {
        let writes = self.access == FaultAccess::Write && self.flags.contains(VmFlags::WRITE);
        if writes { Writes::Yes } else { Writes::No }
    }

    /// Makes the entry of a page that is ours alone what the access needs.
    pub(super) fn upgrade(&self, entries: &mut PteGuard<'a, M, G>) {
        let writes = self.writes();
        entries.upgrade(self.va, writes);
        match writes {
            Writes::Yes => {}
            Writes::No => self.note_forced(entries),
        }
    }

    /// A write that is forced leaves the entry read-only, and is a write all the same.
    #[cold]
    fn note_forced(&self, entries: &mut PteGuard<'a, M, G>) {
        if self.access == FaultAccess::Write {
            entries.soft_dirty(self.va);
        }
    }
}

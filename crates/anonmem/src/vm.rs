//! The root value: a memory manager over one machine's frames.
//!
//! There is no global state: a test makes a [`Vm`], uses it, drops it, and what leaked shows. All address
//! spaces, VMAs, anon_vmas and frames belong to one `Vm` and are reached through it.

use crate::ids::{VmaId, VmaTag};
use crate::{
    commit::{Overcommit, OvercommitPolicy},
    events::{Event, Events, NR_EVENTS},
    mm::MmSlot,
    reclaim::{ClockHand, Kswapd, Reclaimers, Workingset},
    rmap::anon_vma::{AnonVma, AnonVmaChain},
    shm::ShmObject,
    swap::SwapDevices,
    vma::{
        VmFlags, Vma,
        tree::{Nodes, TreeNode},
    },
};
use anonmem_frame::{Field, Frames, FramesError, Link, NewFolio, OutOfMemory, Place, Slab};
use anonmem_hal::{CpuId, Machine, NrPages, Order, PAGE_SHIFT};
use anonmem_pgtable::{AddressSpace, DeadTables, MmuGather, Teardown};
use anonmem_sync::{Atomic, CachePadded, Ordering, PerCpu, Rcu};
use core::mem::offset_of;

/// What a fault holds. Each mode falls back to the next stronger one, and counts why.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum LockMode {
    /// The mmap lock.
    #[default]
    Mmap,
    /// The VMA's own lock; else the mmap lock.
    Vma,
    /// No VMA lock at all: what was read is checked when the page is installed. Else the VMA's lock.
    Speculative,
}

/// What a [`Vm`] is made with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Config {
    /// What a fault holds.
    pub lock_mode: LockMode,
    /// How much may be promised at first; [`Vm::set_overcommit`] changes it.
    pub overcommit: Overcommit,
    /// The most mappings of one address space. Linux: /proc/sys/vm/max_map_count.
    pub max_map_count: u32,
    /// The lowest address that may be mapped. Linux: /proc/sys/vm/mmap_min_addr.
    pub mmap_min_addr: u64,
    /// Bytes that are left free below a stack. Linux: the boot parameter `stack_guard_gap`.
    pub stack_guard_gap: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            lock_mode: LockMode::Mmap,
            overcommit: Overcommit::Heuristic,
            max_map_count: 65_530,
            mmap_min_addr: 65_536,
            stack_guard_gap: 256 * 4096,
        }
    }
}

/// A memory manager.
pub struct Vm<M: Machine> {
    pub(crate) frames: Frames<M>,
    pub(crate) rcu: Rcu<M>,
    pub(crate) dead_tables: DeadTables<M>,
    pub(crate) mms: Slab<M, MmSlot<M>>,
    pub(crate) vmas: Slab<M, Vma<M>>,
    pub(crate) tree_nodes: Slab<M, TreeNode<M>>,
    pub(crate) anon_vmas: Slab<M, AnonVma<M>>,
    pub(crate) chains: Slab<M, AnonVmaChain<M>>,
    pub(crate) shm_objects: Slab<M, ShmObject<M>>,
    pub(crate) swap: SwapDevices<M>,
    pub(crate) clock: ClockHand<M>,
    pub(crate) reclaimers: Reclaimers<M>,
    pub(crate) workingset: Workingset<M>,
    pub(crate) kswapd: Kswapd<M>,
    /// Whether any page was ever marked for lazy freeing.
    pub(crate) lazyfree_used: Atomic<u32, M>,
    pub(crate) events: Events<M>,
    /// The VMA that each CPU found last without the mmap lock.
    pub(crate) last_vma: PerCpu<Atomic<Link<VmaTag>, M>, M>,
    pub(crate) config: Config,
    pub(crate) overcommit: OvercommitPolicy<M>,
    /// Pages promised to all address spaces and shared objects.
    pub(crate) committed: CachePadded<Atomic<i64, M>>,
}

impl<M: Machine> Vm<M> {
    /// Takes over the memory of `machine`.
    ///
    /// # Errors
    /// If there is no frame or too many ([`FramesError`]).
    pub fn new(machine: M, config: Config) -> Result<Self, FramesError> {
        let frames = Frames::new(machine)?;
        Ok(Self {
            rcu: Rcu::new(),
            dead_tables: DeadTables::new(),
            mms: Slab::new(&frames),
            vmas: Slab::new(&frames),
            tree_nodes: Slab::new(&frames),
            anon_vmas: Slab::new(&frames),
            chains: Slab::new(&frames),
            shm_objects: Slab::new(&frames),
            swap: SwapDevices::new(),
            clock: ClockHand::new(),
            reclaimers: Reclaimers::new(),
            workingset: Workingset::new(frames.machine().nr_frames()),
            kswapd: Kswapd::new(),
            lazyfree_used: Atomic::new(0),
            last_vma: PerCpu::new(|_| Atomic::new(Link::NONE)),
            events: Events::new(),
            overcommit: OvercommitPolicy::new(config.overcommit),
            committed: CachePadded(Atomic::new(0)),
            frames,
            config,
        })
    }

    /// The machine.
    pub fn machine(&self) -> &M {
        self.frames.machine()
    }

    /// The frames, for the kernel's own needs.
    pub fn frames(&self) -> &Frames<M> {
        &self.frames
    }

    /// What it was made with.
    pub fn config(&self) -> &Config {
        &self.config
    }

    #[inline]
    pub(crate) fn nodes(&self) -> Nodes<'_, M> {
        Nodes { slab: &self.tree_nodes, frames: &self.frames }
    }

    /// Pages that are left free below a stack.
    pub(crate) fn stack_guard_pages(&self) -> NrPages {
        NrPages(self.config.stack_guard_gap >> PAGE_SHIFT)
    }

    /// Pages that are left free below a VMA with these attributes.
    pub(crate) fn guard_below(&self, flags: VmFlags) -> NrPages {
        if flags.contains(VmFlags::GROWSDOWN) { self.stack_guard_pages() } else { NrPages(0) }
    }

    /// The slot of a VMA; it may be another use of it.
    #[inline]
    pub(crate) fn vma(&self, id: VmaId) -> &Vma<M> {
        self.vmas.get(&self.frames, id)
    }

    #[inline]
    pub(crate) fn count(&self, event: Event) {
        self.events.count(event);
    }

    /// Starts gathering what is unmapped from `space`.
    #[inline]
    pub(crate) fn gather<'a>(&'a self, space: &'a AddressSpace<M>, teardown: Teardown) -> MmuGather<'a, M> {
        MmuGather::new(&self.frames, space, &self.rcu, &self.dead_tables, teardown)
    }

    /// A page for user memory, its bytes whatever they were; without waiting.
    #[inline]
    pub(crate) fn try_alloc_page(&self) -> Result<NewFolio<'_, M>, OutOfMemory> {
        let page = self.frames.alloc(Order::ZERO);
        self.wake_kswapd();
        page
    }

    /// A page for user memory, its bytes whatever they were. If there is none, makes others leave. Sleeps.
    ///
    /// # Locks
    /// The caller may hold the mmap lock; no folio, anon_vma or spin lock.
    #[inline]
    pub(crate) fn alloc_page(&self) -> Result<NewFolio<'_, M>, OutOfMemory> {
        match self.try_alloc_page() {
            Ok(page) => Ok(page),
            Err(OutOfMemory) => self.alloc_page_slow(),
        }
    }

    #[cold]
    #[doc(alias = "__alloc_pages_slowpath")]
    fn alloc_page_slow(&self) -> Result<NewFolio<'_, M>, OutOfMemory> {
        self.count(Event::DirectReclaim);
        while self.reclaim_some() {
            if let Ok(page) = self.frames.alloc(Order::ZERO) {
                return Ok(page);
            }
        }
        self.frames.alloc(Order::ZERO)
    }

    /// Frees page tables whose grace period has passed; for idle time and before giving up.
    pub fn reap(&self) {
        self.dead_tables.reap(&self.frames, &self.rcu);
    }

    /// Waits until all page tables that were unlinked are free.
    pub fn drain(&self) {
        self.dead_tables.drain(&self.frames, &self.rcu);
    }

    /// What `address` is, if it is in the memory manager or one of its objects: for displays.
    pub fn place_of(&self, address: usize) -> Option<Place> {
        let frames = &self.frames;
        let offset = address.wrapping_sub(core::ptr::from_ref(self).addr());
        if let Some(inside) =
            offset.checked_sub(offset_of!(Self, frames)).filter(|i| *i < size_of::<Frames<M>>())
        {
            return Some(Place::new("vm", None, Frames::<M>::FIELDS, inside));
        }
        if offset < size_of::<Self>() {
            return Some(Place::new("vm", None, Self::FIELDS, offset));
        }
        self.mms
            .place_of(frames, address)
            .or_else(|| self.vmas.place_of(frames, address))
            .or_else(|| self.tree_nodes.place_of(frames, address))
            .or_else(|| self.anon_vmas.place_of(frames, address))
            .or_else(|| self.chains.place_of(frames, address))
            .or_else(|| self.shm_objects.place_of(frames, address))
            .or_else(|| frames.place_of(address))
    }

    const FIELDS: &'static [Field] = &[
        Field::new("frames", offset_of!(Self, frames)),
        Field::new("rcu", offset_of!(Self, rcu)),
        Field::new("dead_tables", offset_of!(Self, dead_tables)),
        Field::new("mms", offset_of!(Self, mms)),
        Field::new("vmas", offset_of!(Self, vmas)),
        Field::new("tree_nodes", offset_of!(Self, tree_nodes)),
        Field::new("anon_vmas", offset_of!(Self, anon_vmas)),
        Field::new("chains", offset_of!(Self, chains)),
        Field::new("shm_objects", offset_of!(Self, shm_objects)),
        Field::new("swap", offset_of!(Self, swap)),
        Field::new("clock", offset_of!(Self, clock)),
        Field::new("reclaimers", offset_of!(Self, reclaimers)),
        Field::new("kswapd", offset_of!(Self, kswapd)),
        Field::new("lazyfree_used", offset_of!(Self, lazyfree_used)),
        Field::new("events", offset_of!(Self, events)),
        Field::new("last_vma", offset_of!(Self, last_vma)),
        Field::new("config", offset_of!(Self, config)),
        Field::new("overcommit", offset_of!(Self, overcommit)),
        Field::new("committed", offset_of!(Self, committed)),
    ];

    /// A snapshot of all counters.
    pub fn stats(&self) -> Stats {
        let usage = self.frames.usage();
        Stats {
            events: core::array::from_fn(|i| self.events.total(Event::ALL[i])),
            frames: self.machine().nr_frames(),
            free: usage.free.0,
            peak_used: usage.peak.0,
            user: usage.folios.0,
            tables: usage.tables.0,
            slabs: usage.slabs.0,
            kernel: usage.kernel.0,
            committed: self.committed.load(Ordering::Relaxed).max(0) as u64,
            mms: self.mms.live(),
            vmas: self.vmas.live(),
            anon_vmas: self.anon_vmas.live(),
            chains: self.chains.live(),
            shared_objects: self.shm_objects.live(),
            peak_anon_vmas: self.anon_vmas.peak(),
            peak_chains: self.chains.peak(),
        }
    }

    /// How often `event` happened on `cpu`.
    pub fn events_on(&self, cpu: CpuId, event: Event) -> u64 {
        self.events.on(cpu, event)
    }
}

/// Counters of a [`Vm`] at one time. Frames and pages are base pages.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stats {
    events: [u64; NR_EVENTS],
    /// All frames.
    pub frames: u64,
    /// Free frames.
    pub free: u64,
    /// The most frames in use at once.
    pub peak_used: u64,
    /// Frames that hold user pages.
    pub user: u64,
    /// Frames of page tables.
    pub tables: u64,
    /// Frames of slabs.
    pub slabs: u64,
    /// Frames that the kernel took for itself.
    pub kernel: u64,
    /// Pages promised (`Committed_AS`).
    pub committed: u64,
    /// Address spaces.
    pub mms: u64,
    /// VMAs.
    pub vmas: u64,
    /// anon_vmas.
    pub anon_vmas: u64,
    /// Links between VMAs and anon_vmas.
    pub chains: u64,
    /// Shared objects.
    pub shared_objects: u64,
    /// The most anon_vmas at once.
    pub peak_anon_vmas: u64,
    /// The most links at once.
    pub peak_chains: u64,
}

impl Stats {
    /// How often `event` happened.
    pub const fn event(&self, event: Event) -> u64 {
        self.events[event as usize]
    }
}

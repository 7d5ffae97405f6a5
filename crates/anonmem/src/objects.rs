//! What operations are given: the frames, and all objects that live in them.
//!
//! Everything that has no policy of its own takes an [`Objects`] and nothing above it: reverse mapping, VMAs,
//! page tables, swap slots, shared objects. What reclaims, and so may wait for others, needs the
//! [`Vm`](crate::Vm), which owns the `Objects`.

use crate::{
    config::Config,
    cpu::CpuWords,
    events::{Event, Events},
    ids::{AnonVmaId, ChainId, FamilyId, MmId, ShmId, VmaId},
    ksm::node::{StableNode, StableNodes},
    mm::slot::MmSlot,
    nodes::Nodes,
    overcommit::OvercommitPolicy,
    reclaim::workingset::Workingset,
    rmap::{
        family::objects::Family,
        objects::{AnonVma, AnonVmaChain},
    },
    shm::object::ShmObject,
    swap::device::{SwapDevices, SwapInfo},
    thp::{policy::FolioPolicyNow, stats::FolioEvents},
    userfaultfd::context::{UffdContext, UffdMessage},
    vma::{
        flags::VmFlags,
        tree::{Nodes as TreeNodes, TreeNode},
        vma::Vma,
    },
};
use anonmem_frame::{Field, FolioOwner, FolioRef, Frames, FramesError, PinNodes, Place, Slab, fields};
use anonmem_hal::{Machine, NrPages, PAGE_SHIFT};
use anonmem_pgtable::{AddressSpace, DeadTables, MmuGather, Teardown};
use anonmem_sync::{Atomic, Ordering, PerCpu, Rcu, init_fields};
use core::mem::{MaybeUninit, offset_of};

/// The objects of one memory manager.
pub struct Objects<M: Machine> {
    pub(crate) frames: Frames<M>,
    pub(crate) rcu: Rcu<M>,
    pub(crate) dead_tables: DeadTables<M>,
    pub(crate) mms: Slab<M, MmSlot<M>>,
    pub(crate) vmas: Slab<M, Vma<M>>,
    pub(crate) tree_nodes: Slab<M, TreeNode<M>>,
    pub(crate) anon_vmas: Slab<M, AnonVma<M>>,
    pub(crate) chains: Slab<M, AnonVmaChain<M>>,
    pub(crate) families: Slab<M, Family<M>>,
    pub(crate) shm_objects: Slab<M, ShmObject<M>>,
    pub(crate) uffds: Slab<M, UffdContext<M>>,
    pub(crate) uffd_messages: Slab<M, UffdMessage<M>>,
    pub(crate) pins: PinNodes<M>,
    pub(crate) swap: SwapDevices<M>,
    pub(crate) workingset: Workingset<M>,
    pub(crate) stable_nodes: Slab<M, StableNode<M>>,
    /// Whether any page was ever marked for lazy freeing.
    pub(crate) lazyfree_used: Atomic<u32, M>,
    /// Whether there ever was a mapping whose pages may be dropped.
    pub(crate) droppable_used: Atomic<u32, M>,
    pub(crate) events: Events<M>,
    /// What each CPU keeps for itself.
    pub(crate) cpus: PerCpu<CpuWords<M>, M>,
    /// What happened to folios, by size.
    pub(crate) folio_events: FolioEvents<M>,
    /// The sizes of folios that faults take.
    pub(crate) folio_policy: FolioPolicyNow<M>,
    pub(crate) nodes_of_memory: Nodes<M>,
    pub(crate) config: Config,
    pub(crate) overcommit: OvercommitPolicy<M>,
    pub(crate) max_map_count: Atomic<u32, M>,
}

impl<M: Machine> Objects<M> {
    /// Takes over the memory of `machine`. The value is made in `slot`.
    ///
    /// # Errors
    /// [`FramesError`].
    pub(crate) fn init(
        slot: &mut MaybeUninit<Self>,
        machine: M,
        config: Config,
    ) -> Result<&mut Self, FramesError> {
        Ok(init_fields!(slot, {
            frames => |slot| Frames::init(slot, machine),
            rcu <- Rcu::init,
            dead_tables: DeadTables::new(),
            mms <- |slot| Slab::init(slot, frames),
            vmas <- |slot| Slab::init(slot, frames),
            tree_nodes <- |slot| Slab::init(slot, frames),
            anon_vmas <- |slot| Slab::init(slot, frames),
            chains <- |slot| Slab::init(slot, frames),
            families <- |slot| Slab::init(slot, frames),
            shm_objects <- |slot| Slab::init(slot, frames),
            uffds <- |slot| Slab::init(slot, frames),
            uffd_messages <- |slot| Slab::init(slot, frames),
            pins <- |slot| PinNodes::init(slot, frames),
            swap <- SwapDevices::init,
            workingset: Workingset::new(frames.machine().nr_frames()),
            stable_nodes <- |slot| Slab::init(slot, frames),
            lazyfree_used: Atomic::new(0),
            droppable_used: Atomic::new(0),
            cpus <- |slot| PerCpu::init(slot, |_| CpuWords::new()),
            events <- Events::init,
            folio_events <- FolioEvents::init,
            folio_policy: FolioPolicyNow::new(config.folios),
            overcommit: OvercommitPolicy::new(config.overcommit),
            max_map_count: Atomic::new(config.max_map_count),
            nodes_of_memory: Nodes::new(config.nodes),
            config: config,
        }))
    }

    /// The slot of an address space; it may be another use of it.
    #[inline]
    pub(crate) fn mm_slot(&self, id: MmId) -> &MmSlot<M> {
        self.mms.get(&self.frames, id)
    }

    /// The slot of an anon_vma; it may be another use of it.
    #[inline]
    pub(crate) fn anon_vma(&self, id: AnonVmaId) -> &AnonVma<M> {
        self.anon_vmas.get(&self.frames, id)
    }

    pub(crate) fn chain(&self, id: ChainId) -> &AnonVmaChain<M> {
        self.chains.get(&self.frames, id)
    }

    /// The slot of a family; it may be another use of it.
    pub(crate) fn family(&self, id: FamilyId) -> &Family<M> {
        self.families.get(&self.frames, id)
    }

    pub(crate) fn shm(&self, id: ShmId) -> &ShmObject<M> {
        self.shm_objects.get(&self.frames, id)
    }
}

impl<M: Machine> Objects<M> {
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

    /// An owner that came from outside is one of this memory manager's.
    #[track_caller]
    pub(crate) fn assert_has(&self, page: &FolioRef<'_, M>) {
        assert!(core::ptr::eq(page.folio().frames(), &self.frames), "a page of another memory manager");
    }

    #[inline]
    pub(crate) fn nodes(&self) -> TreeNodes<'_, M> {
        TreeNodes { slab: &self.tree_nodes, frames: &self.frames }
    }

    /// The nodes of merged pages.
    #[inline]
    pub(crate) fn stable_nodes(&self) -> StableNodes<'_, M> {
        StableNodes { slab: &self.stable_nodes, frames: &self.frames }
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

    /// Lets reclaim drop a page that is not written any more (`MADV_FREE`).
    pub(crate) fn mark_lazyfree<'f>(&self, page: &impl FolioOwner<'f, M>) {
        page.set_lazyfree();
        if self.lazyfree_used.load(Ordering::Relaxed) == 0 {
            self.lazyfree_used.store(1, Ordering::Relaxed);
        }
    }

    /// Lets reclaim drop pages of mappings that allow it (`MAP_DROPPABLE`). Relaxed: whoever reclaims before
    /// the mapping has pages finds none.
    pub(crate) fn note_droppable(&self) {
        self.lazyfree_used.store(1, Ordering::Relaxed);
        self.droppable_used.store(1, Ordering::Relaxed);
    }

    /// Starts gathering what is unmapped from `space`.
    #[inline]
    pub(crate) fn gather<'a>(&'a self, space: &'a AddressSpace<M>, teardown: Teardown) -> MmuGather<'a, M> {
        MmuGather::new(&self.frames, space, &self.rcu, &self.dead_tables, teardown)
    }

    /// Frees page tables whose grace period has passed, and returns how many; for idle time and before giving
    /// up.
    pub fn reap(&self) -> u64 {
        self.dead_tables.reap(&self.frames, &self.rcu)
    }

    /// Waits until all page tables that were unlinked are free.
    pub fn drain(&self) {
        self.dead_tables.drain(&self.frames, &self.rcu);
    }

    /// The swap devices in use.
    pub fn swap_devices(&self) -> impl Iterator<Item = SwapInfo> {
        self.swap.infos()
    }

    /// What `address` is, if it is in the memory manager or one of its objects: for displays.
    pub(crate) fn place_of(&self, address: usize) -> Option<Place> {
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
            .or_else(|| self.families.place_of(frames, address))
            .or_else(|| self.shm_objects.place_of(frames, address))
            .or_else(|| self.uffds.place_of(frames, address))
            .or_else(|| self.uffd_messages.place_of(frames, address))
            .or_else(|| self.pins.place_of(frames, address))
            .or_else(|| self.stable_nodes.place_of(frames, address))
            .or_else(|| frames.place_of(address))
    }

    const FIELDS: &'static [Field] = fields! {
        frames, rcu, dead_tables, mms, vmas, tree_nodes, anon_vmas, chains, families, shm_objects, uffds,
        uffd_messages, pins, swap, workingset, stable_nodes, lazyfree_used, droppable_used, events, cpus, folio_events, folio_policy, nodes_of_memory,
        config, overcommit, max_map_count,
    };
}

//! The counters of a memory manager at one time.

use crate::{
    events::{Event, NR_EVENTS},
    rmap::machine::Machine,
    vm::Vm,
};
use anonmem_hal::CpuId;

impl<M: Machine> Vm<M> {
    /// A snapshot of all counters.
    ///
    /// ```
    /// # use anonmem::*;
    /// # use anonmem_testkit::Program;
    /// # anonmem_testkit::example(|vm, mm| {
    /// let start = mm.mmap(MmapRequest::anonymous(4 * 4096, Prot::READ | Prot::WRITE))?;
    /// mm.store(start, 7)?;
    /// assert_eq!((vm.stats().user, vm.stats().event(Event::Fault)), (1, 1));
    /// # Ok(())
    /// # });
    /// ```
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
            offline: usage.offline.0,
            committed: self.committed().max(0) as u64,
            mms: self.mms.live(),
            vmas: self.vmas.live(),
            anon_vmas: self.anon_vmas.live() + self.families.live(),
            chains: self.chains.live(),
            shared_objects: self.shm_objects.live(),
            peak_anon_vmas: self.anon_vmas.peak() + self.families.peak(),
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
    /// The most frames in use at a time. Looked at when a CPU's list is refilled, so that it may lag by one
    /// list per CPU.
    pub peak_used: u64,
    /// Frames that hold user pages.
    pub user: u64,
    /// Frames of page tables.
    pub tables: u64,
    /// Frames of slabs.
    pub slabs: u64,
    /// Frames that the kernel took for itself.
    pub kernel: u64,
    /// Frames that are out of use ([`Vm::evacuate`]).
    pub offline: u64,
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
    /// The most anon_vmas at a time. Looked at as `peak_used` is, so that it may lag as much.
    pub peak_anon_vmas: u64,
    /// The most links at a time, as [`peak_anon_vmas`](Self::peak_anon_vmas).
    pub peak_chains: u64,
}

impl Stats {
    /// How often `event` happened.
    pub const fn event(&self, event: Event) -> u64 {
        self.events[event as usize]
    }
}

//! What the tests of tables share: a guard that opens all, and frames with one space.
// Not every test file uses all of it.
#![allow(dead_code)]

use anonmem_frame::Frames;
use anonmem_hal::{CpuId, Va, VaRange};
use anonmem_hosted::{Checked, Hosted};
use anonmem_pgtable::{AddressSpace, CanInstall, DeadTables, MmuGather, StableVma, Teardown};
use anonmem_sync::Rcu;

pub(crate) type M = Hosted<Checked>;

/// The guard of every space.
pub(crate) struct Mmap;
// SAFETY: one thread is at work, and frees tables when all guards are gone.
unsafe impl StableVma<M> for Mmap {
    fn opens(&self, _: &AddressSpace<M>) -> bool {
        true
    }
}
// SAFETY: as above.
unsafe impl CanInstall<M> for Mmap {}

/// Frames, and a space in them.
pub(crate) struct World {
    pub(crate) frames: Frames<M>,
    pub(crate) space: AddressSpace<M>,
    pub(crate) rcu: Rcu<M>,
    pub(crate) dead: DeadTables<M>,
}

impl World {
    /// One with a root, over `machine`.
    pub(crate) fn on(machine: M) -> Box<Self> {
        let frames = Frames::new(machine).unwrap();
        let space = AddressSpace::new();
        space.alloc_root(&frames).unwrap();
        Box::new(Self { frames, space, rcu: Rcu::new(), dead: DeadTables::new() })
    }

    /// Runs `f` on a CPU of a machine with so many frames. Afterwards the tables below `end` are freed,
    /// and no frame is left but slabs.
    pub(crate) fn run_with(frames: u64, end: Va, f: impl FnOnce(&Self)) {
        let machine = M::new(frames);
        machine.cpus().clone().run_on(CpuId(0), || {
            let world = Self::on(machine);
            f(&world);
            world.free(&world.space, VaRange::new(Va(0), end));
            world.assert_no_frame_left();
        });
    }

    /// A gather of the world's own space.
    pub(crate) fn gather_for(&self, teardown: Teardown) -> MmuGather<'_, M> {
        self.gather_of(&self.space, teardown)
    }

    pub(crate) fn gather_of<'w>(
        &'w self,
        space: &'w AddressSpace<M>,
        teardown: Teardown,
    ) -> MmuGather<'w, M> {
        MmuGather::new(&self.frames, space, &self.rcu, &self.dead, teardown)
    }

    /// Frees the tables for `range`, which are empty, and the root.
    pub(crate) fn free(&self, space: &AddressSpace<M>, range: VaRange) {
        let mut gather = self.gather_of(space, Teardown::Range);
        space.free_tables(&mut gather, &self.frames, range, VaRange::new(Va(0), Va(u64::MAX)));
        gather.finish();
        self.dead.drain(&self.frames, &self.rcu);
        space.free_root(&self.frames);
    }

    /// Slabs stay: lists of pins lie in one.
    pub(crate) fn assert_no_frame_left(&self) {
        let usage = self.frames.usage();
        assert_eq!(usage.used().0, usage.slabs.0, "frames leaked");
        self.frames.validate().unwrap();
    }
}

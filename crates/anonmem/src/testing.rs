//! What the unit tests of this crate share: a machine, a memory manager, and programs that touch memory.

use crate::{
    Advice, Config, Error, FaultAccess, FaultOutcome, Mm, Overcommit, PinFlags, PinnedRange,
    ReverseMapChoice, Vm, VmFlags, ids::VmaId, vma::Backing,
};
use anonmem_hal::{CpuId, PAGE_SHIFT, PAGE_SIZE, Pfn, Va, VaRange};
use anonmem_hosted::{
    Access, Checked, FailurePlan, Failures, Handled, Hosted, SourceTable, SwapTable, Trap, UserCpu, UserSpace,
};
use core::ops::ControlFlow;
use std::{sync::Arc, vec, vec::Vec};

/// The machine of the tests.
pub(crate) type M = Hosted<Checked>;

/// A page in bytes.
pub(crate) const P: u64 = PAGE_SIZE as u64;
/// A private writable mapping.
pub(crate) const RW: VmFlags = VmFlags::READ
    .union(VmFlags::WRITE)
    .union(VmFlags::MAYREAD)
    .union(VmFlags::MAYWRITE)
    .union(VmFlags::MAYEXEC)
    .union(VmFlags::ACCOUNT);

/// The reverse map that tests run over: anon_vmas, unless `ANONMEM_RMAP` is `family`.
pub(crate) fn chosen() -> ReverseMapChoice {
    match std::env::var("ANONMEM_RMAP").as_deref() {
        Ok("family") => ReverseMapChoice::Families,
        Ok("anon_vma") | Err(_) => ReverseMapChoice::AnonVmas,
        Ok(other) => panic!("ANONMEM_RMAP is {other}, and not anon_vma or family"),
    }
}

/// A memory manager on a machine of its own.
pub(crate) struct World {
    pub(crate) vm: Vm<M>,
    pub(crate) failures: Arc<Failures>,
    pub(crate) sources: Arc<SourceTable>,
    pub(crate) swap: Arc<SwapTable>,
}

impl World {
    /// Runs `f` on CPU 0 of a machine with 4096 frames; afterwards nothing may be left.
    pub(crate) fn run(f: impl FnOnce(&Self)) {
        Self::run_with(Config::default(), f);
    }

    /// The same with another configuration; over the reverse map that [`chosen`] says.
    pub(crate) fn run_with(config: Config, f: impl FnOnce(&Self)) {
        Self::run_over(chosen(), config, f);
    }

    /// The same over a certain reverse map.
    pub(crate) fn run_over(reverse_map: ReverseMapChoice, config: Config, f: impl FnOnce(&Self)) {
        let config = Config { reverse_map, ..config };
        let machine = M::new(4096);
        let (cpus, failures, sources) =
            (machine.cpus().clone(), machine.failures().clone(), machine.sources().clone());
        let swap = machine.swap().clone();
        let world = Self { vm: Vm::new(machine, config).unwrap(), failures, sources, swap };
        cpus.run_on(CpuId(0), || {
            f(&world);
            world.assert_nothing_left();
        });
    }

    fn assert_nothing_left(&self) {
        self.vm.drain();
        self.vm.validate().unwrap();
        let s = self.vm.stats();
        let left = [s.mms, s.vmas, s.anon_vmas, s.chains, s.shared_objects, s.user, s.tables, s.committed];
        assert_eq!(left, [0; 8], "mms, vmas, anon_vmas, chains, objects, pages, tables, promises left");
        self.sources.assert_unused();
    }

    /// An address space that has all memory that is left to programs: `below` frames are more than there are.
    pub(crate) fn fill_memory(&self, below: u64) -> Mm<'_, M> {
        self.vm.set_overcommit(Overcommit::Always);
        let hog = self.vm.new_mm().unwrap();
        let range = pages(1 << 20, 4096);
        hog.map_raw(range, RW, Backing::Anonymous);
        let filled = range.iter_pages().map(|va| hog.store(va.0, 7)).find(Result::is_err);
        assert_eq!(filled, Some(Err(Trap::Oom)));
        // Some for tables: an attempt is to get as far as having some to give back.
        hog.madvise(range.start, 64 * P, Advice::DontNeed).unwrap();
        assert!(self.vm.stats().free < below, "{} frames are left", self.vm.stats().free);
        hog
    }

    /// Does `f` with its first allocation failing, then its second, and so on until it succeeds; each time on
    /// what `make` makes. Returns how many attempts failed.
    pub(crate) fn fail_each_allocation<'a, T, R>(
        &'a self,
        make: impl Fn() -> T,
        f: impl Fn(&T) -> Result<R, Error>,
        after_failure: impl Fn(&T, Error),
    ) -> u64
    where
        T: 'a,
    {
        for nth in 1.. {
            let made = make();
            self.failures.set(FailurePlan::Nth(nth));
            let result = f(&made);
            let failed = self.failures.refused() > 0;
            self.failures.set(FailurePlan::Off);
            match result {
                Err(e) => after_failure(&made, e),
                Ok(_) if !failed => return nth - 1,
                Ok(_) => {}
            }
        }
        unreachable!()
    }
}

/// An address space as the machine's CPUs see it.
pub(crate) struct Space<'a>(pub(crate) &'a Mm<'a, M>);

impl UserSpace for Space<'_> {
    fn root(&self) -> Pfn {
        self.0.root()
    }
    fn activate(&self, cpu: CpuId) {
        self.0.activate(cpu);
    }
    fn deactivate(&self, cpu: CpuId) {
        self.0.deactivate(cpu);
    }
    fn handle_fault(&self, va: Va, access: Access) -> Handled {
        let access = match access {
            Access::Read => FaultAccess::Read,
            Access::Write => FaultAccess::Write,
            Access::Exec => FaultAccess::Exec,
        };
        match self.0.handle_fault(va, access) {
            FaultOutcome::Done => Handled::Retry,
            FaultOutcome::Oom | FaultOutcome::NodesFull(_) => Handled::Trap(Trap::Oom),
            FaultOutcome::SegvMaperr => Handled::Trap(Trap::Unmapped),
            FaultOutcome::SegvAccerr => Handled::Trap(Trap::Denied),
            FaultOutcome::Bus | FaultOutcome::Lost => Handled::Trap(Trap::Bus),
        }
    }
}

/// What tests do with an address space.
impl Mm<'_, M> {
    /// A thread of a program, on this CPU. Its translations stay cached until it is dropped.
    pub(crate) fn user(&self) -> UserCpu<'_, Checked, anonmem_hal::arch::X86_64, Space<'_>> {
        UserCpu::new(self.vm.machine(), Space(self))
    }

    /// Makes a mapping as it is, without merging it.
    pub(crate) fn map_raw(&self, range: VaRange, flags: VmFlags, backing: Backing) -> VmaId {
        let (vm, guard) = (self.vm, self.write());
        let slot = guard.slot();
        let mut nodes = slot.tree.prealloc(vm.nodes(), 1).unwrap();
        if flags.contains(VmFlags::ACCOUNT) {
            vm.commit(range.pages().0).unwrap();
        }
        let id = vm.vmas.alloc(&vm.frames).unwrap();
        let pgoff = match backing {
            Backing::Anonymous => range.start.0 >> PAGE_SHIFT,
            Backing::Source(source) => {
                anonmem_hal::Sources::dup(vm.machine(), source);
                0
            }
            Backing::Shared(_) => {
                vm.backing_get(backing, flags);
                0
            }
        };
        vm.vma(id).init(self.id, range, pgoff, flags, backing);
        vm.vma(id).attach(&guard);
        nodes.write().insert(range, id);
        slot.counts.add_vma(flags, range.pages().0 as i64);
        id
    }

    /// The flags and ranges of all mappings.
    pub(crate) fn layout(&self) -> Vec<(VaRange, VmFlags)> {
        let mut all = vec![];
        self.for_each_vma(Va(0), &mut |vma| {
            all.push((vma.range, vma.flags));
            ControlFlow::Continue(())
        });
        all
    }

    /// The byte at `va`, through a CPU.
    pub(crate) fn load(&self, va: u64) -> Result<u8, Trap> {
        let mut byte = [0];
        self.user().load(Va(va), &mut byte)?;
        Ok(byte[0])
    }

    /// Sets the byte at `va`, through a CPU.
    pub(crate) fn store(&self, va: u64, byte: u8) -> Result<(), Trap> {
        self.user().store(Va(va), &[byte])
    }
}

impl<'a> Mm<'a, M> {
    /// Pins the exclusive page at `va`.
    pub(crate) fn pin_page(&self, va: Va) -> PinnedRange<'a, M> {
        self.pin(VaRange::page(va), PinFlags::NOFAULT).unwrap()
    }
}

/// The first page of a range that is pinned.
pub(crate) fn first_page(pinned: &PinnedRange<'_, M>) -> Pfn {
    pinned.runs().next().unwrap().first
}

/// `pages` pages from page number `page`.
pub(crate) fn pages(page: u64, pages: u64) -> VaRange {
    VaRange::of(Va(page * P), pages * P).unwrap()
}

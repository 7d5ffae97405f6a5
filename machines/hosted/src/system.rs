//! anonmem as something that operations are applied to.
//!
//! One thread plays four CPUs. Each address space is active on all of them, and each access runs on another
//! one, so that every flush has four TLBs to reach; and a failing run repeats exactly.

use crate::{
    Checked, CpuGuard, FailurePlan, Failures, Hosted, SourceTable, Trap, UserCpu, calls,
    ops::{At, HEAP_START, HOLDS, Op, Outcome, SPACES},
    oracle::{
        Limits, Oracle, Verdict,
        page::{Bytes, Kind, Page, Said},
        space::{Space, compare_areas},
    },
    runner::System,
    watched::{self, PinHow},
};
use anonmem::{
    BlockEffort, CollapseLimits, CollapseSettings, CollapseTask, Config, Effort, FolioMode, FolioPolicy,
    KsmSettings, LockMode, MergeAny, Mm, PagemapEntry, PinnedRange, ReverseMapChoice, Vm,
};
use anonmem_hal::{
    Arch, CpuId, Order, PAGE_SHIFT, PAGE_SIZE, Pfn, PhysMem as _, Present, SourceId, Va, arch::X86_64,
};
use anonmem_sync::lockdep;
use std::{
    collections::BTreeMap,
    mem::ManuallyDrop,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

/// The machine under the memory manager.
pub type Machine<A = X86_64> = Hosted<Checked, A>;

/// The CPUs that an address space is active on.
const CPUS: u32 = 4;
/// Frames of a machine that has more than the operations can use.
const PLENTY: u64 = 16_384;
/// Frames of a machine that has to swap.
const FEW: u64 = 88;
/// Pages of its swap device.
const SWAP_PAGES: u64 = 1_024;
/// Every this many operations the device is taken away, and comes back.
const SWAP_CYCLE: u32 = 97;
/// Every this many writes to it one fails.
const FAIL_WRITES: u64 = 13;
/// Length of the source that is mapped, in bytes: not a multiple of pages.
const SOURCE_BYTES: usize = 6 * PAGE_SIZE + 100;

type User<A> = UserCpu<'static, Checked, A, Mm<'static, Machine<A>>>;

/// How much memory there is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Memory {
    /// More than the operations can use; nothing is swapped.
    Plenty,
    /// Less than they use, and a swap device.
    Short,
    /// As before, and yet room for some folios of a leaf's size.
    Tight,
}

impl Memory {
    /// Whether pages have to leave.
    pub fn swaps(self) -> bool {
        match self {
            Self::Plenty => false,
            Self::Short | Self::Tight => true,
        }
    }

    /// Frames of the machine, and pages of its swap device.
    const fn size(self) -> (u64, u64) {
        match self {
            Self::Plenty => (PLENTY, 0),
            Self::Short => (FEW, SWAP_PAGES),
            Self::Tight => (2_048, 16_384),
        }
    }
}

/// One address space and its programs, one on each CPU.
struct Process<A: Arch> {
    users: Vec<User<A>>,
    mm: Mm<'static, Machine<A>>,
}

/// Pages that a device has for long.
struct Held<A: Arch> {
    /// They are unpinned when it drops.
    _pins: PinnedRange<'static, Machine<A>>,
    frames: Vec<Pfn>,
}

/// A memory manager that operations are applied to.
///
/// Dropping it leaks it: after a failure it may be in any state. [`System::finish`] takes it down.
pub struct Anonmem<A: Arch = X86_64> {
    spaces: ManuallyDrop<[Option<Process<A>>; SPACES]>,
    vm: &'static Vm<Machine<A>>,
    failures: Arc<Failures>,
    sources: Arc<SourceTable>,
    source: SourceId,
    memory: Memory,
    merging: Merging,
    /// Where the task is that makes large folios of small pages, if pages move, and what came of it.
    moving: Option<(CollapseTask, Arc<Moves>)>,
    turn: u32,
    /// What devices have for long, and the frames.
    holds: ManuallyDrop<[Option<Held<A>>; HOLDS]>,
    /// Whether allocations have failed, so that pages may have left for others.
    starved: bool,
    /// The CPU that the thread is on; `None` only while it changes.
    cpu: Option<CpuGuard>,
}

/// What became of pages that move between the operations, of all systems that it is given to.
#[derive(Debug, Default)]
pub struct Moves {
    /// Pages that went to other frames.
    pub moved: AtomicU64,
    /// Large folios that were made.
    pub collapsed: AtomicU64,
}

/// Whether equal pages are merged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Merging {
    Off,
    On,
}

/// Pages that are looked at for an equal one before each operation.
const MERGE_PAGES: u64 = 32;

/// Frames that are emptied before an operation, and how often that is.
const EMPTIED: u64 = 64;
const EMPTY_EVERY: u32 = 4;
/// How often a block is made, and of what order.
const COMPACT_EVERY: u32 = 16;
const COMPACTED: Order = Order::new(3);
/// Pages of windows that are looked at before each operation: they may become one folio.
const COLLAPSE_PAGES: u64 = 64;

/// No large folios.
const PAGES: FolioPolicy = FolioPolicy::up_to(Order::ZERO, FolioMode::Never);

/// The sizes of folios that tests go through: pages only, 64 KiB, all that a table holds, all sizes, `auto`.
pub const FOLIOS: [(&str, FolioPolicy); 5] = [
    ("4K", PAGES),
    ("64K", PAGES.with(Order::new(4), FolioMode::Always)),
    ("2M", PAGES.with(Order::new(9), FolioMode::Always)),
    ("mixed", FolioPolicy::up_to(Order::new(9), FolioMode::Always)),
    ("auto", FolioPolicy::up_to(Order::new(9), FolioMode::Auto)),
];

/// The bytes of the source that the operations map.
pub fn source() -> Vec<u8> {
    (0..SOURCE_BYTES).map(|i| (i * 7 + i / 256 + 3) as u8).collect()
}

/// The reverse map that tests run over: sets of VMAs, unless `ANONMEM_RMAP` is `family`.
///
/// # Panics
/// If it is anything else than that or `anon_vma`.
pub fn reverse_map() -> ReverseMapChoice {
    match std::env::var("ANONMEM_RMAP").as_deref() {
        Ok("family") => ReverseMapChoice::Families,
        Ok("anon_vma") | Err(_) => ReverseMapChoice::AnonVmas,
        Ok(other) => panic!("ANONMEM_RMAP is {other}, and not anon_vma or family"),
    }
}

/// What the oracle has to know of anonmem on x86-64.
pub fn limits(memory: Memory) -> Limits {
    limits_of::<X86_64>(memory)
}

fn limits_of<A: Arch>(memory: Memory) -> Limits {
    let config = Config::default();
    Limits {
        user_end: A::USER_END.0,
        min_addr: config.mmap_min_addr,
        heap_start: HEAP_START,
        stack: 8 << 20,
        swap: memory.swaps(),
        folios: false,
        is_host: false,
    }
}

impl<A: Arch> Anonmem<A> {
    /// A fresh memory manager, whose faults hold what `lock_mode` says, and the oracle that goes with it.
    ///
    /// # Panics
    /// If the machine is too small, which it is not.
    pub fn start(lock_mode: LockMode, memory: Memory) -> (Self, Oracle) {
        Self::start_with(lock_mode, memory, FolioPolicy::default())
    }

    /// [`start`](Self::start), with folios of these sizes.
    ///
    /// # Panics
    /// If the machine is too small, which it is not.
    pub fn start_with(lock_mode: LockMode, memory: Memory, folios: FolioPolicy) -> (Self, Oracle) {
        let (frames, slots) = memory.size();
        let machine = Machine::<A>::new(frames);
        let (failures, sources) = (machine.failures().clone(), machine.sources().clone());
        let cpu = machine.cpus().enter(CpuId(0));
        let source_id = sources.register(source());
        let config = Config { lock_mode, folios, reverse_map: reverse_map(), ..Config::default() };
        let vm = Vm::new(machine, config).expect("enough memory for a memory manager");
        if memory.swaps() {
            vm.swap_on(0, slots, 0).expect("enough memory for a swap device");
            vm.machine().swap().fail_every_write(FAIL_WRITES);
        }
        let system = Self {
            spaces: ManuallyDrop::new(Default::default()),
            vm: Box::leak(Box::new(vm)),
            failures,
            sources,
            source: source_id,
            memory,
            merging: Merging::Off,
            moving: None,
            turn: 0,
            starved: false,
            holds: ManuallyDrop::new(Default::default()),
            cpu: Some(cpu),
        };
        let folios = folios != FolioPolicy::default();
        (system, Oracle::new(source(), Limits { folios, ..limits_of::<A>(memory) }))
    }

    /// The same, and equal pages of all programs are merged between the operations.
    ///
    /// # Panics
    /// If pages are merged already.
    #[must_use]
    pub fn merging(mut self) -> Self {
        let settings = KsmSettings { use_zero_pages: true, max_page_sharing: 4, ..KsmSettings::default() };
        self.vm.set_ksm(settings).expect("nothing is merged yet");
        self.merging = Merging::On;
        self
    }

    /// The same, and pages move to other frames between the operations, and become large folios, as `moves`
    /// tells.
    #[must_use]
    pub fn moving(mut self, moves: &Arc<Moves>) -> Self {
        self.moving = Some((CollapseTask::default(), moves.clone()));
        self
    }

    fn move_pages(&mut self) {
        let (vm, turn) = (self.vm, self.turn);
        let Some((task, moves)) = &mut self.moving else { return };
        if turn.is_multiple_of(EMPTY_EVERY) {
            let ranges = vm.machine().nr_frames() / EMPTIED;
            let start = vm.machine().base_pfn().offset(u64::from(turn) * 7 % ranges * EMPTIED);
            let range = start..start.offset(EMPTIED);
            moves.moved.fetch_add(vm.evacuate(range.clone(), Effort::Light).moved, Relaxed);
            vm.give_back(range);
        }
        if turn.is_multiple_of(COMPACT_EVERY) {
            // There may be none.
            moves.moved.fetch_add(vm.compact(COMPACTED, Effort::Light).unwrap_or(0), Relaxed);
        }
        let limits = CollapseLimits { shared: u64::MAX, ..CollapseLimits::OWN };
        let settings = CollapseSettings { everywhere: !1, limits, effort: BlockEffort::Free };
        moves.collapsed.fetch_add(task.step(vm, COLLAPSE_PAGES, &settings).collapsed, Relaxed);
    }

    /// The memory manager.
    pub fn vm(&self) -> &'static Vm<Machine<A>> {
        self.vm
    }

    /// Moves the thread to another CPU.
    fn run_on(&mut self, cpu: u32) {
        self.cpu = None;
        self.cpu = Some(self.vm.machine().cpus().enter(CpuId(cpu)));
    }

    /// Starts a program on each CPU.
    fn process(&mut self, mm: Mm<'static, Machine<A>>) -> Process<A> {
        let mut users = Vec::new();
        for cpu in 0..CPUS {
            self.run_on(cpu);
            users.push(UserCpu::new(self.vm.machine(), mm.clone()));
        }
        Process { users, mm }
    }

    fn spawn(&mut self, space: usize) -> Outcome {
        match self.vm.new_mm() {
            Ok(mm) => {
                mm.set_brk_start(Va(HEAP_START));
                if self.merging == Merging::On {
                    mm.set_merge_any(MergeAny::Yes).expect("nothing is mapped yet");
                }
                self.spaces[space] = Some(self.process(mm));
                Outcome::Done
            }
            Err(e) => Outcome::Errno(e.errno()),
        }
    }

    fn fork(&mut self, parent: usize, child: usize) -> Outcome {
        let Some(process) = self.spaces[parent].as_ref().filter(|_| parent != child) else {
            return Outcome::Skipped;
        };
        match process.mm.fork() {
            Ok(mm) => {
                self.spaces[child] = Some(self.process(mm));
                Outcome::Done
            }
            Err(e) => Outcome::Errno(e.errno()),
        }
    }

    /// Compares every mapped page of one address space.
    fn check_pages(&self, space: usize, oracle: &Oracle) -> Verdict {
        let (Some(process), Some(model)) = (&self.spaces[space], oracle.space(space)) else { return Ok(()) };
        let mut present = BTreeMap::new();
        let machine = self.vm.machine();
        machine.for_each_present(process.mm.root(), &mut |va, entry| {
            present.insert(va.page(), entry);
        });
        self.check_pinned(space, model, &present)?;
        for (&number, &entry) in &present {
            check_entry(model, number, entry).map_err(|why| format!("space {space}, {why}"))?;
            if !oracle.accepts(number, &model[number], &machine.frame_bytes(entry.pfn)) {
                let bytes = wrong_bytes(oracle, model, number, &machine.frame_bytes(entry.pfn));
                return Err(format!("space {space}, page {number:#x}: {bytes}"));
            }
        }
        for (&number, page) in &model.pages {
            let entry = process.mm.pagemap(Va(number << PAGE_SHIFT));
            let PagemapEntry { guard, soft_dirty, .. } = entry;
            self.check_soft_dirty(page, soft_dirty)
                .map_err(|why| format!("space {space}, page {number:#x}: {why}: {entry:?}"))?;
            if guard != page.guard {
                return Err(format!(
                    "space {space}, page {number:#x}: guarded is {guard}, not {}",
                    page.guard
                ));
            }
        }
        let absent =
            |(number, page): &(&u64, &Page)| page.contents.is_written() && !present.contains_key(number);
        model.pages.iter().filter(absent).try_for_each(|(&number, page)| {
            self.check_absent(process, oracle, number, page).map_err(|why| format!("space {space}, {why}"))
        })
    }

    /// A page that was written is told, and no other, as far as the model can know. Pages that become one
    /// folio between the operations are written. An object's page whose entry was taken is as one that was
    /// not mapped yet.
    fn check_soft_dirty(&self, page: &Page, found: bool) -> Verdict {
        let mut wanted = page.soft_dirty;
        let moves = self.moving.is_some();
        let leaves = moves || self.starved || self.memory.swaps();
        if leaves && matches!(page.attrs.kind, Kind::Shared { .. }) {
            wanted.page.unless();
        }
        if moves {
            wanted.page.or_maybe();
        }
        let right = match wanted.either() {
            Said::Yes => found == A::SOFT_DIRTY,
            Said::No => !found,
            Said::Maybe => A::SOFT_DIRTY || !found,
        };
        if right { Ok(()) } else { Err(format!("soft-dirty is {found}, should be {wanted:?}")) }
    }

    /// A page that a device has is the one that its program sees.
    fn check_pinned(&self, space: usize, model: &Space, present: &BTreeMap<u64, Present>) -> Verdict {
        for (&number, page) in &model.pages {
            let Some(pinned) = page.pinned else { continue };
            let held = self.holds[pinned.hold].as_ref().map(|held| held.frames[pinned.page]);
            let found = present.get(&number).map(|entry| entry.pfn);
            if found != held {
                return Err(format!(
                    "space {space}, page {number:#x}: a device has {held:?}, the program {found:?}"
                ));
            }
        }
        Ok(())
    }

    /// A device gets a range for long, unless it has one of that number.
    fn hold(&mut self, at: At, hold: usize) -> Outcome {
        let Some(process) = &self.spaces[at.space] else { return Outcome::Skipped };
        if self.holds[hold].is_some() {
            return Outcome::Skipped;
        }
        let how = if self.turn.is_multiple_of(2) { PinHow::Fast } else { PinHow::Slow };
        match watched::pin(&process.mm, at, how) {
            Ok(pins) => {
                let pages = pins.runs().flat_map(|run| (0..run.pages.0).map(move |i| run.first.offset(i)));
                let frames = pages.collect();
                self.holds[hold] = Some(Held { _pins: pins, frames });
                Outcome::Done
            }
            Err(outcome) => outcome,
        }
    }

    /// A page that was written and is not in memory must be in swap: brings it back.
    fn check_absent(&self, process: &Process<A>, oracle: &Oracle, number: u64, page: &Page) -> Verdict {
        if self.memory == Memory::Plenty {
            return Err(format!("page {number:#x} was written and is gone"));
        }
        let mut bytes = [0; PAGE_SIZE];
        let loaded = process.users[0].load(Va(number << PAGE_SHIFT), &mut bytes);
        match loaded {
            Ok(()) if oracle.accepts(number, page, &bytes) => Ok(()),
            Ok(()) => Err(format!("page {number:#x} came back from swap with other bytes")),
            // Nobody may read it, or there is no room for it now.
            Err(Trap::Denied | Trap::Oom) => Ok(()),
            Err(trap) => Err(format!("page {number:#x} does not come back from swap: {trap:?}")),
        }
    }

    /// Takes the swap device away and gives it back, if all that is on it fits into memory.
    fn cycle_swap(&self) {
        let is_off = self.vm.swap_off(0).is_ok() || self.vm.swap_devices().next().is_none();
        if is_off {
            // Without memory for it there is none until the next time.
            let _ = self.vm.swap_on(0, self.memory.size().1, 0);
        }
    }
}

/// Checks that the hardware may not do more than the area allows.
fn check_entry(model: &Space, number: u64, entry: Present) -> Verdict {
    let Some(page) = model.pages.get(&number) else {
        return Err(format!("page {number:#x} is mapped in the tables, but not at all"));
    };
    let (rights, prot) = (page.attrs.rights, entry.prot);
    if page.guard
        || prot.read && !rights.any()
        || prot.write && !rights.write()
        || prot.exec && !rights.exec()
    {
        return Err(format!("page {number:#x}: the entry allows {prot:?}, the area {rights:?}"));
    }
    Ok(())
}

fn wrong_bytes(oracle: &Oracle, model: &Space, number: u64, found: &Bytes) -> String {
    let page = &model[number];
    let fresh = oracle.fresh(number, page);
    let wanted = page.contents.candidates[0].as_deref().or(fresh.as_deref());
    let differs = |wanted: &Bytes| (0..PAGE_SIZE).find(|&i| wanted[i] != found[i]).unwrap_or(0);
    let i = wanted.map_or(0, differs);
    let end = (i + 8).min(PAGE_SIZE);
    let wanted = wanted.map(|w| &w[i..end]);
    format!("at byte {i:#x} found {:02x?}, expected {wanted:02x?}", &found[i..end])
}

impl<A: Arch> Anonmem<A> {
    fn apply_op(&mut self, op: &Op) -> Outcome {
        match *op {
            Op::Spawn(space) => return self.spawn(space),
            Op::Fork { parent, child } => return self.fork(parent, child),
            Op::Exit(space) => {
                let was = self.spaces[space].take();
                return if was.is_some() { Outcome::Done } else { Outcome::Skipped };
            }
            Op::Hold(at, hold) => return self.hold(at, hold),
            Op::Release(_, hold) => {
                self.holds[hold] = None;
                return Outcome::Done;
            }
            _ => {}
        }
        self.turn += 1;
        let cpu = self.turn % CPUS;
        self.run_on(cpu);
        if self.memory.swaps() && self.turn.is_multiple_of(SWAP_CYCLE) {
            self.cycle_swap();
        }
        if self.merging == Merging::On && self.failures.is_off() {
            // Without memory for its table it merges nothing.
            let _ = self.vm.ksm_scan(MERGE_PAGES);
        }
        if self.failures.is_off() {
            self.move_pages();
        }
        match &self.spaces[op.space()] {
            Some(process) => calls::apply(&process.users[cpu as usize], self.source, op),
            None => Outcome::Skipped,
        }
    }
}

impl<A: Arch> System for Anonmem<A> {
    /// Where half of x86-64's address space fits, a mapping of that size is refused because nothing could
    /// ever fill it; the oracle knows of no such limit.
    fn supports(&self, op: &Op) -> bool {
        const HALF: u64 = 1 << 46;
        match op {
            Op::Mmap(at, ..) | Op::Mremap(at, ..) => at.len < HALF || A::USER_END <= X86_64::USER_END,
            _ => true,
        }
    }

    fn apply(&mut self, op: &Op) -> Outcome {
        let outcome = self.apply_op(op);
        lockdep::assert_none_held::<Machine<A>>();
        outcome
    }

    fn area_end(&mut self, space: usize, addr: u64) -> Option<u64> {
        let areas = calls::areas(&self.spaces[space].as_ref()?.mm);
        areas.iter().find(|a| a.start <= addr && addr < a.end).map(|a| a.end)
    }

    fn check_areas(&mut self, space: usize, oracle: &Oracle) -> Verdict {
        match (&self.spaces[space], oracle.space(space)) {
            (None, None) => Ok(()),
            (Some(process), Some(model)) => compare_areas(&calls::areas(&process.mm), &model.areas()),
            _ => Err(format!("one side has no address space {space}")),
        }
    }

    fn check_all(&mut self, oracle: &Oracle) -> Verdict {
        for space in 0..SPACES {
            self.check_areas(space, oracle)?;
            self.check_pages(space, oracle)?;
        }
        self.vm.validate().map_err(|violation| format!("validate: {violation}"))
    }

    fn fail_allocation(&mut self, nth: u64) {
        self.starved |= nth != 0;
        self.failures.set(if nth == 0 { FailurePlan::Off } else { FailurePlan::Nth(nth) });
    }

    fn allocation_failed(&self) -> bool {
        self.failures.refused() > 0
    }

    fn may_run_short(&self) -> bool {
        self.memory.swaps()
    }

    fn has_leaves(&self) -> bool {
        let leaves = self.vm.folio_policy().mode(A::LEAF_ORDER) == FolioMode::Always;
        leaves && self.memory != Memory::Short
    }

    fn finish(mut self) -> Verdict {
        self.holds.iter_mut().for_each(|held| *held = None);
        self.spaces.iter_mut().for_each(|space| *space = None);
        self.vm.validate().map_err(|violation| format!("validate, after all exits: {violation}"))?;
        let stats = self.vm.stats();
        let left = [stats.user, stats.tables, stats.mms, stats.vmas, stats.anon_vmas, stats.shared_objects];
        if left != [0; 6] {
            return Err(format!("leaked: {stats:?}"));
        }
        self.sources.assert_unused();
        let stored = self.vm.machine().swap().stored();
        if stored != 0 {
            return Err(format!("{stored} pages are left on the swap device"));
        }
        // SAFETY: it came from `Box::leak` in `start`, and the address spaces that borrowed it are gone.
        drop(unsafe { Box::from_raw(std::ptr::from_ref(self.vm).cast_mut()) });
        Ok(())
    }
}

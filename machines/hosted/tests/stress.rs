//! Threads on four CPUs that share address spaces, fork, exit, and churn each other's tables.
//!
//! Every thread owns a region of each address space that it runs in and has an oracle for it: whatever the
//! others do, its own bytes and areas are its own. All threads share the first address space, and on top of
//! that two pages of counters: one of private memory, which forks keep turning copy-on-write and one thread
//! keeps write-protecting, and one of shared memory. No increment may be lost, and none may happen while
//! the page is read-only.
//!
//! Then the same where memory is short: pages leave for two swap devices and return, in the background and by
//! whoever needs memory, while one device goes and comes back and, in some rounds, fails to write or to read.
//!
//! In both, one more thread empties ranges of frames, gives them back, makes large blocks, and large folios
//! of small pages: pages move to other frames under everybody's hands.
//!
//! `ANONMEM_STRESS_SECONDS` (default 10) is how long it runs; `ANONMEM_SEED` what it does.

use anonmem::{
    BlockEffort, CollapseLimits, CollapseSettings, CollapseTask, Config, Effort, FolioPolicy, KsmSettings,
    LockMode, MergeAny, Mm, Vm,
};
use anonmem_hal::{CpuId, Order, PhysMem, SourceId, Va, arch::X86_64};
use anonmem_hosted::{
    Checked, FailurePlan, Trap, UserCpu, calls,
    generate::Generator,
    ops::{Advise, At, Backing, Op, Outcome, Place, Rights, SPACES, Signal, errno},
    oracle::{
        Limits, Oracle,
        space::{Area, compare_areas},
    },
    system::{self, Machine, Memory},
};
use std::{
    io::{Write, stderr},
    mem::ManuallyDrop,
    ops::Range,
    sync::{
        Mutex, PoisonError,
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{Relaxed, SeqCst},
        },
    },
    thread,
    time::{Duration, Instant},
};

const P: u64 = 4096;
const THREADS: u64 = 6;
const CPUS: u64 = 4;
/// Pages of a thread's region; the next one is far enough away that stacks do not notice each other.
const REGION_PAGES: u64 = 48;
const REGION_STRIDE: u64 = 1024 * P;
/// 24 pages below a 1 GiB boundary, so that the first region straddles tables of every level.
const REGIONS: u64 = 0x3ffe_8000;
const PRIVATE_COUNTERS: u64 = 0x7000_0000;
const SHARED_COUNTERS: u64 = 0x7800_0000;
const COUNTERS: u64 = 64;
/// Frames of a machine that has more than the threads can use, and of one that has to swap.
const PLENTY: u64 = 32_768;
const FEW: u64 = 1_600;
/// Pages of each swap device.
const SWAP_PAGES: u64 = 8_192;
/// A phase ends with `validate()` on a machine at rest.
const PHASE: Duration = Duration::from_millis(700);
/// How much longer it takes at most if the machine is busy.
const MORE: Duration = Duration::from_secs(60);
const STUCK_AFTER: Duration = Duration::from_secs(60);

type User = UserCpu<'static, Checked, X86_64, Mm<'static, Machine>>;

/// What all threads share.
struct World {
    vm: &'static Vm<Machine>,
    source: SourceId,
    private_total: AtomicU64,
    shared_total: AtomicU64,
    /// What each private counter has reached for certain.
    floors: [AtomicU64; COUNTERS as usize],
    steps: AtomicU64,
    /// Pages that went to other frames, and ranges that were emptied.
    moved: AtomicU64,
    evacuated: AtomicU64,
    /// Large folios that were made of small pages.
    collapsed: AtomicU64,
    /// Pages that were merged with equal ones.
    merged: AtomicU64,
    stop: AtomicBool,
    /// Allocations fail now and then.
    injecting: AtomicBool,
    /// Reads of the swap device fail now and then.
    reads_fail: AtomicBool,
    memory: Memory,
}

/// One thread and the address spaces that it runs in; the first is everybody's.
struct Worker<'a> {
    id: u64,
    world: &'a World,
    generator: Generator,
    spaces: [Option<Mm<'static, Machine>>; SPACES],
    oracle: Oracle,
}

fn region(id: u64) -> Range<u64> {
    let start = REGIONS + id * REGION_STRIDE;
    start..start + REGION_PAGES * P
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |v| v.parse().unwrap_or_else(|_| panic!("{name} is not a number")))
}

fn map(user: &User, source: SourceId, addr: u64, pages: u64, rights: Rights, backing: Backing) {
    let op = Op::Mmap(At::pages(0, 0, pages), Place::Fixed(addr), rights, backing);
    assert_eq!(calls::apply(user, source, &op), Outcome::Address(addr));
}

impl<'a> Worker<'a> {
    fn new(id: u64, world: &'a World, root: &Mm<'static, Machine>, seed: u64) -> Self {
        let mut oracle =
            Oracle::new(system::source(), Limits { folios: true, ..system::limits(world.memory) });
        oracle.judge(&Op::Spawn(0), &Outcome::Done, None).expect("a fresh oracle");
        let mut spaces = [const { None }; SPACES];
        spaces[0] = Some(root.clone());
        let generator = Generator::new(seed * 1_000 + id).with_window(region(id));
        Self { id, world, generator, spaces, oracle }
    }

    /// Works until it is told to stop.
    fn run(&mut self) {
        let machine = self.world.vm.machine();
        let cpu = machine.cpus().enter(CpuId((self.id % CPUS) as u32));
        let mut users: Vec<_> =
            self.spaces.iter().map(|mm| mm.as_ref().map(|mm| User::new(machine, mm.clone()))).collect();
        while !self.world.stop.load(Relaxed) {
            self.step(&mut users);
            self.world.steps.fetch_add(1, Relaxed);
        }
        drop((users, cpu));
    }

    fn step(&mut self, users: &mut [Option<User>]) {
        let living: Vec<usize> = (0..SPACES).filter(|&s| users[s].is_some()).collect();
        let space = living[self.generator.below(living.len() as u64) as usize];
        match self.generator.below(100) {
            0..=2 => self.fork(users, space),
            3..=4 if space != 0 => self.exit(users, space),
            5..=14 => self.count(users[space].as_ref().expect("living"), space),
            15..=19 if space == 0 => self.look(users[0].as_ref().expect("living")),
            20 if self.id == 0 => self.freeze(users[0].as_ref().expect("everybody's")),
            20 if self.id == 1 && self.world.memory == Memory::Short => self.cycle_swap(),
            15..=16 if space != 0 => self.disturb(users[space].as_ref().expect("living"), space),
            _ => self.operate(users[space].as_ref().expect("living"), space),
        }
    }

    /// An operation in this thread's region, judged.
    fn operate(&mut self, user: &User, space: usize) {
        let op = self.generator.op_within(space, &self.oracle);
        // Another thread's child would inherit it, and write to it.
        if space == 0 && matches!(op, Op::Mmap(_, _, _, Backing::Shared)) {
            return;
        }
        let area_end = match op {
            Op::Mremap(at, ..) => self.areas(user).iter().find(|a| a.contains(at.addr)).map(|a| a.end),
            _ => None,
        };
        // How much of such a call is done when it runs out of memory cannot be seen from the areas.
        let drops = |advice| matches!(advice, Advise::DontNeed | Advise::GuardInstall | Advise::GuardRemove);
        let may_fail = self.world.injecting.load(Relaxed) || self.world.memory == Memory::Short;
        if may_fail && matches!(op, Op::Madvise(_, advice) if drops(advice)) {
            return;
        }
        // A page that cannot be read is lost to whoever pins, moves or protects it, and says so in other
        // words.
        let needs_pages =
            matches!(op, Op::DeviceWrite(..) | Op::UffdMove(..) | Op::UffdFill(..) | Op::UffdProtect(..));
        if self.world.reads_fail.load(Relaxed) && needs_pages {
            return;
        }
        let mut outcome = calls::apply(user, self.world.source, &op);
        if self.world.reads_fail.load(Relaxed) {
            outcome = outcome_without_page(outcome);
        }
        let before = outcome.is_out_of_memory(&op).then(|| self.oracle.clone());
        let verdict = self.oracle.judge(&op, &outcome, area_end).and_then(|()| self.check_areas(user, space));
        let Err(why) = verdict else { return };
        // Allocations fail now and then; what else may be out of memory has been judged just now.
        let states = before.map(|oracle| oracle.after_failure(&op, &outcome)).unwrap_or_default();
        for state in states {
            self.oracle = state;
            if self.check_areas(user, space).is_ok() {
                return;
            }
        }
        let (id, areas) = (self.id, self.areas(user));
        panic!("thread {id}, space {space}, {op:?} came to {outcome:?}: {why}; its areas are {areas:x?}");
    }

    /// Takes a swap device away, while others fault on what is there, and gives it back.
    fn cycle_swap(&self) {
        if self.world.reads_fail.load(Relaxed) {
            // What cannot be read when the device goes is lost for ever.
            return;
        }
        let vm = self.world.vm;
        let _ = vm.swap_off(0);
        if !vm.swap_devices().any(|device| device.device == 0) {
            let _ = vm.swap_on(0, SWAP_PAGES, 1);
        }
    }

    fn areas(&self, user: &User) -> Vec<Area> {
        let region = region(self.id);
        let mut areas = calls::areas(user.space());
        areas.retain(|a| a.start < region.end && region.start < a.end);
        areas
    }

    fn check_areas(&self, user: &User, space: usize) -> Result<(), String> {
        let model = self.oracle.space(space).expect("lives");
        compare_areas(&self.areas(user), &model.areas())
    }

    fn fork(&mut self, users: &mut [Option<User>], parent: usize) {
        let Some(child) = (1..SPACES).find(|&s| users[s].is_none()) else { return };
        let Ok(mm) = users[parent].as_ref().expect("living").space().fork() else { return };
        let op = Op::Fork { parent, child };
        self.oracle.judge(&op, &Outcome::Done, None).expect("both exist");
        users[child] = Some(User::new(self.world.vm.machine(), mm.clone()));
        self.spaces[child] = Some(mm);
        let user = users[child].as_ref().expect("just made");
        self.check_areas(user, child)
            .unwrap_or_else(|why| panic!("thread {}, child {child}: {why}", self.id));
    }

    fn exit(&mut self, users: &mut [Option<User>], space: usize) {
        users[space] = None;
        self.spaces[space] = None;
        self.oracle.judge(&Op::Exit(space), &Outcome::Done, None).expect("it lived");
    }

    /// Increments counters that everybody increments.
    fn count(&mut self, user: &User, space: usize) {
        for _ in 0..8 {
            let counter = self.generator.below(COUNTERS);
            let shared = user.fetch_add_u64(Va(SHARED_COUNTERS + counter * 8), 1);
            let counted = self.expect_counted(shared).is_some();
            self.world.shared_total.fetch_add(u64::from(counted), Relaxed);
            let private = user.fetch_add_u64(Va(PRIVATE_COUNTERS + counter * 8), 1);
            if let (Some(old), 0) = (self.expect_counted(private), space) {
                self.world.private_total.fetch_add(1, Relaxed);
                self.world.floors[counter as usize].fetch_max(old + 1, SeqCst);
            }
        }
    }

    /// What was there before, if an increment took place.
    fn expect_counted(&self, result: Result<u64, Trap>) -> Option<u64> {
        match result {
            Ok(old) => Some(old),
            // Read-only for the moment; or no memory.
            Err(Trap::Denied | Trap::Oom) => None,
            Err(Trap::Bus) if self.world.reads_fail.load(Relaxed) => None,
            Err(trap @ (Trap::Unmapped | Trap::Bus)) => panic!("a counter is gone: {trap:?}"),
        }
    }

    /// Reads a counter in everybody's address space: it is no less than it was found to be before.
    fn look(&mut self, user: &User) {
        for _ in 0..8 {
            let counter = self.generator.below(COUNTERS);
            let floor = self.world.floors[counter as usize].load(SeqCst);
            let mut bytes = [0; 8];
            if user.load(Va(PRIVATE_COUNTERS + counter * 8), &mut bytes).is_ok() {
                let found = u64::from_ne_bytes(bytes);
                assert!(found >= floor, "counter {counter} fell back from {floor} to {found}");
            }
        }
    }

    /// Write-protects the private counters: until they are writable again they stand still.
    fn freeze(&mut self, user: &User) {
        let at = At::pages(0, PRIVATE_COUNTERS, 1);
        if calls::apply(user, self.world.source, &Op::Mprotect(at, Rights::R)) != Outcome::Done {
            return;
        }
        let read = || calls::apply(user, self.world.source, &Op::Read(at));
        let first = read();
        for _ in 0..20 {
            thread::yield_now();
            let now = read();
            let both_read = matches!((&first, &now), (Outcome::Bytes(_), Outcome::Bytes(_)));
            assert!(!both_read || now == first, "a page was written to while it was write-protected");
        }
        while calls::apply(user, self.world.source, &Op::Mprotect(at, Rights::RW)) != Outcome::Done {}
    }

    /// In a child: writes into the regions of other threads. In the parent nobody may see that.
    fn disturb(&mut self, user: &User, space: usize) {
        let other = region(self.generator.below(THREADS));
        let addr = other.start + self.generator.below(REGION_PAGES * P - 64);
        let at = At { space, addr, len: 1 + self.generator.below(64) };
        if other != region(self.id) {
            calls::apply(user, self.world.source, &Op::Write(at, 0x6666_6666));
        }
    }
}

/// What an error of the swap device came to, as if memory had been lacking: as little was done.
fn outcome_without_page(outcome: Outcome) -> Outcome {
    match outcome {
        Outcome::Signal(Signal::Bus, done) => Outcome::Signal(Signal::Oom, done),
        Outcome::Errno(errno::EFAULT) => Outcome::Errno(errno::ENOMEM),
        other => other,
    }
}

fn sum(user: &User, source: SourceId, page: u64) -> u64 {
    let bytes = calls::apply(user, source, &Op::Read(At { space: 0, addr: page, len: COUNTERS * 8 }));
    let Outcome::Bytes(bytes) = bytes else { panic!("the counters cannot be read: {bytes:?}") };
    bytes.chunks_exact(8).map(|b| u64::from_ne_bytes(b.try_into().expect("8 bytes"))).sum()
}

/// Empties one range of frames after the other, gives it back, and now and then makes a large block.
fn move_pages(world: &World) {
    let vm = world.vm;
    let (base, frames) = (vm.machine().base_pfn(), vm.machine().nr_frames());
    let pages = if world.memory == Memory::Short { 32 } else { 256 };
    let limits = CollapseLimits { shared: u64::MAX, ..CollapseLimits::OWN };
    let settings = CollapseSettings { everywhere: !1, limits, effort: BlockEffort::Free };
    let mut task = CollapseTask::default();
    // All ranges have had their turn after as many steps as there are.
    let steps = world.evacuated.load(Relaxed)..;
    for step in steps {
        if world.stop.load(Relaxed) {
            return;
        }
        let start = base.offset(step * 7 % (frames / pages) * pages);
        let range = start..start.offset(pages);
        let done = vm.evacuate(range.clone(), Effort::Light);
        vm.give_back(range);
        let compacted =
            if step % 16 == 0 { vm.compact(Order::new(4), Effort::Light).unwrap_or(0) } else { 0 };
        world.collapsed.fetch_add(task.step(vm, 256, &settings).collapsed, Relaxed);
        world.moved.fetch_add(done.moved + compacted, Relaxed);
        world.evacuated.fetch_add(1, Relaxed);
        thread::yield_now();
    }
}

/// Merges equal pages, and now and then gives every program its own again.
fn merge_pages(world: &World) {
    for step in 1_u64.. {
        if world.stop.load(Relaxed) {
            return;
        }
        // Without memory for its table it merges nothing.
        let done = world.vm.ksm_scan(200).unwrap_or_default();
        world.merged.fetch_add(done.freed, Relaxed);
        if step % 128 == 0 {
            // Without memory for the copies some stay merged.
            let _ = world.vm.ksm_unmerge_all();
        }
        thread::yield_now();
    }
}

/// Runs all workers for one phase, and the background task beside them where memory is short.
fn phase(world: &World, workers: &mut [Worker<'_>]) {
    world.stop.store(false, Relaxed);
    thread::scope(|scope| {
        let vm = world.vm;
        vm.kswapd_run();
        let background = if world.memory == Memory::Short { 6..8 } else { 0..0 };
        let kswapd: Vec<_> = background
            .map(|cpu| scope.spawn(move || vm.machine().cpus().run_on(CpuId(cpu), || vm.kswapd())))
            .collect();
        scope.spawn(|| vm.machine().cpus().run_on(CpuId(5), || move_pages(world)));
        scope.spawn(|| vm.machine().cpus().run_on(CpuId(4), || merge_pages(world)));
        let threads: Vec<_> = workers.iter_mut().map(|worker| scope.spawn(|| worker.run())).collect();
        let end = Instant::now() + PHASE;
        let mut last = (world.steps.load(Relaxed), Instant::now());
        while threads.iter().any(|thread| !thread.is_finished()) {
            thread::sleep(Duration::from_millis(10));
            if Instant::now() >= end || threads.iter().any(|thread| thread.is_finished()) {
                world.stop.store(true, Relaxed);
            }
            let steps = world.steps.load(Relaxed);
            if steps != last.0 {
                last = (steps, Instant::now());
            } else if last.1.elapsed() > STUCK_AFTER {
                // Not `eprintln`: the test harness would keep it to itself.
                let _ = writeln!(stderr(), "no thread has finished a step for {STUCK_AFTER:?}: deadlock");
                std::process::abort();
            }
        }
        // The machine must be at rest for `validate()`.
        if !kswapd.is_empty() {
            let _cpu = vm.machine().cpus().enter(CpuId(7));
            vm.kswapd_stop();
        }
    });
}

#[test]
fn threads_on_four_cpus_lose_nothing() {
    in_all_modes(Memory::Plenty);
}

#[test]
fn threads_on_four_cpus_lose_nothing_while_memory_is_short() {
    in_all_modes(Memory::Short);
}

/// Half the time for each of the two tests.
fn in_all_modes(memory: Memory) {
    let seed = number("ANONMEM_SEED", 1);
    let time = Duration::from_secs(number("ANONMEM_STRESS_SECONDS", 10)) / 6;
    // One test after the other: their threads are meant for CPUs of their own.
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    // Six runs meet all five sizes; the next seed pairs them otherwise.
    let shift = if memory == Memory::Short { seed + 3 } else { seed };
    for (mode, nth) in [LockMode::Mmap, LockMode::Vma, LockMode::Speculative].into_iter().zip(shift..) {
        let (name, folios) = system::FOLIOS[nth as usize % system::FOLIOS.len()];
        println!("{mode:?}, {memory:?}, folios {name}, seed {seed}:");
        stress(mode, memory, folios, time, seed);
    }
}

/// What fails in a round.
fn inject(world: &World, round: u64, seed: u64) {
    let machine = world.vm.machine();
    let allocations = round.is_multiple_of(3);
    world.injecting.store(allocations, Relaxed);
    let plan = FailurePlan::Random { one_in: 500, seed: seed + round };
    machine.failures().set(if allocations { plan } else { FailurePlan::Off });
    machine.swap().fail_every_write(if round % 4 == 1 { 13 } else { 0 });
    world.reads_fail.store(round % 5 == 2, Relaxed);
    machine.swap().fail_every_read(if round % 5 == 2 { 17 } else { 0 });
}

fn inject_nothing(world: &World) {
    let machine = world.vm.machine();
    machine.failures().set(FailurePlan::Off);
    machine.swap().fail_every_write(0);
    machine.swap().fail_every_read(0);
}

fn stress(lock_mode: LockMode, memory: Memory, folios: FolioPolicy, time: Duration, seed: u64) {
    let end = Instant::now() + time;
    let machine = Machine::new(if memory == Memory::Short { FEW } else { PLENTY });
    let (cpus, sources) = (machine.cpus().clone(), machine.sources().clone());
    let source = sources.register(system::source());
    let cpu = cpus.enter(CpuId(7));
    let config = Config { lock_mode, folios, reverse_map: system::reverse_map(), ..Config::default() };
    let vm = Vm::new(machine, config).expect("enough memory");
    // After a failure everything stays as it is: it may be in any state, and is not to be taken down.
    let vm: &'static Vm<Machine> = Box::leak(Box::new(vm));
    let file = std::env::temp_dir().join(format!("anonmem-stress-{}", std::process::id()));
    if memory == Memory::Short {
        // In one mode the devices are a real file, with direct I/O where that can be.
        if lock_mode == LockMode::Vma {
            let caching = vm.machine().swap().keep_in_file(&file).expect("a temporary file");
            println!("swap in a file: {caching:?}");
            // It lives as long as it is open.
            std::fs::remove_file(&file).expect("just made");
        }
        vm.swap_on(0, SWAP_PAGES, 1).expect("enough memory");
        vm.swap_on(1, SWAP_PAGES, 0).expect("enough memory");
    }
    let root = ManuallyDrop::new(vm.new_mm().expect("enough memory"));
    root.set_merge_any(MergeAny::Yes).expect("nothing is mapped yet");
    vm.set_ksm(KsmSettings { use_zero_pages: true, max_page_sharing: 8, ..KsmSettings::default() })
        .expect("nothing is merged yet");
    let user = ManuallyDrop::new(User::new(vm.machine(), (*root).clone()));
    map(&user, source, PRIVATE_COUNTERS, 1, Rights::RW, Backing::Private);
    map(&user, source, SHARED_COUNTERS, 1, Rights::RW, Backing::Shared);
    // What is above a region is no stack that could grow into it.
    (0..THREADS).for_each(|id| map(&user, source, region(id).end + P, 1, Rights::NONE, Backing::Private));
    let world = World {
        vm,
        source,
        private_total: AtomicU64::new(0),
        floors: [const { AtomicU64::new(0) }; COUNTERS as usize],
        shared_total: AtomicU64::new(0),
        steps: AtomicU64::new(0),
        moved: AtomicU64::new(0),
        evacuated: AtomicU64::new(0),
        collapsed: AtomicU64::new(0),
        merged: AtomicU64::new(0),
        stop: AtomicBool::new(false),
        injecting: AtomicBool::new(false),
        reads_fail: AtomicBool::new(false),
        memory,
    };
    let workers: Vec<_> = (0..THREADS).map(|id| Worker::new(id, &world, &root, seed)).collect();
    let mut workers = ManuallyDrop::new(workers);
    drop(cpu);
    let mut round = 0;
    // A busy machine gets more time for what is expected at the end.
    let enough = || {
        let came_about = [(&world.moved, 100), (&world.collapsed, 10), (&world.merged, 100)];
        came_about.iter().all(|(count, least)| count.load(Relaxed) > *least)
            && (memory == Memory::Plenty || vm.machine().swap().transfers().0 > 100)
    };
    while Instant::now() < end || (!enough() && Instant::now() < end + MORE) {
        round += 1;
        inject(&world, round, seed);
        phase(&world, &mut workers);
        inject_nothing(&world);
        let _cpu = cpus.enter(CpuId(7));
        vm.validate().unwrap_or_else(|violation| panic!("seed {seed}, round {round}: {violation}"));
        assert_eq!(
            sum(&user, source, PRIVATE_COUNTERS),
            world.private_total.load(Relaxed),
            "lost increments"
        );
        assert_eq!(sum(&user, source, SHARED_COUNTERS), world.shared_total.load(Relaxed), "lost increments");
    }
    let steps = world.steps.load(Relaxed);
    assert!(steps > 1_000, "only {steps} steps in {round} rounds");
    let (moved, evacuated) = (world.moved.load(Relaxed), world.evacuated.load(Relaxed));
    let collapsed = world.collapsed.load(Relaxed);
    assert!(moved > 100, "only {moved} pages went to other frames");
    assert!(collapsed > 10, "only {collapsed} folios became larger ones");
    let merged = world.merged.load(Relaxed);
    assert!(merged > 100, "only {merged} pages were merged");
    let _cpu = cpus.enter(CpuId(7));
    drop((ManuallyDrop::into_inner(workers), ManuallyDrop::into_inner(user), ManuallyDrop::into_inner(root)));
    vm.validate().unwrap_or_else(|violation| panic!("seed {seed}, at the end: {violation}"));
    let stats = vm.stats();
    assert_eq!((stats.user, stats.tables, stats.mms, stats.vmas, stats.shared_objects), (0, 0, 0, 0, 0));
    sources.assert_unused();
    let (reads, writes) = vm.machine().swap().transfers();
    assert_eq!(vm.machine().swap().stored(), 0, "pages are left on the swap devices");
    assert!(memory == Memory::Plenty || reads > 100, "only {reads} pages came back from swap");
    println!(
        "{steps} steps, {round} rounds, {writes} pages out, {reads} in, {moved} moved by emptying {evacuated} ranges, {collapsed} large folios made, {merged} merged, {:?}",
        vm.machine().tlbs().stats()
    );
    // SAFETY: it came from `Box::leak` above, and nothing borrows it any more.
    drop(unsafe { Box::from_raw(std::ptr::from_ref(vm).cast_mut()) });
}

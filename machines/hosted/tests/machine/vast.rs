//! Machines larger than any that this runs on: 16 TiB of frames, 1,024 CPUs. Both are simulated. The host
//! gives memory to what is touched alone, and its CPUs take turns at being all others.

use anonmem::{
    Advice, Config, Effort, Event, FaultAccess, FaultOutcome, Holes, MapFlags, MmapRequest, Overcommit, Prot,
    Vm,
};
use anonmem_hal::{
    CpuId, NoProbe, NodeMode, NodePolicy, NodeSet, Order, PAGE_SIZE, Pfn, PhysMem, UpTo, Va, VaRange,
    arch::X86_64, reverse_map,
};
use anonmem_hosted::{Checks, Hosted, UserCpu, UserSpace};
use std::{
    ops::Range,
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

const P: u64 = PAGE_SIZE as u64;
const RW: Prot = Prot::READ.union(Prot::WRITE);
const AT: u64 = 1 << 40;

/// Nothing is checked, so that nothing but the memory manager touches metadata.
enum Vast {}

impl Checks for Vast {
    const CHECKED: bool = false;
    const LARGE_PAGES: bool = false;
    const CPUS: usize = 1024;
    type Cpus = UpTo<1024, 16>;
    type ReverseMap = reverse_map::AnonVmas;
    type Probe = NoProbe;
}

/// Little memory, and everything is checked.
enum Crowd {}

impl Checks for Crowd {
    const CHECKED: bool = true;
    const CPUS: usize = 1024;
    type Cpus = UpTo<1024, 16>;
    type ReverseMap = reverse_map::Either;
    type Probe = NoProbe;
}

fn pages(first: u64, len: u64) -> VaRange {
    VaRange { start: Va(AT + first * P), end: Va(AT + (first + len) * P) }
}

fn map(mm: &anonmem::Mm<'_, impl anonmem::Machine>, len: u64) {
    let request = MmapRequest { addr: Va(AT), flags: MapFlags::FIXED, ..MmapRequest::anonymous(len * P, RW) };
    mm.mmap(request).expect("memory");
}

/// A memory manager for so many CPUs takes more than a thread's stack has: it is made where it is to stay.
fn vm_of<C: Checks>(machine: Hosted<C>, config: Config) -> Box<Vm<Hosted<C>>>
where
    Hosted<C>: anonmem::Machine,
{
    let mut place = Box::new_uninit();
    Vm::init(&mut place, machine, config).expect("memory");
    // SAFETY: it has just been made there.
    unsafe { place.assume_init() }
}

fn store<C: Checks>(user: &UserCpu<'_, C, X86_64, impl UserSpace>, page: u64, word: u64) {
    user.store(Va(AT + page * P), &word.to_le_bytes()).expect("it may be written");
}

fn load<C: Checks>(user: &UserCpu<'_, C, X86_64, impl UserSpace>, page: u64) -> u64 {
    let mut word = [0; 8];
    user.load(Va(AT + page * P), &mut word).expect("it may be read");
    u64::from_le_bytes(word)
}

/// The last eighth of memory is used, and what a name must tell lies in the first 256 GiB. Memory between
/// stays as it is: to touch its metadata alone would take 128 GiB of the host.
#[test]
fn sixteen_tebibytes_are_managed_up_to_the_last_frame() {
    const FRAMES: u64 = (1 << 32) - 1;
    const PAGES: u64 = 64;
    let machine = Hosted::<Vast>::new(FRAMES);
    let base = machine.base_pfn();
    let vm = vm_of(machine, Config { nodes: 8, ..Config::default() });
    let _cpu = vm.machine().cpus().enter(CpuId(1023));
    let last = vm.node_frames(7);
    assert_eq!(last.end, base.offset(FRAMES));
    // The very last frame, by itself: nothing follows it.
    let end = last.end.0 - 1..last.end.0;
    assert_eq!(vm.evacuate(Pfn(end.start)..Pfn(end.end), Effort::Full).kept.total(), 0);
    assert_eq!(vm.give_back(Pfn(end.start)..Pfn(end.end)), 1);
    vm.swap_on(0, 4 * PAGES, 0).expect("memory for the slots");
    let mm = vm.new_mm().expect("memory");
    map(&mm, PAGES);
    let policy = NodePolicy { mode: NodeMode::Bind, nodes: NodeSet::only(7), ..NodePolicy::DEFAULT };
    mm.set_node_policy(pages(0, PAGES), policy, Holes::Refused).expect("mapped");
    let user = UserCpu::new(vm.machine(), &mm);
    (0..PAGES).for_each(|page| store(&user, page, page + 1));
    assert_eq!(mm.pages_on(NodeSet::only(7)).0, PAGES);

    // Copied on write, on the way to swap and back, moved to the first node: words keep such frames apart.
    let child = mm.fork().expect("memory");
    (0..PAGES / 2).for_each(|page| store(&user, page, page + 100));
    mm.madvise(Va(AT), PAGES * P, Advice::PageOut).expect("mapped");
    assert!(vm.events_on(CpuId(1023), Event::SwapOut) > 0, "pages have left");
    for page in 0..PAGES {
        let own = if page < PAGES / 2 { 100 } else { 1 };
        assert_eq!(load(&user, page), page + own);
    }
    drop(user);
    let user = UserCpu::new(vm.machine(), &child);
    assert!((0..PAGES).all(|page| load(&user, page) == page + 1));
    drop(user);

    // The very last frames go out of use and come back.
    let end = last.end.0 - 3000;
    let done = vm.evacuate(Pfn(end)..last.end, Effort::Full);
    let (kept, out) = (done.kept, vm.frames().usage().offline.0);
    assert_eq!((kept.total() + out, kept.total()), (3000, kept.kernel), "{done}");
    assert_eq!(vm.give_back(Pfn(end)..last.end), out);
    drop((mm, child));
    vm.validate().expect("all of it adds up");
}

/// 256 threads, each on a CPU of its own of 1,024, in one address space and in children of it.
#[test]
fn a_crowd_of_cpus_forgets_what_one_of_them_takes_away() {
    const THREADS: u64 = 256;
    const EACH: u64 = 4;
    let vm = vm_of(Hosted::<Crowd>::new(1 << 14), Config::default());
    let cpu = |thread: u64| CpuId(thread as u32 * 4 + 3);
    let mm = vm.machine().cpus().run_on(CpuId(0), || {
        let mm = vm.new_mm().expect("memory");
        map(&mm, THREADS * EACH);
        mm
    });
    let all = Barrier::new(THREADS as usize);
    thread::scope(|s| {
        for me in 0..THREADS {
            let (vm, mm, all) = (&vm, &mm, &all);
            s.spawn(move || {
                let cpus = vm.machine().cpus();
                let mine = me * EACH;
                let neighbour = (me + 1) % THREADS * EACH;
                cpus.run_on(cpu(me), || {
                    let user = UserCpu::new(vm.machine(), mm);
                    (0..EACH).for_each(|page| store(&user, mine + page, me + 1));
                });
                all.wait();
                // Read by another CPU, which remembers where it is.
                let guard = cpus.enter(cpu(me));
                let user = UserCpu::new(vm.machine(), mm);
                assert!((0..EACH).all(|page| load(&user, neighbour + page) == (me + 1) % THREADS + 1));
                all.wait();
                mm.madvise(pages(mine, 2).start, 2 * P, Advice::DontNeed).expect("mapped");
                all.wait();
                let gone = |page| page < 2;
                for page in 0..EACH {
                    let left = if gone(page) { 0 } else { (me + 1) % THREADS + 1 };
                    assert_eq!(load(&user, neighbour + page), left, "CPU {:?} remembers a page", cpu(me));
                }
                all.wait();
                if me % 16 == 0 {
                    drop(user);
                    let child = mm.fork().expect("memory");
                    let user = UserCpu::new(vm.machine(), &child);
                    store(&user, mine + 3, 7);
                    drop(user);
                }
                drop(guard);
            });
        }
    });
    vm.machine().cpus().run_on(CpuId(0), || drop(mm));
    vm.machine().cpus().run_on(CpuId(0), || vm.validate().expect("all of it adds up"));
}

/// A machine that is full: of a hundred pages 99 are somebody's who does not give them up.
struct Full<'v> {
    vm: &'v Vm<Hosted<Vast>>,
    mm: anonmem::Mm<'v, Hosted<Vast>>,
    /// Pages of the program that were touched.
    touched: u64,
    kept: Vec<anonmem_frame::NewFolio<'v, Hosted<Vast>>>,
}

impl<'v> Full<'v> {
    fn new(vm: &'v Vm<Hosted<Vast>>) -> Self {
        let mm = vm.new_mm().expect("memory");
        map(&mm, vm.stats().frames / 8);
        vm.swap_on(0, vm.stats().frames / 8, 0).expect("memory for the slots");
        let mut full = Self { vm, mm, touched: 0, kept: Vec::new() };
        while !vm.frames().below_low() {
            full.touch(1);
            full.kept.extend((0..99).filter_map(|_| vm.frames().alloc(Order::ZERO).ok()));
        }
        full
    }

    /// Writes to so many pages that were never touched, one by one; returns what the longest of them took.
    fn touch(&mut self, pages: u64) -> Duration {
        let user = UserCpu::new(self.vm.machine(), &self.mm);
        let mut longest = Duration::ZERO;
        for _ in 0..pages {
            let begun = Instant::now();
            store(&user, self.touched, 1);
            longest = longest.max(begun.elapsed());
            self.touched += 1;
        }
        longest
    }

    /// Frames passed and pages freed so far, by some CPUs.
    fn reclaimed(&self, cpus: Range<u32>) -> (u64, u64) {
        let sum = |event| cpus.clone().map(|cpu| self.vm.events_on(CpuId(cpu), event)).sum();
        (sum(Event::ReclaimPass), sum(Event::ReclaimSteal))
    }
}

/// 2 to the power of `ANONMEM_VAST` (default 20, which is 4 GiB; 26 is 256 GiB) frames.
fn frames_to_search() -> u64 {
    1 << std::env::var("ANONMEM_VAST").map_or(20, |power| power.parse::<u32>().expect("a power of two"))
}

/// What a victim costs does not grow with memory, and who looks for one is never gone for long.
#[test]
fn a_victim_is_found_where_one_page_of_a_hundred_can_leave() {
    let frames = frames_to_search();
    let vm =
        vm_of(Hosted::<Vast>::new(frames), Config { overcommit: Overcommit::Always, ..Config::default() });
    let _cpu = vm.machine().cpus().enter(CpuId(0));
    let mut full = Full::new(&vm);
    let old = full.touched;
    // What is free, and the first laps, because all pages were used a moment ago.
    let begun = Instant::now();
    while full.reclaimed(0..1).1 == 0 {
        full.touch(1);
    }
    let (first, took) = (full.reclaimed(0..1), begun.elapsed());
    println!(
        "{frames} frames, {old} of them can leave: {} passed for the first {}, {:.1} ns each",
        first.0,
        first.1,
        took.as_nanos() as f64 / first.0 as f64
    );
    let begun = Instant::now();
    let longest = full.touch(old);
    let (passed, freed) = full.reclaimed(0..1);
    let (passed, freed) = (passed - first.0, freed - first.1);
    println!(
        "then {:.1} a page, {} ns with the fault and the device; the longest fault {longest:?}",
        passed as f64 / freed as f64,
        begun.elapsed().as_nanos() / u128::from(old),
    );
    assert!(first.0 <= 3 * frames, "{} frames were passed for the first page that left", first.0);
    assert!(passed <= 400 * freed, "{passed} frames were passed for {freed} pages");
    drop(full);
    vm.validate().expect("all of it adds up");
}

/// Four tasks divide the background's sweep among them.
#[test]
fn several_background_tasks_pass_different_frames() {
    let vm =
        vm_of(Hosted::<Vast>::new(1 << 18), Config { overcommit: Overcommit::Always, ..Config::default() });
    thread::scope(|s| {
        let tasks: Vec<_> = (1..5)
            .map(|cpu| {
                let vm = &*vm;
                s.spawn(move || vm.machine().cpus().run_on(CpuId(cpu), || vm.kswapd()))
            })
            .collect();
        vm.machine().cpus().run_on(CpuId(0), || {
            let mut full = Full::new(&vm);
            let end = Instant::now() + Duration::from_secs(60);
            let busy = |full: &Full<'_>| (1..5).filter(|&cpu| full.reclaimed(cpu..cpu + 1).0 > 0).count();
            while busy(&full) < 2 && Instant::now() < end {
                full.touch(if full.touched < vm.stats().frames / 16 { 64 } else { 0 });
                // On a busy host the tasks come to run when this one does not.
                thread::sleep(Duration::from_millis(1));
            }
            println!("{:?}", [1, 2, 3, 4].map(|cpu| full.reclaimed(cpu..cpu + 1)));
            assert!(busy(&full) >= 2, "one task did all the work");
        });
        vm.machine().cpus().run_on(CpuId(0), || vm.kswapd_stop());
        tasks.into_iter().for_each(|task| task.join().expect("it ends"));
    });
    vm.machine().cpus().run_on(CpuId(0), || vm.validate().expect("all of it adds up"));
}

/// Where nothing can leave, the tasks look at all frames and sleep: they do not wake one another for ever.
#[test]
fn background_tasks_sleep_where_nothing_can_leave() {
    let vm =
        vm_of(Hosted::<Vast>::new(1 << 17), Config { overcommit: Overcommit::Always, ..Config::default() });
    let passed = || (0..5).map(|cpu| vm.events_on(CpuId(cpu), Event::ReclaimPass)).sum::<u64>();
    thread::scope(|s| {
        let tasks: Vec<_> = (1..5)
            .map(|cpu| {
                let vm = &*vm;
                s.spawn(move || vm.machine().cpus().run_on(CpuId(cpu), || vm.kswapd()))
            })
            .collect();
        let kept = vm.machine().cpus().run_on(CpuId(0), || {
            vm.swap_on(0, 64, 0).expect("memory for the slots");
            let mm = vm.new_mm().expect("memory");
            map(&mm, 1);
            // All of it is somebody's, and nobody maps it.
            let kept: Vec<_> = std::iter::from_fn(|| vm.frames().alloc(Order::ZERO).ok()).collect();
            assert!(matches!(mm.handle_fault(Va(AT), FaultAccess::Write), FaultOutcome::Oom));
            kept
        });
        let end = Instant::now() + Duration::from_secs(30);
        let (mut before, mut asleep) = (passed(), false);
        while !asleep && Instant::now() < end {
            thread::sleep(Duration::from_millis(200));
            let now = passed();
            (before, asleep) = (now, now == before);
        }
        assert!(before > 1 << 17 && asleep, "{before} frames were passed, and there is no end");
        vm.machine().cpus().run_on(CpuId(0), || vm.kswapd_stop());
        tasks.into_iter().for_each(|task| task.join().expect("it ends"));
        vm.machine().cpus().run_on(CpuId(0), || drop(kept));
    });
}

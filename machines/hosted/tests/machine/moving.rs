//! Blocks of 2 MiB where every second page is in use, and quarters of memory that are emptied under load.
//!
//! `ANONMEM_EVACUATE_ROUNDS` (default 60) is how many quarters are emptied; `make evacuate` empties 10,000.

use anonmem::{
    Advice, Config, Effort, FolioMode, FolioPolicy, LockMode, MapBacking, MmapRequest, PinFlags, Prot, Vm,
};
use anonmem_hal::{CpuId, Order, PAGE_SIZE, Pfn, PhysMem, Va, VaRange, arch::X86_64};
use anonmem_hosted::{
    Checked, UserCpu,
    system::{Machine, reverse_map},
};
use std::{
    ops::Range,
    sync::{
        Barrier,
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{Relaxed, SeqCst},
        },
    },
    thread,
    time::{Duration, Instant},
};

const P: u64 = PAGE_SIZE as u64;
const RW: Prot = Prot::READ.union(Prot::WRITE);

type Mm = anonmem::Mm<'static, Machine>;
type User = UserCpu<'static, Checked, X86_64, Mm>;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |v| v.parse().unwrap_or_else(|_| panic!("{name} is not a number")))
}

fn vm_of(frames: u64, config: Config) -> &'static Vm<Machine> {
    let config = Config { reverse_map: reverse_map(), ..config };
    let vm = Vm::new(Machine::new(frames), config).expect("enough memory");
    Box::leak(Box::new(vm))
}

fn store(user: &User, va: u64, word: u64) {
    user.store(Va(va), &word.to_le_bytes()).expect("it may be written");
}

fn load(user: &User, va: u64) -> u64 {
    let mut word = [0; 8];
    user.load(Va(va), &mut word).expect("it may be read");
    u64::from_le_bytes(word)
}

/// 95 % of 256 MiB was filled with single pages, and every second one freed.
#[test]
fn two_mebibytes_at_a_time_are_made_of_every_second_page() {
    const FRAMES: u64 = 65_536;
    let pages = FRAMES * 95 / 100;
    let vm = vm_of(FRAMES, Config::default());
    let _cpu = vm.machine().cpus().enter(CpuId(0));
    let mm = vm.new_mm().expect("memory");
    let start = mm.mmap(MmapRequest::anonymous(pages * P, RW)).expect("memory").0;
    {
        let user = User::new(vm.machine(), mm.clone());
        (0..pages).for_each(|nth| store(&user, start + nth * P, nth + 1));
        for nth in (0..pages).step_by(2) {
            mm.madvise(Va(start + nth * P), P, Advice::DontNeed).expect("mapped");
        }
    }
    vm.drain();
    let order = Order::new(9);
    let (free, had) = (vm.stats().free / order.pages(), vm.fragmentation());
    let (stop, loads, longest) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let (mut blocks, mut moved, mut made) = (Vec::new(), 0, 0);
    thread::scope(|scope| {
        // The program reads all the time, and finds what it wrote.
        scope.spawn(|| {
            vm.machine().cpus().run_on(CpuId(1), || {
                let user = User::new(vm.machine(), mm.clone());
                let mut nth = 1;
                while !stop.load(Relaxed) {
                    let began = Instant::now();
                    assert_eq!(load(&user, start + nth * P), nth + 1);
                    longest.fetch_max(began.elapsed().as_nanos() as u64, Relaxed);
                    loads.fetch_add(1, Relaxed);
                    nth = ((nth + 2 * 769) % pages) | 1;
                    nth = if nth < pages { nth } else { 1 };
                }
            });
        });
        loop {
            match vm.frames().alloc(order) {
                Ok(block) => blocks.push(block),
                Err(_) => match vm.compact(order, Effort::Light) {
                    Ok(pages) => {
                        moved += pages;
                        made += 1;
                    }
                    Err(_) => break,
                },
            }
        }
        stop.store(true, Relaxed);
    });
    let served = blocks.len() as u64;
    println!(
        "{served} blocks of {free} that free memory holds, {made} of them made by moving {moved} pages; {} loads meanwhile, the \
         longest {} us",
        loads.load(Relaxed),
        longest.load(Relaxed) / 1000
    );
    assert!(served * 100 >= free * 80, "{served} blocks of {free}, from {had:?}");
    assert!(
        moved * 10 <= made * order.pages() / 2 * 13,
        "{moved} pages moved for {made} blocks, of which half had to"
    );
    drop(blocks);
    {
        let user = User::new(vm.machine(), mm.clone());
        (0..pages)
            .for_each(|nth| assert_eq!(load(&user, start + nth * P), if nth % 2 == 0 { 0 } else { nth + 1 }));
    }
    vm.validate().expect("at rest");
    drop(mm);
    vm.drain();
    assert_eq!(vm.stats().user, 0);
}

/// Frames of the machine whose quarters are emptied.
const FRAMES: u64 = 8_192;
const WORKERS: u32 = 3;
/// Pages of a worker's memory.
const PAGES: u64 = 768;
/// Pages of a worker's shared memory, which its children have as well.
const SHARED: u64 = 64;
/// Pages that are pinned for the whole test.
const PINNED: u64 = 8;
/// Quarters that are emptied before everything stands still and is recounted.
const AT_ONCE: u64 = 10;

struct Worker {
    mm: Mm,
    start: u64,
    salt: u64,
    /// What each page says.
    known: Vec<u64>,
    shared: u64,
    shared_known: Vec<u64>,
}

impl Worker {
    fn new(vm: &'static Vm<Machine>, nth: u64) -> Self {
        let mm = vm.new_mm().expect("memory");
        let start = mm.mmap(MmapRequest::anonymous(PAGES * P, RW)).expect("memory").0;
        let request =
            MmapRequest { backing: MapBacking::SharedNew, ..MmapRequest::anonymous(SHARED * P, RW) };
        let shared = mm.mmap(request).expect("memory").0;
        let (known, shared_known) = (vec![0; PAGES as usize], vec![0; SHARED as usize]);
        Self { mm, start, salt: nth * 1_000_003 + 1, known, shared, shared_known }
    }

    fn random(&mut self, below: u64) -> u64 {
        // Numerical Recipes' generator: what it does is the same each time.
        self.salt = self.salt.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.salt >> 33) % below
    }

    /// Stores, loads, drops, protects, shares with a child: each page says what it should.
    fn step(&mut self, user: &User) {
        let page = self.random(PAGES);
        let at = self.start + page * P;
        match self.random(110) {
            100..105 => {
                let (page, word) = (self.random(SHARED), self.random(1 << 30) + 1);
                store(user, self.shared + page * P, word);
                self.shared_known[page as usize] = word;
            }
            105..110 => {
                let page = self.random(SHARED);
                assert_eq!(
                    load(user, self.shared + page * P),
                    self.shared_known[page as usize],
                    "page {page}"
                );
            }
            0..40 => {
                let word = self.random(1 << 30) + 1;
                store(user, at, word);
                self.known[page as usize] = word;
            }
            40..85 => assert_eq!(load(user, at), self.known[page as usize], "page {page}"),
            85..91 => {
                let n = (PAGES - page).min(8);
                self.mm.madvise(Va(at), n * P, Advice::DontNeed).expect("mapped");
                self.known[page as usize..(page + n) as usize].fill(0);
            }
            91..95 => {
                self.mm.mprotect(VaRange::of(Va(at), P).expect("a page"), Prot::READ).expect("memory");
                assert_eq!(load(user, at), self.known[page as usize]);
                self.mm.mprotect(VaRange::of(Va(at), P).expect("a page"), RW).expect("memory");
            }
            95..97 => {
                // There may be no block.
                let _ = self.mm.madvise(Va(self.start), PAGES * P, Advice::Collapse);
            }
            _ => {
                let child = self.mm.fork().expect("memory");
                store(user, at, 77);
                self.known[page as usize] = 77;
                drop(child);
            }
        }
    }
}

#[test]
fn any_quarter_is_emptied_under_load_but_for_what_is_pinned() {
    let rounds = number("ANONMEM_EVACUATE_ROUNDS", 60);
    let all = FolioPolicy::up_to(Order::new(9), FolioMode::Always);
    let small = FolioPolicy::default().with(Order::new(4), FolioMode::Always);
    let ways =
        [(LockMode::Mmap, FolioPolicy::default()), (LockMode::Vma, small), (LockMode::Speculative, all)];
    for (lock_mode, folios) in ways {
        empty_quarters(Config { lock_mode, folios, ..Config::default() }, rounds.div_ceil(3));
    }
}

fn empty_quarters(config: Config, rounds: u64) {
    let vm = vm_of(FRAMES, config);
    let _cpu = vm.machine().cpus().enter(CpuId(7));
    let mut workers: Vec<_> = (0..WORKERS).map(|nth| Worker::new(vm, nth.into())).collect();
    // A device has a few pages for the whole time.
    let device = vm.new_mm().expect("memory");
    let buffer = device.mmap(MmapRequest::anonymous(PINNED * P, RW)).expect("memory");
    let range = VaRange::of(buffer, PINNED * P).expect("a buffer");
    let pin = device.pin(range, PinFlags::WRITE).expect("memory");
    let pinned: Vec<Pfn> =
        pin.runs().flat_map(|run| (0..run.pages.0).map(move |nth| run.first.offset(nth))).collect();
    let (mut done, mut moved, mut again) = (0, 0, 0);
    while done < rounds {
        let stop = AtomicBool::new(false);
        let ready = Barrier::new(WORKERS as usize + 1);
        thread::scope(|scope| {
            let (ready, stop) = (&ready, &stop);
            let threads: Vec<_> = workers
                .iter_mut()
                .zip(0..)
                .map(|(worker, cpu)| {
                    scope.spawn(move || {
                        vm.machine().cpus().run_on(CpuId(cpu), || {
                            let user = User::new(vm.machine(), worker.mm.clone());
                            ready.wait();
                            while !stop.load(SeqCst) {
                                worker.step(&user);
                            }
                        });
                    })
                })
                .collect();
            ready.wait();
            for _ in 0..AT_ONCE.min(rounds - done) {
                let (pages, tries) = empty_one(vm, done, &pinned);
                moved += pages;
                again += tries;
                done += 1;
                assert!(threads.iter().all(|thread| !thread.is_finished()), "a worker has ended");
            }
            stop.store(true, SeqCst);
        });
        vm.drain();
        vm.validate().expect("at rest");
    }
    println!(
        "{:?}: {done} quarters emptied, {moved} pages moved, {again} times asked again",
        config.lock_mode
    );
    for worker in &workers {
        let user = User::new(vm.machine(), worker.mm.clone());
        for (page, &word) in worker.known.iter().enumerate() {
            assert_eq!(load(&user, worker.start + page as u64 * P), word, "page {page}");
        }
        for (page, &word) in worker.shared_known.iter().enumerate() {
            assert_eq!(load(&user, worker.shared + page as u64 * P), word, "shared page {page}");
        }
    }
    drop((workers, pin, device));
    vm.drain();
    vm.validate().expect("at rest");
    assert_eq!(vm.stats().user, 0);
}

/// Empties a quarter, and gives it back. Returns the pages that moved, and how often it had to be asked again
/// because somebody was using a page each time.
fn empty_one(vm: &'static Vm<Machine>, round: u64, pinned: &[Pfn]) -> (u64, u64) {
    let (base, quarter) = (vm.machine().base_pfn(), FRAMES / 4);
    let start = base.offset(round * 1_237 % (FRAMES - quarter));
    let range: Range<Pfn> = start..start.offset(quarter);
    let deadline = Instant::now() + Duration::from_secs(60);
    let (mut moved, mut again) = (0, 0);
    loop {
        let done = vm.evacuate(range.clone(), Effort::Light);
        moved += done.moved;
        let kept = done.kept;
        if kept.busy == 0 && kept.no_memory == 0 {
            assert_eq!(kept.shared, 0, "{done}");
            let of_device = |pfn: &&Pfn| range.contains(pfn);
            // A folio that a device has a page of stays whole.
            let known = pinned.iter().filter(of_device).count() as u64;
            let folios = pinned.iter().filter_map(|&pfn| vm.frames().folio(pfn));
            let most: u64 = folios.map(|folio| folio.nr_pages().0).sum();
            assert!(
                (known..=most).contains(&kept.pinned),
                "{done}, and {known} pages of the quarter are pinned"
            );
            break;
        }
        again += 1;
        assert!(Instant::now() < deadline, "{done}, whenever it is asked");
        thread::yield_now();
    }
    vm.give_back(range);
    (moved, again)
}

//! Memory calls with odd arguments, by four threads of one address space and their children.
//!
//! Addresses and lengths are of both ends, misaligned and wrapping as often as not. Nothing is said about
//! results: what must hold is that nobody panics, that `validate()` finds the books right after every batch,
//! and that nothing is left at the end.
//!
//! `ANONMEM_ODDCALLS_SECONDS` (default 20) is how long it runs, a third in each lock mode; `ANONMEM_SEED`
//! what it does.

use anonmem::{
    Advice, Config, LockMode, MapBacking, MapFlags, MlockAll, Mm, MmapRequest, Prot, RemapFlags,
    SharedObject, SyncFlags, Vm,
};
use anonmem_hal::{CpuId, SourceId, Va, VaRange, arch::X86_64};
use anonmem_hosted::{
    Checked, UserCpu,
    generate::Generator,
    system::{Machine, reverse_map},
};
use std::{
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

const P: u64 = 4096;
const AT: u64 = 0x1000_0000_0000;
const TOP: u64 = (1 << 47) - P;
const THREADS: u64 = 4;
const CALLS: u64 = 400;
/// What fills so much takes its time.
const LONG: u64 = 1 << 30;
const LENGTHS: [u64; 22] = [
    0,
    1,
    P - 1,
    P,
    P + 1,
    3 * P,
    16 * P,
    64 * P,
    513 * P,
    LONG,
    1 << 46,
    TOP - AT,
    TOP,
    1 << 47,
    (1 << 47) + 1,
    1 << 62,
    1 << 63,
    AT.wrapping_neg(),
    (2 * P).wrapping_neg(),
    P.wrapping_neg(),
    P.wrapping_neg() + 1,
    u64::MAX,
];
const ENDS: [u64; 10] = [0, 1, P, TOP - P, TOP, TOP + 1, 1 << 47, 1 << 63, P.wrapping_neg(), u64::MAX];

type User<'v> = UserCpu<'v, Checked, X86_64, Mm<'v, Machine>>;

/// What all threads work on.
struct World<'v> {
    vm: &'v Vm<Machine>,
    source: SourceId,
    object: &'v SharedObject<'v, Machine>,
    /// One at a time changes its length.
    resizing: Mutex<()>,
}

struct Caller {
    random: Generator,
}

impl Caller {
    fn of<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.random.below(list.len() as u64) as usize]
    }

    fn address(&mut self) -> Va {
        if self.random.one_in(16) {
            return Va(self.of(&ENDS));
        }
        let page = self.random.below(96) + if self.random.one_in(8) { 512 } else { 0 };
        Va(AT + page * P + if self.random.one_in(16) { self.random.below(P) } else { 0 })
    }

    fn length(&mut self) -> u64 {
        if self.random.one_in(3) { self.of(&LENGTHS) } else { (1 + self.random.below(24)) * P }
    }

    fn range(&mut self) -> VaRange {
        let (start, len) = (self.address(), self.length());
        VaRange { start, end: Va(start.0.wrapping_add(len)) }
    }

    fn mmap(&mut self, world: &World<'_>, mm: &Mm<'_, Machine>) {
        let (addr, len) = (self.address(), self.length());
        let mut flags = MapFlags::from_bits_truncate(self.random.below(1 << 22) as u32);
        if len >= LONG {
            flags -= MapFlags::POPULATE | MapFlags::LOCKED;
        }
        let first = self.random.below(12);
        let backing = match self.random.below(5) {
            0 | 1 => MapBacking::Anonymous,
            2 => MapBacking::SharedNew,
            3 => {
                let odd = self.of(&[first * P, first * P + 1, u64::MAX - P + 1, 1 << 63]);
                MapBacking::Source { id: world.source, offset: odd }
            }
            _ => MapBacking::Shared {
                object: world.object.id(),
                first: self.of(&[first, u64::MAX >> 12, u64::MAX]),
            },
        };
        let prot = Prot::from_bits_truncate(self.random.below(16) as u32);
        let _ = mm.mmap(MmapRequest { addr, len, prot, flags, backing });
    }

    fn madvise(&mut self, mm: &Mm<'_, Machine>) {
        let (at, len, advice) = (self.address(), self.length(), self.of(&Advice::ALL));
        let fills = matches!(advice, Advice::PopulateRead | Advice::PopulateWrite);
        if !fills || len < LONG {
            let _ = mm.madvise(at, len, advice);
        }
    }

    fn call(&mut self, world: &World<'_>, user: &User<'_>) {
        let mm = user.space();
        let (at, len) = (self.address(), self.length());
        match self.random.below(16) {
            0..=3 => self.mmap(world, mm),
            4 => drop(mm.munmap(self.range())),
            5 => drop(mm.mprotect(self.range(), Prot::from_bits_retain(self.random.below(1 << 27) as u32))),
            6 | 7 => {
                let (new, to) = (self.length(), self.address());
                let _ =
                    mm.mremap(at, len, new, RemapFlags::from_bits_retain(self.random.below(9) as u32), to);
            }
            8 | 9 => self.madvise(mm),
            // No more than a few pages may be locked, so nobody fills a gibibyte.
            10 if self.random.one_in(2) => drop(mm.mlock(at, len)),
            10 => drop(mm.mlock_onfault(at, len)),
            11 => drop(mm.munlock(at, len)),
            12 => drop(mm.msync(at, len, SyncFlags::from_bits_retain(self.random.below(9) as u32))),
            13 => {
                // What is mapped is looked at page by page.
                let _ = mm.mincore(at, len.min(1 << 24), &mut |_| ());
                let what = MlockAll::from_bits_truncate(self.random.below(8) as u32);
                if self.random.one_in(4) {
                    let _ = mm.mlockall(what);
                } else {
                    mm.munlockall();
                }
            }
            14 => {
                let heap = mm.brk(Va(0));
                mm.brk(if self.random.one_in(4) { at } else { Va(heap.0 + self.random.below(32) * P) });
                let pages = self.random.below(12);
                let _resizing = world.resizing.lock().expect("nobody has panicked");
                world.object.resize(pages).expect("it can be resized");
                world.vm.unmap_source(world.source, self.random.below(12));
            }
            _ => {
                let mut byte = [1];
                let _ = user.load(at, &mut byte);
                let _ = user.store(at, &byte);
            }
        }
    }

    fn work(&mut self, world: &World<'_>, mm: Mm<'_, Machine>) {
        let user = User::new(world.vm.machine(), mm);
        for call in 0..CALLS {
            self.call(world, &user);
            if call % 64 == 63
                && let Ok(child) = user.space().fork()
            {
                let child = User::new(world.vm.machine(), child);
                (0..32).for_each(|_| self.call(world, &child));
            }
        }
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |v| v.parse().unwrap_or_else(|_| panic!("{name} is not a number")))
}

/// One address space, four threads, and everything counted again when they are done.
fn batch(world: &World<'_>, seed: u64) {
    let vm = world.vm;
    let cpu = vm.machine().cpus().enter(CpuId(7));
    let mm = vm.new_mm().expect("enough memory");
    mm.set_brk_start(Va(AT + (1 << 32)));
    mm.set_limits(anonmem::Limits { locked: 64 * P, ..mm.limits() });
    drop(cpu);
    thread::scope(|scope| {
        for id in 0..THREADS {
            let mm = &mm;
            scope.spawn(move || {
                let _cpu = vm.machine().cpus().enter(CpuId(id as u32));
                let mut caller = Caller { random: Generator::new(seed * 1_000 + id) };
                caller.work(world, mm.clone());
            });
        }
    });
    let _cpu = vm.machine().cpus().enter(CpuId(7));
    vm.validate().unwrap_or_else(|violation| panic!("seed {seed}: {violation}"));
    drop(mm);
    vm.drain();
    vm.validate().unwrap_or_else(|violation| panic!("seed {seed}, at its end: {violation}"));
}

#[test]
fn odd_arguments_harm_nobody() {
    let time = Duration::from_secs(number("ANONMEM_ODDCALLS_SECONDS", 20)) / 3;
    let mut seed = number("ANONMEM_SEED", 1);
    for lock_mode in [LockMode::Mmap, LockMode::Vma, LockMode::Speculative] {
        let end = Instant::now() + time;
        let machine = Machine::new(32_768);
        let sources = machine.sources().clone();
        let source = sources.register(vec![7; 9 * P as usize]);
        let cpus = machine.cpus().clone();
        let cpu = cpus.enter(CpuId(7));
        let vm = Vm::new(machine, Config { lock_mode, reverse_map: reverse_map(), ..Config::default() })
            .expect("enough memory");
        let object = vm.shm_new_sparse(6).expect("enough memory");
        drop(cpu);
        let world = World { vm: &vm, source, object: &object, resizing: Mutex::new(()) };
        let first = seed;
        while seed == first || Instant::now() < end {
            batch(&world, seed);
            seed += 1;
        }
        println!("{lock_mode:?}: {} batches from seed {first}", seed - first);
        let _cpu = cpus.enter(CpuId(7));
        drop(object);
        let stats = vm.stats();
        assert_eq!((stats.user, stats.tables, stats.mms, stats.vmas, stats.shared_objects), (0, 0, 0, 0, 0));
        assert_eq!(stats.committed, 0);
        sources.assert_unused();
    }
}

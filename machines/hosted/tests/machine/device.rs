//! A device that reads and writes pinned frames behind everybody's back. Meanwhile their program forks, is
//! reclaimed, changes rights, writes beside the device, and frames are emptied.
//!
//! Every page of the buffer has two words: the program counts in the first, the device in the second. Whoever
//! has counted says so, and from then on the other side must not see less. For the page that is pinned is the
//! page that the program sees. The device lets go of its pages now and then, and pins them again.
//!
//! `ANONMEM_DEVICE_SECONDS` (default 4) is how long it runs, in all lock modes together. It takes longer
//! on a host that is so busy that a thread has hardly run.

use anonmem::{Advice, Config, Effort, LockMode, MmapRequest, PinFlags, PinnedRange, Prot, Unpin, Vm};
use anonmem_hal::{CpuId, Order, PAGE_SIZE, Pfn, PhysMem, Va, VaRange, arch::X86_64};
use anonmem_hosted::{
    Checked, UserCpu,
    system::{Machine, reverse_map},
};
use std::{
    sync::atomic::{
        AtomicBool, AtomicU64,
        Ordering::{Relaxed, SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

const P: u64 = PAGE_SIZE as u64;
const PAGES: u64 = 12;
/// Frames: not much more than the program and a few children need.
const FRAMES: u64 = 512;
const SWAP_PAGES: u64 = 1_024;
/// The program's, the one that forks, the one that makes pages leave, and the device's.
const CPUS: usize = 4;
/// Steps that each of them does at least, however busy the host is, and how much longer it gets for them.
const ENOUGH: u64 = 400;
const MORE: Duration = Duration::from_secs(60);
/// Where each side counts in a page.
const PROGRAM: u64 = 0;
const DEVICE: u64 = 8;

type Mm = anonmem::Mm<'static, Machine>;
type User = UserCpu<'static, Checked, X86_64, Mm>;

struct World {
    vm: &'static Vm<Machine>,
    mm: Mm,
    buffer: VaRange,
    /// What each side has counted for certain, by page.
    by_program: [AtomicU64; PAGES as usize],
    by_device: [AtomicU64; PAGES as usize],
    stop: AtomicBool,
    /// What each CPU has done.
    steps: [AtomicU64; CPUS],
}

fn load(user: &User, va: u64) -> u64 {
    let mut word = [0; 8];
    user.load(Va(va), &mut word).expect("it may be read");
    u64::from_le_bytes(word)
}

fn at_least(who: &str, page: u64, found: u64, known: u64) {
    assert!(found >= known, "{who} finds {found} in page {page}, and {known} was counted there");
}

impl World {
    /// Steps on a CPU until it is told to stop; what the steps share is dropped there, too.
    fn run<S>(&self, cpu: u32, state: impl FnOnce() -> S, mut step: impl FnMut(&mut S, u64)) {
        let _cpu = self.vm.machine().cpus().enter(CpuId(cpu));
        let mut state = state();
        let mut turn = 0;
        while !self.stop.load(Relaxed) {
            step(&mut state, turn);
            turn += 1;
            self.steps[cpu as usize].fetch_add(1, Relaxed);
        }
    }

    /// Whether every CPU has done so much that whatever can go wrong had its chances.
    fn has_done_enough(&self) -> bool {
        self.steps.iter().all(|steps| steps.load(Relaxed) >= ENOUGH)
    }

    fn word(&self, page: u64, word: u64) -> u64 {
        self.buffer.start.0 + page * P + word
    }

    /// Counts in every page, and looks at the device's words.
    fn program(&self) {
        let user = || User::new(self.vm.machine(), self.mm.clone());
        self.run(0, user, |user, turn| {
            let page = turn % PAGES;
            let known = self.by_device[page as usize].load(SeqCst);
            at_least("the program", page, load(user, self.word(page, DEVICE)), known);
            user.store(Va(self.word(page, PROGRAM)), &turn.to_le_bytes()).expect("it may be written");
            self.by_program[page as usize].store(turn, SeqCst);
            // Read-only for a moment: copy-on-write has another look at the entry then.
            if turn.is_multiple_of(64) {
                self.mm.mprotect(self.buffer, Prot::READ).expect("no memory is needed");
                self.mm.mprotect(self.buffer, Prot::READ | Prot::WRITE).expect("no memory is needed");
            }
        });
    }

    /// Forks; what the child has stays what it is, whatever the device writes.
    fn forks(&self) {
        self.run(
            1,
            || {},
            |(), turn| {
                let Ok(child) = self.mm.fork() else { return };
                let user = User::new(self.vm.machine(), child);
                let page = turn % PAGES;
                let was = load(&user, self.word(page, DEVICE));
                let _ = user.store(Va(self.word(page, PROGRAM)), &u64::MAX.to_le_bytes());
                assert_eq!(
                    load(&user, self.word(page, DEVICE)),
                    was,
                    "the device writes to the child's page"
                );
            },
        );
    }

    /// Makes the pages leave, for swap and for other frames.
    fn pressure(&self) {
        let machine = self.vm.machine();
        let (first, frames) = (machine.base_pfn(), machine.nr_frames());
        self.run(
            2,
            || {},
            |(), turn| {
                self.mm.madvise(self.buffer.start, PAGES * P, Advice::PageOut).expect("it is mapped");
                let start = first.offset(turn * 64 % frames);
                self.vm.evacuate(start..start.offset(64), Effort::Light);
                self.vm.give_back(start..start.offset(64));
                if turn.is_multiple_of(16) {
                    let _ = self.vm.compact(Order::new(3), Effort::Light);
                }
            },
        );
    }

    /// Reads and writes the frames that it was given, by number.
    fn device(&self) {
        let arena = self.vm.machine().arena();
        let word = |frame: Pfn, at: u64| {
            let mut bytes = [0; 8];
            arena.read(frame, at as usize, &mut bytes);
            u64::from_le_bytes(bytes)
        };
        let mut counts = [0; PAGES as usize];
        self.run(
            3,
            || None,
            |pinned, turn| {
                if turn.is_multiple_of(500) {
                    drop(pinned.take());
                }
                let (_, frames) = pinned.get_or_insert_with(|| self.pin(turn));
                let page = turn % PAGES;
                let (frame, count) = (frames[page as usize], &mut counts[page as usize]);
                let known = self.by_program[page as usize].load(SeqCst);
                at_least("the device", page, word(frame, PROGRAM), known);
                assert_eq!(word(frame, DEVICE), *count, "page {page}: what the device wrote is lost");
                *count += 1;
                arena.write(frame, DEVICE as usize, &count.to_le_bytes());
                self.by_device[page as usize].store(*count, SeqCst);
            },
        );
    }

    fn pin(&self, turn: u64) -> (PinnedRange<'static, Machine>, Vec<Pfn>) {
        let flags =
            if turn.is_multiple_of(1000) { PinFlags::WRITE } else { PinFlags::WRITE | PinFlags::LONGTERM };
        loop {
            let pinned = match turn % 3 {
                0 => self.mm.pin(self.buffer, flags),
                _ => self.mm.pin_fast(self.buffer, flags),
            };
            // The program may have made it read-only for a moment.
            let Ok(mut pinned) = pinned else { continue };
            pinned.set_unpin(Unpin::Dirty);
            let frames = pinned.runs().flat_map(|run| (0..run.pages.0).map(move |i| run.first.offset(i)));
            let frames = frames.collect();
            return (pinned, frames);
        }
    }
}

fn run(lock_mode: LockMode, time: Duration) {
    let machine = Machine::new(FRAMES);
    let vm: &'static Vm<Machine> = {
        let _cpu = machine.cpus().clone().enter(CpuId(0));
        let vm = Vm::new(machine, Config { lock_mode, reverse_map: reverse_map(), ..Config::default() })
            .expect("enough memory");
        Box::leak(Box::new(vm))
    };
    let (mm, buffer) = {
        let _cpu = vm.machine().cpus().enter(CpuId(0));
        vm.swap_on(0, SWAP_PAGES, 0).expect("enough memory");
        let mm = vm.new_mm().expect("enough memory");
        let request = MmapRequest::anonymous(PAGES * P, Prot::READ | Prot::WRITE);
        let start = mm.mmap(request).expect("enough memory");
        (mm, VaRange { start, end: Va(start.0 + PAGES * P) })
    };
    let zeroes = || [const { AtomicU64::new(0) }; PAGES as usize];
    let (stop, steps) = (AtomicBool::new(false), [const { AtomicU64::new(0) }; CPUS]);
    let world = World { vm, mm, buffer, by_program: zeroes(), by_device: zeroes(), stop, steps };
    thread::scope(|scope| {
        let parts: [fn(&World); CPUS] = [World::program, World::forks, World::pressure, World::device];
        let threads = parts.map(|part| {
            scope.spawn({
                let world = &world;
                move || part(world)
            })
        });
        let began = Instant::now();
        let goes_on = || {
            let took = began.elapsed();
            took < time || (!world.has_done_enough() && took < time + MORE)
        };
        while goes_on() && !threads.iter().any(|thread| thread.is_finished()) {
            thread::sleep(Duration::from_millis(20));
        }
        world.stop.store(true, Relaxed);
    });
    let _cpu = vm.machine().cpus().enter(CpuId(0));
    let steps = world.steps.each_ref().map(|steps| steps.load(Relaxed));
    drop(world);
    vm.validate().expect("at rest");
    println!("{lock_mode:?}: {steps:?} steps, {:?}", vm.stats());
}

#[test]
fn a_device_and_its_program_see_one_another_whatever_happens() {
    let seconds = std::env::var("ANONMEM_DEVICE_SECONDS").map_or(4.0, |v| v.parse::<f64>().expect("seconds"));
    for mode in [LockMode::Mmap, LockMode::Vma, LockMode::Speculative] {
        run(mode, Duration::from_secs_f64(seconds / 3.0));
    }
}

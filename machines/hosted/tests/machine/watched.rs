//! Programs whose memory a userfaultfd watches: faults that wait, removals and forks that are told,
//! protection, moves, and pages that leave for swap meanwhile.
//!
//! A handler answers, as the pager of a snapshot does. A missing page has the byte of its number; whoever
//! writes to a protected page is let in. Each worker has pages of its own and knows every byte of them,
//! through removals, moves and forks. What the handler was told last must be so.
//!
//! `ANONMEM_WATCHED_STEPS` (default 2000) is how many steps each worker takes, in each lock mode.

use anonmem::{
    Advice, Config, Error, LockMode, MmapRequest, MoveMode, Prot, ProtectMode, RegisterMode, Uffd,
    UffdFaults, UffdFeatures, UffdMessage, UffdReason, Vm,
};
use anonmem_hal::{CpuId, PAGE_SIZE, SourceId, Va};
use anonmem_hosted::{
    Checked, Trap, UserCpu,
    system::{Machine, reverse_map},
};
use std::{
    sync::{
        Mutex,
        atomic::{
            AtomicU64,
            Ordering::{Relaxed, SeqCst},
        },
    },
    thread,
};

const P: u64 = PAGE_SIZE as u64;
const WORKERS: u64 = 4;
/// Pages of each worker: watched ones, and as many beside them that are not.
const PAGES: u64 = 24;
const FRAMES: u64 = 640;
const SWAP_PAGES: u64 = 4_096;
/// Bytes of a page that a worker knows.
const KNOWN: usize = 4;

type Mm = anonmem::Mm<'static, Machine>;
type User = UserCpu<'static, Checked, anonmem_hal::arch::X86_64, Mm>;

type Watch = Uffd<'static, Machine>;
/// What waits, and for what.
type Fault = (Va, UffdReason);

/// What a page holds that the handler fills.
fn filled(page: u64) -> u8 {
    (page * 7 + 3) as u8 | 1
}

fn next_random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

struct World {
    vm: &'static Vm<Machine>,
    mm: Mm,
    uffd: Watch,
    watched: Va,
    /// As many pages, which nobody watches.
    beside: Va,
    /// A page of each content that is filled.
    source: SourceId,
    /// Workers that are not through.
    working: AtomicU64,
    /// Faults answered, protected writes let in, events read, pages moved, children.
    told: [AtomicU64; 5],
}

const FILLED: usize = 0;
const LET_IN: usize = 1;
const EVENTS: usize = 2;
const MOVED: usize = 3;
const CHILDREN: usize = 4;

impl World {
    fn count(&self, what: usize) {
        self.told[what].fetch_add(1, Relaxed);
    }

    fn page(&self, va: Va) -> u64 {
        (va.0 - self.watched.0) / P
    }

    /// Reads and answers until all workers are through. `theirs` are the userfaultfds of children.
    fn handler(&self, cpu: u32) {
        let _cpu = self.vm.machine().cpus().enter(CpuId(cpu));
        let (mut theirs, mut later, mut seed) = (Vec::<(Watch, Vec<Fault>)>::new(), Vec::new(), 0x1234_5678);
        while self.working.load(SeqCst) > 0 {
            let mut idle = self.read_all(&self.uffd, &mut theirs, &mut later);
            let mut children = std::mem::take(&mut theirs);
            children.retain_mut(|(uffd, waiting)| {
                idle &= self.read_all(uffd, &mut theirs, waiting);
                waiting.retain(|&fault| self.answer(uffd, fault).is_err());
                // Whoever asks for a program that has ended is told so.
                uffd.write_protect(self.watched, P, ProtectMode::empty()) != Err(Error::NoProcess)
            });
            theirs.append(&mut children);
            later.retain(|&fault| self.answer(&self.uffd, fault).is_err());
            if next_random(&mut seed).is_multiple_of(8) {
                let page = next_random(&mut seed) % (WORKERS * PAGES - 3);
                // Refused while something of it changes.
                let _ = self.uffd.write_protect(Va(self.watched.0 + page * P), 3 * P, ProtectMode::WP);
            }
            if idle {
                thread::yield_now();
            }
        }
    }

    /// Reads what there is; returns whether there was nothing.
    fn read_all(&self, uffd: &Watch, theirs: &mut Vec<(Watch, Vec<Fault>)>, later: &mut Vec<Fault>) -> bool {
        let mut idle = true;
        while let Some(message) = uffd.read() {
            idle = false;
            match message {
                UffdMessage::Fault(fault) => {
                    if self.answer(uffd, (fault.va, fault.reason)).is_err() {
                        later.push((fault.va, fault.reason));
                    }
                }
                UffdMessage::Fork(fork) => {
                    self.count(CHILDREN);
                    theirs.push((fork.take(), Vec::new()));
                }
                UffdMessage::Remove(_) => self.count(EVENTS),
                UffdMessage::Unmap(_) | UffdMessage::Remap { .. } => unreachable!("nobody asked for that"),
            }
        }
        idle
    }

    /// Lets a fault go on.
    ///
    /// # Errors
    /// What is to be tried again; [`Error::NoProcess`] if there is nobody.
    fn answer(&self, uffd: &Watch, (va, reason): Fault) -> Result<(), Error> {
        let at = Va(va.0 & !(P - 1));
        let done = match reason {
            UffdReason::Missing => {
                self.count(FILLED);
                let from = self.page(at) * P;
                let filled =
                    uffd.copy(at, P, Default::default(), &mut |_, new| new.fill_from(self.source, from));
                filled.result()
            }
            UffdReason::WriteProtected => {
                self.count(LET_IN);
                uffd.write_protect(at, P, ProtectMode::empty())
            }
            UffdReason::Minor => unreachable!("the memory is private"),
        };
        match done {
            // Somebody was faster: whoever waits looks again.
            Err(Error::Exists) => uffd.wake(at, P),
            done => done,
        }
    }

    /// Accesses the pages of worker `id`.
    fn worker(&self, id: u64, steps: u64) {
        let _cpu = self.vm.machine().cpus().enter(CpuId(id as u32));
        let user = User::new(self.vm.machine(), self.mm.clone());
        let mut known: Vec<_> = (0..PAGES).map(|page| [filled(id * PAGES + page); KNOWN]).collect();
        let mut seed = 0x9e37_79b9 + id * 977;
        for _ in 0..steps {
            let page = next_random(&mut seed) % PAGES;
            let at = Va(self.watched.0 + (id * PAGES + page) * P);
            let known_here = &mut known[page as usize];
            match next_random(&mut seed) % 32 {
                0..=11 => self.check(&user, at, *known_here),
                12..=21 => {
                    let (byte, nth) = (next_random(&mut seed) as u8, next_random(&mut seed) as usize % KNOWN);
                    if user.store(Va(at.0 + nth as u64), &[byte]).is_ok() {
                        known_here[nth] = byte;
                    }
                }
                22..=25 => {
                    // Told before it is done, and done when this returns.
                    if self.mm.madvise(at, P, Advice::DontNeed).is_ok() {
                        *known_here = [filled(id * PAGES + page); KNOWN];
                    }
                }
                26..=27 => drop(self.mm.madvise(at, P, Advice::PageOut)),
                28..=29 => {
                    self.move_in(&user, (at, id * PAGES + page), known_here, next_random(&mut seed) as u8)
                }
                _ => self.fork(id, &known),
            }
        }
        drop(user);
        self.working.fetch_sub(1, SeqCst);
    }

    fn check(&self, user: &User, at: Va, known: [u8; KNOWN]) {
        let mut found = [0; KNOWN];
        match user.load(at, &mut found) {
            Ok(()) => assert_eq!(found, known, "page {}", self.page(at)),
            Err(trap) => assert_eq!(trap, Trap::Oom, "page {}", self.page(at)),
        }
    }

    /// Drops a page and moves another one to its place, as a compacting collector does.
    fn move_in(&self, user: &User, (at, page): (Va, u64), known: &mut [u8; KNOWN], byte: u8) {
        let from = Va(self.beside.0 + page * P);
        if user.store(from, &[byte; KNOWN]).is_err() || self.mm.madvise(at, P, Advice::DontNeed).is_err() {
            return;
        }
        *known = [filled(page); KNOWN];
        loop {
            match self.uffd.move_pages(at, from, P, MoveMode::empty()).result() {
                Ok(()) => {
                    *known = [byte; KNOWN];
                    return self.count(MOVED);
                }
                // A child, or a change that is not over. A child's page is this program's again when it is
                // written to.
                Err(Error::Busy) if user.store(from, &[byte; KNOWN]).is_err() => return,
                Err(Error::Again | Error::Busy) => thread::yield_now(),
                // Protection was left where the page was dropped.
                Err(Error::Exists | Error::OutOfMemory) => return,
                Err(error) => panic!("page {page} does not move: {error}"),
            }
        }
    }

    /// What a child has stays as it was, and what it never had is filled for it.
    fn fork(&self, id: u64, known: &[[u8; KNOWN]]) {
        let Ok(child) = self.mm.fork() else { return };
        let user = User::new(self.vm.machine(), child);
        for page in (0..PAGES).step_by(5) {
            let at = Va(self.watched.0 + (id * PAGES + page) * P);
            self.check(&user, at, known[page as usize]);
            if user.store(at, &[0xcc]).is_ok() {
                let mut expected = known[page as usize];
                expected[0] = 0xcc;
                self.check(&user, at, expected);
            }
        }
    }
}

fn run(lock_mode: LockMode, steps: u64) {
    let machine = Machine::new(FRAMES);
    let pages: Vec<u8> = (0..WORKERS * PAGES).flat_map(|page| [filled(page); P as usize]).collect();
    let source = machine.sources().register(pages.as_slice());
    let vm: &'static Vm<Machine> = {
        let _cpu = machine.cpus().clone().enter(CpuId(0));
        let vm = Vm::new(machine, Config { lock_mode, reverse_map: reverse_map(), ..Config::default() })
            .expect("enough memory");
        Box::leak(Box::new(vm))
    };
    let world = {
        let _cpu = vm.machine().cpus().enter(CpuId(0));
        vm.swap_on(0, SWAP_PAGES, 0).expect("enough memory");
        let mm = vm.new_mm().expect("enough memory");
        let map = || mm.mmap(MmapRequest::anonymous(WORKERS * PAGES * P, Prot::READ | Prot::WRITE));
        let (watched, beside) = (map().expect("enough memory"), map().expect("enough memory"));
        let uffd = mm.userfaultfd(UffdFaults::Any).expect("enough memory");
        let events = UffdFeatures::EVENT_FORK | UffdFeatures::EVENT_REMOVE | UffdFeatures::WP_UNPOPULATED;
        uffd.agree(events).expect("there are these");
        let mode = RegisterMode::MISSING | RegisterMode::WP;
        uffd.register(watched, WORKERS * PAGES * P, mode).expect("enough memory");
        let (working, told) = (AtomicU64::new(WORKERS), Default::default());
        World { vm, mm, uffd, watched, beside, source, working, told }
    };
    // A worker that panics must not leave the handler waiting for it.
    let panicked = Mutex::new(None);
    thread::scope(|scope| {
        let handler = scope.spawn(|| world.handler(5));
        for id in 0..WORKERS {
            let (world, panicked) = (&world, &panicked);
            scope.spawn(move || {
                let work = std::panic::AssertUnwindSafe(|| world.worker(id, steps));
                if let Err(why) = std::panic::catch_unwind(work) {
                    *panicked.lock().unwrap_or_else(|lock| lock.into_inner()) = Some(why);
                    world.working.fetch_sub(1, SeqCst);
                }
            });
        }
        drop(handler);
    });
    if let Some(why) = panicked.into_inner().unwrap_or_else(|lock| lock.into_inner()) {
        std::panic::resume_unwind(why);
    }
    let _cpu = vm.machine().cpus().enter(CpuId(0));
    let told = world.told.each_ref().map(|count| count.load(Relaxed));
    drop(world);
    vm.validate().expect("at rest");
    let stats = vm.stats();
    assert_eq!((stats.user, stats.tables, stats.mms, stats.vmas), (0, 0, 0, 0), "something is left");
    println!("{lock_mode:?}: filled, let in, events, moved, children: {told:?}");
    assert!(told.iter().all(|&count| count > 0), "{told:?}");
}

#[test]
fn watched_programs_lose_nothing_and_nobody_waits_for_ever() {
    let steps = std::env::var("ANONMEM_WATCHED_STEPS").map_or(2000, |n| n.parse().expect("a number"));
    for mode in [LockMode::Mmap, LockMode::Vma, LockMode::Speculative] {
        run(mode, steps);
    }
}

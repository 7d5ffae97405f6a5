//! Memory for 64 pages, and programs that use more: all of them get on, and when swap is full too, all but
//! one.

use anonmem::{LockMode, Mm, Vm};
use anonmem_hal::{CpuId, PAGE_SIZE, Va, arch::X86_64};
use anonmem_hosted::{
    Checked, Trap, UserCpu, calls,
    ops::{At, Backing, Op, Outcome, Place, Rights},
    system::{self, Machine, reverse_map},
};
use std::{
    sync::{
        Barrier,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
};

const P: u64 = PAGE_SIZE as u64;
const START: u64 = 0x4000_0000;
const THREADS: u64 = 4;
/// Pages that each thread works on.
const PAGES: u64 = 96;
/// Pages that are in memory at a time, of all threads, and what is kept free of them.
const ROOM: u64 = 64;
const MODES: [LockMode; 3] = [LockMode::Mmap, LockMode::Vma, LockMode::Speculative];

type User<'v> = UserCpu<'v, Checked, X86_64, Mm<'v, Machine>>;

fn config(lock_mode: LockMode) -> anonmem::Config {
    anonmem::Config { lock_mode, reverse_map: reverse_map(), ..anonmem::Config::default() }
}

fn map(user: &User<'_>) {
    let source = user.space().vm().machine().sources().register(system::source());
    let op = Op::Mmap(At::pages(0, 0, PAGES), Place::Fixed(START), Rights::RW, Backing::Private);
    assert_eq!(calls::apply(user, source, &op), Outcome::Address(START));
}

/// Frames that are in use when each of `spaces` has touched one page and swap is on, without those pages:
/// tables and metadata.
fn overhead(lock_mode: LockMode, spaces: u64, swap_pages: u64) -> u64 {
    let machine = Machine::new(4_096);
    let cpus = machine.cpus().clone();
    let _cpu = cpus.enter(CpuId(0));
    let vm = Vm::new(machine, config(lock_mode)).expect("enough memory");
    vm.swap_on(0, swap_pages, 0).expect("enough memory");
    let users: Vec<_> = (0..spaces)
        .map(|_| {
            let user = User::new(vm.machine(), vm.new_mm().expect("enough memory"));
            map(&user);
            user.store(Va(START), &[1]).expect("enough memory");
            user
        })
        .collect();
    let stats = vm.stats();
    drop(users);
    4_096 - stats.free - spaces
}

/// What page `page` of thread `id` holds after `round` rounds.
fn word(id: u64, page: u64, round: u64) -> [u8; 8] {
    (id << 48 | page << 24 | round).to_ne_bytes()
}

/// Goes over all pages, again and again: each must hold what was written there the last time.
fn work(user: &User<'_>, id: u64, rounds: u64, start: u64) -> Result<(), Trap> {
    for round in 0..rounds {
        for i in 0..PAGES {
            // Neither forwards nor backwards: 37 has no divisor in common with the number of pages.
            let page = i * 37 % PAGES;
            let at = Va(start + page * P + 8 * id);
            let mut found = [0; 8];
            user.load(at, &mut found)?;
            let expected = if round == 0 { [0; 8] } else { word(id, page, round - 1) };
            assert_eq!(found, expected, "thread {id}, page {page}, round {round}");
            user.store(at, &word(id, page, round))?;
        }
    }
    Ok(())
}

#[test]
fn threads_with_memory_for_64_pages_get_on() {
    for mode in MODES {
        let machine = Machine::new(overhead(mode, 1, 1_024) + ROOM);
        let cpus = machine.cpus().clone();
        let cpu = cpus.enter(CpuId(0));
        let vm = Vm::new(machine, config(mode)).expect("enough memory");
        vm.swap_on(0, 1_024, 0).expect("enough memory");
        let mm = vm.new_mm().expect("enough memory");
        map(&User::new(vm.machine(), mm.clone()));
        drop(cpu);
        thread::scope(|scope| {
            for id in 0..THREADS {
                let (cpus, vm, mm) = (&cpus, &vm, &mm);
                scope.spawn(move || {
                    cpus.run_on(CpuId(id as u32), || {
                        let user = User::new(vm.machine(), mm.clone());
                        work(&user, id, 20, START).expect("no page is lacking for ever");
                    });
                });
            }
        });
        let _cpu = cpus.enter(CpuId(0));
        vm.validate().unwrap();
        drop(mm);
        let (_, writes) = vm.machine().swap().transfers();
        assert!(writes > PAGES, "{mode:?}: only {writes} pages were swapped");
        assert_eq!(vm.machine().swap().stored(), 0);
    }
}

/// One address space for each thread. Whoever finds no memory asks again, until somebody gives up: what a
/// kernel with an OOM killer does.
#[test]
fn when_swap_is_full_one_process_runs_out_of_memory_and_the_rest_finish() {
    for mode in MODES {
        // Room for three processes and a half.
        let swap_pages = PAGES * (THREADS - 1) + PAGES / 2 - ROOM;
        let machine = Machine::new(overhead(mode, THREADS, swap_pages) + ROOM);
        let cpus = machine.cpus().clone();
        let vm = cpus.run_on(CpuId(0), || {
            let vm = Vm::new(machine, config(mode)).expect("enough memory");
            vm.swap_on(0, swap_pages, 0).expect("enough memory");
            vm
        });
        let (barrier, has_victim) = (Barrier::new(THREADS as usize), AtomicBool::new(false));
        let run = |id: u64| {
            let user = cpus.run_on(CpuId(id as u32), || {
                let user = User::new(vm.machine(), vm.new_mm().expect("enough memory"));
                map(&user);
                user
            });
            // All are there before one takes more than its share.
            barrier.wait();
            let cpu = CpuId(id as u32);
            let user = cpus.run_on(cpu, || fill(&user, id, &has_victim).ok().map(|()| user));
            // Nobody who got all its pages leaves before the others have theirs.
            barrier.wait();
            cpus.run_on(cpu, || user.is_some_and(|user| read_back(&user, id)))
        };
        let finished = thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS)
                .map(|id| {
                    scope.spawn({
                        let run = &run;
                        move || run(id)
                    })
                })
                .collect();
            threads.into_iter().filter_map(|thread| thread.join().expect("no panic").then_some(())).count()
        });
        let _cpu = cpus.enter(CpuId(0));
        vm.validate().unwrap();
        assert_eq!((finished as u64, has_victim.into_inner()), (THREADS - 1, true), "{mode:?}");
        assert_eq!(vm.machine().swap().stored(), 0);
    }
}

/// Writes all pages, unless this is the first process that finds no memory.
fn fill(user: &User<'_>, id: u64, has_victim: &AtomicBool) -> Result<(), Trap> {
    for page in 0..PAGES {
        while let Err(trap) = user.store(Va(START + page * P), &word(id, page, 0)) {
            assert_eq!(trap, Trap::Oom);
            if !has_victim.swap(true, Relaxed) {
                return Err(trap);
            }
            thread::yield_now();
        }
    }
    Ok(())
}

fn read_back(user: &User<'_>, id: u64) -> bool {
    for page in 0..PAGES {
        let mut found = [0; 8];
        while user.load(Va(START + page * P), &mut found) == Err(Trap::Oom) {
            thread::yield_now();
        }
        assert_eq!(found, word(id, page, 0), "process {id}, page {page}");
    }
    true
}

//! Two CPUs fault at once: in VMAs of their own, in one VMA, in address spaces of their own.
//!
//! What is told is the time from the first start to the last end, per page of one thread: perfect scaling is
//! the time of one thread alone.

use super::Experiment;
use crate::{
    PAGE, REGION, REGION_PAGES,
    clock::wall_ns,
    host::{
        Folios, Region,
        child::{self, Blackboard, Word},
        cpus, folios,
    },
    ours::{Active, World, fault_all, map_region},
    outcome::{Bench, Samples, Side},
};
use anonmem::{FaultAccess, LockMode};
use anonmem_hal::{Va, VaRange};
use std::{
    io,
    sync::{Barrier, atomic::Ordering::SeqCst},
    thread,
};

pub(super) const EXPERIMENT: Experiment = Experiment {
    name: "threads",
    rows: &[
        "threads-own-vma",
        "threads-own-vma.vma",
        "threads-own-vma.spec",
        "threads-one-vma",
        "threads-one-vma.vma",
        "threads-one-vma.spec",
        "threads-own-mm",
    ],
    threads: 2,
    ours: Some(ours),
    host: Some(host),
    folios: folios::ALL,
    ..Experiment::NONE
};

const PAGES: f64 = REGION_PAGES as f64;

/// Runs `work(0)` and `work(1)` at the same time; see [`together`].
fn two<G>(prepare: impl Fn(u32) -> G + Sync, work: impl Fn(u32) + Sync) -> f64 {
    together([0, 1], prepare, work)
}

/// Runs `work` of each number at the same time after `prepare` of the same number; the nanoseconds from the
/// first start to the last end.
pub(super) fn together<G, const N: usize>(
    numbers: [u32; N],
    prepare: impl Fn(u32) -> G + Sync,
    work: impl Fn(u32) + Sync,
) -> f64 {
    let barrier = Barrier::new(N);
    let one = |i: u32| {
        let _kept = prepare(i);
        barrier.wait();
        let start = wall_ns();
        work(i);
        (start, wall_ns())
    };
    let times = thread::scope(|s| {
        let threads = numbers.map(|i| s.spawn(move_into(&one, i)));
        threads.map(|t| t.join().expect("a measuring thread"))
    });
    let start = times.iter().map(|t| t.0).min().unwrap_or(0);
    let end = times.iter().map(|t| t.1).max().unwrap_or(0);
    (end - start) as f64
}

fn move_into<R>(f: &(impl Fn(u32) -> R + Sync), i: u32) -> impl FnOnce() -> R + Send {
    move || f(i)
}

/// The rows of two threads in one address space, in each lock mode.
const MODES: [(&str, &str, LockMode); 3] = [
    ("threads-own-vma", "threads-one-vma", LockMode::Mmap),
    ("threads-own-vma.vma", "threads-one-vma.vma", LockMode::Vma),
    ("threads-own-vma.spec", "threads-one-vma.spec", LockMode::Speculative),
];

fn ours(bench: &Bench, samples: &mut Samples) {
    for (own_vma, one_vma, mode) in MODES {
        let world = bench.world_in(mode);
        let own = || one_space(bench, world, |i| (i, REGION)) / PAGES;
        samples.add_with_faults(own_vma, world, own);
        let one = || one_space(bench, world, |_| (0, 2 * REGION)) / PAGES;
        samples.add_with_faults(one_vma, world, one);
    }
    let world = &bench.world;
    let mms = {
        let _cpu = world.enter(0);
        world.warm();
        [world.new_mm(), world.new_mm()]
    };
    let own = mms.each_ref().map(|mm| {
        let _cpu = world.enter(0);
        map_region(mm, 0, REGION)
    });
    let enter = |cpu: u32| world.enter_pinned(cpu, &bench.cpus);
    let fault = |i: u32| fault_all(&mms[i as usize], own[i as usize], FaultAccess::Write);
    samples.add("threads-own-mm", Side::Ours, two(enter, fault) / PAGES);
    let _cpu = world.enter(0);
    drop(mms);
}

/// Two threads of one address space; `place(i)` is where thread `i`'s VMA is and how long: two that are in
/// the same place share it by halves.
fn one_space(bench: &Bench, world: &World, place: impl Fn(u64) -> (u64, usize)) -> f64 {
    let (mm, parts) = {
        let _cpu = world.enter(0);
        world.warm();
        let mm = world.new_mm();
        let [(a, len_a), (b, len_b)] = [place(0), place(1)];
        let first = map_region(&mm, a, len_a);
        let parts =
            if a == b { [half(first, 0), half(first, 1)] } else { [first, map_region(&mm, b, len_b)] };
        (mm, parts)
    };
    let ns = {
        let _active = [Active::on(&mm, 0), Active::on(&mm, 1)];
        let enter = |cpu: u32| world.enter_pinned(cpu, &bench.cpus);
        two(enter, |i| fault_all(&mm, parts[i as usize], FaultAccess::Write))
    };
    let _cpu = world.enter(0);
    drop(mm);
    ns
}

fn half(range: VaRange, i: u32) -> VaRange {
    let middle = Va(range.start.0 + range.len() / 2);
    match i {
        0 => VaRange { start: range.start, end: middle },
        _ => VaRange { start: middle, end: range.end },
    }
}

fn host(bench: &Bench, samples: &mut Samples, folios: Folios) -> io::Result<()> {
    let mut add = |row, ns: f64| samples.add(row, Side::Host(folios), ns / PAGES);
    // The host has one mode, which each of ours is compared with; large folios are not compared yet.
    let modes = if folios == Folios::Base { &MODES[..] } else { &MODES[..1] };
    let pin = |i: u32| cpus::pin(bench.cpus[i as usize]);
    Region::warm(2 * REGION, folios)?;
    let own = [Region::new(REGION, folios)?, Region::new(REGION, folios)?].map(Shared);
    let ns = two(pin, |i| own[i as usize].0.touch_write(0, PAGE));
    modes.iter().for_each(|(row, ..)| add(row, ns));
    drop(own);

    Region::warm(2 * REGION, folios)?;
    let one = Shared(Region::new(2 * REGION, folios)?);
    let touch_half = |i: u32| {
        let one = &one;
        (0..REGION_PAGES).for_each(|page| {
            let at = one.0.start().wrapping_add(i as usize * REGION + page * PAGE);
            // SAFETY: in this thread's half of the region.
            unsafe { at.write_volatile(1) };
        });
    };
    let ns = two(pin, touch_half);
    modes.iter().for_each(|(_, row, _)| add(row, ns));
    drop(one);

    Region::warm(2 * REGION, folios)?;
    let boards = [Blackboard::new()?, Blackboard::new()?];
    add("threads-own-mm", two_processes(bench, &boards, folios)?);
    Ok(())
}

/// A region that threads write different pages of.
struct Shared(Region);
// SAFETY: threads only write through raw pointers, to bytes that nobody else uses.
unsafe impl Sync for Shared {}

/// Two forked processes, each with its own region; the time from the first start to the last end.
fn two_processes(bench: &Bench, boards: &[Blackboard; 2], folios: Folios) -> io::Result<f64> {
    let ready = AtomicReady::new()?;
    let results = thread::scope(|s| {
        let one = |i: usize| {
            let (cpu, board, ready) = (bench.cpus[i], &boards[i], &ready);
            move || {
                let region = Shared(Region::new(REGION, folios)?);
                let lifetimes = child::run(board, || {
                    let _ = cpus::pin(cpu);
                    ready.meet();
                    board.set(Word::Started, wall_ns());
                    region.0.touch_write(0, PAGE);
                    board.set(Word::Took, wall_ns());
                });
                lifetimes.map(drop)
            }
        };
        let threads = [0, 1].map(|i| s.spawn(one(i)));
        threads.map(|t| t.join().expect("a measuring thread"))
    });
    results.into_iter().collect::<io::Result<Vec<_>>>()?;
    let [a, b] = boards;
    let start = a.get(Word::Started).min(b.get(Word::Started));
    Ok((a.get(Word::Took).max(b.get(Word::Took)) - start) as f64)
}

/// Where two processes wait for one another.
struct AtomicReady(Blackboard);

impl AtomicReady {
    fn new() -> io::Result<Self> {
        Ok(Self(Blackboard::new()?))
    }

    fn meet(&self) {
        let arrived = self.0.counter();
        arrived.fetch_add(1, SeqCst);
        // A child of a process with threads may not sleep on a lock; it spins.
        while arrived.load(SeqCst) < 2 {
            std::hint::spin_loop();
        }
    }
}

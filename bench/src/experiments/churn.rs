//! One thread faults while another maps and unmaps, in the same address space or in one of its own.
//!
//! The second is what the first is compared with: both threads do the same work and share nothing but the
//! machine.

use super::{Experiment, threads::together};
use crate::{
    PAGE, REGION, REGION_PAGES,
    clock::wall_ns,
    host::{Folios, Region, cpus, region},
    ours::{Active, World, fault_all, map_anywhere, map_region},
    outcome::{Bench, Samples, Side},
};
use anonmem::{FaultAccess, LockMode};
use anonmem_hal::{Va, VaRange};
use std::{
    io,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};

pub(super) const EXPERIMENT: Experiment = Experiment {
    name: "faults during maps",
    rows: &[
        "threads-churn",
        "threads-churn.vma",
        "threads-churn.spec",
        "threads-apart",
        "threads-apart.vma",
        "threads-apart.spec",
    ],
    threads: 2,
    ours: Some(ours),
    host: Some(host),
    ..Experiment::NONE
};

const SMALL: usize = 16 * PAGE;

/// Runs `faults` on the first CPU while `pair` is repeated on the second; the nanoseconds of `faults`.
fn disturbed<G>(prepare: impl Fn(u32) -> G + Sync, faults: impl Fn() + Sync, pair: impl Fn() + Sync) -> f64 {
    let (done, took) = (AtomicBool::new(false), AtomicU64::new(0));
    together([0, 1], prepare, |i| {
        if i == 0 {
            let start = wall_ns();
            faults();
            took.store(wall_ns() - start, Relaxed);
            done.store(true, Relaxed);
        } else {
            while !done.load(Relaxed) {
                pair();
            }
        }
    });
    took.load(Relaxed) as f64
}

/// The lock mode, its row, and its row with the second thread in another address space.
const MODES: [(LockMode, &str, &str); 3] = [
    (LockMode::Mmap, "threads-churn", "threads-apart"),
    (LockMode::Vma, "threads-churn.vma", "threads-apart.vma"),
    (LockMode::Speculative, "threads-churn.spec", "threads-apart.spec"),
];

fn ours(bench: &Bench, samples: &mut Samples) {
    for (mode, same, apart) in MODES {
        let world = bench.world_in(mode);
        samples.add_with_faults(same, world, || ours_with(bench, world, Where::Same));
        samples.add_with_faults(apart, world, || ours_with(bench, world, Where::Apart));
    }
}

/// Where the second thread maps and unmaps.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Where {
    Same,
    Apart,
}

/// Nanoseconds per page.
fn ours_with(bench: &Bench, world: &World, place: Where) -> f64 {
    let (mm, other, range) = {
        let _cpu = world.enter(0);
        world.warm();
        let mm = world.new_mm();
        let other = if place == Where::Same { mm.clone() } else { world.new_mm() };
        let range = map_region(&mm, 0, REGION);
        (mm, other, range)
    };
    let ns = {
        let _active = [Active::on(&mm, 0), Active::on(&other, 1)];
        disturbed(
            |cpu| world.enter_pinned(cpu, &bench.cpus),
            || fault_all(&mm, range, FaultAccess::Write),
            || {
                let start = map_anywhere(&other, SMALL);
                other.munmap(VaRange { start, end: Va(start.0 + SMALL as u64) }).expect("mapped");
            },
        )
    };
    let _cpu = world.enter(0);
    drop((mm, other));
    ns / REGION_PAGES as f64
}

fn host(bench: &Bench, samples: &mut Samples, _folios: Folios) -> io::Result<()> {
    Region::warm(REGION, Folios::Base)?;
    let region = Region::new(REGION, Folios::Base)?;
    let start = region.start() as usize;
    let ns = disturbed(
        |cpu| cpus::pin(bench.cpus[cpu as usize]),
        || {
            for page in 0..REGION_PAGES {
                let at = (start + page * PAGE) as *mut u8;
                // SAFETY: in the region, which only this thread touches.
                unsafe { at.write_volatile(1) };
            }
        },
        || {
            if let Ok(at) = region::map_anywhere(SMALL) {
                let _ = region::unmap(at, SMALL);
            }
        },
    );
    MODES
        .iter()
        .for_each(|(_, same, _)| samples.add(same, Side::Host(Folios::Base), ns / REGION_PAGES as f64));
    Ok(())
}

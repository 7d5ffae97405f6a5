//! Two threads fault while a third maps and unmaps, in the same address space or in one of its own.
//!
//! With two CPUs three threads take turns, so only the two rows of a lock mode may be compared: both have the
//! same three threads.

use super::{Experiment, threads::together};
use crate::{
    PAGE, REGION, REGION_PAGES,
    ours::{Active, World, fault_all, map_anywhere, map_region},
    outcome::{Bench, Samples},
};
use anonmem::{FaultAccess, LockMode};
use anonmem_hal::{Va, VaRange};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

pub(super) const EXPERIMENT: Experiment = Experiment {
    name: "two fault during maps",
    rows: &[
        "threads-crowd",
        "threads-crowd.vma",
        "threads-crowd.spec",
        "threads-crowd-apart",
        "threads-crowd-apart.vma",
        "threads-crowd-apart.spec",
    ],
    threads: 2,
    ours: Some(ours),
    ..Experiment::NONE
};

/// The thread that maps.
const MAPS: u32 = 2;
const SMALL: usize = 16 * PAGE;

/// The lock mode, its row, and its row with the third thread in another address space.
const MODES: [(LockMode, &str, &str); 3] = [
    (LockMode::Mmap, "threads-crowd", "threads-crowd-apart"),
    (LockMode::Vma, "threads-crowd.vma", "threads-crowd-apart.vma"),
    (LockMode::Speculative, "threads-crowd.spec", "threads-crowd-apart.spec"),
];

fn ours(bench: &Bench, samples: &mut Samples) {
    for (mode, same, apart) in MODES {
        let world = bench.world_in(mode);
        samples.add_with_faults(same, world, || crowd(world, true));
        samples.add_with_faults(apart, world, || crowd(world, false));
    }
}

/// Nanoseconds per page of one thread, until the second one is through.
fn crowd(world: &World, same_space: bool) -> f64 {
    let (mm, other, parts) = {
        let _cpu = world.enter(0);
        world.warm();
        let mm = world.new_mm();
        let other = if same_space { mm.clone() } else { world.new_mm() };
        let parts = [0, 1].map(|i| map_region(&mm, i, REGION / 2));
        (mm, other, parts)
    };
    let through = AtomicU32::new(0);
    let ns = {
        let _active = [Active::on(&mm, 0), Active::on(&mm, 1), Active::on(&other, MAPS)];
        together(
            [0, 1, MAPS],
            |cpu| world.enter(cpu),
            |i| {
                if i != MAPS {
                    fault_all(&mm, parts[i as usize], FaultAccess::Write);
                    through.fetch_add(1, Relaxed);
                }
                while i == MAPS && through.load(Relaxed) < 2 {
                    let start = map_anywhere(&other, SMALL);
                    other.munmap(VaRange { start, end: Va(start.0 + SMALL as u64) }).expect("mapped");
                }
            },
        )
    };
    let _cpu = world.enter(0);
    drop((mm, other));
    ns / (REGION_PAGES / 2) as f64
}

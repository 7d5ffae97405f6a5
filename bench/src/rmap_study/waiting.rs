//! Who walks, against who forks and exits: relatives share a lock, and somebody waits.
//!
//! A thread that walks asks page after page of a program who maps it, as reclaim does before it decides. A
//! thread that forks has a child of that program, and makes and ends a grandchild over and over. Time is the
//! clock's on the wall: with fewer CPUs than threads, a part of the waiting is for a CPU.

use super::{
    line::Line,
    meter::Meter,
    world::{World, page},
};
use anonmem::{Machine, Mm, lab::count_mappings};
use anonmem_hal::CpuId;
use anonmem_hosted::Hosted;
use anonmem_sync::{Level, order::AnonVmaRoot};
use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

/// VMAs of each program, of a page.
const VMAS: u64 = 10;
/// Threads that walk, and as many that fork.
const THREADS: [u32; 2] = [1, 3];

/// Three rows for each number of threads.
pub(super) fn rows<C: Meter>(ms: u64) -> Vec<Line>
where
    Hosted<C>: Machine,
{
    let rows = |threads: u32| {
        let found = World::<C>::new().crowd(threads, Duration::from_millis(ms));
        let who = match threads {
            1 => "1 walks, 1 forks and exits".to_string(),
            n => format!("{n} walk, {n} fork and exit"),
        };
        [
            ("waiting for the map's lock", "‰ of time", found.waiting),
            ("walks", "a second", found.walks),
            ("forks", "a second", found.forks),
        ]
        .map(|(what, unit, found)| Line { what: format!("{who}: {what}"), unit, found })
    };
    THREADS.into_iter().flat_map(rows).collect()
}

struct Crowd {
    /// Thousandths of the threads' time.
    waiting: u64,
    walks: u64,
    forks: u64,
}

impl<C: Meter> World<C>
where
    Hosted<C>: Machine,
{
    /// `each` threads that walk and `each` that fork, for a time.
    fn crowd(&self, each: u32, time: Duration) -> Crowd {
        let parent = self.program(VMAS, 1);
        let children = self.forks(&parent, each.into());
        let (stop, [walks, forks]) = (AtomicBool::new(false), [const { AtomicU64::new(0) }; 2]);
        let cpus = self.vm.machine().cpus();
        let start = Instant::now();
        thread::scope(|s| {
            for (i, child) in (0..each).zip(&children) {
                let (stop, parent, walks, forks) = (&stop, &parent, &walks, &forks);
                s.spawn(move || {
                    let _cpu = cpus.enter(CpuId(1 + 2 * i));
                    while !stop.load(Relaxed) {
                        walk_all(parent);
                        walks.fetch_add(VMAS, Relaxed);
                    }
                });
                s.spawn(move || {
                    let _cpu = cpus.enter(CpuId(2 + 2 * i));
                    while !stop.load(Relaxed) {
                        drop(child.fork().expect("memory"));
                        forks.fetch_add(1, Relaxed);
                    }
                });
            }
            thread::sleep(time);
            stop.store(true, Relaxed);
        });
        let ns = start.elapsed().as_nanos() as u64;
        let per_second = |n: &AtomicU64| n.load(Relaxed) * 1_000_000_000 / ns;
        Crowd {
            waiting: cpus.lock_waits().of(AnonVmaRoot::RANK).ns * 1000 / (ns * 2 * u64::from(each)),
            walks: per_second(&walks),
            forks: per_second(&forks),
        }
    }
}

/// Walks to each page of `mm`.
fn walk_all<M: Machine>(mm: &Mm<'_, M>) {
    let vm = mm.vm();
    for vma in 0..VMAS {
        let pfn = mm.pagemap(page(vma * 3)).pfn.expect("a page");
        let folio = vm.frames().try_get(pfn).expect("mapped");
        assert!(count_mappings(vm, folio.folio()) > 0, "the parent maps it");
    }
}

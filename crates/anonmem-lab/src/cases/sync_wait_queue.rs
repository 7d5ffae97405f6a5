//! A sleeper misses its wake-up.

use super::{Case, Extent, Mutant, Run};
use crate::{Inject, Model, Program, Scenario, Sim};
use anonmem_hal::Sched;
use anonmem_sync::{
    Atomic,
    Ordering::{Acquire, Relaxed, Release},
    WaitQueue,
};

/// The page of the case.
pub const CASE: Case = Case {
    name: "sync-wait-queue",
    title: "a sleeper misses its wake-up and sleeps for ever",
    happened: "Linux: the comment above waitqueue_active() exists because callers kept testing for sleepers \
               without a barrier after making the condition true.",
    environment: "One sleeper, one waker; no lock.",
    rule: "Whoever waits for a condition that becomes true goes on.",
    mutants: &[
        Mutant::Patch {
            name: "wait-queue-no-fence",
            what: "the increment of the sleepers is not followed by a fence",
        },
        Mutant::Patch {
            name: "wait-queue-looks-once",
            what: "a sleeper that wakes up does not look whether its condition holds",
        },
        Mutant::Patch { name: "wait-queue-sleeper-unannounced", what: "a sleeper is not counted" },
        Mutant::Variant {
            name: "no-wake-up",
            what: "the condition is made true and nobody is told",
            shows_under: &[Model::Sc, Model::C11],
        },
        Mutant::Variant {
            name: "wake-up-before",
            what: "the sleepers are woken before the condition is true",
            shows_under: &[Model::Sc, Model::C11],
        },
        Mutant::Variant {
            name: "look-for-sleepers-without-fence",
            what: "the look for sleepers is not ordered after making the condition true",
            shows_under: &[Model::C11],
        },
    ],
    runs: &[
        Run::new(Model::Sc, Extent::Exhaust),
        Run::new(Model::C11, Extent::Exhaust),
        Run::new(Model::Sc, Extent::Exhaust).with(Inject::WAKE_UPS),
        Run::new(Model::C11, Extent::Exhaust).with(Inject::WAKE_UPS),
    ],
    program,
};

struct World {
    queue: WaitQueue<Sim>,
    /// The count of sleepers of the variant that looks without a fence.
    sleepers: Atomic<u32, Sim>,
    ready: Atomic<u32, Sim>,
}

fn program(variant: Option<&str>) -> Box<dyn Program> {
    let scenario = Scenario::new("sync-wait-queue", 2, || World {
        queue: WaitQueue::new(),
        sleepers: Atomic::new(0),
        ready: Atomic::new(0),
    })
    .names(|w, names| {
        names.add(&w.queue, "sleepers");
        names.add(&w.sleepers, "sleepers");
        names.add(&w.ready, "ready");
    });
    let waker: fn(&World) = match variant {
        None => |w| {
            w.ready.store(1, Release);
            w.queue.wake_all();
        },
        Some("no-wake-up") => |w| w.ready.store(1, Release),
        Some("wake-up-before") => |w| {
            w.queue.wake_all();
            w.ready.store(1, Release);
        },
        Some(_) => {
            return Box::new(
                scenario
                    .cpu("sleeps", |w| {
                        let key = w.sleepers.addr();
                        w.sleepers.fetch_add(1, Relaxed);
                        anonmem_sync::fence::<Sim>(anonmem_sync::Ordering::SeqCst);
                        while w.ready.load(Acquire) == 0 {
                            Sim::park(key, &|| w.ready.load(Acquire) == 0);
                        }
                    })
                    .cpu("wakes", |w| {
                        w.ready.store(1, Release);
                        if w.sleepers.load(Relaxed) != 0 {
                            Sim::unpark(w.sleepers.addr(), usize::MAX);
                        }
                    }),
            );
        }
    };
    Box::new(
        scenario
            .cpu("sleeps", |w| {
                w.queue.wait_until(&|| w.ready.load(Acquire) != 0);
                assert_ne!(w.ready.load(Acquire), 0, "went on before its condition held");
            })
            .cpu("wakes", waker),
    )
}

//! A grace period ends while a reader still uses what was unlinked.

use super::{Case, Extent, Mutant, Run};
use crate::{Model, Program, Scenario, Sim};
use anonmem_sync::{
    Atomic,
    Ordering::{Acquire, Relaxed, Release},
    Plain, Rcu, spin_until,
};

/// The page of the case.
pub const CASE: Case = Case {
    name: "sync-rcu",
    title: "a grace period ends while a reader still uses what was unlinked",
    happened: "The classic error of home-made epochs: the reader announces itself and loads the pointer, the \
               writer unlinks and looks for readers; without a full barrier on both sides each misses the other.",
    environment: "One writer, readers inside read sections; no lock.",
    rule: "What a reader found inside a section is not freed before the section ends.",
    mutants: &[
        Mutant::Patch { name: "rcu-no-fence", what: "entering a read section has no fence" },
        Mutant::Variant {
            name: "announce-without-fence",
            what: "the reader's announcement is not ordered before its loads",
            shows_under: &[Model::C11],
        },
        Mutant::Variant {
            name: "look-without-fence",
            what: "the unlinking is not ordered before the look for readers",
            shows_under: &[Model::C11],
        },
        Mutant::Variant {
            name: "no-grace-period",
            what: "the writer frees at once",
            shows_under: &[Model::Sc, Model::C11],
        },
    ],
    runs: &[Run::new(Model::Sc, Extent::Exhaust), Run::new(Model::C11, Extent::Exhaust)],
    program,
};

/// The page of the case.
pub const TWICE: Case = Case {
    name: "sync-rcu-two-sections",
    title: "a grace period takes a reader's second section for its first one's end",
    happened: "This memory manager: a CPU announces a section by a relaxed store, which hides the end of the section before from whoever \
               looks only now. The grace period saw a section that began later, rightly let it go on, and was ordered after nothing \
               that the earlier one did. Harmless on x86, where every store is a release.",
    environment: "One reader with two sections, one writer that unlinks and frees; no lock.",
    rule: "What a reader found inside a section is not freed before that section ends, whichever of its words tells the writer.",
    mutants: &[
        Mutant::Patch { name: "rcu-announce-relaxed", what: "a section is announced by a relaxed store" },
        Mutant::Patch { name: "rcu-no-fence", what: "entering a read section has no fence" },
        Mutant::Patch { name: "rcu-leave-relaxed", what: "a section is left by a relaxed store" },
    ],
    runs: &[Run::new(Model::Sc, Extent::Exhaust), Run::new(Model::C11, Extent::Exhaust)],
    program: |_| {
        let reads = |w: &World| {
            for _ in 0..2 {
                let _section = w.rcu.read_lock();
                use_object(w, w.link.load(Acquire));
            }
        };
        Box::new(world("sync-rcu-two-sections").cpu("reads twice", reads).cpu("unlinks and frees", |w| {
            w.link.store(1, Release);
            w.rcu.synchronize();
            w.alive[0].set(0);
        }))
    },
};

struct World {
    rcu: Rcu<Sim>,
    /// The announcement of the variants, written out.
    inside: Atomic<u32, Sim>,
    /// Which object is linked.
    link: Atomic<u64, Sim>,
    /// 1 while the object lives; plain, so that a missing order is a data race too.
    alive: [Plain<u64, Sim>; 2],
}

fn use_object(w: &World, index: u64) {
    assert!(w.alive[index as usize].get() == 1, "the reader uses an object that was freed");
}

fn world(name: &str) -> Scenario<World> {
    Scenario::new(name, 1, || World {
        rcu: Rcu::new(),
        inside: Atomic::new(0),
        link: Atomic::new(0),
        alive: [Plain::new(1), Plain::new(1)],
    })
    .names(|w, names| {
        names.add(&w.rcu, "rcu");
        names.add(&w.inside, "inside");
        names.add(&w.link, "link");
        names.add(&w.alive, "object");
    })
}

fn program(variant: Option<&str>) -> Box<dyn Program> {
    let scenario = world("sync-rcu");
    let Some(variant) = variant.map(str::to_owned) else {
        return Box::new(
            scenario
                .cpu("reads", |w| {
                    let _section = w.rcu.read_lock();
                    use_object(w, w.link.load(Acquire));
                })
                .cpu("unlinks and frees", |w| {
                    w.link.store(1, Release);
                    w.rcu.synchronize();
                    w.alive[0].set(0);
                }),
        );
    };
    let (for_reader, for_writer) = (variant.clone(), variant);
    let full = || anonmem_sync::fence::<Sim>(anonmem_sync::Ordering::SeqCst);
    Box::new(
        scenario
            .cpu("reads", move |w| {
                w.inside.store(1, Relaxed);
                if for_reader != "announce-without-fence" {
                    full();
                }
                use_object(w, w.link.load(Acquire));
                w.inside.store(0, Release);
            })
            .cpu("unlinks and frees", move |w| {
                w.link.store(1, Release);
                if for_writer != "look-without-fence" {
                    full();
                }
                if for_writer != "no-grace-period" {
                    spin_until::<Sim>(&|| w.inside.load(Acquire) == 0);
                }
                w.alive[0].set(0);
            }),
    )
}

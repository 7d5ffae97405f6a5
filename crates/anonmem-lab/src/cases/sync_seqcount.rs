//! A reader of a sequence count sees half of a write.

use super::{Case, Extent, Mutant, Run};
use crate::{Model, Program, Scenario, Sim};
use anonmem_sync::{
    Atomic,
    Ordering::{Acquire, Relaxed, Release},
    SeqCount, fence,
};

/// The page of the case.
pub const CASE: Case = Case {
    name: "sync-seqcount",
    title: "a reader of a sequence count takes two words of different writes for one",
    happened: "Every sequence lock that was written with acquire loads alone: the second look at the count \
               needs a fence before it, and the writer needs one after making the count odd, or a weakly \
               ordered CPU moves the data accesses past them.",
    environment: "One writer at a time (a lock of its own); any number of readers, no lock.",
    rule: "A reader that does not retry saw all words of one write.",
    mutants: &[
        Mutant::Patch { name: "seqcount-no-fence", what: "the second look at the count has no fence" },
        Mutant::Variant {
            name: "reader-without-fence",
            what: "the second look at the count is not ordered after the data",
            shows_under: &[Model::C11],
        },
        Mutant::Variant {
            name: "writer-without-fence",
            what: "the data may be visible before the odd count",
            shows_under: &[Model::C11],
        },
        Mutant::Variant {
            name: "no-second-look",
            what: "the reader does not check for a writer that came while it read",
            shows_under: &[Model::Sc, Model::C11],
        },
    ],
    runs: &[Run::new(Model::Sc, Extent::Exhaust), Run::new(Model::C11, Extent::Exhaust)],
    program,
};

struct World {
    count: SeqCount<Sim>,
    /// The count of the variants, written out.
    raw: Atomic<u32, Sim>,
    data: [Atomic<u64, Sim>; 2],
}

fn program(variant: Option<&str>) -> Box<dyn Program> {
    let scenario = Scenario::new("sync-seqcount", 1, || World {
        count: SeqCount::new(),
        raw: Atomic::new(0),
        data: [Atomic::new(0), Atomic::new(0)],
    })
    .names(|w, names| {
        names.add(&w.count, "sequence");
        names.add(&w.raw, "sequence");
        names.add(&w.data[0], "a");
        names.add(&w.data[1], "b");
    });
    let set = |w: &World, value| w.data.iter().for_each(|d| d.store(value, Relaxed));
    let assert_whole = |a: u64, b: u64| assert!(a == b, "the reader saw a = {a}, b = {b}");
    let Some(variant) = variant.map(str::to_owned) else {
        return Box::new(
            scenario
                .cpu("writes", move |w| {
                    for value in 1..=2 {
                        let _writing = w.count.begin_write();
                        set(w, value);
                    }
                })
                .cpu("reads", move |w| {
                    if let Some(seen) = w.count.try_begin() {
                        let (a, b) = (w.data[0].load(Relaxed), w.data[1].load(Relaxed));
                        if !w.count.retry(seen) {
                            assert_whole(a, b);
                        }
                    }
                }),
        );
    };
    let (for_writer, for_reader) = (variant.clone(), variant);
    Box::new(
        scenario
            .cpu("writes", move |w| {
                w.raw.store(1, Relaxed);
                if for_writer != "writer-without-fence" {
                    fence::<Sim>(Release);
                }
                set(w, 1);
                w.raw.store(2, Release);
            })
            .cpu("reads", move |w| {
                let seen = w.raw.load(Acquire);
                if seen & 1 == 1 {
                    return;
                }
                let (a, b) = (w.data[0].load(Relaxed), w.data[1].load(Relaxed));
                if for_reader != "reader-without-fence" {
                    fence::<Sim>(Acquire);
                }
                if for_reader == "no-second-look" || w.raw.load(Relaxed) == seen {
                    assert_whole(a, b);
                }
            }),
    )
}

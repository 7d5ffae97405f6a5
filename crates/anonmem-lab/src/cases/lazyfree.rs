//! Accessed and dirty bits, which the hardware sets, against `MADV_FREE`, which believes them.

use super::{
    Case, Extent, Mutant, Run,
    kernel::{Kernel, P, boxed, page, scenario},
};
use crate::Model;
use anonmem::{Advice, LockMode, Prot};
use anonmem_sync::Ordering;

const HAPPENED: &str = "A processor sets accessed and dirty bits between any two instructions of whoever changes the entry. Linux changes \
                        entries that are in use by atomic instructions only, and flushes after it has cleared a dirty bit: else a \
                        store through a cached translation leaves no trace, and MADV_FREE drops the page that was written.";
const KEEPS_DIRTY: Mutant = Mutant::Patch {
    name: "unmap-drops-dirty",
    what: "a page that was written after MADV_FREE is dropped all the same",
};
const RUNS: &[Run] = &[Run::new(Model::Sc, Extent::Bound(2)), Run::new(Model::C11, Extent::Bound(2))];
const RULE: &str = "A store that comes after MADV_FREE is not lost.";

/// The page of the case.
pub const ALONE: Case = Case {
    name: "lazyfree-then-store",
    title: "a page is stored to after MADV_FREE, and dropped",
    happened: HAPPENED,
    environment: "One CPU: stores, gives the page up, stores again through its translation; then reclaim comes.",
    rule: RULE,
    mutants: &[
        Mutant::Patch {
            name: "madvise-free-no-flush",
            what: "translations that are dirty already are not flushed",
        },
        KEEPS_DIRTY,
    ],
    runs: &[Run::new(Model::Sc, Extent::Exhaust), Run::new(Model::C11, Extent::Exhaust)],
    program: |_| {
        boxed(
            scenario("lazyfree-then-store", 1, || stored(&[0]))
                .cpu("frees, stores, reclaims", |k| {
                    assert_eq!(k.store(0, 0, 7), Ok(()));
                    k.madvise(0, 0, Advice::Free);
                    assert_eq!(k.store(0, 0, 8), Ok(()));
                    k.reclaim_noted();
                })
                .check(eight),
        )
    },
};

/// The page of the case.
pub const RACE: Case = Case {
    name: "lazyfree-vs-store",
    title: "a page is stored to while MADV_FREE gives it up and reclaim comes for it",
    happened: HAPPENED,
    environment: "CPU0 gives the page up, with the mmap lock for reading, and reclaims it, with its folio lock. CPU1 stores.",
    rule: RULE,
    mutants: &[
        KEEPS_DIRTY,
        Mutant::Patch { name: "entry-taken-in-two-steps", what: "an entry in use is read, then cleared" },
    ],
    runs: RUNS,
    program: |_| {
        boxed(
            scenario("lazyfree-vs-store", 1, || stored(&[0, 1]))
                .cpu("frees, reclaims", |k| {
                    k.madvise(0, 0, Advice::Free);
                    k.flag.store(1, Ordering::Release);
                    k.reclaim_noted();
                })
                .cpu("stores", |k| {
                    let given_up = k.flag.load(Ordering::Acquire) == 1;
                    assert_eq!(k.store(0, 0, 8), Ok(()));
                    k.notes[0].set(given_up.into());
                })
                .check(|k| match (k.notes[0].get(), k.load(0, 0)) {
                    // A store that came before may have been given up with the page.
                    (_, Ok(8)) | (0, Ok(0)) => k.check(),
                    found => Err(format!("8 was stored, found {found:?} (after MADV_FREE; what it is)")),
                }),
        )
    },
};

/// The page of the case.
pub const COLD: Case = Case {
    name: "lazyfree-cold-vs-store",
    title: "a store's dirty bit is overwritten by whoever clears the accessed bit",
    happened: HAPPENED,
    environment: "The page was given up before. CPU0 cools it down, with the mmap lock for reading, and reclaims it. CPU1 stores.",
    rule: RULE,
    mutants: &[
        Mutant::Patch { name: "entry-changed-in-two-steps", what: "an entry in use is read, then written" },
        KEEPS_DIRTY,
    ],
    runs: RUNS,
    program: |_| {
        let world = || {
            let kernel = stored(&[0, 1]);
            kernel.madvise(0, 0, Advice::Free);
            // There is an accessed bit to be cleared.
            assert_eq!(kernel.load(0, 0), Ok(7));
            kernel
        };
        boxed(
            scenario("lazyfree-cold-vs-store", 2, world)
                .cpu("cools, reclaims", |k| {
                    k.madvise(0, 0, Advice::Cold);
                    k.reclaim_noted();
                })
                .cpu("stores", |k| assert_eq!(k.store(0, 0, 8), Ok(())))
                .check(eight),
        )
    },
};

/// The page of the case.
pub const FORK: Case = Case {
    name: "lazyfree-fork-vs-store",
    title: "a child loses what its parent stored before the fork, because its entry is not dirty",
    happened: HAPPENED,
    environment: "The page was given up before. CPU0 forks, with the parent's mmap lock for writing, drops the page in the parent, and reclaims it. CPU1 stores as the \
                  parent.",
    rule: "What the child has seen of the parent's store it keeps.",
    mutants: &[
        Mutant::Patch {
            name: "fork-copies-stale-entry",
            what: "the child's entry is made of what was read first",
        },
        Mutant::Patch { name: "entry-changed-in-two-steps", what: "an entry in use is read, then written" },
    ],
    runs: RUNS,
    program: |_| {
        let world = || {
            let kernel = stored(&[0, 1]);
            kernel.madvise(0, 0, Advice::Free);
            kernel
        };
        boxed(
            scenario("lazyfree-fork-vs-store", 2, world)
                .cpu("forks, reclaims", |k| {
                    k.fork(0, 1, &[0]).expect("frames");
                    let before = k.load(1, 0).expect("mapped");
                    // The parent's entry would tell that the page was written.
                    k.madvise(0, 0, Advice::DontNeed);
                    k.reclaim_noted();
                    let after = k.load(1, 0).expect("mapped");
                    assert!(
                        after == before || (before, after) == (7, 0),
                        "the child saw {before}, then {after}"
                    );
                })
                .cpu("stores", |k| assert_eq!(k.store(0, 0, 8), Ok(())))
                .check(|k| match k.load(0, 0) {
                    Ok(0 | 8) => k.check(),
                    other => Err(format!("8 was stored, or the page dropped since, found {other:?}")),
                }),
        )
    },
};

/// An address space with a page that says 7, whose frame is noted, in a table that another page keeps.
fn stored(cpus: &[u32]) -> Kernel {
    let kernel = Kernel::new(64, LockMode::Mmap);
    kernel.spawn(0, cpus);
    kernel.map(0, 0, 2, Prot::READ | Prot::WRITE);
    (0..2).for_each(|n| kernel.store(0, n, 7).expect("frames"));
    kernel.note_frame(0, 0);
    debug_assert_eq!(page(1).0 - page(0).0, P);
    kernel
}

fn eight(k: &Kernel) -> Result<(), String> {
    match k.load(0, 0) {
        Ok(8) => k.check(),
        other => Err(format!("8 was stored, found {other:?}")),
    }
}

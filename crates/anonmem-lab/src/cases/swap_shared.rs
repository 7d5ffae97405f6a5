//! Pages that parent and child share, and that leave and come back meanwhile.

use super::{
    Case, Extent, Mutant, Run,
    kernel::{Kernel, boxed, scenario},
};
use crate::{Inject, Model};
use anonmem::{FaultOutcome, LockMode, Prot};

const RW: Prot = Prot::READ.union(Prot::WRITE);

/// The page of the case.
pub const SWAPPED_IN_ALREADY: Case = Case {
    name: "seed-002-swapped-in-already",
    title: "a speculative fault brings back a page that another thread has brought back already",
    happened: "Linux, 2018, speculative page faults v7: do_swap_page compared the entry with pte_unmap_same, which without \
               the mmap lock may look at a table that is gone; without the comparison another thread may have swapped \
               the page in, copied and changed it.",
    environment: "Two threads of a parent without any lock. One child has the page in memory already, so that nobody has to wait for \
                  the device; another has a swap entry still, so that the page stays in the swap cache.",
    rule: "Under the page-table lock the entry is read again, and only a swap entry for the same slot is replaced.",
    mutants: &[Mutant::Patch {
        name: "swap-in-entry-unseen",
        what: "the entry is replaced without looking what it is by now",
    }],
    runs: &[
        Run::new(Model::Sc, Extent::Bound(2)),
        Run::new(Model::C11, Extent::Bound(1)),
        Run::new(Model::Sc, Extent::Bound(1)).with(Inject::TRY_LOCK),
    ],
    program: |_| {
        let world = || {
            let kernel = shared(LockMode::Speculative, &[0, 1]);
            kernel.fork(0, 2, &[]).expect("frames");
            assert!(kernel.reclaim_noted(), "both mappings can go");
            assert_eq!(kernel.load(1, 0), Ok(7));
            kernel
        };
        boxed(
            scenario("seed-002-swapped-in-already", 1, world)
                .cpu("loads", |k| match k.load_word(0, 0, 1) {
                    Ok(0 | 8) => {}
                    other => panic!("{other:?} instead of 0 or 8"),
                })
                .cpu("stores", |k| assert_eq!(k.store_word(0, 0, 1, 8), Ok(())))
                .check(|k| match (k.load_word(0, 0, 1), k.load_word(1, 0, 1)) {
                    (Ok(8), Ok(0)) => k.check(),
                    other => Err(format!("the parent stored 8, the child nothing; found {other:?}")),
                }),
        )
    },
};

/// The page of the case.
pub const COPY_ABA: Case = Case {
    name: "seed-004-copy-after-swap",
    title: "a page leaves and comes back while a write fault copies it, and the entry compares equal",
    happened: "The rest of seed-004: A1 sees a shared page, decides to copy and drops the page-table lock. The page is swapped out \
               and in again, into the same frame; B is gone, so A2 writes to it; a fork write-protects it. Frame, \
               protection and sharing are what A1 saw, the contents are not.",
    environment: "A1 stores without any lock. The other CPU ends B, reclaims, stores as A2 and forks, which takes the mmap lock and \
                  the VMA's. In the second run a transfer may fail, so that a page may stay in the swap cache. Under the \
                  mmap lock there is no such fork: then the entry of a page that came back exclusive is writable, \
                  and never compares equal.",
    rule: "A1 has a reference to what it copies, so that the page neither leaves nor becomes anybody's own; and the version tells of \
           the fork. No store is lost.",
    mutants: &[Mutant::Patch {
        name: "wp-copy-without-reference",
        what: "a speculative write fault neither keeps the page that it copies nor compares the version",
    }],
    runs: &[
        Run::new(Model::Sc, Extent::Bound(2)),
        Run::new(Model::Sc, Extent::Bound(1)).with(Inject { at_most: 1, device: true, ..Inject::NONE }),
    ],
    program: |_| {
        boxed(
            scenario("seed-004-copy-after-swap", 1, || shared(LockMode::Speculative, &[0, 1]))
                .cpu("A1 stores", |k| store(k, 1))
                .cpu("B exits; reclaims, A2 stores, forks", |k| {
                    k.exit(1);
                    k.reclaim_noted();
                    store(k, 2);
                    k.fork(0, 2, &[1]).expect("frames");
                })
                .check(|k| {
                    let stored = [7, k.notes[1].get(), k.notes[2].get()].map(Some);
                    let found = [0, 1, 2].map(|w| k.load_word(0, 0, w).ok());
                    if found == stored {
                        k.check()
                    } else {
                        Err(format!("stored {stored:?}, found {found:?}"))
                    }
                }),
        )
    },
};

/// The page of the case.
pub const YOUNGEST: Case = Case {
    name: "rmap-youngest-stamp-swap",
    title: "a shared page that comes back from swap carries the anon_vma of the child that needed it first",
    happened: "Linux, 2010, the other half of rmap-youngest-stamp: do_swap_page stamped the page with the anon_vma of whoever \
               faulted. If that was a child, the page pointed to freed memory after its exit, while others had it.",
    environment: "Parent and child share a page that was swapped out. Both load it, under their own mmap locks for reading; the child \
                  exits.",
    rule: "A page that is not exclusive carries the oldest anon_vma of its chain, which all sharers are linked to.",
    mutants: &[Mutant::Patch {
        name: "swap-in-own-anon-vma",
        what: "a shared page that is swapped in gets the anon_vma of the VMA that faulted",
    }],
    runs: &[Run::new(Model::Sc, Extent::Bound(1)), Run::new(Model::C11, Extent::Bound(1))],
    program: |_| {
        let world = || {
            let kernel = shared(LockMode::Mmap, &[0]);
            assert!(kernel.reclaim_noted(), "both mappings can go");
            kernel
        };
        boxed(
            scenario("rmap-youngest-stamp-swap", 1, world)
                .cpu("the parent loads", |k| assert_eq!(k.load(0, 0), Ok(7)))
                .cpu("the child loads, exits", |k| {
                    assert_eq!(k.load(1, 0), Ok(7));
                    k.exit(1);
                })
                .check(Kernel::check),
        )
    },
};

/// Stores `word` to that word of the page and notes it; a SIGBUS is for a device that failed.
fn store(k: &Kernel, word: u64) {
    match k.store_word(0, 0, word, word) {
        Ok(()) => k.notes[word as usize].set(word),
        Err(FaultOutcome::Bus) if k.sim.misfortunes() == 1 => {}
        other => panic!("{other:?}"),
    }
}

/// A parent on `cpus` and a child that share a page that says 7, whose frame is noted; and a device.
fn shared(mode: LockMode, cpus: &[u32]) -> Kernel {
    let kernel = Kernel::new(64, mode);
    kernel.swap_on(0, 2);
    kernel.spawn(0, cpus);
    kernel.map(0, 0, 1, RW);
    kernel.store(0, 0, 7).expect("frames");
    kernel.fork(0, 1, &[1]).expect("frames");
    kernel.note_frame(0, 0);
    kernel
}

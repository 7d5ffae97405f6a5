//! Calls against faults and reclaim: locking, guards, heaps, stacks, moves that leave the mapping behind.

use super::{
    Case, Extent, Mutant, Run,
    kernel::{Kernel, P, boxed, page, pages, scenario},
};
use crate::Model;
use anonmem::{Advice, FaultOutcome, LockMode, MapBacking, MapFlags, Prot, RemapFlags};
use anonmem_hal::Va;

const RW: Prot = Prot::READ.union(Prot::WRITE);
const BOTH: &[Run] = &[Run::new(Model::Sc, Extent::Bound(2)), Run::new(Model::C11, Extent::Bound(1))];
/// Where two preemptions are few executions.
const WEAK: &[Run] = &[Run::new(Model::Sc, Extent::Bound(2)), Run::new(Model::C11, Extent::Bound(2))];

/// The page of the case.
pub const MLOCK: Case = Case {
    name: "mlock-vs-reclaim",
    title: "a page leaves while mlock locks it in memory",
    happened: "Linux, try_to_unmap_one asks VM_LOCKED under the page-table lock; mlock faults in what has left before.",
    environment: "CPU0 locks the page, with the mmap lock for writing, then for reading. CPU1 reclaims it, with its folio lock.",
    rule: "Once mlock has returned the page is in memory, and stays.",
    mutants: &[
        Mutant::Patch {
            name: "unmap-ignores-locked",
            what: "reclaim unmaps pages that are locked in memory",
        },
        Mutant::Patch { name: "mlock-no-populate", what: "mlock does not fault in what has left" },
    ],
    runs: BOTH,
    program: |_| {
        let world = || {
            let kernel = Kernel::new(64, LockMode::Mmap);
            kernel.swap_on(0, 2);
            kernel.spawn(0, &[0, 1]);
            kernel.map(0, 0, 2, RW);
            (0..2).for_each(|n| kernel.store(0, n, 7).expect("frames"));
            kernel.note_frame(0, 0);
            kernel
        };
        boxed(
            scenario("mlock-vs-reclaim", 1, world)
                .cpu("mlock", |k| {
                    k.mm(0).mlock(page(0), P).expect("frames");
                    assert!(k.frame_of(0, 0).is_some(), "the page that was locked is not in memory");
                })
                .cpu("reclaims", |k| {
                    k.reclaim_noted();
                })
                .check(|k| match (k.frame_of(0, 0).is_some(), k.load(0, 0)) {
                    (true, Ok(7)) => k.check(),
                    found => Err(format!("a locked page that says 7, found {found:?}")),
                }),
        )
    },
};

/// The page of the case.
pub const GUARD: Case = Case {
    name: "guard-vs-store",
    title: "a page is stored to while a guard takes its place",
    happened: "Linux 6.13, madvise_guard_install: it zaps what is there and tries again if a fault was faster.",
    environment: "CPU0 stores to a page that is there and to one that is not, CPU1 installs guards, and removes them: both with the mmap lock \
                  for reading.",
    rule: "While the guard is there every access traps; afterwards the page reads as zero, or as what was stored since.",
    mutants: &[
        Mutant::Patch { name: "guard-keeps-page", what: "a guard is installed only where nothing is" },
        Mutant::Patch {
            name: "anon-install-without-recheck",
            what: "the entry is filled without looking whether it still is empty",
        },
    ],
    runs: WEAK,
    program: |_| {
        boxed(
            scenario("guard-vs-store", 1, two_pages)
                .cpu("stores twice", |k| {
                    for n in 0..2 {
                        match k.store(0, n, 8) {
                            Ok(()) | Err(FaultOutcome::SegvMaperr) => {}
                            other => panic!("{other:?}"),
                        }
                    }
                })
                .cpu("guards", |k| {
                    k.mm(0).madvise(page(0), 2 * P, Advice::GuardInstall).expect("frames");
                    for n in 0..2 {
                        assert_eq!(k.load(0, n), Err(FaultOutcome::SegvMaperr), "a guard let an access pass");
                    }
                    k.mm(0).madvise(page(0), 2 * P, Advice::GuardRemove).expect("mapped");
                    k.notes[0].set(k.load(0, 0).expect("mapped"));
                })
                .check(|k| match (k.notes[0].get(), k.load(0, 0), k.load(0, 1)) {
                    (0 | 8, Ok(0 | 8), Ok(0 | 8)) => k.check(),
                    found => Err(format!("7 went away, found {found:?} (then, now, beside)")),
                }),
        )
    },
};

/// The page of the case.
pub const BRK: Case = Case {
    name: "brk-vs-store",
    title: "a heap shrinks and grows while its last page is stored to",
    happened: "Linux 4.20: brk shrinks with the mmap lock for reading, which a fault holds as well; taken back in 6.5, because a stack below could \
               grow meanwhile.",
    environment: "CPU0 stores to the heap's last page, with the mmap lock for reading. CPU1 shrinks and grows the heap, with the mmap lock for \
                  writing.",
    rule: "A page of the heap that went away comes back as zeroes.",
    mutants: &[
        Mutant::Patch { name: "gather-no-flush", what: "what was unmapped is freed without a flush" },
        Mutant::Patch { name: "brk-keeps-pages", what: "a heap that shrinks keeps its last page" },
    ],
    runs: WEAK,
    program: |_| {
        let world = || {
            let kernel = Kernel::new(64, LockMode::Mmap);
            kernel.spawn(0, &[0, 1]);
            kernel.mm(0).set_brk_start(page(0));
            assert_eq!(kernel.mm(0).brk(page(2)), page(2));
            (0..2).for_each(|n| kernel.store(0, n, 7).expect("frames"));
            kernel
        };
        boxed(
            scenario("brk-vs-store", 1, world)
                .cpu("stores", |k| match k.store_word(0, 1, 1, 8) {
                    Ok(()) | Err(FaultOutcome::SegvMaperr) => {}
                    other => panic!("{other:?}"),
                })
                .cpu("brk", |k| {
                    assert_eq!(k.mm(0).brk(page(1)), page(1));
                    assert_eq!(k.load(0, 1), Err(FaultOutcome::SegvMaperr), "beyond the heap's end");
                    assert_eq!(k.mm(0).brk(page(2)), page(2));
                    assert_eq!(k.load(0, 1), Ok(0));
                })
                .check(|k| match (k.load(0, 0), k.load(0, 1), k.load_word(0, 1, 1)) {
                    (Ok(7), Ok(0), Ok(0 | 8)) => k.check(),
                    found => Err(format!("found {found:?}")),
                }),
        )
    },
};

/// The page of the case.
pub const STACK: Case = Case {
    name: "stack-grows-twice",
    title: "two threads access the hole below a stack",
    happened: "Linux 6.4.1, CVE-2023-3269 (\"StackRot\"), and expand_stack, which looks again when it has the lock for writing: the other may have \
               grown the stack further down already.",
    environment: "Two threads store to two pages below a stack; each holds the mmap lock for reading, lets go, and takes it for writing.",
    rule: "The stack reaches down to the lower of the two; neither store is lost, and its pages are found by rmap.",
    mutants: &[
        Mutant::Patch {
            name: "stack-without-second-look",
            what: "a stack is made to start where this fault wants it",
        },
        Mutant::Patch {
            name: "range-changes-without-key",
            what: "the interval tree keeps the old range of a VMA",
        },
    ],
    runs: WEAK,
    program: |_| {
        let world = || {
            let kernel = Kernel::new(64, LockMode::Mmap);
            kernel.spawn(0, &[0, 1]);
            kernel.map_as(0, 4, 2, RW, MapFlags::GROWSDOWN, MapBacking::Anonymous);
            kernel.store(0, 4, 7).expect("frames");
            kernel
        };
        boxed(
            scenario("stack-grows-twice", 1, world)
                .cpu("stores far below", |k| assert_eq!(k.store(0, 1, 8), Ok(())))
                .cpu("stores below", |k| {
                    assert_eq!(k.store(0, 2, 9), Ok(()));
                    assert_eq!(k.walk_rmap_of(0, 2), 1, "mappings that the walk met");
                })
                .check(|k| match [1, 2, 4].map(|n| k.load(0, n)) {
                    [Ok(8), Ok(9), Ok(7)] => k.check(),
                    found => Err(format!("8, 9 and 7 were stored, found {found:?}")),
                }),
        )
    },
};

/// The page of the case.
pub const DONTUNMAP: Case = Case {
    name: "mremap-dontunmap-vs-store",
    title: "a page is stored to while it moves and its mapping stays",
    happened: "Linux 5.7, MREMAP_DONTUNMAP: the old mapping stays and faults in pages anew while others may be moving.",
    environment: "CPU0 stores at the old address, without any lock. CPU1 moves the pages and leaves the mapping, with the mmap lock for \
                  writing.",
    rule: "A store goes to the page that moved, or to a new one at the old address: never to both, and never to none.",
    mutants: &[
        Mutant::Patch { name: "mremap-leaves-pages-behind", what: "the pages stay where the mapping was" },
        Mutant::Patch { name: "mremap-table-no-flush", what: "a table that has moved is not flushed" },
    ],
    runs: &[Run::new(Model::Sc, Extent::Bound(2)), Run::new(Model::C11, Extent::Bound(0))],
    program: |_| {
        let world = || {
            let kernel = Kernel::new(64, LockMode::Speculative);
            kernel.spawn(0, &[0, 1]);
            kernel.map(0, 0, 8, RW);
            (0..2).for_each(|n| kernel.store(0, n, 7).expect("frames"));
            kernel
        };
        boxed(
            scenario("mremap-dontunmap-vs-store", 1, world)
                .cpu("stores twice", |k| {
                    assert_eq!(k.store_word(0, 0, 1, 8), Ok(()));
                    assert_eq!(k.store_word(0, 2, 1, 9), Ok(()));
                })
                .cpu("moves", |k| {
                    let flags = RemapFlags::MAYMOVE | RemapFlags::FIXED | RemapFlags::DONTUNMAP;
                    k.mm(0).mremap(page(0), 8 * P, 8 * P, flags, page(8)).expect("room");
                    assert_eq!(k.load(0, 0), Ok(0), "what moved is still there");
                })
                .check(|k| {
                    let word = |n| k.load_word(0, n, 1);
                    match (k.load(0, 8), word(0), word(8), word(2), word(10)) {
                        (Ok(7), Ok(0), Ok(8), Ok(0), Ok(9))
                        | (Ok(7), Ok(0), Ok(8), Ok(9), Ok(0))
                        | (Ok(7), Ok(8), Ok(0), Ok(9), Ok(0)) => k.check(),
                        found => Err(format!("7, 8 and 9 were stored, found {found:?}")),
                    }
                }),
        )
    },
};

/// The page of the case.
pub const MERGE: Case = Case {
    name: "rmap-walk-vs-merge",
    title: "an rmap walk misses a page of a VMA that is merged with its neighbour",
    happened: "Linux, vma_complete: both ranges change while the anon_vma is locked, else a walk finds a page in neither.",
    environment: "CPU0 walks the mappings of a page of the higher VMA. CPU1 makes the VMAs one, which both have pages, and cuts them again, with the \
                  mmap lock for writing.",
    rule: "A walk meets the mapping at least once.",
    mutants: &[Mutant::Patch {
        name: "reshape-keys-before-ranges",
        what: "the reverse map gets its keys back, and its lock is let go, before the ranges change",
    }],
    runs: WEAK,
    program: |_| {
        let world = || {
            let kernel = two_pages();
            kernel.store(0, 1, 7).expect("frames");
            kernel.mm(0).mprotect(pages(0, 1), Prot::READ).expect("frames");
            kernel
        };
        boxed(
            scenario("rmap-walk-vs-merge", 1, world)
                .cpu("walks the rmap", |k| {
                    for n in 0..2 {
                        // Twice is right: what is merged leaves the interval tree after the other has grown.
                        assert!(k.walk_rmap_of(0, n) > 0, "the walk missed the mapping of page {n}");
                    }
                })
                .cpu("merges, splits", |k| {
                    k.mm(0).mprotect(pages(0, 1), RW).expect("frames");
                    k.mm(0).mprotect(pages(1, 1), Prot::READ).expect("frames");
                })
                .check(|k| match (k.load(0, 0), k.load(0, 1)) {
                    (Ok(7), Ok(7)) => k.check(),
                    found => Err(format!("7 was stored twice, found {found:?}")),
                }),
        )
    },
};

/// Two pages of one VMA, of which the first says 7.
fn two_pages() -> Kernel {
    let kernel = Kernel::new(64, LockMode::Mmap);
    kernel.spawn(0, &[0, 1]);
    kernel.map(0, 0, 2, RW);
    kernel.store(0, 0, 7).expect("frames");
    debug_assert_eq!(page(1), Va(page(0).0 + P));
    kernel
}

//! A page moves to another address while others copy, reclaim, bring back, drop or move it.

use super::{
    Case, Extent, Mutant, Run,
    kernel::{Kernel, P, boxed, page, pages, scenario},
    seed_003::two_roots,
};
use crate::{Inject, Model, Sim};
use anonmem::{Error, FaultOutcome, LockMode, MoveLocks, MoveMode, Prot, RegisterMode, UffdFeatures};

const RW: Prot = Prot::READ.union(Prot::WRITE);
const RUNS: &[Run] = &[Run::new(Model::Sc, Extent::Exhaust), Run::new(Model::C11, Extent::Bound(2))];
const BOUNDED: &[Run] = &[Run::new(Model::Sc, Extent::Bound(3)), Run::new(Model::C11, Extent::Bound(2))];
const CACHED_STAYS: Mutant =
    Mutant::Patch { name: "move-leaves-cached-page", what: "the cached page keeps the source's index" };

/// The page of the case.
pub const FORK: Case = Case {
    name: "move-vs-fork",
    title: "a page moves while fork shares it",
    happened: "What this memory manager must keep: a page that is shared is not exclusive, and does not move (Linux: UFFDIO_MOVE says EBUSY).",
    environment: "CPU0 moves, with the mmap lock for reading; CPU1 forks, with it for writing.",
    rule: "Parent and child both find the value, at one of the two addresses, the same in both if the page moved first.",
    mutants: &[Mutant::Patch {
        name: "move-takes-shared",
        what: "a page that others have, too, is said to have moved",
    }],
    runs: RUNS,
    program: |_| {
        boxed(
            scenario("move-vs-fork", 1, || two_roots(MoveLocks::Folio))
                .cpu("moves", |k| k.notes[0].set(u64::from(k.move_page(8, 0).is_ok())))
                .cpu("forks", |k| k.fork(0, 1, &[1]).expect("frames"))
                .check(|k| {
                    let at = if k.notes[0].get() == 1 { 8 } else { 0 };
                    match (k.load(0, at), k.load(1, at), k.load(1, 8 - at)) {
                        (Ok(7), Ok(7), Ok(0)) => k.check(),
                        other => Err(format!("parent, child, child elsewhere: {other:?}")),
                    }
                }),
        )
    },
};

/// The page of the case.
pub const SWAP_OUT: Case = Case {
    name: "move-vs-swap-out",
    title: "a page moves while reclaim unmaps it",
    happened: "Linux, CVE-2025-21984 and CVE-2025-38242: a move of what is on its way to swap, or has just been there.",
    environment: "CPU0 moves, with the mmap lock for reading; CPU1 reclaims the page, with its folio lock.",
    rule: "The value is found where the page went, or where it was.",
    mutants: &[Mutant::Patch {
        name: "move-no-recheck",
        what: "the entry is not looked at again under both locks",
    }],
    runs: BOUNDED,
    program: |_| {
        let world = || {
            let kernel = two_roots(MoveLocks::Folio);
            kernel.let_go();
            kernel.swap_on(0, 2);
            kernel.note_frame(0, 0);
            kernel
        };
        boxed(
            scenario("move-vs-swap-out", 1, world)
                .cpu("moves", |k| assert_eq!(k.move_page(8, 0), Ok(())))
                .cpu("reclaims", |k| {
                    k.reclaim_noted();
                })
                .check(|k| match (k.load(0, 8), k.load(0, 0)) {
                    (Ok(7), Ok(0)) => k.check(),
                    other => Err(format!("where it went, and where it was: {other:?}")),
                }),
        )
    },
};

/// The page of the case.
pub const HOLE: Case = Case {
    name: "move-vs-hole",
    title: "a page that reclaim unmaps is taken for a hole, and stays behind",
    happened: "This memory manager before it was looked for: of a row of holes only the first was asked under its lock. Reclaim empties an entry, then \
               writes the swap entry; a move that came between passed the page over, and said that it had moved.",
    environment: "CPU0 moves a hole and the page behind it, and lets holes be; CPU1 reclaims the page.",
    rule: "The value is found where the page went.",
    mutants: &[Mutant::Patch {
        name: "move-holes-unlocked",
        what: "holes are counted without the page-table lock",
    }],
    runs: BOUNDED,
    program: |_| {
        let world = || {
            let kernel = Kernel::with_moves(64, LockMode::Mmap, MoveLocks::Folio);
            kernel.spawn(0, &[0, 1]);
            kernel.map(0, 0, 2, RW);
            kernel.map(0, 8, 3, RW);
            kernel.store(0, 1, 7).expect("frames");
            kernel.store(0, 10, 9).expect("frames");
            kernel.userfaultfd(UffdFeatures::empty());
            kernel.watch(8, 3, RegisterMode::WP);
            kernel.swap_on(0, 2);
            kernel.note_frame(0, 1);
            kernel
        };
        boxed(
            scenario("move-vs-hole", 1, world)
                .cpu("moves", |k| {
                    let moved = k.uffd().move_pages(page(8), page(0), 2 * P, MoveMode::ALLOW_SRC_HOLES);
                    assert_eq!(moved.result(), Ok(()));
                })
                .cpu("reclaims", |k| {
                    k.reclaim_noted();
                })
                .check(|k| match (k.load(0, 9), k.load(0, 1)) {
                    (Ok(7), Ok(0)) => k.check(),
                    other => Err(format!("where it went, and where it was: {other:?}")),
                }),
        )
    },
};

/// The page of the case.
pub const FULL: Case = Case {
    name: "move-vs-page-in-the-way",
    title: "a page in the way of a move is just being unmapped, and is taken for room",
    happened: "This memory manager, in the threaded stress with too little memory: the entry at the destination was asked without its lock, while reclaim had \
               emptied it to write the swap entry. The move of a hole said that it had moved, and the program's page stood where a hole should be.",
    environment: "CPU0 moves two holes, the second to where a page is, and lets holes be; CPU1 reclaims the page. What the move looks at first it has locked \
                  by then.",
    rule: "The move says that not all has moved, and the page keeps its value.",
    mutants: &[Mutant::Patch {
        name: "move-target-unlocked",
        what: "the destination of a hole is asked without its page-table lock",
    }],
    runs: BOUNDED,
    program: |_| {
        let world = || {
            let kernel = Kernel::with_moves(64, LockMode::Mmap, MoveLocks::Folio);
            kernel.spawn(0, &[0, 1]);
            kernel.map(0, 0, 3, RW);
            kernel.map(0, 8, 3, RW);
            kernel.store(0, 2, 7).expect("frames");
            kernel.store(0, 9, 9).expect("frames");
            kernel.userfaultfd(UffdFeatures::empty());
            kernel.watch(8, 3, RegisterMode::WP);
            kernel.swap_on(0, 2);
            kernel.note_frame(0, 9);
            kernel
        };
        boxed(
            scenario("move-vs-page-in-the-way", 2, world)
                .cpu("moves", |k| {
                    let moved = k.uffd().move_pages(page(8), page(0), 2 * P, MoveMode::ALLOW_SRC_HOLES);
                    assert_eq!(moved.out(), P as i64, "one hole");
                })
                .cpu("reclaims", |k| {
                    k.reclaim_noted();
                })
                .check(|k| match (k.load(0, 9), k.load(0, 2)) {
                    (Ok(9), Ok(7)) => k.check(),
                    other => Err(format!("where the hole was to go, and behind it: {other:?}")),
                }),
        )
    },
};

/// The page of the case.
pub static EXIT: Case = Case {
    name: "move-vs-last-exit",
    title: "a page moves while the last user of its address space ends",
    happened: "What this memory manager must keep: a move keeps no user of the address space, only its slot. The mmap lock, and a look at the users under it, \
               are all that stands between the move and tables that are freed.",
    environment: "CPU0 moves the page, then fills another, each with the mmap lock for reading; CPU1 ends the address space, with it for writing.",
    rule: "Either is done before the end, or is told that the process has ended. Nothing is left.",
    mutants: &[Mutant::Patch {
        name: "move-asks-users-first",
        what: "whether there are users is asked before the mmap lock is taken",
    }],
    runs: RUNS,
    program: |_| {
        let world = || {
            let kernel = two_roots(MoveLocks::Folio);
            kernel.let_go();
            kernel
        };
        boxed(
            scenario("move-vs-last-exit", 2, world)
                .cpu("moves, fills", |k| {
                    let done = [k.move_page(8, 0), k.zeropage(8)];
                    match done {
                        [Ok(()), Err(Error::Exists | Error::NoProcess)]
                        | [Err(Error::NoProcess), Err(Error::NoProcess)] => {}
                        other => panic!("moved, and filled: {other:?}"),
                    }
                })
                .cpu("ends", |k| k.exit(0))
                .check(Kernel::check),
        )
    },
};

fn swapped() -> Kernel {
    let kernel = two_roots(MoveLocks::Folio);
    kernel.let_go();
    kernel.swap_on(0, 1);
    kernel.page_out(0, 0);
    kernel
}

/// The page of the case.
pub const CACHED: Case = Case {
    name: "move-of-cached-page",
    title: "a swap entry moves whose page is in memory, and the page stays behind",
    happened: "Linux, CVE-2025-21984: the move of a swap entry left the index and the anon_vma of its cached page as they were; whoever mapped the page \
               for several processes later had it at a place that was not its own.",
    environment: "One CPU: it reclaims the page, which the device refuses, so that the page stays in the cache; moves the entry; forks; loads.",
    rule: "The entry and its cached page move together: `validate` asks every page for its index.",
    mutants: &[CACHED_STAYS],
    runs: &[Run::new(Model::Sc, Extent::Exhaust).with(Inject { at_most: 1, device: true, ..Inject::NONE })],
    program: |_| {
        let world = || {
            let kernel = two_roots(MoveLocks::Folio);
            kernel.let_go();
            kernel.swap_on(0, 1);
            kernel
        };
        boxed(
            scenario("move-of-cached-page", 1, world)
                .cpu("reclaims, moves", |k| {
                    k.page_out(0, 0);
                    assert_eq!(k.move_page(8, 0), Ok(()));
                })
                .check(shared_afterwards),
        )
    },
};

/// The page in the cache says where its entry is. Then a child has what was moved to page 8, too: whoever
/// brings it back finds what the page says of itself.
fn shared_afterwards(k: &Kernel) -> Result<(), String> {
    k.vm.validate().map_err(|v| v.to_string())?;
    Sim::on_cpu(0, || k.fork(0, 1, &[0])).map_err(|e| e.to_string())?;
    match (k.load(1, 8), k.load(0, 8)) {
        (Ok(7), Ok(7)) => k.check(),
        (Err(FaultOutcome::Bus), _) | (_, Err(FaultOutcome::Bus)) if k.sim.misfortunes() == 1 => k.check(),
        other => Err(format!("child and parent: {other:?}")),
    }
}

/// The page of the case.
pub const SWAP_IN: Case = Case {
    name: "move-vs-swap-aba",
    title: "a swap entry moves while its page comes back, and leaves to the same slot",
    happened: "Linux, CVE-2025-38242: the move looked for a cached page without locks, found none, and moved the entry; meanwhile the page had come back and left \
               again, and was in the cache under the same entry, with the index of its old place.",
    environment: "CPU0 moves a swap entry, with the mmap lock for reading, on a device of one slot; CPU1, another thread, brings the page back and lets it leave \
                  again. In the second run a transfer may fail, so that the page stays in the cache.",
    rule: "The value is found where the page went, also by a child.",
    mutants: &[Mutant::Patch {
        name: "move-cache-not-asked-again",
        what: "whether the slot has a page is not asked again under the page-table lock",
    }],
    runs: &[
        Run::new(Model::Sc, Extent::Bound(2)),
        Run::new(Model::Sc, Extent::Bound(2)).with(Inject { at_most: 1, device: true, ..Inject::NONE }),
        Run::new(Model::C11, Extent::Bound(1)),
    ],
    program: |_| {
        boxed(
            scenario("move-vs-swap-aba", 1, swapped)
                .cpu("moves", |k| match k.move_page(8, 0) {
                    Ok(()) => {}
                    // What cannot be read is a marker.
                    Err(Error::BadAddress) if k.sim.misfortunes() == 1 => k.notes[0].set(1),
                    other => panic!("{other:?}"),
                })
                .cpu("brings it back, and lets it go", |k| {
                    let _ = k.load(0, 0);
                    k.page_out(0, 0);
                })
                .check(|k| if k.notes[0].get() == 1 { k.check() } else { shared_afterwards(k) }),
        )
    },
};

/// The page of the case.
pub const MOVE: Case = Case {
    name: "move-vs-move",
    title: "two moves of one page, to two places",
    happened: "What this memory manager must keep: one of them finds nothing.",
    environment: "Two threads, each with the mmap lock for reading.",
    rule: "The page is at one of the two places, and nowhere else.",
    mutants: &[Mutant::Patch {
        name: "move-no-recheck",
        what: "the entry is not looked at again under both locks",
    }],
    runs: BOUNDED,
    program: |_| {
        let world = || {
            let kernel = two_roots(MoveLocks::AnonVma);
            kernel.map(0, 16, 2, RW);
            kernel.store(0, 17, 3).expect("frames");
            kernel.watch(16, 2, RegisterMode::WP);
            kernel
        };
        boxed(
            scenario("move-vs-move", 1, world)
                .cpu("moves one way", |k| k.notes[0].set(u64::from(k.move_page(8, 0).is_ok())))
                .cpu("moves another way", |k| {
                    let moved = k.move_page(16, 0);
                    assert!(matches!(moved, Ok(()) | Err(Error::NotFound)), "{moved:?}");
                    k.notes[1].set(u64::from(moved.is_ok()));
                })
                .check(|k| match (k.notes[0].get(), k.notes[1].get(), k.load(0, 8), k.load(0, 16)) {
                    (1, 0, Ok(7), Ok(0)) | (0, 1, Ok(0), Ok(7)) => k.check(),
                    other => Err(format!("moved, moved, there, there: {other:?}")),
                }),
        )
    },
};

/// The page of the case.
pub const UNMAP: Case = Case {
    name: "move-vs-munmap",
    title: "a page moves while the mapping goes that it goes to",
    happened: "What this memory manager must keep: an entry that is filled is in a mapping.",
    environment: "CPU0 moves under the locks of both VMAs; CPU1 unmaps the destination, with the mmap lock for writing.",
    rule: "The page stays where it was, or goes with the mapping.",
    mutants: &[Mutant::Patch {
        name: "move-no-destination-lock",
        what: "the lock of the destination's VMA is let go early",
    }],
    runs: BOUNDED,
    program: |_| {
        let world = || {
            let kernel = Kernel::with_moves(64, LockMode::Vma, MoveLocks::Folio);
            kernel.spawn(0, &[0, 1]);
            kernel.map(0, 0, 1, RW);
            kernel.map(0, 8, 1, RW);
            kernel.store(0, 0, 7).expect("frames");
            kernel.store(0, 8, 9).expect("frames");
            kernel.madvise(0, 8, anonmem::Advice::DontNeed);
            kernel.userfaultfd(UffdFeatures::empty());
            kernel.watch(8, 1, RegisterMode::WP);
            kernel
        };
        boxed(
            scenario("move-vs-munmap", 1, world)
                .cpu("moves", |k| {
                    let moved = k.move_page(8, 0);
                    assert!(matches!(moved, Ok(()) | Err(Error::NotFound)), "{moved:?}");
                    k.notes[0].set(u64::from(moved.is_ok()));
                })
                .cpu("unmaps where it goes", |k| k.mm(0).munmap(pages(8, 1)).expect("no memory is needed"))
                .check(|k| match (k.notes[0].get(), k.load(0, 0)) {
                    (1, Ok(0)) | (0, Ok(7)) => k.check(),
                    other => Err(format!("moved or not, and what is left: {other:?}")),
                }),
        )
    },
};

//! Walks through families of address spaces, while one of them unmaps, moves, splits or fails to be made.
//! Each world has families, whatever the others of the catalogue have.

use super::{
    Case, Extent, Mutant, Run,
    dead_tables::in_three_tables,
    kernel::{Kernel, P, boxed, over, page, pages, scenario},
    seed_003::two_roots,
};
use crate::Model;
use anonmem::{Advice, Event, LockMode, MoveLocks, Prot, RemapFlags, ReverseMapChoice::Families};

const RW: Prot = Prot::READ.union(Prot::WRITE);
const RUNS: &[Run] = &[Run::new(Model::Sc, Extent::Bound(2)), Run::new(Model::C11, Extent::Bound(1))];

/// The page of the case.
pub const MUNMAP: Case = Case {
    name: "rmap-munmap-in-family",
    title: "a walk by address stands in a table that munmap frees",
    happened: "Linux, free_pgtables hides a VMA from the reverse map before its tables go. A design that keeps nothing for a VMA has nothing to \
               hide, and the proposed CoW context has \"VMA not stabilised in the walk\" on its list of what is open.",
    environment: "Families. CPU0 walks to a page, with a reference to it and its family's lock. CPU1 unmaps everything, with the mmap lock for writing, \
                  and frees what waits.",
    rule: "Before the tables of a mapping with pages go, its family's lock is held for writing, even if there is nothing to change.",
    mutants: &[Mutant::Patch {
        name: "family-unlinks-unlocked",
        what: "a mapping that has no record is unlinked without the lock",
    }],
    runs: RUNS,
    program: |_| {
        let world = || {
            let kernel = in_three_tables();
            kernel.hold(0, 16);
            kernel
        };
        boxed(
            scenario("rmap-munmap-in-family", 1, move || over(Families, world))
                .cpu("walks", |k| assert!(k.walk_rmap() <= 1))
                .cpu("unmaps, drains", |k| {
                    k.mm(0).munmap(pages(0, 17)).expect("frames");
                    k.vm.drain();
                }),
        )
    },
};

/// The page of the case.
pub const MOVE: Case = Case {
    name: "rmap-move-in-family",
    title: "a page moves from one mapping to another under a walk by address",
    happened: "Linux, UFFDIO_MOVE as it came in 6.8: it locks the anon_vma of the source for writing, because who walks without the folio lock has \
               read the index before the move, and the entry after it.",
    environment: "Families, and moves that lock out walks. CPU0 asks who maps a page. CPU1 moves the page from address 0 to address 8, with the mmap lock \
                  for reading.",
    rule: "A walk finds one entry for as long as there is one.",
    mutants: &[Mutant::Patch { name: "move-no-anon-vma", what: "the move does not lock out walks" }],
    runs: RUNS,
    program: |_| {
        boxed(
            scenario("rmap-move-in-family", 1, || over(Families, || two_roots(MoveLocks::AnonVma)))
                .cpu("asks who maps it", |k| assert_eq!(k.walk_rmap(), 1, "entries of a page that has one"))
                .cpu("moves", |k| assert_eq!(k.move_page(8, 0), Ok(())))
                .check(|k| {
                    finds(k, 0, 8, 7)?;
                    k.check()
                }),
        )
    },
};

/// Program 0 stored 7 in page 0 and 9 in page 1, and moved both to page 8.
fn away() -> Kernel {
    let kernel = Kernel::new(64, LockMode::Mmap);
    kernel.spawn(0, &[0, 1]);
    kernel.map(0, 0, 2, RW);
    kernel.store(0, 0, 7).expect("frames");
    kernel.store(0, 1, 9).expect("frames");
    let flags = RemapFlags::MAYMOVE | RemapFlags::FIXED;
    kernel.mm(0).mremap(page(0), 2 * P, 2 * P, flags, page(8)).expect("frames");
    kernel
}

/// The page of the case.
pub const FORK_AWAY: Case = Case {
    name: "rmap-fork-of-what-moved",
    title: "fork copies a mapping that is not where its pages' indices say",
    happened: "The proposed CoW context keeps the offsets of what moved for each address space, and copies them in fork: two relatives may have one page \
               at different addresses, and a walk must know both.",
    environment: "Families. A program's pages are away from home. CPU0 forks it. CPU1 moves one of them to another frame, and puts the entries back by \
                  a second walk.",
    rule: "What is recorded of a mapping is recorded of its copy before that one has an entry.",
    mutants: &[Mutant::Patch {
        name: "family-fork-unrecorded",
        what: "the copy of a mapping that moved has no record",
    }],
    runs: RUNS,
    program: |_| {
        let world = || {
            let kernel = away();
            kernel.note_frame(0, 8);
            kernel
        };
        boxed(
            scenario("rmap-fork-of-what-moved", 1, move || over(Families, world))
                .cpu("forks", |k| k.fork(0, 1, &[]).expect("frames"))
                .cpu("moves the page", |k| {
                    k.migrate_noted();
                })
                .check(|k| {
                    match k.walk_rmap_of(0, 8) {
                        2 => {}
                        n => return Err(format!("a walk meets {n} of 2 entries")),
                    }
                    k.switch_to(1, 1);
                    finds(k, 0, 8, 7)?;
                    finds(k, 1, 8, 7)?;
                    none_left_behind(k)
                }),
        )
    },
};

/// The page of the case.
pub const SPLIT_AWAY: Case = Case {
    name: "rmap-split-of-what-moved",
    title: "a mapping that is not at home is split under a walk",
    happened: "Linux, __split_vma clones the chains of the lower part, and two of four CVEs of that code are clones that came late or twice \
               (CVE-2022-42703). The same is owed to a record.",
    environment: "Families. A program's two pages are away from home. CPU0 takes write permission from the second one, and gives it back. CPU1 walks to it.",
    rule: "A walk meets an entry at least once while its mapping is split and merged.",
    mutants: &[Mutant::Patch {
        name: "family-split-unrecorded",
        what: "the upper part of a mapping that moved has no record",
    }],
    runs: RUNS,
    program: |_| {
        let world = || {
            let kernel = away();
            kernel.hold(0, 9);
            kernel
        };
        boxed(
            scenario("rmap-split-of-what-moved", 1, move || over(Families, world))
                .cpu("splits and merges", |k| {
                    k.mm(0).mprotect(pages(9, 1), Prot::READ).expect("frames");
                    k.mm(0).mprotect(pages(9, 1), RW).expect("frames");
                })
                .cpu("walks", |k| assert!(k.walk_rmap() >= 1, "the page is mapped all the time"))
                .check(|k| {
                    k.let_go();
                    finds(k, 0, 9, 9)?;
                    k.check()
                }),
        )
    },
};

/// The page of the case.
pub const MERGED: Case = Case {
    name: "rmap-merged-in-family",
    title: "fork shares a merged page while a walk looks for all who have it",
    happened: "Linux, mm/ksm.c: rmap items hold the anon_vma and the address, and a walk goes from there over all that descend from it. A place that                named one address space's label would miss its parents and brothers.",
    environment: "Families. Two equal pages of a program were merged, and it has forked. CPU0 moves the merged page to another frame, and puts the entries                   back by a second walk. CPU1 forks.",
    rule: "A merged page's place names the family and the index, and no label.",
    mutants: &[Mutant::Patch {
        name: "family-merged-by-one-label",
        what: "who maps a merged page is looked for among the descendants of one child",
    }],
    runs: RUNS,
    program: |_| {
        let world = || {
            let kernel = Kernel::new(64, LockMode::Mmap);
            kernel.spawn(0, &[1]);
            kernel.map(0, 0, 2, RW);
            (0..2).for_each(|n| kernel.store(0, n, 7).expect("frames"));
            kernel.mm(0).madvise(page(0), 2 * P, Advice::Mergeable).expect("frames");
            (0..4).for_each(|nth| kernel.look_for_equal(0, nth % 2));
            assert_eq!(kernel.frame_of(0, 0), kernel.frame_of(0, 1), "one page");
            kernel.fork(0, 1, &[]).expect("frames");
            kernel.note_frame(0, 0);
            kernel
        };
        boxed(
            scenario("rmap-merged-in-family", 1, move || over(Families, world))
                .cpu("moves the page", |k| {
                    k.migrate_noted();
                })
                .cpu("forks", |k| k.fork(0, 2, &[]).expect("frames"))
                .check(|k| {
                    k.note_frame(0, 0);
                    if !k.migrate_noted() {
                        return Err("the walk does not meet all who have the page".into());
                    }
                    for i in [0, 1, 2] {
                        k.switch_to(i, 1);
                        finds(k, i, 0, 7)?;
                        finds(k, i, 1, 7)?;
                    }
                    none_left_behind(k)
                }),
        )
    },
};

/// Program `i` finds `value` in page `n`.
fn finds(k: &Kernel, i: usize, n: u64, value: u64) -> Result<(), String> {
    match k.load(i, n) {
        Ok(found) if found == value => Ok(()),
        other => Err(format!("program {i} found {other:?} in page {n}, not {value}")),
    }
}

/// No entry waits for a page that has moved.
fn none_left_behind(k: &Kernel) -> Result<(), String> {
    match k.vm.stats().event(Event::MigrateLeftBehind) {
        0 => k.check(),
        n => Err(format!("{n} entries were left behind by the walk")),
    }
}

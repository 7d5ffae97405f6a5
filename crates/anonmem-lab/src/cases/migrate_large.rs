//! Large folios on their way to other frames, met by everybody else: behind entries, and behind a leaf. A
//! leaf of the simulated machine maps eight pages.

use super::{
    Case, Extent, Mutant, Run,
    kernel::{Kernel, P, boxed, page, pages, scenario},
};
use crate::{Model, Program, Scenario};
use anonmem::{Advice, Event, FolioMode, FolioPolicy, LockMode, PinFlags, Prot, RemapFlags, Unpin};
use anonmem_hal::Order;

const RW: Prot = Prot::READ.union(Prot::WRITE);
const BOUND: &[Run] = &[Run::new(Model::Sc, Extent::Bound(2)), Run::new(Model::C11, Extent::Bound(1))];

/// A program of both CPUs with a folio of four pages behind entries. Page 1 says 7. The frame is noted.
fn run() -> Kernel {
    let kernel = Kernel::new(96, LockMode::Mmap);
    kernel.vm.set_folio_policy(FolioPolicy::default().with(Order::new(2), FolioMode::Always));
    kernel.spawn(0, &[0, 1]);
    kernel.map(0, 0, 4, RW);
    kernel.store(0, 1, 7).expect("frames");
    kernel.note_frame(0, 0);
    kernel
}

/// The same with a leaf of eight pages.
fn leaf() -> Kernel {
    let kernel = Kernel::new(96, LockMode::Mmap);
    kernel.spawn(0, &[0, 1]);
    kernel.map(0, 0, 8, RW);
    assert!(kernel.mm(0).fault_leaf(page(0)), "a folio of eight pages");
    kernel.store(0, 1, 7).expect("mapped");
    kernel.note_frame(0, 0);
    kernel
}

/// The same, and the program has a child, which runs on CPU 1.
fn family(world: impl Fn() -> Kernel) -> Kernel {
    let kernel = world();
    kernel.fork(0, 1, &[1]).expect("frames");
    kernel
}

/// The folio moves on CPU 0, if it can.
fn moving(name: &str, world: impl Fn() -> Kernel + 'static) -> Scenario<Kernel> {
    scenario(name, 1, world).cpu("moves the folio", |k| {
        k.migrate_noted();
    })
}

/// The folio moves, and a thread of the program stores to page 1 and to `other` of its `pages`.
fn stores_to_two(
    name: &str,
    world: impl Fn() -> Kernel + 'static,
    (other, pages): (u64, u64),
) -> Box<dyn Program> {
    boxed(
        moving(name, world)
            .cpu("stores to two pages", move |k| {
                assert_eq!(k.store(0, 1, 8), Ok(()));
                assert_eq!(k.store(0, other, 9), Ok(()));
            })
            .check(move |k| settled_in_order(k, &[(0, 1, 8), (0, other, 9)], pages)),
    )
}

/// Page `n` of program `i` says `value`.
fn finds(k: &Kernel, i: usize, n: u64, value: u64) -> Result<(), String> {
    match k.load(i, n) {
        Ok(found) if found == value => Ok(()),
        other => Err(format!("page {n} of program {i}: {other:?}, not {value}")),
    }
}

/// Every entry has its page again, and not because a fault came by.
fn all_followed(k: &Kernel) -> Result<(), String> {
    match k.vm.stats().event(Event::MigrateLeftBehind) {
        0 => k.check(),
        n => Err(format!("{n} entries were left behind by the walk")),
    }
}

/// Pages of programs say what they are to, each given as (program, page, value), and no walk missed an entry.
/// The address spaces have ended afterwards: it is what a check does last.
fn settled(k: &Kernel, pages: &[(usize, u64, u64)]) -> Result<(), String> {
    say(k, pages)?;
    all_followed(k)
}

/// The same, and the first `n` pages of program 0 are beside each other.
fn settled_in_order(k: &Kernel, pages: &[(usize, u64, u64)], n: u64) -> Result<(), String> {
    say(k, pages)?;
    in_order(k, n)?;
    all_followed(k)
}

/// Pages of programs say what they are to.
fn say(k: &Kernel, pages: &[(usize, u64, u64)]) -> Result<(), String> {
    pages.iter().try_for_each(|&(i, n, value)| finds(k, i, n, value))
}

/// The first `n` pages of program 0 are beside each other.
fn in_order(k: &Kernel, n: u64) -> Result<(), String> {
    let first = k.frame_of(0, 0).ok_or("page 0 is not present")?;
    match (1..n).find(|&nth| k.frame_of(0, nth) != Some(first.offset(nth))) {
        None => Ok(()),
        Some(nth) => Err(format!("page {nth} is in {:?}, page 0 in {first:?}", k.frame_of(0, nth))),
    }
}

/// The page of the case.
pub const RUN_FAULT: Case = Case {
    name: "migrate-run-vs-fault",
    title: "stores meet the pages of a large folio that is on its way to other frames",
    happened: "Linux, mm/migrate.c remove_migration_pte: a folio's pages come back one by one, each to its own frame of the new folio.",
    environment: "CPU0 moves a folio of four pages. CPU1, a thread of the program, stores to two of them.",
    rule: "No store is lost, and each page is at its place in the folio.",
    mutants: &[Mutant::Patch { name: "migrate-run-mixes-pages", what: "two pages arrive in one frame" }],
    runs: BOUND,
    program: |_| stores_to_two("migrate-run-vs-fault", run, (3, 4)),
};

/// The page of the case.
pub const RUN_ZAP: Case = Case {
    name: "migrate-run-vs-zap",
    title: "munmap drops a part of a large folio that is on its way to other frames",
    happened: "Linux, mm/memory.c zap_nonpresent_ptes, and CVE-2026-31466: a migration entry is zapped while the folio changes under it.",
    environment: "Parent and child share a folio of four pages. CPU0 moves it. CPU1 unmaps two of them in the child, and loads the others.",
    rule: "What is left has its bytes; the folio counts what is left.",
    mutants: &[Mutant::Patch {
        name: "zap-forgets-migrating",
        what: "the hold of a migration entry that is unmapped is not given back",
    }],
    runs: BOUND,
    program: |_| {
        boxed(
            moving("migrate-run-vs-zap", || family(run))
                .cpu("unmaps two pages of the child", |k| {
                    k.mm(1).munmap(pages(2, 2)).expect("no memory is needed");
                    assert_eq!(k.load(1, 1), Ok(7));
                })
                .check(|k| settled_in_order(k, &[(0, 1, 7), (1, 1, 7)], 4)),
        )
    },
};

/// The page of the case.
pub const LEAF_FAULT: Case = Case {
    name: "migrate-leaf-vs-fault",
    title: "stores meet a leaf whose folio is on its way to other frames",
    happened: "Linux, mm/huge_memory.c set_pmd_migration_entry: the leaf is invalidated and flushed before it becomes a migration entry.",
    environment: "CPU0 moves the folio of a leaf. CPU1, a thread of the program, stores to two of its pages.",
    rule: "No store is lost; the leaf is one afterwards.",
    mutants: &[
        Mutant::Patch {
            name: "migrate-leaf-without-flush",
            what: "the folio is copied while CPUs can still write to it by the translations that they have",
        },
        Mutant::Patch {
            name: "leaf-migration-wait-does-not-wait",
            what: "a fault puts the old folio back without asking whether it is still being moved",
        },
    ],
    runs: BOUND,
    program: |_| stores_to_two("migrate-leaf-vs-fault", leaf, (6, 8)),
};

/// The page of the case.
pub const LEAF_FORK: Case = Case {
    name: "migrate-leaf-vs-fork",
    title: "fork copies a leaf whose folio is on its way to other frames",
    happened: "Linux, mm/huge_memory.c copy_huge_non_present_pmd: both become readable migration entries.",
    environment: "CPU0 moves the folio of a leaf. CPU1, a thread of the program, forks and stores. The child loads afterwards.",
    rule: "The child reads 7, the parent 8; no entry waits for ever.",
    mutants: &[Mutant::Patch {
        name: "fork-keeps-migrating-leaf-exclusive",
        what: "the parent's entry still says that the folio is its alone",
    }],
    runs: &[Run::new(Model::Sc, Extent::Bound(1))],
    program: |_| {
        boxed(
            moving("migrate-leaf-vs-fork", leaf)
                .cpu("forks, stores", |k| {
                    k.fork(0, 1, &[1]).expect("frames");
                    assert_eq!(k.store(0, 1, 8), Ok(()));
                })
                .check(|k| settled(k, &[(0, 1, 8), (1, 1, 7)])),
        )
    },
};

/// The page of the case.
pub const LEAF_SPLIT: Case = Case {
    name: "migrate-leaf-vs-split",
    title: "a page of a leaf is dropped whose folio is on its way to other frames",
    happened: "Linux, mm/huge_memory.c __split_huge_pmd_locked: a migration entry becomes 512 of them, each of which says which page it waits for.",
    environment: "CPU0 moves the folio of a leaf. CPU1, a thread of the program, drops one page and loads another.",
    rule: "The page that was dropped reads as zeroes, the others as before.",
    mutants: &[Mutant::Patch {
        name: "split-migrating-leaf-forgets-place",
        what: "each entry waits for the first page",
    }],
    runs: BOUND,
    program: |_| {
        boxed(
            moving("migrate-leaf-vs-split", leaf)
                .cpu("drops page 3, loads page 1", |k| {
                    k.madvise(0, 3, Advice::DontNeed);
                    assert_eq!(k.load(0, 1), Ok(7));
                })
                .check(|k| settled(k, &[(0, 1, 7), (0, 3, 0)])),
        )
    },
};

/// The page of the case.
pub const LEAF_PIN: Case = Case {
    name: "migrate-leaf-vs-gup-fast",
    title: "a page of a leaf is pinned without a lock while its folio moves to other frames",
    happened: "GUP-fast reads the leaf, takes a pin, and reads the leaf again; who takes it away asks for pins afterwards (Linux: gup_fast_pmd_leaf, \
               folio_try_share_anon_rmap_pmd).",
    environment: "CPU0 moves the folio of a leaf. CPU1 pins a page of it without a lock; its device stores.",
    rule: "Program and device have the same page.",
    mutants: &[Mutant::Patch {
        name: "migrate-leaf-ignores-pins",
        what: "a leaf goes without asking for pins once it traps",
    }],
    runs: BOUND,
    program: |_| {
        boxed(
            moving("migrate-leaf-vs-gup-fast", leaf)
                .cpu("pins, stores by a device", |k| {
                    k.pin_fast(0, 0, 1, PinFlags::WRITE).expect("frames");
                    k.device_store(0, 9);
                })
                .check(|k| {
                    finds(k, 0, 1, 9)?;
                    if k.mm(0).pagemap(page(1)).pfn != k.pinned_frame(0) {
                        return Err("program and device have two pages".into());
                    }
                    k.unpin(0, Unpin::Dirty);
                    all_followed(k)
                }),
        )
    },
};

/// The page of the case.
pub const LEAF_MINCORE: Case = Case {
    name: "migrate-leaf-vs-mincore",
    title: "mincore asks for a page of a leaf whose folio is on its way to other frames",
    happened: "This memory manager: a leaf that UFFDIO_MOVE had emptied while it asked for pins was taken for a hole. A leaf that migrates has the same \
               moment.",
    environment: "CPU0 moves the folio of a leaf. CPU1 runs the program and asks mincore.",
    rule: "The page is in memory all the time.",
    mutants: &[Mutant::Patch {
        name: "migrate-leaf-empties-place",
        what: "the leaf is empty while its pins are asked",
    }],
    runs: &[Run::new(Model::Sc, Extent::Bound(2)), Run::new(Model::C11, Extent::Bound(2))],
    program: |_| {
        boxed(
            moving("migrate-leaf-vs-mincore", leaf)
                .cpu("asks", |k| {
                    let mut there = None;
                    k.mm(0).mincore(page(1), P, &mut |is| there = Some(is)).expect("it is mapped");
                    assert_eq!(there, Some(true), "a page is not in memory while it moves");
                })
                .check(|k| settled(k, &[(0, 1, 7)])),
        )
    },
};

/// The page of the case.
pub const LEAF_PROTECT: Case = Case {
    name: "migrate-leaf-vs-mprotect",
    title: "mprotect takes write permission from a leaf whose folio is on its way to other frames",
    happened: "Linux, mm/huge_memory.c change_huge_pmd: a writable migration entry becomes a readable one.",
    environment: "CPU0 moves the folio of a leaf. CPU1, a thread of the program, takes write permission away and tries to store.",
    rule: "The store is refused.",
    mutants: &[Mutant::Patch {
        name: "migrate-leaf-asks-no-permission",
        what: "mprotect leaves a writable migration entry as it is, and what the entry says counts when the folio arrives",
    }],
    runs: BOUND,
    program: |_| {
        boxed(
            moving("migrate-leaf-vs-mprotect", leaf)
                .cpu("protects, stores", |k| {
                    k.mm(0).mprotect(pages(0, 8), Prot::READ).expect("no memory is needed");
                    assert!(k.store(0, 1, 9).is_err(), "a store to what may not be written");
                })
                .check(|k| settled(k, &[(0, 1, 7)])),
        )
    },
};

/// The page of the case.
pub const LEAF_REMAP: Case = Case {
    name: "migrate-leaf-vs-mremap",
    title: "mremap moves a leaf whose folio is on its way to other frames",
    happened: "Linux, mm/huge_memory.c move_huge_pmd: a migration entry goes along, and so does the table that is kept for it.",
    environment: "CPU0 moves the folio of a leaf. CPU1, a thread of the program, moves the mapping to another address, and stores.",
    rule: "The store is found at the new address; no entry waits for ever.",
    mutants: &[Mutant::Patch {
        name: "mremap-moves-unlocked",
        what: "entries move without the rmap lock to where a walk has been already",
    }],
    runs: &[Run::new(Model::Sc, Extent::Bound(2))],
    program: |_| {
        boxed(
            moving("migrate-leaf-vs-mremap", leaf)
                .cpu("moves the addresses, stores", |k| {
                    let flags = RemapFlags::MAYMOVE | RemapFlags::FIXED;
                    k.mm(0).mremap(page(0), 8 * P, 8 * P, flags, page(16)).expect("frames");
                    assert_eq!(k.load(0, 17), Ok(7));
                    assert_eq!(k.store(0, 17, 8), Ok(()));
                })
                .check(|k| settled(k, &[(0, 17, 8)])),
        )
    },
};

//! Pages on their way to another frame, met by everybody else.

use super::{
    Case, Extent, Mutant, Run,
    kernel::{Kernel, P, boxed, page, pages, scenario},
};
use crate::{Model, Scenario};
use anonmem::{Event, LockMode, PinFlags, Prot, RemapFlags, Unpin};

const RW: Prot = Prot::READ.union(Prot::WRITE);
const CACHE_FORGOTTEN: Mutant =
    Mutant::Patch { name: "migrate-forgets-cache", what: "the slot goes on naming the old frame" };
const RUNS: &[Run] = &[Run::new(Model::Sc, Extent::Bound(2)), Run::new(Model::C11, Extent::Bound(1))];

/// A parent, which stored 7, and its child share a page; both run on CPU 1. The frame is noted.
fn family() -> Kernel {
    let kernel = Kernel::parent_and_child(1);
    kernel.note_frame(0, 0);
    kernel
}

/// A program of both CPUs has a page of its own, which says 7. The frame is noted.
fn alone() -> Kernel {
    let kernel = Kernel::new(64, LockMode::Mmap);
    kernel.spawn(0, &[0, 1]);
    kernel.map(0, 0, 1, RW);
    kernel.store(0, 0, 7).expect("frames");
    kernel.note_frame(0, 0);
    kernel
}

/// The two have their page in one slot; the parent has brought it back, so that it is cached. The frame is
/// noted.
fn cached() -> Kernel {
    let kernel = Kernel::new(64, LockMode::Mmap);
    kernel.swap_on(0, 4);
    kernel.spawn(0, &[1]);
    kernel.map(0, 0, 1, RW);
    kernel.store(0, 0, 7).expect("frames");
    kernel.fork(0, 1, &[1]).expect("frames");
    assert!(kernel.reclaim(kernel.frame_of(0, 0).expect("present")));
    assert_eq!(kernel.load(0, 0), Ok(7));
    kernel.note_frame(0, 0);
    kernel
}

/// The page moves on CPU 0, if it can.
fn moving(name: &str, world: impl Fn() -> Kernel + 'static) -> Scenario<Kernel> {
    scenario(name, 1, world).cpu("moves the page", |k| {
        k.migrate_noted();
    })
}

/// Moves page `from` of program 0 to the address of page `to`.
fn remap(k: &Kernel, from: u64, to: u64) {
    let flags = RemapFlags::MAYMOVE | RemapFlags::FIXED;
    k.mm(0).mremap(page(from), P, P, flags, page(to)).expect("frames");
}

/// Every entry has its page again, and not because a fault came by.
fn all_followed(k: &Kernel) -> Result<(), String> {
    match k.vm.stats().event(Event::MigrateLeftBehind) {
        0 => k.check(),
        n => Err(format!("{n} entries were left behind by the walk")),
    }
}

/// Parent and child find 7 in one page.
fn one_frame(k: &Kernel) -> Result<(), String> {
    finds(k, 0, 7)?;
    finds(k, 1, 7)?;
    match (k.frame_of(0, 0), k.frame_of(1, 0)) {
        (parent, child) if parent == child => all_followed(k),
        two => Err(format!("parent and child have two pages: {two:?}")),
    }
}

/// Program `i` finds `value` in the page.
fn finds(k: &Kernel, i: usize, value: u64) -> Result<(), String> {
    match k.load(i, 0) {
        Ok(found) if found == value => Ok(()),
        other => Err(format!("program {i} found {other:?}, not {value}")),
    }
}

/// The page of the case.
pub const FAULT: Case = Case {
    name: "migrate-vs-fault",
    title: "a store meets a page that is on its way to another frame",
    happened: "Linux, mm/migrate.c: a fault on a migration entry waits for the folio lock. It held a reference meanwhile until 5.19 (commit \
               ffa65753c431), and the move, which freezes the counts, failed for as long as anybody waited.",
    environment: "CPU0 moves a page of one mapping to another frame. CPU1 runs the program and stores twice.",
    rule: "No store is lost, whichever frame it went to. The page is exclusive afterwards.",
    mutants: &[
        Mutant::Patch {
            name: "migrate-without-flush",
            what: "the page is copied while CPUs can still write to it by the translations that they have",
        },
        Mutant::Patch {
            name: "migration-wait-does-not-wait",
            what: "a fault puts the old page back without asking whether it is still being moved",
        },
    ],
    runs: &[Run::new(Model::Sc, Extent::Bound(2)), Run::new(Model::C11, Extent::Bound(2))],
    program: |_| {
        boxed(
            moving("migrate-vs-fault", alone)
                .cpu("stores twice", |k| {
                    assert_eq!(k.store(0, 0, 8), Ok(()));
                    assert_eq!(k.store_word(0, 0, 1, 9), Ok(()));
                })
                .check(|k| {
                    finds(k, 0, 8)?;
                    if k.load_word(0, 0, 1) != Ok(9) || !k.mm(0).pagemap(page(0)).exclusive {
                        return Err("the second store is lost, or the page is not exclusive".into());
                    }
                    all_followed(k)
                }),
        )
    },
};

/// The page of the case.
pub const MINCORE: Case = Case {
    name: "migrate-vs-mincore",
    title: "mincore asks for a page that is on its way to another frame",
    happened: "The threaded stress of this memory manager, once in some 10 million operations: mincore looked at entries without their lock, and found one \
               empty that was just becoming a migration entry.",
    environment: "CPU0 moves a page of one mapping to another frame. CPU1 runs the program and asks mincore.",
    rule: "The page is in memory all the time.",
    mutants: &[Mutant::Patch {
        name: "mincore-without-lock",
        what: "an empty entry is believed without its lock",
    }],
    runs: &[Run::new(Model::Sc, Extent::Exhaust), Run::new(Model::C11, Extent::Bound(2))],
    program: |_| {
        boxed(
            moving("migrate-vs-mincore", alone)
                .cpu("asks", |k| {
                    let mut there = None;
                    k.mm(0).mincore(page(0), P, &mut |is| there = Some(is)).expect("it is mapped");
                    assert_eq!(there, Some(true), "a page is not in memory while it moves");
                })
                .check(|k| {
                    finds(k, 0, 7)?;
                    all_followed(k)
                }),
        )
    },
};

/// The page of the case.
pub const FORK: Case = Case {
    name: "migrate-vs-fork",
    title: "fork copies an entry whose page is on its way to another frame",
    happened: "Linux, mm/memory.c copy_nonpresent_pte: both entries become readable migration entries. The walk that brings the page back must meet \
               both, or be told.",
    environment: "CPU0 moves a page of one mapping to another frame. CPU1, a thread of the program, forks and stores. The child loads afterwards.",
    rule: "The child reads 7, the parent 8; no entry waits for ever.",
    mutants: &[
        Mutant::Patch {
            name: "fork-keeps-migrating-exclusive",
            what: "the parent's entry still says that the page is its alone",
        },
        Mutant::Patch {
            name: "migrate-one-entry-is-all",
            what: "a walk that has met one entry takes it for the only one",
        },
    ],
    runs: &[Run::new(Model::Sc, Extent::Bound(1))],
    program: |_| {
        boxed(
            moving("migrate-vs-fork", alone)
                .cpu("forks, stores", |k| {
                    k.fork(0, 1, &[1]).expect("frames");
                    assert_eq!(k.store(0, 0, 8), Ok(()));
                })
                .check(|k| {
                    finds(k, 0, 8)?;
                    finds(k, 1, 7)?;
                    all_followed(k)
                }),
        )
    },
};

/// The page of the case.
pub const ZAP: Case = Case {
    name: "migrate-vs-zap",
    title: "munmap drops an entry whose page is on its way to another frame",
    happened: "Linux, mm/memory.c zap_nonpresent_ptes: the entry goes, and the page with the last of them. The mover must not bring back what nobody has.",
    environment: "Parent and child share a page. CPU0 moves it to another frame. CPU1 unmaps it in the parent, then stores in the child.",
    rule: "The child has the page, and nothing else is left of it: no frame, no mapping.",
    mutants: &[Mutant::Patch {
        name: "zap-forgets-migrating",
        what: "the hold of a migration entry that is unmapped is not given back",
    }],
    runs: RUNS,
    program: |_| {
        boxed(
            moving("migrate-vs-zap", family)
                .cpu("unmaps, the child stores", |k| {
                    k.mm(0).munmap(pages(0, 1)).expect("no memory is needed");
                    assert_eq!(k.load(1, 0), Ok(7));
                    assert_eq!(k.store(1, 0, 8), Ok(()));
                })
                .check(|k| {
                    finds(k, 1, 8)?;
                    all_followed(k)
                }),
        )
    },
};

/// The page of the case.
pub const PIN: Case = Case {
    name: "migrate-vs-gup-fast",
    title: "a page is pinned without a lock while it moves to another frame",
    happened: "GUP-fast reads the entry, takes a pin, and reads the entry again; who takes the page away clears the entry and asks for pins afterwards. \
               Between the two stand a fence each (Linux: folio_try_share_anon_rmap_pte, gup_fast_pte_range).",
    environment: "CPU0 moves a page of one mapping to another frame. CPU1 pins it without a lock; its device stores.",
    rule: "Program and device have the same page.",
    mutants: &[Mutant::Patch {
        name: "migrate-ignores-pins",
        what: "a page moves without asking for pins once its entry is cleared",
    }],
    runs: RUNS,
    program: |_| {
        boxed(
            moving("migrate-vs-gup-fast", alone)
                .cpu("pins, stores by a device", |k| {
                    k.pin_fast(0, 0, 0, PinFlags::WRITE).expect("frames");
                    k.device_store(0, 9);
                })
                .check(|k| {
                    finds(k, 0, 9)?;
                    if k.mm(0).pagemap(page(0)).pfn != k.pinned_frame(0) {
                        return Err("program and device have two pages".into());
                    }
                    k.unpin(0, Unpin::Dirty);
                    all_followed(k)
                }),
        )
    },
};

/// The page of the case.
pub const SWAP_IN: Case = Case {
    name: "migrate-vs-swap-in",
    title: "a fault finds in the swap cache a page that moves to another frame",
    happened: "The swap cache is the way to a page that no entry maps. Linux replaces the folio there under its lock; who had looked it up before waits \
               for that lock and asks again whether the folio is still the slot's.",
    environment: "Parent and child have a page in one slot; the parent has brought it back, so that it is cached. CPU0 moves it to another frame. CPU1 \
                  loads it in the child.",
    rule: "Both read 7, from one frame.",
    mutants: &[CACHE_FORGOTTEN],
    runs: RUNS,
    program: |_| {
        boxed(
            moving("migrate-vs-swap-in", cached)
                .cpu("loads in the child", |k| {
                    assert_eq!(k.load(1, 0), Ok(7));
                })
                .check(one_frame),
        )
    },
};

/// The page of the case.
pub const PROTECT: Case = Case {
    name: "migrate-vs-mprotect",
    title: "mprotect takes write permission from an entry whose page is on its way to another frame",
    happened: "Linux, mm/mprotect.c change_pte_range: a writable migration entry becomes a readable one. Otherwise the page comes back writable in a VMA \
               that may not be written.",
    environment: "CPU0 moves a page of one mapping to another frame. CPU1, a thread of the program, stores, takes write permission away and tries to store \
                  again.",
    rule: "The second store is refused.",
    mutants: &[Mutant::Patch {
        name: "migrate-asks-no-permission",
        what: "mprotect leaves a writable migration entry as it is, and what the entry says counts when the page arrives",
    }],
    runs: RUNS,
    program: |_| {
        boxed(
            moving("migrate-vs-mprotect", alone)
                .cpu("stores, protects, stores", |k| {
                    assert_eq!(k.store(0, 0, 8), Ok(()));
                    k.mm(0).mprotect(pages(0, 1), Prot::READ).expect("no memory is needed");
                    assert!(k.store(0, 0, 9).is_err(), "a store to what may not be written");
                })
                .check(|k| {
                    finds(k, 0, 8)?;
                    all_followed(k)
                }),
        )
    },
};

/// The page of the case.
pub const REMAP: Case = Case {
    name: "migrate-vs-mremap",
    title: "mremap moves an entry whose page is on its way to another frame",
    happened: "The walk that brings a page back must meet an entry at its old address or at its new one (Linux: move_ptes, need_rmap_locks).",
    environment: "CPU0 moves a page of one mapping to another frame. CPU1, a thread of the program, moves the mapping to another address, and stores.",
    rule: "The store is found at the new address; no entry waits for ever.",
    mutants: &[Mutant::Patch {
        name: "mremap-moves-unlocked",
        what: "entries move without the rmap lock to where a walk has been already",
    }],
    runs: RUNS,
    program: |_| {
        boxed(
            moving("migrate-vs-mremap", alone)
                .cpu("moves the addresses, stores", |k| {
                    remap(k, 0, 8);
                    assert_eq!(k.load(0, 8), Ok(7));
                    assert_eq!(k.store(0, 8, 8), Ok(()));
                })
                .check(|k| match k.load(0, 8) {
                    Ok(8) => all_followed(k),
                    other => Err(format!("found {other:?} at the new address, not 8")),
                }),
        )
    },
};

/// The page of the case.
pub const RECLAIM: Case = Case {
    name: "migrate-vs-reclaim",
    title: "a page is swapped out and moved to another frame at the same time",
    happened: "Both take a page from its entries, and both keep its folio locked until they are done (Linux: shrink_folio_list, migrate_folio_unmap). Which of \
               them comes first decides; the other leaves the page alone.",
    environment: "Parent and child have a page in one slot; the parent has brought it back, so that it is cached. CPU0 moves it to another frame. CPU1 \
                  reclaims whatever is in its frame, then loads in the child.",
    rule: "Both read 7, from one frame; nothing is left in swap.",
    mutants: &[CACHE_FORGOTTEN],
    runs: &[Run::new(Model::Sc, Extent::Bound(2))],
    program: |_| {
        boxed(
            moving("migrate-vs-reclaim", cached)
                .cpu("reclaims, loads", |k| {
                    k.reclaim_noted();
                    assert_eq!(k.load(1, 0), Ok(7));
                })
                .check(one_frame),
        )
    },
};

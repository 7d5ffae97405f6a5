//! Page tables that come and go under whoever walks them.

use super::{
    Case, Extent, Mutant, Run,
    kernel::{Kernel, boxed, page, pages, scenario},
};
use crate::{Model, Sim};
use anonmem::{Advice, BlockEffort, CollapseLimits, FaultOutcome, LockMode, Prot};
use anonmem_hal::Order;
use anonmem_sync::{
    Ordering::{Acquire, Release},
    spin_until,
};

const RW: Prot = Prot::READ.union(Prot::WRITE);
const FREED: Mutant = Mutant::Patch {
    name: "gather-frees-tables-at-once",
    what: "tables that were unlinked are freed without a grace period",
};

/// The page of the case.
pub const SPECULATIVE: Case = Case {
    name: "table-freed-under-speculation",
    title: "a speculative fault stands in a table that munmap unlinks and the next grace period frees",
    happened: "Linux, the thread \"Don't assume page-table invariance\" (2018): a fault without locks must expect that the table it found is \
               freed and used again.",
    environment: "CPU0 stores, without any lock. CPU1 unmaps everything, with the mmap lock for writing, frees what waits as soon as it may, \
                  and takes frames.",
    rule: "A table outlives the read sections that may have found it.",
    mutants: &[
        FREED,
        Mutant::Patch {
            name: "speculative-outside-rcu",
            what: "a speculative fault walks outside of a read section",
        },
        Mutant::Patch { name: "reap-before-the-end", what: "tables are freed when a grace period has begun" },
    ],
    runs: &[Run::new(Model::Sc, Extent::Bound(2)), Run::new(Model::C11, Extent::Bound(1))],
    program: |_| {
        boxed(
            scenario("table-freed-under-speculation", 2, || mapped(LockMode::Speculative))
                .cpu("stores", |k| store_or_segv(k, 1))
                .cpu("unmaps, reaps, forks", |k| {
                    k.mm(0).munmap(pages(0, 2)).expect("frames");
                    k.vm.reap();
                    // Frames that were tables become something else.
                    k.fork(0, 1, &[1]).expect("frames");
                }),
        )
    },
};

/// The page of the case.
pub const SECOND_BATCH: Case = Case {
    name: "table-joins-running-grace-period",
    title: "a table that is unlinked joins others whose grace period is running already",
    happened: "Linux, call_rcu and its segments: a callback that is queued while a grace period runs must wait for the next one.",
    environment: "CPU0 stores twice, without any lock. CPU1 unmaps two ranges with a table each, and frees what may be freed: the first before \
                  CPU0's first store ends, the second after it.",
    rule: "A table waits for a grace period that began after it was unlinked.",
    mutants: &[
        Mutant::Patch {
            name: "dead-table-joins-running-period",
            what: "a table is added to those whose grace period is running",
        },
        FREED,
    ],
    runs: &[Run::new(Model::Sc, Extent::Bound(2)), Run::new(Model::C11, Extent::Bound(1))],
    program: |_| {
        let world = || {
            let kernel = mapped(LockMode::Speculative);
            kernel.map(0, 2, 1, RW);
            kernel.map(0, 8, 2, RW);
            kernel.store(0, 8, 1).expect("frames");
            kernel
        };
        boxed(
            scenario("table-joins-running-grace-period", 1, world)
                .cpu("stores twice", |k| {
                    store_or_segv(k, 1);
                    k.flag.store(1, Release);
                    store_or_segv(k, 2);
                })
                .cpu("unmaps, reaps, twice", |k| {
                    k.mm(0).munmap(pages(8, 2)).expect("frames");
                    k.vm.reap();
                    // The section that kept the first period from ending is over.
                    spin_until::<Sim>(&|| k.flag.load(Acquire) == 1);
                    k.mm(0).munmap(pages(0, 3)).expect("frames");
                    k.vm.reap();
                }),
        )
    },
};

/// The page of the case.
pub const RMAP: Case = Case {
    name: "table-freed-under-rmap-walk",
    title: "an rmap walk stands in a table that munmap frees",
    happened: "Linux, free_pgtables: \"Hide vma from rmap and truncate_pagecache before freeing pgtables\".",
    environment: "CPU0 walks the page's mappings, with a reference to it and the anon_vma's lock. CPU1 unmaps everything, with the mmap lock for \
                  writing, and frees what waits. CPU2 frees what waits, too.",
    rule: "Tables are freed after the VMA has left the reverse map.",
    mutants: &[Mutant::Patch {
        name: "munmap-frees-tables-before-unlink",
        what: "the tables go before the VMAs are unlinked from their anon_vmas",
    }],
    runs: &[Run::new(Model::Sc, Extent::Bound(2)), Run::new(Model::C11, Extent::Bound(2))],
    program: |_| {
        let world = || {
            let kernel = in_three_tables();
            kernel.hold(0, 16);
            kernel
        };
        boxed(
            scenario("table-freed-under-rmap-walk", 2, world)
                .cpu("walks the rmap", |k| assert!(k.walk_rmap() <= 1))
                .cpu("unmaps, drains", |k| {
                    k.mm(0).munmap(pages(0, 17)).expect("frames");
                    k.vm.drain();
                })
                .cpu("reaps", |k| {
                    k.vm.reap();
                }),
        )
    },
};

/// The page of the case.
pub const HARDWARE: Case = Case {
    name: "table-freed-under-hardware-walk",
    title: "the hardware walks a table that munmap frees",
    happened: "Linux, mmu_gather: tables are freed after the flush, which waits for walks that are under way (2018: \"mm/tlb, x86/mm: page-table \
               freeing must flush\").",
    environment: "CPU0 loads, CPU1 unmaps everything, with the mmap lock for writing, and frees what waits. CPU2 frees what waits, too.",
    rule: "A table is freed after every CPU that may be walking it has answered the flush.",
    mutants: &[Mutant::Patch {
        name: "gather-tables-before-flush",
        what: "tables are given up for freeing before the flush",
    }],
    runs: &[Run::new(Model::Sc, Extent::Bound(2)), Run::new(Model::C11, Extent::Bound(2))],
    program: |_| {
        boxed(
            scenario("table-freed-under-hardware-walk", 2, in_three_tables)
                .cpu("loads", |k| match k.load(0, 16) {
                    Ok(7) | Err(FaultOutcome::SegvMaperr) => {}
                    other => panic!("{other:?}"),
                })
                .cpu("unmaps, drains", |k| {
                    k.mm(0).munmap(pages(0, 17)).expect("frames");
                    k.vm.drain();
                    assert_eq!(k.load(0, 16), Err(FaultOutcome::SegvMaperr), "mapped after munmap");
                })
                .cpu("reaps", |k| {
                    k.vm.reap();
                }),
        )
    },
};

const ADDED: &str = "Two threads of one address space. The fault holds the VMA's lock for reading, and adds a table; munmap holds the mmap lock for \
                     writing.";

/// The page of the case.
pub const ADDED_BESIDE: Case = Case {
    name: "table-added-beside-munmap",
    title: "a fault adds a table under a VMA's lock while munmap frees those of a neighbour",
    happened: "Linux, free_pgd_range: floor and ceiling keep the tables that a neighbour may be filling. Since faults hold no mmap lock \
               (6.4), the neighbour need not have a page there yet.",
    environment: ADDED,
    rule: "A table goes only if all that it covers is a hole; the neighbour's store is there.",
    mutants: &[Mutant::Patch {
        name: "free-tables-ignores-above",
        what: "tables are freed up to their end, whoever is above",
    }],
    runs: &[Run::new(Model::Sc, Extent::Bound(2)), Run::new(Model::C11, Extent::Bound(1))],
    program: |_| {
        boxed(
            scenario("table-added-beside-munmap", 1, || neighbours(LockMode::Vma))
                .cpu("stores", |k| assert_eq!(k.store(0, 11, 8), Ok(())))
                .cpu("unmaps below", |k| {
                    // The hole reaches into the table that the store makes.
                    assert_eq!(k.store(0, 8, 6), Ok(()));
                    k.mm(0).munmap(pages(8, 2)).expect("frames");
                })
                .check(|k| match (k.load(0, 11), k.load(0, 8)) {
                    (Ok(8), Err(FaultOutcome::SegvMaperr)) => k.check(),
                    found => Err(format!("8 was stored, the page below was unmapped, found {found:?}")),
                }),
        )
    },
};

/// The page of the case.
pub const ADDED_UNDER: Case = Case {
    name: "table-added-under-munmap",
    title: "a fault adds a table to a VMA that munmap is taking away",
    happened: "Linux, vma_start_write before the tables are freed (6.4): the fault that was let in first may add a table after they were looked for.",
    environment: ADDED,
    rule: "The store happened before, or is a segmentation fault; no table is left.",
    mutants: &[Mutant::Patch {
        name: "vma-detach-no-wait",
        what: "a VMA is taken out without waiting for its readers",
    }],
    runs: &[Run::new(Model::Sc, Extent::Bound(2)), Run::new(Model::C11, Extent::Bound(1))],
    program: |_| {
        boxed(
            scenario("table-added-under-munmap", 1, || neighbours(LockMode::Vma))
                .cpu("stores", |k| match k.store(0, 11, 8) {
                    Ok(()) | Err(FaultOutcome::SegvMaperr) => {}
                    other => panic!("{other:?}"),
                })
                .cpu("unmaps", |k| k.mm(0).munmap(pages(6, 10)).expect("frames"))
                .check(|k| match k.load(0, 11) {
                    Err(FaultOutcome::SegvMaperr) => k.check(),
                    other => Err(format!("{other:?} where nothing is mapped"))?,
                }),
        )
    },
};

/// The page of the case.
pub const ADDED_TWICE: Case = Case {
    name: "table-added-twice",
    title: "two faults add the same table",
    happened: "Linux, __pte_alloc: \"Another has populated it\".",
    environment: "Two threads of one address space store to two pages of one table that is not there, each with the VMA's lock for reading.",
    rule: "One table is added; neither store is lost, and nothing leaks.",
    mutants: &[
        Mutant::Patch {
            name: "table-added-without-second-look",
            what: "a table is added without looking for another's",
        },
        Mutant::Patch { name: "table-lost-race-leaks", what: "the table that came second is not freed" },
    ],
    runs: &[Run::new(Model::Sc, Extent::Bound(2)), Run::new(Model::C11, Extent::Bound(2))],
    program: |_| {
        boxed(
            scenario("table-added-twice", 1, || neighbours(LockMode::Vma))
                .cpu("stores", |k| assert_eq!(k.store(0, 11, 8), Ok(())))
                .cpu("stores beside", |k| assert_eq!(k.store(0, 12, 9), Ok(())))
                .check(|k| match (k.load(0, 11), k.load(0, 12)) {
                    (Ok(8), Ok(9)) => k.check(),
                    found => Err(format!("8 and 9 were stored, found {found:?}")),
                }),
        )
    },
};

/// The page of the case.
pub const BECOMES_LEAF: Case = Case {
    name: "table-becomes-leaf-after-fault",
    title: "a fault under a VMA's lock reads a table that collapse takes away",
    happened: "Linux, collapse_huge_page: vma_start_write before the table goes (6.4), because a fault may stand in the table with nothing but \
               the VMA's lock. No detach waits for the fault, as munmap's does, and its read section is over.",
    environment: "CPU0 loads a page that is in swap: all that it does under the VMA's lock is to read the entry. CPU1 brings the page back, makes \
                  the table a leaf, frees what waits, and takes frames.",
    rule: "Whatever a fault did under the VMA's lock happens before the table is freed.",
    mutants: &[Mutant::Patch {
        name: "collapse-leaf-without-vma-lock",
        what: "a table becomes a leaf without waiting for the readers of its VMA",
    }],
    runs: &[Run::new(Model::Sc, Extent::Bound(2))],
    program: |_| {
        let world = || {
            let kernel = Kernel::new(96, LockMode::Vma);
            kernel.swap_on(0, 8);
            kernel.spawn(0, &[0, 1]);
            kernel.map(0, 0, 8, RW);
            (0..8).for_each(|nth| kernel.store(0, nth, 7).expect("frames"));
            kernel.page_out(0, 1);
            kernel
        };
        boxed(
            scenario("table-becomes-leaf-after-fault", 1, world)
                .cpu("loads", |k| assert_eq!(k.load(0, 1), Ok(7)))
                .cpu("makes a leaf, reaps, forks", |k| {
                    // With the mmap lock: the VMA's is not touched.
                    k.madvise(0, 1, Advice::PopulateWrite);
                    let order = Order::new(3);
                    // A page that is just being mapped is in the way.
                    let _ = k.mm(0).collapse(page(0), order, CollapseLimits::ANY, BlockEffort::Free);
                    k.vm.reap();
                    // A frame that was a table becomes something else.
                    k.fork(0, 1, &[1]).expect("frames");
                })
                .check(|k| match (k.load(0, 0), k.load(0, 1)) {
                    (Ok(7), Ok(7)) => k.check(),
                    found => Err(format!("7 was stored, found {found:?}")),
                }),
        )
    },
};

/// Two pages in a table of their own, of which the first says 7.
fn mapped(mode: LockMode) -> Kernel {
    let kernel = Kernel::new(64, mode);
    kernel.spawn(0, &[0, 1]);
    kernel.map(0, 0, 2, RW);
    kernel.store(0, 0, 7).expect("frames");
    kernel
}

/// Pages in three tables. Those of the last are given up first, and may be free when the others are.
pub(super) fn in_three_tables() -> Kernel {
    let kernel = Kernel::new(64, LockMode::Mmap);
    kernel.spawn(0, &[0, 1]);
    kernel.map(0, 0, 17, RW);
    for n in [0, 8, 16] {
        // CPU0 has no translation, and walks.
        Sim::on_cpu(1, || kernel.store_here(0, n, 0, 7)).expect("frames");
    }
    kernel
}

/// Two VMAs with anon_vmas, each of which reaches into a table that is not there, and whose hole between them
/// is there too.
fn neighbours(mode: LockMode) -> Kernel {
    let kernel = Kernel::new(64, mode);
    kernel.spawn(0, &[0, 1]);
    kernel.map(0, 6, 4, RW);
    kernel.map(0, 11, 6, RW.union(Prot::EXEC));
    kernel.store(0, 6, 7).expect("frames");
    kernel.store(0, 16, 7).expect("frames");
    kernel
}

fn store_or_segv(k: &Kernel, page: u64) {
    match k.store(0, page, 8) {
        Ok(()) | Err(FaultOutcome::SegvMaperr) => {}
        other => panic!("{other:?}"),
    }
}

//! Entries that a migration takes, or leaves behind, while they change in another way.

use super::{
    Case, Extent, Mutant, Run,
    kernel::{Kernel, P, boxed, over, page, pages, scenario},
};
use crate::{Model, Sim};
use anonmem::{Advice, FaultOutcome, LockMode, Prot, ReverseMapChoice::Families};
use anonmem_frame::Mapping;
use anonmem_hal::Pfn;

const RW: Prot = Prot::READ.union(Prot::WRITE);
const BOUND: &[Run] = &[Run::new(Model::Sc, Extent::Bound(2)), Run::new(Model::C11, Extent::Bound(1))];

/// A program of `cpus` with a leaf of eight pages, which the last of them knows. Page 1 says 7. The frame is
/// noted.
fn leaf(cpus: &[u32]) -> Kernel {
    let kernel = Kernel::new(96, LockMode::Mmap);
    kernel.spawn(0, cpus);
    kernel.map(0, 0, 8, RW);
    assert!(kernel.mm(0).fault_leaf(page(0)), "a folio of eight pages");
    let last = *cpus.last().expect("a CPU");
    Sim::on_cpu(last as usize, || kernel.store_here(0, 1, 0, 7)).expect("mapped");
    kernel.note_frame(0, 0);
    kernel
}

/// A program of two CPUs with `n` pages that say 7. That of page 0 is noted.
fn alone(n: u64) -> Kernel {
    let kernel = Kernel::new(64, LockMode::Mmap);
    kernel.spawn(0, &[0, 1]);
    kernel.map(0, 0, n, RW);
    (0..n).for_each(|nth| kernel.store(0, nth, 7).expect("frames"));
    kernel.note_frame(0, 0);
    kernel
}

/// Page `n` says `value`.
fn finds(k: &Kernel, n: u64, value: u64) -> Result<(), String> {
    match k.load(0, n) {
        Ok(found) if found == value => Ok(()),
        other => Err(format!("page {n}: {other:?}, not {value}")),
    }
}

/// Whether an entry maps the page in the frame as its program's own.
fn may_be_written(k: &Kernel, frame: Option<Pfn>) -> bool {
    frame.and_then(|frame| k.vm.frames().folio(frame)).is_some_and(|folio| folio.counts().is_exclusive())
}

/// The page of the case.
pub const LATE_FLUSH: Case = Case {
    name: "migrate-leaf-vs-late-flush",
    title: "a leaf moves whose permissions are gone from the entry, and not yet from every CPU",
    happened: "This memory manager: a leaf that may not be read was taken for one that no CPU knows. mprotect changes the entry first, and flushes when it \
               has changed all of them. Linux, mm/mprotect.c change_pte_range and mm_tlb_flush_pending: the same for NUMA hints.",
    environment: "CPU1 takes all permissions from a leaf, with the mmap lock for writing. CPU0 moves its folio. CPU2, a thread of the program, stores by \
                  the translation that it has, until it is flushed.",
    rule: "The store is refused, or is found in the folio's new place.",
    mutants: &[Mutant::Patch {
        name: "leaf-trap-believes-permissions",
        what: "a leaf without permissions is not flushed before it goes",
    }],
    runs: &[Run::new(Model::Sc, Extent::Bound(1))],
    program: |_| {
        boxed(
            scenario("migrate-leaf-vs-late-flush", 1, || leaf(&[0, 1, 2]))
                .cpu("moves the folio", |k| {
                    k.migrate_noted();
                })
                .cpu("takes permissions", |k| {
                    k.mm(0).mprotect(pages(0, 8), Prot::empty()).expect("no memory is needed");
                })
                .cpu("stores", |k| match k.store_here(0, 1, 0, 8) {
                    Ok(()) => k.notes[0].set(1),
                    Err(FaultOutcome::SegvAccerr) => {}
                    Err(other) => panic!("{other:?}"),
                })
                .check(|k| {
                    k.mm(0).mprotect(pages(0, 8), RW).map_err(|e| e.to_string())?;
                    finds(k, 1, 7 + k.notes[0].get())?;
                    k.check()
                }),
        )
    },
};

const LEFT: &str = "Linux, mm/migrate.c remove_migration_ptes: a walk that misses an entry leaves it waiting for ever. Here the fault that meets it puts the \
                    page back. This memory manager let go of the table first, and of the folio's lock afterwards, when the page could be free.";
const BOTH_FAULT: &str = "The entries of a page say that it migrates, and nobody moves it. CPU0 loads it. CPU1, a thread of the program, moves it if it is not \
                          locked, and drops it. Both hold the mmap lock for reading.";

/// The page of the case.
pub const LEFT_BEHIND: Case = Case {
    name: "migrate-left-behind-vs-zap",
    title: "a fault puts a page back that a migration left behind, while the page is dropped",
    happened: LEFT,
    environment: BOTH_FAULT,
    rule: "The page is freed, once, and unlocked.",
    mutants: &[Mutant::Patch {
        name: "left-behind-unlocks-table-first",
        what: "the lock of the folio is let go after that of the table, when nothing keeps the folio",
    }],
    runs: BOUND,
    program: |_| {
        boxed(
            scenario("migrate-left-behind-vs-zap", 1, || {
                let kernel = alone(1);
                kernel.leave_noted_behind();
                kernel
            })
            .cpu("loads", |k| assert!(matches!(k.load(0, 0), Ok(0 | 7))))
            .cpu("moves, drops", |k| {
                k.migrate_noted();
                k.madvise(0, 0, Advice::DontNeed);
            })
            .check(|k| {
                finds(k, 0, 0)?;
                k.check()
            }),
        )
    },
};

/// The page of the case.
pub const LEAF_LEFT_BEHIND: Case = Case {
    name: "migrate-leaf-left-behind-vs-zap",
    title: "a fault puts a leaf back that a migration left behind, while its folio is dropped",
    happened: LEFT,
    environment: BOTH_FAULT,
    rule: "The folio is freed, once, and unlocked.",
    mutants: &[Mutant::Patch {
        name: "leaf-left-behind-unlocks-table-first",
        what: "the lock of the folio is let go after that of the table, when nothing keeps the folio",
    }],
    runs: BOUND,
    program: |_| {
        boxed(
            scenario("migrate-leaf-left-behind-vs-zap", 1, || {
                let kernel = leaf(&[0, 1]);
                kernel.leave_noted_behind();
                kernel
            })
            .cpu("loads", |k| assert!(matches!(k.load(0, 1), Ok(0 | 7))))
            .cpu("moves, drops", |k| {
                k.migrate_noted();
                k.mm(0).madvise(page(0), 8 * P, Advice::DontNeed).expect("private memory");
            })
            .check(|k| {
                finds(k, 1, 0)?;
                k.check()
            }),
        )
    },
};

const WINDOW: &str = "This memory manager, over families: munmap takes a mapping out of the tree of its address space, and then empties its entries. A walk that \
                      comes between meets none of them. With anon_vmas the mapping is unlinked when its entries are empty.";

/// The page of the case.
pub const MUNMAP: Case = Case {
    name: "migrate-vs-munmap-of-family",
    title: "a page is said to have moved while the mapping that goes still has it",
    happened: WINDOW,
    environment: "Families. CPU0 moves a page of one mapping to another frame. CPU1 unmaps it, with the mmap lock for writing.",
    rule: "Whoever is told that a page went finds nothing in its frame that a program may write to.",
    mutants: &[Mutant::Patch {
        name: "migrate-believes-walk",
        what: "an exclusive page that the walk took from no entry is taken for gone",
    }],
    runs: BOUND,
    program: |_| {
        boxed(
            scenario("migrate-vs-munmap-of-family", 1, || over(Families, || alone(1)))
                .cpu("moves the page", |k| {
                    if k.migrate_noted() {
                        assert!(!may_be_written(k, k.noted_frame()), "the page went, and may be written");
                    }
                })
                .cpu("unmaps it", |k| k.mm(0).munmap(pages(0, 1)).expect("no memory is needed"))
                .check(Kernel::check),
        )
    },
};

/// The page of the case.
pub const MERGE: Case = Case {
    name: "ksm-vs-munmap-of-family",
    title: "a page is merged while the mapping that goes still lets CPUs write to it",
    happened: WINDOW,
    environment: "Families. Pages 0 and 1 of a program say 7. CPU0 merges them: page 0 becomes the page of both. CPU1 unmaps page 0, with the mmap lock for \
                  writing.",
    rule: "What is merged may be written by nobody.",
    mutants: &[Mutant::Patch {
        name: "ksm-believes-walk",
        what: "an exclusive page that the walk took from no entry becomes everybody's",
    }],
    runs: BOUND,
    program: |_| {
        let world = || {
            let kernel = alone(1);
            kernel.map(0, 1, 1, RW);
            kernel.store(0, 1, 7).expect("frames");
            kernel.mm(0).madvise(page(0), 2 * P, Advice::Mergeable).expect("frames");
            (0..2).for_each(|nth| kernel.look_for_equal(0, nth));
            kernel.look_for_equal(0, 0);
            kernel.notes[0].set(kernel.frame_of(0, 0).expect("present").0);
            kernel.note_frame(0, 1);
            kernel
        };
        boxed(
            scenario("ksm-vs-munmap-of-family", 1, move || over(Families, world))
                .cpu("merges equal pages", |k| {
                    k.look_at_noted();
                    let kept = Pfn(k.notes[0].get());
                    let merged = k.vm.frames().folio(kept).map(|folio| folio.mapping());
                    if matches!(merged, Some(Mapping::Ksm(_))) {
                        assert!(!may_be_written(k, Some(kept)), "a merged page may be written");
                    }
                })
                .cpu("unmaps page 0", |k| k.mm(0).munmap(pages(0, 1)).expect("no memory is needed"))
                .check(|k| {
                    finds(k, 1, 7)?;
                    k.check()
                }),
        )
    },
};

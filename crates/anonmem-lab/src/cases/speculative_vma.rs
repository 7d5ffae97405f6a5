//! What a fault without the mmap lock takes for known of a VMA that is changed.

use super::{
    Case, Extent, Mutant, Run,
    kernel::{Kernel, P, boxed, page, pages, scenario},
};
use crate::{Model, Program};
use anonmem::{Advice, Error, FaultOutcome, LockMode, Prot};

const RW: Prot = Prot::READ.union(Prot::WRITE);

/// The page of the case.
pub const HALVES: Case = Case {
    name: "speculative-wrong-half",
    title: "a speculative fault judges by the half of a VMA that its address is no longer in",
    happened: "Linux, the series \"Speculative page faults\" (2017-2018): flags and range were read at different times, which the \
               sequence count must tell, also where the fault ends in a signal and never takes a page-table lock.",
    environment: "A store holds nothing. Another thread makes the first page of the VMA read-only; the store is to the second.",
    rule: "The store succeeds: its page was writable all the time.",
    mutants: &[Mutant::Patch {
        name: "speculative-range-unchecked",
        what: "whether the VMA still covers the address is not asked",
    }],
    runs: &[Run::new(Model::Sc, Extent::Bound(2)), Run::new(Model::C11, Extent::Bound(1))],
    program: halves,
};

fn world() -> Kernel {
    let kernel = Kernel::new(48, LockMode::Speculative);
    kernel.spawn(0, &[0, 1]);
    kernel.map(0, 0, 2, RW);
    kernel.map(0, 5, 1, RW);
    // There is an anon_vma and a page table, which stays: a fault needs no lock.
    kernel.store(0, 0, 1).expect("frames");
    kernel.store(0, 5, 1).expect("frames");
    kernel
}

fn halves(_: Option<&str>) -> Box<dyn Program> {
    boxed(
        scenario("speculative-wrong-half", 1, world)
            .cpu("stores to page 1", |k| assert_eq!(k.store(0, 1, 7), Ok(())))
            .cpu("makes page 0 read-only", |k| k.mm(0).mprotect(pages(0, 1), Prot::READ).expect("frames"))
            .check(|k| match k.load(0, 1) {
                Ok(7) => k.check(),
                other => Err(format!("7 was stored, found {other:?}")),
            }),
    )
}

const LAST_VMA: Mutant = Mutant::Patch {
    name: "last-vma-believed-unlocked",
    what: "the VMA that a CPU found last counts as unlocked, whatever its version is",
};
const LAST_RUNS: &[Run] = &[Run::new(Model::Sc, Extent::Bound(2)), Run::new(Model::C11, Extent::Bound(2))];

/// The page of the case.
pub const LAST_SPECULATIVE: Case = Case {
    name: "last-vma-locked-speculative",
    title: "a fault finds the VMA of its CPU's last one, which is being unmapped",
    happened: "What this memory manager must keep: a CPU remembers at which version a VMA was unlocked, so that faults do not \
               read the sequence that whoever maps changes.",
    environment: "A store holds nothing; its CPU has faulted in the same VMA before. Another thread unmaps it.",
    rule: "The store is refused, or its page is gone with the others: nothing is left behind.",
    mutants: &[LAST_VMA],
    runs: LAST_RUNS,
    program: |_| {
        boxed(
            scenario("last-vma-locked-speculative", 1, || last_vma_world(LockMode::Speculative))
                .cpu("stores to page 2", |k| stored_or_refused(k, 2))
                .cpu("unmaps", |k| k.mm(0).munmap(pages(0, 3)).expect("frames"))
                .check(Kernel::check),
        )
    },
};

/// The page of the case.
pub const LAST_VMA_LOCK: Case = Case {
    name: "last-vma-locked-vma-lock",
    title: "a fault locks the VMA of its CPU's last one, whose permissions are being taken away",
    happened: "As without any lock. munmap waits for its readers once more when it takes a VMA out; mprotect waits once.",
    environment: "A store takes the VMA's lock; its CPU has faulted in the same VMA before. Another thread makes the VMA read-only.",
    rule: "When mprotect is back, no entry may be written.",
    mutants: &[LAST_VMA],
    runs: LAST_RUNS,
    program: |_| {
        boxed(
            scenario("last-vma-locked-vma-lock", 2, || last_vma_world(LockMode::Vma))
                .cpu("stores to page 2", |k| match k.store(0, 2, 7) {
                    Ok(()) | Err(FaultOutcome::SegvAccerr) => {}
                    Err(other) => panic!("{other:?}"),
                })
                .cpu("makes it read-only", |k| {
                    k.mm(0).mprotect(pages(0, 3), Prot::READ).expect("no memory is needed");
                })
                .check(|k| match k.store(0, 2, 8) {
                    Err(FaultOutcome::SegvAccerr) => k.check(),
                    other => Err(format!("a store to what may not be written: {other:?}")),
                }),
        )
    },
};

/// A program of both CPUs, with three pages, the last of which is not there yet.
fn last_vma_world(mode: LockMode) -> Kernel {
    let kernel = Kernel::new(48, mode);
    kernel.spawn(0, &[0, 1]);
    kernel.map(0, 0, 3, RW);
    kernel.map(0, 5, 1, RW);
    // The table stays. The last fault of the CPU is one that needs no mmap lock.
    for page in [5, 0, 1] {
        kernel.store(0, page, 1).expect("frames");
    }
    kernel
}

/// Stores to page `n`, if it is mapped.
fn stored_or_refused(k: &Kernel, n: u64) {
    match k.store(0, n, 7) {
        Ok(()) | Err(FaultOutcome::SegvMaperr) => {}
        Err(other) => panic!("{other:?}"),
    }
}

/// The page of the case.
pub const ANOTHER: Case = Case {
    name: "speculative-version-of-another",
    title: "a fault takes what its CPU knows of another VMA for knowledge of its own",
    happened: "What this memory manager must keep: versions count the write locks of one VMA, and those of two VMAs may be equal.",
    environment: "A store holds nothing; its CPU knows of another VMA that it was unlocked at a version. The VMA of the store has \
                  just this version while it is unmapped.",
    rule: "The store is refused, or its page is gone with the others: nothing is left behind.",
    mutants: &[Mutant::Patch {
        name: "last-version-of-another-vma",
        what: "the version that was remembered of one VMA counts for the next one that is found",
    }],
    runs: LAST_RUNS,
    program: another,
};

fn another(_: Option<&str>) -> Box<dyn Program> {
    let world = || {
        let kernel = Kernel::new(48, LockMode::Speculative);
        kernel.spawn(0, &[0, 1]);
        kernel.map(0, 0, 2, RW);
        kernel.map(0, 3, 2, RW);
        for page in [0, 3] {
            kernel.store(0, page, 1).expect("frames");
        }
        // One write lock more than the VMA of page 3 has seen, which sees as many when it is unmapped.
        kernel.mm(0).mprotect(pages(0, 2), Prot::READ).expect("frames");
        assert_eq!(kernel.load(0, 1), Ok(0));
        kernel
    };
    boxed(
        scenario("speculative-version-of-another", 1, world)
            .cpu("stores to page 4", |k| stored_or_refused(k, 4))
            .cpu("unmaps", |k| k.mm(0).munmap(pages(3, 2)).expect("frames"))
            .check(Kernel::check),
    )
}

/// The page of the case.
pub const DROPPED: Case = Case {
    name: "dontneed-vs-munmap-vma-lock",
    title: "pages are dropped under the lock of their VMA while it is unmapped, tables and all",
    happened: "Linux 6.16 drops pages under the VMA's lock (mm/madvise.c, try_vma_read_lock), as faults do.",
    environment: "MADV_DONTNEED holds the VMA's lock for reading; munmap holds the mmap lock for writing.",
    rule: "munmap waits, or the advice finds no mapping: no table is read that is free, and every page is freed once.",
    mutants: &[Mutant::Patch {
        name: "vma-detach-no-wait",
        what: "a VMA is taken out without waiting for its readers",
    }],
    runs: LAST_RUNS,
    program: |_| {
        let world = || {
            let kernel = Kernel::new(48, LockMode::Vma);
            kernel.spawn(0, &[0, 1]);
            kernel.map(0, 0, 2, RW);
            (0..2).for_each(|page| kernel.store(0, page, 1).expect("frames"));
            kernel
        };
        boxed(
            scenario("dontneed-vs-munmap-vma-lock", 1, world)
                .cpu("drops two pages", |k| {
                    let answer = k.mm(0).madvise(page(0), 2 * P, Advice::DontNeed);
                    assert!(matches!(answer, Ok(()) | Err(Error::NotMapped)), "{answer:?}");
                })
                .cpu("unmaps", |k| k.mm(0).munmap(pages(0, 2)).expect("frames"))
                .check(Kernel::check),
        )
    },
};

//! A VMA is found without a lock, and is another one by the time that it is locked.

use super::{
    Case, Extent, Mutant, Run,
    kernel::{Kernel, boxed, pages, scenario},
};
use crate::{Model, Program};
use anonmem::{FaultOutcome, LockMode, Prot};

const RW: Prot = Prot::READ.union(Prot::WRITE);
const RUNS: &[Run] = &[Run::new(Model::Sc, Extent::Bound(2)), Run::new(Model::C11, Extent::Bound(1))];

const RECYCLED: &str = "Linux, 2024, when VMAs became SLAB_TYPESAFE_BY_RCU: a VMA that was found in the tree may have been freed, and \
                        its slot may serve another address space or another address, before its lock is taken.";

/// The page of the case.
pub const EARLY_READ: Case = Case {
    name: "vma-lock-early-read",
    title: "a fault decides from a VMA's anon_vma that it has read before it owned the VMA's lock",
    happened: "Linux, CVE-2024-1312: lock_vma_under_rcu tested vma->anon_vma, then took the lock of the VMA. In between the \
               mapping was replaced, and the fault went on with what it had decided about the old one.",
    environment: "CPU0 faults under the VMA's lock. CPU1 unmaps and maps anew, each with the mmap lock for writing.",
    rule: "What is decided from fields of a VMA is decided, or decided again, under its lock: a page gets the anon_vma that the \
           VMA has now, and none that was freed.",
    mutants: &[Mutant::Patch {
        name: "vma-lock-early-read",
        what: "the anon_vma is read before the VMA is locked",
    }],
    runs: RUNS,
    program: |_| {
        boxed(
            scenario("vma-lock-early-read", 1, || world(LockMode::Vma))
                .cpu("stores", |k| match k.store(0, 1, 8) {
                    Ok(()) | Err(FaultOutcome::SegvMaperr) => {}
                    other => panic!("{other:?}"),
                })
                .cpu("unmaps, maps anew", |k| {
                    k.mm(0).munmap(pages(0, 2)).expect("frames");
                    k.map(0, 0, 2, RW);
                })
                .check(|k| match k.load(0, 1) {
                    Ok(0 | 8) => k.check(),
                    other => Err(format!("neither empty nor stored to: {other:?}")),
                }),
        )
    },
};

/// The page of the case.
pub const ANOTHER_MM: Case = Case {
    name: "vma-recycled-under-lookup",
    title: "a fault locks a VMA that belongs to another address space by now",
    happened: RECYCLED,
    environment: "CPU0 faults under the VMA's lock. CPU1 unmaps, then maps in another address space; each with that one's mmap \
                  lock for writing.",
    rule: "Owner and bounds are asked after the lock is taken. A VMA that only looks locked costs a retry, never more.",
    mutants: &[Mutant::Patch {
        name: "vma-lock-any-owner",
        what: "whoever the VMA belongs to by now, it is taken for the one that was found",
    }],
    runs: RUNS,
    program: |_| recycled("vma-recycled-under-lookup", LockMode::Vma, MAPS_IN_ANOTHER),
};

/// The page of the case.
pub const ELSEWHERE: Case = Case {
    name: "vma-recycled-elsewhere",
    title: "a fault locks a VMA that lies at another address by now",
    happened: RECYCLED,
    environment: "CPU0 faults under the VMA's lock. CPU1 unmaps, then maps at another address, with the mmap lock for writing.",
    rule: "As in vma-recycled-under-lookup.",
    mutants: &[Mutant::Patch {
        name: "vma-lock-any-bounds",
        what: "the bounds of the VMA are not asked when it is locked",
    }],
    runs: RUNS,
    program: |_| recycled("vma-recycled-elsewhere", LockMode::Vma, MAPS_ELSEWHERE),
};

/// The page of the case.
pub const ANOTHER_MM_SPECULATIVE: Case = Case {
    name: "vma-recycled-under-speculation",
    title: "a fault without any lock reads a VMA that belongs to another address space by now",
    happened: RECYCLED,
    environment: "CPU0 faults without any lock. CPU1 unmaps, then maps in another address space; each with that one's mmap lock \
                  for writing.",
    rule: "Owner and bounds are asked after the version was read: whatever changes them later changes the version.",
    mutants: &[
        Mutant::Patch {
            name: "speculative-any-owner",
            what: "whoever the VMA belongs to by now, it is taken for the one that was found",
        },
        Mutant::Patch {
            name: "vma-attach-one-version",
            what: "a slot's new use sets the sequence before the version changes",
        },
        Mutant::Patch {
            name: "vma-version-no-fence",
            what: "nothing orders a new version before what the writer changes",
        },
    ],
    runs: RUNS,
    program: |_| recycled("vma-recycled-under-speculation", LockMode::Speculative, MAPS_IN_ANOTHER),
};

/// The page of the case.
pub const STALE: Case = Case {
    name: "vma-published-unordered",
    title: "a fault locks a new VMA and reads what its slot said before",
    happened: RECYCLED,
    environment: "CPU0 has found the VMA before, and asks it first, without looking into the tree; it loads under the VMA's lock. CPU1 \
                  unmaps, then maps the same range without any permission, each with the mmap lock for writing.",
    rule: "Whoever has counted himself in a VMA's lock sees all that was written before the VMA was published: after CPU1 has \
           returned nobody can load.",
    mutants: &[Mutant::Patch {
        name: "vma-attach-unordered",
        what: "nothing orders a VMA's fields before its publication, or a new version before a change",
    }],
    runs: RUNS,
    program: |_| {
        boxed(
            scenario("vma-published-unordered", 1, || world(LockMode::Vma))
                .cpu("loads", |k| match k.load(0, 1) {
                    Ok(0) | Err(FaultOutcome::SegvMaperr | FaultOutcome::SegvAccerr) => {}
                    other => panic!("{other:?}"),
                })
                .cpu("maps anew, closed", |k| {
                    k.mm(0).munmap(pages(0, 2)).expect("frames");
                    k.map(0, 0, 2, Prot::empty());
                })
                .check(|k| match k.load(0, 1) {
                    Err(FaultOutcome::SegvAccerr) => k.check(),
                    other => Err(format!("loaded {other:?} from a mapping that allows nothing")),
                }),
        )
    },
};

/// What CPU1 does, and its caption.
type Reuse = (&'static str, fn(&Kernel));

const MAPS_IN_ANOTHER: Reuse = ("unmaps, maps for another", |k| {
    k.mm(0).munmap(pages(0, 2)).expect("frames");
    k.map(1, 0, 2, RW);
});

const MAPS_ELSEWHERE: Reuse = ("unmaps, maps elsewhere", |k| {
    k.mm(0).munmap(pages(0, 2)).expect("frames");
    k.map(0, 16, 2, RW);
});

/// CPU0 loads from a mapping that goes, and whose VMA is used again.
fn recycled(name: &str, mode: LockMode, (caption, reuse): Reuse) -> Box<dyn Program> {
    boxed(
        scenario(name, 1, move || world(mode))
            .cpu("loads", |k| match k.load(0, 1) {
                Ok(0) | Err(FaultOutcome::SegvMaperr) => {}
                other => panic!("{other:?}"),
            })
            .cpu(caption, reuse)
            .check(|k| match k.load(0, 1) {
                Err(FaultOutcome::SegvMaperr) => k.check(),
                other => Err(format!("loaded {other:?} where nothing is mapped")),
            }),
    )
}

/// Two address spaces; the first has two pages, the second of which is not there yet, in a table that stays.
fn world(mode: LockMode) -> Kernel {
    let kernel = Kernel::new(64, mode);
    kernel.spawn(0, &[0, 1]);
    kernel.spawn(1, &[]);
    kernel.map(0, 0, 2, RW);
    kernel.map(0, 5, 1, RW);
    kernel.store(0, 0, 7).expect("frames");
    kernel.store(0, 5, 7).expect("frames");
    kernel
}

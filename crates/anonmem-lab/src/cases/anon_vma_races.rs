//! Two who make, count and drop anon_vmas of one family, and a walk that meets a page being replaced.

use super::{
    Case, Extent, Mutant, Run,
    kernel::{Kernel, boxed, scenario},
};
use crate::{Model, Program};
use anonmem::{LockMode, Prot};
use anonmem_hal::Pfn;

const RW: Prot = Prot::READ.union(Prot::WRITE);

/// The page of the case.
pub const FIRST_FAULTS: Case = Case {
    name: "anon-vma-two-first-faults",
    title: "two threads give one VMA its first anon_vma",
    happened: "The ordinary life of a program with threads: Linux decides it in __anon_vma_prepare under the lock of the \
               anon_vma and the page-table lock, and whoever comes second gives everything back.",
    environment: "Two threads of one address space hold its mmap lock for reading. Each touches its own page of a new \
                  VMA, then of another one that could merge with the first.",
    rule: "The VMA has one anon_vma, and nothing is left of the other; a neighbour's is not given back.",
    mutants: &[
        Mutant::Patch {
            name: "anon-vma-lost-race",
            what: "who comes second leaves his anon_vma and his link behind",
        },
        Mutant::Patch {
            name: "table-published-unordered",
            what: "a table is linked without ordering its zeroes before it",
        },
    ],
    runs: &[Run::new(Model::Sc, Extent::Bound(2)), Run::new(Model::C11, Extent::Bound(1))],
    program: first_faults,
};

/// The page of the case.
pub const FORK_AND_EXIT: Case = Case {
    name: "anon-vma-fork-vs-exit",
    title: "a child's anon_vma is counted while a brother's is dropped",
    happened: "Linux, 2022, the repair of CVE-2022-42703: the counts of VMAs and children are changed under the root's \
               lock, also for an anon_vma that nobody knows yet, because its parent is known.",
    environment: "A parent forks on one CPU while its other child exits on another.",
    rule: "All counts of a family change under the lock of its root.",
    mutants: &[Mutant::Patch {
        name: "anon-vma-counted-unlocked",
        what: "fork counts the child without the lock",
    }],
    runs: &[Run::new(Model::Sc, Extent::Bound(1)), Run::new(Model::C11, Extent::Bound(2))],
    program: fork_and_exit,
};

/// The page of the case.
pub const WALK_AND_COPY: Case = Case {
    name: "rmap-walk-vs-copy",
    title: "a walk looks at an entry without its lock, and a fault replaces the page",
    happened: "Linux, page_vma_mapped_walk: the entry is looked at before the page-table lock is taken, to pass over those \
               that map something else; what was seen is compared again under the lock.",
    environment: "A shared page is swapped out on one CPU; on another the child writes it, and gets a copy.",
    rule: "Only entries that map the page under the page-table lock are changed: the child's copy stays.",
    mutants: &[Mutant::Patch {
        name: "rmap-trusts-first-look",
        what: "the entry is not compared again under the lock",
    }],
    runs: &[Run::new(Model::Sc, Extent::Bound(1))],
    program: walk_and_copy,
};

/// The page of the case.
pub const LAST_PUT: Case = Case {
    name: "anon-vma-last-put",
    title: "an anon_vma is freed and used again while its last user but one has only just let go",
    happened: "Every reference count: who frees must see all that the others did with the object (Linux: refcount_dec_and_test \
               orders it). Here the slot goes to another family, whose lock is another one.",
    environment: "Parent and child exit on two CPUs. The one that frees the parent's anon_vma forks another program then, whose \
                  child gets the slot.",
    rule: "Whatever was done to the anon_vma happens before it is used again.",
    mutants: &[Mutant::Patch {
        name: "anon-vma-relaxed-put",
        what: "the last reference is put without an order",
    }],
    runs: &[Run::new(Model::C11, Extent::Bound(2))],
    program: last_put,
};

/// The page of the case.
pub const WALK_AND_REUSE: Case = Case {
    name: "rmap-walk-vs-reuse",
    title: "a page gets another anon_vma while a walk waits for the lock of the old one",
    happened: "Linux, folio_lock_anon_vma_read: folio->mapping is compared again under the lock, and the lock given back if it is \
               another one by now (2023, for UFFDIO_MOVE).",
    environment: "A child has a page alone that was its parent's, and writes it. A walker comes without the folio lock.",
    rule: "A walk that has locked what is no longer the page's anon_vma lets go and begins anew.",
    mutants: &[Mutant::Patch {
        name: "rmap-keeps-lock",
        what: "the walk keeps the lock when it begins anew",
    }],
    runs: &[Run::new(Model::Sc, Extent::Bound(2)), Run::new(Model::C11, Extent::Bound(2))],
    program: walk_and_reuse,
};

/// The page of the case.
pub const REUSE_AND_LOCK: Case = Case {
    name: "wp-reuse-vs-folio-lock",
    title: "a write wants a page for itself alone that somebody has just locked",
    happened: "Linux, do_wp_page: the folio lock is only tried under the page-table lock, and a page that is locked is copied.",
    environment: "A child has a page alone that was its parent's, and writes it. Reclaim locks the page, finds no swap, and lets go.",
    rule: "Whoever could not make the page exclusive does not write it.",
    mutants: &[Mutant::Patch {
        name: "wp-reuse-locked",
        what: "a page whose lock is taken is written all the same",
    }],
    runs: &[Run::new(Model::Sc, Extent::Bound(2)), Run::new(Model::C11, Extent::Bound(2))],
    program: reuse_and_lock,
};

fn first_faults(_: Option<&str>) -> Box<dyn Program> {
    let world = || {
        let kernel = Kernel::new(48, LockMode::Mmap);
        kernel.spawn(0, &[0, 1]);
        kernel.map(0, 0, 2, RW);
        kernel.map(0, 2, 2, RW.union(Prot::EXEC));
        kernel
    };
    let stores = |own: u64| {
        move |k: &Kernel| {
            assert_eq!(k.store(0, own, 7), Ok(()));
            assert_eq!(k.store(0, 2 + own, 8), Ok(()));
        }
    };
    boxed(
        scenario("anon-vma-two-first-faults", 1, world)
            .cpu("stores to the first pages", stores(0))
            .cpu("stores to the second pages", stores(1))
            .check(|k| match [0, 1, 2, 3].map(|n| k.load(0, n)) {
                [Ok(7), Ok(7), Ok(8), Ok(8)] => k.check(),
                found => Err(format!("7, 7, 8 and 8 were stored, found {found:?}")),
            }),
    )
}

fn fork_and_exit(_: Option<&str>) -> Box<dyn Program> {
    boxed(
        scenario("anon-vma-fork-vs-exit", 1, || Kernel::parent_and_child(1))
            .cpu("forks", |k| k.fork(0, 2, &[0]).expect("frames"))
            .cpu("exits", |k| k.exit(1))
            .check(|k| match (k.load(0, 0), k.load(2, 0)) {
                (Ok(7), Ok(7)) => k.check(),
                found => Err(format!("7 was stored, found {found:?}")),
            }),
    )
}

fn walk_and_copy(_: Option<&str>) -> Box<dyn Program> {
    let world = || {
        let kernel = Kernel::new(64, LockMode::Mmap);
        kernel.swap_on(0, 4);
        kernel.spawn(0, &[0]);
        kernel.map(0, 0, 1, RW);
        kernel.store(0, 0, 7).expect("frames");
        kernel.fork(0, 1, &[1]).expect("frames");
        kernel
    };
    boxed(
        scenario("rmap-walk-vs-copy", 1, world)
            .cpu("reclaims", |k| {
                if let Some(frame) = k.frame_of(0, 0) {
                    k.reclaim(frame);
                }
            })
            .cpu("the child writes", |k| assert_eq!(k.store(1, 0, 8), Ok(())))
            .check(|k| match (k.load(0, 0), k.load(1, 0)) {
                (Ok(7), Ok(8)) => k.check(),
                found => Err(format!("the parent has 7 and the child stored 8, found {found:?}")),
            }),
    )
}

fn last_put(_: Option<&str>) -> Box<dyn Program> {
    let world = || {
        let kernel = Kernel::new(80, LockMode::Mmap);
        kernel.spawn(0, &[1]);
        kernel.spawn(2, &[0]);
        for program in [0, 2] {
            kernel.map(program, 0, 1, RW);
            kernel.store(program, 0, 7).expect("frames");
        }
        kernel.fork(0, 1, &[0]).expect("frames");
        kernel
    };
    boxed(
        scenario("anon-vma-last-put", 1, world)
            .cpu("the child exits, another forks", |k| {
                k.exit(1);
                k.fork(2, 3, &[0]).expect("frames");
            })
            .cpu("the parent exits", |k| k.exit(0))
            .check(|k| match (k.load(2, 0), k.load(3, 0)) {
                (Ok(7), Ok(7)) => k.check(),
                found => Err(format!("7 was stored, found {found:?}")),
            }),
    )
}

fn walk_and_reuse(_: Option<&str>) -> Box<dyn Program> {
    let world = || {
        let kernel = Kernel::parent_and_child(1);
        kernel.exit(0);
        kernel.notes[0].set(kernel.frame_of(1, 0).expect("present").0);
        kernel
    };
    boxed(
        scenario("rmap-walk-vs-reuse", 1, world)
            .cpu("walks the rmap", |k| {
                // A reference that comes before the write's look at the count makes it copy.
                k.hold_frame(Pfn(k.notes[0].get()));
                assert!(k.walk_rmap() <= 1);
            })
            .cpu("the child writes", |k| assert_eq!(k.store(1, 0, 8), Ok(())))
            .check(|k| match k.load(1, 0) {
                Ok(8) => k.check(),
                found => Err(format!("8 was stored, found {found:?}")),
            }),
    )
}

fn reuse_and_lock(_: Option<&str>) -> Box<dyn Program> {
    let world = || {
        let kernel = Kernel::parent_and_child(0);
        kernel.exit(0);
        kernel.notes[0].set(kernel.frame_of(1, 0).expect("present").0);
        kernel
    };
    boxed(
        scenario("wp-reuse-vs-folio-lock", 1, world)
            .cpu("the child writes", |k| assert_eq!(k.store(1, 0, 8), Ok(())))
            .cpu("reclaims in vain", |k| {
                k.reclaim(Pfn(k.notes[0].get()));
            })
            .check(|k| match k.load(1, 0) {
                Ok(8) => k.check(),
                found => Err(format!("8 was stored, found {found:?}")),
            }),
    )
}

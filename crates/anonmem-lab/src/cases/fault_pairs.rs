//! A fault against everything that changes an address space under it: in all three lock modes.

use super::{
    Case, Extent, Mutant, Run,
    kernel::{Kernel, boxed, page, pages, scenario},
};
use crate::{Inject, Model, Program};
use anonmem::{FaultOutcome, LockMode, MapBacking, MapFlags, MmapRequest, Prot};

/// What hardware may do at any access: fault for no reason, set bits, forget a translation.
const HARDWARE: Run =
    Run::new(Model::Sc, Extent::Bound(1)).with(Inject { at_most: 2, fault: true, mmu: true, ..Inject::NONE });
const SC: &[Run] = &[Run::new(Model::Sc, Extent::Bound(2)), HARDWARE];
/// Without the mmap lock, which orders all that a fault reads, weak memory may show it something older.
const WEAK: &[Run] =
    &[Run::new(Model::Sc, Extent::Bound(2)), HARDWARE, Run::new(Model::C11, Extent::Bound(1))];
/// Where two preemptions are few executions.
const WEAK_TWICE: &[Run] =
    &[Run::new(Model::Sc, Extent::Bound(2)), HARDWARE, Run::new(Model::C11, Extent::Bound(2))];
const RW: Prot = Prot::READ.union(Prot::WRITE);
const ENVIRONMENT: &str = "Two threads of one address space. The fault holds what its lock mode says: the mmap lock for \
                           reading, the VMA's lock, or nothing; the other side holds the mmap lock for writing.";

macro_rules! pair {
    ($name:ident, $id:literal, $mode:expr, $runs:expr, $title:literal, $rule:literal, $($mutant:literal, $what:literal,)+ $other:ident) => {
        /// The page of the case.
        pub const $name: Case = Case {
            name: $id,
            title: $title,
            happened: "The ordinary life of a program with threads; each of its steps has been wrong in some kernel.",
            environment: ENVIRONMENT,
            rule: $rule,
            mutants: &[$(Mutant::Patch { name: $mutant, what: $what }),+],
            runs: $runs,
            program: |_| against($id, $mode, $other),
        };
    };
}

pair!(
    MUNMAP,
    "fault-vs-munmap",
    LockMode::Mmap,
    WEAK_TWICE,
    "a page is filled in while its mapping goes",
    "The store happened before, or is a segmentation fault; nothing is left mapped.",
    "gather-no-flush",
    "what was unmapped is freed without a flush",
    BY_MUNMAP
);
pair!(
    MUNMAP_VMA,
    "fault-vs-munmap-vma-lock",
    LockMode::Vma,
    WEAK,
    "a page is filled in under the VMA's lock while the VMA goes",
    "As with the mmap lock.",
    "vma-detach-no-wait",
    "a VMA is taken out without waiting for its readers",
    BY_MUNMAP
);
pair!(
    TABLE_SPECULATIVE,
    "seed-002-page-table-vanishes",
    LockMode::Speculative,
    // Half a minute under `c11`; fault-vs-munmap-speculative is explored there.
    SC,
    "a speculative fault walks tables that munmap frees",
    "Tables are freed after a grace period; the entry is installed only if nothing has changed.",
    "speculative-no-recheck",
    "the version is not compared under the page-table lock",
    BY_MUNMAP_ALL
);
pair!(
    MUNMAP_SPECULATIVE,
    "fault-vs-munmap-speculative",
    LockMode::Speculative,
    WEAK,
    "a page is filled in without any lock while its mapping goes",
    "As with the mmap lock.",
    "speculative-no-recheck",
    "the version is not compared under the page-table lock",
    BY_MUNMAP
);
/// The page of the case.
pub const LOAD_SPECULATIVE: Case = Case {
    name: "load-vs-munmap-speculative",
    title: "a load maps the zero page where munmap has just ended",
    happened: "This memory manager, found under c11 and true under sc: a fault read the version that munmap had given the VMA, found the \
               VMA attached still, and asked whether it was write-locked when munmap had ended. Only a load went on: a store needs \
               an anon_vma, which was gone.",
    environment: ENVIRONMENT,
    rule: "Nothing is mapped after munmap has returned.",
    mutants: &[Mutant::Patch {
        name: "speculative-sequence-late",
        what: "the address space's sequence is read after the VMA's version",
    }],
    runs: &[Run::new(Model::Sc, Extent::Bound(2)), Run::new(Model::C11, Extent::Bound(2))],
    program: |_| {
        let world = || {
            let kernel = Kernel::new(48, LockMode::Speculative);
            kernel.spawn(0, &[0, 1]);
            kernel.map(0, 0, 2, RW);
            kernel.map(0, 5, 1, RW);
            kernel.store(0, 0, 1).expect("frames");
            kernel.store(0, 5, 1).expect("frames");
            kernel
        };
        boxed(
            scenario("load-vs-munmap-speculative", 1, world)
                .cpu("loads", |k| assert!(matches!(k.load(0, 1), Ok(0) | Err(FaultOutcome::SegvMaperr))))
                .cpu("munmap", |k| {
                    k.mm(0).munmap(pages(0, 2)).expect("frames");
                    assert_eq!(k.load(0, 1), Err(FaultOutcome::SegvMaperr), "mapped after munmap");
                })
                .check(|k| match k.load(0, 1) {
                    Err(FaultOutcome::SegvMaperr) => k.check(),
                    other => Err(format!("{other:?} where nothing is mapped")),
                }),
        )
    },
};

pair!(
    FORK_SPECULATIVE,
    "fault-vs-fork-speculative",
    LockMode::Speculative,
    WEAK,
    "a page is filled in without any lock while the address space is copied",
    "As with the mmap lock.",
    "fork-no-flush",
    "the parent's translations are not flushed",
    BY_FORK
);
pair!(
    MPROTECT_SPECULATIVE,
    "fault-vs-mprotect-speculative",
    LockMode::Speculative,
    WEAK,
    "a page is made writable without any lock while its mapping is made read-only",
    "After mprotect has returned no store succeeds.",
    "vma-version-stays",
    "write-locking a VMA does not change its version",
    BY_MPROTECT
);
pair!(
    SPLIT_SPECULATIVE,
    "seed-000-vma-split-under-fault",
    LockMode::Speculative,
    WEAK,
    "a speculative fault uses a VMA that is split or merged meanwhile",
    "The anon_vma used is one that every walk for the page reaches.",
    "speculative-no-recheck",
    "the version is not compared under the page-table lock",
    "speculative-no-fence",
    "nothing orders what is read of the VMA before the version is looked at again",
    BY_MERGE
);
pair!(
    MPROTECT,
    "fault-vs-mprotect",
    LockMode::Mmap,
    WEAK_TWICE,
    "a page is made writable while its mapping is made read-only",
    "After mprotect has returned no store succeeds.",
    "mprotect-no-flush",
    "mprotect leaves writable translations behind",
    BY_MPROTECT
);
pair!(
    MPROTECT_VMA,
    "fault-vs-mprotect-vma-lock",
    LockMode::Vma,
    WEAK,
    "a page is made writable under the VMA's lock while its mapping is made read-only",
    "After mprotect has returned no store succeeds.",
    "vma-write-lock-no-wait",
    "write-locking a VMA does not wait for its readers",
    BY_MPROTECT
);
pair!(
    FORK,
    "fault-vs-fork",
    LockMode::Mmap,
    WEAK_TWICE,
    "a page is filled in while the address space is copied",
    "The child has what was there when fork returned.",
    "fork-no-flush",
    "the parent's translations are not flushed",
    BY_FORK
);
pair!(
    FAULT,
    "fault-vs-fault",
    LockMode::Mmap,
    WEAK_TWICE,
    "two threads fault the same page in",
    "One page is installed, and neither store is lost.",
    "anon-install-without-recheck",
    "the entry is filled without looking whether it still is empty",
    "page-published-unordered",
    "an entry is filled without ordering the page's contents before it",
    BY_FAULT
);
pair!(
    FAULT_VMA,
    "fault-vs-fault-vma-lock",
    LockMode::Vma,
    WEAK_TWICE,
    "two threads fault the same page in under the VMA's lock",
    "As with the mmap lock.",
    "anon-install-without-recheck",
    "the entry is filled without looking whether it still is empty",
    BY_FAULT
);
pair!(
    FAULT_SPECULATIVE,
    "fault-vs-fault-speculative",
    LockMode::Speculative,
    WEAK_TWICE,
    "two threads fault the same page in without any lock",
    "As with the mmap lock.",
    "anon-install-without-recheck",
    "the entry is filled without looking whether it still is empty",
    BY_FAULT
);
pair!(
    FORK_VMA,
    "fault-vs-fork-vma-lock",
    LockMode::Vma,
    WEAK,
    "a page is filled in under the VMA's lock while the address space is copied",
    "As with the mmap lock.",
    "fork-no-flush",
    "the parent's translations are not flushed",
    BY_FORK
);
pair!(
    PUBLISHED,
    "vma-published-too-early",
    LockMode::Vma,
    SC,
    "a fault finds a VMA that mmap has not finished (Linux 6.5)",
    "A fault finds nothing, or a complete VMA.",
    "mmap-publish-early",
    "a VMA can be found and locked before it has its attributes",
    BY_MAP
);

/// What the other CPU does: its caption, what the world needs for it, its code, and what must hold at the
/// end.
type Other = (&'static str, fn(&Kernel), fn(&Kernel), fn(&Kernel) -> Result<(), String>);

/// The world as it is.
const UNPREPARED: fn(&Kernel) = |_| ();

fn against(name: &str, mode: LockMode, other: Other) -> Box<dyn Program> {
    let (caption, prepare, body, check) = other;
    let world = move || {
        let kernel = Kernel::new(48, mode);
        kernel.spawn(0, &[0, 1]);
        kernel.map(0, 0, 2, RW);
        kernel.map(0, 5, 1, RW);
        // There is an anon_vma and a page table: a fault needs no mmap lock.
        kernel.store(0, 0, 1).expect("frames");
        kernel.store(0, 5, 1).expect("frames");
        prepare(&kernel);
        kernel
    };
    boxed(
        scenario(name, 1, world)
            .cpu("stores twice", |k| {
                for word in 0..2 {
                    let outcome = match k.store_word(0, 1, word, 7 + word) {
                        Ok(()) => STORED,
                        Err(FaultOutcome::SegvMaperr) => UNMAPPED,
                        Err(FaultOutcome::SegvAccerr) => FORBIDDEN,
                        Err(other) => panic!("{other:?}"),
                    };
                    k.notes[0].set(k.notes[0].get().max(outcome));
                }
            })
            .cpu(caption, body)
            .check(move |k| {
                check(k)?;
                k.check()
            }),
    )
}

/// How a store ended, worst last.
const STORED: u64 = 0;
const UNMAPPED: u64 = 1;
const FORBIDDEN: u64 = 2;

/// What page 1 says at the end, if it is mapped.
fn finally(k: &Kernel) -> Option<u64> {
    k.load(0, 1).ok()
}

const BY_MUNMAP: Other = (
    "munmap",
    UNPREPARED,
    |k| {
        k.mm(0).munmap(pages(0, 2)).expect("frames");
        assert_eq!(k.load(0, 1), Err(FaultOutcome::SegvMaperr), "mapped after munmap");
    },
    |k| finally(k).map_or(Ok(()), |v| Err(format!("page 1 still holds {v}"))),
);

/// The table goes too.
const BY_MUNMAP_ALL: Other = (
    "munmap of all",
    UNPREPARED,
    |k| k.mm(0).munmap(pages(0, 6)).expect("frames"),
    |k| finally(k).map_or(Ok(()), |v| Err(format!("page 1 still holds {v}"))),
);

/// The VMA's start and its first index change, one after the other.
const BY_MERGE: Other = (
    "moves the VMA's start",
    |k| k.mm(0).mprotect(pages(0, 1), Prot::READ).expect("frames"),
    |k| k.mm(0).mprotect(pages(0, 1), RW).expect("frames"),
    |k| match finally(k) {
        Some(7) => Ok(()),
        other => Err(format!("7 was stored, found {other:?}")),
    },
);

const BY_MPROTECT: Other = (
    "mprotect",
    UNPREPARED,
    |k| {
        k.mm(0).mprotect(pages(0, 2), Prot::READ).expect("frames");
        k.notes[1].set(k.load(0, 1).expect("readable"));
    },
    |k| match (finally(k), k.notes[1].get()) {
        (Some(now), then) if now == then => Ok(()),
        (now, then) => Err(format!("{then} was read after mprotect, now it is {now:?}")),
    },
);

const BY_FORK: Other = (
    "forks",
    UNPREPARED,
    |k| {
        k.fork(0, 1, &[1]).expect("frames");
        for word in 0..2 {
            k.notes[1 + word].set(k.load_word(1, 1, word as u64).expect("the child has the mapping"));
        }
    },
    |k| {
        let now: Vec<_> = (0..2).map(|word| k.load_word(1, 1, word).ok()).collect();
        let then = [Some(k.notes[1].get()), Some(k.notes[2].get())];
        match finally(k) {
            Some(7) if now == then => Ok(()),
            parent => Err(format!("the child saw {then:?}, now {now:?}; the parent has {parent:?}")),
        }
    },
);

const BY_FAULT: Other = (
    "stores too",
    UNPREPARED,
    |k| assert_eq!(k.store_word(0, 1, 2, 9), Ok(())),
    |k| match (finally(k), k.load_word(0, 1, 1), k.load_word(0, 1, 2)) {
        (Some(7), Ok(8), Ok(9)) => Ok(()),
        found => Err(format!("7, 8 and 9 were stored, found {found:?}")),
    },
);

const BY_MAP: Other = (
    "maps anew",
    UNPREPARED,
    |k| {
        let request = MmapRequest {
            addr: page(1),
            len: super::kernel::P,
            // Not what the neighbour has, so that they do not merge.
            prot: RW.union(Prot::EXEC),
            flags: MapFlags::FIXED,
            backing: MapBacking::Anonymous,
        };
        k.mm(0).mmap(request).expect("frames");
    },
    |k| match finally(k) {
        _ if k.notes[0].get() == FORBIDDEN => Err("a store was refused that every mapping allows".into()),
        Some(0 | 7) => Ok(()),
        other => Err(format!("neither empty nor stored to: {other:?}")),
    },
);

//! What changes an address space fails at any one of its allocations.

use super::{
    Case, Extent, Mutant, Run,
    kernel::{Kernel, P, boxed, page, pages, scenario},
};
use crate::{Inject, Model, Program};
use anonmem::{Error, FaultOutcome, LockMode, Prot, RemapFlags};

const RW: Prot = Prot::READ.union(Prot::WRITE);
const REFUSED: Inject = Inject { at_most: 1, allocation: true, ..Inject::NONE };
const RUNS: &[Run] = &[
    Run::new(Model::Sc, Extent::Exhaust).with(REFUSED),
    Run::new(Model::C11, Extent::Exhaust).with(REFUSED),
];

const HAPPENED: &str = "Linux found such paths for twenty years by failing allocations on purpose (failslab, 2006; syzkaller): a VMA that \
                        stays cut in two, a table or a promise that nobody gives back.";
const ENVIRONMENT: &str = "One CPU. Any one of its allocations fails: of a frame, or of a slot of a slab.";
const NOTHING: &str = "What is refused for want of memory has changed nothing: as many mappings, links, tables and promised pages as \
                       before. The same again succeeds.";

/// The page of the case.
pub const MUNMAP: Case = Case {
    name: "munmap-fails-half-way",
    title: "munmap has split a VMA at one end, and cannot at the other",
    happened: HAPPENED,
    environment: ENVIRONMENT,
    rule: NOTHING,
    mutants: &[Mutant::Patch {
        name: "munmap-error-stays-cut",
        what: "the VMA that was split is not made one again",
    }],
    runs: RUNS,
    program: |_| refused("munmap-fails-half-way", |k| k.mm(0).munmap(pages(1, 1))),
};

/// The page of the case.
pub const MPROTECT: Case = Case {
    name: "mprotect-fails-half-way",
    title: "mprotect has split a VMA at one end, and cannot at the other",
    happened: HAPPENED,
    environment: ENVIRONMENT,
    rule: NOTHING,
    mutants: &[Mutant::Patch {
        name: "split-error-leaks-vma",
        what: "the upper half that could not be linked to its anon_vmas is not freed",
    }],
    runs: RUNS,
    program: |_| refused("mprotect-fails-half-way", |k| k.mm(0).mprotect(pages(1, 1), Prot::READ)),
};

/// The page of the case.
pub const MREMAP: Case = Case {
    name: "mremap-fails-half-way",
    title: "mremap has tables for the pages, and no VMA to leave behind",
    happened: HAPPENED,
    environment: ENVIRONMENT,
    rule: NOTHING,
    mutants: &[
        Mutant::Patch { name: "mremap-error-leaves-tables", what: "tables that were made for the move stay" },
        Mutant::Patch { name: "mremap-error-stays-cut", what: "the VMA that was to move stays cut out" },
    ],
    runs: RUNS,
    program: |_| {
        refused("mremap-fails-half-way", |k| {
            let flags = RemapFlags::MAYMOVE | RemapFlags::FIXED | RemapFlags::DONTUNMAP;
            k.mm(0).mremap(page(1), P, P, flags, page(24)).map(drop)
        })
    },
};

/// The page of the case.
pub const FAULT: Case = Case {
    name: "fault-fails-half-way",
    title: "the first store to a mapping runs out of memory",
    happened: HAPPENED,
    environment: ENVIRONMENT,
    rule: "The store happens, or the program learns that there is no memory. What was made on the way (an anon_vma, a table) may stay \
           for the next try, and goes with the mapping.",
    mutants: &[Mutant::Patch {
        name: "anon-vma-error-leaks-chain",
        what: "the link for an anon_vma that could not be had is not freed",
    }],
    runs: RUNS,
    program: |_| {
        let world = || {
            let kernel = Kernel::new(40, LockMode::Mmap);
            kernel.spawn(0, &[0]);
            kernel.map(0, 0, 1, RW);
            kernel
        };
        boxed(scenario("fault-fails-half-way", 1, world).cpu("stores", |k| {
            if k.store(0, 0, 7) == Err(FaultOutcome::Oom) {
                assert_eq!(k.store(0, 0, 7), Ok(()));
            }
            assert_eq!(k.load(0, 0), Ok(7));
        }))
    },
};

/// One CPU does `operation` to the pages of [`mapped`], and again if it is refused.
fn refused(name: &str, operation: fn(&Kernel) -> Result<(), Error>) -> Box<dyn Program> {
    boxed(scenario(name, 1, mapped).cpu("tries, perhaps twice", move |k| {
        let before = counts(k);
        if let Err(error) = operation(k) {
            assert_eq!(error, Error::OutOfMemory);
            assert_eq!(counts(k), before, "VMAs, anon_vmas, links, tables, pages, promised pages");
            k.vm.validate().unwrap_or_else(|v| panic!("{v}"));
            operation(k).expect("only one allocation fails");
        }
        assert_eq!(k.load(0, 2), Ok(7));
    }))
}

fn counts(k: &Kernel) -> [u64; 6] {
    let s = k.vm.stats();
    [s.vmas, s.anon_vmas, s.chains, s.tables, s.user, s.committed]
}

/// An address space with three pages in one VMA that say 7.
fn mapped() -> Kernel {
    let kernel = Kernel::new(64, LockMode::Mmap);
    kernel.spawn(0, &[0]);
    kernel.map(0, 0, 3, RW);
    (0..3).for_each(|n| kernel.store(0, n, 7).expect("frames"));
    kernel
}

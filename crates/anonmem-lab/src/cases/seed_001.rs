//! `page_lock_anon_vma()` against the production code.

use super::{
    Case, Extent, Mutant, Run,
    kernel::{Kernel, boxed, pages, scenario},
};
use crate::{Model, Program};
use anonmem::{FaultOutcome, LockMode, Prot};

/// The page of the case.
pub static CASE: Case = Case {
    name: "seed-001-page-lock-anon-vma",
    title: "an rmap walk locks an anon_vma that was freed and reused",
    happened: "Linux, April 2010, \"mm: fix page_lock_anon_vma()\". A walker reads the folio's mapping word; munmap \
               removes the last mapping and frees the anon_vma; a fault elsewhere reuses the slot; the walker locks \
               the lock of a stranger. The case anon-vma-2010 has the four historic attempts.",
    environment: "The walker holds a reference to the folio, not its lock. munmap holds the mmap lock for writing, \
                  the fault another address space's for reading. Nothing brings the folio back elsewhere: that \
                  needs swap.",
    rule: "The anon_vma that folio_lock_anon_vma_read returns is in use for as long as its lock is held.",
    mutants: &[
        Mutant::Patch { name: "rmap-no-recheck", what: "nothing is asked again under the lock" },
        Mutant::Patch {
            name: "rmap-recheck-word-only",
            what: "under the lock only the mapping word is compared",
        },
    ],
    runs: &[Run::new(Model::Sc, Extent::Exhaust), Run::new(Model::C11, Extent::Bound(1))],
    program,
};

fn program(_: Option<&str>) -> Box<dyn Program> {
    let world = || {
        let kernel = Kernel::new(40, LockMode::Mmap);
        for mm in 0..2 {
            kernel.spawn(mm, &[mm as u32 + 1]);
            kernel.map(mm, 0, 1, Prot::READ | Prot::WRITE);
        }
        kernel.store(0, 0, 1).expect("frames");
        kernel.hold(0, 0);
        kernel
    };
    boxed(
        scenario("seed-001-page-lock-anon-vma", 1, world)
            .cpu("walks the rmap", |k| assert!(k.walk_rmap() <= 1))
            .cpu("munmap", |k| k.mm(0).munmap(pages(0, 1)).expect("frames"))
            .cpu("faults elsewhere", |k| assert_eq!(k.store(1, 0, 2), Ok::<(), FaultOutcome>(()))),
    )
}

//! `page_lock_anon_vma()` against the production code.

use super::{
    Case, Extent, Mutant, Run,
    kernel::{Kernel, boxed, pages, scenario},
};
use crate::{Model, Program};
use anonmem::{FaultOutcome, LockMode, Prot};
use anonmem_frame::Stamp;

/// The page of the case.
pub const CASE: Case = Case {
    name: "seed-001-page-lock-anon-vma",
    title: "an rmap walk locks an anon_vma that was freed and reused",
    happened: "Linux, April 2010, \"mm: fix page_lock_anon_vma()\". A walker reads the folio's mapping word; munmap \
               removes the last mapping and frees the anon_vma; a fault elsewhere reuses the slot; the folio, which \
               was in the swap cache all the time, is mapped through another anon_vma; the walker locks the lock of \
               a stranger. The four attempts of that thread are the mutants here, and variants of the model in \
               anon-vma-2010. The order \"mapping, then mapped\" is sufficient under the folio lock: whoever maps \
               an unmapped folio, or gives it another anon_vma, holds that lock (swap-in, UFFDIO_MOVE), so between \
               the two questions the folio can only lose mappings; found mapped, it is mapped through the word \
               that was compared, and the VMA that maps it stays linked, because unlinking takes the lock that \
               the walker has. Without the folio lock the folio can be mapped anew between the two: found mapped, \
               but through a word that was compared too early. So mapped is asked first, with an acquire load \
               that pairs with the release of whoever maps, and then the word is at least as new as the mapping.",
    environment: "The walker holds a reference to the folio, not its lock. munmap holds the mmap lock for writing, \
                  the fault another address space's for reading. Whoever maps the folio anew holds the folio lock, and \
                  keeps the mapping without an entry in a page table.",
    rule: "The anon_vma that folio_lock_anon_vma_read returns is in use for as long as its lock is held, and a VMA of \
           it has the folio's index: it is not a stranger's.",
    mutants: &[
        Mutant::Patch { name: "rmap-no-recheck", what: "nothing is asked again under the lock" },
        Mutant::Patch {
            name: "rmap-recheck-mapped-only",
            what: "under the lock only mapped is asked: the folio may be mapped elsewhere by then",
        },
        Mutant::Patch {
            name: "rmap-recheck-word-first",
            what: "the mapping word is compared before mapped is asked: the folio moves in between",
        },
        Mutant::Patch {
            name: "rmap-second-load-unordered",
            what: "mapped, then the mapping word, but nothing orders the two loads (no smp_rmb): c11 only",
        },
        Mutant::Patch {
            name: "rmap-recheck-word-only",
            what: "under the lock only the mapping word is compared",
        },
    ],
    runs: &[Run::new(Model::Sc, Extent::Exhaust), Run::new(Model::C11, Extent::Bound(2))],
    program,
};

fn program(_: Option<&str>) -> Box<dyn Program> {
    let world = || {
        let kernel = Kernel::new(40, LockMode::Mmap);
        for mm in 0..3 {
            kernel.spawn(mm, &[mm as u32 + 1]);
        }
        kernel.map(0, 0, 1, Prot::READ | Prot::WRITE);
        kernel.map(1, 8, 1, Prot::READ | Prot::WRITE);
        kernel.map(2, 0, 1, Prot::READ | Prot::WRITE);
        kernel.store(2, 0, 1).expect("frames");
        kernel.store(0, 0, 1).expect("frames");
        kernel.notes[0].set(kernel.anon_vma_of(2, 0).bits());
        kernel.hold(0, 0);
        kernel
    };
    let elsewhere = |k: &Kernel| Stamp::from_bits(k.notes[0].get()).expect("the world has it");
    boxed(
        scenario("seed-001-page-lock-anon-vma", 2, world)
            .cpu("walks the rmap", |k| assert!(k.walk_rmap() <= 1))
            .cpu("munmap", |k| k.mm(0).munmap(pages(0, 1)).expect("frames"))
            .cpu("faults, reuses the slot", |k| assert_eq!(k.store(1, 8, 2), Ok::<(), FaultOutcome>(())))
            .cpu("maps the folio elsewhere", move |k| k.map_elsewhere(elsewhere(k), 0)),
    )
}

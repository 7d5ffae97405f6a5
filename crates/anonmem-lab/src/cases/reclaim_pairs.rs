//! A page is looked for by the reverse map, and reclaimed, while one of its mappers forks, ends, or changes
//! its mappings.

use super::{
    Case, Extent, Mutant, Run,
    kernel::{Kernel, P, boxed, page, pages, scenario},
};
use crate::{Model, Program};
use anonmem::{LockMode, Prot, RemapFlags};

const RUNS: &[Run] = &[Run::new(Model::Sc, Extent::Bound(2)), Run::new(Model::C11, Extent::Bound(2))];

const HAPPENED: &str = "Reclaim comes from anywhere, at any time, with no lock of an address space. What it misses stays mapped while the page \
                        is written out (Linux 2008 to 2010, the pair of vma_adjust and rmap walks; 2022, anon_vma_clone against reclaim).";
const ENVIRONMENT: &str = "A parent and its child share two pages. CPU0 acts for the parent, with its mmap lock for writing. CPU1 walks the \
                           mappings of the first page without the folio lock, as folio_referenced does, then reclaims it \
                           (try_to_unmap).";
const RULE: &str = "The walk finds every mapping that was there all the time. Whoever is left has the pages as they were, in memory or from \
                    swap; what the page is mapped by, and what its slot is needed by, is counted right.";

const CLONED: Mutant = Mutant::Patch {
    name: "anon-vma-clone-unlocked",
    what: "a VMA is linked to the anon_vmas of another without their lock",
};
const UNLINKED: Mutant = Mutant::Patch {
    name: "anon-vma-unlink-unlocked",
    what: "a VMA is unlinked from its anon_vmas without their lock",
};
const MOVES: Mutant =
    Mutant::Patch { name: "mremap-moves-unlocked", what: "the pages move before the anon_vma is locked" };

/// What the parent does, and how many mappings of the first page are there all the time.
type Act = (&'static str, u64, fn(&Kernel));

macro_rules! reclaimed {
    ($name:ident, $id:literal, $title:literal, [$($mutant:ident),+], $act:ident) => {
        /// The page of the case.
        pub const $name: Case = Case {
            name: $id,
            title: $title,
            happened: HAPPENED,
            environment: ENVIRONMENT,
            rule: RULE,
            mutants: &[$($mutant),+],
            runs: RUNS,
            program: |_| against($id, $act),
        };
    };
}

reclaimed!(FORK, "reclaim-vs-fork", "a page is reclaimed while fork shares it once more", [CLONED], FORKS);
reclaimed!(EXIT, "reclaim-vs-exit", "a page is reclaimed while one of its mappers ends", [UNLINKED], EXITS);
reclaimed!(MUNMAP, "reclaim-vs-munmap", "a page is reclaimed while it is unmapped", [UNLINKED], UNMAPS);
reclaimed!(
    MPROTECT,
    "reclaim-vs-mprotect",
    "a page is reclaimed while its VMA is cut in two",
    [CLONED],
    PROTECTS
);
reclaimed!(MREMAP, "reclaim-vs-mremap", "a page is reclaimed while it moves", [MOVES], REMAPS);

const FORKS: Act = ("forks", 2, |k| k.fork(0, 2, &[0]).expect("frames"));
const EXITS: Act = ("exits", 1, |k| k.exit(0));
const UNMAPS: Act = ("munmap", 1, |k| k.mm(0).munmap(pages(0, 2)).expect("frames"));
const PROTECTS: Act =
    ("mprotect of a part", 2, |k| k.mm(0).mprotect(pages(0, 1), Prot::READ).expect("frames"));
const REMAPS: Act = ("mremap", 2, |k| {
    let flags = RemapFlags::MAYMOVE | RemapFlags::FIXED;
    k.mm(0).mremap(page(0), 2 * P, 2 * P, flags, page(9)).expect("room");
});

fn against(name: &str, act: Act) -> Box<dyn Program> {
    let (caption, all_the_time, parent) = act;
    let world = || {
        let kernel = Kernel::new(96, LockMode::Mmap);
        kernel.swap_on(0, 4);
        kernel.spawn(0, &[0]);
        kernel.map(0, 0, 2, Prot::READ | Prot::WRITE);
        (0..2).for_each(|n| kernel.store(0, n, 7).expect("frames"));
        kernel.fork(0, 1, &[1]).expect("frames");
        kernel.note_frame(0, 0);
        kernel
    };
    boxed(
        scenario(name, 1, world)
            .cpu(caption, parent)
            .cpu("walks, reclaims", move |k| {
                k.hold_frame(k.noted_frame().expect("noted"));
                let walked = k.walk_rmap();
                assert!(walked >= all_the_time, "a walk finds {walked} of {all_the_time} mappings");
                k.let_go();
                k.reclaim_noted();
            })
            .check(|k| {
                for (mm, n) in (0..3).flat_map(|mm| [0, 1, 9, 10].map(|n| (mm, n))) {
                    if k.is_mapped(mm, n) && k.load(mm, n) != Ok(7) {
                        return Err(format!("page {n} of address space {mm} is not what it was"));
                    }
                }
                k.check()
            }),
    )
}

//! Two address spaces of one family, each changing what it shares with the other.

use super::{
    Case, Extent, Mutant, Run,
    kernel::{Kernel, boxed, pages, scenario},
};
use crate::{Model, Program};
use anonmem::{LockMode, Prot};

const RUNS: &[Run] = &[Run::new(Model::Sc, Extent::Bound(2)), Run::new(Model::C11, Extent::Bound(2))];

const HAPPENED: &str = "The ordinary life of a shell. Each holds its own mmap lock, so nothing but the lock of the family's root keeps them \
                        apart; Linux took that one too late, or let go of it too early, in 2008, in 2010 and in 2022.";
const ENVIRONMENT: &str = "A parent and its child share two pages. CPU0 acts for the parent, CPU1 for the child, each with the mmap lock of its own \
                           address space for writing.";
const RULE: &str = "Who is left has the pages as they were, and an rmap walk finds all of them; who has gone leaves nothing behind.";

const CLONED: Mutant = Mutant::Patch {
    name: "anon-vma-clone-unlocked",
    what: "a VMA is linked to the anon_vmas of another without their lock",
};
const UNLINKED: Mutant = Mutant::Patch {
    name: "anon-vma-unlink-unlocked",
    what: "a VMA is unlinked from its anon_vmas without their lock",
};

/// What one of the two does: its caption, and its code for the address space that it is.
type Act = (&'static str, fn(&Kernel, usize));

macro_rules! family {
    ($name:ident, $id:literal, $title:literal, [$($mutant:ident),+], $parent:ident, $child:ident) => {
        /// The page of the case.
        pub const $name: Case = Case {
            name: $id,
            title: $title,
            happened: HAPPENED,
            environment: ENVIRONMENT,
            rule: RULE,
            mutants: &[$($mutant),+],
            runs: RUNS,
            program: |_| pair($id, $parent, $child),
        };
    };
}

family!(FORK_FORK, "fork-vs-fork", "a parent and its child fork at the same time", [CLONED], FORKS, FORKS);
family!(EXIT_FORK, "exit-vs-fork", "a parent ends while its child forks", [CLONED, UNLINKED], EXITS, FORKS);
family!(EXIT_EXIT, "exit-vs-exit", "a parent and its child end at the same time", [UNLINKED], EXITS, EXITS);
family!(
    MUNMAP_FORK,
    "munmap-vs-fork",
    "a parent unmaps what its child is copying",
    [CLONED, UNLINKED],
    UNMAPS,
    FORKS
);
family!(
    MPROTECT_EXIT,
    "mprotect-vs-exit",
    "a parent splits a VMA while its child, linked to the same anon_vma, ends",
    [CLONED, UNLINKED],
    PROTECTS,
    EXITS
);

const FORKS: Act = ("forks", |k, mm| k.fork(mm, mm + 2, &[mm as u32]).expect("frames"));
const EXITS: Act = ("exits", Kernel::exit);
const UNMAPS: Act = ("munmap", |k, mm| k.mm(mm).munmap(pages(0, 2)).expect("frames"));
const PROTECTS: Act =
    ("mprotect of a part", |k, mm| k.mm(mm).mprotect(pages(0, 1), Prot::READ).expect("frames"));

fn pair(name: &str, parent: Act, child: Act) -> Box<dyn Program> {
    let world = || {
        let kernel = Kernel::new(96, LockMode::Mmap);
        kernel.spawn(0, &[0]);
        kernel.map(0, 0, 2, Prot::READ | Prot::WRITE);
        (0..2).for_each(|n| kernel.store(0, n, 7).expect("frames"));
        kernel.fork(0, 1, &[1]).expect("frames");
        kernel
    };
    boxed(
        scenario(name, 1, world)
            .cpu(parent.0, move |k| parent.1(k, 0))
            .cpu(child.0, move |k| child.1(k, 1))
            .check(|k| {
                for (mm, n) in (0..4).flat_map(|mm| [(mm, 0), (mm, 1)]) {
                    if !k.is_mapped(mm, n) {
                        continue;
                    }
                    if k.load(mm, n) != Ok(7) {
                        return Err(format!("page {n} of address space {mm} is not what it was"));
                    }
                    let (frame, walked) = (k.frame_of(mm, n), k.walk_rmap_of(mm, n));
                    let mappers =
                        (0..4).filter(|&other| k.is_mapped(other, n) && k.frame_of(other, n) == frame);
                    if walked != mappers.count() as u64 {
                        return Err(format!("an rmap walk finds {walked} mappings of page {n} of {mm}"));
                    }
                }
                k.check()
            }),
    )
}

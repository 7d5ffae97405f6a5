//! Families of anon_vmas: who is stamped on a shared page, and which anon_vma is reused.

use super::{
    Case, Extent, Mutant, Run,
    kernel::{Kernel, boxed, scenario},
};
use crate::{Model, Program};
use anonmem::{LockMode, Prot};

/// The page of the case.
pub const YOUNGEST: Case = Case {
    name: "rmap-youngest-stamp",
    title: "a page that others still map carries an anon_vma that dies first",
    happened: "Linux, 2010, the bug behind seed-001: a child's fault stamped a page, which the parent still had, with \
               the child's own anon_vma; the child exited, and the page pointed to freed memory.",
    environment: "Parent and child share a page. The child writes, then exits; the parent writes; a walker comes by.",
    rule: "A page that is not exclusive carries an anon_vma that all its mappers are linked to: a walk during which \
           the mappings stand still finds them all.",
    mutants: &[Mutant::Patch {
        name: "wp-reuse-shared",
        what: "a shared page is taken for the writer's own",
    }],
    runs: &[Run::new(Model::Sc, Extent::Bound(1))],
    program: youngest,
};

/// The page of the case.
pub const UNLOCKED: Case = Case {
    name: "rmap-unlocked-new-anon-vma",
    title: "a VMA is linked into a new anon_vma without its lock",
    happened: "Linux, 2008 (\"anon_vma_prepare: properly lock even newly allocated entries\"): nobody knew the new anon_vma yet, so \
               its lock seemed superfluous. But its slot was a recycled one, and a late walker still held it; and the other \
               faults of the VMA know it as soon as the VMA says so, before the link is in the list.",
    environment: "CPU0 and CPU1 fault two pages of a VMA that has no anon_vma yet, each with the mmap lock for reading; CPU1 walks the \
                  rmap of its page afterwards. In that slot was the anon_vma of a page to which CPU2 still has a reference, and \
                  which it walks.",
    rule: "Linking takes the lock, even if the anon_vma is new: a walk finds every mapping.",
    mutants: &[Mutant::Patch {
        name: "rmap-unlocked-new-anon-vma",
        what: "a VMA is linked to a new anon_vma without a lock",
    }],
    runs: &[Run::new(Model::Sc, Extent::Bound(1))],
    program: unlocked,
};

/// The page of the case.
pub const DOUBLE_REUSE: Case = Case {
    name: "rmap-double-reuse",
    title: "fork gives the child an anon_vma that still serves another VMA",
    happened: "Linux, CVE-2022-42703: one counter held both children and VMAs, so that an anon_vma with one child and \
               one VMA looked like one with two children less; it was reused, then freed too early.",
    environment: "One CPU. Forks, splits by munmap, exits, forks again.",
    rule: "An anon_vma is reused only if no VMA uses it and it has at most one child.",
    mutants: &[Mutant::Patch { name: "anon-vma-children-uncounted", what: "children are not counted" }],
    runs: &[Run::new(Model::Sc, Extent::Exhaust), Run::new(Model::C11, Extent::Bound(2))],
    program: double_reuse,
};

fn youngest(_: Option<&str>) -> Box<dyn Program> {
    let world = || {
        let kernel = Kernel::parent_and_child(1);
        kernel.hold(0, 0);
        kernel
    };
    boxed(
        scenario("rmap-youngest-stamp", 1, world)
            .cpu("the parent writes", |k| assert_eq!(k.store_word(0, 0, 1, 1), Ok(())))
            .cpu("the child writes, exits", |k| {
                assert_eq!(k.store_word(1, 0, 1, 2), Ok(()));
                k.exit(1);
            })
            .cpu("walks the rmap", |k| assert!(k.walk_rmap() <= 2))
            .check(|k| match k.load_word(0, 0, 1) {
                Ok(1) => k.check(),
                other => Err(format!("the parent stored 1, found {other:?}")),
            }),
    )
}

fn unlocked(_: Option<&str>) -> Box<dyn Program> {
    let world = || {
        let kernel = Kernel::new(48, LockMode::Mmap);
        kernel.spawn(0, &[0, 1]);
        kernel.map(0, 8, 1, Prot::READ | Prot::WRITE);
        kernel.store(0, 8, 7).expect("frames");
        kernel.hold(0, 8);
        kernel.mm(0).munmap(super::kernel::pages(8, 1)).expect("frames");
        kernel.map(0, 0, 2, Prot::READ | Prot::WRITE);
        kernel
    };
    boxed(
        scenario("rmap-unlocked-new-anon-vma", 1, world)
            .cpu("stores", |k| assert_eq!(k.store(0, 0, 1), Ok(())))
            .cpu("stores, walks the rmap", |k| {
                assert_eq!(k.store(0, 1, 2), Ok(()));
                assert_eq!(k.walk_rmap_of(0, 1), 1, "mappings that the walk met");
            })
            .cpu("walks late", |k| assert_eq!(k.walk_rmap(), 0)),
    )
}

fn double_reuse(_: Option<&str>) -> Box<dyn Program> {
    let world = || {
        let kernel = Kernel::new(96, LockMode::Mmap);
        kernel.spawn(0, &[0]);
        kernel.map(0, 0, 3, Prot::READ | Prot::WRITE);
        (0..3).for_each(|n| kernel.store(0, n, 7).expect("frames"));
        kernel
    };
    boxed(scenario("rmap-double-reuse", 1, world).cpu("forks and exits", |k| {
        let validate = || k.vm.validate().unwrap_or_else(|v| panic!("{v}"));
        k.fork(0, 1, &[0]).expect("frames");
        // The middle goes: two VMAs use one anon_vma.
        k.mm(1).munmap(super::kernel::pages(1, 1)).expect("frames");
        validate();
        k.fork(1, 2, &[0]).expect("frames");
        assert_eq!(k.store(1, 0, 8), Ok(()));
        k.exit(1);
        validate();
        k.fork(2, 1, &[0]).expect("frames");
        k.fork(1, 3, &[0]).expect("frames");
        validate();
        k.exit(2);
        assert_eq!(k.store(3, 2, 9), Ok(()));
        validate();
        k.exit(0);
        k.exit(1);
        validate();
        assert_eq!(k.load(3, 0), Ok(7));
    }))
}

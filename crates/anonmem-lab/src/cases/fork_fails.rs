//! Fork fails after it has shared some pages: no memory is left, or a swap slot has as many owners as can be
//! counted.

use super::{
    Case, Extent, Mutant, Run,
    kernel::{Kernel, boxed, scenario},
};
use crate::{Inject, Model, Program};
use anonmem::{Error, LockMode, Prot};
use anonmem_hal::SwapEntry;

/// The page of the case.
pub const CASE: Case = Case {
    name: "fork-fails-half-way",
    title: "fork fails at any one of its allocations",
    happened: "Every kernel has had this bug: the error path of fork forgets a count, an entry or a promise, because \
               no test ever fails the seventh allocation.",
    environment: "Any one allocation of the execution fails, fork's or the fault's. CPU1 is another thread that writes.",
    rule: "All or nothing: after a failure everything is counted as before, and the parent works.",
    mutants: &[Mutant::Patch {
        name: "fork-error-leaks-child",
        what: "the child that could not be completed is not torn down",
    }],
    runs: &[Run::new(Model::Sc, Extent::Bound(1)).with(Inject {
        at_most: 1,
        allocation: true,
        ..Inject::NONE
    })],
    program,
};

fn program(_: Option<&str>) -> Box<dyn Program> {
    let world = || {
        let kernel = Kernel::new(64, LockMode::Mmap);
        kernel.spawn(0, &[0, 1]);
        kernel.map(0, 0, 2, Prot::READ | Prot::WRITE);
        kernel.map(0, 8, 1, Prot::READ | Prot::WRITE);
        kernel.store(0, 0, 7).expect("frames");
        kernel.store(0, 8, 7).expect("frames");
        kernel
    };
    boxed(
        scenario("fork-fails-half-way", 1, world)
            .cpu("forks", |k| k.notes[0].set(k.fork(0, 1, &[0]).is_ok().into()))
            .cpu("writes", |k| k.notes[1].set(k.store(0, 0, 8).is_ok().into()))
            .check(|k| {
                let expected = if k.notes[1].get() == 1 { 8 } else { 7 };
                match (k.load(0, 0), k.load(0, 8)) {
                    (Ok(a), Ok(7)) if a == expected => {}
                    found => return Err(format!("the parent has {found:?}")),
                }
                if k.notes[0].get() == 1 && k.load(1, 8) != Ok(7) {
                    return Err("the child lacks a page".into());
                }
                k.check()
            }),
    )
}

/// The page of the case.
pub const SWAP_FULL: Case = Case {
    name: "fork-swap-count-full",
    title: "a parent and its child fork, and the slot of a page that they share has room for one more owner",
    happened: "Linux kept a swap slot's owners in a byte with continuation pages, whose allocation fails in the middle of a fork \
               (swap_duplicate, add_swap_count_continuation, 2009); the StarryOS kind of bug (fork-a-million) is the same count, \
               which wraps: the slot goes to somebody else while others read it.",
    environment: "Three pages, the last of which is in swap; its slot counts owners that nobody is. CPU0 forks the parent, CPU1 the \
                  child, each with the mmap lock of its own address space for writing.",
    rule: "One of the forks succeeds. The other is refused, half-way, and leaves nothing: all pages are as before, and writable.",
    mutants: &[
        Mutant::Patch { name: "swap-count-overflows", what: "an owner is counted where none fits" },
        Mutant::Patch {
            name: "fork-error-leaks-child",
            what: "the child that could not be completed is not torn down",
        },
    ],
    runs: &[Run::new(Model::Sc, Extent::Bound(2)), Run::new(Model::C11, Extent::Bound(1))],
    program: swap_full,
};

/// The slot that the case fills.
const SLOT: SwapEntry = SwapEntry { device: 0, offset: 0 };

fn swap_full(_: Option<&str>) -> Box<dyn Program> {
    let world = || {
        let kernel = Kernel::new(96, LockMode::Mmap);
        kernel.swap_on(0, 1);
        kernel.spawn(0, &[0]);
        kernel.map(0, 0, 3, Prot::READ | Prot::WRITE);
        (0..3).for_each(|n| kernel.store(0, n, 7 + n).expect("frames"));
        kernel.page_out(0, 2);
        kernel.fork(0, 1, &[1]).expect("frames");
        assert_eq!(kernel.store(1, 1, 9), Ok(()));
        // SAFETY: two address spaces have the page in the slot, and the check takes the count away again.
        kernel.notes[2].set(unsafe { kernel.vm.forge_swap_owners(SLOT, 1) });
        kernel
    };
    let forks = |k: &Kernel, mm: usize| match k.fork(mm, mm + 2, &[mm as u32]) {
        Ok(()) => k.notes[mm].set(1),
        Err(Error::Limit(_)) => {}
        Err(other) => panic!("{other:?} instead of a limit"),
    };
    boxed(
        scenario("fork-swap-count-full", 1, world)
            .cpu("the parent forks", move |k| forks(k, 0))
            .cpu("the child forks", move |k| forks(k, 1))
            .check(|k| {
                if k.notes[0].get() + k.notes[1].get() != 1 {
                    return Err("one of the forks is to succeed".into());
                }
                // SAFETY: so many were counted when the world was made, and nobody else takes them away.
                unsafe { k.vm.unforge_swap_owners(SLOT, k.notes[2].get()) };
                for (mm, n) in (0..4).flat_map(|mm| [0, 1, 2].map(|n| (mm, n))) {
                    let stored = if mm % 2 == 1 && n == 1 { 9 } else { 7 + n };
                    if k.is_mapped(mm, n) && k.load(mm, n) != Ok(stored) {
                        return Err(format!("page {n} of address space {mm} is {:?}", k.load(mm, n)));
                    }
                }
                for mm in (0..4).filter(|&mm| k.is_mapped(mm, 0)) {
                    let stored = (0..3).all(|n| k.store(mm, n, 20).is_ok());
                    if !stored {
                        return Err(format!("address space {mm} cannot store"));
                    }
                }
                k.check()
            }),
    )
}

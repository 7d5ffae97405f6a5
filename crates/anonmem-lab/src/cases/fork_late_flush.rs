//! A program goes on writing to a page that fork has shared, through a translation that was not flushed.

use super::{
    Case, Extent, Mutant, Run,
    kernel::{Kernel, boxed, scenario},
};
use crate::{Model, Program};
use anonmem::{LockMode, Prot};

/// The page of the case.
pub const CASE: Case = Case {
    name: "fork-late-flush",
    title: "the child of fork sees stores that its parent made afterwards",
    happened: "Seen in several kernels: fork write-protects the parent's entries one by one and flushes at the end, \
               but another thread of the parent runs on; it writes through its old translation while the page is \
               shared already, or copied.",
    environment: "CPU0 forks with the mmap lock for writing. CPU1 is another thread of the parent and writes.",
    rule: "What the child sees after fork has returned does not change.",
    mutants: &[Mutant::Patch { name: "fork-no-flush", what: "the parent's translations are not flushed" }],
    runs: &[Run::new(Model::Sc, Extent::Bound(2)), Run::new(Model::C11, Extent::Bound(2))],
    program,
};

/// The page of the case.
pub const VMA_LOCK: Case = Case {
    name: "vma-lock-not-taken-by-fork",
    title: "a fault under the VMA's lock copies a page that fork has write-protected but not flushed",
    happened: "Linux 6.4: fork held the mmap lock, which faults no longer took. One thread's fault replaced a page by \
               a copy while another thread still wrote to the old one through its translation.",
    environment: "CPU0 forks with the mmap lock for writing. CPU1 and CPU2 are other threads of the parent; their faults \
                  take the VMA's lock.",
    rule: "No store of the parent is lost: no fault runs in a VMA from before its entries are copied until after the \
           flush.",
    mutants: &[Mutant::Patch {
        name: "fork-no-vma-lock",
        what: "fork does not write-lock the VMAs that it copies",
    }],
    // It takes two preemptions, which three CPUs of this length do not let exhaust.
    runs: &[Run::new(Model::Sc, Extent::Bound(1)), Run::new(Model::Sc, Extent::Sample(60_000))],
    program: vma_lock,
};

fn vma_lock(_: Option<&str>) -> Box<dyn Program> {
    let world = || {
        let kernel = Kernel::new(48, LockMode::Vma);
        kernel.spawn(0, &[0, 1, 2]);
        kernel.map(0, 0, 1, Prot::READ | Prot::WRITE);
        // CPU2 has a translation, CPU1 must fault.
        crate::Sim::on_cpu(2, || kernel.store_here(0, 0, 0, 7)).expect("frames");
        kernel
    };
    boxed(
        scenario("vma-lock-not-taken-by-fork", 1, world)
            .cpu("forks", |k| k.fork(0, 1, &[0]).expect("frames"))
            .cpu("writes", |k| assert_eq!(k.store_word(0, 0, 1, 1), Ok(())))
            .cpu("writes", |k| assert_eq!(k.store_word(0, 0, 2, 2), Ok(())))
            .check(|k| match (k.load_word(0, 0, 1), k.load_word(0, 0, 2)) {
                (Ok(1), Ok(2)) => k.check(),
                found => Err(format!("1 and 2 were stored, found {found:?}")),
            }),
    )
}

fn program(_: Option<&str>) -> Box<dyn Program> {
    let world = || {
        let kernel = Kernel::new(48, LockMode::Mmap);
        kernel.spawn(0, &[0, 1]);
        kernel.map(0, 0, 2, Prot::READ | Prot::WRITE);
        for n in 0..2 {
            kernel.store(0, n, 7).expect("frames");
        }
        kernel
    };
    boxed(
        scenario("fork-late-flush", 1, world)
            .cpu("forks, looks", |k| {
                k.fork(0, 1, &[0]).expect("frames");
                for n in 0..2 {
                    k.notes[n].set(k.load(1, n as u64).expect("the child has the page"));
                }
            })
            .cpu("writes", |k| {
                for n in 0..2 {
                    assert_eq!(k.store(0, n, 8), Ok(()));
                }
            })
            .check(|k| {
                for n in 0..2 {
                    let (before, after) = (k.notes[n].get(), k.load(1, n as u64));
                    if after != Ok(before) {
                        return Err(format!("the child saw {before} in page {n}, now {after:?}"));
                    }
                }
                k.check()
            }),
    )
}

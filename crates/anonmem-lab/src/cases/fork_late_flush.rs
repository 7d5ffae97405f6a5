//! A program goes on writing to a page that fork has shared, through a translation that was not flushed.

use super::{
    Case, Extent, Mutant, Run,
    kernel::{Kernel, boxed, scenario},
};
use crate::{Model, Program};
use anonmem::{LockMode, Prot};

/// The page of the case.
pub static CASE: Case = Case {
    name: "fork-late-flush",
    title: "the child of fork sees stores that its parent made afterwards",
    happened: "Seen in several kernels: fork write-protects the parent's entries one by one and flushes at the end, \
               but another thread of the parent runs on; it writes through its old translation while the page is \
               shared already, or copied.",
    environment: "CPU0 forks with the mmap lock for writing. CPU1 is another thread of the parent and writes.",
    rule: "What the child sees after fork has returned does not change.",
    mutants: &[Mutant::Patch { name: "fork-no-flush", what: "the parent's translations are not flushed" }],
    runs: &[Run::new(Model::Sc, Extent::Bound(2))],
    program,
};

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

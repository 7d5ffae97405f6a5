//! Fork runs out of memory after it has shared some pages.

use super::{
    Case, Extent, Mutant, Run,
    kernel::{Kernel, boxed, scenario},
};
use crate::{Inject, Model, Program};
use anonmem::{LockMode, Prot};

/// The page of the case.
pub static CASE: Case = Case {
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

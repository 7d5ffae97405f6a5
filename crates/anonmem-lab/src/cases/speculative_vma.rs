//! What a speculative fault reads of a VMA that is changed.

use super::{
    Case, Extent, Mutant, Run,
    kernel::{Kernel, boxed, pages, scenario},
};
use crate::{Model, Program};
use anonmem::{LockMode, Prot};

const RW: Prot = Prot::READ.union(Prot::WRITE);

/// The page of the case.
pub static HALVES: Case = Case {
    name: "speculative-wrong-half",
    title: "a speculative fault judges by the half of a VMA that its address is no longer in",
    happened: "Linux, the series \"Speculative page faults\" (2017-2018): flags and range were read at different times, which the \
               sequence count must tell, also where the fault ends in a signal and never takes a page-table lock.",
    environment: "A store holds nothing. Another thread makes the first page of the VMA read-only; the store is to the second.",
    rule: "The store succeeds: its page was writable all the time.",
    mutants: &[Mutant::Patch {
        name: "speculative-range-unchecked",
        what: "whether the VMA still covers the address is not asked",
    }],
    runs: &[Run::new(Model::Sc, Extent::Bound(2)), Run::new(Model::C11, Extent::Bound(1))],
    program: halves,
};

fn world() -> Kernel {
    let kernel = Kernel::new(48, LockMode::Speculative);
    kernel.spawn(0, &[0, 1]);
    kernel.map(0, 0, 2, RW);
    kernel.map(0, 5, 1, RW);
    // There is an anon_vma and a page table, which stays: a fault needs no lock.
    kernel.store(0, 0, 1).expect("frames");
    kernel.store(0, 5, 1).expect("frames");
    kernel
}

fn halves(_: Option<&str>) -> Box<dyn Program> {
    boxed(
        scenario("speculative-wrong-half", 1, world)
            .cpu("stores to page 1", |k| assert_eq!(k.store(0, 1, 7), Ok(())))
            .cpu("makes page 0 read-only", |k| k.mm(0).mprotect(pages(0, 1), Prot::READ).expect("frames"))
            .check(|k| match k.load(0, 1) {
                Ok(7) => k.check(),
                other => Err(format!("7 was stored, found {other:?}")),
            }),
    )
}

//! A write makes a page its own without the folio lock, while others may come to have it.

use super::{
    Case, Extent, Mutant, Run,
    kernel::{Kernel, boxed, scenario},
};
use crate::{Inject, Model, Program};
use anonmem::{LockMode, Prot};

/// The page of the case.
pub const CASE: Case = Case {
    name: "wp-reuse-of-cached",
    title: "a write takes a page for its own that the swap cache still has for somebody else",
    happened: "Linux until 5.8 asked in do_wp_page how many mappings and swap entries a page had, with the page locked; commit \
               09854ba94c6a (5.9) made it the reference count, which the swap cache is part of. Here it is one word, and \
               where nothing else of the folio changes it is asked and changed without the folio lock.",
    environment: "The parent has a page in memory that its child has a swap entry for. The parent stores, under its mmap lock for \
                  reading; the other CPU reclaims the page, with a reference of its own and the folio lock, and loads as \
                  the child.",
    rule: "A page becomes exclusive only if one mapping is all that counts, in the same step. The child never sees the \
           parent's store.",
    mutants: &[Mutant::Patch {
        name: "wp-reuse-ignores-references",
        what: "a page that has one mapping is taken for the writer's own whoever has a reference",
    }],
    runs: &[
        Run::new(Model::Sc, Extent::Bound(2)),
        Run::new(Model::Sc, Extent::Bound(1)).with(Inject::TRY_LOCK),
    ],
    program,
};

fn program(_: Option<&str>) -> Box<dyn Program> {
    boxed(
        scenario("wp-reuse-of-cached", 1, world)
            .cpu("the parent stores", |k| assert_eq!(k.store(0, 0, 8), Ok(())))
            .cpu("reclaims, the child loads", |k| {
                k.reclaim_noted();
                assert_eq!(k.load(1, 0), Ok(7));
            })
            .check(|k| match (k.load(0, 0), k.load(1, 0)) {
                (Ok(8), Ok(7)) => k.check(),
                other => Err(format!("the parent stored 8, the child nothing; found {other:?}")),
            }),
    )
}

/// Parent and child shared a page that says 7; it was swapped out, and the parent has it back.
fn world() -> Kernel {
    let kernel = Kernel::new(64, LockMode::Mmap);
    kernel.swap_on(0, 2);
    kernel.spawn(0, &[0]);
    kernel.map(0, 0, 1, Prot::READ | Prot::WRITE);
    kernel.store(0, 0, 7).expect("frames");
    kernel.fork(0, 1, &[1]).expect("frames");
    kernel.note_frame(0, 0);
    assert!(kernel.reclaim_noted(), "both mappings can go");
    assert_eq!(kernel.load(0, 0), Ok(7));
    kernel.note_frame(0, 0);
    kernel
}

//! A parent forks again while its page is still write-protected from the first fork.

use super::{
    Case, Extent, Mutant, Run,
    kernel::{Kernel, boxed, scenario},
};
use crate::{Model, Program};

/// The page of the case.
pub const CASE: Case = Case {
    name: "fork-of-cow",
    title: "fork takes a write-protected COW page for one that must not be written",
    happened: "Nanvix, 2026: fork decided from the entry's write bit whether a page was copy-on-write; a page that was \
               so already came out read-only for good.",
    environment: "CPU0 forks twice; CPU1 is the first child and writes.",
    rule: "Whether a page may be written is the VMA's to say. Everybody writes, and nobody sees the others' stores.",
    mutants: &[Mutant::Patch {
        name: "wp-refuses-shared",
        what: "a write to a shared page is refused instead of copied",
    }],
    runs: &[Run::new(Model::Sc, Extent::Bound(1))],
    program,
};

fn program(_: Option<&str>) -> Box<dyn Program> {
    boxed(
        scenario("fork-of-cow", 1, || Kernel::parent_and_child(1))
            .cpu("forks again, writes", |k| {
                k.fork(0, 2, &[0]).expect("frames");
                assert_eq!(k.store(0, 0, 10), Ok(()));
                assert_eq!(k.store(2, 0, 12), Ok(()));
            })
            .cpu("the first child writes", |k| assert_eq!(k.store(1, 0, 11), Ok(())))
            .check(|k| {
                let found: Vec<_> = (0..3).map(|mm| k.load(mm, 0).ok()).collect();
                match found[..] {
                    [Some(10), Some(11), Some(12)] => k.check(),
                    _ => Err(format!("10, 11 and 12 were written, found {found:?}")),
                }
            }),
    )
}

//! Very many sharers of one page.

use super::{
    Case, Extent, Mutant, Run,
    kernel::{Kernel, boxed, scenario},
};
use crate::Model;

/// The mappings of the page besides the parent's and the child's: with them there are as many, and one, as
/// wrap a count of 8, of 16, and of 20 bits round to 1.
const OTHERS: u64 = (1 << 20) - 1;

/// The page of the case.
pub const CASE: Case = Case {
    name: "fork-a-million",
    title: "a page has so many sharers that one of them takes it for its own",
    happened: "StarryOS, 2026: the number of a frame's sharers was kept in eight bits. After 256 forks it was 1 again, and the next \
               writer took the page, which all the others still read.",
    environment: "CPU0 is a parent that writes, CPU1 its child that forks and writes. 2^20 - 1 more mappings of the page are counted, without \
                  the address spaces that would have them.",
    rule: "A count of sharers does not wrap round: nobody sees another's store.",
    mutants: &[Mutant::Patch { name: "folio-counts-of-16-bits", what: "mappings are counted modulo 2^16" }],
    runs: &[Run::new(Model::Sc, Extent::Bound(1))],
    program: |_| {
        let world = || {
            let kernel = Kernel::parent_and_child(1);
            kernel.hold(0, 0);
            kernel.share_many(OTHERS);
            // Who has a reference keeps others from taking the page for their own.
            kernel.let_go();
            kernel.note_frame(0, 0);
            kernel
        };
        boxed(
            scenario("fork-a-million", 2, world)
                .cpu("the parent stores", |k| assert_eq!(k.store(0, 0, 8), Ok(())))
                .cpu("the child forks, stores", |k| {
                    k.fork(1, 2, &[1]).expect("frames");
                    assert_eq!(k.store(1, 0, 9), Ok(()));
                })
                .check(|k| {
                    let found = [0, 1, 2].map(|mm| k.load(mm, 0).ok());
                    let maps = k.noted_maps();
                    if found != [Some(8), Some(9), Some(7)] || maps != OTHERS + 1 {
                        return Err(format!(
                            "8, 9 and 7 were stored, found {found:?}; {maps} mappings are left"
                        ));
                    }
                    // What is left is counted, too.
                    k.unshare_many();
                    k.check()
                }),
        )
    },
};

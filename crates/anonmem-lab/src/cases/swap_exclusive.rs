//! An exclusive page that was swapped out comes back exclusive, whoever looks at it meanwhile.

use super::{
    Case, Extent, Mutant, Run,
    kernel::{Kernel, boxed, page, scenario},
};
use crate::{Model, Program};
use anonmem::{Event, LockMode, Prot};

/// The page of the case.
pub const CASE: Case = Case {
    name: "swap-forgets-exclusive",
    title: "an exclusive page comes back from swap as shared",
    happened: "Linux until 5.18 had no exclusive marker: what do_swap_page knew of a page's owner it guessed from reference \
               counts. Somebody who looked at the page at that moment (reclaim itself) made the guess wrong; the next \
               write copied, and a device that had pinned the page wrote to the old one.",
    environment: "CPU0 reclaims the page with MADV_PAGEOUT, under the mmap lock for reading; CPU1 loads and stores, under \
                  the mmap lock for reading. Nothing is pinned.",
    rule: "The swap entry carries the exclusive bit: nobody else ever has this page, so it is never copied.",
    mutants: &[Mutant::Patch {
        name: "swap-entry-not-exclusive",
        what: "the swap entry does not say that the page was exclusive",
    }],
    runs: &[Run::new(Model::Sc, Extent::Bound(2)), Run::new(Model::C11, Extent::Bound(1))],
    program,
};

fn program(_: Option<&str>) -> Box<dyn Program> {
    let world = || {
        let kernel = Kernel::new(40, LockMode::Mmap);
        kernel.swap_on(0, 2);
        kernel.spawn(0, &[0, 1]);
        kernel.map(0, 0, 1, Prot::READ | Prot::WRITE);
        kernel.store(0, 0, 7).expect("frames");
        kernel
    };
    boxed(
        scenario("swap-forgets-exclusive", 1, world)
            .cpu("pages out", |k| k.page_out(0, 0))
            .cpu("loads, stores", |k| {
                assert_eq!(k.load(0, 0), Ok(7));
                assert_eq!(k.store(0, 0, 8), Ok(()));
            })
            .check(|k| {
                let (copies, value) = (k.vm.stats().event(Event::FaultCowCopy), k.load(0, 0));
                let exclusive = k.mm(0).pagemap(page(0)).exclusive;
                match (copies, value, exclusive) {
                    (0, Ok(8), true) => k.check(),
                    other => Err(format!("(copies, value, exclusive) is {other:?}, not (0, 8, true)")),
                }
            }),
    )
}

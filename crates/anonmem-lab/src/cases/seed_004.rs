//! A write fault decides to copy a page that becomes its own meanwhile.

use super::{
    Case, Extent, Mutant, Run,
    kernel::{Kernel, boxed, scenario},
    pins::same_page,
};
use crate::{Inject, Model, Program};
use anonmem::{Error, LockMode, PinFlags, Prot};

/// The page of the case.
pub const CASE: Case = Case {
    name: "seed-004-copy-after-reuse",
    title: "a page is copied although it was reused, and written, in between",
    happened: "Linux, 2023, the thread on anonymous large folios: thread A1 sees a shared page, decides to copy and \
               drops the page-table lock; B, the other sharer, exits; thread A2 reuses the page as its own and writes; \
               A1 takes the lock again and installs its copy over A2's store.",
    environment: "A1 and A2 are threads of one address space, each with the mmap lock for reading; B ends.",
    rule: "No store is lost: the entry differs, or the copy is abandoned.",
    mutants: &[Mutant::Patch {
        name: "wp-copy-without-recheck",
        what: "the copy is installed without comparing the entry with the one that was seen",
    }],
    runs: &[
        Run::new(Model::Sc, Extent::Bound(2)),
        Run::new(Model::C11, Extent::Bound(1)),
        Run::new(Model::Sc, Extent::Bound(1)).with(Inject::TRY_LOCK),
    ],
    program,
};

fn program(_: Option<&str>) -> Box<dyn Program> {
    let world = || {
        let kernel = Kernel::new(40, LockMode::Mmap);
        kernel.spawn(0, &[0, 2]);
        kernel.map(0, 0, 1, Prot::READ | Prot::WRITE);
        kernel.store(0, 0, 7).expect("frames");
        kernel.fork(0, 1, &[1]).expect("frames");
        kernel
    };
    boxed(
        scenario("seed-004-copy-after-reuse", 1, world)
            .cpu("A1 stores", |k| assert_eq!(k.store_word(0, 0, 1, 1), Ok(())))
            .cpu("B exits", |k| k.exit(1))
            .cpu("A2 stores", |k| assert_eq!(k.store_word(0, 0, 2, 2), Ok(())))
            .check(|k| {
                let words: Vec<_> = (0..3).map(|w| k.load_word(0, 0, w).ok()).collect();
                match words[..] {
                    [Some(7), Some(1), Some(2)] => k.check(),
                    _ => Err(format!("stored 7, 1 and 2, found {words:?}")),
                }
            }),
    )
}

/// The page of the case with a pin.
pub const PINNED: Case = Case {
    name: "seed-004-copy-after-pin",
    title: "a page is copied although it was reused, and pinned, in between",
    happened: PIN_HAPPENED,
    environment: PIN_ENVIRONMENT,
    rule: PIN_RULE,
    mutants: &[NO_RECHECK],
    runs: &[Run::new(Model::Sc, Extent::Bound(1))],
    program: |_| pinned("seed-004-copy-after-pin", |k| k.pin(0, 0, 0, PinFlags::WRITE)),
};

/// The same, pinned without a lock.
pub const PINNED_FAST: Case = Case {
    name: "seed-004-copy-after-pin-fast",
    title: "a page is copied although it was reused, and pinned without a lock, in between",
    happened: PIN_HAPPENED,
    environment: PIN_ENVIRONMENT,
    rule: PIN_RULE,
    mutants: &[NO_RECHECK],
    runs: &[Run::new(Model::Sc, Extent::Bound(1))],
    program: |_| pinned("seed-004-copy-after-pin-fast", |k| k.pin_fast(0, 0, 0, PinFlags::WRITE)),
};

const PIN_HAPPENED: &str = "As seed-004-copy-after-reuse, with a device: thread A2 finds the page its own and pins it for one; A1 would replace it by its copy, and \
                            the device would go on with a page that nobody sees. The page may have been in swap meanwhile, and its entry look as before.";
const PIN_ENVIRONMENT: &str = "A1 and A2 are threads of one address space, each with the mmap lock for reading; A2 pins, and its device stores. B ends, and the page is \
                               reclaimed.";
const PIN_RULE: &str = "What is pinned is mapped: program and device see one another's stores.";
const NO_RECHECK: Mutant = Mutant::Patch {
    name: "wp-copy-without-recheck",
    what: "the copy is installed without comparing the entry with the one that was seen",
};

fn pinned(name: &'static str, pin: fn(&Kernel) -> Result<(), Error>) -> Box<dyn Program> {
    let world = || {
        let kernel = Kernel::new(64, LockMode::Mmap);
        kernel.swap_on(0, 2);
        kernel.spawn(0, &[0, 2]);
        kernel.map(0, 0, 1, Prot::READ | Prot::WRITE);
        kernel.store(0, 0, 7).expect("frames");
        kernel.fork(0, 1, &[1]).expect("frames");
        kernel.note_frame(0, 0);
        kernel
    };
    boxed(
        scenario(name, 1, world)
            .cpu("A1 stores", |k| assert_eq!(k.store_word(0, 0, 1, 1), Ok(())))
            .cpu("B exits, reclaims", |k| {
                k.exit(1);
                k.reclaim_noted();
            })
            .cpu("A2 pins, a device stores", move |k| {
                pin(k).expect("frames");
                k.device_store(0, 2);
            })
            .check(|k| match k.load_word(0, 0, 1) {
                Ok(1) => same_page(k, 0, 2),
                other => Err(format!("1 was stored, found {other:?}")),
            }),
    )
}

//! A page moves to another root of anon_vmas while somebody walks the reverse map to it.
//!
//! Both lock designs, each with two others: the walker is reclaim, which asks whether the page was used.

use super::{
    Case, Extent, Mutant, Run,
    kernel::{Kernel, boxed, pages, scenario},
};
use crate::{Model, Program};
use anonmem::{Error, LockMode, MoveLocks, PinFlags, Prot, RegisterMode, ReverseMapChoice, UffdFeatures};

const RW: Prot = Prot::READ.union(Prot::WRITE);
const HAPPENED: &str = "linux-mm, September 2023, \"userfaultfd: UFFDIO_REMAP\" (merged as UFFDIO_MOVE in 6.8): folio_referenced walks the reverse map \
                        without the folio lock. A move gives the folio the anon_vma of its destination, which may be of another root; a walker that has \
                        locked the old root walks the wrong tree, and one that is about to lock it may lock what was freed. Linux 6.8 to 6.18 let the mover \
                        take the old root's lock for writing, and walkers ask again; Linux 7.2 lets every walk take the folio lock.";
const RULE: &str = "A walk finds the page's entry, where it is before the move or where it is after it, or knows that it must not look. A page is moved \
                    only if nobody pins it.";
const ENVIRONMENT: &str =
    "The walker holds a reference to the folio. The mover holds the mmap lock for reading.";
const RUNS: &[Run] = &[Run::new(Model::Sc, Extent::Exhaust), Run::new(Model::C11, Extent::Bound(2))];

const NO_RECHECK: Mutant =
    Mutant::Patch { name: "rmap-no-recheck", what: "the walk does not ask again under the lock" };
const NO_ANON_VMA: Mutant =
    Mutant::Patch { name: "move-no-anon-vma", what: "the mover does not take the lock of the old anon_vma" };
const STAMPED_FIRST: Mutant = Mutant::Patch {
    name: "move-stamps-before-mapping",
    what: "the folio says that it is at its new place before its entry is there",
};
const NO_FOLIO_LOCK: Mutant =
    Mutant::Patch { name: "move-no-folio-lock", what: "the mover does not take the folio lock" };
const WALK_NO_FOLIO_LOCK: Mutant =
    Mutant::Patch { name: "walk-no-folio-lock", what: "the walk does not take the folio lock" };
const PINS_ONLY_BEFORE: Mutant = Mutant::Patch {
    name: "move-asks-pins-before",
    what: "whether the page is pinned is asked only before its entry is cleared",
};

/// The page of the case: the mover takes the anon_vma's lock; the third is a fault.
pub const CASE: Case = Case {
    name: "seed-003-move-to-other-root",
    title: "a page moves to another root while a walk looks for its entries; the mover takes the anon_vma",
    happened: HAPPENED,
    environment: ENVIRONMENT,
    rule: RULE,
    mutants: &[NO_RECHECK, NO_ANON_VMA, STAMPED_FIRST],
    runs: RUNS,
    program: |_| with_fault("seed-003-move-to-other-root", MoveLocks::AnonVma),
};

/// The page of the case: the third unmaps the source.
pub const UNMAP: Case = Case {
    name: "seed-003-source-unmapped",
    title: "the same, and the mapping that the page came from goes",
    happened: HAPPENED,
    environment: ENVIRONMENT,
    rule: RULE,
    mutants: &[NO_RECHECK],
    runs: &[Run::new(Model::Sc, Extent::Bound(2)), Run::new(Model::C11, Extent::Bound(2))],
    program: |_| with_munmap("seed-003-source-unmapped"),
};

/// The page of the case: every walk takes the folio lock.
pub const FOLIO: Case = Case {
    name: "seed-003-folio-lock",
    title: "a page moves to another root while a walk looks for its entries; walks take the folio lock",
    happened: HAPPENED,
    environment: ENVIRONMENT,
    rule: RULE,
    mutants: &[NO_FOLIO_LOCK, WALK_NO_FOLIO_LOCK],
    runs: RUNS,
    program: |_| with_fault("seed-003-folio-lock", MoveLocks::Folio),
};

/// The page of the case.
pub const PIN: Case = Case {
    name: "move-vs-gup-fast",
    title: "a page is pinned without a lock between the mover's question for pins and the clearing of its entry",
    happened: "Linux, UFFDIO_MOVE, review of v2 (2023): folio_maybe_dma_pinned was asked before the entry was cleared; GUP-fast pins in between, and a device \
               writes to a page that the program sees somewhere else.",
    environment: "CPU0 pins page 0 without a lock, for writing; CPU1 moves it, with the mmap lock for reading.",
    rule: "What is pinned is what the program sees where it was pinned.",
    mutants: &[
        PINS_ONLY_BEFORE,
        Mutant::Patch {
            name: "try-share-no-fence",
            what: "the entry is not cleared before pins are looked for",
        },
        Mutant::Patch {
            name: "pin-fast-no-second-look",
            what: "the entry is not looked at again after the pin",
        },
    ],
    runs: &[Run::new(Model::Sc, Extent::Exhaust), Run::new(Model::C11, Extent::Bound(2))],
    program: |_| {
        boxed(
            scenario("move-vs-gup-fast", 1, || two_roots(MoveLocks::Folio))
                .cpu("pins without a lock", |k| {
                    k.notes[0]
                        .set(u64::from(k.pin_fast(0, 0, 0, PinFlags::WRITE | PinFlags::NOFAULT).is_ok()));
                })
                .cpu("moves", |k| k.notes[1].set(u64::from(k.move_page(8, 0).is_ok())))
                .check(|k| match (k.notes[0].get(), k.notes[1].get()) {
                    (1, 0) if k.pinned_frame(0) == k.frame_of(0, 0) => k.check(),
                    (0, 1) if k.load(0, 8) == Ok(7) => k.check(),
                    (0, 0) => k.check(),
                    other => Err(format!("pinned and moved: {other:?}")),
                }),
        )
    },
};

/// An address space with page 0, in which 7 is stored, and page 8 beside page 9, which has an anon_vma of
/// another root and is watched.
pub(super) fn two_roots(move_locks: MoveLocks) -> Kernel {
    let kernel = Kernel::with_moves(64, LockMode::Mmap, move_locks);
    kernel.spawn(0, &[0, 1, 2]);
    kernel.map(0, 0, 1, RW);
    kernel.map(0, 8, 2, RW);
    kernel.store(0, 0, 7).expect("frames");
    kernel.store(0, 9, 9).expect("frames");
    kernel.userfaultfd(UffdFeatures::empty());
    kernel.watch(8, 2, RegisterMode::WP);
    // A family of address spaces has one for all.
    if kernel.vm.config().reverse_map == ReverseMapChoice::AnonVmas {
        assert_ne!(kernel.anon_vma_of(0, 0), kernel.anon_vma_of(0, 9), "one root for both");
    }
    kernel.hold(0, 0);
    kernel
}

/// A walk finds one entry for as long as there is one.
fn walks(kernel: &Kernel, move_locks: MoveLocks) {
    match (kernel.ask_referenced(), move_locks) {
        (Some(1), _) | (None, MoveLocks::Folio) => {}
        (found, _) => panic!("a walk found {found:?} entries of a page that has one"),
    }
}

fn with_fault(name: &'static str, move_locks: MoveLocks) -> Box<dyn Program> {
    boxed(
        scenario(name, 1, move || two_roots(move_locks))
            .cpu("asks whether it was used", move |k| walks(k, move_locks))
            .cpu("moves", |k| k.notes[0].set(u64::from(k.move_page(8, 0).is_ok())))
            .cpu("stores where it goes", |k| assert_eq!(k.store_word(0, 8, 1, 5), Ok(())))
            .check(|k| match (k.notes[0].get(), k.load(0, 0), k.load(0, 8), k.load_word(0, 8, 1)) {
                (1, Ok(0), Ok(7), Ok(5)) | (0, Ok(7), Ok(0), Ok(5)) => k.check(),
                other => Err(format!("moved or not, and what was stored: {other:?}")),
            }),
    )
}

fn with_munmap(name: &'static str) -> Box<dyn Program> {
    boxed(
        scenario(name, 2, || two_roots(MoveLocks::AnonVma))
            .cpu("walks the rmap", |k| assert!(k.walk_rmap() <= 1))
            .cpu("moves", |k| {
                let moved = k.move_page(8, 0);
                assert!(matches!(moved, Ok(()) | Err(Error::NotFound)), "{moved:?}");
                k.notes[0].set(u64::from(moved.is_ok()));
            })
            .cpu("unmaps where it was", |k| k.mm(0).munmap(pages(0, 1)).expect("no memory is needed"))
            .check(|k| match (k.notes[0].get(), k.load(0, 8)) {
                (1, Ok(7)) | (0, Ok(0)) => k.check(),
                other => Err(format!("moved or not, and what is there: {other:?}")),
            }),
    )
}

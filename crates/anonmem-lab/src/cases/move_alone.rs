//! Pages that nobody else has move with their counts frozen, while others come to pin them, to walk to them,
//! or to store through what a CPU remembers.

use super::{
    Case, Extent, Mutant, Run,
    kernel::{Kernel, boxed, page, scenario},
    move_large::{against_pin, pair},
    seed_003::two_roots,
};
use crate::{Model, Program, Sim};
use anonmem::{MoveLocks, lab::folio_referenced_by_reclaim};

const HAPPENED: &str = "This memory manager alone: Linux takes a reference and the folio lock of each page that it moves. Here the counts of a page that only its \
                        entry has are taken away for the moment of the move, and nobody can get at the page (`frozen_maps`).";
const RUNS: &[Run] = &[Run::new(Model::Sc, Extent::Exhaust), Run::new(Model::C11, Extent::Bound(2))];
const NOT_FROZEN: Mutant =
    Mutant::Patch { name: "move-alone-not-frozen", what: "the counts are looked at, and not taken away" };
const IGNORES_PINS: Mutant =
    Mutant::Patch { name: "move-alone-ignores-pins", what: "a page that is pinned is frozen" };
const THAWS_FIRST: Mutant = Mutant::Patch {
    name: "move-alone-thaws-first",
    what: "the counts come back before the entries are there",
};

/// [`two_roots`], and nobody has a reference to page 0, whose frame is noted.
fn alone(move_locks: MoveLocks) -> Kernel {
    let kernel = two_roots(move_locks);
    kernel.let_go();
    kernel.note_frame(0, 0);
    kernel
}

/// The page of the case.
pub const PIN: Case = Case {
    name: "move-alone-vs-gup-fast",
    title: "a page that nobody else has is pinned without a lock while it moves",
    happened: HAPPENED,
    environment: "CPU0 pins page 0 without a lock, for writing; CPU1 moves it, with the mmap lock for reading.",
    rule: "What is pinned is what the program sees where it was pinned.",
    mutants: &[
        NOT_FROZEN,
        IGNORES_PINS,
        Mutant::Patch {
            name: "pin-fast-no-second-look",
            what: "the entry is not looked at again after the pin",
        },
    ],
    runs: RUNS,
    program: |_| against_pin("move-alone-vs-gup-fast", || alone(MoveLocks::Folio), (0, 8, 1), 7),
};

/// The page of the case.
pub const LARGE_PIN: Case = Case {
    name: "move-alone-large-vs-gup-fast",
    title: "a page of a folio that nobody else has is pinned without a lock while the folio moves",
    happened: HAPPENED,
    environment: "CPU0 pins page 1 of a folio of two, for writing; CPU1 moves both, with the mmap lock for reading.",
    rule: "What is pinned is what the program sees where it was pinned.",
    mutants: &[NOT_FROZEN, IGNORES_PINS],
    runs: RUNS,
    program: |_| against_pin("move-alone-large-vs-gup-fast", || pair(MoveLocks::Folio), (1, 8, 2), 8),
};

/// The page of the case.
pub const WALK: Case = Case {
    name: "move-alone-vs-walk",
    title: "a page that nobody else has moves to another root while reclaim comes for it; walks take the folio lock",
    happened: HAPPENED,
    environment: "CPU0 gets a reference, if it can, and walks to the page's entries; CPU1 moves the page, with the mmap lock for reading.",
    rule: "Who gets a reference finds the page's entry, where it is before the move or where it is after it.",
    mutants: &[NOT_FROZEN, THAWS_FIRST],
    runs: RUNS,
    program: |_| against_walk("move-alone-vs-walk", MoveLocks::Folio),
};

/// The page of the case.
pub const WALK_ANON_VMA: Case = Case {
    name: "move-alone-vs-walk-anon-vma",
    title: "the same; movers take the anon_vma's lock where somebody has a reference",
    happened: HAPPENED,
    environment: "As move-alone-vs-walk. The walk does not take the folio lock.",
    rule: "Who gets a reference finds the page's entry, where it is before the move or where it is after it.",
    mutants: &[NOT_FROZEN, THAWS_FIRST],
    runs: RUNS,
    program: |_| against_walk("move-alone-vs-walk-anon-vma", MoveLocks::AnonVma),
};

/// What reclaim finds that comes for the frame which was noted: how many entries map its folio; `None` if it
/// is locked, or nobody has it.
fn ask_noted(k: &Kernel) -> Option<u64> {
    let page = k.vm.frames().try_get(k.noted.get().expect("noted"))?;
    folio_referenced_by_reclaim(k.vm, &page).map(|found| found.mappings)
}

fn against_walk(name: &'static str, move_locks: MoveLocks) -> Box<dyn Program> {
    boxed(
        scenario(name, 1, move || alone(move_locks))
            .cpu("comes for the page", |k| {
                let found = ask_noted(k);
                assert!(
                    matches!(found, None | Some(1)),
                    "a walk found {found:?} entries of a page that has one"
                );
            })
            .cpu("moves", |k| assert_eq!(k.move_page(8, 0), Ok(())))
            .check(|k| match (k.load(0, 0), k.load(0, 8)) {
                (Ok(0), Ok(7)) => k.check(),
                other => Err(format!("where it was, and where it went: {other:?}")),
            }),
    )
}

/// The page of the case.
pub const STORE: Case = Case {
    name: "move-alone-vs-store",
    title: "a page that nobody else has moves while a CPU stores through its translation of the old place",
    happened: HAPPENED,
    environment: "CPU0 moves page 0, and stores 9 where it went; CPU1, another thread, stores 6 where it was, and loads that.",
    rule: "After the move no CPU reaches the page at its old place: what CPU1 finds there is its own store, or nothing.",
    mutants: &[Mutant::Patch {
        name: "move-alone-no-flush",
        what: "the old translations are not flushed before the page is at its new place",
    }],
    runs: &[Run::new(Model::Sc, Extent::Exhaust)],
    program: |_| {
        let world = || {
            let kernel = alone(MoveLocks::Folio);
            let root = kernel.mm(0).root();
            assert_eq!(Sim::on_cpu(1, || kernel.sim.user_load(root, page(0))), Ok(7));
            kernel
        };
        boxed(
            scenario("move-alone-vs-store", 1, world)
                .cpu("moves, and stores there", |k| {
                    assert_eq!(k.move_page(8, 0), Ok(()));
                    assert_eq!(k.store(0, 8, 9), Ok(()));
                })
                .cpu("stores where it was", |k| {
                    assert_eq!(k.store(0, 0, 6), Ok(()));
                    let found = k.load(0, 0);
                    assert!(matches!(found, Ok(6 | 0)), "{found:?} at the old place");
                })
                .check(|k| match (k.load(0, 8), k.load(0, 0)) {
                    (Ok(9), Ok(6 | 0)) => k.check(),
                    other => Err(format!("where it went, and where it was: {other:?}")),
                }),
        )
    },
};

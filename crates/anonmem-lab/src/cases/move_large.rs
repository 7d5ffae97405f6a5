//! Large folios and leaves move whole, while others pin a page of them, walk to them, or store through what a
//! CPU remembers.
//!
//! A folio has two pages here, a leaf eight.

use super::{
    Case, Extent, Mutant, Run,
    kernel::{Kernel, P, boxed, page, scenario},
};
use crate::{Model, Program};
use anonmem::{
    FolioMode, FolioPolicy, LockMode, MoveLocks, MoveMode, PinFlags, Prot, RegisterMode, UffdFeatures,
};
use anonmem_hal::Order;

const RW: Prot = Prot::READ.union(Prot::WRITE);
const HAPPENED: &str = "Linux splits a large folio before its pages move, and moves leaves whole (mm/huge_memory.c `move_pages_huge_pmd`, CVE-2024-46787, \
                        CVE-2026-31397). This memory manager moves both whole: one look for pins, one flush and one stamp serve for all pages.";
const PINS: Mutant = Mutant::Patch {
    name: "move-large-ignores-pins",
    what: "whether the folio is pinned is asked only before",
};

fn kernel(move_locks: MoveLocks) -> Kernel {
    let kernel = Kernel::with_moves(96, LockMode::Mmap, move_locks);
    kernel.spawn(0, &[0, 1]);
    kernel
}

/// Lets page `to` and those after it be watched, of an anon_vma of another root.
fn watched(kernel: Kernel, to: u64, n: u64) -> Kernel {
    kernel.map(0, to, n + 1, RW);
    kernel.store(0, to + n, 5).expect("frames");
    kernel.userfaultfd(UffdFeatures::empty());
    kernel.watch(to, n, RegisterMode::MISSING);
    kernel
}

/// Pages 0 and 1 are a folio, in which 7 and 8 are stored; pages 8 and 9 are watched.
pub(super) fn pair(move_locks: MoveLocks) -> Kernel {
    let kernel = kernel(move_locks);
    kernel.vm.set_folio_policy(FolioPolicy::default().with(Order::new(1), FolioMode::Always));
    kernel.map(0, 0, 2, RW);
    kernel.store(0, 0, 7).expect("frames");
    kernel.store(0, 1, 8).expect("frames");
    kernel.vm.set_folio_policy(FolioPolicy::default());
    let head = kernel.frame_of(0, 0).expect("mapped");
    assert_eq!(kernel.frame_of(0, 1), Some(head.offset(1)), "one folio");
    watched(kernel, 8, 2)
}

/// Pages 0 to 7 are a leaf, in which 7 is stored in page 1; pages 16 to 23 are watched, and no table is
/// there.
fn leaf() -> Kernel {
    let kernel = kernel(MoveLocks::Folio);
    kernel.map(0, 0, 8, RW);
    assert!(kernel.mm(0).fault_leaf(page(0)), "a folio of eight pages");
    kernel.store(0, 1, 7).expect("mapped");
    watched(kernel, 16, 8)
}

/// The folio of two, of which somebody has a reference: its counts say that it may not go alone.
fn pair_in_use() -> Kernel {
    let kernel = pair(MoveLocks::Folio);
    kernel.hold(0, 0);
    kernel
}

/// Moves `n` pages from page 0 on; says whether they went.
fn moves(k: &Kernel, to: u64, n: u64) -> bool {
    k.uffd().move_pages(page(to), page(0), n * P, MoveMode::empty()).result().is_ok()
}

/// One CPU pins page `pinned`, in which `said` is stored; the other moves `n` pages to `to`.
pub(super) fn against_pin(
    name: &'static str,
    world: fn() -> Kernel,
    (pinned, to, n): (u64, u64, u64),
    said: u64,
) -> Box<dyn Program> {
    boxed(
        scenario(name, 1, world)
            .cpu("pins without a lock", move |k| {
                let pin = k.pin_fast(0, 0, pinned, PinFlags::WRITE | PinFlags::NOFAULT);
                k.notes[0].set(u64::from(pin.is_ok()));
            })
            .cpu("moves", move |k| k.notes[1].set(u64::from(moves(k, to, n))))
            .check(move |k| match (k.notes[0].get(), k.notes[1].get()) {
                (1, 0) if k.pinned_frame(0) == k.frame_of(0, pinned) => k.check(),
                (0, 1) if k.load(0, to + pinned) == Ok(said) => k.check(),
                (0, 0) if k.load(0, pinned) == Ok(said) => k.check(),
                other => Err(format!("pinned and moved: {other:?}")),
            }),
    )
}

/// The page of the case.
pub const PIN: Case = Case {
    name: "move-large-vs-gup-fast",
    title: "a page of a folio is pinned without a lock while the folio moves whole",
    happened: HAPPENED,
    environment: "CPU0 pins page 1 of a folio of two, for writing; CPU1 moves both, with the mmap lock for reading. Somebody has a reference to the folio.",
    rule: "What is pinned is what the program sees where it was pinned.",
    mutants: &[PINS],
    runs: &[Run::new(Model::Sc, Extent::Exhaust), Run::new(Model::C11, Extent::Bound(2))],
    program: |_| against_pin("move-large-vs-gup-fast", pair_in_use, (1, 8, 2), 8),
};

/// The page of the case.
pub const LEAF_PIN: Case = Case {
    name: "move-leaf-vs-gup-fast",
    title: "a page of a leaf is pinned without a lock while the leaf moves",
    happened: HAPPENED,
    environment: "CPU0 pins page 1 of a leaf, for writing; CPU1 moves the leaf, with the mmap lock for reading.",
    rule: "What is pinned is what the program sees where it was pinned.",
    mutants: &[Mutant::Patch {
        name: "move-leaf-ignores-pins",
        what: "whether the folio is pinned is not asked when the leaf is cleared",
    }],
    runs: &[Run::new(Model::Sc, Extent::Bound(2)), Run::new(Model::C11, Extent::Bound(1))],
    program: |_| against_pin("move-leaf-vs-gup-fast", leaf, (1, 16, 8), 7),
};

/// The page of the case.
pub const LEAF_LOOK: Case = Case {
    name: "move-leaf-vs-mincore",
    title: "a leaf that is to move, and stays because it is pinned, is looked for meanwhile",
    happened: "This memory manager before it was read once more: a leaf was taken out of its entry before its pins were asked. Who walked without \
               the lock found a hole: mincore said that nothing is there, a move over holes passed it over, a fault asked a userfaultfd.",
    environment: "CPU0 pins page 1 of a leaf and asks mincore for it; CPU1 moves the leaf, with the mmap lock for reading.",
    rule: "What is pinned is in memory.",
    mutants: &[Mutant::Patch {
        name: "move-leaf-empties-first",
        what: "the entry is empty while the pins are asked",
    }],
    runs: &[Run::new(Model::Sc, Extent::Bound(2)), Run::new(Model::C11, Extent::Bound(1))],
    program: |_| {
        boxed(
            scenario("move-leaf-vs-mincore", 1, leaf)
                .cpu("pins, and looks", |k| {
                    if k.pin_fast(0, 0, 1, PinFlags::WRITE | PinFlags::NOFAULT).is_ok() {
                        let mut there = None;
                        k.mm(0).mincore(page(1), P, &mut |is| there = Some(is)).expect("it is mapped");
                        assert_eq!(there, Some(true), "a pinned page is not in memory");
                    }
                })
                .cpu("moves", |k| _ = moves(k, 16, 8))
                .check(Kernel::check),
        )
    },
};

/// The page of the case.
pub const WALK: Case = Case {
    name: "move-large-vs-walk",
    title: "a folio moves whole to another root while a walk looks for its entries",
    happened: HAPPENED,
    environment: "The walker holds a reference to the folio, and not its lock; the mover takes the old anon_vma's lock.",
    rule: "A walk finds both entries, where they were or where they are.",
    mutants: &[
        Mutant::Patch {
            name: "move-large-no-anon-vma",
            what: "the mover does not take the lock of the old anon_vma",
        },
        Mutant::Patch {
            name: "move-large-stamps-first",
            what: "the folio says where it will be before its entries are there",
        },
    ],
    runs: &[Run::new(Model::Sc, Extent::Bound(3)), Run::new(Model::C11, Extent::Bound(2))],
    program: |_| {
        let world = || {
            let kernel = pair(MoveLocks::AnonVma);
            kernel.hold(0, 0);
            kernel
        };
        boxed(
            scenario("move-large-vs-walk", 1, world)
                .cpu("asks whether it was used", |k| match k.ask_referenced() {
                    Some(2) => {}
                    found => panic!("a walk found {found:?} entries of a folio that has two"),
                })
                .cpu("moves", |k| k.notes[0].set(u64::from(moves(k, 8, 2))))
                .check(|k| {
                    let at = k.notes[0].get() * 8;
                    k.let_go();
                    match (k.load(0, at), k.load(0, at + 1)) {
                        (Ok(7), Ok(8)) => k.check(),
                        other => Err(format!("both pages: {other:?}")),
                    }
                }),
        )
    },
};

/// The page of the case.
pub const LEAF_STORE: Case = Case {
    name: "move-leaf-vs-store",
    title: "a leaf moves while a CPU stores through its translation of the old place",
    happened: HAPPENED,
    environment: "CPU0 moves a leaf, and stores 9 where it went; CPU1, another thread, stores 6 where it was, and loads that.",
    rule: "After the move no CPU reaches the folio at its old place: what CPU1 finds there is its own store, or nothing.",
    mutants: &[Mutant::Patch {
        name: "move-leaf-no-flush",
        what: "the old translations are not flushed before the leaf is at its new place",
    }],
    runs: &[Run::new(Model::Sc, Extent::Bound(2))],
    program: |_| {
        let world = || {
            let kernel = leaf();
            let root = kernel.mm(0).root();
            assert_eq!(crate::Sim::on_cpu(1, || kernel.sim.user_load(root, page(1))), Ok(7));
            kernel
        };
        boxed(
            scenario("move-leaf-vs-store", 1, world)
                .cpu("moves, and stores there", |k| {
                    assert!(moves(k, 16, 8));
                    assert_eq!(k.store(0, 17, 9), Ok(()));
                })
                .cpu("stores where it was", |k| {
                    assert_eq!(k.store(0, 1, 6), Ok(()));
                    let found = k.load(0, 1);
                    assert!(matches!(found, Ok(6 | 0)), "{found:?} at the old place");
                })
                .check(|k| match (k.load(0, 17), k.load(0, 1)) {
                    (Ok(9), Ok(6 | 0)) => k.check(),
                    other => Err(format!("where it went, and where it was: {other:?}")),
                }),
        )
    },
};

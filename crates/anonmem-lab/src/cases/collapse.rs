//! Small pages become one large folio, and its table a leaf, beside everybody else. A leaf of the simulated
//! machine maps eight pages.

use super::{
    Case, Extent, Mutant, Run,
    kernel::{Kernel, P, boxed, page, pages, scenario},
};
use crate::{Model, Scenario, Sim};
use anonmem::{Advice, BlockEffort, CollapseLimits, LockMode, PinFlags, Prot, Unpin};
use anonmem_hal::Order;

const RW: Prot = Prot::READ.union(Prot::WRITE);
const BOUND: &[Run] = &[Run::new(Model::Sc, Extent::Bound(2)), Run::new(Model::C11, Extent::Bound(1))];
const NO_FLUSH: Mutant = Mutant::Patch {
    name: "collapse-without-flush",
    what: "pages are copied while CPUs can still write to them by the translations that they have",
};

/// A program of both CPUs with `n` small pages, which say 7. The frame of page 1 is noted.
fn small_pages(n: u64) -> Kernel {
    let kernel = Kernel::new(96, LockMode::Mmap);
    kernel.spawn(0, &[0, 1]);
    kernel.map(0, 0, n, RW);
    (0..n).for_each(|nth| kernel.store(0, nth, 7).expect("frames"));
    kernel.note_frame(0, 1);
    kernel
}

/// The same, and CPU 1 knows a writable translation of page 1.
fn two_pages() -> Kernel {
    let kernel = small_pages(2);
    let root = kernel.mm(0).root();
    assert_eq!(Sim::on_cpu(1, || kernel.sim.user_load(root, page(1))), Ok(7));
    kernel
}

/// Eight pages that are one folio behind entries: all but the last step of a collapse.
fn one_run() -> Kernel {
    let kernel = small_pages(8);
    assert!(collapse(&kernel, 3), "a block of eight frames");
    // A table again, whose entries map the folio.
    kernel.mm(0).mprotect(pages(3, 1), Prot::READ).expect("memory for a mapping");
    kernel.mm(0).mprotect(pages(3, 1), RW).expect("memory for a mapping");
    (0..8).for_each(|nth| kernel.store(0, nth, 7).expect("mapped"));
    kernel.note_frame(0, 1);
    kernel
}

/// The same, the entries are clean, and CPU 1 knows that of page 1.
fn known_run() -> Kernel {
    let kernel = one_run();
    // Clean: what only the next store changes.
    kernel.mm(0).madvise(page(0), 8 * P, Advice::Free).expect("private memory");
    let root = kernel.mm(0).root();
    assert_eq!(Sim::on_cpu(1, || kernel.sim.user_load(root, page(1))), Ok(7));
    kernel
}

/// Makes the first 2^`order` pages one folio, if it can.
fn collapse(k: &Kernel, order: u8) -> bool {
    k.mm(0).collapse(page(0), Order::new(order), CollapseLimits::ANY, BlockEffort::Free).is_ok()
}

fn collapsing(name: &str, order: u8, world: impl Fn() -> Kernel + 'static) -> Scenario<Kernel> {
    scenario(name, 1, world).cpu("collapses", move |k| {
        collapse(k, order);
    })
}

/// Page `n` says `value`.
fn finds(k: &Kernel, n: u64, value: u64) -> Result<(), String> {
    match k.load(0, n) {
        Ok(found) if found == value => Ok(()),
        other => Err(format!("page {n}: {other:?}, not {value}")),
    }
}

/// The device that stored 9 through a pin has the page of the program, which is let go of.
fn device_has_page_one(k: &Kernel) -> Result<(), String> {
    finds(k, 1, 9)?;
    if k.mm(0).pagemap(page(1)).pfn != k.pinned_frame(0) {
        return Err("program and device have two pages".into());
    }
    k.unpin(0, Unpin::Dirty);
    k.check()
}

/// The page of the case.
pub const DONTNEED: Case = Case {
    name: "collapse-vs-dontneed",
    title: "a page is dropped, and touched again, while its window is copied into one folio",
    happened: "Review of a new collapse for Linux (2026-09-14): MADV_DONTNEED may drop a migration entry, and a fault may fill the place, while the window \
               is copied. Whoever installs asks each entry again, or gives the window up.",
    environment: "CPU0 makes a folio of two pages. CPU1, a thread of the program, drops one of them and reads it.",
    rule: "What was dropped reads as zeroes; the other page as before.",
    mutants: &[Mutant::Patch {
        name: "collapse-fills-what-was-dropped",
        what: "an entry that is empty by then gets the copy of the page that it had",
    }],
    runs: &[Run::new(Model::Sc, Extent::Exhaust), Run::new(Model::C11, Extent::Bound(1))],
    program: |_| {
        boxed(
            collapsing("collapse-vs-dontneed", 1, || small_pages(2))
                .cpu("drops page 1", |k| {
                    k.madvise(0, 1, Advice::DontNeed);
                })
                .check(|k| {
                    finds(k, 0, 7)?;
                    finds(k, 1, 0)?;
                    k.check()
                }),
        )
    },
};

/// The page of the case.
pub const REFAULT: Case = Case {
    name: "collapse-vs-refault",
    title: "a page is dropped and written anew while its window is copied into one folio",
    happened: "As in `collapse-vs-dontneed`: the place is filled again by the time that the copy is complete.",
    environment: "CPU0 makes a folio of two pages. CPU1, a thread of the program, drops one of them and stores to it.",
    rule: "The store is there; the other page is as before.",
    mutants: &[Mutant::Patch {
        name: "collapse-replaces-what-was-filled",
        what: "an entry that has another page by then gets the copy of the page that it had",
    }],
    runs: BOUND,
    program: |_| {
        boxed(
            collapsing("collapse-vs-refault", 1, || small_pages(2))
                .cpu("drops page 1, stores", |k| {
                    k.madvise(0, 1, Advice::DontNeed);
                    assert_eq!(k.store_word(0, 1, 1, 9), Ok(()));
                })
                .check(|k| {
                    finds(k, 0, 7)?;
                    finds(k, 1, 0)?;
                    match k.load_word(0, 1, 1) {
                        Ok(9) => k.check(),
                        other => Err(format!("9 was stored, found {other:?}")),
                    }
                }),
        )
    },
};

/// The page of the case.
pub const FAULT: Case = Case {
    name: "collapse-vs-fault",
    title: "stores meet pages that are becoming one folio",
    happened: "Linux, mm/khugepaged.c collapse_huge_page: the entries are cleared and flushed before the pages are copied.",
    environment: "CPU0 makes a folio of two pages. CPU1, a thread of the program, has a translation of one, and stores to both.",
    rule: "No store is lost.",
    mutants: &[NO_FLUSH],
    runs: BOUND,
    program: |_| {
        boxed(
            collapsing("collapse-vs-fault", 1, two_pages)
                .cpu("stores to both", |k| {
                    assert_eq!(k.store(0, 1, 8), Ok(()));
                    assert_eq!(k.store(0, 0, 9), Ok(()));
                })
                .check(|k| {
                    finds(k, 1, 8)?;
                    finds(k, 0, 9)?;
                    k.check()
                }),
        )
    },
};

/// The page of the case.
pub const PIN: Case = Case {
    name: "collapse-vs-gup-fast",
    title: "a page is pinned without a lock while its window is copied into one folio",
    happened: "Linux, mm/khugepaged.c __collapse_huge_page_isolate: whoever takes the page away asks for pins when its entry is cleared.",
    environment: "CPU0 makes a folio of two pages. CPU1 pins one of them without a lock; its device stores.",
    rule: "Program and device have the same page.",
    mutants: &[Mutant::Patch {
        name: "migrate-ignores-pins",
        what: "a page goes without asking for pins once its entry is cleared",
    }],
    runs: BOUND,
    program: |_| {
        boxed(
            collapsing("collapse-vs-gup-fast", 1, || small_pages(2))
                .cpu("pins, stores by a device", |k| {
                    k.pin_fast(0, 0, 1, PinFlags::WRITE).expect("frames");
                    k.device_store(0, 9);
                })
                .check(device_has_page_one),
        )
    },
};

/// The page of the case.
pub const MIGRATE: Case = Case {
    name: "collapse-vs-migrate",
    title: "a page moves to another frame while its window is copied into one folio",
    happened: "Linux: both isolate the page and lock its folio; who comes second leaves it alone.",
    environment: "CPU0 makes a folio of two pages. CPU1 moves one of them to another frame, then stores to it.",
    rule: "The store is there; the other page is as before.",
    mutants: &[NO_FLUSH],
    runs: BOUND,
    program: |_| {
        boxed(
            collapsing("collapse-vs-migrate", 1, two_pages)
                .cpu("moves page 1, stores", |k| {
                    k.migrate_noted();
                    assert_eq!(k.store(0, 1, 8), Ok(()));
                })
                .check(|k| {
                    finds(k, 1, 8)?;
                    finds(k, 0, 7)?;
                    k.check()
                }),
        )
    },
};

/// The page of the case.
pub const LEAF_STORE: Case = Case {
    name: "collapse-leaf-vs-store",
    title: "a table becomes a leaf while a CPU stores through its translations of pages",
    happened: "AMD family 10h, erratum 383, and Linux, collapse_huge_page: the table is unlinked and flushed before the leaf takes its place.",
    environment: "CPU0 makes the table of a folio of eight pages a leaf. CPU1, a thread of the program, knows the entry of one, stores to it, and loads \
                  another.",
    rule: "No CPU knows an address by two sizes; the store is in memory and in the dirty bit.",
    mutants: &[
        Mutant::Patch {
            name: "collapse-leaf-without-flush",
            what: "translations of the pages are not flushed before the leaf takes their place",
        },
        Mutant::Patch {
            name: "collapse-leaf-drops-dirty",
            what: "the leaf is clean, whatever the entries were",
        },
    ],
    runs: &[Run::new(Model::Sc, Extent::Bound(2))],
    program: |_| {
        boxed(
            collapsing("collapse-leaf-vs-store", 3, known_run)
                .cpu("stores to page 1, loads page 3", |k| {
                    assert_eq!(k.store(0, 1, 8), Ok(()));
                    assert_eq!(k.load(0, 3), Ok(7));
                })
                .check(|k| {
                    finds(k, 1, 8)?;
                    finds(k, 3, 7)?;
                    if !k.mm(0).pagemap(page(1)).dirty {
                        return Err("page 1 was stored to and is clean".into());
                    }
                    k.check()
                }),
        )
    },
};

/// The page of the case.
pub const LEAF_PIN: Case = Case {
    name: "collapse-leaf-vs-gup-fast",
    title: "a page is pinned without a lock through a table that becomes a leaf",
    happened: "Linux, retract_page_tables and pte_free_defer: GUP-fast may be reading the table, which is freed a grace period later.",
    environment: "CPU0 makes the table of a folio of eight pages a leaf. CPU1 pins one of them without a lock; its device stores.",
    rule: "Program and device have the same page; nobody reads a table that was freed.",
    mutants: &[Mutant::Patch { name: "collapse-leaf-frees-table", what: "the table is free at once" }],
    runs: &[Run::new(Model::Sc, Extent::Bound(2))],
    program: |_| {
        boxed(
            collapsing("collapse-leaf-vs-gup-fast", 3, one_run)
                .cpu("pins, stores by a device", |k| {
                    k.pin_fast(0, 0, 1, PinFlags::WRITE).expect("frames");
                    k.device_store(0, 9);
                })
                .check(device_has_page_one),
        )
    },
};

/// The page of the case.
pub const LEAF_WALK: Case = Case {
    name: "collapse-leaf-vs-rmap",
    title: "a walk of the reverse map looks at a table that becomes a leaf",
    happened: "Linux, collapse_huge_page: anon_vma_lock_write, because a walk that has found the table would look at entries that are gone.",
    environment: "CPU0 makes the table of a folio of eight pages a leaf. CPU1 asks by the reverse map who has accessed the folio.",
    rule: "The walk finds the folio, behind entries or behind a leaf.",
    mutants: &[Mutant::Patch { name: "collapse-leaf-without-rmap-lock", what: "walks are not locked out" }],
    runs: &[Run::new(Model::Sc, Extent::Bound(2))],
    program: |_| {
        boxed(
            collapsing("collapse-leaf-vs-rmap", 3, || {
                let kernel = one_run();
                kernel.hold(0, 1);
                kernel
            })
            .cpu("walks", |k| {
                assert_eq!(k.walk_rmap(), 1, "a run of eight entries, or a leaf");
                k.let_go();
            })
            .check(|k| {
                finds(k, 1, 7)?;
                k.check()
            }),
        )
    },
};

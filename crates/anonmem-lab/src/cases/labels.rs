//! Families of address spaces as the reverse map, attacked where labels take the place of objects. Each world
//! has families, whatever the others of the catalogue have.

use super::{
    Case, Extent, Mutant, Run,
    kernel::{Kernel, P, boxed, over, page, pages, scenario},
};
use crate::Model;
use anonmem::{Event, LockMode, Prot, RemapFlags, ReverseMapChoice::Families};

const RW: Prot = Prot::READ.union(Prot::WRITE);
const RUNS: &[Run] = &[Run::new(Model::Sc, Extent::Bound(2)), Run::new(Model::C11, Extent::Bound(1))];
/// Generations until a label is as deep as labels go, and a child gets its parent's.
const DEPTH: usize = 23;

/// What a world with families is.
fn world(make: impl Fn() -> Kernel + 'static) -> impl Fn() -> Kernel + 'static {
    move || over(Families, &make)
}

/// Program 0, on `cpus`, stored 7 in page 0.
fn alone(cpus: &[u32]) -> Kernel {
    let kernel = Kernel::new(64, LockMode::Mmap);
    kernel.spawn(0, cpus);
    kernel.map(0, 0, 1, RW);
    kernel.store(0, 0, 7).expect("frames");
    kernel
}

/// Program `i` finds `value` in page 0.
fn finds(k: &Kernel, i: usize, value: u64) -> Result<(), String> {
    match k.load(i, 0) {
        Ok(found) if found == value => Ok(()),
        other => Err(format!("program {i} found {other:?}, not {value}")),
    }
}

/// The page of the case.
pub const FORK: Case = Case {
    name: "rmap-fork-behind-the-walker",
    title: "fork copies an entry into an address space that the walk has passed",
    happened: "Linux, mm/rmap.c: anon_vma_interval_tree_insert puts equals behind those that are there, so that a walk meets the parent \
               before its child; the list that the tree replaced in 2012 needed the same, and mremap's shortcut around it was a bug \
               (CVE-2022-41222). The proposed CoW context has it on its list of what is open.",
    environment: "A program whose label is as deep as labels go, so that its child gets the same. CPU0 moves its page to another frame, and \
                  puts the entries back by a walk. CPU1 forks.",
    rule: "A child is in its family before it has an entry: none is left behind by the walk.",
    mutants: &[Mutant::Patch {
        name: "family-enters-late",
        what: "a child enters its family after its entries are filled",
    }],
    runs: RUNS,
    program: |_| {
        let make = world(|| {
            let kernel = alone(&[1]);
            for generation in 0..DEPTH {
                let (parent, child) = (generation % 2, (generation + 1) % 2);
                kernel.fork(parent, child, &[1]).expect("frames");
                kernel.exit(parent);
            }
            kernel.store(DEPTH % 2, 0, 8).expect("frames");
            kernel.note_frame(DEPTH % 2, 0);
            kernel
        });
        let (parent, child) = (DEPTH % 2, 2);
        boxed(
            scenario("rmap-fork-behind-the-walker", 1, make)
                .cpu("moves the page", |k| {
                    k.migrate_noted();
                })
                .cpu("forks", move |k| k.fork(parent, child, &[]).expect("frames"))
                .check(move |k| {
                    k.switch_to(child, 1);
                    finds(k, parent, 8)?;
                    finds(k, child, 8)?;
                    match k.vm.stats().event(Event::MigrateLeftBehind) {
                        0 => k.check(),
                        n => Err(format!("{n} entries were left behind by the walk")),
                    }
                }),
        )
    },
};

/// The page of the case.
pub const EXIT: Case = Case {
    name: "rmap-exit-too-early",
    title: "an address space leaves the reverse map before its last entry is gone",
    happened: "Linux, mm/mmap.c exit_mmap: unmap_vmas comes before free_pgtables, which unlinks the anon_vmas. In a design whose sets are of \
               address spaces the order is one line, and nothing else depends on it.",
    environment: "CPU0 ends the only program of a family. CPU1 has a reference to its page, and walks.",
    rule: "What a walk has locked is in use for as long as it is locked.",
    mutants: &[
        Mutant::Patch {
            name: "family-exit-before-zap",
            what: "an address space leaves first, and is unmapped then",
        },
        Mutant::Patch {
            name: "family-trusts-first-look",
            what: "whether a folio is mapped is not asked again under the lock of its family",
        },
    ],
    runs: RUNS,
    program: |_| {
        let make = world(|| {
            let kernel = alone(&[0]);
            kernel.hold(0, 0);
            kernel
        });
        boxed(
            scenario("rmap-exit-too-early", 1, make)
                .cpu("exits", |k| k.exit(0))
                .cpu("walks", |k| assert!(k.walk_rmap() <= 1))
                .check(|k| {
                    k.let_go();
                    k.check()
                }),
        )
    },
};

/// The page of the case.
pub const REUSED: Case = Case {
    name: "rmap-label-reused",
    title: "a label is given to another child while pages still carry it",
    happened: "CVE-2022-42703 in a design with labels: an anon_vma was reused while pages still named it. A label is a number, which may be \
               reused at any time, if every child's is in its parent's block.",
    environment: "Program 2 has a page that carries the label of its parent, which has ended. CPU0 forks the grandparent, whose new child gets \
                  a label there, and stores. CPU1 forks program 2, and walks to the page.",
    rule: "A walk finds every mapping of a page, whoever else has its label.",
    mutants: &[Mutant::Patch {
        name: "family-label-outside",
        what: "a child's label is in its family's block, and not in its parent's",
    }],
    runs: &[Run::new(Model::Sc, Extent::Bound(1)), Run::new(Model::C11, Extent::Bound(1))],
    program: |_| {
        let make = world(|| {
            let kernel = alone(&[0]);
            kernel.fork(0, 1, &[1]).expect("frames");
            kernel.store(1, 0, 8).expect("frames");
            kernel.fork(1, 2, &[1]).expect("frames");
            kernel.exit(1);
            kernel
        });
        boxed(
            scenario("rmap-label-reused", 1, make)
                .cpu("forks and stores", |k| {
                    k.fork(0, 3, &[0]).expect("frames");
                    assert_eq!(k.store(3, 0, 9), Ok(()));
                })
                .cpu("forks and walks", |k| {
                    k.fork(2, 4, &[1]).expect("frames");
                    assert_eq!(k.walk_rmap_of(2, 0), 2, "entries that the walk met");
                })
                .check(|k| {
                    for (i, value) in [(0, 7), (2, 8), (3, 9), (4, 8)] {
                        finds(k, i, value)?;
                    }
                    k.check()
                }),
        )
    },
};

/// The page of the case.
pub const RECORDS: Case = Case {
    name: "rmap-remap-records",
    title: "a mapping moves, and moves home, under a walk",
    happened: "CVE-2022-41222 in a design that finds mappings by address: what moved is found by a record, and the record must be there \
               before the first page has left and until the last one is back.",
    environment: "A program's page is away from home, where another page with its index is now. CPU0 unmaps that one and moves the first home, \
                  then away again. CPU1 walks to it.",
    rule: "A walk meets each mapping at least once across a move.",
    mutants: &[
        Mutant::Patch { name: "family-forgets-moved", what: "the record of a mapping ends with every move" },
        Mutant::Patch { name: "family-moves-unlocked", what: "a mapping moves without its family's lock" },
    ],
    runs: RUNS,
    program: |_| {
        let make = world(|| {
            let kernel = alone(&[0]);
            remap(&kernel, 0, 8);
            kernel.map(0, 0, 1, RW);
            kernel.store(0, 0, 5).expect("frames");
            kernel.hold(0, 8);
            kernel
        });
        boxed(
            scenario("rmap-remap-records", 1, make)
                .cpu("moves home and away", |k| {
                    k.mm(0).munmap(pages(0, 1)).expect("frames");
                    remap(k, 8, 0);
                    remap(k, 0, 16);
                })
                .cpu("walks", |k| assert!(k.walk_rmap() >= 1, "the page is mapped all the time"))
                .check(|k| {
                    k.let_go();
                    match k.load(0, 16) {
                        Ok(7) => k.check(),
                        other => Err(format!("found {other:?}, not 7")),
                    }
                }),
        )
    },
};

fn remap(k: &Kernel, from: u64, to: u64) {
    let flags = RemapFlags::MAYMOVE | RemapFlags::FIXED;
    k.mm(0).mremap(page(from), P, P, flags, page(to)).expect("frames");
}

/// The page of the case.
pub const SIBLINGS: Case = Case {
    name: "rmap-sibling-swaps-in",
    title: "one of two siblings brings a page back that both have in swap",
    happened: "Linux, 2010 (\"rmap-youngest-stamp\"), in a design with labels: a page that comes back belongs to whoever may have it, and a \
               sibling is in no block of its brother's.",
    environment: "A parent that has ended left two children with one page in swap. CPU0 and CPU1 read it, each as one of them; CPU0 moves it to \
                  another frame.",
    rule: "A page that is not exclusive carries a label in whose block all its mappers are.",
    mutants: &[Mutant::Patch {
        name: "family-own-label-on-shared",
        what: "who brings a shared page back stamps it with his own label",
    }],
    runs: &[Run::new(Model::Sc, Extent::Bound(1)), Run::new(Model::C11, Extent::Bound(1))],
    program: |_| {
        let make = world(|| {
            let kernel = Kernel::new(64, LockMode::Mmap);
            kernel.swap_on(0, 4);
            kernel.spawn(0, &[0]);
            kernel.map(0, 0, 1, RW);
            kernel.store(0, 0, 7).expect("frames");
            kernel.fork(0, 1, &[0]).expect("frames");
            kernel.fork(0, 2, &[1]).expect("frames");
            assert!(kernel.reclaim(kernel.frame_of(0, 0).expect("present")));
            kernel.exit(0);
            kernel
        });
        boxed(
            scenario("rmap-sibling-swaps-in", 1, make)
                .cpu("reads, moves the page", |k| {
                    assert_eq!(k.load(1, 0), Ok(7));
                    k.note_frame(1, 0);
                    k.migrate_noted();
                })
                .cpu("reads", |k| assert_eq!(k.load(2, 0), Ok(7)))
                .check(|k| {
                    finds(k, 1, 7)?;
                    finds(k, 2, 7)?;
                    k.check()
                }),
        )
    },
};

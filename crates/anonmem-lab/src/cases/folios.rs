//! Large folios: windows that are looked at twice, runs that are taken or copied, and splits.
//!
//! The folios have two pages: the smallest in which one page can differ from another.

use super::{
    Case, Extent, Mutant, Run,
    kernel::{Kernel, boxed, page, scenario},
};
use crate::Model;
use anonmem::{Advice, FolioMode, FolioPolicy, LockMode, Prot};
use anonmem_frame::FolioOwner;
use anonmem_hal::Order;

const PAIR: Order = Order::new(1);

/// A program on CPUs 0 and 2 that has two pages, and faults that take both at once.
fn world() -> Kernel {
    let kernel = Kernel::new(64, LockMode::Mmap);
    kernel.vm.set_folio_policy(FolioPolicy::default().with(PAIR, FolioMode::Always));
    kernel.spawn(0, &[0, 2]);
    kernel.map(0, 0, 2, Prot::READ | Prot::WRITE);
    kernel
}

/// The same, with 7 and 8 stored in the two pages of one folio.
pub(super) fn pair() -> Kernel {
    let kernel = world();
    kernel.store(0, 0, 7).expect("frames");
    kernel.store(0, 1, 8).expect("frames");
    assert_eq!(kernel.frame_of(0, 0).map(|head| head.offset(1)), kernel.frame_of(0, 1), "one folio");
    kernel.note_frame(0, 0);
    kernel
}

pub(super) fn finds(k: &Kernel, mm: usize, words: [u64; 2]) -> Result<(), String> {
    let found = [k.load(mm, 0), k.load(mm, 1)];
    if found == words.map(Ok) { Ok(()) } else { Err(format!("expected {words:?}, found {found:?}")) }
}

fn expect(k: &Kernel, mm: usize, words: [u64; 2]) -> Result<(), String> {
    finds(k, mm, words)?;
    k.check()
}

/// Two faults choose one window.
pub const SECOND_LOOK: Case = Case {
    name: "thp-range-no-longer-empty",
    title: "the window of a large folio is filled in part while the folio is zeroed",
    happened: "Linux looks at the whole window again under the page-table lock (mm/memory.c `pte_range_none`): a fault \
               chooses it without the lock, because nothing is mapped there.",
    environment: "Two threads of one program use two pages that one folio would hold. A stores to the first, B puts a guard on the second.",
    rule: "Every entry of the window is asked again under the lock.",
    mutants: &[Mutant::Patch {
        name: "thp-fault-without-second-look",
        what: "the folio is mapped because the window was empty when it was chosen",
    }],
    runs: &[Run::new(Model::Sc, Extent::Bound(2))],
    program: |_| {
        boxed(
            scenario("thp-range-no-longer-empty", 1, world)
                .cpu("A stores", |k| assert_eq!(k.store(0, 0, 1), Ok(())))
                .cpu("-", |_| {})
                .cpu("B guards", |k| k.madvise(0, 1, Advice::GuardInstall))
                .check(|k| match (k.load(0, 0), k.load(0, 1)) {
                    (Ok(1), Err(_)) => k.check(),
                    found => Err(format!("1 and a guard were put there, found {found:?}")),
                }),
        )
    },
};

/// A part of what is copied becomes another page.
pub const COPY: Case = Case {
    name: "thp-range-cow-vs-reuse",
    title: "a range of a folio is copied; meanwhile one of its pages is another, and written",
    happened: "Linux, 2023, the thread on anonymous large folios (seed-004): the entry that trapped is the same when \
               the lock is taken again, and another one of the range is not.",
    environment: "A and B are threads of one program, whose child shares its folio. A writes to the first page; B drops the second \
                  and writes to it.",
    rule: "Every entry of the range is asked again; no store is lost.",
    mutants: &[Mutant::Patch {
        name: "thp-copy-without-recheck",
        what: "only the entry that trapped is compared",
    }],
    runs: &[Run::new(Model::Sc, Extent::Bound(2))],
    program: |_| {
        let world = || {
            let kernel = pair();
            kernel.fork(0, 1, &[1]).expect("frames");
            kernel
        };
        boxed(
            scenario("thp-range-cow-vs-reuse", 1, world)
                .cpu("A stores", |k| assert_eq!(k.store(0, 0, 1), Ok(())))
                .cpu("-", |_| {})
                .cpu("B drops, stores", |k| {
                    k.madvise(0, 1, Advice::DontNeed);
                    assert_eq!(k.store(0, 1, 2), Ok(()));
                })
                .check(|k| finds(k, 0, [1, 2]).and_then(|()| expect(k, 1, [7, 8]))),
        )
    },
};

/// A folio looks like one owner's, and is not.
pub const ALONE: Case = Case {
    name: "thp-range-reuse-vs-exit",
    title: "a folio with as many mappings as pages is taken for the writer's own, and another has one of them",
    happened: "Linux keeps a count for each of two owners, because the sum of all mappings does not say whose they are \
               (`__wp_can_reuse_large_anon_folio`).",
    environment: "Parent and child map the first page of a folio, and neither the second. The parent writes; the child reads, and exits.",
    rule: "A run is taken only if the entries of it under the lock are all mappings that there are.",
    mutants: &[Mutant::Patch {
        name: "thp-reuse-without-count",
        what: "the mappings are not compared with the entries under the lock",
    }],
    runs: &[Run::new(Model::Sc, Extent::Bound(2))],
    program: |_| {
        let world = || {
            let kernel = pair();
            kernel.fork(0, 1, &[1]).expect("frames");
            kernel.madvise(0, 1, Advice::DontNeed);
            kernel.madvise(1, 1, Advice::DontNeed);
            kernel
        };
        boxed(
            scenario("thp-range-reuse-vs-exit", 1, world)
                .cpu("the parent stores", |k| assert_eq!(k.store(0, 0, 1), Ok(())))
                .cpu("the child loads, exits", |k| {
                    assert_eq!(k.load(1, 0), Ok(7), "the parent's store is the child's");
                    k.exit(1);
                })
                .check(|k| expect(k, 0, [1, 0])),
        )
    },
};

pub(super) fn split(k: &Kernel) {
    let pfn = k.noted_frame().expect("the folio was noted");
    let Some(page) = k.vm.frames().try_get(pfn).filter(|page| page.pfn() == pfn) else { return };
    let Some(lock) = page.try_lock() else { return };
    let _ = k.vm.split_folio(&lock, &page, Order::ZERO);
}

/// A split counts what an unmap takes away.
pub const PARTIAL: Case = Case {
    name: "thp-partial-unmap-vs-split",
    title: "a folio is split while a part of it is unmapped",
    happened: "Linux lost partly mapped folios, or split them with stale counts (CVE-2024-53079, CVE-2026-46017).",
    environment: "A program drops the second page of its folio while somebody who needs memory splits the folio.",
    rule: "The counts of the pieces are those of the entries; what nobody maps is free, once.",
    mutants: &[Mutant::Patch {
        name: "thp-split-without-locks",
        what: "the entries are counted without the locks of their tables",
    }],
    runs: &[Run::new(Model::Sc, Extent::Bound(2))],
    program: |_| {
        boxed(
            scenario("thp-partial-unmap-vs-split", 1, pair)
                .cpu("the program drops", |k| k.madvise(0, 1, Advice::DontNeed))
                .cpu("split", split)
                .check(|k| expect(k, 0, [7, 0])),
        )
    },
};

/// What nobody touched is given back while somebody touches it.
pub const UNTOUCHED: Case = Case {
    name: "thp-untouched-vs-store",
    title: "pages of zeroes of a folio are given back while a CPU stores to one of them through its translation",
    happened: "Linux, try_to_map_unused_to_zeropage, looks for zeroes when migration entries have taken the place of what \
               mapped the page: no CPU writes to it any more.",
    environment: "A program has touched one page of four, and stored 0 there. Somebody who needs memory splits the folio. Another CPU \
                  stores 5 through its translation.",
    rule: "A page is looked at for zeroes after its entry was cleared and flushed: no store is lost.",
    mutants: &[Mutant::Patch {
        name: "untouched-asks-before-flush",
        what: "the page is all zeroes, and a CPU goes on to write it",
    }],
    runs: &[Run::new(Model::Sc, Extent::Bound(1))],
    program: |_| {
        let world = || {
            let kernel = Kernel::new(64, LockMode::Mmap);
            kernel.vm.set_folio_policy(FolioPolicy::default().with(Order::new(2), FolioMode::Always));
            kernel.spawn(0, &[1]);
            kernel.map(0, 0, 4, Prot::READ | Prot::WRITE);
            kernel.store(0, 0, 0).expect("frames");
            kernel
        };
        boxed(
            scenario("thp-untouched-vs-store", 1, world)
                .cpu("gives back", |k| _ = k.vm.give_back_untouched(u64::MAX))
                .cpu("stores", |k| assert_eq!(k.store(0, 0, 5), Ok(())))
                .check(|k| match (k.load(0, 0), k.load(0, 3)) {
                    (Ok(5), Ok(0)) => k.check(),
                    found => Err(format!("5 was stored, found {found:?}")),
                }),
        )
    },
};

/// A tail becomes a folio while somebody looks at it.
pub const ONE_STORE: Case = Case {
    name: "thp-split-one-store",
    title: "a tail is looked at while its folio is split",
    happened: "Linux: a zap met a tail that said half of what it became (CVE-2026-31466).",
    environment: "One CPU splits a folio; another takes a reference to its second page, as reclaim does, and asks where it is.",
    rule: "A split publishes each tail by one store, after all else that the tail says.",
    mutants: &[Mutant::Patch {
        name: "thp-split-publishes-early",
        what: "a tail is a folio before it says which",
    }],
    runs: &[Run::new(Model::Sc, Extent::Bound(2)), Run::new(Model::C11, Extent::Bound(1))],
    program: |_| {
        boxed(
            scenario("thp-split-one-store", 1, pair)
                .cpu("split", split)
                .cpu("look", |k| {
                    let tail = k.noted_frame().expect("the folio was noted").offset(1);
                    if let Some(found) = k.vm.frames().try_get(tail)
                        && found.pfn() == tail
                    {
                        let index = found.folio().index();
                        assert_eq!(
                            index,
                            page(1).0 >> anonmem_hal::PAGE_SHIFT,
                            "the tail is a folio of nowhere"
                        );
                    }
                })
                .check(|k| expect(k, 0, [7, 8])),
        )
    },
};

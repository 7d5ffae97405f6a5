//! Large folios that leave as one and come back: runs of slots, and who else has one of them.
//!
//! The folios have two pages, and the devices few slots: what is freed is used again at once.

use super::{
    Case, Extent, Mutant, Run,
    folios::{finds, split},
    kernel::{Kernel, P, boxed, page, scenario},
};
use crate::Model;
use anonmem::{Advice, FolioMode, FolioPolicy, LockMode, Prot};
use anonmem_hal::Order;

const RW: Prot = Prot::READ.union(Prot::WRITE);

/// A program on `cpus` with a folio of two pages that say 7 and 8, and a device of `slots` slots.
fn pair(cpus: &[u32], slots: u64) -> Kernel {
    let kernel = Kernel::new(72, LockMode::Mmap);
    kernel.vm.set_folio_policy(FolioPolicy::default().with(Order::new(1), FolioMode::Always));
    kernel.swap_on(0, slots);
    kernel.spawn(0, cpus);
    kernel.map(0, 0, 2, RW);
    kernel.store(0, 0, 7).expect("frames");
    kernel.store(0, 1, 8).expect("frames");
    kernel.note_frame(0, 0);
    kernel
}

/// A slot of a run is freed and used again while the run is read.
pub const HALF_CACHED: Case = Case {
    name: "thp-swap-in-half-cached",
    title: "a run of slots is read as one; meanwhile one of them is freed, and used again by the same address",
    happened: "Linux, do_swap_page: a large folio in the swap cache is mapped whole only if all entries of its window ask for it \
               (can_swapin_thp, `nr_pages` after the lock was taken); else the page that was asked for.",
    environment: "Two threads of one program, whose folio of two pages is in the two slots of the device. A loads the first page. B drops the \
                  second, stores 9 there, and lets it leave again: to the same slot.",
    rule: "All entries and all slots are asked again under the locks; the last store is not lost.",
    mutants: &[
        Mutant::Patch {
            name: "swap-run-unasked",
            what: "the page that trapped is asked for, and all are mapped",
        },
        Mutant::Patch {
            name: "swap-run-entries-only",
            what: "the entries are compared, and not the slots' pages",
        },
    ],
    runs: &[Run::new(Model::Sc, Extent::Bound(2))],
    program: |_| {
        let world = || {
            let kernel = pair(&[0, 1], 2);
            kernel.mm(0).madvise(page(0), 2 * P, Advice::PageOut).expect("private memory");
            assert_eq!(kernel.frame_of(0, 0), None, "it has left");
            kernel
        };
        boxed(
            scenario("thp-swap-in-half-cached", 1, world)
                .cpu("A loads", |k| assert_eq!(k.load(0, 0), Ok(7)))
                .cpu("B drops, stores, pages out", |k| {
                    k.madvise(0, 1, Advice::DontNeed);
                    assert_eq!(k.store(0, 1, 9), Ok(()));
                    k.page_out(0, 1);
                })
                .check(|k| finds(k, 0, [7, 9]).and_then(|()| k.check())),
        )
    },
};

/// A run comes back to one of two who share it.
pub const SHARED: Case = Case {
    name: "thp-swap-in-run-shared",
    title: "a folio comes back whole to one of its sharers, who writes, while the other's entries still name its slots",
    happened: "Linux, do_swap_page: a page is exclusive when it comes back if the entry says so, or nobody else needs the slot. Of a large folio, \
               all slots are asked (`swap_count`, 2023).",
    environment: "Parent and child share a folio that is in swap. The parent stores to its first page, the child loads both.",
    rule: "The folio is exclusive only if no slot has another owner.",
    mutants: &[Mutant::Patch {
        name: "swap-run-takes-shared",
        what: "the folio is exclusive though its slots have other owners",
    }],
    runs: &[Run::new(Model::Sc, Extent::Bound(1))],
    program: |_| {
        let world = || {
            let kernel = pair(&[0], 4);
            kernel.fork(0, 1, &[1]).expect("frames");
            assert!(kernel.reclaim_noted(), "nobody uses it");
            kernel
        };
        boxed(
            scenario("thp-swap-in-run-shared", 1, world)
                .cpu("the parent stores", |k| assert_eq!(k.store(0, 0, 1), Ok(())))
                .cpu("the child loads", |k| assert_eq!((k.load(1, 0), k.load(1, 1)), (Ok(7), Ok(8))))
                .check(|k| finds(k, 0, [1, 8]).and_then(|()| finds(k, 1, [7, 8])).and_then(|()| k.check())),
        )
    },
};

/// A run and a page want the same slots.
pub const CLAIM: Case = Case {
    name: "thp-swap-out-run-vs-page",
    title: "a folio takes a run of slots while a page takes one of them",
    happened: "This memory manager: a run is taken slot by slot, without the device's lock. Linux takes the lock of the cluster.",
    environment: "Two programs and a device of three slots. One lets a folio of two pages leave, the other a page.",
    rule: "A run with a slot of somebody else's is given up whole. What each program stored comes back.",
    mutants: &[Mutant::Patch {
        name: "swap-run-claims-taken",
        what: "a slot that somebody was faster at is taken for the run's all the same",
    }],
    runs: &[Run::new(Model::Sc, Extent::Bound(2))],
    program: |_| {
        let world = || {
            let kernel = pair(&[0], 3);
            kernel.spawn(1, &[1]);
            kernel.map(1, 1, 1, RW);
            kernel.store(1, 1, 5).expect("frames");
            kernel
        };
        boxed(
            scenario("thp-swap-out-run-vs-page", 1, world)
                .cpu("the folio leaves", |k| {
                    k.mm(0).madvise(page(0), 2 * P, Advice::PageOut).expect("private memory");
                })
                .cpu("the page leaves", |k| k.page_out(1, 1))
                .check(|k| {
                    if k.load(1, 1) != Ok(5) {
                        return Err(format!("5 was stored, found {:?}", k.load(1, 1)));
                    }
                    finds(k, 0, [7, 8]).and_then(|()| k.check())
                }),
        )
    },
};

/// A cached folio is split while one of its slots is freed.
pub const SPLIT: Case = Case {
    name: "thp-split-vs-slot-freed",
    title: "a folio in the swap cache is split while the last owner of one of its slots lets go",
    happened: "Linux, __folio_freeze_and_split_unmapped, holds the lock of the swap cluster while it splits a folio in the swap cache; without it, \
               __delete_from_swap_cache would put a reference to a folio that is being made.",
    environment: "Parent and child share a folio that came back to the child; the slots keep it for the parent. One CPU splits it, the parent \
                  drops its second page.",
    rule: "Whoever splits owns a count of every slot that has the folio, and finds no other reference.",
    mutants: &[Mutant::Patch {
        name: "split-takes-any-references",
        what: "whatever references there are pass for those of the slots",
    }],
    runs: &[Run::new(Model::Sc, Extent::Bound(2))],
    program: |_| {
        let world = || {
            let kernel = pair(&[0], 4);
            kernel.fork(0, 1, &[1]).expect("frames");
            assert!(kernel.reclaim_noted(), "nobody uses it");
            assert_eq!((kernel.load(1, 0), kernel.load(1, 1)), (Ok(7), Ok(8)));
            kernel.note_frame(1, 0);
            kernel
        };
        boxed(
            scenario("thp-split-vs-slot-freed", 1, world)
                .cpu("the parent drops", |k| k.madvise(0, 1, Advice::DontNeed))
                .cpu("split", split)
                .check(|k| finds(k, 0, [7, 0]).and_then(|()| finds(k, 1, [7, 8])).and_then(|()| k.check())),
        )
    },
};

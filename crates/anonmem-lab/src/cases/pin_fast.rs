//! Pins without a lock, against each of those who share pages or take them away: `pin_protocol.rs` draws who
//! waits for whom.

use super::{
    Case, Extent, Mutant, Run,
    folios::{pair, split},
    kernel::{Kernel, boxed, page, pages, scenario},
    pins::{one_page, same_page},
};
use crate::Model;
use anonmem::{LockMode, PinFlags, Prot};

/// How far pins without a lock are explored against each of their opponents.
const AGAINST_PINS: &[Run] = &[Run::new(Model::Sc, Extent::Bound(2)), Run::new(Model::C11, Extent::Bound(2))];
const FORK_IGNORES_PINS: Mutant =
    Mutant::Patch { name: "fork-ignores-pins", what: "fork shares a page that is pinned" };
const FENCE_OF_PINS: Mutant = Mutant::Patch {
    name: "pin-fast-no-fence",
    what: "pins are not ordered before the entry is looked at again",
};

/// The page of the case.
pub const FORK: Case = Case {
    name: "fork-vs-gup-fast",
    title: "a page is pinned without a lock while fork shares it",
    happened: "Linux 5.9 copied pinned pages in fork and asked for pins under the page-table lock, which GUP-fast does not take: a pin between the question and the \
               write protection was missed (commit 57efa1fe5957, 5.11: the sequence count).",
    environment: "CPU0 pins without a lock and stores; CPU1, another thread, forks, with the mmap lock for writing.",
    rule: "Fork sees the pin, or the pin sees fork: a page that stays pinned stays the parent's alone.",
    mutants: &[
        Mutant::Patch {
            name: "pin-fast-ignores-fork",
            what: "fork's sequence is not looked at again after the pin",
        },
        Mutant::Patch {
            name: "fork-no-pin-fence",
            what: "fork's sequence is not ordered before its question for pins",
        },
        FENCE_OF_PINS,
        FORK_IGNORES_PINS,
    ],
    runs: AGAINST_PINS,
    program: |_| {
        boxed(
            scenario("fork-vs-gup-fast", 1, || one_page(&[0, 1]))
                .cpu("pins without a lock", |k| k.pin_fast(0, 0, 0, PinFlags::WRITE).expect("frames"))
                .cpu("forks", |k| k.fork(0, 1, &[1]).expect("frames"))
                .check(|k| {
                    k.store_here(0, 0, 0, 8).expect("frames");
                    match k.load(1, 0) {
                        Ok(7) => same_page(k, 0, 8),
                        other => Err(format!("the child has {other:?}, not 7")),
                    }
                }),
        )
    },
};

/// The page of the case.
pub const SHARE: Case = Case {
    name: "gup-fast-vs-try-share",
    title: "a page is pinned without a lock while reclaim unmaps it",
    happened: "Linux 5.19 lets pages of exclusive entries become shared (swap-out, KSM, migration) only if they are not pinned, and asks after it has cleared the \
               entry; GUP-fast looks at the entry again after it has pinned. Both need a full fence in between (commit 088b8aa537c2, 6.1).",
    environment: "CPU0 pins without a lock, for writing; CPU1 reclaims the page, with its folio lock.",
    rule: "The sharer sees the pin, or the pin sees that the entry is gone: what is pinned is mapped.",
    mutants: &[
        Mutant::Patch {
            name: "try-share-no-fence",
            what: "the entry is not cleared before pins are looked for",
        },
        FENCE_OF_PINS,
        Mutant::Patch { name: "try-share-ignores-pins", what: "a page is shared although it is pinned" },
        Mutant::Patch {
            name: "pin-fast-no-second-look",
            what: "the entry is not looked at again after the pin",
        },
    ],
    runs: AGAINST_PINS,
    program: |_| {
        let world = || {
            let kernel = Kernel::new(64, LockMode::Mmap);
            kernel.swap_on(0, 2);
            kernel.spawn(0, &[0]);
            kernel.map(0, 0, 1, Prot::READ | Prot::WRITE);
            kernel.store(0, 0, 7).expect("frames");
            kernel.note_frame(0, 0);
            kernel
        };
        boxed(
            scenario("gup-fast-vs-try-share", 1, world)
                .cpu("pins without a lock", |k| k.pin_fast(0, 0, 0, PinFlags::WRITE).expect("frames"))
                .cpu("reclaims", |k| {
                    k.reclaim_noted();
                })
                .check(|k| same_page(k, 0, 7)),
        )
    },
};

/// The page of the case.
pub const TABLE_FREE: Case = Case {
    name: "gup-fast-vs-table-free",
    title: "a page is pinned through a page table that somebody takes away",
    happened: "Linux 2022 (khugepaged) and CVE-2025-38085 (hugetlb): GUP-fast walked a table that was freed or shared no more, and pinned what somebody else had \
               put into it.",
    environment: "CPU0 pins without a lock. CPU1, another thread, unmaps the page, whose table goes with it, and maps and stores to another, with the mmap lock \
                  for writing.",
    rule: "A table outlives the read section that found it, and an entry that is gone is seen to be gone.",
    mutants: &[Mutant::Patch {
        name: "pin-fast-outside-rcu",
        what: "the tables are walked outside of a read section",
    }],
    runs: AGAINST_PINS,
    program: |_| {
        boxed(
            scenario("gup-fast-vs-table-free", 1, || one_page(&[0, 1]))
                .cpu("pins without a lock", |k| {
                    let pinned = k.pin_fast(0, 0, 0, PinFlags::WRITE).is_ok();
                    k.notes[0].set(u64::from(pinned));
                })
                .cpu("unmaps, frees the table, maps elsewhere", |k| {
                    k.mm(0).munmap(pages(0, 1)).expect("no memory is needed");
                    k.vm.drain();
                    k.map(0, 32, 1, Prot::READ | Prot::WRITE);
                    assert_eq!(k.store(0, 32, 9), Ok(()));
                })
                .check(|k| {
                    let other = k.mm(0).pagemap(page(32)).pfn;
                    match (k.notes[0].get(), k.pinned_frame(0)) {
                        (1, pinned) if pinned == other => {
                            Err("a page was pinned that was never there".into())
                        }
                        (1, _) if k.device_load(0) != 7 => Err("the page that was pinned is another".into()),
                        _ => k.check(),
                    }
                }),
        )
    },
};

/// The page of the case.
pub const SPLIT: Case = Case {
    name: "gup-fast-vs-split",
    title: "the pages of a folio are pinned without a lock while the folio is split",
    happened: "Linux, try_grab_folio_fast: the folio of a page is asked for again once it is counted, because it may have been split, or freed and used anew.",
    environment: "CPU0 pins two pages, which are one folio, without a lock; CPU1 splits the folio. The program forks then, and stores.",
    rule: "What the folio says is read after the pin is counted: each page that is pinned stays the program's.",
    mutants: &[Mutant::Patch {
        name: "pin-fast-looks-too-early",
        what: "what the folio says is read before the pin is counted",
    }],
    runs: AGAINST_PINS,
    program: |_| {
        boxed(
            scenario("gup-fast-vs-split", 1, pair)
                .cpu("pins both without a lock", |k| {
                    let pinned = k.mm(0).pin_fast(pages(0, 2), PinFlags::WRITE).expect("frames");
                    *k.pinned[0].borrow_mut() = Some(pinned);
                })
                .cpu("split", split)
                .check(|k| {
                    let before = [0, 1].map(|n| k.frame_of(0, n));
                    k.fork(0, 1, &[1]).expect("frames");
                    for n in [0, 1] {
                        k.store_here(0, n, 0, 9).expect("mapped");
                        if k.frame_of(0, n) != before[n as usize] {
                            return Err(format!("page {n} is pinned, and was copied for its own program"));
                        }
                    }
                    k.check()
                }),
        )
    },
};

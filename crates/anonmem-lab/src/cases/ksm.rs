//! Pages that are merged with equal ones, met by everybody else.

use super::{
    Case, Extent, Mutant, Run,
    kernel::{Kernel, boxed, page, pages, scenario},
};
use crate::{Model, Scenario};
use anonmem::{Advice, LockMode, PinFlags, Prot, Unpin};

const RW: Prot = Prot::READ.union(Prot::WRITE);
const RUNS: &[Run] = &[Run::new(Model::Sc, Extent::Bound(2)), Run::new(Model::C11, Extent::Bound(1))];

/// A program of both CPUs has `n` pages that may be merged, each of which says 7. The scanner has seen them
/// once.
fn equal_pages(n: u64) -> Kernel {
    let kernel = Kernel::new(64, LockMode::Mmap);
    kernel.spawn(0, &[0, 1]);
    kernel.map(0, 0, n, RW);
    kernel.mm(0).madvise(page(0), pages(0, n).len(), Advice::Mergeable).expect("frames");
    (0..n).for_each(|nth| kernel.store(0, nth, 7).expect("frames"));
    (0..n).for_each(|nth| kernel.look_for_equal(0, nth));
    kernel
}

/// Page 0 waits for an equal one. The frame of page 1 is noted.
fn one_waits() -> Kernel {
    let kernel = equal_pages(2);
    kernel.look_for_equal(0, 0);
    kernel.note_frame(0, 1);
    kernel
}

/// Pages 0 and 2 wait for equal ones, which pages 1 and 3 are. Their frames are noted.
fn two_wait() -> Kernel {
    let kernel = equal_pages(2);
    kernel.map(0, 2, 2, RW);
    kernel.mm(0).madvise(page(2), pages(2, 2).len(), Advice::Mergeable).expect("frames");
    for nth in [2, 3] {
        kernel.store(0, nth, 5).expect("frames");
        kernel.look_for_equal(0, nth);
    }
    [0, 2].into_iter().for_each(|nth| kernel.look_for_equal(0, nth));
    kernel.note_frame(0, 1);
    kernel.note_frame_too(0, 3);
    kernel
}

/// Pages 0 and 1 are one. The frame of page 2 is noted.
fn two_are_one() -> Kernel {
    let kernel = equal_pages(3);
    kernel.look_for_equal(0, 0);
    kernel.look_for_equal(0, 1);
    assert_eq!(kernel.frame_of(0, 0), kernel.frame_of(0, 1));
    kernel.note_frame(0, 2);
    kernel
}

/// CPU 0 merges the noted page, if it can.
fn merging(name: &str, world: impl Fn() -> Kernel + 'static) -> Scenario<Kernel> {
    scenario(name, 1, world).cpu("merges equal pages", |k| k.look_at_noted())
}

/// Page `n` says `value`.
fn says(k: &Kernel, n: u64, value: u64) -> Result<(), String> {
    match k.load(0, n) {
        Ok(found) if found == value => Ok(()),
        other => Err(format!("page {n} says {other:?}, not {value}")),
    }
}

/// Whether pages `a` and `b` are one.
fn are_one(k: &Kernel, a: u64, b: u64) -> bool {
    k.frame_of(0, a).is_some() && k.frame_of(0, a) == k.frame_of(0, b)
}

/// The page of the case.
pub const WRITE: Case = Case {
    name: "ksm-write-after-compare",
    title: "a page is written between comparing and replacing",
    happened: "Linux, mm/ksm.c try_to_merge_one_page: pages are compared again once both are write-protected (write_protect_page) and flushed; what \
               was found equal before may be written meanwhile.",
    environment: "Pages 0 and 1 of a program say 7. CPU0 merges them. CPU1, a thread of the program, stores to both.",
    rule: "No store is lost, and each page says what was stored to it.",
    mutants: &[
        Mutant::Patch {
            name: "ksm-no-second-compare",
            what: "what was equal before the flush is taken for equal",
        },
        Mutant::Patch {
            name: "ksm-candidate-writable",
            what: "only one of the two pages is taken from its entries",
        },
    ],
    runs: RUNS,
    program: |_| {
        boxed(
            merging("ksm-write-after-compare", one_waits)
                .cpu("stores to both", |k| {
                    assert_eq!(k.store(0, 1, 8), Ok(()));
                    assert_eq!(k.store(0, 0, 9), Ok(()));
                })
                .check(|k| {
                    says(k, 1, 8)?;
                    says(k, 0, 9)?;
                    k.check()
                }),
        )
    },
};

/// The page of the case.
pub const FLUSH: Case = Case {
    name: "ksm-vs-late-flush",
    title: "a CPU writes to a merged page through a translation that it still has",
    happened: "Linux, 2017: reclaim had write-protected a page and put the flush off; KSM saw a read-only entry and did not flush either. Another CPU \
               wrote to the page after it had been compared.",
    environment: "Pages 0 and 1 are one, page 2 says the same, and CPU1 has a translation that lets it write there. CPU0 merges page 2 with them. CPU1 \
                  stores.",
    rule: "The store is in page 2 and in no other.",
    mutants: &[Mutant::Patch { name: "ksm-no-flush", what: "entries are taken, and no CPU is told" }],
    runs: RUNS,
    program: |_| {
        boxed(
            merging("ksm-vs-late-flush", two_are_one)
                .cpu("stores", |k| {
                    assert_eq!(k.store(0, 2, 8), Ok(()));
                    assert_eq!(k.store_word(0, 2, 1, 9), Ok(()));
                })
                .check(|k| {
                    says(k, 2, 8)?;
                    says(k, 0, 7)?;
                    says(k, 1, 7)?;
                    if k.load_word(0, 2, 1) != Ok(9) || k.load_word(0, 0, 1) != Ok(0) {
                        return Err("the second store is lost, or in a page of others".into());
                    }
                    k.check()
                }),
        )
    },
};

/// The page of the case.
pub const BATCH: Case = Case {
    name: "ksm-batch-vs-store",
    title: "a page is written while it is merged together with others, under one flush",
    happened: "Linux, mm/ksm.c write_protect_page flushes each page by itself. A batch has one flush, and whatever is compared before it may be written \
               through a translation that is older.",
    environment: "Pages 0 and 1 of a program say 7, pages 2 and 3 say 5. CPU0 merges both pairs at once. CPU1, a thread of the program, stores to page \
                  3, what it says first, and something else then.",
    rule: "No store is lost, and none is in a page of others.",
    mutants: &[
        Mutant::Patch {
            name: "ksm-batch-flushes-first",
            what: "the first page's entries are flushed, and the others' are not",
        },
        Mutant::Patch {
            name: "ksm-batch-compares-before",
            what: "pages are compared when they are taken from their entries, and not after the flush",
        },
    ],
    runs: RUNS,
    program: |_| {
        boxed(
            scenario("ksm-batch-vs-store", 1, two_wait)
                .cpu("merges equal pages", |k| k.look_at_both())
                .cpu("stores twice", |k| {
                    assert_eq!(k.store(0, 3, 5), Ok(()));
                    assert_eq!(k.store_word(0, 3, 1, 9), Ok(()));
                })
                .check(|k| {
                    for (n, value) in [(0, 7), (1, 7), (2, 5), (3, 5)] {
                        says(k, n, value)?;
                    }
                    if k.load_word(0, 3, 1) != Ok(9) || k.load_word(0, 2, 1) != Ok(0) {
                        return Err("the second store is lost, or in a page of others".into());
                    }
                    if !are_one(k, 0, 1) {
                        return Err("pages that nobody wrote to are not merged".into());
                    }
                    k.check()
                }),
        )
    },
};

/// The page of the case.
pub const PIN: Case = Case {
    name: "ksm-vs-gup-fast",
    title: "a page is pinned without a lock while it is merged with an equal one",
    happened: "Linux, folio_try_share_anon_rmap_pte: KSM takes the exclusive mark only after it has cleared and flushed the entry and found no pin. Before \
               5.19 a page could be pinned and merged, and a device and its program had two pages.",
    environment: "Pages 0 and 1 of a program say 7. CPU0 merges them. CPU1 pins page 1 without a lock; its device stores.",
    rule: "Program and device have the same page, and page 0 says 7.",
    mutants: &[Mutant::Patch {
        name: "migrate-ignores-pins",
        what: "a page is taken from its entries without asking for pins",
    }],
    runs: RUNS,
    program: |_| {
        boxed(
            merging("ksm-vs-gup-fast", one_waits)
                .cpu("pins, stores by a device", |k| {
                    k.pin_fast(0, 0, 1, PinFlags::WRITE).expect("frames");
                    k.device_store(0, 9);
                })
                .check(|k| {
                    says(k, 1, 9)?;
                    says(k, 0, 7)?;
                    if k.frame_of(0, 1) != k.pinned_frame(0) {
                        return Err("program and device have two pages".into());
                    }
                    k.unpin(0, Unpin::Dirty);
                    k.check()
                }),
        )
    },
};

/// The page of the case.
pub const REUSE: Case = Case {
    name: "ksm-vs-reuse",
    title: "the last one who has a merged page writes to it, while another page is merged into it",
    happened: "Linux, wp_can_reuse_anon_folio: a KSM page is never reused, because nothing that the writer can see says that nobody is about to come.",
    environment: "Pages 0 and 1 are one, and page 2 says the same. CPU0 merges page 2 with them. CPU1 unmaps page 0 and stores to page 1.",
    rule: "Page 1 says what was stored, page 2 says 7.",
    mutants: &[Mutant::Patch {
        name: "ksm-page-reused",
        what: "the only mapper of a merged page makes it its own",
    }],
    runs: RUNS,
    program: |_| {
        boxed(
            merging("ksm-vs-reuse", two_are_one)
                .cpu("unmaps one, stores to the other", |k| {
                    k.mm(0).munmap(pages(0, 1)).expect("no memory is needed");
                    assert_eq!(k.store(0, 1, 8), Ok(()));
                })
                .check(|k| {
                    says(k, 1, 8)?;
                    says(k, 2, 7)?;
                    k.check()
                }),
        )
    },
};

/// The page of the case.
pub const CONSENT: Case = Case {
    name: "ksm-vs-unmerge",
    title: "a program takes its consent back while its page is merged",
    happened: "Linux, mm/ksm.c: MADV_UNMERGEABLE holds the mmap lock for writing, and the scanner for reading, so that the two never meet. Here the scanner \
               holds no lock of the program's.",
    environment: "Pages 0 and 1 of a program say 7. CPU0 merges them. CPU1, a thread of the program, says that page 1 may not be merged.",
    rule: "When CPU1 is back, page 1 is the program's own, and stays so.",
    mutants: &[Mutant::Patch {
        name: "ksm-asks-consent-once",
        what: "consent is asked for only before the page is locked away",
    }],
    runs: RUNS,
    program: |_| {
        boxed(
            merging("ksm-vs-unmerge", one_waits)
                .cpu("takes consent back", |k| k.madvise(0, 1, Advice::Unmergeable))
                .check(|k| {
                    if are_one(k, 0, 1) {
                        return Err("a page without consent is merged".into());
                    }
                    says(k, 0, 7)?;
                    says(k, 1, 7)?;
                    k.check()
                }),
        )
    },
};

/// The page of the case.
pub const FORK: Case = Case {
    name: "ksm-vs-fork",
    title: "fork copies the entry of a page that is being merged",
    happened: "Linux, ksm_might_need_to_copy and rmap_walk_ksm: a child has the merged page by its parent's anon_vma, and the walk of the page must find \
               it there.",
    environment: "Pages 0 and 1 of a program say 7. CPU0 merges them. CPU1, a thread of the program, forks and stores to page 1.",
    rule: "The child reads 7 from both, the parent 7 and 8; every entry is found from its page.",
    mutants: &[Mutant::Patch { name: "ksm-one-place", what: "the node forgets where the second page was" }],
    runs: &[Run::new(Model::Sc, Extent::Bound(1))],
    program: |_| {
        boxed(
            merging("ksm-vs-fork", one_waits)
                .cpu("forks, stores", |k| {
                    k.fork(0, 1, &[1]).expect("frames");
                    assert_eq!(k.store(0, 1, 8), Ok(()));
                })
                .check(|k| {
                    says(k, 0, 7)?;
                    says(k, 1, 8)?;
                    if (k.load(1, 0), k.load(1, 1)) != (Ok(7), Ok(7)) {
                        return Err("the child has not what its parent had".into());
                    }
                    k.check()
                }),
        )
    },
};

/// The page of the case.
pub const ZAP: Case = Case {
    name: "ksm-vs-zap",
    title: "munmap drops an entry whose page is being merged",
    happened: "Linux, mm/ksm.c replace_page: the entry is asked again under its lock. Here it says that it waits, and munmap takes it away.",
    environment: "Pages 0 and 1 are one, and page 2 says the same. CPU0 merges page 2 with them. CPU1 unmaps pages 1 and 2.",
    rule: "Page 0 says 7, and nothing is left of the others.",
    mutants: &[Mutant::Patch {
        name: "zap-forgets-migrating",
        what: "the hold of a migration entry that is unmapped is not given back",
    }],
    runs: RUNS,
    program: |_| {
        boxed(
            merging("ksm-vs-zap", two_are_one)
                .cpu("unmaps two", |k| k.mm(0).munmap(pages(1, 2)).expect("no memory is needed"))
                .check(|k| {
                    says(k, 0, 7)?;
                    k.check()
                }),
        )
    },
};

/// The page of the case.
pub const ALONE: Case = Case {
    name: "ksm-alone-vs-zap",
    title: "munmap drops the last entry of a page that the scanner finds no equal of",
    happened: "The first stress of this scanner: it let go of its reference before the lock of the folio, and the folio was freed while it was locked.",
    environment: "Page 0 of a program has no equal. CPU0 looks at it. CPU1 unmaps it.",
    rule: "The page is freed, once, and unlocked.",
    mutants: &[Mutant::Patch {
        name: "ksm-lock-outlives-reference",
        what: "the scanner keeps the lock of a page longer than its reference",
    }],
    runs: RUNS,
    program: |_| {
        boxed(
            merging("ksm-alone-vs-zap", || {
                let kernel = equal_pages(1);
                kernel.note_frame(0, 0);
                kernel
            })
            .cpu("unmaps it", |k| k.mm(0).munmap(pages(0, 1)).expect("no memory is needed"))
            .check(Kernel::check),
        )
    },
};

/// Pages 0 and 1 were one, and have left to one slot.
fn both_have_left() -> Kernel {
    let kernel = Kernel::new(64, LockMode::Mmap);
    kernel.swap_on(0, 4);
    kernel.spawn(0, &[0, 1]);
    kernel.map(0, 0, 2, RW);
    kernel.mm(0).madvise(page(0), pages(0, 2).len(), Advice::Mergeable).expect("frames");
    (0..2).for_each(|nth| kernel.store(0, nth, 7).expect("frames"));
    [0, 1, 0, 1].into_iter().for_each(|nth| kernel.look_for_equal(0, nth));
    assert!(kernel.reclaim(kernel.frame_of(0, 0).expect("present")));
    kernel
}

/// The page of the case.
pub const SWAP: Case = Case {
    name: "ksm-swap-in",
    title: "two entries that had one merged page bring it back from its slot at once",
    happened: "Linux, ksm_might_need_to_copy: a page that was read from a slot can be mapped where its anon_vma and index say. Entries of others, that had the \
               merged page, get copies.",
    environment: "Pages 0 and 1 were one, and have left. CPU0 loads page 0, CPU1 stores to page 1.",
    rule: "Each finds its bytes; every entry is found from its page; the slot is free.",
    mutants: &[Mutant::Patch {
        name: "ksm-swap-in-no-copy",
        what: "a page is mapped at an index that is not its own",
    }],
    runs: RUNS,
    program: |_| {
        boxed(
            scenario("ksm-swap-in", 1, both_have_left)
                .cpu("loads", |k| {
                    assert_eq!(k.load(0, 0), Ok(7));
                })
                .cpu("stores", |k| {
                    assert_eq!(k.store(0, 1, 8), Ok(()));
                })
                .check(|k| {
                    says(k, 0, 7)?;
                    says(k, 1, 8)?;
                    k.check()
                }),
        )
    },
};

/// The page of the case.
pub const MOVES: Case = Case {
    name: "ksm-prune-vs-migrate",
    title: "the scanner looks for nodes whose pages are gone while a merged page moves to another frame",
    happened: "The stress of this scanner, on a busy machine: it had a reference to the old frame before the page moved, and its lock afterwards. \
               The old frame was mapped by nobody and still named the node, which was freed under the page. Under c11 the lab found that a free \
               frame said nothing of where the page had gone.",
    environment: "Pages 0 and 1 are one. CPU0 frees nodes whose pages are gone. CPU1 moves the page.",
    rule: "The page has its node, wherever it is.",
    mutants: &[
        Mutant::Patch {
            name: "ksm-old-frame-speaks-for-node",
            what: "the frame that a page has left says that its node is over",
        },
        Mutant::Patch {
            name: "ksm-move-unfenced",
            what: "nothing orders the new frame before the old one is free",
        },
    ],
    runs: RUNS,
    program: |_| {
        boxed(
            scenario("ksm-prune-vs-migrate", 1, || {
                let kernel = two_are_one();
                kernel.note_frame(0, 0);
                kernel
            })
            .cpu("frees nodes", Kernel::forget_gone)
            .cpu("moves the page", |k| _ = k.migrate_noted())
            .check(|k| {
                says(k, 0, 7)?;
                says(k, 1, 7)?;
                k.check()
            }),
        )
    },
};

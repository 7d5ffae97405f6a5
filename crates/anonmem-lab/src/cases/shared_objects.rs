//! Pages of shared objects.

use super::{
    Case, Extent, Mutant, Run,
    kernel::{Kernel, P, boxed, page, pages, scenario},
};
use crate::Model;
use anonmem::{Advice, FaultOutcome, LockMode, MapBacking, MapFlags, Prot};

const RW: Prot = Prot::READ.union(Prot::WRITE);
const BOTH: &[Run] = &[Run::new(Model::Sc, Extent::Bound(2)), Run::new(Model::C11, Extent::Bound(1))];
/// Where two preemptions are few executions.
const WEAK: &[Run] = &[Run::new(Model::Sc, Extent::Bound(2)), Run::new(Model::C11, Extent::Bound(2))];
const HAPPENED: &str = "Linux, mm/shmem.c: the page cache decides who was first; a punched hole and a fault of it exclude one another since 3.16 \
                        (CVE-2014-4171).";
const TWO: &str = "Two programs map one object; each holds its own mmap lock for reading, so that only the object's page table keeps them apart.";

/// The page of the case.
pub const FIRST: Case = Case {
    name: "shm-two-first-faults",
    title: "two programs touch the same page of an object first",
    happened: HAPPENED,
    environment: TWO,
    rule: "One page is made; each sees what the other stored.",
    mutants: &[Mutant::Patch {
        name: "shm-page-without-recheck",
        what: "the object's page is made without looking whether it is there",
    }],
    runs: BOTH,
    program: |_| {
        boxed(
            scenario("shm-two-first-faults", 1, || two_programs(LockMode::Mmap))
                .cpu("stores", |k| assert_eq!(k.store_word(0, 0, 1, 8), Ok(())))
                .cpu("stores", |k| assert_eq!(k.store_word(1, 0, 2, 9), Ok(())))
                .check(|k| {
                    let found = [0, 1].map(|mm| [1, 2].map(|word| k.load_word(mm, 0, word).ok()));
                    if found == [[Some(8), Some(9)]; 2] {
                        k.check()
                    } else {
                        Err(format!("8 and 9 were stored, found {found:?}"))
                    }
                }),
        )
    },
};

/// The page of the case.
pub const PUNCH: Case = Case {
    name: "shm-punch-vs-fault",
    title: "a hole is punched into an object while another program maps its page",
    happened: HAPPENED,
    environment: TWO,
    rule: "Both see one page; after the hole what was there before is gone.",
    mutants: &[Mutant::Patch {
        name: "shm-punch-ignores-references",
        what: "a page that only the object maps is dropped, whoever holds it",
    }],
    runs: WEAK,
    program: |_| {
        let world = || {
            let kernel = two_programs(LockMode::Mmap);
            assert_eq!(kernel.store(0, 0, 7), Ok(()));
            kernel
        };
        boxed(
            scenario("shm-punch-vs-fault", 2, world)
                .cpu("punches, stores", |k| {
                    k.madvise(0, 0, Advice::Remove);
                    assert_eq!(k.store_word(0, 0, 1, 8), Ok(()));
                })
                // No access: who reads what another punches has a race of his own.
                .cpu("faults it in", |k| k.madvise(1, 0, Advice::PopulateRead))
                .check(|k| match [0, 1].map(|mm| (k.load(mm, 0), k.load_word(mm, 0, 1))) {
                    [(Ok(0), Ok(8)), (Ok(0), Ok(8))] => k.check(),
                    found => Err(format!("8 was stored after the hole, found {found:?}")),
                }),
        )
    },
};

/// The page of the case.
pub const MOVES: Case = Case {
    name: "shm-move-vs-fault",
    title: "a page of an object goes to another frame while a program maps it",
    happened: "Linux, mm/migrate.c folio_migrate_mapping: the page cache's entry changes only if nobody else has a reference to the page.",
    environment: "Two programs map one object; the first has touched its page. CPU0 moves it to another frame. CPU1 runs the other program, which stores \
                  twice.",
    rule: "Both see one page, and every store.",
    mutants: &[Mutant::Patch {
        name: "shm-move-ignores-references",
        what: "the page is replaced though a fault has it, and is about to map it",
    }],
    runs: BOTH,
    program: |_| {
        let world = || {
            let kernel = two_programs(LockMode::Mmap);
            assert_eq!(kernel.store(0, 0, 7), Ok(()));
            kernel.note_frame(0, 0);
            kernel
        };
        boxed(
            scenario("shm-move-vs-fault", 1, world)
                .cpu("moves the page", |k| {
                    k.migrate_noted();
                })
                .cpu("stores twice", |k| {
                    assert_eq!(k.store_word(1, 0, 1, 8), Ok(()));
                    assert_eq!(k.store_word(1, 0, 2, 9), Ok(()));
                })
                .check(|k| {
                    let found = [0, 1].map(|mm| [0, 1, 2].map(|word| k.load_word(mm, 0, word).ok()));
                    if found == [[Some(7), Some(8), Some(9)]; 2] && k.frame_of(0, 0) == k.frame_of(1, 0) {
                        k.check()
                    } else {
                        Err(format!("7, 8 and 9 were stored, found {found:?}"))
                    }
                }),
        )
    },
};

/// The page of the case.
pub const SWAPS: Case = Case {
    name: "shm-swap-out-vs-fault",
    title: "a page of an object leaves for swap while a program maps it",
    happened: "Linux, mm/vmscan.c __remove_mapping: the page cache's entry becomes a swap entry only if the references of the cache and of reclaim are all \
               that there are; mm/shmem.c shmem_writeout.",
    environment: "Two programs map one object; the first has touched its page. CPU0 reclaims the page. CPU1 runs the other program, which stores twice.",
    rule: "Both see one page, and every store.",
    mutants: &[Mutant::Patch {
        name: "shm-swap-ignores-references",
        what: "the page leaves though a fault has it, and is about to map it",
    }],
    runs: BOTH,
    program: |_| {
        boxed(
            scenario("shm-swap-out-vs-fault", 1, || two_that_swap(2))
                .cpu("reclaims the page", |k| {
                    k.reclaim_noted();
                })
                .cpu("stores twice", |k| {
                    assert_eq!(k.store_word(1, 0, 1, 8), Ok(()));
                    assert_eq!(k.store_word(1, 0, 2, 9), Ok(()));
                })
                .check(|k| all_there(k, [7, 8, 9])),
        )
    },
};

/// The page of the case.
pub const SWAPS_AGAIN: Case = Case {
    name: "shm-swap-in-aba",
    title: "a page of an object leaves for the same slot again while a fault waits for it",
    happened: "Linux, mm/shmem.c shmem_swapin_folio: with the folio locked, it asks whether the folio still is in the swap cache, and whether the page cache \
               has the same swap entry.",
    environment: "Two programs map one object; the first has touched its page, and there is one slot. CPU0 reclaims the page, stores to it, and reclaims it \
                  again. CPU1 runs the other program, which stores.",
    rule: "Both see one page, and every store.",
    mutants: &[Mutant::Patch {
        name: "shm-swap-in-entry-only",
        what: "the page comes back that the slot had in memory when the fault looked",
    }],
    runs: &[Run::new(Model::Sc, Extent::Bound(2))],
    program: |_| {
        boxed(
            scenario("shm-swap-in-aba", 1, || two_that_swap(1))
                .cpu("reclaims, stores, reclaims", |k| {
                    k.reclaim_noted();
                    assert_eq!(k.store_word(0, 0, 1, 8), Ok(()));
                    k.note_frame(0, 0);
                    if k.noted.get().is_some() {
                        k.reclaim_noted();
                    }
                })
                .cpu("stores", |k| assert_eq!(k.store_word(1, 0, 2, 9), Ok(())))
                .check(|k| all_there(k, [7, 8, 9])),
        )
    },
};

/// The page of the case.
pub const LAST: Case = Case {
    name: "shm-last-user",
    title: "two programs stop using an object at the same time",
    happened: "Every reference count: the last user frees what the others may have filled a moment ago.",
    environment: "One program stores and unmaps the object, the other loads and unmaps it: each with its own mmap lock for writing.",
    rule: "Nothing is left, and nothing is freed twice.",
    mutants: &[Mutant::Patch {
        name: "shm-split-uncounted",
        what: "a VMA that is split does not count as another user",
    }],
    runs: BOTH,
    program: |_| {
        boxed(
            scenario("shm-last-user", 2, || two_programs(LockMode::Vma))
                .cpu("stores, unmaps", |k| {
                    assert_eq!(k.store(0, 1, 7), Ok(()));
                    k.mm(0).munmap(pages(0, 1)).expect("frames");
                    k.mm(0).munmap(pages(1, 1)).expect("frames");
                })
                .cpu("loads, unmaps", |k| {
                    assert!(matches!(k.load(1, 1), Ok(0 | 7)));
                    k.mm(1).munmap(pages(0, 2)).expect("frames");
                })
                .check(|k| match (k.load(0, 1), k.vm.stats().shared_objects) {
                    (Err(FaultOutcome::SegvMaperr), 0) => k.check(),
                    found => Err(format!("found {found:?} (a load, objects)")),
                }),
        )
    },
};

/// Two programs that map the two pages of one object.
fn two_programs(mode: LockMode) -> Kernel {
    let kernel = Kernel::new(80, mode);
    let object = kernel.vm.shm_new(2).expect("frames");
    for mm in 0..2 {
        kernel.spawn(mm, &[mm as u32]);
        kernel.map_as(mm, 0, 2, RW, MapFlags::empty(), MapBacking::Shared { object: object.id(), first: 0 });
    }
    drop(object);
    debug_assert_eq!(page(1).0 - page(0).0, P);
    kernel
}

/// The same, whose page 0 the first has stored 7 to; there is a swap device with so many slots.
fn two_that_swap(slots: u64) -> Kernel {
    let kernel = two_programs(LockMode::Mmap);
    kernel.swap_on(0, slots);
    assert_eq!(kernel.store(0, 0, 7), Ok(()));
    kernel.note_frame(0, 0);
    kernel
}

/// Whether both programs see these words in page 0, which is one page.
fn all_there(k: &Kernel, words: [u64; 3]) -> Result<(), String> {
    let found = [0, 1].map(|mm| [0, 1, 2].map(|word| k.load_word(mm, 0, word).ok()));
    if found == [words.map(Some); 2] && k.frame_of(0, 0) == k.frame_of(1, 0) {
        k.check()
    } else {
        Err(format!("{words:?} were stored, found {found:?}"))
    }
}

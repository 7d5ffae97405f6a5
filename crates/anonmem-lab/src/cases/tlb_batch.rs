//! Reclaim has taken a page and not flushed it yet, while somebody changes the mapping.

use super::{
    Case, Extent, Mutant, Run,
    kernel::{Kernel, P, boxed, page, pages, scenario},
};
use crate::{Model, Program};
use anonmem::{Advice, LockMode, Prot, RemapFlags};
use anonmem_sync::Ordering;

const HAPPENED: &str = "Linux 2017, \"mm, mprotect: flush TLB if potentially racing with a parallel reclaim leaving stale TLB \
    entries\". Reclaim clears entries and flushes many of them at once, later. mprotect, munmap, mremap find nothing mapped, skip their \
    own flush, and return while another thread still uses its old translation.";

const ENVIRONMENT: &str = "CPU0 reclaims the page and holds its folio lock, but no lock of the address space. CPU1 is a thread of the \
    program and has a writable translation. CPU2 is another; it holds the mmap lock.";

const WRITES_FIRST: Mutant = Mutant::Patch {
    name: "batch-writes-before-flush",
    what: "reclaim writes and frees the pages of a batch before it flushes",
};

const RUNS: &[Run] = &[Run::new(Model::Sc, Extent::Bound(2))];

/// The page of the case.
pub const MPROTECT: Case = Case {
    name: "tlb-mprotect-vs-batch",
    title: "a thread writes to memory that mprotect has made read-only",
    happened: HAPPENED,
    environment: ENVIRONMENT,
    rule: "Once mprotect has returned, nobody writes.",
    mutants: &[
        Mutant::Patch {
            name: "mprotect-ignores-batch",
            what: "mprotect flushes only if it has changed an entry itself",
        },
        WRITES_FIRST,
    ],
    runs: RUNS,
    program: mprotect,
};

/// The page of the case.
pub const DISCARD: Case = Case {
    name: "tlb-discard-vs-batch",
    title: "a thread reads what MADV_DONTNEED has dropped",
    happened: HAPPENED,
    environment: ENVIRONMENT,
    rule: "Once MADV_DONTNEED has returned, the page reads as zeroes.",
    mutants: &[Mutant::Patch {
        name: "zap-ignores-batch",
        what: "dropping a swap entry does not flush what reclaim has put off",
    }],
    runs: RUNS,
    program: discard,
};

/// The page of the case.
pub const MREMAP: Case = Case {
    name: "tlb-mremap-vs-batch",
    title: "a thread uses a page where it was before mremap",
    happened: HAPPENED,
    environment: ENVIRONMENT,
    rule: "Once mremap has returned, the old address faults.",
    mutants: &[Mutant::Patch {
        name: "mremap-ignores-batch",
        what: "moving a swap entry does not flush what reclaim has put off",
    }],
    runs: &[Run::new(Model::Sc, Extent::Bound(1))],
    program: mremap,
};

/// The page of the case.
pub const TWO_BATCHES: Case = Case {
    name: "tlb-two-batches-one-table",
    title: "a thread writes to memory that mprotect has made read-only, while two reclaimers are at work on one table",
    happened: "anonmem's own: a table says which batch has put off flushes of its entries, and has room for one.",
    environment: "CPU0 reclaims the page, CPU3 its neighbour of the same table. CPU1 is a thread of the program and has a writable \
                  translation. CPU2 is another; it holds the mmap lock.",
    rule: "Once mprotect has returned, nobody writes.",
    mutants: &[Mutant::Patch {
        name: "batch-takes-table-unflushed",
        what: "a batch puts its mark in the place of another's without flushing the table",
    }],
    runs: &[Run::new(Model::Sc, Extent::Bound(1))],
    program: two_batches,
};

fn two_batches(_: Option<&str>) -> Box<dyn Program> {
    let world = || {
        let kernel = world(2);
        kernel.notes[2].set(kernel.frame_of(0, 1).expect("present").0);
        kernel
    };
    boxed(
        scenario("tlb-two-batches-one-table", 2, world)
            .cpu("reclaims", |k| {
                k.reclaim(anonmem_hal::Pfn(k.notes[0].get()));
            })
            .cpu("uses the page", |k| {
                // Acquire pairs with CPU2's Release: what it did has been done.
                let changed = k.flag.load(Ordering::Acquire) == 1;
                let stored = k.store(0, 0, 8).is_ok();
                assert!(!(changed && stored), "an old translation was used");
                k.notes[1].set(stored.into());
            })
            .cpu("makes it read-only", |k| {
                k.mm(0).mprotect(pages(0, 1), Prot::READ).expect("it is mapped");
                k.flag.store(1, Ordering::Release);
            })
            .cpu("reclaims the next page", |k| {
                k.reclaim(anonmem_hal::Pfn(k.notes[2].get()));
            })
            .check(|k| {
                reads(k, 0, k.notes[1].get() == 1)?;
                reads(k, 1, false)?;
                k.check()
            }),
    )
}

fn world(nr_pages: u64) -> Kernel {
    let kernel = Kernel::new(40, LockMode::Mmap);
    kernel.swap_on(0, 2);
    kernel.spawn(0, &[1, 2]);
    kernel.map(0, 0, nr_pages, Prot::READ | Prot::WRITE);
    crate::Sim::on_cpu(1, || kernel.store_here(0, 0, 0, 7)).expect("frames");
    for n in 1..nr_pages {
        // The table is still needed when the first page has gone: freeing it would flush.
        kernel.store(0, n, 7).expect("frames");
    }
    kernel.notes[0].set(kernel.frame_of(0, 0).expect("present").0);
    kernel
}

/// CPU1 uses the page through its translation and says with `sees_old` whether it could; it must not be able
/// to when CPU2's `change` had returned before.
///
/// What it stored before is not lost, whichever way the page went: `now` reads the page in the end.
fn race(
    name: &str,
    nr_pages: u64,
    change: fn(&Kernel),
    sees_old: fn(&Kernel) -> bool,
    now: fn(&Kernel, bool) -> Result<(), String>,
) -> Box<dyn Program> {
    boxed(
        scenario(name, 2, move || world(nr_pages))
            .cpu("reclaims", |k| {
                k.reclaim(anonmem_hal::Pfn(k.notes[0].get()));
            })
            .cpu("uses the page", move |k| {
                // Acquire pairs with CPU2's Release: what it did has been done.
                let changed = k.flag.load(Ordering::Acquire) == 1;
                let old = sees_old(k);
                assert!(!(changed && old), "an old translation was used");
                k.notes[1].set(old.into());
            })
            .cpu("changes the mapping", move |k| {
                change(k);
                k.flag.store(1, Ordering::Release);
            })
            .check(move |k| {
                now(k, k.notes[1].get() == 1)?;
                k.check()
            }),
    )
}

/// Page `n` says 8 if that was stored, else 7.
fn reads(k: &Kernel, n: u64, stored: bool) -> Result<(), String> {
    let expected = if stored { 8 } else { 7 };
    match k.load(0, n) {
        Ok(found) if found == expected => Ok(()),
        found => Err(format!("{expected} was stored, found {found:?}")),
    }
}

fn mprotect(_: Option<&str>) -> Box<dyn Program> {
    let protect = |k: &Kernel| k.mm(0).mprotect(pages(0, 1), Prot::READ).expect("it is mapped");
    race("tlb-mprotect-vs-batch", 1, protect, |k| k.store(0, 0, 8).is_ok(), |k, stored| reads(k, 0, stored))
}

fn discard(_: Option<&str>) -> Box<dyn Program> {
    race(
        "tlb-discard-vs-batch",
        2,
        |k| k.madvise(0, 0, Advice::DontNeed),
        |k| k.load(0, 0) != Ok(0),
        |k, _| if k.load(0, 0) == Ok(0) { Ok(()) } else { Err("the page is not dropped".into()) },
    )
}

fn mremap(_: Option<&str>) -> Box<dyn Program> {
    let elsewhere = |k: &Kernel| {
        let flags = RemapFlags::MAYMOVE | RemapFlags::FIXED;
        // Not aligned to a table as the page is now: entries move one by one.
        k.mm(0).mremap(page(0), P, P, flags, page(9)).expect("room");
    };
    race("tlb-mremap-vs-batch", 2, elsewhere, |k| k.store(0, 0, 8).is_ok(), |k, stored| reads(k, 9, stored))
}

//! Leaves above the last level, against those who make them tables, share them or take them away. A leaf of
//! the simulated machine maps eight pages.

use super::{
    Case, Extent, Mutant, Run,
    kernel::{Kernel, P, boxed, page, scenario},
};
use crate::{Model, Sim};
use anonmem::{Advice, FolioMode, FolioPolicy, LockMode, PinFlags, Prot};
use anonmem_hal::Order;
use anonmem_sync::Ordering;

/// A program on `cpus` with a leaf at page 0, in which page 1 says 7. CPU 1 has read it, so that it knows a
/// clean translation of the whole leaf.
fn leaf(cpus: &[u32]) -> Kernel {
    let kernel = Kernel::new(96, LockMode::Mmap);
    kernel.spawn(0, cpus);
    kernel.map(0, 0, 8, Prot::READ | Prot::WRITE);
    assert!(kernel.mm(0).fault_leaf(page(0)), "a folio of eight pages");
    kernel.store(0, 1, 7).expect("mapped");
    // Clean, and not marked as free to be dropped any more: what only the next store changes.
    kernel.mm(0).madvise(page(0), 8 * P, Advice::Free).expect("private memory");
    let root = kernel.mm(0).root();
    if cpus.contains(&1) {
        assert_eq!(Sim::on_cpu(1, || kernel.sim.user_load(root, page(1))), Ok(7));
    }
    kernel
}

/// A fault makes a leaf where another thread needs a table.
pub const FAULT: Case = Case {
    name: "thp-leaf-fault-vs-table",
    title: "a fault zeroes a folio for a leaf; meanwhile another thread puts a table into its place",
    happened: "Linux, __do_huge_pmd_anonymous_page: the upper entry is looked at again under its lock, because it was empty when the fault began.",
    environment: "Two threads of one program, with folios of a leaf's size. A stores to page 0, B puts a guard on page 3.",
    rule: "The place of a leaf is asked again under the lock: what another thread has put there stays.",
    mutants: &[Mutant::Patch {
        name: "leaf-fault-without-second-look",
        what: "the leaf is put there because the place was empty when the fault began",
    }],
    runs: &[Run::new(Model::Sc, Extent::Bound(2))],
    program: |_| {
        let world = || {
            let kernel = Kernel::new(96, LockMode::Vma);
            kernel.vm.set_folio_policy(FolioPolicy::default().with(Order::new(3), FolioMode::Always));
            kernel.spawn(0, &[0, 1]);
            kernel.map(0, 0, 8, Prot::READ | Prot::WRITE);
            kernel
        };
        boxed(
            scenario("thp-leaf-fault-vs-table", 1, world)
                .cpu("A stores", |k| assert_eq!(k.store(0, 0, 1), Ok(())))
                .cpu("B guards", |k| k.madvise(0, 3, Advice::GuardInstall))
                .check(|k| match (k.load(0, 0), k.load(0, 3)) {
                    (Ok(1), Err(_)) => k.check(),
                    found => Err(format!("1 and a guard were put there, found {found:?}")),
                }),
        )
    },
};

/// The page of the case.
pub const SPLIT: Case = Case {
    name: "thp-leaf-split-vs-store",
    title: "a leaf becomes a table while a CPU stores through its translation of the leaf",
    happened: "AMD family 10h, erratum 383: translations of both sizes for one address are a machine check. Linux, __split_huge_pmd_locked, makes \
               the leaf invalid and flushes it before the table takes its place.",
    environment: "CPU0 drops one page of a leaf, with the mmap lock for reading. CPU1, another thread, knows the leaf clean, and stores to another page.",
    rule: "No CPU knows an address by two sizes; a store is in memory and in the dirty bit; the page that is dropped reads as zeroes.",
    mutants: &[
        Mutant::Patch {
            name: "leaf-split-no-flush",
            what: "the leaf's translations are not flushed before the table takes its place",
        },
        Mutant::Patch {
            name: "leaf-split-keeps-one-bit",
            what: "the first page's bit goes on saying of all pages that they are exclusive",
        },
        Mutant::Patch { name: "leaf-split-drops-dirty", what: "the pages are clean, whatever the leaf was" },
        Mutant::Patch { name: "leaf-split-table-unused", what: "the table does not count its entries" },
    ],
    runs: &[Run::new(Model::Sc, Extent::Bound(2)), Run::new(Model::C11, Extent::Bound(1))],
    program: |_| {
        boxed(
            scenario("thp-leaf-split-vs-store", 1, || leaf(&[0, 1]))
                .cpu("drops page 3", |k| k.madvise(0, 3, Advice::DontNeed))
                .cpu("stores to page 1", |k| {
                    k.store(0, 1, 8).expect("frames");
                    assert_eq!(k.load(0, 1), Ok(8));
                })
                .check(|k| {
                    if !k.mm(0).pagemap(page(1)).dirty {
                        return Err("page 1 was stored to and is clean".into());
                    }
                    match (k.load(0, 1), k.load(0, 3)) {
                        (Ok(8), Ok(0)) => k.check(),
                        found => Err(format!("8 was stored and a page dropped, found {found:?}")),
                    }
                }),
        )
    },
};

/// The page of the case.
pub const FORK: Case = Case {
    name: "thp-leaf-fork-vs-store",
    title: "fork shares a leaf while another thread stores to it",
    happened: "This memory manager: a leaf is shared by one entry, one table and one addition. Linux, copy_huge_pmd, takes both locks and write-protects \
               the parent's.",
    environment: "CPU0 forks, with the mmap lock for writing. CPU1, a thread of the parent, stores to the leaf.",
    rule: "Either the store comes before fork, and both have it, or the parent alone has it.",
    mutants: &[
        Mutant::Patch { name: "leaf-fork-keeps-write", what: "the parent's leaf stays writable" },
        Mutant::Patch { name: "leaf-fork-counts-once", what: "a leaf of the child counts one mapping" },
    ],
    runs: &[Run::new(Model::Sc, Extent::Bound(1))],
    program: |_| {
        boxed(
            scenario("thp-leaf-fork-vs-store", 1, || leaf(&[0, 1]))
                .cpu("forks", |k| k.fork(0, 1, &[0]).expect("frames"))
                .cpu("stores", |k| k.store(0, 1, 8).expect("frames"))
                .check(|k| match (k.load(0, 1), k.load(1, 1)) {
                    (Ok(8), Ok(7 | 8)) => k.check(),
                    found => Err(format!("8 was stored in the parent, found {found:?}")),
                }),
        )
    },
};

/// The page of the case.
pub const PIN: Case = Case {
    name: "thp-leaf-zap-vs-gup-fast",
    title: "a page of a leaf is pinned without a lock while the leaf is taken away",
    happened: "Linux, gup_fast_pmd_leaf: after the folio is grabbed, the upper entry is read again, because it may have been split or zapped since.",
    environment: "CPU0 drops the whole leaf, with the mmap lock for reading, and gets another leaf at another address, in the same frames. CPU1 pins \
                  a page of the first without a lock.",
    rule: "What is pinned when the pin returns was mapped there after the pin was counted. It is not what the other address maps now.",
    mutants: &[
        Mutant::Patch {
            name: "pin-leaf-no-second-look",
            what: "the leaf is not looked at again after the pin",
        },
        Mutant::Patch { name: "leaf-zap-no-flush", what: "a leaf that is dropped is not flushed" },
        Mutant::Patch {
            name: "leaf-zap-keeps-table",
            what: "the table that was kept for the leaf stays, and nobody knows of it",
        },
    ],
    runs: &[Run::new(Model::Sc, Extent::Bound(2))],
    program: |_| {
        boxed(
            scenario("thp-leaf-zap-vs-gup-fast", 1, || {
                let kernel = leaf(&[0, 1]);
                kernel.map(0, 8, 8, Prot::READ | Prot::WRITE);
                kernel
            })
            .cpu("drops the leaf", |k| {
                k.mm(0).madvise(page(0), 8 * P, Advice::DontNeed).expect("mapped");
                k.flag.store(1, Ordering::Release);
                assert!(k.mm(0).fault_leaf(page(8)), "a folio of eight pages");
            })
            .cpu("pins page 1, loads it", |k| {
                let gone = k.flag.load(Ordering::Acquire) == 1;
                k.pin_fast(0, 0, 1, PinFlags::WRITE).expect("frames");
                let word = k.load(0, 1).expect("mapped");
                assert!(word == 0 || word == 7 && !gone, "{word} after the leaf was dropped: {gone}");
            })
            .check(|k| {
                if k.pinned_frame(0) == k.frame_of(0, 9) {
                    return Err("the page of another address is pinned".into());
                }
                k.unpin(0, anonmem::Unpin::Clean);
                k.check()
            }),
        )
    },
};

//! Faults that end a program: by the time they say so it must be true.

use super::{
    Case, Extent, Mutant, Run,
    kernel::{Kernel, P, boxed, page, scenario},
};
use crate::{Inject, Model};
use anonmem::{Advice, FaultOutcome, LockMode, Prot, RemapFlags};

const RW: Prot = Prot::READ.union(Prot::WRITE);

/// The page of the case.
pub const GUARD: Case = Case {
    name: "speculative-guard-of-another",
    title: "a speculative fault dies of a guard that was installed at another address",
    happened: "This memory manager: a speculative fault walked to a page table, mremap took the table to another address, a guard was \
               installed there, and the fault read it and answered SIGSEGV, for an address that was mapped all the time.",
    environment: "CPU0 loads, without any lock. CPU1 moves the mapping, with the mmap lock for writing, and leaves an empty one behind \
                  (DONTUNMAP); then it installs a guard at the new place.",
    rule: "An answer that ends a program is given under the page-table lock, after the VMA was asked once more: the load succeeds.",
    mutants: &[Mutant::Patch {
        name: "speculative-marker-without-recheck",
        what: "what a marker says is answered without looking at the VMA again",
    }],
    runs: &[Run::new(Model::Sc, Extent::Bound(2)), Run::new(Model::C11, Extent::Bound(1))],
    program: |_| {
        let world = || {
            let kernel = Kernel::new(64, LockMode::Speculative);
            kernel.spawn(0, &[0, 1]);
            kernel.map(0, 0, 8, RW);
            // There is an anon_vma and a page table: a fault needs no lock.
            kernel.store(0, 7, 1).expect("frames");
            kernel
        };
        boxed(
            scenario("speculative-guard-of-another", 1, world)
                .cpu("loads", |k| assert_eq!(k.load(0, 0), Ok(0)))
                .cpu("moves, guards", |k| {
                    let flags = RemapFlags::MAYMOVE | RemapFlags::FIXED | RemapFlags::DONTUNMAP;
                    k.mm(0).mremap(page(0), 8 * P, 8 * P, flags, page(8)).expect("room");
                    k.madvise(0, 8, Advice::GuardInstall);
                })
                .check(|k| match (k.load(0, 0), k.load(0, 8), k.load(0, 15)) {
                    (Ok(0), Err(FaultOutcome::SegvMaperr), Ok(1)) => k.check(),
                    found => Err(format!("found {found:?} (where it was, at the guard, what moved)")),
                }),
        )
    },
};

/// The page of the case.
pub const DEVICE: Case = Case {
    name: "swap-error-of-another",
    title: "a fault dies of a device error that concerns another page",
    happened: "This memory manager: a fault read an entry and slept; another thread brought the page back, and the slot went to \
               another page. The fault read the slot, the device failed, and the answer was SIGBUS for a page in memory.",
    environment: "CPU0 loads, CPU1 loads the same page and then pages another one out, to the same slot: both with the mmap lock for \
                  reading. One transfer may fail.",
    rule: "A SIGBUS is given only while the entry is the one that could not be read.",
    mutants: &[Mutant::Patch {
        name: "swap-error-without-recheck",
        what: "a device error is answered without looking whether the entry is still there",
    }],
    runs: &[Run::new(Model::Sc, Extent::Bound(2)).with(Inject { at_most: 1, device: true, ..Inject::NONE })],
    program: |_| {
        let world = || {
            let kernel = Kernel::new(48, LockMode::Mmap);
            kernel.swap_on(0, 1);
            kernel.spawn(0, &[0, 1]);
            kernel.map(0, 0, 2, RW);
            (0..2).for_each(|n| kernel.store(0, n, 7 + n).expect("frames"));
            kernel.page_out(0, 0);
            kernel
        };
        boxed(
            scenario("swap-error-of-another", 1, world)
                .cpu("loads", |k| match k.load(0, 0) {
                    Ok(7) => {}
                    Err(FaultOutcome::Bus) => k.notes[0].set(1),
                    other => panic!("{other:?} instead of 7"),
                })
                .cpu("loads, pages out", |k| {
                    let there = k.load(0, 0) == Ok(7);
                    // If nothing has failed yet, the page is in memory for good.
                    k.notes[1].set(u64::from(there && k.sim.misfortunes() == 0));
                    k.page_out(0, 1);
                })
                .check(|k| match (k.notes[0].get(), k.notes[1].get(), k.load(0, 0), k.load(0, 1)) {
                    (1, 1, ..) => Err("SIGBUS for a page that was in memory".into()),
                    (_, _, Ok(7), Ok(8)) => k.check(),
                    found => Err(format!("7 and 8 were stored, found {found:?}")),
                }),
        )
    },
};

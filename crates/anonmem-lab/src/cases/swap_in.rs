//! Swapping in what others swap in, drop or swap out again meanwhile.

use super::{
    Case, Extent, Mutant, Run,
    kernel::{Kernel, boxed, scenario},
};
use crate::{Inject, Model, Program, Sim};
use anonmem::{Advice, LockMode, Prot};

const RW: Prot = Prot::READ.union(Prot::WRITE);

/// The page of the case.
pub const ABA: Case = Case {
    name: "swap-in-aba",
    title: "a fault waits for a page that is no longer the page of its entry, and the entry compares equal",
    happened: "Linux, 2010: a fault found the page of a slot in the swap cache and waited for its lock. Meanwhile the page \
               left the cache and its slot went to another page of the same address: the entry was the same number, \
               and the fault mapped the first page, which was somebody else's by then.",
    environment: "Two threads of one address space with a swap device of one slot. Both hold the mmap lock for reading: that \
                  is all that MADV_DONTNEED and MADV_PAGEOUT take.",
    rule: "After the folio's lock is taken, and again under the page-table lock, the slot is asked whether this is its page. \
           The last store is never lost.",
    mutants: &[
        Mutant::Patch { name: "swap-in-entry-only", what: "only the entry is compared" },
        Mutant::Patch {
            name: "swap-in-no-second-look",
            what: "the slot is not asked again under the page-table lock",
        },
    ],
    runs: &[Run::new(Model::Sc, Extent::Bound(2)), Run::new(Model::C11, Extent::Bound(1))],
    program: |_| {
        last_store_counts("swap-in-aba", |k| {
            k.madvise(0, 0, Advice::DontNeed);
            assert_eq!(k.store(0, 0, 8), Ok(()));
            k.page_out(0, 0);
        })
    },
};

/// The page of the case.
pub const TWICE: Case = Case {
    name: "swap-in-twice",
    title: "two threads read the same slot, and the second installs what it read before the first one's store",
    happened: "Linux, CVE-2024-26759: with a synchronous device the swap cache was skipped. Two threads read the same entry; \
               the first mapped its page, wrote to it, and reclaim put it into the same slot again; the second found \
               its entry unchanged and mapped what it had read long ago.",
    environment: "As in swap-in-aba.",
    rule: "A slot has one reader at a time, because its page is in the swap cache, locked, before it is read.",
    mutants: &[Mutant::Patch {
        name: "swap-in-without-cache",
        what: "the page is read without being in the swap cache, and the entry alone is compared",
    }],
    runs: &[Run::new(Model::Sc, Extent::Bound(2))],
    program: |_| {
        last_store_counts("swap-in-twice", |k| {
            assert_eq!(k.store(0, 0, 8), Ok(()));
            k.page_out(0, 0);
        })
    },
};

/// The page of the case.
pub const DROPPED: Case = Case {
    name: "swap-in-vs-dontneed",
    title: "a slot is freed while it is being read",
    happened: "This memory manager, found by this case: a fault read a slot; another thread dropped the page, and with it \
               the slot, which the device discarded; the device had nothing to read, and the fault ended in a SIGBUS, as \
               if the device were broken, although the address was valid all the time.",
    environment: "Two threads of one address space, each with the mmap lock for reading. In the second run a transfer may \
                  fail, and only then may there be a SIGBUS.",
    rule: "The load finds what was stored, or zeroes.",
    mutants: &[Mutant::Patch {
        name: "swap-read-error-without-recheck",
        what: "an error is believed without asking whether slot and entry are what they were (either would do here)",
    }],
    runs: &[
        Run::new(Model::Sc, Extent::Bound(2)),
        Run::new(Model::Sc, Extent::Bound(1)).with(Inject { at_most: 1, device: true, ..Inject::NONE }),
    ],
    program: |_| {
        boxed(
            scenario("swap-in-vs-dontneed", 1, || swapped_out(40, LockMode::Mmap))
                .cpu("loads", |k| match k.load(0, 0) {
                    Ok(0 | 7) => {}
                    Err(anonmem::FaultOutcome::Bus) if k.sim.misfortunes() == 1 => {}
                    other => panic!("{other:?} instead of 7 or 0"),
                })
                .cpu("MADV_DONTNEED", |k| k.madvise(0, 0, Advice::DontNeed)),
        )
    },
};

/// The page of the case.
pub const FREED: Case = Case {
    name: "swap-out-vs-slot-freed",
    title: "a page leaves to a slot that somebody is just letting go of",
    happened: "Linux, mm/swapfile.c swap_range_free: the device is told to discard a slot before the slot is free for others; zram frees what it has of a \
               slot, whoever's it is (swap_slot_free_notify).",
    environment: "Two programs and a device, from whose first slots both have one; that of the first is the next that CPU1 would look at. CPU0 drops its page; \
                  CPU1 lets another page of its own leave. Each holds its own mmap lock for reading.",
    rule: "Whoever has a slot finds there what was written for him.",
    mutants: &[Mutant::Patch {
        name: "swap-slot-free-before-discarded",
        what: "a slot can be claimed before the device was told to discard it",
    }],
    runs: &[Run::new(Model::Sc, Extent::Bound(2)), Run::new(Model::C11, Extent::Bound(1))],
    program: |_| {
        let world = || {
            let kernel = Kernel::new(64, LockMode::Mmap);
            kernel.swap_on(0, 4);
            for (program, cpu) in [(0, 0), (1, 1)] {
                kernel.spawn(program, &[cpu]);
                kernel.map(program, 0, 2, RW);
                (0..2).for_each(|n| kernel.store(program, n, 5).expect("frames"));
            }
            Sim::on_cpu(1, || kernel.page_out(1, 1));
            Sim::on_cpu(0, || kernel.page_out(0, 0));
            kernel
        };
        boxed(
            scenario("swap-out-vs-slot-freed", 1, world)
                .cpu("drops", |k| k.madvise(0, 0, Advice::DontNeed))
                .cpu("leaves", |k| k.page_out(1, 0))
                .check(|k| match k.load(1, 0) {
                    Ok(5) => k.check(),
                    other => Err(format!("5 was stored, found {other:?}")),
                }),
        )
    },
};

/// An address space, on two CPUs, with a page that says 7 and is on the device, which has one slot.
fn swapped_out(nr_frames: u64, mode: LockMode) -> Kernel {
    let kernel = Kernel::new(nr_frames, mode);
    kernel.swap_on(0, 1);
    kernel.spawn(0, &[0, 1]);
    kernel.map(0, 0, 1, RW);
    kernel.store(0, 0, 7).expect("frames");
    kernel.page_out(0, 0);
    kernel
}

/// CPU0 loads the page while CPU1 does `stores`, after which it says 8.
fn last_store_counts(name: &str, stores: impl Fn(&Kernel) + 'static) -> Box<dyn Program> {
    boxed(
        scenario(name, 1, || swapped_out(40, LockMode::Mmap))
            .cpu("loads", |k| match k.load(0, 0) {
                Ok(0 | 7 | 8) => {}
                other => panic!("{other:?} instead of 7, 0 or 8"),
            })
            .cpu("changes, swaps out", stores)
            .check(|k| match k.load(0, 0) {
                Ok(8) => k.check(),
                other => Err(format!("8 was stored last, found {other:?}")),
            }),
    )
}

//! Swapoff, against everybody who is at work on the device.

use super::{
    Case, Extent, Mutant, Run,
    kernel::{Kernel, boxed, scenario},
};
use crate::{Inject, Model};
use anonmem::{FaultOutcome, LockMode, Prot};

const RW: Prot = Prot::READ.union(Prot::WRITE);
const RUNS: &[Run] = &[Run::new(Model::Sc, Extent::Bound(2))];

/// The page of the case.
pub static FAULT: Case = Case {
    name: "swapoff-vs-fault",
    title: "swapoff frees the device while a fault holds an entry of it",
    happened: "Linux until 4.21 (\"mm, swap: fix race between swapoff and some swap operations\"): a fault read an entry, \
               swapoff brought the page back and freed the device's arrays, and the fault looked up its slot in freed memory.",
    environment: "CPU0 takes the device out of use, holding no lock; it takes the mmap lock of each address space for reading. CPU1 \
                  loads, under the mmap lock for reading. In the second run a transfer may fail.",
    rule: "Who works on a slot without owning a count of it is a user of the device, and swapoff waits for the users. The load \
           finds what was stored; if the device failed, a SIGBUS.",
    mutants: &[Mutant::Patch {
        name: "swap-fault-no-device-user",
        what: "a fault does not keep the device from going away",
    }],
    runs: &[
        Run::new(Model::Sc, Extent::Bound(2)),
        Run::new(Model::Sc, Extent::Bound(1)).with(Inject { at_most: 1, device: true, ..Inject::NONE }),
    ],
    program: |_| {
        boxed(
            scenario("swapoff-vs-fault", 1, || one_page(true))
                .cpu("swapoff", swap_off)
                .cpu("loads", |k| match k.load(0, 0) {
                    Ok(7) => {}
                    Err(FaultOutcome::Bus) if k.sim.misfortunes() == 1 => k.notes[0].set(1),
                    other => panic!("{other:?} instead of 7"),
                })
                .check(|k| match k.load(0, 0) {
                    Ok(7) => finally(k),
                    // The page was lost with the device, or the transfer that failed was another one.
                    Err(FaultOutcome::Bus) if k.notes[1].get() == 1 => finally(k),
                    other => Err(format!("7 was stored, found {other:?}")),
                }),
        )
    },
};

/// The page of the case.
pub static ALLOC: Case = Case {
    name: "swapoff-vs-alloc",
    title: "swapoff frees a device's slots under an allocation that found it open",
    happened: "This memory manager: an allocation saw the device open, swapoff closed it, found no slot in use and freed the \
               slots; then the allocation took one of them, in memory that was somebody else's by then.",
    environment: "CPU0 takes the device out of use, holding no lock. CPU1 pages out, under the mmap lock for reading.",
    rule: "An allocation is a user of the device, and swapoff looks for slots in use once more when the last user is gone.",
    mutants: &[
        Mutant::Patch {
            name: "swap-claim-no-device-user",
            what: "an allocation does not keep the device from going away",
        },
        Mutant::Patch {
            name: "swapoff-no-second-look",
            what: "swapoff does not look for slots in use again when the last user is gone",
        },
    ],
    runs: RUNS,
    program: |_| {
        boxed(
            scenario("swapoff-vs-alloc", 1, || one_page(false))
                .cpu("swapoff", swap_off)
                .cpu("pages out", |k| k.page_out(0, 0))
                .check(|k| in_memory(k, &[0])),
        )
    },
};

/// The page of the case.
pub static FORK: Case = Case {
    name: "swapoff-vs-fork",
    title: "swapoff passes by an entry that fork is about to copy",
    happened: "Linux, many times since 2.4: swapoff visits the address spaces one by one, and an entry that fork copies from one \
               not yet visited into one that was visited already stays behind on a device that is freed.",
    environment: "CPU0 takes the device out of use, holding no lock; CPU1 forks, holding the parent's mmap lock for \
                  writing.",
    rule: "Swapoff goes round until no slot is in use, whatever it has visited.",
    mutants: &[Mutant::Patch {
        name: "swapoff-one-round",
        what: "swapoff visits every address space once and frees the device",
    }],
    runs: &[Run::new(Model::Sc, Extent::Bound(1))],
    program: |_| {
        boxed(
            scenario("swapoff-vs-fork", 1, visited_first)
                .cpu("swapoff", swap_off)
                .cpu("forks", |k| k.fork(0, 1, &[1]).expect("frames"))
                .check(|k| in_memory(k, &[0, 1])),
        )
    },
};

/// An address space on two CPUs with a page that says 7, and a device of one slot, where the page is if `out`.
fn one_page(out: bool) -> Kernel {
    let kernel = Kernel::new(48, LockMode::Mmap);
    kernel.swap_on(0, 1);
    kernel.spawn(0, &[0, 1]);
    kernel.map(0, 0, 1, RW);
    kernel.store(0, 0, 7).expect("frames");
    if out {
        kernel.page_out(0, 0);
    }
    kernel
}

/// As `one_page(true)`, where a child will have a lower number than its parent: swapoff comes by there first.
fn visited_first() -> Kernel {
    let kernel = Kernel::new(64, LockMode::Mmap);
    kernel.swap_on(0, 1);
    kernel.spawn(1, &[1]);
    kernel.spawn(0, &[0, 1]);
    kernel.exit(1);
    kernel.map(0, 0, 1, RW);
    kernel.store(0, 0, 7).expect("frames");
    kernel.page_out(0, 0);
    kernel
}

/// Notes whether swapoff itself met a failing transfer.
fn swap_off(k: &Kernel) {
    let before = k.sim.misfortunes();
    k.vm.swap_off(0).expect("frames");
    k.notes[1].set(u64::from(k.sim.misfortunes() > before));
}

/// The page is not on the device any more, in none of `mms`, and says 7.
fn in_memory(k: &Kernel, mms: &[usize]) -> Result<(), String> {
    for &mm in mms {
        // A load would wait for a device that is gone for ever.
        if k.frame_of(mm, 0).is_none() {
            return Err(format!("the page of address space {mm} is not in memory after swapoff"));
        }
        match k.load(mm, 0) {
            Ok(7) => {}
            other => return Err(format!("7 was stored, found {other:?}")),
        }
    }
    finally(k)
}

fn finally(k: &Kernel) -> Result<(), String> {
    match k.vm.swap_devices().count() {
        0 => k.check(),
        n => Err(format!("{n} devices are in use after swapoff")),
    }
}

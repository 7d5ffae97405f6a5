//! Swapoff, against everybody who is at work on the device.

use super::{
    Case, Extent, Mutant, Run,
    kernel::{Kernel, P, boxed, page, scenario},
};
use crate::{Inject, Model};
use anonmem::{FaultOutcome, LockMode, Prot};

const RW: Prot = Prot::READ.union(Prot::WRITE);
const RUNS: &[Run] = &[Run::new(Model::Sc, Extent::Bound(2))];
/// Where two preemptions are few executions.
const WEAK: &[Run] = &[Run::new(Model::Sc, Extent::Bound(2)), Run::new(Model::C11, Extent::Bound(2))];

/// The page of the case.
pub const FAULT: Case = Case {
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
                    // A SIGBUS, if the load's own transfer failed or swapoff's did.
                    Err(FaultOutcome::Bus | FaultOutcome::Lost) if k.sim.misfortunes() == 1 => {
                        k.notes[0].set(1);
                    }
                    other => panic!("{other:?} instead of 7"),
                })
                .check(|k| match k.load(0, 0) {
                    Ok(7) => finally(k),
                    // The page was lost with the device, or the transfer that failed was another one.
                    Err(FaultOutcome::Lost) if k.notes[1].get() == 1 => finally(k),
                    other => Err(format!("7 was stored, found {other:?}")),
                }),
        )
    },
};

/// The page of the case.
pub const ALLOC: Case = Case {
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
pub const FORK: Case = Case {
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
    runs: &[Run::new(Model::Sc, Extent::Bound(1)), Run::new(Model::C11, Extent::Bound(2))],
    program: |_| {
        boxed(
            scenario("swapoff-vs-fork", 1, visited_first)
                .cpu("swapoff", swap_off)
                .cpu("forks", |k| k.fork(0, 1, &[1]).expect("frames"))
                .check(|k| in_memory(k, &[0, 1])),
        )
    },
};

const SHRUNK: &str = "This memory manager: who has read an entry keeps the device from going away a moment later, and found a device: \
                      the one that had come under the same number meanwhile, with fewer slots. The slot was beyond its end.";
const SMALLER: &str = "CPU0 takes the device, of four slots, out of use and brings it back with one, holding no lock. CPU1 acts under the \
                       mmap lock for reading.";

/// The page of the case.
pub const SMALLER_FAULT: Case = Case {
    name: "swapoff-smaller-vs-fault",
    title: "a fault looks its slot up on a smaller device that has come under the same number",
    happened: SHRUNK,
    environment: SMALLER,
    rule: "A slot that nobody owns a count of may be missing: the load finds what was stored.",
    mutants: &[
        Mutant::Patch {
            name: "swap-lookup-length-unasked",
            what: "the look for a cached page does not ask whether there is such a slot",
        },
        Mutant::Patch {
            name: "swap-cache-length-unasked",
            what: "making a page a slot's cached page does not ask whether there is such a slot",
        },
    ],
    runs: RUNS,
    program: |_| {
        boxed(
            scenario("swapoff-smaller-vs-fault", 1, beyond_the_first)
                .cpu("swapoff, swapon", swap_off_and_on)
                .cpu("loads", |k| assert_eq!(k.load(0, 0), Ok(7)))
                .check(|k| match k.load(0, 0) {
                    Ok(7) => k.check(),
                    other => Err(format!("7 was stored, found {other:?}")),
                }),
        )
    },
};

/// The page of the case.
pub const SMALLER_MINCORE: Case = Case {
    name: "swapoff-vs-mincore",
    title: "mincore asks for a slot's page while the device goes, and comes back smaller",
    happened: SHRUNK,
    environment: SMALLER,
    rule: "mincore tells something and touches nothing that is freed.",
    mutants: &[
        Mutant::Patch {
            name: "mincore-no-device-user",
            what: "mincore looks at a slot of a device that may be going away",
        },
        Mutant::Patch {
            name: "swapoff-without-grace-period",
            what: "swapoff looks for users without waiting for those who have found the device and are not counted yet",
        },
        Mutant::Patch {
            name: "swap-cached-length-unasked",
            what: "the question for a slot's cached page does not ask whether there is such a slot",
        },
    ],
    runs: WEAK,
    program: |_| {
        boxed(
            scenario("swapoff-vs-mincore", 1, beyond_the_first)
                .cpu("swapoff, swapon", swap_off_and_on)
                .cpu("mincore", |k| {
                    let mut told = 0;
                    k.mm(0).mincore(page(0), 2 * P, &mut |_| told += 1).expect("mapped");
                    assert_eq!(told, 2, "one answer for each page");
                })
                .check(|k| match k.load(0, 0) {
                    Ok(7) => k.check(),
                    other => Err(format!("7 was stored, found {other:?}")),
                }),
        )
    },
};

/// Two pages that say 7, of which the first is on the device, in another slot than its first.
fn beyond_the_first() -> Kernel {
    let kernel = Kernel::new(64, LockMode::Mmap);
    kernel.swap_on(0, 4);
    kernel.spawn(0, &[0, 1]);
    kernel.map(0, 0, 2, RW);
    (0..2).for_each(|n| kernel.store(0, n, 7).expect("frames"));
    kernel.page_out(0, 1);
    kernel.page_out(0, 0);
    assert_eq!(kernel.load(0, 1), Ok(7));
    kernel
}

fn swap_off_and_on(k: &Kernel) {
    k.vm.swap_off(0).expect("frames");
    k.swap_on(0, 1);
}

/// An address space on two CPUs with a page that says 7, and a device of one slot, where the page is if
/// `out`.
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

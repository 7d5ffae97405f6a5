//! Pages that leave their frames while swap devices, or the frames themselves, go out of use.

use super::{
    Case, Extent, Mutant, Run,
    kernel::{Kernel, boxed, page, scenario},
};
use crate::Model;
use anonmem::{
    Advice, BlockEffort, CollapseLimits, Failure, FolioMode, FolioPolicy, FrameFate, LockMode, Prot,
};
use anonmem_hal::Order;

const RW: Prot = Prot::READ.union(Prot::WRITE);
const HAPPENED: &str = "This memory manager: a locked page told its slot, and the slot was looked up without keeping its device. Who drops the last count of a \
                        slot does not lock the page; then swapoff has nothing to wait for, and frees the device's arrays.";
const RULE: &str = "Whoever looks at a slot without owning a count of it is a user of the device.";

/// Drops page `n` of program 1, the last that needed its slot; the device goes, and comes back with one slot.
fn drop_and_swap_off(k: &Kernel, n: u64) {
    k.madvise(1, n, Advice::DontNeed);
    k.vm.swap_off(0).expect("frames");
    k.swap_on(0, 1);
}

/// Parent and child have page 1 in a slot that is not the device's first; the parent has brought it back, so
/// that it is cached. The frame is noted.
fn cached_page() -> Kernel {
    let kernel = Kernel::new(64, LockMode::Mmap);
    kernel.swap_on(0, 4);
    kernel.spawn(0, &[0]);
    kernel.map(0, 0, 2, RW);
    (0..2).for_each(|n| kernel.store(0, n, 7).expect("frames"));
    kernel.page_out(0, 0);
    kernel.fork(0, 1, &[1]).expect("frames");
    assert!(kernel.reclaim(kernel.frame_of(0, 1).expect("present")));
    assert_eq!((kernel.load(0, 1), kernel.load(0, 0), kernel.load(1, 0)), (Ok(7), Ok(7), Ok(7)));
    kernel.note_frame(0, 1);
    kernel
}

/// The page of the case.
pub const MIGRATE: Case = Case {
    name: "migrate-vs-swapoff",
    title: "a page moves whose slot is freed, and whose device goes and comes back smaller",
    happened: HAPPENED,
    environment: "Parent and child have a page in one slot; the parent has brought it back, so that it is cached. CPU0 moves it to another frame. CPU1 drops \
                  it in the child, takes the device out of use and brings it back with one slot.",
    rule: RULE,
    mutants: &[Mutant::Patch {
        name: "migrate-no-device-user",
        what: "whether a slot has the page is asked without keeping the device",
    }],
    runs: &[Run::new(Model::Sc, Extent::Bound(2)), Run::new(Model::C11, Extent::Bound(1))],
    program: |_| {
        boxed(
            scenario("migrate-vs-swapoff", 1, cached_page)
                .cpu("moves the page", |k| {
                    k.migrate_noted();
                })
                .cpu("drops, swapoff, swapon", |k| drop_and_swap_off(k, 1))
                .check(|k| match k.load(0, 1) {
                    Ok(7) => k.check(),
                    other => Err(format!("7 was stored, found {other:?}")),
                }),
        )
    },
};

/// A parent with four pages in two folios. The first is cached in slots that are not the device's first; its
/// page 0 is the parent's own, its page 1 the child's as well.
fn cached_folio() -> Kernel {
    let kernel = Kernel::new(96, LockMode::Mmap);
    kernel.vm.set_folio_policy(FolioPolicy::default().with(Order::new(1), FolioMode::Always));
    kernel.swap_on(0, 4);
    kernel.spawn(0, &[0]);
    kernel.map(0, 0, 4, RW);
    (0..4).for_each(|n| kernel.store(0, n, 7).expect("frames"));
    kernel.madvise(0, 0, Advice::DontFork);
    kernel.fork(0, 1, &[1]).expect("frames");
    kernel.madvise(0, 0, Advice::DoFork);
    assert!(kernel.reclaim(kernel.frame_of(0, 2).expect("present")), "slots 0 and 1");
    assert!(kernel.reclaim(kernel.frame_of(0, 0).expect("present")), "slots 2 and 3");
    (0..4).for_each(|n| assert_eq!(kernel.load(0, n), Ok(7)));
    (2..4).for_each(|n| assert_eq!(kernel.load(1, n), Ok(7)));
    let first = kernel.frame_of(0, 0).expect("present");
    assert_eq!(kernel.frame_of(0, 1), Some(first.offset(1)), "a folio of two pages");
    let own = |n| kernel.mm(0).pagemap(page(n)).exclusive;
    assert_eq!((own(0), own(1)), (true, false), "of which one is the child's as well");
    kernel
}

/// The page of the case.
pub const COLLAPSE: Case = Case {
    name: "collapse-vs-swapoff",
    title: "a folio becomes a part of a larger one, while its slots are freed and their device goes and comes back smaller",
    happened: HAPPENED,
    environment: "One page of a folio of two is the parent's alone; the other is its child's as well, and the child's is in swap. CPU0 makes a folio of \
                  four pages of the parent's. CPU1 drops the page in the child, takes the device out of use and brings it back with one slot.",
    rule: RULE,
    mutants: &[Mutant::Patch {
        name: "collapse-no-device-user",
        what: "whether slots have pages of a folio is asked without keeping the device",
    }],
    runs: &[Run::new(Model::Sc, Extent::Bound(1))],
    program: |_| {
        boxed(
            scenario("collapse-vs-swapoff", 1, cached_folio)
                .cpu("collapses", |k| {
                    let _ = k.mm(0).collapse(page(0), Order::new(2), CollapseLimits::ANY, BlockEffort::Free);
                })
                .cpu("drops, swapoff, swapon", |k| drop_and_swap_off(k, 1))
                .check(|k| {
                    for n in 0..4 {
                        if k.load(0, n) != Ok(7) {
                            return Err(format!("7 was stored to page {n}, found {:?}", k.load(0, n)));
                        }
                    }
                    k.check()
                }),
        )
    },
};

/// The page of the case.
pub const FAILS: Case = Case {
    name: "frame-fails-vs-zap",
    title: "a frame is told to have failed while the page in it is dropped",
    happened: "This memory manager: the frame was free by the time that its page was asked for; so the call said that there is none, and the allocator had \
               the frame. Linux, mm/memory-failure.c: a page that became free meanwhile is taken off the buddy lists (take_page_off_buddy).",
    environment: "CPU0 is told that the bytes of a frame are lost. CPU1 runs the program whose page is there, and drops it. Who preempts CPU1 may find the \
                  frame with nobody and not free, so one preemption is all that the rule holds for.",
    rule: "If the page was gone before the call was back, the frame is out of use.",
    mutants: &[Mutant::Patch {
        name: "failed-frame-stays-free",
        what: "a frame that became free meanwhile is left to the allocator",
    }],
    runs: &[Run::new(Model::Sc, Extent::Bound(1))],
    program: |_| {
        let world = || {
            let kernel = Kernel::new(48, LockMode::Mmap);
            kernel.spawn(0, &[1]);
            kernel.map(0, 0, 1, RW);
            kernel.store(0, 0, 7).expect("frames");
            kernel.note_frame(0, 0);
            kernel
        };
        boxed(
            scenario("frame-fails-vs-zap", 1, world)
                .cpu("the frame has failed", |k| {
                    let frame = k.noted_frame().expect("noted");
                    let fate = k.vm.frame_failed(frame, Failure::Lost);
                    if k.notes[0].get() == 1 {
                        assert!(matches!(fate, Ok(FrameFate::Free | FrameFate::Poisoned(_))), "{fate:?}");
                    }
                })
                .cpu("drops", |k| {
                    k.madvise(0, 0, Advice::DontNeed);
                    k.notes[0].set(1);
                })
                .check(Kernel::check),
        )
    },
};

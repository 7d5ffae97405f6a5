//! Which CPUs a flush must reach, and what may happen before it has.

use super::{
    Case, Extent, Mutant, Run,
    kernel::{Kernel, boxed, scenario},
};
use crate::{Model, Sim};
use anonmem::{Advice, LockMode, Prot};
use anonmem_sync::Ordering;

const RW: Prot = Prot::READ.union(Prot::WRITE);

/// The page of the case.
pub const SWITCH: Case = Case {
    name: "switch-vs-flush",
    title: "a CPU switches to an address space that another one is flushing",
    happened: "Linux, switch_mm_irqs_off: \"the barrier synchronizes with tlb_gen\"; wrong orders of the mask of CPUs and the first walk \
               were found on x86 in 2016 and 2017 and on arm64 and powerpc since.",
    environment: "CPU0 drops a page, with the mmap lock for reading. CPU1 loads the address space's root and then the page.",
    rule: "Either the flush reaches the CPU, or the CPU's walks see that the entry is gone.",
    mutants: &[
        Mutant::Patch { name: "switch-no-fence", what: "nothing orders the CPU's bit before its first walk" },
        Mutant::Patch {
            name: "flush-no-fence",
            what: "nothing orders the cleared entry before the look at the CPUs",
        },
        Mutant::Patch {
            name: "switch-unannounced",
            what: "a CPU is not noted as one that runs the address space",
        },
    ],
    runs: &[Run::new(Model::Sc, Extent::Exhaust), Run::new(Model::C11, Extent::Bound(2))],
    program: |_| {
        boxed(
            scenario("switch-vs-flush", 1, || two_pages(&[0]))
                .cpu("drops the page", |k| {
                    k.madvise(0, 0, Advice::DontNeed);
                    k.flag.store(1, Ordering::Release);
                })
                .cpu("switches, loads", |k| {
                    k.switch_to(0, 1);
                    for _ in 0..2 {
                        let dropped = k.flag.load(Ordering::Acquire) == 1;
                        match k.load(0, 0) {
                            Ok(0) => {}
                            Ok(7) if !dropped => {}
                            other => panic!("{other:?} after it was dropped: {dropped}"),
                        }
                    }
                }),
        )
    },
};

/// The page of the case.
pub const COW_ON_THREE: Case = Case {
    name: "cow-on-three-cpus",
    title: "one CPU copies a page, one stores to the copy, one still reads the original",
    happened: "Linux, wp_page_copy: \"Clear the pte entry and flush it first, before updating the pte with the new entry, to keep TLBs on \
               different CPUs in sync.\"",
    environment: "Three threads of a parent whose child shares the page; each fault holds the mmap lock for reading.",
    rule: "Who has learned of a store reads it.",
    mutants: &[
        Mutant::Patch { name: "cow-no-flush", what: "the old page's translations are not flushed" },
        Mutant::Patch { name: "cow-late-flush", what: "they are flushed after the copy can be reached" },
    ],
    runs: &[Run::new(Model::Sc, Extent::Bound(2)), Run::new(Model::C11, Extent::Bound(1))],
    program: |_| {
        let world = || {
            let kernel = two_pages(&[0, 1, 2]);
            kernel.fork(0, 1, &[3]).expect("frames");
            assert_eq!(
                Sim::on_cpu(2, || kernel.sim.user_load(kernel.mm(0).root(), super::kernel::page(0))),
                Ok(7)
            );
            kernel
        };
        boxed(
            scenario("cow-on-three-cpus", 1, world)
                .cpu("copies", |k| assert_eq!(k.store_word(0, 0, 2, 9), Ok(())))
                .cpu("stores", |k| {
                    assert_eq!(k.store_word(0, 0, 1, 8), Ok(()));
                    k.flag.store(1, Ordering::Release);
                })
                .cpu("reads", |k| {
                    let stored = k.flag.load(Ordering::Acquire) == 1;
                    let word = k.load_word(0, 0, 1).expect("mapped");
                    assert!(!stored || word == 8, "the original was read after the copy was stored to");
                })
                .check(|k| {
                    match (k.load_word(0, 0, 1), k.load_word(0, 0, 2), k.load(1, 0), k.load_word(1, 0, 1)) {
                        (Ok(8), Ok(9), Ok(7), Ok(0)) => k.check(),
                        found => Err(format!(
                            "8 and 9 in the parent, 7 and 0 in the child were stored, found {found:?}"
                        )),
                    }
                }),
        )
    },
};

/// The page of the case.
pub const FULL_BATCH: Case = Case {
    name: "tlb-batch-full",
    title: "reclaim unmaps a page in more address spaces than its batch remembers",
    happened: "This memory manager: a batch of flushes remembers four address spaces, and the fifth makes it flush. Linux remembers CPUs \
               instead, and had to learn when a batch must not be put off (2015, 2017).",
    environment: "A parent and four children share a page. CPU0 reclaims it, CPU1 uses it in the address space that comes first or last.",
    rule: "A page is freed, and written to swap, after the last translation to it is gone.",
    mutants: &[
        Mutant::Patch { name: "batch-full-forgets", what: "a batch that is full forgets what it had" },
        Mutant::Patch {
            name: "batch-flush-keeps-first",
            what: "a batch flushes all but the first address space",
        },
    ],
    runs: &[Run::new(Model::Sc, Extent::Bound(1))],
    program: |_| {
        let world = || {
            let kernel = Kernel::new(160, LockMode::Mmap);
            kernel.swap_on(0, 2);
            kernel.spawn(0, &[1]);
            kernel.map(0, 0, 2, RW);
            (0..2).for_each(|n| kernel.store(0, n, 7).expect("frames"));
            (1..5).for_each(|child| kernel.fork(0, child, &[1]).expect("frames"));
            (0..5).for_each(|mm| assert_eq!(kernel.load(mm, 0), Ok(7)));
            kernel.note_frame(0, 0);
            kernel
        };
        boxed(
            scenario("tlb-batch-full", 1, world)
                .cpu("reclaims", |k| {
                    k.reclaim_noted();
                })
                .cpu("loads, stores", |k| {
                    assert_eq!(k.load(4, 0), Ok(7));
                    assert_eq!(k.store(0, 0, 8), Ok(()));
                })
                .check(|k| {
                    let found: Vec<_> = (0..5).map(|mm| k.load(mm, 0).ok()).collect();
                    match found[..] {
                        [Some(8), Some(7), Some(7), Some(7), Some(7)] => k.check(),
                        _ => Err(format!("8 in the first, 7 in the others was stored, found {found:?}")),
                    }
                }),
        )
    },
};

/// An address space whose two pages say 7: its table is needed when the first has gone.
fn two_pages(cpus: &[u32]) -> Kernel {
    let kernel = Kernel::new(64, LockMode::Mmap);
    kernel.spawn(0, cpus);
    kernel.map(0, 0, 2, RW);
    (0..2).for_each(|n| kernel.store(0, n, 7).expect("frames"));
    kernel
}

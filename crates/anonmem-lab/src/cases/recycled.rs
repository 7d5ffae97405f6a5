//! Frames and slots that others had before, met by who does not know it yet.

use super::{
    Case, Extent, Mutant, Run,
    kernel::{Kernel, boxed, scenario},
};
use crate::Model;
use anonmem::{Advice, LockMode, PinFlags, Prot, Unpin};

const RW: Prot = Prot::READ.union(Prot::WRITE);

/// The page of the case.
pub const REFERENCE: Case = Case {
    name: "reuse-own-vs-reference",
    title: "a page becomes its program's own while somebody takes a reference by the number of its frame",
    happened: "Linux, mm/memory.c wp_can_reuse_anon_folio, counts references with the folio locked. Here the page of the program's own anon_vma is taken by \
               one exchange of its counts, without that lock: whoever comes by number comes before it, or after it.",
    environment: "A parent whose child has ended stores to the page that they shared, with the mmap lock for reading. CPU1 has the number of the frame, as \
                  the hand of the clock has, and takes a reference and gives it back.",
    rule: "Every reference that was taken is counted.",
    mutants: &[Mutant::Patch {
        name: "wp-reuse-own-two-steps",
        what: "whether the page is the program's alone is asked, and then it is marked",
    }],
    runs: &[Run::new(Model::Sc, Extent::Exhaust), Run::new(Model::C11, Extent::Bound(2))],
    program: |_| {
        let world = || {
            let kernel = Kernel::parent_and_child(1);
            kernel.exit(1);
            kernel.note_frame(0, 0);
            kernel
        };
        boxed(
            scenario("reuse-own-vs-reference", 1, world)
                .cpu("stores", |k| assert_eq!(k.store(0, 0, 8), Ok(())))
                .cpu("takes a reference, gives it back", |k| {
                    k.hold_frame(k.noted_frame().expect("noted"));
                    k.let_go();
                })
                .check(|k| match k.load(0, 0) {
                    Ok(8) => k.check(),
                    other => Err(format!("8 was stored, found {other:?}")),
                }),
        )
    },
};

/// The page of the case.
pub const PINNED: Case = Case {
    name: "pin-fast-vs-frame-recycled",
    title: "a page is pinned without a lock whose frame is another program's by then",
    happened: "Linux, mm/gup.c gup_fast_pte_range: try_grab_folio_fast is followed by a second look at the entry. The count that is taken is the frame's, \
               whoever has it; only the second look, which must not come early, says whose it is.",
    environment: "CPU0 pins a page of a program that runs elsewhere, without a lock: no flush reaches CPU0. CPU1 runs the program and drops the page; \
                  another program on CPU1 stores, whose page comes to the frame that became free.",
    rule: "Nobody has pinned the other program's page.",
    mutants: &[Mutant::Patch {
        name: "pin-fast-no-second-look",
        what: "the entry is not looked at again once the page is pinned",
    }],
    runs: &[Run::new(Model::Sc, Extent::Bound(2)), Run::new(Model::C11, Extent::Bound(1))],
    program: |_| {
        let world = || {
            let kernel = Kernel::new(64, LockMode::Mmap);
            kernel.spawn(0, &[1]);
            kernel.spawn(1, &[1]);
            for program in [0, 1] {
                kernel.map(program, 0, 2, RW);
                kernel.store(program, 1, 1).expect("frames");
            }
            kernel.store(0, 0, 7).expect("frames");
            kernel
        };
        boxed(
            scenario("pin-fast-vs-frame-recycled", 1, world)
                .cpu("pins", |k| k.pin_fast(0, 0, 0, PinFlags::WRITE).expect("frames"))
                .cpu("drops, the other stores", |k| {
                    k.madvise(0, 0, Advice::DontNeed);
                    assert_eq!(k.store(1, 0, 5), Ok(()));
                })
                .check(|k| {
                    if k.pinned_frame(0) == k.frame_of(1, 0) {
                        return Err("the page of another program is pinned".into());
                    }
                    k.unpin(0, Unpin::Clean);
                    k.check()
                }),
        )
    },
};

/// The page of the case.
pub const ANON_VMA: Case = Case {
    name: "anon-vma-recycled-first-faults",
    title: "two first faults of a VMA, whose anon_vma has the slot of another family's",
    happened: "As in `rmap-unlocked-new-anon-vma`, and SLAB_TYPESAFE_BY_RCU: a slot that is used again says, to whoever does not order his reads, what it said \
               of another family.",
    environment: "CPU0 and CPU1 fault two pages of a VMA that has no anon_vma yet, each with the mmap lock for reading; CPU1 walks the rmap of its page \
                  afterwards. The slot of the anon_vma was a child's in a family that is still there.",
    rule: "Whoever learns of an anon_vma sees its own root: a walk finds every mapping.",
    mutants: &[Mutant::Patch {
        name: "anon-vma-read-unordered",
        what: "a VMA's anon_vma is read without an order to what the anon_vma says",
    }],
    runs: &[Run::new(Model::C11, Extent::Bound(1))],
    program: |_| {
        let world = || {
            let kernel = Kernel::new(64, LockMode::Mmap);
            kernel.spawn(1, &[0]);
            kernel.map(1, 0, 1, RW);
            kernel.store(1, 0, 7).expect("frames");
            kernel.fork(1, 2, &[0]).expect("frames");
            kernel.exit(2);
            kernel.spawn(0, &[0, 1]);
            kernel.map(0, 0, 2, RW);
            kernel
        };
        boxed(
            scenario("anon-vma-recycled-first-faults", 1, world)
                .cpu("stores", |k| assert_eq!(k.store(0, 0, 1), Ok(())))
                .cpu("stores, walks the rmap", |k| {
                    assert_eq!(k.store(0, 1, 2), Ok(()));
                    assert_eq!(k.walk_rmap_of(0, 1), 1, "mappings that the walk met");
                }),
        )
    },
};

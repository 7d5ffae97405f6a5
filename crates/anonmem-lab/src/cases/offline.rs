//! Frames that two take out of use at the same time.

use super::{
    Case, Extent, Mutant, Run,
    kernel::{Kernel, boxed, scenario},
};
use crate::Model;
use anonmem::{Effort, LockMode, Prot};
use anonmem_frame::OutFor;
use anonmem_hal::{Order, Pfn, PhysMem as _};
use core::ops::Range;

/// The block that is made.
const BLOCK: Order = Order::new(1);

/// The block that has the noted frame.
fn window(k: &Kernel) -> Range<Pfn> {
    let noted = k.noted.get().expect("the world notes a frame");
    let head = Pfn(noted.0 / BLOCK.pages() * BLOCK.pages());
    head..head.offset(BLOCK.pages())
}

fn everything(k: &Kernel) -> Range<Pfn> {
    let base = k.vm.machine().base_pfn();
    base..base.offset(k.vm.machine().nr_frames())
}

/// A program's page, whose frame is noted, has half of a block, and the other half is free. One frame is free
/// elsewhere. All others are out of use.
fn one_block() -> Kernel {
    let kernel = Kernel::new(64, LockMode::Mmap);
    kernel.spawn(0, &[0, 1]);
    kernel.map(0, 0, 1, Prot::READ | Prot::WRITE);
    kernel.store(0, 0, 7).expect("frames");
    kernel.note_frame(0, 0);
    let (all, block) = (everything(&kernel), window(&kernel));
    let frames = kernel.vm.frames();
    frames.take_offline(all.clone(), OutFor::Owner);
    frames.give_online(block.clone(), OutFor::Owner);
    let was_taken = |at: &u64| {
        !block.contains(&Pfn(*at)) && frames.give_online(Pfn(*at)..Pfn(at + 1), OutFor::Owner) == 1
    };
    assert!((all.start.0..all.end.0).any(|at| was_taken(&at)), "no frame is free");
    kernel
}

/// The page of the case.
pub const COMPACT: Case = Case {
    name: "evacuate-vs-compact",
    title: "a block is made of frames that are unplugged at the same time",
    happened: "This memory manager: compaction emptied a block and gave back whatever was out of use in it, also what an evacuation had taken meanwhile. \
               Linux marks blocks as isolated and refuses the second one (set_migratetype_isolate).",
    environment: "One page of a program lies in a block of two frames. CPU0 evacuates the block. CPU1 makes a large block, and there is no other that \
                  it could make one of.",
    rule: "What the evacuation says is out of use is out of use. The program's page says 7.",
    mutants: &[Mutant::Patch {
        name: "offline-back-for-any-reason",
        what: "frames come back whoever has taken them out of use",
    }],
    runs: &[Run::new(Model::Sc, Extent::Bound(1))],
    program: |_| {
        boxed(
            scenario("evacuate-vs-compact", 1, one_block)
                .cpu("evacuates", |k| {
                    k.notes[0].set(k.vm.evacuate(window(k), Effort::Light).kept.total() + 1);
                })
                .cpu("makes a block", |k| _ = k.vm.compact(BLOCK, Effort::Light))
                .check(|k| {
                    let kept = k.notes[0].get() - 1;
                    let frames = k.vm.frames();
                    let block = window(k);
                    let out = (block.start.0..block.end.0)
                        .filter(|at| frames.out_for(Pfn(*at)) == Some(OutFor::Owner));
                    let out = out.count() as u64;
                    if kept + out < BLOCK.pages() {
                        return Err(format!("{out} frames are out of use, and {kept} were kept"));
                    }
                    k.vm.give_back(everything(k));
                    match k.load(0, 0) {
                        Ok(7) => k.check(),
                        other => Err(format!("found {other:?}, not 7")),
                    }
                }),
        )
    },
};

//! Emptying a range of frames: hot-unplug, balloons, bad memory, room for a large block.
//!
//! What is free in the range is taken out of use first, so that nothing new comes in. Then its pages move
//! elsewhere, and what they leave is taken as well. Pages that are in use just now are asked again. What
//! cannot go is counted by the reason.
//!
//! Linux: mm/memory_hotplug.c `offline_pages`, mm/page_alloc.c `alloc_contig_range`.

use super::{MigrationBatch, Stays, Went};
use crate::{reclaim::SWAP_CLUSTER_MAX, rmap::machine::Machine, vm::Vm};
use anonmem_frame::{Kind, NewFolio};
use anonmem_hal::{Order, Pfn};
use core::{fmt, ops::Range};

/// How often pages that are in use are asked to move.
const PASSES: u32 = 8;

/// How much is done for the frames that pages are to move to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effort {
    /// They go to frames that are free.
    Light,
    /// Others leave for swap if there are none.
    Full,
}

/// What became of a range of frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Evacuation {
    /// Pages that went to other frames.
    pub moved: u64,
    /// Pages that are where they were.
    pub kept: Kept,
}

/// Frames that could not be emptied, by the reason.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Kept {
    /// A device may be using them.
    pub pinned: u64,
    /// A program, or the memory manager, was using them each time that they were asked.
    pub busy: u64,
    /// Shared objects' pages.
    pub shared: u64,
    /// Pages of large folios.
    pub large: u64,
    /// There was no frame for them to go to.
    pub no_memory: u64,
    /// Page tables, slabs and the kernel's own, which do not move.
    pub kernel: u64,
}

impl Kept {
    /// All of them.
    pub const fn total(&self) -> u64 {
        let Self { pinned, busy, shared, large, no_memory, kernel } = *self;
        pinned + busy + shared + large + no_memory + kernel
    }

    fn note(&mut self, stays: Stays) {
        let reason = match stays {
            Stays::Pinned => &mut self.pinned,
            Stays::Locked | Stays::Referenced | Stays::SwapOff => &mut self.busy,
            Stays::NotAnonymous => &mut self.shared,
            Stays::Large => &mut self.large,
            Stays::NoMemory => &mut self.no_memory,
        };
        *reason += 1;
    }
}

impl fmt::Display for Evacuation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { moved, kept } = self;
        write!(
            f,
            "{moved} pages moved, {} kept: {} pinned, {} busy, {} shared, {} large, {} without a place, {} the kernel's",
            kept.total(),
            kept.pinned,
            kept.busy,
            kept.shared,
            kept.large,
            kept.no_memory,
            kept.kernel
        )
    }
}

impl<M: Machine> Vm<M> {
    /// Empties the frames of `range` and takes them out of use, as far as that goes;
    /// [`give_back`](Self::give_back) undoes it.
    ///
    /// # Locks
    /// The caller holds no folio, anon_vma or spin lock. Sleeps.
    #[doc(alias = "offline_pages")]
    pub fn evacuate(&self, range: Range<Pfn>, effort: Effort) -> Evacuation {
        let mut done = Evacuation::default();
        for _ in 0..PASSES {
            self.frames.take_offline(range.clone());
            done.kept = Kept::default();
            Pass::new(self, &range, effort).run(&mut done);
            if done.kept.busy == 0 {
                break;
            }
            M::yield_now();
        }
        self.frames.take_offline(range);
        done
    }

    /// Gives the frames of `range` that are out of use back; returns how many.
    #[doc(alias = "online_pages")]
    pub fn give_back(&self, range: Range<Pfn>) -> u64 {
        self.frames.give_online(range)
    }
}

/// One way through a range.
struct Pass<'v, 'r, M: Machine> {
    vm: &'v Vm<M>,
    range: &'r Range<Pfn>,
    effort: Effort,
    batch: MigrationBatch<'v, M>,
    /// Frames that pages are to go to.
    targets: Frames<'v, M>,
}

/// A few frames.
struct Frames<'v, M: Machine> {
    pages: [Option<NewFolio<'v, M>>; SWAP_CLUSTER_MAX],
    len: usize,
}

impl<'v, M: Machine> Frames<'v, M> {
    const fn new() -> Self {
        Self { pages: [const { None }; SWAP_CLUSTER_MAX], len: 0 }
    }

    const fn is_full(&self) -> bool {
        self.len == SWAP_CLUSTER_MAX
    }

    fn push(&mut self, page: NewFolio<'v, M>) {
        self.pages[self.len] = Some(page);
        self.len += 1;
    }

    fn pop(&mut self) -> Option<NewFolio<'v, M>> {
        self.len = self.len.checked_sub(1)?;
        self.pages[self.len].take()
    }
}

impl<'v, 'r, M: Machine> Pass<'v, 'r, M> {
    fn new(vm: &'v Vm<M>, range: &'r Range<Pfn>, effort: Effort) -> Self {
        Self { vm, range, effort, batch: MigrationBatch::new(vm), targets: Frames::new() }
    }

    fn run(mut self, done: &mut Evacuation) {
        let mut at = self.range.start;
        while at < self.range.end && self.vm.frames.contains(at) {
            let Some((head, kind, order)) = self.vm.frames.block_of(at) else {
                at = at.offset(1);
                continue;
            };
            let next = head.offset(order.pages());
            let pages = next.0.min(self.range.end.0) - at.0;
            match kind {
                Kind::Folio if order == Order::ZERO => self.add(at, done),
                Kind::Folio => done.kept.large += pages,
                Kind::Table | Kind::Slab | Kind::Kernel | Kind::Reserved => done.kept.kernel += pages,
                // Somebody is allocating it just now.
                Kind::New => done.kept.busy += pages,
                Kind::Tail | Kind::Buddy | Kind::BuddyTail | Kind::Pcp | Kind::Offline => {}
            }
            at = next;
        }
        self.finish(done);
    }

    fn add(&mut self, at: Pfn, done: &mut Evacuation) {
        if self.targets.len == 0 {
            self.finish(done);
            self.find_targets();
        }
        let Some(target) = self.targets.pop() else { return done.kept.note(Stays::NoMemory) };
        let Some(page) = self.vm.frames.try_get(at).filter(|page| page.pfn() == at) else {
            // It went away by itself.
            return self.targets.push(target);
        };
        if let Err((stays, target)) = self.batch.add(page, target) {
            done.kept.note(stays);
            self.targets.push(target);
        }
    }

    fn finish(&mut self, done: &mut Evacuation) {
        let Evacuation { moved, kept } = done;
        self.batch.finish(|landed| match landed {
            Ok(Went::To(_)) => *moved += 1,
            Ok(Went::Away) => {}
            Err(stays) => kept.note(stays),
        });
    }

    /// Finds frames outside the range. Those inside are set aside, so that they are not found twice, and are
    /// free again in the end.
    fn find_targets(&mut self) {
        let mut aside = Frames::new();
        while !self.targets.is_full() {
            let found = match self.effort {
                Effort::Light => self.vm.try_alloc_page(),
                Effort::Full => self.vm.alloc_page(),
            };
            let Ok(page) = found else { return };
            if !self.range.contains(&page.pfn()) {
                self.targets.push(page);
                continue;
            }
            aside.push(page);
            if aside.is_full() {
                aside = Frames::new();
                self.vm.frames.take_offline(self.range.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests;

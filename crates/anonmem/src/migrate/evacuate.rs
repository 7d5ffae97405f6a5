//! Emptying a range of frames: hot-unplug, balloons, bad memory, room for a large block.
//!
//! What is free in the range is taken out of use first, so that nothing new comes in. Then its pages move
//! elsewhere, and what they leave is taken as well. Pages that are in use just now are asked again. What
//! cannot go is counted by the reason.
//!
//! Linux: mm/memory_hotplug.c `offline_pages`, mm/page_alloc.c `alloc_contig_range`.

use super::{
    batch::MigrationBatch,
    shared::SharedRun,
    stays::{Stays, Went},
};
use crate::{reclaim::SWAP_CLUSTER_MAX, rmap::machine::Machine, thp::stats::FolioEvent, vm::Vm};
use anonmem_frame::{FolioOwner, FolioRef, Kind, Mapping, NewFolio, OutFor};
use anonmem_hal::{Order, Pfn};
use anonmem_sync::yield_now;
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
    /// Shared objects' pages that a userfaultfd watches, and pages that are no program's.
    pub shared: u64,
    /// There was no frame for them to go to.
    pub no_memory: u64,
    /// Page tables, slabs and the kernel's own, which do not move.
    pub kernel: u64,
}

impl Kept {
    /// All of them.
    pub const fn total(&self) -> u64 {
        let Self { pinned, busy, shared, no_memory, kernel } = *self;
        pinned + busy + shared + no_memory + kernel
    }

    fn note(&mut self, stays: Stays, pages: u64) {
        let reason = match stays {
            Stays::Pinned => &mut self.pinned,
            Stays::Locked | Stays::Referenced | Stays::SwapOff => &mut self.busy,
            Stays::NotAnonymous | Stays::Watched => &mut self.shared,
            Stays::NoMemory => &mut self.no_memory,
        };
        *reason += pages;
    }
}

impl fmt::Display for Evacuation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { moved, kept } = self;
        write!(
            f,
            "{moved} pages moved, {} kept: {} pinned, {} busy, {} shared, {} without a place, {} the kernel's",
            kept.total(),
            kept.pinned,
            kept.busy,
            kept.shared,
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
    /// The caller holds no mmap, folio, anon_vma or spin lock. Sleeps.
    #[doc(alias = "offline_pages")]
    pub fn evacuate(&self, range: Range<Pfn>, effort: Effort) -> Evacuation {
        self.empty(range, effort, OutFor::Owner)
    }

    /// Empties the frames of `range`, which are out of use for this reason then.
    ///
    /// # Locks
    /// As [`evacuate`](Self::evacuate).
    pub(super) fn empty(&self, range: Range<Pfn>, effort: Effort, why: OutFor) -> Evacuation {
        let mut done = Evacuation::default();
        // Page tables do not move; those that only wait for a grace period go.
        self.reap();
        for _ in 0..PASSES {
            self.frames.take_offline(range.clone(), why);
            done.kept = Kept::default();
            Pass::new(self, &range, effort, why).run(&mut done);
            if done.kept.busy == 0 {
                break;
            }
            yield_now::<M>();
        }
        self.frames.take_offline(range, why);
        done
    }

    /// Gives the frames of `range` back that were evacuated; returns how many. Those that others have taken
    /// out of use stay theirs.
    #[doc(alias = "online_pages")]
    pub fn give_back(&self, range: Range<Pfn>) -> u64 {
        self.frames.give_online(range, OutFor::Owner)
    }
}

/// One way through a range.
struct Pass<'v, 'r, M: Machine> {
    vm: &'v Vm<M>,
    range: &'r Range<Pfn>,
    effort: Effort,
    why: OutFor,
    batch: MigrationBatch<'v, M>,
    /// The frames of its pages, from the first to the last.
    leaving: Range<Pfn>,
    /// Frames that pages are to go to.
    targets: Frames<'v, M>,
}

/// What became of a large folio.
enum Large {
    /// It is on its way, or has gone by itself.
    Added,
    /// It is many single pages now.
    Split,
    /// It is where it was.
    Stays(Stays),
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
    fn new(vm: &'v Vm<M>, range: &'r Range<Pfn>, effort: Effort, why: OutFor) -> Self {
        let leaving = range.start..range.start;
        Self { vm, range, effort, why, batch: MigrationBatch::new(vm), leaving, targets: Frames::new() }
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
                Kind::Folio if order == Order::ZERO => {
                    if let Some(run) = self.vm.shared_run(at..self.run_end(at)) {
                        self.move_shared(at, &run, done);
                        at = at.offset(run.pages);
                        continue;
                    }
                    self.add(at, done);
                }
                Kind::Folio => match self.add_large(head, order, done) {
                    Large::Added => {}
                    // Its pages are looked at one by one.
                    Large::Split => continue,
                    Large::Stays(why) => done.kept.note(why, pages),
                },
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
        if self.targets.len == 0 || self.batch.is_full_for(1) {
            self.finish(done);
        }
        if self.targets.len == 0 {
            self.find_targets();
        }
        let Some(target) = self.targets.pop() else { return done.kept.note(Stays::NoMemory, 1) };
        let page = self.vm.frames.try_get(at);
        let Some(page) = page.filter(|page| page.pfn() == at && !page.folio().is_large()) else {
            // It is being freed, or is another folio by now.
            done.kept.note(Stays::Referenced, 1);
            return self.targets.push(target);
        };
        match self.batch.add(page, target) {
            Ok(()) => self.leaves(at, Order::ZERO),
            Err((stays, target)) => {
                done.kept.note(stays, 1);
                self.targets.push(target);
            }
        }
    }

    /// Notes that a folio is on its way.
    fn leaves(&mut self, head: Pfn, order: Order) {
        if self.leaving.is_empty() {
            self.leaving.start = head;
        }
        self.leaving.end = head.offset(order.pages());
    }

    /// Where a run of pages ends that begins at `at`, at the latest: as many move together as others do.
    fn run_end(&self, at: Pfn) -> Pfn {
        let machine = self.vm.machine();
        let end = self.range.end.min(machine.base_pfn().offset(machine.nr_frames()));
        at.offset(SWAP_CLUSTER_MAX as u64).min(end)
    }

    /// Moves pages of a shared object, the first of which is in frame `at`. No folio is locked meanwhile:
    /// mmap locks come first.
    fn move_shared(&mut self, at: Pfn, run: &SharedRun, done: &mut Evacuation) {
        self.finish(done);
        while (self.targets.len as u64) < run.pages {
            let before = self.targets.len;
            self.find_targets();
            if self.targets.len == before {
                break;
            }
        }
        let (vm, targets) = (self.vm, &mut self.targets);
        vm.move_shared(
            run,
            || targets.pop(),
            |moved| match moved {
                Ok(()) => {
                    done.moved += 1;
                    vm.note_moved(Order::ZERO);
                }
                Err(stays) => {
                    done.kept.note(stays, 1);
                    vm.note_stays(Order::ZERO, stays);
                }
            },
        );
        self.close(at..at.offset(run.pages));
    }

    /// Takes what is free of these frames out of use, as far as they are of the range. What has just been
    /// left is at hand for the next allocation, and is no place for the next pages to go to.
    fn close(&self, left: Range<Pfn>) {
        let inside = left.start.max(self.range.start)..left.end.min(self.range.end);
        self.vm.frames.take_offline(inside, self.why);
    }

    /// Moves a large folio whole, or splits it: if a part of it is mapped nowhere, which becomes free, or if
    /// there is no block of its size outside the range.
    fn add_large(&mut self, head: Pfn, order: Order, done: &mut Evacuation) -> Large {
        let same = |page: &FolioRef<'_, M>| page.pfn() == head && page.folio().owned_order() == order;
        let Some(page) = self.vm.frames.try_get(head).filter(same) else { return Large::Added };
        let folio = page.folio();
        if !folio.is_anon() && folio.swap_entry().is_none() {
            return Large::Stays(Stays::NotAnonymous);
        }
        if self.batch.is_full_for(order.pages()) {
            self.finish(done);
        }
        // What is merged goes whole, or not at all.
        let splits = folio.unmapped_pages() > 0 && !matches!(folio.mapping(), Mapping::Ksm(_));
        let target = if splits { None } else { self.find_block(order) };
        let Some(target) = target else { return self.split(page, order) };
        match self.batch.add(page, target) {
            Ok(()) => {
                self.leaves(head, order);
                Large::Added
            }
            Err((stays, _)) => Large::Stays(stays),
        }
    }

    fn split(&self, page: FolioRef<'v, M>, order: Order) -> Large {
        let Some(lock) = page.try_lock() else { return Large::Stays(Stays::Locked) };
        match self.vm.split_folio(&lock, &page, Order::ZERO) {
            Ok(()) => {
                self.vm.count_folio(order, FolioEvent::MigrateSplit);
                Large::Split
            }
            Err(why) => Large::Stays(Stays::of_unsplit(why)),
        }
    }

    fn finish(&mut self, done: &mut Evacuation) {
        let Evacuation { moved, kept } = done;
        self.batch.finish(|landed, pages| match landed {
            Ok(Went::To(_)) => *moved += pages,
            Ok(Went::Away) => {}
            Err(stays) => kept.note(stays, pages),
        });
        let left = core::mem::replace(&mut self.leaving, self.range.start..self.range.start);
        if !left.is_empty() {
            self.close(left);
        }
    }

    /// Finds a block of 2^order frames outside the range. Those inside are set aside as below.
    fn find_block(&mut self, order: Order) -> Option<NewFolio<'v, M>> {
        let mut aside = Frames::new();
        while !aside.is_full() {
            let block = self.vm.frames.alloc_gently(order).ok()?;
            let end = block.pfn().offset(order.pages());
            if end <= self.range.start || block.pfn() >= self.range.end {
                return Some(block);
            }
            aside.push(block);
        }
        None
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
                self.vm.frames.take_offline(self.range.clone(), self.why);
            }
        }
    }
}

#[cfg(test)]
mod tests;

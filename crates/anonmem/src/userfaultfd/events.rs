//! Events: what somebody does to registered memory is told to its userfaultfd.
//!
//! | who | asks for | the event is queued | fills are refused |
//! |---|---|---|---|
//! | fork | `EVENT_FORK` | when it can no longer fail, under the mmap lock | everywhere, until it is read |
//! | mremap | `EVENT_REMAP` | when it is done, under the mmap lock | of both places, until it is read |
//! | munmap, `MAP_FIXED`, brk | `EVENT_UNMAP` | when it is done, under the mmap lock | of the range, until it is read |
//! | `MADV_DONTNEED`, `FREE`, `REMOVE` | `EVENT_REMOVE` | before it is done | of the range, until the pages are gone |
//!
//! Whoever makes the change waits until its event is read, without any lock. Because an event is queued
//! before the mmap lock is let go, a fault of what is there afterwards is read after it. A pending change
//! keeps others from filling its own range and no other.
//!
//! All memory is had before the first change; a change that fails is forgotten when its [`Changes`] drop.
//!
//! Linux: fs/userfaultfd.c `dup_userfaultfd`, `mremap_userfaultfd_prep`, `userfaultfd_remove`,
//! `userfaultfd_unmap_prep`, `userfaultfd_event_wait_completion`. Differs: `mmap_changing` is a list of
//! ranges; fills of what `REMOVE` drops are refused until it is dropped.

use super::{
    context::{Said, UffdFeatures},
    register::release,
};
use crate::{
    ids::{UffdId, UffdMessageId, UffdMessageTag, VmaId},
    mm::mmap_lock::MmapWriteGuard,
    objects::Objects,
    rmap::machine::Machine,
    vm::Vm,
};
use anonmem_frame::{Link, OutOfMemory};
use anonmem_hal::{GiveUp, Va, VaRange};

/// Changes that are under way, and what is told about them.
#[must_use = "wait() waits until they have been read"]
pub(crate) struct Changes<'v, M: Machine> {
    vm: &'v Vm<M>,
    first: Link<UffdMessageTag>,
}

impl<'v, M: Machine> Changes<'v, M> {
    /// None: what everybody begins with, and most end with.
    pub(crate) fn none(vm: &'v Vm<M>) -> Self {
        Self { vm, first: Link::NONE }
    }

    /// Begins one more.
    fn begin(&mut self, ctx: UffdId, said: Said) -> Result<UffdMessageId, OutOfMemory> {
        let id = self.vm.uffd_message_alloc(ctx, said)?;
        self.vm.uffd_message(id).next_own.set(self.first);
        self.first = id.into();
        self.vm.uffd_begin_change(id);
        Ok(id)
    }

    /// Begins to unmap `range`.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    #[doc(alias = "userfaultfd_unmap_prep")]
    #[inline]
    pub(crate) fn unmap(&mut self, guard: &MmapWriteGuard<'_, M>, range: VaRange) -> Result<(), OutOfMemory> {
        // Most address spaces have never had a userfaultfd.
        if guard.slot().has_uffd() { self.unmap_registered(guard, range) } else { Ok(()) }
    }

    #[cold]
    fn unmap_registered(&mut self, guard: &MmapWriteGuard<'_, M>, range: VaRange) -> Result<(), OutOfMemory> {
        let tree = &guard.slot().tree;
        let mut vmas = tree.cursor(range);
        while let Some((_, id)) = vmas.next(tree, self.vm.nodes()) {
            let Some(ctx) = self.asks(id, UffdFeatures::EVENT_UNMAP) else { continue };
            // Each is told once, of all of it.
            if !self.has(ctx, Said::Unmap(range)) {
                self.begin(ctx, Said::Unmap(range))?;
            }
        }
        Ok(())
    }

    /// Begins to drop the pages of `range`, which is in VMA `id`, and says whether anybody is to be told.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    #[doc(alias = "userfaultfd_remove")]
    pub(crate) fn remove(&mut self, id: VmaId, range: VaRange) -> Result<bool, OutOfMemory> {
        let Some(ctx) = self.asks(id, UffdFeatures::EVENT_REMOVE) else { return Ok(false) };
        self.begin(ctx, Said::Remove(range))?;
        Ok(true)
    }

    /// Begins to move what VMA `id` has at `from`. Where to, [`moved`](Self::moved) says.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    #[doc(alias = "mremap_userfaultfd_prep")]
    pub(crate) fn remap(&mut self, id: VmaId, from: VaRange) -> Result<(), OutOfMemory> {
        let Some(ctx) = self.asks(id, UffdFeatures::EVENT_REMAP) else { return Ok(()) };
        self.begin(ctx, Said::Remap { from: from.start, to: from.start, len: from.len() }).map(drop)
    }

    /// What was at `from` is at `to` now. If that is the same place, there is nothing to tell.
    #[doc(alias = "mremap_userfaultfd_complete")]
    pub(crate) fn moved(&mut self, from: VaRange, to: Va) {
        let stays = Said::Remap { from: from.start, to: from.start, len: from.len() };
        let Some(id) = self.each().find(|&id| self.vm.uffd_message(id).said() == stays) else { return };
        if to != from.start {
            self.vm.uffd_say(id, Said::Remap { from: from.start, to, len: from.len() });
            return;
        }
        self.forget(id);
    }

    /// Ends a change that did not come to be.
    fn forget(&mut self, id: UffdMessageId) {
        let next = self.vm.uffd_message(id).next_own.get();
        let before =
            self.each().find(|&before| self.vm.uffd_message(before).next_own.get() == Link::from(id));
        match before {
            Some(before) => self.vm.uffd_message(before).next_own.set(next),
            None => self.first = next,
        }
        let none = self.vm.uffd_end_change(id);
        anonmem_hal::debug_check!(M, none.is_none(), "a mapping that moves has no child");
    }

    /// Takes over what another has told.
    pub(crate) fn join(&mut self, mut other: Self) {
        let first = core::mem::replace(&mut other.first, Link::NONE);
        let last = self.each().last();
        match last {
            Some(last) => self.vm.uffd_message(last).next_own.set(first),
            None => self.first = first,
        }
    }

    /// The context that a child's copy of VMA `id` of the parent is registered with, if it is.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    #[doc(alias = "dup_userfaultfd")]
    pub(crate) fn fork(
        &mut self,
        id: VmaId,
        child: &crate::mm::Mm<'_, M>,
    ) -> Result<Option<UffdId>, OutOfMemory> {
        let Some(ctx) = self.asks(id, UffdFeatures::EVENT_FORK) else { return Ok(None) };
        if let Some(found) = self.child_of(ctx) {
            return Ok(Some(found));
        }
        let own = self.vm.uffd_alloc_like(ctx, child)?;
        match self.begin(ctx, Said::Fork(own.into())) {
            Ok(_) => Ok(Some(own)),
            Err(e) => {
                // It watches nothing yet.
                self.vm.uffd_put(own);
                Err(e)
            }
        }
    }

    /// The context of VMA `id`, if it asks to be told of such events.
    fn asks(&self, id: VmaId, event: UffdFeatures) -> Option<UffdId> {
        self.vm.vma(id).uffd().filter(|&ctx| self.vm.uffd(ctx).features().contains(event))
    }

    fn has(&self, ctx: UffdId, said: Said) -> bool {
        self.each().any(|id| {
            let message = self.vm.uffd_message(id);
            message.ctx.get().get() == Some(ctx) && message.said() == said
        })
    }

    fn child_of(&self, parent: UffdId) -> Option<UffdId> {
        self.each().find_map(|id| {
            let message = self.vm.uffd_message(id);
            match message.said() {
                Said::Fork(child) if message.ctx.get().get() == Some(parent) => child.get(),
                Said::Fork(_) | Said::Fault(_) | Said::Remap { .. } | Said::Remove(_) | Said::Unmap(_) => {
                    None
                }
            }
        })
    }

    fn each(&self) -> impl Iterator<Item = UffdMessageId> {
        let mut at = self.first;
        core::iter::from_fn(move || {
            let id = at.get()?;
            at = self.vm.uffd_message(id).next_own.get();
            Some(id)
        })
    }

    /// Lets the events be read: what was to be done is done, or for `REMOVE` comes next. The mmap lock is
    /// still held, so that faults of what is there now come after them.
    #[inline]
    pub(crate) fn tell(&self) {
        if self.first != Link::NONE {
            self.each().for_each(|id| self.vm.uffd_queue(id));
        }
    }

    /// Waits until all have been read, or this task is to die.
    ///
    /// # Locks
    /// None. Sleeps.
    #[doc(alias = "userfaultfd_event_wait_completion")]
    #[inline]
    pub(crate) fn wait(&self) {
        if self.first != Link::NONE {
            self.each().for_each(|id| _ = self.vm.uffd_sleep(id, GiveUp::Death));
        }
    }

    /// Ends them.
    #[cold]
    fn end(&mut self) {
        while let Some(id) = self.first.get() {
            self.first = self.vm.uffd_message(id).next_own.get();
            if let Some(child) = self.vm.uffd_end_change(id) {
                release(self.vm, child);
            }
        }
    }
}

impl<M: Machine> Drop for Changes<'_, M> {
    #[inline]
    fn drop(&mut self) {
        if self.first != Link::NONE {
            self.end();
        }
    }
}

impl<M: Machine> Objects<M> {
    /// Whether a registered VMA stays so where it moves to: only if that is told.
    pub(crate) fn uffd_follows(&self, id: VmaId) -> bool {
        let ctx = self.vma(id).uffd();
        ctx.is_some_and(|ctx| self.uffd(ctx).features().contains(UffdFeatures::EVENT_REMAP))
    }
}

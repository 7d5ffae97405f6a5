//! Messages come, are read, are answered.
//!
//! A fault brings a message, looks once more whether it must wait, and sleeps. Whoever fills an entry wakes
//! those that wait for its range. The fill comes before the look for sleepers, and the sleeper's message
//! before his look at the entry. Both looks are under the lock that the other's change is made under, so one
//! of the two sees the other.
//!
//! There is one queue for faults and events: a fault that comes after a change is read after it. (Linux
//! reads faults first, so that a page may be filled with what it held before it was dropped.)
//!
//! Locks: a context's `queues`, a spin lock; nobody is woken under it.
//!
//! Linux: fs/userfaultfd.c `userfaultfd_ctx_read`, `__wake_userfault`, `userfaultfd_event_wait_completion`.

use super::context::{
    INITIALISED, Queues, SLEEPERS, Said, Stage, UffdContext, UffdFaults, UffdFeatures, UffdMessage,
};
use crate::{
    ids::{MmId, UffdId, UffdMessageId, UffdMessageTag},
    mm::{Mm, MmGrab},
    objects::Objects,
    rmap::machine::Machine,
};
use anonmem_frame::{Link, OutOfMemory};
use anonmem_hal::{GiveUp, VaRange};
use anonmem_sync::{Ordering, Plain, SpinGuard, WaitQueue, order::Userfault};

impl<M: Machine> UffdContext<M> {
    /// What was agreed upon; nothing before that.
    pub(crate) fn features(&self) -> UffdFeatures {
        // Acquire pairs with the Release of `initialise`: whoever sees the features sees what came before.
        UffdFeatures::from_bits_truncate(self.features.load(Ordering::Acquire))
    }

    pub(super) fn is_initialised(&self) -> bool {
        self.features.load(Ordering::Acquire) & INITIALISED != 0
    }

    /// Agrees upon features; `false` if some were agreed upon before.
    pub(super) fn initialise(&self, features: UffdFeatures) -> bool {
        // Release pairs with the Acquire of `features`.
        self.features.compare_exchange(0, features.bits() | INITIALISED, Ordering::AcqRel).is_ok()
    }

    /// The address space that it is for.
    pub(crate) fn mm(&self) -> MmId {
        self.mm.load(Ordering::Relaxed).get().expect("a userfaultfd in use has an address space")
    }

    /// Whether any change is under way or has not been told yet.
    #[inline]
    pub(super) fn has_changes(&self) -> bool {
        self.changes.load(Ordering::Relaxed) != 0
    }

    /// Whether only the faults of programs are told.
    pub(super) fn is_user_only(&self) -> bool {
        self.user_only.load(Ordering::Relaxed) != 0
    }

    fn set_features_of(&self, parent: &Self) {
        self.features.store(parent.features.load(Ordering::Relaxed), Ordering::Relaxed);
        self.user_only.store(parent.user_only.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

impl<M: Machine> UffdMessage<M> {
    fn stage(&self) -> u32 {
        // Acquire pairs with the Release of `set_stage`: what the waker did before is seen.
        self.stage.load(Ordering::Acquire)
    }

    fn set_stage(&self, stage: Stage) {
        self.stage.store(stage as u32, Ordering::Release);
    }
}

impl<M: Machine> Objects<M> {
    pub(crate) fn uffd(&self, id: UffdId) -> &UffdContext<M> {
        self.uffds.get(&self.frames, id)
    }

    pub(super) fn uffd_message(&self, id: UffdMessageId) -> &UffdMessage<M> {
        self.uffd_messages.get(&self.frames, id)
    }

    /// A context with one owner.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    pub(super) fn uffd_alloc(&self, mm: &Mm<'_, M>, faults: UffdFaults) -> Result<UffdId, OutOfMemory> {
        let id = self.uffds.alloc(&self.frames)?;
        let context = self.uffd(id);
        context.mm.store(mm.grab().into_id().into(), Ordering::Relaxed);
        context.features.store(0, Ordering::Relaxed);
        context.user_only.store(u32::from(faults == UffdFaults::UserOnly), Ordering::Relaxed);
        context.released.store(0, Ordering::Relaxed);
        *context.queues.lock() = Queues::EMPTY;
        context.changes.store(0, Ordering::Relaxed);
        context.refs.store(1, Ordering::Relaxed);
        Ok(id)
    }

    /// A context for a child, as its parent's is.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    pub(crate) fn uffd_alloc_like(&self, parent: UffdId, child: &Mm<'_, M>) -> Result<UffdId, OutOfMemory> {
        let id = self.uffd_alloc(child, UffdFaults::Any)?;
        self.uffd(id).set_features_of(self.uffd(parent));
        Ok(id)
    }

    fn uffd_get(&self, id: UffdId) {
        self.uffd(id).refs.fetch_add(1, Ordering::Relaxed);
    }

    /// Drops a count of a context.
    pub(super) fn uffd_put(&self, id: UffdId) {
        // AcqRel: the last one sees what the others did.
        if self.uffd(id).refs.fetch_sub(1, Ordering::AcqRel) == 1 {
            let mm = self.uffd(id).mm();
            self.uffds.free(&self.frames, id);
            drop(MmGrab::from_id(self, mm));
        }
    }

    /// A message that is in no queue yet. It has a count of its context.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    pub(super) fn uffd_message_alloc(&self, ctx: UffdId, said: Said) -> Result<UffdMessageId, OutOfMemory> {
        let id = self.uffd_messages.alloc(&self.frames)?;
        let message = self.uffd_message(id);
        self.uffd_get(ctx);
        message.ctx.set(ctx.into());
        for link in [&message.next, &message.next_own, &message.next_changing] {
            link.set(Link::NONE);
        }
        message.set_stage(Stage::Waits);
        message.say(said);
        Ok(id)
    }

    /// Frees a message that is in no queue.
    pub(super) fn uffd_message_free(&self, id: UffdMessageId) {
        let ctx = self.context_of(id);
        self.uffd_messages.free(&self.frames, id);
        self.uffd_put(ctx);
    }

    fn context_of(&self, id: UffdMessageId) -> UffdId {
        self.uffd_message(id).ctx.get().get().expect("a message in use has a context")
    }

    /// Lets a message be read. If nobody will, it is done.
    pub(super) fn uffd_queue(&self, id: UffdMessageId) {
        let context = self.uffd(self.context_of(id));
        let mut queues = context.queues.lock();
        // Asked under the lock that the release takes afterwards.
        if context.released.load(Ordering::Relaxed) != 0 {
            self.uffd_message(id).set_stage(Stage::Done);
            return;
        }
        match queues.unread_last.get() {
            Some(last) => self.uffd_message(last).next.set(id.into()),
            None => queues.unread = id.into(),
        }
        queues.unread_last = id.into();
        drop(queues);
        self.tell_readers(context);
    }

    fn tell_readers(&self, context: &UffdContext<M>) {
        context.readers.wake_all();
        M::message_queued();
    }

    /// Takes a message out of the unread ones, wherever it is; says whether it was there.
    fn unqueue(&self, queues: &mut Queues, id: UffdMessageId) -> bool {
        let (mut before, mut at) = (None, queues.unread);
        while let Some(found) = at.get() {
            at = self.uffd_message(found).next.get();
            if found != id {
                before = Some(found);
                continue;
            }
            match before {
                Some(before) => self.uffd_message(before).next.set(at),
                None => queues.unread = at,
            }
            if at == Link::NONE {
                queues.unread_last = before.into();
            }
            self.uffd_message(id).next.set(Link::NONE);
            return true;
        }
        false
    }

    /// Takes a message out of a list of the told or the changing; says whether it was there.
    fn unlink_message(
        &self,
        list: &mut Link<UffdMessageTag>,
        id: UffdMessageId,
        next: impl Fn(&UffdMessage<M>) -> &Plain<Link<UffdMessageTag>, M>,
    ) -> bool {
        let (mut before, mut at) = (None::<UffdMessageId>, *list);
        while let Some(found) = at.get() {
            at = next(self.uffd_message(found)).get();
            if found == id {
                match before {
                    Some(before) => next(self.uffd_message(before)).set(at),
                    None => *list = at,
                }
                return true;
            }
            before = Some(found);
        }
        false
    }

    /// Notes that what the message says is changing from now on: fills of its range are refused.
    pub(super) fn uffd_begin_change(&self, id: UffdMessageId) {
        let context = self.uffd(self.context_of(id));
        let mut queues = context.queues.lock();
        self.uffd_message(id).next_changing.set(queues.changing);
        queues.changing = id.into();
        context.changes.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes that what the message says is not changing any more, if it was.
    fn end_changing(&self, context: &UffdContext<M>, queues: &mut Queues, id: UffdMessageId) {
        if self.unlink_message(&mut queues.changing, id, |m| &m.next_changing) {
            context.changes.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Lets a message that nobody can read yet say something else.
    pub(super) fn uffd_say(&self, id: UffdMessageId, said: Said) {
        let _queues = self.uffd(self.context_of(id)).queues.lock();
        self.uffd_message(id).say(said);
    }

    /// Whether a change is under way, or has not been told yet, that has to do with one of `ranges`.
    ///
    /// Usually nothing is, and then no lock is taken. Relaxed: whoever changes mappings says so before he
    /// locks them for writing, and the caller who is to rely on the answer has them locked for reading.
    #[doc(alias = "mmap_changing")]
    #[inline]
    pub(super) fn uffd_is_changing(&self, context: &UffdContext<M>, ranges: &[VaRange]) -> bool {
        context.has_changes() && ranges.iter().any(|&range| self.uffd_changes(context, range))
    }

    #[cold]
    fn uffd_changes(&self, context: &UffdContext<M>, range: VaRange) -> bool {
        let queues = context.queues.lock();
        let mut at = queues.changing;
        while let Some(id) = at.get() {
            if self.uffd_message(id).said().changes(range) {
                return true;
            }
            at = self.uffd_message(id).next_changing.get();
        }
        false
    }

    /// Reads the oldest message. A fault goes on waiting; whoever brought an event is done, except for a
    /// fork, whose reader says so ([`uffd_finish_read`](Self::uffd_finish_read)).
    pub(super) fn uffd_read(&self, ctx: UffdId) -> Option<(UffdMessageId, Said)> {
        let context = self.uffd(ctx);
        let mut queues = context.queues.lock();
        let id = queues.unread.get()?;
        self.unqueue(&mut queues, id);
        let (message, said) = (self.uffd_message(id), self.uffd_message(id).said());
        match said {
            Said::Fault(_) => {
                message.next.set(queues.told);
                queues.told = id.into();
                return Some((id, said));
            }
            Said::Fork(_) => {
                message.set_stage(Stage::BeingRead);
                return Some((id, said));
            }
            // The change itself comes after it was told.
            Said::Remove(_) => {}
            Said::Remap { .. } | Said::Unmap(_) => self.end_changing(context, &mut queues, id),
        }
        message.set_stage(Stage::Done);
        drop(queues);
        self.sleepers_of(id, context).wake_all();
        Some((id, said))
    }

    /// Ends the reading of a fork's message: the child's userfaultfd has an owner now, or stays to be read.
    /// Returns it if there is nobody any more to whom it could stay.
    pub(super) fn uffd_finish_read(&self, id: UffdMessageId, taken: Taken) -> Option<UffdId> {
        let context = self.uffd(self.context_of(id));
        let mut queues = context.queues.lock();
        let message = self.uffd_message(id);
        if message.stage() == Stage::Abandoned as u32 {
            drop(queues);
            let Said::Fork(child) = message.said() else {
                unreachable!("only a fork's message is being read")
            };
            self.uffd_message_free(id);
            return if taken == Taken::No { child.get() } else { None };
        }
        match taken {
            Taken::Yes => {
                message.say(Said::Fork(Link::NONE));
                self.end_changing(context, &mut queues, id);
                message.set_stage(Stage::Done);
                drop(queues);
                self.sleepers_of(id, context).wake_all();
            }
            Taken::No if context.released.load(Ordering::Relaxed) != 0 => {
                message.set_stage(Stage::Done);
                drop(queues);
                self.sleepers_of(id, context).wake_all();
            }
            Taken::No => {
                message.next.set(queues.unread);
                if queues.unread == Link::NONE {
                    queues.unread_last = id.into();
                }
                queues.unread = id.into();
                message.set_stage(Stage::Waits);
                drop(queues);
                self.tell_readers(context);
            }
        }
        None
    }

    /// Whether there is a message to read.
    pub(super) fn uffd_has_message(&self, ctx: UffdId) -> bool {
        self.uffd(ctx).queues.lock().unread != Link::NONE
    }

    /// Lets the faults go on that wait for pages of `range`.
    #[doc(alias = "wake_userfault")]
    pub(crate) fn uffd_wake(&self, context: &UffdContext<M>, range: VaRange) {
        let queues = context.queues.lock();
        if queues.told != Link::NONE || queues.unread != Link::NONE {
            self.uffd_wake_those(context, queues, range);
        }
    }

    #[inline(never)]
    fn uffd_wake_those(
        &self,
        context: &UffdContext<M>,
        mut queues: SpinGuard<'_, M, Userfault, Queues>,
        range: VaRange,
    ) {
        let mut woken = 0;
        for told in [false, true] {
            let mut at = if told { queues.told } else { queues.unread };
            while let Some(id) = at.get() {
                let message = self.uffd_message(id);
                at = message.next.get();
                let Said::Fault(fault) = message.said() else { continue };
                if !range.contains(fault.va) {
                    continue;
                }
                if told {
                    self.unlink_message(&mut queues.told, id, |m| &m.next);
                } else {
                    self.unqueue(&mut queues, id);
                }
                message.set_stage(Stage::Done);
                woken |= 1 << sleeper(id);
            }
        }
        drop(queues);
        if woken != 0 {
            wake(context, woken);
        }
    }

    /// Lets everybody go on who waits, whatever for. Returns the userfaultfd of a child that nobody has read
    /// about, and is to be asked again until there is none.
    pub(super) fn uffd_dismiss(&self, ctx: UffdId) -> Option<UffdId> {
        let context = self.uffd(ctx);
        let mut queues = context.queues.lock();
        context.released.store(1, Ordering::Relaxed);
        let (mut woken, mut child) = (0, None);
        while let Some(id) = queues.unread.get().filter(|_| child.is_none()) {
            self.unqueue(&mut queues, id);
            let message = self.uffd_message(id);
            if let Said::Fork(of) = message.said() {
                child = of.get();
                message.say(Said::Fork(Link::NONE));
            }
            message.set_stage(Stage::Done);
            woken |= 1 << sleeper(id);
        }
        while let Some(id) = queues.told.get() {
            queues.told = self.uffd_message(id).next.get();
            self.uffd_message(id).set_stage(Stage::Done);
            woken |= 1 << sleeper(id);
        }
        drop(queues);
        wake(context, woken);
        context.readers.wake_all();
        child
    }

    /// Waits until somebody has read an event, or answered a fault; says whether somebody has. The message is
    /// in no queue then.
    pub(super) fn uffd_sleep(&self, id: UffdMessageId, until: GiveUp) -> bool {
        let context = self.uffd(self.context_of(id));
        let message = self.uffd_message(id);
        let done = || message.stage() == Stage::Done as u32;
        self.sleepers_of(id, context).wait_for_program(&done, until)
    }

    /// Ends a fault's wait, or one that did not come to be.
    pub(super) fn uffd_end_fault(&self, id: UffdMessageId) {
        let context = self.uffd(self.context_of(id));
        let mut queues = context.queues.lock();
        if self.uffd_message(id).stage() != Stage::Done as u32 && !self.unqueue(&mut queues, id) {
            self.unlink_message(&mut queues.told, id, |m| &m.next);
        }
        drop(queues);
        self.uffd_message_free(id);
    }

    /// Ends a change, whether it was told or not. Returns the userfaultfd of a child that has no owner.
    pub(super) fn uffd_end_change(&self, id: UffdMessageId) -> Option<UffdId> {
        let context = self.uffd(self.context_of(id));
        let mut queues = context.queues.lock();
        let message = self.uffd_message(id);
        self.end_changing(context, &mut queues, id);
        if message.stage() == Stage::BeingRead as u32 {
            message.set_stage(Stage::Abandoned);
            return None;
        }
        if message.stage() != Stage::Done as u32 {
            self.unqueue(&mut queues, id);
        }
        let child = if let Said::Fork(child) = message.said() { child.get() } else { None };
        drop(queues);
        self.uffd_message_free(id);
        child
    }

    fn sleepers_of<'a>(&self, id: UffdMessageId, context: &'a UffdContext<M>) -> &'a WaitQueue<M> {
        &context.sleepers[sleeper(id)]
    }

    /// Waits until there is a message to read, or nobody can send one; says whether there is.
    pub(super) fn uffd_wait_for_message(&self, ctx: UffdId, until: GiveUp) -> bool {
        self.uffd(ctx).readers.wait_for_program(&|| self.uffd_has_message(ctx), until)
    }
}

/// Whether the reader of a fork's message has found a place for the child's userfaultfd.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Taken {
    Yes,
    No,
}

/// The queue that the bringer of a message sleeps in.
fn sleeper(id: UffdMessageId) -> usize {
    id.raw().get() as usize % SLEEPERS
}

/// Wakes the sleepers of the queues that `which` has bits of.
fn wake<M: Machine>(context: &UffdContext<M>, which: u32) {
    context.sleepers.iter().enumerate().filter(|(i, _)| which >> i & 1 != 0).for_each(|(_, q)| q.wake_all());
}

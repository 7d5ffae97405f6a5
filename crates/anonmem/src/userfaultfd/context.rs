//! What a userfaultfd is made of: a context, and the messages in its queues.
//!
//! Both are type-stable slots like everything that is found without its owner's lock. Messages are slots of
//! their own, so that a queue has no length: whoever waits for one brings it.
//!
//! | queue of a context | has |
//! |---|---|
//! | `unread` | messages that nobody has read, the oldest first: faults and events alike |
//! | `told` | faults that somebody has read, and that still wait |
//! | `changing` | changes that are under way, or whose event nobody has read: fills of their ranges are refused |
//!
//! A context has a count for its owner ([`Uffd`](super::Uffd)), for each fault that waits and for each change
//! that is under way. VMAs have none: whoever owns the context takes it out of all of them before it goes,
//! under their address space's mmap lock for writing.
//!
//! Linux: fs/userfaultfd.c `struct userfaultfd_ctx`, `struct userfaultfd_wait_queue`.

use crate::ids::{MmTag, UffdId, UffdMessageTag, UffdTag};
use anonmem_frame::{Field, Link, RawHandle, SlabItem, fields};
use anonmem_hal::{Machine, Va, VaRange};
use anonmem_sync::{Atomic, Plain, Spin, WaitQueue, order::Userfault};

bitflags::bitflags! {
    /// What a userfaultfd can do beyond the least. The values are Linux's (`UFFD_FEATURE_*`).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct UffdFeatures: u64 {
        /// Write protection is told in a fault's flags.
        const PAGEFAULT_FLAG_WP = 1 << 0;
        /// A fork is told, with a userfaultfd for the child.
        const EVENT_FORK = 1 << 1;
        /// A mapping that moves stays registered, and is told.
        const EVENT_REMAP = 1 << 2;
        /// Pages that are dropped are told before they go.
        const EVENT_REMOVE = 1 << 3;
        /// Shared memory can be registered.
        const MISSING_SHMEM = 1 << 5;
        /// A mapping that goes is told.
        const EVENT_UNMAP = 1 << 6;
        /// A fault is a SIGBUS and not a message.
        const SIGBUS = 1 << 7;
        /// A fault tells the thread that waits.
        const THREAD_ID = 1 << 8;
        /// Pages of shared memory that are there, but not mapped, can be told.
        const MINOR_SHMEM = 1 << 10;
        /// A fault tells its address to the byte.
        const EXACT_ADDRESS = 1 << 11;
        /// Shared memory can be write-protected.
        const WP_HUGETLBFS_SHMEM = 1 << 12;
        /// Pages can be write-protected that are not there yet.
        const WP_UNPOPULATED = 1 << 13;
        /// Pages can be poisoned.
        const POISON = 1 << 14;
        /// Writes end their own write protection.
        const WP_ASYNC = 1 << 15;
        /// Pages can be moved.
        const MOVE = 1 << 16;
    }
}

/// In the word of features: they have been agreed upon.
pub(super) const INITIALISED: u64 = 1 << 63;

/// Whose faults may be told: a debugger's may have the kernel's as well.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UffdFaults {
    /// Those of programs.
    UserOnly,
    /// Those of the kernel on behalf of a program as well.
    Any,
}

/// Messages that wait: first and, where the order matters, last.
#[derive(Clone, Copy)]
pub(super) struct Queues {
    pub(super) unread: Link<UffdMessageTag>,
    pub(super) unread_last: Link<UffdMessageTag>,
    pub(super) told: Link<UffdMessageTag>,
    pub(super) changing: Link<UffdMessageTag>,
}

impl Queues {
    pub(super) const EMPTY: Self =
        Self { unread: Link::NONE, unread_last: Link::NONE, told: Link::NONE, changing: Link::NONE };
}

/// One userfaultfd.
pub(crate) struct UffdContext<M: Machine> {
    /// The address space that it is for. It is kept (`MmGrab`) for as long as the context has an owner.
    pub(super) mm: Atomic<Link<MmTag>, M>,
    pub(super) refs: Atomic<u32, M>,
    /// [`UffdFeatures`] and [`INITIALISED`].
    pub(super) features: Atomic<u64, M>,
    /// 1 if the faults of the kernel are not told.
    pub(super) user_only: Atomic<u32, M>,
    /// The next one of those whose owner has let go.
    pub(super) next_released: Plain<Link<UffdTag>, M>,
    /// 1 once the owner has let go: nothing waits for it any more.
    pub(super) released: Atomic<u32, M>,
    pub(super) queues: Spin<M, Userfault, Queues>,
    /// How many messages are in `changing`. Written under the lock of `queues`.
    pub(super) changes: Atomic<u32, M>,
    /// Who waits for a message to come.
    pub(super) readers: WaitQueue<M>,
    /// Who waits for his message to be answered, by the message's name.
    pub(super) sleepers: [WaitQueue<M>; SLEEPERS],
}

/// Queues for those who wait: waking one wakes few others.
pub(super) const SLEEPERS: usize = 16;

impl<M: Machine> SlabItem<M> for UffdContext<M> {
    type Tag = UffdTag;
    const NAME: &'static str = "userfaultfd_ctx";
    const FIELDS: &'static [Field] = fields! {
        mm, refs, features, user_only, next_released, released, queues, changes, readers, sleepers,
    };
    fn new() -> Self {
        Self {
            mm: Atomic::new(Link::NONE),
            refs: Atomic::new(0),
            features: Atomic::new(0),
            user_only: Atomic::new(0),
            next_released: Plain::new(Link::NONE),
            released: Atomic::new(0),
            queues: Spin::new(Queues::EMPTY),
            changes: Atomic::new(0),
            readers: WaitQueue::new(),
            sleepers: [const { WaitQueue::new() }; SLEEPERS],
        }
    }
}

/// Why a fault waits. Linux: `UFFD_PAGEFAULT_FLAG_*`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UffdReason {
    /// No page is there.
    Missing,
    /// The page is write-protected.
    WriteProtected,
    /// The shared object has the page, and this mapping does not.
    Minor,
}

/// A fault that waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UffdFault {
    /// Where: the page, or the byte with [`UffdFeatures::EXACT_ADDRESS`].
    pub va: Va,
    /// Whether it is a write.
    pub write: bool,
    /// What it waits for.
    pub reason: UffdReason,
    /// The thread, with [`UffdFeatures::THREAD_ID`]; else 0.
    pub thread: u32,
}

/// What a message says, as its slot keeps it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Said {
    Fault(UffdFault),
    /// A child has its own context.
    Fork(Link<UffdTag>),
    Remap {
        from: Va,
        to: Va,
        len: u64,
    },
    Remove(VaRange),
    Unmap(VaRange),
}

/// A message: a fault or an event.
pub(crate) struct UffdMessage<M: Machine> {
    pub(super) ctx: Plain<Link<UffdTag>, M>,
    /// In `unread` or `told`.
    pub(super) next: Plain<Link<UffdMessageTag>, M>,
    /// In the list of whoever makes changes.
    pub(super) next_own: Plain<Link<UffdMessageTag>, M>,
    /// In `changing`.
    pub(super) next_changing: Plain<Link<UffdMessageTag>, M>,
    /// The kind, with what a fault says beside its address.
    kind: Plain<u64, M>,
    args: [Plain<u64, M>; 3],
    /// A [`Stage`].
    pub(super) stage: Atomic<u32, M>,
}

/// How far a message has come; changed under the lock of its queues.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stage {
    /// Whoever brought it waits, or is about to.
    Waits = 0,
    /// He need not wait any more.
    Done = 1,
    /// A fork that somebody is reading: the child's userfaultfd is his for the moment.
    BeingRead = 2,
    /// As before, but whoever brought it has given up: the reader frees it.
    Abandoned = 3,
}

impl<M: Machine> SlabItem<M> for UffdMessage<M> {
    type Tag = UffdMessageTag;
    const NAME: &'static str = "userfaultfd_message";
    const FIELDS: &'static [Field] = fields! {
        ctx, next, next_own, next_changing, kind, args, stage,
    };
    fn new() -> Self {
        Self {
            ctx: Plain::new(Link::NONE),
            next: Plain::new(Link::NONE),
            next_own: Plain::new(Link::NONE),
            next_changing: Plain::new(Link::NONE),
            kind: Plain::new(0),
            args: [const { Plain::new(0) }; 3],
            stage: Atomic::new(Stage::Done as u32),
        }
    }
}

/// The kinds, as [`UffdMessage::kind`] has them.
mod kind {
    pub(super) const MISSING: u64 = 0;
    pub(super) const WRITE_PROTECTED: u64 = 1;
    pub(super) const MINOR: u64 = 2;
    pub(super) const FORK: u64 = 3;
    pub(super) const REMAP: u64 = 4;
    pub(super) const REMOVE: u64 = 5;
    pub(super) const UNMAP: u64 = 6;
}

impl<M: Machine> UffdMessage<M> {
    pub(super) fn say(&self, said: Said) {
        let (kind, args) = match said {
            Said::Fault(UffdFault { va, write, reason, thread }) => {
                let kind = match reason {
                    UffdReason::Missing => kind::MISSING,
                    UffdReason::WriteProtected => kind::WRITE_PROTECTED,
                    UffdReason::Minor => kind::MINOR,
                };
                (kind, [va.0, u64::from(write), thread.into()])
            }
            Said::Fork(child) => (kind::FORK, [child.get().map_or(0, |c| c.raw().get().into()), 0, 0]),
            Said::Remap { from, to, len } => (kind::REMAP, [from.0, to.0, len]),
            Said::Remove(range) => (kind::REMOVE, [range.start.0, range.end.0, 0]),
            Said::Unmap(range) => (kind::UNMAP, [range.start.0, range.end.0, 0]),
        };
        self.kind.set(kind);
        for (slot, arg) in self.args.iter().zip(args) {
            slot.set(arg);
        }
    }

    pub(super) fn said(&self) -> Said {
        let [a, b, c] = [0, 1, 2].map(|i: usize| self.args[i].get());
        let fault = |reason| Said::Fault(UffdFault { va: Va(a), write: b != 0, reason, thread: c as u32 });
        let range = VaRange { start: Va(a), end: Va(b) };
        match self.kind.get() {
            kind::MISSING => fault(UffdReason::Missing),
            kind::WRITE_PROTECTED => fault(UffdReason::WriteProtected),
            kind::MINOR => fault(UffdReason::Minor),
            kind::FORK => Said::Fork(RawHandle::new(a as u32).map(UffdId::from_raw).into()),
            kind::REMAP => Said::Remap { from: Va(a), to: Va(b), len: c },
            kind::REMOVE => Said::Remove(range),
            kind::UNMAP => Said::Unmap(range),
            kind => unreachable!("a message of kind {kind}"),
        }
    }
}

impl Said {
    /// Whether the change that it tells of has to do with any page of `range`.
    pub(super) fn changes(self, range: VaRange) -> bool {
        let meets = |other: VaRange| other.intersect(range).is_some();
        match self {
            Self::Fault(_) => false,
            // The child has the pages that the parent had at one moment: none comes before it is known.
            Self::Fork(_) => true,
            Self::Remap { from, to, len } => {
                meets(VaRange { start: from, end: Va(from.0 + len) })
                    || meets(VaRange { start: to, end: Va(to.0 + len) })
            }
            Self::Remove(gone) | Self::Unmap(gone) => meets(gone),
        }
    }
}

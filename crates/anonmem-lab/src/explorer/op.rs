//! Operations, and which of them commute.

use core::{panic::Location, sync::atomic::Ordering};

/// What a step does.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Kind {
    /// An atomic load.
    Load,
    /// An atomic store.
    Store,
    /// An atomic read-modify-write; a compare-exchange that fails counts as one.
    Rmw,
    /// A sequentially consistent fence, under `c11`.
    Fence,
    /// Taking a lock alone; waits.
    Lock,
    /// Taking a lock together with other readers; waits.
    LockShared,
    /// Taking a lock alone, or else sleeping in front of it so that new readers wait; waits while somebody
    /// sleeps there.
    Attempt,
    /// Trying to take a lock alone.
    TryLock,
    /// Trying to take a lock together with other readers.
    TryLockShared,
    /// Releasing a lock that was held alone.
    Unlock,
    /// Releasing a lock that was held together with others.
    UnlockShared,
    /// Releasing a lock that was held together with others, where writers sleep in front of it: may let them
    /// go on.
    Leave,
    /// Waiting for something that other CPUs bring about; a read of its footprint.
    Wait,
    /// A choice of the environment; concerns nobody else.
    Choice,
}

/// The objects that a waiting condition read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Footprint {
    objects: [u32; 7],
    len: u8,
    /// Too many to list: depends on every write.
    all: bool,
}

impl Footprint {
    /// Read nothing.
    pub const EMPTY: Self = Self { objects: [0; 7], len: 0, all: false };

    /// Read everything.
    pub const ALL: Self = Self { objects: [0; 7], len: 0, all: true };

    /// Adds an object.
    pub fn add(&mut self, object: u32) {
        if self.contains(object) {
            return;
        }
        if usize::from(self.len) == self.objects.len() {
            self.all = true;
        } else {
            self.objects[usize::from(self.len)] = object;
            self.len += 1;
        }
    }

    /// Whether the condition read `object`.
    #[inline]
    pub fn contains(&self, object: u32) -> bool {
        self.all || self.iter().any(|o| o == object)
    }

    /// The objects that are listed.
    pub fn iter(&self) -> impl Iterator<Item = u32> {
        self.objects[..usize::from(self.len)].iter().copied()
    }

    /// How many objects are listed; `None` if they are too many.
    pub fn len(&self) -> Option<usize> {
        (!self.all).then_some(self.len.into())
    }

    /// Whether nothing was read.
    pub fn is_empty(&self) -> bool {
        self.len() == Some(0)
    }
}

/// No object.
pub const NONE: u32 = u32::MAX;

/// One step that a CPU is about to make.
#[derive(Clone, Copy, Debug)]
pub struct Op {
    /// What it does.
    pub kind: Kind,
    /// Whether it takes part in the order of sequentially consistent events (`c11` only).
    pub sc: bool,
    /// Its ordering.
    pub order: Ordering,
    /// The object that it touches.
    pub object: u32,
    /// A second object that it reads (the translations that a user access goes through); [`NONE`] if none.
    pub reads: u32,
    /// The production code's line.
    pub at: &'static Location<'static>,
    /// Whether another CPU could notice it.
    pub shared: bool,
    /// What a [`Kind::Wait`] reads.
    pub footprint: Footprint,
}

/// A wrong independence relation, to show that the self-check notices.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Broken {
    /// The relation as it should be.
    #[default]
    Not,
    /// A load and a store of one object commute.
    LoadStore,
    /// Taking a lock and trying it commute.
    TryLock,
    /// A reader and a writer of one lock commute.
    ReaderWriter,
    /// A wait does not depend on what its condition reads.
    Wait,
    /// What one CPU alone has touched so far is private, whoever comes later.
    Private,
}

impl Kind {
    /// Whether two steps of this kind commute.
    #[inline]
    pub const fn reads_only(self) -> bool {
        matches!(self, Self::Load | Self::LockShared | Self::TryLockShared | Self::UnlockShared)
    }
}

impl Op {
    #[inline]
    fn reads_only(&self) -> bool {
        self.kind.reads_only()
    }

    /// Whether a CPU that waits could notice.
    #[inline]
    pub fn changes(&self) -> bool {
        matches!(self.kind, Kind::Store | Kind::Rmw | Kind::Unlock | Kind::UnlockShared | Kind::Leave)
    }

    /// Whether both may be the same step of two executions.
    #[inline]
    pub fn looks_like(&self, other: &Self) -> bool {
        self.kind == other.kind && core::ptr::eq(self.at, other.at)
    }

    /// Whether all operations on one object that come before are ordered with this one.
    #[inline]
    pub fn totally_ordered(&self) -> bool {
        !self.reads_only() && !matches!(self.kind, Kind::Wait | Kind::Choice | Kind::Fence)
    }

    /// Whether the order of two operations of different CPUs may matter.
    #[inline]
    pub fn depends_on(&self, other: &Self, broken: Broken) -> bool {
        if self.sc && other.sc && (self.kind == Kind::Fence || other.kind == Kind::Fence) {
            return true;
        }
        match (self.kind, other.kind) {
            (Kind::Choice, _) | (_, Kind::Choice) | (Kind::Wait, Kind::Wait) => false,
            (Kind::Fence, _) | (_, Kind::Fence) => false,
            (Kind::Wait, _) => {
                broken != Broken::Wait && other.changes() && self.footprint.contains(other.object)
            }
            (_, Kind::Wait) => {
                broken != Broken::Wait && self.changes() && other.footprint.contains(self.object)
            }
            _ if self.reads == other.object && other.totally_ordered() => true,
            _ if other.reads == self.object && self.totally_ordered() => true,
            _ if self.object != other.object => false,
            _ if broken != Broken::Not && broken_says_independent(self.kind, other.kind, broken) => false,
            _ => !(self.reads_only() && other.reads_only()),
        }
    }

    /// Whether this operation could have happened before `earlier`, on which it depends: not if the earlier
    /// one had to make it possible.
    #[inline]
    pub fn could_precede(&self, earlier: &Self) -> bool {
        !matches!(
            (self.kind, earlier.kind),
            (Kind::Lock | Kind::LockShared, Kind::Unlock | Kind::UnlockShared)
        )
    }
}

#[cold]
fn broken_says_independent(a: Kind, b: Kind, broken: Broken) -> bool {
    let pair = |x: &[Kind], y: &[Kind]| x.contains(&a) && y.contains(&b) || x.contains(&b) && y.contains(&a);
    match broken {
        Broken::Not | Broken::Wait | Broken::Private => false,
        Broken::LoadStore => pair(&[Kind::Load], &[Kind::Store]),
        Broken::TryLock => pair(
            &[Kind::TryLock, Kind::TryLockShared],
            &[Kind::Lock, Kind::LockShared, Kind::Unlock, Kind::Attempt],
        ),
        Broken::ReaderWriter => {
            pair(&[Kind::LockShared, Kind::TryLockShared], &[Kind::Lock, Kind::TryLock, Kind::Attempt])
        }
    }
}

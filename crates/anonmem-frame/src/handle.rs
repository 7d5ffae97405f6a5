//! Names of slots in type-stable slabs.

use anonmem_sync::Word;
use core::{fmt, marker::PhantomData, num::NonZeroU32};

/// A slot's name without its type: frame (relative to the first) times 64, plus the slot in the frame, plus
/// one.
///
/// Only a slab can tell whether it is one of its own ([`Slab::resolve`](crate::Slab::resolve)).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(transparent)]
pub struct RawHandle(NonZeroU32);

impl RawHandle {
    /// The handle with these bits; `None` for 0.
    pub const fn new(bits: u32) -> Option<Self> {
        match NonZeroU32::new(bits) {
            Some(bits) => Some(Self(bits)),
            None => None,
        }
    }

    /// The bits.
    pub const fn get(self) -> u32 {
        self.0.get()
    }
}

impl fmt::Debug for RawHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{:x}", self.0)
    }
}

/// The name of a slot that holds a `T`. It stays valid for ever; what it names may have been freed and
/// reused.
#[repr(transparent)]
pub struct Handle<T> {
    raw: RawHandle,
    _type: PhantomData<fn() -> T>,
}

impl<T> Handle<T> {
    /// Gives the name its type; slabs check it when it is used.
    pub const fn from_raw(raw: RawHandle) -> Self {
        Self { raw, _type: PhantomData }
    }

    /// The name without its type.
    pub const fn raw(self) -> RawHandle {
        self.raw
    }
}

impl<T> Clone for Handle<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Handle<T> {}
impl<T> PartialEq for Handle<T> {
    fn eq(&self, other: &Self) -> bool {
        self.raw == other.raw
    }
}
impl<T> Eq for Handle<T> {}
impl<T> PartialOrd for Handle<T> {
    fn partial_cmp(&self, other: &Self) -> Option<core::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<T> Ord for Handle<T> {
    fn cmp(&self, other: &Self) -> core::cmp::Ordering {
        self.raw.cmp(&other.raw)
    }
}
impl<T> fmt::Debug for Handle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.raw.fmt(f)
    }
}

/// An optional handle as a word: what links between slots are made of.
#[repr(transparent)]
pub struct Link<T>(u32, PhantomData<fn() -> T>);

impl<T> Clone for Link<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Link<T> {}

impl<T> Link<T> {
    /// No slot.
    pub const NONE: Self = Self(0, PhantomData);

    /// The handle, if there is one.
    pub const fn get(self) -> Option<Handle<T>> {
        match RawHandle::new(self.0) {
            Some(raw) => Some(Handle::from_raw(raw)),
            None => None,
        }
    }
}

impl<T> From<Option<Handle<T>>> for Link<T> {
    fn from(handle: Option<Handle<T>>) -> Self {
        Self(handle.map_or(0, |h| h.raw.get()), PhantomData)
    }
}

impl<T> From<Handle<T>> for Link<T> {
    fn from(handle: Handle<T>) -> Self {
        Some(handle).into()
    }
}

impl<T> PartialEq for Link<T> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}
impl<T> Eq for Link<T> {}

impl<T> fmt::Debug for Link<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}

// SAFETY: a transparent u32.
unsafe impl<T> Word for Link<T> {
    const WIDE: bool = false;
    #[inline(always)]
    fn to_bits(self) -> u64 {
        u64::from(self.0)
    }
    #[inline(always)]
    fn from_bits(bits: u64) -> Self {
        Self(bits as u32, PhantomData)
    }
}

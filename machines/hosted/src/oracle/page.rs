//! One page of the model.

use crate::ops::Rights;
use anonmem_hal::PAGE_SIZE;
use std::{collections::BTreeMap, sync::Arc};

/// A page that is pinned: which of the held pins, and which of its pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pinned {
    /// Which hold.
    pub hold: usize,
    /// Which page of it.
    pub page: usize,
}

/// The bytes of a page.
pub type Bytes = [u8; PAGE_SIZE];

/// A shared memory object.
#[derive(Clone, Debug, Default)]
pub struct Object {
    /// Its size in pages.
    pub pages: u64,
    /// The pages that were written.
    pub written: BTreeMap<u64, Arc<Bytes>>,
}

/// What a page is a mapping of. The `first` fields are the index within the object minus the page's
/// number, so that neighbours which continue each other have equal kinds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Private anonymous memory.
    Private,
    /// A private mapping of the source.
    Source {
        /// Index in the source, in pages, of page number 0.
        first: i64,
    },
    /// A mapping of a shared object.
    Shared {
        /// Which object.
        object: usize,
        /// Index in the object of page number 0.
        first: i64,
    },
}

impl Kind {
    /// The same, for the page that was `from` and is now `to`.
    pub fn moved(self, from: u64, to: u64) -> Self {
        let by = from.wrapping_sub(to) as i64;
        match self {
            Self::Private => Self::Private,
            Self::Source { first } => Self::Source { first: first.wrapping_add(by) },
            Self::Shared { object, first } => Self::Shared { object, first: first.wrapping_add(by) },
        }
    }

    /// Object and index, for a shared page.
    pub fn object_page(self, number: u64) -> Option<(usize, u64)> {
        match self {
            Self::Shared { object, first } => Some((object, number.wrapping_add_signed(first))),
            Self::Private | Self::Source { .. } => None,
        }
    }

    /// The bytes under the private ones; `None` is a SIGBUS.
    pub(super) fn fresh(self, number: u64, source: &[u8], objects: &[Object]) -> Option<Arc<Bytes>> {
        match self {
            Self::Private => Some(Arc::new([0; PAGE_SIZE])),
            Self::Source { first } => {
                let start =
                    usize::try_from(number.wrapping_add_signed(first)).ok()?.checked_mul(PAGE_SIZE)?;
                let rest = source.get(start..).filter(|rest| !rest.is_empty())?;
                let mut bytes = [0; PAGE_SIZE];
                let n = rest.len().min(PAGE_SIZE);
                bytes[..n].copy_from_slice(&rest[..n]);
                Some(Arc::new(bytes))
            }
            Self::Shared { object, first } => {
                let index = number.wrapping_add_signed(first);
                let object = &objects[object];
                let zero = || Arc::new([0; PAGE_SIZE]);
                (index < object.pages).then(|| object.written.get(&index).cloned().unwrap_or_else(zero))
            }
        }
    }
}

/// What makes two neighbouring pages belong to different areas.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attrs {
    /// What a program may do.
    pub rights: Rights,
    /// What it maps.
    pub kind: Kind,
    /// `mlock`.
    pub locked: bool,
    /// `MAP_NORESERVE`.
    pub no_reserve: bool,
    /// `MAP_GROWSDOWN`.
    pub grows_down: bool,
    /// `MADV_DONTFORK`.
    pub dont_fork: bool,
    /// `MADV_WIPEONFORK`.
    pub wipe_on_fork: bool,
}

impl Attrs {
    /// Plain attributes.
    pub fn new(rights: Rights, kind: Kind) -> Self {
        Self {
            rights,
            kind,
            locked: false,
            no_reserve: false,
            grows_down: false,
            dont_fork: false,
            wipe_on_fork: false,
        }
    }
}

/// Whether a page is in memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Residency {
    /// It must be.
    Yes,
    /// It must not be.
    No,
    /// Either is right.
    Maybe,
}

/// Whether something is so.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Said {
    /// It must be.
    Yes,
    /// It must not be.
    No,
    /// Either is right.
    Maybe,
}

impl Said {
    /// What was not so may be so from now on.
    pub fn or_maybe(&mut self) {
        if *self == Self::No {
            *self = Self::Maybe;
        }
    }

    /// What was so may be so no more.
    pub fn unless(&mut self) {
        if *self == Self::Yes {
            *self = Self::Maybe;
        }
    }
}

/// Whether a page is soft-dirty: it was mapped, or written, since `clear_refs`. Either is enough.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SoftDirty {
    /// Its mapping is newer, or has become one with one that is.
    pub area: Said,
    /// It was written, or has come to its place.
    pub page: Said,
}

impl SoftDirty {
    /// What a page of a new mapping is.
    pub const NEW: Self = Self { area: Said::Yes, page: Said::No };

    /// Both together.
    pub fn either(self) -> Said {
        match (self.area, self.page) {
            (Said::Yes, _) | (_, Said::Yes) => Said::Yes,
            (Said::No, Said::No) => Said::No,
            _ => Said::Maybe,
        }
    }
}

/// The private bytes of a page: one possibility, or several where the memory manager has a choice.
#[derive(Clone, Debug)]
pub struct Contents {
    /// Each possibility; `None` is "nobody wrote here".
    pub candidates: Vec<Option<Arc<Bytes>>>,
    /// The page may still be dropped at any moment (`MADV_FREE`).
    pub lazy: bool,
}

impl Contents {
    /// Nobody wrote here.
    pub fn fresh() -> Self {
        Self { candidates: vec![None], lazy: false }
    }

    /// Whether this page certainly has bytes of its own.
    pub fn is_written(&self) -> bool {
        self.candidates.iter().all(Option::is_some)
    }

    /// From now on the page may read as before or as fresh.
    pub fn free_lazily(&mut self) {
        if !self.candidates.contains(&None) {
            self.candidates.push(None);
        }
        self.lazy = true;
    }

    /// Stores; a freed page is safe from then on.
    pub fn write(&mut self, fresh: &Bytes, offset: usize, bytes: &[u8]) {
        for candidate in &mut self.candidates {
            let page = candidate.get_or_insert_with(|| Arc::new(*fresh));
            Arc::make_mut(page)[offset..offset + bytes.len()].copy_from_slice(bytes);
        }
        self.lazy = false;
        self.candidates.dedup();
    }

    /// A load saw `bytes`: drops the possibilities that it rules out. False if that is all of them.
    pub fn observe(&mut self, fresh: &Bytes, offset: usize, bytes: &[u8]) -> bool {
        let fits = |candidate: &Option<Arc<Bytes>>| {
            let page = candidate.as_deref().unwrap_or(fresh);
            page[offset..offset + bytes.len()] == *bytes
        };
        if !self.candidates.iter().any(fits) {
            return false;
        }
        // A page that may still be dropped can be fresh the next time.
        let lazy = self.lazy;
        self.candidates.retain(|c| fits(c) || (lazy && c.is_none()));
        true
    }
}

/// One page of an address space.
#[derive(Clone, Debug)]
pub struct Page {
    /// Its area's attributes.
    pub attrs: Attrs,
    /// Its private bytes.
    pub contents: Contents,
    /// `MADV_GUARD_INSTALL`.
    pub guard: bool,
    /// Whether it is in memory.
    pub resident: Residency,
    /// A device has it: it stays the page that it is until the program drops it.
    pub pinned: Option<Pinned>,
    /// Whether it was written since it was asked.
    pub soft_dirty: SoftDirty,
}

impl Page {
    /// A page that nobody touched.
    pub fn new(attrs: Attrs) -> Self {
        let (contents, resident, soft_dirty) = (Contents::fresh(), Residency::No, SoftDirty::NEW);
        Self { attrs, contents, guard: false, resident, pinned: None, soft_dirty }
    }

    /// Forgets the private bytes.
    pub fn discard(&mut self) {
        self.contents = Contents::fresh();
        self.resident = Residency::No;
        self.pinned = None;
        // What is gone is no page that was written.
        self.soft_dirty.page = Said::No;
    }
}

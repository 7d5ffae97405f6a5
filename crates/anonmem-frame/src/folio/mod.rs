//! Folios and what one may hold of them. Each count has exactly one owner type.
//!
//! | you hold | type | it owns | comes from | ends by |
//! |---|---|---|---|---|
//! | a page nobody else can see | [`NewFolio`] | the frames | allocator | `into_*`, drop = free |
//! | a reference | [`FolioRef`] | 1 reference | `try_get`, clone, `unmap` | drop = put |
//! | a folio that is filled and mapped page by page | [`GrowingFolio`] | 1 reference, the lock | [`NewFolio::into_growing`] | drop |
//! | a pin | [`FolioPin`] | 1 pin | `pin` on an [`Exclusive`] page, `try_pin` | drop = unpin |
//! | pins of many pages | [`PinList`] | 1 pin a run of pages of one folio | pins, pushed | drop = unpin |
//! | a mapping | [`Exclusive`], [`Shared`], [`ShmMap`] | 1 mapping | the adds of `rmap` | installed into an entry, or `unmap` |
//! | what a leaf maps | [`ExclusiveWhole`], [`SharedWhole`], [`HoldWhole`] | a mapping of each page of a folio | [`NewFolio`], [`try_dup_whole`] | installed into a leaf, or `unmap` |
//! | mappings of a run of entries | [`MapRun`] | n mappings of one folio | single ones, joined | `unmap`: one reference |
//! | a page that is on its way to another frame | [`MigrationHold`] | 1 mapping of the old frame | [`Shared::hold`] | a migration entry, `release`, or `unmap` |
//! | the folio lock | [`FolioGuard`] | `PG_locked` | `lock`, `try_lock` | drop |
//! | the counts frozen at 0 | [`FrozenFolio`] | the only reference | [`FolioGuard::freeze`] | `unfreeze`, drop = put |
//!
//! A [`Folio`] is a look at the metadata and owns nothing. What it says may be old by the time it is used,
//! and nothing can be changed through it. What changes a folio's state is asked of an owner ([`FolioOwner`]).
//!
//! Linux: include/linux/mm.h `folio_get`, `folio_put`; include/linux/rmap.h.

mod frozen_maps;
mod growing;
mod large;
mod lock;
mod look;
mod map;
mod migrate;
mod new;
mod owner;
mod pin;
pub mod pin_protocol;
mod pins;
mod reference;
mod rmap;
mod run;
mod whole;

pub use frozen_maps::{FrozenMaps, MappedFolio};
pub use growing::GrowingFolio;
pub use large::{EachMapping, LargeUsage, SplitRefused, SplitTurn};
pub use lock::{FolioGuard, FrozenFolio};
pub use look::{Folio, NOTE_BITS};
pub use new::NewFolio;
pub use owner::{FolioOwner, KeptFolio};
pub use pin::{FolioPin, TakenPin};
pub use pins::{PinAccess, PinList, PinListError, PinNodes, PinTag, PinnedRun, PinnedRuns, RunsEnd};
pub use reference::FolioRef;
pub use rmap::{
    DupError, Exclusive, ExclusiveRef, MigrationHold, MigrationHoldRef, NotAlone, Shared, SharedRef, ShmMap,
};
pub use run::{MapRun, NewAnonPages, try_dup_page, try_dup_run};
pub use whole::{
    ExclusiveWhole, ExclusiveWholeRef, HoldWhole, HoldWholeRef, SharedWhole, SharedWholeRef, try_dup_whole,
};

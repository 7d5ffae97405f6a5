//! Which frame an address belongs to: one of its bytes, or its metadata.
//!
//! Nothing here is a step of the lab, and nothing panics: an address is asked about in the middle of whatever
//! is going on.

use crate::{
    frames::Frames,
    meta::{Kind, META_BYTES, Meta},
    place::Place,
};
use anonmem_hal::{Machine, PAGE_SHIFT, Pfn};

impl<M: Machine> Frames<M> {
    /// What `address` is, if it is in the metadata of a frame.
    pub fn place_of(&self, address: usize) -> Option<Place> {
        let offset = address.checked_sub(self.machine().memmap().as_ptr().addr())?;
        let meta = self.memmap.get(u32::try_from(offset / META_BYTES).ok()?)?;
        let pfn = self.memmap.pfn((offset / META_BYTES) as u32);
        let (kind, fields) = match meta.owned().kind() {
            Kind::New | Kind::Folio | Kind::Tail => ("folio", Meta::<M>::FOLIO_FIELDS),
            Kind::Table => ("table", Meta::<M>::TABLE_FIELDS),
            Kind::Reserved | Kind::Buddy | Kind::BuddyTail | Kind::Pcp => ("frame", Meta::<M>::OTHER_FIELDS),
            Kind::Slab | Kind::Kernel | Kind::Offline => ("frame", Meta::<M>::OTHER_FIELDS),
        };
        Some(Place::new(kind, Some(pfn.0), fields, offset % META_BYTES))
    }

    /// The frame whose bytes `address` is one of, with what it is used for and the offset.
    pub fn frame_of(&self, address: usize) -> Option<(Pfn, Kind, usize)> {
        let start = self.machine().direct_map(self.memmap.pfn(0)).as_ptr().addr();
        let offset = address.checked_sub(start)?;
        let index = u32::try_from(offset >> PAGE_SHIFT).ok()?;
        let meta = self.memmap.get(index)?;
        Some((self.memmap.pfn(index), meta.owned().kind(), offset & ((1 << PAGE_SHIFT) - 1)))
    }
}

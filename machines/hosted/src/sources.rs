//! The bytes behind private mappings: blobs that a test registers.
//!
//! A blob counts who refers to it: its registrant once, and each VMA once (`dup`, `release`). A count that
//! is wrong at the end is a leak, one that falls below the registrant's is a double release: both are found.

use anonmem_hal::{PAGE_SIZE, SourceError, SourceId};
use std::{
    collections::HashMap,
    num::NonZeroU64,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

struct Blob {
    bytes: Arc<[u8]>,
    unreadable: Range<u64>,
    references: u64,
}

/// All registered sources of a machine.
#[derive(Default)]
pub struct SourceTable {
    blobs: Mutex<HashMap<SourceId, Blob>>,
}

impl SourceTable {
    /// Registers `bytes`.
    pub fn register(&self, bytes: impl Into<Arc<[u8]>>) -> SourceId {
        self.register_with_errors(bytes, 0..0)
    }

    /// Registers `bytes`; reading a page that starts in `unreadable` (byte offsets) fails.
    pub fn register_with_errors(&self, bytes: impl Into<Arc<[u8]>>, unreadable: Range<u64>) -> SourceId {
        let mut blobs = self.lock();
        let id = SourceId(NonZeroU64::MIN.saturating_add(blobs.len() as u64));
        blobs.insert(id, Blob { bytes: bytes.into(), unreadable, references: 1 });
        id
    }

    /// How many VMAs refer to `source`.
    ///
    /// # Panics
    /// If it was never registered.
    pub fn users(&self, source: SourceId) -> u64 {
        self.lock().get(&source).expect("an unknown source").references - 1
    }

    /// Checks that no VMA refers to any source.
    ///
    /// # Panics
    /// If one does; the message names the sources.
    pub fn assert_unused(&self) {
        let blobs = self.lock();
        let leaked: Vec<_> = blobs.iter().filter(|(_, b)| b.references != 1).map(|(id, _)| id).collect();
        assert!(leaked.is_empty(), "sources still in use: {leaked:?}");
    }

    /// One VMA more refers to `source`.
    pub(crate) fn dup(&self, source: SourceId) {
        let mut blobs = self.lock();
        blobs.get_mut(&source).expect("dup of an unknown source").references += 1;
    }

    /// One VMA less refers to `source`.
    pub(crate) fn release(&self, source: SourceId) {
        let mut blobs = self.lock();
        let blob = blobs.get_mut(&source).expect("release of an unknown source");
        assert!(blob.references > 1, "{source:?} released more often than referred to");
        blob.references -= 1;
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SourceId, Blob>> {
        self.blobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One page of `source`, zeroes beyond its end.
    pub(crate) fn page(&self, source: SourceId, offset: u64) -> Result<[u8; PAGE_SIZE], SourceError> {
        let (bytes, unreadable) = {
            let blobs = self.lock();
            let blob = blobs.get(&source).ok_or(SourceError)?;
            (blob.bytes.clone(), blob.unreadable.clone())
        };
        let start = usize::try_from(offset).map_err(|_| SourceError)?;
        if start >= bytes.len() || unreadable.contains(&offset) {
            return Err(SourceError);
        }
        let mut page = [0; PAGE_SIZE];
        let rest = &bytes[start..bytes.len().min(start + PAGE_SIZE)];
        page[..rest.len()].copy_from_slice(rest);
        Ok(page)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_page_is_padded_and_the_next_does_not_exist() {
        let table = SourceTable::default();
        let id = table.register(vec![7; PAGE_SIZE + 1]);
        let last = table.page(id, PAGE_SIZE as u64).unwrap();
        assert_eq!((last[0], last[1]), (7, 0));
        assert_eq!(table.page(id, 2 * PAGE_SIZE as u64), Err(SourceError));
    }

    #[test]
    fn an_unreadable_page_is_an_error() {
        let table = SourceTable::default();
        let id = table.register_with_errors(vec![1; 3 * PAGE_SIZE], 4096..8192);
        assert!(table.page(id, 0).is_ok());
        assert_eq!(table.page(id, 4096), Err(SourceError));
        assert!(table.page(id, 8192).is_ok());
    }
}

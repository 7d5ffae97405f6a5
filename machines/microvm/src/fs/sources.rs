//! Files as the memory manager's sources: what private mappings are filled from.
//!
//! A source is a file that at least one VMA maps. It stays readable while it is mapped, even if its
//! name is gone.

use super::file::{self, read_inode};
use crate::arch::lock::SpinLock;
use crate::machine::{self, Kernel};
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::sync::Arc;
use anonmem_hal::{PAGE_SIZE, Pfn, PhysMem, SourceError, SourceId, Sources};
use anonmem_oslib::Result;
use anonmem_oslib::vfs::Inode;
use core::num::NonZeroU64;

struct Source {
    inode: Arc<Inode>,
    path: String,
    users: usize,
}

static SOURCES: SpinLock<BTreeMap<u64, Source>> = SpinLock::new(BTreeMap::new());

/// Notes that `inode` is about to be mapped; gives the number of the source. Holds a use of it, which
/// [`release`] gives back.
pub fn register(inode: &Arc<Inode>, path: &[u8]) -> u64 {
    let mut sources = SOURCES.lock();
    let source = sources.entry(inode.ino).or_insert_with(|| Source {
        inode: inode.clone(),
        path: String::from_utf8_lossy(path).into_owned(),
        users: 0,
    });
    source.users += 1;
    inode.ino
}

/// One more mapping of source `id`.
fn dup(id: u64) {
    if let Some(source) = SOURCES.lock().get_mut(&id) {
        source.users += 1;
    }
}

/// One mapping less of source `id`.
pub fn release(id: u64) {
    let mut sources = SOURCES.lock();
    let gone = match sources.get_mut(&id) {
        Some(source) if source.users == 1 => sources.remove(&id),
        Some(source) => {
            source.users -= 1;
            None
        }
        None => None,
    };
    drop(sources);
    drop(gone);
}

/// Sets a regular file's size; programs lose what they map beyond the end, private copies included.
///
/// # Errors
/// `EINVAL` if it is none, `EFBIG`.
pub fn truncate(inode: &Inode, size: u64) -> Result<()> {
    let before = inode.size();
    file::truncate(inode, size)?;
    let mapped = SOURCES.lock().contains_key(&inode.ino);
    if size < before
        && mapped
        && let Some(id) = NonZeroU64::new(inode.ino)
    {
        machine::vm().unmap_source(SourceId(id), size.div_ceil(PAGE_SIZE as u64));
    }
    Ok(())
}

/// Fills `page` with the bytes of source `id` at `offset`, zeros beyond the end. `false` if the whole page
/// is beyond the end.
fn fill(id: u64, offset: u64, page: &mut [u8]) -> bool {
    let inode = match SOURCES.lock().get(&id) {
        Some(source) => source.inode.clone(),
        None => return false,
    };
    match read_inode(&inode, offset, page) {
        Ok(0) | Err(_) => false,
        Ok(n) => {
            page[n..].fill(0);
            true
        }
    }
}

/// Gives the path by which source `id` was mapped first.
pub fn path(id: u64) -> Option<String> {
    SOURCES.lock().get(&id).map(|source| source.path.clone())
}

/// Gives the file of source `id`.
pub fn inode(id: u64) -> Option<Arc<Inode>> {
    SOURCES.lock().get(&id).map(|source| source.inode.clone())
}

/// Gives the number of sources in use: zero when no process is left.
pub fn count() -> usize {
    SOURCES.lock().len()
}

impl Sources for Kernel {
    unsafe fn fill(&self, source: SourceId, offset: u64, dst: Pfn) -> core::result::Result<(), SourceError> {
        // SAFETY: the caller owns the frame and nobody else sees it yet.
        let page = unsafe { core::slice::from_raw_parts_mut(self.direct_map(dst).as_ptr(), PAGE_SIZE) };
        if fill(source.0.get(), offset, page) { Ok(()) } else { Err(SourceError) }
    }

    fn dup(&self, source: SourceId) {
        dup(source.0.get());
    }

    fn release(&self, source: SourceId) {
        release(source.0.get());
    }
}

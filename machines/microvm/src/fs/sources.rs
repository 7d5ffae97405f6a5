//! Files as the memory manager's sources: what private mappings are filled from.
//!
//! A source is a file that at least one VMA maps. It stays readable while it is mapped, even if its
//! name is gone. Two sources are no files: the pages of the vdso.

use super::file::{self, read_inode};
use crate::arch::lock::SpinLock;
use crate::arch::vdso;
use crate::machine::{self, Kernel};
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::sync::Arc;
use anonmem_hal::{PAGE_SIZE, Pfn, PhysMem, SourceError, SourceId, Sources};
use anonmem_oslib::Result;
use anonmem_oslib::vdso as image;
use anonmem_oslib::vfs::Inode;
use core::num::NonZeroU64;
use spin::Once;

struct Source {
    inode: Arc<Inode>,
    path: String,
    users: usize,
}

static SOURCES: SpinLock<BTreeMap<u64, Source>> = SpinLock::new(BTreeMap::new());

/// A source that is no file: the kernel has its bytes, and nobody counts its users.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Builtin {
    /// What the vdso reads.
    Vvar,
    /// The vdso.
    Vdso,
}

impl Builtin {
    /// The pages of the vdso, in the order of their addresses.
    pub const ALL: [Self; 2] = [Self::Vvar, Self::Vdso];

    /// Its number as a source: no file has one so large.
    pub const fn id(self) -> u64 {
        match self {
            Self::Vvar => u64::MAX - 1,
            Self::Vdso => u64::MAX,
        }
    }

    /// The one with that number.
    pub fn of(id: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|builtin| builtin.id() == id)
    }

    /// As the maps show it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Vvar => "[vvar]",
            Self::Vdso => "[vdso]",
        }
    }

    /// Writes its only page.
    fn fill(self, page: &mut [u8]) {
        page.fill(0);
        match self {
            Self::Vvar => {
                let words = page.chunks_exact_mut(8).zip(vdso::data());
                words.for_each(|(to, word)| to.copy_from_slice(&word.to_le_bytes()));
            }
            Self::Vdso => page.copy_from_slice(IMAGE.get().expect("boot makes it")),
        }
    }
}

/// The vdso: made once, because memory may be short when a program touches it.
static IMAGE: Once<[u8; PAGE_SIZE]> = Once::new();

/// Makes the vdso. Once, by boot, when there is a heap and the clocks are measured.
pub fn make_vdso() {
    IMAGE.call_once(|| {
        let mut page = [0; PAGE_SIZE];
        page.copy_from_slice(&image::image(vdso::code(), &vdso::symbols()));
        page
    });
}

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
    if let Some(builtin) = Builtin::of(id) {
        // A mapping of it never grows beyond its page.
        if offset == 0 {
            builtin.fill(page);
        }
        return offset == 0;
    }
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

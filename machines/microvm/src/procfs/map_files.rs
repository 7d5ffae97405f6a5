//! `/proc/PID/map_files`: a link for each mapping of a file, whose name is the addresses.
//!
//! Linux: fs/proc/base.c `proc_map_files_lookup`. Differs: whoever may look may follow.

use super::generated::now;
use crate::fs::sources::{self, Builtin};
use crate::proc::mm::{self, Detail, Vma};
use crate::proc::process::Process;
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use anonmem::MapKind;
use anonmem_oslib::Result;
use anonmem_oslib::errno::ENOENT;
use anonmem_oslib::vfs::{FileType, Inode, LinkTarget, Synthetic};

/// Gives the link called `name`, which is of a directory with the number `ino`.
///
/// # Errors
/// `ENOENT` if no file is mapped at just these addresses.
pub(super) fn link(process: &Process, name: &[u8], ino: u64, parent: &Arc<Inode>) -> Result<Arc<Inode>> {
    let (start, end) = addresses(name).ok_or(ENOENT)?;
    let space = process.space().ok_or(ENOENT)?;
    let vma = mm::vmas(&space, start, Detail::Ranges)?.into_iter().next().ok_or(ENOENT)?;
    let range = vma.info.range;
    if (range.start.0, range.end.0) != (start, end) || !is_of_file(&vma) {
        return Err(ENOENT);
    }
    let path = vma.name.into_bytes();
    let inode = match vma.info.kind {
        MapKind::Source(id) => sources::inode(id.0.get()),
        MapKind::Shared(_) | MapKind::Anonymous => None,
    };
    // What was mapped shared is found by its path.
    let target = match inode {
        Some(inode) => LinkTarget::Inode(inode, path),
        None => LinkTarget::Path(path),
    };
    Ok(Inode::synthetic(ino + 1, 0o600, now(), parent, Arc::new(Link(target))))
}

/// The names of all links, in the order of their addresses, a few mappings at a time.
pub(super) fn names(process: &Process) -> impl Iterator<Item = (Vec<u8>, FileType)> {
    let space = process.space();
    let mut from = Some(0);
    core::iter::from_fn(move || {
        let some = mm::vmas(space.as_ref()?, from?, Detail::Ranges).unwrap_or_default();
        from = some.last().map(|vma| vma.info.range.end.0);
        from.map(|_| some)
    })
    .flatten()
    .filter(is_of_file)
    .map(|vma| {
        let range = vma.info.range;
        (format!("{:x}-{:x}", range.start.0, range.end.0).into_bytes(), FileType::Symlink)
    })
}

fn is_of_file(vma: &Vma) -> bool {
    match vma.info.kind {
        MapKind::Source(id) => Builtin::of(id.0.get()).is_none(),
        MapKind::Shared(_) => true,
        MapKind::Anonymous => false,
    }
}

/// `START-END`, in digits as `/proc` writes them.
fn addresses(name: &[u8]) -> Option<(u64, u64)> {
    let (start, end) = core::str::from_utf8(name).ok()?.split_once('-')?;
    let number = |text: &str| {
        let number = u64::from_str_radix(text, 16).ok()?;
        (format!("{number:x}") == text).then_some(number)
    };
    Some((number(start)?, number(end)?))
}

struct Link(LinkTarget);

impl Synthetic for Link {
    fn kind(&self) -> FileType {
        FileType::Symlink
    }
    fn target(&self) -> Result<LinkTarget> {
        Ok(self.0.clone())
    }
}

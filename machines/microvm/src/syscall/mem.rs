//! Memory: the system calls of the memory manager.

use super::{Call, user};
use crate::fs::file::{OpenFile, Target};
use crate::fs::store;
use crate::proc::mm::{self, Backing, Map, Space};
use crate::sched;
use crate::usercopy;
use anonmem_oslib::Result;
use anonmem_oslib::errno::{EACCES, EBADF, EFAULT, EINVAL, ENODEV, ENOMEM, EOVERFLOW, ESRCH};
use anonmem_oslib::vfs::Body;
use linux_raw_sys::general as abi;

const PAGE: u64 = 4096;

fn space() -> Result<Space> {
    sched::current_mm().ok_or(ESRCH)
}

fn pages(len: u64) -> Result<u64> {
    len.checked_next_multiple_of(PAGE).ok_or(ENOMEM)
}

pub(super) fn mmap(c: &mut Call<'_>) -> Result<usize> {
    let map = Map { addr: c.args[0], len: c.args[1], prot: c.u32(2), flags: c.u32(3) };
    if map.len == 0 {
        return Err(EINVAL);
    }
    let space = space()?;
    let at = if map.flags & abi::MAP_ANONYMOUS != 0 {
        mm::mmap(&space, map, Backing::Anonymous)?
    } else {
        let offset = c.args[5];
        if !offset.is_multiple_of(PAGE) {
            return Err(EINVAL);
        }
        offset.checked_add(pages(map.len)?).ok_or(EOVERFLOW)?;
        map_file(&space, map, &*c.thread.files().get(c.u32(4))?, offset)?
    };
    Ok(at as usize)
}

fn map_file(space: &Space, map: Map, file: &OpenFile, offset: u64) -> Result<u64> {
    if matches!(file.target, Target::Path) {
        return Err(EBADF);
    }
    if file.flags() & abi::O_ACCMODE == abi::O_WRONLY {
        return Err(EACCES);
    }
    if is_dev_zero(file) {
        return mm::mmap(space, Map { flags: map.flags | abi::MAP_ANONYMOUS, ..map }, Backing::Anonymous);
    }
    let Body::File(data) = &file.inode.body else { return Err(ENODEV) };
    let shared = map.flags & abi::MAP_TYPE != abi::MAP_PRIVATE;
    let writable = map.prot & abi::PROT_WRITE != 0;
    if shared && writable && file.flags() & abi::O_ACCMODE != abi::O_RDWR {
        return Err(EACCES);
    }
    // What nobody can write cannot be told apart from a private mapping.
    let pristine = data.lock().is_pristine();
    if shared && !(pristine && !writable && file.check_writable().is_err()) {
        let store = store::of_file(&file.inode, &file.path)?;
        return mm::mmap(space, map, Backing::Store { store: &store, offset });
    }
    let flags = map.flags & !abi::MAP_TYPE | abi::MAP_PRIVATE;
    let backing = Backing::File { inode: &file.inode, path: &file.path, offset };
    mm::mmap(space, Map { flags, ..map }, backing)
}

fn is_dev_zero(file: &OpenFile) -> bool {
    use crate::fs::device::Device;
    file.object::<Device>().is_some_and(|device| *device == Device::Zero)
}

pub(super) fn munmap(c: &mut Call<'_>) -> Result<usize> {
    mm::munmap(&space()?, c.args[0], c.args[1])?;
    Ok(0)
}

pub(super) fn mprotect(c: &mut Call<'_>) -> Result<usize> {
    // What is too large for the ABI's int is no bit that anybody knows.
    let prot = u32::try_from(c.args[2]).unwrap_or(c.u32(2) | 1 << 4);
    mm::mprotect(&space()?, c.args[0], c.args[1], prot)?;
    Ok(0)
}

pub(super) fn mremap(c: &mut Call<'_>) -> Result<usize> {
    Ok(mm::mremap(&space()?, c.args[0], c.args[1], c.args[2], c.u32(3), c.args[4])? as usize)
}

pub(super) fn brk(c: &mut Call<'_>) -> Result<usize> {
    Ok(mm::brk(&space()?, c.args[0]) as usize)
}

pub(super) fn madvise(c: &mut Call<'_>) -> Result<usize> {
    mm::madvise(&space()?, c.args[0], c.args[1], c.u32(2))?;
    Ok(0)
}

pub(super) fn mincore(c: &mut Call<'_>) -> Result<usize> {
    let [start, len, vector, ..] = c.args;
    let is_user = |start: u64, len: u64| start.checked_add(len).is_some_and(|end| end <= usercopy::USER_END);
    if !start.is_multiple_of(PAGE) {
        return Err(EINVAL);
    }
    if !is_user(start, len) {
        return Err(ENOMEM);
    }
    let count = len.div_ceil(PAGE);
    if !is_user(vector, count) {
        return Err(EFAULT);
    }
    let space = space()?;
    // In pieces, so that the answer for a large range needs little kernel memory.
    let mut piece = user::buffer(count.min(PAGE) as usize)?;
    for first in (0..count).step_by(PAGE as usize) {
        let (pages, mut told) = (PAGE.min(count - first), 0);
        let result = mm::mincore(&space, start + first * PAGE, pages * PAGE, &mut |is| {
            piece[told] = u8::from(is);
            told += 1;
        });
        // What comes before a hole is told.
        user::write(vector + first, &piece[..told])?;
        result?;
    }
    Ok(0)
}

/// There is nothing behind memory that it could be written back to.
pub(super) fn msync(c: &mut Call<'_>) -> Result<usize> {
    mm::msync(&space()?, c.args[0], c.args[1], c.u32(2))?;
    Ok(0)
}

pub(super) fn mlock(c: &mut Call<'_>) -> Result<usize> {
    const MLOCK_ONFAULT: u32 = 1;
    let is_mlock2 = c.frame.syscall_nr() == u64::from(abi::__NR_mlock2);
    let flags = if is_mlock2 { super::only(c.u32(2), MLOCK_ONFAULT)? } else { 0 };
    let when = if flags & MLOCK_ONFAULT != 0 { mm::Populate::OnFault } else { mm::Populate::Now };
    mm::mlock(&space()?, c.args[0], c.args[1], when)?;
    Ok(0)
}

pub(super) fn munlock(c: &mut Call<'_>) -> Result<usize> {
    mm::munlock(&space()?, c.args[0], c.args[1])?;
    Ok(0)
}

pub(super) fn mlockall(c: &mut Call<'_>) -> Result<usize> {
    mm::mlockall(&space()?, c.u32(0))?;
    Ok(0)
}

pub(super) fn munlockall(_c: &mut Call<'_>) -> Result<usize> {
    mm::munlockall(&space()?);
    Ok(0)
}

/// Not offered: programs then use their own fences.
pub(super) fn membarrier(c: &mut Call<'_>) -> Result<usize> {
    const QUERY: u32 = 0;
    if c.u32(0) == QUERY { Ok(0) } else { Err(EINVAL) }
}

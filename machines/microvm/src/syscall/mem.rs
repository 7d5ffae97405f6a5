//! Memory: the system calls of the memory manager.

use super::call::Call;
use super::uring::Uring;
use super::user;
use crate::fs::file::{OpenFile, Target};
use crate::fs::seals;
use crate::fs::store;
use crate::proc::failing::{self, By};
use crate::proc::ipc;
use crate::proc::mm::{self, Backing, Map, Space};
use crate::sched;
use crate::usercopy;
use anonmem::Failure;
use anonmem_oslib::Result;
use anonmem_oslib::cred::Cap;
use anonmem_oslib::errno::{
    EACCES, EBADF, EFAULT, EINVAL, ENODEV, ENOMEM, EOPNOTSUPP, EOVERFLOW, EPERM, ESRCH,
};
use anonmem_oslib::vfs::data::Seals;
use anonmem_oslib::vfs::{Body, FileType};
use linux_raw_sys::general as abi;

const PAGE: u64 = 4096;

fn space() -> Result<Space> {
    sched::current_mm().ok_or(ESRCH)
}

/// The arguments are looked at in Linux's order: the offset, the descriptor, the place, the limits, and then
/// what is mapped.
pub(super) fn mmap(c: &mut Call<'_>) -> Result<usize> {
    let map = Map { addr: c.args[0], len: c.args[1], prot: c.u32(2), flags: c.u32(3) };
    let offset = c.args[5];
    if !offset.is_multiple_of(PAGE) {
        return Err(EINVAL);
    }
    let at = if map.flags & abi::MAP_ANONYMOUS == 0 {
        map_file(&space()?, map, &*c.thread.files().get(c.u32(4))?, offset)?
    } else if map.flags & abi::MAP_HUGETLB != 0 {
        map_huge(&space()?, map, offset)?
    } else {
        mm::mmap(&space()?, map, Backing::Anonymous)?
    };
    ipc::shm::sweep();
    Ok(at as usize)
}

/// There is no pool of huge pages: what asks for one in the right way finds it empty.
fn map_huge(space: &Space, map: Map, offset: u64) -> Result<u64> {
    const DEFAULT: u32 = 0;
    const TWO_MIB: u32 = 21;
    const ONE_GIB: u32 = 30;
    let shift = match map.flags >> abi::MAP_HUGE_SHIFT & abi::MAP_HUGE_MASK {
        DEFAULT => TWO_MIB,
        shift @ (TWO_MIB | ONE_GIB) => shift,
        _ => return Err(EINVAL),
    };
    let size = 1 << shift;
    let fixed = map.flags & (abi::MAP_FIXED | abi::MAP_FIXED_NOREPLACE) != 0;
    // A length that wraps around is 0, as on Linux.
    let len = map.len.checked_next_multiple_of(size).unwrap_or(0);
    if len == 0 || (fixed && !map.addr.is_multiple_of(size)) {
        return Err(EINVAL);
    }
    mm::check_mmap(space, Map { len, ..map })?;
    if offset.checked_add(len).is_none_or(|end| end > i64::MAX as u64) {
        return Err(EOVERFLOW);
    }
    match map.flags & abi::MAP_TYPE {
        abi::MAP_SHARED | abi::MAP_SHARED_VALIDATE | abi::MAP_PRIVATE => Err(ENOMEM),
        _ => Err(EINVAL),
    }
}

/// The flags that a mapping of a file knows; `MAP_SHARED` ignores the others, `MAP_SHARED_VALIDATE` does not.
const FILE_FLAGS: u32 = abi::MAP_TYPE
    | abi::MAP_FIXED
    | abi::MAP_ANONYMOUS
    | abi::MAP_DENYWRITE
    | abi::MAP_EXECUTABLE
    | abi::MAP_UNINITIALIZED
    | abi::MAP_GROWSDOWN
    | abi::MAP_LOCKED
    | abi::MAP_NORESERVE
    | abi::MAP_POPULATE
    | abi::MAP_NONBLOCK
    | abi::MAP_STACK
    | abi::MAP_HUGETLB
    | MAP_32BIT
    | MAP_ABOVE4G
    | 21 << abi::MAP_HUGE_SHIFT
    | 30 << abi::MAP_HUGE_SHIFT;
const MAP_32BIT: u32 = 0x40;
const MAP_ABOVE4G: u32 = 0x80;

fn map_file(space: &Space, map: Map, file: &OpenFile, offset: u64) -> Result<u64> {
    if matches!(file.target, Target::Path) {
        return Err(EBADF);
    }
    if map.flags & abi::MAP_HUGETLB != 0 {
        return Err(EINVAL);
    }
    let writable = file.check_writable().is_ok();
    let sealed = seals::of(&file.inode).unwrap_or(Seals::empty());
    if let Err(error) = check_file(map, file, offset).and_then(|()| check_seals(map, sealed)) {
        // What is wrong with the place comes first.
        mm::check_mmap(space, map)?;
        return Err(error);
    }
    if is_dev_zero(file) {
        let private = map.flags & abi::MAP_TYPE == abi::MAP_PRIVATE;
        let kind = if private { abi::MAP_PRIVATE } else { abi::MAP_SHARED };
        let flags = map.flags & !abi::MAP_TYPE | kind | abi::MAP_ANONYMOUS;
        return mm::mmap(space, Map { flags, ..map }, Backing::Anonymous);
    }
    if let Some(ring) = file.object::<Uring>() {
        if map.flags & abi::MAP_TYPE == abi::MAP_PRIVATE {
            return Err(EINVAL);
        }
        let store = ring.mapped(offset)?;
        return mm::mmap(space, map, Backing::Store { store, offset: 0 });
    }
    let Body::File(data) = &file.inode.body else { return Err(ENODEV) };
    let backing = Backing::File { inode: &file.inode, path: &file.path, offset };
    if map.flags & abi::MAP_TYPE == abi::MAP_PRIVATE {
        return mm::mmap(space, map, backing);
    }
    if writable && !sealed.refuse_writes() {
        let store = store::of_file(&file.inode, &file.path)?;
        return mm::mmap(space, map, Backing::Store { store: &store, offset });
    }
    // The bytes of the archive stay where they are: nobody has written to the file so far.
    let pristine = data.lock().is_pristine();
    if pristine {
        return mm::mmap_read_only_shared(space, map, backing);
    }
    let store = store::of_file(&file.inode, &file.path)?;
    mm::mmap_read_only_shared(space, map, Backing::Store { store: &store, offset })
}

/// Checks that the file can be mapped as it is asked for.
fn check_file(map: Map, file: &OpenFile, offset: u64) -> Result<()> {
    // The largest offset of a file is that of an `off_t`.
    let last = if matches!(file.inode.body, Body::File(_)) { i64::MAX as u64 } else { u64::MAX };
    let end = map.len.checked_next_multiple_of(PAGE).and_then(|len| offset.checked_add(len));
    if end.is_none_or(|end| end > last) {
        return Err(EOVERFLOW);
    }
    match map.flags & abi::MAP_TYPE {
        abi::MAP_SHARED_VALIDATE if map.flags & !FILE_FLAGS != 0 => return Err(EOPNOTSUPP),
        abi::MAP_SHARED | abi::MAP_SHARED_VALIDATE => {
            if map.prot & abi::PROT_WRITE != 0 && file.check_writable().is_err() {
                return Err(EACCES);
            }
        }
        abi::MAP_PRIVATE => {}
        _ => return Err(EINVAL),
    }
    if file.check_readable().is_err() {
        return Err(EACCES);
    }
    // What has no name among the files, and what is generated, is on a file system without programs.
    let no_programs = match file.inode.kind() {
        FileType::Fifo | FileType::Socket => true,
        _ => matches!(file.inode.body, Body::Synthetic(_)),
    };
    if map.prot & abi::PROT_EXEC != 0 && no_programs {
        return Err(EPERM);
    }
    let is_mapped = is_dev_zero(file) || file.object::<Uring>().is_some();
    if !matches!(file.inode.body, Body::File(_)) && !is_mapped {
        return Err(ENODEV);
    }
    if map.flags & abi::MAP_GROWSDOWN != 0 {
        return Err(EINVAL);
    }
    Ok(())
}

/// Checks that a file with these seals may be mapped as it is asked for. Linux: mm/memfd.c
/// `memfd_check_seals_mmap`.
fn check_seals(map: Map, seals: Seals) -> Result<()> {
    let shared = map.flags & abi::MAP_TYPE != abi::MAP_PRIVATE;
    let stores = shared && map.prot & abi::PROT_WRITE != 0;
    if stores && seals.refuse_writes() { Err(EPERM) } else { Ok(()) }
}

fn is_dev_zero(file: &OpenFile) -> bool {
    use crate::fs::device::Device;
    file.object::<Device>().is_some_and(|device| *device == Device::Zero)
}

pub(super) fn munmap(c: &mut Call<'_>) -> Result<usize> {
    mm::munmap(&space()?, c.args[0], c.args[1])?;
    ipc::shm::sweep();
    Ok(0)
}

pub(super) fn mprotect(c: &mut Call<'_>) -> Result<usize> {
    // What is too large for the ABI's int is no bit that anybody knows.
    let prot = u32::try_from(c.args[2]).unwrap_or(c.u32(2) | 1 << 4);
    mm::mprotect(&space()?, c.args[0], c.args[1], prot)?;
    Ok(0)
}

pub(super) fn mseal(c: &mut Call<'_>) -> Result<usize> {
    if c.args[2] != 0 {
        return Err(EINVAL);
    }
    mm::mseal(&space()?, c.args[0], c.args[1])?;
    Ok(0)
}

pub(super) fn mremap(c: &mut Call<'_>) -> Result<usize> {
    let at = mm::mremap(&space()?, c.args[0], c.args[1], c.args[2], c.u32(3), c.args[4])?;
    ipc::shm::sweep();
    Ok(at as usize)
}

pub(super) fn brk(c: &mut Call<'_>) -> Result<usize> {
    Ok(mm::brk(&space()?, c.args[0]) as usize)
}

pub(super) fn madvise(c: &mut Call<'_>) -> Result<usize> {
    let failure = match c.u32(2) {
        abi::MADV_HWPOISON => Some(Failure::Lost),
        abi::MADV_SOFT_OFFLINE => Some(Failure::Soon),
        _ => None,
    };
    if let Some(failure) = failure {
        let by = if c.thread.cred().has(Cap::SysAdmin) { By::Root } else { By::Other };
        failing::fail_pages(&space()?, by, c.args[0], c.args[1], failure)?;
        return Ok(0);
    }
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
    let flags = if is_mlock2 { super::call::only(c.u32(2), MLOCK_ONFAULT)? } else { 0 };
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

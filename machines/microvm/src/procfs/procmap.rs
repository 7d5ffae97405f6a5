//! PROCMAP_QUERY on `/proc/PID/maps`: one mapping, as numbers.
//!
//! Linux: fs/proc/task_mmu.c `do_procmap_query`. Differs: no program here has a build id, so its size is 0.

use crate::proc::mm::{self, Detail, Vma};
use crate::proc::process::Process;
use crate::usercopy;
use alloc::vec::Vec;
use anonmem::VmFlags;
use anonmem_hal::PAGE_SIZE;
use anonmem_oslib::abi::Fields;
use anonmem_oslib::errno::{E2BIG, EINVAL, ENAMETOOLONG, ENOENT, ENOTTY, ESRCH};
use anonmem_oslib::{Result, structure};
use core::mem::offset_of;
use linux_raw_sys::general::{procmap_query as Query, procmap_query_flags as Flag};

const BYTES: usize = size_of::<Query>();

/// `_IOWR('f', 17, struct procmap_query)`.
const QUERY: u32 = 3 << 30 | (BYTES as u32) << 16 | (b'f' as u32) << 8 | 17;

const READABLE: u64 = Flag::PROCMAP_QUERY_VMA_READABLE as u64;
const WRITABLE: u64 = Flag::PROCMAP_QUERY_VMA_WRITABLE as u64;
const EXECUTABLE: u64 = Flag::PROCMAP_QUERY_VMA_EXECUTABLE as u64;
const SHARED: u64 = Flag::PROCMAP_QUERY_VMA_SHARED as u64;
const OR_NEXT: u64 = Flag::PROCMAP_QUERY_COVERING_OR_NEXT_VMA as u64;
const OF_A_FILE: u64 = Flag::PROCMAP_QUERY_FILE_BACKED_VMA as u64;
const KNOWN: u64 = READABLE | WRITABLE | EXECUTABLE | SHARED | OR_NEXT | OF_A_FILE;
/// The longest name.
const PATH_MAX: u64 = 4096;

/// Answers an ioctl.
///
/// # Errors
/// `ENOTTY` if it is another one; those of `ioctl(2)` for this one.
pub(super) fn ioctl(process: &Process, request: u32, argument: u64) -> Result<usize> {
    if request != QUERY {
        return Err(ENOTTY);
    }
    let size: u64 = usercopy::read_user(argument)?;
    if size > PAGE_SIZE as u64 {
        return Err(E2BIG);
    }
    if size < offset_of!(Query, vma_start) as u64 {
        return Err(EINVAL);
    }
    let size = (size as usize).min(BYTES);
    let mut bytes = [0; BYTES];
    usercopy::copy_from_user(&mut bytes[..size], argument)?;
    let told = answer(process, size, Fields(&bytes))?;
    usercopy::copy_to_user(argument, &told[..size])?;
    Ok(0)
}

/// What is told to who has asked with `size` bytes; writes the name of what was found.
fn answer(process: &Process, size: usize, asked: Fields<'_>) -> Result<Vec<u8>> {
    let number = |at| asked.u64(at);
    let (flags, address) = (number(offset_of!(Query, query_flags)), number(offset_of!(Query, query_addr)));
    let (name, build_id) =
        (number(offset_of!(Query, vma_name_addr)), number(offset_of!(Query, build_id_addr)));
    let name_size = asked.u32(offset_of!(Query, vma_name_size));
    let is_half = |size: u32, address: u64| (size == 0) != (address == 0);
    if flags & !KNOWN != 0
        || is_half(name_size, name)
        || is_half(asked.u32(offset_of!(Query, build_id_size)), build_id)
    {
        return Err(EINVAL);
    }
    let vma = find(process, address, flags)?;
    Ok(structure!(Query {
        size: size,
        query_flags: flags,
        query_addr: address,
        vma_start: vma.info.range.start.0,
        vma_end: vma.info.range.end.0,
        vma_flags: permissions(vma.info.flags),
        vma_page_size: PAGE_SIZE,
        vma_offset: if vma.ino == 0 { 0 } else { vma.info.pgoff * PAGE_SIZE as u64 },
        inode: vma.ino,
        vma_name_size: write_name(&vma, name, name_size)?,
        vma_name_addr: name,
        build_id_addr: build_id,
    }))
}

/// Writes the name, with its zero, if it was asked for; returns its length, or 0.
fn write_name(vma: &Vma, to: u64, room: u32) -> Result<u64> {
    if room == 0 || vma.name.is_empty() {
        return Ok(0);
    }
    let len = vma.name.len() as u64 + 1;
    if len > u64::from(room).min(PATH_MAX) {
        return Err(ENAMETOOLONG);
    }
    usercopy::copy_to_user(to, vma.name.as_bytes())?;
    usercopy::copy_to_user(to + len - 1, &[0])?;
    Ok(len)
}

fn permissions(flags: VmFlags) -> u64 {
    let bit = |flag, bit| if flags.contains(flag) { bit } else { 0 };
    bit(VmFlags::READ, READABLE)
        | bit(VmFlags::WRITE, WRITABLE)
        | bit(VmFlags::EXEC, EXECUTABLE)
        | bit(VmFlags::MAYSHARE, SHARED)
}

/// The mapping at `address` that has what the flags ask for; or the next one that has, if they say so.
fn find(process: &Process, mut address: u64, flags: u64) -> Result<Vma> {
    let space = process.space().ok_or(ESRCH)?;
    let wanted = flags & (READABLE | WRITABLE | EXECUTABLE | SHARED);
    loop {
        let some = mm::vmas(&space, address, Detail::Ranges)?;
        let Some(last) = some.last().map(|vma| vma.info.range.end.0) else { return Err(ENOENT) };
        for vma in some {
            if flags & OR_NEXT == 0 && vma.info.range.start.0 > address {
                return Err(ENOENT);
            }
            let fits = permissions(vma.info.flags) & wanted == wanted;
            if fits && (flags & OF_A_FILE == 0 || vma.ino != 0) {
                return Ok(vma);
            }
            if flags & OR_NEXT == 0 {
                return Err(ENOENT);
            }
        }
        address = last;
    }
}

//! PROCMAP_QUERY on `/proc/PID/maps`: one mapping, as numbers.
//!
//! Linux: fs/proc/task_mmu.c `do_procmap_query`. Differs: no program here has a build id, so its size is 0.

use crate::proc::mm::{self, Detail, Vma};
use crate::proc::process::Process;
use crate::usercopy;
use anonmem::VmFlags;
use anonmem_hal::PAGE_SIZE;
use anonmem_oslib::Result;
use anonmem_oslib::errno::{E2BIG, EINVAL, ENAMETOOLONG, ENOENT, ENOTTY, ESRCH};

/// Words of `struct procmap_query`: twice four bytes are in word 9 and in word 10.
const WORDS: usize = 13;
const BYTES: usize = WORDS * 8;
const SIZE: usize = 0;
const FLAGS: usize = 1;
const ADDRESS: usize = 2;
/// `vma_start`, `vma_end`, `vma_flags`, `vma_page_size`, `vma_offset`, `inode`, the device.
const FOUND: usize = 3;
/// `vma_name_size` and, above it, `build_id_size`.
const SIZES: usize = 10;
const NAME: usize = 11;
const BUILD_ID: usize = 12;

/// `_IOWR('f', 17, struct procmap_query)`.
const QUERY: u32 = 3 << 30 | (BYTES as u32) << 16 | (b'f' as u32) << 8 | 17;

const READABLE: u64 = 1;
const WRITABLE: u64 = 2;
const EXECUTABLE: u64 = 4;
const SHARED: u64 = 8;
const OR_NEXT: u64 = 0x10;
const OF_A_FILE: u64 = 0x20;
const KNOWN: u64 = 0x3f;
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
    if size < (ADDRESS as u64 + 1) * 8 {
        return Err(EINVAL);
    }
    let size = (size as usize).min(BYTES);
    let mut bytes = [0; BYTES];
    usercopy::copy_from_user(&mut bytes[..size], argument)?;
    let mut words = [0; WORDS];
    for (word, part) in words.iter_mut().zip(bytes.as_chunks().0) {
        *word = u64::from_le_bytes(*part);
    }
    answer(process, &mut words)?;
    words[SIZE] = size as u64;
    for (word, part) in words.iter().zip(bytes.as_chunks_mut().0) {
        *part = word.to_le_bytes();
    }
    usercopy::copy_to_user(argument, &bytes[..size])?;
    Ok(0)
}

/// Fills in what was found, and writes its name.
fn answer(process: &Process, words: &mut [u64; WORDS]) -> Result<()> {
    let (name_size, build_id_size) = (words[SIZES] & 0xffff_ffff, words[SIZES] >> 32);
    let is_half = |size: u64, address: u64| (size == 0) != (address == 0);
    if words[FLAGS] & !KNOWN != 0
        || is_half(name_size, words[NAME])
        || is_half(build_id_size, words[BUILD_ID])
    {
        return Err(EINVAL);
    }
    let vma = find(process, words[ADDRESS], words[FLAGS])?;
    let offset = if vma.ino == 0 { 0 } else { vma.info.pgoff * PAGE_SIZE as u64 };
    let range = vma.info.range;
    let found =
        [range.start.0, range.end.0, permissions(vma.info.flags), PAGE_SIZE as u64, offset, vma.ino, 0];
    words[FOUND..FOUND + found.len()].copy_from_slice(&found);
    words[SIZES] = 0;
    if name_size == 0 || vma.name.is_empty() {
        return Ok(());
    }
    let len = vma.name.len() as u64 + 1;
    if len > name_size.min(PATH_MAX) {
        return Err(ENAMETOOLONG);
    }
    usercopy::copy_to_user(words[NAME], vma.name.as_bytes())?;
    usercopy::copy_to_user(words[NAME] + len - 1, &[0])?;
    words[SIZES] = len;
    Ok(())
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

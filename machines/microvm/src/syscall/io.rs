//! Reading and writing.
//!
//! How far a transfer comes when the caller's memory ends in the middle is decided where the bytes are
//! ([`crate::fs::iov`]).

use super::call::Call;
use super::user;
use crate::fs::file::OpenFile;
use crate::fs::iov::{From, PIECE, To};
use crate::proc::signal;
use alloc::sync::Arc;
use alloc::vec::Vec;
use anonmem_oslib::Result;
use anonmem_oslib::abi::Fields;
use anonmem_oslib::errno::{EFAULT, EINVAL, ENOMEM, EPIPE};
use anonmem_oslib::signal::SIGPIPE;

/// The largest number of bytes that one call moves.
pub(super) const LIMIT: usize = 0x7fff_f000;
/// The largest number of pieces of one `readv` or `writev`.
const IOV_MAX: usize = 1024;

fn file(c: &Call<'_>) -> Result<Arc<OpenFile>> {
    c.thread.files().get(c.u32(0))
}

/// Where in a file to read or write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// At the description's position.
    Position,
    /// At an offset; the position stays.
    Offset(u64),
}

impl At {
    fn offset(value: u64) -> Result<At> {
        if value as i64 >= 0 { Ok(At::Offset(value)) } else { Err(EINVAL) }
    }
}

/// Fails for a buffer that is not in user space at all. Linux: `access_ok`.
pub(super) fn check_range(address: u64, len: usize) -> Result<()> {
    match address.checked_add(len as u64) {
        Some(end) if end <= i64::MAX as u64 => Ok(()),
        Some(_) | None => Err(EFAULT),
    }
}

fn read_to(file: &OpenFile, pieces: &[(u64, usize)], at: At) -> Result<usize> {
    file.check_readable()?;
    pieces.iter().try_for_each(|&(address, len)| check_range(address, len))?;
    let mut to = To::user(pieces);
    match at {
        At::Position => file.read(&mut to),
        At::Offset(offset) => file.read_at(offset, &mut to),
    }
}

fn write_from(file: &OpenFile, pieces: &[(u64, usize)], at: At) -> Result<usize> {
    file.check_writable()?;
    pieces.iter().try_for_each(|&(address, len)| check_range(address, len))?;
    let mut from = From::user(pieces);
    match at {
        At::Position => file.write(&mut from),
        At::Offset(offset) => file.write_at(offset, &mut from),
    }
}

pub(super) fn read(c: &mut Call<'_>) -> Result<usize> {
    read_to(&*file(c)?, &[(c.args[1], c.len(2))], At::Position)
}

/// Raises SIGPIPE if a write failed because nobody will read.
pub(super) fn or_sigpipe(result: Result<usize>) -> Result<usize> {
    if result == Err(EPIPE) {
        signal::raise(SIGPIPE);
    }
    result
}

pub(super) fn write(c: &mut Call<'_>) -> Result<usize> {
    or_sigpipe(write_from(&*file(c)?, &[(c.args[1], c.len(2))], At::Position))
}

pub(super) fn pread(c: &mut Call<'_>) -> Result<usize> {
    read_to(&*file(c)?, &[(c.args[1], c.len(2))], At::offset(c.args[3])?)
}

pub(super) fn pwrite(c: &mut Call<'_>) -> Result<usize> {
    write_from(&*file(c)?, &[(c.args[1], c.len(2))], At::offset(c.args[3])?)
}

/// The pieces of user memory of `readv`, `writev` and the like.
pub(super) fn vector(address: u64, count: usize) -> Result<Vec<(u64, usize)>> {
    if count > IOV_MAX {
        return Err(EINVAL);
    }
    let bytes = user::read(address, 16 * count)?;
    let mut pieces = Vec::new();
    pieces.try_reserve_exact(count).map_err(|_| ENOMEM)?;
    pieces.extend((0..count).map(|i| (Fields(&bytes).u64(16 * i), Fields(&bytes).u64(16 * i + 8) as usize)));
    if pieces.iter().any(|&(_, len)| len as i64 <= -1) {
        return Err(EINVAL);
    }
    Ok(pieces)
}

pub(super) fn readv(c: &mut Call<'_>) -> Result<usize> {
    read_to(&*file(c)?, &vector(c.args[1], c.len(2))?, At::Position)
}

pub(super) fn writev(c: &mut Call<'_>) -> Result<usize> {
    or_sigpipe(write_from(&*file(c)?, &vector(c.args[1], c.len(2))?, At::Position))
}

/// The offset of `preadv` and `preadv2`: all ones mean the position.
fn vector_at(c: &Call<'_>) -> Result<At> {
    if c.args[3] == u64::MAX { Ok(At::Position) } else { At::offset(c.args[3]) }
}

pub(super) fn preadv(c: &mut Call<'_>) -> Result<usize> {
    read_to(&*file(c)?, &vector(c.args[1], c.len(2))?, vector_at(c)?)
}

pub(super) fn pwritev(c: &mut Call<'_>) -> Result<usize> {
    or_sigpipe(write_from(&*file(c)?, &vector(c.args[1], c.len(2))?, vector_at(c)?))
}

/// Copies between two descriptions within the kernel: what is read is written, and a position moves by that.
fn copy(from: (&OpenFile, At), to: (&OpenFile, At), len: usize) -> Result<usize> {
    from.0.check_readable()?;
    to.0.check_writable()?;
    match from.1 {
        At::Position => from.0.at_position(|offset| copy_at(from.0, offset, to, len)),
        At::Offset(offset) => copy_at(from.0, offset, to, len),
    }
}

fn copy_at(from: &OpenFile, offset: u64, to: (&OpenFile, At), len: usize) -> Result<usize> {
    let len = len.min(LIMIT);
    let mut buffer = user::buffer(len.min(PIECE))?;
    let mut done = 0;
    while done < len {
        let piece = (len - done).min(PIECE);
        let read = from.read_at(offset + done as u64, &mut To::Kernel(&mut buffer[..piece]));
        let written = read.and_then(|n| {
            let mut bytes = From::Kernel(&buffer[..n]);
            let written = match to.1 {
                _ if n == 0 => Ok(0),
                At::Position => to.0.write(&mut bytes),
                At::Offset(at) => to.0.write_at(at + done as u64, &mut bytes),
            };
            written.map(|written| (n, written))
        });
        match written {
            Ok((n, written)) => {
                done += written;
                if n < piece || written < n {
                    break;
                }
            }
            Err(_) if done > 0 => break,
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// Reads an offset argument: a pointer to it, or null for the position.
fn offset_at(pointer: u64) -> Result<At> {
    if pointer == 0 { Ok(At::Position) } else { At::offset(user::read_u64(pointer)?) }
}

fn store_offset(pointer: u64, at: At, n: usize) -> Result<()> {
    match at {
        At::Position => Ok(()),
        At::Offset(offset) => user::write(pointer, &(offset + n as u64).to_le_bytes()),
    }
}

pub(super) fn sendfile(c: &mut Call<'_>) -> Result<usize> {
    let files = c.thread.files();
    let (to, from) = (files.get(c.u32(0))?, files.get(c.u32(1))?);
    let at = offset_at(c.args[2])?;
    if from.is_stream() {
        return Err(EINVAL);
    }
    let n = or_sigpipe(copy((&from, at), (&to, At::Position), c.len(3)))?;
    store_offset(c.args[2], at, n)?;
    Ok(n)
}

pub(super) fn copy_file_range(c: &mut Call<'_>) -> Result<usize> {
    let files = c.thread.files();
    let (from, to) = (files.get(c.u32(0))?, files.get(c.u32(2))?);
    let (from_at, to_at) = (offset_at(c.args[1])?, offset_at(c.args[3])?);
    if from.is_stream() || to.is_stream() || c.args[5] != 0 {
        return Err(EINVAL);
    }
    let n = copy((&from, from_at), (&to, to_at), c.len(4))?;
    store_offset(c.args[1], from_at, n)?;
    store_offset(c.args[3], to_at, n)?;
    Ok(n)
}

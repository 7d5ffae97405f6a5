//! Reading and writing.

use super::{Call, user};
use crate::fs::file::OpenFile;
use crate::proc::signal;
use alloc::sync::Arc;
use alloc::vec::Vec;
use anonmem_oslib::Result;
use anonmem_oslib::abi::Fields;
use anonmem_oslib::errno::{EFAULT, EINVAL, EPIPE};
use anonmem_oslib::signal::SIGPIPE;

/// The largest number of bytes that one call moves.
const LIMIT: usize = 0x7fff_f000;
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

    fn after(self, n: usize) -> At {
        match self {
            At::Position => At::Position,
            At::Offset(offset) => At::Offset(offset + n as u64),
        }
    }
}

/// Reads into user memory, in pieces. A stream is read once: a second read could wait.
fn read_to(file: &OpenFile, address: u64, len: usize, at: At) -> Result<usize> {
    file.check_readable()?;
    let len = len.min(LIMIT);
    let mut buffer = user::buffer(len.min(user::PIECE))?;
    let mut done = 0;
    loop {
        let piece = (len - done).min(user::PIECE);
        let result = match at.after(done) {
            At::Position => file.read(&mut buffer[..piece]),
            At::Offset(offset) => file.read_at(offset, &mut buffer[..piece]),
        };
        let n = match result {
            Ok(n) => n,
            Err(_) if done > 0 => return Ok(done),
            Err(error) => return Err(error),
        };
        user::write(address + done as u64, &buffer[..n]).or(if done > 0 { Ok(()) } else { Err(EFAULT) })?;
        done += n;
        if n < piece || done == len || file.is_stream() {
            return Ok(done);
        }
    }
}

/// Writes from user memory, in pieces.
fn write_from(file: &OpenFile, address: u64, len: usize, at: At) -> Result<usize> {
    file.check_writable()?;
    let len = len.min(LIMIT);
    let mut done = 0;
    loop {
        let piece = (len - done).min(user::PIECE);
        let result = user::read(address + done as u64, piece).and_then(|buffer| match at.after(done) {
            At::Position => file.write(&buffer),
            At::Offset(offset) => file.write_at(offset, &buffer),
        });
        match result {
            Ok(n) => done += n,
            Err(_) if done > 0 => return Ok(done),
            Err(error) => return Err(error),
        }
        if result != Ok(piece) || done == len {
            return Ok(done);
        }
    }
}

pub(super) fn read(c: &mut Call<'_>) -> Result<usize> {
    read_to(&*file(c)?, c.args[1], c.len(2), At::Position)
}

/// Raises SIGPIPE if a write failed because nobody will read.
pub(super) fn or_sigpipe(result: Result<usize>) -> Result<usize> {
    if result == Err(EPIPE) {
        signal::raise(SIGPIPE);
    }
    result
}

pub(super) fn write(c: &mut Call<'_>) -> Result<usize> {
    or_sigpipe(write_from(&*file(c)?, c.args[1], c.len(2), At::Position))
}

pub(super) fn pread(c: &mut Call<'_>) -> Result<usize> {
    read_to(&*file(c)?, c.args[1], c.len(2), At::offset(c.args[3])?)
}

pub(super) fn pwrite(c: &mut Call<'_>) -> Result<usize> {
    write_from(&*file(c)?, c.args[1], c.len(2), At::offset(c.args[3])?)
}

/// The pieces of user memory of `readv`, `writev` and the like.
pub(super) fn vector(address: u64, count: usize) -> Result<Vec<(u64, usize)>> {
    if count > IOV_MAX {
        return Err(EINVAL);
    }
    let bytes = user::read(address, 16 * count)?;
    let piece = |at: usize| (Fields(&bytes).u64(at), Fields(&bytes).u64(at + 8));
    let pieces: Vec<(u64, u64)> = (0..count).map(|i| piece(16 * i)).collect();
    let total = pieces.iter().try_fold(0u64, |sum, (_, len)| sum.checked_add(*len));
    total.filter(|&total| total <= i64::MAX as u64).ok_or(EINVAL)?;
    Ok(pieces.into_iter().map(|(address, len)| (address, len as usize)).collect())
}

/// Does `one` for each piece until one is not done completely.
fn each(pieces: &[(u64, usize)], mut one: impl FnMut(u64, usize, usize) -> Result<usize>) -> Result<usize> {
    let mut done = 0;
    for &(address, len) in pieces.iter().filter(|(_, len)| *len > 0) {
        match one(address, len, done) {
            Ok(n) => done += n,
            Err(_) if done > 0 => break,
            Err(error) => return Err(error),
        }
        let complete = pieces
            .iter()
            .scan(0, |sum, (_, len)| {
                *sum += len;
                Some(*sum)
            })
            .any(|end| end == done);
        if !complete {
            break;
        }
    }
    Ok(done)
}

fn read_vector(file: &OpenFile, pieces: &[(u64, usize)], at: At) -> Result<usize> {
    file.check_readable()?;
    let total: usize = pieces.iter().map(|(_, len)| len).sum();
    if !file.is_stream() {
        return each(pieces, |address, len, done| read_to(file, address, len, at.after(done)));
    }
    // A stream is read once, and what came is spread.
    let mut buffer = user::buffer(total.min(user::PIECE))?;
    let n = file.read(&mut buffer)?;
    let mut rest = &buffer[..n];
    for &(address, len) in pieces {
        let (now, later) = rest.split_at(len.min(rest.len()));
        user::write(address, now)?;
        rest = later;
    }
    Ok(n)
}

fn write_vector(file: &OpenFile, pieces: &[(u64, usize)], at: At) -> Result<usize> {
    file.check_writable()?;
    let total: usize = pieces.iter().map(|(_, len)| len).sum();
    if total > user::PIECE {
        return each(pieces, |address, len, done| write_from(file, address, len, at.after(done)));
    }
    // Written at once, so that it arrives in one piece.
    let mut buffer = Vec::new();
    for &(address, len) in pieces {
        buffer.extend_from_slice(&user::read(address, len)?);
    }
    match at {
        At::Position => file.write(&buffer),
        At::Offset(offset) => file.write_at(offset, &buffer),
    }
}

pub(super) fn readv(c: &mut Call<'_>) -> Result<usize> {
    read_vector(&*file(c)?, &vector(c.args[1], c.len(2))?, At::Position)
}

pub(super) fn writev(c: &mut Call<'_>) -> Result<usize> {
    or_sigpipe(write_vector(&*file(c)?, &vector(c.args[1], c.len(2))?, At::Position))
}

/// The offset of `preadv` and `preadv2`: all ones mean the position.
fn vector_at(c: &Call<'_>) -> Result<At> {
    if c.args[3] == u64::MAX { Ok(At::Position) } else { At::offset(c.args[3]) }
}

pub(super) fn preadv(c: &mut Call<'_>) -> Result<usize> {
    read_vector(&*file(c)?, &vector(c.args[1], c.len(2))?, vector_at(c)?)
}

pub(super) fn pwritev(c: &mut Call<'_>) -> Result<usize> {
    or_sigpipe(write_vector(&*file(c)?, &vector(c.args[1], c.len(2))?, vector_at(c)?))
}

/// Copies between two descriptions within the kernel.
fn copy(from: (&OpenFile, At), to: (&OpenFile, At), len: usize) -> Result<usize> {
    from.0.check_readable()?;
    to.0.check_writable()?;
    let len = len.min(LIMIT);
    let mut buffer = user::buffer(len.min(user::PIECE))?;
    let mut done = 0;
    while done < len {
        let piece = (len - done).min(user::PIECE);
        let result = match from.1.after(done) {
            At::Position => from.0.read(&mut buffer[..piece]),
            At::Offset(offset) => from.0.read_at(offset, &mut buffer[..piece]),
        };
        let result = result.and_then(|n| match to.1.after(done) {
            _ if n == 0 => Ok(0),
            At::Position => to.0.write(&buffer[..n]),
            At::Offset(offset) => to.0.write_at(offset, &buffer[..n]),
        });
        match result {
            Ok(0) => break,
            Ok(n) => done += n,
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
    match at.after(n) {
        At::Position => Ok(()),
        At::Offset(offset) => user::write(pointer, &offset.to_le_bytes()),
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

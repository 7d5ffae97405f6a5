//! Arguments that point to user memory.

use crate::usercopy;
use alloc::vec::Vec;
use anonmem_oslib::Result;
use anonmem_oslib::abi::Fields;
use anonmem_oslib::errno::{E2BIG, EINVAL, ENAMETOOLONG, ENOMEM};
use anonmem_oslib::stack::STRING_MAX;
use anonmem_oslib::strings::Strings;

pub use crate::fs::iov::PIECE;

/// Makes a kernel buffer.
///
/// # Errors
/// `ENOMEM`.
pub fn buffer(len: usize) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(len).map_err(|_| ENOMEM)?;
    bytes.resize(len, 0);
    Ok(bytes)
}

/// Reads `len` bytes at `address`.
///
/// # Errors
/// `EFAULT`, `ENOMEM`.
pub fn read(address: u64, len: usize) -> Result<Vec<u8>> {
    let mut bytes = buffer(len)?;
    usercopy::copy_from_user(&mut bytes, address)?;
    Ok(bytes)
}

/// Reads `N` bytes at `address`.
///
/// # Errors
/// `EFAULT`.
pub fn read_array<const N: usize>(address: u64) -> Result<[u8; N]> {
    let mut bytes = [0; N];
    usercopy::copy_from_user(&mut bytes, address)?;
    Ok(bytes)
}

/// Reads four bytes at `address`.
///
/// # Errors
/// `EFAULT`.
pub fn read_u32(address: u64) -> Result<u32> {
    Ok(u32::from_le_bytes(read_array(address)?))
}

/// Reads eight bytes at `address`.
///
/// # Errors
/// `EFAULT`.
pub fn read_u64(address: u64) -> Result<u64> {
    Ok(u64::from_le_bytes(read_array(address)?))
}

/// Writes bytes at `address`.
///
/// # Errors
/// `EFAULT`.
pub fn write(address: u64, bytes: &[u8]) -> Result<()> {
    Ok(usercopy::copy_to_user(address, bytes)?)
}

/// Writes bytes at `address` unless it is null.
///
/// # Errors
/// `EFAULT`.
pub fn write_unless_null(address: u64, bytes: &[u8]) -> Result<()> {
    if address == 0 { Ok(()) } else { write(address, bytes) }
}

/// The longest path, with its NUL.
const PATH_MAX: usize = 4096;
/// Room for most paths.
const PATH_FIRST: usize = 128;

/// Reads a path.
///
/// # Errors
/// `EFAULT`, `ENAMETOOLONG`, `ENOMEM`.
pub fn path(address: u64) -> Result<Vec<u8>> {
    let mut path = Vec::new();
    path.try_reserve(PATH_FIRST).map_err(|_| ENOMEM)?;
    usercopy::each_of_cstr(address, |piece| {
        if path.len() + piece.len() >= PATH_MAX {
            return Err(ENAMETOOLONG);
        }
        path.try_reserve(piece.len()).map_err(|_| ENOMEM)?;
        path.extend_from_slice(piece);
        Ok(())
    })?;
    Ok(path)
}

/// Reads a null-terminated array of strings; none if the pointer is null. Takes what it reads, and a pointer
/// for each string, from `room`.
///
/// # Errors
/// `EFAULT`, `E2BIG`, `ENOMEM`.
pub fn strings(address: u64, room: &mut usize) -> Result<Strings> {
    let mut all = Strings::new();
    if address == 0 {
        return Ok(all);
    }
    for i in 0.. {
        let pointer = read_u64(address.wrapping_add(8 * i))?;
        if pointer == 0 {
            break;
        }
        let before = all.bytes();
        let more = |piece: &[u8]| {
            all.append(piece)?;
            let len = all.bytes() - before;
            if len < STRING_MAX && len < *room { Ok(()) } else { Err(E2BIG) }
        };
        usercopy::each_of_cstr(pointer, more)?;
        all.end()?;
        *room = room.checked_sub(all.bytes() - before + 8).ok_or(E2BIG)?;
    }
    Ok(all)
}

/// Reads `struct timespec` as nanoseconds.
///
/// # Errors
/// `EFAULT`, `EINVAL` if it is negative or no normal form.
pub fn timespec(address: u64) -> Result<u64> {
    let bytes: [u8; 16] = read_array(address)?;
    time_of(Fields(&bytes), 0, 1_000_000_000, 1)
}

/// Reads `struct timeval` as nanoseconds.
///
/// # Errors
/// `EFAULT`, `EINVAL` if it is negative or no normal form.
pub fn timeval(address: u64) -> Result<u64> {
    let bytes: [u8; 16] = read_array(address)?;
    time_of(Fields(&bytes), 0, 1_000_000, 1000)
}

/// Reads seconds and fractions at `at` as nanoseconds.
///
/// # Errors
/// `EINVAL` if it is negative or no normal form.
pub fn time_of(fields: Fields<'_>, at: usize, fractions: u64, ns: u64) -> Result<u64> {
    let (seconds, fraction) = (fields.u64(at), fields.u64(at + 8));
    if seconds as i64 >= 0 && fraction < fractions {
        Ok(seconds.saturating_mul(1_000_000_000).saturating_add(fraction * ns))
    } else {
        Err(EINVAL)
    }
}

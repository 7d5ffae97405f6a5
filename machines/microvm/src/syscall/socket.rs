//! Sockets: connected pairs of Unix sockets, and nothing that would need a network.

use super::fd::install_pair;
use super::io::{or_sigpipe, vector};
use super::{Call, user};
use crate::fs::file::OpenFile;
use crate::fs::pipe::Direction;
use crate::fs::socket::{Socket, pair};
use alloc::sync::Arc;
use alloc::vec::Vec;
use anonmem_oslib::Result;
use anonmem_oslib::abi::Fields;
use anonmem_oslib::errno::{EAFNOSUPPORT, EINVAL, ENOTCONN, ENOTSOCK, EOPNOTSUPP, EPROTONOSUPPORT};
use linux_raw_sys::general as abi;

const AF_UNIX: u32 = 1;
const SOCK_STREAM: u32 = 1;
const SOCK_SEQPACKET: u32 = 5;

fn socket_file(c: &Call<'_>) -> Result<Arc<OpenFile>> {
    let file = c.thread.files().get(c.u32(0))?;
    if file.object::<Socket>().is_some() { Ok(file) } else { Err(ENOTSOCK) }
}

pub(super) fn socketpair(c: &mut Call<'_>) -> Result<usize> {
    let kind = c.u32(1);
    match (c.u32(0), kind & 0xf) {
        (AF_UNIX, SOCK_STREAM) => {}
        (AF_UNIX, SOCK_SEQPACKET) => return Err(EPROTONOSUPPORT),
        (AF_UNIX, _) => return Err(EPROTONOSUPPORT),
        _ => return Err(EAFNOSUPPORT),
    }
    install_pair(c, c.args[3], pair(kind & abi::O_NONBLOCK)?, kind)
}

pub(super) fn socket(_c: &mut Call<'_>) -> Result<usize> {
    Err(EAFNOSUPPORT)
}

/// Raises SIGPIPE if nobody will read, unless the flags say no.
fn signalled(flags: u32, result: Result<usize>) -> Result<usize> {
    const MSG_NOSIGNAL: u32 = 0x4000;
    if flags & MSG_NOSIGNAL != 0 { result } else { or_sigpipe(result) }
}

pub(super) fn sendto(c: &mut Call<'_>) -> Result<usize> {
    let bytes = user::read(c.args[1], c.len(2).min(user::PIECE))?;
    signalled(c.u32(3), socket_file(c)?.write(&bytes))
}

pub(super) fn recvfrom(c: &mut Call<'_>) -> Result<usize> {
    let mut buffer = user::buffer(c.len(2).min(user::PIECE))?;
    let n = socket_file(c)?.read(&mut buffer)?;
    user::write(c.args[1], &buffer[..n])?;
    Ok(n)
}

/// The pieces of `struct msghdr`. Descriptors are not passed along.
fn message(address: u64) -> Result<Vec<(u64, usize)>> {
    let bytes: [u8; 56] = user::read_array(address)?;
    let fields = Fields(&bytes);
    vector(fields.u64(16), fields.u64(24) as usize)
}

pub(super) fn sendmsg(c: &mut Call<'_>) -> Result<usize> {
    let control: u64 = user::read_u64(c.args[1].wrapping_add(40))?;
    if control != 0 {
        return Err(EOPNOTSUPP);
    }
    let file = socket_file(c)?;
    let mut bytes = Vec::new();
    for (address, len) in message(c.args[1])? {
        bytes.extend_from_slice(&user::read(address, len.min(user::PIECE))?);
    }
    signalled(c.u32(2), file.write(&bytes))
}

pub(super) fn recvmsg(c: &mut Call<'_>) -> Result<usize> {
    let file = socket_file(c)?;
    let pieces = message(c.args[1])?;
    let total: usize = pieces.iter().map(|(_, len)| *len).sum();
    let mut buffer = user::buffer(total.min(user::PIECE))?;
    let n = file.read(&mut buffer)?;
    let mut rest = &buffer[..n];
    for (address, len) in pieces {
        let (now, later) = rest.split_at(len.min(rest.len()));
        user::write(address, now)?;
        rest = later;
    }
    // No control data and no flags came.
    user::write(c.args[1].wrapping_add(40), &[0; 12])?;
    Ok(n)
}

pub(super) fn shutdown(c: &mut Call<'_>) -> Result<usize> {
    let socket = socket_file(c)?.object::<Socket>().ok_or(ENOTCONN)?;
    socket.shutdown(match c.u32(1) {
        0 => Direction::Read,
        1 => Direction::Write,
        2 => Direction::Both,
        _ => return Err(EINVAL),
    });
    Ok(0)
}

/// A pair has no names: only the family is told.
pub(super) fn name(c: &mut Call<'_>) -> Result<usize> {
    socket_file(c)?;
    let room = user::read_u32(c.args[2])?.min(2) as usize;
    user::write(c.args[1], &(AF_UNIX as u16).to_le_bytes()[..room])?;
    user::write(c.args[2], &2u32.to_le_bytes())?;
    Ok(0)
}

/// Sockets come in connected pairs: there is nothing to connect.
pub(super) fn unconnected(c: &mut Call<'_>) -> Result<usize> {
    socket_file(c)?;
    Err(EOPNOTSUPP)
}

/// Options are accepted and ignored; asked for, they are zero.
pub(super) fn sockopt(c: &mut Call<'_>) -> Result<usize> {
    socket_file(c)?;
    if c.frame.syscall_nr() == u64::from(abi::__NR_getsockopt) {
        user::write(c.args[3], &0u32.to_le_bytes())?;
        user::write(c.args[4], &4u32.to_le_bytes())?;
    }
    Ok(0)
}

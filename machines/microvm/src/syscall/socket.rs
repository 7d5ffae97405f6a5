//! Sockets: connected pairs of Unix sockets, and nothing that would need a network.

use super::call::Call;
use super::fd::install_pair;
use super::io::{check_range, or_sigpipe, vector};
use super::user;
use crate::fs::file::{OpenFile, Wait};
use crate::fs::iov::{From, To};
use crate::fs::packets::{Kind, Received};
use crate::fs::pipe::Direction;
use crate::fs::socket::{self, Socket};
use alloc::sync::Arc;
use alloc::vec::Vec;
use anonmem_oslib::Result;
use anonmem_oslib::abi::{Fields, Packer};
use anonmem_oslib::errno::{EAFNOSUPPORT, EINVAL, ENOTSOCK, EOPNOTSUPP, ESOCKTNOSUPPORT};
use linux_raw_sys::general as abi;

const AF_UNIX: u32 = 1;
const SOCK_STREAM: u32 = 1;
const SOCK_DGRAM: u32 = 2;
const SOCK_RAW: u32 = 3;
const SOCK_SEQPACKET: u32 = 5;
const MSG_TRUNC: u32 = 0x20;
const MSG_DONTWAIT: u32 = 0x40;

fn socket_of(c: &Call<'_>) -> Result<(Arc<OpenFile>, Arc<Socket>)> {
    let file = c.thread.files().get(c.u32(0))?;
    let socket = file.object::<Socket>().ok_or(ENOTSOCK)?;
    Ok((file, socket))
}

pub(super) fn socketpair(c: &mut Call<'_>) -> Result<usize> {
    let kind = c.u32(1);
    let status = kind & abi::O_NONBLOCK;
    let pair = match (c.u32(0), kind & 0xf) {
        (AF_UNIX, SOCK_STREAM) => socket::streams(status)?,
        (AF_UNIX, SOCK_DGRAM | SOCK_RAW) => socket::packets(Kind::Datagram, status),
        (AF_UNIX, SOCK_SEQPACKET) => socket::packets(Kind::Sequenced, status),
        (AF_UNIX, _) => return Err(ESOCKTNOSUPPORT),
        _ => return Err(EAFNOSUPPORT),
    };
    install_pair(c, c.args[3], pair, kind)
}

pub(super) fn socket(_c: &mut Call<'_>) -> Result<usize> {
    Err(EAFNOSUPPORT)
}

/// Raises SIGPIPE if nobody will read, unless the flags say no.
fn signalled(flags: u32, result: Result<usize>) -> Result<usize> {
    const MSG_NOSIGNAL: u32 = 0x4000;
    if flags & MSG_NOSIGNAL != 0 { result } else { or_sigpipe(result) }
}

fn wait_of(file: &OpenFile, flags: u32) -> Wait {
    if flags & MSG_DONTWAIT != 0 { Wait::No } else { file.wait() }
}

fn send(c: &Call<'_>, pieces: &[(u64, usize)], flags: u32) -> Result<usize> {
    pieces.iter().try_for_each(|&(address, len)| check_range(address, len))?;
    let (file, socket) = socket_of(c)?;
    signalled(flags, socket.send(&mut From::user(pieces), wait_of(&file, flags)))
}

fn receive(c: &Call<'_>, pieces: &[(u64, usize)], flags: u32) -> Result<Received> {
    pieces.iter().try_for_each(|&(address, len)| check_range(address, len))?;
    let (file, socket) = socket_of(c)?;
    socket.receive(&mut To::user(pieces), wait_of(&file, flags))
}

/// What receiving gives: the bytes that came, or with `MSG_TRUNC` those that there were.
fn told(received: Received, flags: u32) -> usize {
    if flags & MSG_TRUNC != 0 { received.len } else { received.n }
}

pub(super) fn sendto(c: &mut Call<'_>) -> Result<usize> {
    send(c, &[(c.args[1], c.len(2))], c.u32(3))
}

pub(super) fn recvfrom(c: &mut Call<'_>) -> Result<usize> {
    let received = receive(c, &[(c.args[1], c.len(2))], c.u32(3))?;
    Ok(told(received, c.u32(3)))
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
    send(c, &message(c.args[1])?, c.u32(2))
}

pub(super) fn recvmsg(c: &mut Call<'_>) -> Result<usize> {
    let received = receive(c, &message(c.args[1])?, c.u32(2))?;
    let flags = if received.n < received.len { MSG_TRUNC } else { 0 };
    // No control data came.
    user::write(c.args[1].wrapping_add(40), &Packer::new().u64(0).u32(flags).0)?;
    Ok(told(received, c.u32(2)))
}

pub(super) fn shutdown(c: &mut Call<'_>) -> Result<usize> {
    socket_of(c)?.1.shutdown(match c.u32(1) {
        0 => Direction::Read,
        1 => Direction::Write,
        2 => Direction::Both,
        _ => return Err(EINVAL),
    });
    Ok(0)
}

/// A pair has no names: only the family is told.
pub(super) fn name(c: &mut Call<'_>) -> Result<usize> {
    socket_of(c)?;
    let room = user::read_u32(c.args[2])?.min(2) as usize;
    user::write(c.args[1], &(AF_UNIX as u16).to_le_bytes()[..room])?;
    user::write(c.args[2], &2u32.to_le_bytes())?;
    Ok(0)
}

/// Sockets come in connected pairs: there is nothing to connect.
pub(super) fn unconnected(c: &mut Call<'_>) -> Result<usize> {
    socket_of(c)?;
    Err(EOPNOTSUPP)
}

/// Options are accepted and ignored; asked for, they are zero.
pub(super) fn sockopt(c: &mut Call<'_>) -> Result<usize> {
    socket_of(c)?;
    if c.frame.syscall_nr() == u64::from(abi::__NR_getsockopt) {
        user::write(c.args[3], &0u32.to_le_bytes())?;
        user::write(c.args[4], &4u32.to_le_bytes())?;
    }
    Ok(0)
}

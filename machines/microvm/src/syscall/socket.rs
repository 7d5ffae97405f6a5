//! Sockets: addresses, messages and options of the ABI.

use super::call::Call;
use super::fd::install_pair;
use super::file::install;
use super::io::{check_range, or_sigpipe, vector};
use super::uring::Uring;
use super::user;
use crate::fs::file::{OpenFile, Wait};
use crate::fs::iov::{From, To};
use crate::fs::packets::Received;
use crate::fs::parcel::{self, Credentials, Files, Parcel, Taking, Who};
use crate::fs::pipe::Direction;
use crate::fs::socket::{self, Amount, Kind, Socket};
use crate::fs::table::OnExec;
use crate::fs::vfs;
use crate::proc::table;
use alloc::sync::Arc;
use alloc::vec::Vec;
use anonmem_oslib::Result;
use anonmem_oslib::abi::{Fields, Packer};
use anonmem_oslib::address::{Address, Family};
use anonmem_oslib::cred::Cap;
use anonmem_oslib::errno::{
    EADDRINUSE, EAFNOSUPPORT, ECONNREFUSED, EEXIST, EINVAL, ENOPROTOOPT, ENOTSOCK, EOPNOTSUPP, EPERM,
    EPROTONOSUPPORT, ESOCKTNOSUPPORT, ESRCH,
};
use anonmem_oslib::vfs::path::Follow;
use anonmem_oslib::vfs::{Body, FileType, Inode};
use core::ops::Range;
use linux_raw_sys::general as abi;

const SOCK_RAW: u32 = 3;
const KIND: u32 = 0xf;
const MSG_PEEK: u32 = 0x2;
const MSG_CTRUNC: u32 = 0x8;
const MSG_TRUNC: u32 = 0x20;
const MSG_DONTWAIT: u32 = 0x40;
const MSG_WAITALL: u32 = 0x100;
const MSG_NOSIGNAL: u32 = 0x4000;
const MSG_CMSG_CLOEXEC: u32 = 0x4000_0000;
/// The largest address of any family.
const ADDRESS_MAX: usize = 128;

fn socket_of(c: &Call<'_>) -> Result<(Arc<OpenFile>, Arc<Socket>)> {
    let file = c.thread.files().get(c.u32(0))?;
    let socket = file.object::<Socket>().ok_or(ENOTSOCK)?;
    Ok((file, socket))
}

fn who(c: &Call<'_>) -> Who {
    let cred = c.thread.cred();
    (c.thread.process.pid, cred.user.effective, cred.group.effective)
}

/// What kind of socket a family, a type and a protocol mean.
fn kind_of(c: &Call<'_>) -> Result<(Family, Kind, u32)> {
    const IPPROTO_TCP: u32 = 6;
    const IPPROTO_UDP: u32 = 17;
    let (family, kind, protocol) = (c.u32(0), c.u32(1) & KIND, c.u32(2));
    let flags = super::call::only(c.u32(1) & !KIND, abi::O_NONBLOCK | abi::O_CLOEXEC)?;
    let family = match family {
        1 => Family::Unix,
        2 => Family::Inet,
        _ => return Err(EAFNOSUPPORT),
    };
    let kind = match (family, kind) {
        (_, kind) if kind == Kind::Stream as u32 => Kind::Stream,
        (_, kind) if kind == Kind::Datagram as u32 => Kind::Datagram,
        (Family::Unix, SOCK_RAW) => Kind::Datagram,
        (Family::Unix, kind) if kind == Kind::Sequenced as u32 => Kind::Sequenced,
        (Family::Inet, SOCK_RAW) => return Err(EPERM),
        _ => return Err(ESOCKTNOSUPPORT),
    };
    let known = match (family, kind) {
        (Family::Unix, _) => protocol <= Family::Unix as u32,
        (Family::Inet, Kind::Stream) => protocol == 0 || protocol == IPPROTO_TCP,
        (Family::Inet, _) => protocol == 0 || protocol == IPPROTO_UDP,
    };
    if known { Ok((family, kind, flags)) } else { Err(EPROTONOSUPPORT) }
}

pub(super) fn socketpair(c: &mut Call<'_>) -> Result<usize> {
    let (family, kind, flags) = kind_of(c)?;
    if family != Family::Unix {
        return Err(EOPNOTSUPP);
    }
    let pair = socket::pair(kind, who(c), flags & abi::O_NONBLOCK)?;
    install_pair(c, c.args[3], pair, flags)
}

pub(super) fn socket(c: &mut Call<'_>) -> Result<usize> {
    let (family, kind, flags) = kind_of(c)?;
    install(c, Socket::new(family, kind, who(c)).open(flags & abi::O_NONBLOCK), flags)
}

/// Reads an address of the program's.
fn address(family: Family, at: u64, len: u32) -> Result<Address> {
    let len = usize::try_from(len as i32).ok().filter(|&len| len <= ADDRESS_MAX).ok_or(EINVAL)?;
    Address::parse(family, &user::read(at, len)?)
}

/// Puts an address where the program has room for it, and says how long it is.
fn put_address(family: Family, address: &Address, at: u64, len_at: u64) -> Result<()> {
    if at == 0 {
        return Ok(());
    }
    let room = i32::from_le_bytes(user::read_array(len_at)?);
    let room = usize::try_from(room).map_err(|_| EINVAL)?;
    let bytes = address.pack(family);
    user::write(at, &bytes[..bytes.len().min(room)])?;
    user::write(len_at, &(bytes.len() as u32).to_le_bytes())
}

/// Finds the inode of a path that somebody may have bound.
fn find(c: &Call<'_>) -> impl FnOnce(&[u8]) -> Result<Arc<Inode>> + use<> {
    let cwd = c.thread.fs().cwd();
    move |path| {
        let inode = vfs().lookup(&cwd, path, Follow::Yes)?;
        if inode.kind() == FileType::Socket { Ok(inode) } else { Err(ECONNREFUSED) }
    }
}

pub(super) fn bind(c: &mut Call<'_>) -> Result<usize> {
    let (_, socket) = socket_of(c)?;
    let address = address(socket.family, c.args[1], c.u32(2))?;
    let (cwd, mode) = (c.thread.fs().cwd(), 0o777 & !c.thread.fs().umask());
    socket.bind(address, |path, object| {
        let place = vfs().lookup_place(&cwd, path)?;
        let Some(object) = object else {
            return if place.dir.child(&place.name).is_ok() { Err(EADDRINUSE) } else { Ok(()) };
        };
        let made = vfs().create(&place, mode, Body::Special { kind: FileType::Socket, rdev: 0, object });
        made.map(drop).map_err(|error| if error == EEXIST { EADDRINUSE } else { error })
    })?;
    Ok(0)
}

pub(super) fn listen(c: &mut Call<'_>) -> Result<usize> {
    // Linux: net.core.somaxconn.
    const MOST: u32 = 4096;
    socket_of(c)?.1.listen(c.u32(1).min(MOST) as usize)?;
    Ok(0)
}

pub(super) fn connect(c: &mut Call<'_>) -> Result<usize> {
    const AF_UNSPEC: u16 = 0;
    let (file, socket) = socket_of(c)?;
    let family = user::read_array(c.args[1]).map(u16::from_le_bytes)?;
    if family == AF_UNSPEC && c.u32(2) >= 2 {
        return socket.disconnect().map(|()| 0);
    }
    socket.connect(&address(socket.family, c.args[1], c.u32(2))?, file.wait(), find(c))?;
    Ok(0)
}

/// `accept` has no flags; `accept4` does.
pub(super) fn accept(c: &mut Call<'_>) -> Result<usize> {
    let has_flags = c.frame.syscall_nr() == u64::from(abi::__NR_accept4);
    let flags = if has_flags { super::call::only(c.u32(3), abi::O_NONBLOCK | abi::O_CLOEXEC)? } else { 0 };
    let (file, listener) = socket_of(c)?;
    // Before a connection is taken, which nobody could put back.
    let on_exec = if flags & abi::O_CLOEXEC != 0 { OnExec::Close } else { OnExec::Keep };
    let fd = c.thread.files().reserve(on_exec, c.nofile())?;
    let socket = listener.accept(file.wait())?;
    let peer = socket.peer()?;
    let family = socket.family;
    put_address(family, &peer, c.args[1], c.args[2])?;
    Ok(fd.fill(socket.open(flags & abi::O_NONBLOCK))? as usize)
}

/// Raises SIGPIPE if nobody will read, unless the flags say no.
fn signalled(socket: &Socket, flags: u32, result: Result<usize>) -> Result<usize> {
    if flags & MSG_NOSIGNAL != 0 || socket.kind != Kind::Stream { result } else { or_sigpipe(result) }
}

fn wait_of(file: &OpenFile, flags: u32) -> Wait {
    if flags & MSG_DONTWAIT != 0 { Wait::No } else { file.wait() }
}

fn send(
    c: &Call<'_>,
    pieces: &[(u64, usize)],
    flags: u32,
    (to, to_len): (u64, u32),
    along: (Option<Parcel>, Option<Who>),
) -> Result<usize> {
    pieces.iter().try_for_each(|&(address, len)| check_range(address, len))?;
    let (file, socket) = socket_of(c)?;
    let to = match to {
        0 => None,
        _ if socket.family == Family::Inet && socket.kind == Kind::Stream => None,
        to => Some((address(socket.family, to, to_len)?, find(c))),
    };
    let sent = socket.send(&mut From::user(pieces), wait_of(&file, flags), along, to);
    signalled(&socket, flags, sent)
}

fn receive(c: &Call<'_>, pieces: &[(u64, usize)], flags: u32) -> Result<(Arc<Socket>, Received)> {
    pieces.iter().try_for_each(|&(address, len)| check_range(address, len))?;
    let (file, socket) = socket_of(c)?;
    let taking = if flags & MSG_PEEK != 0 { Taking::Look } else { Taking::Away };
    let amount = if flags & MSG_WAITALL != 0 { Amount::All } else { Amount::Some };
    let received = socket.receive(&mut To::user(pieces), wait_of(&file, flags), (taking, amount))?;
    Ok((socket, received))
}

/// What receiving gives: the bytes that came, or with `MSG_TRUNC` those that there were.
fn told(received: &Received, flags: u32) -> usize {
    if flags & MSG_TRUNC != 0 { received.len } else { received.n }
}

/// Tells who has sent what was received. Of who has no name, and of a stream, nothing is told.
fn put_sender(socket: &Socket, received: &Received, at: u64, len_at: u64) -> Result<()> {
    match received.from.as_deref() {
        None | Some(Address::Unnamed) if at == 0 => Ok(()),
        None | Some(Address::Unnamed) => user::write(len_at, &0u32.to_le_bytes()),
        Some(from) => put_address(socket.family, from, at, len_at),
    }
}

pub(super) fn sendto(c: &mut Call<'_>) -> Result<usize> {
    send(c, &[(c.args[1], c.len(2))], c.u32(3), (c.args[4], c.u32(5)), (None, None))
}

pub(super) fn recvfrom(c: &mut Call<'_>) -> Result<usize> {
    let (socket, received) = receive(c, &[(c.args[1], c.len(2))], c.u32(3))?;
    put_sender(&socket, &received, c.args[4], c.args[5])?;
    Ok(told(&received, c.u32(3)))
}

/// `struct msghdr`.
struct Message {
    name: (u64, u32),
    pieces: Vec<(u64, usize)>,
    control: (u64, usize),
}

const NAME_LEN: u64 = 8;
const CONTROL_LEN: u64 = 40;

fn message(at: u64) -> Result<Message> {
    let bytes: [u8; 56] = user::read_array(at)?;
    let fields = Fields(&bytes);
    Ok(Message {
        name: (fields.u64(0), fields.u32(NAME_LEN as usize)),
        pieces: vector(fields.u64(16), fields.u64(24) as usize)?,
        control: (fields.u64(32), fields.u64(CONTROL_LEN as usize) as usize),
    })
}

const SOL_SOCKET: u32 = 1;
const SCM_RIGHTS: u32 = 1;
const SCM_CREDENTIALS: u32 = 2;
/// Bytes of `struct cmsghdr`.
const HEADER: usize = 16;
/// The most control bytes of a message.
const CONTROL_MAX: usize = 8192;

/// The descriptions that the control bytes of a message name, and who the sender says that he is. Linux:
/// net/core/scm.c `__scm_send`.
fn along(c: &Call<'_>, socket: &Socket, (at, len): (u64, usize)) -> Result<(Files, Option<Who>)> {
    let (mut files, mut who) = (Files::new(), None);
    if len == 0 || at == 0 {
        return Ok((files, who));
    }
    if len > CONTROL_MAX {
        return Err(anonmem_oslib::errno::ENOBUFS);
    }
    let bytes = user::read(at, len)?;
    let mut rest = 0;
    while rest + HEADER <= bytes.len() {
        let fields = Fields(&bytes[rest..]);
        let (size, level, kind) = (fields.u64(0) as usize, fields.u32(8), fields.u32(12));
        if size < HEADER || size > bytes.len() - rest {
            return Err(EINVAL);
        }
        let body: Range<usize> = rest + HEADER..rest + size;
        if level == SOL_SOCKET && kind == SCM_CREDENTIALS && socket.family == Family::Unix {
            who = Some(claimed(c, &bytes[body])?);
        } else if level == SOL_SOCKET {
            if kind != SCM_RIGHTS || socket.family != Family::Unix {
                return Err(EINVAL);
            }
            for fd in bytes[body].chunks_exact(4) {
                if files.len() == parcel::MOST {
                    return Err(EINVAL);
                }
                let file = c.thread.files().get(Fields(fd).u32(0))?;
                // A ring has files itself, and circles of such nobody would find.
                if file.object::<Uring>().is_some() {
                    return Err(EINVAL);
                }
                files.push(file);
            }
        }
        rest += size.next_multiple_of(8);
    }
    Ok((files, who))
}

/// Who the sender says that he is: what he is, or what he may say all the same. Linux: `scm_check_creds`.
fn claimed(c: &Call<'_>, body: &[u8]) -> Result<Who> {
    if body.len() != UCRED {
        return Err(EINVAL);
    }
    let fields = Fields(body);
    let (pid, user, group) = (fields.u32(0), fields.u32(4), fields.u32(8));
    let cred = c.thread.cred();
    let is_one_of = |ids: anonmem_oslib::cred::Ids, id| [ids.real, ids.effective, ids.saved].contains(&id);
    let may = (pid == c.thread.process.pid || cred.has(Cap::SysAdmin))
        && (is_one_of(cred.user, user) || cred.has(Cap::SetUid))
        && (is_one_of(cred.group, group) || cred.has(Cap::SetGid));
    if !may {
        return Err(EPERM);
    }
    if table::process(pid).is_none() {
        return Err(ESRCH);
    }
    Ok((pid, user, group))
}

/// Bytes of `struct ucred`.
const UCRED: usize = 12;
/// Who has sent what nobody was asked about.
const NOBODY: Who = (0, 65534, 65534);

/// Tells who has sent a message, if the receiver wants to know; says how many bytes of control data that
/// makes, and what else is to be told.
fn put_credentials(socket: &Socket, received: &Received, (at, room): (u64, usize)) -> Result<(u64, u32)> {
    if socket.credentials() == Credentials::Untold {
        return Ok((0, 0));
    }
    if room < HEADER || at == 0 {
        return Ok((0, MSG_CTRUNC));
    }
    let (pid, user, group) = received.who.unwrap_or(NOBODY);
    let len = (HEADER + UCRED).min(room);
    let header = Packer::new().u64(len as u64).u32(SOL_SOCKET).u32(SCM_CREDENTIALS);
    let bytes = header.u32(pid).u32(user).u32(group).0;
    // The message has come all the same. Linux: what `put_cmsg` gives is not looked at.
    if user::write(at, &bytes[..len]).is_err() {
        return Ok((0, 0));
    }
    let cut = if len < HEADER + UCRED { MSG_CTRUNC } else { 0 };
    Ok((len.next_multiple_of(8).min(room) as u64, cut))
}

/// Who answers for descriptions that are sent. Linux: net/unix/af_unix.c `too_many_unix_fds`.
fn sender(c: &Call<'_>) -> parcel::Sender {
    let cred = c.thread.cred();
    let unlimited = cred.has(Cap::SysResource) || cred.has(Cap::SysAdmin);
    parcel::Sender { user: cred.user.real, most: if unlimited { usize::MAX } else { c.nofile() as usize } }
}

pub(super) fn sendmsg(c: &mut Call<'_>) -> Result<usize> {
    let message = message(c.args[1])?;
    let (files, who) = along(c, &socket_of(c)?.1, message.control)?;
    let parcel = Parcel::of(files, sender(c))?;
    send(c, &message.pieces, c.u32(2), message.name, (parcel, who))
}

/// Gives descriptors to descriptions that came along, as many as there is room for; says how many bytes of
/// control data that makes, and what else is to be told. Linux: net/core/scm.c `scm_detach_fds`.
fn put_rights(c: &Call<'_>, files: Files, (at, room): (u64, usize), flags: u32) -> Result<(u64, u32)> {
    let all = files.len();
    if all == 0 {
        return Ok((0, 0));
    }
    let fits = (room.saturating_sub(HEADER) / 4).min(all);
    let on_exec = if flags & MSG_CMSG_CLOEXEC != 0 { OnExec::Close } else { OnExec::Keep };
    let mut put = 0;
    for file in files.into_iter().take(fits) {
        // A number is nobody's before the program knows it.
        let told = c.thread.files().reserve(on_exec, c.nofile()).and_then(|fd| {
            let place = at.wrapping_add((HEADER + 4 * put) as u64);
            user::write(place, &fd.number()?.to_le_bytes())?;
            fd.fill(file)
        });
        if told.is_err() {
            break;
        }
        put += 1;
    }
    let cut = if put < all { MSG_CTRUNC } else { 0 };
    if put == 0 {
        return Ok((0, cut));
    }
    let len = HEADER + 4 * put;
    let header = Packer::new().u64(len as u64).u32(SOL_SOCKET).u32(SCM_RIGHTS);
    if user::write(at, &header.0).is_err() {
        return Ok((0, cut));
    }
    Ok((len.next_multiple_of(8).min(room) as u64, cut))
}

pub(super) fn recvmsg(c: &mut Call<'_>) -> Result<usize> {
    let (at, flags) = (c.args[1], c.u32(2));
    let message = message(at)?;
    let (socket, mut received) = receive(c, &message.pieces, flags)?;
    put_sender(&socket, &received, message.name.0, at.wrapping_add(NAME_LEN))?;
    let files = core::mem::take(&mut received.files);
    let (at_control, room) = message.control;
    let (signed, cut_first) = put_credentials(&socket, &received, message.control)?;
    let rest = (at_control.wrapping_add(signed), room - signed as usize);
    let (control, cut) = put_rights(c, files, rest, flags)?;
    let (control, cut) = (signed + control, cut_first | cut);
    let cloexec = flags & MSG_CMSG_CLOEXEC;
    let short = if received.n < received.len { MSG_TRUNC } else { 0 };
    let told_flags = Packer::new().u64(control).u32(short | cut | cloexec);
    user::write(at.wrapping_add(CONTROL_LEN), &told_flags.0)?;
    Ok(told(&received, flags))
}

pub(super) fn shutdown(c: &mut Call<'_>) -> Result<usize> {
    let direction = match c.u32(1) {
        0 => Direction::Read,
        1 => Direction::Write,
        2 => Direction::Both,
        _ => return Err(EINVAL),
    };
    socket_of(c)?.1.shutdown(direction)?;
    Ok(0)
}

/// `getsockname` and `getpeername`.
pub(super) fn name(c: &mut Call<'_>) -> Result<usize> {
    let (_, socket) = socket_of(c)?;
    let is_peer = c.frame.syscall_nr() == u64::from(abi::__NR_getpeername);
    let name = if is_peer { socket.peer()? } else { socket.name() };
    put_address(socket.family, &name, c.args[1], c.args[2])?;
    Ok(0)
}

const SO_TYPE: u32 = 3;
const SO_ERROR: u32 = 4;
const SO_SNDBUF: u32 = 7;
const SO_RCVBUF: u32 = 8;
const SO_LINGER: u32 = 13;
const SO_PEERCRED: u32 = 17;
const SO_RCVTIMEO: u32 = 20;
const SO_SNDTIMEO: u32 = 21;
const SO_ACCEPTCONN: u32 = 30;
const SO_PROTOCOL: u32 = 38;
const SO_DOMAIN: u32 = 39;
/// The levels of options: of sockets, of IP, of TCP.
const LEVELS: [u32; 3] = [SOL_SOCKET, 0, 6];
/// The most names of a level.
const NAMES: u32 = 64;
/// Linux: net.core.wmem_default.
const BUFFER: u32 = 212_992;

/// What an option is; those that are set are remembered, and change nothing. Levels and names are few, so
/// what a socket remembers is bounded.
fn option(socket: &Socket, level: u32, name: u32) -> Vec<u8> {
    let number = |value: u32| Packer::new().u32(value).0;
    let set = |otherwise| socket.option(level, name).unwrap_or(otherwise);
    match (level, name) {
        (SOL_SOCKET, SO_TYPE) => number(socket.kind as u32),
        (SOL_SOCKET, SO_ERROR) => number(socket.take_error().map_or(0, |error| -error.as_return() as u32)),
        (SOL_SOCKET, SO_SNDBUF | SO_RCVBUF) => number(set(BUFFER / 2) * 2),
        (SOL_SOCKET, SO_LINGER) => Packer::new().u64(0).0,
        (SOL_SOCKET, SO_RCVTIMEO | SO_SNDTIMEO) => Packer::new().u64(0).u64(0).0,
        (SOL_SOCKET, SO_PEERCRED) => {
            let (pid, uid, gid) = socket.peer_is();
            Packer::new().u32(pid).u32(uid).u32(gid).0
        }
        (SOL_SOCKET, SO_ACCEPTCONN) => number(socket.is_listening().into()),
        (SOL_SOCKET, SO_DOMAIN) => number(socket.family as u32),
        (SOL_SOCKET, SO_PROTOCOL) => number(match (socket.family, socket.kind) {
            (Family::Unix, _) => 0,
            (Family::Inet, Kind::Stream) => 6,
            (Family::Inet, _) => 17,
        }),
        _ => number(set(0)),
    }
}

pub(super) fn sockopt(c: &mut Call<'_>) -> Result<usize> {
    let (_, socket) = socket_of(c)?;
    let (level, name, at) = (c.u32(1), c.u32(2), c.args[3]);
    if !LEVELS.contains(&level) || name >= NAMES {
        return Err(ENOPROTOOPT);
    }
    if c.frame.syscall_nr() == u64::from(abi::__NR_getsockopt) {
        let room = usize::try_from(i32::from_le_bytes(user::read_array(c.args[4])?)).map_err(|_| EINVAL)?;
        let value = option(&socket, level, name);
        let len = value.len().min(room);
        user::write(at, &value[..len])?;
        user::write(c.args[4], &(len as u32).to_le_bytes())?;
        return Ok(0);
    }
    match (level, name) {
        (SOL_SOCKET, SO_TYPE | SO_ERROR | SO_PEERCRED | SO_ACCEPTCONN | SO_DOMAIN | SO_PROTOCOL) => {
            return Err(ENOPROTOOPT);
        }
        (SOL_SOCKET, SO_LINGER | SO_RCVTIMEO | SO_SNDTIMEO) => {}
        _ if c.u32(4) < 4 => return Err(EINVAL),
        (SOL_SOCKET, SO_SNDBUF | SO_RCVBUF) => {
            socket.set_option(level, name, user::read_u32(at)?.clamp(1152, BUFFER))?;
        }
        _ => socket.set_option(level, name, user::read_u32(at)?)?,
    }
    Ok(0)
}

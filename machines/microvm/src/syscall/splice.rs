//! `splice`, `tee` and `vmsplice`: arguments and refusals.

use super::call::{Call, ensure_room, only};
use super::io::{LIMIT, check_range, or_sigpipe, vector};
use super::user;
use crate::fs::device::Device;
use crate::fs::file::{OpenFile, Target, Wait};
use crate::fs::iov::To;
use crate::fs::pipe::{Pipe, PipeEnd};
use crate::fs::socket::Socket;
use crate::fs::splice::{Place, Source};
use alloc::sync::Arc;
use anonmem_oslib::Result;
use anonmem_oslib::errno::{EBADF, EINVAL, ESPIPE, ESRCH};
use linux_raw_sys::general as abi;

const SPLICE_F_NONBLOCK: u32 = 2;
/// `SPLICE_F_MOVE`, `_NONBLOCK`, `_MORE` and `_GIFT`. A gift is taken as any page is: by reference.
const FLAGS: u32 = 0xf;

fn wait(flags: u32) -> Wait {
    if flags & SPLICE_F_NONBLOCK != 0 { Wait::No } else { Wait::Yes }
}

/// As a call with `flags` on a pipe that was opened so waits.
fn wait_at(flags: u32, file: &OpenFile) -> Wait {
    if file.wait() == Wait::No { Wait::No } else { wait(flags) }
}

fn pipe_of(file: &OpenFile) -> Option<Arc<Pipe>> {
    file.object::<PipeEnd>().map(|end| end.pipe().clone())
}

pub(super) fn vmsplice(c: &mut Call<'_>) -> Result<usize> {
    let flags = only(c.u32(3), FLAGS)?;
    let file = c.thread.files().get(c.u32(0))?;
    let pipe = pipe_of(&file).ok_or(EBADF)?;
    let pieces = vector(c.args[1], c.len(2))?;
    pieces.iter().try_for_each(|&(address, len)| check_range(address, len))?;
    if pieces.iter().all(|&(_, len)| len == 0) {
        return Ok(0);
    }
    if file.check_writable().is_ok() {
        ensure_room()?;
        let space = c.thread.process.space().ok_or(ESRCH)?;
        return or_sigpipe(pipe.take_user(&space, &pieces, wait_at(flags, &file)));
    }
    // The other way bytes are copied: a program's pages are not replaced.
    pipe.read(&mut To::user(&pieces), wait_at(flags, &file))
}

pub(super) fn tee(c: &mut Call<'_>) -> Result<usize> {
    let (len, flags) = (c.len(2), only(c.u32(3), FLAGS)?);
    if len == 0 {
        return Ok(0);
    }
    let (from, to) = (c.thread.files().get(c.u32(0))?, c.thread.files().get(c.u32(1))?);
    from.check_readable()?;
    to.check_writable()?;
    let (Some(source), Some(target)) = (pipe_of(&from), pipe_of(&to)) else { return Err(EINVAL) };
    if Arc::ptr_eq(&source, &target) {
        return Err(EINVAL);
    }
    let wait = either(wait_at(flags, &from), wait_at(flags, &to));
    or_sigpipe(source.give_pipe(&target, len.min(LIMIT), Source::Stays, wait))
}

/// Not waiting at one end is not waiting.
fn either(one: Wait, other: Wait) -> Wait {
    if one == Wait::No { one } else { other }
}

/// The offset that a pointer leads to, for an end that is no pipe.
fn place(file: &OpenFile, pointer: u64) -> Result<Place> {
    if pointer == 0 {
        return Ok(Place::Position);
    }
    if file.is_stream() {
        return Err(EINVAL);
    }
    let offset = user::read_u64(pointer)?;
    if offset as i64 >= 0 { Ok(Place::Offset(offset)) } else { Err(EINVAL) }
}

/// What bytes may go to and come from, beside pipes.
fn may_splice(file: &OpenFile) -> Result<()> {
    let known = match &file.target {
        Target::File | Target::Block(_) => true,
        Target::Object(_) => file.object::<Device>().is_some() || file.object::<Socket>().is_some(),
        Target::Directory(_) | Target::Text(_) | Target::Pieces | Target::Placed(_) | Target::Path => false,
    };
    if known { Ok(()) } else { Err(EINVAL) }
}

fn store_offset(pointer: u64, place: Place, n: usize) -> Result<usize> {
    if let Place::Offset(offset) = place {
        user::write(pointer, &(offset + n as u64).to_le_bytes())?;
    }
    Ok(n)
}

pub(super) fn splice(c: &mut Call<'_>) -> Result<usize> {
    let (len, flags) = (c.len(4).min(LIMIT), only(c.u32(5), FLAGS)?);
    if len == 0 {
        return Ok(0);
    }
    let files = c.thread.files();
    let (from, to) = (files.get(c.u32(0))?, files.get(c.u32(2))?);
    let (from_at, to_at) = (c.args[1], c.args[3]);
    let (source, target) = (pipe_of(&from), pipe_of(&to));
    if source.is_some() && from_at != 0 || target.is_some() && to_at != 0 {
        return Err(ESPIPE);
    }
    from.check_readable()?;
    to.check_writable()?;
    if target.is_some() {
        // Who reads from a pipe gives back.
        ensure_room()?;
    }
    match (source, target) {
        (Some(source), Some(target)) if Arc::ptr_eq(&source, &target) => Err(EINVAL),
        (Some(source), Some(target)) => {
            let wait = either(wait_at(flags, &from), wait_at(flags, &to));
            or_sigpipe(source.give_pipe(&target, len, Source::Goes, wait))
        }
        (Some(source), None) => {
            let place = place(&to, to_at)?;
            if to.flags() & abi::O_APPEND != 0 {
                return Err(EINVAL);
            }
            may_splice(&to)?;
            let n = or_sigpipe(source.give_file(&to, place, len, wait_at(flags, &from)))?;
            store_offset(to_at, place, n)
        }
        (None, Some(target)) => {
            let place = place(&from, from_at)?;
            may_splice(&from)?;
            let n = or_sigpipe(target.take_file(&from, place, len, wait_at(flags, &to)))?;
            store_offset(from_at, place, n)
        }
        (None, None) => Err(EINVAL),
    }
}

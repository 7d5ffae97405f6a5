//! `process_vm_readv` and `process_vm_writev`.

use super::call::Call;
use super::io::{check_range, vector};
use crate::fs::iov::{From, To};
use crate::proc::remote::{self, As, Local};
use crate::proc::table;
use anonmem_oslib::Result;
use anonmem_oslib::errno::{EINVAL, ESRCH};

/// Which way the bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// To the caller.
    Read,
    /// From the caller.
    Write,
}

pub(super) fn process_vm(c: &mut Call<'_>, way: Way) -> Result<usize> {
    if c.args[5] != 0 {
        return Err(EINVAL);
    }
    let local = vector(c.args[1], c.len(2))?;
    local.iter().try_for_each(|&(address, len)| check_range(address, len))?;
    if local.iter().all(|&(_, len)| len == 0) {
        return Ok(0);
    }
    let pieces = vector(c.args[3], c.len(4))?;
    if pieces.iter().all(|&(_, len)| len == 0) {
        return Ok(0);
    }
    let target = table::thread(c.u32(0)).map(|thread| thread.process.clone());
    let target = target.or_else(|| table::process(c.u32(0))).ok_or(ESRCH)?;
    let space = remote::space_of(&c.thread, &target, As::Real)?;
    let local = match way {
        Way::Read => Local::To(To::user(&local)),
        Way::Write => Local::From(From::user(&local)),
    };
    remote::move_bytes(&space, local, &pieces)
}

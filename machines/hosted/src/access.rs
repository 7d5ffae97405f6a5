//! Loads and stores of a program, a page at a time: up to the byte at which a signal ends them.

use crate::{
    Checks, Trap, UserCpu, UserSpace,
    ops::{At, Outcome, Signal, pattern},
};
use anonmem_hal::{Arch, PAGE_SIZE, Va};

fn signal(trap: Trap, done: u64) -> Outcome {
    let signal = match trap {
        Trap::Unmapped => Signal::Unmapped,
        Trap::Denied => Signal::Denied,
        Trap::Bus => Signal::Bus,
        Trap::Oom => Signal::Oom,
    };
    Outcome::Signal(signal, done as usize)
}

/// The parts of an access that lie in one page each: offset from its start, address, length.
fn pieces(at: At) -> impl Iterator<Item = (u64, Va, usize)> {
    let mut next = 0;
    std::iter::from_fn(move || {
        let done = next;
        let va = Va(at.addr.wrapping_add(done));
        let n = (PAGE_SIZE - va.page_offset()).min((at.len - done) as usize);
        next += n as u64;
        (n > 0).then_some((done, va, n))
    })
}

pub(crate) fn read<C: Checks, A: Arch, S: UserSpace>(user: &UserCpu<'_, C, A, S>, at: At) -> Outcome {
    let mut bytes = vec![0; at.len as usize];
    for (done, va, n) in pieces(at) {
        if let Err(trap) = user.load(va, &mut bytes[done as usize..][..n]) {
            return signal(trap, done);
        }
    }
    Outcome::Bytes(bytes)
}

pub(crate) fn write<C: Checks, A: Arch, S: UserSpace>(
    user: &UserCpu<'_, C, A, S>,
    at: At,
    tag: u32,
) -> Outcome {
    let bytes = pattern(tag, at.len as usize);
    for (done, va, n) in pieces(at) {
        if let Err(trap) = user.store(va, &bytes[done as usize..][..n]) {
            return signal(trap, done);
        }
    }
    Outcome::Done
}

pub(crate) fn fetch<C: Checks, A: Arch, S: UserSpace>(user: &UserCpu<'_, C, A, S>, at: At) -> Outcome {
    user.fetch(Va(at.addr)).map_or_else(|trap| signal(trap, 0), |byte| Outcome::Bytes(vec![byte]))
}

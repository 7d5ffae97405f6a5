//! The futex call: its operations, clocks and scopes.

use super::call::Call;
use super::user;
use crate::arch::time;
use crate::proc::futex::{self, ANY, Scope};
use anonmem_oslib::Result;
use anonmem_oslib::errno::{EINVAL, ENOSYS};
use anonmem_oslib::restart::{ERESTART_RESTARTBLOCK, ERESTARTSYS};
use linux_raw_sys::general as abi;

pub(super) fn futex(c: &mut Call<'_>) -> Result<usize> {
    let operation = c.u32(1);
    let scope = if operation & abi::FUTEX_PRIVATE_FLAG != 0 { Scope::Private } else { Scope::Any };
    let [address, _, value, time_or_count, second, _] = c.args;
    let count = value as i32 as usize;
    match operation & !(abi::FUTEX_PRIVATE_FLAG | abi::FUTEX_CLOCK_REALTIME) {
        abi::FUTEX_WAIT => wait(c, scope, ANY, From::Now),
        abi::FUTEX_WAIT_BITSET => {
            let clock = if operation & abi::FUTEX_CLOCK_REALTIME != 0 { From::Wall } else { From::Boot };
            wait(c, scope, c.u32(5), clock)
        }
        abi::FUTEX_WAKE => Ok(futex::wake(futex::key(address, scope)?, count.max(1), ANY)),
        abi::FUTEX_WAKE_BITSET if c.u32(5) == 0 => Err(EINVAL),
        abi::FUTEX_WAKE_BITSET => Ok(futex::wake(futex::key(address, scope)?, count.max(1), c.u32(5))),
        abi::FUTEX_REQUEUE | abi::FUTEX_CMP_REQUEUE => {
            let compares = operation & abi::FUTEX_CMD_MASK as u32 == abi::FUTEX_CMP_REQUEUE;
            let expected = compares.then(|| c.u32(5));
            let (from, to) = (futex::key(address, scope)?, futex::key(second, scope)?);
            let (woken, moved) =
                futex::requeue(address, from, to, count, time_or_count as i32 as usize, expected)?;
            Ok(if compares { woken + moved } else { woken })
        }
        abi::FUTEX_WAKE_OP => {
            let (first, other) = (futex::key(address, scope)?, futex::key(second, scope)?);
            let holds = futex::change_word(second, c.u32(5))?;
            let woken = futex::wake(first, count, ANY);
            let more = if holds { futex::wake(other, time_or_count as i32 as usize, ANY) } else { 0 };
            Ok(woken + more)
        }
        // Priority inheritance is not offered.
        _ => Err(ENOSYS),
    }
}

/// What a timeout counts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum From {
    Now,
    Boot,
    Wall,
}

fn wait(c: &Call<'_>, scope: Scope, bits: u32, from: From) -> Result<usize> {
    let kept = c.thread.restart.lock().take();
    let deadline = match (kept, c.args[3]) {
        (Some(deadline), _) => Some(deadline),
        (None, 0) => None,
        (None, at) => {
            let time = user::timespec(at)?;
            Some(match from {
                From::Now => time::now_ns().saturating_add(time),
                From::Boot => time,
                From::Wall => time::now_ns().saturating_add(time).saturating_sub(time::wall_ns()),
            })
        }
    };
    match futex::wait(c.args[0], scope, c.u32(2), bits, deadline) {
        Ok(()) => Ok(0),
        // With a timeout that counts from now, a second run must not start it anew.
        Err(ERESTARTSYS) if deadline.is_some() => {
            *c.thread.restart.lock() = deadline;
            Err(ERESTART_RESTARTBLOCK)
        }
        Err(error) => Err(error),
    }
}

//! Nodes of memory: `mbind`, `set_mempolicy`, `get_mempolicy`, `migrate_pages`, `move_pages`.
//!
//! Linux: mm/mempolicy.c, mm/migrate.c `kernel_move_pages`. Differs: pages move one by one. A page that was
//! tried and stays has a status, too.

use super::call::Call;
use super::user;
use crate::proc::mm::Space;
use crate::proc::nodes::{self, Misplaced, Moved, Strict};
use crate::proc::process::Process;
use crate::proc::remote::{self, As};
use crate::proc::table;
use crate::sched;
use alloc::sync::Arc;
use alloc::vec::Vec;
use anonmem::Whose;
use anonmem_hal::{NodeMode, NodeSet, PAGE_SIZE, Va, VaRange};
use anonmem_oslib::cred::Cap;
use anonmem_oslib::errno::{EFAULT, EINVAL, ENODEV, EPERM, ESRCH};
use anonmem_oslib::nodes::{MASK_BITS, MOST_BITS, Mode, here, number};
use anonmem_oslib::{Errno, Result};

const MF_STRICT: u32 = 1 << 0;
const MF_MOVE: u32 = 1 << 1;
const MF_MOVE_ALL: u32 = 1 << 2;

fn space() -> Result<Space> {
    sched::current_mm().ok_or(ESRCH)
}

/// Reads a mask of nodes: its low bits, which are all that there may be.
#[doc(alias = "get_nodes")]
fn mask(address: u64, bits: u64) -> Result<u64> {
    let bits = bits.wrapping_sub(1);
    if bits == 0 || address == 0 {
        return Ok(0);
    }
    if bits > MOST_BITS {
        return Err(EINVAL);
    }
    let words = bits.div_ceil(64);
    let word = |nth: u64| -> Result<u64> {
        let word = user::read_u64(address.wrapping_add(8 * nth))?;
        let left = bits - 64 * nth;
        Ok(if left < 64 { word & ((1 << left) - 1) } else { word })
    };
    // From the end: nodes that no machine has are no nodes.
    for nth in (MASK_BITS / 64..words).rev() {
        if word(nth)? != 0 {
            return Err(EINVAL);
        }
    }
    // What lies between is readable, and names nodes that are not there.
    let mut rest = 0;
    for nth in 1..words.min(MASK_BITS / 64) {
        rest |= word(nth)?;
    }
    let low = word(0)?;
    // A mask that names nodes is not empty, even if none of them is there.
    Ok(if low == 0 && rest != 0 { 1 << 63 } else { low })
}

pub(super) fn mbind(c: &mut Call<'_>) -> Result<usize> {
    let [start, len, mode, nodes, bits, _] = c.args;
    let flags = c.u32(5);
    let mode = Mode::read(mode as u32)?;
    let nodes = mask(nodes, bits)?;
    if flags & !(MF_STRICT | MF_MOVE | MF_MOVE_ALL) != 0 {
        return Err(EINVAL);
    }
    if flags & MF_MOVE_ALL != 0 && !c.thread.cred().has(Cap::SysNice) {
        return Err(EPERM);
    }
    if !start.is_multiple_of(PAGE_SIZE as u64) {
        return Err(EINVAL);
    }
    // A length that wraps around is 0, as on Linux.
    let len = len.checked_next_multiple_of(PAGE_SIZE as u64).unwrap_or(0);
    let end = start.checked_add(len).ok_or(EINVAL)?;
    if len == 0 {
        return Ok(0);
    }
    let policy = mode.policy(nodes, nodes::all())?;
    let strict = if flags & MF_STRICT != 0 && !mode.is_default() { Strict::Yes } else { Strict::No };
    let moves = match flags & (MF_MOVE | MF_MOVE_ALL) {
        0 => None,
        some if some & MF_MOVE_ALL != 0 => Some(Whose::Everybodys),
        _ => Some(Whose::Own),
    };
    let range = VaRange { start: Va(start), end: Va(end) };
    nodes::bind(&space()?, range, policy, Misplaced { moves, strict })?;
    Ok(0)
}

pub(super) fn set_mempolicy(c: &mut Call<'_>) -> Result<usize> {
    let mode = Mode::read(c.u32(0))?;
    let nodes = mask(c.args[1], c.args[2])?;
    nodes::set_policy_of_task(mode.policy(nodes, nodes::all())?);
    Ok(0)
}

pub(super) fn get_mempolicy(c: &mut Call<'_>) -> Result<usize> {
    const NODE: u64 = 1 << 0;
    const ADDR: u64 = 1 << 1;
    const MEMS_ALLOWED: u64 = 1 << 2;
    let [told, nodes, bits, at, flags, _] = c.args;
    if nodes != 0 && bits < u64::from(nodes::all().len()) {
        return Err(EINVAL);
    }
    if flags & !(NODE | ADDR | MEMS_ALLOWED) != 0 {
        return Err(EINVAL);
    }
    if flags & MEMS_ALLOWED != 0 {
        if flags & (NODE | ADDR) != 0 {
            return Err(EINVAL);
        }
        user::write_unless_null(told, &0u32.to_le_bytes())?;
        return tell_nodes(nodes, bits, nodes::all());
    }
    let (policy, of_task) = match flags & ADDR != 0 {
        true => (nodes::policy_at(&space()?, at)?, false),
        false if at != 0 => return Err(EINVAL),
        false => (nodes::task_policy(), true),
    };
    let word = match (flags & NODE != 0, flags & ADDR != 0) {
        (true, true) => nodes::node_of_touched(&space()?, at)?,
        (true, false) if of_task && is_interleaved(policy.mode) => {
            policy.among(nodes::all()).iter().next().unwrap_or(0)
        }
        (true, false) => return Err(EINVAL),
        (false, _) => number(policy),
    };
    user::write_unless_null(told, &word.to_le_bytes())?;
    tell_nodes(nodes, bits, policy.nodes)
}

fn is_interleaved(mode: NodeMode) -> bool {
    matches!(mode, NodeMode::Interleave | NodeMode::WeightedInterleave)
}

#[doc(alias = "copy_nodes_to_user")]
fn tell_nodes(address: u64, bits: u64, nodes: NodeSet) -> Result<usize> {
    if address == 0 {
        return Ok(0);
    }
    let bytes = bits.wrapping_sub(1).checked_next_multiple_of(64).map_or(u64::MAX, |bits| bits / 8);
    if bytes > PAGE_SIZE as u64 {
        return Err(EINVAL);
    }
    let mut buffer = user::buffer(bytes as usize)?;
    if let Some(first) = buffer.first_mut() {
        *first = nodes.0;
    }
    user::write(address, &buffer)?;
    Ok(0)
}

/// The process that a number names; 0 is the caller's.
fn named(c: &Call<'_>, pid: i32) -> Result<Arc<Process>> {
    if pid == 0 {
        return Ok(c.thread.process.clone());
    }
    let pid = u32::try_from(pid).or(Err(ESRCH))?;
    let thread = table::thread(pid).map(|thread| thread.process.clone());
    thread.or_else(|| table::process(pid)).ok_or(ESRCH)
}

fn space_of(c: &Call<'_>, process: &Process) -> Result<Space> {
    remote::check_access(&c.thread, process, As::Real)?;
    process.space().ok_or(EINVAL)
}

pub(super) fn migrate_pages(c: &mut Call<'_>) -> Result<usize> {
    let old = here(mask(c.args[2], c.args[1])?);
    let new = mask(c.args[3], c.args[1])?;
    let process = named(c, c.i32(0))?;
    remote::check_access(&c.thread, &process, As::Real)?;
    let nice = c.thread.cred().has(Cap::SysNice);
    if new & !u64::from(nodes::all().0) != 0 && !nice {
        return Err(EPERM);
    }
    let new = here(new).and(nodes::all());
    if new.is_empty() {
        return Err(EINVAL);
    }
    let space = process.space().ok_or(EINVAL)?;
    nodes::migrate(&space, old, new, if nice { Whose::Everybodys } else { Whose::Own })
}

/// Pages that are read of the caller's arrays at a time.
const CHUNK: u64 = 64;

pub(super) fn move_pages(c: &mut Call<'_>) -> Result<usize> {
    let [_, count, pages, nodes, status, _] = c.args;
    let flags = c.u32(5);
    if flags & !(MF_MOVE | MF_MOVE_ALL) != 0 {
        return Err(EINVAL);
    }
    if flags & MF_MOVE_ALL != 0 && !c.thread.cred().has(Cap::SysNice) {
        return Err(EPERM);
    }
    let space = space_of(c, &*named(c, c.i32(0))?)?;
    if nodes == 0 {
        return query(&space, count, pages, status);
    }
    let whose = if flags & MF_MOVE_ALL != 0 { Whose::Everybodys } else { Whose::Own };
    for nth in 0..count {
        let at = user::read_u64(place(pages, nth, 8)?)?;
        let node = user::read_u32(place(nodes, nth, 4)?)?;
        if !nodes::all().contains(node) {
            return Err(ENODEV);
        }
        let (told, failed) = match nodes::move_page(&space, at, node, whose) {
            Moved::There => (node as i32, false),
            Moved::Passed(why) => (negative(why), false),
            Moved::Failed(why) => (negative(why), true),
        };
        user::write(place(status, nth, 4)?, &told.to_le_bytes())?;
        if failed {
            // Those that were not tried are counted, too.
            return Ok((count - nth) as usize);
        }
        nodes::go_on()?;
        if nth % CHUNK == CHUNK - 1 {
            sched::yield_now();
        }
    }
    Ok(0)
}

#[doc(alias = "do_pages_stat")]
fn query(space: &Space, count: u64, pages: u64, status: u64) -> Result<usize> {
    for first in (0..count).step_by(CHUNK as usize) {
        let n = CHUNK.min(count - first);
        let addresses = user::read(place(pages, first, 8)?, n as usize * 8)?;
        let mut told = Vec::new();
        told.try_reserve_exact(n as usize * 4).map_err(|_| anonmem_oslib::errno::ENOMEM)?;
        for address in addresses.as_chunks::<8>().0 {
            let node = match nodes::node_of(space, u64::from_le_bytes(*address)) {
                Ok(node) => node as i32,
                Err(why) => negative(why),
            };
            told.extend_from_slice(&node.to_le_bytes());
        }
        user::write(place(status, first, 4)?, &told)?;
        nodes::go_on()?;
        sched::yield_now();
    }
    Ok(0)
}

/// Where the element `nth` of an array is.
fn place(array: u64, nth: u64, size: u64) -> Result<u64> {
    nth.checked_mul(size).and_then(|at| array.checked_add(at)).ok_or(EFAULT)
}

fn negative(why: Errno) -> i32 {
    why.as_return() as i32
}

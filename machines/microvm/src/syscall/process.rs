//! Processes and threads: making, replacing, ending, naming.

use super::call::Call;
use super::file::base;
use super::{cred, user};
use crate::arch::percpu::cpu_count;
use crate::arch::trap::TrapFrame;
use crate::fs::open::absolute;
use crate::fs::vfs;
use crate::proc::clone::{self, Request};
use crate::proc::exec::Given;
use crate::proc::process::ExitStatus;
use crate::proc::{exec, exit as exiting, folios, ksm, mm, table, trace};
use crate::sched;
use alloc::sync::Arc;
use anonmem_oslib::abi::Fields;
use anonmem_oslib::errno::{EINVAL, ENOENT, EPERM, ESRCH};
use anonmem_oslib::vfs::Inode;
use anonmem_oslib::vfs::path::Follow;
use anonmem_oslib::{Result, stack};
use core::sync::atomic::Ordering::SeqCst;
use linux_raw_sys::general as abi;

fn do_clone(c: &mut Call<'_>, request: Request) -> Result<usize> {
    let frame: &TrapFrame = c.frame;
    Ok(clone::clone(&c.thread, frame, &request)? as usize)
}

pub(super) fn clone(c: &mut Call<'_>) -> Result<usize> {
    let [flags, stack, parent_tid, child_tid, tls, _] = c.args;
    let exit_signal = flags as u32 & 0xff;
    do_clone(c, Request { flags: flags & 0xffff_ff00, stack, parent_tid, child_tid, tls, exit_signal })
}

pub(super) fn clone3(c: &mut Call<'_>) -> Result<usize> {
    let size = c.len(1);
    if !(64..=4096).contains(&size) {
        return Err(EINVAL);
    }
    let bytes = user::read(c.args[0], size.min(88))?;
    let f = Fields(&bytes);
    let (stack, stack_size) = (f.u64(40), f.u64(48));
    // Numbers that are asked for are not given.
    if f.u64(64) != 0 || f.u64(32) > 64 || (stack == 0) != (stack_size == 0) {
        return Err(EINVAL);
    }
    let stack = stack.checked_add(stack_size).ok_or(EINVAL)?;
    do_clone(
        c,
        Request {
            flags: f.u64(0),
            stack,
            parent_tid: f.u64(24),
            child_tid: f.u64(16),
            tls: f.u64(56),
            exit_signal: f.u64(32) as u32,
        },
    )
}

pub(super) fn fork(c: &mut Call<'_>) -> Result<usize> {
    do_clone(c, Request { exit_signal: anonmem_oslib::signal::SIGCHLD, ..Request::default() })
}

pub(super) fn vfork(c: &mut Call<'_>) -> Result<usize> {
    let flags = u64::from(abi::CLONE_VM | abi::CLONE_VFORK);
    do_clone(c, Request { flags, exit_signal: anonmem_oslib::signal::SIGCHLD, ..Request::default() })
}

/// Reads arguments and environment: as much as a quarter of the stack's limit holds.
fn given(c: &Call<'_>, args: u64, env: u64) -> Result<Given> {
    let limits = c.thread.process.limits();
    let room = stack::room(limits[abi::RLIMIT_STACK as usize].0);
    let mut left = room;
    Ok(Given { args: user::strings(args, &mut left)?, env: user::strings(env, &mut left)?, room })
}

pub(super) fn execve(c: &mut Call<'_>) -> Result<usize> {
    let path = user::path(c.args[0])?;
    let fs = c.thread.fs();
    exec_path(c, &fs.cwd(), &path, &path, [c.args[1], c.args[2]])
}

/// Runs the program at `path` from `at`, which is shown as `name`.
fn exec_path(
    c: &mut Call<'_>,
    at: &Arc<Inode>,
    path: &[u8],
    name: &[u8],
    given_at: [u64; 2],
) -> Result<usize> {
    if path.is_empty() {
        return Err(ENOENT);
    }
    let inode = vfs().lookup(at, path, Follow::Yes)?;
    let given = given(c, given_at[0], given_at[1])?;
    let prepared = exec::prepare(&c.thread.fs(), &inode, &absolute(at, path), name, given)?;
    exec::exec(&c.thread, c.frame, &prepared)?;
    trace::after_exec(&c.thread);
    Ok(0)
}

pub(super) fn execveat(c: &mut Call<'_>) -> Result<usize> {
    let path = user::path(c.args[1])?;
    if path.is_empty() && c.u32(4) & abi::AT_EMPTY_PATH != 0 {
        let file = c.thread.files().get(c.u32(0))?;
        let name = alloc::format!("/dev/fd/{}", c.u32(0)).into_bytes();
        let given = given(c, c.args[2], c.args[3])?;
        let prepared = exec::prepare(&c.thread.fs(), &file.inode, &file.path, &name, given)?;
        exec::exec(&c.thread, c.frame, &prepared)?;
        trace::after_exec(&c.thread);
        return Ok(0);
    }
    let at = base(c, c.i32(0), &path)?;
    // Linux: fs/exec.c `alloc_bprm`.
    let name = if c.i32(0) == abi::AT_FDCWD || path.starts_with(b"/") {
        path.clone()
    } else {
        [alloc::format!("/dev/fd/{}/", c.u32(0)).as_bytes(), &path].concat()
    };
    exec_path(c, &at, &path, &name, [c.args[2], c.args[3]])
}

pub(super) fn exit(c: &mut Call<'_>) -> Result<usize> {
    exiting::request(&c.thread, ExitStatus::exited(c.i32(0)));
    Ok(0)
}

pub(super) fn exit_group(c: &mut Call<'_>) -> Result<usize> {
    c.thread.process.end(ExitStatus::exited(c.i32(0)));
    c.thread.note_work();
    Ok(0)
}

pub(super) fn getppid(c: &mut Call<'_>) -> Result<usize> {
    Ok(c.thread.process.parent.load(SeqCst) as usize)
}

pub(super) fn prctl(c: &mut Call<'_>) -> Result<usize> {
    use linux_raw_sys::prctl as p;
    match c.u32(0) {
        p::PR_SET_NAME => {
            let name: [u8; 16] = user::read_array(c.args[1])?;
            let len = name.iter().position(|&b| b == 0).unwrap_or(name.len());
            c.thread.set_name(&name[..len]);
            Ok(0)
        }
        p::PR_GET_NAME => {
            let name = *c.thread.comm.lock();
            user::write(c.args[1], &name)?;
            Ok(0)
        }
        p::PR_GET_DUMPABLE => Ok(1),
        p::PR_SET_PDEATHSIG
        | p::PR_SET_DUMPABLE
        | p::PR_SET_CHILD_SUBREAPER
        | p::PR_SET_NO_NEW_PRIVS
        | p::PR_SET_TIMERSLACK => Ok(0),
        p::PR_SET_KEEPCAPS => cred::keep_caps(c, c.args[1]),
        p::PR_GET_KEEPCAPS => Ok(usize::from(c.thread.cred().keeps_caps)),
        p::PR_CAPBSET_READ => cred::in_bounding_set(c, c.u32(1)),
        p::PR_CAPBSET_DROP => cred::drop_bounding(c, c.u32(1)),
        p::PR_GET_TIMERSLACK => Ok(50_000),
        p::PR_SET_THP_DISABLE => {
            if c.args[3] != 0 || c.args[4] != 0 {
                return Err(EINVAL);
            }
            folios::set_disabled(&sched::current_mm().ok_or(ESRCH)?, c.args[1], c.args[2]).map(|()| 0)
        }
        p::PR_GET_THP_DISABLE => {
            if c.args[1..5].iter().any(|&arg| arg != 0) {
                return Err(EINVAL);
            }
            Ok(folios::disabled(&sched::current_mm().ok_or(ESRCH)?) as usize)
        }
        p::PR_SET_MEMORY_MERGE => {
            if c.args[2..5].iter().any(|&arg| arg != 0) {
                return Err(EINVAL);
            }
            ksm::set_merges_any(&sched::current_mm().ok_or(ESRCH)?, c.args[1]).map(|()| 0)
        }
        p::PR_GET_MEMORY_MERGE => {
            if c.args[1..5].iter().any(|&arg| arg != 0) {
                return Err(EINVAL);
            }
            Ok(usize::from(ksm::merges_any(&sched::current_mm().ok_or(ESRCH)?)))
        }
        p::PR_SET_MDWE => {
            if c.args[2..5].iter().any(|&arg| arg != 0) {
                return Err(EINVAL);
            }
            mm::set_write_exec(&sched::current_mm().ok_or(ESRCH)?, c.args[1]).map(|()| 0)
        }
        p::PR_GET_MDWE => {
            if c.args[1..5].iter().any(|&arg| arg != 0) {
                return Err(EINVAL);
            }
            Ok(mm::write_exec(&sched::current_mm().ok_or(ESRCH)?) as usize)
        }
        p::PR_GET_NO_NEW_PRIVS | p::PR_GET_SECCOMP => Ok(0),
        _ => Err(EINVAL),
    }
}

pub(super) fn arch_prctl(c: &mut Call<'_>) -> Result<usize> {
    const ARCH_SET_GS: u32 = 0x1001;
    const ARCH_SET_FS: u32 = 0x1002;
    const ARCH_GET_FS: u32 = 0x1003;
    const ARCH_GET_GS: u32 = 0x1004;
    let task = sched::current();
    let base = c.args[1];
    let user_address = |base: u64| if base < crate::usercopy::USER_END { Ok(base) } else { Err(EPERM) };
    match c.u32(0) {
        ARCH_SET_FS => task.set_fs_base(user_address(base)?),
        ARCH_SET_GS => task.set_gs_base(user_address(base)?),
        ARCH_GET_FS => user::write(base, &task.fs_base().to_le_bytes())?,
        ARCH_GET_GS => user::write(base, &task.gs_base().to_le_bytes())?,
        _ => return Err(EINVAL),
    }
    Ok(0)
}

pub(super) fn set_tid_address(c: &mut Call<'_>) -> Result<usize> {
    c.thread.user.lock().clear_child_tid = c.args[0];
    Ok(c.thread.tid as usize)
}

/// Bytes of `struct robust_list_head`.
const ROBUST_HEAD: usize = 24;

pub(super) fn set_robust_list(c: &mut Call<'_>) -> Result<usize> {
    if c.len(1) != ROBUST_HEAD {
        return Err(EINVAL);
    }
    c.thread.user.lock().robust_list = c.args[0];
    Ok(0)
}

pub(super) fn get_robust_list(c: &mut Call<'_>) -> Result<usize> {
    let thread = match c.u32(0) {
        0 => c.thread.clone(),
        tid => table::thread(tid).ok_or(ESRCH)?,
    };
    let head = thread.user.lock().robust_list;
    user::write(c.args[1], &head.to_le_bytes())?;
    user::write(c.args[2], &(ROBUST_HEAD as u64).to_le_bytes())?;
    Ok(0)
}

pub(super) fn sched_yield(_c: &mut Call<'_>) -> Result<usize> {
    sched::yield_now();
    Ok(0)
}

/// A mask of all CPUs: threads run anywhere.
pub(super) fn sched_getaffinity(c: &mut Call<'_>) -> Result<usize> {
    if c.len(1) < 8 {
        return Err(EINVAL);
    }
    let cpus = cpu_count();
    let mask = if cpus >= 64 { u64::MAX } else { (1 << cpus) - 1 };
    user::write(c.args[2], &mask.to_le_bytes())?;
    Ok(8)
}

pub(super) fn sched_setaffinity(c: &mut Call<'_>) -> Result<usize> {
    let len = c.len(1).min(8);
    let mut mask = [0; 8];
    mask[..len].copy_from_slice(&user::read(c.args[2], len)?);
    let cpus = cpu_count().min(64) as u32;
    // A mask with a CPU that exists is accepted as advice.
    if u64::from_le_bytes(mask).trailing_zeros() < cpus { Ok(0) } else { Err(EINVAL) }
}

pub(super) fn sched_getparam(c: &mut Call<'_>) -> Result<usize> {
    user::write(c.args[1], &0u32.to_le_bytes())?;
    Ok(0)
}

pub(super) fn sched_priority(c: &mut Call<'_>, number: u32) -> Result<usize> {
    const SCHED_FIFO: u32 = 1;
    const SCHED_RR: u32 = 2;
    match (c.u32(0), number) {
        (SCHED_FIFO | SCHED_RR, abi::__NR_sched_get_priority_max) => Ok(99),
        (SCHED_FIFO | SCHED_RR, _) => Ok(1),
        _ => Ok(0),
    }
}

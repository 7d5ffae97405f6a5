//! The system: its name, memory, limits, random numbers.

use super::call::{Call, ensure_room, only};
use super::io::check_range;
use super::user;
use crate::fs::device::fill_random;
use crate::fs::iov::To;
use crate::machine;
use crate::proc::{cpulimit, mm, table, wait};
use crate::procfs::system::{RELEASE, VERSION};
use crate::{sched, swap};
use anonmem_oslib::abi::{Fields, Packer};
use anonmem_oslib::cred::Cap;
use anonmem_oslib::errno::{EINVAL, EPERM, ESRCH};
use anonmem_oslib::{Result, structure};
use core::sync::atomic::Ordering::{Relaxed, SeqCst};
use linux_raw_sys::general as abi;

pub(super) fn uname(c: &mut Call<'_>) -> Result<usize> {
    let fields = ["Linux", "anonmem", RELEASE, VERSION, "x86_64", "(none)"];
    let packed = fields.iter().fold(Packer::new(), |p, field| p.fixed(field.as_bytes(), 65));
    user::write(c.args[0], &packed.0)?;
    Ok(0)
}

pub(super) fn sysinfo(c: &mut Call<'_>) -> Result<usize> {
    let memory = mm::memory();
    let processes = table::processes().count();
    let (swap_total, swap_free) = swap::space();
    let told = structure!(linux_raw_sys::system::sysinfo {
        uptime: crate::arch::time::now_ns() / 1_000_000_000,
        totalram: memory.total_bytes,
        freeram: memory.free_bytes,
        totalswap: swap_total,
        freeswap: swap_free,
        procs: processes,
        mem_unit: 1,
    });
    user::write(c.args[0], &told)?;
    Ok(0)
}

pub(super) fn swapon(c: &mut Call<'_>) -> Result<usize> {
    swap::swapon(&user::path(c.args[0])?, c.u32(1))?;
    Ok(0)
}

pub(super) fn swapoff(c: &mut Call<'_>) -> Result<usize> {
    swap::swapoff(&user::path(c.args[0])?)?;
    Ok(0)
}

pub(super) fn getrandom(c: &mut Call<'_>) -> Result<usize> {
    only(c.u32(2), abi::GRND_NONBLOCK | abi::GRND_RANDOM | abi::GRND_INSECURE)?;
    check_range(c.args[0], c.len(1))?;
    To::user(&[(c.args[0], c.len(1))]).fill_from(|done, bytes| {
        fill_random(bytes);
        Ok(if done > 0 && sched::interrupt_pending() { 0 } else { bytes.len() })
    })
}

pub(super) fn getcpu(c: &mut Call<'_>) -> Result<usize> {
    let cpu = mm::current_cpu() as u32;
    user::write_unless_null(c.args[0], &cpu.to_le_bytes())?;
    user::write_unless_null(c.args[1], &machine::node_of_cpu(cpu as usize).to_le_bytes())?;
    Ok(0)
}

pub(super) fn getrusage(c: &mut Call<'_>) -> Result<usize> {
    const SELF: i32 = 0;
    const CHILDREN: i32 = -1;
    const THREAD: i32 = 1;
    let process = &c.thread.process;
    let (cpu_ns, faults, max_rss) = match c.i32(0) {
        SELF => (process.cpu_time_ns(), process.faults(), wait::hiwater(process)),
        CHILDREN => (process.children_ns.load(SeqCst), 0, 0),
        THREAD => (c.thread.cpu_time_ns(), c.thread.faults.load(Relaxed), wait::hiwater(process)),
        _ => return Err(EINVAL),
    };
    let usage = structure!(abi::rusage {
        ru_utime.tv_sec: cpu_ns / 1_000_000_000,
        ru_utime.tv_usec: cpu_ns % 1_000_000_000 / 1_000,
        ru_maxrss: max_rss / 1024,
        ru_minflt: faults,
    });
    user::write(c.args[1], &usage)?;
    Ok(0)
}

/// The memory manager keeps to those of memory, files to those of files; CPU time is watched; descriptors
/// have a fixed limit; others are only kept and told.
fn limits(c: &Call<'_>, pid: i32, resource: u32, new: u64, old: u64) -> Result<usize> {
    let process = match pid {
        0 => c.thread.process.clone(),
        pid => table::process(pid as u32).ok_or(ESRCH)?,
    };
    let resource = resource as usize;
    let before = *process.limits.lock().get(resource).ok_or(EINVAL)?;
    if new != 0 {
        let bytes: [u8; 16] = user::read_array(new)?;
        let (soft, hard) = (Fields(&bytes).u64(0), Fields(&bytes).u64(8));
        if soft > hard {
            return Err(EINVAL);
        }
        if hard > before.1 && !c.thread.cred().has(Cap::SysResource) {
            return Err(EPERM);
        }
        if resource == abi::RLIMIT_NOFILE as usize && hard > u64::from(crate::fs::table::NR_OPEN) {
            return Err(EPERM);
        }
        if resource == abi::RLIMIT_CPU as usize && soft != u64::MAX {
            // A timer watches it.
            ensure_room()?;
        }
        let limits = {
            let mut limits = process.limits.lock();
            limits[resource] = (soft, hard);
            *limits
        };
        cpulimit::watch(&process);
        if let Some(space) = process.space() {
            // The limits of a process without threads concern nobody.
            let cred = process.threads().next().map_or_else(|| c.thread.cred(), |thread| thread.cred());
            mm::set_limits(&space, &limits, &cred);
        }
    }
    user::write_unless_null(old, &Packer::new().u64(before.0).u64(before.1).0)?;
    Ok(0)
}

pub(super) fn getrlimit(c: &mut Call<'_>) -> Result<usize> {
    limits(c, 0, c.u32(0), 0, c.args[1])
}

pub(super) fn setrlimit(c: &mut Call<'_>) -> Result<usize> {
    limits(c, 0, c.u32(0), c.args[1], 0)
}

pub(super) fn prlimit64(c: &mut Call<'_>) -> Result<usize> {
    limits(c, c.i32(0), c.u32(1), c.args[2], c.args[3])
}

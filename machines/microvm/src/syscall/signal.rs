//! Signals: actions, masks, waiting, sending.

use super::call::{Call, only};
use super::file::install;
use super::user;
use crate::arch::time;
use crate::fs::event::wait_for_anything;
use crate::fs::file::OpenFile;
use crate::proc::groups::Telling;
use crate::proc::signal::{self, Action, SIG_IGN};
use crate::proc::signalfd::SignalFd;
use crate::proc::{deliver, table};
use anonmem_oslib::Result;
use anonmem_oslib::abi::{Fields, Packer};
use anonmem_oslib::errno::{EAGAIN, EINTR, EINVAL, ENOMEM, EPERM, ESRCH, ETIMEDOUT};
use anonmem_oslib::restart::{ERESTARTNOHAND, ERESTARTSYS};
use anonmem_oslib::sigframe::{AltStack, Detail, SIGINFO, SS_DISABLE, SS_ONSTACK, SigInfo};
use anonmem_oslib::signal::{SIGNALS, SigSet, code};
use anonmem_oslib::vfs::FileType;
use linux_raw_sys::general as abi;

/// Fails unless `signal` is a signal.
fn check(signal: u32) -> Result<u32> {
    if (1..=SIGNALS).contains(&signal) { Ok(signal) } else { Err(EINVAL) }
}

/// Fails unless the ABI's size of a set is the real one.
fn check_size(size: u64) -> Result<()> {
    if size == 8 { Ok(()) } else { Err(EINVAL) }
}

pub(super) fn sigreturn(c: &mut Call<'_>) {
    deliver::sigreturn(&c.thread, c.frame);
}

pub(super) fn rt_sigaction(c: &mut Call<'_>) -> Result<usize> {
    let number = check(c.u32(0))?;
    check_size(c.args[3])?;
    let new = match c.args[1] {
        0 => None,
        at => {
            let bytes: [u8; 32] = user::read_array(at)?;
            let f = Fields(&bytes);
            let mask = SigSet(f.u64(24)) & !SigSet::UNBLOCKABLE;
            Some(Action { handler: f.u64(0), flags: f.u64(8), restorer: f.u64(16), mask })
        }
    };
    if new.is_some() && SigSet::UNBLOCKABLE.has(number) {
        return Err(EINVAL);
    }
    let old = {
        let mut signals = c.thread.process.signals.lock();
        let old = signals.action(number);
        if let Some(new) = new {
            signals.actions[number as usize - 1] = new;
            if new.handler == SIG_IGN {
                while signals.shared.take(SigSet::of(number)).is_some() {}
            }
        }
        old
    };
    let packed = Packer::new().u64(old.handler).u64(old.flags).u64(old.restorer).u64(old.mask.0);
    user::write_unless_null(c.args[2], &packed.0)?;
    Ok(0)
}

pub(super) fn rt_sigprocmask(c: &mut Call<'_>) -> Result<usize> {
    check_size(c.args[3])?;
    let old = c.thread.signals.lock().mask;
    if c.args[1] != 0 {
        let set = SigSet(user::read_u64(c.args[1])?);
        let new = match c.u32(0) {
            abi::SIG_BLOCK => old | set,
            abi::SIG_UNBLOCK => old & !set,
            abi::SIG_SETMASK => set,
            _ => return Err(EINVAL),
        };
        c.thread.set_mask(new);
    }
    user::write_unless_null(c.args[2], &old.0.to_le_bytes())?;
    Ok(0)
}

pub(super) fn rt_sigpending(c: &mut Call<'_>) -> Result<usize> {
    check_size(c.args[1])?;
    let pending = c.thread.pending() & c.thread.signals.lock().mask;
    user::write(c.args[0], &pending.0.to_le_bytes())?;
    Ok(0)
}

/// Sets the mask until the call ends or a handler has run.
pub(super) fn set_temporary_mask(c: &Call<'_>, mask: SigSet) {
    {
        let mut signals = c.thread.signals.lock();
        let old = signals.mask;
        signals.saved_mask.get_or_insert(old);
    }
    c.thread.set_mask(mask);
}

/// Goes back to the mask of before, when no signal ended the call.
pub(super) fn end_temporary_mask(c: &Call<'_>) {
    let saved = c.thread.signals.lock().saved_mask.take();
    if let Some(mask) = saved {
        c.thread.set_mask(mask);
    }
}

fn wait_for_signal() -> Result<usize> {
    match wait_for_anything::<()>(None, || None) {
        Err(ERESTARTSYS) => Err(ERESTARTNOHAND),
        Err(error) => Err(error),
        Ok(()) => Ok(0),
    }
}

pub(super) fn pause(_c: &mut Call<'_>) -> Result<usize> {
    wait_for_signal()
}

pub(super) fn rt_sigsuspend(c: &mut Call<'_>) -> Result<usize> {
    check_size(c.args[1])?;
    set_temporary_mask(c, SigSet(user::read_u64(c.args[0])?));
    wait_for_signal()
}

pub(super) fn rt_sigtimedwait(c: &mut Call<'_>) -> Result<usize> {
    check_size(c.args[3])?;
    let set = SigSet(user::read_u64(c.args[0])?) & !SigSet::UNBLOCKABLE;
    let deadline = match c.args[2] {
        0 => None,
        at => Some(time::now_ns().saturating_add(user::timespec(at)?)),
    };
    let thread = &c.thread;
    let take = || thread.take_signal(set);
    thread.signals.lock().waiting_for = set;
    let result = wait_for_anything(deadline, take);
    thread.signals.lock().waiting_for = SigSet::EMPTY;
    let info = result.map_err(|error| match error {
        ETIMEDOUT => EAGAIN,
        ERESTARTSYS => EINTR,
        other => other,
    })?;
    user::write_unless_null(c.args[1], &info.to_bytes())?;
    Ok(info.signal as usize)
}

pub(super) fn signalfd(c: &mut Call<'_>, flags: u32) -> Result<usize> {
    check_size(c.args[2])?;
    let mask = SigSet(user::read_u64(c.args[1])?);
    only(flags, abi::O_CLOEXEC | abi::O_NONBLOCK)?;
    if c.i32(0) != -1 {
        c.thread.files().get(c.u32(0))?.object::<SignalFd>().ok_or(EINVAL)?.set_mask(mask);
        // Whoever sleeps in a read looks again; of another process, at the next signal.
        c.thread.process.signalled.notify();
        return Ok(c.u32(0) as usize);
    }
    let status = abi::O_RDWR | flags & abi::O_NONBLOCK;
    let object = SignalFd::new(mask);
    install(c, OpenFile::anonymous(FileType::Regular, object, b"anon_inode:[signalfd]", status), flags)
}

pub(super) fn sigaltstack(c: &mut Call<'_>) -> Result<usize> {
    const SS_AUTODISARM: u32 = 1 << 31;
    let old = c.thread.signals.lock().altstack;
    let on_it = old.contains(c.frame.rsp);
    if c.args[0] != 0 {
        let bytes: [u8; 24] = user::read_array(c.args[0])?;
        let new = AltStack::from_bytes(&bytes);
        if on_it {
            return Err(EPERM);
        }
        if new.flags & !(SS_DISABLE | SS_ONSTACK | SS_AUTODISARM) != 0 {
            return Err(EINVAL);
        }
        let new = if new.flags & SS_DISABLE != 0 { AltStack::NONE } else { AltStack { flags: 0, ..new } };
        if new != AltStack::NONE && new.size < u64::from(abi::MINSIGSTKSZ) {
            return Err(ENOMEM);
        }
        c.thread.signals.lock().altstack = new;
    }
    let shown = AltStack { flags: if on_it { SS_ONSTACK } else { old.flags }, ..old };
    user::write_unless_null(c.args[1], &shown.to_bytes())?;
    Ok(0)
}

/// What a signal of the caller's says about where it comes from.
pub(super) fn from_caller(c: &Call<'_>, signal: u32, code: i32) -> SigInfo {
    let (pid, uid) = (c.thread.process.pid, c.thread.cred().user.real);
    SigInfo { signal, code, detail: Detail::Sender { pid, uid, value: 0 } }
}

pub(super) fn kill(c: &mut Call<'_>) -> Result<usize> {
    let signal = c.u32(1);
    if signal > SIGNALS {
        return Err(EINVAL);
    }
    let pid = c.i32(0);
    let own = &c.thread.process;
    let own_group = own.pgid.load(core::sync::atomic::Ordering::SeqCst);
    let targets = table::processes().filter(|p| {
        let pgid = p.pgid.load(core::sync::atomic::Ordering::SeqCst);
        match pid {
            0 => pgid == own_group,
            -1 => p.pid != own.pid,
            pid if pid > 0 => p.pid == pid as u32,
            _ => pgid == pid.unsigned_abs(),
        }
    });
    let telling = (pid <= 0).then(Telling::begin);
    let mut any = false;
    for process in targets {
        any = true;
        let info = from_caller(c, signal, code::SI_USER);
        match &telling {
            _ if signal == 0 => {}
            Some(telling) => telling.tell(&process, info),
            None => signal::send(&process, info),
        }
    }
    if any { Ok(0) } else { Err(ESRCH) }
}

fn to_thread(c: &Call<'_>, tgid: Option<u32>, tid: u32, signal: u32) -> Result<usize> {
    if signal > SIGNALS {
        return Err(EINVAL);
    }
    let thread = table::thread(tid).filter(|t| tgid.is_none_or(|tgid| t.process.pid == tgid)).ok_or(ESRCH)?;
    if signal != 0 {
        signal::send_to_thread(&thread, from_caller(c, signal, code::SI_TKILL));
    }
    Ok(0)
}

pub(super) fn tkill(c: &mut Call<'_>) -> Result<usize> {
    to_thread(c, None, c.u32(0), c.u32(1))
}

pub(super) fn tgkill(c: &mut Call<'_>) -> Result<usize> {
    to_thread(c, Some(c.u32(0)), c.u32(1), c.u32(2))
}

pub(super) fn rt_sigqueueinfo(c: &mut Call<'_>) -> Result<usize> {
    let info = SigInfo::from_bytes(check(c.u32(1))?, &user::read_array::<SIGINFO>(c.args[2])?);
    let process = table::process(c.u32(0)).ok_or(ESRCH)?;
    signal::queue(&process, info)?;
    Ok(0)
}

pub(super) fn rt_tgsigqueueinfo(c: &mut Call<'_>) -> Result<usize> {
    let info = SigInfo::from_bytes(check(c.u32(2))?, &user::read_array::<SIGINFO>(c.args[3])?);
    let thread = table::thread(c.u32(1)).filter(|t| t.process.pid == c.u32(0)).ok_or(ESRCH)?;
    signal::queue_to_thread(&thread, info)?;
    Ok(0)
}

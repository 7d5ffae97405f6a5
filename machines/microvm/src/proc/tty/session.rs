//! Whose terminal it is: sessions, the group in the foreground, and who may read and write.
//!
//! Linux: drivers/tty/tty_jobctrl.c.

use super::{Carrier, Tty};
use crate::proc::process::Process;
use crate::proc::signal::{self, SIG_IGN};
use crate::proc::thread::try_current;
use crate::proc::{Thread, groups, table};
use alloc::sync::Arc;
use anonmem_oslib::Result;
use anonmem_oslib::cred::Cap;
use anonmem_oslib::errno::{EINVAL, EIO, ENOTTY, EPERM, ESRCH};
use anonmem_oslib::restart::ERESTARTSYS;
use anonmem_oslib::sigframe::{Detail, SigInfo};
use anonmem_oslib::signal::{SIGCONT, SIGHUP, SIGTTIN, SIGTTOU, code};
use core::sync::atomic::Ordering::SeqCst;
use linux_raw_sys::general as abi;

/// Whose terminal it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Job {
    /// The session; zero for none.
    pub(super) session: u32,
    /// The group that it is for; zero for none.
    pub(super) foreground: u32,
}

/// Why a session's leader leaves its terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaving {
    /// It ended.
    Ended,
    /// It asked (`TIOCNOTTY`).
    Asked,
}

fn is_leader(process: &Process) -> bool {
    process.sid.load(SeqCst) == process.pid
}

impl Tty {
    /// Says whether it is the terminal of the process.
    pub(super) fn is_of(&self, process: &Process) -> bool {
        process.terminal.lock().as_ref().is_some_and(|tty| core::ptr::eq(&**tty, self))
    }

    /// Makes it the terminal of a session's leader that has none, if it is nobody's; says whether it is now.
    pub(super) fn acquire(self: &Arc<Self>, leader: &Process) -> bool {
        let mut job = self.job.lock();
        let mut terminal = leader.terminal.lock();
        let free = is_leader(leader) && terminal.is_none() && job.session == 0;
        if free {
            *job = Job { session: leader.sid.load(SeqCst), foreground: leader.pgid.load(SeqCst) };
            *terminal = Some(self.clone());
        }
        free
    }

    /// `TIOCSCTTY`.
    ///
    /// # Errors
    /// `EPERM`.
    pub(super) fn set_controlling(self: &Arc<Self>, thread: &Thread, access: u32, steal: u64) -> Result<()> {
        let process = &thread.process;
        let session = self.job.lock().session;
        if is_leader(process) && session == process.sid.load(SeqCst) {
            return Ok(());
        }
        if !is_leader(process) || process.terminal.lock().is_some() {
            return Err(EPERM);
        }
        let privileged = thread.cred().has(Cap::SysAdmin);
        if session != 0 {
            if steal != 1 || !privileged {
                return Err(EPERM);
            }
            self.clear_session(session);
        }
        if access == abi::O_WRONLY && !privileged {
            return Err(EPERM);
        }
        if self.acquire(process) { Ok(()) } else { Err(EPERM) }
    }

    /// Takes it from a session, if it is still that one's; gives the group that it was for.
    fn clear_session(&self, session: u32) -> u32 {
        let foreground = {
            let mut job = self.job.lock();
            if job.session != session {
                return 0;
            }
            core::mem::take(&mut *job).foreground
        };
        for process in table::processes().filter(|process| process.sid.load(SeqCst) == session) {
            self.take_from(&process, |_| ());
        }
        foreground
    }

    /// Takes it from a process, if that has it now, and not another since somebody looked; says whether it
    /// did. Nobody finds that the process has none before `note` has come by.
    fn take_from(&self, process: &Process, note: impl FnOnce(&Process)) -> bool {
        let taken = {
            let mut terminal = process.terminal.lock();
            let taken = terminal.take_if(|tty| core::ptr::eq(&**tty, self));
            if taken.is_some() {
                note(process);
            }
            taken
        };
        taken.is_some()
    }

    /// Fails, or stops the caller's group, if that is in the background and `number` says what for.
    ///
    /// # Errors
    /// `EIO` if a stop would be for ever, or the signal of a read is ignored; `ERESTARTSYS`.
    #[doc(alias = "__tty_check_change")]
    pub(super) fn check_job(&self, number: u32) -> Result<()> {
        let Some(thread) = try_current() else { return Ok(()) };
        let process = &thread.process;
        let (own, foreground) = (process.pgid.load(SeqCst), self.job.lock().foreground);
        if !self.is_of(process) || foreground == 0 || foreground == own {
            return Ok(());
        }
        let ignored = process.signals.lock().action(number).handler == SIG_IGN
            || thread.signals.lock().mask.has(number);
        if ignored {
            return if number == SIGTTIN { Err(EIO) } else { Ok(()) };
        }
        if groups::is_orphaned(own) {
            return Err(EIO);
        }
        groups::tell(own, number);
        // The signal may be another thread's to take: the call is made again all the same.
        thread.note_work();
        Err(ERESTARTSYS)
    }

    /// Gives the group that it is for; zero for none.
    pub fn group(&self) -> u32 {
        self.job.lock().foreground
    }

    /// `TIOCGPGRP`.
    ///
    /// # Errors
    /// `ENOTTY` if it is not the caller's.
    pub(super) fn foreground(&self, thread: &Thread) -> Result<u32> {
        if self.is_of(&thread.process) { Ok(self.job.lock().foreground) } else { Err(ENOTTY) }
    }

    /// `TIOCSPGRP`.
    ///
    /// # Errors
    /// `ENOTTY`, `EINVAL`, `ESRCH`, `EPERM`, `ERESTARTSYS`.
    pub(super) fn set_foreground(&self, thread: &Thread, pgid: i32) -> Result<()> {
        let process = &thread.process;
        let pgid = u32::try_from(pgid).map_err(|_| EINVAL)?;
        let sid = process.sid.load(SeqCst);
        if !self.is_of(process) || self.job.lock().session != sid {
            return Err(ENOTTY);
        }
        // A process that leads no group will do.
        let session_of_process = || table::process(pgid).map(|process| process.sid.load(SeqCst));
        match groups::session_of(pgid).or_else(session_of_process) {
            None => return Err(ESRCH),
            Some(other) if other != sid => return Err(EPERM),
            Some(_) => {}
        }
        let mut job = self.job.lock();
        if job.session == sid {
            job.foreground = pgid;
        }
        Ok(())
    }

    /// Fails as [`Tty::check_job`] does for a change of the terminal.
    ///
    /// # Errors
    /// `ENOTTY`, `ERESTARTSYS`.
    pub(super) fn check_foreground_change(&self) -> Result<()> {
        self.check_job(SIGTTOU).map_err(|error| if error == EIO { ENOTTY } else { error })
    }

    /// Who typed and looked is gone: nobody has the terminal any more. Linux: `__tty_hangup`.
    pub(super) fn hang_up(&self) {
        self.state.lock().carrier = Carrier::Lost;
        // Whoever takes it, this or the leader that ends, is who tells the group.
        let foreground = core::mem::take(&mut *self.job.lock()).foreground;
        let mut is_told = foreground == 0;
        for process in table::processes() {
            let leaves = |process: &Process| {
                if is_leader(process) {
                    process.left_foreground.store(foreground, SeqCst);
                }
            };
            if self.take_from(&process, leaves) && is_leader(&process) {
                is_told = true;
                tell(&process, SIGHUP);
                tell(&process, SIGCONT);
            }
        }
        if !is_told {
            // The leader had let go of it, and found no group: it was here.
            groups::tell(foreground, SIGHUP);
            groups::tell(foreground, SIGCONT);
        }
        self.changed.notify();
    }
}

fn tell(process: &Arc<Process>, number: u32) {
    signal::send(process, SigInfo { signal: number, code: code::SI_KERNEL, detail: Detail::None });
}

/// Takes the terminal from a child that it got from its parent, if their session has lost it meanwhile. The
/// child is in the table: who takes the terminal from the session after this finds it there.
pub fn check_inherited(child: &Process) {
    let terminal = child.terminal.lock().clone();
    if let Some(tty) = terminal
        && tty.job.lock().session != child.sid.load(SeqCst)
    {
        tty.take_from(child, |_| ());
    }
}

/// Takes the terminal from a process; if that is a session's leader, from the session. Linux:
/// `disassociate_ctty`, `no_tty`.
pub fn leave(process: &Process, why: Leaving) {
    let terminal = process.terminal.lock().take();
    if !is_leader(process) {
        return;
    }
    let foreground = match &terminal {
        Some(tty) => tty.clear_session(process.pid),
        None => process.left_foreground.swap(0, SeqCst),
    };
    if foreground == 0 {
        return;
    }
    groups::tell(foreground, SIGHUP);
    // Who lost its terminal earlier hangs up on a group that may be stopped.
    if why == Leaving::Asked || terminal.is_none() {
        groups::tell(foreground, SIGCONT);
    }
}

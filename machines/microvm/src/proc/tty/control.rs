//! What ioctls do to a terminal.

use super::pty::{self, Master};
use super::session::{self, Leaving};
use super::{Carrier, Kind, Latch, Tty};
use crate::fs::table::OnExec;
use crate::proc::{Thread, current_thread};
use crate::usercopy;
use alloc::sync::Arc;
use anonmem_oslib::Result;
use anonmem_oslib::cred::Cap;
use anonmem_oslib::errno::{EINVAL, EIO, ENOTTY};
use anonmem_oslib::signal::{SIGINT, SIGQUIT, SIGTSTP, SIGTTOU, SIGWINCH};
use anonmem_oslib::tty::{TERMIOS, TERMIOS2};
use core::sync::atomic::Ordering::SeqCst;
use linux_raw_sys::general as abi;
use linux_raw_sys::ioctl;

fn read<const N: usize>(at: u64) -> Result<[u8; N]> {
    let mut bytes = [0; N];
    usercopy::copy_from_user(&mut bytes, at)?;
    Ok(bytes)
}

fn read_i32(at: u64) -> Result<i32> {
    Ok(i32::from_le_bytes(read(at)?))
}

fn write(at: u64, bytes: &[u8]) -> Result<usize> {
    usercopy::copy_to_user(at, bytes)?;
    Ok(0)
}

/// Answers an ioctl on the programs' side, which was opened with `access`.
///
/// # Errors
/// `ENOTTY` for one that a terminal does not know; those of the ioctl.
pub(super) fn of_slave(tty: &Arc<Tty>, access: u32, request: u32, argument: u64) -> Result<usize> {
    if tty.is_hung_up() {
        return Err(if request == ioctl::TIOCSPGRP { ENOTTY } else { EIO });
    }
    let thread = current_thread();
    match request {
        ioctl::TCSETS
        | ioctl::TCSETSW
        | ioctl::TCSETSF
        | ioctl::TCSETS2
        | ioctl::TCSETSW2
        | ioctl::TCSETSF2
        | ioctl::TCSBRK
        | ioctl::TCSBRKP
        | ioctl::TIOCSBRK
        | ioctl::TIOCCBRK
        | ioctl::TIOCSETD
        | ioctl::TCXONC
        | ioctl::TCFLSH => tty.check_job(SIGTTOU)?,
        _ => {}
    }
    match request {
        ioctl::TCXONC => tty.set_flow(argument),
        ioctl::TCFLSH => tty.flush(argument),
        ioctl::TIOCNOTTY if !tty.is_of(&thread.process) => Err(ENOTTY),
        ioctl::TIOCNOTTY => {
            session::leave(&thread.process, Leaving::Asked);
            Ok(0)
        }
        ioctl::TIOCGPGRP => write(argument, &tty.foreground(&thread)?.to_le_bytes()),
        ioctl::TIOCGSID if !tty.is_of(&thread.process) => Err(ENOTTY),
        ioctl::TIOCSTI => tty.fake_input(&thread, argument),
        _ => of_both(tty, &thread, access, request, argument),
    }
}

/// Answers an ioctl on the master's side: most are about the other side.
///
/// # Errors
/// As [`of_slave`].
pub(super) fn of_master(master: &Master, request: u32, argument: u64) -> Result<usize> {
    let (tty, thread) = (&master.tty, current_thread());
    let Kind::Pty(number) = tty.kind else { return Err(ENOTTY) };
    match request {
        ioctl::TIOCGPTN => write(argument, &number.to_le_bytes()),
        ioctl::TIOCSPTLCK => {
            let latch = if read_i32(argument)? == 0 { Latch::Free } else { Latch::Locked };
            tty.state.lock().latch = latch;
            Ok(0)
        }
        ioctl::TIOCGPTLCK => {
            let locked = tty.state.lock().latch == Latch::Locked;
            write(argument, &u32::from(locked).to_le_bytes())
        }
        ioctl::TIOCGPTPEER => open_peer(tty, &thread, argument as u32),
        // Packets are not made.
        ioctl::TIOCPKT if read_i32(argument)? == 0 => Ok(0),
        ioctl::TIOCPKT => Err(EINVAL),
        ioctl::TIOCGPKT => write(argument, &0u32.to_le_bytes()),
        ioctl::TIOCSIG => {
            let signal = argument as u32;
            if ![SIGINT, SIGQUIT, SIGTSTP].contains(&signal) {
                return Err(EINVAL);
            }
            tty.tell_foreground(signal);
            Ok(0)
        }
        ioctl::TCFLSH => tty.flush_master(argument),
        ioctl::TCXONC => {
            if argument <= 3 {
                Ok(0)
            } else {
                Err(EINVAL)
            }
        }
        ioctl::TIOCNOTTY => Err(ENOTTY),
        ioctl::TIOCGPGRP => write(argument, &tty.job.lock().foreground.to_le_bytes()),
        _ => of_both(tty, &thread, abi::O_RDWR, request, argument),
    }
}

fn of_both(tty: &Arc<Tty>, thread: &Thread, access: u32, request: u32, argument: u64) -> Result<usize> {
    match request {
        ioctl::TCGETS | ioctl::TCGETS2 => {
            let bytes = tty.state.lock().line.settings().to_bytes();
            write(argument, &bytes[..if request == ioctl::TCGETS { TERMIOS } else { TERMIOS2 }])
        }
        ioctl::TCSETS | ioctl::TCSETSW => tty.set(&read::<TERMIOS>(argument)?, Waiting::Stays),
        ioctl::TCSETSF => tty.set(&read::<TERMIOS>(argument)?, Waiting::Goes),
        ioctl::TCSETS2 | ioctl::TCSETSW2 => tty.set(&read::<TERMIOS2>(argument)?, Waiting::Stays),
        ioctl::TCSETSF2 => tty.set(&read::<TERMIOS2>(argument)?, Waiting::Goes),
        ioctl::TCSBRK | ioctl::TCSBRKP | ioctl::TIOCSBRK | ioctl::TIOCCBRK => Ok(0),
        ioctl::TIOCGWINSZ => {
            let size = tty.state.lock().size;
            write(argument, &size)
        }
        ioctl::TIOCSWINSZ => {
            tty.resize(read(argument)?);
            Ok(0)
        }
        ioctl::TIOCSCTTY => tty.set_controlling(thread, access, argument).map(|()| 0),
        ioctl::TIOCSPGRP => {
            tty.check_foreground_change()?;
            tty.set_foreground(thread, read_i32(argument)?).map(|()| 0)
        }
        ioctl::TIOCGSID => match tty.job.lock().session {
            0 => Err(ENOTTY),
            session => write(argument, &session.to_le_bytes()),
        },
        ioctl::TIOCOUTQ | ioctl::TIOCGETD => write(argument, &0u32.to_le_bytes()),
        ioctl::TIOCSETD => {
            if read_i32(argument)? == 0 {
                Ok(0)
            } else {
                Err(EINVAL)
            }
        }
        _ => Err(ENOTTY),
    }
}

/// `TIOCGPTPEER`: the other side, whatever is mounted where.
fn open_peer(tty: &Arc<Tty>, thread: &Thread, flags: u32) -> Result<usize> {
    let file = pty::open_peer(tty, flags)?;
    let on_exec = if flags & abi::O_CLOEXEC != 0 { OnExec::Close } else { OnExec::Keep };
    let most = thread.process.limits()[abi::RLIMIT_NOFILE as usize].0;
    let limit = most.min(u64::from(crate::fs::table::NR_OPEN)) as u32;
    Ok(thread.files().insert(file, on_exec, 0, limit)? as usize)
}

/// What becomes of what was typed and not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waiting {
    Stays,
    Goes,
}

impl Tty {
    fn set(&self, settings: &[u8], waiting: Waiting) -> Result<usize> {
        self.act(|state| {
            if waiting == Waiting::Goes {
                state.line.flush();
            }
            let settings = state.line.settings().changed_to(settings);
            state.line.set(settings);
        });
        Ok(0)
    }

    /// Changes the size of the window, and tells the group in the foreground if it is another.
    pub(super) fn resize(&self, size: [u8; 8]) {
        if core::mem::replace(&mut self.state.lock().size, size) != size {
            self.tell_foreground(SIGWINCH);
        }
    }

    fn set_flow(&self, how: u64) -> Result<usize> {
        self.act(|state| {
            let character = match how {
                0 => return state.line.hold(),
                1 => return state.line.release(),
                2 => state.line.settings().character(abi::VSTOP),
                _ => state.line.settings().character(abi::VSTART),
            };
            if character != 0 && how <= 3 {
                state.screen.write(&[character]);
            }
        });
        if how <= 3 { Ok(0) } else { Err(EINVAL) }
    }

    /// What was written counts as arrived: only what was typed can be forgotten, and that is what the line
    /// discipline has not taken yet, too.
    fn flush(&self, which: u64) -> Result<usize> {
        match which {
            0 | 2 => self.act(|state| {
                state.line.flush();
                state.typed.consume(state.typed.len());
            }),
            1 => {}
            _ => return Err(EINVAL),
        }
        Ok(0)
    }

    fn flush_master(&self, which: u64) -> Result<usize> {
        match which {
            0 | 2 => self.act(|state| state.screen.consume(state.screen.len())),
            1 => {}
            _ => return Err(EINVAL),
        }
        Ok(0)
    }

    /// `TIOCSTI`, as Linux has it without `legacy_tiocsti`.
    fn fake_input(&self, thread: &Thread, at: u64) -> Result<usize> {
        if !thread.cred().has(Cap::SysAdmin) {
            return Err(EIO);
        }
        let [byte] = read(at)?;
        self.act(|state| {
            state.typed.write(&[byte]);
        });
        Ok(0)
    }

    /// Somebody opens the programs' side. Linux: `pty_open`.
    ///
    /// # Errors
    /// `EIO` while that is locked, or if there is no other side any more.
    pub(super) fn add_user(&self) -> Result<()> {
        self.act(|state| {
            if state.carrier == Carrier::Lost || state.latch == Latch::Locked {
                return Err(EIO);
            }
            state.users.now += 1;
            state.users.ever = true;
            Ok(())
        })
    }

    /// Who may make it its terminal by opening it, does.
    pub(super) fn offer(self: &Arc<Self>, flags: u32) {
        let readable = flags & abi::O_ACCMODE != abi::O_WRONLY;
        if flags & abi::O_NOCTTY == 0
            && readable
            && let Some(thread) = crate::proc::thread::try_current()
            && thread.process.sid.load(SeqCst) == thread.process.pid
        {
            self.acquire(&thread.process);
        }
    }
}

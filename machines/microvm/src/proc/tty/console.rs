//! The console, if the command's own standard input is a terminal: the host types and looks.
//!
//! The host's terminal is in raw mode then, so all that a terminal does is done here. What is typed must
//! reach the line discipline though no program reads, because it may be a signal: so there is always credit.

use super::pty::Slave;
use super::{Kind, Latch, TYPED, Tty};
use crate::console::{self, to_host};
use crate::fs;
use crate::fs::device::Device;
use crate::fs::file::{Object, OpenFile, Target};
use crate::proc::process::Process;
use alloc::sync::Arc;
use anonmem_oslib::Result;
use anonmem_oslib::vfs::Inode;
use anonmem_oslib::vfs::path::Follow;
use linux_raw_sys::general as abi;
use spin::Once;

static CONSOLE: Once<Arc<Tty>> = Once::new();
/// Bytes that are handed to the host at once.
const PIECE: usize = 1024;

/// Makes the console a terminal, of the size `struct winsize`, and gives it to the session of `leader`; gives
/// its description.
///
/// # Errors
/// `ENOMEM`, `ENOENT`.
pub fn start(leader: &Process, size: [u8; 8]) -> Result<Arc<OpenFile>> {
    let tty = Tty::new(Kind::Console, Latch::Free)?;
    tty.state.lock().size = size;
    CONSOLE.call_once(|| tty.clone());
    let inode = fs::vfs().lookup(fs::vfs().root(), b"/dev/console", Follow::Yes)?;
    let slave = Slave::open(tty.clone(), abi::O_RDWR)?;
    tty.acquire(leader);
    tty.hand_over();
    Ok(OpenFile::new(inode, Target::Object(slave), b"/dev/console", abi::O_RDWR))
}

/// Opens `/dev/console`: the terminal, or the streams if there is none.
///
/// # Errors
/// `EIO` if the host's terminal has hung up.
pub(super) fn open(_: &Inode, flags: u32) -> Result<Arc<dyn Object>> {
    match CONSOLE.get() {
        Some(tty) => {
            let slave = Slave::open(tty.clone(), flags)?;
            tty.offer(flags);
            Ok(slave)
        }
        None => Ok(Arc::new(Device::Console)),
    }
}

/// Takes bytes that were typed on the host; says whether the console is a terminal.
pub fn typed(bytes: &[u8]) -> bool {
    let Some(tty) = CONSOLE.get() else { return false };
    tty.act(|state| {
        state.credit = state.credit.saturating_sub(bytes.len());
        // The host sends no more than it was allowed to, and that there is room for.
        state.typed.write(bytes);
    });
    true
}

/// The host's terminal has hung up; says whether the console is a terminal.
pub fn ended() -> bool {
    let Some(tty) = CONSOLE.get() else { return false };
    tty.hang_up();
    true
}

/// The window on the host has this size, a `struct winsize`.
pub fn resized(size: [u8; 8]) {
    if let Some(tty) = CONSOLE.get() {
        tty.resize(size);
    }
}

impl Tty {
    /// Hands what is on the screen to the host, and lets the host type more.
    pub(super) fn hand_over(&self) {
        let mut bytes = [0; PIECE];
        let order = self.handing.lock();
        loop {
            let n = {
                let mut state = self.state.lock();
                let n = state.screen.read(&mut bytes);
                let state = &mut *state;
                state.line.show_echo(&mut state.screen);
                n
            };
            if n == 0 {
                break;
            }
            console::send(to_host::STDOUT, &bytes[..n]);
            self.changed.notify();
        }
        drop(order);
        self.ask();
    }

    /// Allows the host to send more once there is much room.
    fn ask(&self) {
        let grant = {
            let mut state = self.state.lock();
            let grant = state.typed.room().saturating_sub(state.credit);
            if grant < TYPED / 2 {
                return;
            }
            state.credit += grant;
            grant
        };
        console::send(to_host::STDIN_WANT, &(grant as u32).to_le_bytes());
    }
}

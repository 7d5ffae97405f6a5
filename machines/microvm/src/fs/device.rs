//! Character devices: null, zero, full, random, and the console's streams.

use super::event::Event;
use super::file::{IN, OUT, Object, Ready, Wait, block_on};
use crate::arch::lock::SpinLock;
use crate::arch::random;
use crate::console;
use alloc::sync::Arc;
use anonmem_oslib::Result;
use anonmem_oslib::errno::ENOSPC;
use anonmem_oslib::ring::Ring;
use core::any::Any;

/// A device without state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// Takes everything, gives nothing.
    Null,
    /// Takes everything, gives zeros.
    Zero,
    /// Takes nothing, gives zeros.
    Full,
    /// Gives random bytes.
    Random,
    /// Gives standard input.
    Stdin,
    /// Takes standard output.
    Stdout,
    /// Takes standard error.
    Stderr,
    /// The console: gives standard input, takes standard output.
    Console,
}

impl Object for Device {
    fn read(&self, to: &mut [u8], wait: Wait) -> Result<usize> {
        match self {
            Device::Null | Device::Stdout | Device::Stderr => return Ok(0),
            Device::Zero | Device::Full => to.fill(0),
            Device::Random => fill_random(to),
            Device::Stdin | Device::Console => return STDIN.read(to, wait),
        }
        Ok(to.len())
    }

    fn write(&self, from: &[u8], _wait: Wait) -> Result<usize> {
        match self {
            Device::Null | Device::Zero | Device::Random | Device::Stdin => {}
            Device::Full => return Err(ENOSPC),
            Device::Stdout | Device::Console => console::send(console::to_host::STDOUT, from),
            Device::Stderr => console::send(console::to_host::STDERR, from),
        }
        Ok(from.len())
    }

    fn ready(&self) -> Ready {
        match self {
            Device::Stdin => STDIN.ready(),
            Device::Console => STDIN.ready() | OUT,
            Device::Stdout | Device::Stderr => OUT,
            Device::Null | Device::Zero | Device::Full | Device::Random => IN | OUT,
        }
    }

    fn readable(&self) -> Result<usize> {
        match self {
            Device::Stdin | Device::Console => Ok(STDIN.state.lock().as_ref().map_or(0, |s| s.ring.len())),
            _ => Err(anonmem_oslib::errno::ENOTTY),
        }
    }

    fn is_stream(&self) -> bool {
        matches!(self, Device::Stdin | Device::Stdout | Device::Stderr | Device::Console)
    }

    fn as_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}

/// Fills `to` with random bytes.
pub fn fill_random(to: &mut [u8]) {
    // The seed of a splitmix sequence for long requests: the hardware's numbers are slow.
    let mut state = random::random_u64();
    for chunk in to.chunks_mut(8) {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        chunk.copy_from_slice(&(z ^ z >> 31).to_le_bytes()[..chunk.len()]);
    }
}

/// Standard input: what the host has sent and nobody has read.
struct Stdin {
    state: SpinLock<Option<StdinState>>,
    arrived: Event,
}

struct StdinState {
    ring: Ring,
    /// Bytes that the host may still send.
    credit: usize,
    ended: bool,
}

static STDIN: Stdin = Stdin { state: SpinLock::new(None), arrived: Event::new() };
/// Bytes of standard input that wait in the kernel at most.
const WINDOW: usize = 64 << 10;

/// Makes the buffer of standard input.
///
/// # Errors
/// `ENOMEM`.
pub fn init_stdin() -> Result<()> {
    let ring = Ring::new(WINDOW)?;
    *STDIN.state.lock() = Some(StdinState { ring, credit: 0, ended: false });
    Ok(())
}

/// Takes bytes that the host sent.
pub fn stdin_bytes(bytes: &[u8]) {
    if let Some(state) = STDIN.state.lock().as_mut() {
        state.credit = state.credit.saturating_sub(bytes.len());
        // The host sends no more than it was allowed to, and that there is room for.
        state.ring.write(bytes);
    }
    STDIN.arrived.notify();
}

/// Notes that no more bytes will come.
pub fn stdin_end() {
    if let Some(state) = STDIN.state.lock().as_mut() {
        state.ended = true;
    }
    STDIN.arrived.notify();
}

impl Stdin {
    fn read(&self, to: &mut [u8], wait: Wait) -> Result<usize> {
        self.ask();
        block_on(&self.arrived, wait, || {
            let mut state = self.state.lock();
            let state = state.as_mut()?;
            (!state.ring.is_empty() || state.ended || to.is_empty()).then(|| Ok(state.ring.read(to)))
        })
    }

    fn ready(&self) -> Ready {
        self.ask();
        let state = self.state.lock();
        let ready = state.as_ref().is_some_and(|s| !s.ring.is_empty() || s.ended);
        if ready { IN } else { 0 }
    }

    /// Allows the host to send more once little is left: only programs that read take input.
    fn ask(&self) {
        let grant = {
            let mut state = self.state.lock();
            let Some(state) = state.as_mut() else { return };
            let grant = state.ring.room() - state.credit;
            if state.ended || grant < WINDOW / 2 {
                return;
            }
            state.credit += grant;
            grant
        };
        console::send(console::to_host::STDIN_WANT, &(grant as u32).to_le_bytes());
    }
}

//! Character devices: null, zero, full, random, and the console's streams.

use super::event::Event;
use super::file::{IN, OUT, Object, Ready, Wait, block_on};
use super::iov::{From, To};
use crate::arch::random;
use crate::console;
use crate::sched::{self, Mutex};
use alloc::sync::Arc;
use anonmem_oslib::Result;
use anonmem_oslib::errno::{EFAULT, ENOSPC};
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
    fn changes(&self, of: Ready) -> u64 {
        if of & IN != 0 && matches!(self, Device::Stdin | Device::Console) {
            STDIN.arrived.changes()
        } else {
            0
        }
    }

    fn read(&self, to: &mut To<'_>, wait: Wait) -> Result<usize> {
        match self {
            Device::Null | Device::Stdout | Device::Stderr => Ok(0),
            Device::Zero | Device::Full => to.fill_from(|done, bytes| {
                if done == 0 {
                    bytes.fill(0);
                }
                Ok(if is_enough(done) { 0 } else { bytes.len() })
            }),
            Device::Random => to.fill_from(|done, bytes| {
                fill_random(bytes);
                Ok(if is_enough(done) { 0 } else { bytes.len() })
            }),
            Device::Stdin | Device::Console => STDIN.read(to, wait),
        }
    }

    fn write(&self, from: &mut From<'_>, _wait: Wait) -> Result<usize> {
        let kind = match self {
            // Nobody looks at the bytes.
            Device::Null | Device::Zero | Device::Stdin => return Ok(from.left()),
            Device::Random => return from.drain_to(|_, bytes| Ok(bytes.len())),
            Device::Full => return Err(ENOSPC),
            Device::Stdout | Device::Console => console::to_host::STDOUT,
            Device::Stderr => console::to_host::STDERR,
        };
        from.drain_to(|_, bytes| {
            console::send(kind, bytes);
            Ok(bytes.len())
        })
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

/// Whether a read that could go on for long has something to deliver, and something else to see to.
fn is_enough(done: u64) -> bool {
    done > 0 && sched::interrupt_pending()
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
    /// Held over the copy to the caller's memory.
    state: Mutex<Option<StdinState>>,
    arrived: Event,
}

struct StdinState {
    ring: Ring,
    /// Bytes that the host may still send.
    credit: usize,
    ended: bool,
}

static STDIN: Stdin = Stdin { state: Mutex::new(None), arrived: Event::new() };
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
    /// Takes what was delivered out of the ring, and no more.
    fn read(&self, to: &mut To<'_>, wait: Wait) -> Result<usize> {
        self.ask();
        block_on(&self.arrived, wait, || {
            let mut state = self.state.lock();
            let state = state.as_mut()?;
            if state.ring.is_empty() {
                return (state.ended || to.left() == 0).then_some(Ok(0));
            }
            let mut done = 0;
            while !state.ring.is_empty() && to.left() > 0 {
                let n = to.put(state.ring.front());
                if n == 0 {
                    return Some(if done > 0 { Ok(done) } else { Err(EFAULT) });
                }
                state.ring.consume(n);
                done += n;
            }
            Some(Ok(done))
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

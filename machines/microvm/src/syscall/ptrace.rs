//! `ptrace`, as far as a debugger looks at memory and registers, and stops at signals.

use super::call::Call;
use super::user;
use crate::proc::remote::{self, As, Force};
use crate::proc::trace::{self, Kind, PTRACE_O_EXITKILL, REGS, Request};
use crate::proc::{Thread, table};
use alloc::sync::Arc;
use anonmem_oslib::Result;
use anonmem_oslib::abi::Fields;
use anonmem_oslib::errno::{EINVAL, EIO, EPERM, ESRCH};
use anonmem_oslib::signal::SIGNALS;
use core::sync::atomic::Ordering::SeqCst;

const TRACEME: u64 = 0;
const PEEKTEXT: u64 = 1;
const PEEKDATA: u64 = 2;
const PEEKUSER: u64 = 3;
const POKETEXT: u64 = 4;
const POKEDATA: u64 = 5;
const POKEUSER: u64 = 6;
const CONT: u64 = 7;
const KILL: u64 = 8;
const GETREGS: u64 = 12;
const SETREGS: u64 = 13;
const ATTACH: u64 = 16;
const DETACH: u64 = 17;
const SETOPTIONS: u64 = 0x4200;
const GETSIGINFO: u64 = 0x4202;
const SEIZE: u64 = 0x4206;
const INTERRUPT: u64 = 0x4207;

/// What a call names.
struct Named {
    tracee: Arc<Thread>,
    tracer: u32,
    address: u64,
    data: u64,
}

pub(super) fn ptrace(c: &mut Call<'_>) -> Result<usize> {
    let tracer = c.thread.process.pid;
    if c.args[0] == TRACEME {
        let parent = c.thread.process.parent.load(SeqCst);
        return trace::attach(&c.thread, parent, Kind::Attached, 0).map(|()| 0);
    }
    let tracee = table::thread(c.u32(1)).ok_or(ESRCH)?;
    let named = Named { tracee, tracer, address: c.args[2], data: c.args[3] };
    match c.args[0] {
        ATTACH => named.attach(&c.thread, Kind::Attached, 0),
        SEIZE if named.address != 0 => Err(EIO),
        SEIZE => named.attach(&c.thread, Kind::Seized, options(named.data)?),
        INTERRUPT => trace::interrupt(&named.tracee, tracer).map(|()| 0),
        KILL => trace::kill(&named.tracee, tracer).map(|()| 0),
        request => named.of_stopped(request),
    }
}

/// Those options that there are here.
fn options(data: u64) -> Result<u32> {
    let options = u32::try_from(data).or(Err(EINVAL))?;
    if options & !PTRACE_O_EXITKILL == 0 { Ok(options) } else { Err(EINVAL) }
}

impl Named {
    fn attach(&self, by: &Thread, kind: Kind, options: u32) -> Result<usize> {
        if self.tracee.process.pid == self.tracer {
            return Err(EPERM);
        }
        remote::check_access(by, &self.tracee.process, As::Real)?;
        trace::attach(&self.tracee, self.tracer, kind, options).map(|()| 0)
    }

    fn ask(&self, request: Request<'_>) -> Result<usize> {
        trace::request(&self.tracee, self.tracer, request).map(|()| 0)
    }

    /// The signal to go on with.
    fn signal(&self) -> Result<u32> {
        u32::try_from(self.data).ok().filter(|&signal| signal <= SIGNALS).ok_or(EIO)
    }

    /// What is asked of a thread that waits for its tracer.
    fn of_stopped(&self, request: u64) -> Result<usize> {
        self.ask(Request::Look)?;
        match request {
            PEEKTEXT | PEEKDATA => {
                let mut word = [0; 8];
                let space = self.tracee.process.space().ok_or(EIO)?;
                match remote::peek(&space, self.address, &mut word, Force::Yes) {
                    Ok(8) => user::write(self.data, &word).map(|()| 0),
                    Ok(_) | Err(_) => Err(EIO),
                }
            }
            POKETEXT | POKEDATA => {
                let space = self.tracee.process.space().ok_or(EIO)?;
                match remote::poke(&space, self.address, &self.data.to_le_bytes(), Force::Yes) {
                    Ok(8) => Ok(0),
                    Ok(_) | Err(_) => Err(EIO),
                }
            }
            PEEKUSER => {
                let word = self.regs()?[self.register()?];
                user::write(self.data, &word.to_le_bytes()).map(|()| 0)
            }
            POKEUSER => {
                let mut regs = self.regs()?;
                regs[self.register()?] = self.data;
                self.ask(Request::SetRegs(&regs))
            }
            GETREGS => {
                let regs = self.regs()?;
                let words = regs.iter().flat_map(|word| word.to_le_bytes());
                user::write(self.data, &words.collect::<alloc::vec::Vec<_>>()).map(|()| 0)
            }
            SETREGS => {
                let bytes: [u8; 8 * REGS] = user::read_array(self.data)?;
                let regs = core::array::from_fn(|i| Fields(&bytes).u64(8 * i));
                self.ask(Request::SetRegs(&regs))
            }
            GETSIGINFO => {
                let mut info = None;
                self.ask(Request::GetInfo(&mut info))?;
                user::write(self.data, &info.ok_or(EINVAL)?.to_bytes()).map(|()| 0)
            }
            SETOPTIONS => self.ask(Request::Options(options(self.data)?)),
            CONT => self.ask(Request::Continue(self.signal()?)),
            DETACH => self.ask(Request::Detach(self.signal()?)),
            _ => Err(EIO),
        }
    }

    fn regs(&self) -> Result<[u64; REGS]> {
        let mut regs = [0; REGS];
        self.ask(Request::GetRegs(&mut regs))?;
        Ok(regs)
    }

    /// The register at an offset of `struct user`.
    fn register(&self) -> Result<usize> {
        let index = (self.address / 8) as usize;
        if self.address.is_multiple_of(8) && index < REGS { Ok(index) } else { Err(EIO) }
    }
}

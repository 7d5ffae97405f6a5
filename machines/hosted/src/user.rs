//! What a program does: loads, stores, atomic instructions, and the faults that they take.
//!
//! [`UserCpu`] is a thread in user mode on its CPU. An access translates through the CPU's TLB, else walks,
//! else faults into the kernel and is retried, page by page, as an instruction would be.

use crate::{Access, Checks, Cpus, Hosted, arena::Arena};
use anonmem_hal::{Arch, CpuId, PAGE_SIZE, Pfn, Sched, Va};
use std::marker::PhantomData;

/// More faults than this for one access mean that the handler repairs nothing.
const MAX_FAULTS: u32 = 100_000;

/// The kernel's side of an address space, as a CPU sees it.
pub trait UserSpace {
    /// The frame of the top-level table.
    fn root(&self) -> Pfn;
    /// Adds `cpu` to those that flushes go to.
    fn activate(&self, cpu: CpuId);
    /// Takes `cpu` out of those that flushes go to.
    fn deactivate(&self, cpu: CpuId);
    /// Handles a page fault.
    fn handle_fault(&self, va: Va, access: Access) -> Handled;
}

impl<S: UserSpace + ?Sized> UserSpace for &S {
    fn root(&self) -> Pfn {
        (**self).root()
    }
    fn activate(&self, cpu: CpuId) {
        (**self).activate(cpu);
    }
    fn deactivate(&self, cpu: CpuId) {
        (**self).deactivate(cpu);
    }
    fn handle_fault(&self, va: Va, access: Access) -> Handled {
        (**self).handle_fault(va, access)
    }
}

/// What became of a fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Handled {
    /// Run the instruction again.
    Retry,
    /// The program gets a signal.
    Trap(Trap),
}

/// Why an access cannot be completed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trap {
    /// SIGSEGV: nothing is mapped there.
    Unmapped,
    /// SIGSEGV: the mapping does not allow the access.
    Denied,
    /// SIGBUS.
    Bus,
    /// There is no memory; the program would be killed.
    Oom,
}

/// A thread in user mode.
pub struct UserCpu<'a, C: Checks, A: Arch, S: UserSpace> {
    machine: &'a Hosted<C, A>,
    space: S,
    root: Pfn,
    cpu: CpuId,
    _not_send: PhantomData<*mut ()>,
}

impl<'a, C: Checks, A: Arch, S: UserSpace> UserCpu<'a, C, A, S> {
    /// Loads `space` on this thread's CPU.
    ///
    /// # Panics
    /// If the thread runs on no CPU.
    pub fn new(machine: &'a Hosted<C, A>, space: S) -> Self {
        let (root, cpu) = (space.root(), Hosted::<C, A>::current_cpu());
        machine.cpus().enter_space(cpu, root, || space.activate(cpu));
        Self { machine, space, root, cpu, _not_send: PhantomData }
    }

    /// The address space.
    pub fn space(&self) -> &S {
        &self.space
    }

    /// Fills `buf` with the bytes at `va`.
    ///
    /// # Errors
    /// The trap that the first inaccessible byte takes; the bytes before it were read.
    pub fn load(&self, va: Va, buf: &mut [u8]) -> Result<(), Trap> {
        let mut done = 0;
        while done < buf.len() {
            let (at, n) = piece(va, done, buf.len())?;
            let part = &mut buf[done..done + n];
            self.access(at, Access::Read, |arena, frame| arena.read(frame, at.page_offset(), part))?;
            done += n;
        }
        Ok(())
    }

    /// Writes `bytes` at `va`.
    ///
    /// # Errors
    /// The trap that the first inaccessible byte takes; the bytes before it, up to a page boundary, were
    /// written.
    pub fn store(&self, va: Va, bytes: &[u8]) -> Result<(), Trap> {
        let mut done = 0;
        while done < bytes.len() {
            let (at, n) = piece(va, done, bytes.len())?;
            let part = &bytes[done..done + n];
            self.access(at, Access::Write, |arena, frame| arena.write(frame, at.page_offset(), part))?;
            done += n;
        }
        Ok(())
    }

    /// Fetches an instruction byte.
    ///
    /// # Errors
    /// The trap that it takes.
    pub fn fetch(&self, va: Va) -> Result<u8, Trap> {
        let mut byte = [0];
        self.access(va, Access::Exec, |arena, frame| arena.read(frame, va.page_offset(), &mut byte))?;
        Ok(byte[0])
    }

    /// Atomically replaces the word at `va` by `new` if it is `current`; returns what it was.
    ///
    /// # Errors
    /// The trap that it takes: as on hardware, that of a store even if the comparison would fail.
    ///
    /// # Panics
    /// If `va` is not aligned.
    pub fn cas_u32(&self, va: Va, current: u32, new: u32) -> Result<u32, Trap> {
        let (current, new) = (current.to_ne_bytes(), new.to_ne_bytes());
        let old = self.access(va, Access::Write, |arena, frame| {
            arena.compare_exchange(frame, va.page_offset(), current, new)
        })?;
        Ok(u32::from_ne_bytes(old))
    }

    /// Atomically adds `n` to the word at `va`; returns what it was.
    ///
    /// # Errors
    /// The trap that it takes.
    ///
    /// # Panics
    /// If `va` is not aligned.
    pub fn fetch_add_u64(&self, va: Va, n: u64) -> Result<u64, Trap> {
        let old = self.access(va, Access::Write, |arena, frame| {
            arena.update(frame, va.page_offset(), |old: [u8; 8]| {
                u64::from_ne_bytes(old).wrapping_add(n).to_ne_bytes()
            })
        })?;
        Ok(u64::from_ne_bytes(old))
    }

    /// One access within one page, retried after each handled fault.
    fn access<R>(&self, va: Va, access: Access, mut f: impl FnMut(&Arena, Pfn) -> R) -> Result<R, Trap> {
        for _ in 0..MAX_FAULTS {
            Cpus::preemption_point();
            if let Some(result) = self.machine.access(self.cpu, self.root, va, access, &mut f) {
                return Ok(result);
            }
            match self.space.handle_fault(va, access) {
                Handled::Retry => {}
                Handled::Trap(trap) => return Err(trap),
            }
        }
        panic!("{access:?} at {va:?} still faults after {MAX_FAULTS} handled faults");
    }
}

impl<C: Checks, A: Arch, S: UserSpace> Drop for UserCpu<'_, C, A, S> {
    fn drop(&mut self) {
        self.machine.cpus().leave_space(self.cpu, self.root, || {
            self.machine.tlbs().forget(self.cpu, self.root);
            self.space.deactivate(self.cpu);
        });
    }
}

/// The part of an access from its byte `done` on that lies in one page.
fn piece(va: Va, done: usize, len: usize) -> Result<(Va, usize), Trap> {
    let at = va.checked_add(done as u64).ok_or(Trap::Unmapped)?;
    Ok((at, (PAGE_SIZE - at.page_offset()).min(len - done)))
}

#[cfg(test)]
mod tests;

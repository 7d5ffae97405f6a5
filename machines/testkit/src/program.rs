//! Programs: loads and stores that fault as those of a real one.

use crate::{
    cpus,
    vec_machine::{Stores, VecMachine},
};
use anonmem::{Config, FaultAccess, FaultOutcome, Mm, Vm};
use anonmem_hal::{Sched as _, Va};
use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering::SeqCst},
};

/// A program got a signal instead of its access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Signal {
    /// Where it accessed memory.
    pub va: Va,
    /// Why it may not.
    pub outcome: FaultOutcome,
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an access to {:#x} ends in {:?}", self.va.0, self.outcome)
    }
}

impl std::error::Error for Signal {}

/// Accesses of a program, a word of eight bytes at a time.
pub trait Program {
    /// Loads the word at `va`, a multiple of 8.
    ///
    /// # Errors
    /// [`Signal`] if the program may not, or there is no memory.
    fn load(&self, va: Va) -> Result<u64, Signal>;

    /// Stores `value` to the word at `va`, a multiple of 8.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    fn store(&self, va: Va, value: u64) -> Result<(), Signal>;
}

impl Program for Mm<'_, VecMachine> {
    fn load(&self, va: Va) -> Result<u64, Signal> {
        access(self, va, Stores::No, |word| word.load(SeqCst))
    }

    fn store(&self, va: Va, value: u64) -> Result<(), Signal> {
        access(self, va, Stores::Yes, |word| word.store(value, SeqCst))
    }
}

fn access<R>(
    mm: &Mm<'_, VecMachine>,
    va: Va,
    stores: Stores,
    f: impl Fn(&AtomicU64) -> R,
) -> Result<R, Signal> {
    assert!(va.0.is_multiple_of(8), "{va:?} is not the address of a word");
    let (machine, cpu) = (mm.vm().machine(), VecMachine::current_cpu());
    loop {
        // A CPU is active while it may hold translations: here, for one access.
        cpus::enter(mm.root(), || mm.activate(cpu));
        let done = machine.access(mm.root(), va, stores, &f);
        cpus::leave(mm.root(), || mm.deactivate(cpu));
        if let Some(result) = done {
            return Ok(result);
        }
        let kind = if stores == Stores::Yes { FaultAccess::Write } else { FaultAccess::Read };
        match mm.handle_fault(va, kind) {
            FaultOutcome::Done => {}
            outcome @ (FaultOutcome::Oom
            | FaultOutcome::NodesFull(_)
            | FaultOutcome::SegvMaperr
            | FaultOutcome::SegvAccerr
            | FaultOutcome::Bus
            | FaultOutcome::Lost) => return Err(Signal { va, outcome }),
        }
    }
}

/// Runs `f` with a memory manager of 256 frames and a swap device, and an address space; recounts everything
/// afterwards. What the examples of anonmem's documentation run in.
///
/// # Panics
/// If `f` fails, or a count is wrong.
pub fn example(
    f: impl for<'v> FnOnce(&'v Vm<VecMachine>, &Mm<'v, VecMachine>) -> Result<(), Box<dyn std::error::Error>>,
) {
    let vm = Vm::new(VecMachine::new(256), Config::default()).expect("a machine of 256 frames");
    vm.swap_on(0, 64, 0).expect("memory for a swap device");
    let mm = vm.new_mm().expect("memory for an address space");
    if let Err(error) = f(&vm, &mm) {
        panic!("the example fails: {error}");
    }
    vm.validate().expect("every count is right");
    drop(mm);
    vm.drain();
    assert_eq!((vm.stats().user, vm.stats().tables), (0, 0), "pages or page tables are left");
}

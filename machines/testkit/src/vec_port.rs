//! [`VecMachine`] as the checks drive it.

use crate::{
    cpus,
    port::Port,
    vec_machine::{Stores, VecMachine},
};
use anonmem::{Mm, Va};
use anonmem_hal::Sched as _;
use std::sync::atomic::Ordering::SeqCst;

/// Threads that a check runs at once.
const THREADS: usize = 4;

impl<'v> Port<'v, VecMachine> for VecMachine {
    fn within(&self, mm: &Mm<'v, VecMachine>, program: &mut dyn FnMut()) {
        let cpu = Self::current_cpu();
        cpus::enter(mm.root(), || mm.activate(cpu));
        program();
        cpus::leave(mm.root(), || mm.deactivate(cpu));
    }

    fn load(&self, mm: &Mm<'v, VecMachine>, va: Va) -> Option<u64> {
        self.access(mm.root(), va, Stores::No, |word| word.load(SeqCst))
    }

    fn store(&self, mm: &Mm<'v, VecMachine>, va: Va, value: u64) -> bool {
        self.access(mm.root(), va, Stores::Yes, |word| word.store(value, SeqCst)).is_some()
    }

    fn cpus(&self) -> usize {
        THREADS
    }

    fn at_once(&self, tasks: usize, job: &(dyn Fn(usize) + Sync)) {
        std::thread::scope(|scope| {
            for me in 0..tasks {
                scope.spawn(move || job(me));
            }
        });
    }
}

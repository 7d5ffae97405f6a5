//! Threads as CPUs: a thread has a number of its own from its first use of a machine to its end.

use anonmem_hal::{CpuId, HeldLocks, Pfn};
use std::{
    cell::RefCell,
    sync::{Mutex, PoisonError},
};

/// The most threads that use machines at once.
pub(crate) const CPUS: usize = 16;

/// Which numbers are taken, a bit each.
static TAKEN: Mutex<u32> = Mutex::new(0);

/// A number that a thread has; its drop gives the number back.
struct Cpu(u32);

thread_local! {
    static CPU: Cpu = Cpu::take();
    static SPACES: RefCell<Vec<Pfn>> = const { RefCell::new(Vec::new()) };
    static HELD: RefCell<HeldLocks> = const { RefCell::new(HeldLocks::NONE) };
}

impl Cpu {
    fn take() -> Self {
        let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
        let number = taken.trailing_ones();
        assert!((number as usize) < CPUS, "more than {CPUS} threads at once");
        *taken |= 1 << number;
        Self(number)
    }
}

impl Drop for Cpu {
    fn drop(&mut self) {
        *TAKEN.lock().unwrap_or_else(PoisonError::into_inner) &= !(1 << self.0);
    }
}

/// The number of this thread.
pub(crate) fn current() -> CpuId {
    CPU.with(|cpu| CpuId(cpu.0))
}

/// This thread's CPU uses the address space `root` once more; the first time runs `activate`.
pub(crate) fn enter(root: Pfn, activate: impl FnOnce()) {
    SPACES.with_borrow_mut(|spaces| {
        if !spaces.contains(&root) {
            activate();
        }
        spaces.push(root);
    });
}

/// This thread's CPU uses it once less; the last time runs `deactivate`.
pub(crate) fn leave(root: Pfn, deactivate: impl FnOnce()) {
    SPACES.with_borrow_mut(|spaces| {
        let last = spaces.iter().rposition(|space| *space == root).expect("the space was entered");
        spaces.remove(last);
        if !spaces.contains(&root) {
            deactivate();
        }
    });
}

/// Runs `f` on the locks that this thread holds.
pub(crate) fn with_held_locks(f: &mut dyn FnMut(&mut HeldLocks)) {
    HELD.with_borrow_mut(|held| f(held));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_threads_have_one_number() {
        let here = current();
        let there = std::thread::scope(|scope| scope.spawn(current).join().unwrap());
        assert_ne!(here, there);
        assert_eq!(here, current());
    }
}

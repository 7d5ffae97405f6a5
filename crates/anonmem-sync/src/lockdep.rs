//! The lock-order checker.
//!
//! Each task's list of held ranks lives with the machine ([`Sched::with_held_locks`]); the rules are here.
//! All of it is behind [`Machine::CHECKED`], so a bench pays nothing.
//!
//! Linux: kernel/locking/lockdep.c checks observed orders; this checks a declared one.
//!
//! [`Sched::with_held_locks`]: anonmem_hal::Sched::with_held_locks

use crate::order;
use anonmem_hal::{HeldLocks, Machine};

/// How a lock is being taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Acquire {
    /// Waits until it is free: the order applies.
    Blocking,
    /// Gives up if it is taken: exempt.
    Try,
}

/// Notes that the lock of `rank` at address `at` is about to be taken.
///
/// # Panics
/// If that violates the lock order, or would sleep under a spin lock. The message names both locks.
#[inline(always)]
#[track_caller]
pub fn acquire<M: Machine>(rank: u16, at: usize, how: Acquire) {
    if M::CHECKED {
        check_and_push::<M>(rank, at, how);
    }
}

/// Notes that the lock of `rank` at address `at` was released.
#[inline(always)]
#[track_caller]
pub fn release<M: Machine>(rank: u16, at: usize) {
    if M::CHECKED {
        pop::<M>(rank, at);
    }
}

/// Checks that the caller may sleep: no spin lock is held.
///
/// # Panics
/// If one is.
#[inline(always)]
#[track_caller]
pub fn might_sleep<M: Machine>() {
    if M::CHECKED {
        held_locks::<M>(&mut |held| {
            if let Some(&(spin, _)) = held.entries[..held.len].iter().find(|(r, _)| !order::sleeps(*r)) {
                panic!("sleeping while the spin lock {} is held", order::name_of(spin));
            }
        });
    }
}

/// Checks that the caller holds no lock at all: a system call or a fault ends like this.
///
/// # Panics
/// If one is held.
#[track_caller]
pub fn assert_none_held<M: Machine>() {
    if M::CHECKED {
        held_locks::<M>(&mut |held| {
            assert!(held.len == 0, "{} still held", order::name_of(held.entries[0].0));
        });
    }
}

/// Runs `f`, a function of this file, on the list of the current task.
#[track_caller]
fn held_locks<M: Machine>(f: &mut dyn FnMut(&mut HeldLocks)) {
    // SAFETY: no function of this file does so in another one.
    unsafe { M::with_held_locks(f) };
}

#[track_caller]
fn check_and_push<M: Machine>(rank: u16, at: usize, how: Acquire) {
    held_locks::<M>(&mut |held| {
        for &(other, other_at) in &held.entries[..held.len] {
            assert!(other_at != at || how == Acquire::Try, "{} taken twice", order::name_of(rank));
            if how == Acquire::Blocking {
                assert!(
                    other < rank,
                    "lock order: {} ({rank:#x}) taken while {} ({other:#x}) is held",
                    order::name_of(rank),
                    order::name_of(other),
                );
            }
        }
        assert!(held.len < held.entries.len(), "too many locks held at once");
        held.entries[held.len] = (rank, at);
        held.len += 1;
    });
}

#[track_caller]
fn pop<M: Machine>(rank: u16, at: usize) {
    held_locks::<M>(&mut |held| {
        let found = held.entries[..held.len].iter().rposition(|e| *e == (rank, at));
        let Some(i) = found else { panic!("{} released but not held", order::name_of(rank)) };
        held.entries.copy_within(i + 1..held.len, i);
        held.len -= 1;
    });
}

//! Shared state, typed by the machine it lives on.
//!
//! [`Atomic`] and [`Plain`] are the only words that several CPUs may touch, and the locks of this crate
//! are the only way to order them. Each access passes through the machine's [`Probe`]: nothing on a real
//! machine, a scheduling point in the lab. The layout is that of `core`'s atomics.
//!
//! - [`order`]: the lock order, one list.
//! - [`lockdep`]: the checker that every test and the lab run under.
//! - [`spin`], [`rwsem`], [`bitlock`]: spin locks, sleeping reader/writer locks, a lock in one bit.
//! - [`seqcount`], [`rcu`]: reading without locks.
//! - [`wait`]: waiting for a condition.
//! - [`state`]: words that hold one of a few named states.
//! - [`contention`]: how long tasks waited for locks.
//!
//! `unsafe` is allowed here.
//!
//! [`Probe`]: anonmem_hal::Probe
#![no_std]
#![warn(missing_debug_implementations)]

#[cfg(test)]
extern crate std;

#[doc(hidden)]
pub mod atomic;
#[doc(hidden)]
pub mod bitlock;
#[doc(hidden)]
pub mod contention;
mod debug;
#[doc(hidden)]
pub mod in_place;
pub mod lockdep;
pub mod order;
#[doc(hidden)]
pub mod percpu;
#[doc(hidden)]
pub mod plain;
#[doc(hidden)]
pub mod rcu;
#[doc(hidden)]
pub mod rwsem;
#[doc(hidden)]
pub mod seqcount;
#[doc(hidden)]
pub mod spin;
#[doc(hidden)]
pub mod state;
#[cfg(test)]
mod testing;
#[doc(hidden)]
pub mod wait;

pub use atomic::{Atomic, Word, fence};
pub use bitlock::{BitGuard, BitLock};
pub use contention::{LockWaits, Waited};
pub use core::sync::atomic::Ordering;
pub use order::Level;
pub use percpu::{CachePadded, PerCpu};
pub use plain::Plain;
pub use rcu::{Rcu, RcuGuard};
pub use rwsem::{RwSem, RwSemReadGuard, RwSemWriteGuard};
pub use seqcount::SeqCount;
pub use spin::{RawSpin, Spin, SpinGuard};
pub use state::AtomicState;
pub use wait::{WaitQueue, spin_until, yield_now};

//! The seam of the lab: every shared access, before it happens.
//!
//! A real machine uses [`NoProbe`], whose functions are the access itself and vanish when inlined. A
//! simulated one gives up control here, so that the explorer decides who goes next. Under a weak memory model
//! the explorer also decides which value a load returns. What is explored is therefore the production code.

use core::sync::atomic::Ordering;

/// How a lock is held.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LockKind {
    /// By one.
    Exclusive,
    /// By many readers.
    Shared,
}

/// Sees, and may steer, every access to shared state. All methods default to doing just the access.
///
/// `at` is the address of the object; values are widened to 64 bits.
pub trait Probe: Send + Sync + 'static {
    /// Whether accesses are observed. If not, none of the other functions matters.
    const ACTIVE: bool = false;

    /// A load; `read` performs it on memory, which holds the newest value.
    #[inline(always)]
    #[track_caller]
    fn load(_at: usize, _order: Ordering, read: impl FnOnce() -> u64) -> u64 {
        read()
    }

    /// A store; `write` performs it on memory, `old` returns what memory holds. A simulated machine may
    /// leave out the `write`: of a store that another one has already overtaken.
    #[inline(always)]
    #[track_caller]
    fn store(_at: usize, _order: Ordering, _value: u64, _old: impl FnOnce() -> u64, write: impl FnOnce()) {
        write();
    }

    /// A read-modify-write; `op` performs it and returns the old value and the new one (`None`: a
    /// compare-exchange that failed).
    #[inline(always)]
    #[track_caller]
    fn rmw(_at: usize, _order: Ordering, op: impl FnOnce() -> (u64, Option<u64>)) -> (u64, Option<u64>) {
        op()
    }

    /// A fence.
    #[inline(always)]
    #[track_caller]
    fn fence(order: Ordering) {
        fence(order);
    }

    /// An access to a cell that a lock protects: a race is a bug.
    #[inline(always)]
    #[track_caller]
    fn plain_read(_at: usize) {}

    /// A store to a cell that a lock protects: a race is a bug.
    #[inline(always)]
    #[track_caller]
    fn plain_write(_at: usize) {}

    /// A word of statistics is about to change that nobody decides by: no step, but memory is no longer what
    /// it was.
    #[inline(always)]
    fn statistics(_at: usize) {}

    /// About to take a lock; returns when it is free for `mode`. Only called if [`ACTIVE`](Self::ACTIVE).
    #[track_caller]
    fn lock(_at: usize, _mode: LockKind) {}

    /// About to try a lock: whether it is to be had. Only called if [`ACTIVE`](Self::ACTIVE).
    #[track_caller]
    fn try_lock(_at: usize, _mode: LockKind) -> bool {
        true
    }

    /// About to release a lock. Only called if [`ACTIVE`](Self::ACTIVE).
    #[track_caller]
    fn unlock(_at: usize, _mode: LockKind) {}

    /// About to wait for `ready`; returns when it holds. Only called if [`ACTIVE`](Self::ACTIVE).
    #[track_caller]
    fn wait_until(_ready: &dyn Fn() -> bool) {}
}

/// A fence. A full one is a locked instruction on the top of the stack, which x86 orders like `MFENCE` (Intel
/// SDM volume 3A, 10.2.5) and does in a quarter of the time. Linux: `__smp_mb`.
#[cfg(all(target_arch = "x86_64", not(miri)))]
#[inline(always)]
fn fence(order: Ordering) {
    if order == Ordering::SeqCst {
        // SAFETY: or with 0 changes no byte; the stack is writable. Not `nomem`, so the compiler orders
        // memory too.
        unsafe { core::arch::asm!("lock or dword ptr [rsp], 0", options(nostack)) };
    } else {
        core::sync::atomic::fence(order);
    }
}

/// A fence.
#[cfg(not(all(target_arch = "x86_64", not(miri))))]
#[inline(always)]
fn fence(order: Ordering) {
    core::sync::atomic::fence(order);
}

/// Observes nothing: the probe of every real machine.
#[derive(Debug)]
pub enum NoProbe {}

impl Probe for NoProbe {}

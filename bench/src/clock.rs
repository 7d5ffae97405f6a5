//! Time, as it is measured here: CPU time of the measuring thread.
//!
//! What one thread does is timed by the CPU time that the host's scheduler gives it, on both sides alike:
//! another program that takes the CPU in the middle then costs caches and nothing more. What several threads
//! do together is timed by the clock on the wall.

/// Nanoseconds of the host's monotonic clock, which all processes share.
pub fn wall_ns() -> u64 {
    clock(libc::CLOCK_MONOTONIC)
}

/// Nanoseconds that this thread has been running.
pub fn cpu_ns() -> u64 {
    clock(libc::CLOCK_THREAD_CPUTIME_ID)
}

fn clock(id: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a local of the right type.
    unsafe { libc::clock_gettime(id, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Nanoseconds of CPU time that `f` takes.
pub fn time(f: impl FnOnce()) -> f64 {
    let start = cpu_ns();
    f();
    (cpu_ns() - start) as f64
}

/// Nanoseconds of CPU time that one of `n` calls of `f` takes.
pub fn time_per(n: u32, mut f: impl FnMut()) -> f64 {
    time(|| (0..n).for_each(|_| f())) / f64::from(n)
}

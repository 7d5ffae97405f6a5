//! Forked children of this process: they do one thing, say how long it took, and leave.
//!
//! A child of a process with threads may only do what a signal handler may: no allocation, no locks. It
//! touches memory, reads the clock, writes into a shared page, and exits.

use crate::clock::cpu_ns;
use std::{
    io,
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering::SeqCst},
};

/// A page that parent and children share: words that a child leaves for its parent.
pub struct Blackboard(NonNull<AtomicU64>);

/// The words of a [`Blackboard`].
#[derive(Clone, Copy)]
pub enum Word {
    /// The CPU time that the child had had when it was about to exit.
    Leaving = 0,
    /// How long its work took, or when it was done.
    Took = 1,
    /// When it started.
    Started = 2,
    /// How many have come.
    Arrived = 3,
}

impl Blackboard {
    /// Maps the page.
    ///
    /// # Errors
    /// What the host says.
    pub fn new() -> io::Result<Self> {
        let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
        // SAFETY: no address is asked for.
        let page = unsafe { libc::mmap(std::ptr::null_mut(), crate::PAGE, prot, flags, -1, 0) };
        if page == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self(NonNull::new(page.cast()).ok_or_else(|| io::Error::other("mapped at page 0"))?))
    }

    /// Sets a word.
    pub fn set(&self, word: Word, value: u64) {
        self.word(word).store(value, SeqCst);
    }

    /// Reads a word.
    pub fn get(&self, word: Word) -> u64 {
        self.word(word).load(SeqCst)
    }

    /// A word that several children count on.
    pub fn counter(&self) -> &AtomicU64 {
        self.word(Word::Arrived)
    }

    fn word(&self, word: Word) -> &AtomicU64 {
        // SAFETY: the page has room for the words.
        let word = unsafe { self.0.add(word as usize) };
        // SAFETY: it is mapped as long as `self` lives, and only accessed atomically.
        unsafe { word.as_ref() }
    }
}

// SAFETY: the words are only accessed atomically.
unsafe impl Sync for Blackboard {}
// SAFETY: as above; the mapping belongs to the process.
unsafe impl Send for Blackboard {}

impl Drop for Blackboard {
    fn drop(&mut self) {
        // SAFETY: the page is ours.
        unsafe { libc::munmap(self.0.as_ptr().cast(), crate::PAGE) };
    }
}

/// What a fork cost the parent, and the end of the child's life, in nanoseconds of CPU time.
pub struct Lifetimes {
    /// `fork`, in the parent.
    pub fork: f64,
    /// The child's exit, in the child: until nothing is left of it but its status.
    pub exit: f64,
}

/// Forks a child that runs `work` and exits; waits for it.
///
/// # Errors
/// If there is no fork to be had, or the child did not exit with 0.
pub fn run(board: &Blackboard, work: impl FnOnce()) -> io::Result<Lifetimes> {
    let before = cpu_ns();
    // SAFETY: the child only runs `work`, which keeps to what a signal handler may do, and leaves by `_exit`.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        work();
        board.set(Word::Leaving, cpu_ns());
        // SAFETY: always allowed.
        unsafe { libc::_exit(0) };
    }
    let forked = cpu_ns();
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    let lived = reap(pid)?;
    let leaving = board.get(Word::Leaving);
    Ok(Lifetimes { fork: (forked - before) as f64, exit: lived.saturating_sub(leaving) as f64 })
}

/// Waits for a child; returns the nanoseconds of CPU time that it has had.
fn reap(pid: libc::pid_t) -> io::Result<u64> {
    let mut status = 0;
    // SAFETY: all-zero is a value of this plain structure.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the child is ours, the pointers are to locals.
    while unsafe { libc::wait4(pid, &mut status, 0, &mut usage) } < 0 {
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    if status != 0 {
        return Err(io::Error::other(format!("a forked child ended with wait status {status:#x}")));
    }
    let ns = |t: libc::timeval| t.tv_sec as u64 * 1_000_000_000 + t.tv_usec as u64 * 1000;
    Ok(ns(usage.ru_utime) + ns(usage.ru_stime))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_leaves_word() {
        let board = Blackboard::new().unwrap();
        run(&board, || board.set(Word::Took, 42)).unwrap();
        assert_eq!(board.get(Word::Took), 42);
    }
}

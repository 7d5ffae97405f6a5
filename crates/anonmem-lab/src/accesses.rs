//! Accesses, listed in order: what an observed CPU touches, and what that is called.

use crate::names::Names;
use core::panic::Location;
use std::collections::HashMap;

/// What an access does to its word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Touch {
    /// Reads it.
    Read,
    /// Changes it; an exchange that fails counts, because hardware takes the line for it.
    Write,
    /// Takes the lock that it is.
    Lock,
    /// Takes the lock together with other readers, whose number it counts.
    LockShared,
    /// Releases the lock.
    Unlock,
}

impl Touch {
    pub(crate) const fn writes(self) -> bool {
        !matches!(self, Self::Read)
    }
}

/// One access.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Access {
    /// The word; a lock that is a bit of a word has its address plus one.
    pub(crate) at: usize,
    pub(crate) touch: Touch,
    /// The line of the production code.
    pub(crate) by: &'static Location<'static>,
}

/// Bytes of a cache line.
pub(crate) const LINE: usize = 64;

impl Access {
    pub(crate) const fn line(&self) -> usize {
        self.at / LINE
    }
}

/// Lists the accesses of a CPU.
#[derive(Default)]
pub(crate) struct Observer {
    pub(crate) accesses: Vec<Access>,
    /// Other CPUs that were interrupted to flush their TLBs.
    pub(crate) interrupts: usize,
    /// Addresses that are to be named as soon as their line is touched: for each line, those that another CPU
    /// touched before.
    wanted: HashMap<usize, Vec<usize>>,
    /// What the addresses were called when a wanted line was touched.
    pub(crate) called: HashMap<usize, String>,
}

impl Observer {
    /// Lists accesses, and names what lies on the lines of `before`.
    pub(crate) fn after(before: &[Access]) -> Self {
        let mut wanted: HashMap<usize, Vec<usize>> = HashMap::new();
        for access in before {
            let on_line = wanted.entry(access.line()).or_default();
            if !on_line.contains(&access.at) {
                on_line.push(access.at);
            }
        }
        Self { wanted, ..Self::default() }
    }

    pub(crate) fn note(&mut self, at: usize, touch: Touch, by: &'static Location<'static>, names: &Names) {
        let access = Access { at, touch, by };
        if let Some(others) = self.wanted.get(&access.line()) {
            for at in others.iter().copied().chain([at]) {
                self.called.entry(at).or_insert_with(|| names.name(at));
            }
        }
        self.accesses.push(access);
    }
}

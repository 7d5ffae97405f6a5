//! Memory models: what a load may return, and which accesses are ordered.
//!
//! - [`sc`]: a load returns the newest store. Orderings only matter for the data-race check.
//! - [`c11`]: every location keeps its stores; a load returns any of those that C11's rules allow.
//! - [`race`]: accesses to plain words that no synchronisation orders.
//! - [`frames`]: the same of the contents of whole frames.
//!
//! Both models keep the same *synchronises-with* clocks ([`View`]), as C11 defines them: a relaxed atomic
//! orders nothing, whatever the interleaving.

pub mod c11;
pub mod clock;
pub mod frames;
pub mod race;
pub mod sc;

pub use clock::Clock;
use core::sync::atomic::Ordering;

/// Which memory model an exploration uses.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Model {
    /// Sequential consistency.
    Sc,
    /// Store histories after C11.
    C11,
}

impl Model {
    /// Its name on the command line and in replay ids.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sc => "sc",
            Self::C11 => "c11",
        }
    }
}

/// What one CPU, or one message between CPUs, carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct View {
    /// Events that happen before (C11 5.1.2.4): they may not race.
    pub hb: Clock,
    /// Events whose effect must be seen: `hb`, and what fences of sequential consistency add.
    pub seen: Clock,
    /// Stores of sequential consistency up to this number must be seen.
    pub sc: u32,
    /// Accesses through translations that a flush has waited for: they are over.
    pub flushed: Clock,
}

impl View {
    /// Knows nothing.
    pub const ZERO: Self = Self { hb: Clock::ZERO, seen: Clock::ZERO, sc: 0, flushed: Clock::ZERO };

    /// Adds what `other` carries.
    #[inline]
    pub fn join(&mut self, other: &Self) {
        self.hb.join(&other.hb);
        self.seen.join(&other.seen);
        self.sc = self.sc.max(other.sc);
        self.flushed.join(&other.flushed);
    }

    /// The events that are over as far as accesses through translations go.
    pub fn translated(&self) -> Clock {
        let mut known = self.hb;
        known.join(&self.flushed);
        known
    }
}

/// The views of one CPU.
#[derive(Clone, Copy, Debug, Default)]
pub struct CpuViews {
    /// What it knows now.
    pub now: View,
    /// What its relaxed loads found: known after the next acquire fence.
    pub pending: View,
    /// What it knew at its last release fence: carried by its relaxed stores.
    pub fence: View,
}

/// On whose behalf a CPU accesses memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum By {
    /// The code's.
    Code,
    /// The MMU's: a walk of the page tables, or an access through a translation.
    Mmu,
}

impl CpuViews {
    /// Receives what a store carried.
    #[inline]
    pub fn receive(&mut self, message: &View, order: Ordering) {
        if acquires(order) {
            self.now.join(message);
        } else {
            self.pending.join(message);
        }
    }

    /// What a store of this CPU carries.
    #[inline]
    pub fn message(&self, order: Ordering) -> View {
        if releases(order) { self.now } else { self.fence }
    }

    /// The part of a fence that concerns this CPU alone.
    #[inline]
    pub fn fence(&mut self, order: Ordering) {
        if acquires(order) {
            let pending = self.pending;
            self.now.join(&pending);
        }
        if releases(order) {
            self.fence = self.now;
        }
    }
}

/// Whether `order` acquires.
#[inline]
pub const fn acquires(order: Ordering) -> bool {
    matches!(order, Ordering::Acquire | Ordering::AcqRel | Ordering::SeqCst)
}

/// Whether `order` releases.
#[inline]
pub const fn releases(order: Ordering) -> bool {
    matches!(order, Ordering::Release | Ordering::AcqRel | Ordering::SeqCst)
}

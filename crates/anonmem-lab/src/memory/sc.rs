//! Sequential consistency: memory holds one value per word, and everybody sees it.
//!
//! The clocks still follow the orderings, so that a plain word which only a relaxed atomic "protects" is
//! reported as a race even here.

use super::{CpuViews, View, acquires};
use core::sync::atomic::Ordering;

/// A load of a word whose newest store carries `last`.
#[inline]
pub fn load(cpu: &mut CpuViews, last: &View, order: Ordering) {
    cpu.receive(last, order);
}

/// A store, which carries what it returns.
#[inline]
pub fn store(cpu: &CpuViews, order: Ordering) -> View {
    cpu.message(order)
}

/// A read-modify-write; it continues the release sequence of the store that it read.
#[inline]
pub fn rmw(cpu: &mut CpuViews, last: &View, order: Ordering, stored: bool) -> Option<View> {
    cpu.receive(last, order);
    stored.then(|| {
        let mut message = cpu.message(order);
        message.join(last);
        message
    })
}

/// A fence: under sequential consistency only its effect on clocks is left.
#[inline]
pub fn fence(cpu: &mut CpuViews, order: Ordering) {
    debug_assert!(acquires(order) || order == Ordering::Release);
    cpu.fence(order);
}

//! What the columns keep of a step: who made it, and what its object is called at that time.

use super::engine::Engine;
use crate::trace::{Action, Event};
use anonmem_sync::order;
use core::panic::Location;

impl Event {
    /// An event of the CPU that runs.
    pub(crate) fn new(
        e: &Engine,
        address: Option<usize>,
        order: &'static str,
        action: Action,
        at: &'static Location<'static>,
    ) -> Self {
        let held = &e.cpus[e.current].held;
        let held = held.entries[..held.len].iter().map(|h| order::name_of(h.0)).collect();
        let object = address.map(|a| e.names.name(a)).unwrap_or_default();
        let what = e.names.describe(address, &action);
        Self { cpu: e.current, order, action, at, held, address, object, what }
    }
}

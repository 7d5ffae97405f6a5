//! What was found out: what all forms of the result are made from.

use anonmem_lab::scale::model::Prices;
use anonmem_lab::scale::{LockMode, Op, Study};

/// What was found out, and the numbers that go with it.
pub(crate) struct Found {
    pub(crate) ops: Vec<&'static Op>,
    pub(crate) modes: Vec<LockMode>,
    pub(crate) study: Study,
    pub(crate) prices: Prices,
    /// Where the time of a transfer comes from.
    pub(crate) measured: bool,
}

//! The machine of the examples.

mod conformance;
mod threads;

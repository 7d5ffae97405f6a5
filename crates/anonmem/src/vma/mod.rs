//! Virtual memory areas.

pub mod tree;

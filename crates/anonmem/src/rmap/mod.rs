//! Reverse mapping: from a page to the places that map it.

pub mod interval_tree;

//! One use of a shared object does not become two without being counted.
#![forbid(unsafe_code)]

use anonmem::{Machine, SharedObject};

fn copy<M: Machine>(object: SharedObject<'_, M>) {
    drop(object);
    drop(object);
}

fn main() {}

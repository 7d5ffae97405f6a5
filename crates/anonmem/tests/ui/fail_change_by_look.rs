//! A look at a folio changes nothing: it owns no count.
#![forbid(unsafe_code)]

use anonmem::{Machine, SharedObject};

fn change<M: Machine>(object: &SharedObject<'_, M>) {
    let look = object.page_at(0).unwrap().folio();
    look.set_lazyfree();
    look.lock();
}

fn main() {}

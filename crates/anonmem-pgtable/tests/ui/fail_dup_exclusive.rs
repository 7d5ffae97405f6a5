//! fork may not copy an exclusive mapping: it must try to share it, and learn that it may be pinned.

use anonmem_frame::Exclusive;
use anonmem_hal::Machine;

fn copy<'f, M: Machine>(page: &Exclusive<'f, M>) -> Exclusive<'f, M> {
    page.clone()
}

fn main() {}

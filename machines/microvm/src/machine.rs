//! What the memory manager sees of this machine.

/// An address space of this kernel.
#[derive(Clone, Debug)]
pub struct Mm;

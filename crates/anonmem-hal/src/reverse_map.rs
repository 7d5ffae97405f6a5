//! The reverse maps that a machine may choose from, by name.
//!
//! The memory manager finds the entries that map a page by one of them. It gives the names their meaning; who
//! has no memory manager above chooses any.

/// Sets of VMAs: Linux's `anon_vma`.
#[derive(Debug)]
pub enum AnonVmas {}

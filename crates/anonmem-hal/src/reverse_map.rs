//! The reverse maps that a machine may choose from, by name.
//!
//! The memory manager finds the entries that map a page by one of them. It gives the names their meaning; who
//! has no memory manager above chooses any.

/// Sets of VMAs: Linux's `anon_vma`.
#[derive(Debug)]
pub enum AnonVmas {}

/// Families of address spaces, by labels: nothing for each VMA, one insertion for each fork.
#[derive(Debug)]
pub enum Families {}

/// Either of the two, as the memory manager is configured: for machines that test both.
#[derive(Debug)]
pub enum Either {}

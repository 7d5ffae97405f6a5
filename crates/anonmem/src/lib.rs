//! Anonymous memory management.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

pub mod rmap;
pub mod vma;

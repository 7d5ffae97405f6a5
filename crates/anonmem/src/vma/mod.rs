//! Virtual memory areas: what a range of an address space is for.
//!
//! A [`Vma`] lives in a type-stable slab. A slot may be freed and become another VMA, of another address
//! space, while somebody still looks at it. Its words are atomic for that reason, and what is decided from
//! them is decided under a lock that keeps the VMA, or decided again.
//!
//! - [`tree`]: the ordered map from addresses to VMAs.
//! - `reshape`, `split`, `merge`: a VMA changes its range, becomes two, two become one.
//! - `modify`: part of a VMA changes its attributes.
//!
//! - [`lock`]: the lock that a fault takes instead of the mmap lock.
//!
//! Locks: fields are written under the mmap lock for writing with the VMA write-locked (`VmaWrite`). Those
//! that rmap walks read (`start`, `end`, `pgoff`) are written also under the lock of its anon_vma's root.
//! `anon_vma` goes from none to some under the mmap lock for reading (`anon_vma_prepare`).
//!
//! Linux: include/linux/mm_types.h `struct vm_area_struct`.

pub(crate) mod compatible;
pub(crate) mod flags;
pub(crate) mod free;
pub(crate) mod lock;
pub(crate) mod merge;
mod modify;
pub(crate) mod refusal;
pub(crate) mod reshape;
pub(crate) mod seal;
mod split;
#[cfg(test)]
mod tests;
pub(crate) mod tree;
#[expect(clippy::module_inception, reason = "Linux's word for both the folder and the object")]
pub(crate) mod vma;

#[cfg(test)]
pub(crate) use {flags::VmFlags, refusal::Refusal, vma::Backing};

//! Reverse mapping: from a page to the entries that map it.
//!
//! - [`anon_vma`]: the sets of VMAs, and how fork, split and exit keep them.
//! - [`interval_tree`]: a set's VMAs by page index.
//! - [`folio`]: from a folio to the lock of its set, although the set may be gone.
//! - [`walk`]: every entry that maps a folio.
//!
//! A page that may be shared belongs to an anon_vma that every one of its mappers is linked to. Exclusive pages
//! belong to the anon_vma of the VMA that has them; fork shares a page without touching that, because the child is
//! linked to whatever the parent is linked to. A page that becomes exclusive again by reuse moves to the anon_vma of
//! its only mapper, which is younger. It never happens the other way round: a page that is shared is
//! never stamped with a younger anon_vma.

pub mod anon_vma;
pub mod folio;
pub mod interval_tree;
pub mod objects;
#[cfg(test)]
mod tests;
pub(crate) mod unmap;
pub mod walk;

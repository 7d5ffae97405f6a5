//! Reverse mapping: from a page to the entries that map it.
//!
//! - `reverse_map`: what the rest asks of a reverse map; `machine`: which one a machine has.
//! - `anon_vmas`: one of them, sets of VMAs; [`family`]: the other, labels of address spaces.
//! - `either`: one of the two, as a test chooses; `lab`: what the lab and the bench ask.
//! - [`anon_vma`]: the sets of VMAs, and how fork, split and exit keep them.
//! - [`interval_tree`]: a set's VMAs by page index.
//! - [`folio`]: from a folio to the lock of its set, although the set may be gone.
//! - [`walk`]: every entry that maps a folio; [`hit`]: one of them.
//! - [`ksm`]: the same for a page that was merged, and has entries in many families.
//! - [`referenced`], `unmap`: what is done with them.
//!
//! What follows is of sets of VMAs; docs/reverse-map.md compares the two.
//!
//! A page that may be shared belongs to an anon_vma that every one of its mappers is linked to. Exclusive
//! pages belong to the anon_vma of the VMA that has them. Fork shares a page without touching that, because
//! the child is linked to whatever the parent is linked to. A page that becomes exclusive again by reuse
//! moves to the anon_vma of its only mapper, which is younger. It never happens the other way round: a page
//! that is shared is never stamped with a younger anon_vma.

pub(crate) mod anon_vma;
pub(crate) mod anon_vmas;
pub(crate) mod either;
pub(crate) mod family;
pub(crate) mod folio;
pub(crate) mod hit;
pub(crate) mod interval_tree;
pub(crate) mod ksm;
pub(crate) mod lab;
pub(crate) mod machine;
pub(crate) mod objects;
pub(crate) mod referenced;
pub(crate) mod reverse_map;
#[cfg(test)]
mod tests;
pub(crate) mod unmap;
mod validate_anon_vmas;
pub(crate) mod walk;

/// The reverse map of a machine.
pub(crate) type Rmap<M> = <M as anonmem_hal::Machine>::ReverseMap;

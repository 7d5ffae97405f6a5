//! Large folios: which sizes a fault may take, what is counted, and how a folio is split.
//!
//! - `mode`, `policy`: the sizes that are allowed where, changed at run time; `words`: how that is said.
//! - `guesses`: what `auto` gave before it was touched.
//! - `stats`, `control`: what happened, for each size.
//! - `collapse`: small pages become a large folio; `khugepaged`: a background task that asks for it.
//! - `split`: a folio falls into smaller ones; those that are partly mapped go first when memory is short.
//! - The fault is `fault/huge.rs`. docs/folios.md has the whole picture.
//!
//! Linux: mm/huge_memory.c.

pub(crate) mod collapse;
pub(crate) mod control;
pub(crate) mod guesses;
pub(crate) mod khugepaged;
pub(crate) mod mode;
pub(crate) mod policy;
pub(crate) mod split;
pub(crate) mod stats;
#[cfg(test)]
mod tests;
pub(crate) mod words;

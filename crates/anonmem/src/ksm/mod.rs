//! Merging equal pages of programs that have said that they may be merged (KSM).
//!
//! ```text
//!   the hand over the frames (scan)
//!      │  whose is it? do they agree?          the reverse map says
//!      │  has its hash changed?                then it is left alone
//!      ▼
//!   an equal page is known? ─┬─ a stable one ──▶ its entries get that one            (merge)
//!                            ├─ a candidate  ──▶ one becomes stable, the other goes  (merge)
//!                            └─ no           ──▶ it waits for one                    (candidates)
//! ```
//!
//! - `settings`, `state`: what KSM is told, and what it remembers.
//! - `scan`: the hand. `candidates`: pages that wait for an equal one, in a table that forgets.
//! - `large`: folios that are split because that saves more than it costs.
//! - `stable`, [`node`], `places`: pages that others were merged into, and where their mappers are found.
//! - `merge`: the protocol by which entries get another page. `batch`: several of them, under one flush.
//! - `unmerge`: consent, and taking it back. `usage`: what was saved.
//!
//! A merged page is shared and read-only, in all of its entries, and is never reused. A write to it copies,
//! even if nobody else has it any more. docs/ksm.md has the whole picture.
//!
//! Linux: mm/ksm.c. Differs: hashes instead of trees, frames instead of address spaces, and merge domains.

mod batch;
mod candidates;
mod large;
mod merge;
pub(crate) mod node;
mod places;
pub(crate) mod scan;
pub(crate) mod settings;
mod stable;
pub(crate) mod state;
pub(crate) mod unmerge;
pub(crate) mod usage;

#[cfg(test)]
mod tests;

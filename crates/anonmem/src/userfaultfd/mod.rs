//! userfaultfd: a program fills, protects and moves pages itself.
//!
//! - [`context`]: what a userfaultfd is made of; `queue`: messages come, are read, are answered.
//! - `fault`: faults that wait. `events`: changes that are told.
//! - `register`: which memory is watched. `copy`: fills. `poison`: fills that are none. `wp`: write
//!   protection. `move_pages`: a page goes to another address; `move_large`: a large folio.
//!
//! docs/userfaultfd.md says what a program may rely on.
//!
//! Linux: fs/userfaultfd.c, mm/userfaultfd.c.

pub(crate) mod context;
mod copy;
pub(crate) mod events;
pub(crate) mod fault;
mod move_large;
mod move_pages;
mod poison;
mod queue;
mod register;
#[cfg(test)]
mod tests;
mod wp;

pub use context::{UffdFault, UffdFaults, UffdFeatures, UffdReason};
pub use copy::{FillMode, Filled};
pub use move_pages::MoveMode;
pub use register::{RegisterMode, Uffd, UffdFork, UffdMessage};
pub use wp::ProtectMode;
pub(crate) use wp::is_protected;

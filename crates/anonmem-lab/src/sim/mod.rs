//! The simulated machine: the production code runs on it unchanged, and the explorer decides what happens.
//!
//! [`Sim`] is a machine (`machine`) whose probe hands every shared access to the explorer of the thread. Its
//! CPUs are coroutines; its frames are a small arena (`arena`, [`phys`]); each CPU has a TLB whose entries
//! stay until they are flushed (`translations`, [`tlb`]); sleeping and waking are steps ([`sched`]); so are
//! transfers of swap devices (`slots`, [`swap`]).
//!
//! The environment's choices ([`choose`]) are explored like schedules.

mod arena;
mod broken;
mod chance;
mod listed;
mod machine;
pub mod phys;
pub mod probe;
pub mod sched;
mod slots;
pub mod swap;
pub mod tlb;
mod translations;

pub use chance::choose;
pub(crate) use chance::misfortune;
pub use machine::Sim;
pub use probe::SimProbe;
pub use tlb::{Access, Trap};

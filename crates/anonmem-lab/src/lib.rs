//! The lab: every interleaving of the production code, and the columns when a rule breaks.
//!
//! A [`Scenario`] builds a world, gives each CPU something to do with it, and checks it at the end. The
//! code that the CPUs run is production code, typed by the simulated machine [`Sim`]: every access to shared
//! state comes here first, and [`explore`] decides who goes next and, under [`Model::C11`], which value a
//! load returns. `docs/lab.md` tells how to write a case for your own protocol, and what a verdict means.
//!
//! - [`explorer`]: the searches, replay and minimisation.
//! - [`memory`]: the memory models.
//! - [`scenario`], [`snapshot`]: worlds, and how they get back to their beginning.
//! - [`sim`]: the simulated machine.
//! - [`trace`], [`names`]: the columns, and what addresses are called in them.
//! - [`litmus`], [`selfcheck`]: what the explorer is trusted for.
//! - [`cases`]: the catalogue.
//! - [`scale`]: which operations that commute conflict all the same, by cache line.
//!
//! `unsafe` is allowed here: coroutines, an arena, and worlds that are copied back.

mod accesses;
pub mod cases;
pub mod explorer;
mod fold;
pub mod limits;
pub mod litmus;
pub mod memory;
pub mod names;
mod observe;
pub mod scale;
pub mod scenario;
pub mod selfcheck;
pub mod sim;
pub mod snapshot;
pub mod trace;

pub use explorer::{
    Exploration, Failure, FailureKind, Found, Inject, Report, Search, explore, explore_bounded, replay,
    representative,
};
pub use memory::Model;
pub use names::{Named, Names};
pub use scenario::{Program, Scenario};
pub use sim::{Sim, choose};
pub use snapshot::{Region, Touched, Watch};
pub use trace::Trace;

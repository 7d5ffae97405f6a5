//! The experiments: one file each, both sides next to one another so that they can be compared by eye.

mod churn;
mod collapse_wait;
mod crowd;
mod experiment;
mod fault;
mod footprint;
mod fork;
mod limits;
pub(crate) mod lookup;
mod metadata;
mod moving;
mod pins;
mod populate;
mod protect;
mod remap;
mod setup;
mod swap;
mod threads;
mod userfault;
mod vma;

pub use experiment::{Experiment, HostSide, OurSide, PeerSide};

/// All of them, in the order in which they run.
pub const EXPERIMENTS: &[Experiment] = &[
    limits::EXPERIMENT,
    populate::EXPERIMENT,
    fault::EXPERIMENT,
    threads::EXPERIMENT,
    churn::EXPERIMENT,
    crowd::EXPERIMENT,
    vma::EXPERIMENT,
    fork::EXPERIMENT,
    protect::EXPERIMENT,
    remap::EXPERIMENT,
    pins::EXPERIMENT,
    userfault::EXPERIMENT,
    swap::EXPERIMENT,
    moving::EXPERIMENT,
    collapse_wait::EXPERIMENT,
    lookup::EXPERIMENT,
    metadata::EXPERIMENT,
    footprint::EXPERIMENT,
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::{self, ROWS};

    #[test]
    fn every_row_is_filled_by_one_experiment() {
        for row in ROWS {
            assert_eq!(EXPERIMENTS.iter().filter(|e| e.rows.contains(&row.id)).count(), 1, "{}", row.id);
        }
        for id in EXPERIMENTS.iter().flat_map(|e| e.rows) {
            assert!(rows::find(id).is_some(), "{id}");
        }
    }
}

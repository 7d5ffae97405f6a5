//! What an experiment is: up to three sides that fill a few rows.

use crate::{
    host::{Folios, folios},
    outcome::{Bench, Samples},
    rows::Row,
};
use std::io;

/// Does our side's work once.
pub type OurSide = fn(&Bench, &mut Samples);
/// Does the host's side's work once, in memory of folios of that size.
pub type HostSide = fn(&Bench, &mut Samples, Folios) -> io::Result<()>;

/// Does the Rust peer's work once.
pub type PeerSide = fn(&Bench, &mut Samples);

/// A few rows that share their setup.
pub struct Experiment {
    /// Its name, for the progress bar.
    pub name: &'static str,
    /// The rows that it fills.
    pub rows: &'static [&'static str],
    /// CPUs that it needs.
    pub threads: usize,
    /// Does our side's work once.
    pub ours: Option<OurSide>,
    /// Does the host's side's work once.
    pub host: Option<HostSide>,
    /// Does the Rust peer's work once.
    pub peer: Option<PeerSide>,
    /// The sizes of the host's folios that make a difference to these rows.
    pub folios: &'static [Folios],
    /// The sizes of ours that do, beside base pages.
    pub ours_large: &'static [Folios],
}

impl Experiment {
    /// One of one thread in base pages, that nobody takes part in: what others say only what differs from.
    pub(super) const NONE: Self = Self {
        name: "",
        rows: &[],
        threads: 1,
        ours: None,
        host: None,
        peer: None,
        folios: folios::BASE,
        ours_large: &[],
    };

    /// Whether any of `rows` is one of its own, or has its limit or its aim in it.
    pub fn is_needed_for(&self, rows: &[&Row]) -> bool {
        rows.iter().any(|row| {
            self.rows.contains(&row.id) || row.limit.is_some_and(|limit| self.rows.contains(&limit.row()))
        })
    }
}

//! The command line of `anonmem bench`.

use crate::host::Folios;
use clap::{Args, ValueEnum};
use std::path::PathBuf;

/// Options of `anonmem bench`.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Rows to measure, by name or part of one (default: all)
    #[arg(value_name = "ROW")]
    pub rows: Vec<String>,

    /// What to measure beside anonmem
    #[arg(long, value_enum, default_value_t = Against::All)]
    pub against: Against,

    /// Sizes of folios to measure, ours and the host's; for the host's large ones,
    /// /sys/kernel/mm/transparent_hugepage is set, and put back
    #[arg(long, value_enum, value_name = "SIZE", value_delimiter = ',', default_value = "4K,64K,2M")]
    pub folios: Vec<Folios>,

    /// Samples of each side of each row, after one that warms up
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub runs: u32,

    /// Compare with an earlier result of --json: each row beside what it was, and whether the spreads overlap
    #[arg(long, value_name = "FILE")]
    pub baseline: Option<PathBuf>,

    /// Write everything, samples included, as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,

    /// Write the table as CSV
    #[arg(long, value_name = "FILE")]
    pub csv: Option<PathBuf>,

    /// Write a figure: the ratio to the host of each row
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,

    /// Write the table for a document: into FILE between its marks, if it has them; "-" prints it instead of
    /// the table
    #[arg(long, value_name = "FILE")]
    pub markdown: Option<PathBuf>,

    /// How anonmem finds what maps a page
    #[arg(long, value_enum, default_value_t = Rmap::AnonVma)]
    pub rmap: Rmap,

    /// Instead of rows: what each reverse map costs, and a model of the one that Linux has been proposed, in
    /// bytes, steps and nanoseconds, as a table for a document
    #[arg(long)]
    pub rmap_study: bool,

    /// List the rows and what each side of them does, and measure nothing
    #[arg(long)]
    pub list: bool,
}

/// A reverse map. Each is a bench of its own, because a machine names one by a type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Rmap {
    /// Sets of VMAs
    #[value(name = "anon_vma")]
    AnonVma,
    /// Families of address spaces, by labels
    Family,
}

/// The peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Against {
    /// Both peers below
    All,
    /// The Linux kernel of this machine
    Host,
    /// A Rust peer: memory_set with page_table_multiarch
    Rust,
    /// Nobody: only anonmem and the physical limit
    None,
}

impl Against {
    /// Whether the host's kernel is measured.
    pub fn has_host(self) -> bool {
        matches!(self, Self::All | Self::Host)
    }

    /// Whether the Rust peer is measured.
    pub fn has_peer(self) -> bool {
        matches!(self, Self::All | Self::Rust)
    }
}

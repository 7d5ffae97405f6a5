//! anonmem measured: beside the host's Linux on the same work, and beside the physical limit.
//!
//! A *row* is one kind of work (`rows.rs`). An *experiment* fills a few rows that share their setup. It has
//! up to three sides, each a function that does the work once and tells how long it took:
//!
//! | side | what runs | where |
//! |---|---|---|
//! | ours | the library, hosted in this process: page tables in memory, folios really zeroed and copied | `ours/` |
//! | host | system calls and page faults of the kernel that this process runs on | `host/` |
//! | limit | zeroing or copying the same bytes in the same memory | `ours/limit.rs` |
//!
//! The sides take turns, run after run (`run.rs`), so that what disturbs the machine disturbs all of them;
//! ratios are made run by run. Reports say what each side includes and leaves out (`report/`). What does not
//! jitter is counted in instructions, under callgrind (`instructions/`).

pub mod clock;
pub mod experiments;
pub mod host;
pub mod instructions;
pub mod options;
pub mod ours;
pub mod outcome;
pub mod peer;
pub mod report;
pub mod rmap_study;
pub mod rows;
pub mod run;
pub mod series;

pub use options::Options;
pub use run::{Error, Trust, bench};

/// Bytes of a base page.
pub const PAGE: usize = 4096;
/// Bytes that most rows work on: far more than any cache holds.
pub const REGION: usize = 256 << 20;
/// Base pages of a [`REGION`].
pub const REGION_PAGES: usize = REGION / PAGE;

//! What all boots of a measurement have in common, and what comes out of them.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use anonmem_bench::host::load::Load;
use indicatif::ProgressBar;

use super::image::Image;
use super::kinds::Work;
use super::options::Clock;
use super::transcript::Transcript;
use crate::channel::signals::Signals;
use crate::error::{Error, Result};
use crate::values::{Folios, Lock, Rmap};
use crate::vm::qemu::{self, Accelerator};

/// How long a kernel may take until the program speaks.
pub(super) const BOOT_LIMIT: Duration = Duration::from_secs(120);

/// What all boots have in common.
pub(super) struct Setup {
    pub(super) qemu: PathBuf,
    pub(super) microvm: PathBuf,
    pub(super) image: Option<Image>,
    pub(super) program: PathBuf,
    /// Temporary files; each boot makes its own directory in it.
    pub(super) dir: tempfile::TempDir,
    pub(super) accelerator: Accelerator,
    pub(super) ram: u64,
    pub(super) lock: Lock,
    pub(super) rmap: Rmap,
    pub(super) folios: Folios,
    pub(super) signals: Signals,
    pub(super) bar: ProgressBar,
}

/// Which kernel a boot is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Ours,
    Linux,
}

/// What was found out.
pub(super) struct Outcome {
    pub(super) machine: String,
    pub(super) qemu: String,
    pub(super) accelerator: Accelerator,
    pub(super) memory_mib: u64,
    pub(super) cpus: u32,
    pub(super) lock: Lock,
    pub(super) rmap: Rmap,
    pub(super) folios: Folios,
    pub(super) image: Option<Image>,
    pub(super) runs: u32,
    /// One transcript a boot, in turns: ours, and Linux's if there is one.
    pub(super) timed: Vec<(Transcript, Option<Transcript>)>,
    pub(super) counted: (Transcript, Option<Transcript>),
    pub(super) seconds: f64,
    /// What others did meanwhile.
    pub(super) load: Load,
}

impl Setup {
    pub(super) fn accelerator(&self, clock: Clock) -> Accelerator {
        match clock {
            Clock::Time => self.accelerator,
            Clock::Instructions => Accelerator::Counted,
        }
    }
}

/// How long a boot may take altogether: translated and counted, a millisecond of the guest may take many.
pub(super) fn limit(work: &Work) -> Duration {
    BOOT_LIMIT + Duration::from_millis((work.window_ms + work.warm_ms) * work.rows() * 50)
}

/// Memory of each guest's machine: what the microVM needs, so that both have the same.
pub(super) fn memory_mib(setup: &Setup) -> Result<u64> {
    let program = setup.program.metadata().map_err(|e| on_host("cannot read the program", &e))?;
    Ok(qemu::memory_mib(setup.ram, program.len()))
}

pub(super) fn on_host(what: &str, error: &io::Error) -> Error {
    Error::usage(format_args!("{what}: {error}"))
}

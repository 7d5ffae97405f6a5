//! The options of `anonmem bench --guest`.

use std::path::PathBuf;

use clap::Args;

use super::image::{self, Image};
use crate::error::Result;
use crate::size::parse_ram;
use crate::values::{Accel, Folios, Lock, parse_folios, parse_seconds};

/// Options of `anonmem bench` that go with `--guest`.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "In a guest")]
pub struct GuestOptions {
    /// Measure in the microVM instead: will-it-scale's kinds of work by 1 to N threads and processes
    #[arg(long)]
    pub guest: bool,

    /// A Linux kernel to do the same beside it, in the same QEMU: a bzImage (/boot/vmlinuz-*) or an ELF
    /// vmlinux with a PVH entry
    #[arg(long, value_name = "VMLINUZ", requires = "guest")]
    pub kernel: Option<PathBuf>,

    /// More words for that kernel's command line, for example mitigations=off
    #[arg(long, value_name = "WORDS", requires = "kernel", allow_hyphen_values = true)]
    pub kernel_args: Option<String>,

    /// Memory of each guest
    #[arg(long, value_name = "SIZE", default_value = "256M", value_parser = parse_ram, requires = "guest")]
    pub ram: u64,

    /// CPUs of each guest, and the most tasks
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64), requires = "guest")]
    pub cpus: u32,

    /// Seconds that a row is measured in each run, after a fifth of it to warm up
    #[arg(long, value_name = "SECONDS", default_value = "0.25", value_parser = parse_seconds, requires = "guest")]
    pub seconds: f64,

    /// How the microVM keeps page faults apart from changes of the mappings
    #[arg(long, value_enum, default_value_t = Lock::Mmap, requires = "guest")]
    pub lock: Lock,

    /// The largest folios that page faults take: 4K, 64K, 2M, auto, or a list. The Linux kernel gets the same
    /// sizes, if it knows them (2M; from 6.12 on all), but for auto, which is its own default there
    // Not `folios`: that is the host's in the same command.
    #[arg(long, value_name = "SIZE|auto|LIST", default_value = "4K", value_parser = parse_folios, requires = "guest")]
    pub guest_folios: Folios,

    /// How the CPUs are made while time is measured; instructions are always counted by QEMU's translator
    #[arg(long, value_enum, default_value_t = Accel::Auto, requires = "guest")]
    pub accel: Accel,

    /// The microVM kernel to boot
    #[arg(long = "microvm-kernel", value_name = "PATH", env = "ANONMEM_KERNEL", hide = true)]
    pub microvm: Option<PathBuf>,

    /// The QEMU to boot it with
    #[arg(long, value_name = "PATH", env = "ANONMEM_QEMU", hide = true)]
    pub qemu: Option<PathBuf>,
}

/// What a guest's time stamp counter counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Clock {
    /// Time, on as many CPUs as asked for.
    Time,
    /// Instructions, on one CPU.
    Instructions,
}

impl GuestOptions {
    /// The Linux kernel that is named, if it is one.
    pub(super) fn image(&self) -> Result<Option<Image>> {
        let words = [self.guest_folios.on_linux(), self.kernel_args.clone()];
        let arguments = words.into_iter().flatten().collect::<Vec<_>>().join(" ");
        self.kernel.as_deref().map(|path| image::read(path, &arguments)).transpose()
    }
}

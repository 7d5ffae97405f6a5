//! What machine this is, as a reader of the table needs to know it.

use serde::Serialize;
use std::{fs, path::Path};

/// The machine and its kernel.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Machine {
    /// The processor's name.
    pub cpu: String,
    /// CPUs that the bench may use.
    pub cpus: usize,
    /// RAM in MiB.
    pub ram_mib: u64,
    /// Whether it is a virtual machine.
    pub virtual_machine: bool,
    /// The kernel's release.
    pub kernel: String,
    /// Mitigations that are not "Not affected", as /sys/devices/system/cpu/vulnerabilities has them.
    pub mitigations: Vec<Mitigation>,
    /// /sys/kernel/mm/transparent_hugepage/enabled.
    pub transparent_hugepages: String,
    /// The compiler that built this program.
    pub rustc: String,
}

/// What the kernel does about one weakness of the processor.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Mitigation {
    /// The weakness.
    pub of: String,
    /// What is done.
    pub how: String,
}

impl Machine {
    /// Asks /proc and /sys.
    pub fn describe(cpus: usize) -> Self {
        let cpuinfo = read("/proc/cpuinfo");
        let field = |name: &str| {
            cpuinfo
                .lines()
                .find(|line| line.starts_with(name))
                .and_then(|line| line.split_once(':'))
                .map(|(_, value)| value.trim().to_string())
        };
        let flags = field("flags").unwrap_or_default();
        Self {
            cpu: field("model name").unwrap_or_else(|| "unknown processor".into()),
            cpus,
            ram_mib: ram_mib(),
            virtual_machine: flags.split(' ').any(|flag| flag == "hypervisor"),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_string(),
            mitigations: mitigations(),
            transparent_hugepages: read("/sys/kernel/mm/transparent_hugepage/enabled").trim().to_string(),
            rustc: env!("ANONMEM_RUSTC").to_string(),
        }
    }

    /// One line: processor, CPUs, kernel.
    pub fn line(&self) -> String {
        let kind = if self.virtual_machine { ", in a virtual machine" } else { "" };
        let Self { cpu, cpus, ram_mib, kernel, .. } = self;
        format!("{cpu}, {cpus} CPUs, {} GiB{kind}; Linux {kernel}", ram_mib.div_ceil(1024))
    }
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn ram_mib() -> u64 {
    let meminfo = read("/proc/meminfo");
    let line = meminfo.lines().find(|line| line.starts_with("MemTotal:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)).and_then(|n| n.parse::<u64>().ok());
    kib.unwrap_or(0) / 1024
}

fn mitigations() -> Vec<Mitigation> {
    let Ok(entries) = fs::read_dir("/sys/devices/system/cpu/vulnerabilities") else { return Vec::new() };
    let mut all: Vec<_> = entries
        .filter_map(Result::ok)
        .map(|entry| Mitigation {
            of: entry.file_name().to_string_lossy().into_owned(),
            how: read(entry.path()).trim().to_string(),
        })
        .filter(|found| !found.how.is_empty() && found.how != "Not affected")
        .collect();
    all.sort();
    all
}

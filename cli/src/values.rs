//! What options can be set to: the values that several modules know, and how each is read.
//!
//! [`crate::args`] has the options. The rest of the command takes values, and never needs to know which
//! option they came from.

use std::ffi::OsString;
use std::path::PathBuf;

use anonmem::{FolioMode, FolioPolicy, MAX_FOLIO_ORDER};
use anonmem_hal::Order;
use clap::ValueEnum;

/// How the guest's CPUs are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Accel {
    /// KVM if it boots, else TCG
    Auto,
    /// QEMU's translator: works everywhere
    Tcg,
    /// The processor's own virtualisation
    Kvm,
}

/// What swap space is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SwapBackend {
    /// Compressed memory: part of --ram holds the compressed pages
    Lz4,
    /// A file of the host, as a disk of the microVM
    Disk,
}

impl SwapBackend {
    /// The back end's name, as the kernel reads it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Lz4 => "lz4",
            Self::Disk => "disk",
        }
    }
}

/// How page faults are kept apart from changes of the mappings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Lock {
    /// One lock for the address space
    Mmap,
    /// A lock for each mapping, the one above as a fallback
    Vma,
    /// No lock until the end, the two above as fallbacks
    #[value(alias = "spec")]
    Speculative,
}

impl Lock {
    /// The mode's name, as the kernel reads and reports it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Mmap => "mmap",
            Self::Vma => "vma",
            Self::Speculative => "speculative",
        }
    }
}

/// How the memory manager finds what maps a page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Rmap {
    /// Sets of mappings, as Linux has them
    #[default]
    #[value(name = "anon_vma")]
    AnonVma,
    /// Families of address spaces, by labels
    Family,
}

impl Rmap {
    /// The reverse map's name, as the kernel reads and reports it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::AnonVma => "anon_vma",
            Self::Family => "family",
        }
    }
}

/// How the memory bill is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BillFormat {
    /// A table for people
    Text,
    /// One JSON object
    Json,
    /// A page with the run over time: memory, swap, faults, folios; into --bill-file
    Html,
    /// Not at all
    None,
}

/// One `--file`: what to pack and where it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileMapping {
    /// The file or directory on the host.
    pub host: PathBuf,
    /// Its absolute path in the guest; the host's own absolute path if not given.
    pub guest: Option<PathBuf>,
}

/// Reads a variable of the environment, K=V.
pub(crate) fn parse_env(text: &str) -> Result<OsString, String> {
    match text.split_once('=') {
        Some((name, _)) if !name.is_empty() => Ok(text.into()),
        _ => Err(format!("\"{text}\" is not K=V; write for example --env DEBUG=1")),
    }
}

/// Reads a file of the host and where it goes, HOST[:GUEST].
pub(crate) fn parse_file(text: &str) -> Result<FileMapping, String> {
    let (host, guest) = match text.rsplit_once(':') {
        Some((host, guest)) => (host, Some(parse_guest_path(guest)?)),
        None => (text, None),
    };
    if host.is_empty() {
        return Err(format!("\"{text}\" names no file of the host; write HOST or HOST:GUEST"));
    }
    Ok(FileMapping { host: host.into(), guest })
}

/// Reads an absolute path in the guest.
pub(crate) fn parse_guest_path(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if !path.is_absolute() {
        return Err(format!("\"{text}\" is not an absolute path in the guest"));
    }
    Ok(path)
}

/// The sizes of folios, as the kernel reads them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folios(String);

impl Folios {
    /// Single pages.
    #[must_use]
    pub fn none() -> Self {
        Self("4K".into())
    }

    /// The words.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The words of Linux's command line that give the same sizes: none for single pages, which the program
    /// asks for itself, and none for `auto`, which Linux does not have. Kernels before 6.12 know only the
    /// size of a leaf.
    #[must_use]
    pub fn on_linux(&self) -> Option<String> {
        let policy: FolioPolicy = self.0.parse().ok().filter(|_| *self != Self::none())?;
        let mode = |order: u8| match policy.mode(Order::new(order)) {
            FolioMode::Inherit => policy.mode(Order::ZERO),
            own @ (FolioMode::Never | FolioMode::Madvise | FolioMode::Always | FolioMode::Auto) => own,
        };
        // Linux has no folios of two pages there.
        let sizes = (2..=MAX_FOLIO_ORDER).map(|order| (4 << order, mode(order)));
        if sizes.clone().any(|(_, mode)| mode == FolioMode::Auto) {
            return None;
        }
        let list: Vec<_> = sizes.map(|(kib, mode)| format!("{kib}K:{}", mode.word())).collect();
        Some(format!("transparent_hugepage={} thp_anon={}", mode(MAX_FOLIO_ORDER).word(), list.join(";")))
    }
}

/// Reads the value of `--folios`.
pub(crate) fn parse_folios(text: &str) -> Result<Folios, String> {
    match text.parse::<FolioPolicy>() {
        Ok(_) => Ok(Folios(text.to_string())),
        Err(why) => Err(format!("{why}; write 4K, 64K, 2M, auto, or a list: 16K-64K:always;2M:madvise")),
    }
}

/// Reads a number of seconds above zero.
pub(crate) fn parse_seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if seconds > 0.0 && seconds < 1e9 => Ok(seconds),
        _ => Err(format!("\"{text}\" is not a number of seconds above zero")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linux_gets_the_same_sizes() {
        let on_linux = |text: &str| parse_folios(text).unwrap().on_linux();
        assert_eq!((on_linux("4K"), on_linux("auto")), (None, None));
        let up_to_64k = "transparent_hugepage=never thp_anon=16K:always;32K:always;64K:always;128K:never;\
                         256K:never;512K:never;1024K:never;2048K:never";
        assert_eq!(on_linux("64K").as_deref(), Some(up_to_64k));
        let all = on_linux("2M").unwrap();
        assert!(all.starts_with("transparent_hugepage=always ") && all.ends_with(";2048K:always"), "{all}");
    }
}

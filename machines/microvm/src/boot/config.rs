//! What boot itself wants to know from the archive: how much memory programs get, and how it is checked.
//!
//! The archive's first entry, `.anonmem/run`, holds NUL-terminated `key=value` records.

use anonmem::{FolioPolicy, LockMode, ReverseMapChoice};
use anonmem_oslib::cpio::Archive;

const RUN_FILE: &[u8] = b".anonmem/run";

/// Whether freed frames are filled with a pattern, which is checked when they are used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Poison {
    /// They are.
    On,
    /// They keep their bytes until somebody takes them.
    Off,
}

/// What boot takes from the run description.
#[derive(Debug, Clone, Copy)]
pub struct BootConfig {
    /// `ram=`, in bytes.
    pub ram: Option<u64>,
    /// `poison=`.
    pub poison: Poison,
    /// `lock=`: `mmap`, `vma` or `spec`.
    pub lock_mode: LockMode,
    /// `rmap=`: `anon_vma` or `family`.
    pub reverse_map: ReverseMapChoice,
    /// `nodes=`: how many nodes memory has; without it, one.
    pub nodes: u32,
    /// `folios=`: a policy in words; without it, `auto`.
    pub folios: FolioPolicy,
}

impl BootConfig {
    /// Reads the archive's first entry.
    pub fn read(archive: &[u8]) -> BootConfig {
        let first = Archive::new(archive).next().and_then(Result::ok);
        let text = first.filter(|entry| entry.name == RUN_FILE).map_or(&[][..], |entry| entry.data);
        let poison = if value(text, b"poison=") == Some("1") { Poison::On } else { Poison::Off };
        let lock_mode = match value(text, b"lock=") {
            Some("vma") => LockMode::Vma,
            Some("spec" | "speculative") => LockMode::Speculative,
            _ => LockMode::Mmap,
        };
        let reverse_map = match value(text, b"rmap=") {
            Some("family") => ReverseMapChoice::Families,
            _ => ReverseMapChoice::AnonVmas,
        };
        let folios = value(text, b"folios=").and_then(|words| words.parse().ok());
        let folios = folios.or_else(|| "auto".parse().ok()).unwrap_or_default();
        let nodes = value(text, b"nodes=").and_then(|nodes| nodes.parse().ok()).unwrap_or(1);
        BootConfig {
            ram: value(text, b"ram=").and_then(|ram| ram.parse().ok()),
            poison,
            lock_mode,
            reverse_map,
            nodes,
            folios,
        }
    }
}

fn value<'a>(text: &'a [u8], key: &[u8]) -> Option<&'a str> {
    let value = text.split(|b| *b == 0).find_map(|record| record.strip_prefix(key))?;
    core::str::from_utf8(value).ok()
}

//! What boot itself wants to know from the archive: how much memory programs get, and how it is checked.
//!
//! The archive's first entry, `.anonmem/run`, holds NUL-terminated `key=value` records.

const NEWC_MAGIC: &[u8] = b"070701";
const HEADER: usize = 110;

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
pub struct Config {
    /// `ram=`, in bytes.
    pub ram: Option<u64>,
    /// `poison=`.
    pub poison: Poison,
}

impl Config {
    /// Reads the archive's first entry.
    pub fn read(archive: &[u8]) -> Config {
        let text = first_entry(archive).unwrap_or_default();
        let poison = if value(text, b"poison=") == Some("1") { Poison::On } else { Poison::Off };
        Config { ram: value(text, b"ram=").and_then(|ram| ram.parse().ok()), poison }
    }
}

fn value<'a>(text: &'a [u8], key: &[u8]) -> Option<&'a str> {
    let value = text.split(|b| *b == 0).find_map(|record| record.strip_prefix(key))?;
    core::str::from_utf8(value).ok()
}

/// The bytes of the first entry, if it is the run description.
fn first_entry(archive: &[u8]) -> Option<&[u8]> {
    if !archive.starts_with(NEWC_MAGIC) {
        return None;
    }
    let size = hex(archive.get(54..62)?)?;
    let name_size = hex(archive.get(94..102)?)?;
    let name = archive.get(HEADER..HEADER + name_size)?;
    if name.strip_suffix(b"\0")? != b".anonmem/run" {
        return None;
    }
    let data = (HEADER + name_size).next_multiple_of(4);
    archive.get(data..data + size)
}

fn hex(digits: &[u8]) -> Option<usize> {
    usize::from_str_radix(core::str::from_utf8(digits).ok()?, 16).ok()
}

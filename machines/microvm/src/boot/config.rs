//! The one thing that boot wants to know from the archive: how much memory programs get.
//!
//! The archive's first entry, `.anonmem/run`, holds NUL-terminated `key=value` records.

const NEWC_MAGIC: &[u8] = b"070701";
const HEADER: usize = 110;

/// The value of `ram=`, in bytes.
pub fn ram_bytes(archive: &[u8]) -> Option<u64> {
    let text = first_entry(archive)?;
    let value = text.split(|b| *b == 0).find_map(|record| record.strip_prefix(b"ram="))?;
    core::str::from_utf8(value).ok()?.trim().parse().ok()
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

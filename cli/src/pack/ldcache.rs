//! `/etc/ld.so.cache`: which file the dynamic loader takes for a library's name.
//!
//! The format is glibc's "new" one (elf/cache.c, `struct cache_file_new`), alone or behind the old one.
//! Entries for special processors (glibc-hwcaps) are left out: the guest's CPU may lack what they use.

use std::collections::HashMap;
use std::path::PathBuf;

const MAGIC: &[u8] = b"glibc-ld.so.cache1.1";
const OLD_MAGIC: &[u8] = b"ld.so-1.7.0\0";
const HEADER_LEN: usize = 48;
const ENTRY_LEN: usize = 24;
/// `FLAG_ELF_LIBC6 | FLAG_X8664_LIB64`.
const FLAGS_X86_64: u32 = 0x0303;

/// Reads the names and files of a cache; what cannot be understood counts as not there.
#[must_use]
pub fn parse(bytes: &[u8]) -> HashMap<String, PathBuf> {
    let mut names = HashMap::new();
    let Some(bytes) = new_format(bytes) else {
        return names;
    };
    let Some(count) = u32_at(bytes, 20) else {
        return names;
    };
    for n in 0..count as usize {
        let entry = HEADER_LEN + n * ENTRY_LEN;
        let fields = (
            u32_at(bytes, entry),
            u32_at(bytes, entry + 4),
            u32_at(bytes, entry + 8),
            u32_at(bytes, entry + 16),
            u32_at(bytes, entry + 20),
        );
        let (Some(flags), Some(key), Some(value), Some(hwcap_low), Some(hwcap_high)) = fields else {
            break;
        };
        if flags != FLAGS_X86_64 || hwcap_low != 0 || hwcap_high != 0 {
            continue;
        }
        if let (Some(name), Some(path)) = (text_at(bytes, key), text_at(bytes, value)) {
            names.entry(name.to_string()).or_insert_with(|| PathBuf::from(path));
        }
    }
    names
}

fn new_format(bytes: &[u8]) -> Option<&[u8]> {
    if bytes.starts_with(MAGIC) {
        return Some(bytes);
    }
    if !bytes.starts_with(OLD_MAGIC) {
        return None;
    }
    let count = u32_at(bytes, OLD_MAGIC.len())? as usize;
    let at = (OLD_MAGIC.len() + 4).checked_add(count.checked_mul(12)?)?.next_multiple_of(8);
    bytes.get(at..).filter(|rest| rest.starts_with(MAGIC))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes)
}

fn text_at(bytes: &[u8], at: u32) -> Option<&str> {
    let rest = bytes.get(at as usize..)?;
    std::str::from_utf8(rest.split(|b| *b == 0).next()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::path::Path;

    fn cache(entries: &[(&str, &str, u32, u64)]) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend((entries.len() as u32).to_le_bytes());
        out.resize(HEADER_LEN, 0);
        let mut strings = Vec::new();
        let base = HEADER_LEN + ENTRY_LEN * entries.len();
        for (name, path, flags, hwcap) in entries {
            let key = base + strings.len();
            strings.extend(format!("{name}\0").bytes());
            let value = base + strings.len();
            strings.extend(format!("{path}\0").bytes());
            for field in [*flags, key as u32, value as u32, 0] {
                out.extend(field.to_le_bytes());
            }
            out.extend(hwcap.to_le_bytes());
        }
        out.extend(strings);
        out
    }

    #[test]
    fn plain_x86_64_entries_count() {
        let bytes = cache(&[
            ("libx.so.1", "/lib32/libx.so.1", 0x0803, 0),
            ("libx.so.1", "/lib/glibc-hwcaps/x86-64-v3/libx.so.1", 0x0303, 1 << 62),
            ("libx.so.1", "/lib/libx.so.1", 0x0303, 0),
            ("libx.so.1", "/second/libx.so.1", 0x0303, 0),
        ]);
        let names = parse(&bytes);
        assert_eq!(names.len(), 1);
        assert_eq!(names["libx.so.1"], Path::new("/lib/libx.so.1"));

        let mut old = OLD_MAGIC.to_vec();
        old.extend(1_u32.to_le_bytes());
        old.extend([0; 12]);
        old.resize(old.len().next_multiple_of(8), 0);
        old.extend(&bytes);
        assert_eq!(parse(&old), names);
    }

    #[test]
    fn a_cut_cache_is_a_shorter_cache() {
        let bytes = cache(&[("a.so", "/a.so", FLAGS_X86_64, 0), ("b.so", "/b.so", FLAGS_X86_64, 0)]);
        for len in 0..bytes.len() {
            assert!(parse(&bytes[..len]).len() <= 2);
        }
    }

    proptest! {
        #[test]
        fn damage_is_survived(at in 0_usize..100, byte: u8) {
            let mut bytes = cache(&[("a.so", "/a.so", FLAGS_X86_64, 0), ("b.so", "/b.so", FLAGS_X86_64, 0)]);
            let len = bytes.len();
            bytes[at % len] = byte;
            prop_assert!(parse(&bytes).len() <= 2);
        }
    }
}

//! The initial archive: cpio "newc", read in place.
//!
//! Entry: a header of 110 ASCII characters (magic `070701` or `070702`, then thirteen fields of
//! eight hexadecimal digits), the name with its NUL, padding to four bytes, the data, padding to
//! four bytes. The archive ends with the name `TRAILER!!!`.

/// One entry of an archive. Name and data point into the archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Path without its NUL, as the archive spells it.
    pub name: &'a [u8],
    /// File type and permissions (`st_mode`).
    pub mode: u32,
    /// Inode number within the archive: entries that share it are hard links.
    pub ino: u32,
    /// Number of hard links that the archive claims.
    pub nlink: u32,
    /// Seconds of the last change.
    pub mtime: u32,
    /// Device number (major, minor) of a device entry.
    pub rdev: (u32, u32),
    /// The bytes of a file, the target of a symbolic link.
    pub data: &'a [u8],
}

/// Why an archive could not be read further: the offset of the bad entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadArchive(pub usize);

/// Iterates over the entries of an archive.
#[derive(Debug)]
pub struct Archive<'a> {
    bytes: &'a [u8],
    at: usize,
    done: bool,
}

const HEADER: usize = 110;

impl<'a> Archive<'a> {
    /// Reads the archive in `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Archive { bytes, at: 0, done: false }
    }

    fn entry(&mut self) -> Option<Entry<'a>> {
        let rest = self.bytes.get(self.at..)?;
        let header = rest.get(..HEADER)?;
        if &header[..6] != b"070701" && &header[..6] != b"070702" {
            return None;
        }
        let field = |i: usize| hex(&header[6 + 8 * i..14 + 8 * i]);
        let (size, name_size) = (field(6)? as usize, field(11)? as usize);
        let name = rest.get(HEADER..HEADER.checked_add(name_size)?)?;
        let data_at = align4(HEADER + name_size);
        let data = rest.get(data_at..data_at.checked_add(size)?)?;
        self.at += align4(data_at + size);
        Some(Entry {
            name: name.strip_suffix(b"\0").unwrap_or(name),
            ino: field(0)?,
            mode: field(1)?,
            nlink: field(4)?,
            mtime: field(5)?,
            rdev: (field(9)?, field(10)?),
            data,
        })
    }
}

impl<'a> Iterator for Archive<'a> {
    type Item = Result<Entry<'a>, BadArchive>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let at = self.at;
        match self.entry() {
            Some(entry) if entry.name == b"TRAILER!!!" => {
                self.done = true;
                None
            }
            Some(entry) => Some(Ok(entry)),
            None => {
                self.done = true;
                Some(Err(BadArchive(at)))
            }
        }
    }
}

fn align4(n: usize) -> usize {
    (n + 3) & !3
}

fn hex(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0u32, |n, &d| Some(n << 4 | (d as char).to_digit(16)?))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use alloc::format;
    use alloc::vec::Vec;

    pub(crate) fn pack(entries: &[(&str, u32, u32, &[u8])]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut put = |name: &str, ino: u32, mode: u32, data: &[u8]| {
            out.extend_from_slice(
                format!(
                    "070701{ino:08x}{mode:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}",
                    0, 0, 1, 7, data.len(), 0, 0, 0, 0, name.len() + 1, 0
                )
                .as_bytes(),
            );
            out.extend_from_slice(name.as_bytes());
            out.push(0);
            out.resize(align4(out.len()), 0);
            out.extend_from_slice(data);
            out.resize(align4(out.len()), 0);
        };
        for &(name, ino, mode, data) in entries {
            put(name, ino, mode, data);
        }
        put("TRAILER!!!", 0, 0, b"");
        out
    }

    #[test]
    fn entries_come_in_order_with_their_bytes() {
        let bytes = pack(&[("bin", 1, 0o040755, b""), ("bin/sh", 2, 0o100755, b"hello")]);
        let all: Vec<_> = Archive::new(&bytes).map(Result::unwrap).collect();
        assert_eq!(all.len(), 2);
        assert_eq!((all[1].name, all[1].data, all[1].mtime), (&b"bin/sh"[..], &b"hello"[..], 7));
    }

    #[test]
    fn a_cut_archive_is_an_error_and_not_a_panic() {
        let bytes = pack(&[("a", 1, 0o100644, b"0123456789")]);
        for cut in 0..bytes.len() - 1 {
            let last = Archive::new(&bytes[..cut]).last();
            assert!(matches!(last, Some(Err(_))), "cut at {cut}");
        }
    }
}

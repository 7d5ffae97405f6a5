//! The initial archive: cpio "newc", as Linux's initramfs has it.
//!
//! Linux: Documentation/driver-api/early-userspace/buffer-format.rst. The first entry is always
//! `.anonmem/run`, which tells the kernel what to start.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::tree::{Content, Node, Tree};

const S_IFDIR: u32 = 0o040_000;
const S_IFREG: u32 = 0o100_000;
const S_IFLNK: u32 = 0o120_000;

/// The archive entry that says what to start; it comes first.
pub const RUN_ENTRY: &str = ".anonmem/run";

/// Writes the archive: the start record, every entry of the tree, the trailer.
///
/// # Errors
///
/// Reading a file or writing the archive failed, or a file has 4 GiB or more.
pub fn write_archive(
    out: &mut impl Write,
    run_record: &[u8],
    tree: &Tree,
    mut on_entry: impl FnMut(&Path),
) -> io::Result<()> {
    let mut cpio = Cpio { out, next_inode: 1 };
    cpio.entry(RUN_ENTRY.as_bytes(), S_IFREG | 0o400, 0, run_record.len() as u64)?;
    cpio.data(run_record)?;
    for (path, node) in tree.iter() {
        on_entry(path);
        cpio.node(path, node)?;
    }
    cpio.next_inode = 0;
    cpio.entry(b"TRAILER!!!", 0, 0, 0)
}

struct Cpio<'a, W: Write> {
    out: &'a mut W,
    next_inode: u32,
}

impl<W: Write> Cpio<'_, W> {
    fn node(&mut self, path: &Path, node: &Node) -> io::Result<()> {
        let name = path.strip_prefix("/").unwrap_or(path).as_os_str().as_bytes();
        match node {
            Node::Dir { mode } => self.entry(name, S_IFDIR | mode, 0, 0),
            Node::Link { target } => {
                let target = target.as_os_str().as_bytes();
                self.entry(name, S_IFLNK | 0o777, 0, target.len() as u64)?;
                self.data(target)
            }
            Node::File { content: Content::Bytes(bytes), mode, mtime } => {
                self.entry(name, S_IFREG | mode, *mtime, bytes.len() as u64)?;
                self.data(bytes)
            }
            Node::File { content: Content::Host(host), mode, mtime } => {
                self.host_file(name, host, *mode, *mtime).map_err(|e| named(host, e))
            }
        }
    }

    fn host_file(&mut self, name: &[u8], host: &Path, mode: u32, mtime: i64) -> io::Result<()> {
        let mut file = File::open(host)?;
        let len = file.metadata()?.len();
        self.entry(name, S_IFREG | mode, mtime, len)?;
        let copied = io::copy(&mut io::Read::take(&mut file, len), self.out)?;
        if copied != len {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file shrank while it was packed"));
        }
        self.pad(len)
    }

    fn entry(&mut self, name: &[u8], mode: u32, mtime: i64, len: u64) -> io::Result<()> {
        let Ok(len) = u32::try_from(len) else {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                "a file of 4 GiB or more cannot be packed",
            ));
        };
        let inode = self.next_inode;
        self.next_inode += u32::from(inode != 0);
        let mtime = u32::try_from(mtime).unwrap_or(0);
        let fields = [inode, mode, 0, 0, 1, mtime, len, 0, 0, 0, 0, name.len() as u32 + 1, 0];
        self.out.write_all(b"070701")?;
        for field in fields {
            write!(self.out, "{field:08x}")?;
        }
        self.out.write_all(name)?;
        self.out.write_all(&[0])?;
        self.pad(6 + 13 * 8 + name.len() as u64 + 1)
    }

    fn data(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        self.pad(bytes.len() as u64)
    }

    fn pad(&mut self, written: u64) -> io::Result<()> {
        let missing = (4 - written % 4) % 4;
        self.out.write_all(&[0; 3][..missing as usize])
    }
}

fn named(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Reads an archive back: name, mode, mtime, bytes.
    pub(crate) fn read_archive(bytes: &[u8]) -> Vec<(String, u32, u32, Vec<u8>)> {
        let mut entries = Vec::new();
        let mut at = 0;
        loop {
            assert_eq!(&bytes[at..at + 6], b"070701");
            let field = |n: usize| {
                let from = at + 6 + 8 * n;
                u32::from_str_radix(std::str::from_utf8(&bytes[from..from + 8]).unwrap(), 16).unwrap()
            };
            let (mode, mtime, len, name_len) = (field(1), field(5), field(6) as usize, field(11) as usize);
            let name_at = at + 110;
            assert_eq!(bytes[name_at + name_len - 1], 0);
            let name = String::from_utf8(bytes[name_at..name_at + name_len - 1].to_vec()).unwrap();
            let data_at = (name_at + name_len).next_multiple_of(4);
            if name == "TRAILER!!!" {
                assert_eq!(data_at, bytes.len());
                return entries;
            }
            entries.push((name, mode, mtime, bytes[data_at..data_at + len].to_vec()));
            at = (data_at + len).next_multiple_of(4);
        }
    }

    #[test]
    fn what_is_written_can_be_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let host = dir.path().join("five");
        std::fs::write(&host, "12345").unwrap();
        let mut tree = Tree::new();
        tree.add_dir(Path::new("/tmp"), 0o1777).unwrap();
        tree.add_new(Path::new("/bin/x"), Node::Link { target: "/tmp/five".into() }).unwrap();
        let file = Node::File { content: Content::Host(host), mode: 0o755, mtime: 77 };
        tree.add_new(Path::new("/tmp/five"), file).unwrap();

        let mut out = Vec::new();
        let mut seen = 0;
        write_archive(&mut out, b"ram=1\0", &tree, |_| seen += 1).unwrap();
        let entries = read_archive(&out);
        let names: Vec<_> = entries.iter().map(|e| e.0.as_str()).collect();
        assert_eq!(names, [".anonmem/run", "bin", "bin/x", "tmp", "tmp/five"]);
        assert_eq!(seen, 4);
        assert_eq!(entries[0].3, b"ram=1\0");
        assert_eq!((entries[2].1, entries[2].3.as_slice()), (0o120_777, b"/tmp/five".as_slice()));
        assert_eq!(entries[3].1, 0o041_777);
        assert_eq!(
            (entries[4].1, entries[4].2, entries[4].3.as_slice()),
            (0o100_755, 77, b"12345".as_slice())
        );
    }

    #[test]
    fn a_file_that_vanished_is_named() {
        let mut tree = Tree::new();
        let content = Content::Host("/nonexistent/file".into());
        tree.add_new(Path::new("/x"), Node::File { content, mode: 0, mtime: 0 }).unwrap();
        let error = write_archive(&mut Vec::new(), b"", &tree, |_| {}).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/file"), "{error}");
    }
}

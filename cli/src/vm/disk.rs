//! The microVM's disks: files and block devices of the host.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, fcntl_lock};

use crate::error::{Error, Result};

/// The most disks of a machine, swap's among them.
pub const MAX_DISKS: usize = 16;
/// Bytes of a sector: a disk has whole ones.
const SECTOR: u64 = 512;

/// What the guest may do with a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read it, and write to it.
    ReadWrite,
    /// Read it.
    ReadOnly,
}

/// What a disk's bytes are worth when the machine is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Worth {
    /// They are kept, and safe after the guest's `fsync`.
    Kept,
    /// Nothing: no write need ever reach the host's disk.
    Nothing,
}

/// One `--disk`: FILE, or FILE:ro.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskOption {
    /// The file or block device of the host.
    pub path: PathBuf,
    /// What the guest may do with it.
    pub access: Access,
}

/// A disk of the machine. The first one is `/dev/vda`, the next one `/dev/vdb`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// What it is made of.
    pub path: PathBuf,
    /// What the guest may do with it.
    pub access: Access,
    /// What its bytes are worth.
    pub worth: Worth,
}

impl Disk {
    /// Looks at what `--disk` names.
    ///
    /// # Errors
    ///
    /// One line that says why it cannot be a disk.
    pub fn of_option(option: &DiskOption) -> Result<Self> {
        check(option).map_err(|why| Error::usage(format_args!("--disk {}: {why}", option.path.display())))?;
        Ok(Self { path: option.path.clone(), access: option.access, worth: Worth::Kept })
    }

    /// Makes the disk that is swapped to.
    #[must_use]
    pub fn for_swap(path: PathBuf) -> Self {
        Self { path, access: Access::ReadWrite, worth: Worth::Nothing }
    }
}

/// The name that the guest gives the disk with that number.
#[must_use]
pub fn name(number: usize) -> String {
    let letter = u8::try_from(number % 26).unwrap_or(0) + b'a';
    format!("vd{}", char::from(letter))
}

/// Fails if there are too many disks, or two are the same file.
///
/// # Errors
///
/// One line that names it.
pub fn check_all(disks: &[Disk]) -> Result<()> {
    if disks.len() > MAX_DISKS {
        return Err(Error::usage(format_args!("a microVM has at most {MAX_DISKS} disks, swap's among them")));
    }
    let identity = |path: &Path| path.metadata().map(|meta| (meta.dev(), meta.ino())).ok();
    for (number, disk) in disks.iter().enumerate() {
        let same = |other: &&Disk| identity(&other.path).is_some_and(|id| Some(id) == identity(&disk.path));
        if disks[..number].iter().any(|other| same(&other)) {
            let path = disk.path.display();
            return Err(Error::usage(format_args!("{path} cannot be two disks at a time")));
        }
    }
    Ok(())
}

/// Says why a file cannot be a disk.
fn check(option: &DiskOption) -> std::result::Result<(), String> {
    let writes = option.access == Access::ReadWrite;
    let mut file =
        File::options().read(true).write(writes).open(&option.path).map_err(|e| match e.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem if writes => {
                format!("{e}; to let the guest only read it, add \":ro\"")
            }
            io::ErrorKind::NotFound => {
                "there is no such file; make one, for example with truncate -s 64M".into()
            }
            io::ErrorKind::IsADirectory => "a directory; a disk is a file or a block device".into(),
            _ => e.to_string(),
        })?;
    let kind = file.metadata().map_err(|e| e.to_string())?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        return Err("a disk is a file or a block device".into());
    }
    let bytes = file.seek(SeekFrom::End(0)).map_err(|e| e.to_string())?;
    if bytes == 0 || !bytes.is_multiple_of(SECTOR) {
        let more = SECTOR - bytes % SECTOR;
        return Err(format!(
            "has {bytes} bytes, which are no whole sectors of {SECTOR}; give it {more} more, for example with \
             truncate -s +{more}"
        ));
    }
    // QEMU locks its disks so that nobody else changes them. This lock ends with `file`.
    if writes && fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) == Err(rustix::io::Errno::AGAIN)
    {
        return Err("is in use, by another microVM or another program that locks it".into());
    }
    Ok(())
}

/// Reads what `--disk` names, `FILE[:ro]`.
pub(crate) fn parse_disk(text: &str) -> std::result::Result<DiskOption, String> {
    let (path, access) = match text.strip_suffix(":ro") {
        Some(path) => (path, Access::ReadOnly),
        None => (text, Access::ReadWrite),
    };
    if path.is_empty() {
        return Err(format!("\"{text}\" names no file of the host; write FILE or FILE:ro"));
    }
    Ok(DiskOption { path: path.into(), access })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_may_be_read_only() {
        let ro = DiskOption { path: "a:b".into(), access: Access::ReadOnly };
        assert_eq!(parse_disk("a:b:ro"), Ok(ro));
        let rw = DiskOption { path: "a:rw".into(), access: Access::ReadWrite };
        assert_eq!(parse_disk("a:rw"), Ok(rw));
        assert!(parse_disk(":ro").is_err() && parse_disk("").is_err());
        assert_eq!((name(0), name(15)), ("vda".into(), "vdp".into()));
    }

    #[test]
    fn what_cannot_be_a_disk_is_refused_with_a_reason() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, bytes| {
            let path = dir.path().join(name);
            File::create(&path).unwrap().set_len(bytes).unwrap();
            DiskOption { path, access: Access::ReadWrite }
        };
        let why = |option: &DiskOption| Disk::of_option(option).unwrap_err().to_string();
        assert!(why(&file("odd", 1000)).contains("has 1000 bytes"));
        assert!(why(&file("odd", 1000)).contains("truncate -s +24"));
        assert!(why(&file("empty", 0)).contains("truncate -s +512"));
        let missing = DiskOption { path: dir.path().join("none"), access: Access::ReadWrite };
        assert!(why(&missing).contains("no such file"));
        let directory = DiskOption { path: dir.path().into(), access: Access::ReadOnly };
        assert!(why(&directory).contains("file or a block device"));

        let good = file("good", 1024);
        let disk = Disk::of_option(&good).unwrap();
        let error = check_all(&[disk.clone(), Disk::for_swap(good.path.clone())]).unwrap_err();
        assert!(error.to_string().contains("two disks"));
        assert!(check_all(&[disk]).is_ok());
    }
}

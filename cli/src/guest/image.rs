//! Is this file a Linux kernel that QEMU can boot?

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use goblin::elf::Elf;
use goblin::elf::header::EM_X86_64;

use crate::error::{Error, Result};

/// Where a bzImage says that it is one (Linux: Documentation/arch/x86/boot.rst).
const MAGIC_AT: usize = 0x202;
const MAGIC: &[u8] = b"HdrS";
/// The type of the note that names an ELF kernel's PVH entry (Xen: XEN_ELFNOTE_PHYS32_ENTRY).
const PVH_ENTRY: u32 = 18;

/// A kernel image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Image {
    pub(super) path: PathBuf,
    /// More words for its command line.
    pub(super) arguments: String,
}

/// Looks at the file.
///
/// # Errors
///
/// One line that says what it is instead, and what would do.
pub(super) fn read(path: &Path, arguments: &str) -> Result<Image> {
    let shown = path.display();
    let bytes = read_bytes(path).map_err(|e| {
        Error::usage(format_args!(
            "cannot read the kernel {shown}: {e}; name a vmlinuz as distributions have it in /boot"
        ))
    })?;
    match problem(&bytes) {
        None => Ok(Image { path: path.into(), arguments: arguments.into() }),
        Some(problem) => Err(Error::usage(format_args!(
            "{shown} {problem}; name an x86-64 bzImage (/boot/vmlinuz-*) or an ELF vmlinux built with CONFIG_PVH"
        ))),
    }
}

/// All of an ELF file, the beginning of anything else.
fn read_bytes(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let mut bytes = Vec::new();
    file.by_ref().take(1024).read_to_end(&mut bytes)?;
    if bytes.starts_with(b"\x7fELF") {
        file.read_to_end(&mut bytes)?;
    }
    Ok(bytes)
}

fn problem(bytes: &[u8]) -> Option<&'static str> {
    if bytes.get(MAGIC_AT..MAGIC_AT + MAGIC.len()) == Some(MAGIC) {
        return None;
    }
    if !bytes.starts_with(b"\x7fELF") {
        return Some("is no Linux kernel for x86");
    }
    let Ok(elf) = Elf::parse(bytes) else {
        return Some("is a damaged ELF file");
    };
    if elf.header.e_machine != EM_X86_64 {
        return Some("is not for x86-64");
    }
    let has_entry = elf.iter_note_headers(bytes).is_some_and(|mut notes| {
        notes.any(|note| note.is_ok_and(|note| note.name == "Xen" && note.n_type == PVH_ENTRY))
    });
    (!has_entry).then_some("has no PVH entry")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_kernel_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vmlinuz");
        std::fs::write(&path, "text").unwrap();
        let error = read(&path, "").unwrap_err().to_string();
        assert!(error.contains("no Linux kernel") && error.contains("/boot/vmlinuz-*"), "{error}");
        std::fs::write(&path, crate::vm::accel::exit_program()).unwrap();
        assert!(read(&path, "").unwrap_err().to_string().contains("PVH"));
        let error = read(&dir.path().join("none"), "").unwrap_err().to_string();
        assert!(error.contains("/boot"), "{error}");
    }

    #[test]
    fn a_bzimage_is_known_by_its_header() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vmlinuz");
        let mut bytes = vec![0; 4096];
        bytes[MAGIC_AT..MAGIC_AT + 4].copy_from_slice(MAGIC);
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(read(&path, "quiet").unwrap(), Image { path, arguments: "quiet".into() });
    }
}

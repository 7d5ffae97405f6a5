//! What an executable file is: an ELF file and what it needs, a script and its interpreter, or neither.

use std::fs;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use goblin::elf::Elf;
use goblin::elf::header::{EM_X86_64, ET_DYN, ET_EXEC};

/// What matters of an x86-64 ELF file for packing it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ElfInfo {
    /// PT_INTERP: the dynamic loader, none for a static file or a library.
    pub interpreter: Option<PathBuf>,
    /// DT_NEEDED, in order.
    pub needed: Vec<String>,
    /// DT_RPATH, split at colons; only counts when there is no DT_RUNPATH.
    pub rpath: Vec<String>,
    /// DT_RUNPATH, split at colons.
    pub runpath: Vec<String>,
}

/// The first line of a script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shebang {
    /// The interpreter's path.
    pub interpreter: PathBuf,
    /// What follows it on the line, as one argument, as Linux passes it.
    pub argument: Option<String>,
}

/// What a file is to `execve`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// An ELF file for x86-64.
    Elf(ElfInfo),
    /// A script with an interpreter.
    Script(Shebang),
    /// An ELF file for something else than 64-bit x86.
    ForeignElf,
    /// Nothing that can be executed.
    Other,
}

/// Reads what a file is.
///
/// # Errors
///
/// The file cannot be read. A damaged ELF file is [`FileKind::Other`].
pub fn file_kind(path: &Path) -> io::Result<FileKind> {
    let mut file = fs::File::open(path)?;
    let mut head = Vec::new();
    file.by_ref().take(256).read_to_end(&mut head)?;
    if head.starts_with(b"#!") {
        return Ok(parse_shebang(&head).map_or(FileKind::Other, FileKind::Script));
    }
    if !head.starts_with(b"\x7fELF") {
        return Ok(FileKind::Other);
    }
    file.read_to_end(&mut head)?;
    Ok(parse_elf(&head))
}

fn parse_elf(bytes: &[u8]) -> FileKind {
    let Ok(elf) = Elf::parse(bytes) else {
        return FileKind::Other;
    };
    if elf.header.e_machine != EM_X86_64 || !elf.is_64 {
        return FileKind::ForeignElf;
    }
    if !matches!(elf.header.e_type, ET_EXEC | ET_DYN) {
        return FileKind::Other;
    }
    let split = |paths: &[&str]| -> Vec<String> {
        paths.iter().flat_map(|p| p.split(':')).filter(|p| !p.is_empty()).map(String::from).collect()
    };
    FileKind::Elf(ElfInfo {
        interpreter: elf.interpreter.map(PathBuf::from),
        needed: elf.libraries.iter().map(ToString::to_string).collect(),
        rpath: split(&elf.rpaths),
        runpath: split(&elf.runpaths),
    })
}

fn parse_shebang(head: &[u8]) -> Option<Shebang> {
    let line = head.strip_prefix(b"#!")?.split(|b| *b == b'\n').next()?.trim_ascii();
    let (interpreter, argument) = match line.iter().position(u8::is_ascii_whitespace) {
        Some(at) => (&line[..at], line[at..].trim_ascii()),
        None => (line, &line[line.len()..]),
    };
    if interpreter.is_empty() {
        return None;
    }
    Some(Shebang {
        interpreter: PathBuf::from(std::ffi::OsStr::from_bytes(interpreter)),
        argument: (!argument.is_empty()).then(|| String::from_utf8_lossy(argument).into_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_first_line_has_an_interpreter_and_at_most_one_argument() {
        let parse = |text: &str| parse_shebang(text.as_bytes());
        let some = |interpreter: &str, argument: Option<&str>| {
            Some(Shebang { interpreter: interpreter.into(), argument: argument.map(String::from) })
        };
        assert_eq!(parse("#!/bin/sh\necho"), some("/bin/sh", None));
        assert_eq!(parse("#! /bin/sh -e \nx"), some("/bin/sh", Some("-e")));
        assert_eq!(parse("#!/usr/bin/env -S a b\n"), some("/usr/bin/env", Some("-S a b")));
        assert_eq!(parse("#!/bin/sh"), some("/bin/sh", None));
        assert_eq!(parse("#!\n"), None);
    }

    #[test]
    fn this_test_is_a_dynamic_elf_file_that_needs_libc() {
        let FileKind::Elf(info) = file_kind(&std::env::current_exe().unwrap()).unwrap() else {
            panic!("not an ELF file");
        };
        assert!(info.interpreter.is_some());
        assert!(info.needed.iter().any(|n| n.starts_with("libc.")), "{info:?}");
    }

    #[test]
    fn other_machines_and_other_files_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        fs::write(&path, "hello").unwrap();
        assert_eq!(file_kind(&path).unwrap(), FileKind::Other);
        let mut arm = fs::read(std::env::current_exe().unwrap()).unwrap();
        arm[18] = 183;
        fs::write(&path, &arm).unwrap();
        assert_eq!(file_kind(&path).unwrap(), FileKind::ForeignElf);
        fs::write(&path, &arm[..40]).unwrap();
        assert_eq!(file_kind(&path).unwrap(), FileKind::Other);
        assert!(file_kind(&dir.path().join("none")).is_err());
    }
}

//! Finding the microVM kernel: as named, beside the command, where a checkout builds it, or in the command
//! itself.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// The kernel's file name.
pub const KERNEL_NAME: &str = "anonmem-microvm";

/// The kernel that the command carries, if it was built for release: `build.rs` says so.
#[cfg(carries_kernel)]
const EMBEDDED: Option<&[u8]> = Some(include_bytes!(env!("ANONMEM_EMBEDDED")));
#[cfg(not(carries_kernel))]
const EMBEDDED: Option<&[u8]> = None;

/// Finds the kernel: as named, beside the executable, where a checkout builds it (`target/microvm/`, seen
/// from `target/release/` or `target/debug/deps/`), or in the command itself.
///
/// # Errors
///
/// One line that says how to build or name it.
pub fn find(named: Option<&Path>) -> Result<PathBuf> {
    if let Some(path) = named {
        if path.is_file() {
            return Ok(path.to_path_buf());
        }
        return Err(Error::usage(format_args!(
            "there is no kernel {}; build it with: make kernel",
            path.display()
        )));
    }
    let exe = std::env::current_exe().and_then(|exe| exe.canonicalize()).unwrap_or_default();
    let found = candidates(&exe).into_iter().find(|path| path.is_file());
    match (found, EMBEDDED) {
        (Some(path), _) => Ok(path),
        (None, Some(bytes)) => unpack(bytes, &cache_dir()).map_err(|e| {
            Error::usage(format_args!("cannot write the kernel into {}: {e}", cache_dir().display()))
        }),
        (None, None) => Err(Error::usage(
            "the microVM kernel is not built; run: make kernel (or name it in ANONMEM_KERNEL, or install a command that \
             carries it: make install)",
        )),
    }
}

/// Writes the kernel where QEMU can read it, unless it is there. The name has the contents' hash, so that two
/// commands never disturb each other.
fn unpack(bytes: &[u8], dir: &Path) -> io::Result<PathBuf> {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    let path = dir.join(format!("{KERNEL_NAME}-{:016x}", hasher.finish()));
    if fs::metadata(&path).is_ok_and(|file| file.len() == bytes.len() as u64) {
        return Ok(path);
    }
    fs::create_dir_all(dir)?;
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    file.write_all(bytes)?;
    file.persist(&path)?;
    Ok(path)
}

/// Where programs keep what they can make again (XDG base directories).
fn cache_dir() -> PathBuf {
    let named = |name| std::env::var_os(name).filter(|dir| !dir.is_empty()).map(PathBuf::from);
    let cache = named("XDG_CACHE_HOME").or_else(|| named("HOME").map(|home| home.join(".cache")));
    cache.unwrap_or_else(std::env::temp_dir).join("anonmem")
}

fn candidates(exe: &Path) -> Vec<PathBuf> {
    let dirs = exe.ancestors().skip(1).take(3);
    dirs.flat_map(|dir| [dir.join(KERNEL_NAME), dir.join("microvm").join(KERNEL_NAME)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkout_and_an_installation_are_both_searched() {
        let found = candidates(Path::new("/co/target/release/anonmem"));
        assert_eq!(found[0], Path::new("/co/target/release/anonmem-microvm"));
        assert!(found.contains(&"/co/target/microvm/anonmem-microvm".into()));
        let found = candidates(Path::new("/co/target/debug/deps/test-1"));
        assert!(found.contains(&"/co/target/microvm/anonmem-microvm".into()));
    }

    #[test]
    fn a_kernel_that_is_carried_is_written_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = unpack(b"kernel", &dir.path().join("cache")).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"kernel");
        let made = fs::metadata(&path).unwrap().modified().unwrap();
        assert_eq!(unpack(b"kernel", &dir.path().join("cache")).unwrap(), path);
        assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), made);
        assert_ne!(unpack(b"another", &dir.path().join("cache")).unwrap(), path);
    }

    #[test]
    fn a_kernel_that_is_not_there_is_one_line() {
        let error = find(Some(Path::new("/no/kernel"))).unwrap_err();
        assert!(error.to_string().contains("make kernel"));
        assert_eq!(error.exit_status(), 2);
    }
}

//! Finding the microVM kernel.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// The kernel's file name.
pub const KERNEL_NAME: &str = "anonmem-microvm";

/// Finds the kernel: as named, beside the executable, or where a checkout builds it
/// (`target/microvm/`, seen from `target/release/` or `target/debug/deps/`).
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
    candidates(&exe).into_iter().find(|path| path.is_file()).ok_or_else(|| {
        Error::usage("the microVM kernel is not built; run: make kernel (or name it in ANONMEM_KERNEL)")
    })
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
    fn a_kernel_that_is_not_there_is_one_line() {
        let error = find(Some(Path::new("/no/kernel"))).unwrap_err();
        assert!(error.to_string().contains("make kernel"));
        assert_eq!(error.exit_status(), 2);
    }
}

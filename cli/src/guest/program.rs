//! Building the program: its source is in the command, a C compiler makes it static.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::cc::{self, Program};
use crate::error::Result;

/// The file is called `init`, as Linux's first process is.
const PROGRAM: Program<'_> =
    Program { name: "init", sources: &[("program.c", include_str!("program.c"))], wanted_by: "--guest" };

/// Compiles the program into `dir`.
///
/// # Errors
///
/// One line that says what to install, or what the compiler said.
pub(super) fn build(dir: &Path, search_path: &OsStr) -> Result<PathBuf> {
    cc::build(&PROGRAM, dir, search_path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::transcript::Transcript;
    use std::ffi::OsString;
    use std::process::Command;

    fn path() -> OsString {
        std::env::var_os("PATH").unwrap_or_default()
    }

    #[test]
    fn the_program_runs_on_the_host_too() {
        let dir = tempfile::tempdir().unwrap();
        let program = cc::compile(&PROGRAM, OsStr::new("cc"), dir.path(), &path()).unwrap();
        let kinds = "page_fault1,mmap1,brk1,fork,munmap";
        let output = Command::new(program)
            .args(["5", "1", "2", "256", kinds, "processes,threads", "4K"])
            .output()
            .unwrap();
        let mut transcript = Transcript::default();
        String::from_utf8(output.stdout).unwrap().lines().for_each(|line| {
            transcript.take(line);
        });
        assert!(transcript.ended, "{transcript:?}");
        assert_eq!((transcript.rows.len(), transcript.failed.len()), (20, 0), "{transcript:?}");
        assert!(transcript.rows.iter().all(|row| row.operations > 0 && row.ns > 0), "{transcript:?}");
    }

    #[test]
    fn a_missing_compiler_says_what_to_install() {
        let dir = tempfile::tempdir().unwrap();
        let error =
            cc::compile(&PROGRAM, OsStr::new("no-such-cc"), dir.path(), &path()).unwrap_err().to_string();
        assert!(error.contains("libc6-dev") && !error.contains('\n'), "{error}");
        let error = cc::compile(&PROGRAM, OsStr::new("false"), dir.path(), &path()).unwrap_err().to_string();
        assert!(error.contains("no reason; "), "{error}");
    }
}

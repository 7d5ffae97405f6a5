//! Building the program: its source is in the command, a C compiler makes it static.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::setup::on_host;
use crate::error::{Error, Result};
use crate::pack::program::find_on_path;

const SOURCE: &str = include_str!("program.c");

/// What to do when it cannot be built.
const ADVICE: &str = "--guest compiles a small static program: install a C compiler and a static C library \
                      (Debian, Ubuntu: apt-get install gcc libc6-dev; in a checkout: make deps), or name one in CC";

/// Compiles the program into `dir`; the file is called `init`, as Linux's first process is.
///
/// # Errors
///
/// One line that says what to install, or what the compiler said.
pub(super) fn build(dir: &Path, search_path: &OsStr) -> Result<PathBuf> {
    let compiler = std::env::var_os("CC").filter(|cc| !cc.is_empty()).unwrap_or_else(|| OsString::from("cc"));
    compile(&compiler, dir, search_path)
}

fn compile(compiler: &OsStr, dir: &Path, search_path: &OsStr) -> Result<PathBuf> {
    let source = dir.join("program.c");
    std::fs::write(&source, SOURCE).map_err(|e| on_host("cannot write the program's source", &e))?;
    let Some(found) = find_on_path(compiler, search_path) else {
        return Err(Error::usage(format_args!(
            "there is no C compiler {}; {ADVICE}",
            compiler.to_string_lossy()
        )));
    };
    let program = dir.join("init");
    let mut command = Command::new(found);
    command.args(["-static", "-O2", "-pthread", "-o"]).arg(&program).arg(&source);
    let output = command.output().map_err(|e| on_host("cannot start the C compiler", &e))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.lines().find(|line| line.contains("error") || line.contains("cannot find"));
        let said = said.or(Some("no reason")).unwrap_or_default();
        return Err(Error::usage(format_args!("the C compiler says: {said}; {ADVICE}")));
    }
    Ok(program)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::transcript::Transcript;

    fn path() -> OsString {
        std::env::var_os("PATH").unwrap_or_default()
    }

    #[test]
    fn the_program_runs_on_the_host_too() {
        let dir = tempfile::tempdir().unwrap();
        let program = compile(OsStr::new("cc"), dir.path(), &path()).unwrap();
        let kinds = "page_fault1,mmap1,brk1,fork,munmap";
        let output =
            Command::new(program).args(["5", "1", "2", "256", kinds, "processes,threads"]).output().unwrap();
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
        let error = compile(OsStr::new("no-such-cc"), dir.path(), &path()).unwrap_err().to_string();
        assert!(error.contains("libc6-dev") && !error.contains('\n'), "{error}");
        let error = compile(OsStr::new("false"), dir.path(), &path()).unwrap_err().to_string();
        assert!(error.contains("no reason; "), "{error}");
    }
}

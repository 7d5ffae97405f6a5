//! Small C programs that the command carries as source: a compiler of the host makes them static.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Error, Result};
use crate::pack::program::find_on_path;

/// A program to build.
#[derive(Clone, Copy, Debug)]
pub struct Program<'a> {
    /// What the file is called.
    pub name: &'a str,
    /// Its sources and headers, by file name; those that end in `.c` are compiled.
    pub sources: &'a [(&'a str, &'a str)],
    /// Who needs it: the option or the command.
    pub wanted_by: &'a str,
}

/// Compiles the program into `dir`, with the compiler that `CC` names, or `cc`.
///
/// # Errors
///
/// One line that says what to install, or what the compiler said.
pub fn build(program: &Program<'_>, dir: &Path, search_path: &OsStr) -> Result<PathBuf> {
    let compiler = std::env::var_os("CC").filter(|cc| !cc.is_empty()).unwrap_or_else(|| OsString::from("cc"));
    compile(program, &compiler, dir, search_path)
}

/// As [`build`], with this compiler.
///
/// # Errors
///
/// As [`build`].
pub fn compile(program: &Program<'_>, compiler: &OsStr, dir: &Path, search_path: &OsStr) -> Result<PathBuf> {
    let advice = format!(
        "{} compiles a small static program: install a C compiler and a static C library (Debian, Ubuntu: \
         apt-get install gcc libc6-dev; in a checkout: make deps), or name one in CC",
        program.wanted_by
    );
    for (name, text) in program.sources {
        std::fs::write(dir.join(name), text)
            .map_err(|e| Error::usage(format_args!("cannot write a program's source: {e}")))?;
    }
    let Some(found) = find_on_path(compiler, search_path) else {
        let compiler = compiler.to_string_lossy();
        return Err(Error::usage(format_args!("there is no C compiler {compiler}; {advice}")));
    };
    let built = dir.join(program.name);
    let mut command = Command::new(found);
    command.args(["-static", "-O2", "-w", "-pthread", "-o"]).arg(&built);
    let compiled = program.sources.iter().filter(|(name, _)| name.ends_with(".c"));
    command.args(compiled.map(|(name, _)| dir.join(name)));
    let output =
        command.output().map_err(|e| Error::usage(format_args!("cannot start the C compiler: {e}")))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.lines().find(|line| line.contains("error") || line.contains("cannot find"));
        let said = said.unwrap_or("no reason");
        return Err(Error::usage(format_args!("the C compiler says: {said}; {advice}")));
    }
    Ok(built)
}

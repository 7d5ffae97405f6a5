//! `anonmem conform`: whether a kernel's memory calls do what Linux's do.
//!
//! The checks are a static C program (`tests/conform`), whose sources the command carries. It runs on the
//! host, which is its oracle, in the microVM, or by any command. [`report`] reads what it says.

#[cfg(test)]
mod planted;
pub mod report;

use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::Args;

use crate::cc::{self, Program};
use crate::error::{EXIT_GUEST_DIED, Error, Result};
use crate::out;
use crate::values::Lock;
use report::Report;

/// What a check failed ends the command with.
const EXIT_FAILED: u8 = 1;

macro_rules! sources {
    ($($name:literal),* $(,)?) => {
        [$(($name, include_str!(concat!("../../../tests/conform/", $name)))),*]
    };
}

const PROGRAM: Program<'_> = Program {
    name: "conform",
    sources: &sources![
        "conform.h",
        "main.c",
        "helpers.c",
        "mmap.c",
        "munmap.c",
        "mprotect.c",
        "mremap.c",
        "madvise.c",
        "mlock.c",
        "mincore.c",
        "brk.c",
        "fork.c",
        "proc.c",
        "limits.c",
        "remote.c",
        "userfaultfd.c",
        "newer.c",
        "nodes.c",
        "shm.c",
        "seals.c",
        "ksm.c",
    ],
    wanted_by: "anonmem conform",
};

/// Options of `anonmem conform`.
#[derive(Clone, Debug, Args)]
pub struct ConformOptions {
    /// On this machine's own kernel (the default)
    #[arg(long, conflicts_with_all = ["run", "cmd"])]
    pub host: bool,

    /// In the microVM
    #[arg(long, conflicts_with = "cmd")]
    pub run: bool,

    /// By this command, a line for the shell; {} in it is a static program and its arguments
    #[arg(long, value_name = "COMMAND {}", value_parser = parse_command)]
    pub cmd: Option<String>,

    /// With --run: how page faults are kept apart from changes of the mappings
    #[arg(long, value_enum, default_value_t = Lock::Mmap, requires = "run")]
    pub lock: Lock,

    /// With --run: the largest folios that page faults take, as `anonmem run` has them
    #[arg(long, value_name = "SIZE|auto|LIST", requires = "run")]
    pub folios: Option<String>,

    /// With --run: swap space
    #[arg(long, value_name = "SIZE", requires = "run")]
    pub swap: Option<String>,

    /// Print what was found as JSON
    #[arg(long, conflicts_with = "junit")]
    pub json: bool,

    /// Print what was found as JUnit's XML, for CI systems
    #[arg(long)]
    pub junit: bool,

    /// Print every check, not only those that fail
    #[arg(long, short)]
    pub verbose: bool,

    /// Print the names of the checks and what Linux does, and run none
    #[arg(long)]
    pub list: bool,

    /// Only checks whose names have all these words
    #[arg(value_name = "WORD")]
    pub words: Vec<String>,
}

fn parse_command(text: &str) -> std::result::Result<String, String> {
    if text.contains("{}") { Ok(text.to_string()) } else { Err("no {} in it, where the program goes".into()) }
}

/// Runs the checks and tells what became of them.
///
/// # Errors
///
/// The program cannot be built or started, or its output cannot be written.
pub fn conform(options: &ConformOptions) -> Result<u8> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dir = tempfile::tempdir()
        .map_err(|e| Error::usage(format_args!("cannot make a temporary directory: {e}")))?;
    let program = cc::build(&PROGRAM, dir.path(), &path)?;
    let report = collect(command(options, &program)?, options)?;
    if report.told == Some(0) {
        return Err(Error::usage(format_args!("no check has {}", options.words.join(" and "))));
    }
    let text = match options {
        ConformOptions { json: true, .. } => report.as_json(),
        ConformOptions { junit: true, .. } => report.as_junit(),
        _ if options.list => String::new(),
        _ => report.summary(),
    };
    out::print(&text)?;
    Ok(match &report {
        report if !report.is_whole() => EXIT_GUEST_DIED,
        report if report.failed() > 0 => EXIT_FAILED,
        _ => 0,
    })
}

/// What runs the program.
fn command(options: &ConformOptions, program: &Path) -> Result<Command> {
    let mut arguments: Vec<OsString> = Vec::new();
    if options.list {
        arguments.push("-l".into());
    }
    arguments.extend(options.words.iter().map(OsString::from));
    if let Some(line) = options.cmd.as_deref().filter(|_| !options.list) {
        let words = std::iter::once(program.as_os_str()).chain(arguments.iter().map(OsString::as_os_str));
        let quoted: Vec<_> = words.map(|word| quote(&word.to_string_lossy())).collect();
        let mut command = Command::new("sh");
        command.arg("-c").arg(line.replace("{}", &quoted.join(" ")));
        return Ok(command);
    }
    if !options.run || options.list {
        let mut command = Command::new(program);
        command.args(arguments);
        return Ok(command);
    }
    let this = std::env::current_exe()
        .map_err(|e| Error::usage(format_args!("cannot find the command itself: {e}")))?;
    let mut command = Command::new(this);
    command.args(["run", "--cpus", "2", "--lock", options.lock.name(), "--bill-file", "/dev/null"]);
    for (name, value) in [("--folios", &options.folios), ("--swap", &options.swap)] {
        command.args(value.iter().flat_map(|value| [name, value.as_str()]));
    }
    command.arg("--").arg(PathBuf::from(program)).args(arguments);
    Ok(command)
}

/// One word for the shell.
fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// Runs it, and prints checks as they come, if people read along.
fn collect(mut command: Command, options: &ConformOptions) -> Result<Report> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| Error::usage(format_args!("cannot start what runs the checks: {e}")))?;
    let mut report = Report::default();
    let lines = child.stdout.take().map(BufReader::new).into_iter().flat_map(|out| out.split(b'\n'));
    for line in lines.map_while(std::result::Result::ok) {
        let Some(check) = report.take(&String::from_utf8_lossy(&line)) else { continue };
        let shown = options.verbose || options.list || check.outcome.is_failure();
        if shown && !options.json && !options.junit {
            out::print(&check.as_text())?;
        }
    }
    // How it ended says nothing that its last line has not said.
    let _ = child.wait();
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_for_the_shell_is_one_word() {
        assert_eq!(quote("a b'c"), "'a b'\\''c'");
        assert!(parse_command("qemu -initrd x").is_err());
    }

    #[test]
    fn there_are_four_hundred_checks_with_names_of_their_own_and_reasons() {
        let dir = tempfile::tempdir().unwrap();
        let path = std::env::var_os("PATH").unwrap_or_default();
        let program = cc::build(&PROGRAM, dir.path(), &path).unwrap();
        let list = Command::new(program).arg("-l").output().unwrap();
        let mut report = Report::default();
        String::from_utf8(list.stdout).unwrap().lines().for_each(|line| {
            report.take(line);
        });
        assert!(report.checks.len() >= 400, "{}", report.checks.len());
        let mut names: Vec<_> = report.checks.iter().map(|check| check.name.as_str()).collect();
        names.sort_unstable();
        let all = names.len();
        names.dedup();
        assert_eq!(names.len(), all, "two checks have one name");
        assert!(report.checks.iter().all(|check| !check.why.is_empty() && check.name.contains('/')));
    }
}

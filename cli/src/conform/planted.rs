//! A kernel that is wrong is found, whatever is wrong with it: the C library's functions stand for it.
//!
//! `tests/conform/planted.c` has what is wrong, by a name each.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::PROGRAM;
use super::report::{Outcome, Report};

/// The functions that do something else if they are told to.
const WRAPPED: [&str; 39] = [
    "mmap",
    "munmap",
    "mprotect",
    "madvise",
    "fallocate",
    "mlock",
    "munlock",
    "mlockall",
    "munlockall",
    "mincore",
    "msync",
    "setrlimit",
    "prlimit",
    "getrlimit",
    "ftruncate",
    "getrusage",
    "fcntl",
    "memfd_create",
    "shmget",
    "shmat",
    "shmdt",
    "shmctl",
    "fork",
    "vfork",
    "clone",
    "prctl",
    "vmsplice",
    "process_vm_readv",
    "process_vm_writev",
    "read",
    "write",
    "poll",
    "waitid",
    "pread",
    "pwrite",
    "fopen",
    "mremap",
    "ioctl",
    "syscall",
];

fn build(dir: &Path) -> PathBuf {
    let program = dir.join("planted");
    let mut compiler = Command::new("cc");
    compiler.args(["-static", "-O1", "-w", "-pthread", "-o"]).arg(&program);
    compiler.args(WRAPPED.map(|call| format!("-Wl,--wrap={call}")));
    let planted = ("planted.c", include_str!("../../../tests/conform/planted.c"));
    for (name, text) in PROGRAM.sources.iter().chain([&planted]) {
        let path = dir.join(name);
        std::fs::write(&path, text).unwrap();
        if name.ends_with(".c") {
            compiler.arg(path);
        }
    }
    assert!(compiler.status().unwrap().success());
    program
}

/// The checks that have `word` in their names and became `outcome` with the bug.
fn checks(program: &Path, bug: &str, word: &str, outcome: Outcome) -> BTreeSet<String> {
    let words = (!word.is_empty()).then_some(word);
    let output = Command::new(program).args(words).env("CONFORM_BUG", bug).output().unwrap();
    let mut report = Report::default();
    String::from_utf8_lossy(&output.stdout).lines().for_each(|line| {
        report.take(line);
    });
    assert!(report.is_whole() && !report.checks.is_empty(), "{bug}: checks of {word:?}");
    report.checks.into_iter().filter(|check| check.outcome == outcome).map(|check| check.name).collect()
}

#[test]
fn a_call_that_does_something_else_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let program = build(dir.path());
    let list = Command::new(&program).env("CONFORM_BUG", "list").output().unwrap();
    let list = String::from_utf8(list.stdout).unwrap();
    let right = checks(&program, "", "", Outcome::Failed);
    let absent = checks(&program, "", "", Outcome::Absent);
    let mut missed = Vec::new();
    for (bug, word) in list.lines().map(|line| line.split_once('\t').unwrap()) {
        let failed = checks(&program, bug, word, Outcome::Failed);
        if failed.is_subset(&right) {
            let unasked: Vec<_> = absent.iter().filter(|name| name.contains(word)).collect();
            missed.push(format!("{bug}: no check of {word:?} fails; absent on this machine: {unasked:?}"));
        }
    }
    assert!(list.lines().count() >= 244, "{}", list.lines().count());
    // What this machine does not have, nobody can get wrong.
    missed.retain(|said| said.ends_with("[]"));
    assert!(missed.is_empty(), "{missed:#?}");
}

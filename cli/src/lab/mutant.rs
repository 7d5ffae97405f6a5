//! A case against production source with a planted bug: a copy of the checkout is patched, built, and asked
//! instead.
//!
//! The copy is `target/mutants/race` of the checkout. It goes when the race is over, unless it is to be kept:
//! then files that are as they should be are left alone, so that the next build is short.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::{ModelOption, RaceOptions};
use crate::error::{EXIT_UNSURE, Error};
use crate::out;
use crate::progress::Progress;
use crate::values::Rmap;

/// How often the progress line moves.
const BEAT: Duration = Duration::from_millis(100);

/// Runs `anonmem race` with `options` in a copy that has the patch `name`. The exit status is 1 if a rule
/// broke, and 3 if the planted bug was not found.
pub(super) fn race(options: &RaceOptions, name: &str) -> Result<u8, Error> {
    let root = checkout(name)?;
    let work = root.join("target/mutants/race");
    let known =
        if work.join("target/debug").is_dir() { "what --keep-build left" } else { "which takes minutes" };
    out::say(format_args!(
        "{name} is a patch of the source: building a copy of it in {} ({known})",
        work.display()
    ));
    let status = race_in(&root, &work, options, name);
    if !options.keep_build {
        // What cannot be removed now is left for `make clean`.
        let _ = fs::remove_dir_all(&work);
    }
    status
}

fn race_in(root: &Path, work: &Path, options: &RaceOptions, name: &str) -> Result<u8, Error> {
    let mut progress = Progress::new();
    progress.step(format!("planting {name} in a copy of the source"));
    let copy = work.join("tree");
    copy_tree(root, &copy).map_err(|e| failed("cannot copy the source", &e))?;
    let patch = root.join(format!("mutants/{name}.patch"));
    let mut command = Command::new("patch");
    command.args(["--quiet", "--strip=1", "--directory"]).arg(&copy).arg("--input").arg(&patch);
    run(&mut command, &format!("{name} does not apply to this source"), &mut progress)?;
    progress.step(format!("building it with {name}"));
    let target = work.join("target");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet", "--locked", "--package", "anonmem-cli"]).current_dir(&copy);
    run(cargo.env("CARGO_TARGET_DIR", &target), &format!("{name} does not compile"), &mut progress)?;
    progress.finish();
    let mut command = Command::new(target.join("debug/anonmem"));
    let status =
        command.args(arguments(options)).status().map_err(|e| failed("cannot start what was built", &e))?;
    match status.code() {
        // There the source is taken as it is: that no rule broke means that the bug was not found.
        Some(0) if options.replay.is_none() => Ok(EXIT_UNSURE),
        Some(code) => Ok(u8::try_from(code).unwrap_or(u8::MAX)),
        None => Err(Error::usage(format_args!("the race with {name} was killed"))),
    }
}

/// The source that the current directory is in.
fn checkout(name: &str) -> Result<PathBuf, Error> {
    let here = std::env::current_dir().map_err(|e| failed("there is no current directory", &e))?;
    let is_source = |dir: &&Path| {
        dir.join(format!("mutants/{name}.patch")).is_file() && dir.join("crates/anonmem/Cargo.toml").is_file()
    };
    here.ancestors().find(is_source).map(Path::to_path_buf).ok_or_else(|| {
        Error::usage(format_args!(
            "{name} is a patch of the production source: call this from a checkout of anonmem, which has mutants/{name}.patch"
        ))
    })
}

/// Makes `copy` hold what git knows of `root`, and what it does not ignore.
fn copy_tree(root: &Path, copy: &Path) -> io::Result<()> {
    let mut git = Command::new("git");
    git.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]).current_dir(root);
    let listed = git.output()?;
    if !listed.status.success() {
        return Err(io::Error::other(String::from_utf8_lossy(&listed.stderr).trim().to_owned()));
    }
    for file in String::from_utf8_lossy(&listed.stdout).split_terminator('\0') {
        let (from, to) = (root.join(file), copy.join(file));
        // A file that was deleted but not yet committed is listed all the same.
        let Ok(bytes) = fs::read(&from) else { continue };
        if fs::read(&to).is_ok_and(|old| old == bytes) {
            continue;
        }
        fs::create_dir_all(to.parent().unwrap_or(copy))?;
        fs::write(&to, bytes)?;
        fs::set_permissions(&to, from.metadata()?.permissions())?;
    }
    Ok(())
}

/// The command line that asks for the same without the mutant.
fn arguments(options: &RaceOptions) -> Vec<std::ffi::OsString> {
    let mut words = vec!["race".into(), (&options.case).into()];
    let mut add = |option: &str, value: &dyn AsRef<std::ffi::OsStr>| {
        words.extend([option.into(), value.as_ref().to_owned()]);
    };
    match options.model {
        Some(ModelOption::Sc) => add("--model", &"sc"),
        Some(ModelOption::C11) => add("--model", &"c11"),
        None => {}
    }
    match options.rmap {
        Rmap::AnonVma => {}
        Rmap::Family => add("--rmap", &"family"),
    }
    if let Some(id) = &options.replay {
        add("--replay", id);
    }
    add("--budget", &options.budget.to_string());
    for (option, file) in [("--svg", &options.svg), ("--html", &options.html)] {
        if let Some(file) = file {
            add(option, file);
        }
    }
    if options.full {
        words.push("--full".into());
    }
    words
}

/// Runs a tool silently, while the progress line moves; what it printed is the error.
fn run(command: &mut Command, what: &str, progress: &mut Progress) -> Result<(), Error> {
    let output = std::thread::scope(|scope| {
        let tool = scope.spawn(|| command.stdin(Stdio::null()).output());
        while !tool.is_finished() {
            progress.tick();
            std::thread::sleep(BEAT);
        }
        tool.join().expect("it does not panic")
    });
    let tool = command.get_program().to_string_lossy().into_owned();
    let output = output.map_err(|e| failed(&format!("cannot start {tool}; install it"), &e))?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    let last: Vec<_> = said.lines().rev().take(8).collect();
    let last: Vec<_> = last.into_iter().rev().collect();
    Err(Error::usage(format_args!("{what}:\n{}", last.join("\n"))))
}

fn failed(what: &str, error: &io::Error) -> Error {
    Error::usage(format_args!("{what}: {error}"))
}

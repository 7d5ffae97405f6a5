//! What the integration tests share: running the command and looking at what it did.
#![allow(dead_code, reason = "each test file uses a part")]

use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, PoisonError};

use serde_json::Value;

/// The command under test.
pub(crate) fn anonmem() -> Command {
    Command::new(env!("CARGO_BIN_EXE_anonmem"))
}

/// Runs a command with bytes as its standard input.
pub(crate) fn run_with_input(command: &mut Command, input: &[u8]) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let feeder = std::thread::spawn(move || {
        // A program that does not read to the end is no failure.
        let _ = stdin.write_all(&input);
    });
    let output = child.wait_with_output().unwrap();
    feeder.join().unwrap();
    output
}

/// What a program did in the microVM.
pub(crate) struct Ran {
    pub(crate) status: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) bill: Value,
}

impl Ran {
    /// Checks the status and the books; everything is shown if they are wrong.
    pub(crate) fn expect_status(self, status: i32) -> Self {
        assert_eq!(self.status, Some(status), "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        assert_eq!(self.bill["frames_leaked"], 0, "{}", self.bill);
        assert_eq!(self.bill["validate"], "ok", "{}", self.bill);
        self
    }

    /// Checks that it printed this table; the first lines that differ are shown.
    pub(crate) fn expect_table(&self, expected: &str) {
        let pairs = expected.lines().zip(self.stdout.lines());
        let differ: Vec<_> = pairs.filter(|(ours, theirs)| ours != theirs).collect();
        let first = &differ[..differ.len().min(8)];
        assert!(differ.is_empty(), "{} lines differ, host and microVM: {first:#?}", differ.len());
        assert_eq!(self.stdout.lines().count(), expected.lines().count(), "{}", self.stderr);
    }
}

/// A run in the microVM: options, then the program.
pub(crate) struct Vm {
    options: Vec<String>,
    input: Vec<u8>,
}

impl Vm {
    pub(crate) fn new() -> Self {
        Self { options: Vec::new(), input: Vec::new() }
    }

    pub(crate) fn options(mut self, options: &[&str]) -> Self {
        self.options.extend(options.iter().map(ToString::to_string));
        self
    }

    pub(crate) fn input(mut self, input: &[u8]) -> Self {
        self.input = input.to_vec();
        self
    }

    pub(crate) fn run<S: AsRef<OsStr>>(&self, program: &[S]) -> Ran {
        let dir = tempfile::tempdir().unwrap();
        let bill = dir.path().join("bill");
        let mut command = anonmem();
        command.args(["run", "--bill", "json", "--timeout", "240", "--bill-file"]).arg(&bill);
        // A test that names them says what it is about.
        let named = self.options.iter().any(|option| option == "--folios");
        if let Some(folios) = std::env::var_os("ANONMEM_FOLIOS").filter(|_| !named) {
            command.arg("--folios").arg(folios);
        }
        let named = self.options.iter().any(|option| option == "--rmap");
        if let Some(rmap) = std::env::var_os("ANONMEM_RMAP").filter(|_| !named) {
            command.arg("--rmap").arg(rmap);
        }
        command.args(&self.options).arg("--").args(program);
        let output = run_with_input(&mut command, &self.input);
        let bill = std::fs::read(&bill).unwrap_or_default();
        Ran {
            status: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            bill: serde_json::from_slice(&bill).unwrap_or_default(),
        }
    }
}

/// Tells whether the microVM can run; says why not, and fails if it must (`ANONMEM_REQUIRE_VM`, which
/// `make test` sets).
pub(crate) fn vm_is_there() -> bool {
    let lacks = if anonmem_cli::vm::kernel::find(named_kernel().as_deref()).is_err() {
        "the kernel is not built (make kernel)"
    } else if anonmem_cli::vm::qemu::find(None, &std::env::var_os("PATH").unwrap_or_default()).is_err() {
        "QEMU is not installed (make deps)"
    } else {
        return true;
    };
    assert!(std::env::var_os("ANONMEM_REQUIRE_VM").is_none(), "{lacks}");
    eprintln!("skipped: {lacks}");
    false
}

fn named_kernel() -> Option<PathBuf> {
    std::env::var_os("ANONMEM_KERNEL").map(PathBuf::from)
}

/// What a program prints on the host, where it must succeed.
pub(crate) fn host_runs<S: AsRef<OsStr>>(program: &[S]) -> String {
    let words: Vec<_> = program.iter().map(AsRef::as_ref).collect();
    let output = Command::new(words[0]).args(&words[1..]).output().unwrap();
    assert!(output.status.success(), "{words:?} on the host: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Whether a setting of the host can be written, which needs root; says so if not.
pub(crate) fn host_lets_write(setting: &str) -> bool {
    let writable = std::fs::File::options().write(true).open(setting).is_ok();
    if !writable {
        eprintln!("skipped on the host: {setting} cannot be written");
    }
    writable
}

/// How a test program is linked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Linked {
    Static,
    Dynamic,
    /// To be loaded before a program's own libraries.
    Library,
}

/// Compiles a program of tests/programs, unless it is newer than its source; the result lies in cargo's
/// directory for test files.
pub(crate) fn compile(name: &str, linked: Linked) -> PathBuf {
    static LOCK: Mutex<()> = Mutex::new(());
    let _guard = LOCK.lock().unwrap_or_else(PoisonError::into_inner);
    let programs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/programs");
    let source = programs.join(name).with_extension("c");
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{linked:?}"));
    let made = |path: &Path| path.metadata().and_then(|m| m.modified()).ok();
    // Whatever it includes.
    let files = std::fs::read_dir(&programs).unwrap().map(|entry| entry.unwrap().path());
    let headers = files.filter(|path| path.extension() == Some(OsStr::new("h"))).map(|path| made(&path));
    if made(&out) > headers.chain([made(&source)]).max().flatten() {
        return out;
    }
    let fresh = out.with_extension(std::process::id().to_string());
    let mut cc = Command::new("cc");
    cc.args(["-O1", "-g", "-Wall", "-Wextra", "-Werror", "-pthread"]);
    match linked {
        Linked::Static => _ = cc.arg("-static"),
        Linked::Dynamic => {}
        Linked::Library => _ = cc.args(["-shared", "-fPIC"]),
    }
    let status = cc.arg("-o").arg(&fresh).arg(&source).status().unwrap();
    assert!(status.success(), "cc {}", source.display());
    std::fs::rename(&fresh, &out).unwrap();
    out
}

/// Runs a test program that prints a table on the host, then in the microVM, and compares line by line.
pub(crate) fn same_table_as_host(name: &str, options: &[&str]) {
    if !vm_is_there() {
        return;
    }
    let program = compile(name, Linked::Static);
    let expected = host_runs(&[&program]);
    let ran = Vm::new().options(options).run(&[&program]).expect_status(0);
    ran.expect_table(&expected);
}

/// Runs a test program on the host, then in the microVM with 1, 2 and 4 CPUs, and compares.
pub(crate) fn same_as_host(name: &str, linked: Linked, options: &[&str]) {
    same_as_host_on(&["1", "2", "4"], name, linked, options);
}

/// The same on these numbers of CPUs.
pub(crate) fn same_as_host_on(cpus: &[&str], name: &str, linked: Linked, options: &[&str]) {
    if !vm_is_there() {
        return;
    }
    let program = compile(name, linked);
    let expected = host_runs(&[&program]);
    assert_eq!(expected.lines().count(), 1);
    for cpus in cpus {
        let vm = Vm::new().options(&["--cpus", cpus]).options(options);
        let ran = vm.run(&[&program]).expect_status(0);
        assert_eq!(ran.stdout, expected, "{cpus} CPUs");
        assert_eq!(ran.bill["cpus"].to_string(), *cpus);
    }
}

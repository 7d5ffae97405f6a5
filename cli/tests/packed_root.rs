//! What is packed is enough: the archive is unpacked on the host and the program runs with it as its root
//! directory and with the guest's environment. Needs permission to change the root directory; is skipped
//! with a line otherwise.

mod common;

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::{anonmem, run_with_input};

/// An archive, unpacked, and its start record.
struct Root {
    dir: tempfile::TempDir,
    fields: Vec<(String, OsString)>,
}

/// Packs a program: in QEMU's place stands a script that keeps the archive.
fn pack(options: &[&str], program: &[&str]) -> Root {
    let dir = tempfile::tempdir().unwrap();
    let qemu = dir.path().join("qemu");
    let archive = dir.path().join("archive");
    let script = format!(
        "#!/bin/sh\nwhile [ $# -gt 0 ]; do test \"$1\" = -initrd && cp \"$2\" {}; shift; done\n",
        archive.display()
    );
    fs::write(&qemu, script).unwrap();
    fs::set_permissions(&qemu, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(dir.path().join("kernel"), "").unwrap();
    let mut command = anonmem();
    command.env("ANONMEM_QEMU", &qemu).env("ANONMEM_KERNEL", dir.path().join("kernel"));
    command.args(["run", "--accel", "tcg"]).args(options).arg("--").args(program);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(70), "{output:?}");
    let bytes = fs::read(&archive).unwrap();
    let record = unpack(&bytes, &dir.path().join("root"));
    let fields = record.split(|b| *b == 0).filter(|f| !f.is_empty()).map(|field| {
        let at = field.iter().position(|b| *b == b'=').unwrap();
        (String::from_utf8(field[..at].to_vec()).unwrap(), OsString::from_vec(field[at + 1..].to_vec()))
    });
    let fields = fields.collect();
    Root { dir, fields }
}

/// Unpacks a cpio archive; returns the start record.
fn unpack(bytes: &[u8], root: &Path) -> Vec<u8> {
    fs::create_dir(root).unwrap();
    let mut record = Vec::new();
    let mut at = 0;
    loop {
        let field = |n: usize| {
            let from = at + 6 + 8 * n;
            u32::from_str_radix(std::str::from_utf8(&bytes[from..from + 8]).unwrap(), 16).unwrap()
        };
        let (mode, len, name_len) = (field(1), field(6) as usize, field(11) as usize);
        let name = std::str::from_utf8(&bytes[at + 110..at + 110 + name_len - 1]).unwrap();
        let data_at = (at + 110 + name_len).next_multiple_of(4);
        let data = &bytes[data_at..data_at + len];
        let path = root.join(name);
        match mode & 0o170_000 {
            _ if name == "TRAILER!!!" => return record,
            _ if name == ".anonmem/run" => {
                assert!(record.is_empty() && at == 0, "the record comes first");
                record = data.to_vec();
            }
            0o040_000 => fs::create_dir_all(&path).unwrap(),
            0o120_000 => {
                std::os::unix::fs::symlink(OsString::from_vec(data.to_vec()), &path).unwrap();
            }
            0o100_000 => {
                fs::write(&path, data).unwrap();
                fs::set_permissions(&path, fs::Permissions::from_mode(mode & 0o777)).unwrap();
            }
            other => panic!("{name}: mode {other:o}"),
        }
        at = (data_at + len).next_multiple_of(4);
    }
}

impl Root {
    fn all(&self, key: &str) -> impl Iterator<Item = &OsString> {
        self.fields.iter().filter(move |(name, _)| name == key).map(|(_, value)| value)
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    /// Runs the packed program in its root directory, or says why it cannot.
    fn run(&self, input: &[u8]) -> Option<Output> {
        let mut probe = Command::new("chroot");
        if !probe.args(["/", "/bin/true"]).output().is_ok_and(|o| o.status.success()) {
            eprintln!("skipped: only root may change the root directory");
            return None;
        }
        let exe = self.all("exe").next().unwrap();
        // The name that the program sees as its own is the first argument, as execve would have it.
        let shell = r#"cd "$1"; root=$2; exe=$3; shift 3; exec chroot "$root" "$exe" "$@""#;
        let mut command = Command::new("/bin/sh");
        command.args(["-c", shell, "sh"]).arg("/").arg(self.path()).arg(exe);
        command.args(self.all("arg").skip(1)).env_clear();
        for env in self.all("env") {
            let text = env.to_str().unwrap();
            let (name, value) = text.split_once('=').unwrap();
            command.env(name, value);
        }
        // chroot itself is looked up with this.
        command.env("PATH", self.all("env").find_map(|e| e.to_str().unwrap().strip_prefix("PATH=")).unwrap());
        Some(run_with_input(&mut command, input))
    }
}

fn stdout(output: &Output) -> &str {
    assert!(output.status.success(), "{output:?}");
    std::str::from_utf8(&output.stdout).unwrap()
}

#[test]
fn sort_has_what_it_needs() {
    let root = pack(&["--cwd", "/job"], &["sort", "-r"]);
    assert_eq!(root.all("arg").collect::<Vec<_>>(), ["sort", "-r"]);
    assert!(root.path().join("job").is_dir());
    if let Some(output) = root.run(b"a\nb\n") {
        assert_eq!(stdout(&output), "b\na\n");
    }
}

#[test]
fn a_shell_has_its_commands() {
    let script = "echo b a | tr ' ' '\\n' | sort | md5sum; ls /etc | sort | head -2; id -un";
    for shell in ["sh", "bash"] {
        let root = pack(&[], &[shell, "-c", script]);
        if let Some(output) = root.run(b"") {
            assert_eq!(
                stdout(&output),
                "dd8c6a395b5dd36c56d23275028f526c  -\ngroup\nhostname\nroot\n",
                "{shell}"
            );
        }
    }
}

#[test]
fn python_has_its_library_and_nothing_of_the_hosts_environment() {
    let script = "
import sys, os, json, ctypes, decimal, sqlite3, hashlib, threading, multiprocessing, subprocess, zlib, ssl
assert set(os.environ) <= {'PATH', 'HOME', 'TERM', 'LANG', 'LC_CTYPE', 'PWD', 'OLDPWD', 'SHLVL', '_'}, os.environ
assert os.environ['HOME'] == '/root'
print(subprocess.check_output('echo from a shell | tr a-z A-Z', shell=True).decode().strip(), sys.getfilesystemencoding())
print(os.path.isfile(sys.executable))
";
    let root = pack(&[], &["python3", "-c", script]);
    if let Some(output) = root.run(b"") {
        assert_eq!(stdout(&output), "FROM A SHELL utf-8\nTrue\n");
    }
}

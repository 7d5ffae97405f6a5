//! Terminals: groups, sessions and stops; pseudo-terminals; the command's own terminal.
//!
//! Skipped with a line where the kernel or QEMU is missing; `make test` insists on both.

mod common;

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};

use common::{same_table_as_host, vm_is_there};

/// Who may join which group, what stops and goes on, and what becomes of a stopped group without a shell.
#[test]
fn groups_sessions_and_stops_are_as_on_linux() {
    for cpus in ["1", "4"] {
        same_table_as_host("groups", &["--cpus", cpus]);
    }
}

/// Doors, settings, editing, raw reads, sizes, and what is refused.
#[test]
fn pseudo_terminals_are_as_on_linux() {
    for cpus in ["1", "4"] {
        same_table_as_host("pty", &["--cpus", cpus]);
    }
}

/// Whose terminal it is, who is stopped for reading or writing, characters that are signals, hanging up.
#[test]
fn jobs_are_controlled_as_on_linux() {
    for cpus in ["1", "4"] {
        same_table_as_host("jobs", &["--cpus", cpus]);
    }
}

/// Whether there is a microVM, and somebody who types.
fn typist_is_there() -> bool {
    if !vm_is_there() {
        return false;
    }
    let is_there = Command::new("script").arg("--version").output().is_ok();
    if !is_there {
        eprintln!("skipped: script(1) is not installed");
    }
    is_there
}

/// A shell in the microVM whose terminal is one of `script`'s, and what has come of it so far.
struct Typist {
    child: Child,
    seen: String,
}

impl Typist {
    fn start() -> Self {
        // The command's number is said first: it is the inner shell's.
        let command = format!(
            "stty rows 33 cols 99; \
             sh -c 'echo number $$; exec {} run --bill none --timeout 240 -- busybox sh'; \
             s=$?; stty -a; exit $s",
            env!("CARGO_BIN_EXE_anonmem")
        );
        let mut script = Command::new("script");
        script.args(["-qefc", &command, "/dev/null"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        Self { child: script.spawn().unwrap(), seen: String::new() }
    }

    /// Waits until `text` has come, and forgets all up to it.
    fn until(&mut self, text: &str) {
        self.until_kept(text);
        let end = self.seen.find(text).unwrap() + text.len();
        self.seen.drain(..end);
    }

    /// Waits until `text` has come.
    fn until_kept(&mut self, text: &str) {
        let mut piece = [0; 1024];
        while !self.seen.contains(text) {
            let n = self.child.stdout.as_mut().unwrap().read(&mut piece).unwrap();
            assert!(n > 0, "no {text:?} in {:?}", self.seen);
            self.seen.push_str(&String::from_utf8_lossy(&piece[..n]));
        }
    }

    /// The number of the command.
    fn number(&mut self) -> String {
        self.until("number ");
        self.until_kept("\r\n");
        self.seen.split("\r\n").next().unwrap().to_owned()
    }

    /// The terminal is as it was; gives the command's status.
    fn restored(mut self) -> Option<i32> {
        self.until(" icanon");
        self.until(" echo ");
        self.child.wait().unwrap().code()
    }

    fn types(&mut self, text: &str) {
        self.child.stdin.as_mut().unwrap().write_all(text.as_bytes()).unwrap();
    }
}

/// The command's own terminal is the program's: a size, Ctrl-C, Ctrl-Z, and afterwards it is as it was.
#[test]
fn a_shell_has_the_terminal_of_the_command() {
    if !typist_is_there() {
        return;
    }
    let mut typist = Typist::start();
    // What is echoed has the quotes, so that it is not taken for what the shell says.
    typist.until("# ");
    typist.types("stty size; tty; test -t 1 && echo o''ut\n");
    typist.until("33 99\r\n/dev/console\r\nout");
    // The job itself says that it is there: a shell that has not yet made it the foreground's is who gets ^C.
    typist.types("sh -c 'echo re\"\"ady; exec sleep 1000'\n");
    typist.until("ready\r\n");
    typist.types("\x03");
    typist.until("# ");
    typist.types("echo sta''tus $?\n");
    typist.until("status 130");
    typist.types("sh -c 'echo re''ady; kill -TSTP $$; echo on; exit 3'\n");
    typist.until("Stopped");
    typist.types("fg; echo sta''tus $?\n");
    typist.until("status 3");
    typist.types("exit 7\n");
    assert_eq!(typist.restored(), Some(7));
}

/// However the command ends that has made its terminal raw, the terminal is as it was. It ends by one signal
/// that ends the program, by two that it does not heed, by one that few think of, and without QEMU.
#[test]
fn the_terminal_is_as_it_was_however_the_command_ends() {
    if !typist_is_there() {
        return;
    }
    let ends: [(&[&str], Option<i32>); 6] = [
        (&["-HUP"], Some(129)),
        (&["-TERM", "-TERM"], Some(130)),
        (&["-INT", "-INT"], Some(130)),
        (&["-QUIT", "-QUIT"], Some(130)),
        (&["-XCPU"], Some(152)),
        (&[], Some(70)),
    ];
    for (signals, status) in ends {
        let mut typist = Typist::start();
        let number = typist.number();
        typist.until("# ");
        for signal in signals {
            assert!(Command::new("kill").args([signal, number.as_str()]).status().unwrap().success());
            // Two at once may be one.
            std::thread::sleep(std::time::Duration::from_millis(500));
        }
        if signals.is_empty() {
            let children = std::fs::read_to_string(format!("/proc/{number}/task/{number}/children")).unwrap();
            let qemu = children.split_whitespace().next().expect("QEMU runs");
            assert!(Command::new("kill").args(["-KILL", qemu]).status().unwrap().success());
        }
        assert_eq!(typist.restored(), status, "{signals:?}");
    }
}

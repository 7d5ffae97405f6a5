//! The command against a guest that is a thread of the test.
//!
//! In QEMU's place stands a shell script that hands its arguments to the test through one pipe and waits
//! for a word to end through another; the test connects to the channel and plays the kernel.

mod common;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anonmem_cli::channel::frame::GuestFrame;
use common::{anonmem, run_with_input};

/// The stage: a script in QEMU's place and a file in the kernel's.
struct Stage {
    dir: tempfile::TempDir,
}

/// The guest's side, once the command has started "QEMU".
struct Guest {
    args: Vec<String>,
    dir: PathBuf,
    channel: Option<UnixStream>,
}

impl Stage {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for fifo in ["args", "end"] {
            assert!(Command::new("mkfifo").arg(dir.path().join(fifo)).status().unwrap().success());
        }
        let here = dir.path().display();
        let script = format!(
            "#!/bin/sh\nprintf '%s\\n' \"$@\" >{here}/args\nread word <{here}/end\n\
             test \"$word\" = complain && echo 'qemu: no such device' >&2\nexit 3\n"
        );
        fs::write(dir.path().join("qemu"), script).unwrap();
        fs::set_permissions(dir.path().join("qemu"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(dir.path().join("kernel"), "").unwrap();
        Self { dir }
    }

    fn command(&self, options: &[&str], program: &[&str]) -> Command {
        let mut command = anonmem();
        command.env("ANONMEM_QEMU", self.dir.path().join("qemu"));
        command.env("ANONMEM_KERNEL", self.dir.path().join("kernel"));
        command.args(["run", "--accel", "tcg"]).args(options).arg("--").args(program);
        command
    }

    /// Runs the command against a guest.
    fn play(
        &self,
        options: &[&str],
        program: &[&str],
        input: &[u8],
        guest: impl FnOnce(Guest) + Send,
    ) -> Output {
        let dir = self.dir.path().to_path_buf();
        std::thread::scope(|scope| {
            let guest = scope.spawn(|| guest(Guest::new(dir)));
            let output = run_with_input(&mut self.command(options, program), input);
            guest.join().unwrap();
            output
        })
    }
}

impl Guest {
    fn new(dir: PathBuf) -> Self {
        let args = fs::read_to_string(dir.join("args")).unwrap();
        Self { args: args.lines().map(String::from).collect(), dir, channel: None }
    }

    /// The argument after an option.
    fn argument(&self, option: &str) -> &str {
        let at = self.args.iter().position(|arg| arg == option).unwrap();
        &self.args[at + 1]
    }

    fn channel(&mut self) -> &mut UnixStream {
        let socket = self.args.iter().find_map(|arg| arg.strip_prefix("socket,id=ch0,path=")).unwrap();
        self.channel.get_or_insert_with(|| UnixStream::connect(socket).unwrap())
    }

    fn say(&mut self, frames: &[GuestFrame]) {
        let mut bytes = Vec::new();
        for frame in frames {
            frame.encode(&mut bytes);
        }
        self.channel().write_all(&bytes).unwrap();
    }

    fn hear(&mut self) -> (u8, Vec<u8>) {
        let mut header = [0; 8];
        self.channel().read_exact(&mut header).unwrap();
        let mut payload = vec![0; u32::from_le_bytes(header[4..].try_into().unwrap()) as usize];
        self.channel().read_exact(&mut payload).unwrap();
        (header[0], payload)
    }

    /// Ends "QEMU".
    fn end(mut self, word: &str) {
        self.channel = None;
        fs::write(self.dir.join("end"), format!("{word}\n")).unwrap();
    }
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn streams_status_and_bill_pass_through() {
    let stage = Stage::new();
    let output = stage.play(&["--ram", "64M", "--cpus", "3"], &["sort", "-r"], b"b\na\n", |mut guest| {
        assert_eq!(guest.argument("-smp"), "3");
        let archive = fs::read(guest.argument("-initrd")).unwrap();
        let record_at = archive.windows(4).position(|w| w == b"ram=").unwrap();
        assert!(record_at < 200, "the start record comes first");
        let record = String::from_utf8_lossy(&archive[record_at..record_at + 600]).into_owned();
        for field in
            ["ram=67108864\0", "cpus=3\0", "cwd=/root\0", "arg=sort\0", "arg=-r\0", "env=LANG=C.UTF-8\0"]
        {
            assert!(record.contains(field), "{field:?} in {record:?}");
        }
        guest.say(&[GuestFrame::Ready, GuestFrame::StdinWant(100)]);
        let mut input = Vec::new();
        loop {
            match guest.hear() {
                (16, bytes) => input.extend(bytes),
                (17, _) => break,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(input, b"b\na\n");
        guest.say(&[
            GuestFrame::Stdout(b"b\na\n\0\xfe".to_vec()),
            GuestFrame::Stderr(b"a warning\n".to_vec()),
            GuestFrame::Bill(br#"{"version":1,"cpus":3,"frames_leaked":0,"validate":"ok"}"#.to_vec()),
            GuestFrame::Exit(5),
        ]);
        guest.end("");
    });
    assert_eq!(output.status.code(), Some(5), "{output:?}");
    assert_eq!(output.stdout, b"b\na\n\0\xfe");
    let stderr = text(&output.stderr);
    assert!(stderr.starts_with("a warning\nmemory bill (3 CPUs, TCG"), "{stderr}");
}

#[test]
fn the_bill_goes_where_it_is_wanted() {
    let stage = Stage::new();
    let bill = br#"{"version":1,"cpus":1,"frames_leaked":2,"validate":"ok","new":{"key":1}}"#;
    let guest = |mut guest: Guest| {
        guest.say(&[GuestFrame::Ready, GuestFrame::Bill(bill.to_vec()), GuestFrame::Exit(0)]);
        guest.end("");
    };
    let file = stage.dir.path().join("bill.json");
    let options = ["--bill", "json", "--bill-file", file.to_str().unwrap()];
    let output = stage.play(&options, &["sort"], b"", guest);
    // The kernel's bill as it is, and how the CPUs were made, which only the host knows.
    let mut whole = bill[..bill.len() - 1].to_vec();
    whole.extend_from_slice(br#","accelerator":"TCG"}"#);
    assert_eq!(fs::read(&file).unwrap().trim_ascii_end(), whole);
    let stderr = text(&output.stderr);
    assert!(stderr.contains("2 frames leaked") && !stderr.contains("version"), "{stderr}");

    let output = stage.play(&["--bill", "none"], &["sort"], b"", guest);
    assert_eq!(text(&output.stderr).lines().count(), 1);
    let output = stage.play(&["--bill", "json"], &["sort"], b"", guest);
    assert!(text(&output.stderr).contains("\"new\":{\"key\":1}"));
}

#[test]
fn a_file_of_the_host_is_hinted_at_when_the_program_fails() {
    let stage = Stage::new();
    let file = stage.dir.path().join("hello.py");
    fs::write(&file, "").unwrap();
    let play = |status| {
        let output =
            stage.play(&["--bill", "none"], &["sort", file.to_str().unwrap()], b"", |mut guest: Guest| {
                guest.say(&[GuestFrame::Ready, GuestFrame::Exit(status)]);
                guest.end("");
            });
        text(&output.stderr).to_string()
    };
    assert!(play(2).contains(&format!("give it with --file {}", file.display())));
    assert!(!play(0).contains("--file"));
}

#[test]
fn a_guest_that_dies_leaves_its_last_words() {
    let stage = Stage::new();
    let output = stage.play(&[], &["sort"], b"", |mut guest| {
        fs::write(guest.argument("-serial").strip_prefix("file:").unwrap(), "panic: out of luck\n").unwrap();
        guest.say(&[GuestFrame::Log("started".into()), GuestFrame::Stdout(b"half".to_vec())]);
        guest.end("complain");
    });
    assert_eq!(output.status.code(), Some(70));
    assert_eq!(output.stdout, b"half");
    let stderr = text(&output.stderr);
    for words in ["died", "QEMU exited with 3", "started", "no such device", "panic: out of luck"] {
        assert!(stderr.contains(words), "{words} in {stderr}");
    }
}

#[test]
fn qemu_that_does_not_start_the_kernel_is_reported() {
    let stage = Stage::new();
    let output = stage.play(&[], &["sort"], b"", |guest| guest.end("complain"));
    assert_eq!(output.status.code(), Some(70));
    assert!(text(&output.stderr).contains("no such device"));
}

#[test]
fn time_runs_out() {
    let stage = Stage::new();
    let output = stage.play(&["--timeout", "0.2"], &["sort"], b"", |mut guest| {
        guest.say(&[GuestFrame::Ready]);
        let mut rest = Vec::new();
        // The command closes the channel when time is up.
        let _ = guest.channel().read_to_end(&mut rest);
    });
    assert_eq!(output.status.code(), Some(124));
    assert!(text(&output.stderr).contains("timed out after 0.2 s"));
}

#[test]
fn the_first_interrupt_is_the_programs_and_the_second_ends_the_run() {
    let stage = Stage::new();
    let mut child = stage
        .command(&[], &["sort"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut guest = Guest::new(stage.dir.path().to_path_buf());
    guest.say(&[GuestFrame::Ready]);
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(guest.hear(), (18, vec![2, 0, 0, 0]));
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
}

#[test]
fn a_reader_that_leaves_ends_the_program() {
    let stage = Stage::new();
    let mut command = stage.command(&["--bill", "none"], &["sort"]);
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let mut guest = Guest::new(stage.dir.path().to_path_buf());
    guest.say(&[GuestFrame::Ready, GuestFrame::Stdout(b"nobody reads this".to_vec())]);
    assert_eq!(guest.hear(), (18, vec![13, 0, 0, 0]));
    guest.say(&[GuestFrame::Exit(141)]);
    guest.end("");
    assert_eq!(child.wait().unwrap().code(), Some(141));
}

#[test]
fn large_output_and_input_are_exact() {
    let stage = Stage::new();
    let input: Vec<u8> = (0..300_000_u32).map(|n| (n % 251) as u8).collect();
    let output = stage.play(&["--bill", "none"], &["sort"], &input, |mut guest| {
        let mut heard = Vec::new();
        loop {
            guest.say(&[GuestFrame::StdinWant(4096)]);
            match guest.hear() {
                (16, bytes) => {
                    guest.say(&[GuestFrame::Stdout(bytes.clone())]);
                    heard.extend(bytes);
                }
                (17, _) => break,
                other => panic!("{other:?}"),
            }
        }
        guest.say(&[GuestFrame::Exit(0)]);
        guest.end("");
    });
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(output.stdout, input);
}

#[test]
fn mistakes_are_one_line_and_status_2() {
    let stage = Stage::new();
    let qemu = stage.dir.path().join("qemu");
    let no_path = Path::new("/nonexistent");
    let mistakes: [(&[&str], &str); 8] = [
        (&["run", "--", "no-such-program-anywhere"], "no-such-program-anywhere"),
        (&["run", "--", "/no/such/program"], "/no/such/program"),
        (&["run", "--ram", "much", "--", "/bin/sh"], "not a size"),
        (&["run", "--ram", "1K", "--", "/bin/sh"], "out of range"),
        (&["run"], "PROGRAM"),
        (&["run", "--file", "/no/such/file", "--", "/bin/sh"], "/no/such/file"),
        (&["run", "--kernel", "/no/kernel", "--", "/bin/sh"], "make kernel"),
        (&["run", "--bill", "none", "--bill-file", "x", "--", "/bin/sh"], "--bill-file"),
    ];
    for (args, words) in mistakes {
        let output = anonmem().args(args).env("ANONMEM_QEMU", &qemu).output().unwrap();
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {stderr}");
        assert!(stderr.contains(words), "{args:?}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{args:?}: {stderr}");
    }
    let output = anonmem().args(["run", "--", "/bin/sh"]).env("PATH", no_path).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("qemu-system-x86"), "{output:?}");
}

#[test]
fn nothing_is_left_behind() {
    let stage = Stage::new();
    let tmp = stage.dir.path().join("tmp");
    fs::create_dir(&tmp).unwrap();
    let mut command = stage.command(&["--timeout", "30"], &["sort"]);
    let mut child = command.env("TMPDIR", &tmp).stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut guest = Guest::new(stage.dir.path().to_path_buf());
    assert_eq!(fs::read_dir(&tmp).unwrap().count(), 1);
    guest.say(&[GuestFrame::Exit(0)]);
    guest.end("");
    assert!(child.wait().unwrap().success());
    assert_eq!(fs::read_dir(&tmp).unwrap().count(), 0);
}

/// What the kernel tells while the program runs is shown, and drawn in the page at the end.
#[test]
fn looks_at_what_is_used_become_lines_and_a_page() {
    let stage = Stage::new();
    let file = stage.dir.path().join("bill.html");
    let options = ["--watch", "--bill", "html", "--bill-file", file.to_str().unwrap()];
    let output = stage.play(&options, &["true"], b"", |mut guest| {
        let sample = |ms: u64| {
            let json = format!(
                "{{\"ms\":{ms},\"total\":4096000,\"free\":0,\"user\":{},\"tables\":4096,\"swap\":4096,\"faults\":{ms},\
                 \"forks\":1,\"swap_outs\":2,\"swap_ins\":1,\"folios\":{{\"16\":1}},\"processes\":[{{\"pid\":2,\
                 \"name\":\"true\",\"rss\":16384,\"swap\":0,\"faults\":9}}]}}",
                ms * 1024
            );
            GuestFrame::Sample(json.into_bytes())
        };
        guest.say(&[GuestFrame::Ready, sample(1000), GuestFrame::Stdout(b"out\n".to_vec()), sample(2000)]);
        guest.say(&[GuestFrame::Bill(b"{\"forks\":7}".to_vec()), GuestFrame::Exit(0)]);
        guest.end("");
    });
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(0), "out\n"), "{output:?}");
    let lines: Vec<_> = text(&output.stderr).lines().collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(
        lines[1].starts_with("anonmem: 2.0 s: memory 2.0 MiB of 3.9 MiB") && lines[1].contains("(1000/s)")
    );
    let page = fs::read_to_string(&file).unwrap();
    assert!(page.matches("<svg").count() == 5 && page.contains("<code>true</code>"), "{page}");

    let output = stage.command(&["--bill", "html"], &["true"]).output().unwrap();
    assert!(output.status.code() == Some(2) && text(&output.stderr).contains("--bill-file"), "{output:?}");
}

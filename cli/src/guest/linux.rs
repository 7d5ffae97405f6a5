//! The program as the first process of a Linux kernel, in the same QEMU with the same memory and CPUs.
//!
//! The machine type is q35 and not microvm: under QEMU's translator microvm has no clock that a
//! distribution's kernel can calibrate its own by. The initial archive holds the program and nothing else;
//! the console is the first serial line, which QEMU writes to its standard output.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use rustix::process::{Signal, set_parent_process_death_signal};

use super::image::Image;
use super::kinds::Work;
use super::options::Clock;
use super::setup::{BOOT_LIMIT, Setup, limit, memory_mib, on_host};
use super::transcript::{Taken, Transcript};
use crate::channel::signals::Signals;
use crate::error::{Error, Result};
use crate::pack::cpio::write_archive;
use crate::pack::tree::{Content, Node, Tree};
use crate::vm::machine::tail;
use crate::vm::qemu::cpu_arguments;

/// The machine that Linux boots on.
pub(super) const MACHINE: &str = "q35";
/// How often the user's interrupt is looked for.
const TICK: Duration = Duration::from_millis(100);
/// How long the guest may take to switch itself off.
const POWER_OFF_GRACE: Duration = Duration::from_secs(10);

/// A QEMU process; whoever drops it ends it.
struct Guest {
    child: Child,
    lines: Receiver<String>,
}

/// Boots, runs the program, and reads what it prints.
///
/// # Errors
///
/// The guest did not come up, died, took too long, or the user interrupted; the last lines tell more.
pub(super) fn run(setup: &mut Setup, work: &Work, clock: Clock) -> Result<Transcript> {
    let Some(image) = &setup.image else { return Ok(Transcript::default()) };
    let shown = image.path.display().to_string();
    let archive = setup.dir.path().join("initramfs");
    let errors = setup.dir.path().join("qemu-linux");
    if !archive.exists() {
        write_initramfs(&setup.program, &archive)
            .map_err(|e| on_host("cannot write Linux's initial archive", &e))?;
    }
    let mut command = Command::new(&setup.qemu);
    command.args(arguments(setup, image, work, clock)?).arg("-initrd").arg(&archive);
    let guest = Guest::start(command, &errors)
        .map_err(|e| on_host(&format!("cannot start {}", setup.qemu.display()), &e))?;
    let mut transcript = Transcript::default();
    let how = match guest.follow(&mut transcript, &mut setup.signals, &setup.bar, limit(work)) {
        Followed::Ended => {
            guest.wait(POWER_OFF_GRACE);
            return Ok(transcript);
        }
        Followed::Interrupted => return Err(Error::Interrupted),
        Followed::Gone => format!("{shown} stopped before the program ended"),
        Followed::Timeout if transcript.kernel.is_none() => format!(
            "{shown} did not come up in {} s; it needs a console on ttyS0, ACPI and an initramfs",
            BOOT_LIMIT.as_secs()
        ),
        Followed::Timeout => {
            format!("the program took far too long on {shown}; try fewer --cpus or less --seconds")
        }
    };
    drop(guest);
    let mut log = tail(&errors, 8);
    log.append(&mut transcript.failed);
    log.append(&mut transcript.said);
    Err(Error::GuestDied { how: format!("{how}; its last words:"), log })
}

/// An archive with the program as `/init`. The console's device is in the archive that kernels have built in.
fn write_initramfs(program: &Path, archive: &Path) -> io::Result<()> {
    let mut tree = Tree::new();
    let content = Content::Host(program.into());
    tree.add_new(Path::new("/init"), Node::File { content, mode: 0o755, mtime: 0 })?;
    let mut out = io::BufWriter::new(File::create(archive)?);
    // Linux passes over the start record: its directory is not there.
    write_archive(&mut out, b"", &tree, |_| {})?;
    io::Write::flush(&mut out)
}

fn arguments(setup: &Setup, image: &Image, work: &Work, clock: Clock) -> Result<Vec<OsString>> {
    let mut args: Vec<OsString> =
        cpu_arguments(setup.accelerator(clock)).into_iter().map(OsString::from).collect();
    let memory = format!("{}M", memory_mib(setup)?);
    let cpus = work.tasks.to_string();
    let words =
        ["-M", MACHINE, "-smp", &cpus, "-m", &memory, "-nodefaults", "-no-user-config", "-display", "none"];
    args.extend(words.map(OsString::from));
    args.extend(
        ["-no-reboot", "-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"]
            .map(OsString::from),
    );
    args.extend([
        "-kernel".into(),
        image.path.clone().into(),
        "-append".into(),
        command_line(image, work).into(),
    ]);
    Ok(args)
}

/// Linux hands what follows two dashes to the first process.
fn command_line(image: &Image, work: &Work) -> String {
    let program: Vec<_> = work.arguments().iter().map(|a| a.to_string_lossy().into_owned()).collect();
    let extra = if image.arguments.is_empty() { String::new() } else { format!("{} ", image.arguments) };
    format!("console=ttyS0 quiet panic=-1 {extra}-- {}", program.join(" "))
}

/// How following the console ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Followed {
    Ended,
    Gone,
    Timeout,
    Interrupted,
}

impl Guest {
    fn start(mut command: Command, errors: &Path) -> io::Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(File::create(errors)?).process_group(0);
        // SAFETY: between fork and exec only one system call is made, which allocates nothing.
        unsafe {
            command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?));
        }
        let mut child = command.spawn()?;
        let (sender, lines) = mpsc::channel();
        let stdout = child.stdout.take();
        std::thread::spawn(move || read(stdout, &sender));
        Ok(Self { child, lines })
    }

    /// Reads the console until the program has ended, or something is wrong.
    fn follow(
        &self,
        transcript: &mut Transcript,
        signals: &mut Signals,
        bar: &ProgressBar,
        limit: Duration,
    ) -> Followed {
        let start = Instant::now();
        loop {
            match self.lines.recv_timeout(TICK) {
                Ok(line) => match transcript.take(&line) {
                    Taken::Row => bar.inc(1),
                    Taken::End => return Followed::Ended,
                    Taken::Other => {}
                },
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Followed::Gone,
            }
            if !signals.take().is_empty() {
                return Followed::Interrupted;
            }
            let limit = if transcript.kernel.is_some() { limit } else { BOOT_LIMIT };
            if start.elapsed() > limit {
                return Followed::Timeout;
            }
        }
    }

    /// Waits until QEMU has closed its output, which it does when it ends.
    fn wait(&self, grace: Duration) {
        let deadline = Instant::now() + grace;
        while self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())).is_ok() {}
    }
}

/// Sends each line; a console's bytes need not be text.
fn read(stdout: Option<ChildStdout>, sender: &mpsc::Sender<String>) {
    let Some(stdout) = stdout else { return };
    for line in BufReader::new(stdout).split(b'\n').map_while(io::Result::ok) {
        if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
            return;
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // Nothing is left to do about a failure: the process is ours and is asked for the last time.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::kinds;
    use crate::pack::cpio::tests::read_archive;
    use crate::values::Folios;

    #[test]
    fn the_first_process_gets_the_programs_arguments() {
        let image = Image { path: "/k".into(), arguments: "mitigations=off".into() };
        let kinds = kinds::select(&["fork".into()]).unwrap();
        let work =
            Work { window_ms: 9, warm_ms: 2, tasks: 3, region_pages: 256, kinds, folios: Folios::none() };
        let expected = "console=ttyS0 quiet panic=-1 mitigations=off -- 9 2 3 256 fork processes,threads 4K";
        assert_eq!(command_line(&image, &work), expected);
    }

    /// Follows a shell script's output as a guest's console.
    fn follow(script: &str, limit: Duration) -> (Followed, Transcript) {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        let guest = Guest::start(command, &dir.path().join("errors")).unwrap();
        let (mut transcript, mut signals) = (Transcript::default(), Signals::new().unwrap());
        let end = guest.follow(&mut transcript, &mut signals, &ProgressBar::hidden(), limit);
        (end, transcript)
    }

    #[test]
    fn a_console_is_followed_to_the_end_of_the_program() {
        let script =
            "printf 'boot\\377\\r\\n@bench begin Linux 6 2\\r\\n@bench end\\n'; exec tail -f /dev/null";
        let (end, transcript) = follow(script, BOOT_LIMIT);
        assert_eq!((end, transcript.kernel.as_deref()), (Followed::Ended, Some("Linux 6")));
        let (end, transcript) = follow("echo 'Kernel panic'", BOOT_LIMIT);
        assert_eq!((end, transcript.said), (Followed::Gone, vec!["Kernel panic".to_string()]));
        let script = "echo @bench begin Linux 6 2; exec tail -f /dev/null";
        assert_eq!(follow(script, Duration::ZERO).0, Followed::Timeout);
    }

    #[test]
    fn the_archive_has_an_init() {
        let dir = tempfile::tempdir().unwrap();
        let (program, archive) = (dir.path().join("p"), dir.path().join("a"));
        std::fs::write(&program, "bytes").unwrap();
        write_initramfs(&program, &archive).unwrap();
        let entries = read_archive(&std::fs::read(&archive).unwrap());
        assert_eq!((entries[1].0.as_str(), entries[1].1), ("init", 0o100_755));
    }
}

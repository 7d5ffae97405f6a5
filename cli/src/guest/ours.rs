//! The program in the microVM, as `anonmem run` runs one.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, PipeReader, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use indicatif::ProgressBar;

use super::kinds::Work;
use super::options::Clock;
use super::setup::{BOOT_LIMIT, Setup, limit, on_host};
use super::transcript::{Taken, Transcript};
use crate::bill;
use crate::channel::session::{Connection, End, LogLevel, Outcome, Session, streams, wait_for_connection};
use crate::channel::signals::Signals;
use crate::error::{Error, Result};
use crate::pack::cpio::write_archive;
use crate::pack::record::{Poison, RunRecord};
use crate::pack::tree::{Content, Node, Tree};
use crate::progress::Progress;
use crate::values::SwapBackend;
use crate::vm::machine::{Machine, Spec, describe};

const PROGRAM: &str = "/bin/init";
/// How long QEMU may take to end once the kernel has powered off.
const QEMU_GRACE: Duration = Duration::from_secs(5);

/// Boots, runs the program, and reads what it prints.
///
/// # Errors
///
/// The guest did not come up, died, took too long, or the user interrupted; the last lines tell more.
pub(super) fn run(setup: &mut Setup, work: &Work, clock: Clock) -> Result<Transcript> {
    let dir = tempfile::tempdir_in(setup.dir.path());
    let dir = dir.map_err(|e| on_host("cannot make a temporary directory", &e))?;
    let archive = dir.path().join("archive");
    write_package(setup, work, &archive)?;
    let spec = Spec {
        qemu: &setup.qemu,
        kernel: &setup.microvm,
        archive: &archive,
        disks: &[],
        ram: setup.ram,
        cpus: work.tasks,
        accelerator: setup.accelerator(clock),
    };
    let machine = Machine::boot(&spec, dir.path());
    let machine = machine.map_err(|e| on_host(&format!("cannot start {}", setup.qemu.display()), &e))?;
    let (transcript, outcome) = converse(&machine, &mut setup.signals, &setup.bar, limit(work))?;
    finish(machine, transcript, outcome)
}

fn write_package(setup: &Setup, work: &Work, archive: &Path) -> Result<()> {
    let mut args = vec![PROGRAM.into()];
    args.extend(work.arguments());
    let record = RunRecord {
        ram: setup.ram,
        cpus: work.tasks,
        swap: 0,
        swap_backend: SwapBackend::Lz4,
        swap_disk: None,
        lock: setup.lock,
        rmap: setup.rmap,
        nodes: 1,
        folios: &setup.folios,
        poison: Poison::Off,
        terminal: None,
        watch_ms: 0,
        cwd: Path::new("/"),
        exe: Path::new(PROGRAM),
        args: &args,
        env: &[],
    };
    let record = record.to_bytes()?;
    let write = || -> io::Result<()> {
        let mut tree = Tree::new();
        let content = Content::Host(setup.program.clone());
        tree.add_new(Path::new(PROGRAM), Node::File { content, mode: 0o755, mtime: 0 })?;
        tree.add_dir(Path::new("/tmp"), 0o1777)?;
        let mut out = BufWriter::new(File::create(archive)?);
        write_archive(&mut out, &record, &tree, |_| {})?;
        out.flush()
    };
    write().map_err(|e| on_host("cannot write the initial archive", &e))
}

/// Talks with the kernel until the end; another thread reads the program's output meanwhile.
fn converse(
    machine: &Machine,
    signals: &mut Signals,
    bar: &ProgressBar,
    limit: Duration,
) -> Result<(Transcript, Outcome)> {
    let failed = |e: io::Error| on_host("cannot talk with the microVM", &e);
    let deadline = Instant::now() + limit;
    let mut quiet = Progress::new();
    quiet.finish();
    let (listener, gone) = (machine.listener().as_fd(), machine.gone().as_fd());
    let come_up = Some(Instant::now() + BOOT_LIMIT);
    let end = match wait_for_connection(listener, gone, signals, &mut quiet, come_up).map_err(failed)? {
        Connection::Ready => None,
        Connection::Gone => Some(End::Died),
        Connection::Timeout => Some(End::Timeout),
        Connection::Interrupted => Some(End::Interrupted),
    };
    if let Some(end) = end {
        return Ok((Transcript::default(), Outcome { end, bill: Vec::new(), log: Vec::new() }));
    }
    let channel = machine.accept().map_err(failed)?;
    let (reader, writer) = io::pipe().map_err(failed)?;
    let nothing = File::open("/dev/null").map_err(failed)?;
    std::thread::scope(|scope| {
        let reading = scope.spawn(move || read(reader, bar));
        let ends = streams(&nothing, &writer, &writer);
        let session = Session::new(&channel, ends, signals, &mut quiet, LogLevel::Warnings, Some(deadline));
        let outcome = session.and_then(Session::run).map_err(failed);
        drop(writer);
        let transcript = reading.join().unwrap_or_default();
        Ok((transcript, outcome?))
    })
}

fn read(pipe: PipeReader, bar: &ProgressBar) -> Transcript {
    let mut transcript = Transcript::default();
    // Bytes that are no text end the reading: the transcript then lacks its end, and the caller says so.
    for line in BufReader::new(pipe).lines().map_while(io::Result::ok) {
        if transcript.take(&line) == Taken::Row {
            bar.inc(1);
        }
    }
    transcript
}

fn finish(mut machine: Machine, transcript: Transcript, outcome: Outcome) -> Result<Transcript> {
    let how = match outcome.end {
        End::Exit(0) if transcript.ended => {
            if let Some(complaint) =
                serde_json::from_slice(&outcome.bill).ok().as_ref().and_then(bill::complaint)
            {
                crate::out::say(format_args!("{complaint}; this is a bug of anonmem, please report it"));
            }
            machine.wait(QEMU_GRACE).map_err(|e| on_host("cannot wait for QEMU", &e))?;
            return Ok(transcript);
        }
        // The program was told to end by a signal that was passed on.
        End::Exit(status) if status > 128 && transcript.failed.is_empty() && !transcript.ended => {
            match status - 128 {
                1 | 2 | 15 => return Err(Error::Interrupted),
                signal => format!("the program was ended by signal {signal} in the microVM"),
            }
        }
        End::Exit(status) => format!("the program ended with status {status} in the microVM"),
        End::Died => {
            let status = machine.wait(QEMU_GRACE).map_err(|e| on_host("cannot wait for QEMU", &e))?;
            format!("the microVM died ({})", describe(status))
        }
        End::Broken(error) => format!("the microVM sent {error}"),
        End::Timeout if transcript.kernel.is_none() => {
            format!("the microVM did not come up in {} s", BOOT_LIMIT.as_secs())
        }
        End::Timeout => {
            "the program in the microVM took far too long; try fewer --cpus or less --seconds".into()
        }
        End::Interrupted => return Err(Error::Interrupted),
    };
    let mut log = transcript.failed;
    log.extend(transcript.said);
    log.extend(machine.last_words());
    Err(Error::GuestDied { how: format!("{how}; its last words:"), log })
}

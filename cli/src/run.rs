//! `anonmem run`: packs, boots, carries the streams, prints the bill.

use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::args::RunOptions;
use crate::bill;
use crate::channel::session::{
    Connection, End, LogLevel, Outcome, Session, own_streams, wait_for_connection,
};
use crate::channel::signals::Signals;
use crate::channel::terminal::Terminal;
use crate::error::{Error, Result};
use crate::out;
use crate::pack::cpio::write_archive;
use crate::pack::record::{Poison, RunRecord};
use crate::pack::{self, Package};
use crate::progress::Progress;
use crate::values::{BillFormat, SwapBackend};
use crate::vm::disk::{self, Disk};
use crate::vm::machine::{Machine, Spec, describe};
use crate::vm::qemu::Accelerator;
use crate::vm::{accel, kernel, qemu};
use crate::watch::sample::Shown;
use crate::watch::{Watch, html};

/// Milliseconds between two looks at what is used.
const WATCH_MS: u64 = 100;
/// How long QEMU may take to end once the kernel has powered off.
const QEMU_GRACE: Duration = Duration::from_secs(5);

/// Runs a program in a microVM and returns the status to exit with.
///
/// # Errors
///
/// See [`Error`]; each has its exit status.
pub fn run(options: &RunOptions) -> Result<u8> {
    if options.bill == BillFormat::None && options.bill_file.is_some() {
        return Err(Error::usage(
            "--bill none writes no bill; leave out --bill-file, or choose text or json",
        ));
    }
    if options.bill == BillFormat::Html && options.bill_file.is_none() {
        return Err(Error::usage("--bill html writes a page; say where with --bill-file PATH"));
    }
    if options.swap_file.is_some() && options.swap_backend != SwapBackend::Disk {
        return Err(Error::usage("--swap-file is for --swap-backend disk; add that, or leave the file out"));
    }
    if options.swap_backend == SwapBackend::Disk && options.swap == 0 {
        return Err(Error::usage("--swap-backend disk needs to know how much: add --swap SIZE"));
    }
    out::check_writable([options.bill_file.as_deref()])?;
    let mut disks = options.disks.iter().map(Disk::of_option).collect::<Result<Vec<_>>>()?;
    let search_path = std::env::var_os("PATH").unwrap_or_default();
    let mut progress = Progress::new();
    let package = pack::pack(options, &search_path, &mut progress)?;
    let qemu = qemu::find(options.qemu.as_deref(), &search_path)?;
    let kernel = kernel::find(options.kernel.as_deref())?;
    let mut signals = Signals::new().map_err(|e| on_host("cannot watch for signals", e))?;
    let accelerator = accel::choose(options.accel, &qemu, &kernel, &mut signals, &mut progress)?;

    let dir = tempfile::Builder::new().prefix("anonmem-").tempdir();
    let dir = dir.map_err(|e| on_host("cannot make a temporary directory", e))?;
    let archive = dir.path().join("archive");
    let swap_disk = swap_disk(options, dir.path())?.map(|path| {
        disks.push(Disk::for_swap(path));
        disk::name(disks.len() - 1)
    });
    disk::check_all(&disks)?;
    let terminal = Terminal::of(own_descriptors());
    if terminal.is_some() {
        signals = signals.with_terminal().map_err(|e| on_host("cannot watch for signals", e))?;
    }
    write_package(options, &package, swap_disk.as_deref(), terminal, &archive, &mut progress)?;
    progress.step("booting");
    let spec = Spec {
        qemu: &qemu,
        kernel: &kernel,
        archive: &archive,
        disks: &disks,
        ram: options.ram,
        cpus: options.cpus,
        accelerator,
    };
    let machine = Machine::boot(&spec, dir.path());
    let machine = machine.map_err(|e| on_host(&format!("cannot start {}", qemu.display()), e))?;
    let mut watch = Watch::new(if options.watch { Shown::Yes } else { Shown::No });
    let (machine, outcome) = converse(options, machine, &mut signals, &mut progress, &mut watch)?;
    let status = finish(options, accelerator, machine, outcome, &watch)?;
    if status != 0 {
        hint_at_files(options, &package);
    }
    Ok(status)
}

/// Says which arguments of a program that failed are files of the host and not of the guest.
fn hint_at_files(options: &RunOptions, package: &Package) {
    for word in options.program.iter().skip(1).map(Path::new) {
        let in_guest = options.cwd.join(word);
        if word.is_file() && package.tree.get(&in_guest).is_none() {
            let word = word.display();
            out::say(format_args!(
                "{word} is a file of this host and not of the microVM; give it with --file {word}"
            ));
        }
    }
}

/// The command's own standard streams.
fn own_descriptors() -> [BorrowedFd<'static>; 3] {
    [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()]
}

/// Whether anybody wants to know what is used while the program runs.
fn is_watched(options: &RunOptions) -> bool {
    options.watch || options.bill == BillFormat::Html
}

fn on_host(what: &str, error: io::Error) -> Error {
    Error::usage(format_args!("{what}: {error}"))
}

/// Makes the file that is swapped to, if one is wanted: as long as the swap space, without blocks until they
/// are written.
fn swap_disk(options: &RunOptions, dir: &Path) -> Result<Option<PathBuf>> {
    if options.swap == 0 || options.swap_backend != SwapBackend::Disk {
        return Ok(None);
    }
    let path = options.swap_file.clone().unwrap_or_else(|| dir.join("swap"));
    let failed = |e: io::Error| on_host(&format!("cannot swap to {}", path.display()), e);
    let file =
        File::options().read(true).write(true).create(true).truncate(false).open(&path).map_err(failed)?;
    let kind = file.metadata().map_err(failed)?.file_type();
    if kind.is_block_device() {
        let len = (&file).seek(SeekFrom::End(0)).map_err(failed)?;
        if len < options.swap {
            let path = path.display();
            return Err(Error::usage(format_args!("{path} has {len} bytes, fewer than --swap asks for")));
        }
    } else if kind.is_file() {
        file.set_len(options.swap).map_err(failed)?;
    } else {
        let path = path.display();
        return Err(Error::usage(format_args!("{path} is neither a file nor a block device to swap to")));
    }
    Ok(Some(path))
}

/// Writes the initial archive.
fn write_package(
    options: &RunOptions,
    package: &Package,
    swap_disk: Option<&str>,
    terminal: Option<Terminal>,
    archive: &Path,
    progress: &mut Progress,
) -> Result<()> {
    let terminal = terminal.as_ref().map(Terminal::record);
    let record = RunRecord {
        ram: options.ram,
        cpus: options.cpus,
        nodes: options.nodes,
        swap: options.swap,
        swap_backend: options.swap_backend,
        swap_disk,
        lock: options.lock,
        rmap: options.rmap,
        folios: &options.folios,
        poison: if options.no_poison { Poison::Off } else { Poison::On },
        terminal: terminal.as_deref(),
        watch_ms: if is_watched(options) { WATCH_MS } else { 0 },
        cwd: &options.cwd,
        exe: &package.program.exe,
        args: &package.program.args,
        env: &package.env,
    };
    let record = record.to_bytes()?;
    let write = |progress: &mut Progress| -> io::Result<()> {
        let mut out = BufWriter::with_capacity(1 << 20, File::create(archive)?);
        write_archive(&mut out, &record, &package.tree, |_| progress.tick())?;
        out.flush()
    };
    write(progress).map_err(|e| on_host("cannot write the initial archive", e))
}

/// Waits for the kernel and talks with it until the end.
fn converse(
    options: &RunOptions,
    machine: Machine,
    signals: &mut Signals,
    progress: &mut Progress,
    watch: &mut Watch,
) -> Result<(Machine, Outcome)> {
    let deadline = options.timeout.map(|seconds| Instant::now() + Duration::from_secs_f64(seconds));
    let on_channel =
        |e: io::Error| Error::GuestDied { how: format!("input or output failed: {e}"), log: Vec::new() };
    let (listener, gone) = (machine.listener().as_fd(), machine.gone().as_fd());
    let connection = wait_for_connection(listener, gone, signals, progress, deadline);
    let end = match connection.map_err(on_channel)? {
        Connection::Ready => {
            let channel = machine.accept().map_err(on_channel)?;
            let log_level = if options.verbose { LogLevel::All } else { LogLevel::Warnings };
            let session = Session::new(&channel, own_streams(), signals, progress, log_level, deadline);
            let session = session.map_err(on_channel)?.watched_by(watch);
            let session =
                if Terminal::of(own_descriptors()).is_some() { session.with_terminal() } else { session };
            let outcome = session.run().map_err(on_channel)?;
            return Ok((machine, outcome));
        }
        Connection::Gone => End::Died,
        Connection::Timeout => End::Timeout,
        Connection::Interrupted => End::Interrupted,
    };
    progress.finish();
    Ok((machine, Outcome { end, bill: Vec::new(), log: Vec::new() }))
}

/// Turns the end of the conversation into the command's own: the bill, the status, or what went wrong.
fn finish(
    options: &RunOptions,
    accelerator: Accelerator,
    mut machine: Machine,
    outcome: Outcome,
    watch: &Watch,
) -> Result<u8> {
    let died = |machine: &Machine, how: String, mut log: Vec<String>| {
        let last = machine.last_words();
        // The serial line has most of the log as well.
        log.retain(|line| !last.iter().any(|other| other.contains(line.as_str())));
        log.extend(last);
        Err(Error::GuestDied { how, log })
    };
    match outcome.end {
        End::Exit(status) => {
            machine.wait(QEMU_GRACE).map_err(|e| on_host("cannot wait for QEMU", e))?;
            write_bill(options, accelerator, &outcome.bill, watch)?;
            Ok(u8::try_from(status & 0xff).unwrap_or(u8::MAX))
        }
        End::Died => {
            let status = machine.wait(QEMU_GRACE).map_err(|e| on_host("cannot wait for QEMU", e))?;
            let how =
                format!("the microVM died before the program ended ({}); its last words:", describe(status));
            died(&machine, how, outcome.log)
        }
        End::Broken(error) => {
            died(&machine, format!("the microVM sent {error}; its last words:"), outcome.log)
        }
        End::Timeout => Err(Error::Timeout(options.timeout.unwrap_or_default())),
        End::Interrupted => Err(Error::Interrupted),
    }
}

/// Prints the bill where the user wants it; leaks and wrong books are said in any case.
fn write_bill(options: &RunOptions, accelerator: Accelerator, bytes: &[u8], watch: &Watch) -> Result<()> {
    let parsed: Option<Value> = serde_json::from_slice(bytes).ok();
    if let Some(complaint) = parsed.as_ref().and_then(bill::complaint) {
        out::say(format_args!("{complaint}; this is a bug of anonmem, please report it"));
    }
    if options.bill == BillFormat::None {
        return Ok(());
    }
    let Some(mut parsed) = parsed else {
        out::say("the kernel sent no memory bill that can be read");
        return Ok(());
    };
    if let Value::Object(bill) = &mut parsed {
        bill.insert("accelerator".into(), accelerator.name().into());
    }
    let text = match options.bill {
        BillFormat::Json => format!("{parsed}\n"),
        BillFormat::Html => {
            let words: Vec<_> = options.program.iter().map(|word| word.to_string_lossy()).collect();
            html::page(&watch.samples(), &parsed, &words.join(" "))
        }
        BillFormat::Text | BillFormat::None => bill::render_text(&parsed),
    };
    match &options.bill_file {
        Some(path) => std::fs::write(path, text).map_err(|e| {
            Error::usage(format_args!("cannot write the memory bill to {}: {e}", path.display()))
        }),
        None => {
            // A closed standard error is the user's choice.
            let _ = io::stderr().write_all(text.as_bytes());
            Ok(())
        }
    }
}

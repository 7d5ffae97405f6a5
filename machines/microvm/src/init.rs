//! The kernel's own process: starts the program, takes in orphans, and accounts for everything at the end.

use crate::arch::trap::TrapFrame;
use crate::arch::{power, time};
use crate::console::{self, to_guest, to_host};
use crate::fs::table::{FdTable, NR_OPEN, OnExec};
use crate::fs::{self, FsContext, open, timer};
use crate::proc::process::{ExitStatus, Process};
use crate::proc::thread::{Thread, comm_of};
use crate::proc::{compaction, exec, ipc, khugepaged, ksm, mm, signal, table, tty, wait};
use crate::sched::{self, Task};
use crate::syscall::userfaultfd;
use crate::{klog, procfs, swap, virtio, watch};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use anonmem_oslib::abi::Fields;
use anonmem_oslib::errno::{ENOENT, ENOMEM};
use anonmem_oslib::runfile::RunFile;
use anonmem_oslib::sigframe::{Detail, SigInfo};
use anonmem_oslib::signal::{SIGKILL, SIGNALS, code};
use anonmem_oslib::strings::Strings;
use anonmem_oslib::vfs::path::Follow;
use anonmem_oslib::{Result, stack};

/// Where the archive says what to run.
const RUN_FILE: &[u8] = b"/.anonmem/run";
/// Bytes of a file or of the bill that are moved at once.
const BLOCK: usize = 32 << 10;

/// Runs the machine from the first task to the end.
pub fn run() -> ! {
    let status = run_program().unwrap_or_else(|failure| {
        console::send(to_host::STDERR, format!("anonmem: {}\n", failure.message).as_bytes());
        failure.code
    });
    finish(status)
}

/// Why the program did not run.
struct Failure {
    message: String,
    code: i32,
}

impl Failure {
    fn new(what: &str, error: anonmem_oslib::Errno) -> Self {
        Failure { message: format!("{what}: {error:?}"), code: exec::shell_code(error) }
    }
}

/// Starts the program and waits for its end; gives its status.
fn run_program() -> core::result::Result<i32, Failure> {
    fs::init(crate::boot::initrd()).map_err(|e| Failure::new("the initial archive cannot be unpacked", e))?;
    procfs::init(fs::vfs()).map_err(|procfs::Taken(path, error)| {
        // The command's own code for what it was asked and cannot do.
        let message = format!("{path}: the kernel's own file; --file cannot put another there ({error:?})");
        Failure { message, code: 2 }
    })?;
    userfaultfd::init().map_err(|e| Failure::new("/dev/userfaultfd cannot be put into the tree", e))?;
    tty::init().map_err(|e| Failure::new("terminals cannot be put into the tree", e))?;
    timer::init().map_err(|e| Failure::new("no timer task", e))?;
    let bytes = read_file(RUN_FILE).map_err(|e| Failure::new("the archive has no /.anonmem/run", e))?;
    let run = RunFile::parse(&bytes);
    for record in &run.unknown {
        klog!("run file: record \"{}\" is not known and ignored", String::from_utf8_lossy(record));
    }
    swap::init(&run).map_err(|e| Failure::new("the swap device cannot be made", e))?;
    fs::block::init().map_err(|e| Failure::new("the disks cannot be put into the tree", e))?;
    watch::start(run.watch).map_err(|e| Failure::new("what is used cannot be watched", e))?;
    let number = table::number().map_err(|e| Failure::new("no process number", e))?;
    debug_assert_eq!(number, table::INIT);
    let init = Process::new(table::INIT, None);
    table::lock().processes.insert(table::INIT, init.clone());

    let name = String::from_utf8_lossy(run.exe).into_owned();
    start(&init, &run).map_err(|e| Failure::new(&format!("cannot run {name}"), e))?;
    Ok(reap_until(&init, table::PROGRAM).shell_code())
}

fn read_file(path: &[u8]) -> Result<Vec<u8>> {
    let inode = fs::vfs().lookup(fs::vfs().root(), path, Follow::Yes)?;
    let mut bytes = vec![0; (inode.size() as usize).min(64 * BLOCK)];
    let n = fs::file::read_inode(&inode, 0, &mut bytes)?;
    bytes.truncate(n);
    Ok(bytes)
}

/// Starts the program as process [`table::PROGRAM`], leader of a session of its own.
fn start(init: &Arc<Process>, run: &RunFile<'_>) -> Result<()> {
    let vfs = fs::vfs();
    let cwd = match vfs.lookup(vfs.root(), run.cwd, Follow::Yes) {
        Err(ENOENT) => vfs.make_dirs(run.cwd)?,
        found => found?,
    };
    let context = Arc::new(FsContext::new(cwd.clone()));
    let args =
        if run.args.is_empty() { Strings::of([run.exe])? } else { Strings::of(run.args.iter().copied())? };
    let given = exec::Given { args, env: Strings::of(run.env.iter().copied())?, room: stack::room(u64::MAX) };
    let inode = vfs.lookup(&cwd, run.exe, Follow::Yes)?;
    let prepared = exec::prepare(&context, &inode, &open::absolute(&cwd, run.exe), run.exe, given)?;

    let files = FdTable::default();
    let pid = table::number()?;
    let process = Process::new(pid, Some(init));
    process.pgid.store(pid, core::sync::atomic::Ordering::SeqCst);
    process.sid.store(pid, core::sync::atomic::Ordering::SeqCst);
    let console = run.terminal.map(|terminal| tty::console::start(&process, terminal.size)).transpose()?;
    for (stream, file) in fs::standard_streams().into_iter().enumerate() {
        let is_terminal = run.terminal.is_some_and(|terminal| terminal.streams[stream]);
        let file = console.clone().filter(|_| is_terminal).unwrap_or(file);
        files.insert(file, OnExec::Keep, 0, NR_OPEN)?;
    }
    drop(console);
    let thread = Thread::new(pid, process.clone(), context, Arc::new(files), comm_of(b"init"));

    // The stack and the zeros after the data are written through this task's own page tables.
    let space = mm::new()?;
    sched::set_current_mm(Some(space.clone()));
    let installed = exec::install(&thread, &space, &prepared);
    sched::set_current_mm(None);
    let (start, sp) = installed?;
    drop(process.set_space(Some(space.clone())));
    let task = Task::new_user(thread.clone(), space, &TrapFrame::user(start, sp), 0).map_err(|_| ENOMEM)?;
    thread.set_task(Some(task.clone()));
    table::enter(&thread);
    console::send(to_host::READY, &[]);
    sched::start(&task);
    Ok(())
}

/// Takes in the dead until `pid` is among them.
fn reap_until(init: &Process, pid: u32) -> ExitStatus {
    loop {
        match wait::wait_as_init(init) {
            Some(found) if found.pid == pid => {
                if let wait::Change::Ended(status) = found.change {
                    return status;
                }
            }
            Some(_) => {}
            None => return ExitStatus::killed(SIGKILL),
        }
    }
}

/// Ends what is left, accounts, tells the host and powers off.
fn finish(status: i32) -> ! {
    let run_ns = time::now_ns();
    watch::finish();
    end_everybody();
    sched::wait_for_reaper();
    virtio::block::wait_for_begun();
    fs::vfs().clear();
    ipc::clear();
    fs::parcel::clear();
    khugepaged::finish();
    compaction::finish();
    ksm::finish();
    swap::finish();
    let bill = crate::bill::collect(run_ns);
    for part in bill.as_bytes().chunks(BLOCK) {
        console::send(to_host::BILL, part);
    }
    console::send(to_host::EXIT, &status.to_le_bytes());
    console::flush();
    power::off(0)
}

fn end_everybody() {
    let Some(init) = table::process(table::INIT) else { return };
    loop {
        // Again each time: who was killed may have forked before it saw it.
        for process in table::processes() {
            process.end(ExitStatus::killed(SIGKILL));
        }
        if wait::wait_as_init(&init).is_none() {
            break;
        }
    }
}

/// A frame of the host's arrived: input, its end, a signal. Runs in the console's task.
pub fn channel_frame(kind: u8, payload: &[u8]) {
    match kind {
        to_guest::STDIN => {
            if !tty::console::typed(payload) {
                fs::device::stdin_bytes(payload);
            }
        }
        to_guest::STDIN_EOF => {
            if !tty::console::ended() {
                fs::device::stdin_end();
            }
        }
        to_guest::WINDOW => {
            if let Ok(size) = payload.try_into() {
                tty::console::resized(size);
            }
        }
        to_guest::SIGNAL => {
            let signal = Fields(payload).u32(0);
            if (1..=SIGNALS).contains(&signal) {
                let info = SigInfo { signal, code: code::SI_KERNEL, detail: Detail::None };
                signal::send_to_group(table::PROGRAM, info);
            }
        }
        _ => klog!("the host sent a frame of unknown type {kind}"),
    }
}

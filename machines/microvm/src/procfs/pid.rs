//! `/proc/PID`.

use super::generated::{FIRST_INO, PER_PROCESS, now};
use super::ksm;
use super::map_files;
use super::nodes;
use super::pagemap::Pagemap;
use super::procmap;
use crate::arch::percpu::cpu_count;
use crate::fs::file::{GONE, OpenFile, Opened, Positioned};
use crate::proc::Thread;
use crate::proc::mm::{self, Detail, Vma};
use crate::proc::oom::{self, Scale};
use crate::proc::process::Process;
use crate::proc::remote::{As, Memory, check_access};
use crate::proc::thread::try_current;
use crate::sched::Interruptible;
use crate::usercopy;
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use anonmem::{MapKind, MapUse, VmFlags, VmaInfo, VmaUsage};
use anonmem_oslib::Result;
use anonmem_oslib::abi::TICK_NS;
use anonmem_oslib::cred::Cred;
use anonmem_oslib::errno::{EACCES, EINVAL, ENOENT, ENOMEM, ENOTTY, EPERM};
use anonmem_oslib::nodes::list;
use anonmem_oslib::text::{self, Mapping, StatLine};
use anonmem_oslib::vfs::{FileType, Inode, LinkTarget, Synthetic, first_names};
use core::any::Any;
use core::fmt::Write;
use core::sync::atomic::Ordering::SeqCst;

/// What a file of a process shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Auxv,
    ClearRefs,
    Cmdline,
    Comm,
    Environ,
    Limits,
    MapFiles,
    Maps,
    Mem,
    Mounts,
    NumaMaps,
    OomAdj,
    OomScore,
    OomScoreAdj,
    Pagemap,
    KsmMergingPages,
    KsmStat,
    Smaps,
    SmapsRollup,
    Stat,
    Statm,
    Status,
    Cwd,
    Exe,
    Root,
    Fd,
    Task,
}

const FILES: &[(&str, Kind, FileType)] = &[
    ("auxv", Kind::Auxv, FileType::Regular),
    ("clear_refs", Kind::ClearRefs, FileType::Regular),
    ("cmdline", Kind::Cmdline, FileType::Regular),
    ("comm", Kind::Comm, FileType::Regular),
    ("cwd", Kind::Cwd, FileType::Symlink),
    ("environ", Kind::Environ, FileType::Regular),
    ("exe", Kind::Exe, FileType::Symlink),
    ("fd", Kind::Fd, FileType::Directory),
    ("ksm_merging_pages", Kind::KsmMergingPages, FileType::Regular),
    ("ksm_stat", Kind::KsmStat, FileType::Regular),
    ("limits", Kind::Limits, FileType::Regular),
    ("map_files", Kind::MapFiles, FileType::Directory),
    ("maps", Kind::Maps, FileType::Regular),
    ("mem", Kind::Mem, FileType::Regular),
    ("mounts", Kind::Mounts, FileType::Regular),
    ("numa_maps", Kind::NumaMaps, FileType::Regular),
    ("oom_adj", Kind::OomAdj, FileType::Regular),
    ("oom_score", Kind::OomScore, FileType::Regular),
    ("oom_score_adj", Kind::OomScoreAdj, FileType::Regular),
    ("pagemap", Kind::Pagemap, FileType::Regular),
    ("root", Kind::Root, FileType::Symlink),
    ("smaps", Kind::Smaps, FileType::Regular),
    ("smaps_rollup", Kind::SmapsRollup, FileType::Regular),
    ("stat", Kind::Stat, FileType::Regular),
    ("statm", Kind::Statm, FileType::Regular),
    ("status", Kind::Status, FileType::Regular),
    ("task", Kind::Task, FileType::Directory),
];

/// `/proc/PID`, or `/proc/PID/task/TID`, which has the same files without `task`.
struct Directory {
    process: Arc<Process>,
    files: &'static [(&'static str, Kind, FileType)],
    ino: u64,
    me: spin::Once<Weak<Inode>>,
}

/// Gives the directory of a process.
pub fn directory(process: Arc<Process>, parent: &Arc<Inode>) -> Arc<Inode> {
    let ino = FIRST_INO + u64::from(process.pid) * PER_PROCESS;
    make(process, FILES, ino, parent)
}

/// What a thread's directory holds: all but the last, the list of threads.
fn of_thread() -> &'static [(&'static str, Kind, FileType)] {
    &FILES[..FILES.len() - 1]
}

fn make(
    process: Arc<Process>,
    files: &'static [(&'static str, Kind, FileType)],
    ino: u64,
    parent: &Arc<Inode>,
) -> Arc<Inode> {
    let dir = Arc::new(Directory { process, files, ino, me: spin::Once::new() });
    let inode = Inode::synthetic(ino, 0o555, now(), parent, dir.clone());
    dir.me.call_once(|| Arc::downgrade(&inode));
    inode
}

impl Synthetic for Directory {
    fn kind(&self) -> FileType {
        FileType::Directory
    }

    fn lookup(&self, name: &[u8]) -> Result<Arc<Inode>> {
        let at = self.files.iter().position(|(file, ..)| file.as_bytes() == name).ok_or(ENOENT)?;
        let me = self.me.get().and_then(Weak::upgrade).ok_or(ENOENT)?;
        let ino = self.ino + 1 + at as u64;
        let (_, kind, file_type) = self.files[at];
        let mode = match file_type {
            _ if kind == Kind::ClearRefs => 0o200,
            FileType::Directory => 0o555,
            FileType::Symlink => 0o777,
            _ => 0o644,
        };
        let entry = Entry { process: self.process.clone(), kind, ino, me: spin::Once::new() };
        let entry = Arc::new(entry);
        let inode = Inode::synthetic(ino, mode, now(), &me, entry.clone());
        entry.me.call_once(|| Arc::downgrade(&inode));
        Ok(inode)
    }

    fn list(&self) -> Result<Vec<(Vec<u8>, FileType)>> {
        Ok(self.files.iter().map(|(name, _, kind)| (name.as_bytes().to_vec(), *kind)).collect())
    }
}

/// A file of a process.
struct Entry {
    process: Arc<Process>,
    kind: Kind,
    ino: u64,
    me: spin::Once<Weak<Inode>>,
}

impl Synthetic for Entry {
    fn kind(&self) -> FileType {
        FILES.iter().find(|(_, kind, _)| *kind == self.kind).map_or(FileType::Regular, |(.., kind)| *kind)
    }

    fn content(&self) -> Result<Vec<u8>> {
        let p = &*self.process;
        let text = match self.kind {
            Kind::Comm => format!("{}\n", p.name()),
            Kind::Limits => limits(p),
            // Of a process that has ended there is nothing to tell.
            Kind::KsmMergingPages => p.space().map_or_else(String::new, |space| ksm::merging_pages(&space)),
            Kind::KsmStat => p.space().map_or_else(String::new, |space| ksm::of_process(&space)),
            Kind::SmapsRollup => rollup(p),
            Kind::Mounts => "tmpfs / tmpfs rw 0 0\nproc /proc proc rw 0 0\n".into(),
            Kind::OomAdj => format!("{}\n", oom::adjustment(p, Scale::Old)),
            Kind::OomScore => format!("{}\n", oom::score(p)),
            Kind::OomScoreAdj => format!("{}\n", oom::adjustment(p, Scale::Thousandths)),
            Kind::Stat => stat(p),
            Kind::Statm => statm(p),
            Kind::Status => status(p),
            Kind::Maps
            | Kind::NumaMaps
            | Kind::Mem
            | Kind::Smaps
            | Kind::Auxv
            | Kind::Cmdline
            | Kind::Environ
            | Kind::Pagemap => {
                return Err(EINVAL);
            }
            Kind::ClearRefs => return Err(EINVAL),
            Kind::Cwd | Kind::Exe | Kind::Root | Kind::Fd | Kind::MapFiles | Kind::Task => {
                return Err(EINVAL);
            }
        };
        Ok(text.into_bytes())
    }

    fn piece(&self, cursor: u64, out: &mut Vec<u8>) -> Result<Option<u64>> {
        match self.kind {
            Kind::Maps => mappings(&self.process, cursor, Detail::Ranges, text::maps_line, out),
            Kind::Smaps => mappings(&self.process, cursor, Detail::Pages, text::smaps_entry, out),
            Kind::NumaMaps => nodes::maps(&self.process, cursor, out),
            _ => {
                *out = self.content()?;
                Ok(None)
            }
        }
    }

    fn read_at(&self, offset: u64, to: &mut [u8]) -> Option<Result<usize>> {
        let p = &*self.process;
        match self.kind {
            Kind::Auxv => Some(Ok(user_strings(p, p.program.lock().auxv, offset, to))),
            Kind::Cmdline => Some(Ok(user_strings(p, p.program.lock().args, offset, to))),
            Kind::Environ => Some(Ok(user_strings(p, p.program.lock().env, offset, to))),
            _ => None,
        }
    }

    fn open(&self) -> Option<Result<Arc<dyn Any + Send + Sync>>> {
        let refused = |error| if error == EPERM { EACCES } else { error };
        if self.kind == Kind::NumaMaps {
            // Where the pages of another process lie is not for everybody; the text comes as it is read.
            let thread = try_current().ok_or(EACCES);
            let checked = thread.and_then(|thread| check_access(&thread, &self.process, As::Files));
            return checked.err().map(|error| Err(refused(error)));
        }
        let open = || {
            let thread = try_current().ok_or(EACCES)?;
            let opened: Box<dyn Positioned> = match self.kind {
                Kind::Pagemap => Box::new(Pagemap::open(&thread, &self.process)?),
                _ => Box::new(Memory::open(&thread, &self.process)?),
            };
            Ok(Opened(opened))
        };
        matches!(self.kind, Kind::Mem | Kind::Pagemap).then(|| {
            let opened: Arc<dyn Any + Send + Sync> = Arc::new(open().map_err(refused)?);
            Ok(opened)
        })
    }

    fn ioctl(&self, request: u32, argument: u64) -> Result<usize> {
        match self.kind {
            Kind::Maps => procmap::ioctl(&self.process, request, argument),
            _ => Err(ENOTTY),
        }
    }

    fn write(&self, bytes: &[u8]) -> Result<()> {
        let text = core::str::from_utf8(bytes.trim_ascii()).or(Err(EINVAL))?;
        match self.kind {
            Kind::OomScoreAdj => {
                oom::adjust(&self.process, Scale::Thousandths, text.parse().or(Err(EINVAL))?)
            }
            Kind::OomAdj => oom::adjust(&self.process, Scale::Old, text.parse().or(Err(EINVAL))?),
            Kind::ClearRefs => {
                let what = text.parse().or(Err(EINVAL))?;
                let space = self.process.space().ok_or(GONE)?;
                mm::clear_refs(&space, what)
            }
            Kind::Comm => {
                self.process.threads().next().ok_or(GONE)?.set_name(text.as_bytes());
                Ok(())
            }
            _ => Err(EINVAL),
        }
    }

    fn target(&self) -> Result<LinkTarget> {
        match self.kind {
            Kind::Exe => {
                let program = self.process.program.lock().clone();
                program.inode.map(|inode| LinkTarget::Inode(inode, program.path)).ok_or(ENOENT)
            }
            Kind::Cwd => {
                let cwd = first_thread(&self.process)?.fs().cwd();
                let path = crate::fs::vfs().path_of(&cwd)?;
                Ok(LinkTarget::Inode(cwd, path))
            }
            Kind::Root => Ok(LinkTarget::Path(b"/".to_vec())),
            _ => Err(EINVAL),
        }
    }

    fn lookup(&self, name: &[u8]) -> Result<Arc<Inode>> {
        let me = self.me.get().and_then(Weak::upgrade).ok_or(ENOENT)?;
        if self.kind == Kind::MapFiles {
            return map_files::link(&self.process, name, self.ino, &me);
        }
        let number: u32 = core::str::from_utf8(name).ok().and_then(|n| n.parse().ok()).ok_or(ENOENT)?;
        match self.kind {
            Kind::Fd => {
                let file = first_thread(&self.process)?.files().get(number).or(Err(ENOENT))?;
                let ino = self.ino + 256 + u64::from(number);
                Ok(Inode::synthetic(ino, 0o700, now(), &me, Arc::new(FdLink(file))))
            }
            Kind::Task => {
                let exists = self.process.threads().any(|t| t.tid == number);
                let ino = FIRST_INO + u64::from(number) * PER_PROCESS + PER_PROCESS / 2;
                if exists { Ok(make(self.process.clone(), of_thread(), ino, &me)) } else { Err(ENOENT) }
            }
            _ => Err(ENOENT),
        }
    }

    fn list_after(&self, after: Option<&[u8]>, limit: usize) -> Result<Vec<(Vec<u8>, FileType)>> {
        let name = |n: u32| format!("{n}").into_bytes();
        match self.kind {
            Kind::MapFiles => Ok(first_names(after, limit, map_files::names(&self.process))),
            Kind::Fd => {
                let files = first_thread(&self.process)?.files();
                Ok(first_names(after, limit, files.numbers().map(|n| (name(n), FileType::Symlink))))
            }
            Kind::Task => {
                let threads = self.process.threads().map(|t| (name(t.tid), FileType::Directory));
                Ok(first_names(after, limit, threads))
            }
            _ => Err(EINVAL),
        }
    }
}

/// `/proc/PID/fd/N`: leads to the file itself, whatever its name is now.
struct FdLink(Arc<OpenFile>);

impl Synthetic for FdLink {
    fn kind(&self) -> FileType {
        FileType::Symlink
    }
    fn target(&self) -> Result<LinkTarget> {
        Ok(LinkTarget::Inode(self.0.inode.clone(), self.0.path.to_vec()))
    }
}

fn first_thread(process: &Process) -> Result<Arc<Thread>> {
    process.threads().next().ok_or(GONE)
}

/// Reads the strings of the stack at `offset`, for the running process itself; of another only its name can
/// be told.
fn user_strings(process: &Process, range: (u64, u64), offset: u64, to: &mut [u8]) -> usize {
    let own = try_current().is_some_and(|t| t.process.pid == process.pid);
    if !own {
        let name = [process.name().as_bytes(), b"\0"].concat();
        let rest = name.get(offset as usize..).unwrap_or(&[]);
        let n = rest.len().min(to.len());
        to[..n].copy_from_slice(&rest[..n]);
        return n;
    }
    let left = range.1.saturating_sub(range.0).saturating_sub(offset);
    let n = left.min(to.len() as u64) as usize;
    usercopy::copy_from_user(&mut to[..n], range.0.wrapping_add(offset)).map_or(0, |()| n)
}

/// Puts what the memory manager tells about a mapping into the words of `/proc`.
fn mapping<'a>(vma: &'a Vma, costs: &'a Costs, flags: &'a [&'static str]) -> Mapping<'a> {
    let info = &vma.info;
    let anonymous = vma.ino == 0;
    Mapping {
        start: info.range.start.0,
        end: info.range.end.0,
        read: info.flags.contains(VmFlags::READ),
        write: info.flags.contains(VmFlags::WRITE),
        exec: info.flags.contains(VmFlags::EXEC),
        shared: vma.is_shared(),
        offset: if anonymous { 0 } else { info.pgoff * 4096 },
        ino: vma.ino,
        name: &vma.name,
        costs,
        may_be_large: info.may_be_large,
        flags,
    }
}

/// What a mapping costs, line by line of `smaps`.
type Costs = [(&'static str, u64); 19];

/// Linux: fs/proc/task_mmu.c `__show_smap`.
fn costs(usage: &VmaUsage) -> Costs {
    [
        ("Rss", usage.rss),
        ("Pss", usage.pss),
        ("Pss_Dirty", usage.pss_dirty),
        ("Shared_Clean", usage.shared_clean),
        ("Shared_Dirty", usage.shared_dirty),
        ("Private_Clean", usage.private_clean),
        ("Private_Dirty", usage.private_dirty),
        ("Referenced", usage.referenced),
        ("Anonymous", usage.anonymous),
        ("KSM", usage.ksm),
        ("LazyFree", usage.lazy_free),
        ("AnonHugePages", usage.anon_huge),
        ("ShmemPmdMapped", 0),
        ("FilePmdMapped", 0),
        ("Shared_Hugetlb", 0),
        ("Private_Hugetlb", 0),
        ("Swap", usage.swap),
        ("SwapPss", usage.swap - usage.swap_shared),
        ("Locked", usage.locked),
    ]
}

/// The letters of `smaps` for the attributes of a mapping, in Linux's order. Linux: fs/proc/task_mmu.c
/// `show_smap_vma_flags`.
const LETTERS: &[(VmFlags, &str)] = &[
    (VmFlags::READ, "rd"),
    (VmFlags::WRITE, "wr"),
    (VmFlags::EXEC, "ex"),
    (VmFlags::SHARED, "sh"),
    (VmFlags::MAYREAD, "mr"),
    (VmFlags::MAYWRITE, "mw"),
    (VmFlags::MAYEXEC, "me"),
    (VmFlags::MAYSHARE, "ms"),
    (VmFlags::GROWSDOWN, "gd"),
    (VmFlags::UFFD_MISSING, "um"),
    (VmFlags::UFFD_WP, "uw"),
    (VmFlags::LOCKED, "lo"),
    (VmFlags::SEQ_READ, "sr"),
    (VmFlags::RAND_READ, "rr"),
    (VmFlags::DONTCOPY, "dc"),
    (VmFlags::DONTEXPAND, "de"),
    (VmFlags::LOCKONFAULT, "lf"),
    (VmFlags::ACCOUNT, "ac"),
    (VmFlags::NORESERVE, "nr"),
    (VmFlags::WIPEONFORK, "wf"),
    (VmFlags::DONTDUMP, "dd"),
    (VmFlags::SOFT_CLEAN, "sd"),
    (VmFlags::HUGEPAGE, "hg"),
    (VmFlags::NOHUGEPAGE, "nh"),
    (VmFlags::MERGEABLE, "mg"),
    (VmFlags::UFFD_MINOR, "ui"),
    (VmFlags::DROPPABLE, "dp"),
    (VmFlags::SEALED, "sl"),
];

/// Linux takes the attribute of being shared from what is mapped shared and can never be written. Its bit of
/// being soft-dirty says the opposite of ours.
fn letters(flags: VmFlags) -> Vec<&'static str> {
    let never_written = flags.contains(VmFlags::MAYSHARE) && !flags.contains(VmFlags::MAYWRITE);
    let shown = if never_written { flags - VmFlags::SHARED } else { flags } ^ VmFlags::SOFT_CLEAN;
    LETTERS.iter().filter(|(flag, _)| shown.contains(*flag)).map(|(_, letters)| *letters).collect()
}

/// Room for what is told about a few mappings: `smaps` has 800 bytes for each, and a path.
const PIECE: usize = 12 << 10;
/// When that much is there, a piece is long enough. Linux: fs/seq_file.c, a page.
const ENOUGH: usize = 4 << 10;

/// Appends what is told about a few mappings; gives the address from which to go on.
fn mappings(
    process: &Process,
    from: u64,
    detail: Detail,
    line: fn(&mut String, &Mapping<'_>),
    out: &mut Vec<u8>,
) -> Result<Option<u64>> {
    let Some(space) = process.space() else { return Ok(None) };
    let mut next = None;
    out.try_reserve(PIECE).map_err(|_| ENOMEM)?;
    let mut text = String::new();
    for vma in mm::vmas(&space, from, detail)? {
        text.clear();
        let flags = if detail == Detail::Pages { letters(vma.info.flags) } else { Vec::new() };
        line(&mut text, &mapping(&vma, &costs(&vma.usage), &flags));
        out.extend_from_slice(text.as_bytes());
        next = Some(vma.info.range.end.0);
        if out.len() >= ENOUGH {
            break;
        }
    }
    Ok(next)
}

fn rollup(process: &Process) -> String {
    let mut out = String::new();
    let Some((range, usage)) = process.space().and_then(|space| mm::usage(&space)) else { return out };
    let info = VmaInfo {
        range,
        flags: VmFlags::empty(),
        pgoff: 0,
        kind: MapKind::Anonymous,
        purpose: MapUse::Other,
        may_be_large: false,
    };
    let costs = costs(&usage);
    let all = Vma { info, usage, ino: 0, name: String::new() };
    text::smaps_rollup(&mut out, &mapping(&all, &costs, &[]));
    out
}

/// What its first thread does.
fn state(process: &Process) -> char {
    if process.life.lock().zombie.is_some() {
        return 'Z';
    }
    match process.threads().next().and_then(|thread| thread.waits()) {
        _ if process.stopped.load(SeqCst) => 'T',
        Some(Interruptible::Yes) => 'S',
        Some(Interruptible::No) => 'D',
        None => 'R',
    }
}

fn counters(process: &Process) -> mm::Counters {
    process.space().map(|space| mm::counters(&space)).unwrap_or_default()
}

fn stat(process: &Process) -> String {
    let c = counters(process);
    let ticks = |ns: u64| ns / TICK_NS;
    let terminal = process.terminal.lock().clone();
    text::stat_line(&StatLine {
        pid: process.pid,
        comm: &process.name(),
        state: state(process),
        ppid: process.parent.load(SeqCst),
        pgrp: process.pgid.load(SeqCst),
        session: process.sid.load(SeqCst),
        tty: terminal.as_ref().map_or(0, |tty| tty.device()),
        foreground: terminal.as_ref().map_or(-1, |tty| i64::from(tty.group())),
        min_flt: process.faults(),
        utime: ticks(process.cpu_time_ns()),
        stime: 0,
        num_threads: process.nr_threads() as u32,
        starttime: ticks(process.start_ns),
        vsize_bytes: c.total_vm,
        rss_pages: c.rss / 4096,
        start_stack: process.program.lock().stack,
    })
}

fn statm(process: &Process) -> String {
    let c = counters(process);
    let data = (c.data + c.stack) / 4096;
    format!("{} {} {} 0 0 {data} 0\n", c.total_vm / 4096, c.rss / 4096, c.shared / 4096)
}

fn status(process: &Process) -> String {
    let c = counters(process);
    let state = match state(process) {
        'Z' => "Z (zombie)",
        'T' => "T (stopped)",
        'S' => "S (sleeping)",
        'D' => "D (disk sleep)",
        _ => "R (running)",
    };
    let mut out = String::new();
    let _ = write!(
        out,
        "Name:\t{}\nUmask:\t0022\nState:\t{state}\nTgid:\t{1}\nNgid:\t0\nPid:\t{1}\nPPid:\t{2}\nTracerPid:\t0\n\
         ",
        process.name(),
        process.pid,
        process.parent.load(SeqCst)
    );
    let cred = process.threads().next().map_or_else(Cred::root, |thread| thread.cred());
    for (name, ids) in [("Uid", cred.user), ("Gid", cred.group)] {
        let _ = writeln!(out, "{name}:\t{}\t{}\t{}\t{}", ids.real, ids.effective, ids.saved, ids.fs);
    }
    out.push_str("FDSize:\t64\nGroups:\t");
    for group in cred.groups.iter() {
        let _ = write!(out, "{group} ");
    }
    out.push('\n');
    for (name, bytes) in [
        ("VmPeak", c.hiwater_vm),
        ("VmSize", c.total_vm),
        ("VmLck", c.locked),
        ("VmPin", c.pinned),
        ("VmHWM", c.hiwater_rss),
        ("VmRSS", c.rss),
        ("RssAnon", c.rss - c.shared),
        ("RssFile", 0),
        ("RssShmem", c.shared),
        ("VmData", c.data),
        ("VmStk", c.stack),
        ("VmExe", 0),
        ("VmLib", 0),
        ("VmPTE", c.page_tables),
        ("VmSwap", c.swap),
    ] {
        let _ = writeln!(out, "{name}:\t{:8} kB", bytes / 1024);
    }
    let thread = process.threads().next();
    let _ = writeln!(out, "Threads:\t{}", process.nr_threads());
    if let Some(thread) = thread {
        let (pending, mask) = (thread.pending(), thread.signals.lock().mask);
        let _ = write!(out, "SigPnd:\t{:016x}\nSigBlk:\t{:016x}\n", pending.0, mask.0);
    }
    for (name, caps) in [
        ("Inh", cred.inheritable),
        ("Prm", cred.permitted),
        ("Eff", cred.effective),
        ("Bnd", cred.bounding),
        ("Amb", 0),
    ] {
        let _ = writeln!(out, "Cap{name}:\t{caps:016x}");
    }
    let (cpus, nodes) = (cpu_count(), crate::proc::nodes::all());
    let _ = write!(out, "Cpus_allowed:\t{:x}\nCpus_allowed_list:\t0-{}\n", (1u128 << cpus) - 1, cpus - 1);
    let _ = write!(out, "Mems_allowed:\t{:x}\nMems_allowed_list:\t{}\n", nodes.0, list(nodes));
    out
}

fn limits(process: &Process) -> String {
    const NAMES: [(&str, &str); 16] = [
        ("Max cpu time", "seconds"),
        ("Max file size", "bytes"),
        ("Max data size", "bytes"),
        ("Max stack size", "bytes"),
        ("Max core file size", "bytes"),
        ("Max resident set", "bytes"),
        ("Max processes", "processes"),
        ("Max open files", "files"),
        ("Max locked memory", "bytes"),
        ("Max address space", "bytes"),
        ("Max file locks", "locks"),
        ("Max pending signals", "signals"),
        ("Max msgqueue size", "bytes"),
        ("Max nice priority", ""),
        ("Max realtime priority", ""),
        ("Max realtime timeout", "us"),
    ];
    let mut out = format!("{:<26}{:<21}{:<21}{:<10}\n", "Limit", "Soft Limit", "Hard Limit", "Units");
    let show = |n: u64| if n == u64::MAX { "unlimited".into() } else { format!("{n}") };
    for ((name, unit), (soft, hard)) in NAMES.iter().zip(*process.limits.lock()) {
        let _ = writeln!(out, "{name:<26}{:<21}{:<21}{unit:<10}", show(soft), show(hard));
    }
    out
}

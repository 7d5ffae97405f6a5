//! Running another program. Linux: fs/exec.c, fs/binfmt_elf.c, fs/binfmt_script.c.

use super::mm::{self, Backing, Map, Space};
use super::thread::{Thread, comm_of};
use super::{exit, folios, ipc, ksm};
use crate::arch::fpu;
use crate::arch::trap::TrapFrame;
use crate::elf::{self, Loaded, Program};
use crate::fs::sources::Builtin;
use crate::fs::{FsContext, device, open, vfs};
use crate::sched;
use crate::usercopy;
use alloc::sync::Arc;
use alloc::vec::Vec;
use anonmem_oslib::cred::Cred;
use anonmem_oslib::errno::{EINTR, ELOOP, ENOENT};
use anonmem_oslib::sigframe::AltStack;
use anonmem_oslib::stack::{Content, Stack};
use anonmem_oslib::strings::Strings;
use anonmem_oslib::vfs::Inode;
use anonmem_oslib::vfs::path::Follow;
use anonmem_oslib::{Result, elf as format, sigframe, vdso as image};
use core::sync::atomic::Ordering::SeqCst;
use linux_raw_sys::general as abi;

/// The end of the stack: one page below the end of user addresses.
const STACK_TOP: u64 = usercopy::USER_END - 4096;
/// Bytes of stack that are mapped at first; it grows on demand.
const STACK_FIRST: u64 = 132 << 10;
/// Scripts that may be interpreters of scripts.
const SCRIPTS: usize = 4;

/// A program that can be run: found and read, nothing done yet.
#[derive(Debug)]
pub struct Prepared {
    program: Program,
    /// The path that was asked for (`AT_EXECFN`).
    path: Vec<u8>,
    strings: Given,
}

/// What a program is given: arguments and environment.
#[derive(Debug)]
pub struct Given {
    /// Arguments.
    pub args: Strings,
    /// Environment.
    pub env: Strings,
    /// Bytes that both may have, with a pointer for each string.
    pub room: usize,
}

/// Reads the program `inode`, which is at `absolute` and was asked for as `path`; follows scripts to their
/// interpreters.
///
/// # Errors
/// `ENOENT`, `EACCES`, `ENOEXEC`, `ELOOP`, `E2BIG`, `ENOMEM`.
pub fn prepare(
    fs: &FsContext,
    inode: &Arc<Inode>,
    absolute: &[u8],
    path: &[u8],
    mut given: Given,
) -> Result<Prepared> {
    let (mut inode, mut absolute, mut script) = (inode.clone(), absolute.to_vec(), path.to_vec());
    if given.args.is_empty() {
        given.args.push(b"")?;
    }
    for _ in 0..=SCRIPTS {
        let head = elf::head(&inode)?;
        if !head.starts_with(b"#!") {
            let program = Program::read(&inode, &absolute, &head)?;
            let prepared = Prepared { program, path: path.to_vec(), strings: given };
            // Asked before the old program is gone.
            Stack::lay_out(STACK_TOP, &prepared.content(&[], [0; 16]), prepared.strings.room)?;
            return Ok(prepared);
        }
        let (interpreter, argument) = format::script(&head)?;
        match &argument {
            Some(argument) => given.args.replace_first(&[&interpreter, argument, &script])?,
            None => given.args.replace_first(&[&interpreter, &script])?,
        }
        inode = vfs().lookup(&fs.cwd(), &interpreter, Follow::Yes)?;
        absolute = open::absolute(&fs.cwd(), &interpreter);
        script = interpreter;
    }
    Err(ELOOP)
}

impl Prepared {
    fn content<'a>(&'a self, auxv: &'a [(u64, u64)], random: [u8; 16]) -> Content<'a> {
        Content { args: &self.strings.args, env: &self.strings.env, path: &self.path, auxv, random }
    }
}

/// Replaces the running thread's program.
///
/// # Errors
/// `ENOMEM`, `EINTR` if the process is to end. What fails later than that ends the process.
pub fn exec(thread: &Arc<Thread>, frame: &mut TrapFrame, prepared: &Prepared) -> Result<()> {
    let space = mm::new()?;
    let mut cred = thread.cred();
    cred.exec();
    mm::set_limits(&space, &thread.process.limits(), &cred);
    if let Some(old) = thread.process.space() {
        folios::inherit_disabled(&old, &space);
        mm::inherit_write_exec(&old, &space);
        ksm::inherit(&old, &space)?;
    }
    let files = Arc::new(thread.files().fork()?);
    if !exit::end_other_threads(thread) {
        return Err(EINTR);
    }
    // From here on the old program is gone.
    mm::note_peak();
    let old = thread.process.set_space(Some(space.clone()));
    sched::set_current_mm(Some(space.clone()));
    drop(old);
    ipc::shm::sweep();
    exit::release_vfork_parent(thread);
    forget_old_program(thread);
    thread.set_cred(cred);
    files.close_on_exec();
    thread.set_files(files);
    let result = install(thread, &space, prepared);
    drop(space);
    match result {
        Ok((start, sp)) => {
            *frame = TrapFrame::user(start, sp);
            sched::with_current_fpu(|state| fpu::reset_user(state, frame));
            let task = sched::current();
            task.set_fs_base(0);
            task.set_gs_base(0);
            Ok(())
        }
        Err(error) => {
            exit::kill_self();
            Err(error)
        }
    }
}

fn forget_old_program(thread: &Thread) {
    thread.process.executed.store(true, SeqCst);
    let timers = core::mem::take(&mut *thread.process.timers.lock());
    timers.values().for_each(|timer| timer.disarm());
    thread.process.signals.lock().exec();
    thread.signals.lock().altstack = AltStack::NONE;
    *thread.user.lock() = super::thread::UserAddresses::default();
    *thread.restart.lock() = None;
}

/// Fills the address space, which must be the running task's, with the program and its stack; gives where to
/// start and the stack pointer.
///
/// # Errors
/// `ENOMEM`, `E2BIG`, what loading gives.
pub fn install(thread: &Thread, space: &Space, prepared: &Prepared) -> Result<(u64, u64)> {
    let loaded = prepared.program.load(space)?;
    mm::set_brk(space, loaded.end);
    let flags = abi::MAP_FIXED | abi::MAP_PRIVATE | abi::MAP_ANONYMOUS | abi::MAP_GROWSDOWN | abi::MAP_STACK;
    let auxv = auxv(&thread.cred(), &loaded, map_vdso(space)?);
    let mut random = [0; 16];
    device::fill_random(&mut random);
    let content = prepared.content(&auxv, random);
    let stack = Stack::lay_out(STACK_TOP, &content, usize::MAX)?;
    let first = (STACK_TOP - stack.sp + STACK_FIRST).next_multiple_of(4096);
    let map = Map { addr: STACK_TOP - first, len: first, prot: abi::PROT_READ | abi::PROT_WRITE, flags };
    mm::mmap(space, map, Backing::Anonymous)?;
    let mut at = stack.sp;
    stack.write(&content, &mut |piece| {
        usercopy::copy_to_user(at, piece)?;
        at += piece.len() as u64;
        Ok(())
    })?;

    let main = &prepared.program.main;
    let name = prepared.path.rsplit(|&b| b == b'/').next().unwrap_or(&prepared.path);
    *thread.comm.lock() = comm_of(name);
    *thread.process.program.lock() = super::process::Program {
        inode: Some(main.inode.clone()),
        path: main.path.clone(),
        args: stack.arg_range,
        env: stack.env_range,
        auxv: stack.auxv_range,
        brk: loaded.end,
        stack: stack.sp,
    };
    Ok((loaded.start, stack.sp))
}

/// Maps the vdso, and before it the numbers that it reads; gives where the vdso is.
///
/// Linux: arch/x86/entry/vdso/vma.c `map_vdso`.
fn map_vdso(space: &Space) -> Result<u64> {
    let len = (Builtin::ALL.len() * image::SIZE) as u64;
    let anywhere = Map { addr: 0, len, prot: 0, flags: abi::MAP_PRIVATE | abi::MAP_ANONYMOUS };
    let start = mm::mmap(space, anywhere, Backing::Anonymous)?;
    let flags = abi::MAP_FIXED | abi::MAP_PRIVATE;
    let mut at = start;
    for builtin in Builtin::ALL {
        let prot = match builtin {
            Builtin::Vvar => abi::PROT_READ,
            Builtin::Vdso => abi::PROT_READ | abi::PROT_EXEC,
        };
        let map = Map { addr: at, len: image::SIZE as u64, prot, flags };
        at = mm::mmap(space, map, Backing::Builtin(builtin))? + image::SIZE as u64;
    }
    Ok(at - image::SIZE as u64)
}

fn auxv(cred: &Cred, loaded: &Loaded, vdso: u64) -> [(u64, u64); 17] {
    [
        (abi::AT_SYSINFO_EHDR, vdso),
        (abi::AT_HWCAP, u64::from(cpu_features())),
        (abi::AT_PAGESZ, 4096),
        (abi::AT_CLKTCK, 100),
        (abi::AT_PHDR, loaded.phdr),
        (abi::AT_PHENT, 56),
        (abi::AT_PHNUM, u64::from(loaded.phnum)),
        (abi::AT_BASE, loaded.base),
        (abi::AT_FLAGS, 0),
        (abi::AT_ENTRY, loaded.entry),
        (abi::AT_UID, cred.user.real.into()),
        (abi::AT_EUID, cred.user.effective.into()),
        (abi::AT_GID, cred.group.real.into()),
        (abi::AT_EGID, cred.group.effective.into()),
        (abi::AT_SECURE, 0),
        (abi::AT_HWCAP2, 0),
        (AT_MINSIGSTKSZ, (sigframe::FRAME + fpu::image_size() + 256) as u64),
    ]
    .map(|(key, value)| (u64::from(key), value))
}

const AT_MINSIGSTKSZ: u32 = 51;

/// The feature bits that `AT_HWCAP` shows: EDX of CPUID leaf 1.
fn cpu_features() -> u32 {
    core::arch::x86_64::__cpuid(1).edx
}

/// The error that a shell shows for a program that cannot be started, as its exit code.
pub fn shell_code(error: anonmem_oslib::Errno) -> i32 {
    match error {
        ENOENT => 127,
        _ => 126,
    }
}

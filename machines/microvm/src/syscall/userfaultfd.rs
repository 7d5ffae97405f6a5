//! userfaultfd(2), its descriptors and their ioctls.
//!
//! The memory manager decides; here are the structures of the ABI. An ioctl writes what became of it into its
//! argument in any case in which it has looked at memory at all, so that nobody takes an old number for
//! progress.
//!
//! Linux: fs/userfaultfd.c.

use super::call::{Call, only};
use super::user;
use crate::fs;
use crate::fs::event::Event;
use crate::fs::file::{ERR, IN, Object, OpenFile, Ready, Wait, block_on};
use crate::fs::iov::To;
use crate::fs::open::Opener;
use crate::fs::table::{NR_OPEN, OnExec};
use crate::machine::{self, Kernel};
use crate::proc::{self, mm};
use crate::sched;
use crate::usercopy::copy_from_user;
use alloc::sync::Arc;
use anonmem::{FillMode, Filled, MoveMode, ProtectMode, RegisterMode, UffdFaults, UffdFeatures};
use anonmem::{UffdFault, UffdMessage, UffdReason};
use anonmem_frame::NewFolio;
use anonmem_hal::{SourceError, Va};
use anonmem_oslib::abi::{Fields, Packer, makedev};
use anonmem_oslib::cred::Cap;
use anonmem_oslib::errno::{EACCES, EAGAIN, EEXIST, EFAULT, EINVAL, EPERM};
use anonmem_oslib::vfs::{Body, FileType, Inode};
use anonmem_oslib::{Errno, Result};
use core::any::Any;
use linux_raw_sys::general as abi;
use spin::Once;

/// Changes whenever a message comes for any userfaultfd.
static MESSAGES: Event = Event::new();

/// `_IOWR(UFFDIO, nr, size)`.
const fn iowr(nr: u32, size: usize) -> u32 {
    3 << 30 | (size as u32) << 16 | abi::UFFDIO << 8 | nr
}

/// `_IOR(UFFDIO, nr, size)`.
const fn ior(nr: u32, size: usize) -> u32 {
    2 << 30 | (size as u32) << 16 | abi::UFFDIO << 8 | nr
}

const API: u32 = iowr(abi::_UFFDIO_API, 24);
const REGISTER: u32 = iowr(abi::_UFFDIO_REGISTER, 32);
const UNREGISTER: u32 = ior(abi::_UFFDIO_UNREGISTER, 16);
const WAKE: u32 = ior(abi::_UFFDIO_WAKE, 16);
const COPY: u32 = iowr(abi::_UFFDIO_COPY, 40);
const ZEROPAGE: u32 = iowr(abi::_UFFDIO_ZEROPAGE, 32);
const MOVE: u32 = iowr(abi::_UFFDIO_MOVE, 40);
const WRITEPROTECT: u32 = iowr(abi::_UFFDIO_WRITEPROTECT, 24);
const CONTINUE: u32 = iowr(abi::_UFFDIO_CONTINUE, 32);
const POISON: u32 = iowr(abi::_UFFDIO_POISON, 32);

/// The ioctls of a descriptor, as `UFFDIO_API` tells them.
const IOCTLS: u64 = 1 << abi::_UFFDIO_REGISTER | 1 << abi::_UFFDIO_UNREGISTER | 1 << abi::_UFFDIO_API;
/// Those of a range, whatever it is registered for.
const RANGE_IOCTLS: u64 = 1 << abi::_UFFDIO_WAKE
    | 1 << abi::_UFFDIO_COPY
    | 1 << abi::_UFFDIO_ZEROPAGE
    | 1 << abi::_UFFDIO_MOVE
    | 1 << abi::_UFFDIO_POISON;

/// `struct uffd_msg`.
const MESSAGE: usize = 32;

/// A descriptor.
pub(super) struct Userfaultfd {
    /// Set once it has a descriptor: a child's is made when there is a place for it.
    uffd: Once<anonmem::Uffd<'static, Kernel>>,
    /// `O_CLOEXEC` and `O_NONBLOCK`: a child's descriptor gets them, too.
    flags: u32,
}

pub(super) fn userfaultfd(c: &mut Call<'_>) -> Result<usize> {
    let flags = only(c.u32(0), abi::O_CLOEXEC | abi::O_NONBLOCK | abi::UFFD_USER_MODE_ONLY)?;
    let user_only = flags & abi::UFFD_USER_MODE_ONLY != 0;
    if !user_only && mm::unprivileged_userfaultfd() == 0 && !c.thread.cred().has(Cap::SysPtrace) {
        return Err(EPERM);
    }
    new(flags)
}

/// `/dev/userfaultfd`: whoever may open it may be told of the kernel's faults.
struct Door;

/// `_IO(USERFAULTFD_IOC, 0x00)`.
const NEW: u32 = abi::USERFAULTFD_IOC << 8;
/// Of the miscellaneous devices; the number of the misc device says no header.
const MISC_MAJOR: u32 = 10;
const DOOR_MINOR: u32 = 257;

/// Puts the device into the tree; what the archive has already put there stays.
///
/// # Errors
/// `ENOMEM`.
pub fn init() -> Result<()> {
    let rdev = makedev(MISC_MAJOR, DOOR_MINOR);
    let body = Body::Special { kind: FileType::Char, rdev, object: Arc::new(Opener(Door::open)) };
    match fs::vfs().put(b"/dev/userfaultfd", 0o600, body) {
        Ok(_) | Err(EEXIST) => Ok(()),
        Err(error) => Err(error),
    }
}

impl Door {
    /// Opens it.
    ///
    /// # Errors
    /// `EACCES`.
    fn open(inode: &Inode, flags: u32) -> Result<Arc<dyn Object>> {
        let may = proc::current_thread().cred().may(&inode.meta(), fs::open::wanted(flags));
        if may { Ok(Arc::new(Door)) } else { Err(EACCES) }
    }
}

impl Object for Door {
    #[doc(alias = "userfaultfd_dev_ioctl")]
    fn ioctl(&self, request: u32, flags: u64) -> Result<usize> {
        if request != NEW {
            return Err(EINVAL);
        }
        new(only(flags as u32, abi::O_CLOEXEC | abi::O_NONBLOCK | abi::UFFD_USER_MODE_ONLY)?)
    }

    fn as_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}

/// Makes a userfaultfd as `flags` say.
#[doc(alias = "new_userfaultfd")]
fn new(flags: u32) -> Result<usize> {
    let user_only = flags & abi::UFFD_USER_MODE_ONLY != 0;
    make(if user_only { UffdFaults::UserOnly } else { UffdFaults::Any }, flags)
}

/// Makes a userfaultfd for the running program's memory; gives its descriptor.
fn make(faults: UffdFaults, flags: u32) -> Result<usize> {
    sched::on_message(|| MESSAGES.notify());
    let space = sched::current_mm().ok_or(EINVAL)?;
    let uffd = space.userfaultfd(faults).map_err(errno)?;
    install(flags & (abi::O_CLOEXEC | abi::O_NONBLOCK), || uffd)
}

/// Gives the lowest free descriptor to what `uffd` gives, once there is one.
fn install(flags: u32, uffd: impl FnOnce() -> anonmem::Uffd<'static, Kernel>) -> Result<usize> {
    let thread = proc::current_thread();
    let on_exec = if flags & abi::O_CLOEXEC != 0 { OnExec::Close } else { OnExec::Keep };
    let object = Arc::new(Userfaultfd { uffd: Once::new(), flags });
    let status = abi::O_RDWR | flags & abi::O_NONBLOCK;
    let file = OpenFile::anonymous(FileType::Regular, object.clone(), b"anon_inode:[userfaultfd]", status);
    let most = thread.process.limits()[abi::RLIMIT_NOFILE as usize].0.min(u64::from(NR_OPEN)) as u32;
    let fd = thread.files().insert(file, on_exec, 0, most)?;
    object.uffd.call_once(uffd);
    Ok(fd as usize)
}

fn errno(error: anonmem::Error) -> Errno {
    Errno(error.errno())
}

/// What a fault says.
fn fault_message(fault: UffdFault) -> Packer {
    let mut flags = if fault.write { abi::UFFD_PAGEFAULT_FLAG_WRITE } else { 0 };
    flags |= match fault.reason {
        UffdReason::Missing => 0,
        UffdReason::WriteProtected => abi::UFFD_PAGEFAULT_FLAG_WP,
        UffdReason::Minor => abi::UFFD_PAGEFAULT_FLAG_MINOR,
    };
    event(abi::UFFD_EVENT_PAGEFAULT).u64(flags.into()).u64(fault.va.0).u32(fault.thread).u32(0)
}

fn event(number: u32) -> Packer {
    Packer::new().u32(number).u32(0)
}

impl Userfaultfd {
    fn uffd(&self) -> Result<&anonmem::Uffd<'static, Kernel>> {
        self.uffd.get().ok_or(EINVAL)
    }

    /// The next message, as the ABI has it, if there is one.
    #[doc(alias = "resolve_userfault_fork")]
    fn next(&self) -> Option<Result<[u8; MESSAGE]>> {
        let packed = match self.uffd.get()?.read()? {
            UffdMessage::Fault(fault) => fault_message(fault),
            // What there is no place for is told again later.
            UffdMessage::Fork(fork) => match install(self.flags, || fork.take()) {
                Ok(fd) => event(abi::UFFD_EVENT_FORK).u32(fd as u32),
                Err(error) => return Some(Err(error)),
            },
            UffdMessage::Remap { from, to, len } => {
                event(abi::UFFD_EVENT_REMAP).u64(from.0).u64(to.0).u64(len)
            }
            UffdMessage::Remove(range) => event(abi::UFFD_EVENT_REMOVE).u64(range.start.0).u64(range.end.0),
            UffdMessage::Unmap(range) => event(abi::UFFD_EVENT_UNMAP).u64(range.start.0).u64(range.end.0),
        };
        let mut message = [0; MESSAGE];
        message[..packed.0.len()].copy_from_slice(&packed.0);
        Some(Ok(message))
    }

    #[doc(alias = "userfaultfd_api")]
    fn api(&self, at: u64) -> Result<usize> {
        let bytes: [u8; 24] = user::read_array(at)?;
        let (api, wanted) = (Fields(&bytes).u64(0), Fields(&bytes).u64(8));
        let answer = self.agree(api, wanted);
        let all = anonmem::Uffd::<Kernel>::FEATURES.bits();
        let told = match answer {
            Ok(()) => Packer::new().u64(api).u64(all).u64(IOCTLS),
            Err(_) => Packer::new().u64(0).u64(0).u64(0),
        };
        user::write(at, &told.0)?;
        answer.map(|()| 0)
    }

    fn agree(&self, api: u64, wanted: u64) -> Result<()> {
        if api != u64::from(abi::UFFD_API) {
            return Err(EINVAL);
        }
        let wanted = UffdFeatures::from_bits_retain(wanted);
        let may_follow = proc::current_thread().cred().has(Cap::SysPtrace);
        if wanted.contains(UffdFeatures::EVENT_FORK) && !may_follow {
            return Err(EPERM);
        }
        self.uffd()?.agree(wanted).map_err(errno)
    }

    #[doc(alias = "userfaultfd_register")]
    fn register(&self, at: u64) -> Result<usize> {
        let bytes: [u8; 24] = user::read_array(at)?;
        let fields = Fields(&bytes);
        let mode = RegisterMode::from_bits_retain(fields.u64(16));
        self.uffd()?.register(Va(fields.u64(0)), fields.u64(8), mode).map_err(errno)?;
        let mut ioctls = RANGE_IOCTLS;
        if mode.contains(RegisterMode::WP) {
            ioctls |= 1 << abi::_UFFDIO_WRITEPROTECT;
        }
        if mode.contains(RegisterMode::MINOR) {
            ioctls |= 1 << abi::_UFFDIO_CONTINUE;
        }
        user::write(at + 24, &ioctls.to_le_bytes())?;
        Ok(0)
    }

    /// Reads a range from an argument.
    fn range(at: u64) -> Result<(Va, u64)> {
        let bytes: [u8; 16] = user::read_array(at)?;
        Ok((Va(Fields(&bytes).u64(0)), Fields(&bytes).u64(8)))
    }

    #[doc(alias = "userfaultfd_copy")]
    fn copy(&self, at: u64) -> Result<usize> {
        let bytes: [u8; 32] = user::read_array(at)?;
        let [dst, src, len, mode] = [0, 8, 16, 24].map(|i| Fields(&bytes).u64(i));
        if src.checked_add(len).is_none_or(|end| end <= src) {
            return Err(EINVAL);
        }
        // Called without locks: the program's memory may be watched itself.
        let mut source = |offset: u64, new: &NewFolio<'_, Kernel>| {
            // SAFETY: nobody else sees the frame.
            let bytes = unsafe { machine::new_frame(new.pfn()) };
            copy_from_user(bytes, src + offset).map_err(|_| SourceError)
        };
        let filled = self.uffd()?.copy(Va(dst), len, FillMode::from_bits_retain(mode), &mut source);
        tell(at + 32, filled)
    }

    /// The fills that have a range and a mode: `fill` does it.
    fn fill(
        &self,
        at: u64,
        fill: impl FnOnce(&anonmem::Uffd<'static, Kernel>, Va, u64, FillMode) -> Filled,
    ) -> Result<usize> {
        let (start, len) = Self::range(at)?;
        let mode = FillMode::from_bits_retain(user::read_u64(at + 16)?);
        tell(at + 24, fill(self.uffd()?, start, len, mode))
    }

    #[doc(alias = "userfaultfd_move")]
    fn move_pages(&self, at: u64) -> Result<usize> {
        let bytes: [u8; 32] = user::read_array(at)?;
        let [dst, src, len, mode] = [0, 8, 16, 24].map(|i| Fields(&bytes).u64(i));
        let uffd = self.uffd()?;
        if !sched::current_mm().is_some_and(|space| uffd.is_for(&space)) {
            return Err(EINVAL);
        }
        let moved = self.uffd()?.move_pages(Va(dst), Va(src), len, MoveMode::from_bits_retain(mode));
        tell(at + 32, moved)
    }

    #[doc(alias = "userfaultfd_writeprotect")]
    fn write_protect(&self, at: u64) -> Result<usize> {
        let (start, len) = Self::range(at)?;
        let mode = ProtectMode::from_bits_retain(user::read_u64(at + 16)?);
        self.uffd()?.write_protect(start, len, mode).map_err(errno).map(|()| 0)
    }
}

/// Says in the argument how far an operation came, and in the result whether that is all. What is refused
/// because of its arguments leaves them as they are, as on Linux.
fn tell(at: u64, filled: Filled) -> Result<usize> {
    if !filled.leaves_argument() {
        user::write(at, &filled.out().to_le_bytes()).map_err(|_| EFAULT)?;
    }
    filled.result().map_err(errno).map(|()| 0)
}

impl Object for Userfaultfd {
    fn read(&self, to: &mut To<'_>, wait: Wait) -> Result<usize> {
        if !self.uffd()?.has_agreed() {
            return Err(EINVAL);
        }
        let mut done = 0;
        loop {
            if to.left() < MESSAGE {
                return if done == 0 { Err(EINVAL) } else { Ok(done) };
            }
            let wait = if done == 0 { wait } else { Wait::No };
            match block_on(&MESSAGES, wait, || self.next()) {
                Ok(message) => done += to.put_whole(&message)?,
                Err(EAGAIN) if done > 0 => return Ok(done),
                Err(error) => return if done > 0 { Ok(done) } else { Err(error) },
            }
        }
    }

    fn ready(&self) -> Ready {
        if self.uffd.get().is_some_and(|uffd| uffd.has_message()) { IN } else { 0 }
    }

    fn changes(&self, _of: Ready) -> u64 {
        MESSAGES.changes()
    }

    /// A descriptor whose reads wait cannot be polled: another reader might be faster.
    fn ready_for(&self, wait: Wait) -> Ready {
        let agreed = self.uffd.get().is_some_and(|uffd| uffd.has_agreed());
        if wait == Wait::Yes || !agreed { ERR } else { self.ready() }
    }

    fn ioctl(&self, request: u32, at: u64) -> Result<usize> {
        if request != API && !self.uffd()?.has_agreed() {
            return Err(EINVAL);
        }
        match request {
            API => self.api(at),
            REGISTER => self.register(at),
            UNREGISTER => {
                let (start, len) = Self::range(at)?;
                self.uffd()?.unregister(start, len).map_err(errno).map(|()| 0)
            }
            WAKE => {
                let (start, len) = Self::range(at)?;
                self.uffd()?.wake(start, len).map_err(errno).map(|()| 0)
            }
            COPY => self.copy(at),
            ZEROPAGE => self.fill(at, |uffd, start, len, mode| uffd.zeropage(start, len, mode)),
            CONTINUE => self.fill(at, |uffd, start, len, mode| uffd.resume(start, len, mode)),
            POISON => self.fill(at, |uffd, start, len, mode| uffd.poison(start, len, mode)),
            MOVE => self.move_pages(at),
            WRITEPROTECT => self.write_protect(at),
            _ => Err(EINVAL),
        }
    }

    fn as_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}

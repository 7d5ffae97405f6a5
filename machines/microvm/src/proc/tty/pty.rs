//! Pseudo-terminals: their two sides as open files, and their numbers.

use super::{BYTES, Kind, Latch, Tty, control, names};
use crate::arch::lock::SpinLock;
use crate::fs::file::{Object, OpenFile, Ready, Target, Wait};
use crate::fs::iov::{From, To};
use crate::machine;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use anonmem_oslib::Result;
use anonmem_oslib::errno::{EIO, ENOSPC, ENOTTY, ENXIO};
use anonmem_oslib::vfs::Inode;
use core::any::Any;
use linux_raw_sys::general as abi;

/// Pseudo-terminals at most, however much memory there is (`/proc/sys/kernel/pty/max`).
const MOST: u64 = 4096;

/// Those that have a master, by their numbers.
static ALL: SpinLock<BTreeMap<u32, Weak<Tty>>> = SpinLock::new(BTreeMap::new());

/// The programs' side, open.
pub(super) struct Slave {
    tty: Arc<Tty>,
    /// What it was opened for.
    access: u32,
}

/// The side of who types and looks, open.
pub(super) struct Master {
    pub(super) tty: Arc<Tty>,
}

/// As many as memory has a thirty-second part for.
fn most() -> u64 {
    (machine::vm().stats().frames * 4096 / (32 * BYTES)).clamp(4, MOST)
}

/// Makes a pseudo-terminal and opens its master: `/dev/ptmx`.
///
/// # Errors
/// `ENOSPC` if there are too many, `ENOMEM`.
pub(super) fn open_master(_: &Inode, _flags: u32) -> Result<Arc<dyn Object>> {
    let number = reserve()?;
    match Tty::new(Kind::Pty(number), Latch::Locked) {
        Ok(tty) => {
            ALL.lock().insert(number, Arc::downgrade(&tty));
            Ok(Arc::new(Master { tty }))
        }
        Err(error) => {
            ALL.lock().remove(&number);
            Err(error)
        }
    }
}

/// Takes the lowest free number.
fn reserve() -> Result<u32> {
    let mut all = ALL.lock();
    let free = (0..).zip(all.keys()).find(|(number, taken)| number != *taken);
    let number = free.map_or(all.len() as u32, |(number, _)| number);
    if u64::from(number) >= most() {
        return Err(ENOSPC);
    }
    all.insert(number, Weak::new());
    Ok(number)
}

/// Finds one by its number.
pub(super) fn find(number: u32) -> Option<Arc<Tty>> {
    ALL.lock().get(&number).and_then(Weak::upgrade)
}

/// Gives the numbers of all.
pub(super) fn numbers() -> Result<Vec<u32>> {
    let most = ALL.lock().len();
    let mut numbers = Vec::new();
    numbers.try_reserve_exact(most).map_err(|_| anonmem_oslib::errno::ENOMEM)?;
    // Who comes meanwhile is not among them.
    numbers.extend(ALL.lock().keys().take(most));
    Ok(numbers)
}

/// Opens the programs' side of the terminal that the inode names: `/dev/pts/N`.
///
/// # Errors
/// `EIO` while it is locked, or gone.
pub(super) fn open_slave(inode: &Inode, flags: u32) -> Result<Arc<dyn Object>> {
    let tty = names::number_of(inode).and_then(find).ok_or(EIO)?;
    let slave = Slave::open(tty, flags)?;
    slave.tty.offer(flags);
    Ok(slave)
}

/// Opens the caller's terminal, whichever that is: `/dev/tty`.
///
/// # Errors
/// `ENXIO` if it has none.
pub(super) fn open_own(_: &Inode, flags: u32) -> Result<Arc<dyn Object>> {
    let thread = crate::proc::thread::try_current().ok_or(ENXIO)?;
    let tty = thread.process.terminal.lock().clone().ok_or(ENXIO)?;
    Ok(Slave::open(tty, flags)?)
}

/// Opens the programs' side of a terminal whose master is at hand.
///
/// # Errors
/// As [`open_slave`].
pub(super) fn open_peer(tty: &Arc<Tty>, flags: u32) -> Result<Arc<OpenFile>> {
    let Kind::Pty(number) = tty.kind else { return Err(ENOTTY) };
    let slave = Slave::open(tty.clone(), flags)?;
    slave.tty.offer(flags);
    let path = format!("/dev/pts/{number}");
    Ok(OpenFile::new(names::inode(number), Target::Object(slave), path.as_bytes(), flags))
}

impl Slave {
    /// Opens the programs' side.
    ///
    /// # Errors
    /// `EIO`.
    pub(super) fn open(tty: Arc<Tty>, flags: u32) -> Result<Arc<Slave>> {
        tty.add_user()?;
        Ok(Arc::new(Slave { tty, access: flags & abi::O_ACCMODE }))
    }
}

impl Drop for Slave {
    fn drop(&mut self) {
        self.tty.act(|state| state.users.now -= 1);
    }
}

impl Object for Slave {
    fn read(&self, to: &mut To<'_>, wait: Wait) -> Result<usize> {
        self.tty.read(to, wait)
    }

    fn write(&self, from: &mut From<'_>, wait: Wait) -> Result<usize> {
        self.tty.write(from, wait)
    }

    fn ready(&self) -> Ready {
        self.tty.ready()
    }

    fn changes(&self, _of: Ready) -> u64 {
        self.tty.changes()
    }

    fn readable(&self) -> Result<usize> {
        if self.tty.is_hung_up() { Err(EIO) } else { Ok(self.tty.state.lock().line.readable()) }
    }

    fn ioctl(&self, request: u32, argument: u64) -> Result<usize> {
        control::of_slave(&self.tty, self.access, request, argument)
    }

    fn as_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        if let Kind::Pty(number) = self.tty.kind {
            let gone = ALL.lock().remove(&number);
            drop(gone);
        }
        self.tty.hang_up();
    }
}

impl Object for Master {
    fn read(&self, to: &mut To<'_>, wait: Wait) -> Result<usize> {
        self.tty.look(to, wait)
    }

    fn write(&self, from: &mut From<'_>, wait: Wait) -> Result<usize> {
        self.tty.type_in(from, wait)
    }

    fn ready(&self) -> Ready {
        self.tty.master_ready()
    }

    fn changes(&self, _of: Ready) -> u64 {
        self.tty.changes()
    }

    fn readable(&self) -> Result<usize> {
        Ok(self.tty.state.lock().screen.len())
    }

    fn ioctl(&self, request: u32, argument: u64) -> Result<usize> {
        control::of_master(self, request, argument)
    }

    fn as_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}

//! Block devices as programs see them: the machine's disks, `/dev/vda` and so on.
//!
//! ```text
//!   read, write ──▶ O_DIRECT? ── no ──▶ through a kernel buffer, whole sectors at a time; a write of a part
//!                       │               of a sector reads the sector first
//!                      yes
//!                       ▼
//!       offset, addresses and lengths are whole sectors?  no ─▶ EINVAL
//!                       ▼
//!       the caller's pages are pinned ──▶ the disk reads or writes *them* ──▶ unpinned, dirty if they were
//!                                         written
//! ```
//!
//! Between pin and unpin the program's other threads go on: they fork, write to the rest of the pages, unmap
//! them, or the process is killed. The task that waits for the disk owns the pins, and is not interrupted.
//!
//! Differs from Linux: nothing caches a disk, so buffered and direct access agree at all times, and a
//! buffered write is on the disk when it returns. Linux: block/fops.c.

use super::iov::{self, From, PIECE, Pieces, To};
use crate::arch::mem::phys_of;
use crate::machine::Kernel;
use crate::sched::{self, Mutex};
use crate::usercopy;
use crate::virtio::block::{self, Begun, Disk, Piece, SECTOR, Transfer};
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use anonmem::{PinFlags, PinnedRange, Unpin};
use anonmem_hal::{IoError, PAGE_SHIFT, PAGE_SIZE, Va, VaRange};
use anonmem_oslib::abi::makedev;
use anonmem_oslib::errno::{EEXIST, EFAULT, EINVAL, EIO, ENOMEM, ENOSPC, ENOTTY, EPERM};
use anonmem_oslib::vfs::{Body, FileType};
use anonmem_oslib::{Errno, Result};
use linux_raw_sys::ioctl as abi;

/// The major number that Linux gave these disks here.
const MAJOR: u32 = 254;
/// Minor numbers that a disk has for its partitions.
const MINORS: u32 = 16;
/// Bytes that are pinned at once.
const DIRECT_MAX: usize = 1 << 20;

/// How the bytes travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Travel {
    /// Through a kernel buffer.
    Buffered,
    /// Straight between disk and program (`O_DIRECT`).
    Direct,
}

/// Pages of a program that are pinned.
pub type Pinned = PinnedRange<'static, Kernel>;

/// A disk, and what its readers and writers have in common.
pub struct BlockDevice {
    disk: &'static Disk,
    /// Held while a sector is read, changed in part and written.
    parts: Mutex<()>,
}

/// Puts the disks into the tree; swap's own is there already.
///
/// # Errors
/// `ENOMEM`, `ENOSPC`.
pub fn init() -> Result<()> {
    for disk in block::disks() {
        let object = Arc::new(BlockDevice { disk, parts: Mutex::new(()) });
        let body = Body::Special { kind: FileType::Block, rdev: rdev(disk), object };
        match super::vfs().put(format!("/dev/{}", disk.name()).as_bytes(), 0o660, body) {
            Ok(_) | Err(EEXIST) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// A disk's device number.
pub fn rdev(disk: &Disk) -> u64 {
    let letter = disk.name().bytes().last().unwrap_or(b'a');
    makedev(MAJOR, u32::from(letter - b'a') * MINORS)
}

/// Gives the text of `/proc/partitions`.
pub fn partitions() -> alloc::string::String {
    block::disks().iter().fold("major minor  #blocks  name\n\n".into(), |text, disk| {
        let minor = (rdev(disk) & 0xff) | rdev(disk) >> 12 & !0xff;
        format!("{text}{MAJOR:4} {minor:7} {:11} {}\n", disk.bytes() / 1024, disk.name())
    })
}

fn eio(IoError: IoError) -> Errno {
    EIO
}

impl BlockDevice {
    /// The number of bytes.
    pub fn size(&self) -> u64 {
        self.disk.bytes()
    }

    /// The disk.
    pub fn disk(&self) -> &'static Disk {
        self.disk
    }

    /// Reads at `offset`; nothing beyond the end.
    ///
    /// # Errors
    /// `EINVAL` if direct access is not aligned, `EFAULT`, `EIO`, `ENOMEM`.
    pub fn read(&self, offset: u64, to: &mut To<'_>, travel: Travel) -> Result<usize> {
        let left = self.size().saturating_sub(offset);
        if left == 0 || to.left() == 0 {
            return Ok(0);
        }
        to.truncate(usize::try_from(left).unwrap_or(usize::MAX));
        match (to, travel) {
            (To::User(pieces), Travel::Direct) => self.direct(Transfer::Read, offset, pieces),
            (to, Travel::Direct | Travel::Buffered) => self.read_buffered(offset, to),
        }
    }

    /// Writes at `offset`.
    ///
    /// # Errors
    /// `EPERM` if the disk is read-only, `ENOSPC` at the end; as [`BlockDevice::read`].
    pub fn write(&self, offset: u64, from: &mut From<'_>, travel: Travel) -> Result<usize> {
        if self.disk.is_read_only() {
            return Err(EPERM);
        }
        if from.left() == 0 {
            return Ok(0);
        }
        let left = self.size().saturating_sub(offset);
        if left == 0 {
            return Err(ENOSPC);
        }
        from.truncate(usize::try_from(left).unwrap_or(usize::MAX));
        match (from, travel) {
            (From::User(pieces), Travel::Direct) => self.direct(Transfer::Write, offset, pieces),
            (from, Travel::Direct | Travel::Buffered) => self.write_buffered(offset, from),
        }
    }

    /// Waits until what was written is safe.
    ///
    /// # Errors
    /// `EIO`.
    pub fn sync(&self) -> Result<()> {
        self.disk.flush().map_err(eio)
    }

    fn read_buffered(&self, offset: u64, to: &mut To<'_>) -> Result<usize> {
        let mut buffer = buffer_for(offset, to.left())?;
        let mut done = 0;
        while to.left() > 0 {
            let (sector, skew) = split(offset + done as u64);
            let n = to.left().min(buffer.len() - skew);
            let whole = (skew + n).next_multiple_of(SECTOR as usize);
            if let Err(error) = self.move_buffer(Transfer::Read, sector, &mut buffer[..whole]) {
                return iov::or_error(done, error);
            }
            let put = to.put(&buffer[skew..skew + n]);
            done += put;
            if put < n {
                return iov::or_error(done, EFAULT);
            }
        }
        Ok(done)
    }

    fn write_buffered(&self, offset: u64, from: &mut From<'_>) -> Result<usize> {
        let mut buffer = buffer_for(offset, from.left())?;
        let mut done = 0;
        while from.left() > 0 {
            let at = offset + done as u64;
            let skew = split(at).1;
            let n = from.left().min(buffer.len() - skew);
            let taken = from.take(&mut buffer[skew..skew + n]);
            if taken > 0
                && let Err(error) = self.write_part(at, taken, &mut buffer)
            {
                return iov::or_error(done, error);
            }
            done += taken;
            if taken < n {
                return iov::or_error(done, EFAULT);
            }
        }
        Ok(done)
    }

    /// Writes the `n` bytes of `buffer` that belong at `at`, with what there is in the rest of their sectors.
    fn write_part(&self, at: u64, n: usize, buffer: &mut [u8]) -> Result<()> {
        const SECTOR_LEN: usize = SECTOR as usize;
        let (sector, skew) = split(at);
        let end = skew + n;
        let whole = end.next_multiple_of(SECTOR_LEN);
        let _parts = self.parts.lock();
        self.fill_around(sector, buffer, skew..end.min(SECTOR_LEN))?;
        if whole > SECTOR_LEN {
            let last = whole - SECTOR_LEN;
            self.fill_around(sector + last as u64 / SECTOR, &mut buffer[last..], 0..end - last)?;
        }
        self.move_buffer(Transfer::Write, sector, &mut buffer[..whole])
    }

    /// Reads a sector into the start of `buffer`, all but the bytes `inside`.
    fn fill_around(&self, sector: u64, buffer: &mut [u8], inside: core::ops::Range<usize>) -> Result<()> {
        if inside.len() == SECTOR as usize {
            return Ok(());
        }
        let mut old = iov::buffer(SECTOR as usize)?;
        self.move_buffer(Transfer::Read, sector, &mut old)?;
        buffer[..inside.start].copy_from_slice(&old[..inside.start]);
        buffer[inside.end..SECTOR as usize].copy_from_slice(&old[inside.end..]);
        Ok(())
    }

    /// Moves whole sectors between the disk and a block of the kernel's heap.
    fn move_buffer(&self, transfer: Transfer, sector: u64, buffer: &mut [u8]) -> Result<()> {
        let piece = Piece { at: phys_of(buffer.as_mut_ptr()), len: buffer.len() as u32 };
        self.disk.transfer(transfer, sector, core::iter::once(piece)).map_err(eio)
    }

    /// Moves bytes between the disk and the caller's own pages, as far as those go.
    fn direct(&self, transfer: Transfer, offset: u64, pieces: &mut Pieces<'_>) -> Result<usize> {
        check_aligned(offset, pieces)?;
        let mut done = 0;
        while pieces.left() > 0 {
            let moved = Parts::pin(transfer, pieces, DIRECT_MAX).and_then(|parts| {
                let sector = (offset + done as u64) / SECTOR;
                self.disk.transfer(transfer, sector, parts.memory()).map_err(eio)?;
                Ok(parts.bytes())
            });
            match moved {
                Ok(n) => done += n,
                Err(error) => return iov::or_error(done, error),
            }
        }
        Ok(done)
    }

    /// How many bytes a direct transfer of `len` bytes at `offset` may move: none at the end.
    ///
    /// # Errors
    /// `EINVAL` if `addresses`, where the bytes are in memory, or the place is not aligned; `EPERM`,
    /// `ENOSPC`.
    pub fn check_direct(
        &self,
        transfer: Transfer,
        offset: u64,
        len: usize,
        addresses: &[(u64, usize)],
    ) -> Result<usize> {
        if transfer == Transfer::Write && self.disk.is_read_only() {
            return Err(EPERM);
        }
        let left = self.size().saturating_sub(offset);
        if len == 0 || left == 0 {
            return if len > 0 && transfer == Transfer::Write { Err(ENOSPC) } else { Ok(0) };
        }
        let odd = |value: u64| !value.is_multiple_of(SECTOR);
        if odd(offset) || odd(len as u64) || addresses.iter().any(|&(at, len)| odd(at) || odd(len as u64)) {
            return Err(EINVAL);
        }
        Ok(len.min(usize::try_from(left).unwrap_or(usize::MAX)))
    }

    /// Begins a direct transfer that [`BlockDevice::check_direct`] allows: `whom` is told of its end, and
    /// keeps the memory until then.
    pub fn begin(
        &self,
        transfer: Transfer,
        offset: u64,
        memory: impl Iterator<Item = Piece>,
        whom: &Arc<dyn Begun>,
    ) {
        self.disk.begin(transfer, offset / SECTOR, memory, whom);
    }

    /// Answers an ioctl.
    ///
    /// # Errors
    /// `ENOTTY` for those that a disk does not know, `EFAULT`.
    pub fn ioctl(&self, request: u32, argument: u64) -> Result<usize> {
        const BLOCK: i32 = PAGE_SIZE as i32;
        match request {
            abi::BLKGETSIZE64 => usercopy::write_user(argument, self.size())?,
            abi::BLKGETSIZE => usercopy::write_user(argument, self.size() / SECTOR)?,
            abi::BLKSSZGET | abi::BLKPBSZGET | abi::BLKIOMIN => {
                usercopy::write_user(argument, SECTOR as i32)?;
            }
            abi::BLKBSZGET => usercopy::write_user(argument, BLOCK)?,
            abi::BLKIOOPT | abi::BLKALIGNOFF => usercopy::write_user(argument, 0i32)?,
            abi::BLKROGET => usercopy::write_user(argument, i32::from(self.disk.is_read_only()))?,
            abi::BLKFLSBUF => self.sync()?,
            _ => return Err(ENOTTY),
        }
        Ok(0)
    }
}

/// A place on the disk as a sector and the bytes before the place.
fn split(at: u64) -> (u64, usize) {
    (at / SECTOR, (at % SECTOR) as usize)
}

/// A kernel buffer for sectors that hold `len` bytes from `offset` on, or some of them.
fn buffer_for(offset: u64, len: usize) -> Result<Vec<u8>> {
    let sectors = (split(offset).1 + len.min(PIECE)).next_multiple_of(SECTOR as usize);
    iov::buffer(sectors.min(PIECE))
}

/// Fails unless everything is whole sectors, as Linux asks it of disks with no rule of their own.
fn check_aligned(offset: u64, pieces: &Pieces<'_>) -> Result<()> {
    let odd = |value: u64| !value.is_multiple_of(SECTOR);
    let mut any = pieces.clone();
    if odd(offset) || odd(any.left() as u64) {
        return Err(EINVAL);
    }
    while let Some((address, len)) = any.run(usize::MAX) {
        if odd(address) || odd(len as u64) {
            return Err(EINVAL);
        }
        any.advance(len);
    }
    Ok(())
}

/// Pages of the caller's that are pinned for one transfer.
pub struct Parts {
    parts: Vec<Part>,
    bytes: usize,
}

/// Pages of one piece of the caller's memory.
struct Part {
    pinned: Pinned,
    address: u64,
    len: usize,
}

impl Parts {
    /// Pins the pages of the next `max` bytes, or as many as can be had, and passes them.
    ///
    /// # Errors
    /// `EFAULT` if not even the first page can be had, `ENOMEM`.
    pub fn pin(transfer: Transfer, pieces: &mut Pieces<'_>, max: usize) -> Result<Parts> {
        let mut all = Parts { parts: Vec::new(), bytes: 0 };
        while let Some((address, len)) = pieces.run(max - all.bytes) {
            if all.parts.try_reserve(1).is_err() {
                return if all.bytes > 0 { Ok(all) } else { Err(ENOMEM) };
            }
            let (pinned, len) = match pin_some(transfer, address, len) {
                Ok(some) => some,
                Err(_) if all.bytes > 0 => break,
                Err(error) => return Err(error),
            };
            all.parts.push(Part { pinned, address, len });
            all.bytes += len;
            pieces.advance(len);
        }
        Ok(all)
    }

    /// How many bytes they are.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The memory.
    pub fn memory(&self) -> impl Iterator<Item = Piece> + '_ {
        self.parts.iter().flat_map(|part| pieces_of(&part.pinned, part.address, part.len))
    }
}

/// Pins the caller's pages from `address` on: those of `len` bytes, or fewer if not all can be had. Gives for
/// how many bytes.
///
/// # Errors
/// `EFAULT` if not even the first page can be had, `ENOMEM`.
fn pin_some(transfer: Transfer, address: u64, len: usize) -> Result<(Pinned, usize)> {
    let mm = sched::current_mm().ok_or(EFAULT)?;
    let end = address.checked_add(len as u64).ok_or(EFAULT)?;
    let range = VaRange { start: Va(address), end: Va(end) };
    // A disk that is read from writes to memory.
    let flags = match transfer {
        Transfer::Read => PinFlags::WRITE,
        Transfer::Write => PinFlags::empty(),
    };
    let mut pinned = match mm.pin_fast(range, flags) {
        Ok(pinned) => pinned,
        Err(error) if Errno(error.errno()) == EFAULT => mm.pin_some(range, flags).map_err(pin_error)?.pinned,
        Err(error) => return Err(pin_error(error)),
    };
    if transfer == Transfer::Read {
        pinned.set_unpin(Unpin::Dirty);
    }
    let n = (pinned.range().end.0 - address).min(len as u64);
    Ok((pinned, n as usize))
}

/// What a program is told when pages cannot be pinned.
pub fn pin_error(error: anonmem::Error) -> Errno {
    match Errno(error.errno()) {
        EFAULT => EFAULT,
        _ => ENOMEM,
    }
}

/// The memory of `len` bytes at `address`, whose pages are pinned.
pub fn pieces_of(pinned: &Pinned, address: u64, len: usize) -> impl Iterator<Item = Piece> + '_ {
    let mut skip = address - pinned.range().start.0;
    let mut left = len as u64;
    let runs = pinned.runs().flat_map(|run| (0..run.pages.0).map(move |i| run.first.0 + i));
    runs.filter_map(move |frame| {
        let within = skip.min(PAGE_SIZE as u64);
        skip -= within;
        let n = (PAGE_SIZE as u64 - within).min(left);
        left -= n;
        (n > 0).then_some(Piece { at: (frame << PAGE_SHIFT) + within, len: n as u32 })
    })
}

//! What a program registers with a ring: buffers, whose pages stay pinned for as long as it likes, and files.
//!
//! A buffer's pages are pinned for long, so they count as locked memory, and nobody but this address space
//! has them: fork gives the child copies, reclaim leaves them alone. A request that uses a buffer keeps it,
//! whatever is unregistered or closed meanwhile.
//!
//! Linux: io_uring/rsrc.c.

use crate::arch::mem::PAGE;
use crate::fs::block::{Pinned, pieces_of, pin_error};
use crate::fs::file::OpenFile;
use crate::sched;
use crate::syscall::call::Call;
use crate::syscall::user;
use crate::virtio::block::Piece;
use alloc::sync::Arc;
use alloc::vec::Vec;
use anonmem::{PinFlags, Unpin};
use anonmem_hal::{Va, VaRange};
use anonmem_oslib::Result;
use anonmem_oslib::abi::Fields;
use anonmem_oslib::errno::{EBADF, EFAULT, EINVAL, EMFILE, ENOMEM, EOVERFLOW};
use linux_raw_sys::general::RLIMIT_NOFILE;

/// The most buffers, and bytes of each.
const BUFFERS_MAX: u32 = 1 << 14;
const BYTES_MAX: u64 = 1 << 30;
/// The most files.
const FILES_MAX: u32 = 1 << 20;
/// Bytes that are pinned as one range, so that the pages of an address are found without passing all others.
const CHUNK: u64 = 1 << 21;
/// Entries of an argument that are read at a time.
const SOME: u32 = 64;

/// A buffer.
pub(super) struct Buffer {
    start: u64,
    len: u64,
    /// The first ends at a multiple of [`CHUNK`], the others are as long as that, but the last.
    chunks: Vec<Pinned>,
}

impl Buffer {
    /// Pins the caller's pages; `None` for a buffer of nothing.
    ///
    /// # Errors
    /// `EFAULT`, `EOVERFLOW`; `ENOMEM` also if more would be locked than may be.
    fn new(start: u64, len: u64) -> Result<Option<Arc<Buffer>>> {
        if start == 0 && len == 0 {
            return Ok(None);
        }
        if start == 0 || len == 0 || len > BYTES_MAX {
            return Err(EFAULT);
        }
        let end = start.checked_add(len).filter(|end| end.checked_add(PAGE).is_some()).ok_or(EOVERFLOW)?;
        let mm = sched::current_mm().ok_or(EFAULT)?;
        let mut chunks = Vec::new();
        chunks.try_reserve_exact((len / CHUNK + 2) as usize).map_err(|_| ENOMEM)?;
        let mut at = start;
        while at < end {
            let until = (at / CHUNK + 1).saturating_mul(CHUNK).min(end);
            let range = VaRange { start: Va(at), end: Va(until) };
            let pinned = mm.pin_fast(range, PinFlags::WRITE | PinFlags::LONGTERM);
            let mut pinned = pinned.map_err(pin_error)?;
            pinned.set_unpin(Unpin::Dirty);
            chunks.push(pinned);
            at = until;
        }
        Ok(Some(Arc::new(Buffer { start, len, chunks })))
    }

    /// Fails unless the bytes are within the buffer.
    ///
    /// # Errors
    /// `EFAULT`.
    pub(super) fn check(&self, address: u64, len: usize) -> Result<()> {
        let end = address.checked_add(len as u64).ok_or(EFAULT)?;
        if address >= self.start && end <= self.start + self.len { Ok(()) } else { Err(EFAULT) }
    }

    /// The memory of `len` bytes at `address`, which are within the buffer.
    pub(super) fn pieces(&self, address: u64, len: usize) -> impl Iterator<Item = Piece> + '_ {
        let end = address + len as u64;
        let first = (address / CHUNK - self.start / CHUNK) as usize;
        self.chunks
            .iter()
            .skip(first)
            .map_while(move |chunk| {
                // Only the first of a request begins within its chunk.
                let from = address.max(chunk.range().start.0);
                let until = end.min(chunk.range().end.0);
                (from < until).then(|| pieces_of(chunk, from, (until - from) as usize))
            })
            .flatten()
    }
}

/// The buffers of a ring.
pub(super) struct Buffers(Vec<Option<Arc<Buffer>>>);

impl Buffers {
    /// Pins what `count` vectors at `address` name: all or nothing.
    ///
    /// # Errors
    /// `EINVAL`, and those of a buffer.
    pub(super) fn read(address: u64, count: u32) -> Result<Buffers> {
        if count == 0 || count > BUFFERS_MAX {
            return Err(EINVAL);
        }
        let mut all = Vec::new();
        all.try_reserve_exact(count as usize).map_err(|_| ENOMEM)?;
        for index in 0..u64::from(count) {
            let vector: [u8; 16] = user::read_array(address.wrapping_add(16 * index))?;
            all.push(Buffer::new(Fields(&vector).u64(0), Fields(&vector).u64(8))?);
        }
        Ok(Buffers(all))
    }

    /// The buffer with that number.
    ///
    /// # Errors
    /// `EFAULT`.
    pub(super) fn get(&self, index: u16) -> Result<&Arc<Buffer>> {
        self.0.get(usize::from(index)).and_then(Option::as_ref).ok_or(EFAULT)
    }
}

/// The files of a ring. None is a ring: it would keep itself.
pub(super) struct Files(Vec<Option<Arc<OpenFile>>>);

impl Files {
    /// Takes the descriptors of `count` numbers at `address`; minus one leaves a place empty. None may be one
    /// that `is_refused`.
    ///
    /// # Errors
    /// `EINVAL`, `EMFILE`, `EBADF`, `EFAULT`, `ENOMEM`.
    pub(super) fn read(
        c: &Call<'_>,
        address: u64,
        count: u32,
        is_refused: impl Fn(&OpenFile) -> bool,
    ) -> Result<Files> {
        if count == 0 {
            return Err(EINVAL);
        }
        let limit = c.thread.process.limits()[RLIMIT_NOFILE as usize].0;
        if count > FILES_MAX || u64::from(count) > limit {
            return Err(EMFILE);
        }
        let files = c.thread.files();
        let mut all = Vec::new();
        all.try_reserve_exact(count as usize).map_err(|_| ENOMEM)?;
        for first in (0..count).step_by(SOME as usize) {
            let some = SOME.min(count - first);
            let bytes = user::read(address.wrapping_add(4 * u64::from(first)), 4 * some as usize)?;
            for i in 0..some as usize {
                all.push(match Fields(&bytes).i32(4 * i) {
                    -1 => None,
                    fd => {
                        let file = files.get(fd as u32)?;
                        if is_refused(&file) {
                            return Err(EBADF);
                        }
                        Some(file)
                    }
                });
            }
        }
        Ok(Files(all))
    }

    /// The file with that number.
    ///
    /// # Errors
    /// `EBADF`.
    pub(super) fn get(&self, index: u32) -> Result<Arc<OpenFile>> {
        self.0.get(index as usize).and_then(Clone::clone).ok_or(EBADF)
    }
}

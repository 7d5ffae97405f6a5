//! io_uring: requests that a program writes into a ring of shared memory, and completions that it finds in
//! another.
//!
//! ```text
//!   program                          kernel
//!   fills an entry, moves SQ tail
//!   io_uring_enter ────────────────▶ copies the entry, moves SQ head
//!                                      │
//!                  ┌───────────────────┴──────────────────┐
//!        a disk with O_DIRECT                      anything else
//!        pages pinned, or a registered             done at once, by the caller
//!        buffer's; the disk begins                        │
//!                  │ interrupt, the disks' task           │
//!                  ▼                                      ▼
//!   finds CQ tail moved ◀──────────── completion written (or kept, while the ring is full)
//! ```
//!
//! A request owns what it needs until it has ended: its file, its pins or its buffer, and the ring. So a ring
//! may be closed, and its program may end, while requests are on their way.
//!
//! Differs from Linux: what is not a disk with `O_DIRECT` is done before `io_uring_enter` returns, and a
//! stream that would have to wait gives EAGAIN. Entries are not linked or drained, nothing polls, and there
//! are the operations of [`request`] alone: all else is refused with EINVAL.
//!
//! Locks: `Uring::submission` (sleeping) > `Uring::completion` (spin).
//!
//! Linux: io_uring/io_uring.c.

mod buffers;
mod request;
mod ring;
mod rings;

pub(super) use ring::Uring;

use super::call::{Call, only};
use super::file::install;
use super::user;
use crate::fs::file::OpenFile;
use alloc::sync::Arc;
use alloc::vec::Vec;
use anonmem_oslib::Result;
use anonmem_oslib::abi::{Fields, Packer};
use anonmem_oslib::errno::{EBUSY, EINTR, EINVAL, ENOMEM, ENXIO, EOPNOTSUPP};
use anonmem_oslib::restart::ERESTARTSYS;
use anonmem_oslib::signal::SigSet;
use anonmem_oslib::vfs::FileType;
use buffers::{Buffers, Files};
use linux_raw_sys::general::{O_CLOEXEC, O_RDWR};
use linux_raw_sys::io_uring as abi;
use ring::{
    CQ_ENTRIES, CQ_FLAGS, CQ_HEAD, CQ_MASK, CQ_OVERFLOW, CQ_TAIL, CQES, SQ_DROPPED, SQ_ENTRIES, SQ_FLAGS,
    SQ_HEAD, SQ_MASK, SQ_TAIL, Sizes,
};

/// What `io_uring_setup` takes. All that polls is not among it.
const SETUP_FLAGS: u32 = abi::IORING_SETUP_CQSIZE
    | abi::IORING_SETUP_CLAMP
    | abi::IORING_SETUP_SUBMIT_ALL
    | abi::IORING_SETUP_COOP_TASKRUN;
const FEATURES: u32 = abi::IORING_FEAT_SINGLE_MMAP
    | abi::IORING_FEAT_NODROP
    | abi::IORING_FEAT_SUBMIT_STABLE
    | abi::IORING_FEAT_RW_CUR_POS;

/// The ring of a descriptor.
fn ring(c: &Call<'_>) -> Result<Arc<Uring>> {
    c.thread.files().get(c.u32(0))?.object::<Uring>().ok_or(EOPNOTSUPP)
}

/// Bytes of `struct io_uring_params`.
const PARAMS: usize = 120;

pub(super) fn setup(c: &mut Call<'_>) -> Result<usize> {
    let given: [u8; PARAMS] = user::read_array(c.args[1])?;
    let given = Fields(&given);
    let flags = only(given.u32(8), SETUP_FLAGS)?;
    if [28, 32, 36].iter().any(|&reserved| given.u32(reserved) != 0) {
        return Err(EINVAL);
    }
    let sizes = Sizes::of(c.u32(0), given.u32(4), flags)?;
    let ring = Uring::new(sizes, flags)?;
    let head = [sizes.sq, sizes.cq, flags, given.u32(12), given.u32(16), FEATURES, given.u32(24)];
    let sq = [SQ_HEAD, SQ_TAIL, SQ_MASK, SQ_ENTRIES, SQ_FLAGS, SQ_DROPPED, sizes.array(), 0];
    let cq = [CQ_HEAD, CQ_TAIL, CQ_MASK, CQ_ENTRIES, CQ_OVERFLOW, CQES, CQ_FLAGS, 0];
    let words = |packer: Packer, words: &[u32]| words.iter().fold(packer, |packer, &word| packer.u32(word));
    let packer = words(words(Packer::new(), &head).zeros_to(40), &sq).u64(0);
    let packer = words(packer, &cq).u64(0);
    user::write(c.args[1], &packer.0)?;
    let file = OpenFile::anonymous(FileType::Regular, ring, b"anon_inode:[io_uring]", O_RDWR);
    install(c, file, O_CLOEXEC)
}

pub(super) fn enter(c: &mut Call<'_>) -> Result<usize> {
    let flags = only(
        c.u32(3),
        abi::IORING_ENTER_GETEVENTS | abi::IORING_ENTER_SQ_WAKEUP | abi::IORING_ENTER_SQ_WAIT,
    )?;
    let ring = ring(c)?;
    let submitted = ring.submit(c.u32(1), |submission, entry| request::make(&ring, submission, entry));
    if flags & abi::IORING_ENTER_GETEVENTS == 0 || submitted != c.u32(1) as usize {
        return Ok(submitted);
    }
    match wait(c, &ring) {
        Ok(()) => Ok(submitted),
        // What was submitted is told first.
        Err(_) if submitted > 0 => Ok(submitted),
        Err(error) => Err(error),
    }
}

/// Waits for completions, with the caller's signal mask if there is one.
fn wait(c: &Call<'_>, ring: &Uring) -> Result<()> {
    let masked = c.args[4] != 0;
    if masked {
        if c.args[5] != 8 {
            return Err(EINVAL);
        }
        super::signal::set_temporary_mask(c, SigSet(user::read_u64(c.args[4])?));
    }
    match ring.wait(c.u32(2)) {
        // The signal still has to see the mask; the way back to user code restores it.
        Err(ERESTARTSYS) => Err(EINTR),
        result => {
            if masked {
                super::signal::end_temporary_mask(c);
            }
            result
        }
    }
}

pub(super) fn register(c: &mut Call<'_>) -> Result<usize> {
    let ring = ring(c)?;
    let (argument, count) = (c.args[2], c.u32(3));
    let none = |given: bool| if given { Ok(()) } else { Err(EINVAL) };
    let mut submission = ring.submission.lock();
    match c.u32(1) {
        REGISTER_BUFFERS if submission.buffers.is_some() => Err(EBUSY),
        REGISTER_BUFFERS => {
            submission.buffers = Some(Buffers::read(argument, count)?);
            Ok(0)
        }
        UNREGISTER_BUFFERS => {
            none(argument == 0 && count == 0)?;
            let old = submission.buffers.take();
            drop(submission);
            old.map(|_| 0).ok_or(ENXIO)
        }
        REGISTER_FILES if submission.files.is_some() => Err(EBUSY),
        REGISTER_FILES => {
            submission.files =
                Some(Files::read(c, argument, count, |file| file.object::<Uring>().is_some())?);
            Ok(0)
        }
        UNREGISTER_FILES => {
            none(argument == 0 && count == 0)?;
            let old = submission.files.take();
            drop(submission);
            old.map(|_| 0).ok_or(ENXIO)
        }
        REGISTER_PROBE => probe(argument, count),
        _ => Err(EINVAL),
    }
}

const REGISTER_BUFFERS: u32 = 0;
const UNREGISTER_BUFFERS: u32 = 1;
const REGISTER_FILES: u32 = 2;
const UNREGISTER_FILES: u32 = 3;
const REGISTER_PROBE: u32 = 8;

/// Tells which operations there are.
fn probe(argument: u64, count: u32) -> Result<usize> {
    const OPERATIONS: u32 = 256;
    const SUPPORTED: u16 = 1;
    if argument == 0 || count > OPERATIONS {
        return Err(EINVAL);
    }
    let given = user::read(argument, 16 + 8 * count as usize)?;
    if given.iter().any(|&byte| byte != 0) {
        return Err(EINVAL);
    }
    let last = request::LAST;
    let told = count.min(u32::from(last) + 1) as u8;
    let mut out: Vec<u8> = Vec::new();
    out.try_reserve_exact(given.len()).map_err(|_| ENOMEM)?;
    out.extend_from_slice(&[last, told]);
    out.resize(16, 0);
    for operation in 0..told {
        let flags = if request::is_known(operation) { SUPPORTED } else { 0 };
        out.extend_from_slice(&[operation, 0]);
        out.extend_from_slice(&flags.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
    }
    user::write(argument, &out)?;
    Ok(0)
}

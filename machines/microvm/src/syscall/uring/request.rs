//! One entry of the submission ring: what it asks for, and how that is done.
//!
//! Linux: io_uring/rw.c, io_uring/sync.c, io_uring/opdef.c.

use super::buffers::Buffer;
use super::ring::{self, Submission, Uring};
use crate::arch::lock::SpinLock;
use crate::fs::block::{BlockDevice, Parts};
use crate::fs::file::{OpenFile, Target, Wait};
use crate::fs::iov::{Frames, From, Pieces, To};
use crate::proc::current_thread;
use crate::syscall::io::{check_range, vector};
use crate::virtio::block::{Begun, Piece, Transfer};
use alloc::sync::Arc;
use anonmem_hal::IoError;
use anonmem_oslib::Result;
use anonmem_oslib::abi::Fields;
use anonmem_oslib::errno::{EBADF, EFAULT, EINVAL, EIO, EOPNOTSUPP};
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use linux_raw_sys::general::{O_DIRECT, O_DSYNC};
use linux_raw_sys::io_uring as abi;

/// The file is one of the registered ones.
const FIXED_FILE: u8 = 1;
/// The program expects that the request takes long.
const ASYNC: u8 = 1 << 4;
/// An offset that means the file's position.
const POSITION: u64 = u64::MAX;
/// The largest number of bytes that one request moves.
const LIMIT: usize = 0x7fff_f000;

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    Nop,
    Sync,
    Move(Transfer, Memory),
}

/// What memory is named by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Memory {
    /// An address of the caller's.
    Plain,
    /// Several of them.
    Vector,
    /// An address within a registered buffer.
    Registered,
}

/// The last operation that there is.
pub(super) const LAST: u8 = abi::io_uring_op::IORING_OP_WRITE as u8;

fn operation(number: u8) -> Option<Operation> {
    use abi::io_uring_op as op;
    let known = [
        (op::IORING_OP_NOP, Operation::Nop),
        (op::IORING_OP_FSYNC, Operation::Sync),
        (op::IORING_OP_READ, Operation::Move(Transfer::Read, Memory::Plain)),
        (op::IORING_OP_WRITE, Operation::Move(Transfer::Write, Memory::Plain)),
        (op::IORING_OP_READV, Operation::Move(Transfer::Read, Memory::Vector)),
        (op::IORING_OP_WRITEV, Operation::Move(Transfer::Write, Memory::Vector)),
        (op::IORING_OP_READ_FIXED, Operation::Move(Transfer::Read, Memory::Registered)),
        (op::IORING_OP_WRITE_FIXED, Operation::Move(Transfer::Write, Memory::Registered)),
    ];
    known.into_iter().find(|(op, _)| *op as u8 == number).map(|(_, operation)| operation)
}

/// Whether there is such an operation.
pub(super) fn is_known(number: u8) -> bool {
    operation(number).is_some()
}

/// An entry.
struct Entry<'a>(Fields<'a>);

impl Entry<'_> {
    fn flags(&self) -> u8 {
        self.0.0[1]
    }
    fn priority(&self) -> u16 {
        self.0.u16(2)
    }
    fn fd(&self) -> u32 {
        self.0.u32(4)
    }
    fn offset(&self) -> u64 {
        self.0.u64(8)
    }
    fn address(&self) -> u64 {
        self.0.u64(16)
    }
    fn len(&self) -> u32 {
        self.0.u32(24)
    }
    /// The flags of the operation.
    fn own_flags(&self) -> u32 {
        self.0.u32(28)
    }
    fn data(&self) -> u64 {
        self.0.u64(32)
    }
    fn buffer(&self) -> u16 {
        self.0.u16(40)
    }
    fn personality(&self) -> u16 {
        self.0.u16(42)
    }

    /// Says what the entry asks for.
    ///
    /// # Errors
    /// `EINVAL`.
    fn operation(&self) -> Result<Operation> {
        let operation = operation(self.0.0[0]).ok_or(EINVAL)?;
        if self.flags() & !(FIXED_FILE | ASYNC) != 0 || self.personality() != 0 || self.priority() != 0 {
            return Err(EINVAL);
        }
        match operation {
            Operation::Nop if self.own_flags() != 0 => Err(EINVAL),
            Operation::Sync
                if self.own_flags() & !abi::IORING_FSYNC_DATASYNC != 0
                    || self.address() != 0
                    || self.buffer() != 0 =>
            {
                Err(EINVAL)
            }
            _ => Ok(operation),
        }
    }

    fn file(&self, submission: &Submission) -> Result<Arc<OpenFile>> {
        if self.flags() & FIXED_FILE != 0 {
            return submission.files.as_ref().ok_or(EBADF)?.get(self.fd());
        }
        current_thread().files().get(self.fd())
    }
}

/// Makes a request of an entry. What it comes to, the program is told.
///
/// # Errors
/// If the entry asks for nothing that there is: Linux takes no further entries then, and neither do we.
pub(super) fn make(ring: &Arc<Uring>, submission: &Submission, entry: &ring::Entry) -> Result<()> {
    let entry = Entry(Fields(entry));
    let operation = match entry.operation() {
        Ok(operation) => operation,
        Err(error) => {
            ring.complete(entry.data(), Err(error));
            return Err(error);
        }
    };
    let done = match operation {
        Operation::Nop => Ok(Some(0)),
        Operation::Sync => entry.file(submission).and_then(|file| file.sync()).map(|()| Some(0)),
        Operation::Move(transfer, memory) => {
            entry.file(submission).and_then(|file| begin(ring, submission, &entry, &file, transfer, memory))
        }
    };
    // Else its end tells.
    if let Some(result) = done.transpose() {
        ring.complete(entry.data(), result);
    }
    Ok(())
}

/// Moves bytes, or begins to: `None`.
fn begin(
    ring: &Arc<Uring>,
    submission: &Submission,
    entry: &Entry<'_>,
    file: &Arc<OpenFile>,
    transfer: Transfer,
    memory: Memory,
) -> Result<Option<usize>> {
    match transfer {
        Transfer::Read => file.check_readable()?,
        Transfer::Write => file.check_writable()?,
    }
    if entry.own_flags() != 0 {
        return Err(EOPNOTSUPP);
    }
    let len = (entry.len() as usize).min(LIMIT);
    let one = [(entry.address(), len)];
    let several;
    let (pieces, buffer): (&[(u64, usize)], _) = match memory {
        Memory::Plain => (&one, None),
        Memory::Vector => {
            several = vector(entry.address(), entry.len() as usize)?;
            (&several, None)
        }
        Memory::Registered => {
            let buffer = submission.buffers.as_ref().ok_or(EFAULT)?.get(entry.buffer())?;
            buffer.check(entry.address(), len)?;
            (&one, Some(buffer))
        }
    };
    pieces.iter().try_for_each(|&(address, len)| check_range(address, len))?;
    let how = file.flags();
    if let Target::Block(device) = &file.target
        && how & O_DIRECT != 0
        && how & O_DSYNC == 0
        && entry.offset() != POSITION
    {
        let flight = Order { ring, file, device, data: entry.data(), offset: entry.offset(), transfer };
        return flight.begin(pieces, buffer);
    }
    at_once(file, entry.offset(), transfer, pieces, buffer.map(|buffer| &**buffer)).map(Some)
}

/// Moves bytes in the caller's own time.
fn at_once(
    file: &OpenFile,
    offset: u64,
    transfer: Transfer,
    pieces: &[(u64, usize)],
    buffer: Option<&Buffer>,
) -> Result<usize> {
    let (address, len) = pieces.first().copied().unwrap_or((0, 0));
    let mut memory = buffer.map(|buffer| buffer.pieces(address, len));
    match transfer {
        Transfer::Read => {
            let mut to = match &mut memory {
                Some(memory) => To::Frames(Frames::new(memory, len)),
                None => To::user(pieces),
            };
            match &file.target {
                Target::Object(object) => object.read(&mut to, Wait::No),
                _ if offset == POSITION => file.read(&mut to),
                _ => file.read_at(check_offset(offset)?, &mut to),
            }
        }
        Transfer::Write => {
            let mut from = match &mut memory {
                Some(memory) => From::Frames(Frames::new(memory, len)),
                None => From::user(pieces),
            };
            match &file.target {
                Target::Object(object) => object.write(&mut from, Wait::No),
                _ if offset == POSITION => file.write(&mut from),
                _ => file.write_at(check_offset(offset)?, &mut from),
            }
        }
    }
}

fn check_offset(offset: u64) -> Result<u64> {
    if offset as i64 >= 0 { Ok(offset) } else { Err(EINVAL) }
}

/// A direct transfer that is to begin.
struct Order<'a> {
    ring: &'a Arc<Uring>,
    file: &'a Arc<OpenFile>,
    device: &'a BlockDevice,
    data: u64,
    offset: u64,
    transfer: Transfer,
}

impl Order<'_> {
    /// Begins it; gives a number if there is nothing to move.
    fn begin(self, pieces: &[(u64, usize)], buffer: Option<&Arc<Buffer>>) -> Result<Option<usize>> {
        let offset = check_offset(self.offset)?;
        let total = pieces.iter().fold(0usize, |sum, (_, len)| sum.saturating_add(*len)).min(LIMIT);
        let n = self.device.check_direct(self.transfer, offset, total, pieces)?;
        if n == 0 {
            return Ok(Some(0));
        }
        let flight = match buffer {
            Some(buffer) => self.fly(n, buffer.pieces(pieces[0].0, n), Held::Buffer(buffer.clone())),
            None => {
                let mut pieces = Pieces::new(pieces);
                pieces.truncate(n);
                let parts = Arc::new(Parts::pin(self.transfer, &mut pieces, n)?);
                // The flight alone keeps the pins when this is over.
                self.fly(parts.bytes(), parts.memory(), Held::Pins(parts.clone()))
            }
        };
        flight.ended(Ok(()));
        Ok(None)
    }

    fn fly(&self, n: usize, memory: impl Iterator<Item = Piece>, held: Held) -> Arc<Flight> {
        let flight = self.flight(n, held);
        let begun: Arc<dyn Begun> = flight.clone();
        self.device.begin(self.transfer, self.offset, memory, &begun);
        flight
    }

    fn flight(&self, bytes: usize, held: Held) -> Arc<Flight> {
        Arc::new(Flight {
            ring: self.ring.clone(),
            _file: self.file.clone(),
            data: self.data,
            bytes,
            // One for whoever begins it: it does not end before all of its requests are made.
            left: AtomicUsize::new(1),
            failed: AtomicBool::new(false),
            held: SpinLock::new(Some(held)),
        })
    }
}

/// What keeps a transfer's memory.
enum Held {
    Pins(#[expect(dead_code, reason = "kept, not looked at")] Arc<Parts>),
    Buffer(#[expect(dead_code, reason = "kept, not looked at")] Arc<Buffer>),
}

/// A transfer on its way.
struct Flight {
    ring: Arc<Uring>,
    _file: Arc<OpenFile>,
    data: u64,
    bytes: usize,
    left: AtomicUsize,
    failed: AtomicBool,
    held: SpinLock<Option<Held>>,
}

impl Begun for Flight {
    fn more(&self) {
        self.left.fetch_add(1, SeqCst);
    }

    fn ended(&self, result: core::result::Result<(), IoError>) {
        if result.is_err() {
            self.failed.store(true, SeqCst);
        }
        if self.left.fetch_sub(1, SeqCst) > 1 {
            return;
        }
        // Unpinned before the program is told: then it may unmap, and find the pages free.
        let held = self.held.lock().take();
        drop(held);
        let result = if self.failed.load(SeqCst) { Err(EIO) } else { Ok(self.bytes) };
        self.ring.complete(self.data, result);
    }
}

//! Where bytes go to and come from: pieces of the caller's memory, or a kernel buffer.
//!
//! A copy stops at the first page of the caller's that cannot be had, and says how far it came. So whoever
//! gives bytes away learns what was delivered, and keeps the rest; whoever takes them learns what there was.
//!
//! Touching the caller's memory may sleep: not under a spin lock. Linux: lib/iov_iter.c.

use crate::arch::mem::{PAGE, direct};
use crate::usercopy;
use crate::virtio::block::Piece;
use alloc::vec::Vec;
use anonmem_oslib::Result;
use anonmem_oslib::errno::{EFAULT, ENOMEM};

/// The largest number of bytes that one call moves.
const LIMIT: usize = 0x7fff_f000;
/// The largest piece that goes through a kernel buffer at once.
pub const PIECE: usize = 64 << 10;

/// A buffer of the caller's: addresses and lengths, used from the front.
#[derive(Clone)]
pub struct Pieces<'a> {
    pieces: &'a [(u64, usize)],
    /// Bytes of the first piece that are used.
    within: usize,
    left: usize,
}

impl<'a> Pieces<'a> {
    /// All of them.
    pub fn new(pieces: &'a [(u64, usize)]) -> Self {
        let total = pieces.iter().fold(0usize, |sum, (_, len)| sum.saturating_add(*len));
        Pieces { pieces, within: 0, left: total.min(LIMIT) }
    }

    /// Gives up what is beyond `len` bytes.
    pub fn truncate(&mut self, len: usize) {
        self.left = self.left.min(len);
    }

    /// How many bytes are left.
    pub fn left(&self) -> usize {
        self.left
    }

    /// The next run of bytes: address and length, at most `max`.
    pub(super) fn run(&mut self, max: usize) -> Option<(u64, usize)> {
        while self.pieces.first().is_some_and(|(_, len)| *len == self.within) {
            self.pieces = &self.pieces[1..];
            self.within = 0;
        }
        let (address, len) = *self.pieces.first()?;
        let at = address.wrapping_add(self.within as u64);
        let n = (len - self.within).min(self.left).min(max);
        (n > 0).then_some((at, n))
    }

    /// Passes `n` bytes of the run.
    pub(super) fn advance(&mut self, n: usize) {
        self.within += n;
        self.left -= n;
    }

    /// Calls `copy` for runs of at most `len` bytes in total until one fails; gives how many were copied.
    /// `copy` gets the address, and the range of the buffer on the kernel's side.
    fn each(&mut self, len: usize, mut copy: impl FnMut(u64, core::ops::Range<usize>) -> bool) -> usize {
        let mut done = 0;
        while done < len {
            let Some((at, n)) = self.run(len - done) else { break };
            if copy(at, done..done + n) {
                self.advance(n);
                done += n;
                continue;
            }
            // Page by page up to the one that cannot be had: what may be done with memory is the same all
            // over a page.
            let first = n.min((PAGE - at % PAGE) as usize);
            if first == n || !copy(at, done..done + first) {
                break;
            }
            self.advance(first);
            done += first;
        }
        done
    }
}

/// Frames that somebody keeps: pinned pages of a program that need not be the running one.
pub struct Frames<'a> {
    rest: &'a mut dyn Iterator<Item = Piece>,
    piece: Piece,
    left: usize,
}

impl<'a> Frames<'a> {
    /// The pieces, of `left` bytes together.
    pub fn new(rest: &'a mut dyn Iterator<Item = Piece>, left: usize) -> Self {
        Frames { rest, piece: Piece { at: 0, len: 0 }, left }
    }

    /// Calls `copy` for runs of at most `len` bytes in total: where they are in the kernel's direct map, and
    /// the range of the buffer on the other side. Gives how many bytes there were.
    fn each(&mut self, len: usize, mut copy: impl FnMut(*mut u8, core::ops::Range<usize>)) -> usize {
        let mut done = 0;
        while done < len.min(self.left) {
            if self.piece.len == 0 {
                let Some(piece) = self.rest.next() else { break };
                self.piece = piece;
            }
            let n = (self.piece.len as usize).min(len.min(self.left) - done);
            copy(direct(self.piece.at), done..done + n);
            self.piece = Piece { at: self.piece.at + n as u64, len: self.piece.len - n as u32 };
            done += n;
        }
        self.left -= done;
        done
    }
}

/// Where bytes go to.
pub enum To<'a> {
    /// The caller's memory.
    User(Pieces<'a>),
    /// A kernel buffer.
    Kernel(&'a mut [u8]),
    /// Frames.
    Frames(Frames<'a>),
}

impl<'a> To<'a> {
    /// The caller's memory.
    pub fn user(pieces: &'a [(u64, usize)]) -> Self {
        To::User(Pieces::new(pieces))
    }

    /// How many bytes there is room for.
    pub fn left(&self) -> usize {
        match self {
            To::User(pieces) => pieces.left,
            To::Kernel(buffer) => buffer.len(),
            To::Frames(frames) => frames.left,
        }
    }

    /// Gives up the room beyond `len` bytes.
    pub(super) fn truncate(&mut self, len: usize) {
        match self {
            To::User(pieces) => pieces.left = pieces.left.min(len),
            To::Kernel(buffer) => {
                let n = buffer.len().min(len);
                *buffer = &mut core::mem::take(buffer)[..n];
            }
            To::Frames(frames) => frames.left = frames.left.min(len),
        }
    }

    /// Copies `bytes`, or as many as there is room for, or as the caller's memory takes; gives how many.
    pub fn put(&mut self, bytes: &[u8]) -> usize {
        match self {
            To::User(pieces) => {
                pieces.each(bytes.len(), |at, range| usercopy::copy_to_user(at, &bytes[range]).is_ok())
            }
            To::Kernel(buffer) => {
                let n = bytes.len().min(buffer.len());
                let (now, later) = core::mem::take(buffer).split_at_mut(n);
                now.copy_from_slice(&bytes[..n]);
                *buffer = later;
                n
            }
            To::Frames(frames) => frames.each(bytes.len(), |at, range| {
                let bytes = &bytes[range];
                // SAFETY: the frames are kept, and as long as the range; programs may write to them
                // meanwhile, and whatever bytes are there then stay.
                unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), at, bytes.len()) };
            }),
        }
    }

    /// Copies all of `bytes` or nothing that counts: for what cannot be delivered in part.
    ///
    /// # Errors
    /// `EFAULT`.
    pub fn put_whole(&mut self, bytes: &[u8]) -> Result<usize> {
        if self.put(bytes) == bytes.len() { Ok(bytes.len()) } else { Err(EFAULT) }
    }

    /// Lets `give` fill a kernel buffer again and again and passes it on, until `give` has less than it was
    /// asked for, or there is no more room. `give` is told how many bytes were passed on before.
    ///
    /// # Errors
    /// `EFAULT` if nothing could be passed on, `ENOMEM`; what `give` gives, if it is the first thing that
    /// happens.
    pub fn fill_from(&mut self, mut give: impl FnMut(u64, &mut [u8]) -> Result<usize>) -> Result<usize> {
        let mut buffer = buffer(self.left().min(PIECE))?;
        let mut done = 0;
        while self.left() > 0 {
            let want = self.left().min(buffer.len());
            let n = match give(done as u64, &mut buffer[..want]) {
                Ok(n) => n,
                Err(error) => return or_error(done, error),
            };
            let put = self.put(&buffer[..n]);
            done += put;
            if put < n {
                return or_error(done, EFAULT);
            }
            if n < want {
                break;
            }
        }
        Ok(done)
    }
}

/// Where bytes come from.
pub enum From<'a> {
    /// The caller's memory.
    User(Pieces<'a>),
    /// A kernel buffer.
    Kernel(&'a [u8]),
    /// Frames.
    Frames(Frames<'a>),
}

impl<'a> From<'a> {
    /// The caller's memory.
    pub fn user(pieces: &'a [(u64, usize)]) -> Self {
        From::User(Pieces::new(pieces))
    }

    /// How many bytes there are.
    pub fn left(&self) -> usize {
        match self {
            From::User(pieces) => pieces.left,
            From::Kernel(buffer) => buffer.len(),
            From::Frames(frames) => frames.left,
        }
    }

    /// Forgets the bytes beyond `len`.
    pub(super) fn truncate(&mut self, len: usize) {
        match self {
            From::User(pieces) => pieces.left = pieces.left.min(len),
            From::Kernel(buffer) => *buffer = &buffer[..buffer.len().min(len)],
            From::Frames(frames) => frames.left = frames.left.min(len),
        }
    }

    /// Fills `bytes`, or as much of it as there is, or as can be read of the caller's memory; gives how much.
    pub fn take(&mut self, bytes: &mut [u8]) -> usize {
        match self {
            From::User(pieces) => {
                pieces.each(bytes.len(), |at, range| usercopy::copy_from_user(&mut bytes[range], at).is_ok())
            }
            From::Kernel(buffer) => {
                let (now, later) = buffer.split_at(bytes.len().min(buffer.len()));
                bytes[..now.len()].copy_from_slice(now);
                *buffer = later;
                now.len()
            }
            From::Frames(frames) => frames.each(bytes.len(), |at, range| {
                let bytes = &mut bytes[range];
                // SAFETY: the frames are kept, and as long as the range; programs may write to them
                // meanwhile, and whatever bytes are there are taken.
                unsafe { core::ptr::copy_nonoverlapping(at, bytes.as_mut_ptr(), bytes.len()) };
            }),
        }
    }

    /// Fills `bytes` if all of it can be read.
    ///
    /// # Errors
    /// `EFAULT`.
    pub fn take_whole(&mut self, bytes: &mut [u8]) -> Result<()> {
        if self.take(bytes) == bytes.len() { Ok(()) } else { Err(EFAULT) }
    }

    /// Passes the bytes to `keep` through a kernel buffer until it takes less than it was given, or none are
    /// left. `keep` is told how many bytes were kept before.
    ///
    /// # Errors
    /// `EFAULT` if nothing could be read, `ENOMEM`; what `keep` gives, if it is the first thing that happens.
    pub fn drain_to(&mut self, mut keep: impl FnMut(u64, &[u8]) -> Result<usize>) -> Result<usize> {
        let mut buffer = buffer(self.left().min(PIECE))?;
        let mut done = 0;
        while self.left() > 0 {
            let want = self.left().min(buffer.len());
            let n = self.take(&mut buffer[..want]);
            if n == 0 {
                return or_error(done, EFAULT);
            }
            match keep(done as u64, &buffer[..n]) {
                Ok(kept) => {
                    done += kept;
                    if kept < n || n < want {
                        break;
                    }
                }
                Err(error) => return or_error(done, error),
            }
        }
        Ok(done)
    }
}

/// What was done, if it was anything; else the error.
pub(super) fn or_error(done: usize, error: anonmem_oslib::Errno) -> Result<usize> {
    if done > 0 { Ok(done) } else { Err(error) }
}

/// A kernel buffer of `len` bytes; of a page, when memory has no larger block.
///
/// # Errors
/// `ENOMEM`.
pub(super) fn buffer(len: usize) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let len = match bytes.try_reserve_exact(len) {
        Ok(()) => len,
        Err(_) => {
            let less = len.min(PAGE as usize);
            bytes.try_reserve_exact(less).map_err(|_| ENOMEM)?;
            less
        }
    };
    bytes.resize(len, 0);
    Ok(bytes)
}

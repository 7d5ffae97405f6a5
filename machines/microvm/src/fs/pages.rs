//! The pages of pipes: the kernel's own, those that several pipes have, and a program's.
//!
//! A program's page is kept by a reference and not copied (`vmsplice`). A reader may see what the program
//! writes to it later, until copy-on-write gives the program another page. The reference keeps the other
//! sharers of the page from taking it for their own: who reads the pipe sees nothing that they write later
//! (CVE-2020-29374).
//!
//! Linux: include/linux/pipe_fs_i.h `struct pipe_buffer`.

use super::iov::{From, To};
use crate::arch::mem::PAGE;
use crate::machine::{self, Kernel};
use alloc::sync::Arc;
use alloc::vec::Vec;
use anonmem::PageLook;
use anonmem_oslib::Result;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Bytes of a page.
pub const SIZE: usize = PAGE as usize;
/// Bytes of a program's page that go over the kernel's stack at once.
const CHUNK: usize = 512;

/// Pages of all pipes. They may take an eighth of memory: nobody who writes much may take it from others.
/// Linux: the limits of fs.pipe-user-pages-soft and -hard.
static PAGES: AtomicU64 = AtomicU64::new(0);

/// Counts a page as long as it lives.
struct Counted;

impl Counted {
    /// `None` if there are too many.
    fn new() -> Option<Counted> {
        let most = machine::nr_frames() / 8;
        PAGES.fetch_update(Relaxed, Relaxed, |n| (n < most).then_some(n + 1)).ok()?;
        Some(Counted)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        PAGES.fetch_sub(1, Relaxed);
    }
}

/// A page of the kernel's.
pub struct Page {
    bytes: Vec<u8>,
    _counted: Counted,
}

impl Page {
    /// `None` if there are too many, or memory has none.
    pub fn new() -> Option<Page> {
        let counted = Counted::new()?;
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(SIZE).ok()?;
        bytes.resize(SIZE, 0);
        Some(Page { bytes, _counted: counted })
    }

    /// Gives its bytes.
    pub fn bytes(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

/// A page that several pipes may have: nobody writes to it any more.
enum Lent {
    /// The kernel's.
    Kernel(Page),
    /// A program's.
    User { look: PageLook<'static, Kernel>, _counted: Counted },
}

/// Whose page it is.
enum Held {
    /// This pipe's alone: more bytes may join it.
    Own(Page),
    /// Others may have it.
    Lent(Arc<Lent>),
}

/// A page and the bytes in it that wait.
pub struct Buffer {
    held: Held,
    /// The first of the bytes.
    pub start: usize,
    /// How many.
    pub len: usize,
}

impl Buffer {
    /// The first `len` bytes of a page.
    pub fn own(page: Page, len: usize) -> Buffer {
        Buffer { held: Held::Own(page), start: 0, len }
    }

    /// Bytes of a program's page; `None` if pipes have too many pages.
    pub fn of_user(look: PageLook<'static, Kernel>, start: usize, len: usize) -> Option<Buffer> {
        let lent = Lent::User { look, _counted: Counted::new()? };
        Some(Buffer { held: Held::Lent(Arc::new(lent)), start, len })
    }

    /// Gives room for `len` more bytes in the page, if it has that and is this pipe's alone.
    pub fn room(&mut self, len: usize) -> Option<&mut [u8]> {
        let end = self.start + self.len;
        match &mut self.held {
            Held::Own(page) => page.bytes.get_mut(end..end + len),
            Held::Lent(_) => None,
        }
    }

    /// Gives the page back, if it is this pipe's alone.
    pub fn into_own(self) -> Option<Page> {
        match self.held {
            Held::Own(page) => Some(page),
            Held::Lent(_) => None,
        }
    }

    /// Gives a second look at the first `len` bytes; the page takes no more from then on.
    pub fn share(mut self, len: usize) -> (Buffer, Buffer) {
        let lent = match self.held {
            Held::Own(page) => Arc::new(Lent::Kernel(page)),
            Held::Lent(lent) => lent,
        };
        self.held = Held::Lent(lent.clone());
        let part = Buffer { held: Held::Lent(lent), start: self.start, len: len.min(self.len) };
        (self, part)
    }

    /// Delivers the first `n` bytes, which stay here.
    ///
    /// # Errors
    /// `EFAULT`.
    pub fn give(&self, n: usize, to: &mut To<'_>) -> Result<()> {
        self.each_chunk(n, |bytes| to.put_whole(bytes).map(drop))
    }

    /// Passes the first `n` bytes to `take`, in pieces, until it fails or takes less than it is given; says
    /// how many were taken.
    ///
    /// # Errors
    /// That of `take`, if nothing was taken before.
    pub fn pass(&self, n: usize, mut take: impl FnMut(&mut From<'_>) -> Result<usize>) -> Result<usize> {
        let mut taken = 0;
        let mut short = Ok(());
        let _ = self.each_chunk(n, |bytes| {
            let result = take(&mut From::Kernel(bytes));
            taken += result.unwrap_or(0);
            short = match result {
                Ok(m) if m == bytes.len() => return Ok(()),
                Ok(_) => Ok(()),
                Err(error) => Err(error),
            };
            // Enough: whatever ends the loop.
            Err(anonmem_oslib::errno::EAGAIN)
        });
        if taken > 0 { Ok(taken) } else { short.map(|()| 0) }
    }

    /// Calls `each` with the first `n` bytes in pieces, until it fails.
    fn each_chunk(&self, n: usize, mut each: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let range = self.start..self.start + n;
        let look = match &self.held {
            Held::Own(page) => return each(&page.bytes[range]),
            Held::Lent(lent) => match &**lent {
                Lent::Kernel(page) => return each(&page.bytes[range]),
                Lent::User { look, .. } => look,
            },
        };
        let mut chunk = [0; CHUNK];
        let mut at = range.start;
        while at < range.end {
            let bytes = &mut chunk[..CHUNK.min(range.end - at)];
            look.read(at, bytes);
            each(bytes)?;
            at += bytes.len();
        }
        Ok(())
    }
}

//! The one set of operations that the property test, the stress and the fuzzer draw from.
//!
//! An [`Op`] is plain data with concrete numbers, so that a failing list of them prints as a test case
//! and runs again. Addresses come from a window of few pages that straddles a table boundary at every
//! level, so that areas meet, split and merge all the time.

use anonmem_hal::PAGE_SIZE;
use std::fmt;

/// The most address spaces at once.
pub const SPACES: usize = 8;
/// Where heaps start: in the window, so that they meet other areas.
pub const HEAP_START: u64 = 0x4001_8000;
/// First byte of the window: 16 pages below the 1 GiB boundary.
pub const WINDOW: u64 = 0x3fff_0000;
/// Length of the window in pages.
pub const WINDOW_PAGES: u64 = 64;

/// Access rights as in `PROT_*`.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Rights(pub u8);

impl Rights {
    /// `PROT_NONE`.
    pub const NONE: Self = Self(0);
    /// `PROT_READ`.
    pub const R: Self = Self(1);
    /// `PROT_READ | PROT_WRITE`.
    pub const RW: Self = Self(3);
    /// `PROT_READ | PROT_EXEC`.
    pub const RX: Self = Self(5);
    /// All three.
    pub const RWX: Self = Self(7);

    /// Whether stores are allowed.
    pub fn write(self) -> bool {
        self.0 & 2 != 0
    }

    /// Whether instruction fetches are allowed.
    pub fn exec(self) -> bool {
        self.0 & 4 != 0
    }

    /// Whether anything is allowed; on x86-64 every right implies loads.
    pub fn any(self) -> bool {
        self.0 != 0
    }
}

impl fmt::Debug for Rights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NONE => write!(f, "Rights::NONE"),
            Self::R => write!(f, "Rights::R"),
            Self::RW => write!(f, "Rights::RW"),
            Self::RX => write!(f, "Rights::RX"),
            Self::RWX => write!(f, "Rights::RWX"),
            Self(bits) => write!(f, "Rights({bits})"),
        }
    }
}

/// Where `mmap` should put the area.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Anywhere.
    Anywhere,
    /// There if it is free.
    Hint(u64),
    /// `MAP_FIXED`.
    Fixed(u64),
    /// `MAP_FIXED_NOREPLACE`.
    NoReplace(u64),
}

/// What is mapped.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Backing {
    /// `MAP_PRIVATE | MAP_ANONYMOUS`.
    Private,
    /// `MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE`.
    NoReserve,
    /// `MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN`.
    Stack,
    /// `MAP_SHARED | MAP_ANONYMOUS`.
    Shared,
    /// `MAP_PRIVATE` of the test's source, from this page of it on.
    Source(u64),
}

/// How `mremap` may go about it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Remap {
    /// No flag.
    InPlace,
    /// `MREMAP_MAYMOVE`.
    MayMove,
    /// `MREMAP_MAYMOVE | MREMAP_FIXED`.
    Fixed(u64),
    /// `MREMAP_MAYMOVE | MREMAP_DONTUNMAP`.
    DontUnmap,
    /// `MREMAP_MAYMOVE | MREMAP_DONTUNMAP | MREMAP_FIXED`.
    DontUnmapFixed(u64),
}

/// `MADV_*`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Advise {
    /// Drops the pages.
    DontNeed,
    /// May drop the pages until they are written again.
    Free,
    /// Faults in for reading.
    PopulateRead,
    /// Faults in for writing.
    PopulateWrite,
    /// A child does not get the area.
    DontFork,
    /// Undoes `DontFork`.
    DoFork,
    /// A child gets the area empty.
    WipeOnFork,
    /// Undoes `WipeOnFork`.
    KeepOnFork,
    /// Advice without a visible effect.
    Cold,
    /// Reclaims now; no visible effect either.
    PageOut,
    /// Makes every access trap.
    GuardInstall,
    /// Undoes `GuardInstall`.
    GuardRemove,
}

impl Advise {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::DontNeed,
        Self::Free,
        Self::PopulateRead,
        Self::PopulateWrite,
        Self::DontFork,
        Self::DoFork,
        Self::WipeOnFork,
        Self::KeepOnFork,
        Self::Cold,
        Self::PageOut,
        Self::GuardInstall,
        Self::GuardRemove,
    ];
}

/// What an operation is applied to: a range of one address space, in bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct At {
    /// Which address space, below [`SPACES`].
    pub space: usize,
    /// First byte.
    pub addr: u64,
    /// Length in bytes.
    pub len: u64,
}

impl At {
    /// `pages` pages from `addr`.
    pub fn pages(space: usize, addr: u64, pages: u64) -> Self {
        Self { space, addr, len: pages * PAGE_SIZE as u64 }
    }

    /// The middle third, at least a byte of what is not empty.
    pub fn middle(self) -> Self {
        let third = self.len / 3;
        Self { addr: self.addr + third, len: (self.len - 2 * third).min(3 * PAGE_SIZE as u64), ..self }
    }
}

impl fmt::Debug for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "At {{ space: {}, addr: {:#x}, len: {:#x} }}", self.space, self.addr, self.len)
    }
}

/// An operation. Its `Debug` form is Rust source: a failing list of them is pasted into a test as it is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// A new, empty address space; an existing one exits first.
    Spawn(usize),
    /// A copy of one address space becomes another; what was there exits first.
    Fork {
        /// Who forks.
        parent: usize,
        /// Where the child goes.
        child: usize,
    },
    /// An address space ends.
    Exit(usize),
    /// `mmap` of `len` bytes; the address of `At` is ignored.
    Mmap(At, Place, Rights, Backing),
    /// `munmap`.
    Munmap(At),
    /// `mprotect`.
    Mprotect(At, Rights),
    /// `mremap` to a new length in bytes.
    Mremap(At, u64, Remap),
    /// `brk` to the start of the heap plus `len`; the address of `At` is ignored.
    Brk(At),
    /// `madvise`.
    Madvise(At, Advise),
    /// `mlock`.
    Mlock(At),
    /// `munlock`.
    Munlock(At),
    /// `mincore`.
    Mincore(At),
    /// 4 is written to `clear_refs`.
    ClearRefs(usize),
    /// Loads.
    Read(At),
    /// Stores of [`pattern`].
    Write(At, u32),
    /// One instruction fetch.
    Fetch(At),
    /// A device writes [`pattern`], through pins.
    DeviceWrite(At, u32),
    /// A range is pinned to be written, until the `Release` of that number.
    Hold(At, usize),
    /// The pins of a `Hold` are dropped, in whatever address space they were taken.
    Release(usize, usize),
    /// `UFFDIO_MOVE` of the range to this address.
    UffdMove(At, u64),
    /// `UFFDIO_COPY` of [`pattern`], a page again and again.
    UffdFill(At, u32),
    /// Write protection by a userfaultfd, stores of [`pattern`] to the middle, and a look at what was
    /// written.
    UffdProtect(At, u32),
}

/// The most holds at once.
pub const HOLDS: usize = 4;

impl Op {
    /// The address space that the operation acts in.
    pub fn space(&self) -> usize {
        match *self {
            Self::Spawn(space) | Self::Exit(space) | Self::Fork { parent: space, .. } => space,
            Self::ClearRefs(space) => space,
            Self::Mmap(at, ..)
            | Self::Munmap(at)
            | Self::Mprotect(at, _)
            | Self::Mremap(at, ..)
            | Self::Brk(at)
            | Self::Madvise(at, _)
            | Self::Mlock(at)
            | Self::Munlock(at)
            | Self::Mincore(at)
            | Self::Read(at)
            | Self::Write(at, _)
            | Self::Fetch(at)
            | Self::DeviceWrite(at, _)
            | Self::Hold(at, _)
            | Self::UffdMove(at, _)
            | Self::UffdFill(at, _)
            | Self::UffdProtect(at, _) => at.space,
            Self::Release(space, _) => space,
        }
    }

    /// Whether a page may be made for its address space to write to, or for a device.
    pub fn may_write(&self) -> bool {
        match self {
            Self::Spawn(_) | Self::Exit(_) | Self::Fork { .. } | Self::ClearRefs(_) => false,
            Self::Munmap(_) | Self::Munlock(_) | Self::Mincore(_) | Self::Read(_) | Self::Fetch(_) => false,
            Self::Release(..) => false,
            Self::Mmap(..) | Self::Mprotect(..) | Self::Mremap(..) | Self::Brk(_) | Self::Madvise(..) => true,
            Self::Mlock(_) | Self::Write(..) | Self::DeviceWrite(..) | Self::Hold(..) => true,
            Self::UffdMove(..) | Self::UffdFill(..) | Self::UffdProtect(..) => true,
        }
    }
}

impl Op {
    /// The same operation on the first `len` bytes, for those that work through a range.
    #[must_use]
    pub fn with_len(self, len: u64) -> Self {
        let cut = |at: At| At { len, ..at };
        match self {
            Self::Mprotect(at, rights) => Self::Mprotect(cut(at), rights),
            Self::Madvise(at, advice) => Self::Madvise(cut(at), advice),
            Self::Mlock(at) => Self::Mlock(cut(at)),
            Self::Munlock(at) => Self::Munlock(cut(at)),
            Self::Munmap(at) => Self::Munmap(cut(at)),
            Self::Read(at) => Self::Read(cut(at)),
            Self::Write(at, tag) => Self::Write(cut(at), tag),
            other => other,
        }
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anywhere => write!(f, "Place::Anywhere"),
            Self::Hint(addr) => write!(f, "Place::Hint({addr:#x})"),
            Self::Fixed(addr) => write!(f, "Place::Fixed({addr:#x})"),
            Self::NoReplace(addr) => write!(f, "Place::NoReplace({addr:#x})"),
        }
    }
}

impl fmt::Debug for Backing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Private => write!(f, "Backing::Private"),
            Self::NoReserve => write!(f, "Backing::NoReserve"),
            Self::Stack => write!(f, "Backing::Stack"),
            Self::Shared => write!(f, "Backing::Shared"),
            Self::Source(page) => write!(f, "Backing::Source({page})"),
        }
    }
}

impl fmt::Debug for Remap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InPlace => write!(f, "Remap::InPlace"),
            Self::MayMove => write!(f, "Remap::MayMove"),
            Self::Fixed(to) => write!(f, "Remap::Fixed({to:#x})"),
            Self::DontUnmap => write!(f, "Remap::DontUnmap"),
            Self::DontUnmapFixed(to) => write!(f, "Remap::DontUnmapFixed({to:#x})"),
        }
    }
}

impl fmt::Debug for Advise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::DontNeed => "DontNeed",
            Self::Free => "Free",
            Self::PopulateRead => "PopulateRead",
            Self::PopulateWrite => "PopulateWrite",
            Self::DontFork => "DontFork",
            Self::DoFork => "DoFork",
            Self::WipeOnFork => "WipeOnFork",
            Self::KeepOnFork => "KeepOnFork",
            Self::Cold => "Cold",
            Self::PageOut => "PageOut",
            Self::GuardInstall => "GuardInstall",
            Self::GuardRemove => "GuardRemove",
        };
        write!(f, "Advise::{name}")
    }
}

impl fmt::Debug for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Spawn(space) => write!(f, "Op::Spawn({space})"),
            Self::Fork { parent, child } => write!(f, "Op::Fork {{ parent: {parent}, child: {child} }}"),
            Self::Exit(space) => write!(f, "Op::Exit({space})"),
            Self::Mmap(at, place, rights, backing) => {
                write!(f, "Op::Mmap({at:?}, {place:?}, {rights:?}, {backing:?})")
            }
            Self::Munmap(at) => write!(f, "Op::Munmap({at:?})"),
            Self::Mprotect(at, rights) => write!(f, "Op::Mprotect({at:?}, {rights:?})"),
            Self::Mremap(at, len, how) => write!(f, "Op::Mremap({at:?}, {len:#x}, {how:?})"),
            Self::Brk(at) => write!(f, "Op::Brk({at:?})"),
            Self::Madvise(at, advice) => write!(f, "Op::Madvise({at:?}, {advice:?})"),
            Self::Mlock(at) => write!(f, "Op::Mlock({at:?})"),
            Self::Munlock(at) => write!(f, "Op::Munlock({at:?})"),
            Self::Mincore(at) => write!(f, "Op::Mincore({at:?})"),
            Self::ClearRefs(space) => write!(f, "Op::ClearRefs({space})"),
            Self::Read(at) => write!(f, "Op::Read({at:?})"),
            Self::Write(at, tag) => write!(f, "Op::Write({at:?}, {tag})"),
            Self::Fetch(at) => write!(f, "Op::Fetch({at:?})"),
            Self::DeviceWrite(at, tag) => write!(f, "Op::DeviceWrite({at:?}, {tag})"),
            Self::Hold(at, hold) => write!(f, "Op::Hold({at:?}, {hold})"),
            Self::Release(space, hold) => write!(f, "Op::Release({space}, {hold})"),
            Self::UffdMove(at, to) => write!(f, "Op::UffdMove({at:?}, {to:#x})"),
            Self::UffdFill(at, tag) => write!(f, "Op::UffdFill({at:?}, {tag})"),
            Self::UffdProtect(at, tag) => write!(f, "Op::UffdProtect({at:?}, {tag})"),
        }
    }
}

/// The bytes that `Write` with this tag stores: never a run of zeroes, nor of poison.
pub fn pattern(tag: u32, len: usize) -> Vec<u8> {
    let word = tag.wrapping_mul(0x9e37_79b1) | 0x0101_0101;
    (0..len).map(|i| (word >> (i % 4 * 8)) as u8 ^ (i / 4) as u8).collect()
}

/// Why an access did not complete.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Signal {
    /// `SIGSEGV` with `SEGV_MAPERR`.
    Unmapped,
    /// `SIGSEGV` with `SEGV_ACCERR`.
    Denied,
    /// `SIGBUS`.
    Bus,
    /// Out of memory.
    Oom,
}

/// What an operation came to.
#[derive(Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It succeeded.
    Done,
    /// It succeeded and returned an address.
    Address(u64),
    /// It returned an error.
    Errno(i32),
    /// What was loaded.
    Bytes(Vec<u8>),
    /// Which pages are resident.
    Resident(Vec<bool>),
    /// So many bytes are done, and then this error, if any.
    Progress(u64, i32),
    /// A signal, after this many bytes (up to a page boundary) were accessed.
    Signal(Signal, usize),
    /// There is no such address space, so nothing was done.
    Skipped,
}

impl Outcome {
    /// Whether this is how `op` says that it ran out of memory, or may be.
    pub fn is_out_of_memory(&self, op: &Op) -> bool {
        match self {
            Self::Errno(errno::ENOMEM | errno::EAGAIN) | Self::Signal(Signal::Oom, _) => true,
            Self::Progress(_, errno::ENOMEM) => true,
            // `brk` returns the old end.
            Self::Address(_) => matches!(op, Op::Brk(_)),
            _ => false,
        }
    }
}

impl fmt::Debug for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done => write!(f, "Done"),
            Self::Address(a) => write!(f, "Address({a:#x})"),
            Self::Errno(e) => write!(f, "Errno({e})"),
            Self::Bytes(b) => write!(f, "Bytes({} of them, first {:02x?})", b.len(), b.first()),
            Self::Resident(r) => write!(f, "Resident({r:?})"),
            Self::Progress(bytes, e) => write!(f, "Progress({bytes:#x}, {e})"),
            Self::Signal(s, done) => write!(f, "Signal({s:?}, {done})"),
            Self::Skipped => write!(f, "Skipped"),
        }
    }
}

/// Linux's error numbers.
#[allow(missing_docs)]
pub mod errno {
    pub const EPERM: i32 = 1;
    pub const ENOENT: i32 = 2;
    pub const EAGAIN: i32 = 11;
    pub const ENOMEM: i32 = 12;
    pub const EFAULT: i32 = 14;
    pub const EBUSY: i32 = 16;
    pub const EEXIST: i32 = 17;
    pub const EINVAL: i32 = 22;
}

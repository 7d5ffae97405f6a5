//! Errors as values, and the one place where they become numbers.

use anonmem_frame::OutOfMemory;
use anonmem_hal::NodeSet;
use core::fmt;

/// Why an operation was refused. Nothing has changed when one is returned, unless the call says how far it
/// came: `mprotect`, `madvise`, `mlock` and a move of several mappings change one after the other, as on
/// Linux.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Error {
    /// No frame could be had.
    OutOfMemory,
    /// No frame of these nodes could be had, and a strict policy allows no others: memory of others would not
    /// help.
    NodesFull(NodeSet),
    /// Not within the limit that the text names; no memory would help.
    Limit(&'static str),
    /// An argument makes no sense; the text names it.
    Invalid(&'static str),
    /// Part of the range is not mapped.
    NotMapped,
    /// The range asked for with `MAP_FIXED_NOREPLACE` is in use.
    Exists,
    /// The protection is not allowed for this mapping.
    AccessDenied,
    /// The operation is not allowed for this mapping.
    NotPermitted,
    /// A page could not be read from its swap device: it is lost.
    Io,
    /// An address is outside the address space, or not mapped where it must be.
    BadAddress,
    /// It is locked, and was to be invalidated.
    Busy,
    /// A limit on locked memory or a temporary shortage; may work later.
    Again,
    /// An offset is too large to be counted in pages.
    Overflow,
    /// What the call is about is not there.
    NotFound,
    /// The address space has ended.
    NoProcess,
    /// A signal came first.
    Interrupted,
    /// Not supported by this memory manager; the text names it.
    Unsupported(&'static str),
}

impl Error {
    /// No hole of this length among the addresses.
    pub(crate) const NO_ROOM: Self = Self::Limit("no hole among the addresses is long enough");
    /// A fixed place that does not lie among the addresses.
    pub(crate) const BEYOND: Self = Self::Limit("the place that is asked for is beyond the last address");
    /// The mapping cannot grow where it is and may not move.
    pub(crate) const MAY_NOT_MOVE: Self = Self::Limit("no room behind the mapping, which may not move");
    /// As much as may be promised.
    pub(crate) const COMMIT_LIMIT: Self = Self::Limit("memory that may be promised (overcommit)");
    /// As much address space as there may be.
    pub(crate) const SPACE: Self = Self::Limit("the size of the address space (RLIMIT_AS)");
    /// As much private writable memory as there may be.
    pub(crate) const DATA: Self = Self::Limit("private writable memory (RLIMIT_DATA)");
    /// As many mappings as there may be.
    pub(crate) const MAX_MAP_COUNT: Self = Self::Limit("mappings of an address space (max_map_count)");
    /// As much locked memory as there may be.
    pub(crate) const LOCKED: Self = Self::Limit("locked memory (RLIMIT_MEMLOCK)");
    /// As often as a page may be pinned.
    pub(crate) const PINS: Self = Self::Limit("pins of a page");
    /// As many references as a page may have.
    pub(crate) const REFERENCES: Self = Self::Limit("references to a page");

    /// The Linux error number (positive).
    pub const fn errno(self) -> i32 {
        match self {
            Self::NotPermitted => 1,
            Self::NotFound => 2,
            Self::NoProcess => 3,
            Self::Interrupted => 4,
            Self::Io => 5,
            Self::Again => 11,
            Self::OutOfMemory | Self::NodesFull(_) | Self::Limit(_) | Self::NotMapped => 12,
            Self::AccessDenied => 13,
            Self::BadAddress => 14,
            Self::Busy => 16,
            Self::Exists => 17,
            Self::Invalid(_) => 22,
            Self::Overflow => 75,
            Self::Unsupported(_) => 95,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfMemory => f.write_str("out of memory"),
            Self::NodesFull(nodes) => {
                write!(f, "out of memory on the nodes that the policy allows (mask {:#x})", nodes.0)
            }
            Self::Limit(which) => write!(f, "beyond a limit: {which}"),
            Self::Invalid(what) => write!(f, "invalid argument: {what}"),
            Self::NotMapped => f.write_str("part of the range is not mapped"),
            Self::Busy => f.write_str("locked memory cannot be invalidated"),
            Self::Exists => f.write_str("the range is in use"),
            Self::AccessDenied => f.write_str("the protection is not allowed for this mapping"),
            Self::NotPermitted => f.write_str("the operation is not allowed for this mapping"),
            Self::Io => f.write_str("a page could not be read from its swap device"),
            Self::BadAddress => f.write_str("bad address"),
            Self::Again => f.write_str("a limit is reached; try again later"),
            Self::Overflow => f.write_str("an offset is too large"),
            Self::NotFound => f.write_str("nothing is there"),
            Self::NoProcess => f.write_str("the address space has ended"),
            Self::Interrupted => f.write_str("a signal came first"),
            Self::Unsupported(what) => write!(f, "not supported: {what}"),
        }
    }
}

impl core::error::Error for Error {}

impl From<OutOfMemory> for Error {
    fn from(OutOfMemory: OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}

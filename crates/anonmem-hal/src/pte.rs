//! Page-table entries as enums.
//!
//! Raw bits stop at [`crate::Arch`]; everything above matches on these types, and every `match` is total.

use crate::addr::Pfn;

/// What a program may do with a page: the hardware's view, not the VMA's.
///
/// COW removes `write` from an entry whose VMA allows writing: logical writability is the VMA's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Protection {
    /// Loads are allowed. Without it the entry is kept but traps on every access (`PROT_NONE`).
    pub read: bool,
    /// Stores are allowed.
    pub write: bool,
    /// Instruction fetches are allowed.
    pub exec: bool,
}

impl Protection {
    /// No access at all.
    pub const NONE: Self = Self { read: false, write: false, exec: false };
    /// Read only.
    pub const R: Self = Self { read: true, write: false, exec: false };
    /// Read and write.
    pub const RW: Self = Self { read: true, write: true, exec: false };
    /// Read and execute.
    pub const RX: Self = Self { read: true, write: false, exec: true };

    /// The same without `write`.
    #[must_use]
    pub const fn write_protected(self) -> Self {
        Self { write: false, ..self }
    }
}

/// An entry that the hardware may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Present {
    /// The frame (the first one, for a leaf above the last level).
    pub pfn: Pfn,
    /// The hardware's permissions.
    pub prot: Protection,
    /// Accessed since last cleared.
    pub young: bool,
    /// Written since last cleared.
    pub dirty: bool,
    /// Owns no reference and no mapcount: the zero page (Linux: `pte_special`).
    pub special: bool,
    /// Write-protected on behalf of userfaultfd.
    pub uffd_wp: bool,
}

impl Present {
    /// The same entry without write permission.
    #[must_use]
    pub const fn write_protected(self) -> Self {
        Self { prot: self.prot.write_protected(), ..self }
    }
}

/// A last-level entry, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pte {
    /// Nothing was ever here, or it was unmapped.
    None,
    /// A page.
    Present(Present),
    /// Not present for the hardware, meaningful to software (Linux: `softleaf_t`).
    Soft(SoftLeaf),
}

/// What software stores in an entry that the hardware ignores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SoftLeaf {
    /// The page is in a swap slot; the entry owns one slot count.
    Swap {
        /// Where.
        entry: SwapEntry,
        /// The page was exclusive when it left (Linux: `pte_swp_exclusive`).
        exclusive: bool,
        /// Carried for userfaultfd write protection.
        uffd_wp: bool,
    },
    /// The page is being migrated; whoever faults waits for the folio lock.
    Migration {
        /// The old frame.
        pfn: Pfn,
        /// What the entry was.
        kind: MigrationKind,
    },
    /// Not a page, but a statement about the address.
    Marker(Marker),
}

/// A swap device and a slot on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SwapEntry {
    /// The device, below 32.
    pub device: u8,
    /// The slot, in pages from the start of the device, below 2^40.
    pub offset: u64,
}

/// What a migration entry replaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MigrationKind {
    /// A read-only mapping of a page that may be shared.
    Read,
    /// A read-only mapping of an exclusive page.
    ReadExclusive,
    /// A writable mapping.
    Write,
}

/// Statements about an address that has no page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marker {
    /// userfaultfd write protection was asked for before a page was there.
    UffdWp,
    /// The contents are lost: any access is a SIGBUS.
    Poisoned,
    /// `MADV_GUARD_INSTALL`: any access is a SIGSEGV.
    Guard,
}

/// An entry of a table above the last level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// No table.
    None,
    /// The next table.
    Table(Pfn),
    /// A large leaf at this level.
    Leaf(Present),
}

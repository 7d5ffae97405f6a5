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
    /// Not written since programs began to be asked: never together with `prot.write`. The bit says the
    /// opposite of Linux's `pte_soft_dirty`, so that what makes an entry need not say that it is new.
    pub soft_clean: bool,
}

impl Present {
    /// The same entry without write permission.
    #[must_use]
    pub const fn write_protected(self) -> Self {
        Self { prot: self.prot.write_protected(), ..self }
    }

    /// What a child gets of it: without write permission, not yet accessed, of no userfaultfd.
    #[must_use]
    pub const fn inherited(self) -> Self {
        Self { young: false, uffd_wp: false, ..self.write_protected() }
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
        /// What the entry says beside.
        bits: SwapBits,
    },
    /// The page is being migrated; whoever faults waits. The entry owns a mapping of the old frame.
    Migration {
        /// The old frame.
        pfn: Pfn,
        /// What the entry says beside.
        bits: MigrationBits,
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

/// What a swap entry says beside its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SwapBits {
    /// Whether the page was exclusive when it left (Linux: `pte_swp_exclusive`).
    pub sharing: Sharing,
    /// Write-protected on behalf of userfaultfd.
    pub uffd_wp: bool,
    /// As [`Present::soft_clean`].
    pub soft_clean: bool,
}

/// What a migration entry says beside its frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MigrationBits {
    /// What the entry replaces.
    pub kind: MigrationKind,
    /// The entry was accessed.
    pub young: bool,
    /// The entry was written through.
    pub dirty: bool,
    /// Write-protected on behalf of userfaultfd.
    pub uffd_wp: bool,
    /// As [`Present::soft_clean`].
    pub soft_clean: bool,
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

/// Whether the page of an entry is the entry's alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// The page is exclusive: it may be written without asking.
    Exclusive,
    /// Others may have the page.
    Shared,
}

/// All that an entry says beside what it owns, in whichever form it is.
///
/// An entry goes from one form to another (present, swap, migration, marker) through this type alone, so that
/// a bit which the new form has room for is never lost. What the form cannot say is filled in here, and
/// nowhere else:
///
/// | from | writable | accessed | dirty |
/// |---|---|---|---|
/// | swap | if exclusive | yes: a fault brings it back | yes: memory is the only place that has it |
/// | migration | if it was | as it was | as it was |
///
/// Linux: the conversions of `try_to_unmap_one`, `try_to_migrate_one`, `do_swap_page` and
/// `remove_migration_pte`, each of which carries the bits by hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryBits {
    /// Whether the page is the entry's alone.
    pub sharing: Sharing,
    /// Whether the entry allows stores, as far as the VMA does.
    pub write: bool,
    /// Accessed.
    pub young: bool,
    /// Written.
    pub dirty: bool,
    /// Write-protected on behalf of userfaultfd.
    pub uffd_wp: bool,
    /// As [`Present::soft_clean`].
    pub soft_clean: bool,
}

impl EntryBits {
    /// What a present entry says; whether its page is exclusive, the page says.
    pub const fn of_present(present: Present, sharing: Sharing) -> Self {
        let Present { prot, young, dirty, uffd_wp, soft_clean, pfn: _, special: _ } = present;
        Self { sharing, write: prot.write, young, dirty, uffd_wp, soft_clean }
    }

    /// The same for a swap entry.
    pub const fn to_swap(self) -> SwapBits {
        SwapBits { sharing: self.sharing, uffd_wp: self.uffd_wp, soft_clean: self.soft_clean }
    }

    /// The same for a migration entry. Only an exclusive page is writable.
    pub const fn to_migration(self) -> MigrationBits {
        let kind = match (self.sharing, self.write) {
            (Sharing::Exclusive, true) => MigrationKind::Write,
            (Sharing::Exclusive, false) => MigrationKind::ReadExclusive,
            (Sharing::Shared, true | false) => MigrationKind::Read,
        };
        let Self { young, dirty, uffd_wp, soft_clean, .. } = self;
        MigrationBits { kind, young, dirty, uffd_wp, soft_clean }
    }

    /// The hardware's permissions in a VMA that allows `vma`. Stores are allowed to an exclusive page that
    /// userfaultfd does not write-protect, and whose first write nobody waits for.
    pub const fn prot(self, vma: Protection) -> Protection {
        let exclusive = matches!(self.sharing, Sharing::Exclusive);
        let asked = self.uffd_wp || self.soft_clean;
        Protection { write: vma.write && self.write && exclusive && !asked, ..vma }
    }

    /// The same for a present entry of frame `pfn` in a VMA that allows `vma`.
    pub const fn to_present(self, pfn: Pfn, vma: Protection) -> Present {
        let Self { young, dirty, uffd_wp, soft_clean, .. } = self;
        Present { pfn, prot: self.prot(vma), young, dirty, special: false, uffd_wp, soft_clean }
    }

    /// What is left to be said where there is no page any more.
    pub const fn to_marker(self) -> Option<Marker> {
        if self.uffd_wp { Some(Marker::UffdWp) } else { None }
    }
}

impl From<SwapBits> for EntryBits {
    fn from(SwapBits { sharing, uffd_wp, soft_clean }: SwapBits) -> Self {
        let write = sharing == Sharing::Exclusive;
        Self { sharing, write, young: true, dirty: true, uffd_wp, soft_clean }
    }
}

impl From<MigrationBits> for EntryBits {
    fn from(MigrationBits { kind, young, dirty, uffd_wp, soft_clean }: MigrationBits) -> Self {
        let (sharing, write) = match kind {
            MigrationKind::Read => (Sharing::Shared, false),
            MigrationKind::ReadExclusive => (Sharing::Exclusive, false),
            MigrationKind::Write => (Sharing::Exclusive, true),
        };
        Self { sharing, write, young, dirty, uffd_wp, soft_clean }
    }
}

impl SwapBits {
    /// The same for an entry that a child has, and for its parent's: neither has the page alone.
    #[must_use]
    pub const fn shared(self) -> Self {
        Self { sharing: Sharing::Shared, ..self }
    }
}

impl MigrationBits {
    /// The same for an entry that a child has, and for its parent's: neither has the page alone.
    #[must_use]
    pub const fn shared(self) -> Self {
        Self { kind: MigrationKind::Read, ..self }
    }

    /// The same without permission to write.
    #[must_use]
    pub const fn write_protected(self) -> Self {
        let kind = match self.kind {
            MigrationKind::Read => MigrationKind::Read,
            MigrationKind::ReadExclusive | MigrationKind::Write => MigrationKind::ReadExclusive,
        };
        Self { kind, ..self }
    }
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
///
/// A leaf maps the pages of a whole folio, as large as what the entry covers. Without permission to read it
/// traps, and stays a leaf: so it is in a `PROT_NONE` mapping, and for the moment in which it is split.
///
/// Neither a swap entry nor a marker comes at this level. A folio goes to a run of slots, which entries of
/// the last level say one by one; so do markers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Nothing.
    None,
    /// The next table.
    Table(Pfn),
    /// A leaf at this level.
    Leaf(Present),
    /// The leaf's folio is being migrated. The entry owns the mappings of the old frames.
    Migration {
        /// The old folio's first frame.
        pfn: Pfn,
        /// What the entry says beside.
        bits: MigrationBits,
    },
}

impl Entry {
    /// What the last level says of the `nth` page of what this entry maps as a whole; `None` if that is
    /// nothing, or a table that says it itself. It says all that the entry says: where a leaf becomes a
    /// table, no bit is lost.
    ///
    /// Linux: `__split_huge_pmd_locked`, which carries the bits by hand.
    pub const fn nth_page(self, nth: u64) -> Option<Pte> {
        match self {
            Self::None | Self::Table(_) => None,
            Self::Leaf(leaf) => Some(Pte::Present(Present { pfn: leaf.pfn.offset(nth), ..leaf })),
            Self::Migration { pfn, bits } => {
                Some(Pte::Soft(SoftLeaf::Migration { pfn: pfn.offset(nth), bits }))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::vec::Vec;

    /// Everything that an entry can say beside what it owns.
    fn all_bits() -> Vec<EntryBits> {
        let on = |bits: u32, i: u32| bits >> i & 1 == 1;
        let of = |bits: u32| EntryBits {
            sharing: if on(bits, 0) { Sharing::Exclusive } else { Sharing::Shared },
            write: on(bits, 1),
            young: on(bits, 2),
            dirty: on(bits, 3),
            uffd_wp: on(bits, 4),
            soft_clean: on(bits, 5),
        };
        // Writable implies exclusive, not write-protected by userfaultfd, and written since asked.
        let writable = |b: &EntryBits| b.sharing == Sharing::Exclusive && !b.uffd_wp && !b.soft_clean;
        (0..64).map(of).filter(|b| !b.write || writable(b)).collect()
    }

    #[test]
    fn every_form_carries_every_bit_that_it_has_room_for() {
        for bits in all_bits() {
            let present = bits.to_present(Pfn(7), Protection::RW);
            assert_eq!(EntryBits::of_present(present, bits.sharing), bits, "present");
            assert_eq!(EntryBits::from(bits.to_migration()), bits, "a migration entry");
            let swapped = EntryBits::from(bits.to_swap());
            let kept = |b: EntryBits| (b.sharing, b.uffd_wp, b.soft_clean);
            assert_eq!(kept(swapped), kept(bits), "a swap entry");
            assert!(swapped.young && swapped.dirty, "memory is the only place that has it");
            assert_eq!(bits.to_marker().is_some(), bits.uffd_wp, "a marker");
        }
    }

    #[test]
    fn no_form_gives_a_permission_that_the_vma_or_userfaultfd_refuses() {
        for bits in all_bits() {
            for from in [bits, bits.to_swap().into(), bits.to_migration().into()] {
                assert!(!from.to_present(Pfn(7), Protection::R).prot.write);
                let write = from.to_present(Pfn(7), Protection::RW).prot.write;
                let may = from.sharing == Sharing::Exclusive && !from.uffd_wp && !from.soft_clean;
                assert!(!write || may, "{from:?}");
            }
            let migration = bits.to_migration();
            assert_eq!(
                EntryBits::from(migration.shared()),
                EntryBits { sharing: Sharing::Shared, write: false, ..bits }
            );
            assert_eq!(EntryBits::from(migration.write_protected()), EntryBits { write: false, ..bits });
        }
    }
}

//! What all formats of 64 bits have alike: software entries, and how entries are told apart.
//!
//! Bits 0 and 1 of a software entry are 0. So no hardware takes it for a page, nor do we for one that traps.
//!
//! | bit | what |
//! |---|---|
//! | 2-4 | kind: 1 swap, 2 migration, 3 marker |
//! | 5-7 | flags of the kind |
//! | 9-13 | device; of a migration entry: accessed, dirty, uffd write protected, soft-clean |
//! | 14-62 | offset or frame, inverted |
//!
//! The value is inverted because of x86: a processor that speculates past the missing present bit (L1TF)
//! finds an address beyond memory.

use crate::{
    addr::Pfn,
    pte::{
        Entry, Marker, MigrationBits, MigrationKind, Present, Pte, Sharing, SoftLeaf, SwapBits, SwapEntry,
    },
};

const KIND_SHIFT: u32 = 2;
const FLAG_SHIFT: u32 = 5;
const DEVICE_SHIFT: u32 = 9;
const VALUE_SHIFT: u32 = 14;
const VALUE_MASK: u64 = (1 << 49) - 1;
const KIND_SWAP: u64 = 1;
const KIND_MIGRATION: u64 = 2;
const KIND_MARKER: u64 = 3;

/// A bit of an entry.
#[inline(always)]
pub(super) const fn bit(on: bool, mask: u64) -> u64 {
    if on { mask } else { 0 }
}

/// A last-level entry, of a format that encodes a page by `present`.
#[inline(always)]
pub(super) fn encode_pte(pte: Pte, present: impl FnOnce(Present) -> u64) -> u64 {
    match pte {
        Pte::None => 0,
        Pte::Present(p) => present(p),
        Pte::Soft(leaf) => encode_soft(leaf),
    }
}

/// The last-level entry, of a format in which a page has one of the bits `pages` and is decoded by `present`.
#[inline(always)]
pub(super) fn decode_pte(raw: u64, pages: u64, present: impl FnOnce(u64) -> Present) -> Pte {
    if raw == 0 {
        Pte::None
    } else if raw & pages != 0 {
        Pte::Present(present(raw))
    } else {
        Pte::Soft(decode_soft(raw))
    }
}

/// An entry above the last level, of a format that encodes tables by `table` and leaves by `leaf`.
#[inline(always)]
pub(super) fn encode_entry(
    entry: Entry,
    table: impl FnOnce(Pfn) -> u64,
    leaf: impl FnOnce(Present) -> u64,
) -> u64 {
    match entry {
        Entry::None => 0,
        Entry::Table(pfn) => table(pfn),
        Entry::Leaf(p) => leaf(p),
        Entry::Migration { pfn, bits } => encode_soft(SoftLeaf::Migration { pfn, bits }),
    }
}

/// The entry.
#[cold]
pub(super) fn encode_soft(leaf: SoftLeaf) -> u64 {
    let pack = |kind: u64, flags: u64, device: u64, value: u64| {
        debug_assert!(value <= VALUE_MASK && device < 32 && flags < 8);
        kind << KIND_SHIFT
            | flags << FLAG_SHIFT
            | device << DEVICE_SHIFT
            | (!value & VALUE_MASK) << VALUE_SHIFT
    };
    match leaf {
        SoftLeaf::Swap { entry, bits: SwapBits { sharing, uffd_wp, soft_clean } } => pack(
            KIND_SWAP,
            u64::from(sharing == Sharing::Exclusive) | u64::from(uffd_wp) << 1 | u64::from(soft_clean) << 2,
            u64::from(entry.device),
            entry.offset,
        ),
        SoftLeaf::Migration { pfn, bits: MigrationBits { kind, young, dirty, uffd_wp, soft_clean } } => {
            let kind = match kind {
                MigrationKind::Read => 0,
                MigrationKind::ReadExclusive => 1,
                MigrationKind::Write => 2,
            };
            let said = u64::from(young) | u64::from(dirty) << 1 | u64::from(uffd_wp) << 2;
            let said = said | u64::from(soft_clean) << 3;
            pack(KIND_MIGRATION, kind, said, pfn.0)
        }
        SoftLeaf::Marker(marker) => {
            let which = match marker {
                Marker::UffdWp => 0,
                Marker::Poisoned => 1,
                Marker::Guard => 2,
            };
            pack(KIND_MARKER, which, 0, 0)
        }
    }
}

/// What the entry `raw` says, which is no page.
#[cold]
pub(super) fn decode_soft(raw: u64) -> SoftLeaf {
    let flags = raw >> FLAG_SHIFT & 7;
    let value = !(raw >> VALUE_SHIFT) & VALUE_MASK;
    match raw >> KIND_SHIFT & 7 {
        KIND_SWAP => SoftLeaf::Swap {
            entry: SwapEntry { device: (raw >> DEVICE_SHIFT & 31) as u8, offset: value },
            bits: SwapBits {
                sharing: if flags & 1 != 0 { Sharing::Exclusive } else { Sharing::Shared },
                uffd_wp: flags & 2 != 0,
                soft_clean: flags & 4 != 0,
            },
        },
        KIND_MIGRATION => SoftLeaf::Migration { pfn: Pfn(value), bits: decode_migration(raw) },
        KIND_MARKER => SoftLeaf::Marker(match flags {
            0 => Marker::UffdWp,
            1 => Marker::Poisoned,
            2 => Marker::Guard,
            _ => panic!("page-table entry {raw:#x}: unknown marker"),
        }),
        _ => panic!("page-table entry {raw:#x} is neither present nor a known software entry"),
    }
}

fn decode_migration(raw: u64) -> MigrationBits {
    let kind = match raw >> FLAG_SHIFT & 7 {
        0 => MigrationKind::Read,
        1 => MigrationKind::ReadExclusive,
        2 => MigrationKind::Write,
        _ => panic!("page-table entry {raw:#x}: unknown migration kind"),
    };
    let said = |i: u32| raw >> (DEVICE_SHIFT + i) & 1 == 1;
    MigrationBits { kind, young: said(0), dirty: said(1), uffd_wp: said(2), soft_clean: said(3) }
}

/// The same above the last level.
#[cold]
pub(super) fn decode_upper_soft(raw: u64) -> Entry {
    match decode_soft(raw) {
        SoftLeaf::Migration { pfn, bits } => Entry::Migration { pfn, bits },
        leaf @ (SoftLeaf::Swap { .. } | SoftLeaf::Marker(_)) => {
            panic!("page-table entry {raw:#x}: {leaf:?} above the last level")
        }
    }
}

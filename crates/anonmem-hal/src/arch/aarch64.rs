//! AArch64, stage 1: four levels, 4 KiB granule, 48-bit addresses.
//!
//! Source: Arm Architecture Reference Manual for A-profile (DDI 0487), D8.3 (translation table descriptors),
//! D8.4.6 (hardware management of the dirty state), D8.6.1 (the Contiguous bit).
//!
//! | bit | valid | not valid |
//! |---|---|---|
//! | 0 | 1 | 0 |
//! | 1 | 1: a page, or above the last level a table; 0: a block | PROT_NONE: 1, the entry is a page that traps |
//! | 2-4 | AttrIndx: 0, ordinary memory | a software entry: `soft.rs` |
//! | 6 | AP\[1\]: programs may access it | |
//! | 7 | AP\[2\]: read-only, or not yet written | |
//! | 8, 9 | SH: 3, inner shareable | |
//! | 10 | AF: accessed | |
//! | 11 | nG: of this address space alone | |
//! | 12-47 | frame | |
//! | 51 | DBM: may be written | |
//! | 52 | Contiguous | |
//! | 53, 54 | PXN (1), UXN: no execution by the kernel, by programs | |
//! | 55-58 | software: dirty, special, soft-clean, uffd write protected | |
//!
//! A page that may be written and has not been is DBM with AP\[2\] set. A processor with FEAT_HAFDBS clears
//! AP\[2\] on the first write; any other one traps, and the fault clears it. So "written" is AP\[2\] clear,
//! or the software bit, which stays when write permission goes.

use super::{
    Arch,
    soft::{self, bit, decode_upper_soft},
};
use crate::{
    addr::{Pfn, Va},
    pte::{Entry, Present, Protection, Pte},
};

/// AArch64 with four levels of tables.
#[derive(Debug)]
pub enum AArch64 {}

const VALID: u64 = 1;
/// A page at the last level, a table above; clear: a block.
const PAGE: u64 = 1 << 1;
const USER: u64 = 1 << 6;
const READ_ONLY: u64 = 1 << 7;
const SHAREABLE: u64 = 3 << 8;
const AF: u64 = 1 << 10;
const NG: u64 = 1 << 11;
const FRAME: u64 = ((1 << 48) - 1) & !0xfff;
const DBM: u64 = 1 << 51;
const CONTIGUOUS: u64 = 1 << 52;
const PXN: u64 = 1 << 53;
const UXN: u64 = 1 << 54;
const DIRTY: u64 = 1 << 55;
const SPECIAL: u64 = 1 << 56;
const SOFT_CLEAN: u64 = 1 << 57;
const UFFD_WP: u64 = 1 << 58;
/// Not valid: the entry is a page that traps.
const PROTNONE: u64 = 1 << 1;

impl AArch64 {
    /// How many entries one translation may cover together, each of which is marked
    /// [`contiguous`](Self::contiguous): 64 KiB.
    pub const CONTIGUOUS_ENTRIES: u64 = 16;

    /// A valid last-level entry with the hint that its neighbours map the neighbouring frames.
    ///
    /// The rules are the hardware's. All 16 entries of an aligned window have it or none; their frames are
    /// consecutive and aligned alike; they differ in nothing else. Whoever changes one of them takes the
    /// hint, and the entries, from all first, and flushes.
    pub const fn contiguous(raw: u64) -> u64 {
        raw | CONTIGUOUS
    }

    /// Whether the entry has that hint.
    pub const fn is_contiguous(raw: u64) -> bool {
        raw & (VALID | CONTIGUOUS) == VALID | CONTIGUOUS
    }
}

/// A page or a block; `kind` is bit 1 of a valid one.
#[inline]
fn encode_present(p: Present, kind: u64) -> u64 {
    debug_assert_eq!(p.pfn.phys() & !FRAME, 0, "a frame beyond the physical address space");
    let said = bit(p.young, AF) | bit(p.dirty, DIRTY) | bit(p.special, SPECIAL) | bit(p.uffd_wp, UFFD_WP);
    let said = said | bit(p.soft_clean, SOFT_CLEAN) | p.pfn.phys();
    let Protection { read, write, exec } = p.prot;
    if !(read || write || exec) {
        return PROTNONE | said;
    }
    let write = bit(write, DBM) | bit(!(write && p.dirty), READ_ONLY);
    VALID | kind | USER | SHAREABLE | NG | PXN | write | bit(!exec, UXN) | said
}

#[inline]
fn decode_present(raw: u64) -> Present {
    let valid = raw & VALID != 0;
    let written = valid && raw & (DBM | READ_ONLY) == DBM;
    Present {
        pfn: Pfn((raw & FRAME) >> 12),
        prot: Protection { read: valid, write: valid && raw & DBM != 0, exec: valid && raw & UXN == 0 },
        young: raw & AF != 0,
        dirty: written || raw & DIRTY != 0,
        special: raw & SPECIAL != 0,
        uffd_wp: raw & UFFD_WP != 0,
        soft_clean: raw & SOFT_CLEAN != 0,
    }
}

impl Arch for AArch64 {
    const LEVELS: u32 = 4;
    const INDEX_BITS: u32 = 9;
    const USER_END: Va = Va(1 << 48);
    const SOFT_DIRTY: bool = true;

    #[inline]
    fn encode_pte(pte: Pte) -> u64 {
        soft::encode_pte(pte, |p| encode_present(p, PAGE))
    }

    #[inline]
    fn decode_pte(raw: u64) -> Pte {
        soft::decode_pte(raw, VALID | PROTNONE, decode_present)
    }

    #[inline]
    fn encode_entry(entry: Entry, level: u32) -> u64 {
        debug_assert!(level > 0 && level < Self::LEVELS);
        let leaf = |p: Present| {
            debug_assert!(level <= 2, "no such block");
            debug_assert!(
                p.pfn.0.trailing_zeros() >= level * Self::INDEX_BITS,
                "a block that is not aligned"
            );
            encode_present(p, 0)
        };
        soft::encode_entry(entry, |pfn| VALID | PAGE | pfn.phys(), leaf)
    }

    #[inline]
    fn decode_entry(raw: u64, _level: u32) -> Entry {
        match raw & (VALID | PAGE) {
            0 if raw == 0 => Entry::None,
            0 => decode_upper_soft(raw),
            both if both == VALID | PAGE => Entry::Table(Pfn((raw & FRAME) >> 12)),
            _ => Entry::Leaf(decode_present(raw)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::{
        by_number::{Format, RWX},
        toy::tests::{every_entry_round_trips, every_upper_entry_round_trips},
    };

    #[test]
    fn every_aarch64_entry_round_trips() {
        every_entry_round_trips::<AArch64>(&[0, 1, 0x1234, (1 << 36) - 1]);
        for level in [1, 2] {
            every_upper_entry_round_trips::<AArch64>(&[0, 0x1_2345_6789, (1 << 36) - 1], level);
        }
    }

    /// DDI 0487, D8.3.1 and D8.3.2: valid 0, page or table 1, AP\[1\] 6, AP\[2\] 7, SH 8 and 9, AF 10, nG 11,
    /// address 12 to 47, DBM 51, PXN 53, UXN 54, software 55 to 58. AttrIndx 2 to 4, NS 5, what is reserved,
    /// Contiguous 52 and 59 to 63 stay 0. Blocks are of 2 MiB and 1 GiB.
    #[test]
    fn every_entry_has_the_bits_of_the_manual() {
        let format = Format {
            permissions: [
                (Protection::R, [&[0, 1, 6, 7, 8, 9, 11, 53, 54], &[0, 1, 6, 7, 8, 9, 11, 53, 54, 55]]),
                (Protection::RW, [&[0, 1, 6, 7, 8, 9, 11, 51, 53, 54], &[0, 1, 6, 8, 9, 11, 51, 53, 54, 55]]),
                (Protection::RX, [&[0, 1, 6, 7, 8, 9, 11, 53], &[0, 1, 6, 7, 8, 9, 11, 53, 55]]),
                (RWX, [&[0, 1, 6, 7, 8, 9, 11, 51, 53], &[0, 1, 6, 8, 9, 11, 51, 53, 55]]),
            ],
            marks: [Some(10), Some(56), Some(58), Some(57)],
            frame: 12..48,
            table: &[0, 1],
            leaf: &[1],
            leaves_up_to: 2,
        };
        format.is_that_of::<AArch64>();
    }

    const PAGE_42: Present = Present {
        pfn: Pfn(0x42),
        prot: Protection::RW,
        young: true,
        dirty: true,
        special: false,
        uffd_wp: false,
        soft_clean: false,
    };

    fn raw(page: Present) -> u64 {
        AArch64::encode_pte(Pte::Present(page))
    }

    /// DDI 0487, D8.3.1: the descriptors of the 4 KiB granule.
    #[test]
    fn the_bits_are_where_the_manual_says() {
        // nG, AF, SH = 3, AP = 01 (read and write for programs), AttrIndx 0, a page.
        let attributes = 1 << 11 | 1 << 10 | 3 << 8 | 1 << 6 | 0b11;
        assert_eq!(raw(PAGE_42), 1 << 55 | 1 << 54 | 1 << 53 | 1 << 51 | 0x42000 | attributes);
        let clean = Present { dirty: false, ..PAGE_42 };
        assert_eq!(raw(clean), 1 << 54 | 1 << 53 | 1 << 51 | 0x42000 | 1 << 7 | attributes);
        let text = Present { prot: Protection::RX, ..clean };
        assert_eq!(raw(text), 1 << 53 | 0x42000 | 1 << 7 | attributes);
        assert_eq!(raw(Present { prot: Protection::NONE, ..PAGE_42 }) & 1, 0, "PROT_NONE must trap");
        assert_eq!(AArch64::encode_entry(Entry::Table(Pfn(7)), 1), 0x7003);
        let block = AArch64::encode_entry(Entry::Leaf(Present { pfn: Pfn(0x200), ..text }), 1);
        assert_eq!(block & 3, 1, "a block, not a table");
    }

    /// What FEAT_HAFDBS does on the first write: AP\[2\] goes, and nothing else.
    #[test]
    fn what_the_hardware_does_on_a_write_makes_the_page_dirty() {
        let clean = raw(Present { dirty: false, ..PAGE_42 });
        assert_eq!(AArch64::decode_pte(clean & !(1 << 7)), Pte::Present(PAGE_42));
        // Without write permission the software bit keeps it.
        let protected = AArch64::pte_wrprotect(clean & !(1 << 7));
        let Pte::Present(page) = AArch64::decode_pte(protected) else { panic!("it is a page") };
        assert!(page.dirty && !page.prot.write && protected & 1 << 7 != 0);
    }

    #[test]
    fn the_contiguous_hint_is_no_part_of_what_an_entry_says() {
        let plain = raw(PAGE_42);
        let hinted = AArch64::contiguous(plain);
        assert!(AArch64::is_contiguous(hinted) && !AArch64::is_contiguous(plain));
        assert_eq!(hinted ^ plain, 1 << 52);
        assert_eq!(AArch64::decode_pte(hinted), AArch64::decode_pte(plain));
    }
}

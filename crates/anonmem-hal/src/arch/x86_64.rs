//! x86-64, four levels, 4 KiB granule.
//!
//! Source: Intel SDM volume 3A, sections 5.5 (4-level paging) and 5.7 (access rights); AMD APM volume 2, 5.3.
//!
//! | bit | present | not present |
//! |---|---|---|
//! | 0 | P = 1 | 0 |
//! | 1 | R/W | PROT_NONE: 1, the entry is a page that traps |
//! | 2 | U/S | a software entry: `soft.rs` |
//! | 3, 4 | PWT, PCD (0) | |
//! | 5 | accessed | |
//! | 6 | dirty | |
//! | 7 | PAT (0); above the last level: PS, a leaf | |
//! | 9 | software: special | |
//! | 10 | software: uffd write protected | |
//! | 11 | software: soft-clean | |
//! | 12-51 | frame; of a leaf of level 1 from bit 21, of level 2 from bit 30, below it PAT (bit 12, 0) and zeroes | |
//! | 63 | no-execute | 0 |
//!
//! A `PROT_NONE` page keeps its frame and flags with P = 0 and bit 1 set, which no other not-present entry
//! has. Its frame number is stored inverted, as is a swap offset. So a processor which speculates past the
//! missing P bit (L1TF) finds an address beyond memory.
//!
//! All of that holds of a leaf above the last level, too. A leaf has PS set beside, with or without P.

use super::{
    Arch,
    soft::{self, bit, decode_soft, decode_upper_soft, encode_soft},
};
use crate::{
    addr::{Pfn, Va},
    pte::{Entry, Present, Protection, Pte},
};

/// x86-64 with four levels of tables.
#[derive(Debug)]
pub enum X86_64 {}

const P: u64 = 1;
const RW: u64 = 1 << 1;
const US: u64 = 1 << 2;
const A: u64 = 1 << 5;
const D: u64 = 1 << 6;
const PS: u64 = 1 << 7;
const SPECIAL: u64 = 1 << 9;
const UFFD_WP: u64 = 1 << 10;
const SOFT_CLEAN: u64 = 1 << 11;
const NX: u64 = 1 << 63;
const FRAME: u64 = 0x000f_ffff_ffff_f000;

// Without P. Bit 1 clear: a software entry (`soft.rs`). Bit 1 set: a PROT_NONE page.
const PROTNONE: u64 = 1 << 1;

/// The bits of the frame of a leaf of `level`.
const fn leaf_frame(level: u32) -> u64 {
    FRAME & !((1 << (12 + 9 * level)) - 1)
}

#[inline(always)]
fn encode_present(p: Present) -> u64 {
    encode_leaf(p, FRAME)
}

/// A present entry whose frame is in the bits `frame_bits`.
#[inline(always)]
fn encode_leaf(p: Present, frame_bits: u64) -> u64 {
    let soft = bit(p.young, A) | bit(p.dirty, D) | bit(p.special, SPECIAL) | bit(p.uffd_wp, UFFD_WP);
    let soft = soft | bit(p.soft_clean, SOFT_CLEAN) | bit(!p.prot.exec, NX);
    let frame = p.pfn.phys();
    debug_assert_eq!(
        frame & !frame_bits,
        0,
        "a frame that is not aligned, or beyond the physical address space"
    );
    if p.prot.read || p.prot.write || p.prot.exec {
        P | US | bit(p.prot.write, RW) | soft | frame
    } else {
        PROTNONE | soft | (!frame & frame_bits)
    }
}

// Inlined wherever it is used: what is not asked of the entry is then not computed.
#[inline(always)]
fn decode_present(raw: u64) -> Present {
    decode_leaf(raw, FRAME)
}

/// The present entry whose frame is in the bits `frame_bits`.
#[inline(always)]
fn decode_leaf(raw: u64, frame_bits: u64) -> Present {
    let accessible = raw & P != 0;
    let frame = if accessible { raw } else { !raw } & frame_bits;
    Present {
        pfn: Pfn(frame >> 12),
        prot: Protection {
            read: accessible,
            write: accessible && raw & RW != 0,
            exec: accessible && raw & NX == 0,
        },
        young: raw & A != 0,
        dirty: raw & D != 0,
        special: raw & SPECIAL != 0,
        uffd_wp: raw & UFFD_WP != 0,
        soft_clean: raw & SOFT_CLEAN != 0,
    }
}

/// [`Arch::pte_modify`] from or to `PROT_NONE`.
#[cold]
fn modify_trapping(raw: u64, prot: Protection) -> u64 {
    super::change_present::<X86_64>(raw, |p| Present { prot, ..p })
}

impl Arch for X86_64 {
    const LEVELS: u32 = 4;
    const INDEX_BITS: u32 = 9;
    // One page short of the canonical hole, so that no instruction can end there (Linux: TASK_SIZE_MAX).
    const USER_END: Va = Va((1 << 47) - 4096);
    const SOFT_DIRTY: bool = true;

    #[inline(always)]
    fn encode_pte(pte: Pte) -> u64 {
        match pte {
            Pte::None => 0,
            Pte::Present(p) => encode_present(p),
            Pte::Soft(leaf) => encode_soft(leaf),
        }
    }

    #[inline(always)]
    fn decode_pte(raw: u64) -> Pte {
        // Not by `soft::decode_pte`: what is not asked of a page is then computed all the same.
        if raw == 0 {
            Pte::None
        } else if raw & (P | PROTNONE) != 0 {
            Pte::Present(decode_present(raw))
        } else {
            Pte::Soft(decode_soft(raw))
        }
    }

    #[inline(always)]
    fn pte_settled(raw: u64) -> bool {
        raw & P == 0 || raw & (A | D) == A | D
    }

    #[inline(always)]
    fn pte_present(raw: u64) -> bool {
        raw & (P | PROTNONE) != 0
    }

    #[inline(always)]
    fn pte_plain(raw: u64) -> bool {
        raw & (P | A | D | SPECIAL | UFFD_WP | SOFT_CLEAN) == P | A | D
    }

    #[inline(always)]
    fn pte_page(raw: u64) -> Option<Pfn> {
        if raw & SPECIAL == 0 && Self::pte_present(raw) { Some(decode_present(raw).pfn) } else { None }
    }

    #[inline(always)]
    fn pte_readable(raw: u64) -> bool {
        raw & (P | SPECIAL) == P
    }

    #[inline(always)]
    fn pte_writable(raw: u64) -> bool {
        raw & (P | RW | SPECIAL) == P | RW
    }

    #[inline(always)]
    fn pte_readable_page(raw: u64) -> Pfn {
        Pfn((raw & FRAME) >> 12)
    }

    #[inline(always)]
    fn pte_follows(raw: u64, first: u64, nth: u64) -> bool {
        // Without P the frame is stored inverted.
        let wanted =
            if first & P != 0 { first.wrapping_add(nth << 12) } else { first.wrapping_sub(nth << 12) };
        (raw ^ wanted) & !(A | D) == 0
    }

    #[inline(always)]
    fn pte_inherited(raw: u64) -> u64 {
        if raw & P != 0 {
            raw & !(RW | A | UFFD_WP)
        } else {
            super::change_present::<Self>(raw, Present::inherited)
        }
    }

    #[inline(always)]
    fn pte_wrprotect(raw: u64) -> u64 {
        // Without P there is no write permission; bit 1 says that the entry is a page.
        if raw & P != 0 { raw & !RW } else { raw }
    }

    #[inline(always)]
    fn pte_clear_uffd_wp(raw: u64) -> u64 {
        if Self::pte_present(raw) { raw & !UFFD_WP } else { raw }
    }

    #[inline(always)]
    fn pte_can_mkwrite(raw: u64) -> bool {
        // Without P, bit 1 says that the entry is a page, not that it is writable.
        let written = D | if raw & P != 0 { RW } else { 0 };
        raw & (SPECIAL | UFFD_WP | SOFT_CLEAN) == 0 && raw & written != 0
    }

    #[inline(always)]
    fn pte_mkyoung(raw: u64) -> u64 {
        raw | A
    }

    #[inline(always)]
    fn pte_mkwritten(raw: u64) -> u64 {
        raw & !SOFT_CLEAN | A | D | bit(raw & P != 0, RW)
    }

    #[inline(always)]
    fn pte_reduced(old: u64, new: u64) -> bool {
        // Without P there are no permissions to lose.
        old & P != 0 && (old ^ new) & (old & (P | RW) | !old & NX) != 0
    }

    #[inline(always)]
    fn pte_modify(raw: u64, prot: Protection) -> u64 {
        if raw & P != 0 && prot.read {
            raw & !(RW | NX) | bit(prot.write, RW) | bit(!prot.exec, NX)
        } else {
            modify_trapping(raw, prot)
        }
    }

    #[inline(always)]
    fn pte_alike(a: u64, b: u64) -> bool {
        (a ^ b) & !(A | D) == 0
    }

    #[inline(always)]
    fn pte_step(raw: u64) -> u64 {
        // Without P the frame is inverted.
        if raw & P != 0 { 1 << 12 } else { (1_u64 << 12).wrapping_neg() }
    }

    #[inline(always)]
    fn pte_untouched(raw: u64) -> bool {
        raw & (A | D) == 0
    }

    #[inline(always)]
    fn encode_entry(entry: Entry, level: u32) -> u64 {
        debug_assert!(level > 0 && level < Self::LEVELS);
        let leaf = |p: Present| {
            debug_assert!(level <= 2, "no such leaf");
            encode_leaf(p, leaf_frame(level)) | PS
        };
        // The hardware ands the permissions of all levels: the leaf decides.
        soft::encode_entry(entry, |pfn| pfn.phys() | P | RW | US, leaf)
    }

    #[inline(always)]
    fn decode_entry(raw: u64, level: u32) -> Entry {
        if raw & (P | PS) == P {
            Entry::Table(Pfn((raw & FRAME) >> 12))
        } else if raw == 0 {
            Entry::None
        } else if raw & (P | PROTNONE) != 0 {
            debug_assert!(
                level <= 2 && raw & PS != 0,
                "page-table entry {raw:#x}: neither a table nor a leaf"
            );
            Entry::Leaf(decode_leaf(raw, leaf_frame(level)))
        } else {
            decode_upper_soft(raw)
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
    fn every_x86_64_entry_round_trips() {
        every_entry_round_trips::<X86_64>(&[0, 1, 0x1234, (1 << 40) - 1]);
        for level in [1, 2] {
            every_upper_entry_round_trips::<X86_64>(&[0, 0x12_3456_7890, (1 << 40) - 1], level);
        }
    }

    /// SDM volume 3A, tables 4-15 to 4-20 (5-15 to 5-20 since Paging is chapter 5): P 0, R/W 1, U/S 2,
    /// accessed 5, dirty 6, PS 7, ignored 9 to 11, address 12 to 51, XD 63. PWT 3, PCD 4, PAT 7 or 12, G 8
    /// and what is reserved stay 0.
    #[test]
    fn every_entry_has_the_bits_of_the_manual() {
        let format = Format {
            permissions: [
                (Protection::R, [&[0, 2, 63], &[0, 2, 6, 63]]),
                (Protection::RW, [&[0, 1, 2, 63], &[0, 1, 2, 6, 63]]),
                (Protection::RX, [&[0, 2], &[0, 2, 6]]),
                (RWX, [&[0, 1, 2], &[0, 1, 2, 6]]),
            ],
            marks: [Some(5), Some(9), Some(10), Some(11)],
            frame: 12..52,
            table: &[0, 1, 2],
            leaf: &[7],
            leaves_up_to: 2,
        };
        format.is_that_of::<X86_64>();
    }

    #[test]
    fn the_bits_of_a_leaf_are_where_the_manual_says() {
        let leaf = Present {
            pfn: Pfn(0x200),
            prot: Protection::RW,
            young: false,
            dirty: true,
            special: false,
            uffd_wp: false,
            soft_clean: false,
        };
        let raw = X86_64::encode_entry(Entry::Leaf(leaf), 1);
        assert_eq!(raw, 1 << 63 | 0x20_0000 | 0b1100_0111);
        // Bit 12 is PAT there, and bits 13 to 20 are reserved: none is part of the frame.
        assert_eq!(X86_64::decode_entry(raw | 1 << 12, 1), Entry::Leaf(leaf));
        let none = X86_64::encode_entry(Entry::Leaf(Present { prot: Protection::NONE, ..leaf }), 1);
        assert_eq!(none & P, 0, "PROT_NONE must trap");
        assert_eq!(
            none & 0x1f_f000,
            0,
            "a processor that goes on nevertheless finds PAT and reserved bits clear"
        );
        assert_eq!(none & leaf_frame(1), !0x20_0000 & leaf_frame(1), "and an address beyond memory");
    }

    #[test]
    fn the_hardware_bits_are_where_the_manual_says() {
        let p = Present {
            pfn: Pfn(0x42),
            prot: Protection::RW,
            young: true,
            dirty: false,
            special: false,
            uffd_wp: false,
            soft_clean: false,
        };
        assert_eq!(X86_64::encode_pte(Pte::Present(p)), 1 << 63 | 0x42000 | 0b10_0111);
        assert_eq!(X86_64::encode_entry(Entry::Table(Pfn(7)), 1), 0x7007);
        let none = Present { prot: Protection::NONE, ..p };
        assert_eq!(X86_64::encode_pte(Pte::Present(none)) & P, 0, "PROT_NONE must trap");
    }
}

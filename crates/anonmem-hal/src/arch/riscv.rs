//! RISC-V, Sv48: four levels, 4 KiB granule.
//!
//! Source: The RISC-V Instruction Set Manual, volume II (Privileged Architecture), sections 12.4 (Sv39) and
//! 12.5 (Sv48).
//!
//! | bit | present | not present |
//! |---|---|---|
//! | 0 | V = 1 | 0 |
//! | 1 | R | PROT_NONE: 1, the entry is a page that traps |
//! | 2, 3 | W, X; all three of R, W, X 0: a table | a software entry: `soft.rs` |
//! | 4 | U | |
//! | 5 | G (0) | |
//! | 6, 7 | accessed, dirty | |
//! | 8, 9 | software: special, uffd write protected | |
//! | 10-53 | frame | |
//! | 54-63 | reserved, PBMT, N (0) | |
//!
//! Both bits of software are in use, so entries do not say whether they are soft-clean.
//!
//! W without R is reserved, so a page that may be written may be read. Without V the hardware looks at no
//! other bit. A processor with Svadu sets the accessed and dirty bits; one with Svade traps instead, and the
//! fault sets them.

use super::{
    Arch,
    soft::{self, bit, decode_upper_soft},
};
use crate::{
    addr::{Pfn, Va},
    pte::{Entry, Present, Protection, Pte},
};

/// RISC-V with four levels of tables.
#[derive(Debug)]
pub enum Sv48 {}

const V: u64 = 1;
const R: u64 = 1 << 1;
const W: u64 = 1 << 2;
const X: u64 = 1 << 3;
const U: u64 = 1 << 4;
const A: u64 = 1 << 6;
const D: u64 = 1 << 7;
const SPECIAL: u64 = 1 << 8;
const UFFD_WP: u64 = 1 << 9;
const PPN_SHIFT: u32 = 10;
const PPN: u64 = (1 << 44) - 1;
/// Without V: the entry is a page that traps.
const PROTNONE: u64 = R;

/// A page, or a leaf: the format does not tell them apart.
#[inline]
fn encode_present(p: Present) -> u64 {
    debug_assert!(p.pfn.0 <= PPN, "a frame beyond the physical address space");
    let said = bit(p.young, A) | bit(p.dirty, D) | bit(p.special, SPECIAL) | bit(p.uffd_wp, UFFD_WP);
    let said = said | p.pfn.0 << PPN_SHIFT;
    let Protection { read, write, exec } = p.prot;
    if read || write || exec {
        V | U | bit(read || write, R) | bit(write, W) | bit(exec, X) | said
    } else {
        PROTNONE | said
    }
}

#[inline]
fn decode_present(raw: u64) -> Present {
    let may = |mask| raw & V != 0 && raw & mask != 0;
    Present {
        pfn: Pfn(raw >> PPN_SHIFT & PPN),
        prot: Protection { read: may(R), write: may(W), exec: may(X) },
        young: raw & A != 0,
        dirty: raw & D != 0,
        special: raw & SPECIAL != 0,
        uffd_wp: raw & UFFD_WP != 0,
        soft_clean: false,
    }
}

impl Arch for Sv48 {
    const LEVELS: u32 = 4;
    const INDEX_BITS: u32 = 9;
    // One page short of the canonical hole, as on x86-64.
    const USER_END: Va = Va((1 << 47) - 4096);
    // The format leaves two bits to software, and both are in use.
    const SOFT_DIRTY: bool = false;

    #[inline]
    fn encode_pte(pte: Pte) -> u64 {
        soft::encode_pte(pte, encode_present)
    }

    #[inline]
    fn decode_pte(raw: u64) -> Pte {
        soft::decode_pte(raw, V | PROTNONE, decode_present)
    }

    #[inline]
    fn encode_entry(entry: Entry, level: u32) -> u64 {
        debug_assert!(level > 0 && level < Self::LEVELS);
        let leaf = |p: Present| {
            debug_assert!(p.pfn.0.trailing_zeros() >= level * Self::INDEX_BITS, "a leaf that is not aligned");
            encode_present(p)
        };
        soft::encode_entry(entry, |pfn| V | pfn.0 << PPN_SHIFT, leaf)
    }

    #[inline]
    fn decode_entry(raw: u64, _level: u32) -> Entry {
        if raw == 0 {
            Entry::None
        } else if raw & (V | R | W | X) == V {
            Entry::Table(Pfn(raw >> PPN_SHIFT & PPN))
        } else if raw & (V | PROTNONE) != 0 {
            Entry::Leaf(decode_present(raw))
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
    fn every_sv48_entry_round_trips() {
        every_entry_round_trips::<Sv48>(&[0, 1, 0x1234, (1 << 44) - 1]);
        for level in [1, 2] {
            every_upper_entry_round_trips::<Sv48>(&[0, 0x123_4567_8900, (1 << 44) - 1], level);
        }
    }

    /// Privileged Architecture, figure "Sv48 page table entry": V 0, R 1, W 2, X 3, U 4, A 6, D 7, RSW 8 and
    /// 9, PPN 10 to 53. G 5, what is reserved (54 to 60), PBMT 61 and 62 (Svpbmt) and N 63 (Svnapot) stay 0.
    /// A pointer has V alone, and there are leaves at every level.
    #[test]
    fn every_entry_has_the_bits_of_the_manual() {
        let format = Format {
            permissions: [
                (Protection::R, [&[0, 1, 4], &[0, 1, 4, 7]]),
                (Protection::RW, [&[0, 1, 2, 4], &[0, 1, 2, 4, 7]]),
                (Protection::RX, [&[0, 1, 3, 4], &[0, 1, 3, 4, 7]]),
                (RWX, [&[0, 1, 2, 3, 4], &[0, 1, 2, 3, 4, 7]]),
            ],
            marks: [Some(6), Some(8), Some(9), None],
            frame: 10..54,
            table: &[0],
            leaf: &[],
            leaves_up_to: 3,
        };
        format.is_that_of::<Sv48>();
    }

    /// Privileged Architecture, figure "Sv48 page table entry" and the table of R, W and X.
    #[test]
    fn the_bits_are_where_the_manual_says() {
        let page = Present {
            pfn: Pfn(0x42),
            prot: Protection::RW,
            young: true,
            dirty: false,
            special: false,
            uffd_wp: false,
            soft_clean: false,
        };
        let with = |prot| Sv48::encode_pte(Pte::Present(Present { prot, ..page }));
        // V, R, W, U, A.
        assert_eq!(with(Protection::RW), 0x42 << 10 | 0b0101_0111);
        assert_eq!(with(Protection::R), 0x42 << 10 | 0b0101_0011);
        assert_eq!(with(Protection::RX), 0x42 << 10 | 0b0101_1011);
        let exec = Protection { exec: true, ..Protection::NONE };
        assert_eq!(with(exec), 0x42 << 10 | 0b0101_1001, "execute-only is a permission of its own");
        assert_eq!(with(Protection::NONE) & V, 0, "PROT_NONE must trap");
        // A pointer to the next level has R, W and X clear; A, D and U are reserved there.
        assert_eq!(Sv48::encode_entry(Entry::Table(Pfn(7)), 1), 7 << 10 | 1);
        // A leaf of 2 MiB is a page whose low nine bits of the frame are 0.
        let large = Present { pfn: Pfn(0x200), ..page };
        assert_eq!(Sv48::encode_entry(Entry::Leaf(large), 1), 0x200 << 10 | 0b0101_0111);
    }
}

//! A made-up format: two levels of eight entries. It is for tests of everything that is not a format, and for
//! the lab, where a page table should fit on a screen.
//!
//! Bits 0-1: 0 nothing, 1 present, 2 software, 3 table or large leaf. Bits 2-9: flags. Bits 10-14: device.
//! Bits 15 and up: frame or offset.

use super::Arch;
use crate::{
    addr::{PAGE_SIZE, Pfn, Va},
    pte::{
        Entry, Marker, MigrationBits, MigrationKind, Present, Protection, Pte, Sharing, SoftLeaf, SwapBits,
        SwapEntry,
    },
};

/// Two levels of eight entries: 64 pages of address space.
#[derive(Debug)]
pub enum Toy {}

const PRESENT: u64 = 1;
const SOFT: u64 = 2;
const TABLE: u64 = 3;
const FLAG_SHIFT: u32 = 2;
const DEVICE_SHIFT: u32 = 10;
const VALUE_SHIFT: u32 = 15;

fn pack(kind: u64, flags: u64, device: u64, value: u64) -> u64 {
    kind | flags << FLAG_SHIFT | device << DEVICE_SHIFT | value << VALUE_SHIFT
}

fn present_flags(p: Present) -> u64 {
    let bits = [p.prot.read, p.prot.write, p.prot.exec, p.young, p.dirty, p.special, p.uffd_wp];
    bits.iter().enumerate().map(|(i, &on)| u64::from(on) << i).sum()
}

fn decode_present(raw: u64) -> Present {
    let flag = |i: u32| raw >> (FLAG_SHIFT + i) & 1 == 1;
    Present {
        pfn: Pfn(raw >> VALUE_SHIFT),
        prot: Protection { read: flag(0), write: flag(1), exec: flag(2) },
        young: flag(3),
        dirty: flag(4),
        special: flag(5),
        uffd_wp: flag(6),
    }
}

impl Arch for Toy {
    const LEVELS: u32 = 2;
    const INDEX_BITS: u32 = 3;
    const USER_END: Va = Va(64 * PAGE_SIZE as u64);

    fn encode_pte(pte: Pte) -> u64 {
        match pte {
            Pte::None => 0,
            Pte::Present(p) => pack(PRESENT, present_flags(p), 0, p.pfn.0),
            Pte::Soft(SoftLeaf::Swap { entry, bits: SwapBits { sharing, uffd_wp } }) => pack(
                SOFT,
                u64::from(sharing == Sharing::Exclusive) << 2 | u64::from(uffd_wp) << 3,
                u64::from(entry.device),
                entry.offset,
            ),
            Pte::Soft(SoftLeaf::Migration { pfn, bits: MigrationBits { kind, young, dirty, uffd_wp } }) => {
                let said = u64::from(young) | u64::from(dirty) << 1 | u64::from(uffd_wp) << 2;
                pack(SOFT, 1 | (kind as u64) << 2 | said << 4, 0, pfn.0)
            }
            Pte::Soft(SoftLeaf::Marker(marker)) => pack(SOFT, 2 | (marker as u64) << 2, 0, 0),
        }
    }

    fn decode_pte(raw: u64) -> Pte {
        let flags = raw >> FLAG_SHIFT & 0xff;
        let value = raw >> VALUE_SHIFT;
        match (raw & 3, flags & 3) {
            (0, _) => Pte::None,
            (PRESENT, _) => Pte::Present(decode_present(raw)),
            (SOFT, 0) => Pte::Soft(SoftLeaf::Swap {
                entry: SwapEntry { device: (raw >> DEVICE_SHIFT & 31) as u8, offset: value },
                bits: SwapBits {
                    sharing: if flags & 4 != 0 { Sharing::Exclusive } else { Sharing::Shared },
                    uffd_wp: flags & 8 != 0,
                },
            }),
            (SOFT, 1) => Pte::Soft(SoftLeaf::Migration {
                pfn: Pfn(value),
                bits: MigrationBits {
                    kind: [MigrationKind::Read, MigrationKind::ReadExclusive, MigrationKind::Write]
                        [(flags >> 2 & 3) as usize],
                    young: flags >> 4 & 1 == 1,
                    dirty: flags >> 5 & 1 == 1,
                    uffd_wp: flags >> 6 & 1 == 1,
                },
            }),
            (SOFT, 2) => Pte::Soft(SoftLeaf::Marker(
                [Marker::UffdWp, Marker::Poisoned, Marker::Guard][(flags >> 2) as usize],
            )),
            (kind, _) => panic!("page-table entry {raw:#x}: kind {kind} at the last level"),
        }
    }

    fn encode_entry(entry: Entry, _level: u32) -> u64 {
        match entry {
            Entry::None => 0,
            Entry::Table(pfn) => pack(TABLE, 0, 0, pfn.0),
            Entry::Leaf(p) => pack(PRESENT, present_flags(p), 0, p.pfn.0),
        }
    }

    fn decode_entry(raw: u64, _level: u32) -> Entry {
        match raw & 3 {
            0 => Entry::None,
            TABLE => Entry::Table(Pfn(raw >> VALUE_SHIFT)),
            PRESENT => Entry::Leaf(decode_present(raw)),
            _ => panic!("page-table entry {raw:#x}: a software entry above the last level"),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    extern crate std;
    use super::*;
    use std::{collections::HashSet, vec, vec::Vec};

    fn all_entries(values: &[u64]) -> Vec<Pte> {
        let mut all = vec![Pte::None];
        for &value in values {
            for bits in 0..128u32 {
                let on = |i: u32| bits >> i & 1 == 1;
                // A page that cannot be read cannot be written or run either: one PROT_NONE form.
                let prot = if on(0) {
                    Protection { read: true, write: on(1), exec: on(2) }
                } else if on(1) || on(2) {
                    continue;
                } else {
                    Protection::NONE
                };
                all.push(Pte::Present(Present {
                    pfn: Pfn(value),
                    prot,
                    young: on(3),
                    dirty: on(4),
                    special: on(5),
                    uffd_wp: on(6),
                }));
            }
            for kind in [MigrationKind::Read, MigrationKind::ReadExclusive, MigrationKind::Write] {
                for bits in 0..8u32 {
                    let on = |i: u32| bits >> i & 1 == 1;
                    let bits = MigrationBits { kind, young: on(0), dirty: on(1), uffd_wp: on(2) };
                    all.push(Pte::Soft(SoftLeaf::Migration { pfn: Pfn(value), bits }));
                }
            }
            for device in [0, 31] {
                for sharing in [Sharing::Exclusive, Sharing::Shared] {
                    for uffd_wp in [false, true] {
                        let entry = SwapEntry { device, offset: value };
                        all.push(Pte::Soft(SoftLeaf::Swap { entry, bits: SwapBits { sharing, uffd_wp } }));
                    }
                }
            }
        }
        all.extend([Marker::UffdWp, Marker::Poisoned, Marker::Guard].map(|m| Pte::Soft(SoftLeaf::Marker(m))));
        all
    }

    /// Every entry comes back as it went in, and no two share their bits.
    pub(in crate::arch) fn every_entry_round_trips<A: Arch>(values: &[u64]) {
        let all = all_entries(values);
        let mut seen = HashSet::new();
        for pte in all {
            let raw = A::encode_pte(pte);
            assert_eq!(A::decode_pte(raw), pte, "{raw:#x}");
            raw_facts_are_those_of_the_entry::<A>(raw, pte);
            assert!(seen.insert(raw), "{pte:?} shares its bits {raw:#x} with another entry");
        }
        for entry in [Entry::None, Entry::Table(Pfn(3))] {
            assert_eq!(A::decode_entry(A::encode_entry(entry, 1), 1), entry);
        }
    }

    /// What is said of raw bits is what is said of the entry.
    fn raw_facts_are_those_of_the_entry<A: Arch>(raw: u64, pte: Pte) {
        let Pte::Present(p) = pte else {
            assert!(
                A::pte_settled(raw)
                    && !A::pte_present(raw)
                    && !A::pte_plain(raw)
                    && A::pte_page(raw).is_none(),
                "{pte:?}"
            );
            assert_eq!([A::pte_inherited(raw), A::pte_wrprotect(raw)], [raw, raw], "{pte:?}");
            return;
        };
        assert!(A::pte_present(raw), "{pte:?}");
        let plain = p.prot.read && p.young && p.dirty && !p.special && !p.uffd_wp;
        assert_eq!(A::pte_plain(raw), plain, "{pte:?}");
        assert_eq!(A::pte_page(raw), (!p.special).then_some(p.pfn), "{pte:?}");
        assert_eq!(A::pte_settled(raw), !p.prot.read || p.young && p.dirty, "{pte:?}");
        let is = |raw: u64, wanted: Present| assert_eq!(A::decode_pte(raw), Pte::Present(wanted));
        is(A::pte_inherited(raw), Present { young: false, uffd_wp: false, ..p.write_protected() });
        is(A::pte_wrprotect(raw), p.write_protected());
        let can_mkwrite = !p.special && !p.uffd_wp && (p.dirty || p.prot.write);
        assert_eq!(A::pte_can_mkwrite(raw), can_mkwrite, "{pte:?}");
        is(A::pte_mkyoung(raw), Present { young: true, ..p });
        let prot = Protection { write: p.prot.read, ..p.prot };
        is(A::pte_mkwritten(raw), Present { young: true, dirty: true, prot, ..p });
        for prot in [Protection::NONE, Protection::R, Protection::RW, Protection::RX] {
            let modified = A::pte_modify(raw, prot);
            is(modified, Present { prot, ..p });
            let old = p.prot;
            let reduced = (old.read && !prot.read) || (old.write && !prot.write) || (old.exec && !prot.exec);
            assert_eq!(A::pte_reduced(raw, modified), reduced, "{p:?} to {prot:?}");
        }
    }

    #[test]
    fn every_toy_entry_round_trips() {
        every_entry_round_trips::<Toy>(&[0, 1, 0x1234, (1 << 40) - 1]);
    }
}

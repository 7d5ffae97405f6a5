//! A made-up format: two levels of eight entries. It is for tests of everything that is not a format, and for
//! the lab, where a page table should fit on a screen.
//!
//! Bits 0-1: 0 nothing, 1 present (above the last level: a leaf), 2 software, 3 table. Bits 2-9: flags. Bits
//! 10-14: device. Bits 15 and up: frame or offset.

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
/// The low flags of a migration entry.
const MIGRATION: u64 = 1;
const FLAG_SHIFT: u32 = 2;
const DEVICE_SHIFT: u32 = 10;
const VALUE_SHIFT: u32 = 15;

fn pack(kind: u64, flags: u64, device: u64, value: u64) -> u64 {
    kind | flags << FLAG_SHIFT | device << DEVICE_SHIFT | value << VALUE_SHIFT
}

fn present_flags(p: Present) -> u64 {
    let Protection { read, write, exec } = p.prot;
    let bits = [read, write, exec, p.young, p.dirty, p.special, p.uffd_wp, p.soft_clean];
    bits.iter().enumerate().map(|(i, &on)| u64::from(on) << i).sum()
}

fn encode_migration(pfn: Pfn, bits: MigrationBits) -> u64 {
    let MigrationBits { kind, young, dirty, uffd_wp, soft_clean } = bits;
    let said = [young, dirty, uffd_wp, soft_clean];
    let said: u64 = said.iter().enumerate().map(|(i, &on)| u64::from(on) << i).sum();
    pack(SOFT, MIGRATION | (kind as u64) << 2 | said << 4, 0, pfn.0)
}

fn decode_migration(raw: u64) -> MigrationBits {
    let flags = raw >> FLAG_SHIFT & 0xff;
    MigrationBits {
        kind: [MigrationKind::Read, MigrationKind::ReadExclusive, MigrationKind::Write]
            [(flags >> 2 & 3) as usize],
        young: flags >> 4 & 1 == 1,
        dirty: flags >> 5 & 1 == 1,
        uffd_wp: flags >> 6 & 1 == 1,
        soft_clean: flags >> 7 & 1 == 1,
    }
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
        soft_clean: flag(7),
    }
}

impl Arch for Toy {
    const LEVELS: u32 = 2;
    const INDEX_BITS: u32 = 3;
    const USER_END: Va = Va(64 * PAGE_SIZE as u64);
    const SOFT_DIRTY: bool = true;

    fn encode_pte(pte: Pte) -> u64 {
        match pte {
            Pte::None => 0,
            Pte::Present(p) => pack(PRESENT, present_flags(p), 0, p.pfn.0),
            Pte::Soft(SoftLeaf::Swap { entry, bits: SwapBits { sharing, uffd_wp, soft_clean } }) => pack(
                SOFT,
                u64::from(sharing == Sharing::Exclusive) << 2
                    | u64::from(uffd_wp) << 3
                    | u64::from(soft_clean) << 4,
                u64::from(entry.device),
                entry.offset,
            ),
            Pte::Soft(SoftLeaf::Migration { pfn, bits }) => encode_migration(pfn, bits),
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
                    soft_clean: flags & 16 != 0,
                },
            }),
            (SOFT, MIGRATION) => {
                Pte::Soft(SoftLeaf::Migration { pfn: Pfn(value), bits: decode_migration(raw) })
            }
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
            Entry::Migration { pfn, bits } => encode_migration(pfn, bits),
        }
    }

    fn decode_entry(raw: u64, _level: u32) -> Entry {
        let value = Pfn(raw >> VALUE_SHIFT);
        match (raw & 3, raw >> FLAG_SHIFT & 3) {
            (0, _) => Entry::None,
            (TABLE, _) => Entry::Table(value),
            (PRESENT, _) => Entry::Leaf(decode_present(raw)),
            (SOFT, MIGRATION) => Entry::Migration { pfn: value, bits: decode_migration(raw) },
            (_, kind) => panic!("page-table entry {raw:#x}: software entry {kind} above the last level"),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    extern crate std;
    use super::*;
    use std::{collections::HashSet, vec, vec::Vec};

    /// Whether the format has room for what the entry says.
    fn has_room<A: Arch>(pte: &Pte) -> bool {
        A::SOFT_DIRTY || !matches!(pte, Pte::Present(p) if p.soft_clean)
    }

    fn all_entries(values: &[u64]) -> Vec<Pte> {
        let mut all = vec![Pte::None];
        for &value in values {
            for bits in 0..256u32 {
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
                    soft_clean: on(7),
                }));
            }
            for kind in [MigrationKind::Read, MigrationKind::ReadExclusive, MigrationKind::Write] {
                for bits in 0..16u32 {
                    let on = |i: u32| bits >> i & 1 == 1;
                    let (young, dirty, uffd_wp, soft_clean) = (on(0), on(1), on(2), on(3));
                    let bits = MigrationBits { kind, young, dirty, uffd_wp, soft_clean };
                    all.push(Pte::Soft(SoftLeaf::Migration { pfn: Pfn(value), bits }));
                }
            }
            for device in [0, 31] {
                for sharing in [Sharing::Exclusive, Sharing::Shared] {
                    for (uffd_wp, soft_clean) in [(false, false), (true, false), (false, true), (true, true)]
                    {
                        let entry = SwapEntry { device, offset: value };
                        let bits = SwapBits { sharing, uffd_wp, soft_clean };
                        all.push(Pte::Soft(SoftLeaf::Swap { entry, bits }));
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
        for pte in all.into_iter().filter(has_room::<A>) {
            let raw = A::encode_pte(pte);
            assert_eq!(A::decode_pte(raw), pte, "{raw:#x}");
            raw_facts_are_those_of_the_entry::<A>(raw, pte);
            assert!(seen.insert(raw), "{pte:?} shares its bits {raw:#x} with another entry");
        }
    }

    /// The same for entries of `level`, of folios that are as large as what one covers; and what is said of
    /// their pages is what they say.
    pub(in crate::arch) fn every_upper_entry_round_trips<A: Arch>(values: &[u64], level: u32) {
        let pages = 1u64 << (level * A::INDEX_BITS);
        let values: Vec<u64> = values.iter().map(|value| value & !(pages - 1)).collect();
        let mut seen = HashSet::from([0]);
        assert_eq!(A::encode_entry(Entry::None, level), 0);
        assert_eq!(A::decode_entry(0, level), Entry::None);
        let tables = values.iter().map(|&value| Entry::Table(Pfn(value)));
        let rest = all_entries(&values).into_iter().filter(has_room::<A>).filter_map(|pte| match pte {
            Pte::Present(leaf) => Some(Entry::Leaf(leaf)),
            Pte::Soft(SoftLeaf::Migration { pfn, bits }) => Some(Entry::Migration { pfn, bits }),
            Pte::None | Pte::Soft(SoftLeaf::Swap { .. } | SoftLeaf::Marker(_)) => None,
        });
        for entry in tables.chain(rest) {
            let raw = A::encode_entry(entry, level);
            assert_eq!(A::decode_entry(raw, level), entry, "{raw:#x}");
            if matches!(entry, Entry::Leaf(_) | Entry::Migration { .. }) && values.len() > 1 {
                assert!(seen.insert(raw), "{entry:?} shares its bits {raw:#x} with another entry");
            }
            for nth in [0, 1, pages - 1] {
                every_bit_goes_to_the_pages::<A>(entry, nth);
            }
        }
    }

    fn every_bit_goes_to_the_pages<A: Arch>(entry: Entry, nth: u64) {
        let page = entry.nth_page(nth);
        match entry {
            Entry::None | Entry::Table(_) => assert_eq!(page, None),
            Entry::Leaf(leaf) => {
                let Some(Pte::Present(page)) = page else { panic!("{page:?} of {entry:?}") };
                assert_eq!(page.pfn, leaf.pfn.offset(nth));
                assert_eq!(Present { pfn: leaf.pfn, ..page }, leaf);
                assert_eq!(A::decode_pte(A::encode_pte(Pte::Present(page))), Pte::Present(page));
            }
            Entry::Migration { pfn, bits } => {
                let Some(Pte::Soft(SoftLeaf::Migration { pfn: page, bits: of_page })) = page else {
                    panic!("{page:?} of {entry:?}")
                };
                assert_eq!((page, of_page), (pfn.offset(nth), bits));
            }
        }
    }

    /// What is said of raw bits is what is said of the entry.
    fn raw_facts_are_those_of_the_entry<A: Arch>(raw: u64, pte: Pte) {
        let Pte::Present(p) = pte else {
            let said = [A::pte_present, A::pte_plain, A::pte_readable, A::pte_writable].map(|f| f(raw));
            assert!(A::pte_settled(raw) && !said.contains(&true) && A::pte_page(raw).is_none(), "{pte:?}");
            assert_eq!(
                [A::pte_inherited(raw), A::pte_wrprotect(raw), A::pte_clear_uffd_wp(raw)],
                [raw; 3],
                "{pte:?}"
            );
            return;
        };
        assert!(A::pte_present(raw), "{pte:?}");
        let plain = p.prot.read && p.young && p.dirty && !p.special && !p.uffd_wp && !p.soft_clean;
        assert_eq!(A::pte_plain(raw), plain, "{pte:?}");
        assert_eq!(A::pte_page(raw), (!p.special).then_some(p.pfn), "{pte:?}");
        assert_eq!(A::pte_settled(raw), !p.prot.read || p.young && p.dirty, "{pte:?}");
        let is = |raw: u64, wanted: Present| assert_eq!(A::decode_pte(raw), Pte::Present(wanted));
        is(A::pte_inherited(raw), Present { young: false, uffd_wp: false, ..p.write_protected() });
        is(A::pte_wrprotect(raw), p.write_protected());
        is(A::pte_clear_uffd_wp(raw), Present { uffd_wp: false, ..p });
        let can_mkwrite = !p.special && !p.uffd_wp && !p.soft_clean && (p.dirty || p.prot.write);
        assert_eq!(A::pte_can_mkwrite(raw), can_mkwrite, "{pte:?}");
        assert_eq!(A::pte_readable(raw), !p.special && p.prot.read, "{pte:?}");
        assert_eq!(A::pte_writable(raw), !p.special && p.prot.read && p.prot.write, "{pte:?}");
        assert!(!p.prot.read || A::pte_readable_page(raw) == p.pfn, "{pte:?}");
        followers_differ_in_what_the_hardware_sets::<A>(raw, p);
        is(A::pte_mkyoung(raw), Present { young: true, ..p });
        let prot = Protection { write: p.prot.read, ..p.prot };
        is(A::pte_mkwritten(raw), Present { young: true, dirty: true, soft_clean: false, prot, ..p });
        assert_eq!(A::pte_untouched(raw), !p.young && !p.dirty, "{pte:?}");
        let like = |p: Present| A::encode_pte(Pte::Present(p));
        assert!(A::pte_alike(raw, like(Present { young: !p.young, dirty: !p.dirty, ..p })), "{pte:?}");
        for other in [
            Present { pfn: Pfn(p.pfn.0 ^ 1), ..p },
            Present { special: !p.special, ..p },
            Present { uffd_wp: !p.uffd_wp, ..p },
            Present { soft_clean: !p.soft_clean, ..p },
        ] {
            if !has_room::<A>(&Pte::Present(other)) {
                continue;
            }
            assert!(!A::pte_alike(raw, like(other)), "{pte:?} and {other:?}");
        }
        // An aligned block of frames is where it is used.
        let first = Present { pfn: Pfn(p.pfn.0 & !1), ..p };
        is(like(first).wrapping_add(A::pte_step(like(first))), Present { pfn: first.pfn.offset(1), ..p });
        for prot in [Protection::NONE, Protection::R, Protection::RW, Protection::RX] {
            assert_eq!(A::pte_alike(raw, like(Present { prot, ..p })), prot == p.prot, "{p:?} and {prot:?}");
            let modified = A::pte_modify(raw, prot);
            is(modified, Present { prot, ..p });
            let old = p.prot;
            let reduced = (old.read && !prot.read) || (old.write && !prot.write) || (old.exec && !prot.exec);
            assert_eq!(A::pte_reduced(raw, modified), reduced, "{p:?} to {prot:?}");
        }
    }

    fn followers_differ_in_what_the_hardware_sets<A: Arch>(raw: u64, p: Present) {
        let encode = |p: Present| A::encode_pte(Pte::Present(p));
        let Some(before) = p.pfn.0.checked_sub(3).filter(|_| p.prot.read).map(Pfn) else { return };
        for (young, dirty) in [(false, false), (true, false), (false, true), (true, true)] {
            let first = Present { pfn: before, young, dirty, ..p };
            assert!(A::pte_follows(raw, encode(first), 3), "{p:?} after {first:?}");
            assert!(!A::pte_follows(raw, encode(first), 2), "{p:?} after {first:?}");
            for other in [
                Present { uffd_wp: !p.uffd_wp, ..first },
                Present { soft_clean: !p.soft_clean, ..first },
                Present { special: !p.special, ..first },
                Present { prot: Protection { exec: !p.prot.exec, ..p.prot }, ..first },
                Present { prot: Protection { read: true, write: !p.prot.write, ..p.prot }, ..first },
            ] {
                if !has_room::<A>(&Pte::Present(other)) {
                    continue;
                }
                assert!(!A::pte_follows(raw, encode(other), 3), "{p:?} after {other:?}");
            }
        }
        assert!(!A::pte_follows(0, raw, 0));
    }

    #[test]
    fn every_toy_entry_round_trips() {
        every_entry_round_trips::<Toy>(&[0, 1, 0x1234, (1 << 40) - 1]);
        every_upper_entry_round_trips::<Toy>(&[0, 0x1234, (1 << 40) - 1], 1);
    }
}

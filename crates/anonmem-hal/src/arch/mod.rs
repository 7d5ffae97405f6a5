//! Facts about memory-management units. Nothing here has an effect.

mod aarch64;
#[cfg(test)]
mod by_number;
mod riscv;
mod soft;
mod toy;
mod x86_64;

pub use aarch64::AArch64;
pub use riscv::Sv48;
pub use toy::Toy;
pub use x86_64::X86_64;

use crate::{
    addr::{Order, PAGE_SHIFT, Pfn, Va},
    pte::{Entry, Present, Protection, Pte},
};

/// Facts about one MMU: the shape of its tables and the layout of their entries.
///
/// `decode_*` is the inverse of `encode_*` for every value that the format can hold. An entry of 0 is
/// always "nothing".
pub trait Arch: Send + Sync + 'static {
    /// The number of table levels; level 0 holds the last-level entries.
    const LEVELS: u32;
    /// log2 of the number of entries of a table. A table fits one frame.
    const INDEX_BITS: u32;
    /// One past the highest user address.
    const USER_END: Va;
    /// Whether entries have room for [`Present::soft_clean`]; where they have not, it comes back as false.
    /// Linux: `CONFIG_HAVE_ARCH_SOFT_DIRTY`.
    const SOFT_DIRTY: bool;

    /// The raw form of a last-level entry.
    fn encode_pte(pte: Pte) -> u64;
    /// The last-level entry with these raw bits.
    fn decode_pte(raw: u64) -> Pte;
    /// The raw form of an entry of level `level` (1 and up).
    fn encode_entry(entry: Entry, level: u32) -> u64;
    /// The entry of level `level` (1 and up) with these raw bits.
    fn decode_entry(raw: u64, level: u32) -> Entry;

    /// Whether the hardware has set all that it ever sets (accessed and dirty), or does not use the
    /// last-level entry: it will not write to it, so that the holder of the page-table lock may change it
    /// with a plain store.
    ///
    /// This and the following functions say of raw bits what decoding and encoding them says, for paths that
    /// do little else.
    fn pte_settled(raw: u64) -> bool {
        match Self::decode_pte(raw) {
            Pte::Present(p) => !p.prot.read || p.young && p.dirty,
            Pte::None | Pte::Soft(_) => true,
        }
    }
    /// Whether the entry is [`Pte::Present`].
    fn pte_present(raw: u64) -> bool {
        matches!(Self::decode_pte(raw), Pte::Present(_))
    }
    /// Whether the entry owns a page, allows to be read, is [settled](Self::pte_settled), and nothing about
    /// it needs a second look: what nearly all entries are, so that loops over many ask this first and the
    /// rest out of line.
    fn pte_plain(raw: u64) -> bool {
        matches!(Self::decode_pte(raw),
            Pte::Present(p) if p.prot.read && p.young && p.dirty && !p.special && !p.uffd_wp && !p.soft_clean)
    }
    /// The page that a present entry owns: not the zero page. Linux: `vm_normal_page`.
    fn pte_page(raw: u64) -> Option<Pfn> {
        match Self::decode_pte(raw) {
            Pte::Present(p) => (!p.special).then_some(p.pfn),
            Pte::None | Pte::Soft(_) => None,
        }
    }
    /// Whether the entry owns a page, as [`pte_page`](Self::pte_page) has it, and allows to be read.
    fn pte_readable(raw: u64) -> bool {
        matches!(Self::decode_pte(raw), Pte::Present(p) if p.prot.read && !p.special)
    }
    /// Whether it allows to be read and written.
    fn pte_writable(raw: u64) -> bool {
        matches!(Self::decode_pte(raw), Pte::Present(p) if p.prot.read && p.prot.write && !p.special)
    }
    /// The page of an entry that allows to be read.
    fn pte_readable_page(raw: u64) -> Pfn {
        match Self::decode_pte(raw) {
            Pte::Present(p) => p.pfn,
            Pte::None | Pte::Soft(_) => unreachable!("entry {raw:#x} allows nothing"),
        }
    }
    /// Whether the entry says what `first` does, which allows to be read, of the page `nth` pages after its
    /// own. What the hardware sets may differ.
    fn pte_follows(raw: u64, first: u64, nth: u64) -> bool {
        let (Pte::Present(this), Pte::Present(first)) = (Self::decode_pte(raw), Self::decode_pte(first))
        else {
            return false;
        };
        let Present { young, dirty, .. } = this;
        this == Present { pfn: first.pfn.offset(nth), young, dirty, ..first }
    }
    /// A present entry without write permission and accessed bit, and of no userfaultfd: what a child gets.
    /// Linux: `pte_wrprotect`, `pte_mkold`, `pte_clear_uffd_wp`.
    fn pte_inherited(raw: u64) -> u64 {
        change_present::<Self>(raw, Present::inherited)
    }
    /// A present entry without write permission. Linux: `pte_wrprotect`.
    fn pte_wrprotect(raw: u64) -> u64 {
        change_present::<Self>(raw, Present::write_protected)
    }
    /// A present entry, of no userfaultfd. Linux: `pte_clear_uffd_wp`.
    fn pte_clear_uffd_wp(raw: u64) -> u64 {
        change_present::<Self>(raw, |p| Present { uffd_wp: false, ..p })
    }
    /// Whether a present entry may be made writable without a fault, if its owner may write: it was written
    /// or writable, is not the zero page, userfaultfd does not mind, and nobody waits for its first write.
    /// Linux: `can_change_pte_writable`.
    fn pte_can_mkwrite(raw: u64) -> bool {
        matches!(Self::decode_pte(raw),
            Pte::Present(p) if !p.special && !p.uffd_wp && !p.soft_clean && (p.dirty || p.prot.write))
    }
    /// A present entry, accessed. Linux: `pte_mkyoung`.
    fn pte_mkyoung(raw: u64) -> u64 {
        change_present::<Self>(raw, |p| Present { young: true, ..p })
    }
    /// A present entry that allows to be read, accessed, written and writable. Linux: `pte_mkwrite`,
    /// `pte_mkdirty`.
    fn pte_mkwritten(raw: u64) -> u64 {
        let write = |p: Present| Protection { write: p.prot.read, ..p.prot };
        let (young, dirty, soft_clean) = (true, true, false);
        change_present::<Self>(raw, |p| Present { young, dirty, soft_clean, prot: write(p), ..p })
    }
    /// Whether a present entry has a permission that another one for the same page has not: a TLB may still
    /// have it.
    fn pte_reduced(old: u64, new: u64) -> bool {
        let (Pte::Present(old), Pte::Present(new)) = (Self::decode_pte(old), Self::decode_pte(new)) else {
            return false;
        };
        let (old, new) = (old.prot, new.prot);
        (old.read && !new.read) || (old.write && !new.write) || (old.exec && !new.exec)
    }
    /// A present entry with other permissions. Linux: `pte_modify`.
    fn pte_modify(raw: u64, prot: Protection) -> u64 {
        change_present::<Self>(raw, |p| Present { prot, ..p })
    }

    /// Whether two present entries say the same, whatever the hardware has set of accessed and dirty.
    fn pte_alike(a: u64, b: u64) -> bool {
        let settled = |raw| change_present::<Self>(raw, |p| Present { young: true, dirty: true, ..p });
        settled(a) == settled(b)
    }
    /// What is added to a present entry (wrapping) to make it that of the next frame: loops over the entries
    /// of a folio need not encode each. Linux: `pte_advance_pfn`.
    fn pte_step(raw: u64) -> u64 {
        change_present::<Self>(raw, |p| Present { pfn: p.pfn.offset(1), ..p }).wrapping_sub(raw)
    }
    /// Whether a present entry is neither accessed nor dirty.
    fn pte_untouched(raw: u64) -> bool {
        matches!(Self::decode_pte(raw), Pte::Present(p) if !p.young && !p.dirty)
    }

    /// The number of entries of a table.
    const ENTRIES: usize = 1 << Self::INDEX_BITS;

    /// The order of a folio that a leaf maps: what an entry of level 1 covers.
    const LEAF_ORDER: Order = Order::new(Self::INDEX_BITS as u8);

    /// log2 of the bytes that one entry of `level` covers.
    fn shift(level: u32) -> u32 {
        PAGE_SHIFT + level * Self::INDEX_BITS
    }

    /// The index of `va` in a table of `level`.
    fn index(va: Va, level: u32) -> usize {
        (va.0 >> Self::shift(level)) as usize & (Self::ENTRIES - 1)
    }
}

#[inline(always)]
fn change_present<A: Arch + ?Sized>(raw: u64, f: impl FnOnce(Present) -> Present) -> u64 {
    match A::decode_pte(raw) {
        Pte::Present(p) => A::encode_pte(Pte::Present(f(p))),
        Pte::None | Pte::Soft(_) => raw,
    }
}

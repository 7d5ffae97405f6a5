//! Facts about memory-management units. Nothing here has an effect.

mod toy;
mod x86_64;

pub use toy::Toy;
pub use x86_64::X86_64;

use crate::{
    addr::{PAGE_SHIFT, Va},
    pte::{Entry, Pte},
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

    /// The raw form of a last-level entry.
    fn encode_pte(pte: Pte) -> u64;
    /// The last-level entry with these raw bits.
    fn decode_pte(raw: u64) -> Pte;
    /// The raw form of an entry of level `level` (1 and up).
    fn encode_entry(entry: Entry, level: u32) -> u64;
    /// The entry of level `level` (1 and up) with these raw bits.
    fn decode_entry(raw: u64, level: u32) -> Entry;

    /// The number of entries of a table.
    const ENTRIES: usize = 1 << Self::INDEX_BITS;

    /// log2 of the bytes that one entry of `level` covers.
    fn shift(level: u32) -> u32 {
        PAGE_SHIFT + level * Self::INDEX_BITS
    }

    /// The index of `va` in a table of `level`.
    fn index(va: Va, level: u32) -> usize {
        (va.0 >> Self::shift(level)) as usize & (Self::ENTRIES - 1)
    }
}

//! The metadata of one frame: 32 bytes, all atomic, so that a stale look at it is never undefined.
//!
//! What the words mean depends on the frame's [`Kind`], which only the allocator changes:
//!
//! | word | folio (head) | tail of a folio | free (head) | page table | slab |
//! |---|---|---|---|---|---|
//! | `flags` | lock, state, kind, order | kind | kind, order | kind | kind, slab id |
//! | `aux` | index, low half | of the first: leaves that map the folio | - | its lock | - |
//! | `counts` | [`Counts`] | exclusive bit | 0 | 0 | 0 |
//! | `mapping` | [`Mapping`] | head | 0 | list link (below) | type of the slots |
//! | `private` | swap entry | mappings, in a split | list links | entries in use | next slab frame |
//!
//! The link of a page table is that of a list. Tables that wait to be freed are on one. Those that are kept
//! to split leaves into are on another, which begins at the link of the table that has the leaves.
//!
//! A frame of a free block that is not its first says whatever it said last, but is no head. `counts` counts
//! nothing in everything that is not a folio: a late `try_get` that takes the frame for the folio it was must
//! fail.
//!
//! Linux: include/linux/mm_types.h `struct folio`, `struct ptdesc`, `struct slab`. Differs: half the size; no
//! list links in a folio, because reclaim sweeps the frame array itself (ARCHITECTURE.md). The three counts
//! share one word, so that mapping a page is one atomic addition.

use crate::{handle::RawHandle, place::Field};
use anonmem_hal::{Machine, Order, SwapEntry};
use anonmem_sync::{Atomic, Ordering};
use core::{fmt, mem::offset_of, num::NonZeroU64};

/// The metadata slot of one frame.
#[repr(C)]
pub(crate) struct Meta<M> {
    /// Lock bit, state bits, kind and order: see [`flags`].
    pub(crate) flags: Atomic<u32, M>,
    /// Half a word whose meaning depends on the kind.
    pub(crate) aux: Atomic<u32, M>,
    /// [`Counts`] of a folio.
    pub(crate) counts: Atomic<u64, M>,
    /// [`Mapping`] of a folio.
    pub(crate) mapping: Atomic<u64, M>,
    /// Swap entry of a folio.
    pub(crate) private: Atomic<u64, M>,
}

/// The size of a metadata slot in bytes.
pub const META_BYTES: usize = 32;

/// Its words, for displays: what they are called depends on the kind.
impl<M> Meta<M> {
    /// Those of a folio.
    pub(crate) const FOLIO_FIELDS: &'static [Field] = &[
        Field::new("flags", offset_of!(Self, flags)),
        Field::new("index", offset_of!(Self, aux)),
        Field::new("counts", offset_of!(Self, counts)),
        Field::new("mapping", offset_of!(Self, mapping)),
        Field::new("private", offset_of!(Self, private)),
    ];
    /// Those of a page table.
    pub(crate) const TABLE_FIELDS: &'static [Field] = &[
        Field::new("flags", offset_of!(Self, flags)),
        Field::new("lock", offset_of!(Self, aux)),
        Field::new("counts", offset_of!(Self, counts)),
        Field::new("next", offset_of!(Self, mapping)),
        Field::new("used", offset_of!(Self, private)),
    ];
    /// Those of all others.
    pub(crate) const OTHER_FIELDS: &'static [Field] = &[
        Field::new("flags", offset_of!(Self, flags)),
        Field::new("counts", offset_of!(Self, counts)),
        Field::new("mapping", offset_of!(Self, mapping)),
        Field::new("lists", offset_of!(Self, private)),
    ];
}

/// The bits of [`Meta::flags`].
pub(crate) mod flags {
    /// The folio lock (`PG_locked`).
    pub(crate) const LOCKED: u32 = 1 << 0;
    /// Somebody sleeps on the folio lock (`PG_waiters`).
    pub(crate) const WAITERS: u32 = 1 << 1;
    /// Of a frame that is out of use: it is bad, and never comes back. Of a folio of one page: its frame goes
    /// out of use like that when the page is freed.
    pub(crate) const BAD: u32 = 1 << 2;
    /// Of a frame that is out of use: until a large block is made of it.
    pub(crate) const BLOCK: u32 = 1 << 1;
    /// May be dropped instead of swapped unless written (`MADV_FREE`; Linux: not `PG_swapbacked`).
    pub(crate) const LAZYFREE: u32 = 1 << 3;
    /// A page-table scan found it accessed since reclaim came by last (`PG_referenced`).
    pub(crate) const REFERENCED: u32 = 1 << 4;
    /// What the pieces of a folio have in common with it when it is split.
    pub(crate) const INHERITED: u32 = LAZYFREE | REFERENCED | 3 << IDLE_SHIFT;
    /// Where the two bits start that count the sweeps of reclaim that found the folio unused.
    pub(crate) const IDLE_SHIFT: u32 = 8;

    /// Where the bits start that a sweep over all pages keeps of a page until it comes by again: a hash of
    /// the bytes, in short, and how often nothing came of it (KSM).
    pub(crate) const NOTE_SHIFT: u32 = 10;
    /// How many bits it keeps.
    pub(crate) const NOTE_BITS: u32 = 14;

    /// Of a frame that is no folio: it is being freed.
    pub(crate) const FREEING: u32 = 1 << 0;

    /// All that is neither kind nor order.
    pub(crate) const STATE: u32 = (1 << KIND_SHIFT) - 1;
    /// Where the [`super::Kind`] starts.
    pub(crate) const KIND_SHIFT: u32 = 24;
    /// Where the order starts.
    pub(crate) const ORDER_SHIFT: u32 = 28;
}

/// What a frame is used for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Kind {
    /// Not the allocator's: before boot, or a hole.
    Reserved = 0,
    /// First frame of a free block in the buddy allocator.
    Buddy = 1,
    /// A frame of a free block that is not its first.
    BuddyTail = 2,
    /// Free, on a CPU's list.
    Pcp = 3,
    /// Allocated, and nobody else can see it yet.
    New = 4,
    /// First frame of a folio.
    Folio = 5,
    /// A frame of a folio that is not its first.
    Tail = 6,
    /// A page table.
    Table = 7,
    /// Slots of a type-stable slab.
    Slab = 8,
    /// The kernel's own: its heap, its stacks.
    Kernel = 9,
    /// Out of use: unplugged, in a balloon, or bad.
    Offline = 10,
}

impl Kind {
    pub(crate) fn of(bits: u32) -> Self {
        const ALL: [Kind; 11] = [
            Kind::Reserved,
            Kind::Buddy,
            Kind::BuddyTail,
            Kind::Pcp,
            Kind::New,
            Kind::Folio,
            Kind::Tail,
            Kind::Table,
            Kind::Slab,
            Kind::Kernel,
            Kind::Offline,
        ];
        ALL[(bits >> flags::KIND_SHIFT & 15) as usize]
    }

    /// The order in `bits`.
    pub(crate) const fn order_of(bits: u32) -> u8 {
        (bits >> flags::ORDER_SHIFT) as u8
    }

    pub(crate) const fn bits(self, order: Order) -> u32 {
        (self as u32) << flags::KIND_SHIFT | (order.get() as u32) << flags::ORDER_SHIFT
    }
}

/// Kind and order, which change together: one word, read at once.
#[derive(Clone, Copy)]
pub(crate) struct Use(u32);

impl Use {
    /// What the frame is used for.
    #[inline]
    pub(crate) fn kind(self) -> Kind {
        Kind::of(self.0)
    }

    /// Whether the frame is used for that: cheaper than [`kind`](Self::kind), which decodes.
    #[inline(always)]
    pub(crate) const fn is(self, kind: Kind) -> bool {
        self.0 >> flags::KIND_SHIFT & 15 == kind as u32
    }

    /// Whether the frame is a folio of one page.
    #[inline(always)]
    pub(crate) const fn is_one_page(self) -> bool {
        // Kind and order are the highest bits.
        self.0 >> flags::KIND_SHIFT == Kind::Folio as u32
    }

    /// Whether the folio may be dropped unless it is written.
    #[inline(always)]
    pub(crate) const fn is_lazyfree(self) -> bool {
        self.0 & flags::LAZYFREE != 0
    }

    /// The order of the block that starts here.
    #[inline]
    pub(crate) fn order(self) -> Order {
        Order::new(Kind::order_of(self.0))
    }
}

impl<M: Machine> Meta<M> {
    /// Kind and order as of now, for whoever owns no count of the frame: the allocator may give it to others
    /// before and after. A step of the lab, and an old value under its weak model.
    #[inline(always)]
    #[track_caller]
    pub(crate) fn look(&self) -> Use {
        Use(self.flags.load(Ordering::Relaxed))
    }

    /// Kind and order for whoever owns a count of the frame or the frame itself, so that neither changes; and
    /// for displays and recounts at rest. No step of the lab.
    #[inline(always)]
    pub(crate) fn owned(&self) -> Use {
        Use(self.flags.peek())
    }

    /// Says what finds the mappings of the folio that begins here, and its index.
    pub(crate) fn set_mapping(&self, mapping: Mapping, index: u64) {
        self.aux.store(index as u32, Ordering::Relaxed);
        // Release pairs with the Acquire of `mapping_word`.
        self.mapping.store(MappingWord::encode(mapping, index).0, Ordering::Release);
    }
}

/// The three counts of a folio and what is exclusive, in one word so that they change together.
///
/// | bits | count | owner type |
/// |---|---|---|
/// | 0-26 | page-table mappings | [`Exclusive`](crate::Exclusive), [`Shared`](crate::Shared), [`ShmMap`](crate::ShmMap) |
/// | 27-46 | references that are not mappings | [`FolioRef`](crate::FolioRef) |
/// | 47-62 | long-term pins | [`FolioPin`](crate::FolioPin) |
/// | 63 | (not a count) the page is [`Exclusive`](crate::Exclusive): mapped once, and never shared since (`PageAnonExclusive`) |
///
/// Linux's refcount is the sum of the three; 0 is free or frozen. Every increment checks for the limit and
/// fails before it is reached, so no count overflows: 2^27 mappings, 2^20 references, 2^16 pins.
///
/// A leaf above the last level counts as a mapping of each page of its folio: n mappings in one addition. So
/// the word does not change when a leaf becomes a table of n entries. "Am I alone" is the same question of
/// leaves and of entries.
///
/// The last bit is each page's own, in tails too, where it is all there is. But while a leaf maps the folio,
/// the first page's says it of all of them, and theirs are clear. It is here so that fork, which
/// adds a mapping and takes the bit away, does both in one atomic operation. It goes with the mapping that it
/// says is the only one.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts(pub(crate) u64);

impl Counts {
    /// One mapping.
    pub(crate) const MAP: u64 = 1;
    /// One reference.
    pub(crate) const REF: u64 = 1 << 27;
    /// One pin.
    pub(crate) const PIN: u64 = 1 << 47;
    /// The page is mapped by its owner alone.
    pub(crate) const EXCLUSIVE: u64 = 1 << 63;
    // Headroom: every CPU may overshoot by a batch before it notices.
    const MAX_MAPS: u64 = (1 << 27) - (1 << 16);
    const MAX_REFS: u64 = (1 << 20) - (1 << 12);
    const MAX_PINS: u64 = (1 << 16) - (1 << 8);

    /// The counts that the word `bits` holds.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// Page-table mappings.
    pub const fn maps(self) -> u64 {
        self.0 & (Self::REF - 1)
    }

    /// References that are neither mappings nor pins.
    pub const fn refs(self) -> u64 {
        self.0 >> 27 & ((1 << 20) - 1)
    }

    /// Long-term pins.
    pub const fn pins(self) -> u64 {
        self.0 >> 47 & ((1 << 16) - 1)
    }

    /// All of them: Linux's `folio_ref_count`.
    pub const fn total(self) -> u64 {
        self.maps() + self.refs() + self.pins()
    }

    /// Whether the page is marked as mapped by its owner alone.
    pub const fn is_exclusive(self) -> bool {
        self.0 & Self::EXCLUSIVE != 0
    }

    /// Whether there is any count.
    #[inline(always)]
    pub(crate) const fn is_counted(self) -> bool {
        self.0 & !Self::EXCLUSIVE != 0
    }

    /// Whether the only count is one mapping.
    #[inline(always)]
    pub(crate) const fn is_one_map(self) -> bool {
        self.0 & !Self::EXCLUSIVE == Self::MAP
    }

    /// Whether another mapping, reference and pin still fit.
    #[inline(always)]
    pub(crate) const fn has_room(self) -> bool {
        // The top bit of each count: below it there is room, and that is all that is ever asked in practice.
        const HALF: u64 = Counts::REF >> 1 | Counts::PIN >> 1 | Counts::EXCLUSIVE >> 1;
        self.0 & HALF == 0 || self.has_room_near_the_limit()
    }

    #[cold]
    const fn has_room_near_the_limit(self) -> bool {
        self.maps() < Self::MAX_MAPS && self.refs() < Self::MAX_REFS && self.pins() < Self::MAX_PINS
    }
}

/// A folio has as many mappings, or pins, as can be counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManySharers;

impl fmt::Display for TooManySharers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a folio has as many mappings, or pins, as can be counted")
    }
}

impl core::error::Error for TooManySharers {}

impl fmt::Debug for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exclusive = if self.is_exclusive() { ", exclusive" } else { "" };
        write!(f, "{} maps, {} refs, {} pins{exclusive}", self.maps(), self.refs(), self.pins())
    }
}

/// What an anonymous page is found by: the name of an object of the reverse map, and a label, to which the
/// reverse map gives a meaning.
///
/// The bits are those that a mapping word has of it, so that encoding one is an addition.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct Stamp(NonZeroU64);

impl Stamp {
    /// The number of bits of a label.
    pub const LABEL_BITS: u32 = 24;
    const LABEL_SHIFT: u32 = 8;

    /// That of pages that `object` leads to, by `label`.
    #[inline]
    pub const fn new(object: RawHandle, label: u32) -> Self {
        assert!(label < 1 << Self::LABEL_BITS);
        let bits = (object.get() as u64) << 32 | (label as u64) << Self::LABEL_SHIFT;
        Self(NonZeroU64::new(bits).expect("a name is not 0"))
    }

    /// The object.
    #[inline]
    pub const fn object(self) -> RawHandle {
        RawHandle::new((self.0.get() >> 32) as u32).expect("a name is not 0")
    }

    /// The label; 0 where the reverse map has none.
    #[inline]
    pub const fn label(self) -> u32 {
        (self.0.get() as u32) >> Self::LABEL_SHIFT
    }

    /// That which a mapping word has.
    #[inline(always)]
    const fn of_word(word: u64) -> Option<Self> {
        match NonZeroU64::new(word >> Self::LABEL_SHIFT << Self::LABEL_SHIFT) {
            Some(bits) => Some(Self(bits)),
            None => None,
        }
    }

    /// As a word that is not 0.
    #[inline]
    pub const fn bits(self) -> u64 {
        self.0.get()
    }

    /// The inverse of [`bits`](Self::bits); `None` for 0, and for what is no stamp.
    #[inline]
    pub const fn from_bits(bits: u64) -> Option<Self> {
        if bits & ((1 << Self::LABEL_SHIFT) - 1) != 0 || bits >> 32 == 0 {
            return None;
        }
        match NonZeroU64::new(bits) {
            Some(bits) => Some(Self(bits)),
            None => None,
        }
    }
}

impl From<RawHandle> for Stamp {
    #[inline]
    fn from(object: RawHandle) -> Self {
        Self::new(object, 0)
    }
}

impl fmt::Debug for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.label() {
            0 => self.object().fmt(f),
            label => write!(f, "{:?}/{label:x}", self.object()),
        }
    }
}

/// What a folio belongs to: the mapping word, decoded.
///
/// | bits | meaning |
/// |---|---|
/// | 0-1 | 0 nothing, 1 anonymous, 2 shared object, 3 KSM stable node |
/// | 2-7 | bits 32 to 37 of the index |
/// | 8-17 | anonymous: of the label; else bits 38 to 47 of the index |
/// | 18-31 | anonymous: of the label |
/// | 32-63 | handle |
///
/// The word is read as one, which is what lock-and-recheck compares (Linux: `folio->mapping` with
/// `FOLIO_MAPPING_FLAGS`). The low 32 bits of the index are beside it; whoever uses the index has the
/// anon_vma or folio lock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mapping {
    /// Nothing (yet, or any more).
    None,
    /// Anonymous: what finds every mapping, such as an anon_vma.
    Anon(Stamp),
    /// A page of a shared anonymous object.
    Shm(RawHandle),
    /// Merged by KSM: the stable node.
    Ksm(RawHandle),
}

/// Indices of anonymous pages are below this: 4 KiB pages of 2^50 bytes.
pub const ANON_INDEXES: u64 = 1 << 38;

/// A mapping word as it was read: compare it to find out whether anything changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MappingWord(pub(crate) u64);

impl MappingWord {
    /// Encodes; `index` is in pages, below 2^48, of an anonymous page below [`ANON_INDEXES`].
    pub(crate) fn encode(mapping: Mapping, index: u64) -> Self {
        let (kind, handle) = match mapping {
            Mapping::None => return Self(0),
            Mapping::Anon(stamp) => {
                debug_assert!(index < ANON_INDEXES);
                return Self(1 | (index >> 32) << 2 | stamp.bits());
            }
            Mapping::Shm(h) => (2, h),
            Mapping::Ksm(h) => (3, h),
        };
        debug_assert!(index < 1 << 48);
        Self(kind | (index >> 32) << 2 | u64::from(handle.get()) << 32)
    }

    /// The word with these bits, for displays.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// What it says.
    #[inline]
    pub fn decode(self) -> Mapping {
        let Some(handle) = RawHandle::new((self.0 >> 32) as u32) else { return Mapping::None };
        match self.0 & 3 {
            0 => Mapping::None,
            1 => match Stamp::of_word(self.0) {
                Some(stamp) => Mapping::Anon(stamp),
                None => Mapping::None,
            },
            2 => Mapping::Shm(handle),
            _ => Mapping::Ksm(handle),
        }
    }

    /// Whether it is that of an anonymous page that has this stamp.
    #[inline(always)]
    pub(crate) fn has(self, stamp: Stamp) -> bool {
        self.0 & 3 == 1 && Stamp::of_word(self.0) == Some(stamp)
    }

    /// What an anonymous page is found by; `None` of other pages, and of those that KSM has merged.
    #[inline]
    pub fn stamp(self) -> Option<Stamp> {
        if self.0 & 3 != 1 {
            return None;
        }
        // The bits of a stamp are the word's.
        Stamp::from_bits(self.0 & !((1 << Stamp::LABEL_SHIFT) - 1))
    }

    /// Whether it is that of an anonymous page, merged by KSM or not.
    #[inline(always)]
    pub(crate) fn is_anon(self) -> bool {
        self.0 & 1 != 0
    }

    pub(crate) fn index_high(self) -> u64 {
        let bits = if self.0 & 3 == 1 { 0x3f } else { 0xffff };
        (self.0 >> 2 & bits) << 32
    }
}

/// An entry as a folio's metadata holds it; 0 is none.
pub(crate) const fn encode_entry(entry: SwapEntry) -> u64 {
    1 << 63 | (entry.device as u64) << 48 | entry.offset
}

/// The inverse of [`encode_entry`].
pub(crate) const fn decode_entry(word: u64) -> Option<SwapEntry> {
    if word == 0 {
        return None;
    }
    Some(SwapEntry { device: (word >> 48 & 31) as u8, offset: word & ((1 << 40) - 1) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapping_word_holds_every_handle_and_index() {
        for (handle, index) in [(1, 0), (u32::MAX, (1 << 48) - 1), (77, 1 << 35)] {
            let handle = RawHandle::new(handle).unwrap();
            let labels =
                [0, 1, (1 << Stamp::LABEL_BITS) - 1].map(|label| Mapping::Anon(Stamp::new(handle, label)));
            for mapping in labels.into_iter().chain([Mapping::Shm(handle), Mapping::Ksm(handle)]) {
                let index = match mapping {
                    Mapping::Anon(_) => index % ANON_INDEXES,
                    Mapping::None | Mapping::Shm(_) | Mapping::Ksm(_) => index,
                };
                let word = MappingWord::encode(mapping, index);
                assert_eq!(word.decode(), mapping);
                assert_eq!(word.is_anon(), !matches!(mapping, Mapping::Shm(_)));
                let stamp = Stamp::new(handle, 1);
                assert_eq!(word.has(stamp), mapping == Mapping::Anon(stamp));
                assert_eq!(word.index_high() | index & 0xffff_ffff, index);
            }
        }
    }

    #[test]
    fn counts_do_not_run_into_each_other() {
        let c = Counts(Counts::MAP * 3 + Counts::REF * 5 + Counts::PIN * 7);
        assert_eq!((c.maps(), c.refs(), c.pins(), c.total()), (3, 5, 7, 15));
        assert!(c.has_room() && !c.is_exclusive());
        let c = Counts(c.0 | Counts::EXCLUSIVE);
        assert_eq!((c.maps(), c.refs(), c.pins(), c.total()), (3, 5, 7, 15));
        assert!(c.has_room() && c.is_exclusive());
        assert!(!Counts(Counts::MAP * Counts::MAX_MAPS).has_room());
    }
}

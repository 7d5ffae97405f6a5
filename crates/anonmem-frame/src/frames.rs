//! The frames of a machine: who has which, and the ways to get one.
//!
//! | you want | call | in the end |
//! |---|---|---|
//! | memory for a program | `alloc` | drop the owner |
//! | a page table | [`alloc_table`](Frames::alloc_table) | drop the owner |
//! | many small objects | [`Slab::alloc`](crate::Slab::alloc) | [`Slab::free`](crate::Slab::free) |
//! | memory for the kernel's own heap | [`alloc_kernel`](Frames::alloc_kernel) | drop the owner |
//!
//! Single pages pass through a list of the current CPU (`pcp.rs`); larger blocks, and batches of pages, come
//! from the buddy lists (`buddy.rs`). A frame's metadata may be looked at by anybody at any time, even while
//! the frame is free. `flags` changes as a whole when the kind does. The counts of whatever is not a folio
//! admit no reference, so a stale look can only fail.
//!
//! Locks: a CPU's list, then the zone; none is held on return.
//!
//! Linux: mm/page_alloc.c. Differs: one zone; no reclaim from inside an allocation.

use crate::{
    buddy::Buddy,
    class::{Class, Counters, Watermarks},
    fields, fresh,
    magazine::{CpuPages, PcpLimits},
    memmap::Memmap,
    meta::{Kind, META_BYTES, Meta},
    place::Field,
};
use anonmem_hal::{MAX_ORDER, Machine, Order, Pfn};
use anonmem_sync::{
    Atomic, Level,
    Ordering::Relaxed,
    PerCpu, Plain, RawSpin, Spin, in_place, init_fields,
    order::{SplitTurn as SplitTurnLevel, Zone},
};
use core::{fmt, mem::MaybeUninit};

/// There is no free memory that the caller may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutOfMemory;

impl fmt::Display for OutOfMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("out of memory")
    }
}

impl core::error::Error for OutOfMemory {}

/// Why a machine's memory cannot be managed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FramesError {
    /// It has no frame at all.
    None,
    /// It has more frames than a handle can name.
    TooMany {
        /// How many.
        frames: u64,
    },
    /// The array of metadata does not start at a multiple of 64.
    UnalignedMemmap {
        /// Where it starts.
        address: usize,
    },
}

impl fmt::Display for FramesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("there is no frame to manage; give it at least one"),
            Self::TooMany { frames } => write!(
                f,
                "{frames} frames are more than can be managed; give it at most {MAX_FRAMES} (16 TiB less one)"
            ),
            Self::UnalignedMemmap { address } => {
                write!(f, "the frame metadata starts at {address:#x}; align it to {MEMMAP_ALIGN} bytes")
            }
        }
    }
}

impl core::error::Error for FramesError {}

/// The most frames of a machine: a link is a frame's index plus one, in 32 bits.
pub const MAX_FRAMES: u64 = (1 << 32) - 1;
/// The alignment of the metadata: a cache line, so that none holds parts of two slots' neighbours.
const MEMMAP_ALIGN: usize = 64;

const _: () = assert!(size_of::<Meta<()>>() == META_BYTES, "metadata is 32 bytes a frame");
const _: () = assert!(MEMMAP_ALIGN.is_multiple_of(align_of::<Meta<()>>()));

/// The number of orders that a block may have.
const NR_ORDERS: usize = MAX_ORDER as usize + 1;

/// The frames of one machine. The root of everything that is allocated on it.
pub struct Frames<M: Machine> {
    pub(crate) memmap: Memmap<M>,
    pub(crate) watermarks: Watermarks,
    pub(crate) pcp_limits: PcpLimits,
    pub(crate) pcp: PerCpu<CpuPages<M>, M>,
    pub(crate) buddy: Spin<M, Zone, Buddy>,
    /// Frames on the buddy lists. Under the zone lock.
    pub(crate) buddy_free: Plain<u64, M>,
    /// Pages in blocks larger than one page. Under the zone lock.
    pub(crate) used_large: Counters<M>,
    /// The most pages in use so far. Under the zone lock.
    pub(crate) peak: Plain<u64, M>,
    /// Whether a folio became partly mapped since reclaim last looked.
    pub(crate) partly_mapped: Atomic<u32, M>,
    /// Whose turn it is to list the many tables that map one folio.
    pub(crate) split_turn: Spin<M, SplitTurnLevel, ()>,
    pub(crate) cpu_words: PerCpu<CpuWords<M>, M>,
    next_slab_id: Atomic<u32, M>,
    zero_page: Pfn,
    machine: M,
}

/// What each CPU counts for itself.
pub(crate) struct CpuWords<M> {
    /// How many folios of each order have become partly mapped so far.
    pub(crate) became_partly_mapped: [Atomic<u64, M>; NR_ORDERS],
    /// The turn of the batch of flushes that began here last (`put_off.rs`).
    pub(crate) turn: Atomic<u64, M>,
}

impl<M: Machine> CpuWords<M> {
    const fn new() -> Self {
        Self { became_partly_mapped: [const { Atomic::new(0) }; NR_ORDERS], turn: Atomic::new(0) }
    }
}

impl<M: Machine> Frames<M> {
    /// Its fields, for displays.
    pub const FIELDS: &'static [Field] = fields! {
        memmap as _, watermarks as _, pcp_limits as _, pcp, buddy as "zone", buddy_free as "zone.free",
        used_large as "zone.used", peak as "zone.peak", partly_mapped, split_turn,
        cpu_words as "turns", next_slab_id as "slab_ids", zero_page as _, machine,
    };

    /// Takes over the memory of `machine`, all of it free but for the zero page. The value is made in `slot`.
    ///
    /// # Errors
    /// If there is none, or more than [`MAX_FRAMES`], or its metadata is not aligned.
    pub fn init(slot: &mut MaybeUninit<Self>, machine: M) -> Result<&mut Self, FramesError> {
        let (frames, slots) = (machine.nr_frames(), machine.memmap());
        if frames > MAX_FRAMES {
            return Err(FramesError::TooMany { frames });
        }
        let address = slots.as_ptr() as usize;
        if !address.is_multiple_of(MEMMAP_ALIGN) {
            return Err(FramesError::UnalignedMemmap { address });
        }
        let nr = frames as u32;
        // SAFETY: `PhysMem` promises that many zeroed slots to us alone while the machine, which we now
        // own, lives; alignment was just checked.
        let memmap = unsafe { Memmap::new(slots.cast(), machine.base_pfn(), nr) };
        let mut buddy = Buddy::new();
        buddy.begin(&memmap);
        // Reserved: it is never freed, and no leak.
        let reserved = Kind::Reserved.bits(Order::ZERO);
        let zero_page = buddy.take(&memmap, Order::ZERO, reserved).ok_or(FramesError::None)?;
        buddy.begin_others(&memmap);
        let zero_page = memmap.pfn(zero_page);
        // SAFETY: it has just left the lists.
        unsafe { machine.allocated(zero_page, Order::ZERO) };
        // SAFETY: nobody else has it.
        unsafe { machine.zero(zero_page, Order::ZERO) };
        Ok(init_fields!(slot, {
            memmap: memmap,
            watermarks: Watermarks::for_frames(frames),
            pcp_limits: PcpLimits::for_frames(nr),
            pcp <- |pcp| PerCpu::init(pcp, |_| CpuPages::new()),
            buddy_free: Plain::new(u64::from(buddy.free())),
            buddy: Spin::new(buddy),
            used_large: Counters::new(),
            peak: Plain::new(0),
            partly_mapped: Atomic::new(0),
            split_turn: Spin::new(()),
            cpu_words <- |slot| PerCpu::init(slot, |_| CpuWords::new()),
            next_slab_id: Atomic::new(1),
            zero_page: zero_page,
            machine: machine,
        }))
    }

    /// The same, as a value.
    ///
    /// # Errors
    /// As [`init`](Self::init).
    pub fn new(machine: M) -> Result<Self, FramesError> {
        in_place::value(|slot| Self::init(slot, machine))
    }

    /// The page of zeroes that first reads are mapped to. It is never freed and nobody counts its mappings.
    #[doc(alias = "ZERO_PAGE")]
    #[inline]
    pub const fn zero_page(&self) -> Pfn {
        self.zero_page
    }

    /// The machine whose frames these are.
    #[inline(always)]
    pub const fn machine(&self) -> &M {
        &self.machine
    }

    /// Tells these frames from those of every other machine; it stays when they are moved. Never 0.
    #[inline(always)]
    pub fn identity(&self) -> usize {
        self.memmap.address()
    }

    /// The metadata of a frame.
    ///
    /// # Panics
    /// If the frame is not one of these.
    #[inline(always)]
    #[track_caller]
    pub(crate) fn meta(&self, pfn: Pfn) -> &Meta<M> {
        self.memmap.at(self.memmap.index(pfn))
    }

    /// The metadata of `len` frames from `first` on.
    ///
    /// # Panics
    /// If one of the frames is not one of these.
    #[inline(always)]
    #[track_caller]
    pub(crate) fn metas(&self, first: Pfn, len: u64) -> &[Meta<M>] {
        // What follows the last frame is none.
        if len == 0 {
            return &[];
        }
        self.memmap.run(self.memmap.index(first), len)
    }

    /// What a frame is used for, as of now.
    ///
    /// # Panics
    /// If the frame is not one of these.
    #[inline]
    #[track_caller]
    pub fn kind(&self, pfn: Pfn) -> Kind {
        self.meta(pfn).look().kind()
    }

    /// The allocated block that has a frame, as of now: its first frame, what it is used for, its size.
    /// `None` if the frame is free.
    ///
    /// # Panics
    /// If the frame is not one of these.
    pub fn block_of(&self, pfn: Pfn) -> Option<(Pfn, Kind, Order)> {
        let meta = self.meta(pfn);
        let (head, flags) = match meta.flags.load(Relaxed) {
            // What a tail says may be left over from a block that is free, or smaller, by now.
            flags if Kind::of(flags) == Kind::Tail => {
                let head = Pfn(meta.mapping.load(Relaxed));
                (head, self.memmap.find(head).map(|index| self.memmap.at(index).flags.load(Relaxed))?)
            }
            flags => (pfn, flags),
        };
        let (kind, order) = (Kind::of(flags), Order::new(Kind::order_of(flags)));
        let is_in = pfn.0.wrapping_sub(head.0) < order.pages();
        let is_used = Class::of(kind).is_some() || pfn == self.zero_page;
        (is_in && is_used).then_some((head, kind, order))
    }

    /// Whether the frame is one of these.
    #[inline]
    pub fn contains(&self, pfn: Pfn) -> bool {
        self.memmap.find(pfn).is_some()
    }

    /// A number that no other slab of these frames has, from 1.
    pub(crate) fn new_slab_id(&self) -> u32 {
        self.next_slab_id.fetch_add(1, Relaxed)
    }

    /// The words of a page table's metadata.
    ///
    /// # Safety
    /// The caller is the owner of the page tables of these frames, and alone in using these words: the count
    /// of entries in use changes under the table's lock, the link while the table waits to be freed.
    ///
    /// # Panics
    /// If the frame is no page table.
    #[inline(always)]
    #[track_caller]
    pub unsafe fn table_words(&self, table: Pfn) -> TableWords<'_, M> {
        let meta = self.meta(table);
        let what = meta.owned();
        assert!(what.is(Kind::Table), "frame {:#x} is no page table but {:?}", table.0, what.kind());
        TableWords(meta)
    }

    /// Where the block ends that has a frame, for who has nothing to do with the block: a hint, as of now.
    ///
    /// # Panics
    /// If the frame is not one of these.
    #[track_caller]
    pub fn end_of_block(&self, pfn: Pfn) -> Pfn {
        let meta = self.meta(pfn);
        // A hint, so no step of the lab.
        let (head, what) = match meta.owned() {
            tail if tail.kind() == Kind::Tail => {
                let head = Pfn(meta.mapping.peek());
                (head, self.memmap.find(head).map_or(tail, |index| self.memmap.at(index).owned()))
            }
            what => (pfn, what),
        };
        let end = match what.kind() {
            Kind::Reserved => self.never_used(pfn).unwrap_or(pfn),
            Kind::Tail | Kind::BuddyTail | Kind::Pcp => pfn,
            Kind::New
            | Kind::Folio
            | Kind::Table
            | Kind::Slab
            | Kind::Kernel
            | Kind::Buddy
            | Kind::Offline => head.offset(what.order().pages()),
        };
        if head <= pfn && end > pfn { end } else { pfn.offset(1) }
    }

    /// Where the memory ends that was never used, if the frame is a part of such memory: whoever goes through
    /// all frames goes on there. As of now.
    ///
    /// # Panics
    /// If the frame is not one of these.
    #[track_caller]
    pub fn never_used(&self, pfn: Pfn) -> Option<Pfn> {
        self.memmap.never_used(self.memmap.index(pfn)).map(|chunk| self.memmap.pfn(chunk.end))
    }

    /// Whether the frame is free, and was never used. As of now.
    ///
    /// # Panics
    /// If the frame is not one of these.
    #[track_caller]
    pub fn is_fresh(&self, pfn: Pfn) -> bool {
        self.memmap.fresh_chunk(self.memmap.index(pfn)).is_some()
    }

    /// Calls `f` with the first frame, kind and order of every block, free ones included, in ascending order.
    ///
    /// A snapshot only if nothing is being allocated or freed.
    pub fn for_each_frame(&self, mut f: impl FnMut(Pfn, Kind, Order)) {
        let mut index = 0;
        while let Some(meta) = self.memmap.get(index) {
            let (kind, order) = (meta.owned().kind(), meta.owned().order());
            if kind == Kind::Buddy || kind == Kind::Pcp || Class::of(kind).is_some() {
                f(self.memmap.pfn(index), kind, order);
                index += order.pages() as u32;
            } else if kind == Kind::Reserved
                && let Some(unused) = self.memmap.never_used(index)
            {
                let blocks = if unused.start < self.memmap.first_free() { 0 } else { fresh::BLOCKS };
                for nth in 0..u64::from(blocks) {
                    f(self.memmap.pfn(unused.start).offset(nth << MAX_ORDER), Kind::Buddy, Order::MAX);
                }
                index = unused.end;
            } else {
                index += 1;
            }
        }
    }
}

/// What the metadata of a page table holds for those who walk, fill and free it.
pub struct TableWords<'f, M>(&'f Meta<M>);

impl<M: Machine> fmt::Debug for TableWords<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TableWords").field("used", &self.used().peek()).finish_non_exhaustive()
    }
}

impl<'f, M: Machine> TableWords<'f, M> {
    /// The table's lock, [`Pmd`](anonmem_sync::order::Pmd) or [`Ptl`](anonmem_sync::order::Ptl).
    #[doc(alias = "pte_lockptr")]
    #[inline(always)]
    pub fn lock<L: Level>(&self) -> &'f RawSpin<M, L> {
        let word: *const Atomic<u32, M> = &self.0.aux;
        // SAFETY: a `RawSpin` is such a word and nothing else, and every value of it is a valid one.
        unsafe { &*word.cast() }
    }

    /// The number of its entries that are in use; under its lock.
    #[inline(always)]
    pub fn used(&self) -> &'f Plain<u64, M> {
        let word: *const Atomic<u64, M> = &self.0.private;
        // SAFETY: a `Plain` is such a word and nothing else.
        unsafe { &*word.cast() }
    }

    /// A word for the list of tables that wait to be freed.
    #[inline(always)]
    pub fn link(&self) -> &'f Atomic<u64, M> {
        &self.0.mapping
    }
}

impl<M: Machine> fmt::Debug for Frames<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frames").field("usage", &self.usage()).finish_non_exhaustive()
    }
}

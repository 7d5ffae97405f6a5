//! One VMA.
//!
//! Linux: include/linux/mm_types.h `struct vm_area_struct`.

use crate::{
    ids::{AnonVmaId, AnonVmaTag, ChainTag, MmId, MmTag, ShmId, ShmTag, UffdId, UffdTag, VmaTag},
    mm::slot::MmSlot,
    vma::flags::VmFlags,
};
use anonmem_frame::{Field, Link, SlabItem, fields};
use anonmem_hal::{Machine, PAGE_SHIFT, Protection, SourceId, Va, VaRange};
use anonmem_sync::{
    Atomic,
    Ordering::{self, Relaxed},
    Plain, WaitQueue, fence,
};
use core::num::NonZeroU64;

/// What the pages of a VMA are before anybody writes to them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Backing {
    /// Zeroes.
    Anonymous,
    /// The bytes of a source from offset `pgoff`; a page is filled at its first touch and anonymous from then
    /// on.
    Source(SourceId),
    /// The pages of a shared object from index `pgoff`.
    Shared(ShmId),
}

/// In [`Vma::special`]: the pages come from a source or an object.
const BACKED: u32 = 1;
/// In [`Vma::special`]: a userfaultfd is asked.
const WATCHED: u32 = 2;

/// A range of an address space with one set of attributes.
pub(crate) struct Vma<M: Machine> {
    pub(super) mm: Atomic<Link<MmTag>, M>,
    pub(super) start: Atomic<u64, M>,
    pub(super) end: Atomic<u64, M>,
    /// Page index of `start`: in the source or object, else the page number of the address where the VMA was
    /// created. `pgoff` and the address of a page move together, so that rmap finds it.
    pub(super) pgoff: Atomic<u64, M>,
    pub(super) flags: Atomic<u64, M>,
    pub(super) source: Atomic<u64, M>,
    pub(super) shared: Atomic<Link<ShmTag>, M>,
    /// What an empty entry needs that is more than a page of zeroes, as bits: [`BACKED`], [`WATCHED`].
    pub(super) special: Atomic<u32, M>,
    /// The userfaultfd that it is registered with, if its attributes say so ([`VmFlags::UFFD`]).
    pub(super) uffd: Atomic<Link<UffdTag>, M>,
    /// The anon_vma that new pages belong to.
    pub(super) anon_vma: Atomic<Link<AnonVmaTag>, M>,
    /// First of the chains that link this VMA to its anon_vmas, newest first. Under the mmap lock for
    /// writing, or for reading by whoever sets `anon_vma`.
    pub(super) chains: Plain<Link<ChainTag>, M>,
    /// The next VMA of a list of those that were taken out of the tree. Under the mmap lock for writing.
    pub(super) next_detached: Plain<Link<VmaTag>, M>,
    pub(crate) lock: VmaLock<M>,
}

impl<M: Machine> SlabItem<M> for Vma<M> {
    type Tag = VmaTag;
    const NAME: &'static str = "vm_area_struct";
    const FIELDS: &'static [Field] = fields! {
        mm, start, end, pgoff, flags, source, shared, special, uffd, anon_vma, chains, next_detached, lock {
        "lock.refcount": refcount, "lock.seq": seq, "lock.version": version, "lock.writer": writer },
    };
    fn new() -> Self {
        Self {
            mm: Atomic::new(Link::NONE),
            start: Atomic::new(0),
            end: Atomic::new(0),
            pgoff: Atomic::new(0),
            flags: Atomic::new(0),
            source: Atomic::new(0),
            shared: Atomic::new(Link::NONE),
            special: Atomic::new(0),
            uffd: Atomic::new(Link::NONE),
            anon_vma: Atomic::new(Link::NONE),
            chains: Plain::new(Link::NONE),
            next_detached: Plain::new(Link::NONE),
            lock: VmaLock::new(),
        }
    }
}

impl<M: Machine> Vma<M> {
    /// Fills a slot that was just allocated: no anon_vma yet, and no userfaultfd, whatever the attributes
    /// say.
    pub(crate) fn init(&self, mm: MmId, range: VaRange, pgoff: u64, flags: VmFlags, backing: Backing) {
        self.mm.store(mm.into(), Relaxed);
        self.set_range(range, pgoff);
        self.flags.store((flags - VmFlags::UFFD).bits(), Relaxed);
        let (source, shared, special) = match backing {
            Backing::Anonymous => (0, Link::NONE, 0),
            Backing::Source(id) => (id.0.get(), Link::NONE, BACKED),
            Backing::Shared(object) => (0, object.into(), BACKED),
        };
        self.special.store(special, Relaxed);
        self.uffd.store(Link::NONE, Relaxed);
        self.source.store(source, Relaxed);
        self.shared.store(shared, Relaxed);
        self.anon_vma.store(Link::NONE, Relaxed);
        self.chains.set(Link::NONE);
    }

    /// The address space it belongs to.
    #[inline]
    pub(crate) fn mm(&self) -> Option<MmId> {
        self.mm.load(Relaxed).get()
    }

    /// The addresses it covers.
    #[inline]
    pub(crate) fn range(&self) -> VaRange {
        VaRange { start: Va(self.start.load(Relaxed)), end: Va(self.end.load(Relaxed)) }
    }

    /// The same, unseen by the lab: for checks by who keeps the VMA from changing.
    pub(crate) fn covered_at_rest(&self) -> VaRange {
        VaRange { start: Va(self.start.peek()), end: Va(self.end.peek()) }
    }

    /// First byte.
    #[inline]
    pub(crate) fn start(&self) -> Va {
        Va(self.start.load(Relaxed))
    }

    /// One past the last byte.
    #[inline]
    pub(crate) fn end(&self) -> Va {
        Va(self.end.load(Relaxed))
    }

    /// Page index of the first page.
    #[inline]
    pub(crate) fn pgoff(&self) -> u64 {
        self.pgoff.load(Relaxed)
    }

    pub(super) fn set_range(&self, range: VaRange, pgoff: u64) {
        self.start.store(range.start.0, Relaxed);
        self.end.store(range.end.0, Relaxed);
        self.pgoff.store(pgoff, Relaxed);
    }

    /// Its attributes.
    #[inline]
    pub(crate) fn flags(&self) -> VmFlags {
        VmFlags::from_bits_retain(self.flags.load(Relaxed))
    }

    /// Whether an empty entry is a page of zeroes, and nobody is asked about it.
    #[inline]
    pub(crate) fn is_plain(&self) -> bool {
        self.special.load(Relaxed) == 0
    }

    /// The userfaultfd that it is registered with.
    #[doc(alias = "vm_userfaultfd_ctx")]
    pub(crate) fn uffd(&self) -> Option<UffdId> {
        self.uffd.load(Relaxed).get()
    }

    /// Sets the attributes, the userfaultfd with them. Whether a fault reads them the caller knows.
    pub(super) fn set_flags(&self, flags: VmFlags, uffd: Option<UffdId>) {
        anonmem_hal::debug_check_eq!(
            M,
            flags.intersects(VmFlags::UFFD),
            uffd.is_some(),
            "what is watched is watched by somebody"
        );
        self.flags.store(flags.bits(), Relaxed);
        self.uffd.store(uffd.into(), Relaxed);
        let watched = flags.intersects(VmFlags::UFFD_MISSING | VmFlags::UFFD_MINOR);
        let backed = self.special.load(Relaxed) & BACKED;
        self.special.store(backed | if watched { WATCHED } else { 0 }, Relaxed);
    }

    /// Lets a VMA that nobody knows yet be watched for what `other` is, by `uffd`: if there is one.
    pub(crate) fn watch_as(&self, other: &Self, uffd: Option<UffdId>) {
        if uffd.is_some() {
            self.set_flags(self.flags() | (other.flags() & VmFlags::UFFD), uffd);
        }
    }

    /// What its pages are before anybody writes to them.
    pub(crate) fn backing(&self) -> Backing {
        if let Some(object) = self.shared.load(Relaxed).get() {
            return Backing::Shared(object);
        }
        match NonZeroU64::new(self.source.load(Relaxed)) {
            Some(id) => Backing::Source(SourceId(id)),
            None => Backing::Anonymous,
        }
    }

    /// The linear index of the page at `va`: what a folio's `index` is.
    #[doc(alias = "linear_page_index")]
    #[inline]
    pub(crate) fn index_of(&self, va: Va) -> u64 {
        // Wrapping: a speculative fault may read a start that is another range's, and looks at the version
        // afterwards.
        self.pgoff().wrapping_add(va.0.wrapping_sub(self.start().0) >> PAGE_SHIFT)
    }

    /// The address of the page with linear index `index`, if the VMA covers it.
    #[doc(alias = "vma_address")]
    #[inline]
    pub(crate) fn address_of(&self, index: u64) -> Option<Va> {
        let page = index.checked_sub(self.pgoff())?;
        let va = Va(self.start().0.checked_add(page << PAGE_SHIFT)?);
        (va < self.end()).then_some(va)
    }

    /// Where linear index `index` would be if the VMA had all indices. Addresses wrap around.
    #[inline]
    pub(crate) fn address_or_before(&self, index: u64) -> Va {
        Va(self.start().0.wrapping_add(index.wrapping_sub(self.pgoff()) << PAGE_SHIFT))
    }

    /// The addresses of the `pages` pages from linear index `first` on, as far as the VMA covers them.
    pub(crate) fn addresses_of(&self, first: u64, pages: u64) -> Option<VaRange> {
        let pgoff = self.pgoff();
        let from = self.address_of(first.max(pgoff))?;
        let len = (first + pages).checked_sub(first.max(pgoff)).filter(|&len| len > 0)?;
        Some(VaRange { start: from, end: from.page_after(len).min(self.end()) })
    }

    /// The hardware's permissions for a page that may be written without asking.
    #[doc(alias = "vm_page_prot")]
    #[inline]
    pub(crate) fn protection(&self) -> Protection {
        self.flags().protection()
    }

    /// The anon_vma that new pages of this VMA belong to, if it has one yet.
    #[inline]
    pub(crate) fn anon_vma(&self) -> Option<AnonVmaId> {
        // Acquire pairs with the Release with which `anon_vma_prepare` publishes it.
        self.anon_vma.load(Ordering::Acquire).get()
    }

    pub(crate) fn set_anon_vma(&self, anon_vma: Option<AnonVmaId>) {
        // Release pairs with the Acquire of `anon_vma`.
        self.anon_vma.store(anon_vma.into(), Ordering::Release);
    }

    /// Sets the anon_vma if there is none; returns whether it did.
    pub(crate) fn try_set_anon_vma(&self, anon_vma: AnonVmaId) -> bool {
        // Release pairs with the Acquire of `anon_vma`.
        self.anon_vma.compare_exchange(Link::NONE, anon_vma.into(), Ordering::AcqRel).is_ok()
    }

    pub(crate) fn chains(&self) -> Link<ChainTag> {
        self.chains.get()
    }

    pub(crate) fn set_chains(&self, first: Link<ChainTag>) {
        self.chains.set(first);
    }

    pub(crate) fn next_detached(&self) -> Link<VmaTag> {
        self.next_detached.get()
    }

    pub(crate) fn set_next_detached(&self, next: Link<VmaTag>) {
        self.next_detached.set(next);
    }

    /// Forgets what it was, before its slot is freed.
    pub(crate) fn retire(&self) {
        anonmem_hal::debug_check!(M, !self.lock.is_attached(), "a VMA freed while a tree has it");
        anonmem_hal::debug_check!(
            M,
            self.anon_vma().is_none() && self.chains() == Link::NONE,
            "a VMA freed while linked"
        );
        self.mm.store(Link::NONE, Relaxed);
    }
}

pub(super) const WRITER: u32 = 1 << 30;

/// The words of a VMA's lock.
pub(crate) struct VmaLock<M> {
    pub(super) refcount: Atomic<u32, M>,
    pub(super) seq: Atomic<u64, M>,
    pub(super) version: Atomic<u64, M>,
    pub(super) writer: WaitQueue<M>,
}

impl<M: Machine> VmaLock<M> {
    pub(super) const fn new() -> Self {
        Self {
            refcount: Atomic::new(0),
            seq: Atomic::new(0),
            version: Atomic::new(0),
            writer: WaitQueue::new(),
        }
    }

    /// Whether a tree has it.
    pub(crate) fn is_attached(&self) -> bool {
        self.refcount.load(Ordering::Relaxed) & !WRITER != 0
    }

    /// The number of write locks that the slot has seen.
    pub(crate) fn version(&self) -> u64 {
        // Acquire pairs with the Release in `start_write`: with a new version comes its `seq`.
        self.version.load(Ordering::Acquire)
    }

    /// Whether a writer of `slot` has it.
    pub(crate) fn is_write_locked(&self, slot: &MmSlot<M>) -> bool {
        // The mm's sequence is loaded with Acquire: if it has moved on, what the writer wrote is seen.
        self.seq.load(Ordering::Relaxed) == slot.lock_seq()
    }

    /// Whether a writer has it, or has had it, in the section of the address space that `seq` is of or in a
    /// later one. If not, the section that made the version that was read is over, and all that it wrote is
    /// seen: `seq` was loaded before the version, with Acquire.
    pub(crate) fn was_write_locked_since(&self, seq: u64) -> bool {
        self.seq.load(Ordering::Relaxed) >= seq
    }

    /// Writers exclude one another, so a load and a store will do.
    pub(crate) fn next_version(&self) {
        let next = self.version.load(Ordering::Relaxed) + 1;
        // Release pairs with the Acquire of `version`.
        self.version.store(next, Ordering::Release);
        // What the writer changes comes after the version: pairs with the check of a speculative fault,
        // which looks at the version after whatever it read.
        fence::<M>(Ordering::Release);
    }

    pub(super) fn put(&self) {
        // Release pairs with the Acquire of the writer that waits: our section is over.
        if self.refcount.fetch_sub(1, Ordering::Release) & WRITER != 0 {
            self.writer.wake_all();
        }
    }
}

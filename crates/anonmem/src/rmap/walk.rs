//! Walking all mappings of a folio.
//!
//! Linux: mm/rmap.c `rmap_walk_anon`, `folio_referenced`; mm/page_vma_mapped.c `page_vma_mapped_walk`.

use crate::{
    ids::VmaId,
    mm::slot::MmSlot,
    objects::Objects,
    rmap::{anon_vma::AnonVmaReadGuard, folio::folio_lock_anon_vma_read},
};
use anonmem_frame::Folio;
use anonmem_hal::{Machine, PAGE_SIZE, Pfn, Present, Pte, SoftLeaf, Va, VaRange};
use anonmem_pgtable::{Mapped, PteGuard};
use core::ops::{ControlFlow, RangeInclusive};

/// Mappings of consecutive pages that a walk met in one table, which is locked: a [`Batch`](anonmem_pgtable::Batch) of the folio's.
pub struct RmapHit<'a, 'v, M: Machine> {
    /// The VMA that maps the page.
    pub vma: VmaId,
    /// Where the first one is.
    pub va: Va,
    /// Its page: one of the folio's.
    pub page: Pfn,
    /// How many pages from there on are mapped.
    pub pages: u64,
    /// The address space.
    pub(crate) slot: &'v MmSlot<M>,
    /// The table that the entry is in, locked. An rmap lock lets it be changed and cleared, not filled.
    pub entries: PteGuard<'a, M, AnonVmaReadGuard<'v, M>>,
}

/// Calls `f` for every batch of entries that map pages of `folio`, until it breaks.
///
/// Every mapping that exists for the whole walk is met, a page that moves meanwhile (mremap) at least once.
///
/// # Locks
/// The guard is that of the folio's anon_vma. Takes one page-table lock at a time.
pub fn rmap_walk_anon<'v, M: Machine, B>(
    guard: &AnonVmaReadGuard<'v, M>,
    folio: Folio<'_, M>,
    f: impl FnMut(RmapHit<'_, 'v, M>) -> ControlFlow<B>,
) -> ControlFlow<B> {
    walk(guard, folio, Form::Present, f)
}

/// Calls `f` for every migration entry that holds a page of `folio`, until it breaks.
///
/// # Locks
/// As [`rmap_walk_anon`].
#[doc(alias = "PVMW_MIGRATION")]
pub(crate) fn rmap_walk_migrating<'v, M: Machine, B>(
    guard: &AnonVmaReadGuard<'v, M>,
    folio: Folio<'_, M>,
    f: impl FnMut(RmapHit<'_, 'v, M>) -> ControlFlow<B>,
) -> ControlFlow<B> {
    walk(guard, folio, Form::Migration, f)
}

/// The entries that a walk is for.
#[derive(Clone, Copy)]
enum Form {
    /// Those that map a page.
    Present,
    /// Those that wait for a page to arrive somewhere else.
    Migration,
}

impl Form {
    /// The page that an entry of this form owns a count of.
    #[inline(always)]
    fn page(self, pte: Pte) -> Option<Pfn> {
        match (self, pte) {
            (Self::Present, Pte::Present(present)) => (!present.special).then_some(present.pfn),
            (Self::Migration, Pte::Soft(SoftLeaf::Migration { pfn, .. })) => Some(pfn),
            (Self::Present | Self::Migration, Pte::None | Pte::Present(_) | Pte::Soft(_)) => None,
        }
    }
}

#[inline]
fn walk<'v, M: Machine, B>(
    guard: &AnonVmaReadGuard<'v, M>,
    folio: Folio<'_, M>,
    form: Form,
    mut f: impl FnMut(RmapHit<'_, 'v, M>) -> ControlFlow<B>,
) -> ControlFlow<B> {
    let objects = guard.objects();
    let first = folio.index();
    let last = first + folio.nr_pages().0 - 1;
    let tree = objects.anon_vma(guard.anon_vma()).tree();
    let mut at = tree.first_overlap(objects, first, last);
    while let Some(chain) = at {
        let id = objects.chain(chain).vma();
        let mut index = first;
        while index <= last {
            let hit = find_mapping(objects, guard, id, folio, index..=last, form);
            index += hit.as_ref().map_or(1, |hit| hit.pages);
            if let Some(hit) = hit {
                f(hit)?;
            }
        }
        at = tree.next_overlap(objects, chain, first, last);
    }
    ControlFlow::Continue(())
}

/// The entries of VMA `id` from the first page of `indexes` on, if they map `folio`, whose last page is the last of those.
#[doc(alias = "page_vma_mapped_walk")]
fn find_mapping<'a, 'v, M: Machine>(
    objects: &'v Objects<M>,
    guard: &'a AnonVmaReadGuard<'v, M>,
    id: VmaId,
    folio: Folio<'_, M>,
    indexes: RangeInclusive<u64>,
    form: Form,
) -> Option<RmapHit<'a, 'v, M>> {
    let vma = objects.vma(id);
    let va = vma.address_of(*indexes.start())?;
    let slot = objects.mm_slot(vma.mm()?);
    let table = slot.space.walk(&objects.frames, guard, va)?;
    let maps = |pte| form.page(pte).filter(|&page| objects.frames.folio(page) == Some(folio));
    // Without the lock first: most of a family's VMAs do not map the page.
    maps(table.peek(va))?;
    let entries = table.lock();
    let page = maps(entries.get(va))?;
    let pages = match form {
        Form::Present if indexes.start() != indexes.end() => {
            entries.batch(VaRange { start: va, end: vma.end() }).map_or(1, |batch| batch.pages())
        }
        Form::Present | Form::Migration => 1,
    };
    Some(RmapHit { vma: id, va, page, pages, slot, entries })
}

/// What `folio_referenced` found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Referenced {
    /// Entries that were accessed since last asked.
    pub young: u64,
    /// Entries in all.
    pub mappings: u64,
    /// Whether a locked VMA maps it.
    pub locked: bool,
}

/// Pages of a table that a walk looks at together. Linux: `MIN_LRU_BATCH`.
const LOOK_AROUND: u64 = 64;

/// Counts the mappings through which the folio was accessed since it was last asked, and clears their accessed
/// bits. The TLB is not flushed: a stale "accessed" costs precision and nothing else.
///
/// # Locks
/// The caller has a reference to the folio; its lock is not needed.
pub fn folio_referenced<M: Machine>(objects: &Objects<M>, folio: Folio<'_, M>) -> Referenced {
    let mut found = Referenced::default();
    let Some(guard) = folio_lock_anon_vma_read(objects, folio) else { return found };
    let _ = rmap_walk_anon(&guard, folio, |mut hit| {
        found.mappings += hit.pages;
        let young =
            (0..hit.pages).filter(|&i| hit.entries.test_and_clear_young(hit.va.page_after(i))).count();
        if young > 0 {
            found.young += young as u64;
            hit.look_around();
        }
        found.locked |= objects.vma(hit.vma).flags().contains(crate::vma::VmFlags::LOCKED);
        ControlFlow::<()>::Continue(())
    });
    found
}

impl<M: Machine> RmapHit<'_, '_, M> {
    /// Takes the accessed bits of the entries around, whose table is locked already, and notes them at their folios: pages that lie
    /// together are used together, and reclaim need not walk to each of them.
    #[doc(alias = "lru_gen_look_around")]
    fn look_around(&mut self) {
        let window = LOOK_AROUND * PAGE_SIZE as u64;
        let start = Va(self.va.0 - self.va.0 % window);
        let around = VaRange { start, end: Va(start.0 + window) };
        let Some(inside) = around.intersect(self.entries.table().range()) else { return };
        for va in inside.iter_pages() {
            match self.entries.mapped(va) {
                Mapped::Exclusive(page, Present { young: true, .. }) => page.folio().set_referenced(),
                Mapped::Shared(page, Present { young: true, .. }) => page.folio().set_referenced(),
                Mapped::Exclusive(..) | Mapped::Shared(..) | Mapped::None | Mapped::Zero(_) => continue,
                Mapped::Shm(_) | Mapped::Swap(..) | Mapped::Migration(..) | Mapped::Marker(_) => continue,
            }
            self.entries.test_and_clear_young(va);
        }
    }

    /// The number of mapped pages of the address space that has it.
    pub fn mm_rss(&self) -> u64 {
        self.slot.rss()
    }
}

//! One entry that a walk of the reverse map meets, whatever the back end.
//!
//! Linux: mm/page_vma_mapped.c `page_vma_mapped_walk`.

use crate::{ids::VmaId, mm::slot::MmSlot, objects::Objects};
use anonmem_frame::{Folio, FolioOwner};
use anonmem_hal::{Machine, PAGE_SIZE, Pfn, Present, Pte, SoftLeaf, Va, VaRange};
use anonmem_pgtable::{Mapped, PteGuard, StableVma};

/// Mappings of consecutive pages that a walk met in one table, which is locked: a
/// [`Batch`](anonmem_pgtable::Batch) of the folio's.
pub struct RmapHit<'a, 'v, M: Machine, G> {
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
    pub entries: PteGuard<'a, M, G>,
}

/// The entries that a walk is for.
#[derive(Clone, Copy)]
pub(crate) enum Form {
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

/// The entries of VMA `id` from page `index` on, if they map `folio`, whose last page is `last`.
#[doc(alias = "page_vma_mapped_walk")]
pub(super) fn find_mapping<'a, 'v: 'a, M: Machine, G: StableVma<M>>(
    objects: &'v Objects<M>,
    guard: &'a G,
    id: VmaId,
    folio: Folio<'_, M>,
    (index, last): (u64, u64),
    form: Form,
) -> Option<RmapHit<'a, 'v, M, G>> {
    let vma = objects.vma(id);
    let va = vma.address_of(index)?;
    let slot = objects.mm_slot(vma.mm()?);
    let table = slot.space.walk(&objects.frames, guard, va)?;
    // All of it is of these frames: the first one names the folio.
    let is_of = |found: Option<Folio<'_, M>>| found.is_some_and(|found| found.pfn() == folio.pfn());
    let maps = |pte| form.page(pte).filter(|&page| is_of(objects.frames.folio(page)));
    // Without the lock first: most of a family's VMAs do not map the page.
    maps(table.peek(va))?;
    let entries = table.lock();
    let page = maps(entries.get(va))?;
    let pages = match form {
        Form::Present if index != last => {
            entries.batch(VaRange { start: va, end: vma.end() }).map_or(1, |batch| batch.pages())
        }
        Form::Present | Form::Migration => 1,
    };
    Some(RmapHit { vma: id, va, page, pages, slot, entries })
}

/// Pages of a table that a walk looks at together. Linux: `MIN_LRU_BATCH`.
const LOOK_AROUND: u64 = 64;

impl<M: Machine, G: StableVma<M>> RmapHit<'_, '_, M, G> {
    /// Takes the accessed bits of the entries around, whose table is locked already, and notes them at their
    /// folios: pages that lie together are used together, and reclaim need not walk to each of them.
    #[doc(alias = "lru_gen_look_around")]
    pub(super) fn look_around(&mut self) {
        let window = LOOK_AROUND * PAGE_SIZE as u64;
        let start = Va(self.va.0 - self.va.0 % window);
        let around = VaRange { start, end: Va(start.0 + window) };
        let Some(inside) = around.intersect(self.entries.table().range()) else { return };
        for va in inside.iter_pages() {
            match self.entries.mapped(va) {
                Mapped::Exclusive(page, Present { young: true, .. }) => page.set_referenced(),
                Mapped::Shared(page, Present { young: true, .. }) => page.set_referenced(),
                Mapped::Exclusive(..) | Mapped::Shared(..) | Mapped::None | Mapped::Zero(_) => continue,
                Mapped::Shm(_) | Mapped::Swap(..) | Mapped::Migration(..) | Mapped::Marker(_) => continue,
            }
            self.entries.test_and_clear_young(va);
        }
    }
}

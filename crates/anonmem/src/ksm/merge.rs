//! Merging: a page's entries get an equal page, and its frame is free.
//!
//! ```text
//!   the scanner                                      everybody else
//!   ───────────                                      ──────────────
//!   two pages whose bytes are equal, locked
//!   entries: present ──▶ migration entry             a fault on one waits, and holds no count meanwhile
//!     exclusive: try_share, or the page stays a pin, GUP-fast's too, is seen, or sees the entry gone
//!   one flush                                        no CPU can write to either page any more
//!   asks the counts                                  whoever had one of them has a reference: it stays
//!   compares the bytes, the second time              what was written in between is seen
//!   entries: migration entry ──▶ the one page,       a write copies it, always
//!     read-only and shared
//!   unlocks, puts the other page                     its frame is free
//! ```
//!
//! If anything is not as it must be, the entries get back what they had, exclusive and writable as it was.
//!
//! The first two equal pages become one by making one of them a stable node's: it stays in its frame. Later
//! ones only lose theirs. A page of zeroes is given up for the zero page, which owns nothing.
//!
//! Linux: mm/ksm.c `try_to_merge_one_page`, `write_protect_page`, `replace_page`. Differs: stands on
//! migration, so that an entry changes twice and is flushed once. All mappings of a page are merged together,
//! or none.

use super::{node::MergedAt, stable::Stable};
use crate::{
    ids::VmaId,
    migrate::{Waiting, follow, put_back, restore, try_to_migrate},
    rmap::machine::Machine,
    vm::Vm,
    vma::flags::VmFlags,
};
use anonmem_frame::{FolioGuard, FolioOwner, FolioRef, Mapping};
use anonmem_hal::{MigrationBits, Protection};
use anonmem_pgtable::{Attrs, TlbBatch};
use core::ops::ControlFlow;

/// A page that may be merged, locked.
pub(super) struct Candidate<'v, M: Machine> {
    // In this order: the lock is let go of before the reference.
    pub(super) lock: FolioGuard<'v, M>,
    pub(super) page: FolioRef<'v, M>,
    /// Where its mappers are found.
    pub(super) place: MergedAt,
    pub(super) domain: u64,
}

/// Nothing was merged, and everything is as it was.
pub(super) struct NotMerged;

impl<M: Machine> Vm<M> {
    /// Gives the entries of `page` the page of a stable node.
    #[doc(alias = "try_to_merge_with_ksm_page")]
    pub(super) fn merge_into(&self, page: Candidate<'_, M>, stable: Stable<'_, M>) -> Result<(), NotMerged> {
        let kept = stable.page.try_lock().ok_or(NotMerged)?;
        let (nodes, most) = (self.stable_nodes(), u64::from(self.ksm.settings.get().max_page_sharing));
        let node = nodes.get(stable.id);
        let same = kept.folio().mapping() == Mapping::Ksm(stable.id.raw())
            && node.frame() == Some(stable.page.pfn())
            && node.left().is_none();
        // A page that swap has, or that nobody maps any more, is on its way out.
        let stays = kept.folio().swap_entry().is_none() && (1..most).contains(&kept.folio().counts().maps());
        if !same || !stays {
            return Err(NotMerged);
        }
        nodes.add_place(stable.id, page.place).map_err(|_| NotMerged)?;
        self.take_from_entries(&[&page])?;
        if !self.machine().same_bytes(page.page.pfn(), kept.folio().pfn()) {
            restore(self, &page.lock);
            return Err(NotMerged);
        }
        give_to_entries(self, &page, &kept);
        Ok(())
    }

    /// Makes `other` a stable node's page, and gives it to the entries of `page`, too.
    #[doc(alias = "try_to_merge_two_pages")]
    pub(super) fn merge_two(
        &self,
        page: Candidate<'_, M>,
        other: Candidate<'_, M>,
        hash: u64,
    ) -> Result<(), NotMerged> {
        let nodes = self.stable_nodes();
        let id = self.stable_nodes.alloc(&self.frames).map_err(|_| NotMerged)?;
        nodes.get(id).init(other.page.pfn(), (hash, other.domain), other.place);
        let ready = nodes.add_place(id, page.place).map_err(|_| NotMerged);
        let taken = ready.and_then(|()| self.take_from_entries(&[&page, &other]));
        if let Err(e) = taken {
            nodes.free(id);
            return Err(e);
        }
        if !self.machine().same_bytes(page.page.pfn(), other.page.pfn()) {
            restore(self, &page.lock);
            restore(self, &other.lock);
            nodes.free(id);
            return Err(NotMerged);
        }
        other.lock.clear_lazyfree();
        other.lock.give_to_node(id.raw());
        self.ksm.add_stable(nodes, id);
        follow(self, &other.lock, |Waiting { vacancy, hold, bits, vma, .. }| {
            vacancy.fill(hold.release(), says(bits, vma));
        });
        give_to_entries(self, &page, &other.lock);
        Ok(())
    }

    /// Gives the entries of a page of zeroes the zero page.
    #[doc(alias = "map_zero_page")]
    pub(super) fn merge_with_zero_page(&self, page: Candidate<'_, M>) -> Result<(), NotMerged> {
        self.take_from_entries(&[&page])?;
        if !self.machine().same_bytes(page.page.pfn(), self.frames.zero_page()) {
            restore(self, &page.lock);
            return Err(NotMerged);
        }
        follow(self, &page.lock, |Waiting { vacancy, hold, bits, vma, slot }| {
            vacancy.fill_zero(says(bits, vma));
            drop(hold.unmap());
            self.add_anon(slot, -1);
        });
        Ok(())
    }

    /// Takes the pages from all of their entries, which wait, and makes every CPU forget them. From now on
    /// nobody can write to them; what was written is there.
    fn take_from_entries(&self, pages: &[&Candidate<'_, M>]) -> Result<(), NotMerged> {
        let mut tlb = TlbBatch::new(&self.frames);
        let still_agrees = |vma: VmaId| match self.vma(vma).flags().contains(VmFlags::MERGEABLE) {
            true => ControlFlow::Continue(()),
            // Under the page-table lock: who takes the consent back comes by afterwards, and breaks what was
            // merged, or has come by already, and is seen here.
            false => ControlFlow::Break(()),
        };
        let taken =
            pages.iter().all(|page| try_to_migrate(self, &page.lock, &mut tlb, still_agrees).is_continue());
        tlb.flush();
        // A page that is exclusive still has an entry that the walk missed, because its VMA is just going: it
        // may be written.
        let ours = |page: &&Candidate<'_, M>| {
            page.lock.is_referenced_only(1) && !page.lock.folio().counts().is_exclusive()
        };
        if taken && pages.iter().all(ours) {
            return Ok(());
        }
        pages.iter().for_each(|page| restore(self, &page.lock));
        Err(NotMerged)
    }
}

/// Gives the entries that wait for `page` the page `kept` instead.
fn give_to_entries<M: Machine>(vm: &Vm<M>, page: &Candidate<'_, M>, kept: &FolioGuard<'_, M>) {
    // One who had marked it to be freed lazily has dropped no more than his own.
    kept.clear_lazyfree();
    follow(vm, &page.lock, |Waiting { vacancy, hold, bits, vma, .. }| match hold.arrive(kept) {
        Ok((map, _old)) => vacancy.fill(map, says(bits, vma)),
        // As many have it as can be counted: this one keeps its own.
        Err(hold) => put_back(vacancy, hold, bits, vma),
    });
}

/// What an entry says of a merged page. Dirty: memory is the only place that has it, and whoever shares it
/// relies on it.
fn says(bits: MigrationBits, vma: Protection) -> Attrs {
    let attrs = Attrs::of(bits.into(), vma);
    Attrs { prot: attrs.prot.write_protected(), dirty: true, ..attrs }
}

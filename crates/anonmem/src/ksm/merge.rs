//! Merging: a page's entries get an equal page, and its frame is free.
//!
//! ```text
//!   the scanner                                      everybody else
//!   ───────────                                      ──────────────
//!   two pages whose bytes are equal, locked
//!   entries: present ──▶ migration entry             a fault on one waits, and holds no count meanwhile
//!     exclusive: try_share, or the page stays a pin, GUP-fast's too, is seen, or sees the entry gone
//!   one flush, for several pairs                     no CPU can write to either page any more
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
//! A large folio is merged in the same way with one of its size. All pages are compared, and all entries are
//! exchanged, under one lock and one flush. The one that is kept stays as large as it is.
//!
//! Linux: mm/ksm.c `try_to_merge_one_page`, `write_protect_page`, `replace_page`. Differs: stands on
//! migration, so that an entry changes twice and is flushed once. All mappings of a page are merged together,
//! or none.

use super::{
    node::MergedAt,
    stable::{Stable, sharers},
};
use crate::{
    ids::VmaId,
    migrate::{Says, Waiting, follow, follow_large, put_back, restore, try_to_migrate},
    rmap::machine::Machine,
    vm::Vm,
    vma::flags::VmFlags,
};
use anonmem_frame::{Folio, FolioGuard, FolioOwner, FolioRef};
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

impl<'v, M: Machine> Candidate<'v, M> {
    /// Lets go of the lock, and not of the page.
    pub(super) fn unlock(self) -> FolioRef<'v, M> {
        drop(self.lock);
        self.page
    }
}

/// What an entry gets instead of its page.
pub(super) enum Equal<'v, M: Machine> {
    /// The zero page.
    Zero,
    /// The page of a stable node.
    Stable(Stable<'v, M>),
    /// Another page, which becomes that of one.
    Other(Candidate<'v, M>),
}

/// A page that is about to be merged.
pub(super) struct Pending<'v, M: Machine> {
    pub(super) page: Candidate<'v, M>,
    pub(super) hash: u64,
    pub(super) equal: Equal<'v, M>,
}

impl<'v, M: Machine> Pending<'v, M> {
    /// The pages that are taken from their entries: both of two, of which one becomes a stable node's.
    pub(super) fn taken(&self) -> impl Iterator<Item = &Candidate<'v, M>> {
        let other = match &self.equal {
            Equal::Other(other) => Some(other),
            Equal::Zero | Equal::Stable(_) => None,
        };
        core::iter::once(&self.page).chain(other)
    }
}

/// Nothing was merged, and everything is as it was.
pub(super) struct NotMerged;

impl<M: Machine> Vm<M> {
    /// Takes the pages from all of their entries, which wait; `false` if one of them stays, so that all must
    /// be put back. CPUs may still write to them until `tlb` is flushed.
    pub(super) fn take_from_entries<'v>(
        &'v self,
        pending: &Pending<'v, M>,
        tlb: &mut TlbBatch<'v, M>,
    ) -> bool {
        let still_agrees = |vma: VmaId| match self.vma(vma).flags().contains(VmFlags::MERGEABLE) {
            true => ControlFlow::Continue(()),
            // Under the page-table lock: who takes the consent back comes by afterwards, and breaks what was
            // merged, or has come by already, and is seen here.
            false => ControlFlow::Break(()),
        };
        pending.taken().all(|page| try_to_migrate(self, &page.lock, tlb, still_agrees).is_continue())
    }

    /// Gives the entries of `page` the page of a stable node, if they were `taken`.
    #[doc(alias = "try_to_merge_with_ksm_page")]
    pub(super) fn merge_into(
        &self,
        page: Candidate<'_, M>,
        stable: Stable<'_, M>,
        taken: bool,
    ) -> Result<(), NotMerged> {
        let kept = stable.page.try_lock().filter(|kept| taken && self.takes(kept, &stable, &page));
        match kept {
            Some(kept) if nobody_uses(&page) && self.has_bytes_of(&page, kept.folio()) => {
                give_to_entries(self, &page, &kept);
                Ok(())
            }
            _ => self.put_all_back(&[&page]),
        }
    }

    /// Whether the page of a stable node, which is locked, is still that, and takes one more; its node has
    /// the place of that one then.
    fn takes(&self, kept: &FolioGuard<'_, M>, stable: &Stable<'_, M>, page: &Candidate<'_, M>) -> bool {
        let (nodes, most) = (self.stable_nodes(), u64::from(self.ksm.settings.get().max_page_sharing));
        let same = self.is_locked_page_of(kept, stable.id);
        // A page that swap has, or that nobody maps any more, is on its way out.
        let stays = kept.folio().swap_entry().is_none() && (1..most).contains(&sharers(kept.folio()));
        same && stays && self.ksm.add_place(nodes, stable.id, page.place).is_ok()
    }

    /// Makes `other` a stable node's page, and gives it to the entries of `page`, too, if both were `taken`.
    #[doc(alias = "try_to_merge_two_pages")]
    pub(super) fn merge_two(
        &self,
        page: Candidate<'_, M>,
        other: Candidate<'_, M>,
        hash: u64,
        taken: bool,
    ) -> Result<(), NotMerged> {
        let nodes = self.stable_nodes();
        let unused = taken && nobody_uses(&page) && nobody_uses(&other);
        if !unused || !self.has_bytes_of(&page, other.page.folio()) {
            return self.put_all_back(&[&page, &other]);
        }
        let Ok(id) = self.stable_nodes.alloc(&self.frames) else {
            return self.put_all_back(&[&page, &other]);
        };
        nodes.get(id).init(other.page.pfn(), (hash, other.domain), other.place);
        if self.ksm.add_place(nodes, id, page.place).is_err() {
            self.ksm.free_node(nodes, id);
            return self.put_all_back(&[&page, &other]);
        }
        other.lock.clear_lazyfree();
        other.lock.give_to_node(id.raw());
        self.ksm.add_stable(nodes, id);
        if other.page.folio().is_large() {
            follow_large(self, &other.lock, None, Says::Merged);
        } else {
            follow(self, &other.lock, |Waiting { vacancy, hold, bits, vma, .. }| {
                vacancy.fill(hold.release(), says(bits, vma));
            });
        }
        give_to_entries(self, &page, &other.lock);
        Ok(())
    }

    /// Gives the entries of a page of zeroes the zero page, if they were `taken`.
    #[doc(alias = "map_zero_page")]
    pub(super) fn merge_with_zero_page(&self, page: Candidate<'_, M>, taken: bool) -> Result<(), NotMerged> {
        if !taken || !nobody_uses(&page) || !self.is_zero(&page) {
            return self.put_all_back(&[&page]);
        }
        follow(self, &page.lock, |Waiting { vacancy, hold, bits, vma, slot }| {
            vacancy.fill_zero(says(bits, vma));
            drop(hold.unmap());
            self.add_anon(slot, -1);
        });
        Ok(())
    }

    /// Whether a page that nobody can write to any more has the bytes of `other`: what was written before is
    /// seen here.
    fn has_bytes_of(&self, page: &Candidate<'_, M>, other: Folio<'_, M>) -> bool {
        self.same_folios(page.page.folio(), other)
    }

    /// The same of the zero page.
    fn is_zero(&self, page: &Candidate<'_, M>) -> bool {
        self.machine().same_bytes(page.page.pfn(), self.frames.zero_page())
    }

    /// Gives the entries of pages that are not merged back what they had.
    fn put_all_back(&self, pages: &[&Candidate<'_, M>]) -> Result<(), NotMerged> {
        pages.iter().for_each(|page| restore(self, &page.lock));
        Err(NotMerged)
    }
}

/// Whether a page whose entries were taken, and forgotten by every CPU, is used by nobody else. One that is
/// exclusive still has an entry that the walk missed, because its VMA is just going: it may be written.
fn nobody_uses<M: Machine>(page: &Candidate<'_, M>) -> bool {
    page.lock.is_referenced_only(1) && !page.lock.has_exclusive()
}

/// Gives the entries that wait for `page` the page `kept` instead.
fn give_to_entries<M: Machine>(vm: &Vm<M>, page: &Candidate<'_, M>, kept: &FolioGuard<'_, M>) {
    // One who had marked it to be freed lazily has dropped no more than his own.
    kept.clear_lazyfree();
    if kept.folio().is_large() {
        return follow_large(vm, &page.lock, Some(kept), Says::Merged);
    }
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

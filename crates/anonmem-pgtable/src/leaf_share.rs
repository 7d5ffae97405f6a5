//! Sharing a leaf with a child: one entry, one table more, one addition to one word.
//!
//! Linux: mm/huge_memory.c `copy_huge_pmd`.

use crate::{
    deposit::Deposit,
    leaf::{LeafGuard, LeafVacancy},
    owned_leaf::MappedLeaf,
    space::{CanInstall, StableVma},
};
use anonmem_frame::{DupError, SharedWhole, TooManySharers, try_dup_whole};
use anonmem_hal::{Entry, Machine, MigrationBits, Present};

impl<'a, M: Machine, G: StableVma<M>> LeafGuard<'a, M, G> {
    /// Shares the folio with the child's empty place for the same addresses: fork. Both leaves are shared and
    /// without write permission from now on; the child's is not yet accessed. The caller owes the parent's
    /// TLBs a flush.
    ///
    /// # Errors
    /// Why the folio is not shared. Nothing has changed: the leaf may be split, and its pages shared or
    /// copied.
    #[doc(alias = "copy_huge_pmd")]
    pub fn share_with<H: CanInstall<M>>(
        &mut self,
        child: LeafVacancy<'a, M, H>,
        kept: Deposit<'a, M>,
    ) -> Result<(), DupError> {
        let (head, leaf) = match self.mapped() {
            MappedLeaf::Exclusive(folio, leaf) => (folio.pfn(), leaf),
            MappedLeaf::Shared(folio, leaf) => (folio.pfn(), leaf),
            MappedLeaf::Migration(hold, bits) => {
                let hold = hold.try_dup().map_err(|TooManySharers| DupError::TooManySharers)?;
                let shared = bits.shared();
                let pfn = hold.pfn();
                drop(child.fill(hold, MigrationBits { young: false, uffd_wp: false, ..shared }, kept));
                self.store(Entry::Migration { pfn, bits: shared });
                return Ok(());
            }
        };
        // SAFETY: the leaf, whose lock is held, owns mappings of the folio.
        unsafe { try_dup_whole(self.frames(), head) }?;
        // SAFETY: the mappings that were just added are the child's leaf's to own.
        let folio = unsafe { SharedWhole::from_entry(self.frames(), head) };
        self.write_protect();
        // What the hardware has set until now is not what the child did.
        drop(child.fill(folio, Present::inherited(leaf).into(), kept));
        Ok(())
    }
}

//! What a sealed mapping refuses: to be taken away, changed, or emptied where no store could do it.
//!
//! `mseal.rs` has the call, and says what Linux calls this.

use crate::{error::Error, mm::mmap_lock::MmapWriteGuard, rmap::machine::Machine, vma::flags::VmFlags};
use anonmem_hal::VaRange;

/// The refusal.
const SEALED: Error = Error::NotPermitted;

impl<M: Machine> MmapWriteGuard<'_, M> {
    /// Refuses to take away what is sealed in `range`. Most address spaces have nothing sealed, and pay a
    /// load.
    ///
    /// # Errors
    /// [`Error::NotPermitted`].
    pub(crate) fn check_not_sealed(&self, range: VaRange) -> Result<(), Error> {
        if !self.slot().has_sealed() {
            return Ok(());
        }
        let tree = &self.slot().tree;
        let mut vmas = tree.cursor(range);
        while let Some((_, id)) = vmas.next(tree, self.objects.nodes()) {
            if self.objects.vma(id).flags().contains(VmFlags::SEALED) {
                return Err(SEALED);
            }
        }
        Ok(())
    }
}

impl VmFlags {
    /// Refuses to change the mapping.
    ///
    /// # Errors
    /// [`Error::NotPermitted`] if it is sealed.
    pub(crate) fn check_unsealed(self) -> Result<(), Error> {
        if self.contains(Self::SEALED) { Err(SEALED) } else { Ok(()) }
    }

    /// Refuses to drop what the mapping holds, now or in a child, unless a store could do as much.
    ///
    /// # Errors
    /// [`Error::NotPermitted`] if it is sealed and not writable.
    #[doc(alias = "can_modify_vma_madv")]
    pub(crate) fn check_droppable(self) -> Result<(), Error> {
        if self.contains(Self::WRITE) { Ok(()) } else { self.check_unsealed() }
    }
}

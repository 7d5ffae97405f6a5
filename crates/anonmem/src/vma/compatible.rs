//! Whether two VMAs that touch are alike.
//!
//! Linux: mm/vma.c `anon_vma_compatible`.

use super::{flags::VmFlags, vma::Vma};
use anonmem_hal::Machine;

/// Whether `low` and `high`, which touch, are alike but for their access rights: then mprotect may make them
/// mergeable, and it is worth while to give both the same anon_vma.
pub(crate) fn anon_vma_compatible<M: Machine>(low: &Vma<M>, high: &Vma<M>) -> bool {
    let alike =
        |vma: &Vma<M>| (vma.flags().difference(VmFlags::ACCESS.union(VmFlags::SOFT_CLEAN)), vma.uffd());
    low.end() == high.start() && alike(low) == alike(high) && backing_continues(low, high)
}

/// Whether the pages of `high` follow those of `low` in what backs them.
pub(super) fn backing_continues<M: Machine>(low: &Vma<M>, high: &Vma<M>) -> bool {
    low.backing() == high.backing() && low.pgoff() + low.range().pages().0 == high.pgoff()
}

//! When two VMAs may become one.
//!
//! Linux: mm/vma.c `can_vma_merge_before`, `is_mergeable_anon_vma`, `anon_vma_compatible`.

use super::{Backing, Vma};
use anonmem_hal::{Machine, PAGE_SHIFT};

/// Whether `low` and `high`, which touch, are alike but for their access rights: then mprotect may make them mergeable,
/// and it is worth while to give both the same anon_vma.
pub(crate) fn anon_vma_compatible<M: Machine>(low: &Vma<M>, high: &Vma<M>) -> bool {
    let alike = |vma: &Vma<M>| vma.flags().difference(super::VmFlags::ACCESS);
    low.end() == high.start() && alike(low) == alike(high) && backing_continues(low, high)
}

/// Whether the pages of `high` follow those of `low` in what backs them.
pub(crate) fn backing_continues<M: Machine>(low: &Vma<M>, high: &Vma<M>) -> bool {
    let same = match (low.backing(), high.backing()) {
        (Backing::Anonymous, Backing::Anonymous) => true,
        (Backing::Source(a), Backing::Source(b)) => a == b,
        (Backing::Shared(a), Backing::Shared(b)) => a == b,
        (Backing::Anonymous | Backing::Source(_) | Backing::Shared(_), _) => false,
    };
    same && low.pgoff() + (low.range().len() >> PAGE_SHIFT) == high.pgoff()
}

//! Write faults on present, write-protected pages, and pins of pages that others may have.
//!
//! `do_wp_page` either reuses the page (it is ours alone) or copies it; `wp_can_reuse_anon_folio` decides
//! which.
//!
//! Locks: entered with the page-table lock held on the faulting entry. Drops it to allocate and copy. Then
//! the entry is re-checked (`lock_if_same`), and so is what the entry alone cannot say: that the page did not
//! become exclusive meanwhile. An exclusive page is never replaced: somebody may have pinned it, or be
//! writing to it.
//!
//! Who pins a page for reading has its sharing broken like a writer (`FaultAccess::Unshare`), and gets a page
//! of his own that stays read-only. The device must see what the program writes to the page later, and nobody
//! else's stores.
//!
//! Linux: mm/memory.c `do_wp_page`, `wp_page_copy`, `wp_page_reuse`. Differs: no file mappings.

use crate::{
    events::Event,
    fault::{
        huge::{self, Large},
        vm_fault::{FaultAccess, FaultGuard, FaultResult, VmFault},
    },
    rmap::machine::Machine,
    userfaultfd::{context::UffdReason, fault::handle_userfault},
    vma::flags::VmFlags,
};
use anonmem_frame::{FolioOwner, FolioRef, Mapping, SharedRef};
use anonmem_hal::{FlushRange, Pte, VaRange};
use anonmem_pgtable::{Cleared, Mapped, PteGuard};

/// What is to be done about a write to a read-only entry.
enum Verdict<'a, M: Machine> {
    /// Nobody else has the page: make the entry writable.
    Reuse,
    /// It is the zero page: a page of zeroes will do.
    Zero,
    /// Others may have it: copy. The reference keeps it meanwhile, and keeps others from reusing it.
    Copy(FolioRef<'a, M>),
    /// It is a page of a large folio.
    Large,
    /// The entry is no longer what trapped.
    Gone,
}

/// Resolves a write to a page whose entry is present and read-only, in a VMA that allows writing or is forced
/// to; or makes a page that is about to be pinned the entry's own.
pub(super) fn do_wp_page<'a, M: Machine, G: FaultGuard<M>>(
    fault: &VmFault<'a, M, G>,
    mut entries: PteGuard<'a, M, G>,
) -> Result<FaultResult, FaultResult> {
    if is_protected(fault, &entries) {
        if !fault.uffd_is_async() {
            drop(entries);
            return Err(handle_userfault(fault, UffdReason::WriteProtected));
        }
        // Writes end their protection, and nobody is asked.
        entries.clear_uffd_wp(fault.va);
    }
    match judge(fault, &entries) {
        Verdict::Reuse => {
            fault.upgrade(&mut entries);
            // CPUs that keep the read-only translation trap, and find this entry.
            fault.vm.count(Event::FaultCowReuse);
            Ok(FaultResult::Done)
        }
        Verdict::Zero if fault.vm.folio_policy.is_on() => {
            let zero = huge::do_wp_zero(fault, entries)?;
            wp_large(fault, zero)
        }
        Verdict::Zero => wp_page_copy(fault, entries, None),
        Verdict::Copy(old) => wp_page_copy(fault, entries, Some(old)),
        Verdict::Large => {
            let large = huge::do_wp_large(fault, entries)?;
            wp_large(fault, large)
        }
        Verdict::Gone => Err(FaultResult::Reload),
    }
}

/// Whether a userfaultfd has protected what is written against writes.
fn is_protected<'a, M: Machine, G: FaultGuard<M>>(
    fault: &VmFault<'a, M, G>,
    entries: &PteGuard<'a, M, G>,
) -> bool {
    let watched = fault.flags.contains(VmFlags::UFFD_WP) && fault.access == FaultAccess::Write;
    watched && matches!(entries.get(fault.va), Pte::Present(present) if present.uffd_wp)
}

fn judge<'a, M: Machine, G: FaultGuard<M>>(
    fault: &VmFault<'a, M, G>,
    entries: &PteGuard<'a, M, G>,
) -> Verdict<'a, M> {
    match entries.mapped(fault.va) {
        Mapped::Zero(_) => Verdict::Zero,
        // A shared object's page is read-only only until it is written through this entry.
        Mapped::Exclusive(..) | Mapped::Shm(_) => Verdict::Reuse,
        Mapped::Shared(page, _) => {
            if !fault.vm.frames.is_one_page(page.pfn()) {
                Verdict::Large
            } else if page.looks_reusable() && wp_can_reuse_anon_folio(fault, &page) {
                Verdict::Reuse
            } else {
                Verdict::Copy(page.get())
            }
        }
        Mapped::None | Mapped::Swap(..) | Mapped::Migration(..) | Mapped::Marker(_) => Verdict::Gone,
    }
}

/// Makes the page exclusive if this entry is all that is left of its sharers. A page of an ancestor's becomes
/// ours, which takes the folio lock: it may only be tried under a page-table lock; if it is taken, copying is
/// always right.
fn wp_can_reuse_anon_folio<M: Machine, G: FaultGuard<M>>(
    fault: &VmFault<'_, M, G>,
    page: &SharedRef<'_, '_, M>,
) -> bool {
    // A VMA that maps a shared page has an anon_vma; only what was read of it may be older.
    let Some(anon_vma) = fault.anon_vma else { return false };
    if page.reuse_own(anon_vma.raw()) {
        return true;
    }
    let Some(lock) = page.try_lock() else { return false };
    page.reuse(&lock, anon_vma.raw()).is_ok()
}

/// Replaces the page by a copy of our own.
///
/// Other CPUs of this address space may read the old page through a cached translation until the flush; the
/// new entry is installed after it, so that nobody sees the old page once somebody has written the new one.
fn wp_page_copy<'a, M: Machine, G: FaultGuard<M>>(
    fault: &VmFault<'a, M, G>,
    entries: PteGuard<'a, M, G>,
    old: Option<FolioRef<'a, M>>,
) -> Result<FaultResult, FaultResult> {
    let Pte::Present(present) = entries.get(fault.va) else { return Err(FaultResult::Reload) };
    let snapshot = entries.unlock(fault.va);
    let anon_vma = fault.anon_vma()?;
    let new = fault.alloc()?;
    match &old {
        Some(_) => new.copy_from(present.pfn),
        None => new.zero(),
    }
    let mut entries = fault.relock(snapshot)?;
    // An entry of the zero page that compares equal still is one. A page may have become exclusive.
    let still = old.is_none()
        || match entries.mapped(fault.va) {
            Mapped::Shared(..) => true,
            Mapped::Zero(_) | Mapped::Exclusive(..) | Mapped::Shm(_) => false,
            Mapped::None | Mapped::Swap(..) | Mapped::Migration(..) | Mapped::Marker(_) => false,
        };
    if !still {
        return Err(FaultResult::Reload);
    }
    let replaced = entries.clear(fault.va);
    fault.slot.space.flush(&fault.vm.frames, FlushRange::Range(VaRange::page(fault.va)));
    fault.vm.count(Event::TlbFlush);
    if matches!(&replaced, Cleared::Shared(map, _) if matches!(map.folio().mapping(), Mapping::Ksm(_))) {
        fault.vm.count(Event::CowKsm);
    }
    let new = new.into_exclusive_anon(anon_vma.raw(), fault.index);
    entries.install(fault.va, new, fault.attrs_of_copy(present));
    drop(entries);
    match replaced {
        Cleared::Shared(map, _) => {
            map.unmap_and_put(old.expect("a shared page was kept while it was copied"));
            fault.vm.count(fault.access.copied());
        }
        Cleared::Zero(_) => {
            fault.vm.add_anon(fault.slot, 1);
            fault.vm.count(Event::FaultZeroUpgrade);
        }
        Cleared::None
        | Cleared::Exclusive(..)
        | Cleared::Shm(..)
        | Cleared::Swap(..)
        | Cleared::Migration(..)
        | Cleared::Marker(_) => unreachable!("nothing else was possible under the lock"),
    }
    Ok(FaultResult::Done)
}

/// Copies the one page that is left to be copied of a large folio, or of the zero page.
#[cold]
#[inline(never)]
fn wp_large<'a, M: Machine, G: FaultGuard<M>>(
    fault: &VmFault<'a, M, G>,
    large: Large<'a, M, G>,
) -> Result<FaultResult, FaultResult> {
    let entries = match large {
        Large::Done => return Ok(FaultResult::Done),
        Large::OnePage(entries) => entries,
    };
    let old = match entries.mapped(fault.va) {
        Mapped::Shared(page, _) => Some(page.get()),
        Mapped::Zero(_) => None,
        Mapped::Exclusive(..) | Mapped::Shm(_) => return Err(FaultResult::Reload),
        Mapped::None | Mapped::Swap(..) | Mapped::Migration(..) | Mapped::Marker(_) => {
            return Err(FaultResult::Reload);
        }
    };
    wp_page_copy(fault, entries, old)
}

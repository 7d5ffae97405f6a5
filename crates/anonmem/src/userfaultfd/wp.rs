//! Write protection by a userfaultfd.
//!
//! The mark is a bit of the entry and follows it in every form (`EntryBits`): present, swapped out, on its
//! way to another frame. Where there is no page yet a marker stands for it, if `WP_UNPOPULATED` was agreed
//! upon or the memory is shared.
//!
//! Each table is flushed before its lock is let go. Whoever finds an entry protected may rely on that nobody
//! writes to the page any more. (Linux 2020: a second caller found nothing to do, and copied a page that a
//! CPU was still writing to.)
//!
//! Locks: the mmap lock for reading (protecting) or writing (ending it for good); one page-table lock at a
//! time.
//!
//! Linux: mm/userfaultfd.c `mwriteprotect_range`, `uffd_wp_range`; mm/mprotect.c `change_pte_range`. Differs:
//! every table is flushed under its lock.

use super::{context::UffdFeatures, register::Uffd};
use crate::{
    error::Error,
    events::Event,
    mm::mmap_lock::{MmapReadGuard, MmapWriteGuard},
    objects::Objects,
    rmap::machine::Machine,
    vma::{flags::VmFlags, vma::Backing},
};
use anonmem_hal::{FlushRange, Marker, Protection, Pte, SoftLeaf, Va, VaRange};
use anonmem_pgtable::{AddressSpace, Cleared, Mapped, PteGuard, StableVma, Walked};

bitflags::bitflags! {
    /// What becomes of the protection. The values are Linux's (`UFFDIO_WRITEPROTECT_MODE_*`).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct ProtectMode: u64 {
        /// Writes are told; without it they are allowed again.
        const WP = 1 << 0;
        /// Whoever waits goes on waiting.
        const DONTWAKE = 1 << 1;
    }
}

impl<M: Machine> Uffd<'_, M> {
    /// Protects the pages of the `len` bytes from `start` against writes, or lets them be written again.
    ///
    /// # Locks
    /// The mmap lock, for reading. Sleeps.
    ///
    /// # Errors
    /// [`Error::Again`] while a change of the range is under way or untold; [`Error::Invalid`] for arguments
    /// that make no sense; [`Error::NotFound`] at a mapping that is not watched for writes, or if nothing is
    /// mapped there; [`Error::OutOfMemory`] for the tables that markers need: what lies before the place has
    /// been done. [`Error::NoProcess`] if the address space has ended.
    #[doc(alias = "userfaultfd_writeprotect")]
    pub fn write_protect(&self, start: Va, len: u64, mode: ProtectMode) -> Result<(), Error> {
        if self.is_changing(start, len) {
            return Err(Error::Again);
        }
        let range = self.check_range(start, len)?;
        if !ProtectMode::all().contains(mode) || mode == ProtectMode::all() {
            return Err(Error::Invalid("a way to protect that there is not"));
        }
        let mm = self.mm()?;
        self.vm.reclaiming(|| {
            let guard = mm.read();
            if self.vm.uffd_is_changing(self.context, &[range]) {
                return Err(Error::Again);
            }
            self.protect_range(&guard, range, mode)
        })?;
        if mode.is_empty() {
            self.vm.uffd_wake(self.context, range);
        }
        Ok(())
    }

    #[doc(alias = "mwriteprotect_range")]
    fn protect_range(
        &self,
        guard: &MmapReadGuard<'_, M>,
        range: VaRange,
        mode: ProtectMode,
    ) -> Result<(), Error> {
        let (tree, nodes) = (&guard.slot().tree, self.vm.nodes());
        let (mut vmas, mut found) = (tree.cursor(range), false);
        let unpopulated = self.features().contains(UffdFeatures::WP_UNPOPULATED);
        while let Some((whole, id)) = vmas.next(tree, nodes) {
            let Some(part) = whole.intersect(range) else { break };
            let vma = self.vm.vma(id);
            if !vma.flags().contains(VmFlags::UFFD_WP) {
                return Err(Error::NotFound);
            }
            found = true;
            if !mode.contains(ProtectMode::WP) {
                guard.resolve_range(part, vma.protection());
            } else if unpopulated || matches!(vma.backing(), Backing::Shared(_)) {
                guard.protect_all(part)?;
            } else {
                guard.protect_populated(part);
            }
        }
        if found { Ok(()) } else { Err(Error::NotFound) }
    }
}

impl<M: Machine> MmapReadGuard<'_, M> {
    /// Protects the entries of `part` that say something of a page.
    fn protect_populated(&self, part: VaRange) {
        let space = &self.slot().space;
        for (table, part) in space.tables(&self.objects.frames, self, part) {
            let mut entries = table.lock();
            let mut flush = entries.uffd_wp_range(part);
            if entries.is_flush_deferred() {
                flush = part;
            }
            self.flush(flush);
        }
    }

    /// Protects all of `part`: markers stand where nothing is.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    fn protect_all(&self, part: VaRange) -> Result<(), Error> {
        let (frames, space) = (&self.objects.frames, &self.slot().space);
        let mut rest = part;
        while !rest.is_empty() {
            let table = space.table_alloc(frames, self, rest.start)?;
            let piece = VaRange { start: rest.start, end: rest.end.min(table.range().end) };
            let mut entries = table.lock();
            let mut flush = entries.uffd_wp_range(piece);
            for va in piece.iter_pages() {
                if entries.is_none(va) {
                    entries.install(va, Marker::UffdWp, ());
                }
            }
            if entries.is_flush_deferred() {
                flush = piece;
            }
            self.flush(flush);
            drop(entries);
            rest.start = piece.end;
        }
        Ok(())
    }

    /// Makes every CPU forget the translations of `range`.
    pub(crate) fn flush(&self, range: VaRange) {
        if !range.is_empty() {
            self.slot().space.flush(&self.objects.frames, FlushRange::Range(range));
            self.objects.count(Event::TlbFlush);
        }
    }

    /// Lets the pages of `part` be written again, as far as `prot` allows it.
    fn resolve_range(&self, part: VaRange, prot: Protection) {
        resolve(self.objects, &self.slot().space, self, part, prot);
    }
}

impl<M: Machine> MmapWriteGuard<'_, M> {
    /// Ends all protection in `range`, whose VMA is no longer watched for writes, or will not be.
    #[doc(alias = "userfaultfd_clear_vma")]
    pub(super) fn clear_uffd_wp_range(&self, range: VaRange, prot: Protection) {
        resolve(self.objects, &self.slot().space, self, range, prot);
    }
}

fn resolve<M: Machine, G: StableVma<M>>(
    objects: &Objects<M>,
    space: &AddressSpace<M>,
    guard: &G,
    range: VaRange,
    prot: Protection,
) {
    for (found, part) in space.parts(&objects.frames, guard, range) {
        // Protecting makes leaves tables.
        let Walked::Table(table) = found else { continue };
        let mut entries = table.lock();
        if entries.is_empty() {
            continue;
        }
        for va in part.iter_pages() {
            resolve_entry(&mut entries, va, prot);
        }
    }
}

/// Ends the protection of one entry. No CPU has a translation that allows more than the entry did.
fn resolve_entry<M: Machine, G: StableVma<M>>(entries: &mut PteGuard<'_, M, G>, va: Va, prot: Protection) {
    match entries.get(va) {
        Pte::None => {}
        Pte::Present(present) if present.uffd_wp => {
            entries.clear_uffd_wp(va);
            entries.change_protection(va, prot);
        }
        Pte::Present(_) => {}
        Pte::Soft(SoftLeaf::Marker(Marker::UffdWp)) => {
            let (Cleared::Marker(_), vacancy) = entries.take(va) else { unreachable!("it was a marker") };
            vacancy.leave_empty();
        }
        Pte::Soft(SoftLeaf::Swap { .. } | SoftLeaf::Migration { .. }) => entries.clear_uffd_wp(va),
        Pte::Soft(SoftLeaf::Marker(Marker::Guard | Marker::Poisoned)) => {}
    }
}

/// Whether a locked entry is marked as protected, in whatever form: for `validate` and copies.
pub(crate) fn is_protected<M: Machine>(mapped: &Mapped<'_, '_, M>) -> bool {
    match mapped {
        Mapped::Zero(present)
        | Mapped::Exclusive(_, present)
        | Mapped::Shared(_, present)
        | Mapped::Shm(present) => present.uffd_wp,
        Mapped::Swap(_, bits) => bits.uffd_wp,
        Mapped::Migration(_, bits) => bits.uffd_wp,
        Mapped::Marker(marker) => *marker == Marker::UffdWp,
        Mapped::None => false,
    }
}

//! Growing, shrinking and moving a mapping.
//!
//! ```text
//!  no shorter than before?
//!    ├─ shorter ────────────────────────▶ the tail is unmapped
//!    ├─ longer, and a hole follows ─────▶ the VMA grows where it is
//!    ├─ else, if it may move ───────────▶ move_vma: a place is found, the VMA moves there with its pages
//!    └─ FIXED or DONTUNMAP ─────────────▶ move_vma, in any case
//! ```
//!
//! A VMA that moves stays the same VMA: it gets another range, and its page-table entries go to the new
//! addresses (`move_vma`, `page_tables`). All that can fail comes before the first change, so an operation
//! that fails has changed nothing, what was mapped at a fixed destination included.
//!
//! Several mappings move together if their size does not change and the place is given (`move_all`), one
//! after the other. A failure then leaves those before it at their new place.
//!
//! Locks: the mmap lock for writing; the lock of the anon_vma for writing during the move.
//!
//! Linux: mm/mremap.c `do_mremap`, `expand_vma`, `move_vma`. Differs: the VMA moves instead of being copied;
//! a failure leaves everything as it was.

mod move_vma;
mod page_tables;
#[cfg(test)]
mod tests;

use crate::{
    error::Error,
    ids::VmaId,
    mm::{Mm, mmap_lock::MmapWriteGuard},
    mmap::{MapFlags, Object},
    rmap::machine::Machine,
    userfaultfd::events::Changes,
    vma::{flags::VmFlags, merge::NewArea},
};
use anonmem_hal::{Arch, PAGE_SHIFT, Va, VaRange, page_align};

bitflags::bitflags! {
    /// How `mremap` may go about it. The values are those of Linux's `MREMAP_*`.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct RemapFlags: u32 {
        /// The mapping may move.
        const MAYMOVE = 1;
        /// It moves to the address given, in place of what is there.
        const FIXED = 2;
        /// It moves, and an empty mapping like it stays behind.
        const DONTUNMAP = 4;
    }
}

/// The arguments, checked and rounded to pages.
#[derive(Clone, Copy)]
struct Request {
    old: VaRange,
    new_len: u64,
    flags: RemapFlags,
    new_addr: Va,
}

impl Request {
    #[doc(alias = "check_mremap_params")]
    fn check<A: Arch>(
        old: Va,
        old_len: u64,
        new_len: u64,
        flags: RemapFlags,
        new_addr: Va,
    ) -> Result<Self, Error> {
        let (old_len, new_len) = (page_align(old_len), page_align(new_len));
        let end = Va(old.0.saturating_add(old_len)).page_down();
        let request = Self { old: VaRange { start: old, end: end.max(old) }, new_len, flags, new_addr };
        let invalid = |what| Err(Error::Invalid(what));
        if !RemapFlags::all().contains(flags) {
            return invalid("unknown flags of mremap");
        }
        if request.moves() && !flags.contains(RemapFlags::MAYMOVE) {
            return invalid("a mapping that must move but may not");
        }
        if !old.is_page_aligned() {
            return invalid("a mapping to resize does not start at a page");
        }
        if new_len == 0 || new_len > A::USER_END.0 {
            return invalid("a new length of nothing, or more than the address space");
        }
        if request.keeps_old() && old_len != new_len {
            return invalid("what stays behind must be as long as what moves");
        }
        if !request.moves() {
            return Ok(request);
        }
        if !new_addr.is_page_aligned() || new_addr.0 > A::USER_END.0 - new_len {
            return invalid("the new address is not at a page, or too high");
        }
        // An old range that wraps around ends where it comes to, as on Linux; it is refused later, for
        // another reason.
        if old.0.wrapping_add(old_len) > new_addr.0 && new_addr.0 + new_len > old.0 {
            return invalid("the old and the new place overlap");
        }
        Ok(request)
    }

    /// Whether it moves in any case.
    fn moves(&self) -> bool {
        self.flags.intersects(RemapFlags::FIXED | RemapFlags::DONTUNMAP)
    }

    fn keeps_old(&self) -> bool {
        self.flags.contains(RemapFlags::DONTUNMAP)
    }

    /// Whether all that is mapped in the old range moves, unchanged in size, to a place that is given.
    #[doc(alias = "vrm_move_only")]
    fn moves_all(&self) -> bool {
        self.flags.contains(RemapFlags::FIXED) && self.old.len() == self.new_len
    }
}

impl<M: Machine> Mm<'_, M> {
    /// Makes the mapping of the `old_len` bytes from `old` one of `new_len` bytes, and moves it if the flags
    /// say so, or if they allow it and it cannot grow where it is; returns where it is. Lengths are rounded
    /// up to pages.
    ///
    /// With an `old_len` of 0 a shared mapping is duplicated.
    ///
    /// ```
    /// # use anonmem::*;
    /// # use anonmem_testkit::Program;
    /// # anonmem_testkit::example(|_, mm| {
    /// let start = mm.mmap(MmapRequest::anonymous(4 * 4096, Prot::READ | Prot::WRITE))?;
    /// mm.store(start, 7)?;
    /// let start = mm.mremap(start, 4 * 4096, 64 * 4096, RemapFlags::MAYMOVE, Va(0))?;
    /// assert_eq!(mm.load(start)?, 7);
    /// # Ok(())
    /// # });
    /// ```
    ///
    /// # Locks
    /// The mmap lock, for writing. Sleeps.
    ///
    /// # Errors
    /// As `mremap(2)`, and nothing has changed: [`Error::Invalid`] for arguments that make no sense,
    /// [`Error::BadAddress`] if the old range is not of one mapping or may not grow, [`Error::OutOfMemory`],
    /// [`Error::Limit`] without room or beyond a limit, [`Error::Again`] if too much would be locked,
    /// [`Error::NotPermitted`] below the lowest address, and if the old or the new range is sealed.
    #[doc(alias = "do_mremap")]
    pub fn mremap(
        &self,
        old: Va,
        old_len: u64,
        new_len: u64,
        flags: RemapFlags,
        new_addr: Va,
    ) -> Result<Va, Error> {
        let request = Request::check::<M::Arch>(old, old_len, new_len, flags, new_addr)?;
        if request.moves_all() {
            return self.move_all(request);
        }
        let (guard, start, told) = self.vm.reclaiming(|| {
            let mut changes = Changes::none(self.vm);
            let guard = self.write();
            let start = self.remap_telling(&guard, &request, &mut changes)?;
            changes.tell();
            Ok((guard, start, changes))
        })?;
        let moved = guard.slot().tree.find_containing(self.vm.nodes(), start);
        let locked = moved.is_some_and(|(_, id)| self.vm.vma(id).flags().contains(VmFlags::LOCKED));
        drop(guard);
        told.wait();
        if locked && request.new_len > request.old.len() {
            let grown =
                VaRange { start: Va(start.0 + request.old.len()), end: Va(start.0 + request.new_len) };
            self.mm_populate_ignoring_errors(grown);
        }
        Ok(start)
    }

    /// Moves every mapping of the old range, cut to it, to the same distance from the new address; holes
    /// between them stay holes, and what is mapped at their destination stays.
    ///
    /// # Errors
    /// [`Error::BadAddress`] if nothing is mapped at the start; those of a single mapping:
    /// [`Error::Invalid`], [`Error::NotPermitted`], [`Error::Again`], [`Error::Limit`],
    /// [`Error::OutOfMemory`]. What fails at a later mapping leaves those before it moved.
    #[doc(alias = "remap_move")]
    fn move_all(&self, request: Request) -> Result<Va, Error> {
        // An attempt that finds no memory goes on where it was: what has moved is not at the old place any
        // more.
        let mut rest = request.old;
        let mut told = Changes::none(self.vm);
        let moved = self.vm.reclaiming(|| {
            let guard = self.write();
            while let Some((part, _)) = guard.slot().tree.find(self.vm.nodes(), rest.start) {
                let Some(old) = part.intersect(rest) else { break };
                if rest.start == request.old.start && old.start > rest.start {
                    return Err(Error::BadAddress);
                }
                let new_addr = Va(request.new_addr.0 + (old.start.0 - request.old.start.0));
                let mut changes = Changes::none(self.vm);
                let part = Request { old, new_len: old.len(), new_addr, ..request };
                self.remap_telling(&guard, &part, &mut changes)?;
                changes.tell();
                told.join(changes);
                rest.start = old.end;
            }
            if rest.start == request.old.start { Err(Error::BadAddress) } else { Ok(request.new_addr) }
        });
        // Also of what has moved before something could not.
        told.wait();
        moved
    }

    /// Resizes or moves a mapping, and notes in `changes` what whoever watches it is to be told.
    fn remap_telling(
        &self,
        guard: &MmapWriteGuard<'_, M>,
        request: &Request,
        changes: &mut Changes<'_, M>,
    ) -> Result<Va, Error> {
        anonmem_hal::debug_check_eq!(M, guard.id(), self.id, "the lock of another address space");
        // Most address spaces have never had a userfaultfd.
        if !guard.slot().has_uffd() {
            return guard.do_mremap(request);
        }
        let Request { old, new_len, .. } = *request;
        let kept = VaRange { start: old.start, end: Va(old.start.0 + old.len().min(new_len)) };
        if request.flags.contains(RemapFlags::FIXED) {
            changes
                .unmap(guard, VaRange { start: request.new_addr, end: Va(request.new_addr.0 + new_len) })?;
        }
        changes.unmap(guard, VaRange { start: kept.end, end: old.end })?;
        if let Some((_, id)) = guard.slot().tree.find_containing(self.vm.nodes(), old.start) {
            changes.remap(id, kept)?;
        }
        let start = guard.do_mremap(request)?;
        changes.moved(kept, start);
        Ok(start)
    }
}

impl<M: Machine> MmapWriteGuard<'_, M> {
    fn do_mremap(&self, request: &Request) -> Result<Va, Error> {
        let Request { old, new_len, flags, .. } = *request;
        let found = self.slot().tree.find_containing(self.objects.nodes(), old.start);
        let (range, id) = found.ok_or(Error::BadAddress)?;
        self.objects.vma(id).flags().check_unsealed()?;
        if old.is_empty() && !self.objects.vma(id).flags().intersects(VmFlags::SHARED | VmFlags::MAYSHARE) {
            return Err(Error::Invalid("only a shared mapping can be duplicated"));
        }
        if !request.moves() && new_len <= old.len() {
            if new_len < old.len() {
                self.do_munmap(VaRange { start: Va(old.start.0 + new_len), end: old.end })?;
            }
            return Ok(old.start);
        }
        // What moves is of one mapping; the tail that is cut off may lie anywhere.
        if old.start.0 + old.len().min(new_len) > range.end.0 {
            return Err(Error::BadAddress);
        }
        if new_len < old.len() && old.end > M::Arch::USER_END {
            return Err(Error::Invalid("the tail to unmap leaves the address space"));
        }
        self.check_resize(id, request)?;
        if !request.moves() && self.expand_in_place(id, request)? {
            return Ok(old.start);
        }
        if !flags.contains(RemapFlags::MAYMOVE) {
            return Err(Error::MAY_NOT_MOVE);
        }
        let start = self.new_place(request)?;
        let to = VaRange { start, end: Va(start.0 + new_len) };
        if old.is_empty() {
            self.duplicate(id, old.start, to)?;
        } else {
            self.move_vma(old, to, flags)?;
        }
        Ok(start)
    }

    /// Checks that the mapping may become as long as it is to be.
    #[doc(alias("check_prep_vma", "vma_to_resize"))]
    fn check_resize(&self, id: VmaId, request: &Request) -> Result<(), Error> {
        let (vma, pages) = (self.objects.vma(id), request.new_len >> PAGE_SHIFT);
        let flags = vma.flags();
        let fixed_size = flags.contains(VmFlags::DONTEXPAND);
        if request.keeps_old() {
            if fixed_size {
                return Err(Error::Invalid("a mapping that may not grow cannot be had twice"));
            }
            return self.may_expand(flags, pages);
        }
        let grown = pages.saturating_sub(request.old.pages().0);
        if grown == 0 {
            return Ok(());
        }
        if vma.index_of(request.old.start).checked_add(pages).is_none() {
            return Err(Error::Invalid("the offset of the last page is too large"));
        }
        if fixed_size {
            return Err(Error::BadAddress);
        }
        self.check_locked(flags, grown)?;
        self.may_expand(flags, grown)
    }

    /// Lets the VMA grow where it is, if it ends with the old range and a hole follows; returns whether it
    /// did.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`]; [`Error::Limit`] if the pages may not be promised. Nothing has changed.
    #[doc(alias("vma_expandable", "vma_merge_extend"))]
    fn expand_in_place(&self, id: VmaId, request: &Request) -> Result<bool, Error> {
        let (objects, vma) = (self.objects, self.objects.vma(id));
        let (range, flags) = (vma.range(), vma.flags());
        let end = Va(request.old.start.0 + request.new_len);
        if request.old.is_empty() || request.old.end != range.end || end > M::Arch::USER_END {
            return Ok(false);
        }
        let grown = VaRange { start: range.end, end };
        if self.overlaps(grown) {
            return Ok(false);
        }
        if flags.contains(VmFlags::ACCOUNT) {
            objects.commit(grown.pages().0)?;
        }
        self.change_range(id, VaRange { start: range.start, end }, vma.pgoff());
        self.slot().counts.add_vma(flags, grown.pages().0 as i64);
        self.soft_dirty_vma(id);
        self.rejoin(end);
        Ok(true)
    }

    /// Where the mapping is to move.
    fn new_place(&self, request: &Request) -> Result<Va, Error> {
        let (hint, flags) = if request.flags.contains(RemapFlags::FIXED) {
            (request.new_addr, MapFlags::FIXED)
        } else if request.keeps_old() {
            (request.new_addr, MapFlags::empty())
        } else {
            (Va(0), MapFlags::empty())
        };
        self.get_unmapped_area(hint, request.new_len, flags)
    }

    /// Maps at `to` what the shared mapping `id` maps from `old` on.
    fn duplicate(&self, id: VmaId, old: Va, to: VaRange) -> Result<(), Error> {
        let vma = self.objects.vma(id);
        let flags = vma.flags() - (VmFlags::UFFD | VmFlags::SOFT_CLEAN);
        let area = NewArea { range: to, pgoff: vma.index_of(old), flags, backing: vma.backing() };
        self.mmap_region(area, Object::Given)
    }
}

//! Mapping memory.
//!
//! [`Mm::mmap`] finds a place, checks limits and takes the promise of memory. Then either a neighbour covers
//! the new range too, or a VMA is made for it. No page is allocated: faults do that.
//!
//! `MapFlags::FIXED` replaces what is there. All that can fail comes first: the VMAs at the edges are split,
//! the VMA and tree nodes allocated, memory promised. Then the old is unmapped. An operation that fails joins
//! the edges again.
//!
//! Locks: the mmap lock for writing.
//!
//! Linux: mm/mmap.c `do_mmap`, `__get_unmapped_area`; mm/vma.c `mmap_region`. Differs: no files but
//! *sources*, which are private.

use crate::{
    error::Error,
    ids::{ShmId, VmaId},
    mm::{Mm, mmap_lock::MmapWriteGuard},
    munmap::Covered,
    overcommit::Overcommit,
    rmap::machine::Machine,
    shm::Promise,
    userfaultfd::events::Changes,
    vma::{flags::VmFlags, free::free_vma, merge::NewArea, vma::Backing},
};
use anonmem_hal::{Arch, NrPages, PAGE_SHIFT, PAGE_SIZE, SourceId, Va, VaRange};

bitflags::bitflags! {
    /// What a program may do with a mapping. The values are those of Linux's `PROT_*`.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Prot: u32 {
        /// Loads.
        const READ = 1 << 0;
        /// Stores.
        const WRITE = 1 << 1;
        /// Instruction fetches.
        const EXEC = 1 << 2;
        /// Atomic operations: accepted, and means nothing.
        const SEM = 1 << 3;
        /// `mprotect`: from the start of the stack on.
        const GROWSDOWN = 1 << 24;
        /// `mprotect`: to the end of a stack that grows up. There is none.
        const GROWSUP = 1 << 25;
    }
}

impl Prot {
    /// The three as attributes of a VMA.
    #[doc(alias = "calc_vm_prot_bits")]
    pub const fn vm_flags(self) -> VmFlags {
        VmFlags::from_bits_retain(self.bits() as u64).intersection(VmFlags::ACCESS)
    }
}

bitflags::bitflags! {
    /// How to map. The values are those of Linux's `MAP_*`; whether a mapping is private follows from its
    /// backing.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct MapFlags: u32 {
        /// Private, and its pages may be gone whenever memory is short. A child gets none of them.
        const DROPPABLE = 0x8;
        /// Exactly at the address, in place of what is there.
        const FIXED = 0x10;
        /// Between 1 and 2 GiB, unless the address says otherwise.
        const LOW_32BIT = 0x40;
        /// A stack: it grows down.
        const GROWSDOWN = 0x100;
        /// Locked, and filled at once.
        const LOCKED = 0x2000;
        /// Does not count towards the commit limit, unless nothing may be promised that cannot be kept.
        const NORESERVE = 0x4000;
        /// Filled at once.
        const POPULATE = 0x8000;
        /// With `POPULATE`: not filled at once after all.
        const NONBLOCK = 0x1_0000;
        /// For a thread's stack: no large pages.
        const STACK = 0x2_0000;
        /// Exactly at the address, if nothing is there.
        const FIXED_NOREPLACE = 0x10_0000;
        /// Shared, and `mprotect` never allows stores: what is mapped was opened for reading only. No number
        /// of Linux's.
        const SHARED_READ_ONLY = 0x8000_0000;
        /// Of one size for ever: it does not grow, is not had twice, is not locked. No number of Linux's.
        const FIXED_SIZE = 0x4000_0000;
        /// `mprotect` never allows stores or fetches. No number of Linux's.
        const ONLY_READ = 0x2000_0000;
    }
}

impl MapFlags {
    /// Those that no program can ask for.
    pub const NOT_LINUX: Self = Self::SHARED_READ_ONLY.union(Self::FIXED_SIZE).union(Self::ONLY_READ);
}

/// What is mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MapBacking {
    /// Zeroes (`MAP_PRIVATE | MAP_ANONYMOUS`).
    Anonymous,
    /// The bytes of a source, private. The mapping counts as a reference of its own.
    Source {
        /// Which one.
        id: SourceId,
        /// The offset of the first byte; a multiple of the page size.
        offset: u64,
    },
    /// A shared object that is made for it (`MAP_SHARED | MAP_ANONYMOUS`).
    SharedNew,
    /// A shared object that the caller uses. The mapping becomes a user of its own.
    Shared {
        /// Which one.
        object: ShmId,
        /// Index of the first page.
        first: u64,
    },
}

/// The arguments of [`Mm::mmap`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MmapRequest {
    /// Where, if it is free; or where exactly, by the flags. 0 for anywhere.
    pub addr: Va,
    /// Length in bytes; rounded up to pages.
    pub len: u64,
    /// What a program may do with it.
    pub prot: Prot,
    /// How.
    pub flags: MapFlags,
    /// What.
    pub backing: MapBacking,
}

impl MmapRequest {
    /// `len` bytes of zeroes, private, at an address that the memory manager chooses.
    pub const fn anonymous(len: u64, prot: Prot) -> Self {
        Self { addr: Va(0), len, prot, flags: MapFlags::empty(), backing: MapBacking::Anonymous }
    }
}

/// Where `MAP_32BIT` looks for a place.
const LOW_WINDOW: VaRange = VaRange { start: Va(1 << 30), end: Va(1 << 31) };

/// Whether a new mapping brings its shared object with it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Object {
    /// One of so many pages is to be made.
    New(u64),
    /// The backing says all.
    Given,
}

impl<M: Machine> Mm<'_, M> {
    /// Maps memory; returns where.
    ///
    /// ```
    /// # use anonmem::*;
    /// # use anonmem_testkit::Program;
    /// # anonmem_testkit::example(|_, mm| {
    /// let start = mm.mmap(MmapRequest::anonymous(4 * 4096, Prot::READ | Prot::WRITE))?;
    /// mm.store(start, 7)?;
    /// assert_eq!(mm.load(start)?, 7);
    /// # Ok(())
    /// # });
    /// ```
    ///
    /// # Locks
    /// The mmap lock, for writing. Sleeps.
    ///
    /// # Errors
    /// As `mmap(2)`, and nothing has changed: [`Error::Invalid`] for arguments that make no sense,
    /// [`Error::OutOfMemory`] without memory, [`Error::Limit`] without room or beyond a limit,
    /// [`Error::Exists`] (`FIXED_NOREPLACE`), [`Error::NotPermitted`] (below the lowest address, or nothing
    /// may be locked), [`Error::Again`] (too much is locked), [`Error::AccessDenied`]
    /// ([`set_write_exec`](Self::set_write_exec)), [`Error::Overflow`].
    #[doc(alias("vm_mmap_pgoff", "ksys_mmap_pgoff"))]
    pub fn mmap(&self, request: MmapRequest) -> Result<Va, Error> {
        let (guard, start, told) = self.vm.reclaiming(|| {
            let mut changes = Changes::none(self.vm);
            let guard = self.write();
            if request.flags.contains(MapFlags::FIXED)
                && let Some(range) = VaRange::of(request.addr, NrPages::containing(request.len).bytes())
            {
                changes.unmap(&guard, range)?;
            }
            let start = guard.do_mmap(&request)?;
            changes.tell();
            Ok((guard, start, changes))
        })?;
        let locked = VmFlags::from_bits_retain(guard.slot().def_flags.get()).contains(VmFlags::LOCKED);
        drop(guard);
        told.wait();
        let fill = request.flags.intersection(MapFlags::POPULATE | MapFlags::NONBLOCK) == MapFlags::POPULATE;
        if locked || fill || request.flags.contains(MapFlags::LOCKED) {
            let len = NrPages::containing(request.len).bytes();
            self.mm_populate_ignoring_errors(VaRange { start, end: Va(start.0 + len) });
        }
        Ok(start)
    }

    /// Makes the checks of [`mmap`](Self::mmap) that come before it looks at what is mapped, and maps
    /// nothing: for a caller that will refuse to map it, to find what Linux would have said first.
    ///
    /// # Errors
    /// As [`mmap`](Self::mmap).
    pub fn check_mmap(&self, request: &MmapRequest) -> Result<(), Error> {
        let guard = self.write();
        let len = guard.check_length(request)?;
        guard.choose_place(request, len).map(drop)
    }
}

impl<M: Machine> MmapWriteGuard<'_, M> {
    /// As [`mmap`](Self::mmap), under the caller's lock; nothing is filled.
    pub(crate) fn do_mmap(&self, request: &MmapRequest) -> Result<Va, Error> {
        let len = self.check_length(request)?;
        let (backing, object, first) = resolve(request.backing, len >> PAGE_SHIFT)?;
        let (range, flags) = self.choose_place(request, len)?;
        let private_anonymous = matches!(request.backing, MapBacking::Anonymous);
        if flags.contains(VmFlags::GROWSDOWN) && !private_anonymous {
            return Err(Error::Invalid("only private anonymous memory grows down"));
        }
        self.check_write_exec(flags, flags)?;
        let pgoff = first.unwrap_or(range.start.page());
        self.mmap_region(NewArea { range, pgoff, flags, backing }, object)?;
        Ok(range.start)
    }

    /// Where a mapping of `len` bytes (whole pages) is to go, and its attributes, after the checks that have
    /// nothing to do with what is mapped.
    fn choose_place(&self, request: &MmapRequest, len: u64) -> Result<(VaRange, VmFlags), Error> {
        let start = self.get_unmapped_area(request.addr, len, request.flags)?;
        let range = VaRange { start, end: Va(start.0 + len) };
        if request.flags.contains(MapFlags::FIXED_NOREPLACE) && self.overlaps(range) {
            return Err(Error::Exists);
        }
        let flags = self.new_flags(request)?;
        self.check_locked(flags, range.pages().0)?;
        Ok((range, flags))
    }

    /// The length in whole pages, if there may be one mapping more.
    fn check_length(&self, request: &MmapRequest) -> Result<u64, Error> {
        if request.len == 0 {
            return Err(Error::Invalid("a mapping of no bytes"));
        }
        let len = Va(request.len).page_up().ok_or(Error::NO_ROOM)?.0;
        if self.slot().tree.len() > self.objects.max_map_count() {
            return Err(Error::MAX_MAP_COUNT);
        }
        Ok(len)
    }

    /// The attributes of a new mapping.
    fn new_flags(&self, request: &MmapRequest) -> Result<VmFlags, Error> {
        let slot = self.slot();
        let mut flags = request.prot.vm_flags()
            | VmFlags::from_bits_retain(slot.def_flags.get())
            | VmFlags::MAYREAD
            | VmFlags::MAYWRITE
            | VmFlags::MAYEXEC;
        if request.flags.contains(MapFlags::LOCKED) {
            if slot.locked_limit.get() == 0 {
                return Err(Error::NotPermitted);
            }
            flags |= VmFlags::LOCKED;
        }
        let never = matches!(self.objects.overcommit(), Overcommit::Never { .. });
        flags.set(VmFlags::NORESERVE, request.flags.contains(MapFlags::NORESERVE) && !never);
        flags.set(VmFlags::GROWSDOWN, request.flags.contains(MapFlags::GROWSDOWN));
        flags.set(VmFlags::NOHUGEPAGE, request.flags.contains(MapFlags::STACK));
        if matches!(request.backing, MapBacking::SharedNew | MapBacking::Shared { .. }) {
            flags |= VmFlags::SHARED | VmFlags::MAYSHARE;
        }
        if request.flags.contains(MapFlags::SHARED_READ_ONLY) {
            flags = (flags | VmFlags::MAYSHARE) - VmFlags::MAYWRITE;
        }
        if request.flags.contains(MapFlags::FIXED_SIZE) {
            flags = (flags | VmFlags::DONTEXPAND) - VmFlags::LOCKED - VmFlags::LOCKONFAULT;
        }
        if request.flags.contains(MapFlags::ONLY_READ) {
            flags -= VmFlags::MAYWRITE | VmFlags::MAYEXEC;
        }
        if request.flags.contains(MapFlags::DROPPABLE) {
            flags = self.droppable(flags, request)?;
        }
        if !flags.may_be_mergeable() {
            flags -= VmFlags::MERGEABLE;
        }
        Ok(flags)
    }

    /// The attributes of a mapping whose pages may be dropped. What cannot be kept is not promised.
    fn droppable(&self, flags: VmFlags, request: &MmapRequest) -> Result<VmFlags, Error> {
        let stays = request.flags.intersects(MapFlags::LOCKED | MapFlags::GROWSDOWN);
        if stays || !matches!(request.backing, MapBacking::Anonymous) {
            return Err(Error::Invalid(
                "only private anonymous memory is droppable, and neither locked nor a stack",
            ));
        }
        self.objects.note_droppable();
        let how = VmFlags::DROPPABLE | VmFlags::NORESERVE | VmFlags::WIPEONFORK | VmFlags::DONTDUMP;
        Ok((flags | how) - VmFlags::LOCKED - VmFlags::LOCKONFAULT)
    }

    /// Whether anything is mapped in `range`.
    #[doc(alias = "find_vma_intersection")]
    pub(crate) fn overlaps(&self, range: VaRange) -> bool {
        let found = self.slot().tree.find(self.objects.nodes(), range.start);
        found.is_some_and(|(vma, _)| vma.start < range.end)
    }

    /// A place for `len` bytes (a multiple of the page size): `hint` if it is fixed or free, else the highest
    /// hole below the mmap base, else the lowest hole in the upper part of the address space.
    ///
    /// # Errors
    /// [`Error::Limit`] if there is no place; of a fixed one, [`Error::Invalid`] if it does not start at a
    /// page and [`Error::NotPermitted`] below the lowest address.
    #[doc(alias("__get_unmapped_area", "arch_get_unmapped_area_topdown"))]
    pub(crate) fn get_unmapped_area(&self, hint: Va, len: u64, flags: MapFlags) -> Result<Va, Error> {
        let end = M::Arch::USER_END;
        let last = end.0.checked_sub(len).ok_or(Error::NO_ROOM)?;
        if flags.intersects(MapFlags::FIXED | MapFlags::FIXED_NOREPLACE) {
            return match hint {
                _ if hint.0 > last => Err(Error::BEYOND),
                _ if !hint.is_page_aligned() => Err(Error::Invalid("a fixed address is not at a page")),
                _ if hint.0 < self.objects.config.mmap_min_addr => Err(Error::NotPermitted),
                _ => Ok(hint),
            };
        }
        let (objects, slot) = (self.objects, self.slot());
        let low = Va(objects.config.mmap_min_addr.max(PAGE_SIZE as u64)).page_up().unwrap_or(end);
        let hint = hint.page_down();
        let window = if flags.contains(MapFlags::LOW_32BIT) { LOW_WINDOW.end } else { end };
        let last = window.0.checked_sub(len).ok_or(Error::NO_ROOM)?;
        if hint.0 != 0 && hint.0.max(low.0) <= last {
            let wanted = VaRange { start: hint.max(low), end: Va(hint.max(low).0 + len) };
            if self.is_hole(wanted) {
                return Ok(wanted.start);
            }
        }
        let base = Va(slot.mmap_base.get()).page_down();
        let pages = NrPages(len >> PAGE_SHIFT);
        if flags.contains(MapFlags::LOW_32BIT) {
            let found = slot.tree.gap_bottomup(self.objects.nodes(), pages, LOW_WINDOW, NrPages(1));
            return found.ok_or(Error::NO_ROOM);
        }
        // Where mappings start that grow upwards, as in Linux's legacy layout.
        let legacy = Va(end.0 / 3).page_down().min(base).max(low);
        let topdown = || {
            let window = VaRange { start: low, end: base };
            (low < base).then(|| slot.tree.gap_topdown(objects.nodes(), pages, window, NrPages(1)))?
        };
        let bottomup = || {
            let window = VaRange { start: legacy, end };
            (legacy < end).then(|| slot.tree.gap_bottomup(objects.nodes(), pages, window, NrPages(1)))?
        };
        topdown().or_else(bottomup).ok_or(Error::NO_ROOM)
    }

    /// Whether nothing is mapped in `range`, and it leaves a stack above it room to grow.
    pub(crate) fn is_hole(&self, range: VaRange) -> bool {
        let Some((vma, id)) = self.slot().tree.find(self.objects.nodes(), range.start) else { return true };
        let guard_gap = self.objects.guard_below(self.objects.vma(id).flags()).bytes();
        range.end.0 <= vma.start.0.saturating_sub(guard_gap)
    }

    /// Maps `area`, in place of what is there, if limits and the commit limit allow it.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`]; [`Error::Limit`] that it would exceed; [`Error::Invalid`] for an object that
    /// is too long; [`Error::NotPermitted`] for one that refuses writers. Nothing has changed.
    pub(crate) fn mmap_region(&self, mut area: NewArea, object: Object) -> Result<(), Error> {
        if !self.overlaps(area.range) {
            return self.charge_and_map(&mut area, object, Covered::default());
        }
        self.check_not_sealed(area.range)?;
        self.cut_edges(area.range)?;
        let old = self.covered(area.range);
        self.charge_and_map(&mut area, object, old).inspect_err(|_| {
            self.rejoin(area.range.start);
            self.rejoin(area.range.end);
        })
    }

    /// Checks limits, charges for `area`, and maps it in place of `old`, none of which reaches over its
    /// edges.
    fn charge_and_map(&self, area: &mut NewArea, object: Object, old: Covered) -> Result<(), Error> {
        let (objects, pages) = (self.objects, area.range.pages().0);
        self.may_expand(area.flags, pages - old.pages)?;
        if area.flags.is_accountable() {
            area.flags |= VmFlags::ACCOUNT;
            // What is replaced has its promise already.
            let charge = pages - old.accounted;
            objects.commit(charge)?;
            self.replace(area, object, old).inspect_err(|_| objects.uncommit(charge))?;
        } else {
            self.replace(area, object, old)?;
            objects.uncommit(old.accounted);
        }
        self.slot().counts.add_vma(area.flags, pages as i64);
        Ok(())
    }

    /// Unmaps `old`, which is what the range of `area` has, and maps the area.
    fn replace(&self, area: &NewArea, object: Object, old: Covered) -> Result<(), Error> {
        let (objects, slot, range) = (self.objects, self.slot(), area.range);
        let merge = || object == Object::Given && self.merge_new(area).is_some();
        // The usual case: nothing is there, and no memory is needed.
        if old.pages == 0 && merge() {
            return Ok(());
        }
        let mut nodes = slot.tree.prealloc(objects.nodes(), 1)?;
        let new = self.new_vma(area, object)?;
        if old.pages > 0 {
            self.unmap_cut(range);
            if merge() {
                free_vma(objects, new);
                return Ok(());
            }
        }
        objects.vma(new).attach(self);
        nodes.write().insert_guarded(range, new, objects.guard_below(area.flags));
        Ok(())
    }

    /// A VMA for `area` that is not in the tree yet.
    fn new_vma(&self, area: &NewArea, object: Object) -> Result<VmaId, Error> {
        let objects = self.objects;
        let new = objects.vmas.alloc(&objects.frames)?;
        let backing = match object {
            Object::Given => {
                let got = objects.backing_try_get(area.backing, area.flags);
                got.inspect_err(|_| objects.vmas.free(&objects.frames, new))?;
                area.backing
            }
            Object::New(pages) => {
                let promise = match area.flags.contains(VmFlags::NORESERVE) {
                    true => Promise::PageByPage,
                    false => Promise::InFull,
                };
                let made = objects
                    .shm_make(pages, promise)
                    .inspect_err(|_| objects.vmas.free(&objects.frames, new))?;
                if area.flags.may_store_shared() {
                    objects.shm_add_writer(made).expect("nobody else knows the object");
                }
                Backing::Shared(made)
            }
        };
        objects.vma(new).init(self.id(), area.range, area.pgoff, area.flags, backing);
        Ok(new)
    }
}

/// The backing, whether its object is to be made, and the index of its first page (none: that of the
/// address).
fn resolve(backing: MapBacking, pages: u64) -> Result<(Backing, Object, Option<u64>), Error> {
    let checked = |first: u64| first.checked_add(pages).map(|_| first).ok_or(Error::Overflow);
    Ok(match backing {
        MapBacking::Anonymous => (Backing::Anonymous, Object::Given, None),
        MapBacking::Source { offset, .. } if !Va(offset).is_page_aligned() => {
            return Err(Error::Invalid("an offset is no multiple of the page size"));
        }
        MapBacking::Source { id, offset } => {
            (Backing::Source(id), Object::Given, Some(checked(offset >> PAGE_SHIFT)?))
        }
        MapBacking::SharedNew => (Backing::Anonymous, Object::New(pages), Some(0)),
        MapBacking::Shared { object, first } => {
            (Backing::Shared(object), Object::Given, Some(checked(first)?))
        }
    })
}

#[cfg(test)]
mod tests;

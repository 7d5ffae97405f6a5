//! Fills: a page is put where none is, and whoever waits for it goes on.
//!
//! | fill | private memory | shared memory | refuses |
//! |---|---|---|---|
//! | copy | a page of the caller's bytes | the same, as the object's page | an entry or page that is there |
//! | zero page | the zero page | a page of zeroes | any entry, markers too |
//! | continue | - | the object's page, which must be there | an entry that is there |
//! | poison ([`poison`](super::poison)) | a marker | a marker | any entry, markers too |
//!
//! A copy's bytes come from the caller, who may fault for them and wait: nothing is locked then. So the pages
//! are made first. The destination is looked up after that, under its VMA's lock if the faults of this `Vm`
//! use those. If the bytes cannot be had, a destination that is none comes first.
//!
//! Linux: mm/userfaultfd.c `mfill_atomic`, `mfill_atomic_pte_copy`, `mfill_atomic_install_pte`. Differs: the
//! bytes are copied before the locks are taken, never under them.

use super::register::Uffd;
use crate::{
    error::Error,
    events::Event,
    fault::vm_fault::FaultGuard,
    ids::{ShmId, VmaId},
    mm::{Mm, slot::MmSlot},
    objects::Objects,
    rmap::machine::Machine,
    rmap::{Rmap, reverse_map::ReverseMap},
    vma::{
        flags::VmFlags,
        vma::{Backing, Vma},
    },
};
use anonmem_frame::{FolioRef, NewFolio, TooManySharers};
use anonmem_hal::{Marker, Pte, SoftLeaf, SourceError, Va, VaRange};
use anonmem_pgtable::{Attrs, Cleared, Mapped, PteGuard};

/// The most pages that are made before the destination is locked.
const BATCH: usize = 16;

bitflags::bitflags! {
    /// How a range is filled. The values are Linux's (`UFFDIO_COPY_MODE_*`, `UFFDIO_CONTINUE_MODE_*`).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct FillMode: u64 {
        /// Whoever waits goes on waiting.
        const DONTWAKE = 1 << 0;
        /// The pages are protected against writes from the start.
        const WP = 1 << 1;
    }
}

/// How far an operation on a range came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "an operation on a range may end before the range does"]
pub struct Filled {
    /// The bytes of the range that it has done.
    pub bytes: u64,
    /// Why it stopped, if that is not all.
    pub error: Option<Error>,
    /// Whether it was refused for what it was asked, before anything was looked at.
    pub(super) unasked: bool,
}

impl Filled {
    /// Nothing was done, because of an argument: what the caller is told elsewhere stays as it is.
    pub(super) fn refused(error: Error) -> Self {
        Self { bytes: 0, error: Some(error), unasked: true }
    }

    /// Something of the range is changing.
    pub(super) const CHANGING: Self = Self { bytes: 0, error: Some(Error::Again), unasked: false };

    /// Whether the call leaves its argument as it is: it was refused for what it says.
    pub fn leaves_argument(&self) -> bool {
        self.unasked
    }

    /// The number of bytes, or the error number if it is none: what the call leaves in its argument.
    pub fn out(&self) -> i64 {
        match (self.bytes, self.error) {
            (0, Some(error)) => -i64::from(error.errno()),
            (bytes, _) => bytes as i64,
        }
    }

    /// What the call returns: a range that was done in part is to be tried again from there.
    ///
    /// # Errors
    /// [`Error::Again`] if some bytes were done; the error if none were.
    pub fn result(&self) -> Result<(), Error> {
        match (self.bytes, self.error) {
            (_, None) => Ok(()),
            (0, Some(error)) => Err(error),
            (_, Some(_)) => Err(Error::Again),
        }
    }
}

/// Puts the bytes of the page at an offset into a frame that nobody else sees.
type Bytes<'s, M> = dyn FnMut(u64, &NewFolio<'_, M>) -> Result<(), SourceError> + 's;

/// What a range is filled with.
pub(super) enum Content<'s, M: Machine> {
    /// The bytes that the function puts into a frame, for the page at an offset of the range.
    Copy(&'s mut Bytes<'s, M>),
    /// Zeroes.
    Zero,
    /// The shared object's page.
    Continue,
    /// A marker that traps.
    Poison,
}

/// Why a batch did not go on.
pub(super) enum Halt {
    /// The operation ends.
    Error(Error),
    /// Not without the mmap lock.
    NeedMmap,
}

impl From<Error> for Halt {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl From<anonmem_frame::OutOfMemory> for Halt {
    fn from(e: anonmem_frame::OutOfMemory) -> Self {
        Self::Error(e.into())
    }
}

impl<'v, M: Machine> Uffd<'v, M> {
    /// Fills the `len` bytes from `dst` with what `source` puts into the new page for each offset
    /// ([`NewFolio::write`]). It is called without locks, and may fault and sleep.
    ///
    /// # Locks
    /// The VMA's lock or the mmap lock, for reading. Sleeps.
    ///
    /// # Errors
    /// In [`Filled`]: [`Error::Again`] while a change of the range is under way or untold; [`Error::Invalid`]
    /// for arguments or a mapping that cannot be filled so; [`Error::NotFound`] if the range is not in one
    /// mapping that is watched; [`Error::Exists`] at the first page that is there; [`Error::BadAddress`] if
    /// the bytes cannot be had; [`Error::OutOfMemory`]; [`Error::NoProcess`] if the address space has ended;
    /// [`Error::Interrupted`] if the program that asked is being killed.
    #[doc(alias = "userfaultfd_copy")]
    pub fn copy(&self, dst: Va, len: u64, mode: FillMode, source: &mut Bytes<'_, M>) -> Filled {
        self.fill(dst, len, mode, FillMode::all(), Content::Copy(source))
    }

    /// Fills the `len` bytes from `dst` with zeroes.
    ///
    /// # Locks
    /// As [`copy`](Self::copy).
    ///
    /// # Errors
    /// As [`copy`](Self::copy).
    #[doc(alias = "userfaultfd_zeropage")]
    pub fn zeropage(&self, dst: Va, len: u64, mode: FillMode) -> Filled {
        self.fill(dst, len, mode, FillMode::DONTWAKE, Content::Zero)
    }

    /// Maps the pages of the shared object for the `len` bytes from `dst`.
    ///
    /// # Locks
    /// As [`copy`](Self::copy).
    ///
    /// # Errors
    /// As [`copy`](Self::copy); [`Error::BadAddress`] at a page that the object does not have.
    #[doc(alias = "userfaultfd_continue")]
    pub fn resume(&self, dst: Va, len: u64, mode: FillMode) -> Filled {
        self.fill(dst, len, mode, FillMode::all(), Content::Continue)
    }

    /// Whether something of the range is changing; a range that is none is not.
    pub(super) fn is_changing(&self, start: Va, len: u64) -> bool {
        self.context.has_changes()
            && VaRange::of(start, len).is_some_and(|range| self.vm.uffd_is_changing(self.context, &[range]))
    }

    pub(super) fn fill(
        &self,
        dst: Va,
        len: u64,
        mode: FillMode,
        known: FillMode,
        mut content: Content<'_, M>,
    ) -> Filled {
        if self.is_changing(dst, len) {
            return Filled::CHANGING;
        }
        let range = match self.check_range(dst, len) {
            Ok(range) if known.contains(mode) => range,
            Ok(_) => return Filled::refused(Error::Invalid("a way to fill that there is not")),
            Err(e) => return Filled::refused(e),
        };
        let user = match self.user() {
            Ok(user) => user,
            Err(e) => return Filled::refused(e),
        };
        let user = user.as_ref();
        let (mut rest, mut error) = (range, None);
        while !rest.is_empty() {
            // Nobody asks any more.
            if M::is_dying() {
                error = Some(Error::Interrupted);
                break;
            }
            // A call for one page should not pay for the room that many need.
            let filled = match rest.pages().0 {
                1 => self.fill_batch(user, range.start, (rest, &mut [None]), mode, &mut content),
                _ => self.fill_batch(
                    user,
                    range.start,
                    (rest, &mut [const { None }; BATCH]),
                    mode,
                    &mut content,
                ),
            };
            match filled {
                Ok(pages) => rest.start = rest.start.page_after(pages),
                Err(Error::OutOfMemory) if self.vm.reclaim_some() => {}
                Err(Error::NoProcess) if rest == range => return Filled::refused(Error::NoProcess),
                Err(e) => {
                    error = Some(e);
                    break;
                }
            }
        }
        let done = VaRange { start: range.start, end: rest.start };
        if !done.is_empty() && !mode.contains(FillMode::DONTWAKE) {
            self.vm.uffd_wake(self.context, done);
        }
        Filled { bytes: done.len(), error, unasked: false }
    }

    /// Fills the first pages of `rest`, as many as there is room for in `pages`; returns how many, at least
    /// one.
    fn fill_batch(
        &self,
        user: Option<&Mm<'v, M>>,
        start: Va,
        (rest, pages): (VaRange, &mut [Option<NewFolio<'v, M>>]),
        mode: FillMode,
        content: &mut Content<'_, M>,
    ) -> Result<u64, Error> {
        let mut unreadable = false;
        if let Content::Copy(source) = content {
            for (page, va) in pages.iter_mut().zip(rest.iter_pages()) {
                let Ok(new) = self.vm.alloc_page() else { break };
                if source(va.0 - start.0, &new).is_err() {
                    unreadable = true;
                    break;
                }
                *page = Some(new);
            }
        }
        let short = if unreadable { Error::BadAddress } else { Error::OutOfMemory };
        let mut batch = Batch { uffd: self, user, rest, mode, pages, short };
        batch.run(content)
    }
}

/// Pages on their way to the start of `rest`.
struct Batch<'a, 'v, M: Machine> {
    uffd: &'a Uffd<'v, M>,
    user: Option<&'a Mm<'v, M>>,
    rest: VaRange,
    mode: FillMode,
    /// Made before anything is locked, as far as they are needed.
    pages: &'a mut [Option<NewFolio<'v, M>>],
    /// Why there are no more pages, if they are needed.
    short: Error,
}

impl<M: Machine> Batch<'_, '_, M> {
    // Out of line, a call of one page costs 7 % more instructions.
    #[inline(always)]
    fn run(&mut self, content: &Content<'_, M>) -> Result<u64, Error> {
        let vm = self.uffd.vm;
        if let Some(mm) = self.user
            && let Ok(guard) = vm.lock_vma(mm.slot(), mm.id, self.rest.start)
        {
            match self.install(mm.slot(), &guard, (guard.id(), guard.vma()), content) {
                Ok(pages) => return Ok(pages),
                Err(Halt::Error(error)) => return Err(error),
                Err(Halt::NeedMmap) => {}
            }
        }
        let guard = self.uffd.mmap_read()?;
        let vma = vm.find_vma(&guard, self.rest.start, &vm.cpus.this().last)?;
        match self.install(guard.slot(), &guard, vma, content) {
            Ok(pages) => Ok(pages),
            Err(Halt::Error(error)) => Err(error),
            Err(Halt::NeedMmap) => unreachable!("it is held"),
        }
    }

    /// Whether the VMA may be filled so.
    #[doc(alias = "validate_dst_vma")]
    fn check(&self, vma: &Vma<M>, content: &Content<'_, M>) -> Result<(), Error> {
        if self.rest.end > vma.end() || vma.uffd().is_none() {
            return Err(Error::NotFound);
        }
        if self.uffd.vm.uffd_is_changing(self.uffd.context, &[self.rest]) {
            return Err(Error::Again);
        }
        if self.mode.contains(FillMode::WP) && !vma.flags().contains(VmFlags::UFFD_WP) {
            return Err(Error::Invalid("protected pages in a mapping that is not watched for writes"));
        }
        match (vma.backing(), content) {
            (Backing::Source(_), _) => Err(Error::Invalid("a file's pages cannot be filled")),
            (Backing::Anonymous, Content::Continue) => {
                Err(Error::Invalid("private memory has no page to go on with"))
            }
            (Backing::Anonymous, Content::Copy(_) | Content::Zero | Content::Poison)
            | (Backing::Shared(_), _) => Ok(()),
        }
    }

    fn install<G: FaultGuard<M>>(
        &mut self,
        slot: &MmSlot<M>,
        guard: &G,
        (id, vma): (VmaId, &Vma<M>),
        content: &Content<'_, M>,
    ) -> Result<u64, Halt> {
        self.check(vma, content)?;
        let target = Target { objects: self.uffd.vm, slot, guard, id, vma };
        let filled = match (vma.backing(), content) {
            (_, Content::Poison) => target.poison(self)?,
            (Backing::Shared(object), Content::Copy(_) | Content::Zero | Content::Continue) => {
                target.fill_shared(self, object, content)?
            }
            (_, Content::Zero | Content::Continue) => target.zero(self)?,
            (_, Content::Copy(_)) => target.copy(self)?,
        };
        self.uffd.vm.events.add(Event::UffdCopy, filled);
        Ok(filled)
    }

    /// What the entries of new pages say.
    fn attrs(&self, vma: &Vma<M>) -> Attrs {
        let uffd_wp = self.mode.contains(FillMode::WP);
        let prot = vma.protection();
        let prot = if uffd_wp { prot.write_protected() } else { prot };
        Attrs { prot, young: true, dirty: true, uffd_wp, soft_clean: false }
    }
}

/// Where pages go, under its guard.
struct Target<'a, M: Machine, G> {
    objects: &'a Objects<M>,
    slot: &'a MmSlot<M>,
    guard: &'a G,
    id: VmaId,
    vma: &'a Vma<M>,
}

/// Whether a page may be put there: nothing is, but for a userfaultfd's protection or poison (as on Linux
/// 6.18; a guard stays).
fn takes_page<M: Machine, G: FaultGuard<M>>(entries: &PteGuard<'_, M, G>, va: Va) -> bool {
    match entries.get(va) {
        Pte::None | Pte::Soft(SoftLeaf::Marker(Marker::UffdWp | Marker::Poisoned)) => true,
        Pte::Present(_)
        | Pte::Soft(SoftLeaf::Swap { .. } | SoftLeaf::Migration { .. })
        | Pte::Soft(SoftLeaf::Marker(Marker::Guard)) => false,
    }
}

/// Makes way for a page where [`takes_page`].
fn make_way<M: Machine, G: FaultGuard<M>>(entries: &mut PteGuard<'_, M, G>, va: Va) {
    if matches!(entries.mapped(va), Mapped::Marker(_)) {
        let (Cleared::Marker(_), vacancy) = entries.take(va) else { unreachable!("it was a marker") };
        vacancy.leave_empty();
    }
}

/// How many of the first pages were done, or why not even one.
fn some(filled: u64, error: Error) -> Result<u64, Halt> {
    if filled > 0 { Ok(filled) } else { Err(error.into()) }
}

impl<M: Machine, G: FaultGuard<M>> Target<'_, M, G> {
    /// The part of `rest` that is in the first table, which is made if need be, and locked.
    fn first_table<'g>(&'g self, batch: &Batch<'g, '_, M>) -> Result<(PteGuard<'g, M, G>, VaRange), Halt> {
        let frames = &batch.uffd.vm.frames;
        let table = self.slot.space.table_alloc(frames, self.guard, batch.rest.start)?;
        let part = VaRange { start: batch.rest.start, end: batch.rest.end.min(table.range().end) };
        Ok((table.lock(), part))
    }

    /// Puts the pages of the batch there, as private ones.
    #[doc(alias = "mfill_atomic_pte_copy")]
    fn copy(&self, batch: &mut Batch<'_, '_, M>) -> Result<u64, Halt> {
        if batch.pages[0].is_none() {
            return Err(batch.short.into());
        }
        let stamp = match (Rmap::<M>::stamp(batch.uffd.vm, self.slot, self.vma), self.guard.mmap()) {
            (Some(stamp), _) => stamp,
            (None, Some(mmap)) => Rmap::<M>::prepare(batch.uffd.vm, mmap, self.id)?,
            (None, None) => return Err(Halt::NeedMmap),
        };
        let pages = core::mem::take(&mut batch.pages);
        let attrs = batch.attrs(self.vma);
        let (mut entries, part) = self.first_table(batch)?;
        let mut filled = 0;
        for (page, va) in pages.iter_mut().zip(part.iter_pages()) {
            if page.is_none() || !entries.is_none(va) && !takes_page(&entries, va) {
                break;
            }
            if let Some(new) = page.take() {
                if !entries.is_none(va) {
                    make_way(&mut entries, va);
                }
                let page = new.into_exclusive_anon(stamp.raw(), self.vma.index_of(va));
                entries.install(va, page, attrs);
                filled += 1;
            }
        }
        drop(entries);
        self.objects.add_anon(self.slot, filled as i64);
        some(filled, Error::Exists)
    }

    /// Puts the zero page there.
    #[doc(alias = "mfill_atomic_pte_zeropage")]
    fn zero(&self, batch: &Batch<'_, '_, M>) -> Result<u64, Halt> {
        let (mut entries, part) = self.first_table(batch)?;
        let mut filled = 0;
        for va in part.iter_pages() {
            if !entries.is_none(va) {
                break;
            }
            entries.install_zero(va, self.vma.protection());
            filled += 1;
        }
        some(filled, Error::Exists)
    }

    /// Lets every access trap.
    #[doc(alias = "mfill_atomic_pte_poison")]
    fn poison(&self, batch: &Batch<'_, '_, M>) -> Result<u64, Halt> {
        let (mut entries, part) = self.first_table(batch)?;
        let mut filled = 0;
        for va in part.iter_pages() {
            if !entries.is_none(va) {
                break;
            }
            entries.install(va, Marker::Poisoned, ());
            filled += 1;
        }
        some(filled, Error::Exists)
    }

    /// Puts pages of a shared object there, one by one: each may need memory of its own.
    #[doc(alias("mfill_atomic_pte_continue", "shmem_mfill_atomic_pte"))]
    fn fill_shared(
        &self,
        batch: &mut Batch<'_, '_, M>,
        object: ShmId,
        content: &Content<'_, M>,
    ) -> Result<u64, Halt> {
        let mut filled = 0;
        while filled < BATCH as u64 {
            let va = batch.rest.start.page_after(filled);
            if va >= batch.rest.end {
                break;
            }
            match self.fill_one_shared(batch, object, content, va, filled as usize) {
                Ok(()) => filled += 1,
                Err(Halt::Error(error)) => return some(filled, error),
                Err(Halt::NeedMmap) => return Err(Halt::NeedMmap),
            }
        }
        Ok(filled)
    }

    fn fill_one_shared(
        &self,
        batch: &mut Batch<'_, '_, M>,
        object: ShmId,
        content: &Content<'_, M>,
        va: Va,
        place: usize,
    ) -> Result<(), Halt> {
        let vm = batch.uffd.vm;
        let table = self.slot.space.table_alloc(&vm.frames, self.guard, va)?;
        let index = self.vma.index_of(va);
        // Asked again below: this saves making a page of the object that has no place here.
        let is_free = match content {
            Content::Zero => matches!(table.peek(va), Pte::None),
            Content::Copy(_) | Content::Continue | Content::Poison => takes_page(&table.lock(), va),
        };
        if !is_free {
            return Err(Error::Exists.into());
        }
        let page: FolioRef<'_, M> = match content {
            Content::Copy(_) => {
                let new = batch.pages[place].take().ok_or(batch.short)?;
                vm.shm_fill(object, index, new)?
            }
            Content::Zero | Content::Poison => {
                let new = vm.alloc_page()?;
                new.zero();
                vm.shm_fill(object, index, new)?
            }
            Content::Continue => vm.shm_lookup(object, index)?.ok_or(Error::BadAddress)?,
        };
        let map = page.map_shm(0).map_err(|TooManySharers| Error::Limit("mappings of a page"))?;
        let mut entries = table.lock();
        if !takes_page(&entries, va) {
            // The lock goes first: no count is put under it.
            drop(entries);
            return Err(Error::Exists.into());
        }
        make_way(&mut entries, va);
        entries.install(va, map, batch.attrs(self.vma));
        drop(entries);
        self.objects.add_shared(self.slot, 1);
        Ok(())
    }
}

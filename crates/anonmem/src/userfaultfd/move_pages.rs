//! A page goes to another address of its address space, without a copy.
//!
//! ```text
//!   source entry ─┬─ nothing ──────────────── a hole: passed over if the caller allows it
//!                 ├─ the zero page ────────── cleared there, put here
//!                 ├─ an exclusive page ────── move_run: as many as lie together
//!                 │  of a large folio ─────── move_large: all of it, or it is split
//!                 ├─ an exclusive swap entry  move_swap: with its page, if that is in memory
//!                 ├─ shared, or pinned ────── Busy, on its way elsewhere or not
//!                 ├─ exclusive, on its way ── waits, and looks again
//!                 └─ a marker ─────────────── BadAddress
//! ```
//!
//! The page may come to belong to another root of anon_vmas, while others walk the reverse map to it. The
//! order of locks and what each is for:
//!
//! 1. *the folio lock*: whoever unmaps or migrates the page holds it, and so does whoever gives it another
//!    anon_vma;
//! 2. *the lock of the page's anon_vma, for writing* ([`MoveLocks::AnonVma`]), because `folio_referenced`
//!    walks without the folio lock; not with [`MoveLocks::Folio`], where that takes it;
//! 3. *both page-table locks*, by address: faults, and everybody else who touches an entry.
//!
//! Then the entry is cleared, and only then is it asked whether the page is pinned. Who pins without a lock
//! looks at the entry again after that (`pin_protocol`). All checks come before the first change of the folio
//! (CVE-2024-27007). The old translations are flushed before the new entries are filled, all under the locks.
//! Last, the folio says where it is. A walk that reads the new anon_vma takes that one's lock, which nobody
//! here holds, and must find the new entry. (Linux has it the other way round, and such a walk may miss it.)
//!
//! A swap entry takes its cached page along, or has none. That is asked under the page-table lock, because a
//! page can come back and leave again to the same slot in between (CVE-2025-38242, CVE-2025-21984).
//!
//! A move drops the protection of userfaultfd, in every form: it is a statement about the old address.
//!
//! Large folios and leaves go whole where both windows allow it (`move_large`).
//!
//! Linux: mm/userfaultfd.c `move_pages`, `move_pages_ptes`, `move_present_ptes`, `move_swap_pte`.

use super::{
    copy::{Filled, Halt},
    register::Uffd,
};
use crate::{
    config::MoveLocks,
    error::Error,
    events::Event,
    fault::vm_fault::FaultGuard,
    ids::VmaId,
    mm::{Mm, slot::MmSlot},
    rmap::machine::Machine,
    rmap::{
        Rmap,
        reverse_map::{ReverseMap, Stamp},
    },
    vm::Vm,
    vma::{
        flags::VmFlags,
        vma::{Backing, Vma},
    },
};
use anonmem_frame::{Exclusive, FolioGuard, FolioOwner, FolioRef};
use anonmem_hal::{
    FlushRange, MigrationKind, Order, PAGE_SIZE, Pfn, Present, Pte, Sharing, SoftLeaf, SwapBits, SwapEntry,
    Va, VaRange,
};
use anonmem_pgtable::{Attrs, Cleared, Destination, Mapped, PteGuard, PteTable, Walked};
use anonmem_sync::yield_now;

/// The most pages that move under one hold of the locks, their folio locks included.
const RUN: usize = 16;

bitflags::bitflags! {
    /// How pages move. The values are Linux's (`UFFDIO_MOVE_MODE_*`).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct MoveMode: u64 {
        /// Whoever waits goes on waiting.
        const DONTWAKE = 1 << 0;
        /// Where nothing is, nothing moves.
        const ALLOW_SRC_HOLES = 1 << 1;
    }
}

impl<'v, M: Machine> Uffd<'v, M> {
    /// Moves the pages of the `len` bytes from `src` to the empty addresses from `dst` on, which it watches.
    ///
    /// # Locks
    /// The locks of both VMAs or the mmap lock, for reading; then those of the pages. Sleeps.
    ///
    /// # Errors
    /// In [`Filled`]: [`Error::Again`] while a change of either range is under way or untold;
    /// [`Error::Invalid`] for arguments that make no sense, or mappings that do not go together;
    /// [`Error::NotFound`] if nothing is mapped at either start, and at a hole; [`Error::Exists`] where
    /// something is at the destination; [`Error::Busy`] at a page that others may have, that may be pinned,
    /// or that is of a large folio which cannot be split just now; [`Error::BadAddress`] at a marker;
    /// [`Error::OutOfMemory`]; [`Error::NoProcess`] if the address space has ended; [`Error::Interrupted`] if
    /// the program that asked is being killed.
    #[doc(alias("userfaultfd_move", "UFFDIO_MOVE", "UFFDIO_REMAP"))]
    pub fn move_pages(&self, dst: Va, src: Va, len: u64, mode: MoveMode) -> Filled {
        if self.is_changing(dst, len) || self.is_changing(src, len) {
            return Filled::CHANGING;
        }
        let checked = self.check_range(dst, len).and_then(|dst| Ok((dst, self.check_range(src, len)?)));
        let (dst, src) = match checked {
            Ok(ranges) if MoveMode::all().contains(mode) => ranges,
            Ok(_) => return Filled::refused(Error::Invalid("a way to move that there is not")),
            Err(e) => return Filled::refused(e),
        };
        let user = match self.user() {
            Ok(user) => user,
            Err(e) => return Filled::refused(e),
        };
        let (mut done, mut error) = (0, None);
        while done < len {
            // Nobody asks any more.
            if M::is_dying() {
                error = Some(Error::Interrupted);
                break;
            }
            let at = |range: VaRange| VaRange { start: Va(range.start.0 + done), end: range.end };
            let batch = MoveBatch { uffd: self, user: user.as_ref(), src: at(src), dst: at(dst), mode };
            match batch.run() {
                Ok(pages) => done += pages * PAGE_SIZE as u64,
                Err(Error::OutOfMemory) if self.vm.reclaim_some() => {}
                Err(Error::NoProcess) if done == 0 => return Filled::refused(Error::NoProcess),
                Err(e) => {
                    error = Some(e);
                    break;
                }
            }
        }
        if done > 0 && !mode.contains(MoveMode::DONTWAKE) {
            self.vm.uffd_wake(self.context, VaRange { start: dst.start, end: Va(dst.start.0 + done) });
        }
        Filled { bytes: done, error, unasked: false }
    }
}

/// What is left to be moved.
struct MoveBatch<'a, 'v, M: Machine> {
    uffd: &'a Uffd<'v, M>,
    user: Option<&'a Mm<'v, M>>,
    src: VaRange,
    dst: VaRange,
    mode: MoveMode,
}

/// Pages that are moved before the VMAs' locks are let go for a moment.
const HOLD: u64 = 512;

impl<M: Machine> MoveBatch<'_, '_, M> {
    /// Moves some of the first pages; returns how many, at least one.
    #[doc(alias = "uffd_move_lock")]
    #[inline(always)]
    fn run(&self) -> Result<u64, Error> {
        let vm = self.uffd.vm;
        // Neither lock is waited for, so nobody who waits for one while we have the other can stop us.
        if let Some(mm) = self.user
            && let Ok(dst) = vm.lock_vma(mm.slot(), mm.id, self.dst.start)
            && let Ok(src) = vm.lock_source_vma(mm.slot(), mm.id, self.src.start)
        {
            match self.under(mm.slot(), (&src, src.vma()), (&dst, dst.id(), dst.vma())) {
                Ok(pages) => return Ok(pages),
                Err(Halt::Error(error)) => return Err(error),
                Err(Halt::NeedMmap) => {}
            }
        }
        let guard = self.uffd.mmap_read()?;
        let cpu = vm.cpus.this();
        let (id, dst) = vm.find_vma(&guard, self.dst.start, &cpu.last)?;
        let (_, src) = vm.find_vma(&guard, self.src.start, &cpu.last_source)?;
        match self.under(guard.slot(), (&guard, src), (&guard, id, dst)) {
            Ok(pages) => Ok(pages),
            Err(Halt::Error(error)) => Err(error),
            Err(Halt::NeedMmap) => unreachable!("it is held"),
        }
    }

    /// Whether pages may go from one mapping to the other.
    #[doc(alias = "validate_move_areas")]
    #[inline(always)]
    fn check(&self, src: &Vma<M>, dst: &Vma<M>) -> Result<(), Error> {
        if self.uffd.vm.uffd_is_changing(self.uffd.context, &[self.dst, self.src]) {
            return Err(Error::Again);
        }
        let whole = self.src.end <= src.end() && self.dst.end <= dst.end();
        let alike = VmFlags::ACCESS | VmFlags::LOCKED;
        let same = (src.flags() & alike) == (dst.flags() & alike);
        let private =
            |vma: &Vma<M>| vma.backing() == Backing::Anonymous && !vma.flags().contains(VmFlags::SHARED);
        let allowed = whole
            && same
            && src.flags().contains(VmFlags::WRITE)
            && dst.uffd() == Some(self.uffd.id)
            && private(src)
            && private(dst);
        if allowed { Ok(()) } else { Err(Error::Invalid("mappings that pages do not move between")) }
    }

    fn under<G: FaultGuard<M>>(
        &self,
        slot: &MmSlot<M>,
        (src_guard, from): (&G, &Vma<M>),
        (dst_guard, id, to): (&G, VmaId, &Vma<M>),
    ) -> Result<u64, Halt> {
        let vm = self.uffd.vm;
        self.check(from, to)?;
        let stamp = match (Rmap::<M>::stamp(vm, slot, to), dst_guard.mmap()) {
            (Some(stamp), _) => stamp,
            (None, Some(mmap)) => Rmap::<M>::prepare(vm, mmap, id)?,
            (None, None) => return Err(Halt::NeedMmap),
        };
        let mover = Mover { vm, slot, src: src_guard, dst: dst_guard, to, stamp, mode: self.mode };
        let most = self.src.pages().0.min(HOLD);
        let mut moved = 0;
        while moved < most {
            let (src, dst) = (self.src.start.page_after(moved), self.dst.start.page_after(moved));
            match mover.step(src, dst, most - moved) {
                Ok(Step::Moved(pages)) => moved += pages,
                Ok(Step::Again) => vm.count(Event::FaultRetry),
                Err(Halt::Error(error)) if moved == 0 => return Err(error.into()),
                Err(Halt::Error(_)) => break,
                Err(Halt::NeedMmap) => return Err(Halt::NeedMmap),
            }
        }
        Ok(moved)
    }
}

/// What came of one attempt.
pub(super) enum Step {
    /// So many pages, or holes, are done.
    Moved(u64),
    /// Something changed meanwhile: look again.
    Again,
}

/// From where to where pages go.
pub(super) struct Mover<'a, M: Machine, G> {
    pub(super) vm: &'a Vm<M>,
    pub(super) slot: &'a MmSlot<M>,
    pub(super) src: &'a G,
    pub(super) dst: &'a G,
    /// The destination.
    pub(super) to: &'a Vma<M>,
    /// What its pages carry.
    pub(super) stamp: Stamp,
    mode: MoveMode,
}

pub(super) type Table<'a, M, G> = PteTable<'a, M, G>;
/// The lock that keeps away walks without the folio lock.
pub(super) type Moving<'a, M> = <Rmap<M> as ReverseMap<M>>::Moving<'a>;

/// Both tables, locked. The second is none if it is the same.
pub(super) struct Both<'a, M: Machine, G> {
    pub(super) src: PteGuard<'a, M, G>,
    dst: Option<PteGuard<'a, M, G>>,
}

impl<'a, M: Machine, G: FaultGuard<M>> Both<'a, M, G> {
    #[inline(always)]
    pub(super) fn lock(src: Table<'a, M, G>, dst: Table<'a, M, G>) -> Self {
        let (src, dst) = src.lock_two(dst);
        Self { src, dst }
    }

    pub(super) fn dst(&mut self) -> &mut PteGuard<'a, M, G> {
        self.dst.as_mut().unwrap_or(&mut self.src)
    }
}

/// A page whose entry was cleared, and its folio lock.
struct Taken<'a, M: Machine> {
    page: Exclusive<'a, M>,
    present: Present,
    lock: FolioGuard<'a, M>,
    reference: FolioRef<'a, M>,
}

impl<'a, M: Machine, G: FaultGuard<M>> Mover<'a, M, G> {
    /// Moves the page at `src`, and some that follow, at most `most`.
    #[doc(alias = "move_pages_ptes")]
    fn step(&self, src: Va, dst: Va, most: u64) -> Result<Step, Halt> {
        if let Some(step) = self.whole_leaf(src, dst, most)? {
            return Ok(step);
        }
        let (frames, space) = (&self.vm.frames, &self.slot.space);
        let to = space.table_alloc(frames, self.dst, dst)?;
        let most = most.min(room(to.range(), dst));
        let Some(from) = space.walk(frames, self.src, src).and_then(Walked::table) else {
            if !matches!(to.peek(dst), Pte::None) {
                return Err(Error::Exists.into());
            }
            // None of what the table would cover is there.
            let missing = room(src_span(to, src), src);
            return self.skip_holes(None, to, (src, dst), most.min(missing));
        };
        let most = most.min(room(from.range(), src));
        let mut both = Both::lock(from, to);
        let moved = self.move_alone(&mut both, VaRange { start: src, end: src.page_after(most) }, dst);
        if moved > 0 {
            return Ok(Step::Moved(moved));
        }
        if !both.dst().is_none(dst) {
            return Err(Error::Exists.into());
        }
        match both.src.mapped(src) {
            Mapped::None => {
                drop(both);
                self.skip_holes(Some(from), to, (src, dst), most)
            }
            Mapped::Zero(_) => self.move_zero(both, src, dst),
            Mapped::Exclusive(page, _) => {
                let folio = page.folio();
                // A hint that saves taking locks; what decides comes after the entry is cleared.
                if folio.maybe_pinned() {
                    return Err(self.pinned());
                }
                let (reference, page) = (page.get(), page.pfn());
                drop(both);
                // Under the reference alone it may be split just now: both look again.
                match folio.order() {
                    Order::ZERO => self.move_run(reference, (from, to), (src, dst), most),
                    _large => self.move_large((reference, page), (from, to), (src, dst), most),
                }
            }
            Mapped::Swap(owned, bits) => {
                let entry = owned.entry();
                drop(both);
                self.move_swap(entry, bits, (from, to), (src, dst))
            }
            Mapped::Shared(..) => Err(Error::Busy.into()),
            // Others have it, too; besides, its page may have gone without it (`migrate`).
            Mapped::Migration(_, bits) if bits.kind == MigrationKind::Read => Err(Error::Busy.into()),
            Mapped::Migration(..) => {
                drop(both);
                yield_now::<M>();
                Ok(Step::Again)
            }
            Mapped::Marker(_) => Err(Error::BadAddress.into()),
            Mapped::Shm(_) => unreachable!("private memory has no page of a shared object"),
        }
    }

    /// Moves pages and large folios that nobody else has, from the first of `window` on; returns how many
    /// pages. Their counts are frozen meanwhile, which serves for the folio lock and for that of the
    /// anon_vma.
    fn move_alone(&self, both: &mut Both<'a, M, G>, window: VaRange, dst: Va) -> u64 {
        let to = Destination {
            first: dst,
            prot: self.to.protection(),
            anon_vma: self.stamp.raw(),
            index: self.to.index_of(dst),
        };
        let moved = both.src.move_alone(window, both.dst.as_mut(), to, |range| self.flush(range));
        self.vm.events.add(Event::UffdMove, moved);
        moved
    }

    /// Passes over pages that are not there, as far as nothing is at their destination.
    fn skip_holes(
        &self,
        from: Option<Table<'_, M, G>>,
        to: Table<'_, M, G>,
        (src, dst): (Va, Va),
        most: u64,
    ) -> Result<Step, Halt> {
        if !self.mode.contains(MoveMode::ALLOW_SRC_HOLES) {
            return Err(Error::NotFound.into());
        }
        // Under the locks: an entry whose page is just leaving is empty for a moment, and neither a hole nor
        // free.
        let holes = match from {
            Some(from) => {
                let mut both = Both::lock(from, to);
                let is_hole =
                    |i: &u64| both.src.is_none(src.page_after(*i)) && both.dst().is_none(dst.page_after(*i));
                (0..most).take_while(is_hole).count() as u64
            }
            None => {
                let to = to.lock();
                (0..most).take_while(|&i| to.is_none(dst.page_after(i))).count() as u64
            }
        };
        if holes == 0 { Ok(Step::Again) } else { Ok(Step::Moved(holes)) }
    }

    /// Moves the zero page, which nobody owns.
    #[doc(alias = "move_zeropage_pte")]
    fn move_zero(&self, mut both: Both<'_, M, G>, src: Va, dst: Va) -> Result<Step, Halt> {
        if !matches!(both.src.mapped(src), Mapped::Zero(_)) || !both.dst().is_none(dst) {
            return Ok(Step::Again);
        }
        let (Cleared::Zero(_), vacancy) = both.src.take(src) else { unreachable!("it was the zero page") };
        vacancy.leave_empty();
        self.flush(VaRange::page(src));
        both.dst().install_zero(dst, self.to.protection());
        // KSM may have merged what was written into it.
        both.dst().soft_dirty(dst);
        Ok(Step::Moved(1))
    }

    pub(super) fn flush(&self, range: VaRange) {
        self.slot.space.flush(&self.vm.frames, FlushRange::Range(range));
        self.vm.count(Event::TlbFlush);
    }

    /// Moves the page that `first` is a reference to, and those that follow it and are like it, under one
    /// flush.
    #[doc(alias = "move_present_ptes")]
    fn move_run(
        &self,
        first: FolioRef<'a, M>,
        (from, to): (Table<'a, M, G>, Table<'a, M, G>),
        (src, dst): (Va, Va),
        most: u64,
    ) -> Result<Step, Halt> {
        let lead = first.pfn();
        // A sleeping lock, so no page-table lock is held; the entry is looked at again.
        let lock = first.lock();
        let walks = match self.vm.config.move_locks {
            MoveLocks::Folio => None,
            MoveLocks::AnonVma => match Rmap::<M>::lock_to_move(self.vm, &lock) {
                Some(walks) => Some(walks),
                None => return Ok(Step::Again),
            },
        };
        let mut both = Both::lock(from, to);
        if !self.is_still(&mut both, lead, src, dst) {
            return Ok(Step::Again);
        }
        let mut taken: [Option<Taken<'a, M>>; RUN] = [const { None }; RUN];
        let mut count = 0;
        let mut next = Some((first, lock));
        while let Some((reference, lock)) = next.take() {
            match self.take(&mut both.src, src.page_after(count as u64)) {
                Ok((page, present)) => {
                    taken[count] = Some(Taken { page, present, lock, reference });
                    count += 1;
                }
                Err(Error::Busy) if count == 0 => return Err(self.pinned()),
                Err(_) => break,
            }
            if count < RUN && (count as u64) < most {
                let (from, to) = (src.page_after(count as u64), dst.page_after(count as u64));
                next = self.follower(&mut both, from, to, walks.as_ref());
            }
        }
        self.flush(VaRange { start: src, end: src.page_after(count as u64) });
        // Declared before the locks' guards, so that those are let go under no page-table lock.
        let mut locks: [Option<(FolioGuard<'a, M>, FolioRef<'a, M>)>; RUN] = [const { None }; RUN];
        for (i, (taken, kept)) in taken.iter_mut().zip(&mut locks).enumerate() {
            let Some(Taken { page, present, lock, reference }) = taken.take() else { break };
            let (va, attrs) = (dst.page_after(i as u64), self.attrs(present));
            both.dst().install(va, page, attrs);
            lock.move_mapped(self.stamp.raw(), self.to.index_of(va));
            *kept = Some((lock, reference));
        }
        drop(both);
        drop(locks);
        self.vm.events.add(Event::UffdMove, count as u64);
        Ok(Step::Moved(count as u64))
    }

    /// Whether the entry still maps the page, alone, and nothing is at the destination.
    fn is_still(&self, both: &mut Both<'a, M, G>, page: Pfn, src: Va, dst: Va) -> bool {
        both.dst().is_none(dst)
            && matches!(both.src.mapped(src), Mapped::Exclusive(found, _)
                if found.pfn() == page && found.folio().order().get() == 0)
    }

    /// The next page, locked, if it can go along under the locks that are held. Its folio lock may only be
    /// tried.
    fn follower(
        &self,
        both: &mut Both<'a, M, G>,
        src: Va,
        dst: Va,
        walks: Option<&Moving<'a, M>>,
    ) -> Option<(FolioRef<'a, M>, FolioGuard<'a, M>)> {
        if !both.dst().is_none(dst) {
            return None;
        }
        let Mapped::Exclusive(page, _) = both.src.mapped(src) else { return None };
        let folio = page.folio();
        if folio.order().get() != 0 || folio.maybe_pinned() {
            return None;
        }
        let reference = page.get();
        let lock = reference.try_lock()?;
        let alike = walks.is_none_or(|walks| Rmap::<M>::moves_under(walks, folio));
        alike.then_some((reference, lock))
    }

    /// Clears the entry of a page whose folio is locked; or puts it back.
    ///
    /// # Errors
    /// [`Error::Busy`] if the page may be pinned.
    fn take(&self, entries: &mut PteGuard<'a, M, G>, src: Va) -> Result<(Exclusive<'a, M>, Present), Error> {
        let (Cleared::Exclusive(page, present), vacancy) = entries.take(src) else {
            unreachable!("the entry was just looked at, and is locked")
        };
        match page.try_move() {
            Ok(page) => {
                vacancy.leave_empty();
                Ok((page, present))
            }
            Err(page) => {
                vacancy.fill(page, present.into());
                Err(Error::Busy)
            }
        }
    }

    /// Counts a page that stays because it may be pinned, and says so.
    #[cold]
    pub(super) fn pinned(&self) -> Halt {
        self.vm.count(Event::UffdMovePinned);
        Error::Busy.into()
    }

    /// What the entry of a page that has moved says.
    fn attrs(&self, old: Present) -> Attrs {
        // What has moved is soft-dirty, because it is new there.
        Attrs { prot: self.to.protection(), uffd_wp: false, soft_clean: false, ..old.into() }
    }

    /// Moves a swap entry, with its page if that is in memory.
    #[doc(alias = "move_swap_pte")]
    fn move_swap(
        &self,
        entry: SwapEntry,
        bits: SwapBits,
        (from, to): (Table<'a, M, G>, Table<'a, M, G>),
        (src, dst): (Va, Va),
    ) -> Result<Step, Halt> {
        if bits.sharing != Sharing::Exclusive {
            return Err(Error::Busy.into());
        }
        // Without it the device could go away, and its slots with it, while we look.
        let Some(_user) = self.vm.swap_user(entry) else {
            yield_now::<M>();
            return Ok(Step::Again);
        };
        let cached = self.vm.swap_cache_get(entry);
        let lock = cached.as_ref().map(FolioRef::lock);
        if let (Some(page), Some(lock)) = (&cached, &lock)
            && lock.folio().is_large()
        {
            // The others of its pages stay where they are.
            let split = self.vm.split_folio(lock, page, Order::ZERO);
            return split.map(|()| Step::Again).map_err(|_| Error::Busy.into());
        }
        let mut both = Both::lock(from, to);
        let same = Pte::Soft(SoftLeaf::Swap { entry, bits });
        if both.src.get(src) != same || !both.dst().is_none(dst) {
            return Ok(Step::Again);
        }
        // The entry owns a count, so what the slot says of its page is said of this use of it. But it may
        // have got a page, lost the one that we locked, or had it exchanged.
        let slots = self.vm.swap.get(entry).slots();
        match (&lock, slots.cached_page(&self.vm.frames, entry.offset)) {
            (None, None) => {}
            (Some(lock), Some(page)) if lock.folio().pfn() == page => {
                lock.move_cached(self.stamp.raw(), self.to.index_of(dst));
            }
            (None, Some(_)) | (Some(_), None | Some(_)) => return Ok(Step::Again),
        }
        let (Cleared::Swap(count, bits), vacancy) = both.src.take(src) else {
            unreachable!("it was a swap entry, and is locked")
        };
        vacancy.leave_empty();
        both.dst().install(dst, count, SwapBits { uffd_wp: false, soft_clean: false, ..bits });
        drop(both);
        self.vm.count(Event::UffdMove);
        Ok(Step::Moved(1))
    }
}

/// The pages from `va` to the end of `table`.
fn room(table: VaRange, va: Va) -> u64 {
    VaRange { start: va, end: table.end }.pages().0
}

/// What the missing table for `src` would cover, as the one that is there does.
fn src_span<M: Machine, G>(like: Table<'_, M, G>, src: Va) -> VaRange {
    let span = like.range().len();
    let start = Va(src.0 - src.0 % span);
    VaRange { start, end: Va(start.0 + span) }
}

//! The world of the cases: a memory manager on the simulated machine, and programs that use it.
//!
//! The tables have eight entries, so an address space has 64 pages and a whole world fits in a few dozen
//! frames. It is built once for each scenario and copied back before every execution. At the end everybody
//! is gone from the CPUs, and [`Vm::validate`] recounts the world.

use super::naming;
use crate::{
    Program, Scenario, Sim,
    names::Names,
    sim::{
        Access, Trap,
        swap::{DEVICES, SLOTS},
    },
    snapshot::Region,
};
use anonmem::lab::{folio_referenced_by_reclaim, leave_behind, walk_mappings};
use anonmem::{
    Advice, ClearRefs, Config, Error, FaultAccess, FaultOutcome, FillMode, LockMode, MapBacking, MapFlags,
    Mm, MmapRequest, MoveLocks, MoveMode, PinFlags, PinnedRange, Prot, ProtectMode, RegisterMode,
    ReverseMapChoice, Uffd, UffdFaults, UffdFeatures, Unpin, Vm,
};
use anonmem_frame::{Exclusive, Folio, FolioOwner, FolioPin, FolioRef, Mapping, OwnedFrames, Shared, Stamp};
use anonmem_hal::{CpuId, CpuSet, PAGE_SIZE, Pfn, Va, VaRange};
use anonmem_pgtable::Mapped;
use anonmem_sync::Atomic;
use core::{
    cell::{Cell, Ref, RefCell},
    mem::ManuallyDrop,
    ops::ControlFlow,
};

/// The most address spaces of a case: one more than a batch of flushes remembers, and one for luck.
const MMS: usize = 6;
/// A page in bytes.
pub(crate) const P: u64 = PAGE_SIZE as u64;

/// A memory manager, its machine and its programs.
pub(crate) struct Kernel {
    pub(crate) sim: Sim,
    pub(crate) vm: &'static Vm<Sim>,
    /// Where `vm` lies, for [`raze`](Self::raze).
    leaked: *mut Vm<Sim>,
    mms: [RefCell<Option<Mm<'static, Sim>>>; MMS],
    /// The CPUs that each one runs on.
    active: [Cell<u64>; MMS],
    /// A folio to which the case holds a reference, as reclaim would.
    folio: RefCell<Option<FolioRef<'static, Sim>>>,
    /// A frame that the case remembers without a reference.
    pub(super) noted: Cell<Option<Pfn>>,
    /// A second one.
    noted_too: Cell<Option<Pfn>>,
    /// The mapping of that folio that [`map_elsewhere`](Self::map_elsewhere) made.
    elsewhere: RefCell<Option<Exclusive<'static, Sim>>>,
    /// One of the owners that [`share_many`](Self::share_many) forgot, and how many there are.
    many: RefCell<Option<(ManuallyDrop<Shared<'static, Sim>>, u64)>>,
    /// Frames that [`eat_until`](Self::eat_until) took.
    eaten: [Cell<Option<OwnedFrames<'static, Sim>>>; 64],
    /// One of the pins that [`pin_noted_but`](Self::pin_noted_but) forgot, and how many there are.
    many_pins: RefCell<Option<(ManuallyDrop<FolioPin<'static, Sim>>, u64)>>,
    /// Ranges that the case has pinned, each by its number.
    pub(crate) pinned: [RefCell<Option<PinnedRange<'static, Sim>>>; 2],
    /// Userfaultfds, each by its number.
    uffds: [RefCell<Option<Uffd<'static, Sim>>>; 2],
    /// What CPUs want to tell the check at the end.
    pub(crate) notes: [Cell<u64>; 4],
    /// What CPUs tell one another.
    pub(crate) flag: Atomic<u32, Sim>,
}

thread_local! {
    /// Which reverse map the worlds have that this thread makes.
    static REVERSE_MAP: Cell<Option<ReverseMapChoice>> = const { Cell::new(None) };
}

/// Which reverse map a world has: what [`over`] says, else `ANONMEM_RMAP`, else anon_vmas.
fn reverse_map() -> ReverseMapChoice {
    REVERSE_MAP.get().unwrap_or_else(|| match std::env::var("ANONMEM_RMAP").as_deref() {
        Ok("family") => ReverseMapChoice::Families,
        Ok("anon_vma") | Err(_) => ReverseMapChoice::AnonVmas,
        Ok(other) => panic!("ANONMEM_RMAP is {other}, and not anon_vma or family"),
    })
}

/// Runs `f`; the worlds that it makes have this reverse map.
pub fn over<R>(reverse_map: ReverseMapChoice, f: impl FnOnce() -> R) -> R {
    let before = REVERSE_MAP.replace(Some(reverse_map));
    let result = f();
    REVERSE_MAP.set(before);
    result
}

/// A page of the world: page 16 is the first that a case uses, in the middle of the address space.
pub(crate) const fn page(n: u64) -> Va {
    Va((16 + n) * P)
}

/// `n` pages from `first` on.
pub(crate) const fn pages(first: u64, n: u64) -> VaRange {
    VaRange { start: page(first), end: page(first + n) }
}

impl Kernel {
    /// A machine with `nr_frames` frames and no program.
    pub(crate) fn new(nr_frames: u64, lock_mode: LockMode) -> Self {
        Self::with_moves(nr_frames, lock_mode, MoveLocks::default())
    }

    /// The same with a choice of what guards a page that moves.
    pub(crate) fn with_moves(nr_frames: u64, lock_mode: LockMode, move_locks: MoveLocks) -> Self {
        let sim = Sim::new(nr_frames);
        let config = Config {
            lock_mode,
            move_locks,
            reverse_map: reverse_map(),
            mmap_min_addr: P,
            stack_guard_gap: P,
            ..Config::default()
        };
        let vm = Vm::new(sim.clone(), config).expect("frames for the memory manager");
        // Worlds are as many as scenarios, and they are copied in place: they live for ever.
        let leaked = Box::into_raw(Box::new(vm));
        // SAFETY: it comes from a box, and only `raze` frees it.
        let vm = unsafe { &*leaked };
        Self {
            sim,
            vm,
            leaked,
            mms: Default::default(),
            active: Default::default(),
            folio: RefCell::new(None),
            noted: Cell::new(None),
            noted_too: Cell::new(None),
            elsewhere: RefCell::new(None),
            many: RefCell::new(None),
            eaten: [const { Cell::new(None) }; 64],
            many_pins: RefCell::new(None),
            pinned: Default::default(),
            uffds: Default::default(),
            notes: Default::default(),
            flag: Atomic::new(0),
        }
    }

    /// Frees a world that no scenario keeps, all of whose programs have ended ([`check`](Self::check)).
    pub(crate) fn raze(self) {
        let vm = self.leaked;
        drop(self);
        // SAFETY: `with_moves` leaked it, and whoever borrowed from it was part of `self`.
        drop(unsafe { Box::from_raw(vm) });
    }

    /// A parent on CPU 0 that stored 7 in page 0, and its child, address space 1, which shares the page and
    /// runs on `cpu`.
    pub(crate) fn parent_and_child(cpu: u32) -> Self {
        let kernel = Self::new(64, LockMode::Mmap);
        kernel.spawn(0, &[0]);
        kernel.map(0, 0, 1, Prot::READ | Prot::WRITE);
        kernel.store(0, 0, 7).expect("frames");
        kernel.fork(0, 1, &[cpu]).expect("frames");
        kernel
    }

    /// Makes address space `i`, which runs on `cpus`.
    pub(crate) fn spawn(&self, i: usize, cpus: &[u32]) {
        let mm = self.vm.new_mm().expect("frames for an address space");
        self.run_on(i, mm, cpus);
    }

    /// Makes address space `child` a copy of `parent`, which runs on `cpus`.
    pub(crate) fn fork(&self, parent: usize, child: usize, cpus: &[u32]) -> Result<(), anonmem::Error> {
        let mm = self.mm(parent).fork()?;
        self.run_on(child, mm, cpus);
        Ok(())
    }

    fn run_on(&self, i: usize, mm: Mm<'static, Sim>, cpus: &[u32]) {
        cpus.iter().for_each(|cpu| mm.activate(CpuId(*cpu)));
        self.active[i].set(cpus.iter().fold(0, |set, cpu| set | 1 << cpu));
        *self.mms[i].borrow_mut() = Some(mm);
    }

    /// Lets `cpu` run address space `i`, too, as a context switch does.
    pub(crate) fn switch_to(&self, i: usize, cpu: u32) {
        // Whoever ends it later knows of the CPU before the CPU has anything to forget.
        self.active[i].set(self.active[i].get() | 1 << cpu);
        self.mm(i).activate(CpuId(cpu));
    }

    /// Address space `i`.
    pub(crate) fn mm(&self, i: usize) -> Ref<'_, Mm<'static, Sim>> {
        Ref::map(self.mms[i].borrow(), |mm| mm.as_ref().expect("the address space has not ended"))
    }

    /// Ends address space `i`: its CPUs leave it, then its last user is gone.
    pub(crate) fn exit(&self, i: usize) {
        let Some(mm) = self.mms[i].borrow_mut().take() else { return };
        for cpu in CpuSet::new(&[self.active[i].replace(0)]).iter() {
            self.sim.leave(cpu, mm.root());
            mm.deactivate(cpu);
        }
        drop(mm);
    }

    /// Maps `n` private pages from page `first` on.
    pub(crate) fn map(&self, i: usize, first: u64, n: u64, prot: Prot) {
        self.map_as(i, first, n, prot, MapFlags::empty(), MapBacking::Anonymous);
    }

    /// Maps `n` pages from page `first` on, of whatever `backing` has.
    pub(crate) fn map_as(
        &self,
        i: usize,
        first: u64,
        n: u64,
        prot: Prot,
        flags: MapFlags,
        backing: MapBacking,
    ) {
        let flags = MapFlags::FIXED | flags;
        let request = MmapRequest { addr: page(first), len: n * P, prot, flags, backing };
        let at = self.mm(i).mmap(request).expect("memory for a mapping");
        assert_eq!(at, page(first));
    }

    /// Whether address space `i` lives and has a mapping at page `n`.
    pub(crate) fn is_mapped(&self, i: usize, n: u64) -> bool {
        self.mms[i].borrow().as_ref().is_some_and(|mm| mm.vma_at(page(n)).is_some())
    }

    /// Loads the first word of page `n` as the program of address space `i`.
    pub(crate) fn load(&self, i: usize, n: u64) -> Result<u64, FaultOutcome> {
        self.load_word(i, n, 0)
    }

    /// Loads a word of page `n`.
    pub(crate) fn load_word(&self, i: usize, n: u64, word: u64) -> Result<u64, FaultOutcome> {
        self.access(i, || self.sim.user_load(self.mm(i).root(), Va(page(n).0 + 8 * word)))
    }

    /// Stores to the first word of page `n` as the program of address space `i`.
    pub(crate) fn store(&self, i: usize, n: u64, value: u64) -> Result<(), FaultOutcome> {
        self.store_word(i, n, 0, value)
    }

    /// Stores to a word of page `n`.
    pub(crate) fn store_word(&self, i: usize, n: u64, word: u64, value: u64) -> Result<(), FaultOutcome> {
        self.access(i, || self.sim.user_store(self.mm(i).root(), Va(page(n).0 + 8 * word), value))
    }

    /// Stores to a word of page `n` on the CPU that runs this, while the world is built too.
    pub(crate) fn store_here(&self, i: usize, n: u64, word: u64, value: u64) -> Result<(), FaultOutcome> {
        self.retry(i, || self.sim.user_store(self.mm(i).root(), Va(page(n).0 + 8 * word), value))
    }

    /// Tries `access` until it succeeds or the fault cannot be resolved. While the world is built or checked,
    /// the first CPU of the address space does it.
    fn access<T>(&self, i: usize, access: impl Fn() -> Result<T, Trap>) -> Result<T, FaultOutcome> {
        match CpuSet::new(&[self.active[i].get()]).iter().next() {
            Some(cpu) if !Sim::is_exploring() => Sim::on_cpu(cpu.index(), || self.retry(i, access)),
            Some(_) | None => self.retry(i, access),
        }
    }

    fn retry<T>(&self, i: usize, access: impl Fn() -> Result<T, Trap>) -> Result<T, FaultOutcome> {
        loop {
            match access() {
                Ok(value) => return Ok(value),
                Err(trap) => fault(&self.mm(i), trap)?,
            }
        }
    }

    /// Takes a reference to the folio of page `n` of address space `i`.
    pub(crate) fn hold(&self, i: usize, n: u64) {
        self.hold_frame(self.mm(i).pagemap(page(n)).pfn.expect("the page is present"));
    }

    /// Takes a reference to the folio that the frame holds now, without looking at any address space.
    pub(crate) fn hold_frame(&self, pfn: anonmem_hal::Pfn) {
        *self.folio.borrow_mut() = self.vm.frames().try_get(pfn);
    }

    /// The folio of [`hold`](Self::hold).
    pub(crate) fn folio(&self) -> Folio<'static, Sim> {
        self.folio.borrow().as_ref().expect("held").folio()
    }

    /// The anon_vma of page `n` of address space `i`.
    pub(crate) fn anon_vma_of(&self, i: usize, n: u64) -> Stamp {
        let page =
            self.frame_of(i, n).and_then(|pfn| self.vm.frames().try_get(pfn)).expect("the page is present");
        match page.folio().mapping() {
            Mapping::Anon(anon_vma) => anon_vma,
            Mapping::None | Mapping::Shm(_) | Mapping::Ksm(_) => panic!("an anonymous page"),
        }
    }

    /// Maps the folio of [`hold`](Self::hold) through another anon_vma once it is unmapped, as swap-in and
    /// UFFDIO_MOVE do: with the folio lock held. If it is still mapped, nothing happens. The entry that would
    /// map it is left out; the mapping lasts until the check.
    pub(crate) fn map_elsewhere(&self, anon_vma: Stamp, n: u64) {
        let folio = self.folio();
        if folio.is_mapped() {
            return;
        }
        let lock = self.folio.borrow().as_ref().expect("held").lock();
        let mapping = lock.map_exclusive(anon_vma, page(n).0 / P);
        *self.elsewhere.borrow_mut() = Some(mapping);
    }

    /// Walks the mappings of the folio of [`hold`](Self::hold), as reclaim does without the folio lock.
    /// Returns how many there are.
    pub(crate) fn walk_rmap(&self) -> u64 {
        self.walk_folio(self.folio())
    }

    /// As [`walk_rmap`](Self::walk_rmap), for page `n` of address space `i`, which nobody unmaps.
    pub(crate) fn walk_rmap_of(&self, i: usize, n: u64) -> u64 {
        let pfn = self.frame_of(i, n).expect("present");
        let page = self.vm.frames().try_get(pfn).expect("mapped");
        self.walk_folio(page.folio())
    }

    fn walk_folio(&self, folio: Folio<'static, Sim>) -> u64 {
        let mut mappings = 0;
        let _ = walk_mappings(self.vm, folio, |_| {
            mappings += 1;
            ControlFlow::<()>::Continue(())
        });
        mappings
    }

    /// What reclaim finds when it asks whether the folio of [`hold`](Self::hold) was used: how many entries
    /// map it; `None` if it is locked.
    pub(crate) fn ask_referenced(&self) -> Option<u64> {
        let page = self.folio.borrow().as_ref().expect("held").clone();
        folio_referenced_by_reclaim(self.vm, &page).map(|found| found.mappings)
    }

    /// Makes a userfaultfd for address space 0.
    pub(crate) fn userfaultfd(&self, features: UffdFeatures) {
        self.userfaultfd_of(0, 0, features);
    }

    /// Makes userfaultfd number `number`, of address space `i`.
    pub(crate) fn userfaultfd_of(&self, number: usize, i: usize, features: UffdFeatures) {
        let uffd = self.mm(i).userfaultfd(UffdFaults::Any).expect("frames");
        uffd.agree(features).expect("features that there are");
        *self.uffds[number].borrow_mut() = Some(uffd);
    }

    /// Userfaultfd number `number`.
    pub(crate) fn uffd_number(&self, number: usize) -> Ref<'_, Uffd<'static, Sim>> {
        Ref::map(self.uffds[number].borrow(), |uffd| uffd.as_ref().expect("made"))
    }

    /// The userfaultfd of [`userfaultfd`](Self::userfaultfd).
    pub(crate) fn uffd(&self) -> Ref<'_, Uffd<'static, Sim>> {
        self.uffd_number(0)
    }

    /// Closes all userfaultfds.
    pub(crate) fn close_uffd(&self) {
        for uffd in &self.uffds {
            let closed = uffd.borrow_mut().take();
            drop(closed);
        }
    }

    /// Lets it watch `n` pages from page `first` on.
    pub(crate) fn watch(&self, first: u64, n: u64, mode: RegisterMode) {
        self.uffd().register(page(first), n * P, mode).expect("a mapping that can be watched");
    }

    /// Moves page `src` to page `dst`; says whether it did, or why not.
    pub(crate) fn move_page(&self, dst: u64, src: u64) -> Result<(), Error> {
        self.uffd().move_pages(page(dst), page(src), P, MoveMode::empty()).result()
    }

    /// Puts the page of zeroes at page `n`.
    pub(crate) fn zeropage(&self, n: u64) -> Result<(), Error> {
        self.uffd().zeropage(page(n), P, FillMode::empty()).result()
    }

    /// Protects page `n` against writes, or lets it be written again.
    pub(crate) fn write_protect(&self, n: u64, mode: ProtectMode) -> Result<(), Error> {
        self.uffd().write_protect(page(n), P, mode)
    }

    /// Gives back the reference of [`hold`](Self::hold).
    pub(crate) fn let_go(&self) {
        drop(self.folio.borrow_mut().take());
    }

    /// Lets `n` more mappings share the folio of [`hold`](Self::hold). They are in no page table and never
    /// end, so this world can be recounted only after [`unshare_many`](Self::unshare_many).
    pub(crate) fn share_many(&self, n: u64) {
        let walked = walk_mappings(self.vm, self.folio(), |hit| {
            let Some(Mapped::Shared(..)) = hit.mapped() else { return ControlFlow::Continue(()) };
            for _ in 0..n {
                let Some(Mapped::Shared(page, _)) = hit.mapped() else { unreachable!("it is locked") };
                let owner = page.try_dup().expect("counts are wide enough");
                // SAFETY: only the lifetime changes, and the memory manager lives for ever.
                let owner = unsafe { core::mem::transmute::<Shared<'_, Sim>, Shared<'static, Sim>>(owner) };
                *self.many.borrow_mut() = Some((ManuallyDrop::new(owner), n));
            }
            ControlFlow::Break(())
        });
        assert!(walked.is_some_and(|walked| walked.is_break()), "the page is shared");
    }

    /// Ends all the mappings that [`share_many`](Self::share_many) made.
    pub(crate) fn unshare_many(&self) {
        let Some((owner, n)) = self.many.borrow_mut().take() else { return };
        for _ in 0..n {
            // SAFETY: `share_many` forgot as many owners, all of which had these bits; each is dropped once.
            drop(unsafe { core::ptr::read(&*owner) });
        }
    }

    /// Takes frames, as a kernel would for its own use, until `enough`.
    pub(crate) fn eat_until(&self, enough: impl Fn() -> bool) {
        let mut places = self.eaten.iter();
        while !enough() {
            places
                .next()
                .expect("less memory than that")
                .set(self.vm.frames().alloc_kernel(anonmem_hal::Order::ZERO).ok());
        }
    }

    /// Gives back what [`eat_until`](Self::eat_until) took.
    pub(crate) fn give_back(&self) {
        self.eaten.iter().filter_map(Cell::take).for_each(drop);
    }

    /// How many mappings the frame of [`note_frame`](Self::note_frame) has.
    pub(crate) fn noted_maps(&self) -> u64 {
        let pfn = self.noted.get().expect("noted");
        self.vm.frames().folio(pfn).map_or(0, |folio| folio.counts().maps())
    }

    /// Starts swapping to `device`, which has `slots` slots.
    pub(crate) fn swap_on(&self, device: u8, slots: u64) {
        self.vm.swap_on(device, slots, -i32::from(device)).expect("frames for the slots");
    }

    /// Asks for page `n` of address space `i` to be swapped out (`MADV_PAGEOUT`): only if nobody else maps
    /// it.
    pub(crate) fn page_out(&self, i: usize, n: u64) {
        self.madvise(i, n, Advice::PageOut);
    }

    /// Gives advice about page `n` of address space `i`.
    pub(crate) fn madvise(&self, i: usize, n: u64, advice: Advice) {
        self.mm(i).madvise(page(n), P, advice).expect("a mapping that takes advice");
    }

    /// Clears the soft-dirty bits of address space `i`.
    pub(crate) fn clear_soft_dirty(&self, i: usize) {
        self.mm(i).clear_refs(ClearRefs::SoftDirty);
    }

    /// Whether page `n` of address space `i` was written since.
    pub(crate) fn is_soft_dirty(&self, i: usize, n: u64) -> bool {
        self.mm(i).pagemap(page(n)).soft_dirty
    }

    /// The frame of page `n` of address space `i`, if it is present.
    pub(crate) fn frame_of(&self, i: usize, n: u64) -> Option<Pfn> {
        self.mm(i).pagemap(page(n)).pfn
    }

    /// Notes the frame of page `n` of address space `i`, for [`reclaim_noted`](Self::reclaim_noted): the hand
    /// of the clock needs no page table to find it.
    pub(crate) fn note_frame(&self, i: usize, n: u64) {
        self.noted.set(self.frame_of(i, n));
    }

    /// Reclaims the frame that was noted.
    pub(crate) fn reclaim_noted(&self) -> bool {
        self.reclaim(self.noted.get().expect("noted"))
    }

    /// Reclaims whatever page the frame holds now, as the hand of the clock does when nothing is spared.
    /// Returns whether it is free.
    pub(crate) fn reclaim(&self, pfn: Pfn) -> bool {
        self.vm.frames().try_get(pfn).is_some_and(|page| self.vm.reclaim_folio(page))
    }

    /// Moves the folio that the noted frame holds now to another frame, if it can go.
    pub(crate) fn migrate_noted(&self) -> bool {
        let pfn = self.noted.get().expect("noted");
        self.vm.frames().try_get(pfn).is_some_and(|page| self.vm.migrate_folio(page).is_ok())
    }

    /// Lets every entry of the noted frame wait for its page, as after a move whose walk missed them all.
    pub(crate) fn leave_noted_behind(&self) {
        let page = self.vm.frames().try_get(self.noted.get().expect("noted")).expect("mapped");
        leave_behind(self.vm, &page);
    }

    /// Lets the scanner of KSM free the nodes whose pages are gone.
    pub(crate) fn forget_gone(&self) {
        self.vm.ksm_forget_gone();
    }

    /// Lets the scanner of KSM look at page `n` of address space `i`.
    pub(crate) fn look_for_equal(&self, i: usize, n: u64) {
        let pfn = self.frame_of(i, n).expect("present");
        self.vm.ksm_scan_frames([pfn]).expect("frames for its table");
    }

    /// Notes a second frame.
    pub(crate) fn note_frame_too(&self, i: usize, n: u64) {
        self.noted_too.set(self.frame_of(i, n));
    }

    /// Lets it look at whatever both noted frames hold now, at once.
    pub(crate) fn look_at_both(&self) {
        let both = self.noted.get().into_iter().chain(self.noted_too.get());
        self.vm.ksm_scan_frames(both).expect("it has its table");
    }

    /// Lets it look at whatever the noted frame holds now.
    pub(crate) fn look_at_noted(&self) {
        self.vm.ksm_scan_frames(self.noted.get()).expect("it has its table");
    }

    /// Pins page `n` of address space `i` under the mmap lock, as pinned range number `pin`.
    pub(crate) fn pin(&self, pin: usize, i: usize, n: u64, flags: PinFlags) -> Result<(), Error> {
        let range = self.mm(i).pin(pages(n, 1), flags)?;
        *self.pinned[pin].borrow_mut() = Some(range);
        Ok(())
    }

    /// The same without a lock, as far as that goes.
    pub(crate) fn pin_fast(&self, pin: usize, i: usize, n: u64, flags: PinFlags) -> Result<(), Error> {
        let range = self.mm(i).pin_fast(pages(n, 1), flags)?;
        *self.pinned[pin].borrow_mut() = Some(range);
        Ok(())
    }

    /// The frame that pinned range number `pin` starts with, if it is pinned.
    pub(crate) fn pinned_frame(&self, pin: usize) -> Option<Pfn> {
        self.pinned[pin].borrow().as_ref().and_then(|range| range.runs().next()).map(|run| run.first)
    }

    /// What a device reads that was given pinned range number `pin`.
    pub(crate) fn device_load(&self, pin: usize) -> u64 {
        self.sim.device_load(self.pinned_frame(pin).expect("pinned"))
    }

    /// Stores to it as a device.
    pub(crate) fn device_store(&self, pin: usize, value: u64) {
        self.sim.device_store(self.pinned_frame(pin).expect("pinned"), value);
    }

    /// Pins the frame of [`note_frame`](Self::note_frame) as often as can be counted, but for `room` times.
    /// Nobody has those pins, so this world can be recounted only after [`unpin_many`](Self::unpin_many).
    pub(crate) fn pin_noted_but(&self, room: u64) {
        let pfn = self.noted.get().expect("noted");
        let mut taken = 0;
        while let Some(pin) = self.vm.frames().try_pin(pfn) {
            *self.many_pins.borrow_mut() = Some((ManuallyDrop::new(pin), 0));
            taken += 1;
        }
        self.drop_pins(room);
        if let Some((_, n)) = self.many_pins.borrow_mut().as_mut() {
            *n = taken - room;
        }
    }

    /// Ends all the pins that [`pin_noted_but`](Self::pin_noted_but) took.
    pub(crate) fn unpin_many(&self) {
        let n = self.many_pins.borrow().as_ref().map_or(0, |(_, n)| *n);
        self.drop_pins(n);
        self.many_pins.borrow_mut().take();
    }

    fn drop_pins(&self, n: u64) {
        let pins = self.many_pins.borrow();
        let Some((pin, _)) = pins.as_ref() else { return };
        for _ in 0..n {
            // SAFETY: `pin_noted_but` forgot as many owners, all of which had these bits; each is dropped
            // once.
            drop(unsafe { core::ptr::read(&**pin) });
        }
    }

    /// The frame that was noted.
    pub(crate) fn noted_frame(&self) -> Option<Pfn> {
        self.noted.get()
    }

    /// Unpins a range.
    pub(crate) fn unpin(&self, pin: usize, unpin: Unpin) {
        let Some(mut range) = self.pinned[pin].borrow_mut().take() else { return };
        range.set_unpin(unpin);
        drop(range);
    }

    /// Recounts the world, then lets all programs end, and recounts it again: nothing may be left.
    pub(crate) fn check(&self) -> Result<(), String> {
        drop(self.elsewhere.borrow_mut().take());
        self.let_go();
        self.vm.validate().map_err(|v| v.to_string())?;
        self.close_uffd();
        self.give_back();
        self.vm.validate().map_err(|v| v.to_string())?;
        for mm in 0..MMS {
            self.exit(mm);
        }
        if self.pinned.iter().any(|range| range.borrow().is_some()) {
            self.vm.validate().map_err(|v| format!("after all programs ended, with pins: {v}"))?;
        }
        (0..self.pinned.len()).for_each(|pin| self.unpin(pin, Unpin::Clean));
        self.vm.drain();
        self.vm.validate().map_err(|v| format!("after all programs ended: {v}"))?;
        let s = self.vm.stats();
        let left = [s.mms, s.vmas, s.anon_vmas, s.chains, s.user, s.tables];
        match left {
            [0, 0, 0, 0, 0, 0] => self.check_devices(),
            _ => Err(format!("left behind: {left:?} (mms, vmas, anon_vmas, chains, pages, tables)")),
        }
    }

    /// Nothing is on the swap devices, and the memory manager says so too.
    fn check_devices(&self) -> Result<(), String> {
        let used: u64 = self.vm.swap_devices().map(|device| device.used).sum();
        match (used, self.sim.swap_stored()) {
            (0, 0) => Ok(()),
            (used, stored) => {
                Err(format!("{used} slots in use and {stored} pages on the devices are left behind"))
            }
        }
    }

    /// Names what a case shows most.
    pub(crate) fn names(&self, names: &mut Names) {
        names.add(&self.flag, "flag");
        let roots = (0..MMS).filter_map(|i| Some((i, self.mms[i].borrow().as_ref()?.root()))).collect();
        naming::name_objects(names, self.vm, &self.sim, roots);
        for (device, slot) in (0..DEVICES as u8).flat_map(|d| (0..SLOTS as u64).map(move |s| (d, s))) {
            let (at, len) = self.sim.swap_slot(device, slot);
            names.range(at, len, format!("swap{device}.{slot}"));
        }
    }
}

fn fault(mm: &Mm<'static, Sim>, trap: Trap) -> Result<(), FaultOutcome> {
    let access = match trap.access {
        Access::Read => FaultAccess::Read,
        Access::Write => FaultAccess::Write,
    };
    match mm.handle_fault(trap.va, access) {
        FaultOutcome::Done => Ok(()),
        outcome => Err(outcome),
    }
}

/// A scenario over a kernel.
pub(crate) fn scenario(name: &str, version: u64, build: impl Fn() -> Kernel + 'static) -> Scenario<Kernel> {
    let scenario = Scenario::new(name, version, build).names(Kernel::names).check(Kernel::check);
    // SAFETY: nothing below `Kernel` uses the heap; what CPUs change is the kernel itself, the memory manager
    // and its machine, all of which stay where they are.
    unsafe {
        scenario.restored_by_copy(|kernel, regions| {
            kernel.sim.regions(regions);
            regions.push(Region::by_access(
                core::ptr::from_ref(kernel.vm).cast_mut().cast(),
                size_of::<Vm<Sim>>(),
            ));
        })
    }
}

/// Boxes a scenario.
pub(crate) fn boxed(scenario: Scenario<Kernel>) -> Box<dyn Program> {
    Box::new(scenario)
}

#[cfg(test)]
mod tests;

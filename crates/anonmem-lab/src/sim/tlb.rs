//! What programs do: loads and stores through translations, which every CPU caches.
//!
//! A translation stays until it is flushed, whatever happens to the page table: a flush that is missing or
//! late shows as a stale access. A walk reads the entries one by one and sets accessed and dirty bits with a
//! compare-exchange; a flush that arrives during a walk discards it, as hardware does. A user access and the
//! look-up that allows it are one step, because a flush is acknowledged between instructions.
//!
//! A flush reaches the CPUs one after the other, in every order, and other steps may come in between: that
//! is how late interrupts are explored. It orders the MMU's doings with those of its sender, and nothing that
//! code does: not all hardware sends interrupts.

use super::{
    Sim,
    broken::broken,
    choose,
    listed::observe_interrupt,
    misfortune,
    probe::{inside_frame, running, walk_exchange, walk_load},
    translations::{Translation, Upper},
};
use crate::{
    explorer::{engine::with, failure::FailureKind, op::Kind, step::turn},
    limits::address,
    memory::By,
    trace::{Action, Event},
};
use anonmem_hal::{
    Arch, CpuId, CpuSet, Entry, FlushRange, Mmu, Order, PAGE_SIZE, Pfn, PhysMem, Present, Pte, Sched, Va,
    arch::Toy,
};
use core::{
    panic::Location,
    sync::atomic::{AtomicU64, Ordering},
};

/// How a program accesses a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// A load.
    Read,
    /// A store.
    Write,
}

/// The access needs the memory manager: call `handle_fault` and try again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Trap {
    /// The address.
    pub va: Va,
    /// What was tried.
    pub access: Access,
}

impl Sim {
    /// Loads the word at `va` of the address space `root`, as a program on the current CPU.
    ///
    /// # Errors
    /// [`Trap`]: the access needs the memory manager.
    #[track_caller]
    pub fn user_load(&self, root: Pfn, va: Va) -> Result<u64, Trap> {
        self.user_access(root, va, Access::Read, 0, Location::caller())
    }

    /// Stores `value` at `va` of the address space `root`, as a program on the current CPU.
    ///
    /// # Errors
    /// [`Trap`]: the access needs the memory manager.
    #[track_caller]
    pub fn user_store(&self, root: Pfn, va: Va, value: u64) -> Result<(), Trap> {
        self.user_access(root, va, Access::Write, value, Location::caller()).map(|_| ())
    }

    /// Loads the first word of a frame as a device does that was given the frame's number: without any
    /// translation. The frame must not be free.
    #[track_caller]
    pub fn device_load(&self, pfn: Pfn) -> u64 {
        self.device_access(pfn, Access::Read, 0, Location::caller())
    }

    /// Stores to the first word of a frame as a device does. The frame must not be free.
    #[track_caller]
    pub fn device_store(&self, pfn: Pfn, value: u64) {
        self.device_access(pfn, Access::Write, value, Location::caller());
    }

    fn device_access(&self, pfn: Pfn, access: Access, value: u64, at: &'static Location<'static>) -> u64 {
        let frame = self.arena.data_address(pfn);
        if running() {
            let kind = if access == Access::Write { Kind::Store } else { Kind::Load };
            turn(kind, frame, Ordering::Relaxed, None, at);
        }
        if self.arena.is_free(pfn) {
            broken(FailureKind::Frame, format!("a device reaches the free frame {}", pfn.0), at);
        }
        if running() {
            inside_frame(frame, By::Code, at);
        }
        let word = match access {
            Access::Read => self.arena.read(pfn, 0),
            Access::Write => {
                self.arena.write(pfn, 0, value);
                value
            }
        };
        if running() {
            with(|e| {
                let verb = if access == Access::Write { "device stores" } else { "device loads" };
                e.record(|e| Event::new(e, Some(frame), "", Action::Word(format!("{verb} {word}")), at));
                e.cpus[Self::current_cpu().index()].spin.add_unknown();
                e.tick();
            });
        }
        word
    }

    /// Makes `cpu` forget the address space `root`, as it does when it loads another one.
    #[track_caller]
    pub fn leave(&self, cpu: CpuId, root: Pfn) {
        if running() {
            touch(Kind::Store, cpu, Location::caller());
        }
        self.arena.state(|s| s.tlbs[cpu.index()].flush(root, FlushRange::All));
    }

    fn user_access(
        &self,
        root: Pfn,
        va: Va,
        access: Access,
        value: u64,
        at: &'static Location<'static>,
    ) -> Result<u64, Trap> {
        let trap = Trap { va, access };
        let (page, me) = (va.page_down(), Self::current_cpu().index());
        if running() && with(|e| e.inject.fault) && misfortune("a fault for no reason") {
            return Err(trap);
        }
        if running() && with(|e| e.inject.mmu) && misfortune("the TLB drops the translation") {
            self.arena.state(|s| s.tlbs[me].drop_where(|t| t.covers(root, page)));
        }
        self.speculate(root, Va(page.0 + PAGE_SIZE as u64));
        loop {
            let flushes = self.arena.state(|s| s.tlbs[me].flushes);
            let cached = self.arena.state(|s| s.tlbs[me].find(root, page));
            let usable = |t: &Translation| access == Access::Read || t.write && t.dirty;
            let translation = match cached {
                Some(t) if usable(&t) => t,
                Some(t) if access == Access::Write && !t.write => {
                    // A permission fault drops the translation: it may be out of date.
                    self.arena.state(|s| s.tlbs[me].drop_where(|e| e.covers(root, page)));
                    match self.walk(root, page, access) {
                        Some(walked) => walked,
                        None => return Err(trap),
                    }
                }
                _ => match self.walk(root, page, access) {
                    Some(walked) => walked,
                    None => return Err(trap),
                },
            };
            if let Some(word) = self.access_through(me, translation, flushes, va, access, value, at) {
                return Ok(word);
            }
        }
    }

    /// Translates `va`, which nobody has asked for yet, if that may happen and does.
    #[track_caller]
    fn speculate(&self, root: Pfn, va: Va) {
        if !running() || !with(|e| e.inject.speculation) || !misfortune("the next page is translated, too") {
            return;
        }
        let me = Self::current_cpu().index();
        if self.arena.state(|s| s.tlbs[me].find(root, va)).is_some_and(|cached| cached.pages > 1) {
            // A leaf that is remembered translates it already.
            return;
        }
        if let Some(walked) = self.walk(root, va, Access::Read) {
            self.keep(me, walked, Location::caller());
        }
    }

    /// Adds a translation to the TLB of `cpu`.
    fn keep(&self, cpu: usize, translation: Translation, at: &'static Location<'static>) {
        if let Some(old) = self.arena.state(|s| s.tlbs[cpu].of_another_size(&translation)) {
            let message = format!(
                "CPU{cpu} has translations of {} and of {} pages for {:?}",
                old.pages, translation.pages, translation.va
            );
            broken(FailureKind::StaleTranslation, message, at);
        }
        if self.arena.state(|s| s.tlbs[cpu].insert(translation)) && running() {
            with(|e| e.cut("a full TLB forgot a translation"));
        }
    }

    /// The access itself, one step with the look-up. `None` if a flush came in between.
    #[expect(clippy::too_many_arguments, reason = "one access, as the hardware sees it")]
    fn access_through(
        &self,
        me: usize,
        translation: Translation,
        flushes: u32,
        va: Va,
        access: Access,
        value: u64,
        at: &'static Location<'static>,
    ) -> Option<u64> {
        let pfn = translation.frame_of(va);
        let frame = self.arena.data_address(pfn);
        if running() {
            let kind = if access == Access::Write { Kind::Store } else { Kind::Load };
            turn(kind, frame, Ordering::Relaxed, Some(address::TLB + me), at);
        }
        if self.arena.state(|s| s.tlbs[me].flushes) != flushes {
            return None;
        }
        self.keep(me, translation, at);
        if self.arena.is_free(pfn) {
            let message = format!("CPU{me} reaches the free frame {} through {va:?}", pfn.0);
            broken(FailureKind::StaleTranslation, message, at);
        }
        if running() {
            inside_frame(frame, By::Mmu, at);
        }
        let offset = va.page_offset();
        let word = match access {
            Access::Read => self.arena.read(pfn, offset),
            Access::Write => {
                self.arena.write(pfn, offset, value);
                value
            }
        };
        if running() {
            with(|e| {
                let verb = if access == Access::Write { "program stores" } else { "program loads" };
                let word = format!("{verb} {word} at {va:?}");
                e.record(|e| Event::new(e, Some(frame), "", Action::Word(word), at));
                e.cpus[me].spin.add_unknown();
                e.tick();
            });
        }
        Some(word)
    }

    /// Walks the tables for `va` as hardware does. `None`: not allowed. A flush that comes while it walks
    /// makes it begin anew: it reads no table that the flush's sender may free now.
    fn walk(&self, root: Pfn, va: Va, access: Access) -> Option<Translation> {
        loop {
            if let Some(walked) = self.walk_once(root, va, access) {
                return walked;
            }
        }
    }

    /// Walks until a flush comes: then `None`.
    #[track_caller]
    fn walk_once(&self, root: Pfn, va: Va, access: Access) -> Option<Option<Translation>> {
        let me = Self::current_cpu().index();
        let begun = self.arena.state(|s| s.tlbs[me].flushes);
        let walker = Walker { sim: self, me, begun, at: Location::caller() };
        let mut table = root;
        let remembered = self.remembered_table(me, root, va);
        let levels = if remembered.is_some() { 1..1 } else { 1..Toy::LEVELS };
        for level in levels.rev() {
            let raw = walker.entry(table, va, level)?;
            match Toy::decode_entry(raw, level) {
                Entry::None | Entry::Migration { .. } => return Some(None),
                Entry::Table(next) => table = next,
                Entry::Leaf(leaf) => {
                    let encode = |leaf| Toy::encode_entry(Entry::Leaf(leaf), level);
                    return walker.end(root, (table, va, level), (raw, leaf), access, encode);
                }
            }
        }
        let table = remembered.unwrap_or(table);
        let upper = Upper { root, entry: Upper::entry_of(va), table };
        self.arena.state(|s| s.tlbs[me].insert_upper(upper));
        let raw = walker.entry(table, va, 0)?;
        let Pte::Present(present) = Toy::decode_pte(raw) else { return Some(None) };
        let encode = |page| Toy::encode_pte(Pte::Present(page));
        walker.end(root, (table, va, 0), (raw, present), access, encode)
    }

    /// The last table for `va`, if the CPU remembers it and begins its walk there.
    #[track_caller]
    fn remembered_table(&self, me: usize, root: Pfn, va: Va) -> Option<Pfn> {
        if !running() || !with(|e| e.inject.speculation) {
            return None;
        }
        let table = self.arena.state(|s| s.tlbs[me].find_upper(root, va))?;
        misfortune("the walk begins at a remembered table").then_some(table)
    }

    fn slot(&self, table: Pfn, va: Va, level: u32) -> &AtomicU64 {
        let slot = self.direct_map(table).cast::<u64>();
        // SAFETY: an index is below the number of entries, and a table fits its frame.
        let slot = unsafe { slot.add(Toy::index(va, level)) };
        // SAFETY: the entries of a table are only accessed as atomics; the arena outlives `self`.
        unsafe { AtomicU64::from_ptr(slot.as_ptr()) }
    }
}

/// A walk of a CPU, until a flush ends it.
struct Walker<'s> {
    sim: &'s Sim,
    me: usize,
    begun: u32,
    at: &'static Location<'static>,
}

impl Walker<'_> {
    fn goes_on(&self) -> bool {
        self.sim.arena.state(|s| s.tlbs[self.me].flushes) == self.begun
    }

    fn entry(&self, table: Pfn, va: Va, level: u32) -> Option<u64> {
        let slot = self.sim.slot(table, va, level);
        let mut freed = false;
        let read = || {
            freed = self.sim.arena.is_free(table);
            slot.load(Ordering::Acquire)
        };
        let entry = walk_load(slot.as_ptr().addr(), address::TLB + self.me, || self.goes_on(), read);
        if freed {
            let message = format!("CPU{} walks the free table {} for {va:?}", self.me, table.0);
            broken(FailureKind::StaleTranslation, message, self.at);
        }
        entry
    }

    /// Ends at an entry that says `present` as `raw`: sets accessed, and dirty for a store.
    fn end(
        &self,
        root: Pfn,
        at: (Pfn, Va, u32),
        (raw, present): (u64, Present),
        access: Access,
        encode: impl Fn(Present) -> u64,
    ) -> Option<Option<Translation>> {
        let (_, va, level) = at;
        if !allows(present, access) || !self.sim.arena.has(present.pfn) {
            return Some(None);
        }
        let marked = Present { young: true, dirty: present.dirty || access == Access::Write, ..present };
        if marked != present && !self.exchange(at, raw, encode(marked))? {
            return None;
        }
        Some(Some(Translation::of(root, va, level, marked)))
    }

    /// Whether the entry was as it should be, and changed.
    fn exchange(&self, (table, va, level): (Pfn, Va, u32), old: u64, new: u64) -> Option<bool> {
        let slot = self.sim.slot(table, va, level);
        let exchange = || match slot.compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire) {
            Ok(found) => (found, Some(new)),
            Err(found) => (found, None),
        };
        walk_exchange(slot.as_ptr().addr(), address::TLB + self.me, || self.goes_on(), exchange)
    }
}

/// A step on the translations of `cpu`.
fn touch(kind: Kind, cpu: CpuId, at: &'static Location<'static>) {
    turn(kind, address::TLB + cpu.index(), Ordering::Relaxed, None, at);
}

fn allows(present: Present, access: Access) -> bool {
    match access {
        Access::Read => present.prot.read,
        Access::Write => present.prot.read && present.prot.write,
    }
}

// SAFETY: a flush takes the translations out of the simulated TLBs before it returns; misfortunes that a case
// injects are reported when they are used, not obeyed.
unsafe impl Mmu for Sim {
    unsafe fn init_root(&self, root: Pfn) {
        // SAFETY: the table is new.
        unsafe { self.zero(root, Order::ZERO) };
    }

    #[track_caller]
    fn flush(&self, cpus: CpuSet<'_>, root: Pfn, what: FlushRange) {
        let at = Location::caller();
        let nr_cpus = Self::nr_cpus() as u32;
        let mut left: Vec<CpuId> = cpus.iter().filter(|c| c.0 < nr_cpus).collect();
        while !left.is_empty() {
            let next = left.remove(choose(left.len(), "the next CPU to answer the flush"));
            let tlb = address::TLB + next.index();
            if next != Self::current_cpu() {
                observe_interrupt();
            }
            if running() {
                touch(Kind::Store, next, at);
            }
            self.arena.state(|s| s.tlbs[next.index()].flush(root, what));
            if running() {
                with(|e| {
                    let word = format!("flush {what:?}");
                    e.record(|e| Event::new(e, Some(tlb), "", Action::Word(word), at));
                    let (mine, me, other) = (e.now(), e.current, next.index());
                    let last = e.cpus[other].flushed(other, &mine);
                    let over = &mut e.cpus[me].views.now.flushed.0[other];
                    *over = last.max(*over);
                    e.tick();
                });
            }
        }
    }

    #[track_caller]
    fn flush_local(&self, root: Pfn, va: Va) {
        let me = Self::current_cpu().index();
        if running() {
            touch(Kind::Store, CpuId(me as u32), Location::caller());
        }
        let page = va.page_down();
        self.arena.state(|s| {
            s.tlbs[me].drop_where(|t| t.covers(root, page));
            s.tlbs[me].upper = [None; 2];
        });
    }
}

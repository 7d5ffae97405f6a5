//! A software MMU: walks the page tables that are in the arena, and keeps a TLB per CPU.
//!
//! It may be as wrong as hardware may:
//!
//! - A translation stays cached, with the permissions it had, until it is flushed on *this* CPU or evicted.
//!   Tables above the last level's entries are cached too, so a table that is freed without a flush is
//!   walked after its death. Entries are tagged by address space, as with PCIDs: switching flushes nothing.
//! - A leaf is cached as one translation of all its pages, beside those of single pages. If a CPU comes to
//!   hold both for one address, it panics: real ones use either, or take a machine check. Whoever makes a
//!   leaf a table flushes the leaf first.
//! - A walk sets accessed, and dirty for a store, by compare-exchange on the entry: at any moment between
//!   two instructions of the kernel. A store through a clean cached translation walks again to set dirty.
//! - A CPU speculates: now and then it loads the translation of a neighbouring page unasked, and sets
//!   accessed there.
//!
//! **Flushes.** Translating and accessing are one step under the lock of the CPU's TLB, and
//! [`Mmu::flush`] takes that lock for each target and removes the entries itself. So when it returns, no
//! access through an old translation is still on its way: what an acknowledged interrupt means. Between two
//! accesses a target takes the flush at any point, which is where hardware would deliver the interrupt;
//! waiting for a target that is deep in kernel code would add no behaviour, because there it uses no user
//! translation.
//!
//! A checked machine also knows the state of every frame: a walk through a freed table, or an access to a
//! freed page, panics and names address and frame.
//!
//! Source: Intel SDM volume 3A, 5.10 (caching translation information).

use crate::{
    Checks, Hosted,
    arena::Arena,
    tlb::{Tlb, Translation},
};
use anonmem_hal::{Arch, CpuId, CpuSet, Entry, FlushRange, Mmu, Pfn, Present, Pte, Sched, Va, VaRange};
use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

/// One in this many accesses loads a neighbour's translation.
const SPECULATE_ONE_IN: u64 = 32;
/// One in this many flushes is held up, so that the window between unmapping and flushing is wide.
const DELAY_ONE_IN: u64 = 8;

/// What a program does with an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// A load.
    Read,
    /// A store, or an atomic instruction.
    Write,
    /// An instruction fetch.
    Exec,
}

/// What a walk ends at: an entry for a page, or a leaf for many.
struct Walked {
    to: Present,
    pages: u64,
}

impl Walked {
    fn frame_of(&self, va: Va) -> Pfn {
        self.to.pfn.offset(va.page() & (self.pages - 1))
    }

    fn translation(&self, root: Pfn, va: Va) -> Translation {
        Translation { root, page: va.page() & !(self.pages - 1), pages: self.pages, to: self.to }
    }
}

/// Who reached a frame, for messages.
struct Reached {
    what: &'static str,
    root: Pfn,
    va: Va,
}

impl fmt::Display for Reached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {:?} in the address space of root {:#x}", self.what, self.va, self.root.0)
    }
}

fn allows(to: Present, access: Access) -> bool {
    match access {
        Access::Read => to.prot.read,
        Access::Write => to.prot.write,
        Access::Exec => to.prot.exec,
    }
}

/// The entry as the hardware leaves it after the access.
fn touched(to: Present, access: Access) -> Present {
    Present { young: true, dirty: to.dirty || access == Access::Write, ..to }
}

impl<C: Checks, A: Arch> Hosted<C, A> {
    /// Does one access to bytes of one page: translates `va` on `cpu` and runs `f(arena, frame)` before any
    /// flush can come between. `None` is a page fault; nothing was accessed.
    pub(crate) fn access<R>(
        &self,
        cpu: CpuId,
        root: Pfn,
        va: Va,
        access: Access,
        f: impl FnOnce(&Arena, Pfn) -> R,
    ) -> Option<R> {
        if !C::CHECKED {
            let walked = self.walk(root, va, access, None)?;
            return Some(f(&self.arena, walked.frame_of(va)));
        }
        let mut tlb = self.tlbs.lock(cpu);
        let frame = self.translate(&mut tlb, root, va, access)?;
        self.arena.assert_allocated(frame, &Reached { what: "a translation", root, va });
        let result = f(&self.arena, frame);
        if tlb.one_in(SPECULATE_ONE_IN) {
            self.speculate(&mut tlb, root, va);
        }
        Some(result)
    }

    /// The frame that `va` is translated to.
    fn translate(&self, tlb: &mut Tlb, root: Pfn, va: Va, access: Access) -> Option<Pfn> {
        match tlb.find(root, va.page()) {
            Some(cached) if !allows(cached.to, access) => {
                // A denial, which hardware confirms by a walk: that drops what it denies.
                tlb.drop_page(root, va.page());
            }
            Some(cached) if access != Access::Write || cached.to.dirty => return Some(cached.frame_of(va)),
            // A miss; or a store through a clean translation, which sets dirty by a walk and keeps what it
            // has.
            Some(_) | None => {}
        }
        let walked = self.walk(root, va, access, Some(tlb))?;
        tlb.insert(walked.translation(root, va));
        Some(walked.frame_of(va))
    }

    /// Loads the translation of a neighbouring page, as a processor may at any time.
    fn speculate(&self, tlb: &mut Tlb, root: Pfn, va: Va) {
        let neighbour = if tlb.one_in(2) { Va(va.0 ^ 0x1000) } else { Va(va.0.wrapping_add(0x1000)) };
        if neighbour < A::USER_END
            && tlb.find(root, neighbour.page()).is_none()
            && let Some(walked) = self.walk(root, neighbour, Access::Read, Some(tlb))
        {
            tlb.insert(walked.translation(root, neighbour));
        }
    }

    /// Walks the tables and sets accessed and dirty, of a page or of a leaf.
    fn walk(&self, root: Pfn, va: Va, access: Access, mut tlb: Option<&mut Tlb>) -> Option<Walked> {
        if va >= A::USER_END {
            return None;
        }
        let mut level = A::LEVELS - 1;
        let mut table = root;
        let span = va.0 >> A::shift(1);
        if let Some(tlb) = &tlb
            && let Some(cached) = tlb.find_table(root, span)
        {
            (level, table) = (0, cached);
        }
        while level > 0 {
            match self.walk_entry(root, table, va, level, access)? {
                Entry::Table(next) => table = next,
                Entry::Leaf(to) => return Some(Walked { to, pages: 1 << (A::shift(level) - A::shift(0)) }),
                Entry::None | Entry::Migration { .. } => return None,
            }
            level -= 1;
            if level == 0
                && let Some(tlb) = &mut tlb
            {
                tlb.insert_table(root, span, table);
            }
        }
        Some(Walked { to: self.walk_last(root, table, va, access)?, pages: 1 })
    }

    /// An entry above the last level; a leaf is marked as touched.
    fn walk_entry(&self, root: Pfn, table: Pfn, va: Va, level: u32, access: Access) -> Option<Entry> {
        let word = self.entry(root, table, va, level);
        loop {
            let raw = word.load(Relaxed);
            let Entry::Leaf(leaf) = A::decode_entry(raw, level) else {
                return Some(A::decode_entry(raw, level));
            };
            if !allows(leaf, access) {
                return None;
            }
            let new = Entry::Leaf(touched(leaf, access));
            if new == Entry::Leaf(leaf)
                || word.compare_exchange(raw, A::encode_entry(new, level), Relaxed, Relaxed).is_ok()
            {
                return Some(new);
            }
        }
    }

    /// A last-level entry, marked as touched.
    fn walk_last(&self, root: Pfn, table: Pfn, va: Va, access: Access) -> Option<Present> {
        let word = self.entry(root, table, va, 0);
        loop {
            let raw = word.load(Relaxed);
            let Pte::Present(to) = A::decode_pte(raw) else { return None };
            if !allows(to, access) {
                return None;
            }
            let new = touched(to, access);
            if new == to
                || word.compare_exchange(raw, A::encode_pte(Pte::Present(new)), Relaxed, Relaxed).is_ok()
            {
                return Some(new);
            }
        }
    }

    fn entry(&self, root: Pfn, table: Pfn, va: Va, level: u32) -> &AtomicU64 {
        if C::CHECKED {
            self.arena.assert_allocated(table, &Reached { what: "a walk", root, va });
        }
        &self.arena.words(table)[A::index(va, level)]
    }
}

// SAFETY: a flush takes the translations out of every TLB named, under the TLB's lock, before it returns.
unsafe impl<C: Checks, A: Arch> Mmu for Hosted<C, A> {
    /// Does nothing: the hosted kernel is not mapped.
    unsafe fn init_root(&self, _root: Pfn) {}

    fn flush(&self, cpus: CpuSet<'_>, root: Pfn, what: FlushRange) {
        if !C::CHECKED {
            // No TLB, and nothing to count.
            return;
        }
        self.tlbs.count(cpus, Self::current_cpu(), what);
        if self.tlbs.is_turn(DELAY_ONE_IN) {
            std::thread::yield_now();
        }
        for cpu in cpus.iter() {
            self.tlbs.lock(cpu).flush(root, what);
        }
    }

    fn flush_local(&self, root: Pfn, va: Va) {
        if C::CHECKED {
            let cpu = Self::current_cpu();
            self.tlbs.lock(cpu).flush(root, FlushRange::Range(VaRange::page(va)));
        }
    }
}

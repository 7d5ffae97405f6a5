//! Counting the pages of an address space, on the words of the CPU that counts.
//!
//! `cpu.rs` says how: a CPU's credit goes to the address space's counter when it is large, or when the CPU
//! counts for another one. So threads that fault write no line that they share.
//!
//! Locks: none. Whoever counts holds what keeps the address space from ending: its mmap lock, a VMA, or the
//! reverse map's lock.

use super::slot::MmSlot;
use crate::{
    cpu::{Credit, MOST_CREDIT, PageKind, Peak},
    objects::Objects,
};
use anonmem_frame::{Handle, RawHandle};
use anonmem_hal::{CpuId, Machine};
use anonmem_sync::Ordering;

/// CPUs that a bit of `MmPages::cpus` stands for are those with the same number modulo this.
const BITS: u32 = u64::BITS;

impl<M: Machine> Objects<M> {
    /// Counts mapped anonymous pages.
    #[inline]
    pub(crate) fn add_anon(&self, slot: &MmSlot<M>, pages: i64) {
        self.count_pages(slot, PageKind::Anon, pages);
    }

    /// Counts mapped pages of shared objects.
    #[inline]
    pub(crate) fn add_shared(&self, slot: &MmSlot<M>, pages: i64) {
        self.count_pages(slot, PageKind::Shared, pages);
    }

    /// Counts pages in swap.
    pub(crate) fn add_swap(&self, slot: &MmSlot<M>, pages: i64) {
        self.count_pages(slot, PageKind::Swap, pages);
    }

    #[inline]
    fn count_pages(&self, slot: &MmSlot<M>, kind: PageKind, pages: i64) {
        if !self.cpus.this().add_to_credit(slot.name(), kind, pages) {
            self.count_pages_slow(slot, kind, pages);
        }
    }

    /// This CPU's credit is another address space's, or too large to be kept.
    #[cold]
    #[inline(never)]
    fn count_pages_slow(&self, slot: &MmSlot<M>, kind: PageKind, pages: i64) {
        if pages.unsigned_abs() >= MOST_CREDIT {
            slot.pages.of(kind).fetch_add(pages, Ordering::Relaxed);
            return;
        }
        self.note_cpu(slot);
        let mm = RawHandle::new(slot.name()).map(Handle::from_raw);
        let old = self.cpus.this().exchange_credit(kind, Credit { mm, pages });
        // If the other address space ends meanwhile, its counter is behind for this moment. Its slot stays a
        // slot, and the credit arrives.
        if let Some(other) = old.mm.filter(|_| old.pages != 0) {
            self.mm_slot(other).pages.of(kind).fetch_add(old.pages, Ordering::Relaxed);
        }
    }

    /// This CPU may have a credit of the address space, or a note of its peak.
    fn note_cpu(&self, slot: &MmSlot<M>) {
        let bit = 1 << (M::current_cpu().0 % BITS);
        if slot.pages.cpus.load(Ordering::Relaxed) & bit == 0 {
            slot.pages.cpus.fetch_or(bit, Ordering::Relaxed);
        }
    }

    /// Pages of `kind`: exact while nobody counts.
    pub(crate) fn pages_of(&self, slot: &MmSlot<M>, kind: PageKind) -> i64 {
        let credits = self.cpus.iter().map(|cpu| cpu.credit_of(slot.name(), kind));
        slot.pages.of(kind).load(Ordering::Relaxed) + credits.sum::<i64>()
    }

    /// The same without the probe seeing it, for a recount at rest.
    pub(crate) fn peek_pages_of(&self, slot: &MmSlot<M>, kind: PageKind) -> i64 {
        let credits = self.cpus.iter().map(|cpu| cpu.peek_credit_of(slot.name(), kind));
        slot.pages.of(kind).peek() + credits.sum::<i64>()
    }

    /// Pages of `kind`, but for credits of other CPUs: whoever looks at those waits for the lines that their
    /// faults write.
    pub(crate) fn pages_about(&self, slot: &MmSlot<M>, kind: PageKind) -> u64 {
        let credit = self.cpus.this().credit_of(slot.name(), kind);
        (slot.pages.of(kind).load(Ordering::Relaxed) + credit).max(0) as u64
    }

    /// Remembers about how many pages are mapped, before it is less (Linux: `update_hiwater_rss`).
    pub(crate) fn note_peak(&self, slot: &MmSlot<M>) {
        let rss = self.pages_about(slot, PageKind::Anon) + self.pages_about(slot, PageKind::Shared);
        if Peak(self.cpus.this().peak.load(Ordering::Relaxed)).of(slot.name()) < rss {
            self.note_new_peak(slot, rss);
        }
    }

    /// This CPU has not seen so many.
    #[inline(never)]
    fn note_new_peak(&self, slot: &MmSlot<M>, rss: u64) {
        let (name, word) = (slot.name(), &self.cpus.this().peak);
        let seen = Peak(word.load(Ordering::Relaxed));
        if rss > Peak::MOST {
            slot.raise_peak(rss);
            return;
        }
        let new = Peak::new(name, rss);
        if seen.of(name) > 0 && word.compare_exchange(seen.0, new.0, Ordering::Relaxed).is_ok() {
            return;
        }
        // As for credits: whose note it was gets it, and `take_credits` finds this CPU. If the other ends
        // just now, whoever has its slot next may be told a peak that was the other's.
        self.note_cpu(slot);
        let old = Peak(word.swap(new.0, Ordering::Relaxed));
        if let Some(mm) = old.mm() {
            let other = self.mm_slot(mm);
            other.raise_peak(old.of(other.name()));
        }
    }

    /// Forgets how many pages were mapped.
    pub(crate) fn forget_peak(&self, slot: &MmSlot<M>) {
        let ours = |bits| (Peak(bits).of(slot.name()) > 0).then_some(0);
        for cpu in self.cpus.iter() {
            let _ = cpu.peak.fetch_update(Ordering::Relaxed, ours);
        }
        slot.peak.store(0, Ordering::Relaxed);
    }

    /// The most pages that were mapped, as far as anybody looked.
    pub(crate) fn peak_of(&self, slot: &MmSlot<M>) -> u64 {
        let noted = self.cpus.iter().map(|cpu| Peak(cpu.peak.load(Ordering::Relaxed)).of(slot.name()));
        noted.fold(slot.peak.load(Ordering::Relaxed), u64::max)
    }

    /// Takes the credits of an address space from all CPUs: it ends, and nobody counts its pages any more.
    pub(crate) fn take_credits(&self, slot: &MmSlot<M>) {
        let (name, bits) = (slot.name(), slot.pages.cpus.load(Ordering::Relaxed));
        for cpu in (0..M::nr_cpus() as u32).filter(|cpu| bits >> (cpu % BITS) & 1 == 1) {
            for kind in PageKind::ALL {
                let credit = self.cpus.of(CpuId(cpu)).take_credit_of(name, kind);
                if credit != 0 {
                    slot.pages.of(kind).fetch_add(credit, Ordering::Relaxed);
                }
            }
            let ours = |bits| (Peak(bits).of(name) > 0).then_some(0);
            let _ = self.cpus.of(CpuId(cpu)).peak.fetch_update(Ordering::Relaxed, ours);
        }
        slot.pages.cpus.store(0, Ordering::Relaxed);
    }
}

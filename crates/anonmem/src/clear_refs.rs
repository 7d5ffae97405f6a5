//! Accessed bits are cleared from outside: what a program uses from then on can be told.
//!
//! Locks: the mmap lock for reading; a page-table lock for one table at a time. Nothing is flushed: a CPU
//! that has a translation sets the bit again when it walks next.
//!
//! Linux: fs/proc/task_mmu.c `clear_refs_write`. Differs: no soft-dirty bits.

use crate::{
    mm::{Mm, mmap_lock::MmapReadGuard},
    rmap::machine::Machine,
    vma::vma::Backing,
};
use anonmem_frame::FolioOwner;
use anonmem_hal::VaRange;
use anonmem_pgtable::Mapped;

/// What is cleared. The numbers are Linux's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum ClearRefs {
    /// The accessed bits of all pages.
    All = 1,
    /// Those of private anonymous mappings.
    Anonymous = 2,
    /// Those of mappings of sources and of shared objects.
    Mapped = 3,
    /// The most pages that were mapped at a time: it is what is mapped now.
    Peak = 5,
}

impl ClearRefs {
    /// What the number says that is written to /proc/PID/clear_refs; `None` if it is unknown, or about
    /// soft-dirty bits, which there are not.
    pub fn from_number(number: u32) -> Option<Self> {
        [Self::All, Self::Anonymous, Self::Mapped, Self::Peak].into_iter().find(|&what| what as u32 == number)
    }

    fn concerns(self, backing: Backing) -> bool {
        match (self, backing) {
            (Self::All, _) | (Self::Anonymous, Backing::Anonymous) => true,
            (Self::Mapped, Backing::Source(_) | Backing::Shared(_)) => true,
            (Self::Anonymous, Backing::Source(_) | Backing::Shared(_)) => false,
            (Self::Mapped, Backing::Anonymous) | (Self::Peak, _) => false,
        }
    }
}

impl<M: Machine> Mm<'_, M> {
    /// Clears what `what` says.
    ///
    /// # Locks
    /// The mmap lock for reading.
    #[doc(alias = "clear_refs_write")]
    pub fn clear_refs(&self, what: ClearRefs) {
        let guard = self.read();
        let slot = guard.slot();
        if what == ClearRefs::Peak {
            // Relaxed: the count says nothing of anything else. The peak is never told as less than what is
            // mapped.
            self.vm.forget_peak(slot);
            return;
        }
        slot.tree.for_each(self.vm.nodes(), |range, id| {
            if what.concerns(self.vm.vma(id).backing()) {
                guard.clear_young(range);
            }
        });
    }
}

impl<M: Machine> MmapReadGuard<'_, M> {
    fn clear_young(&self, range: VaRange) {
        for (table, part) in self.slot().space.tables(&self.objects.frames, self, range) {
            let mut entries = table.lock();
            if entries.is_empty() {
                continue;
            }
            for va in part.iter_pages() {
                // What a walk has noted at the folio was an accessed bit, too.
                match entries.mapped(va) {
                    Mapped::Exclusive(page, _) => _ = page.test_and_clear_referenced(),
                    Mapped::Shared(page, _) => _ = page.test_and_clear_referenced(),
                    Mapped::Shm(_) => {}
                    Mapped::None
                    | Mapped::Zero(_)
                    | Mapped::Swap(..)
                    | Mapped::Migration(..)
                    | Mapped::Marker(_) => continue,
                }
                entries.test_and_clear_young(va);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        MapBacking, MapFlags, MmapRequest, Prot,
        testing::{P, RW, World, pages},
    };
    use anonmem_hal::{FlushRange, SourceId, Va};
    use core::{num::NonZeroU64, ops::ControlFlow};

    /// The bytes of the mapping at `page` that count as accessed.
    fn referenced(mm: &Mm<'_, crate::testing::M>, page: u64) -> u64 {
        let mut found = None;
        mm.for_each_vma_usage(Va(page * P), &mut |_, usage| {
            found = Some(usage.referenced);
            ControlFlow::Break(())
        });
        found.expect("a mapping")
    }

    #[test]
    fn accessed_bits_go_where_they_are_asked_to() {
        World::run(|w| {
            let mm = w.vm.new_mm().unwrap();
            mm.map_raw(pages(16, 4), RW, Backing::Anonymous);
            let shared = MmapRequest {
                addr: Va(32 * P),
                len: 4 * P,
                prot: Prot::READ | Prot::WRITE,
                flags: MapFlags::FIXED,
                backing: MapBacking::SharedNew,
            };
            mm.mmap(shared).unwrap();
            let touch = || {
                for page in [16, 17, 32] {
                    mm.store(page * P, 7).unwrap();
                }
            };
            let both = || (referenced(&mm, 16), referenced(&mm, 32));
            touch();
            assert_eq!(both(), (2 * P, P));
            mm.clear_refs(ClearRefs::Anonymous);
            assert_eq!(both(), (0, P));
            mm.clear_refs(ClearRefs::Mapped);
            assert_eq!(both(), (0, 0));
            assert_eq!(mm.load(16 * P), Ok(7), "contents stay");
            // A CPU sets the bit when it walks; nothing was flushed.
            mm.slot().space.flush(&w.vm.frames, FlushRange::All);
            touch();
            assert_eq!(both(), (2 * P, P));
            mm.clear_refs(ClearRefs::All);
            assert_eq!(both(), (0, 0));
            assert!(!ClearRefs::Mapped.concerns(Backing::Anonymous));
            assert!(ClearRefs::Mapped.concerns(Backing::Source(SourceId(NonZeroU64::MIN))));
        });
    }

    #[test]
    fn the_peak_begins_anew() {
        World::run(|w| {
            let mm = w.vm.new_mm().unwrap();
            mm.map_raw(pages(16, 8), RW, Backing::Anonymous);
            (16..24).for_each(|page| mm.store(page * P, 7).unwrap());
            mm.madvise(Va(16 * P), 6 * P, crate::Advice::DontNeed).unwrap();
            let peak = || mm.counters().peak.0;
            assert_eq!(peak(), 8);
            mm.clear_refs(ClearRefs::Peak);
            assert_eq!(peak(), 2);
        });
    }

    #[test]
    fn numbers_are_those_of_proc() {
        assert!((0..9).filter(|&n| ClearRefs::from_number(n).is_some()).eq([1, 2, 3, 5]));
    }
}

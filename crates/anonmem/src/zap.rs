//! Unmapping pages: entries are cleared, and what they owned goes to the gather.
//!
//! Locks: the mmap lock, either way, or nobody else is left (exit). Takes the page-table lock of one table at
//! a time. What was cleared is flushed at the latest when the gather is full, and always before it is freed.
//!
//! Linux: mm/memory.c `unmap_page_range`, `zap_pte_range`, `unmap_vmas`.

use crate::{
    mm::slot::MmSlot, objects::Objects, rmap::machine::Machine, swap::slot::SwapRef, thp::stats::FolioEvent,
};
use anonmem_frame::MapRun;
use anonmem_hal::{Marker, Pte, SoftLeaf, Va, VaRange};
use anonmem_pgtable::{
    CanInstall, Cleared, ClearedRun, LeafGuard, Locked, MmuGather, PteGuard, PteTable, StableVma,
};

/// Pages that were unmapped, by the count that they are in.
#[derive(Default)]
pub(crate) struct Zapped {
    anon: i64,
    shared: i64,
    swap: i64,
}

impl Zapped {
    /// Takes them off the address space's counts.
    pub(crate) fn uncount<M: Machine>(self, objects: &Objects<M>, slot: &MmSlot<M>) {
        if self.anon != 0 {
            objects.add_anon(slot, -self.anon);
        }
        if self.shared != 0 {
            objects.add_shared(slot, -self.shared);
        }
        if self.swap != 0 {
            objects.add_swap(slot, -self.swap);
        }
    }
}

/// The entry of an address that traps.
pub(crate) const GUARD: Pte = Pte::Soft(SoftLeaf::Marker(Marker::Guard));

/// The entry of an address that a userfaultfd protects.
const UFFD_WP: Pte = Pte::Soft(SoftLeaf::Marker(Marker::UffdWp));

/// What becomes of markers (Linux: `ZAP_FLAG_DROP_MARKER`).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Markers {
    /// Guards stay: only the contents go.
    Keep,
    /// And so does the protection of a userfaultfd, because the object still has the page.
    KeepProtection,
    /// All stay: only pages go.
    KeepAll,
    /// They go with the mapping.
    Drop,
}

/// Clears every entry of `range`, which is no longer mapped.
#[doc(alias = "unmap_page_range")]
pub(crate) fn zap_range<'v, M: Machine, G: StableVma<M>>(
    objects: &'v Objects<M>,
    slot: &'v MmSlot<M>,
    stable: &'v G,
    gather: &mut MmuGather<'v, M>,
    range: VaRange,
) {
    zap(objects, slot, stable, gather, range, Markers::Drop);
}

/// Drops the contents of `range`, which stays mapped; guard markers stay, too.
#[doc(alias = "zap_page_range_single")]
pub(crate) fn discard_range<'v, M: Machine, G: StableVma<M>>(
    objects: &'v Objects<M>,
    slot: &'v MmSlot<M>,
    stable: &'v G,
    gather: &mut MmuGather<'v, M>,
    range: VaRange,
) {
    zap(objects, slot, stable, gather, range, Markers::Keep);
}

/// Drops the pages of `range`, whose object gives them again. All markers stay: a page that is lost is so.
pub(crate) fn forget_range<'v, M: Machine, G: StableVma<M>>(
    objects: &'v Objects<M>,
    slot: &'v MmSlot<M>,
    stable: &'v G,
    gather: &mut MmuGather<'v, M>,
    range: VaRange,
) {
    zap(objects, slot, stable, gather, range, Markers::KeepAll);
}

/// As [`discard_range`], for shared memory that a userfaultfd watches for writes: entries that it protects
/// leave markers behind.
#[doc(alias = "zap_install_uffd_wp_if_needed")]
pub(crate) fn discard_protected_range<'v, M: Machine, G: CanInstall<M>>(
    objects: &'v Objects<M>,
    slot: &'v MmSlot<M>,
    stable: &'v G,
    gather: &mut MmuGather<'v, M>,
    range: VaRange,
) {
    // Before anything is cleared: an entry of a shared object that is gone and protected is a marker.
    for (table, part) in slot.space.tables(&objects.frames, stable, range) {
        for va in part.iter_pages() {
            let mut entries = table.lock();
            if !is_protected_page(entries.get(va)) {
                continue;
            }
            let mut zapped = Zapped::default();
            zap_entry(objects, &mut entries, va, gather, &mut zapped);
            entries.install(va, Marker::UffdWp, ());
            drop(entries);
            zapped.uncount(objects, slot);
            if gather.is_full() {
                gather.flush();
            }
        }
    }
    zap(objects, slot, stable, gather, range, Markers::KeepProtection);
}

fn is_protected_page(pte: Pte) -> bool {
    match pte {
        Pte::Present(present) => present.uffd_wp,
        Pte::None | Pte::Soft(_) => false,
    }
}

fn zap<'v, M: Machine, G: StableVma<M>>(
    objects: &'v Objects<M>,
    slot: &'v MmSlot<M>,
    stable: &'v G,
    gather: &mut MmuGather<'v, M>,
    range: VaRange,
    markers: Markers,
) {
    objects.note_peak(slot);
    for (found, part) in slot.space.parts(&objects.frames, stable, range) {
        match found.covered(part) {
            Locked::Table(table) => {
                let mut rest = part;
                while !rest.is_empty() {
                    rest.start = zap_table(objects, table, gather, rest, markers, slot);
                    if gather.is_full() {
                        gather.flush();
                    }
                }
            }
            Locked::Leaf(leaf) => zap_leaf(objects, leaf, gather, slot),
            Locked::None => {}
        }
    }
}

/// Clears a leaf: its folio takes one slot of the gather, which has room.
#[cold]
#[doc(alias = "zap_huge_pmd")]
pub(crate) fn zap_leaf<'v, M: Machine, G: StableVma<M>>(
    objects: &Objects<M>,
    leaf: LeafGuard<'v, M, G>,
    gather: &mut MmuGather<'v, M>,
    slot: &MmSlot<M>,
) {
    let range = leaf.range();
    gather.run(range, leaf.clear().into_run());
    objects.add_anon(slot, -(range.pages().0 as i64));
    if gather.is_full() {
        gather.flush();
    }
}

/// Clears the entries of `part`, all in one table, until the gather is full; returns where it stopped.
#[doc(alias = "zap_pte_range")]
fn zap_table<'v, M: Machine, G: StableVma<M>>(
    objects: &'v Objects<M>,
    table: PteTable<'v, M, G>,
    gather: &mut MmuGather<'v, M>,
    part: VaRange,
    markers: Markers,
    slot: &MmSlot<M>,
) -> Va {
    let mut zapped = Zapped::default();
    let mut entries = table.lock();
    note_deferred(&entries, gather, part);
    // Entries in use: a sparse table is left early.
    let mut left = entries.used();
    let mut va = part.start;
    while va < part.end && left > 0 && !gather.is_full() {
        let stays = match markers {
            Markers::Keep => entries.get(va) == GUARD,
            Markers::KeepProtection => [GUARD, UFFD_WP].contains(&entries.get(va)),
            Markers::KeepAll => matches!(entries.get(va), Pte::Soft(SoftLeaf::Marker(_))),
            Markers::Drop => false,
        };
        let rest = VaRange { start: va, end: part.end };
        let gone =
            if stays { Gone::All } else { clear_entry(objects, &mut entries, va, gather, &mut zapped) };
        let pages = match gone {
            Gone::All => 1,
            Gone::Run(run) => zap_run(objects, &mut entries, rest, gather, run, &mut zapped),
            Gone::Nothing => {
                va = entries.next_used(rest);
                continue;
            }
        };
        (left, va) = (left - pages, va.page_after(pages));
    }
    if left == 0 {
        va = part.end;
    }
    drop(entries);
    zapped.uncount(objects, slot);
    va
}

/// Notes `part` of a table if reclaim may have taken pages of it that it has not flushed yet. Once for all
/// entries: asked at each swap entry, it costs the loop over pages that are present five instructions a page.
#[inline]
fn note_deferred<'v, M: Machine, G: StableVma<M>>(
    entries: &PteGuard<'v, M, G>,
    gather: &mut MmuGather<'v, M>,
    part: VaRange,
) {
    if entries.is_flush_deferred() {
        gather.note_range(part);
    }
}

/// Clears one entry. The gather has room.
pub(crate) fn zap_entry<'v, M: Machine, G: StableVma<M>>(
    objects: &'v Objects<M>,
    entries: &mut PteGuard<'v, M, G>,
    va: Va,
    gather: &mut MmuGather<'v, M>,
    zapped: &mut Zapped,
) {
    note_deferred(entries, gather, VaRange::page(va));
    match clear_entry(objects, entries, va, gather, zapped) {
        Gone::Run(run) => _ = zap_run(objects, entries, VaRange::page(va), gather, run, zapped),
        Gone::All | Gone::Nothing => {}
    }
}

/// What became of an entry that was cleared.
enum Gone<'v, M: Machine> {
    /// It was empty.
    Nothing,
    /// What it owned is with the gather.
    All,
    /// What a page of a large folio owned, for [`zap_run`].
    Run(MapRun<'v, M>),
}

/// Clears one entry. The gather has room.
#[inline]
fn clear_entry<'v, M: Machine, G: StableVma<M>>(
    objects: &'v Objects<M>,
    entries: &mut PteGuard<'v, M, G>,
    va: Va,
    gather: &mut MmuGather<'v, M>,
    zapped: &mut Zapped,
) -> Gone<'v, M> {
    match entries.clear_for(va, gather.teardown()) {
        Cleared::None => return Gone::Nothing,
        Cleared::Zero(_) => gather.note(va),
        Cleared::Exclusive(map, _) => match gather.one_page(va, map) {
            Ok(()) => zapped.anon += 1,
            Err(map) => return Gone::Run(map.into()),
        },
        Cleared::Shared(map, _) => match gather.one_page(va, map) {
            Ok(()) => zapped.anon += 1,
            Err(map) => return Gone::Run(map.into()),
        },
        Cleared::Shm(map, _) => match gather.one_page(va, map) {
            Ok(()) => zapped.shared += 1,
            Err(map) => return Gone::Run(map.into()),
        },
        Cleared::Swap(count, _) => {
            zapped.swap += 1;
            drop(SwapRef::own(objects, count));
        }
        // Whoever moves the page finds one mapping less to bring back.
        Cleared::Migration(hold, _) => {
            zapped.anon += 1;
            gather.mapping(va, hold);
        }
        // A marker owns nothing.
        Cleared::Marker(_) => {}
    }
    Gone::All
}

/// Clears the entries that go on with the folio of the first of `range`, which was cleared: they take one
/// slot of the gather. Returns how many there were, the first included.
#[cold]
#[inline(never)]
#[doc(alias = "zap_present_folio_ptes")]
fn zap_run<'v, M: Machine, G: StableVma<M>>(
    objects: &Objects<M>,
    entries: &mut PteGuard<'v, M, G>,
    range: VaRange,
    gather: &mut MmuGather<'v, M>,
    mut run: MapRun<'v, M>,
    zapped: &mut Zapped,
) -> u64 {
    let ClearedRun { end, untouched } = entries.clear_on(&mut run, range, gather.teardown());
    // The first counts as touched: to know, every page that is unmapped would have to pay. Of a folio that
    // several have, the last one tells: nobody touched what he did not.
    if untouched > 0 && run.folio().is_likely_alone() {
        objects.add_folio(run.folio().order(), FolioEvent::Untouched, untouched);
    }
    let pages = run.pages();
    let count = if run.folio().is_anon() { &mut zapped.anon } else { &mut zapped.shared };
    *count += pages as i64;
    gather.run(VaRange { start: range.start, end }, run);
    pages
}

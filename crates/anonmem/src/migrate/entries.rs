//! The entries of a folio on its way: from present to migration entry, and to what comes then.
//!
//! Linux: mm/rmap.c `try_to_migrate_one`; mm/migrate.c `remove_migration_ptes`.

use crate::{
    ids::VmaId,
    mm::slot::MmSlot,
    objects::Objects,
    rmap::machine::Machine,
    rmap::{
        Rmap,
        hit::{Form, HitEntries, RmapHit, take_to_share},
        ksm::rmap_walk,
        reverse_map::ReverseMap,
    },
};
use anonmem_frame::{Folio, FolioGuard, FolioOwner, FolioRef, HoldWhole, MigrationHold};
use anonmem_hal::{EntryBits, MigrationBits, MigrationKind, Order, Protection, Va};
use anonmem_pgtable::{Arrived, Attrs, Cleared, LeafPinned, PteGuard, StableVma, TlbBatch, Vacancy};
use core::ops::ControlFlow;

/// Replaces every entry that maps the folio by a migration entry; breaks if it may be pinned, or if `may`,
/// which is asked of each VMA under the page-table lock, breaks.
///
/// CPUs may still use their translations, and write the page, until `tlb` is flushed.
///
/// # Locks
/// The folio lock. Takes the anon_vma's lock, and one page-table lock at a time.
pub(crate) fn try_to_migrate<'v, M: Machine>(
    objects: &'v Objects<M>,
    lock: &FolioGuard<'_, M>,
    tlb: &mut TlbBatch<'v, M>,
    may: impl Fn(VmaId) -> ControlFlow<()>,
) -> ControlFlow<()> {
    let folio = lock.folio();
    let mut holds = 0;
    loop {
        let before = holds;
        let walked = rmap_walk(objects, folio, Form::Present, |hit| {
            if may(hit.vma).is_break() {
                return ControlFlow::Break(Ends::Stays);
            }
            holds += hit.pages;
            let is_only = is_only(folio);
            match try_to_migrate_one(hit, tlb) {
                ControlFlow::Break(()) => ControlFlow::Break(Ends::Stays),
                ControlFlow::Continue(()) if is_only => ControlFlow::Break(Ends::Taken),
                ControlFlow::Continue(()) => ControlFlow::Continue(()),
            }
        });
        match walked {
            ControlFlow::Break(Ends::Stays) => return ControlFlow::Break(()),
            ControlFlow::Break(Ends::Taken) => return ControlFlow::Continue(()),
            // Fork may have copied an entry to where the walk had passed.
            ControlFlow::Continue(()) if holds == before || folio.counts().maps() <= holds => {
                return ControlFlow::Continue(());
            }
            ControlFlow::Continue(()) => {}
        }
    }
}

/// How a walk ends before it has come past everything.
enum Ends {
    /// The folio is not to be taken.
    Stays,
    /// There is no other entry.
    Taken,
}

/// Whether a page, one of whose entries is locked, has no other. An entry comes from one that is locked by
/// whoever copies it, or it is made by whoever holds the folio's lock, which the caller does. Never of a
/// larger folio, which counts a leaf in its own way.
fn is_only<M: Machine>(folio: Folio<'_, M>) -> bool {
    !folio.is_large() && folio.counts().maps() == 1
}

/// Lets the entries of a folio, which nobody has pinned or locked, wait for it, and goes: what a walk leaves
/// that missed all of them. For cases.
///
/// # Locks
/// As `try_to_migrate`; the caller holds none.
pub fn leave_behind<M: Machine>(objects: &Objects<M>, page: &FolioRef<'_, M>) {
    let lock = page.lock();
    let mut tlb = TlbBatch::new(&objects.frames);
    let taken = try_to_migrate(objects, &lock, &mut tlb, |_| ControlFlow::Continue(()));
    assert!(taken.is_continue(), "{page:?} is pinned");
    tlb.flush();
}

fn try_to_migrate_one<'v, M: Machine>(
    hit: RmapHit<'_, 'v, M, impl StableVma<M>>,
    tlb: &mut TlbBatch<'v, M>,
) -> ControlFlow<()> {
    let (first, pages) = (hit.va, hit.pages);
    let mut entries = match hit.entries {
        HitEntries::Table(entries) => entries,
        HitEntries::Leaf(mut leaf) => {
            return match leaf.begin_migration() {
                Ok(()) => ControlFlow::Continue(()),
                Err(LeafPinned) => ControlFlow::Break(()),
            };
        }
    };
    for va in (0..pages).map(|nth| first.page_after(nth)) {
        let taken = take_to_share(&mut entries, hit.slot, va, tlb);
        let Some((vacancy, shared, present, sharing)) = taken else { return ControlFlow::Break(()) };
        vacancy.fill(shared.hold(), EntryBits::of_present(present, sharing).to_migration());
    }
    ControlFlow::Continue(())
}

/// Puts the folio back into the entries that wait for it.
pub(crate) fn restore<M: Machine>(objects: &Objects<M>, lock: &FolioGuard<'_, M>) {
    if lock.folio().owned_order() != Order::ZERO {
        return follow_large(objects, lock, None, Says::AsItWas);
    }
    follow(objects, lock, |Waiting { vacancy, hold, bits, vma, .. }| put_back(vacancy, hold, bits, vma));
}

/// An entry that waited for its page, emptied for what comes.
pub(crate) struct Waiting<'e, 'a, 'v, M: Machine, G> {
    /// Where something is to go.
    pub(crate) vacancy: Vacancy<'e, 'a, M, G>,
    /// What the entry had of the old page.
    pub(crate) hold: MigrationHold<'a, M>,
    pub(crate) bits: MigrationBits,
    /// What the VMA allows.
    pub(crate) vma: Protection,
    /// The address space.
    pub(crate) slot: &'v MmSlot<M>,
}

/// Hands every migration entry of a locked folio to `arrive`.
///
/// # Locks
/// The folio lock. Takes the anon_vma's lock, and one page-table lock at a time.
#[doc(alias = "remove_migration_ptes")]
pub(crate) fn follow<'v, M: Machine, F>(objects: &'v Objects<M>, lock: &FolioGuard<'_, M>, mut arrive: F)
where
    F: for<'e, 'a> FnMut(Waiting<'e, 'a, 'v, M, <Rmap<M> as ReverseMap<M>>::Locked<'v>>),
{
    let folio = lock.folio();
    let mut found = true;
    // Fork may have copied an entry to where the walk had passed.
    while core::mem::take(&mut found) {
        let _ = rmap_walk(objects, folio, Form::Migration, |hit| {
            let is_only = is_only(folio);
            found = !is_only;
            // Under the page-table lock: mprotect says what it allows first, and then comes by.
            let vma = objects.vma(hit.vma).flags().protection();
            let (first, pages, (mut entries, slot)) = (hit.va, hit.pages, hit.into_table());
            for va in (0..pages).map(|nth| first.page_after(nth)) {
                let (hold, bits, vacancy) = take_hold(&mut entries, va);
                arrive(Waiting { vacancy, hold, bits, vma, slot });
            }
            if is_only { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
    }
}

/// What an entry says that comes back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Says {
    /// What it said before.
    AsItWas,
    /// That it shares a page whose bytes are in memory alone, and may not write to it: the page is merged.
    Merged,
}

impl Says {
    fn of(self, bits: MigrationBits) -> MigrationBits {
        match self {
            Self::AsItWas => bits,
            Self::Merged => MigrationBits { kind: MigrationKind::Read, dirty: true, ..bits },
        }
    }
}

/// Gives every entry of a large folio, which is locked, the same page of `new`; or its own again, which
/// stays. Leaves come back as leaves.
///
/// # Locks
/// As [`follow`].
pub(crate) fn follow_large<M: Machine>(
    objects: &Objects<M>,
    lock: &FolioGuard<'_, M>,
    new: Option<&FolioGuard<'_, M>>,
    says: Says,
) {
    let folio = lock.folio();
    let mut found = true;
    // As above.
    while core::mem::take(&mut found) {
        let _ = rmap_walk(objects, folio, Form::Migration, |hit| {
            found = true;
            let vma = objects.vma(hit.vma).flags().protection();
            let (first, pages) = (hit.va, hit.pages);
            match hit.entries {
                HitEntries::Leaf(mut leaf) => {
                    leaf.end_migration(|hold, bits| arrive_whole(hold, says.of(bits), vma, new))
                }
                HitEntries::Table(mut entries) => {
                    for va in (0..pages).map(|nth| first.page_after(nth)) {
                        let (hold, bits, vacancy) = take_hold(&mut entries, va);
                        let bits = says.of(bits);
                        match new {
                            Some(new) => arrive(vacancy, (hold, bits), vma, new),
                            None => put_back(vacancy, hold, bits, vma),
                        }
                    }
                }
            }
            ControlFlow::<()>::Continue(())
        });
    }
}

/// Takes what the migration entry for `va` owns.
fn take_hold<'e, 'a, M: Machine, G: StableVma<M>>(
    entries: &'e mut PteGuard<'a, M, G>,
    va: Va,
) -> (MigrationHold<'a, M>, MigrationBits, Vacancy<'e, 'a, M, G>) {
    let (Cleared::Migration(hold, bits), vacancy) = entries.take(va) else {
        unreachable!("the walk said that the entry waits for the page")
    };
    (hold, bits, vacancy)
}

/// Gives an entry the same page of `new`, which is locked.
#[doc(alias = "remove_migration_pte")]
pub(super) fn arrive<'a, M: Machine, G: StableVma<M>>(
    vacancy: Vacancy<'_, '_, M, G>,
    (hold, bits): (MigrationHold<'a, M>, MigrationBits),
    vma: Protection,
    new: &FolioGuard<'a, M>,
) {
    let says = Attrs::of(bits.into(), vma);
    match bits.kind {
        MigrationKind::Read => match hold.arrive(new) {
            Ok((map, _old)) => vacancy.fill(map, says),
            // Others have come meanwhile, 2^27 of them: this one keeps the page that it had.
            Err(hold) => put_back(vacancy, hold, bits, vma),
        },
        MigrationKind::ReadExclusive | MigrationKind::Write => {
            let (map, _old) = hold.arrive_exclusive(new);
            vacancy.fill(map, says);
        }
    }
}

/// What a leaf becomes that waited for its folio: one of `new`, or of its own folio again.
#[doc(alias = "remove_migration_pmd")]
pub(crate) fn arrive_whole<'a, M: Machine>(
    hold: HoldWhole<'a, M>,
    bits: MigrationBits,
    vma: Protection,
    new: Option<&FolioGuard<'a, M>>,
) -> (Arrived<'a, M>, Attrs) {
    let arrived = match (bits.kind, new) {
        (MigrationKind::Read, Some(new)) => Arrived::Shared(match hold.arrive(new) {
            Ok((folio, _old)) => folio,
            Err(hold) => hold.release(),
        }),
        (MigrationKind::Read, None) => Arrived::Shared(hold.release()),
        (MigrationKind::ReadExclusive | MigrationKind::Write, Some(new)) => {
            Arrived::Exclusive(hold.arrive_exclusive(new).0)
        }
        (MigrationKind::ReadExclusive | MigrationKind::Write, None) => {
            Arrived::Exclusive(hold.release_exclusive())
        }
    };
    (arrived, Attrs::of(bits.into(), vma))
}

/// Gives an entry its page back, which stays where it is.
pub(crate) fn put_back<M: Machine, G: StableVma<M>>(
    vacancy: Vacancy<'_, '_, M, G>,
    hold: MigrationHold<'_, M>,
    bits: MigrationBits,
    vma: Protection,
) {
    let says = Attrs::of(bits.into(), vma);
    match bits.kind {
        MigrationKind::Read => vacancy.fill(hold.release(), says),
        MigrationKind::ReadExclusive | MigrationKind::Write => vacancy.fill(hold.release_exclusive(), says),
    }
}

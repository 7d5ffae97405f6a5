//! Who is in a family: address spaces enter with their first page or by fork, and leave when their last entry
//! is gone.
//!
//! A child enters before its first entry is filled, and after its parent in the order of a walk. So a walk
//! that unmaps meets the parent first. Either fork has copied the parent's entry by then, and the child is
//! still to come. Or it finds an entry that maps the page no longer, and copies that.
//!
//! A label is reused without a question: it is no object, and a walk only ever looks in too many places.
//! Which label a child gets is therefore a matter of precision alone. It gets one whose block is empty, of a
//! number as small as a few looks can find. If there is none, it gets the last one that was looked at; if its
//! parent stands too deep, its parent's own.
//!
//! Locks: a family has one lock. Who enters or leaves holds it for writing. So does who gives VMAs with pages
//! other addresses, and who unlinks such a VMA before its tables go. Walks hold it for reading.

use crate::{
    ids::{FamilyId, MmId, MmTag},
    objects::Objects,
    rmap::{
        family::{label::Label, objects::Family},
        interval_tree::{IntervalLinks, IntervalNodes},
    },
};
use anonmem_frame::{Folio, Mapping, MappingWord, OutOfMemory};
use anonmem_hal::Machine;
use anonmem_sync::{RwSemReadGuard, RwSemWriteGuard, order::AnonVmaRoot};

/// The lock of a family, held for reading: its members stay, and the tables of their VMAs with pages.
pub struct FamilyReadGuard<'v, M: Machine> {
    pub(super) objects: &'v Objects<M>,
    pub(super) family: FamilyId,
    /// Whose descendants are meant.
    pub(super) label: Label,
    _lock: RwSemReadGuard<'v, M, AnonVmaRoot, ()>,
}

/// The lock of a family, held for writing.
pub(crate) struct FamilyWriteGuard<'v, M: Machine> {
    pub(super) objects: &'v Objects<M>,
    pub(super) family: FamilyId,
    _lock: RwSemWriteGuard<'v, M, AnonVmaRoot, ()>,
}

impl<M: Machine> IntervalNodes<M, MmTag> for Objects<M> {
    fn links(&self, mm: MmId) -> &IntervalLinks<M, MmTag> {
        &self.mm_slot(mm).member.links
    }

    fn interval(&self, mm: MmId) -> (u64, u64) {
        let (_, label) = self.mm_slot(mm).member.place().expect("a member has a place");
        (label.key(), label.key())
    }
}

impl<'v, M: Machine> FamilyReadGuard<'v, M> {
    /// The family.
    pub fn name(&self) -> FamilyId {
        self.family
    }

    /// The memory manager.
    pub(crate) fn objects(&self) -> &'v Objects<M> {
        self.objects
    }

    pub(super) fn family(&self) -> &'v Family<M> {
        self.objects.family(self.family)
    }
}

impl<'v, M: Machine> FamilyWriteGuard<'v, M> {
    /// The memory manager.
    pub(crate) fn objects(&self) -> &'v Objects<M> {
        self.objects
    }

    /// Whether a folio, which is mapped and whose stamp stays what it is, is of the family.
    pub(super) fn guards(&self, folio: Folio<'_, M>) -> bool {
        matches!(folio.mapping(), Mapping::Anon(stamp) if stamp.object() == self.family.raw())
    }

    /// Adds a member, which has its place already.
    fn enter(&self, mm: MmId) {
        let family = self.objects.family(self.family);
        family.members.insert(self.objects, mm);
        family.live.update(|live| live + 1);
    }

    /// Takes a member out; returns whether it was the last one.
    fn leave(&self, mm: MmId) -> bool {
        let family = self.objects.family(self.family);
        family.members.remove(self.objects, mm);
        family.live.update(|live| live - 1);
        family.live.get() == 0
    }

    /// The label for a child of `parent`, and where to look next.
    fn choose(&self, parent: Label, next: u64) -> (Label, u64) {
        let family = self.objects.family(self.family);
        // As many numbers again as there are members: half of them are free.
        let most = 2 * family.live.get() + 2;
        let mut chosen = parent;
        let mut n = next;
        for look in 0..LOOKS {
            let number = if look == 0 { 1 } else { n };
            let Some(label) = parent.child(number as u32) else {
                // Too long a path. The shorter ones begin anew, if there are any.
                n = SECOND;
                continue;
            };
            if look > 0 {
                n = if number >= most { SECOND } else { number + 1 };
            }
            chosen = label;
            let (first, last) = label.block();
            if family.members.first_overlap(self.objects, first, last).is_none() {
                break;
            }
        }
        (chosen, n)
    }
}

/// The number of labels that fork looks at.
const LOOKS: u32 = 8;
/// The number that the search begins at, after number 1: that one is looked at first, because its path is the
/// shortest, and a program that has one child at a time always finds it free.
const SECOND: u64 = 2;

impl<M: Machine> Objects<M> {
    pub(super) fn family_lock_write(&self, family: FamilyId) -> FamilyWriteGuard<'_, M> {
        FamilyWriteGuard { objects: self, family, _lock: self.family(family).lock.write() }
    }

    fn family_lock_read(&self, family: FamilyId, label: Label) -> FamilyReadGuard<'_, M> {
        FamilyReadGuard { objects: self, family, label, _lock: self.family(family).lock.read() }
    }
}

/// The family of an address space, which is made if there is none.
///
/// # Errors
/// [`OutOfMemory`].
pub(super) fn family_of<M: Machine>(objects: &Objects<M>, mm: MmId) -> Result<FamilyId, OutOfMemory> {
    let member = &objects.mm_slot(mm).member;
    if let Some((family, _)) = member.place() {
        return Ok(family);
    }
    let family = objects.families.alloc(&objects.frames)?;
    let won = {
        // Although nobody knows it yet: a late walker may hold the lock of what the slot was before. And
        // another fault of the address space knows the family from `try_enter` on; a walk to its page waits.
        let lock = objects.family_lock_write(family);
        let won = member.try_enter(family, Label::ROOT);
        if won {
            member.next_child.set(SECOND);
            lock.enter(mm);
        }
        won
    };
    if !won {
        objects.families.free(&objects.frames, family);
    }
    Ok(member.place().expect("given by us or by the fault that was faster").0)
}

/// Makes `child`, which has no page yet, a member of its parent's family: if that is in one.
///
/// # Locks
/// Both mmap locks, for writing; takes the family's.
pub(super) fn enter_by_fork<M: Machine>(objects: &Objects<M>, child: MmId, parent: MmId) {
    let (of, new) = (&objects.mm_slot(parent).member, &objects.mm_slot(child).member);
    let Some((family, label)) = of.place() else { return };
    let lock = objects.family_lock_write(family);
    let (chosen, next) = lock.choose(label, of.next_child.get());
    of.next_child.set(next);
    new.next_child.set(SECOND);
    let entered = new.try_enter(family, chosen);
    assert!(entered, "a child that was just made is in no family");
    lock.enter(child);
}

/// Ends that an address space is a member, all of whose entries are gone, and that any of its VMAs is found.
/// The last one takes the family along.
///
/// # Locks
/// Takes the family's lock: who walks through the tables has finished when this returns.
pub(super) fn leave<M: Machine>(objects: &Objects<M>, mm: MmId) {
    let member = &objects.mm_slot(mm).member;
    let Some((family, _)) = member.place() else { return };
    let is_last = {
        let lock = objects.family_lock_write(family);
        while let Some(record) = member.records.first_overlap(objects, 0, u64::MAX) {
            let vma = objects.vma(objects.chain(record).vma());
            lock.remove(vma);
            lock.forget(vma);
        }
        lock.leave(mm)
    };
    member.leave();
    if is_last {
        objects.families.free(&objects.frames, family);
    }
}

/// What a mapping word says of a folio's mappers.
fn place_of<M: Machine>(objects: &Objects<M>, word: MappingWord) -> Option<(FamilyId, Label)> {
    match word.decode() {
        Mapping::Anon(stamp) => {
            let family = objects.families.resolve(&objects.frames, stamp.object())?;
            Some((family, Label::from_bits(stamp.label())))
        }
        Mapping::None | Mapping::Shm(_) | Mapping::Ksm(_) => None,
    }
}

/// Locks the family of a folio, and asks again, as [`rmap/folio.rs`](crate::rmap::folio) says: whether the
/// folio is mapped, and whether its word is the same. The lock is the family's own. So whoever has used the
/// slot meanwhile for another family has that one's members in it, and the word means them.
fn lock_and_recheck<M: Machine, L>(
    objects: &Objects<M>,
    folio: Folio<'_, M>,
    lock: impl Fn(FamilyId, Label) -> L,
) -> Option<L> {
    loop {
        let word = folio.mapping_word();
        let (family, label) = place_of(objects, word)?;
        if !folio.is_mapped() {
            return None;
        }
        let guard = lock(family, label);
        if !folio.is_mapped() {
            return None;
        }
        if folio.mapping_word() == word {
            return Some(guard);
        }
    }
}

/// Locks the family of a folio for reading; `None` if the folio is not anonymous or not mapped.
///
/// # Locks
/// The caller has a reference to the folio, and may or may not hold its lock. Sleeps.
pub(crate) fn lock_read<'v, M: Machine>(
    objects: &'v Objects<M>,
    folio: Folio<'_, M>,
) -> Option<FamilyReadGuard<'v, M>> {
    lock_and_recheck(objects, folio, |family, label| objects.family_lock_read(family, label))
}

/// The same for writing.
pub(super) fn lock_write<'v, M: Machine>(
    objects: &'v Objects<M>,
    folio: Folio<'_, M>,
) -> Option<FamilyWriteGuard<'v, M>> {
    lock_and_recheck(objects, folio, |family, _| objects.family_lock_write(family))
}

/// Locks all of a family for reading, if anybody is left of it.
pub(super) fn lock_whole<'v, M: Machine>(
    objects: &'v Objects<M>,
    family: FamilyId,
) -> Option<FamilyReadGuard<'v, M>> {
    let guard = objects.family_lock_read(family, Label::ROOT);
    (guard.family().live.get() > 0).then_some(guard)
}

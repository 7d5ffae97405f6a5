//! anon_vmas: which VMAs may map a page.
//!
//! An [`AnonVma`] is the set of VMAs that may map a page of it. In it are the VMA that first faulted the page
//! and that VMA's copies in children, because fork copies the links. Each link is an [`AnonVmaChain`]. It is
//! in a list of its VMA and in the interval tree of its anon_vma, by the linear page indices that the VMA
//! covers.
//!
//! ```text
//!   parent VMA ──▶ chain ──▶ anon_vma P (root)         a page of P may be mapped by parent and child,
//!   child VMA  ──▶ chain ──▶ anon_vma C (parent: P)    a page of C by the child alone (and its children)
//!              └─▶ chain ──▶ anon_vma P
//! ```
//!
//! All anon_vmas of one family share the lock of their root. A slot is type-stable: whoever reads a
//! folio's mapping word may find a handle that was freed and reused, and must re-check after locking
//! (`rmap/folio.rs`).
//!
//! Counts of an anon_vma: `refcount` keeps the slot (one for the interval tree while it is not empty, one per
//! anon_vma whose root it is). `nr_vmas` is the number of VMAs whose `anon_vma` it is; `nr_children` the
//! number of anon_vmas whose parent it is (a root is its own). The last two are apart because one number for
//! both lets fork reuse an anon_vma that still serves another VMA (CVE-2022-42703).
//!
//! Linux: mm/rmap.c `anon_vma_prepare`, `anon_vma_clone`, `anon_vma_fork`, `unlink_anon_vmas`.

use crate::{
    ids::{AnonVmaId, ChainId, ChainTag, VmaId},
    mm::mmap_lock::MmapHeld,
    objects::Objects,
    rmap::{
        interval_tree::{IntervalLinks, IntervalNodes},
        objects::AnonVma,
    },
    vma::{compatible::anon_vma_compatible, vma::Vma},
};
use anonmem_frame::{Folio, Link, OutOfMemory};
use anonmem_hal::Machine;
use anonmem_sync::{Ordering, RwSemReadGuard, RwSemWriteGuard, order::AnonVmaRoot};

/// The lock of an anon_vma's root, held for reading: the set of VMAs stands still.
pub struct AnonVmaReadGuard<'v, M: Machine> {
    pub(super) objects: &'v Objects<M>,
    pub(super) anon_vma: AnonVmaId,
    pub(super) _root: RwSemReadGuard<'v, M, AnonVmaRoot, ()>,
}

impl<'v, M: Machine> AnonVmaReadGuard<'v, M> {
    /// The anon_vma that was asked for; the lock is its root's.
    pub fn anon_vma(&self) -> AnonVmaId {
        self.anon_vma
    }

    /// The memory manager.
    pub fn objects(&self) -> &'v Objects<M> {
        self.objects
    }

    fn is_singular(&self, id: VmaId) -> bool {
        is_singular(self.objects, id)
    }
}

/// The lock of an anon_vma's root, held for writing: the set of VMAs may be changed.
pub(crate) struct AnonVmaWriteGuard<'v, M: Machine> {
    objects: &'v Objects<M>,
    root: AnonVmaId,
    _root: RwSemWriteGuard<'v, M, AnonVmaRoot, ()>,
}

impl<'v, M: Machine> AnonVmaWriteGuard<'v, M> {
    /// The guard of `anon_vma`'s root, which `lock` is the lock of.
    pub(super) fn of(
        objects: &'v Objects<M>,
        anon_vma: AnonVmaId,
        lock: RwSemWriteGuard<'v, M, AnonVmaRoot, ()>,
    ) -> Self {
        let root = objects.anon_vma(anon_vma).root().expect("an anon_vma in use has a root");
        Self { objects, root, _root: lock }
    }

    /// The objects that the anon_vma is one of.
    pub(crate) fn objects(&self) -> &'v Objects<M> {
        self.objects
    }

    /// Whether the folio, which is mapped and whose anon_vma stays what it is, is of the family.
    pub(super) fn guards(&self, folio: Folio<'_, M>) -> bool {
        let stamp = folio.mapping_word().stamp();
        let anon_vma =
            stamp.and_then(|stamp| self.objects.anon_vmas.resolve(&self.objects.frames, stamp.object()));
        anon_vma.is_some_and(|id| self.objects.anon_vma(id).root() == Some(self.root))
    }
}

impl<M: Machine> IntervalNodes<M, ChainTag> for Objects<M> {
    fn links(&self, chain: ChainId) -> &IntervalLinks<M, ChainTag> {
        &self.chain(chain).links
    }

    fn interval(&self, chain: ChainId) -> (u64, u64) {
        let vma = self.vma(self.chain(chain).vma());
        (vma.pgoff(), vma.pgoff() + vma.range().pages().0 - 1)
    }
}

impl<M: Machine> Objects<M> {
    /// Locks the root of an anon_vma that the caller keeps alive.
    pub(crate) fn anon_vma_lock_write(&self, id: AnonVmaId) -> AnonVmaWriteGuard<'_, M> {
        let root = self.anon_vma(id).root().expect("an anon_vma in use has a root");
        AnonVmaWriteGuard { objects: self, root, _root: self.anon_vma(root).lock.write() }
    }

    /// The same for reading.
    fn anon_vma_lock_read(&self, id: AnonVmaId) -> AnonVmaReadGuard<'_, M> {
        let root = self.anon_vma(id).root().expect("an anon_vma in use has a root");
        AnonVmaReadGuard { objects: self, anon_vma: id, _root: self.anon_vma(root).lock.read() }
    }

    /// A new anon_vma without VMAs: a root, or of the family of `parent`, whose lock is taken for it.
    fn anon_vma_alloc(&self, parent: Option<AnonVmaId>) -> Result<AnonVmaId, OutOfMemory> {
        let id = self.anon_vmas.alloc(&self.frames)?;
        let anon_vma = self.anon_vma(id);
        let root = match parent {
            None => id,
            Some(parent) => self.anon_vma(parent).root().expect("a parent in use has a root"),
        };
        if root != id {
            self.anon_vma(root).refcount.fetch_add(1, Ordering::Relaxed);
        }
        {
            // The lock of the family, even though nobody knows this anon_vma yet: a late walker may hold
            // the slot's former lock, and what is written here must not be seen half done by it.
            let _family = self.anon_vma(root).lock.write();
            anon_vma.parent.set(parent.unwrap_or(id).into());
            // The counts of a slot that is free are 0.
            let counted = self.anon_vma(parent.unwrap_or(id));
            counted.nr_children.update(|n| n + 1);
            // Release pairs with the Acquire of `root`.
            anon_vma.root.store(root.into(), Ordering::Release);
        }
        // For its tree. Nobody else has the slot.
        anon_vma.refcount.store(anon_vma.refcount.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        Ok(id)
    }

    /// Drops a reference; the last one frees the slot.
    pub(super) fn put_anon_vma(&self, id: AnonVmaId) {
        let anon_vma = self.anon_vma(id);
        let root = anon_vma.root().expect("an anon_vma in use has a root");
        // AcqRel: whoever frees the slot sees all that was done with it.
        if anon_vma.refcount.fetch_sub(1, Ordering::AcqRel) != 1 {
            return;
        }
        // A late walker may hold, or wait for, the root's lock: it finds out by itself that the slot is no
        // longer what it was. The lock itself is never made anew, so nothing has to wait for it.
        if root == id {
            anon_vma.nr_children.update(|n| n - 1);
        }
        anonmem_hal::debug_check_eq!(
            M,
            anon_vma.nr_children.peek(),
            0,
            "an anon_vma freed before its children"
        );
        self.anon_vmas.free(&self.frames, id);
        if root != id {
            self.put_anon_vma(root);
        }
    }
}

impl<M: Machine> AnonVmaWriteGuard<'_, M> {
    /// Links `vma` to `anon_vma` by `chain`, which is newer than the VMA's other chains.
    #[doc(alias = "anon_vma_chain_link")]
    fn link(&self, vma: VmaId, chain: ChainId, anon_vma: AnonVmaId) {
        let (slot, target) = (self.objects.chain(chain), self.objects.anon_vma(anon_vma));
        anonmem_hal::debug_check_eq!(M, target.root(), Some(self.root), "linked under another family's lock");
        slot.vma.set(vma.into());
        slot.anon_vma.set(anon_vma.into());
        slot.next.set(self.objects.vma(vma).chains());
        self.objects.vma(vma).set_chains(chain.into());
        target.tree.insert(self.objects, chain);
    }

    /// Takes `vma` out of the interval trees of this family, so that its range may change;
    /// [`rekey_end`](Self::rekey_end) puts it back. (Linux: `anon_vma_interval_tree_pre_update_vma`.)
    pub(crate) fn rekey_begin(&self, vma: VmaId) {
        self.for_each_chain(vma, |chain, anon_vma| anon_vma.tree.remove(self.objects, chain));
    }

    /// Ends what [`rekey_begin`](Self::rekey_begin) began. (Linux: `anon_vma_interval_tree_post_update_vma`.)
    pub(crate) fn rekey_end(&self, vma: VmaId) {
        self.for_each_chain(vma, |chain, anon_vma| anon_vma.tree.insert(self.objects, chain));
    }

    fn for_each_chain(&self, vma: VmaId, f: impl Fn(ChainId, &AnonVma<M>)) {
        let mut at = self.objects.vma(vma).chains();
        while let Some(chain) = at.get() {
            let slot = self.objects.chain(chain);
            f(chain, self.objects.anon_vma(slot.anon_vma()));
            at = slot.next();
        }
    }
}

/// Gives `vma` an anon_vma if it has none: a mergeable neighbour's, so that the two can merge later, or a new
/// one.
///
/// Two faults of one VMA may race here; the compare-exchange of `vma.anon_vma` under the anon_vma's lock
/// decides. Whoever sees it set may add a page at once: a walker waits for the lock and then finds the link.
///
/// # Locks
/// The mmap lock, for reading or writing.
///
/// # Errors
/// [`OutOfMemory`].
#[doc(alias = "__anon_vma_prepare")]
pub(crate) fn anon_vma_prepare<M: Machine>(
    objects: &Objects<M>,
    mm: MmapHeld<'_, M>,
    id: VmaId,
) -> Result<AnonVmaId, OutOfMemory> {
    let vma = objects.vma(id);
    if let Some(anon_vma) = vma.anon_vma() {
        return Ok(anon_vma);
    }
    let chain = objects.chains.alloc(&objects.frames)?;
    let found = find_mergeable_anon_vma(objects, mm, id);
    let anon_vma = match found {
        Some(neighbour) => neighbour,
        None => objects.anon_vma_alloc(None).inspect_err(|_| objects.chains.free(&objects.frames, chain))?,
    };
    let won = {
        let lock = objects.anon_vma_lock_write(anon_vma);
        let won = vma.try_set_anon_vma(anon_vma);
        if won {
            lock.link(id, chain, anon_vma);
            objects.anon_vma(anon_vma).nr_vmas.update(|n| n + 1);
        }
        won
    };
    if !won {
        objects.chains.free(&objects.frames, chain);
        if found.is_none() {
            objects.put_anon_vma(anon_vma);
        }
    }
    Ok(vma.anon_vma().expect("set by us or by the fault that was faster"))
}

/// The anon_vma of a neighbour that `vma` could merge with if both had it.
fn find_mergeable_anon_vma<M: Machine>(
    objects: &Objects<M>,
    mm: MmapHeld<'_, M>,
    id: VmaId,
) -> Option<AnonVmaId> {
    let vma = objects.vma(id);
    let slot = mm.slot();
    // Whether they touch it, `anon_vma_compatible` asks.
    let next = slot.tree.find(objects.nodes(), vma.end());
    let prev = slot.tree.prev(objects.nodes(), vma.start());
    let reusable = |(_, near): (_, VmaId), low: &Vma<M>, high: &Vma<M>| {
        let anon_vma = objects.vma(near).anon_vma()?;
        if !anon_vma_compatible(low, high) {
            return None;
        }
        // `anon_vma_prepare` links a VMA under this lock, after it has given the VMA the anon_vma.
        let locked = objects.anon_vma_lock_read(anon_vma);
        locked.is_singular(near).then_some(anon_vma)
    };
    next.and_then(|n| reusable(n, vma, objects.vma(n.1)))
        .or_else(|| prev.and_then(|p| reusable(p, objects.vma(p.1), vma)))
}

/// Whether a VMA is linked to one anon_vma only: one that came by fork brings others, which must not leak
/// into a neighbour.
#[doc(alias = "list_is_singular")]
pub(crate) fn is_singular<M: Machine>(objects: &Objects<M>, id: VmaId) -> bool {
    let first = objects.vma(id).chains().get();
    first.is_some_and(|chain| objects.chain(chain).next() == Link::NONE)
}

/// Links `dst` to every anon_vma that `src` is linked to: split, mremap, merge and the first half of fork.
///
/// If `dst` has no anon_vma but `src` has (fork), an anon_vma that no VMA uses any more and that has at most
/// one child is given to `dst`, so that a chain of forks does not grow without end.
///
/// # Locks
/// The mmap lock of `src` for writing; `dst` is not in use by others.
///
/// # Errors
/// [`OutOfMemory`]: `dst` is linked to nothing and has no anon_vma.
pub(crate) fn anon_vma_clone<M: Machine>(
    objects: &Objects<M>,
    dst: VmaId,
    src: VmaId,
) -> Result<(), OutOfMemory> {
    anonmem_hal::debug_check!(M, objects.vma(dst).chains() == Link::NONE);
    let Some(family) = objects.vma(src).anon_vma() else { return Ok(()) };
    // All memory first: then nothing can fail half way.
    let mut spare = reserve_chains(objects, objects.vma(src).chains())
        .inspect_err(|_| objects.vma(dst).set_anon_vma(None))?;
    let lock = objects.anon_vma_lock_write(family);
    // Oldest first, so that `dst`'s list is ordered like `src`'s: newest at the front.
    let mut todo = objects.vma(src).chains();
    let mut reversed: Link<ChainTag> = Link::NONE;
    while let (Some(from), Some(chain)) = (todo.get(), spare.get()) {
        spare = objects.chain(chain).next();
        objects.chain(chain).anon_vma.set(objects.chain(from).anon_vma().into());
        objects.chain(chain).next.set(reversed);
        reversed = chain.into();
        todo = objects.chain(from).next();
    }
    while let Some(chain) = reversed.get() {
        reversed = objects.chain(chain).next();
        let anon_vma = objects.chain(chain).anon_vma();
        lock.link(dst, chain, anon_vma);
        let counts = objects.anon_vma(anon_vma);
        if objects.vma(dst).anon_vma().is_none() && counts.nr_children.get() < 2 && counts.nr_vmas.get() == 0
        {
            objects.vma(dst).set_anon_vma(Some(anon_vma));
        }
    }
    if let Some(own) = objects.vma(dst).anon_vma() {
        objects.anon_vma(own).nr_vmas.update(|n| n + 1);
    }
    Ok(())
}

/// Links the target to the anon_vmas of what it takes over, if it has none of its own.
///
/// All that have an anon_vma have the same one.
///
/// # Errors
/// [`OutOfMemory`]: the target is linked to nothing.
pub(crate) fn dup_anon_vma<M: Machine>(
    objects: &Objects<M>,
    target: VmaId,
    eaten: impl Iterator<Item = VmaId>,
) -> Result<(), OutOfMemory> {
    if objects.vma(target).anon_vma().is_some() {
        return Ok(());
    }
    let Some(source) = eaten.filter(|&id| objects.vma(id).anon_vma().is_some()).last() else {
        return Ok(());
    };
    objects.vma(target).set_anon_vma(objects.vma(source).anon_vma());
    anon_vma_clone(objects, target, source)
}

/// Whether two VMAs may become one as far as their anon_vmas go: they have the same one, or one of them has
/// none, and the other's came to it by no fork. (A VMA that came by fork is linked to its ancestors'
/// anon_vmas as well; to link another one to all of those would make the walks of all their pages longer.)
#[doc(alias = "is_mergeable_anon_vma")]
pub(crate) fn anon_vmas_merge<M: Machine>(objects: &Objects<M>, a: VmaId, b: VmaId) -> bool {
    match (objects.vma(a).anon_vma(), objects.vma(b).anon_vma()) {
        (None, None) => true,
        (Some(of_a), Some(of_b)) => of_a == of_b,
        (Some(_), None) => is_singular(objects, a),
        (None, Some(_)) => is_singular(objects, b),
    }
}

/// As many chains as the list `like` has, linked; none if that fails.
fn reserve_chains<M: Machine>(
    objects: &Objects<M>,
    like: Link<ChainTag>,
) -> Result<Link<ChainTag>, OutOfMemory> {
    let (mut at, mut list) = (like, Link::NONE);
    while let Some(chain) = at.get() {
        match objects.chains.alloc(&objects.frames) {
            Ok(new) => {
                objects.chain(new).next.set(list);
                list = new.into();
            }
            Err(e) => {
                free_chains(objects, list);
                return Err(e);
            }
        }
        at = objects.chain(chain).next();
    }
    Ok(list)
}

fn free_chains<M: Machine>(objects: &Objects<M>, mut list: Link<ChainTag>) {
    while let Some(chain) = list.get() {
        list = objects.chain(chain).next();
        objects.chains.free(&objects.frames, chain);
    }
}

/// Links a child's `dst` to what the parent's `src` is linked to, and gives it an anon_vma of its own.
///
/// # Locks
/// Both mmap locks, for writing; `dst` is not in the child's tree yet.
///
/// # Errors
/// [`OutOfMemory`]: `dst` is linked to nothing.
pub(crate) fn anon_vma_fork<M: Machine>(
    objects: &Objects<M>,
    dst: VmaId,
    src: VmaId,
) -> Result<(), OutOfMemory> {
    let Some(parent) = objects.vma(src).anon_vma() else { return Ok(()) };
    anonmem_hal::debug_check!(M, objects.vma(dst).anon_vma().is_none(), "a new VMA has no anon_vma");
    anon_vma_clone(objects, dst, src)?;
    if objects.vma(dst).anon_vma().is_some() {
        return Ok(());
    }
    let own = alloc_with_chain(objects, parent).inspect_err(|_| unlink_anon_vmas(objects, dst));
    let (anon_vma, chain) = own?;
    objects.vma(dst).set_anon_vma(Some(anon_vma));
    let lock = objects.anon_vma_lock_write(anon_vma);
    lock.link(dst, chain, anon_vma);
    objects.anon_vma(anon_vma).nr_vmas.update(|n| n + 1);
    Ok(())
}

fn alloc_with_chain<M: Machine>(
    objects: &Objects<M>,
    parent: AnonVmaId,
) -> Result<(AnonVmaId, ChainId), OutOfMemory> {
    let chain = objects.chains.alloc(&objects.frames)?;
    match objects.anon_vma_alloc(Some(parent)) {
        Ok(anon_vma) => Ok((anon_vma, chain)),
        Err(e) => {
            objects.chains.free(&objects.frames, chain);
            Err(e)
        }
    }
}

/// Unlinks a VMA from all its anon_vmas: no rmap walk finds it any more.
///
/// Two passes, because an anon_vma's last reference may free its root, whose lock the first pass holds.
///
/// # Locks
/// The mmap lock for writing (or the address space is ending); the VMA's pages are unmapped.
pub(crate) fn unlink_anon_vmas<M: Machine>(objects: &Objects<M>, id: VmaId) {
    let vma = objects.vma(id);
    let Some(first) = vma.chains().get() else { return };
    // Any anon_vma of the list names the family.
    let lock = objects.anon_vma_lock_write(objects.chain(first).anon_vma());
    let mut emptied: Link<ChainTag> = Link::NONE;
    let mut at = vma.chains();
    while let Some(chain) = at.get() {
        let slot = objects.chain(chain);
        at = slot.next();
        let anon_vma = objects.anon_vma(slot.anon_vma());
        anon_vma.tree.remove(objects, chain);
        if anon_vma.tree.is_empty() {
            let parent = anon_vma.parent.get().get().expect("an anon_vma in use has a parent");
            if parent != slot.anon_vma() {
                objects.anon_vma(parent).nr_children.update(|n| n - 1);
            }
            slot.next.set(emptied);
            emptied = chain.into();
        } else {
            objects.chains.free(&objects.frames, chain);
        }
    }
    vma.set_chains(Link::NONE);
    if let Some(own) = vma.anon_vma() {
        objects.anon_vma(own).nr_vmas.update(|n| n - 1);
        vma.set_anon_vma(None);
    }
    drop(lock);
    while let Some(chain) = emptied.get() {
        let slot = objects.chain(chain);
        emptied = slot.next();
        let anon_vma = slot.anon_vma();
        objects.chains.free(&objects.frames, chain);
        objects.put_anon_vma(anon_vma);
    }
}

#[cfg(test)]
mod tests;

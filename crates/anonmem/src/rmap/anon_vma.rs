//! anon_vmas: which VMAs may map a page.
//!
//! An [`AnonVma`] is the set of VMAs that a page of it may be mapped by: the VMA that first faulted it, and that
//! VMA's copies in children, because fork copies the links. Each link is an [`AnonVmaChain`]; it is in a list of its
//! VMA and in the interval tree of its anon_vma, by the linear page indices that the VMA covers.
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
//! anon_vma whose root it is); `nr_vmas` is the number of VMAs whose `anon_vma` it
//! is; `nr_children` the number of anon_vmas whose parent it is (a root is its own). The last two are apart because one
//! number for both lets fork reuse an anon_vma that still serves another VMA (CVE-2022-42703).
//!
//! Linux: mm/rmap.c `anon_vma_prepare`, `anon_vma_clone`, `anon_vma_fork`, `unlink_anon_vmas`.

use super::interval_tree::{IntervalLinks, IntervalNodes, IntervalTree};
use crate::ids::{AnonVmaId, AnonVmaTag, ChainId, ChainTag, VmaId, VmaTag};
use crate::{
    mm::MmapHeld,
    vm::Vm,
    vma::{Vma, anon_vma_compatible},
};
use anonmem_frame::{Field, Link, OutOfMemory, SlabItem};
use anonmem_hal::Machine;
use anonmem_pgtable::StableVma;
use anonmem_sync::{Atomic, Ordering, Plain, RwSem, RwSemReadGuard, RwSemWriteGuard, order::AnonVmaRoot};
use core::mem::offset_of;

/// A set of VMAs that may map a page.
pub struct AnonVma<M: Machine> {
    /// The anon_vma whose lock protects this family; itself for a root. Constant while the slot is live.
    root: Atomic<Link<AnonVmaTag>, M>,
    /// The anon_vma that this one was forked from; itself for a root. Under the root's lock.
    parent: Plain<Link<AnonVmaTag>, M>,
    /// What keeps the slot: 0 means free, or about to be.
    refcount: Atomic<u32, M>,
    /// anon_vmas whose parent this is. Under the root's lock.
    nr_children: Plain<u64, M>,
    /// VMAs whose `anon_vma` this is. Under the root's lock.
    nr_vmas: Plain<u64, M>,
    /// The lock of a family; used in roots only.
    lock: RwSem<M, AnonVmaRoot, ()>,
    /// Links to the VMAs, by page index. Under the root's lock.
    tree: IntervalTree<M, ChainTag>,
}

impl<M: Machine> SlabItem<M> for AnonVma<M> {
    type Tag = AnonVmaTag;
    const NAME: &'static str = "anon_vma";
    const FIELDS: &'static [Field] = &[
        Field::new("root", offset_of!(Self, root)),
        Field::new("parent", offset_of!(Self, parent)),
        Field::new("refcount", offset_of!(Self, refcount)),
        Field::new("nr_children", offset_of!(Self, nr_children)),
        Field::new("nr_vmas", offset_of!(Self, nr_vmas)),
        Field::new("lock", offset_of!(Self, lock)),
        Field::new("tree", offset_of!(Self, tree)),
    ];
    fn new() -> Self {
        Self {
            root: Atomic::new(Link::NONE),
            parent: Plain::new(Link::NONE),
            refcount: Atomic::new(0),
            nr_children: Plain::new(0),
            nr_vmas: Plain::new(0),
            lock: RwSem::new(()),
            tree: IntervalTree::new(),
        }
    }
}

/// A link between a VMA and an anon_vma.
pub struct AnonVmaChain<M: Machine> {
    vma: Plain<Link<VmaTag>, M>,
    anon_vma: Plain<Link<AnonVmaTag>, M>,
    /// Next older chain of the same VMA. Under the mmap lock for writing, or for reading in `anon_vma_prepare`.
    next: Plain<Link<ChainTag>, M>,
    /// Place in the anon_vma's interval tree. Under the root's lock.
    links: IntervalLinks<M, ChainTag>,
}

impl<M: Machine> SlabItem<M> for AnonVmaChain<M> {
    type Tag = ChainTag;
    const NAME: &'static str = "anon_vma_chain";
    const FIELDS: &'static [Field] = &[
        Field::new("vma", offset_of!(Self, vma)),
        Field::new("anon_vma", offset_of!(Self, anon_vma)),
        Field::new("next", offset_of!(Self, next)),
        Field::new("links", offset_of!(Self, links)),
    ];
    fn new() -> Self {
        Self {
            vma: Plain::new(Link::NONE),
            anon_vma: Plain::new(Link::NONE),
            next: Plain::new(Link::NONE),
            links: IntervalLinks::new(),
        }
    }
}

impl<M: Machine> AnonVmaChain<M> {
    /// The VMA.
    pub fn vma(&self) -> VmaId {
        self.vma.get().get().expect("a chain in use has a VMA")
    }

    /// The anon_vma.
    pub fn anon_vma(&self) -> AnonVmaId {
        self.anon_vma.get().get().expect("a chain in use has an anon_vma")
    }

    pub(crate) fn next(&self) -> Link<ChainTag> {
        self.next.get()
    }
}

impl<M: Machine> AnonVma<M> {
    /// The root of its family, as of now.
    #[inline]
    pub fn root(&self) -> Option<AnonVmaId> {
        // Acquire pairs with the Release of `init`.
        self.root.load(Ordering::Acquire).get()
    }

    /// The links to its VMAs. Under the root's lock.
    pub(crate) fn tree(&self) -> &IntervalTree<M, ChainTag> {
        &self.tree
    }

    pub(super) fn lock(&self) -> &RwSem<M, AnonVmaRoot, ()> {
        &self.lock
    }

    /// What keeps the slot, for displays and `validate`.
    pub(crate) fn counts(&self) -> (u32, u64, u64) {
        (self.refcount.peek(), self.nr_children.peek(), self.nr_vmas.peek())
    }

    pub(crate) fn parent(&self) -> Option<AnonVmaId> {
        self.parent.peek().get()
    }
}

/// The lock of an anon_vma's root, held for reading: the set of VMAs stands still.
pub struct AnonVmaReadGuard<'v, M: Machine> {
    pub(super) vm: &'v Vm<M>,
    pub(super) anon_vma: AnonVmaId,
    pub(super) _root: RwSemReadGuard<'v, M, AnonVmaRoot, ()>,
}

impl<'v, M: Machine> AnonVmaReadGuard<'v, M> {
    /// The anon_vma that was asked for; the lock is its root's.
    pub fn anon_vma(&self) -> AnonVmaId {
        self.anon_vma
    }

    /// The memory manager.
    pub fn vm(&self) -> &'v Vm<M> {
        self.vm
    }

    /// Whether the anon_vma is in use. It always is, while the lock is held; for assertions.
    pub fn is_live(&self) -> bool {
        self.vm.anon_vmas.is_live(&self.vm.frames, self.anon_vma)
    }

    /// Whether a VMA of it has the linear page `index`. For assertions: if no VMA has that of a folio, the anon_vma is
    /// not the folio's.
    pub fn covers(&self, index: u64) -> bool {
        self.vm.anon_vma(self.anon_vma).tree().first_overlap(self.vm, index, index).is_some()
    }
}

/// The lock of an anon_vma's root, held for writing: the set of VMAs may be changed.
pub struct AnonVmaWriteGuard<'v, M: Machine> {
    vm: &'v Vm<M>,
    root: AnonVmaId,
    _root: RwSemWriteGuard<'v, M, AnonVmaRoot, ()>,
}

// Under an rmap lock entries may be looked at and cleared, never filled.
impl<M: Machine> StableVma for AnonVmaReadGuard<'_, M> {}
impl<M: Machine> StableVma for AnonVmaWriteGuard<'_, M> {}

impl<M: Machine> IntervalNodes<M, ChainTag> for Vm<M> {
    fn links(&self, chain: ChainId) -> &IntervalLinks<M, ChainTag> {
        &self.chain(chain).links
    }

    fn interval(&self, chain: ChainId) -> (u64, u64) {
        let vma = self.vma(self.chain(chain).vma());
        (vma.pgoff(), vma.pgoff() + vma.range().pages().0 - 1)
    }
}

impl<M: Machine> Vm<M> {
    /// The slot of an anon_vma; it may be another use of it.
    #[inline]
    pub(crate) fn anon_vma(&self, id: AnonVmaId) -> &AnonVma<M> {
        self.anon_vmas.get(&self.frames, id)
    }

    pub(crate) fn chain(&self, id: ChainId) -> &AnonVmaChain<M> {
        self.chains.get(&self.frames, id)
    }

    /// Locks the root of an anon_vma that the caller keeps alive.
    pub(crate) fn anon_vma_lock_write(&self, id: AnonVmaId) -> AnonVmaWriteGuard<'_, M> {
        let root = self.anon_vma(id).root().expect("an anon_vma in use has a root");
        AnonVmaWriteGuard { vm: self, root, _root: self.anon_vma(root).lock.write() }
    }

    /// The same for reading.
    fn anon_vma_lock_read(&self, id: AnonVmaId) -> AnonVmaReadGuard<'_, M> {
        let root = self.anon_vma(id).root().expect("an anon_vma in use has a root");
        AnonVmaReadGuard { vm: self, anon_vma: id, _root: self.anon_vma(root).lock.read() }
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
            anon_vma.nr_children.set(0);
            anon_vma.nr_vmas.set(0);
            let counted = self.anon_vma(parent.unwrap_or(id));
            counted.nr_children.update(|n| n + 1);
            // Release pairs with the Acquire of `root`.
            anon_vma.root.store(root.into(), Ordering::Release);
        }
        anon_vma.refcount.store(1, Ordering::Relaxed);
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
        // A late walker may hold, or wait for, the root's lock: it finds out by itself that the slot is no longer
        // what it was. The lock itself is never made anew, so nothing has to wait for it.
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
        let (slot, target) = (self.vm.chain(chain), self.vm.anon_vma(anon_vma));
        anonmem_hal::debug_check_eq!(M, target.root(), Some(self.root), "linked under another family's lock");
        slot.vma.set(vma.into());
        slot.anon_vma.set(anon_vma.into());
        slot.next.set(self.vm.vma(vma).chains());
        self.vm.vma(vma).set_chains(chain.into());
        target.tree.insert(self.vm, chain);
    }

    /// Takes `vma` out of the interval trees of this family, so that its range may change; [`rekey_end`](Self::rekey_end)
    /// puts it back. (Linux: `anon_vma_interval_tree_pre_update_vma`.)
    pub(crate) fn rekey_begin(&self, vma: VmaId) {
        self.for_each_chain(vma, |chain, anon_vma| anon_vma.tree.remove(self.vm, chain));
    }

    /// Ends what [`rekey_begin`](Self::rekey_begin) began. (Linux: `anon_vma_interval_tree_post_update_vma`.)
    pub(crate) fn rekey_end(&self, vma: VmaId) {
        self.for_each_chain(vma, |chain, anon_vma| anon_vma.tree.insert(self.vm, chain));
    }

    fn for_each_chain(&self, vma: VmaId, f: impl Fn(ChainId, &AnonVma<M>)) {
        let mut at = self.vm.vma(vma).chains();
        while let Some(chain) = at.get() {
            let slot = self.vm.chain(chain);
            f(chain, self.vm.anon_vma(slot.anon_vma()));
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
    vm: &Vm<M>,
    mm: MmapHeld<'_, M>,
    id: VmaId,
) -> Result<AnonVmaId, OutOfMemory> {
    let vma = vm.vma(id);
    if let Some(anon_vma) = vma.anon_vma() {
        return Ok(anon_vma);
    }
    let chain = vm.chains.alloc(&vm.frames)?;
    let found = find_mergeable_anon_vma(vm, mm, id);
    let anon_vma = match found {
        Some(neighbour) => neighbour,
        None => vm.anon_vma_alloc(None).inspect_err(|_| vm.chains.free(&vm.frames, chain))?,
    };
    let won = {
        let lock = vm.anon_vma_lock_write(anon_vma);
        let won = vma.try_set_anon_vma(anon_vma);
        if won {
            lock.link(id, chain, anon_vma);
            vm.anon_vma(anon_vma).nr_vmas.update(|n| n + 1);
        }
        won
    };
    if !won {
        vm.chains.free(&vm.frames, chain);
        if found.is_none() {
            vm.put_anon_vma(anon_vma);
        }
    }
    Ok(vma.anon_vma().expect("set by us or by the fault that was faster"))
}

/// The anon_vma of a neighbour that `vma` could merge with if both had it.
fn find_mergeable_anon_vma<M: Machine>(vm: &Vm<M>, mm: MmapHeld<'_, M>, id: VmaId) -> Option<AnonVmaId> {
    let vma = vm.vma(id);
    let slot = mm.slot();
    // Whether they touch it, `anon_vma_compatible` asks.
    let next = slot.tree.find(vm.nodes(), vma.end());
    let prev = slot.tree.prev(vm.nodes(), vma.start());
    let reusable = |(_, near): (_, VmaId), low: &Vma<M>, high: &Vma<M>| {
        let anon_vma = vm.vma(near).anon_vma()?;
        (anon_vma_compatible(low, high) && is_singular(vm, near, anon_vma)).then_some(anon_vma)
    };
    next.and_then(|n| reusable(n, vma, vm.vma(n.1)))
        .or_else(|| prev.and_then(|p| reusable(p, vm.vma(p.1), vma)))
}

/// Whether a VMA is linked to its anon_vma alone: one that came by fork brings others, which must not leak into a neighbour.
fn is_singular<M: Machine>(vm: &Vm<M>, id: VmaId, anon_vma: AnonVmaId) -> bool {
    // The VMA has it already when `anon_vma_prepare` links it, which is done under this lock.
    let _lock = vm.anon_vma_lock_read(anon_vma);
    vm.vma(id).chains().get().is_some_and(|only| vm.chain(only).next() == Link::NONE)
}

/// Links `dst` to every anon_vma that `src` is linked to: split, mremap, merge and the first half of fork.
///
/// If `dst` has no anon_vma but `src` has (fork), an anon_vma that no VMA uses any more and that has at most one
/// child is given to `dst`, so that a chain of forks does not grow without end.
///
/// # Locks
/// The mmap lock of `src` for writing; `dst` is not in use by others.
///
/// # Errors
/// [`OutOfMemory`]: `dst` is linked to nothing and has no anon_vma.
pub(crate) fn anon_vma_clone<M: Machine>(vm: &Vm<M>, dst: VmaId, src: VmaId) -> Result<(), OutOfMemory> {
    anonmem_hal::debug_check!(M, vm.vma(dst).chains() == Link::NONE);
    let Some(family) = vm.vma(src).anon_vma() else { return Ok(()) };
    // All memory first: then nothing can fail half way.
    let mut spare =
        reserve_chains(vm, vm.vma(src).chains()).inspect_err(|_| vm.vma(dst).set_anon_vma(None))?;
    let lock = vm.anon_vma_lock_write(family);
    // Oldest first, so that `dst`'s list is ordered like `src`'s: newest at the front.
    let mut todo = vm.vma(src).chains();
    let mut reversed: Link<ChainTag> = Link::NONE;
    while let (Some(from), Some(chain)) = (todo.get(), spare.get()) {
        spare = vm.chain(chain).next();
        vm.chain(chain).anon_vma.set(vm.chain(from).anon_vma().into());
        vm.chain(chain).next.set(reversed);
        reversed = chain.into();
        todo = vm.chain(from).next();
    }
    while let Some(chain) = reversed.get() {
        reversed = vm.chain(chain).next();
        let anon_vma = vm.chain(chain).anon_vma();
        lock.link(dst, chain, anon_vma);
        let counts = vm.anon_vma(anon_vma);
        if vm.vma(dst).anon_vma().is_none() && counts.nr_children.get() < 2 && counts.nr_vmas.get() == 0 {
            vm.vma(dst).set_anon_vma(Some(anon_vma));
        }
    }
    if let Some(own) = vm.vma(dst).anon_vma() {
        vm.anon_vma(own).nr_vmas.update(|n| n + 1);
    }
    Ok(())
}

/// As many chains as the list `like` has, linked; none if that fails.
fn reserve_chains<M: Machine>(vm: &Vm<M>, like: Link<ChainTag>) -> Result<Link<ChainTag>, OutOfMemory> {
    let (mut at, mut list) = (like, Link::NONE);
    while let Some(chain) = at.get() {
        match vm.chains.alloc(&vm.frames) {
            Ok(new) => {
                vm.chain(new).next.set(list);
                list = new.into();
            }
            Err(e) => {
                free_chains(vm, list);
                return Err(e);
            }
        }
        at = vm.chain(chain).next();
    }
    Ok(list)
}

fn free_chains<M: Machine>(vm: &Vm<M>, mut list: Link<ChainTag>) {
    while let Some(chain) = list.get() {
        list = vm.chain(chain).next();
        vm.chains.free(&vm.frames, chain);
    }
}

/// Links a child's `dst` to what the parent's `src` is linked to, and gives it an anon_vma of its own.
///
/// # Locks
/// Both mmap locks, for writing; `dst` is not in the child's tree yet.
///
/// # Errors
/// [`OutOfMemory`]: `dst` is linked to nothing.
pub(crate) fn anon_vma_fork<M: Machine>(vm: &Vm<M>, dst: VmaId, src: VmaId) -> Result<(), OutOfMemory> {
    let Some(parent) = vm.vma(src).anon_vma() else { return Ok(()) };
    anonmem_hal::debug_check!(M, vm.vma(dst).anon_vma().is_none(), "a new VMA has no anon_vma");
    anon_vma_clone(vm, dst, src)?;
    if vm.vma(dst).anon_vma().is_some() {
        return Ok(());
    }
    let own = alloc_with_chain(vm, parent).inspect_err(|_| unlink_anon_vmas(vm, dst));
    let (anon_vma, chain) = own?;
    vm.vma(dst).set_anon_vma(Some(anon_vma));
    let lock = vm.anon_vma_lock_write(anon_vma);
    lock.link(dst, chain, anon_vma);
    vm.anon_vma(anon_vma).nr_vmas.update(|n| n + 1);
    Ok(())
}

fn alloc_with_chain<M: Machine>(vm: &Vm<M>, parent: AnonVmaId) -> Result<(AnonVmaId, ChainId), OutOfMemory> {
    let chain = vm.chains.alloc(&vm.frames)?;
    match vm.anon_vma_alloc(Some(parent)) {
        Ok(anon_vma) => Ok((anon_vma, chain)),
        Err(e) => {
            vm.chains.free(&vm.frames, chain);
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
pub(crate) fn unlink_anon_vmas<M: Machine>(vm: &Vm<M>, id: VmaId) {
    let vma = vm.vma(id);
    let Some(first) = vma.chains().get() else { return };
    // Any anon_vma of the list names the family.
    let lock = vm.anon_vma_lock_write(vm.chain(first).anon_vma());
    let mut emptied: Link<ChainTag> = Link::NONE;
    let mut at = vma.chains();
    while let Some(chain) = at.get() {
        let slot = vm.chain(chain);
        at = slot.next();
        let anon_vma = vm.anon_vma(slot.anon_vma());
        anon_vma.tree.remove(vm, chain);
        if anon_vma.tree.is_empty() {
            let parent = anon_vma.parent.get().get().expect("an anon_vma in use has a parent");
            if parent != slot.anon_vma() {
                vm.anon_vma(parent).nr_children.update(|n| n - 1);
            }
            slot.next.set(emptied);
            emptied = chain.into();
        } else {
            vm.chains.free(&vm.frames, chain);
        }
    }
    vma.set_chains(Link::NONE);
    if let Some(own) = vma.anon_vma() {
        vm.anon_vma(own).nr_vmas.update(|n| n - 1);
        vma.set_anon_vma(None);
    }
    drop(lock);
    while let Some(chain) = emptied.get() {
        let slot = vm.chain(chain);
        emptied = slot.next();
        let anon_vma = slot.anon_vma();
        vm.chains.free(&vm.frames, chain);
        vm.put_anon_vma(anon_vma);
    }
}

#[cfg(test)]
mod tests;

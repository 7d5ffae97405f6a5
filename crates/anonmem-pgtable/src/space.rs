//! An address space: a root table, the tables below it, and the CPUs that may hold its translations. Walks
//! are in `walk`.

use anonmem_frame::{Frames, OutOfMemory, pin_protocol};
use anonmem_hal::{CpuId, CpuSet, CpuSlots, FlushRange, Machine, Pfn};
use anonmem_sync::{Atomic, CachePadded, Ordering, SeqCount, fence, seqcount::SeqWriteGuard};

/// A guard that keeps a VMA, and so its page tables, from going away.
///
/// Implemented by the guards of `anonmem`: mmap lock, VMA lock, anon_vma or family lock.
///
/// # Safety
/// While the guard lives, the tables of the spaces that it [`opens`](Self::opens), as far as the guard's VMAs
/// reach, are not freed; or they are freed a grace period after they were unlinked at the earliest, and the
/// guard is a read section of it. Whoever frees tables
/// ([`AddressSpace::free_tables`](crate::AddressSpace::free_tables),
/// [`collapse_table`](crate::AddressSpace::collapse_table),
/// [`free_root`](crate::AddressSpace::free_root)) waits for such guards, or has locked them out.
pub unsafe trait StableVma<M: Machine> {
    /// Whether this guard keeps the tables of `space`.
    fn opens(&self, space: &AddressSpace<M>) -> bool;
}

/// A guard under which empty entries of the VMA may be filled: the mmap or the VMA lock, never an rmap lock.
///
/// # Safety
/// Whoever unmaps the VMA waits for the guard before he clears the VMA's entries, so that an entry that is
/// filled under it is cleared, too.
pub unsafe trait CanInstall<M: Machine>: StableVma<M> {}

/// The tables of one address space. Part of a type-stable object: all words are atomic, and a root of 0
/// means that there are no tables.
pub struct AddressSpace<M: Machine> {
    root: Atomic<u64, M>,
    /// The [`identity`](Frames::identity) of the frames that the tables are of; 0 before there was a root.
    owner: Atomic<usize, M>,
    /// The CPUs that run it: the words of a set.
    cpus: <M::Cpus as CpuSlots>::Words<Atomic<u64, M>>,
    /// Odd while fork shares pages of the space with a child.
    sharing: SeqCount<M>,
    /// Frames used by tables, the root included, and those that are kept to split leaves into. On lines
    /// that no walk reads.
    nr_tables: CachePadded<Atomic<u64, M>>,
}

impl<M: Machine> AddressSpace<M> {
    /// One without tables.
    pub fn new() -> Self {
        Self {
            root: Atomic::new(0),
            owner: Atomic::new(0),
            cpus: M::Cpus::words(|_| Atomic::new(0)),
            sharing: SeqCount::new(),
            nr_tables: CachePadded(Atomic::new(0)),
        }
    }

    /// Allocates the root and lets the machine fill in the kernel's part.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    ///
    /// # Panics
    /// If there is a root.
    #[doc(alias = "pgd_alloc")]
    pub fn alloc_root(&self, frames: &Frames<M>) -> Result<(), OutOfMemory> {
        assert_eq!(self.root.peek(), 0, "a second root of an address space");
        let root = frames.alloc_table()?.into_pfn();
        // SAFETY: the table was just allocated.
        unsafe { frames.machine().init_root(root) };
        self.nr_tables.store(1, Ordering::Relaxed);
        self.cpus.as_ref().iter().for_each(|word| word.store(0, Ordering::Relaxed));
        self.owner.store(frames.identity(), Ordering::Relaxed);
        // Release pairs with the Acquire of `root`.
        self.root.store(root.0, Ordering::Release);
        Ok(())
    }

    /// Frees the root. The other tables are gone and no CPU runs the address space.
    ///
    /// # Panics
    /// If a table is left, or a CPU still runs it, or the tables are of other frames.
    #[doc(alias = "pgd_free")]
    pub fn free_root(&self, frames: &Frames<M>) {
        assert!(self.is_of(frames), "the root of an address space of other frames");
        assert_eq!(
            self.nr_tables.load(Ordering::Relaxed),
            1,
            "page tables left at the end of an address space"
        );
        self.assert_runs_nowhere();
        let root = self.root();
        self.nr_tables.store(0, Ordering::Relaxed);
        self.root.store(0, Ordering::Relaxed);
        // SAFETY: the space owned its root, and has forgotten it.
        drop(unsafe { frames.table_frame(root) });
    }

    /// Whether the tables are of these frames. A slot's frames never change, so nothing is to be ordered.
    #[inline(always)]
    pub fn is_of(&self, frames: &Frames<M>) -> bool {
        self.owner.peek() == frames.identity()
    }

    /// The top-level table: what CR3 takes.
    #[inline]
    pub fn root(&self) -> Pfn {
        // Acquire pairs with the Release of `alloc_root`.
        Pfn(self.root.load(Ordering::Acquire))
    }

    /// The number of frames that the tables use.
    pub fn nr_tables(&self) -> u64 {
        self.nr_tables.load(Ordering::Relaxed)
    }

    pub(crate) fn count_tables(&self, n: u64) {
        self.nr_tables.fetch_add(n, Ordering::Relaxed);
    }

    pub(crate) fn forget_tables(&self, n: u64) {
        if n > 0 {
            self.nr_tables.fetch_sub(n, Ordering::Relaxed);
        }
    }

    /// Notes that `cpu` is about to load the root. From here on flushes reach it.
    #[doc(alias = "switch_mm")]
    pub fn activate(&self, cpu: CpuId) {
        let most = <M::Cpus as CpuSlots>::MAX;
        anonmem_hal::debug_check!(M, cpu.index() < most, "there is no CPU {} to be active on", cpu.0);
        // SeqCst pairs with the fence in `flush`: either the flusher sees this CPU, or this CPU's walks
        // see the cleared entry.
        self.cpus.as_ref()[cpu.word()].fetch_or(cpu.bit(), Ordering::SeqCst);
        // The read-modify-write alone orders nothing after it; this pairs with the fence in `flush`, too.
        fence::<M>(Ordering::SeqCst);
    }

    /// Notes that `cpu` has loaded another root and dropped all translations of this one.
    pub fn deactivate(&self, cpu: CpuId) {
        // Release: the translations are gone before the bit is.
        self.cpus.as_ref()[cpu.word()].fetch_and(!cpu.bit(), Ordering::Release);
    }

    /// Runs `f` with the CPUs that may hold translations.
    #[inline]
    fn with_cpus<R>(&self, f: impl FnOnce(CpuSet<'_>) -> R) -> R {
        // Acquire pairs with the Release of `deactivate`.
        let words = M::Cpus::words(|n| self.cpus.as_ref()[n].load(Ordering::Acquire));
        f(CpuSet::new(words.as_ref()))
    }

    /// Whether a CPU may hold translations.
    pub fn runs_somewhere(&self) -> bool {
        self.with_cpus(|cpus| !cpus.is_empty())
    }

    /// Checks that no CPU runs it any more.
    ///
    /// # Panics
    /// If one does.
    #[track_caller]
    pub fn assert_runs_nowhere(&self) {
        self.with_cpus(|cpus| assert!(cpus.is_empty(), "an address space ends while CPUs {cpus:?} run it"));
    }

    /// Makes every CPU forget the translations of `what`; they are gone when it returns.
    #[doc(alias = "flush_tlb_mm_range")]
    pub fn flush(&self, frames: &Frames<M>, what: FlushRange) {
        // SeqCst pairs with `activate`.
        fence::<M>(Ordering::SeqCst);
        self.with_cpus(|cpus| {
            if !cpus.is_empty() {
                frames.machine().flush(cpus, self.root(), what);
            }
        });
    }

    /// Begins to share pages with a child, until the guard drops: who pins without a lock meanwhile, or did
    /// not finish before, starts again under the mmap lock. The caller holds that for writing.
    #[doc(alias = "write_protect_seq")]
    pub fn begin_sharing(&self) -> SeqWriteGuard<'_, M> {
        let guard = self.sharing.begin_write();
        pin_protocol::before_looking_for_pins::<M>();
        guard
    }

    pub(crate) fn sharing(&self) -> &SeqCount<M> {
        &self.sharing
    }

    /// The root, if there is one, for whoever has a guard of this space.
    ///
    /// # Panics
    /// If the guard is another space's, or the tables are of other frames.
    #[inline(always)]
    pub(crate) fn root_for<G: StableVma<M>>(&self, frames: &Frames<M>, stable: &G) -> Option<Pfn> {
        let root = self.root();
        if root.0 == 0 {
            return None;
        }
        assert!(stable.opens(self) && self.is_of(frames), "a guard of another address space");
        Some(root)
    }
}

/// How much of an address space is being torn down.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Teardown {
    /// A range of one that lives on.
    Range,
    /// All of one that no CPU runs and none will run again.
    WholeSpace,
}

impl<M: Machine> Default for AddressSpace<M> {
    fn default() -> Self {
        Self::new()
    }
}

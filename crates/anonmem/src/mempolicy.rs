//! Memory policies: on which nodes the pages of a mapping are to lie, and moving those that lie elsewhere.
//!
//! A mapping's policy is a part of its attributes. So it is split, merged and copied to a child with them,
//! and a fault has read it already when it needs a page.
//!
//! Linux: mm/mempolicy.c `mbind_range`, mm/migrate.c `add_folio_for_migration`, `do_pages_stat_array`.
//! Differs: a page goes by itself, so that what became of each can be told.

use crate::{error::Error, migrate::Stays, mm::Mm, rmap::machine::Machine};
use anonmem_frame::{FolioOwner, Mapping};
use anonmem_hal::{Arch, NodePolicy, NodeSet, NrPages, Order, Pfn, Va, VaRange};
use core::fmt;

/// Why an address has no page that lies on a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoPage {
    /// There is no mapping.
    NotMapped,
    /// There is no page, or it is in swap.
    Empty,
    /// It is the page of zeroes that everybody has.
    Zeroes,
}

impl fmt::Display for NoPage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotMapped => "nothing is mapped at the address",
            Self::Empty => "the address has no page in memory",
            Self::Zeroes => "the address has the page of zeroes that everybody has",
        })
    }
}

impl core::error::Error for NoPage {}

/// Whose pages are moved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Whose {
    /// Those that nobody else maps.
    Own,
    /// All.
    Everybodys,
}

/// Why a page did not move.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotMoved {
    /// There is none.
    NoPage(NoPage),
    /// Others map it, too.
    Shared,
    /// It stays.
    Stays(Stays),
}

impl fmt::Display for NotMoved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPage(why) => why.fmt(f),
            Self::Shared => f.write_str("others map the page, too"),
            Self::Stays(why) => why.fmt(f),
        }
    }
}

impl core::error::Error for NotMoved {}

/// Whether addresses that nothing is mapped at are passed over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Holes {
    /// They are, if anything is mapped.
    Passed,
    /// They are an error, and nothing changes.
    Refused,
}

impl<M: Machine> Mm<'_, M> {
    /// The policy of the mapping at `va`, if there is one.
    ///
    /// # Locks
    /// The mmap lock for reading.
    pub fn node_policy_at(&self, va: Va) -> Option<NodePolicy> {
        let guard = self.read();
        let (_, id) = guard.slot().tree.find_containing(self.vm.nodes(), va)?;
        Some(self.vm.vma(id).flags().node_policy())
    }

    /// Gives the mappings of `range`, or the parts of them that lie in it, a policy. Pages that are there
    /// stay where they are.
    ///
    /// ```
    /// use anonmem::hal::{NodeMode, NodePolicy, NodeSet};
    /// use anonmem::{Config, Holes, MmapRequest, Prot, Va, VaRange, Vm};
    /// # use anonmem_testkit::{Program, VecMachine};
    ///
    /// let vm = Vm::new(VecMachine::new(4096), Config { nodes: 2, ..Config::default() })?;
    /// let mm = vm.new_mm()?;
    /// let start = mm.mmap(MmapRequest::anonymous(4 * 4096, Prot::READ | Prot::WRITE))?;
    /// let first = VaRange { start, end: Va(start.0 + 4096) };
    /// let policy = NodePolicy { mode: NodeMode::Bind, nodes: NodeSet::only(1), tag: 0 };
    /// mm.set_node_policy(first, policy, Holes::Refused)?;
    /// assert_eq!(mm.node_policy_at(start), Some(policy));
    /// assert_eq!(mm.node_policy_at(first.end), Some(NodePolicy::DEFAULT));
    /// mm.store(start, 7)?;
    /// assert_eq!(mm.node_of_page(start), Ok(1));
    /// # vm.validate()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Locks
    /// The mmap lock for writing. Sleeps.
    ///
    /// # Errors
    /// [`Error::BadAddress`] for what is not mapped: nothing has changed. [`Error::OutOfMemory`],
    /// [`Error::Limit`]: what comes before the place of the error has changed.
    #[doc(alias("mbind", "mbind_range"))]
    pub fn set_node_policy(&self, range: VaRange, policy: NodePolicy, holes: Holes) -> Result<(), Error> {
        self.vm.reclaiming(|| {
            let guard = self.write();
            let tree = &guard.slot().tree;
            let (mut rest, mut mapped) = (range, 0);
            while let Some(part) =
                tree.find(self.vm.nodes(), rest.start).and_then(|(vma, _)| vma.intersect(rest))
            {
                mapped += part.len();
                rest.start = part.end;
            }
            if mapped == 0 || (holes == Holes::Refused && mapped != range.len()) {
                return Err(Error::BadAddress);
            }
            let mut rest = range;
            while let Some((vma, id)) = tree.find(self.vm.nodes(), rest.start) {
                let Some(part) = vma.intersect(rest) else { break };
                let flags = self.vm.vma(id).flags().with_node_policy(policy);
                guard.modify_vma(id, part, flags)?;
                rest.start = part.end;
            }
            Ok(())
        })
    }

    fn frame_at(&self, va: Va) -> Result<Pfn, NoPage> {
        // Nothing follows the last page that an address has.
        if va >= M::Arch::USER_END {
            return Err(NoPage::NotMapped);
        }
        let va = va.page_down();
        match self.pagemap(va).pfn {
            Some(frame) if frame == self.vm.frames.zero_page() => Err(NoPage::Zeroes),
            Some(frame) => Ok(frame),
            None if self.vma_at(va).is_none() => Err(NoPage::NotMapped),
            None => Err(NoPage::Empty),
        }
    }

    /// The node that the page at `va` lies on.
    ///
    /// # Locks
    /// The mmap lock for reading.
    ///
    /// # Errors
    /// [`NoPage`].
    pub fn node_of_page(&self, va: Va) -> Result<u32, NoPage> {
        self.frame_at(va).map(|frame| self.vm.node_of(frame))
    }

    /// How many pages of this address space lie on some nodes: looks at all its entries. Takes no memory.
    ///
    /// # Locks
    /// The mmap lock for reading, a page-table lock for one table at a time.
    pub fn pages_on(&self, nodes: NodeSet) -> NrPages {
        let (vm, zero_page, mut found) = (self.vm, self.vm.frames.zero_page(), 0);
        self.for_each_page(VaRange { start: Va(0), end: M::Arch::USER_END }, &mut |_, entry| {
            let is_there = |frame| frame != zero_page && vm.nodes_of_memory.have(&vm.frames, nodes, frame);
            found += u64::from(entry.pfn.is_some_and(is_there));
        });
        NrPages(found)
    }

    /// Moves the page at `va` to a node, with the folio that it is of, unless it lies there.
    ///
    /// ```
    /// use anonmem::{Config, MmapRequest, NoPage, NotMoved, Prot, Va, Vm, Whose};
    /// # use anonmem_testkit::{Program, VecMachine};
    ///
    /// let vm = Vm::new(VecMachine::new(4096), Config { nodes: 2, ..Config::default() })?;
    /// let mm = vm.new_mm()?;
    /// let start = mm.mmap(MmapRequest::anonymous(2 * 4096, Prot::READ | Prot::WRITE))?;
    /// mm.store(start, 7)?;
    /// for node in [1, 0] {
    ///     mm.move_page_to_node(start, node, Whose::Own)?;
    ///     assert_eq!((mm.node_of_page(start), mm.load(start)?), (Ok(node), 7));
    /// }
    /// let untouched = Va(start.0 + 4096);
    /// let moved = mm.move_page_to_node(untouched, 1, Whose::Own);
    /// assert_eq!(moved, Err(NotMoved::NoPage(NoPage::Empty)));
    /// # vm.validate()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Locks
    /// The caller holds none. Sleeps.
    ///
    /// # Errors
    /// Why it stays.
    #[doc(alias("move_pages", "add_folio_for_migration"))]
    pub fn move_page_to_node(&self, va: Va, node: u32, whose: Whose) -> Result<(), NotMoved> {
        let frame = self.frame_at(va).map_err(NotMoved::NoPage)?;
        if self.vm.node_of(frame) == node {
            return Ok(());
        }
        let page = self.vm.frames.try_get(frame).ok_or(NotMoved::NoPage(NoPage::Empty))?;
        // It is ours for as long as we have a count of it: nobody else's page has come to its frame.
        if self.frame_at(va) != Ok(frame) {
            return Err(NotMoved::Stays(Stays::Referenced));
        }
        let folio = page.folio();
        let own = match folio.mapping() {
            // Its object maps it, too.
            Mapping::Shm(_) => 2,
            Mapping::Anon(_) | Mapping::Ksm(_) | Mapping::None => folio.nr_pages().0,
        };
        if whose == Whose::Own && folio.counts().maps() > own {
            return Err(NotMoved::Shared);
        }
        let is_large = folio.is_large();
        match self.vm.migrate_folio_to(page, node) {
            Ok(_went) => Ok(()),
            // Without a block for all of it this page goes alone.
            Err(Stays::NoMemory) if is_large => self.split_and_move(va, frame, node),
            Err(why) => Err(NotMoved::Stays(why)),
        }
    }

    #[cold]
    fn split_and_move(&self, va: Va, frame: Pfn, node: u32) -> Result<(), NotMoved> {
        let gone = NotMoved::Stays(Stays::Referenced);
        let page = self.vm.frames.try_get(frame).ok_or(gone)?;
        {
            let lock = page.try_lock().ok_or(NotMoved::Stays(Stays::Locked))?;
            let split = self.vm.split_folio(&lock, &page, Order::ZERO);
            split.map_err(|why| NotMoved::Stays(Stays::of_unsplit(why)))?;
        }
        drop(page);
        let page = self.vm.frames.try_get(frame).ok_or(gone)?;
        if self.frame_at(va) != Ok(frame) || page.folio().is_large() {
            return Err(gone);
        }
        self.vm.migrate_folio_to(page, node).map(drop).map_err(NotMoved::Stays)
    }
}

#[cfg(test)]
mod tests;

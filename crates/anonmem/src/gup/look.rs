//! A page for who only looks at it: kept by a reference, not pinned.
//!
//! Whoever reads a page takes it as it is, shared or not, and nobody is kept from anything. Fork shares the
//! page, reclaim unmaps it, and what the program writes later may go to another page. What is seen is what
//! the page said while it was this address's. A debugger's read and a pipe that holds a program's page need
//! no more. Who writes, or needs to see what comes, pins ([`Mm::pin`]).
//!
//! The reference alone protects the other sharers of the page. A write by the last of its mappers finds a
//! count too many, and copies (CVE-2020-29374).
//!
//! Linux: mm/gup.c `FOLL_GET`.

use super::{
    PinFlags,
    area::{Area, Held, Stop},
};
use crate::{error::Error, fault::vm_fault::FaultAccess, mm::Mm, rmap::machine::Machine, vm::Vm};
use anonmem_frame::FolioRef;
use anonmem_hal::{Entry, Pfn, Va};
use anonmem_pgtable::Mapped;
use core::fmt;

/// A page of a program, to be read.
pub struct PageLook<'v, M: Machine> {
    vm: &'v Vm<M>,
    /// `None` for the zero page, which needs no owner.
    folio: Option<FolioRef<'v, M>>,
    page: Pfn,
}

impl<M: Machine> fmt::Debug for PageLook<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a look at page {:#x}", self.page.0)
    }
}

impl<M: Machine> PageLook<'_, M> {
    /// The page.
    pub fn page(&self) -> Pfn {
        self.page
    }

    /// Whether it is the zero page.
    pub fn is_zero_page(&self) -> bool {
        self.folio.is_none()
    }

    /// Reads bytes of the page from byte `offset` on. Its program may be writing to them.
    ///
    /// # Panics
    /// If they do not all lie in the page.
    pub fn read(&self, offset: usize, to: &mut [u8]) {
        self.vm.machine().read_bytes(self.page, offset, to);
    }
}

impl<'v, M: Machine> Mm<'v, M> {
    /// Gets the page at `va` to look at it. Of the flags, [`PinFlags::FORCE`] and [`PinFlags::NOFAULT`]
    /// count.
    ///
    /// # Locks
    /// The mmap lock for reading. Sleeps.
    ///
    /// # Errors
    /// As [`pin`](Self::pin); [`Error::Limit`] if the page has 2^20 references.
    #[doc(alias = "get_user_pages")]
    pub fn look(&self, va: Va, flags: PinFlags) -> Result<PageLook<'v, M>, Error> {
        let flags = flags & (PinFlags::FORCE | PinFlags::NOFAULT);
        self.vm.reclaiming(|| {
            loop {
                let looked = self.area(va, flags)?.look(va.page_down());
                if let Some(look) = self.unless_stopped(looked)? {
                    return Ok(look);
                }
            }
        })
    }
}

impl<'v, M: Machine> Area<'v, M> {
    /// Gets the page at `va`, faulting it in if it is not there.
    ///
    /// # Errors
    /// As [`Mm::look`].
    pub(super) fn look(&self, va: Va) -> Result<PageLook<'v, M>, Stop> {
        loop {
            match self.look_at_entry(va)? {
                Some(page) => return Ok(page),
                None => self.fault(va, FaultAccess::Read)?,
            }
        }
    }

    /// Takes a reference to the page that the entry for `va` maps; `None` if there is none.
    #[doc(alias = "follow_page_pte")]
    fn look_at_entry(&self, va: Va) -> Result<Option<PageLook<'v, M>>, Error> {
        let Some(held) = self.lock(va) else { return Ok(None) };
        let vm = self.vm;
        let entries = match &held {
            Held::Table(entries) => entries,
            Held::Leaf(leaf) => {
                let Entry::Leaf(of) = leaf.get() else { return Ok(None) };
                let page = of.pfn.offset(va.page() - leaf.range().start.page());
                let folio = vm.frames.try_get(page).ok_or(Error::REFERENCES)?;
                return Ok(Some(PageLook { vm, folio: Some(folio), page }));
            }
        };
        let page = match entries.mapped(va) {
            Mapped::Exclusive(_, present) | Mapped::Shared(_, present) | Mapped::Shm(present) => present.pfn,
            Mapped::Zero(_) => {
                return Ok(Some(PageLook { vm, folio: None, page: vm.frames.zero_page() }));
            }
            Mapped::None | Mapped::Swap(..) | Mapped::Migration(..) | Mapped::Marker(_) => return Ok(None),
        };
        // The entry has a mapping of it, so it has an owner: what may fail is only the count.
        let folio = vm.frames.try_get(page).ok_or(Error::REFERENCES)?;
        Ok(Some(PageLook { vm, folio: Some(folio), page }))
    }
}

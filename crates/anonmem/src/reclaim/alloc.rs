//! Pages for user memory, and where they come from when there are none.
//!
//! Linux: mm/page_alloc.c `__alloc_pages_slowpath`.

use crate::{events::Event, rmap::machine::Machine, vm::Vm};
use anonmem_frame::{NewFolio, OutOfMemory};
use anonmem_hal::Order;

impl<M: Machine> Vm<M> {
    /// A page for user memory, its bytes whatever they were; without waiting.
    #[inline]
    pub(crate) fn try_alloc_page(&self) -> Result<NewFolio<'_, M>, OutOfMemory> {
        let page = self.frames.alloc(Order::ZERO);
        self.wake_kswapd();
        page
    }

    /// A page for user memory, its bytes whatever they were. If there is none, makes others leave. Sleeps.
    ///
    /// # Locks
    /// The caller may hold the mmap lock; no folio, anon_vma or spin lock.
    #[inline(always)]
    pub(crate) fn alloc_page(&self) -> Result<NewFolio<'_, M>, OutOfMemory> {
        match self.try_alloc_page() {
            Ok(page) => Ok(page),
            Err(OutOfMemory) => self.alloc_page_slow(),
        }
    }

    #[cold]
    #[doc(alias = "__alloc_pages_slowpath")]
    fn alloc_page_slow(&self) -> Result<NewFolio<'_, M>, OutOfMemory> {
        self.count(Event::DirectReclaim);
        while self.reclaim_some() {
            if let Ok(page) = self.frames.alloc(Order::ZERO) {
                return Ok(page);
            }
        }
        self.frames.alloc(Order::ZERO)
    }
}

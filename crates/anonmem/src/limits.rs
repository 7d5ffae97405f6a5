//! What an address space may use.
//!
//! Linux: `setrlimit`, mm/mmap.c `may_expand_vm`, mm/mlock.c `mlock_future_ok`.

use crate::{
    error::Error,
    mm::{Mm, mmap_lock::MmapWriteGuard},
    rmap::machine::Machine,
    thp::mode::ThpDisable,
    vma::flags::VmFlags,
};
use anonmem_hal::PAGE_SHIFT;
use anonmem_sync::Ordering;

/// Limits of an address space, in bytes; `u64::MAX` for none. A child inherits them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// The size that a stack may grow to (`RLIMIT_STACK`).
    pub stack: u64,
    /// Private writable memory, the heap included (`RLIMIT_DATA`).
    pub data: u64,
    /// The address space (`RLIMIT_AS`).
    pub space: u64,
    /// Locked memory (`RLIMIT_MEMLOCK`).
    pub locked: u64,
}

impl<M: Machine> Mm<'_, M> {
    /// The limits.
    pub fn limits(&self) -> Limits {
        let guard = self.read();
        let slot = guard.slot();
        Limits {
            stack: slot.stack_limit.get(),
            data: slot.data_limit.get(),
            space: slot.space_limit.get(),
            locked: slot.locked_limit.get().saturating_mul(1 << PAGE_SHIFT),
        }
    }

    /// Sets the limits. What is in use already stays.
    ///
    /// ```
    /// # use anonmem::*;
    /// # anonmem_testkit::example(|_, mm| {
    /// mm.set_limits(Limits { space: 4096, ..mm.limits() });
    /// assert!(mm.mmap(MmapRequest::anonymous(2 * 4096, Prot::READ)).is_err());
    /// # Ok(())
    /// # });
    /// ```
    pub fn set_limits(&self, limits: Limits) {
        let guard = self.write();
        let slot = guard.slot();
        slot.stack_limit.set(limits.stack);
        slot.data_limit.set(limits.data);
        slot.space_limit.set(limits.space);
        slot.locked_limit.set(if limits.locked == u64::MAX { u64::MAX } else { limits.locked >> PAGE_SHIFT });
    }
}

impl<M: Machine> MmapWriteGuard<'_, M> {
    /// Checks that `pages` more with these attributes are within the limits.
    ///
    /// # Errors
    /// [`Error::Limit`] if not.
    #[doc(alias = "may_expand_vm")]
    pub(crate) fn may_expand(&self, flags: VmFlags, pages: u64) -> Result<(), Error> {
        let slot = self.slot();
        let fits = |used: u64, limit: u64| used.saturating_add(pages) <= limit >> PAGE_SHIFT;
        if !fits(slot.counts.total.get(), slot.space_limit.get()) {
            return Err(Error::SPACE);
        }
        if flags.is_data() && !fits(slot.counts.data.get(), slot.data_limit.get()) {
            return Err(Error::DATA);
        }
        Ok(())
    }

    /// Checks that `pages` more with these attributes may be locked, if they are to be.
    ///
    /// # Errors
    /// [`Error::Again`] if not.
    #[doc(alias = "mlock_future_ok")]
    pub(crate) fn check_locked(&self, flags: VmFlags, pages: u64) -> Result<(), Error> {
        let slot = self.slot();
        let locked = slot.counts.locked.get().saturating_add(pages);
        if flags.contains(VmFlags::LOCKED) && locked > slot.locked_limit.get() {
            return Err(Error::Again);
        }
        Ok(())
    }
}

impl<M: Machine> Mm<'_, M> {
    /// What the program has said of large folios.
    #[doc(alias = "PR_GET_THP_DISABLE")]
    pub fn thp_disable(&self) -> ThpDisable {
        ThpDisable::decode(self.slot().thp_disable.load(Ordering::Relaxed))
    }

    /// Lets the program have no large folios from now on, or have them again. A child inherits it.
    #[doc(alias = "PR_SET_THP_DISABLE")]
    pub fn set_thp_disable(&self, disable: ThpDisable) {
        self.slot().thp_disable.store(disable as u32, Ordering::Relaxed);
    }
}

//! What an address space may use.
//!
//! Linux: `setrlimit`, mm/mmap.c `may_expand_vm`, mm/mlock.c `mlock_future_ok`.

use crate::{
    error::Error,
    mm::{Mm, mmap_lock::MmapWriteGuard, slot::MmSlot},
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

/// Whether a program may make memory executable that it could write.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum WriteExec {
    /// It may.
    #[default]
    Allowed = 0,
    /// It may not, and neither may its children.
    Refused = 1,
    /// It may not. Its children may, unless they ask for the same.
    RefusedHere = 3,
}

impl WriteExec {
    /// What an address space has said. The caller holds its mmap lock.
    pub(crate) fn of<M: Machine>(slot: &MmSlot<M>) -> Self {
        match slot.write_exec.get() {
            0 => Self::Allowed,
            1 => Self::Refused,
            _ => Self::RefusedHere,
        }
    }

    /// What a child has of it, and a program that takes this one's place.
    #[doc(alias = "mmf_init_flags")]
    pub const fn inherited(self) -> Self {
        match self {
            Self::Allowed | Self::RefusedHere => Self::Allowed,
            Self::Refused => Self::Refused,
        }
    }
}

impl<M: Machine> Mm<'_, M> {
    /// Whether memory that was writable may become executable.
    #[doc(alias = "PR_GET_MDWE")]
    pub fn write_exec(&self) -> WriteExec {
        WriteExec::of(self.read().slot())
    }

    /// Refuses from now on what would make memory executable that is or was writable: new mappings that are
    /// both, and `mprotect` of what is not executable. What is mapped stays as it is.
    ///
    /// ```
    /// # use anonmem::*;
    /// # anonmem_testkit::example(|_, mm| {
    /// let start = mm.mmap(MmapRequest::anonymous(4096, Prot::READ | Prot::WRITE))?;
    /// mm.set_write_exec(WriteExec::Refused)?;
    /// let code = mm.mprotect(VaRange { start, end: Va(start.0 + 4096) }, Prot::READ | Prot::EXEC);
    /// assert_eq!(code, Err(Error::AccessDenied));
    /// # Ok(())
    /// # });
    /// ```
    ///
    /// # Errors
    /// [`Error::NotPermitted`] if it is refused already, and in another way: nothing takes it back.
    #[doc(alias = "PR_SET_MDWE")]
    pub fn set_write_exec(&self, wanted: WriteExec) -> Result<(), Error> {
        let guard = self.write();
        let now = WriteExec::of(guard.slot());
        if now != WriteExec::Allowed && now != wanted {
            return Err(Error::NotPermitted);
        }
        guard.slot().write_exec.set(wanted as u64);
        Ok(())
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

    /// Checks that a mapping with the attributes `old` may have `new`; a new one has had them always.
    ///
    /// # Errors
    /// [`Error::AccessDenied`] if it would become executable, or is both, and the program gave that up.
    #[doc(alias = "map_deny_write_exec")]
    pub(crate) fn check_write_exec(&self, old: VmFlags, new: VmFlags) -> Result<(), Error> {
        if !new.contains(VmFlags::EXEC) || WriteExec::of(self.slot()) == WriteExec::Allowed {
            return Ok(());
        }
        let denied = new.contains(VmFlags::WRITE) || !old.contains(VmFlags::EXEC);
        if denied { Err(Error::AccessDenied) } else { Ok(()) }
    }
}

impl<M: Machine> Mm<'_, M> {
    /// What the program has said of large folios.
    #[doc(alias = "PR_GET_THP_DISABLE")]
    pub fn thp_disable(&self) -> ThpDisable {
        ThpDisable::decode(self.slot().thp_disable.load(Ordering::Relaxed))
    }

    /// Lets the program have no large folios from now on, or have them again. A child inherits it.
    ///
    /// ```
    /// # use anonmem::{hal::Order, *};
    /// # use anonmem_testkit::Program;
    /// # anonmem_testkit::example(|vm, mm| {
    /// vm.set_folio_policy(FolioPolicy::up_to(Order::new(2), FolioMode::Always));
    /// let start = mm.mmap(MmapRequest::anonymous(12 * 4096, Prot::READ | Prot::WRITE))?;
    /// mm.set_thp_disable(ThpDisable::Yes);
    /// mm.store(start, 7)?;
    /// assert_eq!(mm.counters().anon.0, 1);
    /// mm.set_thp_disable(ThpDisable::No);
    /// mm.store(Va(start.0 + 6 * 4096), 7)?;
    /// assert_eq!(mm.counters().anon.0, 1 + 4);
    /// # Ok(())
    /// # });
    /// ```
    #[doc(alias = "PR_SET_THP_DISABLE")]
    pub fn set_thp_disable(&self, disable: ThpDisable) {
        self.slot().thp_disable.store(disable as u32, Ordering::Relaxed);
    }
}

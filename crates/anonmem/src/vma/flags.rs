//! The attributes of a VMA.

use anonmem_hal::{NodePolicy, Protection};

bitflags::bitflags! {
    /// Attributes of a VMA. Linux: include/linux/mm.h `VM_*`.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct VmFlags: u64 {
        /// Loads are allowed.
        const READ = 1 << 0;
        /// Stores are allowed.
        const WRITE = 1 << 1;
        /// Instruction fetches are allowed.
        const EXEC = 1 << 2;
        /// `MAP_SHARED`.
        const SHARED = 1 << 3;
        /// `mprotect` may allow loads.
        const MAYREAD = 1 << 4;
        /// `mprotect` may allow stores.
        const MAYWRITE = 1 << 5;
        /// `mprotect` may allow instruction fetches.
        const MAYEXEC = 1 << 6;
        /// `MAP_SHARED`, of an object that may be writable or not.
        const MAYSHARE = 1 << 7;
        /// A stack: an access just below makes it grow.
        const GROWSDOWN = 1 << 8;
        /// A userfaultfd is asked for pages that are missing.
        const UFFD_MISSING = 1 << 9;
        /// A userfaultfd may write-protect pages.
        const UFFD_WP = 1 << 12;
        /// `mlock`: its pages stay.
        const LOCKED = 1 << 13;
        /// `mlock2(MLOCK_ONFAULT)`: pages stay once they are there.
        const LOCKONFAULT = 1 << 14;
        /// `MADV_SEQUENTIAL`.
        const SEQ_READ = 1 << 15;
        /// `MADV_RANDOM`.
        const RAND_READ = 1 << 16;
        /// `MADV_DONTFORK`: a child does not get it.
        const DONTCOPY = 1 << 17;
        /// `mremap` may not grow it.
        const DONTEXPAND = 1 << 18;
        /// Counts towards the commit limit.
        const ACCOUNT = 1 << 20;
        /// `MAP_NORESERVE`: does not count.
        const NORESERVE = 1 << 21;
        /// `MADV_WIPEONFORK`: a child gets it empty.
        const WIPEONFORK = 1 << 25;
        /// `MADV_DONTDUMP`.
        const DONTDUMP = 1 << 26;
        /// Nothing was mapped there since programs began to ask what was written: only its entries tell. The
        /// bit says the opposite of Linux's.
        #[doc(alias = "VM_SOFTDIRTY")]
        const SOFT_CLEAN = 1 << 27;
        /// `MADV_HUGEPAGE`.
        const HUGEPAGE = 1 << 29;
        /// `MADV_NOHUGEPAGE`.
        const NOHUGEPAGE = 1 << 30;
        /// `MADV_MERGEABLE`.
        const MERGEABLE = 1 << 31;
        /// `MAP_DROPPABLE`: its pages may be gone whenever memory is short.
        const DROPPABLE = 1 << 40;
        /// A userfaultfd is asked about pages of shared memory that are there, but not mapped.
        const UFFD_MINOR = 1 << 41;
        /// `mbind`: on which nodes its pages are to lie, as the bits of a [`NodePolicy`].
        const NODE_POLICY = ((1 << NodePolicy::BITS) - 1) << Self::NODE_POLICY_SHIFT;
        /// `mseal`: it stays mapped as it is.
        const SEALED = 1 << 63;
    }
}

impl VmFlags {
    /// Those that say what a userfaultfd is asked.
    #[doc(alias = "__VM_UFFD_FLAGS")]
    pub const UFFD: Self = Self::UFFD_MISSING.union(Self::UFFD_WP).union(Self::UFFD_MINOR);

    /// Where the bits of [`NODE_POLICY`](Self::NODE_POLICY) begin.
    const NODE_POLICY_SHIFT: u32 = 48;

    /// Whether a mapping of these attributes may become one with another: what was written is no reason to
    /// keep them apart.
    #[doc(alias = "VM_IGNORE_MERGE")]
    #[inline]
    pub const fn merges_with(self, other: Self) -> bool {
        (self.bits() ^ other.bits()) & !Self::SOFT_CLEAN.bits() == 0
    }

    /// Where pages of the mapping are to lie.
    #[inline]
    pub const fn node_policy(self) -> NodePolicy {
        NodePolicy::of((self.intersection(Self::NODE_POLICY).bits() >> Self::NODE_POLICY_SHIFT) as u16)
    }

    /// The same attributes with another policy.
    #[must_use]
    pub const fn with_node_policy(self, policy: NodePolicy) -> Self {
        let bits = (policy.bits() as u64) << Self::NODE_POLICY_SHIFT;
        self.difference(Self::NODE_POLICY).union(Self::from_bits_retain(bits))
    }

    /// The three that an access is checked against.
    pub const ACCESS: Self = Self::READ.union(Self::WRITE).union(Self::EXEC);

    /// The hardware's permissions. x86 cannot express write or execute without read.
    pub const fn protection(self) -> Protection {
        Protection {
            read: self.intersects(Self::ACCESS),
            write: self.contains(Self::WRITE),
            exec: self.contains(Self::EXEC),
        }
    }

    /// Whether pages of the VMA are copied on write: a private mapping that may become writable.
    #[doc(alias = "is_cow_mapping")]
    pub const fn is_cow(self) -> bool {
        !self.contains(Self::SHARED) && self.contains(Self::MAYWRITE)
    }

    /// Whether it is shared, and stores may be allowed now or later. No change of a VMA changes that.
    #[doc(alias = "is_shared_maywrite")]
    pub const fn may_store_shared(self) -> bool {
        self.contains(Self::SHARED.union(Self::MAYWRITE))
    }

    /// Whether it is private and writable, so that its pages cost memory that nothing else backs.
    #[doc(alias = "accountable_mapping")]
    pub const fn is_accountable(self) -> bool {
        self.contains(Self::WRITE) && !self.contains(Self::SHARED) && !self.contains(Self::NORESERVE)
    }

    /// Whether its pages may be merged with equal ones, if its program agrees: nobody else sees what is
    /// written to them.
    #[doc(alias = "vma_ksm_compatible")]
    pub const fn may_be_mergeable(self) -> bool {
        !self.intersects(Self::SHARED.union(Self::MAYSHARE).union(Self::DONTEXPAND).union(Self::DROPPABLE))
    }

    /// Whether it counts as data: private and writable, and no stack.
    #[doc(alias = "is_data_mapping")]
    pub const fn is_data(self) -> bool {
        self.contains(Self::WRITE) && !self.intersects(Self::SHARED.union(Self::GROWSDOWN))
    }
}

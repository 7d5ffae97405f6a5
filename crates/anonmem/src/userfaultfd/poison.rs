//! Addresses whose contents are lost: every access is a SIGBUS.
//!
//! Linux: fs/userfaultfd.c `userfaultfd_poison`.

use super::{
    copy::{Content, FillMode, Filled},
    register::Uffd,
};
use crate::rmap::machine::Machine;
use anonmem_hal::Va;

impl<M: Machine> Uffd<'_, M> {
    /// Lets every access to the `len` bytes from `dst` be a SIGBUS, where nothing is.
    ///
    /// # Locks
    /// As [`copy`](Self::copy).
    ///
    /// # Errors
    /// As [`copy`](Self::copy), in [`Filled`].
    #[doc(alias = "userfaultfd_poison")]
    pub fn poison(&self, dst: Va, len: u64, mode: FillMode) -> Filled {
        self.fill(dst, len, mode, FillMode::DONTWAKE, Content::Poison)
    }
}

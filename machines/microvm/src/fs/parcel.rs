//! Descriptions that are on their way through a socket (`SCM_RIGHTS`).
//!
//! They are kept in one table, and a message has a number in it. So a socket that was sent through itself,
//! which nobody can ever receive, still goes at the kernel's end.
//!
//! Linux: net/core/scm.c. Differs: there is no collector of what nobody can receive, but a limit.

use super::file::OpenFile;
use crate::arch::lock::SpinLock;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use anonmem_oslib::Result;
use anonmem_oslib::errno::ETOOMANYREFS;

/// The most descriptions of one message.
pub const MOST: usize = 253;
/// The most messages with descriptions that are on their way.
const MOST_OF_ALL: usize = 4096;

/// Descriptions of one message.
pub type Files = Vec<Arc<OpenFile>>;

static PARCELS: SpinLock<(u64, BTreeMap<u64, Files>)> = SpinLock::new((0, BTreeMap::new()));

/// Descriptions on their way; they go when it is dropped.
pub struct Parcel(u64);

impl Parcel {
    /// Sends them on their way; none of nothing.
    ///
    /// # Errors
    /// `ETOOMANYREFS`.
    pub fn of(files: Files) -> Result<Option<Parcel>> {
        if files.is_empty() {
            return Ok(None);
        }
        let refused = {
            let mut parcels = PARCELS.lock();
            if parcels.1.len() < MOST_OF_ALL {
                parcels.0 += 1;
                let number = parcels.0;
                parcels.1.insert(number, files);
                return Ok(Some(Parcel(number)));
            }
            files
        };
        // Not under the lock: a description may end with it.
        drop(refused);
        Err(ETOOMANYREFS)
    }

    /// Gives them to who has received them.
    pub fn open(self) -> Files {
        let files = PARCELS.lock().1.remove(&self.0);
        files.unwrap_or_default()
    }
}

impl Drop for Parcel {
    fn drop(&mut self) {
        let files = PARCELS.lock().1.remove(&self.0);
        drop(files);
    }
}

/// Lets all go, at the kernel's end.
pub fn clear() {
    let all = core::mem::take(&mut PARCELS.lock().1);
    drop(all);
}

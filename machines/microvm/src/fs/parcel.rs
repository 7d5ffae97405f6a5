//! Descriptions that are on their way through a socket (`SCM_RIGHTS`).
//!
//! They are kept in one table, and a message has a number in it. So a socket that was sent through itself,
//! which nobody can ever receive, still goes at the kernel's end.
//!
//! A parcel that nobody received may hold the last description of a socket that has parcels, too, and so on.
//! Such a chain is let go in a loop: a kernel stack is small, and a chain is as long as a program likes.
//!
//! Linux: net/core/scm.c, net/unix/af_unix.c `too_many_unix_fds`. Differs: there is no collector of what
//! nobody can receive, but a limit.

use super::file::OpenFile;
use crate::arch::lock::SpinLock;
use crate::heap;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use anonmem_oslib::Result;
use anonmem_oslib::errno::{ENOMEM, ETOOMANYREFS};

/// The most descriptions of one message.
pub const MOST: usize = 253;
/// The most messages with descriptions that are on their way.
const MOST_OF_ALL: usize = 4096;

/// Descriptions of one message.
pub type Files = Vec<Arc<OpenFile>>;

/// Who sends descriptions.
#[derive(Clone, Copy, Debug)]
pub struct Sender {
    /// The user who answers for them.
    pub user: u32,
    /// With more than so many descriptions on their way, the user sends none.
    pub most: usize,
}

struct Parcels {
    last: u64,
    sent: BTreeMap<u64, (u32, Files)>,
    /// How many descriptions of a user's are on their way; not none.
    of_user: BTreeMap<u32, usize>,
    /// What nobody received and has yet to go. Has room for all of `sent`.
    lost: Vec<Files>,
    /// Somebody lets `lost` go.
    clearing: bool,
}

static PARCELS: SpinLock<Parcels> = SpinLock::new(Parcels {
    last: 0,
    sent: BTreeMap::new(),
    of_user: BTreeMap::new(),
    lost: Vec::new(),
    clearing: false,
});

impl Parcels {
    /// Sends descriptions on their way; gives them back if that cannot be.
    fn add(
        &mut self,
        files: Files,
        sender: Sender,
    ) -> core::result::Result<u64, (Files, anonmem_oslib::Errno)> {
        let of_user = self.of_user.get(&sender.user).copied().unwrap_or(0);
        if self.sent.len() >= MOST_OF_ALL || of_user > sender.most {
            return Err((files, ETOOMANYREFS));
        }
        if heap::is_short() || self.lost.try_reserve(self.sent.len() + 1).is_err() {
            return Err((files, ENOMEM));
        }
        self.last += 1;
        self.of_user.insert(sender.user, of_user + files.len());
        self.sent.insert(self.last, (sender.user, files));
        Ok(self.last)
    }

    /// Takes a parcel that is still on its way.
    fn take(&mut self, number: u64) -> Option<Files> {
        let (user, files) = self.sent.remove(&number)?;
        let left = self.of_user.get(&user).map_or(0, |there| there.saturating_sub(files.len()));
        if left > 0 {
            self.of_user.insert(user, left);
        } else {
            self.of_user.remove(&user);
        }
        Some(files)
    }
}

/// Descriptions on their way; they go when it is dropped.
pub struct Parcel(u64);

impl Parcel {
    /// Sends them on their way; none of nothing.
    ///
    /// # Errors
    /// `ETOOMANYREFS`, `ENOMEM`.
    pub fn of(files: Files, sender: Sender) -> Result<Option<Parcel>> {
        if files.is_empty() {
            return Ok(None);
        }
        let added = PARCELS.lock().add(files, sender);
        match added {
            Ok(number) => Ok(Some(Parcel(number))),
            // Not under the lock: a description may end with it.
            Err((refused, error)) => {
                drop(refused);
                Err(error)
            }
        }
    }

    /// Gives them to who has received them.
    pub fn open(self) -> Files {
        let files = PARCELS.lock().take(self.0);
        files.unwrap_or_default()
    }
}

impl Drop for Parcel {
    fn drop(&mut self) {
        {
            let mut parcels = PARCELS.lock();
            let Some(files) = parcels.take(self.0) else { return };
            parcels.lost.push(files);
            // Whoever does it may be the caller of this.
            if core::mem::replace(&mut parcels.clearing, true) {
                return;
            }
        }
        loop {
            let next = {
                let mut parcels = PARCELS.lock();
                let next = parcels.lost.pop();
                parcels.clearing = next.is_some();
                next
            };
            let Some(files) = next else { return };
            drop(files);
        }
    }
}

/// Lets all go, at the kernel's end.
pub fn clear() {
    let all = {
        let mut parcels = PARCELS.lock();
        (core::mem::take(&mut parcels.sent), core::mem::take(&mut parcels.lost))
    };
    drop(all);
}

//! System V IPC: shared memory and semaphores, found by key and named by number.
//!
//! [`Table`] has the objects of one kind. A number is an index and a count of how often indices were given
//! out, so that a number of an object that is gone means nothing.
//!
//! Linux: ipc/util.c. Differs: one name space; no message queues.

pub mod sem;
pub mod shm;

use crate::arch::time;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use anonmem_oslib::Result;
use anonmem_oslib::abi::{Fields, Packer};
use anonmem_oslib::cred::{Cap, Cred};
use anonmem_oslib::errno::{EACCES, EEXIST, EINVAL, ENOENT, ENOSPC, EPERM};

/// The key that nobody else finds.
pub const PRIVATE: i32 = 0;
/// `IPC_CREAT`: makes it if there is none.
pub const CREATE: u32 = 0o1000;
/// `IPC_EXCL`: there must be none.
pub const EXCLUSIVE: u32 = 0o2000;

/// The bits of a number that are its index.
const INDEX_BITS: u32 = 15;

/// Bytes of `struct ipc64_perm`.
const PERM_BYTES: usize = 48;

/// Whose an object is, and who may do what with it.
#[derive(Clone, Copy, Debug)]
pub struct Perm {
    /// The key by which it is found.
    pub key: i32,
    uid: u32,
    gid: u32,
    creator: u32,
    creator_group: u32,
    /// Permission bits.
    pub mode: u32,
}

impl Perm {
    fn new(key: i32, mode: u32, cred: &Cred) -> Perm {
        let (uid, gid) = (cred.user.effective, cred.group.effective);
        Perm { key, uid, gid, creator: uid, creator_group: gid, mode: mode & 0o777 }
    }

    /// Checks that all of `wanted` may be done: 4 to read, 2 to change, for any class.
    ///
    /// # Errors
    /// `EACCES`.
    #[doc(alias = "ipcperms")]
    fn check(&self, cred: &Cred, wanted: u32) -> Result<()> {
        let wanted = wanted >> 6 | wanted >> 3 | wanted;
        let in_group = |gid| cred.group.effective == gid || cred.groups.contains(&gid);
        let granted = if [self.uid, self.creator].contains(&cred.user.effective) {
            self.mode >> 6
        } else if in_group(self.gid) || in_group(self.creator_group) {
            self.mode >> 3
        } else {
            self.mode
        };
        if wanted & !granted & 0o7 == 0 || cred.has(Cap::IpcOwner) { Ok(()) } else { Err(EACCES) }
    }

    /// Checks that its fate may be decided.
    ///
    /// # Errors
    /// `EPERM`.
    #[doc(alias = "ipcctl_obtain_check")]
    fn check_owner(&self, cred: &Cred) -> Result<()> {
        let owns = [self.uid, self.creator].contains(&cred.user.effective);
        if owns || cred.has(Cap::SysAdmin) { Ok(()) } else { Err(EPERM) }
    }

    /// Takes owner and permissions from a `struct ipc64_perm`.
    ///
    /// # Errors
    /// `EINVAL` if nobody has such a number.
    #[doc(alias = "ipc_update_perm")]
    fn update(&mut self, bytes: &[u8; PERM_BYTES]) -> Result<()> {
        let fields = Fields(bytes);
        let (uid, gid) = (fields.u32(4), fields.u32(8));
        if uid == u32::MAX || gid == u32::MAX {
            return Err(EINVAL);
        }
        (self.uid, self.gid, self.mode) = (uid, gid, fields.u32(20) & 0o777);
        Ok(())
    }

    /// Puts it as `struct ipc64_perm`, with more bits of the mode.
    fn pack(&self, id: u32, more: u32) -> Packer {
        Packer::new()
            .i32(self.key)
            .u32(self.uid)
            .u32(self.gid)
            .u32(self.creator)
            .u32(self.creator_group)
            .u32(self.mode | more)
            .u32(id >> INDEX_BITS)
            .zeros_to(PERM_BYTES)
    }
}

/// What has a key and permissions.
pub trait Keyed {
    /// Gives them.
    fn perm(&self) -> Perm;
}

/// The objects of one kind.
pub struct Table<T> {
    objects: BTreeMap<u32, (u32, Arc<T>)>,
    given: u32,
}

impl<T: Keyed> Table<T> {
    const fn new() -> Self {
        Table { objects: BTreeMap::new(), given: 0 }
    }

    /// Finds the object with this number.
    ///
    /// # Errors
    /// `EINVAL` if there is none.
    #[doc(alias = "ipc_obtain_object_check")]
    fn get(&self, id: i32) -> Result<Arc<T>> {
        let number = u32::try_from(id).map_err(|_| EINVAL)?;
        match self.objects.get(&(number & ((1 << INDEX_BITS) - 1))) {
            Some((there, object)) if *there == number => Ok(object.clone()),
            Some(_) | None => Err(EINVAL),
        }
    }

    /// Finds the object at an index; gives its number, too.
    ///
    /// # Errors
    /// `EINVAL`.
    fn at(&self, index: i32) -> Result<(u32, Arc<T>)> {
        let index = u32::try_from(index).map_err(|_| EINVAL)?;
        self.objects.get(&(index & ((1 << INDEX_BITS) - 1))).cloned().ok_or(EINVAL)
    }

    /// Finds the object of a key.
    fn of_key(&self, key: i32) -> Option<(u32, Arc<T>)> {
        self.objects.values().find(|(_, object)| object.perm().key == key).cloned()
    }

    /// Finds what a key and flags ask for. `None`: it is to be made.
    ///
    /// # Errors
    /// `EEXIST`, `ENOENT`, `EACCES`; what `fits` gives.
    #[doc(alias = "ipcget")]
    fn find(
        &self,
        key: i32,
        flags: u32,
        cred: &Cred,
        fits: impl FnOnce(&T) -> Result<()>,
    ) -> Result<Option<u32>> {
        let found = if key == PRIVATE { None } else { self.of_key(key) };
        match found {
            Some(_) if flags & (CREATE | EXCLUSIVE) == CREATE | EXCLUSIVE => Err(EEXIST),
            Some((id, object)) => {
                fits(&object)?;
                object.perm().check(cred, flags & 0o777)?;
                Ok(Some(id))
            }
            None if key == PRIVATE || flags & CREATE != 0 => Ok(None),
            None => Err(ENOENT),
        }
    }

    /// Gives a new object a number, if there are fewer than `most`.
    ///
    /// # Errors
    /// `ENOSPC`.
    fn add(&mut self, most: usize, object: impl FnOnce(u32) -> T) -> Result<u32> {
        if self.objects.len() >= most {
            return Err(ENOSPC);
        }
        let mut index = 0;
        // The first that is free.
        while self.objects.contains_key(&index) {
            index += 1;
        }
        let id = (self.given << INDEX_BITS | index) & i32::MAX as u32;
        self.given = self.given.wrapping_add(1);
        self.objects.insert(index, (id, Arc::new(object(id))));
        Ok(id)
    }

    /// Takes an object out; gives it, to be dropped without locks.
    fn remove(&mut self, id: u32) -> Option<Arc<T>> {
        let index = id & ((1 << INDEX_BITS) - 1);
        let is_it = self.objects.get(&index).is_some_and(|(there, _)| *there == id);
        if is_it { self.objects.remove(&index).map(|(_, object)| object) } else { None }
    }

    /// Takes all out.
    fn take(&mut self) -> BTreeMap<u32, (u32, Arc<T>)> {
        core::mem::take(&mut self.objects)
    }

    /// Gives the highest index, 0 if there is none.
    fn last_index(&self) -> usize {
        self.objects.last_key_value().map_or(0, |(&index, _)| index as usize)
    }
}

/// Seconds since 1970.
fn now() -> u64 {
    time::wall_ns() / 1_000_000_000
}

/// Lets everything go, at the kernel's end.
pub fn clear() {
    shm::clear();
    sem::clear();
}

//! Seals of files: what nobody may do with a file any more.
//!
//! They are asked where bytes are written and sizes change (`anonmem_oslib::vfs::data`), and where files are
//! mapped. Sealing against writes asks the memory manager whether somebody may write through a mapping.
//!
//! Linux: mm/memfd.c.

use super::file::writer;
use super::store::{self, Store};
use crate::arch::time;
use crate::sched;
use alloc::sync::Arc;
use anonmem_oslib::Result;
use anonmem_oslib::errno::{EBUSY, EINVAL, EPERM};
use anonmem_oslib::vfs::data::{FileData, Seals};
use anonmem_oslib::vfs::{Body, Inode};
use spin::Mutex;

/// How often, and how long at first, a page of a file is waited for that somebody holds.
const LOOKS: u32 = 4;
const FIRST_WAIT_NS: u64 = 10_000_000;

/// Seals a file further (`F_ADD_SEALS`), which is open at `path`.
///
/// # Errors
/// `EINVAL` if it is no regular file; `EPERM` if it cannot be sealed further; `EBUSY` if it is to be sealed
/// against writes and somebody can write through a mapping, or holds a page; `ENOMEM`.
#[doc(alias = "memfd_add_seals")]
pub fn add(inode: &Arc<Inode>, path: &[u8], mut seals: Seals) -> Result<()> {
    let Body::File(data) = &inode.body else { return Err(EINVAL) };
    let there = data.lock().seals;
    if there.contains(Seals::SEAL) {
        return Err(EPERM);
    }
    let store = if seals.contains(Seals::WRITE) && !there.contains(Seals::WRITE) {
        Some(without_writers(inode, data, path)?)
    } else {
        None
    };
    let _writer = writer(inode);
    if data.lock().seals.contains(Seals::SEAL) {
        // Somebody was faster. What was refused to writers for our sake is so no longer.
        store.inspect(|store| take_back(data, store));
        return Err(EPERM);
    }
    if let Some(store) = &store {
        // Another who gave up may have taken the refusal back, and somebody may have written since.
        store.deny_writers()?;
        if store.is_held() {
            take_back(data, store);
            return Err(EBUSY);
        }
    }
    // What is no program from the start can be written by nobody who would make it one.
    if seals.contains(Seals::EXEC) && inode.meta().mode & 0o111 != 0 {
        seals |= Seals::SHRINK | Seals::GROW | Seals::WRITE | Seals::FUTURE_WRITE;
    }
    data.lock().seals |= seals;
    Ok(())
}

/// Refuses writers through mappings, and waits until nobody holds a page.
///
/// # Errors
/// `EBUSY`, `ENOMEM`.
fn without_writers(inode: &Arc<Inode>, data: &Mutex<FileData>, path: &[u8]) -> Result<Arc<Store>> {
    // Whoever maps it for the first time meanwhile finds this object, and is refused.
    let store = store::of_file(inode, path)?;
    store.deny_writers()?;
    let mut wait = FIRST_WAIT_NS;
    while store.is_held() {
        if wait == FIRST_WAIT_NS << LOOKS {
            let _writer = writer(inode);
            take_back(data, &store);
            return Err(EBUSY);
        }
        sched::sleep_until(time::now_ns() + wait, sched::Interruptible::No);
        wait *= 2;
    }
    Ok(store)
}

/// Accepts writers again, unless somebody else has sealed the file against them. The caller has [`writer`].
fn take_back(data: &Mutex<FileData>, store: &Store) {
    if !data.lock().seals.contains(Seals::WRITE) {
        store.allow_writers();
    }
}

/// Gives the seals of a file (`F_GET_SEALS`).
///
/// # Errors
/// `EINVAL` if it is no regular file.
pub fn of(inode: &Inode) -> Result<Seals> {
    let Body::File(data) = &inode.body else { return Err(EINVAL) };
    Ok(data.lock().seals)
}

//! Files that are mapped shared: their bytes live in a shared object of the memory manager.

use alloc::sync::Arc;
use anonmem_oslib::Result;
use anonmem_oslib::vfs::Inode;

/// x
pub struct Store;
/// x
pub fn of_file(_inode: &Inode) -> Result<Arc<Store>> {
    todo!()
}

//! A page that may be shared cannot be pinned: fork and COW would move somebody away from it.

use anonmem_frame::SharedRef;
use anonmem_hal::Machine;

fn pin<M: Machine>(page: &SharedRef<'_, '_, M>) {
    let _ = page.pin();
}

fn main() {}

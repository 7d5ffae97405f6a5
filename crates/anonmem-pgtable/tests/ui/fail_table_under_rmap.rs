//! An rmap lock does not let tables be added either.

use anonmem_frame::{Frames, OutOfMemory};
use anonmem_hal::{Machine, Va};
use anonmem_pgtable::{AddressSpace, StableVma};

struct Rmap;
// SAFETY: never made.
unsafe impl<M: Machine> StableVma<M> for Rmap {
    fn opens(&self, _: &AddressSpace<M>) -> bool {
        false
    }
}

fn grow<M: Machine>(space: &AddressSpace<M>, frames: &Frames<M>, rmap: &Rmap) -> Result<(), OutOfMemory> {
    space.walk_alloc(frames, rmap, Va(0)).map(drop)
}

fn main() {}

//! A walk without locks needs the read section that the tables wait for: not any.
#![forbid(unsafe_code)]

use anonmem_frame::{Frames, PinList};
use anonmem_hal::{Machine, VaRange};
use anonmem_pgtable::{AddressSpace, PinAccess};
use anonmem_sync::Rcu;

fn pin<'f, M: Machine>(
    space: &AddressSpace<M>,
    frames: &'f Frames<M>,
    range: VaRange,
    pins: &mut PinList<'f, M>,
) {
    let other = Rcu::new();
    space.pin_fast(frames, &other.read_lock(), range, PinAccess::Read, pins);
}

fn main() {}

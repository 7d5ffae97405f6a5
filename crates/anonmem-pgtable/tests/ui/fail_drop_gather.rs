//! A gather that is made and dropped flushes nothing.

#![deny(unused_must_use)]

use anonmem_frame::Frames;
use anonmem_hal::Machine;
use anonmem_pgtable::{AddressSpace, DeadTables, MmuGather, Teardown};
use anonmem_sync::Rcu;

fn forget<M: Machine>(frames: &Frames<M>, space: &AddressSpace<M>, rcu: &Rcu<M>, dead: &DeadTables<M>) {
    MmuGather::new(frames, space, rcu, dead, Teardown::Range);
}

fn main() {}

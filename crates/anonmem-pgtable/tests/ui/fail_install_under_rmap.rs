//! An rmap lock keeps the tables, but lets nobody fill them.

use anonmem_frame::Exclusive;
use anonmem_hal::{Machine, Va};
use anonmem_pgtable::{AddressSpace, Attrs, PteGuard, StableVma};

struct Rmap;
// SAFETY: never made.
unsafe impl<M: Machine> StableVma<M> for Rmap {
    fn opens(&self, _: &AddressSpace<M>) -> bool {
        false
    }
}

fn install<M: Machine>(entries: &mut PteGuard<'_, M, Rmap>, page: Exclusive<'_, M>, attrs: Attrs) {
    entries.install(Va(0), page, attrs);
}

fn main() {}

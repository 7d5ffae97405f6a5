//! The counterparts of what must not compile: the same calls with what they need.

use anonmem_frame::{Exclusive, ExclusiveRef, FolioPin, TooManySharers};
use anonmem_hal::{Machine, Va};
use anonmem_pgtable::{AddressSpace, Attrs, CanInstall, MmuGather, PteGuard, PteSnapshot, StableVma};

struct Mmap;
// SAFETY: never made.
unsafe impl<M: Machine> StableVma<M> for Mmap {
    fn opens(&self, _: &AddressSpace<M>) -> bool {
        false
    }
}
// SAFETY: as above.
unsafe impl<M: Machine> CanInstall<M> for Mmap {}

struct Rmap;
// SAFETY: never made.
unsafe impl<M: Machine> StableVma<M> for Rmap {
    fn opens(&self, _: &AddressSpace<M>) -> bool {
        false
    }
}

#[allow(dead_code)]
fn install<M: Machine>(entries: &mut PteGuard<'_, M, Mmap>, page: Exclusive<'_, M>, attrs: Attrs) {
    entries.install(Va(0), page, attrs);
}

#[allow(dead_code)]
fn clear_under_rmap<'a, M: Machine>(entries: &mut PteGuard<'a, M, Rmap>, gather: &mut MmuGather<'a, M>) {
    if let Ok(page) = entries.clear(Va(0)).unmap() {
        gather.page(Va(0), page);
    }
}

#[allow(dead_code)]
fn relock<'a, M: Machine>(snapshot: PteSnapshot<'a, M, Mmap>) -> Option<PteGuard<'a, M, Mmap>> {
    snapshot.lock_if_same().ok()
}

#[allow(dead_code)]
fn pin<'f, M: Machine>(page: &ExclusiveRef<'_, 'f, M>) -> Result<FolioPin<'f, M>, TooManySharers> {
    page.pin()
}

#[allow(dead_code)]
fn finish<M: Machine>(mut gather: MmuGather<'_, M>) {
    gather.finish();
}

fn main() {}

//! A mapping is counted once, so it cannot be installed twice.

use anonmem_frame::Exclusive;
use anonmem_hal::{Machine, Va};
use anonmem_pgtable::{Attrs, CanInstall, PteGuard};

fn twice<M: Machine, G: CanInstall<M>>(entries: &mut PteGuard<'_, M, G>, page: Exclusive<'_, M>, attrs: Attrs) {
    entries.install(Va(0), page, attrs);
    entries.install(Va(4096), page, attrs);
}

fn main() {}

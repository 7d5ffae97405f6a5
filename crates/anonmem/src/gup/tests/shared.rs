//! Pins of shared objects' pages.

use super::{AT, WRITE, dma_read, dma_write, frame};
use crate::{
    Advice,
    testing::{P, RW, World, first_page, pages},
    vma::{Backing, VmFlags},
};
use anonmem_hal::Va;

#[test]
fn a_hole_in_a_shared_object_leaves_a_pinned_page_where_it_is() {
    World::run(|w| {
        let object = w.vm.shm_new_sparse(2).unwrap();
        let mm = w.vm.new_mm().unwrap();
        mm.map_raw(pages(16, 2), (RW | VmFlags::SHARED) - VmFlags::ACCOUNT, Backing::Shared(object.id()));
        mm.store(AT, 7).unwrap();
        let pinned = mm.pin(pages(16, 1), WRITE).unwrap();
        let page = first_page(&pinned);
        // Nobody maps it any more: only the pin keeps it in the object.
        mm.madvise(Va(AT), P, Advice::DontNeed).unwrap();
        assert!(object.is_held(), "it is not sealed against writes");
        mm.madvise(Va(AT), P, Advice::Remove).unwrap();
        assert_eq!((dma_read(w, page), mm.load(AT)), (0, Ok(0)));
        dma_write(w, page, 9);
        assert_eq!((frame(&mm, AT), mm.load(AT)), (page, Ok(9)), "device and program see one another");
        w.vm.validate().unwrap();
        drop(pinned);
        assert!(!object.is_held());
        mm.madvise(Va(AT), P, Advice::DontNeed).unwrap();
        mm.madvise(Va(AT), P, Advice::Remove).unwrap();
        assert_eq!(w.vm.stats().user, 0, "a hole");
        w.vm.validate().unwrap();
    });
}

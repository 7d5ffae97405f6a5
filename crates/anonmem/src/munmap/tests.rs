use crate::{
    Error, MapBacking, MapFlags, MmapRequest, Prot,
    testing::{P, World, pages},
};
use anonmem_hal::Va;
use anonmem_hosted::Trap;

fn fixed(page: u64, n: u64) -> MmapRequest<crate::testing::M> {
    MmapRequest {
        addr: Va(page * P),
        len: n * P,
        prot: Prot::READ | Prot::WRITE,
        flags: MapFlags::FIXED,
        backing: MapBacking::Anonymous,
    }
}

#[test]
fn a_hole_in_a_mapping_leaves_its_edges() {
    World::run(|world| {
        let mm = world.vm.new_mm().unwrap();
        mm.mmap(fixed(100, 10)).unwrap();
        for page in 100..110 {
            mm.store(page * P, page as u8).unwrap();
        }
        mm.munmap(pages(103, 4)).unwrap();
        world.vm.validate().unwrap();
        for page in 100..110 {
            let expected = if (103..107).contains(&page) { Err(Trap::Unmapped) } else { Ok(page as u8) };
            assert_eq!(mm.load(page * P), expected);
        }
        assert_eq!(mm.counters().vmas, 2);
        mm.mmap(fixed(103, 4)).unwrap();
        assert_eq!(mm.counters().vmas, 1, "both neighbours and the new mapping are one");
        world.vm.validate().unwrap();
        assert_eq!(mm.load(104 * P), Ok(0));
        assert_eq!(mm.munmap(pages(100, 0)), Err(Error::Invalid("an empty range cannot be unmapped")));
    });
}

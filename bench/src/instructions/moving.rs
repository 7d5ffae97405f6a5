//! Pages that move, and pages that become one with an equal.

use super::counted;
use crate::{
    PAGE,
    ours::{World, fault_all, map_region},
};
use anonmem::{Effort, FaultAccess, KsmSettings, MergeAny, Mm, Populate};
use anonmem_hal::{PAGE_SIZE, PhysMem};

/// Pages of a case.
const PAGES: u64 = 1024;
/// Programs that have the same pages.
const PROGRAMS: u64 = 16;

/// Single pages that go to other frames.
pub(super) fn migrate(world: &World) -> u64 {
    let mm = world.new_mm();
    let range = map_region(&mm, 0, PAGES as usize * PAGE);
    mm.populate(range, Populate::Write).expect("memory for the region");
    let frames = || range.iter_pages().map(|va| mm.pagemap(va).pfn.expect("populated"));
    let (first, last) = (frames().min().expect("pages"), frames().max().expect("pages"));
    let mut moved = 0;
    counted(&mut || moved = world.vm.evacuate(first..last.offset(1), Effort::Light).moved);
    moved
}

/// Pages that are given up for an equal one, in the second sweep that finds them; `number` says which are
/// equal. The first sweep, which hashes each, is counted, too.
pub(super) fn merge(world: &World, number: fn(u64) -> u64) -> u64 {
    let mm = world.new_mm();
    let range = map_region(&mm, 0, PAGES as usize * PAGE);
    fault_all(&mm, range, FaultAccess::Write);
    range.iter_pages().zip(0..).for_each(|(va, page)| fill(world, &mm, va, number(page)));
    mm.set_merge_any(MergeAny::Yes).expect("memory");
    sweeps(world)
}

/// The same pages in many programs, which descend from one: as many as are given up.
pub(super) fn merge_programs(world: &World) -> u64 {
    let parent = world.new_mm();
    parent.set_merge_any(MergeAny::Yes).expect("memory");
    let programs: Vec<_> = (0..PROGRAMS).map(|_| parent.fork().expect("memory")).collect();
    for mm in &programs {
        let range = map_region(mm, 0, PAGES as usize / PROGRAMS as usize * PAGE);
        fault_all(mm, range, FaultAccess::Write);
        range.iter_pages().zip(0..).for_each(|(va, page)| fill(world, mm, va, page));
    }
    sweeps(world)
}

fn fill(world: &World, mm: &Mm<'_, crate::ours::Machine>, va: anonmem_hal::Va, number: u64) {
    let mut bytes = [0; PAGE_SIZE];
    for (nth, word) in bytes.chunks_exact_mut(8).enumerate() {
        let mixed = (number * 512 + nth as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        word.copy_from_slice(&mixed.to_le_bytes());
    }
    world.vm.machine().arena().write(mm.pagemap(va).pfn.expect("present"), 0, &bytes);
}

fn sweeps(world: &World) -> u64 {
    let settings = KsmSettings { max_page_sharing: 1 << 20, smart_scan: false, ..KsmSettings::default() };
    world.vm.set_ksm(settings).expect("nothing is merged");
    let all = world.vm.machine().nr_frames();
    let (mut freed, mut sweeps) = (0, 0);
    counted(&mut || {
        while sweeps < 2 {
            let done = world.vm.ksm_scan(all).expect("memory for its table");
            freed += done.freed;
            sweeps += u32::from(done.swept);
        }
    });
    assert!(freed * 10 >= PAGES * 4, "{freed} pages of {PAGES} were given up");
    freed
}

//! Pages that go to other frames, into leaves, and to an equal page.

use super::counted;
use crate::{
    PAGE,
    ours::{Active, Machine, World, map_region},
};
use anonmem::{BlockEffort, CollapseLimits, Collapsed, Effort, KsmSettings, MergeAny, Mm, Populate, Prot};
use anonmem_hal::{Order, Pfn, VaRange};

/// Pages that a case works on: four windows of 2 MiB.
const PAGES: u64 = 2048;

fn with_pages(world: &World, f: impl FnOnce(&Mm<'_, Machine>, VaRange)) -> u64 {
    let mm = world.new_mm();
    let _active = Active::on(&mm, 0);
    let range = map_region(&mm, 0, PAGES as usize * PAGE);
    mm.populate(range, Populate::Write).expect("memory");
    f(&mm, range);
    PAGES
}

fn frames(mm: &Mm<'_, Machine>, range: VaRange) -> Vec<Pfn> {
    range.iter_pages().map(|va| mm.pagemap(va).pfn.expect("populated")).collect()
}

/// All pages go to other frames.
pub(super) fn migrate(world: &World) -> u64 {
    with_pages(world, |mm, range| {
        let mut frames = frames(mm, range);
        frames.sort_unstable();
        let runs: Vec<_> = frames.chunk_by(|a, b| a.offset(1) == *b).collect();
        let mut moved = 0;
        counted(&mut || {
            for run in &runs {
                moved += world.vm.evacuate(run[0]..run[0].offset(run.len() as u64), Effort::Light).moved;
            }
        });
        assert!(moved >= PAGES, "{moved} pages moved");
    })
}

/// Tables of one folio each become leaves.
pub(super) fn collapse_in_place(world: &World) -> u64 {
    with_pages(world, |mm, range| {
        let collapse = || {
            for page in (0..PAGES).step_by(512) {
                let window = range.start.page_after(page);
                let done = mm.collapse(window, Order::new(9), CollapseLimits::OWN, BlockEffort::Free);
                assert_eq!(done, Ok(Collapsed::Leaf));
            }
        };
        collapse();
        for page in (0..PAGES).step_by(512) {
            let page = VaRange::page(range.start.page_after(page + 7));
            mm.mprotect(page, Prot::READ).expect("memory");
            mm.mprotect(page, Prot::READ | Prot::WRITE).expect("memory");
        }
        counted(&mut || collapse());
    })
}

/// Every page has one equal: each is looked at twice, hashed twice and compared, and half of them go.
pub(super) fn ksm_pairs(world: &World) -> u64 {
    with_pages(world, |mm, range| {
        let frames = frames(mm, range);
        for (nth, pfn) in frames.iter().enumerate() {
            world.vm.machine().arena().write(*pfn, 0, &[1 + (nth / 2) as u8, (nth / 512) as u8]);
        }
        mm.set_merge_any(MergeAny::Yes).expect("memory");
        let settings = KsmSettings { max_page_sharing: 1 << 20, smart_scan: false, ..KsmSettings::default() };
        world.vm.set_ksm(settings).expect("nothing is merged");
        let mut freed = 0;
        counted(&mut || {
            for _ in 0..2 {
                freed += world.vm.ksm_scan_frames(frames.iter().copied()).expect("memory").freed;
            }
        });
        assert_eq!(freed, PAGES / 2);
    }) / 2
}

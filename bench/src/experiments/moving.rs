//! Pages that go to other frames: by evacuation, for blocks, into large folios, and to an equal page.
//!
//! Each row has a machine of its own, with memory that has been touched. What is counted is the call of the
//! memory manager, with the copies.

use super::{Experiment, setup::time_ok};
use crate::{
    PAGE,
    clock::time,
    host::{Folios, Region, folios},
    ours::{Active, Machine, World, map_region},
    outcome::{Bench, Samples, Side},
};
use anonmem::{
    Advice, BlockEffort, CollapseLimits, Collapsed, Effort, FolioMode, FolioPolicy, KsmSettings, LockMode,
    MergeAny, MergeDomains, Mm, Populate, Prot,
};
use anonmem_hal::{Order, PAGE_SIZE, Pfn, VaRange};
use std::{io, ops::Range};

pub(super) const EXPERIMENT: Experiment = Experiment {
    name: "moving",
    rows: &[
        "migrate",
        "migrate-64k",
        "migrate-2m",
        "compact-64k-50",
        "compact-64k-80",
        "compact-64k-95",
        "compact-2m-50",
        "compact-2m-80",
        "compact-2m-95",
        "collapse-64k",
        "collapse-2m",
        "collapse-in-place",
        "ksm-pairs",
        "ksm-equal",
        "ksm-hundred",
    ],
    ours: Some(ours),
    host: Some(host),
    folios: folios::BASE,
    ..Experiment::NONE
};

/// 32 MiB.
const PAGES: u64 = 8_192;
const LEN: usize = PAGES as usize * PAGE;
/// Room for as much again, and for tables.
const FRAMES: u64 = 3 * PAGES;
/// What `MADV_COLLAPSE` is on Linux.
const MADV_COLLAPSE: i32 = 25;

fn ours(_: &Bench, samples: &mut Samples) {
    for (row, order) in [("migrate", 0), ("migrate-64k", 4), ("migrate-2m", 9)] {
        samples.add(row, Side::Ours, migrate(order));
    }
    for (rows, order) in [
        (["compact-64k-50", "compact-64k-80", "compact-64k-95"], 4),
        (["compact-2m-50", "compact-2m-80", "compact-2m-95"], 9),
    ] {
        for (row, kept) in rows.into_iter().zip([50, 80, 95]) {
            if let Some(ns) = compact(Order::new(order), kept) {
                samples.add(row, Side::Ours, ns);
            }
        }
    }
    samples.add("collapse-64k", Side::Ours, collapse(4));
    let [copied, in_place] = collapse_to_leaves();
    samples.add("collapse-2m", Side::Ours, copied);
    samples.add("collapse-in-place", Side::Ours, in_place);
    samples.add("ksm-pairs", Side::Ours, merge(|page| page / 2));
    samples.add("ksm-equal", Side::Ours, merge(|_| 1));
    samples.add("ksm-hundred", Side::Ours, merge_programs());
}

fn host(_: &Bench, samples: &mut Samples, size: Folios) -> io::Result<()> {
    Region::warm(LEN, size)?;
    let region = Region::new(LEN, size)?;
    region.populate()?;
    // Asks for nothing: the region's own advice is against it.
    region.advise(libc::MADV_HUGEPAGE)?;
    let ns = time_ok(|| region.advise(MADV_COLLAPSE))?;
    samples.add("collapse-2m", Side::Host(size), ns / PAGES as f64);
    Ok(())
}

/// Runs `f` with a program that has `pages` pages in folios of 2^`order`, on a machine with `frames`.
fn with_pages<T>(
    frames: u64,
    pages: u64,
    order: u8,
    f: impl FnOnce(&World, &Mm<'_, Machine>, VaRange) -> T,
) -> T {
    let world = World::with(frames, LockMode::Mmap);
    let _cpu = world.enter(0);
    let mm = world.new_mm();
    let _active = Active::on(&mm, 0);
    let range = map_region(&mm, 0, pages as usize * PAGE);
    if order > 0 {
        world.vm.set_folio_policy(FolioPolicy::default().with(Order::new(order), FolioMode::Always));
    }
    mm.populate(range, Populate::Write).expect("memory for the region");
    world.vm.set_folio_policy(FolioPolicy::default());
    f(&world, &mm, range)
}

fn frame(mm: &Mm<'_, Machine>, range: VaRange, page: u64) -> Pfn {
    mm.pagemap(range.start.page_after(page)).pfn.expect("populated")
}

/// Nanoseconds per page that goes to another frame: each stretch of frames that the pages lie in is emptied.
///
/// The stretches one by one, because what is free between two of them would go out of use, too.
fn migrate(order: u8) -> f64 {
    with_pages(FRAMES, PAGES, order, |world, mm, range| {
        let stretches = stretches((0..PAGES).map(|page| frame(mm, range, page)).collect());
        let mut done = Vec::with_capacity(stretches.len());
        let ns = time(|| done.extend(stretches.into_iter().map(|s| world.vm.evacuate(s, Effort::Light))));
        let moved: u64 = done.iter().map(|evacuation| evacuation.moved).sum();
        assert!(moved >= PAGES, "{moved} of {PAGES} pages moved: {}", done[0]);
        ns / moved as f64
    })
}

/// The ranges of frames that follow upon one another.
fn stretches(mut frames: Vec<Pfn>) -> Vec<Range<Pfn>> {
    frames.sort_unstable();
    let chunks = frames.chunk_by(|a, b| a.offset(1) == *b);
    chunks.filter_map(|chunk| Some(*chunk.first()?..chunk.last()?.offset(1))).collect()
}

/// Nanoseconds per block of 2^order frames, where `kept` per cent of memory are in use, page by page; `None`
/// if none can be made.
fn compact(order: Order, kept: u64) -> Option<f64> {
    let pages = PAGES * 95 / 100;
    with_pages(PAGES, pages, 0, |world, mm, range| {
        for page in (0..pages).filter(|page| page * 61 % 100 >= kept) {
            mm.madvise(range.start.page_after(page), PAGE_SIZE as u64, Advice::DontNeed).expect("mapped");
        }
        world.vm.drain();
        let mut blocks = Vec::new();
        while let Ok(block) = world.vm.frames().alloc(order) {
            blocks.push(block);
        }
        // A few of those that free memory could hold: the last ones cost the most.
        let (mut made, mut ns) = (0, 0.0);
        for _ in 0..(PAGES * (100 - kept) / 100 / order.pages() / 2).max(1) {
            let mut done = false;
            ns += time(|| done = world.vm.compact(order, Effort::Light).is_ok());
            let Some(block) = done.then(|| world.vm.frames().alloc(order).ok()).flatten() else { break };
            blocks.push(block);
            made += 1;
        }
        (made > 0).then(|| ns / f64::from(made))
    })
}

/// Nanoseconds per page of single pages that become folios of 2^`order`.
fn collapse(order: u8) -> f64 {
    with_pages(FRAMES, PAGES, 0, |_, mm, range| all_windows(mm, range, order, Collapsed::Copied))
}

/// Makes every window one folio, which becomes `what`.
fn all_windows(mm: &Mm<'_, Machine>, range: VaRange, order: u8, what: Collapsed) -> f64 {
    let size = Order::new(order);
    let windows = (0..PAGES).step_by(1 << order).map(|page| range.start.page_after(page));
    let ns = time(|| {
        for window in windows {
            let done = mm.collapse(window, size, CollapseLimits::OWN, BlockEffort::Free);
            assert_eq!(done, Ok(what));
        }
    });
    ns / PAGES as f64
}

/// The same for leaves; and again, when each has become a table.
fn collapse_to_leaves() -> [f64; 2] {
    with_pages(FRAMES, PAGES, 0, |_, mm, range| {
        let copied = all_windows(mm, range, 9, Collapsed::Leaf);
        for window in (0..PAGES).step_by(512) {
            let page = VaRange::page(range.start.page_after(window + 7));
            mm.mprotect(page, Prot::READ).expect("memory");
            mm.mprotect(page, Prot::READ | Prot::WRITE).expect("memory");
        }
        [copied, all_windows(mm, range, 9, Collapsed::Leaf)]
    })
}

/// The bytes of a page of this number.
fn numbered(number: u64) -> [u8; PAGE_SIZE] {
    let mut bytes = [0; PAGE_SIZE];
    for (nth, word) in bytes.chunks_exact_mut(8).enumerate() {
        let mixed = (number * 512 + nth as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        word.copy_from_slice(&mixed.to_le_bytes());
    }
    bytes
}

/// Lets KSM sweep over all frames, so many times; returns how many pages were given up.
fn sweep(world: &World, sweeps: u32) -> u64 {
    let (mut freed, mut swept) = (0, 0);
    while swept < sweeps {
        let done = world.vm.ksm_scan(PAGES).expect("memory for its table");
        freed += done.freed;
        swept += u32::from(done.swept);
    }
    freed
}

/// Nanoseconds per page that is given up for an equal one; pages with the same number are equal.
fn merge(number: impl Fn(u64) -> u64) -> f64 {
    with_pages(FRAMES, PAGES, 0, |world, mm, range| {
        for page in 0..PAGES {
            world.vm.machine().arena().write(frame(mm, range, page), 0, &numbered(number(page)));
        }
        mm.set_merge_any(MergeAny::Yes).expect("memory");
        let settings = KsmSettings { max_page_sharing: 1 << 20, smart_scan: false, ..KsmSettings::default() };
        world.vm.set_ksm(settings).expect("nothing is merged");
        let mut freed = 0;
        let ns = time(|| freed = sweep(world, 3));
        assert!(freed * 10 >= PAGES * 4, "{freed} pages of {PAGES} were given up");
        ns / freed as f64
    })
}

/// Programs that have the same, and how many pages of it: 4 MiB.
const PROGRAMS: u64 = 100;
const THEIRS: u64 = 1_024;

/// Nanoseconds per page that is given up, where many programs have the same pages: two sweeps are enough for
/// all of them.
fn merge_programs() -> f64 {
    let world = World::with((PROGRAMS + 8) * THEIRS, LockMode::Mmap);
    let _cpu = world.enter(0);
    let settings = KsmSettings { domains: MergeDomains::One, ..KsmSettings::default() };
    world.vm.set_ksm(settings).expect("nothing is merged");
    let programs: Vec<_> = (0..PROGRAMS).map(|_| world.new_mm()).collect();
    for mm in &programs {
        let _active = Active::on(mm, 0);
        let range = map_region(mm, 0, THEIRS as usize * PAGE);
        mm.populate(range, Populate::Write).expect("memory for the region");
        for page in 0..THEIRS {
            world.vm.machine().arena().write(frame(mm, range, page), 0, &numbered(page));
        }
        mm.set_merge_any(MergeAny::Yes).expect("memory");
    }
    let mut freed = 0;
    let ns = time(|| freed = sweep(&world, 2));
    assert_eq!(freed, (PROGRAMS - 1) * THEIRS, "all of them but one share what they have alike");
    ns / freed as f64
}

//! How long a fault waits while its window becomes one folio.
//!
//! One thread collapses window after window. Another one faults on each page of the window in turn, over and
//! over, and notes the longest of these faults. What is told is the longest wait of a window, at the median
//! of the windows: a thread that the host stops in the middle waits for that.

use super::Experiment;
use crate::{
    PAGE,
    clock::wall_ns,
    ours::{Active, Machine, World, map_region},
    outcome::{Bench, Samples, Side},
};
use anonmem::{BlockEffort, CollapseLimits, Collapsed, FaultAccess, LockMode, Mm, Populate, Prot};
use anonmem_hal::{Order, Va, VaRange};
use std::{
    sync::atomic::{AtomicU64, Ordering::SeqCst},
    thread,
};

pub(super) const EXPERIMENT: Experiment = Experiment {
    name: "collapse-wait",
    rows: &["collapse-64k-wait", "collapse-2m-wait", "collapse-in-place-wait"],
    threads: 2,
    ours: Some(ours),
    ..Experiment::NONE
};

/// 32 MiB.
const PAGES: u64 = 8_192;
/// Windows of 64 KiB that are looked at: as many faults as those of 2 MiB have.
const SMALL: u64 = 64;

fn ours(bench: &Bench, samples: &mut Samples) {
    let mut add = |row, ns| samples.add(row, Side::Ours, ns);
    with_pages(|world, mm, range| {
        let part = VaRange { end: range.start.page_after(SMALL * 16), ..range };
        add("collapse-64k-wait", longest(bench, (world, mm), part, 4, Collapsed::Copied));
    });
    with_pages(|world, mm, range| {
        add("collapse-2m-wait", longest(bench, (world, mm), range, 9, Collapsed::Leaf));
        for window in (0..PAGES).step_by(512) {
            let page = VaRange::page(range.start.page_after(window + 7));
            mm.mprotect(page, Prot::READ).expect("memory");
            mm.mprotect(page, Prot::READ | Prot::WRITE).expect("memory");
        }
        add("collapse-in-place-wait", longest(bench, (world, mm), range, 9, Collapsed::Leaf));
    });
}

/// Runs `f` with a program that has [`PAGES`] single pages.
fn with_pages(f: impl FnOnce(&World, &Mm<'_, Machine>, VaRange)) {
    let world = World::with(3 * PAGES, LockMode::Mmap);
    let _cpu = world.enter(0);
    let mm = world.new_mm();
    let range = map_region(&mm, 0, PAGES as usize * PAGE);
    mm.populate(range, Populate::Write).expect("memory for the region");
    f(&world, &mm, range);
}

/// Makes every window of `range` one folio of 2^`order` pages, which becomes `what`; the nanoseconds that the
/// longest fault on one of its pages took meanwhile, at the median of the windows.
fn longest(
    bench: &Bench,
    (world, mm): (&World, &Mm<'_, Machine>),
    range: VaRange,
    order: u8,
    what: Collapsed,
) -> f64 {
    let size = Order::new(order);
    let (window, waited) = (AtomicU64::new(range.start.0), AtomicU64::new(0));
    let _active = [Active::on(mm, 0), Active::on(mm, 1)];
    let mut all = thread::scope(|threads| {
        threads.spawn(|| {
            let _cpu = world.enter_pinned(1, &bench.cpus);
            fault_in(mm, size, &window, &waited);
        });
        let pages = (range.end.0 - range.start.0) / PAGE as u64;
        let windows = (0..pages).step_by(1 << order).map(|page| range.start.page_after(page));
        let all: Vec<_> = windows
            .map(|at| {
                window.store(at.0, SeqCst);
                // The other thread has come to this window: it has faulted in it.
                waited.store(0, SeqCst);
                while waited.load(SeqCst) == 0 {
                    thread::yield_now();
                }
                // It may have a page in use just then.
                while mm.collapse(at, size, CollapseLimits::OWN, BlockEffort::Free) != Ok(what) {}
                waited.load(SeqCst)
            })
            .collect();
        window.store(0, SeqCst);
        all
    });
    all.sort_unstable();
    all[all.len() / 2] as f64
}

/// Faults on all pages of the window that begins at `window`, until that is 0. `waited` is the longest time
/// since it was set to 0 last.
fn fault_in(mm: &Mm<'_, Machine>, size: Order, window: &AtomicU64, waited: &AtomicU64) {
    loop {
        for page in 0..size.pages() {
            let start = window.load(SeqCst);
            if start == 0 {
                return;
            }
            let began = wall_ns();
            let _ = mm.handle_fault(Va(start).page_after(page), FaultAccess::Write);
            waited.fetch_max(wall_ns() - began, SeqCst);
        }
    }
}

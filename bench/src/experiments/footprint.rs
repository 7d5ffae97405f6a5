//! How much memory a program has that touches little of what it maps.

use super::{
    Experiment,
    setup::{Holds, in_ours},
};
use crate::{
    PAGE, REGION_PAGES,
    host::{Folios, Region, folios},
    outcome::{Bench, Samples, Side},
};
use anonmem::{FaultAccess, FaultOutcome, FolioPolicy};
use std::{collections::BTreeSet, io};

pub(super) const EXPERIMENT: Experiment = Experiment {
    name: "footprint",
    rows: &["rss-per-touched", "rss-per-touched.auto"],
    ours: Some(ours),
    host: Some(host),
    folios: folios::ALL,
    ours_large: folios::LARGE,
    ..Experiment::NONE
};

/// Pages of an arena: what an allocator reserves at a time.
const ARENA: usize = 1024;
/// Pages that an arena in use grows to.
const FILLED: usize = 700;

/// The pages that are touched, in order: the arenas grow in turns, and most of them little.
fn touches() -> Vec<usize> {
    let arenas = REGION_PAGES / ARENA;
    let grown = |arena: usize| if arena.is_multiple_of(8) { FILLED } else { 3 + arena % 5 };
    let steps = (0..FILLED).flat_map(|page| (0..arenas).map(move |arena| (arena, page)));
    let in_order =
        steps.filter(|&(arena, page)| page < grown(arena)).map(|(arena, page)| arena * ARENA + page);
    // And two pages somewhere else in each: a large object, a guard of the allocator's own.
    let apart = (0..arenas).flat_map(|arena| [arena * ARENA + 760, arena * ARENA + 901 + arena % 64]);
    in_order.chain(apart).collect()
}

fn distinct(pages: &[usize]) -> f64 {
    pages.iter().collect::<BTreeSet<_>>().len() as f64
}

fn ours(bench: &Bench, samples: &mut Samples) {
    samples.add("rss-per-touched", Side::Ours, ours_once(bench));
    if samples.ours == Folios::Base {
        bench.world.vm.set_folio_policy(FolioPolicy::auto());
        samples.add("rss-per-touched.auto", Side::Ours, ours_once(bench));
        bench.set_folios(Folios::Base);
    }
}

fn ours_once(bench: &Bench) -> f64 {
    let pages = touches();
    in_ours(&bench.world, Holds::Nothing, |mm, range| {
        for &page in &pages {
            // A page that is there counts as written from now on, as the hardware would have it.
            let outcome = mm.handle_fault(range.start.page_after(page as u64), FaultAccess::Write);
            assert!(outcome == FaultOutcome::Done, "a touch ended with {outcome:?}");
        }
        mm.counters().rss().0 as f64 / distinct(&pages)
    })
}

fn host(_bench: &Bench, samples: &mut Samples, folios: Folios) -> io::Result<()> {
    let pages = touches();
    let region = Region::new(REGION_PAGES * PAGE, folios)?;
    for &page in &pages {
        let at = region.start().wrapping_add(page * PAGE);
        // SAFETY: the page is in the region, which is ours and writable.
        unsafe { at.write_volatile(1) };
    }
    samples.add("rss-per-touched", Side::Host(folios), region.resident()? as f64 / distinct(&pages));
    Ok(())
}

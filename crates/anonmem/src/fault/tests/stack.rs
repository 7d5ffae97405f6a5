//! How far a stack grows.

use crate::ids::VmaId;
use crate::{
    Event, Limits, Mm,
    fault::{FaultAccess, FaultOutcome, vm_fault::Waits},
    testing::{M, P, RW, World, pages},
    vma::{Backing, VmFlags},
};
use anonmem_hal::Va;
use anonmem_hosted::Trap;

const STACK: VmFlags = RW.union(VmFlags::GROWSDOWN);
/// Where the stacks start, in pages.
const TOP: u64 = 4096;

fn stack<'a>(w: &'a World) -> (Mm<'a, M>, VmaId) {
    let mm = w.vm.new_mm().unwrap();
    let id = mm.map_raw(pages(TOP, 1), STACK, Backing::Anonymous);
    (mm, id)
}

/// Whether the stack below `TOP` can be made to reach `page`, and not the page below that.
fn ends_at(mm: &Mm<'_, M>, page: u64) -> bool {
    mm.store((page - 1) * P, 1) == Err(Trap::Unmapped) && mm.store(page * P, 1) == Ok(())
}

#[test]
fn a_stack_that_grew_already_grows_no_more() {
    World::run(|w| {
        // Another thread was faster, between the two locks of the fault.
        let (mm, _) = stack(w);
        let below = |page| mm.fault_below_stack(Va(page * P), FaultAccess::Write, Waits::Program).ok();
        assert_eq!(below(TOP), Some(FaultOutcome::Done));
        assert_eq!((mm.counters().stack.0, w.vm.stats().event(Event::FaultStackGrowth)), (1, 0));
        assert_eq!(below(TOP - 2), Some(FaultOutcome::Done));
        assert_eq!((mm.counters().stack.0, w.vm.stats().event(Event::FaultStackGrowth)), (3, 1));
        assert_eq!(below(TOP - 1), Some(FaultOutcome::Done));
        assert_eq!((mm.counters().stack.0, w.vm.stats().event(Event::FaultStackGrowth)), (3, 1));
    });
}

#[test]
fn what_is_no_stack_does_not_grow() {
    World::run(|w| {
        // The stack went, and something else came, between the two locks of the fault.
        let mm = w.vm.new_mm().unwrap();
        mm.map_raw(pages(TOP, 1), RW, Backing::Anonymous);
        let outcome = mm.fault_below_stack(Va((TOP - 1) * P), FaultAccess::Write, Waits::Program).ok();
        assert_eq!((outcome, mm.layout().len()), (Some(FaultOutcome::SegvMaperr), 1));
        assert_eq!(mm.layout()[0].0, pages(TOP, 1));
        assert_eq!(mm.store((TOP - 1) * P, 1), Err(Trap::Unmapped));
    });
}

#[test]
fn a_stack_may_touch_another_one_and_what_nobody_can_use() {
    World::run(|w| {
        let no_access = RW.difference(VmFlags::ACCESS);
        for near in [STACK, no_access] {
            let (mm, _) = stack(w);
            mm.map_raw(pages(TOP - 4, 1), near, Backing::Anonymous);
            mm.store((TOP - 3) * P, 1).unwrap();
            assert_eq!(mm.counters().rss().0, 1);
            assert_eq!(mm.layout()[1].0, pages(TOP - 3, 4));
        }
    });
}

#[test]
fn a_stack_alone_grows_to_its_limit_and_not_a_page_further() {
    World::run(|w| {
        let (mm, _) = stack(w);
        mm.set_limits(Limits { stack: 4 * P, ..mm.limits() });
        assert!(ends_at(&mm, TOP - 3));
    });
}

#[test]
fn a_stack_grows_to_the_limit_of_the_address_space() {
    World::run(|w| {
        let (mm, _) = stack(w);
        mm.map_raw(pages(2 * TOP, 3), RW, Backing::Anonymous);
        mm.set_limits(Limits { space: 6 * P, ..mm.limits() });
        assert!(ends_at(&mm, TOP - 2), "six pages with the three of the other mapping");
    });
}

#[test]
fn a_stack_grows_to_the_lowest_address() {
    World::run(|w| {
        let lowest = w.vm.config().mmap_min_addr / P;
        let mm = w.vm.new_mm().unwrap();
        mm.map_raw(pages(lowest + 2, 1), STACK, Backing::Anonymous);
        assert!(ends_at(&mm, lowest));
    });
}

#[test]
fn a_stack_that_was_moved_up_grows_as_far_as_its_indices_do() {
    World::run(|w| {
        let (mm, id) = stack(w);
        w.vm.vma(id).init(mm.id, pages(TOP, 1), 2, STACK, Backing::Anonymous);
        assert!(ends_at(&mm, TOP - 2));
        assert_eq!(w.vm.vma(id).pgoff(), 0);
    });
}

#[test]
fn only_a_stack_that_is_accounted_takes_promises() {
    World::run(|w| {
        for (flags, promised) in [(STACK, 4), (STACK.difference(VmFlags::ACCOUNT), 0)] {
            let mm = w.vm.new_mm().unwrap();
            mm.map_raw(pages(TOP, 1), flags, Backing::Anonymous);
            mm.store((TOP - 3) * P, 1).unwrap();
            assert_eq!(w.vm.stats().committed, promised);
        }
    });
}

#[test]
fn a_locked_stack_grows_within_its_limit() {
    World::run(|w| {
        let (mm, _) = stack(w);
        mm.mlock(Va(TOP * P), P).unwrap();
        mm.set_limits(Limits { locked: 3 * P, ..mm.limits() });
        assert!(ends_at(&mm, TOP - 2));
        assert_eq!(mm.counters().locked.0, 3);
    });
}

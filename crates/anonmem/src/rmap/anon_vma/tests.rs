//! Which anon_vma a VMA gets, which one a child gets, and what is left when memory runs out.

use super::anon_vma_clone;
use crate::ids::{AnonVmaId, VmaId};
use crate::{
    Config, Mm, Prot,
    ReverseMapChoice::AnonVmas,
    rmap::interval_tree::IntervalNodes as _,
    testing::{M, P, RW, World, pages},
    vma::{Backing, VmFlags},
};
use anonmem_frame::Link;
use anonmem_hal::Va;
use anonmem_hosted::FailurePlan;

const FIRST: u64 = 32;

fn vma_at(mm: &Mm<'_, M>, page: u64) -> VmaId {
    let guard = mm.read();
    guard.slot().tree.find(mm.vm.nodes(), Va(page * P)).expect("a mapping").1
}

fn anon_vma_at(mm: &Mm<'_, M>, page: u64) -> Option<AnonVmaId> {
    mm.vm.vma(vma_at(mm, page)).anon_vma()
}

fn touch(mm: &Mm<'_, M>, page: u64) {
    mm.store(page * P, 1).unwrap();
}

/// Two pages from `page` on, which no other mapping merges with.
fn map(mm: &Mm<'_, M>, page: u64, flags: VmFlags) {
    mm.map_raw(pages(page, 2), flags, Backing::Anonymous);
}

/// Whether two mappings of two pages, the second at `second`, have one anon_vma after both have pages.
fn share(w: &World, second: u64, flags: VmFlags, order: [u64; 2]) -> bool {
    let mm = w.vm.new_mm().unwrap();
    map(&mm, FIRST, RW);
    map(&mm, second, flags);
    order.iter().for_each(|page| touch(&mm, *page));
    w.vm.validate().unwrap();
    anon_vma_at(&mm, FIRST) == anon_vma_at(&mm, second)
}

#[test]
fn neighbours_that_may_merge_later_share_an_anon_vma() {
    World::run_over(AnonVmas, Config::default(), |w| {
        let executable = RW | VmFlags::EXEC;
        assert!(share(w, FIRST + 2, executable, [FIRST, FIRST + 2]), "the one below had it first");
        assert!(share(w, FIRST + 2, executable, [FIRST + 2, FIRST]), "the one above had it first");
    });
}

#[test]
fn whoever_can_never_merge_has_an_anon_vma_of_its_own() {
    World::run_over(AnonVmas, Config::default(), |w| {
        for order in [[FIRST, FIRST + 3], [FIRST + 3, FIRST]] {
            assert!(!share(w, FIRST + 3, RW, order), "there is a hole between them");
        }
        for order in [[FIRST, FIRST + 2], [FIRST + 2, FIRST]] {
            assert!(
                !share(w, FIRST + 2, RW | VmFlags::DONTCOPY, order),
                "mprotect does not change that flag"
            );
        }
    });
}

#[test]
fn a_new_vma_does_not_get_into_the_family_of_a_forked_neighbour() {
    World::run_over(AnonVmas, Config::default(), |w| {
        let parent = w.vm.new_mm().unwrap();
        map(&parent, FIRST, RW);
        touch(&parent, FIRST);
        let child = parent.fork().unwrap();
        for near in [FIRST - 2, FIRST + 2] {
            map(&child, near, RW | VmFlags::EXEC);
            touch(&child, near);
            assert_ne!(anon_vma_at(&child, near), anon_vma_at(&child, FIRST));
        }
        w.vm.validate().unwrap();
    });
}

#[test]
fn a_split_keeps_the_anon_vma_although_a_forefather_is_free() {
    World::run_over(AnonVmas, Config::default(), |w| {
        let first = w.vm.new_mm().unwrap();
        map(&first, FIRST, RW);
        touch(&first, FIRST);
        let second = first.fork().unwrap();
        let third = second.fork().unwrap();
        // The second one's anon_vma has no VMA any more, and one child: a fork may take it, a split may not.
        drop(second);
        let before = anon_vma_at(&third, FIRST);
        third.mprotect(pages(FIRST, 1), Prot::READ).unwrap();
        assert_eq!((anon_vma_at(&third, FIRST), anon_vma_at(&third, FIRST + 1)), (before, before));
        third.mprotect(pages(FIRST, 1), Prot::READ | Prot::WRITE).unwrap();
        assert_eq!(third.layout().len(), 1, "so that the two can merge again");
        w.vm.validate().unwrap();
    });
}

#[test]
fn fork_takes_an_unused_anon_vma_with_one_child_and_none_with_two() {
    World::run_over(AnonVmas, Config::default(), |w| {
        let first = w.vm.new_mm().unwrap();
        map(&first, FIRST, RW);
        touch(&first, FIRST);
        let second = first.fork().unwrap();
        let unused = anon_vma_at(&second, FIRST);
        let brothers = [second.fork().unwrap(), second.fork().unwrap()];
        drop(second);
        let nephew = brothers[0].fork().unwrap();
        let known = [&first, &brothers[0], &brothers[1]].map(|mm| anon_vma_at(mm, FIRST));
        assert_ne!(anon_vma_at(&nephew, FIRST), unused, "two of its children live");
        assert!(!known.contains(&anon_vma_at(&nephew, FIRST)));
        let [brother, other] = brothers;
        drop(other);
        let nephew = brother.fork().unwrap();
        assert_eq!(anon_vma_at(&nephew, FIRST), unused, "one lives");
        w.vm.validate().unwrap();
    });
}

#[test]
fn a_link_covers_the_pages_of_its_vma_and_no_other() {
    World::run_over(AnonVmas, Config::default(), |w| {
        let mm = w.vm.new_mm().unwrap();
        map(&mm, FIRST, RW);
        touch(&mm, FIRST);
        let chain = w.vm.vma(vma_at(&mm, FIRST)).chains().get().unwrap();
        assert_eq!(w.vm.interval(chain), (FIRST, FIRST + 1));
        let tree = w.vm.anon_vma(anon_vma_at(&mm, FIRST).unwrap()).tree();
        let overlaps = |page| tree.first_overlap(&*w.vm, page, page).is_some();
        assert_eq!([FIRST - 1, FIRST, FIRST + 1, FIRST + 2].map(overlaps), [false, true, true, false]);
    });
}

#[test]
fn links_that_were_reserved_are_given_back_when_there_are_too_few() {
    World::run_over(AnonVmas, Config::default(), |w| {
        let parent = w.vm.new_mm().unwrap();
        map(&parent, FIRST, RW);
        touch(&parent, FIRST);
        let (child, target) = (parent.fork().unwrap(), w.vm.new_mm().unwrap());
        map(&target, FIRST, RW);
        let (src, dst) = (vma_at(&child, FIRST), vma_at(&target, FIRST));
        let before = w.vm.stats().chains;
        // Two are needed.
        w.failures.set(FailurePlan::Nth(2));
        assert!(anon_vma_clone(&w.vm, dst, src).is_err());
        w.failures.set(FailurePlan::Off);
        assert_eq!(w.vm.stats().chains, before, "the one that was reserved is free again");
        assert_eq!((w.vm.vma(dst).chains(), w.vm.vma(dst).anon_vma()), (Link::NONE, None));
        w.vm.validate().unwrap();
    });
}

#[test]
fn a_count_that_is_wrong_is_said_by_validate() {
    World::run_over(AnonVmas, Config::default(), |w| {
        let mm = w.vm.new_mm().unwrap();
        map(&mm, FIRST, RW);
        touch(&mm, FIRST);
        let counted = &w.vm.anon_vma(anon_vma_at(&mm, FIRST).unwrap()).nr_vmas;
        counted.update(|n| n + 1);
        assert!(w.vm.validate().is_err());
        counted.update(|n| n - 1);
        w.vm.validate().unwrap();
    });
}

//! Who is in a family, under which label, and what a walk finds.

mod labels;

use super::{label::Label, mark::mark_away};
use crate::{
    Config, MapBacking, MapFlags, Mm, MmapRequest, Prot, RemapFlags,
    ReverseMapChoice::Families,
    rmap::referenced::folio_referenced,
    testing::{M, P, RW, World, pages},
    vma::Backing,
};
use anonmem_frame::Mapping;
use anonmem_hal::{SourceId, Va, VaRange};
use anonmem_hosted::FailurePlan;
use std::vec::Vec;

fn run(f: impl FnOnce(&World)) {
    World::run_over(Families, Config::default(), f);
}

fn map(mm: &Mm<'_, M>, pages: u64) -> Va {
    mm.mmap(MmapRequest::anonymous(pages * P, Prot::READ | Prot::WRITE)).unwrap()
}

fn label(mm: &Mm<'_, M>) -> Label {
    mm.slot().member.place().expect("a member").1
}

/// The label that the page at `va` carries.
fn stamp(mm: &Mm<'_, M>, va: Va) -> Label {
    let page = mm.vm.frames.try_get(mm.pagemap(va).pfn.unwrap()).unwrap();
    let Mapping::Anon(stamp) = page.folio().mapping() else { panic!("an anonymous page") };
    Label::from_bits(stamp.label())
}

/// How many entries a walk meets.
fn mappers(mm: &Mm<'_, M>, va: Va) -> u64 {
    let page = mm.vm.frames.try_get(mm.pagemap(va).pfn.unwrap()).unwrap();
    folio_referenced(mm.vm, page.folio()).mappings
}

fn records(w: &World) -> u64 {
    w.vm.chains.live()
}

fn remap(mm: &Mm<'_, M>, from: Va, pages: u64, to: Va) {
    let flags = RemapFlags::MAYMOVE | RemapFlags::FIXED;
    assert_eq!(mm.mremap(from, pages * P, pages * P, flags, to), Ok(to));
}

#[test]
fn a_family_begins_with_the_first_page() {
    run(|w| {
        let mm = w.vm.new_mm().unwrap();
        let va = map(&mm, 2);
        assert_eq!((mm.load(va.0), w.vm.families.live()), (Ok(0), 0), "the zero page is nobody's");
        let heir = mm.fork().unwrap();
        assert!(heir.slot().member.place().is_none());
        mm.store(va.0, 1).unwrap();
        assert_eq!((w.vm.families.live(), label(&mm)), (1, Label::ROOT));
        heir.store(va.0, 1).unwrap();
        assert_eq!((w.vm.families.live(), label(&heir)), (2, Label::ROOT), "they never shared a page");
        w.vm.validate().unwrap();
    });
}

#[test]
fn a_page_carries_the_label_of_who_made_it() {
    run(|w| {
        let parent = w.vm.new_mm().unwrap();
        let va = map(&parent, 2);
        (0..2).for_each(|i| parent.store(va.0 + i * P, 1).unwrap());
        let child = parent.fork().unwrap();
        assert!(label(&parent).covers(label(&child)) && label(&parent) != label(&child));
        child.store(va.0, 2).unwrap();
        assert_eq!((stamp(&child, va), stamp(&parent, va)), (label(&child), label(&parent)));
        assert_eq!((mappers(&child, va), mappers(&parent, va)), (1, 1));
        let second = Va(va.0 + P);
        assert_eq!((stamp(&child, second), mappers(&child, second)), (label(&parent), 2));
        drop(parent);
        child.store(second.0, 3).unwrap();
        assert_eq!(stamp(&child, second), label(&child), "whoever is alone takes it over");
        let grandchild = child.fork().unwrap();
        assert_eq!(mappers(&grandchild, second), 2);
        w.vm.validate().unwrap();
    });
}

#[test]
fn who_has_one_child_at_a_time_gives_it_the_shortest_label() {
    run(|w| {
        let parent = w.vm.new_mm().unwrap();
        let va = map(&parent, 1);
        parent.store(va.0, 1).unwrap();
        let first = Label::ROOT.child(1).unwrap();
        for _ in 0..100 {
            assert_eq!(label(&parent.fork().unwrap()), first);
        }
        assert_eq!(w.vm.families.live(), 1);
    });
}

#[test]
fn siblings_have_blocks_of_their_own() {
    run(|w| {
        let parent = w.vm.new_mm().unwrap();
        let va = map(&parent, 1);
        parent.store(va.0, 1).unwrap();
        let mut children: Vec<_> = (0..40).map(|_| parent.fork().unwrap()).collect();
        for round in 0..200 {
            let all: Vec<_> = children.iter().map(label).collect();
            for (i, one) in all.iter().enumerate() {
                assert!(all.iter().skip(i + 1).all(|other| !one.covers(*other) && !other.covers(*one)));
            }
            children.swap_remove(round * 7 % 40);
            children.push(parent.fork().unwrap());
        }
        assert_eq!(mappers(&parent, va), 41);
        w.vm.validate().unwrap();
    });
}

#[test]
fn the_dead_leave_nothing() {
    // Forrest's chain (Linux, 2012): each generation has one child, and exits.
    run(|w| {
        let mut mm = w.vm.new_mm().unwrap();
        let va = map(&mm, 2);
        mm.store(va.0, 1).unwrap();
        mm.store(va.0 + P, 7).unwrap();
        for generation in 0..200 {
            let child = mm.fork().unwrap();
            child.store(va.0, generation).unwrap();
            mm = child;
            assert_eq!((w.vm.families.live(), mappers(&mm, va)), (1, 1));
        }
        assert_eq!((label(&mm).child(1), mm.load(va.0 + P)), (None, Ok(7)), "as deep as a label goes");
        assert_eq!(records(w), 0);
        let (child, other) = (mm.fork().unwrap(), mm.fork().unwrap());
        assert_eq!([&child, &other].map(label), [label(&mm); 2], "precision degrades, and nothing else");
        child.store(va.0, 1).unwrap();
        assert_eq!((mappers(&child, va), mappers(&mm, va), mappers(&mm, Va(va.0 + P))), (1, 2, 3));
        w.vm.validate().unwrap();
    });
}

#[test]
fn a_label_that_is_used_again_finds_both() {
    run(|w| {
        let parent = w.vm.new_mm().unwrap();
        let va = map(&parent, 2);
        parent.store(va.0, 1).unwrap();
        let child = parent.fork().unwrap();
        child.store(va.0, 2).unwrap();
        let grandchild = child.fork().unwrap();
        let used = label(&child);
        drop(child);
        // The block is not empty, so another number is taken while there is one.
        let second = parent.fork().unwrap();
        assert_ne!(label(&second), used);
        assert_eq!((stamp(&grandchild, va), mappers(&grandchild, va)), (used, 1));
        drop(grandchild);
        let third = parent.fork().unwrap();
        assert_eq!(label(&third), used);
        third.store(va.0, 3).unwrap();
        assert_eq!((stamp(&third, va), mappers(&third, va), mappers(&parent, va)), (used, 1, 2));
        w.vm.validate().unwrap();
    });
}

#[test]
fn what_moves_is_recorded_until_it_is_home_again() {
    run(|w| {
        let mm = w.vm.new_mm().unwrap();
        let (home, away) = (Va(0x10_0000), Va(0x80_0000));
        mm.map_raw(pages(home.page(), 4), RW, Backing::Anonymous);
        (0..4).for_each(|i| mm.store(home.0 + i * P, i as u8).unwrap());
        remap(&mm, home, 4, away);
        assert_eq!(records(w), 1);
        w.vm.validate().unwrap();
        (0..4).for_each(|i| assert_eq!(mappers(&mm, Va(away.0 + i * P)), 1));
        // What is mapped at the old place is another mapping, whose pages have the same indices.
        mm.map_raw(pages(home.page(), 4), RW, Backing::Anonymous);
        (0..4).for_each(|i| mm.store(home.0 + i * P, 9).unwrap());
        (0..4).for_each(|i| {
            assert_eq!((mappers(&mm, Va(away.0 + i * P)), mappers(&mm, Va(home.0 + i * P))), (1, 1))
        });
        let child = mm.fork().unwrap();
        assert_eq!((records(w), mappers(&mm, away), mappers(&child, home)), (2, 2, 2));
        mm.munmap(pages(home.page(), 4)).unwrap();
        remap(&mm, away, 4, home);
        assert_eq!((records(w), mappers(&mm, home)), (1, 2), "the child's is still away");
        w.vm.validate().unwrap();
    });
}

#[test]
fn a_mapping_that_moved_is_split_and_merged() {
    run(|w| {
        let mm = w.vm.new_mm().unwrap();
        let (home, away) = (Va(0x10_0000), Va(0x80_0000));
        mm.map_raw(pages(home.page(), 6), RW, Backing::Anonymous);
        (0..6).for_each(|i| mm.store(home.0 + i * P, i as u8).unwrap());
        remap(&mm, home, 6, away);
        let middle = VaRange::new(Va(away.0 + 2 * P), Va(away.0 + 4 * P));
        mm.mprotect(middle, Prot::READ).unwrap();
        assert_eq!((mm.counters().vmas, records(w)), (3, 3));
        (0..6).for_each(|i| assert_eq!(mappers(&mm, Va(away.0 + i * P)), 1));
        mm.mprotect(middle, Prot::READ | Prot::WRITE).unwrap();
        assert_eq!((mm.counters().vmas, records(w)), (1, 1));
        mm.munmap(pages(away.page() + 1, 4)).unwrap();
        assert_eq!(records(w), 2);
        w.vm.validate().unwrap();
        mm.munmap(pages(away.page(), 6)).unwrap();
        assert_eq!(records(w), 0);
    });
}

#[test]
fn a_mapping_moves_away_piece_by_piece() {
    run(|w| {
        let mm = w.vm.new_mm().unwrap();
        let (home, away) = (Va(0x10_0000), Va(0x80_0000));
        mm.map_raw(pages(home.page(), 64), RW, Backing::Anonymous);
        (0..64).for_each(|i| mm.store(home.0 + i * P, i as u8).unwrap());
        for i in 0..64 {
            remap(&mm, Va(home.0 + i * P), 1, Va(away.0 + (63 - i) * 2 * P));
        }
        assert_eq!(records(w), 64);
        (0..64).for_each(|i| assert_eq!(mappers(&mm, Va(away.0 + i * 2 * P)), 1));
        w.vm.validate().unwrap();
    });
}

#[test]
fn pages_of_a_file_are_found_by_a_record() {
    run(|w| {
        let mm = w.vm.new_mm().unwrap();
        let source: SourceId = w.sources.register(std::vec![1; 4 * P as usize]);
        let request = MmapRequest {
            addr: Va(0),
            len: 2 * P,
            prot: Prot::READ | Prot::WRITE,
            flags: MapFlags::empty(),
            backing: MapBacking::Source { id: source, offset: P },
        };
        let va = mm.mmap(request).unwrap();
        mm.store(va.0, 2).unwrap();
        let child = mm.fork().unwrap();
        assert_eq!((records(w), mappers(&mm, va), mappers(&child, va)), (2, 2, 2));
        w.vm.validate().unwrap();
        // Another fault comes late, when the first one has recorded the mapping.
        let id = mm.read().slot().tree.find(w.vm.nodes(), va).unwrap().1;
        let family = mm.slot().member.place().unwrap().0;
        assert_eq!(mark_away(&w.vm, id, family), Ok(()));
        assert_eq!((records(w), mappers(&mm, va)), (2, 2));
        w.vm.validate().unwrap();
    });
}

#[test]
fn a_move_without_memory_leaves_nothing() {
    run(|w| {
        let (home, away) = (Va(0x10_0000), Va(0x8000_0000));
        let failed = w.fail_each_allocation(
            || {
                let mm = w.vm.new_mm().unwrap();
                mm.map_raw(pages(home.page(), 4), RW, Backing::Anonymous);
                (0..4).for_each(|i| mm.store(home.0 + i * P, i as u8).unwrap());
                mm
            },
            |mm| {
                let flags = RemapFlags::MAYMOVE | RemapFlags::FIXED;
                mm.mremap(home, 2 * P, 2 * P, flags, away)
            },
            |mm, _| {
                w.vm.validate().unwrap();
                (0..4).for_each(|i| assert_eq!(mappers(mm, Va(home.0 + i * P)), 1));
            },
        );
        assert!(failed >= 2, "tables, a record: only {failed} failed");
    });
}

#[test]
fn a_fork_without_memory_leaves_the_parent_alone() {
    run(|w| {
        let parent = w.vm.new_mm().unwrap();
        let va = map(&parent, 4);
        (0..4).for_each(|i| parent.store(va.0 + i * P, i as u8).unwrap());
        for nth in 1..6 {
            w.failures.set(FailurePlan::Nth(nth));
            let child = parent.fork();
            w.failures.set(FailurePlan::Off);
            if child.is_err() {
                assert_eq!((w.vm.mms.live(), mappers(&parent, va)), (1, 1));
                w.vm.validate().unwrap();
            }
        }
    });
}

#[test]
fn mappings_merge_whatever_they_shared() {
    run(|w| {
        let mm = w.vm.new_mm().unwrap();
        mm.map_raw(pages(256, 2), RW, Backing::Anonymous);
        mm.store(256 * P, 1).unwrap();
        let child = mm.fork().unwrap();
        let request = MmapRequest {
            addr: Va(258 * P),
            flags: MapFlags::FIXED,
            ..MmapRequest::anonymous(2 * P, Prot::READ | Prot::WRITE)
        };
        child.mmap(request).unwrap();
        assert_eq!(child.counters().vmas, 1, "an anon_vma that came by fork would have kept them apart");
        child.store(258 * P, 2).unwrap();
        w.vm.validate().unwrap();
    });
}

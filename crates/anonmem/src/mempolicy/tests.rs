//! Two nodes of 4096 frames together.

use super::*;
use crate::{
    Advice, Config, FaultAccess, FaultOutcome, FolioMode, FolioPolicy, PinFlags, Populate,
    testing::{M, P, RW, World, pages},
    vma::Backing,
};
use anonmem_hal::{NodeMode, NodeSet, PhysMem as _};
use anonmem_hosted::sched::set_node_policy;
use std::{vec, vec::Vec};

fn two(f: impl FnOnce(&World)) {
    World::run_with(Config { nodes: 2, ..Config::default() }, f);
}

fn policy(mode: NodeMode, nodes: u8) -> NodePolicy {
    NodePolicy { mode, nodes: NodeSet(nodes), tag: 0 }
}

fn nodes(mm: &Mm<'_, M>, first: u64, n: u64) -> Vec<Result<u32, NoPage>> {
    (first..first + n).map(|page| mm.node_of_page(Va(page * P))).collect()
}

fn touch(mm: &Mm<'_, M>, first: u64, n: u64) {
    (first..first + n).for_each(|page| mm.store(page * P, page as u8).unwrap());
}

fn bytes_are_right(mm: &Mm<'_, M>, first: u64, n: u64) -> bool {
    (first..first + n).all(|page| mm.load(page * P) == Ok(page as u8))
}

#[test]
fn nodes_are_halves_that_share_no_block() {
    two(|w| {
        let (base, nr) = (w.vm.machine().base_pfn(), w.vm.machine().nr_frames());
        let [first, second] = [0, 1].map(|node| w.vm.node_frames(node));
        assert_eq!((first.start, second.end, first.end), (base, base.offset(nr), second.start));
        assert_eq!((w.vm.node_of(base), w.vm.node_of(base.offset(nr - 1)), w.vm.nr_nodes()), (0, 1, 2));
        assert_eq!((w.vm.node_of(first.end), w.vm.node_frames(2)), (1, second.end..second.end));
        assert!(first.end.0.is_multiple_of(1 << anonmem_hal::MAX_ORDER));
    });
    World::run(|w| assert_eq!((w.vm.nr_nodes(), w.vm.node_of(Pfn(u64::MAX))), (1, 0)));
}

#[test]
fn pages_come_from_where_the_mapping_wants_them() {
    two(|w| {
        let mm = w.vm.new_mm().unwrap();
        mm.map_raw(pages(16, 64), RW, Backing::Anonymous);
        for (first, mode, set) in
            [(16, NodeMode::Bind, 2), (24, NodeMode::Preferred, 1), (32, NodeMode::Interleave, 3)]
        {
            mm.set_node_policy(pages(first, 8), policy(mode, set), Holes::Refused).unwrap();
            touch(&mm, first, 8);
        }
        assert_eq!(nodes(&mm, 16, 8), vec![Ok(1); 8]);
        assert_eq!(nodes(&mm, 24, 8), vec![Ok(0); 8]);
        assert_eq!(nodes(&mm, 32, 4), [Ok(0), Ok(1), Ok(0), Ok(1)]);
        assert_eq!(mm.layout().len(), 4);
        assert_eq!(mm.node_policy_at(Va(33 * P)), Some(policy(NodeMode::Interleave, 3)));
        assert_eq!(
            (mm.node_policy_at(Va(40 * P)), mm.node_policy_at(Va(P))),
            (Some(NodePolicy::DEFAULT), None)
        );
        // A child has the same, and copies go where the policy says.
        let child = mm.fork().unwrap();
        touch(&child, 16, 8);
        assert_eq!(nodes(&child, 16, 8), vec![Ok(1); 8]);
        // Where nothing was touched, taking a policy back makes it one mapping again.
        mm.set_node_policy(pages(60, 4), policy(NodeMode::Bind, 1), Holes::Refused).unwrap();
        assert_eq!(mm.layout().len(), 6);
        mm.set_node_policy(pages(60, 4), NodePolicy::DEFAULT, Holes::Passed).unwrap();
        assert_eq!(mm.layout().len(), 4);
        assert!(bytes_are_right(&mm, 16, 24));
        w.vm.validate().unwrap();
    });
}

/// A run that is filled at once is laid out as by a fault for each page.
#[test]
fn what_is_populated_is_interleaved_page_by_page() {
    two(|w| {
        let mm = w.vm.new_mm().unwrap();
        mm.map_raw(pages(16, 16), RW, Backing::Anonymous);
        mm.set_node_policy(pages(16, 16), policy(NodeMode::Interleave, 3), Holes::Refused).unwrap();
        mm.madvise(Va(16 * P), 16 * P, Advice::PopulateWrite).unwrap();
        let on = nodes(&mm, 16, 16);
        assert!(on.windows(2).all(|pair| pair[0].is_ok() && pair[0] != pair[1]), "{on:?}");
    });
}

#[test]
fn what_is_populated_begins_where_a_fault_would() {
    World::run_with(Config { nodes: 4, ..Config::default() }, |w| {
        let mm = w.vm.new_mm().unwrap();
        mm.map_raw(pages(16, 16), RW, Backing::Anonymous);
        mm.set_node_policy(pages(16, 16), policy(NodeMode::Interleave, 15), Holes::Refused).unwrap();
        mm.madvise(Va(16 * P), 16 * P, Advice::PopulateWrite).unwrap();
        assert_eq!(nodes(&mm, 16, 16), (0..16).map(|page| Ok(page % 4)).collect::<Vec<_>>());
    });
}

#[test]
fn the_policy_of_the_task_holds_where_the_mapping_has_none() {
    two(|w| {
        let mm = w.vm.new_mm().unwrap();
        mm.map_raw(pages(16, 16), RW, Backing::Anonymous);
        mm.set_node_policy(pages(24, 8), policy(NodeMode::Bind, 1), Holes::Refused).unwrap();
        for (task, expected) in [(2, 1), (1, 0)] {
            set_node_policy(policy(NodeMode::Bind, task));
            mm.madvise(Va(16 * P), 16 * P, Advice::DontNeed).unwrap();
            touch(&mm, 16, 16);
            assert_eq!(nodes(&mm, 16, 8), vec![Ok(expected); 8]);
            assert_eq!(nodes(&mm, 24, 8), vec![Ok(0); 8]);
        }
        set_node_policy(NodePolicy::DEFAULT);
    });
}

#[test]
fn holes_are_refused_or_passed_and_nothing_changes() {
    two(|w| {
        let mm = w.vm.new_mm().unwrap();
        mm.map_raw(pages(16, 4), RW, Backing::Anonymous);
        mm.map_raw(pages(24, 4), RW, Backing::Anonymous);
        let bind = policy(NodeMode::Bind, 1);
        assert_eq!(mm.set_node_policy(pages(16, 12), bind, Holes::Refused), Err(Error::BadAddress));
        assert_eq!(mm.node_policy_at(Va(16 * P)), Some(NodePolicy::DEFAULT));
        mm.set_node_policy(pages(10, 40), bind, Holes::Passed).unwrap();
        assert_eq!([16, 27].map(|page| mm.node_policy_at(Va(page * P))), [Some(bind); 2]);
        assert_eq!(mm.set_node_policy(pages(40, 4), bind, Holes::Passed), Err(Error::BadAddress));
    });
}

#[test]
fn a_page_moves_to_a_node_unless_it_is_shared_or_pinned() {
    two(|w| {
        let mm = w.vm.new_mm().unwrap();
        mm.map_raw(pages(16, 8), RW, Backing::Anonymous);
        touch(&mm, 16, 4);
        assert_eq!(mm.load(20 * P), Ok(0));
        let at = |page: u64| Va(page * P);
        for node in [0, 1, 1, 0] {
            assert_eq!(mm.move_page_to_node(at(16), node, Whose::Own), Ok(()));
            assert_eq!(mm.node_of_page(at(16)), Ok(node));
        }
        let none = |why| Err(NotMoved::NoPage(why));
        assert_eq!(mm.move_page_to_node(at(20), 1, Whose::Own), none(NoPage::Zeroes));
        assert_eq!(mm.move_page_to_node(at(21), 1, Whose::Own), none(NoPage::Empty));
        assert_eq!(mm.move_page_to_node(at(99), 1, Whose::Own), none(NoPage::NotMapped));
        for far in [0xffff_ffff_ffff_f000, u64::MAX] {
            assert_eq!(mm.node_of_page(Va(far)), Err(NoPage::NotMapped));
            assert_eq!(mm.move_page_to_node(Va(far), 1, Whose::Own), none(NoPage::NotMapped));
        }
        let elsewhere = |page| 1 - mm.node_of_page(at(page)).unwrap();
        let child = mm.fork().unwrap();
        let to = elsewhere(17);
        assert_eq!(mm.move_page_to_node(at(17), to, Whose::Own), Err(NotMoved::Shared));
        assert_eq!(mm.move_page_to_node(at(17), to, Whose::Everybodys), Ok(()));
        assert_eq!((mm.node_of_page(at(17)), child.node_of_page(at(17))), (Ok(to), Ok(to)));
        drop(child);
        let pin = mm.pin(pages(18, 1), PinFlags::WRITE).unwrap();
        assert_eq!(
            mm.move_page_to_node(at(18), elsewhere(18), Whose::Own),
            Err(NotMoved::Stays(Stays::Pinned))
        );
        drop(pin);
        assert!(bytes_are_right(&mm, 16, 4));
        w.vm.validate().unwrap();
    });
}

#[test]
fn a_node_that_is_full_gives_way_unless_the_policy_is_strict() {
    two(|w| {
        let mm = w.vm.new_mm().unwrap();
        let second = w.vm.node_frames(1);
        let size = second.end.0 - second.start.0;
        let n = size + 500;
        mm.map_raw(pages(16, n), RW, Backing::Anonymous);
        mm.set_node_policy(pages(16, n), policy(NodeMode::Preferred, 2), Holes::Refused).unwrap();
        touch(&mm, 16, n);
        let of = nodes(&mm, 16, n);
        assert!(
            of.iter().filter(|node| **node == Ok(1)).count() as u64 > size * 9 / 10,
            "the second node was not filled"
        );
        assert!(of.last() == Some(&Ok(0)), "what came last had no room there");
        mm.madvise(Va(16 * P), n * P, Advice::DontNeed).unwrap();
        mm.set_node_policy(pages(16, n), policy(NodeMode::Bind, 2), Holes::Refused).unwrap();
        let filled = (16..16 + n).take_while(|page| mm.store(page * P, *page as u8).is_ok()).count() as u64;
        assert!((size * 9 / 10..=size).contains(&filled), "{filled} pages on a node of {size} frames");
        assert!(nodes(&mm, 16, filled).iter().all(|node| *node == Ok(1)));
        assert!(bytes_are_right(&mm, 16, filled));
        w.vm.validate().unwrap();
    });
}

#[test]
fn a_large_folio_is_placed_and_moves_whole_or_in_pieces() {
    two(|w| {
        w.vm.set_folio_policy(FolioPolicy::default().with(Order::new(4), FolioMode::Always));
        let mm = w.vm.new_mm().unwrap();
        mm.map_raw(pages(16, 32), RW, Backing::Anonymous);
        mm.set_node_policy(pages(16, 32), policy(NodeMode::Bind, 2), Holes::Refused).unwrap();
        mm.populate(pages(16, 32), Populate::Write).unwrap();
        touch(&mm, 16, 32);
        assert_eq!(nodes(&mm, 16, 32), vec![Ok(1); 32]);
        let folio = |page: u64| w.vm.frames.folio(mm.pagemap(Va(page * P)).pfn.unwrap()).unwrap();
        assert!(folio(16).is_large());
        mm.move_page_to_node(Va(20 * P), 0, Whose::Own).unwrap();
        assert_eq!(nodes(&mm, 16, 16), vec![Ok(0); 16]);
        assert!(folio(16).is_large() && bytes_are_right(&mm, 16, 32));
        // Without a block in the first node the second folio goes in pieces, a page of it.
        let mut all: Vec<_> = core::iter::from_fn(|| w.vm.alloc_on(0, Order::new(4)).ok()).collect();
        let mut single: Vec<_> = core::iter::from_fn(|| w.vm.alloc_on(0, Order::ZERO).ok()).collect();
        single.pop();
        mm.move_page_to_node(Va(36 * P), 0, Whose::Own).unwrap();
        assert_eq!((mm.node_of_page(Va(36 * P)), mm.node_of_page(Va(37 * P))), (Ok(0), Ok(1)));
        assert!(bytes_are_right(&mm, 16, 32));
        all.clear();
        drop(single);
        w.vm.validate().unwrap();
    });
}

#[test]
fn pages_of_a_shared_object_are_placed() {
    two(|w| {
        let mm = w.vm.new_mm().unwrap();
        let object = w.vm.shm_new(8).unwrap();
        mm.map_raw(
            pages(16, 8),
            RW | (crate::VmFlags::SHARED - crate::VmFlags::ACCOUNT),
            Backing::Shared(object.id()),
        );
        mm.set_node_policy(pages(16, 8), policy(NodeMode::Interleave, 3), Holes::Refused).unwrap();
        touch(&mm, 16, 8);
        let of = nodes(&mm, 16, 8);
        assert!((0..8).all(|nth| of[nth] == Ok(nth as u32 % 2)), "{of:?}");
        // What one program maps is its own, although the object has it as well.
        assert_eq!(mm.move_page_to_node(Va(16 * P), 1, Whose::Own), Ok(()));
        assert_eq!((mm.load(16 * P), mm.node_of_page(Va(16 * P))), (Ok(16), Ok(1)));
        let child = mm.fork().unwrap();
        assert_eq!((mm.load(17 * P), child.load(17 * P)), (Ok(17), Ok(17)));
        assert_eq!(mm.move_page_to_node(Va(17 * P), 0, Whose::Own), Err(NotMoved::Shared));
        assert_eq!(mm.move_page_to_node(Va(17 * P), 0, Whose::Everybodys), Ok(()));
        assert_eq!(mm.load(17 * P), Ok(17));
        drop((mm, child, object));
    });
}

/// A world of two nodes and a swap device.
fn two_with_swap(f: impl FnOnce(&World)) {
    two(|w| {
        w.vm.swap_on(0, 8192, 0).unwrap();
        f(w);
        w.vm.swap_off(0).unwrap();
    });
}

/// Maps `n` pages at page `first` that may lie on the nodes of `set` alone.
fn bound(mm: &Mm<'_, M>, first: u64, n: u64, set: u8) {
    mm.map_raw(pages(first, n), RW, Backing::Anonymous);
    mm.set_node_policy(pages(first, n), policy(NodeMode::Bind, set), Holes::Refused).unwrap();
}

/// Pages of the address space that are in memory.
fn resident(mm: &Mm<'_, M>) -> u64 {
    mm.counters().anon.0
}

/// Stores to one page after the other, until there is no memory; returns how many were stored to.
fn touch_until_full(mm: &Mm<'_, M>, first: u64, n: u64) -> u64 {
    (first..first + n).take_while(|page| mm.store(page * P, *page as u8).is_ok()).count() as u64
}

#[test]
fn a_strict_node_that_is_full_makes_pages_of_its_own_leave_and_no_other() {
    two_with_swap(|w| {
        let [bystander, cold, guilty] = [(); 3].map(|()| w.vm.new_mm().unwrap());
        let size = w.vm.node_frames(1).end.0 - w.vm.node_frames(1).start.0;
        bound(&bystander, 16, 1000, 1);
        touch(&bystander, 16, 1000);
        bound(&cold, 16, 800, 2);
        touch(&cold, 16, 800);
        // As if they had not been used for long.
        for mm in [&bystander, &cold] {
            mm.madvise(Va(16 * P), resident(mm) * P, Advice::Cold).unwrap();
        }
        bound(&guilty, 16, 2 * size, 2);
        touch(&guilty, 16, size - 400);
        assert_eq!(resident(&bystander), 1000, "pages of the other node left for nothing");
        assert!(resident(&cold) < 800, "nothing left the full node");
        assert_eq!(resident(&guilty), size - 400, "what is in use left before what is idle");
        // More than the node has: its own pages come and go.
        touch(&guilty, 16, size + 500);
        assert_eq!(resident(&bystander), 1000);
        assert!(nodes(&guilty, 16, size + 500).iter().all(|node| matches!(node, Ok(1) | Err(NoPage::Empty))));
        assert!(bytes_are_right(&guilty, 16, size + 500) && bytes_are_right(&cold, 16, 800));
        w.vm.validate().unwrap();
    });
}

#[test]
fn where_nothing_can_leave_a_strict_node_the_fault_says_which_and_others_keep_their_pages() {
    two_with_swap(|w| {
        let [bystander, guilty] = [(); 2].map(|()| w.vm.new_mm().unwrap());
        let size = w.vm.node_frames(1).end.0 - w.vm.node_frames(1).start.0;
        bound(&bystander, 16, 1000, 1);
        touch(&bystander, 16, 1000);
        bystander.madvise(Va(16 * P), 1000 * P, Advice::Cold).unwrap();
        bound(&guilty, 16, 2 * size, 2);
        // Pinned pages stay where they are.
        let mut pins = Vec::new();
        let full = loop {
            match guilty.pin(pages(16 + pins.len() as u64, 1), PinFlags::WRITE) {
                Ok(pin) => pins.push(pin),
                Err(why) => break why,
            }
        };
        let only = NodeSet(2);
        assert_eq!((full, full.errno()), (Error::NodesFull(only), 12));
        assert!(pins.len() as u64 > size * 9 / 10, "{} of {size}", pins.len());
        let next = 16 + pins.len() as u64;
        let fault = guilty.handle_fault(Va(next * P), FaultAccess::Write);
        assert_eq!(fault, FaultOutcome::NodesFull(only));
        assert_eq!(guilty.populate(pages(next, 4), Populate::Write), Err(Error::NodesFull(only)));
        assert_eq!(guilty.mlock(Va(next * P), 4 * P), Err(Error::Again));
        assert_eq!(resident(&bystander), 1000, "pages of the other node left for nothing");
        assert_eq!(guilty.pages_on(only).0, pins.len() as u64);
        assert_eq!((guilty.pages_on(NodeSet(1)).0, bystander.pages_on(NodeSet(3)).0), (0, 1000));
        assert!(!w.vm.is_above_high_on(only) && w.vm.is_above_high_on(NodeSet(1)));
        // A shared object's page says the same.
        let object = w.vm.shm_new(4).unwrap();
        let shared = RW | (crate::VmFlags::SHARED - crate::VmFlags::ACCOUNT);
        guilty.map_raw(pages(8, 4), shared, Backing::Shared(object.id()));
        guilty.set_node_policy(pages(8, 4), policy(NodeMode::Bind, 2), Holes::Refused).unwrap();
        assert_eq!(guilty.handle_fault(Va(8 * P), FaultAccess::Write), FaultOutcome::NodesFull(only));
        drop(pins);
        assert_eq!(touch_until_full(&guilty, next, 8), 8, "they may leave now");
        assert_eq!(resident(&bystander), 1000);
        w.vm.validate().unwrap();
        drop((guilty, bystander, object));
    });
}

#[test]
fn the_background_task_frees_a_part_of_a_node_that_was_found_full() {
    two_with_swap(|w| {
        let [bystander, guilty] = [(); 2].map(|()| w.vm.new_mm().unwrap());
        let size = w.vm.node_frames(1).end.0 - w.vm.node_frames(1).start.0;
        bound(&bystander, 16, 1000, 1);
        touch(&bystander, 16, 1000);
        bound(&guilty, 16, 2 * size, 2);
        touch(&guilty, 16, size + 10);
        let only = NodeSet(2);
        assert!(!w.vm.is_above_high_on(only));
        w.vm.balance_nodes();
        let (of, frames) = (&w.vm.nodes_of_memory, &w.vm.frames);
        let (free, high) = (of.free_on(frames, only), of.high_of(frames, only));
        assert!(free >= high && high > 0, "{free} of {high} pages");
        assert_eq!(resident(&bystander), 1000);
        // Nobody has found it full since.
        let before = resident(&guilty);
        w.vm.balance_nodes();
        assert_eq!(resident(&guilty), before);
    });
}

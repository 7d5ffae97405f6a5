//! Lists of pins: runs, splits, cuts, limits.

use super::*;
use crate::{Counts, folio::FolioRef, testing::TestMachine};
use anonmem_hal::Order;
use std::{vec, vec::Vec};

type M = TestMachine;

fn world() -> (Frames<M>, PinNodes<M>) {
    let frames = Frames::new(TestMachine::new(16, 256)).unwrap();
    let nodes = PinNodes::new(&frames);
    (frames, nodes)
}

fn folio(frames: &Frames<M>, order: u8) -> FolioRef<'_, M> {
    frames.alloc(Order::new(order)).unwrap().into_reference()
}

fn pin_all<'f>(list: &mut PinList<'f, M>, frames: &'f Frames<M>, folio: &FolioRef<'f, M>) {
    for page in 0..folio.folio().nr_pages().0 {
        list.push(frames.try_pin(folio.pfn().offset(page)).unwrap()).unwrap();
    }
}

fn pins(folio: &FolioRef<'_, M>) -> u64 {
    folio.folio().counts().pins()
}

#[test]
fn a_run_of_a_folio_has_one_pin_and_lists_unpin() {
    let (frames, nodes) = world();
    let (small, large) = (folio(&frames, 0), folio(&frames, 3));
    let mut list = PinList::new(&frames, &nodes, PinAccess::Write);
    pin_all(&mut list, &frames, &small);
    pin_all(&mut list, &frames, &large);
    list.push_zero().unwrap();
    assert_eq!((pins(&small), pins(&large), list.pages()), (1, 1, NrPages(10)));
    let runs: Vec<_> = list.runs().map(|run| (run.first, run.pages.0)).collect();
    assert_eq!(runs, vec![(small.pfn(), 1), (large.pfn(), 8), (frames.zero_page(), 1)]);
    drop(list);
    assert_eq!((pins(&small), pins(&large), nodes.live()), (0, 0, 0));
}

#[test]
fn lists_are_split_anywhere_and_lose_nothing() {
    let (frames, nodes) = world();
    let all = [0, 2, 0, 0, 3, 0].map(|order| folio(&frames, order));
    let singles: Vec<_> = (0..30).map(|_| folio(&frames, 0)).collect();
    let total = 1 + 4 + 1 + 1 + 8 + 1 + 30;
    for at in 0..=total {
        let mut list = PinList::new(&frames, &nodes, PinAccess::Write);
        let folios = || all.iter().chain(&singles);
        folios().for_each(|folio| pin_all(&mut list, &frames, folio));
        let pages = |list: &PinList<'_, M>| -> Vec<Pfn> {
            list.runs().flat_map(|run| (0..run.pages.0).map(move |i| run.first.offset(i))).collect()
        };
        let before = pages(&list);
        let mut rest = list.split_off(NrPages(at)).unwrap();
        assert_eq!((list.pages().0, rest.pages().0), (at, total - at));
        assert_eq!([pages(&list), pages(&rest)].concat(), before, "split at {at}");
        // Both go on as lists.
        pin_all(&mut list, &frames, &singles[0]);
        pin_all(&mut rest, &frames, &singles[1]);
        drop(list);
        assert_eq!(folios().map(pins).sum::<u64>(), rest.runs().count() as u64, "split at {at}");
        drop(rest);
        assert_eq!((folios().map(pins).sum::<u64>(), nodes.live()), (0, 0));
    }
}

#[test]
fn lists_are_cut_anywhere_and_go_on_in_the_room_that_is_left() {
    let (frames, nodes) = world();
    let all = [0, 2, 0, 0, 3, 0].map(|order| folio(&frames, order));
    let singles: Vec<_> = (0..30).map(|_| folio(&frames, 0)).collect();
    let folios = || all.iter().chain(&singles);
    let total = 1 + 4 + 1 + 1 + 8 + 1 + 30;
    for at in 0..=total {
        let mut list = PinList::new(&frames, &nodes, PinAccess::Write);
        folios().for_each(|folio| pin_all(&mut list, &frames, folio));
        let pages = |list: &PinList<'_, M>| -> Vec<Pfn> {
            list.runs().flat_map(|run| (0..run.pages.0).map(move |i| run.first.offset(i))).collect()
        };
        let (before, used, live) = (pages(&list), list.runs().count() as u64, nodes.live());
        list.truncate(NrPages(at));
        assert_eq!(pages(&list), before[..at as usize], "cut at {at}");
        let left = list.runs().count() as u64;
        assert_eq!(folios().map(pins).sum::<u64>(), left, "cut at {at}");
        assert_eq!(list.pages(), NrPages(at));
        // What it had room for it has room for.
        frames.machine().admit_only(0);
        assert!(list.room() >= used - left, "cut at {at}");
        (left..used).for_each(|_| list.push(frames.try_pin(singles[0].pfn()).unwrap()).unwrap());
        frames.machine().admit_only(-1);
        assert_eq!((nodes.live(), list.pages().0), (live, at + used - left), "cut at {at}");
        drop(list);
        assert_eq!((folios().map(pins).sum::<u64>(), nodes.live()), (0, 0));
    }
}

#[test]
fn room_that_was_reserved_needs_no_memory_later() {
    let (frames, nodes) = world();
    let page = folio(&frames, 0);
    let mut list = PinList::new(&frames, &nodes, PinAccess::Write);
    list.push_zero().unwrap();
    list.reserve(40).unwrap();
    frames.machine().admit_only(0);
    for _ in 0..40 {
        list.push(frames.try_pin(page.pfn()).unwrap()).unwrap();
    }
    let more = (0..RUNS).map_while(|_| list.push(frames.try_pin(page.pfn()).unwrap()).err());
    assert!(more.count() <= RUNS, "a push without memory fails and unpins");
    frames.machine().admit_only(-1);
    drop(list);
    assert_eq!((pins(&page), nodes.live()), (0, 0));
}

#[test]
fn pins_end_in_an_error_before_they_are_too_many() {
    let (frames, nodes) = world();
    let page = folio(&frames, 1);
    let mut kept = Vec::new();
    while let Some(pin) = frames.try_pin(page.pfn()) {
        kept.push(pin);
    }
    assert!(kept.len() as u64 > 65_000 && kept.len() < 1 << 16, "{}", kept.len());
    assert_eq!((pins(&page), page.folio().counts().refs()), (kept.len() as u64, 1));
    // A run of two pages cannot be cut, and stays what it is.
    let mut list = PinList::new(&frames, &nodes, PinAccess::Write);
    // To make the run longer takes a pin for a moment.
    kept.truncate(kept.len() - 2);
    pin_all(&mut list, &frames, &page);
    kept.push(frames.try_pin(page.pfn()).unwrap());
    assert!(matches!(list.split_off(NrPages(1)), Err(PinListError::TooManyPins)));
    assert_eq!((list.pages(), list.runs().count()), (NrPages(2), 1));
    drop((list, kept));
    assert_eq!(page.folio().counts(), Counts(Counts::REF));
}

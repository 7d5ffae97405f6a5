//! The allocator against models of it.

use crate::{
    FolioOwner, Frames, FramesError, Kind, OutFor, OutOfMemory, TableWords,
    buddy::Buddy,
    memmap::Memmap,
    meta::Meta,
    testing::{ByNumber, CPUS, Rng, TestMachine, run_on},
};
use anonmem_hal::{MAX_ORDER, NrPages, Order, Pfn, PhysMem};
use anonmem_sync::{Ordering::Relaxed, order::Ptl};
use core::ptr::NonNull;
use std::{collections::VecDeque, format, thread, vec::Vec};

type M = TestMachine;

fn frames(base: u64, nr: u64) -> Frames<M> {
    Frames::new(TestMachine::new(base, nr)).unwrap()
}

fn words(frames: &Frames<M>, table: Pfn) -> TableWords<'_, M> {
    // SAFETY: the tables of a test are its own.
    unsafe { frames.table_words(table) }
}

/// Takes everything that an ordinary allocation may have.
fn exhaust(frames: &Frames<M>, order: Order) -> Vec<Pfn> {
    core::iter::from_fn(|| frames.alloc_block(order, Kind::New).ok()).collect()
}

/// A buddy allocator without memory behind it.
struct Bare {
    slots: Vec<[u64; 4]>,
    base: u64,
}

impl Bare {
    fn map(&mut self) -> Memmap<M> {
        let slots = NonNull::new(self.slots.as_mut_ptr()).unwrap().cast::<Meta<M>>();
        // SAFETY: zeroed slots of the right size and alignment, which the caller keeps.
        unsafe { Memmap::new(slots, Pfn(self.base), self.slots.len() as u32) }
    }
}

/// The free blocks as (index, order), ascending.
fn free_blocks(map: &Memmap<M>, buddy: &Buddy) -> Vec<(u32, u8)> {
    let mut blocks = Vec::new();
    for order in 0..=MAX_ORDER {
        let mut link = buddy.head(Order::new(order));
        while let Some(index) = link.checked_sub(1) {
            blocks.push((index, order));
            link = map.at(index).links().0;
        }
    }
    blocks.sort_unstable();
    blocks
}

/// The one set of maximal blocks that a set of free frames has.
fn maximal_blocks(base: u64, free: &[bool]) -> Vec<(u32, u8)> {
    let (mut blocks, mut index) = (Vec::new(), 0);
    while index < free.len() {
        let fits = |order: &u8| {
            (base + index as u64).is_multiple_of(1 << order)
                && free.get(index..index + (1 << order)).is_some_and(|f| f.iter().all(|f| *f))
        };
        match (0..=MAX_ORDER).rev().find(fits) {
            Some(order) => {
                blocks.push((index as u32, order));
                index += 1 << order;
            }
            None => index += 1,
        }
    }
    blocks
}

#[test]
fn every_small_memory_starts_as_maximal_blocks() {
    for base in 0..40 {
        for nr in 0..80 {
            let mut bare = Bare { slots: std::vec![[0; 4]; nr], base };
            let (map, mut buddy) = (bare.map(), Buddy::new());
            buddy.push_all(&map, 0..map.nr());
            assert_eq!(free_blocks(&map, &buddy), maximal_blocks(base, &std::vec![true; nr]));
            assert_eq!(buddy.free(), nr as u32);
        }
    }
}

#[test]
fn every_order_of_freeing_eight_pages_merges_all_that_can() {
    // All 8! orders, from a memory that starts in the middle of a block.
    let mut orders = Vec::from([VecDeque::<u32>::new()]);
    for n in 0..8 {
        orders = orders
            .iter()
            .flat_map(|o| {
                (0..=o.len()).map(move |at| {
                    let mut o = o.clone();
                    o.insert(at, n);
                    o
                })
            })
            .collect();
    }
    for (i, order) in orders.iter().enumerate() {
        let base = i as u64 % 8;
        let mut bare = Bare { slots: std::vec![[0; 4]; 8], base };
        let (map, mut buddy) = (bare.map(), Buddy::new());
        buddy.push_all(&map, 0..map.nr());
        for _ in 0..8 {
            buddy.take(&map, Order::ZERO, Kind::New.bits(Order::ZERO)).unwrap();
        }
        let mut free = [false; 8];
        for &index in order {
            buddy.put(&map, index, Order::ZERO);
            free[index as usize] = true;
            assert_eq!(free_blocks(&map, &buddy), maximal_blocks(base, &free), "{order:?} from {base}");
        }
    }
}

#[test]
fn a_run_is_what_taking_its_pages_one_by_one_gives() {
    let mut rng = Rng::new(3);
    for round in 0..300 {
        let (base, nr) = (rng.below(64), 16 + rng.below(200) as usize);
        let mut pair = [0; 2].map(|_| Bare { slots: std::vec![[0; 4]; nr], base });
        let [mut a, mut b] = [Buddy::new(), Buddy::new()];
        let [map_a, map_b] = pair.each_mut().map(|bare| bare.map());
        a.push_all(&map_a, 0..map_a.nr());
        b.push_all(&map_b, 0..map_b.nr());
        let mut free = std::vec![true; nr];
        for _ in 0..20 {
            if let Some(run) = a.take_run(&map_a, 1 + rng.below(40) as u32) {
                for index in run {
                    let mark = Kind::Pcp.bits(Order::ZERO);
                    map_a.at(index).flags.store(mark, Relaxed);
                    assert_eq!(b.take(&map_b, Order::ZERO, mark), Some(index));
                    free[index as usize] = false;
                }
            }
            // Puts back a run of used pages, in one and one by one.
            let start = rng.below(nr as u64) as usize;
            let len = free[start..].iter().take(1 + rng.below(30) as usize).take_while(|f| !**f).count();
            let run = start as u32..(start + len) as u32;
            a.put_run(&map_a, run.clone());
            run.for_each(|index| b.put(&map_b, index, Order::ZERO));
            free[start..start + len].fill(true);
            let blocks = maximal_blocks(base, &free);
            assert_eq!(free_blocks(&map_a, &a), blocks, "round {round}");
            assert_eq!(free_blocks(&map_b, &b), blocks, "round {round}");
        }
    }
}

#[test]
fn the_lowest_frames_go_first() {
    let frames = frames(64, 4096);
    let pages: Vec<_> = (0..40).map(|_| frames.alloc_block(Order::ZERO, Kind::New).unwrap()).collect();
    assert!(pages.iter().map(|p| p.0).eq(65..105));
}

#[test]
fn a_page_freed_is_the_next_one_allocated() {
    let frames = frames(0, 1024);
    let page = frames.alloc_block(Order::ZERO, Kind::New).unwrap();
    frames.free_block(page, Order::ZERO);
    assert_eq!(frames.alloc_block(Order::ZERO, Kind::New), Ok(page));
}

#[test]
fn a_block_is_aligned_in_the_machines_numbers_and_its_tails_know_it() {
    let frames = frames(1000, 3000);
    for order in (1..=MAX_ORDER).map(Order::new) {
        let head = frames.alloc_block(order, Kind::New).unwrap();
        assert!(head.0.is_multiple_of(order.pages()));
        assert_eq!((frames.meta(head).owned().kind(), frames.meta(head).owned().order()), (Kind::New, order));
        for i in 1..order.pages() {
            let tail = frames.meta(head.offset(i));
            assert_eq!((tail.owned().kind(), tail.mapping.peek()), (Kind::Tail, head.0));
        }
        assert_eq!(frames.validate(), Ok(()));
    }
}

#[test]
fn all_comes_back_as_it_was() {
    let frames = frames(77, 5000);
    let before = frames.with_buddy(|buddy| free_blocks(&frames.memmap, buddy));
    let pages = exhaust(&frames, Order::ZERO);
    assert_eq!(pages.len() as u64, 4999 - frames.watermarks().min.0);
    assert_eq!(frames.validate(), Ok(()));
    assert_eq!(frames.usage().free, frames.watermarks().min);
    pages.iter().rev().for_each(|&page| frames.free_block(page, Order::ZERO));
    assert_eq!(frames.validate(), Ok(()));
    frames.drain_pcp();
    assert_eq!(frames.validate(), Ok(()));
    assert_eq!(frames.with_buddy(|buddy| free_blocks(&frames.memmap, buddy)), before);
    assert_eq!((frames.usage().used(), frames.machine().owned()), (NrPages(0), 1));
}

#[test]
fn below_the_min_watermark_only_the_kernel_and_page_tables_allocate() {
    let frames = frames(0, 2048);
    exhaust(&frames, Order::ZERO);
    assert!(frames.below_low());
    assert_eq!(frames.alloc_block(Order::new(3), Kind::New), Err(OutOfMemory));
    let mut reserve = 0;
    while frames.raw_table().is_ok() {
        reserve += 1;
        assert_eq!(frames.alloc_block(Order::ZERO, Kind::New), Err(OutOfMemory), "after {reserve}");
        reserve += u64::from(frames.raw_kernel(Order::ZERO).is_ok());
    }
    assert_eq!(NrPages(reserve), frames.watermarks().min);
    assert_eq!(frames.usage().free, NrPages(0));
    assert_eq!(frames.validate(), Ok(()));
}

#[test]
fn what_a_cpu_keeps_for_folios_goes_to_tables_before_the_reserve() {
    let frames = frames(0, 2048);
    let pages = exhaust(&frames, Order::ZERO);
    pages[..8].iter().for_each(|page| frames.free_block(*page, Order::ZERO));
    let reserve = frames.buddy_free.peek();
    assert_eq!(reserve, frames.watermarks().min.0);
    for nth in 1..=8 {
        frames.raw_table().unwrap();
        assert_eq!(frames.buddy_free.peek(), reserve, "table {nth} of 8");
    }
    frames.raw_table().unwrap();
    assert_eq!(frames.buddy_free.peek(), reserve - 1, "nothing else is left");
    assert_eq!(frames.validate(), Ok(()));
}

#[test]
fn what_other_cpus_keep_is_found_before_giving_up() {
    let frames = frames(0, 4096);
    let pages = exhaust(&frames, Order::ZERO);
    for (i, page) in pages.iter().enumerate().take(64) {
        run_on(i as u32 % CPUS as u32);
        frames.free_block(*page, Order::ZERO);
    }
    run_on(0);
    assert_eq!(exhaust(&frames, Order::ZERO).len(), 64);
    assert_eq!(frames.validate(), Ok(()));
}

#[test]
fn a_cpu_keeps_only_so_many_pages() {
    let frames = frames(0, 16_384);
    let pages = exhaust(&frames, Order::ZERO);
    pages.into_iter().for_each(|page| frames.free_block(page, Order::ZERO));
    let kept = frames.usage().free.0 - frames.buddy_free.peek();
    assert!((94..=186).contains(&kept), "{kept}");
}

#[test]
fn a_free_frame_belongs_to_nothing() {
    let frames = frames(0, 256);
    for order in [0, 3].map(Order::new) {
        let head = frames.alloc_block(order, Kind::New).unwrap();
        frames.meta(head).mapping.store(u64::MAX, Relaxed);
        frames.free_block(head, order);
        assert_eq!((frames.meta(head).mapping.peek(), frames.meta(head).counts.peek()), (0, 0));
    }
}

#[test]
fn a_large_block_is_made_of_pages_that_cpus_keep() {
    let frames = frames(0, 2048);
    let pages: Vec<_> = (0..2047).map(|_| frames.raw_kernel(Order::ZERO).unwrap()).collect();
    for page in pages {
        run_on(page.0 as u32 % CPUS as u32);
        frames.free_kernel(page, Order::ZERO);
    }
    run_on(0);
    let block = frames.raw_kernel(Order::MAX).unwrap();
    assert_eq!(frames.usage().kernel, NrPages(1024));
    frames.free_kernel(block, Order::MAX);
    assert_eq!(frames.validate(), Ok(()));
}

#[test]
fn a_refusal_leaves_nothing_behind() {
    let frames = frames(0, 256);
    frames.machine().admit_only(2);
    let page = frames.alloc_block(Order::ZERO, Kind::New).unwrap();
    let block = frames.alloc_block(Order::new(2), Kind::New).unwrap();
    assert_eq!(frames.alloc_block(Order::ZERO, Kind::New), Err(OutOfMemory));
    assert_eq!(frames.raw_kernel(Order::new(1)), Err(OutOfMemory));
    assert_eq!(frames.raw_table(), Err(OutOfMemory));
    assert_eq!((frames.usage().used(), frames.validate()), (NrPages(5), Ok(())));
    assert_eq!(frames.machine().asked.load(Relaxed), 5);
    frames.free_block(page, Order::ZERO);
    frames.free_block(block, Order::new(2));
    assert_eq!(frames.usage().used(), NrPages(0));
}

#[test]
fn a_table_is_zero_and_its_words_start_at_zero() {
    let frames = frames(16, 256);
    let table = frames.raw_table().unwrap();
    // SAFETY: the table is ours and nobody else's.
    let bytes = unsafe { frames.machine().direct_map(table).cast::<[u8; 4096]>().as_ref() };
    assert!(bytes.iter().all(|b| *b == 0));
    let lock = words(&frames, table).lock::<Ptl>();
    let guard = lock.lock();
    assert!(words(&frames, table).lock::<Ptl>().is_locked());
    words(&frames, table).used().set(3);
    drop(guard);
    words(&frames, table).link().store(9, Relaxed);
    frames.free_table(table);
    let table = frames.raw_table().unwrap();
    assert_eq!((words(&frames, table).used().get(), words(&frames, table).link().peek()), (0, 0));
    assert_eq!(frames.usage().tables, NrPages(1));
}

#[test]
#[should_panic(expected = "is no page table but Kernel")]
fn only_tables_have_a_tables_lock() {
    let frames = frames(0, 64);
    words(&frames, frames.raw_kernel(Order::ZERO).unwrap());
}

#[test]
#[should_panic(expected = "freed twice, or never allocated like that")]
fn freeing_twice_panics() {
    let frames = frames(0, 64);
    let page = frames.raw_kernel(Order::ZERO).unwrap();
    frames.free_kernel(page, Order::ZERO);
    frames.free_kernel(page, Order::ZERO);
}

#[test]
#[should_panic(expected = "which is Kernel of 2^2")]
fn freeing_part_of_a_block_panics() {
    let frames = frames(0, 64);
    let block = frames.raw_kernel(Order::new(2)).unwrap();
    frames.free_kernel(block, Order::new(1));
}

#[test]
#[should_panic(expected = "frame 0x3f is not managed")]
fn frames_of_nobody_panic() {
    frames(64, 64).meta(Pfn(63));
}

#[test]
fn a_machine_too_large_or_badly_aligned_is_refused() {
    let mut machine: M = TestMachine::new(0, 4);
    machine.nr = 1 << 32;
    let error = Frames::new(machine).unwrap_err();
    assert_eq!(error, FramesError::TooMany { frames: 1 << 32 });
    assert!(format!("{error}").contains("at most 4294967295"));
    let mut machine: M = TestMachine::new(0, 4);
    machine.memmap_skew = 32;
    let error = Frames::new(machine).unwrap_err();
    assert!(format!("{error}").contains("align it to 64 bytes"));
}

#[test]
fn a_machine_without_memory_has_none() {
    let machine: M = TestMachine::new(0, 0);
    assert_eq!(Frames::new(machine).unwrap_err(), FramesError::None);
    let frames = frames(9, 1);
    assert_eq!(frames.zero_page(), Pfn(9));
    assert_eq!(frames.raw_table(), Err(OutOfMemory));
    assert_eq!(frames.validate(), Ok(()));
}

#[test]
fn the_peak_stays() {
    let frames = frames(0, 4096);
    let pages: Vec<_> = (0..1000).map(|_| frames.alloc_block(Order::ZERO, Kind::New).unwrap()).collect();
    assert_eq!(frames.usage().peak, NrPages(1000));
    pages.into_iter().for_each(|page| frames.free_block(page, Order::ZERO));
    let peak = frames.usage().peak.0;
    assert!((1000 - 31..=1000).contains(&peak), "{peak}");
    let block = frames.alloc_block(Order::MAX, Kind::New).unwrap();
    frames.free_block(block, Order::MAX);
    assert_eq!(frames.usage().peak, NrPages(1024));
}

#[test]
fn for_each_frame_sees_each_block_once() {
    let frames = frames(8, 1016);
    let block = frames.alloc_block(Order::new(4), Kind::New).unwrap();
    let table = frames.raw_table().unwrap();
    let (mut seen, mut pages, mut next) = (Vec::new(), 0, 8);
    frames.for_each_frame(|pfn, kind, order| {
        next += u64::from(next == frames.zero_page().0);
        assert_eq!(pfn.0, next);
        next += order.pages();
        pages += order.pages();
        seen.push((pfn, kind));
    });
    assert_eq!(pages, 1015);
    assert!(seen.contains(&(block, Kind::New)) && seen.contains(&(table, Kind::Table)));
}

/// Each planted corruption must be found.
#[test]
fn validate_finds_what_was_planted() {
    let plant = |what: fn(&Frames<M>, Pfn), expected: &str| {
        let frames = frames(1, 1023);
        let page = frames.alloc_block(Order::ZERO, Kind::New).unwrap();
        let block = frames.alloc_block(Order::new(3), Kind::New).unwrap();
        assert_eq!(frames.validate(), Ok(()));
        what(&frames, page);
        let found = frames.validate().expect_err(expected);
        assert!(found.what.contains(expected), "found {found}, expected {expected}");
        frames.meta(block);
    };
    plant(|f, p| f.meta(p).flags.store(Kind::Table.bits(Order::ZERO), Relaxed), "folio pages is wrong");
    plant(|f, p| f.meta(p).flags.store(Kind::Pcp.bits(Order::ZERO), Relaxed), "every free page");
    plant(|f, p| f.meta(p).flags.store(Kind::Tail.bits(Order::ZERO), Relaxed), "no block starts");
    plant(|f, p| f.meta(p.offset(1)).flags.store(Kind::New.bits(Order::ZERO), Relaxed), "but not free");
    plant(|f, p| f.meta(p).flags.store(Kind::New.bits(Order::new(1)), Relaxed), "not a tail inside");
    plant(|f, p| f.meta(p).flags.store(15 << 28, Relaxed), "out of range");
    plant(|f, _| f.meta(Pfn(513)).flags.store(Kind::New.bits(Order::ZERO), Relaxed), "inside a free block");
    plant(|f, _| f.meta(Pfn(512)).set_links(0, 17), "backward link");
    plant(|f, _| f.meta(Pfn(512)).set_links(5000, 0), "longer than it says");
    plant(|f, _| f.meta(Pfn(512)).flags.store(Kind::Buddy.bits(Order::new(8)), Relaxed), "no block starts");
    plant(|f, _| f.used_large.add(crate::class::Class::Slab, 1), "slab pages is wrong");
}

fn churn(frames: &Frames<M>, seed: u64, steps: u64) -> Vec<(Pfn, Order, Kind)> {
    let (mut rng, mut held) = (Rng::new(seed), Vec::new());
    for _ in 0..steps {
        if rng.below(100) < 52 {
            let order = Order::new(if rng.below(4) == 0 { rng.below(7) as u8 } else { 0 });
            let kind = [Kind::New, Kind::Kernel, Kind::Table][rng.below(3) as usize];
            let order = if kind == Kind::Table { Order::ZERO } else { order };
            if let Ok(pfn) = frames.alloc_block(order, kind) {
                held.push((pfn, order, kind));
            }
        } else if !held.is_empty() {
            let (pfn, order, _) = held.swap_remove(rng.below(held.len() as u64) as usize);
            frames.free_block(pfn, order);
        }
    }
    held
}

fn check_usage(frames: &Frames<M>, held: &[(Pfn, Order, Kind)]) {
    let usage = frames.usage();
    let pages = |kind| NrPages(held.iter().filter(|h| h.2 == kind).map(|h| h.1.pages()).sum());
    assert_eq!(usage.folios, pages(Kind::New));
    assert_eq!(usage.kernel, pages(Kind::Kernel));
    assert_eq!(usage.tables, pages(Kind::Table));
    assert_eq!(frames.machine().owned(), usage.used().0 + 1, "the zero page and what is used");
    assert_eq!(frames.validate(), Ok(()));
}

#[test]
fn random_blocks_never_overlap_and_always_add_up() {
    for seed in 0..20 {
        let frames = frames(seed * 37, 1500);
        let mut held = Vec::new();
        for round in 0..10 {
            run_on(round as u32 % CPUS as u32);
            held.extend(churn(&frames, seed * 100 + round, 500));
            check_usage(&frames, &held);
        }
        run_on(0);
        held.drain(..).for_each(|(pfn, order, _)| frames.free_block(pfn, order));
        frames.drain_pcp();
        check_usage(&frames, &[]);
        let blocks = frames.with_buddy(|buddy| free_blocks(&frames.memmap, buddy));
        let mut free = [true; 1500];
        free[(frames.zero_page().0 - seed * 37) as usize] = false;
        assert_eq!(blocks, maximal_blocks(seed * 37, &free));
    }
}

#[test]
fn threads_on_all_cpus_never_get_the_same_frame() {
    let frames = frames(5, 3000);
    let held: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..CPUS as u32 + 2)
            .map(|i| {
                let frames = &frames;
                scope.spawn(move || {
                    // Two threads share a CPU: its lists' locks must hold.
                    run_on(i % CPUS as u32);
                    churn(frames, 1000 + u64::from(i), 20_000)
                })
            })
            .collect();
        threads.into_iter().flat_map(|t| t.join().unwrap()).collect()
    });
    check_usage(&frames, &held);
}

#[test]
fn words_of_metadata_are_called_what_they_are() {
    let frames = frames(16, 64);
    let table = frames.alloc_table().unwrap();
    let meta = frames.meta(table.pfn());
    let words = [
        core::ptr::from_ref(&meta.aux).addr(),
        core::ptr::from_ref(&meta.mapping).addr(),
        core::ptr::from_ref(&meta.private).addr(),
    ];
    let names = words.map(|at| format!("{}", frames.place_of(at).unwrap()));
    let pfn = table.pfn().0;
    assert_eq!(
        names,
        [format!("table#{pfn}.lock"), format!("table#{pfn}.next"), format!("table#{pfn}.used")]
    );
}

#[test]
fn a_part_of_a_block_goes_and_comes_back() {
    let frames = frames(0x100, 256);
    let base = frames.machine().base_pfn();
    let free = frames.usage().free;
    let range = base.offset(100)..base.offset(171);
    assert_eq!(frames.take_offline(range.clone(), OutFor::Owner), 71);
    assert_eq!((frames.usage().free.0, frames.usage().offline.0), (free.0 - 71, 71));
    frames.validate().unwrap();
    // What is out of use is not taken twice, and nobody gets it.
    assert_eq!(frames.take_offline(base.offset(90)..base.offset(171), OutFor::Owner), 10);
    let mut all = Vec::new();
    while let Ok(page) = frames.alloc(Order::ZERO) {
        assert!(!(base.offset(90)..range.end).contains(&page.pfn()));
        all.push(page);
    }
    // A part comes back, and is found.
    assert_eq!(frames.give_online(base.offset(95)..base.offset(105), OutFor::Owner), 10);
    let found = frames.alloc(Order::ZERO).unwrap().pfn();
    assert!((base.offset(95)..base.offset(105)).contains(&found));
    drop(all);
    assert_eq!(frames.give_online(base..base.offset(1000), OutFor::Owner), 71);
    assert_eq!((frames.usage().free, frames.usage().offline.0), (free, 0));
    frames.validate().unwrap();
}

#[test]
fn nobody_gives_back_what_another_one_has_taken() {
    let frames = frames(0x100, 256);
    let base = frames.machine().base_pfn();
    let free = frames.usage().free;
    let window = base.offset(64)..base.offset(128);
    assert_eq!(frames.take_offline(window.clone(), OutFor::Block), 64);
    // Half of the window is unplugged meanwhile, and a frame of that fails.
    let half = base.offset(96)..base.offset(160);
    assert_eq!(frames.take_offline(half.clone(), OutFor::Owner), 64, "half of them were free");
    assert_eq!(frames.take_offline(base.offset(100)..base.offset(101), OutFor::Good), 1);
    assert_eq!(frames.out_for(base.offset(64)), Some(OutFor::Block));
    // A weaker reason takes nothing away.
    assert_eq!(frames.take_offline(window.clone(), OutFor::Block), 0);
    assert_eq!(frames.give_online(window.clone(), OutFor::Block), 32);
    assert_eq!(frames.out_for(base.offset(64)), None);
    assert_eq!(frames.out_for(base.offset(96)), Some(OutFor::Owner));
    assert_eq!((frames.usage().free.0, frames.usage().offline.0), (free.0 - 64, 64));
    frames.validate().unwrap();
    assert_eq!(frames.give_online(half.clone(), OutFor::Owner), 63);
    assert_eq!(frames.give_online(half, OutFor::Good), 0);
    assert_eq!((frames.out_for(base.offset(100)), frames.usage().offline.0), (Some(OutFor::Good), 1));
    frames.validate().unwrap();
}

#[test]
fn an_array_belongs_to_its_frames() {
    let (ours, other) = (frames(16, 64), frames(16, 64));
    let array = crate::FrameArray::<M>::new();
    array.alloc(&ours, 3).unwrap();
    array.get(&ours, 2).store(7, Relaxed);
    let panics = |f: &dyn Fn()| std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)).is_err();
    assert!(panics(&|| _ = array.get(&other, 2)), "words of another machine");
    // SAFETY: nobody has a word of it.
    assert!(panics(&|| unsafe { array.free(&other) }), "frames of another machine");
    // Frames may be moved: what counts is the machine.
    let moved = std::boxed::Box::new(ours);
    assert_eq!(array.get(&moved, 2).load(Relaxed), 7);
    // SAFETY: nobody has a word of it.
    unsafe { array.free(&moved) };
    moved.validate().unwrap();
}

#[test]
fn an_array_is_filled_once() {
    let frames = frames(16, 64);
    let array = crate::FrameArray::<M>::new();
    let panics = |f: &dyn Fn()| std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)).is_err();
    frames.machine().admit_only(2);
    assert!(array.alloc(&frames, 3).is_err(), "two frames are not three");
    frames.machine().admit_only(-1);
    array.alloc(&frames, 3).unwrap();
    assert!(panics(&|| _ = array.alloc(&frames, 3)), "filled a second time");
    // SAFETY: nobody has a word of it.
    unsafe { array.free(&frames) };
    array.alloc(&frames, 1).unwrap();
    // SAFETY: as above.
    unsafe { array.free(&frames) };
    frames.validate().unwrap();
}

#[test]
fn only_a_new_page_is_read_from_a_device() {
    let frames = frames(16, 64);
    let slots = crate::SwapSlots::<M>::new(0);
    slots.alloc(&frames, 4).unwrap();
    let panics = |f: &dyn Fn()| std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)).is_err();
    let page = frames.alloc(Order::ZERO).unwrap().into_shm(crate::RawHandle::new(1).unwrap(), 0);
    let first = anonmem_hal::SwapEntry { device: 0, offset: 0 };
    let lock = page.lock();
    assert!(panics(&|| _ = slots.read(first, &lock)), "a page of an object");
    drop(lock);
    drop(page);
    let page = frames.alloc(Order::ZERO).unwrap().into_reference();
    let lock = page.lock();
    assert!(
        panics(&|| _ = slots.read(anonmem_hal::SwapEntry { device: 1, ..first }, &lock)),
        "another device"
    );
    // The machine of these tests has no devices.
    assert_eq!(slots.read(first, &lock), Err(anonmem_hal::IoError));
    drop(lock);
    drop(page);
    // SAFETY: no slot is in use.
    unsafe { slots.free(&frames) };
    frames.validate().unwrap();
}

#[test]
fn no_frames_are_those_after_the_last() {
    let frames = frames(16, 32);
    assert!(frames.metas(Pfn(48), 0).is_empty());
    assert_eq!(frames.metas(Pfn(47), 1).len(), 1);
}

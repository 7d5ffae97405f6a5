//! Slabs: stable types, checked names, no slot twice.

use crate::{
    Frames, Handle, Kind, OutOfMemory, RawHandle, Slab, SlabItem,
    testing::{CPUS, Rng, TestMachine, run_on},
};
use anonmem_hal::{NrPages, Order};
use anonmem_sync::{Atomic, Ordering::Relaxed};
use std::{collections::HashSet, thread, vec::Vec};

type M = TestMachine;

/// 24 bytes with the link: more fit in a frame than a name has room for.
struct Small(Atomic<u64, M>);
/// One to a frame.
struct Big([u8; 3000]);

impl SlabItem<M> for Small {
    type Tag = Self;
    const NAME: &'static str = "small thing";
    fn new() -> Self {
        Self(Atomic::new(7))
    }
}

impl SlabItem<M> for Big {
    type Tag = Self;
    const NAME: &'static str = "big thing";
    fn new() -> Self {
        Self([0x5a; 3000])
    }
}

fn frames(nr: u64) -> Frames<M> {
    Frames::new(TestMachine::new(100, nr)).unwrap()
}

#[test]
fn the_slot_freed_last_is_reused_first_and_keeps_its_object() {
    let frames = frames(64);
    let slab = Slab::<M, Small>::new(&frames);
    let (a, b) = (slab.alloc(&frames).unwrap(), slab.alloc(&frames).unwrap());
    assert_eq!(slab.get(&frames, a).0.load(Relaxed), 7, "made by `new`");
    slab.get(&frames, a).0.store(8, Relaxed);
    slab.free(&frames, b);
    slab.free(&frames, a);
    assert!(!slab.is_live(&frames, a));
    assert_eq!(slab.get(&frames, a).0.load(Relaxed), 8, "readable by its old name");
    let again = slab.alloc(&frames).unwrap();
    assert_eq!((again, slab.get(&frames, again).0.load(Relaxed)), (a, 8));
    assert_eq!(slab.validate(&frames), Ok(()));
}

#[test]
#[should_panic(expected = "is freed twice")]
fn freeing_twice_panics() {
    let frames = frames(64);
    let slab = Slab::<M, Small>::new(&frames);
    let h = slab.alloc(&frames).unwrap();
    slab.free(&frames, h);
    slab.free(&frames, h);
}

#[test]
#[should_panic(expected = "names no small thing")]
fn a_handle_of_another_slab_of_the_same_type_panics() {
    let frames = frames(64);
    let (a, b) = (Slab::<M, Small>::new(&frames), Slab::<M, Small>::new(&frames));
    let h = a.alloc(&frames).unwrap();
    b.get(&frames, h);
}

#[test]
#[should_panic(expected = "names no big thing")]
fn a_handle_from_other_frames_panics_even_if_the_ids_agree() {
    let (mine, theirs) = (frames(64), frames(64));
    let small = Slab::<M, Small>::new(&mine);
    let big = Slab::<M, Big>::new(&theirs);
    let h = small.alloc(&mine).unwrap();
    big.get(&mine, Handle::from_raw(h.raw()));
}

#[test]
fn a_name_resolves_only_where_a_slot_is() {
    let frames = frames(128);
    let (small, big) = (Slab::<M, Small>::new(&frames), Slab::<M, Big>::new(&frames));
    let (s, b) = (small.alloc(&frames).unwrap(), big.alloc(&frames).unwrap());
    assert_eq!(small.resolve(&frames, s.raw()), Some(s));
    assert_eq!(small.resolve(&frames, b.raw()), None);
    let names = (1..=u32::MAX).step_by(7).chain(1..70_000).filter_map(RawHandle::new);
    let mut own = HashSet::new();
    for name in names {
        if small.resolve(&frames, name).is_some() {
            own.insert(name);
        }
    }
    assert_eq!(own.len(), 62, "one frame's slots, each once");
    assert_eq!(big.get(&frames, b).0[2999], 0x5a);
}

#[test]
fn for_each_live_sees_what_is_live() {
    let frames = frames(64);
    let slab = Slab::<M, Small>::new(&frames);
    let all: Vec<_> = (0..500).map(|_| slab.alloc(&frames).unwrap()).collect();
    all.iter().skip(1).step_by(2).for_each(|&h| slab.free(&frames, h));
    let mut held: Vec<_> = all.into_iter().step_by(2).collect();
    held.iter().for_each(|&h| slab.get(&frames, h).0.store(u64::from(h.raw().get()), Relaxed));
    let mut seen = Vec::new();
    slab.for_each_live(&frames, |h, item| {
        assert_eq!(item.0.load(Relaxed), u64::from(h.raw().get()));
        seen.push(h);
    });
    seen.sort_unstable();
    held.sort_unstable();
    assert_eq!(seen, held);
    assert_eq!((slab.live(), slab.peak(), slab.frames()), (250, 500 - 500 % 16, 500_u64.div_ceil(62)));
    assert_eq!(frames.usage().slabs, NrPages(slab.frames()));
    assert_eq!((slab.validate(&frames), frames.validate()), (Ok(()), Ok(())));
}

#[test]
fn a_refusal_leaves_nothing_behind() {
    let frames = frames(64);
    let slab = Slab::<M, Small>::new(&frames);
    frames.machine().admit_only(0);
    assert_eq!(slab.alloc(&frames), Err(OutOfMemory));
    assert_eq!((slab.live(), slab.frames(), frames.usage().used()), (0, 0, NrPages(0)));
    frames.machine().admit_only(1);
    assert!(slab.alloc(&frames).is_ok(), "one question per slot, also when a frame is taken");
    assert_eq!(slab.alloc(&frames), Err(OutOfMemory));
    assert_eq!((slab.live(), slab.validate(&frames)), (1, Ok(())));
}

#[test]
fn slots_that_other_cpus_keep_are_found_before_giving_up() {
    let frames = frames(64);
    let slab = Slab::<M, Small>::new(&frames);
    let held: Vec<_> = core::iter::from_fn(|| slab.alloc(&frames).ok()).collect();
    assert_eq!(held.len() as u64, slab.frames() * 62);
    for (i, h) in held.iter().take(40).enumerate() {
        run_on(i as u32 % CPUS as u32);
        slab.free(&frames, *h);
    }
    run_on(0);
    assert_eq!(core::iter::from_fn(|| slab.alloc(&frames).ok()).count(), 40);
    assert_eq!(slab.alloc(&frames), Err(OutOfMemory));
    assert!(frames.alloc_block(Order::ZERO, Kind::New).is_err());
    assert_eq!((slab.validate(&frames), frames.validate()), (Ok(()), Ok(())));
}

#[test]
fn validate_finds_a_lost_and_a_doubled_slot() {
    let frames = frames(64);
    let slab = Slab::<M, Small>::new(&frames);
    let h = slab.alloc(&frames).unwrap();
    slab.plant_state(&frames, h, 0);
    assert!(slab.validate(&frames).is_err(), "a live slot that says it is free");
    slab.plant_state(&frames, h, u32::MAX);
    assert_eq!(slab.validate(&frames), Ok(()));
    slab.free(&frames, h);
    slab.plant_state(&frames, h, h.raw().get());
    assert!(slab.validate(&frames).is_err(), "a list that runs in a circle");
}

#[test]
fn threads_never_get_the_same_slot() {
    let frames = frames(600);
    let slab = Slab::<M, Small>::new(&frames);
    let held: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..CPUS as u32 + 2)
            .map(|i| {
                let (frames, slab) = (&frames, &slab);
                scope.spawn(move || {
                    run_on(i % CPUS as u32);
                    let (mut rng, mut held) = (Rng::new(u64::from(i)), Vec::<Handle<Small>>::new());
                    for step in 0..30_000 {
                        if rng.below(100) < 51 {
                            let h = slab.alloc(frames).unwrap();
                            slab.get(frames, h).0.store(u64::from(i) << 32 | step, Relaxed);
                            held.push(h);
                        } else if !held.is_empty() {
                            let h = held.swap_remove(rng.below(held.len() as u64) as usize);
                            assert_eq!(slab.get(frames, h).0.load(Relaxed) >> 32, u64::from(i));
                            slab.free(frames, h);
                        }
                    }
                    held
                })
            })
            .collect();
        threads.into_iter().flat_map(|t| t.join().unwrap()).collect()
    });
    assert_eq!(held.iter().map(|h| h.raw()).collect::<HashSet<_>>().len(), held.len());
    assert_eq!((slab.live(), slab.validate(&frames)), (held.len() as u64, Ok(())));
    held.into_iter().for_each(|h| slab.free(&frames, h));
    assert_eq!((slab.live(), slab.validate(&frames), frames.validate()), (0, Ok(()), Ok(())));
}

//! The model against a few things that everybody knows.

use super::*;
use crate::ops::{Advise, At, Backing, Place, Remap, Rights, Signal, errno, pattern};

const P: u64 = 4096;
const LIMITS: Limits = Limits {
    user_end: 1 << 40,
    min_addr: 1 << 16,
    heap_start: 1 << 24,
    stack: 8 << 20,
    swap: false,
    folios: false,
    is_host: false,
};

struct Run(Oracle);

impl Run {
    fn new() -> Self {
        let mut oracle = Oracle::new(vec![7; 2 * P as usize + 1], LIMITS);
        oracle.judge(&Op::Spawn(0), &Outcome::Done, None).unwrap();
        Self(oracle)
    }

    #[track_caller]
    fn ok(&mut self, op: Op, outcome: Outcome) -> &mut Self {
        let end = self.0.spaces[op.space()].as_ref().and_then(|s| {
            let areas = s.areas();
            let Op::Mremap(at, ..) = op else { return None };
            areas.iter().find(|a| a.start <= at.addr && at.addr < a.end).map(|a| a.end)
        });
        self.0.judge(&op, &outcome, end).unwrap();
        self
    }

    #[track_caller]
    fn no(&mut self, op: Op, outcome: Outcome) -> &mut Self {
        assert!(self.0.judge(&op, &outcome, None).is_err(), "{op:?} cannot come to {outcome:?}");
        self
    }

    #[track_caller]
    fn map(&mut self, addr: u64, pages: u64, rights: Rights, backing: Backing) -> &mut Self {
        let op = Op::Mmap(at(0, 0, pages), Place::Fixed(addr), rights, backing);
        self.ok(op, Outcome::Address(addr))
    }
}

fn at(space: usize, addr: u64, pages: u64) -> At {
    At::pages(space, addr, pages)
}

const A: u64 = 0x10_0000;

#[test]
fn a_child_keeps_what_the_parent_overwrites() {
    let (old, new) = (pattern(1, P as usize), pattern(2, P as usize));
    let mut run = Run::new();
    run.map(A, 1, Rights::RW, Backing::Private)
        .ok(Op::Write(at(0, A, 1), 1), Outcome::Done)
        .ok(Op::Fork { parent: 0, child: 1 }, Outcome::Done)
        .ok(Op::Write(at(0, A, 1), 2), Outcome::Done)
        .ok(Op::Read(at(1, A, 1)), Outcome::Bytes(old.clone()))
        .no(Op::Read(at(0, A, 1)), Outcome::Bytes(old))
        .ok(Op::Read(at(0, A, 1)), Outcome::Bytes(new));
}

#[test]
fn shared_memory_is_one_and_private_sources_are_not() {
    let two = pattern(2, P as usize);
    let mut run = Run::new();
    run.map(A, 1, Rights::RW, Backing::Shared)
        .map(A + P, 3, Rights::RW, Backing::Source(0))
        .ok(Op::Fork { parent: 0, child: 1 }, Outcome::Done)
        .ok(Op::Write(at(1, A, 2), 2), Outcome::Done)
        .ok(Op::Read(at(0, A, 1)), Outcome::Bytes(two))
        .ok(Op::Read(at(0, A + P, 1)), Outcome::Bytes(vec![7; P as usize]))
        .ok(Op::Read(at(0, A + 4 * P, 1)), Outcome::Signal(Signal::Unmapped, 0))
        .map(A + 4 * P, 1, Rights::R, Backing::Source(3))
        .ok(Op::Read(at(0, A + 3 * P, 2)), Outcome::Signal(Signal::Bus, P as usize));
}

#[test]
fn a_freed_page_is_old_or_zero_until_it_is_written() {
    let (old, zero) = (pattern(1, P as usize), vec![0; P as usize]);
    let mut run = Run::new();
    run.map(A, 1, Rights::RW, Backing::Private)
        .ok(Op::Write(at(0, A, 1), 1), Outcome::Done)
        .ok(Op::Madvise(at(0, A, 1), Advise::Free), Outcome::Done)
        .ok(Op::Read(at(0, A, 1)), Outcome::Bytes(old.clone()))
        .ok(Op::Read(at(0, A, 1)), Outcome::Bytes(zero))
        .no(Op::Read(at(0, A, 1)), Outcome::Bytes(old));
}

#[test]
fn areas_are_what_the_pages_have_in_common() {
    let mut run = Run::new();
    run.map(A, 4, Rights::RW, Backing::Private)
        .ok(Op::Mprotect(at(0, A + P, 1), Rights::R), Outcome::Done)
        .ok(Op::Mprotect(at(0, A + 3 * P, 2), Rights::R), Outcome::Errno(errno::ENOMEM));
    let areas = run.0.space(0).unwrap().areas();
    let sizes: Vec<_> = areas.iter().map(|a| ((a.end - a.start) / P, a.attrs.rights)).collect();
    assert_eq!(sizes, [(1, Rights::RW), (1, Rights::R), (1, Rights::RW), (1, Rights::R)]);
}

#[test]
fn mremap_moves_bytes_and_keeps_or_drops_the_old_place() {
    let bytes = pattern(1, P as usize);
    let mut run = Run::new();
    run.map(A, 2, Rights::RW, Backing::Private)
        .ok(Op::Write(at(0, A, 1), 1), Outcome::Done)
        .ok(Op::Mremap(at(0, A, 2), 2 * P, Remap::DontUnmap), Outcome::Address(A + 8 * P))
        .ok(Op::Read(at(0, A, 1)), Outcome::Bytes(vec![0; P as usize]))
        .ok(Op::Read(at(0, A + 8 * P, 1)), Outcome::Bytes(bytes.clone()))
        .ok(Op::Mremap(at(0, A + 8 * P, 2), 4 * P, Remap::Fixed(A + 16 * P)), Outcome::Address(A + 16 * P))
        .ok(Op::Read(at(0, A + 8 * P, 1)), Outcome::Signal(Signal::Unmapped, 0))
        .ok(Op::Read(at(0, A + 16 * P, 1)), Outcome::Bytes(bytes))
        .ok(Op::Mremap(at(0, A + 16 * P, 4), 5 * P, Remap::InPlace), Outcome::Address(A + 16 * P))
        .ok(Op::Mremap(at(0, A + 16 * P, 4), 5 * P, Remap::InPlace), Outcome::Errno(errno::ENOMEM))
        .ok(Op::Mremap(at(0, A + 16 * P, 5), P, Remap::InPlace), Outcome::Address(A + 16 * P));
}

#[test]
fn a_stack_grows_down_but_not_close_to_others() {
    let mut run = Run::new();
    run.map(A + 1024 * P, 1, Rights::RW, Backing::Stack)
        .ok(Op::Write(at(0, A + 1000 * P, 1), 1), Outcome::Done)
        .map(A + 500 * P, 1, Rights::R, Backing::Private)
        .ok(Op::Write(at(0, A + 756 * P, 1), 1), Outcome::Signal(Signal::Unmapped, 0))
        .ok(Op::Write(at(0, A + 757 * P, 1), 1), Outcome::Done);
    assert_eq!(run.0.space(0).unwrap().pages.len(), 268 + 1);
}

#[test]
fn a_lock_that_ran_out_of_memory_may_have_faulted_in_any_number_of_pages() {
    let mut run = Run::new();
    run.map(A, 3, Rights::RW, Backing::Private).ok(Op::Write(at(0, A + P, 1), 1), Outcome::Done);
    let (mlock, mincore) = (Op::Mlock(at(0, A, 3)), Op::Mincore(at(0, A, 3)));
    let states = run.0.after_failure(&mlock, &Outcome::Errno(errno::EAGAIN));
    assert_eq!(states.len(), 4, "none, one, two or three pages are locked");
    for state in states {
        for (first, last) in [(false, false), (true, false), (true, true)] {
            let told = Outcome::Resident(vec![first, true, last]);
            state.clone().judge(&mincore, &told, None).unwrap();
        }
        let lost = Outcome::Resident(vec![true, false, true]);
        state.clone().judge(&mincore, &lost, None).unwrap_err();
    }
}

#[test]
fn a_move_that_cuts_off_a_tail_elsewhere_is_no_error() {
    let shrink = Op::Mremap(at(0, A, 4), P, Remap::Fixed(A + 0x10 * P));
    let stay = Op::Mremap(at(0, A, 4), 4 * P, Remap::MayMove);
    for op in [shrink, stay] {
        let mut run = Run::new();
        run.map(A, 2, Rights::RW, Backing::Private).map(A + 2 * P, 2, Rights::R, Backing::Private);
        let verdict = run.0.judge(&op, &Outcome::Errno(errno::EFAULT), Some(A + 2 * P));
        assert!(verdict.is_err(), "{op:?} cannot be refused because of its tail");
    }
}

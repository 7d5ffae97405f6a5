//! Split and merge, through the operations that cause them, on layouts written as text.
//!
//! One character is one page: `.` is a hole, `R` may be read, `W` written. In lower case every page was
//! written to, so that its VMA has an anon_vma. What came of it is text too: one letter per VMA, in order.

mod stress;

use super::VmFlags;
use crate::{
    Error, Event, MapBacking, MapFlags, MmapRequest, Prot, ReverseMapChoice,
    mm::Mm,
    testing::{M, RW as RW_FLAGS, World, chosen, pages},
    vma::Backing,
};
use anonmem_hal::{Va, VaRange};
use anonmem_hosted::{FailurePlan, Trap};
use std::{format, ops::Range, string::String, vec::Vec};

const RW: Prot = Prot::READ.union(Prot::WRITE);
/// Page number of the first character: the layouts straddle two page tables.
const FIRST: u64 = 512 * 3 - 2;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Op {
    Unmap,
    Protect(Prot),
    Map(Prot),
}

const OPS: [Op; 5] = [Op::Unmap, Op::Protect(Prot::READ), Op::Protect(RW), Op::Map(Prot::READ), Op::Map(RW)];

/// In which order a layout comes about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Build {
    /// Everything is mapped, then written to.
    MapAll,
    /// Every page is mapped and written to before the next one is mapped.
    PageByPage,
}

fn range_of(part: &Range<usize>) -> VaRange {
    pages(FIRST + part.start as u64, (part.end - part.start) as u64)
}

fn byte_of(page: usize) -> u8 {
    page as u8 + 1
}

fn map(mm: &Mm<'_, M>, range: VaRange, prot: Prot) -> Result<(), Error> {
    let (flags, backing) = (MapFlags::FIXED, MapBacking::Anonymous);
    mm.mmap(MmapRequest { addr: range.start, len: range.len(), prot, flags, backing }).map(|_| ())
}

fn apply(mm: &Mm<'_, M>, op: Op, part: &Range<usize>) -> Result<(), Error> {
    match op {
        Op::Unmap => mm.munmap(range_of(part)),
        Op::Protect(prot) => mm.mprotect(range_of(part), prot),
        Op::Map(prot) => map(mm, range_of(part), prot),
    }
}

fn build<'v>(world: &'v World, layout: &str, how: Build) -> Mm<'v, M> {
    let mm = world.vm.new_mm().unwrap();
    let one = |i: usize| i..i + 1;
    let write = |i: usize, c: char| {
        if c.is_lowercase() {
            mm.store(range_of(&one(i)).start.0, byte_of(i)).unwrap();
        }
    };
    for (i, c) in layout.chars().enumerate().filter(|&(_, c)| c != '.') {
        map(&mm, range_of(&one(i)), if c == 'R' { Prot::READ } else { RW }).unwrap();
        if how == Build::PageByPage {
            write(i, c);
        }
    }
    if how == Build::MapAll {
        layout.chars().enumerate().for_each(|(i, c)| write(i, c));
    }
    for (i, _) in layout.chars().enumerate().filter(|&(_, c)| c == 'r') {
        mm.mprotect(range_of(&one(i)), Prot::READ).unwrap();
    }
    mm
}

/// One letter per VMA.
fn picture(mm: &Mm<'_, M>, len: usize) -> String {
    let vmas = mm.layout();
    let letter = |i: usize| {
        let va = range_of(&(i..i + 1)).start;
        let found = vmas.iter().position(|(range, _)| range.contains(va));
        found.map_or('.', |vma| (b'A' + vma as u8) as char)
    };
    (0..len).map(letter).collect()
}

/// What a program finds in a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Page {
    Hole,
    Has { byte: u8, writable: bool },
}

fn expected(layout: &str) -> Vec<Page> {
    let page = |(i, c): (usize, char)| match c {
        '.' => Page::Hole,
        _ => Page::Has {
            byte: if c.is_lowercase() { byte_of(i) } else { 0 },
            writable: c.eq_ignore_ascii_case(&'w'),
        },
    };
    layout.chars().enumerate().map(page).collect()
}

/// Applies the operation to the model: page by page, up to the first hole for mprotect.
fn apply_to_model(model: &mut [Page], op: Op, part: &Range<usize>) -> Result<(), Error> {
    for page in &mut model[part.clone()] {
        *page = match (op, *page) {
            (Op::Unmap, _) => Page::Hole,
            (Op::Map(prot), _) => Page::Has { byte: 0, writable: prot.contains(Prot::WRITE) },
            (Op::Protect(_), Page::Hole) => return Err(Error::NotMapped),
            (Op::Protect(prot), Page::Has { byte, .. }) => {
                Page::Has { byte, writable: prot.contains(Prot::WRITE) }
            }
        }
    }
    Ok(())
}

type User<'a> = anonmem_hosted::UserCpu<
    'a,
    anonmem_hosted::Checked,
    anonmem_hal::arch::X86_64,
    crate::testing::Space<'a>,
>;

/// What the program finds through its TLB. Writes what it read.
fn seen(user: &User<'_>, len: usize) -> Vec<Page> {
    let look = |i: usize| {
        let (va, mut byte) = (range_of(&(i..i + 1)).start, [0]);
        match user.load(va, &mut byte) {
            Err(Trap::Unmapped) => return Page::Hole,
            other => other.unwrap(),
        }
        match user.store(va, &byte) {
            Ok(()) => Page::Has { byte: byte[0], writable: true },
            Err(Trap::Denied) => Page::Has { byte: byte[0], writable: false },
            Err(other) => panic!("a store that took {other:?}"),
        }
    };
    (0..len).map(look).collect()
}

/// Checks that neighbours that could be one are.
fn assert_merged(mm: &Mm<'_, M>, at: Va, what: &str) {
    let before = mm.vm.stats().event(Event::VmaMerge);
    mm.write().rejoin(at);
    assert_eq!(mm.vm.stats().event(Event::VmaMerge), before, "{what}: not merged at {at:?}");
}

/// Applies `op`, and checks every page, the counts and that all is merged that can be.
fn check(mm: &Mm<'_, M>, layout: &str, op: Op, part: &Range<usize>, what: &str) {
    let (user, mut model) = (mm.user(), expected(layout));
    // The program's TLB knows all pages as they were.
    assert_eq!(seen(&user, layout.len()), model, "{what}: before");
    assert_eq!(apply(mm, op, part), apply_to_model(&mut model, op, part), "{what}");
    mm.vm.validate().unwrap_or_else(|e| panic!("{what}: {e}"));
    assert_merged(mm, range_of(part).start, what);
    assert_merged(mm, range_of(part).end, what);
    assert_eq!(seen(&user, layout.len()), model, "{what}: after");
    mm.vm.validate().unwrap_or_else(|e| panic!("{what}, written to: {e}"));
}

/// All layouts of `len` of the characters `of`.
fn layouts(of: &str, len: u32) -> impl Iterator<Item = String> {
    let of: Vec<char> = of.chars().collect();
    let n = of.len();
    (0..n.pow(len)).map(move |code| (0..len).map(|i| of[code / n.pow(i) % n]).collect())
}

fn parts(len: usize) -> impl Iterator<Item = Range<usize>> {
    (0..len).flat_map(move |start| (start + 1..=len).map(move |end| start..end))
}

fn tiny(f: impl FnOnce(&World)) {
    World::run(f);
}

#[test]
fn every_operation_on_every_layout_of_four_pages_does_what_it_says() {
    for how in [Build::MapAll, Build::PageByPage] {
        tiny(|world| {
            for layout in layouts(".RWw", 4) {
                for (op, part) in OPS.iter().flat_map(|&op| parts(4).map(move |part| (op, part))) {
                    let what = format!("{layout} {how:?} {op:?} {part:?}");
                    check(&build(world, &layout, how), &layout, op, &part, &what);
                }
            }
        });
    }
}

#[test]
fn every_operation_of_a_child_on_every_layout_of_three_pages_leaves_the_parent_alone() {
    tiny(|world| {
        for layout in layouts(".RWrw", 3) {
            for (op, part) in OPS.iter().flat_map(|&op| parts(3).map(move |part| (op, part))) {
                let what = format!("child of {layout} {op:?} {part:?}");
                let parent = build(world, &layout, Build::MapAll);
                let child = parent.fork().unwrap();
                check(&child, &layout, op, &part, &what);
                assert_eq!(seen(&parent.user(), 3), expected(&layout), "{what}: the parent");
            }
        }
    });
}

/// The cases by name: what is there, what is done to which pages, and which VMAs there are then.
const CASES: &[(&str, Op, Range<usize>, &str)] = &[
    // Unmapping.
    ("WWWWWW", Op::Unmap, 2..4, "AA..BB"),
    ("WWWWWW", Op::Unmap, 0..2, "..AAAA"),
    ("WWWWWW", Op::Unmap, 4..6, "AAAA.."),
    ("WWRRWW", Op::Unmap, 1..5, "A....B"),
    ("WW..WW", Op::Unmap, 2..4, "AA..BB"),
    // A new mapping: between two of its kind, behind one, before one, between others, over all.
    ("WW..WW", Op::Map(RW), 2..4, "AAAAAA"),
    ("WW....", Op::Map(RW), 2..4, "AAAA.."),
    ("....WW", Op::Map(RW), 2..4, "..AAAA"),
    ("RR..RR", Op::Map(RW), 2..4, "AABBCC"),
    ("WW..RR", Op::Map(RW), 2..4, "AAAABB"),
    ("RRRRRR", Op::Map(RW), 2..4, "AABBCC"),
    ("..RRRR", Op::Map(RW), 0..4, "AAAABB"),
    ("RRRR..", Op::Map(RW), 2..6, "AABBBB"),
    ("WWWWWW", Op::Map(RW), 2..4, "AAAAAA"),
    ("RWRWRW", Op::Map(RW), 0..6, "AAAAAA"),
    // Neighbours that were written to: one anon_vma for all, unless both have their own.
    ("ww..WW", Op::Map(RW), 2..4, "AAAAAA"),
    ("WW..ww", Op::Map(RW), 2..4, "AAAAAA"),
    ("ww..ww", Op::Map(RW), 2..4, "AAAABB"),
    // The eight cases of changing what is there.
    ("WWRRWW", Op::Protect(RW), 2..4, "AAAAAA"),
    ("WWRR..", Op::Protect(RW), 2..4, "AAAA.."),
    ("..RRWW", Op::Protect(RW), 2..4, "..AAAA"),
    ("WWRRRR", Op::Protect(RW), 2..4, "AAAABB"),
    ("RRRRWW", Op::Protect(RW), 2..4, "AABBBB"),
    ("RRRRRR", Op::Protect(RW), 2..4, "AABBCC"),
    ("RRRR..", Op::Protect(RW), 2..4, "AABB.."),
    ("..RRRR", Op::Protect(RW), 2..4, "..AABB"),
    ("wwRRww", Op::Protect(RW), 2..4, "AAAABB"),
    ("wwwwww", Op::Protect(Prot::READ), 2..4, "AABBCC"),
    ("wwrrww", Op::Protect(RW), 2..4, "AAAAAA"),
    // Over several.
    ("WRWRWR", Op::Protect(Prot::READ), 0..6, "AAAAAA"),
    ("WRWRWR", Op::Protect(Prot::READ), 1..5, "ABBBBB"),
];

/// What mappings become that two anon_vmas keep apart, and a family does not.
fn as_one(layout: &str, op: &Op) -> Option<&'static str> {
    let apart = [("ww..ww", Op::Map(RW)), ("wwRRww", Op::Protect(RW))];
    apart.contains(&(layout, *op)).then_some("AAAAAA")
}

#[test]
fn layouts_become_what_the_table_says() {
    tiny(|world| {
        for (layout, op, part, expected) in CASES {
            let mm = build(world, layout, Build::MapAll);
            assert_eq!(apply(&mm, *op, part), Ok(()));
            let expected = match chosen() {
                ReverseMapChoice::AnonVmas => *expected,
                ReverseMapChoice::Families => as_one(layout, op).unwrap_or(expected),
            };
            assert_eq!(picture(&mm, layout.len()), expected, "{layout} {op:?} {part:?}");
            world.vm.validate().unwrap();
        }
    });
}

#[test]
fn what_came_by_fork_and_has_pages_merges_with_nothing_new() {
    tiny(|world| {
        let parent = build(world, "ww..", Build::MapAll);
        let child = parent.fork().unwrap();
        // A family keeps nothing apart.
        let of_child = if chosen() == ReverseMapChoice::AnonVmas { "AABB" } else { "AAAA" };
        for (mm, expected) in [(&parent, "AAAA"), (&child, of_child)] {
            map(mm, range_of(&(2..4)), RW).unwrap();
            assert_eq!(picture(mm, 4), expected);
        }
    });
}

#[test]
fn an_operation_that_fails_has_changed_nothing() {
    tiny(|world| {
        let mut failures = 0;
        for how in [Build::MapAll, Build::PageByPage] {
            for (layout, op, part, _) in CASES {
                let several = matches!(op, Op::Protect(_)) && layout.starts_with("WRWR");
                failures += world.fail_each_allocation(
                    || build(world, layout, how),
                    |mm| apply(mm, *op, part),
                    |mm, error| {
                        let what = format!("{layout} {op:?} {part:?}");
                        assert_eq!(error, Error::OutOfMemory, "{what}");
                        world.vm.validate().unwrap_or_else(|e| panic!("{what}: {e}"));
                        if !several {
                            let before = picture(&build(world, layout, how), layout.len());
                            assert_eq!(picture(mm, layout.len()), before, "{what}");
                            assert_eq!(seen(&mm.user(), layout.len()), expected(layout), "{what}");
                        }
                    },
                );
            }
        }
        assert!(failures > 50, "only {failures} allocations failed");
    });
}

#[test]
fn a_merge_without_memory_is_left_out() {
    tiny(|world| {
        let mm = build(world, "WW..ww", Build::MapAll);
        // The first of the three has no anon_vma and would have to be linked to that of the last. A family
        // needs no memory for that.
        let expected_layout = if chosen() == ReverseMapChoice::AnonVmas { "AAAABB" } else { "AAAAAA" };
        world.failures.set(FailurePlan::From(1));
        map(&mm, range_of(&(2..4)), RW).unwrap();
        world.failures.set(FailurePlan::Off);
        assert_eq!(picture(&mm, 6), expected_layout);
        assert_eq!(seen(&mm.user(), 6), expected("WWWWww"));
    });
}

#[test]
fn attributes_of_neighbours_that_differ_keep_them_apart() {
    tiny(|world| {
        let mm = build(world, "WWWW", Build::MapAll);
        let guard = mm.write();
        guard.modify_range(range_of(&(1..2)), |vma| Ok(vma.flags() | VmFlags::LOCKED)).unwrap();
        guard.modify_range(range_of(&(2..3)), |vma| Ok(vma.flags() | VmFlags::LOCKED)).unwrap();
        drop(guard);
        assert_eq!(picture(&mm, 4), "ABBC");
        assert_eq!(mm.counters().locked.0, 2);
        let guard = mm.write();
        let unlock = |range| guard.modify_range(range, |vma| Ok(vma.flags().difference(VmFlags::LOCKED)));
        assert_eq!(unlock(range_of(&(0..5))), Err(Error::NotMapped));
        drop(guard);
        assert_eq!((picture(&mm, 4).as_str(), mm.counters().locked.0), ("AAAA", 0));
    });
}

#[test]
fn the_number_of_mappings_is_limited_as_in_linux() {
    let config = crate::Config { max_map_count: 3, ..crate::Config::default() };
    World::run_with(config, |world| {
        let mm = build(world, "RWR", Build::MapAll);
        // Linux refuses one later: when there are more than the limit already.
        assert_eq!(map(&mm, range_of(&(4..9)), RW), Ok(()));
        assert_eq!(map(&mm, range_of(&(10..11)), RW), Err(Error::MAX_MAP_COUNT));
        assert_eq!(apply(&mm, Op::Unmap, &(5..6)), Err(Error::MAX_MAP_COUNT), "a hole makes one more");
        assert_eq!(apply(&mm, Op::Protect(Prot::READ), &(5..6)), Err(Error::MAX_MAP_COUNT));
        assert_eq!(picture(&mm, 12), "ABC.DDDDD...");
        assert_eq!(apply(&mm, Op::Unmap, &(4..5)), Ok(()), "an edge does not");
        assert_eq!(apply(&mm, Op::Unmap, &(0..9)), Ok(()));
        assert_eq!(mm.counters().vmas, 0);
    });
}

/// 2^31 write sections later, a sequence of 32 bits says that the VMA is write-locked still: nobody would
/// wait for its readers.
#[test]
fn the_lock_sequence_does_not_come_round() {
    World::run(|w| {
        let mm = w.vm.new_mm().unwrap();
        let id = mm.map_raw(pages(16, 1), RW_FLAGS, Backing::Anonymous);
        let (vma, slot) = (w.vm.vma(id), mm.slot());
        let guard = mm.write();
        let _ = vma.start_write(&guard);
        let (locked_at, version) = (slot.lock_seq(), vma.lock.version());
        drop(guard);
        slot.preset_lock_seq(locked_at + (1 << 32) - 1);
        let guard = mm.write();
        assert!(!vma.lock.is_write_locked(slot), "locked by a writer of long ago");
        let _ = vma.start_write(&guard);
        assert!(vma.lock.is_write_locked(slot));
        assert_ne!(vma.lock.version(), version, "a speculative fault would not notice");
    });
}

//! The hot paths: what each one prepares and what is counted.

use super::{counted, moving};
use crate::{
    PAGE,
    experiments::lookup::{addresses, map_many},
    ours::{Active, Machine, World, fault_all, fault_folios, has_all, map_anywhere, map_region},
};
use anonmem::{
    FaultAccess, FillMode, FolioMode, FolioPolicy, LockMode, Mm, MoveMode, PinFlags, Populate, Prot,
    ProtectMode, RegisterMode, RemapFlags, Uffd, UffdFaults, UffdFeatures, lab::folio_referenced,
};
use anonmem_hal::{Order, PhysMem, Va, VaRange};
use std::hint::black_box;

/// Bytes that a page of the case's work must zero or copy whoever manages the memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bytes {
    /// None.
    Untouched,
    /// A page is zeroed.
    Zeroed,
    /// A page is copied.
    Copied,
}

/// One hot path.
pub struct Case {
    /// Its name.
    pub name: &'static str,
    /// What is counted.
    pub what: &'static str,
    /// What is left out.
    pub bytes: Bytes,
    /// Prepares, runs the path under [`counted`], and returns how many units it did.
    pub run: fn(&World) -> u64,
}

const fn case(name: &'static str, what: &'static str, bytes: Bytes, run: fn(&World) -> u64) -> Case {
    Case { name, what, bytes, run }
}

/// All of them.
pub const CASES: &[Case] = &[
    case("zero", "zeroing a page: left out of the others", Bytes::Untouched, zero),
    case("copy", "copying a page: left out of the others", Bytes::Untouched, copy),
    case("fault-anon", "a first write", Bytes::Zeroed, |w| faults(w, FaultAccess::Write)),
    case("fault-zero-page", "a first read", Bytes::Untouched, |w| faults(w, FaultAccess::Read)),
    case("fault-zero-write", "a write over the zero page", Bytes::Zeroed, zero_write),
    case("populate", "populate, per page", Bytes::Zeroed, populate),
    case("cow-copy", "a COW fault that copies", Bytes::Copied, cow_copy),
    case("cow-reuse", "a COW fault that reuses", Bytes::Untouched, cow_reuse),
    case("fork", "fork, per exclusive page", Bytes::Untouched, |w| fork(w, Times::First)),
    case("fork-again", "fork, per shared page", Bytes::Untouched, |w| fork(w, Times::Again)),
    case("exit", "exit of a child, per shared page", Bytes::Untouched, exit),
    case("zap", "munmap, per page", Bytes::Untouched, zap),
    case("mprotect-ro", "mprotect RW to RO, per page", Bytes::Untouched, |w| protect(w, Prot::READ)),
    case("mprotect-rw", "mprotect RO to RW, per page", Bytes::Untouched, |w| {
        protect(w, Prot::READ | Prot::WRITE)
    }),
    case("mremap-entries", "mremap that moves entries, per page", Bytes::Untouched, mremap_entries),
    case("mmap-munmap", "mmap + munmap, untouched", Bytes::Untouched, mmap_munmap),
    case("mprotect-split", "mprotect that splits + one that merges", Bytes::Untouched, mprotect_split),
    case("fault-64k", "a first write, per page of a folio of 64 KiB", Bytes::Zeroed, |w| large_faults(w, 4)),
    // Zeroing so much at once takes other instructions than a page at a time: it is left in.
    case("fault-2m", "a first write, per page of a leaf, zeroing included", Bytes::Untouched, |w| {
        large_faults(w, 9)
    }),
    case("populate-64k", "populate in folios of 64 KiB, per page", Bytes::Zeroed, |w| large(w, 4, populate)),
    case("populate-2m", "populate in leaves, per page, zeroing included", Bytes::Untouched, |w| {
        large(w, 9, populate)
    }),
    case("cow-copy-64k", "a COW fault that copies 64 KiB, per page", Bytes::Copied, |w| large_cow_copy(w, 4)),
    case("cow-reuse-64k", "a COW fault that reuses 64 KiB, per page", Bytes::Untouched, |w| {
        large_reuse(w, 4)
    }),
    case("cow-reuse-2m", "a COW fault that reuses a leaf, per page", Bytes::Untouched, |w| large_reuse(w, 9)),
    case("fork-64k", "fork in runs of 64 KiB, per page", Bytes::Untouched, |w| {
        large(w, 4, |w| fork(w, Times::First))
    }),
    case("fork-2m", "fork of leaves, per page", Bytes::Untouched, |w| large(w, 9, |w| fork(w, Times::First))),
    case("exit-64k", "exit of a child, runs of 64 KiB, per page", Bytes::Untouched, |w| large(w, 4, exit)),
    case("exit-2m", "exit of a child, leaves, per page", Bytes::Untouched, |w| large(w, 9, exit)),
    case("zap-64k", "munmap of runs of 64 KiB, per page", Bytes::Untouched, |w| large(w, 4, zap)),
    case("zap-2m", "munmap of leaves, per page", Bytes::Untouched, |w| large(w, 9, zap)),
    case("populate-auto", "populate with folios that grow, per page", Bytes::Zeroed, |w| auto(w, populate)),
    case("fork-auto", "fork of folios that grew, per page", Bytes::Untouched, |w| {
        auto(w, |w| fork(w, Times::First))
    }),
    case("zap-auto", "munmap of folios that grew, per page", Bytes::Untouched, |w| auto(w, zap)),
    case("mprotect-ro-2m", "mprotect RW to RO of leaves, per page", Bytes::Untouched, |w| {
        large(w, 9, |w| protect(w, Prot::READ))
    }),
    case("pin-fast", "pins without a lock, per page of runs of 256", Bytes::Untouched, |w| {
        pins(w, Pins::Taken)
    }),
    case("unpin", "unpinning, per page of runs of 256", Bytes::Untouched, |w| pins(w, Pins::Dropped)),
    case("pin-fast-64k", "pins without a lock, per page of folios of 64 KiB", Bytes::Untouched, |w| {
        large(w, 4, |w| pins(w, Pins::Taken))
    }),
    case("unpin-64k", "unpinning, per page of folios of 64 KiB", Bytes::Untouched, |w| {
        large(w, 4, |w| pins(w, Pins::Dropped))
    }),
    case("pin-fast-2m", "pins without a lock, per page of leaves", Bytes::Untouched, |w| {
        large(w, 9, |w| pins(w, Pins::Taken))
    }),
    case("uffd-move", "MOVE of regions, per page", Bytes::Untouched, |w| moves(w, MANY)),
    case("uffd-move-one", "MOVE of a page a call", Bytes::Untouched, |w| moves(w, PAGE as u64)),
    case("uffd-move-64k", "MOVE of folios of 64 KiB, per page", Bytes::Untouched, |w| {
        large(w, 4, |w| moves(w, MANY))
    }),
    case("uffd-move-2m", "MOVE of leaves, per page", Bytes::Untouched, |w| large(w, 9, |w| moves(w, MANY))),
    case("uffd-copy", "COPY of regions, per page, without copying", Bytes::Untouched, |w| fills(w, MANY)),
    case("uffd-copy-one", "COPY of a page a call, without copying", Bytes::Untouched, |w| {
        fills(w, PAGE as u64)
    }),
    case("uffd-wp-fault", "a write that ends its page's protection", Bytes::Untouched, protected),
    case("fault-beside", "a first write beside a region", Bytes::Zeroed, |w| beside(w, Watched::No)),
    case("fault-beside-uffd", "the same, the region watched by a userfaultfd", Bytes::Zeroed, |w| {
        beside(w, Watched::Yes)
    }),
    case("migrate", "migration of single pages, per page", Bytes::Copied, moving::migrate),
    case(
        "collapse-in-place",
        "a table becomes a leaf, per page",
        Bytes::Untouched,
        moving::collapse_in_place,
    ),
    case(
        "ksm-pairs",
        "KSM of pairs, per page given up, hashes and comparisons included",
        Bytes::Untouched,
        moving::ksm_pairs,
    ),
    case("lookup-10", "a VMA among 10", Bytes::Untouched, |w| lookup(w, 10)),
    case("lookup-1000", "a VMA among 1,000", Bytes::Untouched, |w| lookup(w, 1000)),
    case("lookup-100000", "a VMA among 100,000", Bytes::Untouched, |w| lookup(w, 100_000)),
    case("rmap-1", "folio_referenced of a page with 1 mapping", Bytes::Untouched, |w| rmap(w, 1)),
    case("rmap-10", "folio_referenced of a page with 10 mappings", Bytes::Untouched, |w| rmap(w, 10)),
    case("rmap-1000", "folio_referenced of a page with 1,000 mappings", Bytes::Untouched, |w| rmap(w, 1000)),
];

/// Pages of a case that works on many: four last-level tables.
const PAGES: usize = 2048;
const REGION: usize = PAGES * PAGE;
/// Repetitions of a case that works on few.
const REPEAT: u64 = 1000;

/// A world large enough for every case.
pub fn world() -> World {
    World::with(40_000, LockMode::Mmap)
}

/// The case of that name.
pub fn find(name: &str) -> Option<&'static Case> {
    CASES.iter().find(|case| case.name == name)
}

fn zero(world: &World) -> u64 {
    let pages: Vec<_> = world.block(REGION).frames().collect();
    let machine = world.vm.machine();
    // SAFETY: the pages are the block's.
    counted(&mut || pages.iter().for_each(|&page| unsafe { machine.zero(page, Order::ZERO) }));
    pages.len() as u64
}

fn copy(world: &World) -> u64 {
    let pages: Vec<_> = world.block(REGION).frames().collect();
    let machine = world.vm.machine();
    // SAFETY: the pages are the block's, and different ones.
    counted(&mut || pages[1..].iter().for_each(|&page| unsafe { machine.copy(page, pages[0], Order::ZERO) }));
    pages.len() as u64 - 1
}

/// Runs `f` on an address space with a region, `pages` of which are there.
fn with_region(world: &World, filled: Filled, f: impl FnOnce(&Mm<'_, Machine>, VaRange)) -> u64 {
    let mm = world.new_mm();
    let _active = Active::on(&mm, 0);
    let range = map_region(&mm, 0, REGION);
    // The first fault makes the anon_vma.
    fault_all(&mm, VaRange::page(range.start), FaultAccess::Write);
    match filled {
        Filled::Written => mm.populate(range, Populate::Write).expect("memory"),
        Filled::Read => mm.populate(range, Populate::Read).expect("memory"),
        Filled::Empty => {}
    }
    f(&mm, range);
    PAGES as u64
}

/// What a region holds before the case.
enum Filled {
    /// One page, so that it has an anon_vma.
    Empty,
    /// The zero page.
    Read,
    /// Pages of its own.
    Written,
}

fn faults(world: &World, access: FaultAccess) -> u64 {
    with_region(world, Filled::Empty, |mm, range| {
        let rest = VaRange { start: range.start.next_page(), end: range.end };
        counted(&mut || fault_all(mm, rest, access));
    }) - 1
}

fn zero_write(world: &World) -> u64 {
    with_region(world, Filled::Read, |mm, range| {
        let rest = VaRange { start: range.start.next_page(), end: range.end };
        counted(&mut || fault_all(mm, rest, FaultAccess::Write));
    }) - 1
}

fn populate(world: &World) -> u64 {
    with_region(world, Filled::Empty, |mm, range| {
        let rest = VaRange { start: range.start.next_page(), end: range.end };
        counted(&mut || mm.populate(rest, Populate::Write).expect("memory"));
    }) - 1
}

fn cow_copy(world: &World) -> u64 {
    with_region(world, Filled::Written, |mm, range| {
        let child = mm.fork().expect("memory");
        {
            let _active = Active::on(&child, 0);
            counted(&mut || fault_all(&child, range, FaultAccess::Write));
        }
    })
}

fn cow_reuse(world: &World) -> u64 {
    with_region(world, Filled::Written, |mm, range| {
        drop(mm.fork().expect("memory"));
        counted(&mut || fault_all(mm, range, FaultAccess::Write));
    })
}

/// Whether the pages have been shared before.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Times {
    /// All are exclusive.
    First,
    /// All are shared and write-protected.
    Again,
}

fn fork(world: &World, times: Times) -> u64 {
    with_region(world, Filled::Written, |mm, _| {
        let before = (times == Times::Again).then(|| mm.fork().expect("memory"));
        let mut child = None;
        counted(&mut || child = mm.fork().ok());
        assert!(child.is_some(), "memory");
        drop((before, child));
    })
}

fn exit(world: &World) -> u64 {
    with_region(world, Filled::Written, |mm, _| {
        let mut child = mm.fork().ok();
        counted(&mut || drop(child.take()));
    })
}

fn zap(world: &World) -> u64 {
    with_region(world, Filled::Written, |mm, range| {
        counted(&mut || mm.munmap(range).expect("mapped"));
    })
}

fn protect(world: &World, prot: Prot) -> u64 {
    with_region(world, Filled::Written, |mm, range| {
        if prot.contains(Prot::WRITE) {
            mm.mprotect(range, Prot::READ).expect("mapped");
        }
        counted(&mut || mm.mprotect(range, prot).expect("mapped"));
    })
}

fn mremap_entries(world: &World) -> u64 {
    with_region(world, Filled::Written, |mm, range| {
        // One page off: no table can move as a whole.
        let to = Va(range.end.0 + (REGION + PAGE) as u64);
        let (len, flags) = (range.len(), RemapFlags::MAYMOVE | RemapFlags::FIXED);
        counted(&mut || assert_eq!(mm.mremap(range.start, len, len, flags, to), Ok(to)));
    })
}

fn mmap_munmap(world: &World) -> u64 {
    let len = 16 * PAGE;
    with_region(world, Filled::Empty, |mm, _| {
        counted(&mut || {
            for _ in 0..REPEAT {
                let start = map_anywhere(mm, len);
                mm.munmap(VaRange { start, end: Va(start.0 + len as u64) }).expect("mapped");
            }
        });
    });
    REPEAT
}

fn mprotect_split(world: &World) -> u64 {
    let mm = world.new_mm();
    let whole = map_region(&mm, 0, 64 * PAGE);
    let start = Va(whole.start.0 + 8 * PAGE as u64);
    let part = VaRange { start, end: Va(start.0 + 8 * PAGE as u64) };
    counted(&mut || {
        for _ in 0..REPEAT {
            mm.mprotect(part, Prot::READ).expect("mapped");
            mm.mprotect(part, Prot::READ | Prot::WRITE).expect("mapped");
        }
    });
    REPEAT
}

/// Runs a case with folios of 2^`order` pages and no others.
fn large(world: &World, order: u8, case: impl FnOnce(&World) -> u64) -> u64 {
    world.vm.set_folio_policy(FolioPolicy::default().with(Order::new(order), FolioMode::Always));
    let done = case(world);
    world.vm.set_folio_policy(FolioPolicy::default());
    done
}

/// Runs a case with folios that grow with use: what programs get that ask for nothing.
fn auto(world: &World, case: impl FnOnce(&World) -> u64) -> u64 {
    world.vm.set_folio_policy(FolioPolicy::auto());
    let done = case(world);
    world.vm.set_folio_policy(FolioPolicy::default());
    done
}

fn large_faults(world: &World, order: u8) -> u64 {
    large(world, order, |world| {
        with_region(world, Filled::Empty, |mm, range| {
            let rest = VaRange { start: range.start.page_after(512), end: range.end };
            counted(&mut || fault_folios(mm, rest, 1 << order, FaultAccess::Write));
            assert!(has_all(mm, rest), "a fault took less than a folio");
        }) - 512
    })
}

fn large_cow_copy(world: &World, order: u8) -> u64 {
    large(world, order, |world| {
        with_region(world, Filled::Written, |mm, range| {
            let child = mm.fork().expect("memory");
            let _active = Active::on(&child, 0);
            counted(&mut || fault_folios(&child, range, 1 << order, FaultAccess::Write));
            assert!(has_all(&child, range), "a fault copied less than a folio");
        })
    })
}

fn large_reuse(world: &World, order: u8) -> u64 {
    large(world, order, |world| {
        with_region(world, Filled::Written, |mm, range| {
            drop(mm.fork().expect("memory"));
            counted(&mut || fault_folios(mm, range, 1 << order, FaultAccess::Write));
            assert!(has_all(mm, range), "a fault reused less than a folio");
        })
    })
}

/// What of pinning is counted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pins {
    /// Pinning.
    Taken,
    /// Unpinning.
    Dropped,
}

fn pins(world: &World, what: Pins) -> u64 {
    const RUN: u64 = 256;
    with_region(world, Filled::Written, |mm, range| {
        let mut pinned = Vec::with_capacity(PAGES / RUN as usize);
        let mut pin = || {
            for first in range.iter_pages().step_by(RUN as usize) {
                let run = VaRange { start: first, end: first.page_after(RUN) };
                pinned.push(mm.pin_fast(run, PinFlags::WRITE).expect("memory for a list of pins"));
            }
        };
        match what {
            Pins::Taken => counted(&mut pin),
            Pins::Dropped => pin(),
        }
        if what == Pins::Dropped {
            counted(&mut || pinned.clear());
        }
    })
}

/// Bytes of a MOVE or a COPY that is for many pages.
const MANY: u64 = 2 << 20;

/// A userfaultfd that watches `ranges`.
fn watching<'v>(
    mm: &Mm<'v, Machine>,
    features: UffdFeatures,
    ranges: &[VaRange],
    mode: RegisterMode,
) -> Uffd<'v, Machine> {
    let uffd = mm.userfaultfd(UffdFaults::Any).expect("memory for a userfaultfd");
    uffd.agree(features).expect("features that there are");
    for range in ranges {
        uffd.register(range.start, range.len(), mode).expect("memory for a mapping");
    }
    uffd
}

/// Moves a region, `len` bytes a call.
fn moves(world: &World, len: u64) -> u64 {
    with_region(world, Filled::Written, |mm, range| {
        let target = map_region(mm, 1, REGION);
        let uffd = watching(mm, UffdFeatures::empty(), &[target], RegisterMode::MISSING);
        counted(&mut || {
            for at in (0..REGION as u64).step_by(len as usize) {
                let (to, from) = (Va(target.start.0 + at), Va(range.start.0 + at));
                let moved = uffd.move_pages(to, from, len, MoveMode::empty());
                assert!(moved.out() == len as i64, "{moved:?}");
            }
        });
    })
}

fn fills(world: &World, len: u64) -> u64 {
    let mm = world.new_mm();
    let range = map_region(&mm, 0, REGION);
    let uffd = watching(&mm, UffdFeatures::empty(), &[range], RegisterMode::MISSING);
    counted(&mut || {
        for at in (0..REGION as u64).step_by(len as usize) {
            let filled = uffd.copy(Va(range.start.0 + at), len, FillMode::empty(), &mut |_, _| Ok(()));
            assert!(filled.out() == len as i64, "{filled:?}");
        }
    });
    PAGES as u64
}

/// Writes to pages that are protected until they are written.
fn protected(world: &World) -> u64 {
    with_region(world, Filled::Written, |mm, range| {
        let uffd = watching(mm, UffdFeatures::WP_ASYNC, &[range], RegisterMode::WP);
        uffd.write_protect(range.start, range.len(), ProtectMode::WP).expect("memory for markers");
        counted(&mut || fault_all(mm, range, FaultAccess::Write));
    })
}

/// Whether a userfaultfd watches the region that nothing happens in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Watched {
    /// It does.
    Yes,
    /// It does not.
    No,
}

/// First writes, while the address space has another region that may be watched.
fn beside(world: &World, watched: Watched) -> u64 {
    with_region(world, Filled::Empty, |mm, range| {
        let other = map_region(mm, 1, REGION);
        let uffd = mm.userfaultfd(UffdFaults::Any).expect("memory for a userfaultfd");
        uffd.agree(UffdFeatures::empty()).expect("features that there are");
        if watched == Watched::Yes {
            let mode = RegisterMode::MISSING | RegisterMode::WP;
            uffd.register(other.start, other.len(), mode).expect("memory for a mapping");
        }
        let rest = VaRange { start: range.start.next_page(), end: range.end };
        counted(&mut || fault_all(mm, rest, FaultAccess::Write));
    }) - 1
}

fn lookup(world: &World, n: u64) -> u64 {
    let mm = world.new_mm();
    map_many(&mm, n);
    let wanted = addresses(n, REPEAT as usize);
    counted(&mut || {
        for &va in &wanted {
            assert!(black_box(mm.try_vma_range(va)).is_ok_and(|found| found.is_some()));
        }
    });
    REPEAT
}

fn rmap(world: &World, mappings: usize) -> u64 {
    let parent = world.new_mm();
    let range = map_region(&parent, 0, PAGE);
    fault_all(&parent, range, FaultAccess::Write);
    let children: Vec<_> = (1..mappings).map(|_| parent.fork().expect("memory")).collect();
    let pfn = parent.pagemap(range.start).pfn.expect("present");
    let page = world.vm.frames().try_get(pfn).expect("in use");
    let repeat = (REPEAT / mappings as u64).max(10);
    counted(&mut || {
        for _ in 0..repeat {
            let found = folio_referenced(&world.vm, page.folio());
            assert!(found.mappings == mappings as u64, "{found:?}");
        }
    });
    drop((page, children));
    repeat
}

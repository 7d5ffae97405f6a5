//! What a program pays that fills, moves and protects its own pages: in regions of 2 MiB and one page a call,
//! and faults that another thread answers.
//!
//! Ours calls the library; the host is called. The source of a copy is memory that is in no near cache.

use super::{
    Experiment,
    setup::{Holds, in_host, in_ours, time_ok},
};
use crate::{
    PAGE, REGION,
    clock::{time, wall_ns},
    host::{Folios, Region, cpus, folios, uffd::HostUffd},
    ours::{Active, Machine, World, map_region},
    outcome::{Bench, Samples, Side},
};
use anonmem::{
    FaultAccess, FaultOutcome, FillMode, FolioMode, FolioPolicy, Mm, MoveMode, Populate, ProtectMode,
    RegisterMode, Uffd, UffdFaults, UffdFeatures, UffdMessage,
};
use anonmem_frame::NewFolio;
use anonmem_hal::{Order, PAGE_SIZE, Pfn, Va, VaRange};
use std::{io, sync::atomic::AtomicBool, sync::atomic::Ordering::Relaxed, thread};

/// Bytes of a call that is for many pages.
const MANY: u64 = 2 << 20;
const ONE: u64 = PAGE_SIZE as u64;
/// Bytes that copies come from: more than near caches hold.
const SOURCE: usize = 64 << 20;
/// Faults that another thread answers.
const TRIPS: u64 = 2_000;

pub(super) const EXPERIMENT: Experiment = Experiment {
    name: "userfaultfd",
    rows: &[
        "uffd-copy",
        "uffd-copy-one",
        "uffd-move",
        "uffd-move-one",
        "uffd-arm",
        "uffd-wp-fault",
        "uffd-missing",
        "uffd-move-64k",
        "uffd-move-2m",
    ],
    threads: 2,
    ours: Some(ours),
    host: Some(host),
    folios: folios::BASE,
    ..Experiment::NONE
};

/// A userfaultfd that watches `ranges`.
fn watching<'v>(
    mm: &Mm<'v, Machine>,
    features: UffdFeatures,
    mode: RegisterMode,
    ranges: &[VaRange],
) -> Uffd<'v, Machine> {
    let uffd = mm.userfaultfd(UffdFaults::Any).expect("memory for a userfaultfd");
    uffd.agree(features).expect("features that there are");
    for range in ranges {
        uffd.register(range.start, range.len(), mode).expect("memory for a mapping");
    }
    uffd
}

/// The pieces of `range`, `len` bytes each.
fn pieces(range: VaRange, len: u64) -> impl Iterator<Item = Va> {
    (range.start.0..range.end.0).step_by(len as usize).map(Va)
}

fn ours(bench: &Bench, samples: &mut Samples) {
    copies(&bench.world, samples);
    moves(&bench.world, samples, FolioPolicy::default(), &["uffd-move", "uffd-move-one"]);
    for (row, order) in [("uffd-move-64k", 4), ("uffd-move-2m", 9)] {
        let large = FolioPolicy::default().with(Order::new(order), FolioMode::Always);
        moves(&bench.world, samples, large, &[row]);
    }
    protection(&bench.world, samples);
    samples.add("uffd-missing", Side::Ours, round_trips(bench) / TRIPS as f64);
}

fn copies(world: &World, samples: &mut Samples) {
    let mut add = samples.per_page(Side::Ours);
    in_ours(world, Holds::Nothing, |mm, range| {
        let block = world.block(SOURCE);
        let from: Vec<Pfn> = block.frames().collect();
        let uffd = watching(mm, UffdFeatures::empty(), RegisterMode::MISSING, &[range]);
        for (row, len) in [("uffd-copy", MANY), ("uffd-copy-one", ONE)] {
            let mut next = 0;
            let mut source = |_offset: u64, new: &NewFolio<'_, Machine>| {
                next = (next + 1) % from.len();
                new.copy_from(from[next]);
                Ok(())
            };
            let ns = time(|| {
                for at in pieces(range, len) {
                    let filled = uffd.copy(at, len, FillMode::empty(), &mut source);
                    assert!(filled.out() == len as i64, "{filled:?}");
                }
            });
            add(row, ns);
            mm.madvise(range.start, range.len(), anonmem::Advice::DontNeed).expect("a range that is mapped");
        }
    });
}

/// Moves a region: in pieces of 2 MiB, and back page by page.
fn moves(world: &World, samples: &mut Samples, folios: FolioPolicy, rows: &[&'static str]) {
    let mut add = samples.per_page(Side::Ours);
    in_ours(world, Holds::Nothing, |mm, range| {
        world.vm.set_folio_policy(folios);
        mm.populate(range, Populate::Write).expect("memory for the region");
        world.vm.set_folio_policy(FolioPolicy::default());
        let target = map_region(mm, 1, REGION);
        let uffd = watching(mm, UffdFeatures::empty(), RegisterMode::MISSING, &[range, target]);
        let ways = [(target, range, MANY), (range, target, ONE)];
        for (row, (dst, src, len)) in rows.iter().zip(ways) {
            let ns = time(|| {
                for (to, from) in pieces(dst, len).zip(pieces(src, len)) {
                    let moved = uffd.move_pages(to, from, len, MoveMode::empty());
                    assert!(moved.out() == len as i64, "{moved:?}");
                }
            });
            add(row, ns);
        }
    });
}

fn protection(world: &World, samples: &mut Samples) {
    let mut add = samples.per_page(Side::Ours);
    in_ours(world, Holds::Pages, |mm, range| {
        let uffd = watching(mm, UffdFeatures::WP_ASYNC, RegisterMode::WP, &[range]);
        let arm = || uffd.write_protect(range.start, range.len(), ProtectMode::WP);
        add("uffd-arm", time(|| arm().expect("memory for markers")));
        add("uffd-wp-fault", time(|| crate::ours::fault_all(mm, range, FaultAccess::Write)));
    });
}

/// Nanoseconds that the faults take, each of which another thread answers with a page.
fn round_trips(bench: &Bench) -> f64 {
    let world = &bench.world;
    let (mm, range, uffd) = {
        let _cpu = world.enter(0);
        world.warm();
        let mm = world.new_mm();
        let range = map_region(&mm, 0, TRIPS as usize * PAGE);
        let uffd = watching(&mm, UffdFeatures::empty(), RegisterMode::MISSING, &[range]);
        (mm, range, uffd)
    };
    let over = AtomicBool::new(false);
    let mut ns = 0.0;
    {
        let _active = [Active::on(&mm, 0), Active::on(&mm, 1)];
        thread::scope(|scope| {
            scope.spawn(|| {
                let _cpu = world.enter_pinned(1, &bench.cpus);
                while !over.load(Relaxed) {
                    let Some(UffdMessage::Fault(fault)) = uffd.read() else {
                        std::hint::spin_loop();
                        continue;
                    };
                    let mut source = |_: u64, new: &NewFolio<'_, Machine>| {
                        new.zero();
                        Ok(())
                    };
                    let filled = uffd.copy(fault.va.page_down(), ONE, FillMode::empty(), &mut source);
                    assert!(filled.out() == ONE as i64, "{filled:?}");
                }
            });
            let _cpu = world.enter_pinned(0, &bench.cpus);
            let began = wall_ns();
            for va in range.iter_pages() {
                let outcome = mm.handle_fault(va, FaultAccess::Write);
                assert!(outcome == FaultOutcome::Done, "a fault of the bench ended with {outcome:?}");
            }
            ns = (wall_ns() - began) as f64;
            over.store(true, Relaxed);
        });
    }
    let _cpu = world.enter(0);
    drop((uffd, mm));
    ns
}

fn host(bench: &Bench, samples: &mut Samples, folios: Folios) -> io::Result<()> {
    let side = Side::Host(folios);
    let mut add = samples.per_page(side);
    let source = Region::new(SOURCE, folios)?;
    source.populate()?;
    let region = in_host(folios, Holds::Nothing)?;
    let watched = HostUffd::new(0)?;
    watched.register(region.start(), REGION, HostUffd::MISSING)?;
    for (row, len) in [("uffd-copy", MANY as usize), ("uffd-copy-one", PAGE)] {
        let copy = |at: usize| {
            watched.copy(region.start().wrapping_add(at), source.start().wrapping_add(at % SOURCE), len)
        };
        add(row, time_ok(|| (0..REGION).step_by(len).try_for_each(copy))?);
        region.dont_need()?;
    }
    drop((watched, source));
    region.populate()?;
    let target = Region::new(REGION, folios)?;
    let watched = HostUffd::new(0)?;
    watched.register(region.start(), REGION, HostUffd::MISSING)?;
    watched.register(target.start(), REGION, HostUffd::MISSING)?;
    let ways = [("uffd-move", &target, &region, MANY as usize), ("uffd-move-one", &region, &target, PAGE)];
    for (row, to, from, len) in ways {
        let go = |at: usize| watched.shift(to.start().wrapping_add(at), from.start().wrapping_add(at), len);
        add(row, time_ok(|| (0..REGION).step_by(len).try_for_each(go))?);
    }
    drop((watched, target));
    let watched = HostUffd::new(HostUffd::WP_ASYNC)?;
    watched.register(region.start(), REGION, HostUffd::WP)?;
    add("uffd-arm", time_ok(|| watched.protect(region.start(), REGION))?);
    add("uffd-wp-fault", time(|| region.touch_write(0, PAGE)));
    drop((watched, region, add));
    samples.add("uffd-missing", side, host_round_trips(bench, folios)? / TRIPS as f64);
    Ok(())
}

fn host_round_trips(bench: &Bench, folios: Folios) -> io::Result<f64> {
    let region = Region::new(TRIPS as usize * PAGE, folios)?;
    let zeros = Region::new(PAGE, folios)?;
    zeros.populate()?;
    let watched = HostUffd::new(0)?;
    watched.register(region.start(), region.len(), HostUffd::MISSING)?;
    let over = AtomicBool::new(false);
    let from = zeros.start() as usize;
    let mut ns = 0.0;
    thread::scope(|scope| {
        let server = scope.spawn(|| {
            let _ = cpus::pin(bench.cpus[1]);
            while !over.load(Relaxed) {
                match watched.fault() {
                    Some(at) => watched.copy((at & !(PAGE - 1)) as *mut u8, from as *mut u8, PAGE)?,
                    None => std::hint::spin_loop(),
                }
            }
            io::Result::Ok(())
        });
        let _ = cpus::pin(bench.cpus[0]);
        let began = wall_ns();
        region.touch_write(0, PAGE);
        ns = (wall_ns() - began) as f64;
        over.store(true, Relaxed);
        server.join().expect("the server does not panic")
    })?;
    Ok(ns)
}

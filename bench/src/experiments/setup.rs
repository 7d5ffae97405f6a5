//! What the sides of most experiments prepare: a region in memory that was touched just before.

use crate::{
    REGION, clock,
    host::{Folios, Region},
    ours::{Active, Machine, World, map_region},
    peer::Space,
};
use anonmem::{Mm, Populate};
use anonmem_hal::VaRange;
use std::io;

/// What a region holds.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Holds {
    /// Nothing yet.
    Nothing,
    /// Pages of its own.
    Pages,
}

/// Runs `f` with an address space that the first CPU runs, and a region of it.
pub(super) fn in_ours<T>(world: &World, holds: Holds, f: impl FnOnce(&Mm<'_, Machine>, VaRange) -> T) -> T {
    let _cpu = world.enter(0);
    let mm = world.new_mm();
    let _active = Active::on(&mm, 0);
    world.warm();
    let range = map_region(&mm, 0, REGION);
    if holds == Holds::Pages {
        mm.populate(range, Populate::Write).expect("memory for the region");
    }
    f(&mm, range)
}

/// Runs `f` with the Rust peer on the first CPU, and a space of it.
pub(super) fn in_peer<T>(world: &World, f: impl FnOnce(Space<'_>) -> T) -> T {
    let _cpu = world.enter(0);
    let space = Space::new(world);
    world.warm();
    f(space)
}

/// A region of the host's.
pub(super) fn in_host(folios: Folios, holds: Holds) -> io::Result<Region> {
    Region::warm(REGION, folios)?;
    let region = Region::new(REGION, folios)?;
    if holds == Holds::Pages {
        region.populate()?;
    }
    Ok(region)
}

/// Nanoseconds of CPU time that `f` takes, if it works.
pub(super) fn time_ok(f: impl FnOnce() -> io::Result<()>) -> io::Result<f64> {
    let mut done = Ok(());
    let ns = clock::time(|| done = f());
    done.map(|()| ns)
}

/// Nanoseconds of CPU time that one of `n` calls of `f` takes, if all work.
pub(super) fn time_per_ok(n: u32, mut f: impl FnMut() -> io::Result<()>) -> io::Result<f64> {
    let mut done = Ok(());
    let ns = clock::time_per(n, || {
        if let Err(e) = f() {
            done = Err(e);
        }
    });
    done.map(|()| ns)
}

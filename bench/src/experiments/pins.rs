//! Pages pinned without a lock in runs of 256, let go again, and a fork while one page in a hundred is
//! pinned.
//!
//! The host has no call that only pins. Its side takes references to the same pages by `vmsplice` into a
//! pipe, which is GUP-fast and the pipe's work, and lets them go by `splice` to /dev/null. `gup_test` of a
//! kernel that was built with it would tell GUP-fast alone.

use super::{
    Experiment,
    setup::{Holds, in_host, in_ours, time_ok},
};
use crate::{
    PAGE, REGION,
    clock::time,
    host::{Folios, folios},
    outcome::{Bench, Samples, Side},
};
use anonmem::{FolioMode, FolioPolicy, PinFlags, Populate};
use anonmem_hal::{Order, PAGE_SIZE, Va, VaRange};
use std::{
    fs::OpenOptions,
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    ptr,
};

/// Pages of a run.
const RUN: usize = 256;
/// One page in so many is pinned while the program forks.
const SPARSE: u64 = 100;

pub(super) const EXPERIMENT: Experiment = Experiment {
    name: "pins",
    rows: &["pin-fast", "unpin", "fork-pinned", "pin-fast-64k", "unpin-64k", "pin-fast-2m", "unpin-2m"],
    ours: Some(ours),
    host: Some(host),
    folios: folios::BASE,
    ..Experiment::NONE
};

fn ours(bench: &Bench, samples: &mut Samples) {
    let mut add = samples.per_page(Side::Ours);
    in_ours(&bench.world, Holds::Pages, |mm, range| {
        let pages = |first: u64, n: u64| {
            let start = Va(range.start.0 + first * PAGE_SIZE as u64);
            VaRange { start, end: Va(start.0 + n * PAGE_SIZE as u64) }
        };
        let runs = range.pages().0 / RUN as u64;
        let mut pinned = Vec::with_capacity(range.pages().0 as usize);
        let pin = |n| mm.pin_fast(n, PinFlags::WRITE).expect("memory for a list of pins");
        add("pin-fast", time(|| pinned.extend((0..runs).map(|i| pin(pages(i * RUN as u64, RUN as u64))))));
        add("unpin", time(|| pinned.clear()));

        pinned.extend((0..range.pages().0 / SPARSE).map(|i| pin(pages(i * SPARSE, 1))));
        let mut child = None;
        add("fork-pinned", time(|| child = mm.fork().ok()));
        drop(child.expect("memory for a fork"));
    });
    drop(add);
    large(bench, samples, 4, ["pin-fast-64k", "unpin-64k"]);
    large(bench, samples, 9, ["pin-fast-2m", "unpin-2m"]);
}

/// Pins and unpins the same memory in folios of one size.
fn large(bench: &Bench, samples: &mut Samples, order: u8, rows: [&'static str; 2]) {
    let mut add = samples.per_page(Side::Ours);
    in_ours(&bench.world, Holds::Nothing, |mm, range| {
        let policy = FolioPolicy::default().with(Order::new(order), FolioMode::Always);
        bench.world.vm.set_folio_policy(policy);
        mm.populate(range, Populate::Write).expect("memory for the region");
        bench.world.vm.set_folio_policy(FolioPolicy::default());
        let len = (RUN * PAGE) as u64;
        let runs = || (range.start.0..range.end.0).step_by(RUN * PAGE).map(Va);
        let pin = |start: Va| {
            mm.pin_fast(VaRange { start, end: Va(start.0 + len) }, PinFlags::WRITE)
                .expect("memory for a list of pins")
        };
        let mut pinned = Vec::with_capacity(range.pages().0 as usize / RUN);
        add(rows[0], time(|| pinned.extend(runs().map(pin))));
        add(rows[1], time(|| pinned.clear()));
    });
}

fn host(_bench: &Bench, samples: &mut Samples, folios: Folios) -> io::Result<()> {
    let mut add = samples.per_page(Side::Host(folios));
    let region = in_host(folios, Holds::Pages)?;
    let (out, into) = pipe()?;
    let null = OpenOptions::new().write(true).open("/dev/null")?;
    let (mut taken, mut let_go) = (0.0, 0.0);
    for first in (0..REGION).step_by(RUN * PAGE) {
        let piece = libc::iovec { iov_base: region.start().wrapping_add(first).cast(), iov_len: RUN * PAGE };
        // SAFETY: the piece is part of the region, which outlives the pipe's references to it.
        taken += time_ok(|| all(unsafe { libc::vmsplice(into.as_raw_fd(), &piece, 1, 0) }))?;
        let (from, to) = (out.as_raw_fd(), null.as_raw_fd());
        // SAFETY: no offset is passed.
        let splice = || unsafe { libc::splice(from, ptr::null_mut(), to, ptr::null_mut(), RUN * PAGE, 0) };
        let_go += time_ok(|| all(splice()))?;
    }
    add("pin-fast", taken);
    add("unpin", let_go);
    Ok(())
}

/// A pipe that holds a run.
fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends = [0; 2];
    // SAFETY: the pointer is to two descriptors.
    if unsafe { libc::pipe(ends.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has just opened it, for us alone.
    let [out, into] = ends.map(|end| unsafe { OwnedFd::from_raw_fd(end) });
    // SAFETY: a number is all that is passed.
    let size = unsafe { libc::fcntl(into.as_raw_fd(), libc::F_SETPIPE_SZ, (RUN * PAGE) as libc::c_int) };
    if size < 0 { Err(io::Error::last_os_error()) } else { Ok((out, into)) }
}

/// A whole run, or an error.
fn all(moved: isize) -> io::Result<()> {
    match usize::try_from(moved) {
        Ok(moved) if moved == RUN * PAGE => Ok(()),
        Ok(moved) => Err(io::Error::other(format!("{moved} bytes of a run were moved"))),
        Err(_) => Err(io::Error::last_os_error()),
    }
}

//! Operations of a program that has a device write its memory, or that fills, moves and protects its own
//! pages: pins and userfaultfd, each with its setup and its end in one operation.
//!
//! Nobody waits for an answer here: one thread runs an operation. Threads that wait are the stress's matter.

use crate::{
    Checks, Hosted, UserCpu,
    access::write,
    ops::{At, Outcome, pattern},
};
use anonmem::{
    Error, FillMode, Filled, Machine, Mm, MoveMode, PageCategories, PageRegion, PageScan, PinFlags,
    PinnedRange, ProtectMode, RegisterMode, ScanFlags, Uffd, UffdFaults, UffdFeatures, Unpin,
};
use anonmem_hal::{Arch, PAGE_SIZE, Va, VaRange};

type Space<'v, C, A> = Mm<'v, Hosted<C, A>>;
const P: u64 = PAGE_SIZE as u64;

fn errno<T>(result: Result<T, Error>) -> Result<T, Outcome> {
    result.map_err(|e| Outcome::Errno(e.errno()))
}

/// Pins the pages of a range for a device that writes them.
pub(crate) fn pin<'v, C: Checks, A: Arch>(
    mm: &Space<'v, C, A>,
    at: At,
    how: PinHow,
) -> Result<PinnedRange<'v, Hosted<C, A>>, Outcome>
where
    Hosted<C, A>: Machine,
{
    let range = VaRange { start: Va(at.addr), end: Va(at.addr.saturating_add(at.len)) };
    errno(match how {
        PinHow::Fast => mm.pin_fast(range, PinFlags::WRITE),
        PinHow::Slow => mm.pin(range, PinFlags::WRITE),
    })
}

/// With or without locks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum PinHow {
    /// Without.
    Fast,
    /// With.
    Slow,
}

/// A device writes to a range, through pins.
pub(crate) fn device_write<C: Checks, A: Arch>(mm: &Space<'_, C, A>, at: At, tag: u32) -> Outcome
where
    Hosted<C, A>: Machine,
{
    let how = if tag.is_multiple_of(2) { PinHow::Fast } else { PinHow::Slow };
    let mut pinned = match pin(mm, at, how) {
        Ok(pinned) => pinned,
        Err(outcome) => return outcome,
    };
    pinned.set_unpin(Unpin::Dirty);
    let bytes = pattern(tag, at.len as usize);
    pinned.write(Va(at.addr), &bytes);
    Outcome::Done
}

/// A userfaultfd that watches a range.
fn watch<'v, C: Checks, A: Arch>(
    mm: &Space<'v, C, A>,
    (addr, len): (u64, u64),
    features: UffdFeatures,
    mode: RegisterMode,
) -> Result<Uffd<'v, Hosted<C, A>>, Outcome>
where
    Hosted<C, A>: Machine,
{
    let uffd = errno(mm.userfaultfd(UffdFaults::Any))?;
    errno(uffd.agree(features))?;
    // What was registered before the error is watched no more when this drops.
    errno(uffd.register(Va(addr), len, mode))?;
    Ok(uffd)
}

fn progress(filled: Filled) -> Outcome {
    Outcome::Progress(filled.bytes, filled.error.map_or(0, Error::errno))
}

/// Moves a range to another, which is watched meanwhile.
pub(crate) fn uffd_move<C: Checks, A: Arch>(mm: &Space<'_, C, A>, at: At, to: u64) -> Outcome
where
    Hosted<C, A>: Machine,
{
    match watch(mm, (to, at.len), UffdFeatures::empty(), RegisterMode::MISSING) {
        Ok(uffd) => progress(uffd.move_pages(Va(to), Va(at.addr), at.len, MoveMode::ALLOW_SRC_HOLES)),
        Err(outcome) => outcome,
    }
}

/// Fills a range with copies, as far as it is empty.
pub(crate) fn uffd_fill<C: Checks, A: Arch>(mm: &Space<'_, C, A>, at: At, tag: u32) -> Outcome
where
    Hosted<C, A>: Machine,
{
    let uffd = match watch(mm, (at.addr, at.len), UffdFeatures::empty(), RegisterMode::MISSING) {
        Ok(uffd) => uffd,
        Err(outcome) => return outcome,
    };
    let page = pattern(tag, PAGE_SIZE);
    progress(uffd.copy(Va(at.addr), at.len, FillMode::empty(), &mut |_, new| {
        new.write(0, &page);
        Ok(())
    }))
}

/// Protects a range, writes to the middle of it, and looks which pages were written.
///
/// # Panics
/// If a page that was written is not told.
pub(crate) fn uffd_protect<'v, C: Checks, A: Arch>(
    user: &UserCpu<'_, C, A, Space<'v, C, A>>,
    at: At,
    tag: u32,
) -> Outcome
where
    Hosted<C, A>: Machine,
{
    let mm = user.space();
    let uffd = match watch(mm, (at.addr, at.len), UffdFeatures::WP_ASYNC, RegisterMode::WP) {
        Ok(uffd) => uffd,
        Err(outcome) => return outcome,
    };
    if let Err(outcome) = errno(uffd.write_protect(Va(at.addr), at.len, ProtectMode::WP)) {
        return outcome;
    }
    let range = VaRange { start: Va(at.addr), end: Va(at.addr + at.len) };
    let middle = at.middle();
    let outcome = write(user, middle, tag);
    let written = match outcome {
        Outcome::Done => middle.len,
        Outcome::Signal(_, done) => done as u64,
        _ => 0,
    };
    let scan = PageScan {
        flags: ScanFlags::PROTECT | ScanFlags::CHECK_ASYNC,
        all_of: PageCategories::WRITTEN,
        told: PageCategories::WRITTEN,
        ..PageScan::all(range)
    };
    // The range may be most of the address space; what is told of it is what was written since.
    let most = range.pages().0.min(middle.len / P + 2);
    let mut regions = vec![PageRegion::default(); most as usize + 1];
    // Without memory there is nothing to protect: every entry has its table.
    if let Ok(scanned) = mm.pagemap_scan(&scan, Some(&mut regions)) {
        let told = &regions[..scanned.regions];
        let end = if written > 0 { middle.addr + written } else { 0 };
        let first = middle.addr & !(P - 1);
        for va in (first..end).step_by(PAGE_SIZE) {
            let is_told = told.iter().any(|r| r.range.start.0 <= va && va < r.range.end.0);
            assert!(is_told, "page {va:#x} was written to and is not told");
        }
    }
    outcome
}

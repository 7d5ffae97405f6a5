//! `/sys/kernel/debug/gup_test`: pins and looks of the caller's own pages, for tests and measurements.
//!
//! Whoever has it open may pin a range and time that, or pin one range for long and read it through its pins
//! later: what the pages are, not what the program sees at their addresses by then.
//!
//! Differs from Linux: long-term pins count as locked memory; a call pins its pages as a whole or not at all.
//! Linux: mm/gup_test.c.

use crate::arch::lock::SpinLock;
use crate::arch::time;
use crate::fs::block::{Pinned, pin_error};
use crate::fs::file::Object;
use crate::klog;
use crate::machine::{Kernel, Mm};
use crate::sched;
use crate::usercopy;
use alloc::sync::Arc;
use alloc::vec::Vec;
use anonmem::{PageLook, PinFlags};
use anonmem_hal::{PAGE_SIZE, PhysMem, Va, VaRange};
use anonmem_oslib::Result;
use anonmem_oslib::abi::Fields;
use anonmem_oslib::errno::{EFAULT, EINVAL, ENOMEM, ESRCH};
use anonmem_oslib::vfs::Inode;
use core::any::Any;

const PAGE: u64 = PAGE_SIZE as u64;

/// Bytes of `struct gup_test`, and of `struct pin_longterm_test`.
const TEST: usize = 80;
const LONG_TEST: usize = 24;

/// The number of an ioctl of this file: what it moves, how many bytes, which one.
const fn ioctl(direction: u32, bytes: usize, number: u32) -> u32 {
    direction << 30 | (bytes as u32) << 16 | (b'g' as u32) << 8 | number
}

const GUP_FAST_BENCHMARK: u32 = ioctl(3, TEST, 1);
const PIN_FAST_BENCHMARK: u32 = ioctl(3, TEST, 2);
const PIN_LONGTERM_BENCHMARK: u32 = ioctl(3, TEST, 3);
const GUP_BASIC_TEST: u32 = ioctl(3, TEST, 4);
const PIN_BASIC_TEST: u32 = ioctl(3, TEST, 5);
const DUMP_USER_PAGES_TEST: u32 = ioctl(3, TEST, 6);
const PIN_LONGTERM_TEST_START: u32 = ioctl(1, LONG_TEST, 7);
const PIN_LONGTERM_TEST_STOP: u32 = ioctl(0, 0, 8);
const PIN_LONGTERM_TEST_READ: u32 = ioctl(1, 8, 9);

/// Flags of a test; the others are ignored.
const FOLL: [(u32, PinFlags); 4] = [
    (1 << 0, PinFlags::WRITE),
    (1 << 3, PinFlags::FORCE),
    (1 << 5, PinFlags::NOFAULT),
    (1 << 8, PinFlags::LONGTERM),
];
const DUMP_USES_PIN: u32 = 1;
const LONG_WRITE: u32 = 1;
const LONG_FAST: u32 = 2;
/// More pages at a time are refused, as Linux's list of them would be.
const PAGES_MAX: u64 = i32::MAX as u64 / 8;

/// The range that is pinned for long: there is one, whoever has the file open.
static LONG: SpinLock<Option<Arc<Pinned>>> = SpinLock::new(None);

/// The file, opened. Closing any of them ends the long-term pins, as on Linux.
pub(super) struct GupTest;

impl GupTest {
    /// Opens it.
    ///
    /// # Errors
    /// None.
    pub(super) fn open(_inode: &Inode, _flags: u32) -> Result<Arc<dyn Object>> {
        Ok(Arc::new(GupTest))
    }
}

impl Drop for GupTest {
    fn drop(&mut self) {
        stop();
    }
}

impl Object for GupTest {
    fn ioctl(&self, request: u32, argument: u64) -> Result<usize> {
        let how = match request {
            GUP_FAST_BENCHMARK | GUP_BASIC_TEST => How::Look,
            PIN_FAST_BENCHMARK => How::PinFast,
            PIN_LONGTERM_BENCHMARK => How::PinLong,
            PIN_BASIC_TEST => How::Pin,
            DUMP_USER_PAGES_TEST => How::Dump,
            PIN_LONGTERM_TEST_START => return start(argument),
            PIN_LONGTERM_TEST_STOP => {
                stop();
                return Ok(0);
            }
            PIN_LONGTERM_TEST_READ => return read(argument),
            _ => return Err(EINVAL),
        };
        let mut test = [0; TEST];
        usercopy::copy_from_user(&mut test, argument)?;
        run(how, &mut test)?;
        usercopy::copy_to_user(argument, &test)?;
        Ok(0)
    }

    fn as_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}

/// How pages are had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    /// A reference to each.
    Look,
    PinFast,
    Pin,
    PinLong,
    /// As the test's own flags say; and the log tells of some.
    Dump,
}

/// What a call has taken.
enum Taken {
    Pins(Pinned),
    Looks(Vec<PageLook<'static, Kernel>>),
}

fn space() -> Result<Mm> {
    sched::current_mm().ok_or(ESRCH)
}

/// Does a test, and writes what it came to into its structure.
fn run(how: How, test: &mut [u8; TEST]) -> Result<()> {
    let given = Fields(test);
    let (address, size, per_call) = (given.u64(16), given.u64(24), u64::from(given.u32(32)));
    let (gup_flags, test_flags) = (given.u32(36), given.u32(40));
    let end = address.checked_add(size).ok_or(EINVAL)?;
    if size / PAGE > PAGES_MAX {
        return Err(ENOMEM);
    }
    let flags = FOLL.into_iter().filter(|(bit, _)| gup_flags & bit != 0);
    let flags = flags.fold(PinFlags::empty(), |all, (_, flag)| all | flag);
    let dumps = how == How::Dump;
    let how = match how {
        How::Dump if test_flags & DUMP_USES_PIN != 0 => How::Pin,
        How::Dump => How::Look,
        how => how,
    };
    let mm = space()?;
    let before = time::now_ns();
    let mut all = Vec::new();
    let mut at = address;
    while at < end && !sched::interrupt_pending() {
        let pages = per_call.min((end - at) / PAGE);
        all.try_reserve(1).map_err(|_| ENOMEM)?;
        match take(&mm, how, at, pages, flags) {
            Ok(Some(taken)) => all.push(taken),
            Ok(None) | Err(_) => break,
        }
        at += pages * PAGE;
    }
    let between = time::now_ns();
    check_pinned(&all);
    if dumps {
        dump(test, address, &all);
    }
    let put = time::now_ns();
    drop(all);
    let after = time::now_ns();
    for (at, value) in [(0, (between - before) / 1000), (8, (after - put) / 1000), (24, at - address)] {
        test[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }
    Ok(())
}

/// Takes pages; `None` if there are none to take.
fn take(mm: &Mm, how: How, at: u64, pages: u64, flags: PinFlags) -> Result<Option<Taken>> {
    if pages == 0 {
        return Ok(None);
    }
    let end = at.checked_add(pages * PAGE).ok_or(EFAULT)?;
    let range = VaRange { start: Va(at), end: Va(end) };
    let taken = match how {
        // Who is to write must have the page for himself: a look never does.
        How::Look if !flags.contains(PinFlags::WRITE) => {
            let mut looks = Vec::new();
            looks.try_reserve_exact(pages as usize).map_err(|_| ENOMEM)?;
            for page in 0..pages {
                looks.push(mm.look(Va(at + page * PAGE), flags).map_err(pin_error)?);
            }
            return Ok(Some(Taken::Looks(looks)));
        }
        How::PinFast => mm.pin_fast(range, flags),
        How::PinLong => mm.pin(range, flags | PinFlags::LONGTERM),
        How::Look | How::Pin | How::Dump => mm.pin(range, flags),
    };
    taken.map(|pinned| Some(Taken::Pins(pinned))).map_err(pin_error)
}

/// Says on the log if a page does not look pinned that is.
fn check_pinned(all: &[Taken]) {
    for taken in all {
        let Taken::Pins(pinned) = taken else { continue };
        let loose = |run| pinned.folio(run).is_some_and(|folio| !folio.maybe_pinned());
        if pinned.runs().any(loose) {
            klog!("gup_test: a page of {:?} is pinned and does not look so", pinned.range());
        }
    }
}

/// Pages whose numbers a dump may ask for.
const DUMPED: usize = 8;

/// The numbers of pages that a test wants to see on the log, from 1 on.
fn dumped(test: &[u8; TEST]) -> impl Iterator<Item = (usize, u64)> + '_ {
    (0..DUMPED)
        .map(|i| 44 + 4 * i)
        .map(|at| (at, u64::from(Fields(test).u32(at))))
        .filter(|(_, page)| *page != 0)
}

fn dump(test: &mut [u8; TEST], address: u64, all: &[Taken]) {
    let frames: u64 = all.iter().map(pages_of).sum();
    let mut beyond = [None; DUMPED];
    for ((at, number), beyond) in dumped(test).zip(&mut beyond) {
        if number > frames {
            klog!("gup_test: page {number} is beyond the {frames} that there are");
            *beyond = Some(at);
            continue;
        }
        let frame = frame_of(all, number - 1);
        klog!("gup_test: page {} from {address:#x} on is frame {frame:#x}", number - 1);
    }
    for at in beyond.into_iter().flatten() {
        test[at..at + 4].fill(0);
    }
}

fn pages_of(taken: &Taken) -> u64 {
    match taken {
        Taken::Pins(pinned) => pinned.pages().0,
        Taken::Looks(looks) => looks.len() as u64,
    }
}

/// The frame of the page with that number.
fn frame_of(all: &[Taken], number: u64) -> u64 {
    let mut number = number;
    for taken in all {
        if number >= pages_of(taken) {
            number -= pages_of(taken);
            continue;
        }
        return match taken {
            Taken::Pins(pinned) => frames_of(pinned).nth(number as usize).unwrap_or_default(),
            Taken::Looks(looks) => looks[number as usize].page().0,
        };
    }
    0
}

fn frames_of(pinned: &Pinned) -> impl Iterator<Item = u64> + '_ {
    pinned.runs().flat_map(|run| (0..run.pages.0).map(move |i| run.first.0 + i))
}

fn stop() {
    let old = LONG.lock().take();
    drop(old);
}

/// Pins a range for long.
fn start(argument: u64) -> Result<usize> {
    if LONG.lock().is_some() {
        return Err(EINVAL);
    }
    let mut given = [0; LONG_TEST];
    usercopy::copy_from_user(&mut given, argument)?;
    let (address, size, how) = (Fields(&given).u64(0), Fields(&given).u64(8), Fields(&given).u32(16));
    let odd = how & !(LONG_WRITE | LONG_FAST) != 0 || !(address | size).is_multiple_of(PAGE);
    if odd || size == 0 || size > i64::MAX as u64 {
        return Err(EINVAL);
    }
    if size / PAGE > PAGES_MAX {
        return Err(ENOMEM);
    }
    let end = address.checked_add(size).ok_or(EFAULT)?;
    let range = VaRange { start: Va(address), end: Va(end) };
    let write = if how & LONG_WRITE != 0 { PinFlags::WRITE } else { PinFlags::empty() };
    let flags = PinFlags::LONGTERM | write;
    let mm = space()?;
    let pinned = if how & LONG_FAST != 0 { mm.pin_fast(range, flags) } else { mm.pin(range, flags) };
    let pinned = Arc::new(pinned.map_err(pin_error)?);
    match &mut *LONG.lock() {
        // Somebody else was faster.
        Some(_) => Err(EINVAL),
        none => {
            *none = Some(pinned);
            Ok(0)
        }
    }
}

/// Copies what the pinned pages hold to the address that `argument` points to.
fn read(argument: u64) -> Result<usize> {
    // Copied without the lock: who writes to the program's memory may wait for long.
    let pinned = LONG.lock().clone().ok_or(EINVAL)?;
    let mut to: u64 = usercopy::read_user(argument)?;
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(PAGE_SIZE).map_err(|_| ENOMEM)?;
    bytes.resize(PAGE_SIZE, 0);
    for frame in frames_of(&pinned) {
        let frame = anonmem_hal::Pfn(frame);
        crate::machine::vm().machine().read_bytes(frame, 0, &mut bytes);
        usercopy::copy_to_user(to, &bytes)?;
        to = to.wrapping_add(PAGE);
    }
    Ok(0)
}

//! Frames that root declares bad: `MADV_SOFT_OFFLINE` and `MADV_HWPOISON`.
//!
//! Linux: mm/madvise.c `madvise_inject_error`.

use super::mm::Space;
use crate::machine;
use crate::sched::yield_now;
use anonmem::{Failure, FaultAccess, FaultOutcome};
use anonmem_hal::{PAGE_SIZE, Va};
use anonmem_oslib::Result;
use anonmem_oslib::errno::{EBUSY, EFAULT, EINVAL, ENOMEM, EPERM};

/// Who asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum By {
    /// Somebody with `CAP_SYS_ADMIN`.
    Root,
    /// Somebody else, who may ask for no page.
    Other,
}

/// Lets the frames of the pages of a range fail, one after the other.
///
/// # Errors
/// `EINVAL` for a range that makes no sense, `EPERM` for somebody else than root, `EFAULT` where nothing is
/// mapped, `EBUSY` if what is in a frame stays; the frames before it have failed.
pub fn fail_pages(mm: &Space, by: By, start: u64, len: u64, failure: Failure) -> Result<()> {
    let page = PAGE_SIZE as u64;
    let end = len.checked_next_multiple_of(page).and_then(|len| start.checked_add(len)).ok_or(EINVAL)?;
    if !start.is_multiple_of(page) {
        return Err(EINVAL);
    }
    if start < end && by == By::Other {
        return Err(EPERM);
    }
    for va in (start..end).step_by(PAGE_SIZE).map(Va) {
        yield_now();
        // What is there is looked at: a copy of it would be in another frame.
        let mut outcome = mm.handle_kernel_fault(va, FaultAccess::Read);
        // The frame of the zero page serves everybody: a page of its own, if it may have one.
        if outcome == FaultOutcome::Done && mm.pagemap(va).pfn == Some(machine::vm().frames().zero_page()) {
            outcome = match mm.handle_kernel_fault(va, FaultAccess::Write) {
                FaultOutcome::SegvAccerr => FaultOutcome::Done,
                other => other,
            };
        }
        match outcome {
            FaultOutcome::Done => {}
            FaultOutcome::Oom | FaultOutcome::NodesFull(_) => return Err(ENOMEM),
            FaultOutcome::SegvMaperr | FaultOutcome::SegvAccerr | FaultOutcome::Bus | FaultOutcome::Lost => {
                return Err(EFAULT);
            }
        }
        // It may have gone again.
        let Some(frame) = mm.pagemap(va).pfn else { continue };
        machine::vm().frame_failed(frame, failure).map_err(|_stays| EBUSY)?;
    }
    Ok(())
}

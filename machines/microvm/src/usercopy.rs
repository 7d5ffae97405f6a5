//! Copies between the kernel and user memory of the running task.
//!
//! A page that is not there is faulted in through `proc::hooks::kernel_page_fault` (so a copy may
//! sleep); a fault that cannot be resolved ends the copy with [`Fault`].

/// The user address is not accessible (EFAULT).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault;

/// Plain data: every bit pattern is a value, and there is no padding.
///
/// # Safety
///
/// The implementing type must have both properties.
pub unsafe trait Pod: Copy + 'static {}

/// The end of user addresses (one page below 2^47, as in Linux).
pub const USER_END: u64 = 0x7fff_ffff_f000;

/// Copies `dst.len()` bytes from the user address `src`.
pub fn copy_from_user(_dst: &mut [u8], _src: u64) -> Result<(), Fault> {
    todo!()
}

/// Copies `src` to the user address `dst`.
pub fn copy_to_user(_dst: u64, _src: &[u8]) -> Result<(), Fault> {
    todo!()
}

/// Writes `len` zero bytes at the user address `dst`.
pub fn clear_user(_dst: u64, _len: usize) -> Result<(), Fault> {
    todo!()
}

/// Reads one value (no alignment needed).
pub fn read_user<T: Pod>(_src: u64) -> Result<T, Fault> {
    todo!()
}

/// Writes one value (no alignment needed).
pub fn write_user<T: Pod>(_dst: u64, _value: T) -> Result<(), Fault> {
    todo!()
}

/// Reads an aligned `u32` without faulting pages in: usable in `park`'s `validate`.
pub fn read_user_nofault(_src: u64) -> Result<u32, Fault> {
    todo!()
}

/// Atomic compare-and-exchange of an aligned user `u32` (futex operations, robust lists): the value found.
pub fn cmpxchg_user(_addr: u64, _old: u32, _new: u32) -> Result<u32, Fault> {
    todo!()
}

/// Reads a NUL-terminated string (without the NUL) of at most `max` bytes. `Ok(None)` if it is longer.
pub fn read_cstr(_src: u64, _max: usize) -> Result<Option<alloc::vec::Vec<u8>>, Fault> {
    todo!()
}

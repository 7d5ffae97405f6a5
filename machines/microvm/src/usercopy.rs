//! Copies between the kernel and user memory of the running task.
//!
//! A page that is not there is faulted in (`traps` asks `proc::fault`, so a copy may sleep); a fault that
//! cannot be resolved ends the copy with [`Fault`]. The copying instructions stand between two labels; a
//! fault there that cannot be resolved continues at a third ([`fixup`]). Only here is RFLAGS.AC set, which
//! lets the kernel touch user pages under SMAP.

use anonmem_oslib::Errno;
use anonmem_oslib::errno::EFAULT;
use core::arch::{asm, global_asm};
use core::mem::MaybeUninit;
use core::sync::atomic::Ordering::Relaxed;

use crate::arch::cpu::has_smap;
use crate::arch::mem::{PAGE, copy_forward};
use crate::arch::percpu::this_cpu;

/// The user address is not accessible (EFAULT).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault;

impl From<Fault> for Errno {
    fn from(Fault: Fault) -> Errno {
        EFAULT
    }
}

/// Plain data: every bit pattern is a value, and there is no padding.
///
/// # Safety
///
/// The implementing type must have both properties.
pub unsafe trait Pod: Copy + 'static {}

macro_rules! pod {
    ($($type:ty),*) => {$(
        // SAFETY: an integer.
        unsafe impl Pod for $type {}
    )*};
}
pod!(u8, i8, u16, i16, u32, i32, u64, i64, usize, isize);

// SAFETY: an array of plain data is plain data.
unsafe impl<T: Pod, const N: usize> Pod for [T; N] {}

/// The end of user addresses (one page below 2^47, as in Linux).
pub const USER_END: u64 = 0x7fff_ffff_f000;

global_asm!(
    r#"
    .section .text.usercopy, "ax"
    .global user_copy_start
    .global user_copy_end
    .global user_copy_failed
    .global user_copy
    .global user_clear
    .global user_cmpxchg
    .balign 16
user_copy_start:
    # user_copy(dst, src, len) -> 0, or 1 after a fault
user_copy:
    "#,
    copy_forward!(),
    r#"
    xor eax, eax
    ret
    # user_clear(dst, len) -> 0 or 1
user_clear:
    xorps xmm0, xmm0
    cmp rsi, 16
    jb 2f
1:  movups [rdi], xmm0
    add rdi, 16
    sub rsi, 16
    cmp rsi, 16
    jae 1b
2:  test rsi, rsi
    jz 4f
3:  mov byte ptr [rdi], 0
    inc rdi
    dec rsi
    jnz 3b
4:  xor eax, eax
    ret
    # user_cmpxchg(addr, old, new, *found) -> 0 or 1
user_cmpxchg:
    mov eax, esi
    lock cmpxchg [rdi], edx
    mov [rcx], eax
    xor eax, eax
    ret
user_copy_end:
user_copy_failed:
    mov eax, 1
    ret
    "#
);

unsafe extern "C" {
    fn user_copy(dst: *mut u8, src: *const u8, len: usize) -> u32;
    fn user_clear(dst: *mut u8, len: usize) -> u32;
    fn user_cmpxchg(addr: *mut u32, old: u32, new: u32, found: *mut u32) -> u32;
    fn user_copy_start();
    fn user_copy_end();
    fn user_copy_failed();
}

/// Where a fault at the kernel address `rip` continues, if that is inside a user copy.
pub fn fixup(rip: u64) -> Option<u64> {
    let copies = user_copy_start as *const () as u64..user_copy_end as *const () as u64;
    copies.contains(&rip).then_some(user_copy_failed as *const () as u64)
}

/// Lets the kernel touch user pages while it lives.
struct UserAccess;

impl UserAccess {
    fn begin() -> UserAccess {
        if has_smap() {
            // SAFETY: the CPU has the instruction; between here and `clac` only the copy runs.
            unsafe { asm!("stac", options(nostack)) };
        }
        UserAccess
    }
}

impl Drop for UserAccess {
    fn drop(&mut self) {
        if has_smap() {
            // SAFETY: the CPU has the instruction.
            unsafe { asm!("clac", options(nostack)) };
        }
    }
}

fn check(addr: u64, len: usize) -> Result<(), Fault> {
    let end = addr.checked_add(len as u64).ok_or(Fault)?;
    if end <= USER_END { Ok(()) } else { Err(Fault) }
}

fn done(failed: u32) -> Result<(), Fault> {
    if failed == 0 { Ok(()) } else { Err(Fault) }
}

/// Copies `dst.len()` bytes from the user address `src`.
///
/// # Errors
/// [`Fault`] if some of them cannot be read; the contents of `dst` are unspecified then.
pub fn copy_from_user(dst: &mut [u8], src: u64) -> Result<(), Fault> {
    check(src, dst.len())?;
    // SAFETY: `dst` is the caller's; the source is in user space; faults end the copy.
    unsafe { copy(dst.as_mut_ptr(), src as *const u8, dst.len()) }
}

/// Copies `src` to the user address `dst`.
///
/// # Errors
/// [`Fault`] if some of the target cannot be written; a part may have been copied.
pub fn copy_to_user(dst: u64, src: &[u8]) -> Result<(), Fault> {
    check(dst, src.len())?;
    // SAFETY: the target is in user space; faults end the copy.
    unsafe { copy(dst as *mut u8, src.as_ptr(), src.len()) }
}

/// # Safety
/// One side is user memory inside user space, the other is the caller's.
unsafe fn copy(dst: *mut u8, src: *const u8, len: usize) -> Result<(), Fault> {
    let _access = UserAccess::begin();
    // SAFETY: the caller's promise.
    done(unsafe { user_copy(dst, src, len) })
}

/// Writes `len` zero bytes at the user address `dst`.
///
/// # Errors
/// [`Fault`] if some of them cannot be written.
pub fn clear_user(dst: u64, len: usize) -> Result<(), Fault> {
    check(dst, len)?;
    let _access = UserAccess::begin();
    // SAFETY: the target is in user space; faults end the loop.
    done(unsafe { user_clear(dst as *mut u8, len) })
}

/// Reads one value (no alignment needed).
///
/// # Errors
/// [`Fault`] if it cannot be read.
pub fn read_user<T: Pod>(src: u64) -> Result<T, Fault> {
    check(src, size_of::<T>())?;
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: the target has the size of T; the source is in user space.
    unsafe { copy(value.as_mut_ptr().cast(), src as *const u8, size_of::<T>()) }?;
    // SAFETY: all bytes were written, and every bit pattern is a T.
    Ok(unsafe { value.assume_init() })
}

/// Writes one value (no alignment needed).
///
/// # Errors
/// [`Fault`] if it cannot be written.
pub fn write_user<T: Pod>(dst: u64, value: T) -> Result<(), Fault> {
    check(dst, size_of::<T>())?;
    // SAFETY: T has no padding: all its bytes are initialised; the target is in user space.
    unsafe { copy(dst as *mut u8, (&raw const value).cast(), size_of::<T>()) }
}

/// Reads an aligned `u32` without faulting pages in: usable in `park`'s `validate`.
///
/// # Errors
/// [`Fault`] if the page is not there at the moment, or the address is wrong.
pub fn read_user_nofault(src: u64) -> Result<u32, Fault> {
    if !src.is_multiple_of(4) {
        return Err(Fault);
    }
    let cpu = this_cpu();
    // Kernel code is not preempted and this copy cannot sleep: it stays on this CPU.
    cpu.nofault.store(true, Relaxed);
    let value = read_user(src);
    cpu.nofault.store(false, Relaxed);
    value
}

/// Atomic compare-and-exchange of an aligned user `u32` (futex operations, robust lists): the value found.
///
/// # Errors
/// [`Fault`] if it cannot be written, or is not aligned.
pub fn cmpxchg_user(addr: u64, old: u32, new: u32) -> Result<u32, Fault> {
    check(addr, 4)?;
    if !addr.is_multiple_of(4) {
        return Err(Fault);
    }
    let mut found = 0;
    let _access = UserAccess::begin();
    // SAFETY: the word is aligned and in user space; `found` is ours.
    done(unsafe { user_cmpxchg(addr as *mut u32, old, new, &mut found) })?;
    Ok(found)
}

/// Calls `take` with the bytes of a NUL-terminated string (without the NUL), piece by piece.
///
/// # Errors
/// `EFAULT` if it runs into memory that cannot be read; those of `take`.
pub fn each_of_cstr(src: u64, mut take: impl FnMut(&[u8]) -> Result<(), Errno>) -> Result<(), Errno> {
    let mut chunk = [0; 128];
    let mut at = src;
    loop {
        // Not beyond the page: the next one may not exist, and the string may end before.
        let len = chunk.len().min((PAGE - at % PAGE) as usize);
        copy_from_user(&mut chunk[..len], at)?;
        let end = chunk[..len].iter().position(|byte| *byte == 0);
        take(&chunk[..end.unwrap_or(len)])?;
        if end.is_some() {
            return Ok(());
        }
        at = at.checked_add(len as u64).ok_or(EFAULT)?;
    }
}

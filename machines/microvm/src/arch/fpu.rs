//! The floating-point and vector state of user tasks.
//!
//! The kernel itself uses only SSE registers (never x87, AVX or the control registers), and entry
//! code saves those in the trap frame. So a task's x87, MXCSR and upper AVX state stays in the
//! registers until another user task needs them: it is saved when a task leaves its CPU, and loaded
//! when it comes back unless it is still there. In a saved image the SSE registers are the kernel's
//! leftovers; a user's are in its trap frame.
//!
//! Layout: Intel SDM volume 1, 13.4.

use alloc::alloc::{Layout, alloc_zeroed, dealloc};
use core::arch::x86_64::{__cpuid_count, _fxrstor64, _fxsave64, _xrstor64, _xsave64, _xsetbv};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use super::cpu::has_xsave;
use super::trap::TrapFrame;

/// The components that are switched: x87, SSE, AVX, AVX-512.
const COMPONENTS: u64 = 0b111 | 0b111 << 5;
const LEGACY_SIZE: usize = 512;
const FCW_DEFAULT: u16 = 0x37f;
const MXCSR_DEFAULT: u32 = 0x1f80;
const MXCSR_OFFSET: usize = 24;
const XMM_OFFSET: usize = 160;
const XSTATE_BV_OFFSET: usize = 512;

static MASK: AtomicU64 = AtomicU64::new(0);
static SIZE: AtomicUsize = AtomicUsize::new(LEGACY_SIZE);

/// Switches on this CPU's state components.
pub fn init_cpu() {
    if !has_xsave() {
        return;
    }
    let leaf = __cpuid_count(13, 0);
    let mask = (u64::from(leaf.eax) | u64::from(leaf.edx) << 32) & COMPONENTS;
    // SAFETY: CR4.OSXSAVE is on and the mask holds supported components, x87 and SSE among them.
    unsafe { xsetbv(mask) };
    MASK.store(mask, Relaxed);
    SIZE.store(__cpuid_count(13, 0).ebx as usize, Relaxed);
}

#[target_feature(enable = "xsave")]
unsafe fn xsetbv(mask: u64) {
    // SAFETY: the caller's.
    unsafe { _xsetbv(0, mask) };
}

#[target_feature(enable = "xsave")]
unsafe fn xsave(image: *mut u8) {
    // SAFETY: the caller's: an aligned area of full size.
    unsafe { _xsave64(image, MASK.load(Relaxed)) };
}

#[target_feature(enable = "xsave")]
unsafe fn xrstor(image: *const u8) {
    // SAFETY: the caller's: a valid image.
    unsafe { _xrstor64(image, MASK.load(Relaxed)) };
}

/// The size of the state image that [`save_user`] writes (an XSAVE area, standard format; at least 512).
pub fn image_size() -> usize {
    SIZE.load(Relaxed)
}

/// The state components in an image (XCR0).
pub fn image_components() -> u64 {
    if has_xsave() { MASK.load(Relaxed) } else { 0b11 }
}

/// A saved state, in memory of its own.
pub struct FpuState {
    image: NonNull<u8>,
}

// SAFETY: plain memory, owned; whoever may use the task may use it.
unsafe impl Send for FpuState {}

fn layout() -> Layout {
    Layout::from_size_align(image_size(), 64).expect("the XSAVE area is small")
}

impl FpuState {
    /// The state of a fresh program; `None` without memory for it.
    pub fn new() -> Option<FpuState> {
        // SAFETY: the layout is not empty.
        let image = unsafe { alloc_zeroed(layout()) };
        let mut state = FpuState { image: NonNull::new(image)? };
        state.reset();
        Some(state)
    }

    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the image has this size and is owned.
        unsafe { core::slice::from_raw_parts_mut(self.image.as_ptr(), image_size()) }
    }

    fn reset(&mut self) {
        let bytes = self.bytes();
        bytes.fill(0);
        bytes[..2].copy_from_slice(&FCW_DEFAULT.to_le_bytes());
        bytes[MXCSR_OFFSET..MXCSR_OFFSET + 4].copy_from_slice(&MXCSR_DEFAULT.to_le_bytes());
        if has_xsave() {
            bytes[XSTATE_BV_OFFSET] = 0b11;
        }
    }

    /// Stores the registers.
    pub fn save(&mut self) {
        let image = self.image.as_ptr();
        if has_xsave() {
            // SAFETY: the image is 64-aligned and of the size that XCR0 needs.
            unsafe { xsave(image) };
        } else {
            // SAFETY: as above, 512 bytes.
            unsafe { _fxsave64(image) };
        }
    }

    /// Loads the registers.
    pub fn restore(&self) {
        let image = self.image.as_ptr();
        if has_xsave() {
            // SAFETY: the image came from `save`, `reset` or a checked copy.
            unsafe { xrstor(image) };
        } else {
            // SAFETY: as above.
            unsafe { _fxrstor64(image) };
        }
    }
}

impl Drop for FpuState {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout.
        unsafe { dealloc(self.image.as_ptr(), layout()) };
    }
}

/// Writes the running user task's state to `image` (for a signal frame; XSAVE layout), at most
/// [`image_size`] bytes of it. `fpu` is the running task's.
pub fn save_user(fpu: &mut FpuState, frame: &TrapFrame, image: &mut [u8]) {
    fpu.save();
    let bytes = fpu.bytes();
    for (slot, xmm) in bytes[XMM_OFFSET..].chunks_exact_mut(16).zip(&frame.xmm) {
        slot.copy_from_slice(&xmm.to_le_bytes());
    }
    if has_xsave() {
        bytes[XSTATE_BV_OFFSET] |= 0b11;
    }
    let len = image.len().min(bytes.len());
    image[..len].copy_from_slice(&bytes[..len]);
}

/// Loads the running user task's state from `image`, from user memory: invalid bits are cleared. An
/// image of 512 bytes has only the legacy part (the rest starts fresh). `fpu` is the running task's.
pub fn restore_user(fpu: &mut FpuState, frame: &mut TrapFrame, image: &[u8]) {
    if image.len() < LEGACY_SIZE {
        return;
    }
    fpu.reset();
    let full = has_xsave() && image.len() >= image_size();
    let bytes = fpu.bytes();
    let len = if full { image_size() } else { LEGACY_SIZE };
    bytes[..len].copy_from_slice(&image[..len]);
    for i in 0..4 {
        let valid = [0xff, 0xff, 0, 0];
        bytes[MXCSR_OFFSET + i] &= valid[i];
    }
    if full {
        sanitize_header(&mut bytes[XSTATE_BV_OFFSET..]);
    }
    for (xmm, slot) in frame.xmm.iter_mut().zip(image[XMM_OFFSET..].chunks_exact(16)) {
        *xmm = u128::from_le_bytes(slot.try_into().expect("chunks of 16"));
    }
    fpu.restore();
}

/// The XSAVE header: only known components, standard format, reserved bytes zero (else XRSTOR faults).
fn sanitize_header(header: &mut [u8]) {
    let stated = u64::from_le_bytes(header[..8].try_into().expect("eight bytes"));
    header[..64].fill(0);
    header[..8].copy_from_slice(&((stated & MASK.load(Relaxed)) | 0b11).to_le_bytes());
}

/// The state that a program has after execve. `fpu` is the running task's.
pub fn reset_user(fpu: &mut FpuState, frame: &mut TrapFrame) {
    frame.xmm = [0; 16];
    fpu.reset();
    fpu.restore();
}

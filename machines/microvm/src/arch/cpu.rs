//! The CPU's features: found on the first CPU, switched on on each.

use core::arch::x86_64::{__cpuid, __cpuid_count};
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

use x86_64::registers::control::{Cr0, Cr0Flags, Cr4, Cr4Flags, Efer, EferFlags};
use x86_64::registers::model_specific::Msr;

use super::entry::syscall_entry;
use super::gdt::{KERNEL_CS, USER_CS32};
use super::trap::RFLAGS_IF;

static SMAP: AtomicBool = AtomicBool::new(false);
static XSAVE: AtomicBool = AtomicBool::new(false);
static RDRAND: AtomicBool = AtomicBool::new(false);

const IA32_STAR: u32 = 0xc000_0081;
const IA32_LSTAR: u32 = 0xc000_0082;
const IA32_FMASK: u32 = 0xc000_0084;
/// What `syscall` clears: TF, IF, DF, IOPL, NT, RF, AC.
const SYSCALL_MASK: u64 = 1 << 8 | RFLAGS_IF | 1 << 10 | 3 << 12 | 1 << 14 | 1 << 16 | 1 << 18;

/// Whether supervisor-mode access prevention is on.
pub fn has_smap() -> bool {
    SMAP.load(Relaxed)
}

/// Whether XSAVE is on.
pub fn has_xsave() -> bool {
    XSAVE.load(Relaxed)
}

/// Whether the CPU has a random number generator.
pub fn has_rdrand() -> bool {
    RDRAND.load(Relaxed)
}

/// Whether 1 GiB pages exist.
pub fn has_gigabyte_pages() -> bool {
    __cpuid(0x8000_0000).eax >= 0x8000_0001 && __cpuid(0x8000_0001).edx & 1 << 26 != 0
}

/// CPUID leaf 1, EDX: what Linux gives a program as AT_HWCAP.
pub fn hwcap() -> u32 {
    __cpuid(1).edx
}

/// Switches on what the kernel uses: write protection, NX, SMEP, SMAP, SSE and XSAVE, `syscall`.
pub fn init() {
    let features = __cpuid(1);
    let more = if __cpuid(0).eax >= 7 { __cpuid_count(7, 0).ebx } else { 0 };
    RDRAND.store(features.ecx & 1 << 30 != 0, Relaxed);
    let mut cr4 = Cr4Flags::PHYSICAL_ADDRESS_EXTENSION
        | Cr4Flags::PAGE_GLOBAL
        | Cr4Flags::OSFXSR
        | Cr4Flags::OSXMMEXCPT_ENABLE;
    if more & 1 << 7 != 0 {
        cr4 |= Cr4Flags::SUPERVISOR_MODE_EXECUTION_PROTECTION;
    }
    let smap = more & 1 << 20 != 0;
    if smap {
        cr4 |= Cr4Flags::SUPERVISOR_MODE_ACCESS_PREVENTION;
    }
    let xsave = features.ecx & 1 << 26 != 0;
    if xsave {
        cr4 |= Cr4Flags::OSXSAVE;
    }
    // SAFETY: the kernel is prepared for each: its pages are supervisor pages, user copies use
    // STAC/CLAC (`SMAP` is set below, before the first copy), SSE and XSAVE state is switched.
    unsafe { Cr4::write(cr4) };
    SMAP.store(smap, Relaxed);
    XSAVE.store(xsave, Relaxed);
    let cr0 = Cr0Flags::PROTECTED_MODE_ENABLE
        | Cr0Flags::MONITOR_COPROCESSOR
        | Cr0Flags::EXTENSION_TYPE
        | Cr0Flags::NUMERIC_ERROR
        | Cr0Flags::WRITE_PROTECT
        | Cr0Flags::PAGING;
    // SAFETY: paging and protection are on already; write protection only makes kernel writes to
    // read-only pages fault.
    unsafe { Cr0::write(cr0) };
    let efer = EferFlags::LONG_MODE_ENABLE | EferFlags::NO_EXECUTE_ENABLE | EferFlags::SYSTEM_CALL_EXTENSIONS;
    // SAFETY: LME stays as it is.
    unsafe { Efer::write(efer) };
    write_msr(IA32_STAR, u64::from(USER_CS32) << 48 | u64::from(KERNEL_CS) << 32);
    write_msr(IA32_LSTAR, syscall_entry as *const () as u64);
    write_msr(IA32_FMASK, SYSCALL_MASK);
}

fn write_msr(msr: u32, value: u64) {
    // SAFETY: the callers write the documented system-call registers with this kernel's entry point.
    unsafe { Msr::new(msr).write(value) };
}

//! The code of the vdso: what programs read of the clocks without a system call.
//!
//! A page of numbers, [`data`], lies before the image. It says how the time stamp counter becomes
//! nanoseconds; the numbers stay what they are from boot on, so nobody has to look twice. What the code does
//! not know it asks the kernel: clocks of processes, the CPU. It is copied, so it names nothing but itself.
//! Linux: arch/x86/entry/vdso, lib/vdso/gettimeofday.c.

use super::time;
use anonmem_oslib::vdso::{self, Symbol};
use core::arch::global_asm;

/// Bytes of the page of numbers.
const DATA: usize = 4096;

global_asm!(
    r#"
    .pushsection .rodata.vdso, "a"
    .balign 16
    vdso_begin:

    // Nanoseconds since boot into rax, plus r9; r8 has the page of numbers. Changes rdx.
    .macro VDSO_NOW
    lfence
    rdtsc
    shl rdx, 32
    or rax, rdx
    sub rax, [r8]
    mul qword ptr [r8 + 8]
    shrd rax, rdx, 32
    add rax, r9
    .endm
    // The page of numbers into r8, the time of day of boot into r9.
    .macro VDSO_DATA
    lea r8, [rip + vdso_begin - ({code_at} + {data})]
    mov r9, [r8 + 16]
    .endm
    // Seconds into rax, the rest of rax nanoseconds into rdx. Changes rcx.
    .macro VDSO_SECONDS
    xor edx, edx
    mov ecx, 1000000000
    div rcx
    .endm

    .balign 16
    vdso_clock_gettime:
    cmp edi, 11
    ja 13f
    mov eax, 1
    mov ecx, edi
    shl eax, cl
    VDSO_DATA
    test eax, {wall_clocks}
    jnz 12f
    xor r9d, r9d
    test eax, {boot_clocks}
    jz 13f
    12:
    VDSO_NOW
    VDSO_SECONDS
    mov [rsi], rax
    mov [rsi + 8], rdx
    xor eax, eax
    ret
    13:
    mov eax, 228
    syscall
    ret
    vdso_clock_gettime_end:

    .balign 16
    vdso_clock_getres:
    mov eax, 229
    syscall
    ret
    vdso_clock_getres_end:

    .balign 16
    vdso_gettimeofday:
    test rdi, rdi
    jz 12f
    VDSO_DATA
    VDSO_NOW
    VDSO_SECONDS
    mov [rdi], rax
    mov eax, edx
    xor edx, edx
    mov ecx, 1000
    div ecx
    mov [rdi + 8], rax
    12:
    test rsi, rsi
    jz 13f
    mov qword ptr [rsi], 0
    13:
    xor eax, eax
    ret
    vdso_gettimeofday_end:

    .balign 16
    vdso_time:
    VDSO_DATA
    VDSO_NOW
    VDSO_SECONDS
    test rdi, rdi
    jz 12f
    mov [rdi], rax
    12:
    ret
    vdso_time_end:

    .balign 16
    vdso_getcpu:
    mov eax, 309
    syscall
    ret
    vdso_getcpu_end:
    vdso_end:
    .popsection
    "#,
    code_at = const vdso::CODE_AT,
    data = const DATA,
    // CLOCK_REALTIME, CLOCK_REALTIME_COARSE, CLOCK_TAI.
    wall_clocks = const 1 << 0 | 1 << 5 | 1 << 11,
    // CLOCK_MONOTONIC, CLOCK_MONOTONIC_RAW, CLOCK_MONOTONIC_COARSE, CLOCK_BOOTTIME.
    boot_clocks = const 1 << 1 | 1 << 4 | 1 << 6 | 1 << 7,
);

macro_rules! places {
    ($($name:ident),*) => {
        unsafe extern "C" {
            $(static $name: u8;)*
        }
    };
}

places!(vdso_begin, vdso_end, vdso_clock_gettime, vdso_clock_gettime_end, vdso_clock_getres);
places!(vdso_clock_getres_end, vdso_gettimeofday, vdso_gettimeofday_end, vdso_time, vdso_time_end);
places!(vdso_getcpu, vdso_getcpu_end);

/// The code.
pub fn code() -> &'static [u8] {
    let len = (&raw const vdso_end).addr() - (&raw const vdso_begin).addr();
    // SAFETY: the bytes between the two labels are the code above, which nobody changes.
    unsafe { core::slice::from_raw_parts(&raw const vdso_begin, len) }
}

/// Its functions.
pub fn symbols() -> [Symbol; 5] {
    let begin = (&raw const vdso_begin).addr();
    [
        ("clock_gettime", &raw const vdso_clock_gettime, &raw const vdso_clock_gettime_end),
        ("clock_getres", &raw const vdso_clock_getres, &raw const vdso_clock_getres_end),
        ("gettimeofday", &raw const vdso_gettimeofday, &raw const vdso_gettimeofday_end),
        ("time", &raw const vdso_time, &raw const vdso_time_end),
        ("getcpu", &raw const vdso_getcpu, &raw const vdso_getcpu_end),
    ]
    .map(|(name, at, end)| Symbol { name, at: at.addr() - begin, len: end.addr() - at.addr() })
}

/// The numbers that the code reads: where the counter began, what a tick is, when that was.
pub fn data() -> [u64; 3] {
    time::scale()
}

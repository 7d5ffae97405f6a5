//! Physical memory as the kernel sees it, and the `memcpy` family that the compiler calls.

/// A physical address.
pub type PhysAddr = u64;

/// Where the direct map of physical memory starts (the number that Linux uses).
pub const DIRECT_MAP: u64 = 0xffff_8880_0000_0000;
/// Where kernel stacks with their guard pages are mapped (Linux: the vmalloc area).
pub const STACK_AREA: u64 = 0xffff_c900_0000_0000;
/// Where the kernel image is linked, minus its physical address.
pub const KERNEL_VMA: u64 = 0xffff_ffff_8000_0000;
/// The size of a page.
pub const PAGE: u64 = 4096;

/// The kernel's view of a physical address.
pub fn direct(addr: PhysAddr) -> *mut u8 {
    (DIRECT_MAP + addr) as *mut u8
}

/// The physical address behind a direct-map or kernel-image pointer.
pub fn phys_of<T: ?Sized>(ptr: *const T) -> PhysAddr {
    let va = ptr.cast::<u8>() as u64;
    if va >= KERNEL_VMA { va - KERNEL_VMA } else { va - DIRECT_MAP }
}

/// Rounds up to a page.
pub fn page_up(addr: u64) -> u64 {
    (addr + PAGE - 1) & !(PAGE - 1)
}

/// Rounds down to a page.
pub fn page_down(addr: u64) -> u64 {
    addr & !(PAGE - 1)
}

/// Copies RDX bytes from RSI to RDI, upwards, and falls through; uses RCX and XMM0 to XMM3. What `memcpy` and
/// the copies from and to user memory share: the latter must know where each instruction is that may fault.
macro_rules! copy_forward {
    () => {
        r#"
    cmp rdx, 64
    jb 2f
1:  movups xmm0, [rsi]
    movups xmm1, [rsi + 16]
    movups xmm2, [rsi + 32]
    movups xmm3, [rsi + 48]
    movups [rdi], xmm0
    movups [rdi + 16], xmm1
    movups [rdi + 32], xmm2
    movups [rdi + 48], xmm3
    add rsi, 64
    add rdi, 64
    sub rdx, 64
    cmp rdx, 64
    jae 1b
2:  cmp rdx, 8
    jb 4f
3:  mov rcx, [rsi]
    mov [rdi], rcx
    add rsi, 8
    add rdi, 8
    sub rdx, 8
    cmp rdx, 8
    jae 3b
4:  cmp rdx, 4
    jb 5f
    mov ecx, [rsi]
    mov [rdi], ecx
    add rsi, 4
    add rdi, 4
    sub rdx, 4
5:  test rdx, rdx
    jz 7f
6:  mov cl, [rsi]
    mov [rdi], cl
    inc rsi
    inc rdi
    dec rdx
    jnz 6b
7:
"#
    };
}
pub(crate) use copy_forward;

// The functions below are written in assembly: in Rust, the compiler would recognise the loops and
// replace them by calls of themselves. 64 bytes per turn through SSE registers: an emulated CPU pays
// per instruction, and `rep movsb` is one instruction per byte there.
core::arch::global_asm!(
    r#"
    .section .text.memfuncs, "ax"
    .global memcpy
    .global memmove
    .global memset
    .global memcmp
    .global bcmp
    .global strlen
    .balign 16
memmove:
    mov rax, rdi
    sub rax, rsi
    cmp rax, rdx
    jb 9f
memcpy:
    mov rax, rdi
    "#,
    copy_forward!(),
    r#"
    ret
    # The destination starts inside the source: copy from the end.
9:  mov rax, rdi
    add rsi, rdx
    add rdi, rdx
10: cmp rdx, 8
    jb 12f
    sub rsi, 8
    sub rdi, 8
    mov rcx, [rsi]
    mov [rdi], rcx
    sub rdx, 8
    jmp 10b
12: test rdx, rdx
    jz 14f
13: dec rsi
    dec rdi
    mov cl, [rsi]
    mov [rdi], cl
    dec rdx
    jnz 13b
14: ret

    .balign 16
memset:
    mov rax, rdi
    movzx ecx, sil
    mov rsi, 0x0101010101010101
    imul rcx, rsi
    cmp rdx, 64
    jb 2f
    movq xmm0, rcx
    punpcklqdq xmm0, xmm0
1:  movups [rdi], xmm0
    movups [rdi + 16], xmm0
    movups [rdi + 32], xmm0
    movups [rdi + 48], xmm0
    add rdi, 64
    sub rdx, 64
    cmp rdx, 64
    jae 1b
2:  cmp rdx, 8
    jb 4f
3:  mov [rdi], rcx
    add rdi, 8
    sub rdx, 8
    cmp rdx, 8
    jae 3b
4:  test rdx, rdx
    jz 6f
5:  mov [rdi], cl
    inc rdi
    dec rdx
    jnz 5b
6:  ret

    .balign 16
memcmp:
bcmp:
    cmp rdx, 8
    jb 2f
1:  mov rcx, [rdi]
    cmp rcx, [rsi]
    jne 2f
    add rdi, 8
    add rsi, 8
    sub rdx, 8
    cmp rdx, 8
    jae 1b
2:  test rdx, rdx
    jz 4f
    # The next eight bytes differ, or fewer are left.
3:  movzx eax, byte ptr [rdi]
    movzx ecx, byte ptr [rsi]
    sub eax, ecx
    jne 5f
    inc rdi
    inc rsi
    dec rdx
    jnz 3b
4:  xor eax, eax
5:  ret

    .balign 16
strlen:
    xor eax, eax
1:  cmp byte ptr [rdi + rax], 0
    je 2f
    inc rax
    jmp 1b
2:  ret
"#
);

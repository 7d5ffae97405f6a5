//! The PVH entry: from 32-bit protected mode without paging to Rust in the upper half.
//!
//! The loader (QEMU) jumps to `pvh_start` with the physical address of `hvm_start_info` in EBX. The boot
//! tables map the first 4 GiB three times: at 0 (this code), at the direct map, and the first 2 GiB at
//! the kernel's link address. `paging::init` replaces them; application processors pass through them.
//!
//! Reference: xen/include/public/arch-x86/hvm/start_info.h (the layout), the PVH boot ABI.

use core::arch::global_asm;

global_asm!(
    r#"
    .section .note.pvh, "a", @note
    .balign 4
    .long 4
    .long 8
    .long 18
    .asciz "Xen"
    .quad pvh_start

    .section .boot.text, "ax"
    .code32
    .global pvh_start
pvh_start:
    cli
    cld
    movl %ebx, boot_start_info

    movl $boot_pd, %edi
    movl $0x83, %eax
    movl $2048, %ecx
1:  movl %eax, (%edi)
    movl $0, 4(%edi)
    addl $0x200000, %eax
    addl $8, %edi
    decl %ecx
    jnz 1b

    movl $(boot_pd + 0x0003), boot_p3_low
    movl $(boot_pd + 0x1003), boot_p3_low + 8
    movl $(boot_pd + 0x2003), boot_p3_low + 16
    movl $(boot_pd + 0x3003), boot_p3_low + 24
    movl $(boot_pd + 0x0003), boot_p3_high + 510 * 8
    movl $(boot_pd + 0x1003), boot_p3_high + 511 * 8
    movl $(boot_p3_low + 3), boot_p4
    movl $(boot_p3_low + 3), boot_p4 + 273 * 8
    movl $(boot_p3_high + 3), boot_p4 + 511 * 8

    call enter_long_mode
    ljmp $0x10, $pvh_long

    # Turns on paging with the boot tables; shared with the application processors.
    .global enter_long_mode
enter_long_mode:
    movl $0x6a0, %eax           # PAE, PGE, OSFXSR, OSXMMEXCPT
    movl %eax, %cr4
    movl $boot_p4, %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx      # EFER: SCE, LME, NXE
    rdmsr
    orl $0x901, %eax
    wrmsr
    movl $0x80010033, %eax      # PG, WP, NE, ET, MP, PE
    movl %eax, %cr0
    lgdt boot_gdt_pointer
    ret

    .code64
pvh_long:
    movl $0x18, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    xorl %eax, %eax
    movl %eax, %fs
    movl %eax, %gs
    movabsq $boot_stack_top, %rsp
    xorl %ebp, %ebp
    movl boot_start_info, %edi
    movabsq $kernel_entry, %rax
    call *%rax
    ud2

    .section .boot.data, "aw"
    .balign 16
boot_gdt:
    .quad 0
    .quad 0
    .quad 0x00af9b000000ffff    # 0x10: 64-bit code
    .quad 0x00cf93000000ffff    # 0x18: data
boot_gdt_end:
    .global boot_gdt_pointer
boot_gdt_pointer:
    .word boot_gdt_end - boot_gdt - 1
    .quad boot_gdt
boot_start_info:
    .long 0

    .section .boot.bss, "aw", @nobits
    .balign 4096
boot_p4:      .skip 4096
boot_p3_low:  .skip 4096
boot_p3_high: .skip 4096
boot_pd:      .skip 4096 * 4

    .section .bss.boot_stack, "aw", @nobits
    .balign 4096
    .global boot_stack
boot_stack:   .skip 0x200000
boot_stack_top:
    "#,
    options(att_syntax)
);

unsafe extern "C" {
    static boot_stack: u64;
}

/// Panics if the first CPU's stack was used to its last word, below which are the kernel's own data: the
/// memory manager is made on it, by value.
pub fn check_stack() {
    // SAFETY: the lowest word of the boot stack, which is the kernel's; zero until somebody gets there.
    let word = unsafe { (&raw const boot_stack).read_volatile() };
    assert!(word == 0, "the boot stack overflowed: raise it in boot/entry.rs");
}

//! The processor: how the kernel starts, how it enters a program, and how the program comes back.
//!
//! Interrupts stay off. A trap comes from a program only, and the processor pushes the program's registers
//! onto the end of [`FRAME`], which the stub behind the gate fills. So [`run`] looks like a call.

use core::arch::{asm, global_asm};
use core::cell::UnsafeCell;

/// A value that the one CPU uses, without interrupts.
#[repr(C, align(16))]
pub struct Single<T>(pub UnsafeCell<T>);
// SAFETY: there is one CPU, and nothing interrupts it.
unsafe impl<T> Sync for Single<T> {}

/// The registers of a program, in the order in which `trap` pushes them: r15 to r8, rbp, rdi, rsi, rdx, rcx,
/// rbx, rax, then the vector, and what the processor pushes: error code, rip, cs, rflags, rsp, ss.
pub type Regs = [u64; 22];
pub const RDI: usize = 9;
pub const RSI: usize = 10;
pub const RAX: usize = 14;
pub const VECTOR: usize = 15;
pub const ERROR: usize = 16;

/// A program that starts at `rip`.
pub fn start_at(rip: u64) -> Regs {
    let mut regs = [0; 22];
    regs[17..].copy_from_slice(&[rip, 0x2b, 2, 0, 0x23]);
    regs
}

static FRAME: Single<Regs> = Single(UnsafeCell::new([0; 22]));
static TSS: Single<[u32; 26]> = Single(UnsafeCell::new([0; 26]));
static IDT: Single<[u128; 129]> = Single(UnsafeCell::new([0; 129]));

unsafe extern "C" {
    static gdt: Single<[u64; 8]>;
    fn enter_program(frame: *mut Regs);
    fn trap_6();
    fn trap_13();
    fn trap_14();
    fn trap_128();
}

/// Loads the tables that lead traps to [`FRAME`].
pub fn init() {
    let (frame, tss, idt) = (FRAME.0.get() as u64, TSS.0.get(), IDT.0.get());
    let top = frame + size_of::<Regs>() as u64;
    let gates = [(6, trap_6 as *const ()), (13, trap_13 as _), (14, trap_14 as _), (128, trap_128 as _)];
    let pointer = |table: u64, limit| {
        [limit, table as u16, (table >> 16) as u16, (table >> 32) as u16, (table >> 48) as u16]
    };
    // SAFETY: the tables are this module's, before any trap; `gdt` has room for the TSS at its end.
    unsafe {
        tss.cast::<u32>().add(1).cast::<u64>().write_unaligned(top);
        for (vector, stub) in gates {
            let (stub, dpl) = (stub as u128, if vector == 128 { 3 } else { 0 });
            let low = stub & 0xffff | 0x10 << 16 | (0x8e | dpl << 5) << 40;
            idt.cast::<u128>().add(vector).write(low | (stub >> 16 & 0xffff) << 48 | (stub >> 32) << 64);
        }
        let (entry, base) = (gdt.0.get().cast::<u64>(), tss as u64);
        entry.add(6).write(103 | (base & 0xff_ffff) << 16 | 0x89 << 40 | (base >> 24 & 0xff) << 56);
        entry.add(7).write(base >> 32);
        asm!("lgdt [{}]", "lidt [{}]", in(reg) &pointer(gdt.0.get() as u64, 63), in(reg) &pointer(idt as u64, 2063));
        asm!("ltr {:x}", in(reg) 0x30);
    }
}

/// Runs the program until it traps.
pub fn run(regs: &mut Regs) {
    let frame = FRAME.0.get();
    // SAFETY: the frame is free while the kernel runs; the registers are those of ring 3.
    unsafe {
        *frame = *regs;
        enter_program(frame);
        *regs = *frame;
    }
}

/// Where a page fault was.
pub fn fault_address() -> u64 {
    let va;
    // SAFETY: it only reads.
    unsafe { asm!("mov {}, cr2", out(reg) va) };
    va
}

/// Forgets all translations: loads the same table again.
pub fn forget_all() {
    // SAFETY: nothing changes.
    unsafe { asm!("mov {0}, cr3", "mov cr3, {0}", out(reg) _) };
}

/// Loads a top-level table, which maps the kernel. The processor forgets all translations.
pub fn load_root(root: u64) {
    // SAFETY: what the caller says.
    unsafe { asm!("mov cr3, {}", in(reg) root) };
}

/// Forgets one translation.
pub fn forget(va: u64) {
    // SAFETY: it only forgets.
    unsafe { asm!("invlpg [{}]", in(reg) va) };
}

/// Writes to a port.
pub fn out(port: u16, value: u8) {
    // SAFETY: the ports of this kernel are a serial line and QEMU's exit.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value) };
}

global_asm!(
    r#"
    .section .note.pvh, "a", @note
    .long 4, 8, 18; .asciz "Xen"; .quad pvh_start

    # From 32-bit mode without paging: the first GiB three times, at 0, at the direct map, at the kernel.
    .section .boot, "awx"
    .code32
pvh_start:
    movl $boot_p2, %edi
    movl $0x83, %eax
1:  movl %eax, (%edi)
    addl $0x200000, %eax; addl $8, %edi
    cmpl $boot_p2 + 4096, %edi; jne 1b
    movl $boot_p2 + 3, boot_p3; movl $boot_p2 + 3, boot_p3 + 510 * 8
    movl $boot_p3 + 3, boot_p4; movl $boot_p3 + 3, boot_p4 + 256 * 8; movl $boot_p3 + 3, boot_p4 + 511 * 8
    movl $0x620, %eax; movl %eax, %cr4                                      # PAE, OSFXSR, OSXMMEXCPT
    movl $boot_p4, %eax; movl %eax, %cr3
    movl $0xc0000080, %ecx; movl $0x900, %eax; xorl %edx, %edx; wrmsr       # EFER: LME, NXE
    movl $0x80010033, %eax; movl %eax, %cr0                                 # PG, WP, NE, ET, MP, PE
    lgdt boot_gdt; ljmp $0x10, $2f
    .code64
2:  movl $0x18, %eax; movl %eax, %ss; movl %eax, %ds; movl %eax, %es
    movabsq $stack_top, %rsp
    movl %ebx, %edi; movabsq $kernel_main, %rax; call *%rax
boot_gdt: .word 63; .long gdt_loaded
    .section .boot.bss, "aw"
    .balign 4096
    .global boot_p4
boot_p4: .skip 4096; boot_p3: .skip 4096; boot_p2: .skip 4096

    .data
    .balign 16; .global gdt
gdt:                                # kernel code and data, user data and code, room for the TSS
    .quad 0, 0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0x00cff3000000ffff, 0x00affb000000ffff, 0, 0
kernel_rsp: .quad 0
    .bss
    .balign 16; .skip 0x10000
stack_top:

    .text
    .global enter_program, trap_6, trap_13, trap_14, trap_128
enter_program:
    push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15
    mov %rsp, kernel_rsp(%rip); mov %rdi, %rsp
    pop %r15; pop %r14; pop %r13; pop %r12; pop %r11; pop %r10; pop %r9; pop %r8
    pop %rbp; pop %rdi; pop %rsi; pop %rdx; pop %rcx; pop %rbx; pop %rax
    add $16, %rsp; iretq
trap_6:   push $0; push $6; jmp trap
trap_13:  push $13; jmp trap
trap_14:  push $14; jmp trap
trap_128: push $0; push $128
trap:
    push %rax; push %rbx; push %rcx; push %rdx; push %rsi; push %rdi; push %rbp
    push %r8; push %r9; push %r10; push %r11; push %r12; push %r13; push %r14; push %r15
    cld; mov kernel_rsp(%rip), %rsp
    pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx; ret

    # What the compiler calls.
    .global memcpy, memmove, memset, memcmp, bcmp
memmove: cmp %rdi, %rsi; jae memcpy
    lea -1(%rdi, %rdx), %rdi; lea -1(%rsi, %rdx), %rsi; mov %rdx, %rcx; std; rep movsb; cld; lea 1(%rdi), %rax; ret
memcpy: mov %rdi, %rax; mov %rdx, %rcx; rep movsb; ret
memset: mov %rdi, %r8; mov %esi, %eax; mov %rdx, %rcx; rep stosb; mov %r8, %rax; ret
bcmp:
memcmp: mov %rdx, %rcx; cmp %eax, %eax; repe cmpsb; setb %al; seta %cl; sub %cl, %al; movsbl %al, %eax; ret
    "#,
    options(att_syntax)
);

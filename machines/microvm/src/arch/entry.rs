//! Entry and exit code.
//!
//! Interrupt gates switch to an interrupt stack with interrupts off. `trap_common` takes the hardware's
//! frame from there to the stack where the work is done: the task's kernel stack if user code was
//! interrupted; below the red zone of the interrupted stack if kernel code was. There it completes a
//! [`TrapFrame`]. So the interrupt stack is free again before anything can
//! nest, and a page fault of a user copy may sleep.
//!
//! A double fault stays on its own stack: the kernel stack may be what is broken.

use core::arch::global_asm;

use super::trap::TrapFrame;
use core::mem::offset_of;

global_asm!(
    r#"
    .macro SAVE_XMM
    movaps [rsp + 0x00], xmm0
    movaps [rsp + 0x10], xmm1
    movaps [rsp + 0x20], xmm2
    movaps [rsp + 0x30], xmm3
    movaps [rsp + 0x40], xmm4
    movaps [rsp + 0x50], xmm5
    movaps [rsp + 0x60], xmm6
    movaps [rsp + 0x70], xmm7
    movaps [rsp + 0x80], xmm8
    movaps [rsp + 0x90], xmm9
    movaps [rsp + 0xa0], xmm10
    movaps [rsp + 0xb0], xmm11
    movaps [rsp + 0xc0], xmm12
    movaps [rsp + 0xd0], xmm13
    movaps [rsp + 0xe0], xmm14
    movaps [rsp + 0xf0], xmm15
    .endm
    .macro RESTORE_XMM
    movaps xmm0, [rsp + 0x00]
    movaps xmm1, [rsp + 0x10]
    movaps xmm2, [rsp + 0x20]
    movaps xmm3, [rsp + 0x30]
    movaps xmm4, [rsp + 0x40]
    movaps xmm5, [rsp + 0x50]
    movaps xmm6, [rsp + 0x60]
    movaps xmm7, [rsp + 0x70]
    movaps xmm8, [rsp + 0x80]
    movaps xmm9, [rsp + 0x90]
    movaps xmm10, [rsp + 0xa0]
    movaps xmm11, [rsp + 0xb0]
    movaps xmm12, [rsp + 0xc0]
    movaps xmm13, [rsp + 0xd0]
    movaps xmm14, [rsp + 0xe0]
    movaps xmm15, [rsp + 0xf0]
    .endm
    # All but RAX and RCX, which entry code needs before.
    .macro SAVE_REGS
    mov [rsp + {r15}], r15
    mov [rsp + {r14}], r14
    mov [rsp + {r13}], r13
    mov [rsp + {r12}], r12
    mov [rsp + {r11}], r11
    mov [rsp + {r10}], r10
    mov [rsp + {r9}], r9
    mov [rsp + {r8}], r8
    mov [rsp + {rbp}], rbp
    mov [rsp + {rdi}], rdi
    mov [rsp + {rsi}], rsi
    mov [rsp + {rdx}], rdx
    mov [rsp + {rbx}], rbx
    .endm
    # All but RCX, R11 and RSP.
    .macro RESTORE_REGS
    mov r15, [rsp + {r15}]
    mov r14, [rsp + {r14}]
    mov r13, [rsp + {r13}]
    mov r12, [rsp + {r12}]
    mov r10, [rsp + {r10}]
    mov r9, [rsp + {r9}]
    mov r8, [rsp + {r8}]
    mov rbp, [rsp + {rbp}]
    mov rdi, [rsp + {rdi}]
    mov rsi, [rsp + {rsi}]
    mov rdx, [rsp + {rdx}]
    mov rbx, [rsp + {rbx}]
    mov rax, [rsp + {rax}]
    .endm

    .text
    .balign 16
    .global trap_stubs
trap_stubs:
    .set vector, 0
    .rept 256
    .balign 16
    .if vector != 8 && (vector < 10 || vector > 14) && vector != 17 && vector != 21 && vector != 29 && vector != 30
    push 0
    .endif
    push vector
    jmp trap_common
    .set vector, vector + 1
    .endr

    .balign 16
trap_common:
    # On the interrupt stack: vector, error, rip, cs, rflags, rsp, ss.
    cld
    push rax
    push rcx
    cmp qword ptr [rsp + 16], 8
    je 3f
    test byte ptr [rsp + 40], 3
    jz 1f
    swapgs
    mov rax, gs:[8]
    jmp 2f
3:  lea rax, [rsp - 64]
    and rax, -16
    jmp 2f
1:  mov rax, [rsp + 56]
    sub rax, 128
    and rax, -16
2:  sub rax, {size}
    mov rcx, [rsp]
    mov [rax + {rcx}], rcx
    mov rcx, [rsp + 8]
    mov [rax + {rax}], rcx
    mov rcx, [rsp + 16]
    mov [rax + {vector}], rcx
    mov rcx, [rsp + 24]
    mov [rax + {error}], rcx
    mov rcx, [rsp + 32]
    mov [rax + {rip}], rcx
    mov rcx, [rsp + 40]
    mov [rax + {cs}], rcx
    mov rcx, [rsp + 48]
    mov [rax + {rflags}], rcx
    mov rcx, [rsp + 56]
    mov [rax + {rsp}], rcx
    mov rcx, [rsp + 64]
    mov [rax + {ss}], rcx
    mov rsp, rax
    SAVE_REGS
    SAVE_XMM
    mov rdi, rsp
    xor ebp, ebp
    call trap_dispatch
trap_return:
    RESTORE_XMM
    test byte ptr [rsp + {cs}], 3
    jz 4f
    swapgs
4:  RESTORE_REGS
    mov rcx, [rsp + {rcx}]
    mov r11, [rsp + {r11}]
    add rsp, {rip}
    iretq

    .balign 16
    .global syscall_entry
syscall_entry:
    swapgs
    mov gs:[16], rsp
    mov rsp, gs:[8]
    sub rsp, {size}
    mov [rsp + {rip}], rcx
    mov [rsp + {rcx}], rcx
    mov [rsp + {rflags}], r11
    mov [rsp + {rax}], rax
    mov [rsp + {error}], rax
    mov qword ptr [rsp + {vector}], 256
    mov qword ptr [rsp + {cs}], 0x33
    mov qword ptr [rsp + {ss}], 0x2b
    mov rax, gs:[16]
    mov [rsp + {rsp}], rax
    SAVE_REGS
    SAVE_XMM
    mov rdi, rsp
    xor ebp, ebp
    call syscall_dispatch
    test eax, eax
    jz trap_return
    # RCX = RIP, R11 = RFLAGS, RIP canonical: the quick way out.
    RESTORE_XMM
    RESTORE_REGS
    mov rcx, [rsp + {rip}]
    mov r11, [rsp + {rflags}]
    mov rsp, [rsp + {rsp}]
    swapgs
    sysretq

    # Where a new user task starts: its frame is on top of its kernel stack.
    .balign 16
    .global new_user_task
new_user_task:
    mov rdi, rsp
    xor ebp, ebp
    call new_user_task_return
    jmp trap_return

    # Where a new kernel task starts: entry in RBX, argument in R12.
    .balign 16
    .global new_kernel_task
new_kernel_task:
    mov rdi, rbx
    mov rsi, r12
    xor ebp, ebp
    call kernel_task_main
    ud2

    # switch_context(save: *mut u64, load: u64): interrupts are off on both sides.
    .balign 16
    .global switch_context
switch_context:
    push rbp
    push rbx
    push r12
    push r13
    push r14
    push r15
    mov [rdi], rsp
    mov rsp, rsi
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbx
    pop rbp
    ret
    "#,
    size = const size_of::<TrapFrame>(),
    r15 = const offset_of!(TrapFrame, r15),
    r14 = const offset_of!(TrapFrame, r14),
    r13 = const offset_of!(TrapFrame, r13),
    r12 = const offset_of!(TrapFrame, r12),
    r11 = const offset_of!(TrapFrame, r11),
    r10 = const offset_of!(TrapFrame, r10),
    r9 = const offset_of!(TrapFrame, r9),
    r8 = const offset_of!(TrapFrame, r8),
    rbp = const offset_of!(TrapFrame, rbp),
    rdi = const offset_of!(TrapFrame, rdi),
    rsi = const offset_of!(TrapFrame, rsi),
    rdx = const offset_of!(TrapFrame, rdx),
    rcx = const offset_of!(TrapFrame, rcx),
    rbx = const offset_of!(TrapFrame, rbx),
    rax = const offset_of!(TrapFrame, rax),
    vector = const offset_of!(TrapFrame, vector),
    error = const offset_of!(TrapFrame, error),
    rip = const offset_of!(TrapFrame, rip),
    cs = const offset_of!(TrapFrame, cs),
    rflags = const offset_of!(TrapFrame, rflags),
    rsp = const offset_of!(TrapFrame, rsp),
    ss = const offset_of!(TrapFrame, ss),
);

unsafe extern "C" {
    /// The stubs of the 256 vectors, 16 bytes each.
    pub fn trap_stubs();
    /// The target of the `syscall` instruction.
    pub fn syscall_entry();
    /// The first code of a user task.
    pub fn new_user_task();
    /// The first code of a kernel task: entry in RBX, argument in R12.
    pub fn new_kernel_task();
    /// Saves the callee-saved registers and the stack pointer to `*save`, continues at `load`.
    ///
    /// # Safety
    /// `load` was saved by this function or built like it (six registers, a return address); interrupts
    /// are off.
    pub fn switch_context(save: *mut u64, load: u64);
}

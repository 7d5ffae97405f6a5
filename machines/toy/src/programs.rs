//! Two programs. Calls are `int 0x80`: the number in RAX, arguments in RDI and RSI, the result in RAX.
//!
//! | RAX | call |
//! |---|---|
//! | 0 | exit(status) |
//! | 1 | fork: 0 in the child |
//! | 2 | wait: the status of a child that has ended |
//! | 3 | map(bytes): where |
//! | 4 | page_out(start, bytes): to swap |

use core::arch::global_asm;

global_asm!(
    r#"
    .section .programs, "ax"
    # The first: a page of two programs, each with its own word.
    .global family
family:
    mov edi, 0x4000
    mov eax, 3
    int 0x80
    mov rbx, rax
    mov qword ptr [rbx], 7
    mov eax, 1
    int 0x80
    test eax, eax
    jnz 1f
    mov qword ptr [rbx], 8      # the child: copies the page
    mov rdi, rbx
    mov esi, 0x1000
    mov eax, 4
    int 0x80
    mov rdi, [rbx]              # and has it back from swap
    xor eax, eax
    int 0x80
1:  mov eax, 2
    int 0x80
    shl eax, 4
    add rax, [rbx]              # 0x87
    mov rdi, rax
    xor eax, eax
    int 0x80

    # The second: 64 pages, copied, swapped out, and added up by it and by a child.
    .global copier
copier:
    mov edi, 0x80000
    mov eax, 3
    int 0x80
    mov rbx, rax
    xor ecx, ecx
1:  mov edx, ecx
    shl edx, 12
    mov [rbx + rdx], rcx
    inc ecx
    cmp ecx, 64
    jb 1b
    mov rsi, rbx
    lea rdi, [rbx + 0x40000]
    mov ecx, 0x40000
    rep movsb
    mov rdi, rbx
    mov esi, 0x80000
    mov eax, 4
    int 0x80
    mov eax, 1
    int 0x80
    mov r12, rax
    xor ecx, ecx
    xor edi, edi
2:  mov edx, ecx
    shl edx, 12
    add rdi, [rbx + rdx + 0x40000]
    mov [rbx + rdx], rdi
    inc ecx
    cmp ecx, 64
    jb 2b                       # RDI: 0 + 1 + ... + 63 = 2016
    test r12, r12
    jz 3f
    mov r13, rdi
    mov eax, 2
    int 0x80
    lea rdi, [rax + r13]        # 4032
3:  xor eax, eax
    int 0x80
    "#
);

//! The state of an interrupted program: what entry code saves and the way back restores.
//!
//! Every entry to the kernel (system call, exception, interrupt) builds one [`TrapFrame`] on the
//! task's kernel stack. The system side reads arguments from it and writes results to it.

/// The vector of a frame that a `syscall` instruction made; real vectors are below 256.
pub const SYSCALL_VECTOR: u64 = 256;

/// The user code selector, ring 3 (the number that Linux uses).
pub const USER_CS: u64 = 0x33;
/// The user data selector, ring 3 (the number that Linux uses).
pub const USER_SS: u64 = 0x2b;

/// All registers of an interrupted program.
///
/// The SSE registers are here because the kernel itself is compiled with SSE: entry code saves them
/// before any Rust code runs. The rest of the floating-point state (x87, the upper halves of the
/// AVX registers, MXCSR) stays in the CPU and is switched with the task ([`crate::arch::fpu`]).
#[repr(C, align(16))]
#[derive(Clone)]
#[allow(missing_docs, reason = "the names of the registers")]
pub struct TrapFrame {
    pub xmm: [u128; 16],
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rbp: u64,
    pub rdi: u64,
    pub rsi: u64,
    pub rdx: u64,
    pub rcx: u64,
    pub rbx: u64,
    pub rax: u64,
    /// The vector, or [`SYSCALL_VECTOR`].
    pub vector: u64,
    /// The error code of an exception; for a system call its number (`orig_rax`, for restarts).
    pub error: u64,
    pub rip: u64,
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u64,
}

/// The RFLAGS bits that a user program (or a signal frame) may set: CF PF AF ZF SF TF DF OF NT RF AC ID.
pub const USER_RFLAGS: u64 = 0x0025_4dd5;
/// RFLAGS.IF.
pub const RFLAGS_IF: u64 = 1 << 9;
const RFLAGS_FIXED: u64 = 1 << 1;

impl TrapFrame {
    /// A fresh user context: all registers zero, execution starts at `rip` on the stack `rsp`.
    pub fn user(rip: u64, rsp: u64) -> Self {
        TrapFrame {
            xmm: [0; 16],
            r15: 0,
            r14: 0,
            r13: 0,
            r12: 0,
            r11: 0,
            r10: 0,
            r9: 0,
            r8: 0,
            rbp: 0,
            rdi: 0,
            rsi: 0,
            rdx: 0,
            rcx: 0,
            rbx: 0,
            rax: 0,
            vector: SYSCALL_VECTOR,
            error: u64::MAX,
            rip,
            cs: USER_CS,
            rflags: RFLAGS_IF | RFLAGS_FIXED,
            rsp,
            ss: USER_SS,
        }
    }

    /// Whether the frame was made by code in ring 3.
    pub fn from_user(&self) -> bool {
        self.cs & 3 == 3
    }

    /// Whether a system call made this frame.
    pub fn is_syscall(&self) -> bool {
        self.vector == SYSCALL_VECTOR
    }

    /// The number of the system call (Linux `orig_rax`).
    pub fn syscall_nr(&self) -> u64 {
        self.error
    }

    /// The six arguments of a system call.
    pub fn syscall_args(&self) -> [u64; 6] {
        [self.rdi, self.rsi, self.rdx, self.r10, self.r8, self.r9]
    }

    /// Forces what a user program may not choose: selectors, IF, IOPL. Call after registers came
    /// from user memory (`rt_sigreturn`).
    pub fn sanitize(&mut self) {
        self.cs = USER_CS;
        self.ss = USER_SS;
        self.rflags = (self.rflags & USER_RFLAGS) | RFLAGS_IF | RFLAGS_FIXED;
    }
}

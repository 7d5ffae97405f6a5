//! The frame that a signal handler finds on its stack, and the siginfo in it.
//!
//! `struct rt_sigframe` of x86-64: the return address (the restorer), `struct ucontext`, `siginfo_t`; above
//! it, aligned to 64 bytes, the floating-point state. Linux: arch/x86/kernel/signal_64.c.
//!
//! `siginfo_t` and `stack_t` are where `linux-raw-sys` has their fields. It has no `struct ucontext` and no
//! `struct sigcontext`: their offsets are below.

use crate::abi::{Fields, Packer, TICK_NS};
use crate::signal::{SIGBUS, SigSet, code};
use alloc::vec::Vec;
use core::mem::offset_of;
use linux_raw_sys::general as abi;
pub use linux_raw_sys::general::{SS_DISABLE, SS_ONSTACK};

/// The general registers of a thread in user mode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub struct Registers {
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
    pub rdi: u64,
    pub rsi: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub rdx: u64,
    pub rax: u64,
    pub rcx: u64,
    pub rsp: u64,
    pub rip: u64,
    pub rflags: u64,
}

/// What a signal tells (`siginfo_t`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SigInfo {
    /// The signal.
    pub signal: u32,
    /// Why (`si_code`).
    pub code: i32,
    /// The part that depends on why.
    pub detail: Detail,
}

/// The union of `siginfo_t`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// Nothing more.
    None,
    /// Who sent it, with a value for queued signals.
    Sender {
        /// Process.
        pid: u32,
        /// User.
        uid: u32,
        /// `si_value`.
        value: u64,
    },
    /// A child's change.
    Child {
        /// Child.
        pid: u32,
        /// Exit status or signal.
        status: i32,
        /// CPU time.
        cpu_ns: u64,
    },
    /// A fault.
    Fault {
        /// The address.
        addr: u64,
    },
    /// A timer.
    Timer {
        /// Its number.
        id: u32,
        /// `si_value`.
        value: u64,
    },
}

/// A page, as `si_addr_lsb` tells sizes.
const PAGE_SHIFT: u32 = 12;

/// Bytes of `siginfo_t`.
pub const SIGINFO: usize = size_of::<abi::siginfo>();

/// Where a field of `siginfo_t` is. Its structure is unions in unions, which have no names.
macro_rules! at {
    ($($field:ident).+) => { offset_of!(abi::siginfo, __bindgen_anon_1.__bindgen_anon_1.$($field).+) };
}

impl SigInfo {
    /// Gives `siginfo_t`.
    pub fn to_bytes(&self) -> Vec<u8> {
        let p = Packer::new().u32(self.signal).zeros_to(at!(si_code)).i32(self.code);
        let p = match self.detail {
            Detail::None => p,
            Detail::Sender { pid, uid, value } => p
                .zeros_to(at!(_sifields._rt._pid))
                .u32(pid)
                .zeros_to(at!(_sifields._rt._uid))
                .u32(uid)
                .zeros_to(at!(_sifields._rt._sigval))
                .u64(value),
            Detail::Child { pid, status, cpu_ns } => p
                .zeros_to(at!(_sifields._sigchld._pid))
                .u32(pid)
                .zeros_to(at!(_sifields._sigchld._status))
                .i32(status)
                .zeros_to(at!(_sifields._sigchld._utime))
                .u64(cpu_ns / TICK_NS),
            Detail::Fault { addr } => {
                let p = p.zeros_to(at!(_sifields._sigfault._addr)).u64(addr);
                // `si_addr_lsb`: how much is lost.
                let is_lost = self.signal == SIGBUS && self.code == code::BUS_MCEERR_AR;
                if is_lost { p.u32(PAGE_SHIFT) } else { p }
            }
            Detail::Timer { id, value } => p
                .zeros_to(at!(_sifields._timer._tid))
                .u32(id)
                .zeros_to(at!(_sifields._timer._sigval))
                .u64(value),
        };
        p.zeros_to(SIGINFO).0
    }

    /// Gives `struct signalfd_siginfo`, the record of a signalfd. Linux: fs/signalfd.c `signalfd_copyinfo`.
    pub fn to_record(&self) -> Vec<u8> {
        let p = Packer::new().u32(self.signal).zeros_to(record::CODE).i32(self.code);
        // A value is told twice: as a number and as a pointer.
        let with_value = |p: Packer, value: u64| p.zeros_to(record::INT).u32(value as u32).u64(value);
        let p = match self.detail {
            Detail::None => p,
            Detail::Sender { pid, uid, value } => with_value(p.u32(pid).u32(uid), value),
            Detail::Child { pid, status, cpu_ns } => {
                p.u32(pid).zeros_to(record::STATUS).i32(status).zeros_to(record::UTIME).u64(cpu_ns / TICK_NS)
            }
            Detail::Fault { addr } => p.zeros_to(record::ADDR).u64(addr),
            Detail::Timer { id, value } => with_value(p.zeros_to(record::TID).u32(id), value),
        };
        p.zeros_to(RECORD).0
    }

    /// Reads what `rt_sigqueueinfo` was given.
    pub fn from_bytes(signal: u32, bytes: &[u8]) -> SigInfo {
        let f = Fields(bytes);
        let detail = Detail::Sender {
            pid: f.u32(at!(_sifields._rt._pid)),
            uid: f.u32(at!(_sifields._rt._uid)),
            value: f.u64(at!(_sifields._rt._sigval)),
        };
        SigInfo { signal, code: f.i32(at!(si_code)), detail }
    }
}

/// Bytes of `struct signalfd_siginfo`.
pub const RECORD: usize = 128;

/// Where fields of `struct signalfd_siginfo` are, which `linux-raw-sys` does not have. The user follows the
/// process, and the process the code; the pointer follows the number.
mod record {
    pub(super) const CODE: usize = 8;
    pub(super) const TID: usize = 24;
    pub(super) const STATUS: usize = 40;
    pub(super) const INT: usize = 44;
    pub(super) const UTIME: usize = 56;
    pub(super) const ADDR: usize = 72;
}

/// An alternate signal stack (`stack_t`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AltStack {
    /// Lowest address.
    pub sp: u64,
    /// `SS_*`.
    pub flags: u32,
    /// Bytes.
    pub size: u64,
}

impl AltStack {
    /// No alternate stack.
    pub const NONE: AltStack = AltStack { sp: 0, flags: SS_DISABLE, size: 0 };

    /// Says whether `sp` is on it.
    pub fn contains(&self, sp: u64) -> bool {
        self.flags & SS_DISABLE == 0 && sp > self.sp && sp - self.sp <= self.size
    }

    /// Gives `stack_t`.
    pub fn to_bytes(&self) -> Vec<u8> {
        Packer::new()
            .zeros_to(offset_of!(abi::stack_t, ss_sp))
            .u64(self.sp)
            .zeros_to(offset_of!(abi::stack_t, ss_flags))
            .u32(self.flags)
            .zeros_to(offset_of!(abi::stack_t, ss_size))
            .u64(self.size)
            .0
    }

    /// Reads `stack_t`.
    pub fn from_bytes(bytes: &[u8]) -> AltStack {
        let f = Fields(bytes);
        AltStack {
            sp: f.u64(offset_of!(abi::stack_t, ss_sp)),
            flags: f.u32(offset_of!(abi::stack_t, ss_flags)),
            size: f.u64(offset_of!(abi::stack_t, ss_size)),
        }
    }
}

/// What the frame saves beside the registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Saved {
    /// The registers to go back to.
    pub regs: Registers,
    /// The mask to go back to.
    pub mask: SigSet,
    /// The alternate stack as it was.
    pub altstack: AltStack,
}

/// The processor's account of a fault, for `uc_mcontext`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trap {
    /// Error code.
    pub error: u64,
    /// Vector.
    pub number: u64,
    /// Faulting address.
    pub cr2: u64,
}

/// A frame that is ready to be copied to user memory.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Where it goes: the handler's stack pointer.
    pub sp: u64,
    /// The frame itself.
    pub bytes: Vec<u8>,
    /// Where the floating-point state goes.
    pub fp_at: u64,
}

/// Where in the frame the context starts.
const UCONTEXT: usize = 8;
const MCONTEXT: usize = UCONTEXT + 40;
const SIGMASK: usize = MCONTEXT + 256;
const INFO: usize = SIGMASK + 8;
/// Bytes of the frame without the floating-point state.
pub const FRAME: usize = INFO + SIGINFO;
const RED_ZONE: u64 = 128;
/// `UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS`.
const UC_FLAGS: u64 = 6;

impl Frame {
    /// Lays a frame out below `sp`.
    ///
    /// `sp` is the interrupted stack pointer or the top of the alternate stack; `red_zone` says which.
    pub fn build(
        sp: u64,
        on: StackKind,
        fp_size: usize,
        restorer: u64,
        info: &SigInfo,
        saved: &Saved,
        trap: Trap,
    ) -> Frame {
        let sp = match on {
            StackKind::Interrupted => sp.wrapping_sub(RED_ZONE),
            StackKind::Alternate => sp,
        };
        let fp_at = sp.wrapping_sub(fp_size as u64) & !63;
        let sp = (fp_at.wrapping_sub(FRAME as u64) & !15).wrapping_sub(8);
        let r = &saved.regs;
        let mut p = Packer::new().u64(restorer).u64(UC_FLAGS).u64(0);
        p.0.extend_from_slice(&saved.altstack.to_bytes());
        for value in [
            r.r8, r.r9, r.r10, r.r11, r.r12, r.r13, r.r14, r.r15, r.rdi, r.rsi, r.rbp, r.rbx, r.rdx, r.rax,
            r.rcx, r.rsp, r.rip, r.rflags,
        ] {
            p = p.u64(value);
        }
        p = p.u16(USER_CS).u16(0).u16(0).u16(USER_SS);
        p = p.u64(trap.error).u64(trap.number).u64(saved.mask.0).u64(trap.cr2).u64(fp_at);
        let mut bytes = p.zeros_to(SIGMASK).u64(saved.mask.0).0;
        bytes.extend_from_slice(&info.to_bytes());
        Frame { sp, bytes, fp_at }
    }

    /// Gives the address of the `siginfo_t`.
    pub fn info_at(&self) -> u64 {
        self.sp + INFO as u64
    }

    /// Gives the address of the `struct ucontext`.
    pub fn ucontext_at(&self) -> u64 {
        self.sp + UCONTEXT as u64
    }
}

/// Which stack a handler runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StackKind {
    /// The one that was interrupted; its red zone is kept.
    Interrupted,
    /// The alternate stack, from its top.
    Alternate,
}

const USER_CS: u16 = 0x33;
const USER_SS: u16 = 0x2b;

/// Reads the frame back at `rt_sigreturn`: what to restore, and where the floating-point state is (0:
/// nowhere).
///
/// `bytes` start at the `struct ucontext`.
pub fn restore(bytes: &[u8]) -> (Saved, u64) {
    let f = Fields(bytes);
    let m = |i: usize| f.u64(MCONTEXT - UCONTEXT + 8 * i);
    let regs = Registers {
        r8: m(0),
        r9: m(1),
        r10: m(2),
        r11: m(3),
        r12: m(4),
        r13: m(5),
        r14: m(6),
        r15: m(7),
        rdi: m(8),
        rsi: m(9),
        rbp: m(10),
        rbx: m(11),
        rdx: m(12),
        rax: m(13),
        rcx: m(14),
        rsp: m(15),
        rip: m(16),
        rflags: m(17),
    };
    let altstack = AltStack::from_bytes(bytes.get(16..40).unwrap_or(&[]));
    let mask = SigSet(f.u64(SIGMASK - UCONTEXT)) & !SigSet::UNBLOCKABLE;
    (Saved { regs, mask, altstack }, m(23))
}

/// Bytes that [`restore`] wants.
pub const RESTORE: usize = INFO - UCONTEXT;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signal::*;

    #[test]
    fn a_page_that_is_lost_is_told_with_its_size() {
        let bytes = |code| SigInfo { signal: SIGBUS, code, detail: Detail::Fault { addr: 0xbad } }.to_bytes();
        assert_eq!(bytes(code::BUS_MCEERR_AR)[16..26], [0xad, 0xb, 0, 0, 0, 0, 0, 0, 12, 0]);
        assert_eq!(bytes(code::BUS_ADRERR)[16..26], [0xad, 0xb, 0, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn a_record_of_a_signalfd_has_its_fields_where_linux_has_them() {
        let record = |detail| SigInfo { signal: SIGUSR1, code: code::SI_QUEUE, detail }.to_record();
        let sender = record(Detail::Sender { pid: 7, uid: 8, value: 0x1_0000_0002 });
        let f = Fields(&sender);
        assert_eq!((sender.len(), f.u32(0), f.i32(4), f.i32(8)), (128, SIGUSR1, 0, -1));
        assert_eq!((f.u32(12), f.u32(16), f.u32(44), f.u64(48)), (7, 8, 2, 0x1_0000_0002));
        let child = record(Detail::Child { pid: 9, status: 3, cpu_ns: 5 * TICK_NS });
        let f = Fields(&child);
        assert_eq!((child.len(), f.u32(12), f.i32(40), f.u64(56), f.u64(64)), (128, 9, 3, 5, 0));
        let timer = record(Detail::Timer { id: 4, value: 6 });
        let f = Fields(&timer);
        assert_eq!((timer.len(), f.u32(24), f.u32(32), f.u32(44), f.u64(48)), (128, 4, 0, 6, 6));
        let fault = record(Detail::Fault { addr: 0xbad });
        assert_eq!((fault.len(), Fields(&fault).u64(72)), (128, 0xbad));
        assert_eq!(record(Detail::None).len(), 128);
    }

    #[test]
    fn a_frame_is_aligned_and_gives_back_what_it_saved() {
        let regs = Registers {
            rip: 0x1234,
            rsp: 0x7fff_1239,
            rax: 5,
            r15: 15,
            rflags: 0x246,
            ..Registers::default()
        };
        let altstack = AltStack { sp: 0x1000, flags: 0, size: 0x2000 };
        let saved = Saved { regs, mask: SigSet::of(SIGINT), altstack };
        let info =
            SigInfo { signal: SIGSEGV, code: code::SEGV_MAPERR, detail: Detail::Fault { addr: 0xdead } };
        let trap = Trap { error: 4, number: 14, cr2: 0xdead };
        let frame = Frame::build(regs.rsp, StackKind::Interrupted, 512, 0x9999, &info, &saved, trap);
        assert_eq!(frame.bytes.len(), FRAME);
        // At a function's entry the stack is 8 below a multiple of 16.
        assert_eq!(frame.sp % 16, 8);
        assert_eq!(frame.fp_at % 64, 0);
        assert!(frame.fp_at + 512 <= regs.rsp - 128 && frame.sp + FRAME as u64 <= frame.fp_at);
        let (back, fp_at) = restore(&frame.bytes[UCONTEXT..UCONTEXT + RESTORE]);
        assert_eq!((back, fp_at), (saved, frame.fp_at));
        let f = Fields(&frame.bytes);
        // REG_RIP is gregs[16], gregs start 40 bytes into the context.
        assert_eq!(f.u64(8 + 40 + 16 * 8), 0x1234);
        // REG_CR2 is gregs[22].
        assert_eq!(f.u64(8 + 40 + 22 * 8), 0xdead);
        assert_eq!((f.u32(INFO), f.i32(INFO + 8), f.u64(INFO + 16)), (11, 1, 0xdead));
    }
}

//! Signals as values: numbers, sets, default actions.

use core::ops::{BitAnd, BitOr, Not};

use linux_raw_sys::general as abi;
pub use linux_raw_sys::general::{
    SIGABRT, SIGALRM, SIGBUS, SIGCHLD, SIGCONT, SIGFPE, SIGHUP, SIGILL, SIGINT, SIGIO, SIGKILL, SIGPIPE,
    SIGPROF, SIGPWR, SIGQUIT, SIGSEGV, SIGSTKFLT, SIGSTOP, SIGSYS, SIGTERM, SIGTRAP, SIGTSTP, SIGTTIN,
    SIGTTOU, SIGURG, SIGUSR1, SIGUSR2, SIGVTALRM, SIGWINCH, SIGXCPU, SIGXFSZ,
};

/// The highest signal number.
pub const SIGNALS: u32 = abi::_NSIG;

/// Where a signal came from (`si_code`), as far as this kernel raises it.
pub mod code {
    use super::abi;

    macro_rules! codes {
        ($($(#[$doc:meta])* $name:ident)*) => { $( $(#[$doc])* pub const $name: i32 = abi::$name as i32; )* };
    }
    codes! {
        /// `kill`.
        SI_USER
        /// The kernel.
        SI_KERNEL
        /// `rt_sigqueueinfo`.
        SI_QUEUE
        /// A timer.
        SI_TIMER
        /// `tkill`, `tgkill`.
        SI_TKILL
        /// SIGSEGV: nothing is mapped there.
        SEGV_MAPERR
        /// SIGSEGV: the mapping does not permit the access.
        SEGV_ACCERR
        /// SIGBUS: no object behind the address.
        BUS_ADRERR
        /// SIGBUS: the page was there, and is lost.
        BUS_MCEERR_AR
        /// SIGCHLD: exited.
        CLD_EXITED
        /// SIGCHLD: killed by a signal.
        CLD_KILLED
        /// SIGCHLD: it waits for its tracer.
        CLD_TRAPPED
        /// SIGCHLD: stopped.
        CLD_STOPPED
        /// SIGCHLD: continued.
        CLD_CONTINUED
        /// SIGFPE: integer division by zero.
        FPE_INTDIV
        /// SIGILL: illegal opcode.
        ILL_ILLOPN
        /// SIGTRAP: breakpoint.
        TRAP_BRKPT
    }
}

/// A set of signals, bit `n - 1` for signal `n`, as the ABI has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SigSet(pub u64);

impl SigSet {
    /// The empty set.
    pub const EMPTY: SigSet = SigSet(0);
    /// SIGKILL and SIGSTOP, which nobody can block or catch.
    pub const UNBLOCKABLE: SigSet = SigSet(1 << (SIGKILL - 1) | 1 << (SIGSTOP - 1));

    /// Gives the set that holds `signal` alone.
    pub const fn of(signal: u32) -> SigSet {
        SigSet(1 << (signal - 1))
    }

    /// Says whether `signal` is in the set.
    pub const fn has(self, signal: u32) -> bool {
        self.0 >> (signal - 1) & 1 != 0
    }

    /// Puts `signal` in.
    pub fn insert(&mut self, signal: u32) {
        self.0 |= SigSet::of(signal).0;
    }

    /// Takes `signal` out.
    pub fn remove(&mut self, signal: u32) {
        self.0 &= !SigSet::of(signal).0;
    }

    /// Says whether no signal is in the set.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Gives the signal to deliver first: a synchronous one, else the lowest number.
    pub fn first(self) -> Option<u32> {
        const SYNCHRONOUS: u64 = SigSet::of(SIGSEGV).0
            | SigSet::of(SIGBUS).0
            | SigSet::of(SIGILL).0
            | SigSet::of(SIGTRAP).0
            | SigSet::of(SIGFPE).0
            | SigSet::of(SIGSYS).0;
        let pick = if self.0 & SYNCHRONOUS != 0 { self.0 & SYNCHRONOUS } else { self.0 };
        (pick != 0).then(|| pick.trailing_zeros() + 1)
    }
}

impl BitAnd for SigSet {
    type Output = SigSet;
    fn bitand(self, other: SigSet) -> SigSet {
        SigSet(self.0 & other.0)
    }
}

impl BitOr for SigSet {
    type Output = SigSet;
    fn bitor(self, other: SigSet) -> SigSet {
        SigSet(self.0 | other.0)
    }
}

impl Not for SigSet {
    type Output = SigSet;
    fn not(self) -> SigSet {
        SigSet(!self.0)
    }
}

/// What a signal does when nobody has said otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DefaultAction {
    /// End the process. (There are no core files: dumping signals end it too.)
    Terminate,
    /// Nothing.
    Ignore,
    /// Stop all threads until SIGCONT.
    Stop,
    /// Go on if stopped.
    Continue,
}

/// Gives the default action of `signal`.
pub fn default_action(signal: u32) -> DefaultAction {
    match signal {
        SIGCHLD | SIGURG | SIGWINCH => DefaultAction::Ignore,
        SIGSTOP | SIGTSTP | SIGTTIN | SIGTTOU => DefaultAction::Stop,
        SIGCONT => DefaultAction::Continue,
        _ => DefaultAction::Terminate,
    }
}

/// Gives a signal's name for messages.
pub fn name(signal: u32) -> &'static str {
    const NAMES: [&str; 32] = [
        "0", "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
        "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU",
        "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
    ];
    NAMES.get(signal as usize).copied().unwrap_or("RT")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn synchronous_signals_come_first_then_the_lowest() {
        let set = SigSet::of(SIGINT) | SigSet::of(SIGSEGV) | SigSet::of(SIGALRM);
        assert_eq!(set.first(), Some(SIGSEGV));
        assert_eq!((set & !SigSet::of(SIGSEGV)).first(), Some(SIGINT));
        assert_eq!(SigSet::EMPTY.first(), None);
        assert_eq!(SigSet::of(64).first(), Some(64));
    }
}

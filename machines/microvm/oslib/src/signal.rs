//! Signals as values: numbers, sets, default actions.

use core::ops::{BitAnd, BitOr, Not};

macro_rules! signals {
    ($($name:ident = $n:literal)*) => { $(
        #[doc = concat!("Linux `", stringify!($name), "`.")]
        pub const $name: u32 = $n;
    )* };
}
signals! {
    SIGHUP = 1 SIGINT = 2 SIGQUIT = 3 SIGILL = 4 SIGTRAP = 5 SIGABRT = 6 SIGBUS = 7 SIGFPE = 8 SIGKILL = 9
    SIGUSR1 = 10 SIGSEGV = 11 SIGUSR2 = 12 SIGPIPE = 13 SIGALRM = 14 SIGTERM = 15 SIGSTKFLT = 16 SIGCHLD = 17
    SIGCONT = 18 SIGSTOP = 19 SIGTSTP = 20 SIGTTIN = 21 SIGTTOU = 22 SIGURG = 23 SIGXCPU = 24 SIGXFSZ = 25
    SIGVTALRM = 26 SIGPROF = 27 SIGWINCH = 28 SIGIO = 29 SIGPWR = 30 SIGSYS = 31
}

/// The highest signal number.
pub const SIGNALS: u32 = 64;

/// Where a signal came from (`si_code`), as far as this kernel raises it.
pub mod code {
    /// `kill`.
    pub const SI_USER: i32 = 0;
    /// The kernel.
    pub const SI_KERNEL: i32 = 0x80;
    /// `rt_sigqueueinfo`.
    pub const SI_QUEUE: i32 = -1;
    /// A timer.
    pub const SI_TIMER: i32 = -2;
    /// `tkill`, `tgkill`.
    pub const SI_TKILL: i32 = -6;
    /// SIGSEGV: nothing is mapped there.
    pub const SEGV_MAPERR: i32 = 1;
    /// SIGSEGV: the mapping does not permit the access.
    pub const SEGV_ACCERR: i32 = 2;
    /// SIGBUS: no object behind the address.
    pub const BUS_ADRERR: i32 = 2;
    /// SIGCHLD: exited.
    pub const CLD_EXITED: i32 = 1;
    /// SIGCHLD: killed by a signal.
    pub const CLD_KILLED: i32 = 2;
    /// SIGCHLD: it waits for its tracer.
    pub const CLD_TRAPPED: i32 = 4;
    /// SIGCHLD: stopped.
    pub const CLD_STOPPED: i32 = 5;
    /// SIGCHLD: continued.
    pub const CLD_CONTINUED: i32 = 6;
    /// SIGFPE: integer division by zero.
    pub const FPE_INTDIV: i32 = 1;
    /// SIGILL: illegal opcode.
    pub const ILL_ILLOPN: i32 = 2;
    /// SIGTRAP: breakpoint.
    pub const TRAP_BRKPT: i32 = 1;
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

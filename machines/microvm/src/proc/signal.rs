//! Signals: what is pending, what is blocked, what shall be done; and sending them.
//!
//! Linux: kernel/signal.c. Delivery to user code is in [`super::deliver`].

use super::Thread;
use super::groups::Telling;
use super::process::{ExitStatus, Life, Process};
use super::{table, trace};
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use anonmem_oslib::Result;
use anonmem_oslib::errno::EAGAIN;
use anonmem_oslib::sigframe::{AltStack, Detail, SigInfo};
use anonmem_oslib::signal::{
    self, DefaultAction, SIGCONT, SIGKILL, SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU, SigSet, code,
};
use core::sync::atomic::Ordering::SeqCst;
use linux_raw_sys::general as abi;

/// `SIG_DFL`.
pub const SIG_DFL: u64 = 0;
/// `SIG_IGN`.
pub const SIG_IGN: u64 = 1;

const STOPS: SigSet =
    SigSet(SigSet::of(SIGSTOP).0 | SigSet::of(SIGTSTP).0 | SigSet::of(SIGTTIN).0 | SigSet::of(SIGTTOU).0);

/// What to do with a signal (`struct sigaction` of the kernel).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Action {
    /// The handler, [`SIG_DFL`] or [`SIG_IGN`].
    pub handler: u64,
    /// `SA_*`.
    pub flags: u64,
    /// Where a handler returns to.
    pub restorer: u64,
    /// Signals that are blocked while the handler runs.
    pub mask: SigSet,
}

/// Signals that wait to be delivered.
#[derive(Debug, Default)]
pub struct Pending {
    queue: VecDeque<SigInfo>,
}

impl Pending {
    /// Gives which signals wait.
    pub fn set(&self) -> SigSet {
        self.queue.iter().fold(SigSet::EMPTY, |set, info| set | SigSet::of(info.signal))
    }

    /// Adds a signal; a standard one only once, of the others `limit` in all.
    ///
    /// # Errors
    /// `EAGAIN` if there are too many.
    fn add(&mut self, info: SigInfo, limit: u64) -> Result<()> {
        let is_standard = info.signal < 32;
        if is_standard && self.set().has(info.signal) {
            return Ok(());
        }
        // Standard signals are few, and must not be lost.
        if !is_standard && (self.queue.len() as u64 >= limit || self.queue.try_reserve(1).is_err()) {
            return Err(EAGAIN);
        }
        self.queue.push_back(info);
        Ok(())
    }

    /// Takes the first deliverable signal of `set`.
    pub fn take(&mut self, set: SigSet) -> Option<SigInfo> {
        let first = (self.set() & set).first()?;
        let at = self.queue.iter().position(|info| info.signal == first)?;
        self.queue.remove(at)
    }

    fn remove(&mut self, set: SigSet) {
        self.queue.retain(|info| !set.has(info.signal));
    }
}

/// A process's signals.
pub struct ProcessSignals {
    /// What to do, by number less one.
    pub actions: [Action; signal::SIGNALS as usize],
    /// What waits for any thread.
    pub shared: Pending,
    /// A thread has taken a stop signal, and no SIGCONT came since. Linux: `JOBCTL_STOP_DEQUEUED`.
    pub stop_taken: bool,
}

impl ProcessSignals {
    /// Everything as default.
    pub fn new() -> Self {
        ProcessSignals::with([Action::default(); signal::SIGNALS as usize])
    }

    /// The same actions, nothing pending.
    pub fn fork(&self) -> Self {
        ProcessSignals::with(self.actions)
    }

    fn with(actions: [Action; signal::SIGNALS as usize]) -> Self {
        ProcessSignals { actions, shared: Pending::default(), stop_taken: false }
    }

    /// Gives what to do with `signal`.
    pub fn action(&self, signal: u32) -> Action {
        self.actions[signal as usize - 1]
    }

    /// What execve does: handlers are gone, ignored signals stay ignored.
    pub fn exec(&mut self) {
        for action in &mut self.actions {
            let handler = if action.handler == SIG_IGN { SIG_IGN } else { SIG_DFL };
            *action = Action { handler, ..Action::default() };
        }
    }

    fn ignores(&self, signal: u32) -> bool {
        match self.action(signal).handler {
            SIG_IGN => true,
            SIG_DFL => signal::default_action(signal) == DefaultAction::Ignore,
            _ => false,
        }
    }
}

impl Default for ProcessSignals {
    fn default() -> Self {
        ProcessSignals::new()
    }
}

/// A thread's signals.
#[derive(Debug)]
pub struct ThreadSignals {
    /// What is blocked.
    pub mask: SigSet,
    /// What waits for this thread alone.
    pub pending: Pending,
    /// The alternate stack.
    pub altstack: AltStack,
    /// The mask to go back to after `sigsuspend`, `ppoll` and the like.
    pub saved_mask: Option<SigSet>,
    /// What `sigtimedwait` waits for: wakes the thread although it is blocked.
    pub waiting_for: SigSet,
}

impl Default for ThreadSignals {
    fn default() -> Self {
        ThreadSignals {
            mask: SigSet::EMPTY,
            pending: Pending::default(),
            altstack: AltStack::NONE,
            saved_mask: None,
            waiting_for: SigSet::EMPTY,
        }
    }
}

impl Thread {
    /// Sets the mask. SIGKILL and SIGSTOP stay unblocked.
    pub fn set_mask(&self, mask: SigSet) {
        self.signals.lock().mask = mask & !SigSet::UNBLOCKABLE;
        // What has become deliverable ends a wait that the caller is about to begin.
        if self.has_deliverable() {
            self.kick();
        }
    }

    /// Gives which signals wait, for it or for its process.
    pub fn pending(&self) -> SigSet {
        let shared = self.process.signals.lock().shared.set();
        shared | self.signals.lock().pending.set()
    }

    /// Says whether there is a reason to leave a wait.
    pub fn has_deliverable(&self) -> bool {
        let process = &self.process;
        if super::exit::requested(self).is_some() || process.stopped.load(SeqCst) {
            return true;
        }
        let pending = self.pending();
        let signals = self.signals.lock();
        !(pending & !(signals.mask & !signals.waiting_for)).is_empty()
    }

    /// Takes a waiting signal of `set`, blocked or not: its own before its process's. Linux: kernel/signal.c
    /// `dequeue_signal`.
    pub fn take_signal(&self, set: SigSet) -> Option<SigInfo> {
        let mut process = self.process.signals.lock();
        let own = self.signals.lock().pending.take(set);
        own.or_else(|| process.shared.take(set))
    }

    /// Takes the next signal to deliver and what to do with it.
    pub fn next_signal(&self) -> Option<(SigInfo, Action)> {
        let mut process = self.process.signals.lock();
        let mut own = self.signals.lock();
        let open = !own.mask;
        let own_first = (own.pending.set() & open).first();
        let info = match own_first {
            Some(_) => own.pending.take(open),
            None => process.shared.take(open),
        }?;
        let action = process.action(info.signal);
        if action.handler > SIG_IGN && action.flags & u64::from(abi::SA_RESETHAND) != 0 {
            process.actions[info.signal as usize - 1].handler = SIG_DFL;
        }
        if STOPS.has(info.signal) {
            process.stop_taken = true;
        }
        Some((info, action))
    }
}

/// Sends a signal to a process: any thread that does not block it takes it. One too many is lost.
pub fn send(process: &Arc<Process>, info: SigInfo) {
    let _ = queue(process, info);
}

/// As [`send`].
///
/// # Errors
/// `EAGAIN` if too many signals wait (`RLIMIT_SIGPENDING`).
pub fn queue(process: &Arc<Process>, info: SigInfo) -> Result<()> {
    let limit = process.limits()[abi::RLIMIT_SIGPENDING as usize].0;
    if info.signal == SIGKILL {
        if process.nr_threads() > 0 {
            process.end(ExitStatus::killed(SIGKILL));
        }
        return Ok(());
    }
    let (goes_on, wake) = {
        let mut life = process.life.lock();
        if life.threads.is_empty() {
            return Ok(());
        }
        let mut signals = process.signals.lock();
        let goes_on = prepare(process, &mut life, &mut signals, info.signal);
        let Some((_, first)) = life.threads.first_key_value() else { return Ok(()) };
        let wants = |t: &Arc<Thread>| {
            let s = t.signals.lock();
            !s.mask.has(info.signal) || s.waiting_for.has(info.signal)
        };
        let blocked = first.signals.lock().mask.has(info.signal);
        if signals.ignores(info.signal) && !blocked && !trace::is_traced(first) {
            (goes_on, None)
        } else {
            signals.shared.add(info, limit)?;
            (goes_on, life.threads.values().find(|t| wants(t)).cloned())
        }
    };
    if goes_on {
        go_on(process);
    }
    if let Some(thread) = wake {
        thread.kick();
    }
    // Threads that block it are not kicked, and may read it by descriptor.
    process.signalled.notify();
    Ok(())
}

/// Sends a signal to one thread. One too many is lost.
pub fn send_to_thread(thread: &Arc<Thread>, info: SigInfo) {
    let _ = queue_to_thread(thread, info);
}

/// As [`send_to_thread`].
///
/// # Errors
/// `EAGAIN` if too many signals wait (`RLIMIT_SIGPENDING`).
pub fn queue_to_thread(thread: &Arc<Thread>, info: SigInfo) -> Result<()> {
    let limit = thread.process.limits()[abi::RLIMIT_SIGPENDING as usize].0;
    let process = &thread.process;
    if info.signal == SIGKILL {
        process.end(ExitStatus::killed(SIGKILL));
        return Ok(());
    }
    let (goes_on, hears) = {
        let mut life = process.life.lock();
        let mut signals = process.signals.lock();
        let goes_on = prepare(process, &mut life, &mut signals, info.signal);
        let mut own = thread.signals.lock();
        let hears = own.mask.has(info.signal) || trace::is_traced(thread) || !signals.ignores(info.signal);
        if hears {
            own.pending.add(info, limit)?;
        }
        (goes_on, hears)
    };
    if goes_on {
        go_on(process);
    }
    if hears {
        thread.kick();
    }
    Ok(())
}

/// Gives the signals that do not wait any more once `signal` is sent.
pub fn taken_back_by(signal: u32) -> SigSet {
    match signal {
        SIGCONT => STOPS,
        s if STOPS.has(s) => SigSet::of(SIGCONT),
        _ => SigSet::EMPTY,
    }
}

/// SIGCONT takes pending stops away, a stop takes pending SIGCONTs away. SIGCONT makes a stopped process go
/// on even if it is blocked or ignored; says whether it did.
fn prepare(process: &Process, life: &mut Life, signals: &mut ProcessSignals, signal: u32) -> bool {
    let gone = taken_back_by(signal);
    if gone.is_empty() {
        return false;
    }
    signals.shared.remove(gone);
    life.threads.values().for_each(|t| t.signals.lock().pending.remove(gone));
    if signal != SIGCONT {
        return false;
    }
    signals.stop_taken = false;
    let goes_on = process.stopped.swap(false, SeqCst);
    if goes_on {
        life.stop_report = None;
        life.continue_report = true;
    }
    goes_on
}

/// Stops the process, unless SIGCONT came after the stop signal was taken; says whether it is stopped now.
pub fn stop(process: &Process, signal: u32) -> bool {
    let mut life = process.life.lock();
    let stops = core::mem::take(&mut process.signals.lock().stop_taken);
    if stops {
        process.stopped.store(true, SeqCst);
        life.stop_report = Some(signal);
        life.continue_report = false;
    }
    stops
}

/// Wakes the threads of a process that goes on, and tells its parent.
fn go_on(process: &Process) {
    process.continued.notify();
    super::exit::tell_parent(process, code::CLD_CONTINUED, SIGCONT as i32);
}

/// Raises a signal in the running thread, as the kernel (SIGPIPE).
pub fn raise(signal: u32) {
    let thread = super::current_thread();
    send_to_thread(&thread, SigInfo { signal, code: code::SI_KERNEL, detail: Detail::None });
}

/// Raises a signal that the running thread cannot escape: blocked or ignored, it ends the process.
pub fn force(info: SigInfo) {
    let thread = super::current_thread();
    {
        let mut signals = thread.process.signals.lock();
        let mut own = thread.signals.lock();
        let action = &mut signals.actions[info.signal as usize - 1];
        if own.mask.has(info.signal) || action.handler == SIG_IGN {
            action.handler = SIG_DFL;
            own.mask.remove(info.signal);
        }
        // Standard signals always find room.
        let _ = own.pending.add(info, u64::MAX);
    }
    thread.note_work();
}

/// Sends a signal to every process of a group; says whether there was one.
pub fn send_to_group(pgid: u32, info: SigInfo) -> bool {
    let members = table::processes().filter(|p| p.pgid.load(SeqCst) == pgid);
    let telling = Telling::begin();
    members.fold(false, |_, process| {
        telling.tell(&process, info);
        true
    })
}

//! Sets of semaphores.
//!
//! The operations of a call are done all or none, under the lock of their set. Who has to wait looks again
//! whenever the set changes. What is to be undone when a process ends is kept by the set.
//!
//! Linux: ipc/sem.c. Differs: those who wait are not served in the order in which they came.

use super::shm::Which;
use super::{Keyed, PERM_BYTES, PRIVATE, Perm, Table, now};
use crate::arch::lock::SpinLock;
use crate::fs::event::Event;
use crate::heap;
use crate::sched::Interruptible;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use anonmem_oslib::Result;
use anonmem_oslib::abi::Packer;
use anonmem_oslib::cred::Cred;
use anonmem_oslib::errno::{EAGAIN, EEXIST, EFBIG, EIDRM, EINTR, EINVAL, ENOMEM, ENOSPC, ERANGE, ETIMEDOUT};
use anonmem_oslib::restart::ERESTARTSYS;
use core::sync::atomic::{AtomicUsize, Ordering::SeqCst};

/// The most sets (`SEMMNI`).
pub const MOST: usize = 32_000;
/// The most semaphores of a set (`SEMMSL`).
pub const MOST_OF_SET: usize = 32_000;
/// The most semaphores of all sets (`SEMMNS`): four MiB of them.
pub const MOST_OF_ALL: usize = 1 << 18;
/// The most operations of a call (`SEMOPM`).
pub const MOST_OPERATIONS: usize = 500;
/// The largest value (`SEMVMX`), and the largest change that is undone (`SEMAEM`).
const LARGEST: i32 = 32_767;

/// An operation does not wait.
const NOWAIT: u16 = 0o4000;
/// An operation is undone when its process ends.
const UNDO: u16 = 0x1000;

/// `struct sembuf`.
#[derive(Clone, Copy, Debug)]
pub struct Operation {
    /// Which semaphore.
    pub number: u16,
    /// What is added; 0 waits for 0.
    pub change: i16,
    /// `IPC_NOWAIT`, `SEM_UNDO`.
    pub flags: u16,
}

#[derive(Clone, Copy, Default)]
struct Semaphore {
    value: i32,
    /// Who changed it last.
    pid: u32,
}

/// Somebody who waits, and for what.
struct Waiting {
    tid: u32,
    number: u16,
    for_zero: bool,
}

struct State {
    perm: Perm,
    removed: bool,
    semaphores: Vec<Semaphore>,
    /// What is added to each semaphore when a process ends.
    undos: BTreeMap<u32, Vec<i16>>,
    waiting: Vec<Waiting>,
    used_at: u64,
    changed_at: u64,
}

/// A set.
struct Set {
    id: u32,
    count: usize,
    state: SpinLock<State>,
    changed: Event,
}

impl Keyed for Set {
    fn perm(&self) -> Perm {
        self.state.lock().perm
    }
}

impl Drop for Set {
    fn drop(&mut self) {
        COUNT.fetch_sub(self.count, SeqCst);
        UNDOS.fetch_sub(self.state.lock().undos.len(), SeqCst);
    }
}

static SETS: SpinLock<Table<Set>> = SpinLock::new(Table::new());
/// Semaphores of all sets.
static COUNT: AtomicUsize = AtomicUsize::new(0);
/// Processes that have something to undo, by set.
static UNDOS: AtomicUsize = AtomicUsize::new(0);

/// What became of the operations of a call.
enum Tried {
    Done,
    /// They would have to wait for this one.
    Blocked(Operation),
}

impl State {
    /// Does all of `operations`, or none.
    ///
    /// # Errors
    /// `ERANGE`.
    #[doc(alias = "perform_atomic_semop")]
    fn try_all(&mut self, operations: &[Operation], pid: u32) -> Result<Tried> {
        for (i, operation) in operations.iter().enumerate() {
            let at = usize::from(operation.number);
            let (value, change) = (self.semaphores[at].value, i32::from(operation.change));
            let result = value + change;
            let outcome = if change == 0 && value != 0 || result < 0 {
                Ok(Tried::Blocked(*operation))
            } else if result > LARGEST || self.note_undo(operation, pid).is_err() {
                Err(ERANGE)
            } else {
                self.semaphores[at].value = result;
                continue;
            };
            self.take_back(&operations[..i], pid);
            return outcome;
        }
        for operation in operations {
            self.semaphores[usize::from(operation.number)].pid = pid;
        }
        self.used_at = now();
        Ok(Tried::Done)
    }

    fn take_back(&mut self, done: &[Operation], pid: u32) {
        // In reverse: what is to be undone then has only values that it had, which fit.
        for operation in done.iter().rev() {
            self.semaphores[usize::from(operation.number)].value -= i32::from(operation.change);
            if operation.flags & UNDO != 0
                && let Some(undo) = self.undos.get_mut(&pid)
            {
                undo[usize::from(operation.number)] += operation.change;
            }
        }
    }

    /// Remembers what undoes an operation, if that is to be.
    fn note_undo(&mut self, operation: &Operation, pid: u32) -> core::result::Result<(), ()> {
        if operation.flags & UNDO == 0 {
            return Ok(());
        }
        let undo = self.undos.get_mut(&pid).ok_or(())?;
        let there = &mut undo[usize::from(operation.number)];
        *there = there.checked_sub(operation.change).ok_or(())?;
        Ok(())
    }

    /// Makes room for what a process may have to undo.
    ///
    /// # Errors
    /// `ENOMEM`.
    #[doc(alias = "find_alloc_undo")]
    fn prepare_undo(&mut self, pid: u32) -> Result<()> {
        if self.undos.contains_key(&pid) {
            return Ok(());
        }
        let mut undo = Vec::new();
        undo.try_reserve_exact(self.semaphores.len()).map_err(|_| ENOMEM)?;
        undo.resize(self.semaphores.len(), 0);
        if heap::is_short() {
            return Err(ENOMEM);
        }
        self.undos.insert(pid, undo);
        UNDOS.fetch_add(1, SeqCst);
        Ok(())
    }

    /// Notes, or forgets, what a thread waits for.
    fn note_waiting(&mut self, tid: u32, operation: Option<&Operation>) {
        self.waiting.retain(|waiting| waiting.tid != tid);
        if let Some(operation) = operation {
            let (number, for_zero) = (operation.number, operation.change == 0);
            self.waiting.push(Waiting { tid, number, for_zero });
        }
    }
}

fn fresh(count: usize, perm: Perm) -> Result<State> {
    let mut semaphores = Vec::new();
    semaphores.try_reserve_exact(count).map_err(|_| ENOMEM)?;
    semaphores.resize(count, Semaphore::default());
    Ok(State {
        perm,
        removed: false,
        semaphores,
        undos: BTreeMap::new(),
        waiting: Vec::new(),
        used_at: 0,
        changed_at: now(),
    })
}

/// Finds or makes a set (`semget`); gives its number.
///
/// # Errors
/// Those of semget(2).
#[doc(alias = "ksys_semget")]
pub fn get(key: i32, count: i32, flags: u32, cred: &Cred) -> Result<u32> {
    let count = usize::try_from(count).ok().filter(|&count| count <= MOST_OF_SET).ok_or(EINVAL)?;
    let fits = |there: &Set| if count > there.count { Err(EINVAL) } else { Ok(()) };
    if let Some(id) = SETS.lock().find(key, flags, cred, fits)? {
        return Ok(id);
    }
    if count == 0 {
        return Err(EINVAL);
    }
    let may = |there: usize| (there + count <= MOST_OF_ALL).then_some(there + count);
    COUNT.fetch_update(SeqCst, SeqCst, may).map_err(|_| ENOSPC)?;
    let state =
        fresh(count, Perm::new(key, flags, cred)).inspect_err(|_| _ = COUNT.fetch_sub(count, SeqCst))?;
    let mut rest = Some(Set { id: 0, count, state: SpinLock::new(state), changed: Event::new() });
    let mut table = SETS.lock();
    // Somebody may have made it meanwhile.
    let made = if key != PRIVATE && table.of_key(key).is_some() {
        table.find(key, flags, cred, fits).and_then(|found| found.ok_or(EEXIST))
    } else {
        table.add(MOST, |id| {
            let mut set = rest.take().expect("one is made of one");
            set.id = id;
            set
        })
    };
    drop(table);
    drop(rest);
    made
}

/// Does operations on a set (`semop`), waiting until `deadline_ns` at most.
///
/// # Errors
/// Those of semop(2).
#[doc(alias = "__do_semtimedop")]
pub fn operate(
    id: i32,
    operations: &[Operation],
    deadline_ns: Option<u64>,
    cred: &Cred,
    (pid, tid): (u32, u32),
) -> Result<()> {
    let set = SETS.lock().get(id)?;
    if operations.iter().any(|operation| usize::from(operation.number) >= set.count) {
        return Err(EFBIG);
    }
    let alters = operations.iter().any(|operation| operation.change != 0);
    set.perm().check(cred, if alters { 0o222 } else { 0o444 })?;
    if operations.iter().any(|operation| operation.flags & UNDO != 0) {
        set.state.lock().prepare_undo(pid)?;
    }
    let result = set.changed.wait(deadline_ns, Interruptible::Yes, || {
        let mut state = set.state.lock();
        if state.removed {
            return Some(Err(EIDRM));
        }
        match state.try_all(operations, pid) {
            Ok(Tried::Done) => Some(Ok(())),
            Ok(Tried::Blocked(operation)) if operation.flags & NOWAIT != 0 => Some(Err(EAGAIN)),
            Ok(Tried::Blocked(operation)) => {
                state.note_waiting(tid, Some(&operation));
                None
            }
            Err(error) => Some(Err(error)),
        }
    });
    set.state.lock().note_waiting(tid, None);
    match result {
        Ok(done) => {
            if done.is_ok() && alters {
                set.changed.notify();
            }
            done
        }
        Err(ETIMEDOUT) => Err(EAGAIN),
        // No wait for a semaphore starts again after a signal.
        Err(ERESTARTSYS) => Err(EINTR),
        Err(error) => Err(error),
    }
}

/// Undoes what a process that ends has asked for. Costs one load if nobody has.
#[doc(alias = "exit_sem")]
pub fn end_process(pid: u32) {
    if UNDOS.load(SeqCst) == 0 {
        return;
    }
    let mut after = None;
    loop {
        let next = {
            let table = SETS.lock();
            let from = after.map_or(0, |index: u32| index + 1);
            table.objects.range(from..).next().map(|(&index, (_, set))| (index, set.clone()))
        };
        let Some((index, set)) = next else { return };
        after = Some(index);
        let undo = set.state.lock().undos.remove(&pid);
        let Some(undo) = undo else { continue };
        UNDOS.fetch_sub(1, SeqCst);
        {
            let mut state = set.state.lock();
            for (semaphore, &change) in
                state.semaphores.iter_mut().zip(&undo).filter(|(_, change)| **change != 0)
            {
                semaphore.value = (semaphore.value + i32::from(change)).clamp(0, LARGEST);
                semaphore.pid = pid;
            }
        }
        set.changed.notify();
    }
}

/// Removes a set (`IPC_RMID`): who waits learns of it.
///
/// # Errors
/// `EINVAL`, `EPERM`.
pub fn remove(id: i32, cred: &Cred) -> Result<()> {
    let mut table = SETS.lock();
    let set = table.get(id)?;
    set.perm().check_owner(cred)?;
    let gone = table.remove(set.id);
    set.state.lock().removed = true;
    drop(table);
    set.changed.notify();
    drop(gone);
    Ok(())
}

/// Changes owner and permissions (`IPC_SET`).
///
/// # Errors
/// `EINVAL`, `EPERM`.
pub fn set(id: i32, perm: &[u8; PERM_BYTES], cred: &Cred) -> Result<()> {
    let set = SETS.lock().get(id)?;
    let mut state = set.state.lock();
    state.perm.check_owner(cred)?;
    state.perm.update(perm)?;
    state.changed_at = now();
    Ok(())
}

/// What is asked of one semaphore.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// `GETVAL`.
    Value,
    /// `GETPID`.
    Pid,
    /// `GETNCNT`: how many wait until it is larger.
    WaitForMore,
    /// `GETZCNT`: how many wait until it is 0.
    WaitForZero,
}

/// Answers a question about one semaphore.
///
/// # Errors
/// `EINVAL`, `EACCES`.
pub fn ask(id: i32, number: i32, question: Question, cred: &Cred) -> Result<usize> {
    let set = SETS.lock().get(id)?;
    let state = set.state.lock();
    state.perm.check(cred, 0o444)?;
    let at = usize::try_from(number).ok().filter(|&at| at < set.count).ok_or(EINVAL)?;
    let waiting = |for_zero| {
        state.waiting.iter().filter(|w| usize::from(w.number) == at && w.for_zero == for_zero).count()
    };
    Ok(match question {
        Question::Value => state.semaphores[at].value as usize,
        Question::Pid => state.semaphores[at].pid as usize,
        Question::WaitForMore => waiting(false),
        Question::WaitForZero => waiting(true),
    })
}

/// Gives all values of a set as the ABI's shorts (`GETALL`).
///
/// # Errors
/// `EINVAL`, `EACCES`, `ENOMEM`.
pub fn values(id: i32, cred: &Cred) -> Result<Vec<u8>> {
    let set = SETS.lock().get(id)?;
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(2 * set.count).map_err(|_| ENOMEM)?;
    let state = set.state.lock();
    state.perm.check(cred, 0o444)?;
    state.semaphores.iter().for_each(|s| bytes.extend_from_slice(&(s.value as u16).to_le_bytes()));
    Ok(bytes)
}

/// Gives how many semaphores a set has whose values the caller may set.
///
/// # Errors
/// `EINVAL`, `EACCES`.
pub fn count_to_set(id: i32, cred: &Cred) -> Result<usize> {
    let set = SETS.lock().get(id)?;
    set.perm().check(cred, 0o222)?;
    Ok(set.count)
}

/// Sets values from `first` on, the ABI's shorts or one int (`SETALL`, `SETVAL`): nothing of them is undone.
///
/// # Errors
/// `EINVAL`, `EACCES`, `ERANGE`.
pub fn set_values(
    id: i32,
    first: i32,
    values: impl ExactSizeIterator<Item = i32> + Clone,
    cred: &Cred,
    pid: u32,
) -> Result<()> {
    let set = SETS.lock().get(id)?;
    {
        let mut state = set.state.lock();
        state.perm.check(cred, 0o222)?;
        let first = usize::try_from(first).map_err(|_| EINVAL)?;
        if first.checked_add(values.len()).is_none_or(|end| end > set.count) {
            return Err(EINVAL);
        }
        if values.clone().any(|value| !(0..=LARGEST).contains(&value)) {
            return Err(ERANGE);
        }
        for (at, value) in (first..).zip(values) {
            state.semaphores[at] = Semaphore { value, pid };
            state.undos.values_mut().for_each(|undo| undo[at] = 0);
        }
        state.changed_at = now();
    }
    set.changed.notify();
    Ok(())
}

/// Gives a set's number and `struct semid64_ds`.
///
/// # Errors
/// `EINVAL`, `EACCES`.
#[doc(alias = "semctl_stat")]
pub fn stat(which: Which, cred: &Cred) -> Result<(u32, Vec<u8>)> {
    let set = match which {
        Which::Number(id) => SETS.lock().get(id)?,
        Which::Index(index) | Which::IndexOfAny(index) => SETS.lock().at(index)?.1,
    };
    let state = set.state.lock();
    if !matches!(which, Which::IndexOfAny(_)) {
        state.perm.check(cred, 0o444)?;
    }
    let packed = state.perm.pack(set.id, 0).u64(state.used_at).u64(0).u64(state.changed_at).u64(0);
    Ok((set.id, packed.u64(set.count as u64).zeros_to(104).0))
}

/// What `struct seminfo` tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// The limits (`IPC_INFO`).
    Limits,
    /// What is used, in two of its fields (`SEM_INFO`).
    Usage,
}

/// Gives `struct seminfo` and the highest index.
pub fn info(told: Told) -> (usize, Vec<u8>) {
    const UNDO_BYTES: usize = 20;
    let table = SETS.lock();
    let (sets, semaphores) = match told {
        Told::Usage => (table.objects.len(), COUNT.load(SeqCst)),
        Told::Limits => (UNDO_BYTES, LARGEST as usize),
    };
    let numbers = [
        MOST_OF_ALL,
        MOST,
        MOST_OF_ALL,
        MOST_OF_ALL,
        MOST_OF_SET,
        MOST_OPERATIONS,
        MOST_OPERATIONS,
        sets,
        LARGEST as usize,
        semaphores,
    ];
    (table.last_index(), numbers.iter().fold(Packer::new(), |p, &n| p.u32(n as u32)).0)
}

/// Lets all sets go.
pub fn clear() {
    let all = SETS.lock().take();
    drop(all);
}

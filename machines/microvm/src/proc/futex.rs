//! Futexes: sleeping on a word of user memory.
//!
//! A futex is named by its address space and address, or, in memory that is shared, by the object and
//! the offset. Waiters queue under one lock; the word is read under that lock, so a waker that changed
//! the word before it wakes is never missed. Linux: kernel/futex/.

use super::Thread;
use super::mm;
use crate::arch::lock::SpinLock;
use crate::sched::{self, Interruptible, Wake};
use crate::usercopy;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::sync::Arc;
use anonmem_oslib::Result;
use anonmem_oslib::errno::{EAGAIN, EFAULT, EINVAL, ENOSYS, ETIMEDOUT};
use anonmem_oslib::restart::ERESTARTSYS;
use core::sync::atomic::{AtomicBool, Ordering::SeqCst};
use linux_raw_sys::general as abi;

/// What names a futex.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// Address space and address.
    Private(u64, u64),
    /// Shared object and offset.
    Shared(u64, u64),
}

/// Whether the memory may be shared with other address spaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// It is this address space's alone (`FUTEX_PRIVATE_FLAG`).
    Private,
    /// Look.
    Any,
}

struct Waiter {
    woken: AtomicBool,
    bits: u32,
    /// Where it queues now: a requeue moves it.
    key: SpinLock<Key>,
}

impl Waiter {
    fn wake_key(&self) -> usize {
        core::ptr::from_ref(self).addr()
    }
}

static QUEUES: SpinLock<BTreeMap<Key, VecDeque<Arc<Waiter>>>> = SpinLock::new(BTreeMap::new());

/// Matches every waiter.
pub const ANY: u32 = abi::FUTEX_BITSET_MATCH_ANY;

/// Gives the futex at `address` of the running task's memory.
///
/// # Errors
/// `EINVAL` if it is not aligned, `EFAULT` if nothing is mapped.
pub fn key(address: u64, scope: Scope) -> Result<Key> {
    if !address.is_multiple_of(4) {
        return Err(EINVAL);
    }
    if address >= usercopy::USER_END {
        return Err(EFAULT);
    }
    let mm = sched::current_mm().ok_or(EFAULT)?;
    if scope == Scope::Any
        && let Some((object, offset)) = mm::shared_at(&mm, address)
    {
        return Ok(Key::Shared(object, offset));
    }
    Ok(Key::Private(mm::id(&mm), address))
}

/// Sleeps while the word at `address` is `expected`, until a waker with a common bit or the deadline comes.
///
/// # Errors
/// `EAGAIN` if the word is another, `ETIMEDOUT`, `ERESTARTSYS`, `EFAULT`, `EINVAL`.
pub fn wait(address: u64, scope: Scope, expected: u32, bits: u32, deadline_ns: Option<u64>) -> Result<()> {
    if bits == 0 {
        return Err(EINVAL);
    }
    let key = key(address, scope)?;
    let waiter = enqueue(address, key, expected, bits)?;
    let asleep = || !waiter.woken.load(SeqCst);
    loop {
        let wake = sched::park(waiter.wake_key(), &asleep, deadline_ns, Interruptible::Yes);
        if !asleep() {
            return Ok(());
        }
        let end = match wake {
            Wake::Unparked | Wake::Invalid => continue,
            Wake::TimedOut => ETIMEDOUT,
            Wake::Interrupted if sched::wait_was_interrupted() => ERESTARTSYS,
            Wake::Interrupted => continue,
        };
        // A waker may have taken us out of the queue meanwhile: then its wake is ours to report.
        return if dequeue(&waiter) { Err(end) } else { Ok(()) };
    }
}

/// Queues a waiter if the word is still `expected`.
fn enqueue(address: u64, key: Key, expected: u32, bits: u32) -> Result<Arc<Waiter>> {
    let waiter = Arc::new(Waiter { woken: AtomicBool::new(false), bits, key: SpinLock::new(key) });
    loop {
        {
            let mut queues = QUEUES.lock();
            match usercopy::read_user_nofault(address) {
                Ok(word) if word != expected => return Err(EAGAIN),
                Ok(_) => {
                    queues.entry(key).or_default().push_back(waiter.clone());
                    return Ok(waiter);
                }
                Err(_) => {}
            }
        }
        // The page is not there: fault it in without the lock, and look again.
        let mut word = [0; 4];
        usercopy::copy_from_user(&mut word, address)?;
    }
}

/// Takes a waiter out; says whether it was still queued.
fn dequeue(waiter: &Arc<Waiter>) -> bool {
    let mut queues = QUEUES.lock();
    let key = *waiter.key.lock();
    let Some(queue) = queues.get_mut(&key) else { return false };
    let Some(at) = queue.iter().position(|w| Arc::ptr_eq(w, waiter)) else { return false };
    queue.remove(at);
    if queue.is_empty() {
        queues.remove(&key);
    }
    true
}

/// Wakes up to `n` waiters of `key` that have a bit of `bits`; says how many.
pub fn wake(key: Key, n: usize, bits: u32) -> usize {
    wake_locked(&mut QUEUES.lock(), key, n, bits)
}

fn wake_locked(queues: &mut BTreeMap<Key, VecDeque<Arc<Waiter>>>, key: Key, n: usize, bits: u32) -> usize {
    let Some(queue) = queues.get_mut(&key) else { return 0 };
    let mut woken = 0;
    queue.retain(|waiter| {
        if woken == n || waiter.bits & bits == 0 {
            return true;
        }
        woken += 1;
        waiter.woken.store(true, SeqCst);
        sched::unpark(waiter.wake_key(), 1);
        false
    });
    if queue.is_empty() {
        queues.remove(&key);
    }
    woken
}

/// Wakes waiters of an address of the running task's memory, however they named it.
pub fn wake_address(address: u64, n: usize) {
    if let Ok(key) = key(address, Scope::Any) {
        wake(key, n, ANY);
    }
}

/// Wakes `wake_n` waiters of `from` and moves up to `move_n` others to `to`. With `expected`, only if the
/// word at `address` is that. Gives how many were woken and how many moved.
///
/// # Errors
/// `EAGAIN` if the word is another, `EFAULT`.
pub fn requeue(
    address: u64,
    from: Key,
    to: Key,
    wake_n: usize,
    move_n: usize,
    expected: Option<u32>,
) -> Result<(usize, usize)> {
    loop {
        {
            let mut queues = QUEUES.lock();
            match expected.map(|value| (value, usercopy::read_user_nofault(address))) {
                Some((value, Ok(word))) if word != value => return Err(EAGAIN),
                Some((_, Err(_))) => {}
                _ => {
                    let woken = wake_locked(&mut queues, from, wake_n, ANY);
                    return Ok((woken, move_locked(&mut queues, from, to, move_n)));
                }
            }
        }
        let mut word = [0; 4];
        usercopy::copy_from_user(&mut word, address)?;
    }
}

fn move_locked(queues: &mut BTreeMap<Key, VecDeque<Arc<Waiter>>>, from: Key, to: Key, n: usize) -> usize {
    let Some(mut queue) = queues.remove(&from) else { return 0 };
    let rest = queue.split_off(n.min(queue.len()));
    if !rest.is_empty() {
        queues.insert(from, rest);
    }
    let moved = queue.len();
    for waiter in &queue {
        *waiter.key.lock() = to;
    }
    if moved > 0 {
        queues.entry(to).or_default().append(&mut queue);
    }
    moved
}

/// `FUTEX_WAKE_OP`: changes the word at `address` as `encoded` says; says whether its comparison holds.
///
/// # Errors
/// `EFAULT`, `ENOSYS` for an operation that does not exist.
pub fn change_word(address: u64, encoded: u32) -> Result<bool> {
    let operation = encoded >> 28 & 7;
    let shift = encoded >> 31 != 0;
    let field = |at: u32| ((encoded >> at & 0xfff) as i32) << 20 >> 20;
    let operand = if shift { 1 << (field(12) & 31) } else { field(12) } as u32;
    let mut old = read_word(address)?;
    loop {
        let new = match operation {
            abi::FUTEX_OP_SET => operand,
            abi::FUTEX_OP_ADD => old.wrapping_add(operand),
            abi::FUTEX_OP_OR => old | operand,
            abi::FUTEX_OP_ANDN => old & !operand,
            abi::FUTEX_OP_XOR => old ^ operand,
            _ => return Err(ENOSYS),
        };
        let seen = usercopy::cmpxchg_user(address, old, new)?;
        if seen == old {
            break;
        }
        old = seen;
    }
    let (value, limit) = (old as i32, field(0));
    match encoded >> 24 & 0xf {
        abi::FUTEX_OP_CMP_EQ => Ok(value == limit),
        abi::FUTEX_OP_CMP_NE => Ok(value != limit),
        abi::FUTEX_OP_CMP_LT => Ok(value < limit),
        abi::FUTEX_OP_CMP_LE => Ok(value <= limit),
        abi::FUTEX_OP_CMP_GT => Ok(value > limit),
        abi::FUTEX_OP_CMP_GE => Ok(value >= limit),
        _ => Err(ENOSYS),
    }
}

fn read_word(address: u64) -> Result<u32> {
    let mut word = [0; 4];
    usercopy::copy_from_user(&mut word, address)?;
    Ok(u32::from_le_bytes(word))
}

fn read_pointer(address: u64) -> Result<u64> {
    let mut word = [0; 8];
    usercopy::copy_from_user(&mut word, address)?;
    Ok(u64::from_le_bytes(word))
}

/// Robust futexes in a list at most; user code may have made a ring of it.
const ROBUST_LIMIT: usize = 2048;

/// Marks the robust futexes that the ending thread holds, and wakes a waiter of each.
///
/// Linux: kernel/futex/core.c `exit_robust_list`.
pub fn release_robust_list(thread: &Thread) {
    let head = core::mem::take(&mut thread.user.lock().robust_list);
    if head != 0 {
        // A list that cannot be read ends there.
        let _ = walk_robust_list(head, thread.tid);
    }
}

fn walk_robust_list(head: u64, tid: u32) -> Result<()> {
    let first = read_pointer(head)?;
    let offset = read_pointer(head + 8)?;
    let pending = read_pointer(head + 16)?;
    let mut entry = first;
    for _ in 0..ROBUST_LIMIT {
        // Bit 0 says that it is a priority-inheritance futex.
        let at = entry & !1;
        if at == head {
            break;
        }
        let next = read_pointer(at);
        if at != pending & !1 {
            mark_owner_died(at.wrapping_add(offset), tid)?;
        }
        entry = next?;
    }
    if pending & !1 != 0 {
        mark_owner_died((pending & !1).wrapping_add(offset), tid)?;
    }
    Ok(())
}

fn mark_owner_died(address: u64, tid: u32) -> Result<()> {
    let mut word = read_word(address)?;
    while word & abi::FUTEX_TID_MASK == tid {
        let seen = usercopy::cmpxchg_user(address, word, word & abi::FUTEX_WAITERS | abi::FUTEX_OWNER_DIED)?;
        if seen == word {
            if word & abi::FUTEX_WAITERS != 0 {
                wake_address(address, 1);
            }
            return Ok(());
        }
        word = seen;
    }
    Ok(())
}

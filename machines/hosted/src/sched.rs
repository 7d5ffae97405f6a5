//! Threads as CPUs.
//!
//! A thread that calls the memory manager holds a CPU ([`Cpus::enter`]); a CPU is held by one thread at a
//! time, the others queue for it. Kernel code is not preempted: a thread gives its CPU up only while it
//! sleeps in `park` and at [`Cpus::preemption_point`], which a program passes between two accesses. It
//! always gets the *same* CPU back, so a thread never migrates; but another thread may have run there in
//! between, so what is per CPU must not be held across a sleep, and no RCU read section may be open.
//!
//! Tasks park in one table for the whole process, because its keys are addresses.
//!
//! When a thread dies of a panic its machine is marked broken, and every other thread that waits for
//! anything panics as well: a failed test ends instead of hanging.

use anonmem_hal::{CpuId, HeldLocks, NodePolicy, Pfn};
use anonmem_sync::{LockWaits, order};
use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    io::{Write, stderr},
    marker::PhantomData,
    sync::{
        Arc, Condvar, LazyLock, Mutex, MutexGuard, Once, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

const NO_CPU: u32 = u32::MAX;
/// How many times `relax` spins before it lets the host run another thread.
const SPINS_BEFORE_YIELD: u32 = 64;
/// How often a waiting thread looks whether the machine broke.
const HEARTBEAT: Duration = Duration::from_millis(100);
/// How long a thread spins for a lock before it sleeps: about what going to sleep and being woken cost.
const SPIN: Duration = Duration::from_micros(20);
const BUCKETS: usize = 256;
/// How long a destructor may wait while its thread unwinds.
const PATIENCE: Duration = Duration::from_secs(5);

thread_local! {
    static CPU: Cell<u32> = const { Cell::new(NO_CPU) };
    static MACHINE: RefCell<Option<Arc<Cpus>>> = const { RefCell::new(None) };
    static HELD: RefCell<HeldLocks> = const { RefCell::new(HeldLocks::NONE) };
    static SPINS: Cell<u32> = const { Cell::new(0) };
    static UNWINDING: Cell<Option<Instant>> = const { Cell::new(None) };
    static DYING: Cell<bool> = const { Cell::new(false) };
    static NODE_POLICY: Cell<NodePolicy> = const { Cell::new(NodePolicy::DEFAULT) };
}

/// Where this thread wants its pages from now on, on a machine that is checked. Linux: `set_mempolicy`.
pub fn set_node_policy(policy: NodePolicy) {
    NODE_POLICY.set(policy);
}

pub(crate) fn node_policy() -> NodePolicy {
    NODE_POLICY.get()
}

pub(crate) fn is_dying() -> bool {
    DYING.get()
}

/// Makes every panic on a CPU mark its machine as broken, before the thread unwinds.
static HOOK: Once = Once::new();

fn mark_broken_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        // The list may be borrowed, or gone with its thread: then there is nobody to tell.
        let _ = MACHINE.try_with(|machine| {
            if let Ok(machine) = machine.try_borrow()
                && let Some(machine) = &*machine
            {
                machine.broken.store(true, Ordering::Relaxed);
            }
        });
        report(info);
    }));
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One CPU: free or held, and a line of threads that want it.
#[derive(Default)]
struct Slot {
    /// Who is next, and who came last: tickets, so that nobody starves.
    line: Mutex<Line>,
    moved: Condvar,
    /// Threads in line, for the preemption point to look at without the lock.
    waiting: AtomicU32,
    /// How many threads of each address space, by root, are in user mode on this CPU or sleep there.
    spaces: Mutex<HashMap<Pfn, u32>>,
}

#[derive(Default)]
struct Line {
    serving: u64,
    last: u64,
}

/// The CPUs of one machine.
pub struct Cpus {
    slots: Box<[Slot]>,
    /// How many of them a thread has.
    taken: AtomicU32,
    broken: AtomicBool,
    lock_waits: LockWaits,
}

impl Cpus {
    pub(crate) fn new(n: usize) -> Self {
        Self {
            slots: (0..n).map(|_| Slot::default()).collect(),
            taken: AtomicU32::new(0),
            broken: AtomicBool::new(false),
            lock_waits: LockWaits::new(),
        }
    }

    /// The number of CPUs.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// How long tasks waited for sleeping locks.
    pub fn lock_waits(&self) -> &LockWaits {
        &self.lock_waits
    }

    /// Whether there is none: never.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Makes this thread run on `cpu` until the guard drops; waits while another one does.
    ///
    /// # Panics
    /// If this thread is on a CPU already, or there is no such CPU.
    pub fn enter(self: &Arc<Self>, cpu: CpuId) -> CpuGuard {
        assert!(CPU.get() == NO_CPU, "this thread already runs on CPU {}", CPU.get());
        assert!(cpu.index() < self.len(), "there is no CPU {}: the machine has {}", cpu.0, self.len());
        HOOK.call_once(mark_broken_on_panic);
        self.acquire(cpu);
        MACHINE.set(Some(self.clone()));
        CPU.set(cpu.0);
        CpuGuard { cpu, _not_send: PhantomData }
    }

    /// Runs `f` on `cpu`.
    pub fn run_on<R>(self: &Arc<Self>, cpu: CpuId, f: impl FnOnce() -> R) -> R {
        let _cpu = self.enter(cpu);
        f()
    }

    /// Runs `f` on this thread as the kernel's work for a program that is being killed.
    pub fn dying<R>(f: impl FnOnce() -> R) -> R {
        DYING.set(true);
        let result = f();
        DYING.set(false);
        result
    }

    /// Lets a thread that waits for this CPU run first: what a timer interrupt in user mode does.
    pub fn preemption_point() {
        MACHINE.with_borrow(|machine| {
            let Some(machine) = machine else { return };
            machine.check_broken();
            let cpu = CpuId(CPU.get());
            if machine.slots[cpu.index()].waiting.load(Ordering::Relaxed) != 0 {
                machine.release(cpu);
                machine.acquire(cpu);
            }
        });
    }

    /// A thread more uses the address space `root` on `cpu`; the first one runs `activate`.
    pub(crate) fn enter_space(&self, cpu: CpuId, root: Pfn, activate: impl FnOnce()) {
        let mut spaces = locked(&self.slots[cpu.index()].spaces);
        let threads = spaces.entry(root).or_insert(0);
        *threads += 1;
        if *threads == 1 {
            activate();
        }
    }

    /// A thread less uses the address space `root` on `cpu`; the last one runs `deactivate`.
    pub(crate) fn leave_space(&self, cpu: CpuId, root: Pfn, deactivate: impl FnOnce()) {
        let mut spaces = locked(&self.slots[cpu.index()].spaces);
        let threads = spaces.get_mut(&root).expect("left an address space that was not entered");
        *threads -= 1;
        if *threads == 0 {
            deactivate();
            spaces.remove(&root);
        }
    }

    fn acquire(&self, cpu: CpuId) {
        let slot = &self.slots[cpu.index()];
        let mut line = locked(&slot.line);
        let ticket = line.last;
        line.last += 1;
        slot.waiting.fetch_add(1, Ordering::Relaxed);
        while line.serving != ticket {
            line = slot.moved.wait_timeout(line, HEARTBEAT).unwrap_or_else(PoisonError::into_inner).0;
            self.check_broken();
        }
        slot.waiting.fetch_sub(1, Ordering::Relaxed);
        self.taken.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether the thread on `cpu` may go on spinning for what a thread on another CPU has: such a thread
    /// there is, and none waits for this CPU.
    fn may_spin(&self, cpu: CpuId) -> bool {
        let wanted = self.slots[cpu.index()].waiting.load(Ordering::Relaxed) != 0;
        !wanted && self.taken.load(Ordering::Relaxed) > 1
    }

    fn release(&self, cpu: CpuId) {
        self.taken.fetch_sub(1, Ordering::Relaxed);
        let slot = &self.slots[cpu.index()];
        locked(&slot.line).serving += 1;
        slot.moved.notify_all();
    }

    fn check_broken(&self) {
        if !self.broken.load(Ordering::Relaxed) {
            return;
        }
        if !std::thread::panicking() {
            panic!("another thread of this machine has panicked");
        }
        // This thread unwinds, and a destructor waits for what may never come.
        let since = UNWINDING.get().unwrap_or_else(Instant::now);
        UNWINDING.set(Some(since));
        if since.elapsed() > PATIENCE {
            // Not `eprintln`: a test harness would keep it to itself.
            let _ = writeln!(stderr(), "a destructor waits while its thread unwinds from a panic: aborting");
            std::process::abort();
        }
    }
}

/// This thread's hold on a CPU.
#[must_use = "the CPU is given up when the guard drops"]
pub struct CpuGuard {
    cpu: CpuId,
    _not_send: PhantomData<*mut ()>,
}

impl CpuGuard {
    /// Which CPU.
    pub fn cpu(&self) -> CpuId {
        self.cpu
    }
}

impl Drop for CpuGuard {
    fn drop(&mut self) {
        CPU.set(NO_CPU);
        let Some(machine) = MACHINE.take() else { return };
        if std::thread::panicking() {
            HELD.set(HeldLocks::NONE);
        }
        machine.release(self.cpu);
    }
}

/// A task that sleeps.
struct Sleeper {
    key: usize,
    alarm: Arc<Alarm>,
}

#[derive(Default)]
struct Alarm {
    rung: Mutex<bool>,
    ring: Condvar,
}

impl Alarm {
    fn ring(&self) {
        *locked(&self.rung) = true;
        self.ring.notify_one();
    }

    fn wait(&self, machine: Option<&Cpus>) {
        let mut rung = locked(&self.rung);
        while !*rung {
            rung = self.ring.wait_timeout(rung, HEARTBEAT).unwrap_or_else(PoisonError::into_inner).0;
            if !*rung && let Some(machine) = machine {
                machine.check_broken();
            }
        }
    }
}

/// Where tasks sleep, by hash of their key.
static PARKED: LazyLock<Box<[Mutex<Vec<Sleeper>>]>> =
    LazyLock::new(|| (0..BUCKETS).map(|_| Mutex::default()).collect());

fn bucket(key: usize) -> &'static Mutex<Vec<Sleeper>> {
    &PARKED[(key >> 2).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (usize::BITS - BUCKETS.ilog2())]
}

/// The CPU that this thread holds.
#[inline]
pub(crate) fn current_cpu() -> CpuId {
    let cpu = CPU.get();
    assert!(cpu != NO_CPU, "this thread runs on no CPU: call it within `cpus().enter(cpu)`");
    CpuId(cpu)
}

/// Sleeps until somebody wakes `key`, unless `keep_waiting` says no.
pub(crate) fn park(key: usize, keep_waiting: &dyn Fn() -> bool) {
    let alarm = {
        let mut sleepers = locked(bucket(key));
        if !keep_waiting() {
            return;
        }
        let alarm = Arc::new(Alarm::default());
        sleepers.push(Sleeper { key, alarm: alarm.clone() });
        alarm
    };
    let machine = MACHINE.with_borrow(Clone::clone);
    let cpu = CPU.get();
    if let Some(machine) = &machine {
        machine.release(CpuId(cpu));
    }
    alarm.wait(machine.as_deref());
    if let Some(machine) = &machine {
        machine.acquire(CpuId(cpu));
    }
}

/// Wakes up to `n` that sleep on `key`.
pub(crate) fn unpark(key: usize, n: usize) {
    let mut left = n;
    let woken: Vec<_> = locked(bucket(key))
        .extract_if(.., |sleeper| {
            let wake = sleeper.key == key && left > 0;
            left -= usize::from(wake);
            wake
        })
        .collect();
    woken.iter().for_each(|sleeper| sleeper.alarm.ring());
}

/// Spins while `keep_waiting` says so, for as long as that is better than to sleep.
pub(crate) fn optimistic_spin(keep_waiting: &dyn Fn() -> bool) {
    MACHINE.with_borrow(|machine| {
        let Some(machine) = machine else { return };
        let (cpu, end) = (current_cpu(), Instant::now() + SPIN);
        while keep_waiting() && machine.may_spin(cpu) && Instant::now() < end {
            relax();
        }
    });
}

/// Lets the host run another thread.
pub(crate) fn yield_now() {
    MACHINE.with_borrow(|machine| {
        if let Some(machine) = machine {
            machine.check_broken();
        }
    });
    std::thread::yield_now();
}

/// One turn of a spin loop.
pub(crate) fn relax() {
    let spins = SPINS.get().wrapping_add(1);
    SPINS.set(spins);
    if !spins.is_multiple_of(SPINS_BEFORE_YIELD) {
        std::hint::spin_loop();
    } else {
        yield_now();
    }
}

/// Waits for a lock of `level` and counts for how long.
pub(crate) fn contended(level: u16, wait: &mut dyn FnMut()) {
    // Spin locks are held for less than asking for the time takes.
    if !order::sleeps(level) {
        return wait();
    }
    let start = Instant::now();
    wait();
    MACHINE.with_borrow(|machine| {
        if let Some(machine) = machine {
            machine.lock_waits.add(level, start.elapsed().as_nanos() as u64);
        }
    });
}

/// Gives `f` the locks that this thread holds.
pub(crate) fn with_held_locks(f: &mut dyn FnMut(&mut HeldLocks)) {
    HELD.with_borrow_mut(|held| f(held));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Checked, Hosted};
    use anonmem_hal::Sched;
    use anonmem_sync::{Level, RwSem, Spin, WaitQueue};
    use std::{sync::atomic::AtomicU64, thread};

    type M = Hosted<Checked>;

    fn cpus() -> Arc<Cpus> {
        Arc::new(Cpus::new(4))
    }

    #[test]
    #[should_panic(expected = "this thread runs on no CPU")]
    fn a_thread_without_a_cpu_is_told_what_to_do() {
        M::current_cpu();
    }

    #[test]
    fn a_cpu_runs_one_thread_at_a_time() {
        let (cpus, inside) = (cpus(), AtomicU64::new(0));
        thread::scope(|s| {
            for _ in 0..6 {
                s.spawn(|| {
                    for _ in 0..200 {
                        cpus.run_on(CpuId(1), || {
                            assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                            assert_eq!(M::current_cpu(), CpuId(1));
                            inside.fetch_sub(1, Ordering::SeqCst);
                        });
                    }
                });
            }
        });
    }

    #[test]
    fn a_sleeper_lends_its_cpu() {
        let (cpus, ready) = (cpus(), AtomicBool::new(false));
        let queue = WaitQueue::<M>::new();
        thread::scope(|s| {
            s.spawn(|| cpus.run_on(CpuId(0), || queue.wait_until(&|| ready.load(Ordering::SeqCst))));
            s.spawn(|| {
                cpus.run_on(CpuId(0), || {
                    ready.store(true, Ordering::SeqCst);
                    queue.wake_all();
                });
            });
        });
    }

    #[test]
    fn waits_for_a_lock_are_counted() {
        let (cpus, lock) = (cpus(), RwSem::<M, order::MmapLock, ()>::new(()));
        let waited = || cpus.lock_waits().of(order::MmapLock::RANK);
        cpus.run_on(CpuId(1), || drop(lock.read()));
        assert_eq!(waited().times, 0, "a free lock is no wait");
        // The reader may come too late to wait: then once more.
        while waited().times == 0 {
            let held = AtomicBool::new(false);
            thread::scope(|s| {
                s.spawn(|| {
                    cpus.run_on(CpuId(0), || {
                        let _guard = lock.write();
                        held.store(true, Ordering::SeqCst);
                        thread::sleep(Duration::from_millis(5));
                    });
                });
                while !held.load(Ordering::SeqCst) {
                    thread::yield_now();
                }
                cpus.run_on(CpuId(1), || drop(lock.read()));
            });
        }
        assert!(waited().ns > 0);
    }

    #[test]
    fn nobody_spins_alone_or_where_another_thread_wants_the_cpu() {
        let cpus = cpus();
        let turns = || {
            let turns = AtomicU64::new(0);
            M::optimistic_spin(&|| turns.fetch_add(1, Ordering::Relaxed) < u64::MAX);
            turns.into_inner()
        };
        let first = cpus.enter(CpuId(0));
        assert_eq!(turns(), 1, "nobody else is there");
        let (there, done) = (AtomicBool::new(false), AtomicBool::new(false));
        thread::scope(|s| {
            s.spawn(|| {
                cpus.run_on(CpuId(1), || {
                    there.store(true, Ordering::SeqCst);
                    while !done.load(Ordering::SeqCst) {
                        thread::yield_now();
                    }
                });
            });
            while !there.load(Ordering::SeqCst) {
                thread::yield_now();
            }
            assert!(turns() > 1, "another CPU is busy");
            s.spawn(|| cpus.run_on(CpuId(0), || ()));
            while cpus.slots[0].waiting.load(Ordering::SeqCst) == 0 {
                thread::yield_now();
            }
            assert_eq!(turns(), 1, "somebody waits for this CPU");
            done.store(true, Ordering::SeqCst);
            drop(first);
        });
    }

    #[test]
    fn a_busy_program_lets_others_onto_its_cpu() {
        let (cpus, done) = (cpus(), AtomicBool::new(false));
        thread::scope(|s| {
            s.spawn(|| {
                cpus.run_on(CpuId(2), || {
                    while !done.load(Ordering::Relaxed) {
                        Cpus::preemption_point();
                    }
                });
            });
            s.spawn(|| cpus.run_on(CpuId(2), || done.store(true, Ordering::Relaxed)));
        });
    }

    #[test]
    fn locks_work_with_more_threads_than_cpus() {
        let cpus = cpus();
        let outer: RwSem<M, order::MmapLock, u64> = RwSem::new(0);
        let inner: Spin<M, order::Zone, u64> = Spin::new(0);
        thread::scope(|s| {
            for i in 0..8 {
                let (cpus, outer, inner) = (&cpus, &outer, &inner);
                s.spawn(move || {
                    for _ in 0..2_000 {
                        cpus.run_on(CpuId(i % 2), || {
                            let mut held = outer.write();
                            *held += 1;
                            *inner.lock() += 1;
                        });
                    }
                });
            }
        });
        cpus.run_on(CpuId(0), || assert_eq!((*outer.read(), *inner.lock()), (16_000, 16_000)));
    }

    #[test]
    fn a_panic_wakes_the_sleepers_of_the_machine() {
        let cpus = cpus();
        let queue = WaitQueue::<M>::new();
        thread::scope(|s| {
            let sleeper = s.spawn(|| cpus.run_on(CpuId(0), || queue.wait_until(&|| false)));
            let failing = s.spawn(|| cpus.run_on(CpuId(1), || panic!("on purpose")));
            assert!(failing.join().is_err());
            assert!(sleeper.join().is_err(), "the sleeper noticed");
        });
    }
}

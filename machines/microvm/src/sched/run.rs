//! Run queues and the scheduler loop.
//!
//! Every CPU has a stack of its own for the loop. A task that gives up its CPU switches to the loop;
//! the loop then does what the task asked for (queue it again, leave it to its waker, bury it) and
//! runs the next. The detour makes the moment well-defined at which a task's stack is free: a task that
//! was woken on another CPU waits there for `on_cpu` while nobody waits for *that* CPU's last task.
//!
//! The address space stays loaded if the next task uses the same one.

use alloc::sync::Arc;
use core::sync::atomic::{
    AtomicPtr, AtomicUsize, Ordering::Acquire, Ordering::Relaxed, Ordering::Release, Ordering::SeqCst,
};

use super::idle;
use super::reaper;
use super::task::{Task, current_task, try_current_task};
use crate::arch::entry::switch_context;
use crate::arch::irq::IrqOff;
use crate::arch::lock::IrqLock;
use crate::arch::percpu::{MAX_CPUS, PerCpu, cpu_count, this_cpu};
use crate::arch::{time, tlb};
use crate::boot::paging;

/// What the scheduler loop does with the task that came back.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Action {
    /// Queue it again.
    Requeue,
    /// Nothing: it is in a wait bucket, or was already taken out and queued by its waker.
    Park,
    /// It has ended.
    Exit,
}

/// A first-in first-out list of tasks, linked through them. The links belong to whoever guards the list.
pub(super) struct TaskList {
    head: *const Task,
    tail: *const Task,
}

// SAFETY: the pointers are to tasks that the scheduler holds a reference to while they are in a list.
unsafe impl Send for TaskList {}

impl TaskList {
    pub(super) const fn new() -> TaskList {
        TaskList { head: core::ptr::null(), tail: core::ptr::null() }
    }

    pub(super) fn push_back(&mut self, task: &Task) {
        let this = core::ptr::from_ref(task);
        task.prev.store(self.tail.cast_mut(), Relaxed);
        task.next.store(core::ptr::null_mut(), Relaxed);
        match self.get(self.tail) {
            Some(tail) => tail.next.store(this.cast_mut(), Relaxed),
            None => self.head = this,
        }
        self.tail = this;
    }

    /// Takes a member out.
    pub(super) fn remove(&mut self, task: &Task) {
        let prev = task.prev.load(Relaxed).cast_const();
        let next = task.next.load(Relaxed).cast_const();
        match self.get(prev) {
            Some(task) => task.next.store(next.cast_mut(), Relaxed),
            None => self.head = next,
        }
        match self.get(next) {
            Some(task) => task.prev.store(prev.cast_mut(), Relaxed),
            None => self.tail = prev,
        }
    }

    pub(super) fn pop_front(&mut self) -> Option<&'static Task> {
        let task = self.first()?;
        self.remove(task);
        Some(task)
    }

    pub(super) fn first(&self) -> Option<&'static Task> {
        self.get(self.head)
    }

    /// The member after `task`.
    pub(super) fn after(&self, task: &Task) -> Option<&'static Task> {
        self.get(task.next.load(Relaxed))
    }

    fn get(&self, task: *const Task) -> Option<&'static Task> {
        // SAFETY: null or a member; members are kept alive by the scheduler's reference, and the
        // callers use the result only while the task cannot end.
        unsafe { task.as_ref() }
    }
}

/// The tasks that wait for one CPU.
struct RunQueue {
    list: IrqLock<TaskList>,
    len: AtomicUsize,
}

impl RunQueue {
    const fn new() -> RunQueue {
        RunQueue { list: IrqLock::new(TaskList::new()), len: AtomicUsize::new(0) }
    }

    fn push(&self, task: &Task) {
        let mut list = self.list.lock();
        list.push_back(task);
        // SeqCst: before the pusher looks for idle CPUs; pairs with `idle::prepare`.
        self.len.fetch_add(1, SeqCst);
    }

    fn pop(&self) -> Option<&'static Task> {
        if self.is_empty() {
            return None;
        }
        let mut list = self.list.lock();
        let task = list.pop_front()?;
        self.len.fetch_sub(1, SeqCst);
        Some(task)
    }

    fn is_empty(&self) -> bool {
        self.len.load(SeqCst) == 0
    }
}

/// What the scheduler keeps of each CPU. Not in `PerCpu`, which lies below the scheduler and knows no tasks.
#[repr(align(64))]
struct Cpu {
    /// The running task; null while the scheduler itself runs.
    current: AtomicPtr<Task>,
    queue: RunQueue,
}

static CPUS: [Cpu; MAX_CPUS] =
    [const { Cpu { current: AtomicPtr::new(core::ptr::null_mut()), queue: RunQueue::new() } }; MAX_CPUS];

/// The task that this CPU runs; null while the scheduler itself runs.
#[inline]
pub(super) fn running() -> *const Task {
    CPUS[this_cpu().id()].current.load(Relaxed)
}

/// Makes a task runnable for the first time.
pub fn start(task: &Arc<Task>) {
    if task.is_user() {
        reaper::count_user_task();
    }
    // The scheduler's own reference; the reaper gives it back.
    let task = Arc::into_raw(task.clone());
    // SAFETY: the reference that was just kept.
    enqueue(unsafe { &*task });
}

/// Puts a runnable task into a queue: where it ran last, unless another CPU is idle.
pub(super) fn enqueue(task: &Task) {
    let last = task.last_cpu.load(Relaxed) as usize;
    let claimed = idle::claim(last);
    let target = claimed.unwrap_or(last);
    CPUS[target].queue.push(task);
    // A CPU may have gone idle after the first look and before the push.
    if let Some(idle) = claimed.or_else(|| idle::claim(target)) {
        idle::kick(idle);
    }
}

/// Whether a task waits in any queue.
pub(super) fn anything_runnable() -> bool {
    (0..cpu_count()).any(|id| !CPUS[id].queue.is_empty())
}

/// Whether the running task may go on spinning for what a task on another CPU has: such a task there is, and
/// none waits for a CPU.
pub(super) fn may_spin() -> bool {
    !anything_runnable() && idle::others_run()
}

/// The next task for this CPU: from its own queue, else from another's.
fn pick(me: &PerCpu) -> Option<&'static Task> {
    if let Some(task) = CPUS[me.id()].queue.pop() {
        return Some(task);
    }
    let count = cpu_count();
    (1..count).find_map(|step| CPUS[(me.id() + step) % count].queue.pop())
}

/// Gives up the CPU for a reason. Interrupts may be on or off, and are as before afterwards.
pub(super) fn reschedule(action: Action) {
    let _interrupts = IrqOff::new();
    let task = current_task();
    task.action.store(action as u8, Relaxed);
    task.unload();
    let me = this_cpu();
    me.need_resched.store(false, Relaxed);
    CPUS[me.id()].current.store(core::ptr::null_mut(), Relaxed);
    let scheduler = me.scheduler_rsp.load(Relaxed);
    // SAFETY: the loop saved its stack pointer when it switched to this task; interrupts are off.
    unsafe { switch_context(task.saved_rsp.as_ptr(), scheduler) };
    // Maybe on another CPU now.
}

/// Lets other runnable tasks run.
pub fn yield_now() {
    this_cpu().need_resched.store(false, Relaxed);
    if anything_runnable() && try_current_task().is_some() {
        reschedule(Action::Requeue);
    }
}

/// Ends the running task. Release what may sleep before (address space, files): whatever `Arc`s the
/// task still holds are dropped by a kernel task soon after.
pub fn exit() -> ! {
    super::set_current_mm(None);
    reschedule(Action::Exit);
    unreachable!("an ended task runs")
}

/// The scheduler loop of this CPU. Interrupts are off.
pub fn run_scheduler() -> ! {
    let me = this_cpu();
    let mut last: Option<&'static Task> = None;
    loop {
        tlb::answer();
        if let Some(task) = last.filter(|task| task.action.load(Relaxed) == Action::Requeue as u8) {
            enqueue_here(me, task);
        }
        match pick(me) {
            Some(next) => {
                change_over(last.take(), next);
                run(me, next);
                last = Some(next);
            }
            None => {
                leave(last.take());
                idle::idle();
            }
        }
    }
}

/// Behind the others of this CPU; it still owns the task.
fn enqueue_here(me: &PerCpu, task: &'static Task) {
    task.action.store(Action::Park as u8, Relaxed);
    CPUS[me.id()].queue.push(task);
    // An idle CPU may take it.
    if let Some(idle) = idle::claim(me.id()) {
        idle::kick(idle);
    }
}

/// Takes ownership of `next` and makes its address space the CPU's; gives up `last`.
fn change_over(last: Option<&'static Task>, next: &'static Task) {
    if last.is_some_and(|last| core::ptr::eq(last, next)) {
        return;
    }
    // Acquire pairs with the Release in `release`: its last CPU has stopped using it.
    let last = if next.on_cpu.swap(true, Acquire) {
        // Another CPU still switches away from it, and it may be waiting for our last one.
        leave(last);
        while next.on_cpu.swap(true, Acquire) {
            tlb::relax();
        }
        None
    } else {
        last
    };
    let root = next.root();
    if root != this_cpu().root.load(Relaxed) {
        next.activate_mm();
        tlb::load_root(root);
        if let Some(last) = last {
            last.deactivate_mm();
        }
    }
    if let Some(last) = last {
        release(last);
    }
}

/// Gives up `last` with nobody to follow: the CPU leaves its address space.
fn leave(last: Option<&'static Task>) {
    let Some(last) = last else { return };
    if this_cpu().root.load(Relaxed) != paging::kernel_root() {
        tlb::load_root(paging::kernel_root());
        last.deactivate_mm();
    }
    release(last);
}

/// Lets other CPUs have the task, or buries it.
fn release(last: &'static Task) {
    let ended = last.action.load(Relaxed) == Action::Exit as u8;
    // Release pairs with the Acquire in `change_over`.
    last.on_cpu.store(false, Release);
    if ended {
        reaper::bury(last);
    }
}

fn run(me: &PerCpu, next: &'static Task) {
    next.load();
    next.last_cpu.store(me.id() as u32, Relaxed);
    CPUS[me.id()].current.store(core::ptr::from_ref(next).cast_mut(), Relaxed);
    let now = time::now_ns();
    me.slice_start.store(now, Relaxed);
    time::arm((now + time::SLICE_NS).min(super::timer::next_deadline()));
    // SAFETY: the task's context was saved or built; it is owned by this CPU; interrupts are off.
    unsafe { switch_context(me.scheduler_rsp.as_ptr(), next.saved_rsp.load(Relaxed)) };
}

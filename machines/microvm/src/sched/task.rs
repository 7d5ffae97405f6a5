//! The task itself.

use alloc::sync::Arc;
use core::any::Any;
use core::cell::UnsafeCell;
use core::ptr::null_mut;
use core::sync::atomic::{
    AtomicBool, AtomicPtr, AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed,
};

use anonmem_hal::{HeldLocks, NodePolicy};
use x86_64::registers::model_specific::Msr;

use super::run::running;
use super::stack::KernelStack;
use super::wait::Interruptible;
use crate::arch::entry::{new_kernel_task, new_user_task};
use crate::arch::fpu::FpuState;
use crate::arch::irq::IrqOff;
use crate::arch::percpu::{set_user_gs_base, this_cpu};
use crate::arch::trap::TrapFrame;
use crate::arch::{time, tlb};
use crate::boot::paging;
use crate::heap;
use crate::machine::{self, Mm};
use crate::usercopy::USER_END;

const IA32_FS_BASE: u32 = 0xc000_0100;

/// No memory for a kernel stack or a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutOfMemory;

/// What a user task carries for the floors above: the scheduler only asks it about signals.
pub trait UserThread: Any + Send + Sync {
    /// Whether the running task's interrupted wait is over: something is there that it must see to. Else the
    /// wait goes on. Called by the task itself, after its interrupt flag was cleared.
    fn wait_is_over(&self) -> bool;
    /// Whether its program is to end.
    fn is_ending(&self) -> bool;
    /// The number that programs know it by.
    fn number(&self) -> u32;
    /// Its process's number, and the real user and group (`SCM_CREDENTIALS`).
    fn credentials(&self) -> (u32, u32, u32);
    /// How large it may make files (`RLIMIT_FSIZE`).
    fn file_size_limit(&self) -> u64;
    /// Tells it that a file would have become larger (SIGXFSZ).
    fn tell_of_file_size(&self);
}

/// One thread of execution.
///
/// Who may touch a field that is not an atomic: the task itself while it runs; the CPU that owns
/// `on_cpu` while it switches to or from the task; its creator before it is started.
pub struct Task {
    id: u64,
    thread: Option<Arc<dyn UserThread>>,
    /// Where to continue: written by `switch_context`.
    pub(super) saved_rsp: AtomicU64,
    fpu: Option<UnsafeCell<FpuState>>,
    fs_base: AtomicU64,
    gs_base: AtomicU64,
    mm: UnsafeCell<Option<Mm>>,
    /// Where its pages are to lie, as the bits of a [`NodePolicy`].
    node_policy: AtomicU16,
    held_locks: UnsafeCell<HeldLocks>,
    /// Set while some CPU runs the task or has not finished switching away from it.
    pub(super) on_cpu: AtomicBool,
    pub(super) last_cpu: AtomicU32,
    cpu_ns: AtomicU64,
    run_start: AtomicU64,
    /// What the scheduler loop shall do with the task that came back to it.
    pub(super) action: AtomicU8,
    /// A signal is pending.
    pub(super) interrupted: AtomicBool,
    /// The deadline of the present wait has passed.
    pub(super) timed_out: AtomicBool,
    /// Links of the run queue or the wait bucket that the task is in; guarded by that one's lock.
    pub(super) next: AtomicPtr<Task>,
    pub(super) prev: AtomicPtr<Task>,
    /// The wait bucket plus one, 0 while it does not wait; changed under the bucket's lock.
    pub(super) bucket: AtomicUsize,
    pub(super) wait_key: AtomicUsize,
    pub(super) wait_interruptible: AtomicBool,
    pub(super) wake_reason: AtomicU8,
    /// Links of the timer list; guarded by its lock.
    pub(super) timer_next: AtomicPtr<Task>,
    pub(super) timer_prev: AtomicPtr<Task>,
    pub(super) deadline_ns: AtomicU64,
    pub(super) timer_linked: AtomicBool,
    // Last: dropped after everything that might still want to look at it.
    stack: KernelStack,
}

// SAFETY: see the type's text: every non-atomic field has one owner at a time, and ownership moves
// with `on_cpu` (Release when it is cleared, Acquire when it is taken).
unsafe impl Send for Task {}
// SAFETY: as above.
unsafe impl Sync for Task {}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

impl Task {
    /// Makes a user task that will return to ring 3 with `frame`. It does not run before
    /// [`super::start`]. The child inherits the caller's floating-point state if the caller is a user
    /// task.
    ///
    /// # Errors
    /// [`OutOfMemory`] when there is no memory for the kernel stack.
    pub fn new_user(
        thread: Arc<dyn UserThread>,
        mm: Mm,
        frame: &TrapFrame,
        fs_base: u64,
    ) -> Result<Arc<Task>, OutOfMemory> {
        // What follows allocates on the heap, whose reserve is not for programs.
        if heap::is_short() {
            return Err(OutOfMemory);
        }
        let stack = KernelStack::new()?;
        let mut fpu = FpuState::new().ok_or(OutOfMemory)?;
        let (mut gs_base, mut node_policy) = (0, NodePolicy::DEFAULT);
        if let Some(parent) = try_current_task().filter(|task| task.fpu.is_some()) {
            fpu.save();
            gs_base = parent.gs_base();
            node_policy = parent.node_policy();
        }
        let frame_at = stack.top() - size_of::<TrapFrame>() as u64;
        // SAFETY: the place is inside the new stack, aligned, and nobody uses the stack yet.
        unsafe { (frame_at as *mut TrapFrame).write(frame.clone()) };
        let rsp = push_context(frame_at, new_user_task as *const () as u64, [0; 6]);
        let task = Task::new(Some(thread), stack, Some(fpu), Some(mm), rsp);
        task.fs_base.store(fs_base, Relaxed);
        task.gs_base.store(gs_base, Relaxed);
        task.node_policy.store(node_policy.bits(), Relaxed);
        Ok(Arc::new(task))
    }

    /// Makes a kernel task that runs `entry(argument)` and exits when it returns.
    ///
    /// # Errors
    /// [`OutOfMemory`] when there is no memory for the kernel stack.
    pub fn new_kernel(entry: fn(usize), argument: usize) -> Result<Arc<Task>, OutOfMemory> {
        let stack = KernelStack::new()?;
        // The order in which `switch_context` pops: r15 r14 r13 r12 rbx rbp.
        let registers = [0, 0, 0, argument as u64, entry as usize as u64, 0];
        let rsp = push_context(stack.top(), new_kernel_task as *const () as u64, registers);
        Ok(Arc::new(Task::new(None, stack, None, None, rsp)))
    }

    fn new(
        thread: Option<Arc<dyn UserThread>>,
        stack: KernelStack,
        fpu: Option<FpuState>,
        mm: Option<Mm>,
        rsp: u64,
    ) -> Task {
        Task {
            id: NEXT_ID.fetch_add(1, Relaxed),
            thread,
            saved_rsp: AtomicU64::new(rsp),
            fpu: fpu.map(UnsafeCell::new),
            fs_base: AtomicU64::new(0),
            gs_base: AtomicU64::new(0),
            mm: UnsafeCell::new(mm),
            node_policy: AtomicU16::new(0),
            held_locks: UnsafeCell::new(HeldLocks::NONE),
            on_cpu: AtomicBool::new(false),
            last_cpu: AtomicU32::new(this_cpu().id() as u32),
            cpu_ns: AtomicU64::new(0),
            run_start: AtomicU64::new(0),
            action: AtomicU8::new(0),
            interrupted: AtomicBool::new(false),
            timed_out: AtomicBool::new(false),
            next: AtomicPtr::new(null_mut()),
            prev: AtomicPtr::new(null_mut()),
            bucket: AtomicUsize::new(0),
            wait_key: AtomicUsize::new(0),
            wait_interruptible: AtomicBool::new(false),
            wake_reason: AtomicU8::new(0),
            timer_next: AtomicPtr::new(null_mut()),
            timer_prev: AtomicPtr::new(null_mut()),
            deadline_ns: AtomicU64::new(0),
            timer_linked: AtomicBool::new(false),
            stack,
        }
    }

    /// What a user task carries for the floors above.
    pub fn thread(&self) -> Option<&Arc<dyn UserThread>> {
        self.thread.as_ref()
    }

    /// A number that no other task has had since boot.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Nanoseconds of CPU time used so far (user and kernel together).
    pub fn cpu_time_ns(&self) -> u64 {
        let running = if self.on_cpu.load(Relaxed) {
            time::now_ns().saturating_sub(self.run_start.load(Relaxed))
        } else {
            0
        };
        self.cpu_ns.load(Relaxed) + running
    }

    /// The base of FS (thread-local storage) of a user task.
    pub fn fs_base(&self) -> u64 {
        self.fs_base.load(Relaxed)
    }

    /// Sets the base of FS, which must be a user address (others are ignored). Current task only: takes
    /// effect at once.
    pub fn set_fs_base(&self, base: u64) {
        if base < USER_END {
            self.fs_base.store(base, Relaxed);
            write_fs_base(base);
        }
    }

    /// The base of GS of user code.
    pub fn gs_base(&self) -> u64 {
        self.gs_base.load(Relaxed)
    }

    /// Sets the base of GS of user code, a user address. Current task only.
    pub fn set_gs_base(&self, base: u64) {
        if base < USER_END {
            self.gs_base.store(base, Relaxed);
            set_user_gs_base(base);
        }
    }

    /// Where its pages are to lie.
    pub fn node_policy(&self) -> NodePolicy {
        NodePolicy::of(self.node_policy.load(Relaxed))
    }

    /// How it waits, if it does: for displays, since it may go on at any time.
    pub fn waits(&self) -> Option<Interruptible> {
        let ends = if self.wait_interruptible.load(Relaxed) { Interruptible::Yes } else { Interruptible::No };
        (self.bucket.load(Relaxed) != 0).then_some(ends)
    }

    /// Whether it is a user task.
    pub fn is_user(&self) -> bool {
        self.thread.is_some()
    }

    /// The top-level table to run on. Owner of `on_cpu` only.
    pub(super) fn root(&self) -> u64 {
        // SAFETY: the caller owns `on_cpu`: nobody changes the field.
        let mm = unsafe { &*self.mm.get() };
        mm.as_ref().map_or_else(paging::kernel_root, machine::root_of)
    }

    /// Tells the address space that this CPU uses it (before its table is loaded). Owner of `on_cpu` only.
    pub(super) fn activate_mm(&self) {
        // SAFETY: as in `root`.
        if let Some(mm) = unsafe { &*self.mm.get() } {
            machine::activate(mm, this_cpu().id());
        }
    }

    /// Tells the address space that this CPU has left its table. Owner of `on_cpu` only.
    pub(super) fn deactivate_mm(&self) {
        // SAFETY: as in `root`.
        if let Some(mm) = unsafe { &*self.mm.get() } {
            machine::deactivate(mm, this_cpu().id());
        }
    }

    /// Prepares the CPU for the task: stack, segment bases, floating-point state. Interrupts are off.
    pub(super) fn load(&self) {
        let cpu = this_cpu();
        cpu.kernel_stack_top.store(self.stack.top(), Relaxed);
        self.run_start.store(time::now_ns(), Relaxed);
        let Some(fpu) = &self.fpu else { return };
        write_fs_base(self.fs_base());
        set_user_gs_base(self.gs_base());
        let here_before = self.last_cpu.load(Relaxed) as usize == cpu.id();
        if cpu.fpu_owner.load(Relaxed) != self.id || !here_before {
            // SAFETY: this CPU owns `on_cpu`.
            unsafe { &*fpu.get() }.restore();
            cpu.fpu_owner.store(self.id, Relaxed);
        }
    }

    /// Saves what `load` loaded. Interrupts are off.
    pub(super) fn unload(&self) {
        self.stack.check();
        let used = time::now_ns().saturating_sub(self.run_start.load(Relaxed));
        self.cpu_ns.fetch_add(used, Relaxed);
        if let Some(fpu) = &self.fpu {
            // SAFETY: this CPU owns `on_cpu`.
            unsafe { &mut *fpu.get() }.save();
        }
    }
}

fn write_fs_base(base: u64) {
    // SAFETY: the kernel does not use FS; the base is canonical (below USER_END).
    unsafe { Msr::new(IA32_FS_BASE).write(base) };
}

/// Builds what `switch_context` pops below `top`; returns the stack pointer to save.
fn push_context(top: u64, entry: u64, registers: [u64; 6]) -> u64 {
    let at = top - 7 * 8;
    let words = at as *mut [u64; 7];
    let [r15, r14, r13, r12, rbx, rbp] = registers;
    // SAFETY: seven words inside a stack that nobody uses yet.
    unsafe { words.write([r15, r14, r13, r12, rbx, rbp, entry]) };
    at
}

/// The running task, if the CPU has one.
pub(super) fn try_current_task() -> Option<&'static Task> {
    // SAFETY: the running task lives at least until it exits; a caller that keeps the reference to
    // itself (and does not give it to other tasks) cannot outlive that.
    unsafe { running().as_ref() }
}

/// The running task, without counting a reference: keep it on the stack. Panics when the CPU has none.
pub fn current_task() -> &'static Task {
    try_current_task().expect("no task runs on this CPU")
}

/// How large the running task may make files; a kernel task, as large as it likes.
pub fn file_size_limit() -> u64 {
    let thread = try_current_task().and_then(Task::thread);
    thread.map_or(u64::MAX, |thread| thread.file_size_limit())
}

/// Tells the running task that a file would have become larger.
pub fn tell_of_file_size() {
    if let Some(thread) = try_current_task().and_then(Task::thread) {
        thread.tell_of_file_size();
    }
}

/// Where pages of the running task are to lie: anywhere, if the CPU has none.
pub fn current_node_policy() -> NodePolicy {
    try_current_task().map_or(NodePolicy::DEFAULT, Task::node_policy)
}

/// Says where pages of the running task are to lie.
pub fn set_node_policy(policy: NodePolicy) {
    current_task().node_policy.store(policy.bits(), Relaxed);
}

/// The running task. Panics when the CPU has none (boot, idle).
pub fn current() -> Arc<Task> {
    let task = core::ptr::from_ref(current_task());
    // SAFETY: every task is made by `Arc::new`, and the scheduler holds a reference while it runs.
    unsafe { Arc::increment_strong_count(task) };
    // SAFETY: the count that was just taken.
    unsafe { Arc::from_raw(task) }
}

/// The first code of a kernel task. Called by `new_kernel_task` with interrupts off.
#[unsafe(no_mangle)]
extern "C" fn kernel_task_main(entry: *const (), argument: usize) -> ! {
    // SAFETY: `Task::new_kernel` put a `fn(usize)` there.
    let entry = unsafe { core::mem::transmute::<*const (), fn(usize)>(entry) };
    x86_64::instructions::interrupts::enable();
    entry(argument);
    super::exit()
}

/// Replaces the running task's address space (execve), or leaves it for good (`None`, exit: releases
/// the task's use of it, so the last thread's call tears the address space down, and may sleep).
/// The CPU runs on the new tables when it returns.
pub fn set_current_mm(mm: Option<Mm>) {
    let task = current_task();
    let old = {
        let _interrupts = IrqOff::new();
        let cpu = this_cpu().id();
        let root = mm.as_ref().map_or_else(paging::kernel_root, |mm| {
            machine::activate(mm, cpu);
            machine::root_of(mm)
        });
        tlb::load_root(root);
        task.deactivate_mm();
        // SAFETY: the running task owns the field, and no interrupt handler looks at it.
        unsafe { core::mem::replace(&mut *task.mm.get(), mm) }
    };
    drop(old);
}

/// A use of the running task's address space, if it has one.
pub fn current_mm() -> Option<Mm> {
    // SAFETY: the running task owns the field.
    unsafe { &*try_current_task()?.mm.get() }.clone()
}

/// Calls `f` with the saved floating-point state of the running task, if it is a user task. `f` must
/// not sleep.
pub fn with_current_fpu(f: impl FnOnce(&mut FpuState)) {
    if let Some(fpu) = &current_task().fpu {
        // SAFETY: the running task owns the field; `f` does not give up the CPU.
        f(unsafe { &mut *fpu.get() });
    }
}

/// Calls `f` with the list of memory-manager locks that the running task holds (a list of the CPU's own
/// during boot).
pub(super) fn with_held_locks(f: &mut dyn FnMut(&mut HeldLocks)) {
    match try_current_task() {
        // SAFETY: the running task owns the field; handlers take no such locks.
        Some(task) => f(unsafe { &mut *task.held_locks.get() }),
        None => this_cpu().held_locks.with(f),
    }
}

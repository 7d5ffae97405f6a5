//! The end of tasks: a kernel task drops what they still own, where sleeping is allowed.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use super::run::TaskList;
use super::task::Task;
use super::wait::{Interruptible, park, unpark};
use crate::arch::lock::IrqLock;

static DEAD: IrqLock<TaskList> = IrqLock::new(TaskList::new());
static NR_DEAD: AtomicUsize = AtomicUsize::new(0);
static USER_TASKS: AtomicUsize = AtomicUsize::new(0);

fn key(counter: &'static AtomicUsize) -> usize {
    core::ptr::from_ref(counter) as usize
}

/// Starts the reaper.
pub fn init() {
    let task = Task::new_kernel(reap, 0).expect("memory for the reaper's stack");
    super::start(&task);
}

pub(super) fn count_user_task() {
    USER_TASKS.fetch_add(1, SeqCst);
}

/// Hands a task that has ended to the reaper. Its stack is no longer in use.
pub(super) fn bury(task: &'static Task) {
    DEAD.lock().push_back(task);
    NR_DEAD.fetch_add(1, SeqCst);
    unpark(key(&NR_DEAD), 1);
}

fn reap(_: usize) {
    loop {
        park(key(&NR_DEAD), &|| NR_DEAD.load(SeqCst) == 0, None, Interruptible::No);
        loop {
            let Some(task) = DEAD.lock().pop_front() else { break };
            NR_DEAD.fetch_sub(1, SeqCst);
            let user = task.is_user();
            // SAFETY: the scheduler's reference, taken in `start`; the task is in no list and runs
            // nowhere.
            drop(unsafe { Arc::from_raw(core::ptr::from_ref(task)) });
            if user && USER_TASKS.fetch_sub(1, SeqCst) == 1 {
                unpark(key(&USER_TASKS), usize::MAX);
            }
        }
    }
}

/// Waits until all user tasks have ended and are really gone (kernel stacks freed, `Arc`s dropped).
pub fn wait_for_reaper() {
    while USER_TASKS.load(SeqCst) != 0 {
        park(key(&USER_TASKS), &|| USER_TASKS.load(SeqCst) != 0, None, Interruptible::No);
    }
}

//! Kernel tasks that a test runs and waits for.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use crate::sched::{self, Interruptible, Task};

static DONE: AtomicUsize = AtomicUsize::new(0);

fn done_key() -> usize {
    core::ptr::from_ref(&DONE) as usize
}

/// Runs `count` kernel tasks and waits for them, until the reaper has let go of the last.
pub(super) fn run_tasks(count: usize, entry: fn(usize)) {
    DONE.store(0, SeqCst);
    let start = |argument| {
        let task = Task::new_kernel(entry, argument).expect("memory for a task");
        sched::start(&task);
        task
    };
    let tasks: Vec<Arc<Task>> = (0..count).map(start).collect();
    while DONE.load(SeqCst) < count {
        sched::park(done_key(), &|| DONE.load(SeqCst) < count, None, Interruptible::No);
    }
    while tasks.iter().any(|task| Arc::strong_count(task) > 1) {
        sched::yield_now();
    }
}

/// The running task has done what it was for.
pub(super) fn done() {
    DONE.fetch_add(1, SeqCst);
    sched::unpark(done_key(), 1);
}

//! What the system side keeps per user thread; every user task carries one.

use super::groups::Heard;
use super::process::Process;
use super::signal::ThreadSignals;
use super::trace::Trace;
use crate::arch::lock::SpinLock;
use crate::fs::FsContext;
use crate::fs::event::Event;
use crate::fs::table::FdTable;
use crate::sched::{self, Interruptible, Task, UserThread};
use alloc::sync::Arc;
use anonmem_hal::NodePolicy;
use anonmem_oslib::cred::Cred;
use anonmem_oslib::sigframe::Trap;
use anonmem_oslib::signal::SIGXFSZ;
use core::any::Any;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use linux_raw_sys::general::RLIMIT_FSIZE;

/// A thread of a process.
pub struct Thread {
    /// Its number; the process's for the first thread.
    pub tid: u32,
    /// Its process.
    pub process: Arc<Process>,
    /// Its mask, pending signals and alternate stack.
    pub signals: SpinLock<ThreadSignals>,
    /// Its name (`PR_SET_NAME`): at most fifteen bytes.
    pub comm: SpinLock<[u8; 16]>,
    /// User addresses that the kernel writes to for it.
    pub user: SpinLock<UserAddresses>,
    /// The deadline of a wait that was interrupted and will be run again.
    pub restart: SpinLock<Option<u64>>,
    /// The processor's account of its last exception.
    pub trap: SpinLock<Trap>,
    /// Faults that it took.
    pub faults: AtomicU64,
    /// Set once somebody waits for this thread to leave its parent's address space (`vfork`).
    pub vfork: SpinLock<Option<Arc<Released>>>,
    /// While it forks: what its process and others were told.
    pub forking: SpinLock<Option<Heard>>,
    /// Who traces it.
    pub trace: SpinLock<Trace>,
    cred: SpinLock<Cred>,
    /// The child that it waits for (`vfork`).
    awaits: SpinLock<Option<Arc<Released>>>,
    fs: SpinLock<Arc<FsContext>>,
    files: SpinLock<Arc<FdTable>>,
    task: SpinLock<Option<Arc<Task>>>,
    work: AtomicBool,
}

/// User addresses that the kernel writes to.
#[derive(Clone, Copy, Debug, Default)]
pub struct UserAddresses {
    /// Gets the thread's number when it first runs (`CLONE_CHILD_SETTID`).
    pub set_child_tid: u64,
    /// Gets zero, and a futex wake, when the thread ends (`CLONE_CHILD_CLEARTID`).
    pub clear_child_tid: u64,
    /// The list of robust futexes.
    pub robust_list: u64,
}

/// Tells a `vfork` parent that its memory is its own again.
#[derive(Default)]
pub struct Released {
    done: AtomicBool,
    event: Event,
}

impl Released {
    /// Lets the parent go on.
    pub fn release(&self) {
        self.done.store(true, SeqCst);
        self.event.notify();
    }

    /// Waits for [`Released::release`], or until the parent `thread` is to end itself: then nobody else may
    /// have to wait for it.
    pub fn wait(self: &Arc<Self>, thread: &Thread) {
        *thread.awaits.lock() = Some(self.clone());
        let look = || (self.done.load(SeqCst) || thread.process.ending().is_some()).then_some(());
        // Without a deadline and not interruptible it cannot fail.
        let _ = self.event.wait(None, sched::Interruptible::No, look);
        *thread.awaits.lock() = None;
    }
}

impl fmt::Debug for Thread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Thread").field("tid", &self.tid).field("pid", &self.process.pid).finish()
    }
}

impl UserThread for Thread {
    fn wait_is_over(&self) -> bool {
        let over = self.has_deliverable();
        if over {
            self.note_work();
        }
        over
    }

    fn is_ending(&self) -> bool {
        super::exit::requested(self).is_some()
    }

    fn number(&self) -> u32 {
        self.tid
    }

    fn credentials(&self) -> (u32, u32, u32) {
        let cred = self.cred.lock();
        (self.process.pid, cred.user.real, cred.group.real)
    }

    fn file_size_limit(&self) -> u64 {
        self.process.limits()[RLIMIT_FSIZE as usize].0
    }

    fn tell_of_file_size(&self) {
        super::signal::raise(SIGXFSZ);
    }
}

/// The running task's thread; kernel tasks have none.
pub fn try_current() -> Option<Arc<Thread>> {
    let thread: Arc<dyn Any + Send + Sync> = sched::current_task().thread()?.clone();
    thread.downcast().ok()
}

/// The running user task's thread. Panics in a kernel task.
pub fn current_thread() -> Arc<Thread> {
    try_current().expect("a kernel task has no thread")
}

impl Thread {
    /// Makes a thread that has no task yet.
    pub fn new(
        tid: u32,
        process: Arc<Process>,
        fs: Arc<FsContext>,
        files: Arc<FdTable>,
        comm: [u8; 16],
    ) -> Arc<Thread> {
        Arc::new(Thread {
            tid,
            process,
            signals: SpinLock::default(),
            comm: SpinLock::new(comm),
            user: SpinLock::default(),
            restart: SpinLock::new(None),
            trap: SpinLock::default(),
            faults: AtomicU64::new(0),
            vfork: SpinLock::new(None),
            forking: SpinLock::default(),
            awaits: SpinLock::new(None),
            trace: SpinLock::default(),
            cred: SpinLock::new(Cred::root()),
            fs: SpinLock::new(fs),
            files: SpinLock::new(files),
            task: SpinLock::new(None),
            work: AtomicBool::new(false),
        })
    }

    /// Says who it is.
    pub fn cred(&self) -> Cred {
        self.cred.lock().clone()
    }

    /// Makes it somebody else.
    pub fn set_cred(&self, cred: Cred) {
        let old = core::mem::replace(&mut *self.cred.lock(), cred);
        drop(old);
    }

    /// Gives its view of the tree.
    pub fn fs(&self) -> Arc<FsContext> {
        self.fs.lock().clone()
    }

    /// Gives it a view of the tree of its own.
    pub fn set_fs(&self, fs: Arc<FsContext>) {
        let old = core::mem::replace(&mut *self.fs.lock(), fs);
        drop(old);
    }

    /// Gives its descriptors.
    pub fn files(&self) -> Arc<FdTable> {
        self.files.lock().clone()
    }

    /// Gives it descriptors of its own; closes the former ones if nobody else has them.
    pub fn set_files(&self, files: Arc<FdTable>) {
        let old = core::mem::replace(&mut *self.files.lock(), files);
        drop(old);
    }

    /// Says which task runs it.
    pub fn set_task(&self, task: Option<Arc<Task>>) {
        let old = core::mem::replace(&mut *self.task.lock(), task);
        drop(old);
    }

    /// Gives the nanoseconds of CPU time that it has used.
    pub fn cpu_time_ns(&self) -> u64 {
        self.task.lock().as_ref().map_or(0, |task| task.cpu_time_ns())
    }

    /// How it waits in the kernel, if it does.
    pub fn waits(&self) -> Option<Interruptible> {
        self.task.lock().as_ref()?.waits()
    }

    /// Says where its pages are to lie.
    pub fn node_policy(&self) -> NodePolicy {
        self.task.lock().as_ref().map_or(NodePolicy::DEFAULT, |task| task.node_policy())
    }

    /// Makes it look for work before it returns to user code, and soon.
    pub fn kick(&self) {
        self.work.store(true, SeqCst);
        let awaits = self.awaits.lock().clone();
        if let Some(child) = awaits {
            child.event.notify();
        }
        let task = self.task.lock().clone();
        if let Some(task) = task {
            sched::interrupt(&task);
        }
    }

    /// Makes the running thread look for work before it returns to user code.
    pub fn note_work(&self) {
        self.work.store(true, SeqCst);
    }

    /// Says whether there may be work, and forgets it.
    pub fn take_work(&self) -> bool {
        // The plain load keeps the common way back to user code free of a locked instruction.
        self.work.load(SeqCst) && self.work.swap(false, SeqCst)
    }

    /// Gives its name without the NULs.
    pub fn name(&self) -> alloc::string::String {
        let comm = *self.comm.lock();
        let len = comm.iter().position(|&b| b == 0).unwrap_or(comm.len());
        alloc::string::String::from_utf8_lossy(&comm[..len]).into_owned()
    }

    /// Sets its name; what does not fit into fifteen bytes is cut.
    pub fn set_name(&self, name: &[u8]) {
        *self.comm.lock() = comm_of(name);
    }
}

/// Gives the name of a thread from a longer one.
pub fn comm_of(name: &[u8]) -> [u8; 16] {
    let mut comm = [0; 16];
    let n = name.len().min(15);
    comm[..n].copy_from_slice(&name[..n]);
    comm
}

//! Processes and threads: what a Linux program sees of the scheduler.
//!
//! A [`Process`](process::Process) is a thread group; a [`Thread`] is what its tasks carry. Operations have a
//! file each: `clone`, `exec`, `exit`, `wait`, `signal` (sending), `deliver` (handlers and their frames),
//! `futex`, `fault`, `oom`.
//!
//! `process`, `thread`, `signal`, `table`, `exit` and `futex` import one another: a process is its threads, a
//! signal goes to both, and an end is a signal to the parent, a wake of a futex and a change of the table.
//!
//! Locks: [`table`] > a process's `life` > its `signals` > a thread's `signals`. All are spin locks; none is
//! held while something sleeps, and nothing that may tear an address space down or close a file is
//! dropped under one.

pub mod clone;
pub mod compaction;
pub mod cpulimit;
pub mod deliver;
pub mod exec;
pub mod exit;
pub mod failing;
pub mod fault;
pub mod folios;
pub mod futex;
pub mod groups;
pub mod ipc;
pub mod khugepaged;
pub mod ksm;
pub mod mm;
pub mod nodes;
pub mod number;
pub mod oom;
pub mod pidfd;
pub mod process;
pub mod remote;
pub mod signal;
pub mod signalfd;
pub mod table;
pub mod thread;
pub mod trace;
pub mod tty;
pub mod wait;
pub mod worker;

pub use thread::{Thread, current_thread};

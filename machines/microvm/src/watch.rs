//! What the run uses from moment to moment, told to the command if it asked.
//!
//! A kernel task looks every so many milliseconds and sends one line of JSON. Nobody's fault waits for it:
//! the counters are those that the bill adds up at the end.

use crate::arch::time;
use crate::console::{self, to_host};
use crate::machine;
use crate::proc::folios::{self, SizeStat};
use crate::proc::number::Number;
use crate::proc::worker::{Nap, ON, Worker};
use crate::proc::{mm, table};
use crate::swap;
use alloc::string::String;
use alloc::vec::Vec;
use anonmem::Event;
use anonmem_oslib::Result;
use anonmem_oslib::bill::quoted;
use core::fmt::Write;

/// The most processes that are told of: those that have most.
const PROCESSES: usize = 16;

static WORKER: Worker = Worker::new();
/// Milliseconds between two looks.
static EVERY: Number = Number::new(100, 1, 60_000);

/// Looks every so many milliseconds from now on; never, if that is 0.
///
/// # Errors
/// `EINVAL` if it is more than a minute, `ENOMEM`.
pub fn start(every_ms: u64) -> Result<()> {
    if every_ms == 0 {
        return Ok(());
    }
    EVERY.set(every_ms)?;
    let changing = WORKER.changing();
    WORKER.tell(ON, task, &changing)
}

fn task(_: usize) {
    WORKER.work(|_| {
        console::send(to_host::SAMPLE, sample().as_bytes());
        Nap::of_millis(&EVERY)
    });
}

/// Ends the task; what was used last is told once more.
pub fn finish() {
    if WORKER.is_on() {
        console::send(to_host::SAMPLE, sample().as_bytes());
    }
    WORKER.finish();
}

/// One look.
fn sample() -> String {
    let (memory, stats) = (mm::memory(), machine::vm().stats());
    let faults = stats.event(Event::Fault);
    let (swap_total, swap_free) = swap::space();
    let mut out = String::new();
    let _ = write!(
        out,
        "{{\"ms\":{},\"total\":{},\"free\":{},\"user\":{},\"tables\":{},\"swap\":{},\"faults\":{faults},\"forks\":{}",
        time::now_ns() / 1_000_000,
        memory.total_bytes,
        memory.free_bytes,
        memory.user_bytes,
        memory.table_bytes,
        swap_total - swap_free,
        stats.event(Event::Fork),
    );
    let _ = write!(
        out,
        ",\"swap_outs\":{},\"swap_ins\":{},\"folios\":{{",
        stats.event(Event::SwapOut),
        stats.event(Event::SwapIn)
    );
    let sizes = folios::orders().map(|order| (order, SizeStat::There.count(order)));
    for (nth, (order, count)) in sizes.filter(|(_, count)| *count > 0).enumerate() {
        let comma = if nth > 0 { "," } else { "" };
        let _ = write!(out, "{comma}\"{}\":{count}", order.pages() * 4);
    }
    out.push_str("},\"processes\":[");
    for (nth, process) in largest().iter().enumerate() {
        let comma = if nth > 0 { "," } else { "" };
        let Process { pid, rss, swap, faults, name } = process;
        let _ = write!(
            out,
            "{comma}{{\"pid\":{pid},\"name\":{},\"rss\":{rss},\"swap\":{swap},\"faults\":{faults}}}",
            quoted(name)
        );
    }
    out.push_str("]}");
    out
}

struct Process {
    pid: u32,
    rss: u64,
    swap: u64,
    faults: u64,
    name: String,
}

/// The processes that have most, the largest first.
fn largest() -> Vec<Process> {
    let mut largest: Vec<Process> = Vec::with_capacity(PROCESSES + 1);
    for process in table::processes() {
        let Some(space) = process.space() else { continue };
        let used = mm::counters(&space);
        drop(space);
        let at = largest.partition_point(|other| other.rss + other.swap >= used.rss + used.swap);
        if at < PROCESSES {
            let (pid, faults, name) = (process.pid, process.faults(), process.name());
            largest.insert(at, Process { pid, rss: used.rss, swap: used.swap, faults, name });
            largest.truncate(PROCESSES);
        }
    }
    largest
}

//! What the machine half can test of itself (`-append selftest`): boots, runs the tests on all CPUs, powers
//! off with status 0x10, or panics.

mod promises;
mod tasks;

use alloc::boxed::Box;
use alloc::vec::Vec;
use anonmem_hal::Sched;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use crate::arch::percpu::cpu_count;
use crate::arch::{power, random, time, tlb};
use crate::sched::{self, Interruptible, Mutex, Wake};
use crate::{console, heap, klog, machine};
use tasks::{done, run_tasks};

/// The exit code of success; QEMU's status is `(0x10 << 1) | 1 = 33`.
const PASSED: u8 = 0x10;

static COUNTER: Mutex<u64> = Mutex::new(0);
static TURN: AtomicUsize = AtomicUsize::new(0);

/// Runs all tests.
pub(crate) fn run(_: usize) {
    for (name, test) in [
        ("time", test_time as fn()),
        ("heap", test_heap),
        ("mutex", test_mutex),
        ("ping-pong", test_ping_pong),
        ("deadlines", test_deadlines),
        ("shootdown", test_shootdown),
        ("yield", test_yield),
        ("tasks", test_many_tasks),
        ("channel", test_channel),
        ("promises", promises::test),
    ] {
        let start = time::now_ns();
        test();
        klog!("selftest {name}: ok, {} us", (time::now_ns() - start) / 1000);
    }
    klog!("selftest passed, tlb {:?}, heap {:?}", tlb::counters(), heap::counters());
    console::flush();
    power::off(PASSED)
}

fn test_time() {
    let wall = time::wall_ns() / 1_000_000_000;
    assert!(wall > 1_600_000_000, "the wall clock says {wall}");
    let mut last = 0;
    for _ in 0..1000 {
        let now = time::now_ns();
        assert!(now >= last);
        last = now;
    }
    assert_ne!(random::random_u64(), random::random_u64());
}

fn test_heap() {
    run_tasks(cpu_count() * 2, |seed| {
        let mut live: Vec<Box<[usize]>> = Vec::new();
        for turn in 0..2000 {
            let len = (seed * 31 + turn * 7) % 700;
            live.push((0..len).map(|i| i ^ turn).collect());
            if turn % 3 == 0 {
                let at = turn % live.len();
                live.swap_remove(at);
            }
            if live.len() > 64 {
                live.clear();
            }
        }
        for block in &live {
            let Some(first) = block.first() else { continue };
            assert!(
                block.iter().enumerate().all(|(i, value)| value ^ i == *first),
                "the heap mixed blocks up"
            );
        }
        drop(live);
        done();
    });
}

fn test_mutex() {
    run_tasks(8, |_| {
        for _ in 0..2000 {
            let mut counter = COUNTER.lock();
            let value = *counter;
            if value.is_multiple_of(64) {
                sched::yield_now();
            }
            *counter = value + 1;
        }
        done();
    });
    assert_eq!(*COUNTER.lock(), 16_000);
}

fn test_ping_pong() {
    run_tasks(2, |me| {
        let key = core::ptr::from_ref(&TURN) as usize;
        for _ in 0..5000 {
            while TURN.load(SeqCst) != me {
                sched::park(key, &|| TURN.load(SeqCst) != me, None, Interruptible::No);
            }
            TURN.store(1 - me, SeqCst);
            sched::unpark(key, 1);
        }
        done();
    });
}

fn test_deadlines() {
    run_tasks(16, |me| {
        for turn in 1..10u64 {
            let deadline = time::now_ns() + 1_000_000 * (turn * 7 % 5 + me as u64 % 3);
            assert_eq!(sched::sleep_until(deadline, Interruptible::Yes), Wake::TimedOut);
            assert!(time::now_ns() >= deadline, "woken before its deadline");
        }
        done();
    });
}

/// Every CPU shoots at all others at once, while others spin on a lock with interrupts off.
fn test_shootdown() {
    static SPUN: crate::arch::lock::IrqLock<u64> = crate::arch::lock::IrqLock::new(0);
    run_tasks(cpu_count() * 2, |me| {
        for turn in 0..500 {
            if me % 2 == 0 {
                let start = 0xffff_c8ff_0000_0000;
                tlb::flush_kernel(start, start + 4096 * (1 + turn % 40));
            } else {
                *SPUN.lock() += 1;
            }
            if turn % 16 == 0 {
                sched::yield_now();
            }
        }
        done();
    });
}

/// What the memory manager waits with lets the task run that it waits for: nothing preempts the kernel.
fn test_yield() {
    static TOLD: AtomicBool = AtomicBool::new(false);
    // The last one is waited for by more tasks than there are CPUs.
    run_tasks(cpu_count() + 2, |me| {
        let mut turns = 0_u64;
        while me <= cpu_count() && !TOLD.load(SeqCst) {
            assert!(turns < 10_000_000, "a task that yields keeps its CPU for itself");
            <machine::Kernel as Sched>::yield_now();
            turns += 1;
        }
        TOLD.store(true, SeqCst);
        done();
    });
}

fn test_many_tasks() {
    for _ in 0..4 {
        run_tasks(200, |_| {
            sched::yield_now();
            done();
        });
    }
}

/// More than the device has buffers for, and a frame in several pieces.
fn test_channel() {
    let line = [b'x'; 10_000];
    for _ in 0..20 {
        console::send(console::to_host::STDOUT, &line);
    }
    console::send(console::to_host::STDOUT, &[]);
}

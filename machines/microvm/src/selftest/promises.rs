//! This machine, checked as anybody's: `anonmem-testkit` asks for every promise of every trait, and does
//! random operations on all CPUs at once.

use core::sync::atomic::{AtomicPtr, Ordering::Relaxed, Ordering::SeqCst};

use anonmem_hal::Va;
use anonmem_testkit::{Port, checks, property};

use super::tasks::{done, run_tasks};
use crate::arch::percpu::{cpu_count, this_cpu};
use crate::machine::{Kernel, Mm, vm};
use crate::{klog, sched, swap, usercopy};

/// Pages of the swap device that the checks use.
const SWAP_PAGES: u64 = 4_096;
/// Random operations of each CPU.
const STEPS: usize = 2_000;

/// What runs in tasks at the moment.
type Job<'a> = &'a (dyn Fn(usize) + Sync);
static JOB: AtomicPtr<Job<'static>> = AtomicPtr::new(core::ptr::null_mut());

/// The kernel, as the checks drive it: tasks of the kernel that load a program's address space.
struct Kernels;

/// Runs an access of this CPU to user memory that handles no fault.
fn without_faults<R>(access: impl FnOnce() -> R) -> R {
    // Kernel code is not preempted, and the access cannot sleep: it stays on this CPU.
    this_cpu().nofault.store(true, Relaxed);
    let result = access();
    this_cpu().nofault.store(false, Relaxed);
    result
}

impl Port<'static, Kernel> for Kernels {
    fn within(&self, mm: &Mm, program: &mut dyn FnMut()) {
        let before = sched::current_mm();
        sched::set_current_mm(Some(mm.clone()));
        program();
        sched::set_current_mm(before);
    }

    fn load(&self, _mm: &Mm, va: Va) -> Option<u64> {
        without_faults(|| usercopy::read_user(va.0)).ok()
    }

    fn store(&self, _mm: &Mm, va: Va, value: u64) -> bool {
        without_faults(|| usercopy::write_user(va.0, value)).is_ok()
    }

    fn cpus(&self) -> usize {
        cpu_count()
    }

    fn at_once(&self, tasks: usize, job: &(dyn Fn(usize) + Sync)) {
        let mut job: Job<'_> = job;
        let address = core::ptr::from_mut(&mut job).cast::<Job<'static>>();
        JOB.store(address, SeqCst);
        run_tasks(tasks, |me| {
            // SAFETY: `at_once` keeps the job until its tasks are done, and one `at_once` runs at a time.
            let job = unsafe { &*JOB.load(SeqCst) };
            job(me);
            done();
        });
    }
}

/// Asks for everything; panics at the first promise that is broken.
pub(super) fn test() {
    swap::use_compressed_memory(SWAP_PAGES).expect("memory for a swap device");
    let report = checks::check(vm(), &Kernels, &mut |check, verdict| match verdict {
        checks::Verdict::Kept => {}
        checks::Verdict::NotTried(why) => klog!("selftest {}: not tried: {why}", check.name),
        checks::Verdict::Broken(broken) => panic!("{}: {broken}", check.name),
    });
    klog!("selftest promises: {} kept, {} not tried", report.kept, report.not_tried);
    for seed in 1..3 {
        if let Err(broken) = property::play(vm(), &Kernels, seed, STEPS) {
            panic!("seed {seed}: {broken}");
        }
    }
}

//! What the host pays to get into its kernel and back, before any memory management.
//!
//! A call of the memory manager in the same process pays neither. The cost is measured in the same run and
//! shown beside the host's times; it is not taken off them.

use super::cpus;
use crate::clock::time_per;
use std::fs;

const CALLS: u32 = 200_000;

/// Entry costs in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Entry {
    /// A system call that does nothing (`getppid`).
    pub syscall: f64,
    /// A page-fault exception that touches no memory; `None` where there is no way to have one.
    pub exception: Option<f64>,
}

impl Entry {
    /// Measures both on CPU `cpu`.
    pub fn measure(cpu: usize) -> Self {
        let _ = cpus::pin(cpu);
        // SAFETY: takes nothing, changes nothing.
        let syscall = time_per(CALLS, || unsafe {
            libc::syscall(libc::SYS_getppid);
        });
        Self { syscall, exception: vsyscall().map(|call| time_per(CALLS, call)) }
    }
}

/// The legacy entry point of `getcpu` on x86-64: fetching from it is a page fault that the kernel recognises
/// and answers without looking at a page table. The cheapest exception that a program can cause.
const VSYSCALL_GETCPU: usize = 0xffff_ffff_ff60_0800;

fn vsyscall() -> Option<impl FnMut()> {
    let maps = fs::read_to_string("/proc/self/maps").ok()?;
    let there = maps.lines().any(|line| {
        line.starts_with("ffffffffff600000-") && line.contains("--xp") && line.ends_with("[vsyscall]")
    });
    type GetCpu = extern "C" fn(*mut u32, *mut u8, *mut u8) -> i64;
    // SAFETY: the kernel says that it answers calls of this address.
    let call = there.then(|| unsafe { std::mem::transmute::<usize, GetCpu>(VSYSCALL_GETCPU) })?;
    Some(move || {
        let mut cpu = 0;
        call(&raw mut cpu, std::ptr::null_mut(), std::ptr::null_mut());
    })
}

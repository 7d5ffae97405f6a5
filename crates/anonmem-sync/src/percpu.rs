//! Values on cache lines of their own; one such value per CPU.

use anonmem_hal::{CpuId, MAX_CPUS, Machine};
use core::{marker::PhantomData, ops::Deref};

/// A value that shares its cache lines with nothing: what others write nearby does not slow its readers down. Two lines, because CPUs
/// fetch them in pairs.
#[doc(alias = "____cacheline_aligned")]
#[repr(align(128))]
pub struct CachePadded<T>(pub T);

impl<T> Deref for CachePadded<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.0
    }
}

/// One `T` per CPU.
pub struct PerCpu<T, M> {
    values: [CachePadded<T>; MAX_CPUS],
    _machine: PhantomData<fn() -> M>,
}

impl<T, M: Machine> PerCpu<T, M> {
    /// `make(cpu)` for every CPU.
    pub fn new(mut make: impl FnMut(CpuId) -> T) -> Self {
        Self { values: core::array::from_fn(|i| CachePadded(make(CpuId(i as u32)))), _machine: PhantomData }
    }

    /// The current CPU's. It stays ours until the task parks or yields.
    #[inline]
    pub fn this(&self) -> &T {
        &self.values[M::current_cpu().index()].0
    }

    /// That of `cpu`.
    #[inline]
    pub fn of(&self, cpu: CpuId) -> &T {
        &self.values[cpu.index()].0
    }

    /// Those of all CPUs that the machine has.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.values[..M::nr_cpus()].iter().map(|p| &p.0)
    }
}

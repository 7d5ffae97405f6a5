//! Values on cache lines of their own; one such value per CPU.

use crate::init_fields;
use anonmem_hal::{CpuId, CpuSlots, Machine};
use core::{mem::MaybeUninit, ops::Deref};

/// A value that shares its cache lines with nothing: what others write nearby does not slow its readers down.
/// Two lines, because CPUs fetch them in pairs.
#[doc(alias = "____cacheline_aligned")]
#[derive(Debug)]
#[repr(align(128))]
pub struct CachePadded<T>(pub T);

impl<T> Deref for CachePadded<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.0
    }
}

/// One `T` for each CPU that the machine may have.
pub struct PerCpu<T: Send + Sync, M: Machine> {
    values: <M::Cpus as CpuSlots>::Of<CachePadded<T>>,
}

impl<T: Send + Sync, M: Machine> PerCpu<T, M> {
    /// `make(cpu)` for every CPU.
    pub fn new(mut make: impl FnMut(CpuId) -> T) -> Self {
        const { assert!(M::Cpus::MAX > 0) };
        Self { values: M::Cpus::make(|i| CachePadded(make(CpuId(i as u32)))) }
    }

    /// The same, made where it is to stay.
    pub fn init(slot: &mut MaybeUninit<Self>, mut make: impl FnMut(CpuId) -> T) -> &mut Self {
        const { assert!(M::Cpus::MAX > 0) };
        init_fields!(slot, {
            values <- |values| M::Cpus::init(values, |i| CachePadded(make(CpuId(i as u32)))),
        })
    }

    /// The current CPU's. It stays ours until the task parks or yields.
    #[inline(always)]
    pub fn this(&self) -> &T {
        self.of(M::current_cpu())
    }

    /// That of `cpu`.
    ///
    /// # Panics
    /// If the machine may not have so many ([`Machine::Cpus`]).
    #[inline(always)]
    pub fn of(&self, cpu: CpuId) -> &T {
        &self.values.as_ref()[cpu.index()].0
    }

    /// Those of all CPUs that the machine has.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.values.as_ref()[..M::nr_cpus()].iter().map(|p| &p.0)
    }
}

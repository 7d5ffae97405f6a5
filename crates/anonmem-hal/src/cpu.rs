//! CPUs and sets of them.

use core::mem::MaybeUninit;

/// The most CPUs that a machine may have.
pub const MAX_CPUS: usize = 64;

/// A CPU: a small dense number below [`MAX_CPUS`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct CpuId(pub u32);

impl CpuId {
    /// The number as an array index.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// A set of CPUs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CpuSet(pub u64);

impl CpuSet {
    /// No CPU.
    pub const EMPTY: Self = Self(0);

    /// Only `cpu`.
    pub const fn one(cpu: CpuId) -> Self {
        Self(1 << cpu.0)
    }

    /// Whether `cpu` is a member.
    pub const fn contains(self, cpu: CpuId) -> bool {
        self.0 >> cpu.0 & 1 == 1
    }

    /// This set without `cpu`.
    #[must_use]
    pub const fn without(self, cpu: CpuId) -> Self {
        Self(self.0 & !(1 << cpu.0))
    }

    /// Whether the set has no member.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The number of members.
    pub const fn len(self) -> u32 {
        self.0.count_ones()
    }

    /// The members, ascending.
    pub fn iter(self) -> impl Iterator<Item = CpuId> {
        let mut left = self.0;
        core::iter::from_fn(move || {
            (left != 0).then(|| {
                let cpu = left.trailing_zeros();
                left &= left - 1;
                CpuId(cpu)
            })
        })
    }
}

/// How many CPUs a machine may have: how large that is of which there is one per CPU.
pub trait CpuSlots: 'static {
    /// The most CPUs, at most [`MAX_CPUS`].
    const MAX: usize;
    /// One `T` per CPU. All CPUs share them, so that a memory manager is `Sync` whatever its machine is.
    type Of<T: Send + Sync>: AsRef<[T]> + Send + Sync;
    /// Makes one for each, by its number.
    fn make<T: Send + Sync>(make: impl FnMut(usize) -> T) -> Self::Of<T>;
    /// The same, made where it is to stay: one after the other, none of them anywhere else before.
    fn init<T: Send + Sync>(
        slot: &mut MaybeUninit<Self::Of<T>>,
        make: impl FnMut(usize) -> T,
    ) -> &mut Self::Of<T> {
        slot.write(Self::make(make))
    }
}

/// Up to `N` CPUs.
#[derive(Clone, Copy, Debug)]
pub struct UpTo<const N: usize>;

impl<const N: usize> CpuSlots for UpTo<N> {
    const MAX: usize = {
        assert!(N > 0 && N <= MAX_CPUS, "a machine has between 1 and MAX_CPUS CPUs");
        N
    };
    type Of<T: Send + Sync> = [T; N];

    #[inline]
    fn make<T: Send + Sync>(make: impl FnMut(usize) -> T) -> [T; N] {
        core::array::from_fn(make)
    }

    fn init<T: Send + Sync>(slot: &mut MaybeUninit<[T; N]>, mut make: impl FnMut(usize) -> T) -> &mut [T; N] {
        let first = slot.as_mut_ptr().cast::<T>();
        for i in 0..N {
            // SAFETY: the array has `N` places.
            let place = unsafe { first.add(i) };
            // SAFETY: the place is in the slot, which is ours.
            unsafe { place.write(make(i)) };
        }
        // SAFETY: all of them are made.
        unsafe { slot.assume_init_mut() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_array_made_in_place_is_the_one_made_elsewhere() {
        let mut slot = MaybeUninit::uninit();
        assert_eq!(*UpTo::<5>::init(&mut slot, |i| i * i), UpTo::<5>::make(|i| i * i));
    }

    #[test]
    fn members_come_out_in_order() {
        let set = CpuSet(0b1010_0001);
        assert!(set.iter().eq([0, 5, 7].map(CpuId)));
        assert_eq!(set.without(CpuId(5)).len(), 2);
    }
}

//! CPUs and sets of them.

use core::{fmt, mem::MaybeUninit};

/// A CPU: a small dense number, below the [`CpuSlots::MAX`] of the machine.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct CpuId(pub u32);

impl CpuId {
    /// The number as an array index.
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// The word of a set that has this CPU's bit.
    pub const fn word(self) -> usize {
        self.index() / 64
    }

    /// The bit in that word.
    pub const fn bit(self) -> u64 {
        1 << (self.0 % 64)
    }
}

/// A set of CPUs: 64 to a word, a bit each. The words are somebody else's.
///
/// Linux: include/linux/cpumask.h `struct cpumask`.
#[doc(alias = "cpumask")]
#[derive(Clone, Copy, Eq, Default)]
pub struct CpuSet<'a>(&'a [u64]);

impl<'a> CpuSet<'a> {
    /// The CPUs whose bits are set; those without a bit are no members.
    pub const fn new(words: &'a [u64]) -> Self {
        Self(words)
    }

    /// The bits of CPUs 64 × `n` to 64 × `n` + 63.
    pub fn word(self, n: usize) -> u64 {
        self.0.get(n).copied().unwrap_or(0)
    }

    /// Whether `cpu` is a member.
    pub fn contains(self, cpu: CpuId) -> bool {
        self.word(cpu.word()) & cpu.bit() != 0
    }

    /// Whether the set has no member.
    pub fn is_empty(self) -> bool {
        self.0.iter().all(|&word| word == 0)
    }

    /// The number of members.
    pub fn len(self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }

    /// The members, ascending.
    pub fn iter(self) -> impl Iterator<Item = CpuId> {
        (0u32..).step_by(64).zip(self.0).flat_map(|(first, &word)| {
            let mut left = word;
            core::iter::from_fn(move || {
                (left != 0).then(|| {
                    let cpu = first + left.trailing_zeros();
                    left &= left - 1;
                    CpuId(cpu)
                })
            })
        })
    }
}

/// Sets are equal that have the same members, however many words they have.
impl PartialEq for CpuSet<'_> {
    fn eq(&self, other: &Self) -> bool {
        (0..self.0.len().max(other.0.len())).all(|n| self.word(n) == other.word(n))
    }
}

impl fmt::Debug for CpuSet<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter().map(|cpu| cpu.0)).finish()
    }
}

/// How many CPUs a machine may have: how large that is of which there is one per CPU.
pub trait CpuSlots: 'static {
    /// The most CPUs.
    const MAX: usize;
    /// One `T` per CPU. All CPUs share them, so that a memory manager is `Sync` whatever its machine is.
    type Of<T: Send + Sync>: AsRef<[T]> + Send + Sync;
    /// One `T` for 64 CPUs: the words of a [`CpuSet`].
    type Words<T: Send + Sync>: AsRef<[T]> + Send + Sync;
    /// Makes one for each, by its number.
    fn make<T: Send + Sync>(make: impl FnMut(usize) -> T) -> Self::Of<T>;
    /// The same, made where it is to stay: one after the other, none of them anywhere else before.
    fn init<T: Send + Sync>(
        slot: &mut MaybeUninit<Self::Of<T>>,
        make: impl FnMut(usize) -> T,
    ) -> &mut Self::Of<T> {
        slot.write(Self::make(make))
    }
    /// Makes the words of a set, each by its number.
    fn words<T: Send + Sync>(make: impl FnMut(usize) -> T) -> Self::Words<T>;
}

/// Up to `N` CPUs, whose sets have `W` words of 64 bits: `UpTo<64>`, `UpTo<1024, 16>`. With too few words it
/// does not compile.
#[derive(Clone, Copy, Debug)]
pub struct UpTo<const N: usize, const W: usize = 1>;

impl<const N: usize, const W: usize> CpuSlots for UpTo<N, W> {
    const MAX: usize = {
        assert!(N > 0, "a machine has a CPU");
        assert!(N <= 64 * W, "a set of so many CPUs has more words: for example UpTo<1024, 16>");
        N
    };
    type Of<T: Send + Sync> = [T; N];
    type Words<T: Send + Sync> = [T; W];

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

    #[inline]
    fn words<T: Send + Sync>(make: impl FnMut(usize) -> T) -> [T; W] {
        core::array::from_fn(make)
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
        let words = [0b1010_0001, 0, 1 << 63];
        let set = CpuSet::new(&words);
        assert!(set.iter().eq([0, 5, 7, 191].map(CpuId)));
        assert!(set.iter().all(|cpu| set.contains(cpu)));
        assert_eq!((set.len(), set.word(2), set.word(3)), (4, 1 << 63, 0));
        assert!(!set.contains(CpuId(64)) && !set.contains(CpuId(6)) && !set.contains(CpuId(1000)));
    }

    #[test]
    fn equal_sets_may_have_different_numbers_of_words() {
        assert_eq!(CpuSet::new(&[6]), CpuSet::new(&[6, 0]));
        assert_ne!(CpuSet::new(&[6]), CpuSet::new(&[6, 1]));
        assert!(CpuSet::new(&[0, 0]).is_empty() && CpuSet::default().is_empty());
    }
}

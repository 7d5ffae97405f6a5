//! A set of the pages of a folio, by their number: a bit for each.

/// The most pages of a folio that entries of one table map.
const MOST: u64 = 512;

/// Some of 512 pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PageSet([u64; (MOST / 64) as usize]);

impl PageSet {
    /// None.
    pub const EMPTY: Self = Self([0; (MOST / 64) as usize]);
    /// How many there are to choose from.
    pub const MOST: u64 = MOST;

    /// Whether the `nth` is one of them.
    #[inline]
    pub const fn has(&self, nth: u64) -> bool {
        nth < MOST && self.0[(nth / 64) as usize] >> (nth % 64) & 1 != 0
    }

    /// Adds the `nth`.
    ///
    /// # Panics
    /// If there is none.
    #[inline]
    pub fn add(&mut self, nth: u64) {
        self.0[(nth / 64) as usize] |= 1 << (nth % 64);
    }

    /// Takes the first one out.
    pub fn pop(&mut self) -> Option<u64> {
        let word = self.0.iter().position(|&word| word != 0)?;
        let bit = self.0[word].trailing_zeros();
        self.0[word] &= !(1 << bit);
        Some(word as u64 * 64 + u64::from(bit))
    }

    /// How many they are.
    pub fn len(&self) -> u64 {
        self.0.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        *self == Self::EMPTY
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_come_out_in_their_order() {
        let mut set = PageSet::EMPTY;
        [511, 0, 64, 63].into_iter().for_each(|nth| set.add(nth));
        assert_eq!((set.len(), set.has(63), set.has(62), set.has(512)), (4, true, false, false));
        assert_eq!(core::array::from_fn(|_| set.pop()), [Some(0), Some(63), Some(64), Some(511), None]);
        assert!(set.is_empty());
    }
}

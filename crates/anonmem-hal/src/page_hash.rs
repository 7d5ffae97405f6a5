//! A keyed hash of a page's bytes: what says that two pages are worth comparing.
//!
//! Equal bytes have equal hashes under one key, and that is all that anybody relies on. The key is a secret
//! of the memory manager. So a program cannot make pages whose hashes are equal and whose bytes are not, of
//! which each would cost a comparison. It is no cryptographic hash, and nothing follows from its being equal.
//!
//! Sixteen words go through sixteen lanes. Each adds to a word the product of its halves, which processors
//! have for two lanes at once ([`page_words`](crate::page_words)). What a word becomes depends on halves
//! that nobody knows who does not know the key. A page takes about a tenth of a microsecond.

/// A hash under way.
#[derive(Clone, Debug)]
pub struct PageHash {
    pub(crate) lanes: [u64; PageHash::WORDS],
}

/// A number without a pattern: the golden ratio's.
const MIX: u64 = 0x9e37_79b9_7f4a_7c15;

/// The product of two words, both halves folded into one.
#[inline(always)]
const fn fold(a: u64, b: u64) -> u64 {
    let product = a as u128 * b as u128;
    product as u64 ^ (product >> 64) as u64
}

impl PageHash {
    /// Words that are taken at a time.
    pub const WORDS: usize = 16;

    /// The hash of no bytes under `key`.
    pub const fn new(key: u64) -> Self {
        // Folded, so that who knows no lane does not know how two of them differ either.
        let (key, other) = (fold(key ^ MIX, key.rotate_left(32) ^ !MIX) ^ key, key.wrapping_mul(MIX));
        let mut lanes = [0; Self::WORDS];
        let mut at = 0;
        while at < Self::WORDS {
            let nth = MIX.wrapping_mul(2 * at as u64 + 1);
            lanes[at] = if at.is_multiple_of(2) { key ^ nth } else { (other ^ nth).wrapping_add(key) };
            at += 1;
        }
        Self { lanes }
    }

    /// Takes sixteen words in.
    #[inline(always)]
    pub const fn add(&mut self, words: [u64; Self::WORDS]) {
        let mut at = 0;
        while at < Self::WORDS {
            let word = self.lanes[at] ^ words[at];
            let (low, high) = (word & 0xffff_ffff, word >> 32);
            self.lanes[at] = low.wrapping_mul(high).wrapping_add(word.rotate_left(32));
            at += 1;
        }
    }

    /// The hash of what was taken in.
    pub const fn finish(&self) -> u64 {
        let (mut hash, mut at) = (0_u64, 0);
        while at < Self::WORDS {
            hash = hash.rotate_left(9) ^ fold(self.lanes[at] ^ MIX, self.lanes[at + 1] ^ !MIX);
            at += 2;
        }
        fold(hash, MIX)
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::PageHash;

    fn of(key: u64, bytes: &[u8; 4096]) -> u64 {
        let mut hash = PageHash::new(key);
        let words: std::vec::Vec<u64> =
            bytes.as_chunks().0.iter().map(|word| u64::from_ne_bytes(*word)).collect();
        words.as_chunks().0.iter().for_each(|words| hash.add(*words));
        hash.finish()
    }

    #[test]
    fn every_bit_of_a_page_and_every_bit_of_the_key_counts() {
        let page = [7; 4096];
        let plain = of(1, &page);
        assert_eq!(plain, of(1, &page));
        for bit in 0..page.len() * 8 {
            let mut other = page;
            other[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(plain, of(1, &other), "bit {bit}");
        }
        for bit in 0..64 {
            assert_ne!(plain, of(1 ^ 1 << bit, &page), "bit {bit} of the key");
        }
    }

    #[test]
    fn pages_that_differ_by_where_a_word_is_have_hashes_of_their_own() {
        let hashes: std::collections::BTreeSet<_> = (0..4096)
            .map(|at| {
                let mut page = [0; 4096];
                page[at] = 1;
                of(3, &page)
            })
            .collect();
        assert_eq!(hashes.len(), 4096);
    }

    /// The table of candidates takes its groups from the lower half and what it keeps from the upper one.
    #[test]
    fn both_halves_of_a_hash_are_spread() {
        let pages = 4096_u32;
        let hashes: std::vec::Vec<u64> = (0..pages)
            .map(|number| {
                let mut page = [0; 4096];
                page[2048..2052].copy_from_slice(&number.to_le_bytes());
                of(3, &page)
            })
            .collect();
        for half in [0, 32] {
            let places = |bits: u32| {
                let place = |hash: &u64| (hash >> half) % (1 << bits);
                hashes.iter().map(place).collect::<std::collections::BTreeSet<_>>().len() as u32
            };
            // Of as many places as there are pages one in e is left; of many more, none are taken twice.
            let few = places(12);
            assert!(few.abs_diff(pages * 632 / 1000) < pages / 20, "{few} places");
            assert_eq!(places(32), pages);
        }
    }
}

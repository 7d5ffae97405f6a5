//! A keyed hash of a page's bytes: what says that two pages are worth comparing.
//!
//! Equal bytes have equal hashes under one key, and that is all that anybody relies on. The key is a secret
//! of the memory manager. So a program cannot make pages whose hashes are equal and whose bytes are not, of
//! which each would cost a comparison. It is no cryptographic hash, and nothing follows from its being equal.
//!
//! Eight words go through four products of 64 times 64 bits, folded: about a tenth of a microsecond a page.

/// A hash under way.
#[derive(Clone, Debug)]
pub struct PageHash {
    secret: [u64; 4],
    lanes: [u64; 4],
}

/// The product of two words, both halves folded into one.
#[inline(always)]
const fn fold(a: u64, b: u64) -> u64 {
    let product = a as u128 * b as u128;
    product as u64 ^ (product >> 64) as u64
}

impl PageHash {
    /// Words that are taken at a time.
    pub const WORDS: usize = 8;

    /// The hash of no bytes under `key`.
    pub const fn new(key: u64) -> Self {
        // Odd numbers without a pattern, so that no lane begins like another.
        let secret = [
            key ^ 0x9e37_79b9_7f4a_7c15,
            key.rotate_left(17) ^ 0xbf58_476d_1ce4_e5b9,
            key.rotate_left(31) ^ 0x94d0_49bb_1331_11eb,
            key.rotate_left(47) ^ 0xd6e8_feb8_6659_fd93,
        ];
        // No lane begins with the first secret, which words are mixed with: else two of them could be
        // exchanged.
        let [_, b, c, d] = secret;
        Self { secret, lanes: [b, c, d, b.rotate_left(32) ^ d] }
    }

    /// Takes eight words in.
    #[inline(always)]
    pub const fn add(&mut self, words: [u64; Self::WORDS]) {
        let [a, b, c, d, e, f, g, h] = words;
        // One secret for all lanes, which begin with others: more of them do not fit into registers.
        let (k, [o, p, q, r]) = (self.secret[0], self.lanes);
        self.lanes = [fold(a ^ k, b ^ o), fold(c ^ k, d ^ p), fold(e ^ k, f ^ q), fold(g ^ k, h ^ r)];
    }

    /// The hash of what was taken in.
    pub const fn finish(&self) -> u64 {
        let [a, b, c, d] = self.lanes;
        fold(a ^ c.rotate_left(23) ^ self.secret[1], b ^ d.rotate_left(41) ^ self.secret[3])
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
        words.as_chunks().0.iter().for_each(|eight| hash.add(*eight));
        hash.finish()
    }

    #[test]
    fn every_byte_of_a_page_and_every_bit_of_the_key_counts() {
        let page = [7; 4096];
        let plain = of(1, &page);
        assert_eq!(plain, of(1, &page));
        for at in 0..page.len() {
            let mut other = page;
            other[at] ^= 1;
            assert_ne!(plain, of(1, &other), "byte {at}");
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
}

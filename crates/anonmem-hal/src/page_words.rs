//! The words of a page that programs may be writing to: hashed, and compared, where they lie.
//!
//! Each byte that is read is what it was at some moment, and no more is promised. A loop over atomic words
//! says that. But it takes them one by one, because the compiler puts no two of them together. So where all
//! code may use registers of sixteen bytes, an instruction of the processor's loads them. What becomes of
//! them is the compiler's again.

use crate::{PAGE_SIZE, page_hash::PageHash};
use core::sync::atomic::AtomicU64;

/// The words of a page.
pub(crate) type Words = [AtomicU64; PAGE_SIZE / 8];

/// The hash of a page under a key.
pub(crate) fn hash(words: &Words, key: u64) -> u64 {
    let mut hash = PageHash::new(key);
    wide::add_all(&mut hash, words);
    hash.finish()
}

/// Whether two pages have the same words.
pub(crate) fn same(left: &Words, right: &Words) -> bool {
    wide::same(left, right)
}

/// Two words at a time.
#[cfg(all(target_arch = "x86_64", target_feature = "sse2", not(miri)))]
mod wide {
    use super::{AtomicU64, PageHash, Words};
    use core::arch::x86_64::{
        __m128i, _mm_add_epi64, _mm_and_si128, _mm_cmpeq_epi8, _mm_cvtsi128_si64, _mm_movemask_epi8,
        _mm_mul_epu32, _mm_set_epi64x, _mm_shuffle_epi32, _mm_unpackhi_epi64, _mm_xor_si128,
    };

    /// Words that one round of a loop takes.
    const ROUND: usize = PageHash::WORDS;
    type Pairs = [__m128i; ROUND / 2];

    /// Words `AT` and the one after it.
    #[inline]
    #[target_feature(enable = "sse2")]
    fn pair<const AT: usize>(words: &[AtomicU64; ROUND]) -> __m128i {
        const { assert!(AT + 2 <= ROUND) };
        let both;
        // SAFETY: sixteen bytes from word `AT` on are valid for reads. Others may write to them meanwhile, as
        // to atomic words. Not `pure`: the compiler takes no two loads for one.
        unsafe {
            core::arch::asm!(
                "movdqu {both}, [{words} + 8 * {AT}]",
                both = out(xmm_reg) both,
                words = in(reg) words.as_ptr(),
                AT = const AT,
                options(nostack, readonly, preserves_flags),
            );
        }
        both
    }

    /// As [`PageHash::add`] of all words.
    pub(super) fn add_all(hash: &mut PageHash, words: &Words) {
        // SAFETY: this is only compiled where all code may use the registers.
        unsafe { add_pairs(hash, words) }
    }

    /// Whether two pages have the same words.
    pub(super) fn same(left: &Words, right: &Words) -> bool {
        // SAFETY: as above.
        unsafe { same_pairs(left, right) }
    }

    #[target_feature(enable = "sse2")]
    fn add_pairs(hash: &mut PageHash, words: &Words) {
        let lanes = hash.lanes.as_chunks_mut::<2>().0;
        let mut lane: Pairs = core::array::from_fn(|at| {
            let [low, high] = lanes[at];
            _mm_set_epi64x(high.cast_signed(), low.cast_signed())
        });
        for words in words.as_chunks().0 {
            lane = [
                taken(lane[0], pair::<0>(words)),
                taken(lane[1], pair::<2>(words)),
                taken(lane[2], pair::<4>(words)),
                taken(lane[3], pair::<6>(words)),
                taken(lane[4], pair::<8>(words)),
                taken(lane[5], pair::<10>(words)),
                taken(lane[6], pair::<12>(words)),
                taken(lane[7], pair::<14>(words)),
            ];
        }
        for (lanes, lane) in lanes.iter_mut().zip(lane) {
            let high = _mm_unpackhi_epi64(lane, lane);
            *lanes = [lane, high].map(|word| _mm_cvtsi128_si64(word).cast_unsigned());
        }
    }

    /// Two lanes that have taken a word in each.
    #[inline]
    #[target_feature(enable = "sse2")]
    fn taken(lanes: __m128i, words: __m128i) -> __m128i {
        let words = _mm_xor_si128(lanes, words);
        // The halves of each, exchanged.
        let turned = _mm_shuffle_epi32::<0b10_11_00_01>(words);
        _mm_add_epi64(_mm_mul_epu32(words, turned), turned)
    }

    #[target_feature(enable = "sse2")]
    fn same_pairs(left: &Words, right: &Words) -> bool {
        let (left, right) = (left.as_chunks().0, right.as_chunks().0);
        left.iter().zip(right).all(|(left, right)| {
            let first = both(
                both(equal::<0>(left, right), equal::<2>(left, right)),
                both(equal::<4>(left, right), equal::<6>(left, right)),
            );
            let second = both(
                both(equal::<8>(left, right), equal::<10>(left, right)),
                both(equal::<12>(left, right), equal::<14>(left, right)),
            );
            _mm_movemask_epi8(both(first, second)) == 0xffff
        })
    }

    /// Bytes of ones where words `AT` and the one after it are the same.
    #[inline]
    #[target_feature(enable = "sse2")]
    fn equal<const AT: usize>(left: &[AtomicU64; ROUND], right: &[AtomicU64; ROUND]) -> __m128i {
        _mm_cmpeq_epi8(pair::<AT>(left), pair::<AT>(right))
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    fn both(one: __m128i, other: __m128i) -> __m128i {
        _mm_and_si128(one, other)
    }
}

/// A word at a time.
#[cfg(not(all(target_arch = "x86_64", target_feature = "sse2", not(miri))))]
mod wide {
    pub(super) use super::narrow::{add_all, same};
}

/// A word at a time.
#[cfg(any(test, not(all(target_arch = "x86_64", target_feature = "sse2", not(miri)))))]
mod narrow {
    use super::{AtomicU64, PageHash, Words};
    use core::sync::atomic::Ordering::Relaxed;

    /// As [`PageHash::add`] of all words.
    pub(super) fn add_all(hash: &mut PageHash, words: &Words) {
        for words in words.as_chunks::<{ PageHash::WORDS }>().0 {
            hash.add(core::array::from_fn(|nth| words[nth].load(Relaxed)));
        }
    }

    /// Whether two pages have the same words.
    pub(super) fn same(left: &Words, right: &Words) -> bool {
        // Eight at a time, because a branch for each costs more than a look too many.
        let differing = |(left, right): (&[AtomicU64; 8], &[AtomicU64; 8])| {
            (0..8).fold(0, |bits, nth| bits | left[nth].load(Relaxed) ^ right[nth].load(Relaxed))
        };
        let (left, right) = (left.as_chunks().0, right.as_chunks().0);
        left.iter().zip(right).all(|both| differing(both) == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::sync::atomic::Ordering::Relaxed;

    fn page(seed: u64) -> Words {
        core::array::from_fn(|nth| AtomicU64::new((nth as u64 + seed).wrapping_mul(0x9e37_79b9_7f4a_7c15)))
    }

    #[test]
    fn a_hash_is_the_same_however_many_words_are_taken_at_a_time() {
        for seed in 0..100 {
            let mut narrow = PageHash::new(seed << 60 | seed);
            narrow::add_all(&mut narrow, &page(seed));
            assert_eq!(hash(&page(seed), seed << 60 | seed), narrow.finish());
        }
    }

    #[test]
    fn pages_are_the_same_if_every_bit_is() {
        let (one, other) = (page(5), page(5));
        assert!(same(&one, &other) && narrow::same(&one, &other) && same(&one, &one));
        for bit in 0..PAGE_SIZE * 8 {
            let (word, flip) = (&other[bit / 64], 1 << (bit % 64));
            word.fetch_xor(flip, Relaxed);
            assert!(!same(&one, &other) && !narrow::same(&one, &other), "bit {bit}");
            word.fetch_xor(flip, Relaxed);
        }
    }
}

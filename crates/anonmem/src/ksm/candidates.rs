//! Pages that an equal page is waited for: a frame number and half a hash each, in a table of fixed size.
//!
//! A page that has not changed since the sweep before is put here, and may be forgotten at any time. What is
//! found here is a hint: the frame may hold anything by now. So whoever finds it takes the folio, asks whose
//! it is, and compares. Nothing is protected against writes meanwhile, and nothing is owned.
//!
//! A hash says which group of eight words, one line of a cache, the page may be in. In a full group the
//! oldest goes. There are as many words as frames. If all of memory waits, a few pages in a hundred meet
//! eight others in their group and are forgotten early.
//!
//! Linux: the unstable tree of mm/ksm.c. Differs: no order that a write could break, nothing to be rebuilt,
//! and no allocation.

use super::state::{GROUP, Ksm};
use anonmem_frame::Frames;
use anonmem_hal::Machine;
use anonmem_sync::Ordering;

/// Bits for a frame, relative to the first, plus one.
const FRAME_BITS: u32 = 28;
/// Bits for the sweep in which the page was put there.
const SWEEP_BITS: u32 = 4;

const fn word(hash: u64, sweep: u64, frame: u64) -> u64 {
    let sweep = sweep & ((1 << SWEEP_BITS) - 1);
    hash >> 32 << 32 | sweep << FRAME_BITS | (frame + 1)
}

const fn frame_in(word: u64) -> Option<u64> {
    (word & ((1 << FRAME_BITS) - 1)).checked_sub(1)
}

const fn sweep_in(word: u64) -> u64 {
    word >> FRAME_BITS & ((1 << SWEEP_BITS) - 1)
}

impl<M: Machine> Ksm<M> {
    /// The words of the group of `hash`.
    fn group(&self, hash: u64) -> core::ops::Range<u64> {
        let (words, first) = self.candidates();
        let first = first + (hash & 0xffff_ffff) % (words / GROUP) * GROUP;
        first..first + GROUP
    }

    /// Frames, relative to the first, whose pages may have bytes of this hash.
    pub(super) fn waiting<'f>(&'f self, frames: &'f Frames<M>, hash: u64) -> impl Iterator<Item = u64> + 'f {
        self.group(hash)
            .map(|at| self.table.get(frames, at).load(Ordering::Relaxed))
            .filter(move |word| word >> 32 == hash >> 32)
            .filter_map(frame_in)
    }

    /// Lets the page in `frame` wait for an equal one.
    pub(super) fn wait_for_equal(&self, frames: &Frames<M>, hash: u64, frame: u64) {
        let sweep = self.sweep.get();
        let words = self.group(hash).map(|at| self.table.get(frames, at));
        let age = |word: u64| match frame_in(word) {
            // Of this page it says something new.
            Some(known) if known == frame => u64::MAX,
            Some(_) => sweep.wrapping_sub(sweep_in(word)) & ((1 << SWEEP_BITS) - 1),
            None => u64::MAX - 1,
        };
        // Relaxed: under the scanner's lock.
        if let Some(oldest) = words.max_by_key(|place| age(place.load(Ordering::Relaxed))) {
            oldest.store(word(hash, sweep, frame), Ordering::Relaxed);
        }
    }

    /// Forgets what is known of the page in `frame`.
    pub(super) fn forget(&self, frames: &Frames<M>, hash: u64, frame: u64) {
        for place in self.group(hash).map(|at| self.table.get(frames, at)) {
            if frame_in(place.load(Ordering::Relaxed)) == Some(frame) {
                place.store(0, Ordering::Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_holds_every_frame_and_half_a_hash() {
        for frame in [0, 1, (1 << 26) - 1] {
            for hash in [0, 0x1234_5678_9abc_def0, u64::MAX] {
                let word = word(hash, 21, frame);
                assert_eq!((frame_in(word), sweep_in(word), word >> 32), (Some(frame), 5, hash >> 32));
            }
        }
        assert_eq!(frame_in(0), None);
    }
}

//! Pages that an equal page is waited for: a frame number and a part of a hash each, in a table of fixed
//! size.
//!
//! A page that has not changed since the sweep before *waits* here, and may be forgotten at any time. What is
//! found here is a hint: the frame may hold anything by now. So whoever finds it takes the folio, asks whose
//! it is, and compares. Nothing is protected against writes meanwhile, and nothing is owned.
//!
//! A page that was *new* when the hand came by, or had changed, is noted, too, where there is room. If
//! another page has its hash half a sweep later, and its bytes, it has not changed since. So it is merged
//! without a second look and hash of its own. It takes the place of none that waits.
//!
//! A hash says which group of eight words, one line of a cache, the page may be in. In a full group the
//! oldest goes. There are as many words as frames, up to 341 GiB. If all of memory waits, a few pages in a
//! hundred meet eight others in their group and are forgotten early.
//!
//! Linux: the unstable tree of mm/ksm.c. Differs: no order that a write could break, nothing to be rebuilt,
//! and no allocation. Linux hashes both of two pages twice.

use super::state::{GROUP, Ksm};
use anonmem_frame::{Frames, array::LINE};
use anonmem_hal::Machine;
use anonmem_sync::{Atomic, Ordering};

/// Bits for a frame, relative to the first, plus one.
const FRAME_BITS: u32 = 32;
/// The page was new in that sweep, or had changed.
const NEW: u64 = 1 << FRAME_BITS;
/// Bits for the sweep in which the page was put there.
const SWEEP_BITS: u32 = 4;
const SWEEP_SHIFT: u32 = FRAME_BITS + 1;
/// Where the bits of the hash begin that a word has; another part of it says which group it is in.
const HASH_SHIFT: u32 = SWEEP_SHIFT + SWEEP_BITS;

/// What is known of a page that is found here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Known {
    /// It had not changed since the sweep before.
    Waits,
    /// It was new, or had changed.
    New,
}

/// Where the hand is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct HandAt {
    /// The sweep.
    sweep: u64,
    /// The frame, relative to the first.
    frame: u64,
    /// Frames of a sweep.
    nr: u64,
}

impl HandAt {
    /// Whether it has gone past half of all frames since it was where `word` was written.
    fn is_half_a_sweep_after(self, word: Word) -> bool {
        let Some(frame) = word.frame() else { return false };
        2 * (word.age(self.sweep) * self.nr + self.frame) >= 2 * frame + self.nr
    }
}

/// A word of the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Word(u64);

impl Word {
    const fn new(hash: u64, sweep: u64, frame: u64, known: Known) -> Self {
        let sweep = sweep & ((1 << SWEEP_BITS) - 1);
        let new = match known {
            Known::Waits => 0,
            Known::New => NEW,
        };
        Self(hash >> HASH_SHIFT << HASH_SHIFT | sweep << SWEEP_SHIFT | new | (frame + 1))
    }

    const fn frame(self) -> Option<u64> {
        (self.0 & (NEW - 1)).checked_sub(1)
    }

    const fn known(self) -> Known {
        if self.0 & NEW == 0 { Known::Waits } else { Known::New }
    }

    /// How many sweeps ago it was written.
    const fn age(self, sweep: u64) -> u64 {
        sweep.wrapping_sub(self.0 >> SWEEP_SHIFT) & ((1 << SWEEP_BITS) - 1)
    }

    const fn is_of(self, hash: u64) -> bool {
        self.0 >> HASH_SHIFT == hash >> HASH_SHIFT
    }
}

impl<M: Machine> Ksm<M> {
    /// Where the hand is, if it is at this frame: not if somebody asks for a look at it.
    pub(super) fn hand_at(&self, frames: &Frames<M>, frame: u64) -> Option<HandAt> {
        let hand = HandAt { sweep: self.sweep.get(), frame, nr: frames.machine().nr_frames() };
        (self.at.get() == frame).then_some(hand)
    }

    /// The words of the group of `hash`.
    fn group<'f>(&self, frames: &'f Frames<M>, hash: u64) -> &'f [Atomic<u64, M>; LINE] {
        let (words, first) = self.candidates();
        self.table.line(frames, first + (hash & 0xffff_ffff) % (words / GROUP) * GROUP)
    }

    /// What is written in the group of `hash`, of pages that may have bytes of this hash.
    fn words_of<'f>(&self, frames: &'f Frames<M>, hash: u64) -> impl Iterator<Item = Word> + use<'f, M> {
        // Relaxed: under the scanner's lock.
        let words = self.group(frames, hash).iter().map(|place| Word(place.load(Ordering::Relaxed)));
        words.filter(move |word| word.is_of(hash))
    }

    /// Frames, relative to the first, of pages that wait and may have bytes of this hash.
    pub(super) fn waiting<'f>(
        &self,
        frames: &'f Frames<M>,
        hash: u64,
    ) -> impl Iterator<Item = u64> + use<'f, M> {
        self.words_of(frames, hash).filter(|word| word.known() == Known::Waits).filter_map(Word::frame)
    }

    /// The same; those, too, that were new half a sweep before the hand came to where it is.
    pub(super) fn waiting_or_new<'f>(
        &self,
        frames: &'f Frames<M>,
        hash: u64,
        hand: Option<HandAt>,
    ) -> impl Iterator<Item = (u64, Known)> + use<'f, M> {
        let counts = move |word: &Word| match word.known() {
            Known::Waits => true,
            Known::New => hand.is_some_and(|hand| hand.is_half_a_sweep_after(*word)),
        };
        self.words_of(frames, hash).filter(counts).filter_map(|word| Some((word.frame()?, word.known())))
    }

    /// Lets the page in `frame` wait for an equal one.
    pub(super) fn wait_for_equal(&self, frames: &Frames<M>, hash: u64, frame: u64) {
        let (place, _) = self.place_for(frames, hash, frame);
        place.store(Word::new(hash, self.sweep.get(), frame, Known::Waits).0, Ordering::Relaxed);
    }

    /// Notes that the page in `frame` is new, if no page has to go for it that waits.
    pub(super) fn note_new(&self, frames: &Frames<M>, hash: u64, frame: u64) {
        let (place, is_free) = self.place_for(frames, hash, frame);
        if is_free {
            place.store(Word::new(hash, self.sweep.get(), frame, Known::New).0, Ordering::Relaxed);
        }
    }

    /// Where what is known of the page in `frame` goes, and whether no other page waits there.
    fn place_for<'f>(&self, frames: &'f Frames<M>, hash: u64, frame: u64) -> (&'f Atomic<u64, M>, bool) {
        const FREE: u64 = 1 << SWEEP_BITS;
        let sweep = self.sweep.get();
        let rank = |place: &&Atomic<u64, M>| {
            let word = Word(place.load(Ordering::Relaxed));
            match (word.frame(), word.known()) {
                // Of this page it says something new.
                (Some(known), _) if known == frame => u64::MAX,
                (None, _) => u64::MAX - 1,
                (Some(_), Known::New) => FREE + word.age(sweep),
                (Some(_), Known::Waits) => word.age(sweep),
            }
        };
        let best = self.group(frames, hash).iter().map(|place| (rank(&place), place));
        let (rank, place) = best.max_by_key(|(rank, _)| *rank).expect("a group has words");
        (place, rank >= FREE)
    }

    /// Forgets what is known of the page in `frame`.
    pub(super) fn forget(&self, frames: &Frames<M>, hash: u64, frame: u64) {
        for place in self.group(frames, hash) {
            if Word(place.load(Ordering::Relaxed)).frame() == Some(frame) {
                place.store(0, Ordering::Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_holds_every_frame_and_a_part_of_a_hash() {
        for frame in [0, 1, u64::from(u32::MAX) - 1] {
            for hash in [0, 0x1234_5678_9abc_def0, u64::MAX] {
                for known in [Known::Waits, Known::New] {
                    let word = Word::new(hash, 21, frame, known);
                    assert_eq!((word.frame(), word.known(), word.age(21)), (Some(frame), known, 0));
                    assert!(word.is_of(hash) && word.age(23) == 2);
                    assert!(word.is_of(hash ^ 1) && !word.is_of(hash ^ 1 << HASH_SHIFT));
                }
            }
        }
        assert_eq!(Word(0).frame(), None);
    }

    #[test]
    fn half_a_sweep_has_gone_by_when_half_of_all_frames_have_been_passed() {
        let nr = 1 << 26;
        let passed = |(sweep, frame), (then, at)| {
            let word = Word::new(7, then, at, Known::New);
            HandAt { sweep, frame, nr }.is_half_a_sweep_after(word)
        };
        for (at, then) in [(0, 0), (5, 3), (nr / 2 - 1, 14), (nr - 1, 15)] {
            assert!(!passed((then, at), (then, at)), "at once");
            assert!(passed((then + 1, at), (then, at)), "a sweep later");
            let half = (then * nr + at + nr / 2 - 1) / nr;
            assert!(!passed((half, (at + nr / 2 - 1) % nr), (then, at)), "a frame too early");
            let half = (then * nr + at + nr / 2) / nr;
            assert!(passed((half, (at + nr / 2) % nr), (then, at)), "half a sweep later");
        }
    }
}

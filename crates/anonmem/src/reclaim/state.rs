//! What reclaim remembers: the clock's hands, and the mailbox of the background tasks.

use anonmem_hal::{MAX_NODES, Machine};
use anonmem_sync::{Atomic, AtomicState, Ordering, WaitQueue, states};

/// A hand of the clock: how many frames it has passed, and how many it had when something left last.
pub(crate) struct Hand<M> {
    at: Atomic<u64, M>,
    quiet: Atomic<u64, M>,
}

impl<M: Machine> Hand<M> {
    pub(crate) const fn new() -> Self {
        Self { at: Atomic::new(0), quiet: Atomic::new(0) }
    }

    /// How many frames it has passed.
    pub(super) fn at(&self) -> u64 {
        self.at.peek()
    }

    /// Something has left: who looks from now on spares what is in use.
    pub(super) fn note_success(&self) {
        self.quiet.store(self.at(), Ordering::Relaxed);
    }

    /// How often it has gone around `len` frames since something left, or since it was at `began`.
    pub(super) fn laps(&self, began: u64, len: u64) -> u64 {
        // Hints, so no step of the lab. A success may be noted between the two.
        let quiet = self.quiet.peek().max(began);
        self.at().saturating_sub(quiet).checked_div(len).unwrap_or(u64::MAX)
    }

    /// The next frame of `len`, for who looks at one at a time.
    pub(super) fn next(&self, len: u64) -> u64 {
        self.at.fetch_add(1, Ordering::Relaxed) % len
    }
}

/// No large folio was noted of which most may be untouched.
const NONE: u64 = 0;
/// One was noted. Any larger number is that of whoever looks for them, and none was noted since.
const NOTED: u64 = 1;

/// The hands of the clock that pass all frames, and whose turn it is.
pub(crate) struct ClockHand<M> {
    pub(super) all: Hand<M>,
    /// The hand that looks for large folios of which most is untouched.
    pub(super) large: Hand<M>,
    /// Whether they are worth being looked for.
    untouched: Atomic<u64, M>,
    /// How many have looked for them.
    seekers: Atomic<u64, M>,
    /// Of several nodes that are swept, which comes first.
    turn: Atomic<u64, M>,
}

impl<M: Machine> ClockHand<M> {
    pub(crate) const fn new() -> Self {
        Self {
            all: Hand::new(),
            large: Hand::new(),
            untouched: Atomic::new(NONE),
            seekers: Atomic::new(0),
            turn: Atomic::new(0),
        }
    }

    /// A fault has taken a large folio for the sake of one page, or one could not be split.
    pub(crate) fn note_untouched(&self) {
        if self.untouched.load(Ordering::Relaxed) != NOTED {
            self.untouched.store(NOTED, Ordering::Relaxed);
        }
    }

    pub(crate) fn may_be_untouched(&self) -> bool {
        self.untouched.load(Ordering::Relaxed) != NONE
    }

    /// All of them are about to be looked for: whatever is noted from here on is not forgotten. Returns the
    /// number of who looks.
    pub(super) fn seek_untouched(&self) -> u64 {
        let seeker = NOTED + 1 + self.seekers.fetch_add(1, Ordering::Relaxed);
        self.untouched.store(seeker, Ordering::Relaxed);
        seeker
    }

    /// All were looked for, and nothing came of it: there are none, unless one was noted meanwhile, or
    /// another one looks who began later.
    pub(super) fn none_untouched(&self, seeker: u64) {
        let _ = self.untouched.compare_exchange(seeker, NONE, Ordering::Relaxed);
    }

    /// The number of the node that is swept first this time, as far as it is one of them.
    pub(super) fn next_turn(&self) -> u32 {
        (self.turn.fetch_add(1, Ordering::Relaxed) % u64::from(MAX_NODES)) as u32
    }
}

/// Frames that a reclaimer takes from the hand at once, so that reclaimers meet at its line once for so many.
const MOST_STRIDE: u64 = 64;
/// A stride is this part of memory at most: with little memory the others get their share.
const SMALLEST_SHARE: u64 = 1024;

/// A reclaimer's way: pieces that it takes from the hand. Several reclaimers look at different frames.
pub(super) struct Sweep<'a, M: Machine> {
    hand: &'a Hand<M>,
    nr_frames: u64,
    stride: u64,
    /// What is left of the piece.
    next: u64,
    end: u64,
}

impl<'a, M: Machine> Sweep<'a, M> {
    /// Begins to sweep over `nr_frames`, of which the hand counts.
    pub(super) fn new(hand: &'a Hand<M>, nr_frames: u64) -> Self {
        let stride = (nr_frames / SMALLEST_SHARE).clamp(1, MOST_STRIDE);
        Self { hand, nr_frames, stride, next: 0, end: 0 }
    }

    /// Whether the next frame is the first of a new piece.
    pub(super) const fn is_at_end(&self) -> bool {
        self.next == self.end
    }

    /// The next frame to look at, relative to the first.
    pub(super) fn next_frame(&mut self) -> u64 {
        if self.is_at_end() {
            self.next = self.hand.at.fetch_add(self.stride, Ordering::Relaxed);
            self.end = self.next + self.stride;
        }
        self.next += 1;
        (self.next - 1) % self.nr_frames
    }

    /// Passes `frames` more that follow, but no end of all: the hand goes on behind them, unless somebody has
    /// taken the next piece already.
    pub(super) fn skip(&mut self, frames: u64) {
        let to_end = self.nr_frames - (self.next - 1) % self.nr_frames - 1;
        let to = self.next + frames.min(to_end);
        if to > self.end && self.hand.at.compare_exchange(self.end, to, Ordering::Relaxed).is_err() {
            self.next = self.end;
            return;
        }
        (self.next, self.end) = (to, to.max(self.end));
    }
}

impl<M: Machine> Drop for Sweep<'_, M> {
    /// Gives the rest of the piece back, unless somebody has taken the next one.
    fn drop(&mut self) {
        if self.next < self.end {
            let _ = self.hand.at.compare_exchange(self.end, self.next, Ordering::Relaxed);
        }
    }
}

/// The mailbox of the background tasks.
pub(crate) struct Kswapd<M> {
    pub(super) order: AtomicState<KswapdOrder, M>,
    /// How many there are.
    pub(super) tasks: Atomic<u64, M>,
    /// Nodes that somebody found full, as the bits of a [`NodeSet`](anonmem_hal::NodeSet).
    pub(super) full_nodes: Atomic<u64, M>,
    pub(super) queue: WaitQueue<M>,
}

states! {
    /// What a background task is to do: the first that sees it, or all of them if it is the end.
    pub(super) enum KswapdOrder {
        /// Wait.
        Sleep,
        /// Reclaim until the high watermark.
        Work,
        /// Return.
        End,
    }
}

impl<M: Machine> Kswapd<M> {
    pub(crate) const fn new() -> Self {
        Self {
            order: AtomicState::new(),
            tasks: Atomic::new(0),
            full_nodes: Atomic::new(0),
            queue: WaitQueue::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::M;

    #[test]
    fn reclaimers_take_pieces_and_give_the_rest_back() {
        let hand = Hand::<M>::new();
        let frames = 64 * SMALLEST_SHARE;
        let (mut a, mut b) = (Sweep::new(&hand, frames), Sweep::new(&hand, frames));
        assert_eq!([a.next_frame(), b.next_frame(), a.next_frame()], [0, MOST_STRIDE, 1]);
        drop(a);
        assert_eq!(hand.at(), 2 * MOST_STRIDE, "b has the piece behind it");
        drop(b);
        assert_eq!(hand.at(), MOST_STRIDE + 1);
        assert_eq!(Sweep::new(&hand, frames).next_frame(), MOST_STRIDE + 1);
        assert_eq!(hand.at(), MOST_STRIDE + 2, "none is left out");
    }

    #[test]
    fn what_is_skipped_is_passed_by_the_hand_up_to_the_last_frame() {
        let hand = Hand::<M>::new();
        let frames = 64 * SMALLEST_SHARE;
        let mut a = Sweep::new(&hand, frames);
        assert_eq!(a.next_frame(), 0);
        a.skip(9);
        assert_eq!((a.next_frame(), hand.at()), (10, MOST_STRIDE), "within the piece");
        a.skip(1000);
        assert_eq!((a.is_at_end(), hand.at(), a.next_frame()), (true, 1011, 1011));
        let b = Sweep::new(&hand, frames).next_frame();
        assert_eq!(b, 1011 + MOST_STRIDE);
        a.skip(1000);
        assert!(a.is_at_end(), "somebody has gone on: this one takes a new piece");
        assert!(a.next_frame() < 1011 + 3 * MOST_STRIDE);
        a.skip(u64::MAX / 2);
        assert_eq!(a.next_frame(), 0, "and no further");
    }

    #[test]
    fn laps_are_counted_from_the_last_success_or_the_caller_s_beginning() {
        let hand = Hand::<M>::new();
        (0..25).for_each(|n| assert_eq!(hand.next(10), n % 10));
        assert_eq!((hand.laps(0, 10), hand.laps(20, 10), hand.laps(9, 8)), (2, 0, 2));
        hand.note_success();
        assert_eq!(hand.laps(0, 10), 0);
        (0..10).for_each(|_| _ = hand.next(10));
        assert_eq!((hand.laps(0, 10), hand.laps(30, 10)), (1, 0));
        assert_eq!(hand.laps(0, 0), u64::MAX, "where nothing is, all was looked at");
    }

    #[test]
    fn with_little_memory_the_hand_goes_frame_by_frame() {
        let hand = Hand::<M>::new();
        let (mut a, mut b) = (Sweep::new(&hand, 48), Sweep::new(&hand, 48));
        let met =
            core::array::from_fn::<u64, 4, _>(|i| if i % 2 == 0 { a.next_frame() } else { b.next_frame() });
        assert_eq!(met, [0, 1, 2, 3]);
    }
}

//! What reclaim remembers: the clock's hand, who is at work, and the background task's mailbox.

use anonmem_hal::{MAX_NODES, Machine};
use anonmem_sync::{Atomic, AtomicState, Ordering, WaitQueue, states};

/// Where the hands of the clock are: frames relative to the first.
pub(crate) struct ClockHand<M> {
    at: Atomic<u64, M>,
    /// The hand that looks for large folios of which most is untouched.
    pub(super) large: Atomic<u64, M>,
    /// Whether there may be any.
    untouched: Atomic<u64, M>,
    /// Of several nodes that are swept, which comes first.
    turn: Atomic<u64, M>,
}

impl<M: Machine> ClockHand<M> {
    pub(crate) const fn new() -> Self {
        Self { at: Atomic::new(0), large: Atomic::new(0), untouched: Atomic::new(0), turn: Atomic::new(0) }
    }

    /// A fault has taken a large folio for the sake of one page.
    pub(crate) fn note_untouched(&self) {
        if self.untouched.load(Ordering::Relaxed) == 0 {
            self.untouched.store(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn may_be_untouched(&self) -> bool {
        self.untouched.load(Ordering::Relaxed) != 0
    }

    pub(super) fn none_untouched(&self) {
        self.untouched.store(0, Ordering::Relaxed);
    }

    /// The hand over all frames.
    pub(super) const fn hand(&self) -> &Atomic<u64, M> {
        &self.at
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

/// A reclaimer's way round: pieces that it takes from the hand. Several reclaimers look at different frames.
pub(super) struct Sweep<'a, M: Machine> {
    hand: &'a Atomic<u64, M>,
    nr_frames: u64,
    stride: u64,
    /// What is left of the piece.
    next: u64,
    end: u64,
}

impl<'a, M: Machine> Sweep<'a, M> {
    /// Begins to sweep over `nr_frames`, of which the hand counts.
    pub(super) fn new(hand: &'a Atomic<u64, M>, nr_frames: u64) -> Self {
        let stride = (nr_frames / SMALLEST_SHARE).clamp(1, MOST_STRIDE);
        Self { hand, nr_frames, stride, next: 0, end: 0 }
    }

    /// The next frame to look at, relative to the first.
    pub(super) fn next_frame(&mut self) -> u64 {
        if self.next == self.end {
            self.next = self.hand.fetch_add(self.stride, Ordering::Relaxed);
            self.end = self.next + self.stride;
        }
        self.next += 1;
        (self.next - 1) % self.nr_frames
    }
}

impl<M: Machine> Drop for Sweep<'_, M> {
    /// Gives the rest of the piece back, unless somebody has taken the next one.
    fn drop(&mut self) {
        if self.next < self.end {
            let _ = self.hand.compare_exchange(self.end, self.next, Ordering::Relaxed);
        }
    }
}

/// The background task's mailbox.
pub(crate) struct Kswapd<M> {
    pub(super) order: AtomicState<KswapdOrder, M>,
    /// Nodes that somebody found full, as the bits of a [`NodeSet`](anonmem_hal::NodeSet).
    pub(super) full_nodes: Atomic<u64, M>,
    pub(super) queue: WaitQueue<M>,
}

states! {
    /// What the background task is to do.
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
        Self { order: AtomicState::new(), full_nodes: Atomic::new(0), queue: WaitQueue::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::M;

    #[test]
    fn reclaimers_take_pieces_and_give_the_rest_back() {
        let hand = Atomic::<u64, M>::new(0);
        let frames = 64 * SMALLEST_SHARE;
        let (mut a, mut b) = (Sweep::new(&hand, frames), Sweep::new(&hand, frames));
        assert_eq!([a.next_frame(), b.next_frame(), a.next_frame()], [0, MOST_STRIDE, 1]);
        drop(a);
        assert_eq!(hand.peek(), 2 * MOST_STRIDE, "b has the piece behind it");
        drop(b);
        assert_eq!(hand.peek(), MOST_STRIDE + 1);
        assert_eq!(Sweep::new(&hand, frames).next_frame(), MOST_STRIDE + 1);
        assert_eq!(hand.peek(), MOST_STRIDE + 2, "none is left out");
    }

    #[test]
    fn with_little_memory_the_hand_goes_frame_by_frame() {
        let hand = Atomic::<u64, M>::new(0);
        let (mut a, mut b) = (Sweep::new(&hand, 48), Sweep::new(&hand, 48));
        let met =
            core::array::from_fn::<u64, 4, _>(|i| if i % 2 == 0 { a.next_frame() } else { b.next_frame() });
        assert_eq!(met, [0, 1, 2, 3]);
    }
}

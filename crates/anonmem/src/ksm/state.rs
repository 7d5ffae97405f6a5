//! What the scanner remembers between two steps, and what it has counted.

use super::settings::{KsmSettings, KsmSettingsNow};
use crate::{
    error::Error,
    freeing::free_candidates,
    ids::{StableId, StableTag},
};
use anonmem_frame::{FrameArray, Frames, Link, RawHandle, array::LINE};
use anonmem_hal::Machine;
use anonmem_sync::{Atomic, Ordering, Plain, RwSem, order::KsmScan};

/// Words of a group of candidates, or buckets that lie together.
pub(super) const GROUP: u64 = LINE as u64;
/// Frames that a group of buckets is for.
pub(super) const FRAMES_OF_GROUP: u64 = CANDIDATES * GROUP;
/// Words for candidates, for each bucket of nodes.
const CANDIDATES: u64 = 4;

/// KSM, of one memory manager.
pub(crate) struct Ksm<M: Machine> {
    /// Held for writing by the one who scans.
    pub(super) lock: RwSem<M, KsmScan, ()>,
    pub(super) settings: KsmSettingsNow<M>,
    /// The frame that the hand is at, relative to the first.
    pub(super) at: Plain<u64, M>,
    /// Sweeps over all frames that have been completed.
    pub(super) sweep: Plain<u64, M>,
    /// The heads of the buckets of stable nodes, those of the buckets of places, then the groups of
    /// candidates. No words until the first scan.
    pub(super) table: FrameArray<M>,
    pub(super) counts: KsmCounts<M>,
}

/// What the scanner counts. Written under its lock.
pub(crate) struct KsmCounts<M> {
    /// Pages that were looked at.
    pub(super) scanned: Atomic<u64, M>,
    /// Pages that were passed over because nothing came of them so often.
    pub(super) skipped: Atomic<u64, M>,
    /// Pages that were merged, ever.
    pub(super) merged: Atomic<u64, M>,
    /// Pages that were given up for the zero page, ever.
    pub(super) zeroed: Atomic<u64, M>,
    /// Pages that were to be merged and were not, ever: somebody was using them, or writing to them.
    pub(super) refused: Atomic<u64, M>,
    /// Of the sweep under way: pages without an equal.
    pub(super) unshared: Atomic<u64, M>,
    /// Of the sweep under way: pages that were new, or had changed since the sweep before.
    pub(super) changed: Atomic<u64, M>,
    /// The two, of the sweep before.
    pub(super) last_unshared: Atomic<u64, M>,
    pub(super) last_changed: Atomic<u64, M>,
}

/// Adds to a counter that only the scanner writes.
pub(super) fn add<M: Machine>(counter: &Atomic<u64, M>, n: u64) {
    counter.store(counter.load(Ordering::Relaxed) + n, Ordering::Relaxed);
}

impl<M: Machine> Ksm<M> {
    pub(crate) fn new() -> Self {
        let zero = || Atomic::new(0);
        Self {
            lock: RwSem::new(()),
            settings: KsmSettingsNow::new(KsmSettings::default()),
            at: Plain::new(0),
            sweep: Plain::new(0),
            table: FrameArray::new(),
            counts: KsmCounts {
                scanned: zero(),
                skipped: zero(),
                merged: zero(),
                zeroed: zero(),
                refused: zero(),
                unshared: zero(),
                changed: zero(),
                last_unshared: zero(),
                last_changed: zero(),
            },
        }
    }

    /// Gets the memory that the scanner needs, if it has none: 12 bytes a frame.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub(super) fn prepare(&self, frames: &Frames<M>) -> Result<(), Error> {
        if self.table.is_empty() {
            let nr = frames.machine().nr_frames();
            self.table.alloc(frames, buckets_of(nr) * (2 + CANDIDATES))?;
        }
        Ok(())
    }

    /// Gives that memory back. No node is left, and the caller holds the scanner's lock for writing.
    pub(super) fn release(&self, frames: &Frames<M>) {
        free_candidates(frames, &self.table);
    }

    /// The number of buckets of nodes, and of those of places; 0 before the first scan.
    pub(super) fn buckets(&self) -> u64 {
        self.table.len() / (2 + CANDIDATES)
    }

    /// The number of words for candidates, and the first of them.
    pub(super) fn candidates(&self) -> (u64, u64) {
        (self.buckets() * CANDIDATES, self.buckets() * 2)
    }

    /// The bucket of places that belong together.
    pub(super) fn bucket_of_places(&self, mixed: u64) -> u64 {
        self.buckets() + (mixed >> 32) % self.buckets()
    }

    /// The first node of a bucket, or the first place.
    pub(super) fn head(&self, frames: &Frames<M>, bucket: u64) -> Link<StableTag> {
        let bits = self.table.get(frames, bucket).load(Ordering::Relaxed);
        Link::from(RawHandle::new(bits as u32).map(StableId::from_raw))
    }

    pub(super) fn set_head(&self, frames: &Frames<M>, bucket: u64, head: Link<StableTag>) {
        let bits = head.get().map_or(0, |id| u64::from(id.raw().get()));
        self.table.get(frames, bucket).store(bits, Ordering::Relaxed);
    }
}

/// The most words of a table: [`FrameArray::MAX_LEN`].
const MOST_WORDS: u64 = 1 << 27;

/// As many buckets as give each frame a word; fewer where a table has no more words. What waits is forgotten
/// sooner then.
const fn buckets_of(frames: u64) -> u64 {
    let (wanted, most) = (frames.div_ceil(FRAMES_OF_GROUP), MOST_WORDS / (2 + CANDIDATES) / GROUP);
    GROUP * if wanted < most { wanted } else { most }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_word_for_each_frame_that_waits_in_whole_groups() {
        for frames in [1, 31, 32, 33, 64, 4096, 65_535, 1 << 26] {
            let candidates = buckets_of(frames) * CANDIDATES;
            assert!(candidates >= frames && candidates.is_multiple_of(GROUP), "{frames} frames");
        }
        for frames in [90_000_000, (1 << 32) - 1] {
            let words = buckets_of(frames) * (2 + CANDIDATES);
            assert!(words <= MOST_WORDS && words > MOST_WORDS * 9 / 10, "{frames} frames");
        }
    }
}

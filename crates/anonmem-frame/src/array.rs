//! Arrays of atomic words made of frames: what a swap device knows of each slot.
//!
//! Two levels of directory frames, so that no allocation is larger than a page. Element `i` is word `i % 512`
//! of leaf `i / 512`, and the leaf's frame number is in the directory.

use crate::{Frames, OutOfMemory, meta::Kind};
use anonmem_hal::{Machine, Order, PAGE_SIZE, Pfn};
use anonmem_sync::{Atomic, Ordering};

/// Words of a frame.
const WORDS: u64 = (PAGE_SIZE / 8) as u64;

/// Words that lie in one line of a cache.
pub const LINE: usize = 8;

/// An array of words, all 0 at first.
///
/// Part of something type-stable: an array without frames has length 0.
pub struct FrameArray<M> {
    /// Frame of the root directory plus one.
    root: Atomic<u64, M>,
    len: Atomic<u64, M>,
    /// The [`identity`](Frames::identity) of the frames that the words lie in.
    owner: Atomic<usize, M>,
}

impl<M: Machine> FrameArray<M> {
    /// An array of length 0.
    pub const fn new() -> Self {
        Self { root: Atomic::new(0), len: Atomic::new(0), owner: Atomic::new(0) }
    }

    /// The most words that an array can have.
    pub const MAX_LEN: u64 = WORDS * WORDS * WORDS;

    /// Its length.
    pub fn len(&self) -> u64 {
        // Acquire pairs with the Release of `alloc`.
        self.len.load(Ordering::Acquire)
    }

    /// Whether its length is 0.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Gives an empty array `len` words of 0.
    ///
    /// # Errors
    /// [`OutOfMemory`]; the array is still empty.
    ///
    /// # Panics
    /// If it is not empty, or being filled, or `len` exceeds [`MAX_LEN`](Self::MAX_LEN).
    pub fn alloc(&self, frames: &Frames<M>, len: u64) -> Result<(), OutOfMemory> {
        assert!(len <= Self::MAX_LEN, "an array has at most 2^27 words");
        // One task fills it. Acquire pairs with the Release of whoever emptied it.
        let mine = self.owner.compare_exchange(0, frames.identity(), Ordering::Acquire);
        assert!(mine.is_ok(), "an array is made once");
        if let Err(e) = self.add_leaves(frames, len.div_ceil(WORDS)) {
            self.free_frames(frames);
            return Err(e);
        }
        // Release pairs with the Acquire of `len`.
        self.len.store(len, Ordering::Release);
        Ok(())
    }

    fn add_leaves(&self, frames: &Frames<M>, leaves: u64) -> Result<(), OutOfMemory> {
        self.root.store(alloc_words(frames)?.0 + 1, Ordering::Relaxed);
        (0..leaves).try_for_each(|leaf| self.add_leaf(frames, leaf))
    }

    fn add_leaf(&self, frames: &Frames<M>, leaf: u64) -> Result<(), OutOfMemory> {
        let root = words(frames, self.root_frame().expect("just allocated"));
        let slot = &root[(leaf / WORDS) as usize];
        if slot.load(Ordering::Relaxed) == 0 {
            slot.store(alloc_words(frames)?.0 + 1, Ordering::Relaxed);
        }
        let directory = words(frames, Pfn(slot.load(Ordering::Relaxed) - 1));
        directory[(leaf % WORDS) as usize].store(alloc_words(frames)?.0 + 1, Ordering::Relaxed);
        Ok(())
    }

    fn root_frame(&self) -> Option<Pfn> {
        self.root.load(Ordering::Relaxed).checked_sub(1).map(Pfn)
    }

    /// The word at `index`.
    ///
    /// # Panics
    /// If `index` is not below the length, or the array is of other frames.
    #[inline]
    pub fn get<'f>(&self, frames: &'f Frames<M>, index: u64) -> &'f Atomic<u64, M> {
        let len = self.len();
        assert!(index < len, "word {index} of an array of {len}");
        &self.leaf(frames, index / WORDS)[(index % WORDS) as usize]
    }

    /// The [`LINE`] words from `first` on, which lie in one line of a cache.
    ///
    /// # Panics
    /// If `first` is no multiple of their number, they are not all below the length, or the array is of other
    /// frames.
    #[inline]
    pub fn line<'f>(&self, frames: &'f Frames<M>, first: u64) -> &'f [Atomic<u64, M>; LINE] {
        let len = self.len();
        assert!(first + LINE as u64 <= len, "words from {first} on of an array of {len}");
        assert!(first.is_multiple_of(LINE as u64), "word {first} is not the first of a line");
        &self.leaf(frames, first / WORDS).as_chunks().0[first as usize % WORDS as usize / LINE]
    }

    /// The words of a leaf.
    #[inline]
    fn leaf<'f>(&self, frames: &'f Frames<M>, leaf: u64) -> &'f [Atomic<u64, M>] {
        self.assert_is_of(frames);
        let root = words(frames, self.root_frame().expect("an array of some length has frames"));
        let directory = words(frames, Pfn(root[(leaf / WORDS) as usize].load(Ordering::Relaxed) - 1));
        words(frames, Pfn(directory[(leaf % WORDS) as usize].load(Ordering::Relaxed) - 1))
    }

    /// The length, which was loaded with Acquire, comes after the owner.
    #[inline(always)]
    #[track_caller]
    fn assert_is_of(&self, frames: &Frames<M>) {
        assert!(self.owner.peek() == frames.identity(), "an array of other frames");
    }

    /// Empties the array and frees its frames.
    ///
    /// # Panics
    /// If the array is of other frames.
    ///
    /// # Safety
    /// Nobody has a word of it that [`get`](Self::get) gave, nor asks for one meanwhile.
    pub unsafe fn free(&self, frames: &Frames<M>) {
        if self.is_empty() {
            return;
        }
        self.assert_is_of(frames);
        self.len.store(0, Ordering::Relaxed);
        self.free_frames(frames);
    }

    /// Frees the frames of an array that has no length, or no longer.
    fn free_frames(&self, frames: &Frames<M>) {
        if let Some(root) = self.root_frame() {
            self.free_below(frames, root);
        }
        // Release pairs with the Acquire of the next `alloc`.
        self.owner.store(0, Ordering::Release);
    }

    fn free_below(&self, frames: &Frames<M>, root: Pfn) {
        self.root.store(0, Ordering::Relaxed);
        for directory in words(frames, root).iter().filter_map(frame_in) {
            for leaf in words(frames, directory).iter().filter_map(frame_in) {
                // SAFETY: `alloc_words` gave the frame to this array, which forgets it.
                drop(unsafe { frames.kernel_frames(leaf, Order::ZERO) });
            }
            // SAFETY: `alloc_words` gave the frame to this array, which forgets it.
            drop(unsafe { frames.kernel_frames(directory, Order::ZERO) });
        }
        // SAFETY: `alloc_words` gave the frame to this array, which forgets it.
        drop(unsafe { frames.kernel_frames(root, Order::ZERO) });
    }
}

impl<M: Machine> Default for FrameArray<M> {
    fn default() -> Self {
        Self::new()
    }
}

fn frame_in<M: Machine>(word: &Atomic<u64, M>) -> Option<Pfn> {
    word.load(Ordering::Relaxed).checked_sub(1).map(Pfn)
}

fn alloc_words<M: Machine>(frames: &Frames<M>) -> Result<Pfn, OutOfMemory> {
    let frame = frames.alloc_kernel(Order::ZERO)?;
    // SAFETY: the frame was just allocated.
    unsafe { frames.machine().zero(frame.pfn(), Order::ZERO) };
    Ok(frame.into_pfn())
}

/// The words of a frame of an array.
fn words<M: Machine>(frames: &Frames<M>, pfn: Pfn) -> &[Atomic<u64, M>] {
    assert!(frames.meta(pfn).owned().is(Kind::Kernel), "frame {:#x} is no part of an array", pfn.0);
    let first = frames.machine().direct_map(pfn).cast::<Atomic<u64, M>>();
    // SAFETY: the frame is the kernel's and one of an array's, whose words are only accessed atomically; it
    // is freed only by `free`, when nobody uses the array.
    unsafe { core::slice::from_raw_parts(first.as_ptr(), WORDS as usize) }
}

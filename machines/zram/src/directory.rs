//! Long arrays in frames, of which only the parts in use take memory.

use alloc::{boxed::Box, collections::TryReserveError, vec::Vec};
use anonmem_hal::{FrameAlloc, Order, PAGE_SIZE, Pfn, PhysMem};
use core::marker::PhantomData;

/// Plain data of which all zeroes is a value.
///
/// # Safety
/// Any bytes are a value, and the alignment is at most a page's.
pub unsafe trait Zeroable: Copy {}

// SAFETY: a number.
unsafe impl Zeroable for u64 {}

/// An array of `T`, zero where nothing was stored. A frame of it is taken when it is first written.
pub struct Directory<T> {
    frames: Box<[Option<Pfn>]>,
    in_use: u64,
    values: PhantomData<T>,
}

impl<T: Zeroable> Directory<T> {
    const EACH: usize = PAGE_SIZE / size_of::<T>();

    /// An array of `len` zeroes.
    ///
    /// # Errors
    /// If there is no memory for the list of frames.
    pub fn new(len: u64) -> Result<Self, TryReserveError> {
        let len = len.div_ceil(Self::EACH as u64) as usize;
        let mut frames = Vec::new();
        frames.try_reserve_exact(len)?;
        frames.resize(len, None);
        Ok(Self { frames: frames.into_boxed_slice(), in_use: 0, values: PhantomData })
    }

    fn place(&self, memory: &impl PhysMem, index: u64) -> Option<*mut T> {
        let (frame, at) = (index as usize / Self::EACH, index as usize % Self::EACH);
        let base = memory.direct_map((*self.frames.get(frame)?)?).cast::<T>();
        // SAFETY: `at` is below the number of values in a frame.
        Some(unsafe { base.add(at) }.as_ptr())
    }

    /// The value at `index`.
    pub fn get(&self, memory: &impl PhysMem, index: u64) -> Option<T> {
        // SAFETY: the frame is ours, aligned, and holds a `T` there: zeroes, or what `get_mut` let be
        // written.
        self.place(memory, index).map(|place| unsafe { place.read() })
    }

    /// The value at `index`, to be changed; `None` if it was never stored.
    pub fn get_mut(&mut self, memory: &impl PhysMem, index: u64) -> Option<&mut T> {
        // SAFETY: as in `get`; the frame is reached through this value alone, which is borrowed.
        self.place(memory, index).map(|place| unsafe { &mut *place })
    }

    /// Makes sure that there is memory for the value at `index`; `false` if there is none, or `index` is too
    /// large.
    #[must_use]
    pub fn reserve(&mut self, memory: &impl PhysMem, frames: &dyn FrameAlloc, index: u64) -> bool {
        let Some(frame) = self.frames.get_mut(index as usize / Self::EACH) else { return false };
        if frame.is_none() {
            // SAFETY: nobody else has the frame.
            *frame = frames.alloc_frame().inspect(|&pfn| unsafe { memory.zero(pfn, Order::ZERO) });
            self.in_use += u64::from(frame.is_some());
        }
        frame.is_some()
    }

    /// Gives all frames back: all values are zero again.
    pub fn clear(&mut self, frames: &dyn FrameAlloc) {
        self.frames.iter_mut().filter_map(Option::take).for_each(|pfn| {
            // SAFETY: `reserve` took it from there; nothing is read from it any more.
            unsafe { frames.free_frame(pfn) }
        });
        self.in_use = 0;
    }

    /// The frames that it takes.
    pub fn frames(&self) -> u64 {
        self.in_use
    }
}

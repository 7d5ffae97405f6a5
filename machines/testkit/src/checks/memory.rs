//! The promises of `PhysMem`.

use super::{Broken, Checked, Stop, World, equal, holds};
use crate::tally::Tally;
use anonmem::{Machine, Vm};
use anonmem_hal::{Order, PAGE_SIZE, Pfn};

/// The words of a frame.
const WORDS: usize = PAGE_SIZE / 8;
/// No frame's number times this is a multiple of another's.
const MIX: u64 = 0x9e37_79b9_7f4a_7c15;
/// The frames that a check works on.
const BLOCK: Order = Order::new(4);
/// Frames of a large machine that are asked for.
const SAMPLES: u64 = 1 << 18;

pub(super) fn frames<M: Machine>(w: &World<'_, '_, M>) -> Checked {
    let (base, frames) = (w.machine().base_pfn().0, w.machine().nr_frames());
    holds("the first frame is not number 0", base != 0)?;
    holds("there are frames", frames > 0)?;
    holds("there are less than 2^32 frames", frames < 1 << 32)?;
    Ok(equal("frames that the memory manager has", w.vm.stats().frames, frames)?)
}

pub(super) fn memmap<M: Machine>(w: &World<'_, '_, M>) -> Checked {
    Ok(equal("the metadata's address modulo 64", w.machine().memmap().addr().get() as u64 % 64, 0)?)
}

pub(super) fn direct_map<M: Machine>(w: &World<'_, '_, M>) -> Checked {
    let (machine, tally) = (w.machine(), Tally::new());
    let (base, frames) = (machine.base_pfn(), machine.nr_frames());
    let first = machine.direct_map(base).addr().get() as u64;
    equal("the address of a frame modulo its size", first % PAGE_SIZE as u64, 0)?;
    let step = frames.div_ceil(SAMPLES) as usize;
    w.port.at_once(w.port.cpus().min(crate::port::MAX_TASKS), &|_| {
        for n in (0..frames).step_by(step).chain([frames - 1, 0]) {
            let found = machine.direct_map(Pfn(base.0 + n)).addr().get() as u64;
            let expected = first + n * PAGE_SIZE as u64;
            tally.note(equal("the address of a frame, counted from the first", found, expected));
        }
    });
    Ok(tally.result()?)
}

/// Frames to try things on: a block of 16.
struct Block<'v, M: Machine> {
    vm: &'v Vm<M>,
    first: Pfn,
}

impl<M: Machine> Drop for Block<'_, M> {
    fn drop(&mut self) {
        // SAFETY: the block is the one that `new` took, and is given back once.
        drop(unsafe { self.vm.frames().kernel_frames(self.first, BLOCK) });
    }
}

impl<'v, M: Machine> Block<'v, M> {
    const FRAMES: u64 = BLOCK.pages();

    fn new(w: &World<'v, '_, M>) -> Result<Self, Stop> {
        let owner = w.vm.frames().alloc_kernel(BLOCK).map_err(|_| Broken {
            what: "a free block of 16 frames",
            expected: 1,
            found: 0,
        })?;
        Ok(Self { vm: w.vm, first: owner.into_pfn() })
    }

    fn frame(&self, n: u64) -> Pfn {
        self.first.offset(n)
    }

    /// The word `at` of frame `n`, as the direct map has it.
    fn word(&self, n: u64, at: usize) -> u64 {
        let frame = self.vm.machine().direct_map(self.frame(n)).cast::<u64>();
        // SAFETY: the word lies in a frame of the block, which is valid for reads.
        let word = unsafe { frame.add(at) };
        // SAFETY: as above; the frame is this block's alone.
        unsafe { word.read_volatile() }
    }

    /// Makes each word of the block one that no other has.
    fn fill(&self) {
        for n in 0..Self::FRAMES {
            for at in 0..WORDS {
                let bytes = Self::pattern(n, at).to_le_bytes();
                self.write(n, at * 8, &bytes);
            }
        }
    }

    fn write(&self, n: u64, offset: usize, bytes: &[u8]) {
        // SAFETY: the block's frames are its alone, whose bytes nobody relies on.
        unsafe { self.vm.machine().write_bytes(self.frame(n), offset, bytes) };
    }

    fn zero(&self, n: u64, order: Order) {
        // SAFETY: as above.
        unsafe { self.vm.machine().zero(self.frame(n), order) };
    }

    fn pattern(n: u64, at: usize) -> u64 {
        (n * WORDS as u64 + at as u64 + 1).wrapping_mul(MIX)
    }

    /// Compares every word with what `wanted` says of it.
    fn compare(&self, what: &'static str, wanted: impl Fn(u64, usize) -> u64) -> Result<(), Broken> {
        (0..Self::FRAMES).try_for_each(|n| {
            (0..WORDS).try_for_each(|at| {
                let wanted = u64::from_ne_bytes(wanted(n, at).to_le_bytes());
                equal(what, self.word(n, at), wanted)
            })
        })
    }
}

pub(super) fn zero<M: Machine>(w: &World<'_, '_, M>) -> Checked {
    let block = Block::new(w)?;
    for order in 0..3 {
        let zeroed = 4..4 + (1 << order);
        block.fill();
        block.zero(4, Order::new(order));
        block.compare("a word of a block of which a part was zeroed", |n, at| {
            if zeroed.contains(&n) { 0 } else { Block::<M>::pattern(n, at) }
        })?;
    }
    Ok(())
}

pub(super) fn copy<M: Machine>(w: &World<'_, '_, M>) -> Checked {
    let block = Block::new(w)?;
    for order in 0..3 {
        let copied = 4..4 + (1 << order);
        block.fill();
        // SAFETY: as in `Block::write`; the two parts are different ones.
        unsafe { w.machine().copy(block.frame(4), block.frame(8), Order::new(order)) };
        block.compare("a word of a block of which a part was copied to", |n, at| {
            Block::<M>::pattern(if copied.contains(&n) { n + 4 } else { n }, at)
        })?;
    }
    Ok(())
}

pub(super) fn bytes<M: Machine>(w: &World<'_, '_, M>) -> Checked {
    let (block, machine) = (Block::new(w)?, w.machine());
    for (offset, len) in [(0, 1), (1, 7), (7, 2), (4095, 1), (4090, 6), (513, 64), (8, 16)] {
        block.zero(0, Order::new(1));
        let from: [u8; 64] = core::array::from_fn(|i| i as u8 + 1);
        block.write(0, offset, &from[..len]);
        let expected = |at: usize| {
            let written = at.checked_sub(offset).filter(|i| *i < len);
            written.map_or(0, |i| from[i])
        };
        for at in 0..2 * PAGE_SIZE {
            let frame = block.frame((at / PAGE_SIZE) as u64);
            let at_once = block.word((at / PAGE_SIZE) as u64, at % PAGE_SIZE / 8).to_ne_bytes()[at % 8];
            let mut byte = [0xee];
            machine.read_bytes(frame, at % PAGE_SIZE, &mut byte);
            equal("a byte by read_bytes", byte[0].into(), expected(at).into())?;
            equal("a byte through the direct map", at_once.into(), expected(at).into())?;
        }
        let mut back = [0; 64];
        machine.read_bytes(block.first, offset, &mut back[..len]);
        holds("the bytes in one piece are those that were written", back[..len] == from[..len])?;
    }
    Ok(())
}

pub(super) fn is_zero<M: Machine>(w: &World<'_, '_, M>) -> Checked {
    let (block, machine) = (Block::new(w)?, w.machine());
    for offset in [0, 1, 7, 8, 63, 64, 2047, 2048, 4088, 4095] {
        block.zero(0, Order::ZERO);
        block.write(0, offset, &[0x10]);
        holds("a page with a bit set is not all zeroes", !machine.is_zero(block.first))?;
    }
    Ok(())
}

pub(super) fn same_bytes<M: Machine>(w: &World<'_, '_, M>) -> Checked {
    let (block, machine) = (Block::new(w)?, w.machine());
    let (one, other) = (block.frame(0), block.frame(1));
    let same = || (machine.same_bytes(one, other), machine.hash_page(one, 5) == machine.hash_page(other, 5));
    block.zero(0, Order::new(1));
    holds("two pages of zeroes are the same, and their hashes are", same() == (true, true))?;
    for offset in [0, 1, 7, 8, 63, 64, 511, 512, 2047, 2048, 4088, 4095] {
        block.write(0, offset, &[0x10]);
        holds("pages of which one has another bit set are not the same", !same().0)?;
        block.write(1, offset, &[0x10]);
        holds("with the same bits they are, and their hashes are", same() == (true, true))?;
    }
    holds("a page is the same as itself", machine.same_bytes(one, one))?;
    Ok(())
}

//! The contents of frames: who filled a frame as a whole, and who accessed it since.
//!
//! Zeroing, copying, freeing and transfers touch a whole frame at once, without atomics. Each must be ordered
//! with everything else that touches the frame; otherwise it is a data race, as between plain words. What
//! happens inside a frame that stays what it is (a program's loads and stores, the entries of a table, the
//! objects of a slab) has rules of its own. An access through a translation, or a walk of tables, is over
//! when a flush has returned. A program may store to a page that is being copied or written out: what is read
//! then is one or the other.
//!
//! One clock a frame is enough: accesses of one kind need not be told apart by their place in it.

use super::{By, Clock, View};
use crate::limits::MAX_CPUS;
use anonmem_hal::PAGE_SIZE;
use core::panic::Location;

type At = &'static Location<'static>;

/// What is known of one frame in one execution.
#[derive(Clone, Copy, Debug)]
struct Frame {
    execution: u64,
    /// The CPU that filled it last, its event number, and where; an event number of 0: nobody did.
    writer: u8,
    written: u16,
    written_at: Option<At>,
    /// The last event of each CPU whose code accessed it; whose MMU did; and where, if that was a step.
    accesses: Clock,
    translated: Clock,
    accessed_at: [Option<At>; MAX_CPUS],
}

impl Frame {
    const UNTOUCHED: Self = Self {
        execution: 0,
        writer: 0,
        written: 0,
        written_at: None,
        accesses: Clock::ZERO,
        translated: Clock::ZERO,
        accessed_at: [None; MAX_CPUS],
    };
}

/// The other side of a race for a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameRace {
    /// The CPU that touched the frame before.
    pub cpu: usize,
    /// Whether it filled the frame.
    pub filled: bool,
    /// Where, if that was a step of its own.
    pub at: Option<At>,
}

/// The frames of the machine that is explored.
#[derive(Debug, Default)]
pub struct Frames {
    start: usize,
    len: usize,
    list: Vec<Frame>,
    execution: u64,
}

impl Frames {
    /// Forgets the execution that ran.
    pub fn begin(&mut self) {
        self.execution += 1;
    }

    /// Frames are the `len` bytes at `start` from now on. Returns whether that is the first one hears of
    /// them.
    pub fn register(&mut self, start: usize, len: usize) -> bool {
        let first = self.len == 0;
        if (self.start, self.len) != (start, len) {
            (self.start, self.len) = (start, len);
            self.list.clear();
            self.list.resize(len / PAGE_SIZE, Frame::UNTOUCHED);
        }
        first
    }

    #[inline]
    fn frame(&mut self, address: usize) -> Option<&mut Frame> {
        let offset = address.wrapping_sub(self.start);
        if offset >= self.len {
            return None;
        }
        let frame = &mut self.list[offset / PAGE_SIZE];
        if frame.execution != self.execution {
            *frame = Frame { execution: self.execution, ..Frame::UNTOUCHED };
        }
        Some(frame)
    }

    /// Notes that `cpu`, which knows `hb`, accesses something inside of the frame at `address`, or reads all
    /// of it.
    #[inline]
    pub fn access(
        &mut self,
        address: usize,
        (cpu, by): (usize, By),
        hb: &Clock,
        at: Option<At>,
    ) -> Option<FrameRace> {
        let frame = self.frame(address)?;
        let race = after_filling(frame, hb);
        match by {
            By::Code => frame.accesses.0[cpu] = hb.0[cpu],
            By::Mmu => frame.translated.0[cpu] = hb.0[cpu],
        }
        if at.is_some() {
            frame.accessed_at[cpu] = at;
        }
        race
    }

    /// Notes that `cpu`, which has the view `now`, fills the frame at `address`.
    pub fn fill(&mut self, address: usize, cpu: usize, now: &View, at: At) -> Option<FrameRace> {
        let frame = self.frame(address)?;
        let hb = &now.hb;
        let race = after_filling(frame, hb).or_else(|| {
            let by_code = hb.first_unknown_of(&frame.accesses);
            let cpu = by_code.or_else(|| now.translated().first_unknown_of(&frame.translated))?;
            Some(FrameRace { cpu, filled: false, at: frame.accessed_at[cpu] })
        });
        (frame.writer, frame.written, frame.written_at) = (cpu as u8, hb.0[cpu], Some(at));
        race
    }
}

#[inline]
fn after_filling(frame: &Frame, hb: &Clock) -> Option<FrameRace> {
    let cpu = usize::from(frame.writer);
    (!hb.knows(cpu, frame.written)).then_some(FrameRace { cpu, filled: true, at: frame.written_at })
}

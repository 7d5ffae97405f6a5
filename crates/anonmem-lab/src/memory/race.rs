//! Accesses to plain words: two of them conflict, and nothing orders them, is a data race.
//!
//! Vector clocks as in FastTrack (Flanagan and Freund, 2009). A plain access is no scheduling point: if no
//! pair races, their order cannot matter.

use super::Clock;
use crate::limits::MAX_CPUS;
use core::panic::Location;

/// Who read and wrote one plain word.
#[derive(Clone, Copy, Debug)]
pub struct Accesses {
    writer: u8,
    written: u16,
    reads: Clock,
    write_at: Option<&'static Location<'static>>,
    read_at: [Option<&'static Location<'static>>; MAX_CPUS],
}

/// The other side of a race.
#[derive(Clone, Copy, Debug)]
pub struct Race {
    /// The CPU that accessed the word before.
    pub cpu: usize,
    /// Whether it wrote.
    pub wrote: bool,
    /// Where.
    pub at: &'static Location<'static>,
}

impl Accesses {
    /// Not accessed yet.
    pub const NONE: Self =
        Self { writer: 0, written: 0, reads: Clock::ZERO, write_at: None, read_at: [None; MAX_CPUS] };

    /// Notes a read by `cpu`, which knows `hb`.
    pub fn read(&mut self, cpu: usize, hb: &Clock, at: &'static Location<'static>) -> Option<Race> {
        let race = self.race_with_write(hb);
        self.reads.0[cpu] = hb.0[cpu];
        self.read_at[cpu] = Some(at);
        race
    }

    /// Notes a write by `cpu`, which knows `hb`.
    pub fn write(&mut self, cpu: usize, hb: &Clock, at: &'static Location<'static>) -> Option<Race> {
        let race = self.race_with_write(hb).or_else(|| {
            let other = hb.first_unknown_of(&self.reads)?;
            Some(Race { cpu: other, wrote: false, at: self.read_at[other]? })
        });
        (self.writer, self.written, self.write_at) = (cpu as u8, hb.0[cpu], Some(at));
        race
    }

    fn race_with_write(&self, hb: &Clock) -> Option<Race> {
        let at = self.write_at?;
        let cpu = usize::from(self.writer);
        (!hb.knows(cpu, self.written)).then_some(Race { cpu, wrote: true, at })
    }
}

//! What each slot holds, and where: the state of a device, under one lock.

use crate::{
    directory::Directory,
    store::{Piece, Store},
    unit::{PIECES, UNIT_PAGES, Unit},
};
use anonmem_hal::{FrameAlloc, IoError, PAGE_SIZE, PhysMem};

/// What a slot holds: a piece and the bytes in use of it, or a page of a unit. As a number 0 is nothing.
#[derive(Clone, Copy)]
pub(crate) enum Contents {
    Own(Piece, usize),
    InUnit,
}

const LEN_BITS: u32 = 13;
const IN_UNIT: u64 = 1 << 63;

impl Contents {
    pub(crate) fn to_bits(self) -> u64 {
        match self {
            Self::Own(piece, len) => piece.to_bits() << LEN_BITS | len as u64,
            Self::InUnit => IN_UNIT,
        }
    }

    pub(crate) fn from_bits(bits: u64) -> Option<Self> {
        let len = (bits & ((1 << LEN_BITS) - 1)) as usize;
        match bits {
            0 => None,
            IN_UNIT => Some(Self::InUnit),
            _ => Some(Self::Own(Piece::from_bits(bits >> LEN_BITS), len)),
        }
    }
}

pub(crate) struct Tables {
    pub(crate) slots: Directory<u64>,
    pub(crate) store: Store,
    /// That of each group of slots.
    pub(crate) units: Directory<Unit>,
    /// Units that were written so far.
    pub(crate) written: u64,
}

impl Tables {
    /// What a slot holds.
    pub(crate) fn contents(&self, memory: &impl PhysMem, slot: u64) -> Option<Contents> {
        Contents::from_bits(self.slots.get(memory, slot)?)
    }

    /// Empties a slot. The pieces of a unit go with its last page; till then, it is given.
    pub(crate) fn discard(
        &mut self,
        memory: &impl PhysMem,
        slot: u64,
        frames: &dyn FrameAlloc,
    ) -> Option<Unit> {
        let word = self.slots.get_mut(memory, slot)?;
        match Contents::from_bits(core::mem::take(word))? {
            Contents::Own(piece, _) => {
                self.store.free(memory, frames, piece);
                None
            }
            Contents::InUnit => self.discard_of_unit(memory, slot, frames),
        }
    }

    /// The unit that has the page of `slot`.
    pub(crate) fn unit_of(&self, memory: &impl PhysMem, slot: u64) -> Option<Unit> {
        matches!(self.contents(memory, slot)?, Contents::InUnit)
            .then(|| self.units.get(memory, slot / UNIT_PAGES))
            .flatten()
    }

    /// The frames that all of it takes.
    pub(crate) fn frames(&self) -> u64 {
        self.store.frames() + self.slots.frames() + self.units.frames()
    }

    /// Keeps `packed` as the contents of the group of slots that starts with `first`.
    ///
    /// # Errors
    /// [`IoError`] if there is no memory: the slots hold nothing.
    pub(crate) fn put_unit(
        &mut self,
        memory: &impl PhysMem,
        first: u64,
        packed: &[u8],
        frames: &dyn FrameAlloc,
    ) -> Result<(), IoError> {
        for slot in first..first + UNIT_PAGES {
            self.discard(memory, slot, frames);
        }
        let group = first / UNIT_PAGES;
        let has_room = self.slots.reserve(memory, frames, first) && self.units.reserve(memory, frames, group);
        if !has_room {
            return Err(IoError);
        }
        let mut pieces = [0; PIECES];
        for (nth, part) in packed.chunks(PAGE_SIZE).enumerate() {
            let Some(piece) = self.store.put(memory, frames, part) else {
                let taken = pieces[..nth].iter().map(|&bits| Piece::from_bits(bits));
                taken.for_each(|piece| self.store.free(memory, frames, piece));
                return Err(IoError);
            };
            pieces[nth] = piece.to_bits();
        }
        self.written += 1;
        let live = (1 << UNIT_PAGES) - 1;
        let unit = Unit { pieces, number: self.written, len: packed.len() as u32, live };
        *self.units.get_mut(memory, group).ok_or(IoError)? = unit;
        for slot in first..first + UNIT_PAGES {
            *self.slots.get_mut(memory, slot).ok_or(IoError)? = Contents::InUnit.to_bits();
        }
        Ok(())
    }

    /// Notes that the page of `slot`, which is empty by now, is needed no more; gives what is left.
    pub(crate) fn discard_of_unit(
        &mut self,
        memory: &impl PhysMem,
        slot: u64,
        frames: &dyn FrameAlloc,
    ) -> Option<Unit> {
        let unit = self.units.get_mut(memory, slot / UNIT_PAGES)?;
        unit.live &= !(1 << (slot % UNIT_PAGES));
        if unit.live != 0 {
            return Some(*unit);
        }
        let gone = core::mem::replace(unit, Unit::NONE);
        gone.pieces().for_each(|piece| self.store.free(memory, frames, piece));
        None
    }
}

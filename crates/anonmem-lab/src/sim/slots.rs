//! What is on the swap devices.

/// The devices of the machine: any more than two have never shown anything that two do not.
pub(crate) const DEVICES: usize = 2;
/// Slots of a device that are kept at a time.
pub(crate) const SLOTS: usize = 16;
/// Words of a page that a slot keeps.
pub(super) const WORDS: usize = 16;

/// What is kept of a page.
pub(super) type Slot = Option<[u64; WORDS]>;

/// The contents of all devices.
#[derive(Clone, Copy, Debug)]
pub(super) struct SwapTable {
    pub(super) slots: [[Slot; SLOTS]; DEVICES],
    /// Which slot a place is, of a device that has more.
    names: [[u64; SLOTS]; DEVICES],
}

impl SwapTable {
    pub(super) const EMPTY: Self = Self { slots: [[None; SLOTS]; DEVICES], names: [[0; SLOTS]; DEVICES] };

    /// A slot. One beyond the first [`SLOTS`] has the place that it had, or one from the end that is empty.
    pub(super) fn slot(&mut self, device: u8, slot: u64) -> &mut Slot {
        let slots = self.slots.get_mut(usize::from(device)).expect("the machine has two swap devices");
        if let Some(first) = slots.get(slot as usize).map(|_| slot as usize) {
            return &mut slots[first];
        }
        let names = &mut self.names[usize::from(device)];
        let known = (0..SLOTS).rfind(|&place| names[place] == slot);
        let place = known.or_else(|| (0..SLOTS).rfind(|&place| slots[place].is_none()));
        let place = place.expect("at most 16 slots of a device have something");
        names[place] = slot;
        &mut slots[place]
    }
}

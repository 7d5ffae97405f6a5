//! What is on the swap devices.

/// The devices of the machine: any more than two have never shown anything that two do not.
pub(crate) const DEVICES: usize = 2;
/// Slots of a device.
pub(crate) const SLOTS: usize = 16;
/// Words of a page that a slot keeps.
pub(super) const WORDS: usize = 16;

/// What is kept of a page.
pub(super) type Slot = Option<[u64; WORDS]>;

/// The contents of all devices.
#[derive(Clone, Copy, Debug)]
pub(super) struct SwapTable {
    pub(super) slots: [[Slot; SLOTS]; DEVICES],
}

impl SwapTable {
    pub(super) const EMPTY: Self = Self { slots: [[None; SLOTS]; DEVICES] };

    pub(super) fn slot(&mut self, device: u8, slot: u64) -> &mut Slot {
        let slots = self.slots.get_mut(usize::from(device)).expect("the machine has two swap devices");
        slots.get_mut(slot as usize).expect("a device has 16 slots")
    }
}

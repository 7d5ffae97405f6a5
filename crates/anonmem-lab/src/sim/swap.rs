//! The simulated machine's swap devices: a few slots each, kept in the execution's world.
//!
//! A transfer of a page is one step, somewhere between the call and its return; other CPUs may act before and
//! after it, as they do while a device works. It touches the slot and the frame: a program that still stores
//! to the frame through a stale translation is seen before or after, and a transfer from or to a frame that
//! is free fails the execution. A slot that was discarded has no contents; reading it is an error of the
//! device, as on real machines.
//!
//! Slots keep the first words of a page; the rest of a page that a case swaps out must be zero.

pub(crate) use super::slots::{DEVICES, SLOTS};
use super::{
    Sim,
    broken::broken,
    misfortune,
    probe::{inside_frame, running},
    slots::{Slot, WORDS},
};
use crate::{
    explorer::{engine::with, failure::FailureKind, op::Kind, step::turn},
    memory::By,
    trace::{Action, Event},
};
use anonmem_hal::{FrameAlloc, IoError, Order, PAGE_SIZE, Pfn, SwapIo};
use core::{panic::Location, sync::atomic::Ordering};

/// What a device does with a slot.
#[derive(Clone, Copy)]
enum Transfer {
    Write,
    Read,
}

impl Sim {
    /// Pages that the devices hold.
    pub fn swap_stored(&self) -> usize {
        self.arena.state(|s| s.swap.slots.iter().flatten().flatten().count())
    }

    /// The address that stands for a slot, and its size: to name it.
    pub(crate) fn swap_slot(&self, device: u8, slot: u64) -> (usize, usize) {
        let at = self.arena.state(|s| core::ptr::from_mut(s.swap.slot(device, slot)).addr());
        (at, size_of::<Slot>())
    }

    /// Announces a transfer between `pfn` and the slot; returns when the device makes it.
    fn begin(&self, what: Transfer, (device, slot): (u8, u64), pfn: Pfn, at: &'static Location<'static>) {
        let (place, frame) = (self.swap_slot(device, slot).0, self.arena.data_address(pfn));
        if running() {
            let (written, read) = match what {
                Transfer::Write => (place, frame),
                Transfer::Read => (frame, place),
            };
            turn(Kind::Store, written, Ordering::Relaxed, Some(read), at);
            let word = match what {
                Transfer::Write => format!("is written to slot {slot} of device {device}"),
                Transfer::Read => format!("is read from slot {slot} of device {device}"),
            };
            with(|e| {
                e.record(|e| Event::new(e, Some(frame), "", Action::Word(word), at));
                e.tick();
            });
        }
        if self.arena.is_free(pfn) {
            let message = format!("slot {slot} of device {device}: transfer with the free frame {}", pfn.0);
            broken(FailureKind::Frame, message, at);
        }
    }

    fn fails(label: &str) -> bool {
        running() && with(|e| e.inject.device) && misfortune(label)
    }
}

impl SwapIo for Sim {
    #[track_caller]
    unsafe fn swap_write(
        &self,
        device: u8,
        slot: u64,
        order: Order,
        src: Pfn,
        _: &dyn FrameAlloc,
    ) -> Result<(), IoError> {
        if Self::fails("the device fails to write") {
            return Err(IoError);
        }
        (0..order.pages()).for_each(|nth| self.write_page(device, slot + nth, src.offset(nth)));
        Ok(())
    }

    #[track_caller]
    unsafe fn swap_read(&self, device: u8, slot: u64, order: Order, dst: Pfn) -> Result<(), IoError> {
        if Self::fails("the device fails to read") {
            return Err(IoError);
        }
        (0..order.pages()).try_for_each(|nth| self.read_page(device, slot + nth, dst.offset(nth)))
    }

    #[track_caller]
    unsafe fn swap_discard(&self, device: u8, slot: u64, _: &dyn FrameAlloc) {
        let (at, place) = (Location::caller(), self.swap_slot(device, slot).0);
        if running() {
            turn(Kind::Store, place, Ordering::Relaxed, None, at);
            with(|e| {
                e.record(|e| Event::new(e, Some(place), "", Action::Word("is discarded".into()), at));
                e.tick();
            });
        }
        self.arena.state(|s| *s.swap.slot(device, slot) = None);
    }
}

impl Sim {
    #[track_caller]
    fn write_page(&self, device: u8, slot: u64, src: Pfn) {
        self.begin(Transfer::Write, (device, slot), src, Location::caller());
        if running() {
            inside_frame(self.arena.data_address(src), By::Code, Location::caller());
        }
        let words = core::array::from_fn(|i| self.arena.read(src, i * 8));
        let rest = (WORDS..PAGE_SIZE / 8).all(|i| self.arena.read(src, i * 8) == 0);
        assert!(rest, "a page that is swapped out has its contents in its first {WORDS} words");
        self.arena.state(|s| *s.swap.slot(device, slot) = Some(words));
    }

    #[track_caller]
    fn read_page(&self, device: u8, slot: u64, dst: Pfn) -> Result<(), IoError> {
        self.begin(Transfer::Read, (device, slot), dst, Location::caller());
        let words = self.arena.state(|s| *s.swap.slot(device, slot)).ok_or(IoError)?;
        self.arena.write_words(dst, &words, Location::caller());
        Ok(())
    }
}

//! The frames of the simulated machine.
//!
//! A small arena. Free frames are poisoned; the allocator's reports are checked: a frame is not freed twice,
//! and not while a TLB still translates to it.

use super::{
    Sim,
    arena::{BASE, POISON, overwritten},
    broken::broken,
    misfortune,
    probe::{inside_frame, running},
};
use crate::{
    explorer::{
        engine::{Engine, with},
        failure::FailureKind,
        op::Kind,
        step::turn,
    },
    memory::By,
    trace::{Action, Event},
};
use anonmem_hal::{Order, PAGE_SIZE, PageHash, Pfn, PhysMem};
use core::{panic::Location, ptr::NonNull, sync::atomic::Ordering};

impl Sim {
    /// A step of the kernel's that touches the bytes of a frame.
    fn step(&self, kind: Kind, pfn: Pfn, what: &str, at: &'static Location<'static>) {
        let address = self.arena.data_address(pfn);
        if running() {
            turn(kind, address, Ordering::Relaxed, None, at);
            inside_frame(address, By::Code, at);
            with(|e| {
                e.record(|e| Event::new(e, Some(address), "", Action::Word(what.into()), at));
                e.tick();
            });
        }
    }
}

// SAFETY: the arena is this machine's alone and does not move; frames are adjacent; `memmap` has 32 zeroed
// bytes a frame, aligned to 64.
unsafe impl PhysMem for Sim {
    fn base_pfn(&self) -> Pfn {
        BASE
    }

    fn nr_frames(&self) -> u64 {
        self.arena.nr_frames
    }

    fn memmap(&self) -> NonNull<u8> {
        self.arena.memmap
    }

    #[inline]
    fn direct_map(&self, pfn: Pfn) -> NonNull<u8> {
        self.arena.bytes(pfn)
    }

    #[track_caller]
    unsafe fn zero(&self, pfn: Pfn, order: Order) {
        self.arena.fill(pfn, order, 0, Location::caller());
    }

    /// One step: programs may be writing to `src`, before or after.
    #[track_caller]
    unsafe fn copy(&self, dst: Pfn, src: Pfn, order: Order) {
        let at = Location::caller();
        for i in 0..order.pages() {
            let (from, to) = (src.offset(i), dst.offset(i));
            let address = self.arena.data_address(from);
            if running() {
                turn(Kind::Load, address, Ordering::Relaxed, None, at);
                inside_frame(address, By::Code, at);
                with(|e| {
                    let word = format!("is copied to frame {}", to.0);
                    e.record(|e| Event::new(e, Some(address), "", Action::Word(word), at));
                });
            }
            self.arena.filled(to, at);
            if running() {
                with(Engine::tick);
            }
            let (from, to) = (self.arena.bytes(from), self.arena.bytes(to));
            // SAFETY: two frames of the arena; `copy_from` allows them to be the same.
            unsafe { to.copy_from(from, PAGE_SIZE) };
            overwritten(to, PAGE_SIZE);
        }
    }

    /// One step, as [`copy`](Self::copy).
    #[track_caller]
    fn read_bytes(&self, pfn: Pfn, offset: usize, to: &mut [u8]) {
        self.step(Kind::Load, pfn, "is read by the kernel", Location::caller());
        let from = self.arena.part(pfn, offset, to.len());
        // SAFETY: the part lies in a frame of the arena, and `to` does not.
        unsafe { from.copy_to_nonoverlapping(NonNull::from(&mut *to).cast(), to.len()) };
    }

    /// One step, as [`copy`](Self::copy).
    #[track_caller]
    unsafe fn write_bytes(&self, pfn: Pfn, offset: usize, from: &[u8]) {
        self.step(Kind::Store, pfn, "is written by the kernel", Location::caller());
        let to = self.arena.part(pfn, offset, from.len());
        // SAFETY: the part lies in a frame of the arena, and `from` does not.
        unsafe { to.copy_from_nonoverlapping(NonNull::from(from).cast(), from.len()) };
    }

    /// One step, as [`copy`](Self::copy).
    #[track_caller]
    fn hash_page(&self, pfn: Pfn, key: u64) -> u64 {
        self.step(Kind::Load, pfn, "is hashed", Location::caller());
        let mut hash = PageHash::new(key);
        for first in (0..PAGE_SIZE / 8).step_by(PageHash::WORDS) {
            hash.add(core::array::from_fn(|nth| self.arena.read(pfn, (first + nth) * 8)));
        }
        hash.finish()
    }

    /// One step for each of the two, as [`copy`](Self::copy): a program may write between them.
    #[track_caller]
    fn same_bytes(&self, one: Pfn, other: Pfn) -> bool {
        let at = Location::caller();
        self.step(Kind::Load, one, "is compared", at);
        let words = |pfn| (0..PAGE_SIZE / 8).map(move |i| self.arena.read(pfn, i * 8));
        let first: Vec<u64> = words(one).collect();
        self.step(Kind::Load, other, "is compared", at);
        words(other).eq(first)
    }

    /// One step, as [`copy`](Self::copy).
    #[track_caller]
    fn is_zero(&self, pfn: Pfn) -> bool {
        self.step(Kind::Load, pfn, "is looked at: all zeroes?", Location::caller());
        (0..PAGE_SIZE / 8).all(|i| self.arena.read(pfn, i * 8) == 0)
    }

    fn admit(&self) -> bool {
        !(running() && with(|e| e.inject.allocation) && misfortune("no frame to be had"))
    }

    #[track_caller]
    unsafe fn allocated(&self, pfn: Pfn, order: Order) {
        self.arena.set_free(pfn, order, false);
    }

    #[track_caller]
    unsafe fn freed(&self, pfn: Pfn, order: Order) {
        let at = Location::caller();
        if self.arena.set_free(pfn, order, true) {
            broken(FailureKind::Frame, format!("frame {} is freed twice", pfn.0), at);
        }
        let block = pfn.0..pfn.0 + order.pages();
        let stale = self.arena.state(|s| {
            let mut entries = s.tlbs.iter().enumerate();
            entries.find_map(|(cpu, tlb)| tlb.translation_to(&block).map(|va| (cpu, va)))
        });
        if let Some((cpu, va)) = stale {
            let message = format!("frame {} is freed while CPU{cpu} still translates {va:?} to it", pfn.0);
            broken(FailureKind::StaleTranslation, message, at);
        }
        self.arena.fill(pfn, order, POISON, at);
    }
}

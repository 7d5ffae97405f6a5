//! The MMU and the user side against page tables written by hand.

use super::*;
use crate::Checked;
use anonmem_hal::{
    CpuSet, Entry, FlushRange, Mmu, Order, PhysMem, Present, Protection, Pte, VaRange,
    arch::{Toy, X86_64},
};
use std::{
    cell::RefCell,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

/// A kernel of a hundred lines: maps fresh zeroed frames, in an address space of its own.
struct Tiny<A: Arch, C: Checks = Checked> {
    machine: Hosted<C, A>,
    root: Pfn,
    next: AtomicU64,
    active: AtomicU64,
    fault: Mutex<Option<Protection>>,
}

impl<A: Arch, C: Checks> Tiny<A, C> {
    /// An address space that maps what is touched with `on_fault`, or nothing.
    fn new(on_fault: Option<Protection>) -> Self {
        let machine = Hosted::new(64);
        let tiny = Self {
            root: machine.base_pfn(),
            machine,
            next: AtomicU64::new(0),
            active: AtomicU64::new(0),
            fault: Mutex::new(on_fault),
        };
        tiny.new_frame();
        tiny
    }

    fn new_frame(&self) -> Pfn {
        let pfn = self.machine.base_pfn().offset(self.next.fetch_add(1, Relaxed));
        // SAFETY: the frames are the test's, or it panics first.
        unsafe { self.machine.allocated(pfn, Order::ZERO) };
        // SAFETY: the frames are the test's, or it panics first.
        unsafe { self.machine.zero(pfn, Order::ZERO) };
        pfn
    }

    fn entry(&self, va: Va) -> &AtomicU64 {
        let mut table = self.root;
        for level in (1..A::LEVELS).rev() {
            let entry = &self.machine.arena.words(table)[A::index(va, level)];
            table = match A::decode_entry(entry.load(Relaxed), level) {
                Entry::Table(next) => next,
                Entry::None => {
                    let next = self.new_frame();
                    entry.store(A::encode_entry(Entry::Table(next), level), Relaxed);
                    next
                }
                Entry::Leaf(_) | Entry::Migration { .. } => panic!("no large leaves here"),
            };
        }
        &self.machine.arena.words(table)[A::index(va, 0)]
    }

    fn get(&self, va: Va) -> Pte {
        A::decode_pte(self.entry(va).load(Relaxed))
    }

    fn set(&self, va: Va, pte: Pte) {
        self.entry(va).store(A::encode_pte(pte), Relaxed);
    }

    fn map(&self, va: Va, prot: Protection) -> Pfn {
        let pfn = self.new_frame();
        self.set(va, Pte::Present(page(pfn, prot)));
        pfn
    }

    fn flush(&self, va: Va) {
        self.machine.flush(
            CpuSet::new(&[self.active.load(Relaxed)]),
            self.root,
            FlushRange::Range(VaRange::page(va)),
        );
    }

    fn run<R>(&self, cpu: u32, f: impl FnOnce(&UserCpu<'_, C, A, &Self>) -> R) -> R {
        self.machine.cpus().run_on(CpuId(cpu), || f(&UserCpu::new(&self.machine, self)))
    }
}

fn page(pfn: Pfn, prot: Protection) -> Present {
    Present { pfn, prot, young: false, dirty: false, special: false, uffd_wp: false, soft_clean: false }
}

impl<A: Arch, C: Checks> UserSpace for Tiny<A, C> {
    fn root(&self) -> Pfn {
        self.root
    }
    fn activate(&self, cpu: CpuId) {
        self.active.fetch_or(1 << cpu.0, Relaxed);
    }
    fn deactivate(&self, cpu: CpuId) {
        self.active.fetch_and(!(1 << cpu.0), Relaxed);
    }
    fn handle_fault(&self, va: Va, _access: Access) -> Handled {
        match *self.fault.lock().unwrap() {
            Some(prot) => {
                self.map(va, prot);
                Handled::Retry
            }
            None => Handled::Trap(Trap::Unmapped),
        }
    }
}

const P0: Va = Va(0);
const P1: Va = Va(0x1000);

fn bytes_cross_pages<A: Arch, C: Checks>() {
    let tiny = Tiny::<A, C>::new(Some(Protection::RW));
    tiny.run(0, |user| {
        user.store(Va(0xffd), b"abcdef").unwrap();
        let mut buf = [0; 8];
        user.load(Va(0xffc), &mut buf).unwrap();
        assert_eq!(&buf, b"\0abcdef\0");
    });
}

#[test]
fn bytes_cross_pages_in_both_formats() {
    bytes_cross_pages::<Toy, Checked>();
    bytes_cross_pages::<X86_64, Checked>();
    bytes_cross_pages::<X86_64, crate::Fast>();
}

#[test]
fn a_missing_flush_leaves_a_stale_translation() {
    let tiny = Tiny::<Toy>::new(None);
    tiny.map(P0, Protection::RW);
    tiny.run(0, |user| {
        user.store(P0, &[1]).unwrap();
        tiny.map(P0, Protection::RW);
        let read = || {
            let mut byte = [0];
            user.load(P0, &mut byte).unwrap();
            byte[0]
        };
        assert_eq!(read(), 1, "the old page");
        tiny.flush(P0);
        assert_eq!(read(), 0, "the new page");
    });
}

#[test]
fn a_flush_reaches_only_the_cpus_that_it_names() {
    let tiny = Tiny::<Toy>::new(None);
    tiny.map(P0, Protection::R);
    std::thread::scope(|s| {
        s.spawn(|| {
            tiny.run(3, |user| {
                user.load(P0, &mut [0]).unwrap();
                tiny.machine.flush(CpuSet::new(&[0b111]), tiny.root, FlushRange::All);
                assert!(tiny.machine.tlbs().caches(CpuId(3), tiny.root, P0));
                tiny.machine.flush(CpuSet::new(&[0b1000]), tiny.root, FlushRange::All);
                assert!(!tiny.machine.tlbs().caches(CpuId(3), tiny.root, P0));
            });
        });
    });
    assert_eq!(tiny.machine.tlbs().stats().interrupts, 3);
}

#[test]
fn leaving_an_address_space_forgets_it() {
    let tiny = Tiny::<Toy>::new(None);
    tiny.map(P0, Protection::R);
    tiny.run(1, |user| {
        user.load(P0, &mut [0]).unwrap();
        assert_eq!(tiny.active.load(Relaxed), 0b10);
        assert!(tiny.machine.tlbs().caches(CpuId(1), tiny.root, P0));
    });
    assert_eq!(tiny.active.load(Relaxed), 0);
    assert!(!tiny.machine.tlbs().caches(CpuId(1), tiny.root, P0));
}

#[test]
fn accessed_and_dirty_are_set_in_the_entry() {
    let tiny = Tiny::<X86_64>::new(None);
    let pfn = tiny.map(P0, Protection::RW);
    tiny.run(0, |user| {
        let young = Pte::Present(Present { young: true, ..page(pfn, Protection::RW) });
        user.load(P0, &mut [0]).unwrap();
        assert_eq!(tiny.get(P0), young);
        user.store(P0, &[1]).unwrap();
        assert_eq!(tiny.get(P0), Pte::Present(Present { dirty: true, ..present(young) }));
        // Cleared in the entry, still known to the TLB: as on hardware, the bits stay clear.
        tiny.set(P0, young);
        user.store(P0, &[2]).unwrap();
        assert_eq!(tiny.get(P0), young);
    });
}

#[test]
fn a_store_through_a_clean_translation_checks_the_entry_again() {
    let tiny = Tiny::<X86_64>::new(None);
    let pfn = tiny.map(P0, Protection::RW);
    tiny.run(0, |user| {
        user.load(P0, &mut [0]).unwrap();
        tiny.set(P0, Pte::Present(page(pfn, Protection::R)));
        assert_eq!(user.store(P0, &[1]), Err(Trap::Unmapped), "the walk finds it read-only");
    });
}

fn present(pte: Pte) -> Present {
    let Pte::Present(present) = pte else { panic!("{pte:?} is not present") };
    present
}

#[test]
fn permissions_are_checked() {
    let tiny = Tiny::<X86_64>::new(None);
    tiny.map(P0, Protection::R);
    tiny.map(P1, Protection::RX);
    tiny.set(Va(0x2000), Pte::Present(page(tiny.new_frame(), Protection::NONE)));
    tiny.run(0, |user| {
        assert!(user.load(P0, &mut [0]).is_ok());
        assert!(user.store(P0, &[0]).is_err());
        assert!(user.fetch(P0).is_err());
        assert!(user.fetch(P1).is_ok());
        assert!(user.load(Va(0x2000), &mut [0]).is_err());
        assert!(user.load(X86_64::USER_END, &mut [0]).is_err());
        assert!(user.load(Va(u64::MAX), &mut [0; 2]).is_err());
    });
}

#[test]
fn large_leaves_translate_to_their_parts() {
    let tiny = Tiny::<Toy>::new(None);
    let first = tiny.new_frame();
    (0..7).for_each(|_| {
        tiny.new_frame();
    });
    let leaf = Entry::Leaf(page(first, Protection::RW));
    tiny.machine.arena.words(tiny.root)[1].store(Toy::encode_entry(leaf, 1), Relaxed);
    tiny.run(0, |user| user.store(Va(0xb000), &[9]).unwrap());
    let mut byte = [0];
    tiny.machine.arena.read(first.offset(3), 0, &mut byte);
    assert_eq!(byte, [9]);
    let entry = tiny.machine.arena.words(tiny.root)[1].load(Relaxed);
    assert!(matches!(Toy::decode_entry(entry, 1), Entry::Leaf(p) if p.young && p.dirty));
}

/// A leaf over the second eight pages that a CPU has read through, and that becomes a table of these pages.
fn leaf_that_becomes_a_table(tiny: &Tiny<Toy>, between: impl Fn()) {
    let first = tiny.new_frame();
    (0..7).for_each(|_| {
        tiny.new_frame();
    });
    let table = tiny.new_frame();
    let word = &tiny.machine.arena.words(tiny.root)[1];
    let leaf = Entry::Leaf(Present { dirty: false, ..page(first, Protection::RW) });
    word.store(Toy::encode_entry(leaf, 1), Relaxed);
    tiny.run(0, |user| {
        user.load(Va(0x8000), &mut [0]).unwrap();
        for (nth, word) in tiny.machine.arena.words(table)[..8].iter().enumerate() {
            word.store(Toy::encode_pte(leaf.nth_page(nth as u64).unwrap()), Relaxed);
        }
        between();
        word.store(Toy::encode_entry(Entry::Table(table), 1), Relaxed);
        user.store(Va(0xb000), &[9]).unwrap();
    });
    let mut byte = [0];
    tiny.machine.arena.read(first.offset(3), 0, &mut byte);
    assert_eq!(byte, [9]);
}

#[test]
#[should_panic(expected = "has translations of 8 and of 1 pages")]
fn a_leaf_that_becomes_a_table_without_a_flush_is_found() {
    let tiny = Tiny::<Toy>::new(None);
    leaf_that_becomes_a_table(&tiny, || ());
}

#[test]
fn a_leaf_that_is_flushed_may_become_a_table() {
    let tiny = Tiny::<Toy>::new(None);
    let second = VaRange::page(Va(0xf000));
    leaf_that_becomes_a_table(&tiny, || {
        tiny.machine.flush(CpuSet::new(&[1]), tiny.root, FlushRange::Range(second));
    });
}

#[test]
#[should_panic(expected = "a translation of 0x0 in the address space of root 0x100 reaches frame")]
fn an_access_to_a_freed_page_is_found() {
    let tiny = Tiny::<Toy>::new(None);
    let pfn = tiny.map(P0, Protection::RW);
    tiny.run(0, |user| {
        user.store(P0, &[1]).unwrap();
        tiny.set(P0, Pte::None);
        // SAFETY: the frames are the test's, or it panics first.
        unsafe { tiny.machine.freed(pfn, Order::ZERO) };
        user.load(P0, &mut [0]).unwrap();
    });
}

#[test]
#[should_panic(expected = "a walk of 0x1000 in the address space of root 0x100 reaches frame")]
fn a_table_that_was_freed_without_a_flush_is_found() {
    let tiny = Tiny::<Toy>::new(None);
    tiny.map(P0, Protection::RW);
    tiny.run(0, |user| {
        user.load(P0, &mut [0]).unwrap();
        let entry = &tiny.machine.arena.words(tiny.root)[0];
        let Entry::Table(table) = Toy::decode_entry(entry.load(Relaxed), 1) else { unreachable!() };
        entry.store(0, Relaxed);
        // SAFETY: the frames are the test's, or it panics first.
        unsafe { tiny.machine.freed(table, Order::ZERO) };
        let _ = user.load(P1, &mut [0]);
    });
}

#[test]
fn threads_count_together() {
    let tiny = Tiny::<Toy>::new(None);
    tiny.map(P0, Protection::RW);
    std::thread::scope(|s| {
        for thread in 0..4 {
            let tiny = &tiny;
            s.spawn(move || {
                tiny.run(thread % 3, |user| {
                    for _ in 0..1_000 {
                        user.fetch_add_u64(Va(8), 1).unwrap();
                        let mut old = 0;
                        while let now = user.cas_u32(Va(4), old, old + 1).unwrap()
                            && now != old
                        {
                            old = now;
                        }
                    }
                });
            });
        }
    });
    let seen = RefCell::new([0; 16]);
    tiny.run(0, |user| user.load(P0, &mut seen.borrow_mut()[..]).unwrap());
    let seen = seen.into_inner();
    assert_eq!(u64::from_ne_bytes(seen[8..].try_into().unwrap()), 4_000);
    assert_eq!(u32::from_ne_bytes(seen[4..8].try_into().unwrap()), 4_000);
}

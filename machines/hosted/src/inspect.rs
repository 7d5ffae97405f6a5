//! Looking at page tables from outside: no translation is cached, no bit is set.

use crate::{Checks, Hosted};
use anonmem_hal::{Arch, Entry, PAGE_SIZE, Pfn, Present, Pte, Va};
use std::sync::atomic::Ordering::Relaxed;

impl<C: Checks, A: Arch> Hosted<C, A> {
    /// Calls `f(address, entry)` for every page that the tables under `root` map, ascending. A large leaf
    /// counts as its pages. The address space must be quiet.
    pub fn for_each_present(&self, root: Pfn, f: &mut dyn FnMut(Va, Present)) {
        self.visit_table(root, A::LEVELS - 1, Va(0), f);
    }

    /// The bytes of a frame.
    pub fn frame_bytes(&self, pfn: Pfn) -> [u8; PAGE_SIZE] {
        let mut bytes = [0; PAGE_SIZE];
        self.arena.read(pfn, 0, &mut bytes);
        bytes
    }

    fn visit_table(&self, table: Pfn, level: u32, base: Va, f: &mut dyn FnMut(Va, Present)) {
        for (i, word) in self.arena.words(table)[..A::ENTRIES].iter().enumerate() {
            let raw = word.load(Relaxed);
            let va = Va(base.0 + ((i as u64) << A::shift(level)));
            if raw == 0 {
                continue;
            }
            if level == 0 {
                if let Pte::Present(present) = A::decode_pte(raw) {
                    f(va, present);
                }
                continue;
            }
            match A::decode_entry(raw, level) {
                Entry::None | Entry::Migration { .. } => {}
                Entry::Table(next) => self.visit_table(next, level - 1, va, f),
                Entry::Leaf(leaf) => {
                    let pages = 1 << (A::shift(level) - A::shift(0));
                    (0..pages).for_each(|i| f(Va(va.0 + i * PAGE_SIZE as u64), part(leaf, i)));
                }
            }
        }
    }
}

fn part(leaf: Present, i: u64) -> Present {
    Present { pfn: leaf.pfn.offset(i), ..leaf }
}

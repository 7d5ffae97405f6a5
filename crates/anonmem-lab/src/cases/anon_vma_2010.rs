//! The race of 2010, written out: a page's anon_vma is freed and reused under the one who locks it.
//!
//! A model of its own, about as small as the mail: it carries the four historic attempts as variants, so
//! that they can be compared; a test shows that the third is right under the page lock. The case
//! `seed-001-page-lock-anon-vma` is the same race against the production code.

use super::{Case, Extent, Mutant, Run};
use crate::{Model, Program, Scenario, Sim};
use anonmem_sync::{
    Atomic, Ordering,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
    Plain, RawSpin,
    order::{FolioLock, Ptl, Slab},
    spin::RawSpinGuard,
};
use core::cell::RefCell;

/// The page of the case.
pub const CASE: Case = Case {
    name: "anon-vma-2010",
    title: "page_lock_anon_vma() locks an anon_vma that was freed and reused",
    happened: "Linux, April 2010, thread \"mm: fix page_lock_anon_vma()\". CPU0 reads the page's mapping; CPU1 \
               unmaps the page and frees its anon_vma; CPU2 reuses the slot; CPU3 faults the page into another \
               anon_vma; CPU0 locks what is now somebody else's. The slots are type-stable, so the lock is a \
               lock; but whose?",
    environment: "CPU0 holds no lock. CPU3 holds the page lock: if CPU0 held it too, CPU3 would be excluded, and then \
                  the order \"mapping, then mapped\" is right too. Everybody else acts once.",
    rule: "The anon_vma that is returned locked is alive and one that the page is, or was, mapped through.",
    mutants: &[
        Mutant::Variant {
            name: "no-recheck",
            what: "mapped is tested before the lock, nothing after (Linux 2.6.33)",
            shows_under: &[Model::Sc, Model::C11],
        },
        Mutant::Variant {
            name: "recheck-mapped",
            what: "mapped is tested again under the lock: the page may be mapped elsewhere by then",
            shows_under: &[Model::Sc, Model::C11],
        },
        Mutant::Variant {
            name: "recheck-mapping-then-mapped",
            what: "mapping is compared before mapped is tested: the page moves in between",
            shows_under: &[Model::Sc, Model::C11],
        },
        Mutant::Variant {
            name: "second-load-unordered",
            what: "mapped, then mapping, but nothing orders the two loads (no smp_rmb)",
            shows_under: &[Model::C11],
        },
    ],
    runs: &[Run::new(Model::Sc, Extent::Exhaust), Run::new(Model::C11, Extent::Bound(2))],
    program,
};

const ANON: u64 = 1;
/// Owner of a free slot.
const NOBODY: u64 = 0;
/// The VMA that maps the page at first.
const FIRST: u64 = 1;
/// A VMA that has nothing to do with the page.
const STRANGER: u64 = 2;
/// The VMA that maps the page afterwards.
const SECOND: u64 = 3;

struct AnonVma {
    /// A spin lock, as it was then; in production it sleeps, so it has the place of another one here.
    lock: RawSpin<Sim, Ptl>,
    /// Protected by `lock`.
    owner: Plain<u64, Sim>,
}

struct World {
    slots: [AnonVma; 2],
    /// Held by whoever maps the page anew.
    page_lock: RawSpin<Sim, FolioLock>,
    /// Protects `free`.
    slab: RawSpin<Sim, Slab>,
    free: RefCell<[Option<usize>; 2]>,
    mapping: Atomic<u64, Sim>,
    /// Mappings of the page.
    mapcount: Atomic<u32, Sim>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Protocol {
    NoRecheck,
    RecheckMapped,
    MappingThenMapped,
    /// The caller holds the page lock.
    MappingThenMappedLocked,
    MappedThenMapping(Ordering),
}

impl World {
    fn new() -> Self {
        let slot = |owner| AnonVma { lock: RawSpin::new(), owner: Plain::new(owner) };
        Self {
            slots: [slot(FIRST), slot(NOBODY)],
            page_lock: RawSpin::new(),
            slab: RawSpin::new(),
            free: RefCell::new([Some(1), None]),
            mapping: Atomic::new(ANON),
            mapcount: Atomic::new(1),
        }
    }

    fn anon_vma_alloc(&self, owner: u64) -> Option<usize> {
        let slab = self.slab.lock();
        let slot = {
            let mut free = self.free.borrow_mut();
            // The slot freed last is used first: the most hostile order.
            let last = free.iter().rposition(Option::is_some)?;
            free[last].take()?
        };
        drop(slab);
        let _lock = self.slots[slot].lock.lock();
        self.slots[slot].owner.set(owner);
        Some(slot)
    }

    fn anon_vma_free(&self, slot: usize) {
        let _slab = self.slab.lock();
        let mut free = self.free.borrow_mut();
        let place = free.iter().position(Option::is_none).expect("two slots");
        free[place] = Some(slot);
    }

    fn unmap_and_unlink(&self, slot: usize) {
        self.mapcount.fetch_sub(1, AcqRel);
        let lock = self.slots[slot].lock.lock();
        self.slots[slot].owner.set(NOBODY);
        drop(lock);
        self.anon_vma_free(slot);
    }

    fn fault_elsewhere(&self) {
        let _page = self.page_lock.lock();
        if self.mapcount.load(Acquire) != 0 {
            return;
        }
        if let Some(slot) = self.anon_vma_alloc(SECOND) {
            self.mapping.store((slot as u64) << 1 | ANON, Relaxed);
            // Release: who sees the page mapped sees through what.
            self.mapcount.fetch_add(1, Release);
        }
    }

    fn page_lock_anon_vma(&self, protocol: Protocol) -> Option<(usize, RawSpinGuard<'_, Sim, Ptl>)> {
        for _ in 0..3 {
            let mapping = self.mapping.load(Acquire);
            if mapping & ANON == 0 {
                return None;
            }
            let early = matches!(protocol, Protocol::NoRecheck | Protocol::RecheckMapped);
            if early && self.mapcount.load(Acquire) == 0 {
                return None;
            }
            let slot = (mapping >> 1) as usize;
            let guard = self.slots[slot].lock.lock();
            let same = || self.mapping.load(Relaxed) == mapping;
            let good = match protocol {
                Protocol::NoRecheck => true,
                Protocol::RecheckMapped => match self.mapcount.load(Acquire) {
                    0 => return None,
                    _ => true,
                },
                Protocol::MappingThenMapped | Protocol::MappingThenMappedLocked => {
                    let good = self.mapping.load(Acquire) == mapping;
                    if good && self.mapcount.load(Acquire) == 0 {
                        return None;
                    }
                    good
                }
                Protocol::MappedThenMapping(order) => match self.mapcount.load(order) {
                    0 => return None,
                    _ => same(),
                },
            };
            if good {
                return Some((slot, guard));
            }
        }
        None
    }
}

fn program(variant: Option<&str>) -> Box<dyn Program> {
    let protocol = match variant {
        None => Protocol::MappedThenMapping(Acquire),
        Some("no-recheck") => Protocol::NoRecheck,
        Some("recheck-mapped") => Protocol::RecheckMapped,
        Some("recheck-mapping-then-mapped") => Protocol::MappingThenMapped,
        Some(_) => Protocol::MappedThenMapping(Relaxed),
    };
    Box::new(scenario(protocol))
}

fn scenario(protocol: Protocol) -> Scenario<World> {
    Scenario::new("anon-vma-2010", 2, World::new)
        .cpu("walks the rmap", move |w| {
            let _page = (protocol == Protocol::MappingThenMappedLocked).then(|| w.page_lock.lock());
            if let Some((slot, _guard)) = w.page_lock_anon_vma(protocol) {
                let owner = w.slots[slot].owner.get();
                assert!(owner != NOBODY, "the anon_vma that was locked is free");
                assert!(owner != STRANGER, "the anon_vma that was locked is a stranger's");
            }
        })
        .cpu("unmaps, frees the anon_vma", |w| w.unmap_and_unlink(0))
        .cpu("reuses the slot", |w| _ = w.anon_vma_alloc(STRANGER))
        .cpu("faults the page elsewhere", World::fault_elsewhere)
        .names(|w, names| {
            for (i, slot) in w.slots.iter().enumerate() {
                names.add(&slot.lock, format!("anon_vma{i}.lock"));
                names.add(&slot.owner, format!("anon_vma{i}.owner"));
            }
            names.add(&w.slab, "slab");
            names.add_with(&w.mapping, "page.mapping", |v| format!("anon_vma{}", v >> 1));
            names.add(&w.mapcount, "page.mapcount");
            names.add(&w.page_lock, "page.lock");
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Exploration, explore, explore_bounded};

    #[test]
    fn mapping_then_mapped_is_right_under_the_page_lock() {
        let locked = scenario(Protocol::MappingThenMappedLocked);
        let sc = explore(&locked, &Exploration::default());
        sc.assert_passed();
        let c11 = explore_bounded(&locked, &Exploration::default().model(Model::C11), 2);
        c11.assert_passed();
        assert!(sc.exhausted && c11.exhausted, "{sc}\n{c11}");
        assert!(explore(&scenario(Protocol::MappingThenMapped), &Exploration::default()).found.is_some());
    }
}

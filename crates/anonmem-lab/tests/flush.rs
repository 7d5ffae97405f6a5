//! What a flush orders, and what it does not: walks and accesses through translations, but no code.

use anonmem_hal::{
    Arch, CpuSet, Entry, FlushRange, Mmu, Order, Pfn, PhysMem, Present, Probe, Protection, Pte, Va, arch::Toy,
};
use anonmem_lab::{
    Exploration, FailureKind, Inject, Model, Report, Scenario, Sim, explore, explore_bounded, sim::SimProbe,
};
use anonmem_sync::{
    Atomic,
    Ordering::{self, Acquire, Relaxed, Release},
    Plain,
};

const ROOT: Pfn = Pfn(16);
const TABLE: Pfn = Pfn(17);
const PAGE: Pfn = Pfn(18);

/// An address space of one page, which is mapped at address 0.
struct Space {
    sim: Sim,
    flag: Atomic<u32, Sim>,
    word: Plain<u64, Sim>,
}

impl Space {
    fn new() -> Self {
        let space = Self { sim: Sim::new(4), flag: Atomic::new(0), word: Plain::new(0) };
        let prot = Protection { read: true, write: true, ..Protection::default() };
        let page = Present {
            pfn: PAGE,
            prot,
            young: false,
            dirty: false,
            special: false,
            uffd_wp: false,
            soft_clean: false,
        };
        // SAFETY: words of frames of this machine, which nobody else has yet.
        unsafe { space.entry(ROOT, 1).write(Toy::encode_entry(Entry::Table(TABLE), 1)) };
        // SAFETY: as above.
        unsafe { space.entry(TABLE, 0).write(Toy::encode_pte(Pte::Present(page))) };
        space
    }

    fn entry(&self, table: Pfn, level: u32) -> *mut u64 {
        self.sim.direct_map(table).cast::<u64>().as_ptr().wrapping_add(Toy::index(Va(0), level))
    }

    /// The last-level entry, as the code of a kernel reads it.
    fn peek(&self) -> Pte {
        let entry = self.entry(TABLE, 0);
        // SAFETY: as in `new`; the lab runs on one thread.
        Toy::decode_pte(SimProbe::load(entry.addr(), Acquire, || unsafe { entry.read() }))
    }

    /// Clears the last-level entry, with an order that says nothing of what comes before.
    fn unmap(&self) {
        let entry = self.entry(TABLE, 0);
        // SAFETY: as above.
        SimProbe::rmw(entry.addr(), Relaxed, || unsafe { (entry.replace(0), Some(0)) });
    }

    fn flush(&self) {
        self.sim.flush(CpuSet::new(&[2]), ROOT, FlushRange::All);
    }
}

fn scenario(name: &str) -> Scenario<Space> {
    let scenario = Scenario::new(name, 1, Space::new);
    // SAFETY: the world is the machine and two words; the machine lists its memory.
    unsafe { scenario.restored_by_copy(|w, regions| w.sim.regions(regions)) }
}

fn kind_of(report: &Report) -> Option<FailureKind> {
    report.found.as_ref().map(|f| f.failure.kind)
}

fn under_both(scenario: &Scenario<Space>, expected: Option<FailureKind>) {
    for model in [Model::Sc, Model::C11] {
        let config = Exploration::default().model(model);
        for report in [explore(scenario, &config), explore_bounded(scenario, &config, 3)] {
            assert_eq!(kind_of(&report), expected, "{report}");
        }
    }
}

#[test]
fn a_flush_orders_nothing_that_the_code_of_its_sender_did_before() {
    let race = scenario("flush-then-relaxed")
        .cpu("writes, flushes", |w| {
            w.word.set(1);
            w.flush();
            w.flag.store(1, Relaxed);
        })
        .cpu("reads", |w| {
            if w.flag.load(Relaxed) == 1 {
                w.word.get();
            }
        });
    under_both(&race, Some(FailureKind::DataRace));
}

#[test]
fn a_flush_orders_nothing_that_the_code_of_its_receiver_did_before() {
    let race = scenario("relaxed-then-flush")
        .cpu("flushes, reads", |w| {
            if w.flag.load(Relaxed) == 1 {
                w.flush();
                w.word.get();
            }
        })
        .cpu("writes", |w| {
            w.word.set(1);
            w.flag.store(1, Relaxed);
        });
    under_both(&race, Some(FailureKind::DataRace));
}

#[test]
fn after_a_flush_walks_find_what_its_sender_left_and_the_page_can_be_freed() {
    let right = scenario("unmap-flush-free")
        .cpu("unmaps, flushes, frees", |w| {
            w.unmap();
            w.flush();
            // SAFETY: the scenario has the frames to itself, or the explorer says that it has not.
            unsafe { w.sim.freed(PAGE, Order::ZERO) };
        })
        .cpu("stores twice", |w| {
            let _ = w.sim.user_store(ROOT, Va(0), 7);
            let _ = w.sim.user_store(ROOT, Va(0), 8);
        });
    under_both(&right, None);
    let late = scenario("unmap-free-flush")
        .cpu("unmaps, frees, flushes", |w| {
            w.unmap();
            // SAFETY: the scenario has the frames to itself, or the explorer says that it has not.
            unsafe { w.sim.freed(PAGE, Order::ZERO) };
            w.flush();
        })
        .cpu("stores", |w| _ = w.sim.user_store(ROOT, Va(0), 7));
    for model in [Model::Sc, Model::C11] {
        assert!(explore(&late, &Exploration::default().model(model)).found.is_some());
    }
}

/// Who frees the page has not flushed himself: he knows of it by what the flusher published with `publish`.
fn freed_by_another(publish: Ordering) -> Scenario<Space> {
    scenario("freed-by-another")
        .cpu("unmaps, flushes", move |w| {
            w.unmap();
            w.flush();
            w.flag.store(1, publish);
        })
        .cpu("stores", |w| _ = w.sim.user_store(ROOT, Va(0), 7))
        .cpu("frees", |w| {
            if w.flag.load(Acquire) == 1 {
                // SAFETY: the scenario has the frames to itself, or the explorer says that it has not.
                unsafe { w.sim.freed(PAGE, Order::ZERO) };
            }
        })
}

#[test]
fn that_a_flush_has_returned_is_handed_on_like_anything_else() {
    under_both(&freed_by_another(Release), None);
    under_both(&freed_by_another(Relaxed), Some(FailureKind::DataRace));
}

#[test]
fn a_bit_that_a_walk_has_set_says_nothing_of_what_its_cpu_did_before() {
    let race = scenario("young-is-no-release")
        .cpu("looks at the entry", |w| {
            if matches!(w.peek(), Pte::Present(Present { young: true, .. })) {
                w.word.get();
            }
        })
        .cpu("writes, loads the page", |w| {
            w.word.set(1);
            let _ = w.sim.user_load(ROOT, Va(0));
        });
    under_both(&race, Some(FailureKind::DataRace));
}

#[test]
fn what_a_walk_has_read_is_no_news_to_the_code_of_its_cpu() {
    let race = scenario("walk-is-no-acquire")
        .cpu("writes, fills the entry", |w| {
            w.word.set(1);
            let entry = w.entry(TABLE, 0);
            // SAFETY: as in `Space::new`; the lab runs on one thread.
            SimProbe::rmw(entry.addr(), Release, || unsafe { (entry.replace(0), Some(0)) });
        })
        .cpu("loads the page, reads", |w| {
            if w.sim.user_load(ROOT, Va(0)).is_err() {
                w.word.get();
            }
        });
    under_both(&race, Some(FailureKind::DataRace));
    // A kernel that is entered by the fault reads the entry itself.
    let right = scenario("walk-then-acquire")
        .cpu("writes, clears the entry", |w| {
            w.word.set(1);
            let entry = w.entry(TABLE, 0);
            // SAFETY: as above.
            SimProbe::rmw(entry.addr(), Release, || unsafe { (entry.replace(0), Some(0)) });
        })
        .cpu("loads the page, looks, reads", |w| {
            if w.sim.user_load(ROOT, Va(0)).is_err() && matches!(w.peek(), Pte::None) {
                w.word.get();
            }
        });
    let config =
        Exploration { inject: Inject { at_most: 1, fault: true, ..Inject::NONE }, ..Exploration::default() };
    explore(&right, &config).assert_passed();
    explore(&right, &config.model(Model::C11)).assert_passed();
}

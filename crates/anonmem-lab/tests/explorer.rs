//! What the explorer finds, says and repeats.

use anonmem_hal::{Machine, Order, Pfn, PhysMem, Probe, Sched};
use anonmem_lab::{
    Exploration, FailureKind, Inject, Model, Program, Report, Scenario, Search, Sim, choose, explore,
    explore_bounded, replay, sim::SimProbe,
};
use anonmem_sync::{
    Atomic,
    Ordering::Relaxed,
    Plain, RawSpin, RwSem,
    order::{MmapLock, Ptl, Zone},
};

fn kind_of(report: &Report) -> Option<FailureKind> {
    report.found.as_ref().map(|f| f.failure.kind)
}

fn lost_update() -> Scenario<Atomic<u64, Sim>> {
    let increment = |n: &Atomic<u64, Sim>| n.store(n.load(Relaxed) + 1, Relaxed);
    Scenario::new("lost-update", 3, || Atomic::new(0))
        .cpu("increments", increment)
        .cpu("increments", increment)
        .cpu("looks", |n| _ = n.load(Relaxed))
        .check(|n| (n.peek() == 2).then_some(()).ok_or_else(|| format!("two increments made {}", n.peek())))
        .names(|n, names| names.add(n, "counter"))
}

#[test]
fn every_search_finds_a_lost_update_and_the_trace_is_short() {
    let searches = [
        Search::Dpor,
        Search::Plain,
        Search::Bounded { preemptions: 1 },
        Search::Random { seed: 1, executions: 1000 },
        Search::Pct { seed: 1, depth: 2, executions: 1000 },
    ];
    for search in searches {
        let report = explore(&lost_update(), &Exploration::default().search(search));
        let found = report.found.as_ref().unwrap_or_else(|| panic!("{report}"));
        assert_eq!(found.preemptions, Some(1), "{search:?}");
        assert_eq!(found.trace.lines.len(), 5, "{}", found.trace);
        assert!(found.trace.to_string().contains("counter"), "{}", found.trace);
    }
}

#[test]
fn no_preemption_is_not_enough_for_a_lost_update() {
    let report = explore(&lost_update(), &Exploration::default().search(Search::Bounded { preemptions: 0 }));
    assert!(report.exhausted && report.found.is_none(), "{report}");
    let report = explore_bounded(&lost_update(), &Exploration::default(), 3);
    assert!(report.search.contains("<=1") && report.found.is_some(), "{report}");
}

#[test]
fn a_replay_repeats_the_failure_and_refuses_a_foreign_id() {
    let program = lost_update();
    let id = explore(&program, &Exploration::default()).found.expect("a lost update").replay;
    let again = replay(&program, &Exploration::default(), &id).expect("our own id");
    assert_eq!(again.executions, 1);
    assert_eq!(kind_of(&again), Some(FailureKind::Check));
    assert_eq!(again.found.expect("it fails again").replay, id);

    let newer = Scenario::new("lost-update", 4, || ()).cpu("increments", |()| ());
    let refused = replay(&newer, &Exploration::default(), &id).expect_err("another version");
    assert!(refused.contains("the id is of lost-update.3~"), "{refused}");
    let broken = id.replace(":sc:", ":sc:7x3.");
    assert!(replay(&program, &Exploration::default(), &broken).expect_err("CPU 7").contains("7x3"));
}

#[test]
fn opposite_lock_orders_deadlock_only_if_nested() {
    type Locks = [RwSem<Sim, MmapLock, ()>; 2];
    let nested = |a: usize, b: usize| {
        move |l: &Locks| {
            let _first = l[a].write();
            // The second is only tried, so the lock order allows it; waiting for it is a spin loop.
            while l[b].try_read().is_none() {
                Sim::relax();
            }
        }
    };
    let both = || [RwSem::new(()), RwSem::new(())];
    let same = Scenario::new("same-order", 1, both).cpu("a, b", nested(0, 1)).cpu("a, b", nested(0, 1));
    let opposite = Scenario::new("opposite", 1, both).cpu("a, b", nested(0, 1)).cpu("b, a", nested(1, 0));
    let config = Exploration { max_steps: 200, ..Exploration::default() };
    explore(&same, &config).assert_passed();
    let report = explore(&opposite, &config);
    assert!(matches!(kind_of(&report), Some(FailureKind::Livelock | FailureKind::Deadlock)), "{report}");
}

#[test]
fn the_declared_lock_order_is_checked() {
    type Locks = (RawSpin<Sim, Ptl>, RawSpin<Sim, Zone>);
    let scenario = Scenario::new("order", 1, Locks::default).cpu("zone, then page table", |l| {
        let _zone = l.1.lock();
        let _ptl = l.0.lock();
    });
    let report = explore(&scenario, &Exploration::default());
    assert_eq!(kind_of(&report), Some(FailureKind::LockOrder), "{report}");
}

#[test]
fn a_plain_word_without_its_lock_is_a_data_race() {
    type World = (RawSpin<Sim, Ptl>, Plain<u64, Sim>);
    let world = || (RawSpin::new(), Plain::new(0));
    let locked = |w: &World| {
        let _guard = w.0.lock();
        w.1.update(|v| v + 1);
    };
    let good = Scenario::new("locked", 1, world).cpu("a", locked).cpu("b", locked);
    explore(&good, &Exploration::default()).assert_passed();
    let bad = Scenario::new("unlocked", 1, world).cpu("a", locked).cpu("b", |w| w.1.set(7));
    let report = explore(&bad, &Exploration::default());
    assert_eq!(kind_of(&report), Some(FailureKind::DataRace), "{report}");
}

#[test]
fn a_relaxed_flag_orders_nothing_even_under_sc() {
    type World = (Plain<u64, Sim>, Atomic<u32, Sim>);
    let scenario = Scenario::new("relaxed-flag", 1, || World::from((Plain::new(0), Atomic::new(0))))
        .cpu("writes", |w| {
            w.0.set(1);
            w.1.store(1, Relaxed);
        })
        .cpu("reads", |w| {
            if w.1.load(Relaxed) == 1 {
                w.0.get();
            }
        });
    assert_eq!(kind_of(&explore(&scenario, &Exploration::default())), Some(FailureKind::DataRace));
}

#[test]
fn a_spin_loop_that_nobody_ends_is_a_deadlock() {
    let scenario = Scenario::new("spins", 1, || Atomic::<u32, Sim>::new(0))
        .cpu("spins", |w| {
            while w.load(Relaxed) != 2 {
                Sim::relax();
            }
        })
        .cpu("stores something else", |w| w.store(1, Relaxed));
    assert_eq!(kind_of(&explore(&scenario, &Exploration::default())), Some(FailureKind::Deadlock));
}

#[test]
fn an_endless_loop_is_a_livelock() {
    let scenario = Scenario::new("loops", 1, || Atomic::<u32, Sim>::new(0)).cpu("loops", |w| {
        loop {
            w.store(1, Relaxed);
        }
    });
    let config = Exploration { max_steps: 100, ..Exploration::default() };
    assert_eq!(kind_of(&explore(&scenario, &config)), Some(FailureKind::Livelock));
}

/// Asserts something when dropped, as owners do.
struct MustBeEmpty<'a>(&'a Atomic<u32, Sim>);

impl Drop for MustBeEmpty<'_> {
    fn drop(&mut self) {
        assert!(Sim::unwinding() || self.0.load(Relaxed) == 0, "dropped while not empty");
    }
}

#[test]
fn a_panic_does_not_run_destructors_that_would_panic_too() {
    let scenario = Scenario::new("two-panics", 1, || Atomic::<u32, Sim>::new(0)).cpu("panics", |w| {
        w.store(1, Relaxed);
        let _owner = MustBeEmpty(w);
        panic!("the first one");
    });
    let report = explore(&scenario, &Exploration::default());
    assert_eq!(kind_of(&report), Some(FailureKind::Panic));
    assert!(report.found.expect("found").failure.message.contains("the first one"));
}

#[test]
fn all_choices_are_explored() {
    let scenario = Scenario::new("choices", 1, || Atomic::<u64, Sim>::new(0)).cpu("chooses", |w| {
        let (tens, ones) = (choose(3, "tens"), choose(4, "ones"));
        w.store((tens * 10 + ones) as u64, Relaxed);
        assert!(tens != 2 || ones != 3, "the last of twelve");
    });
    let report = explore(&scenario, &Exploration::default());
    assert_eq!(report.executions, 12, "{report}");
    let replay_id = report.found.expect("the last one fails").replay;
    assert!(replay_id.ends_with(":2.3"), "{replay_id}");
}

#[test]
fn a_try_lock_fails_for_no_reason_only_if_allowed() {
    let scenario = Scenario::new("try", 1, RawSpin::<Sim, Ptl>::new)
        .cpu("tries", |l| assert!(l.try_lock().is_some(), "nobody has the lock"));
    explore(&scenario, &Exploration::default()).assert_passed();
    let inject = Inject { at_most: 1, try_lock: true, ..Inject::default() };
    let report = explore(&scenario, &Exploration { inject, ..Exploration::default() });
    assert_eq!(kind_of(&report), Some(FailureKind::Panic), "{report}");
}

#[test]
fn a_panic_under_a_lock_that_its_destructors_need_ends_the_execution() {
    type World = (RawSpin<Sim, Zone>, Atomic<u32, Sim>);
    struct TakesTheLock<'a>(&'a World);
    impl Drop for TakesTheLock<'_> {
        fn drop(&mut self) {
            let _guard = self.0.0.lock();
        }
    }
    let scenario = Scenario::new("locked-drop", 1, World::default)
        .cpu("holds the lock", |w| {
            let _guard = w.0.lock();
            w.1.store(1, Relaxed);
            w.1.store(2, Relaxed);
        })
        .cpu("panics", |w| {
            let _owner = TakesTheLock(w);
            assert!(w.1.load(Relaxed) != 1, "in the middle");
        });
    let report = explore(&scenario, &Exploration::default());
    assert_eq!(kind_of(&report), Some(FailureKind::Panic), "{report}");
}

#[test]
fn a_scenario_that_does_not_repeat_itself_is_refused() {
    let runs = std::cell::Cell::new(0);
    let scenario = Scenario::new("moody", 1, || Atomic::<u32, Sim>::new(0))
        .cpu("now this, now that", move |w| {
            runs.set(runs.get() + 1);
            if runs.get() % 2 == 1 {
                w.store(1, Relaxed);
            }
            w.load(Relaxed);
            w.store(2, Relaxed);
        })
        .cpu("reads", |w| _ = (w.load(Relaxed), w.load(Relaxed)));
    // The second of two executions that share a beginning goes another way.
    let report =
        explore(&scenario, &Exploration { minimise: std::time::Duration::ZERO, ..Exploration::default() });
    assert_eq!(kind_of(&report), Some(FailureKind::Nondeterminism), "{report}");
}

#[test]
fn a_snapshot_world_is_put_back_before_every_execution() {
    let scenario = Scenario::new("snapshot", 1, || Atomic::<u64, Sim>::new(0))
        .cpu("adds", |n| _ = n.fetch_add(1, Relaxed))
        .cpu("adds", |n| _ = n.fetch_add(1, Relaxed))
        .check(|n| (n.peek() == 2).then_some(()).ok_or_else(|| n.peek().to_string()));
    // SAFETY: the world is one word and owns nothing.
    let scenario = unsafe { scenario.restored_by_copy(|_, _| ()) };
    let report = explore(&scenario, &Exploration::default());
    report.assert_passed();
    assert_eq!(report.complete, 2);
    assert_eq!(scenario.nr_cpus(), 2);
}

#[test]
fn c11_shows_what_sc_does_not() {
    type World = [Atomic<u32, Sim>; 2];
    let scenario = Scenario::new("store-buffering", 1, World::default)
        .cpu("x, then y", |w| {
            w[0].store(1, Relaxed);
            w[1].fetch_add(10 * (1 - w[0].load(Relaxed)), Relaxed);
        })
        .cpu("reads", |w| assert!(w[1].load(Relaxed) < 10));
    explore(&scenario, &Exploration::default()).assert_passed();
    explore(&scenario, &Exploration::default().model(Model::C11)).assert_passed();
}

#[test]
fn a_late_store_may_be_overtaken_by_any_number_of_stores() {
    // The broken program: whoever assumed that at most eight stores overtake one would miss it.
    for n in [2, 9, 10, 12] {
        let broken = Scenario::new("overtaken", 1, || [Atomic::<u64, Sim>::new(0), Atomic::new(0)])
            .cpu("stores many", move |w| {
                (1..=n).for_each(|value| w[0].store(value, Relaxed));
                w[1].store(1, Relaxed);
            })
            .cpu("stores one", |w| {
                if w[1].load(Relaxed) == 1 {
                    w[0].store(100, Relaxed);
                    w[1].store(2, Relaxed);
                }
            })
            .cpu("reads three", move |w| {
                let seen = [w[0].load(Relaxed), w[0].load(Relaxed), w[0].load(Relaxed)];
                // The one store came right after the first of the many.
                assert_ne!(seen, [1, 100, 2]);
            });
        let config = Exploration { budget: std::time::Duration::from_secs(20), ..Exploration::default() };
        explore(&broken, &config).assert_passed();
        let report = explore(&broken, &config.model(Model::C11));
        assert_eq!(kind_of(&report), Some(FailureKind::Panic), "{n} stores: {report}");
    }
}

#[test]
fn a_spin_loop_that_tries_a_lock_goes_on_when_the_lock_is_released() {
    type World = (RawSpin<Sim, Zone>, Atomic<u32, Sim>);
    let scenario = Scenario::new("tries", 1, World::default)
        .cpu("holds", |w| {
            let _guard = w.0.lock();
            w.1.store(1, Relaxed);
        })
        .cpu("tries", |w| {
            // The word does not change any more: only the lock does.
            while w.1.load(Relaxed) == 0 || w.0.try_lock().is_none() {
                Sim::relax();
            }
        });
    for model in [Model::Sc, Model::C11] {
        let report =
            explore(&scenario, &Exploration { max_steps: 200, ..Exploration::default() }.model(model));
        report.assert_passed();
        assert!(report.exhausted, "{report}");
    }
}

#[test]
fn a_reader_behind_a_waiting_writer_that_waits_for_the_first_reader_is_a_deadlock() {
    type World = (RwSem<Sim, MmapLock, ()>, Atomic<u32, Sim>);
    let world = || (RwSem::new(()), Atomic::new(0));
    // The first reader waits for something that the second one does after reading.
    let scenario = |writer: bool| {
        let scenario = Scenario::new("behind-a-writer", 1, world)
            .cpu("reads and waits", |w: &World| {
                let _read = w.0.read();
                anonmem_sync::spin_until::<Sim>(&|| w.1.load(anonmem_sync::Ordering::Acquire) == 1);
            })
            .cpu("reads and stores", |w| {
                drop(w.0.read());
                w.1.store(1, anonmem_sync::Ordering::Release);
            });
        if writer { scenario.cpu("writes", |w| drop(w.0.write())) } else { scenario }
    };
    for model in [Model::Sc, Model::C11] {
        let config = Exploration::default().model(model);
        explore(&scenario(false), &config).assert_passed();
        let report = explore(&scenario(true), &config);
        assert_eq!(kind_of(&report), Some(FailureKind::Deadlock), "{report}");
        let found = report.found.expect("a deadlock");
        assert!(found.failure.message.contains("behind a writer"), "{}", found.failure);
        let again = replay(&scenario(true), &config, &found.replay).expect("our own id");
        assert_eq!(kind_of(&again), Some(FailureKind::Deadlock), "{again}");
    }
}

#[test]
fn whoever_wakes_one_of_two_sleepers_may_wake_either() {
    type World = [Atomic<u32, Sim>; 3];
    let sleep = |me: usize| {
        move |w: &World| {
            w[0].fetch_add(1, Relaxed);
            Sim::park(w[0].addr(), &|| w[1].load(Relaxed) == 0);
            w[2].fetch_add(if w[1].load(Relaxed) == 0 { 1 << me } else { 0 }, Relaxed);
        }
    };
    let scenario = Scenario::new("either", 1, World::default)
        .cpu("sleeps first", sleep(0))
        .cpu("sleeps second", sleep(1))
        .cpu("wakes one", |w| {
            if w[0].load(Relaxed) == 2 {
                Sim::unpark(w[0].addr(), 1);
            }
            // Everybody else goes on now.
            w[1].store(1, Relaxed);
            Sim::unpark(w[0].addr(), usize::MAX);
        });
    let seen = std::rc::Rc::new(std::cell::RefCell::new(std::collections::BTreeSet::new()));
    let sink = seen.clone();
    let scenario = scenario.check(move |w| {
        sink.borrow_mut().insert(w[2].peek());
        Ok(())
    });
    explore(&scenario, &Exploration::default()).assert_passed();
    assert!(seen.borrow().contains(&1) && seen.borrow().contains(&2), "{seen:?}");
}

/// A page whose contents are published by `publish`, and read once that was seen with `look`.
fn page_contents(publish: anonmem_sync::Ordering, look: anonmem_sync::Ordering) -> Scenario<Page> {
    let scenario = Scenario::new("page-contents", 1, || Page { sim: Sim::new(4), ready: Atomic::new(0) })
        .cpu("fills", move |w| {
            // SAFETY: the scenario has the frames to itself, or the explorer says that it has not.
            unsafe { w.sim.zero(PAGE, Order::ZERO) };
            w.ready.store(1, publish);
        })
        .cpu("copies", move |w| {
            if w.ready.load(look) == 1 {
                // SAFETY: the scenario has the frames to itself, or the explorer says that it has not.
                unsafe { w.sim.copy(PAGE.offset(1), PAGE, Order::ZERO) };
            }
        });
    // SAFETY: the world is the machine and a word; the machine lists its memory.
    unsafe { scenario.restored_by_copy(|w, regions| w.sim.regions(regions)) }
}

struct Page {
    sim: Sim,
    ready: Atomic<u32, Sim>,
}

const PAGE: Pfn = Pfn(17);

#[test]
fn the_bytes_of_a_page_are_published_like_any_other_word() {
    use anonmem_sync::Ordering::{Acquire, Release};
    for model in [Model::Sc, Model::C11] {
        let config = Exploration::default().model(model);
        explore(&page_contents(Release, Acquire), &config).assert_passed();
        for (publish, look) in [(Relaxed, Acquire), (Release, Relaxed)] {
            let report = explore(&page_contents(publish, look), &config);
            assert_eq!(kind_of(&report), Some(FailureKind::DataRace), "{publish:?} {look:?}: {report}");
        }
    }
}

#[test]
fn a_frame_is_not_freed_under_somebody_who_reads_a_word_of_it() {
    // The word never changes, and freeing is no step: only the clock of the frame can tell.
    let scenario = |wait: anonmem_sync::Ordering| {
        let scenario =
            Scenario::new("freed-under-reader", 1, || Page { sim: Sim::new(4), ready: Atomic::new(0) })
                .cpu("reads", |w| {
                    let word = w.sim.direct_map(PAGE).cast::<u64>();
                    SimProbe::load(word.as_ptr().addr(), Relaxed, || 0);
                    w.ready.store(1, anonmem_sync::Ordering::Release);
                })
                .cpu("frees", move |w| {
                    anonmem_sync::spin_until::<Sim>(&|| w.ready.load(wait) == 1);
                    // SAFETY: the scenario has the frames to itself, or the explorer says that it has not.
                    unsafe { w.sim.freed(PAGE, Order::ZERO) };
                });
        // SAFETY: as above.
        unsafe { scenario.restored_by_copy(|w, regions| w.sim.regions(regions)) }
    };
    explore(&scenario(anonmem_sync::Ordering::Acquire), &Exploration::default()).assert_passed();
    let report = explore(&scenario(Relaxed), &Exploration::default());
    assert_eq!(kind_of(&report), Some(FailureKind::DataRace), "{report}");
}

#[test]
fn hardware_that_speculates_breaks_no_pair_of_calls() {
    let inject = Inject { at_most: 2, speculation: true, ..Inject::NONE };
    for name in ["fault-vs-munmap", "fault-vs-mprotect", "fault-vs-fork", "fault-vs-exit"] {
        let case = anonmem_lab::cases::find(name).expect("a case");
        let budget = std::time::Duration::from_secs(4);
        let report = explore_bounded(
            &*(case.program)(None),
            &Exploration { inject, budget, ..Exploration::default() },
            1,
        );
        println!("{report}");
        report.assert_passed();
    }
}

#[test]
fn a_cpu_may_remember_a_table_until_it_is_flushed() {
    use anonmem_hal::{Arch, CpuSet, Entry, FlushRange, Mmu, Present, Protection, Pte, Va, arch::Toy};
    use anonmem_sync::{Ordering, spin_until};
    const ROOT: Pfn = Pfn(16);
    const TABLE: Pfn = Pfn(17);
    struct Space {
        sim: Sim,
        turn: Atomic<u32, Sim>,
    }
    let word = |w: &Space, pfn: Pfn, va: u64, level: u32| {
        let entry = w.sim.direct_map(pfn).cast::<u64>();
        entry.as_ptr().wrapping_add(Toy::index(Va(va), level))
    };
    let scenario = |flush: bool| {
        let build = move || {
            let space = Space { sim: Sim::new(4), turn: Atomic::new(0) };
            let prot = Protection { read: true, write: true, ..Protection::default() };
            let page = Present {
                pfn: Pfn(18),
                prot,
                young: true,
                dirty: true,
                special: false,
                uffd_wp: false,
                soft_clean: false,
            };
            // SAFETY: words of frames of this machine, which nobody else has yet.
            unsafe { word(&space, ROOT, 0, 1).write(Toy::encode_entry(Entry::Table(TABLE), 1)) };
            // SAFETY: as above.
            unsafe { word(&space, TABLE, 0, 0).write(Toy::encode_pte(Pte::Present(page))) };
            space
        };
        let scenario = Scenario::new("remembered-table", 1, build)
            .cpu("unmaps", move |w| {
                spin_until::<Sim>(&|| w.turn.load(Ordering::Acquire) == 1);
                let pmd = word(w, ROOT, 0, 1);
                // SAFETY: as above; the lab runs on one thread.
                SimProbe::store(pmd.addr(), Ordering::Release, 0, || 0, || unsafe { pmd.write(0) });
                if flush {
                    w.sim.flush(CpuSet::new(&[2]), ROOT, FlushRange::All);
                }
                // SAFETY: the scenario has the frames to itself, or the explorer says that it has not.
                unsafe { w.sim.freed(TABLE, Order::ZERO) };
                w.turn.store(2, Ordering::Release);
            })
            .cpu("loads two pages", |w| {
                w.sim.user_load(ROOT, Va(0)).expect("it is mapped");
                w.turn.store(1, Ordering::Release);
                spin_until::<Sim>(&|| w.turn.load(Ordering::Acquire) == 2);
                w.sim.user_load(ROOT, Va(0x1000)).expect_err("it is not mapped");
            });
        // SAFETY: the world is the machine and a word; the machine lists its memory.
        unsafe { scenario.restored_by_copy(|w, regions| w.sim.regions(regions)) }
    };
    let config = Exploration {
        inject: Inject { at_most: 1, speculation: true, ..Inject::NONE },
        ..Exploration::default()
    };
    explore(&scenario(true), &config).assert_passed();
    explore(&scenario(false), &Exploration::default()).assert_passed();
    let report = explore(&scenario(false), &config);
    assert_eq!(kind_of(&report), Some(FailureKind::StaleTranslation), "{report}");
}

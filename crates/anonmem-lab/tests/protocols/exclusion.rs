//! Mutual exclusion: by words alone, by locks, by locks that are only tried.

use super::{
    Known::{Right, Wrong, WrongIfWeak},
    Protocol, World,
};
use anonmem_hal::Sched;
use anonmem_lab::Sim;
use anonmem_sync::{
    Ordering::{self, AcqRel, Acquire, Relaxed, Release, SeqCst},
    fence as fence_of, spin_until,
};

fn fence(order: Ordering) {
    fence_of::<Sim>(order);
}

/// What must not happen at the same time as itself.
fn critical(w: &World) {
    w.p[0].update(|v| v + 1);
}

/// Dekker's first half: who sees the other's flag gives up.
fn dekker(w: &World, me: usize, store: Ordering, between: Option<Ordering>, load: Ordering) {
    w.a[me].store(1, store);
    if let Some(order) = between {
        fence(order);
    }
    if w.a[1 - me].load(load) == 0 {
        critical(w);
    }
}

fn peterson(w: &World, me: usize, flag: Ordering, turn: Ordering, look: Ordering) {
    let other = 1 - me;
    w.a[me].store(1, flag);
    w.a[2].store(other as u64, turn);
    spin_until::<Sim>(&|| w.a[other].load(look) == 0 || w.a[2].load(look) != other as u64);
    critical(w);
    w.a[me].store(0, Release);
}

fn peterson_by_exchange(w: &World, me: usize) {
    let other = 1 - me;
    w.a[me].store(1, Relaxed);
    w.a[2].swap(other as u64, AcqRel);
    spin_until::<Sim>(&|| w.a[other].load(Acquire) == 0 || w.a[2].load(Relaxed) != other as u64);
    critical(w);
    w.a[me].store(0, Release);
}

fn test_and_set(w: &World, take: Ordering, give: Ordering) {
    while w.a[0].compare_exchange(0, 1, take).is_err() {
        Sim::relax();
    }
    critical(w);
    w.a[0].store(0, give);
}

fn ticket(w: &World, look: Ordering, give: Ordering) {
    let mine = w.a[0].fetch_add(1, Relaxed);
    spin_until::<Sim>(&|| w.a[1].load(look) == mine);
    critical(w);
    w.a[1].store(mine + 1, give);
}

fn ticket_torn(w: &World) {
    let mine = w.a[0].load(Relaxed);
    w.a[0].store(mine + 1, Relaxed);
    spin_until::<Sim>(&|| w.a[1].load(Acquire) == mine);
    critical(w);
    w.a[1].store(mine + 1, Release);
}

/// MCS: the tail is `a[0]` (a CPU plus one), the next of CPU n is `a[1 + n]`, whether it waits is `a[3 + n]`.
fn mcs(w: &World, me: usize, hand_over: Ordering) {
    w.a[1 + me].store(0, Relaxed);
    w.a[3 + me].store(1, Relaxed);
    let before = w.a[0].swap(me as u64 + 1, AcqRel) as usize;
    if before != 0 {
        w.a[before].store(me as u64 + 1, Release);
        spin_until::<Sim>(&|| w.a[3 + me].load(Acquire) == 0);
    }
    critical(w);
    if w.a[1 + me].load(Acquire) == 0 {
        if w.a[0].compare_exchange(me as u64 + 1, 0, AcqRel).is_ok() {
            return;
        }
        spin_until::<Sim>(&|| w.a[1 + me].load(Acquire) != 0);
    }
    let next = w.a[1 + me].load(Acquire) as usize - 1;
    w.a[3 + next].store(0, hand_over);
}

/// As [`mcs`], but who comes second says that it waits after it has linked itself: the hand-over may come
/// before.
fn mcs_waits_too_late(w: &World, me: usize) {
    w.a[1 + me].store(0, Relaxed);
    let before = w.a[0].swap(me as u64 + 1, AcqRel) as usize;
    if before != 0 {
        w.a[before].store(me as u64 + 1, Release);
        w.a[3 + me].store(1, Relaxed);
        spin_until::<Sim>(&|| w.a[3 + me].load(Acquire) == 0);
    }
    critical(w);
    if w.a[0].compare_exchange(me as u64 + 1, 0, AcqRel).is_err() {
        spin_until::<Sim>(&|| w.a[1 + me].load(Acquire) != 0);
        w.a[3 + w.a[1 + me].load(Acquire) as usize - 1].store(0, Release);
    }
}

/// Two CPUs that meet: `a[0]` counts those who have come.
fn barrier(w: &World, me: usize, come: Ordering, look: Ordering) {
    w.p[me].set(1);
    w.a[0].fetch_add(1, come);
    spin_until::<Sim>(&|| w.a[0].load(look) == 2);
    assert_eq!(w.p[1 - me].get(), 1);
}

pub(super) const ALL: &[Protocol] = &[
    Protocol::new(
        "dekker-seq-cst",
        Right,
        &[|w| dekker(w, 0, SeqCst, None, SeqCst), |w| dekker(w, 1, SeqCst, None, SeqCst)],
    ),
    Protocol::new(
        "dekker-fences",
        Right,
        &[|w| dekker(w, 0, Relaxed, Some(SeqCst), Relaxed), |w| dekker(w, 1, Relaxed, Some(SeqCst), Relaxed)],
    ),
    Protocol::new(
        "dekker-one-fence",
        WrongIfWeak,
        &[|w| dekker(w, 0, Relaxed, Some(SeqCst), Relaxed), |w| dekker(w, 1, Relaxed, None, Relaxed)],
    ),
    Protocol::new(
        "dekker-weak-fences",
        WrongIfWeak,
        &[|w| dekker(w, 0, Relaxed, Some(AcqRel), Relaxed), |w| dekker(w, 1, Relaxed, Some(AcqRel), Relaxed)],
    ),
    Protocol::new(
        "dekker-acquire-release",
        WrongIfWeak,
        &[|w| dekker(w, 0, Release, None, Acquire), |w| dekker(w, 1, Release, None, Acquire)],
    ),
    Protocol::new(
        "peterson-seq-cst",
        Right,
        &[|w| peterson(w, 0, SeqCst, SeqCst, SeqCst), |w| peterson(w, 1, SeqCst, SeqCst, SeqCst)],
    ),
    Protocol::new(
        "peterson-acquire-release",
        WrongIfWeak,
        &[|w| peterson(w, 0, Release, Release, Acquire), |w| peterson(w, 1, Release, Release, Acquire)],
    ),
    Protocol::new(
        "peterson-relaxed",
        Wrong,
        &[|w| peterson(w, 0, Relaxed, Relaxed, Relaxed), |w| peterson(w, 1, Relaxed, Relaxed, Relaxed)],
    ),
    Protocol::new(
        "peterson-by-exchange",
        Right,
        &[|w| peterson_by_exchange(w, 0), |w| peterson_by_exchange(w, 1)],
    ),
    Protocol::new(
        "test-and-set",
        Right,
        &[|w| test_and_set(w, Acquire, Release), |w| test_and_set(w, Acquire, Release)],
    ),
    Protocol::new(
        "test-and-set-taken-relaxed",
        Wrong,
        &[|w| test_and_set(w, Relaxed, Release), |w| test_and_set(w, Relaxed, Release)],
    ),
    Protocol::new(
        "test-and-set-given-relaxed",
        Wrong,
        &[|w| test_and_set(w, Acquire, Relaxed), |w| test_and_set(w, Acquire, Relaxed)],
    ),
    Protocol::new("ticket-lock", Right, &[|w| ticket(w, Acquire, Release), |w| ticket(w, Acquire, Release)]),
    Protocol::new(
        "ticket-lock-given-relaxed",
        Wrong,
        &[|w| ticket(w, Acquire, Relaxed), |w| ticket(w, Acquire, Relaxed)],
    ),
    Protocol::new("ticket-lock-torn", Wrong, &[ticket_torn, ticket_torn]),
    Protocol::new("mcs", Right, &[|w| mcs(w, 0, Release), |w| mcs(w, 1, Release)]),
    Protocol::new("mcs-handed-over-relaxed", Wrong, &[|w| mcs(w, 0, Relaxed), |w| mcs(w, 1, Relaxed)]),
    Protocol::new("mcs-waits-too-late", Wrong, &[|w| mcs_waits_too_late(w, 0), |w| mcs_waits_too_late(w, 1)]),
    Protocol::new(
        "barrier",
        Right,
        &[|w| barrier(w, 0, Release, Acquire), |w| barrier(w, 1, Release, Acquire)],
    ),
    Protocol::new(
        "barrier-relaxed",
        Wrong,
        &[|w| barrier(w, 0, Relaxed, Acquire), |w| barrier(w, 1, Relaxed, Acquire)],
    ),
    Protocol::new(
        "readers-and-a-writer",
        Right,
        &[
            |w| {
                let _read = w.rwsem.read();
                w.p[0].get();
            },
            |w| {
                let _read = w.rwsem.read();
                w.p[0].get();
            },
            |w| {
                let _write = w.rwsem.write();
                critical(w);
            },
        ],
    ),
    Protocol::new(
        "a-writer-that-reads-only-its-lock",
        Wrong,
        &[
            |w| {
                let _read = w.rwsem.read();
                critical(w);
            },
            |w| {
                let _read = w.rwsem.read();
                w.p[0].get();
            },
        ],
    ),
    Protocol::new(
        "a-reader-that-tries",
        Right,
        &[
            |w| {
                if let Some(_read) = w.rwsem.try_read() {
                    w.p[0].get();
                }
            },
            |w| {
                let _write = w.rwsem.write();
                critical(w);
            },
        ],
    ),
    Protocol::new(
        "a-reader-that-goes-on-without-the-lock",
        Wrong,
        &[
            |w| {
                let _read = w.rwsem.try_read();
                w.p[0].get();
            },
            |w| {
                let _write = w.rwsem.write();
                critical(w);
            },
        ],
    ),
    Protocol::new(
        "two-writers-that-spin-on-trying",
        Right,
        &[
            |w| {
                let _write = loop {
                    match w.rwsem.try_write() {
                        Some(guard) => break guard,
                        None => Sim::relax(),
                    }
                };
                critical(w);
            },
            |w| {
                let _write = w.rwsem.write();
                critical(w);
            },
        ],
    ),
    Protocol::new("upgrade-without-a-second-look", Wrong, &[|w| upgrade(w, false), |w| upgrade(w, false)])
        .ends(|w| w.p[1].peek() == 1),
    Protocol::new("upgrade-with-a-second-look", Right, &[|w| upgrade(w, true), |w| upgrade(w, true)])
        .ends(|w| w.p[1].peek() == 1),
    Protocol::new(
        "a-reader-that-waits-for-one-behind-a-writer",
        Wrong,
        &[
            |w| {
                let _read = w.rwsem.read();
                spin_until::<Sim>(&|| w.a[0].load(Acquire) == 1);
            },
            |w| {
                drop(w.rwsem.read());
                w.a[0].store(1, Release);
            },
            |w| drop(w.rwsem.write()),
        ],
    ),
];

/// Makes something once: looks under the lock for reading, makes it under the lock for writing.
fn upgrade(w: &World, looks_again: bool) {
    let made = {
        let _read = w.rwsem.read();
        w.p[0].get()
    };
    if made == 0 {
        let _write = w.rwsem.write();
        if !looks_again || w.p[0].get() == 0 {
            w.p[0].set(1);
            w.p[1].update(|v| v + 1);
        }
    }
}

//! When may it be freed: hazard pointers, and RCU in all its misuses.
//!
//! `a[0]` points to one of the objects `p[1]` and `p[2]`; freeing one writes it.

use super::{
    Known::{Right, Wrong, WrongIfWeak},
    Protocol, World,
};
use anonmem_lab::Sim;
use anonmem_sync::{
    Ordering::{self, Acquire, Relaxed, Release, SeqCst},
    fence, spin_until,
};

fn set_up(w: &World) {
    w.p[1].set(1);
    w.a[0].store(1, Release);
}

/// Follows the pointer; reads the object if there is one.
fn follow(w: &World) -> usize {
    let at = w.a[0].load(Acquire) as usize;
    if at != 0 {
        assert_eq!(w.p[at].get(), at as u64);
    }
    at
}

fn unlink(w: &World) {
    w.a[0].store(0, Relaxed);
}

fn free(w: &World, object: usize) {
    w.p[object].set(99);
}

/// A hazard pointer in `a[1]`.
fn hazard_read(w: &World, fenced: bool, looks_again: bool) {
    let at = w.a[0].load(Acquire);
    if at == 0 {
        return;
    }
    w.a[1].store(at, Relaxed);
    if fenced {
        fence::<Sim>(SeqCst);
    }
    if !looks_again || w.a[0].load(Acquire) == at {
        assert_eq!(w.p[at as usize].get(), at);
    }
    w.a[1].store(0, Release);
}

fn hazard_free(w: &World, scans: bool) {
    set_up(w);
    unlink(w);
    fence::<Sim>(SeqCst);
    if scans {
        spin_until::<Sim>(&|| w.a[1].load(Acquire) != 1);
    }
    free(w, 1);
}

/// What an updater of RCU does, in its order.
#[derive(Clone, Copy)]
enum Step {
    SetUp,
    Unlink,
    Wait,
    Free,
    Start,
    Poll,
}

fn update(w: &World, steps: &[Step]) {
    let mut period = None;
    for step in steps {
        match step {
            Step::SetUp => set_up(w),
            Step::Unlink => unlink(w),
            Step::Wait => w.rcu.synchronize(),
            Step::Free => free(w, 1),
            Step::Start => period = Some(w.rcu.start()),
            Step::Poll => {
                let period = period.expect("started");
                spin_until::<Sim>(&|| w.rcu.has_ended(period));
            }
        }
    }
}

const BY_THE_BOOK: &[Step] = &[Step::SetUp, Step::Unlink, Step::Wait, Step::Free];

fn read(w: &World) {
    let _section = w.rcu.read_lock();
    follow(w);
}

/// Replaces the object by another one.
fn replace(w: &World, publish: Ordering) {
    set_up(w);
    w.p[2].set(2);
    w.a[0].store(2, publish);
    w.rcu.synchronize();
    free(w, 1);
}

pub(super) const ALL: &[Protocol] = &[
    Protocol::new("hazard-pointer", Right, &[|w| hazard_free(w, true), |w| hazard_read(w, true, true)]),
    Protocol::new(
        "hazard-pointer-unfenced",
        WrongIfWeak,
        &[|w| hazard_free(w, true), |w| hazard_read(w, false, true)],
    ),
    Protocol::new(
        "hazard-pointer-no-second-look",
        Wrong,
        &[|w| hazard_free(w, true), |w| hazard_read(w, true, false)],
    ),
    Protocol::new(
        "hazard-pointer-not-scanned",
        Wrong,
        &[
            |w| hazard_free(w, false),
            |w| {
                hazard_read(w, true, true);
            },
        ],
    ),
    Protocol::new("rcu", Right, &[|w| update(w, BY_THE_BOOK), read]),
    Protocol::new("rcu-two-readers", Right, &[|w| update(w, BY_THE_BOOK), read, read]),
    Protocol::new(
        "rcu-two-sections",
        Right,
        &[
            |w| update(w, BY_THE_BOOK),
            |w| {
                read(w);
                read(w);
            },
        ],
    ),
    Protocol::new(
        "rcu-nested",
        Right,
        &[
            |w| update(w, BY_THE_BOOK),
            |w| {
                let _outer = w.rcu.read_lock();
                drop(w.rcu.read_lock());
                follow(w);
            },
        ],
    ),
    Protocol::new("rcu-replaced", Right, &[|w| replace(w, Release), read]),
    Protocol::new("rcu-replaced-relaxed", Wrong, &[|w| replace(w, Relaxed), read]),
    Protocol::new(
        "rcu-polled",
        Right,
        &[|w| update(w, &[Step::SetUp, Step::Unlink, Step::Start, Step::Poll, Step::Free]), read],
    ),
    Protocol::new(
        "rcu-polled-period-of-before",
        Wrong,
        &[|w| update(w, &[Step::SetUp, Step::Start, Step::Unlink, Step::Poll, Step::Free]), read],
    ),
    Protocol::new(
        "rcu-no-grace-period",
        Wrong,
        &[|w| update(w, &[Step::SetUp, Step::Unlink, Step::Free]), read],
    ),
    Protocol::new(
        "rcu-grace-period-before-unlinking",
        Wrong,
        &[|w| update(w, &[Step::SetUp, Step::Wait, Step::Unlink, Step::Free]), read],
    ),
    Protocol::new(
        "rcu-freed-before-the-grace-period",
        Wrong,
        &[|w| update(w, &[Step::SetUp, Step::Unlink, Step::Free, Step::Wait]), read],
    ),
    Protocol::new("rcu-no-section", Wrong, &[|w| update(w, BY_THE_BOOK), |w| _ = follow(w)]),
    Protocol::new(
        "rcu-used-after-the-section",
        Wrong,
        &[
            |w| update(w, BY_THE_BOOK),
            |w| {
                let section = w.rcu.read_lock();
                let at = w.a[0].load(Acquire) as usize;
                drop(section);
                if at != 0 {
                    w.p[at].get();
                }
            },
        ],
    ),
    Protocol::new(
        "rcu-carried-into-the-next-section",
        Wrong,
        &[
            |w| update(w, BY_THE_BOOK),
            |w| {
                let section = w.rcu.read_lock();
                let at = w.a[0].load(Acquire) as usize;
                drop(section);
                let _section = w.rcu.read_lock();
                if at != 0 {
                    w.p[at].get();
                }
            },
        ],
    ),
    Protocol::new(
        "rcu-followed-relaxed",
        Wrong,
        &[
            |w| update(w, BY_THE_BOOK),
            |w| {
                let _section = w.rcu.read_lock();
                let at = w.a[0].load(Relaxed) as usize;
                if at != 0 {
                    w.p[at].get();
                }
            },
        ],
    ),
    Protocol::new(
        "rcu-waits-inside-its-own-section",
        Wrong,
        &[|w| {
            let _section = w.rcu.read_lock();
            w.rcu.synchronize();
        }],
    ),
];

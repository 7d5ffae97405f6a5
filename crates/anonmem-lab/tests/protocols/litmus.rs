//! Message passing, and the shapes that tell memory models apart.

use super::{
    Known::{Right, Wrong, WrongIfWeak},
    Protocol, World,
};
use anonmem_lab::Sim;
use anonmem_sync::{
    Ordering::{self, AcqRel, Acquire, Relaxed, Release, SeqCst},
    fence as fence_of,
};

fn fence(order: Ordering) {
    fence_of::<Sim>(order);
}

fn send(w: &World, order: Ordering) {
    w.p[0].set(42);
    w.a[0].store(1, order);
}

fn receive(w: &World, order: Ordering) {
    if w.a[0].load(order) != 0 {
        assert_eq!(w.p[0].get(), 42);
    }
}

/// Loads `a[x]`, then `a[y]`, and notes in `a[to]` whether it saw the first only.
fn first_only(w: &World, (x, y, to): (usize, usize, usize), order: Ordering, between: Option<Ordering>) {
    let first = w.a[x].load(order);
    if let Some(order) = between {
        fence(order);
    }
    let second = w.a[y].load(order);
    w.a[to].store(u64::from(first == 1 && second == 0), Relaxed);
}

fn agree(w: &World) -> bool {
    w.a[4].peek() == 0 || w.a[5].peek() == 0
}

pub(super) const ALL: &[Protocol] = &[
    Protocol::new("message-passing", Right, &[|w| send(w, Release), |w| receive(w, Acquire)]),
    Protocol::new("message-sent-relaxed", Wrong, &[|w| send(w, Relaxed), |w| receive(w, Acquire)]),
    Protocol::new("message-received-relaxed", Wrong, &[|w| send(w, Release), |w| receive(w, Relaxed)]),
    Protocol::new(
        "message-fences",
        Right,
        &[
            |w| {
                w.p[0].set(42);
                fence(Release);
                w.a[0].store(1, Relaxed);
            },
            |w| {
                if w.a[0].load(Relaxed) != 0 {
                    fence(Acquire);
                    assert_eq!(w.p[0].get(), 42);
                }
            },
        ],
    ),
    Protocol::new(
        "message-fences-on-the-wrong-side",
        Wrong,
        &[
            |w| {
                fence(Release);
                w.p[0].set(42);
                w.a[0].store(1, Relaxed);
            },
            |w| {
                fence(Acquire);
                receive(w, Relaxed);
            },
        ],
    ),
    Protocol::new(
        "release-sequence-through-rmw",
        Right,
        &[
            |w| send(w, Release),
            |w| _ = w.a[0].fetch_add(1, Relaxed),
            |w| {
                if w.a[0].load(Acquire) == 2 {
                    assert_eq!(w.p[0].get(), 42);
                }
            },
        ],
    ),
    Protocol::new(
        "release-sequence-ended-by-a-store",
        Wrong,
        &[
            |w| {
                send(w, Release);
                w.a[0].store(2, Relaxed);
            },
            |w| receive(w, Acquire),
        ],
    ),
    Protocol::new(
        "release-sequence-from-a-failed-exchange",
        Wrong,
        &[
            |w| {
                w.p[0].set(42);
                _ = w.a[0].compare_exchange(7, 8, AcqRel);
                w.a[0].store(1, Relaxed);
            },
            |w| receive(w, Acquire),
        ],
    ),
    Protocol::new(
        "store-buffering-seq-cst",
        Right,
        &[
            |w| {
                w.a[0].store(1, SeqCst);
                w.a[4].store(u64::from(w.a[1].load(SeqCst) == 0), Relaxed);
            },
            |w| {
                w.a[1].store(1, SeqCst);
                w.a[5].store(u64::from(w.a[0].load(SeqCst) == 0), Relaxed);
            },
        ],
    )
    .ends(agree),
    Protocol::new(
        "store-buffering-acquire-release",
        WrongIfWeak,
        &[
            |w| {
                w.a[0].store(1, Release);
                w.a[4].store(u64::from(w.a[1].load(Acquire) == 0), Relaxed);
            },
            |w| {
                w.a[1].store(1, Release);
                w.a[5].store(u64::from(w.a[0].load(Acquire) == 0), Relaxed);
            },
        ],
    )
    .ends(agree),
    Protocol::new(
        "iriw-seq-cst",
        Right,
        &[
            |w| w.a[0].store(1, SeqCst),
            |w| w.a[1].store(1, SeqCst),
            |w| first_only(w, (0, 1, 4), SeqCst, None),
            |w| first_only(w, (1, 0, 5), SeqCst, None),
        ],
    )
    .ends(agree),
    Protocol::new(
        "iriw-acquire-release",
        WrongIfWeak,
        &[
            |w| w.a[0].store(1, Release),
            |w| w.a[1].store(1, Release),
            |w| first_only(w, (0, 1, 4), Acquire, None),
            |w| first_only(w, (1, 0, 5), Acquire, None),
        ],
    )
    .ends(agree),
    Protocol::new(
        "iriw-fences",
        Right,
        &[
            |w| w.a[0].store(1, Relaxed),
            |w| w.a[1].store(1, Relaxed),
            |w| first_only(w, (0, 1, 4), Relaxed, Some(SeqCst)),
            |w| first_only(w, (1, 0, 5), Relaxed, Some(SeqCst)),
        ],
    )
    .ends(agree),
    Protocol::new(
        "write-to-read-causality",
        Right,
        &[
            |w| w.a[0].store(1, Relaxed),
            |w| {
                if w.a[0].load(Acquire) == 1 {
                    w.a[1].store(1, Release);
                }
            },
            |w| {
                if w.a[1].load(Acquire) == 1 {
                    assert_eq!(w.a[0].load(Relaxed), 1);
                }
            },
        ],
    ),
    Protocol::new(
        "write-to-read-causality-relaxed",
        WrongIfWeak,
        &[
            |w| w.a[0].store(1, Relaxed),
            |w| {
                if w.a[0].load(Relaxed) == 1 {
                    w.a[1].store(1, Relaxed);
                }
            },
            |w| {
                if w.a[1].load(Acquire) == 1 {
                    assert_eq!(w.a[0].load(Relaxed), 1);
                }
            },
        ],
    ),
    Protocol::new(
        "chain-of-three",
        Right,
        &[
            |w| send(w, Release),
            |w| {
                if w.a[0].load(Acquire) == 1 {
                    w.a[1].store(1, Release);
                }
            },
            |w| {
                if w.a[1].load(Acquire) == 1 {
                    assert_eq!(w.p[0].get(), 42);
                }
            },
        ],
    ),
    Protocol::new(
        "chain-of-three-relaxed-in-the-middle",
        Wrong,
        &[
            |w| send(w, Release),
            |w| {
                if w.a[0].load(Relaxed) == 1 {
                    w.a[1].store(1, Release);
                }
            },
            |w| {
                if w.a[1].load(Acquire) == 1 {
                    assert_eq!(w.p[0].get(), 42);
                }
            },
        ],
    ),
    Protocol::new(
        "two-writes-each-seq-cst",
        Right,
        &[
            |w| {
                w.a[0].store(1, SeqCst);
                w.a[1].store(2, SeqCst);
            },
            |w| {
                w.a[1].store(1, SeqCst);
                w.a[0].store(2, SeqCst);
            },
        ],
    )
    .ends(|w| w.a[0].peek() != 1 || w.a[1].peek() != 1),
    Protocol::new(
        "two-writes-each-release",
        WrongIfWeak,
        &[
            |w| {
                w.a[0].store(1, Release);
                w.a[1].store(2, Release);
            },
            |w| {
                w.a[1].store(1, Release);
                w.a[0].store(2, Release);
            },
        ],
    )
    .ends(|w| w.a[0].peek() != 1 || w.a[1].peek() != 1),
    Protocol::new(
        "coherence-of-reads",
        Right,
        &[
            |w| w.a[0].store(1, Relaxed),
            |w| {
                let first = w.a[0].load(Relaxed);
                assert!(w.a[0].load(Relaxed) >= first);
            },
        ],
    ),
    Protocol::new(
        "nine-stores-and-a-late-one",
        WrongIfWeak,
        &[
            |w| {
                (1..=9).for_each(|value| w.a[0].store(value, Relaxed));
                w.a[1].store(1, Relaxed);
            },
            |w| {
                if w.a[1].load(Relaxed) == 1 {
                    w.a[0].store(100, Relaxed);
                    assert_ne!(w.a[0].load(Relaxed), 2, "its own store came right after the first of nine");
                }
            },
        ],
    ),
    Protocol::new(
        "a-mailbox-of-a-lock",
        Right,
        &[
            |w| {
                let _guard = w.spin.lock();
                w.p[0].set(1);
            },
            |w| {
                let _guard = w.spin.lock();
                w.p[0].update(|v| v + 1);
            },
        ],
    ),
    Protocol::new(
        "a-mailbox-beside-its-lock",
        Wrong,
        &[
            |w| {
                let _guard = w.spin.lock();
                w.p[0].set(1);
            },
            |w| {
                drop(w.spin.lock());
                w.p[0].get();
            },
        ],
    ),
];

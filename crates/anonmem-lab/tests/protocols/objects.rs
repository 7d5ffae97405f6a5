//! Sequence counts, rings, stacks, things made once, sleepers, counters.

use super::{
    Known::{Right, Wrong, WrongIfWeak},
    Protocol, World,
};
use anonmem_hal::Sched;
use anonmem_lab::Sim;
use anonmem_sync::{
    Ordering::{self, AcqRel, Acquire, Relaxed, Release, SeqCst},
    fence as fence_of,
};

fn fence(order: Ordering) {
    fence_of::<Sim>(order);
}

/// A sequence count in `a[0]`, two words that belong together in `a[1]` and `a[2]`.
fn seq_write(w: &World, fenced: bool) {
    w.a[0].store(1, Relaxed);
    if fenced {
        fence(Release);
    }
    w.a[1].store(7, Relaxed);
    w.a[2].store(7, Relaxed);
    w.a[0].store(2, Release);
}

fn seq_read(w: &World, fenced: bool, accepts: fn(u64, u64) -> bool) {
    let before = w.a[0].load(Acquire);
    let words = (w.a[1].load(Relaxed), w.a[2].load(Relaxed));
    if fenced {
        fence(Acquire);
    }
    if accepts(before, w.a[0].load(Relaxed)) {
        assert_eq!(words.0, words.1);
    }
}

const EVEN_AND_SAME: fn(u64, u64) -> bool = |before, after| before == after && before & 1 == 0;

/// A ring of two places: `a[0]` says how many were put, `a[1]` how many were taken.
fn ring_put(w: &World, n: u64, asks: bool, publish: Ordering) {
    for value in 1..=n {
        let put = w.a[0].load(Relaxed);
        if asks && put - w.a[1].load(Acquire) == 2 {
            return;
        }
        w.p[put as usize % 2].set(value);
        w.a[0].store(put + 1, publish);
    }
}

fn ring_take(w: &World, n: u64, publishes_early: bool) {
    for _ in 0..n {
        let taken = w.a[1].load(Relaxed);
        if w.a[0].load(Acquire) == taken {
            return;
        }
        if publishes_early {
            w.a[1].store(taken + 1, Release);
        }
        assert_eq!(w.p[taken as usize % 2].get(), taken + 1);
        if !publishes_early {
            w.a[1].store(taken + 1, Release);
        }
    }
}

/// Pushes node `n` (its next is `a[n]`, what it holds `p[n]`) to the stack at `a[0]`.
fn push(w: &World, n: u64, publish: Ordering) {
    w.p[n as usize].set(n);
    let mut head = w.a[0].load(Relaxed);
    loop {
        w.a[n as usize].store(head, Relaxed);
        match w.a[0].compare_exchange(head, n, publish) {
            Ok(_) => return,
            Err(found) => head = found,
        }
    }
}

/// Pops a node of the stack, whose head has a tag above bit 8 that `tag` adds to; 0: there is none.
fn pop(w: &World, tag: u64) -> u64 {
    loop {
        let head = w.a[0].load(Acquire);
        let node = head & 0xff;
        if node == 0 {
            return 0;
        }
        let next = w.a[node as usize].load(Relaxed) & 0xff;
        if w.a[0].compare_exchange(head, (head & !0xff) + tag + next, AcqRel).is_ok() {
            return node;
        }
    }
}

/// The other CPU of the ABA problem: pops both nodes and puts the first one back.
fn pop_two_and_put_one_back(w: &World, tag: u64) {
    let first = pop(w, tag);
    let second = pop(w, tag);
    w.a[5].store(second, Relaxed);
    if first != 0 {
        let head = w.a[0].load(Relaxed);
        w.a[first as usize].store(head & 0xff, Relaxed);
        _ = w.a[0].compare_exchange(head, (head & !0xff) + tag + first, AcqRel);
    }
}

/// A stack of the nodes 1 and 2 is there; then one CPU pops, and the other does what makes ABA.
fn aba(w: &World, who: usize, tag: u64) {
    if who == 0 {
        // Node 2 is at the bottom.
        w.a[1].store(2, Relaxed);
        w.a[0].store(1, Release);
        w.a[6].store(1, Release);
        pop(w, tag);
    } else if w.a[6].load(Acquire) == 1 {
        pop_two_and_put_one_back(w, tag);
    }
}

/// Node 2 is not on the stack when the other CPU owns it.
fn nothing_is_there_twice(w: &World) -> bool {
    w.a[5].peek() != 2 || w.a[0].peek() & 0xff != 2
}

/// Something that is made once: `a[0]` says that it is there.
fn once(w: &World, look: Ordering, publish: Ordering) {
    if w.a[0].load(look) == 0 {
        let _guard = w.spin.lock();
        if w.a[0].load(Relaxed) == 0 {
            w.p[0].set(9);
            w.a[0].store(1, publish);
        }
    }
    assert_eq!(w.p[0].get(), 9);
}

/// Drops one of two references; the last one writes what was referred to.
fn put(w: &World, give: Ordering, fenced: bool) {
    w.p[0].get();
    if w.a[0].fetch_add(1, give) == 1 {
        if fenced {
            fence(Acquire);
        }
        w.p[0].set(0);
    }
}

fn sleep(w: &World) {
    w.queue.wait_until(&|| w.a[0].load(Acquire) != 0);
    w.p[0].get();
}

/// Looks once, sleeps once.
fn sleep_by_hand(w: &World, looks_again: bool) {
    while w.a[0].load(Acquire) == 0 {
        Sim::park(w.a[1].addr(), &|| !looks_again || w.a[0].load(Acquire) == 0);
    }
}

pub(super) const ALL: &[Protocol] = &[
    Protocol::new("seqlock", Right, &[|w| seq_write(w, true), |w| seq_read(w, true, EVEN_AND_SAME)]),
    Protocol::new(
        "seqlock-write-unfenced",
        WrongIfWeak,
        &[|w| seq_write(w, false), |w| seq_read(w, true, EVEN_AND_SAME)],
    ),
    Protocol::new(
        "seqlock-read-unfenced",
        WrongIfWeak,
        &[|w| seq_write(w, true), |w| seq_read(w, false, EVEN_AND_SAME)],
    ),
    Protocol::new(
        "seqlock-no-second-look",
        Wrong,
        &[
            |w| seq_write(w, true),
            |w| {
                seq_read(w, true, |before, _| before & 1 == 0);
            },
        ],
    ),
    Protocol::new(
        "seqlock-odd-accepted",
        Wrong,
        &[
            |w| seq_write(w, true),
            |w| {
                seq_read(w, true, |before, after| before == after);
            },
        ],
    ),
    Protocol::new("ring", Right, &[|w| ring_put(w, 3, true, Release), |w| ring_take(w, 3, false)]),
    Protocol::new(
        "ring-put-relaxed",
        Wrong,
        &[|w| ring_put(w, 3, true, Relaxed), |w| ring_take(w, 3, false)],
    ),
    Protocol::new(
        "ring-never-full",
        Wrong,
        &[|w| ring_put(w, 3, false, Release), |w| ring_take(w, 3, false)],
    ),
    Protocol::new(
        "ring-place-given-back-early",
        Wrong,
        &[|w| ring_put(w, 3, true, Release), |w| ring_take(w, 3, true)],
    ),
    Protocol::new(
        "stack-push",
        Right,
        &[
            |w| push(w, 1, Release),
            |w| push(w, 2, Release),
            |w| {
                let top = w.a[0].load(Acquire) as usize;
                assert!(top == 0 || w.p[top].get() == top as u64);
            },
        ],
    ),
    Protocol::new(
        "stack-push-relaxed",
        Wrong,
        &[
            |w| push(w, 1, Relaxed),
            |w| push(w, 2, Relaxed),
            |w| {
                let top = w.a[0].load(Acquire) as usize;
                assert!(top == 0 || w.p[top].get() == top as u64);
            },
        ],
    ),
    Protocol::new("stack-aba", Wrong, &[|w| aba(w, 0, 0), |w| aba(w, 1, 0)]).ends(nothing_is_there_twice),
    Protocol::new("stack-tagged", Right, &[|w| aba(w, 0, 0x100), |w| aba(w, 1, 0x100)])
        .ends(nothing_is_there_twice),
    Protocol::new("once", Right, &[|w| once(w, Acquire, Release), |w| once(w, Acquire, Release)]),
    Protocol::new(
        "once-seen-relaxed",
        Wrong,
        &[|w| once(w, Relaxed, Release), |w| once(w, Relaxed, Release)],
    ),
    Protocol::new(
        "once-told-relaxed",
        Wrong,
        &[|w| once(w, Acquire, Relaxed), |w| once(w, Acquire, Relaxed)],
    ),
    Protocol::new("last-reference", Right, &[|w| put(w, Release, true), |w| put(w, Release, true)]),
    Protocol::new("last-reference-relaxed", Wrong, &[|w| put(w, Relaxed, true), |w| put(w, Relaxed, true)]),
    Protocol::new(
        "last-reference-unfenced",
        Wrong,
        &[|w| put(w, Release, false), |w| put(w, Release, false)],
    ),
    Protocol::new(
        "counter",
        Right,
        &[|w| _ = w.a[0].fetch_add(1, Relaxed), |w| _ = w.a[0].fetch_add(1, Relaxed)],
    )
    .ends(|w| w.a[0].peek() == 2),
    Protocol::new(
        "counter-torn",
        Wrong,
        &[
            |w| w.a[0].store(w.a[0].load(SeqCst) + 1, SeqCst),
            |w| w.a[0].store(w.a[0].load(SeqCst) + 1, SeqCst),
        ],
    )
    .ends(|w| w.a[0].peek() == 2),
    Protocol::new(
        "sleeper",
        Right,
        &[sleep, |w| {
            w.p[0].set(1);
            w.a[0].store(1, Release);
            w.queue.wake_all();
        }],
    ),
    Protocol::new(
        "sleeper-woken-too-early",
        Wrong,
        &[sleep, |w| {
            w.queue.wake_all();
            w.a[0].store(1, Release);
        }],
    ),
    Protocol::new(
        "sleeper-not-ordered",
        Wrong,
        &[sleep, |w| {
            w.p[0].set(1);
            w.a[0].store(1, Relaxed);
            w.queue.wake_all();
        }],
    ),
    Protocol::new(
        "sleeper-that-looks-in-the-queue",
        Right,
        &[
            |w| sleep_by_hand(w, true),
            |w| {
                w.a[0].store(1, Release);
                Sim::unpark(w.a[1].addr(), usize::MAX);
            },
        ],
    ),
    Protocol::new(
        "sleeper-that-looks-before-the-queue",
        Wrong,
        &[
            |w| sleep_by_hand(w, false),
            |w| {
                w.a[0].store(1, Release);
                Sim::unpark(w.a[1].addr(), usize::MAX);
            },
        ],
    ),
];

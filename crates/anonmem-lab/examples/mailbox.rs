//! The example of docs/lab.md.

use anonmem_lab::{Exploration, Model, Scenario, Sim, explore};
use anonmem_sync::{
    Atomic,
    Ordering::{Acquire, Relaxed, Release},
    Plain,
};

struct Mailbox {
    letter: Plain<u64, Sim>, // what a lock or a protocol protects
    full: Atomic<u32, Sim>,  // what several CPUs touch
}

fn mailbox(publish: anonmem_sync::Ordering) -> Scenario<Mailbox> {
    Scenario::new("mailbox", 1, || Mailbox { letter: Plain::new(0), full: Atomic::new(0) })
        .cpu("sends", move |m| {
            m.letter.set(42);
            m.full.store(1, publish);
        })
        .cpu("looks", |m| {
            if m.full.load(Acquire) == 1 {
                assert_eq!(m.letter.get(), 42);
            }
        })
        .names(|m, names| {
            names.add(&m.letter, "letter");
            names.add(&m.full, "full");
        })
}

fn main() {
    let config = Exploration::default().model(Model::C11);
    explore(&mailbox(Release), &config).assert_passed();
    let report = explore(&mailbox(Relaxed), &config);
    println!("{report}\n{}", report.found.as_ref().expect("the mutant is caught").trace);
}

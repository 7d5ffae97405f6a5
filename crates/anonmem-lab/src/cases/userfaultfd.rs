//! Faults that wait for a userfaultfd, and its write protection.

use super::{
    Case, Extent, Mutant, Run,
    kernel::{Kernel, boxed, scenario},
};
use crate::Model;
use anonmem::{LockMode, Prot, ProtectMode, RegisterMode, UffdFeatures, UffdMessage};

const RW: Prot = Prot::READ.union(Prot::WRITE);

fn watched(mode: RegisterMode, features: UffdFeatures) -> Kernel {
    let kernel = Kernel::new(64, LockMode::Vma);
    kernel.spawn(0, &[0, 1, 2]);
    kernel.map(0, 0, 2, RW);
    kernel.userfaultfd(features);
    kernel.watch(0, 2, mode);
    kernel
}

/// The page of the case.
pub const SLEEPS: Case = Case {
    name: "uffd-sleeps-for-ever",
    title: "a fault goes to sleep over a page that somebody has just filled",
    happened: "Linux, CVE-2026-64514: userfaultfd_must_wait decided over a swap entry that the fault must wait. In general: a fault queues itself, and sleeps; \
               whoever fills looks for sleepers. Unless the fault looks at the entry after it has queued itself, nobody wakes it.",
    environment: "CPU0 loads, under the VMA's lock; CPU1 fills the page without having read of any fault.",
    rule: "The load ends.",
    mutants: &[Mutant::Patch {
        name: "uffd-no-second-look",
        what: "the entry is not looked at after queueing",
    }],
    runs: &[Run::new(Model::Sc, Extent::Exhaust), Run::new(Model::C11, Extent::Bound(2))],
    program: |_| {
        boxed(
            scenario("uffd-sleeps-for-ever", 1, || watched(RegisterMode::MISSING, UffdFeatures::empty()))
                .cpu("loads", |k| assert_eq!(k.load(0, 0), Ok(0)))
                .cpu("fills", |k| assert_eq!(k.zeropage(0), Ok(()))),
        )
    },
};

/// The page of the case.
pub const CLOSES: Case = Case {
    name: "uffd-close-vs-fault",
    title: "a fault asks a userfaultfd that is being closed",
    happened: "What this memory manager must keep: whoever waits for a userfaultfd goes on when it ends, and a fault that comes too late does not begin to wait.",
    environment: "CPU0 loads, under the VMA's lock; CPU1 closes the userfaultfd, with the mmap lock for writing.",
    rule: "The load ends.",
    mutants: &[Mutant::Patch {
        name: "uffd-close-silent",
        what: "those who wait are let go before the watch has ended",
    }],
    runs: &[Run::new(Model::Sc, Extent::Exhaust), Run::new(Model::C11, Extent::Bound(2))],
    program: |_| {
        boxed(
            scenario("uffd-close-vs-fault", 1, || watched(RegisterMode::MISSING, UffdFeatures::empty()))
                .cpu("loads", |k| assert_eq!(k.load(0, 0), Ok(0)))
                .cpu("closes", Kernel::close_uffd),
        )
    },
};

/// The page of the case.
pub const LATE: Case = Case {
    name: "uffd-wp-vs-late-flush",
    title: "a page is taken for protected while a CPU still writes to it",
    happened: "Linux, 2020: protecting took the mmap lock for reading and flushed at the end; another protector, or a fault, found the entry protected already and \
               relied on it, while a third CPU wrote through its old translation.",
    environment: "CPU0 stores twice through a translation that it has. CPU1 and CPU2 protect the page, each under the mmap lock for reading; CPU2 then reads it \
                  twice, as a snapshot would.",
    rule: "What is protected does not change.",
    mutants: &[Mutant::Patch {
        name: "uffd-wp-late-flush",
        what: "the TLBs are flushed after the table's lock was let go",
    }],
    runs: &[Run::new(Model::Sc, Extent::Bound(3)), Run::new(Model::C11, Extent::Bound(2))],
    program: |_| {
        let world = || {
            // Nobody answers, so writes that find the protection end.
            let kernel = watched(RegisterMode::WP, UffdFeatures::SIGBUS);
            kernel.store(0, 0, 1).expect("frames");
            kernel
        };
        boxed(
            scenario("uffd-wp-vs-late-flush", 1, world)
                .cpu("stores", |k| {
                    let _ = k.store(0, 0, 2);
                })
                .cpu("protects", |k| assert_eq!(k.write_protect(0, ProtectMode::WP), Ok(())))
                .cpu("protects, and reads", |k| {
                    assert_eq!(k.write_protect(0, ProtectMode::WP), Ok(()));
                    let first = k.load(0, 0);
                    assert_eq!(k.load(0, 0), first, "what is protected has changed");
                }),
        )
    },
};

/// The page of the case.
pub const OUTLIVES: Case = Case {
    name: "uffd-wp-outlives-vma",
    title: "a page stays protected when nobody watches it any more",
    happened: "Linux, CVE-2024-36881 (close) and CVE-2025-21696 (mremap): the mark stayed in entries of mappings that were no longer registered.",
    environment: "CPU0 closes the userfaultfd, with the mmap lock for writing; CPU1 stores, and waits if the page is protected.",
    rule: "An entry is protected only where a mapping is watched for writes: `validate` asks it of every entry. The store ends.",
    mutants: &[Mutant::Patch { name: "uffd-close-keeps-protection", what: "the entries are not cleared" }],
    runs: &[Run::new(Model::Sc, Extent::Bound(3))],
    program: |_| {
        let world = || {
            let kernel = watched(RegisterMode::WP, UffdFeatures::empty());
            kernel.store(0, 0, 1).expect("frames");
            kernel.store(0, 1, 1).expect("frames");
            (0..2).for_each(|n| kernel.write_protect(n, ProtectMode::WP).expect("a mapping that is watched"));
            kernel
        };
        boxed(
            scenario("uffd-wp-outlives-vma", 1, world)
                .cpu("closes", Kernel::close_uffd)
                .cpu("stores", |k| assert_eq!(k.store(0, 0, 2), Ok(()))),
        )
    },
};

/// The page of the case.
pub const REMOVE: Case = Case {
    name: "uffd-fill-vs-remove",
    title: "a page is filled between the telling of its removal and the removal",
    happened: "Linux: MADV_DONTNEED tells a userfaultfd, waits until it is read, stops refusing fills, and then drops the pages: what the reader fills at once is \
               dropped, and it does not know (firecracker#4990 and the like).",
    environment: "CPU0 drops a page that is watched; CPU1 reads of it, and fills the page as soon as that is not refused.",
    rule: "What is filled after the event was read stays.",
    mutants: &[Mutant::Patch {
        name: "uffd-remove-ends-early",
        what: "fills are refused only until the event is read",
    }],
    runs: &[Run::new(Model::Sc, Extent::Bound(2)), Run::new(Model::C11, Extent::Bound(1))],
    program: |_| {
        let world = || {
            // Page 0 is empty, so that nothing but the change keeps it from being filled.
            let kernel = watched(RegisterMode::MISSING, UffdFeatures::EVENT_REMOVE);
            kernel.zeropage(1).expect("nothing is there");
            kernel
        };
        boxed(
            scenario("uffd-fill-vs-remove", 1, world)
                .cpu("drops", |k| k.madvise(0, 0, anonmem::Advice::DontNeed))
                .cpu("reads, fills", |k| {
                    assert!(k.uffd().wait_for_message());
                    assert!(matches!(k.uffd().read(), Some(UffdMessage::Remove(_))));
                    k.notes[0].set(u64::from(k.zeropage(0) == Ok(())));
                })
                .check(|k| match (k.notes[0].get(), k.frame_of(0, 0).is_some()) {
                    (1, true) | (0, false) => k.check(),
                    (filled, there) => Err(format!("filled: {filled}, there: {there}")),
                }),
        )
    },
};

//! mremap, while others walk the rmap, or use a translation that it makes stale.

use super::{
    Case, Extent, Mutant, Run,
    kernel::{Kernel, P, boxed, page, scenario},
};
use crate::{Model, Program, Sim};
use anonmem::{Advice, FaultOutcome, LockMode, Prot, RemapFlags};

const RW: Prot = Prot::READ.union(Prot::WRITE);

const LATE_FLUSH: &str = "Linux, CVE-2018-18281: mremap moved entries, let go of their lock, and flushed the old addresses later. In \
                          between another thread freed the page through its new address, while a third still wrote to it through \
                          its translation of the old one.";
const THREADS: &str = "CPU0 moves the mapping, with the mmap lock for writing. CPU1 has a translation of the old address, and drops the \
                       page at its new one, with the mmap lock for reading.";
const FLUSHED: &str =
    "A page is freed after the last translation to it is gone, at whatever address that is.";

/// The page of the case.
pub const MISSED: Case = Case {
    name: "rmap-missed-by-mremap",
    title: "an rmap walk misses a page that moves",
    happened: "Linux, CVE-2022-41222: mremap moved a whole page table without the rmap locks. A walk visited the destination before \
               the pages came and the source after they had left; so it found no mapping, and the page was freed.",
    environment: "CPU0 walks the mappings of the page, with a reference to it but without its lock. CPU1 moves the mapping, first a whole \
                  table, then entries, with the mmap lock for writing.",
    rule: "A walk meets each mapping at least once across a move.",
    mutants: &[Mutant::Patch {
        name: "mremap-moves-unlocked",
        what: "the pages move before the anon_vma is locked",
    }],
    runs: &[Run::new(Model::Sc, Extent::Bound(2)), Run::new(Model::C11, Extent::Bound(2))],
    program: |_| {
        let world = || {
            let kernel = mapped(8, &[0, 1]);
            kernel.hold(0, 0);
            kernel
        };
        boxed(
            scenario("rmap-missed-by-mremap", 1, world)
                .cpu("walks the rmap", |k| assert_eq!(k.walk_rmap(), 1, "mappings that the walk met"))
                .cpu("mremap", |k| {
                    remap(k, 0, 8, 8);
                    remap(k, 8, 1, 17);
                }),
        )
    },
};

/// The page of the case.
pub const LATE: Case = Case {
    name: "tlb-mremap-late-flush",
    title: "a page is freed through its new address while its old one is still translated",
    happened: LATE_FLUSH,
    environment: THREADS,
    rule: FLUSHED,
    mutants: &[Mutant::Patch {
        name: "mremap-late-flush",
        what: "mremap flushes after it has let go of the mmap lock",
    }],
    runs: &[Run::new(Model::Sc, Extent::Bound(2)), Run::new(Model::C11, Extent::Bound(2))],
    program: |_| dropped("tlb-mremap-late-flush", 1, 9),
};

/// The page of the case.
pub const LATE_TABLE: Case = Case {
    name: "tlb-mremap-late-flush-table",
    title: "the same where a whole page table moves",
    happened: LATE_FLUSH,
    environment: THREADS,
    rule: FLUSHED,
    mutants: &[Mutant::Patch {
        name: "mremap-table-no-flush",
        what: "a table that has moved is not flushed",
    }],
    runs: &[Run::new(Model::Sc, Extent::Bound(2)), Run::new(Model::C11, Extent::Bound(2))],
    program: |_| dropped("tlb-mremap-late-flush-table", 8, 8),
};

/// CPU0 moves `n` pages to page `to`, CPU1 drops the first of them there.
fn dropped(name: &str, n: u64, to: u64) -> Box<dyn Program> {
    let world = move || {
        // The table is still needed if only one page has gone: freeing it would flush.
        let kernel = mapped(n.max(2), &[0, 1]);
        Sim::on_cpu(1, || kernel.store_here(0, 0, 0, 7)).expect("frames");
        kernel
    };
    boxed(
        scenario(name, 1, world)
            .cpu("mremap", move |k| remap(k, 0, n, to))
            .cpu("drops it", move |k| {
                // Nothing is there yet, or the page.
                let dropped = k.mm(0).madvise(page(to), P, Advice::DontNeed).is_ok();
                k.notes[0].set(dropped.into());
            })
            .check(move |k| match (k.load(0, 0), k.load(0, to), k.notes[0].get()) {
                (Err(FaultOutcome::SegvMaperr), Ok(7), 0) | (Err(FaultOutcome::SegvMaperr), Ok(0), 1) => {
                    k.check()
                }
                found => Err(format!("found {found:?} (at the old address, at the new one, dropped)")),
            }),
    )
}

/// Moves `n` pages, where each is aligned to a table if both are.
fn remap(k: &Kernel, from: u64, n: u64, to: u64) {
    let flags = RemapFlags::MAYMOVE | RemapFlags::FIXED;
    k.mm(0).mremap(page(from), n * P, n * P, flags, page(to)).expect("room");
}

/// An address space with `n` pages, the first and the last of which are there.
fn mapped(n: u64, cpus: &[u32]) -> Kernel {
    let kernel = Kernel::new(48, LockMode::Mmap);
    kernel.spawn(0, cpus);
    kernel.map(0, 0, n, RW);
    kernel.store(0, 0, 7).expect("frames");
    kernel.store(0, n - 1, 7).expect("frames");
    kernel
}

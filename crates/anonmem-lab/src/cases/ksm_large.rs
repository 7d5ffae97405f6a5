//! Large folios that are merged whole with equal ones, met by everybody else.

use super::{
    Case, Extent, Mutant, Run,
    kernel::{Kernel, boxed, page, pages, scenario},
};
use crate::{Model, Program, Scenario};
use anonmem::{Advice, FolioMode, FolioPolicy, LockMode, Prot};
use anonmem_hal::Order;

const RW: Prot = Prot::READ.union(Prot::WRITE);
const BOUND: &[Run] = &[Run::new(Model::Sc, Extent::Bound(2)), Run::new(Model::C11, Extent::Bound(1))];

/// A program of both CPUs has two equal folios of `n` pages, which may be merged. Page 1 of each says 7. The
/// scanner has seen both once. The frame of the second one is noted.
fn equal_folios(n: u64, fill: impl Fn(&Kernel, u64)) -> Kernel {
    let kernel = Kernel::new(128, LockMode::Mmap);
    kernel.vm.set_folio_policy(FolioPolicy::default().with(Order::new(2), FolioMode::Always));
    kernel.spawn(0, &[0, 1]);
    kernel.map(0, 0, 2 * n, RW);
    kernel.mm(0).madvise(page(0), pages(0, 2 * n).len(), Advice::Mergeable).expect("frames");
    for first in [0, n] {
        fill(&kernel, first);
        kernel.store(0, first + 1, 7).expect("frames");
    }
    [0, n].into_iter().for_each(|first| kernel.look_for_equal(0, first));
    kernel.note_frame(0, n);
    kernel
}

/// Folios of four pages behind entries.
fn runs() -> Kernel {
    equal_folios(4, |_, _| {})
}

/// Leaves of eight pages.
fn leaves() -> Kernel {
    equal_folios(8, |k, first| assert!(k.mm(0).fault_leaf(page(first)), "a folio of eight pages"))
}

/// CPU 0 merges the noted folio, if it can.
fn merging(name: &str, world: impl Fn() -> Kernel + 'static) -> Scenario<Kernel> {
    scenario(name, 1, world).cpu("merges equal folios", |k| k.look_at_noted())
}

/// Pages of the program say what they are to, each given as (page, value).
fn says(k: &Kernel, expected: &[(u64, u64)]) -> Result<(), String> {
    for &(n, value) in expected {
        match k.load(0, n) {
            Ok(found) if found == value => {}
            other => return Err(format!("page {n} says {other:?}, not {value}")),
        }
    }
    Ok(())
}

/// The folios are merged, and a thread of the program stores to the last page of the second.
fn stores(name: &str, world: impl Fn() -> Kernel + 'static, n: u64) -> Box<dyn Program> {
    boxed(
        merging(name, world)
            .cpu("stores to the last page", move |k| {
                assert_eq!(k.store(0, 2 * n - 1, 8), Ok(()));
            })
            .check(move |k| {
                says(k, &[(2 * n - 1, 8), (n - 1, 0), (1, 7), (n + 1, 7)])?;
                k.check()
            }),
    )
}

const COMPARES_FIRST: Mutant = Mutant::Patch {
    name: "ksm-large-compares-first-page",
    what: "folios whose first pages are equal are taken for equal",
};
const KEEPS_WRITABLE: Mutant = Mutant::Patch {
    name: "ksm-large-stays-writable",
    what: "the entries of the folio that is kept come back as they were",
};
const HAPPENED: &str = "Linux splits a folio to merge any one of its pages (mm/ksm.c try_to_merge_one_page), and so compares and write-protects page by \
                        page. A folio that is merged whole has to be found equal in all of its pages after the flush, and not in those alone that were \
                        looked at last.";

/// The page of the case.
pub const STORE: Case = Case {
    name: "ksm-large-vs-store",
    title: "a page of a large folio is written while the folio is merged with an equal one",
    happened: HAPPENED,
    environment: "A program has two equal folios of four pages. CPU0 merges them. CPU1, a thread of the program, stores to the last page of the second.",
    rule: "The store is in that page and in no other.",
    mutants: &[COMPARES_FIRST, KEEPS_WRITABLE],
    runs: BOUND,
    program: |_| stores("ksm-large-vs-store", runs, 4),
};

/// The page of the case.
pub const LEAF: Case = Case {
    name: "ksm-leaf-vs-store",
    title: "a page is written while the folio of its leaf is merged with an equal one",
    happened: HAPPENED,
    environment: "A program has two equal folios of eight pages, each behind a leaf. CPU0 merges them. CPU1, a thread of the program, stores to the last \
                  page of the second.",
    rule: "The store is in that page and in no other.",
    mutants: &[COMPARES_FIRST],
    runs: BOUND,
    program: |_| stores("ksm-leaf-vs-store", leaves, 8),
};

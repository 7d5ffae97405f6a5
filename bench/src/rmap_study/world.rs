//! The work: families of programs, and walks to their pages.

use super::steps::{Counted, steps_of};
use anonmem::{
    Config, FaultAccess, FaultOutcome, Machine, MapFlags, Mm, MmapRequest, Prot, RemapFlags, Vm,
    lab::{RmapBytes, count_mappings},
};
use anonmem_hal::{CpuId, Va, VaRange};
use anonmem_hosted::{CpuGuard, Hosted};

const PAGE: u64 = crate::PAGE as u64;
/// Room for a thousand programs.
const FRAMES: u64 = 1 << 16;
/// Where programs map.
const FIRST: Va = Va(1 << 30);
/// Where what moves goes.
const AWAY: Va = Va(2 << 30);

type M<R> = Hosted<Counted<R>>;

/// A memory manager with the reverse map `R`.
pub(super) struct World<R: 'static>
where
    M<R>: Machine,
{
    _cpu: CpuGuard,
    vm: Box<Vm<M<R>>>,
}

/// What [`World::remapped`] found.
pub(super) struct Remapped {
    pub(super) bytes: u64,
    pub(super) stayed: u64,
    pub(super) moved: u64,
    pub(super) fork: u64,
}

fn page(n: u64) -> Va {
    FIRST.page_after(n)
}

fn store<R: 'static>(mm: &Mm<'_, M<R>>, va: Va)
where
    M<R>: Machine,
{
    let outcome = mm.handle_fault(va, FaultAccess::Write);
    assert!(outcome == FaultOutcome::Done, "a fault of the study ended with {outcome:?}");
}

impl<R: 'static> World<R>
where
    M<R>: Machine,
{
    pub(super) fn new() -> Self {
        let machine = M::<R>::new(FRAMES);
        let cpu = machine.cpus().enter(CpuId(0));
        let config = Config { max_map_count: u32::MAX, ..Config::default() };
        Self { _cpu: cpu, vm: Box::new(Vm::new(machine, config).expect("memory")) }
    }

    /// What objects come to.
    fn bytes_now(&self) -> u64 {
        let (stats, each) = (self.vm.stats(), RmapBytes::of::<M<R>>());
        // One of the two kinds of sets is never made.
        stats.anon_vmas * each.set + stats.chains * each.link + stats.mms * each.member
    }

    /// A program with `vmas` mappings of `pages` pages, all written; a page is between two mappings.
    fn program(&self, vmas: u64, pages: u64) -> Mm<'_, M<R>> {
        let mm = self.vm.new_mm().expect("memory");
        for vma in 0..vmas {
            let request = MmapRequest {
                addr: page(vma * (pages + 1)),
                flags: MapFlags::FIXED,
                ..MmapRequest::anonymous(pages * PAGE, Prot::READ | Prot::WRITE)
            };
            let start = mm.mmap(request).expect("memory");
            (0..pages).for_each(|n| store(&mm, start.page_after(n)));
        }
        mm
    }

    /// Steps of a walk to the page at `va`.
    fn walk(&self, mm: &Mm<'_, M<R>>, va: Va) -> u64 {
        let pfn = mm.pagemap(va).pfn.expect("a page");
        let page = self.vm.frames().try_get(pfn).expect("mapped");
        let mut met = 0;
        let steps = steps_of(|| met = count_mappings(&self.vm, page.folio()));
        assert_eq!(met, page.folio().counts().maps(), "entries that the walk met");
        steps
    }

    fn forks<'a>(&'a self, mm: &Mm<'a, M<R>>, n: u64) -> Vec<Mm<'a, M<R>>> {
        (0..n).map(|_| mm.fork().expect("memory")).collect()
    }

    /// What single things cost in bytes.
    pub(super) fn bytes(&self) -> [(&'static str, u64); 4] {
        let empty = self.bytes_now();
        let mm = self.vm.new_mm().expect("memory");
        let space = self.bytes_now() - empty;
        drop(mm);
        let mm = self.program(1, 1);
        let first = self.bytes_now() - empty;
        let second = {
            let request = MmapRequest {
                addr: page(100),
                flags: MapFlags::FIXED,
                ..MmapRequest::anonymous(PAGE, Prot::READ | Prot::WRITE)
            };
            store(&mm, mm.mmap(request).expect("memory"));
            self.bytes_now() - empty - first
        };
        let child = mm.fork().expect("memory");
        let forked = self.bytes_now() - empty - first - second;
        drop(child);
        [
            ("an address space", space),
            ("the first VMA with a page", first - space),
            ("each further VMA with a page", second),
            ("a child with two such VMAs", forked),
        ]
    }

    /// Steps of a fork of `vmas` VMAs, and the bytes that it leaves.
    pub(super) fn fork(&self, vmas: u64, pages: u64) -> (u64, u64) {
        let mm = self.program(vmas, pages);
        // Slabs have the frames that they need.
        drop(mm.fork().expect("memory"));
        let before = self.bytes_now();
        let mut child = None;
        let steps = steps_of(|| child = Some(mm.fork().expect("memory")));
        let bytes = self.bytes_now() - before;
        drop(child);
        (steps, bytes)
    }

    /// The same of the last of `generations`, each of which lives.
    pub(super) fn deep_fork(&self, generations: u64) -> (u64, u64) {
        let mut living = vec![self.program(10, 1)];
        for _ in 1..generations {
            let child = living.last().expect("one").fork().expect("memory");
            (0..10).for_each(|vma| store(&child, page(vma * 2)));
            living.push(child);
        }
        let mm = living.last().expect("one");
        drop(mm.fork().expect("memory"));
        let before = self.bytes_now();
        let mut child = None;
        let steps = steps_of(|| child = Some(mm.fork().expect("memory")));
        let bytes = self.bytes_now() - before;
        drop(child);
        (steps, bytes)
    }

    /// Steps of a walk to a page that `n` share.
    pub(super) fn shared(&self, n: u64) -> u64 {
        let mm = self.program(1, 1);
        let children = self.forks(&mm, n - 1);
        let steps = self.walk(&mm, page(0));
        drop(children);
        steps
    }

    /// Steps of a walk to a page that a child has written, one of `n` children.
    pub(super) fn private(&self, n: u64) -> u64 {
        let mm = self.program(1, 1);
        let children = self.forks(&mm, n);
        let child = &children[n as usize / 2];
        store(child, page(0));
        self.walk(child, page(0))
    }

    /// Steps of a walk to a page of a parent, which `n` children have copied, or unmapped.
    pub(super) fn left_alone(&self, n: u64) -> [u64; 2] {
        let mm = self.program(2, 1);
        let children = self.forks(&mm, n);
        for child in &children {
            store(child, page(0));
            child.munmap(VaRange::page(page(2))).expect("memory");
        }
        [0, 2].map(|n| self.walk(&mm, page(n)))
    }

    /// Bytes, and steps of a walk, at the end of a chain of generations. Each has a page of its own, and ends
    /// before its child forks.
    pub(super) fn chain(&self, generations: u64) -> (u64, u64) {
        let mut mm = self.program(1, 2);
        for _ in 0..generations {
            let child = mm.fork().expect("memory");
            store(&child, page(0));
            mm = child;
        }
        (self.bytes_now(), self.walk(&mm, page(0)))
    }

    /// A mapping of which `n` single pages have moved to places that are apart.
    pub(super) fn remapped(&self, n: u64) -> Remapped {
        let mm = self.program(1, 2 * n + 2);
        let flags = RemapFlags::MAYMOVE | RemapFlags::FIXED;
        for i in 0..n {
            mm.mremap(page(2 * i), PAGE, PAGE, flags, AWAY.page_after(2 * i)).expect("memory");
        }
        let bytes = self.bytes_now();
        let stayed = self.walk(&mm, page(2 * n + 1));
        let moved = if n == 0 { stayed } else { self.walk(&mm, AWAY.page_after(n / 2 * 2)) };
        drop(mm.fork().expect("memory"));
        let mut child = None;
        let fork = steps_of(|| child = Some(mm.fork().expect("memory")));
        drop(child);
        Remapped { bytes, stayed, moved, fork }
    }
}

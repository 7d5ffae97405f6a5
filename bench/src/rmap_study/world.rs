//! The work: families of programs, and walks to their pages.

use super::meter::Meter;
use anonmem::{
    Config, FaultAccess, FaultOutcome, Machine, MapFlags, Mm, MmapRequest, Prot, RemapFlags, Vm,
    lab::{RmapBytes, count_mappings},
};
use anonmem_hal::{CpuId, Va, VaRange};
use anonmem_hosted::{Checks, CpuGuard, Hosted};

pub(super) const PAGE: u64 = crate::PAGE as u64;
/// Room for a thousand programs.
const FRAMES: u64 = 1 << 16;
/// Where programs map.
const FIRST: Va = Va(1 << 30);
/// Where what moves goes.
pub(super) const AWAY: Va = Va(2 << 30);

/// A memory manager, whose machine has the reverse map that is looked at.
pub(super) struct World<C: Checks>
where
    Hosted<C>: Machine,
{
    _cpu: CpuGuard,
    pub(super) vm: Box<Vm<Hosted<C>>>,
}

/// What [`World::remapped`] found.
pub(super) struct Remapped {
    pub(super) bytes: u64,
    pub(super) stayed: u64,
    pub(super) moved: u64,
    pub(super) fork: u64,
}

pub(super) fn page(n: u64) -> Va {
    FIRST.page_after(n)
}

pub(super) fn store<C: Checks>(mm: &Mm<'_, Hosted<C>>, va: Va)
where
    Hosted<C>: Machine,
{
    let outcome = mm.handle_fault(va, FaultAccess::Write);
    assert!(outcome == FaultOutcome::Done, "a fault of the study ended with {outcome:?}");
}

/// Maps `pages` pages at `addr`.
fn map<C: Checks>(mm: &Mm<'_, Hosted<C>>, addr: Va, pages: u64) -> Va
where
    Hosted<C>: Machine,
{
    let request = MmapRequest {
        addr,
        flags: MapFlags::FIXED,
        ..MmapRequest::anonymous(pages * PAGE, Prot::READ | Prot::WRITE)
    };
    mm.mmap(request).expect("memory")
}

impl<C: Meter> World<C>
where
    Hosted<C>: Machine,
{
    pub(super) fn new() -> Self {
        Self::with_room_for(0)
    }

    /// With room for `pages` pages, beside a thousand programs.
    pub(super) fn with_room_for(pages: u64) -> Self {
        let machine = Hosted::<C>::new(FRAMES + pages);
        let cpu = machine.cpus().enter(CpuId(0));
        let config = Config { max_map_count: u32::MAX, ..Config::default() };
        Self { _cpu: cpu, vm: Box::new(Vm::new(machine, config).expect("memory")) }
    }

    /// What objects come to.
    fn bytes_now(&self) -> u64 {
        let (stats, each) = (self.vm.stats(), RmapBytes::of::<Hosted<C>>());
        // One of the two kinds of sets is never made.
        stats.anon_vmas * each.set + stats.chains * each.link + stats.mms * each.member
    }

    /// A program with `vmas` mappings of `pages` pages, all written; a page is between two mappings. Without
    /// pages, each mapping has room for one.
    pub(super) fn program(&self, vmas: u64, pages: u64) -> Mm<'_, Hosted<C>> {
        let mm = self.vm.new_mm().expect("memory");
        for vma in 0..vmas {
            let start = map(&mm, page(vma * (pages + 2)), pages.max(1));
            (0..pages).for_each(|n| store(&mm, start.page_after(n)));
        }
        mm
    }

    /// What a walk to the page at `va` costs.
    fn walk(&self, mm: &Mm<'_, Hosted<C>>, va: Va) -> u64 {
        let pfn = mm.pagemap(va).pfn.expect("a page");
        let page = self.vm.frames().try_get(pfn).expect("mapped");
        let mut met = 0;
        let cost = C::cost_of_each(|| met = count_mappings(&self.vm, page.folio()));
        assert_eq!(met, page.folio().counts().maps(), "entries that the walk met");
        cost
    }

    pub(super) fn forks<'a>(&'a self, mm: &Mm<'a, Hosted<C>>, n: u64) -> Vec<Mm<'a, Hosted<C>>> {
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
            store(&mm, map(&mm, page(100), 1));
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

    /// What a fork of `vmas` VMAs of `pages` pages costs.
    pub(super) fn fork(&self, vmas: u64, pages: u64) -> u64 {
        self.fork_of(&self.program(vmas, pages))
    }

    fn fork_of(&self, mm: &Mm<'_, Hosted<C>>) -> u64 {
        // Slabs have the frames that they need.
        drop(mm.fork().expect("memory"));
        C::cost(|| mm.fork().expect("memory"))
    }

    /// Bytes that a fork of `vmas` VMAs of a page leaves.
    pub(super) fn fork_leaves(&self, vmas: u64) -> u64 {
        self.left_by_fork_of(&self.program(vmas, 1))
    }

    fn left_by_fork_of(&self, mm: &Mm<'_, Hosted<C>>) -> u64 {
        let before = self.bytes_now();
        let child = mm.fork().expect("memory");
        let bytes = self.bytes_now() - before;
        drop(child);
        bytes
    }

    /// What a fork of the last of `generations`, each of which lives, costs, and the bytes that it leaves.
    pub(super) fn deep_fork(&self, generations: u64) -> (u64, u64) {
        let mut living = vec![self.program(10, 1)];
        for _ in 1..generations {
            let child = living.last().expect("one").fork().expect("memory");
            (0..10).for_each(|vma| store(&child, page(vma * 3)));
            living.push(child);
        }
        let mm = living.last().expect("one");
        (self.fork_of(mm), self.left_by_fork_of(mm))
    }

    /// What a walk to a page that `n` share costs.
    pub(super) fn shared(&self, n: u64) -> u64 {
        let mm = self.program(1, 1);
        let children = self.forks(&mm, n - 1);
        let steps = self.walk(&mm, page(0));
        drop(children);
        steps
    }

    /// What a walk to a page that a child has written, one of `n` children, costs.
    pub(super) fn private(&self, n: u64) -> u64 {
        let mm = self.program(1, 1);
        let children = self.forks(&mm, n);
        let child = &children[n as usize / 2];
        store(child, page(0));
        self.walk(child, page(0))
    }

    /// What a walk to a page of a parent costs, which `n` children have copied, or unmapped.
    pub(super) fn left_alone(&self, n: u64) -> [u64; 2] {
        let mm = self.program(2, 1);
        let children = self.forks(&mm, n);
        for child in &children {
            store(child, page(0));
            child.munmap(VaRange::page(page(3))).expect("memory");
        }
        [0, 3].map(|n| self.walk(&mm, page(n)))
    }

    /// Bytes at the end of a chain of generations, the cost of one of them, and that of walks at the end: to
    /// the last one's own page, and to one that the first one made and all inherited. Each has a page of
    /// its own, and ends before its child forks.
    pub(super) fn chain(&self, generations: u64) -> (u64, u64, [u64; 2]) {
        let mut mm = self.program(1, 2);
        let all = C::cost_once(|| {
            for _ in 0..generations {
                let child = mm.fork().expect("memory");
                store(&child, page(0));
                mm = child;
            }
        });
        (self.bytes_now(), all / generations, [0, 1].map(|n| self.walk(&mm, page(n))))
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
        Remapped { bytes, stayed, moved, fork: self.fork_of(&mm) }
    }
}

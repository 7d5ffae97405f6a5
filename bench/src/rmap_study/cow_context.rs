//! CoW contexts, as Linux's proposal describes them: a peer that is measured, and no reverse map of ours.
//!
//! What is known of it is a talk (LWN 1072378, May 2026), a proof of concept and mails; no numbers. Each
//! address space has a *context*: a node of a tree, below its parent's. A page names the context of who made
//! it. A walk visits that context and all below it, in depth. It asks each address space that lives, at the
//! page's index and at each offset that `mremap` recorded for that index. A context stays for as long as one
//! below it lives.
//!
//! This is the structure alone, beside the memory manager. What it asks is asked in the real trees of VMAs
//! and the real page tables, under the lock of the family: the proposal has none yet that would do. So walks
//! can be compared, and bytes. fork cannot: here the family runs along.
//!
//! Where the description leaves a choice, the cheaper one was taken: offsets are found by their index, and an
//! exclusive page ends the walk.

use super::{
    line::{Line, Size},
    meter::Meter,
    world::{AWAY, PAGE, World, page, store},
};
use anonmem::{Machine, Mm, RemapFlags, lab::ask_places};
use anonmem_hal::{PAGE_SHIFT, Va, VaRange, reverse_map::Families};
use anonmem_hosted::{Checks, Hosted};

/// Bytes of a context by its fields: address space, parent, count, two list heads, what RCU needs to free it,
/// the root of the offsets.
const CONTEXT: u64 = 8 + 8 + 8 + 16 + 16 + 16 + 16;
/// Bytes of an offset by its fields: the first and the last index, and by how much. A maple tree adds to it.
const OFFSET: u64 = 24;
/// Words that are read of a context, beside its offsets: address space, first child, next sibling.
const WORDS: u64 = 3;

/// Where pages of some indices are now.
#[derive(Clone, Copy)]
struct Moved {
    first: u64,
    last: u64,
    by: u64,
}

struct Context<'v, C: Checks>
where
    Hosted<C>: Machine + anonmem_hal::Machine<ReverseMap = Families>,
{
    /// None of the dead.
    mm: Option<Mm<'v, Hosted<C>>>,
    parent: Option<usize>,
    child: Option<usize>,
    next: Option<usize>,
    children: u64,
    /// By index; intervals have nothing in common.
    moved: Vec<Moved>,
}

/// The contexts of one family; the root has number 0.
struct Contexts<'v, C: Checks>
where
    Hosted<C>: Machine + anonmem_hal::Machine<ReverseMap = Families>,
{
    all: Vec<Option<Context<'v, C>>>,
    free: Vec<usize>,
}

impl<'v, C: Meter> Contexts<'v, C>
where
    Hosted<C>: Machine + anonmem_hal::Machine<ReverseMap = Families>,
{
    fn new(mm: Mm<'v, Hosted<C>>) -> Self {
        let root =
            Context { mm: Some(mm), parent: None, child: None, next: None, children: 0, moved: Vec::new() };
        Self { all: vec![Some(root)], free: Vec::new() }
    }

    fn get(&self, at: usize) -> &Context<'v, C> {
        self.all[at].as_ref().expect("a context in use")
    }

    fn get_mut(&mut self, at: usize) -> &mut Context<'v, C> {
        self.all[at].as_mut().expect("a context in use")
    }

    fn mm(&self, at: usize) -> &Mm<'v, Hosted<C>> {
        self.get(at).mm.as_ref().expect("it lives")
    }

    /// What fork does: one node, with a copy of the offsets.
    fn add(&mut self, parent: usize, mm: Option<Mm<'v, Hosted<C>>>) -> usize {
        let above = self.get_mut(parent);
        let (next, moved) = (above.child, above.moved.clone());
        above.children += 1;
        let node = Context { mm, parent: Some(parent), child: None, next, children: 0, moved };
        let at = self.free.pop().unwrap_or_else(|| {
            self.all.push(None);
            self.all.len() - 1
        });
        self.all[at] = Some(node);
        self.get_mut(parent).child = Some(at);
        at
    }

    fn fork(&mut self, parent: usize) -> usize {
        let child = self.mm(parent).fork().expect("memory");
        self.add(parent, Some(child))
    }

    /// What exit does: contexts without anybody below them go.
    fn exit(&mut self, at: usize) {
        drop(self.get_mut(at).mm.take());
        let mut at = Some(at);
        while let Some(gone) = at.filter(|&at| self.get(at).mm.is_none() && self.get(at).children == 0) {
            at = self.get(gone).parent;
            if let Some(parent) = at {
                self.unlink(parent, gone);
            }
            self.all[gone] = None;
            self.free.push(gone);
        }
    }

    fn unlink(&mut self, parent: usize, gone: usize) {
        let next = self.get(gone).next;
        let above = self.get_mut(parent);
        above.children -= 1;
        if above.child == Some(gone) {
            above.child = next;
            return;
        }
        let mut before = above.child.expect("a parent's children");
        while self.get(before).next != Some(gone) {
            before = self.get(before).next.expect("it is in the list");
        }
        self.get_mut(before).next = next;
    }

    /// What `mremap` does.
    fn moves(&mut self, at: usize, moved: Moved) {
        let all = &mut self.get_mut(at).moved;
        let place = all.partition_point(|other| other.first < moved.first);
        all.insert(place, moved);
    }

    fn bytes(&self) -> u64 {
        self.all.iter().flatten().map(|node| CONTEXT + node.moved.len() as u64 * OFFSET).sum()
    }

    /// What a walk to the page at `va` of `mm`, which context `from` made, costs.
    fn walk(&self, from: usize, mm: &Mm<'v, Hosted<C>>, va: Va) -> u64 {
        let vm = mm.vm();
        let page = vm.frames().try_get(mm.pagemap(va).pfn.expect("a page")).expect("mapped");
        let folio = page.folio();
        let mut met = 0;
        let cost = C::cost_of_each(|| {
            let is_alone = || folio.counts().is_exclusive();
            let walk = |ask: &mut dyn FnMut(&Mm<'_, Hosted<C>>, Va) -> u64| {
                self.descend(from, folio.index(), is_alone, ask)
            };
            met = ask_places(vm, folio, walk).expect("mapped");
        });
        assert_eq!(met, folio.counts().maps(), "entries that the walk met");
        cost
    }

    /// Asks everybody from `from` down who lives.
    fn descend(
        &self,
        from: usize,
        index: u64,
        is_alone: impl Fn() -> bool,
        ask: &mut dyn FnMut(&Mm<'_, Hosted<C>>, Va) -> u64,
    ) -> u64 {
        let (mut at, mut met) = (from, 0);
        loop {
            C::touch(WORDS);
            let node = self.get(at);
            if let Some(mm) = &node.mm {
                met += ask(mm, Va(index << PAGE_SHIFT));
                let place = node.moved.partition_point(|moved| moved.last < index);
                C::touch(u64::from(node.moved.len().checked_ilog2().map_or(0, |n| n + 1)));
                if let Some(moved) = node.moved.get(place).filter(|moved| moved.first <= index) {
                    met += ask(mm, Va((index + moved.by) << PAGE_SHIFT));
                }
                if met > 0 && is_alone() {
                    return met;
                }
            }
            match self.after(at, from) {
                Some(next) => at = next,
                None => return met,
            }
        }
    }

    /// The next one in depth below `from`.
    fn after(&self, mut at: usize, from: usize) -> Option<usize> {
        if let Some(child) = self.get(at).child {
            return Some(child);
        }
        while at != from {
            C::touch(1);
            match self.get(at).next {
                Some(next) => return Some(next),
                None => at = self.get(at).parent?,
            }
        }
        None
    }
}

/// The lines that a structure alone can have.
pub(super) fn rows<C: Meter>(size: Size) -> Vec<Line>
where
    Hosted<C>: Machine + anonmem_hal::Machine<ReverseMap = Families>,
{
    let mut lines = Vec::new();
    let mut note = |what: String, found| lines.push(Line { what, unit: C::UNIT, found });
    for sharers in size.up_to([1, 10, 100, 1000]) {
        let world = World::<C>::new();
        let all = with_children(&world, sharers - 1, 1);
        note(format!("walk of a page that {sharers} share"), all.walk(0, all.mm(0), page(0)));
    }
    for relatives in size.up_to([1, 10, 100, 1000]) {
        let world = World::<C>::new();
        let all = with_children(&world, relatives, 1);
        let middle = 1 + relatives as usize / 2;
        let child = middle.min(relatives as usize);
        store(all.mm(child), page(0));
        let cost = all.walk(child, all.mm(child), page(0));
        note(format!("walk of a child's own page among {relatives} siblings"), cost);
    }
    for children in size.up_to([1, 10, 100, 1000]) {
        let world = World::<C>::new();
        let all = with_children(&world, children, 2);
        for child in 1..=children as usize {
            store(all.mm(child), page(0));
            all.mm(child).munmap(VaRange::page(page(3))).expect("memory");
        }
        let [copied, unmapped] = [0, 3].map(|n| all.walk(0, all.mm(0), page(n)));
        note(format!("walk of a parent's page that {children} children have copied"), copied);
        note(format!("walk of a parent's page that {children} children unmapped"), unmapped);
    }
    let (_, own, first) = chain(&World::<C>::new(), size.generations);
    note("walk of the last one's page".into(), own);
    note("walk of the first one's page, which the last one has".into(), first);
    for remaps in size.up_to([0, 1, 16, 256]) {
        let world = World::<C>::new();
        let (all, last) = remapped(&world, remaps);
        let stayed = all.walk(0, all.mm(0), page(2 * remaps + 1));
        let moved = last.map_or(stayed, |va| all.walk(0, all.mm(0), va));
        note(format!("walk of a page that stayed, {remaps} moved"), stayed);
        note(format!("walk of a page that moved, {remaps} moved"), moved);
    }
    lines
}

/// Bytes, by the fields.
pub(super) fn bytes<C: Meter>(size: Size) -> Vec<Line>
where
    Hosted<C>: Machine + anonmem_hal::Machine<ReverseMap = Families>,
{
    let mut lines = Vec::new();
    let mut note = |what: String, found| lines.push(Line { what, unit: "bytes", found });
    note("an address space".into(), CONTEXT);
    note("the first VMA with a page".into(), 0);
    note("each further VMA with a page".into(), 0);
    note("a child with two such VMAs".into(), CONTEXT);
    for vmas in size.up_to([1, 10, 100, 1000]) {
        note(format!("what a fork of {vmas} VMAs leaves"), CONTEXT);
    }
    for generation in [1, 10] {
        note(format!("what it leaves with 10 VMAs in generation {generation} of living ancestors"), CONTEXT);
    }
    let (bytes, ..) = chain(&World::<C>::new(), size.generations);
    note(format!("{} generations of fork and exit leave", size.generations), bytes);
    for remaps in size.up_to([0, 1, 16, 256]) {
        let world = World::<C>::new();
        note(format!("{remaps} single pages moved away: in all"), remapped(&world, remaps).0.bytes());
    }
    lines
}

/// A program with `vmas` VMAs of a page, and so many children.
fn with_children<C: Meter>(world: &World<C>, n: u64, vmas: u64) -> Contexts<'_, C>
where
    Hosted<C>: Machine + anonmem_hal::Machine<ReverseMap = Families>,
{
    let mut all = Contexts::new(world.program(vmas, 1));
    for _ in 0..n {
        all.fork(0);
    }
    all
}

/// The endless chain: bytes, and walks to the last one's own page and to the first one's.
fn chain<C: Meter>(world: &World<C>, generations: u64) -> (u64, u64, u64)
where
    Hosted<C>: Machine + anonmem_hal::Machine<ReverseMap = Families>,
{
    let mut all = Contexts::new(world.program(1, 2));
    let mut last = 0;
    for _ in 0..generations {
        let child = all.fork(last);
        store(all.mm(child), page(0));
        all.exit(last);
        last = child;
    }
    let mm = all.mm(last);
    (all.bytes(), all.walk(last, mm, page(0)), all.walk(0, mm, page(1)))
}

/// A program of which `n` single pages have moved, and where one of them is.
fn remapped<C: Meter>(world: &World<C>, n: u64) -> (Contexts<'_, C>, Option<Va>)
where
    Hosted<C>: Machine + anonmem_hal::Machine<ReverseMap = Families>,
{
    let mut all = Contexts::new(world.program(1, 2 * n + 2));
    for i in 0..n {
        let (from, to) = (page(2 * i), AWAY.page_after(2 * i));
        let flags = RemapFlags::MAYMOVE | RemapFlags::FIXED;
        all.mm(0).mremap(from, PAGE, PAGE, flags, to).expect("memory");
        let index = from.page();
        all.moves(0, Moved { first: index, last: index, by: to.page() - index });
    }
    (all, (n > 0).then(|| AWAY.page_after(n / 2 * 2)))
}

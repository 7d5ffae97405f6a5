//! A plain model of address spaces: what every call returns and what every load reads.
//!
//! It is written from the manual pages and shares nothing with the memory manager: no areas that split and
//! merge, no page tables, no copy-on-write. An address space is a map from page number to [`Page`], and
//! each page has its own rights and its own bytes. Areas are derived where they are compared.
//!
//! Where Linux leaves a choice (the address of a new mapping, whether a page after `MADV_FREE` is old or
//! zero) the model follows what really happened, if that was allowed. So an operation is not predicted but
//! *judged*: [`Oracle::judge`] takes operation and outcome, says what is wrong, or takes the step.
//!
//! - [`page`]: one page. - [`space`]: one address space. - `calls`: the system calls. - `remap`: `mremap`.
//! - `access`: loads, stores, stack growth. - `watched`: devices and userfaultfd.

mod access;
mod calls;
pub mod page;
mod remap;
pub mod space;
mod successes;
#[cfg(test)]
mod tests;
mod verdict;
pub mod watched;

pub use page::Object;
pub use successes::Successes;
pub use verdict::Verdict;

use crate::ops::{At, HOLDS, Op, Outcome, Remap, SPACES};
use page::{Bytes, Page, Said, SoftDirty};
use space::Space;
use std::sync::Arc;
use verdict::expect;

/// The limits that the oracle needs to know.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// One past the highest user address.
    pub user_end: u64,
    /// The lowest address that may be mapped.
    pub min_addr: u64,
    /// Where the heap of a new address space starts.
    pub heap_start: u64,
    /// How far a stack may reach from its end, in bytes.
    pub stack: u64,
    /// Whether pages may leave memory without being dropped.
    pub swap: bool,
    /// Whether a touch may bring pages around it along: a large folio.
    pub folios: bool,
    /// Whether the host's kernel is judged, in some version: where versions answer differently, either is
    /// right.
    pub is_host: bool,
}

/// All address spaces, as they should be.
#[derive(Clone)]
pub struct Oracle {
    spaces: [Option<Space>; SPACES],
    objects: Vec<Object>,
    source: Arc<[u8]>,
    limits: Limits,
    /// What came about of what may be refused.
    successes: Arc<Successes>,
    /// Which holds there are.
    held: [bool; HOLDS],
    /// A page may be in two of them, of which it knows one.
    held_twice: bool,
}

impl Oracle {
    /// No address space; private mappings of a source read `source`.
    pub fn new(source: impl Into<Arc<[u8]>>, limits: Limits) -> Self {
        let (spaces, objects, successes, held) = Default::default();
        let source = source.into();
        Self { spaces, objects, source, limits, successes, held, held_twice: false }
    }

    /// Counts in `successes` from now on.
    pub fn count_in(&mut self, successes: &Arc<Successes>) {
        self.successes = successes.clone();
    }

    /// The address space in slot `space`.
    pub fn space(&self, space: usize) -> Option<&Space> {
        self.spaces[space].as_ref()
    }

    /// Checks that `op` may come to `outcome`, and does it.
    ///
    /// `area_end` is where the real area that holds the operation's first byte ends; areas that could
    /// be merged need not be, and `mremap` refuses to cross their border.
    ///
    /// # Errors
    /// What should have happened.
    pub fn judge(&mut self, op: &Op, outcome: &Outcome, area_end: Option<u64>) -> Verdict {
        let verdict = self.judge_one(op, outcome, area_end);
        if let Some(space) = &mut self.spaces[op.space()] {
            if self.limits.folios && op.may_write() {
                // Pages around what is written come along, as those of one folio.
                space.may_be_soft_dirty();
            }
            space.spread_soft_dirty();
        }
        verdict
    }

    fn judge_one(&mut self, op: &Op, outcome: &Outcome, area_end: Option<u64>) -> Verdict {
        match *op {
            Op::Spawn(space) => {
                self.spaces[space] = Some(Space::new(self.limits.heap_start));
                expect(outcome, &Outcome::Done)
            }
            Op::Exit(space) => {
                let was = self.spaces[space].take();
                expect(outcome, if was.is_some() { &Outcome::Done } else { &Outcome::Skipped })
            }
            Op::Fork { parent, child } => self.fork(parent, child, outcome),
            Op::Release(_, hold) => self.release(hold, outcome),
            _ if self.spaces[op.space()].is_none() => expect(outcome, &Outcome::Skipped),
            Op::Mmap(at, place, rights, backing) => self.mmap(at, place, rights, backing, outcome),
            Op::Munmap(at) => self.munmap(at, outcome),
            Op::Mprotect(at, rights) => self.mprotect(at, rights, outcome),
            Op::Mremap(at, new_len, how) => self.mremap(at, new_len, how, outcome, area_end),
            Op::Brk(at) => self.brk(at, outcome),
            Op::Madvise(at, advice) => self.madvise(at, advice, outcome),
            Op::Mlock(at) => self.mlock(at, true, outcome),
            Op::Munlock(at) => self.mlock(at, false, outcome),
            Op::Mincore(at) => self.mincore(at, outcome),
            Op::ClearRefs(space) => self.clear_refs(space, outcome),
            Op::Read(at) => self.read(at, outcome),
            Op::Write(at, tag) => self.write(at, tag, outcome),
            Op::Fetch(at) => self.fetch(at, outcome),
            Op::DeviceWrite(at, tag) => self.device_write(at, tag, outcome),
            Op::Hold(at, hold) => self.hold(at, hold, outcome),
            Op::UffdMove(at, to) => self.uffd_move(at, to, outcome),
            Op::UffdFill(at, tag) => self.uffd_fill(at, tag, outcome),
            Op::UffdProtect(at, tag) => self.uffd_protect(at, tag, outcome),
        }
    }

    /// Takes note that `op` ran out of memory after `outcome`'s bytes: what it may have done anyway.
    ///
    /// Every state that is allowed, the most likely one first. A failed call changes nothing, with the
    /// exceptions that Linux has: the calls that work through a range stop where they are.
    pub fn after_failure(&self, op: &Op, outcome: &Outcome) -> Vec<Self> {
        let mut base = self.clone();
        base.blur_residency(op, self);
        match *op {
            Op::Read(at) | Op::Write(at, _) | Op::Fetch(at) => base.stopped_access(op, at, outcome),
            Op::UffdProtect(at, tag) => {
                let at = at.middle();
                base.stopped_access(&Op::Write(at, tag), at, outcome)
            }
            Op::Mlock(at) | Op::Munlock(at) | Op::Mprotect(at, _) | Op::Madvise(at, _) => {
                let Some(space) = self.space(at.space) else { return vec![base] };
                let ends = space.pages.range(space::numbers(at.addr, at.len)).map(|(number, _)| number + 1);
                let shorter = ends.map(|end| {
                    let mut state = base.clone();
                    let op = op.with_len((end * anonmem_hal::PAGE_SIZE as u64 - at.addr).min(at.len));
                    // The verdict is about an outcome that nobody saw; only the effect counts.
                    let _ = state.judge(&op, &Outcome::Done, None);
                    state.blur_residency(&op, self);
                    state
                });
                std::iter::once(base.clone()).chain(shorter).collect()
            }
            // A move of several areas leaves those before the one that failed moved (Linux 6.17).
            Op::Mremap(at, len, how @ (Remap::Fixed(to) | Remap::DontUnmapFixed(to)))
                if space::page_up(len) == space::page_up(at.len) =>
            {
                let Some(space) = self.space(at.space) else { return vec![base] };
                // Something is mapped at its start, or it was refused before it moved anything.
                if !space.pages.contains_key(&(at.addr >> anonmem_hal::PAGE_SHIFT)) {
                    return vec![base];
                }
                let ends = space.pages.range(space::numbers(at.addr, at.len)).map(|(number, _)| number + 1);
                let shorter = ends.map(|end| {
                    let mut state = base.clone();
                    let len = (end * anonmem_hal::PAGE_SIZE as u64 - at.addr).min(at.len);
                    let op = Op::Mremap(At { len, ..at }, len, how);
                    let _ = state.judge(&op, &Outcome::Address(to), Some(at.addr + len));
                    state.blur_residency(&op, self);
                    state
                });
                std::iter::once(base.clone()).chain(shorter).collect()
            }
            _ => vec![base],
        }
    }

    /// What a call did to residency before it failed is not known: only what was in memory `before` it still
    /// is for certain.
    pub(crate) fn blur_residency(&mut self, op: &Op, before: &Self) {
        let Some(space) = &mut self.spaces[op.space()] else { return };
        for (number, page) in &mut space.pages {
            let old = before.spaces[op.space()].as_ref().and_then(|space| space.pages.get(number));
            page.soft_dirty.page.or_maybe();
            page.soft_dirty.area.or_maybe();
            if page.resident == page::Residency::No || old.is_none_or(|old| old.resident != page.resident) {
                page.resident = page::Residency::Maybe;
            }
        }
    }

    fn fork(&mut self, parent: usize, child: usize, outcome: &Outcome) -> Verdict {
        let Some(space) = &self.spaces[parent] else { return expect(outcome, &Outcome::Skipped) };
        if parent == child {
            return expect(outcome, &Outcome::Skipped);
        }
        let mut forked = space.fork();
        if self.limits.folios && self.held.contains(&true) {
            // A folio of which a page is pinned is copied.
            forked.may_be_soft_dirty();
        }
        self.spaces[child] = Some(forked);
        expect(outcome, &Outcome::Done)
    }

    /// What was written until now is not soft-dirty any more. What is pinned may be written at any time.
    fn clear_refs(&mut self, space: usize, outcome: &Outcome) -> Verdict {
        let (folios, held) = (self.limits.folios, self.held.contains(&true));
        for page in self.spaces[space].as_mut().expect("checked").pages.values_mut() {
            let known = page.attrs.kind == page::Kind::Private && !folios && !self.held_twice;
            let pinned_beside = held && !known;
            page.soft_dirty = SoftDirty {
                area: Said::No,
                page: match page.pinned {
                    Some(_) => Said::Yes,
                    None if pinned_beside => Said::Maybe,
                    None => Said::No,
                },
            };
        }
        expect(outcome, &Outcome::Done)
    }

    /// The bytes of a page that nobody wrote, or `None` if it has none and an access is a SIGBUS.
    pub fn fresh(&self, number: u64, page: &Page) -> Option<Arc<Bytes>> {
        page.attrs.kind.fresh(number, &self.source, &self.objects)
    }

    /// Whether frame contents `bytes` are right for page `number`, which is `page`.
    pub fn accepts(&self, number: u64, page: &Page, bytes: &Bytes) -> bool {
        match page.attrs.kind.object_page(number) {
            Some(_) => self.fresh(number, page).is_some_and(|b| *b == *bytes),
            None => page.contents.candidates.iter().any(|candidate| match candidate {
                Some(written) => **written == *bytes,
                None => self.fresh(number, page).is_some_and(|b| *b == *bytes),
            }),
        }
    }
}

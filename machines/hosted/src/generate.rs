//! Random operations that get in each other's way.
//!
//! Most addresses come from a window of [`WINDOW_PAGES`] pages or from the borders of areas that exist, so
//! that nearly every call meets something. A few arguments are wrong on purpose.

use crate::{
    ops::{Advise, At, Backing, HOLDS, Op, Place, Remap, Rights, SPACES, WINDOW, WINDOW_PAGES},
    oracle::{
        Oracle,
        page::{Kind, Page, Residency},
    },
    random::next_random,
};
use anonmem_hal::PAGE_SIZE;
use std::ops::Range;

const P: u64 = PAGE_SIZE as u64;
/// Above this many pages an address space mostly unmaps.
const CROWDED: usize = 256;
/// Bytes that a leaf maps.
const LEAF: u64 = 512 * P;

/// A source of operations: the same seed gives the same ones.
#[derive(Clone, Debug)]
pub struct Generator {
    state: u64,
    window: Range<u64>,
    /// Whether areas that leaves fill are mapped around the window, too.
    leaves: bool,
    /// Where the last store or load went: the next one goes there too, now and then, on another CPU.
    recent: Option<(u64, u64)>,
}

impl Generator {
    /// The generator with this seed.
    pub fn new(seed: u64) -> Self {
        Self { state: seed, window: WINDOW..WINDOW + WINDOW_PAGES * P, leaves: false, recent: None }
    }

    /// A generator that maps areas of a leaf's size, too, in which the window lies.
    #[must_use]
    pub fn with_leaves(self) -> Self {
        Self { leaves: true, ..self }
    }

    /// A generator with another window, for [`Self::op_within`].
    #[must_use]
    pub fn with_window(self, window: Range<u64>) -> Self {
        Self { window, ..self }
    }

    /// An operation that changes, or looks at, nothing outside of the window: for threads that share an
    /// address space and own a window each.
    pub fn op_within(&mut self, space: usize, oracle: &Oracle) -> Op {
        loop {
            let op = self.op_in(space, oracle);
            if let Some(op) = confine(op, &self.window) {
                return op;
            }
        }
    }

    /// A number below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        next_random(&mut self.state) % n
    }

    /// True once in `n`.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }

    /// An operation that is interesting after those that made `oracle` what it is.
    pub fn op(&mut self, oracle: &Oracle) -> Op {
        let living: Vec<usize> = (0..SPACES).filter(|&s| oracle.space(s).is_some()).collect();
        if living.is_empty() {
            return Op::Spawn(0);
        }
        let space = self.pick(&living);
        self.op_in(space, oracle)
    }

    fn op_in(&mut self, space: usize, oracle: &Oracle) -> Op {
        let enough = if self.leaves { CROWDED + 2 * (LEAF / P) as usize } else { CROWDED };
        let crowded = oracle.space(space).is_some_and(|s| s.pages.len() > enough);
        if self.leaves && !crowded && self.one_in(20) {
            return self.leaf(space);
        }
        match self.below(if crowded { 295 } else { 235 }) {
            0 => Op::Spawn(self.below(SPACES as u64) as usize),
            1..=8 => Op::Fork { parent: space, child: self.below(SPACES as u64) as usize },
            9..=11 => Op::Exit(space),
            12..=39 => self.mmap(space, oracle),
            40..=50 => Op::Munmap(self.range(space, oracle)),
            51..=65 => Op::Mprotect(self.range(space, oracle), self.rights()),
            66..=81 => self.mremap(space, oracle),
            82..=84 => Op::Brk(At { space, addr: 0, len: self.below(12 * P) }),
            85..=104 => Op::Madvise(self.range(space, oracle), self.pick(&Advise::ALL)),
            105..=107 => Op::Mlock(self.range(space, oracle)),
            108..=110 => Op::Munlock(self.range(space, oracle)),
            111..=115 => Op::Mincore(self.range(space, oracle)),
            116..=145 => Op::Read(self.bytes(space, oracle)),
            146..=147 => Op::Fetch(self.bytes(space, oracle)),
            148..=199 => Op::Write(self.bytes(space, oracle), self.below(1 << 32) as u32),
            200..=205 => Op::DeviceWrite(self.bytes(space, oracle), self.below(1 << 32) as u32),
            206..=207 => Op::Hold(self.bytes(space, oracle), self.below(HOLDS as u64) as usize),
            208..=210 => Op::Release(space, self.below(HOLDS as u64) as usize),
            211..=218 => self.uffd_move(space, oracle),
            219..=223 => Op::UffdFill(self.range(space, oracle), self.below(1 << 32) as u32),
            224..=229 => Op::UffdProtect(self.range(space, oracle), self.below(1 << 32) as u32),
            230..=234 => Op::ClearRefs(space),
            _ => Op::Munmap(self.large_area(space, oracle)),
        }
    }

    /// An operation on all that a leaf maps. What comes afterwards meets parts of it.
    fn leaf(&mut self, space: usize) -> Op {
        let base = |nth: u64| (WINDOW & !(LEAF - 1)) + nth * LEAF;
        let at = At { space, addr: base(self.below(3)), len: LEAF };
        match self.below(10) {
            0..=5 => Op::Mmap(at, Place::Fixed(at.addr), Rights::RW, Backing::Private),
            6 => Op::Mprotect(at, self.rights()),
            7 => Op::Mremap(at, LEAF, Remap::Fixed(base(self.below(3)))),
            8 => Op::Madvise(at, self.pick(&Advise::ALL)),
            _ => Op::Write(At { len: 1, ..at }, self.below(1 << 32) as u32),
        }
    }

    fn mmap(&mut self, space: usize, oracle: &Oracle) -> Op {
        let at = self.range(space, oracle);
        let place = match self.below(20) {
            0..=10 => Place::Fixed(at.addr),
            11..=13 => Place::NoReplace(at.addr),
            14..=16 => Place::Hint(at.addr),
            _ => Place::Anywhere,
        };
        let backing = match self.below(16) {
            0..=8 => Backing::Private,
            9 => Backing::NoReserve,
            10 => Backing::Stack,
            11..=12 => Backing::Shared,
            _ => Backing::Source(self.below(16)),
        };
        Op::Mmap(at, place, self.rights(), backing)
    }

    fn mremap(&mut self, space: usize, oracle: &Oracle) -> Op {
        let at = self.range(space, oracle);
        let to = self.addr(space, oracle);
        let new_len = if self.one_in(3) { at.len } else { self.len() };
        // Where there is room for such a length, it is granted, and the model has each of its pages.
        let beyond = |len: u64| if (1 << 40..1 << 48).contains(&len) { len << 8 } else { len };
        let (at, new_len) = (At { len: beyond(at.len), ..at }, beyond(new_len));
        match self.below(16) {
            0..=3 => Op::Mremap(at, new_len, Remap::InPlace),
            4..=8 => Op::Mremap(at, new_len, Remap::MayMove),
            9..=12 => Op::Mremap(at, new_len, Remap::Fixed(to)),
            13 => Op::Mremap(at, at.len, Remap::DontUnmap),
            14 => Op::Mremap(at, at.len, Remap::DontUnmapFixed(to)),
            _ => Op::Mremap(at, new_len, Remap::DontUnmapFixed(to)),
        }
    }

    fn window_pages(&self) -> u64 {
        (self.window.end - self.window.start) / P
    }

    fn rights(&mut self) -> Rights {
        use Rights as R;
        self.pick(&[R::RW, R::RW, R::RW, R::RW, R::RW, R::RW, R::R, R::R, R::NONE, R::RX, R::RWX])
    }

    fn addr(&mut self, space: usize, oracle: &Oracle) -> u64 {
        let page = match self.below(100) {
            0..=64 => self.window.start + self.below(self.window_pages()) * P,
            65..=97 => self.near_an_area(space, oracle),
            98 => self.pick(&[0, P, 1 << 46, (1 << 47) - 2 * P, u64::MAX - P + 1]),
            _ => return self.window.start + self.below(self.window_pages() * P),
        };
        if self.one_in(200) { page + 1 } else { page }
    }

    fn near_an_area(&mut self, space: usize, oracle: &Oracle) -> u64 {
        let areas = oracle.space(space).map(|s| s.areas()).unwrap_or_default();
        if areas.is_empty() {
            return self.window.start;
        }
        let area = self.pick(&areas);
        match self.below(4) {
            0 => area.start,
            1 => area.end - P,
            2 => area.start.saturating_sub(P),
            _ => area.start + self.below((area.end - area.start) / P) * P,
        }
    }

    fn len(&mut self) -> u64 {
        match self.below(100) {
            0 => 0,
            1 => self.below(4 * P),
            2 => self.pick(&[1 << 47, u64::MAX, u64::MAX - P]),
            3..=12 => (1 + self.below(40)) * P,
            _ => (1 + self.below(7)) * P,
        }
    }

    fn range(&mut self, space: usize, oracle: &Oracle) -> At {
        At { space, addr: self.addr(space, oracle), len: self.len() }
    }

    fn bytes(&mut self, space: usize, oracle: &Oracle) -> At {
        if let Some((addr, len)) = self.recent
            && self.one_in(3)
        {
            return At { space, addr, len };
        }
        let addr = self.addr(space, oracle).saturating_add(if self.one_in(2) { self.below(P) } else { 0 });
        let len = match self.below(8) {
            0 => 1,
            1..=4 => 1 + self.below(64),
            5..=6 => P,
            _ => 1 + self.below(12 * P),
        };
        self.recent = Some((addr, len));
        At { space, addr, len }
    }

    /// Mostly of pages that were written to empty ones that go with them. Elsewhere hardly any would move.
    fn uffd_move(&mut self, space: usize, oracle: &Oracle) -> Op {
        let pages = oracle.space(space).map(|s| &s.pages).filter(|_| !self.one_in(4));
        let private = || {
            let writable = |page: &Page| page.attrs.kind == Kind::Private && page.attrs.rights.write();
            pages.into_iter().flatten().filter(move |(_, page)| writable(page) && !page.guard)
        };
        let written: Vec<_> = private().filter(|(_, page)| page.contents.is_written()).collect();
        if written.is_empty() {
            return Op::UffdMove(self.range(space, oracle), self.addr(space, oracle));
        }
        let (from, source) = self.pick(&written);
        let goes_with = |page: &Page| {
            let (a, b) = (source.attrs, page.attrs);
            let absent = page.resident == Residency::No && !page.contents.is_written();
            absent && a.rights == b.rights && a.locked == b.locked
        };
        let empty: Vec<_> =
            private().filter(|(_, page)| goes_with(page)).map(|(&number, _)| number).collect();
        let to = if empty.is_empty() { self.addr(space, oracle) } else { self.pick(&empty) * P };
        let len = if self.one_in(2) { P } else { self.len() };
        Op::UffdMove(At { space, addr: from * P, len }, to)
    }

    fn large_area(&mut self, space: usize, oracle: &Oracle) -> At {
        let areas = oracle.space(space).map(|s| s.areas()).unwrap_or_default();
        let largest = areas.iter().max_by_key(|a| a.end - a.start);
        largest.map_or(At { space, addr: self.window.start, len: P }, |a| At {
            space,
            addr: a.start,
            len: a.end - a.start,
        })
    }
}

/// The operation moved into the window, or `None` if it cannot be.
fn confine(op: Op, window: &Range<u64>) -> Option<Op> {
    let into = |addr: u64| window.start + addr % (window.end - window.start);
    let cut = |addr: u64, len: u64| len.min(window.end - addr);
    let at = |at: At| {
        let addr = into(at.addr);
        At { addr, len: cut(addr, at.len), ..at }
    };
    Some(match op {
        Op::Spawn(_) | Op::Fork { .. } | Op::Exit(_) | Op::Brk(_) => return None,
        Op::Mmap(_, Place::Anywhere, ..) => return None,
        Op::Mmap(range, Place::Hint(to) | Place::NoReplace(to), rights, backing) => {
            let to = into(to);
            Op::Mmap(At { len: cut(to, range.len), ..range }, Place::NoReplace(to), rights, backing)
        }
        Op::Mmap(range, Place::Fixed(to), rights, backing) => {
            let to = into(to);
            Op::Mmap(At { len: cut(to, range.len), ..range }, Place::Fixed(to), rights, backing)
        }
        Op::Mremap(range, len, how) => {
            let range = at(range);
            let to = match how {
                Remap::InPlace => range.addr,
                Remap::Fixed(to) | Remap::DontUnmapFixed(to) => into(to),
                Remap::MayMove | Remap::DontUnmap => return None,
            };
            let how = match how {
                Remap::DontUnmapFixed(_) => Remap::DontUnmapFixed(to),
                Remap::Fixed(_) => Remap::Fixed(to),
                Remap::InPlace | Remap::MayMove | Remap::DontUnmap => Remap::InPlace,
            };
            Op::Mremap(range, cut(to, len), how)
        }
        Op::Munmap(range) => Op::Munmap(at(range)),
        Op::Mprotect(range, rights) => Op::Mprotect(at(range), rights),
        Op::Madvise(range, advice) => Op::Madvise(at(range), advice),
        Op::Mlock(range) => Op::Mlock(at(range)),
        Op::Munlock(range) => Op::Munlock(at(range)),
        Op::Mincore(range) => Op::Mincore(at(range)),
        Op::Read(range) => Op::Read(at(range)),
        Op::Write(range, tag) => Op::Write(at(range), tag),
        Op::Fetch(range) => Op::Fetch(at(range)),
        Op::DeviceWrite(range, tag) => Op::DeviceWrite(at(range), tag),
        Op::Hold(..) | Op::Release(..) => return None,
        Op::ClearRefs(_) => op,
        Op::UffdMove(range, to) => {
            let (range, to) = (at(range), into(to));
            Op::UffdMove(At { len: cut(to, range.len), ..range }, to)
        }
        Op::UffdFill(range, tag) => Op::UffdFill(at(range), tag),
        Op::UffdProtect(range, tag) => Op::UffdProtect(at(range), tag),
    })
}

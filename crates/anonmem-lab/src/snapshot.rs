//! Worlds that are copied back: a snapshot of the memory that CPUs may change, and what of it they touched.
//!
//! A whole memory manager is some hundred kilobytes, of which an execution touches a few dozen. Frames count
//! as touched when somebody asks for a pointer to them, and by the accesses that the probe sees: an owner may
//! have had its pointer since before the world began. Other memory counts by those accesses alone. In debug
//! builds a snapshot checks now and then that nothing else has changed.

use anonmem_hal::PAGE_SIZE;
use core::cell::Cell;

/// Memory that CPUs may change, for [`Scenario::restored_by_copy`](crate::Scenario::restored_by_copy).
#[derive(Clone, Copy, Debug)]
pub struct Region {
    start: *mut u8,
    len: usize,
    tracking: Tracking,
}

#[derive(Clone, Copy, Debug)]
enum Tracking {
    /// Everything is copied back.
    None,
    /// The pages that are in the set.
    Pages(*const Touched),
    /// What is near the accesses that the probe sees.
    Accesses,
}

impl Region {
    /// The `len` bytes at `start`, all of which are copied back.
    pub const fn new(start: *mut u8, len: usize) -> Self {
        Self { start, len, tracking: Tracking::None }
    }

    /// As [`new`](Self::new), but only the pages in `touched` are copied back, which somebody else keeps.
    /// `touched` lives as long as the memory.
    pub const fn in_pages(start: *mut u8, len: usize, touched: &Touched) -> Self {
        assert!(len <= Touched::MAX * PAGE_SIZE, "too large to be tracked");
        Self { start, len, tracking: Tracking::Pages(touched) }
    }

    /// As [`new`](Self::new), but only what lies within [`REACH`] bytes of an access that the probe sees is
    /// copied back: for one region of a world, of up to a megabyte, in which CPUs change atomics, plain words
    /// and what small locks hold.
    pub const fn by_access(start: *mut u8, len: usize) -> Self {
        assert!(len <= Touched::MAX * CHUNK, "too large to be tracked");
        Self { start, len, tracking: Tracking::Accesses }
    }

    /// Its bytes.
    ///
    /// # Safety
    /// The region is valid, and nobody changes it as long as the slice is used.
    unsafe fn bytes(&self) -> &[u8] {
        // SAFETY: valid; the bytes may be padding, which is copied as it is.
        unsafe { core::slice::from_raw_parts(self.start, self.len) }
    }

    /// Copies `len` bytes at `offset` back.
    ///
    /// # Safety
    /// As for [`bytes`](Self::bytes), and nobody borrows from the region.
    unsafe fn restore(&self, bytes: &[u8], offset: usize, len: usize) {
        let saved = &bytes[offset..bytes.len().min(offset + len)];
        // SAFETY: `bytes` is as long as the region, so `offset` is in it.
        let start = unsafe { self.start.add(offset) };
        // SAFETY: `saved` is in `bytes`, hence so is what it was copied from.
        unsafe { core::ptr::copy_nonoverlapping(saved.as_ptr(), start, saved.len()) };
    }
}

/// How far from an access the memory may lie that changes with it: what a lock holds is beside its word.
pub const REACH: usize = 256;
/// The bytes of a region tracked by accesses that are copied back together.
const CHUNK: usize = 512;

/// The pieces of a region that have been touched since it was copied back.
#[derive(Debug)]
pub struct Touched {
    pieces: [Cell<u64>; Self::MAX / 64],
}

impl Touched {
    /// The most pieces.
    pub const MAX: usize = 4096;

    /// Nothing.
    #[expect(clippy::new_without_default, reason = "not a value to have by default")]
    pub const fn new() -> Self {
        Self { pieces: [const { Cell::new(0) }; Self::MAX / 64] }
    }

    /// Adds a piece.
    #[inline]
    pub fn add(&self, piece: usize) {
        let word = &self.pieces[piece / 64];
        word.set(word.get() | 1 << (piece % 64));
    }

    /// Gives all pieces to `each`, and removes them.
    fn take(&self, each: impl FnMut(usize)) {
        self.for_each(each);
        self.pieces.iter().for_each(|word| word.set(0));
    }

    /// Gives all pieces to `each`.
    fn for_each(&self, mut each: impl FnMut(usize)) {
        for (i, word) in self.pieces.iter().enumerate() {
            let mut left = word.get();
            while left != 0 {
                each(i * 64 + left.trailing_zeros() as usize);
                left &= left - 1;
            }
        }
    }
}

/// The regions whose accesses are tracked.
#[derive(Clone, Copy, Debug)]
pub struct Watch {
    /// In chunks.
    accesses: Watched,
    /// In pages.
    pages: Watched,
}

/// A region of a [`Watch`].
#[derive(Clone, Copy, Debug)]
struct Watched {
    start: usize,
    len: usize,
    touched: *const Touched,
}

impl Watched {
    const NONE: Self = Self { start: 0, len: 0, touched: core::ptr::null() };

    /// Notes an access, if it is to this region: the pieces of `size` bytes that it may have to do with.
    #[inline(always)]
    fn note(&self, address: usize, size: usize) {
        let offset = address.wrapping_sub(self.start);
        if offset < self.len {
            // SAFETY: a watch that is not empty comes from a snapshot, which outlives the exploration, as do
            // the sets of its regions.
            let touched = unsafe { &*self.touched };
            touched.add(offset.saturating_sub(REACH) / size);
            touched.add((offset + REACH).min(self.len - 1) / size);
        }
    }
}

impl Watch {
    /// Watches nothing.
    pub const NONE: Self = Self { accesses: Watched::NONE, pages: Watched::NONE };

    /// Notes an access.
    #[inline]
    pub(crate) fn note(&self, address: usize) {
        self.accesses.note(address, CHUNK);
        self.pages.note(address, PAGE_SIZE);
    }
}

/// The memory of a world as it was at its beginning.
#[derive(Default)]
pub(crate) struct Snapshot {
    saved: Vec<(Region, Vec<u8>)>,
    accesses: Option<Box<Touched>>,
    restored: u64,
}

impl Snapshot {
    /// Takes the regions as they are.
    ///
    /// # Safety
    /// The regions are valid as long as the snapshot lives, and nobody changes them now.
    pub(crate) unsafe fn take(regions: Vec<Region>) -> Self {
        let tracked = regions.iter().filter(|r| matches!(r.tracking, Tracking::Accesses)).count();
        assert!(tracked <= 1, "only one region of a world can be tracked by accesses");
        // SAFETY: as this function demands.
        let saved = regions.into_iter().map(|r| (r, unsafe { r.bytes() }.to_vec())).collect();
        Self { saved, accesses: (tracked == 1).then(|| Box::new(Touched::new())), restored: 0 }
    }

    /// What the probe has to watch.
    pub(crate) fn watch(&self) -> Watch {
        let mut watch = Watch::NONE;
        for (region, _) in &self.saved {
            let of = |touched| Watched { start: region.start.addr(), len: region.len, touched };
            match (region.tracking, &self.accesses) {
                (Tracking::Pages(touched), _) => watch.pages = of(touched),
                (Tracking::Accesses, Some(touched)) => watch.accesses = of(&raw const **touched),
                (Tracking::Accesses, None) | (Tracking::None, _) => {}
            }
        }
        watch
    }

    /// What was touched of a region, and how large the pieces are; `None` if it is not tracked.
    fn touched(&self, region: &Region) -> Option<(&Touched, usize)> {
        match region.tracking {
            Tracking::None => None,
            // SAFETY: the set lives as long as the region.
            Tracking::Pages(touched) => Some((unsafe { &*touched }, PAGE_SIZE)),
            Tracking::Accesses => Some((self.accesses.as_ref().expect("made by `take`"), CHUNK)),
        }
    }

    /// Stands for the memory as it is now, as far as it is not what it was: 128 bits of hash of the lines
    /// that differ.
    ///
    /// # Safety
    /// Nobody changes the regions now.
    pub(crate) unsafe fn fingerprint(&self) -> u128 {
        let mut hash = Hash::new();
        for (number, (region, then)) in self.saved.iter().enumerate() {
            // SAFETY: as this function demands; `take` was promised that the region is valid.
            let now = unsafe { region.bytes() };
            let mut add = |at: usize, len: usize| {
                let piece = at..now.len().min(at + len);
                hash.add_differences((number << 48 | at) as u64, &now[piece.clone()], &then[piece]);
            };
            match self.touched(region) {
                None => add(0, now.len()),
                Some((touched, len)) => touched.for_each(|i| add(i * len, len)),
            }
        }
        hash.end()
    }

    /// Copies everything back that was touched.
    ///
    /// # Safety
    /// Nobody borrows from the regions.
    pub(crate) unsafe fn restore(&mut self) {
        self.restored += 1;
        let check = cfg!(debug_assertions) && self.restored % 32 == 1;
        for (region, bytes) in &self.saved {
            let Some((touched, piece)) = self.touched(region) else {
                // SAFETY: as this function demands.
                unsafe { region.restore(bytes, 0, region.len) };
                continue;
            };
            // SAFETY: as this function demands.
            touched.take(|i| unsafe { region.restore(bytes, i * piece, piece) });
            if check {
                // SAFETY: as above.
                assert_same(region, unsafe { region.bytes() }, bytes);
            }
        }
    }
}

fn assert_same(region: &Region, now: &[u8], then: &[u8]) {
    // All at once: byte by byte this was a tenth of a debug build's exploration.
    if now != then {
        let byte = now.iter().zip(then).position(|(now, then)| now != then);
        panic!("byte {byte:?} of {region:?} changed, but nobody touched it");
    }
}

/// A hash of 128 bits: multiply and fold, as in wyhash (Wang Yi).
struct Hash(u64, u64);

/// Odd, with about as many ones as zeroes.
const SALT: (u64, u64) = (0xa076_1d64_78bd_642f, 0xe703_7ed1_a0b4_28db);
/// The bytes that are compared together.
const LINE: usize = 64;
/// As many of them as are compared at once before.
const BLOCK: usize = 8 * LINE;

impl Hash {
    const fn new() -> Self {
        Self(0x8ebc_6af0_9c88_c6e3, 0x5899_65cc_7537_4cc3)
    }

    /// Adds the lines of `now` that are not as in `then`, and where they are: `start` is the place of the
    /// first.
    fn add_differences(&mut self, start: u64, now: &[u8], then: &[u8]) {
        // Most of what was touched is as it was, which is faster found out block by block.
        for (i, (now, then)) in now.chunks(BLOCK).zip(then.chunks(BLOCK)).enumerate() {
            if now != then {
                self.add_lines(start + (i * BLOCK) as u64, now, then);
            }
        }
    }

    /// As [`add_differences`](Self::add_differences), of a block.
    fn add_lines(&mut self, start: u64, now: &[u8], then: &[u8]) {
        let ((now, now_rest), (then, then_rest)) = (now.as_chunks::<LINE>(), then.as_chunks::<LINE>());
        for (i, (now, then)) in now.iter().zip(then).enumerate() {
            if differ(now, then) {
                self.add(start + (i * LINE) as u64, now);
            }
        }
        if now_rest != then_rest {
            let mut line = [0; LINE];
            line[..now_rest.len()].copy_from_slice(now_rest);
            self.add(start + (now.len() * LINE) as u64, &line);
        }
    }

    #[inline(never)]
    fn add(&mut self, at: u64, line: &[u8; LINE]) {
        self.mix(at, !at);
        for words in line.as_chunks::<16>().0 {
            let words = u128::from_le_bytes(*words);
            self.mix(words as u64, (words >> 64) as u64);
        }
    }

    /// Both halves of the state depend on both words.
    #[inline]
    fn mix(&mut self, x: u64, y: u64) {
        *self = Self(fold(self.0 ^ x, SALT.0 ^ y), fold(self.1 ^ y, SALT.1 ^ x));
    }

    fn end(self) -> u128 {
        u128::from(self.0) << 64 | u128::from(self.1)
    }
}

/// Without a branch for every word, let alone a call.
#[inline(always)]
fn differ(a: &[u8; LINE], b: &[u8; LINE]) -> bool {
    let words = a.as_chunks::<8>().0.iter().zip(b.as_chunks::<8>().0);
    words.fold(0, |bits, (a, b)| bits | u64::from_ne_bytes(*a) ^ u64::from_ne_bytes(*b)) != 0
}

#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_tells_every_byte_and_forgets_what_was_undone() {
        let mut bytes = vec![7u8; 3 * PAGE_SIZE + 24];
        let touched = Touched::new();
        let (start, paged) = (bytes.as_mut_ptr(), 2 * PAGE_SIZE);
        let rest = Region::new(start.wrapping_add(paged), bytes.len() - paged);
        // SAFETY: `bytes` outlives the snapshot and is reached through `start` alone from here on.
        let mut snapshot = unsafe { Snapshot::take(vec![Region::in_pages(start, paged, &touched), rest]) };
        // SAFETY: one thread.
        let right = unsafe { snapshot.fingerprint() };
        let mut seen = std::collections::HashSet::from([right]);
        for at in 0..bytes.len() {
            if at < paged {
                touched.add(at / PAGE_SIZE);
            }
            // SAFETY: inside of `bytes`.
            unsafe { start.wrapping_add(at).write(8) };
            // SAFETY: one thread.
            assert!(seen.insert(unsafe { snapshot.fingerprint() }), "byte {at}");
            // SAFETY: as above.
            unsafe { snapshot.restore() };
            // SAFETY: as above.
            assert_eq!(unsafe { snapshot.fingerprint() }, right);
        }
    }
}

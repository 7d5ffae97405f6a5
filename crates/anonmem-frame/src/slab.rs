//! Type-stable slabs: objects whose memory stays an object of that type for as long as the [`Frames`] live.
//!
//! A slot may be freed and used again at once, while others still hold its name. They read *some* `T`,
//! and must find out after locking it whether it is still the one they meant. So looking a name up is
//! safe, and needs no lock (Linux: `SLAB_TYPESAFE_BY_RCU`, without even the need for RCU).
//!
//! A slot's name is a [`Handle`]: its frame times 64 plus its place, plus one. A machine with more frames
//! than that can name sets some aside for slabs (`set_aside.rs`). State of a slot's word:
//!
//! | `state` | meaning |
//! |---|---|
//! | `LIVE` | allocated |
//! | 0 | free, last on its list |
//! | else | free, and the name of the next one |
//!
//! Reuse is last in, first out, on purpose: it makes a stale name meet a new object as soon as can be.
//!
//! Locks: a CPU's list, then the list that all share (subclass 1), then the frame allocator's.
//!
//! Linux: mm/slub.c. Differs: frames never go back.

use crate::{
    frames::{Frames, OutOfMemory},
    handle::{Handle, RawHandle},
    meta::Kind,
    place::{Field, Place},
    validate::Inconsistency,
};
use anonmem_hal::{Machine, Order, PAGE_SIZE, Pfn};
use anonmem_sync::{
    Atomic,
    Ordering::{Relaxed, Release},
    PerCpu, Plain, Spin, in_place, init_fields,
    order::Slab as SlabLevel,
};
use core::{
    any::TypeId,
    convert::Infallible,
    hash::{Hash, Hasher},
    marker::PhantomData,
    mem::MaybeUninit,
    ptr::NonNull,
};

/// What a slab can hold.
///
/// `new` makes every slot once, when its frame is taken; from then on the object is only ever reached
/// through `&self`, and is never dropped. Whoever allocates a slot finds what its last user left there.
pub trait SlabItem<M: Machine>: Send + Sync + 'static {
    /// What tells the names of its slots from those of other slabs; itself, unless the names are to be
    /// independent of the machine.
    type Tag: 'static;
    /// What it is called in messages and tables.
    const NAME: &'static str;
    /// Its fields, for displays.
    const FIELDS: &'static [Field] = &[];
    /// An object that nobody uses.
    fn new() -> Self;
}

/// An object and its place on a free list.
#[repr(C)]
struct Slot<T, M> {
    value: T,
    state: Atomic<u32, M>,
}

/// The state of a slot that is allocated. No handle has this value: see [`MAX_SLOTS`].
const LIVE: u32 = u32::MAX;
/// The most slots of a frame. A name has room for 64; without the last two, the largest name is 2^32 - 2.
const MAX_SLOTS: usize = 62;
/// The number of bits of a name for the place in the frame.
const SLOT_BITS: u32 = 6;
/// The most slots that move between a CPU's list and the shared one in one go.
const BATCH: u32 = 16;

/// A stack of free slots.
#[derive(Clone, Copy)]
struct FreeList {
    head: u32,
    len: u32,
}

impl FreeList {
    const EMPTY: Self = Self { head: 0, len: 0 };
}

struct CpuSlots<M: Machine> {
    free: Spin<M, SlabLevel, FreeList>,
    /// What this CPU allocated minus what it freed. Under the lock of `free`.
    live: Plain<i64, M>,
}

struct Central {
    free: FreeList,
    /// The newest frame as an index plus one; the others follow by their `private` words.
    last_frame: u32,
}

/// A slab of `T`s in the frames of one machine.
pub struct Slab<M: Machine, T> {
    /// `flags` of this slab's frames: kind and id.
    flags: u32,
    /// `mapping` of this slab's frames: see [`type_word`].
    type_word: u64,
    cpus: PerCpu<CpuSlots<M>, M>,
    central: Spin<M, SlabLevel, Central>,
    /// Frames taken. Under the lock of `central`.
    frames: Plain<u64, M>,
    /// The most slots in use so far. Under the lock of `central`.
    peak: Plain<u64, M>,
    _items: PhantomData<fn() -> T>,
}

impl<M: Machine, T: SlabItem<M>> Slab<M, T> {
    const SLOT_SIZE: usize = size_of::<Slot<T, M>>();
    /// The number of slots of a frame.
    const SLOTS: u32 = {
        assert!(Self::SLOT_SIZE <= PAGE_SIZE, "an object of a slab must fit in a frame");
        let fit = PAGE_SIZE / Self::SLOT_SIZE;
        (if fit < MAX_SLOTS { fit } else { MAX_SLOTS }) as u32
    };

    /// Makes a slab without a frame, where it is to stay.
    ///
    /// # Panics
    /// If these frames have had 2^24 slabs.
    pub fn init<'s>(slot: &'s mut MaybeUninit<Self>, frames: &Frames<M>) -> &'s mut Self {
        let id = frames.new_slab_id();
        assert!(id < 1 << 24, "too many slabs");
        let cpu = |_| CpuSlots { free: Spin::new(FreeList::EMPTY), live: Plain::new(0) };
        init_fields!(slot, {
            flags: Kind::Slab.bits(Order::ZERO) | id,
            type_word: type_word::<Slot<T, M>>(),
            cpus <- |cpus| PerCpu::init(cpus, cpu),
            central: Spin::new(Central { free: FreeList::EMPTY, last_frame: 0 }),
            frames: Plain::new(0),
            peak: Plain::new(0),
            _items: PhantomData,
        })
    }

    /// The same, as a value.
    ///
    /// # Panics
    /// As [`init`](Self::init).
    pub fn new(frames: &Frames<M>) -> Self {
        let Ok(slab) = in_place::value(|slot| Ok::<_, Infallible>(Self::init(slot, frames)));
        slab
    }

    /// Allocates a slot. Its object is what the last user left, or new.
    ///
    /// # Errors
    /// [`OutOfMemory`], if the machine refuses, or there is neither a free slot nor a frame.
    ///
    /// # Locks
    /// Spin locks only; none is held on return.
    #[inline]
    pub fn alloc(&self, frames: &Frames<M>) -> Result<Handle<T::Tag>, OutOfMemory> {
        if !frames.machine().admit() {
            return Err(OutOfMemory);
        }
        self.try_alloc(frames).or_else(|OutOfMemory| {
            self.drain(frames);
            self.try_alloc(frames)
        })
    }

    #[inline]
    fn try_alloc(&self, frames: &Frames<M>) -> Result<Handle<T::Tag>, OutOfMemory> {
        let cpu = self.cpus.this();
        let mut free = cpu.free.lock();
        if free.len == 0 {
            *free = self.refill(frames)?;
        }
        let (name, slot) = self.first(frames, &free);
        // Relaxed: whoever learns the name learns it by something stronger.
        *free = FreeList { head: slot.state.load(Relaxed), len: free.len - 1 };
        slot.state.store(LIVE, Relaxed);
        cpu.live.update(|n| n + 1);
        Ok(Handle::from_raw(name))
    }

    /// Frees a slot. Its object stays what it is until somebody allocates the slot and changes it.
    ///
    /// # Panics
    /// If the slot is not one of this slab's or is free.
    #[track_caller]
    pub fn free(&self, frames: &Frames<M>, h: Handle<T::Tag>) {
        let name = h.raw();
        let Some(slot) = self.slot(frames, name) else { self.not_ours(name) };
        let cpu = self.cpus.this();
        let mut free = cpu.free.lock();
        if slot.state.compare_exchange(LIVE, free.head, Relaxed).is_err() {
            self.freed_twice(name);
        }
        *free = FreeList { head: name.get(), len: free.len + 1 };
        cpu.live.update(|n| n - 1);
        if free.len >= 3 * BATCH {
            self.spill(frames, &mut free);
        }
    }

    /// The object with this name, whoever uses it now.
    ///
    /// # Panics
    /// If the slot is not one of this slab's.
    #[inline(always)]
    #[track_caller]
    pub fn get<'f>(&'f self, frames: &'f Frames<M>, h: Handle<T::Tag>) -> &'f T {
        match self.slot(frames, h.raw()) {
            Some(slot) => &slot.value,
            None => self.not_ours(h.raw()),
        }
    }

    /// The name with its type, if it is one of this slab's.
    #[inline]
    pub fn resolve(&self, frames: &Frames<M>, raw: RawHandle) -> Option<Handle<T::Tag>> {
        self.slot(frames, raw).map(|_| Handle::from_raw(raw))
    }

    /// The slot of the name, and the name with its type, if it is one of this slab's.
    #[inline]
    pub fn find<'f>(&'f self, frames: &'f Frames<M>, raw: RawHandle) -> Option<(Handle<T::Tag>, &'f T)> {
        self.slot(frames, raw).map(|slot| (Handle::from_raw(raw), &slot.value))
    }

    /// Whether the slot is allocated (to somebody).
    ///
    /// # Panics
    /// If the slot is not one of this slab's.
    #[inline]
    #[track_caller]
    pub fn is_live(&self, frames: &Frames<M>, h: Handle<T::Tag>) -> bool {
        let Some(slot) = self.slot(frames, h.raw()) else { self.not_ours(h.raw()) };
        slot.state.load(Relaxed) == LIVE
    }

    /// What `address` is, if it is in one of this slab's objects; its number is that of the handle.
    pub fn place_of(&self, frames: &Frames<M>, address: usize) -> Option<Place> {
        let (pfn, kind, offset) = frames.frame_of(address)?;
        let index = frames.memmap.find(pfn)?;
        let ours = kind == Kind::Slab && frames.memmap.get(index)?.flags.peek() == self.flags;
        let place = (offset / Self::SLOT_SIZE) as u32;
        if !ours || place >= Self::SLOTS {
            return None;
        }
        let inside = offset % Self::SLOT_SIZE;
        let state = core::mem::offset_of!(Slot<T, M>, state);
        let number = Some(u64::from(Self::name(index, place)));
        Some(match inside {
            i if i < state => Place::new(T::NAME, number, T::FIELDS, i),
            i => Place::new(T::NAME, number, &[Field::new("slot", state)], i),
        })
    }

    /// The number of slots in use.
    pub fn live(&self) -> u64 {
        self.cpus.iter().map(|cpu| cpu.live.peek()).sum::<i64>().max(0) as u64
    }

    /// The most slots in use so far. Looked at when a CPU's list is refilled, so that it may lag by one
    /// list per CPU.
    pub fn peak(&self) -> u64 {
        self.peak.peek().max(self.live())
    }

    /// The number of frames that it has taken.
    pub fn frames(&self) -> u64 {
        self.frames.peek()
    }

    /// Calls `f` with every slot in use. Exact only if nothing is allocated or freed meanwhile.
    pub fn for_each_live(&self, frames: &Frames<M>, mut f: impl FnMut(Handle<T::Tag>, &T)) {
        self.for_each_slot(frames, |name, slot| {
            if slot.state.peek() == LIVE {
                f(Handle::from_raw(name), &slot.value);
            }
        });
    }

    /// Checks that every slot is in use or on one list, at rest.
    ///
    /// # Errors
    /// The first thing that does not add up.
    pub fn validate(&self, frames: &Frames<M>) -> Result<(), Inconsistency> {
        let total = self.frames() * u64::from(Self::SLOTS);
        let mut live = 0;
        self.for_each_live(frames, |_, _| live += 1);
        let wrong = |what| Err(Inconsistency { pfn: frames.memmap.pfn(0), what });
        if live != self.live() {
            return wrong("the number of a slab's live slots is wrong");
        }
        let mut free = self.check_list(frames, self.central.lock_nested(1).free)?;
        for cpu in self.cpus.iter() {
            free += self.check_list(frames, *cpu.free.lock())?;
        }
        if live + free != total { wrong("a slab's slot is neither live nor on a list") } else { Ok(()) }
    }
}

/// The inner workings: lists, frames, and the way from a name to a slot.
impl<M: Machine, T: SlabItem<M>> Slab<M, T> {
    /// The slot with this name, if it is one of ours.
    #[inline(always)]
    fn slot<'f>(&self, frames: &'f Frames<M>, name: RawHandle) -> Option<&'f Slot<T, M>> {
        let name = name.get() - 1;
        let (index, place) = (name >> SLOT_BITS, name & ((1 << SLOT_BITS) - 1));
        let meta = frames.memmap.get(index)?;
        // Acquire pairs with the Release of `grow`: a name may be guessed, so the slots must be seen made.
        // The words are final once they say so, hence nothing for a probe to steer.
        if meta.flags.peek_acquire() != self.flags || meta.mapping.peek() != self.type_word {
            return None;
        }
        if place >= Self::SLOTS {
            return None;
        }
        let slot = Self::slot_in(frames, index, place);
        // SAFETY: the frame's type word says that `grow` made `SLOTS` of these in it, and no slab frame is
        // ever used for anything else or freed, so they live as long as `frames`. That holds even if these
        // are not the frames that `self` was made for.
        Some(unsafe { slot.as_ref() })
    }

    /// Where slot `place` of a frame is.
    #[inline(always)]
    fn slot_in(frames: &Frames<M>, index: u32, place: u32) -> NonNull<Slot<T, M>> {
        let page = frames.machine().direct_map(frames.memmap.pfn(index));
        // SAFETY: `place` is below `SLOTS`, so the slot lies in the page.
        unsafe { page.byte_add(place as usize * Self::SLOT_SIZE) }.cast()
    }

    /// The name of slot `place` of a frame.
    #[inline(always)]
    const fn name(index: u32, place: u32) -> u32 {
        (index << SLOT_BITS | place) + 1
    }

    /// The first slot of a list that is not empty.
    #[inline(always)]
    fn first<'f>(&self, frames: &'f Frames<M>, free: &FreeList) -> (RawHandle, &'f Slot<T, M>) {
        let name = RawHandle::new(free.head).expect("a list with a length has a head");
        (name, self.slot(frames, name).unwrap_or_else(|| self.not_ours(name)))
    }

    /// Free slots for a CPU that has none: a batch of the shared ones, or a new frame's.
    #[cold]
    #[inline(never)]
    fn refill(&self, frames: &Frames<M>) -> Result<FreeList, OutOfMemory> {
        let mut central = self.central.lock_nested(1);
        if central.free.len == 0 {
            central.free = self.grow(frames, central.last_frame)?;
            central.last_frame = ((central.free.head - 1) >> SLOT_BITS) + 1;
            self.frames.update(|n| n + 1);
        }
        let batch = self.split(frames, &mut central.free, BATCH);
        let at_most = self.frames.get() * u64::from(Self::SLOTS) - u64::from(central.free.len + batch.len);
        if at_most > self.peak.get() {
            self.peak.set(self.peak.get().max(self.live()));
        }
        Ok(batch)
    }

    /// Takes a frame and fills it with free slots. `previous` is the slab's newest frame so far.
    fn grow(&self, frames: &Frames<M>, previous: u32) -> Result<FreeList, OutOfMemory> {
        let pfn: Pfn = frames.alloc_for_names()?;
        let index = frames.memmap.index(pfn);
        for place in 0..Self::SLOTS {
            let next = if place + 1 < Self::SLOTS { Self::name(index, place + 1) } else { 0 };
            let slot = Slot { value: T::new(), state: Atomic::new(next) };
            // SAFETY: the frame is ours alone until `flags` says otherwise, and large enough.
            unsafe { Self::slot_in(frames, index, place).write(slot) };
        }
        let meta = frames.memmap.at(index);
        meta.private.store(u64::from(previous), Relaxed);
        meta.mapping.store(self.type_word, Relaxed);
        // Release pairs with the Acquire of `slot`: the slots are made.
        meta.flags.store(self.flags, Release);
        Ok(FreeList { head: Self::name(index, 0), len: Self::SLOTS })
    }

    /// Splits up to `n` slots off the front of a list.
    fn split(&self, frames: &Frames<M>, list: &mut FreeList, n: u32) -> FreeList {
        if list.len <= n {
            return core::mem::replace(list, FreeList::EMPTY);
        }
        let front = FreeList { head: list.head, len: n };
        let mut last = self.first(frames, list).1;
        for _ in 1..n {
            list.head = last.state.load(Relaxed);
            last = self.first(frames, list).1;
        }
        *list = FreeList { head: last.state.load(Relaxed), len: list.len - n };
        last.state.store(0, Relaxed);
        front
    }

    /// Puts a list in front of the shared one.
    fn give_back(&self, frames: &Frames<M>, list: FreeList) {
        let mut central = self.central.lock_nested(1);
        let mut last = self.first(frames, &list).1;
        for _ in 1..list.len {
            let rest = FreeList { head: last.state.load(Relaxed), len: 1 };
            last = self.first(frames, &rest).1;
        }
        last.state.store(central.free.head, Relaxed);
        central.free = FreeList { head: list.head, len: central.free.len + list.len };
    }

    /// Keeps the slots of a CPU that were freed last, and gives the others back.
    #[cold]
    #[inline(never)]
    fn spill(&self, frames: &Frames<M>, free: &mut FreeList) {
        let keep = self.split(frames, free, BATCH);
        self.give_back(frames, core::mem::replace(free, keep));
    }

    /// Gives the free slots of all CPUs back.
    #[cold]
    #[inline(never)]
    fn drain(&self, frames: &Frames<M>) {
        for cpu in self.cpus.iter() {
            let mut free = cpu.free.lock();
            if free.len > 0 {
                self.give_back(frames, core::mem::replace(&mut free, FreeList::EMPTY));
            }
        }
    }

    fn for_each_slot(&self, frames: &Frames<M>, mut f: impl FnMut(RawHandle, &Slot<T, M>)) {
        let mut link = self.central.lock_nested(1).last_frame;
        while let Some(index) = link.checked_sub(1) {
            for name in (0..Self::SLOTS).filter_map(|place| RawHandle::new(Self::name(index, place))) {
                match self.slot(frames, name) {
                    Some(slot) => f(name, slot),
                    None => self.not_ours(name),
                }
            }
            link = frames.memmap.at(index).private.load(Relaxed) as u32;
        }
    }

    /// Overwrites a slot's state, to see what `validate` says.
    #[cfg(test)]
    pub(crate) fn plant_state(&self, frames: &Frames<M>, h: Handle<T::Tag>, state: u32) {
        self.slot(frames, h.raw()).expect("a slot").state.store(state, Relaxed);
    }

    /// Follows a list; returns its length.
    fn check_list(&self, frames: &Frames<M>, list: FreeList) -> Result<u64, Inconsistency> {
        let (mut link, mut len) = (list.head, 0);
        while let Some(name) = RawHandle::new(link) {
            let pfn = frames.memmap.pfn((name.get() - 1) >> SLOT_BITS);
            let Some(slot) = self.slot(frames, name) else {
                return Err(Inconsistency { pfn, what: "a slab's list leads to what is not its own" });
            };
            link = slot.state.peek();
            len += 1;
            if link == LIVE || len > list.len {
                return Err(Inconsistency { pfn, what: "a slab's list has a live slot or runs in a circle" });
            }
        }
        let pfn = frames.memmap.pfn(0);
        if len != list.len {
            return Err(Inconsistency { pfn, what: "a slab's list is shorter than it says" });
        }
        Ok(u64::from(len))
    }

    #[cold]
    #[inline(never)]
    #[track_caller]
    fn not_ours(&self, name: RawHandle) -> ! {
        panic!("{name:?} names no {}", T::NAME)
    }

    #[cold]
    #[inline(never)]
    #[track_caller]
    fn freed_twice(&self, name: RawHandle) -> ! {
        panic!("the {} {name:?} is freed twice", T::NAME)
    }
}

/// What tells one type from all others in a frame's metadata: 64 bits of the compiler's own hash of it.
///
/// A slab's number would not do. It is unique among the slabs of one machine's frames, but nothing keeps
/// a caller from asking one slab about the frames of another machine.
fn type_word<S: 'static>() -> u64 {
    struct Fold(u64);
    impl Hasher for Fold {
        fn finish(&self) -> u64 {
            self.0
        }
        fn write(&mut self, bytes: &[u8]) {
            for chunk in bytes.chunks(8) {
                let mut word = [0; 8];
                word[..chunk.len()].copy_from_slice(chunk);
                self.write_u64(u64::from_ne_bytes(word));
            }
        }
        fn write_u64(&mut self, word: u64) {
            self.0 = self.0.rotate_left(32) ^ word;
        }
    }
    let mut fold = Fold(0);
    TypeId::of::<S>().hash(&mut fold);
    fold.finish()
}

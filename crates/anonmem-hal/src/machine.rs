//! What the memory manager asks of the world, as a handful of small traits.
//!
//! Methods with a `self` act on one machine's memory. The associated functions of [`Sched`] need no value,
//! because locks are typed by the machine and do not store it.

use crate::{
    addr::{Order, PAGE_SIZE, Pfn, Va, VaRange},
    arch::Arch,
    cpu::{CpuId, CpuSet},
    nodes::NodePolicy,
    page_words::{self, Words},
    probe::Probe,
};
use core::{fmt, num::NonZeroU64, ptr::NonNull};

/// The world that a memory manager runs on.
///
/// A machine of one CPU, without swap, sources or a scheduler, is this much. `machines/testkit` has one with
/// threads as CPUs, swap and a software MMU.
///
/// ```
/// use anonmem_hal::*;
/// use core::ptr::NonNull;
///
/// struct OneCpu {
///     frames: NonNull<u8>,
///     nr_frames: u64,
///     memmap: NonNull<u8>,
/// }
///
/// // SAFETY: one CPU runs all of the kernel, so nothing is shared.
/// unsafe impl Send for OneCpu {}
/// // SAFETY: as above.
/// unsafe impl Sync for OneCpu {}
///
/// impl Machine for OneCpu {
///     type Arch = arch::X86_64;
///     type Probe = NoProbe;
///     type Cpus = UpTo<1>;
///     type ReverseMap = reverse_map::AnonVmas;
///     const CHECKED: bool = false;
/// }
///
/// // SAFETY: the boot code has set the frames and the metadata aside, page-aligned and zeroed.
/// unsafe impl PhysMem for OneCpu {
///     fn base_pfn(&self) -> Pfn {
///         Pfn(0x100)
///     }
///     fn nr_frames(&self) -> u64 {
///         self.nr_frames
///     }
///     fn memmap(&self) -> NonNull<u8> {
///         self.memmap
///     }
///     fn direct_map(&self, pfn: Pfn) -> NonNull<u8> {
///         let index = pfn.0 - 0x100;
///         assert!(index < self.nr_frames, "no frame of this machine");
///         // SAFETY: the frame is one of ours.
///         unsafe { self.frames.add(index as usize * PAGE_SIZE) }
///     }
///     unsafe fn zero(&self, pfn: Pfn, order: Order) {
///         // SAFETY: the block is the caller's alone.
///         unsafe { self.direct_map(pfn).write_bytes(0, order.bytes()) }
///     }
///     unsafe fn copy(&self, dst: Pfn, src: Pfn, order: Order) {
///         // SAFETY: on one CPU no program runs meanwhile; the two blocks are different ones.
///         unsafe { self.direct_map(src).copy_to_nonoverlapping(self.direct_map(dst), order.bytes()) }
///     }
/// }
///
/// // SAFETY: both instructions drop every translation of this CPU, which is the only one.
/// unsafe impl Mmu for OneCpu {
///     fn flush(&self, _cpus: CpuSet<'_>, _root: Pfn, _what: FlushRange) { /* load the root again */ }
///     fn flush_local(&self, _root: Pfn, _va: Va) { /* invlpg */ }
/// }
///
/// // SAFETY: there is one CPU, and nothing preempts it.
/// unsafe impl Sched for OneCpu {
///     fn current_cpu() -> CpuId {
///         CpuId(0)
///     }
///     fn nr_cpus() -> usize {
///         1
///     }
///     fn yield_now() {} // to another task, where there is one
/// }
///
/// impl Clock for OneCpu {
///     fn now_ns(&self) -> u64 {
///         0 // a counter, where there is one
///     }
/// }
/// impl Sources for OneCpu {}
/// impl SwapIo for OneCpu {}
/// ```
pub trait Machine: PhysMem + Mmu + Sched + Clock + Sources + SwapIo + Sized + Send + Sync + 'static {
    /// Its page-table format.
    type Arch: Arch;
    /// Its observer of shared accesses; [`crate::NoProbe`] unless it simulates.
    type Probe: Probe;
    /// How many CPUs it may have, for example [`UpTo<8>`](crate::UpTo): the memory manager has room for so
    /// many. Nothing but this limits them.
    type Cpus: crate::CpuSlots;
    /// How the memory manager finds what maps a page: one of [`reverse_map`](crate::reverse_map).
    type ReverseMap: 'static;
    /// Whether the lock order and other run-time rules are checked. Off in benches.
    const CHECKED: bool;

    /// Whether a panic is unwinding: an owner that asserts something when it is dropped keeps quiet then.
    #[inline(always)]
    fn unwinding() -> bool {
        false
    }
}

/// Physical memory, by frame.
///
/// User bytes are only ever moved by these calls: there is no `&mut [u8]` to a page that a program may
/// be writing to.
///
/// Whoever has the machine may read any of its frames. What changes a frame is `unsafe`: a number that names
/// a frame gives no right to it. The owners of `anonmem-frame` have that right, and safe methods for it.
///
/// # Safety
/// - Frames `base_pfn() .. base_pfn() + nr_frames()` belong to the one memory manager that was made from
///   this value, for as long as it lives, and nobody else touches them except through page tables.
/// - [`direct_map`](Self::direct_map) returns a page-aligned pointer to the frame's bytes, valid for reads
///   and writes for that time, at the same address every time; consecutive frames are adjacent.
/// - [`direct_map`](Self::direct_map) is told any number: it touches no memory, and panics if there is no
///   such frame, or returns a pointer that nobody may use;
/// - [`read_bytes`](Self::read_bytes), [`hash_page`](Self::hash_page), [`same_bytes`](Self::same_bytes) and
///   [`is_zero`](Self::is_zero) panic if there is no such frame. Of those that there are they may be told
///   any, at any time, whoever is writing to it.
/// - [`memmap`](Self::memmap) points to `nr_frames() * 32` zeroed bytes, aligned to 64, that belong to the
///   memory manager alone.
pub unsafe trait PhysMem {
    /// The first frame.
    fn base_pfn(&self) -> Pfn;
    /// The number of frames, at most 2^32 - 1 (16 TiB).
    fn nr_frames(&self) -> u64;
    /// The array of frame metadata, 32 bytes a frame.
    fn memmap(&self) -> NonNull<u8>;
    /// Where the kernel sees the frame.
    fn direct_map(&self, pfn: Pfn) -> NonNull<u8>;
    /// Zeroes a block of frames.
    ///
    /// # Safety
    /// The frames are this machine's and the caller's to change: nobody relies on their bytes, but programs
    /// through page tables, and devices.
    unsafe fn zero(&self, pfn: Pfn, order: Order);
    /// Copies a block of frames; programs may be writing to `src`.
    ///
    /// # Safety
    /// All frames are this machine's. Those from `dst` on are the caller's to change, as for
    /// [`zero`](Self::zero), and none of them is one of those from `src` on.
    unsafe fn copy(&self, dst: Pfn, src: Pfn, order: Order);

    /// Copies bytes of a frame from byte `offset` on into a kernel buffer; programs may be writing to them.
    ///
    /// # Panics
    /// If they do not all lie in the frame, or there is no such frame.
    fn read_bytes(&self, pfn: Pfn, offset: usize, to: &mut [u8]) {
        assert_in_frame(offset, to.len());
        assert_frame(self, pfn);
        let len = to.len();
        let target = NonNull::from(to).cast();
        // SAFETY: the offset lies in the frame.
        let source = unsafe { self.direct_map(pfn).add(offset) };
        // SAFETY: the frame's bytes are valid for reads, and these lie in it; `to` is the caller's alone.
        unsafe { source.copy_to_nonoverlapping(target, len) };
    }
    /// Copies a kernel buffer to the bytes of a frame from byte `offset` on; programs may be using them.
    ///
    /// # Panics
    /// If they do not all lie in the frame.
    ///
    /// # Safety
    /// As for [`zero`](Self::zero), of one frame.
    unsafe fn write_bytes(&self, pfn: Pfn, offset: usize, from: &[u8]) {
        assert_in_frame(offset, from.len());
        let source = NonNull::from(from).cast();
        // SAFETY: the offset lies in the frame.
        let target = unsafe { self.direct_map(pfn).add(offset) };
        // SAFETY: the frame's bytes are valid for writes, and these lie in it; `from` is no part of it.
        unsafe { target.copy_from_nonoverlapping(source, from.len()) };
    }

    /// A hash of the frame's bytes under a key; programs may be writing to them. Frames with equal bytes have
    /// equal hashes under one key. Others may, too. But who does not know the key cannot make such frames,
    /// each of which would cost a comparison. [`PageHash`](crate::PageHash) is
    /// such a hash.
    ///
    /// # Panics
    /// If there is no such frame.
    fn hash_page(&self, pfn: Pfn, key: u64) -> u64 {
        page_words::hash(words(self, pfn), key)
    }

    /// Whether two frames have the same bytes; programs may be writing to them. If nobody does, the answer is
    /// right: one of two equal frames is given up.
    ///
    /// # Panics
    /// If there is no such frame.
    fn same_bytes(&self, one: Pfn, other: Pfn) -> bool {
        page_words::same(words(self, one), words(self, other))
    }

    /// Whether the frame's bytes are all 0. `false` is always a right answer.
    #[inline]
    fn is_zero(&self, _pfn: Pfn) -> bool {
        false
    }

    /// Asked before every allocation: `false` makes it fail. Tests inject failures here; a hypervisor may
    /// keep a balloon.
    #[inline]
    fn admit(&self) -> bool {
        true
    }
    /// Told that a block left the allocator. Tests check that its poison is intact.
    ///
    /// # Safety
    /// It has just done so.
    #[inline]
    unsafe fn allocated(&self, _pfn: Pfn, _order: Order) {}
    /// Told that a block came back. Tests poison it.
    ///
    /// # Safety
    /// It has just done so: nobody uses it any more.
    #[inline]
    unsafe fn freed(&self, _pfn: Pfn, _order: Order) {}
}

/// The words of a frame, which programs may be writing to.
fn words<M: PhysMem + ?Sized>(machine: &M, pfn: Pfn) -> &Words {
    assert_frame(machine, pfn);
    // SAFETY: the frame's bytes are aligned and valid for reads as long as the machine is there, and whoever
    // changes them meanwhile is a program, or writes words at once.
    unsafe { machine.direct_map(pfn).cast().as_ref() }
}

fn assert_frame<M: PhysMem + ?Sized>(machine: &M, pfn: Pfn) {
    let has = pfn.0.checked_sub(machine.base_pfn().0).is_some_and(|index| index < machine.nr_frames());
    assert!(has, "frame {:#x} is none of this machine's", pfn.0);
}

fn assert_in_frame(offset: usize, len: usize) {
    assert!(offset <= PAGE_SIZE && len <= PAGE_SIZE - offset, "an access leaves its frame");
}

/// Which translations to forget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlushRange {
    /// Those of the pages in a range.
    Range(VaRange),
    /// All of the address space.
    All,
}

/// Address spaces and the caches of their translations.
///
/// # Safety
/// The memory manager frees a page when [`flush`](Self::flush) says that no CPU translates to it any more,
/// and page tables after that. So:
/// - [`flush`](Self::flush) returns only when no CPU of `cpus` holds a translation of the range, nor of the
///   tables that lead to it, and none makes one from what it read of an entry before;
/// - [`init_root`](Self::init_root) fills entries above `Arch::USER_END` and no others.
pub unsafe trait Mmu {
    /// Fills the kernel's part of a new top-level table, which is zeroed. A machine without such a part
    /// implements nothing.
    ///
    /// # Safety
    /// `root` is a new table of this machine, which nobody else has.
    unsafe fn init_root(&self, _root: Pfn) {}
    /// Makes every CPU of `cpus` forget translations of the address space `root`, those that it cached from
    /// intermediate tables included, and returns once all have. Their accesses through those translations are
    /// over then, and walks that they begin later see the entries as the caller does.
    ///
    /// It need not order anything else that those CPUs and the caller do: nobody relies on it as a barrier.
    ///
    /// The caller's own CPU may be a member. Called without spin locks whose holders could block an
    /// acknowledgement; page-table locks may be held.
    fn flush(&self, cpus: CpuSet<'_>, root: Pfn, what: FlushRange);
    /// Makes this CPU forget one translation of its current address space (after a fault that turned out
    /// spurious).
    fn flush_local(&self, root: Pfn, va: Va);
}

/// The lock ranks that one task holds, for the lock-order checker. Plain data; `anonmem-sync` has the rules.
#[derive(Clone, Debug)]
pub struct HeldLocks {
    /// Rank and address of each lock held, oldest first.
    pub entries: [(u16, usize); Self::MAX],
    /// How many of them are in use.
    pub len: usize,
}

impl HeldLocks {
    /// Locks that a task may hold at once: a batch of folios that leave, and what unmapping one more takes.
    pub const MAX: usize = 48;
    /// Nothing held.
    pub const NONE: Self = Self { entries: [(0, 0); Self::MAX], len: 0 };
}

impl Default for HeldLocks {
    fn default() -> Self {
        Self::NONE
    }
}

/// What ends a wait for another program before that program does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GiveUp {
    /// Any signal: the task goes back to its program, which handles the signal and comes again.
    Signal,
    /// The end of the task's program.
    Death,
}

/// Tasks and CPUs.
///
/// A task stays on its CPU until it parks or yields: kernel code is not preempted. (A hosted machine pins
/// each thread to one simulated CPU.)
///
/// A machine without a scheduler implements [`current_cpu`](Self::current_cpu) and
/// [`nr_cpus`](Self::nr_cpus), and a [`yield_now`](Self::yield_now) that does nothing: who has to wait then
/// spins. A machine that implements [`park`](Self::park) implements [`unpark`](Self::unpark), too. One that
/// is [`CHECKED`](Machine::CHECKED) implements [`with_held_locks`](Self::with_held_locks).
///
/// # Safety
/// Per-CPU data is accessed without a lock, and locks are built on these calls. So:
/// - [`current_cpu`](Self::current_cpu) names the CPU that runs the caller, below [`nr_cpus`](Self::nr_cpus),
///   which never changes; no two tasks run on one CPU at a time, and a task changes its CPU only in
///   [`park`](Self::park) and [`yield_now`](Self::yield_now);
/// - [`contended`](Self::contended) runs `wait`, once, before it returns;
/// - [`with_held_locks`](Self::with_held_locks) runs its function on a list that the current task alone uses.
pub unsafe trait Sched {
    /// The CPU that runs this.
    fn current_cpu() -> CpuId;
    /// The number of CPUs; their ids are below it.
    fn nr_cpus() -> usize;
    /// Sleeps until an [`unpark`](Self::unpark) of `key`, unless `keep_waiting()` is already false.
    ///
    /// The check and the enqueueing are one step with respect to `unpark` of the same key. May return
    /// early: callers loop.
    fn park(_key: usize, keep_waiting: &dyn Fn() -> bool) {
        while keep_waiting() {
            Self::yield_now();
        }
    }
    /// As [`park`](Self::park), for a wait that only another program ends: a signal ends it, too. Says
    /// whether one has come, so that the wait is to be given up.
    fn park_for_program(key: usize, keep_waiting: &dyn Fn() -> bool, _until: GiveUp) -> bool {
        Self::park(key, keep_waiting);
        false
    }
    /// Whether the program that the current task works for is to end, whatever the task comes to: long work
    /// that can be left half done is.
    #[doc(alias = "fatal_signal_pending")]
    fn is_dying() -> bool {
        false
    }
    /// Where the current task wants its pages, if the mapping that they are of says nothing. Linux:
    /// `set_mempolicy`. A machine of one node wants nothing.
    #[inline(always)]
    fn node_policy() -> NodePolicy {
        NodePolicy::DEFAULT
    }
    /// The node of the CPU that runs this.
    #[doc(alias = "numa_node_id")]
    #[inline(always)]
    fn current_node() -> u32 {
        0
    }
    /// Wakes up to `n` tasks parked on `key`.
    fn unpark(_key: usize, _n: usize) {}
    /// The number that a program knows the current task by. Linux: `task_pid_vnr`.
    fn task_number() -> u32 {
        0
    }
    /// Told that a message has come that a program may be waiting to read (`Uffd::read`). Called without
    /// spin locks.
    fn message_queued() {}
    /// Waits a moment while a spin lock is contended; lets TLB shootdowns be answered.
    fn relax() {
        core::hint::spin_loop();
    }
    /// Waits for a sleeping lock without going to sleep, for as long as that is better. Then the caller
    /// sleeps.
    ///
    /// Returns when `keep_waiting()` says no, which may have taken the lock. Returns at once if another task
    /// wants this CPU, or if no other CPU runs one: then nobody is there who could let go of the lock. Else
    /// it returns when going to sleep and waking up would have taken as long. Called without spin locks.
    ///
    /// A machine that lets its tasks sleep at once implements nothing.
    #[doc(alias = "rwsem_optimistic_spin")]
    #[inline(always)]
    fn optimistic_spin(_keep_waiting: &dyn Fn() -> bool) {}
    /// Lets the other tasks run before a loop goes round again that waits for what they do, and does things
    /// itself each time. Called without spin locks, and outside of RCU sections.
    ///
    /// Where nothing preempts the kernel, this has to give the CPU to whoever can run. The task that is
    /// waited for may be one of those: if every CPU only spins here, the machine stands still.
    #[doc(alias = "cond_resched")]
    fn yield_now();
    /// Runs `wait`, which waits for a lock of the rank `level` that somebody else has. Machines that tell how
    /// long programs wait measure here; a lock that is free never comes by. Linux: the tracepoints
    /// `contention_begin`, `contention_end`.
    #[inline]
    fn contended(_level: u16, wait: &mut dyn FnMut()) {
        wait();
    }
    /// Runs `f` on the list of locks that the current task holds. Called only if [`Machine::CHECKED`]: a
    /// machine that is not checked keeps no lists.
    ///
    /// # Safety
    /// `f` does not call this again: the list is borrowed meanwhile.
    unsafe fn with_held_locks(_f: &mut dyn FnMut(&mut HeldLocks)) {
        unreachable!("a machine that is CHECKED keeps a list of held locks for each task")
    }
}

/// Time.
pub trait Clock {
    /// Nanoseconds since some fixed point, never going back.
    fn now_ns(&self) -> u64;
}

/// Names what a private mapping is filled from: a file, an ELF segment, a blob. The machine gives it its
/// meaning.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(transparent)]
pub struct SourceId(pub NonZeroU64);

/// The bytes behind private mappings that do not start as zeroes.
///
/// A machine without sources implements none of it.
pub trait Sources {
    /// Fills frame `dst` with the page of `source` at byte `offset`, zeroes beyond its end. May sleep.
    ///
    /// # Errors
    /// [`SourceError`] if there is no such page or it cannot be read: the access is a SIGBUS.
    ///
    /// # Safety
    /// `dst` is a frame of this machine that nobody else has.
    unsafe fn fill(&self, _source: SourceId, _offset: u64, _dst: Pfn) -> Result<(), SourceError> {
        Err(SourceError)
    }
    /// Called when another VMA starts to refer to `source`.
    fn dup(&self, _source: SourceId) {}
    /// Called when a VMA that referred to `source` no longer does.
    fn release(&self, _source: SourceId) {}
}

/// The page of a source cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceError;

impl fmt::Display for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a page of a source cannot be had")
    }
}

impl core::error::Error for SourceError {}

/// Frames for a swap device that keeps its pages in memory. Implemented by the memory manager.
///
/// # Safety
/// A frame that [`alloc_frame`](Self::alloc_frame) gives is one of the machine's, and nobody else has it
/// until it is given back.
pub unsafe trait FrameAlloc {
    /// A frame, from the reserve if need be; `None` if there is none.
    fn alloc_frame(&self) -> Option<Pfn>;
    /// Gives one back.
    ///
    /// # Safety
    /// `pfn` came from [`alloc_frame`](Self::alloc_frame) of the same allocator, is given back once, and
    /// nothing of it is used any more.
    unsafe fn free_frame(&self, pfn: Pfn);
}

/// A page could not be read from or written to a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoError;

impl fmt::Display for IoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a page could not be read from or written to a swap device")
    }
}

impl core::error::Error for IoError {}

/// Where pages go that leave memory. Devices are numbered by whoever adds them to the memory manager.
///
/// A machine without swap implements none of it.
pub trait SwapIo {
    /// Writes 2^`order` frames from `src` on to as many slots of `device` from `slot` on. Both are aligned to
    /// their number: one unit of work for a device that can do it at once. Returns when the frames may be
    /// reused. May sleep.
    ///
    /// # Errors
    /// [`IoError`]: the pages stay in memory. The slots hold nothing, or anything.
    ///
    /// # Safety
    /// The frames are of this machine, the slots the caller's, and `frames` gives frames of the same machine
    /// that nobody else has.
    unsafe fn swap_write(
        &self,
        _device: u8,
        _slot: u64,
        _order: Order,
        _src: Pfn,
        _frames: &dyn FrameAlloc,
    ) -> Result<(), IoError> {
        Err(IoError)
    }

    /// Reads 2^`order` slots of `device` from `slot` on into as many frames from `dst` on. May sleep.
    ///
    /// # Errors
    /// [`IoError`]: of one page, that it is lost; whoever needs it gets a SIGBUS. Of more, that one of them
    /// could not be read: they are asked for one by one.
    ///
    /// # Safety
    /// The frames are of this machine and the caller's to change, as for [`PhysMem::zero`].
    unsafe fn swap_read(&self, _device: u8, _slot: u64, _order: Order, _dst: Pfn) -> Result<(), IoError> {
        Err(IoError)
    }

    /// Told that nobody needs the contents of `slot` any more. Does not sleep.
    ///
    /// # Safety
    /// As it says; `frames` is as for [`swap_write`](Self::swap_write).
    unsafe fn swap_discard(&self, _device: u8, _slot: u64, _frames: &dyn FrameAlloc) {}
}

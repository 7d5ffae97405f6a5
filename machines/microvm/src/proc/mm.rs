//! The memory manager as the system side calls it: numbers of the ABI on one side, types on the other.

use crate::arch::percpu::this_cpu;
use crate::fs::sources::{self, Builtin};
use crate::fs::store::{self, Store};
use crate::machine;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use anonmem::{Advice, ClearRefs, MlockAll, RemapFlags, SyncFlags, WriteExec};
use anonmem::{
    Event, FaultAccess, FaultOutcome, Limits, MapKind, MapUse, Overcommit, VmFlags, VmaInfo, VmaUsage,
};
use anonmem::{MapBacking, MapFlags, MmapRequest, PageRegion, PageScan, Prot, Scanned};
use anonmem_hal::{NrPages, PAGE_SHIFT, SourceId, Va, VaRange};
use anonmem_oslib::cred::{Cap, Cred};
use anonmem_oslib::errno::{EINVAL, ENOMEM};
use anonmem_oslib::vfs::Inode;
use anonmem_oslib::{Errno, Result};
use core::num::NonZeroU64;
use core::ops::ControlFlow;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use linux_raw_sys::general as abi;

/// A use of an address space.
pub type Space = machine::Mm;

/// What `mmap` is asked for, in the ABI's numbers.
#[derive(Clone, Copy, Debug)]
pub struct Map {
    /// The address, or a hint.
    pub addr: u64,
    /// Bytes.
    pub len: u64,
    /// `PROT_*`.
    pub prot: u32,
    /// `MAP_*`.
    pub flags: u32,
}

/// What is behind a mapping.
pub enum Backing<'a> {
    /// Zeros: private or shared, as the flags say.
    Anonymous,
    /// A file's bytes, copied at first touch.
    File {
        /// The file.
        inode: &'a Arc<Inode>,
        /// Its path, for the maps.
        path: &'a [u8],
        /// Where to start.
        offset: u64,
    },
    /// A page of the kernel's, copied at first touch: a mapping that never grows.
    Builtin(Builtin),
    /// A file's bytes, shared.
    Store {
        /// The memory that holds them.
        store: &'a Store,
        /// Where to start.
        offset: u64,
    },
}

/// What became of a fault.
pub type Outcome = FaultOutcome;
/// What a fault wanted to do.
pub type Access = FaultAccess;

/// When locked pages are filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Populate {
    /// At once.
    Now,
    /// When they are touched.
    OnFault,
}

/// What an address space uses, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    /// Present pages.
    pub rss: u64,
    /// Those of shared objects.
    pub shared: u64,
    /// The most that was present.
    pub hiwater_rss: u64,
    /// Pages in swap.
    pub swap: u64,
    /// Page tables.
    pub page_tables: u64,
    /// Mapped addresses.
    pub total_vm: u64,
    /// The most that was mapped.
    pub hiwater_vm: u64,
    /// Private writable mappings.
    pub data: u64,
    /// Stacks.
    pub stack: u64,
    /// Locked mappings.
    pub locked: u64,
    /// Pages pinned for long.
    pub pinned: u64,
}

/// What the machine's memory is used for, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    /// All that the memory manager has.
    pub total_bytes: u64,
    /// Free.
    pub free_bytes: u64,
    /// Pages of programs.
    pub user_bytes: u64,
    /// Those of them that belong to shared objects.
    pub shared_bytes: u64,
    /// Page tables.
    pub table_bytes: u64,
    /// The memory manager's own objects.
    pub slab_bytes: u64,
    /// The kernel heap.
    pub kernel_bytes: u64,
    /// Promised to programs.
    pub committed_bytes: u64,
    /// What may be promised.
    pub commit_limit_bytes: u64,
}

/// One mapping.
#[derive(Clone, Debug)]
pub struct Vma {
    /// What the memory manager knows.
    pub info: VmaInfo,
    /// What its pages cost.
    pub usage: VmaUsage,
    /// Number of the file, zero if there is none.
    pub ino: u64,
    /// The file's path, or what the mapping is for.
    pub name: String,
}

pub(super) fn errno(error: anonmem::Error) -> Errno {
    Errno(error.errno())
}

/// Makes an address space.
///
/// # Errors
/// `ENOMEM`.
pub fn new() -> Result<Space> {
    machine::vm().new_mm().map_err(errno)
}

/// Makes a copy of an address space.
///
/// # Errors
/// `ENOMEM`.
pub fn fork(mm: &Space) -> Result<Space> {
    mm.fork().map_err(errno)
}

/// Whether any of its memory may be merged with equal pages.
pub fn is_mergeable(mm: &Space) -> bool {
    let mut mergeable = false;
    mm.for_each_vma(Va(0), &mut |info| {
        mergeable = info.flags.contains(VmFlags::MERGEABLE);
        if mergeable { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    mergeable
}

/// Gives a number that no other address space has while this one lives.
pub fn id(mm: &Space) -> u64 {
    mm.root().0
}

/// Maps memory; gives where.
///
/// # Errors
/// Those of mmap(2).
pub fn mmap(mm: &Space, map: Map, backing: Backing<'_>) -> Result<u64> {
    map_backing(mm, request_of(map), map, backing)
}

/// Maps a file shared that was opened for reading only: nothing makes the mapping writable later.
///
/// # Errors
/// Those of mmap(2).
pub fn mmap_read_only_shared(mm: &Space, map: Map, backing: Backing<'_>) -> Result<u64> {
    let request = request_of(map);
    let flags = request.flags | MapFlags::SHARED_READ_ONLY;
    map_backing(mm, MmapRequest { flags, ..request }, map, backing)
}

/// Makes the checks of `mmap` that have nothing to do with what is mapped.
///
/// # Errors
/// Those of mmap(2).
pub fn check_mmap(mm: &Space, map: Map) -> Result<()> {
    mm.check_mmap(&request_of(map)).map_err(errno)
}

/// What a program may ask for; what is mapped is still to be said.
fn request_of(map: Map) -> MmapRequest {
    let mut flags = MapFlags::from_bits_truncate(map.flags) - MapFlags::NOT_LINUX;
    // It is a type, and no flag among others.
    flags.set(MapFlags::DROPPABLE, map.flags & abi::MAP_TYPE == abi::MAP_DROPPABLE);
    MmapRequest {
        addr: Va(map.addr),
        len: map.len,
        prot: Prot::from_bits_truncate(map.prot),
        flags,
        backing: MapBacking::Anonymous,
    }
}

fn map_backing(mm: &Space, mut request: MmapRequest, map: Map, backing: Backing<'_>) -> Result<u64> {
    let shared = map.flags & abi::MAP_TYPE == abi::MAP_SHARED;
    let mut source = None;
    let backing = match backing {
        Backing::Anonymous if shared => MapBacking::SharedNew,
        Backing::Anonymous if matches!(map.flags & abi::MAP_TYPE, abi::MAP_PRIVATE | abi::MAP_DROPPABLE) => {
            MapBacking::Anonymous
        }
        Backing::Anonymous => {
            mm.check_mmap(&request).map_err(errno)?;
            return Err(EINVAL);
        }
        Backing::File { inode, path, offset } => {
            let id = sources::register(inode, path);
            source = Some(id);
            let id = NonZeroU64::new(id).ok_or(EINVAL)?;
            MapBacking::Source { id: SourceId(id), offset }
        }
        Backing::Builtin(builtin) => {
            request.flags |= match builtin {
                Builtin::Vvar => MapFlags::FIXED_SIZE | MapFlags::ONLY_READ,
                Builtin::Vdso => MapFlags::FIXED_SIZE,
            };
            let id = NonZeroU64::new(builtin.id()).ok_or(EINVAL)?;
            MapBacking::Source { id: SourceId(id), offset: 0 }
        }
        Backing::Store { store, offset } => {
            MapBacking::Shared { object: store.object(), first: offset >> PAGE_SHIFT }
        }
    };
    let mapped = mm.mmap(MmapRequest { backing, ..request }).map_err(errno);
    if let Some(id) = source {
        // The mapping has a use of its own.
        sources::release(id);
    }
    mapped.map(|va| va.0)
}

/// Unmaps a range.
///
/// # Errors
/// `EINVAL`, `ENOMEM`.
pub fn munmap(mm: &Space, addr: u64, len: u64) -> Result<()> {
    note_peak();
    let start = Va(addr);
    let end = start.checked_add(len).ok_or(EINVAL)?;
    mm.munmap(VaRange { start, end }).map_err(errno)
}

/// Changes what a program may do with a range.
///
/// # Errors
/// `EINVAL`, `ENOMEM`, `EACCES`.
pub fn mprotect(mm: &Space, addr: u64, len: u64, prot: u32) -> Result<()> {
    let (start, prot) = (Va(addr), Prot::from_bits_retain(prot));
    let protect = |end| mm.mprotect(VaRange { start, end }, prot).map_err(errno);
    let end = Va(len).page_up().and_then(|len| start.checked_add(len.0));
    if len == 0 || !start.is_page_aligned() {
        return protect(start);
    }
    match end.filter(|&end| end > start) {
        Some(end) => protect(end),
        // Arguments that make no sense in themselves come first.
        None => protect(start).and(Err(ENOMEM)),
    }
}

/// Moves or resizes a mapping; gives where it is.
///
/// # Errors
/// Those of mremap(2).
pub fn mremap(mm: &Space, old: u64, old_len: u64, new_len: u64, flags: u32, new: u64) -> Result<u64> {
    note_peak();
    let flags = RemapFlags::from_bits(flags).ok_or(EINVAL)?;
    mm.mremap(Va(old), old_len, new_len, flags, Va(new)).map(|va| va.0).map_err(errno)
}

/// Moves the end of the heap; gives where it is then.
pub fn brk(mm: &Space, addr: u64) -> u64 {
    note_peak();
    mm.brk(Va(addr)).0
}

/// Puts the heap behind the program.
pub fn set_brk(mm: &Space, addr: u64) {
    mm.set_brk_start(Va(addr));
}

/// Tells what a program will do with a range.
///
/// # Errors
/// Those of madvise(2).
pub fn madvise(mm: &Space, addr: u64, len: u64, advice: u32) -> Result<()> {
    note_peak();
    let advice = Advice::from_number(advice).ok_or(EINVAL)?;
    mm.madvise(Va(addr), len, advice).map_err(errno)
}

/// Tells for each page of a range whether it is there.
///
/// # Errors
/// `ENOMEM`, `EINVAL`.
pub fn mincore(mm: &Space, addr: u64, len: u64, tell: &mut dyn FnMut(bool)) -> Result<()> {
    mm.mincore(Va(addr), len, tell).map_err(errno)
}

/// Looks at what a range would be written back to.
///
/// # Errors
/// Those of msync(2).
pub fn msync(mm: &Space, addr: u64, len: u64, flags: u32) -> Result<()> {
    mm.msync(Va(addr), len, SyncFlags::from_bits_retain(flags)).map_err(errno)
}

/// Resolves a fault.
pub fn handle_fault(mm: &Space, va: u64, access: Access) -> Outcome {
    mm.handle_fault(Va(va), access)
}

/// Resolves a fault of the kernel's, which works for the program.
pub fn handle_kernel_fault(mm: &Space, va: u64, access: Access) -> Outcome {
    mm.handle_kernel_fault(Va(va), access)
}

/// Whether everybody may be told of the kernel's faults: `vm.unprivileged_userfaultfd`.
static UNPRIVILEGED_USERFAULTFD: AtomicU64 = AtomicU64::new(0);

/// Gives it.
pub fn unprivileged_userfaultfd() -> u32 {
    UNPRIVILEGED_USERFAULTFD.load(Relaxed) as u32
}

/// Sets it.
///
/// # Errors
/// `EINVAL` if it is neither 0 nor 1.
pub fn set_unprivileged_userfaultfd(on: u32) -> Result<()> {
    if on > 1 {
        return Err(EINVAL);
    }
    UNPRIVILEGED_USERFAULTFD.store(on.into(), Relaxed);
    Ok(())
}

/// Gives the shared object that is mapped at `va`, by number, and the offset in it.
pub fn shared_at(mm: &Space, va: u64) -> Option<(u64, u64)> {
    let (object, index) = mm.shared_at(Va(va))?;
    Some((store::number(object.raw()), index << PAGE_SHIFT | Va(va).page_offset() as u64))
}

/// Whether to look at the pages of mappings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// Only at the mappings.
    Ranges,
    /// At every page.
    Pages,
}

/// Mappings that are looked at together.
const VMAS: usize = 16;

/// Gives the first mappings that end above `from`: a few. All are told when there are none.
///
/// # Errors
/// `ENOMEM`.
pub fn vmas(mm: &Space, from: u64, detail: Detail) -> Result<Vec<Vma>> {
    let mut some = Vec::new();
    some.try_reserve_exact(VMAS).map_err(|_| ENOMEM)?;
    let mut add = |info: &VmaInfo, usage: &VmaUsage| {
        some.push((*info, *usage));
        if some.len() == VMAS { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    match detail {
        Detail::Ranges => mm.for_each_vma(Va(from), &mut |info| add(info, &VmaUsage::default())),
        Detail::Pages => mm.for_each_vma_usage(Va(from), &mut add),
    }
    // Names take locks and memory: not under the mmap lock.
    let mut named_ones = Vec::new();
    named_ones.try_reserve_exact(some.len()).map_err(|_| ENOMEM)?;
    named_ones.extend(some.into_iter().map(|(info, usage)| named(info, usage)));
    Ok(named_ones)
}

/// Gives what all mappings cost together, and the addresses of the first and the last. `None` if there are
/// none.
pub fn usage(mm: &Space) -> Option<(VaRange, VmaUsage)> {
    let mut all: Option<(VaRange, VmaUsage)> = None;
    mm.for_each_vma_usage(Va(0), &mut |info, usage| {
        let (range, sum) = all.unwrap_or((info.range, VmaUsage::default()));
        all = Some((VaRange { end: info.range.end, ..range }, sum.plus(*usage)));
        ControlFlow::Continue(())
    });
    all
}

fn named(info: VmaInfo, usage: VmaUsage) -> Vma {
    let (ino, name) = match (info.kind, info.purpose) {
        (MapKind::Source(id), _) if Builtin::of(id.0.get()).is_some() => {
            (0, Builtin::of(id.0.get()).map(Builtin::name).unwrap_or_default().into())
        }
        (MapKind::Source(id), _) => (id.0.get(), sources::path(id.0.get()).unwrap_or_default()),
        (MapKind::Shared(object), _) => {
            store::name(store::number(object)).unwrap_or_else(|| (1, "/dev/zero (deleted)".into()))
        }
        (MapKind::Anonymous, MapUse::Heap) => (0, "[heap]".into()),
        (MapKind::Anonymous, MapUse::Stack) => (0, "[stack]".into()),
        (MapKind::Anonymous, MapUse::Other) => (0, String::new()),
    };
    Vma { info, usage, ino, name }
}

impl Vma {
    /// Says whether stores are seen by others.
    pub fn is_shared(&self) -> bool {
        self.info.flags.intersects(VmFlags::SHARED | VmFlags::MAYSHARE)
    }
}

/// Calls `tell` with the words of `/proc/PID/pagemap` for those of `count` pages from `va` that it says
/// something of.
pub fn pagemap(mm: &Space, va: u64, count: u64, tell: &mut dyn FnMut(u64, u64)) {
    let Some(range) = VaRange::of(Va(va), count << PAGE_SHIFT) else { return };
    mm.for_each_pagemap(range, &mut |at, entry| tell(at.0, entry.bits()));
}

/// Looks at the pages of a range, tells of those that are asked for, and write-protects those that were
/// written.
///
/// # Errors
/// `EPERM`, `ENOMEM`.
pub fn scan(mm: &Space, scan: &PageScan, regions: Option<&mut [PageRegion]>) -> Result<Scanned> {
    mm.pagemap_scan(scan, regions).map_err(errno)
}

/// Seals mappings.
///
/// # Errors
/// `EINVAL`, `ENOMEM`.
pub fn mseal(mm: &Space, start: u64, len: u64) -> Result<()> {
    mm.mseal(Va(start), len).map_err(errno)
}

/// Clears the accessed or soft-dirty bits of pages, or the peak, as the number says that is written to
/// `clear_refs`.
///
/// # Errors
/// `EINVAL` if it says nothing.
pub fn clear_refs(mm: &Space, what: u32) -> Result<()> {
    let what = ClearRefs::from_number(what).ok_or(EINVAL)?;
    mm.clear_refs(what);
    Ok(())
}

/// Refuses what would make memory executable that is or was writable: `PR_MDWE_*`.
///
/// # Errors
/// `EINVAL` for bits that there are not, `EPERM` to take it back.
pub fn set_write_exec(mm: &Space, bits: u64) -> Result<()> {
    let wanted = [WriteExec::Allowed, WriteExec::Refused, WriteExec::RefusedHere];
    let wanted = wanted.into_iter().find(|&wanted| wanted as u64 == bits).ok_or(EINVAL)?;
    mm.set_write_exec(wanted).map_err(errno)
}

/// Gives what of it was asked for.
pub fn write_exec(mm: &Space) -> u64 {
    mm.write_exec() as u64
}

/// Lets a new program have what the old one asked for.
pub fn inherit_write_exec(old: &Space, new: &Space) {
    // A fresh address space refuses nothing yet.
    let _ = new.set_write_exec(old.write_exec().inherited());
}

/// Gives what an address space uses.
pub fn counters(mm: &Space) -> Counters {
    let c = mm.counters();
    Counters {
        rss: c.rss().bytes(),
        shared: c.shared.bytes(),
        hiwater_rss: c.peak.bytes(),
        swap: c.swap.bytes(),
        page_tables: c.tables.bytes(),
        hiwater_vm: c.peak_total.bytes(),
        total_vm: c.total.bytes(),
        data: c.data.bytes(),
        stack: c.stack.bytes(),
        locked: c.locked.bytes(),
        pinned: c.pinned.bytes(),
    }
}

/// Gives what the machine's memory is used for.
pub fn memory() -> Memory {
    let vm = machine::vm();
    let s = vm.stats();
    let bytes = |pages: u64| NrPages(pages).bytes();
    Memory {
        total_bytes: bytes(s.frames),
        free_bytes: bytes(s.free),
        user_bytes: bytes(s.user),
        shared_bytes: bytes(vm.shared_pages().min(s.user)),
        table_bytes: bytes(s.tables),
        slab_bytes: bytes(s.slabs),
        kernel_bytes: bytes(s.kernel),
        committed_bytes: bytes(s.committed),
        commit_limit_bytes: bytes(vm.commit_limit()),
    }
}

/// Gives what the memory manager counts, with the names of `/proc/vmstat`.
pub fn event_counts() -> Vec<(&'static str, u64)> {
    let stats = machine::vm().stats();
    Event::ALL.iter().map(|&event| (event.label(), stats.event(event))).collect()
}

static PEAK_TABLES: AtomicU64 = AtomicU64::new(0);

/// Remembers how many page tables there are, before some may be freed.
pub fn note_peak() {
    PEAK_TABLES.fetch_max(machine::vm().frames().usage().tables.0, Relaxed);
}

/// Gives the most page tables that there were.
pub fn peak_tables() -> u64 {
    note_peak();
    PEAK_TABLES.load(Relaxed)
}

/// Makes an address space keep to the limits of a process, as far as they hold for `cred`. Differs from
/// Linux: of threads that are different people, the one who changed last decides.
pub fn set_limits(mm: &Space, limits: &[(u64, u64); 16], cred: &Cred) {
    let soft = |resource: u32| limits[resource as usize].0;
    mm.set_limits(Limits {
        stack: soft(abi::RLIMIT_STACK),
        data: soft(abi::RLIMIT_DATA),
        space: soft(abi::RLIMIT_AS),
        locked: if cred.has(Cap::IpcLock) { u64::MAX } else { soft(abi::RLIMIT_MEMLOCK) },
    });
}

/// Gives the CPU that runs the caller.
pub fn current_cpu() -> usize {
    this_cpu().id()
}

/// Gives the most mappings that an address space may have.
pub fn max_map_count() -> u64 {
    machine::vm().max_map_count()
}

/// Changes it.
///
/// # Errors
/// `EINVAL` if it is no `int`.
pub fn set_max_map_count(count: u32) -> Result<()> {
    if count > i32::MAX as u32 {
        return Err(EINVAL);
    }
    machine::vm().set_max_map_count(count);
    Ok(())
}

/// Gives the kilobytes that only the kernel may take.
pub fn min_free_kbytes() -> u64 {
    machine::vm().frames().watermarks().min.bytes() / 1024
}

/// How much rather pages of programs leave than pages of files. Of the latter there are none, so the number
/// changes nothing: pages of programs leave when memory is short, as on Linux then.
static SWAPPINESS: AtomicU64 = AtomicU64::new(60);

/// Gives it.
pub fn swappiness() -> u64 {
    SWAPPINESS.load(Relaxed)
}

/// Changes it.
///
/// # Errors
/// `EINVAL` above 200.
pub fn set_swappiness(percent: u32) -> Result<()> {
    if percent > 200 {
        return Err(EINVAL);
    }
    SWAPPINESS.store(percent.into(), Relaxed);
    Ok(())
}

/// Gives the lowest address that may be mapped.
pub fn mmap_min_addr() -> u64 {
    machine::vm().config().mmap_min_addr
}

/// Gives the number of the overcommit mode.
pub fn overcommit_mode() -> u32 {
    match machine::vm().overcommit() {
        Overcommit::Heuristic => 0,
        Overcommit::Always => 1,
        Overcommit::Never { .. } => 2,
    }
}

/// Gives the kilobytes that mode 2 promises instead of a percentage.
pub fn overcommit_kbytes() -> u64 {
    machine::vm().overcommit_kbytes()
}

/// Changes them.
///
/// # Errors
/// None.
pub fn set_overcommit_kbytes(kbytes: u32) -> Result<()> {
    machine::vm().set_overcommit_kbytes(kbytes.into());
    Ok(())
}

/// Gives the percentage of memory that mode 2 promises.
pub fn overcommit_ratio() -> u32 {
    machine::vm().overcommit_ratio()
}

/// Changes the overcommit mode.
///
/// # Errors
/// `EINVAL` if there is no such mode.
pub fn set_overcommit_mode(number: u32) -> Result<()> {
    let percent = overcommit_ratio();
    let modes = [Overcommit::Heuristic, Overcommit::Always, Overcommit::Never { percent }];
    machine::vm().set_overcommit(*modes.get(number as usize).ok_or(EINVAL)?);
    Ok(())
}

/// Changes the percentage of memory that mode 2 promises.
///
/// # Errors
/// None.
pub fn set_overcommit_ratio(percent: u32) -> Result<()> {
    machine::vm().set_overcommit_ratio(percent);
    Ok(())
}

/// Locks a range.
///
/// # Errors
/// Those of mlock(2).
pub fn mlock(mm: &Space, addr: u64, len: u64, when: Populate) -> Result<()> {
    match when {
        Populate::Now => mm.mlock(Va(addr), len),
        Populate::OnFault => mm.mlock_onfault(Va(addr), len),
    }
    .map_err(errno)
}

/// Unlocks a range.
///
/// # Errors
/// Those of munlock(2).
pub fn munlock(mm: &Space, addr: u64, len: u64) -> Result<()> {
    mm.munlock(Va(addr), len).map_err(errno)
}

/// Locks everything, as `MCL_*` says.
///
/// # Errors
/// Those of mlockall(2).
pub fn mlockall(mm: &Space, flags: u32) -> Result<()> {
    mm.mlockall(MlockAll::from_bits(flags).ok_or(EINVAL)?).map_err(errno)
}

/// Unlocks everything.
pub fn munlockall(mm: &Space) {
    mm.munlockall();
}

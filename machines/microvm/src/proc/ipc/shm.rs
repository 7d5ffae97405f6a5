//! Segments of shared memory.
//!
//! A segment is a shared object of the memory manager, which counts the mappings itself: that is how many
//! have attached it. A segment that was removed stays until nobody maps it. [`sweep`] looks for that wherever
//! mappings go.
//!
//! Linux: ipc/shm.c. Differs: time and process of the last detachment are those of `shmdt`.

use super::{Keyed, PERM_BYTES, PRIVATE, Perm, Table, now};
use crate::arch::lock::SpinLock;
use crate::fs::store::{self, Store};
use crate::machine;
use crate::proc::mm::{self, Backing, Map, Space};
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use anonmem::{MapKind, VmaInfo};
use anonmem_hal::{PAGE_SHIFT, PAGE_SIZE, Va};
use anonmem_oslib::Result;
use anonmem_oslib::abi::Packer;
use anonmem_oslib::cred::{Cap, Cred};
use anonmem_oslib::errno::{EEXIST, EINVAL, ENOMEM, ENOSPC, EPERM};
use core::ops::ControlFlow;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};
use linux_raw_sys::general as abi;

/// `shmget`: of huge pages.
const HUGE: u32 = 0o4000;
/// `shmget`: nothing is promised.
const NORESERVE: u32 = 0o10000;
/// `shmat`: to be read.
const READ_ONLY: u32 = 0o10000;
/// `shmat`: at a page.
const ROUND: u32 = 0o20000;
/// `shmat`: in place of what is there.
const REPLACE: u32 = 0o40000;
/// `shmat`: to be run.
const EXEC: u32 = 0o100_000;
/// The mode of a segment that goes with its last mapping.
const DEST: u32 = 0o1000;
/// The mode of a segment that is to stay in memory.
const LOCKED: u32 = 0o2000;

/// The most segments.
pub const MOST: usize = 4096;
/// The most bytes of one.
pub const LARGEST: u64 = u64::MAX - (1 << 24);

const PAGE: u64 = PAGE_SIZE as u64;

/// A segment.
struct Segment {
    id: u32,
    bytes: u64,
    store: Store,
    state: SpinLock<State>,
    /// Those who are about to map it.
    attaching: AtomicU32,
}

struct State {
    perm: Perm,
    removed: bool,
    locked: bool,
    attached_at: u64,
    detached_at: u64,
    changed_at: u64,
    creator: u32,
    last: u32,
}

impl Keyed for Segment {
    fn perm(&self) -> Perm {
        self.state.lock().perm
    }
}

static SEGMENTS: SpinLock<Table<Segment>> = SpinLock::new(Table::new());
/// Segments that go with their last mapping.
static REMOVED: AtomicU32 = AtomicU32::new(0);
/// Pages of all segments.
static PAGES: AtomicU64 = AtomicU64::new(0);

/// Gives the most pages of all segments together: half of memory, as files have it.
pub fn most_pages() -> u64 {
    machine::nr_frames() / 2
}

impl Segment {
    fn pages(&self) -> u64 {
        self.bytes.div_ceil(PAGE)
    }

    fn is_used(&self) -> bool {
        self.store.mappings() > 0 || self.attaching.load(SeqCst) > 0
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        PAGES.fetch_sub(self.pages(), SeqCst);
        if self.state.lock().removed {
            REMOVED.fetch_sub(1, SeqCst);
        }
    }
}

/// Finds or makes a segment (`shmget`); gives its number.
///
/// # Errors
/// Those of shmget(2).
#[doc(alias = "ksys_shmget")]
pub fn get(key: i32, bytes: u64, flags: u32, cred: &Cred, pid: u32) -> Result<u32> {
    sweep();
    let fits = |there: &Segment| if bytes > there.bytes { Err(EINVAL) } else { Ok(()) };
    if let Some(id) = SEGMENTS.lock().find(key, flags, cred, fits)? {
        return Ok(id);
    }
    if bytes == 0 || bytes > LARGEST {
        return Err(EINVAL);
    }
    if flags & HUGE != 0 {
        // There is no pool of huge pages.
        return Err(ENOMEM);
    }
    let pages = bytes.div_ceil(PAGE);
    let may = |there: u64| there.checked_add(pages).filter(|&sum| sum <= most_pages());
    PAGES.fetch_update(SeqCst, SeqCst, may).map_err(|_| ENOSPC)?;
    let made = if flags & NORESERVE != 0 { Store::sparse(bytes) } else { Store::promised(bytes) };
    let store = made.inspect_err(|_| _ = PAGES.fetch_sub(pages, SeqCst))?;
    let state = State {
        perm: Perm::new(key, flags, cred),
        removed: false,
        locked: false,
        attached_at: 0,
        detached_at: 0,
        changed_at: now(),
        creator: pid,
        last: 0,
    };
    let segment = Segment { id: 0, bytes, store, state: SpinLock::new(state), attaching: AtomicU32::new(0) };
    let mut table = SEGMENTS.lock();
    // Somebody may have made it meanwhile; then ours goes, after the lock.
    if key != PRIVATE && table.of_key(key).is_some() {
        let found = table.find(key, flags, cred, fits);
        drop(table);
        drop(segment);
        return found?.ok_or(EEXIST);
    }
    let mut rest = Some(segment);
    let added = table.add(MOST, |id| {
        let mut segment = rest.take().expect("one is made of one");
        segment.id = id;
        segment.store.set_name(id.into(), format!("/SYSV{key:08x} (deleted)"));
        segment
    });
    drop(table);
    drop(rest);
    added
}

/// Maps a segment (`shmat`); gives where.
///
/// # Errors
/// Those of shmat(2).
#[doc(alias = "do_shmat")]
pub fn attach(space: &Space, id: i32, addr: u64, flags: u32, cred: &Cred, pid: u32) -> Result<u64> {
    if id < 0 {
        return Err(EINVAL);
    }
    let mut at = addr;
    if at == 0 {
        if flags & REPLACE != 0 {
            return Err(EINVAL);
        }
    } else if !at.is_multiple_of(PAGE) {
        if flags & ROUND == 0 {
            return Err(EINVAL);
        }
        at -= at % PAGE;
        if at == 0 && flags & REPLACE != 0 {
            return Err(EINVAL);
        }
    }
    let reads = flags & READ_ONLY != 0;
    let segment = {
        // Found and counted under one lock: else `sweep` may take it out between the two.
        let table = SEGMENTS.lock();
        let segment = table.get(id)?;
        segment.perm().check(cred, if reads { 0o444 } else { 0o666 })?;
        segment.attaching.fetch_add(1, SeqCst);
        segment
    };
    let mut prot = if reads { abi::PROT_READ } else { abi::PROT_READ | abi::PROT_WRITE };
    if flags & EXEC != 0 {
        prot |= abi::PROT_EXEC;
    }
    // What was rounded to nothing is a place all the same.
    let fixed = match addr {
        0 => 0,
        _ if flags & REPLACE != 0 => abi::MAP_FIXED,
        _ => abi::MAP_FIXED_NOREPLACE,
    };
    let map = Map { addr: at, len: segment.bytes, prot, flags: abi::MAP_SHARED | fixed };
    let backing = Backing::Store { store: &segment.store, offset: 0 };
    let overflows = fixed == abi::MAP_FIXED_NOREPLACE && at.checked_add(segment.bytes).is_none();
    let mapped = match (overflows, reads) {
        (true, _) => Err(EINVAL),
        (false, true) => mm::mmap_read_only_shared(space, map, backing),
        (false, false) => mm::mmap(space, map, backing),
    };
    if mapped.is_ok() {
        let mut state = segment.state.lock();
        (state.attached_at, state.last) = (now(), pid);
    }
    segment.attaching.fetch_sub(1, SeqCst);
    drop(segment);
    sweep();
    mapped.map_err(|error| if error == EEXIST { EINVAL } else { error })
}

/// The segment that a mapping is of, if it was mapped as if the segment began at `start`.
fn segment_at(info: &VmaInfo, start: u64) -> Option<Arc<Segment>> {
    let MapKind::Shared(object) = info.kind else { return None };
    if info.range.start.0.checked_sub(info.pgoff << PAGE_SHIFT) != Some(start) {
        return None;
    }
    let table = SEGMENTS.lock();
    let is_it =
        |segment: &&Arc<Segment>| store::number(segment.store.object().raw()) == store::number(object);
    table.objects.values().map(|(_, segment)| segment).find(is_it).cloned()
}

/// Unmaps the segment that was mapped at `start` (`shmdt`), all that is left of it there.
///
/// # Errors
/// `EINVAL` if none was.
#[doc(alias = "ksys_shmdt")]
pub fn detach(space: &Space, start: u64, pid: u32) -> Result<()> {
    if !start.is_multiple_of(PAGE) {
        return Err(EINVAL);
    }
    let mut found: Option<Arc<Segment>> = None;
    // One after the other: a mapping that is unmapped is not found again.
    loop {
        let mut part = None;
        space.for_each_vma(Va(start), &mut |info| {
            let Some(segment) = segment_at(info, start) else { return ControlFlow::Continue(()) };
            // The first part may be longer than the segment, if it was remapped.
            let within = info.range.end.0 - start <= segment.pages() * PAGE;
            let goes = found.as_ref().is_none_or(|found| within && Arc::ptr_eq(found, &segment));
            if goes {
                part = Some((info.range, segment));
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        });
        let Some((range, segment)) = part else { break };
        mm::munmap(space, range.start.0, range.end.0 - range.start.0)?;
        let mut state = segment.state.lock();
        (state.detached_at, state.last) = (now(), pid);
        drop(state);
        found = Some(segment);
    }
    let was_there = found.is_some();
    drop(found);
    sweep();
    if was_there { Ok(()) } else { Err(EINVAL) }
}

/// Lets segments go that were removed and that nobody maps any more. Costs one load if there are none.
pub fn sweep() {
    if REMOVED.load(SeqCst) == 0 {
        return;
    }
    loop {
        let mut table = SEGMENTS.lock();
        let unused = table
            .objects
            .values()
            .find(|(_, segment)| segment.state.lock().removed && !segment.is_used())
            .map(|(id, _)| *id);
        let gone = unused.and_then(|id| table.remove(id));
        drop(table);
        // The pages go without the lock.
        if gone.is_none() {
            return;
        }
        drop(gone);
    }
}

/// Removes a segment (`IPC_RMID`): nobody finds it by its key, and it goes with its last mapping.
///
/// # Errors
/// `EINVAL`, `EPERM`.
#[doc(alias = "do_shm_rmid")]
pub fn remove(id: i32, cred: &Cred) -> Result<()> {
    let segment = SEGMENTS.lock().get(id)?;
    {
        let mut state = segment.state.lock();
        state.perm.check_owner(cred)?;
        state.perm.key = PRIVATE;
        if !state.removed {
            state.removed = true;
            REMOVED.fetch_add(1, SeqCst);
        }
    }
    drop(segment);
    sweep();
    Ok(())
}

/// Changes owner and permissions (`IPC_SET`).
///
/// # Errors
/// `EINVAL`, `EPERM`.
pub fn set(id: i32, perm: &[u8; PERM_BYTES], cred: &Cred) -> Result<()> {
    let segment = SEGMENTS.lock().get(id)?;
    let mut state = segment.state.lock();
    state.perm.check_owner(cred)?;
    state.perm.update(perm)?;
    state.changed_at = now();
    Ok(())
}

/// Whether a segment is to stay in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stay {
    /// `SHM_LOCK`.
    Yes,
    /// `SHM_UNLOCK`.
    No,
}

/// Says whether a segment is to stay in memory. What has left comes back when it is touched.
///
/// # Errors
/// `EINVAL`, `EPERM`.
pub fn lock(id: i32, stay: Stay, cred: &Cred, locked_limit: u64) -> Result<()> {
    let segment = SEGMENTS.lock().get(id)?;
    let mut state = segment.state.lock();
    if !cred.has(Cap::IpcLock) {
        state.perm.check_owner(cred)?;
        if stay == Stay::Yes && locked_limit == 0 {
            return Err(EPERM);
        }
    }
    state.locked = stay == Stay::Yes;
    match stay {
        Stay::Yes => segment.store.keep_pages(),
        Stay::No => segment.store.release_pages(),
    }
    Ok(())
}

/// Which object is told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// The one with this number, to who may read it.
    Number(i32),
    /// The one at this index, to who may read it.
    Index(i32),
    /// The one at this index, to anybody.
    IndexOfAny(i32),
}

/// Gives a segment's number and `struct shmid64_ds`.
///
/// # Errors
/// `EINVAL`, `EACCES`.
#[doc(alias = "shmctl_stat")]
pub fn stat(which: Which, cred: &Cred) -> Result<(u32, Vec<u8>)> {
    let segment = match which {
        Which::Number(id) => SEGMENTS.lock().get(id)?,
        Which::Index(index) | Which::IndexOfAny(index) => SEGMENTS.lock().at(index)?.1,
    };
    let state = segment.state.lock();
    if !matches!(which, Which::IndexOfAny(_)) {
        state.perm.check(cred, 0o444)?;
    }
    let more = if state.removed { DEST } else { 0 } | if state.locked { LOCKED } else { 0 };
    let packed = state
        .perm
        .pack(segment.id, more)
        .u64(segment.bytes)
        .u64(state.attached_at)
        .u64(state.detached_at)
        .u64(state.changed_at)
        .u32(state.creator)
        .u32(state.last)
        .u64(segment.store.mappings().into())
        .zeros_to(112);
    Ok((segment.id, packed.0))
}

/// Gives `struct shminfo64`, the limits, and the highest index.
pub fn limits() -> (usize, Vec<u8>) {
    let packed = Packer::new().u64(LARGEST).u64(1).u64(MOST as u64).u64(MOST as u64).u64(most_pages());
    (SEGMENTS.lock().last_index(), packed.zeros_to(72).0)
}

/// Gives `struct shm_info`, what is used, and the highest index.
pub fn usage() -> (usize, Vec<u8>) {
    let table = SEGMENTS.lock();
    let sum =
        |pages: fn(&Store) -> u64| table.objects.values().map(|(_, segment)| pages(&segment.store)).sum();
    let (resident, swapped) = (sum(Store::resident), sum(Store::swapped));
    let packed = Packer::new().u64(table.objects.len() as u64).u64(PAGES.load(SeqCst));
    (table.last_index(), packed.u64(resident).u64(swapped).zeros_to(48).0)
}

/// Lets all segments go.
pub fn clear() {
    let all = SEGMENTS.lock().take();
    drop(all);
}

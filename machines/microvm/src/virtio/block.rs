//! Disks: bytes go between them and memory without a copy, several requests at a time; who waits for one
//! sleeps.
//!
//! A request has a row of sixteen descriptors of its own: a header, up to fourteen pieces of memory, which
//! the device reads and writes itself, and a status byte. Whose memory it is, and that it stays until the
//! request has ended, is the caller's affair: swap's frames are locked folios, a program's pages are pinned.
//!
//! A request ends in one of two ways. [`Disk::transfer`] sleeps until all of its requests have ended: whoever
//! it works for may be killed meanwhile, and the memory is still there. A request that was
//! [begun](Disk::begin) for somebody else ends in a kernel task, [`completer`], which tells him: interrupt
//! handlers take no lock that a program's pages need to be unpinned.
//!
//! Nobody who has a request waits for another one to become free, but for one of his own to end. So requests
//! always become free.
//!
//! Linux: drivers/block/virtio_blk.c. Virtio 1.2, section 5.2 (block devices).

use super::queue::{Direction, Interrupts, Part, Queue};
use super::{Kind, Transport};
use crate::arch::lock::{IrqLock, SpinLock};
use crate::arch::mem::{PhysAddr, direct};
use crate::arch::time;
use crate::heap;
use crate::klog;
use crate::sched::{self, Interruptible, Task};
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use anonmem_hal::IoError;
use core::mem::offset_of;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::SeqCst};
use spin::Once;

/// Bytes of a sector: all that is transferred is whole sectors.
pub const SECTOR: u64 = 512;
/// Pieces of memory of a request.
const PIECES: usize = CHAIN - 2;
/// Descriptors of a request.
const CHAIN: usize = 16;
/// Descriptors of the queue.
const SIZE: usize = 256;
/// Requests at a time.
const REQUESTS: usize = SIZE / CHAIN;
/// Requests at a time of one transfer, so that others get their turn.
const OWN: u32 = 8;

/// The disk refuses writes (`VIRTIO_BLK_F_RO`).
const READ_ONLY: u32 = 1 << 5;
/// The disk has a cache that can be flushed (`VIRTIO_BLK_F_FLUSH`).
const FLUSH: u32 = 1 << 9;
/// How long a disk may take to tell its name.
const NAME_TIMEOUT_NS: u64 = 1_000_000_000;

/// What a transfer does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transfer {
    /// From the disk to memory.
    Read,
    /// From memory to the disk.
    Write,
}

/// What a request does. The numbers are virtio's.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
enum Request {
    Read = 0,
    Write = 1,
    Flush = 4,
    Name = 8,
}

impl Request {
    fn direction(self) -> Direction {
        match self {
            Request::Read | Request::Name => Direction::FromDevice,
            Request::Write | Request::Flush => Direction::ToDevice,
        }
    }
}

impl From<Transfer> for Request {
    fn from(transfer: Transfer) -> Request {
        match transfer {
            Transfer::Read => Request::Read,
            Transfer::Write => Request::Write,
        }
    }
}

/// A piece of memory, of whole sectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where it is.
    pub at: PhysAddr,
    /// How many bytes.
    pub len: u32,
}

/// Who is told of the end of requests that nobody waits for.
pub trait Begun: Send + Sync {
    /// One more request was made for it.
    fn more(&self);
    /// One of its requests has ended. Called by a kernel task, without any lock.
    fn ended(&self, result: Result<(), IoError>);
}

#[repr(C)]
struct Header {
    kind: u32,
    _reserved: u32,
    sector: u64,
}

/// The page that driver and device share beside the queue.
#[repr(C)]
struct Shared {
    headers: [Header; REQUESTS],
    status: [u8; REQUESTS],
    name: [u8; 20],
}

/// A request's state.
const BUSY: u32 = 0;
const DONE: u32 = 1;
const FAILED: u32 = 2;

/// What is between driver and device; whoever has it under the lock is the only one who writes the driver's
/// side.
struct Device {
    transport: Transport,
    queue: Queue<SIZE>,
    /// The shared page.
    shared: PhysAddr,
}

/// A request, as its user sees it.
struct Slot {
    state: AtomicU32,
    /// Whether the completer tells somebody of its end.
    is_begun: AtomicBool,
    whom: SpinLock<Option<Arc<dyn Begun>>>,
}

/// A disk.
pub struct Disk {
    name: String,
    device: IrqLock<Device>,
    /// A set bit is a request that nobody uses.
    free: AtomicU32,
    slots: [Slot; REQUESTS],
    sectors: u64,
    features: u32,
}

static DISKS: Once<Vec<Disk>> = Once::new();
/// Begun requests that have ended and were not told of yet.
static ENDED: AtomicUsize = AtomicUsize::new(0);
/// Begun requests whose end was not told of yet.
static BEGUN: AtomicUsize = AtomicUsize::new(0);

/// The machine's disks, in the order of their names; starts them if that is not done. Task context only.
pub fn disks() -> &'static [Disk] {
    DISKS.call_once(start_all)
}

/// The disk with that name, such as `vda`.
pub fn named(name: &[u8]) -> Option<&'static Disk> {
    disks().iter().find(|disk| disk.name.as_bytes() == name)
}

fn start_all() -> Vec<Disk> {
    let mut disks: Vec<Disk> = Transport::all(Kind::Block).filter_map(Disk::start).collect();
    // A disk that the caller gave no name gets the first letter that is left.
    let mut letters = 'a'..='z';
    for i in 0..disks.len() {
        if disks[i].name.is_empty() {
            let taken = |name: &String| disks.iter().any(|disk| disk.name == *name);
            let name = letters.by_ref().map(|letter| alloc::format!("vd{letter}")).find(|name| !taken(name));
            disks[i].name = name.unwrap_or_default();
        }
    }
    disks.sort_by(|a, b| a.name.cmp(&b.name));
    if !disks.is_empty() {
        match Task::new_kernel(completer, 0) {
            Ok(task) => sched::start(&task),
            Err(_) => {
                klog!("no memory for the disks' task: no disks");
                disks.clear();
            }
        }
    }
    disks
}

/// The disks' interrupt (or another device's on the same vector).
pub fn interrupt() {
    if let Some(disks) = DISKS.get() {
        disks.iter().for_each(Disk::interrupt);
    }
}

fn ended_key() -> usize {
    core::ptr::from_ref(&ENDED) as usize
}

fn begun_key() -> usize {
    core::ptr::from_ref(&BEGUN) as usize
}

/// The task that tells of the ends of begun requests.
fn completer(_: usize) {
    loop {
        sched::park(ended_key(), &|| ENDED.load(SeqCst) == 0, None, Interruptible::No);
        disks().iter().for_each(Disk::tell);
    }
}

/// Waits until nobody has begun a request whose end was not told.
pub fn wait_for_begun() {
    while BEGUN.load(SeqCst) > 0 {
        sched::park(begun_key(), &|| BEGUN.load(SeqCst) > 0, None, Interruptible::No);
    }
}

impl Disk {
    fn start(transport: Transport) -> Option<Self> {
        let shared = heap::alloc_page()?;
        let queue = Queue::new()?;
        let features = transport.negotiate(READ_ONLY | FLUSH)?;
        transport.add_queue(0, SIZE, queue.addresses())?;
        transport.start();
        let sectors = transport.config_u64();
        let mut device = Device { transport, queue, shared };
        let name = device.name();
        let slot = || Slot {
            state: AtomicU32::new(BUSY),
            is_begun: AtomicBool::new(false),
            whom: SpinLock::new(None),
        };
        Some(Self {
            name,
            device: IrqLock::new(device),
            free: AtomicU32::new((1 << REQUESTS) - 1),
            slots: core::array::from_fn(|_| slot()),
            sectors,
            features,
        })
    }

    /// Its name, such as `vda`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many bytes it has.
    pub fn bytes(&self) -> u64 {
        self.sectors.saturating_mul(SECTOR)
    }

    /// Whether it refuses writes.
    pub fn is_read_only(&self) -> bool {
        self.features & READ_ONLY != 0
    }

    /// Moves bytes between memory and the disk from `sector` on. Sleeps until the disk needs the memory no
    /// more, whatever happens to the caller meanwhile. Task context only.
    ///
    /// # Errors
    /// [`IoError`] if the disk says so; some of the bytes may have moved.
    pub fn transfer(
        &self,
        transfer: Transfer,
        sector: u64,
        pieces: impl Iterator<Item = Piece>,
    ) -> Result<(), IoError> {
        let mut own = Own { disk: self, requests: 0, failed: false };
        each_request(sector, pieces, |sector, pieces| {
            let index = own.request();
            self.submit(index, transfer.into(), sector, pieces);
        });
        own.end()
    }

    /// Begins to move bytes between memory and the disk: `whom` is told of each request that this takes, and
    /// of its end, and keeps the memory until then. Sleeps while all requests are in use.
    pub fn begin(
        &self,
        transfer: Transfer,
        sector: u64,
        pieces: impl Iterator<Item = Piece>,
        whom: &Arc<dyn Begun>,
    ) {
        each_request(sector, pieces, |sector, pieces| {
            let index = self.take();
            let slot = &self.slots[index];
            whom.more();
            *slot.whom.lock() = Some(whom.clone());
            slot.is_begun.store(true, SeqCst);
            BEGUN.fetch_add(1, SeqCst);
            self.submit(index, transfer.into(), sector, pieces);
        });
    }

    /// Waits until what was written is where a power failure does not reach it.
    ///
    /// # Errors
    /// [`IoError`] if the disk says so.
    pub fn flush(&self) -> Result<(), IoError> {
        if self.features & FLUSH == 0 {
            return Ok(());
        }
        let mut own = Own { disk: self, requests: 0, failed: false };
        let index = own.request();
        self.submit(index, Request::Flush, 0, &[]);
        own.end()
    }

    fn submit(&self, index: usize, request: Request, sector: u64, pieces: &[Piece]) {
        self.slots[index].state.store(BUSY, SeqCst);
        self.device.lock().submit(index, request, sector, pieces);
    }

    /// A request that nobody uses, if there is one.
    fn try_take(&self) -> Option<usize> {
        let taken = self.free.fetch_update(SeqCst, SeqCst, |free| (free != 0).then(|| free & (free - 1)));
        let index = taken.ok()?.trailing_zeros() as usize;
        // The last user's end is not this one's: `tell` looks at all.
        self.slots[index].state.store(BUSY, SeqCst);
        Some(index)
    }

    /// A request that nobody uses; waits for one. The caller has none.
    fn take(&self) -> usize {
        loop {
            if let Some(index) = self.try_take() {
                return index;
            }
            sched::park(self.free_key(), &|| self.free.load(SeqCst) == 0, None, Interruptible::No);
        }
    }

    fn give_back(&self, index: usize) {
        self.free.fetch_or(1 << index, SeqCst);
        sched::unpark(self.free_key(), 1);
    }

    fn free_key(&self) -> usize {
        core::ptr::from_ref(&self.free) as usize
    }

    fn state_key(&self, index: usize) -> usize {
        core::ptr::from_ref(&self.slots[index].state) as usize
    }

    fn interrupt(&self) {
        // Acknowledge first: what is done later interrupts again.
        if !self.device.lock().transport.acknowledge() {
            return;
        }
        loop {
            let ended = self.device.lock().pop();
            let Some((index, state)) = ended else { return };
            let slot = &self.slots[index];
            if slot.is_begun.load(SeqCst) {
                // Counted first: `tell` counts it down.
                ENDED.fetch_add(1, SeqCst);
                slot.state.store(state, SeqCst);
                sched::unpark(ended_key(), 1);
            } else {
                slot.state.store(state, SeqCst);
                sched::unpark(self.state_key(index), 1);
            }
        }
    }

    /// Tells of the ends of begun requests.
    fn tell(&self) {
        for (index, slot) in self.slots.iter().enumerate() {
            let state = slot.state.load(SeqCst);
            if state == BUSY || !slot.is_begun.load(SeqCst) {
                continue;
            }
            let Some(whom) = slot.whom.lock().take() else { continue };
            slot.is_begun.store(false, SeqCst);
            ENDED.fetch_sub(1, SeqCst);
            self.give_back(index);
            whom.ended(if state == DONE { Ok(()) } else { Err(IoError) });
            drop(whom);
            BEGUN.fetch_sub(1, SeqCst);
            sched::unpark(begun_key(), usize::MAX);
        }
    }
}

/// Requests that one transfer waits for. They end before it is dropped: the device knows the memory.
struct Own<'a> {
    disk: &'a Disk,
    /// A set bit is a request.
    requests: u32,
    failed: bool,
}

impl Own<'_> {
    /// One more, for the caller to submit; one of those that there are, after its end, if there is no other.
    fn request(&mut self) -> usize {
        let spare = if self.requests.count_ones() < OWN { self.disk.try_take() } else { None };
        let index = match spare {
            Some(index) => index,
            None if self.requests == 0 => self.disk.take(),
            None => self.wait(),
        };
        self.requests |= 1 << index;
        index
    }

    /// Waits for the end of one of them, and gives it.
    fn wait(&mut self) -> usize {
        let index = self.requests.trailing_zeros() as usize;
        let state = &self.disk.slots[index].state;
        let key = self.disk.state_key(index);
        while state.load(SeqCst) == BUSY {
            sched::park(key, &|| state.load(SeqCst) == BUSY, None, Interruptible::No);
        }
        self.failed |= state.load(SeqCst) == FAILED;
        self.requests &= !(1 << index);
        index
    }

    fn end_all(&mut self) {
        while self.requests != 0 {
            let index = self.wait();
            self.disk.give_back(index);
        }
    }

    fn end(mut self) -> Result<(), IoError> {
        self.end_all();
        if self.failed { Err(IoError) } else { Ok(()) }
    }
}

impl Drop for Own<'_> {
    fn drop(&mut self) {
        self.end_all();
    }
}

/// Calls `submit` with the sector and the pieces of each request that a transfer takes. Pieces that follow
/// one another in memory go as one.
fn each_request(sector: u64, pieces: impl Iterator<Item = Piece>, mut submit: impl FnMut(u64, &[Piece])) {
    /// What one piece may grow to: no device's limit is near.
    const LONGEST: u32 = 1 << 20;
    let mut row = [Piece { at: 0, len: 0 }; PIECES];
    let (mut count, mut sector, mut bytes) = (0, sector, 0);
    for piece in pieces {
        debug_assert!(piece.len != 0 && u64::from(piece.len).is_multiple_of(SECTOR), "{piece:?}");
        let last = row[..count]
            .last_mut()
            .filter(|last| last.at + u64::from(last.len) == piece.at && last.len + piece.len <= LONGEST);
        if let Some(last) = last {
            last.len += piece.len;
        } else {
            if count == PIECES {
                submit(sector, &row);
                (count, sector, bytes) = (0, sector + bytes / SECTOR, 0);
            }
            row[count] = piece;
            count += 1;
        }
        bytes += u64::from(piece.len);
    }
    if count > 0 {
        submit(sector, &row[..count]);
    }
}

impl Device {
    /// A field of the shared page.
    fn field<T>(&self, offset: usize) -> *mut T {
        direct(self.shared).wrapping_add(offset).cast()
    }

    fn submit(&mut self, index: usize, request: Request, sector: u64, pieces: &[Piece]) {
        let header = offset_of!(Shared, headers) + index * size_of::<Header>();
        let status = offset_of!(Shared, status) + index;
        let value = Header { kind: request as u32, _reserved: 0, sector };
        // SAFETY: within the shared page; the device does not have this request now.
        unsafe { self.field::<Header>(header).write_volatile(value) };
        let own = |offset: usize, len, direction| Part { at: self.shared + offset as u64, len, direction };
        let mut chain = [own(header, size_of::<Header>() as u32, Direction::ToDevice); CHAIN];
        for (part, piece) in chain[1..].iter_mut().zip(pieces) {
            *part = Part { at: piece.at, len: piece.len, direction: request.direction() };
        }
        let last = 1 + pieces.len().min(PIECES);
        chain[last] = own(status, 1, Direction::FromDevice);
        self.queue.submit(index * CHAIN, chain[..=last].iter().copied());
        self.transport.notify(0);
    }

    /// A request that the device has finished, and its state.
    fn pop(&mut self) -> Option<(usize, u32)> {
        let (first, _) = self.queue.pop_used()?;
        let index = first / CHAIN;
        let at = self.field::<u8>(offset_of!(Shared, status) + index);
        // SAFETY: the device wrote the status before it returned the request.
        let status = unsafe { at.read_volatile() };
        Some((index, if status == 0 { DONE } else { FAILED }))
    }

    /// Asks the disk for the name that the caller of QEMU gave it (`serial=`): `vda` to `vdz`; nothing else
    /// is one. Before the disk is known to the interrupt handler.
    fn name(&mut self) -> String {
        let offset = offset_of!(Shared, name);
        let mut bytes = [0; 20];
        let piece = Piece { at: self.shared + offset as u64, len: bytes.len() as u32 };
        self.queue.want_interrupts(Interrupts::Unwanted);
        self.submit(0, Request::Name, 0, &[piece]);
        let end = time::now_ns() + NAME_TIMEOUT_NS;
        let state = loop {
            if let Some((_, state)) = self.pop() {
                break state;
            }
            if time::now_ns() > end {
                break FAILED;
            }
            core::hint::spin_loop();
        };
        self.queue.want_interrupts(Interrupts::Wanted);
        if state == DONE {
            // SAFETY: within the shared page; the device has returned the request.
            bytes = unsafe { self.field::<[u8; 20]>(offset).read_volatile() };
        }
        match bytes {
            [b'v', b'd', letter @ b'a'..=b'z', 0, ..] => alloc::format!("vd{}", char::from(letter)),
            _ => String::new(),
        }
    }
}

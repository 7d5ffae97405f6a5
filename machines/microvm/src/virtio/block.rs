//! A disk: pages go to it and come back, several at a time; who waits for one sleeps.
//!
//! Each request has three descriptors: its header, the page itself (the device reads and writes the frame),
//! and a status byte. Request `i` always uses descriptors `3 i` to `3 i + 2`.
//!
//! Linux: drivers/block/virtio_blk.c. Virtio 1.2, sections 2.7 (split queues) and 5.2 (block devices).

use super::{Kind, Transport};
use crate::arch::lock::IrqLock;
use crate::arch::mem::{PAGE, PhysAddr, direct};
use crate::heap;
use crate::sched::{self, Interruptible};
use anonmem_hal::{IoError, PAGE_SHIFT, Pfn};
use core::mem::offset_of;
use core::sync::atomic::{AtomicU32, Ordering::SeqCst, fence};
use spin::Once;

/// Descriptors of the queue.
const SIZE: usize = 16;
/// Requests at a time.
const REQUESTS: usize = SIZE / 3;
const SECTORS_PER_PAGE: u64 = PAGE / 512;
const NEXT: u16 = 1;
const DEVICE_WRITES: u16 = 2;

/// What a request does. The numbers are virtio's.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Request {
    /// From the disk to a frame.
    Read = 0,
    /// From a frame to the disk.
    Write = 1,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Descriptor {
    addr: u64,
    len: u32,
    flags: u16,
    next: u16,
}

#[repr(C)]
struct Header {
    kind: u32,
    _reserved: u32,
    sector: u64,
}

/// The page that driver and device share.
#[repr(C)]
struct Shared {
    descriptors: [Descriptor; SIZE],
    avail_flags: u16,
    avail_index: u16,
    avail_ring: [u16; SIZE],
    _used_event: u16,
    _pad: u16,
    used_flags: u16,
    used_index: u16,
    used_ring: [(u32, u32); SIZE],
    headers: [Header; REQUESTS],
    status: [u8; REQUESTS],
}

const _: () = assert!(size_of::<Shared>() <= PAGE as usize);

/// A request's state.
const BUSY: u32 = 0;
const DONE: u32 = 1;
const FAILED: u32 = 2;

/// The rings; whoever has them under the lock is the only one who writes the driver's side.
struct Rings {
    transport: Transport,
    /// The shared page.
    base: PhysAddr,
    avail: u16,
    last_used: u16,
}

/// A disk.
pub struct Disk {
    rings: IrqLock<Rings>,
    /// A set bit is a request that nobody uses.
    free: AtomicU32,
    state: [AtomicU32; REQUESTS],
    pages: u64,
}

static DISK: Once<Disk> = Once::new();

/// The machine's disk; finds and starts it if that is not done. `None` if the machine has none.
pub fn disk() -> Option<&'static Disk> {
    if DISK.get().is_none()
        && let Some(disk) = Disk::start()
    {
        DISK.call_once(|| disk);
    }
    DISK.get()
}

/// The disk's interrupt (or another device's on the same vector).
pub fn interrupt() {
    if let Some(disk) = DISK.get() {
        disk.interrupt();
    }
}

impl Disk {
    fn start() -> Option<Self> {
        let transport = Transport::find(Kind::Block)?;
        let base = heap::alloc_page()?;
        transport.negotiate(0)?;
        let at = |offset: usize| base + offset as u64;
        let addresses = [base, at(offset_of!(Shared, avail_flags)), at(offset_of!(Shared, used_flags))];
        transport.add_queue(0, SIZE, addresses)?;
        transport.start();
        let pages = transport.config_u64() / SECTORS_PER_PAGE;
        Some(Self {
            rings: IrqLock::new(Rings { transport, base, avail: 0, last_used: 0 }),
            free: AtomicU32::new((1 << REQUESTS) - 1),
            state: [const { AtomicU32::new(BUSY) }; REQUESTS],
            pages,
        })
    }

    /// How many pages it has.
    pub fn pages(&self) -> u64 {
        self.pages
    }

    /// Moves a page between frame and disk. Sleeps. Task context only.
    ///
    /// # Errors
    /// [`IoError`] if the disk says so.
    pub fn transfer(&self, request: Request, page: u64, frame: Pfn) -> Result<(), IoError> {
        let index = self.take();
        self.state[index].store(BUSY, SeqCst);
        self.rings.lock().submit(index, request, page * SECTORS_PER_PAGE, frame.0 << PAGE_SHIFT);
        let state = &self.state[index];
        while state.load(SeqCst) == BUSY {
            sched::park(self.state_key(index), &|| state.load(SeqCst) == BUSY, None, Interruptible::No);
        }
        let result = if state.load(SeqCst) == DONE { Ok(()) } else { Err(IoError) };
        self.free.fetch_or(1 << index, SeqCst);
        sched::unpark(self.free_key(), 1);
        result
    }

    /// A request that nobody uses; waits for one.
    fn take(&self) -> usize {
        loop {
            let taken = self.free.fetch_update(SeqCst, SeqCst, |free| (free != 0).then(|| free & (free - 1)));
            if let Ok(free) = taken {
                return free.trailing_zeros() as usize;
            }
            sched::park(self.free_key(), &|| self.free.load(SeqCst) == 0, None, Interruptible::No);
        }
    }

    fn free_key(&self) -> usize {
        core::ptr::from_ref(&self.free) as usize
    }

    fn state_key(&self, index: usize) -> usize {
        core::ptr::from_ref(&self.state[index]) as usize
    }

    fn interrupt(&self) {
        // Acknowledge first: what is done later interrupts again.
        if !self.rings.lock().transport.acknowledge() {
            return;
        }
        while let Some((index, state)) = self.pop() {
            self.state[index].store(state, SeqCst);
            sched::unpark(self.state_key(index), 1);
        }
    }

    /// A request that the device has finished, and its state.
    fn pop(&self) -> Option<(usize, u32)> {
        self.rings.lock().pop()
    }
}

impl Rings {
    /// A field of the shared page.
    fn field<T>(&self, offset: usize) -> *mut T {
        direct(self.base).wrapping_add(offset).cast()
    }

    fn describe(&self, index: usize, descriptor: Descriptor) {
        let at = self.field::<Descriptor>(offset_of!(Shared, descriptors) + index * size_of::<Descriptor>());
        // SAFETY: within the shared page; the device does not have this descriptor now.
        unsafe { at.write_volatile(descriptor) };
    }

    fn submit(&mut self, index: usize, request: Request, sector: u64, frame: PhysAddr) {
        let header = offset_of!(Shared, headers) + index * size_of::<Header>();
        let status = offset_of!(Shared, status) + index;
        // SAFETY: within the shared page; the request is ours.
        unsafe {
            self.field::<Header>(header).write_volatile(Header {
                kind: request as u32,
                _reserved: 0,
                sector,
            });
        }
        let (first, base) = (3 * index, self.base);
        let next = |step: usize| (first + step) as u16;
        let page_flags = if request == Request::Read { NEXT | DEVICE_WRITES } else { NEXT };
        let parts = [
            Descriptor { addr: base + header as u64, len: 16, flags: NEXT, next: next(1) },
            Descriptor { addr: frame, len: PAGE as u32, flags: page_flags, next: next(2) },
            Descriptor { addr: base + status as u64, len: 1, flags: DEVICE_WRITES, next: 0 },
        ];
        for (step, part) in parts.into_iter().enumerate() {
            self.describe(first + step, part);
        }
        let slot = self.avail as usize % SIZE;
        self.avail = self.avail.wrapping_add(1);
        let at = self.field::<u16>(offset_of!(Shared, avail_ring) + slot * 2);
        // SAFETY: within the shared page; the device reads it when the index below says so.
        unsafe { at.write_volatile(first as u16) };
        fence(SeqCst);
        let at = self.field::<u16>(offset_of!(Shared, avail_index));
        // SAFETY: as above; only the driver writes the index.
        unsafe { at.write_volatile(self.avail) };
        fence(SeqCst);
        self.transport.notify(0);
    }

    fn pop(&mut self) -> Option<(usize, u32)> {
        let at = self.field::<u16>(offset_of!(Shared, used_index));
        // SAFETY: within the shared page; the device writes it.
        let used = unsafe { at.read_volatile() };
        if used == self.last_used {
            return None;
        }
        fence(SeqCst);
        let slot = self.last_used as usize % SIZE;
        self.last_used = self.last_used.wrapping_add(1);
        let at = self.field::<u32>(offset_of!(Shared, used_ring) + slot * size_of::<(u32, u32)>());
        // SAFETY: the device wrote the element before the index; its first word is the first descriptor's
        // number.
        let first = unsafe { at.read_volatile() } as usize;
        let index = (first / 3).min(REQUESTS - 1);
        let at = self.field::<u8>(offset_of!(Shared, status) + index);
        // SAFETY: the device wrote the status before the index.
        let status = unsafe { at.read_volatile() };
        Some((index, if status == 0 { DONE } else { FAILED }))
    }
}

//! Swap: the device, the background task, `swapon` and `swapoff`.
//!
//! There is at most one device, as large as the run file's `swap=` says: `/dev/zram0`, compressed memory, or
//! the disk that `swap_disk=` names. What compressed memory keeps lies in frames of the memory
//! manager, whose reserve is open to it: pages can leave when no frame is free for programs.
//!
//! Linux: mm/swapfile.c `swapon`, `swapoff`; drivers/block/zram, drivers/block/virtio_blk.c.

use crate::arch::percpu::{cpu_count, this_cpu};
use crate::klog;
use crate::machine::{self, Kernel};
use crate::sched::{self, Interruptible, Mutex, Task};
use crate::virtio::block::{self, Disk, Piece, SECTOR, Transfer};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use anonmem_hal::{FrameAlloc, IoError, Order, PAGE_SHIFT, PAGE_SIZE, Pfn, SwapIo};
use anonmem_oslib::abi::makedev;
use anonmem_oslib::errno::{EBUSY, EINVAL, ENODEV, ENOMEM};
use anonmem_oslib::runfile::RunFile;
use anonmem_oslib::vfs::{Body, FileType};
use anonmem_oslib::{Errno, Result};
use anonmem_zram::{Usage, Zram};
use core::fmt::Write;
use core::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use spin::Once;

/// Its number in the memory manager.
const NUMBER: u8 = 0;
/// What Linux gives the first device that asks for no priority.
const DEFAULT_PRIORITY: i32 = -2;

/// Where pages are kept.
enum Store {
    Zram(Box<Zram>),
    Disk(&'static Disk),
}

struct Device {
    store: Store,
    pages: u64,
}

impl Store {
    fn path(&self) -> String {
        match self {
            Self::Zram(_) => "/dev/zram0".into(),
            Self::Disk(disk) => format!("/dev/{}", disk.name()),
        }
    }

    /// The device number, with the majors that Linux gave these here.
    fn rdev(&self) -> u64 {
        match self {
            Self::Zram(_) => makedev(252, 0),
            Self::Disk(disk) => crate::fs::block::rdev(disk),
        }
    }

    /// Gives back what is kept, when nobody needs it any more.
    fn clear(&self) {
        match self {
            Self::Zram(zram) => zram.clear(machine::vm().frames()),
            Self::Disk(_) => {}
        }
    }
}

/// Memory for which there is one background task, as far as there are CPUs.
const FRAMES_PER_TASK: usize = 16_384;

static DEVICE: Once<Device> = Once::new();
/// Held over `swapon` and `swapoff`, which give the device's tables memory and take it away.
static SWAPON: Mutex<()> = Mutex::new(());
/// How many background tasks run.
static KSWAPD: AtomicUsize = AtomicUsize::new(0);

/// Swaps to so many pages of compressed memory, without a node and a background task: for the self-test.
///
/// # Errors
/// `ENOMEM`.
pub fn use_compressed_memory(pages: u64) -> Result<()> {
    let store = compressed_memory(pages)?;
    DEVICE.call_once(|| Device { store, pages });
    machine::vm().swap_on(NUMBER, pages, DEFAULT_PRIORITY).map_err(errno)
}

fn compressed_memory(pages: u64) -> Result<Store> {
    // SAFETY: the kernel has one machine and one memory manager, and asks `Zram` for what that asks of it.
    let zram = unsafe { Zram::new(pages, machine::vm().stats().frames, cpu_count()) };
    Ok(Store::Zram(Box::new(zram.map_err(|_| ENOMEM)?)))
}

fn device() -> Option<&'static Device> {
    DEVICE.get()
}

/// Makes the device that the run file asks for, and swaps to it.
///
/// # Errors
/// `EINVAL` if this kernel does not have the back end, `ENODEV` if the machine has no disk as large as that;
/// `ENOMEM`.
pub fn init(run: &RunFile<'_>) -> Result<()> {
    let pages = run.swap >> PAGE_SHIFT;
    if pages == 0 {
        return Ok(());
    }
    let store = match run.swap_backend {
        b"lz4" => compressed_memory(pages)?,
        b"disk" => {
            let large = |disk: &&Disk| disk.bytes() >> PAGE_SHIFT >= pages && !disk.is_read_only();
            Store::Disk(block::named(run.swap_disk).filter(large).ok_or(ENODEV)?)
        }
        _ => return Err(EINVAL),
    };
    let store = &DEVICE.call_once(|| Device { store, pages }).store;
    machine::vm().swap_on(NUMBER, pages, DEFAULT_PRIORITY).map_err(errno)?;
    // What is kept can only be had through swap: the node has no other use.
    let body = Body::Special { kind: FileType::Block, rdev: store.rdev(), object: Arc::new(()) };
    crate::fs::vfs().put(store.path().as_bytes(), 0o660, body)?;
    // A second one helps where the first has passed 64 MiB in vain.
    let frames = machine::vm().stats().frames as usize;
    for _ in 0..cpu_count().min(frames / FRAMES_PER_TASK).max(1) {
        let task = Task::new_kernel(kswapd, 0).map_err(|_| ENOMEM)?;
        KSWAPD.fetch_add(1, SeqCst);
        sched::start(&task);
    }
    klog!("swap: {} MiB on {}", run.swap >> 20, store.path());
    Ok(())
}

fn errno(error: anonmem::Error) -> Errno {
    Errno(error.errno())
}

fn kswapd_key() -> usize {
    core::ptr::from_ref(&KSWAPD) as usize
}

fn kswapd(_: usize) {
    machine::vm().kswapd();
    KSWAPD.fetch_sub(1, SeqCst);
    sched::unpark(kswapd_key(), usize::MAX);
}

/// Ends swapping after all processes are gone: from here on the memory manager does nothing by itself.
pub fn finish() {
    let Some(device) = device() else { return };
    machine::vm().kswapd_stop();
    while KSWAPD.load(SeqCst) != 0 {
        sched::park(kswapd_key(), &|| KSWAPD.load(SeqCst) != 0, None, Interruptible::No);
    }
    // Nobody is left who could bring back what is left.
    let left: u64 = machine::vm().swap_devices().map(|info| info.used).sum();
    if left > 0 {
        klog!("leaked: {left} swap slots");
        return;
    }
    if machine::vm().swap_off(NUMBER).is_ok() {
        device.store.clear();
    }
}

/// Starts swapping to the device at `path`, with Linux's flags.
///
/// # Errors
/// Those of swapon(2).
pub fn swapon(path: &[u8], flags: u32) -> Result<()> {
    const PREFER: u32 = 0x8000;
    const PRIORITY: u32 = 0x7fff;
    const DISCARD: u32 = 0x7_0000;
    if flags & !(PREFER | PRIORITY | DISCARD) != 0 {
        return Err(EINVAL);
    }
    let device = named(path)?;
    let _turn = SWAPON.lock();
    if is_on() {
        return Err(EBUSY);
    }
    let priority = if flags & PREFER != 0 { (flags & PRIORITY) as i32 } else { DEFAULT_PRIORITY };
    machine::vm().swap_on(NUMBER, device.pages, priority).map_err(errno)
}

/// Brings everything back from the device at `path` and stops swapping to it.
///
/// # Errors
/// Those of swapoff(2).
pub fn swapoff(path: &[u8]) -> Result<()> {
    let device = named(path)?;
    let _turn = SWAPON.lock();
    machine::vm().swap_off(NUMBER).map_err(errno)?;
    device.store.clear();
    Ok(())
}

/// The device with that name. Any other file is no swap device.
fn named(path: &[u8]) -> Result<&'static Device> {
    match device() {
        Some(device) if path == device.store.path().as_bytes() => Ok(device),
        Some(_) | None => {
            let vfs = crate::fs::vfs();
            vfs.lookup(vfs.root(), path, anonmem_oslib::vfs::path::Follow::Yes)?;
            Err(EINVAL)
        }
    }
}

/// Says whether a swap device was asked for.
pub fn is_configured() -> bool {
    device().is_some()
}

fn is_on() -> bool {
    machine::vm().swap_devices().next().is_some()
}

/// Gives the bytes of all devices in use, and those of them that are free.
pub fn space() -> (u64, u64) {
    machine::vm().swap_devices().fold((0, 0), |(total, free), info| {
        (total + (info.pages << PAGE_SHIFT), free + ((info.pages - info.used) << PAGE_SHIFT))
    })
}

/// Gives the text of `/proc/swaps`.
pub fn table() -> String {
    let mut out = String::from("Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n");
    for info in machine::vm().swap_devices() {
        let (size, used) = (info.pages * PAGE_SIZE as u64 / 1024, info.used * PAGE_SIZE as u64 / 1024);
        let path = device().map_or_else(String::new, |device| device.store.path());
        let _ = writeln!(out, "{path:<40}partition\t{size}\t\t{used}\t\t{}", info.priority);
    }
    out
}

/// Gives what the compressed memory was used for; zeroes if there is none.
pub fn usage() -> Usage {
    match device().map(|device| &device.store) {
        Some(Store::Zram(zram)) => zram.usage(),
        Some(Store::Disk(_)) | None => Usage::default(),
    }
}

/// Moves pages between their place on the disk and frames, which the caller has locked: one request.
fn move_pages(
    disk: &Disk,
    transfer: Transfer,
    page: u64,
    order: Order,
    frame: Pfn,
) -> core::result::Result<(), IoError> {
    let piece = Piece { at: frame.0 << PAGE_SHIFT, len: order.bytes() as u32 };
    disk.transfer(transfer, page * (PAGE_SIZE as u64 / SECTOR), core::iter::once(piece))
}

impl SwapIo for Kernel {
    unsafe fn swap_write(
        &self,
        _: u8,
        slot: u64,
        order: Order,
        src: Pfn,
        frames: &dyn FrameAlloc,
    ) -> core::result::Result<(), IoError> {
        match &device().ok_or(IoError)?.store {
            Store::Zram(zram) => zram.write_run(self, this_cpu().id(), slot, order, src, frames),
            Store::Disk(disk) => move_pages(disk, Transfer::Write, slot, order, src),
        }
    }

    unsafe fn swap_read(
        &self,
        _: u8,
        slot: u64,
        order: Order,
        dst: Pfn,
    ) -> core::result::Result<(), IoError> {
        match &device().ok_or(IoError)?.store {
            Store::Zram(zram) => zram.read_run(self, this_cpu().id(), slot, order, dst),
            Store::Disk(disk) => move_pages(disk, Transfer::Read, slot, order, dst),
        }
    }

    unsafe fn swap_discard(&self, _: u8, slot: u64, frames: &dyn FrameAlloc) {
        if let Some(Store::Zram(zram)) = device().map(|device| &device.store) {
            zram.discard(self, slot, frames);
        }
    }
}

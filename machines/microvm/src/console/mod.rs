//! The channel to the `anonmem` command: frames over a virtio serial port.
//!
//! A frame is 8 bytes of header (type, three zeros, little-endian payload length) and the payload. Senders
//! sleep while the host is slow. A kernel task takes received bytes apart and hands frames to the function
//! that [`init`] was given. Another sends the lines of the kernel log.
//!
//! Locks: `SENDER` (sleeping; a frame is not interleaved with another) > `DEVICE` (interrupts off).

mod buffers;
mod virtio;

use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering::Acquire, Ordering::Release};

use crate::arch::apic;
use crate::arch::lock::IrqLock;
use crate::arch::mem::PAGE;
use crate::arch::time;
use crate::boot::acpi::Platform;
use crate::log::{self, Line};
use crate::sched::{self, Interruptible, Mutex, Task};
use crate::virtio::queue::Interrupts;
use spin::Once;
use virtio::Device;

/// Frame types, guest to host.
pub mod to_host {
    #![allow(missing_docs, reason = "the names of the protocol")]
    pub const STDOUT: u8 = 1;
    pub const STDERR: u8 = 2;
    pub const EXIT: u8 = 3;
    pub const BILL: u8 = 4;
    pub const LOG: u8 = 5;
    pub const READY: u8 = 6;
    pub const STDIN_WANT: u8 = 7;
    pub const SAMPLE: u8 = 8;
}

/// Frame types, host to guest.
pub mod to_guest {
    #![allow(missing_docs, reason = "the names of the protocol")]
    pub const STDIN: u8 = 16;
    pub const STDIN_EOF: u8 = 17;
    pub const SIGNAL: u8 = 18;
    pub const WINDOW: u8 = 19;
}

const HEADER: usize = 8;
const MAX_PAYLOAD: usize = 64 * 1024;
/// How long boot waits for the device to announce the port.
const OPEN_TIMEOUT_NS: u64 = 2_000_000_000;

static DEVICE: IrqLock<Option<Device>> = IrqLock::new(None);
static SENDER: Mutex<()> = Mutex::new(());
static UP: AtomicBool = AtomicBool::new(false);
/// Takes the frames that the host sends: type and payload. Task context.
static ON_FRAME: Once<fn(u8, &[u8])> = Once::new();

fn rx_key() -> usize {
    core::ptr::from_ref(&DEVICE) as usize
}

fn tx_key() -> usize {
    core::ptr::from_ref(&SENDER) as usize
}

fn log_key() -> usize {
    core::ptr::from_ref(&UP) as usize
}

/// Finds the device, routes its interrupt to the CPU `apic_id` and starts the task that receives frames for
/// `on_frame`. Without a device everything that is sent goes nowhere (the kernel log is on COM1 then).
pub fn init(platform: &Platform, apic_id: u32, on_frame: fn(u8, &[u8])) {
    ON_FRAME.call_once(|| on_frame);
    let Some(device) = Device::find() else {
        crate::klog!("no virtio console: the channel is closed");
        return;
    };
    *DEVICE.lock() = Some(device);
    let end = time::now_ns() + OPEN_TIMEOUT_NS;
    while !with_device(|device| {
        device.handle_control();
        device.is_open()
    }) {
        if time::now_ns() > end {
            crate::klog!("the virtio console has no port 1 (virtserialport): the channel is closed");
            return;
        }
        core::hint::spin_loop();
    }
    for &(registers, _) in platform.io_apics() {
        apic::route_io_apic(registers, apic_id);
    }
    UP.store(true, Release);
    log::channel_is_open(|| {
        sched::unpark(log_key(), 1);
    });
    for task in [receive as fn(usize), send_log] {
        let task = Task::new_kernel(task, 0).expect("memory for the console's tasks");
        sched::start(&task);
    }
}

/// Whether the channel is open.
pub fn is_up() -> bool {
    UP.load(Acquire)
}

fn with_device<R: Default>(f: impl FnOnce(&mut Device) -> R) -> R {
    DEVICE.lock().as_mut().map(f).unwrap_or_default()
}

/// The device's interrupt (or another's on the same vector).
pub fn interrupt() {
    // Acknowledge first: what comes in later interrupts again.
    if with_device(|device| device.acknowledge()) {
        sched::unpark(rx_key(), 1);
        sched::unpark(tx_key(), usize::MAX);
    }
}

/// Sends one frame (or several, if the payload is over 64 KiB). Sleeps while the host is slow.
/// Task context only.
pub fn send(kind: u8, payload: &[u8]) {
    if !is_up() {
        return;
    }
    let _sender = SENDER.lock();
    if payload.is_empty() {
        send_frame(kind, payload);
    }
    for chunk in payload.chunks(MAX_PAYLOAD) {
        send_frame(kind, chunk);
    }
}

fn header(kind: u8, len: usize) -> [u8; HEADER] {
    let mut header = [kind, 0, 0, 0, 0, 0, 0, 0];
    header[4..].copy_from_slice(&(len as u32).to_le_bytes());
    header
}

fn send_frame(kind: u8, payload: &[u8]) {
    let header = header(kind, payload.len());
    let (first, rest) = payload.split_at(payload.len().min(PAGE as usize - HEADER));
    send_buffer(&header, first);
    for chunk in rest.chunks(PAGE as usize) {
        send_buffer(&[], chunk);
    }
}

fn send_buffer(head: &[u8], body: &[u8]) {
    let index = loop {
        let index = with_device(|device| {
            device.tx.reclaim();
            let index = device.tx.take_buffer();
            device.tx.want_interrupts(if index.is_none() {
                Interrupts::Wanted
            } else {
                Interrupts::Unwanted
            });
            index
        });
        match index {
            Some(index) => break index,
            None => wait_for_tx(),
        }
    };
    with_device(|device| {
        fill_buffer(device, index, head, body);
        device.submit_tx(index, head.len() + body.len());
    });
}

fn fill_buffer(device: &Device, index: usize, head: &[u8], body: &[u8]) {
    let buffer = device.tx.buffer(index);
    // SAFETY: the buffer is a page that the device does not have; head and body fit (the callers' chunks).
    unsafe { core::ptr::copy_nonoverlapping(head.as_ptr(), buffer, head.len()) };
    let rest = buffer.wrapping_add(head.len());
    // SAFETY: as above.
    unsafe { core::ptr::copy_nonoverlapping(body.as_ptr(), rest, body.len()) };
}

fn wait_for_tx() {
    sched::park(tx_key(), &|| with_device(|device| !device.tx.has_used()), None, Interruptible::No);
}

/// Waits until the host has taken everything that was sent, the kernel log included.
pub fn flush() {
    if !is_up() {
        return;
    }
    drain_log();
    let _sender = SENDER.lock();
    loop {
        let quiet = with_device(|device| {
            device.tx.reclaim();
            let quiet = device.tx.is_quiet();
            device.tx.want_interrupts(if quiet { Interrupts::Unwanted } else { Interrupts::Wanted });
            quiet
        });
        if quiet {
            return;
        }
        wait_for_tx();
    }
}

/// Sends the lines of the kernel log that wait.
fn drain_log() {
    while let Some((len, bytes)) = log::pop() {
        send(to_host::LOG, &bytes[..len]);
    }
    let lost = log::take_lost();
    if lost > 0 {
        send(to_host::LOG, Line::new(format_args!("{lost} log lines lost")).text());
    }
}

/// The task that sends the log.
fn send_log(_: usize) {
    loop {
        drain_log();
        sched::park(log_key(), &log::is_empty, None, Interruptible::No);
    }
}

/// Sends a LOG frame without sleeping, if that is possible at all; for panics.
pub fn send_last_words(line: &[u8]) {
    if !is_up() {
        return;
    }
    let Some(mut guard) = DEVICE.try_lock() else { return };
    let Some(device) = guard.as_mut() else { return };
    let line = &line[..line.len().min(PAGE as usize - HEADER)];
    let end = time::now_ns() + 200_000_000;
    device.tx.reclaim();
    if let Some(index) = device.tx.take_buffer() {
        fill_buffer(device, index, &header(to_host::LOG, line.len()), line);
        device.submit_tx(index, HEADER + line.len());
    }
    // The device takes it in its own time; the machine stops after this.
    while !device.tx.is_quiet() && time::now_ns() < end {
        device.tx.reclaim();
        core::hint::spin_loop();
    }
}

/// The receiving task.
fn receive(_: usize) {
    let mut pending = Vec::new();
    loop {
        sched::park(rx_key(), &|| with_device(|device| !device.rx.has_used()), None, Interruptible::No);
        with_device(Device::handle_control);
        while take_bytes(&mut pending) {
            hand_out(&mut pending);
        }
    }
}

/// Moves one received buffer's bytes to `pending`.
fn take_bytes(pending: &mut Vec<u8>) -> bool {
    // Room first: the device's lock allows no allocation.
    pending.reserve(PAGE as usize);
    with_device(|device| {
        let Some((index, len)) = device.rx.pop_used() else { return false };
        // SAFETY: the device returned the buffer with `len` bytes written, at most a page.
        let bytes = unsafe { core::slice::from_raw_parts(device.rx.buffer(index), len.min(PAGE as usize)) };
        pending.extend_from_slice(bytes);
        device.submit_rx(index);
        true
    })
}

/// Hands the complete frames in `pending` out and removes them.
fn hand_out(pending: &mut Vec<u8>) {
    let mut at = 0;
    while let Some(header) = pending.get(at..at + HEADER) {
        let kind = header[0];
        let len = u32::from_le_bytes(header[4..].try_into().expect("four bytes")) as usize;
        if len > MAX_PAYLOAD {
            crate::klog!("the host sent a frame of {len} bytes: the channel is out of step, dropped");
            pending.clear();
            return;
        }
        let start = at + HEADER;
        let Some(payload) = pending.get(start..start + len) else { break };
        if let Some(on_frame) = ON_FRAME.get() {
            on_frame(kind, payload);
        }
        at = start + len;
    }
    pending.drain(..at);
}

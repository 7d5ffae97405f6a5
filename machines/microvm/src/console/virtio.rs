//! A virtio console device on a memory-mapped transport, with one generic port (`virtserialport`).
//!
//! A generic port, not a console port, because QEMU drops what a console port cannot write at once but
//! stops taking buffers from a generic one. Such a port needs the control queues: the device announces
//! the port, the driver says that it is ready and open.
//!
//! Virtio 1.2, sections 4.2 (MMIO) and 5.3 (console).

use super::queue::{Direction, Interrupts, Queue};
use crate::arch::mem::{PAGE, PhysAddr, direct};

/// Where QEMU's microvm machine has its transports.
const TRANSPORTS: PhysAddr = 0xfeb0_0000;
const TRANSPORT_SIZE: u64 = 0x200;
const NR_TRANSPORTS: u64 = 24;

const MAGIC: u64 = 0x000;
const VERSION: u64 = 0x004;
const DEVICE_ID: u64 = 0x008;
const DRIVER_FEATURES: u64 = 0x020;
const DRIVER_FEATURES_SEL: u64 = 0x024;
const QUEUE_SEL: u64 = 0x030;
const QUEUE_NUM_MAX: u64 = 0x034;
const QUEUE_NUM: u64 = 0x038;
const QUEUE_READY: u64 = 0x044;
const QUEUE_NOTIFY: u64 = 0x050;
const INTERRUPT_STATUS: u64 = 0x060;
const INTERRUPT_ACK: u64 = 0x064;
const STATUS: u64 = 0x070;
const QUEUE_ADDRESSES: [u64; 3] = [0x080, 0x090, 0x0a0];

const MAGIC_VALUE: u32 = 0x7472_6976;
const CONSOLE: u32 = 3;
const ACKNOWLEDGE: u32 = 1;
const DRIVER: u32 = 2;
const DRIVER_OK: u32 = 4;
const FEATURES_OK: u32 = 8;
const F_MULTIPORT: u32 = 1 << 1;
/// VIRTIO_F_VERSION_1 is bit 32.
const F_VERSION_1_HIGH: u32 = 1;

const CONTROL_RX: usize = 2;
const CONTROL_TX: usize = 3;

/// Control messages.
const DEVICE_READY: u16 = 0;
const DEVICE_ADD: u16 = 1;
const PORT_READY: u16 = 3;
const PORT_OPEN: u16 = 6;

/// The device.
pub(super) struct Device {
    registers: PhysAddr,
    control_rx: Queue,
    control_tx: Queue,
    /// The port's queues, once the device has announced it.
    pub(super) rx: Queue,
    pub(super) tx: Queue,
    /// The port's number; 0 before it is known.
    port: u32,
}

impl Device {
    /// Finds the device and starts it. `None` if the machine has none.
    pub(super) fn find() -> Option<Device> {
        let registers = (0..NR_TRANSPORTS).map(|i| TRANSPORTS + i * TRANSPORT_SIZE).find(|&at| {
            read(at, MAGIC) == MAGIC_VALUE && read(at, DEVICE_ID) == CONSOLE && read(at, VERSION) == 2
        })?;
        let mut device = Device {
            registers,
            control_rx: Queue::new(Direction::FromDevice)?,
            control_tx: Queue::new(Direction::ToDevice)?,
            rx: Queue::new(Direction::FromDevice)?,
            tx: Queue::new(Direction::ToDevice)?,
            port: 0,
        };
        device.start()?;
        Some(device)
    }

    fn start(&mut self) -> Option<()> {
        let at = self.registers;
        write(at, STATUS, 0);
        write(at, STATUS, ACKNOWLEDGE | DRIVER);
        write(at, DRIVER_FEATURES_SEL, 0);
        write(at, DRIVER_FEATURES, F_MULTIPORT);
        write(at, DRIVER_FEATURES_SEL, 1);
        write(at, DRIVER_FEATURES, F_VERSION_1_HIGH);
        write(at, STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK);
        if read(at, STATUS) & FEATURES_OK == 0 {
            return None;
        }
        self.configure_queue(CONTROL_RX, &self.control_rx)?;
        self.configure_queue(CONTROL_TX, &self.control_tx)?;
        // The first generic port is port 1: port 0 is for consoles.
        self.configure_queue(rx_queue(1), &self.rx)?;
        self.configure_queue(tx_queue(1), &self.tx)?;
        write(at, STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
        fill(&mut self.control_rx);
        self.notify(CONTROL_RX);
        self.tx.want_interrupts(Interrupts::Unwanted);
        self.control_tx.want_interrupts(Interrupts::Unwanted);
        self.send_control(0, DEVICE_READY, 1);
        Some(())
    }

    fn configure_queue(&self, index: usize, queue: &Queue) -> Option<()> {
        let at = self.registers;
        write(at, QUEUE_SEL, index as u32);
        if (read(at, QUEUE_NUM_MAX) as usize) < super::queue::SIZE {
            return None;
        }
        write(at, QUEUE_NUM, super::queue::SIZE as u32);
        for (register, address) in QUEUE_ADDRESSES.into_iter().zip(queue.addresses()) {
            write(at, register, address as u32);
            write(at, register + 4, (address >> 32) as u32);
        }
        write(at, QUEUE_READY, 1);
        Some(())
    }

    fn notify(&self, queue: usize) {
        write(self.registers, QUEUE_NOTIFY, queue as u32);
    }

    fn send_control(&mut self, port: u32, event: u16, value: u16) {
        self.control_tx.reclaim();
        let Some(index) = self.control_tx.take_buffer() else { return };
        let message = u64::from(port) | u64::from(event) << 32 | u64::from(value) << 48;
        // SAFETY: the buffer is a page that the device does not have.
        unsafe { self.control_tx.buffer(index).cast::<u64>().write_volatile(message) };
        self.control_tx.submit(index, 8);
        self.notify(CONTROL_TX);
    }

    /// Acknowledges the interrupt; false if the device has none.
    pub(super) fn acknowledge(&self) -> bool {
        let status = read(self.registers, INTERRUPT_STATUS);
        if status != 0 {
            write(self.registers, INTERRUPT_ACK, status);
        }
        status != 0
    }

    /// Answers the device's control messages.
    pub(super) fn handle_control(&mut self) {
        while let Some((index, _)) = self.control_rx.pop_used() {
            // SAFETY: the device returned the buffer.
            let message = unsafe { self.control_rx.buffer(index).cast::<u64>().read_volatile() };
            self.control_rx.submit(index, PAGE as usize);
            self.notify(CONTROL_RX);
            let (port, event) = (message as u32, (message >> 32) as u16);
            if event == DEVICE_ADD && port == 1 && self.port == 0 {
                self.port = port;
                fill(&mut self.rx);
                self.notify(rx_queue(1));
                self.send_control(port, PORT_READY, 1);
                self.send_control(port, PORT_OPEN, 1);
            }
        }
    }

    /// Whether the device has announced the port.
    pub(super) fn is_open(&self) -> bool {
        self.port != 0
    }

    /// Sends a filled buffer of `tx`.
    pub(super) fn submit_tx(&mut self, index: usize, len: usize) {
        self.tx.submit(index, len);
        self.notify(tx_queue(1));
    }

    /// Returns a buffer of `rx` to the device.
    pub(super) fn submit_rx(&mut self, index: usize) {
        self.rx.submit(index, PAGE as usize);
        self.notify(rx_queue(1));
    }
}

fn rx_queue(port: usize) -> usize {
    2 + 2 * port
}

fn tx_queue(port: usize) -> usize {
    rx_queue(port) + 1
}

fn fill(queue: &mut Queue) {
    while let Some(index) = queue.take_buffer() {
        queue.submit(index, PAGE as usize);
    }
}

fn read(base: PhysAddr, register: u64) -> u32 {
    // SAFETY: the transports' registers are mapped uncached; where none is, reads give zeros or ones.
    u32::from_le(unsafe { direct(base + register).cast::<u32>().read_volatile() })
}

fn write(base: PhysAddr, register: u64, value: u32) {
    // SAFETY: a register of a virtio console that was found there; queue addresses are the driver's own
    // memory.
    unsafe { direct(base + register).cast::<u32>().write_volatile(value.to_le()) };
}

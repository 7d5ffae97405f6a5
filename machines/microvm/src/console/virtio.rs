//! A virtio console device, with one generic port (`virtserialport`).
//!
//! A generic port, not a console port, because QEMU drops what a console port cannot write at once but
//! stops taking buffers from a generic one. Such a port needs the control queues: the device announces
//! the port, the driver says that it is ready and open.
//!
//! Virtio 1.2, section 5.3 (console).

use super::buffers::{Buffers, SIZE};
use crate::arch::mem::PAGE;
use crate::virtio::queue::{Direction, Interrupts};
use crate::virtio::{Kind, Transport};

const F_MULTIPORT: u32 = 1 << 1;

const CONTROL_RX: usize = 2;
const CONTROL_TX: usize = 3;

/// Control messages.
const DEVICE_READY: u16 = 0;
const DEVICE_ADD: u16 = 1;
const PORT_READY: u16 = 3;
const PORT_OPEN: u16 = 6;

/// The device.
pub(super) struct Device {
    transport: Transport,
    control_rx: Buffers,
    control_tx: Buffers,
    /// The port's queues, once the device has announced it.
    pub(super) rx: Buffers,
    pub(super) tx: Buffers,
    /// The port's number; 0 before it is known.
    port: u32,
}

impl Device {
    /// Finds the device and starts it. `None` if the machine has none.
    pub(super) fn find() -> Option<Device> {
        let transport = Transport::all(Kind::Console).next()?;
        let mut device = Device {
            transport,
            control_rx: Buffers::new(Direction::FromDevice)?,
            control_tx: Buffers::new(Direction::ToDevice)?,
            rx: Buffers::new(Direction::FromDevice)?,
            tx: Buffers::new(Direction::ToDevice)?,
            port: 0,
        };
        device.start()?;
        Some(device)
    }

    fn start(&mut self) -> Option<()> {
        self.transport.negotiate(F_MULTIPORT).filter(|features| features & F_MULTIPORT != 0)?;
        self.configure_queue(CONTROL_RX, &self.control_rx)?;
        self.configure_queue(CONTROL_TX, &self.control_tx)?;
        // The first generic port is port 1: port 0 is for consoles.
        self.configure_queue(rx_queue(1), &self.rx)?;
        self.configure_queue(tx_queue(1), &self.tx)?;
        self.transport.start();
        fill(&mut self.control_rx);
        self.notify(CONTROL_RX);
        self.tx.want_interrupts(Interrupts::Unwanted);
        self.control_tx.want_interrupts(Interrupts::Unwanted);
        self.send_control(0, DEVICE_READY, 1);
        Some(())
    }

    fn configure_queue(&self, index: usize, queue: &Buffers) -> Option<()> {
        self.transport.add_queue(index, SIZE, queue.addresses())
    }

    fn notify(&self, queue: usize) {
        self.transport.notify(queue);
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
        self.transport.acknowledge()
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

fn fill(queue: &mut Buffers) {
    while let Some(index) = queue.take_buffer() {
        queue.submit(index, PAGE as usize);
    }
}

//! Virtio devices on memory-mapped transports: what all of them have in common.
//!
//! Linux: drivers/virtio/virtio_mmio.c. Virtio 1.2, section 4.2 (MMIO).

use crate::arch::mem::{PhysAddr, direct};

pub mod block;
pub mod queue;

/// Where QEMU's microvm machine has its transports.
const TRANSPORTS: PhysAddr = 0xfeb0_0000;
const TRANSPORT_SIZE: u64 = 0x200;
const NR_TRANSPORTS: u64 = 24;

const MAGIC: u64 = 0x000;
const VERSION: u64 = 0x004;
const DEVICE_ID: u64 = 0x008;
const DEVICE_FEATURES: u64 = 0x010;
const DEVICE_FEATURES_SEL: u64 = 0x014;
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
const CONFIG: u64 = 0x100;

const MAGIC_VALUE: u32 = 0x7472_6976;
const ACKNOWLEDGE: u32 = 1;
const DRIVER: u32 = 2;
const DRIVER_OK: u32 = 4;
const FEATURES_OK: u32 = 8;
/// VIRTIO_F_VERSION_1 is bit 32.
const F_VERSION_1_HIGH: u32 = 1;

/// What a device is.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// A disk.
    Block = 2,
    /// A serial line, or several.
    Console = 3,
}

/// A device's registers.
pub struct Transport {
    registers: PhysAddr,
}

impl Transport {
    /// The devices of this kind.
    pub fn all(kind: Kind) -> impl Iterator<Item = Self> {
        (0..NR_TRANSPORTS).map(|i| Self { registers: TRANSPORTS + i * TRANSPORT_SIZE }).filter(move |at| {
            at.read(MAGIC) == MAGIC_VALUE && at.read(DEVICE_ID) == kind as u32 && at.read(VERSION) == 2
        })
    }

    /// Resets the device and agrees on features: those of `wanted` that it has. `None` if it does not take
    /// them.
    pub fn negotiate(&self, wanted: u32) -> Option<u32> {
        self.write(STATUS, 0);
        self.write(STATUS, ACKNOWLEDGE | DRIVER);
        self.write(DEVICE_FEATURES_SEL, 0);
        let features = self.read(DEVICE_FEATURES) & wanted;
        self.write(DRIVER_FEATURES_SEL, 0);
        self.write(DRIVER_FEATURES, features);
        self.write(DRIVER_FEATURES_SEL, 1);
        self.write(DRIVER_FEATURES, F_VERSION_1_HIGH);
        self.write(STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK);
        (self.read(STATUS) & FEATURES_OK != 0).then_some(features)
    }

    /// Gives the device a queue of `size` descriptors: where the descriptors, the available ring and the used
    /// ring are. `None` if it has no such queue.
    pub fn add_queue(&self, index: usize, size: usize, addresses: [PhysAddr; 3]) -> Option<()> {
        self.write(QUEUE_SEL, index as u32);
        if (self.read(QUEUE_NUM_MAX) as usize) < size {
            return None;
        }
        self.write(QUEUE_NUM, size as u32);
        for (register, address) in QUEUE_ADDRESSES.into_iter().zip(addresses) {
            self.write(register, address as u32);
            self.write(register + 4, (address >> 32) as u32);
        }
        self.write(QUEUE_READY, 1);
        Some(())
    }

    /// Tells the device that the driver is ready.
    pub fn start(&self) {
        self.write(STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
    }

    /// Tells the device that a queue has something for it.
    pub fn notify(&self, queue: usize) {
        self.write(QUEUE_NOTIFY, queue as u32);
    }

    /// Acknowledges the interrupt; false if the device has none.
    pub fn acknowledge(&self) -> bool {
        let status = self.read(INTERRUPT_STATUS);
        if status != 0 {
            self.write(INTERRUPT_ACK, status);
        }
        status != 0
    }

    /// The first 8 bytes of the device's own configuration, as a number.
    pub fn config_u64(&self) -> u64 {
        u64::from(self.read(CONFIG)) | u64::from(self.read(CONFIG + 4)) << 32
    }

    fn read(&self, register: u64) -> u32 {
        // SAFETY: the transports' registers are mapped uncached; where none is, reads give zeros or ones.
        u32::from_le(unsafe { direct(self.registers + register).cast::<u32>().read_volatile() })
    }

    fn write(&self, register: u64, value: u32) {
        // SAFETY: a register of a device that was found there; queue addresses are its driver's own memory.
        unsafe { direct(self.registers + register).cast::<u32>().write_volatile(value.to_le()) };
    }
}

//! The part of ACPI that a small kernel needs: which CPUs there are and where the I/O APICs sit.
//!
//! ACPI 6.5, sections 5.2.5 (RSDP), 5.2.7 (RSDT), 5.2.8 (XSDT), 5.2.12 (MADT).

use crate::arch::mem::{PhysAddr, direct};
use crate::arch::percpu::MAX_CPUS;

/// What the MADT says.
#[derive(Debug)]
pub struct Platform {
    apic_ids: [u32; MAX_CPUS],
    nr_cpus: usize,
    /// Where the local APIC's registers are.
    pub lapic: PhysAddr,
    io_apics: [(PhysAddr, u32); 4],
    nr_io_apics: usize,
}

impl Platform {
    /// Reads the tables; a machine without them has one CPU and no I/O APIC.
    pub fn read(rsdp: PhysAddr) -> Platform {
        let mut platform = Platform {
            apic_ids: [0; MAX_CPUS],
            nr_cpus: 0,
            lapic: 0xfee0_0000,
            io_apics: [(0, 0); 4],
            nr_io_apics: 0,
        };
        if let Some(madt) = find_table(rsdp, b"APIC") {
            platform.read_madt(madt);
        }
        if platform.nr_cpus == 0 {
            platform.nr_cpus = 1;
        }
        platform
    }

    /// The APIC ids of all usable CPUs (at most `MAX_CPUS`).
    pub fn apic_ids(&self) -> &[u32] {
        &self.apic_ids[..self.nr_cpus]
    }

    /// The I/O APICs: registers, first global interrupt.
    pub fn io_apics(&self) -> &[(PhysAddr, u32)] {
        &self.io_apics[..self.nr_io_apics]
    }

    fn read_madt(&mut self, madt: PhysAddr) {
        let end = madt + u64::from(read::<u32>(madt + 4));
        self.lapic = u64::from(read::<u32>(madt + 36));
        let mut entry = madt + 44;
        while entry + 2 <= end {
            let (kind, len) = (read::<u8>(entry), u64::from(read::<u8>(entry + 1)));
            if len < 2 {
                break;
            }
            match kind {
                0 => self.add_cpu(u32::from(read::<u8>(entry + 3)), read::<u32>(entry + 4)),
                9 => self.add_cpu(read::<u32>(entry + 4), read::<u32>(entry + 8)),
                1 if self.nr_io_apics < self.io_apics.len() => {
                    let registers = u64::from(read::<u32>(entry + 4));
                    self.io_apics[self.nr_io_apics] = (registers, read::<u32>(entry + 8));
                    self.nr_io_apics += 1;
                }
                _ => {}
            }
            entry += len;
        }
    }

    fn add_cpu(&mut self, apic_id: u32, flags: u32) {
        let enabled = flags & 1 != 0;
        // Destinations of the memory-mapped local APIC have eight bits.
        if enabled && apic_id < 255 && self.nr_cpus < MAX_CPUS {
            self.apic_ids[self.nr_cpus] = apic_id;
            self.nr_cpus += 1;
        }
    }
}

fn find_table(rsdp: PhysAddr, signature: &[u8; 4]) -> Option<PhysAddr> {
    if rsdp == 0 || read::<[u8; 8]>(rsdp) != *b"RSD PTR " {
        return None;
    }
    let xsdt = if read::<u8>(rsdp + 15) >= 2 { read::<u64>(rsdp + 24) } else { 0 };
    let (root, entry_size) = if xsdt != 0 { (xsdt, 8) } else { (u64::from(read::<u32>(rsdp + 16)), 4) };
    let end = root + u64::from(read::<u32>(root + 4));
    let mut entry = root + 36;
    while entry + entry_size <= end {
        let table = if entry_size == 8 { read::<u64>(entry) } else { u64::from(read::<u32>(entry)) };
        if read::<[u8; 4]>(table) == *signature {
            return Some(table);
        }
        entry += entry_size;
    }
    None
}

fn read<T: Copy>(addr: PhysAddr) -> T {
    assert!(addr < 1 << 32, "an ACPI table above 4 GiB");
    // SAFETY: the first 4 GiB are mapped by the boot tables and by the direct map; T is an integer or
    // an array of them.
    unsafe { direct(addr).cast::<T>().read_unaligned() }
}

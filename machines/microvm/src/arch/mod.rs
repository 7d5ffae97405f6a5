//! x86-64: CPUs, traps, interrupts, clocks, translations.

pub mod apic;
pub mod cpu;
pub mod entry;
pub mod fpu;
pub mod gdt;
pub mod idt;
pub mod irq;
pub mod lock;
pub mod mem;
pub mod percpu;
pub mod power;
pub mod random;
pub mod serial;
pub mod time;
pub mod tlb;
pub mod trap;
pub mod vdso;

//! Where the parts of the kernel image are (`linker.ld`).

use core::ops::Range;

use crate::arch::mem::PhysAddr;

unsafe extern "C" {
    static __image_start: u8;
    static __image_end: u8;
    static __text_start: u8;
    static __text_end: u8;
    static __rodata_start: u8;
    static __rodata_end: u8;
    static __data_start: u8;
    static __data_end: u8;
}

macro_rules! address {
    ($symbol:ident) => {
        (&raw const $symbol) as u64
    };
}

/// The physical range of the whole image.
pub fn physical() -> Range<PhysAddr> {
    address!(__image_start)..address!(__image_end)
}

/// The code, where it runs.
pub fn text() -> Range<u64> {
    address!(__text_start)..address!(__text_end)
}

/// Constants.
pub fn rodata() -> Range<u64> {
    address!(__rodata_start)..address!(__rodata_end)
}

/// Variables.
pub fn data() -> Range<u64> {
    address!(__data_start)..address!(__data_end)
}

//! From the boot loader to the first task.

/// The initial archive (cpio newc), all of it.
pub fn initrd() -> &'static [u8] {
    todo!()
}

/// The number of CPUs that run.
pub fn cpu_count() -> usize {
    todo!()
}

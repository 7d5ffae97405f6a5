//! The kernel log: lines to COM1 and, as LOG frames, to the host.

/// Writes one line to the kernel log; any context.
#[macro_export]
macro_rules! klog {
    ($($arg:tt)*) => { $crate::log::write(format_args!($($arg)*)) };
}

/// Writes one line (use [`klog!`](crate::klog)).
pub fn write(_line: core::fmt::Arguments<'_>) {
    todo!()
}

//! The channel between the command and the kernel: frames over a virtio serial port.
//!
//! [`frame`] has the frames and their bytes; [`session`] carries standard streams, signals, log lines,
//! the exit status and the bill until the microVM ends; [`stdio`], [`terminal`] and [`signals`]
//! are the host's ends.

pub mod frame;
pub mod session;
pub mod signals;
pub mod stdio;
pub mod terminal;

//! x86-64.

pub mod fpu;
pub mod lock;
pub mod power;
pub mod random;
pub mod time;
pub mod trap;

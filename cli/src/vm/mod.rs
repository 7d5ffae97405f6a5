//! The microVM from the host's side: [`kernel`] and [`qemu`] find the two files and make the command
//! line, [`machine`] starts it and owns it, [`accel`] chooses how its CPUs are made, [`disk`]
//! looks at what its disks are made of.

pub mod accel;
pub mod disk;
pub mod kernel;
pub mod machine;
pub mod qemu;

//! The frames of a new folio are written to by one task at a time.
#![forbid(unsafe_code)]

use anonmem_frame::NewFolio;
use anonmem_hal::Machine;

fn in_another_thread<T: Send>(_: T) {}

fn share<M: Machine>(new: &NewFolio<'static, M>) {
    in_another_thread(new);
}

fn main() {}

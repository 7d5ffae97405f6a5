//! A look at a folio owns nothing, so nothing is changed through it.

use anonmem_frame::Folio;
use anonmem_hal::Machine;

fn lock<M: Machine>(folio: Folio<'_, M>) {
    let _ = folio.lock();
}

fn age<M: Machine>(folio: Folio<'_, M>) {
    folio.set_idle(3);
}

fn main() {}

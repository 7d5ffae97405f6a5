//! Which mutant this process has, from `ANONMEM_MUTANT`.
//!
//! With `ANONMEM_MUTANT_REACHED=FILE` every mutant that is asked for is written to that file, once.

extern crate std as hosted;

use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use hosted::io::Write as _;

const UNKNOWN: u32 = u32::MAX;
const RECORD: u32 = u32::MAX - 1;
const MAX: usize = 1 << 16;

static ACTIVE: AtomicU32 = AtomicU32::new(UNKNOWN);
static REACHED: [AtomicBool; MAX] = [const { AtomicBool::new(false) }; MAX];

/// Whether mutant `id` is planted.
#[inline]
pub(crate) fn active(id: u32) -> bool {
    let active = ACTIVE.load(Ordering::Relaxed);
    if active < RECORD { active == id } else { ask(id) }
}

#[cold]
fn ask(id: u32) -> bool {
    // Another thread may have asked meanwhile: both read the same.
    let active = match hosted::env::var("ANONMEM_MUTANT") {
        Ok(id) => id.parse().expect("ANONMEM_MUTANT is a number"),
        Err(_) if hosted::env::var_os("ANONMEM_MUTANT_REACHED").is_some() => RECORD,
        Err(_) => 0,
    };
    ACTIVE.store(active, Ordering::Relaxed);
    if active < RECORD {
        return active == id;
    }
    if !REACHED[id as usize].swap(true, Ordering::Relaxed) {
        let file = hosted::env::var_os("ANONMEM_MUTANT_REACHED").expect("set");
        let mut file = hosted::fs::OpenOptions::new().create(true).append(true).open(file).expect("a file");
        file.write_all(hosted::format!("{id}\n").as_bytes()).expect("written");
    }
    false
}

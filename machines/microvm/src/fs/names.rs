//! What finds a socket that has a name but no path.

use super::link::Kind;
use crate::arch::lock::SpinLock;
use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use anonmem_oslib::Result;
use anonmem_oslib::address::Address;
use anonmem_oslib::errno::EADDRINUSE;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// Its kind, and the name or the port.
pub type Key = (Kind, Address);

/// Gives what finds a socket of `kind` with `address`.
pub fn key(kind: Kind, address: &Address) -> Key {
    match address {
        // A port is taken for all numbers of this machine.
        Address::Inet(_, port) => (kind, Address::Inet(0, *port)),
        other => (kind, other.clone()),
    }
}

/// Who has which name.
pub struct Names<T> {
    found: SpinLock<BTreeMap<Key, Weak<T>>>,
}

impl<T> Names<T> {
    /// Nobody has any.
    pub const fn none() -> Self {
        Names { found: SpinLock::new(BTreeMap::new()) }
    }

    /// Gives who has a name.
    pub fn get(&self, key: &Key) -> Option<Arc<T>> {
        let there = self.found.lock().get(key).cloned();
        there.and_then(|there| there.upgrade())
    }

    /// Gives a name that nobody has to `who`, if `agree` does, in one step.
    ///
    /// # Errors
    /// `EADDRINUSE`; what `agree` gives.
    pub fn give(&self, key: Key, who: Weak<T>, agree: impl FnOnce() -> Result<()>) -> Result<()> {
        let old = {
            let mut found = self.found.lock();
            // Who has gone has taken his name out, or is about to.
            if found.get(&key).is_some_and(|there| there.strong_count() > 0) {
                return Err(EADDRINUSE);
            }
            agree()?;
            found.insert(key, who)
        };
        drop(old);
        Ok(())
    }

    /// Takes out the name of one who has gone; somebody may have it already.
    pub fn take_out(&self, key: &Key) {
        let mut found = self.found.lock();
        if found.get(key).is_some_and(|there| there.strong_count() == 0) {
            let gone = found.remove(key);
            drop(found);
            drop(gone);
        }
    }
}

/// The ports that are given to who asks for none.
const PORTS: core::ops::Range<u32> = 32_768..61_000;
/// Where the next look for one starts.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// Tries one port after the other until `give` does not find it in use.
///
/// # Errors
/// `EADDRINUSE` if all are; what `give` gives.
pub fn first_free(give: impl Fn(u32) -> Result<()>) -> Result<()> {
    let ports = PORTS.end - PORTS.start;
    for _ in 0..ports {
        match give(PORTS.start + NEXT.fetch_add(1, Relaxed) % ports) {
            Err(EADDRINUSE) => {}
            done => return done,
        }
    }
    Err(EADDRINUSE)
}

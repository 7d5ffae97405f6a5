//! Time: the host's monotonic clock since the machine was made.

use crate::{Config, Hosted};
use anonmem_hal::{Arch, Clock};

impl<C: Config, A: Arch> Clock for Hosted<C, A> {
    fn now_ns(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).expect("the machine has run for centuries")
    }
}

//! Keeping interrupts away for a while.

use x86_64::instructions::interrupts;

/// Interrupts off until it is dropped (then as they were).
pub struct IrqOff {
    were_on: bool,
    _not_send: core::marker::PhantomData<*mut ()>,
}

impl IrqOff {
    /// Turns interrupts off.
    #[inline]
    #[allow(clippy::new_without_default, reason = "it has an effect")]
    pub fn new() -> IrqOff {
        let were_on = interrupts::are_enabled();
        if were_on {
            interrupts::disable();
        }
        IrqOff { were_on, _not_send: core::marker::PhantomData }
    }
}

impl Drop for IrqOff {
    #[inline]
    fn drop(&mut self) {
        if self.were_on {
            interrupts::enable();
        }
    }
}

//! A word that holds one of a few named states.
//!
//! [`states!`](crate::states) declares the enum; [`AtomicState`] is the word. So no number stands in for a
//! state, and no state can be stored that has no name.

use crate::atomic::Atomic;
use anonmem_hal::Machine;
use core::{marker::PhantomData, sync::atomic::Ordering};

/// An enum without fields whose variants are numbered from 0: see [`states!`](crate::states).
pub trait State: Copy + 'static {
    /// All of its variants, in the order of their numbers.
    const ALL: &'static [Self];
    /// The number of this variant.
    fn number(self) -> u32;
}

/// Declares an enum without fields that an [`AtomicState`] can hold.
#[macro_export]
macro_rules! states {
    ($(#[$meta:meta])* $vis:vis enum $name:ident { $($(#[$doc:meta])* $state:ident,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u32)]
        $vis enum $name { $($(#[$doc])* $state),* }
        impl $crate::state::State for $name {
            const ALL: &'static [Self] = &[$(Self::$state),*];
            #[inline(always)]
            fn number(self) -> u32 {
                self as u32
            }
        }
    };
}

/// An atomic word of machine `M` that holds a state.
#[repr(transparent)]
pub struct AtomicState<S, M> {
    word: Atomic<u32, M>,
    _state: PhantomData<fn() -> S>,
}

impl<S: State, M: Machine> AtomicState<S, M> {
    /// A word whose state is the first.
    pub const fn new() -> Self {
        Self { word: Atomic::new(0), _state: PhantomData }
    }

    /// Loads the state.
    #[inline(always)]
    #[track_caller]
    pub fn load(&self, order: Ordering) -> S {
        of(self.word.load(order))
    }

    /// Stores `state`.
    #[inline(always)]
    #[track_caller]
    pub fn store(&self, state: S, order: Ordering) {
        self.word.store(state.number(), order);
    }

    /// Replaces `current` by `new`.
    ///
    /// # Errors
    /// The state found, if it was not `current`.
    #[inline(always)]
    #[track_caller]
    pub fn compare_exchange(&self, current: S, new: S, order: Ordering) -> Result<S, S> {
        self.word.compare_exchange(current.number(), new.number(), order).map(of).map_err(of)
    }

    /// The state without the probe seeing it: for displays and for recounts at rest.
    #[inline(always)]
    pub fn peek(&self) -> S {
        of(self.word.peek())
    }
}

impl<S: State, M: Machine> Default for AtomicState<S, M> {
    fn default() -> Self {
        Self::new()
    }
}

#[inline(always)]
fn of<S: State>(number: u32) -> S {
    S::ALL[number as usize]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestMachine;

    crate::states! {
        enum Light {
            Red,
            Green,
        }
    }

    #[test]
    fn a_word_holds_named_states_alone() {
        let light = AtomicState::<Light, TestMachine>::new();
        assert_eq!(light.load(Ordering::Relaxed), Light::Red);
        light.store(Light::Green, Ordering::Relaxed);
        assert_eq!(light.compare_exchange(Light::Red, Light::Green, Ordering::Relaxed), Err(Light::Green));
        assert_eq!(light.compare_exchange(Light::Green, Light::Red, Ordering::Relaxed), Ok(Light::Green));
        assert_eq!(light.peek(), Light::Red);
    }
}

//! `Debug` for types whose fields belong to a machine, or that other CPUs change: the name, and what the
//! value is about.
//!
//! `#[derive(Debug)]` would ask for a machine that has `Debug`, and would read words of other CPUs.

use crate::{
    AtomicState, BitGuard, BitLock, Level, PerCpu, RawSpin, Rcu, RcuGuard, RwSemReadGuard, RwSemWriteGuard,
    SeqCount, SpinGuard, WaitQueue, seqcount::SeqWriteGuard, spin::RawSpinGuard, state::State,
};
use anonmem_hal::Machine;
use core::fmt;

/// Implements `Debug` as the name of the type, and one thing that it is about.
#[doc(hidden)]
#[macro_export]
macro_rules! debug_by_name {
    ($([$($generics:tt)*] $type:ty, $name:literal $(, $this:ident => $what:expr)?;)*) => {$(
        impl<$($generics)*> ::core::fmt::Debug for $type {
            fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                f.debug_tuple($name)$(.field(&{ let $this = self; $what }))?.finish_non_exhaustive()
            }
        }
    )*};
}

/// Implements `Debug` for enums: the name of the variant, and its fields.
#[doc(hidden)]
#[macro_export]
macro_rules! debug_variants {
    ($([$($generics:tt)*] $type:ty {
        $($variant:ident $(($($field:ident),+))? $({ $($named:ident),+ })?),+ $(,)?
    })*) => {$(
        impl<$($generics)*> ::core::fmt::Debug for $type {
            fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                match self {
                    $(Self::$variant $(($($field),+))? $({ $($named),+ })? => {
                        f.debug_tuple(stringify!($variant))$($(.field($field))+)?$($(.field($named))+)?.finish()
                    })+
                }
            }
        }
    )*};
}

debug_by_name! {
    [M, L: Level, const A: u32, const B: u32] BitLock<'_, M, L, A, B>, "BitLock", _lock => Name(L::NAME);
    [M: Machine, L: Level, const A: u32, const B: u32] BitGuard<'_, M, L, A, B>, "BitGuard", _lock => Name(L::NAME);
    [T: Send + Sync, M: Machine] PerCpu<T, M>, "PerCpu";
    [M: Machine] Rcu<M>, "Rcu";
    [M: Machine] RcuGuard<'_, M>, "RcuGuard";
    [M: Machine, L: Level, T] RwSemReadGuard<'_, M, L, T>, "RwSemReadGuard", _lock => Name(L::NAME);
    [M: Machine, L: Level, T] RwSemWriteGuard<'_, M, L, T>, "RwSemWriteGuard", _lock => Name(L::NAME);
    [M] SeqCount<M>, "SeqCount";
    [M: Machine] SeqWriteGuard<'_, M>, "SeqWriteGuard";
    [M, L: Level] RawSpin<M, L>, "RawSpin", _lock => Name(L::NAME);
    [M: Machine, L: Level] RawSpinGuard<'_, M, L>, "RawSpinGuard", _lock => Name(L::NAME);
    [M: Machine, L: Level, T] SpinGuard<'_, M, L, T>, "SpinGuard", _lock => Name(L::NAME);
    [S: State + fmt::Debug, M: Machine] AtomicState<S, M>, "AtomicState", word => word.peek();
    [M] WaitQueue<M>, "WaitQueue";
}

/// A name without quotes.
struct Name(&'static str);

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

#[cfg(test)]
mod tests {
    use crate::{RawSpin, order::Zone, testing::TestMachine};
    use std::format;

    #[test]
    fn a_lock_says_which_it_is() {
        let zone = RawSpin::<TestMachine, Zone>::new();
        assert_eq!(format!("{zone:?} {:?}", zone.lock()), "RawSpin(Zone, ..) RawSpinGuard(Zone, ..)");
    }
}

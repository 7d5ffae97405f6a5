//! Assertions that are too dear, or too many, for a release build, unless the machine checks.
//!
//! `debug_assert!` asks how the crate was compiled. Code that is generic over its machine is compiled once
//! for all machines. So the lab's instance in a release build would lose what the tests have. These ask the
//! machine, too: one with [`Machine::CHECKED`](crate::Machine::CHECKED) always has them, another pays
//! nothing.

/// Asserts in debug builds, and always on a machine that is checked: `debug_check!(M, condition,
/// message...)`.
#[macro_export]
macro_rules! debug_check {
    ($machine:ty, $($assertion:tt)+) => {
        if cfg!(debug_assertions) || <$machine as $crate::Machine>::CHECKED {
            assert!($($assertion)+);
        }
    };
}

/// As [`debug_check!`], that two values are equal: `debug_check_eq!(M, left, right, message...)`.
#[macro_export]
macro_rules! debug_check_eq {
    ($machine:ty, $($assertion:tt)+) => {
        if cfg!(debug_assertions) || <$machine as $crate::Machine>::CHECKED {
            assert_eq!($($assertion)+);
        }
    };
}

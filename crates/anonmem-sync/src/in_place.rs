//! Values that are made where they are to stay.
//!
//! A memory manager is large, and a kernel's stack is not. So what has a part for each CPU is made field by
//! field, in memory that its owner has: `T::init(slot, ..) -> &mut T`. [`init_fields!`](crate::init_fields)
//! does it for a struct, without `unsafe` of its own.

use core::{mem::MaybeUninit, ptr};

/// Lets `init` make the value of a slot.
///
/// # Panics
/// If it returns another value.
#[inline]
pub fn fill<'s, T>(
    slot: &'s mut MaybeUninit<T>,
    init: impl FnOnce(&'s mut MaybeUninit<T>) -> &'s mut T,
) -> &'s mut T {
    let place = slot.as_ptr();
    let made = init(slot);
    assert!(ptr::eq(made, place), "a value was made in another place");
    made
}

/// The same for what may fail.
///
/// # Errors
/// What `init` returns.
///
/// # Panics
/// If it returns another value.
#[inline]
pub fn try_fill<'s, T, E>(
    slot: &'s mut MaybeUninit<T>,
    init: impl FnOnce(&'s mut MaybeUninit<T>) -> Result<&'s mut T, E>,
) -> Result<&'s mut T, E> {
    let place = slot.as_ptr();
    let made = init(slot)?;
    assert!(ptr::eq(made, place), "a value was made in another place");
    Ok(made)
}

/// The value that `init` makes, where a value is wanted after all.
///
/// # Errors
/// What `init` returns.
///
/// # Panics
/// If it returns another value.
#[inline]
pub fn value<T, E>(
    init: impl for<'s> FnOnce(&'s mut MaybeUninit<T>) -> Result<&'s mut T, E>,
) -> Result<T, E> {
    const { assert!(size_of::<T>() > 0, "a value without bytes has no place") };
    let mut slot = MaybeUninit::uninit();
    let place = slot.as_ptr();
    let made = init(&mut slot)?;
    assert!(ptr::eq(made, place), "a value was made in another place");
    // SAFETY: somebody had a reference to the value in the slot, so there is one.
    Ok(unsafe { slot.assume_init() })
}

/// The place of a field that [`init_fields!`](crate::init_fields) fills.
///
/// # Safety
/// The field lies in memory that is the caller's alone, for as long as the slot is used.
#[doc(hidden)]
#[inline]
pub unsafe fn field<'s, T>(field: *mut T) -> &'s mut MaybeUninit<T> {
    // SAFETY: as the caller says; a place without a value is as large as one with.
    unsafe { &mut *field.cast() }
}

/// Makes a `Self` in a slot, field by field.
///
/// `name: value` writes a value, `name <- init` lets a function make it in place. So does `name => init`,
/// whose error the caller returns; fields made before are not dropped then. A later field may use an earlier
/// one by its name.
///
/// ```
/// use anonmem_sync::init_fields;
/// use core::mem::MaybeUninit;
///
/// struct Table { len: usize, words: [u64; 512] }
///
/// impl Table {
///     fn init(slot: &mut MaybeUninit<Self>, len: usize) -> &mut Self {
///         init_fields!(slot, { len: len, words <- |words| words.write([*len as u64; 512]) })
///     }
/// }
/// let mut slot = MaybeUninit::uninit();
/// assert_eq!(Table::init(&mut slot, 3).words[511], 3);
/// ```
#[macro_export]
macro_rules! init_fields {
    (@ : $slot:ident $value:expr) => {
        $slot.write($value)
    };
    (@ <- $slot:ident $init:expr) => {
        $crate::in_place::fill($slot, $init)
    };
    (@ => $slot:ident $init:expr) => {
        $crate::in_place::try_fill($slot, $init)?
    };
    ($slot:expr, { $($field:ident $how:tt $from:expr),* $(,)? }) => {{
        let slot: &mut ::core::mem::MaybeUninit<Self> = $slot;
        // Each field is named, and once: else this does not compile.
        let _ = |whole: &Self| {
            let Self { $($field: _),* } = whole;
        };
        let place = slot.as_mut_ptr();
        $(
            // SAFETY: the field lies in the slot, which is ours; nothing else borrows it.
            let field = unsafe { $crate::in_place::field(&raw mut (*place).$field) };
            let $field = &*$crate::init_fields!(@ $how field $from);
            let _ = $field;
        )*
        // SAFETY: all fields are made.
        unsafe { slot.assume_init_mut() }
    }};
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{boxed::Box, string::String};

    #[test]
    #[should_panic(expected = "a value was made in another place")]
    fn a_value_of_another_place_is_none() {
        let other = Box::leak(Box::new(7_u64));
        let _ = value::<u64, ()>(|_| Ok(other));
    }

    #[test]
    fn what_cannot_be_made_leaves_nothing() {
        assert_eq!(value::<String, u8>(|_| Err(3)), Err(3));
        assert_eq!(value::<String, u8>(|slot| Ok(slot.write("made".into()))).as_deref(), Ok("made"));
    }
}

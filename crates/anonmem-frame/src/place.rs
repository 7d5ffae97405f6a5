//! What an address is, in words: for the lab's columns and for messages.
//!
//! Every object says its own fields, by their offsets; `address` finds the object.

use core::fmt;

/// A field of an object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Field {
    name: &'static str,
    offset: usize,
    /// Bytes of an element, if it is an array.
    element: Option<usize>,
}

impl Field {
    /// A field at `offset`.
    pub const fn new(name: &'static str, offset: usize) -> Self {
        Self { name, offset, element: None }
    }

    /// An array at `offset`, of elements with so many bytes.
    pub const fn array(name: &'static str, offset: usize, element: usize) -> Self {
        Self { name, offset, element: Some(element) }
    }
}

/// The fields of `Self`, for [`SlabItem::FIELDS`](crate::SlabItem::FIELDS) and the like: each once, and none
/// forgotten, because what does not name all of them does not compile.
///
/// `name` is shown under its name, `name as "label"` under another one, and `name as _` not at all. `name[8]`
/// is an array whose elements have 8 bytes. `name { "label": path, ... }` shows fields inside of it.
#[macro_export]
macro_rules! fields {
    (@ [$($all:ident)*] [$($out:tt)*]) => {{
        let _every_field = |this: &Self| {
            let Self { $($all: _),* } = this;
        };
        &[$($out)*]
    }};
    (@ [$($all:ident)*] [$($out:tt)*] $field:ident, $($rest:tt)*) => {
        $crate::fields!(@ [$($all)* $field]
            [$($out)* $crate::Field::new(stringify!($field), ::core::mem::offset_of!(Self, $field)),] $($rest)*)
    };
    (@ [$($all:ident)*] [$($out:tt)*] $field:ident as _, $($rest:tt)*) => {
        $crate::fields!(@ [$($all)* $field] [$($out)*] $($rest)*)
    };
    (@ [$($all:ident)*] [$($out:tt)*] $field:ident as $label:literal, $($rest:tt)*) => {
        $crate::fields!(@ [$($all)* $field]
            [$($out)* $crate::Field::new($label, ::core::mem::offset_of!(Self, $field)),] $($rest)*)
    };
    (@ [$($all:ident)*] [$($out:tt)*] $field:ident[$element:expr], $($rest:tt)*) => {
        $crate::fields!(@ [$($all)* $field]
            [$($out)* $crate::Field::array(
                stringify!($field), ::core::mem::offset_of!(Self, $field), $element),] $($rest)*)
    };
    (@ [$($all:ident)*] [$($out:tt)*] $field:ident { $($label:literal: $($path:tt).+),* $(,)? }, $($rest:tt)*) => {
        $crate::fields!(@ [$($all)* $field]
            [$($out)* $($crate::Field::new($label, ::core::mem::offset_of!(Self, $field.$($path).+)),)*] $($rest)*)
    };
    ($($field:tt)*) => {
        $crate::fields!(@ [] [] $($field)*)
    };
}

/// A place inside of an object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// What kind of object.
    pub kind: &'static str,
    /// Which one: a handle, or a frame number.
    pub number: Option<u64>,
    /// The field.
    pub field: &'static str,
    element: Option<usize>,
    /// How far inside of it.
    rest: usize,
}

impl Place {
    /// The place at `offset` of an object with these fields.
    pub fn new(kind: &'static str, number: Option<u64>, fields: &[Field], offset: usize) -> Self {
        let before = fields.iter().filter(|f| f.offset <= offset);
        let Some(field) = before.max_by_key(|f| f.offset) else {
            return Self { kind, number, field: "", element: None, rest: offset };
        };
        let rest = offset - field.offset;
        let element = field.element.map(|bytes| rest / bytes);
        let rest = field.element.map_or(rest, |bytes| rest % bytes);
        Self { kind, number, field: field.name, element, rest }
    }

    /// The same of another name.
    #[must_use]
    pub fn called(self, kind: &'static str) -> Self {
        Self { kind, ..self }
    }

    /// Whether it is the first byte of the field.
    pub fn is_exact(&self) -> bool {
        self.rest == 0
    }
}

/// As C would say it: `anon_vma#17.refcount`, `vma_tree_node#2433.end[3]`.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind)?;
        if let Some(number) = self.number {
            write!(f, "#{number}")?;
        }
        if !self.field.is_empty() {
            write!(f, ".{}", self.field)?;
        }
        if let Some(element) = self.element {
            write!(f, "[{element}]")?;
        }
        match self.rest {
            0 => Ok(()),
            rest => write!(f, "+{rest:#x}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn places_read_like_c() {
        let fields = &[Field::new("root", 0), Field::array("end", 8, 8), Field::new("lock.seq", 40)];
        let at = |offset| Place::new("vma", Some(3), fields, offset).to_string();
        assert_eq!(
            [at(0), at(24), at(40), at(44)].join(" "),
            "vma#3.root vma#3.end[2] vma#3.lock.seq vma#3.lock.seq+0x4"
        );
        assert_eq!(Place::new("vm", None, &[], 16).to_string(), "vm+0x10");
    }
}

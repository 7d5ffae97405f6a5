//! Names for the addresses that an execution touches, and how their values read.

use crate::{limits::address, trace::Action};

type Format = Box<dyn Fn(u64) -> String>;
type Lookup = Box<dyn Fn(usize) -> Option<Named>>;

/// What somebody knows of an address.
pub struct Named {
    /// What it is called.
    pub name: String,
    /// How its values read, if not as numbers.
    pub format: Option<fn(u64) -> String>,
}

/// Names for addresses.
#[derive(Default)]
pub struct Names {
    ranges: Vec<(usize, usize, String, Option<Format>)>,
    lookups: Vec<Lookup>,
}

impl Names {
    /// Calls `object` by `name`.
    pub fn add<T: ?Sized>(&mut self, object: &T, name: impl Into<String>) {
        self.range(core::ptr::from_ref(object).addr(), size_of_val(object), name);
    }

    /// Calls `object` by `name` and shows its values through `format`.
    pub fn add_with<T>(
        &mut self,
        object: &T,
        name: impl Into<String>,
        format: impl Fn(u64) -> String + 'static,
    ) {
        let start = core::ptr::from_ref(object).addr();
        self.ranges.push((start, size_of::<T>(), name.into(), Some(Box::new(format))));
    }

    /// Calls the `len` bytes at `start` by `name`.
    pub fn range(&mut self, start: usize, len: usize, name: impl Into<String>) {
        self.ranges.push((start, len, name.into(), None));
    }

    /// As [`range`](Self::range), with a format for the values.
    pub fn range_with(
        &mut self,
        start: usize,
        len: usize,
        name: impl Into<String>,
        format: impl Fn(u64) -> String + 'static,
    ) {
        self.ranges.push((start, len, name.into(), Some(Box::new(format))));
    }

    /// Asks `lookup` for addresses that are in no range. It is asked in the middle of an execution, about the
    /// world as it is then: it must not make a step, nor lock anything.
    pub fn ask(&mut self, lookup: impl Fn(usize) -> Option<Named> + 'static) {
        self.lookups.push(Box::new(lookup));
    }

    fn look_up(&self, address: usize) -> Option<Named> {
        self.lookups.iter().find_map(|lookup| lookup(address))
    }

    /// What happened to `address`, with the values.
    pub(crate) fn describe(&self, address: Option<usize>, action: &Action) -> String {
        let show = |v: u64| address.map_or_else(|| v.to_string(), |a| self.value(a, v));
        match action {
            Action::Load { value, age: 0 } => show(*value),
            Action::Load { value, age } => format!("{} ({age} newer not seen)", show(*value)),
            Action::Store { value, late: 0 } => format!("= {}", show(*value)),
            Action::Store { value, .. } => format!("= {} (overtaken already)", show(*value)),
            Action::Rmw { old, new: Some(new) } => format!("{} -> {}", show(*old), show(*new)),
            Action::Rmw { old, new: None } => format!("{}, exchange failed", show(*old)),
            Action::Word(word) => word.clone(),
        }
    }

    /// The smallest named range that holds `address`; later ones win.
    fn find(&self, address: usize) -> Option<&(usize, usize, String, Option<Format>)> {
        let holds = |r: &&(usize, usize, String, Option<Format>)| (r.0..r.0 + r.1).contains(&address);
        self.ranges.iter().rev().filter(holds).min_by_key(|r| r.1)
    }

    pub(crate) fn name(&self, address: usize) -> String {
        match address {
            address::SC => return "SC order".into(),
            a if (address::WAKE..address::WAKE + 64).contains(&a) => {
                return format!("wake-up of CPU{}", a - 64);
            }
            a if (address::TLB..address::TLB + 64).contains(&a) => return format!("TLB of CPU{}", a - 128),
            _ => {}
        }
        if address & 1 == 1 {
            return match self.look_up(address) {
                // A lock that is a bit of a word.
                Some(named) => named.name,
                None => format!("wait queue of {}", self.name(address & !1)),
            };
        }
        match (self.find(address), self.look_up(address)) {
            (Some((start, _, name, _)), _) if *start == address => name.clone(),
            (Some((start, _, name, _)), _) => format!("{name}+{:#x}", address - start),
            (None, Some(named)) => named.name,
            (None, None) => format!("{address:#x}"),
        }
    }

    fn value(&self, address: usize, value: u64) -> String {
        match self.find(address) {
            Some((_, _, _, Some(format))) => return format(value),
            Some(_) => {}
            None => {
                if let Some(format) = self.look_up(address).and_then(|named| named.format) {
                    return format(value);
                }
            }
        }
        match value {
            u64::MAX => "-".into(),
            _ if value < 1 << 16 => value.to_string(),
            _ if value >> 31 == 1 => (value as i32).to_string(),
            _ => format!("{value:#x}"),
        }
    }
}

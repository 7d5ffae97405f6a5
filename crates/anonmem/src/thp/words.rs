//! The policy in words: one size, `auto`, or a list as Linux's boot parameter `thp_anon=` has it.
//!
//! ```text
//! 4K                              no large folios, whatever a program asks for
//! 64K                             up to that size, everywhere
//! auto                            every size, beside memory that is in use
//! 16K-64K:always;2M:madvise       these sizes, and no others
//! ```
//!
//! Linux: mm/huge_memory.c `setup_thp_anon`. Differs: a size alone and `auto`; sizes of two pages.

use super::mode::{FolioMode, FolioPolicy, MAX_FOLIO_ORDER};
use anonmem_hal::{Order, PAGE_SHIFT};
use core::{fmt, str::FromStr};

impl FolioMode {
    /// Its word in Linux's files, or `auto`.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Never => "never",
            Self::Madvise => "madvise",
            Self::Always => "always",
            Self::Inherit => "inherit",
            Self::Auto => "auto",
        }
    }
}

impl FromStr for FolioMode {
    type Err = NoPolicy;

    fn from_str(word: &str) -> Result<Self, NoPolicy> {
        Self::ALL.into_iter().find(|mode| mode.word() == word).ok_or(NoPolicy::Mode)
    }
}

/// Why a text says no policy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoPolicy {
    /// A size is none that folios have.
    Size,
    /// A range of sizes ends before it begins.
    Range,
    /// A mode is none of `always`, `inherit`, `madvise`, `never` and `auto`.
    Mode,
}

impl fmt::Display for NoPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Size => "a folio has 4K, 8K, 16K and so on to 2M",
            Self::Range => "a range of sizes begins with the smaller one",
            Self::Mode => "a mode is always, inherit, madvise, never or auto",
        })
    }
}

impl core::error::Error for NoPolicy {}

/// Reads `4K` to `2M`; an order.
fn order(text: &str) -> Result<u8, NoPolicy> {
    let (digits, shift) = match text.as_bytes().last() {
        Some(b'K' | b'k') => (&text[..text.len() - 1], 10),
        Some(b'M' | b'm') => (&text[..text.len() - 1], 20),
        _ => (text, 0),
    };
    let number: u64 = digits.parse().map_err(|_| NoPolicy::Size)?;
    let bytes = number.checked_mul(1 << shift).filter(|bytes| bytes.is_power_of_two());
    let order = bytes.and_then(|bytes| bytes.ilog2().checked_sub(PAGE_SHIFT)).ok_or(NoPolicy::Size)?;
    u8::try_from(order).ok().filter(|&order| order <= MAX_FOLIO_ORDER).ok_or(NoPolicy::Size)
}

impl FolioPolicy {
    /// Every size, beside memory that is in use.
    pub const fn auto() -> Self {
        Self::up_to(Order::new(MAX_FOLIO_ORDER), FolioMode::Inherit).with_all(FolioMode::Auto)
    }

    /// Adds what one part of a list says, `SIZE[-SIZE][,SIZE...]:MODE`.
    fn with_words(mut self, words: &str) -> Result<Self, NoPolicy> {
        let (sizes, mode) = words.split_once(':').ok_or(NoPolicy::Mode)?;
        let mode = mode.parse()?;
        for sizes in sizes.split(',') {
            let (first, last) = sizes.split_once('-').unwrap_or((sizes, sizes));
            let (first, last) = (order(first)?, order(last)?);
            if first == 0 {
                return Err(NoPolicy::Size);
            }
            if first > last {
                return Err(NoPolicy::Range);
            }
            self = (first..=last).fold(self, |policy, order| policy.with(Order::new(order), mode));
        }
        Ok(self)
    }
}

impl FromStr for FolioPolicy {
    type Err = NoPolicy;

    #[doc(alias = "setup_thp_anon")]
    fn from_str(text: &str) -> Result<Self, NoPolicy> {
        if text == FolioMode::Auto.word() {
            return Ok(Self::auto());
        }
        if text.contains(':') {
            return text.split(';').try_fold(Self::default(), Self::with_words);
        }
        Ok(match order(text)? {
            0 => Self::default().with_all(FolioMode::Never),
            most => Self::up_to(Order::new(most), FolioMode::Always),
        })
    }
}

/// The short name if there is one, else a list of the sizes that have a mode; the modes of all that inherit
/// are left out.
impl fmt::Display for FolioPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::auto() {
            return f.write_str(FolioMode::Auto.word());
        }
        let modes = |order: u8| self.mode(Order::new(order));
        let orders = || 1..=MAX_FOLIO_ORDER;
        let largest = orders().rev().find(|&order| modes(order) != FolioMode::Never).unwrap_or(0);
        if *self == Self::up_to(Order::new(largest), FolioMode::Always) || largest == 0 {
            return Size(largest).fmt(f);
        }
        let mut between = "";
        for order in orders().filter(|&order| modes(order) != FolioMode::Never) {
            write!(f, "{between}{}:{}", Size(order), modes(order).word())?;
            between = ";";
        }
        Ok(())
    }
}

/// The size of an order, `4K` to `2M`.
struct Size(u8);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match 4_u32 << self.0 {
            kib @ ..1024 => write!(f, "{kib}K"),
            kib => write!(f, "{}M", kib >> 10),
        }
    }
}

#[cfg(test)]
mod unit {
    use super::*;

    fn modes(text: &str) -> [FolioMode; 10] {
        let policy: FolioPolicy = text.parse().unwrap();
        core::array::from_fn(|order| policy.mode(Order::new(order as u8)))
    }

    #[test]
    fn a_policy_is_read_as_linux_reads_thp_anon() {
        use FolioMode::{Always, Auto, Inherit, Madvise, Never};
        let none = [Madvise, Never, Never, Never, Never, Never, Never, Never, Never, Never];
        let with = |orders: &[(usize, FolioMode)]| {
            orders.iter().fold(none, |mut all, &(order, mode)| {
                all[order] = mode;
                all
            })
        };
        assert_eq!(modes("64K:always"), with(&[(4, Always)]));
        assert_eq!(
            modes("16K-64K:always;2M:madvise;8K,128k:inherit"),
            with(&[(2, Always), (3, Always), (4, Always), (9, Madvise), (1, Inherit), (5, Inherit)])
        );
        assert_eq!(modes("16384:auto"), with(&[(2, Auto)]));
        assert_eq!(modes("16K"), with(&[(1, Always), (2, Always)]));
        assert_eq!(modes("4K"), with(&[(0, Never)]));
        assert_eq!(
            modes("auto"),
            [Auto, Inherit, Inherit, Inherit, Inherit, Inherit, Inherit, Inherit, Inherit, Inherit]
        );
    }

    #[test]
    fn a_policy_says_what_it_was_read_from() {
        extern crate std;
        use std::string::ToString;
        for text in ["4K", "8K", "64K", "1M", "2M", "auto", "16K:always;32K:always;2M:madvise", "64K:inherit"]
        {
            assert_eq!(text.parse::<FolioPolicy>().unwrap().to_string(), text);
        }
        assert_eq!("64K:never".parse::<FolioPolicy>().unwrap().to_string(), "4K");
    }

    #[test]
    fn what_is_no_policy_is_said() {
        for (text, why) in [
            ("", NoPolicy::Size),
            ("4M", NoPolicy::Size),
            ("12K", NoPolicy::Size),
            ("K", NoPolicy::Size),
            ("2K", NoPolicy::Size),
            ("0", NoPolicy::Size),
            ("99999999999999999999", NoPolicy::Size),
            ("18446744073709551615M", NoPolicy::Size),
            ("64K:sometimes", NoPolicy::Mode),
            ("64K:always;", NoPolicy::Mode),
            ("64K:always;2M", NoPolicy::Mode),
            ("4K:always", NoPolicy::Size),
            ("64K-16K:always", NoPolicy::Range),
            (":always", NoPolicy::Size),
            ("ä", NoPolicy::Size),
        ] {
            assert_eq!(text.parse::<FolioPolicy>(), Err(why), "{text}");
        }
        assert_eq!("Always".parse::<FolioMode>(), Err(NoPolicy::Mode));
    }
}

//! Sizes as people write them: `256M`, `1G`, `1.5GiB`, `65536`.
//!
//! Suffixes are powers of 1024, as QEMU and the kernel's `mem=` have them, in either case; `B` and
//! `iB` may follow.

/// Reads a size in bytes.
///
/// # Errors
///
/// One line that says what a size looks like.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let bad = || format!("\"{text}\" is not a size; write for example 64M, 256M or 1G");
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(lower.len());
    let (number, suffix) = lower.split_at(digits);
    let suffix = suffix.strip_suffix("ib").or(suffix.strip_suffix('b')).unwrap_or(suffix);
    let unit: u64 = match suffix {
        "" => 1,
        "k" => 1 << 10,
        "m" => 1 << 20,
        "g" => 1 << 30,
        "t" => 1 << 40,
        _ => return Err(bad()),
    };
    let bytes = if let Ok(whole) = number.parse::<u64>() {
        whole.checked_mul(unit).ok_or_else(bad)?
    } else {
        let value = number.parse::<f64>().map_err(|_| bad())? * unit as f64;
        if value >= u64::MAX as f64 {
            return Err(bad());
        }
        value as u64
    };
    if bytes == 0 {
        return Err(format!("\"{text}\" is no memory at all; write for example 64M, 256M or 1G"));
    }
    Ok(bytes)
}

/// The least memory that a run may ask for: below it no program starts.
pub const MIN_RAM: u64 = 8 << 20;
/// The most memory that a run may ask for.
pub const MAX_RAM: u64 = 1 << 40;

/// Reads the value of `--ram`: a size within [`MIN_RAM`] and [`MAX_RAM`], in whole pages.
///
/// # Errors
///
/// One line that says which values are possible.
pub fn parse_ram(text: &str) -> Result<u64, String> {
    let bytes = parse_size(text)?;
    if !(MIN_RAM..=MAX_RAM).contains(&bytes) {
        return Err(format!(
            "\"{text}\" is out of range; from {} to {} is possible",
            human_size(MIN_RAM),
            human_size(MAX_RAM)
        ));
    }
    Ok(bytes & !4095)
}

/// The most swap space that a run may ask for: the memory manager's largest device.
pub const MAX_SWAP: u64 = 512 << 30;

/// Reads the value of `--swap`: 0, or a size of at least a page and at most [`MAX_SWAP`], in whole pages.
///
/// # Errors
///
/// One line that says which values are possible.
pub fn parse_swap(text: &str) -> Result<u64, String> {
    if text.trim() == "0" {
        return Ok(0);
    }
    let bytes = parse_size(text)?;
    if !(4096..=MAX_SWAP).contains(&bytes) {
        return Err(format!(
            "\"{text}\" is out of range; 0, or from 4 KiB to {} is possible",
            human_size(MAX_SWAP)
        ));
    }
    Ok(bytes & !4095)
}

/// Writes a size for people: the largest binary unit that keeps it at least 1, one decimal unless whole.
#[must_use]
pub fn human_size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    while unit + 1 < UNITS.len() && bytes >> (10 * (unit + 1)) != 0 {
        unit += 1;
    }
    let scale = 1_u64 << (10 * unit);
    if bytes.is_multiple_of(scale) {
        format!("{} {}", bytes / scale, UNITS[unit])
    } else {
        format!("{:.1} {}", bytes as f64 / scale as f64, UNITS[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_have_binary_suffixes_in_either_case() {
        for (text, bytes) in [
            ("1", 1),
            ("4096", 4096),
            ("4k", 4096),
            ("64M", 64 << 20),
            ("64MiB", 64 << 20),
            ("64mb", 64 << 20),
            ("1G", 1 << 30),
            ("1.5G", 3 << 29),
            (" 2G ", 2 << 30),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused_with_an_example() {
        for text in ["", "M", "12Q", "-1M", "1..5G", "0", "0M", "99999999999999999999", "16777216T", "64 M B"]
        {
            let error = parse_size(text).unwrap_err();
            assert!(error.contains("64M"), "{text}: {error}");
        }
    }

    #[test]
    fn ram_is_bounded_and_whole_pages() {
        assert_eq!(parse_ram("64M"), Ok(64 << 20));
        assert_eq!(parse_ram("9000001"), Ok(9_000_001 & !4095));
        assert!(parse_ram("1M").unwrap_err().contains("out of range"));
        assert!(parse_ram("2T").unwrap_err().contains("out of range"));
    }

    #[test]
    fn sizes_print_in_the_largest_unit() {
        assert_eq!(human_size(64 << 20), "64 MiB");
        assert_eq!(human_size(1536), "1.5 KiB");
        assert_eq!(human_size(0), "0 B");
    }

    proptest! {
        #[test]
        fn any_text_parses_or_is_refused(text in ".{0,12}") {
            let _ = parse_size(&text);
        }

        #[test]
        fn whole_numbers_of_bytes_are_exact(bytes in 1_u64..u64::MAX) {
            prop_assert_eq!(parse_size(&bytes.to_string()), Ok(bytes));
        }
    }
}

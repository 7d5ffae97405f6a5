//! The study as a table for a document.

use super::{Line, Unit};
use std::fmt::Write;

/// The lines as Markdown.
pub fn markdown(lines: &[Line]) -> String {
    let mut text = String::from("| | unit | anon_vma | family |\n|---|---|---:|---:|\n");
    for Line { what, unit, found: [anon_vmas, families] } in lines {
        let unit = match unit {
            Unit::Bytes => "bytes",
            Unit::Steps => "steps",
        };
        let (anon_vmas, families) = (grouped(*anon_vmas), grouped(*families));
        let _ = writeln!(text, "| {what} | {unit} | {anon_vmas} | {families} |");
    }
    text
}

/// A number with its thousands apart.
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_apart() {
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }
}

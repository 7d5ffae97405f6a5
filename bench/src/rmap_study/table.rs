//! The study as a table for a document.

use super::line::Line;
use std::fmt::Write;

/// What was found over each reverse map, by name, as Markdown: the same work in each line. The first has all
/// lines.
///
/// # Panics
/// If there is none.
pub fn markdown(maps: &[(&str, &[Line])]) -> String {
    let mut text = String::from("| | unit |");
    maps.iter().for_each(|(name, _)| text += &format!(" {name} |"));
    text += &format!("\n|---|---|{}\n", "---:|".repeat(maps.len()));
    for Line { what, unit, .. } in maps[0].1 {
        let _ = write!(text, "| {what} | {unit} |");
        for (_, lines) in maps {
            let line = lines.iter().find(|line| line.what == *what && line.unit == *unit);
            let _ = write!(text, " {} |", line.map_or("–".into(), |line| grouped(line.found)));
        }
        text.push('\n');
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

    #[test]
    fn each_map_has_a_column() {
        let line = |found| [Line { what: "fork".into(), unit: "ns", found }];
        let table = markdown(&[("one", &line(5)), ("other", &line(12_345)), ("none", &[])]);
        let head = "| | unit | one | other | none |\n|---|---|---:|---:|---:|\n";
        assert_eq!(table, format!("{head}| fork | ns | 5 | 12,345 | – |\n"));
    }
}

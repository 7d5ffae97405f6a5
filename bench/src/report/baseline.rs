//! Beside an earlier result: what has changed, and whether that is more than chance.

use super::line::lines;
use crate::outcome::Outcome;
use serde_json::Value;
use std::{collections::BTreeMap, fmt::Write};

/// One side's samples of an earlier run, by row.
#[derive(Debug, PartialEq)]
pub struct Baseline(BTreeMap<String, Vec<f64>>);

/// Reads what `--json` wrote.
///
/// # Errors
/// What is wrong with it.
pub fn read(text: &str) -> Result<Baseline, String> {
    let document: Value = serde_json::from_str(text).map_err(|e| e.to_string())?;
    let rows = document["rows"].as_array().ok_or("it has no rows")?;
    let samples = |row: &Value| -> Option<(String, Vec<f64>)> {
        let samples = row["ours_samples"].as_array()?.iter().filter_map(Value::as_f64).collect();
        Some((row["row"].as_str()?.to_string(), samples))
    };
    Ok(Baseline(rows.iter().filter_map(samples).collect()))
}

/// A line for each row that both have.
pub fn text(outcome: &Outcome, baseline: &Baseline) -> String {
    let mut text = String::from("\nanonmem beside the baseline (median, in the row's unit)\n");
    let _ = writeln!(text, "{:<24} {:>12} {:>12} {:>8}", "row", "baseline", "now", "change");
    for line in lines(outcome) {
        let (Some(was), Some(now)) = (baseline.0.get(line.row), samples(outcome, line.row)) else { continue };
        let Some(compared) = compare(was, now) else { continue };
        let (before, after, change) = (compared.before, compared.after, compared.change());
        let _ = writeln!(
            text,
            "{:<24} {before:>12.2} {after:>12.2} {change:>+7.1}%{}",
            line.row,
            compared.note()
        );
    }
    text
}

fn samples<'a>(outcome: &'a Outcome, row: &'static str) -> Option<&'a [f64]> {
    outcome.samples.of(row, crate::outcome::Side::Ours).map(|series| &series.0[..])
}

/// Two medians, and whether chance can explain that they differ.
#[derive(Debug, PartialEq)]
struct Compared {
    before: f64,
    after: f64,
    overlap: bool,
}

impl Compared {
    fn change(&self) -> f64 {
        (self.after / self.before - 1.0) * 100.0
    }

    fn note(&self) -> &'static str {
        match (self.overlap, self.after < self.before) {
            (true, _) => "",
            (false, true) => "  faster",
            (false, false) => "  SLOWER",
        }
    }
}

/// Compares two series; they differ for certain if the samples of one are all above the other's.
fn compare(was: &[f64], now: &[f64]) -> Option<Compared> {
    let sorted = |samples: &[f64]| {
        let mut samples = samples.to_vec();
        samples.sort_by(f64::total_cmp);
        samples
    };
    let (was, now) = (sorted(was), sorted(now));
    let (first, last) = (|s: &[f64]| s.first().copied(), |s: &[f64]| s.last().copied());
    let overlap = first(&was)? <= last(&now)? && first(&now)? <= last(&was)?;
    Some(Compared { before: was[was.len() / 2], after: now[now.len() / 2], overlap })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_told_when_no_sample_overlaps() {
        let slower = compare(&[1.0, 3.0, 2.0], &[4.0, 5.0, 4.5]).unwrap();
        assert_eq!((slower.before, slower.after, slower.note()), (2.0, 4.5, "  SLOWER"));
        assert_eq!(compare(&[4.0], &[2.0]).unwrap().note(), "  faster");
        assert_eq!(compare(&[1.0, 3.0], &[2.0, 4.0]).unwrap().note(), "");
        assert_eq!(compare(&[], &[1.0]), None);
    }

    #[test]
    fn a_baseline_is_what_json_wrote() {
        let read = |text| read(text).map(|baseline| baseline.0);
        let rows = read(r#"{"rows": [{"row": "fork", "ours_samples": [1.5, 2]}]}"#).unwrap();
        assert_eq!(rows["fork"], [1.5, 2.0]);
        assert!(read("{}").is_err() && read("no").is_err());
    }
}

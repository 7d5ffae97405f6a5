//! The table as CSV (RFC 4180), one line a row; what is missing is empty.

use super::line::lines;
use crate::{outcome::Outcome, series::Summary};

const HEADER: &str = "row,title,unit,ours,ours_min,ours_max,host,host_min,host_max,host_entry,host_only,limit,\
                      ours_per_host,ours_per_limit,aim,aim_met,host_64k,host_2m,peer,ours_per_peer,ours_64k,ours_2m";

/// The whole file.
pub fn text(outcome: &Outcome) -> String {
    let mut text = format!("{HEADER}\n");
    for line in lines(outcome) {
        let number = |n: Option<f64>| n.map_or(String::new(), |n| format!("{n:.4}"));
        let three = |s: Option<Summary>| {
            [s.map(|s| s.median), s.map(|s| s.min), s.map(|s| s.max)].map(number).join(",")
        };
        let median = |s: Option<Summary>| number(s.map(|s| s.median));
        let fields = [
            line.row.to_string(),
            quoted(line.title),
            line.unit.to_string(),
            three(line.ours),
            three(line.host),
            number(Some(line.host_entry)),
            line.host_only.iter().map(|only| only.letter()).collect(),
            median(line.limit),
            median(line.to_host),
            median(line.to_limit),
            number(line.aim),
            line.meets_aim().map_or(String::new(), |met| met.to_string()),
            median(line.host_64k),
            median(line.host_2m),
            median(line.peer),
            median(line.to_peer),
            median(line.ours_64k),
            median(line.ours_2m),
        ];
        text += &fields.join(",");
        text.push('\n');
    }
    text
}

fn quoted(text: &str) -> String {
    if text.contains([',', '"', '\n']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.into() }
}

#[cfg(test)]
mod tests {
    #[test]
    fn fields_with_commas_are_quoted() {
        assert_eq!(super::quoted("a, \"b\""), "\"a, \"\"b\"\"\"");
        assert_eq!(super::quoted("plain"), "plain");
    }
}

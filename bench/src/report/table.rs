//! The table for people.

use super::fill::fill;
use super::line::{Line, lines};
use crate::{
    ours::REVERSE_MAP,
    outcome::Outcome,
    peer,
    rows::{HostOnly, NOT_YET, ROWS},
    series::Summary,
};
use std::{collections::BTreeMap, fmt::Write};

/// The headings of large folios.
const LARGE_HEADERS: [&str; 8] = [
    "row",
    "unit",
    "anonmem 64K",
    "host 64K",
    "host ÷ anonmem",
    "anonmem 2M",
    "host 2M",
    "host ÷ anonmem, 2M",
];
const HEADERS: [&str; 10] = [
    "row",
    "unit",
    "anonmem",
    "host",
    "of it entry",
    "host only",
    "limit",
    "host ÷ anonmem",
    "anonmem ÷ limit",
    "aim",
];

/// The table, what is not in it, and what one must know to read it.
pub fn text(outcome: &Outcome) -> String {
    let lines = lines(outcome);
    let mut text = format!("{}\n\n{}", about(outcome), main_grid(&lines));
    for (title, grid) in further_grids(&lines) {
        text += &format!("\n{title}:\n\n{grid}");
    }
    text + &notes(outcome, &lines)
}

/// The machine, and the reverse map unless it is the usual one.
pub fn about(outcome: &Outcome) -> String {
    let line = outcome.machine.line();
    match REVERSE_MAP {
        "anon_vma" => line,
        other => format!("{line}; anonmem with the reverse map \"{other}\""),
    }
}

/// The grids beside the main one, those that were measured, with what they show.
pub fn further_grids(lines: &[Line]) -> impl Iterator<Item = (String, String)> {
    let peer = peer_grid(lines).map(|grid| (format!("A Rust peer: {}", peer::ABOUT), grid));
    let large = large_grid(lines).map(|grid| (LARGE_TITLE.to_string(), grid));
    let faults = faults_grid(lines).map(|grid| (FAULTS_TITLE.to_string(), grid));
    peer.into_iter().chain(large).chain(faults)
}

const FAULTS_TITLE: &str = "How anonmem's faults went, all samples together: the lock that resolved them, why a weaker one did not, \
                            and what threads waited for sleeping locks";
const FAULTS_HEADERS: [&str; 9] = [
    "row",
    "refused, by reason",
    "faults",
    "speculative",
    "VMA lock",
    "mmap lock",
    "retries",
    "waits",
    "ns waited per fault",
];

/// How faults went in each lock mode.
fn faults_grid(lines: &[Line]) -> Option<String> {
    let cells = |line: &Line| {
        let counts = line.faults.as_ref()?;
        let of = |n: u64| format!("{:.1} %", 100.0 * n as f64 / counts.faults.max(1) as f64);
        Some([
            line.row.into(),
            Some(counts.reasons()).filter(|text| !text.is_empty()).unwrap_or_else(|| "-".into()),
            counts.faults.to_string(),
            of(counts.speculative),
            of(counts.vma),
            of(counts.mmap),
            counts.retries.to_string(),
            counts.waits.to_string(),
            number(counts.waited_ns as f64 / counts.faults.max(1) as f64),
        ])
    };
    let rows: Vec<_> = lines.iter().filter_map(cells).collect();
    (!rows.is_empty()).then(|| grid(FAULTS_HEADERS, &rows))
}

const LARGE_TITLE: &str = "Both with large folios, per base page; a fault of anonmem is called once a folio, as the host traps once";

/// What the Rust peer does.
fn peer_grid(lines: &[Line]) -> Option<String> {
    let rows: Vec<_> = lines
        .iter()
        .filter(|line| line.peer.is_some())
        .map(|line| {
            let ratio = line.to_peer.map(|s| format!("{} ×", number(1.0 / s.median)));
            let [ours, theirs] = [line.ours, line.peer].map(|s| or_dash(s.map(spread)));
            [line.row.into(), line.unit.into(), ours, theirs, or_dash(ratio)]
        })
        .collect();
    (!rows.is_empty()).then(|| grid(["row", "unit", "anonmem", peer::NAME, "memory_set ÷ anonmem"], &rows))
}

/// What both do with large folios.
fn large_grid(lines: &[Line]) -> Option<String> {
    let rows: Vec<_> = lines
        .iter()
        .filter(|line| [line.ours_64k, line.ours_2m, line.host_64k, line.host_2m].iter().any(Option::is_some))
        .map(|line| {
            let [ours_64k, host_64k, ours_2m, host_2m] =
                [line.ours_64k, line.host_64k, line.ours_2m, line.host_2m].map(|s| or_dash(s.map(spread)));
            let ratio = |s: Option<Summary>| or_dash(s.map(|s| format!("{} ×", number(1.0 / s.median))));
            let (by_64k, by_2m) = (ratio(line.to_host_64k), ratio(line.to_host_2m));
            let (row, unit) = (line.row.into(), line.unit.into());
            [row, unit, ours_64k, host_64k, by_64k, ours_2m, host_2m, by_2m]
        })
        .collect();
    (!rows.is_empty()).then(|| grid(LARGE_HEADERS, &rows))
}

/// A line of text for each row.
pub fn main_grid(lines: &[Line]) -> String {
    grid(HEADERS, &lines.iter().map(cells).collect::<Vec<_>>())
}

/// Which sides of which rows were not measured, and why.
pub fn cannot(lines: &[Line]) -> impl Iterator<Item = String> {
    let mut rows = BTreeMap::<&str, Vec<&str>>::new();
    for line in lines {
        line.cannot.iter().for_each(|why| rows.entry(why).or_default().push(line.row));
    }
    rows.into_iter().map(|(why, rows)| format!("{}: not measured, {why}", rows.join(", ")))
}

/// How long it took and who else used the machine.
pub fn busy(outcome: &Outcome) -> String {
    format!("{:.0} s; meanwhile {}", outcome.seconds, outcome.load)
}

/// What each row is, without measuring.
pub fn list() -> String {
    let mut text = String::new();
    for row in ROWS {
        let _ = writeln!(text, "{:22} {} ({})", row.id, row.title, row.unit.label());
        for (who, what) in [("anonmem", row.ours), ("host", row.host), (peer::NAME, row.peer)] {
            if !what.is_empty() {
                let _ = writeln!(text, "{:22}   {who}: {what}", "");
            }
        }
        if !row.host_only.is_empty() {
            let only: Vec<_> = row.host_only.iter().map(|only| only.meaning()).collect();
            let _ = writeln!(text, "{:22}   only the host's time includes: {}", "", only.join("; "));
        }
    }
    for row in NOT_YET {
        let _ = writeln!(text, "{:22} {}: not yet, needs {}", row.id, row.title, row.needs);
    }
    text
}

fn cells(line: &Line) -> [String; 10] {
    let aim = match line.meets_aim() {
        Some(true) => format!("{} met", line.aim_text),
        Some(false) => format!("{} MISSED", line.aim_text),
        None => line.aim_text.clone(),
    };
    let entry = (line.host.is_some() && line.host_entry > 0.0).then(|| number(line.host_entry));
    [
        line.row.to_string(),
        line.unit.to_string(),
        or_dash(line.ours.map(spread)),
        or_dash(line.host.map(spread)),
        or_dash(entry),
        or_dash(line.host.map(|_| letters(line.host_only)).filter(|text| !text.is_empty())),
        or_dash(line.limit.map(|s| number(s.median))),
        or_dash(line.to_host.map(|s| format!("{} ×", number(1.0 / s.median)))),
        or_dash(line.to_limit.map(|s| format!("{:.2} ×", s.median))),
        if aim.is_empty() { "-".into() } else { aim },
    ]
}

fn letters(only: &[HostOnly]) -> String {
    only.iter().map(|only| only.letter()).collect()
}

/// What the letters in the column *host only* mean.
pub fn legend() -> String {
    let words: Vec<_> = HostOnly::ALL.iter().map(|o| format!("{} {}", o.letter(), o.meaning())).collect();
    format!(
        "host only: what the host's time includes and ours does not: {}. Everything else that a row names is in both.",
        words.join(", ")
    )
}

fn or_dash(text: Option<String>) -> String {
    text.unwrap_or_else(|| "-".into())
}

/// Median and half the distance of the extremes.
fn spread(summary: Summary) -> String {
    format!("{} ±{:.0} %", number(summary.median), summary.spread_percent())
}

/// Three figures.
pub fn number(value: f64) -> String {
    match value {
        v if v >= 100.0 => format!("{v:.0}"),
        v if v >= 10.0 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
}

/// Columns under headings: those of the first two and of the aim are words, the others numbers.
fn grid<const N: usize>(headers: [&str; N], rows: &[[String; N]]) -> String {
    let headers = headers.map(String::from);
    let width = |i: usize| rows.iter().chain([&headers]).map(|row| row[i].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let mut text = String::new();
    for row in [&headers].into_iter().chain(rows) {
        let mut line = String::new();
        for (i, cell) in row.iter().enumerate() {
            let pad = " ".repeat(widths[i] - cell.chars().count());
            let words = i < 2 || headers[i] == "aim";
            let _ = if words { write!(line, "{cell}{pad}  ") } else { write!(line, "{pad}{cell}  ") };
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

fn notes(outcome: &Outcome, lines: &[Line]) -> String {
    let mut text = String::from("\n");
    let mut say = |line: String| {
        text += &fill(&line);
        text.push('\n');
    };
    cannot(lines).for_each(&mut say);
    for row in &outcome.not_yet {
        say(format!("{}: not yet: needs {}", row.id, row.needs));
    }
    let entry = &outcome.entry;
    let exception = entry.exception.map_or("not measurable here".into(), |ns| format!("{} ns", number(ns)));
    say(format!(
        "entry: a system call costs the host {} ns, an exception {exception}; anonmem is called and pays neither. \
         Not taken off.",
        number(entry.syscall)
    ));
    let mitigations: Vec<_> =
        outcome.machine.mitigations.iter().map(|m| format!("{}: {}", m.of, m.how)).collect();
    say(format!("mitigations of the host: {}", or_none(&mitigations.join("; "))));
    say(legend());
    say(format!(
        "{} samples a side after one for warming up, in turns; the number after ± is half the distance of the extremes. \
         CPU time of the measuring thread; threads-*: time on the wall. \
         anonmem bench --list says what each side does.",
        outcome.runs
    ));
    say(busy(outcome));
    text
}

fn or_none(text: &str) -> &str {
    if text.is_empty() { "none" } else { text }
}

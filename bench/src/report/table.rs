//! The table for people.

use super::line::{Line, lines};
use crate::{
    rows::{NOT_YET, ROWS},
    run::Outcome,
    series::Summary,
};
use std::fmt::Write;

const HEADERS: [&str; 9] =
    ["row", "unit", "anonmem", "host", "of it entry", "limit", "host ÷ anonmem", "anonmem ÷ limit", "aim"];

/// The table, what is not in it, and what one must know to read it.
pub fn text(outcome: &Outcome) -> String {
    let lines = lines(outcome);
    format!("{}\n\n{}{}", outcome.machine.line(), main_grid(&lines), notes(outcome, &lines))
}

/// A line of text for each row.
pub fn main_grid(lines: &[Line]) -> String {
    grid(&lines.iter().map(cells).collect::<Vec<_>>())
}

/// Which sides of which rows were not measured, and why.
pub fn cannot(lines: &[Line]) -> impl Iterator<Item = String> {
    lines.iter().flat_map(|line| line.cannot.iter().map(|why| format!("{}: not measured, {why}", line.row)))
}

/// How long it took and who else used the machine.
pub fn busy(outcome: &Outcome) -> String {
    let load = outcome.load;
    format!(
        "{:.0} s; meanwhile others kept {:.2} CPUs busy and {:.2} were stolen by a hypervisor.{}",
        outcome.seconds,
        load.others,
        load.stolen,
        if load.others + load.stolen > 0.1 { " TOO BUSY for trustworthy times." } else { "" }
    )
}

/// What each row is, without measuring.
pub fn list() -> String {
    let mut text = String::new();
    for row in ROWS {
        let _ = writeln!(text, "{:22} {} ({})", row.id, row.title, row.unit.label());
        for (who, what) in [("anonmem", row.ours), ("host", row.host)] {
            if !what.is_empty() {
                let _ = writeln!(text, "{:22}   {who}: {what}", "");
            }
        }
    }
    for row in NOT_YET {
        let _ = writeln!(text, "{:22} {}: not yet, needs {}", row.id, row.title, row.needs);
    }
    text
}

fn cells(line: &Line) -> [String; 9] {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".into());
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
        or_dash(line.limit.map(|s| number(s.median))),
        or_dash(line.to_host.map(|s| format!("{} ×", number(1.0 / s.median)))),
        or_dash(line.to_limit.map(|s| format!("{:.2} ×", s.median))),
        if aim.is_empty() { "-".into() } else { aim },
    ]
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

fn grid(rows: &[[String; 9]]) -> String {
    let headers = HEADERS.map(String::from);
    let width = |i: usize| rows.iter().chain([&headers]).map(|row| row[i].chars().count()).max().unwrap_or(0);
    let widths: [usize; 9] = std::array::from_fn(width);
    let mut text = String::new();
    for row in [&headers].into_iter().chain(rows) {
        let mut line = String::new();
        for (i, cell) in row.iter().enumerate() {
            let pad = " ".repeat(widths[i] - cell.chars().count());
            // Numbers to the right, words to the left.
            let words = i < 2 || i == 8;
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
        text += &line;
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
    say("not done by anonmem: exception and system-call entry, TLB and its flushes, memory cgroups, LRU lists, tasks."
        .into());
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

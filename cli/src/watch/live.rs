//! Looks while the program runs: on a terminal a table below its output, which is drawn anew; elsewhere a
//! line a second.

use std::fmt::Write;
use std::io::IsTerminal;

use super::sample::{Process, Sample, Shown};
use crate::size::human_size;

/// How often a line is printed where there is no terminal.
const LINE_MS: u64 = 1000;
/// Processes in the table.
const PROCESSES: usize = 8;
/// The longest line of the table: a terminal's that was never made wider.
const COLUMNS: usize = 79;

#[derive(Debug)]
enum Place {
    Nowhere,
    Lines {
        next_ms: u64,
    },
    /// A table of so many lines is there.
    Table {
        lines: usize,
    },
}

/// Where looks are shown.
#[derive(Debug)]
pub(super) struct Live {
    place: Place,
    /// Whether the program's last byte ended a line: a table would tear a line that is not ended.
    at_start: bool,
}

impl Live {
    pub(super) fn new(shown: Shown) -> Self {
        let place = match shown {
            Shown::No => Place::Nowhere,
            Shown::Yes if std::io::stderr().is_terminal() => Place::Table { lines: 0 },
            Shown::Yes => Place::Lines { next_ms: 0 },
        };
        Self { place, at_start: true }
    }

    pub(super) fn show(&mut self, sample: &Sample, before: Option<&Sample>) -> String {
        match &mut self.place {
            Place::Nowhere => String::new(),
            Place::Lines { next_ms } if sample.ms < *next_ms => String::new(),
            Place::Lines { next_ms } => {
                *next_ms = sample.ms + LINE_MS;
                format!("anonmem: {}\n", headline(sample, before))
            }
            Place::Table { .. } if !self.at_start => String::new(),
            Place::Table { lines } => {
                let table = table(sample, before);
                let text = format!("{}{table}", up(*lines));
                *lines = table.lines().count();
                text
            }
        }
    }

    pub(super) fn make_way(&mut self, output: &[u8]) -> String {
        self.at_start = output.last().map_or(self.at_start, |&byte| byte == b'\n');
        match &mut self.place {
            Place::Table { lines } => up(std::mem::take(lines)),
            Place::Nowhere | Place::Lines { .. } => String::new(),
        }
    }
}

/// Goes up so many lines, and clears what is below.
fn up(lines: usize) -> String {
    if lines == 0 { String::new() } else { format!("\x1b[{lines}A\x1b[J") }
}

fn headline(sample: &Sample, before: Option<&Sample>) -> String {
    let rate = before.map_or(0, |before| sample.rate(before, |sample| sample.faults));
    format!(
        "{}.{} s: memory {} of {}, page tables {}, swap {}, {} faults ({rate}/s), {} forks",
        sample.ms / 1000,
        sample.ms % 1000 / 100,
        human_size(sample.user),
        human_size(sample.total),
        human_size(sample.tables),
        human_size(sample.swap),
        sample.faults,
        sample.forks,
    )
}

fn table(sample: &Sample, before: Option<&Sample>) -> String {
    let mut table = headline(sample, before) + "\n";
    let large = sample.large();
    if !large.is_empty() {
        let size =
            |(kib, bytes): (&u64, &u64)| format!("{} in {}", human_size(*bytes), human_size(kib * 1024));
        let sizes: Vec<_> = large.iter().map(size).collect();
        let _ = writeln!(table, "folios: {}", sizes.join(", "));
    }
    let _ = writeln!(table, "{:>7}  {:<16} {:>10} {:>10} {:>12}", "PID", "NAME", "RSS", "SWAP", "FAULTS");
    for Process { pid, name, rss, swap, faults } in sample.processes.iter().take(PROCESSES) {
        let name: String = name.chars().filter(|c| !c.is_control()).take(16).collect();
        let (rss, swap) = (human_size(*rss), human_size(*swap));
        let _ = writeln!(table, "{pid:>7}  {name:<16} {rss:>10} {swap:>10} {faults:>12}");
    }
    let cut = |line: &str| line.chars().take(COLUMNS).collect::<String>() + "\n";
    table.lines().map(cut).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(ms: u64) -> Sample {
        let process = Process { pid: 2, name: "a\x1bb".into(), rss: 1 << 20, swap: 0, faults: 7 };
        let processes = vec![process; 20];
        Sample { ms, total: 256 << 20, user: 3 << 20, faults: ms, processes, ..Sample::default() }
    }

    #[test]
    fn a_table_is_drawn_over_the_last_one_and_makes_way_for_output() {
        let mut live = Live { place: Place::Table { lines: 0 }, at_start: true };
        let first = live.show(&sample(1000), None);
        assert_eq!(first.lines().count(), 2 + PROCESSES);
        assert!(!first.contains('\x1b') && first.lines().all(|line| line.len() <= COLUMNS), "{first}");
        let second = live.show(&sample(2000), Some(&sample(1000)));
        assert!(second.starts_with("\x1b[10A\x1b[J2.0 s: memory") && second.contains("(1000/s)"), "{second}");
        assert_eq!(live.make_way(b"half a line"), "\x1b[10A\x1b[J");
        assert_eq!(live.show(&sample(3000), None), "", "the line is not ended");
        assert_eq!(live.make_way(b" and its end\n"), "");
        assert!(live.show(&sample(4000), None).starts_with("4.0 s"));
    }

    #[test]
    fn where_there_is_no_terminal_a_second_has_a_line() {
        let mut live = Live { place: Place::Lines { next_ms: 0 }, at_start: true };
        let lines: Vec<_> =
            (0..30).map(|n| live.show(&sample(n * 100), None)).filter(|l| !l.is_empty()).collect();
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert!(
            lines[1].starts_with("anonmem: 1.0 s: memory 3 MiB of 256 MiB") && lines[1].ends_with(" forks\n")
        );
        assert_eq!(live.make_way(b"x"), "");
    }
}

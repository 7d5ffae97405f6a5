//! The results as a table, as JSON and as CSV.

use std::fmt::Write;

use anonmem_bench::report::table::number;
use anonmem_bench::series::{Series, Summary};
use serde::Serialize;

use super::kinds::{Kind, MODES};
use super::linux;
use super::setup::{Outcome, Side};
use super::transcript::Transcript;
use crate::vm::qemu::Accelerator;

/// A row with its results.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Line {
    row: String,
    title: &'static str,
    operation: &'static str,
    mode: &'static str,
    tasks: u32,
    unit: &'static str,
    ours: Option<Summary>,
    linux: Option<Summary>,
    /// ours / linux, run by run: above 1, more of ours are done.
    to_linux: Option<Summary>,
    /// Guest instructions per operation; only with one task.
    ours_instructions: Option<f64>,
    linux_instructions: Option<f64>,
    /// Why a side is missing.
    cannot: Vec<String>,
    ours_samples: Vec<f64>,
    linux_samples: Vec<f64>,
}

impl Line {
    /// Linux's instructions by ours: above 1, ours takes fewer.
    fn instruction_ratio(&self) -> Option<f64> {
        Some(self.linux_instructions? / self.ours_instructions?)
    }
}

/// All rows of an outcome.
pub(super) fn lines(outcome: &Outcome, kinds: &[&'static Kind]) -> Vec<Line> {
    let mut all = Vec::new();
    for kind in kinds {
        for mode in MODES {
            all.extend((1..=outcome.cpus).map(|tasks| line(outcome, kind, mode, tasks)));
        }
    }
    all
}

fn line(outcome: &Outcome, kind: &'static Kind, mode: &'static str, tasks: u32) -> Line {
    let row = format!("{}.{mode}.{tasks}", kind.name);
    let per_second = |t: &Transcript| Some(t.row(kind.name, mode, tasks)?.per_second());
    let each = |side| Series(transcripts(outcome, side).filter_map(per_second).collect());
    let (ours, linux) = (each(Side::Ours), each(Side::Linux));
    let instructions = |side| {
        let counted = counted(outcome, side).filter(|t| t.counts_instructions())?;
        Some(counted.row(kind.name, mode, tasks)?.ticks_each())
    };
    let failures = |side, name| {
        let all = transcripts(outcome, side).chain(counted(outcome, side));
        let mut why: Vec<String> = all
            .flat_map(|t| &t.failed)
            .filter_map(|line| line.strip_prefix(&format!("{row}: ")))
            .map(|why| format!("{name}: {why}"))
            .collect();
        why.sort();
        why.dedup();
        why
    };
    let cannot = [failures(Side::Ours, "anonmem"), failures(Side::Linux, "Linux")].concat();
    Line {
        title: kind.title,
        operation: kind.operation,
        mode,
        tasks,
        unit: "ops/s",
        ours: ours.summary(),
        linux: linux.summary(),
        to_linux: ours.ratio_to(&linux).summary(),
        ours_instructions: instructions(Side::Ours),
        linux_instructions: instructions(Side::Linux),
        cannot,
        ours_samples: ours.0,
        linux_samples: linux.0,
        row,
    }
}

fn transcripts(outcome: &Outcome, side: Side) -> impl Iterator<Item = &Transcript> {
    outcome.timed.iter().filter_map(move |(ours, linux)| match side {
        Side::Ours => Some(ours),
        Side::Linux => linux.as_ref(),
    })
}

fn counted(outcome: &Outcome, side: Side) -> Option<&Transcript> {
    match side {
        Side::Ours => Some(&outcome.counted.0),
        Side::Linux => outcome.counted.1.as_ref(),
    }
}

fn kernel(outcome: &Outcome, side: Side) -> String {
    counted(outcome, side).and_then(|t| t.kernel.clone()).unwrap_or_default()
}

const HEADERS: [&str; 8] =
    ["row", "unit", "anonmem", "Linux", "anonmem ÷ Linux", "instructions", "Linux's", "Linux's ÷ anonmem's"];

/// Between these, a document keeps its table of guests.
const MARKS: [&str; 2] = ["<!-- anonmem bench --guest: begin -->\n", "<!-- anonmem bench --guest: end -->\n"];

/// The table and what one must know to read it.
pub(super) fn text(outcome: &Outcome, lines: &[Line]) -> String {
    format!("{}\n{}{}", heading(outcome), table(outcome, lines), notes(outcome, lines))
}

/// The same for a document: the table set as it is, a list of what could not be measured.
pub(super) fn section(outcome: &Outcome, lines: &[Line]) -> String {
    let heading = heading(outcome).replace('\n', "  \n");
    let cannot: String = cannot(outcome, lines).iter().map(|line| format!("* {line}\n")).collect();
    let before = if cannot.is_empty() { "" } else { "\n" };
    format!("{heading}\n```\n{}```\n{before}{cannot}\n{}\n", table(outcome, lines), duration(outcome))
}

/// `document` with the section between its marks; the section alone if it has none.
pub(super) fn markdown(document: Option<&str>, outcome: &Outcome, lines: &[Line]) -> String {
    anonmem_bench::report::markdown::refreshed_between(MARKS, document, &section(outcome, lines))
}

/// The machine and the guests.
fn heading(outcome: &Outcome) -> String {
    let mut text = format!("{}\n", outcome.machine);
    let _ = writeln!(
        text,
        "guests: {}, {}, {} CPUs, {} MiB each",
        outcome.qemu,
        how(outcome.accelerator),
        outcome.cpus,
        outcome.memory_mib
    );
    let _ = writeln!(
        text,
        "anonmem: machine type microvm, lock mode {}, reverse map {}, folios {}",
        outcome.lock.name(),
        outcome.rmap.name(),
        outcome.folios.as_str()
    );
    if let Some(image) = &outcome.image {
        let more = if image.arguments.is_empty() { String::new() } else { format!(", {}", image.arguments) };
        let kernel = kernel(outcome, Side::Linux);
        let _ = writeln!(text, "Linux: {kernel}, machine type {}{more}", linux::MACHINE);
    }
    text
}

fn table(outcome: &Outcome, lines: &[Line]) -> String {
    let rows: Vec<_> = lines.iter().map(cells).collect();
    match outcome.image {
        Some(_) => grid(&rows, &[0, 1, 2, 3, 4, 5, 6, 7]),
        None => grid(&rows, &ALONE),
    }
}

fn how(accelerator: Accelerator) -> &'static str {
    match accelerator {
        Accelerator::Tcg | Accelerator::Counted => "TCG (CPUs are translated)",
        Accelerator::Kvm => "KVM",
    }
}

fn cells(line: &Line) -> [String; 8] {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".into());
    let count = |n: f64| if n >= 100.0 { format!("{n:.0}") } else { number(n) };
    let spread = |s: Summary| format!("{} ±{:.0} %", number(s.median), s.spread_percent());
    [
        line.row.clone(),
        line.unit.to_string(),
        or_dash(line.ours.map(spread)),
        or_dash(line.linux.map(spread)),
        or_dash(line.to_linux.map(|s| format!("{:.2} ×", s.median))),
        or_dash(line.ours_instructions.map(count)),
        or_dash(line.linux_instructions.map(count)),
        or_dash(line.instruction_ratio().map(|r| format!("{r:.2} ×"))),
    ]
}

/// The columns that are there without a Linux beside.
const ALONE: [usize; 4] = [0, 1, 2, 5];

fn grid(rows: &[[String; 8]], columns: &[usize]) -> String {
    let headers = HEADERS.map(String::from);
    let width = |i: usize| rows.iter().chain([&headers]).map(|row| row[i].chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for row in [&headers].into_iter().chain(rows) {
        let mut line = String::new();
        for &i in columns {
            let (cell, pad) = (&row[i], " ".repeat(width(i) - row[i].chars().count()));
            // Numbers to the right, words to the left.
            let _ = if i < 2 { write!(line, "{cell}{pad}  ") } else { write!(line, "{pad}{cell}  ") };
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

/// What is missing in the table, and why.
fn cannot(outcome: &Outcome, lines: &[Line]) -> Vec<String> {
    let rows = lines.iter().flat_map(|line| line.cannot.iter().map(|why| format!("{}: {why}", line.row)));
    let uncounted = [Side::Ours, Side::Linux].into_iter().filter_map(|side| {
        let is_wrong = counted(outcome, side).is_some_and(|t| !t.counts_instructions());
        is_wrong.then(|| {
            let kernel = kernel(outcome, side);
            format!("{kernel}: no instructions: QEMU's clock did not count a loop of known length right")
        })
    });
    rows.chain(uncounted).collect()
}

fn notes(outcome: &Outcome, lines: &[Line]) -> String {
    let mut text = String::from("\n");
    for line in cannot(outcome, lines) {
        text += &line;
        text.push('\n');
    }
    text += "instructions: executed by the guest per operation, user's and kernel's, timer interrupts included; one task on one CPU, \
             counted by QEMU. A repeated string instruction counts once per repetition: Linux zeroes a page in 512, anonmem in 450.\n";
    if outcome.accelerator == Accelerator::Tcg {
        text += "ops/s: of QEMU's translator. They say what the emulation pays for, not what a processor would.\n";
    }
    text += "pages are of 4 KiB everywhere. anonmem bench --guest --list says what an operation is.\n";
    text + &duration(outcome) + "\n"
}

fn duration(outcome: &Outcome) -> String {
    let Outcome { seconds, runs, load, .. } = outcome;
    format!(
        "{seconds:.0} s; timed boots of each kernel, in turns: {runs}; one more each counted instructions. Meanwhile {load}"
    )
}

#[derive(Serialize)]
struct Document<'a> {
    version: u32,
    machine: &'a str,
    qemu: &'a str,
    accelerator: &'static str,
    cpus: u32,
    memory_mib: u64,
    runs: u32,
    seconds: f64,
    ours: Kernel,
    linux: Option<Kernel>,
    rows: &'a [Line],
}

#[derive(Serialize)]
struct Kernel {
    release: String,
    machine_type: &'static str,
    arguments: String,
}

/// The document.
///
/// # Panics
///
/// Never: all of it can be expressed.
pub(super) fn json(outcome: &Outcome, lines: &[Line]) -> String {
    let linux = outcome.image.as_ref().map(|image| Kernel {
        release: kernel(outcome, Side::Linux),
        machine_type: linux::MACHINE,
        arguments: image.arguments.clone(),
    });
    let document = Document {
        version: 1,
        machine: &outcome.machine,
        qemu: &outcome.qemu,
        accelerator: match outcome.accelerator {
            Accelerator::Tcg | Accelerator::Counted => "tcg",
            Accelerator::Kvm => "kvm",
        },
        cpus: outcome.cpus,
        memory_mib: outcome.memory_mib,
        runs: outcome.runs,
        seconds: outcome.seconds,
        ours: Kernel {
            release: kernel(outcome, Side::Ours),
            machine_type: "microvm",
            arguments: format!(
                "lock={} rmap={} folios={}",
                outcome.lock.name(),
                outcome.rmap.name(),
                outcome.folios.as_str()
            ),
        },
        linux,
        rows: lines,
    };
    let mut text = serde_json::to_string_pretty(&document).expect("plain data");
    text.push('\n');
    text
}

const CSV_HEADER: &str = "row,title,unit,ours,ours_min,ours_max,linux,linux_min,linux_max,ours_per_linux,\
                          ours_instructions,linux_instructions,linux_per_ours_instructions";

/// The table as CSV, one line a row; what is missing is empty. No title has a comma or a quotation mark that
/// would matter.
pub(super) fn csv(lines: &[Line]) -> String {
    let mut text = format!("{CSV_HEADER}\n");
    for line in lines {
        let number = |n: Option<f64>| n.map_or(String::new(), |n| format!("{n:.4}"));
        let three = |s: Option<Summary>| {
            [s.map(|s| s.median), s.map(|s| s.min), s.map(|s| s.max)].map(number).join(",")
        };
        let fields = [
            line.row.clone(),
            format!("\"{}\"", line.title),
            line.unit.to_string(),
            three(line.ours),
            three(line.linux),
            number(line.to_linux.map(|s| s.median)),
            number(line.ours_instructions),
            number(line.linux_instructions),
            number(line.instruction_ratio()),
        ];
        text += &fields.join(",");
        text.push('\n');
    }
    text
}

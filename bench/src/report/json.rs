//! The results as JSON: the table's lines, and every sample.

use super::line::{Line, lines};
use crate::{
    host::{Folios, about::Machine},
    ours::REVERSE_MAP,
    outcome::{Outcome, Side},
    rows::NotYet,
};
use serde::Serialize;

#[derive(Serialize)]
struct Document<'a> {
    version: u32,
    reverse_map: &'static str,
    machine: &'a Machine,
    runs: u32,
    seconds: f64,
    entry_ns: Entry,
    load: Load,
    rows: Vec<Measured<'a>>,
    not_yet: &'a [&'static NotYet],
}

#[derive(Serialize)]
struct Entry {
    syscall: f64,
    exception: Option<f64>,
}

#[derive(Serialize)]
struct Load {
    others_cpus: f64,
    stolen_cpus: f64,
}

#[derive(Serialize)]
struct Measured<'a> {
    #[serde(flatten)]
    line: Line,
    aim_met: Option<bool>,
    ours_samples: &'a [f64],
    host_samples: &'a [f64],
    ours_64k_samples: &'a [f64],
    ours_2m_samples: &'a [f64],
    host_64k_samples: &'a [f64],
    host_2m_samples: &'a [f64],
    peer_samples: &'a [f64],
}

/// The document.
///
/// # Panics
/// Never: all of it can be expressed.
pub fn text(outcome: &Outcome) -> String {
    let samples = |row, side| outcome.samples.of(row, side).map_or(&[][..], |s| &s.0);
    let document = Document {
        version: 1,
        reverse_map: REVERSE_MAP,
        machine: &outcome.machine,
        runs: outcome.runs,
        seconds: outcome.seconds,
        entry_ns: Entry { syscall: outcome.entry.syscall, exception: outcome.entry.exception },
        load: Load { others_cpus: outcome.load.others, stolen_cpus: outcome.load.stolen },
        rows: lines(outcome)
            .into_iter()
            .map(|line| Measured {
                aim_met: line.meets_aim(),
                ours_samples: samples(line.row, Side::Ours),
                host_samples: samples(line.row, Side::Host(Folios::Base)),
                ours_64k_samples: samples(line.row, Side::OursLarge(Folios::Kib64)),
                ours_2m_samples: samples(line.row, Side::OursLarge(Folios::Mib2)),
                host_64k_samples: samples(line.row, Side::Host(Folios::Kib64)),
                host_2m_samples: samples(line.row, Side::Host(Folios::Mib2)),
                peer_samples: samples(line.row, Side::Peer),
                line,
            })
            .collect(),
        not_yet: &outcome.not_yet,
    };
    let mut text = serde_json::to_string_pretty(&document).expect("plain data");
    text.push('\n');
    text
}

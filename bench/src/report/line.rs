//! One row as all reports show it.

use crate::{
    host::Folios,
    ours::FaultCounts,
    outcome::{Outcome, Side},
    rows::{self, Aim, HostOnly, Row},
    series::Summary,
};
use serde::Serialize;

/// A row with its results.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// The row's name.
    pub row: &'static str,
    /// What is done.
    pub title: &'static str,
    /// What the numbers are per.
    pub unit: &'static str,
    /// anonmem.
    pub ours: Option<Summary>,
    /// The host's Linux.
    pub host: Option<Summary>,
    /// anonmem with folios of 64 KiB.
    pub ours_64k: Option<Summary>,
    /// anonmem with folios of 2 MiB.
    pub ours_2m: Option<Summary>,
    /// ours / host, both with folios of 64 KiB, run by run.
    pub to_host_64k: Option<Summary>,
    /// ours / host, both with folios of 2 MiB, run by run.
    pub to_host_2m: Option<Summary>,
    /// The host's Linux with folios of 64 KiB.
    pub host_64k: Option<Summary>,
    /// The host's Linux with folios of 2 MiB.
    pub host_2m: Option<Summary>,
    /// The Rust peer.
    pub peer: Option<Summary>,
    /// ours / the Rust peer, run by run.
    pub to_peer: Option<Summary>,
    /// The part of the host's time that its exceptions and system calls cost, as measured in this run; not
    /// taken off.
    pub host_entry: f64,
    /// What the host's side includes and ours does not.
    pub host_only: &'static [HostOnly],
    /// The physical limit.
    pub limit: Option<Summary>,
    /// ours / host, run by run.
    pub to_host: Option<Summary>,
    /// ours / limit, run by run.
    pub to_limit: Option<Summary>,
    /// What anonmem aims at, in the row's unit.
    pub aim: Option<f64>,
    /// How the aim is defined.
    pub aim_text: String,
    /// How our faults went, where that was counted: all samples together.
    pub faults: Option<FaultCounts>,
    /// Why a side is missing.
    pub cannot: Vec<String>,
    /// What our side does.
    pub ours_does: &'static str,
    /// What the host's side does.
    pub host_does: &'static str,
    /// What the Rust peer's side does.
    pub peer_does: &'static str,
}

impl Line {
    /// Whether the median meets the aim.
    pub fn meets_aim(&self) -> Option<bool> {
        Some(self.ours?.median <= self.aim?)
    }
}

/// All rows of an outcome.
pub fn lines(outcome: &Outcome) -> Vec<Line> {
    outcome.rows.iter().map(|row| line(outcome, row)).collect()
}

fn line(outcome: &Outcome, row: &'static Row) -> Line {
    let of = |id, side| outcome.samples.of(id, side);
    let (ours, host) = (of(row.id, Side::Ours), of(row.id, Side::Host(Folios::Base)));
    let peer = of(row.id, Side::Peer);
    let limit = row.limit.and_then(|limit| of(limit.row(), Side::Ours));
    let ratio = |to: Option<&crate::series::Series>| ours?.ratio_to(to?).summary();
    let large = |folios| of(row.id, Side::Host(folios)).and_then(|s| s.summary());
    let both = |folios| {
        let (ours, host) = (of(row.id, Side::OursLarge(folios))?, of(row.id, Side::Host(folios))?);
        ours.ratio_to(host).summary()
    };
    let names = [
        (Side::Ours, "anonmem"),
        (Side::Host(Folios::Base), "host"),
        (Side::Host(Folios::Kib64), "host with folios of 64K"),
        (Side::Host(Folios::Mib2), "host with folios of 2M"),
    ];
    let cannot = names
        .into_iter()
        .filter_map(|(side, name)| outcome.cannot.get(&(row.id, side)).map(|why| format!("{name}: {why}")));
    Line {
        row: row.id,
        title: row.title,
        unit: row.unit.label(),
        ours: ours.and_then(|s| s.summary()),
        host: host.and_then(|s| s.summary()),
        ours_64k: of(row.id, Side::OursLarge(Folios::Kib64)).and_then(|s| s.summary()),
        ours_2m: of(row.id, Side::OursLarge(Folios::Mib2)).and_then(|s| s.summary()),
        to_host_64k: both(Folios::Kib64),
        to_host_2m: both(Folios::Mib2),
        host_64k: large(Folios::Kib64),
        host_2m: large(Folios::Mib2),
        peer: peer.and_then(|s| s.summary()),
        to_peer: ratio(peer),
        host_entry: entry(outcome, row),
        host_only: row.host_only,
        limit: limit.and_then(|s| s.summary()),
        to_host: ratio(host),
        to_limit: ratio(limit),
        aim: aim(outcome, row),
        aim_text: aim_text(row),
        faults: outcome.samples.faults_of(row.id).cloned(),
        cannot: cannot.collect(),
        ours_does: row.ours,
        host_does: row.host,
        peer_does: row.peer,
    }
}

fn entry(outcome: &Outcome, row: &Row) -> f64 {
    let exception = outcome.entry.exception.unwrap_or(0.0);
    row.entries.syscalls * outcome.entry.syscall + row.entries.exceptions * exception
}

fn median(outcome: &Outcome, id: &'static str) -> Option<f64> {
    Some(outcome.samples.of(id, Side::Ours)?.summary()?.median)
}

fn aim(outcome: &Outcome, row: &Row) -> Option<f64> {
    match row.aim? {
        Aim::Most(most) => Some(most),
        Aim::Limit(factor, more) => Some(median(outcome, row.limit?.row())? * factor + more),
        Aim::Row(factor, other) => Some(median(outcome, other)? * factor),
    }
}

fn aim_text(row: &Row) -> String {
    match row.aim {
        None => String::new(),
        Some(Aim::Most(most)) => format!("≤ {most}"),
        Some(Aim::Limit(factor, 0.0)) => format!("≤ {factor} × limit"),
        Some(Aim::Limit(factor, more)) => format!("≤ {factor} × limit + {more}"),
        Some(Aim::Row(1.0, other)) => format!("≤ {other}"),
        Some(Aim::Row(factor, other)) => format!("≤ {factor} × {other}"),
    }
}

/// The row of a limit, for reports that set limits apart.
pub fn is_limit(line: &Line) -> bool {
    rows::ROWS.iter().any(|row| row.limit.is_some_and(|l| l.row() == line.row))
        || line.row.starts_with("limit-")
}

//! `anonmem scale`: which operations that commute conflict all the same, by cache line, and what that costs.
//!
//! The pairs are compared in `anonmem-lab`; here they get a command line, tables and pictures.

mod curves;
mod found;
mod html;
mod json;
mod matrix;
mod pingpong;
mod svg;

use std::path::PathBuf;

use anonmem_lab::scale::model::Prices;
use anonmem_lab::scale::{self, LockMode, MODES, OPS, Op, table};

use clap::Args;
use found::Found;

use crate::error::{Error, Result};
use crate::out;
use crate::progress::Progress;
use crate::values::Lock;

/// Options of `anonmem scale`.
#[derive(Debug, Args)]
pub struct ScaleOptions {
    /// Operations to compare with one another; all of them if none is named (--list has their names)
    #[arg(value_name = "OP")]
    pub ops: Vec<String>,
    /// Only in this lock mode
    #[arg(long, value_enum)]
    pub lock: Option<Lock>,
    /// Name every line in conflict, with the lines of code, too
    #[arg(long)]
    pub lines: bool,
    /// List the operations
    #[arg(long)]
    pub list: bool,
    /// Nanoseconds to fetch a cache line that another CPU wrote [default: measured here, by a ping-pong]
    #[arg(long, value_name = "NS", value_parser = parse_ns)]
    pub transfer: Option<f64>,
    /// Nanoseconds of the work that goes with one access to shared memory; docs/scale.md says where the
    /// default comes from
    #[arg(long, value_name = "NS", default_value = "2", value_parser = parse_ns)]
    pub access: f64,
    /// Nanoseconds that an operation waits for each CPU whose TLB it has flushed
    #[arg(long, value_name = "NS", default_value = "1000", value_parser = parse_ns)]
    pub interrupt: f64,
    /// Fail if there is a conflict that this table does not have
    #[arg(long, value_name = "FILE")]
    pub compare: Option<PathBuf>,
    /// Write the table of conflicts to this file
    #[arg(long, value_name = "FILE", conflicts_with_all = ["ops", "lock"])]
    pub record: Option<PathBuf>,
    /// Write everything as JSON, too
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Draw the matrix and the curves into an SVG file, too
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
    /// Write the matrix, the curves and all lines in conflict into an HTML file, too
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

fn parse_ns(text: &str) -> std::result::Result<f64, String> {
    let ns: f64 = text.parse().map_err(|_| "a number of nanoseconds".to_owned())?;
    if ns.is_finite() && ns > 0.0 { Ok(ns) } else { Err("more than 0 nanoseconds".to_owned()) }
}

/// Compares the operations that `options` names.
///
/// # Errors
///
/// An operation that there is not, a table that cannot be read, a file that cannot be written. A conflict
/// that the table does not have is the status 1.
pub fn scale(options: &ScaleOptions) -> Result<u8> {
    if options.list {
        let lines: String = OPS.iter().map(|op| format!("{:<16} {}\n", op.name, op.what)).collect();
        out::print(&lines)?;
        return Ok(0);
    }
    let ops = chosen(&options.ops)?;
    let committed = options.compare.as_ref().map(|path| {
        let text = std::fs::read_to_string(path)
            .map_err(|e| Error::usage(format_args!("cannot read {}: {e}", path.display())))?;
        table::read(&text).map_err(|line| Error::usage(format_args!("{}: {line}", path.display())))
    });
    let committed = committed.transpose()?;
    let files = [&options.json, &options.svg, &options.html, &options.record];
    out::check_writable(files.map(|path| path.as_deref()))?;
    let modes = options.lock.map_or_else(|| MODES.to_vec(), |lock| vec![mode(lock)]);
    let mut progress = Progress::new();
    let study =
        scale::study(&ops, &modes, |done, all| progress.step(format!("{done} of {all} pairs compared")));
    drop(progress);
    let transfer_ns = options.transfer.unwrap_or_else(pingpong::transfer_ns);
    let prices = Prices { transfer_ns, access_ns: options.access, interrupt_ns: options.interrupt };
    let found = Found { ops, modes, study, prices, measured: options.transfer.is_none() };
    write_files(options, &found)?;
    let mut text = matrix::text(&found);
    if options.lines {
        text += &matrix::lines(&found);
    }
    text += &curves::text(&found);
    out::print(&text)?;
    committed.map_or(Ok(0), |table| compare(&found, &table))
}

/// Says what the table does not have.
fn compare(found: &Found, committed: &table::Conflicts) -> Result<u8> {
    let difference = table::compare(&found.study, committed);
    let gone: String = difference.gone.iter().map(|gone| format!("no longer a conflict: {gone}\n")).collect();
    let new: String = difference.new.iter().map(|new| format!("NEW CONFLICT {new}\n")).collect();
    out::print(&(gone + &new))?;
    Ok(u8::from(!difference.new.is_empty()))
}

fn write_files(options: &ScaleOptions, found: &Found) -> Result<()> {
    if let Some(path) = &options.record {
        out::write(path, &table::write(&found.study))?;
    }
    if let Some(path) = &options.json {
        out::write(path, &json::text(found))?;
    }
    if let Some(path) = &options.svg {
        out::write(path, &svg::text(found))?;
    }
    if let Some(path) = &options.html {
        out::write(path, &html::text(found))?;
    }
    Ok(())
}

fn chosen(names: &[String]) -> Result<Vec<&'static Op>> {
    if names.is_empty() {
        return Ok(OPS.iter().collect());
    }
    let known = |name: &String| {
        scale::find(name).ok_or_else(|| {
            let near: Vec<_> = OPS.iter().map(|op| op.name).filter(|op| op.contains(name.as_str())).collect();
            let hint =
                if near.is_empty() { "`anonmem scale --list` lists them".into() } else { near.join(", ") };
            Error::usage(format!("there is no operation {name:?}; {hint}"))
        })
    };
    // In the order of the tables, whatever the order of the command line.
    let named = names.iter().map(known).collect::<Result<Vec<_>>>()?;
    Ok(OPS.iter().filter(|op| named.iter().any(|named| named.name == op.name)).collect())
}

fn mode(lock: Lock) -> LockMode {
    match lock {
        Lock::Mmap => LockMode::Mmap,
        Lock::Vma => LockMode::Vma,
        Lock::Speculative => LockMode::Speculative,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two operations in one mode: enough to see every form of the result.
    pub(super) fn small() -> Found {
        let ops =
            vec![scale::find("write-fault").expect("an operation"), scale::find("mmap").expect("one, too")];
        let modes = vec![LockMode::Mmap];
        let study = scale::study(&ops, &modes, |_, _| ());
        let prices = Prices { transfer_ns: 100.0, access_ns: 2.0, interrupt_ns: 1000.0 };
        Found { ops, modes, study, prices, measured: false }
    }

    #[test]
    fn two_writers_of_one_lock_are_in_conflict_and_strangers_faults_are_not() {
        let found = small();
        let text = matrix::text(&found) + &matrix::lines(&found) + &curves::text(&found);
        assert!(text.contains("mm.mmap_lock"), "{text}");
        let json: serde_json::Value = serde_json::from_str(&json::text(&found)).expect("JSON");
        let pairs = json["pairs"].as_array().expect("pairs");
        let of = |relation: &str, a: &str, b: &str| {
            let named =
                |p: &&serde_json::Value| p["relation"] == relation && p["ops"][0] == a && p["ops"][1] == b;
            pairs.iter().find(named).expect("compared")["conflicts"].as_array().expect("a list").len()
        };
        assert_eq!(of("strangers", "write-fault", "write-fault"), 0, "{text}");
        assert_ne!(of("threads", "mmap", "mmap"), 0, "{text}");
        assert!(svg::text(&found).ends_with("</svg>\n"));
        assert!(html::text(&found).contains("</html>"));
    }

    #[test]
    fn operations_are_found_or_refused_with_a_hint() {
        let error = chosen(&["write".into()]).expect_err("there is no such operation");
        assert_eq!(error.to_string(), "there is no operation \"write\"; write-fault, write-fault-vma");
        let names: Vec<_> =
            chosen(&["mmap".into(), "write-fault".into()]).expect("both").iter().map(|op| op.name).collect();
        assert_eq!(names, ["write-fault", "mmap"]);
        assert!(parse_ns("0").is_err() && parse_ns("x").is_err() && parse_ns("1.5").is_ok());
    }
}

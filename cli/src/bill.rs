//! The memory bill: what the program cost, as a table for people.
//!
//! The kernel sends one JSON object. Keys that are known here get a line of their own with a name and
//! its parts; any other key is still shown, by its own name, so that a newer kernel's bill is complete.

use std::fmt::Write;

use serde_json::{Map, Value};

use crate::size::human_size;

/// The width of the column of names.
const NAME_WIDTH: usize = 22;
const PAGE: u64 = 4096;

/// How a known key is shown.
enum Style {
    /// A number with separated thousands.
    Count,
    /// Frames of 4 KiB, with the sum.
    Frames,
    /// Bytes, in a unit for people.
    Bytes,
    /// Milliseconds.
    Millis,
    /// A verdict in words: `ok` or what is wrong.
    Verdict,
    /// An object of counters, the first called `total` apart.
    Parts,
    /// A list of names, shown only if there are any.
    Names,
}

/// The known keys in the order in which they are shown.
const LINES: [(&str, &str, Style); 24] = [
    ("faults", "faults", Style::Parts),
    ("forks", "forks", Style::Count),
    ("cow_copies", "pages copied on write", Style::Count),
    ("cow_reuses", "pages reused on write", Style::Count),
    ("zero_page_hits", "zero page mapped", Style::Count),
    ("tlb", "TLB", Style::Parts),
    ("fault_locks", "faults by lock", Style::Parts),
    ("refusals", "fault refusals", Style::Parts),
    ("lock_waits", "waits for locks", Style::Parts),
    ("fault_latency", "fault latency", Style::Parts),
    ("folios", "folios", Style::Parts),
    ("pages_per_touched", "pages per touched page", Style::Count),
    ("swap", "swap", Style::Parts),
    ("compression_ratio", "compression ratio", Style::Count),
    ("reclaim", "reclaim", Style::Parts),
    ("peak_frames", "peak memory", Style::Frames),
    ("peak_page_table_bytes", "peak page tables", Style::Bytes),
    ("peak_anon_vmas", "peak anon_vmas", Style::Count),
    ("peak_anon_vma_chains", "peak anon_vma chains", Style::Count),
    ("oom_kills", "killed for memory", Style::Count),
    ("wall_ms", "time", Style::Millis),
    ("unknown_syscalls", "unknown system calls", Style::Names),
    ("frames_leaked", "frames leaked", Style::Count),
    ("validate", "books", Style::Verdict),
];

/// Keys that the headline holds.
const HEADLINE: [&str; 6] = ["version", "lock_mode", "reverse_map", "cpus", "ram_bytes", "accelerator"];

/// Writes the bill as a table, each line ended.
#[must_use]
pub fn render_text(bill: &Value) -> String {
    let Value::Object(bill) = bill else {
        return format!("memory bill: {bill}\n");
    };
    let mut out = headline(bill);
    for (key, name, style) in &LINES {
        if let Some(value) = bill.get(*key) {
            render_line(&mut out, name, value, style);
        }
    }
    for (key, value) in bill {
        if !HEADLINE.contains(&key.as_str()) && !LINES.iter().any(|(known, ..)| known == key) {
            render_line(&mut out, &words(key), value, &Style::Parts);
        }
    }
    out
}

/// Tells what is wrong with the books, if anything is: leaked frames or a violated invariant.
#[must_use]
pub fn complaint(bill: &Value) -> Option<String> {
    let leaked = bill.get("frames_leaked").and_then(Value::as_u64).unwrap_or(0);
    let verdict = bill.get("validate").and_then(Value::as_str).unwrap_or("ok");
    if verdict != "ok" {
        return Some(format!("the memory manager's books are wrong: {verdict}"));
    }
    (leaked != 0).then(|| format!("{leaked} frames leaked"))
}

fn headline(bill: &Map<String, Value>) -> String {
    let mut facts = Vec::new();
    if let Some(ram) = bill.get("ram_bytes").and_then(Value::as_u64) {
        facts.push(human_size(ram));
    }
    if let Some(cpus) = bill.get("cpus").and_then(Value::as_u64) {
        facts.push(format!("{cpus} CPU{}", if cpus == 1 { "" } else { "s" }));
    }
    if let Some(accelerator) = bill.get("accelerator").and_then(Value::as_str) {
        facts.push(accelerator.to_string());
    }
    if let Some(mode) = bill.get("lock_mode").and_then(Value::as_str) {
        facts.push(format!("{mode} lock"));
    }
    // Said where it is not the usual one.
    if let Some(name) = bill.get("reverse_map").and_then(Value::as_str).filter(|name| *name != "anon_vma") {
        facts.push(format!("reverse map {name}"));
    }
    format!("memory bill ({})\n", facts.join(", "))
}

fn render_line(out: &mut String, name: &str, value: &Value, style: &Style) {
    match (style, value) {
        (Style::Names, Value::Array(names)) if names.is_empty() => {}
        (Style::Parts, Value::Object(parts)) => render_parts(out, name, parts),
        (Style::Frames, Value::Number(n)) => {
            let frames = n.as_u64().unwrap_or(0);
            line(out, name, &format!("{} ({} frames)", human_size(frames * PAGE), thousands(frames)));
        }
        (Style::Bytes, Value::Number(n)) => line(out, name, &human_size(n.as_u64().unwrap_or(0))),
        (Style::Millis, Value::Number(n)) => {
            line(out, name, &format!("{:.3} s", n.as_f64().unwrap_or(0.0) / 1000.0));
        }
        (Style::Verdict, Value::String(verdict)) if verdict != "ok" => {
            line(out, name, &format!("WRONG: {verdict}"));
        }
        _ => line(out, name, &plain(value)),
    }
}

/// A table with more parts than this leaves out the zeros.
const SHORT_TABLE: usize = 6;

/// Renders an object of counters: its total beside the name, the other parts below (of a long table
/// those that are not zero), lists and nested objects on lines of their own.
fn render_parts(out: &mut String, name: &str, parts: &Map<String, Value>) {
    let short = parts.len() <= SHORT_TABLE;
    let scalars: Vec<String> = parts
        .iter()
        .filter(|(key, value)| *key != "total" && !value.is_object() && !value.is_array())
        .filter(|(_, value)| short || !is_zero(value))
        .map(|(key, value)| part(key, value))
        .collect();
    match parts.get("total") {
        Some(total) => {
            line(out, name, &plain(total));
            if !scalars.is_empty() {
                line(out, "", &scalars.join(", "));
            }
        }
        None if scalars.is_empty() && parts.values().all(|v| !v.is_object() && !v.is_array()) => {
            line(out, name, "0")
        }
        None => {
            if !scalars.is_empty() {
                line(out, name, &scalars.join(", "));
            }
        }
    }
    for (key, value) in parts {
        match value {
            Value::Object(inner) => render_parts(out, &format!("  {}", words(key)), inner),
            Value::Array(_) => line(out, &format!("  {}", words(key)), &plain(value)),
            _ => {}
        }
    }
}

/// One counter of a table; keys that end in `_ns` are times.
fn part(key: &str, value: &Value) -> String {
    match (key.strip_suffix("_ns"), value.as_u64()) {
        (Some(key), Some(ns)) => format!("{} {}", words(key), duration(ns)),
        _ => format!("{} {}", words(key), plain(value)),
    }
}

fn duration(ns: u64) -> String {
    let scaled = |unit: f64| ns as f64 / unit;
    match ns {
        0..1_000 => format!("{ns} ns"),
        1_000..1_000_000 => format!("{:.1} µs", scaled(1e3)),
        1_000_000..1_000_000_000 => format!("{:.1} ms", scaled(1e6)),
        _ => format!("{:.2} s", scaled(1e9)),
    }
}

fn line(out: &mut String, name: &str, value: &str) {
    let _ = writeln!(out, "  {name:NAME_WIDTH$} {value}");
}

fn is_zero(value: &Value) -> bool {
    value.as_u64() == Some(0)
}

fn plain(value: &Value) -> String {
    match value {
        Value::Number(n) => n.as_u64().map_or_else(|| n.to_string(), thousands),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(", "),
        Value::Null | Value::Bool(_) | Value::Object(_) => value.to_string(),
    }
}

fn words(key: &str) -> String {
    key.replace('_', " ")
}

fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_table_is_as_documented() {
        let bill = json!({
            "version": 1, "lock_mode": "mmap", "cpus": 2, "ram_bytes": 268_435_456_u64,
            "faults": {
                "total": 12345,
                "by_kind": {
                    "anon": 12000, "zero_page": 0, "cow_copy": 345, "shared": 0, "segv": 0, "bus": 0, "oom": 0,
                },
                "by_cpu": [12000, 345],
            },
            "forks": 3, "cow_copies": 345, "cow_reuses": 2, "zero_page_hits": 0,
            "tlb": {"shootdowns": 0, "ipis": 4, "pages_flushed": 1_234_567},
            "peak_frames": 1000, "peak_page_table_bytes": 65536, "peak_anon_vmas": 9, "peak_anon_vma_chains": 12,
            "frames_leaked": 0, "validate": "ok", "oom_kills": 0, "wall_ms": 1250, "unknown_syscalls": [],
        });
        let expected = "\
memory bill (256 MiB, 2 CPUs, mmap lock)
  faults                 12 345
    by kind              anon 12 000, cow copy 345
    by cpu               12 000, 345
  forks                  3
  pages copied on write  345
  pages reused on write  2
  zero page mapped       0
  TLB                    shootdowns 0, ipis 4, pages flushed 1 234 567
  peak memory            3.9 MiB (1 000 frames)
  peak page tables       64 KiB
  peak anon_vmas         9
  peak anon_vma chains   12
  killed for memory      0
  time                   1.250 s
  frames leaked          0
  books                  ok
";
        assert_eq!(render_text(&bill), expected);
        assert_eq!(complaint(&bill), None);
    }

    #[test]
    fn what_is_not_known_is_shown_by_its_name() {
        let bill = json!({
            "cpus": 1,
            "swap": {"out": 4, "in": 0, "slots": {"peak": 7}},
            "moon_phase": "full",
            "new_table": {"total": 2, "left": 1, "right": 1},
            "odd": null,
        });
        let text = render_text(&bill);
        for expected in [
            "1 CPU)",
            "swap                   out 4",
            "slots",
            "peak 7",
            "moon phase",
            "full",
            "new table",
            "left 1, right 1",
            "null",
        ] {
            assert!(text.contains(expected), "{expected} in\n{text}");
        }
        assert_eq!(render_text(&json!([1])), "memory bill: [1]\n");
    }

    #[test]
    fn folios_have_a_line_a_size_without_zeroes() {
        let counters = |n: u64| {
            json!({
                "anon_fault_alloc": n, "anon_fault_fallback_vma": 3, "cow_reuse_run": 0, "cow_copy_run": 0,
                "split": 0, "split_partly_mapped": 0, "untouched_pages": 5,
            })
        };
        let bill = json!({
            "folios": {"policy": "auto", "64K": counters(1000), "2M": counters(1)}, "pages_per_touched": 1.04,
        });
        let text = render_text(&bill);
        let expected = "
  folios                 policy auto
    64K                  anon fault alloc 1 000, anon fault fallback vma 3, untouched pages 5
    2M                   anon fault alloc 1, anon fault fallback vma 3, untouched pages 5
  pages per touched page 1.04
";
        assert!(text.ends_with(expected), "{text}");
    }

    #[test]
    fn times_have_units() {
        let bill = json!({
            "lock_waits": {"mmap_waits": 3, "mmap_ns": 1_234_567},
            "fault_latency": {"p50_ns": 999, "p99_ns": 12_345, "max_ns": 2_500_000_000_u64},
        });
        let text = render_text(&bill);
        for expected in
            ["waits for locks        mmap waits 3, mmap 1.2 ms", "p50 999 ns, p99 12.3 µs, max 2.50 s"]
        {
            assert!(text.contains(expected), "{expected} in\n{text}");
        }
    }

    #[test]
    fn wrong_books_are_said_aloud() {
        let leak = json!({"frames_leaked": 3, "validate": "ok"});
        assert_eq!(complaint(&leak).unwrap(), "3 frames leaked");
        let wrong = json!({"frames_leaked": 0, "validate": "mapcount of pfn 7"});
        assert!(complaint(&wrong).unwrap().contains("mapcount of pfn 7"));
        assert!(render_text(&wrong).contains("WRONG: mapcount of pfn 7"));
    }
}

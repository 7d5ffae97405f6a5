//! The memory bill as JSON.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write;

/// Counters by name.
pub type Counters = Vec<(&'static str, u64)>;

/// What a run cost, as the command line is told.
#[derive(Clone, Debug, Default)]
pub struct Bill {
    /// Numbers at the top level, by name, in order.
    pub numbers: Vec<(&'static str, u64)>,
    /// The lock mode.
    pub lock_mode: String,
    /// The reverse map.
    pub reverse_map: String,
    /// Faults of each kind.
    pub faults_by_kind: Vec<(&'static str, u64)>,
    /// Faults that each CPU took.
    pub faults_by_cpu: Vec<u64>,
    /// Groups of counters: translation flushes, swap, reclaim, locks.
    pub groups: Vec<(&'static str, Counters)>,
    /// The sizes of folios that faults took, in words.
    pub folio_policy: String,
    /// Counters for each size of folio in use.
    pub folios: Vec<Folios>,
    /// Anonymous pages that programs got, and those that they touched, if that is known.
    pub touched: Option<(u64, u64)>,
    /// Bytes that were to be compressed, and what was kept of them.
    pub compression: Option<(u64, u64)>,
    /// `ok`, or the first violation that the check found.
    pub validate: String,
    /// System calls that this kernel does not have: `name(number)`.
    pub unknown_syscalls: Vec<String>,
}

/// Counters of one size of folio.
#[derive(Clone, Debug, Default)]
pub struct Folios {
    /// The size.
    pub size: String,
    /// Counters, by name.
    pub counters: Vec<(&'static str, u64)>,
}

impl Bill {
    /// Gives the JSON text.
    pub fn json(&self) -> String {
        let mut out = String::from("{\"version\":1");
        text(&mut out, "lock_mode", &self.lock_mode);
        text(&mut out, "reverse_map", &self.reverse_map);
        for &(name, value) in &self.numbers {
            let _ = write!(out, ",\"{name}\":{value}");
        }
        let total: u64 = self.faults_by_cpu.iter().sum();
        let cpus: Vec<String> = self.faults_by_cpu.iter().map(|n| format!("{n}")).collect();
        let _ = write!(
            out,
            ",\"faults\":{{\"total\":{total},\"by_kind\":{},\"by_cpu\":[{}]}}",
            object(&self.faults_by_kind),
            cpus.join(",")
        );
        for (name, group) in &self.groups {
            let _ = write!(out, ",\"{name}\":{}", object(group));
        }
        let _ = write!(out, ",\"folios\":{{\"policy\":");
        string(&mut out, &self.folio_policy);
        for folios in &self.folios {
            let _ = write!(out, ",\"{}\":{}", folios.size, object(&folios.counters));
        }
        out.push('}');
        ratio(&mut out, "pages_per_touched", self.touched);
        ratio(&mut out, "compression_ratio", self.compression);
        text(&mut out, "validate", &self.validate);
        out.push_str(",\"unknown_syscalls\":[");
        for (i, name) in self.unknown_syscalls.iter().enumerate() {
            out.push_str(if i == 0 { "" } else { "," });
            string(&mut out, name);
        }
        out.push_str("]}");
        out
    }
}

/// Adds a quotient in hundredths, if it is known.
fn ratio(out: &mut String, name: &str, of: Option<(u64, u64)>) {
    if let Some((from, to)) = of {
        let hundredths = from * 100 / to.max(1);
        let _ = write!(out, ",\"{name}\":{}.{:02}", hundredths / 100, hundredths % 100);
    }
}

fn object(pairs: &[(&str, u64)]) -> String {
    let fields: Vec<String> = pairs.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
    format!("{{{}}}", fields.join(","))
}

fn text(out: &mut String, name: &str, value: &str) {
    let _ = write!(out, ",\"{name}\":");
    string(out, value);
}

/// Gives a string as JSON has it.
pub fn quoted(value: &str) -> String {
    let mut out = String::new();
    string(&mut out, value);
    out
}

fn string(out: &mut String, value: &str) {
    out.push('"');
    for c in value.chars() {
        match c {
            '"' | '\\' => {
                out.push('\\');
                out.push(c);
            }
            c if (c as u32) < 0x20 => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bill_is_json_even_with_odd_strings() {
        let bill = Bill {
            numbers: [("cpus", 2)].into(),
            lock_mode: "mmap".into(),
            reverse_map: "family".into(),
            faults_by_kind: [("anon", 3), ("segv", 0)].into(),
            faults_by_cpu: [1, 2].into(),
            groups: [("tlb", [("ipis", 1)].into())].into(),
            folio_policy: "auto".into(),
            folios: [Folios { size: "64K".into(), counters: [("split", 1)].into() }].into(),
            touched: Some((110, 100)),
            compression: Some((4096, 3000)),
            validate: "a \"bad\"\nline".into(),
            unknown_syscalls: ["keyctl(250)".into(), "x(999)".into()].into(),
        };
        assert_eq!(
            bill.json(),
            "{\"version\":1,\"lock_mode\":\"mmap\",\"reverse_map\":\"family\",\"cpus\":2,\"faults\":{\"total\":3,\"by_kind\":{\"anon\":3,\"segv\":0},\
             \"by_cpu\":[1,2]},\"tlb\":{\"ipis\":1},\"folios\":{\"policy\":\"auto\",\"64K\":{\"split\":1}},\
             \"pages_per_touched\":1.10,\"compression_ratio\":1.36,\"validate\":\"a \\\"bad\\\"\\u000aline\",\
             \"unknown_syscalls\":[\"keyctl(250)\",\"x(999)\"]}"
        );
    }
}

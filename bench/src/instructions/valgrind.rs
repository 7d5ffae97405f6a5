//! Running a case under callgrind.

use super::{
    Table,
    cases::{Bytes, CASES, Case},
};
use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Where callgrind collects.
const WHERE: &str = "*instructions::counted*";

/// What the C library must not use: it chooses among its copying and zeroing functions by the processor's
/// features, and the count would depend on the processor. What is left is what every x86-64 has.
const BASELINE: &str = "glibc.cpu.hwcaps=-AVX512F,-AVX512VL,-AVX512BW,-AVX2,-AVX,-AVX2_Usable,-AVX_Usable,\
                        -AVX_Fast_Unaligned_Load,-ERMS,-FSRM,-SSSE3,-SSE4_1,-SSE4_2,-POPCNT,-BMI1,-BMI2,\
                        -LZCNT,-MOVBE,-Fast_Rep_String,-Fast_Unaligned_Copy,-Prefer_ERMS,-Prefer_FSRM";

/// Counts all cases, two at a time.
///
/// # Errors
/// If valgrind is missing or a case fails; the message says what to do.
pub fn measure() -> io::Result<Table> {
    let lane = |first: usize| CASES.iter().skip(first).step_by(2).map(count).collect::<io::Result<Vec<_>>>();
    let (even, odd) = std::thread::scope(|s| {
        let odd = s.spawn(|| lane(1));
        (lane(0), odd.join())
    });
    let odd = odd.map_err(|_| io::Error::other("a counting thread panicked"))??;
    let raw: Vec<_> = even?.into_iter().chain(odd).collect();
    let of = |name: &str| raw.iter().find(|(n, _)| *n == name).map_or(0.0, |(_, count)| *count);
    let (zero, copy) = (of("zero"), of("copy"));
    let rows = CASES.iter().map(|case| {
        let bytes = match case.bytes {
            Bytes::Untouched => 0.0,
            Bytes::Zeroed => zero,
            Bytes::Copied => copy,
        };
        (case.name.to_string(), of(case.name) - bytes)
    });
    Ok(Table { rustc: env!("ANONMEM_RUSTC").into(), rows: rows.collect() })
}

/// Instructions per unit of one case, all included.
fn count(case: &Case) -> io::Result<(&'static str, f64)> {
    let out = profile_path(case.name);
    let units = run(case.name, &out)?;
    let text = fs::read_to_string(&out)?;
    let total = summary(&text).ok_or_else(|| {
        io::Error::other(format!("callgrind counted nothing in {}: {}", case.name, out.display()))
    })?;
    Ok((case.name, total / units))
}

/// Where the profile of a case is left, for `callgrind_annotate`.
pub fn profile_path(case: &str) -> PathBuf {
    let exe = std::env::current_exe().unwrap_or_default();
    exe.parent().unwrap_or(Path::new(".")).join(format!("callgrind.{case}.out"))
}

fn run(case: &str, out: &Path) -> io::Result<f64> {
    let mut command = Command::new("valgrind");
    command
        .args(["--quiet", "--tool=callgrind", "--collect-atstart=no", "--dump-instr=no"])
        .arg(format!("--toggle-collect={WHERE}"))
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(std::env::current_exe()?)
        .args(["run", case])
        .env("GLIBC_TUNABLES", BASELINE)
        .stderr(Stdio::piped());
    let output = command.output().map_err(|e| {
        io::Error::new(e.kind(), format!("cannot start valgrind: {e}; install it (make deps does)"))
    })?;
    let said = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        return Err(io::Error::other(format!("case {case} failed under valgrind: {why}")));
    }
    said.trim().parse().map_err(|_| io::Error::other(format!("case {case} said {said:?}, not its units")))
}

/// The instructions in a profile.
fn summary(profile: &str) -> Option<f64> {
    let line = profile.lines().find(|line| line.starts_with("summary:") || line.starts_with("totals:"))?;
    line.split_whitespace().nth(1)?.parse().ok().filter(|n| *n > 0.0)
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_profile_has_a_sum() {
        assert_eq!(super::summary("version: 1\nsummary: 1234\nfn=(1) x\n"), Some(1234.0));
        assert_eq!(super::summary("summary: 0\n"), None);
    }
}

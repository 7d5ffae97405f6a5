//! The checks of `anonmem conform` on the host, where all must hold, and in the microVM, where they must,
//! too.

mod common;

use std::collections::BTreeMap;
use std::process::Output;

use common::{Linked, Vm, anonmem, compile, host_runs, vm_is_there};
use serde_json::Value;

fn conform(options: &[&str]) -> Output {
    anonmem().arg("conform").args(options).output().unwrap()
}

/// What was found, as JSON; everything is shown if a check failed.
fn all_hold(options: &[&str]) -> Value {
    let output = conform(&[options, &["--json"]].concat());
    let text = String::from_utf8_lossy(&output.stdout);
    let found: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {output:?}"));
    let mut failed: Vec<_> =
        found["checks"].as_array().unwrap().iter().filter(|check| check["outcome"] == "failed").collect();
    let expected = if failed.is_empty() { 0 } else { 1 };
    // Others use the host, and its sweeps and reclaim are everybody's: what fails there is asked once more.
    if options == ["--host"] {
        failed.retain(|check| !holds_by_itself(check));
    }
    assert!(failed.is_empty(), "{options:?}: {failed:#?}");
    assert_eq!(
        (&found["complete"], output.status.code()),
        (&Value::Bool(true), Some(expected)),
        "{options:?}"
    );
    found
}

fn holds_by_itself(check: &Value) -> bool {
    eprintln!("asked again: {check:#}");
    conform(&["--host", check["name"].as_str().unwrap()]).status.success()
}

/// Newer kernels change what a few checks ask: Linux 6.18 is the one that they were written on.
fn host_is_the_oracle() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let is_known = release.starts_with("6.18.");
    if !is_known {
        eprintln!("skipped: the checks were written on Linux 6.18, and this is {}", release.trim());
    }
    is_known
}

#[test]
fn linux_does_what_linux_does() {
    if host_is_the_oracle() {
        let found = all_hold(&["--host"]);
        assert!(found["ok"].as_u64().unwrap() >= 400, "{}", found["ok"]);
    }
}

#[test]
fn the_microvm_does_what_linux_does() {
    if vm_is_there() {
        // Every lock mode and every size, each at least once; the first three are the default size.
        for (lock, folios) in [
            ("mmap", "auto"),
            ("vma", "auto"),
            ("speculative", "auto"),
            ("vma", "4K"),
            ("speculative", "64K"),
            ("mmap", "2M"),
        ] {
            let found = all_hold(&["--run", "--lock", lock, "--folios", folios]);
            // What Linux need not be built with is there.
            let is_absent = |check: &&Value| check["outcome"] == "absent";
            let is_ours = |check: &&Value| {
                let name = check["name"].as_str().unwrap();
                name.contains("soft-dirty") || name.starts_with("ksm/")
            };
            let missing: Vec<_> =
                found["checks"].as_array().unwrap().iter().filter(is_absent).filter(is_ours).collect();
            assert!(missing.is_empty(), "{lock}, {folios}: {missing:#?}");
            assert!(found["ok"].as_u64().unwrap() >= 681, "{lock}, {folios}: {}", found["ok"]);
        }
    }
}

/// Where it is, what it has, what its calls give; and moved, patched, unmapped.
#[test]
fn the_vdso_is_what_it_is_on_linux() {
    let program = compile("vdso", Linked::Dynamic);
    let expected = host_runs(&[&program]);
    if vm_is_there() {
        for cpus in ["1", "4"] {
            let ran = Vm::new().options(&["--cpus", cpus]).run(&[&program]).expect_status(0);
            assert_eq!(ran.stdout, expected, "{cpus} CPUs");
        }
    }
}

#[test]
fn pages_that_swap_do_what_linux_does() {
    if vm_is_there() {
        let found = all_hold(&["--run", "--swap", "64M", "madvise"]);
        assert!(found["ok"].as_u64().unwrap() >= 190, "{}", found["ok"]);
    }
}

#[test]
fn a_command_runs_the_checks() {
    let output = conform(&["--cmd", "echo booting; {}", "brk/of 0"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!((text.trim(), output.status.code()), ("1 checks: 1 as on Linux, 0 not, 0 absent", Some(0)));
    let output = conform(&["--cmd", "true {}", "--junit", "brk"]);
    assert_eq!(output.status.code(), Some(70), "no check ran: {output:?}");
    let output = conform(&["--cmd", "no-such-runner {}", "brk"]);
    let text = String::from_utf8_lossy(&output.stdout);
    let said = "0 checks: 0 as on Linux, 0 not, 0 absent; what was to run them ended before the first check";
    assert_eq!((text.trim(), output.status.code()), (said, Some(70)), "no runner: {output:?}");
    let output = conform(&["--cmd", "{}", "brk", "no such check"]);
    assert_eq!(output.status.code(), Some(2), "no check has these words: {output:?}");
    let output = conform(&["--cmd", "{} | head -2", "brk"]);
    assert_eq!(output.status.code(), Some(70), "it ended before its end: {output:?}");
}

/// docs/conformance.md has a row for each group, with the number of its checks.
#[test]
fn the_table_of_the_documents_is_true() {
    let document = include_str!("../../docs/conformance.md");
    let list = conform(&["--list", "--json"]);
    let list: Value = serde_json::from_slice(&list.stdout).unwrap();
    let mut groups: BTreeMap<String, usize> = BTreeMap::new();
    for check in list["checks"].as_array().unwrap() {
        let group = check["name"].as_str().unwrap().split('/').next().unwrap();
        *groups.entry(group.to_string()).or_default() += 1;
    }
    for (group, count) in groups {
        assert!(document.contains(&format!("\n| {group} | {count} | ")), "{group} has {count} checks");
    }
}

//! `anonmem bench --guest`: the microVM measured from inside, and what is said when it cannot be.
//!
//! The other side, a Linux kernel, is not in the repository: its part is tested beside the code.

mod common;

use std::os::unix::fs::PermissionsExt;

use common::{anonmem, vm_is_there};
use serde_json::Value;

/// Whether the bench came to its end. 3 says that the machine was too busy for its times to be believed; they
/// are not what is tested here.
fn is_measured(output: &std::process::Output) -> bool {
    matches!(output.status.code(), Some(0 | 3))
}

#[test]
fn the_microvm_measures_every_kind_by_processes_and_threads() {
    if !vm_is_there() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (json, csv) = (dir.path().join("json"), dir.path().join("csv"));
    let mut command = anonmem();
    command.args(["bench", "--guest", "--runs", "1", "--seconds", "0.02", "--accel", "tcg", "--ram", "64M"]);
    let output = command.arg("--json").arg(&json).arg("--csv").arg(&csv).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(is_measured(&output), "{stderr}");
    let document: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    let rows = document["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 5 * 2 * 2);
    for row in rows {
        assert!(row["ours"]["median"].as_f64().unwrap() > 0.0, "{row}");
        assert_eq!(row["cannot"], Value::Array(Vec::new()), "{row}");
        let instructions = row["ours_instructions"].as_f64();
        assert_eq!(instructions.is_some(), row["tasks"] == 1, "{row}");
        // Less cannot be: a system call or an exception and what it is for; more would be a disaster.
        assert!(instructions.is_none_or(|n| (50.0..2e6).contains(&n)), "{row}");
    }
    assert_eq!(std::fs::read_to_string(&csv).unwrap().lines().count(), 1 + rows.len());
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(table.contains("page_fault1.threads.2") && !table.contains("Linux's"), "{table}");
}

#[test]
fn one_cpu_and_every_lock_mode_are_measured() {
    if !vm_is_there() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("json");
    for lock in ["mmap", "vma", "speculative"] {
        let mut command = anonmem();
        command.args(["bench", "--guest", "page_fault1", "--runs", "1", "--seconds", "0.01"]);
        command
            .args(["--accel", "tcg", "--ram", "64M", "--cpus", "1", "--lock", lock])
            .arg("--json")
            .arg(&json);
        let output = command.output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(is_measured(&output), "{lock}: {stderr}");
        let table = String::from_utf8(output.stdout).unwrap();
        assert!(table.contains(&format!("lock mode {lock}")), "{table}");
        let document: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
        assert_eq!(document["ours"]["arguments"], format!("lock={lock} rmap=anon_vma folios=4K"));
        let rows = document["rows"].as_array().unwrap();
        assert_eq!(rows.len(), 2, "processes and threads, one task each");
        assert!(rows.iter().all(|row| row["ours_instructions"].as_f64().is_some()), "{table}");
    }
}

/// A fault that brings sixteen pages costs a page far less, if the program has not forbidden them.
#[test]
fn folios_are_taken_that_are_asked_for() {
    if !vm_is_there() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("json");
    let mut took = Vec::new();
    for folios in ["4K", "64K"] {
        let mut command = anonmem();
        command.args([
            "bench",
            "--guest",
            "page_fault1",
            "--runs",
            "1",
            "--seconds",
            "0.01",
            "--accel",
            "tcg",
        ]);
        command.args(["--ram", "64M", "--cpus", "1", "--guest-folios", folios]).arg("--json").arg(&json);
        let output = command.output().unwrap();
        assert!(is_measured(&output), "{folios}: {}", String::from_utf8_lossy(&output.stderr));
        let document: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
        assert_eq!(document["ours"]["arguments"], format!("lock=mmap rmap=anon_vma folios={folios}"));
        took.push(document["rows"][0]["ours_instructions"].as_f64().unwrap());
    }
    assert!(took[1] < 0.7 * took[0], "instructions a page: {took:?}");
}

#[test]
fn what_cannot_be_measured_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let text = dir.path().join("text");
    std::fs::write(&text, "no kernel").unwrap();
    let fails = |arguments: &[&str], status: i32| {
        let mut command = anonmem();
        command.args(["bench", "--guest"]).args(arguments).env("ANONMEM_KERNEL", &text);
        let output = command.output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(status), "{arguments:?}: {stderr}");
        stderr
    };
    assert!(fails(&["nonsense"], 2).contains("--list"));
    assert!(fails(&["--svg", "x"], 2).contains("--json"));
    assert!(fails(&["--against", "none"], 2).contains("--kernel"));
    assert!(fails(&["--kernel", "/no/vmlinuz"], 2).contains("/boot"));
    assert!(fails(&["--kernel", text.to_str().unwrap()], 2).contains("bzImage"));
    assert!(fails(&["--ram", "8M", "--cpus", "8", "--qemu", text.to_str().unwrap()], 2).contains("--ram"));
    let qemu = dir.path().join("qemu");
    std::fs::write(&qemu, "#!/bin/sh\necho 'this QEMU knows no machines' >&2\nexit 1\n").unwrap();
    std::fs::set_permissions(&qemu, std::fs::Permissions::from_mode(0o755)).unwrap();
    let said = fails(&["--accel", "tcg", "--qemu", qemu.to_str().unwrap()], 70);
    assert!(said.contains("the microVM died") && said.contains("  | this QEMU knows no machines"), "{said}");
}

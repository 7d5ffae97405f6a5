//! Terminals: groups, sessions and stops; pseudo-terminals; the command's own terminal.
//!
//! Skipped with a line where the kernel or QEMU is missing; `make test` insists on both.

mod common;

use common::same_table_as_host;

/// Who may join which group, what stops and goes on, and what becomes of a stopped group without a shell.
#[test]
fn groups_sessions_and_stops_are_as_on_linux() {
    for cpus in ["1", "4"] {
        same_table_as_host("groups", &["--cpus", cpus]);
    }
}

/// Doors, settings, editing, raw reads, sizes, and what is refused.
#[test]
fn pseudo_terminals_are_as_on_linux() {
    for cpus in ["1", "4"] {
        same_table_as_host("pty", &["--cpus", cpus]);
    }
}

/// Whose terminal it is, who is stopped for reading or writing, characters that are signals, hanging up.
#[test]
fn jobs_are_controlled_as_on_linux() {
    for cpus in ["1", "4"] {
        same_table_as_host("jobs", &["--cpus", cpus]);
    }
}

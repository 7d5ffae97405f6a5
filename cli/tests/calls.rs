//! System calls beside those of memory, whose tables must be the host's.
//!
//! Skipped with a line where the kernel or QEMU is missing; `make test` insists on both.

mod common;

use common::{Vm, host_runs, same_table_as_host, vm_is_there};

/// PR_SET_MDWE: what is refused, and who inherits it.
#[test]
fn memory_that_was_writable_does_not_become_executable_once_that_was_said() {
    same_table_as_host("mdwe", &[]);
}

/// All 64 sets of seals, and mappings that are in the way of one.
#[test]
fn files_of_memory_are_sealed_as_on_linux() {
    for lock in ["mmap", "speculative"] {
        same_table_as_host("seals", &["--lock", lock]);
    }
}

/// Segments: found, mapped, split, inherited, removed while they are mapped; and semaphores.
#[test]
fn shared_memory_and_semaphores_of_system_v_are_as_on_linux() {
    for cpus in ["1", "4"] {
        same_table_as_host("sysvshm", &["--cpus", cpus]);
        same_table_as_host("sysvsem", &["--cpus", cpus]);
    }
}

/// Unix streams, datagrams and packets by path and by name; TCP and UDP; descriptors that go along.
#[test]
fn sockets_lead_where_they_lead_on_linux() {
    for cpus in ["1", "4"] {
        same_table_as_host("sockets", &["--cpus", cpus]);
    }
}

/// Messages that are looked at, lost, refused and signed.
#[test]
fn messages_are_looked_at_lost_and_signed_as_on_linux() {
    for cpus in ["1", "4"] {
        same_table_as_host("messages", &["--cpus", cpus]);
    }
}

/// Sockets that nobody can receive go, and what can be received stays.
#[test]
fn sockets_that_nobody_can_receive_go_as_on_linux() {
    for cpus in ["1", "4"] {
        same_table_as_host("cycles", &["--cpus", cpus]);
    }
}

/// Two threads that want one socket or pipe; control data without a place; datagrams that nobody hears.
#[test]
fn who_comes_second_is_refused_as_on_linux() {
    for cpus in ["1", "4"] {
        same_table_as_host("claims", &["--cpus", cpus]);
    }
}

/// What a record tells, who is asked, who is woken, what is inherited.
#[test]
fn signals_are_read_by_descriptor_as_on_linux() {
    for cpus in ["1", "4"] {
        same_table_as_host("signalfd", &["--cpus", cpus]);
    }
}

/// What counts as an edge, of pipes, sockets, counters, timers and signals.
#[test]
fn edges_are_told_as_on_linux() {
    for cpus in ["1", "4"] {
        same_table_as_host("edges", &["--cpus", cpus]);
    }
}

/// Asleep, stopped, asleep again, and who looks at itself.
#[test]
fn a_process_is_shown_as_what_it_does() {
    let script = "sleep 60 & sleep 1; says() { busybox cut -d' ' -f3 /proc/$1/stat; busybox grep State /proc/$1/status; }; \
                  says $!; kill -STOP $!; sleep 1; says $!; kill -CONT $!; sleep 1; says $!; kill -9 $!; says self";
    let command = ["busybox", "sh", "-c", script];
    let expected = host_runs(&command);
    assert_eq!(expected.matches("S (sleeping)").count(), 2, "{expected}");
    if vm_is_there() {
        for cpus in ["1", "4"] {
            let ran = Vm::new().options(&["--cpus", cpus]).run(&command).expect_status(0);
            assert_eq!(ran.stdout, expected, "{cpus} CPUs: {}", ran.stderr);
        }
    }
}

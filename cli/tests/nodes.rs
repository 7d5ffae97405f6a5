//! Nodes of memory in the microVM: policies, and pages that move between nodes.

mod common;

use std::path::Path;

use common::{Linked, Vm, compile, host_runs, vm_is_there};

/// The host is asked first, if it has one node, too.
#[test]
fn on_one_node_the_calls_say_what_linux_says() {
    if !vm_is_there() {
        return;
    }
    let program = compile("nodes", Linked::Static);
    let ran = Vm::new().run(&[&program]).expect_status(0);
    assert!(ran.stdout.ends_with("nodes: ok\n"), "{}", ran.stdout);
    let online = std::fs::read_to_string("/sys/devices/system/node/online");
    if online.is_ok_and(|text| text == "0\n") && Path::new("/proc/self/numa_maps").exists() {
        let host = host_runs(&[&program]);
        for (ours, theirs) in ran.stdout.lines().zip(host.lines()) {
            assert_eq!(ours, theirs);
        }
        assert_eq!(ran.stdout.len(), host.len());
    } else {
        eprintln!("skipped on the host: it has several nodes, or tells nothing of them");
    }
}

#[test]
fn on_two_nodes_pages_lie_where_they_are_wanted_and_move() {
    if !vm_is_there() {
        return;
    }
    let program = compile("twonodes", Linked::Static);
    for folios in ["4K", "auto"] {
        let options = ["--nodes", "2", "--cpus", "2", "--folios", folios];
        let ran = Vm::new().options(&options).run(&[&program]).expect_status(0);
        assert_eq!(ran.stdout, "twonodes: ok\n", "{}", ran.stderr);
    }
}

/// Node 1 is full for those who may not leave it: their pages leave, or they end. Node 0 notices nothing.
#[test]
fn a_full_node_costs_those_nothing_who_have_their_memory_on_another() {
    if !vm_is_there() {
        return;
    }
    let program = compile("bound", Linked::Static);
    let program = program.to_str().unwrap();
    for cpus in ["1", "2"] {
        let options = ["--nodes", "2", "--cpus", cpus, "--ram", "256M"];
        let with_swap = [&options[..], &["--swap", "256M"]].concat();
        for (options, argument) in [(&with_swap[..], "swap"), (&options[..], "none")] {
            let ran = Vm::new().options(options).run(&[program, argument]).expect_status(0);
            assert_eq!(ran.stdout, "bound: ok\n", "{} CPUs, {argument}: {}", cpus, ran.stderr);
            let kills = if argument == "none" { 1 } else { 0 };
            assert_eq!(ran.bill["oom_kills"], kills, "{cpus} CPUs, {argument}: {}", ran.stderr);
        }
    }
}

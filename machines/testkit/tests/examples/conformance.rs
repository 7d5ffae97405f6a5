//! The machine of the examples, checked as anybody's.

use anonmem::{Config, LockMode, Vm};
use anonmem_testkit::{VecMachine, checks, property};

#[test]
fn the_machine_of_the_examples_keeps_its_promises() {
    let vm = Vm::new(VecMachine::new(4_096), Config::default()).unwrap();
    vm.swap_on(0, 1_024, 0).unwrap();
    let mut not_tried = Vec::new();
    let report = checks::check(&vm, vm.machine(), &mut |check, verdict| match verdict {
        checks::Verdict::Kept => {}
        checks::Verdict::NotTried(_) => not_tried.push(check.name),
        checks::Verdict::Broken(broken) => panic!("{}: {broken}", check.name),
    });
    assert_eq!(not_tried, ["fill: the bytes of the source", "fill: past the end"], "it has no sources");
    assert_eq!(report.kept + report.not_tried, checks::all::<VecMachine>().len());
}

#[test]
fn random_operations_of_four_threads_do_what_the_model_says() {
    for (seed, lock_mode) in [(1, LockMode::Mmap), (2, LockMode::Vma), (3, LockMode::Speculative)] {
        let vm = Vm::new(VecMachine::new(4_096), Config { lock_mode, ..Config::default() }).unwrap();
        vm.swap_on(0, 1_024, 0).unwrap();
        property::play(&vm, vm.machine(), seed, 4_000).unwrap();
    }
}

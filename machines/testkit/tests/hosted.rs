//! The hosted machine, checked as anybody's; and machines with a bug each, of which one check says so.

mod common;

use anonmem::{LockMode, Vm};
use anonmem_testkit::{checks, property};
use common::{Bug, Planted, plant};

/// Planted machines, and the check that finds each. The first check that fails decides: what a broken machine
/// does after that proves nothing.
const PLANTED: [(Bug, &str); 24] = [
    (Bug::FlushDoesNothing, "flush: this CPU, one page"),
    (Bug::FlushForgetsOthers, "flush: other CPUs"),
    (Bug::FlushForgetsTheLastPage, "flush: this CPU, one page"),
    (Bug::FlushComesLater, "flush: this CPU, one page"),
    (Bug::WakeUpIsLost, "park, unpark: no wake-up is lost"),
    (Bug::WakeUpIsForOne, "park, unpark: a wake-up for each"),
    (Bug::DirectMapMoves, "direct_map: one run, at the same place"),
    (Bug::DirectMapIsACpus, "direct_map: one run, at the same place"),
    (Bug::ZeroesOneFrame, "zero: all of a block, and no more"),
    (Bug::CopiesOneFrame, "copy: all of a block, and no more"),
    (Bug::CopiesTooMuch, "copy: all of a block, and no more"),
    (Bug::WritesAtTheStart, "read_bytes, write_bytes: these bytes and no others"),
    (Bug::LooksAtOneWord, "is_zero: never true of a page with a bit set"),
    (Bug::ComparesAHalf, "same_bytes, hash_page: equal where the bytes are"),
    (Bug::HashesTheFrameNumber, "same_bytes, hash_page: equal where the bytes are"),
    (Bug::ClockGoesBack, "now_ns: never back"),
    (Bug::OneCpuForAll, "current_cpu: no two tasks at once"),
    (Bug::WaitsTwice, "contended: runs its wait once"),
    (Bug::NeverWaits, "contended: runs its wait once"),
    (Bug::SpinsForEver, "optimistic_spin: comes to an end"),
    (Bug::SlotsShareAPage, "swap_write, swap_read: each slot its page"),
    (Bug::FillsTheFirstPage, "fill: the bytes of the source"),
    (Bug::RootIsNotEmpty, "init_root: the user half is empty"),
    (Bug::NeverActivates, "activate: flushes reach this CPU"),
];

/// Checks that no machine above is the first to fail, and one that each of them says is broken.
const ALONE: [(Bug, &str); 19] = [
    (Bug::FirstFrameIsNone, "base_pfn, nr_frames: frames that exist"),
    (Bug::MemmapIsOdd, "memmap: aligned to 64"),
    (Bug::CpusComeAndGo, "current_cpu: below nr_cpus, below Cpus::MAX"),
    (Bug::OneListForAll, "with_held_locks: a list for each task"),
    (Bug::GivesUpAlways, "park: returns when there is nothing to wait for"),
    (Bug::FlushDoesNothing, "flush: this CPU, many pages"),
    (Bug::FlushDoesNothing, "flush: after fork"),
    (Bug::LoadsKeepTheirTranslation, "flush: a page that was copied"),
    (Bug::WalksOldTables, "flush: tables that were freed"),
    (Bug::FlushForgetsOthers, "flush: other CPUs, after fork"),
    (Bug::WalksOldTables, "flush: other CPUs, tables that were freed"),
    (Bug::FlushForgetsOthers, "flush: over when it returns"),
    (Bug::FlushDoesNothing, "flush: from two CPUs at each other"),
    (Bug::KeepsWhatDenies, "flush_local: drops what denies"),
    (Bug::KeepsTheAddressSpace, "deactivate: an address space ends"),
    (Bug::StoresAreClean, "a store sets the dirty bit"),
    (Bug::SlotsShareAPage, "swap: a page of two programs"),
    (Bug::FillsBeyondTheEnd, "fill: past the end"),
    (Bug::DirectMapMoves, "direct_map: still at the same place"),
];

/// Whether the check of that name says that the machine is broken.
fn is_broken(vm: &'static Vm<Planted>, name: &str) -> bool {
    let all = checks::all::<Planted>();
    let check = all.iter().find(|check| check.name == name).expect("a check");
    matches!(check.run(vm, vm.machine()), checks::Verdict::Broken(_))
}

/// What `ask` says of a machine with a bug.
fn with_bug<R: Send>(bug: Bug, ask: impl FnOnce(&'static Vm<Planted>) -> R + Send) -> R {
    plant(Bug::None);
    let vm = Planted::start(8_192, LockMode::Mmap);
    vm.machine().on_cpu(0, || {
        plant(bug);
        let found = ask(vm);
        plant(Bug::None);
        found
    })
}

/// The name of the first check that says that the machine is broken.
fn first_broken(vm: &'static Vm<Planted>) -> Option<&'static str> {
    let all = checks::all::<Planted>();
    let broken = all.iter().find(|check| matches!(check.run(vm, vm.machine()), checks::Verdict::Broken(_)));
    broken.map(|check| check.name)
}

/// One test, because the bug is a static.
#[test]
fn the_hosted_machine_keeps_its_promises_and_one_with_a_bug_does_not() {
    for mode in [LockMode::Mmap, LockMode::Vma, LockMode::Speculative] {
        plant(Bug::None);
        let vm = Planted::start(8_192, mode);
        vm.machine().on_cpu(0, || {
            let report = checks::check(vm, vm.machine(), &mut |check, verdict| {
                assert_eq!(*verdict, checks::Verdict::Kept, "{}", check.name);
            });
            assert_eq!(report.kept, checks::all::<Planted>().len());
            for seed in 1..4 {
                if let Err(broken) = property::play(vm, vm.machine(), seed, 3_000) {
                    panic!("{mode:?}, seed {seed}: {broken}");
                }
            }
        });
    }
    for (bug, name) in PLANTED {
        assert_eq!(with_bug(bug, first_broken), Some(name), "{bug:?}");
    }
    for (bug, name) in ALONE {
        assert!(with_bug(bug, |vm| is_broken(vm, name)), "{bug:?}, {name}");
    }
    for check in checks::all::<Planted>() {
        let fails = PLANTED.iter().chain(&ALONE).any(|(_, name)| *name == check.name);
        assert!(fails, "no planted machine fails {}", check.name);
    }
}

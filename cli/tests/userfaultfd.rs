//! The table of userfaultfd's errors, row by row beside the host's Linux; and where we differ on purpose.

mod common;

use common::{Linked, Vm, compile, host_runs, vm_is_there};

/// The rows that one call shows are in `uffd_errors` (`microvm.rs`), pinned and shared pages in `uffd_pinned`
/// (`disks.rs`), and who may have a userfaultfd in `uffd_door`. These are the others.
#[test]
fn every_other_row_of_the_table_of_errors_is_as_on_linux() {
    if !vm_is_there() {
        return;
    }
    let program = compile("uffd_rows", Linked::Static);
    let expected = host_runs(&[&program]);
    for lock in ["mmap", "vma", "speculative"] {
        let options = ["--cpus", "2", "--lock", lock];
        let ran = Vm::new().options(&options).run(&[program.as_os_str()]).expect_status(0);
        let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(lines(&ran.stdout), lines(&expected), "{lock}: {}", ran.stderr);
    }
}

/// What Linux prints; a line here that it does not share says why.
const LINUX: [&str; 4] = [
    // One counter for all changes: whoever fills elsewhere has to wait, too.
    "a fill elsewhere while a removal is unread            11    -11",
    "a fill of what is being removed                       11    -11",
    // Faults are read before events, so that a page may be filled with what it held before it was dropped.
    "a removal, and then a fault: first                   fault",
    "  second                                             remove",
];
const HERE: [&str; 6] = [
    // Only a change of the same range keeps a fill waiting.
    "a fill elsewhere while a removal is unread             0   4096",
    "a fill of what is being removed                       11    -11",
    // In the order in which they came.
    "a removal, and then a fault: first                   remove",
    "  second                                             fault",
    // Fills go on when the pages have been dropped, not when that was read.
    "what was filled when the removal was read is there     1",
    // Whatever it waits for, it is woken.
    "who waited for protection that has ended wrote         9",
];

#[test]
fn the_traps_are_mended_and_where_that_shows() {
    if !vm_is_there() {
        return;
    }
    let program = compile("uffd_traps", Linked::Static);
    assert_eq!(host_runs(&[&program]).lines().collect::<Vec<_>>(), LINUX);
    for lock in ["mmap", "vma", "speculative"] {
        let options = ["--cpus", "4", "--lock", lock];
        let command = [program.as_os_str(), "here".as_ref()];
        let ran = Vm::new().options(&options).run(&command).expect_status(0);
        assert_eq!(ran.stdout.lines().collect::<Vec<_>>(), HERE, "{lock}: {}", ran.stderr);
    }
}

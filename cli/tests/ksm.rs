//! Equal pages of many processes become one in the microVM, and a write parts them; the host is asked first.

mod common;

use common::{Linked, Vm, compile, host_lets_write, host_runs, vm_is_there};
use std::{
    ffi::OsStr,
    sync::{Mutex, PoisonError},
};

/// What the program says on the host, if that lets KSM be switched on. One test at a time: each changes the
/// host's settings, and puts back what it found.
fn host_says<S: AsRef<OsStr>>(program: &[S]) -> Option<String> {
    static HOST: Mutex<()> = Mutex::new(());
    let _alone = HOST.lock().unwrap_or_else(PoisonError::into_inner);
    host_lets_write("/sys/kernel/mm/ksm/run").then(|| host_runs(program))
}

/// The host's settings are put back; it needs root.
#[test]
fn a_hundred_processes_share_four_mebibytes_within_two_sweeps() {
    if !vm_is_there() {
        return;
    }
    let program = compile("ksm", Linked::Static);
    if let Some(said) = host_says(&[program.as_os_str(), "20".as_ref(), "256".as_ref()]) {
        assert_eq!(said, "ksm: ok\n");
    }
    for (processes, pages, memory, cpus) in [("100", "1024", "640M", "2"), ("20", "64", "64M", "1")] {
        let options = ["--cpus", cpus, "--ram", memory, "--folios", "4K"];
        let args = [program.as_os_str(), processes.as_ref(), pages.as_ref()];
        let ran = Vm::new().options(&options).run(&args).expect_status(0);
        assert_eq!(ran.stdout, "ksm: ok\n", "{}", ran.stderr);
    }
}

/// Folios that have their equals are merged whole.
#[test]
fn processes_share_what_lies_in_large_folios() {
    if !vm_is_there() {
        return;
    }
    let program = compile("ksm", Linked::Static);
    let args = [program.as_os_str(), "12".as_ref(), "1024".as_ref(), "large".as_ref()];
    for folios in ["64K", "2M", "auto"] {
        let options = ["--cpus", "2", "--ram", "128M", "--folios", folios];
        let ran = Vm::new().options(&options).run(&args).expect_status(0);
        assert_eq!(ran.stdout, "ksm: ok\n", "{folios}: {}", ran.stderr);
    }
}

/// A merged page is somebody else's, too, until a write or MADV_UNMERGEABLE parts it. No userfaultfd moves
/// it. On a host that lets KSM be switched on, the table is the host's.
#[test]
fn merged_pages_do_not_move_here_or_on_linux() {
    if !vm_is_there() {
        return;
    }
    let program = compile("uffd_ksm", Linked::Static);
    let expected = host_says(&[&program]);
    for lock in ["mmap", "vma", "speculative"] {
        let ran = Vm::new().options(&["--cpus", "2", "--lock", lock]).run(&[&program]).expect_status(0);
        assert!(ran.stdout.starts_with("what is merged                      16    -16\n"), "{}", ran.stdout);
        if let Some(expected) = &expected {
            assert_eq!(&ran.stdout, expected, "{lock}: {}", ran.stderr);
        }
    }
}

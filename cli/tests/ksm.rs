//! Equal pages of many processes become one in the microVM, and a write parts them; the host is asked first.

mod common;

use std::path::Path;
use std::process::Command;

use common::{Linked, Vm, compile, vm_is_there};

/// The host's settings are put back; it needs root.
#[test]
fn a_hundred_processes_share_four_mebibytes_within_two_sweeps() {
    if !vm_is_there() {
        return;
    }
    let program = compile("ksm", Linked::Static);
    let writable = Path::new("/sys/kernel/mm/ksm/run");
    if std::fs::File::options().write(true).open(writable).is_ok() {
        let output = Command::new(&program).args(["20", "256"]).output().unwrap();
        assert!(output.status.success(), "on the host: {output:?}");
        assert_eq!(output.stdout, b"ksm: ok\n");
    } else {
        eprintln!("skipped on the host: {} cannot be written", writable.display());
    }
    for (processes, pages, memory, cpus) in [("100", "1024", "640M", "2"), ("20", "64", "64M", "1")] {
        let options = ["--cpus", cpus, "--ram", memory, "--folios", "4K"];
        let args = [program.as_os_str(), processes.as_ref(), pages.as_ref()];
        let ran = Vm::new().options(&options).run(&args).expect_status(0);
        assert_eq!(ran.stdout, "ksm: ok\n", "{}", ran.stderr);
    }
}

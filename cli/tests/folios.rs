//! Large folios in the microVM: what programs set and see of them, and that all else stays as it was.

mod common;

use std::path::Path;

use common::{Linked, Vm, compile, host_runs, vm_is_there};

const LOCKS: [&str; 3] = ["mmap", "vma", "speculative"];

/// The host is asked first; it needs root, and its settings are put back.
#[test]
fn settings_and_counters_are_those_of_linux() {
    if !vm_is_there() {
        return;
    }
    let program = compile("folios", Linked::Static);
    let writable = Path::new("/sys/kernel/mm/transparent_hugepage/hugepages-64kB/enabled");
    if std::fs::File::options().write(true).open(writable).is_ok() {
        assert_eq!(host_runs(&program), "folios: ok\n");
    } else {
        eprintln!("skipped on the host: {} cannot be written", writable.display());
    }
    for (folios, lock) in ["4K", "auto", "64K"].into_iter().zip(LOCKS) {
        let options = ["--cpus", "2", "--folios", folios, "--lock", lock];
        let args = [program.as_os_str(), "all".as_ref()];
        let ran = Vm::new().options(&options).run(&args).expect_status(0);
        assert_eq!(ran.stdout, "folios: ok\n", "{folios}: {}", ran.stderr);
    }
}

//! The microVM's clock beside the host's.

mod common;

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;
use std::time::Instant;

use common::{anonmem, vm_is_there};

/// A busy host stops a CPU of the guest wherever it likes; the guest measures its clock while it boots.
#[test]
fn the_clock_is_right_although_the_boot_was_disturbed() {
    /// QEMU, which stands still for more than half of the time at first. Whoever ends the script ends QEMU.
    const STOPPED: &str = "#!/bin/sh
(for round in $(seq 60); do kill -STOP $$; sleep 0.02; kill -CONT $$; sleep 0.015; done) 2>/dev/null >&2 &
exec qemu-system-x86_64 \"$@\"
";
    if !vm_is_there() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let qemu = dir.path().join("qemu");
    std::fs::write(&qemu, STOPPED).unwrap();
    std::fs::set_permissions(&qemu, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = anonmem();
    command.args(["run", "--timeout", "240", "--qemu"]).arg(&qemu);
    command.args(["--", "sh", "-c", "echo; sleep 3; echo"]).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let times: Vec<Instant> = lines.map(|line| line.map(|_| Instant::now()).unwrap()).collect();
    assert!(child.wait().unwrap().success());
    // A clock that was measured across one stop is half as fast.
    let slept = times[1] - times[0];
    assert!((2_800..4_500).contains(&slept.as_millis()), "{slept:?} for three seconds of the guest");
}

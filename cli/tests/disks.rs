//! Disks of the microVM: what programs read and write, with O_DIRECT straight to and from their own pages.
//!
//! Skipped with a line where the kernel or QEMU is missing; `make test` insists on both.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Linked, Vm, compile, host_runs, vm_is_there};

/// A file of so many bytes for a disk.
fn image(dir: &Path, bytes: u64) -> PathBuf {
    let path = dir.join("disk, with a comma");
    std::fs::File::create(&path).unwrap().set_len(bytes).unwrap();
    path
}

#[test]
fn a_disk_answers_as_a_file_of_the_host_does() {
    if !vm_is_there() {
        return;
    }
    // Not below /tmp, which may be a file system in memory: that has no rule of alignment.
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (program, disk) = (compile("disk", Linked::Static), image(dir.path(), 1 << 20));
    let expected = host_runs(&[&program, &disk]);
    for cpus in ["1", "4"] {
        let options = ["--cpus", cpus, "--disk", disk.to_str().unwrap()];
        let ran =
            Vm::new().options(&options).run(&[program.as_os_str(), "/dev/vda".as_ref()]).expect_status(0);
        ran.expect_table(&expected);
    }
}

#[test]
fn files_in_memory_take_o_direct_and_nothing_else_does() {
    if !vm_is_there() {
        return;
    }
    // A table of Linux 6.6 and later: tmpfs refused before.
    let program = compile("odirect", Linked::Static);
    let output = Command::new(&program).output().unwrap();
    let ran = Vm::new().run(&[&program]).expect_status(0);
    let expected = String::from_utf8(output.stdout).unwrap();
    if expected.starts_with("open: a new file             no") {
        eprintln!("skipped: the host's tmpfs refuses O_DIRECT");
    } else {
        assert_eq!(ran.stdout, expected);
    }
}

#[test]
fn what_is_written_stays_in_the_file_and_a_disk_may_be_read_only() {
    if !vm_is_there() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let disk = image(dir.path(), 1 << 20);
    let (rw, ro) = (disk.to_str().unwrap().to_owned(), format!("{}:ro", disk.display()));
    let script = "echo written > /dev/vda; cat /proc/partitions; ls -l /dev/vda | cut -c1-10";
    let ran = Vm::new().options(&["--disk", &rw]).run(&["busybox", "sh", "-c", script]).expect_status(0);
    let words: Vec<_> = ran.stdout.split_whitespace().collect();
    let expected = ["major", "minor", "#blocks", "name", "254", "0", "1024", "vda", "brw-rw----"];
    assert_eq!(words, expected, "{}", ran.stderr);
    assert!(std::fs::read(&disk).unwrap().starts_with(b"written\n"));

    let script = "head -c 8 /dev/vda; echo no > /dev/vda; echo $?";
    let ran = Vm::new().options(&["--disk", &ro]).run(&["busybox", "sh", "-c", script]).expect_status(0);
    assert_eq!(ran.stdout, "written\n1\n");
    assert!(std::fs::read(&disk).unwrap().starts_with(b"written\n"));
}

#[test]
fn swap_has_a_disk_of_its_own_behind_the_programs() {
    if !vm_is_there() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let disk = image(dir.path(), 1 << 20);
    let other = dir.path().join("other");
    std::fs::write(&other, [b'o'; 4096]).unwrap();
    let program = compile("swapcheck", Linked::Static);
    let file = format!("{}:/root/swapcheck", program.display());
    let script =
        "head -c 3 /dev/vdb; tail -n +2 /proc/swaps | cut -c1-9; ./swapcheck 40 1; cat /dev/vdc | head -c 1";
    let (disk, other) = (disk.to_str().unwrap(), other.to_str().unwrap());
    let options = [
        ["--ram", "16M"],
        ["--swap", "64M"],
        ["--swap-backend", "disk"],
        ["--disk", disk],
        ["--disk", other],
        ["--file", &file],
    ];
    let ran = Vm::new().options(&options.concat()).run(&["busybox", "sh", "-c", script]).expect_status(0);
    assert_eq!(ran.stdout, "ooo/dev/vdc \nswapcheck: 40 MiB, 1 rounds, 0 wrong\n");
    assert!(std::fs::read(other).unwrap().iter().all(|&byte| byte == b'o'));
}

#[test]
fn a_ring_answers_as_on_linux() {
    if !vm_is_there() {
        return;
    }
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (program, disk) = (compile("uring", Linked::Static), image(dir.path(), 1 << 20));
    let output = Command::new(&program).arg(dir.path().join("new")).arg(&disk).output().unwrap();
    let expected = String::from_utf8(output.stdout).unwrap();
    let expected = (!expected.starts_with("uring: not here")).then_some(expected);
    match &expected {
        Some(_) => {
            assert!(output.status.success(), "on the host: {}", String::from_utf8_lossy(&output.stderr))
        }
        None => eprintln!("the host refuses io_uring: not compared with it"),
    }
    for cpus in ["1", "4"] {
        let options = ["--cpus", cpus, "--disk", disk.to_str().unwrap()];
        let arguments = [program.as_os_str(), "/tmp/new".as_ref(), "/dev/vda".as_ref()];
        let ran = Vm::new().options(&options).run(&arguments).expect_status(0);
        assert!(ran.stdout.ends_with("uring: done\n"), "{}", ran.stderr);
        if let Some(expected) = &expected {
            ran.expect_table(expected);
        }
    }
}

/// Pinned by a ring, or shared with a child and paged out: a userfaultfd does not move it.
#[test]
fn pages_that_others_hold_do_not_move_here_or_on_linux() {
    if !vm_is_there() {
        return;
    }
    let program = compile("uffd_pinned", Linked::Static);
    let expected = host_runs(&[&program]);
    let ran = Vm::new().options(&["--cpus", "2", "--swap", "16M"]).run(&[&program]).expect_status(0);
    if expected == "no io_uring\n" {
        eprintln!("the host refuses io_uring: not compared with it");
    } else {
        assert_eq!(ran.stdout, expected);
    }
}

/// A QEMU whose first disk takes its time: pages stay pinned for tens of milliseconds, in which the program
/// forks, writes and swaps.
fn slow_qemu(dir: &Path) -> PathBuf {
    let path = dir.join("qemu");
    let script = "#!/bin/bash\nargs=()\nfor a in \"$@\"; do case \"$a\" in *id=vda,*) \
                  a=\"throttling.iops-total=150,$a\";; esac; args+=(\"$a\"); done\n\
                  exec qemu-system-x86_64 \"${args[@]}\"\n";
    std::fs::write(&path, script).unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    path
}

/// Without fork's copies of pinned pages, reclaim's refusal of them or the second look of who copies a page,
/// a reader misses bytes within seconds.
#[test]
fn a_disk_writes_to_pages_that_the_program_sees_whatever_it_does_meanwhile() {
    if !vm_is_there() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (disk, qemu) = (image(dir.path(), 4 << 20), slow_qemu(dir.path()));
    let program = compile("diskpins", Linked::Static);
    let disk = disk.to_str().unwrap();
    for lock in ["mmap", "vma", "speculative"] {
        for (mode, folios) in [("direct", "4K"), ("fixed", "4K"), ("fixed", "auto")] {
            let memory = ["--ram", "20M", "--swap", "64M", "--cpus", "4", "--lock", lock];
            let machine = ["--disk", disk, "--qemu", qemu.to_str().unwrap(), "--folios", folios];
            let arguments = [program.to_str().unwrap(), "/dev/vda", mode, "4", "20"];
            let ran = Vm::new().options(&memory).options(&machine).run(&arguments).expect_status(0);
            let expected = format!("diskpins: {mode}, 0 wrong\n");
            assert_eq!(ran.stdout, expected, "{lock}, {folios}: {}", ran.stderr);
            let count =
                |pointer: &str| ran.bill.pointer(pointer).and_then(serde_json::Value::as_u64).unwrap();
            assert!(count("/swap/outs") > 100 && count("/forks") > 0, "{}", ran.bill);
        }
    }
}

/// The same into folios of several pages, which come anew again and again: the disk has a part of a folio,
/// its neighbours write to other pages of it, and all that splits, shares or swaps folios meets the pins.
#[test]
fn a_disk_writes_to_large_folios_that_the_program_sees_whatever_it_does_meanwhile() {
    if !vm_is_there() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (disk, qemu) = (image(dir.path(), 4 << 20), slow_qemu(dir.path()));
    let (program, disk) = (compile("diskpins", Linked::Static), disk.to_str().unwrap());
    for (folios, size, kib) in [("64K", "64K", "64"), ("2M", "2M", "2048")] {
        for lock in ["mmap", "vma", "speculative"] {
            for mode in ["direct", "fixed"] {
                let memory = ["--ram", "32M", "--swap", "64M", "--cpus", "4", "--lock", lock];
                let machine = ["--disk", disk, "--qemu", qemu.to_str().unwrap(), "--folios", folios];
                let arguments = [program.to_str().unwrap(), "/dev/vda", mode, "5", "32", kib];
                let ran = Vm::new().options(&memory).options(&machine).run(&arguments).expect_status(0);
                let here = format!("{folios}, {lock}");
                assert_eq!(ran.stdout, format!("diskpins: {mode}, 0 wrong\n"), "{here}: {}", ran.stderr);
                let count =
                    |pointer: &str| ran.bill.pointer(pointer).and_then(serde_json::Value::as_u64).unwrap();
                assert!(count("/swap/outs") > 100 && count("/forks") > 0, "{here}: {}", ran.bill);
                assert!(count(&format!("/folios/{size}/anon_fault_alloc")) > 3, "{here}: {}", ran.bill);
            }
        }
    }
}

#[test]
fn what_cannot_be_a_disk_is_said_in_a_line() {
    let dir = tempfile::tempdir().unwrap();
    let odd = dir.path().join("odd");
    std::fs::write(&odd, "x").unwrap();
    let missing = dir.path().join("missing");
    for (path, word) in
        [(&odd, "sectors"), (&missing, "no such file"), (&dir.path().to_path_buf(), "directory")]
    {
        let output =
            common::anonmem().args(["run", "--disk"]).arg(path).args(["--", "true"]).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(word) && said.lines().count() == 1, "{said}");
    }
}

#[test]
fn a_disk_that_is_in_use_is_refused() {
    if !vm_is_there() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let disk = image(dir.path(), 1 << 20);
    let mut first = common::anonmem();
    first.args(["run", "--bill", "none", "--timeout", "60", "--disk"]).arg(&disk);
    first.args(["--", "busybox", "sh", "-c", "echo up; cat"]);
    first.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    let mut first = first.spawn().unwrap();
    let mut up = [0; 3];
    std::io::Read::read_exact(first.stdout.as_mut().unwrap(), &mut up).unwrap();
    let mut second = common::anonmem();
    second.args(["run", "--disk"]).arg(&disk).args(["--", "busybox", "true"]);
    let output = second.output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("in use"), "{said}");
    drop(first.stdin.take());
    assert_eq!(first.wait().unwrap().code(), Some(0));
}

#[test]
fn three_times_the_memory_of_shared_objects_swaps_and_every_byte_is_right() {
    if !vm_is_there() {
        return;
    }
    let program = compile("swapshared", Linked::Static);
    let host = host_runs(&[program.as_os_str(), "48".as_ref()]);
    for (lock, device) in [("mmap", "lz4"), ("vma", "lz4"), ("speculative", "disk")] {
        let options =
            ["--ram", "16M", "--swap", "128M", "--cpus", "4", "--lock", lock, "--swap-backend", device];
        let path = if device == "lz4" { "/dev/zram0" } else { "/dev/vda" };
        let args = [program.as_os_str(), "48".as_ref(), path.as_ref()];
        let ran = Vm::new().options(&options).run(&args).expect_status(0);
        assert_eq!(ran.stdout, host, "{lock}");
        assert_eq!(ran.bill["oom_kills"], 0);
        let count = |pointer: &str| ran.bill.pointer(pointer).and_then(serde_json::Value::as_u64).unwrap();
        assert!(count("/swap/outs") > 8192 && count("/swap/ins") > 8192, "{}", ran.bill);
    }
}

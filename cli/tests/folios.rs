//! Large folios in the microVM: what programs set and see of them, and that all else stays as it was.

mod common;

use std::process::Command;

use common::{Linked, Vm, compile, host_lets_write, host_runs, vm_is_there};
use serde_json::Value;

const LOCKS: [&str; 3] = ["mmap", "vma", "speculative"];

/// The host is asked first; it needs root, and its settings are put back.
#[test]
fn settings_and_counters_are_those_of_linux() {
    if !vm_is_there() {
        return;
    }
    let program = compile("folios", Linked::Static);
    if host_lets_write("/sys/kernel/mm/transparent_hugepage/hugepages-64kB/enabled") {
        assert_eq!(host_runs(&[&program]), "folios: ok\n");
    }
    for (folios, lock) in ["4K", "auto", "64K"].into_iter().zip(LOCKS) {
        let options = ["--cpus", "2", "--folios", folios, "--lock", lock];
        let args = [program.as_os_str(), "all".as_ref()];
        let ran = Vm::new().options(&options).run(&args).expect_status(0);
        assert_eq!(ran.stdout, "folios: ok\n", "{folios}: {}", ran.stderr);
    }
}

fn count(bill: &Value, pointer: &str) -> u64 {
    bill.pointer(pointer).and_then(Value::as_u64).unwrap_or(0)
}

/// The sum of a counter over all sizes.
fn sum(bill: &Value, counter: &str) -> u64 {
    let sizes = bill["folios"].as_object().unwrap().values();
    sizes.filter_map(|size| size[counter].as_u64()).sum()
}

#[test]
fn the_bill_counts_folios_of_each_size() {
    if !vm_is_there() {
        return;
    }
    // A run that is written in order, a child that shares it, and copies.
    let script = "
import mmap, os
m = mmap.mmap(-1, 16 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for at in range(0, len(m), 4096): m[at] = 1
if os.fork() == 0:
    m[5 << 20] = 2
    os._exit(0)
os.wait()
m[5 << 20] = 3
print(m[5 << 20])
";
    for (folios, size) in [("4K", None), ("64K", Some("64K")), ("auto", Some("64K")), ("2M", None)] {
        let ran = Vm::new().options(&["--folios", folios]).run(&["python3", "-c", script]).expect_status(0);
        assert_eq!((ran.stdout.as_str(), &ran.bill["folios"]["policy"]), ("3\n", &folios.into()));
        if let Some(size) = size {
            assert!(count(&ran.bill, &format!("/folios/{size}/anon_fault_alloc")) > 0, "{}", ran.bill);
            assert!(sum(&ran.bill, "cow_copy_run") > 0, "{}", ran.bill);
        }
        let large = sum(&ran.bill, "anon_fault_alloc");
        assert_eq!(large == 0, folios == "4K", "{}", ran.bill);
        let per_touched = ran.bill["pages_per_touched"].as_f64();
        assert_eq!(per_touched.is_none(), folios == "4K" || folios == "2M", "{}", ran.bill);
        if folios == "auto" {
            assert!(per_touched.unwrap() <= 1.1, "{}", ran.bill);
        }
    }
}

/// Every second page of 64 MiB in folios of 2 MiB is given back, and taken again elsewhere.
#[test]
fn what_is_unmapped_of_large_folios_comes_back_before_anybody_is_killed() {
    if !vm_is_there() {
        return;
    }
    let program = compile("holes", Linked::Static);
    for (lock, folios) in LOCKS.into_iter().zip(["2M", "2M:madvise", "auto"]) {
        let options = ["--ram", "96M", "--cpus", "2", "--lock", lock, "--folios", folios];
        let ran = Vm::new().options(&options).run(&[&program]).expect_status(0);
        assert_eq!(ran.stdout, "holes: 64 MiB with holes, 40 MiB more\n");
        assert_eq!(ran.bill["oom_kills"], 0);
        assert!(sum(&ran.bill, "split_partly_mapped") > 0, "{}", ran.bill);
    }
}

/// Three times the memory, at random, by threads and their children, on four CPUs.
fn three_times_the_memory(folios: &str, device: &[&str]) {
    if !vm_is_there() {
        return;
    }
    let program = compile("swapforks", Linked::Static);
    let args = [program.as_os_str(), "48".as_ref(), "4000".as_ref(), "4".as_ref()];
    for lock in LOCKS {
        let options =
            [&["--ram", "16M", "--swap", "128M", "--cpus", "4", "--lock", lock, "--folios", folios], device]
                .concat();
        let ran = Vm::new().options(&options).run(&args).expect_status(0);
        assert_eq!(ran.stdout, "swapforks: 48 MiB, 4 forks, 0 wrong\n", "{lock}");
        assert_eq!(ran.bill["oom_kills"], 0, "{lock}");
        assert!(count(&ran.bill, "/swap/outs") > 1000, "{lock}: {}", ran.bill);
        assert!(sum(&ran.bill, "anon_fault_alloc") > 0, "{lock}: {}", ran.bill);
        println!("{folios} {lock}: {} ms", ran.bill["wall_ms"]);
    }
}

#[test]
fn three_times_the_memory_in_compressed_folios_of_64_kib() {
    three_times_the_memory("64K", &[]);
}

#[test]
fn three_times_the_memory_in_compressed_folios_of_2_mib() {
    three_times_the_memory("2M", &[]);
}

#[test]
fn three_times_the_memory_in_compressed_folios_that_grow() {
    three_times_the_memory("auto", &[]);
}

#[test]
fn three_times_the_memory_on_a_disk() {
    for folios in ["64K", "2M", "auto"] {
        three_times_the_memory(folios, &["--swap-backend", "disk"]);
    }
}

/// What programs print does not depend on the size of folios.
#[test]
fn programs_print_what_they_print_on_the_host() {
    if !vm_is_there() {
        return;
    }
    let python = "import hashlib, json; x = [bytes([i % 251]) * 5000 for i in range(2000)]; \
                  print(hashlib.sha256(b''.join(x)).hexdigest(), len(json.dumps([len(b) for b in x])))";
    let shell = "i=0; while [ $i -lt 40 ]; do echo $i | md5sum; i=$((i+1)); done | sort | md5sum";
    for program in [&["python3", "-c", python][..], &["busybox", "sh", "-c", shell]] {
        let expected = host_runs(program);
        for (i, folios) in ["4K", "64K", "2M", "auto"].into_iter().enumerate() {
            let options = ["--cpus", "2", "--folios", folios, "--lock", LOCKS[i % LOCKS.len()]];
            let ran = Vm::new().options(&options).run(program).expect_status(0);
            assert_eq!(ran.stdout, expected, "{folios}");
        }
    }
}

/// Whether the host has a program; says so if not.
fn has(program: &str) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&paths).any(|dir| dir.join(program).is_file());
    if !found {
        eprintln!("skipped: the host has no {program}");
    }
    found
}

/// The compiler proper of gcc makes the same assembly of a large source.
#[test]
fn gcc_compiles_to_the_same_assembly() {
    if !vm_is_there() || !has("gcc") {
        return;
    }
    let compiler = host_runs(&["gcc", "-print-prog-name=cc1"]).trim().to_string();
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source.i");
    let functions = (0..100).map(|n| {
        format!("int f{n}(int *a, int n) {{ int s = {n}; for (int i = 0; i < n; i++) s += a[i] * (s ^ i); return s; }}\n")
    });
    std::fs::write(&source, functions.collect::<String>()).unwrap();
    let arguments =
        |source: &str| [&compiler, "-fpreprocessed", "-quiet", "-O2", source, "-o", "-"].map(str::to_string);
    let output = host_runs(&arguments(source.to_str().unwrap()));
    let body =
        |text: &str| text.lines().filter(|line| !line.contains(".file")).collect::<Vec<_>>().join("\n");
    let expected = body(&output);
    let file = format!("{}:/root/source.i", source.display());
    for folios in ["4K", "64K", "2M", "auto"] {
        let options = ["--cpus", "2", "--folios", folios, "--file", &file];
        let ran = Vm::new().options(&options).run(&arguments("source.i")).expect_status(0);
        assert!(body(&ran.stdout) == expected, "{folios}: other assembly than the host's");
    }
}

/// The stressors of memory that fit, each for a few operations, which verify what they read.
#[test]
fn stressors_of_memory_find_nothing_wrong() {
    if !vm_is_there() || !has("stress-ng") {
        return;
    }
    let all = "--vm 1 --vm-bytes 8M --vm-ops 8000 --mremap 1 --mremap-bytes 4M --mremap-ops 20 --brk 1 --brk-ops 1000 \
               --malloc 1 --malloc-bytes 8M --malloc-ops 1000 --bigheap 1 --bigheap-ops 100 --bigheap-growth 64K \
               --mincore 1 --mincore-ops 100 --mlock 1 --mlock-ops 20 --mprotect 1 --mprotect-ops 100 --fork 1 \
               --fork-ops 30 --mmapfork 1 --mmapfork-ops 2 --vm-rw 1 --vm-rw-bytes 4M --vm-rw-ops 10 --vm-splice 1 \
               --vm-splice-ops 20 --userfaultfd 1 --userfaultfd-bytes 1M --userfaultfd-ops 100 --mmapmany 1 \
               --mmapmany-ops 50";
    let mut arguments: Vec<&str> = ["stress-ng", "--verify", "--seq", "1", "-t", "5"].into();
    arguments.extend(all.split_whitespace());
    // What it says but for the numbers of its processes, and how long it took.
    let said = |text: &str| {
        let words = |line: &str| line.split_once(']').map(|(_, said)| said.trim().to_string());
        let told = text.lines().filter_map(words).filter(|line| !line.contains(" completed in "));
        told.collect::<Vec<_>>()
    };
    let on_host = Command::new(arguments[0]).args(&arguments[1..]).output().unwrap();
    let expected = said(&String::from_utf8_lossy(&on_host.stderr));
    for (i, folios) in ["4K", "64K", "2M", "auto"].into_iter().enumerate() {
        let options = ["--ram", "512M", "--folios", folios, "--lock", LOCKS[i % LOCKS.len()]];
        let ran = Vm::new().options(&options).run(&arguments).expect_status(0);
        assert_eq!(said(&ran.stderr), expected, "{folios}: {}", ran.stderr);
    }
}

//! Unmodified Linux programs in the microVM, compared with what they do on the host.
//!
//! Skipped with a line where the kernel or QEMU is missing; `make test` insists on both.

mod common;

use std::ffi::OsString;
use std::path::PathBuf;

use common::{
    Linked, Vm, compile, host_runs, same_as_host, same_as_host_on, same_table_as_host, vm_is_there,
};

#[test]
fn a_thousand_children_share_a_page() {
    same_as_host("share1000", Linked::Static, &[]);
}

#[test]
fn a_fork_tree_ten_deep_writes_at_every_level() {
    same_as_host("forktree", Linked::Static, &[]);
}

#[test]
fn every_byte_is_right_after_copy_on_write() {
    same_as_host("cowcheck", Linked::Static, &[]);
}

#[test]
fn a_secret_is_never_seen_again() {
    same_as_host("secrethunt", Linked::Static, &["--ram", "128M"]);
}

#[test]
fn threads_churn_mappings() {
    same_as_host("churn", Linked::Dynamic, &[]);
}

#[test]
fn everything_happens_at_once() {
    same_as_host("everything", Linked::Dynamic, &[]);
}

#[test]
fn every_lock_mode_gives_the_same() {
    for mode in ["mmap", "vma", "speculative"] {
        same_as_host_on(&["4"], "churn", Linked::Static, &["--lock", mode]);
        same_as_host_on(&["4"], "cowcheck", Linked::Static, &["--lock", mode]);
    }
}

#[test]
fn every_reverse_map_gives_the_same() {
    if !vm_is_there() {
        return;
    }
    for rmap in ["anon_vma", "family"] {
        same_as_host("forktree", Linked::Static, &["--rmap", rmap]);
        same_as_host_on(&["4"], "cowcheck", Linked::Static, &["--rmap", rmap]);
        let program = compile("swapcheck", Linked::Static);
        let args = [program.as_os_str(), "24".as_ref(), "1".as_ref()];
        let options = ["--ram", "16M", "--swap", "64M", "--rmap", rmap];
        let ran = Vm::new().options(&options).run(&args).expect_status(0);
        assert_eq!(ran.stdout, "swapcheck: 24 MiB, 1 rounds, 0 wrong\n");
        assert_eq!(
            (ran.bill["reverse_map"].as_str(), ran.bill["validate"].as_str()),
            (Some(rmap), Some("ok"))
        );
        assert!(ran.bill.pointer("/swap/outs").and_then(serde_json::Value::as_u64) > Some(0), "{}", ran.bill);
        // Families have no links, but of what is away from home.
        let chains = ran.bill["peak_anon_vma_chains"].as_u64().unwrap();
        assert!(rmap == "anon_vma" || chains < 32, "{chains} records");
    }
}

#[test]
fn handlers_repair_faults() {
    same_as_host("signals", Linked::Dynamic, &[]);
    same_as_host("signals", Linked::Static, &[]);
}

#[test]
fn signals_threads_descriptors_and_files_are_as_on_linux() {
    same_as_host("abi", Linked::Dynamic, &[]);
}

#[test]
fn buffers_that_end_in_nothing_get_what_comes_before() {
    same_as_host("partial", Linked::Static, &[]);
}

#[test]
fn an_offset_belongs_to_one_at_a_time() {
    same_as_host("offsets", Linked::Static, &[]);
}

#[test]
fn any_number_of_mappings_is_told() {
    same_as_host_on(&["1", "4"], "manymaps", Linked::Static, &["--ram", "128M"]);
}

#[test]
fn odd_addresses_and_lengths_are_answered_as_on_linux() {
    same_table_as_host("arguments", &[]);
}

#[test]
fn as_many_arguments_as_the_stack_allows_are_given() {
    same_as_host_on(&["1", "4"], "manyargs", Linked::Static, &["--ram", "128M"]);
}

/// 100 rounds on four CPUs, in every mode: the children that take all memory are killed, and their parent
/// never is.
#[test]
fn nobody_innocent_is_killed_when_memory_runs_out_on_many_cpus() {
    if !vm_is_there() {
        return;
    }
    let program = compile("oomstress", Linked::Static);
    for lock in ["mmap", "vma", "speculative"] {
        let options = ["--ram", "64M", "--cpus", "4", "--lock", lock];
        let args = [program.as_os_str(), "100".as_ref()];
        let ran = Vm::new().options(&options).run(&args).expect_status(0);
        assert_eq!(ran.stdout, "oomstress: 100 children killed\n");
        assert_eq!(ran.bill["oom_kills"], 100, "{lock}");
        // A round takes a tenth of a second on a quiet machine.
        assert!(ran.bill["wall_ms"].as_u64().unwrap() < 180_000, "{lock}: {}", ran.bill);
    }
}

/// `ANONMEM_ODDCALLS_SECONDS` (default 20) is how long it runs, in pieces, each in another lock mode and from
/// another seed.
#[test]
fn calls_with_odd_arguments_harm_nobody() {
    if !vm_is_there() {
        return;
    }
    let number = |name: &str, default| std::env::var(name).map_or(default, |v| v.parse::<u64>().unwrap());
    let (mut left, mut seed) = (number("ANONMEM_ODDCALLS_SECONDS", 20), number("ANONMEM_SEED", 1));
    let program = compile("oddcalls", Linked::Static);
    let disk = tempfile::NamedTempFile::new().unwrap();
    disk.as_file().set_len(1 << 20).unwrap();
    let mut pieces = ["speculative", "vma", "mmap"].iter().cycle();
    while left > 0 {
        let (mode, seconds) = (pieces.next().unwrap(), left.min(7));
        let args = [program.as_os_str(), seed.to_string().as_ref(), seconds.to_string().as_ref()]
            .map(OsString::from);
        let disk = disk.path().to_str().unwrap();
        let options = [
            "--ram",
            "128M",
            "--swap",
            "32M",
            "--cpus",
            "4",
            "--lock",
            mode,
            "--disk",
            disk,
            "--env",
            "ODDCALLS_DISK=/dev/vda",
        ];
        let ran = Vm::new().options(&options).run(&args).expect_status(0);
        println!("{mode}: {}", ran.stdout.trim());
        // Less than one second on a quiet machine.
        let slowest: u64 = ran.stdout.split_whitespace().rev().nth(1).unwrap().parse().unwrap();
        assert!(slowest < 10_000, "{mode}, seed {seed}: {}", ran.stdout);
        (left, seed) = (left - seconds, seed + 10_000);
    }
}

#[test]
fn memory_of_others_is_read_and_written_as_on_linux() {
    same_table_as_host("remote", &[]);
}

#[test]
fn processes_are_traced_as_on_linux() {
    same_table_as_host("traced", &[]);
}

#[test]
fn pipes_keep_pages_and_pass_them_on_as_on_linux() {
    same_table_as_host("splice", &[]);
}

/// CVE-2020-29374.
#[test]
fn who_keeps_a_page_in_a_pipe_reads_nothing_that_is_written_later() {
    for mode in ["mmap", "vma", "speculative"] {
        same_as_host_on(&["1", "4"], "pinleak", Linked::Static, &["--lock", mode]);
    }
}

/// The host's kernel rarely has the file: the program's own checks are what counts.
#[test]
fn pins_keep_what_they_promise() {
    if !vm_is_there() {
        return;
    }
    let program = compile("guptest", Linked::Static);
    for (cpus, lock) in [("1", "mmap"), ("4", "vma"), ("4", "speculative")] {
        let options = ["--cpus", cpus, "--lock", lock, "--swap", "64M"];
        let ran = Vm::new().options(&options).run(&[&program]).expect_status(0);
        assert_eq!(ran.stdout, "guptest: ok\n", "{}", ran.stderr);
    }
}

#[test]
fn mappings_are_described_by_all_their_attributes() {
    same_table_as_host("described", &[]);
}

#[test]
fn beyond_the_end_of_a_file_is_sigbus() {
    same_table_as_host("shortened", &[]);
}

#[test]
fn mmap_refuses_what_linux_refuses_for_the_same_reason() {
    same_table_as_host("refusals", &[]);
}

/// PAGEMAP_SCAN, all of it; and who may have a userfaultfd, which needs root on the host.
#[test]
fn pages_are_scanned_and_userfaultfds_given_as_on_linux() {
    same_table_as_host("pagescan", &[]);
    same_table_as_host("uffd_door", &[]);
}

/// An oracle for every error of userfaultfd that the host's Linux gives, and for how far each call came.
#[test]
fn userfaultfd_refuses_what_linux_refuses_for_the_same_reason() {
    same_table_as_host("uffd_errors", &[]);
}

#[test]
fn programs_fill_protect_and_move_their_own_pages() {
    for mode in ["mmap", "vma", "speculative"] {
        for program in ["uffd_pager", "uffd_snapshot", "uffd_compact"] {
            same_as_host_on(&["4"], program, Linked::Static, &["--ram", "64M", "--lock", mode]);
        }
    }
}

/// A child writes to more memory than there is: what is filled and moved leaves and comes back.
#[test]
fn programs_fill_protect_and_move_their_own_pages_while_they_are_swapped() {
    if !vm_is_there() {
        return;
    }
    for program in ["uffd_pager", "uffd_snapshot", "uffd_compact"] {
        let compiled = compile(program, Linked::Static);
        let expected = host_runs(&[&compiled]);
        for mode in ["mmap", "vma", "speculative"] {
            let options = ["--ram", "64M", "--swap", "256M", "--cpus", "4", "--lock", mode];
            let vm = Vm::new().options(&options);
            let ran = vm.run(&[compiled.as_os_str(), "72".as_ref()]).expect_status(0);
            assert_eq!(ran.stdout, expected, "{program}, {mode}");
            assert!(ran.bill["swap"]["outs"].as_u64() > Some(1000), "{program}, {mode}: {}", ran.bill);
        }
    }
}

/// The kernel's stacks come from pages that leave, too.
#[test]
fn threads_begin_while_memory_is_short() {
    if !vm_is_there() {
        return;
    }
    let program = compile("threads_short", Linked::Static);
    let expected = host_runs(&[&program]);
    let vm = Vm::new().options(&["--ram", "64M", "--swap", "256M", "--cpus", "4"]);
    let ran = vm.run(&[program.as_os_str(), "72".as_ref()]).expect_status(0);
    assert_eq!(ran.stdout, expected);
    assert!(ran.bill["swap"]["outs"].as_u64() > Some(1000), "{}", ran.bill);
}

/// python3 knows nothing of the userfaultfd that is preloaded; it grows, forks, moves, drops and unmaps.
#[test]
fn a_monitor_follows_a_program_that_it_did_not_write() {
    if !vm_is_there() {
        return;
    }
    let library = compile("follow", Linked::Library);
    let script = include_str!("../../tests/programs/follow.py");
    let python = host_runs(&["python3", "-c", "import sys; print(sys.executable, end='')"]);
    let env = |library: &str| [format!("LD_PRELOAD={library}"), "PYTHONMALLOC=malloc".into()];
    let [load, malloc] = env(library.to_str().unwrap());
    let here = ["env", &load, &malloc, &python, "-c", script, library.to_str().unwrap()];
    let expected = host_runs(&here);
    assert_eq!(expected, "followed: faults forks moves removals unmappings and nothing was wrong\n");
    let (file, there) = (format!("{}:/follow.so", library.display()), env("/follow.so"));
    for mode in ["mmap", "vma", "speculative"] {
        let memory = ["--ram", "64M", "--swap", "256M", "--cpus", "4", "--lock", mode];
        let given = ["--file", &file, "--env", &there[0], "--env", &there[1]];
        let vm = Vm::new().options(&memory).options(&given);
        let ran = vm.run(&["python3", "-c", script, "/follow.so"]).expect_status(0);
        assert_eq!(ran.stdout, expected, "{mode}: {}", ran.stderr);
    }
}

#[test]
fn no_more_is_locked_than_a_user_may_lock() {
    same_table_as_host("locked", &[]);
}

/// On a host before Linux 6.17 the table says otherwise.
#[test]
fn mappings_move_together() {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    if (numbers.next(), numbers.next()) >= (Some(6), Some(17)) {
        same_table_as_host("together", &[]);
    } else {
        eprintln!("skipped: the host's Linux is {release}, older than 6.17");
    }
}

#[test]
fn the_overcommit_mode_decides_what_is_promised() {
    if !vm_is_there() {
        return;
    }
    let script = "
import mmap, os
def say(name, number): os.write(os.open('/proc/sys/vm/overcommit_' + name, 1), b'%d' % number)
def fits(mib):
    try: return mmap.mmap(-1, mib << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) and 1
    except OSError: return 0
for mode in range(3):
    say('memory', mode)
    print(mode, fits(1), fits(150), fits(1 << 20), end='; ')
say('ratio', 80)
print(fits(150), open('/proc/sys/vm/overcommit_memory').read(), end='')
try: say('memory', 3)
except OSError as e: print(e.errno)
";
    let ran = Vm::new().options(&["--ram", "256M"]).run(&["python3", "-c", script]).expect_status(0);
    assert_eq!(ran.stdout, "0 1 1 0; 1 1 1 1; 2 1 0 0; 1 2\n22\n");
}

#[test]
fn limits_refuse_what_they_refuse_on_linux() {
    same_as_host("limits", Linked::Static, &["--ram", "128M"]);
}

/// The table "What a program may exhaust" of machines/microvm/README.md.
#[test]
fn whatever_is_exhausted_the_kernel_and_the_others_go_on() {
    if !vm_is_there() {
        return;
    }
    let program = compile("exhaust", Linked::Static);
    for cpus in ["1", "4"] {
        let ran = Vm::new().options(&["--ram", "64M", "--cpus", cpus]).run(&[&program]).expect_status(0);
        let expected = "exhaust: processes zombies threads descriptors pipes messages interests mappings files bytes \
                        directories signals timers listeners terminals armed lent rings calls memory (killed)\n";
        assert_eq!(ran.stdout, expected, "{}", ran.stderr);
        assert_eq!(ran.bill["oom_kills"], 1);
    }
}

#[test]
fn a_file_in_the_kernels_place_is_refused_by_its_path() {
    if !vm_is_there() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "mine\n").unwrap();
    for place in ["/sys/devices/system/cpu/online", "/proc/file"] {
        let option = format!("{}:{place}", file.display());
        let ran = Vm::new().options(&["--file", &option]).run(&["busybox", "true"]).expect_status(2);
        let named = if place.starts_with("/proc") { "/proc" } else { place };
        assert!(ran.stderr.contains(named), "{}", ran.stderr);
    }
    let option = format!("{}:/sys/mine", file.display());
    let ran = Vm::new().options(&["--file", &option]).run(&["busybox", "cat", "/sys/mine"]).expect_status(0);
    assert_eq!(ran.stdout, "mine\n");
}

#[test]
fn holes_of_files_cost_nothing_and_files_may_be_larger_than_memory() {
    same_as_host_on(&["1", "4"], "sparse", Linked::Static, &["--ram", "64M"]);
}

#[test]
fn relatives_share_memory() {
    same_as_host("shared", Linked::Dynamic, &[]);
}

#[test]
fn mappings_move_take_advice_and_are_described() {
    same_as_host("advice", Linked::Dynamic, &[]);
}

#[test]
fn the_stack_grows() {
    same_as_host("stack", Linked::Dynamic, &[]);
}

#[test]
fn programs_execute_programs() {
    same_as_host("execchain", Linked::Static, &[]);
    same_as_host("execchain", Linked::Dynamic, &[]);
}

#[test]
fn a_null_pointer_is_139() {
    if !vm_is_there() {
        return;
    }
    for linked in [Linked::Static, Linked::Dynamic] {
        let ran = Vm::new().run(&[compile("nullderef", linked)]).expect_status(139);
        assert_eq!(ran.stdout, "nullderef: about to\n");
    }
}

#[test]
fn out_of_memory_kills_the_largest_and_says_so() {
    if !vm_is_there() {
        return;
    }
    let program = compile("touch", Linked::Static);
    let args = [program, PathBuf::from("200")];
    let ran = Vm::new().options(&["--ram", "64M"]).run(&args).expect_status(137);
    assert!(ran.stdout.contains("touch: 32 MiB") && !ran.stdout.contains("done"), "{}", ran.stdout);
    assert!(ran.stderr.to_lowercase().contains("out of memory"), "{}", ran.stderr);
    assert!(ran.stderr.contains("touch"), "{}", ran.stderr);
    assert_ne!(ran.bill["oom_kills"], 0);

    let ran = Vm::new().options(&["--ram", "256M"]).run(&args).expect_status(0);
    assert!(ran.stdout.ends_with("touch: done\n"));
}

#[test]
fn three_times_the_memory_swaps_and_every_byte_is_right() {
    if !vm_is_there() {
        return;
    }
    let program = compile("swapcheck", Linked::Static);
    let args = [program.as_os_str(), "48".as_ref(), "1".as_ref()];
    for lock in ["mmap", "vma", "speculative"] {
        let options = ["--ram", "16M", "--swap", "128M", "--cpus", "4", "--lock", lock];
        let ran = Vm::new().options(&options).run(&args).expect_status(0);
        assert_eq!(ran.stdout, "swapcheck: 48 MiB, 1 rounds, 0 wrong\n");
        assert_eq!((ran.bill["lock_mode"].as_str(), &ran.bill["oom_kills"]), (Some(lock), &0.into()));
        let count = |pointer: &str| ran.bill.pointer(pointer).and_then(serde_json::Value::as_u64).unwrap();
        // Two thirds of the pages do not fit.
        assert!(count("/swap/outs") > 8192 && count("/swap/ins") > 8192, "{}", ran.bill);
        assert!(ran.bill["compression_ratio"].as_f64().unwrap() > 2.0, "{}", ran.bill);
        assert!(count("/reclaim/steals") <= count("/reclaim/scans"), "{}", ran.bill);
        // The mode's own lock does most of the work.
        let own = count(if lock == "mmap" { "/fault_locks/mmap" } else { "/fault_locks/vma" });
        let speculative = count("/fault_locks/speculative");
        assert!(own + speculative > 9 * count("/faults/total") / 10, "{}", ran.bill);
        assert_eq!(speculative > 0, lock == "speculative", "{}", ran.bill);
    }
}

#[test]
fn a_file_of_the_host_is_swapped_to() {
    if !vm_is_there() {
        return;
    }
    let program = compile("swapcheck", Linked::Static);
    let args = [program.as_os_str(), "48".as_ref(), "1".as_ref()];
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("swap, with a comma");
    let disk = ["--swap", "128M", "--swap-backend", "disk", "--swap-file", file.to_str().unwrap()];
    let options = [&["--ram", "16M", "--cpus", "4", "--lock", "speculative"], &disk[..]].concat();
    let ran = Vm::new().options(&options).run(&args).expect_status(0);
    assert_eq!(ran.stdout, "swapcheck: 48 MiB, 1 rounds, 0 wrong\n");
    let count = |pointer: &str| ran.bill.pointer(pointer).and_then(serde_json::Value::as_u64).unwrap();
    assert!(count("/swap/outs") > 8192 && count("/swap/ins") > 8192, "{}", ran.bill);
    assert_eq!(file.metadata().unwrap().len(), 128 << 20);
    // Noise does not compress, and goes to a disk all the same.
    let script = "import os; x=[os.urandom(4096) for i in range(6000)]; y=[hash(p) for p in x]; \
                  print(all(hash(p) == h for p, h in zip(x, y)))";
    let options = [&["--ram", "24M"], &disk[..]].concat();
    let ran = Vm::new().options(&options).run(&["python3", "-c", script]).expect_status(0);
    assert_eq!(ran.stdout, "True\n");
    assert!(ran.bill["swap"]["outs"].as_u64().unwrap() > 1000, "{}", ran.bill);
}

#[test]
fn when_swap_is_full_the_largest_is_killed() {
    if !vm_is_there() {
        return;
    }
    let program = compile("swapcheck", Linked::Static);
    // No more than memory and swap, or the mapping would be refused; but the kernel has some of the memory.
    let args = [program.as_os_str(), "31".as_ref(), "1".as_ref()];
    let ran = Vm::new().options(&["--ram", "16M", "--swap", "16M"]).run(&args).expect_status(137);
    assert_ne!(ran.bill["oom_kills"], 0);
    assert!(ran.bill["swap"]["outs"].as_u64().unwrap() >= 4096, "{}", ran.bill);
}

#[test]
fn python_has_more_than_fits() {
    if !vm_is_there() {
        return;
    }
    let script =
        "x=[bytes([i%251])*4096 for i in range(20000)]; print(sum(b[0] for b in x), sum(map(len, x)))";
    let options = ["--ram", "64M", "--swap", "512M"];
    let ran = Vm::new().options(&options).run(&["python3", "-c", script]).expect_status(0);
    assert_eq!(ran.stdout, host_runs(&["python3", "-c", script]));
    assert!(ran.bill["swap"]["outs"].as_u64().unwrap() > 0, "{}", ran.bill);
}

#[test]
fn swap_is_described_and_can_be_switched_off_and_on() {
    if !vm_is_there() {
        return;
    }
    let script = "cat /proc/swaps; grep Swap /proc/meminfo; swapoff /dev/zram0; cat /proc/swaps; swapon /dev/zram0; \
                  tail -1 /proc/swaps";
    let options = ["--ram", "64M", "--swap", "32M"];
    let ran = Vm::new().options(&options).run(&["busybox", "sh", "-c", script]).expect_status(0);
    let words: Vec<_> = ran.stdout.split_whitespace().collect();
    let header = ["Filename", "Type", "Size", "Used", "Priority"];
    let expected: Vec<_> = [
        &header[..],
        &["/dev/zram0", "partition", "32768", "0", "-2"],
        &["SwapCached:", "0", "kB", "SwapTotal:", "32768", "kB", "SwapFree:", "32768", "kB"],
        &header[..],
        &["/dev/zram0", "partition", "32768", "0", "-2"],
    ]
    .concat();
    assert_eq!(words, expected, "{}\n{}", ran.stdout, ran.stderr);
}

#[test]
fn a_shell_survives_the_out_of_memory_of_its_child() {
    if !vm_is_there() {
        return;
    }
    let program = compile("touch", Linked::Static);
    let file = format!("{}:/root/touch", program.display());
    let script = "./touch 200 >/dev/null; echo status $?; echo still here | sort";
    let ran = Vm::new()
        .options(&["--ram", "64M", "--file", &file])
        .run(&["busybox", "sh", "-c", script])
        .expect_status(0);
    assert_eq!(ran.stdout, "status 137\nstill here\n");
}

#[test]
fn three_hundred_pipelines() {
    if !vm_is_there() {
        return;
    }
    let script = "i=0; while [ $i -lt 300 ]; do echo $i | md5sum >/dev/null; i=$((i+1)); done; echo done";
    let ran = Vm::new().run(&["busybox", "sh", "-c", script]).expect_status(0);
    assert_eq!(ran.stdout, "done\n");
    assert!(ran.bill["forks"].as_u64().unwrap() >= 600, "{}", ran.bill);
}

#[test]
fn input_reaches_a_dynamic_program() {
    if !vm_is_there() {
        return;
    }
    let ran = Vm::new().input(b"b\na\n").run(&["sort"]).expect_status(0);
    assert_eq!(ran.stdout, "a\nb\n");

    let input: Vec<u8> =
        (0..40_000_u32).flat_map(|n| format!("{}\n", n * 7919 % 40_000).into_bytes()).collect();
    let ran = Vm::new().input(&input).run(&["sort", "-n"]).expect_status(0);
    let expected: String = (0..40_000).map(|n| format!("{n}\n")).collect();
    assert_eq!(ran.stdout.len(), expected.len());
    assert!(ran.stdout == expected);
}

#[test]
fn the_status_passes_through() {
    if !vm_is_there() {
        return;
    }
    Vm::new().run(&["sh", "-c", "exit 7"]).expect_status(7);
    let ran = Vm::new().run(&["sh", "-c", "echo out; echo err >&2; kill -TERM $$"]).expect_status(143);
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("out\n", "err\n"));
}

#[test]
fn files_environment_and_directory_are_as_asked() {
    if !vm_is_there() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("d")).unwrap();
    std::fs::write(dir.path().join("d/f"), "from a file\n").unwrap();
    let file = format!("{}:/data", dir.path().join("d").display());
    let script =
        "pwd; cat /data/f; echo $GREETING; echo x >new && cat new; env | sort | cut -d= -f1 | tr '\\n' ' '";
    let ran = Vm::new()
        .options(&["--file", &file, "--env", "GREETING=hello there", "--cwd", "/job"])
        .run(&["busybox", "sh", "-c", script])
        .expect_status(0);
    assert!(ran.stdout.starts_with("/job\nfrom a file\nhello there\nx\n"), "{}", ran.stdout);
    let names = ran.stdout.lines().last().unwrap();
    for name in names.split_whitespace() {
        assert!(
            ["GREETING", "HOME", "LANG", "OLDPWD", "PATH", "PWD", "SHLVL", "TERM", "_"].contains(&name),
            "{names}"
        );
    }
}

#[test]
fn a_script_with_a_first_line_runs() {
    if !vm_is_there() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("script");
    std::fs::write(&script, "#!/bin/sh -e\necho \"$0 $1\" | sed 's,.*/,,'\n").unwrap();
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let ran = Vm::new().run(&[script.to_str().unwrap(), "argument"]).expect_status(0);
    assert_eq!(ran.stdout, "script argument\n");
}

const PYTHON_SUM: &str = "print(sum(i*i for i in range(10**5)))";

const PYTHON_THREADS: &str = "
import threading, multiprocessing, hashlib, json
def work(n, out):
    out[n] = hashlib.sha256(bytes(range(256)) * (n + 1) * 50).hexdigest()
out = {}
threads = [threading.Thread(target=work, args=(n, out)) for n in range(4)]
[t.start() for t in threads]
[t.join() for t in threads]
def child(queue, data):
    data[0] = 99
    queue.put(sum(data))
data = list(range(1000))
queue = multiprocessing.get_context('fork').SimpleQueue()
process = multiprocessing.get_context('fork').Process(target=child, args=(queue, data))
process.start()
total = queue.get()
process.join()
print(json.dumps([out[n][:12] for n in range(4)]), total, data[0], process.exitcode)
";

#[test]
fn python_prints_what_the_host_prints() {
    if !vm_is_there() {
        return;
    }
    for (script, cpus) in [(PYTHON_SUM, "2"), (PYTHON_THREADS, "2"), (PYTHON_THREADS, "4")] {
        let expected = host_runs(&["python3", "-c", script]);
        let ran = Vm::new().options(&["--cpus", cpus]).run(&["python3", "-c", script]).expect_status(0);
        assert_eq!(ran.stdout, expected);
    }
}

#[test]
fn the_bill_counts_what_happened() {
    if !vm_is_there() {
        return;
    }
    let program = compile("share1000", Linked::Static);
    let args = [program, PathBuf::from("20")];
    let ran = Vm::new().run(&args).expect_status(0);
    let count = |pointer: &str| {
        ran.bill.pointer(pointer).and_then(serde_json::Value::as_u64).unwrap_or_else(|| {
            panic!("{pointer} in {}", ran.bill);
        })
    };
    assert_eq!(count("/forks"), 20);
    assert!(count("/cow_copies") >= 20);
    let by_cpu: u64 =
        ran.bill["faults"]["by_cpu"].as_array().unwrap().iter().filter_map(|n| n.as_u64()).sum();
    assert_eq!(by_cpu, count("/faults/total"));
    let by_kind: u64 =
        ran.bill["faults"]["by_kind"].as_object().unwrap().values().filter_map(|n| n.as_u64()).sum();
    assert_eq!(by_kind, count("/faults/total"));
    assert!(count("/peak_frames") > 0 && count("/peak_page_table_bytes") > 0 && count("/peak_anon_vmas") > 0);
}

#[test]
fn a_run_that_takes_too_long_is_stopped() {
    if !vm_is_there() {
        return;
    }
    let output = common::anonmem()
        .args(["run", "--timeout", "4", "--", "busybox", "sleep", "1000"])
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(124), "{output:?}");
}

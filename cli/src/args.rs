//! The command line: options, their help and their examples.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::conform::ConformOptions;
use crate::doctor::DoctorOptions;
#[cfg(feature = "measure")]
use crate::guest::options::GuestOptions;
#[cfg(feature = "measure")]
use crate::lab::{CasesOptions, CheckOptions, RaceOptions};
#[cfg(feature = "measure")]
use crate::scale::ScaleOptions;
use crate::shell::{CompletionsOptions, ManOptions};
use crate::size::{parse_ram, parse_swap};
use crate::values::{
    Accel, BillFormat, FileMapping, Folios, Lock, Rmap, SwapBackend, parse_env, parse_file, parse_folios,
    parse_guest_path, parse_seconds,
};
use crate::vm::disk::{DiskOption, parse_disk};

// Paragraphs are one line each: clap breaks them where the terminal ends. Lines of examples fit into 80
// columns.

const TOP_EXAMPLES: &str = "\
Examples:
  anonmem run -- busybox sh -c 'echo hello | md5sum'
  anonmem run -- python3 -c 'print(sum(i*i for i in range(10**5)))'
  printf 'b\\na\\n' | anonmem run -- sort
  anonmem check --budget 60
  anonmem race seed-004-copy-after-reuse --svg race.svg

`anonmem run --help` says what is packed, what passes through and what the bill counts.";

const RUN_HELP: &str = "\
Runs an unmodified Linux program on the anonmem memory manager: real x86-64 page tables and TLBs, in a microVM. \
Standard input, output and error pass through as they are, and so does the exit status (128+N for a signal). When the \
program is through, the kernel tears everything down, checks its books and reports the memory bill.

If standard input is a terminal, the program gets it, of the same size: lines can be edited, a shell shows a prompt and \
has job control, and Ctrl-C goes to whatever is in the foreground there. To end the run from outside, send SIGTERM twice. \
Else standard input, output and error are pipes in the microVM, and Ctrl-C goes to the program; a second one ends the run.";

const RUN_EXAMPLES: &str = "\
Examples:
  A shell that forks pipelines, then the bill:
    anonmem run -- sh -c 'for i in 1 2 3; do echo $i | md5sum; done'
  Python with its standard library:
    anonmem run --cpus 4 -- python3 -c 'import threading; print(\"ok\")'
  A script of yours, in the directory that the program starts in:
    anonmem run --file job.py -- python3 job.py
    anonmem run --file ../lib/job.py:/root/job.py -- python3 job.py
  A copy of the working directory, with all that is in it:
    anonmem run --file . -- ./a.out
  Too little memory: the largest process is killed and named, status 137:
    anonmem run --ram 64M -- python3 -c 'x = bytearray(200 << 20)'
  More than fits: what was not used lately is compressed:
    anonmem run --ram 64M --swap 512M -- python3 -c 'x = b\"x\" * (200 << 20)'
  A disk of 64 MiB, of which it reads past all caches:
    truncate -s 64M disk.img
    anonmem run --disk disk.img -- dd if=/dev/vda bs=64k iflag=direct of=x
  A shell to type at:
    anonmem run --env TERM=$TERM -- sh
  The bill for a program to read:
    anonmem run --bill json --bill-file bill.json -- ./a.out

What is packed:
The program, at its path on the host, with its ELF interpreter and every shared library that it needs (DT_NEEDED, with \
RPATH, RUNPATH, $ORIGIN and the host's ld.so.cache). A script comes with the interpreter that its first line names. A \
version manager's shim is followed to the real program. python comes with its standard library, without test suites, \
idlelib, tkinter and site-packages. If the host has a static busybox, it is packed too, with a link in /bin for each of \
its applets, so that shells, system() and pipelines find the usual commands; the program's own files win over them. \
Without one, a shell is packed together with the host's own sort, grep, md5sum and so on. What else the program opens \
must be named with --file.

What the program sees:
User root, /tmp, /root, /dev, /proc and a minimal /etc; changes to files live in memory and end with the run. The \
environment is PATH, HOME, TERM and LANG, plus --env; nothing else comes from the host.

Exit status: the program's own, 128+N if signal N ended it, 137 if memory ran out;
  2    the command line cannot be carried out (one line says why)
  70   the microVM ended without telling the program's status, or its input
       or output failed
  124  --timeout ran out
  130  interrupted twice

The microVM's kernel is looked for beside the command and where a checkout builds it, or named in ANONMEM_KERNEL; a \
command that was built for release carries it.";

const CONFORM_HELP: &str = "\
Asks a kernel what its memory calls do, check by check, and says where it differs from Linux: mmap, munmap, mprotect, \
mremap, madvise, mlock, mincore, brk, fork, clone, /proc, limits, memory of other programs, userfaultfd. The checks are a \
static program, which is compiled when it is needed; each runs in a process of its own and says what Linux does. All \
hold on Linux 6.18.";

const CONFORM_EXAMPLES: &str = "\
Examples:
  anonmem conform                          on this machine's kernel
  anonmem conform --run --lock vma         in the microVM
  anonmem conform --run mremap --verbose   some of them, each with its reason
  anonmem conform --list madvise
  anonmem conform --cmd './boot-mine {}' --junit > conform.xml

Exit status: 0 if all hold, 1 if one does not, 2 if the command line cannot be carried out, 70 if the program ended \
before its last check.";

const DOCTOR_HELP: &str =
    "Exit status: 0 if `anonmem run` works here, 1 if something that it needs is missing.";

const COMPLETIONS_EXAMPLES: &str = "\
Examples:
  anonmem completions bash > ~/.local/share/bash-completion/completions/anonmem
  anonmem completions zsh > ~/.zfunc/_anonmem
  anonmem completions fish > ~/.config/fish/completions/anonmem.fish";

const MAN_EXAMPLES: &str = "\
Examples:
  anonmem man run | man -l -
  anonmem man --dir ~/.local/share/man/man1";

#[cfg(feature = "measure")]
const CASES_EXAMPLES: &str = "\
Examples:
  anonmem cases                 all of them
  anonmem cases swap fork       those that have both words
  anonmem cases --json | jq -r '.cases[].name'

Exit status: 0, or 2 if nothing has these words";

#[cfg(feature = "measure")]
const CHECK_HELP: &str = "\
Explores the interleavings of the memory manager's own code, case by case: each CPU of a case calls production \
functions on a simulated machine, and a rule says what must hold. A verdict says what was explored: the memory model, \
the search and its bound, the executions, whether all were tried. \"holds\" is said only of what was exhausted; it is no \
proof beyond the case's CPUs, and says nothing about Linux.";

#[cfg(feature = "measure")]
const CHECK_EXAMPLES: &str = "\
Examples:
  anonmem check                                everything, in about a minute
  anonmem check seed-001-page-lock-anon-vma    one case
  anonmem check --rmap family                  over the other reverse map
  anonmem check --model c11 --budget 600 --json verdicts.json

Exit status: 0 if no rule broke, 1 if one did, 2 if the command line cannot be carried out, 130 if interrupted: the \
table so far is printed, and the files are written.";

#[cfg(feature = "measure")]
const SCALE_HELP: &str = "\
Runs every pair of operations that commute on two simulated CPUs, one after the other, from the same state and in both \
orders, and lists the cache lines that the memory manager's own code reads and writes. A pair is free of conflicts if \
neither writes a line that the other touches: then the two never wait for one another, on however many CPUs. Threads of \
one process, a process and its child, and strangers are compared, in the three lock modes. What follows for 1 to 256 CPUs \
is a bound by arithmetic, no measurement.";

#[cfg(feature = "measure")]
const SCALE_EXAMPLES: &str = "\
Examples:
  anonmem scale                             every pair, in a minute
  anonmem scale write-fault mmap --lines    two operations, with lines of code
  anonmem scale --lock spec --svg scale.svg --html scale.html
  anonmem scale --compare docs/scale.toml   is any conflict new?
  anonmem scale --record docs/scale.toml    after one was taken away
  anonmem scale --transfer 120              of another machine
  anonmem scale --list

Exit status: 0, 1 if --compare found a conflict that the table does not have, 2 if the command line cannot be carried \
out.";

#[cfg(feature = "measure")]
const RACE_HELP: &str = "\
Draws one execution of a case as columns, one a CPU, a line for each shared access: function, object, value, ordering, \
locks held. If a rule breaks, it is the execution that breaks it, made as short as possible, and the line is marked; \
otherwise it is one that shows how it goes well.";

#[cfg(feature = "measure")]
const RACE_EXAMPLES: &str = "\
Examples:
  anonmem race seed-004-copy-after-reuse --svg race.svg
  anonmem race anon-vma-2010 --mutant no-recheck    a bug of 2010, again
  anonmem race CASE --replay ID                     what a verdict names

Exit status: 0 if no rule broke, 1 if one did (with a planted bug, too), 2 if the command line cannot be carried out, 3 \
if a planted bug was not found.";

#[cfg(feature = "measure")]
const BENCH_HELP: &str = "\
Does the same work three times, in turns: by anonmem, hosted in this process with page tables in memory and folios \
that are really zeroed and copied; by the Linux kernel of this machine, through system calls and page faults; and by the \
hardware alone, zeroing or copying the same bytes. Prints medians, spreads and ratios. The default table takes a few \
minutes; keep the machine quiet meanwhile.

With --guest, it is measured where programs run: a small static program does will-it-scale's kinds of work (page_fault1, \
mmap1, brk1, fork, munmap) with 1 to N processes and threads in the microVM and, with --kernel, on that Linux kernel in \
the same QEMU with the same memory and CPUs. Operations per second come from boots in turns; guest instructions per \
operation from one more boot each, in which QEMU counts them. Without KVM the times are those of an emulator: compare \
the instructions.";

#[cfg(feature = "measure")]
const BENCH_EXAMPLES: &str = "\
Examples:
  anonmem bench
  anonmem bench fork cow --runs 15
  anonmem bench --json bench.json --csv bench.csv --svg bench.svg
  anonmem bench --baseline bench.json          has anything become slower?
  anonmem bench --markdown docs/performance.md
  anonmem bench --rmap family                  over the other reverse map
  anonmem bench --rmap-study                   both: bytes, steps, nanoseconds
  anonmem bench --list
  anonmem bench --guest --runs 3               the microVM alone, half a minute
  anonmem bench --guest --kernel /boot/vmlinuz-6.1.0    beside that Linux
  anonmem bench --guest fork mmap --kernel vmlinuz --json guest.json

A kernel to compare with, if /boot has none that you can read (Debian, Ubuntu; nothing gets installed; the name of the \
real package is in the first one's Depends line):
  apt-get download linux-image-cloud-amd64
  apt-get download linux-image-6.1.0-NN-cloud-amd64
  dpkg -x linux-image-*-cloud-amd64_*.deb kernel
  anonmem bench --guest --kernel kernel/boot/vmlinuz-*

Exit status: 0, 2 if the command line cannot be carried out, 3 if others kept the machine too busy for times that can \
be relied on.";

/// Anonymous memory management as a library: run programs on it.
#[derive(Debug, Parser)]
#[command(name = "anonmem", version, after_help = TOP_EXAMPLES, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a Linux program on anonmem in a microVM, then print its memory bill
    #[command(long_about = RUN_HELP, after_long_help = RUN_EXAMPLES)]
    Run(RunOptions),

    /// Compare a kernel's memory calls with Linux's: the host's, the microVM's, or yours
    #[command(long_about = CONFORM_HELP, after_long_help = CONFORM_EXAMPLES)]
    Conform(ConformOptions),

    /// Measure anonmem beside the Linux of this machine and the physical limit, row by row
    #[cfg(feature = "measure")]
    #[command(long_about = BENCH_HELP, after_long_help = BENCH_EXAMPLES)]
    Bench(BenchOptions),

    /// List the cases of the catalogue: races and bugs that anonymous memory has had elsewhere
    #[cfg(feature = "measure")]
    #[command(after_long_help = CASES_EXAMPLES)]
    Cases(CasesOptions),

    /// Explore the catalogue against the production code: no root, no VM
    #[cfg(feature = "measure")]
    #[command(long_about = CHECK_HELP, after_long_help = CHECK_EXAMPLES)]
    Check(CheckOptions),

    /// Draw one case as columns, CPU by CPU
    #[cfg(feature = "measure")]
    #[command(long_about = RACE_HELP, after_long_help = RACE_EXAMPLES)]
    Race(RaceOptions),

    /// Compare operations by the cache lines that each touches: which run without talking to one another
    #[cfg(feature = "measure")]
    #[command(long_about = SCALE_HELP, after_long_help = SCALE_EXAMPLES)]
    Scale(ScaleOptions),

    /// Say what of this machine is missing, for which subcommand, and how to get it
    #[command(after_long_help = DOCTOR_HELP)]
    Doctor(DoctorOptions),

    /// Print a shell's completions
    #[command(after_long_help = COMPLETIONS_EXAMPLES)]
    Completions(CompletionsOptions),

    /// Print the manual page of the command, or of a subcommand
    #[command(after_long_help = MAN_EXAMPLES)]
    Man(ManOptions),
}

/// Options of `anonmem bench`.
#[cfg(feature = "measure")]
#[derive(Clone, Debug, Args)]
pub struct BenchOptions {
    /// What to measure and where to write it.
    #[command(flatten)]
    pub table: anonmem_bench::Options,
    /// In a guest instead.
    #[command(flatten)]
    pub guest: GuestOptions,
}

/// Options of `anonmem run`.
#[derive(Debug, Args)]
pub struct RunOptions {
    /// Memory for the program: what the memory manager manages
    #[arg(long, value_name = "SIZE", default_value = "256M", value_parser = parse_ram)]
    pub ram: u64,

    /// Swap space: pages that were not used lately go there when memory is short; 0 for none
    #[arg(long, value_name = "SIZE", default_value = "0", value_parser = parse_swap)]
    pub swap: u64,

    /// What the swap space is made of
    #[arg(long, value_enum, default_value_t = SwapBackend::Lz4)]
    pub swap_backend: SwapBackend,

    /// The file or block device to swap to with --swap-backend disk; a file is made if need be, and what it
    /// held is lost. Without this, a temporary file
    #[arg(long, value_name = "PATH")]
    pub swap_file: Option<PathBuf>,

    /// Give the program a disk: FILE, or a block device, becomes /dev/vda, the next one /dev/vdb (repeat
    /// for more). What it writes stays in FILE; with :ro it can only read. With O_DIRECT the disk reads and
    /// writes the program's own pages. Swap's disk, if there is one, comes last
    #[arg(long = "disk", value_name = "FILE[:ro]", value_parser = parse_disk)]
    pub disks: Vec<DiskOption>,

    /// Number of CPUs
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub cpus: u32,

    /// Nodes of memory: the CPUs and --ram in so many equal parts. Programs see them in
    /// /sys/devices/system/node, and move pages between them with move_pages and mbind
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=8))]
    pub nodes: u32,

    /// How the CPUs are made; auto takes KVM if a one-second probe boots under it
    #[arg(long, value_enum, default_value_t = Accel::Auto)]
    pub accel: Accel,

    /// How page faults are kept apart from changes of the mappings
    #[arg(long, value_enum, default_value_t = Lock::Mmap)]
    pub lock: Lock,

    /// How it is found what maps a page: docs/reverse-map.md compares both
    #[arg(long, value_enum, default_value_t)]
    pub rmap: Rmap,

    /// The largest folios that page faults take: 4K for single pages, 64K, 2M (or any power of two between);
    /// auto grows with what the program uses. Or each size with its mode, as in thp_anon= of Linux's command
    /// line: 16K-64K:always;2M:madvise. Programs change it in /sys/kernel/mm/transparent_hugepage
    #[arg(long, value_name = "SIZE|auto|LIST", default_value = "auto", value_parser = parse_folios)]
    pub folios: Folios,

    /// Set a variable in the program's environment (repeat for more)
    #[arg(long = "env", value_name = "K=V", value_parser = parse_env)]
    pub envs: Vec<OsString>,

    /// Add a file, or a directory with all that is in it (repeat for more). Without GUEST, one that is named
    /// below the current directory goes to the same place below --cwd, others to their path on the host
    #[arg(long = "file", value_name = "HOST[:GUEST]", value_parser = parse_file)]
    pub files: Vec<FileMapping>,

    /// Directory in the guest that the program starts in; made if it does not exist
    #[arg(long, value_name = "DIR", default_value = "/root", value_parser = parse_guest_path)]
    pub cwd: PathBuf,

    /// Stop the microVM after this many seconds and exit with 124
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds)]
    pub timeout: Option<f64>,

    /// How the memory bill is written; it goes to standard error unless --bill-file says otherwise
    #[arg(long, value_enum, default_value_t = BillFormat::Text)]
    pub bill: BillFormat,

    /// Write the memory bill to this file
    #[arg(long, value_name = "PATH")]
    pub bill_file: Option<PathBuf>,

    /// Show what the program uses while it runs: memory, faults, folios and swap, for each process. On a
    /// terminal a table below its output, else a line a second on standard error
    #[arg(long)]
    pub watch: bool,

    /// Show the kernel's log on standard error
    #[arg(long, short)]
    pub verbose: bool,

    /// Do not fill freed frames with a pattern (faster; the pattern catches uses after free)
    #[arg(long)]
    pub no_poison: bool,

    /// The microVM kernel to boot
    #[arg(long, value_name = "PATH", env = "ANONMEM_KERNEL", hide = true)]
    pub kernel: Option<PathBuf>,

    /// The QEMU to boot it with
    #[arg(long, value_name = "PATH", env = "ANONMEM_QEMU", hide = true)]
    pub qemu: Option<PathBuf>,

    /// The program, a path or a name on PATH, and its arguments; all that follows it is its own
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = false,
        value_name = "PROGRAM [ARGS]"
    )]
    pub program: Vec<OsString>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn run_options(line: &[&str]) -> RunOptions {
        let Command::Run(options) = Cli::try_parse_from(line).unwrap().command else {
            panic!("{line:?} is no run");
        };
        options
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_subcommand_has_a_page_and_every_shell_knows_it() {
        use clap_complete::Shell;
        let dir = tempfile::tempdir().unwrap();
        let pages = ManOptions { dir: Some(dir.path().into()), subcommand: None };
        crate::shell::man(&pages, Cli::command()).unwrap();
        for command in Cli::command().get_subcommands().filter(|command| command.get_name() != "help") {
            let name = command.get_name();
            let page = std::fs::read_to_string(dir.path().join(format!("anonmem-{name}.1"))).unwrap();
            assert!(page.contains(&format!("anonmem\\-{name}")), "{name}: {page}");
            for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
                let mut text = Vec::new();
                clap_complete::generate(shell, &mut Cli::command(), "anonmem", &mut text);
                assert!(String::from_utf8(text).unwrap().contains(name), "{shell} does not know {name}");
            }
        }
    }

    #[test]
    fn examples_fit_into_80_columns() {
        let all = Cli::command();
        for command in std::iter::once(&all).chain(all.get_subcommands()) {
            let text = command.get_after_long_help().or(command.get_after_help()).map(ToString::to_string);
            for line in text.iter().flat_map(|text| text.lines()).filter(|line| line.starts_with("  ")) {
                assert!(line.chars().count() <= 80, "{}: {line}", command.get_name());
            }
        }
    }

    #[test]
    fn defaults_are_what_the_help_says() {
        let options = run_options(&["anonmem", "run", "--", "true"]);
        assert_eq!((options.ram, options.cpus, options.accel), (256 << 20, 2, Accel::Auto));
        assert_eq!((options.bill, options.timeout), (BillFormat::Text, None));
        assert_eq!((options.swap, options.swap_backend), (0, SwapBackend::Lz4));
        assert_eq!(options.program, ["true"]);
    }

    #[test]
    fn everything_after_the_dashes_belongs_to_the_program() {
        let options = run_options(&["anonmem", "run", "--ram", "64M", "--", "ls", "--ram", "--", "-x"]);
        assert_eq!(options.ram, 64 << 20);
        assert_eq!(options.program, ["ls", "--ram", "--", "-x"]);
        let options = run_options(&["anonmem", "run", "--ram", "64M", "ls", "-l", "--ram", "1M"]);
        assert_eq!(
            (options.ram, options.program),
            (64 << 20, ["ls", "-l", "--ram", "1M"].map(OsString::from).to_vec())
        );
    }

    #[test]
    fn a_file_may_name_its_place_in_the_guest() {
        let options =
            run_options(&["anonmem", "run", "--file", "a.py:/root/a.py", "--file", "/b", "--", "x"]);
        assert_eq!(options.files[0], FileMapping { host: "a.py".into(), guest: Some("/root/a.py".into()) });
        assert_eq!(options.files[1], FileMapping { host: "/b".into(), guest: None });
    }

    #[test]
    fn bad_values_are_refused() {
        for bad in [
            ["--ram", "lots"],
            ["--cpus", "0"],
            ["--swap", "much"],
            ["--lock", "none"],
            ["--env", "=x"],
            ["--env", "x"],
            ["--file", ":/x"],
            ["--file", "x:y"],
            ["--timeout", "0"],
            ["--disk", ":ro"],
            ["--cwd", "here"],
        ] {
            let line = ["anonmem", "run", bad[0], bad[1], "--", "true"];
            assert_eq!(Cli::try_parse_from(line).unwrap_err().exit_code(), 2, "{bad:?}");
        }
    }
}

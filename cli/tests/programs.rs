//! Programs that people use, in the microVM and on the host: the same output, and no frame is lost.
//!
//! Each is skipped with a line where it is not installed, all where the kernel or QEMU is missing.

mod common;

use common::{Vm, host_runs, vm_is_there};

/// Whether a program is installed; says so if it is not.
fn is_installed(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|dir| dir.join(name).is_file());
    if !found {
        eprintln!("skipped: {name} is not installed");
    }
    found
}

/// Runs a command on the host and in the microVM, with each of these options, and compares.
fn same_on_host(command: &[&str], runs: &[&[&str]]) {
    if !vm_is_there() || !is_installed(command[0]) {
        return;
    }
    let expected = host_runs(command);
    for options in runs {
        let ran = Vm::new().options(options).run(command).expect_status(0);
        assert_eq!(ran.stdout, expected, "{options:?}: {}", ran.stderr);
    }
}

const ENOUGH: &[&str] = &["--ram", "256M"];

/// A hash that grows, and a child that has a copy of it.
#[test]
fn perl_prints_what_the_host_prints() {
    let script = "my %h; $h{$_ % 1000} .= $_ for 1..200000; my $n = 0; $n += length $h{$_} for sort keys %h; \
                  print qq($n\\n); my $pid = fork; if (!$pid) { $h{1} = 'x'; exit 3 } waitpid $pid, 0; \
                  print $? >> 8, ' ', length $h{1}, qq(\\n);";
    same_on_host(&["perl", "-e", script], &[ENOUGH, &["--ram", "16M", "--swap", "64M"]]);
}

/// A table in memory that is indexed, joined and sorted.
#[test]
fn sqlite3_prints_what_the_host_prints() {
    let script = "create table t(a, b); \
                  with recursive n(i) as (select 1 union all select i + 1 from n where i < 50000) \
                  insert into t select i, i * i % 997 from n; create index x on t(b); \
                  select b, count(*) c, sum(a) from t group by b order by c desc, b limit 5; \
                  select count(*) from t u join t v on u.a = v.b; pragma integrity_check;";
    same_on_host(&["sqlite3", ":memory:", script], &[ENOUGH, &["--ram", "16M", "--swap", "64M"]]);
}

#[test]
fn git_keeps_a_history() {
    let script = "set -e; d=$(mktemp -d); cd $d; export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_NOSYSTEM=1 \
                  GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_AUTHOR_DATE='1700000000 +0000' GIT_COMMITTER_NAME=a \
                  GIT_COMMITTER_EMAIL=a@b GIT_COMMITTER_DATE='1700000000 +0000'; \
                  git init -q -b main .; i=0; while [ $i -lt 5 ]; do echo $i >>file; git add file; \
                  git commit -q -m $i; i=$((i + 1)); done; git log --format=%H%s; git gc -q; git fsck --full 2>&1; \
                  git checkout -q HEAD~3; cat file";
    if !vm_is_there() || !is_installed("git") {
        return;
    }
    let expected = host_runs(&["busybox", "sh", "-c", script]);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let git = std::env::split_paths(&path).map(|dir| dir.join("git")).find(|git| git.is_file()).unwrap();
    let file = format!("{}:/usr/bin/git", git.display());
    let ran = Vm::new().options(&["--file", &file]).run(&["busybox", "sh", "-c", script]).expect_status(0);
    assert_eq!(ran.stdout, expected, "{}", ran.stderr);
}

/// A heap that its collector compacts, and a server and its client on one loop.
#[test]
fn node_prints_what_the_host_prints() {
    let script = "let a = []; for (let i = 0; i < 200000; i++) a.push({ i, s: 'x'.repeat(i % 50) }); \
                  a = a.filter(o => o.i % 3); console.log(a.length, a.reduce((n, o) => n + o.s.length, 0)); \
                  const net = require('net'); \
                  const server = net.createServer(c => c.on('data', d => c.end(String(d).toUpperCase()))); \
                  server.listen(0, '127.0.0.1', () => { const c = net.connect(server.address().port, '127.0.0.1'); \
                  c.on('connect', () => c.write('hello')); c.on('data', d => console.log(String(d))); \
                  c.on('close', () => server.close()); });";
    same_on_host(&["node", "-e", script], &[&["--ram", "512M"]]);
}

/// A server of Python's for a protocol over TCP and over a Unix socket, with a process a connection, and
/// processes that send each other descriptors.
#[test]
fn servers_and_clients_talk_over_loopback_and_unix_sockets() {
    let script = include_str!("../../tests/programs/servers.py");
    for cpus in ["1", "4"] {
        same_on_host(&["python3", "-c", script], &[&["--cpus", cpus]]);
    }
}

/// Every call of the memory stressors; how much they do is theirs to say.
#[test]
fn stress_ng_finds_nothing_wrong() {
    if !vm_is_there() || !is_installed("stress-ng") {
        return;
    }
    for stressors in [
        "--vm 1 --vm-bytes 16M --vm-ops 50 --brk 1 --brk-ops 500 --stack 1 --stack-ops 5",
        "--fork 2 --fork-ops 100 --mmap 1 --mmap-ops 10 --mmap-bytes 8M --mremap 1 --mremap-ops 20 --mremap-bytes 4M",
        "--madvise 1 --madvise-ops 5 --userfaultfd 1 --userfaultfd-ops 200 --userfaultfd-bytes 1M",
        "--vm-splice 1 --vm-splice-ops 200 --shm-sysv 1 --shm-sysv-ops 10 --sem-sysv 1 --sem-sysv-ops 500",
    ] {
        let mut command = vec!["stress-ng", "-q"];
        command.extend(stressors.split(' '));
        Vm::new().options(&["--ram", "256M", "--cpus", "4"]).run(&command).expect_status(0);
    }
}

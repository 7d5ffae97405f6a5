//! Programs that people use, in the microVM and on the host: the same output, and no frame is lost. So it is
//! with enough memory, and with a quarter of what the program had at its peak, and swap.
//!
//! Each is skipped with a line where it is not installed, all where the kernel or QEMU is missing.

mod common;

use common::{Ran, Vm, host_runs, vm_is_there};

/// Whether a program is installed; says so if it is not.
fn is_installed(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|dir| dir.join(name).is_file());
    if !found {
        eprintln!("skipped: {name} is not installed");
    }
    found
}

const ENOUGH: &[&str] = &["--ram", "256M"];
/// The least memory that the microVM takes, in pages.
const LEAST: u64 = (8 << 20) / 4096;

/// Swap that keeps what it has in memory, compressed.
const COMPRESSED: &[&str] = &["--swap", "512M"];
/// For what is not compressed to a tenth, so that a quarter has no room for it.
const DISK: &[&str] = &["--swap", "512M", "--swap-backend", "disk"];

/// Runs a command in 256 MiB, and in a quarter of what it used there at its peak, with this swap; both print
/// what the host prints.
fn same_in_a_quarter(options: &[&str], swap: &[&str], command: &[&str], expected: &str) {
    let run = |memory: &[&str]| -> Ran {
        let ran = Vm::new().options(options).options(memory).run(command).expect_status(0);
        assert_eq!(ran.stdout, expected, "{memory:?}: {}", ran.stderr);
        ran
    };
    let quarter = run(ENOUGH).bill["peak_frames"].as_u64().unwrap() / 4;
    let ran = run(&[&["--ram", &format!("{}K", quarter.max(LEAST) * 4)], swap].concat());
    let outs = ran.bill["swap"]["outs"].as_u64().unwrap();
    // A small one has more than a quarter, and less than it needs.
    let wanted = if quarter < LEAST { 0 } else { quarter };
    assert!(outs > wanted, "{outs} pages left a memory of {}", quarter.max(LEAST));
}

/// The same, for a program that needs no options.
fn same_on_host_in_a_quarter(swap: &[&str], command: &[&str]) {
    if vm_is_there() && is_installed(command[0]) {
        same_in_a_quarter(&[], swap, command, &host_runs(command));
    }
}

/// A list that grows, and a child that has a copy of it.
#[test]
fn perl_prints_what_the_host_prints() {
    let script = "my @a; push @a, $_ x 200 for 1..30000; my $n = 0; $n += length for @a; print qq($n\\n); \
                  my $pid = fork; if (!$pid) { $a[1] = 'x'; exit 3 } waitpid $pid, 0; \
                  print $? >> 8, ' ', length $a[1], qq(\\n);";
    same_on_host_in_a_quarter(COMPRESSED, &["perl", "-e", script]);
}

/// A table in memory that is indexed, joined and sorted.
#[test]
fn sqlite3_prints_what_the_host_prints() {
    let script = "create table t(a, b); \
                  with recursive n(i) as (select 1 union all select i + 1 from n where i < 200000) \
                  insert into t select i, i * i % 997 from n; create index x on t(b); \
                  select b, count(*) c, sum(a) from t group by b order by c desc, b limit 5; \
                  select count(*) from t u join t v on u.a = v.b; pragma integrity_check;";
    same_on_host_in_a_quarter(DISK, &["sqlite3", ":memory:", script]);
    let script = "create table t(a, b, c); \
                  with recursive n(i) as (select 1 union all select i + 1 from n where i < 30000) \
                  insert into t select i, i * i % 997, hex(zeroblob(500)) from n; \
                  select count(*), sum(a), sum(length(c)) from t; update t set b = b + 1 where a % 100 = 0; \
                  select sum(b = 3), max(a) from t;";
    same_on_host_in_a_quarter(COMPRESSED, &["sqlite3", ":memory:", script]);
}

#[test]
fn git_keeps_a_history() {
    let script = "set -e; d=$(mktemp -d); cd $d; export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_NOSYSTEM=1 \
                  GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_AUTHOR_DATE='1700000000 +0000' GIT_COMMITTER_NAME=a \
                  GIT_COMMITTER_EMAIL=a@b GIT_COMMITTER_DATE='1700000000 +0000'; \
                  git init -q -b main .; i=0; while [ $i -lt 5 ]; do seq $i 40000 >>file; git add file; \
                  git commit -q -m $i; i=$((i + 1)); done; git log --format=%H%s; git gc -q; git fsck --full 2>&1; \
                  git checkout -q HEAD~3; md5sum file";
    if !vm_is_there() || !is_installed("git") {
        return;
    }
    let expected = host_runs(&["busybox", "sh", "-c", script]);
    let file = format!("{}:/usr/bin/git", path_of("git"));
    same_in_a_quarter(&["--file", &file], DISK, &["busybox", "sh", "-c", script], &expected);
}

/// A heap that its collector compacts, and a server and its client on one loop; then memory beside the heap.
#[test]
fn node_prints_what_the_host_prints() {
    let script = "let a = []; for (let i = 0; i < 200000; i++) a.push({ i, s: 'x'.repeat(i % 50) }); \
                  a = a.filter(o => o.i % 3); console.log(a.length, a.reduce((n, o) => n + o.s.length, 0)); \
                  const net = require('net'); \
                  const server = net.createServer(c => c.on('data', d => c.end(String(d).toUpperCase()))); \
                  server.listen(0, '127.0.0.1', () => { const c = net.connect(server.address().port, '127.0.0.1'); \
                  c.on('connect', () => c.write('hello')); c.on('data', d => console.log(String(d))); \
                  c.on('close', () => server.close()); });";
    same_on_host_in_a_quarter(DISK, &["node", "-e", script]);
    let script = "const b = []; for (let i = 0; i < 48; i++) b.push(Buffer.alloc(2 << 20, 'page ' + i)); \
                  console.log(b.length, b.reduce((n, x) => n + x[12345], 0));";
    same_on_host_in_a_quarter(COMPRESSED, &["node", "-e", script]);
}

/// A server of Python's for a protocol over TCP and over a Unix socket, with a process a connection, and
/// processes that send each other descriptors.
#[test]
fn servers_and_clients_talk_over_loopback_and_unix_sockets() {
    let script = include_str!("../../tests/programs/servers.py");
    let command = ["python3", "-c", script];
    if vm_is_there() && is_installed("python3") {
        for cpus in ["1", "4"] {
            same_in_a_quarter(&["--cpus", cpus], DISK, &command, &host_runs(&command));
        }
    }
}

/// The path of a program that is installed.
fn path_of(name: &str) -> String {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file());
    found.unwrap().display().to_string()
}

/// A port of the host's that nobody listens to.
fn free_port() -> String {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    listener.local_addr().unwrap().port().to_string()
}

/// A server that saves itself in a child while three clients write to it, and one that loads what was saved.
#[test]
fn redis_saves_itself_under_load() {
    if !vm_is_there() || !["redis-server", "redis-cli"].iter().all(|name| is_installed(name)) {
        return;
    }
    let script = include_str!("../../tests/programs/redis.sh");
    let command = ["busybox", "sh", "-c", script, "redis", &free_port()];
    let expected = host_runs(&command);
    let files: Vec<_> = ["redis-server", "redis-cli"]
        .map(|name| (path_of(name), format!("/usr/bin/{name}")))
        .map(|(host, guest)| format!("{host}:{guest}"))
        .to_vec();
    let options = ["--cpus", "2", "--file", &files[0], "--file", &files[1]];
    same_in_a_quarter(&options, DISK, &command, &expected);
}

#[test]
fn lua_prints_what_the_host_prints() {
    let script = "local t = {} for i = 1, 4000 do t[i] = {i, tostring(i):rep(3000)} end \
                  for i = 1, 4000, 3 do t[i] = nil end collectgarbage() local n = 0 \
                  for i = 1, 4000 do n = n + (t[i] and #t[i][2] or 0) end print(n) \
                  local co = coroutine.wrap(function() for i = 1, 3 do coroutine.yield(i) end end) \
                  print(co(), co(), co())";
    let name = if is_installed("lua5.4") { "lua5.4" } else { "lua" };
    same_on_host_in_a_quarter(COMPRESSED, &[name, "-e", script]);
}

/// A heap that is compacted, a child, a thread, and a server of one connection.
#[test]
fn ruby_prints_what_the_host_prints() {
    let script = "require 'set'; require 'socket'; a = (1..20000).map { |i| i.to_s * 900 }; \
                  a.select!.with_index { |_, i| i % 3 > 0 }; GC.start; GC.compact if GC.respond_to?(:compact); \
                  puts a.sum(&:size), Set.new(a.map { |s| s[0, 9] }).size; \
                  pid = fork { a[0] = 'x'; exit 3 }; Process.wait pid; \
                  puts $?.exitstatus, a[0][0, 9]; s = TCPServer.new '127.0.0.1', 0; \
                  t = Thread.new { c = s.accept; c.puts c.gets.upcase; c.close }; \
                  c = TCPSocket.new '127.0.0.1', s.addr[1]; c.puts 'hello'; puts c.read; t.join";
    same_on_host_in_a_quarter(COMPRESSED, &["ruby", "-e", script]);
}

/// The machine of Java, its collector and its compiler, and a program in a class of its own.
#[test]
fn java_prints_what_the_host_prints() {
    if !vm_is_there() || !["java", "javac"].iter().all(|name| is_installed(name)) {
        return;
    }
    let source = r#"
        public class Churn {
            public static void main(String[] words) throws Exception {
                var kept = new java.util.ArrayList<byte[]>();
                long sum = 0;
                for (int i = 0; i < 150; i++) {
                    kept.add(new byte[1000000]);
                    if (kept.size() > 90) kept.remove(0);
                    sum += kept.size();
                }
                int[] parts = new int[4];
                Thread[] threads = new Thread[4];
                for (int t = 0; t < 4; t++) {
                    int me = t;
                    threads[t] = new Thread(() -> { for (int i = 0; i < 1000000; i++) parts[me] += i % 7; });
                    threads[t].start();
                }
                for (Thread thread : threads) thread.join();
                System.out.println(sum + " " + java.util.Arrays.stream(parts).sum());
            }
        }"#;
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("Churn.java"), source).unwrap();
    let mut compiler = std::process::Command::new("javac");
    assert!(
        compiler.arg("-d").arg(dir.path()).arg(dir.path().join("Churn.java")).status().unwrap().success()
    );
    let classes = dir.path().to_str().unwrap();
    let command = ["java", "-Xmx160m", "-cp", classes, "Churn"];
    let file = format!("{classes}:{classes}");
    same_in_a_quarter(&["--file", &file], COMPRESSED, &command, &host_runs(&command));
}

/// The driver runs the compiler, the assembler and the linker; their program is the host's, byte by byte.
#[test]
fn gcc_makes_the_program_that_it_makes_on_the_host() {
    if !vm_is_there() || !is_installed("gcc") {
        return;
    }
    let asked =
        |option: &str, name: &str| host_runs(&["gcc", &format!("{option}={name}")]).trim().to_string();
    let tools = ["cc1", "collect2"].map(|name| asked("-print-prog-name", name));
    let parts =
        ["crt1.o", "crti.o", "crtn.o", "crtbeginT.o", "crtend.o", "libgcc.a", "libgcc_eh.a", "libc.a"];
    let parts = parts.map(|name| asked("-print-file-name", name));
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source.i").display().to_string();
    std::fs::write(&source, "int puts(const char *);\nint main(void) { puts(\"made\"); return 0; }\n")
        .unwrap();
    let script =
        "cd $(mktemp -d) && gcc -static -O2 -fno-use-linker-plugin \"$1\" -o made && ./made && md5sum made";
    let command = ["busybox", "sh", "-c", script, "make", &source];
    let expected = host_runs(&command);
    let files =
        ["gcc", "as", "ld"].map(path_of).into_iter().chain(tools).chain(parts).chain([source.clone()]);
    let files: Vec<_> = files.flat_map(|file| ["--file".to_string(), format!("{file}:{file}")]).collect();
    let files: Vec<_> = files.iter().map(String::as_str).collect();
    same_in_a_quarter(&files, DISK, &command, &expected);
}

/// A program with a scheduler and a collector of its own.
#[test]
fn a_program_of_go_prints_what_the_host_prints() {
    if !vm_is_there() || !is_installed("go") {
        return;
    }
    let source = r#"
        package main
        import ("fmt"; "os"; "runtime"; "sync")
        func main() {
            var group sync.WaitGroup
            sums := make(chan int, 10)
            for i := 0; i < 200; i++ {
                group.Add(1)
                go func(i int) {
                    defer group.Done()
                    block := make([]byte, 100000)
                    for j := range block { block[j] = byte(i) }
                    sums <- len(block) + int(block[i])
                }(i)
            }
            go func() { group.Wait(); close(sums) }()
            total := 0
            for n := range sums { total += n }
            runtime.GC()
            file, err := os.CreateTemp("", "x")
            if err != nil { panic(err) }
            fmt.Fprintln(file, total)
            text, err := os.ReadFile(file.Name())
            fmt.Print(string(text), err, "\n")
        }"#;
    let dir = tempfile::tempdir().unwrap();
    let (file, program) = (dir.path().join("main.go"), dir.path().join("program"));
    std::fs::write(&file, source).unwrap();
    let mut build = std::process::Command::new("go");
    build.args(["build", "-o"]).arg(&program).arg(&file).env("GOCACHE", dir.path().join("cache"));
    assert!(build.env("GO111MODULE", "off").status().unwrap().success());
    let expected = host_runs(&[&program]);
    same_in_a_quarter(&["--cpus", "4"], COMPRESSED, &[program.to_str().unwrap()], &expected);
}

/// Allocators that return memory in ways of their own, loaded before a program's.
#[test]
fn other_allocators_serve_a_program() {
    for library in ["libjemalloc.so.2", "libmimalloc.so.2"] {
        let path = format!("/usr/lib/x86_64-linux-gnu/{library}");
        if !vm_is_there() || !is_installed("perl") || !std::path::Path::new(&path).exists() {
            eprintln!("skipped: {library} is not installed");
            continue;
        }
        // The last line says that the library is there: a loader goes on without one that it cannot load.
        let script = "my @a = map { 'x' x ($_ % 3000) } 1..20000; @a = grep { length($_) % 3 } @a; \
                      push @a, 'y' x 1000000 for 1..20; my $n = 0; $n += length for @a; print qq($n\n); \
                      open my $maps, '/proc/self/maps'; print grep(/malloc[.]so/, <$maps>) > 0, qq(\n)";
        let (preload, file) = (format!("LD_PRELOAD={path}"), format!("{path}:{path}"));
        let expected = host_runs(&["env", &preload, "perl", "-e", script]);
        assert!(expected.ends_with("\n1\n"), "{expected}");
        same_in_a_quarter(
            &["--env", &preload, "--file", &file],
            COMPRESSED,
            &["perl", "-e", script],
            &expected,
        );
    }
}

/// Every call of the memory stressors; how much they do is theirs to say.
#[test]
fn stress_ng_finds_nothing_wrong() {
    if !vm_is_there() || !is_installed("stress-ng") {
        return;
    }
    // Not every release has the stressor of KSM.
    let has_ksm = host_runs(&["stress-ng", "--help"]).contains("--ksm N");
    let ksm = ["--vm 1 --vm-bytes 8M --vm-ops 10 --vm-madvise mergeable", "--ksm 1 --ksm-ops 100"];
    for stressors in [
        ksm[usize::from(has_ksm)],
        "--vm 1 --vm-bytes 16M --vm-ops 50 --brk 1 --brk-ops 500 --stack 1 --stack-ops 5",
        "--fork 2 --fork-ops 100 --mmap 1 --mmap-ops 10 --mmap-bytes 8M --mremap 1 --mremap-ops 20 --mremap-bytes 4M",
        "--madvise 1 --madvise-ops 5 --userfaultfd 1 --userfaultfd-ops 200 --userfaultfd-bytes 1M",
        "--vm-splice 1 --vm-splice-ops 200 --shm-sysv 1 --shm-sysv-ops 10 --sem-sysv 1 --sem-sysv-ops 500",
    ] {
        let mut command = vec!["stress-ng", "-q"];
        command.extend(stressors.split(' '));
        same_in_a_quarter(&["--cpus", "4"], DISK, &command, "");
    }
}

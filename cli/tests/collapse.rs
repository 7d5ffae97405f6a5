//! Small pages that become large ones in the microVM, by advice and in the background, and free memory that
//! is made whole again. The host is asked first where it can be.

mod common;

use common::{Linked, Vm, compile, host_runs, vm_is_there};

const LOCKS: [&str; 3] = ["mmap", "vma", "speculative"];

#[test]
fn a_program_collapses_its_memory_as_on_linux() {
    if !vm_is_there() {
        return;
    }
    let program = compile("collapse", Linked::Static);
    let host = host_runs(&[&program]);
    assert!(["collapse: ok\n", "collapse: no block\n"].contains(&&*host), "{host}");
    for (folios, lock) in ["4K", "auto", "64K"].into_iter().zip(LOCKS) {
        let options = ["--cpus", "2", "--ram", "128M", "--folios", folios, "--lock", lock];
        let ran = Vm::new().options(&options).run(&[program.as_os_str()]).expect_status(0);
        assert_eq!(ran.stdout, "collapse: ok\n", "{folios}, {lock}: {}", ran.stderr);
    }
}

/// How much of a program's private memory lies in large folios, in per cent.
const PART: &str = "
import struct
HEAD_OR_TAIL = 1 << 15 | 1 << 16
def part():
    large = pages = 0
    flags = open('/proc/kpageflags', 'rb')
    pagemap = open('/proc/self/pagemap', 'rb')
    for line in open('/proc/self/maps'):
        fields = line.split()
        if not fields[1].startswith('rw-p') or (len(fields) > 5 and fields[5] not in ('[heap]',)):
            continue
        start, end = (int(x, 16) for x in fields[0].split('-'))
        pagemap.seek(start >> 9)
        for (entry,) in struct.iter_unpack('<Q', pagemap.read((end - start) >> 9)):
            if entry >> 63 & 1 and entry & (1 << 55) - 1:
                flags.seek((entry & (1 << 55) - 1) * 8)
                pages += 1
                large += bool(struct.unpack('<Q', flags.read(8))[0] & HEAD_OR_TAIL)
    return 100 * large // pages, pages
";

/// A heap that lives long, beside objects that come and go.
#[test]
fn python_ends_with_its_heap_in_large_folios() {
    if !vm_is_there() {
        return;
    }
    let script = "
import os, sys
T = '/sys/kernel/mm/transparent_hugepage/khugepaged/'
def put(name, value):
    with open(T + name, 'w') as file: file.write(str(value))
def get(name):
    return int(open(T + name).read())
put('sizes', 'all')
put('scan_sleep_millisecs', 5)
put('alloc_sleep_millisecs', 20)
put('pages_to_scan', 8192)
put('run', 1)
heap = {i: [str(i) * 3, i * 1.5, (i, i + 1)] for i in range(60_000)}
expected = sum(len(v[0]) + v[2][1] for v in heap.values())
end = get('full_scans') + 4
while get('full_scans') < end:
    passing = [str(i) for i in range(3_000)]
    for i in range(0, 60_000, 997): heap[i][1] += 1
assert sum(len(v[0]) + v[2][1] for v in heap.values()) == expected
large, pages = part()
print('made', get('pages_collapsed') > 0, 'large', large >= 70)
print(large, 'per cent of', pages, 'pages', get('pages_collapsed'), 'folios', file=sys.stderr)
";
    let script = PART.to_owned() + script;
    for lock in LOCKS {
        let options = ["--cpus", "2", "--ram", "256M", "--folios", "4K", "--lock", lock];
        let ran = Vm::new().options(&options).run(&["python3", "-c", &script]).expect_status(0);
        println!("{lock}: {}", ran.stderr.lines().find(|line| line.contains("per cent")).unwrap_or(""));
        assert_eq!(ran.stdout, "made True large True\n", "{lock}: {}", ran.stderr);
    }
}

/// Every second page of most of memory is given back: no block of 2 MiB is free, until somebody asks for it.
#[test]
fn free_memory_is_whole_again_when_root_asks_or_the_task_works() {
    if !vm_is_there() {
        return;
    }
    let script = "
import mmap, time
def blocks(): return sum(int(n) << nth for nth, n in enumerate(open('/proc/buddyinfo').read().split()[13:]))
def unusable(): return float(open('/sys/kernel/debug/extfrag/unusable_index').read().split()[13])
def put(name, value):
    with open('/proc/sys/vm/' + name, 'w') as file: file.write(str(value))
def broken():
    m = mmap.mmap(-1, 80 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for at in range(0, len(m), 4096): m[at] = at >> 12 & 255
    for at in range(0, len(m), 8192): m.madvise(mmap.MADV_DONTNEED, at, 4096)
    return m
def right(m): return all(m[at] == (0 if at % 8192 == 0 else at >> 12 & 255) for at in range(4096, len(m), 8192))
m = broken()
before = blocks()
put('compact_memory', 1)
print(blocks() > before + 12, unusable() < 0.3, right(m))
m.close()
m = broken()
before = blocks()
put('compaction_proactiveness', 90)
deadline = time.monotonic() + 30
while blocks() <= before + 10 and time.monotonic() < deadline: time.sleep(0.05)
print(blocks() > before + 10, right(m))
info = open('/proc/pagetypeinfo').read()
print('Page block order: 9' in info, info.count('type      Movable') == 1)
";
    let ran = Vm::new()
        .options(&["--cpus", "2", "--ram", "128M", "--folios", "4K"])
        .run(&["python3", "-c", script])
        .expect_status(0);
    assert_eq!(ran.stdout, "True True True\nTrue True\nTrue True\n", "{}", ran.stderr);
}

/// One frame is emptied before it fails, another has failed: who has a page in it gets a signal.
#[test]
fn frames_that_root_declares_bad_are_not_used_again() {
    if !vm_is_there() {
        return;
    }
    let script = "
import mmap, os, struct
HWPOISON, SOFT_OFFLINE = 100, 101
m = mmap.mmap(-1, 1 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for at in range(0, len(m), 4096): m[at] = at >> 12 | 1
import ctypes
start = ctypes.addressof(ctypes.c_char.from_buffer(m))
def frame(page):
    with open('/proc/self/pagemap', 'rb') as file:
        file.seek((start >> 12) * 8 + page * 8)
        return struct.unpack('<Q', file.read(8))[0] & (1 << 55) - 1
before = [frame(n) for n in range(256)]
m.madvise(SOFT_OFFLINE, 0, 16 * 4096)
after = [frame(n) for n in range(256)]
print(all(a != b for a, b in zip(before[:16], after[:16])), before[16:] == after[16:])
print(all(m[at] == at >> 12 & 255 | 1 for at in range(0, len(m), 4096)))
untouched = mmap.mmap(-1, 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
untouched.madvise(SOFT_OFFLINE, 0, 4096)
start = ctypes.addressof(ctypes.c_char.from_buffer(untouched))
print(frame(0) != 0)
pid = os.fork()
if pid == 0:
    m.madvise(HWPOISON, 20 * 4096, 4096)
    m[21 * 4096] = 5
    m[20 * 4096]
    os._exit(0)
print(os.WTERMSIG(os.waitpid(pid, 0)[1]))
try:
    m.madvise(SOFT_OFFLINE, 1, 4096)
except OSError as error:
    print(error.errno)
os.setuid(1000)
try:
    m.madvise(SOFT_OFFLINE, 0, 4096)
except OSError as error:
    print(error.errno)
";
    for folios in ["4K", "64K"] {
        let options = ["--cpus", "2", "--ram", "64M", "--folios", folios];
        let ran = Vm::new().options(&options).run(&["python3", "-c", script]).expect_status(0);
        let moved = ran.stdout.lines().next().unwrap_or("");
        // A large folio is split, or goes whole: then its other pages go along.
        assert!(moved.starts_with("True"), "{folios}: {}{}", ran.stdout, ran.stderr);
        let rest: Vec<_> = ran.stdout.lines().skip(1).collect();
        assert_eq!(rest, ["True", "True", "7", "22", "1"], "{folios}: {}", ran.stderr);
    }
}

/// A descriptor of a setting is worth nothing to who is not root, and some files are for root alone.
#[test]
fn settings_ask_who_writes_and_not_who_opened() {
    if !vm_is_there() {
        return;
    }
    let script = "
import os
def mode(path): return oct(os.stat(path).st_mode & 0o777)
def refused(call):
    try: call()
    except OSError as error: return error.errno
print(mode('/proc/pagetypeinfo'), mode('/proc/sys/vm/compact_memory'), mode('/proc/sys/kernel/ostype'))
print(refused(lambda: open('/proc/sys/vm/compact_memory').read()))
kept = os.open('/proc/sys/vm/overcommit_ratio', os.O_WRONLY)
os.write(kept, b'60')
os.setuid(1000)
print(refused(lambda: os.write(kept, b'70')), refused(lambda: open('/proc/pagetypeinfo')))
print(refused(lambda: open('/proc/sys/vm/overcommit_ratio', 'w')), open('/proc/sys/vm/overcommit_ratio').read())
";
    let ran = Vm::new().run(&["python3", "-c", script]).expect_status(0);
    assert_eq!(ran.stdout, "0o400 0o200 0o444\n13\n1 13\n13 60\n\n", "{}", ran.stderr);
}

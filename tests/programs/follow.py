# Grows its heap, forks, moves, drops and unmaps memory, and looks whether every byte is right: `follow.c` is preloaded, of which it knows
# nothing until it asks at the end what was told.
import ctypes, mmap, os, sys

PAGE = 4096

def pattern(seed, n):
    return bytes((seed * 7 + i) % 251 for i in range(n))

def heap(seed, n):
    blocks = [pattern(seed + i, 997) * 16 for i in range(n)]
    for i, block in enumerate(blocks):
        assert block == pattern(seed + i, 997) * 16, ('heap', seed, i)
    return sum(map(len, blocks))

def mapping(seed):
    m = mmap.mmap(-1, 24 * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for page in range(0, 24, 2):
        m[page * PAGE:page * PAGE + 8] = pattern(seed + page, 8)
    return m

def check(m, seed, pages, dropped=()):
    for page in range(pages):
        right = pattern(seed + page, 8) if page % 2 == 0 and page < 24 and page not in dropped else bytes(8)
        assert m[page * PAGE:page * PAGE + 8] == right, ('mapping', seed, page)

def use(m, seed):
    m.resize(120 * PAGE)
    check(m, seed, 120)
    m.madvise(mmap.MADV_DONTNEED, 4 * PAGE, 8 * PAGE)
    check(m, seed, 120, range(4, 12))
    m.resize(3 * PAGE)
    check(m, seed, 3)
    m.close()

def child(m, seed, depth):
    use(m, seed)
    heap(seed + 1, 40)
    other = mapping(seed + 2)
    if depth:
        run(lambda: child(other, seed + 2, depth - 1))
    use(other, seed + 2)

def run(what):
    pid = os.fork()
    if pid == 0:
        try:
            what()
            os._exit(0)
        except BaseException as e:
            print(repr(e), file=sys.stderr, flush=True)
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

heap(0, 200)
for i in range(6):
    m = mapping(i)
    run(lambda: child(m, i, 2))
    use(m, i)
    heap(i, 60)
follow = ctypes.CDLL(sys.argv[1])
counts = (ctypes.c_ulong * 5)()
follow.follow_counts(counts)
follow.follow_wrong.restype = ctypes.c_char_p
wrong = follow.follow_wrong().decode()
assert counts[1] >= 18, (list(counts), wrong)
told = ' '.join(name for name, n in zip(('faults', 'forks', 'moves', 'removals', 'unmappings'), counts) if n > 0)
print('followed:', told, wrong or 'and nothing was wrong')
if os.environ.get('FOLLOW_COUNTS'):
    print(list(counts), file=sys.stderr)

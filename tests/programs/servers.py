# A small server of keys over TCP, which saves itself in a child while it is written to; the same over a Unix
# socket; processes that pass descriptors. Prints the same on every machine.
import array, hashlib, os, selectors, socket, socketserver, struct, sys, tempfile, threading

KEYS = {}
HERE = tempfile.mkdtemp()


def save(path):
    """Writes all keys in a child: it sees the moment in which it was made."""
    child = os.fork()
    if child == 0:
        with open(path, 'w') as out:
            for key in sorted(KEYS):
                out.write(f'{key}={KEYS[key]}\n')
        os._exit(0)
    return child


class Keys(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            words = line.decode().split()
            if words[0] == 'SET':
                KEYS[words[1]] = words[2]
                answer = 'OK'
            elif words[0] == 'GET':
                answer = KEYS.get(words[1], '-')
            elif words[0] == 'BGSAVE':
                self.server.children.append(save(words[1]))
                answer = 'saving'
            else:
                answer = 'what?'
            self.wfile.write(answer.encode() + b'\n')


class Tcp(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    children = []


class Unix(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    children = []


def client(make, number):
    with make() as connection:
        file = connection.makefile('rwb')
        def ask(text):
            file.write(text.encode() + b'\n')
            file.flush()
            return file.readline().decode().strip()
        for i in range(200):
            assert ask(f'SET k{number}.{i} {i * number}') == 'OK'
            if i == 100:
                assert ask(f'BGSAVE {HERE}/save{number}') == 'saving'
        assert ask(f'GET k{number}.7') == str(7 * number) and ask('GET nothing') == '-'
        assert ask('NO') == 'what?'


def serve(server, make):
    KEYS.clear()
    thread = threading.Thread(target=server.serve_forever, kwargs={'poll_interval': 0.05})
    thread.start()
    clients = [threading.Thread(target=client, args=(make, number)) for number in range(1, 5)]
    [c.start() for c in clients]
    [c.join() for c in clients]
    for child in server.children:
        assert os.waitpid(child, 0)[1] == 0
    server.shutdown()
    thread.join()
    server.server_close()
    own = []
    for number in range(1, 5):
        lines = open(f'{HERE}/save{number}').read().splitlines()
        own.append(sum(line.startswith(f'k{number}.') for line in lines))
    text = '\n'.join(f'{key}={KEYS[key]}' for key in sorted(KEYS))
    return len(KEYS), own, hashlib.sha256(text.encode()).hexdigest()[:16]


tcp = Tcp(('127.0.0.1', 0), Keys)
port = tcp.server_address[1]
print('tcp', serve(tcp, lambda: socket.create_connection(('127.0.0.1', port))))
path = f'{HERE}/socket'


def unix():
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    return connection


print('unix', serve(Unix(path, Keys), unix))

# Workers that get connections of a listener which they never had: by SCM_RIGHTS.
mine, theirs = socket.socketpair()
worker = os.fork()
if worker == 0:
    mine.close()
    while True:
        message, control, flags, _ = theirs.recvmsg(100, socket.CMSG_SPACE(4 * 4))
        if not message:
            os._exit(0)
        for level, kind, data in control:
            assert (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS)
            for fd in array.array('i', data):
                with socket.socket(fileno=fd) as connection:
                    connection.sendall(connection.recv(100).upper() + message)
theirs.close()
listener = socket.create_server(('127.0.0.1', 0))
said = []
for i in range(5):
    with socket.create_connection(listener.getsockname()) as connection:
        accepted, _ = listener.accept()
        mine.sendmsg([b'%d' % i], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [accepted.fileno()]))])
        accepted.close()
        connection.sendall(b'hello ')
        answer = b''
        while part := connection.recv(100):
            answer += part
        said.append(answer.decode())
mine.close()
assert os.waitpid(worker, 0)[1] == 0
print('passed', said)

# One loop for many: a megabyte through each, without waiting.
selector = selectors.DefaultSelector()
listener.setblocking(False)
selector.register(listener, selectors.EVENT_READ)
left, total = 8, 0
pushers = []
for i in range(8):
    child = os.fork()
    if child == 0:
        with socket.create_connection(listener.getsockname()) as connection:
            connection.sendall(struct.pack('>I', i) * (1 << 18))
        os._exit(0)
    pushers.append(child)
while left:
    for key, _ in selector.select():
        if key.fileobj is listener:
            connection, _ = listener.accept()
            connection.setblocking(False)
            selector.register(connection, selectors.EVENT_READ)
            continue
        data = key.fileobj.recv(65536)
        total += len(data)
        if not data:
            selector.unregister(key.fileobj)
            key.fileobj.close()
            left -= 1
for child in pushers:
    assert os.waitpid(child, 0)[1] == 0
print('selected', total)

# Datagrams, both kinds.
for family, name in [(socket.AF_INET, ('127.0.0.1', 0)), (socket.AF_UNIX, f'{HERE}/datagrams')]:
    a, b = socket.socket(family, socket.SOCK_DGRAM), socket.socket(family, socket.SOCK_DGRAM)
    a.bind(name)
    for n in (1, 100, 10000):
        b.sendto(b'x' * n, a.getsockname())
    print('datagrams', [len(a.recv(65536)) for _ in range(3)])
sys.stdout.flush()

//! A process that executes system calls and memory accesses on request.
//!
//! It is forked from the test, so between fork and exit it only uses system calls.

use std::{
    io::{Read, Write},
    os::{
        fd::{AsRawFd, RawFd},
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener, UnixStream},
    },
    ptr,
    sync::atomic::{AtomicU32, Ordering},
};

/// Requests that are not system calls.
pub(crate) const FORK: u64 = 1 << 32;
pub(crate) const LOAD: u64 = FORK + 1;
pub(crate) const STORE: u64 = FORK + 2;
/// Bytes that one request can move.
pub(crate) const BUFFER: usize = 64 << 10;

#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Call {
    number: u64,
    args: [u64; 6],
}

impl Call {
    pub(crate) fn new(number: u64, args: [u64; 6]) -> Self {
        Self { number, args }
    }

    pub(crate) fn range(number: libc::c_long, at: anonmem_hosted::ops::At, third: u64) -> Self {
        Self::new(number as u64, [at.addr, at.len, third, 0, 0, 0])
    }
}

#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct Reply {
    pub(crate) value: u64,
    pub(crate) errno: i32,
    pub(crate) signal: u32,
}

/// Memory that all processes share with the test, and the source.
pub(crate) struct Shared {
    buffer: *mut u8,
    pub(crate) source: RawFd,
}

impl Shared {
    pub(crate) fn new(source: &[u8]) -> Self {
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping.
        let buffer =
            unsafe { libc::mmap(ptr::null_mut(), BUFFER, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
        assert_ne!(buffer, libc::MAP_FAILED);
        // SAFETY: the name is a C string.
        let file = unsafe { libc::memfd_create(c"anonmem-source".as_ptr(), 0) };
        // SAFETY: the bytes are valid for their length.
        let written = unsafe { libc::write(file, source.as_ptr().cast(), source.len()) };
        assert_eq!(written, source.len() as isize);
        Self { buffer: buffer.cast(), source: file }
    }

    pub(crate) fn addr(&self) -> u64 {
        self.buffer as u64
    }

    pub(crate) fn read(&self, len: usize) -> Vec<u8> {
        assert!(len <= BUFFER);
        // SAFETY: the buffer is that long, and the servers write to it only while they execute a request.
        unsafe { std::slice::from_raw_parts(self.buffer, len) }.to_vec()
    }

    pub(crate) fn write(&self, bytes: &[u8]) {
        assert!(bytes.len() <= BUFFER);
        // SAFETY: as in `read`.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), self.buffer, bytes.len()) };
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: ours, and nobody keeps a reference.
        unsafe { libc::munmap(self.buffer.cast(), BUFFER) };
        // SAFETY: ours.
        unsafe { libc::close(self.source) };
    }
}

pub(crate) fn listen() -> (UnixListener, String) {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("anonmem-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let address = SocketAddr::from_abstract_name(&name).expect("a short name");
    (UnixListener::bind_addr(&address).expect("a fresh name"), name)
}

pub(crate) struct Server {
    pub(crate) pid: i32,
    /// The areas that it had before the test did anything.
    pub(crate) baseline: Vec<(u64, u64)>,
    connection: Connection,
}

struct Connection {
    pid: i32,
    stream: UnixStream,
}

impl Server {
    pub(crate) fn spawn(listener: &UnixListener, name: &str, shared: &Shared) -> Self {
        let gaps = gaps();
        // SAFETY: the child uses nothing but system calls.
        let pid = unsafe { libc::fork() };
        assert!(pid >= 0, "the host cannot fork");
        if pid == 0 {
            close_gaps(&gaps);
            serve(name.as_bytes(), listener.as_raw_fd(), shared.buffer);
        }
        let server = Self::accept(listener, pid, Vec::new());
        let baseline = crate::smaps::read(pid).iter().map(|area| (area.start, area.end)).collect();
        Self { baseline, ..server }
    }

    pub(crate) fn accept(listener: &UnixListener, pid: i32, baseline: Vec<(u64, u64)>) -> Self {
        let (stream, _) = listener.accept().expect("the server connects");
        Self { pid, baseline, connection: Connection { pid, stream } }
    }

    pub(crate) fn call(&mut self, call: Call) -> Reply {
        let mut bytes = [0; 56];
        for (part, word) in bytes.chunks_exact_mut(8).zip([call.number].iter().chain(&call.args)) {
            part.copy_from_slice(&word.to_ne_bytes());
        }
        self.connection.stream.write_all(&bytes).expect("the server lives");
        let mut reply = [0; 16];
        self.connection
            .stream
            .read_exact(&mut reply)
            .unwrap_or_else(|e| panic!("the server died of {call:x?}: {e}"));
        Reply {
            value: u64::from_ne_bytes(reply[..8].try_into().expect("8 bytes")),
            errno: i32::from_ne_bytes(reply[8..12].try_into().expect("4 bytes")),
            signal: u32::from_ne_bytes(reply[12..].try_into().expect("4 bytes")),
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // Its parent, the test or another server, need not be there to reap it.
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
        // SAFETY: harmless if it is not our child.
        unsafe { libc::waitpid(self.pid, ptr::null_mut(), 0) };
    }
}

/// The holes between this process's mappings near the top of the address space, and a gigabyte below.
fn gaps() -> Vec<(u64, u64)> {
    let maps = crate::smaps::read(std::process::id() as i32);
    let high: Vec<_> = maps.iter().filter(|a| a.start >= 0x7000_0000_0000 && a.end < 1 << 47).collect();
    let mut gaps: Vec<_> = high.windows(2).map(|w| (w[0].end, w[1].start)).filter(|g| g.0 < g.1).collect();
    if let Some(lowest) = high.first() {
        gaps.push((lowest.start - (1 << 30), lowest.start));
    }
    gaps
}

/// Keeps new mappings away from this process's own, so that a test does not unmap the code it runs.
///
/// As stacks, which keep a distance from what is below, and too long to grow.
fn close_gaps(gaps: &[(u64, u64)]) {
    for &(start, end) in gaps {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED_NOREPLACE;
        let flags = flags | libc::MAP_GROWSDOWN;
        // SAFETY: nothing is replaced.
        unsafe { libc::mmap(start as *mut _, (end - start) as usize, libc::PROT_NONE, flags, -1, 0) };
    }
}

fn serve(name: &[u8], listener: RawFd, buffer: *mut u8) -> ! {
    // SAFETY: the test's end; this process does not accept.
    unsafe { libc::close(listener) };
    // SAFETY: children are reaped without a wait.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
    // SAFETY: a plain system call: root may map page 0, others may not.
    unsafe { libc::syscall(libc::SYS_setresuid, 65_534, 65_534, 65_534) };
    catch_faults();
    let mut socket = connect(name);
    loop {
        let mut call = Call { number: 0, args: [0; 6] };
        // SAFETY: plain words, as long as the request.
        let n = unsafe { libc::read(socket, ptr::from_mut(&mut call).cast(), size_of::<Call>()) };
        if n != size_of::<Call>() as isize {
            // SAFETY: no destructor needs to run.
            unsafe { libc::_exit(0) };
        }
        let mut reply = Reply::default();
        match call.number {
            FORK => {
                // SAFETY: this process has one thread.
                let pid = unsafe { libc::fork() };
                if pid == 0 {
                    // SAFETY: the parent's connection.
                    unsafe { libc::close(socket) };
                    socket = connect(name);
                    continue;
                }
                reply.value = pid as u64;
                reply.errno = i32::from(pid < 0);
            }
            LOAD | STORE => reply = access(call.number == STORE, call.args[0], call.args[1], buffer),
            number => {
                let a = call.args;
                // SAFETY: it is the test's intention to do this to the window, where nothing of ours is.
                let value =
                    unsafe { libc::syscall(number as libc::c_long, a[0], a[1], a[2], a[3], a[4], a[5]) };
                reply.value = value as u64;
                if value == -1 {
                    reply.errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(0);
                }
            }
        }
        // SAFETY: plain words.
        unsafe { libc::write(socket, ptr::from_ref(&reply).cast(), size_of::<Reply>()) };
    }
}

fn connect(name: &[u8]) -> RawFd {
    // SAFETY: all zeroes is a valid address.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::AF_UNIX as u16;
    for (to, from) in address.sun_path[1..].iter_mut().zip(name) {
        *to = *from as libc::c_char;
    }
    let len = size_of::<libc::sa_family_t>() + 1 + name.len();
    // SAFETY: no pointer.
    let socket = unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0) };
    // SAFETY: the address is valid for its length.
    unsafe { libc::connect(socket, ptr::from_ref(&address).cast(), len as u32) };
    socket
}

fn access(store: bool, addr: u64, len: u64, buffer: *mut u8) -> Reply {
    let mut done = 0;
    for i in 0..len {
        let at = addr.wrapping_add(i);
        if i == 0 || at.is_multiple_of(4096) {
            done = i;
        }
        // SAFETY: the buffer is long enough.
        let byte = unsafe { buffer.add(i as usize) };
        let signal = if store { try_store(at, byte) } else { try_load(at, byte) };
        if signal != 0 {
            return Reply { value: done, errno: 0, signal };
        }
    }
    Reply::default()
}

fn try_load(at: u64, to: *mut u8) -> u32 {
    let (byte, signal): (u8, u32);
    // SAFETY: a fault continues behind the load, with the signal in ecx.
    unsafe {
        std::arch::asm!("lea r11, [rip + 2f]", "xor ecx, ecx", "mov al, byte ptr [rdi]", "2:",
            in("rdi") at, out("al") byte, out("ecx") signal, out("r11") _, options(nostack));
    }
    // SAFETY: within the buffer.
    unsafe { to.write(byte) };
    signal
}

fn try_store(at: u64, from: *const u8) -> u32 {
    // SAFETY: within the buffer.
    let byte = unsafe { from.read() };
    let signal: u32;
    // SAFETY: a fault continues behind the store, with the signal in ecx.
    unsafe {
        std::arch::asm!("lea r11, [rip + 2f]", "xor ecx, ecx", "mov byte ptr [rdi], al", "2:",
            in("rdi") at, in("al") byte, out("ecx") signal, out("r11") _, options(nostack));
    }
    signal
}

fn catch_faults() {
    // SAFETY: all zeroes is a valid action.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = on_fault as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER;
    for signal in [libc::SIGSEGV, libc::SIGBUS] {
        // SAFETY: the handler below.
        unsafe { libc::sigaction(signal, &action, ptr::null_mut()) };
    }
}

extern "C" fn on_fault(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid context.
    let context = unsafe { &mut *context.cast::<libc::ucontext_t>() };
    // SAFETY: and a valid description.
    let code = unsafe { (*info).si_code };
    let denied = signal == libc::SIGSEGV && code == 2;
    let registers = &mut context.uc_mcontext.gregs;
    registers[libc::REG_RCX as usize] = if signal == libc::SIGBUS { 3 } else { 1 + i64::from(denied) };
    registers[libc::REG_RIP as usize] = registers[libc::REG_R11 as usize];
}

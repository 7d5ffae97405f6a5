//! System calls: numbers, arguments, results.
//!
//! [`dispatch`] is the table; the work is done in a file for each subject. A system call gets a [`Call`] and
//! gives a number or an error; a call that this kernel does not have gives ENOSYS, and is named once on
//! the kernel log and in the bill.

mod call;
mod cred;
mod dir;
mod fd;
mod file;
mod futex;
mod groups;
mod io;
mod ipc;
mod mem;
mod names;
mod nodes;
mod pidfd;
mod poll;
mod process;
mod ptrace;
mod remote;
mod signal;
mod socket;
mod splice;
mod system;
mod time;
mod uring;
pub mod user;
pub mod userfaultfd;
mod wait;

use crate::arch::lock::SpinLock;
use crate::arch::trap::TrapFrame;
use crate::heap;
use crate::klog;
use crate::machine::Kernel;
use crate::proc::current_thread;
use alloc::collections::BTreeSet;
use alloc::string::String;
use alloc::vec::Vec;
use anonmem_oslib::errno::{ENOMEM, ENOSYS};
use anonmem_oslib::{Result, restart};
use anonmem_sync::lockdep;
use call::Call;
use linux_raw_sys::general as abi;

/// Handles one system call: number and arguments from the frame, the result to `frame.rax`.
pub fn syscall(frame: &mut TrapFrame) {
    let args = frame.syscall_args();
    let number = frame.syscall_nr();
    let mut call = Call { thread: current_thread(), frame, args };
    if number == u64::from(abi::__NR_rt_sigreturn) {
        // It sets all registers, the result's too.
        return signal::sigreturn(&mut call);
    }
    let result = match dispatch(&mut call, number) {
        Ok(value) => value as u64,
        Err(error) => error.as_return() as u64,
    };
    if restart::is_restart(result) {
        call.thread.note_work();
    }
    call.frame.rax = result;
    lockdep::assert_none_held::<Kernel>();
}

static UNKNOWN: SpinLock<BTreeSet<u64>> = SpinLock::new(BTreeSet::new());

fn unknown(number: u64) -> Result<usize> {
    // Numbers that no kernel has are not remembered: there are too many.
    const NUMBERS: u64 = 1024;
    if number < NUMBERS && UNKNOWN.lock().insert(number) {
        klog!("system call {} is not implemented", names::name(number));
    }
    Err(ENOSYS)
}

/// Gives the system calls that were asked for and do not exist here.
pub fn unknown_names() -> Vec<String> {
    UNKNOWN.lock().iter().map(|&number| names::name(number)).collect()
}

/// Calls that leave something of a size or number of the program's choice behind in the kernel's memory. They
/// are refused when that runs out, so that all others have enough of it left: a call that gives back, waits,
/// reads or writes.
fn leaves_something(number: u32) -> bool {
    matches!(
        number,
        abi::__NR_open
            | abi::__NR_openat
            | abi::__NR_openat2
            | abi::__NR_creat
            | abi::__NR_mkdir
            | abi::__NR_mkdirat
            | abi::__NR_mknod
            | abi::__NR_mknodat
            | abi::__NR_link
            | abi::__NR_linkat
            | abi::__NR_symlink
            | abi::__NR_symlinkat
            | abi::__NR_rename
            | abi::__NR_renameat
            | abi::__NR_renameat2
            | abi::__NR_pipe
            | abi::__NR_pipe2
            | abi::__NR_eventfd
            | abi::__NR_eventfd2
            | abi::__NR_signalfd
            | abi::__NR_signalfd4
            | abi::__NR_userfaultfd
            | abi::__NR_memfd_create
            | abi::__NR_pidfd_open
            | abi::__NR_socketpair
            | abi::__NR_socket
            | abi::__NR_sendto
            | abi::__NR_sendmsg
            | abi::__NR_setsockopt
            | abi::__NR_bind
            | abi::__NR_listen
            | abi::__NR_connect
            | abi::__NR_accept
            | abi::__NR_accept4
            | abi::__NR_epoll_create
            | abi::__NR_epoll_create1
            | abi::__NR_epoll_ctl
            | abi::__NR_timer_create
            | abi::__NR_timerfd_create
            | abi::__NR_rt_sigqueueinfo
            | abi::__NR_rt_tgsigqueueinfo
            | abi::__NR_shmget
            | abi::__NR_shmat
            | abi::__NR_semget
            | abi::__NR_clone
            | abi::__NR_clone3
            | abi::__NR_fork
            | abi::__NR_vfork
            | abi::__NR_execve
            | abi::__NR_execveat
            | abi::__NR_mmap
            | abi::__NR_tee
            | abi::__NR_io_uring_setup
            | abi::__NR_io_uring_register
    )
}

/// The table.
// Long: a line for each number, and nothing else.
fn dispatch(c: &mut Call<'_>, number: u64) -> Result<usize> {
    let Ok(number) = u32::try_from(number) else { return unknown(number) };
    if heap::is_short() && leaves_something(number) {
        return Err(ENOMEM);
    }
    match number {
        abi::__NR_read => io::read(c),
        abi::__NR_write => io::write(c),
        abi::__NR_pread64 => io::pread(c),
        abi::__NR_pwrite64 => io::pwrite(c),
        abi::__NR_readv => io::readv(c),
        abi::__NR_writev => io::writev(c),
        abi::__NR_preadv | abi::__NR_preadv2 => io::preadv(c),
        abi::__NR_pwritev | abi::__NR_pwritev2 => io::pwritev(c),
        abi::__NR_sendfile => io::sendfile(c),
        abi::__NR_copy_file_range => io::copy_file_range(c),
        abi::__NR_splice => splice::splice(c),
        abi::__NR_tee => splice::tee(c),
        abi::__NR_vmsplice => splice::vmsplice(c),
        abi::__NR_process_vm_readv => remote::process_vm(c, remote::Way::Read),
        abi::__NR_process_vm_writev => remote::process_vm(c, remote::Way::Write),

        abi::__NR_pidfd_open => pidfd::pidfd_open(c),
        abi::__NR_pidfd_send_signal => pidfd::pidfd_send_signal(c),
        abi::__NR_process_madvise => pidfd::process_madvise(c),
        abi::__NR_process_mrelease => pidfd::process_mrelease(c),

        abi::__NR_io_uring_setup => uring::setup(c),
        abi::__NR_io_uring_enter => uring::enter(c),
        abi::__NR_io_uring_register => uring::register(c),

        abi::__NR_open => file::open(c),
        abi::__NR_openat => file::openat(c),
        abi::__NR_openat2 => file::openat2(c),
        abi::__NR_creat => file::creat(c),
        abi::__NR_stat => file::stat(c),
        abi::__NR_lstat => file::lstat(c),
        abi::__NR_fstat => file::fstat(c),
        abi::__NR_newfstatat => file::newfstatat(c),
        abi::__NR_statx => file::statx(c),
        abi::__NR_access => file::access(c),
        abi::__NR_faccessat => file::faccessat(c),
        abi::__NR_faccessat2 => file::faccessat(c),
        abi::__NR_chmod => file::chmod(c),
        abi::__NR_fchmod => file::fchmod(c),
        abi::__NR_fchmodat => file::fchmodat(c),
        abi::__NR_chown | abi::__NR_lchown => file::chown(c),
        abi::__NR_fchown => file::fchown(c),
        abi::__NR_fchownat => file::fchownat(c),
        abi::__NR_utimensat => file::utimensat(c),
        abi::__NR_utimes | abi::__NR_utime => file::utimes(c),
        abi::__NR_truncate => file::truncate(c),
        abi::__NR_ftruncate => file::ftruncate(c),
        abi::__NR_fallocate => file::fallocate(c),
        abi::__NR_statfs => file::statfs(c),
        abi::__NR_fstatfs => file::fstatfs(c),
        abi::__NR_umask => file::umask(c),
        abi::__NR_fsync | abi::__NR_fdatasync => fd::sync(c),
        abi::__NR_sync | abi::__NR_fadvise64 | abi::__NR_readahead => Ok(0),

        abi::__NR_getdents64 => dir::getdents64(c),
        abi::__NR_mkdir => dir::mkdir(c),
        abi::__NR_mkdirat => dir::mkdirat(c),
        abi::__NR_mknod => dir::mknod(c),
        abi::__NR_mknodat => dir::mknodat(c),
        abi::__NR_rmdir => dir::rmdir(c),
        abi::__NR_unlink => dir::unlink(c),
        abi::__NR_unlinkat => dir::unlinkat(c),
        abi::__NR_rename => dir::rename(c),
        abi::__NR_renameat => dir::renameat(c),
        abi::__NR_renameat2 => dir::renameat(c),
        abi::__NR_link => dir::link(c),
        abi::__NR_linkat => dir::linkat(c),
        abi::__NR_symlink => dir::symlink(c),
        abi::__NR_symlinkat => dir::symlinkat(c),
        abi::__NR_readlink => dir::readlink(c),
        abi::__NR_readlinkat => dir::readlinkat(c),
        abi::__NR_chdir => dir::chdir(c),
        abi::__NR_fchdir => dir::fchdir(c),
        abi::__NR_getcwd => dir::getcwd(c),
        abi::__NR_getxattr
        | abi::__NR_lgetxattr
        | abi::__NR_fgetxattr
        | abi::__NR_listxattr
        | abi::__NR_llistxattr
        | abi::__NR_flistxattr
        | abi::__NR_setxattr
        | abi::__NR_lsetxattr
        | abi::__NR_fsetxattr
        | abi::__NR_removexattr
        | abi::__NR_lremovexattr
        | abi::__NR_fremovexattr => Err(anonmem_oslib::errno::EOPNOTSUPP),

        abi::__NR_close => fd::close(c),
        abi::__NR_close_range => fd::close_range(c),
        abi::__NR_dup => fd::dup(c),
        abi::__NR_dup2 => fd::dup2(c),
        abi::__NR_dup3 => fd::dup3(c),
        abi::__NR_fcntl => fd::fcntl(c),
        abi::__NR_flock => fd::flock(c),
        abi::__NR_ioctl => fd::ioctl(c),
        abi::__NR_lseek => fd::lseek(c),
        abi::__NR_pipe => fd::pipe(c, 0),
        abi::__NR_pipe2 => {
            let flags = c.u32(1);
            fd::pipe(c, flags)
        }
        abi::__NR_eventfd => fd::eventfd(c, 0),
        abi::__NR_eventfd2 => {
            let flags = c.u32(1);
            fd::eventfd(c, flags)
        }
        abi::__NR_userfaultfd => userfaultfd::userfaultfd(c),
        abi::__NR_memfd_create => fd::memfd_create(c),
        abi::__NR_socketpair => socket::socketpair(c),
        abi::__NR_socket => socket::socket(c),
        abi::__NR_sendto => socket::sendto(c),
        abi::__NR_recvfrom => socket::recvfrom(c),
        abi::__NR_sendmsg => socket::sendmsg(c),
        abi::__NR_recvmsg => socket::recvmsg(c),
        abi::__NR_shutdown => socket::shutdown(c),
        abi::__NR_getsockopt | abi::__NR_setsockopt => socket::sockopt(c),
        abi::__NR_getsockname | abi::__NR_getpeername => socket::name(c),
        abi::__NR_bind => socket::bind(c),
        abi::__NR_connect => socket::connect(c),
        abi::__NR_listen => socket::listen(c),
        abi::__NR_accept | abi::__NR_accept4 => socket::accept(c),

        abi::__NR_poll => poll::poll(c),
        abi::__NR_ppoll => poll::ppoll(c),
        abi::__NR_select => poll::select(c),
        abi::__NR_pselect6 => poll::pselect6(c),
        abi::__NR_epoll_create => poll::epoll_create(c, 0),
        abi::__NR_epoll_create1 => {
            let flags = c.u32(0);
            poll::epoll_create(c, flags)
        }
        abi::__NR_epoll_ctl => poll::epoll_ctl(c),
        abi::__NR_epoll_wait => poll::epoll_wait(c),
        abi::__NR_epoll_pwait => poll::epoll_pwait(c),

        abi::__NR_mmap => mem::mmap(c),
        abi::__NR_munmap => mem::munmap(c),
        abi::__NR_mprotect => mem::mprotect(c),
        abi::__NR_mremap => mem::mremap(c),
        abi::__NR_brk => mem::brk(c),
        abi::__NR_madvise => mem::madvise(c),
        abi::__NR_mincore => mem::mincore(c),
        abi::__NR_msync => mem::msync(c),
        abi::__NR_mlock | abi::__NR_mlock2 => mem::mlock(c),
        abi::__NR_munlock => mem::munlock(c),
        abi::__NR_mlockall => mem::mlockall(c),
        abi::__NR_munlockall => mem::munlockall(c),
        abi::__NR_membarrier => mem::membarrier(c),
        abi::__NR_mseal => mem::mseal(c),
        abi::__NR_mbind => nodes::mbind(c),
        abi::__NR_set_mempolicy => nodes::set_mempolicy(c),
        abi::__NR_get_mempolicy => nodes::get_mempolicy(c),
        abi::__NR_migrate_pages => nodes::migrate_pages(c),
        abi::__NR_move_pages => nodes::move_pages(c),

        abi::__NR_shmget => ipc::shmget(c),
        abi::__NR_shmat => ipc::shmat(c),
        abi::__NR_shmdt => ipc::shmdt(c),
        abi::__NR_shmctl => ipc::shmctl(c),
        abi::__NR_semget => ipc::semget(c),
        abi::__NR_semop | abi::__NR_semtimedop => ipc::semop(c),
        abi::__NR_semctl => ipc::semctl(c),

        abi::__NR_clone => process::clone(c),
        abi::__NR_clone3 => process::clone3(c),
        abi::__NR_fork => process::fork(c),
        abi::__NR_vfork => process::vfork(c),
        abi::__NR_execve => process::execve(c),
        abi::__NR_execveat => process::execveat(c),
        abi::__NR_exit => process::exit(c),
        abi::__NR_exit_group => process::exit_group(c),
        abi::__NR_wait4 => wait::wait4(c),
        abi::__NR_waitid => wait::waitid(c),
        abi::__NR_getpid => Ok(c.thread.process.pid as usize),
        abi::__NR_gettid => Ok(c.thread.tid as usize),
        abi::__NR_getppid => process::getppid(c),
        abi::__NR_getpgrp => groups::getpgrp(c),
        abi::__NR_getpgid => groups::getpgid(c),
        abi::__NR_setpgid => groups::setpgid(c),
        abi::__NR_getsid => groups::getsid(c),
        abi::__NR_setsid => groups::setsid(c),
        abi::__NR_getuid => cred::get(c, |cred| cred.user.real),
        abi::__NR_geteuid => cred::get(c, |cred| cred.user.effective),
        abi::__NR_getgid => cred::get(c, |cred| cred.group.real),
        abi::__NR_getegid => cred::get(c, |cred| cred.group.effective),
        abi::__NR_setuid
        | abi::__NR_setgid
        | abi::__NR_setreuid
        | abi::__NR_setregid
        | abi::__NR_setresuid
        | abi::__NR_setresgid
        | abi::__NR_setfsuid
        | abi::__NR_setfsgid => cred::set(c, number),
        abi::__NR_getresuid => cred::get_all(c, |cred| cred.user),
        abi::__NR_getresgid => cred::get_all(c, |cred| cred.group),
        abi::__NR_getgroups => cred::getgroups(c),
        abi::__NR_setgroups => cred::setgroups(c),
        abi::__NR_capget => cred::capget(c),
        abi::__NR_capset => cred::capset(c),
        abi::__NR_prctl => process::prctl(c),
        abi::__NR_ptrace => ptrace::ptrace(c),
        abi::__NR_arch_prctl => process::arch_prctl(c),
        abi::__NR_set_tid_address => process::set_tid_address(c),
        abi::__NR_set_robust_list => process::set_robust_list(c),
        abi::__NR_get_robust_list => process::get_robust_list(c),
        abi::__NR_sched_yield => process::sched_yield(c),
        abi::__NR_sched_getaffinity => process::sched_getaffinity(c),
        abi::__NR_sched_setaffinity => process::sched_setaffinity(c),
        abi::__NR_sched_getscheduler => Ok(0),
        abi::__NR_sched_setscheduler | abi::__NR_sched_setparam => Ok(0),
        abi::__NR_sched_getparam => process::sched_getparam(c),
        abi::__NR_sched_get_priority_max | abi::__NR_sched_get_priority_min => {
            process::sched_priority(c, number)
        }
        abi::__NR_getpriority => Ok(20),
        abi::__NR_setpriority | abi::__NR_ioprio_set => Ok(0),
        abi::__NR_ioprio_get => Ok(4),
        abi::__NR_personality => Ok(0),

        abi::__NR_futex => futex::futex(c),

        abi::__NR_rt_sigaction => signal::rt_sigaction(c),
        abi::__NR_rt_sigprocmask => signal::rt_sigprocmask(c),
        abi::__NR_rt_sigpending => signal::rt_sigpending(c),
        abi::__NR_rt_sigsuspend => signal::rt_sigsuspend(c),
        abi::__NR_rt_sigtimedwait => signal::rt_sigtimedwait(c),
        abi::__NR_rt_sigqueueinfo => signal::rt_sigqueueinfo(c),
        abi::__NR_rt_tgsigqueueinfo => signal::rt_tgsigqueueinfo(c),
        abi::__NR_signalfd => signal::signalfd(c, 0),
        abi::__NR_signalfd4 => {
            let flags = c.u32(3);
            signal::signalfd(c, flags)
        }
        abi::__NR_sigaltstack => signal::sigaltstack(c),
        abi::__NR_pause => signal::pause(c),
        abi::__NR_kill => signal::kill(c),
        abi::__NR_tkill => signal::tkill(c),
        abi::__NR_tgkill => signal::tgkill(c),

        abi::__NR_nanosleep => time::nanosleep(c),
        abi::__NR_clock_nanosleep => time::clock_nanosleep(c),
        abi::__NR_clock_gettime => time::clock_gettime(c),
        abi::__NR_clock_getres => time::clock_getres(c),
        abi::__NR_gettimeofday => time::gettimeofday(c),
        abi::__NR_time => time::time(c),
        abi::__NR_times => time::times(c),
        abi::__NR_alarm => time::alarm(c),
        abi::__NR_setitimer => time::setitimer(c),
        abi::__NR_getitimer => time::getitimer(c),
        abi::__NR_timer_create => time::timer_create(c),
        abi::__NR_timer_settime => time::timer_settime(c),
        abi::__NR_timer_gettime => time::timer_gettime(c),
        abi::__NR_timer_getoverrun => Ok(0),
        abi::__NR_timer_delete => time::timer_delete(c),
        abi::__NR_timerfd_create => time::timerfd_create(c),
        abi::__NR_timerfd_settime => time::timerfd_settime(c),
        abi::__NR_timerfd_gettime => time::timerfd_gettime(c),

        abi::__NR_uname => system::uname(c),
        abi::__NR_sysinfo => system::sysinfo(c),
        abi::__NR_swapon => system::swapon(c),
        abi::__NR_swapoff => system::swapoff(c),
        abi::__NR_getrandom => system::getrandom(c),
        abi::__NR_getcpu => system::getcpu(c),
        abi::__NR_getrusage => system::getrusage(c),
        abi::__NR_getrlimit => system::getrlimit(c),
        abi::__NR_setrlimit => system::setrlimit(c),
        abi::__NR_prlimit64 => system::prlimit64(c),
        abi::__NR_sethostname | abi::__NR_setdomainname => Ok(0),

        // Programs probe for these and go on without: no need to name them.
        abi::__NR_rseq | abi::__NR_restart_syscall => Err(ENOSYS),
        _ => unknown(u64::from(number)),
    }
}

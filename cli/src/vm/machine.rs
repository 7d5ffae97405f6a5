//! A running microVM and its files: whoever drops it ends it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, set_parent_process_death_signal};

use super::disk::Disk;
use super::qemu::{Accelerator, Boot};

/// What to boot; the files in the run's directory follow from it.
#[derive(Debug)]
pub struct Spec<'a> {
    /// QEMU's executable.
    pub qemu: &'a Path,
    /// The kernel's ELF file.
    pub kernel: &'a Path,
    /// The initial archive.
    pub archive: &'a Path,
    /// Its disks, in the order of their names.
    pub disks: &'a [Disk],
    /// Bytes that the memory manager manages.
    pub ram: u64,
    /// Number of CPUs.
    pub cpus: u32,
    /// How the CPUs are made.
    pub accelerator: Accelerator,
}

/// A QEMU process with the socket that it connects to.
#[derive(Debug)]
pub struct Machine {
    child: Child,
    pidfd: OwnedFd,
    listener: UnixListener,
    serial: PathBuf,
    errors: PathBuf,
}

impl Machine {
    /// Boots a microVM whose socket and logs are in `dir`.
    ///
    /// # Errors
    ///
    /// The socket cannot be made or QEMU cannot be started.
    pub fn boot(spec: &Spec<'_>, dir: &Path) -> io::Result<Self> {
        let socket = dir.join("channel");
        let serial = dir.join("serial");
        let errors = dir.join("qemu");
        let listener = UnixListener::bind(&socket)?;
        let boot = Boot {
            kernel: spec.kernel,
            archive: spec.archive,
            archive_len: spec.archive.metadata()?.len(),
            socket: &socket,
            serial: &serial,
            disks: spec.disks,
            ram: spec.ram,
            cpus: spec.cpus,
            accelerator: spec.accelerator,
        };
        let mut command = Command::new(spec.qemu);
        command.args(boot.arguments()).stdin(Stdio::null()).stdout(Stdio::null());
        // Its own process group: an interrupt from the terminal goes to the program, through us.
        command.stderr(File::create(&errors)?).process_group(0);
        // SAFETY: between fork and exec only one system call is made, which allocates nothing.
        unsafe {
            command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?));
        }
        let mut child = command.spawn()?;
        let pid = Pid::from_child(&child);
        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => Ok(Self { child, pidfd, listener, serial, errors }),
            Err(error) => {
                child.kill()?;
                child.wait()?;
                Err(error.into())
            }
        }
    }

    /// The socket that QEMU connects to.
    #[must_use]
    pub fn listener(&self) -> &UnixListener {
        &self.listener
    }

    /// A file descriptor that becomes readable when QEMU has ended.
    #[must_use]
    pub fn gone(&self) -> &OwnedFd {
        &self.pidfd
    }

    /// Takes QEMU's connection.
    ///
    /// # Errors
    ///
    /// The system has no more file descriptors.
    pub fn accept(&self) -> io::Result<UnixStream> {
        self.listener.accept().map(|(stream, _)| stream)
    }

    /// Waits for QEMU to end, and ends it if it takes longer than `grace`.
    ///
    /// # Errors
    ///
    /// The host failed.
    pub fn wait(&mut self, grace: Duration) -> io::Result<ExitStatus> {
        let deadline = Instant::now() + grace;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                self.kill()?;
                return self.child.wait();
            }
            let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
            let fd = self.pidfd.as_fd();
            match poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Ends QEMU at once.
    ///
    /// # Errors
    ///
    /// The host failed; a QEMU that has ended already is no error.
    pub fn kill(&mut self) -> io::Result<()> {
        self.child.kill()
    }

    /// The last lines that QEMU and the serial line printed.
    #[must_use]
    pub fn last_words(&self) -> Vec<String> {
        let mut lines = tail(&self.errors, 8);
        lines.extend(tail(&self.serial, 24));
        lines
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Nothing is left to do about a failure: the process is ours and is asked for the last time.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Says in words how QEMU ended.
#[must_use]
pub fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("QEMU exited with {code}"),
        (None, Some(signal)) => format!("QEMU was ended by signal {signal}"),
        (None, None) => "QEMU ended".to_string(),
    }
}

/// The last lines of a file that say something.
pub(crate) fn tail(path: &Path, count: usize) -> Vec<String> {
    let text = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(count)..].iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_is_the_last_lines_that_say_something() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        std::fs::write(&path, "a\r\n\nb\nc \n").unwrap();
        assert_eq!(tail(&path, 2), ["b", "c"]);
        assert!(tail(&dir.path().join("none"), 2).is_empty());
    }

    #[test]
    fn a_machine_is_ended_with_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let archive = dir.path().join("archive");
        std::fs::write(&archive, "").unwrap();
        let qemu = dir.path().join("qemu.sh");
        std::fs::write(&qemu, "#!/bin/sh\nexec tail -f /dev/null\n").unwrap();
        std::fs::set_permissions(&qemu, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let spec = Spec {
            qemu: &qemu,
            kernel: Path::new("/k"),
            archive: &archive,
            disks: &[],
            ram: 1 << 20,
            cpus: 1,
            accelerator: Accelerator::Tcg,
        };
        let mut machine = Machine::boot(&spec, dir.path()).unwrap();
        let pid = Pid::from_child(&machine.child);
        assert!(machine.wait(Duration::ZERO).unwrap().signal().is_some());
        drop(machine);
        assert!(rustix::process::test_kill_process(pid).is_err());
    }
}

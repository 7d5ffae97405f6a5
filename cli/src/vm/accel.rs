//! How the guest's CPUs are made: KVM if it really boots here, else QEMU's translator.
//!
//! A host may have /dev/kvm and still fail under it (nested virtualisation, seccomp, old firmware). So
//! `auto` boots a program of a few bytes under KVM and takes KVM only if the kernel is ready within a
//! second. The answer is remembered for this boot of the host, this QEMU and this kernel.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::machine::{Machine, Spec};
use super::qemu::Accelerator;
use crate::channel::frame::{Decoder, GuestFrame};
use crate::channel::session::{Connection, wait_for_connection};
use crate::channel::signals::Signals;
use crate::error::{Error, Result};
use crate::pack::cpio::write_archive;
use crate::pack::record::{Poison, RunRecord};
use crate::pack::tree::{Content, Node, Tree};
use crate::progress::Progress;
use crate::values::{Accel, Folios, Lock, Rmap, SwapBackend};

/// How long the kernel may take to be ready under KVM.
const PROBE_TIME: Duration = Duration::from_secs(1);
const PROBE_RAM: u64 = 16 << 20;
const KVM_DEVICE: &str = "/dev/kvm";

/// Decides for an accelerator.
///
/// # Errors
///
/// KVM was demanded and this host cannot open it.
pub fn choose(
    wanted: Accel,
    qemu: &Path,
    kernel: &Path,
    signals: &mut Signals,
    progress: &mut Progress,
) -> Result<Accelerator> {
    match wanted {
        Accel::Tcg => Ok(Accelerator::Tcg),
        Accel::Kvm => match open_kvm() {
            Ok(()) => Ok(Accelerator::Kvm),
            Err(error) => Err(Error::usage(format_args!(
                "KVM is not usable here ({KVM_DEVICE}: {error}); use --accel tcg, or get access to {KVM_DEVICE}"
            ))),
        },
        Accel::Auto if open_kvm().is_err() => Ok(Accelerator::Tcg),
        Accel::Auto => {
            progress.step("probing KVM");
            let memory = Memory::of_this_host(qemu, kernel);
            if let Some(accelerator) = memory.as_ref().and_then(Memory::recall) {
                return Ok(accelerator);
            }
            let accelerator = match probe(qemu, kernel, signals, progress) {
                Ok(true) => Accelerator::Kvm,
                Ok(false) | Err(_) => Accelerator::Tcg,
            };
            if let Some(memory) = memory {
                memory.store(accelerator);
            }
            Ok(accelerator)
        }
    }
}

fn open_kvm() -> io::Result<()> {
    fs::OpenOptions::new().read(true).write(true).open(KVM_DEVICE).map(drop)
}

/// Boots under KVM; tells whether the kernel was ready in time.
fn probe(qemu: &Path, kernel: &Path, signals: &mut Signals, progress: &mut Progress) -> io::Result<bool> {
    let dir = tempfile::tempdir()?;
    let archive = dir.path().join("archive");
    fs::write(&archive, probe_archive()?)?;
    let spec = Spec {
        qemu,
        kernel,
        archive: &archive,
        disks: &[],
        ram: PROBE_RAM,
        cpus: 1,
        accelerator: Accelerator::Kvm,
    };
    let deadline = Instant::now() + PROBE_TIME;
    let machine = Machine::boot(&spec, dir.path())?;
    let listener = std::os::fd::AsFd::as_fd(machine.listener());
    let gone = std::os::fd::AsFd::as_fd(machine.gone());
    match wait_for_connection(listener, gone, signals, progress, Some(deadline))? {
        Connection::Ready => ready_before(&machine.accept()?, deadline),
        Connection::Gone | Connection::Timeout | Connection::Interrupted => Ok(false),
    }
}

fn ready_before(mut channel: &UnixStream, deadline: Instant) -> io::Result<bool> {
    let mut decoder = Decoder::default();
    let mut buffer = [0; 4096];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        channel.set_read_timeout(Some(left))?;
        match channel.read(&mut buffer) {
            Ok(0) => return Ok(false),
            Ok(count) => decoder.push(&buffer[..count]),
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(e) => return Err(e),
        }
        while let Ok(Some(frame)) = decoder.next_frame() {
            if frame == GuestFrame::Ready {
                return Ok(true);
            }
        }
    }
}

/// An archive whose program exits at once.
fn probe_archive() -> io::Result<Vec<u8>> {
    let mut tree = Tree::new();
    let node = Node::File { content: Content::Bytes(exit_program()), mode: 0o755, mtime: 0 };
    tree.add_new(Path::new("/probe"), node)?;
    let record = RunRecord {
        ram: PROBE_RAM,
        cpus: 1,
        swap: 0,
        swap_backend: SwapBackend::Lz4,
        swap_disk: None,
        lock: Lock::Mmap,
        rmap: Rmap::default(),
        nodes: 1,
        folios: &Folios::none(),
        poison: Poison::Off,
        terminal: None,
        watch_ms: 0,
        cwd: Path::new("/"),
        exe: Path::new("/probe"),
        args: &["probe".into()],
        env: &[],
    };
    let record = record.to_bytes().map_err(io::Error::other)?;
    let mut out = Vec::new();
    write_archive(&mut out, &record, &tree, |_| {})?;
    Ok(out)
}

/// A static ELF program that calls `exit_group(0)`: one header, one segment, three instructions.
#[must_use]
pub fn exit_program() -> Vec<u8> {
    const BASE: u64 = 0x40_0000;
    const HEADERS: u64 = 64 + 56;
    // mov eax, 231 (exit_group); xor edi, edi; syscall
    const CODE: [u8; 9] = [0xb8, 231, 0, 0, 0, 0x31, 0xff, 0x0f, 0x05];
    let len = HEADERS + CODE.len() as u64;
    let mut out = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let mut put = |value: u64, bytes: usize| out.extend_from_slice(&value.to_le_bytes()[..bytes]);
    // ET_EXEC, EM_X86_64, version, entry, program headers at 64, no sections, no flags.
    for (value, bytes) in [(2, 2), (62, 2), (1, 4), (BASE + HEADERS, 8), (64, 8), (0, 8), (0, 4)] {
        put(value, bytes);
    }
    // Sizes: ELF header, program header, one of them; no sections.
    for (value, bytes) in [(64, 2), (56, 2), (1, 2), (0, 2), (0, 2), (0, 2)] {
        put(value, bytes);
    }
    // PT_LOAD, R+X, the whole file at BASE.
    for (value, bytes) in [(1, 4), (5, 4), (0, 8), (BASE, 8), (BASE, 8), (len, 8), (len, 8), (4096, 8)] {
        put(value, bytes);
    }
    out.extend_from_slice(&CODE);
    out
}

/// Where the answer is kept, and what it depends on.
struct Memory {
    file: PathBuf,
    key: String,
}

impl Memory {
    fn of_this_host(qemu: &Path, kernel: &Path) -> Option<Self> {
        let cache = std::env::var_os("XDG_CACHE_HOME")
            .map(PathBuf::from)
            .filter(|dir| dir.is_absolute())
            .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))?;
        Self::in_dir(&cache, qemu, kernel)
    }

    fn in_dir(cache: &Path, qemu: &Path, kernel: &Path) -> Option<Self> {
        let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        let stamp = |path: &Path| {
            let metadata = fs::metadata(path).ok()?;
            Some(format!("{} {} {}", path.display(), metadata.len(), metadata.mtime()))
        };
        let key = format!("{}\n{}\n{}", boot_id.trim(), stamp(qemu)?, stamp(kernel)?);
        Some(Self { file: cache.join("anonmem/accel"), key })
    }

    fn recall(&self) -> Option<Accelerator> {
        let text = fs::read_to_string(&self.file).ok()?;
        match text.strip_prefix(&self.key)?.trim() {
            "kvm" => Some(Accelerator::Kvm),
            "tcg" => Some(Accelerator::Tcg),
            _ => None,
        }
    }

    /// Remembers; where that is impossible, the next run probes again.
    fn store(&self, accelerator: Accelerator) {
        let word = match accelerator {
            Accelerator::Kvm => "kvm",
            Accelerator::Tcg | Accelerator::Counted => "tcg",
        };
        if let Some(dir) = self.file.parent() {
            let _ = fs::create_dir_all(dir);
        }
        let _ = fs::write(&self.file, format!("{}\n{word}\n", self.key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pack::elf::{FileKind, file_kind};

    #[test]
    fn the_probes_program_runs_on_this_host() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("probe");
        fs::write(&path, exit_program()).unwrap();
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        assert!(matches!(file_kind(&path).unwrap(), FileKind::Elf(_)));
        assert!(std::process::Command::new(&path).status().unwrap().success());
    }

    #[test]
    fn the_answer_is_remembered_for_this_kernel_only() {
        let dir = tempfile::tempdir().unwrap();
        let (qemu, kernel) = (dir.path().join("q"), dir.path().join("k"));
        fs::write(&qemu, "q").unwrap();
        fs::write(&kernel, "k").unwrap();
        let memory = || Memory::in_dir(dir.path(), &qemu, &kernel).unwrap();
        assert_eq!(memory().recall(), None);
        memory().store(Accelerator::Kvm);
        assert_eq!(memory().recall(), Some(Accelerator::Kvm));
        fs::write(&kernel, "another").unwrap();
        assert_eq!(memory().recall(), None);
        memory().store(Accelerator::Tcg);
        assert_eq!(memory().recall(), Some(Accelerator::Tcg));
    }

    #[test]
    fn ready_in_time_is_what_counts() {
        let (near, far) = UnixStream::pair().unwrap();
        let mut bytes = Vec::new();
        GuestFrame::Log("hello".into()).encode(&mut bytes);
        GuestFrame::Ready.encode(&mut bytes);
        io::Write::write_all(&mut &far, &bytes).unwrap();
        let soon = || Instant::now() + Duration::from_millis(20);
        assert!(ready_before(&near, Instant::now() + PROBE_TIME).unwrap());
        assert!(!ready_before(&near, soon()).unwrap());
        drop(far);
        assert!(!ready_before(&near, soon()).unwrap());
    }
}

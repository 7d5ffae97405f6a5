//! QEMU: finding it, and the command line that the kernel expects (machines/microvm/README.md).

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use super::disk::{self, Access, Disk, Worth};
use crate::error::{Error, Result};
use crate::pack::program::find_on_path;

/// The emulator's name.
pub const QEMU_NAME: &str = "qemu-system-x86_64";

/// What the kernel itself needs beside the memory that it manages: its image, heap and stacks.
const KERNEL_RESERVE: u64 = 48 << 20;

/// Where memory below the devices ends.
const LOW_MEMORY: u64 = 3 << 30;
/// What fits there beside the kernel.
const LOW_MEMORY_LIMIT: u64 = (29 << 30) / 10 - KERNEL_RESERVE;

/// How the CPUs are made, decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accelerator {
    /// QEMU's translator, one host thread for each CPU.
    Tcg,
    /// Hardware virtualisation.
    Kvm,
    /// QEMU's translator, one host thread for all CPUs, its clock bound to the instructions that they
    /// execute: a nanosecond each. The time stamp counter then counts instructions.
    Counted,
}

impl Accelerator {
    /// As people and the memory bill name it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcg => "TCG",
            Self::Kvm => "KVM",
            Self::Counted => "TCG, instructions counted",
        }
    }
}

/// The arguments that make the CPUs. Without ERMS, as the translator takes `rep movsb` byte by byte: programs
/// that look for it move more at once.
#[must_use]
pub fn cpu_arguments(accelerator: Accelerator) -> Vec<&'static str> {
    match accelerator {
        Accelerator::Tcg => vec!["-accel", "tcg,thread=multi", "-cpu", "max,-erms"],
        Accelerator::Kvm => vec!["-accel", "kvm", "-cpu", "host"],
        Accelerator::Counted => {
            vec!["-accel", "tcg,thread=single", "-cpu", "max,-erms", "-icount", "shift=0,sleep=off"]
        }
    }
}

/// One boot.
#[derive(Debug)]
pub struct Boot<'a> {
    /// The kernel's ELF file.
    pub kernel: &'a Path,
    /// The initial archive.
    pub archive: &'a Path,
    /// The archive's length in bytes.
    pub archive_len: u64,
    /// The unix socket to connect to.
    pub socket: &'a Path,
    /// Where the serial line's text goes.
    pub serial: &'a Path,
    /// Its disks, in the order of their names.
    pub disks: &'a [Disk],
    /// Bytes that the memory manager manages.
    pub ram: u64,
    /// Number of CPUs.
    pub cpus: u32,
    /// How the CPUs are made.
    pub accelerator: Accelerator,
}

/// Finds QEMU: as named, or on PATH.
///
/// # Errors
///
/// One line that says what to install.
pub fn find(named: Option<&Path>, search_path: &OsStr) -> Result<PathBuf> {
    if let Some(path) = named {
        return path
            .is_file()
            .then(|| path.to_path_buf())
            .ok_or_else(|| Error::usage(format_args!("there is no QEMU at {}", path.display())));
    }
    find_on_path(OsStr::new(QEMU_NAME), search_path).ok_or_else(|| {
        Error::usage(format_args!(
            "{QEMU_NAME} is not on PATH; install it (Debian, Ubuntu: apt-get install qemu-system-x86) or run: make deps"
        ))
    })
}

/// As [`Boot::memory_mib`], of the memory that is managed and an archive's length.
#[must_use]
pub fn memory_mib(ram: u64, archive_len: u64) -> u64 {
    let managed = ram + archive_len;
    let below = if managed > LOW_MEMORY_LIMIT { LOW_MEMORY } else { 0 };
    let bytes = below + managed + ram / 32 + KERNEL_RESERVE;
    bytes.div_ceil(1 << 20)
}

impl Boot<'_> {
    /// Tells how much memory the machine has: what is managed, 1/32 of it for metadata and the direct
    /// map, the archive, and the kernel's reserve; in whole MiB. The managed block is contiguous and low
    /// memory ends at 3 GiB: what does not fit there lies above 4 GiB, behind low memory.
    #[must_use]
    pub fn memory_mib(&self) -> u64 {
        memory_mib(self.ram, self.archive_len)
    }

    /// Makes QEMU's arguments.
    #[must_use]
    pub fn arguments(&self) -> Vec<OsString> {
        let mut args: Vec<OsString> = Vec::new();
        let mut add = |words: &[&str]| args.extend(words.iter().map(OsString::from));
        add(&["-M", "microvm,acpi=on,rtc=on,pit=off,pic=off,isa-serial=on,auto-kernel-cmdline=off"]);
        add(&cpu_arguments(self.accelerator));
        add(&["-smp", &self.cpus.to_string(), "-m", &format!("{}M", self.memory_mib())]);
        add(&["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
        add(&["-global", "virtio-mmio.force-legacy=false", "-device", "virtio-serial-device,max_ports=2"]);
        add(&["-device", "virtserialport,chardev=ch0,nr=1"]);
        add(&["-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"]);
        let with_path = |before: &str, path: &Path| {
            let mut word = OsString::from(before);
            word.push(escape_commas(path));
            word
        };
        args.extend(["-chardev".into(), with_path("socket,id=ch0,path=", self.socket)]);
        args.extend(["-serial".into(), with_path("file:", self.serial)]);
        for (number, disk) in self.disks.iter().enumerate() {
            let name = disk::name(number);
            // What is swapped out need not outlive the machine: nothing is ever flushed.
            let cache = match disk.worth {
                Worth::Kept => "writeback",
                Worth::Nothing => "unsafe",
            };
            let read_only = match disk.access {
                Access::ReadWrite => "off",
                Access::ReadOnly => "on",
            };
            let drive = format!("if=none,id={name},format=raw,cache={cache},readonly={read_only},file=");
            let device = format!("virtio-blk-device,drive={name},serial={name}");
            args.extend(["-drive".into(), with_path(&drive, &disk.path), "-device".into(), device.into()]);
        }
        args.extend(["-kernel".into(), self.kernel.into(), "-initrd".into(), self.archive.into()]);
        args
    }
}

/// Doubles commas, as QEMU's option syntax wants it.
fn escape_commas(path: &Path) -> String {
    path.to_string_lossy().replace(',', ",,")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boot(accelerator: Accelerator) -> Boot<'static> {
        Boot {
            kernel: Path::new("/k"),
            archive: Path::new("/a"),
            archive_len: 1,
            socket: Path::new("/x,y/s"),
            disks: &[],
            serial: Path::new("/x/serial"),
            ram: 64 << 20,
            cpus: 4,
            accelerator,
        }
    }

    #[test]
    fn the_machine_has_room_for_the_kernel_and_the_archive() {
        assert_eq!(boot(Accelerator::Tcg).memory_mib(), 64 + 2 + 48 + 1);
        let large = Boot { ram: 4 << 30, ..boot(Accelerator::Tcg) };
        assert_eq!(large.memory_mib(), 3 * 1024 + 4096 + 128 + 48 + 1);
    }

    #[test]
    fn paths_with_commas_survive() {
        let args = boot(Accelerator::Tcg).arguments();
        let has = |arg: &str| args.iter().any(|a| a == arg);
        assert!(has("socket,id=ch0,path=/x,,y/s") && has("4") && has("tcg,thread=multi"), "{args:?}");
        assert!(boot(Accelerator::Kvm).arguments().iter().any(|a| a == "host"));
        assert!(boot(Accelerator::Counted).arguments().iter().any(|a| a == "-icount"));
    }

    #[test]
    fn disks_have_names_and_keep_their_commas() {
        let disk = |path: &str, access, worth| Disk { path: path.into(), access, worth };
        let disks =
            [disk("/a,b", Access::ReadOnly, Worth::Kept), disk("/s", Access::ReadWrite, Worth::Nothing)];
        let args = Boot { disks: &disks, ..boot(Accelerator::Tcg) }.arguments();
        for word in [
            "if=none,id=vda,format=raw,cache=writeback,readonly=on,file=/a,,b",
            "virtio-blk-device,drive=vda,serial=vda",
            "if=none,id=vdb,format=raw,cache=unsafe,readonly=off,file=/s",
            "virtio-blk-device,drive=vdb,serial=vdb",
        ] {
            assert!(args.iter().any(|arg| arg == word), "{word}: {args:?}");
        }
    }

    #[test]
    fn a_missing_qemu_says_what_to_install() {
        let error = find(None, OsStr::new("/nowhere")).unwrap_err();
        assert!(error.to_string().contains("qemu-system-x86"));
        assert!(find(Some(Path::new("/no/qemu")), OsStr::new("")).is_err());
    }
}

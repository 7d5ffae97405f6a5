//! The start record, the archive's first entry: `key=value` fields, each ended by a zero byte.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::error::{Error, Result};
use crate::values::{Folios, Lock, Rmap, SwapBackend};

/// What the kernel is to start, and with what.
#[derive(Debug)]
pub struct RunRecord<'a> {
    /// Bytes that the memory manager manages.
    pub ram: u64,
    /// Number of CPUs.
    pub cpus: u32,
    /// Bytes of swap space; 0 for none.
    pub swap: u64,
    /// What it is made of.
    pub swap_backend: SwapBackend,
    /// The guest's name of the disk that it is, if it is one.
    pub swap_disk: Option<&'a str>,
    /// How many nodes memory has.
    pub nodes: u32,
    /// How page faults are kept apart from changes of the mappings.
    pub lock: Lock,
    /// How it is found what maps a page.
    pub rmap: Rmap,
    /// The sizes of folios.
    pub folios: &'a Folios,
    /// Whether freed frames are filled with a pattern.
    pub poison: Poison,
    /// Milliseconds between two looks at what is used; 0 for none.
    pub watch_ms: u64,
    /// The terminal that the program gets, as the kernel reads it.
    pub terminal: Option<&'a str>,
    /// The directory to start in.
    pub cwd: &'a Path,
    /// The program's file in the guest.
    pub exe: &'a Path,
    /// Its arguments, the name first.
    pub args: &'a [OsString],
    /// Its environment, `K=V` each.
    pub env: &'a [OsString],
}

/// Whether freed frames are filled with a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Poison {
    /// They are: a use after free shows.
    On,
    /// They are not: frees are cheaper.
    Off,
}

impl RunRecord<'_> {
    /// Writes the record as the kernel reads it.
    ///
    /// # Errors
    ///
    /// A value holds a zero byte, which no argument or path can.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        let mut field = |key: &str, value: &OsStr| {
            if value.as_bytes().contains(&0) {
                return Err(Error::usage(format_args!(
                    "{key}={} holds a zero byte",
                    value.to_string_lossy()
                )));
            }
            out.extend_from_slice(key.as_bytes());
            out.push(b'=');
            out.extend_from_slice(value.as_bytes());
            out.push(0);
            Ok(())
        };
        field("ram", OsStr::new(&self.ram.to_string()))?;
        field("cpus", OsStr::new(&self.cpus.to_string()))?;
        if self.nodes > 1 {
            field("nodes", OsStr::new(&self.nodes.to_string()))?;
        }
        field("lock", OsStr::new(self.lock.name()))?;
        if self.rmap != Rmap::default() {
            field("rmap", OsStr::new(self.rmap.name()))?;
        }
        field("folios", OsStr::new(self.folios.as_str()))?;
        if self.swap != 0 {
            field("swap", OsStr::new(&self.swap.to_string()))?;
            field("swap_backend", OsStr::new(self.swap_backend.name()))?;
            if let Some(name) = self.swap_disk {
                field("swap_disk", OsStr::new(name))?;
            }
        }
        let poison = match self.poison {
            Poison::On => "1",
            Poison::Off => "0",
        };
        field("poison", OsStr::new(poison))?;
        if self.watch_ms != 0 {
            field("watch", OsStr::new(&self.watch_ms.to_string()))?;
        }
        if let Some(terminal) = self.terminal {
            field("terminal", OsStr::new(terminal))?;
        }
        field("cwd", self.cwd.as_os_str())?;
        field("exe", self.exe.as_os_str())?;
        for arg in self.args {
            field("arg", arg)?;
        }
        for env in self.env {
            field("env", env)?;
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::values::parse_folios;

    #[test]
    fn fields_are_ended_by_zero_bytes() {
        let record = RunRecord {
            ram: 4096,
            cpus: 2,
            nodes: 2,
            swap: 8192,
            swap_backend: SwapBackend::Disk,
            swap_disk: Some("vdb"),
            lock: Lock::Vma,
            rmap: Rmap::Family,
            folios: &parse_folios("64K").unwrap(),
            poison: Poison::On,
            terminal: None,
            watch_ms: 100,
            cwd: Path::new("/root"),
            exe: Path::new("/bin/x"),
            args: &["x".into(), "".into(), "a=b".into()],
            env: &["K=V".into()],
        };
        let expected = "ram=4096\0cpus=2\0nodes=2\0lock=vma\0rmap=family\0folios=64K\0swap=8192\0swap_backend=disk\0swap_disk=vdb\0poison=1\0watch=100\0cwd=/root\0exe=/bin/x\0arg=x\0arg=\0arg=a=b\0env=K=V\0";
        assert_eq!(String::from_utf8(record.to_bytes().unwrap()).unwrap(), expected);
        let bad = RunRecord { args: &["a\0b".into()], ..record };
        assert!(bad.to_bytes().unwrap_err().to_string().contains("zero byte"));
    }
}

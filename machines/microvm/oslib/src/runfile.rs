//! `.anonmem/run`: what the command line asks the kernel to run.
//!
//! NUL-terminated records `key=value`. The keys: `ram`, `cpus`, `cwd`, `exe`, `arg` (repeated), `env`
//! (repeated), `poison`, `lock`, `rmap`, `nodes`, `folios`, `swap` (bytes), `swap_backend`,
//! `swap_disk`, `watch` (milliseconds), `terminal`. Unknown keys are kept, so that the kernel can name them
//! on its log.

use alloc::vec::Vec;

/// A parsed run file. All slices point into it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunFile<'a> {
    /// Bytes that the memory manager manages; zero if not stated.
    pub ram: u64,
    /// CPUs that the command line asked for; zero if not stated.
    pub cpus: u32,
    /// Working directory of the program.
    pub cwd: &'a [u8],
    /// Absolute path of the program inside the archive.
    pub exe: &'a [u8],
    /// Arguments, the zeroth first.
    pub args: Vec<&'a [u8]>,
    /// Environment, `NAME=VALUE` each.
    pub env: Vec<&'a [u8]>,
    /// Whether freed frames are poisoned.
    pub poison: bool,
    /// Lock mode of the memory manager.
    pub lock: &'a [u8],
    /// The memory manager's reverse map.
    pub rmap: &'a [u8],
    /// Nodes that memory has; zero if not stated.
    pub nodes: u32,
    /// Sizes of folios that it takes, in words.
    pub folios: &'a [u8],
    /// Bytes of the swap device; zero for none.
    pub swap: u64,
    /// What the swap device is made of.
    pub swap_backend: &'a [u8],
    /// The name of the disk that it is, if it is one.
    pub swap_disk: &'a [u8],
    /// Milliseconds between two looks at what is used; zero for none.
    pub watch: u64,
    /// The terminal that the command's standard input is, if it is one.
    pub terminal: Option<Terminal>,
    /// Records that this kernel does not know.
    pub unknown: Vec<&'a [u8]>,
}

/// A terminal on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terminal {
    /// `struct winsize`: rows, columns, and the same in dots.
    pub size: [u8; 8],
    /// Which of the standard streams it is.
    pub streams: [bool; 3],
}

impl Terminal {
    /// Reads `ROWS COLUMNS WIDTH HEIGHT STREAMS`; streams are the digits 0 to 2.
    fn parse(text: &[u8]) -> Option<Terminal> {
        let mut words = text.split(|&b| b == b' ');
        let mut size = [0; 8];
        for to in size.chunks_exact_mut(2) {
            let word = u16::try_from(number(words.next()?)?).ok()?;
            to.copy_from_slice(&word.to_le_bytes());
        }
        let digits = words.next()?;
        Some(Terminal { size, streams: [b'0', b'1', b'2'].map(|digit| digits.contains(&digit)) })
    }
}

impl<'a> RunFile<'a> {
    /// Parses `bytes`. A record that cannot be read counts as unknown.
    pub fn parse(bytes: &'a [u8]) -> Self {
        let mut run = RunFile {
            cwd: b"/",
            lock: b"mmap",
            folios: b"4K",
            swap_backend: b"lz4",
            swap_disk: b"vda",
            ..RunFile::default()
        };
        for record in bytes.split(|&b| b == 0).filter(|r| !r.is_empty()) {
            if run.record(record).is_none() {
                run.unknown.push(record);
            }
        }
        run
    }

    fn record(&mut self, record: &'a [u8]) -> Option<()> {
        let eq = record.iter().position(|&b| b == b'=')?;
        let (key, value) = (&record[..eq], &record[eq + 1..]);
        match key {
            b"ram" => self.ram = number(value)?,
            b"cpus" => self.cpus = number(value)?.try_into().ok()?,
            b"cwd" => self.cwd = value,
            b"exe" => self.exe = value,
            b"arg" => self.args.push(value),
            b"env" => self.env.push(value),
            b"poison" => self.poison = number(value)? != 0,
            b"lock" => self.lock = value,
            b"rmap" => self.rmap = value,
            b"nodes" => self.nodes = number(value)?.try_into().ok()?,
            b"folios" => self.folios = value,
            b"swap" => self.swap = number(value)?,
            b"swap_backend" => self.swap_backend = value,
            b"swap_disk" => self.swap_disk = value,
            b"terminal" => self.terminal = Some(Terminal::parse(value)?),
            b"watch" => self.watch = number(value)?,
            _ => return None,
        }
        Some(())
    }
}

fn number(text: &[u8]) -> Option<u64> {
    core::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_and_unknown_ones_are_named() {
        let run = RunFile::parse(b"ram=1048576\0cpus=2\0exe=/bin/sh\0arg=sh\0arg=-c\0arg=\0env=A=B=C\0poison=1\0nodes=2\0rmap=family\0swap=8192\0swap_disk=vdc\0watch=250\0colour=red\0ram=x\0");
        assert_eq!((run.ram, run.cpus, run.poison), (1 << 20, 2, true));
        assert_eq!((run.nodes, run.rmap), (2, &b"family"[..]));
        assert_eq!(run.args, [&b"sh"[..], b"-c", b""]);
        assert_eq!(run.env, [&b"A=B=C"[..]]);
        assert_eq!((run.swap, run.swap_backend), (8192, &b"lz4"[..]));
        assert_eq!((run.swap_disk, run.watch), (&b"vdc"[..], 250));
        assert_eq!(run.cwd, b"/");
        assert_eq!(run.unknown, [&b"colour=red"[..], b"ram=x"]);
    }

    #[test]
    fn a_terminal_has_a_size_and_streams() {
        let run = RunFile::parse(b"terminal=24 80 0 256 02\0");
        let size = [24, 0, 80, 0, 0, 0, 0, 1];
        assert_eq!(run.terminal, Some(Terminal { size, streams: [true, false, true] }));
        let bad = RunFile::parse(b"terminal=24 80 0\0terminal=70000 1 1 1 0\0");
        assert_eq!((bad.terminal, bad.unknown.len()), (None, 2));
    }
}

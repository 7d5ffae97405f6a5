//! The texts of `/proc` that have a format of their own.

use alloc::string::String;
use core::fmt::Write;

/// One mapping as `/proc/PID/maps` and `smaps` show it. Sizes in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mapping<'a> {
    /// First address.
    pub start: u64,
    /// Address after the last.
    pub end: u64,
    /// May be read.
    pub read: bool,
    /// May be written.
    pub write: bool,
    /// May be executed.
    pub exec: bool,
    /// Whether stores are seen by others.
    pub shared: bool,
    /// Offset in the source.
    pub offset: u64,
    /// Inode of the source, zero if none.
    pub ino: u64,
    /// Path, or `[heap]`, `[stack]`.
    pub name: &'a str,
    /// What its pages cost, in bytes, with the names and in the order of `smaps`.
    pub costs: &'a [(&'static str, u64)],
    /// Whether large folios may be in it.
    pub may_be_large: bool,
    /// Its attributes, by the two letters of `smaps`.
    pub flags: &'a [&'static str],
}

/// Appends the mapping's line of `maps`.
pub fn maps_line(out: &mut String, m: &Mapping<'_>) {
    let start = out.len();
    let flag = |on, c| if on { c } else { '-' };
    let device = if m.ino == 0 { "00:00" } else { "00:01" };
    let _ = write!(
        out,
        "{:08x}-{:08x} {}{}{}{} {:08x} {device} {}",
        m.start,
        m.end,
        flag(m.read, 'r'),
        flag(m.write, 'w'),
        flag(m.exec, 'x'),
        if m.shared { 's' } else { 'p' },
        m.offset,
        m.ino
    );
    if !m.name.is_empty() {
        while out.len() - start < 73 {
            out.push(' ');
        }
        out.push_str(m.name);
    }
    out.push('\n');
}

/// Appends the mapping's paragraph of `smaps`.
pub fn smaps_entry(out: &mut String, m: &Mapping<'_>) {
    maps_line(out, m);
    field(out, "Size", m.end - m.start);
    field(out, "KernelPageSize", 4096);
    field(out, "MMUPageSize", 4096);
    smaps_sums(out, m);
    let _ = writeln!(out, "THPeligible:    {:8}", u8::from(m.may_be_large));
    // A space after each, the last one, too: programs look for " rd ".
    out.push_str("VmFlags: ");
    for name in m.flags {
        let _ = write!(out, "{name} ");
    }
    out.push('\n');
}

/// Appends `smaps_rollup` for the sums in `m`.
pub fn smaps_rollup(out: &mut String, m: &Mapping<'_>) {
    maps_line(out, &Mapping { name: "[rollup]", ..*m });
    smaps_sums(out, m);
}

fn smaps_sums(out: &mut String, m: &Mapping<'_>) {
    for (name, bytes) in m.costs {
        field(out, name, *bytes);
    }
}

/// Appends `Name:   123 kB` with the number in column 25, as smaps and status have it.
pub fn field(out: &mut String, name: &str, bytes: u64) {
    let _ = writeln!(out, "{:<16}{:>8} kB", alloc::format!("{name}:"), bytes / 1024);
}

/// What `/proc/PID/stat` tells. Times in clock ticks, sizes as named.
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs, reason = "the names are Linux's")]
pub struct StatLine<'a> {
    pub pid: u32,
    pub comm: &'a str,
    pub state: char,
    pub ppid: u32,
    pub pgrp: u32,
    pub session: u32,
    /// The device number of its terminal, as `struct stat` has it; zero for none.
    pub tty: u64,
    /// The group that the terminal is for; -1 without one.
    pub foreground: i64,
    pub min_flt: u64,
    pub utime: u64,
    pub stime: u64,
    pub num_threads: u32,
    pub starttime: u64,
    pub vsize_bytes: u64,
    pub rss_pages: u64,
    pub start_stack: u64,
}

/// Gives the line of `/proc/PID/stat`: fifty-two fields.
pub fn stat_line(s: &StatLine<'_>) -> String {
    let mut out = String::new();
    let _ = write!(
        out,
        "{} ({}) {} {} {} {} {} {} 4194304 {} 0 0 0 {} {} 0 0 20 0 {} 0 {} {} {} 18446744073709551615 0 0 {}",
        s.pid,
        s.comm,
        s.state,
        s.ppid,
        s.pgrp,
        s.session,
        s.tty,
        s.foreground,
        s.min_flt,
        s.utime,
        s.stime,
        s.num_threads,
        s.starttime,
        s.vsize_bytes,
        s.rss_pages,
        s.start_stack
    );
    for _ in 29..=52 {
        out.push_str(" 0");
    }
    out.push('\n');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    #[test]
    fn maps_look_as_linux_writes_them() {
        let mut out = String::new();
        let m = Mapping {
            start: 0x400000,
            end: 0x401000,
            read: true,
            exec: true,
            ino: 7,
            name: "/bin/sh",
            ..Mapping::default()
        };
        maps_line(&mut out, &m);
        assert_eq!(out, "00400000-00401000 r-xp 00000000 00:01 7                                  /bin/sh\n");
        let mut out = String::new();
        maps_line(&mut out, &Mapping { name: "", ino: 0, shared: true, ..m });
        assert_eq!(out, "00400000-00401000 r-xs 00000000 00:00 0\n");
        let mut out = String::new();
        smaps_rollup(&mut out, &Mapping { costs: &[("Rss", 8192), ("Pss", 4096)], ..m });
        let lines: Vec<&str> = out.lines().skip(1).collect();
        assert_eq!(lines, ["Rss:                   8 kB", "Pss:                   4 kB"]);
    }

    #[test]
    fn stat_has_fifty_two_fields() {
        let line = stat_line(&StatLine { pid: 1, comm: "init", state: 'R', ..StatLine::default() });
        assert_eq!(line.split_whitespace().count(), 52);
    }
}

//! /proc/PID/smaps.

use anonmem_hosted::{
    ops::Rights,
    oracle::{
        page::{Attrs, Kind},
        space::Area,
    },
};

/// The areas of a process. Objects of shared memory are not told apart.
pub(crate) fn read(pid: i32) -> Vec<Area> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps")).expect("a process of ours");
    let mut areas: Vec<Area> = Vec::new();
    for line in text.lines() {
        if let Some(flags) = line.strip_prefix("VmFlags:") {
            let attrs = &mut areas.last_mut().expect("flags follow an area").attrs;
            for flag in flags.split_whitespace() {
                match flag {
                    "lo" => attrs.locked = true,
                    "nr" => attrs.no_reserve = true,
                    "gd" => attrs.grows_down = true,
                    "dc" => attrs.dont_fork = true,
                    "wf" => attrs.wipe_on_fork = true,
                    _ => {}
                }
            }
        } else if let Some(area) = header(line) {
            areas.push(area);
        }
    }
    areas
}

fn header(line: &str) -> Option<Area> {
    let mut words = line.split_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let hex = |s| u64::from_str_radix(s, 16).ok();
    let (start, end, rights, offset) = (hex(start)?, hex(end)?, words.next()?, hex(words.next()?)?);
    let bits = |(i, c): (usize, char)| u8::from(rights.chars().nth(i) == Some(c)) << i;
    let first = (offset as i64 - start as i64) / 4096;
    let kind = if line.contains("anonmem-source") {
        Kind::Source { first }
    } else if rights.ends_with('s') {
        Kind::Shared { object: 0, first }
    } else {
        Kind::Private
    };
    let rights = Rights([(0, 'r'), (1, 'w'), (2, 'x')].map(bits).iter().sum());
    Some(Area { start, end, attrs: Attrs::new(rights, kind) })
}

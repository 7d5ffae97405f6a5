//! `/sys/devices/system/node`, and `/proc/PID/numa_maps`.
//!
//! What is allocated where is not counted: `numastat` has what the frames say now.
//!
//! Linux: drivers/base/node.c, fs/proc/task_mmu.c `show_numa_map`.

use super::generated::Taken;
use crate::machine;
use crate::proc::mm::{self, Detail, Space, Vma};
use crate::proc::nodes::{self, cpus, used};
use crate::proc::process::Process;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use anonmem::{MapKind, MapUse};
use anonmem_hal::{MAX_NODES, NodeMode, NodeSet, Pfn};
use anonmem_oslib::Result;
use anonmem_oslib::errno::{EACCES, ENOMEM};
use anonmem_oslib::nodes::{list, words};
use anonmem_oslib::text::field;
use anonmem_oslib::vfs::{Body, FileType, Synthetic, Vfs};
use core::fmt::Write as _;

const DIR: &str = "/sys/devices/system/node";

/// A file of a node.
struct File {
    node: u32,
    text: fn(u32) -> String,
}

impl Synthetic for File {
    fn kind(&self) -> FileType {
        FileType::Regular
    }
    fn content(&self) -> Result<Vec<u8>> {
        Ok((self.text)(self.node).into_bytes())
    }
    fn write(&self, _bytes: &[u8]) -> Result<()> {
        Err(EACCES)
    }
}

/// A file's name, and what it says of a node.
type Text = (&'static str, fn(u32) -> String);

/// Those of the folder itself, which say the same whichever node is asked.
const OF_ALL: [Text; 5] = [
    ("has_cpu", |_| with_cpus()),
    ("has_memory", |_| all()),
    ("has_normal_memory", |_| all()),
    ("online", |_| all()),
    ("possible", |_| all()),
];

const OF_ONE: [Text; 6] = [
    ("cpulist", cpulist),
    ("cpumap", cpumap),
    ("distance", distance),
    ("meminfo", meminfo),
    ("numastat", numastat),
    ("vmstat", vmstat),
];

/// Puts the files into the tree.
pub(super) fn init(vfs: &Vfs) -> core::result::Result<(), Taken> {
    let put = |path: String, file: File| {
        let put = vfs.put(path.as_bytes(), 0o444, Body::Synthetic(Arc::new(file)));
        put.map(|_| ()).map_err(|error| Taken(path, error))
    };
    for (name, text) in OF_ALL {
        put(format!("{DIR}/{name}"), File { node: 0, text })?;
    }
    for node in nodes::all().iter() {
        for (name, text) in OF_ONE {
            put(format!("{DIR}/node{node}/{name}"), File { node, text })?;
        }
    }
    Ok(())
}

fn all() -> String {
    list(nodes::all()) + "\n"
}

fn with_cpus() -> String {
    let set = nodes::all().iter().filter(|&node| !cpus(node).is_empty());
    list(NodeSet(set.fold(0, |set, node| set | 1 << node))) + "\n"
}

fn cpulist(node: u32) -> String {
    let cpus = cpus(node);
    match cpus.len() {
        0 => "\n".into(),
        1 => format!("{}\n", cpus.start),
        _ => format!("{}-{}\n", cpus.start, cpus.end - 1),
    }
}

/// In words of 32 bits, the highest first, as many digits as there are CPUs.
fn cpumap(node: u32) -> String {
    let mask = cpus(node).fold(0_u64, |mask, cpu| mask | 1 << cpu);
    let count = crate::arch::percpu::cpu_count();
    match count.checked_sub(32) {
        None | Some(0) => format!("{mask:0width$x}\n", width = count.div_ceil(4)),
        Some(above) => {
            format!("{:0width$x},{:08x}\n", mask >> 32, mask as u32, width = above.div_ceil(4))
        }
    }
}

#[doc(alias = "node_read_distance")]
fn distance(node: u32) -> String {
    const NEAR: u32 = 10;
    const FAR: u32 = 20;
    let mut out = String::new();
    for other in nodes::all().iter() {
        let space = if other == 0 { "" } else { " " };
        let _ = write!(out, "{space}{}", if other == node { NEAR } else { FAR });
    }
    out + "\n"
}

fn meminfo(node: u32) -> String {
    let used = used(node);
    let mut out = String::new();
    for (name, pages) in [
        ("MemTotal", used.total),
        ("MemFree", used.free),
        ("MemUsed", used.total - used.free),
        ("Active", used.user),
        ("AnonPages", used.user),
        ("PageTables", used.tables),
        ("Slab", used.slabs),
    ] {
        let _ = write!(out, "Node {node} ");
        field(&mut out, name, pages << 12);
    }
    out
}

/// Linux counts allocations; here it is the pages of programs that there are.
fn numastat(node: u32) -> String {
    let user = used(node).user;
    format!(
        "numa_hit {user}\nnuma_miss 0\nnuma_foreign 0\ninterleave_hit 0\nlocal_node {user}\nother_node 0\n"
    )
}

fn vmstat(node: u32) -> String {
    let used = used(node);
    format!("nr_free_pages {}\nnr_anon_pages {}\nnr_page_table_pages {}\n", used.free, used.user, used.tables)
}

/// Appends the lines of a few mappings; gives the address from which to go on.
pub(super) fn maps(process: &Process, from: u64, out: &mut Vec<u8>) -> Result<Option<u64>> {
    let Some(space) = process.space() else { return Ok(None) };
    let task = process.threads().next().map_or_else(Default::default, |thread| thread.node_policy());
    let mut next = None;
    for vma in mm::vmas(&space, from, Detail::Pages)? {
        let own = vma.info.flags.node_policy();
        let policy = if own.mode == NodeMode::Default { task } else { own };
        let line = line(&space, &vma, &words(policy, nodes::all()));
        out.try_reserve(line.len()).map_err(|_| ENOMEM)?;
        out.extend_from_slice(line.as_bytes());
        next = Some(vma.info.range.end.0);
    }
    Ok(next)
}

fn line(space: &Space, vma: &Vma, policy: &str) -> String {
    let mut out = format!("{:08x} {policy}", vma.info.range.start.0);
    match (vma.info.kind, vma.info.purpose) {
        (_, MapUse::Heap) => out += " heap",
        (_, MapUse::Stack) => out += " stack",
        (MapKind::Source(_) | MapKind::Shared(_), MapUse::Other) if !vma.name.is_empty() => {
            let _ = write!(out, " file={}", vma.name);
        }
        (MapKind::Anonymous | MapKind::Source(_) | MapKind::Shared(_), MapUse::Other) => {}
    }
    let (vm, zero_page) = (machine::vm(), machine::vm().frames().zero_page());
    let (mut on, mut pages, mut dirty) = ([0_u64; MAX_NODES as usize], 0_u64, 0_u64);
    space.for_each_page(vma.info.range, &mut |_, entry| {
        let frame: Option<Pfn> = entry.pfn.filter(|frame| *frame != zero_page);
        let Some(frame) = frame else { return };
        on[vm.node_of(frame) as usize] += 1;
        pages += 1;
        dirty += u64::from(entry.dirty);
    });
    if pages == 0 {
        return out + "\n";
    }
    let anonymous = vma.usage.anonymous >> 12;
    if anonymous > 0 {
        let _ = write!(out, " anon={anonymous}");
    }
    if dirty > 0 {
        let _ = write!(out, " dirty={dirty}");
    }
    if pages != anonymous && pages != dirty {
        let _ = write!(out, " mapped={pages}");
    }
    for (node, pages) in on.iter().enumerate().filter(|(_, pages)| **pages > 0) {
        let _ = write!(out, " N{node}={pages}");
    }
    out + " kernelpagesize_kB=4\n"
}

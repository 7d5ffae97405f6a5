//! Free memory in large blocks: the kernel task that makes them, and what the administrator tells it.
//!
//! The task runs once somebody has set `compaction_proactiveness`, which is 0 here (Linux: 20). Every half a
//! second it asks how much of free memory lies in blocks smaller than a leaf. If that is more than
//! 110 - proactiveness per cent, it makes blocks until it is less than 100 - proactiveness. If that did not
//! help, it leaves memory alone for half a minute, or until somebody writes another number.
//!
//! Linux: mm/compaction.c `kcompactd`, `proactive_compact_node`, `sysctl_compaction_handler`.

use super::number::Number;
use super::worker::{Nap, OFF, ON, Worker};
use crate::machine;
use crate::sched;
use alloc::string::String;
use alloc::vec;
use anonmem::{Fragmentation, FreeBlocks, MAX_FOLIO_ORDER};
use anonmem_frame::Kind;
use anonmem_hal::{MAX_NODES, MAX_ORDER, Order, Pfn, PhysMem as _};
use anonmem_oslib::errno::EINVAL;
use anonmem_oslib::{Result, proactive};
use core::fmt::Write as _;

/// The order of the blocks that are wanted.
const WANTED: Order = Order::new(MAX_FOLIO_ORDER);
/// How much is done in the background, in per cent.
static PROACTIVENESS: Number = Number::new(0, 0, 100);
/// Kept: nobody reclaims for a large block (Linux: `extfrag_threshold`).
static THRESHOLD: Number = Number::new(500, 0, 1000);

/// The task: on while anything is wished.
static WORKER: Worker = Worker::new();

/// How much is done in the background.
pub fn proactiveness() -> u64 {
    PROACTIVENESS.get()
}

/// Sets how much is done in the background, and starts the task if there is none.
///
/// # Errors
/// `EINVAL` for more than 100, `ENOMEM` if there is no memory for the task; then a later write starts it.
pub fn set_proactiveness(value: u32) -> Result<()> {
    let changing = WORKER.changing();
    PROACTIVENESS.set(value.into())?;
    WORKER.tell(if value > 0 { ON } else { OFF }, kcompactd, &changing)
}

/// The index from which on memory counts as broken, and not as short.
pub fn threshold() -> u64 {
    THRESHOLD.get()
}

/// Sets it.
///
/// # Errors
/// `EINVAL` for more than 1000.
pub fn set_threshold(value: u32) -> Result<()> {
    THRESHOLD.set(value.into())
}

/// Makes all the blocks that can be made (`compact_memory`).
///
/// # Errors
/// `EINVAL` for anything but 1.
pub fn compact_all(value: u32) -> Result<()> {
    if value != 1 {
        return Err(EINVAL);
    }
    while machine::vm().compact_until(WANTED, 0, PIECE).blocks > 0 {
        sched::yield_now();
    }
    Ok(())
}

/// Blocks that are made before others get the processor.
const PIECE: u64 = 4;

/// The task.
fn kcompactd(_: usize) {
    let score = || machine::vm().fragmentation().score(WANTED);
    WORKER.work(|_| {
        let (wish, before) = (PROACTIVENESS.get(), score());
        if !proactive::is_due(wish, before) {
            return Nap::new(proactive::EVERY_NS, &PROACTIVENESS, wish);
        }
        let go_on = || WORKER.is_on() && PROACTIVENESS.get() == wish;
        while go_on() && machine::vm().compact_until(WANTED, proactive::low(wish), PIECE).blocks > 0 {
            sched::yield_now();
        }
        Nap::new(proactive::pause_ns(before, score()), &PROACTIVENESS, wish)
    });
}

/// Ends the task after all processes are gone.
pub fn finish() {
    WORKER.finish();
}

fn orders() -> impl Iterator<Item = Order> {
    (0..=MAX_ORDER).map(Order::new)
}

/// The text of `/proc/buddyinfo`.
#[doc(alias = "frag_show")]
pub fn buddyinfo() -> String {
    let mut out = String::new();
    for (node, blocks) in blocks_of_nodes().iter().enumerate().take(machine::nr_nodes() as usize) {
        let _ = write!(out, "Node {node}, zone   Normal ");
        for blocks in blocks {
            let _ = write!(out, "{blocks:6} ");
        }
        out.push('\n');
    }
    out
}

/// The free blocks of each node. There are lists of all only: of several, all frames are looked at.
fn blocks_of_nodes() -> [FreeBlocks; MAX_NODES as usize] {
    let vm = machine::vm();
    let mut nodes = [[0; MAX_ORDER as usize + 1]; MAX_NODES as usize];
    if machine::nr_nodes() == 1 {
        nodes[0] = vm.fragmentation().blocks;
        return nodes;
    }
    vm.frames().for_each_frame(|pfn, kind, order| {
        if kind == Kind::Buddy {
            nodes[vm.node_of(pfn) as usize][usize::from(order.get())] += 1;
        }
    });
    nodes
}

/// The text of a file of `/sys/kernel/debug/extfrag`: a number in thousandths for each order.
fn thousandths(of: impl Fn(&Fragmentation, Order) -> i64) -> String {
    let now = machine::vm().fragmentation();
    let mut out = String::from("Node 0, zone   Normal ");
    for order in orders() {
        let number = of(&now, order);
        let (sign, number) = (if number < 0 { "-" } else { "" }, number.unsigned_abs());
        let _ = write!(out, "{sign}{}.{:03} ", number / 1000, number % 1000);
    }
    out + "\n"
}

/// Why a block of each order cannot be had.
#[doc(alias = "extfrag_show")]
pub fn extfrag_index() -> String {
    thousandths(|now, order| now.index(order))
}

/// What of free memory is of no use for a block of each order.
#[doc(alias = "unusable_show")]
pub fn unusable_index() -> String {
    thousandths(|now, order| now.unusable(order) as i64)
}

/// What blocks of a leaf's size may hold. No list is kept of them here: one that has a page of the kernel's
/// is unmovable.
const TYPES: [&str; 4] = ["Unmovable", "Movable", "Reclaimable", "HighAtomic"];
const UNMOVABLE: usize = 0;
const MOVABLE: usize = 1;

/// Whether a frame that is used so stays where it is.
const fn is_kernels(kind: Kind) -> bool {
    match kind {
        Kind::Table | Kind::Slab | Kind::Kernel | Kind::Reserved | Kind::Offline => true,
        Kind::Buddy | Kind::BuddyTail | Kind::Pcp | Kind::New | Kind::Folio | Kind::Tail => false,
    }
}

/// The text of `/proc/pagetypeinfo`.
#[doc(alias = "pagetypeinfo_show")]
pub fn pagetypeinfo() -> String {
    let vm = machine::vm();
    let (base, frames) = (vm.machine().base_pfn().0, vm.machine().nr_frames());
    let block = WANTED.pages();
    let mut types = vec![MOVABLE; frames.div_ceil(block) as usize + 1];
    let of = |pfn: Pfn| ((pfn.0 - base) / block) as usize;
    vm.frames().for_each_frame(|pfn, kind, _| {
        if is_kernels(kind) {
            types[of(pfn)] = UNMOVABLE;
        }
    });
    let mut free = [[0_u64; MAX_ORDER as usize + 1]; TYPES.len()];
    vm.frames().for_each_frame(|pfn, kind, order| {
        if kind == Kind::Buddy {
            free[types[of(pfn)]][usize::from(order.get())] += 1;
        }
    });
    let mut out = alloc::format!("Page block order: {}\nPages per block:  {block}\n\n", WANTED.get());
    let _ = write!(out, "{:<43}", "Free pages count per migrate type at order ");
    for order in orders() {
        let _ = write!(out, "{:6} ", order.get());
    }
    for (name, blocks) in TYPES.iter().zip(free) {
        let _ = write!(out, "\nNode    0, zone   Normal, type {name:>12} ");
        for blocks in blocks {
            let _ = write!(out, "{blocks:6} ");
        }
    }
    let _ = write!(out, "\n\n{:<23}", "Number of blocks type ");
    for name in TYPES {
        let _ = write!(out, "{name:>12} ");
    }
    out += "\nNode 0, zone   Normal ";
    let blocks = frames.div_ceil(block) as usize;
    for nth in 0..TYPES.len() {
        let _ = write!(out, "{:12} ", types[..blocks].iter().filter(|&&of| of == nth).count());
    }
    out + "\n"
}

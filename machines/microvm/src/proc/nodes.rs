//! Nodes of memory, as programs see them: which CPUs and frames they have, policies, and moving pages.
//!
//! `nodes=N` of the start record makes N nodes of equal parts of the frames and of the CPUs. Where there are
//! several, a page lies on the node of the CPU that asks for it, unless a policy says otherwise.
//!
//! Linux: mm/mempolicy.c, mm/migrate.c `do_move_pages_to_node`.

use super::mm::{self, Space};
use crate::arch::percpu::cpu_count;
use crate::machine::{self, Kernel};
use crate::sched::{current_node_policy, set_node_policy as set_task_policy, yield_now};
use alloc::vec::Vec;
use anonmem::{Holes, NoPage, NotMoved, Stays, Whose};
use anonmem_frame::Kind;
use anonmem_hal::{NodeMode, NodePolicy, NodeSet, PAGE_SHIFT, PAGE_SIZE, Sched as _, Va, VaRange};
use anonmem_oslib::errno::{EACCES, EBUSY, EFAULT, EINTR, EIO, ENOENT, ENOMEM};
use anonmem_oslib::nodes::remap;
use anonmem_oslib::{Errno, Result};
use core::ops::Range;

/// All nodes.
pub fn all() -> NodeSet {
    NodeSet::first(machine::nr_nodes())
}

/// The CPUs of a node.
pub fn cpus(node: u32) -> Range<usize> {
    let (cpus, nodes) = (cpu_count(), machine::nr_nodes() as usize);
    let first = |node: usize| (cpus * node).div_ceil(nodes);
    first(node as usize)..first(node as usize + 1)
}

/// What the frames of a node are used for, in pages.
#[derive(Clone, Copy, Debug, Default)]
pub struct Used {
    /// All.
    pub total: u64,
    /// Free.
    pub free: u64,
    /// Pages of programs.
    pub user: u64,
    /// Page tables.
    pub tables: u64,
    /// The memory manager's own objects.
    pub slabs: u64,
}

/// Looks at all frames of a node.
pub fn used(node: u32) -> Used {
    let vm = machine::vm();
    let frames = vm.node_frames(node);
    let mut used = Used { total: frames.end.0 - frames.start.0, ..Used::default() };
    vm.frames().for_each_frame(|pfn, kind, order| {
        if !frames.contains(&pfn) {
            return;
        }
        match kind {
            Kind::Buddy | Kind::Pcp => used.free += order.pages(),
            Kind::Folio | Kind::New => used.user += order.pages(),
            Kind::Table => used.tables += order.pages(),
            Kind::Slab => used.slabs += order.pages(),
            Kind::Reserved | Kind::BuddyTail | Kind::Tail | Kind::Kernel | Kind::Offline => {}
        }
    });
    used
}

/// The policy of the running thread.
pub fn task_policy() -> NodePolicy {
    current_node_policy()
}

/// Gives the running thread a policy.
pub fn set_policy_of_task(policy: NodePolicy) {
    set_task_policy(policy);
}

/// The policy of the mapping at an address.
///
/// # Errors
/// `EFAULT` if there is none.
pub fn policy_at(space: &Space, at: u64) -> Result<NodePolicy> {
    space.node_policy_at(Va(at)).ok_or(EFAULT)
}

/// The node of the page at an address, which is touched.
///
/// # Errors
/// `EFAULT` if it cannot be had.
pub fn node_of_touched(space: &Space, at: u64) -> Result<u32> {
    loop {
        match space.handle_kernel_fault(Va(at), mm::Access::Read) {
            mm::Outcome::Done => {}
            mm::Outcome::Oom | mm::Outcome::NodesFull(_) => return Err(ENOMEM),
            mm::Outcome::SegvMaperr | mm::Outcome::SegvAccerr | mm::Outcome::Bus | mm::Outcome::Lost => {
                return Err(EFAULT);
            }
        }
        match space.node_of_page(Va(at)) {
            Ok(node) => return Ok(node),
            Err(NoPage::Zeroes) => return Ok(machine::vm().node_of(machine::vm().frames().zero_page())),
            Err(NoPage::NotMapped) => return Err(EFAULT),
            // It has gone again.
            Err(NoPage::Empty) => yield_now(),
        }
    }
}

/// What `move_pages` says of a page: its node, or why it has none.
///
/// # Errors
/// `EFAULT`, `ENOENT`.
pub fn node_of(space: &Space, at: u64) -> Result<u32> {
    space.node_of_page(Va(at)).map_err(errno_of_none)
}

fn errno_of_none(none: NoPage) -> Errno {
    match none {
        NoPage::NotMapped | NoPage::Zeroes => EFAULT,
        NoPage::Empty => ENOENT,
    }
}

/// What became of a page that was to go to another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moved {
    /// It is there.
    There,
    /// It was not tried, for this reason: the next one is.
    Passed(Errno),
    /// It was tried, and stays.
    Failed(Errno),
}

/// Moves the page at an address to a node.
pub fn move_page(space: &Space, at: u64, node: u32, whose: Whose) -> Moved {
    match space.move_page_to_node(Va(at), node, whose) {
        Ok(()) => Moved::There,
        Err(NotMoved::NoPage(none)) => Moved::Passed(errno_of_none(none)),
        Err(NotMoved::Shared) => Moved::Passed(EACCES),
        Err(NotMoved::Stays(Stays::NoMemory)) => Moved::Failed(ENOMEM),
        Err(NotMoved::Stays(
            Stays::NotAnonymous
            | Stays::Watched
            | Stays::Pinned
            | Stays::Locked
            | Stays::Referenced
            | Stays::SwapOff,
        )) => Moved::Failed(EBUSY),
    }
}

/// The node that a policy wants a page on that lies elsewhere.
fn wanted(policy: NodePolicy, at: u64) -> Option<u32> {
    let nodes = policy.among(all());
    let nth = match policy.mode {
        NodeMode::Default | NodeMode::Local => return None,
        NodeMode::Interleave | NodeMode::WeightedInterleave => {
            (at >> PAGE_SHIFT) as usize % nodes.len().max(1) as usize
        }
        NodeMode::Preferred | NodeMode::Bind | NodeMode::PreferredMany => 0,
    };
    nodes.iter().nth(nth)
}

/// Pages that are looked at under one hold of the mmap lock.
const PIECE: u64 = 512;

/// The most pages that are looked at under one hold where there are none.
const MOST: u64 = PIECE << 9;

/// Calls `f` with the address and the node of every page of a range that lies on one. `f` may sleep. The
/// looks reach further and further where nothing is, so that a large empty mapping takes few of them.
///
/// # Errors
/// `ENOMEM`; `EINTR` if the running thread is to end; what `f` says.
fn each_page(space: &Space, range: VaRange, mut f: impl FnMut(u64, u32) -> Result<()>) -> Result<()> {
    let vm = machine::vm();
    let mut found: Vec<(u64, u32)> = Vec::new();
    found.try_reserve_exact(PIECE as usize).map_err(|_| ENOMEM)?;
    let (mut at, mut reach) = (range.start, PIECE);
    while at < range.end {
        let mut end = Va((at.0 + reach * PAGE_SIZE as u64).min(range.end.0));
        space.for_each_page(VaRange { start: at, end }, &mut |va, entry| {
            let frame = entry.pfn.filter(|frame| *frame != vm.frames().zero_page());
            match frame {
                Some(frame) if found.len() < PIECE as usize => found.push((va.0, vm.node_of(frame))),
                // The next look begins here.
                Some(_) => end = end.min(va),
                None => {}
            }
        });
        reach = if found.is_empty() { (reach * 2).min(MOST) } else { PIECE };
        for (va, node) in found.drain(..) {
            go_on()?;
            f(va, node)?;
        }
        at = end;
        go_on()?;
        yield_now();
    }
    Ok(())
}

/// Whether the running thread does what it was asked, and does not end instead.
///
/// # Errors
/// `EINTR`.
pub fn go_on() -> Result<()> {
    if Kernel::is_dying() { Err(EINTR) } else { Ok(()) }
}

/// The parts of a range that are mapped, as they are now.
fn mapped(space: &Space, range: VaRange) -> Result<Vec<VaRange>> {
    let mut parts = Vec::new();
    let (mut from, mut more) = (range.start, false);
    loop {
        let before = parts.len();
        parts.try_reserve(PIECE as usize).map_err(|_| ENOMEM)?;
        space.for_each_vma(from, &mut |vma| match vma.range.intersect(range) {
            Some(part) if parts.len() < before + PIECE as usize => {
                parts.push(part);
                core::ops::ControlFlow::Continue(())
            }
            Some(_) => {
                more = true;
                core::ops::ControlFlow::Break(())
            }
            None => core::ops::ControlFlow::Break(()),
        });
        match parts.last() {
            Some(last) if core::mem::take(&mut more) => from = last.end,
            Some(_) | None => return Ok(parts),
        }
    }
}

/// What `mbind` does with pages that lie elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Misplaced {
    /// Whose are moved, if any are.
    pub moves: Option<Whose>,
    /// Whether one that stays is an error.
    pub strict: Strict,
}

/// Whether a page that stays is an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strict {
    /// It is.
    Yes,
    /// It is not.
    No,
}

/// Gives mappings a policy, and does with their pages as `misplaced` says.
///
/// # Errors
/// `EFAULT` for holes; `EIO` for pages that lie elsewhere, if those are an error; `ENOMEM`.
pub fn bind(space: &Space, range: VaRange, policy: NodePolicy, misplaced: Misplaced) -> Result<()> {
    let holes = if policy.mode == NodeMode::Default { Holes::Passed } else { Holes::Refused };
    if misplaced.strict == Strict::Yes && misplaced.moves.is_none() {
        check_holes(space, range)?;
        for part in mapped(space, range)? {
            each_page(space, part, |_, node| if policy.allows(node, all()) { Ok(()) } else { Err(EIO) })?;
        }
    }
    space.set_node_policy(range, policy, holes).map_err(mm::errno)?;
    let Some(whose) = misplaced.moves else { return Ok(()) };
    let mut failed = 0;
    for part in mapped(space, range)? {
        each_page(space, part, |at, node| {
            let target = wanted(policy, at).filter(|_| !policy.allows(node, all()));
            if let Some(target) = target {
                match move_page(space, at, target, whose) {
                    Moved::There | Moved::Passed(EFAULT | ENOENT) => {}
                    Moved::Passed(_) | Moved::Failed(_) => failed += 1,
                }
            }
            Ok(())
        })?;
    }
    if failed > 0 && misplaced.strict == Strict::Yes { Err(EIO) } else { Ok(()) }
}

/// Linux looks for holes before it looks at pages.
fn check_holes(space: &Space, range: VaRange) -> Result<()> {
    let bytes: u64 = mapped(space, range)?.iter().map(|part| part.len()).sum();
    if bytes == range.len() { Ok(()) } else { Err(EFAULT) }
}

/// Moves the pages of an address space from the nodes `old` to those that have the same place in `new`; gives
/// how many stay.
///
/// # Errors
/// `ENOMEM`.
#[doc(alias = "do_migrate_pages")]
pub fn migrate(space: &Space, old: NodeSet, new: NodeSet, whose: Whose) -> Result<usize> {
    let everything = VaRange { start: Va(0), end: Va(crate::usercopy::USER_END) };
    let mut stay = 0;
    for part in mapped(space, everything)? {
        each_page(space, part, |at, node| {
            let target = remap(node, old, new);
            // Of two sets of other sizes, what lies in the new one may stay.
            let stays = target == node || (old.len() != new.len() && new.contains(node));
            if !stays && all().contains(target) {
                stay += usize::from(matches!(move_page(space, at, target, whose), Moved::Failed(_)));
            }
            Ok(())
        })?;
    }
    Ok(stay)
}

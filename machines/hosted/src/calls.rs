//! The operations as calls of anonmem: the one place that knows its interface.

use crate::{
    Access, Checks, Handled, Hosted, Trap, UserCpu, UserSpace,
    access::{fetch, read, write},
    ops::{Advise, At, Backing, HEAP_START, Op, Outcome, Place, Remap, Rights},
    oracle::{
        page::{Attrs, Kind},
        space::Area,
    },
    watched,
};
use anonmem::{
    Advice, ClearRefs, Error, FaultAccess, FaultOutcome, Machine, MapBacking, MapFlags, MapKind, Mm,
    MmapRequest, Prot, RemapFlags, VmFlags,
};
use anonmem_hal::{Arch, CpuId, PAGE_SHIFT, Pfn, SourceId, Va, VaRange};

impl<C: Checks, A: Arch> UserSpace for Mm<'_, Hosted<C, A>>
where
    Hosted<C, A>: Machine,
{
    fn root(&self) -> Pfn {
        Mm::root(self)
    }

    fn activate(&self, cpu: CpuId) {
        Mm::activate(self, cpu);
    }

    fn deactivate(&self, cpu: CpuId) {
        Mm::deactivate(self, cpu);
    }

    fn handle_fault(&self, va: Va, access: Access) -> Handled {
        let access = match access {
            Access::Read => FaultAccess::Read,
            Access::Write => FaultAccess::Write,
            Access::Exec => FaultAccess::Exec,
        };
        match Mm::handle_fault(self, va, access) {
            FaultOutcome::Done => Handled::Retry,
            FaultOutcome::Oom | FaultOutcome::NodesFull(_) => Handled::Trap(Trap::Oom),
            FaultOutcome::SegvMaperr => Handled::Trap(Trap::Unmapped),
            FaultOutcome::SegvAccerr => Handled::Trap(Trap::Denied),
            FaultOutcome::Bus | FaultOutcome::Lost => Handled::Trap(Trap::Bus),
        }
    }
}

/// Applies an operation to the address space of `users`; loads and stores go through the CPU of `user`.
/// Operations on whole address spaces are not for here.
pub fn apply<'v, C: Checks, A: Arch>(
    user: &UserCpu<'_, C, A, Mm<'v, Hosted<C, A>>>,
    source: SourceId,
    op: &Op,
) -> Outcome
where
    Hosted<C, A>: Machine,
{
    let mm = user.space();
    match *op {
        Op::Read(at) => read(user, at),
        Op::Write(at, tag) => write(user, at, tag),
        Op::Fetch(at) => fetch(user, at),
        Op::Mmap(at, place, rights, backing) => mmap(mm, at, place, rights, backing, source),
        Op::Munmap(at) => done(mm.munmap(range(at))),
        Op::Mprotect(at, rights) => done(mm.mprotect(range(at), prot(rights))),
        Op::Brk(at) => Outcome::Address(mm.brk(Va(HEAP_START.saturating_add(at.len))).0),
        Op::Mremap(at, new_len, how) => mremap(mm, at, new_len, how),
        Op::Madvise(at, advice) => done(mm.madvise(Va(at.addr), at.len, advise(advice))),
        Op::Mlock(at) => done(mm.mlock(Va(at.addr), at.len)),
        Op::Munlock(at) => done(mm.munlock(Va(at.addr), at.len)),
        Op::Mincore(at) => mincore(mm, at),
        Op::ClearRefs(_) => {
            mm.clear_refs(ClearRefs::SoftDirty);
            Outcome::Done
        }
        Op::DeviceWrite(at, tag) => watched::device_write(mm, at, tag),
        Op::UffdMove(at, to) => watched::uffd_move(mm, at, to),
        Op::UffdFill(at, tag) => watched::uffd_fill(mm, at, tag),
        Op::UffdProtect(at, tag) => watched::uffd_protect(user, at, tag),
        Op::Spawn(_) | Op::Fork { .. } | Op::Exit(_) | Op::Hold(..) | Op::Release(..) => {
            unreachable!("{op:?} is not within one address space")
        }
    }
}

/// The range of a call; one that wraps around ends where no range can.
fn range(at: At) -> VaRange {
    VaRange { start: Va(at.addr), end: Va(at.addr.saturating_add(at.len)) }
}

fn prot(rights: Rights) -> Prot {
    Prot::from_bits_truncate(rights.0.into())
}

fn mmap<C: Checks, A: Arch>(
    mm: &Mm<'_, Hosted<C, A>>,
    at: At,
    place: Place,
    rights: Rights,
    backing: Backing,
    source: SourceId,
) -> Outcome
where
    Hosted<C, A>: Machine,
{
    let (addr, place) = match place {
        Place::Anywhere => (0, MapFlags::empty()),
        Place::Hint(addr) => (addr, MapFlags::empty()),
        Place::Fixed(addr) => (addr, MapFlags::FIXED),
        Place::NoReplace(addr) => (addr, MapFlags::FIXED_NOREPLACE),
    };
    let (backing, kind) = match backing {
        Backing::Private => (MapBacking::Anonymous, MapFlags::empty()),
        Backing::NoReserve => (MapBacking::Anonymous, MapFlags::NORESERVE),
        Backing::Stack => (MapBacking::Anonymous, MapFlags::GROWSDOWN),
        Backing::Shared => (MapBacking::SharedNew, MapFlags::empty()),
        Backing::Source(page) => {
            (MapBacking::Source { id: source, offset: page << PAGE_SHIFT }, MapFlags::empty())
        }
    };
    let (addr, prot) = (Va(addr), prot(rights));
    address(mm.mmap(MmapRequest { addr, len: at.len, prot, flags: place | kind, backing }))
}

fn mremap<C: Checks, A: Arch>(mm: &Mm<'_, Hosted<C, A>>, at: At, new_len: u64, how: Remap) -> Outcome
where
    Hosted<C, A>: Machine,
{
    let keep = RemapFlags::MAYMOVE | RemapFlags::DONTUNMAP;
    let (flags, to) = match how {
        Remap::InPlace => (RemapFlags::empty(), 0),
        Remap::MayMove => (RemapFlags::MAYMOVE, 0),
        Remap::Fixed(to) => (RemapFlags::MAYMOVE | RemapFlags::FIXED, to),
        Remap::DontUnmap => (keep, 0),
        Remap::DontUnmapFixed(to) => (keep | RemapFlags::FIXED, to),
    };
    address(mm.mremap(Va(at.addr), at.len, new_len, flags, Va(to)))
}

fn advise(advice: Advise) -> Advice {
    match advice {
        Advise::DontNeed => Advice::DontNeed,
        Advise::Free => Advice::Free,
        Advise::PopulateRead => Advice::PopulateRead,
        Advise::PopulateWrite => Advice::PopulateWrite,
        Advise::DontFork => Advice::DontFork,
        Advise::DoFork => Advice::DoFork,
        Advise::WipeOnFork => Advice::WipeOnFork,
        Advise::KeepOnFork => Advice::KeepOnFork,
        Advise::Cold => Advice::Cold,
        Advise::PageOut => Advice::PageOut,
        Advise::GuardInstall => Advice::GuardInstall,
        Advise::GuardRemove => Advice::GuardRemove,
    }
}

fn address(result: Result<Va, Error>) -> Outcome {
    result.map_or_else(|e| Outcome::Errno(e.errno()), |va| Outcome::Address(va.0))
}

fn done(result: Result<(), Error>) -> Outcome {
    result.map_or_else(|e| Outcome::Errno(e.errno()), |()| Outcome::Done)
}

/// The areas of an address space, as the oracle would have them.
pub fn areas<C: Checks, A: Arch>(mm: &Mm<'_, Hosted<C, A>>) -> Vec<Area>
where
    Hosted<C, A>: Machine,
{
    let mut areas = Vec::new();
    mm.for_each_vma(Va(0), &mut |info| {
        let (start, end) = (info.range.start.0, info.range.end.0);
        let first = (info.pgoff as i64).wrapping_sub((start >> PAGE_SHIFT) as i64);
        let kind = match info.kind {
            MapKind::Anonymous => Kind::Private,
            MapKind::Source(_) => Kind::Source { first },
            MapKind::Shared(_) => Kind::Shared { object: 0, first },
        };
        let flag = |flag| info.flags.contains(flag);
        let rights = u8::from(flag(VmFlags::READ))
            | u8::from(flag(VmFlags::WRITE)) << 1
            | u8::from(flag(VmFlags::EXEC)) << 2;
        areas.push(Area {
            start,
            end,
            attrs: Attrs {
                rights: Rights(rights),
                kind,
                locked: flag(VmFlags::LOCKED),
                no_reserve: flag(VmFlags::NORESERVE),
                grows_down: flag(VmFlags::GROWSDOWN),
                dont_fork: flag(VmFlags::DONTCOPY),
                wipe_on_fork: flag(VmFlags::WIPEONFORK),
            },
        });
        std::ops::ControlFlow::Continue(())
    });
    areas
}

fn mincore<C: Checks, A: Arch>(mm: &Mm<'_, Hosted<C, A>>, at: At) -> Outcome
where
    Hosted<C, A>: Machine,
{
    let mut pages = Vec::new();
    match mm.mincore(Va(at.addr), at.len, &mut |present| pages.push(present)) {
        Ok(()) => Outcome::Resident(pages),
        Err(e) => Outcome::Errno(e.errno()),
    }
}

//! Random operations on an address space and on a plain model of it, side by side: the property test, and,
//! with several players at once in one address space, the stress.
//!
//! A player owns a window of pages. The model has one word for each page of it, in each of the player's
//! address spaces, and needs neither a heap nor a lock. So the same test runs on a thread of a process and on
//! a CPU of a bare kernel.

use crate::{
    checks::{Broken, Checked, Mm, P, Stop, World, equal, page, range},
    port::{MAX_TASKS, Port},
    tally::{Step, Tally},
};
use anonmem::Machine;
use anonmem::{Advice, Error, FaultAccess, FaultOutcome, MapFlags, MmapRequest, Prot, RemapFlags, Va, Vm};

/// Address spaces of a player. The first is the one that all players share.
const SPACES: usize = 3;
/// Pages of a player's window.
const PAGES: usize = 40;
/// Where the first window is.
const WINDOW: u64 = 1 << 30;
/// From one window to the next: all of them in one table, so that players meet at its lock.
const STRIDE: u64 = 48;
/// The most pages that one operation is about.
const RUN: u64 = 6;

/// What a page is to a program.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
enum Access {
    #[default]
    Unmapped,
    None,
    Read,
    Write,
}

impl Access {
    fn prot(self) -> Prot {
        match self {
            Self::Unmapped | Self::None => Prot::empty(),
            Self::Read => Prot::READ,
            Self::Write => Prot::READ | Prot::WRITE,
        }
    }
}

/// A page of the model.
#[derive(Clone, Copy, Default)]
struct Slot {
    access: Access,
    /// A child does not get it.
    leaves: bool,
    /// A child gets it empty.
    wipes: bool,
    /// The word of the page that the player uses.
    word: u64,
}

type Model = [Slot; PAGES];

/// One thread of the test.
struct Player<'w, 'v, 'p, M: Machine> {
    world: &'w World<'v, 'p, M>,
    me: u64,
    offset: u64,
    random: u64,
    spaces: [Option<Mm<'v, M>>; SPACES],
    models: [Model; SPACES],
    stores: u64,
}

/// Does `steps` random operations with each of as many tasks as the port has CPUs, all in one address space
/// and its children, and compares every byte that matters with a plain model. At the end everything is
/// recounted, and nothing may be left.
///
/// The same `seed` does the same on a port with one CPU. 1,000 frames are enough for each CPU.
///
/// # Errors
/// [`Broken`]: what was found, and what the model says.
pub fn play<'v, M: Machine>(
    vm: &'v Vm<M>,
    port: &dyn Port<'v, M>,
    seed: u64,
    steps: usize,
) -> Result<(), Broken> {
    let world = World { vm, port };
    let tasks = port.cpus().min(MAX_TASKS);
    let (tally, step) = (Tally::new(), Step::new());
    match vm.new_mm() {
        Err(error) => tally.note_stop(Err(error.into())),
        Ok(shared) => port.at_once(tasks, &|me| {
            let mut player = Player::new(&world, me as u64, seed, shared.clone());
            tally.note_stop(world.within(&shared, || {
                step.meet::<M>(tasks, 1);
                let result = (0..steps).take_while(|_| tally.is_clean()).try_for_each(|_| player.step());
                // Whoever fails, fails before the others go on alone.
                tally.note_stop(result);
                step.meet::<M>(tasks, 2);
                (0..SPACES).try_for_each(|space| player.compare(space))
            }));
        }),
    }
    tally.result()?;
    vm.drain();
    vm.validate().map_err(|_| Broken { what: "Vm::validate is content", expected: 1, found: 0 })?;
    let stats = vm.stats();
    equal("user pages that are left", stats.user, 0)?;
    equal("page tables that are left", stats.tables, 0)?;
    equal("mappings that are left", stats.vmas, 0)
}

impl<'w, 'v, 'p, M: Machine> Player<'w, 'v, 'p, M> {
    fn new(world: &'w World<'v, 'p, M>, me: u64, seed: u64, shared: Mm<'v, M>) -> Self {
        let random = (seed ^ me << 32).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut spaces = [const { None }; SPACES];
        spaces[0] = Some(shared);
        let offset = seed.wrapping_mul(8) % P;
        Self { world, me, offset, random, spaces, models: [[Slot::default(); PAGES]; SPACES], stores: 0 }
    }

    /// xorshift64*.
    fn below(&mut self, n: u64) -> u64 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        (self.random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % n
    }

    fn va(&self, at: usize) -> Va {
        page(Va(WINDOW), self.me * STRIDE + at as u64)
    }

    /// The address of the word that the player uses of each of its pages. A page that moves brings it along.
    fn word(&self, at: usize) -> Va {
        Va(self.va(at).0 + self.offset)
    }

    fn step(&mut self) -> Checked {
        let living = |player: &Self, n: u64| player.spaces[n as usize].is_some();
        let n = self.below(SPACES as u64);
        let space = if living(self, n) { n as usize } else { 0 };
        let at = self.below(PAGES as u64) as usize;
        let len = (1 + self.below(RUN)).min((PAGES - at) as u64) as usize;
        match self.below(100) {
            0..10 => self.mmap(space, at, len),
            10..16 => self.munmap(space, at, len),
            16..26 => self.mprotect(space, at, len),
            26..34 => self.mremap(space, at),
            34..46 => self.madvise(space, at, len),
            46..50 => self.fork(space),
            50..53 => self.exit(),
            53..55 => self.look_at_neighbours(),
            55..75 => self.load(space, at),
            _ => self.store(space, at),
        }
    }

    fn mm(&self, space: usize) -> &Mm<'v, M> {
        self.spaces[space].as_ref().expect("the space was found alive")
    }

    fn slots(&mut self, space: usize, at: usize, len: usize) -> &mut [Slot] {
        &mut self.models[space][at..at + len]
    }

    fn access(&mut self) -> Access {
        match self.below(8) {
            0 => Access::None,
            1 | 2 => Access::Read,
            _ => Access::Write,
        }
    }

    fn mmap(&mut self, space: usize, at: usize, len: usize) -> Checked {
        let access = self.access();
        let populate = if self.below(4) == 0 { MapFlags::POPULATE } else { MapFlags::empty() };
        let request = MmapRequest {
            addr: self.va(at),
            flags: MapFlags::FIXED | populate,
            ..MmapRequest::anonymous(len as u64 * P, access.prot())
        };
        let mapped = self.mm(space).mmap(request).map_err(failed("mmap fails with this errno"))?;
        equal("where mmap maps", mapped.0, request.addr.0)?;
        self.slots(space, at, len).fill(Slot { access, ..Slot::default() });
        Ok(())
    }

    fn munmap(&mut self, space: usize, at: usize, len: usize) -> Checked {
        self.mm(space)
            .munmap(range(self.va(at), len as u64))
            .map_err(failed("munmap fails with this errno"))?;
        self.slots(space, at, len).fill(Slot::default());
        Ok(())
    }

    /// The length of the run of mapped pages at `at`, at most `len`.
    fn mapped(&self, space: usize, at: usize, len: usize) -> usize {
        let slots = self.models[space][at..at + len].iter();
        slots.take_while(|slot| slot.access != Access::Unmapped).count()
    }

    fn mprotect(&mut self, space: usize, at: usize, len: usize) -> Checked {
        let (access, len) = (self.access(), self.mapped(space, at, len));
        self.mm(space)
            .mprotect(range(self.va(at), len as u64), access.prot())
            .map_err(failed("mprotect fails with this errno"))?;
        self.slots(space, at, len).iter_mut().for_each(|slot| slot.access = access);
        Ok(())
    }

    /// Moves one page over another.
    fn mremap(&mut self, space: usize, from: usize) -> Checked {
        let to = self.below(PAGES as u64) as usize;
        if from == to || self.mapped(space, from, 1) == 0 {
            return Ok(());
        }
        let flags = RemapFlags::MAYMOVE | RemapFlags::FIXED;
        let moved = self
            .mm(space)
            .mremap(self.va(from), P, P, flags, self.va(to))
            .map_err(failed("mremap fails with this errno"))?;
        equal("where mremap moves", moved.0, self.va(to).0)?;
        self.models[space][to] = core::mem::take(&mut self.models[space][from]);
        Ok(())
    }

    fn madvise(&mut self, space: usize, at: usize, len: usize) -> Checked {
        const ADVICE: [Advice; 9] = [
            Advice::DontNeed,
            Advice::PageOut,
            Advice::PageOut,
            Advice::Cold,
            Advice::DontFork,
            Advice::DoFork,
            Advice::WipeOnFork,
            Advice::KeepOnFork,
            Advice::PopulateRead,
        ];
        let (advice, len) = (ADVICE[self.below(ADVICE.len() as u64) as usize], self.mapped(space, at, len));
        let done = self.mm(space).madvise(self.va(at), len as u64 * P, advice);
        let readable = self.slots(space, at, len).iter().all(|slot| slot.access != Access::None);
        match done {
            // Nothing may be read there, so nothing is populated.
            Err(Error::Invalid(_)) if advice == Advice::PopulateRead && !readable => {}
            Err(error) => return Err(failed("madvise fails with this errno")(error)),
            Ok(()) => {}
        }
        for slot in self.slots(space, at, len) {
            match advice {
                Advice::DontNeed => slot.word = 0,
                Advice::DontFork => slot.leaves = true,
                Advice::DoFork => slot.leaves = false,
                Advice::WipeOnFork => slot.wipes = true,
                Advice::KeepOnFork => slot.wipes = false,
                _ => {}
            }
        }
        Ok(())
    }

    /// Forks into a space that is free. Windows of other players are copied, too, and not looked at.
    fn fork(&mut self, space: usize) -> Checked {
        let Some(free) = (1..SPACES).find(|n| self.spaces[*n].is_none()) else { return self.exit() };
        self.spaces[free] = Some(self.mm(space).fork().map_err(failed("fork fails with this errno"))?);
        self.models[free] = self.models[space].map(|slot| match slot {
            Slot { leaves: true, .. } => Slot::default(),
            Slot { wipes: true, .. } => Slot { word: 0, ..slot },
            Slot { .. } => slot,
        });
        Ok(())
    }

    fn exit(&mut self) -> Checked {
        let space = 1 + self.below(SPACES as u64 - 1) as usize;
        if self.spaces[space].is_some() {
            self.compare(space)?;
            self.spaces[space] = None;
        }
        Ok(())
    }

    /// Runs on the space: the shared one is loaded already.
    fn on(&self, space: usize, f: impl FnMut() -> Checked) -> Checked {
        let mut f = f;
        if space == 0 { f() } else { self.world.within(self.mm(space), f) }
    }

    fn load(&self, space: usize, at: usize) -> Checked {
        let (slot, va, mm) = (self.models[space][at], self.word(at), self.mm(space));
        self.on(space, || match slot.access {
            Access::Read | Access::Write => Ok(equal("a word", self.world.load(mm, va)?, slot.word)?),
            Access::None => self.refused(mm, va, FaultAccess::Read, FaultOutcome::SegvAccerr),
            Access::Unmapped => self.refused(mm, va, FaultAccess::Read, FaultOutcome::SegvMaperr),
        })
    }

    fn store(&mut self, space: usize, at: usize) -> Checked {
        self.stores += 1;
        let (slot, va) = (self.models[space][at], self.word(at));
        let value = (self.me + 1) << 48 | self.stores;
        let mm = self.mm(space);
        let done = self.on(space, || match slot.access {
            Access::Write => self.world.store(mm, va, value),
            Access::Read | Access::None => self.refused(mm, va, FaultAccess::Write, FaultOutcome::SegvAccerr),
            Access::Unmapped => self.refused(mm, va, FaultAccess::Write, FaultOutcome::SegvMaperr),
        });
        if slot.access == Access::Write {
            self.models[space][at].word = value;
        }
        done
    }

    /// The access traps, and the memory manager gives the program this signal.
    fn refused(&self, mm: &Mm<'v, M>, va: Va, access: FaultAccess, wanted: FaultOutcome) -> Checked {
        let trapped = match access {
            FaultAccess::Write => !self.world.port.store(mm, va, u64::MAX),
            FaultAccess::Read | FaultAccess::Exec | FaultAccess::Unshare => {
                self.world.port.load(mm, va).is_none()
            }
        };
        equal("whether an access traps that is not allowed", trapped.into(), 1)?;
        let ended_so = mm.handle_fault(va, access) == wanted;
        Ok(equal("whether a fault ends in what the program is to get", ended_so.into(), 1)?)
    }

    /// A page of another player has that player's words or none: whatever else is read there came through a
    /// translation that should be gone.
    fn look_at_neighbours(&mut self) -> Checked {
        let players = self.world.port.cpus().min(MAX_TASKS) as u64;
        let whose = self.below(players);
        let at = self.below(PAGES as u64);
        let va = Va(page(Va(WINDOW), whose * STRIDE + at).0 + self.offset);
        match self.world.port.load(self.mm(0), va) {
            None | Some(0) => Ok(()),
            Some(word) => Ok(equal("whose word it is", word >> 48, whose + 1)?),
        }
    }

    /// Looks at every page of a space.
    fn compare(&self, space: usize) -> Checked {
        if self.spaces[space].is_none() {
            return Ok(());
        }
        (0..PAGES).try_for_each(|at| self.load(space, at))
    }
}

/// What a call that has memory and sound arguments must not do.
fn failed(what: &'static str) -> impl Fn(Error) -> Stop {
    move |error| Broken { what, expected: 0, found: error.errno() as u64 }.into()
}

impl From<Stop> for Broken {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Broken(broken) => broken,
            Stop::NotTried(what) => Self { what, expected: 1, found: 0 },
        }
    }
}

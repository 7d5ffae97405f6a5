//! The oracle against the Linux that the test runs on: whether the model is right.
//!
//! Each address space is a process that executes what it is told. The result of every call, every byte
//! that is read, and the areas in /proc/PID/smaps are compared with the model, as for anonmem itself.
//!
//! Ignored by default, because kernels differ in detail; the model follows 6.18:
//! `cargo test -p anonmem-hosted --test linux -- --ignored`.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

mod server;
mod smaps;

use anonmem_hosted::{
    ops::{Advise, At, Backing, Op, Outcome, Place, Remap, SPACES, Signal, pattern},
    oracle::{Limits, Oracle, Verdict, space::compare_areas},
    runner::{Inject, System, run_random},
};
use server::{BUFFER, Call, Reply, Server, Shared};
use std::os::unix::{fs::FileExt, net::UnixListener};

const P: u64 = 4096;
/// Below this the answer depends on `mmap_min_addr`, on the security module, and on who asks.
const MIN_ADDR: u64 = 65_536;
const SOURCE_BYTES: u64 = 6 * P + 100;

struct Linux {
    listener: UnixListener,
    address: String,
    shared: Shared,
    spaces: [Option<Server>; SPACES],
}

impl Linux {
    fn new() -> (Self, Oracle) {
        let (listener, address) = server::listen();
        let shared = Shared::new(&source());
        let linux = Self { listener, address, shared, spaces: Default::default() };
        let limits = Limits {
            user_end: (1 << 47) - P,
            min_addr: MIN_ADDR,
            heap_start: 0,
            stack: 8 << 20,
            swap: true,
            folios: false,
            is_host: true,
        };
        (linux, Oracle::new(source(), limits))
    }

    fn call(&mut self, space: usize, call: Call) -> Reply {
        self.spaces[space].as_mut().expect("the operation was checked").call(call)
    }

    fn simple(&mut self, at: At, call: Call) -> Outcome {
        let reply = self.call(at.space, call);
        if reply.errno != 0 { Outcome::Errno(reply.errno) } else { Outcome::Done }
    }

    fn address(&mut self, at: At, call: Call) -> Outcome {
        let reply = self.call(at.space, call);
        if reply.errno != 0 { Outcome::Errno(reply.errno) } else { Outcome::Address(reply.value) }
    }

    fn access(&mut self, at: At, number: u64) -> Result<(), Outcome> {
        let reply = self.call(at.space, Call::new(number, [at.addr, at.len, 0, 0, 0, 0]));
        let signal = match reply.signal {
            0 => return Ok(()),
            1 => Signal::Unmapped,
            2 => Signal::Denied,
            _ => Signal::Bus,
        };
        Err(Outcome::Signal(signal, reply.value as usize))
    }
}

fn source() -> Vec<u8> {
    (0..SOURCE_BYTES).map(|i| (i * 7 + i / 256 + 3) as u8).collect()
}

fn supported(op: &Op) -> bool {
    match *op {
        Op::Brk(_) | Op::Fetch(_) => false,
        // The host has no device; its userfaultfd is judged by tests/programs.
        Op::DeviceWrite(..) | Op::Hold(..) | Op::Release(..) => false,
        Op::UffdMove(..) | Op::UffdFill(..) | Op::UffdProtect(..) => false,
        // The host may have no soft-dirty bits.
        Op::ClearRefs(_) => false,
        Op::Munmap(at) | Op::Mprotect(at, _) | Op::Madvise(at, _) | Op::Mlock(at) | Op::Munlock(at) => {
            at.len < 1 << 30
        }
        Op::Mincore(at) => at.len < 1 << 20,
        // Linux has unmapped the destination when it finds out that the tail is out of range.
        Op::Mremap(at, _, Remap::Fixed(_)) if at.len > 1 << 30 => false,
        // Linux takes an unaligned address in the last page for an error number.
        Op::Mmap(_, Place::Fixed(to) | Place::NoReplace(to), ..) if to > 1 << 63 => false,
        Op::Mmap(_, Place::Hint(to) | Place::Fixed(to) | Place::NoReplace(to), ..)
        | Op::Mremap(_, _, Remap::Fixed(to) | Remap::DontUnmapFixed(to)) => to >= MIN_ADDR,
        _ => true,
    }
}

impl System for Linux {
    fn supports(&self, op: &Op) -> bool {
        // Linux unlocks the whole area that MREMAP_DONTUNMAP takes a part of, which is hardly meant.
        if let Op::Mremap(at, _, Remap::DontUnmap | Remap::DontUnmapFixed(_)) = *op
            && let Some(server) = &self.spaces[at.space]
            && smaps::read(server.pid).iter().any(|area| area.attrs.locked)
        {
            return false;
        }
        supported(op)
    }

    fn apply(&mut self, op: &Op) -> Outcome {
        if !matches!(op, Op::Spawn(_)) && self.spaces[op.space()].is_none() {
            return Outcome::Skipped;
        }
        match *op {
            Op::Spawn(space) => {
                self.spaces[space] = Some(Server::spawn(&self.listener, &self.address, &self.shared));
                Outcome::Done
            }
            Op::Fork { parent, child } if parent == child => Outcome::Skipped,
            Op::Fork { parent, child } => {
                let reply = self.call(parent, Call::new(server::FORK, [0; 6]));
                assert_eq!(reply.errno, 0, "the host cannot fork");
                let baseline = self.spaces[parent].as_ref().expect("it forked").baseline.clone();
                self.spaces[child] = Some(Server::accept(&self.listener, reply.value as i32, baseline));
                Outcome::Done
            }
            Op::Exit(space) => {
                self.spaces[space] = None;
                Outcome::Done
            }
            Op::Mmap(at, place, rights, backing) => {
                let (addr, fixed) = match place {
                    Place::Anywhere => (0, 0),
                    Place::Hint(addr) => (addr, 0),
                    Place::Fixed(addr) => (addr, libc::MAP_FIXED),
                    Place::NoReplace(addr) => (addr, libc::MAP_FIXED_NOREPLACE),
                };
                let anonymous = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
                let (flags, fd, offset) = match backing {
                    Backing::Private => (anonymous, -1, 0),
                    Backing::NoReserve => (anonymous | libc::MAP_NORESERVE, -1, 0),
                    Backing::Stack => (anonymous | libc::MAP_GROWSDOWN, -1, 0),
                    Backing::Shared => (libc::MAP_SHARED | libc::MAP_ANONYMOUS, -1, 0),
                    Backing::Source(page) => (libc::MAP_PRIVATE, self.shared.source, page * P),
                };
                let args = [addr, at.len, rights.0.into(), (flags | fixed) as u64, fd as u64, offset];
                self.address(at, Call::new(libc::SYS_mmap as u64, args))
            }
            Op::Munmap(at) => self.simple(at, Call::range(libc::SYS_munmap, at, 0)),
            Op::Mprotect(at, rights) => self.simple(at, Call::range(libc::SYS_mprotect, at, rights.0.into())),
            Op::Mremap(at, new_len, how) => {
                let (flags, to) = match how {
                    Remap::InPlace => (0, 0),
                    Remap::MayMove => (libc::MREMAP_MAYMOVE, 0),
                    Remap::Fixed(to) => (libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED, to),
                    Remap::DontUnmap => (libc::MREMAP_MAYMOVE | libc::MREMAP_DONTUNMAP, 0),
                    Remap::DontUnmapFixed(to) => {
                        (libc::MREMAP_MAYMOVE | libc::MREMAP_DONTUNMAP | libc::MREMAP_FIXED, to)
                    }
                };
                let args = [at.addr, at.len, new_len, flags as u64, to, 0];
                self.address(at, Call::new(libc::SYS_mremap as u64, args))
            }
            Op::Madvise(at, advice) => {
                let number = match advice {
                    Advise::DontNeed => 4,
                    Advise::Free => 8,
                    Advise::PopulateRead => 22,
                    Advise::PopulateWrite => 23,
                    Advise::DontFork => 10,
                    Advise::DoFork => 11,
                    Advise::WipeOnFork => 18,
                    Advise::KeepOnFork => 19,
                    Advise::Cold => 20,
                    Advise::PageOut => 21,
                    Advise::GuardInstall => 102,
                    Advise::GuardRemove => 103,
                };
                self.simple(at, Call::range(libc::SYS_madvise, at, number))
            }
            Op::Mlock(at) => self.simple(at, Call::range(libc::SYS_mlock, at, 0)),
            Op::Munlock(at) => self.simple(at, Call::range(libc::SYS_munlock, at, 0)),
            Op::Mincore(at) => {
                let reply = self.call(at.space, Call::range(libc::SYS_mincore, at, self.shared.addr()));
                let pages = at.len.div_ceil(P) as usize;
                if reply.errno != 0 {
                    return Outcome::Errno(reply.errno);
                }
                Outcome::Resident(self.shared.read(pages).iter().map(|byte| byte & 1 == 1).collect())
            }
            Op::Read(at) => {
                assert!(at.len as usize <= BUFFER);
                self.access(at, server::LOAD)
                    .err()
                    .unwrap_or_else(|| Outcome::Bytes(self.shared.read(at.len as usize)))
            }
            Op::Write(at, tag) => {
                self.shared.write(&pattern(tag, at.len as usize));
                self.access(at, server::STORE).err().unwrap_or(Outcome::Done)
            }
            Op::Brk(_)
            | Op::Fetch(_)
            | Op::DeviceWrite(..)
            | Op::Hold(..)
            | Op::Release(..)
            | Op::UffdMove(..)
            | Op::UffdFill(..)
            | Op::ClearRefs(..)
            | Op::UffdProtect(..) => unreachable!("not supported"),
        }
    }

    fn area_end(&mut self, space: usize, addr: u64) -> Option<u64> {
        let areas = smaps::read(self.spaces[space].as_ref()?.pid);
        areas.iter().find(|a| a.start <= addr && addr < a.end).map(|a| a.end)
    }

    fn check_areas(&mut self, space: usize, oracle: &Oracle) -> Verdict {
        let Some(server) = &self.spaces[space] else { return Ok(()) };
        let mut areas = smaps::read(server.pid);
        areas.retain(|area| !server.baseline.contains(&(area.start, area.end)));
        compare_areas(&areas, &oracle.space(space).expect("as in the system").areas())
    }

    fn check_all(&mut self, oracle: &Oracle) -> Verdict {
        for space in 0..SPACES {
            self.check_areas(space, oracle)?;
            let Some(server) = &self.spaces[space] else { continue };
            let memory = std::fs::File::open(format!("/proc/{}/mem", server.pid)).expect("our own child");
            for (&number, page) in &oracle.space(space).expect("as in the system").pages {
                // Reading an untouched page would touch it.
                if !page.contents.is_written() || page.contents.lazy {
                    continue;
                }
                let mut bytes = [0; P as usize];
                memory.read_exact_at(&mut bytes, number * P).map_err(|e| format!("page {number:#x}: {e}"))?;
                if !oracle.accepts(number, page, &bytes) {
                    return Err(format!("space {space}, page {number:#x}: wrong bytes"));
                }
            }
        }
        Ok(())
    }

    fn fail_allocation(&mut self, _nth: u64) {}

    fn allocation_failed(&self) -> bool {
        false
    }

    fn finish(self) -> Verdict {
        Ok(())
    }
}

#[test]
#[ignore = "compares with the host's kernel, which must be Linux 6.17 or newer"]
fn the_oracle_agrees_with_linux() {
    let number = |name: &str, default: u64| std::env::var(name).map_or(default, |v| v.parse().expect(name));
    let seeds = number("ANONMEM_SEEDS", 40);
    let first = number("ANONMEM_SEED", 1);
    for seed in first..first + seeds {
        run_random(&Linux::new, seed, 500, Inject::Nothing).unwrap();
    }
}

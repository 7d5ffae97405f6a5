//! Threads of one program that map, protect, unmap and use pages between one another's. So every VMA of
//! theirs is split and merged by others while they fault.

use crate::{
    Config, LockMode, MapBacking, MapFlags, Mm, MmapRequest, Prot,
    testing::{M, P, Space, World, pages},
};
use anonmem_hal::{CpuId, Va, arch::X86_64};
use anonmem_hosted::{Checked, Trap, UserCpu};
use std::thread;

const THREADS: u64 = 4;
/// Pages of each thread: every fourth of a window that straddles two page tables.
const PAGES: usize = 8;
const FIRST: u64 = 512 * 5 - 16;
const STEPS: u32 = 4000;

/// What a thread knows of a page that only it works on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Page {
    Hole,
    Has { byte: u8, writable: bool },
}

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

fn prot(writable: bool) -> Prot {
    if writable { Prot::READ | Prot::WRITE } else { Prot::READ }
}

/// One step on page number `number`; returns what the page is then.
fn step(mm: &Mm<'_, M>, number: u64, page: Page, random: &mut Random) -> Page {
    let (range, writable) = (pages(number, 1), random.below(3) > 0);
    match random.below(9) {
        0 | 1 => {
            let (flags, backing) = (MapFlags::FIXED, MapBacking::Anonymous);
            mm.mmap(MmapRequest { addr: range.start, len: P, prot: prot(writable), flags, backing }).unwrap();
            Page::Has { byte: 0, writable }
        }
        2 => {
            mm.munmap(range).unwrap();
            Page::Hole
        }
        3 | 4 => match (mm.mprotect(range, prot(writable)), page) {
            (Ok(()), Page::Has { byte, .. }) => Page::Has { byte, writable },
            (Err(_), Page::Hole) => Page::Hole,
            (result, page) => panic!("mprotect of {page:?}: {result:?}"),
        },
        _ => page,
    }
}

type User<'a> = UserCpu<'a, Checked, X86_64, Space<'a>>;

/// Checks a page through the CPU's TLB and writes another byte to it.
fn touch(user: &User<'_>, number: u64, page: Page, random: &mut Random) -> Page {
    let (va, new) = (Va(number * P), random.below(255) as u8 + 1);
    let mut found = [0];
    match (page, user.load(va, &mut found), user.store(va, &[new])) {
        (Page::Hole, Err(Trap::Unmapped), Err(Trap::Unmapped)) => page,
        (Page::Has { byte, writable: true }, Ok(()), Ok(())) if byte == found[0] => {
            Page::Has { byte: new, writable: true }
        }
        (Page::Has { byte, writable: false }, Ok(()), Err(Trap::Denied)) if byte == found[0] => page,
        (page, loaded, stored) => {
            panic!("page {number:#x} is {page:?}, but loads {loaded:?} ({found:?}) and stores {stored:?}")
        }
    }
}

fn thread_of_a_program(mm: &Mm<'_, M>, thread: u64) {
    let (mut random, user) = (Random(thread + 1), mm.user());
    let mut known = [Page::Hole; PAGES];
    for _ in 0..STEPS {
        let i = random.below(PAGES as u64) as usize;
        let number = FIRST + i as u64 * THREADS + thread;
        known[i] = step(mm, number, known[i], &mut random);
        known[i] = touch(&user, number, known[i], &mut random);
        if random.below(500) == 0 {
            let child = mm.fork().unwrap();
            let mut page = touch(&child.user(), number, known[i], &mut random);
            page = step(&child, number, page, &mut random);
            touch(&child.user(), number, page, &mut random);
        }
    }
}

#[test]
fn threads_find_their_pages_as_they_left_them_whatever_happens_next_to_them() {
    for lock_mode in [LockMode::Mmap, LockMode::Vma, LockMode::Speculative] {
        World::run_with(Config { lock_mode, ..Config::default() }, |world| {
            let mm = world.vm.new_mm().unwrap();
            let cpus = world.vm.machine().cpus();
            thread::scope(|scope| {
                for thread in 0..THREADS {
                    let mm = &mm;
                    scope.spawn(move || {
                        cpus.run_on(CpuId(thread as u32 + 1), || thread_of_a_program(mm, thread));
                    });
                }
            });
            world.vm.validate().unwrap();
        });
    }
}

//! Programs on machines with large folios: what nobody maps or touches is given back.

use anonmem::{
    Config, Event, FolioEvent, FolioMode, FolioPolicy, LockMode, MapFlags, Mm, MmapRequest, Prot, Vm,
};
use anonmem_hal::{CpuId, Order, PAGE_SIZE, Va, VaRange, arch::X86_64};
use anonmem_hosted::{
    Checked, UserCpu,
    system::{FOLIOS, Machine, reverse_map},
};
use std::collections::BTreeMap;

const P: u64 = PAGE_SIZE as u64;
const MIB: u64 = 1 << 20;
const START: Va = Va(0x4000_0000);
const MODES: [LockMode; 3] = [LockMode::Mmap, LockMode::Vma, LockMode::Speculative];

type User<'v> = UserCpu<'v, Checked, X86_64, Mm<'v, Machine>>;

fn with(bytes: u64, folios: FolioPolicy, f: impl Fn(&Vm<Machine>)) {
    for lock_mode in MODES {
        let machine = Machine::new(bytes / P);
        let cpus = machine.cpus().clone();
        let _cpu = cpus.enter(CpuId(0));
        let vm =
            Vm::new(machine, Config { lock_mode, folios, reverse_map: reverse_map(), ..Config::default() })
                .expect("enough memory");
        f(&vm);
        vm.validate().unwrap();
    }
}

fn user(vm: &Vm<Machine>, bytes: u64) -> User<'_> {
    let mm = vm.new_mm().expect("enough memory");
    let request = MmapRequest::anonymous(bytes, Prot::READ | Prot::WRITE);
    let flags = request.flags | MapFlags::FIXED | MapFlags::NORESERVE;
    mm.mmap(MmapRequest { addr: START, flags, ..request }).expect("enough addresses");
    User::new(vm.machine(), mm)
}

fn all(bytes: u64) -> impl Iterator<Item = Va> {
    VaRange { start: START, end: Va(START.0 + bytes) }.iter_pages()
}

fn word(va: Va) -> [u8; 8] {
    (va.0 | 1).to_ne_bytes()
}

fn leaves() -> FolioPolicy {
    FolioPolicy::default().with(Order::new(9), FolioMode::Always)
}

#[test]
fn a_program_that_unmaps_every_second_page_gets_its_memory_back() {
    const USED: u64 = 64 * MIB;
    with(96 * MIB, leaves(), |vm| {
        let program = user(vm, USED);
        all(USED).for_each(|va| program.store(va, &word(va)).expect("enough memory"));
        assert_eq!(vm.stats().event(Event::LeafFault), USED / (2 * MIB));
        for va in all(USED).step_by(2) {
            program.space().munmap(VaRange::page(va)).expect("enough memory");
        }
        vm.validate().unwrap();
        // Without swap there is nothing but what was unmapped.
        const MORE: u64 = 48 * MIB;
        let other = user(vm, MORE);
        all(MORE).for_each(|va| other.store(va, &word(va)).expect("half of 64 MiB came back"));
        assert_eq!(vm.stats().event(Event::FaultOom), 0);
        assert!(vm.folio_event(Order::new(9), FolioEvent::SplitPartly) > 0);
        let mut found = [0; 8];
        for va in all(USED).skip(1).step_by(2) {
            program.load(va, &mut found).expect("mapped");
            assert_eq!(found, word(va));
        }
    });
}

/// Threads of the test below, and the pages that each works on.
const THREADS: u64 = 4;
const PAGES: u64 = 1_536;
/// Frames: a third of what they work on.
const FRAMES: u64 = THREADS * PAGES / 3;
const SLOTS: u64 = 32_768;

/// The first page of a thread's memory.
fn region(id: u64) -> Va {
    Va(START.0 + id * 8 * MIB)
}

/// Loads and stores without order, and looks at everything through a child now and then.
fn wander(vm: &Vm<Machine>, mm: &Mm<'_, Machine>, id: u64, steps: u64) {
    let user = User::new(vm.machine(), mm.clone());
    let mut seen = vec![0_u64; PAGES as usize];
    let mut state = id + 1;
    let mut below = |n: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % n
    };
    let expect = |user: &User<'_>, page: u64, word: u64| {
        let mut found = [0; 8];
        user.load(Va(region(id).0 + page * P), &mut found).expect("memory, or swap");
        assert_eq!(u64::from_ne_bytes(found), word, "thread {id}, page {page}");
    };
    for step in 1..=steps {
        // Mostly runs of pages, as programs have them.
        let (first, pages) = (below(PAGES), 1 + below(24));
        for page in first..(first + pages).min(PAGES) {
            expect(&user, page, seen[page as usize]);
            if below(3) > 0 {
                let word = id << 48 | page << 24 | step;
                user.store(Va(region(id).0 + page * P), &word.to_ne_bytes()).expect("memory, or swap");
                seen[page as usize] = word;
            }
        }
        if step % 64 == 0 {
            // A child without memory is no child.
            let Ok(child) = mm.fork() else { continue };
            let child = User::new(vm.machine(), child);
            for _ in 0..16 {
                let page = below(PAGES);
                expect(&child, page, seen[page as usize]);
            }
        }
    }
    for (page, word) in (0..).zip(seen) {
        expect(&user, page, word);
    }
}

#[test]
fn three_times_the_memory_is_what_it_was_with_folios_that_leave_whole() {
    let mut left_whole = BTreeMap::<&str, u64>::new();
    for (lock_mode, nth) in MODES.into_iter().zip(0..) {
        for (name, folios) in &FOLIOS[1..] {
            for compressed in [false, true] {
                let machine = Machine::new(if compressed { FRAMES + FRAMES / 2 } else { FRAMES });
                let (cpus, swap) = (machine.cpus().clone(), machine.swap().clone());
                if compressed {
                    swap.keep_compressed(SLOTS, FRAMES + FRAMES / 2, 8);
                }
                let cpu = cpus.enter(CpuId(0));
                let config =
                    Config { lock_mode, folios: *folios, reverse_map: reverse_map(), ..Config::default() };
                let vm = Vm::new(machine, config).expect("enough memory");
                vm.swap_on(0, SLOTS, 0).expect("enough memory");
                let program = user(&vm, THREADS * 8 * MIB);
                let mm = program.space().clone();
                drop((program, cpu));
                std::thread::scope(|scope| {
                    for id in 0..THREADS {
                        let (cpus, vm, mm) = (&cpus, &vm, &mm);
                        scope.spawn(move || {
                            cpus.run_on(CpuId(id as u32), || wander(vm, mm, id, 128 + 16 * nth));
                        });
                    }
                });
                let _cpu = cpus.enter(CpuId(0));
                vm.validate()
                    .unwrap_or_else(|why| panic!("{lock_mode:?}, {name}, compressed {compressed}: {why}"));
                drop(mm);
                vm.validate().unwrap();
                let whole =
                    |event| (1..=9).map(|order| vm.folio_event(Order::new(order), event)).sum::<u64>();
                println!(
                    "{lock_mode:?}, {name}, compressed {compressed}: {} folios left whole, {} came back, {} left split",
                    whole(FolioEvent::SwapOut),
                    whole(FolioEvent::SwapIn),
                    whole(FolioEvent::SwapOutFallback)
                );
                *left_whole.entry(name).or_default() += whole(FolioEvent::SwapOut);
                if compressed {
                    vm.swap_off(0).expect("all is back");
                    // SAFETY: the machine is this `Vm`'s.
                    unsafe { swap.clear(vm.frames()) };
                }
                assert_eq!((vm.stats().user, vm.stats().tables), (0, 0));
            }
        }
    }
    // How threads come together decides whether one run finds a folio that nobody has just touched.
    assert!(left_whole.values().all(|&left| left > 0), "folios that left whole: {left_whole:?}");
}

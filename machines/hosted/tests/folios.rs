//! Programs on machines with large folios: what nobody maps or touches is given back.

use anonmem::{
    Config, Event, FolioEvent, FolioMode, FolioPolicy, LockMode, MapFlags, Mm, MmapRequest, Prot, Vm,
};
use anonmem_hal::{CpuId, Order, PAGE_SIZE, Va, VaRange, arch::X86_64};
use anonmem_hosted::{Checked, UserCpu, system::Machine};

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
        let vm = Vm::new(machine, Config { lock_mode, folios, ..Config::default() }).expect("enough memory");
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

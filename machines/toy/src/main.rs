//! The smallest kernel on anonmem, written from docs/porting.md: one CPU, no heap, no interrupts.
//!
//! It boots in QEMU, runs two programs of its own that fork, copy and swap, and says on the serial line how
//! they ended and what the memory manager recounts. `scripts/toy` is its test.
#![no_std]
#![no_main]
#![allow(missing_docs, unreachable_pub, reason = "a program: items say what they are where it is not plain")]
#![allow(clippy::multiple_unsafe_ops_per_block, reason = "400 lines: a block a step, not an operation")]

mod cpu;
mod machine;
mod programs;

use anonmem::{
    Advice, Config, FaultAccess, FaultOutcome, MapBacking, Mm, MmapRequest, Prot, Va, Vm, hal::SourceId,
};
use core::{cell::UnsafeCell, fmt::Write as _, mem::MaybeUninit, num::NonZeroU64};
use cpu::{ERROR, RAX, RDI, RSI, Regs, Single, VECTOR};
use machine::{SLOTS, Toy};

/// The status of a program that did what it may not.
const KILLED: u64 = 0xdead;

struct Process {
    mm: Mm<'static, Toy>,
    regs: Regs,
    parent: usize,
    /// It waits for a child.
    waits: bool,
    /// The status of a child that ended before anybody waited.
    ended: Option<u64>,
}

type Processes = [Option<Process>; 8];

static VM: Single<MaybeUninit<Vm<Toy>>> = Single(UnsafeCell::new(MaybeUninit::uninit()));

struct Serial;

impl core::fmt::Write for Serial {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        text.bytes().for_each(|byte| cpu::out(0x3f8, byte));
        Ok(())
    }
}

macro_rules! say {
    ($($arg:tt)*) => { let _ = writeln!(Serial, $($arg)*); };
}

unsafe extern "C" {
    static programs_start: u8;
    static programs_end: u8;
    static image_end: u8;
    fn family();
    fn copier();
}

/// The bytes of both programs, whole pages.
fn programs() -> &'static [u8] {
    let (start, end) = (&raw const programs_start, &raw const programs_end);
    // SAFETY: the linker script says where they are, and nobody writes to them.
    unsafe { core::slice::from_raw_parts(start, end as usize - start as usize) }
}

/// The memory above the image: what the loader's map has behind 1 MiB, as far as the boot tables reach.
fn ram(start_info: u64) -> core::ops::Range<u64> {
    // SAFETY: the loader's message, in memory that the boot tables map: hvm_start_info and its map.
    let word = |address: u64| unsafe { (address as *const u64).read_unaligned() };
    let entries = word(start_info + 48) & 0xffff_ffff;
    let entry = |n| (word(word(start_info + 40) + 24 * n), word(word(start_info + 40) + 24 * n + 8));
    let (start, len) =
        (0..entries).map(entry).find(|e| e.0 <= 1 << 20 && e.0 + e.1 > 1 << 20).expect("memory");
    (&raw const image_end) as u64..(start + len).min(1 << 30) & !0xfff
}

/// A process that runs the program at `entry`.
fn start(vm: &'static Vm<Toy>, entry: unsafe extern "C" fn()) -> Process {
    let mm = vm.new_mm().expect("memory for an address space");
    let code = MmapRequest {
        backing: MapBacking::Source { id: SourceId(NonZeroU64::MIN), offset: 0 },
        ..MmapRequest::anonymous(programs().len() as u64, Prot::READ | Prot::EXEC)
    };
    let base = mm.mmap(code).expect("room for a program");
    let offset = entry as usize as u64 - programs().as_ptr() as u64;
    Process { mm, regs: cpu::start_at(base.0 + offset), parent: usize::MAX, waits: false, ended: None }
}

#[unsafe(no_mangle)]
extern "C" fn kernel_main(start_info: u64) -> ! {
    cpu::init();
    let vm = Vm::new(Toy::new(ram(start_info)), Config::default()).expect("enough memory");
    // SAFETY: nobody else uses the place, and it is filled once.
    let vm: &'static Vm<Toy> = unsafe { (*VM.0.get()).write(vm) };
    vm.swap_on(0, SLOTS, 0).expect("memory for swap");
    say!("toy: {} frames", vm.stats().frames);
    let mut processes: Processes = Default::default();
    processes[0] = Some(start(vm, family));
    processes[1] = Some(start(vm, copier));
    while processes.iter().any(Option::is_some) {
        (0..processes.len()).for_each(|id| turn(&mut processes, id));
    }
    vm.drain();
    let (stats, counts) = (vm.stats(), vm.validate());
    say!("toy: {} pages, {} tables, {} mappings left; {counts:?}", stats.user, stats.tables, stats.vmas);
    let clean = counts.is_ok() && (stats.user, stats.tables, stats.vmas) == (0, 0, 0);
    off(if clean { 0x10 } else { 0x20 })
}

/// Runs one process until it traps, and does what it wants.
fn turn(processes: &mut Processes, id: usize) {
    let Some(process) = processes[id].as_mut().filter(|process| !process.waits) else { return };
    let cpu_id = anonmem::CpuId(0);
    process.mm.activate(cpu_id);
    cpu::load_root(process.mm.root().0 << 12);
    cpu::run(&mut process.regs);
    let ended = match process.regs[VECTOR] {
        14 => fault(process),
        128 => call(processes, id),
        _ => Some(KILLED),
    };
    cpu::load_root((&raw const machine::boot_p4) as u64);
    processes[id].iter().for_each(|process| process.mm.deactivate(cpu_id));
    if let Some(status) = ended {
        exit(processes, id, status);
    }
}

fn fault(process: &mut Process) -> Option<u64> {
    let access = match process.regs[ERROR] {
        error if error & 2 != 0 => FaultAccess::Write,
        error if error & 16 != 0 => FaultAccess::Exec,
        _ => FaultAccess::Read,
    };
    let outcome = process.mm.handle_fault(Va(cpu::fault_address()), access);
    (outcome != FaultOutcome::Done).then_some(KILLED)
}

/// A call; `Some` is the status that the program ends with.
fn call(processes: &mut Processes, id: usize) -> Option<u64> {
    let free = processes.iter().position(Option::is_none);
    let process = processes[id].as_mut()?;
    let [number, first, second] = [RAX, RDI, RSI].map(|at| process.regs[at]);
    let result = match number {
        0 => return Some(first),
        1 => match (free, process.mm.fork()) {
            (Some(free), Ok(mm)) => {
                let mut regs = process.regs;
                regs[RAX] = 0;
                processes[free] = Some(Process { mm, regs, parent: id, waits: false, ended: None });
                free as u64 + 1
            }
            (None, _) | (_, Err(_)) => return Some(KILLED),
        },
        2 => {
            process.waits = process.ended.is_none();
            process.ended.take().unwrap_or(0)
        }
        3 => process
            .mm
            .mmap(MmapRequest::anonymous(first, Prot::READ | Prot::WRITE))
            .map_or(0, |start| start.0),
        4 => process.mm.madvise(Va(first), second, Advice::PageOut).is_err().into(),
        _ => return Some(KILLED),
    };
    processes[id].as_mut()?.regs[RAX] = result;
    None
}

/// The process ends: its parent, if it waits, has the status.
fn exit(processes: &mut Processes, id: usize, status: u64) {
    let Some(process) = processes[id].take() else { return };
    say!("toy: a process ended with {status:#x}");
    for child in processes.iter_mut().flatten().filter(|child| child.parent == id) {
        child.parent = usize::MAX;
    }
    let Some(Some(parent)) = processes.get_mut(process.parent) else { return };
    match core::mem::take(&mut parent.waits) {
        true => parent.regs[RAX] = status,
        false => parent.ended = Some(status),
    }
}

/// Ends the machine; QEMU's status is twice the code, and 1.
fn off(code: u8) -> ! {
    cpu::out(0xf4, code);
    // SAFETY: interrupts are off, so it stays here.
    unsafe { core::arch::asm!("hlt", options(noreturn)) }
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    say!("toy: {info}");
    off(0x30)
}

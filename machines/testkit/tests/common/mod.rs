//! The hosted machine as the checks drive it, with a bug in it if a test plants one.
//!
//! The bug is a static, because half of what a machine does are functions without a value. So each test
//! program that plants bugs does so in one test.

use anonmem::{Config, LockMode, Mm, Vm, VmFlags};
use anonmem_hal::{
    Clock, CpuId, CpuSet, FlushRange, FrameAlloc, GiveUp, HeldLocks, IoError, Machine, Mmu, NoProbe, Order,
    PAGE_SIZE, Pfn, PhysMem, Sched, SourceError, SourceId, Sources, SwapIo, UpTo, Va, arch::X86_64,
    reverse_map::AnonVmas,
};
use anonmem_hosted::{Access, Checked, Handled, Hosted, Trap, UserCpu, UserSpace};
use anonmem_testkit::{Port, Source};
use std::{
    ptr::NonNull,
    sync::{
        LazyLock, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
};

/// What is wrong with the machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub(crate) enum Bug {
    None,
    FlushDoesNothing,
    FlushForgetsOthers,
    FlushForgetsTheLastPage,
    FlushComesLater,
    WakeUpIsLost,
    WakeUpIsForOne,
    DirectMapMoves,
    DirectMapIsACpus,
    ZeroesOneFrame,
    CopiesOneFrame,
    CopiesTooMuch,
    WritesAtTheStart,
    LooksAtOneWord,
    ComparesAHalf,
    HashesTheFrameNumber,
    ClockGoesBack,
    OneCpuForAll,
    WaitsTwice,
    NeverWaits,
    SpinsForEver,
    SlotsShareAPage,
    FillsTheFirstPage,
    RootIsNotEmpty,
    FirstFrameIsNone,
    MemmapIsOdd,
    CpusComeAndGo,
    OneListForAll,
    GivesUpAlways,
    LoadsKeepTheirTranslation,
    WalksOldTables,
    KeepsWhatDenies,
    KeepsTheAddressSpace,
    StoresAreClean,
    FillsBeyondTheEnd,
    NeverActivates,
}

static BUG: AtomicUsize = AtomicUsize::new(0);
static CALLS: AtomicU64 = AtomicU64::new(0);
/// The one list of held locks of a machine that has no more.
static HELD: Mutex<HeldLocks> = Mutex::new(HeldLocks::NONE);
/// The last load's address space, address and value.
static LOADED: Mutex<Option<(u64, u64, u64)>> = Mutex::new(None);
/// The CPUs, address spaces and addresses that were loaded where no store was allowed.
static DENIED: Mutex<Vec<(u32, u64, u64)>> = Mutex::new(Vec::new());

/// Plants a bug.
pub(crate) fn plant(bug: Bug) {
    CALLS.store(0, SeqCst);
    *HELD.lock().unwrap() = HeldLocks::NONE;
    *LOADED.lock().unwrap() = None;
    DENIED.lock().unwrap().clear();
    BUG.store(bug as usize, SeqCst);
}

fn has(bug: Bug) -> bool {
    BUG.load(SeqCst) == bug as usize
}

type Inner = Hosted<Checked>;

/// A machine that is wrong.
pub(crate) struct Planted {
    inner: Inner,
    source: SourceId,
}

/// Length of the source, in bytes.
const SOURCE: u64 = 2 * PAGE_SIZE as u64 + 100;

fn source_byte(at: u64) -> u8 {
    (at % 251 + at / 4096) as u8
}

/// A page that is nobody's.
#[repr(align(4096))]
struct Elsewhere(#[expect(dead_code, reason = "it is there for its address")] [AtomicU64; 512]);

static ELSEWHERE: LazyLock<Box<Elsewhere>> =
    LazyLock::new(|| Box::new(Elsewhere(std::array::from_fn(|_| AtomicU64::new(0)))));

impl Planted {
    /// A memory manager over a machine with `frames` frames and a swap device.
    pub(crate) fn start(frames: u64, lock_mode: LockMode) -> &'static Vm<Self> {
        let inner = Inner::new(frames);
        let source = inner.sources().register((0..SOURCE).map(source_byte).collect::<Vec<_>>());
        let config = Config { lock_mode, ..Config::default() };
        let vm = Vm::new(Self { inner, source }, config).expect("a machine of so many frames");
        // What a bug leaves behind is in no state to be taken down.
        let vm: &'static Vm<Self> = Box::leak(Box::new(vm));
        vm.machine().on_cpu(0, || vm.swap_on(0, 1_024, 0).expect("memory for a swap device"));
        vm
    }

    /// Runs `f` on a CPU.
    pub(crate) fn on_cpu<R>(&self, cpu: u32, f: impl FnOnce() -> R) -> R {
        self.inner.cpus().run_on(CpuId(cpu), f)
    }
}

impl Machine for Planted {
    type Arch = X86_64;
    type Cpus = UpTo<8>;
    type Probe = NoProbe;
    type ReverseMap = AnonVmas;
    const CHECKED: bool = true;

    fn unwinding() -> bool {
        std::thread::panicking()
    }
}

// SAFETY: as the machine inside; a bug that is planted is one that a test finds before it does harm.
unsafe impl PhysMem for Planted {
    fn base_pfn(&self) -> Pfn {
        if has(Bug::FirstFrameIsNone) { Pfn(0) } else { self.inner.base_pfn() }
    }
    fn nr_frames(&self) -> u64 {
        self.inner.nr_frames()
    }
    fn memmap(&self) -> NonNull<u8> {
        let memmap = self.inner.memmap();
        // SAFETY: the array has more than one entry.
        if has(Bug::MemmapIsOdd) { unsafe { memmap.add(32) } } else { memmap }
    }
    fn direct_map(&self, pfn: Pfn) -> NonNull<u8> {
        let is_last = pfn.0 + 1 == self.base_pfn().0 + self.nr_frames();
        let moved = has(Bug::DirectMapMoves) && is_last && CALLS.fetch_add(1, SeqCst) > 3
            || has(Bug::DirectMapIsACpus) && is_last && Self::current_cpu() != CpuId(0);
        if moved { NonNull::from(&**ELSEWHERE).cast() } else { self.inner.direct_map(pfn) }
    }
    unsafe fn zero(&self, pfn: Pfn, order: Order) {
        // SAFETY: the caller's promise.
        unsafe { self.inner.zero(pfn, if has(Bug::ZeroesOneFrame) { Order::ZERO } else { order }) };
    }
    unsafe fn copy(&self, dst: Pfn, src: Pfn, order: Order) {
        let order = match order.get() {
            _ if has(Bug::CopiesOneFrame) => Order::ZERO,
            0 if has(Bug::CopiesTooMuch) => Order::new(1),
            _ => order,
        };
        // SAFETY: the caller's promise.
        unsafe { self.inner.copy(dst, src, order) };
    }
    fn read_bytes(&self, pfn: Pfn, offset: usize, to: &mut [u8]) {
        self.inner.read_bytes(pfn, offset, to);
    }
    unsafe fn write_bytes(&self, pfn: Pfn, offset: usize, from: &[u8]) {
        let offset = if has(Bug::WritesAtTheStart) { offset & !7 } else { offset };
        // SAFETY: the caller's promise.
        unsafe { self.inner.write_bytes(pfn, offset, from) };
    }
    fn is_zero(&self, pfn: Pfn) -> bool {
        let mut first = [0; 8];
        self.inner.read_bytes(pfn, 0, &mut first);
        if has(Bug::LooksAtOneWord) { first == [0; 8] } else { self.inner.is_zero(pfn) }
    }
    fn same_bytes(&self, one: Pfn, other: Pfn) -> bool {
        let half = |pfn| {
            let mut bytes = [0; PAGE_SIZE / 2];
            self.inner.read_bytes(pfn, 0, &mut bytes);
            bytes
        };
        if has(Bug::ComparesAHalf) { half(one) == half(other) } else { self.inner.same_bytes(one, other) }
    }
    fn hash_page(&self, pfn: Pfn, key: u64) -> u64 {
        let hash = self.inner.hash_page(pfn, key);
        if has(Bug::HashesTheFrameNumber) { hash ^ pfn.0 } else { hash }
    }
    fn admit(&self) -> bool {
        self.inner.admit()
    }
    unsafe fn allocated(&self, pfn: Pfn, order: Order) {
        // SAFETY: the caller's promise.
        unsafe { self.inner.allocated(pfn, order) };
    }
    unsafe fn freed(&self, pfn: Pfn, order: Order) {
        // SAFETY: the caller's promise.
        unsafe { self.inner.freed(pfn, order) };
    }
}

// SAFETY: as above.
unsafe impl Mmu for Planted {
    unsafe fn init_root(&self, root: Pfn) {
        if has(Bug::RootIsNotEmpty) {
            // An entry that means nothing to the MMU.
            // SAFETY: the caller's promise.
            unsafe { self.inner.write_bytes(root, 8, &[2]) };
        }
        // SAFETY: the caller's promise.
        unsafe { self.inner.init_root(root) };
    }
    fn flush(&self, cpus: CpuSet<'_>, root: Pfn, what: FlushRange) {
        let me = Self::current_cpu();
        DENIED.lock().unwrap().retain(|denied| denied.1 != root.0);
        if what == FlushRange::All {
            *LOADED.lock().unwrap() = None;
        }
        match what {
            _ if has(Bug::FlushDoesNothing) => {}
            _ if has(Bug::FlushForgetsOthers) && cpus.contains(me) => {
                self.inner.flush(CpuSet::new(&[me.bit()]), root, what);
            }
            _ if has(Bug::FlushForgetsOthers) => {}
            FlushRange::Range(range) if has(Bug::FlushForgetsTheLastPage) => {
                let end = Va(range.end.0 - PAGE_SIZE as u64);
                self.inner.flush(cpus, root, FlushRange::Range(anonmem::VaRange { end, ..range }));
            }
            _ if has(Bug::FlushComesLater) && CALLS.fetch_add(1, SeqCst).is_multiple_of(2) => {}
            _ => self.inner.flush(cpus, root, what),
        }
    }
    fn flush_local(&self, root: Pfn, va: Va) {
        self.inner.flush_local(root, va);
    }
}

// SAFETY: as above.
unsafe impl Sched for Planted {
    fn current_cpu() -> CpuId {
        if has(Bug::OneCpuForAll) { CpuId(0) } else { Inner::current_cpu() }
    }
    fn nr_cpus() -> usize {
        let leaves = has(Bug::CpusComeAndGo) && Self::current_cpu() != CpuId(0);
        Inner::nr_cpus() - usize::from(leaves)
    }
    fn park(key: usize, keep_waiting: &dyn Fn() -> bool) {
        CALLS.store(0, SeqCst);
        if has(Bug::WakeUpIsLost) {
            if keep_waiting() {
                Inner::park(key, &|| true);
            }
            return;
        }
        Inner::park(key, keep_waiting);
    }
    fn park_for_program(key: usize, keep_waiting: &dyn Fn() -> bool, until: GiveUp) -> bool {
        Inner::park_for_program(key, keep_waiting, until) || has(Bug::GivesUpAlways)
    }
    fn unpark(key: usize, n: usize) {
        if has(Bug::WakeUpIsForOne) && n == 1 && CALLS.fetch_add(1, SeqCst) > 0 {
            return;
        }
        Inner::unpark(key, n);
    }
    fn relax() {
        Inner::relax();
    }
    fn optimistic_spin(keep_waiting: &dyn Fn() -> bool) {
        if has(Bug::SpinsForEver) {
            while keep_waiting() {}
        }
        Inner::optimistic_spin(keep_waiting);
    }
    fn yield_now() {
        Inner::yield_now();
    }
    fn contended(level: u16, wait: &mut dyn FnMut()) {
        if has(Bug::NeverWaits) {
            return;
        }
        if has(Bug::WaitsTwice) {
            wait();
        }
        Inner::contended(level, wait);
    }
    unsafe fn with_held_locks(f: &mut dyn FnMut(&mut HeldLocks)) {
        if has(Bug::OneListForAll) {
            f(&mut HELD.lock().unwrap());
        } else {
            // SAFETY: the caller's promise.
            unsafe { Inner::with_held_locks(f) };
        }
    }
}

impl Clock for Planted {
    fn now_ns(&self) -> u64 {
        let now = self.inner.now_ns();
        if has(Bug::ClockGoesBack) { now ^ 1 << 12 } else { now }
    }
}

impl Sources for Planted {
    unsafe fn fill(&self, source: SourceId, offset: u64, dst: Pfn) -> Result<(), SourceError> {
        let offset = if has(Bug::FillsTheFirstPage) { 0 } else { offset };
        // SAFETY: the caller's promise.
        let filled = unsafe { self.inner.fill(source, offset, dst) };
        if has(Bug::FillsBeyondTheEnd) { Ok(()) } else { filled }
    }
    fn dup(&self, source: SourceId) {
        self.inner.dup(source);
    }
    fn release(&self, source: SourceId) {
        self.inner.release(source);
    }
}

fn slot_of(slot: u64) -> u64 {
    if has(Bug::SlotsShareAPage) { slot & !1 } else { slot }
}

impl SwapIo for Planted {
    unsafe fn swap_write(
        &self,
        device: u8,
        slot: u64,
        order: Order,
        src: Pfn,
        frames: &dyn FrameAlloc,
    ) -> Result<(), IoError> {
        // SAFETY: the caller's promise.
        unsafe { self.inner.swap_write(device, slot_of(slot), order, src, frames) }
    }
    unsafe fn swap_read(&self, device: u8, slot: u64, order: Order, dst: Pfn) -> Result<(), IoError> {
        // SAFETY: the caller's promise.
        unsafe { self.inner.swap_read(device, slot_of(slot), order, dst) }
    }
    unsafe fn swap_discard(&self, device: u8, slot: u64, frames: &dyn FrameAlloc) {
        if !has(Bug::SlotsShareAPage) {
            // SAFETY: the caller's promise.
            unsafe { self.inner.swap_discard(device, slot, frames) };
        }
    }
}

/// An address space whose faults nobody handles.
struct Raw<'m, 'v>(&'m Mm<'v, Planted>);

impl UserSpace for Raw<'_, '_> {
    fn root(&self) -> Pfn {
        self.0.root()
    }
    fn activate(&self, cpu: CpuId) {
        if !has(Bug::NeverActivates) {
            self.0.activate(cpu);
        }
    }
    fn deactivate(&self, cpu: CpuId) {
        self.0.deactivate(cpu);
    }
    fn handle_fault(&self, _va: Va, _access: Access) -> Handled {
        Handled::Trap(Trap::Unmapped)
    }
}

impl<'v> Port<'v, Planted> for Planted {
    fn within(&self, mm: &Mm<'v, Planted>, program: &mut dyn FnMut()) {
        let _loaded = UserCpu::new(&self.inner, Raw(mm));
        if has(Bug::KeepsTheAddressSpace) {
            std::mem::forget(mm.clone());
        }
        program();
    }
    fn load(&self, mm: &Mm<'v, Planted>, va: Va) -> Option<u64> {
        let (root, cpu) = (mm.root().0, Self::current_cpu().0);
        if has(Bug::LoadsKeepTheirTranslation)
            && let Some((of, at, value)) = *LOADED.lock().unwrap()
            && (of, at) == (root, va.0)
        {
            return Some(value);
        }
        let mut word = [0; 8];
        let loaded = UserCpu::new(&self.inner, Raw(mm)).load(va, &mut word);
        if loaded.is_err() && has(Bug::WalksOldTables) {
            // The tables that were freed are those of a later mapping by now.
            UserCpu::new(&self.inner, Raw(mm)).load(Va(va.0 + (4 << 30)), &mut word).ok()?;
        } else {
            loaded.ok()?;
        }
        let value = u64::from_ne_bytes(word);
        *LOADED.lock().unwrap() = Some((root, va.0, value));
        if has(Bug::KeepsWhatDenies) && !mm.vma_at(va)?.flags.contains(VmFlags::WRITE) {
            DENIED.lock().unwrap().push((cpu, root, va.0));
        }
        Some(value)
    }
    fn store(&self, mm: &Mm<'v, Planted>, va: Va, value: u64) -> bool {
        if has(Bug::KeepsWhatDenies)
            && DENIED.lock().unwrap().contains(&(Self::current_cpu().0, mm.root().0, va.0))
        {
            return false;
        }
        // The bytes of a page that is there, without its entry.
        if has(Bug::StoresAreClean)
            && let Some(pfn) = mm.pagemap(va).pfn
        {
            // SAFETY: the program has the page, and the check that stores to it waits for nobody.
            unsafe { self.inner.write_bytes(pfn, va.page_offset(), &value.to_ne_bytes()) };
            return true;
        }
        UserCpu::new(&self.inner, Raw(mm)).store(va, &value.to_ne_bytes()).is_ok()
    }
    fn cpus(&self) -> usize {
        4
    }
    /// The caller keeps its CPU, and its tasks get others.
    fn at_once(&self, tasks: usize, job: &(dyn Fn(usize) + Sync)) {
        std::thread::scope(|scope| {
            for me in 0..tasks {
                scope.spawn(move || self.on_cpu(me as u32 + 1, || job(me)));
            }
        });
    }
    fn source(&self) -> Option<Source> {
        Some(Source { id: self.source, len: SOURCE, byte: source_byte })
    }
}

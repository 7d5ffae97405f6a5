//! What making a memory manager takes of the stack of whoever makes it: a kernel's is small.

use anonmem::{Config, Vm};
use anonmem_hal::CpuId;
use anonmem_hosted::{Checked, Hosted};
use corosensei::{
    Coroutine, CoroutineResult,
    stack::{DefaultStack, Stack as _},
};

type M = Hosted<Checked>;

const STACK: usize = 4 << 20;
const GUARD: usize = 4096;
const PAINT: u64 = 0x5AFE_57AC_5AFE_57AC;

/// The bytes of a stack that `f` writes.
fn used(f: impl FnOnce() + 'static) -> usize {
    let stack = DefaultStack::new(STACK).unwrap();
    let (end, base) = (stack.limit().get() + GUARD, stack.base().get());
    for word in (end..base).step_by(8) {
        // SAFETY: the word lies in the stack above its guard, and nobody runs on the stack.
        unsafe { (word as *mut u64).write_volatile(PAINT) };
    }
    let mut coroutine = Coroutine::<(), (), (), _>::with_stack(stack, move |_, ()| f());
    assert!(matches!(coroutine.resume(()), CoroutineResult::Return(())));
    let _stack = coroutine.into_stack();
    // SAFETY: as above; all words are written.
    let is_painted = |word: &usize| unsafe { (*word as *const u64).read_volatile() } == PAINT;
    let untouched = (end..base).step_by(8).take_while(is_painted).count() * 8;
    base - end - untouched
}

#[test]
fn a_memory_manager_is_made_in_place_whatever_its_size() {
    let machine = M::new(256);
    let slot: &'static mut _ = Box::leak(Box::new_uninit());
    let address = slot.as_ptr();
    let in_place = used(move || {
        let vm: &Vm<M> = Vm::init(slot, machine, Config::default()).unwrap();
        assert_eq!((std::ptr::from_ref(vm), vm.stats().frames), (address, 256));
        let _cpu = vm.machine().cpus().enter(CpuId(0));
        vm.validate().unwrap();
    });
    // SAFETY: the value was made in the box, and nobody refers to it any more.
    drop(unsafe { Box::from_raw(address.cast_mut()) });
    let machine = M::new(256);
    let by_value = used(|| drop(Vm::new(machine, Config::default()).unwrap()));
    let size = size_of::<Vm<M>>();
    println!(
        "a Vm for 64 CPUs has {size} bytes; made in place it takes {in_place} of the stack, else {by_value}"
    );
    assert!(in_place < 8 << 10, "{in_place} bytes of the stack, to make a value of {size} in place");
    assert!(by_value < 2 * size + (8 << 10), "{by_value} bytes of the stack, to make a value of {size}");
}

//! Frames for the peer's page tables and pages: from our world, by its allocator.
//!
//! The peer's handler has functions and no value, as a kernel has one memory. Which world it takes frames
//! from is a matter of the thread, while a [`Lent`] lives.

use crate::ours::World;
use anonmem_hal::{Order, PAGE_SIZE, Pfn, PhysMem};
use memory_addr::{PhysAddr, VirtAddr};
use page_table_multiarch::PagingHandler;
use std::{cell::Cell, marker::PhantomData, ptr::NonNull};

thread_local! {
    static WORLD: Cell<Option<NonNull<World>>> = const { Cell::new(None) };
}

/// A world lends its frames to the peer on this thread.
pub struct Lent<'w>(PhantomData<(&'w World, *const ())>);

impl<'w> Lent<'w> {
    /// Lends `world`'s.
    ///
    /// # Panics
    /// If another world does already.
    pub fn by(world: &'w World) -> Self {
        let before = WORLD.replace(Some(NonNull::from(world)));
        assert!(before.is_none(), "one world at a time lends its frames");
        Self(PhantomData)
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        WORLD.set(None);
    }
}

#[inline]
fn with<R>(f: impl FnOnce(&World) -> R) -> R {
    let world = WORLD.get().expect("no world lends its frames");
    // SAFETY: `Lent` borrows the world and takes the pointer away when it drops.
    f(unsafe { world.as_ref() })
}

/// A frame with zeroes.
#[inline]
pub fn alloc_zeroed() -> Option<PhysAddr> {
    with(|world| {
        let pfn = world.vm.frames().alloc_kernel(Order::ZERO).ok()?.into_pfn();
        // SAFETY: the frame was just taken from the pool.
        unsafe { world.vm.machine().zero(pfn, Order::ZERO) };
        Some(address(pfn))
    })
}

fn address(pfn: Pfn) -> PhysAddr {
    PhysAddr::from(pfn.0 as usize * PAGE_SIZE)
}

fn frame(at: PhysAddr) -> Pfn {
    Pfn((at.as_usize() / PAGE_SIZE) as u64)
}

/// What `page_table_multiarch` asks an operating system for.
pub struct Handler;

impl PagingHandler for Handler {
    #[inline]
    fn alloc_frames(num: usize, _align: usize) -> Option<PhysAddr> {
        // Nothing here asks for more than a frame.
        if num != 1 {
            return None;
        }
        with(|world| Some(address(world.vm.frames().alloc_kernel(Order::ZERO).ok()?.into_pfn())))
    }

    #[inline]
    fn dealloc_frames(at: PhysAddr, _num: usize) {
        // SAFETY: the peer gives back what `alloc_frames` gave it, once.
        with(|world| drop(unsafe { world.vm.frames().kernel_frames(frame(at), Order::ZERO) }));
    }

    #[inline]
    fn phys_to_virt(at: PhysAddr) -> VirtAddr {
        with(|world| VirtAddr::from_mut_ptr_of(world.vm.machine().direct_map(frame(at)).as_ptr()))
    }
}

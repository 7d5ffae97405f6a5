//! Swap devices.
//!
//! A device is a number that the machine's `SwapIo` understands, a priority, and an array of slots. Whoever works on a slot
//! without owning a count of it (a fault that has only read an entry) holds a user count of the device, so that
//! swapoff waits for it.
//!
//! | `users` | meaning |
//! |---|---|
//! | 0 | no device, or one that is going away: its entries are no longer in any page table |
//! | n | n - 1 faults are at work |
//!
//! Linux: mm/swapfile.c `swapon`, `get_swap_device`, `try_to_unuse`.

use crate::{
    Error,
    fault::{FaultAccess, FaultResult, VmFault, handle_mm_fault},
    mm::Mm,
    vm::Vm,
};
use anonmem_frame::{FrameArray, SwapSlots};
use anonmem_hal::{Arch, FrameAlloc, Machine, Order, Pfn, Pte, SoftLeaf, SwapEntry, Va, VaRange};
use anonmem_sync::{Atomic, Ordering, PerCpu, Spin, WaitQueue, order::SwapDevice as SwapDeviceLevel};

/// The most devices at once.
pub(crate) const MAX_DEVICES: usize = 8;
/// Slots of a cluster: a CPU allocates from one at a time.
pub(crate) const CLUSTER: u64 = 256;

/// One device's place.
pub(crate) struct SwapDevice<M: Machine> {
    users: Atomic<u32, M>,
    idle: WaitQueue<M>,
    /// 0: there is no device; 1: slots may be allocated; 2: it comes or goes.
    pub(super) open: Atomic<u32, M>,
    priority: Atomic<i32, M>,
    pub(super) slots: SwapSlots<M>,
    pub(super) nr_free: Atomic<i64, M>,
    /// Free slots of each cluster, as far as is known.
    pub(super) cluster_free: FrameArray<M>,
    /// The cluster that the search for one with free slots starts at.
    pub(super) next_cluster: Spin<M, SwapDeviceLevel, u64>,
    /// Each CPU's next slot to try, plus one; 0 if it has no cluster.
    pub(super) cursor: PerCpu<Atomic<u64, M>, M>,
}

/// All devices of a `Vm`.
pub(crate) struct SwapDevices<M: Machine> {
    pub(super) devices: [SwapDevice<M>; MAX_DEVICES],
}

/// What there is to know of a device. Linux: /proc/swaps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SwapInfo {
    /// Its number.
    pub device: u8,
    /// Its size in pages.
    pub pages: u64,
    /// Pages in use.
    pub used: u64,
    /// Devices of higher priority fill first.
    pub priority: i32,
}

impl<M: Machine> SwapDevices<M> {
    pub(crate) fn new() -> Self {
        Self {
            devices: core::array::from_fn(|number| SwapDevice {
                users: Atomic::new(0),
                idle: WaitQueue::new(),
                open: Atomic::new(0),
                priority: Atomic::new(0),
                slots: SwapSlots::new(number as u8),
                nr_free: Atomic::new(0),
                cluster_free: FrameArray::new(),
                next_cluster: Spin::new(0),
                cursor: PerCpu::new(|_| Atomic::new(0)),
            }),
        }
    }

    /// Whether there is a device to swap to.
    pub(crate) fn any_open(&self) -> bool {
        self.devices.iter().any(|d| d.open.peek() == 1)
    }

    /// Number, slots and free slots of each device, for `validate`.
    pub(crate) fn slots_in_use(&self) -> impl Iterator<Item = (u8, &SwapSlots<M>, u64)> {
        let on = self.devices.iter().zip(0..).filter(|(place, _)| place.is_on());
        on.map(|(place, device)| (device, &place.slots, place.nr_free.peek() as u64))
    }

    pub(crate) fn get(&self, entry: SwapEntry) -> &SwapDevice<M> {
        &self.devices[usize::from(entry.device)]
    }
}

/// Keeps a device from going away.
pub(crate) struct DeviceUser<'a, M: Machine>(&'a SwapDevice<M>);

impl<M: Machine> Drop for DeviceUser<'_, M> {
    fn drop(&mut self) {
        // Release: what we did with its slots comes before its end.
        if self.0.users.fetch_sub(1, Ordering::Release) == 1 {
            self.0.idle.wake_all();
        }
    }
}

impl<M: Machine> SwapDevice<M> {
    /// Keeps the device from going away, if it is not gone already.
    #[doc(alias = "get_swap_device")]
    pub(crate) fn get_user(&self) -> Option<DeviceUser<'_, M>> {
        // Acquire pairs with the Release of `swapon`.
        self.users.fetch_update(Ordering::Acquire, |n| (n != 0).then(|| n + 1)).ok()?;
        Some(DeviceUser(self))
    }

    pub(crate) fn slots(&self) -> &SwapSlots<M> {
        &self.slots
    }

    /// Whether pages may go there: not while swapoff brings back those that did.
    pub(crate) fn is_open(&self) -> bool {
        self.open.load(Ordering::Relaxed) == 1
    }

    pub(super) fn priority(&self) -> i32 {
        self.priority.load(Ordering::Relaxed)
    }

    pub(crate) fn is_on(&self) -> bool {
        self.users.peek() != 0
    }

    fn used(&self) -> u64 {
        // Acquire pairs with the Release of whoever frees a slot: he is done with it.
        self.slots.len() - self.nr_free.load(Ordering::Acquire).max(0) as u64
    }
}

impl<M: Machine> FrameAlloc for Vm<M> {
    fn alloc_frame(&self) -> Option<Pfn> {
        self.frames.alloc_kernel(Order::ZERO).ok()
    }

    fn free_frame(&self, pfn: Pfn) {
        self.frames.free_kernel(pfn, Order::ZERO);
    }
}

impl<M: Machine> Vm<M> {
    /// Starts swapping to `device` of the machine, which has `pages` pages.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the number is 8 or more, the size 0 or too large, or the device in use;
    /// [`Error::OutOfMemory`].
    #[doc(alias = "swapon")]
    pub fn swap_on(&self, device: u8, pages: u64, priority: i32) -> Result<(), Error> {
        let place = self.swap.devices.get(usize::from(device));
        let place = place.ok_or(Error::Invalid("a swap device has a number below 8"))?;
        if pages == 0 || pages > FrameArray::<M>::MAX_LEN {
            return Err(Error::Invalid("a swap device has between 1 and 2^27 pages"));
        }
        // Taken by whoever makes it 2; `users` stays 0 until it is complete. Acquire pairs with the
        // release of whoever gave the place back.
        if place.is_on() || place.open.compare_exchange(0, 2, Ordering::Acquire).is_err() {
            return Err(Error::Invalid("the swap device is in use"));
        }
        let made = place.cluster_free.alloc(&self.frames, pages.div_ceil(CLUSTER)).and_then(|()| {
            place.slots.alloc(&self.frames, pages).inspect_err(|_| place.cluster_free.free(&self.frames))
        });
        if let Err(e) = made {
            // Release pairs with the Acquire of the next one who takes the place: it finds it empty.
            place.open.store(0, Ordering::Release);
            return Err(e.into());
        }
        for cluster in 0..pages.div_ceil(CLUSTER) {
            let free = (pages - cluster * CLUSTER).min(CLUSTER);
            place.cluster_free.get(&self.frames, cluster).store(free, Ordering::Relaxed);
        }
        place.nr_free.store(pages as i64, Ordering::Relaxed);
        place.priority.store(priority, Ordering::Relaxed);
        *place.next_cluster.lock() = 0;
        // Release pairs with the Acquire of `get_user`: the slots are there.
        place.users.store(1, Ordering::Release);
        place.open.store(1, Ordering::Release);
        Ok(())
    }

    /// Stops swapping to `device`: brings everything back that is on it, while faults go on.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it is not in use, [`Error::OutOfMemory`] if what is on it does not fit into memory: the
    /// device goes on being used. A page that cannot be read is lost; whoever accesses it gets a SIGBUS.
    #[doc(alias = "swapoff")]
    pub fn swap_off(&self, device: u8) -> Result<(), Error> {
        let place = self.swap.devices.get(usize::from(device)).filter(|place| place.is_on());
        let place = place.ok_or(Error::Invalid("the swap device is not in use"))?;
        // Acquire pairs with the release that opened it: all of the device is seen.
        if place.open.compare_exchange(1, 2, Ordering::Acquire).is_err() {
            return Err(Error::Invalid("the swap device is being taken out of use already"));
        }
        for cpu in place.cursor.iter() {
            cpu.store(0, Ordering::Relaxed);
        }
        loop {
            if let Err(e) = self.try_to_unuse(device) {
                // Release pairs with the Acquire of whoever looks for an open device.
                place.open.store(1, Ordering::Release);
                return Err(e);
            }
            // Acquire pairs with the Release of the users' drops.
            place.users.fetch_sub(1, Ordering::AcqRel);
            place.idle.wait_until(&|| place.users.load(Ordering::Acquire) == 0);
            // Without users none can come; but one that found the device open may have claimed a slot since we looked.
            if place.used() == 0 {
                break;
            }
            // Release pairs with the Acquire of `get_user`.
            place.users.store(1, Ordering::Release);
        }
        place.slots.free(&self.frames);
        place.cluster_free.free(&self.frames);
        place.open.store(0, Ordering::Release);
        Ok(())
    }

    /// The devices in use.
    pub fn swap_devices(&self) -> impl Iterator<Item = SwapInfo> {
        self.swap.devices.iter().zip(0..).filter(|(place, _)| place.is_on()).map(|(place, device)| SwapInfo {
            device,
            pages: place.slots.len(),
            used: place.used(),
            priority: place.priority(),
        })
    }

    /// Brings back all pages of a device that no longer allocates.
    fn try_to_unuse(&self, device: u8) -> Result<(), Error> {
        let place = &self.swap.devices[usize::from(device)];
        while place.used() > 0 {
            let mut result = Ok(());
            self.mms.for_each_live(&self.frames, |id, _| {
                if result.is_ok()
                    && let Some(mm) = self.try_user(id)
                {
                    result = mm.unuse(device);
                }
            });
            result?;
            if place.used() > 0 {
                // Entries that were on their way from one table to another (fork, mremap) are met next time.
                M::yield_now();
            }
        }
        Ok(())
    }
}

impl<M: Machine> Mm<'_, M> {
    /// Brings back this address space's pages of `device`.
    #[doc(alias = "unuse_mm")]
    fn unuse(&self, device: u8) -> Result<(), Error> {
        let (vm, slot) = (self.vm, self.slot());
        let guard = slot.read();
        let mut vmas = slot.tree.cursor(VaRange { start: Va(0), end: M::Arch::USER_END });
        while let Some((range, id)) = vmas.next(&slot.tree, vm.nodes()) {
            for (table, part) in slot.space.tables(&vm.frames, &guard, range) {
                for va in part.iter_pages() {
                    let Pte::Soft(SoftLeaf::Swap { entry, .. }) = table.peek(va) else { continue };
                    if entry.device != device {
                        continue;
                    }
                    let fault = VmFault::new(vm, slot, &guard, id, va, FaultAccess::Read);
                    match handle_mm_fault(&fault) {
                        FaultResult::Oom => return Err(Error::OutOfMemory),
                        FaultResult::Bus => fault.poison(entry),
                        FaultResult::Done
                        | FaultResult::Reload
                        | FaultResult::Refused(_)
                        | FaultResult::Segv => {}
                    }
                }
            }
        }
        Ok(())
    }
}

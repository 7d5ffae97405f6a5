//! Taking a swap device out of use: all that is on it comes back, while faults go on.
//!
//! Linux: mm/swapfile.c `swapoff`, `try_to_unuse`.

use crate::{
    error::Error,
    fault::{
        handle_mm_fault,
        vm_fault::{FaultAccess, FaultResult, VmFault, Waits},
    },
    freeing::free_slots,
    mm::Mm,
    rmap::machine::Machine,
    swap::device::DeviceState,
    vm::Vm,
};
use anonmem_hal::{Arch, Pte, SoftLeaf, Va, VaRange};
use anonmem_pgtable::Walked;
use anonmem_sync::{Ordering, yield_now};

impl<M: Machine> Vm<M> {
    /// Stops swapping to `device`: brings everything back that is on it, while faults go on.
    ///
    /// ```
    /// # use anonmem::*;
    /// # use anonmem_testkit::Program;
    /// # anonmem_testkit::example(|vm, mm| {
    /// let start = mm.mmap(MmapRequest::anonymous(4 * 4096, Prot::READ | Prot::WRITE))?;
    /// mm.store(start, 7)?;
    /// mm.madvise(start, 4096, Advice::PageOut)?;
    /// assert_eq!(mm.counters().swap.0, 1);
    /// vm.swap_off(0)?;
    /// assert_eq!(mm.counters().swap.0, 0);
    /// assert_eq!(mm.load(start)?, 7);
    /// # Ok(())
    /// # });
    /// ```
    ///
    /// # Errors
    /// [`Error::Invalid`] if it is not in use, [`Error::OutOfMemory`] if what is on it does not fit into
    /// memory: the device goes on being used. A page that cannot be read is lost; whoever accesses it gets a
    /// SIGBUS.
    #[doc(alias = "swapoff")]
    pub fn swap_off(&self, device: u8) -> Result<(), Error> {
        let place = self.swap.devices.get(usize::from(device)).filter(|place| place.is_on());
        let place = place.ok_or(Error::Invalid("the swap device is not in use"))?;
        // Acquire pairs with the release that opened it: all of the device is seen.
        if place.state.compare_exchange(DeviceState::Open, DeviceState::Leaving, Ordering::Acquire).is_err() {
            return Err(Error::Invalid("the swap device is being taken out of use already"));
        }
        self.swap.forget_clusters(place);
        loop {
            if let Err(e) = self.try_to_unuse(device) {
                // Release pairs with the Acquire of whoever looks for an open device.
                place.state.store(DeviceState::Open, Ordering::Release);
                return Err(e);
            }
            self.swap.turn_users_away(&self.rcu, place);
            // Without users none can come; but one that found the device open may have claimed a slot since
            // we looked.
            if self.swap.still_used(place) == 0 {
                break;
            }
            // Release pairs with the Acquire of `get_user`.
            place.state.store(DeviceState::Leaving, Ordering::Release);
        }
        free_slots(&self.frames, &place.slots, &place.cluster_free);
        place.state.store(DeviceState::Absent, Ordering::Release);
        Ok(())
    }

    /// Brings back all pages of a device that no longer allocates.
    fn try_to_unuse(&self, device: u8) -> Result<(), Error> {
        let place = &self.swap.devices[usize::from(device)];
        while self.swap.still_used(place) > 0 {
            let mut result = Ok(());
            self.mms.for_each_live(&self.frames, |id, _| {
                if result.is_ok()
                    && let Some(mm) = self.try_user(id)
                {
                    result = mm.unuse(device);
                }
            });
            result?;
            self.unuse_objects(device)?;
            if self.swap.still_used(place) > 0 {
                // Entries that were on their way from one table to another (fork, mremap) are met next time.
                yield_now::<M>();
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
        let guard = self.read();
        let mut vmas = slot.tree.cursor(VaRange { start: Va(0), end: M::Arch::USER_END });
        while let Some((range, id)) = vmas.next(&slot.tree, vm.nodes()) {
            for (found, part) in slot.space.parts(&vm.frames, &guard, range) {
                // Nothing of a leaf is in swap.
                let Walked::Table(table) = found else { continue };
                for va in part.iter_pages() {
                    let Pte::Soft(SoftLeaf::Swap { entry, .. }) = table.peek(va) else { continue };
                    if entry.device != device {
                        continue;
                    }
                    let fault = VmFault::new(vm, slot, &guard, id, va, FaultAccess::Read, Waits::Never);
                    match handle_mm_fault(&fault) {
                        FaultResult::Oom => return Err(Error::OutOfMemory),
                        FaultResult::NodesFull(nodes) => return Err(Error::NodesFull(nodes)),
                        FaultResult::Bus => fault.poison(entry),
                        FaultResult::Done
                        | FaultResult::Reload
                        | FaultResult::Refused(_)
                        | FaultResult::Userfault(_)
                        | FaultResult::Segv
                        | FaultResult::Lost => {}
                    }
                }
            }
        }
        Ok(())
    }
}

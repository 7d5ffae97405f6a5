//! Taking a swap device into use.
//!
//! Linux: mm/swapfile.c `swapon`.

use super::device::{ClusterWords as _, DeviceState};
use crate::{error::Error, freeing::free_slots, objects::Objects};
use anonmem_frame::FrameArray;
use anonmem_hal::Machine;
use anonmem_sync::Ordering;

impl<M: Machine> Objects<M> {
    /// Starts swapping to `device` of the machine, which has `pages` pages.
    ///
    /// ```
    /// # use anonmem::*;
    /// # anonmem_testkit::example(|vm, _| {
    /// vm.swap_on(1, 64, 5)?;
    /// assert_eq!(vm.swap_devices().map(|device| device.pages).collect::<Vec<_>>(), [64, 64]);
    /// # Ok(())
    /// # });
    /// ```
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
        // Whoever makes it `Changing` has the place, which gets no user until the device is complete. Acquire
        // pairs with the release of whoever gave the place back.
        let (absent, changing) = (DeviceState::Absent, DeviceState::Changing);
        if place.state.compare_exchange(absent, changing, Ordering::Acquire).is_err() {
            return Err(Error::Invalid("the swap device is in use"));
        }
        let clusters = place.cluster_free.alloc_clusters(&self.frames, pages);
        let made = clusters.and_then(|()| place.slots.alloc(&self.frames, pages));
        if let Err(e) = made {
            free_slots(&self.frames, &place.slots, &place.cluster_free);
            // Release pairs with the Acquire of the next one who takes the place: it finds it empty.
            place.state.store(DeviceState::Absent, Ordering::Release);
            return Err(e.into());
        }
        self.swap.forget_counts(place);
        place.priority.store(priority, Ordering::Relaxed);
        *place.next_cluster.lock() = 0;
        place.run_cursor.store(0, Ordering::Relaxed);
        // Release pairs with the Acquire of `get_user`: the slots are there.
        place.state.store(DeviceState::Open, Ordering::Release);
        Ok(())
    }
}

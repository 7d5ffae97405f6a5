//! Swap devices.
//!
//! A device is a number that the machine's `SwapIo` understands, a priority, and an array of slots. A fault
//! that has only read an entry works on a slot without owning a count of the slot. It is a user of the
//! device, so that swapoff waits for it.
//!
//! Users are counted on the words of their CPUs, in a read section in which the state said that there is a
//! device. Swapoff changes the state, waits for a grace period, and adds the words up until the sum is 0.
//!
//! Linux: mm/swapfile.c `swapon`, `get_swap_device`, `try_to_unuse`; lib/percpu-refcount.c.

use anonmem_frame::{FrameArray, Frames, OutOfMemory, SwapSlots};
use anonmem_hal::{Machine, SwapEntry};
use anonmem_sync::{
    Atomic, AtomicState, Ordering, PerCpu, Rcu, Spin, WaitQueue, init_fields,
    order::SwapDevice as SwapDeviceLevel, states,
};
use core::mem::MaybeUninit;

/// The most devices at once.
pub(crate) const MAX_DEVICES: usize = 8;
/// Slots of a cluster: a CPU allocates from one at a time, and a folio's run lies in one.
pub(crate) const CLUSTER: u64 = 512;

states! {
    /// What is in a device's place.
    pub(crate) enum DeviceState {
        /// No device.
        Absent,
        /// A device whose slots may be allocated.
        Open,
        /// A device that swapoff empties: whoever made it so alone may change the state.
        Leaving,
        /// One that comes or goes, and gets no user: as above.
        Changing,
    }
}

/// One device's place.
pub(crate) struct SwapDevice<M: Machine> {
    /// Whoever waits until there is no user.
    pub(crate) idle: WaitQueue<M>,
    pub(crate) state: AtomicState<DeviceState, M>,
    pub(crate) priority: Atomic<i32, M>,
    pub(crate) slots: SwapSlots<M>,
    /// Free slots of each cluster, as far as is known: a cache line for each ([`ClusterWords`]).
    pub(crate) cluster_free: FrameArray<M>,
    /// The cluster that the search for one with free slots starts at.
    pub(crate) next_cluster: Spin<M, SwapDeviceLevel, u64>,
    /// The cluster that the search for a run of slots starts at.
    pub(crate) run_cursor: Atomic<u64, M>,
    number: u8,
}

/// All devices of a `Vm`.
pub(crate) struct SwapDevices<M: Machine> {
    pub(crate) devices: [SwapDevice<M>; MAX_DEVICES],
    cpus: PerCpu<[CpuDevice<M>; MAX_DEVICES], M>,
}

/// What a CPU has of a device. The counts wrap around, as their sum does: it is small all the same.
pub(crate) struct CpuDevice<M> {
    /// The next slot to try, plus one; 0 if there is no cluster.
    cursor: Atomic<u64, M>,
    /// Slots that were freed here, less those that were taken.
    freed: Atomic<i32, M>,
    /// Users that began here, less those that ended here.
    users: Atomic<i32, M>,
}

impl<M: Machine> CpuDevice<M> {
    const fn new() -> Self {
        Self { cursor: Atomic::new(0), freed: Atomic::new(0), users: Atomic::new(0) }
    }
}

/// The sum of words that may have wrapped around. A device has 2^27 slots at most, so the sum has not.
fn sum(words: impl Iterator<Item = i32>) -> i64 {
    words.fold(0i32, i32::wrapping_add).into()
}

/// Words of a cache line.
const LINE: u64 = 8;

/// The counts of free slots, by cluster.
pub(crate) trait ClusterWords<M: Machine> {
    /// Makes them for a device of `pages` pages, all of them free.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    fn alloc_clusters(&self, frames: &Frames<M>, pages: u64) -> Result<(), OutOfMemory>;

    /// The count of `cluster`.
    fn cluster<'f>(&'f self, frames: &'f Frames<M>, cluster: u64) -> &'f Atomic<u64, M>;
}

impl<M: Machine> ClusterWords<M> for FrameArray<M> {
    fn alloc_clusters(&self, frames: &Frames<M>, pages: u64) -> Result<(), OutOfMemory> {
        let clusters = pages.div_ceil(CLUSTER);
        self.alloc(frames, clusters * LINE)?;
        for cluster in 0..clusters {
            let free = (pages - cluster * CLUSTER).min(CLUSTER);
            self.cluster(frames, cluster).store(free, Ordering::Relaxed);
        }
        Ok(())
    }

    fn cluster<'f>(&'f self, frames: &'f Frames<M>, cluster: u64) -> &'f Atomic<u64, M> {
        self.get(frames, cluster * LINE)
    }
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
    pub(crate) fn init(slot: &mut MaybeUninit<Self>) -> &mut Self {
        init_fields!(slot, {
            devices: core::array::from_fn(|number| SwapDevice {
                idle: WaitQueue::new(),
                state: AtomicState::new(),
                priority: Atomic::new(0),
                slots: SwapSlots::new(number as u8),
                cluster_free: FrameArray::new(),
                next_cluster: Spin::new(0),
                run_cursor: Atomic::new(0),
                number: number as u8,
            }),
            cpus <- |cpus| PerCpu::init(cpus, |_| [const { CpuDevice::new() }; MAX_DEVICES]),
        })
    }

    /// This CPU's place on a device: its next slot to try, plus one; 0 if it has no cluster.
    pub(crate) fn cursor(&self, device: &SwapDevice<M>) -> &Atomic<u64, M> {
        &self.this(device).cursor
    }

    fn this(&self, device: &SwapDevice<M>) -> &CpuDevice<M> {
        &self.cpus.this()[usize::from(device.number)]
    }

    fn each_cpu(&self, device: &SwapDevice<M>) -> impl Iterator<Item = &CpuDevice<M>> {
        let number = usize::from(device.number);
        self.cpus.iter().map(move |cpu| &cpu[number])
    }

    /// Takes every CPU's cluster of a device away.
    pub(crate) fn forget_clusters(&self, device: &SwapDevice<M>) {
        self.each_cpu(device).for_each(|cpu| cpu.cursor.store(0, Ordering::Relaxed));
    }

    /// Begins to count the slots of a device, all of which are free.
    pub(crate) fn forget_counts(&self, device: &SwapDevice<M>) {
        self.each_cpu(device).for_each(|cpu| cpu.freed.store(0, Ordering::Relaxed));
    }

    /// Counts slots that were freed, or taken if it is less than 0.
    pub(crate) fn count_free(&self, device: &SwapDevice<M>, slots: i64) {
        // Release pairs with the Acquire of `still_used`: swapoff frees the arrays only after we are done
        // with them.
        self.this(device).freed.fetch_add(slots as i32, Ordering::Release);
    }

    /// Slots in use: exact while none is taken.
    pub(crate) fn used(&self, device: &SwapDevice<M>) -> u64 {
        let freed = sum(self.each_cpu(device).map(|cpu| cpu.freed.load(Ordering::Relaxed)));
        (-freed).clamp(0, device.slots.len() as i64) as u64
    }

    /// The same for swapoff, which looks again and again. A load may go on telling it what was long ago; an
    /// addition has the last word.
    pub(crate) fn still_used(&self, device: &SwapDevice<M>) -> u64 {
        // Acquire pairs with the Release of whoever frees a slot: he is done with it.
        let freed = sum(self.each_cpu(device).map(|cpu| cpu.freed.fetch_add(0, Ordering::Acquire)));
        (-freed).clamp(0, device.slots.len() as i64) as u64
    }

    /// Whether there is a device to swap to.
    pub(crate) fn any_open(&self) -> bool {
        self.devices.iter().any(|d| d.state.peek() == DeviceState::Open)
    }

    /// Keeps a device from going away, if it is not gone already.
    #[doc(alias = "get_swap_device")]
    pub(crate) fn get_user<'a>(
        &'a self,
        rcu: &Rcu<M>,
        device: &'a SwapDevice<M>,
    ) -> Option<DeviceUser<'a, M>> {
        // Swapoff waits for the section before it looks for users: it sees this one, or this one sees it.
        let _section = rcu.read_lock();
        // Acquire pairs with the Release of `swapon`: the slots are there.
        match device.state.load(Ordering::Acquire) {
            DeviceState::Open | DeviceState::Leaving => {}
            DeviceState::Absent | DeviceState::Changing => return None,
        }
        self.this(device).users.fetch_add(1, Ordering::Relaxed);
        Some(DeviceUser { devices: self, device })
    }

    /// Turns new users of a device away, and waits until the last one is gone. The caller has made it leave.
    pub(crate) fn turn_users_away(&self, rcu: &Rcu<M>, device: &SwapDevice<M>) {
        device.state.store(DeviceState::Changing, Ordering::Relaxed);
        // Whoever did not see that is counted when this is over. From then on users only end. So a sum
        // over the CPUs, each asked at another moment, is never less than what is left.
        rcu.synchronize();
        device.idle.wait_until(&|| self.users(device) == 0);
    }

    fn users(&self, device: &SwapDevice<M>) -> i64 {
        // Acquire pairs with the Release of the users' drops: they are done with the slots.
        sum(self.each_cpu(device).map(|cpu| cpu.users.load(Ordering::Acquire)))
    }

    /// Number, slots and free slots of each device, for `validate`. None goes away meanwhile.
    pub(crate) fn slots_in_use<'a>(
        &'a self,
        rcu: &'a Rcu<M>,
    ) -> impl Iterator<Item = (u8, DeviceUser<'a, M>, u64)> {
        let on = self.devices.iter().zip(0..);
        on.filter_map(|(place, device)| Some((self.get_user(rcu, place)?, device))).map(|(user, device)| {
            let freed = sum(self.each_cpu(user.device).map(|cpu| cpu.freed.peek()));
            let free = user.slots().len().wrapping_add_signed(freed);
            (device, user, free)
        })
    }

    /// What there is to know of the devices in use.
    pub(crate) fn infos(&self) -> impl Iterator<Item = SwapInfo> {
        self.devices.iter().zip(0..).filter(|(place, _)| place.is_on()).map(|(place, device)| SwapInfo {
            device,
            pages: place.slots.len(),
            used: self.used(place),
            priority: place.priority(),
        })
    }

    pub(crate) fn get(&self, entry: SwapEntry) -> &SwapDevice<M> {
        &self.devices[usize::from(entry.device)]
    }
}

/// Keeps a device from going away.
pub(crate) struct DeviceUser<'a, M: Machine> {
    devices: &'a SwapDevices<M>,
    device: &'a SwapDevice<M>,
}

impl<M: Machine> DeviceUser<'_, M> {
    /// The device's slots.
    pub(crate) fn slots(&self) -> &SwapSlots<M> {
        &self.device.slots
    }
}

impl<M: Machine> Drop for DeviceUser<'_, M> {
    fn drop(&mut self) {
        // Release: what we did with its slots comes before its end. This CPU may be another than that of the
        // beginning.
        self.devices.this(self.device).users.fetch_sub(1, Ordering::Release);
        self.device.idle.wake_all();
    }
}

impl<M: Machine> SwapDevice<M> {
    pub(crate) fn slots(&self) -> &SwapSlots<M> {
        &self.slots
    }

    /// Whether pages may go there: not while swapoff brings back those that did.
    pub(crate) fn is_open(&self) -> bool {
        self.state.load(Ordering::Relaxed) == DeviceState::Open
    }

    pub(crate) fn priority(&self) -> i32 {
        self.priority.load(Ordering::Relaxed)
    }

    pub(crate) fn is_on(&self) -> bool {
        match self.state.peek() {
            DeviceState::Open | DeviceState::Leaving => true,
            DeviceState::Absent | DeviceState::Changing => false,
        }
    }
}

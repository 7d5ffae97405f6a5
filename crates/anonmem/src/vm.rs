//! The root value: a memory manager over one machine's frames.
//!
//! There is no global state: a test makes a [`Vm`], uses it, drops it, and what leaked shows. All address
//! spaces, VMAs, anon_vmas and frames belong to one `Vm` and are reached through it.

use crate::{
    config::Config,
    ksm::state::Ksm,
    objects::Objects,
    reclaim::state::{ClockHand, Kswapd},
    rmap::machine::Machine,
};
use anonmem_frame::{Field, FramesError, Place, fields};
use anonmem_sync::{WaitQueue, in_place, init_fields};
use core::{mem::MaybeUninit, ops::Deref};

/// A memory manager: the objects that it owns, and what reclaims them.
///
/// ```
/// use anonmem::{Config, Vm};
/// use anonmem_testkit::VecMachine;
///
/// let vm = Vm::new(VecMachine::new(256), Config::default())?;
/// assert_eq!((vm.stats().frames, vm.stats().mms), (256, 0));
/// # Ok::<(), anonmem::FramesError>(())
/// ```
///
/// A `Vm` derefs to its [`Objects`], so that an operation reads the same whichever of the two it was given.
pub struct Vm<M: Machine> {
    objects: Objects<M>,
    pub(crate) clock: ClockHand<M>,
    /// Those who wait for what reclaimers bring.
    pub(crate) reclaimers: WaitQueue<M>,
    pub(crate) kswapd: Kswapd<M>,
    pub(crate) ksm: Ksm<M>,
}

impl<M: Machine> Vm<M> {
    /// Takes over the memory of `machine`.
    ///
    /// The value is as large as the CPUs are many that the machine may have
    /// ([`Machine::Cpus`](anonmem_hal::Machine::Cpus)): 30 KiB for 8 of them, some 220 KiB for 64. On a small
    /// stack, use [`init`](Self::init).
    ///
    /// # Errors
    /// If there is no frame or too many ([`FramesError`]).
    pub fn new(machine: M, config: Config) -> Result<Self, FramesError> {
        in_place::value(|slot| Self::init(slot, machine, config))
    }

    /// Takes over the memory of `machine`, and makes the value where it is to stay: in a static, or in memory
    /// of the kernel's heap. This takes less than 8 KiB of the stack, however many CPUs there are.
    ///
    /// ```
    /// use anonmem::{Config, Vm};
    /// use anonmem_testkit::VecMachine;
    ///
    /// let slot = Box::leak(Box::new_uninit());
    /// let vm: &'static Vm<_> = Vm::init(slot, VecMachine::new(256), Config::default())?;
    /// # assert_eq!(vm.stats().frames, 256);
    /// # Ok::<(), anonmem::FramesError>(())
    /// ```
    ///
    /// # Errors
    /// As [`new`](Self::new): the slot is as it was.
    pub fn init(slot: &mut MaybeUninit<Self>, machine: M, config: Config) -> Result<&mut Self, FramesError> {
        Ok(init_fields!(slot, {
            objects => |objects| Objects::init(objects, machine, config),
            clock: ClockHand::new(),
            reclaimers: WaitQueue::new(),
            kswapd: Kswapd::new(),
            ksm: Ksm::new(),
        }))
    }

    const FIELDS: &'static [Field] = fields! {
        objects as _, clock, reclaimers, kswapd, ksm,
    };

    /// What `address` is, if it is in the memory manager or one of its objects: for displays.
    pub fn place_of(&self, address: usize) -> Option<Place> {
        self.objects.place_of(address).or_else(|| {
            let offset = address.wrapping_sub(core::ptr::from_ref(self).addr());
            (offset < size_of::<Self>()).then(|| Place::new("vm", None, Self::FIELDS, offset))
        })
    }
}

impl<M: Machine> Deref for Vm<M> {
    type Target = Objects<M>;
    #[inline(always)]
    fn deref(&self) -> &Objects<M> {
        &self.objects
    }
}

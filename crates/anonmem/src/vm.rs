//! The root value: a memory manager over one machine's frames.
//!
//! There is no global state: a test makes a [`Vm`], uses it, drops it, and what leaked shows. All address
//! spaces, VMAs, anon_vmas and frames belong to one `Vm` and are reached through it.

use crate::{
    config::Config,
    ksm::state::Ksm,
    objects::Objects,
    reclaim::state::{ClockHand, Kswapd, Reclaimers},
    rmap::machine::Machine,
};
use anonmem_frame::{Field, FramesError, Place, fields};
use core::ops::Deref;

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
    pub(crate) reclaimers: Reclaimers<M>,
    pub(crate) kswapd: Kswapd<M>,
    pub(crate) ksm: Ksm<M>,
}

impl<M: Machine> Vm<M> {
    /// Takes over the memory of `machine`.
    ///
    /// The value has about 3 KiB, and 4.3 KiB for each CPU that the machine may have ([`Machine::Cpus`]): 37
    /// KiB for 8, about 280 KiB for 64. A kernel whose stack is small makes it on its boot stack, or says how
    /// many CPUs it really has.
    ///
    /// # Errors
    /// If there is no frame or too many ([`FramesError`]).
    pub fn new(machine: M, config: Config) -> Result<Self, FramesError> {
        let objects = Objects::new(machine, config)?;
        Ok(Self {
            clock: ClockHand::new(),
            reclaimers: Reclaimers::new(),
            kswapd: Kswapd::new(),
            ksm: Ksm::new(),
            objects,
        })
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

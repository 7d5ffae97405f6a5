//! A machine as the memory manager needs it: with a reverse map that this crate has.

use crate::rmap::reverse_map::ReverseMap;

/// A machine whose [`ReverseMap`](anonmem_hal::Machine::ReverseMap) is one of those in
/// [`anonmem_hal::reverse_map`].
///
/// Nobody implements it: who implements [`anonmem_hal::Machine`], and names such a reverse map, has it.
#[expect(private_bounds, reason = "what a reverse map does is this crate's own")]
pub trait Machine: anonmem_hal::Machine<ReverseMap: ReverseMap<Self>> {}

impl<M: anonmem_hal::Machine<ReverseMap: ReverseMap<M>>> Machine for M {}

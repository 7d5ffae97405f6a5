//! Memory is short: pages that were not used lately leave.
//!
//! There are no LRU lists. Reclaim sweeps the array of frames like the hand of a clock (`laps.rs`). A folio
//! that was accessed since the hand came by last is marked used. One that was not accessed, twice in a row,
//! goes. The fault path therefore neither takes a lock nor touches a list for reclaim's sake, and folios need
//! no list links. The price is that the hand passes frames that it cannot use; 128 of them share a page of
//! metadata.
//!
//! Who reclaims: an allocation that finds no page ([`Vm::alloc_page`](crate::Vm)), and the background task
//! ([`Vm::kswapd`](crate::Vm::kswapd)). That task is woken below the low watermark and works up to the high
//! one. A page that may lie on certain nodes only has pages of those leave ([`placed`]).
//!
//! Linux: mm/vmscan.c `shrink_folio_list`, `kswapd`, `try_to_free_pages`. Differs: a clock instead of lists.

mod alloc;
mod kswapd;
mod laps;
pub(crate) mod placed;
mod shared;
pub(crate) mod shrink;
pub(crate) mod state;
mod untouched;
mod wait;
pub(crate) mod workingset;

/// Pages that leave together, and that one round of reclaim frees before it looks around.
pub(crate) const SWAP_CLUSTER_MAX: usize = 32;
